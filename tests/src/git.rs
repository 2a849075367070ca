//! A repository of git, and a clone in which someone works.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A bare repository, `home.git`, and a clone of it. Nothing is in them yet.
pub struct Git {
    folder: tempfile::TempDir,
}

impl Git {
    #[expect(clippy::new_without_default, reason = "it runs programs")]
    pub fn new() -> Self {
        let git = Git { folder: tempfile::tempdir().expect("a folder") };
        git.run(git.path(), &["init", "-q", "--bare", "-b", "main", "home.git"]);
        git.run(git.path(), &["init", "-q", "-b", "main", "work"]);
        git.run(&git.work(), &["remote", "add", "origin", &git.url()]);
        git
    }

    /// The folder with both.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The clone.
    pub fn work(&self) -> PathBuf {
        self.path().join("work")
    }

    /// The bare repository, as a `[source]` names it.
    pub fn url(&self) -> String {
        self.path().join("home.git").display().to_string()
    }

    /// Runs git, which must succeed; gives what it printed.
    pub fn run(&self, folder: &Path, words: &[&str]) -> String {
        let output = Command::new("git")
            .args(["-c", "user.name=Ann", "-c", "user.email=ann@home.arpa", "-c", "safe.directory=*"])
            .args(words)
            .current_dir(folder)
            .output()
            .expect("git starts");
        assert!(output.status.success(), "git {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Changes the clone's `bramble.toml`.
    pub fn edit(&self, change: impl FnOnce(String) -> String) {
        let path = self.work().join("bramble.toml");
        let text = std::fs::read_to_string(&path).expect("readable");
        std::fs::write(&path, change(text)).expect("writable");
    }

    /// Commits all of the clone; gives the commit.
    pub fn commit(&self, message: &str) -> String {
        self.run(&self.work(), &["add", "-A"]);
        self.run(&self.work(), &["commit", "-q", "--allow-empty", "-m", message]);
        self.run(&self.work(), &["rev-parse", "HEAD"])
    }

    /// Pushes the branch, rewritten or not.
    pub fn push(&self) {
        self.run(&self.work(), &["push", "-q", "-f", "origin", "main"]);
    }

    /// Commits all, and pushes; gives the commit.
    pub fn publish(&self, message: &str) -> String {
        let commit = self.commit(message);
        self.push();
        commit
    }
}
