//! Why there is no commit, in one sentence each, and what to do about it.

use std::path::PathBuf;
use std::time::Duration;

use bramble_model::source::Wrong;
use bramble_system::{CommandError, Failure};

#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("'{url}' does not answer\n  {detail}")]
    Away { url: String, detail: String },
    #[error("there is no repository at '{url}'\n  {detail}")]
    NoRepository { url: String, detail: String },
    #[error("'{url}' has moved to '{to}'")]
    Moved { url: String, to: String },
    #[error("'{url}' does not let the head in\n  {detail}")]
    Refused { url: String, detail: String },
    #[error("the host key of '{host}' is not the one that was pinned ({pinned})")]
    HostKeyChanged { host: String, pinned: String },
    #[error("'{url}' has no branch '{branch}'")]
    BranchMissing { url: String, branch: String },
    #[error("the repository holds more than {limit} bytes with its history")]
    TooLarge { limit: u64 },
    #[error("commit {commit} is not signed")]
    Unsigned { commit: String },
    #[error("commit {commit} is signed by none of `signers`")]
    StrangeSigner { commit: String },
    #[error("a key in `signers` cannot be read\n  {detail}")]
    SignerUnreadable { detail: String },
    #[error("commit {commit} has no folder '{path}'")]
    PathMissing { commit: String, path: String },
    #[error("'{path}' of commit {commit} is a link")]
    PathIsLink { commit: String, path: String },
    #[error("'{submodule}' of commit {commit} is a submodule, and the path lies in it")]
    Submodule { commit: String, submodule: String },
    #[error("{commit} is no commit that was fetched")]
    NotACommit { commit: String },
    #[error("'{url}' sends what git does not accept\n  {detail}")]
    Damaged { url: String, detail: String },
    #[error("there are more than {most} files")]
    TooManyFiles { most: usize },
    #[error("'{path}' has {size} bytes, more than {limit}")]
    FileTooLarge { path: String, size: u64, limit: u64 },
    #[error("the files have more than {limit} bytes together")]
    FilesTooLarge { limit: u64 },
    #[error("git took longer than {} s and was stopped", .limit.as_secs())]
    TimeOver { limit: Duration },
    #[error("stopped on request")]
    Cancelled,
    #[error("{program} is not installed")]
    Missing { program: String },
    #[error("the token file {} cannot be read", .path.display())]
    TokenUnreadable { path: PathBuf },
    #[error("the deploy key {} is missing", .path.display())]
    KeyMissing { path: PathBuf },
    #[error("{} is in use by another process", .folder.display())]
    InUse { folder: PathBuf },
    #[error("a setting of the source is wrong")]
    Setting(#[source] Wrong),
    #[error("cannot {doing} {}", .path.display())]
    File { doing: &'static str, path: PathBuf, source: std::io::Error },
    #[error("git cannot {doing}")]
    Git { doing: &'static str, source: CommandError },
}

impl Problem {
    /// What a person does about it.
    pub fn help(&self) -> &'static str {
        match self {
            Problem::Away { .. } => "the head tries again by itself; see whether the server and the network are up",
            Problem::NoRepository { .. } => {
                "see whether the address is right, and whether the repository is private: many servers say so of one \
                 that the key or token may not read"
            }
            Problem::Moved { .. } => "write the new address as `git`",
            Problem::Refused { .. } => {
                "give the server the head's deploy key (`bramble source key` prints it), or name a token that may read"
            }
            Problem::HostKeyChanged { .. } => {
                "someone may stand between the head and the server. Ask the server's owner for its new fingerprint; if \
                 it is right, `bramble source forget-host` lets the next fetch pin it"
            }
            Problem::BranchMissing { .. } => "push the branch again, or name another one as `branch`",
            Problem::TooLarge { .. } => {
                "keep large files out of the repository (their history counts, too), or begin one without its history"
            }
            Problem::Unsigned { .. } => "sign it (`git commit -S`), or take `signers` out",
            Problem::StrangeSigner { .. } => {
                "see who pushed it. If that person may change the cluster, add the key to `signers`"
            }
            Problem::SignerUnreadable { .. } => "give each key as `ssh-add -L` or `gpg --armor --export` prints it",
            Problem::PathMissing { .. } => "write a folder that the branch has as `path`",
            Problem::PathIsLink { .. } => "write the folder that the link leads to as `path`",
            Problem::Submodule { .. } => "submodules are not fetched: follow the other repository itself",
            Problem::NotACommit { .. } => "fetch first; a commit that was never on the branch is not here",
            Problem::Damaged { .. } => "run `git fsck` in the repository, and push what it finds anew",
            Problem::TooManyFiles { .. } | Problem::FileTooLarge { .. } | Problem::FilesTooLarge { .. } => {
                "keep what the cluster does not need in another repository, or name a folder as `path`"
            }
            Problem::TimeOver { .. } => {
                "the head tries again; a large repository over a slow line needs a longer limit"
            }
            Problem::Cancelled => "start it again",
            Problem::Missing { .. } => "install git, openssh-client and gnupg on the head",
            Problem::TokenUnreadable { .. } => "write the token into that file, readable for the head",
            Problem::KeyMissing { .. } => "make one, and give its public half to the server",
            Problem::InUse { .. } => "only one head follows git from one folder: end the other one",
            Problem::Setting(wrong) => wrong.help,
            Problem::File { .. } => "see whether the disk is full or read-only, and who owns the folder",
            Problem::Git { .. } => "see what git says; where its folder is damaged, remove it, and it is fetched anew",
        }
    }

    /// Whether trying again later can help without a person or a push.
    pub fn may_pass(&self) -> bool {
        matches!(self, Problem::Away { .. } | Problem::TimeOver { .. } | Problem::InUse { .. } | Problem::File { .. })
    }

    pub(crate) fn file(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Problem {
        let path = path.into();
        move |source| Problem::File { doing, path, source }
    }

    /// What a failed program means wherever its work does not matter.
    pub(crate) fn program(doing: &'static str, error: CommandError) -> Problem {
        match error.failure {
            Failure::NotFound => Problem::Missing { program: error.program },
            Failure::TimedOut(limit) => Problem::TimeOver { limit },
            Failure::TooLarge(limit) => Problem::TooLarge { limit },
            Failure::Cancelled => Problem::Cancelled,
            _ => Problem::Git { doing, source: error },
        }
    }
}
