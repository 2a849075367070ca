//! A snapshot: everything that the repository says, read once. What each file contains goes by its digest, and the
//! whole by the digest of the list, so that two readings of the same repository are the same snapshot.
//!
//! ```text
//! bramble.toml ─▶ the files that it names ─▶ each is read once, and hashed ─▶ the list ─▶ its digest
//! ```
//! What belongs to one machine is not in it: secrets and backups lie beside the head.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::names::Digest;
use crate::repository::FILE;
use crate::repository::problem::{PLAIN, TOO_LONG};
use crate::repository::root::Folder;
use crate::repository::tree::{Kind, LONGEST, Tree};
use crate::source::short;
use crate::timeline::Millis;

mod checked;
mod reading;

pub use reading::{Content, Given};

/// More files than any repository has on purpose: in what a folder's `bramble.toml` names, and in a commit.
pub const MOST: usize = 50_000;
/// The most that all files hold together, in bytes: of a folder those that its `bramble.toml` names, of a commit all.
pub const LARGEST: u64 = 1 << 30;
/// Deeper folders than anyone makes.
const DEEPEST: usize = 64;
/// The longest file that travels and is kept with the snapshot itself, in bytes. Longer ones lie on the shelf.
pub const SMALL: u64 = 64 << 10;

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub enum Entry {
    Folder,
    File {
        digest: Digest,
        /// Bytes.
        size: u64,
        executable: bool,
    },
    /// A link inside an overlay: it is meant on the node, and nobody follows it here. Or a workload's file that leads to
    /// no file of the repository, which stops that workload.
    Link {
        target: String,
    },
    /// A workload's file that could not be read, which stops that workload.
    Unread {
        /// What the operating system said, or what lies there.
        why: String,
    },
}

const UNREAD: &str = "cannot be read: ";

/// Where the link leads that stands in for a file that could not be read, in a folder, in the store and on the wire: to
/// nothing, by a name that says why. So a folder that a snapshot is laid out in is read as the same snapshot, and whoever
/// knows no other entries has a sick workload.
pub fn stand_in(why: &str) -> String {
    format!("{UNREAD}{why}")
}

/// An [`Entry`] as it is written.
#[derive(Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
enum Written {
    Folder,
    File {
        digest: Digest,
        size: u64,
        #[serde(default)]
        executable: bool,
    },
    Link {
        target: String,
    },
}

impl From<Entry> for Written {
    fn from(entry: Entry) -> Self {
        match entry {
            Entry::Folder => Written::Folder,
            Entry::File { digest, size, executable } => Written::File { digest, size, executable },
            Entry::Link { target } => Written::Link { target },
            Entry::Unread { why } => Written::Link { target: stand_in(&why) },
        }
    }
}

impl From<Written> for Entry {
    fn from(written: Written) -> Self {
        match written {
            Written::Folder => Entry::Folder,
            Written::File { digest, size, executable } => Entry::File { digest, size, executable },
            Written::Link { target } => match target.strip_prefix(UNREAD) {
                Some(why) => Entry::Unread { why: why.to_owned() },
                None => Entry::Link { target },
            },
        }
    }
}

/// All that a repository says, by name and digest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// By path inside the repository, with `/` between.
    pub entries: BTreeMap<String, Entry>,
}

/// Where a snapshot came from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// The commit, by its full id; `None` where the folder is no git repository.
    pub commit: Option<String>,
    /// The folder had changes that were not committed.
    #[serde(default)]
    pub dirty: bool,
    pub author: Option<String>,
    /// The first line of the commit's message.
    pub subject: Option<String>,
    /// When it was committed.
    pub at: Option<Millis>,
}

impl Revision {
    /// As people read it: `3f2a91c04d5e`, `3f2a91c04d5e, dirty`, or nothing.
    pub fn short(&self) -> Option<String> {
        let commit = self.commit.as_deref()?;
        let short = short(commit);
        Some(if self.dirty { format!("{short}, dirty") } else { short })
    }
}

