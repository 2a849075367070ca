//! The audit log: what was done, each entry chained to the one before it, and what was refused, folded.
//!
//! ```text
//!  began when the head did, or was updated ─▶ first ◀─ hash ─ second ◀─ hash ─ third … last ◀─ the head's own word
//!  what has expired ──────── the anchor ──────┘
//! ```
//! The hash of an entry is over the hash of the one before: whoever changes, removes or adds one in the middle has to make
//! all later ones anew, and has not those that have left the machine. How something ended that had only begun is an entry
//! of its own, since nothing that is written is changed.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::names::Digest;
use crate::timeline::Millis;

/// What the hash of an entry begins with: a hash of something else is none of these.
const CONTEXT: &[u8] = b"bramble audit log, form 2\n";

/// One entry of the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    pub number: u64,
    pub at: Millis,
    /// The hash of the entry before; `None` of the first one of all.
    pub before: Option<Digest>,
    #[serde(flatten)]
    pub step: Step,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Step {
    Did {
        /// `ann`, `token ci`, or `root on the head`.
        who: String,
        /// The address it came from, or `local`.
        from: String,
        what: String,
        /// `begun` where another entry says how it went; one that has none was cut off by the end of the head.
        result: String,
    },
    /// How the entry of this number went.
    Ended { of: u64, result: String },
}

impl Link {
    /// SHA-256 over the fields in order, each text behind its length: no two entries have the same bytes.
    #[must_use]
    pub fn hash(&self) -> Digest {
        let mut hash = Sha256::new();
        hash.update(CONTEXT);
        hash.update(self.number.to_be_bytes());
        hash.update(self.at.to_be_bytes());
        match &self.before {
            Some(before) => hash.update([&[1][..], &before.0].concat()),
            None => hash.update([0]),
        }
        let mut text = |text: &str| {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text.as_bytes());
        };
        match &self.step {
            Step::Did { who, from, what, result } => {
                ["did", who, from, what, result].into_iter().for_each(&mut text);
            }
            Step::Ended { of, result } => ["ended", &of.to_string(), result].into_iter().for_each(&mut text),
        }
        Digest(hash.finalize().into())
    }
}

/// Where the chain begins and ends, as the head has it written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// The first entry that is kept. Those with a smaller number are of a release that chained none.
    pub first: u64,
    /// The hash of the one before it, which has expired; `None` where there was none.
    pub anchor: Option<Digest>,
    pub last: u64,
    /// The hash of the last one; `None` where there is none.
    pub head: Option<Digest>,
}

impl Chain {
    /// An empty one, whose first entry will have this number.
    #[must_use]
    pub fn new(first: u64) -> Self {
        Chain { first, anchor: None, last: first.saturating_sub(1), head: None }
    }

    /// The entry that comes next.
    #[must_use]
    pub fn next(&self, at: Millis, step: Step) -> Link {
        Link { number: self.last + 1, at, before: self.head, step }
    }

    /// Has taken this one.
    pub fn takes(&mut self, link: &Link) {
        (self.last, self.head) = (link.number, Some(link.hash()));
    }
}

/// `GET /v1/audit/chain?after=N`: entries in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    pub chain: Chain,
    /// Empty at the end.
    pub links: Vec<Link>,
    /// Give this as `after` next time.
    pub next: u64,
}

/// What is wrong at an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Broken {
    #[error("entries {from} to {to} are missing")]
    Missing { from: u64, to: u64 },
    #[error("entry {number} is not the one that was written: what came after it does not fit")]
    Changed { number: u64 },
    #[error("entry {number} does not follow from what has expired before it")]
    Unanchored { number: u64 },
}

/// Follows a chain, entry for entry.
///
/// ```text
///  before the chain ── entries of a former release ──▶ before the chain
///        └── the first of the chain: its anchor ──▶ after N ── N + 1, which names N's hash ──▶ after N + 1
/// ```
#[derive(Debug, Clone)]
pub struct Follower {
    first: u64,
    anchor: Option<Digest>,
    /// The last that was seen, and its hash.
    seen: Option<(u64, Digest)>,
    unchained: u64,
    chained: u64,
    broken: Vec<Broken>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Entries of a former release, which chained none.
    pub unchained: u64,
    pub chained: u64,
    /// The hash of the last entry: who has written it down knows this chain again.
    pub head: Option<Digest>,
    pub broken: Vec<Broken>,
}

