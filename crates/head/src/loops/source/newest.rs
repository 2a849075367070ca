//! What was found of the newest commit, kept: with its repository away, a head that has just started says what waits.

use bramble_model::names::Digest;
use bramble_model::repository::Source;
use bramble_plan::source::{Newest, Obstacle};
use bramble_store::{OnLoss, Record, Store, Table};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::snapshots::{Current, Snapshots};

/// The newest commit, as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Found {
    #[serde(flatten)]
    pub(crate) newest: Newest,
    pub(crate) against: Against,
}

impl Found {
    /// Whether it is still so. A commit that does not check does so whatever is current.
    pub(super) fn holds(&self, now: &Against) -> bool {
        match self.newest.obstacle {
            Obstacle::Braked(_) => self.against == *now,
            Obstacle::Unfit(_) => self.against.followed == now.followed,
        }
    }
}

/// What is followed: the address, the branch, and the folder in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Branch {
    pub(crate) git: String,
    pub(crate) branch: String,
    pub(crate) path: String,
}

/// What a commit is judged against.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Against {
    pub(crate) followed: Option<Branch>,
    /// The current snapshot.
    pub(crate) current: Option<Digest>,
    /// Its commit: the newest one descends from it, or not.
    pub(crate) commit: Option<String>,
}

impl Against {
    pub(super) fn of(followed: Option<&Source>, current: Option<&Current>) -> Against {
        Against {
            followed: followed.map(|source| Branch {
                git: source.git.clone(),
                branch: source.branch.clone(),
                path: source.path.clone(),
            }),
            current: current.map(|current| current.digest),
            commit: current.and_then(|current| current.revision.commit.clone()),
        }
    }

    /// As things are.
    pub(super) fn now(snapshots: &Snapshots) -> Against {
        let current = snapshots.current();
        // Where that cannot be read, nothing is followed until it can.
        let followed = current.as_ref().and_then(|current| snapshots.source_of(current).ok().flatten());
        Against::of(followed.as_ref(), current.as_deref())
    }
}

/// `newest` → the newest commit of the repository that is followed, where it did not become current.
pub(crate) struct NewestCommits;

impl Record for NewestCommits {
    type Key = String;
    type Value = Found;
    const TABLE: Table = Table::new("newest-commit");
    const FORM: u32 = 1;
    const WHAT: &'static str = "what was found of the commit";
    const ON_LOSS: OnLoss = OnLoss::BeginAnew;
}

fn key() -> String {
    "newest".into()
}

/// # Errors
/// When that cannot be read.
pub(super) fn kept(store: &Store) -> Result<Option<Found>, Error> {
    Ok(store.blocking().read::<NewestCommits>(&key())?)
}

/// Keeps it, where it is another than before.
///
/// # Errors
/// When the store cannot be read or written.
pub(super) fn keep(store: &Store, newest: Option<&Found>) -> Result<(), Error> {
    if kept(store).is_ok_and(|kept| kept.as_ref() == newest) {
        return Ok(());
    }
    Ok(store.blocking().note::<NewestCommits>(&[(key(), newest)])?)
}
