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
use bramble_model::repository::Dhcp;
use bramble_model::timeline::What;
use bramble_store::Store;

use crate::adoptions::Adoptions;
use crate::boot_sets::BootSets;
use crate::error::Error;
use crate::neighbours::Neighbours;
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
    /// begins. `card` is the one from whose own place it asks, where that is so.
    fn hand_out(
        &self,
        node: &Name,
        mac: Mac,
        card: Option<Mac>,
        cpu: Cpu,
        http: SocketAddrV4,
    ) -> Result<Given, String> {
        if let Some(other) = self.foreign.hand_over(node, mac, http)? {
            return Ok(other);
        }
        let inventory = self.adoptions.declared(node).is_some();
        let agent_port = self.wires.network().agent_port;
        let own = self.own.begin(&Asked { node, cpu, http, agent_port, inventory, card })?;
        if inventory {
            self.adoptions.begins(node);
        }
        Ok(Given::Own(Box::new(own)))
    }

    /// This card, where this address is its own place: by the kernel's word, and where the head hears DHCP, by that, too.
    fn in_place(&self, mac: Mac, from: Ipv4Addr) -> Option<Mac> {
        let hears = self.wires.network().dhcp != Dhcp::Router;
        let card = self.neighbours.card_at(from).filter(|card| *card == mac);
        card.filter(|card| !hears || self.neighbours.has_just_asked(*card))
    }

    /// The node, or the machine that is to be adopted, whose present boot this is.
    pub(crate) fn node_of_boot(&self, boot: &str) -> Option<Name> {
        self.own.node_of(boot).filter(|node| self.nodes.has(node))
    }

    /// A node that runs another system is to be given its profile again.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub(crate) fn install_again(&self, node: &Name) -> Result<(), Error> {
        self.foreign.again(node)
    }

    /// The node that has this address: by what was heard on the wire, by its lease, or by its fixed one.
    fn node_at(&self, address: Ipv4Addr) -> Option<(Mac, Name)> {
        let cluster = self.nodes.cluster();
        if let Some(mac) = self.neighbours.mac(address).or_else(|| self.neighbours.card_at(address)) {
            return self.nodes.of_card(mac).map(|name| (mac, name));
        }
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
