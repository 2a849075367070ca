//! Where the store lies: in its file, and in memory for as long as the disk takes no writes.
//!
//! ```text
//! Disk ──a write fails (full, read-only, torn off)──▶ Memory: what the file had, and what came since
//!  ▲                                                    │
//!  └──────── the disk takes writes again: all of it is written in one transaction ◀──┘
//! ```
//! A boot server whose card has died goes on serving boots. What is only in memory is lost when the head ends,
//! so whoever makes a change that must last asks [`Backing::trouble`] first.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use bramble_model::timeline::Millis;
use bramble_system::now;
use redb::backends::InMemoryBackend;
use redb::{
    Database, Error as RedbError, Key, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend,
    TableDefinition, Value, WriteTransaction,
};

use super::{NUMBERED, TABLES};
use crate::Error;

/// A small cache: a cluster's store is a few megabytes, and the head has 40 to live in.
const CACHE: usize = 4 << 20;

/// A database's memory that is still there when the database is closed.
#[derive(Debug)]
struct Shared(Arc<InMemoryBackend>);

impl StorageBackend for Shared {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}

/// The database, wherever it is now.
pub(super) struct Backing {
    path: PathBuf,
    held: RwLock<Held>,
}

enum Held {
    Disk(Database),
    Memory { database: Database, reason: String, since: Millis },
}

impl Held {
    fn database(&self) -> &Database {
        match self {
            Held::Disk(database) | Held::Memory { database, .. } => database,
        }
    }
}

/// Whether the disk is at fault, and not the program or the content.
fn is_of_the_disk(error: &RedbError) -> bool {
    matches!(error, RedbError::Io(_) | RedbError::PreviousIo)
}

fn on_disk(path: &Path) -> Result<Database, RedbError> {
    with_tables(Database::builder().set_cache_size(CACHE).create(path)?)
}

fn with_tables(database: Database) -> Result<Database, RedbError> {
    let transaction = database.begin_write()?;
    for table in TABLES {
        transaction.open_table(table)?;
    }
    for table in NUMBERED {
        transaction.open_table(table)?;
    }
    transaction.commit()?;
    Ok(database)
}

