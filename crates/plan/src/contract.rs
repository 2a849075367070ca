//! What every loop's planner is: a pure function from what is declared and what is observed to the steps that
//! are due, and what is waited for.
//!
//! ```text
//!   declared (a snapshot) ──┐
//!                           ├─▶ plan(declared, observed, now) ─▶ steps with reason and risk · waits
//!   observed (all of it, ───┘                                       │
//!   or no plan at all)          ▲                                   ▼ performed elsewhere
//!                               └────────── observe again ◀── Done · Wait · Failed
//! ```
//! What cannot be read never arrives here: whoever observes says [`Unknown`] then, and there is no plan. A
//! plan is level-triggered: it says what is due now, and when that is done the next plan says the rest.

use std::fmt::Display;

use bramble_model::section::{Ends, Risk, Told};
use bramble_model::subject::Subject;
use bramble_model::timeline::Millis;

/// A step, with all that whoever performs it and whoever reads of it has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned<Step, Seen> {
    pub subject: Subject,
    /// What the plan saw of the subject. Whoever performs the step refuses when that sees something else.
    pub seen: Seen,
    pub reason: String,
    pub risk: Risk,
    pub step: Step,
}

impl<Step: Display, Seen> Planned<Step, Seen> {
    pub fn told(&self) -> Told {
        Told {
            subject: self.subject.clone(),
            step: self.step.to_string(),
            reason: self.reason.clone(),
            risk: self.risk.clone(),
        }
    }
}

/// Something that a plan waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    pub subject: Subject,
    pub reason: String,
    pub ends: Ends,
}

/// What is due, and what is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan<Step, Seen> {
    /// In the order in which they would be done; those of different subjects run beside each other.
    pub steps: Vec<Planned<Step, Seen>>,
    pub waits: Vec<Wait>,
}

impl<Step, Seen> Default for Plan<Step, Seen> {
    fn default() -> Self {
        Plan { steps: Vec::new(), waits: Vec::new() }
    }
}

impl<Step, Seen> Plan<Step, Seen> {
    pub fn wait(&mut self, subject: Subject, reason: impl Into<String>, ends: Ends) {
        self.waits.push(Wait { subject, reason: reason.into(), ends });
    }

    /// When to look again though nothing has changed: the earliest time that a wait names.
    pub fn until(&self) -> Option<Millis> {
        let times = self.waits.iter().filter_map(|wait| if let Ends::At(at) = wait.ends { Some(at) } else { None });
        times.min()
    }
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// Nothing is wrong, and it is not its time.
    Wait {
        reason: String,
        until: Millis,
    },
    Failed {
        reason: String,
        retry: Retry,
    },
}

/// Whether a failed step is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Soon at first, and then less and less often.
    BackOff,
    /// Not before a person says so.
    Never,
}

/// A fact that could not be read. It is not "there is none": no plan is made from it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unknown(pub String);

/// Decides for one loop. The same question has the same answer: no clock, no chance, no I/O.
pub trait Planner {
    /// What a snapshot says, as far as this loop keeps it true.
    type Declared;
    /// All that there is to see. What could not be read is not in here: then there is none of it.
    type Observed: Clone;
    /// What may be done.
    type Step: Clone + Display;
    /// What a step expects to find.
    type Seen: Clone;

    fn plan(&self, declared: &Self::Declared, observed: &Self::Observed, now: Millis) -> Plan<Self::Step, Self::Seen>;

    /// What will be seen when a step has been done: for `bramble plan`, which tells more than the next step,
    /// and for the tests that hold that a plan comes to rest.
    fn foresee(&self, observed: &mut Self::Observed, step: &Self::Step);
}

/// More rounds than any plan needs; one that does not come to rest ends here.
const ROUNDS: usize = 64;

/// All steps to the end, each seen to be done, and what is waited for then.
pub fn foresee<P: Planner>(
    planner: &P,
    declared: &P::Declared,
    mut observed: P::Observed,
    now: Millis,
) -> Plan<P::Step, P::Seen> {
    let mut whole = Plan::default();
    for _ in 0..ROUNDS {
        let Plan { steps, waits } = planner.plan(declared, &observed, now);
        whole.waits = waits;
        if steps.is_empty() {
            break;
        }
        for planned in steps {
            planner.foresee(&mut observed, &planned.step);
            whole.steps.push(planned);
        }
    }
    whole
}

/// A plan as text: what the golden tests of planners keep.
#[cfg(test)]
pub(crate) fn text<Step: Display, Seen>(plan: &Plan<Step, Seen>) -> String {
    let steps = plan.steps.iter().map(|planned| {
        let risk = match &planned.risk {
            Risk::Safe => String::new(),
            Risk::Disrupts { what } => format!(" (disrupts {what})"),
            Risk::Destroys { what } => format!(" (destroys {what})"),
        };
        format!("{} {}: {}{risk}\n", planned.subject, planned.step, planned.reason)
    });
    let waits = plan.waits.iter().map(|wait| format!("{} waits: {} [{:?}]\n", wait.subject, wait.reason, wait.ends));
    steps.chain(waits).collect()
}
