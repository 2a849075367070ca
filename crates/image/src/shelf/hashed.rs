//! What files contain, remembered: gigabytes are hashed once, and again when the file has changed. A start of the program
//! forgets it all, so that what a disk damages without a word is found then.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use bramble_model::names::Digest;
use bramble_system::locked;

use crate::site::digest_of;

/// Files that are remembered. More than that, and all are hashed anew.
const MOST: usize = 4096;

/// What a file is, whatever it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Inode {
    device: u64,
    number: u64,
}

/// As it was when it was hashed: once it is written to, it is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified: (i64, i64),
}

fn look(data: &Metadata) -> (Inode, Stamp) {
    let inode = Inode { device: data.dev(), number: data.ino() };
    (inode, Stamp { size: data.len(), modified: (data.mtime(), data.mtime_nsec()) })
}

#[derive(Debug, Clone, Default)]
pub(super) struct Hashed(Arc<Mutex<BTreeMap<Inode, (Stamp, Digest)>>>);

impl Hashed {
    /// Whether the file at `path` is what `digest` says. One that cannot be read is not.
    pub(super) fn holds(&self, path: &Path, digest: &Digest, size: u64) -> bool {
        let Ok(data) = fs::metadata(path) else { return false };
        if !data.is_file() || data.len() != size {
            return false;
        }
        let (inode, stamp) = look(&data);
        if let Some((seen, found)) = self.known().get(&inode)
            && *seen == stamp
        {
            return found == digest;
        }
        let Ok(found) = digest_of(path) else { return false };
        self.remember(inode, stamp, found);
        found == *digest
    }

    /// The file at `path` was hashed while it was written, or read.
    pub(super) fn note(&self, path: &Path, digest: Digest) {
        if let Ok(data) = fs::metadata(path) {
            let (inode, stamp) = look(&data);
            self.remember(inode, stamp, digest);
        }
    }

    fn remember(&self, inode: Inode, stamp: Stamp, digest: Digest) {
        let mut known = self.known();
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(inode, (stamp, digest));
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<Inode, (Stamp, Digest)>> {
        locked(&self.0)
    }
}
