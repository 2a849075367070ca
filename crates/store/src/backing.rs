//! Where the store lies: in its file, and in memory for as long as the disk takes no writes.
//!
//! ```text
//! Disk ──a write fails (full, read-only, torn off)──▶ Memory: what the file had, and what came since
//!  ▲                                                    │
//!  └──────── the disk takes writes again: all of it is written in one transaction ◀──┘
//! ```
//! A boot server whose card has died goes on serving boots. What is only in memory is lost when the process ends, so a
//! write is on the disk or is refused; [`Backing::write_even_in_memory`] is for what only tells what was seen.
//!
//! The file is this process's alone, wherever the store is held: what another one wrote there would be lost on the way back.
//! So its lock is not the database's, which is given up with it.
//!
//! The file has a form of its own. Form 1 (until commit 5b09a28) had neither versions nor a life, and is brought
//! to the present one when it is opened, in one transaction.

use std::cell::Cell;
use std::fmt::Debug;
use std::fs::{File, TryLockError};
use std::io;
use std::ops::Deref;
use std::os::unix::fs::MetadataExt;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::{self, Arc, Mutex, Once, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bramble_system::{locked, now};
use redb::backends::{FileBackend, InMemoryBackend};
use redb::{
    Database, Error as RedbError, Key, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend,
    TableDefinition, TableError, TableHandle, Value, WriteTransaction,
};
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::{Error, Millis};

/// When the store was made, or restored.
pub(crate) const LIFE: &str = "life";

/// Bytes before each value: the commit that wrote it.
const PREFIX: usize = size_of::<u64>();

/// A value as it lies in the database.
pub(crate) fn sealed(revision: u64, bytes: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(PREFIX + bytes.len());
    value.extend(revision.to_be_bytes());
    value.extend(bytes);
    value
}

/// A small cache: a cluster's store is a few megabytes, and the head has 40 to live in.
const CACHE: usize = 4 << 20;
/// What the store knows of itself: its form, its life, its commits, and who led how often.
pub(crate) const META: TableDefinition<'static, &'static str, u64> = TableDefinition::new("bramble-store");
/// The name of the form in [`META`].
const FORM: &str = "form";
/// Counts up when something of this crate's own lies otherwise in the file.
const PRESENT: u32 = 2;

/// Why a transaction was not made.
#[derive(Debug)]
pub(crate) enum Fault {
    Database(RedbError),
    Newer(u32),
    Conflict { table: &'static str, key: crate::Key },
}

macro_rules! faults {
    ($($error:ty),+) => {
        $(impl From<$error> for Fault {
            fn from(error: $error) -> Self {
                Fault::Database(error.into())
            }
        })+
    };
}
faults!(
    RedbError,
    TableError,
    redb::StorageError,
    redb::TransactionError,
    redb::CommitError,
    redb::DatabaseError,
    io::Error
);

impl Fault {
    /// Whether the disk is at fault, and not the program or the content.
    fn is_of_the_disk(&self) -> bool {
        matches!(self, Fault::Database(RedbError::Io(_) | RedbError::PreviousIo))
    }

    fn sentence(&self) -> String {
        match self {
            Fault::Database(error) => bramble_system::sentence(error),
            Fault::Newer(form) => format!("it is of form {form}"),
            Fault::Conflict { table, key } => format!("{table} {key} has been changed"),
        }
    }
}

/// A number that the store keeps of itself.
pub(crate) fn counter(transaction: &WriteTransaction, name: &str) -> Result<Option<u64>, Fault> {
    Ok(transaction.open_table(META)?.get(name)?.map(|value| value.value()))
}

pub(crate) fn put_counter(transaction: &WriteTransaction, name: &str, number: u64) -> Result<(), Fault> {
    transaction.open_table(META)?.insert(name, number)?;
    Ok(())
}

/// A database's bytes, without what their backend does when the database is closed: a memory that is still there then, and
/// a file that is not unlocked.
#[derive(Debug)]
struct Kept<B>(B);

impl<B> StorageBackend for Kept<B>
where
    B: Deref<Target: StorageBackend> + Debug + Send + Sync + 'static,
{
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

/// A file that no other process uses, nor another store of this one.
struct Lock(File);

impl Lock {
    /// Locks what lies there; `None` where nothing does, or it is the file of this lock.
    fn take(path: &Path, held: Option<&Lock>) -> Result<Option<Lock>, Fault> {
        // For writing, where that can be: NFS gives no lock for one that is only read (flock(2)).
        let file = match File::options().read(true).write(true).open(path).or_else(|_| File::open(path)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if let Some(Lock(held)) = held {
            let (held, found) = (held.metadata()?, file.metadata()?);
            if (held.dev(), held.ino()) == (found.dev(), found.ino()) {
                return Ok(None);
            }
        }
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock(file))),
            Err(TryLockError::WouldBlock) => Err(Fault::Database(RedbError::DatabaseAlreadyOpen)),
            Err(TryLockError::Error(error)) => {
                tracing::warn!(path = %path.display(), %error, "this file system keeps no other process from the store");
                Ok(None)
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closed alone, it would last in a program that is being started: until that begins (fork(2), execve(2)).
        let _ = self.0.unlock();
    }
}

/// The database, wherever it is now.
pub(crate) struct Backing {
    path: PathBuf,
    held: RwLock<Held>,
    /// After what it is for: the database is closed by then.
    lock: Mutex<Option<Lock>>,
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

thread_local! {
    /// Whether this thread is in [`guarded`], where a panic is an error that is told by its name.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
    /// Where the last one of this thread was.
    static PLACE: Cell<Option<String>> = const { Cell::new(None) };
}

/// From now on a panic in [`guarded`] says nothing of its own; any other is told as before.
fn hush() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if GUARDED.get() {
                PLACE.set(info.location().map(|place| format!(" ({}:{})", place.file(), place.line())));
            } else {
                usual(info);
            }
        }));
    });
}

