//! What the store keeps of each node's boots, and what goes when a node goes.

use std::collections::{BTreeMap, BTreeSet};

use bramble_model::names::{Digest, Name};
use bramble_plan::admission::Record as Admission;
use bramble_plan::admission::waiting::Waiting;
use bramble_plan::chain::Chain;
use bramble_plan::hand_off::Record as HandOff;
use bramble_store::{Expect, OnLoss, Record, Store, Table, Version, Why, put, remove};

use crate::error::Error;

/// Node → what is known of its boots.
pub(crate) struct Admissions;

impl Record for Admissions {
    type Key = Name;
    type Value = Admission;
    const TABLE: Table = Table::new("admissions");
    const FORM: u32 = 3;
    const WHAT: &'static str = "the admission of";
    const ON_LOSS: OnLoss = OnLoss::Wait;

    fn older(form: u32, json: &[u8]) -> Result<Admission, Why> {
        match form {
            1 => Ok(serde_json::from_slice::<form_1::Record>(json)?.into()),
            // Every boot had a nonce of the head's then, and none a word for its reports: it reads as it is.
            2 => Ok(serde_json::from_slice(json)?),
            form => Err(Why::UnknownForm { form }),
        }
    }
}

/// As it was before machines kept identities: one boot at a time, and one that was known came back by its MAC address.
mod form_1 {
    use bramble_model::names::{BootId, Digest};
    use bramble_model::timeline::Millis;
    use bramble_plan::admission::{self, Admitted, Cause};
    use serde::Deserialize;

    #[derive(Deserialize)]
    pub(super) struct Record {
        state: State,
        expected_until: Option<Millis>,
        known: bool,
        fingerprint: Option<String>,
        approved: Option<String>,
    }

    #[derive(Deserialize)]
    #[serde(tag = "is", rename_all = "kebab-case")]
    enum State {
        Idle,
        Served(Boot),
        Admitted(Boot),
    }

    #[derive(Deserialize)]
    struct Boot {
        id: BootId,
        nonce: Digest,
        set: Digest,
        at: Millis,
        expected: bool,
    }

    impl From<Record> for admission::Record {
        fn from(record: Record) -> Self {
            let Record { state, expected_until, known, fingerprint, approved } = record;
            let mut now = admission::Record {
                expected_until,
                is_here: known,
                approved: approved.into_iter().collect(),
                ..admission::Record::default()
            };
            match (state, fingerprint) {
                (State::Idle, _) | (State::Admitted(_), None) => {}
                (State::Admitted(Boot { id, nonce, set, .. }), Some(fingerprint)) => {
                    now.admitted = Some(Admitted { boot: id, nonce, set: Some(set), fingerprint });
                }
                (State::Served(Boot { id, nonce, set, at, expected }), _) => {
                    let cause = match (expected, known) {
                        (true, true) => Cause::Lost,
                        (true, false) => Cause::SwitchedOn,
                        (false, _) => Cause::Unknown,
                    };
                    // From where it was asked for, nobody wrote down.
                    let nonce = Some(nonce);
                    now.served.push_back(admission::Boot {
                        id,
                        nonce,
                        report: None,
                        set,
                        at,
                        cause,
                        card: None,
                        by_datagram: false,
                    });
                }
            }
            now
        }
    }
}

/// Node → which other system it was handed. What is lost might be installed twice: a person looks first.
pub(crate) struct HandOffs;

impl Record for HandOffs {
    type Key = Name;
    type Value = HandOff;
    const TABLE: Table = Table::new("hand-offs");
    const FORM: u32 = 2;
    const WHAT: &'static str = "the hand-off of";
    const ON_LOSS: OnLoss = OnLoss::Wait;

    fn older(form: u32, json: &[u8]) -> Result<HandOff, Why> {
        match form {
            // How its boot was asked for was not written down: it reads as it is.
            1 => Ok(serde_json::from_slice(json)?),
            form => Err(Why::UnknownForm { form }),
        }
    }
}

/// Node → the keys that wait there for a person. What is lost waits again.
pub(crate) struct WaitingKeys;

