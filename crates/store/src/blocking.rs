//! The calls of the store, for threads that may wait for the disk.

use std::collections::BTreeMap;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::Mutex;

use bramble_system::locked;
use redb::{ReadTransaction, ReadableTable, TableDefinition, TableError, WriteTransaction};
use tokio::sync::watch;

use crate::backing::{Backing, Fault, LIFE, META, counter, put_counter, sealed};
use crate::{Entry, Error, Expect, Fence, Key, Millis, Table, Version, Write};

/// How many commits there were.
const REVISION: &str = "revision";
fn entry(value: &[u8]) -> Entry {
    match value.split_first_chunk() {
        Some((revision, bytes)) => Entry { version: Version(u64::from_be_bytes(*revision)), bytes: bytes.to_vec() },
        // Nothing that this program writes is so short; its record will not be readable.
        None => Entry { version: Version(u64::MAX), bytes: value.to_vec() },
    }
}

fn texts(table: Table) -> TableDefinition<'static, &'static str, &'static [u8]> {
    TableDefinition::new(table.name())
}

fn numbers(table: Table) -> TableDefinition<'static, u64, &'static [u8]> {
    TableDefinition::new(table.name())
}

/// A table that nobody has written to is one without entries.
fn opened<T>(table: Result<T, TableError>) -> Result<Option<T>, Fault> {
    match table {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn look(transaction: &ReadTransaction, table: Table, key: &Key) -> Result<Option<Entry>, Fault> {
    Ok(match key {
        Key::Text(text) => match opened(transaction.open_table(texts(table)))? {
            Some(table) => table.get(text.as_str())?.map(|value| entry(value.value())),
            None => None,
        },
        Key::Number(number) => match opened(transaction.open_table(numbers(table)))? {
            Some(table) => table.get(number)?.map(|value| entry(value.value())),
            None => None,
        },
    })
}

/// The version of an entry within a commit.
fn version(transaction: &WriteTransaction, table: Table, key: &Key) -> Result<Version, Fault> {
    let found = match key {
        Key::Text(text) => transaction.open_table(texts(table))?.get(text.as_str())?.map(|value| entry(value.value())),
        Key::Number(number) => transaction.open_table(numbers(table))?.get(number)?.map(|value| entry(value.value())),
    };
    Ok(found.map_or(Version::ABSENT, |entry| entry.version))
}

/// Makes the writes to one table. Its first key says of which kind its keys are.
fn write(transaction: &WriteTransaction, revision: u64, writes: &[Write]) -> Result<(), Fault> {
    for write in writes {
        match write {
            Write::Put { table, key: Key::Text(text), bytes } => {
                transaction.open_table(texts(*table))?.insert(text.as_str(), sealed(revision, bytes).as_slice())?;
            }
            Write::Put { table, key: Key::Number(number), bytes } => {
                transaction.open_table(numbers(*table))?.insert(number, sealed(revision, bytes).as_slice())?;
            }
            Write::Remove { table, key: Key::Text(text) } => {
                transaction.open_table(texts(*table))?.remove(text.as_str())?;
            }
            Write::Remove { table, key: Key::Number(number) } => {
                transaction.open_table(numbers(*table))?.remove(number)?;
            }
            Write::RemoveBefore { table, number } => {
                transaction.open_table(numbers(*table))?.retain_in(..*number, |_, _| false)?;
            }
        }
    }
    Ok(())
}

/// Makes all writes where all expectations hold; gives the number of the commit.
fn make(transaction: &WriteTransaction, expects: &[Expect], writes: &[Write]) -> Result<u64, Fault> {
    for Expect { table, key, version: expected } in expects {
        if version(transaction, *table, key)? != *expected {
            return Err(Fault::Conflict { table: table.name(), key: key.clone() });
        }
    }
    let revision = counter(transaction, REVISION)?.unwrap_or(0) + 1;
    write(transaction, revision, writes)?;
    put_counter(transaction, REVISION, revision)?;
    Ok(revision)
}

/// A store whose calls return when they are done.
pub struct Blocking {
    backing: Backing,
    watched: Mutex<BTreeMap<&'static str, watch::Sender<Version>>>,
}

impl Blocking {
    /// As [`crate::Store::open`].
    ///
    /// # Errors
    /// As there.
    pub fn open(path: &Path, life: Millis) -> Result<Self, Error> {
        Ok(Blocking { backing: Backing::open(path, life)?, watched: Mutex::default() })
    }

    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn on(backing: Backing) -> Self {
        Blocking { backing, watched: Mutex::default() }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.backing.path()
    }

    /// Why what is written now would not survive the process's end; `None` where all is well.
    pub fn trouble(&self) -> Option<String> {
        self.backing.trouble()
    }

    /// Goes back to the disk, where it takes writes again; `true` when it did.
    pub fn mend(&self) -> bool {
        self.backing.mend()
    }

    /// Everything, as it is at this moment, as the bytes of a store's file.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn copy(&self) -> Result<Vec<u8>, Error> {
        self.backing.copy()
    }

    /// # Errors
    /// When the store cannot be read.
    pub fn get(&self, table: Table, key: &Key) -> Result<Option<Entry>, Error> {
        self.backing.read(|transaction| look(transaction, table, key))
    }

    /// All entries, in the order of their keys.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn all(&self, table: Table) -> Result<Vec<(Key, Entry)>, Error> {
        let mut all = self.last(table, usize::MAX)?;
        all.shrink_to_fit();
        Ok(all)
    }

    /// The last `most` entries, in the order of their keys.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn last(&self, table: Table, most: usize) -> Result<Vec<(Key, Entry)>, Error> {
        self.backing.read(|transaction| {
            let mut found = Vec::new();
            match transaction.open_table(texts(table)) {
                Err(TableError::TableTypeMismatch { .. }) => {
                    for pair in transaction.open_table(numbers(table))?.iter()?.rev().take(most) {
                        let (key, value) = pair?;
                        found.push((Key::Number(key.value()), entry(value.value())));
                    }
                }
                table => {
                    let Some(table) = opened(table)? else { return Ok(found) };
                    for pair in table.iter()?.rev().take(most) {
                        let (key, value) = pair?;
                        found.push((key.value().into(), entry(value.value())));
                    }
                }
            }
            found.reverse();
            Ok(found)
        })
    }

    /// The entries of a numbered table in this range.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn numbers(&self, table: Table, range: impl RangeBounds<u64>) -> Result<Vec<(u64, Entry)>, Error> {
        let range: (Bound<u64>, Bound<u64>) = (range.start_bound().cloned(), range.end_bound().cloned());
        self.backing.read(|transaction| {
            let Some(table) = opened(transaction.open_table(numbers(table)))? else { return Ok(Vec::new()) };
            let mut found = Vec::new();
            for pair in table.range(range)? {
                let (key, value) = pair?;
                found.push((key.value(), entry(value.value())));
            }
            Ok(found)
        })
    }

    /// The number of the last entry of a numbered table, readable or not; 0 where it has none. Who adds one takes the
    /// next, and expects nobody to have taken it meanwhile.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn last_number(&self, table: Table) -> Result<u64, Error> {
        self.backing.read(|transaction| {
            let Some(table) = opened(transaction.open_table(numbers(table)))? else { return Ok(0) };
            let last = table.last()?;
            Ok(last.map_or(0, |(key, _)| key.value()))
        })
    }

    /// Compare and swap of one entry; without bytes, it is removed. On disk when this returns.
    ///
    /// # Errors
    /// [`Error::Conflict`] where the entry is of another version; else as [`Blocking::commit`].
    pub fn change(&self, expect: Expect, bytes: Option<Vec<u8>>) -> Result<Version, Error> {
        let (table, key) = (expect.table, expect.key.clone());
        let write = match bytes {
            Some(bytes) => Write::Put { table, key, bytes },
            None => Write::Remove { table, key },
        };
        self.commit(&[expect], &[write])
    }

    /// Makes all writes where all expectations hold, and else none. On disk when this returns. Gives the version
    /// of what was written.
    ///
    /// # Errors
    /// [`Error::Conflict`] where an expectation does not hold; [`Error::NotLasting`] where the disk takes no writes.
    pub fn commit(&self, expects: &[Expect], writes: &[Write]) -> Result<Version, Error> {
        let revision = self.backing.write(|transaction| make(transaction, expects, writes))?;
        Ok(self.announce(revision, writes))
    }

    /// As [`Blocking::commit`], for what only tells what was seen, and on which nobody relies: where the disk takes no
    /// writes, it is kept in memory, and lost with the process.
    ///
    /// # Errors
    /// [`Error::Conflict`] where an expectation does not hold; when the store cannot be written.
    pub fn commit_even_in_memory(&self, expects: &[Expect], writes: &[Write]) -> Result<Version, Error> {
        let revision = self.backing.write_even_in_memory(|transaction| make(transaction, expects, writes))?;
        Ok(self.announce(revision, writes))
    }

    /// Tells those who watch the tables of a commit.
    fn announce(&self, revision: u64, writes: &[Write]) -> Version {
        let watched = locked(&self.watched);
        for table in writes.iter().map(Write::table) {
            if let Some(sender) = watched.get(table.name()) {
                // Two commits may come here in the other order.
                sender.send_if_modified(|latest| {
                    let newer = latest.0 < revision;
                    *latest = Version(revision).max(*latest);
                    newer
                });
            }
        }
        Version(revision)
    }

    /// As [`crate::Store::watch`].
    pub fn watch(&self, table: Table) -> watch::Receiver<Version> {
        let mut watched = locked(&self.watched);
        watched.entry(table.name()).or_insert_with(|| watch::Sender::new(Version::ABSENT)).subscribe()
    }

    /// The life of this store: the time at which it was made or restored.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn life(&self) -> Result<Millis, Error> {
        self.backing.read(|transaction| {
            let table = transaction.open_table(META)?;
            Ok(table.get(LIFE)?.map_or(0, |value| value.value()))
        })
    }

    /// Begins a new life, as whoever restores a backup does: later than the old one, whatever the clock says.
    /// Gives its number.
    ///
    /// # Errors
    /// [`Error::NotLasting`] where the disk takes no writes.
    pub fn begin_new_life(&self, now: Millis) -> Result<Millis, Error> {
        self.backing.write(|transaction| {
            let life = counter(transaction, LIFE)?.map_or(now, |old| now.max(old + 1));
            put_counter(transaction, LIFE, life)?;
            Ok(life)
        })
    }

    /// Takes the lead in what goes by this name. Whoever had it before has a smaller fence.
    ///
    /// # Errors
    /// When it would not survive this process: a fence that was told and forgotten would be given again.
    pub fn lead(&self, name: &str) -> Result<Fence, Error> {
        let key = format!("lead of {name}");
        self.backing.write(|transaction| {
            let number = counter(transaction, &key)?.unwrap_or(0) + 1;
            put_counter(transaction, &key, number)?;
            Ok(Fence { life: counter(transaction, LIFE)?.unwrap_or(0), number })
        })
    }
}
