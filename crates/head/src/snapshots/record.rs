//! What the store keeps of snapshots.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bramble_model::hands::Data;
use bramble_model::names::{Digest, Name};
use bramble_model::repository::Source;
use bramble_model::snapshot::{Revision, Snapshot};
use bramble_model::timeline::Millis;
use bramble_store::{Expect, Key, OnLoss, Record, Store, Table, Unreadable, Why, Write, put, remove};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::readable::Readable;

/// A snapshot that the head has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub(crate) snapshot: Snapshot,
    pub(crate) revision: Revision,
    /// When it last became current.
    pub(crate) at: Millis,
}

/// Which snapshot is current.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pointer {
    pub(crate) digest: Digest,
    pub(crate) at: Millis,
    pub(crate) by: String,
    /// Why the head does not follow its git repository.
    #[serde(default)]
    pub(crate) held: Option<Held>,
}

/// Following git is held. Form 1 of the pointer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Held {
    pub(crate) since: Millis,
    pub(crate) by: String,
    pub(crate) reason: String,
}

impl From<Held> for bramble_model::desired::Held {
    fn from(Held { since, by, reason }: Held) -> Self {
        bramble_model::desired::Held { since, by, reason }
    }
}

/// What becomes of following git when a snapshot becomes current.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Follow {
    /// It came by following: where a person holds that meanwhile, it does not become current.
    Came,
    /// It goes on, or stays held, as before.
    AsBefore,
    /// It is held from now on, and why.
    Held(String),
    /// Nothing that was held before counts any more.
    Free,
}

impl Follow {
    /// As the history has it.
    pub(crate) fn reason(&self) -> Option<String> {
        match self {
            Follow::Held(reason) => Some(reason.clone()),
            Follow::Came | Follow::AsBefore | Follow::Free => None,
        }
    }
}

/// A line of the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Applied {
    pub(crate) digest: Digest,
    pub(crate) revision: Revision,
    pub(crate) at: Millis,
    /// `ann`, `root on the head`, `git`.
    pub(crate) by: String,
    /// What was different from the one before, in short sentences.
    pub(crate) changed: Vec<String>,
    /// Following git is held from now on, and why.
    #[serde(default)]
    pub(crate) holds: Option<String>,
    /// Nodes whose machines the one before had and this one has not. A former bramble passes over it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) removed: BTreeSet<Name>,
}

/// Snapshot's digest → what the repository said, and where that came from.
pub(crate) struct Snapshots;

impl Record for Snapshots {
    type Key = Digest;
    type Value = Stored;
    const TABLE: Table = Table::new("snapshots");
    const FORM: u32 = 1;
    const WHAT: &'static str = "snapshot";
    const ON_LOSS: OnLoss = OnLoss::Wait;
}

/// Digest → a small file of a snapshot.
pub(crate) struct Contents;

impl Record for Contents {
    type Key = Digest;
    type Value = Data;
    const TABLE: Table = Table::new("contents");
    const FORM: u32 = 1;
    const WHAT: &'static str = "the file of a snapshot with digest";
    const ON_LOSS: OnLoss = OnLoss::Wait;
}

/// `current` → which snapshot is.
pub(crate) struct Pointers;

impl Record for Pointers {
    type Key = String;
    type Value = Pointer;
    const TABLE: Table = Table::new("desired");
    const FORM: u32 = 1;
    const WHAT: &'static str = "which snapshot is";
    const ON_LOSS: OnLoss = OnLoss::Wait;
}

/// Number → which snapshot became current, when and by whom.
pub(crate) struct History;

impl Record for History {
    type Key = u64;
    type Value = Applied;
    const TABLE: Table = Table::new("history");
    const FORM: u32 = 1;
    const WHAT: &'static str = "line of the history";
    const ON_LOSS: OnLoss = OnLoss::Wait;

    fn key(key: &u64) -> Key {
        Key::Number(*key)
    }
}

/// `source` → the git repository with which the head was begun.
pub(crate) struct BegunWith;

impl Record for BegunWith {
    type Key = String;
    type Value = Source;
    const TABLE: Table = Table::new("begun-with");
    const FORM: u32 = 1;
    const WHAT: &'static str = "the repository of";
    const ON_LOSS: OnLoss = OnLoss::Wait;
}

