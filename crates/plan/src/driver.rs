//! What a loop remembers between its plans, and what it starts: one step at a time for each subject, less and
//! less often where it fails.
//!
//! ```text
//!            planned                 Done
//!   (idle) ─────────▶ busy ───────────────────────────────▶ (idle)
//!     ▲                 │ Wait { until }      until is over
//!     │                 ├───────────────────▶ held ────────▶ (idle)
//!     │                 │ Failed, back off    again is due
//!     │                 ├───────────────────▶ failed ──────▶ (idle), and counts on if it fails again
//!     │                 │ Failed, never       a person says so, or the plan wants something else
//!     │                 └───────────────────▶ failed ──────▶ (idle)
//!     └── the plan has nothing for the subject any more: what was failed or held is forgotten
//! ```
//! A pure machine: plans, outcomes, the time and a number for chance go in; steps to start, one deadline and the
//! loop's [`Section`] come out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use bramble_model::section::{Busy, Ends, Failure, Section, Unknown, Waiting};
use bramble_model::subject::Subject;
use bramble_model::timeline::Millis;

use crate::contract::{Outcome, Plan, Planned, Retry};

/// How long after the first failure a step is tried again, in milliseconds. Each further one doubles it.
const FIRST: Millis = 2_000;
/// The longest pause between two tries, in milliseconds.
const LONGEST: Millis = 5 * 60 * 1000;

/// What a loop remembers.
#[derive(Debug)]
pub struct Driver {
    section: Section,
    held: BTreeMap<Subject, Held>,
    /// The earliest time that the plan itself names.
    until: Option<Millis>,
}

/// A step that said "not yet".
#[derive(Debug)]
struct Held {
    step: String,
    waiting: Waiting,
    until: Millis,
}

impl Driver {
    pub fn new(name: &str) -> Self {
        let section = Section { name: name.to_owned(), ..Section::default() };
        Driver { section, held: BTreeMap::new(), until: None }
    }

    /// What it says of itself.
    pub fn section(&self) -> Section {
        let mut section = self.section.clone();
        section.waits.extend(self.held.values().map(|held| held.waiting.clone()));
        section
    }

    /// Something could not be learnt: nothing is planned, and what runs goes on.
    pub fn cannot_see(&mut self, reason: String, now: Millis) {
        let before = self.section.unknown.take().filter(|unknown| unknown.reason == reason);
        self.section.unknown = Some(before.unwrap_or(Unknown { reason, since: now }));
        self.section.waits.clear();
        self.until = None;
    }

    /// Takes a plan, made from `revision` and from what was seen at `now`. Gives the steps to start.
    pub fn take<Step: Display, Seen>(
        &mut self,
        revision: &str,
        plan: Plan<Step, Seen>,
        now: Millis,
    ) -> Vec<Planned<Step, Seen>> {
        self.section.revision = Some(revision.to_owned());
        self.section.observed_at = Some(now);
        self.section.unknown = None;
        self.until = plan.until();
        let planned: BTreeMap<Subject, String> =
            plan.steps.iter().rev().map(|step| (step.subject.clone(), step.step.to_string())).collect();
        self.section.failed.retain(|failure| planned.get(&failure.subject) == Some(&failure.step));
        self.held.retain(|subject, held| planned.get(subject) == Some(&held.step) && held.until > now);
        let old = std::mem::take(&mut self.section.waits);
        self.section.waits = plan
            .waits
            .into_iter()
            .map(|wait| {
                let same = old.iter().find(|old| old.subject == wait.subject && old.reason == wait.reason);
                let since = same.map_or(now, |old| old.since);
                Waiting { subject: wait.subject, reason: wait.reason, ends: wait.ends, since }
            })
            .collect();
        let mut taken: BTreeSet<Subject> = self.section.busy.iter().map(|busy| busy.subject.clone()).collect();
        let mut due = Vec::new();
        for planned in plan.steps {
            let may = !self.held.contains_key(&planned.subject)
                && self.failure(&planned.subject).is_none_or(|failure| failure.again.is_some_and(|again| again <= now));
            // The first step of a subject holds up its others: they are in order.
            if taken.insert(planned.subject.clone()) && may {
                self.section.busy.push(Busy {
                    subject: planned.subject.clone(),
                    step: planned.step.to_string(),
                    reason: planned.reason.clone(),
                    since: now,
                });
                due.push(planned);
            }
        }
        due
    }

    fn failure(&self, subject: &Subject) -> Option<&Failure> {
        self.section.failed.iter().find(|failure| failure.subject == *subject)
    }

    /// A step has ended. `chance` is any number; it keeps many that failed at once from coming back at once.
    pub fn ended(&mut self, subject: &Subject, outcome: Outcome, now: Millis, chance: u64) {
        let Some(index) = self.section.busy.iter().position(|busy| busy.subject == *subject) else { return };
        let busy = self.section.busy.remove(index);
        let before = self.section.failed.iter().position(|failure| failure.subject == *subject);
        let before = before.map(|index| self.section.failed.remove(index));
        match outcome {
            Outcome::Done => {}
            Outcome::Wait { reason, until } => {
                let waiting = Waiting { subject: subject.clone(), reason, ends: Ends::At(until), since: busy.since };
                self.held.insert(subject.clone(), Held { step: busy.step, waiting, until });
            }
            Outcome::Failed { reason, retry } => {
                let times = before.as_ref().map_or(0, |failure| failure.times) + 1;
                let again = match retry {
                    Retry::Never => None,
                    Retry::BackOff => Some(now + pause(times, chance)),
                };
                let since = before.map_or(now, |failure| failure.since);
                let (subject, step) = (busy.subject, busy.step);
                self.section.failed.push(Failure { subject, step, reason, times, since, again });
            }
        }
    }

    /// A person says that what failed may be tried again; `false` where nothing of this subject has.
    pub fn retry(&mut self, subject: &Subject, now: Millis) -> bool {
        let failure = self.section.failed.iter_mut().find(|failure| failure.subject == *subject);
        failure.map(|failure| failure.again = Some(now)).is_some()
    }

    /// When to look again though nothing happens.
    pub fn deadline(&self) -> Option<Millis> {
        let again = self.section.failed.iter().filter_map(|failure| failure.again);
        again.chain(self.held.values().map(|held| held.until)).chain(self.until).min()
    }

    /// Nothing runs, waits or has failed: one who looks on a timer may look less often.
    pub fn rests(&self) -> bool {
        let Section { unknown, waits, busy, failed, .. } = &self.section;
        unknown.is_none() && waits.is_empty() && busy.is_empty() && failed.is_empty() && self.held.is_empty()
    }
}

/// The pause after so many failures in a row: between three and five quarters of the doubled one.
fn pause(times: u32, chance: u64) -> Millis {
    let whole = FIRST.saturating_mul(1 << times.saturating_sub(1).min(16)).min(LONGEST);
    whole * 3 / 4 + chance % (whole / 2)
}

#[cfg(test)]
mod tests;
