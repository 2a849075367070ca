//! From the repository to a snapshot: one fetch, and what can be wrong with what came.

use std::collections::BTreeMap;
use std::io::ErrorKind;

use bramble_model::names::Digest;
use bramble_model::repository;
use bramble_model::snapshot::{self, Content, Given, MOST, Revision, Snapshot};
use bramble_model::source::{Url, short};
use bramble_source::{Credentials, Entry, Head, Keys, Limits, Problem, Settings, Source as Git};

use super::Following;
use crate::error::Error;
use crate::snapshots::{Current, Refused, Snapshots, first_error};

/// What a fetch of this repository is told, with the head's own key where there is one.
pub(super) fn settings(source: &repository::Source, keys: Option<&Keys>) -> Result<Settings, Problem> {
    let wrong = Problem::Setting;
    let url: Url = source.git.parse().map_err(wrong)?;
    // A key may have been made, by whoever only looked at it, for an address that takes none.
    let key = keys.map(Keys::deploy_key_file).filter(|key| url.is_ssh() && key.exists());
    let credentials = match (&source.token_file, key) {
        (Some(path), _) => Credentials::TokenFile(path.clone()),
        (None, Some(key)) => Credentials::DeployKey(key),
        (None, None) => Credentials::None,
    };
    Ok(Settings {
        git: url,
        branch: source.branch.parse().map_err(wrong)?,
        path: source.path.parse().map_err(wrong)?,
        signers: source.signers.iter().map(|signer| signer.parse()).collect::<Result<_, _>>().map_err(wrong)?,
        credentials,
    })
}

/// A commit, as files of a snapshot.
pub(super) struct Fetched {
    pub(super) commit: String,
    pub(super) revision: Revision,
    pub(super) snapshot: Snapshot,
    pub(super) contents: BTreeMap<Digest, Content>,
    /// Large files lie here until they are taken.
    _large: tempfile::TempDir,
}

/// Why a look found nothing to follow.
pub(super) enum Stopped {
    /// The newest commit is what is current.
    Current(String),
    /// The newest commit was judged before.
    Judged,
    /// What is wrong, and what to do. It may pass.
    Wrong(String, String),
    /// As that, and the commit itself is to blame: only another one mends it.
    Unfit { commit: String, reason: String },
}

/// What a person does about what may pass.
pub(super) const AGAIN: &str = "the head tries again by itself; the present snapshot stays";

impl From<Problem> for Stopped {
    fn from(problem: Problem) -> Self {
        let help = problem.help().to_owned();
        Stopped::Wrong(bramble_system::sentence(&problem), help)
    }
}

/// What git read, as a snapshot is made of it. What is left out has its place, too: where it is needed, that is said.
fn given(read: bramble_source::Files) -> BTreeMap<String, Given> {
    let given = |entry| match entry {
        Entry::Link { target } => Given::Link { target },
        Entry::File { executable, content } => {
            let content = match content {
                bramble_source::Content::Bytes(bytes) => Content::Bytes(bytes),
                bramble_source::Content::Written(path) => Content::Written(path),
            };
            Given::File { executable, content }
        }
    };
    let refused = read.refused.into_iter().map(|refused| (refused.path, Given::LeftOut { why: refused.why }));
    let why = "is a submodule, and nothing of it is fetched";
    let submodules = read.submodules.into_iter().map(|path| (path, Given::LeftOut { why }));
    let entries = read.entries.into_iter().map(|(path, entry)| (path, given(entry)));
    entries.chain(refused).chain(submodules).collect()
}

/// Gives a commit's files to those that the head has, and checks the whole.
pub(super) fn take(snapshots: &Snapshots, fetched: &Fetched) -> Result<Current, Refused> {
    let (digest, missing) = snapshots.offer(fetched.snapshot.clone(), fetched.revision.clone())?;
    let mut large = BTreeMap::new();
    for content in missing {
        match fetched.contents.get(&content) {
            Some(Content::Bytes(bytes)) => {
                if !snapshots.take_small(bytes) {
                    let full = "too many files wait to be applied: try again";
                    return Err(Error::Snapshot(full.into()).into());
                }
            }
            Some(Content::Written(path)) => drop(large.insert(content, path.clone())),
            None => return Err(Refused::Missing(vec![content])),
        }
    }
    if large.is_empty() {
        return snapshots.find(&digest.to_string());
    }
    snapshots.take(fetched.snapshot.clone(), fetched.revision.clone(), &large)
}

