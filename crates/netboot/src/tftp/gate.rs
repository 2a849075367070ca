//! Which requests get a transfer.
//!
//! ```text
//! request ─▶ asked ── first ACK ──▶ proven ──▶ leaving ─▶ its thread is gone
//!              └─ silence, or another request ───▶┘
//!                 that takes its place
//! ```
//! A request is a single datagram, whose sender anyone can make up: until it is acknowledged, nobody is known to be
//! there. So an address has one transfer before its first acknowledgement, of which the newest request counts (a ROM that
//! lost an answer asks again from a new port), and a number of requests in a second. Addresses that DHCP does not know
//! for a node's have a part of everything between them, and give way when all is full.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Instant;

use crate::away::Away;

/// How many there are at once, of each kind.
#[derive(Debug, Clone, Copy)]
struct Most {
    /// Transfers: each has a thread.
    all: usize,
    /// Those of addresses that are no node's.
    strangers: usize,
    /// Those of them that have acknowledged nothing. In a flood each lives until so many more have come, which is longer
    /// than an answer takes.
    unproven: usize,
    /// Threads that have nothing to send any more and are not gone; as many again for nodes' requests.
    leaving: usize,
}

impl Most {
    /// Where there are so many transfers.
    fn of(all: usize) -> Self {
        Most { all, strangers: all / 2, unproven: (all / 8).max(1), leaving: (all / 4).max(1) }
    }
}

/// Transfers of one address: a machine reads one file after the other, and a few may be behind one address.
const OF_ONE: usize = 16;
/// Those of them that have acknowledged nothing, where another one has.
const UNPROVEN_OF_ONE: usize = 4;
/// Addresses of strangers are remembered while there are not more than these in all, far more than there can be nodes
/// and transfers.
const ADDRESSES: usize = 8192;

/// Requests of one address without an acknowledgement: U-Boot and a Raspberry Pi ask for a dozen files that are not
/// there. What has acknowledged something begins anew.
const ONE: Rate = Rate { burst: 32, a_second: 16 };
/// Those of all addresses that are no node's.
const ALL_STRANGERS: Rate = Rate { burst: 512, a_second: 256 };

/// With so many transfers, a window is smaller: each transfer has its own in memory.
const CROWD: usize = 256;
const WINDOW: u16 = 64;
const WINDOW_IN_A_CROWD: u16 = 16;

/// How often something may happen.
#[derive(Debug, Clone, Copy)]
struct Rate {
    burst: u32,
    a_second: u32,
}

/// What is left of a rate.
#[derive(Debug, Clone, Copy)]
struct Left {
    /// Thousandths of one.
    thousandths: u64,
    at: Instant,
}

impl Rate {
    fn full(self, now: Instant) -> Left {
        Left { thousandths: u64::from(self.burst) * 1000, at: now }
    }

    fn after(self, left: Left, now: Instant) -> Left {
        let passed = now.saturating_duration_since(left.at).as_millis() as u64;
        let thousandths = left.thousandths.saturating_add(passed.saturating_mul(u64::from(self.a_second)));
        Left { thousandths: thousandths.min(u64::from(self.burst) * 1000), at: now.max(left.at) }
    }

    fn take(self, left: &mut Left, now: Instant) -> bool {
        *left = self.after(*left, now);
        let has = left.thousandths >= 1000;
        if has {
            left.thousandths -= 1000;
        }
        has
    }
}

/// The name of a transfer, in the order in which they were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(u64);

/// A transfer may begin.
#[derive(Debug, PartialEq, Eq)]
pub struct Start {
    pub id: Id,
    /// The one whose place it takes: that has to end.
    pub instead_of: Option<Id>,
    /// The largest window for now.
    pub window: u16,
}

/// What a request gets that gets no transfer: silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum No {
    /// Its transfer runs: the answer is on its way.
    Repeated,
    Turned(Away),
}

#[derive(Debug)]
struct Running {
    from: SocketAddrV4,
    is_node: bool,
    is_proven: bool,
}

#[derive(Debug)]
struct Address {
    left: Left,
    /// Its transfers, the oldest first.
    transfers: Vec<Id>,
}

/// The gate.
#[derive(Debug)]
pub struct Gate {
    most: Most,
    last: u64,
    /// Those that run, the oldest first.
    running: BTreeMap<Id, Running>,
    by_client: HashMap<SocketAddrV4, Id>,
    addresses: HashMap<Ipv4Addr, Address>,
    strangers_left: Left,
    strangers: usize,
    /// Transfers that have acknowledged nothing, the oldest first.
    unproven_strangers: BTreeSet<Id>,
    /// Threads that are to end and are not gone.
    leaving: usize,
    /// How many addresses there were when the idle ones were forgotten last.
    swept: usize,
}

impl Gate {
    pub fn new(most: usize, now: Instant) -> Self {
        Gate {
            most: Most::of(most),
            last: 0,
            running: BTreeMap::new(),
            by_client: HashMap::new(),
            addresses: HashMap::new(),
            strangers_left: ALL_STRANGERS.full(now),
            strangers: 0,
            unproven_strangers: BTreeSet::new(),
            leaving: 0,
            swept: 0,
        }
    }

    /// So many transfers may run at once from now on. Those that run go on.
    pub fn resize(&mut self, most: usize) {
        if self.most.all != most {
            self.most = Most::of(most);
        }
    }