/// redb panics on some files that are damaged: to whoever uses the store, that is an error as any other.
fn guarded<T>(work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    hush();
    let before = GUARDED.replace(true);
    let done = panic::catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(before);
    done.unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        let place = PLACE.take().unwrap_or_default();
        let reason = format!("it is damaged: {}{place}", words.unwrap_or("what lies in it makes no sense"));
        Err(Fault::Database(RedbError::Corrupted(reason)))
    })
}

/// Does what waits for the disk, and may be called anywhere: where this is a worker of a runtime with several, another
/// thread takes its place meanwhile, and whatever else it would run goes on. Only in a `LocalSet` of such a runtime, which
/// nothing here has, it panics.
pub fn waits<T>(work: impl FnOnce() -> T) -> T {
    // On a runtime of one thread there is nobody to take its place; and no runtime, no worker.
    let several = Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread);
    if several { tokio::task::block_in_place(work) } else { work() }
}

/// Locks the file that lies there, where that has not been done.
fn lock(path: &Path, held: &mut Option<Lock>) -> Result<(), Fault> {
    if let Some(taken) = Lock::take(path, held.as_ref())? {
        *held = Some(taken);
    }
    Ok(())
}

fn on_disk(path: &Path, life: Millis, held: &mut Option<Lock>) -> Result<Database, Fault> {
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
    lock(path, held)?;
    let backend = Kept(Box::new(FileBackend::new(file)?));
    prepared(Database::builder().set_cache_size(CACHE).create_with_backend(backend)?, life)
}

