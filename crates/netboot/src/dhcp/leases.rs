//! Who has which address: fixed ones, leases, offers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;

use bramble_model::names::Mac;
use serde::{Deserialize, Serialize};

/// An address and who has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub address: Ipv4Addr,
    pub mac: Mac,
    /// Seconds since the epoch.
    pub until: u64,
    /// Someone else uses the address (DECLINE): nobody gets it before `until`.
    pub quarantined: bool,
}

/// The addresses of one subnet.
///
/// A machine keeps its address for as long as nobody else needs it, also when its lease has run
/// out: names and firewall rules of a home depend on it.
#[derive(Debug)]
pub struct Leases {
    first: Ipv4Addr,
    last: Ipv4Addr,
    /// Every card of a node leads to its fixed address.
    fixed: BTreeMap<Mac, Ipv4Addr>,
    /// The head's own addresses and the router's.
    taken: Vec<Ipv4Addr>,
    /// Addresses that are not lent: fixed ones, and those that are taken.
    reserved: BTreeSet<Ipv4Addr>,
    by_address: BTreeMap<Ipv4Addr, Lease>,
    /// The address that a machine had last.
    by_mac: HashMap<Mac, Ipv4Addr>,
    /// Addresses by the end of their leases, to find the one that ran out longest ago.
    by_end: BTreeSet<(u64, Ipv4Addr)>,
    /// No address before this one has never been used.
    unused: Ipv4Addr,
}

impl Leases {
    /// A pool from `first` to `last`, with what was stored.
    pub fn new(
        (first, last): (Ipv4Addr, Ipv4Addr),
        fixed: BTreeMap<Mac, Ipv4Addr>,
        taken: Vec<Ipv4Addr>,
        stored: impl IntoIterator<Item = Lease>,
    ) -> Self {
        let mut leases = Leases {
            first,
            last,
            fixed: BTreeMap::new(),
            taken,
            reserved: BTreeSet::new(),
            by_address: BTreeMap::new(),
            by_mac: HashMap::new(),
            by_end: BTreeSet::new(),
            unused: first,
        };
        leases.fix(fixed);
        let mut stored: Vec<Lease> = stored.into_iter().collect();
        // Of a machine's several leases, the longest counts.
        stored.sort_by_key(|lease| lease.until);
        stored.into_iter().for_each(|lease| leases.put(lease));
        leases
    }

    /// Replaces the fixed addresses. Whoever holds a lease on one of them keeps it until it ends.
    pub(super) fn fix(&mut self, fixed: BTreeMap<Mac, Ipv4Addr>) {
        self.reserved = fixed.values().chain(&self.taken).copied().collect();
        self.fixed = fixed;
    }

    fn put(&mut self, lease: Lease) {
        if let Some(old) = self.by_address.insert(lease.address, lease) {
            self.by_end.remove(&(old.until, old.address));
            if old.mac != lease.mac && self.by_mac.get(&old.mac) == Some(&old.address) {
                self.by_mac.remove(&old.mac);
            }
        }
        self.by_end.insert((lease.until, lease.address));
        if lease.quarantined {
            self.by_mac.retain(|_, address| *address != lease.address);
        } else {
            self.by_mac.insert(lease.mac, lease.address);
        }
    }

    /// In the pool, and not someone's fixed address or the head's own.
    fn can_be_lent(&self, address: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&address) && !self.reserved.contains(&address)
    }

    fn is_free(&self, address: Ipv4Addr) -> bool {
        self.can_be_lent(address) && !self.by_address.contains_key(&address)
    }

    /// The address to offer.
    pub(super) fn choose(&mut self, mac: Mac, requested: Option<Ipv4Addr>, now: u64) -> Option<Ipv4Addr> {
        if let Some(fixed) = self.fixed.get(&mac) {
            return Some(*fixed);
        }
        let own = self.by_mac.get(&mac).copied().filter(|address| self.may_have(mac, *address, now));
        if let Some(address) = own.or_else(|| requested.filter(|address| self.is_free(*address))) {
            return Some(address);
        }
        while self.unused <= self.last {
            if self.is_free(self.unused) {
                return Some(self.unused);
            }
            self.unused = Ipv4Addr::from(u32::from(self.unused).checked_add(1)?);
        }
        // All have been used: the one that ran out longest ago.
        let ended = self.by_end.iter().take_while(|(until, _)| *until < now);
        ended.map(|(_, address)| *address).find(|address| self.can_be_lent(*address))
    }

    /// Whether this machine may use this address.
    pub(super) fn may_have(&self, mac: Mac, address: Ipv4Addr, now: u64) -> bool {
        if let Some(fixed) = self.fixed.get(&mac) {
            return *fixed == address;
        }
        self.can_be_lent(address)
            && match self.by_address.get(&address) {
                Some(lease) if lease.quarantined => lease.until < now,
                Some(lease) => lease.mac == mac || lease.until < now,
                None => true,
            }
    }

    fn own(&self, mac: Mac, address: Ipv4Addr) -> Option<Lease> {
        self.by_address.get(&address).filter(|lease| lease.mac == mac && !lease.quarantined).copied()
    }

    /// Keeps an offered address for its client for a moment, unless it has a longer claim.
    pub(super) fn hold(&mut self, mac: Mac, address: Ipv4Addr, until: u64) {
        let until = self.own(mac, address).map_or(until, |lease| lease.until.max(until));
        self.put(Lease { address, mac, until, quarantined: false });
    }

    /// The client took another server's offer.
    pub(super) fn forget_offer(&mut self, mac: Mac) {
        // An offer and a lease look alike; a lease that is cut short is kept for its owner anyway.
        if let Some(lease) = self.by_mac.get(&mac).and_then(|address| self.own(mac, *address)) {
            self.put(Lease { until: 0, ..lease });
        }
    }

    pub(super) fn grant(&mut self, mac: Mac, address: Ipv4Addr, until: u64) -> Lease {
        let lease = Lease { address, mac, until, quarantined: false };
        self.put(lease);
        lease
    }

    pub(super) fn release(&mut self, mac: Mac, address: Ipv4Addr, now: u64) -> Option<Lease> {
        let lease = Lease { until: now, ..self.own(mac, address)? };
        self.put(lease);
        Some(lease)
    }

    pub(super) fn quarantine(&mut self, mac: Mac, address: Ipv4Addr, until: u64) -> Lease {
        let lease = Lease { address, mac, until, quarantined: true };
        self.put(lease);
        lease
    }
}