    /// Whether this request gets a transfer. `is_node` says whether its address is a node's, as far as is known.
    ///
    /// # Errors
    /// Why it gets none.
    pub fn ask(&mut self, from: SocketAddrV4, now: Instant, is_node: impl FnOnce() -> bool) -> Result<Start, No> {
        if self.by_client.contains_key(&from) {
            return Err(No::Repeated);
        }
        if !self.has_left(*from.ip(), now) {
            return Err(No::Turned(Away::Address));
        }
        let is_node = is_node();
        let instead_of = self.place_for(*from.ip(), is_node).map_err(No::Turned)?;
        if self.leaving >= if is_node { 2 * self.most.leaving } else { self.most.leaving } {
            return Err(No::Turned(Away::Full));
        }
        if !is_node && !self.may_serve_a_stranger(now) {
            return Err(No::Turned(Away::Strangers));
        }
        self.spend(*from.ip(), now);
        if let Some(other) = instead_of {
            self.ends(other);
        }
        self.last += 1;
        let id = Id(self.last);
        self.running.insert(id, Running { from, is_node, is_proven: false });
        self.by_client.insert(from, id);
        self.addresses.entry(*from.ip()).or_insert_with(|| Address::new(now)).transfers.push(id);
        if !is_node {
            self.strangers += 1;
            self.unproven_strangers.insert(id);
        }
        let window = if self.running.len() > CROWD { WINDOW_IN_A_CROWD } else { WINDOW };
        Ok(Start { id, instead_of, window })
    }

    /// Whether what is no request that is served gets an error as its answer.
    pub fn may_refuse(&mut self, from: SocketAddrV4, now: Instant) -> bool {
        let may = self.has_left(*from.ip(), now) && self.may_serve_a_stranger(now);
        if may {
            self.spend(*from.ip(), now);
        }
        may
    }

    /// Whether this address may ask once more.
    fn has_left(&self, address: Ipv4Addr, now: Instant) -> bool {
        self.addresses.get(&address).is_none_or(|address| ONE.after(address.left, now).thousandths >= 1000)
    }

    fn may_serve_a_stranger(&mut self, now: Instant) -> bool {
        self.addresses.len() < ADDRESSES && ALL_STRANGERS.take(&mut self.strangers_left, now)
    }

    /// Takes one request from what this address has left. An address is remembered from then on, and not for a datagram
    /// that led to nothing: of those there can be any number.
    fn spend(&mut self, address: Ipv4Addr, now: Instant) {
        if !self.addresses.contains_key(&address) {
            self.sweep(now);
        }
        ONE.take(&mut self.addresses.entry(address).or_insert_with(|| Address::new(now)).left, now);
    }

    /// Forgets addresses that could ask as if they never had, whenever there are twice as many.
    fn sweep(&mut self, now: Instant) {
        if self.addresses.len() < (2 * self.swept).max(64) {
            return;
        }
        let is_full = |left: Left| ONE.after(left, now).thousandths == u64::from(ONE.burst) * 1000;
        self.addresses.retain(|_, address| !address.transfers.is_empty() || !is_full(address.left));
        self.swept = self.addresses.len();
    }

    /// The transfer that one more of this address takes the place of, if it has to.
    fn place_for(&self, address: Ipv4Addr, is_node: bool) -> Result<Option<Id>, Away> {
        let own = self.addresses.get(&address).map_or(&[][..], |address| &address.transfers);
        let unproven = || own.iter().filter(|id| self.running.get(id).is_some_and(|one| !one.is_proven)).copied();
        let is_proven = unproven().count() < own.len();
        let most = if is_proven { UNPROVEN_OF_ONE } else { 1 };
        if unproven().count() >= most || own.len() >= OF_ONE {
            return unproven().next().map(Some).ok_or(Away::Address);
        }
        let gives_way = self.unproven_strangers.first().copied();
        if is_node {
            // A node's place is kept by nobody who is none and has not answered.
            return if self.running.len() < self.most.all { Ok(None) } else { gives_way.map(Some).ok_or(Away::Full) };
        }
        if self.unproven_strangers.len() >= self.most.unproven || self.strangers >= self.most.strangers {
            return gives_way.map(Some).ok_or(Away::Strangers);
        }
        if self.running.len() < self.most.all { Ok(None) } else { Err(Away::Full) }
    }

    /// The client at this address has acknowledged something, or ended it: there is somebody, who may ask on. `false`
    /// where the transfer had to give way, as one does whose abort is read after the next request.
    pub fn proves(&mut self, id: Id, from: Ipv4Addr, now: Instant) -> bool {
        if let Some(address) = self.addresses.get_mut(&from) {
            address.left = ONE.full(now);
        }
        let Some(running) = self.running.get_mut(&id) else { return false };
        running.is_proven = true;
        self.unproven_strangers.remove(&id);
        true
    }

    /// It has nothing to send any more.
    pub fn ends(&mut self, id: Id) {
        if self.remove(id) {
            self.leaving += 1;
        }
    }

    /// Its thread is gone, once for each.
    pub fn is_gone(&mut self, id: Id) {
        self.ends(id);
        self.leaving = self.leaving.saturating_sub(1);
    }

    fn remove(&mut self, id: Id) -> bool {
        let Some(Running { from, is_node, .. }) = self.running.remove(&id) else { return false };
        self.by_client.remove(&from);
        if let Some(address) = self.addresses.get_mut(from.ip()) {
            address.transfers.retain(|other| *other != id);
        }
        if !is_node {
            self.strangers -= 1;
            self.unproven_strangers.remove(&id);
        }
        true
    }

    /// Threads that there are for transfers.
    #[cfg(test)]
    pub(super) fn threads(&self) -> usize {
        self.running.len() + self.leaving
    }
}

impl Address {
    fn new(now: Instant) -> Self {
        Address { left: ONE.full(now), transfers: Vec::new() }
    }
}

#[cfg(test)]
mod tests;
