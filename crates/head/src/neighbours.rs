//! The machines of the wire, by what was last heard of them.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Mutex;

use bramble_model::names::Mac;
use bramble_model::timeline::Millis;
use bramble_system::{locked, now};

/// Addresses that are remembered. A wire of a thousand machines fits; a flood of forged ones does not.
const REMEMBERED: usize = 8192;

/// A machine asks for its script within so many milliseconds after its DHCP.
const JUST: Millis = 120_000;

pub(crate) struct Neighbours {
    /// Whose card an address of the wire is, where that can be told.
    table: fn(Ipv4Addr) -> Option<Mac>,
    since: Millis,
    by_address: Mutex<HashMap<Ipv4Addr, Mac>>,
    last_asked: Mutex<HashMap<Mac, Millis>>,
    /// Cards of nodes alone: no flood of strangers has anyone forgotten.
    nodes_asked: Mutex<HashMap<Mac, Millis>>,
}

impl Default for Neighbours {
    fn default() -> Self {
        Neighbours {
            table: neighbour,
            since: now(),
            by_address: Mutex::default(),
            last_asked: Mutex::default(),
            nodes_asked: Mutex::default(),
        }
    }
}

impl Neighbours {
    /// As on a wire where each address is of the card that this says.
    #[cfg(test)]
    pub(crate) fn on(table: fn(Ipv4Addr) -> Option<Mac>) -> Self {
        Neighbours { table, since: 0, ..Neighbours::default() }
    }

    /// The card that packets to this address leave for: nobody else hears them.
    pub(crate) fn card_at(&self, address: Ipv4Addr) -> Option<Mac> {
        (self.table)(address)
    }

    /// Whether the head has just heard a node's card ask for a boot by DHCP; one that has just started may have missed it.
    pub(crate) fn has_just_asked(&self, card: Mac) -> bool {
        let least = now().saturating_sub(JUST);
        self.since >= least || locked(&self.nodes_asked).get(&card).is_some_and(|at| *at >= least)
    }

    /// A card of a node asks for a boot.
    pub(crate) fn node_asks(&self, card: Mac, at: Millis) {
        locked(&self.nodes_asked).insert(card, at);
    }

    /// Learns that a machine has an address.
    pub(crate) fn learn(&self, address: Ipv4Addr, mac: Mac) {
        let mut known = locked(&self.by_address);
        if known.len() >= REMEMBERED && !known.contains_key(&address) {
            known.clear();
        }
        known.insert(address, mac);
    }

    /// Whoever has this address says that it has this card. Where the kernel knows better, that is not believed.
    pub(crate) fn is_told(&self, address: Ipv4Addr, mac: Mac) {
        if self.card_at(address).is_none_or(|card| card == mac) {
            self.learn(address, mac);
        }
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
fn neighbour(address: Ipv4Addr) -> Option<Mac> {
    let table = std::fs::read_to_string("/proc/net/arp").ok()?;
    let wanted = address.to_string();
    let card = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next() == Some(&wanted)).then(|| words.nth(2)?.parse().ok()).flatten()
    };
    // One that is being asked for has zeros.
    table.lines().filter_map(card).find(|mac| *mac != Mac([0; 6]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const OTHER: Mac = Mac([2, 0, 0, 0, 0, 2]);
    const AT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 11);

    #[test]
    fn a_node_has_just_asked_whatever_strangers_do() {
        let wire = Neighbours::on(|_| None);
        assert!(!wire.has_just_asked(OWN));
        wire.node_asks(OWN, now());
        for n in 0..3 * REMEMBERED as u32 {
            wire.asks(Mac([6, 0, (n >> 24) as u8, (n >> 16) as u8, (n >> 8) as u8, n as u8]), now());
        }
        assert!(wire.has_just_asked(OWN));
        wire.node_asks(OWN, now() - JUST - 1000);
        assert!(!wire.has_just_asked(OWN), "that was another boot");
        assert!(Neighbours::default().has_just_asked(OWN), "a head that has just started may have missed it");
    }

    /// A request in a node's name made the head take what comes from there for that node's, its reports and its files.
    #[test]
    fn whoever_says_to_have_anothers_card_is_not_believed() {
        let wire = Neighbours::on(|address| (address == AT).then_some(OTHER));
        wire.is_told(AT, OWN);
        assert_eq!(wire.mac(AT), None);
        wire.is_told(AT, OTHER);
        assert_eq!(wire.mac(AT), Some(OTHER));
        let away = Ipv4Addr::new(192, 168, 1, 1);
        wire.is_told(away, OWN);
        assert_eq!(wire.mac(away), Some(OWN), "behind a relay nobody can tell");
    }
}
