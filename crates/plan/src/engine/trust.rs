//! What no word of a node may bring about, in any engine: one property test for all of their planners.
//!
//! ```text
//!   a world ─┬─ the suspect says this ──▶ plan ─▶ each step goes only through whom the repository, or the head's own
//!            │                              │     record, has for it, and makes of a node only what the repository does
//!            └─ the suspect says that ──▶ plan ─▶ the same steps for all others, where it is nobody who is asked
//! ```
//! A suspect is root on its machine with the node's certificate: it answers anything to anything, and its machine calls itself
//! as it likes in what the engine lists.

use std::collections::BTreeSet;
use std::fmt::Debug;

use bramble_model::engine::{EngineKind, EnginePart};
use bramble_model::names::Name;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use crate::contract::{Plan, Planned, Planner};
use crate::swarm::Swarm;

/// What a step needs of a node, or makes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Errand {
    /// It is asked for others: for tokens, for a change of members or workloads.
    Through(Name),
    /// The same, and only so that a manager of the repository takes its place.
    HandsOver(Name),
    /// It becomes this in the engine, or begins it.
    Becomes(String, EnginePart),
    /// The member of this id, which is a machine's, is made no manager any more.
    Ends { member: String, of: String },
    /// An entry of it goes.
    Loses(String),
    /// It is written down as one that was made a manager.
    WritesDown(Name),
    /// It is taken off that record.
    TakesOff(Name),
}

/// An engine's planner, as far as a node's words reach it.
pub(crate) trait Suspicious: Planner {
    /// All that a node can say: of itself, by its agent and in the engine, and where it is asked of the engine as a whole.
    type Word: Debug + Clone;

    fn part(declared: &Self::Declared, node: &Name) -> EnginePart;

    /// Whether the head has written down that it was made a manager.
    fn made(observed: &Self::Observed, node: &Name) -> bool;

    /// The member of the engine that the node's agent says it is, and whether the engine lists that as a manager.
    fn says(observed: &Self::Observed, node: &Name) -> Option<(String, bool)>;

    /// Whether the engine has the machine as a manager, whatever it calls itself.
    fn is_listed(observed: &Self::Observed, node: &Name) -> bool;

    /// Whether the head has forgotten who may hold the engine's state: then it waits for everyone's word before it begins
    /// another one.
    fn has_forgotten(observed: &Self::Observed) -> bool;

    /// It says this, and whatever it is asked it answers so.
    fn hears(declared: &Self::Declared, observed: &mut Self::Observed, node: &Name, word: &Self::Word);

    /// The same word of a machine that has its own name in the engine; `None` where its name is that of a manager of which
    /// nobody has heard: until that one speaks, it may be that one.
    fn by_its_own_name(declared: &Self::Declared, observed: &Self::Observed, word: &Self::Word) -> Option<Self::Word>;

    /// Every declared manager.
    fn managers(declared: &Self::Declared) -> Vec<Name>;

    fn errands(planned: &Planned<Self::Step, Self::Seen>) -> Vec<Errand>;
}