/// Why a commit does not become current, and what a person does.
pub(super) fn refused(commit: &str, refused: Refused) -> Stopped {
    let reason = format!("commit {}: {}", short(commit), bramble_system::sentence(&refused));
    match refused {
        Refused::Problems(_) | Refused::Unsound | Refused::Unfit(_) => {
            Stopped::Unfit { commit: commit.to_owned(), reason }
        }
        Refused::Head(error) => Stopped::Wrong(reason, error.help().unwrap_or(AGAIN).into()),
        Refused::Unknown(_) | Refused::Ambiguous(_) | Refused::Missing(_) | Refused::Gone(_) => {
            Stopped::Wrong(reason, AGAIN.into())
        }
        Refused::Overtaken(_) | Refused::Held => {
            let help = "the present snapshot stays, and `bramble history` says whose it is; `bramble sync` looks again";
            Stopped::Wrong(reason, help.into())
        }
    }
}

/// Why a commit's files are no snapshot. What they say is the commit's fault; what cannot be read may be the disk's.
fn unread(commit: &str, error: &snapshot::Error) -> Stopped {
    let (reason, help) = match error {
        snapshot::Error::Repository(problems) => (first_error(problems), None),
        snapshot::Error::File { path, source } => match source.kind() {
            ErrorKind::NotFound => (format!("there is no {path} in it"), None),
            ErrorKind::InvalidData => (format!("{path} is not UTF-8 text"), None),
            _ => {
                let help = "see whether the head's disk is full or failing; it tries again by itself";
                (bramble_system::sentence(error), Some(help))
            }
        },
        other => (bramble_system::sentence(other), None),
    };
    let reason = format!("commit {}: {reason}", short(commit));
    match help {
        Some(help) => Stopped::Wrong(reason, help.into()),
        None => Stopped::Unfit { commit: commit.to_owned(), reason },
    }
}

impl Following {
    /// Fetches the newest commit, where it is another than the one that was `judged` already. Its files are read `again`
    /// though it is what is current, where some of those were damaged.
    pub(super) fn fetch(
        &self,
        source: &repository::Source,
        current: Option<&Current>,
        judged: Option<&str>,
        again: bool,
    ) -> Result<Fetched, Stopped> {
        let _turn = self.turn();
        let git = Git::open(&self.folder)?;
        let settings = settings(source, Some(&Keys::open(&self.folder)?))?;
        let (limits, cancel) = (Limits::default(), &self.ends);
        let head = git.fetch(&settings, limits, cancel)?;
        let commit = head.commit.to_string();
        let is_current = current
            .is_some_and(|Current { revision, .. }| revision.commit.as_ref() == Some(&commit) && !revision.dirty);
        if is_current && !again {
            return Err(Stopped::Current(commit));
        }
        if !is_current && judged == Some(&commit) {
            return Err(Stopped::Judged);
        }
        self.read(&git, &settings, head)
    }

    /// A commit that was fetched before, by its first digits; `None` where there is none.
    pub(super) fn named(&self, source: &repository::Source, digits: &str) -> Result<Option<Fetched>, Stopped> {
        let _turn = self.turn();
        let git = Git::open(&self.folder)?;
        let settings = settings(source, Some(&Keys::open(&self.folder)?))?;
        let found = git.named(digits, &settings, Limits::default(), &self.ends)?;
        found.map(|head| self.read(&git, &settings, head)).transpose()
    }

    /// The files of a commit that is here.
    fn read(&self, git: &Git, settings: &Settings, head: Head) -> Result<Fetched, Stopped> {
        let commit = head.commit.to_string();
        let file = |error: std::io::Error| {
            Stopped::Wrong(format!("{}: {error}", self.folder.display()), "make room on the head's disk".into())
        };
        let large = tempfile::Builder::new().prefix("export-").tempdir_in(&self.folder).map_err(file)?;
        let read = git.files(&head.commit, &settings.path, MOST, large.path(), Limits::default(), &self.ends)?;
        let (snapshot, contents) = Snapshot::of(&given(read)).map_err(|error| unread(&commit, &error))?;
        let revision = Revision {
            commit: Some(commit.clone()),
            dirty: false,
            author: Some(head.author),
            subject: Some(head.subject),
            at: Some(head.at * 1000),
        };
        Ok(Fetched { commit, revision, snapshot, contents, _large: large })
    }
}

/// Whether a repository with these settings could be followed.
///
/// # Errors
/// The first that is wrong, and what to write.
pub(crate) fn check(source: &repository::Source) -> Result<(), Error> {
    let taken = settings(source, None).and_then(|settings| settings.check().map_err(Problem::Setting));
    taken.map_err(|problem| Error::Snapshot(format!("{}: {}", bramble_system::sentence(&problem), problem.help())))
}
