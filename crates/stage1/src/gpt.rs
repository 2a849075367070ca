//! GUID partition tables (UEFI 2.10, section 5.3), as far as telling one's own partition needs.
//!
//! Checksums are left to the kernel: whoever reads an entry here compares its place with the partition that the kernel made
//! of it.

use std::io::{self, Read, Seek, SeekFrom};

use bramble_boot::PartitionId;

/// What a header begins with.
const SIGNATURE: &[u8; 8] = b"EFI PART";
/// Bytes of a header that are read, and of an entry.
const HEADER: usize = 92;
const ENTRY: usize = 128;
/// No table that is read has longer entries or more of them: Linux itself reads 256 (block/partitions/core.c).
const LONGEST_ENTRY: u64 = 4096;
const MOST: u64 = 256;

/// A partition, as the table has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Counted from 1, as the kernel counts.
    pub number: u64,
    pub id: PartitionId,
    pub name: String,
    /// First block, and how many, in blocks of the disk.
    pub first: u64,
    pub blocks: u64,
}

/// What both tables of a disk say: the first one and the copy at its end, one of which may be damaged. `block` is the length
/// of a block in bytes, `blocks` how many there are. A disk with another table, or none, has no entries.
pub fn entries(disk: &mut (impl Read + Seek), block: u64, blocks: u64) -> io::Result<Vec<Entry>> {
    let first = table(disk, block, 1);
    let copy = blocks.checked_sub(1).filter(|last| *last > 1).map(|last| table(disk, block, last));
    match (first, copy) {
        (Ok(mut found), Some(Ok(copy))) => {
            found.extend(copy.into_iter().filter(|entry| !found.contains(entry)).collect::<Vec<_>>());
            Ok(found)
        }
        // A sector that cannot be read is one kind of damage.
        (Ok(found), _) | (Err(_), Some(Ok(found))) => Ok(found),
        (Err(error), _) => Err(error),
    }
}

