//! What a fetch is told: what was written about the source, how one gets in, and what it may take.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use bramble_model::snapshot::LARGEST;
use bramble_model::source::{Branch, Inside, Signer, Transport, Url, Wrong};

/// Everything that a fetch is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub git: Url,
    pub branch: Branch,
    /// The folder inside the repository that holds the cluster.
    pub path: Inside,
    /// Who may sign. Empty: signatures are not asked for.
    pub signers: Vec<Signer>,
    pub credentials: Credentials,
}

/// How one gets into a private repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Credentials {
    #[default]
    None,
    /// A private SSH key in this file; [`crate::Keys::deploy_key`] makes one.
    DeployKey(PathBuf),
    /// The first line of this file is the token or the password, as `NAME:TOKEN` where the name is not `git`. It is read
    /// at each fetch.
    TokenFile(PathBuf),
}

impl Settings {
    /// Looks at what must fit together.
    ///
    /// # Errors
    /// When the credentials are of another kind than the address takes, or would travel in the clear.
    pub fn check(&self) -> Result<(), Wrong> {
        match (&self.credentials, self.git.transport()) {
            (Credentials::TokenFile(_), _) => self.git.takes_token(),
            (Credentials::DeployKey(_), Transport::Http { .. } | Transport::Local(_)) => Err(Wrong {
                subject: "key",
                wrong: format!("`{}` takes no deploy key", self.git),
                help: "a deploy key goes with an ssh address (git@host:path); https takes a token in a file",
            }),
            _ => Ok(()),
        }
    }
}

/// A commit, by all 40 digits of its name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Commit(String);

impl Commit {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Commit {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        if text.len() == 40 && text.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f')) {
            return Ok(Commit(text.to_owned()));
        }
        let help = "give all 40 digits, as `git rev-parse` prints them";
        Err(Wrong {
            subject: "revision",
            wrong: format!("`{}` is no full name of a commit", text.escape_debug()),
            help,
        })
    }
}

/// What a fetch or a reading of the files may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest that one call may take.
    pub time: std::time::Duration,
    /// The most that the repository may hold here, with its history, in bytes.
    pub repository: u64,
    /// The largest file of a commit, in bytes.
    pub file: u64,
    /// The most that all files of a commit may hold together, in bytes.
    pub all: u64,
}

impl Default for Limits {
    /// Two minutes, a repository of 2 GB, in one file of a commit and in all of them what a snapshot may hold.
    fn default() -> Self {
        let time = std::time::Duration::from_secs(120);
        Limits { time, repository: 2 << 30, file: LARGEST, all: LARGEST }
    }
}

/// Whether a file holds a token that can be used; it is read by git's helper, never here.
pub(crate) fn is_readable(path: &Path) -> bool {
    std::fs::File::open(path).is_ok()
}
