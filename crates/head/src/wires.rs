//! The wires that the nodes hang on: the head's interfaces there, and how machines beside them reach it.
//!
//! A first snapshot needs all of its interfaces. A head that has one comes up without those that are not there: only
//! so can a person, or a commit, correct a name that is wrong.

use std::net::{Ipv4Addr, SocketAddrV4};

use bramble_boot::Addresses;
use bramble_model::names::Mac;
use bramble_model::repository::{Dhcp, Network, Subnet};
use bramble_netboot::dhcp::Interface;

use crate::error::Error;
use crate::interface;

/// The head's interfaces, and what the repository said of them when the head started: sockets are bound to it.
pub(crate) struct Wires {
    network: Network,
    /// Those that are there.
    interfaces: Vec<Interface>,
    /// Why each of the others is not served.
    missing: Vec<Error>,
}

impl Wires {
    /// Those of these interfaces that this machine has.
    pub(crate) fn open(network: &Network) -> Self {
        let mut wires = Wires { network: network.clone(), interfaces: Vec::new(), missing: Vec::new() };
        for name in &network.interfaces {
            match interface::find(name) {
                Ok(interface) => wires.interfaces.push(interface),
                Err(error) => wires.missing.push(error),
            }
        }
        wires
    }

    /// All of these interfaces.
    ///
    /// # Errors
    /// When this machine has not all of them.
    pub(crate) fn whole(network: &Network) -> Result<Self, Error> {
        let mut wires = Self::open(network);
        match wires.missing.pop() {
            Some(error) => Err(error),
            None => Ok(wires),
        }
    }

    /// Why each wire that is not served is not.
    pub(crate) fn problems(&self) -> Vec<String> {
        let told = |error: &Error| {
            format!(
                "{}: nothing is served there until it is, or until `network.interface` names another one (`ip link` \
                 lists them) and that is applied",
                bramble_system::sentence(error)
            )
        };
        self.missing.iter().map(told).collect()
    }

    /// Whether a head that began anew with this network would serve a wire that this one does not.
    pub(crate) fn lacks_one_of(&self, network: &Network) -> bool {
        let served = |name: &String| self.interfaces.iter().any(|interface| interface.name == *name);
        let names = network.interfaces.iter().filter(|name| !served(name));
        !self.missing.is_empty() && names.into_iter().any(|name| interface::find(name).is_ok())
    }

    pub(crate) fn network(&self) -> &Network {
        &self.network
    }

    pub(crate) fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    /// The head's own address on the first wire: the one that the agents dial. This machine's own where there is no
    /// wire, and nobody to tell it to.
    pub(crate) fn address(&self) -> Ipv4Addr {
        self.interfaces.first().map_or(Ipv4Addr::LOCALHOST, |interface| interface.address)
    }

    /// The HTTP service at one of the head's addresses.
    pub(crate) fn http_at(&self, own: Ipv4Addr) -> SocketAddrV4 {
        self.network.http(own)
    }

    /// The interface whose wire has this address; the first for one that is behind a relay.
    fn beside(&self, address: Ipv4Addr) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.reaches(address)).or(self.interfaces.first())
    }

    /// The HTTP service, as a machine with this address reaches it.
    pub(crate) fn http_beside(&self, address: Ipv4Addr) -> SocketAddrV4 {
        self.http_at(self.beside(address).map_or(Ipv4Addr::LOCALHOST, |interface| interface.address))
    }

    /// The subnets of full DHCP.
    pub(crate) fn subnets(&self) -> &[Subnet] {
        match &self.network.dhcp {
            Dhcp::Full(subnets) => subnets,
            Dhcp::Proxy | Dhcp::Router => &[],
        }
    }

    /// What a machine knows of its network, for firmware that cannot say it to a kernel itself.
    pub(crate) fn addresses(&self, from: Ipv4Addr, mac: Mac) -> Addresses {
        let subnet = self.subnets().iter().find(|subnet| subnet.contains(from));
        let interface = self.beside(from);
        let mask = subnet.map(|subnet| subnet.mask()).or(interface.map(Interface::mask));
        let gateway = match subnet {
            Some(subnet) => subnet.router,
            None => interface.and_then(|interface| interface.gateway),
        };
        let dns = subnet.and_then(|subnet| subnet.dns.first().copied()).or(gateway);
        let text = |address: Option<Ipv4Addr>| address.map(|address| address.to_string()).unwrap_or_default();
        Addresses {
            mac: mac.to_string().replace(':', "-"),
            address: from.to_string(),
            mask: text(mask),
            gateway: text(gateway),
            dns: text(dns),
        }
    }
}
