//! The lab's wire: a bridge with the name of the repository's interface, a tap for each machine,
//! and, where the repository leaves addresses to a home router, such a router.

use std::net::Ipv4Addr;
use std::path::Path;

use bramble_model::repository::{Cluster, Dhcp};
use bramble_system::Command;

use crate::Error;

/// The subnet of the wire, and the head's address in it: the first.
pub(crate) struct WireAddresses {
    pub(crate) head: Ipv4Addr,
    pub(crate) prefix: u8,
    /// Where a home router stands in for the real one: the last address.
    pub(crate) router: Option<Ipv4Addr>,
}

impl WireAddresses {
    pub(crate) fn of(cluster: &Cluster) -> Self {
        let ((network, prefix), router) = match &cluster.network.dhcp {
            Dhcp::Full(subnets) => ((subnets[0].address, subnets[0].prefix), false),
            Dhcp::Proxy | Dhcp::Router => (cluster.lab.subnet, true),
        };
        let first = u32::from(network) + 1;
        let last = (u32::from(network) | (u32::MAX >> prefix)) - 1;
        WireAddresses { head: first.into(), prefix, router: router.then(|| last.into()) }
    }

    /// Makes the bridge, up and with the head's address.
    pub(crate) fn make(&self, bridge: &str) -> Result<(), Error> {
        let address = format!("{}/{}", self.head, self.prefix);
        ip(&["link", "set", "lo", "up"])?;
        // Spanning tree would block every new port for half a minute.
        ip(&["link", "add", bridge, "type", "bridge", "stp_state", "0", "forward_delay", "0"])?;
        ip(&["address", "add", &address, "dev", bridge])?;
        if let Some(router) = self.router {
            ip(&["address", "add", &format!("{router}/{}", self.prefix), "dev", bridge])?;
        }
        // Nobody else can have our link-local address, so there is no need to ask for a second.
        for scope in ["all", "default", bridge] {
            // A kernel without IPv6 has no such file, and no such wait.
            let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/accept_dad"), "0");
        }
        ip(&["link", "set", bridge, "up"])
    }

    /// The real dnsmasq as home router: addresses, and what its configuration adds to them.
    pub(crate) fn router_arguments(&self, bridge: &str, configuration: &Path, leases: &Path) -> Option<Vec<String>> {
        let router = self.router?;
        let base = u32::from(router) & !0xff_u32.min(u32::MAX >> self.prefix);
        let (first, last) = (Ipv4Addr::from(base + 100), Ipv4Addr::from(base + 199));
        Some(vec![
            // The one mode in which it keeps its user and groups, of which the namespace has one.
            "--no-daemon".into(),
            format!("--conf-file={}", configuration.display()),
            "--port=0".into(),
            "--bind-interfaces".into(),
            format!("--interface={bridge}"),
            format!("--listen-address={router}"),
            format!("--dhcp-range={first},{last},1h"),
            format!("--dhcp-option=option:router,{router}"),
            format!("--dhcp-leasefile={}", leases.display()),
        ])
    }
}

/// A tap on the bridge.
pub(crate) fn tap(name: &str, bridge: &str) -> Result<(), Error> {
    ip(&["tuntap", "add", "dev", name, "mode", "tap"])?;
    ip(&["link", "set", name, "master", bridge, "up"])
}

fn ip(arguments: &[&str]) -> Result<(), Error> {
    let run = Command::new("ip").args(arguments).run();
    run.map(drop).map_err(|source| Error::Program { doing: "cannot make the lab's wire", source })
}
