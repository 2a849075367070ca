//! Who is held, and who goes where there is no room: an account without sockets or a clock.
//!
//! ```text
//!            enters                says what it wants
//!   ──────────────────▶ Silent ────────────────────────▶ Busy
//!                        │   ▲                            │
//!   another one needs    │   └──────── is answered ───────┘
//!   the room             ▼
//!                       goes
//! ```
//! A connection costs a descriptor from the first moment, and whoever floods holds many, and says nothing on them, or half
//! of something. So the address goes first that holds the most: of what it holds the oldest silent one, and where it
//! holds a crowd that is served, slowly, the oldest of that. Where all hold the same, the oldest silence goes that is longer
//! than a handshake takes; else nobody does, and whoever comes asks again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use bramble_model::timeline::Millis;

/// Within so many milliseconds a stranger of no crowd may be in the middle of its handshake.
const YOUNG: Millis = 2_000;
/// An address that holds so many is a crowd: it has no claim to all of them.
const CROWD: usize = 8;

/// How one is known here: later ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Id(u64);

/// Since when one says nothing, in order.
type Silence = (Millis, Id);

#[derive(Debug)]
struct Held<T> {
    from: IpAddr,
    /// `None` while it is served.
    silent: Option<Millis>,
    what: T,
}

#[derive(Debug, Default)]
struct Own {
    all: BTreeSet<Id>,
    silent: BTreeSet<Silence>,
}

/// The account, with something of each that is held.
#[derive(Debug)]
pub(super) struct Room<T> {
    most: usize,
    most_of_one: usize,
    last: u64,
    held: HashMap<Id, Held<T>>,
    silent: BTreeSet<Silence>,
    by_address: BTreeMap<IpAddr, Own>,
    /// Addresses by how many they hold.
    greedy: BTreeSet<(usize, IpAddr)>,
}

/// One that was let in, and what was held of one that goes for it.
#[derive(Debug)]
pub(super) struct Entered<T> {
    pub(super) id: Id,
    pub(super) goes: Option<T>,
}

impl<T> Room<T> {
    pub(super) fn new(most: usize, most_of_one: usize) -> Self {
        Room {
            most,
            most_of_one,
            last: 0,
            held: HashMap::new(),
            silent: BTreeSet::new(),
            by_address: BTreeMap::new(),
            greedy: BTreeSet::new(),
        }
    }

    /// As many as that may be held from now on. Gives those that go where fewer may be: the oldest silent ones, and nobody
    /// who is served.
    pub(super) fn resize(&mut self, most: usize, most_of_one: usize) -> Vec<T> {
        (self.most, self.most_of_one) = (most, most_of_one);
        let mut gone = Vec::new();
        while self.held.len() > self.most
            && let Some((_, id)) = self.silent.first().copied()
        {
            gone.extend(self.leave(id));
        }
        gone
    }

    fn count(&self, from: IpAddr) -> usize {
        self.by_address.get(&from).map_or(0, |own| own.all.len())
    }

    /// Who goes, where there is no room for one more of this address.
    fn victim(&self, from: IpAddr, now: Millis) -> Option<Id> {
        let own = self.count(from);
        if own >= self.most_of_one {
            return self.by_address.get(&from)?.silent.first().map(|(_, id)| *id);
        }
        let (most, greediest) = self.greedy.last()?;
        let its = &self.by_address[greediest];
        if *most > own + 1 {
            let silent = its.silent.first().map(|(_, id)| *id);
            let crowd = || its.all.first().copied().filter(|_| *most >= CROWD);
            if let Some(id) = silent.or_else(crowd) {
                return Some(id);
            }
        }
        self.silent.first().filter(|(since, _)| since + YOUNG < now).map(|(_, id)| *id)
    }

    /// Lets one in, which is silent. `None` where there is no room, and nobody has to go.
    pub(super) fn enter(&mut self, from: IpAddr, what: T, now: Millis) -> Option<Entered<T>> {
        let fits = self.count(from) < self.most_of_one && self.held.len() < self.most;
        let goes = if fits { None } else { Some(self.victim(from, now)?) };
        let goes = goes.and_then(|id| self.leave(id));
        self.last += 1;
        let id = Id(self.last);
        self.held.insert(id, Held { from, silent: Some(now), what });
        self.silent.insert((now, id));
        let own = self.by_address.entry(from).or_default();
        self.greedy.remove(&(own.all.len(), from));
        own.all.insert(id);
        own.silent.insert((now, id));
        self.greedy.insert((own.all.len(), from));
        Some(Entered { id, goes })
    }

    /// It has said what it wants; `false` where it has gone for another one.
    pub(super) fn speaks(&mut self, id: Id) -> bool {
        let Some(held) = self.held.get_mut(&id) else { return false };
        if let Some(since) = held.silent.take() {
            self.silent.remove(&(since, id));
            if let Some(own) = self.by_address.get_mut(&held.from) {
                own.silent.remove(&(since, id));
            }
        }
        true
    }

    /// It has been answered.
    pub(super) fn is_silent(&mut self, id: Id, now: Millis) {
        if let Some(held) = self.held.get_mut(&id)
            && held.silent.is_none()
        {
            held.silent = Some(now);
            self.silent.insert((now, id));
            if let Some(own) = self.by_address.get_mut(&held.from) {
                own.silent.insert((now, id));
            }
        }
    }

