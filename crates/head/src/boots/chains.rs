//! Machines whose firmware starts signed programs only: which chain each is given.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use bramble_boot::Loader;
use bramble_model::names::Name;
use bramble_plan::chain::{Chain, Learned};
use bramble_store::Store;
use bramble_system::locked;

use crate::admissions::LastChains;
use crate::error::Error;

fn ran_last(store: &Store, node: &Name) -> Result<Option<Chain>, Error> {
    Ok(store.blocking().read::<LastChains>(node)?)
}

/// What is lost of it is learned again. One that cannot be read is not written over.
fn keep_chain(store: &Store, node: &Name, chain: Chain) -> Result<(), Error> {
    Ok(store.blocking().update_even_in_memory::<LastChains, ()>(node, |kept| *kept = Some(chain))?)
}

/// What is learned of the machines while the head runs. The chain that ran is in the store.
pub(super) struct Chains {
    store: Store,
    learned: Mutex<HashMap<Name, Learned>>,
}

impl Chains {
    pub(super) fn new(store: Store) -> Self {
        Chains { store, learned: Mutex::default() }
    }

    fn learned(&self) -> MutexGuard<'_, HashMap<Name, Learned>> {
        locked(&self.learned)
    }

    fn with_learned<T>(&self, node: &Name, work: impl FnOnce(&mut Learned) -> T) -> T {
        if let Some(learned) = self.learned().get_mut(node) {
            return work(learned);
        }
        // The store is looked at once for each, and nobody waits for that.
        let ran = ran_last(&self.store, node).unwrap_or_else(|error| {
            tracing::error!(error = bramble_system::sentence(&error), %node, "the chain that ran is learned again");
            None
        });
        work(self.learned().entry(node.clone()).or_insert(Learned::from(ran.unwrap_or_default())))
    }

    /// The chain that this node's firmware is to be given now. `declared` is the repository's word.
    pub(super) fn give(&self, node: &Name, declared: Option<bool>) -> Chain {
        self.with_learned(node, |learned| learned.give(declared))
    }

    /// A loader left whole: the first program of a chain is on trial.
    pub(super) fn sent(&self, node: &Name, file: &str) {
        match Loader::named(file) {
            Some(Loader::Shim(_)) => self.with_learned(node, |learned| learned.sent(Chain::Signed)),
            Some(Loader::Ipxe(_)) => self.with_learned(node, |learned| learned.sent(Chain::Plain)),
            Some(Loader::IpxeBios | Loader::Grub(_) | Loader::MokManager(_)) | None => {}
        }
    }

    /// A loader of this node runs: what it was given works.
    pub(super) fn runs(&self, node: &Name) {
        // A loader asks several times; the store is looked at for the first.
        let Some(ran) = self.with_learned(node, |learned| learned.on_trial().then(|| learned.ran())) else { return };
        let kept = match ran_last(&self.store, node) {
            Ok(last) if last.unwrap_or_default() == ran => return,
            Ok(_) => keep_chain(&self.store, node, ran),
            Err(error) => Err(error),
        };
        if let Err(error) = kept {
            tracing::error!(error = bramble_system::sentence(&error), %node, "the chain that runs could not be stored");
        }
    }
}

#[cfg(test)]
mod tests {
    use bramble_store::{Record, Write};

    use super::*;

    /// Its node boots by what is learned now.
    #[test]
    fn a_chain_that_cannot_be_read_is_not_written_over() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&folder.path().join("head.redb"), 1).expect("opens");
        let (node, key) = ("w1".parse().expect("a name"), "w1".into());
        let torn = Write::Put { table: LastChains::TABLE, key, bytes: b"1 torn".to_vec() };
        store.blocking().commit(&[], &[torn]).expect("written");
        let chains = Chains::new(store.clone());
        assert_eq!(chains.give(&node, Some(true)), Chain::Signed, "the repository's word");
        chains.runs(&node);
        assert!(keep_chain(&store, &node, Chain::Signed).is_err_and(|error| error.is_unreadable()));
        let kept = store.blocking().get(LastChains::TABLE, &"w1".into()).expect("read").expect("there");
        assert_eq!(kept.bytes, b"1 torn");
    }
}
