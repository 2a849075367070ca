//! The store: records by table and key, and nobody's in particular. One file now; what it offers is what etcd
//! or a replicated log can offer as well, so that several heads may share one later.
//!
//! ```text
//! get · all · numbers · last          what is there, each entry with its version
//! change · commit(expects, writes)    compare and swap: all of it, or nothing
//! watch(table)                        tells when a table has changed
//! lead(name) ─▶ Fence                 (life of the store, number): a later one is greater, always
//! ```
//! Versions count the commits of the whole store, so an entry that went and came again has another one. A
//! store has a *life*: the time of its making. A restored backup begins a new one, so that what was told in the
//! old one's name is known to be old.
//!
//! What is written is on the disk when it is acknowledged, or it is refused and nothing has changed. Only what is written
//! by a call that says `even_in_memory` goes on where the disk takes no writes.
//!
//! [`Store`] is asynchronous. [`Store::blocking`] offers the same calls to whoever may wait; on a worker of a runtime
//! what else that would run goes on meanwhile ([`waits`]). What the bytes mean is said by a [`Record`].

mod aside;
mod backing;
mod blocking;
mod record;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod view;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

pub use aside::SetAside;
pub use backing::waits;
pub use blocking::Blocking;
pub use record::{All, LOST, OnLoss, Record, Unreadable, Why, put, remove};
pub use view::View;

/// Milliseconds since the epoch.
pub type Millis = u64;

/// A table by its name. Keys are texts or numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    name: &'static str,
}

impl Table {
    pub const fn new(name: &'static str) -> Self {
        Table { name }
    }

    pub fn name(self) -> &'static str {
        self.name
    }
}

/// The key of an entry. All keys of one table are of one kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    Text(String),
    Number(u64),
}

impl From<&str> for Key {
    fn from(text: &str) -> Self {
        Key::Text(text.to_owned())
    }
}

impl From<u64> for Key {
    fn from(number: u64) -> Self {
        Key::Number(number)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Text(text) => f.write_str(text),
            Key::Number(number) => write!(f, "{number}"),
        }
    }
}

/// The commit that wrote an entry, counted over the life of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u64);

impl Version {
    /// Of an entry that is not there.
    pub const ABSENT: Version = Version(0);
}

/// What is kept under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub version: Version,
    pub bytes: Vec<u8>,
}

/// What has to hold for a commit to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expect {
    pub table: Table,
    pub key: Key,
    /// [`Version::ABSENT`] where there may be none.
    pub version: Version,
}

/// A part of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    Put {
        table: Table,
        key: Key,
        bytes: Vec<u8>,
    },
    Remove {
        table: Table,
        key: Key,
    },
    /// Removes all entries of a numbered table before this number.
    RemoveBefore {
        table: Table,
        number: u64,
    },
}

impl Write {
    fn table(&self) -> Table {
        match self {
            Write::Put { table, .. } | Write::Remove { table, .. } | Write::RemoveBefore { table, .. } => *table,
        }
    }
}

/// Who leads, in order: whoever took the lead later has the greater one, also after a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Fence {
    /// The life of the store that gave it.
    pub life: u64,
    /// Counts up with each lead of this name.
    pub number: u64,
}

/// Why the store did not do as it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the store {}", path.display())]
    Database { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("the store {}: another process uses it", .0.display())]
    InUse(PathBuf),
    #[error("the store {} is of form {found}, and this bramble knows forms up to {known}", path.display())]
    Newer { path: PathBuf, found: u32, known: u32 },
    #[error("{table} {key} has been changed by someone else meanwhile")]
    Conflict { table: &'static str, key: Key },
    #[error("this has to last, and would not: {0}")]
    NotLasting(String),
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error("cannot write {}", path.display())]
    Aside { path: PathBuf, source: std::io::Error },
}

impl Error {
    /// What the person can do about it.
    pub fn help(&self) -> Option<&'static str> {
        Some(match self {
            Error::InUse(_) => "only one process can use a store: where a head runs, end it first",
            Error::Newer { .. } => {
                "a newer bramble wrote it: start that one again, or `bramble restore` a backup of before"
            }
            Error::NotLasting(_) => "make room on the disk, or replace it",
            Error::Aside { .. } => "make room on the disk: what is set aside has to be on it first",
            Error::Database { .. } => {
                "where the file is damaged, move it and `keys` beside it aside, and `bramble restore` a backup; without a backup, move the file alone aside, and a head begins anew"
            }
            Error::Conflict { .. } | Error::Unreadable(_) => return None,
        })
    }
}

/// A store, for those who must not block. Its copies are the same store.
#[derive(Clone)]
pub struct Store(Arc<Blocking>);

impl Store {
    /// Opens the store in this file, or makes it: that one's life is `life`, the time, or later. Where the disk takes no
    /// writes, what it has is held in memory.
    ///
    /// # Errors
    /// When another process uses it, a newer bramble wrote it, or it is damaged.
    pub fn open(path: &Path, life: Millis) -> Result<Self, Error> {
        Ok(Store(Arc::new(Blocking::open(path, life)?)))
    }

    /// The same calls, for whoever may wait for the disk.
    pub fn blocking(&self) -> &Blocking {
        &self.0
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Blocking) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let store = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || work(&store)).await;
        done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    /// # Errors
    /// When the store cannot be read.
    pub async fn get(&self, table: Table, key: Key) -> Result<Option<Entry>, Error> {
        self.run(move |store| store.get(table, &key)).await
    }

    /// All entries, in the order of their keys.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn all(&self, table: Table) -> Result<Vec<(Key, Entry)>, Error> {
        self.run(move |store| store.all(table)).await
    }

    /// The last `most` entries, in the order of their keys.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn last(&self, table: Table, most: usize) -> Result<Vec<(Key, Entry)>, Error> {
        self.run(move |store| store.last(table, most)).await
    }

    /// As [`Blocking::change`].
    ///
    /// # Errors
    /// As there.
    pub async fn change(&self, expect: Expect, bytes: Option<Vec<u8>>) -> Result<Version, Error> {
        self.run(move |store| store.change(expect, bytes)).await
    }

    /// As [`Blocking::commit`].
    ///
    /// # Errors
    /// As there.
    pub async fn commit(&self, expects: Vec<Expect>, writes: Vec<Write>) -> Result<Version, Error> {
        self.run(move |store| store.commit(&expects, &writes)).await
    }

    /// Tells the version of the latest commit that changed this table.
    pub fn watch(&self, table: Table) -> watch::Receiver<Version> {
        self.0.watch(table)
    }

    /// As [`Blocking::lead`].
    ///
    /// # Errors
    /// As there.
    pub async fn lead(&self, name: &str) -> Result<Fence, Error> {
        let name = name.to_owned();
        self.run(move |store| store.lead(&name)).await
    }
}
