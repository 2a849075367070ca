//! The events that are kept, by whose they are: what one node says pushes out its own.
//!
//! Each event costs its bytes in memory, and at least [`LEAST`]. Where an owner has more than [`OF_ONE`], its oldest event
//! goes; where all have more than [`OF_ALL`], the oldest of whoever has the most. So both bytes and numbers are bounded, and
//! whoever says little is heard however much others say.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bramble_model::timeline::Event;

use super::budget::Owner;

/// What an event costs at least, in bytes.
pub(super) const LEAST: usize = 400;
/// What all may cost: 20,000 short events.
pub(super) const OF_ALL: usize = 20_000 * LEAST;
/// What one's may cost.
pub(super) const OF_ONE: usize = OF_ALL / 8;

#[derive(Debug, Default)]
struct Own {
    /// Number and cost of each, the oldest first.
    events: VecDeque<(u64, usize)>,
    cost: usize,
}

/// Events by number.
#[derive(Debug, Default)]
pub(super) struct Kept {
    events: BTreeMap<u64, Event>,
    owners: BTreeMap<Owner, Own>,
    /// Who has how much.
    greedy: BTreeSet<(usize, Owner)>,
    cost: usize,
}

impl Kept {
    /// Keeps one, whose number is greater than all before. Gives the numbers of those that go for it.
    pub(super) fn push(&mut self, owner: Owner, event: Event) -> Vec<u64> {
        let cost = event.weight().max(LEAST);
        let number = event.number;
        self.events.insert(number, event);
        let own = self.owners.entry(owner.clone()).or_default();
        self.greedy.remove(&(own.cost, owner.clone()));
        own.events.push_back((number, cost));
        own.cost += cost;
        self.cost += cost;
        let has_too_much = own.cost > OF_ONE;
        self.greedy.insert((own.cost, owner.clone()));
        let mut gone = Vec::new();
        if has_too_much {
            gone.extend(self.drop_oldest(&owner));
        }
        while self.cost > OF_ALL
            && let Some((_, greediest)) = self.greedy.last().cloned()
        {
            gone.extend(self.drop_oldest(&greediest));
        }
        gone
    }

    /// Drops an owner's oldest event, and as many more as are above its share.
    fn drop_oldest(&mut self, owner: &Owner) -> Vec<u64> {
        let mut gone = Vec::new();
        let Some(own) = self.owners.get_mut(owner) else { return gone };
        self.greedy.remove(&(own.cost, owner.clone()));
        while let Some((number, cost)) = own.events.pop_front() {
            own.cost -= cost;
            self.cost -= cost;
            self.events.remove(&number);
            gone.push(number);
            if own.cost <= OF_ONE {
                break;
            }
        }
        if own.events.is_empty() {
            self.owners.remove(owner);
        } else {
            self.greedy.insert((own.cost, owner.clone()));
        }
        gone
    }

    pub(super) fn get(&self, number: u64) -> Option<&Event> {
        self.events.get(&number)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Event> {
        self.events.values()
    }

    pub(super) fn after(&self, number: u64) -> impl Iterator<Item = &Event> {
        self.events.range((std::ops::Bound::Excluded(number), std::ops::Bound::Unbounded)).map(|(_, event)| event)
    }

    /// An owner's, the newest first.
    pub(super) fn of(&self, owner: &Owner) -> impl Iterator<Item = &Event> {
        let numbers = self.owners.get(owner).into_iter().flat_map(|own| own.events.iter().rev());
        numbers.filter_map(|(number, _)| self.events.get(number))
    }

    /// Bytes of all.
    #[cfg(test)]
    pub(super) fn cost(&self) -> usize {
        self.cost
    }
}

#[cfg(test)]
mod tests {
    use bramble_model::names::Name;
    use bramble_model::timeline::What;
    use proptest::prelude::*;

    use super::*;

    fn event(number: u64, text: usize) -> Event {
        Event { number, at: 0, node: None, what: What::Note { text: "x".repeat(text) } }
    }

    fn node(name: u8) -> Owner {
        let name: Name = format!("w{name}").parse().expect("a name");
        Owner::Node(name)
    }

    #[test]
    fn who_says_much_pushes_out_nobody() {
        let mut kept = Kept::default();
        let mut number = 0;
        let mut say = |kept: &mut Kept, owner, text| {
            number += 1;
            kept.push(owner, event(number, text))
        };
        (0..100).for_each(|_| drop(say(&mut kept, node(0), 20)));
        let flood: usize = (0..50_000).map(|_| say(&mut kept, node(1), 900).len()).sum();
        assert_eq!(kept.of(&node(0)).count(), 100);
        let left = kept.of(&node(1)).count();
        assert!(left + flood == 50_000 && left * 900 < OF_ONE && left * 2000 > OF_ONE, "{left}");
        // Many together have no more than all may have, and those that said little still have what they said.
        for _ in 0..3000 {
            (2..30).for_each(|name| drop(say(&mut kept, node(name), 500)));
        }
        assert_eq!(kept.of(&node(0)).count(), 100);
        assert!(kept.cost() <= OF_ALL);
    }

    proptest! {
        // Each looks at megabytes after every step.
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn the_account_is_right(said in prop::collection::vec((0..6_u8, 0..200_000_usize), 1..120)) {
            let (mut kept, mut there) = (Kept::default(), BTreeSet::new());
            for (number, (name, text)) in (1..).zip(said) {
                there.insert(number);
                for gone in kept.push(node(name), event(number, text)) {
                    prop_assert!(there.remove(&gone), "{gone} goes once");
                }
                prop_assert_eq!(kept.all().map(|event| event.number).collect::<BTreeSet<_>>(), there.clone());
                let cost: usize = kept.all().map(|event| event.weight().max(LEAST)).sum();
                prop_assert!(cost == kept.cost() && cost <= OF_ALL);
                let by_owner: usize = (0..6).map(|name| kept.of(&node(name)).count()).sum();
                prop_assert_eq!(by_owner, there.len());
                for name in 0..6 {
                    let own: usize = kept.of(&node(name)).map(|event| event.weight().max(LEAST)).sum();
                    prop_assert!(own <= OF_ONE);
                }
            }
        }
    }
}
