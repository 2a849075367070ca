//! Who is held, and who goes where there is no room: an account without sockets.
//!
//! ```text
//!            enters                says what it wants
//!   ──────────────────▶ Silent ────────────────────────▶ Busy
//!                        │   ▲                            │
//!   another one needs    │   └──────── is answered ───────┘
//!   the room: the oldest ▼
//!   silent one of all   goes
//! ```
//! A connection costs a descriptor from the first moment, and whoever floods opens connections and says nothing, or half
//! of something. So it is silence that goes first, and never one that is being served.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

/// How one is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Id(u64);

#[derive(Debug)]
struct Held<T> {
    from: IpAddr,
    /// Since when it says nothing, in order; `None` while it is served.
    silent: Option<u64>,
    what: T,
}

/// The account, with something of each that is held.
#[derive(Debug)]
pub(super) struct Room<T> {
    most: usize,
    most_of_one: usize,
    next: u64,
    held: HashMap<Id, Held<T>>,
    /// The oldest silence first.
    silent: BTreeMap<u64, Id>,
    by_address: HashMap<IpAddr, usize>,
}

/// One that was let in, and what was held of one that goes for it.
#[derive(Debug)]
pub(super) struct Entered<T> {
    pub(super) id: Id,
    pub(super) goes: Option<T>,
}

impl<T> Room<T> {
    pub(super) fn new(most: usize, most_of_one: usize) -> Self {
        Room { most, most_of_one, next: 0, held: HashMap::new(), silent: BTreeMap::new(), by_address: HashMap::new() }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Lets one in, which is silent. `None` where there is no room, and none is silent that could go: of its own address
    /// where that has its share, else of all.
    pub(super) fn enter(&mut self, from: IpAddr, what: T) -> Option<Entered<T>> {
        let own = self.by_address.get(&from).copied().unwrap_or(0);
        let goes = if own >= self.most_of_one {
            Some(self.silent.values().copied().find(|id| self.held[id].from == from)?)
        } else if self.held.len() >= self.most {
            Some(*self.silent.values().next()?)
        } else {
            None
        };
        let goes = goes.and_then(|id| self.leave(id));
        let (id, since) = (Id(self.number()), self.number());
        self.held.insert(id, Held { from, silent: Some(since), what });
        self.silent.insert(since, id);
        *self.by_address.entry(from).or_default() += 1;
        Some(Entered { id, goes })
    }

    /// It has said what it wants.
    pub(super) fn speaks(&mut self, id: Id) {
        if let Some(held) = self.held.get_mut(&id)
            && let Some(since) = held.silent.take()
        {
            self.silent.remove(&since);
        }
    }

    /// It has been answered.
    pub(super) fn is_silent(&mut self, id: Id) {
        let since = self.number();
        if let Some(held) = self.held.get_mut(&id)
            && held.silent.is_none()
        {
            held.silent = Some(since);
            self.silent.insert(since, id);
        }
    }

    /// It is held no more. One that went for another is none already.
    pub(super) fn leave(&mut self, id: Id) -> Option<T> {
        let Held { from, silent, what } = self.held.remove(&id)?;
        if let Some(since) = silent {
            self.silent.remove(&since);
        }
        if let Some(own) = self.by_address.get_mut(&from) {
            *own -= 1;
            if *own == 0 {
                self.by_address.remove(&from);
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
    fn one_address_cannot_take_all() {
        let mut room = Room::new(3, 2);
        let mut enter = |from, name| room.enter(at(from), name).map(|entered| entered.goes);
        assert_eq!((enter(1, "a"), enter(1, "b"), enter(2, "c")), (Some(None), Some(None), Some(None)));
        assert_eq!(enter(1, "d"), Some(Some("a")), "its own oldest goes");
        assert_eq!(enter(3, "e"), Some(Some("b")), "the oldest of all goes");
    }

    #[test]
    fn who_is_served_stays() {
        let mut room = Room::new(2, 2);
        let first = room.enter(at(1), "first").expect("room").id;
        let second = room.enter(at(2), "second").expect("room").id;
        room.speaks(first);
        room.speaks(second);
        assert!(room.enter(at(3), "third").is_none(), "both are served");
        room.is_silent(first);
        assert_eq!(room.enter(at(3), "third").expect("room").goes, Some("first"));
        assert_eq!(room.leave(first), None, "it has gone");
    }

    proptest! {
        /// In any sequence there are never more than fit, of one address and of all, none goes that is served, and one
        /// comes in wherever another one is silent.
        #[test]
        fn the_account_is_right(events in prop::collection::vec((0..4_u8, 0..4_u8, 0..40_usize), 0..200)) {
            let (most, most_of_one) = (6, 3);
            let mut room = Room::new(most, most_of_one);
            // Of each that is there: where it is from, and whether it is served.
            let mut there: BTreeMap<Id, (u8, bool)> = BTreeMap::new();
            let mut all = Vec::new();
            for (number, (event, from, which)) in events.into_iter().enumerate() {
                let chosen: Option<Id> = if all.is_empty() { None } else { Some(all[which % all.len()]) };
                match (event, chosen) {
                    (0, _) => {
                        let own = there.values().filter(|(of, _)| *of == from).count();
                        let may_go = |of: u8| own < most_of_one || of == from;
                        let is_silent = there.values().any(|(of, served)| !served && may_go(*of));
                        let fits = own < most_of_one && there.len() < most;
                        let entered = room.enter(at(from), number);
                        prop_assert_eq!(entered.is_some(), fits || is_silent);
                        let Some(Entered { id, goes }) = entered else { continue };
                        prop_assert_eq!(goes.is_some(), !fits);
                        let gone: Vec<Id> = there.keys().copied().filter(|id| !room.held.contains_key(id)).collect();
                        prop_assert_eq!(gone.len(), usize::from(goes.is_some()));
                        for id in gone {
                            prop_assert!(!there[&id].1, "one goes that is served");
                            there.remove(&id);
                        }
                        there.insert(id, (from, false));
                        all.push(id);
                    }
                    (1, Some(id)) => { room.speaks(id); if let Some(it) = there.get_mut(&id) { it.1 = true; } }
                    (2, Some(id)) => { room.is_silent(id); if let Some(it) = there.get_mut(&id) { it.1 = false; } }
                    (_, Some(id)) => prop_assert_eq!(room.leave(id).is_some(), there.remove(&id).is_some()),
                    (_, None) => {}
                }
                prop_assert_eq!(room.held.len(), there.len());
                prop_assert!(there.len() <= most);
                for from in 0..4 {
                    let own = there.values().filter(|(of, _)| *of == from).count();
                    prop_assert!(own <= most_of_one);
                    prop_assert_eq!(room.by_address.get(&at(from)).copied().unwrap_or(0), own);
                }
                prop_assert_eq!(room.silent.len(), there.values().filter(|(_, served)| !served).count());
            }
        }
    }
}
