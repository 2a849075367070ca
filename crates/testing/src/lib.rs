//! For unit tests: several users, and mounts of their own, whoever runs them; and TPMs.

mod chip;
mod hostile;

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

pub use chip::Chip;
pub use hostile::{HOSTILE, obeyed, poisoned};

/// Any number that is nobody's.
pub const USER: u32 = 12_345;

/// Says that a process is the one that [`as_root`] made.
const INSIDE: &str = "BRAMBLE_TEST_IS_ROOT";

/// Runs the test of this name as root with mounts of its own. Where a user runs the tests, it is root of a namespace
/// whose other users are those that subuid(5) gives that user. `false` in the process that only waited for it.
pub fn as_root(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let users: &[&str] = if rustix::process::geteuid().is_root() { &[] } else { &["--map-root-user", "--map-auto"] };
    let mut command = Command::new("unshare");
    command.arg("--mount").args(users).arg(std::env::current_exe().expect("this program"));
    let ended = command.args([test, "--exact", "--include-ignored"]).env(INSIDE, "").output().expect("unshare starts");
    let [said, failed] = [&ended.stdout, &ended.stderr].map(|text| String::from_utf8_lossy(text));
    // Of a name that no test has, none fails.
    assert!(ended.status.success() && said.contains("1 passed"), "{test} failed as root:\n{said}{failed}");
    false
}

/// Gives a file or a folder to [`USER`].
pub fn given(path: &Path) {
    chown(path, Some(USER), Some(USER)).expect("root may");
}

/// What is not [`USER`]'s of a folder and all below it.
pub fn not_given(folder: &Path) -> Vec<PathBuf> {
    let data = fs::symlink_metadata(folder).expect("there");
    let mut found = Vec::new();
    if (data.uid(), data.gid()) != (USER, USER) {
        found.push(folder.to_owned());
    }
    if data.is_dir() {
        found.extend(fs::read_dir(folder).expect("a folder").flat_map(|entry| not_given(&entry.expect("read").path())));
    }
    found
}
