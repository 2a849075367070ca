//! A key in a variable of the machine's UEFI.
//!
//! The file system that shows variables lets everyone read them: it is mounted for a moment, in a folder that is root's
//! alone, and unmounted again; so is the one that systemd mounts for everyone. A variable is written once in a machine's life, in one write: the first four bytes are its attributes,
//! and a write of those alone deletes it (seen: OVMF, AAVMF).

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use bramble_system::files;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// There where the firmware is UEFI.
const FIRMWARE: &str = "/sys/firmware/efi";
/// Root's alone. What is mounted over a folder has another mode than that.
const FOLDER: &str = "/run/bramble/uefi";
const PLACE: &str = "/run/bramble/uefi/variables";
/// Where systemd mounts it at its start, whether anyone wants it or not.
const OF_SYSTEMD: &str = "/sys/firmware/efi/efivars";
/// The name, and the number that is bramble's own among vendors'.
const NAME: &str = "BrambleIdentity-6b1de70c-34b1-4ca6-8be2-5f1c7ab03a5e";
/// EFI_VARIABLE_NON_VOLATILE, BOOTSERVICE_ACCESS and RUNTIME_ACCESS (UEFI 2.10, section 8.2.1): without the first it is
/// refused, and without the last it is gone when the system runs.
const ATTRIBUTES: [u8; 4] = 7_u32.to_le_bytes();
/// Longest variable that is read. A board's store is often nearly full.
const LONGEST: u64 = 1024;

/// The mounted variables, until this is dropped.
struct Mounted;

impl Mounted {
    fn open() -> io::Result<Self> {
        files::make_secret_folder(Path::new(FOLDER))?;
        files::make_folder(Path::new(PLACE))?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("efivarfs", PLACE, "efivarfs", flags, None)?;
        Ok(Mounted)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = unmount(PLACE, UnmountFlags::DETACH) {
            tracing::error!(%error, "{PLACE} is still mounted: whoever is on this node can read its key");
        }
    }
}

/// The key that the machine has, or one that `make` makes; `None` where its firmware keeps none.
pub(super) fn key(make: impl FnOnce() -> Vec<u8>) -> Option<Vec<u8>> {
    if !Path::new(FIRMWARE).exists() {
        return None;
    }
    match unmount(OF_SYSTEMD, UnmountFlags::DETACH) {
        // Nothing is mounted there.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
        Err(error) => {
            tracing::error!(%error, "{OF_SYSTEMD} is still mounted: whoever is on this node can read its key")
        }
    }
    let kept = Mounted::open().and_then(|_mounted| kept(Path::new(PLACE), make));
    kept.inspect_err(|error| tracing::error!(%error, "the machine's UEFI keeps no key")).ok()
}

/// The same, of a folder of variables.
fn kept(folder: &Path, make: impl FnOnce() -> Vec<u8>) -> io::Result<Vec<u8>> {
    let path = folder.join(NAME);
    match read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        found => return found,
    }
    let key = make();
    write(&path, &key)?;
    match read(&path)? {
        read if read == key => Ok(key),
        _ => Err(io::Error::other("the variable is not what was written")),
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    if fs::metadata(path)?.len() > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the variable is too long to be bramble's"));
    }
    let bytes = fs::read(path)?;
    match bytes.split_at_checked(ATTRIBUTES.len()) {
        Some((_, key)) if !key.is_empty() => Ok(key.to_vec()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the variable is empty")),
    }
}

/// In one write, or it is deleted.
fn write(path: &Path, key: &[u8]) -> io::Result<()> {
    let whole = [ATTRIBUTES.as_slice(), key].concat();
    match OpenOptions::new().write(true).create_new(true).open(path)?.write(&whole)? {
        length if length == whole.len() => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::WriteZero, "the variable was written in part")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a folder that stands for the variables; `tests/identity.rs` has firmware.
    #[test]
    fn a_key_is_made_once_and_what_cannot_be_read_is_no_key() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let of = |byte: u8| kept(folder.path(), move || vec![byte; 138]);
        assert_eq!(of(1).expect("made"), [1; 138]);
        assert_eq!(of(2).expect("kept"), [1; 138]);
        let path = folder.path().join(NAME);
        assert_eq!(fs::read(&path).expect("there")[..4], ATTRIBUTES);
        for damaged in [ATTRIBUTES.to_vec(), vec![7], Vec::new(), vec![7; 2000]] {
            fs::write(&path, &damaged).expect("written");
            assert!(of(3).is_err(), "{} bytes", damaged.len());
            assert_eq!(fs::read(&path).expect("there"), damaged, "nothing is written over");
        }
    }
}