fn table(disk: &mut (impl Read + Seek), block: u64, at: u64) -> io::Result<Vec<Entry>> {
    let Some(header) = read(disk, block.checked_mul(at), HEADER)? else { return Ok(Vec::new()) };
    let [begin, count, length] = [u64_at(&header, 72), u32_at(&header, 80), u32_at(&header, 84)];
    let is_table = header.starts_with(SIGNATURE) && (ENTRY as u64..=LONGEST_ENTRY).contains(&length);
    if !is_table {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for index in 0..count.min(MOST) {
        let place = begin.checked_mul(block).and_then(|begin| begin.checked_add(index * length));
        let Some(entry) = read(disk, place, ENTRY)? else { break };
        let [first, last] = [32, 40].map(|at| u64_at(&entry, at));
        let is_used = entry[..16] != [0; 16];
        let id = PartitionId::of_entry(entry[16..32].try_into().expect("16 bytes"));
        if let (true, Some(id), Some(more)) = (is_used, id, last.checked_sub(first)) {
            found.push(Entry {
                number: index + 1,
                id,
                name: name(&entry[56..]),
                first,
                blocks: more.saturating_add(1),
            });
        }
    }
    Ok(found)
}

/// So many bytes from there on; `None` past the end of the disk.
fn read(disk: &mut (impl Read + Seek), place: Option<u64>, length: usize) -> io::Result<Option<Vec<u8>>> {
    let Some(place) = place.filter(|place| i64::try_from(*place).is_ok()) else { return Ok(None) };
    disk.seek(SeekFrom::Start(place))?;
    let mut bytes = vec![0; length];
    match disk.read_exact(&mut bytes) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u64 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes")).into()
}

/// UTF-16, up to the first zero.
fn name(bytes: &[u8]) -> String {
    let units = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).take_while(|unit| *unit != 0);
    String::from_utf16_lossy(&units.collect::<Vec<u16>>())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs::{self, File};
    use std::io::{Cursor, Write};
    use std::path::Path;
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::*;

    const ID: &str = "0fc63daf-8483-4772-8e79-3d69d8477de4";

    /// Makes a disk of 8 MiB, with blocks of 512 bytes and these partitions, as sfdisk reads them.
    pub(crate) fn partition(disk: &Path, partitions: &str) {
        File::create(disk).and_then(|file| file.set_len(8 << 20)).expect("a disk");
        let mut sfdisk = Command::new("/usr/sbin/sfdisk");
        let mut sfdisk = sfdisk.arg("--quiet").arg(disk).stdin(Stdio::piped()).spawn().expect("sfdisk starts");
        let table = format!("label: gpt\n{partitions}");
        sfdisk.stdin.take().expect("a pipe").write_all(table.as_bytes()).expect("it reads");
        assert!(sfdisk.wait().expect("it ends").success());
    }

    fn disk() -> Vec<u8> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        partition(
            file.path(),
            &format!("start=1MiB, size=2MiB\nstart=3MiB, size=4MiB, uuid={ID}, name=bramble-data\n"),
        );
        fs::read(file.path()).expect("a disk")
    }

    /// The same one with blocks of 4096 bytes: sfdisk asks the disk how long they are, and a file has none.
    fn with_long_blocks(disk: &[u8]) -> Vec<u8> {
        const LONG: usize = 4096;
        let mut long = vec![0; disk.len()];
        let last = disk.len() / LONG - 1;
        for (header, block, table) in [(512, 1, 2), (disk.len() - 512, last, last - 4)] {
            let entries = usize::try_from(u64_at(&disk[header..], 72)).expect("small") * 512;
            long[block * LONG..][..HEADER].copy_from_slice(&disk[header..][..HEADER]);
            long[block * LONG + 72..][..8].copy_from_slice(&(table as u64).to_le_bytes());
            let place = &mut long[table * LONG..][..128 * ENTRY];
            place.copy_from_slice(&disk[entries..][..128 * ENTRY]);
            for entry in place.chunks_exact_mut(ENTRY).filter(|entry| entry[..16] != [0; 16]) {
                let [first, last] = [32, 40].map(|at| u64_at(entry, at));
                entry[32..40].copy_from_slice(&(first / 8).to_le_bytes());
                entry[40..48].copy_from_slice(&(last.div_ceil(8) - 1).to_le_bytes());
            }
        }
        long
    }

    fn found(bytes: &[u8], block: u64) -> Vec<Entry> {
        entries(&mut Cursor::new(bytes), block, bytes.len() as u64 / block).expect("memory is read")
    }

    #[test]
    fn what_sfdisk_wrote_is_read_from_either_table_and_with_either_length_of_blocks() {
        let short = disk();
        for (block, whole) in [(512, short.clone()), (4096, with_long_blocks(&short))] {
            let before = found(&whole, block);
            let expected = Entry {
                number: 2,
                id: ID.parse().expect("a GUID"),
                name: "bramble-data".into(),
                first: (3 << 20) / block,
                blocks: (4 << 20) / block,
            };
            assert_eq!((before.len(), &before[1]), (2, &expected));
            let end = whole.len();
            for header in [block as usize, end - block as usize] {
                let mut damaged = whole.clone();
                damaged[header..header + 8].fill(0);
                assert_eq!(found(&damaged, block), before, "the other one is there");
            }
        }
    }

    /// A disk whose block at this place cannot be read.
    struct Bad(Cursor<Vec<u8>>, u64);

    impl Read for Bad {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            if self.0.position() == self.1 { Err(io::Error::other("bad sector")) } else { self.0.read(into) }
        }
    }

    impl Seek for Bad {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.0.seek(to)
        }
    }

    #[test]
    fn a_sector_that_cannot_be_read_costs_one_table_and_not_the_disk() {
        let whole = disk();
        let blocks = whole.len() as u64 / 512;
        for bad in [512, (blocks - 1) * 512] {
            let read = entries(&mut Bad(Cursor::new(whole.clone()), bad), 512, blocks).expect("the other one");
            assert_eq!(read.len(), 2);
        }
    }

    #[test]
    fn a_disk_without_a_table_has_no_partitions() {
        for bytes in [vec![], vec![0; 100], vec![0xff; 1 << 20]] {
            assert_eq!(found(&bytes, 512), []);
        }
        entries(&mut File::open("/proc/self/mem").expect("there"), 512, 8)
            .expect_err("what cannot be read is an error");
    }

    proptest! {
        #[test]
        fn no_table_makes_it_panic_or_read_on_for_ever(
            header in prop::collection::vec(any::<u8>(), 84), entries in prop::collection::vec(any::<u8>(), 0..2000),
            block in prop::sample::select(vec![0_u64, 1, 512, 4096]), blocks: u64,
        ) {
            let mut bytes = vec![0; 512];
            bytes.extend(SIGNATURE);
            bytes.extend(header);
            bytes.extend(entries);
            let found = super::entries(&mut Cursor::new(&bytes), block, blocks).expect("memory is read");
            prop_assert!(found.len() as u64 <= 2 * MOST);
        }
    }
}
