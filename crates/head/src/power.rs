//! Switching nodes.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use bramble_model::api::{PowerAction, Switched};
use bramble_model::names::{Mac, Name};
use bramble_model::repository::PowerKind;
use bramble_model::timeline::{Millis, What};
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

    /// The node's next boot is expected; gives until when.
    fn expect(&self, node: &Name) -> Result<Millis, NotSwitched> {
        let expected = admissions::change_even_in_memory(&self.store, node, |record| record.expect(now()));
        expected.map_err(NotSwitched::Head)
    }

    /// Switches a node; switched on, its next boot is expected. A board whose button a person has to press is
    /// expected as well: nothing was switched, and the answer says who must act, and until when.
    ///
    /// # Errors
    /// When it was not switched, or not in whole.
    pub(crate) async fn switch(&self, node: &Name, action: PowerAction) -> Result<Switched, NotSwitched> {
        let driver = self.driver(node).ok_or(NotSwitched::Gone)?;
        if matches!(driver, Driver::Hand) && action != PowerAction::Off {
            let switched = Switched::ByHand { until: self.expect(node)?, off_first: action == PowerAction::Cycle };
            self.timeline.note_of(node, "expected: press its button");
            return Ok(switched);
        }
        if matches!(action, PowerAction::Off | PowerAction::Cycle) {
            driver.set(node, false).await.map_err(NotSwitched::Driver)?;
            self.timeline.add(Some(node), What::PowerOff);
        }
        if matches!(action, PowerAction::On | PowerAction::Cycle) {
            self.expect(node)?;
            // Before it is done, so that what a quick machine does comes behind it.
            self.timeline.add(Some(node), What::PowerOn);
            if let Err(error) = driver.set(node, true).await {
                self.timeline.note_of(node, &format!("was not switched on: {}", bramble_system::sentence(&error)));
                return Err(NotSwitched::Driver(error));
            }
        }
        Ok(Switched::Done)
    }
}