/// Why a folder could not be read as a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path} cannot be read")]
    File { path: String, source: io::Error },
    #[error("bramble.toml has errors")]
    Repository(#[source] Box<crate::repository::Problems>),
    #[error("{path}: {problem}")]
    Path { path: String, problem: &'static str },
    /// Something that is named, or lies below what is, could not be read from where the files came.
    #[error("{} {why}", path.replace(char::is_control, "\u{fffd}"))]
    LeftOut { path: String, why: &'static str },
    #[error("there are more than {MOST} files")]
    TooMany,
    #[error("with {path}, the files have more than {} GB together", LARGEST >> 30)]
    TooLarge { path: String },
}

impl Error {
    /// Why `bramble.toml` cannot be read, or is longer than anyone writes.
    fn of_toml(source: io::Error) -> Self {
        let path = FILE.to_owned();
        match source.kind() {
            io::ErrorKind::FileTooLarge => Error::Path { path, problem: TOO_LONG },
            _ => Error::File { path, source },
        }
    }

    /// The path that it is about, inside the repository.
    pub fn path(&self) -> Option<&str> {
        match self {
            Error::File { path, .. }
            | Error::Path { path, .. }
            | Error::LeftOut { path, .. }
            | Error::TooLarge { path } => Some(path),
            Error::Repository(_) | Error::TooMany => None,
        }
    }

    /// What the person can do about it.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Error::Path { path, .. } if path == FILE => Some(PLAIN),
            Error::Path { .. } => {
                Some("a snapshot holds plain files and folders of the repository; links only inside an overlay")
            }
            Error::LeftOut { .. } => {
                Some("give it a plain name, or put the submodule's files into the repository itself")
            }
            Error::TooMany => Some("name a smaller folder in bramble.toml"),
            Error::TooLarge { .. } => Some(
                "name a smaller file or folder in bramble.toml; a kernel or an initrd may be the URL of another server",
            ),
            Error::File { .. } | Error::Repository(_) => None,
        }
    }
}

impl Snapshot {
    /// Reads what `root/bramble.toml` names. Gives the snapshot, and where each content is now: by the time that it is
    /// read again it may be another one, and its digest tells.
    ///
    /// # Errors
    /// When something cannot be read, or is nothing that a snapshot holds. What the files say is not judged here.
    pub fn read(root: &Path) -> Result<(Snapshot, BTreeMap<Digest, PathBuf>), Error> {
        Begun::of(root)?.read()
    }

    /// As [`Snapshot::read`], of a repository that lies in no folder: what is at each of its paths.
    ///
    /// # Errors
    /// As there.
    pub fn of(files: &BTreeMap<String, Given>) -> Result<(Snapshot, BTreeMap<Digest, Content>), Error> {
        reading::read(&reading::Memory::new(files))
    }

    /// SHA-256 of what it says: the same for every reading of the same content.
    pub fn digest(&self) -> Digest {
        let mut hash = Sha256::new();
        hash.update(b"bramble snapshot 1\n");
        for (path, entry) in &self.entries {
            let line = match entry {
                Entry::Folder => format!("folder {path}\0"),
                Entry::File { digest, size, executable } => format!("file {digest} {size} {executable} {path}\0"),
                Entry::Link { target } => format!("link {path}\0{target}\0"),
                Entry::Unread { why } => format!("link {path}\0{}\0", stand_in(why)),
            };
            hash.update(line);
        }
        Digest(hash.finalize().into())
    }

    /// The contents that it needs, with their sizes.
    pub fn contents(&self) -> BTreeMap<Digest, u64> {
        let files = self.entries.values().filter_map(|entry| match entry {
            Entry::File { digest, size, .. } => Some((*digest, *size)),
            Entry::Folder | Entry::Link { .. } | Entry::Unread { .. } => None,
        });
        files.collect()
    }

