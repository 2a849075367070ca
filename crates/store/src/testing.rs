//! A disk as tests want it: one that is full from some moment on, and one that takes its time.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use redb::StorageBackend;
use redb::backends::FileBackend;

use crate::Store;
use crate::backing::Backing;
use crate::blocking::Blocking;

/// How a disk behaves. Its copies are the same disk.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    is_full: Arc<AtomicBool>,
    /// Milliseconds for each flush.
    flush: Arc<AtomicU64>,
}

impl Disk {
    /// It takes no writes from now on, or takes them again.
    pub fn is_full(&self, is_full: bool) {
        self.is_full.store(is_full, Ordering::SeqCst);
    }

    /// How long each flush takes from now on.
    pub fn flushes_in(&self, time: Duration) {
        self.flush.store(u64::try_from(time.as_millis()).expect("a short while"), Ordering::SeqCst);
    }

    /// Opens the store in this file, or makes it, as one on this disk.
    pub fn open(&self, path: &Path) -> Store {
        let options = std::fs::File::options().read(true).write(true).create(true).truncate(false).open(path);
        let file = FileBackend::new(options.expect("opens")).expect("a file");
        Store(Arc::new(Blocking::on(Backing::on(path, Medium { file, disk: self.clone() }))))
    }

    fn takes_writes(&self) -> io::Result<()> {
        let is_full = self.is_full.load(Ordering::SeqCst);
        if is_full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

#[derive(Debug)]
struct Medium {
    file: FileBackend,
    disk: Disk,
}

impl StorageBackend for Medium {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.disk.takes_writes()?;
        self.file.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.takes_writes()?;
        std::thread::sleep(Duration::from_millis(self.disk.flush.load(Ordering::SeqCst)));
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.takes_writes()?;
        self.file.write(offset, data)
    }
}
