//! Where nodes are: the addresses that their agents' connections came from. Nodes let each other in by it.
//!
//! A connection shows its address better than any word: nobody answers from another one. A node has one place, that of its
//! newest connection, and keeps it while it is away: a head that starts anew takes nobody's place from them. A place is one
//! node's: DHCP gives an address that is free again to the next one.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use bramble_model::names::Name;
use bramble_model::repository::Cluster;
use bramble_plan::firewall::Fleet;
use bramble_store::{OnLoss, Record, Store, Table};
use bramble_system::locked;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::error::Error;
use crate::membership;

/// Node → where it was last. Each connection tells it again.
pub(crate) struct PlacesKept;

impl Record for PlacesKept {
    type Key = Name;
    type Value = Place;
    const TABLE: Table = Table::new("places");
    const FORM: u32 = 1;
    const WHAT: &'static str = "the place of";
    const ON_LOSS: OnLoss = OnLoss::BeginAnew;
}

/// Where a node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) address: Ipv4Addr,
}

/// The part of the head that knows it.
pub(crate) struct Places {
    store: Store,
    fleet: Mutex<Arc<Fleet>>,
    /// Held by whoever changes a place until it is written, so that the newest is what is kept. Taken before `fleet`.
    writing: Mutex<()>,
    /// Something of it has changed.
    moved: Notify,
}

impl Places {
    /// # Errors
    /// When the store cannot be read.
    pub(crate) fn open(store: Store) -> Result<Self, Error> {
        let kept = store.blocking().read_all::<PlacesKept>()?.readable;
        let places = kept.into_iter().map(|(node, place)| (node, place.address)).collect();
        // Where it cannot be read, the Swarm's loop says so; declared managers count all the same.
        let managers = membership::swarm(&store).map(|record| record.managers).unwrap_or_default();
        let fleet = Mutex::new(Arc::new(Fleet { places, managers }));
        Ok(Places { store, fleet, writing: Mutex::default(), moved: Notify::new() })
    }

    pub(crate) fn fleet(&self) -> Arc<Fleet> {
        Arc::clone(&locked(&self.fleet))
    }

    /// A node is connected from there, and no other one is there any more. May wait for the disk; where that takes no writes,
    /// it is known until the head ends.
    pub(crate) fn learn(&self, node: &Name, address: Ipv4Addr) {
        let _writing = locked(&self.writing);
        let (is_new, others) = {
            let mut fleet = locked(&self.fleet);
            let is_new = fleet.places.get(node) != Some(&address);
            let there = fleet.places.iter().filter(|(name, place)| **place == address && *name != node);
            let others: Vec<Name> = there.map(|(name, _)| name.clone()).collect();
            if !is_new && others.is_empty() {
                return;
            }
            let places = &mut Arc::make_mut(&mut fleet).places;
            for other in &others {
                places.remove(other);
            }
            places.insert(node.clone(), address);
            (is_new, others)
        };
        others.iter().for_each(|other| self.write(other, None));
        if is_new {
            self.write(node, Some(Place { address }));
        }
        self.moved.notify_one();
    }

    /// Whom the head's record has as managers of the Swarm.
    pub(crate) fn managers_are(&self, managers: &BTreeSet<Name>) {
        let mut fleet = locked(&self.fleet);
        if fleet.managers != *managers {
            Arc::make_mut(&mut fleet).managers.clone_from(managers);
            self.moved.notify_one();
        }
    }

    /// Forgets where those were that are neither nodes nor managers any more.
    pub(crate) fn follow(&self, cluster: &Cluster) {
        let _writing = locked(&self.writing);
        let gone: Vec<Name> = {
            let mut fleet = locked(&self.fleet);
            let is_here = |name: &&Name| cluster.nodes.contains_key(*name) || fleet.managers.contains(*name);
            let gone: Vec<Name> = fleet.places.keys().filter(|name| !is_here(name)).cloned().collect();
            let places = &mut Arc::make_mut(&mut fleet).places;
            for name in &gone {
                places.remove(name);
            }
            gone
        };
        gone.iter().for_each(|node| self.write(node, None));
    }

    /// When something of it has changed since the last time.
    pub(crate) async fn changed(&self) {
        self.moved.notified().await;
    }

    fn write(&self, node: &Name, place: Option<Place>) {
        let written =
            self.store.blocking().update_even_in_memory::<PlacesKept, ()>(node, |kept| kept.clone_from(&place));
        if let Err(error) = written {
            tracing::error!(error = bramble_system::sentence(&error), %node, "where it is could not be written down");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_nodes_and_what_is_kept_is_what_is_known() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&folder.path().join("head.redb"), 1).expect("opens");
        let [w1, w2, w3] = ["w1", "w2", "w3"].map(|name| name.parse::<Name>().expect("a name"));
        let [first, second] = [7, 8].map(|last| Ipv4Addr::new(10, 77, 0, last));
        // As a head of before kept it.
        for node in [&w1, &w2] {
            let keep = |kept: &mut Option<Place>| *kept = Some(Place { address: first });
            store.blocking().update_even_in_memory::<PlacesKept, ()>(node, keep).expect("written");
        }
        let places = Places::open(store.clone()).expect("opens");
        let is_kept = || {
            let again = Places::open(store.clone()).expect("opens");
            assert_eq!(again.fleet().places, places.fleet().places);
        };
        places.learn(&w1, first);
        assert_eq!(places.fleet().places, [(w1.clone(), first)].into());
        is_kept();
        places.learn(&w2, second);
        places.learn(&w3, first);
        assert_eq!(places.fleet().places, [(w2.clone(), second), (w3.clone(), first)].into());
        is_kept();
        // Many at once: whoever was last has it, on the disk, too.
        std::thread::scope(|scope| {
            for node in [&w1, &w2, &w3] {
                let places = &places;
                scope.spawn(move || (0..8).for_each(|at| places.learn(node, if at % 2 == 0 { first } else { second })));
            }
        });
        is_kept();
    }
}
