//! How long machines that are in no repository are remembered: those that were seen, and those that were asked
//! to say what they are.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bramble_model::inventory::Adoption;
use bramble_model::names::Mac;
use bramble_model::section::{Ends, Risk};
use bramble_model::subject::Subject;
use bramble_model::timeline::Millis;

use crate::contract::{Plan, Planned, Planner};

/// A machine that has not been seen for so long, in milliseconds, is forgotten.
pub const FORGOTTEN_AFTER: Millis = 30 * 24 * 3600 * 1000;

/// What is kept of such machines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// When each was last seen.
    pub seen: BTreeMap<Mac, Millis>,
    pub adoptions: BTreeMap<Mac, Adoption>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing is kept of having seen it.
    ForgetSighting { mac: Mac },
    /// It is not to say what it is any more; what it said is not needed.
    EndAdoption { mac: Mac },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::ForgetSighting { .. } => f.write_str("is forgotten"),
            Step::EndAdoption { .. } => f.write_str("its adoption ends"),
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Strangers;

impl Planner for Strangers {
    /// The network cards of the repository's nodes.
    type Declared = BTreeSet<Mac>;
    type Observed = Observed;
    type Step = Step;
    /// The adoption that is to end: one that was asked for anew meanwhile does not.
    type Seen = Option<Adoption>;

    fn plan(&self, declared: &BTreeSet<Mac>, observed: &Observed, now: Millis) -> Plan<Step, Option<Adoption>> {
        let mut plan = Plan::default();
        let mut due = |mac: Mac, reason: &str, step: Step| {
            let subject = Subject::Machine { mac };
            let seen = match &step {
                Step::ForgetSighting { .. } => None,
                Step::EndAdoption { mac } => observed.adoptions.get(mac).cloned(),
            };
            plan.steps.push(Planned { subject, seen, reason: reason.into(), risk: Risk::Safe, step });
        };
        for (mac, last) in &observed.seen {
            if declared.contains(mac) {
                due(*mac, "it is a node now", Step::ForgetSighting { mac: *mac });
            } else if *last + FORGOTTEN_AFTER < now {
                due(*mac, "it was not seen for a month", Step::ForgetSighting { mac: *mac });
            }
        }
        let mut waits = Vec::new();
        for (mac, adoption) in &observed.adoptions {
            let until = match adoption {
                Adoption::Done { .. } => None,
                Adoption::Asked { until } | Adoption::Booting { until } => Some(*until),
            };
            match until {
                _ if declared.contains(mac) => due(*mac, "it is a node now", Step::EndAdoption { mac: *mac }),
                Some(until) if until <= now => {
                    due(*mac, "it did not say what it is in time", Step::EndAdoption { mac: *mac });
                }
                Some(until) => waits.push((*mac, until)),
                None => {}
            }
        }
        for (mac, until) in waits {
            plan.wait(Subject::Machine { mac }, "it is to boot once and say what it is", Ends::At(until));
        }
        plan
    }

    fn foresee(&self, observed: &mut Observed, step: &Step) {
        match step {
            Step::ForgetSighting { mac } => drop(observed.seen.remove(mac)),
            Step::EndAdoption { mac } => drop(observed.adoptions.remove(mac)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::contract::{self, foresee};

    fn mac() -> impl Strategy<Value = Mac> {
        (0..4_u8).prop_map(|last| Mac([2, 0, 0, 0, 0, last]))
    }

    fn adoption() -> impl Strategy<Value = Adoption> {
        let until = 0..3 * FORGOTTEN_AFTER;
        prop_oneof![
            until.clone().prop_map(|until| Adoption::Asked { until }),
            until.prop_map(|until| Adoption::Booting { until }),
        ]
    }

    #[test]
    fn machines_of_no_repository_have_their_time() {
        let at = |last| Mac([2, 0, 0, 0, 0, last]);
        let now = 2 * FORGOTTEN_AFTER;
        let seen = BTreeMap::from([(at(1), now - 1), (at(2), 1), (at(3), now)]);
        let adoptions = BTreeMap::from([
            (at(3), Adoption::Asked { until: now + 1 }),
            (at(4), Adoption::Asked { until: now }),
            (at(5), Adoption::Booting { until: now + 60_000 }),
        ]);
        let plan = Strangers.plan(&BTreeSet::from([at(3)]), &Observed { seen, adoptions }, now);
        insta::assert_snapshot!(contract::text(&plan));
    }

    proptest! {
        #[test]
        fn whoever_waits_is_kept_until_its_time_and_then_nothing_is(
            declared in prop::collection::btree_set(mac(), 0..4),
            seen in prop::collection::btree_map(mac(), 0..3 * FORGOTTEN_AFTER, 0..4),
            adoptions in prop::collection::btree_map(mac(), adoption(), 0..4),
            now in 0..3 * FORGOTTEN_AFTER,
        ) {
            let mut observed = Observed { seen, adoptions };
            let plan = foresee(&Strangers, &declared, observed.clone(), now);
            plan.steps.iter().for_each(|planned| Strangers.foresee(&mut observed, &planned.step));
            prop_assert!(Strangers.plan(&declared, &observed, now).steps.is_empty(), "not at rest");
            for (mac, last) in &observed.seen {
                prop_assert!(!declared.contains(mac) && last + FORGOTTEN_AFTER >= now);
            }
            prop_assert_eq!(plan.waits.len(), observed.adoptions.len(), "what is kept is waited for");
            for wait in &plan.waits {
                prop_assert!(matches!(wait.ends, Ends::At(at) if at > now));
            }
        }
    }
}
