//! The descriptors of this process, and who may have how many: each connection has one, and a file that is sent another.
//!
//! ```text
//!  kept back      store, listeners, packet sockets, children        160
//!  agents         one for each declared node, and a quarter more
//!  of the rest    boot files over HTTP   1/2   (two each)
//!                 over TFTP              1/5   (two each)
//!                 people and programs    1/5
//!                 who has not enrolled   1/20
//!                 the control socket     1/20
//! ```
//! Without that whoever opens connections at one port would take the descriptors of all others.

use std::sync::Mutex;

use bramble_system::locked;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What everything else needs.
const KEPT: usize = 160;
/// More are never of use, and the kernel's limit may be in the millions.
const MOST: usize = 65_536;
/// Below this many nothing can be served as it should be.
const LEAST: usize = 256;

/// How many connections each listener holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shares {
    /// Of booting machines over HTTP, on all wires.
    pub(crate) boots: usize,
    /// Transfers over TFTP.
    pub(crate) transfers: usize,
    /// Of people and their programs, over TLS.
    pub(crate) people: usize,
    /// Of agents that have not been let in yet.
    pub(crate) strangers: usize,
    /// At the control socket.
    pub(crate) owner: usize,
    /// Too few are left for as many nodes as are declared.
    pub(crate) is_tight: bool,
}

impl Shares {
    /// Of so many descriptors, with so many nodes.
    fn of(descriptors: usize, nodes: usize) -> Self {
        let agents = nodes + nodes / 4 + 16;
        let left = descriptors.min(MOST).saturating_sub(KEPT + agents);
        let rest = left.max(LEAST);
        // More than these cost memory, and a thousand machines at once need no more.
        let share = |share: usize, most: usize| share.clamp(8, most);
        Shares {
            boots: share(rest / 2 / 2, 6000),
            transfers: share(rest / 5 / 2, 1024),
            people: share(rest / 5, 2000),
            strangers: share(rest / 20, 4096),
            owner: share(rest / 20, 512),
            is_tight: left < LEAST,
        }
    }

    /// What is wrong with the limit.
    pub(crate) fn problem(&self) -> Option<String> {
        let reason = "this program may open too few files for so many nodes: some of them, and people, may be turned away; \
                      give it more (`LimitNOFILE=65536` in its systemd unit, or `ulimit -Hn`)";
        self.is_tight.then(|| reason.to_owned())
    }

    /// How many of such a share one address may have: a house has more than one machine.
    pub(crate) fn of_one(share: usize) -> usize {
        (share / 4).clamp(2, 512)
    }
}

/// The shares of this moment: a snapshot with more nodes leaves others less.
#[derive(Debug)]
pub(crate) struct Descriptors {
    /// How many this process may have.
    allowed: usize,
    shares: Mutex<Shares>,
}

impl Descriptors {
    /// Raises the limit as far as it may be, and shares what that allows.
    pub(crate) fn open(nodes: usize) -> Self {
        let allowed = allowed();
        let shares = Shares::of(allowed, nodes);
        tracing::debug!(allowed, ?shares, "descriptors");
        Descriptors { allowed, shares: Mutex::new(shares) }
    }

    pub(crate) fn shares(&self) -> Shares {
        *locked(&self.shares)
    }

    /// There are so many nodes from now on; gives the shares where they are others.
    pub(crate) fn follow(&self, nodes: usize) -> Option<Shares> {
        let new = Shares::of(self.allowed, nodes);
        let before = std::mem::replace(&mut *locked(&self.shares), new);
        (before != new).then_some(new)
    }
}

/// Raises this process's limit as far as it may; gives what that allows.
fn allowed() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(MOST as u64, |maximum| maximum.min(MOST as u64));
    let mut allowed = current;
    if current.is_some_and(|current| current < wanted) {
        match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }) {
            Ok(()) => allowed = Some(wanted),
            Err(error) => tracing::warn!(%error, wanted, "the limit of descriptors could not be raised"),
        }
    }
    allowed.map_or(MOST, |allowed| usize::try_from(allowed).unwrap_or(MOST))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_small_limit_still_serves_everyone() {
        let shares = Shares::of(1024, 10);
        let Shares { boots, transfers, people, strangers, owner, is_tight } = shares;
        assert_eq!((boots, transfers, people, strangers, owner, is_tight), (209, 83, 167, 41, 41, false));
        assert_eq!(Shares::of_one(boots), 52);
        assert!(Shares::of(1024, 1000).is_tight);
    }

    #[test]
    fn a_snapshot_with_more_nodes_leaves_others_less_and_says_when_it_is_too_little() {
        let descriptors = Descriptors { allowed: 1024, shares: Mutex::new(Shares::of(1024, 10)) };
        let before = descriptors.shares();
        assert_eq!(descriptors.follow(10), None, "as it was");
        let many = descriptors.follow(200).expect("others");
        assert!(many.people < before.people && many.boots < before.boots && !many.is_tight, "{many:?}");
        assert!(descriptors.follow(1000).is_some_and(|shares| shares.problem().is_some()));
        assert_eq!(descriptors.follow(10), Some(before));
        assert_eq!(descriptors.shares(), before);
    }

    proptest! {
        /// Whatever the limit, all shares together leave what is kept back and the agents' own.
        #[test]
        fn nobody_takes_what_is_kept_back(descriptors in 0..200_000_usize, nodes in 0..5000_usize) {
            let shares = Shares::of(descriptors, nodes);
            let Shares { boots, transfers, people, strangers, owner, is_tight } = shares;
            let all = 2 * boots + 2 * transfers + people + strangers + owner;
            if !is_tight {
                prop_assert!(all + KEPT + nodes + nodes / 4 <= descriptors, "{shares:?}");
            }
            prop_assert!([boots, transfers, people, strangers, owner].iter().all(|share| *share >= 8));
        }
    }
}