impl Record for WaitingKeys {
    type Key = Name;
    type Value = Waiting;
    const TABLE: Table = Table::new("waiting-keys");
    const FORM: u32 = 1;
    const WHAT: &'static str = "the keys that wait at";
    const ON_LOSS: OnLoss = OnLoss::BeginAnew;
}

/// Node → the chain that ran on it. What is lost is learned again.
pub(crate) struct LastChains;

impl Record for LastChains {
    type Key = Name;
    type Value = Chain;
    const TABLE: Table = Table::new("chains");
    const FORM: u32 = 1;
    const WHAT: &'static str = "the chain of";
    const ON_LOSS: OnLoss = OnLoss::BeginAnew;
}

/// Node → the boot sets that it was ready with, the newest last: those it boots though their time is up. What is lost is
/// learned again.
pub(crate) struct ReadyWith;

impl Record for ReadyWith {
    type Key = Name;
    type Value = Vec<Digest>;
    const TABLE: Table = Table::new("ready-with");
    const FORM: u32 = 1;
    const WHAT: &'static str = "the boot sets that were ready of";
    const ON_LOSS: OnLoss = OnLoss::BeginAnew;
}

/// Boot sets that are remembered of a node.
const READY_SETS: usize = 16;

/// A node is ready with this set.
///
/// # Errors
/// When it cannot be kept.
pub(crate) fn is_ready_with(store: &Store, node: &Name, set: Digest) -> Result<(), Error> {
    if store.blocking().read::<ReadyWith>(node).is_ok_and(|kept| kept.is_some_and(|kept| kept.last() == Some(&set))) {
        return Ok(());
    }
    Ok(store.blocking().update_even_in_memory::<ReadyWith, ()>(node, |kept| {
        let sets = kept.get_or_insert_default();
        sets.retain(|known| *known != set);
        sets.push(set);
        let too_many = sets.len().saturating_sub(READY_SETS);
        sets.drain(..too_many);
    })?)
}

/// Whether a node was ready with this set. What cannot be read is not known, and does not keep a node down.
pub(crate) fn was_ready_with(store: &Store, node: &Name, set: &Digest) -> bool {
    match store.blocking().read::<ReadyWith>(node) {
        Ok(kept) => kept.is_some_and(|kept| kept.contains(set)),
        Err(_) => true,
    }
}

/// Of one node; of one that never booted, the record of that.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn of(store: &Store, node: &Name) -> Result<Admission, Error> {
    Ok(store.blocking().read::<Admissions>(node)?.unwrap_or_default())
}

/// Of all nodes whose record can be read, in one look.
///
/// # Errors
/// When the store cannot be read.
pub(crate) fn all(store: &Store) -> Result<BTreeMap<Name, Admission>, Error> {
    Ok(store.blocking().read_all::<Admissions>()?.readable)
}

/// Reads, changes and writes one record, for a person. On disk when this returns. `change` may be called more than once.
///
/// # Errors
/// When it cannot be read, or the disk takes no writes; then nothing has changed.
pub(crate) fn change<T>(store: &Store, node: &Name, mut change: impl FnMut(&mut Admission) -> T) -> Result<T, Error> {
    Ok(store.blocking().update::<Admissions, T>(node, |kept| change(kept.get_or_insert_default()))?)
}

/// As [`change`], for a boot on its way: it is not held up by a disk that takes no writes. What is lost of it with the
/// process is that it booted; what was approved or revoked is on the disk.
///
/// # Errors
/// When it cannot be read, or the store not be written; then nothing has changed.
pub(crate) fn change_even_in_memory<T>(
    store: &Store,
    node: &Name,
    mut change: impl FnMut(&mut Admission) -> T,
) -> Result<T, Error> {
    Ok(store.blocking().update_even_in_memory::<Admissions, T>(node, |kept| change(kept.get_or_insert_default()))?)
}

/// What waits at one node; nothing where nobody has waited.
///
/// # Errors
/// When it cannot be read.
#[cfg(test)]
pub(crate) fn waiting(store: &Store, node: &Name) -> Result<Waiting, Error> {
    Ok(store.blocking().read::<WaitingKeys>(node)?.unwrap_or_default())
}