/// A database in memory with the content of the file, as far as that was committed.
fn in_memory(path: &Path, life: Millis) -> Result<Database, Fault> {
    let backend = InMemoryBackend::new();
    match std::fs::read(path) {
        Ok(bytes) => {
            backend.set_len(bytes.len() as u64)?;
            backend.write(0, &bytes)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    prepared(Database::builder().set_cache_size(CACHE).create_with_backend(backend)?, life)
}

/// The form of what is in the file: 1 where it does not say, or is new.
fn form(database: &Database) -> Result<u32, Fault> {
    match database.begin_read()?.open_table(META) {
        Ok(table) => Ok(table.get(FORM)?.map_or(1, |form| u32::try_from(form.value()).unwrap_or(u32::MAX))),
        Err(TableError::TableDoesNotExist(_)) => Ok(1),
        Err(error) => Err(error.into()),
    }
}

/// Brings the file to the present form, where it is of an older one or new; refuses a newer one. It always
/// writes: so a disk that takes no writes is known from the start.
fn prepared(database: Database, life: Millis) -> Result<Database, Fault> {
    let found = form(&database)?;
    if found > PRESENT {
        return Err(Fault::Newer(found));
    }
    let transaction = database.begin_write()?;
    if found < PRESENT {
        let names: Vec<String> = transaction.list_tables()?.map(|table| table.name().to_owned()).collect();
        for name in names.iter().filter(|name| *name != META.name()) {
            if !number_versions::<&'static str>(&transaction, name)? {
                number_versions::<u64>(&transaction, name)?;
            }
        }
        put_counter(&transaction, LIFE, life)?;
    }
    put_counter(&transaction, FORM, PRESENT.into())?;
    transaction.commit()?;
    Ok(database)
}

/// Whether a table has keys of the kind that it was opened for.
fn fits<T>(table: Result<T, TableError>) -> Result<Option<T>, Fault> {
    match table {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableTypeMismatch { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Gives each value of a table the version that form 1 did not have; `false` where its keys are of another kind.
fn number_versions<K: Key + 'static>(transaction: &WriteTransaction, name: &str) -> Result<bool, Fault> {
    let beside = format!("{name} with versions");
    let old: TableDefinition<'_, K, &'static [u8]> = TableDefinition::new(name);
    let new: TableDefinition<'_, K, &'static [u8]> = TableDefinition::new(&beside);
    {
        let Some(source) = fits(transaction.open_table(old))? else { return Ok(false) };
        let mut target = transaction.open_table(new)?;
        for entry in source.iter()? {
            let (key, value) = entry?;
            target.insert(key.value(), sealed(1, value.value()).as_slice())?;
        }
    }
    transaction.delete_table(old)?;
    transaction.rename_table(new, old)?;
    Ok(true)
}

/// Copies a table whole; `false` where its keys, or its values, are of another kind.
fn copy<K: Key + 'static, V: Value + 'static>(
    from: &ReadTransaction,
    to: &WriteTransaction,
    name: &str,
) -> Result<bool, Fault> {
    let table: TableDefinition<'_, K, V> = TableDefinition::new(name);
    let Some(source) = fits(from.open_table(table))? else { return Ok(false) };
    to.delete_table(table)?;
    let mut target = to.open_table(table)?;
    for entry in source.iter()? {
        let (key, value) = entry?;
        target.insert(key.value(), value.value())?;
    }
    Ok(true)
}

/// Copies everything into another database, in one transaction.
fn copy_all(from: &Database, to: &Database) -> Result<(), Fault> {
    let source = from.begin_read()?;
    let target = to.begin_write()?;
    for table in source.list_tables()? {
        let name = table.name();
        let _copied = copy::<&'static str, &'static [u8]>(&source, &target, name)?
            || copy::<u64, &'static [u8]>(&source, &target, name)?
            || copy::<&'static str, u64>(&source, &target, name)?;
    }
    target.commit()?;
    Ok(())
}

impl Backing {
    /// Opens the file, or makes it. Where the disk takes no writes, what it has is held in memory.
    pub(crate) fn open(path: &Path, life: Millis) -> Result<Self, Error> {
        let mut taken = None;
        let held = match guarded(|| on_disk(path, life, &mut taken)) {
            Ok(database) => Held::Disk(database),
            Err(fault) if fault.is_of_the_disk() => {
                let reason = fault.sentence();
                let database = lock(path, &mut taken).and_then(|()| guarded(|| in_memory(path, life)));
                let database = database.map_err(|fault| said(path, fault))?;
                tracing::error!(path = %path.display(), reason, "the store is held in memory");
                Held::Memory { database, reason, since: now() }
            }
            Err(fault) => return Err(said(path, fault)),
        };
        Ok(Backing { path: path.to_owned(), held: RwLock::new(held), lock: Mutex::new(taken) })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Nearly always there at once; else another thread goes to the disk or comes back from it.
    fn held(&self) -> RwLockReadGuard<'_, Held> {
        match self.held.try_read() {
            Ok(held) => held,
            Err(sync::TryLockError::Poisoned(held)) => held.into_inner(),
            Err(sync::TryLockError::WouldBlock) => waits(|| self.held.read().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    /// Why what is written now would not survive the process's end; `None` where all is well.
    pub(crate) fn trouble(&self) -> Option<String> {
        match &*self.held() {
            Held::Disk(_) => None,
            Held::Memory { reason, since, .. } => Some(format!(
                "the disk with {} takes no writes ({reason}): for {} s, what happens is kept in memory only",
                self.path.display(),
                now().saturating_sub(*since) / 1000
            )),
        }
    }

    /// The same, whenever it is asked: without how long it has been so.
    pub(crate) fn cause(&self) -> Option<String> {
        match &*self.held() {
            Held::Disk(_) => None,
            Held::Memory { reason, .. } => {
                Some(format!("the disk with {} takes no writes ({reason})", self.path.display()))
            }
        }
    }

    /// Does something with the database; again in memory, should the disk fail. `work` may run twice.
    fn with<T>(&self, mut work: impl FnMut(&Database) -> Result<T, Fault>) -> Result<T, Error> {
        let fault = {
            let held = self.held();
            match guarded(|| work(held.database())) {
                Err(fault) if fault.is_of_the_disk() && matches!(*held, Held::Disk(_)) => fault,
                result => return result.map_err(|fault| said(&self.path, fault)),
            }
        };
        self.fall(&fault)?;
        let held = self.held();
        guarded(|| work(held.database())).map_err(|fault| said(&self.path, fault))
    }

    pub(crate) fn read<T>(&self, mut work: impl FnMut(&ReadTransaction) -> Result<T, Fault>) -> Result<T, Error> {
        self.with(|database| work(&database.begin_read()?))
    }

    /// One transaction, on disk when this returns, or not made: [`Error::NotLasting`] where that takes no writes.
    pub(crate) fn write<T>(&self, mut work: impl FnMut(&WriteTransaction) -> Result<T, Fault>) -> Result<T, Error> {
        waits(|| self.on_the_disk(&mut work))
    }

    fn on_the_disk<T>(&self, work: &mut impl FnMut(&WriteTransaction) -> Result<T, Fault>) -> Result<T, Error> {
        let not_lasting = || Error::NotLasting(self.cause().unwrap_or_else(|| "the disk took no writes".into()));
        let fault = {
            let held = self.held();
            match &*held {
                Held::Memory { .. } => None,
                Held::Disk(database) => match guarded(|| commit(database, work)) {
                    Err(fault) if fault.is_of_the_disk() => Some(fault),
                    result => return result.map_err(|fault| said(&self.path, fault)),
                },
            }
        };
        if let Some(fault) = fault {
            self.fall(&fault)?;
        }
        Err(not_lasting())
    }

    /// As [`Backing::write`]; in memory, where the disk takes no writes.
    pub(crate) fn write_even_in_memory<T>(
        &self,
        mut work: impl FnMut(&WriteTransaction) -> Result<T, Fault>,
    ) -> Result<T, Error> {
        waits(|| self.with(|database| commit(database, &mut work)))
    }

    /// To go to the disk or to come back from it: one assignment, so that a panic leaves what was or what is to be.
    fn replaced(&self) -> RwLockWriteGuard<'_, Held> {
        self.held.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk has failed: goes on in memory.
    fn fall(&self, fault: &Fault) -> Result<(), Error> {
        let mut held = self.replaced();
        if matches!(*held, Held::Memory { .. }) {
            return Ok(());
        }
        let reason = fault.sentence();
        tracing::error!(path = %self.path.display(), reason, "the store is held in memory");
        let database = guarded(|| in_memory(&self.path, now())).map_err(|fault| said(&self.path, fault))?;
        *held = Held::Memory { database, reason, since: now() };
        Ok(())
    }

    /// Goes back to the disk, where it takes writes again; `true` when it did.
    pub(crate) fn mend(&self) -> bool {
        if self.trouble().is_none() {
            return false;
        }
        waits(|| self.go_back())
    }

    fn go_back(&self) -> bool {
        // Nothing is written meanwhile, or it would be lost.
        let mut held = self.replaced();
        let mut lock = locked(&self.lock);
        let carried = || {
            let disk = on_disk(&self.path, now(), &mut lock)?;
            copy_all(held.database(), &disk)?;
            Ok(disk)
        };
        match guarded(carried) {
            Ok(disk) => {
                *held = Held::Disk(disk);
                tracing::info!(path = %self.path.display(), "the store is on its disk again");
                true
            }
            Err(fault) => {
                tracing::debug!(error = fault.sentence(), "the disk still takes no writes");
                false
            }
        }
    }

    /// Everything, as it is at this moment, as the bytes of a database file. A full disk is no hindrance.
    pub(crate) fn copy(&self) -> Result<Vec<u8>, Error> {
        let memory = Arc::new(InMemoryBackend::new());
        let copied = || {
            let held = self.held();
            let copy = Database::builder().set_cache_size(CACHE).create_with_backend(Kept(Arc::clone(&memory)))?;
            copy_all(held.database(), &copy)?;
            drop(held);
            // Closed, its file is whole.
            drop(copy);
            let mut bytes = vec![0; usize::try_from(memory.len()?).map_err(io::Error::other)?];
            memory.read(0, &mut bytes)?;
            Ok::<_, Fault>(bytes)
        };
        waits(|| guarded(copied)).map_err(|fault| said(&self.path, fault))
    }
}

fn commit<T>(database: &Database, work: &mut impl FnMut(&WriteTransaction) -> Result<T, Fault>) -> Result<T, Fault> {
    let transaction = database.begin_write()?;
    let result = work(&transaction)?;
    transaction.commit()?;
    Ok(result)
}

fn said(path: &Path, fault: Fault) -> Error {
    let path = path.to_owned();
    match fault {
        Fault::Database(RedbError::DatabaseAlreadyOpen) => Error::InUse(path),
        Fault::Database(error) => Error::Database { path, source: Box::new(error) },
        Fault::Newer(found) => Error::Newer { path, found, known: PRESENT },
        Fault::Conflict { table, key } => Error::Conflict { table, key },
    }
}

#[cfg(any(test, feature = "testing"))]
impl Backing {
    /// What lies on this disk, and is of this file once the disk has failed.
    pub(crate) fn on(path: &Path, disk: impl StorageBackend) -> Self {
        let database = Database::builder().create_with_backend(disk).expect("opens");
        let database = prepared(database, 1).unwrap_or_else(|fault| panic!("{}", fault.sentence()));
        let taken = Lock::take(path, None).unwrap_or_else(|fault| panic!("{}", fault.sentence()));
        Backing { path: path.to_owned(), held: RwLock::new(Held::Disk(database)), lock: Mutex::new(taken) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_of_a_newer_form_is_refused_whole() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("head.redb");
        {
            let database = on_disk(&path, 5, &mut None).unwrap_or_else(|fault| panic!("{}", fault.sentence()));
            let transaction = database.begin_write().expect("begins");
            put_counter(&transaction, FORM, 3).unwrap_or_else(|fault| panic!("{}", fault.sentence()));
            transaction.commit().expect("committed");
        }
        let Err(error) = Backing::open(&path, 9) else { panic!("it was opened") };
        assert!(matches!(error, Error::Newer { found: 3, known: PRESENT, .. }), "{error}");
        assert!(error.to_string().contains("is of form 3, and this bramble knows forms up to 2"), "{error}");
        assert!(error.help().is_some_and(|help| help.contains("newer bramble")));
        let database = Database::open(&path).expect("opens");
        assert_eq!(form(&database).unwrap_or_else(|fault| panic!("{}", fault.sentence())), 3, "nothing was changed");
    }

    #[test]
    fn garbage_in_the_file_is_a_damaged_store_and_no_panic() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("head.redb");
        let table = crate::Table::new("texts");
        {
            let store = crate::Blocking::open(&path, 5).expect("made");
            for number in 0..200 {
                let (key, bytes) = (format!("key {number}").as_str().into(), vec![7; 1000]);
                store.commit(&[], &[crate::Write::Put { table, key, bytes }]).expect("written");
            }
        }
        let whole = std::fs::read(&path).expect("readable");
        let mut refused = 0;
        for (page, seed) in (1..12_usize).flat_map(|page| (1..4_u32).map(move |seed| (page, seed))) {
            let mut bytes = whole.clone();
            let mut dice = seed;
            let end = ((page + 40) * 4096).min(bytes.len());
            for byte in &mut bytes[page * 4096..end] {
                dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *byte = dice.to_be_bytes()[0];
            }
            std::fs::write(&path, bytes).expect("written");
            let read = crate::Blocking::open(&path, 9).and_then(|store| store.all(table).map(|found| found.len()));
            if let Err(error) = read {
                assert!(matches!(error, Error::Database { .. }), "{error}");
                assert!(error.help().is_some_and(|help| help.contains("aside")), "{error}");
                refused += 1;
            }
        }
        assert!(refused > 0, "garbage was taken for records");
    }

    #[test]
    fn what_has_no_form_is_brought_to_this_one_with_all_it_has() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("head.redb");
        let texts: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("texts");
        let numbers: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("numbers");
        {
            let database = Database::create(&path).expect("made");
            let transaction = database.begin_write().expect("begins");
            transaction.open_table(texts).expect("opens").insert("a", &b"1"[..]).expect("inserted");
            transaction.open_table(numbers).expect("opens").insert(7, &b"2"[..]).expect("inserted");
            transaction.commit().expect("committed");
        }
        for now in [1000, 2000] {
            let store = crate::Blocking::open(&path, now).expect("opens");
            assert_eq!(store.life().expect("read"), 1000, "its life begins once");
            let [(_, text)] = &store.all(crate::Table::new("texts")).expect("read")[..] else { panic!("one entry") };
            let [(7, number)] = &store.numbers(crate::Table::new("numbers"), ..).expect("read")[..] else {
                panic!("one entry")
            };
            assert_eq!((&text.bytes[..], &number.bytes[..]), (&b"1"[..], &b"2"[..]));
            assert_ne!(text.version, crate::Version::ABSENT);
        }
    }
}
