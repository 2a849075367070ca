//! What the head remembers of engines, in the store: what makes a blank manager join, and not begin anew.

use bramble_model::names::ClusterId;
use bramble_plan::swarm::{ManagerToken, Memory, Record as Remembered};
use bramble_store::{OnLoss, Record, Store, Table, Why};

use crate::error::Error;

/// Single values by name: where a head before snapshots wrote its Swarm's id. Only read.
pub(crate) struct SingleValues;

impl Record for SingleValues {
    type Key = String;
    type Value = ClusterId;
    const TABLE: Table = Table::new("facts");
    const FORM: u32 = 1;
    const WHAT: &'static str = "the engine's record";
    const ON_LOSS: OnLoss = OnLoss::Wait;
}

/// Engine → what is remembered of its cluster.
pub(crate) struct Engines;

impl Record for Engines {
    type Key = String;
    type Value = Remembered;
    const TABLE: Table = Table::new("engines");
    const FORM: u32 = 2;
    const WHAT: &'static str = "what is remembered of the engine";
    const ON_LOSS: OnLoss = OnLoss::Wait;

    fn older(form: u32, json: &[u8]) -> Result<Remembered, Why> {
        match form {
            1 => Ok(serde_json::from_slice::<form_1::Record>(json)?.into()),
            form => Err(Why::UnknownForm { form }),
        }
    }
}

/// As it was before the Swarm's CA was pinned.
mod form_1 {
    use std::collections::BTreeSet;

    use bramble_model::names::{ClusterId, Name};
    use bramble_plan::swarm::{self, ManagerToken};
    use serde::Deserialize;

    #[derive(Deserialize)]
    pub(super) struct Record {
        memory: Memory,
        #[serde(default)]
        managers: BTreeSet<Name>,
        #[serde(default)]
        former: BTreeSet<ClusterId>,
        #[serde(default)]
        without: Option<BTreeSet<Name>>,
    }

    #[derive(Deserialize)]
    #[serde(tag = "is", rename_all = "kebab-case")]
    enum Memory {
        Never,
        Lost,
        Begun { node: Name },
        Swarm { cluster: ClusterId },
    }

    impl From<Record> for swarm::Record {
        fn from(record: Record) -> Self {
            let Record { memory, managers, former, without } = record;
            // No token was ever rotated: whoever has been a manager knows it.
            let (memory, token) = match memory {
                Memory::Never => (swarm::Memory::Never, ManagerToken::Kept),
                Memory::Lost => (swarm::Memory::Lost, ManagerToken::Out),
                Memory::Begun { node } => (swarm::Memory::Begun { node }, ManagerToken::Kept),
                Memory::Swarm { cluster } => (swarm::Memory::Swarm { cluster }, ManagerToken::Out),
            };
            swarm::Record { memory, managers, ca: None, token, former, without }
        }
    }
}

/// The Swarm's id, among the facts.
const CLUSTER: &str = "cluster";
/// The Swarm, among the engines.
pub(crate) const SWARM: &str = "swarm";

/// Where nothing is remembered: a store that has no word on it may have forgotten one.
fn before(store: &Store) -> Result<Remembered, Error> {
    let cluster = store.blocking().read::<SingleValues>(&CLUSTER.to_owned())?;
    let memory = cluster.map_or(Memory::Lost, |cluster| Memory::Swarm { cluster });
    // That head rotated no token.
    Ok(Remembered { token: ManagerToken::Out, ..Remembered::new(memory) })
}

/// What is remembered of the Swarm.
///
/// # Errors
/// When it cannot be read; that is not "there is none".
pub(crate) fn swarm(store: &Store) -> Result<Remembered, Error> {
    match store.blocking().read::<Engines>(&SWARM.to_owned())? {
        Some(remembered) => Ok(remembered),
        None => before(store),
    }
}

/// Reads, changes and writes what is remembered of the Swarm. On disk when this returns: a Swarm that is begun under a
/// word that a power cut takes back is begun a second time. `change` may be called more than once.
///
/// # Errors
/// When the one before cannot be read, or the disk takes no writes; then nothing has changed.
pub(crate) fn change_swarm<T>(store: &Store, mut change: impl FnMut(&mut Remembered) -> T) -> Result<T, Error> {
    let before = before(store)?;
    let key = SWARM.to_owned();
    Ok(store.blocking().update::<Engines, T>(&key, |kept| change(kept.get_or_insert_with(|| before.clone())))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_without_a_word_may_have_forgotten_and_one_of_before_has_its_swarm() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(&folder.path().join("head.redb"), 1).expect("opens");
        assert_eq!(swarm(&store).expect("read").memory, Memory::Lost);
        let key = CLUSTER.to_owned();
        let abc: ClusterId = "abc".parse().expect("an id");
        store.blocking().update::<SingleValues, ()>(&key, |kept| *kept = Some(abc.clone())).expect("written");
        assert_eq!(swarm(&store).expect("read").cluster(), Some(&abc));
        change_swarm(&store, |record| record.give_up(&abc)).expect("written");
        assert_eq!(swarm(&store).expect("read").memory, Memory::Lost, "the newer word counts");
    }

    /// The store in memory, as it is when its disk takes no writes: whoever asks an agent after this would have no word
    /// of it after a power cut.
    #[test]
    fn nothing_is_written_down_that_would_not_last() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(&folder.path().join("no folder/head.redb"), 1).expect("opens in memory");
        assert!(store.blocking().trouble().is_some());
        let never = |kept: &mut Option<Remembered>| *kept = Some(Remembered::new(Memory::Never));
        store.blocking().update_even_in_memory::<Engines, ()>(&SWARM.to_owned(), never).expect("written");
        let node = "m1".parse().expect("a name");
        let error = change_swarm(&store, |record| record.begin(&node)).expect_err("it would not last");
        assert!(bramble_system::sentence(&error).contains("takes no writes"), "{error}");
        assert!(error.help().is_some_and(|help| help.contains("make room")), "{error}");
        assert_eq!(swarm(&store).expect("read").memory, Memory::Never, "nothing has changed");
    }
}
