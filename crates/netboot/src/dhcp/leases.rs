//! Who has which address: fixed ones, leases, offers.
//!
//! ```text
//!        DISCOVER             REQUEST            its end, or RELEASE
//! free ───────────▶ offered ──────────▶ leased ─────────────────────▶ ended: its card's still,
//!  ▲                   │                   │                              until another needs it
//!  │ another server's  │      DECLINE      │
//!  └───────────────────┴────────┬──────────┘
//!                               ▼
//!                           declined: nobody's until its end
//! ```
//! A card has one address of a pool, whatever it says of itself: what it had before is free as soon as it has another.
//! Strangers (cards that the repository does not have) hold a share of the pool between them, offers among it. What is
//! left is the nodes': more of it than there are cards to declare, so a node gets an address however many cards are made
//! up on the wire.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;

use bramble_model::names::Mac;
use serde::{Deserialize, Serialize};

/// Addresses that strangers hold at most, in a pool of any size: each costs memory and a record of the store.
const MOST: usize = 1 << 15;

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

impl Lease {
    fn is_live(&self, now: u64) -> bool {
        self.until >= now
    }
}

/// How far an address has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    Offered,
    Leased { on_disk: bool },
    Declined,
}

/// Whose an address of the pool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    Stranger,
    /// A card that the repository has.
    Node,
    /// Nobody, for a while.
    Nobody,
}

