//! What machines fetch: who they are on the wire, which boot each is handed, and the files of it.
//!
//! ```text
//! DHCP, ARP ──▶ directory ──▶ what firmware fetches first
//! TFTP, HTTP, GRUB ──▶ hand_out ──▶ one boot, stored before it is told ──▶ script, menu, command line
//!                          │
//!                          ├── foreign: nodes that run another system
//!                          └── own: bramble's own
//!                               ├── sets: the set that its files by name come from
//!                               └── index: boot id ▶ node, for reports and files
//! ```
//! [`Boots::hand_out`] is the only thing that begins a boot, whatever loader asks; [`own::OwnBoots::set_for`] is the
//! only one that says which set a node gets.

mod chains;
mod directory;
pub(crate) mod files;
pub(crate) mod foreign;
mod given;
pub(crate) mod grub;
pub(crate) mod http;
mod index;
mod made;
pub(crate) mod own;
pub(crate) mod profiles;
mod sets;
mod tftp;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex};

use bramble_boot::Cpu;
use bramble_image::Shelf;
use bramble_model::names::{Mac, Name};
use bramble_model::timeline::{Millis, What};
use bramble_plan::hand_off::Fetches;
use bramble_store::Store;
use bramble_system::{locked, now};

use crate::adoptions::Adoptions;
use crate::boot_sets::BootSets;
use crate::error::Error;
use crate::neighbours::{Misplaced, Neighbours, Place};
use crate::nodes::Nodes;
use crate::strangers::Strangers;
use crate::timeline::Timeline;
use crate::wires::Wires;
use chains::Chains;
use foreign::ForeignBoots;
use given::Given;
use made::Made;
use own::{Asked, Loaders, OwnBoots};

/// A firmware repeats itself: what it said within this many milliseconds is one event.
const SAME: u64 = 4000;

/// Who asks in a node's name from elsewhere may do so for ever: within this many milliseconds that is one event.
const SAME_REFUSAL: u64 = 60_000;

/// Who asks for a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asker {
    /// A machine, from there.
    /// `by_datagram`: by a single one, which anyone can make up.
    Machine { place: Place, by_datagram: bool },
    /// Pixiecore, for a machine that it has heard.
    Pixiecore,
}

impl Asker {
    /// The card from whose own place it asks, where that is so.
    fn card(self) -> Option<Mac> {
        match self {
            Asker::Machine { place, .. } => place.card(),
            Asker::Pixiecore => None,
        }
    }
}

/// How something asks for a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Over TCP, which nobody speaks in another's name; and what asks there can be told to ask for an address first.
    Stream,
    /// By a datagram, and can be told so.
    Datagram,
    /// By a datagram, of firmware that only asks.
    Firmware,
}

/// The part of the head that hands out boots.
pub(crate) struct Boots {
    wires: Arc<Wires>,
    nodes: Nodes,
    neighbours: Arc<Neighbours>,
    strangers: Arc<Strangers>,
    adoptions: Arc<Adoptions>,
    timeline: Arc<Timeline>,
    made: Made,
    chains: Chains,
    own: OwnBoots,
    foreign: ForeignBoots,
    /// When each node was told last that someone was refused something in its name.
    refused: Mutex<HashMap<Name, Millis>>,
}

/// What is around the boots: who machines are, and where they are told of.
pub(crate) struct Around {
    pub(crate) wires: Arc<Wires>,
    pub(crate) nodes: Nodes,
    pub(crate) neighbours: Arc<Neighbours>,
    pub(crate) strangers: Arc<Strangers>,
    pub(crate) adoptions: Arc<Adoptions>,
    pub(crate) timeline: Arc<Timeline>,
    pub(crate) boot_sets: Arc<BootSets>,
}

