//! Earlier releases, as their own programs.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use crate::workspace;

/// The last commit whose head and agents speak version 1 of their protocol.
pub const PROTOCOL_1: &str = "5b09a284021d01f6f863ee8477c0846d9a30cc9c";

/// What programs are built for here.
const TARGET: &str = "x86_64-unknown-linux-musl";

/// The `bramble` of this commit: built once, which takes minutes, and then kept in the user's cache.
pub fn program_of(commit: &str) -> PathBuf {
    let folder = cache().join("bramble/generations").join(commit);
    let program = folder.join("bramble");
    fs::create_dir_all(&folder).expect("a folder");
    let lock = File::create(folder.join("lock")).expect("a lock");
    lock.lock().expect("nobody else builds it");
    if program.exists() {
        return program;
    }
    eprintln!("      … building bramble of {commit}");
    let (source, target) = (folder.join("source"), folder.join("target"));
    fs::create_dir_all(&source).expect("a folder");
    let archive = folder.join("source.tar");
    must(Command::new("git").args(["archive", "-o"]).arg(&archive).arg(commit).current_dir(workspace()));
    must(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&source));
    must(
        Command::new("cargo")
            .args(["build", "--release", "--locked", "--quiet", "-p", "bramble", "--target", TARGET, "--target-dir"])
            .arg(&target)
            .current_dir(&source),
    );
    // What has the program's own name is whole.
    let new = folder.join("bramble.new");
    fs::copy(target.join(TARGET).join("release/bramble"), &new).expect("copied");
    fs::rename(&new, &program).expect("renamed");
    for left in [&source, &target] {
        fs::remove_dir_all(left).expect("removed");
    }
    fs::remove_file(&archive).expect("removed");
    program
}

fn cache() -> PathBuf {
    let own = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    own.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("a home")).join(".cache"))
}

fn must(command: &mut Command) {
    let output = command.output().expect("it starts");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{told}", output.status);
}
