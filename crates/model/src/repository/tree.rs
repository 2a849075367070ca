//! The files of a repository, wherever they are: in a folder, or in a snapshot that was read from one.

use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::root;
pub(crate) use super::root::Kind;

/// The longest file that is read and judged, in bytes: a `bramble.toml` of some thousand nodes.
pub(crate) const LONGEST: u64 = 1 << 20;

/// Files by their paths inside the repository.
pub trait Tree {
    /// What is there; `None` where nothing is.
    ///
    /// # Errors
    /// When that could not be seen.
    fn kind(&self, path: &Path) -> io::Result<Option<Kind>>;

    /// The content of a file.
    ///
    /// # Errors
    /// When it cannot be read; [`io::ErrorKind::FileTooLarge`] where it is longer than what is judged.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// The content of a file of text.
    ///
    /// # Errors
    /// As [`Tree::read`], and [`io::ErrorKind::InvalidData`] where it is not UTF-8.
    fn text(&self, path: &Path) -> io::Result<String> {
        self.read(path).and_then(utf8)
    }

    /// The files anywhere below a folder, sorted, by their paths inside the repository.
    fn files(&self, folder: &Path) -> Vec<PathBuf>;

    /// Names of what lies in a folder: for a near miss.
    fn names(&self, folder: &Path) -> Vec<String>;

    /// The permission bits of a file; `None` where it has none of its own, as in a snapshot, which keeps only whether it
    /// can be run.
    fn mode(&self, path: &Path) -> Option<u32>;
}

/// Reads a file that is judged, and never without end.
pub(crate) fn bounded(file: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

pub(crate) fn utf8(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// A repository as it lies in a folder now.
#[derive(Debug, Clone, Copy)]
pub struct Folder<'a>(pub &'a Path);

impl Tree for Folder<'_> {
    fn kind(&self, path: &Path) -> io::Result<Option<Kind>> {
        root::kind_in(self.0, path)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        bounded(std::fs::File::open(self.0.join(path))?)
    }

    fn files(&self, folder: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut open = vec![folder.to_owned()];
        while let Some(folder) = open.pop() {
            for entry in std::fs::read_dir(self.0.join(&folder)).into_iter().flatten().flatten() {
                let path = folder.join(entry.file_name());
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => open.push(path),
                    Ok(kind) if kind.is_file() => found.push(path),
                    _ => {}
                }
            }
        }
        found.sort();
        found
    }

    fn names(&self, folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.join(folder)).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    fn mode(&self, path: &Path) -> Option<u32> {
        Some(std::fs::symlink_metadata(self.0.join(path)).ok()?.permissions().mode() & 0o7777)
    }
}