impl Boots {
    /// Knows again the boots that were handed out before this start.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) fn open(around: Around, shelf: Shelf, store: &Store, loaders: Loaders) -> Result<Self, Error> {
        let Around { wires, nodes, neighbours, strangers, adoptions, timeline, boot_sets } = around;
        Ok(Boots {
            made: Made::default(),
            chains: Chains::new(store.clone()),
            own: OwnBoots::open(shelf, store.clone(), Arc::clone(&timeline), loaders, boot_sets)?,
            foreign: ForeignBoots::open(store.clone(), Arc::clone(&timeline), nodes.clone()),
            refused: Mutex::default(),
            wires,
            nodes,
            neighbours,
            strangers,
            adoptions,
            timeline,
        })
    }

    /// Begins a boot of this machine: what it is given, or the reason why there is nothing. The only way that a boot
    /// begins.
    fn hand_out(
        &self,
        node: &Name,
        mac: Mac,
        asker: Asker,
        cpu: Cpu,
        (from, http): (Ipv4Addr, SocketAddrV4),
    ) -> Result<Given, String> {
        let fetches = self.fetches(node, from);
        if let Some(other) = self.foreign.hand_over(node, mac, (asker, fetches), http)? {
            return Ok(other);
        }
        let inventory = self.adoptions.declared(node).is_some();
        let agent_port = self.wires.network().agent_port;
        let by_datagram = matches!(asker, Asker::Machine { by_datagram: true, .. });
        let data = self.nodes.cluster().nodes.get(node).and_then(|node| node.data);
        let card = asker.card();
        let own = self.own.begin(&Asked { node, cpu, http, agent_port, inventory, data, card, by_datagram })?;
        if inventory {
            self.adoptions.begins(node);
        }
        Ok(Given::Own(Box::new(own)))
    }

    /// From where a machine with this card of the node asks for its boot; or why it is given none, which is told.
    fn asker(&self, node: &Name, card: Mac, from: Ipv4Addr, by: Way) -> Result<Asker, String> {
        let reason = match self.neighbours.place(card, from, by != Way::Firmware) {
            Ok(place) => {
                if place == Place::Relayed {
                    self.neighbours.learn(from, card);
                }
                return Ok(Asker::Machine { place, by_datagram: by != Way::Stream });
            }
            Err(Misplaced::Unheard) => {
                format!(
                    "it was asked for from {from}, and {card} has asked for no address (DHCP) in the last two minutes"
                )
            }
            Err(Misplaced::Elsewhere) => format!("it was asked for from {from}, where {card} is not"),
        };
        self.refuses(node, What::NotGiven { reason: reason.clone() });
        Err(reason)
    }

    /// Tells that someone was refused something in this node's name, once in a while: it may be anyone, from anywhere.
    fn refuses(&self, node: &Name, what: What) {
        let at = now();
        let mut refused = locked(&self.refused);
        if refused.get(node).is_some_and(|last| at < last + SAME_REFUSAL) {
            return;
        }
        refused.insert(node.clone(), at);
        drop(refused);
        self.timeline.add(Some(node), what);
    }

    /// Who fetches from this address in the name of a node.
    fn fetches(&self, node: &Name, from: Ipv4Addr) -> Fetches {
        if self.wires.network().pixiecore == Some(from) {
            return Fetches::Pixiecore;
        }
        match self.neighbours.on_the_wire(from) {
            Some(card) if self.nodes.of_card(card).as_ref() == Some(node) => Fetches::Card,
            None if self.nodes.declared(node).is_some_and(|node| node.address == Some(from)) => Fetches::Routed,
            Some(_) | None => Fetches::Other,
        }
    }

    /// The node whose boot this is, where it is its machine that names it from this address.
    fn machine_of_boot(&self, boot: &str, from: Ipv4Addr) -> Option<Name> {
        let (node, card) = self.own.boot(boot).filter(|(node, _)| self.nodes.has(node))?;
        card.is_none_or(|card| self.neighbours.card_at(from) == Some(card)).then_some(node)
    }

    /// The node, or the machine that is to be adopted, that reports so from this address: by its boot, and its word for
    /// reports.
    pub(crate) fn reports(&self, reporter: &str, from: Ipv4Addr) -> Option<Name> {
        self.own.reports(reporter, self.neighbours.card_at(from)).filter(|node| self.nodes.has(node))
    }

    /// A node that runs another system is to be given its profile again.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub(crate) fn install_again(&self, node: &Name) -> Result<(), Error> {
        self.foreign.again(node)
    }

    /// The node that has this address, for files that are no secrets: by the kernel's word on whose it is; where that has
    /// none, or is a bridge that answers in others' names, by what was heard; or by its fixed one.
    fn node_at(&self, address: Ipv4Addr) -> Option<(Mac, Name)> {
        let on_the_wire = self.neighbours.on_the_wire(address);
        let cards = on_the_wire.into_iter().chain(self.neighbours.heard_at(address));
        if let Some(found) = cards.filter_map(|mac| self.nodes.of_card(mac).map(|name| (mac, name))).next() {
            return Some(found);
        }
        if on_the_wire.is_some() {
            return None;
        }
        let cluster = self.nodes.cluster();
        let fixed = cluster.nodes.iter().find(|(_, node)| node.address == Some(address));
        fixed.and_then(|(name, node)| Some((*node.macs.first()?, name.clone())))
    }

    /// Adds an event, unless the node's firmware only repeats itself.
    fn tell_once(&self, node: &Name, what: What) {
        if !self.timeline.has_just_told(node, &what, SAME) {
            self.timeline.add(Some(node), what);
        }
    }
}