    /// Whether all of its paths stay inside, none lies below a file or a link, and it is no longer than a snapshot may be: one
    /// that came from elsewhere is asked this before it is used.
    pub fn is_sound(&self) -> bool {
        let plain = |path: &str| {
            !path.is_empty()
                && !path.contains('\0')
                && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
                && Path::new(path).components().count() <= DEEPEST
                && !path.ends_with('/')
                && !path.contains("//")
                && !path.split('/').any(|part| part == ".")
        };
        let parents_are_folders = |path: &str| {
            let above = path.match_indices('/').map(|(at, _)| &path[..at]);
            above.into_iter().all(|above| matches!(self.entries.get(above), Some(Entry::Folder)))
        };
        let bytes = self.entries.values().fold(0_u64, |bytes, entry| match entry {
            Entry::File { size, .. } => bytes.saturating_add(*size),
            Entry::Folder | Entry::Link { .. } | Entry::Unread { .. } => bytes,
        });
        bytes <= LARGEST
            && self.entries.len() <= MOST
            && self.entries.keys().all(|path| plain(path) && parents_are_folders(path))
    }
}

/// A snapshot with a way to its contents: a repository that can be validated.
pub struct Kept<'a, F> {
    pub snapshot: &'a Snapshot,
    /// Gives a content by its digest.
    pub content: F,
}

impl<F: Fn(&Digest) -> io::Result<Vec<u8>>> Tree for Kept<'_, F> {
    fn kind(&self, path: &Path) -> io::Result<Option<Kind>> {
        Ok(match clean(path).and_then(|path| self.snapshot.entries.get(&path)) {
            Some(Entry::Folder) => Some(Kind::Folder),
            Some(Entry::File { .. }) => Some(Kind::File),
            Some(Entry::Link { .. }) => Some(Kind::Astray),
            Some(Entry::Unread { why }) => return Err(io::Error::other(why.clone())),
            None => None,
        })
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        match clean(path).and_then(|path| self.snapshot.entries.get(&path)) {
            Some(Entry::File { size, .. }) if *size > LONGEST => Err(io::ErrorKind::FileTooLarge.into()),
            Some(Entry::File { digest, .. }) => (self.content)(digest),
            Some(Entry::Unread { why }) => Err(io::Error::other(why.clone())),
            Some(Entry::Folder | Entry::Link { .. }) | None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn files(&self, folder: &Path) -> Vec<PathBuf> {
        let Some(folder) = clean(folder) else { return Vec::new() };
        let start = format!("{folder}/");
        let below = self.snapshot.entries.range(start.clone()..).take_while(|(path, _)| path.starts_with(&start));
        below.filter(|(_, entry)| matches!(entry, Entry::File { .. })).map(|(path, _)| path.into()).collect()
    }

    fn names(&self, folder: &Path) -> Vec<String> {
        let start = match clean(folder) {
            Some(folder) if !folder.is_empty() => format!("{folder}/"),
            _ => String::new(),
        };
        let below = self.snapshot.entries.keys().filter_map(|path| path.strip_prefix(&start));
        let names: BTreeSet<String> = below.filter_map(|rest| rest.split('/').next()).map(str::to_owned).collect();
        names.into_iter().collect()
    }

    fn mode(&self, _: &Path) -> Option<u32> {
        None
    }
}

/// A folder whose `bramble.toml` has been read: whoever judges that text and reads the rest goes by the same one.
struct Begun {
    folder: Folder,
    toml: reading::Toml<PathBuf>,
}

impl Begun {
    /// # Errors
    /// When it is no plain file of that folder, longer than anyone writes, or cannot be read.
    fn of(root: &Path) -> Result<Self, Error> {
        let real = fs::canonicalize(root).map_err(|source| Error::File { path: root.display().to_string(), source })?;
        let folder = Folder(real);
        Ok(Begun { toml: reading::begin(&folder)?, folder })
    }

    fn text(&self) -> &str {
        &self.toml.text
    }

    /// As [`Snapshot::read`].
    ///
    /// # Errors
    /// As there.
    fn read(&self) -> Result<(Snapshot, BTreeMap<Digest, PathBuf>), Error> {
        reading::rest(&self.folder, &self.toml)
    }
}

/// A path as a snapshot writes it.
fn clean(path: &Path) -> Option<String> {
    let parts: Option<Vec<&str>> = path
        .components()
        .filter(|part| *part != Component::CurDir)
        .map(|part| if let Component::Normal(name) = part { name.to_str() } else { None })
        .collect();
    Some(parts?.join("/"))
}

#[cfg(test)]
mod tests;
