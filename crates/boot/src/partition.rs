//! By what a partition is known: the unique GUID of its entry in a GUID partition table.

use std::fmt;
use std::str::FromStr;

/// What a set's manifest says that its stage 1 knows, where it mounts the data partition that the head names and no other
/// one. Older ones mount the first whose name is `bramble-data`, of whatever disk.
pub const OWN_DATA: &str = "own-data";

/// The unique GUID of a partition (UEFI 2.10, section 5.3.3, `UniquePartitionGUID`), as `lsblk -o PARTUUID` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId([u8; 16]);

/// Text that is no partition's GUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoPartitionId;

impl fmt::Display for NoPartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "expected a partition's GUID like 0fc63daf-8483-4772-8e79-3d69d8477de4, as `lsblk -o PARTUUID` shows it",
        )
    }
}

impl std::error::Error for NoPartitionId {}

/// Digits of each part of the text.
const PARTS: [usize; 5] = [8, 4, 4, 4, 12];

impl PartitionId {
    /// From an entry on a disk, where the first three parts lie the other way round (UEFI 2.10, appendix A). All zeros are
    /// nobody's.
    pub fn of_entry(entry: [u8; 16]) -> Option<Self> {
        let [a, b, c, d, e, f, g, h, ..] = entry;
        let mut bytes = entry;
        bytes[..8].copy_from_slice(&[d, c, b, a, f, e, h, g]);
        (bytes != [0; 16]).then_some(PartitionId(bytes))
    }
}

impl FromStr for PartitionId {
    type Err = NoPartitionId;

    fn from_str(text: &str) -> Result<Self, NoPartitionId> {
        let lengths = text.split('-').map(str::len);
        if !lengths.eq(PARTS) || !text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit()) {
            return Err(NoPartitionId);
        }
        let digits: String = text.chars().filter(|digit| *digit != '-').collect();
        let number = u128::from_str_radix(&digits, 16).map_err(|_| NoPartitionId)?;
        (number != 0).then_some(PartitionId(number.to_be_bytes())).ok_or(NoPartitionId)
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut rest = digits.as_str();
        for (index, length) in PARTS.into_iter().enumerate() {
            let (part, after) = rest.split_at(length);
            f.write_str(if index > 0 { "-" } else { "" })?;
            f.write_str(part)?;
            rest = after;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The type of a Linux partition, whose bytes on a disk the table of UEFI's types has.
    #[test]
    fn an_entry_reads_as_lsblk_shows_it() {
        let entry = [0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4];
        let id = PartitionId::of_entry(entry).expect("one");
        assert_eq!(id.to_string(), "0fc63daf-8483-4772-8e79-3d69d8477de4");
        assert_eq!("0FC63DAF-8483-4772-8E79-3D69D8477DE4".parse(), Ok(id));
        assert_eq!(PartitionId::of_entry([0; 16]), None);
    }

    #[test]
    fn what_is_no_guid_is_refused() {
        let zeros = "00000000-0000-0000-0000-000000000000";
        for wrong in ["", "bramble-data", "0fc63daf84834772-8e79-3d69d8477de4", "4321-01", zeros] {
            wrong.parse::<PartitionId>().expect_err(wrong);
        }
        format!("+{}", &zeros[1..]).parse::<PartitionId>().expect_err("a sign is no digit");
    }

    proptest! {
        #[test]
        fn it_survives_its_text(entry: [u8; 16]) {
            if let Some(id) = PartitionId::of_entry(entry) {
                prop_assert_eq!(id.to_string().parse(), Ok(id));
            }
        }

        #[test]
        fn no_text_makes_it_panic(text: String) {
            let _ = text.parse::<PartitionId>();
        }
    }
}
