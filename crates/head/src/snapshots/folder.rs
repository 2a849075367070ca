//! A snapshot as a folder of files.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bramble_model::names::Digest;
use bramble_model::snapshot::{Entry, SMALL, stand_in};
use bramble_system::files;
use rustix::fs::{CWD, RenameFlags};

use super::{Current, Snapshots};
use crate::error::{Error, is_full};

impl Snapshots {
    /// Lays a snapshot out in its folder, in place of whatever lies there, and removes the folders of others that are
    /// not current. Large files are links to the shelf's own: a snapshot costs no second copy of them. One that is not
    /// on the shelf is left out, and whoever asks for it is told. Files that are as in the current one are links to its
    /// own: making hundreds of files takes a second where as many were just removed (ext4 passes over their inodes).
    ///
    /// # Errors
    /// When something cannot be written; the folder is as it was then.
    pub(super) fn lay_out(&self, next: &Current) -> Result<(), Error> {
        let mut laid_out = self.laid_out.lock().expect("no panic while held");
        let place = self.folder.join(next.digest.to_string());
        if laid_out.contains(&next.digest) && place.exists() {
            return Ok(());
        }
        let failed = |source| not_laid_out(&self.folder, source);
        files::make_folder(&self.folder).map_err(failed)?;
        let making = self.folder.join(".making");
        remove(&making).map_err(failed)?;
        files::make_folder(&making).map_err(failed)?;
        let current = self.current();
        // A folder that this head did not lay out may be of before a power cut: nothing in it is relied on.
        let whole = current.as_deref().filter(|current| laid_out.contains(&current.digest));
        // A folder comes before what is in it: paths are sorted.
        for (path, entry) in &next.snapshot.entries {
            let place = making.join(path);
            let is_file = matches!(entry, Entry::File { .. });
            let same = whole.filter(|current| is_file && current.snapshot.entries.get(path) == Some(entry));
            let old = same.map(|current| self.folder.join(current.digest.to_string()).join(path));
            if old.is_some_and(|old| fs::hard_link(old, &place).is_ok()) {
                continue;
            }
            self.lay(&place, entry).map_err(|source| not_laid(&self.folder, place, source))?;
        }
        let stay: Vec<Digest> = current.iter().map(|current| current.digest).chain([next.digest]).collect();
        laid_out.retain(|digest| stay.contains(digest));
        for entry in fs::read_dir(&self.folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let stays = name == *".making" || stay.iter().any(|digest| name == *digest.to_string());
            if !stays {
                remove(&self.folder.join(name)).map_err(failed)?;
            }
        }
        put(&making, &place).map_err(failed)?;
        laid_out.insert(next.digest);
        Ok(())
    }

    fn lay(&self, path: &Path, entry: &Entry) -> io::Result<()> {
        match entry {
            Entry::Folder => files::make_folder(path),
            Entry::Link { target } => files::make_link(target, path),
            Entry::Unread { why } => files::make_link(stand_in(why), path),
            Entry::File { digest, size, executable } if *size > SMALL => {
                let kept = self.shelf.file(digest);
                if !kept.exists() {
                    return Ok(());
                }
                // A link has one mode for all its names: what is to be run is a copy.
                if !executable && fs::hard_link(&kept, path).is_ok() {
                    return Ok(());
                }
                write(path, &mut fs::File::open(&kept)?, *executable)
            }
            Entry::File { digest, executable, .. } => {
                let bytes = self.content(digest)?;
                write(path, &mut &bytes[..], *executable)
            }
        }
    }
}

fn not_laid_out(folder: &Path, source: io::Error) -> Error {
    Error::File { doing: "the snapshot cannot be laid out here", path: folder.to_owned(), source }
}

/// Of one file at its place. Where the disk is full, the file is of no account.
fn not_laid(folder: &Path, place: PathBuf, source: io::Error) -> Error {
    match is_full(&source) {
        true => not_laid_out(folder, source),
        false => Error::File { doing: "this file of the snapshot cannot be laid out", path: place, source },
    }
}

/// Makes a file, its folder's owner's.
fn write(path: &Path, content: &mut impl io::Read, executable: bool) -> io::Result<()> {
    let mut file = fs::File::create_new(path)?;
    io::copy(content, &mut file)?;
    file.set_permissions(fs::Permissions::from_mode(if executable { 0o755 } else { 0o644 }))?;
    files::give_to_owner_of(path.parent().unwrap_or(path), &file);
    Ok(())
}

/// Puts a folder at its place; what lies there is there until then, and is removed.
fn put(making: &Path, place: &Path) -> io::Result<()> {
    if !place.exists() {
        return fs::rename(making, place);
    }
    match rustix::fs::renameat_with(CWD, making, CWD, place, RenameFlags::EXCHANGE) {
        Ok(()) => remove(making),
        // A file system that cannot exchange two.
        Err(_) => remove(place).and_then(|()| fs::rename(making, place)),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_by_the_folder_and_any_other_trouble_by_the_file() {
        let told = |kind: io::ErrorKind| {
            let (folder, place) = (Path::new("/srv/snapshots"), PathBuf::from("/srv/snapshots/.making/bramble.toml"));
            not_laid(folder, place, kind.into())
        };
        for full in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
            let error = told(full);
            assert_eq!(error.to_string(), "/srv/snapshots: the snapshot cannot be laid out here");
            assert!(error.help().is_some_and(|help| help.contains("make room")), "{error}");
        }
        let error = told(io::ErrorKind::PermissionDenied);
        assert!(error.to_string().starts_with("/srv/snapshots/.making/bramble.toml: "), "{error}");
    }
}
