//! The machines of the wire, by what was last heard of them.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Mutex;

use bramble_model::names::Mac;
use bramble_model::timeline::Millis;
use bramble_system::locked;

/// Addresses that are remembered. A wire of a thousand machines fits; a flood of forged ones does not.
const REMEMBERED: usize = 8192;

#[derive(Default)]
pub(crate) struct Neighbours {
    by_address: Mutex<HashMap<Ipv4Addr, Mac>>,
    last_asked: Mutex<HashMap<Mac, Millis>>,
}

impl Neighbours {
    /// Learns that a machine has an address.
    pub(crate) fn learn(&self, address: Ipv4Addr, mac: Mac) {
        let mut known = locked(&self.by_address);
        if known.len() >= REMEMBERED && !known.contains_key(&address) {
            known.clear();
        }
        known.insert(address, mac);
    }

    pub(crate) fn mac(&self, address: Ipv4Addr) -> Option<Mac> {
        locked(&self.by_address).get(&address).copied()
    }

    /// When the machine asked before, and that it asks now.
    pub(crate) fn asks(&self, mac: Mac, at: Millis) -> Option<Millis> {
        let mut asked = locked(&self.last_asked);
        if asked.len() >= REMEMBERED && !asked.contains_key(&mac) {
            asked.clear();
        }
        asked.insert(mac, at)
    }
}

/// The kernel's own word on who has an address (`/proc/net/arp`): it answers a machine's ARP question
/// before this program has read it.
pub(crate) fn neighbour(address: Ipv4Addr) -> Option<Mac> {
    let table = std::fs::read_to_string("/proc/net/arp").ok()?;
    let line = table.lines().find(|line| line.split_whitespace().next() == Some(&address.to_string()))?;
    line.split_whitespace().nth(3)?.parse().ok().filter(|mac| *mac != Mac([0; 6]))
}