/// A database in memory with the content of the file, as far as that was committed.
fn in_memory(path: &Path) -> Result<Database, RedbError> {
    let backend = InMemoryBackend::new();
    match std::fs::read(path) {
        Ok(bytes) => {
            backend.set_len(bytes.len() as u64)?;
            backend.write(0, &bytes)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    with_tables(Database::builder().set_cache_size(CACHE).create_with_backend(backend)?)
}

/// Copies a table whole.
fn copy<K: Key + 'static>(
    from: &ReadTransaction,
    to: &WriteTransaction,
    table: TableDefinition<'static, K, &'static [u8]>,
) -> Result<(), RedbError>
where
    &'static [u8]: Value,
{
    let source = from.open_table(table)?;
    to.delete_table(table)?;
    let mut target = to.open_table(table)?;
    for entry in source.iter()? {
        let (key, value) = entry?;
        target.insert(key.value(), value.value())?;
    }
    Ok(())
}

/// Copies everything into another database, in one transaction.
fn copy_all(from: &Database, to: &Database) -> Result<(), RedbError> {
    let source = from.begin_read()?;
    let target = to.begin_write()?;
    for table in TABLES {
        copy(&source, &target, table)?;
    }
    for table in NUMBERED {
        copy(&source, &target, table)?;
    }
    target.commit()?;
    Ok(())
}

impl Backing {
    /// Opens the file, or makes it. Where the disk takes no writes, what it has is held in memory.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let failed = |error: RedbError| Error::Store { path: path.to_owned(), source: Box::new(error) };
        let held = match on_disk(path) {
            Ok(database) => Held::Disk(database),
            Err(error) if is_of_the_disk(&error) => {
                let reason = bramble_system::sentence(&error);
                tracing::error!(path = %path.display(), reason, "the store is held in memory");
                Held::Memory { database: in_memory(path).map_err(failed)?, reason, since: now() }
            }
            Err(error) => return Err(failed(error)),
        };
        Ok(Backing { path: path.to_owned(), held: RwLock::new(held) })
    }

    fn failed(&self, error: RedbError) -> Error {
        Error::Store { path: self.path.clone(), source: Box::new(error) }
    }

    /// Why what is written now would not survive the head's end; `None` where all is well.
    pub(super) fn trouble(&self) -> Option<String> {
        match &*self.held.read().expect("no panic while held") {
            Held::Disk(_) => None,
            Held::Memory { reason, since, .. } => Some(format!(
                "the disk with {} takes no writes ({reason}): for {} s, what happens is kept in memory only",
                self.path.display(),
                now().saturating_sub(*since) / 1000
            )),
        }
    }

    /// Does something with the database; again in memory, should the disk fail. `work` may run twice.
    fn with<T>(&self, mut work: impl FnMut(&Database) -> Result<T, RedbError>) -> Result<T, Error> {
        let error = {
            let held = self.held.read().expect("no panic while held");
            match work(held.database()) {
                Err(error) if is_of_the_disk(&error) && matches!(*held, Held::Disk(_)) => error,
                result => return result.map_err(|error| self.failed(error)),
            }
        };
        self.fall(&error)?;
        let held = self.held.read().expect("no panic while held");
        work(held.database()).map_err(|error| self.failed(error))
    }

    pub(super) fn read<T>(&self, mut work: impl FnMut(&ReadTransaction) -> Result<T, RedbError>) -> Result<T, Error> {
        self.with(|database| work(&database.begin_read()?))
    }

    /// One transaction, on disk when this returns, where there is one.
    pub(super) fn write(&self, mut work: impl FnMut(&WriteTransaction) -> Result<(), RedbError>) -> Result<(), Error> {
        self.with(|database| {
            let transaction = database.begin_write()?;
            work(&transaction)?;
            Ok(transaction.commit()?)
        })
    }

    /// The disk has failed: goes on in memory.
    fn fall(&self, error: &RedbError) -> Result<(), Error> {
        let mut held = self.held.write().expect("no panic while held");
        if matches!(*held, Held::Memory { .. }) {
            return Ok(());
        }
        let reason = bramble_system::sentence(error);
        tracing::error!(path = %self.path.display(), reason, "the store is held in memory");
        let database = in_memory(&self.path).map_err(|error| self.failed(error))?;
        *held = Held::Memory { database, reason, since: now() };
        Ok(())
    }

    /// Goes back to the disk, where it takes writes again; `true` when it did.
    pub(super) fn mend(&self) -> bool {
        if self.trouble().is_none() {
            return false;
        }
        // Nothing is written meanwhile, or it would be lost.
        let mut held = self.held.write().expect("no panic while held");
        match on_disk(&self.path).and_then(|disk| copy_all(held.database(), &disk).map(|()| disk)) {
            Ok(disk) => {
                *held = Held::Disk(disk);
                tracing::info!(path = %self.path.display(), "the store is on its disk again");
                true
            }
            Err(error) => {
                tracing::debug!(error = bramble_system::sentence(&error), "the disk still takes no writes");
                false
            }
        }
    }

    /// Everything, as it is at this moment, as the bytes of a database file. A full disk is no hindrance.
    pub(super) fn copy(&self) -> Result<Vec<u8>, Error> {
        let memory = Arc::new(InMemoryBackend::new());
        let copied = || {
            let held = self.held.read().expect("no panic while held");
            let copy = Database::builder().set_cache_size(CACHE).create_with_backend(Shared(Arc::clone(&memory)))?;
            copy_all(held.database(), &copy)?;
            drop(held);
            // Closed, its file is whole.
            drop(copy);
            let mut bytes = vec![0; usize::try_from(memory.len()?).map_err(io::Error::other)?];
            memory.read(0, &mut bytes)?;
            Ok::<_, RedbError>(bytes)
        };
        copied().map_err(|error| self.failed(error))
    }
}
