//! The initrd: stage 1 as `/init`, the key that verifies manifests, and the drivers.
//!
//! Two cpio archives, one after the other (the kernel unpacks both). Plain ones: their bulk, the drivers, is compressed already, and what is not compressed
//! does not have to be unpacked by a slow machine.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use bramble_model::names::Name;
use cpio::newc;

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// The part that changes with the program: stage 1, the public keys that it verifies manifests with, and whose they have to be.
pub(crate) fn write_program(out: impl Write, stage1: &[u8], keys: &[String], cluster: &Name) -> io::Result<()> {
    let mut archive = Archive::new(out);
    for folder in ["dev", "etc", "proc", "run", "sys", "new"] {
        archive.folder(folder)?;
    }
    // The kernel opens this for /init before anything could mount devtmpfs (major 5, minor 1).
    archive.device("dev/console", 5, 1)?;
    archive.entry("init", PROGRAM, stage1)?;
    archive.entry(bramble_boot::KEY_FILE, FILE, keys.join("\n").as_bytes())?;
    archive.entry(bramble_boot::CLUSTER_FILE, FILE, cluster.as_str().as_bytes())?;
    archive.finish()
}

/// The part that changes with the kernel: the files below `/lib/modules/RELEASE/`.
pub(crate) fn write_drivers(out: impl Write, release: &str, files: &BTreeMap<String, Vec<u8>>) -> io::Result<()> {
    let mut archive = Archive::new(out);
    for (path, bytes) in files {
        let path = format!("lib/modules/{release}/{path}");
        for folder in parents(&path) {
            archive.folder(folder)?;
        }
        archive.entry(&path, FILE, bytes)?;
    }
    archive.finish()
}

/// `a/b/c` has the parents `a` and `a/b`.
fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

struct Archive<W> {
    out: W,
    inode: u32,
    folders: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    fn entry(&mut self, name: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        self.inode += 1;
        let size = u32::try_from(bytes.len()).map_err(|_| io::Error::other("a file of the initrd is over 4 GiB"))?;
        let builder = newc::Builder::new(name).ino(self.inode).mode(mode).nlink(1).uid(0).gid(0).mtime(0);
        let mut writer = builder.write(&mut self.out, size);
        writer.write_all(bytes)?;
        writer.finish().map(drop)
    }

    fn device(&mut self, name: &str, major: u32, minor: u32) -> io::Result<()> {
        self.inode += 1;
        let builder = newc::Builder::new(name).ino(self.inode).mode(CHARACTER_DEVICE).nlink(1);
        builder.rdev_major(major).rdev_minor(minor).write(&mut self.out, 0).finish().map(drop)
    }

    fn finish(self) -> io::Result<()> {
        newc::trailer(self.out)?.flush()
    }

    fn new(out: W) -> Self {
        Archive { out, inode: 0, folders: BTreeSet::new() }
    }

    /// A folder, once.
    fn folder(&mut self, name: &str) -> io::Result<()> {
        if self.folders.insert(name.to_owned()) { self.entry(name, FOLDER, &[]) } else { Ok(()) }
    }
}