    /// It is held no more. One that went for another is none already.
    pub(super) fn leave(&mut self, id: Id) -> Option<T> {
        let Held { from, silent, what } = self.held.remove(&id)?;
        if let Some(own) = self.by_address.get_mut(&from) {
            self.greedy.remove(&(own.all.len(), from));
            own.all.remove(&id);
            if let Some(since) = silent {
                self.silent.remove(&(since, id));
                own.silent.remove(&(since, id));
            }
            if own.all.is_empty() {
                self.by_address.remove(&from);
            } else {
                self.greedy.insert((own.all.len(), from));
            }
        }
        Some(what)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn whoever_holds_the_most_gives_way() {
        let mut room = Room::new(4, 3);
        let mut enter = |from, name| room.enter(at(from), name, 0).map(|entered| entered.goes);
        assert_eq!([enter(1, "a"), enter(1, "b"), enter(1, "c")], [Some(None), Some(None), Some(None)]);
        assert_eq!(enter(1, "d"), Some(Some("a")), "its own oldest goes");
        assert_eq!(enter(2, "machine"), Some(None));
        assert_eq!(enter(3, "e"), Some(Some("b")), "of whoever holds the most, and not the oldest of all");
        assert_eq!(enter(4, "f"), Some(Some("c")));
        assert_eq!(enter(5, "g"), None, "each has one, and may be in the middle of a handshake");
        let late = room.enter(at(5), "g", YOUNG + 1).expect("the oldest silence goes");
        assert_eq!(late.goes, Some("d"));
    }

    #[test]
    fn who_is_served_stays_unless_it_is_a_crowd() {
        let mut room = Room::new(9, 9);
        let crowd: Vec<Id> = (0..8).map(|_| room.enter(at(1), "crowd", 0).expect("room").id).collect();
        let machine = room.enter(at(2), "machine", 0).expect("room").id;
        assert!(room.speaks(machine) && crowd.iter().all(|id| room.speaks(*id)));
        assert_eq!(room.enter(at(3), "other", 0).expect("room").goes, Some("crowd"), "it only takes its time");
        assert!(
            room.enter(at(4), "more", 0).is_none(),
            "seven are no crowd any more, and nobody has been silent for long"
        );
        assert!(!room.speaks(crowd[0]), "it has gone");
        assert!(room.leave(crowd[0]).is_none() && room.leave(machine).is_some());
    }

    proptest! {
        /// In any sequence there are never more than fit, of one address and of all; who has one connection and is served
        /// never goes; and whoever holds less than others is let in, for one of theirs.
        #[test]
        fn the_account_is_right(
            events in prop::collection::vec((0..4_u8, 0..5_u8, 0..40_usize, 0..900_u64), 0..200),
        ) {
            let (most, most_of_one) = (12, 9);
            let mut room = Room::new(most, most_of_one);
            // Of each that is there: where it is from, and whether it is served.
            let mut there: BTreeMap<Id, (u8, bool)> = BTreeMap::new();
            let (mut all, mut now) = (Vec::new(), 0);
            for (number, (event, from, which, later)) in events.into_iter().enumerate() {
                now += later;
                let chosen: Option<Id> = if all.is_empty() { None } else { Some(all[which % all.len()]) };
                match (event, chosen) {
                    (0, _) => {
                        let count = |of: u8| there.values().filter(|(from, _)| *from == of).count();
                        let own = count(from);
                        let silent = |of: u8| there.values().any(|(from, served)| *from == of && !served);
                        let greediest = (0..5).map(count).max().unwrap_or(0);
                        let fits = own < most_of_one && there.len() < most;
                        let entered = room.enter(at(from), number, now);
                        if fits {
                            prop_assert!(entered.is_some());
                        }
                        if own >= most_of_one {
                            prop_assert_eq!(entered.is_some(), silent(from));
                        } else if !fits && greediest > own + 1 && greediest >= CROWD {
                            prop_assert!(entered.is_some(), "a crowd gives way");
                        }
                        let Some(Entered { id, goes }) = entered else { continue };
                        prop_assert_eq!(goes.is_some(), !fits);
                        let gone: Vec<Id> = there.keys().copied().filter(|id| !room.held.contains_key(id)).collect();
                        prop_assert_eq!(gone.len(), usize::from(goes.is_some()));
                        for id in &gone {
                            let (of, is_served) = there[id];
                            prop_assert!(!is_served || count(of) >= CROWD, "one goes that is served");
                        }
                        there.retain(|id, _| !gone.contains(id));
                        there.insert(id, (from, false));
                        all.push(id);
                    }
                    (1, Some(id)) => {
                        prop_assert_eq!(room.speaks(id), there.contains_key(&id));
                        if let Some(it) = there.get_mut(&id) { it.1 = true; }
                    }
                    (2, Some(id)) => { room.is_silent(id, now); if let Some(it) = there.get_mut(&id) { it.1 = false; } }
                    (_, Some(id)) => prop_assert_eq!(room.leave(id).is_some(), there.remove(&id).is_some()),
                    (_, None) => {}
                }
                prop_assert_eq!(room.held.len(), there.len());
                prop_assert!(there.len() <= most);
                for from in 0..5 {
                    let own = there.values().filter(|(of, _)| *of == from).count();
                    prop_assert!(own <= most_of_one);
                    prop_assert_eq!(room.count(at(from)), own);
                    prop_assert_eq!(room.greedy.contains(&(own, at(from))), own > 0);
                }
                prop_assert_eq!(room.greedy.len(), room.by_address.len());
                prop_assert_eq!(room.silent.len(), there.values().filter(|(_, served)| !served).count());
            }
        }
    }
}