impl Follower {
    #[must_use]
    pub fn of(chain: &Chain) -> Self {
        Follower { first: chain.first, anchor: chain.anchor, seen: None, unchained: 0, chained: 0, broken: Vec::new() }
    }

    /// The next one.
    pub fn takes(&mut self, link: &Link) {
        let number = link.number;
        if number < self.first {
            self.unchained += 1;
            return;
        }
        let (before, expected) = match self.seen {
            Some((before, hash)) => (before, Some(hash)),
            None => (self.first.saturating_sub(1), self.anchor),
        };
        if number != before + 1 {
            self.broken.push(Broken::Missing { from: before + 1, to: number.saturating_sub(1) });
        } else if link.before != expected {
            self.broken.push(match self.seen {
                Some(_) => Broken::Changed { number: before },
                None => Broken::Unanchored { number },
            });
        }
        self.chained += 1;
        self.seen = Some((number, link.hash()));
    }

    /// There are no more, as this chain says that was read at the end.
    #[must_use]
    pub fn ends(mut self, chain: &Chain) -> Verdict {
        let last = self.seen.map_or(self.first.saturating_sub(1), |(number, _)| number);
        match self.seen {
            _ if last < chain.last => self.broken.push(Broken::Missing { from: last + 1, to: chain.last }),
            Some((number, hash)) if Some(hash) != chain.head => self.broken.push(Broken::Changed { number }),
            _ => {}
        }
        Verdict { unchained: self.unchained, chained: self.chained, head: chain.head, broken: self.broken }
    }
}

/// Tries of one kind that were refused, counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    pub number: u64,
    pub first: Millis,
    pub last: Millis,
    pub times: u64,
    /// `https`, `http` or `socket`.
    pub door: String,
    /// The route, or `log in`.
    pub route: String,
    /// Who it was by what was shown, or `someone`.
    pub who: String,
    /// The address of the first one.
    pub from: String,
    /// Which addresses are counted as one: one of IPv4, a /64 of IPv6.
    pub place: String,
    /// What the first one was.
    pub what: String,
    /// Why.
    pub result: String,
    /// Counts up over all of them whenever there is something new to tell of one.
    pub stamp: u64,
}

impl Refused {
    /// As a line of the log.
    #[must_use]
    pub fn told(&self) -> Entry {
        Entry {
            number: self.number,
            at: self.first,
            who: self.who.clone(),
            from: self.from.clone(),
            what: self.what.clone(),
            result: self.result.clone(),
            folded: Some(Folded { times: self.times, last: self.last }),
        }
    }
}

/// A line of the log, as people read it. `GET /v1/audit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Of changes and of refusals by itself.
    pub number: u64,
    pub at: Millis,
    pub who: String,
    pub from: String,
    pub what: String,
    pub result: String,
    /// Of what was refused, or changes nothing: how often.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folded: Option<Folded>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Folded {
    pub times: u64,
    pub last: Millis,
}

/// Up to where someone has read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The last entry of the chain.
    pub link: u64,
    /// The stamp of the last refusal.
    pub refusal: u64,
}

/// `GET /v1/audit/news?link=N&refusal=N&wait=SECONDS`: what has come since, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct News {
    pub entries: Vec<Entry>,
    /// Give this next time.
    pub next: Position,
}

/// A line of a copy: JSON, in one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Copied {
    Change {
        #[serde(flatten)]
        link: Link,
        hash: Digest,
    },
    Refusal(Refused),
    /// The first line of a copy: what it follows on.
    Begins(Begins),
}

/// From where on a copy has the log's entries: whoever names another place has that told there, and nothing is left out in
/// silence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begins {
    pub at: Millis,
    /// The number of the last entry that is not in it.
    pub after: u64,
    /// The hash of that; `None` where there is none.
    pub hash: Option<Digest>,
    /// Where the copy went before, if anywhere.
    pub instead_of: Option<String>,
}

