//! The machines of the wire, by what was last heard of them.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bramble_model::names::Mac;
use bramble_model::timeline::Millis;
use bramble_netboot::Heard;
use bramble_system::{locked, now};

/// Addresses that are remembered. A wire of a thousand machines fits; a flood of forged ones does not.
const REMEMBERED: usize = 8192;

/// A machine asks for its script within so many milliseconds after its DHCP; and one that cannot be told to ask for an
/// address again, whose firmware may be slow, or try for long.
const JUST: Millis = 120_000;
const JUST_FIRMWARE: Millis = 900_000;

/// The kernel's table is read again after so long, and for whoever was not in it.
const FRESH: Duration = Duration::from_millis(100);

/// Who has an address: its card, and the interface of the head's on whose wire it is.
pub(crate) type Neighbour = (Mac, String);

/// Who has which address; on each wire another one may.
pub(crate) type Table = HashMap<Ipv4Addr, Vec<Neighbour>>;

pub(crate) struct Neighbours {
    /// Who has which address, where that can be told.
    table: fn() -> Table,
    read: Mutex<Option<(Instant, Table)>>,
    since: Millis,
    by_address: Mutex<HashMap<Ipv4Addr, Mac>>,
    last_asked: Mutex<HashMap<Mac, Millis>>,
    /// When each card was heard last, and where: nobody who says to have it on another wire has it forgotten here. Cards
    /// of nodes alone: no flood of strangers has anyone forgotten.
    heard: Mutex<HashMap<Mac, BTreeMap<Heard, Millis>>>,
}

/// From where a machine with a node's card asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// From this card's own place on the wire, on which the head heard its DHCP.
    Own(Mac),
    /// From another card's place, on the wire on which the head heard that card. Some bridges answer in the name of the
    /// machines behind them.
    Others,
    /// From behind a relay, by which the head heard it.
    Relayed,
}

impl Place {
    /// The card whose own place it is.
    pub(crate) fn card(self) -> Option<Mac> {
        match self {
            Place::Own(card) => Some(card),
            Place::Others | Place::Relayed => None,
        }
    }
}

/// Why nothing is given to whoever asks in a node's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Misplaced {
    /// The head has not heard that card ask for an address within two minutes.
    Unheard,
    /// It was heard on a wire, or by a relay, and this address is not there.
    Elsewhere,
}

impl Default for Neighbours {
    fn default() -> Self {
        Neighbours {
            table: neighbours,
            read: Mutex::default(),
            since: now(),
            by_address: Mutex::default(),
            last_asked: Mutex::default(),
            heard: Mutex::default(),
        }
    }
}

impl Neighbours {
    /// As on a wire with these machines.
    #[cfg(test)]
    pub(crate) fn on(table: fn() -> Table) -> Self {
        Neighbours { table, since: 0, ..Neighbours::default() }
    }

    /// Who has this address, on each wire: packets to it leave for them, and nobody else hears those.
    fn at(&self, address: Ipv4Addr) -> Vec<Neighbour> {
        let mut read = locked(&self.read);
        if let Some((at, table)) = &*read
            && at.elapsed() < FRESH
            && let Some(found) = table.get(&address)
        {
            return found.clone();
        }
        let (_, table) = read.insert((Instant::now(), (self.table)()));
        table.get(&address).cloned().unwrap_or_default()
    }

    /// The card of this address, by what was read last: for whoever asks for every datagram, in whoever's name.
    pub(crate) fn lately_at(&self, address: Ipv4Addr) -> Option<Mac> {
        let mut read = locked(&self.read);
        if read.as_ref().is_none_or(|(at, _)| at.elapsed() >= FRESH) {
            *read = Some((Instant::now(), (self.table)()));
        }
        let (_, table) = read.as_ref()?;
        table.get(&address)?.first().map(|(card, _)| *card)
    }

    /// The card that packets to this address leave for, where it is on a wire on which that card was heard. One that was heard
    /// on none has not started since the head has; where two say to have the address, it is nobody's then.
    pub(crate) fn card_at(&self, address: Ipv4Addr) -> Option<Mac> {
        let at = self.at(address);
        let heard = locked(&self.heard);
        let on =
            |(card, wire): &&Neighbour| heard.get(card).is_some_and(|on| on.contains_key(&Heard::Wire(wire.clone())));
        if let Some((card, _)) = at.iter().find(on) {
            return Some(*card);
        }
        let on_none = |card: &Mac| heard.get(card).is_none_or(|on| on.keys().all(|on| *on == Heard::Relay));
        match &at[..] {
            [(card, _)] if on_none(card) => Some(*card),
            _ => None,
        }
    }

    /// The card that packets to this address leave for, on whichever wire.
    pub(crate) fn on_the_wire(&self, address: Ipv4Addr) -> Option<Mac> {
        self.card_at(address).or_else(|| self.at(address).first().map(|(card, _)| *card))
    }

