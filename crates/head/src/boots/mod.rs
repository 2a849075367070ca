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

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use bramble_boot::Cpu;
use bramble_image::Shelf;
use bramble_model::names::{Mac, Name};
use bramble_model::timeline::What;
use bramble_plan::hand_off::Fetches;
use bramble_store::Store;

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
    Machine(Place),
    /// Pixiecore, for a machine that it has heard.
    Pixiecore,
}

impl Asker {
    /// The card from whose own place it asks, where that is so.
    fn card(self) -> Option<Mac> {
        match self {
            Asker::Machine(place) => place.card(),
            Asker::Pixiecore => None,
        }
    }
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
    fn hand_out(&self, node: &Name, mac: Mac, asker: Asker, cpu: Cpu, http: SocketAddrV4) -> Result<Given, String> {
        if let Some(other) = self.foreign.hand_over(node, mac, asker, http)? {
            return Ok(other);
        }
        let inventory = self.adoptions.declared(node).is_some();
        let agent_port = self.wires.network().agent_port;
        let own = self.own.begin(&Asked { node, cpu, http, agent_port, inventory, card: asker.card() })?;
        if inventory {
            self.adoptions.begins(node);
        }
        Ok(Given::Own(Box::new(own)))
    }

    /// From where a machine with this card of the node asks for its boot; or why it is given none, which is told.
    /// `is_patient` says that what asks can ask for an address again.
    fn asker(&self, node: &Name, card: Mac, from: Ipv4Addr, is_patient: bool) -> Result<Asker, String> {
        let reason = match self.neighbours.place(card, from, is_patient) {
            Ok(place) => {
                if place == Place::Relayed {
                    self.neighbours.learn(from, card);
                }
                return Ok(Asker::Machine(place));
            }
            Err(Misplaced::Unheard) => {
                format!(
                    "it was asked for from {from}, and {card} has asked for no address (DHCP) in the last two minutes"
                )
            }
            Err(Misplaced::Elsewhere) => format!("it was asked for from {from}, where {card} is not"),
        };
        let what = What::NotGiven { reason: reason.clone() };
        if !self.timeline.has_just_told(node, &what, SAME_REFUSAL) {
            self.timeline.add(Some(node), what);
        }
        Err(reason)
    }

    /// Who fetches from this address in the name of a node.
    fn fetches(&self, node: &Name, from: Ipv4Addr) -> Fetches {
        if self.wires.network().pixiecore == Some(from) {
            return Fetches::Pixiecore;
        }
        match self.neighbours.on_the_wire(from) {
            Some(card) if self.nodes.of_card(card).as_ref() == Some(node) => Fetches::Card,
            Some(_) => Fetches::Other,
            None => Fetches::Routed,
        }
    }

    /// The node whose boot this is, where it is its machine that names it from this address.
    fn machine_of_boot(&self, boot: &str, from: Ipv4Addr) -> Option<Name> {
        let (node, card) = self.own.boot(boot).filter(|(node, _)| self.nodes.has(node))?;
        card.is_none_or(|card| self.neighbours.card_at(from) == Some(card)).then_some(node)
    }

    /// The node, or the machine that is to be adopted, that reports so: by its boot, and its word for reports.
    pub(crate) fn reports(&self, reporter: &str) -> Option<Name> {
        self.own.reports(reporter).filter(|node| self.nodes.has(node))
    }

    /// A node that runs another system is to be given its profile again.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub(crate) fn install_again(&self, node: &Name) -> Result<(), Error> {
        self.foreign.again(node)
    }

    /// The node that has this address: by the kernel's word on whose it is, where there is none by what was heard behind a
    /// relay, or by its fixed one.
    fn node_at(&self, address: Ipv4Addr) -> Option<(Mac, Name)> {
        if let Some(mac) = self.neighbours.mac(address) {
            return self.nodes.of_card(mac).map(|name| (mac, name));
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