/// Snapshots that stay.
pub(crate) const KEPT: usize = 50;
/// Lines of the history that are kept, and those younger than a day that took nodes away.
const REMEMBERED: u64 = 1000;
/// For so long it counts which nodes were taken away.
pub(crate) const DAY: Millis = 24 * 3600 * 1000;

fn current_key() -> String {
    "current".into()
}

/// The snapshot that is current.
///
/// # Errors
/// When that cannot be read; as of all that follow.
pub(crate) fn current(store: &Store) -> Result<Option<Pointer>, Error> {
    Ok(store.blocking().read::<Pointers>(&current_key())?)
}

/// The pointer to the current one, where that is not in the store: it leads nowhere.
pub(crate) fn dangling(store: &Store) -> Result<Option<Unreadable>, Error> {
    let key = Pointers::key(&current_key());
    let (Ok(Some(pointer)), Some(entry)) = (current(store), store.blocking().get(Pointers::TABLE, &key)?) else {
        return Ok(None);
    };
    if store.blocking().get(Snapshots::TABLE, &Snapshots::key(&pointer.digest))?.is_some() {
        return Ok(None);
    }
    let why = Why::Damaged(format!("snapshot {} is not in the store", pointer.digest.short()));
    Ok(Some(Unreadable::new::<Pointers>(key, entry, why)))
}

pub(crate) fn known(store: &Store, digest: &Digest) -> Result<Option<Stored>, Error> {
    Ok(store.blocking().read::<Snapshots>(digest)?)
}

/// All that can be read.
pub(crate) fn all_known(store: &Store) -> Result<BTreeMap<Digest, Stored>, Error> {
    Ok(store.blocking().read_all::<Snapshots>()?.readable)
}

/// A small content.
pub(crate) fn content(store: &Store, digest: &Digest) -> Result<Option<Vec<u8>>, Error> {
    Ok(store.blocking().read::<Contents>(digest)?.map(|data| data.0))
}