/// Addresses by the end of what is claimed on them, to find the one that ended longest ago.
type Ends = BTreeSet<(u64, Ipv4Addr)>;

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
    /// Cards of nodes that have no fixed address anywhere.
    nodes: BTreeSet<Mac>,
    /// The head's own addresses and the router's.
    taken: Vec<Ipv4Addr>,
    /// Addresses that are not lent: fixed ones, and those that are taken.
    reserved: BTreeSet<Ipv4Addr>,
    by_address: BTreeMap<Ipv4Addr, (Lease, Claim)>,
    /// The one address that a card has, or had last.
    by_mac: HashMap<Mac, Ipv4Addr>,
    strangers: Ends,
    of_nodes: Ends,
    declined: Ends,
    /// No address before this one has never been used.
    unused: Ipv4Addr,
    /// Addresses before `unused` that are nobody's again.
    freed: BTreeSet<Ipv4Addr>,
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
            nodes: BTreeSet::new(),
            taken,
            reserved: BTreeSet::new(),
            by_address: BTreeMap::new(),
            by_mac: HashMap::new(),
            strangers: Ends::new(),
            of_nodes: Ends::new(),
            declined: Ends::new(),
            unused: first,
            freed: BTreeSet::new(),
        };
        leases.follow(fixed, BTreeSet::new());
        let mut stored: Vec<Lease> = stored.into_iter().collect();
        // Of a machine's several leases, the longest counts.
        stored.sort_by_key(|lease| lease.until);
        for lease in stored {
            leases.put(lease, if lease.quarantined { Claim::Declined } else { Claim::Leased { on_disk: true } });
        }
        leases
    }

    /// Replaces the nodes' cards: with the fixed addresses that are in this subnet, and those that have none anywhere.
    /// Whoever holds a lease on a fixed address keeps it until it ends.
    pub(super) fn follow(&mut self, fixed: BTreeMap<Mac, Ipv4Addr>, nodes: BTreeSet<Mac>) {
        self.reserved = fixed.values().chain(&self.taken).copied().collect();
        (self.fixed, self.nodes) = (fixed, nodes);
        // What was kept for a node before may be free now.
        self.unused = self.first;
        self.freed.clear();
        [&mut self.strangers, &mut self.of_nodes, &mut self.declined].into_iter().for_each(Ends::clear);
        let entries: Vec<_> = self.by_address.values().copied().collect();
        for (lease, claim) in entries {
            self.note(&lease, claim);
        }
    }

    /// Addresses that can be lent.
    pub(super) fn size(&self) -> usize {
        let all = (u32::from(self.last) - u32::from(self.first)) as usize + 1;
        all - self.reserved.range(self.first..=self.last).count()
    }

    /// How many of them strangers hold at most: three quarters, and never what the nodes' cards without a fixed address
    /// may need, beside the addresses that are declined.
    pub(super) fn share(&self) -> usize {
        let size = self.size();
        (size - size / 4).min(size.saturating_sub(self.nodes.len() + size / 8)).min(MOST)
    }

    /// How many of them strangers hold, also those whose lease has ended.
    pub(super) fn held_by_strangers(&self) -> usize {
        self.strangers.len()
    }

    /// Whether the repository has this card.
    pub(super) fn is_of_a_node(&self, mac: Mac) -> bool {
        self.fixed.contains_key(&mac) || self.nodes.contains(&mac)
    }

    fn holder(&self, lease: &Lease, claim: Claim) -> Holder {
        match claim {
            Claim::Declined => Holder::Nobody,
            Claim::Offered | Claim::Leased { .. } if self.nodes.contains(&lease.mac) => Holder::Node,
            Claim::Offered | Claim::Leased { .. } => Holder::Stranger,
        }
    }

    fn ends(&mut self, holder: Holder) -> &mut Ends {
        match holder {
            Holder::Stranger => &mut self.strangers,
            Holder::Node => &mut self.of_nodes,
            Holder::Nobody => &mut self.declined,
        }
    }

    /// Counts it to its holder's; one on an address that is not lent any more is nobody's part of the pool.
    fn note(&mut self, lease: &Lease, claim: Claim) {
        if self.can_be_lent(lease.address) {
            let holder = self.holder(lease, claim);
            self.ends(holder).insert((lease.until, lease.address));
        }
    }

    fn put(&mut self, lease: Lease, claim: Claim) {
        self.free(lease.address);
        if claim != Claim::Declined {
            if let Some(before) = self.by_mac.get(&lease.mac).copied() {
                self.free(before);
            }
            self.by_mac.insert(lease.mac, lease.address);
        }
        self.freed.remove(&lease.address);
        self.by_address.insert(lease.address, (lease, claim));
        self.note(&lease, claim);
    }

    /// Nobody has this address from now on.
    fn free(&mut self, address: Ipv4Addr) {
        let Some((lease, claim)) = self.by_address.remove(&address) else { return };
        let holder = self.holder(&lease, claim);
        self.ends(holder).remove(&(lease.until, address));
        if self.by_mac.get(&lease.mac) == Some(&address) {
            self.by_mac.remove(&lease.mac);
        }
        if address < self.unused {
            self.freed.insert(address);
        }
    }

    /// In the pool, and not someone's fixed address or the head's own.
    fn can_be_lent(&self, address: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&address) && !self.reserved.contains(&address)
    }

    fn is_free(&self, address: Ipv4Addr) -> bool {
        self.can_be_lent(address) && !self.by_address.contains_key(&address)
    }

    /// Whether this card may have one address more of the pool.
    fn has_room(&self, mac: Mac) -> bool {
        self.nodes.contains(&mac) || self.strangers.len() < self.share()
    }

    /// Whether this card may go on with the address that it has. Where nodes came in the meantime, strangers beyond their
    /// share lose theirs as they end.
    fn may_keep(&self, mac: Mac) -> bool {
        self.nodes.contains(&mac) || self.strangers.len() <= self.share()
    }

    /// An address that nobody has, or had.
    fn never_used(&mut self) -> Option<Ipv4Addr> {
        while self.unused <= self.last {
            if self.is_free(self.unused) {
                return Some(self.unused);
            }
            self.unused = Ipv4Addr::from(u32::from(self.unused).checked_add(1)?);
        }
        self.freed.iter().copied().find(|address| self.is_free(*address))
    }

    /// The address to offer.
    pub(super) fn choose(&mut self, mac: Mac, requested: Option<Ipv4Addr>, now: u64) -> Option<Ipv4Addr> {
        if let Some(fixed) = self.fixed.get(&mac) {
            return Some(*fixed);
        }
        if let Some(own) = self.by_mac.get(&mac).copied().filter(|address| self.can_be_lent(*address)) {
            return Some(own).filter(|_| self.may_keep(mac));
        }
        let has_room = self.has_room(mac);
        if has_room {
            let free = requested.filter(|address| self.is_free(*address)).or_else(|| self.never_used());
            if free.is_some() {
                return free;
            }
        }
        // All have been used: the one that ended longest ago.
        let first = |ends: &Ends| ends.first().filter(|(until, _)| *until < now).map(|(_, address)| *address);
        let ended = first(&self.strangers).or_else(|| first(&self.declined).filter(|_| has_room));
        if ended.is_some() || !self.nodes.contains(&mac) {
            return ended;
        }
        self.for_a_node(now)
    }

    /// An address for a node where all are held, as after a commit that declares many: what is only offered, or declined,
    /// or a node had that is away.
    fn for_a_node(&self, now: u64) -> Option<Ipv4Addr> {
        let is_offered =
            |address: &Ipv4Addr| self.by_address.get(address).is_some_and(|(_, claim)| *claim == Claim::Offered);
        let offered = self.strangers.iter().map(|(_, address)| *address).find(is_offered);
        let declined = || self.declined.first().map(|(_, address)| *address);
        let away = || self.of_nodes.first().filter(|(until, _)| *until < now).map(|(_, address)| *address);
        offered.or_else(declined).or_else(away)
    }

    /// Whether this machine gets this address where it asks for it.
    pub(super) fn may_have(&self, mac: Mac, address: Ipv4Addr, now: u64) -> bool {
        if let Some(fixed) = self.fixed.get(&mac) {
            return *fixed == address;
        }
        if !self.can_be_lent(address) {
            return false;
        }
        let is_node = self.nodes.contains(&mac);
        if let Some((own, _)) = self.by_mac.get(&mac).and_then(|address| self.by_address.get(address)) {
            if own.address == address {
                return self.may_keep(mac);
            }
            if own.is_live(now) {
                return false;
            }
        }
        match self.by_address.get(&address) {
            None => self.has_room(mac),
            Some((lease, _)) if lease.is_live(now) => false,
            Some((lease, claim)) => match self.holder(lease, *claim) {
                Holder::Stranger => is_node || self.may_keep(mac),
                Holder::Nobody => self.has_room(mac),
                Holder::Node => false,
            },
        }
    }

    fn own(&self, mac: Mac, address: Ipv4Addr) -> Option<(Lease, Claim)> {
        self.by_address.get(&address).filter(|(lease, claim)| lease.mac == mac && *claim != Claim::Declined).copied()
    }

    /// Keeps an offered address for its client for a moment, unless it has a longer claim.
    pub(super) fn hold(&mut self, mac: Mac, address: Ipv4Addr, now: u64, until: u64) {
        let is_leased = |(lease, claim): (Lease, Claim)| matches!(claim, Claim::Leased { .. }) && lease.is_live(now);
        if !self.own(mac, address).is_some_and(is_leased) {
            self.put(Lease { address, mac, until, quarantined: false }, Claim::Offered);
        }
    }

    /// The client took another server's offer. What it leases here stays: whoever names its card could end that.
    pub(super) fn forget_offer(&mut self, mac: Mac) {
        if let Some(address) = self.by_mac.get(&mac).copied()
            && let Some((_, Claim::Offered)) = self.own(mac, address)
        {
            self.free(address);
        }
    }

    /// The lease on disk that covers this one already, to within `slack` seconds of its end.
    pub(super) fn covering(&self, mac: Mac, address: Ipv4Addr, until: u64, slack: u64) -> Option<Lease> {
        let (lease, claim) = self.own(mac, address)?;
        let is_stored = claim == Claim::Leased { on_disk: true };
        (is_stored && lease.until.saturating_add(slack) >= until && lease.until <= until).then_some(lease)
    }

    /// This lease is on disk.
    pub(super) fn stored(&mut self, lease: &Lease) {
        if let Some((known, Claim::Leased { on_disk })) = self.by_address.get_mut(&lease.address)
            && known == lease
        {
            *on_disk = true;
        }
    }

    pub(super) fn grant(&mut self, mac: Mac, address: Ipv4Addr, until: u64) -> Lease {
        let lease = Lease { address, mac, until, quarantined: false };
        self.put(lease, Claim::Leased { on_disk: false });
        lease
    }

    /// The client needs its address no more. A node's stays its own until its end: it costs nothing, and whoever names
    /// the node's card cannot have it given away.
    pub(super) fn release(&mut self, mac: Mac, address: Ipv4Addr, now: u64) -> Option<Lease> {
        let (lease, claim) = self.own(mac, address)?;
        if claim == Claim::Offered || !lease.is_live(now) || self.is_of_a_node(mac) {
            return None;
        }
        let lease = Lease { until: now.saturating_sub(1), ..lease };
        self.put(lease, Claim::Leased { on_disk: false });
        Some(lease)
    }

    /// Somebody else uses the address that this client was given. Only an eighth of a pool is kept from use by that, the
    /// newest ones.
    pub(super) fn quarantine(&mut self, mac: Mac, address: Ipv4Addr, now: u64, until: u64) -> Option<Lease> {
        let (own, _) = self.own(mac, address)?;
        if !own.is_live(now) || !self.can_be_lent(address) {
            return None;
        }
        let most = (self.size() / 8).clamp(1, MOST / 8);
        while self.declined.len() >= most
            && let Some((_, oldest)) = self.declined.first().copied()
        {
            self.free(oldest);
        }
        let lease = Lease { address, mac, until, quarantined: true };
        self.put(lease, Claim::Declined);
        Some(lease)
    }

    /// Addresses that somebody has, had or declined.
    #[cfg(test)]
    pub(super) fn entries(&self) -> impl Iterator<Item = &Lease> {
        self.by_address.values().map(|(lease, _)| lease)
    }
}
