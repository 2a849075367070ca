//! The rotation of the CA: a new root takes the old one's place, and nobody who trusts the old one alone is lost unsaid.
//!
//! ```text
//!               rotate                              finish: a person, or by itself
//!   one root ───────────▶ overlap ────────────────────────────────────▶ finishing ───▶ one root: the next
//!      ▲      the next one is made;      agents are told, and say what        │ files take their places,
//!      │      images carry both;         they trust; their certificates       │ whoever is killed in it
//!      │      the head's own             are the next one's from now on       │ goes on at the next start
//!      │      certificate stays of       and taken of both
//!      │      the old one
//!      └─ killed before the overlap was written down: what was made of the next one is removed
//! ```
//! Until the end the head serves a certificate of the old root: whoever trusts that one, or both, goes on. What would be
//! lost with it is known by name ([`losses`]): nodes that run and were not told, and boot sets that nodes are given and that
//! carry the old one alone. By itself it ends when there is none of these and the overlap has had its time.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bramble_model::boot_set::Architecture;
use bramble_model::names::{BootId, Digest, Name};
use bramble_model::section::{Ends, Risk};
use bramble_model::subject::Subject;
use bramble_model::timeline::Millis;
use serde::{Deserialize, Serialize};

use crate::contract::{Plan, Planned, Planner};

/// For so long both are trusted at least, where nobody says otherwise: people's command lines and browsers move over when
/// they are used.
pub const OVERLAP: Millis = 7 * 24 * 3600 * 1000;

/// How far a rotation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Both roots are trusted.
    Overlap,
    /// The next one is taking the old one's place.
    Finishing,
}

/// What is kept of a rotation, beside the keys. There is none where there is one root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub phase: Phase,
    /// Since when both roots are trusted.
    pub since: Millis,
    /// Nodes whose agent has said that it trusts the next root, and the boot in which it did: it does for as long as that
    /// boot lasts, connected or not.
    #[serde(default)]
    pub moved: BTreeMap<Name, BootId>,
}

/// What is done to the files of the keys, one after the other. Each can be done again, and a head that is killed between
/// any two of them goes on with [`on_start`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileStep {
    KeepNextKey,
    KeepNext,
    /// Writes down how far it is: from here on that is so.
    Note(Phase),
    TakeKey,
    Take,
    TakeIssuer,
    /// It is over.
    Forget,
    RemoveNext,
}

/// What begins a rotation.
pub const BEGIN: [FileStep; 3] = [FileStep::KeepNextKey, FileStep::KeepNext, FileStep::Note(Phase::Overlap)];

/// What ends one.
pub const FINISH: [FileStep; 6] = [
    FileStep::Note(Phase::Finishing),
    FileStep::TakeKey,
    FileStep::Take,
    FileStep::TakeIssuer,
    FileStep::Forget,
    FileStep::RemoveNext,
];

/// What a head does first that may have been killed in the middle: with what is written down of a rotation, and whether
/// there is something of a next root.
pub fn on_start(phase: Option<Phase>, has_next: bool) -> &'static [FileStep] {
    match phase {
        // It had not begun, or it was over.
        None if has_next => &[FileStep::RemoveNext],
        None | Some(Phase::Overlap) => &[],
        Some(Phase::Finishing) => FINISH.split_first().map_or(&[], |(_, rest)| rest),
    }
}

/// A node that was let in, as far as the next root goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// It trusts it, or is down and boots what it is given.
    Moved,
    /// It is connected and is being told.
    Told,
    /// It is connected, and its agent takes no roots: what it runs.
    Unable(String),
    /// It is away and was not told in the boot in which it was let in last. If it still runs, it trusts the old one alone.
    Away,
}

/// The boot set that an architecture's nodes are given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    pub set: Digest,
    /// It was built with the next root.
    pub carries: bool,
}

/// A rotation that is under way, and all that it depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    pub since: Millis,
    /// Declared nodes that run bramble's own system and were let in.
    pub nodes: BTreeMap<Name, Node>,
    pub sets: BTreeMap<Architecture, Given>,
}

/// Something that would not find the head again without the old root: what, why, and what mends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    pub subject: Subject,
    pub reason: String,
    pub ends: Ends,
}

/// What would be lost with the old root now.
pub fn losses(rotation: &Rotation) -> Vec<Loss> {
    let mut lost = Vec::new();
    for (architecture, given) in rotation.sets.iter().filter(|(_, given)| !given.carries) {
        lost.push(Loss {
            subject: Subject::Image { architecture: *architecture },
            reason: format!(
                "boot set {}, which its nodes are given, carries the old CA alone: they would not find the head",
                given.set.short()
            ),
            ends: Ends::Person("`bramble image build`".into()),
        });
    }
    for (name, node) in &rotation.nodes {
        let (reason, ends) = match node {
            Node::Moved => continue,
            Node::Told => ("it is told of the next CA, and has not said yet that it trusts it".into(), Ends::ByItself),
            Node::Unable(runs) => (
                format!("it runs {runs}, which cannot be told of the next CA: it learns that from its boot set"),
                Ends::Person(format!("`bramble image build`, and `bramble reboot {name}`")),
            ),
            Node::Away => (
                "it is away and was not told of the next CA: if it still runs, it would not find the head when it is back, \
                 until it is started again"
                    .into(),
                Ends::Person(format!(
                    "start {name} again; or `bramble ca rotate --finish` goes on without it: whenever it is started, it \
                     boots what the head gives then"
                )),
            ),
        };
        lost.push(Loss { subject: Subject::node(name), reason, ends });
    }
    lost
}

/// What a planner of this may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The next root takes the old one's place.
    Finish,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Finish => f.write_str("the next root takes the old one's place"),
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Rotations;

impl Planner for Rotations {
    /// Nodes that run bramble's own system.
    type Declared = BTreeSet<Name>;
    /// The rotation that is under way.
    type Observed = Option<Rotation>;
    type Step = Step;
    type Seen = ();

    fn plan(&self, _: &BTreeSet<Name>, observed: &Option<Rotation>, now: Millis) -> Plan<Step, ()> {
        let mut plan = Plan::default();
        let Some(rotation) = observed else { return plan };
        for Loss { subject, reason, ends } in losses(rotation) {
            plan.wait(subject, reason, ends);
        }
        let until = rotation.since.saturating_add(OVERLAP);
        if now < until {
            let reason = "both CAs are trusted, so that command lines and browsers that know the old one move over; \
                          `bramble ca rotate --finish` ends it now";
            plan.wait(Subject::Ca, reason, Ends::At(until));
        } else if plan.waits.is_empty() {
            plan.steps.push(Planned {
                subject: Subject::Ca,
                seen: (),
                reason: "every node trusts the next one, and so does every boot set that they are given".into(),
                risk: Risk::Safe,
                step: Step::Finish,
            });
        }
        plan
    }

    fn foresee(&self, observed: &mut Option<Rotation>, step: &Step) {
        match step {
            Step::Finish => *observed = None,
        }
    }
}

#[cfg(test)]
mod tests;
