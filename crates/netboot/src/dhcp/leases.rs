//! Who has which address: fixed ones, leases, offers.

use std::collections::BTreeMap;
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
    /// Addresses in the pool that are not to be given: the head's own, the router's.
    taken: Vec<Ipv4Addr>,
    by_address: BTreeMap<Ipv4Addr, Lease>,
}

impl Leases {
    /// A pool from `first` to `last`, with what was stored.
    pub fn new(
        (first, last): (Ipv4Addr, Ipv4Addr),
        fixed: BTreeMap<Mac, Ipv4Addr>,
        taken: Vec<Ipv4Addr>,
        stored: impl IntoIterator<Item = Lease>,
    ) -> Self {
        let by_address = stored.into_iter().map(|lease| (lease.address, lease)).collect();
        Leases { first, last, fixed, taken, by_address }
    }

    fn pool(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        (u32::from(self.first)..=u32::from(self.last)).map(Ipv4Addr::from)
    }

    /// In the pool, and not someone's fixed address or the head's own.
    fn can_be_lent(&self, address: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&address)
            && !self.taken.contains(&address)
            && !self.fixed.values().any(|fixed| *fixed == address)
    }

    /// The address to offer.
    pub(super) fn choose(&self, mac: Mac, requested: Option<Ipv4Addr>, now: u64) -> Option<Ipv4Addr> {
        if let Some(fixed) = self.fixed.get(&mac) {
            return Some(*fixed);
        }
        let own = self.by_address.values().filter(|lease| lease.mac == mac && !lease.quarantined);
        let own = own.max_by_key(|lease| lease.until).map(|lease| lease.address);
        let free = |address: &Ipv4Addr| self.can_be_lent(*address) && !self.by_address.contains_key(address);
        own.filter(|address| self.may_have(mac, *address, now))
            .or_else(|| requested.filter(free))
            .or_else(|| self.pool().find(free))
            .or_else(|| {
                // All have been used: the one that ran out longest ago.
                let ended =
                    self.by_address.values().filter(|lease| lease.until < now && self.can_be_lent(lease.address));
                ended.min_by_key(|lease| lease.until).map(|lease| lease.address)
            })
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

    /// Keeps an offered address for its client for a moment, unless it has a longer claim.
    pub(super) fn hold(&mut self, mac: Mac, address: Ipv4Addr, until: u64) {
        let until = self
            .by_address
            .get(&address)
            .filter(|lease| lease.mac == mac)
            .map_or(until, |lease| lease.until.max(until));
        self.by_address.insert(address, Lease { address, mac, until, quarantined: false });
    }

    /// The client took another server's offer.
    pub(super) fn forget_offer(&mut self, mac: Mac) {
        // An offer and a lease look alike; a lease that is cut short is kept for its owner anyway.
        for lease in self.by_address.values_mut().filter(|lease| lease.mac == mac && !lease.quarantined) {
            lease.until = 0;
        }
    }

    pub(super) fn grant(&mut self, mac: Mac, address: Ipv4Addr, until: u64) -> Lease {
        let lease = Lease { address, mac, until, quarantined: false };
        self.by_address.insert(address, lease);
        lease
    }

    pub(super) fn release(&mut self, mac: Mac, address: Ipv4Addr, now: u64) -> Option<Lease> {
        let lease = self.by_address.get_mut(&address).filter(|lease| lease.mac == mac && !lease.quarantined)?;
        lease.until = now;
        Some(*lease)
    }

    pub(super) fn quarantine(&mut self, mac: Mac, address: Ipv4Addr, until: u64) -> Lease {
        let lease = Lease { address, mac, until, quarantined: true };
        self.by_address.insert(address, lease);
        lease
    }
}
