//! The network interface that the nodes hang on.

use std::time::Duration;

use bramble_netboot::dhcp::Interface;
use bramble_system::Command;
use serde::Deserialize;

use crate::Error;

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
    let address = address.filter_map(|address| address.local.parse().ok()).next();
    let address = address.ok_or_else(|| wrong("it has no IPv4 address"))?;
    Ok(Interface { name: name.to_owned(), index: link.ifindex, mac, address })
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
    scope: String,
}
