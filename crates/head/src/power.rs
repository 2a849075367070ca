//! Switching nodes.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use bramble_model::api::{PowerAction, Switched};
use bramble_model::names::{Mac, Name};
use bramble_model::repository::PowerKind;
use bramble_model::timeline::{Millis, What};
use bramble_plan::admission::Record;
use bramble_power::Driver;
use bramble_store::Store;
use bramble_system::now;

use crate::admissions;
use crate::error::Error;
use crate::nodes::Nodes;
use crate::timeline::Timeline;
use crate::wires::Wires;

/// The part of the head that switches nodes, and expects their boots.
pub(crate) struct Power {
    /// The lab's control socket, where the nodes are virtual machines.
    lab: Option<PathBuf>,
    wires: Arc<Wires>,
    nodes: Nodes,
    store: Store,
    timeline: Arc<Timeline>,
}

/// Why a node was not switched.
pub(crate) enum NotSwitched {
    /// It has just left the repository.
    Gone,
    Driver(bramble_power::Error),
    Head(Error),
}

impl Power {
    pub(crate) fn new(
        lab: Option<PathBuf>,
        wires: Arc<Wires>,
        nodes: Nodes,
        store: Store,
        timeline: Arc<Timeline>,
    ) -> Self {
        Power { lab, wires, nodes, store, timeline }
    }

    /// What switches this node.
    fn driver(&self, node: &Name) -> Option<Driver> {
        let declared = self.nodes.declared(node)?;
        Some(match (&self.lab, declared.power) {
            (Some(socket), _) => Driver::Lab { socket: socket.clone() },
            (None, PowerKind::Hand) => Driver::Hand,
            (None, PowerKind::WakeOnLan) => self.wake(declared.macs),
        })
    }

    /// What wakes a machine that listens for it.
    pub(crate) fn wake(&self, cards: Vec<Mac>) -> Driver {
        Driver::WakeOnLan { cards, from: self.wires.address(), broadcast: Ipv4Addr::BROADCAST }
    }

    /// The node's next boot is expected, and one that it has begun since then; gives until when.
    ///
    /// # Errors
    /// When its admission cannot be read, or the store not be written.
    pub(crate) fn expect(&self, node: &Name, since: Millis) -> Result<Millis, Error> {
        admissions::change_even_in_memory(&self.store, node, |record| record.expect(since, now()))
    }

    /// Switches a node on. Its boot is expected once the switch has answered.
    async fn switch_on(&self, node: &Name, driver: &Driver) -> Result<(), NotSwitched> {
        let since = now();
        if let Err(error) = driver.set(node, true).await {
            self.timeline.note_of(node, &format!("was not switched on: {}", bramble_system::sentence(&error)));
            return Err(NotSwitched::Driver(error));
        }
        self.expect(node, since).map_err(NotSwitched::Head)?;
        self.timeline.add(Some(node), What::PowerOn);
        Ok(())
    }

    /// Switches a node; switched on, its next boot is expected. A board whose button a person has to press is
    /// expected as well: nothing was switched, and the answer says who must act, and until when.
    ///
    /// # Errors
    /// When it was not switched, or not in whole.
    pub(crate) async fn switch(&self, node: &Name, action: PowerAction) -> Result<Switched, NotSwitched> {
        let driver = self.driver(node).ok_or(NotSwitched::Gone)?;
        if matches!(driver, Driver::Hand) && action != PowerAction::Off {
            let until = self.expect(node, now()).map_err(NotSwitched::Head)?;
            let switched = Switched::ByHand { until, off_first: action == PowerAction::Cycle };
            self.timeline.note_of(node, "expected: press its button");
            return Ok(switched);
        }
        if matches!(action, PowerAction::Off | PowerAction::Cycle) {
            driver.set(node, false).await.map_err(NotSwitched::Driver)?;
            self.timeline.add(Some(node), What::PowerOff);
        }
        if action == PowerAction::Off {
            // It is not lost: whoever asks in its name while it is off is another one.
            admissions::change_even_in_memory(&self.store, node, Record::leaves).map_err(NotSwitched::Head)?;
        }
        if matches!(action, PowerAction::On | PowerAction::Cycle) {
            self.switch_on(node, &driver).await?;
        }
        Ok(Switched::Done)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bramble_model::timeline::Phase;
    use bramble_plan::admission::EXPECTED_FOR;

    use super::*;
    use crate::adoptions::Adoptions;
    use crate::snapshots::tests::begun;

    /// The power of a head of one node, whose switch is the lab's at this socket.
    fn power(folder: &Path, lab: PathBuf) -> Power {
        let text = "[cluster]\nname = \"c\"\n[network]\ninterface = \"lo\"\n[roles.r]\nengine = \"none\"\n\
            [nodes.w1]\nmac = \"52:54:00:00:00:01\"\nrole = \"r\"\n";
        let (store, snapshots, current) = begun(folder, text);
        let timeline = Arc::new(Timeline::open(store.clone(), &current.cluster, 0).expect("opens"));
        let nodes = Nodes::new(snapshots, Arc::new(Adoptions::open(store.clone()).expect("opens")));
        Power::new(Some(lab), Arc::new(Wires::open(&current.cluster.network)), nodes, store, timeline)
    }

    /// Fault 10 of the ground, of a switch that does not answer.
    #[tokio::test]
    async fn what_was_not_switched_on_is_neither_told_as_on_nor_expected() {
        let folder = tempfile::tempdir().expect("a folder");
        let power = power(folder.path(), folder.path().join("no lab"));
        let w1: Name = "w1".parse().expect("a name");
        let expected = || admissions::change(&power.store, &w1, |record| record.expected_until).expect("read");
        for action in [PowerAction::On, PowerAction::Cycle] {
            let switched = power.switch(&w1, action).await;
            assert!(matches!(switched, Err(NotSwitched::Driver(bramble_power::Error::Lab(_)))));
            assert_eq!(expected(), None);
            let events = power.timeline.of(&w1, 100);
            assert!(!events.iter().any(|event| event.what == What::PowerOn), "{events:?}");
            assert_eq!(power.timeline.look(&w1, |track| track.phase), Some(Phase::Off));
        }
        // What a person was asked for before is expected all the same.
        let until = power.expect(&w1, now()).expect("written");
        assert!(power.switch(&w1, PowerAction::On).await.is_err());
        assert_eq!(expected(), Some(until));
        assert!(until <= now() + EXPECTED_FOR);
    }
}