/// Changes what waits at a node, also in memory alone: what is lost of it waits again, and so does what cannot be read, which
/// keeps no node out. `change` may be called more than once.
///
/// # Errors
/// When the store cannot be read or written; then nothing has changed.
pub(crate) fn change_waiting<T>(
    store: &Store,
    node: &Name,
    mut change: impl FnMut(&mut Waiting) -> T,
) -> Result<T, Error> {
    loop {
        let version = version_now::<WaitingKeys>(store, node)?;
        let (before, is_lost) = match store.blocking().read::<WaitingKeys>(node) {
            Ok(kept) => (kept.unwrap_or_default(), false),
            Err(bramble_store::Error::Unreadable(record)) => {
                tracing::warn!(%record, "what waits there begins anew");
                (Waiting::default(), true)
            }
            Err(error) => return Err(error.into()),
        };
        let mut waiting = before.clone();
        let told = change(&mut waiting);
        // An agent asks every 15 s, and most of that changes nothing.
        if waiting == before && !is_lost {
            return Ok(told);
        }
        let expect = Expect { table: WaitingKeys::TABLE, key: WaitingKeys::key(node), version };
        let write = match waiting.is_empty() {
            true => remove::<WaitingKeys>(node),
            false => put::<WaitingKeys>(node, &waiting),
        };
        match store.blocking().commit_even_in_memory(&[expect], &[write]) {
            Ok(_) => return Ok(told),
            Err(bramble_store::Error::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Of what is kept of a node, whether it can be read or not.
fn version_now<R: Record<Key = Name>>(store: &Store, node: &Name) -> Result<Version, Error> {
    let entry = store.blocking().get(R::TABLE, &R::key(node))?;
    Ok(entry.map_or(Version::ABSENT, |entry| entry.version))
}

/// The keys of a table that are nodes, of records that cannot be read, too.
fn nodes_in<R: Record<Key = Name>>(store: &Store) -> Result<BTreeSet<Name>, Error> {
    let keys = store.blocking().all(R::TABLE)?.into_iter();
    Ok(keys.filter_map(|(key, _)| key.to_string().parse().ok()).collect())
}

/// Nodes that something is kept of.
///
/// # Errors
/// When the store cannot be read.
pub(crate) fn known_nodes(store: &Store) -> Result<BTreeSet<Name>, Error> {
    let mut known = nodes_in::<Admissions>(store)?;
    known.extend(nodes_in::<HandOffs>(store)?);
    known.extend(nodes_in::<LastChains>(store)?);
    known.extend(nodes_in::<ReadyWith>(store)?);
    known.extend(nodes_in::<WaitingKeys>(store)?);
    Ok(known)
}

/// What a removal expects: that the record is as it is now. One that cannot be read is not removed.
fn as_read<R: Record<Key = Name>>(store: &Store, node: &Name) -> Result<Expect, Error> {
    let (_, version) = store.blocking().read_with_version::<R>(node)?;
    Ok(Expect { table: R::TABLE, key: R::key(node), version })
}

/// Forgets all that is kept of a node. On disk when this returns.
///
/// # Errors
/// When a record of it that is to last cannot be read, or the disk takes no writes; then all of it is still there.
pub(crate) fn forget(store: &Store, node: &Name) -> Result<(), Error> {
    loop {
        let expects = [
            as_read::<Admissions>(store, node)?,
            as_read::<HandOffs>(store, node)?,
            as_read::<LastChains>(store, node)?,
            as_read::<ReadyWith>(store, node)?,
            // Where it cannot be read it goes all the same: it holds nothing that is to last.
            Expect {
                table: WaitingKeys::TABLE,
                key: WaitingKeys::key(node),
                version: version_now::<WaitingKeys>(store, node)?,
            },
        ];
        let writes = [
            remove::<Admissions>(node),
            remove::<HandOffs>(node),
            remove::<LastChains>(node),
            remove::<ReadyWith>(node),
            remove::<WaitingKeys>(node),
        ];
        match store.blocking().commit(&expects, &writes) {
            Ok(_) => return Ok(()),
            Err(bramble_store::Error::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