    /// From where a machine with this card asks, which is at this address; or why it is given nothing. One that
    /// `is_patient` can be told to ask for an address again: where that is not so, a head that has just started may have
    /// missed its DHCP.
    pub(crate) fn place(&self, card: Mac, address: Ipv4Addr, is_patient: bool) -> Result<Place, Misplaced> {
        let now = now();
        let least = now.saturating_sub(if is_patient { JUST } else { JUST_FIRMWARE });
        let at = self.at(address);
        let heard = locked(&self.heard);
        let just = |on: &Heard| heard.get(&card).and_then(|heard| heard.get(on)).is_some_and(|at| *at >= least);
        let near: Vec<&Neighbour> = at.iter().filter(|(_, wire)| just(&Heard::Wire(wire.clone()))).collect();
        let is_own = |(own, _): &Neighbour| *own == card;
        if near.iter().any(|near| is_own(near)) {
            return Ok(Place::Own(card));
        }
        if !near.is_empty() {
            return Ok(Place::Others);
        }
        if at.is_empty() && just(&Heard::Relay) {
            return Ok(Place::Relayed);
        }
        if heard.get(&card).is_some_and(|heard| heard.values().any(|at| *at >= least)) {
            return Err(Misplaced::Elsewhere);
        }
        let has_missed = !is_patient && self.since >= now.saturating_sub(JUST);
        if has_missed && at.iter().any(is_own) { Ok(Place::Own(card)) } else { Err(Misplaced::Unheard) }
    }

    /// A card of a node asks for an address.
    pub(crate) fn hears(&self, card: Mac, on: Heard, at: Millis) {
        locked(&self.heard).entry(card).or_default().insert(on, at);
    }

    /// Learns that a machine has an address.
    pub(crate) fn learn(&self, address: Ipv4Addr, mac: Mac) {
        let mut known = locked(&self.by_address);
        if known.len() >= REMEMBERED && !known.contains_key(&address) {
            known.clear();
        }
        known.insert(address, mac);
    }

    /// The card of whoever has this address, by what was heard.
    pub(crate) fn heard_at(&self, address: Ipv4Addr) -> Option<Mac> {
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

/// The kernel's own word on who has which address (`/proc/net/arp`): it answers a machine's ARP question
/// before this program has read it.
fn neighbours() -> Table {
    read_table(&std::fs::read_to_string("/proc/net/arp").unwrap_or_default())
}

fn read_table(text: &str) -> Table {
    let mut table = Table::new();
    for (address, neighbour) in text.lines().filter_map(neighbour) {
        table.entry(address).or_default().push(neighbour);
    }
    table
}

/// How many neighbours the kernel remembers (arp(7)); `None` where it does not say, as in a container.
fn room() -> Option<usize> {
    std::fs::read_to_string("/proc/sys/net/ipv4/neigh/default/gc_thresh3").ok()?.trim().parse().ok()
}

/// Whether the kernel remembers enough of so many cards, with all else that is on a wire: a card that it has forgotten
/// is at no place.
pub(crate) fn too_little_room(cards: usize) -> Option<String> {
    told_of_room(cards, room()?)
}

fn told_of_room(cards: usize, room: usize) -> Option<String> {
    let wanted = (cards * 4).next_power_of_two();
    (cards * 2 > room).then(|| {
        format!(
            "the kernel remembers {room} neighbours, and {cards} cards are declared: machines that it forgets are not \
             known by their place; `sysctl net.ipv4.neigh.default.gc_thresh3={wanted}`"
        )
    })
}

/// `10.77.0.11  0x1  0x2  52:54:00:00:00:01  *  eth0`
fn neighbour(line: &str) -> Option<(Ipv4Addr, Neighbour)> {
    let mut words = line.split_whitespace();
    let address = words.next()?.parse().ok()?;
    let card: Mac = words.nth(2)?.parse().ok()?;
    let wire = words.nth(1)?.to_owned();
    // One that is being asked for has zeros.
    (card != Mac([0; 6])).then_some((address, (card, wire)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const OTHER: Mac = Mac([2, 0, 0, 0, 0, 2]);
    const AT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 11);
    const OTHERS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 12);
    const GUESTS: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 11);
    const ROUTED: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);

    fn wires() -> Table {
        let on = |card, wire: &str| (card, wire.to_owned());
        // Someone on another wire says to have this address, too.
        let own = vec![on(OTHER, "eth1"), on(OWN, "eth0")];
        [(AT, own), (OTHERS, vec![on(OTHER, "eth0")]), (GUESTS, vec![on(OWN, "eth1")])].into()
    }

    fn wire(name: &str) -> Heard {
        Heard::Wire(name.into())
    }

