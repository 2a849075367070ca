//! The network interface that the nodes hang on.

use std::net::Ipv4Addr;
use std::time::Duration;

use bramble_netboot::dhcp::Interface;
use bramble_system::Command;
use serde::Deserialize;

use crate::error::Error;

/// Index, hardware address and first IPv4 address of an interface.
///
/// Asked of `ip`, not of `/sys`: in a namespace, `/sys` may still show the interfaces outside.
pub(crate) fn find(name: &str) -> Result<Interface, Error> {
    let wrong = |problem: &str| Error::Interface { name: name.to_owned(), problem: problem.to_owned() };
    let output = Command::new("ip")
        .args(["-json", "address", "show", "dev", name])
        .limit(Duration::from_secs(10))
        .run()
        .map_err(|error| wrong(&error.to_string()))?;
    let links: Vec<Link> = serde_json::from_slice(&output.stdout).map_err(|_| wrong("`ip` says nothing of it"))?;
    let link = links.into_iter().find(|link| link.ifname == name).ok_or_else(|| wrong("there is no such interface"))?;
    let mac = link.address.parse().map_err(|_| wrong("it is not an Ethernet interface"))?;
    let address = link.addr_info.iter().filter(|address| address.scope == "global");
    let address = address.filter_map(|address| Some((address.local.parse().ok()?, address.prefixlen))).next();
    let (address, prefix) = address.ok_or_else(|| wrong("it has no IPv4 address"))?;
    let gateway = gateway(name);
    Ok(Interface { name: name.to_owned(), index: link.ifindex, mac, address, prefix, gateway })
}

/// The default gateway on this interface, which machines of its wire have as well.
fn gateway(name: &str) -> Option<Ipv4Addr> {
    #[derive(Deserialize)]
    struct Route {
        gateway: Option<Ipv4Addr>,
    }
    let output = Command::new("ip")
        .args(["-json", "-4", "route", "show", "default", "dev", name])
        .limit(Duration::from_secs(10))
        .run()
        .ok()?;
    let routes: Vec<Route> = serde_json::from_slice(&output.stdout).ok()?;
    routes.into_iter().find_map(|route| route.gateway)
}

/// A link in the output of `ip -json address`.
#[derive(Deserialize)]
struct Link {
    ifname: String,
    ifindex: u32,
    #[serde(default)]
    address: String,
    #[serde(default)]
    addr_info: Vec<Address>,
}

#[derive(Deserialize)]
struct Address {
    local: String,
    #[serde(default)]
    prefixlen: u8,
    #[serde(default)]
    scope: String,
}