impl Copied {
    #[must_use]
    pub fn of(link: Link) -> Self {
        let hash = link.hash();
        Copied::Change { link, hash }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn did(what: &str) -> Step {
        Step::Did { who: "ann".into(), from: "10.77.0.2".into(), what: what.into(), result: "begun".into() }
    }

    fn chained(first: u64, count: u64) -> (Chain, Vec<Link>) {
        let mut chain = Chain::new(first);
        let mut links = Vec::new();
        for number in 0..count {
            let step = if number % 2 == 0 { did("x") } else { Step::Ended { of: chain.last, result: "done".into() } };
            let link = chain.next(1_764_000_000_000 + number, step);
            chain.takes(&link);
            links.push(link);
        }
        (chain, links)
    }

    fn verdict(chain: &Chain, links: &[Link]) -> Verdict {
        let mut follower = Follower::of(chain);
        links.iter().for_each(|link| follower.takes(link));
        follower.ends(chain)
    }

    /// What has left the machine is compared with this for as long as anyone keeps it.
    #[test]
    fn the_hash_of_an_entry_is_the_same_for_ever() {
        let (_, links) = chained(3, 2);
        let hashes: Vec<String> = links.iter().map(|link| link.hash().to_string()).collect();
        insta::assert_snapshot!(hashes.join("\n"));
        let lines: Vec<String> =
            links.into_iter().map(|link| serde_json::to_string(&Copied::of(link)).expect("plain data")).collect();
        insta::assert_snapshot!(lines.join("\n"));
        let read: Copied = serde_json::from_str(&lines[0]).expect("a line");
        let Copied::Change { link, hash } = read else { panic!("a change") };
        assert_eq!(link.hash(), hash, "whoever has a line can make its hash anew");
    }

    #[test]
    fn a_chain_that_begins_after_the_entries_of_a_former_release_is_whole() {
        let (chain, mut links) = chained(3, 6);
        let old = |number| Link { number, at: 1, before: None, step: did("old") };
        links.splice(0..0, [old(1), old(2)]);
        let found = verdict(&chain, &links);
        assert_eq!((found.unchained, found.chained, found.broken), (2, 6, Vec::new()));
        assert_eq!(found.head, chain.head);
    }

    #[test]
    fn what_has_expired_leaves_an_anchor_and_nothing_else_fits_it() {
        let (mut chain, mut links) = chained(1, 9);
        links.drain(..4);
        (chain.first, chain.anchor) = (5, links[0].before);
        assert_eq!(verdict(&chain, &links).broken, []);
        chain.anchor = Some(Digest([7; 32]));
        assert_eq!(verdict(&chain, &links).broken, [Broken::Unanchored { number: 5 }]);
    }

    #[test]
    fn an_empty_chain_is_whole_and_one_that_lost_all_is_not() {
        let (chain, links) = chained(1, 3);
        assert_eq!(verdict(&Chain::new(4), &[]).broken, []);
        assert_eq!(verdict(&chain, &[]).broken, [Broken::Missing { from: 1, to: 3 }]);
        assert_eq!(verdict(&chain, &links).broken, []);
    }

    proptest! {
        /// By its number, whatever was done to it.
        #[test]
        fn whoever_meddles_with_an_entry_is_found_out(count in 1u64..12, at: prop::sample::Index, how in 0..5) {
            let (chain, mut links) = chained(1, count);
            let at = at.index(links.len());
            let number = links[at].number;
            match how {
                0 => { links.remove(at); }
                1 => links[at].at += 1,
                2 => links[at].step = did("something else"),
                3 => links[at].before = Some(Digest([9; 32])),
                _ => { let twice = links[at].clone(); links.insert(at, twice); }
            }
            let broken = verdict(&chain, &links).broken;
            prop_assert!(!broken.is_empty());
            let named = |one: &Broken| match one {
                Broken::Missing { from, to } => *from <= number + 1 && *to + 2 >= number,
                Broken::Changed { number: told } | Broken::Unanchored { number: told } => told.abs_diff(number) <= 1,
            };
            prop_assert!(named(&broken[0]), "{number}: {broken:?}");
        }

        #[test]
        fn any_line_is_read_or_refused(text: String) {
            let _ = serde_json::from_str::<Copied>(&text);
        }
    }
}