/// Makes a snapshot current, with its contents and its line in the history, in one transaction. Gives the snapshots
/// that had their time.
///
/// # Errors
/// When something that would be written over cannot be read, or the disk takes no writes; then nothing has changed:
/// nodes follow what is current, and it would be another one after a power cut.
pub(crate) fn make_current(
    store: &Store,
    digest: &Digest,
    known: &Stored,
    small: &[(Digest, Arc<[u8]>)],
    applied: &Applied,
    follow: &Follow,
) -> Result<Vec<Digest>, Error> {
    let store = store.blocking();
    loop {
        let (kept, version) = store.read_with_version::<Pointers>(&current_key())?;
        let expect = Expect { table: Pointers::TABLE, key: Pointers::key(&current_key()), version };
        // A record that cannot be read is not written over.
        store.read::<Snapshots>(digest)?;
        let all = store.read_all::<Snapshots>()?;
        // One that waits for a person may need any of the contents: until then none goes, and no snapshot that names them.
        let kept_at_most = if all.unreadable.is_empty() { KEPT } else { usize::MAX };
        let mut others: Vec<(Digest, Stored)> = all.readable.into_iter().collect();
        others.retain(|(kept, _)| kept != digest);
        others.sort_by_key(|(_, known)| std::cmp::Reverse(known.at));
        let gone: Vec<Digest> = others.iter().skip(kept_at_most - 1).map(|(digest, _)| *digest).collect();
        let stay = others.iter().take(kept_at_most - 1).map(|(_, known)| known).chain([known]);
        let needed: BTreeSet<Digest> = stay.flat_map(|known| known.snapshot.contents().into_keys()).collect();
        let left: BTreeSet<Digest> = others
            .iter()
            .filter(|(digest, _)| gone.contains(digest))
            .flat_map(|(_, known)| known.snapshot.contents().into_keys())
            .filter(|content| !needed.contains(content))
            .collect();
        let held = match follow {
            Follow::Came | Follow::Free => None,
            Follow::AsBefore => kept.and_then(|kept| kept.held),
            Follow::Held(reason) => Some(Held { since: applied.at, by: applied.by.clone(), reason: reason.clone() }),
        };
        let pointer = Pointer { digest: *digest, at: applied.at, by: applied.by.clone(), held };
        let number = store.last_number(History::TABLE)? + 1;
        let mut writes = vec![
            put::<Snapshots>(digest, known),
            put::<Pointers>(&current_key(), &pointer),
            put::<History>(&number, applied),
        ];
        let end = number.saturating_sub(REMEMBERED);
        writes.extend(forgotten(&store.read_before::<History>(end)?.readable, end, applied.at));
        writes.extend(gone.iter().map(remove::<Snapshots>));
        writes.extend(left.iter().map(remove::<Contents>));
        writes.extend(small.iter().map(|(digest, bytes)| put::<Contents>(digest, &Data(bytes.to_vec()))));
        match store.commit(&[expect], &writes) {
            Ok(_) => return Ok(gone),
            Err(bramble_store::Error::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Which of the lines of the history before this number go now.
fn forgotten(old: &BTreeMap<u64, Applied>, end: u64, now: Millis) -> impl Iterator<Item = Write> {
    let goes = move |line: &Applied| line.removed.is_empty() || line.at <= now.saturating_sub(DAY);
    // Up to the first one that stays they go with those that cannot be read.
    let first = old.iter().find(|(_, line)| !goes(line)).map_or(end, |(number, _)| *number);
    let before = Write::RemoveBefore { table: History::TABLE, number: first };
    let beyond = old.range(first..).filter(move |(_, line)| goes(line)).map(|(number, _)| remove::<History>(number));
    std::iter::once(before).chain(beyond)
}

/// Makes this snapshot, which is kept, the current one where none is, as after a repair.
pub(crate) fn point_again(store: &Store, digest: &Digest, held: &Held) -> Result<(), Error> {
    let again = Pointer { digest: *digest, at: held.since, by: held.by.clone(), held: Some(held.clone()) };
    // A head starts, whatever its disk takes.
    let done = store.blocking().update_even_in_memory::<Pointers, ()>(&current_key(), |kept| {
        kept.get_or_insert_with(|| again.clone());
    });
    match done.map_err(Error::from) {
        // It waits for a person.
        Err(error) if error.is_unreadable() => Ok(()),
        done => done,
    }
}

/// This snapshot, where it is kept, is of this revision from now on. On disk when this returns.
pub(crate) fn revise(store: &Store, digest: &Digest, revision: &Revision) -> Result<(), Error> {
    Ok(store.blocking().update::<Snapshots, ()>(digest, |kept| {
        if let Some(known) = kept {
            known.revision = revision.clone();
        }
    })?)
}

/// Holds following git, or goes on with it. On disk when this returns.
pub(crate) fn hold(store: &Store, held: Option<&Held>) -> Result<(), Error> {
    Ok(store.blocking().update::<Pointers, ()>(&current_key(), |kept| {
        if let Some(pointer) = kept {
            pointer.held = held.cloned();
        }
    })?)
}

/// The latest lines of the history, the newest first.
pub(crate) fn history(store: &Store, most: usize) -> Result<Readable<Applied>, Error> {
    let mut lines = Readable::from(store.blocking().read_last::<History>(most)?).map(|(_, line)| line);
    lines.all.reverse();
    Ok(lines)
}

/// Nodes whose machines a snapshot has taken away since then.
///
/// # Errors
/// When a line cannot be read: it may name some.
pub(crate) fn removed_since(store: &Store, since: Millis) -> Result<BTreeSet<Name>, Error> {
    let lines = store.blocking().read_all::<History>()?;
    if let Some(unreadable) = lines.unreadable.into_iter().next() {
        return Err(bramble_store::Error::from(unreadable).into());
    }
    Ok(lines.readable.into_values().filter(|line| line.at > since).flat_map(|line| line.removed).collect())
}

/// The git repository with which the head was begun.
pub(crate) fn begun_with(store: &Store) -> Result<Option<Source>, Error> {
    Ok(store.blocking().read::<BegunWith>(&"source".to_owned())?)
}

/// On disk when this returns.
pub(crate) fn begin_with(store: &Store, source: &Source) -> Result<(), Error> {
    Ok(store.blocking().update::<BegunWith, ()>(&"source".to_owned(), |kept| *kept = Some(source.clone()))?)
}
