//! A folder as a cluster: one reading of its `bramble.toml` is judged, and names what is read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::reading::key_of;
use super::{Begun, Error, Snapshot};
use crate::names::Digest;
use crate::repository::{Cluster, FILE, Problems, written};

impl Error {
    /// Why there is no text of the `bramble.toml` at this path.
    fn of_text(&self, path: &Path) -> Problems {
        match self {
            Error::File { source, .. } => Problems::unread(path, source),
            other => Problems::without_text(path, other.to_string(), other.help().unwrap_or_default()),
        }
    }
}

impl Cluster {
    /// Reads and validates the repository in `root`, and reads the folder as a snapshot: what would stop that is a
    /// problem as well, and so is what is wrong with a workload's own files.
    ///
    /// # Errors
    /// All problems at once, each with its line. A repository with warnings only is returned,
    /// with the warnings in it.
    pub fn check(root: &Path) -> Result<Cluster, Problems> {
        Self::with_snapshot(root)?.0.well()
    }

    /// As [`Cluster::of_folder`], with the snapshot that the folder is, and where each content is now: both go by one
    /// reading of its `bramble.toml`.
    ///
    /// # Errors
    /// As [`Cluster::of`]; or what stops the snapshot, at the key that names it.
    pub fn with_snapshot(root: &Path) -> Result<(Cluster, Snapshot, BTreeMap<Digest, PathBuf>), Problems> {
        let path = root.join(FILE);
        let begun = Begun::of(root).map_err(|error| error.of_text(&path))?;
        let cluster = Self::parse(root, &path, begun.text())?;
        let error = match begun.read() {
            Ok((snapshot, contents)) => return Ok((cluster, snapshot, contents)),
            Err(error) => error,
        };
        let written = written::Repository::read(&path, begun.text())?;
        let key = error.path().and_then(|path| key_of(&written, path)).unwrap_or_default();
        let message = match std::error::Error::source(&error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        };
        Err(Problems::at(&path, begun.text(), &key, message, error.help()))
    }

    /// The text of the `bramble.toml` in `root`.
    ///
    /// # Errors
    /// When it is no plain file of that folder, longer than anyone writes, or cannot be read.
    pub fn text(root: &Path) -> Result<String, Problems> {
        let begun = Begun::of(root).map_err(|error| error.of_text(&root.join(FILE)))?;
        Ok(begun.text().to_owned())
    }

    /// As [`Cluster::of`], of a folder.
    ///
    /// # Errors
    /// As [`Cluster::of`].
    pub fn of_folder(root: &Path) -> Result<Cluster, Problems> {
        Self::parse(root, Path::new(FILE), &Self::text(root)?)
    }
}
