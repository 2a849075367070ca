//! How much is told of a node in a minute, and in whose voice: what a machine says, what is heard in its name on the wire,
//! and what the head does with it have a budget each, so that none of them silences another.
//!
//! ```text
//!            an event                       none is left
//!   ─────────────────────▶ kept ─────────────────────────────▶ counted
//!                           ▲                                     │
//!                           └── told once, when a minute is over ─┘
//! ```

use bramble_model::names::Name;
use bramble_model::timeline::{Millis, What};

/// Events that a node may have at once: several boots.
pub(super) const BURST: u64 = 240;
/// Events that come to that in a minute.
pub(super) const PER_MINUTE: u64 = 60;
const MINUTE: Millis = 60_000;

/// Whose words an event has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Voice {
    /// The machine's: its stage 1, and its agent.
    Machine,
    /// Heard on the wire: anyone there may have said it in the machine's name.
    Wire,
    /// The head's own, or a person's.
    Head,
}

impl Voice {
    pub(super) fn of(what: &What) -> Self {
        match what {
            What::PowerOn | What::PowerOff | What::Admitted { .. } | What::Note { .. } => Voice::Head,
            What::Installed
            | What::Stage1 { .. }
            | What::Failed { .. }
            | What::OtherRelease { .. }
            | What::Connected
            | What::Disconnected { .. }
            | What::Engine { .. }
            | What::Ready => Voice::Machine,
            // Files are fetched in the clear, by whoever names the boot.
            What::Fetching { .. }
            | What::Card { .. }
            | What::Asked { .. }
            | What::SeenUnknown { .. }
            | What::Offered { .. }
            | What::HeardLate { .. }
            | What::Chose { .. }
            | What::Leased { .. }
            | What::AskedBootServer
            | What::LookedForHead { .. }
            | What::NoLoader { .. }
            | What::TftpSent { .. }
            | What::HttpSent { .. }
            | What::TftpMissing { .. }
            | What::TftpStopped { .. }
            | What::NotGiven { .. }
            | What::ScriptServed { .. }
            | What::HandedOff { .. }
            | What::BootsDisk
            | What::Refused { .. }
            | What::Waits { .. }
            | What::TlsFailed { .. } => Voice::Wire,
        }
    }
}

/// Whose event it is: what is kept of one pushes out nothing of another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    Node(Name),
    /// Machines that the repository does not have, all together.
    Strangers,
    Head,
}

impl Owner {
    pub(super) fn of(node: Option<&Name>, voice: Voice) -> Self {
        match (node, voice) {
            (Some(node), _) => Owner::Node(node.clone()),
            (None, Voice::Head) => Owner::Head,
            (None, Voice::Machine | Voice::Wire) => Owner::Strangers,
        }
    }
}

/// Of one voice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Budget {
    left: u64,
    /// When one came to it last.
    at: Millis,
    /// What was not kept, and since when.
    lost: Option<(u64, Millis)>,
}

impl Budget {
    fn new(now: Millis) -> Self {
        Budget { left: BURST, at: now, lost: None }
    }

    fn may(&mut self, now: Millis) -> bool {
        // A clock that was set back gives nothing, and takes nothing.
        self.at = self.at.min(now);
        let more = (now - self.at) * PER_MINUTE / MINUTE;
        self.at += more * MINUTE / PER_MINUTE;
        self.left = (self.left + more).min(BURST);
        if self.left > 0 {
            self.left -= 1;
            return true;
        }
        let (lost, since) = self.lost.unwrap_or((0, now));
        self.lost = Some((lost + 1, since.min(now)));
        false
    }

    fn due(&mut self, now: Millis) -> u64 {
        match self.lost {
            Some((lost, since)) if since + MINUTE <= now => {
                self.lost = None;
                lost
            }
            Some(_) | None => 0,
        }
    }
}

/// The budgets of all voices of one owner.
#[derive(Debug, Default)]
pub(super) struct Budgets([Option<Budget>; 3]);

impl Budgets {
    /// Whether one more event is kept; else it is counted.
    pub(super) fn may(&mut self, voice: Voice, now: Millis) -> bool {
        let budget = match voice {
            Voice::Machine => &mut self.0[0],
            Voice::Wire => &mut self.0[1],
            Voice::Head => &mut self.0[2],
        };
        budget.get_or_insert(Budget::new(now)).may(now)
    }

    /// How many were not kept, where a minute is over and they are to be told.
    pub(super) fn due(&mut self, now: Millis) -> Option<u64> {
        let due: u64 = self.0.iter_mut().flatten().map(|budget| budget.due(now)).sum();
        (due > 0).then_some(due)
    }

    /// Whether some are still to be told.
    pub(super) fn owes(&self) -> bool {
        self.0.iter().flatten().any(|budget| budget.lost.is_some())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_is_kept_and_then_so_many_a_minute_and_the_rest_is_told_once() {
        let mut budgets = Budgets::default();
        let at = 1_000_000;
        let kept = (0..1000).filter(|_| budgets.may(Voice::Machine, at)).count() as u64;
        assert_eq!((kept, budgets.owes(), budgets.due(at)), (BURST, true, None));
        assert!(budgets.may(Voice::Head, at) && budgets.may(Voice::Wire, at), "what others say of it is kept");
        let later = at + MINUTE;
        let kept = (0..1000).filter(|_| budgets.may(Voice::Machine, later)).count() as u64;
        assert_eq!(kept, PER_MINUTE);
        assert_eq!(budgets.due(later), Some(1000 - BURST + 1000 - PER_MINUTE));
        assert_eq!((budgets.due(later), budgets.owes()), (None, false));
    }

    proptest! {
        /// However the clock jumps, all are either kept or told.
        #[test]
        fn the_account_is_right(times in prop::collection::vec(0..400_000_u64, 0..600)) {
            let (mut budgets, mut kept, mut told) = (Budgets::default(), 0, 0);
            for at in &times {
                kept += u64::from(budgets.may(Voice::Machine, *at));
                told += budgets.due(*at).unwrap_or(0);
            }
            told += budgets.due(u64::MAX).unwrap_or(0);
            prop_assert_eq!(kept + told, times.len() as u64);
        }
    }
}
