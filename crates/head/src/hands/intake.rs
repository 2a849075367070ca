//! Input for the processes of an errand: how much each has taken, how much the person may give, and who is left behind.
//!
//! ```text
//!   the person gives ──▶ a window beyond what the slowest has taken ──▶ it takes ──▶ room for more
//!                                   │ full, while another has taken all that there is
//!                                   ▼
//!                    it holds up the others ── for too long, and takes nothing ──▶ left behind
//! ```
//! A pure machine: times go in, one deadline and the names of those that are left behind come out.

use std::collections::BTreeMap;
use std::time::Duration;

use bramble_model::hands::{PIECE, WINDOW};
use bramble_model::names::Name;
use tokio::time::Instant;

/// A process that takes no input for so long while others wait for it is left behind: longer than a slow disk takes for
/// what it has got.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Intake {
    /// Bytes that the person has given.
    given: u64,
    /// No more will come.
    ended: bool,
    /// Bytes that every process has taken, as far as the person was told.
    told: u64,
    processes: BTreeMap<Name, Process>,
}

#[derive(Debug, Default)]
struct Process {
    /// Bytes that it has taken.
    taken: u64,
    /// Since when it takes nothing, and others wait for it.
    holds_up: Option<Instant>,
}

impl Intake {
    pub(super) fn enters(&mut self, node: Name) {
        self.processes.insert(node, Process::default());
    }

    pub(super) fn leaves(&mut self, node: &Name, now: Instant) {
        self.processes.remove(node);
        self.look(now);
    }

    pub(super) fn gives(&mut self, bytes: u64, now: Instant) {
        self.given += bytes;
        self.look(now);
    }

    /// Nobody waits for more.
    pub(super) fn ends(&mut self, now: Instant) {
        self.ended = true;
        self.look(now);
    }

    pub(super) fn takes(&mut self, node: &Name, bytes: u64, now: Instant) {
        if let Some(process) = self.processes.get_mut(node) {
            // What a node says: it has taken no more than there was.
            process.taken = process.taken.saturating_add(bytes).min(self.given);
            process.holds_up = None;
        }
        self.look(now);
    }

    /// For so long nobody was heard: that is no process's fault.
    pub(super) fn was_deaf(&mut self, time: Duration) {
        for since in self.processes.values_mut().filter_map(|process| process.holds_up.as_mut()) {
            *since += time;
        }
    }

    /// Finds out who holds up others: whoever has a full window while another has taken all that there is.
    fn look(&mut self, now: Instant) {
        let Intake { given, ended, .. } = *self;
        let waits = !ended && self.processes.values().any(|process| process.taken >= given);
        for process in self.processes.values_mut() {
            let is_full = process.taken + WINDOW < given + PIECE as u64;
            process.holds_up = process.holds_up.or(Some(now)).filter(|_| waits && is_full);
        }
    }

    /// When to ask [`Intake::left_behind`] though nothing happens.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.processes.values().filter_map(|process| process.holds_up).min().map(|since| since + PATIENCE)
    }

    /// Those that others have waited for long enough.
    pub(super) fn left_behind(&self, now: Instant) -> Vec<Name> {
        let late = |process: &Process| process.holds_up.is_some_and(|since| since + PATIENCE <= now);
        self.processes.iter().filter(|(_, process)| late(process)).map(|(node, _)| node.clone()).collect()
    }

    /// Whether more came than there is room for. The key that ends the input may go over the window.
    pub(super) fn is_overrun(&self) -> bool {
        self.given > self.told + 2 * WINDOW
    }

    /// For how many more bytes every process has room than the person was told before.
    pub(super) fn room(&mut self) -> u64 {
        let least = self.processes.values().map(|process| process.taken).min().unwrap_or(self.told).max(self.told);
        let more = least - self.told;
        self.told = least;
        more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().expect("a name")
    }

    /// Of these nodes, to which a window was given now.
    fn full(nodes: &[&str]) -> (Intake, Instant) {
        let (mut intake, now) = (Intake::default(), Instant::now());
        nodes.iter().for_each(|node| intake.enters(name(node)));
        intake.gives(WINDOW, now);
        (intake, now)
    }

    #[test]
    fn one_that_takes_nothing_is_left_behind_once_others_have_waited_for_it() {
        let (mut intake, now) = full(&["w1", "w2", "w3"]);
        assert_eq!(intake.deadline(), None, "nobody has taken all of it");
        intake.takes(&name("w1"), WINDOW, now + PATIENCE);
        let deadline = now + PATIENCE * 2;
        assert_eq!(intake.deadline(), Some(deadline));
        assert!(intake.left_behind(deadline - Duration::from_millis(1)).is_empty());
        assert_eq!(intake.left_behind(deadline), [name("w2"), name("w3")]);
        intake.takes(&name("w3"), 1, deadline);
        assert_eq!(intake.left_behind(deadline), [name("w2")], "it takes a little");
        assert_eq!(intake.room(), 0);
        intake.leaves(&name("w2"), deadline);
        assert_eq!(intake.room(), 1);
    }

    #[test]
    fn nobody_is_left_behind_while_nobody_waits() {
        let (mut intake, now) = full(&["w1", "w2"]);
        intake.takes(&name("w1"), WINDOW - 1, now);
        assert_eq!(intake.deadline(), None, "both take nothing more");
        intake.takes(&name("w1"), 1, now);
        assert!(intake.deadline().is_some());
        intake.ends(now);
        assert_eq!(intake.deadline(), None, "there is no more to wait for");

        let (mut intake, now) = full(&["w1", "w2"]);
        intake.takes(&name("w2"), PIECE as u64, now);
        intake.takes(&name("w1"), WINDOW, now);
        assert_eq!(intake.deadline(), None, "the person has room to give more");
        intake.takes(&name("w2"), WINDOW - PIECE as u64, now);
        intake.leaves(&name("w1"), now);
        intake.gives(WINDOW, now);
        assert_eq!(intake.deadline(), None, "it is alone");
    }

    /// Its sum went beyond what there is, and what the person was told with it.
    #[test]
    fn a_node_that_says_it_took_more_than_there_was_makes_no_more_room() {
        let (mut intake, now) = full(&["w1"]);
        intake.takes(&name("w1"), u64::MAX, now);
        intake.takes(&name("w1"), u64::MAX, now);
        assert_eq!(intake.room(), WINDOW);
        assert_eq!(intake.room(), 0);
    }

    #[test]
    fn what_was_not_heard_meanwhile_is_no_fault_of_the_node() {
        let (mut intake, now) = full(&["w1", "w2"]);
        intake.takes(&name("w1"), WINDOW, now);
        intake.was_deaf(PATIENCE);
        assert_eq!(intake.deadline(), Some(now + PATIENCE * 2));
    }
}
