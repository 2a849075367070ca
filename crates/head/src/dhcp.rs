//! The head's DHCP: beside the home router's, instead of it, or none at all.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use bramble_model::names::Mac;
use bramble_model::repository::{Cluster, Dhcp as Kind, Subnet};
use bramble_netboot::dhcp::{Leases, Pool, Server, probe};
use bramble_store::Store;
use bramble_system::locked;

use crate::error::Error;
use crate::leases;
use crate::wires::Wires;

/// The server's decisions; its sockets are netboot's.
pub(crate) struct Dhcp {
    /// `None` where the home router does all of DHCP.
    server: Option<Arc<Mutex<Server>>>,
}

/// Makes sure that full DHCP would be the only one on its wires.
///
/// # Errors
/// When another server answers there, or nobody can be asked.
pub(crate) async fn is_alone(wires: &Wires) -> Result<(), Error> {
    let Kind::Full(_) = wires.network().dhcp else { return Ok(()) };
    for interface in wires.interfaces() {
        let others = probe::other_servers(interface).await;
        let others = others.map_err(Error::service("looking for other DHCP servers (port 68)"))?;
        if !others.is_empty() {
            let interface = interface.name.clone();
            return Err(Error::OtherDhcp { interface, others: others.into_iter().collect() });
        }
    }
    Ok(())
}

impl Dhcp {
    /// # Errors
    /// When the leases cannot be read.
    pub(crate) fn open(domain: &str, wires: &Wires, store: &Store) -> Result<Self, Error> {
        if let Kind::Router = wires.network().dhcp {
            return Ok(Dhcp { server: None });
        }
        let subnets = wires.subnets();
        let stored = if subnets.is_empty() { Vec::new() } else { leases::all(store)? };
        let pool = |subnet: &Subnet| {
            let own = wires.interfaces().iter().map(|interface| interface.address);
            let stored = stored.iter().copied().filter(|lease| subnet.contains(lease.address));
            // The nodes' fixed addresses come with the repository, now and whenever it changes.
            let leases = Leases::new(subnet.pool, BTreeMap::new(), own.chain(subnet.router).collect(), stored);
            Pool { subnet: subnet.clone(), leases }
        };
        let pools = subnets.iter().map(pool).collect();
        let relays = wires.network().relays.clone();
        Ok(Dhcp { server: Some(Arc::new(Mutex::new(Server { domain: domain.to_owned(), pools, relays }))) })
    }

    pub(crate) fn server(&self) -> Option<Arc<Mutex<Server>>> {
        self.server.clone()
    }

    /// The nodes' cards and fixed addresses are those of this cluster.
    pub(crate) fn follow(&self, cluster: &Cluster) {
        if let Some(server) = &self.server {
            locked(server).follow(&cards(cluster));
        }
    }
}

/// The nodes' cards, with the fixed address of each that has one.
fn cards(cluster: &Cluster) -> BTreeMap<Mac, Option<Ipv4Addr>> {
    cluster.nodes.values().flat_map(|node| node.macs.iter().map(|mac| (*mac, node.address))).collect()
}