/// Each step is one that the declared part allows of whoever it goes through and whoever it concerns; and nobody who is
/// neither declared as a manager nor was made one, nor is one in the engine, changes by its words what is done with others.
/// Nobody stays a manager by what it calls itself, ends a manager of today that says who it is, writes another down as a manager, or comes off that record while the
/// engine has it as one.
pub(crate) fn no_word_counts_for_more_than_the_declared_part<P: Suspicious>(
    planner: &P,
    declared: &P::Declared,
    observed: &P::Observed,
    suspect: &Name,
    words: &[P::Word],
) -> TestCaseResult {
    let plan_after = |observed: &P::Observed, word: &P::Word| {
        let mut heard = observed.clone();
        P::hears(declared, &mut heard, suspect, word);
        (planner.plan(declared, &heard, 0), heard)
    };
    let is_nobody = P::part(declared, suspect) != EnginePart::Manager
        && !P::made(observed, suspect)
        && !P::is_listed(observed, suspect);
    if let [first, others @ ..] = words
        && is_nobody
        && !P::has_forgotten(observed)
    {
        let expected = done_with_others::<P>(&plan_after(observed, first).0, suspect);
        for word in others {
            let done = done_with_others::<P>(&plan_after(observed, word).0, suspect);
            prop_assert_eq!(&done, &expected, "{} says {:?}, and not {:?}", suspect, word, first);
        }
    }
    // What it calls itself keeps no manager's place for it.
    let at_rest = |word: &P::Word| {
        let mut observed = plan_after(observed, word).1;
        for _ in 0..12 {
            let plan = planner.plan(declared, &observed, 0);
            plan.steps.iter().for_each(|planned| planner.foresee(&mut observed, &planned.step));
        }
        P::is_listed(&observed, suspect)
    };
    if P::part(declared, suspect) != EnginePart::Manager
        && let Some(first) = words.first()
        && let Some(own) = P::by_its_own_name(declared, observed, first)
    {
        prop_assert!(at_rest(&own) || !at_rest(first), "{} says {:?}, and stays a manager", suspect, first);
    }
    // It goes on saying things while plans are performed.
    let mut observed = observed.clone();
    for word in words {
        let (plan, heard) = plan_after(&observed, word);
        for planned in &plan.steps {
            for errand in P::errands(planned) {
                let may = match &errand {
                    Errand::Through(node) => P::part(declared, node) == EnginePart::Manager,
                    Errand::HandsOver(node) => P::part(declared, node) == EnginePart::Manager || P::made(&heard, node),
                    Errand::Becomes(node, part) => {
                        let declared = node.parse().map_or(EnginePart::None, |node| P::part(declared, &node));
                        declared == *part || *part == EnginePart::Worker && declared != EnginePart::Manager
                    }
                    Errand::Ends { member, .. } => {
                        let says = |node: &Name| P::says(&heard, node).is_some_and(|(said, _)| said == *member);
                        !P::managers(declared).iter().any(says)
                    }
                    Errand::Loses(_) => true,
                    Errand::WritesDown(node) => {
                        let is_one = P::says(&heard, node).is_some_and(|(_, manager)| manager);
                        P::part(declared, node) == EnginePart::Manager || P::made(&heard, node) || is_one
                    }
                    Errand::TakesOff(node) => match P::says(&heard, node) {
                        Some((said, true)) => {
                            let managers = P::managers(declared);
                            managers.iter().any(|other| P::says(&heard, other).is_some_and(|(own, _)| own == said))
                        }
                        Some((_, false)) | None => true,
                    },
                };
                prop_assert!(may, "{} says {:?}: {} ({:?})", suspect, word, planned.step, errand);
            }
        }
        observed = heard;
        plan.steps.iter().for_each(|planned| planner.foresee(&mut observed, &planned.step));
    }
    Ok(())
}

/// Steps that concern anyone else, as they are told.
fn done_with_others<P: Suspicious>(plan: &Plan<P::Step, P::Seen>, suspect: &Name) -> BTreeSet<String> {
    let own = |errand: &Errand| match errand {
        Errand::Becomes(node, _) | Errand::Loses(node) | Errand::Ends { of: node, .. } => node == suspect.as_str(),
        Errand::WritesDown(node) | Errand::TakesOff(node) => node == suspect,
        Errand::Through(_) | Errand::HandsOver(_) => true,
    };
    let concerns_it = |planned: &Planned<P::Step, P::Seen>| {
        let errands = P::errands(planned);
        let names = |errand: &Errand| !matches!(errand, Errand::Through(_) | Errand::HandsOver(_));
        errands.iter().any(names) && errands.iter().all(own)
    };
    let others = plan.steps.iter().filter(|planned| !concerns_it(planned));
    others.map(|planned| format!("{}: {} {:?}", planned.subject, planned.step, P::errands(planned))).collect()
}

/// A new engine is under suspicion, too: the compiler asks for it here.
#[test]
fn every_engines_planner_is_suspicious() {
    fn holds<P: Suspicious>() {}
    for kind in EngineKind::ALL {
        match kind {
            // In a property test: swarm::tests::suspects.
            EngineKind::Swarm => holds::<Swarm>(),
        }
    }
}