    #[test]
    fn nothing_is_given_where_the_card_was_not_just_heard_on_that_wire() {
        let known = Neighbours::on(wires);
        assert_eq!(known.place(OWN, AT, true), Err(Misplaced::Unheard));
        known.hears(OWN, wire("eth0"), now());
        assert_eq!(known.place(OWN, AT, true), Ok(Place::Own(OWN)));
        assert_eq!(known.place(OWN, OTHERS, true), Ok(Place::Others), "as behind a repeater: nobody is let in by it");
        for address in [GUESTS, ROUTED] {
            assert_eq!(known.place(OWN, address, true), Err(Misplaced::Elsewhere), "{address}");
        }
        known.hears(OWN, wire("eth0"), now() - JUST - 1000);
        assert_eq!(known.place(OWN, AT, true), Err(Misplaced::Unheard), "that was another boot");
        known.hears(OWN, Heard::Relay, now());
        assert_eq!(known.place(OWN, ROUTED, true), Ok(Place::Relayed));
        assert_eq!(known.place(OWN, AT, true), Err(Misplaced::Elsewhere), "a relay's word is nobody's on the wire");
    }

    /// Whoever says so on another wire, or as a relay does, took the machine's own boot from it.
    #[test]
    fn who_says_to_have_a_card_elsewhere_takes_nothing_from_where_it_is() {
        let known = Neighbours::on(wires);
        known.hears(OWN, wire("eth0"), now());
        known.hears(OWN, wire("eth1"), now());
        known.hears(OWN, Heard::Relay, now());
        assert_eq!(known.place(OWN, AT, true), Ok(Place::Own(OWN)));
        assert_eq!(known.card_at(AT), Some(OWN));
    }

    #[test]
    fn a_head_that_has_just_started_may_have_missed_who_cannot_ask_again() {
        let known = Neighbours { since: now(), ..Neighbours::on(wires) };
        assert_eq!(known.place(OWN, AT, true), Err(Misplaced::Unheard), "iPXE asks again");
        assert_eq!(known.place(OWN, AT, false), Ok(Place::Own(OWN)), "a Raspberry Pi cannot");
        assert_eq!(known.place(OWN, OTHERS, false), Err(Misplaced::Unheard));
        assert_eq!(known.place(OWN, ROUTED, false), Err(Misplaced::Unheard));
    }

    #[test]
    fn a_place_is_on_the_wire_on_which_its_card_was_heard() {
        let known = Neighbours::on(wires);
        assert_eq!((known.card_at(OTHERS), known.card_at(ROUTED)), (Some(OTHER), None));
        assert_eq!(known.card_at(AT), None, "two say so, and none was heard");
        known.hears(OWN, wire("eth0"), 7);
        assert_eq!((known.card_at(AT), known.card_at(GUESTS)), (Some(OWN), None));
    }

    #[test]
    fn firmware_that_cannot_ask_again_has_a_quarter_of_an_hour() {
        let known = Neighbours::on(wires);
        known.hears(OWN, wire("eth0"), now() - JUST - 1000);
        assert_eq!(known.place(OWN, AT, true), Err(Misplaced::Unheard));
        assert_eq!(known.place(OWN, AT, false), Ok(Place::Own(OWN)), "a Raspberry Pi on a slow wire");
        known.hears(OWN, wire("eth0"), now() - JUST_FIRMWARE - 1000);
        assert_eq!(known.place(OWN, AT, false), Err(Misplaced::Unheard));
    }

    /// A request in a node's name made the head take what comes from there for that node's, its reports and its files.
    #[test]
    fn whose_an_address_is_says_the_kernel_and_what_was_heard_only_behind_a_relay() {
        let known = Neighbours::on(wires);
        known.learn(OTHERS, OWN);
        assert_eq!(known.on_the_wire(OTHERS), Some(OTHER));
        known.learn(ROUTED, OWN);
        assert_eq!((known.on_the_wire(ROUTED), known.heard_at(ROUTED)), (None, Some(OWN)));
        known.hears(OWN, wire("eth0"), 7);
        known.hears(OTHER, wire("eth0"), 7);
        assert_eq!(known.on_the_wire(AT), Some(OWN), "and not whoever says so on another wire");
    }

    #[test]
    fn a_table_that_is_too_small_is_told_with_what_to_do() {
        assert_eq!(told_of_room(512, 1024), None);
        let told = told_of_room(1000, 1024).expect("too little");
        assert!(told.ends_with("`sysctl net.ipv4.neigh.default.gc_thresh3=4096`"), "{told}");
    }

    #[test]
    fn the_kernels_table_is_read() {
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
                     10.77.0.11       0x1         0x2         02:00:00:00:00:01     *        eth0\n\
                     10.77.0.11       0x1         0x2         02:00:00:00:00:02     *        eth1\n\
                     10.77.0.13       0x1         0x0         00:00:00:00:00:00     *        eth0\n\
                     torn";
        let own = vec![(OWN, "eth0".to_owned()), (OTHER, "eth1".to_owned())];
        assert_eq!(read_table(table), Table::from([(AT, own)]));
    }
}
