//! A snapshot as a folder of files.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bramble_model::names::Digest;
use bramble_model::snapshot::{Entry, SMALL, stand_in};
use bramble_system::{files, locked};

use super::mending::{Large, large};
use super::{Current, Snapshots};
use crate::error::{Error, is_full};

impl Snapshots {
    /// Lays a snapshot out in its folder, in place of whatever lies there, and removes the folders of others that are
    /// not current. Large files are links to the shelf's own: a snapshot costs no second copy of them. One that is not
    /// on the shelf, or damaged there, is left out, and whoever asks for it is told. Files that are as in the current one are links to its
    /// own: making hundreds of files takes a second where as many were just removed (ext4 passes over their inodes).
    ///
    /// # Errors
    /// When something cannot be written; the folder is as it was then.
    pub(super) fn lay_out(&self, next: &Current) -> Result<(), Error> {
        let mut laid_out = locked(&self.laid_out);
        let place = self.folder.join(next.digest.to_string());
        if laid_out.contains(&next.digest) && self.is_laid_out(next, &place) {
            return Ok(());
        }
        let failed = |source| not_laid_out(&self.folder, source);
        files::make_folder(&self.folder).map_err(failed)?;
        let making = self.folder.join(".making");
        files::remove_folder(&making).map_err(failed)?;
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
            let is_whole = |old: &PathBuf| match entry {
                Entry::File { digest, size, .. } if *size > SMALL => self.shelf.holds(old, digest, *size),
                _ => true,
            };
            if old.filter(is_whole).is_some_and(|old| fs::hard_link(old, &place).is_ok()) {
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
                files::remove_folder(&self.folder.join(name)).map_err(failed)?;
            }
        }
        files::put_folder(&making, &place).map_err(failed)?;
        laid_out.insert(next.digest);
        Ok(())
    }

    /// Whether all that can be had of a snapshot's large files lies at its place, and nothing damaged.
    fn is_laid_out(&self, next: &Current, place: &Path) -> bool {
        let is_there = |file: Large<'_>| {
            let laid = place.join(file.path);
            self.shelf.holds(&laid, file.digest, file.size)
                || !laid.exists() && !self.shelf.is_whole(file.digest, file.size)
        };
        place.exists() && large(&next.snapshot).all(is_there)
    }

    fn lay(&self, path: &Path, entry: &Entry) -> io::Result<()> {
        match entry {
            Entry::Folder => files::make_folder(path),
            Entry::Link { target } => files::make_link(target, path),
            Entry::Unread { why } => files::make_link(stand_in(why), path),
            Entry::File { digest, size, executable } if *size > SMALL => {
                if !self.shelf.is_whole(digest, *size) {
                    return Ok(());
                }
                let kept = self.shelf.file(digest);
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
