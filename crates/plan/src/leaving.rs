//! Who has left the repository, and what ends with that: a node's certificate, its connection and its being
//! known. Compared anew each time, so that a disk that failed or a head that was killed only delays it. And who waits to
//! be let in by a person.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bramble_model::names::Name;
use bramble_model::section::{Ends, Risk};
use bramble_model::subject::Subject;
use bramble_model::timeline::Millis;

use crate::contract::{Plan, Planned, Planner};

/// What is kept of nodes, and of machines that boot once to be adopted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    pub known: BTreeSet<Name>,
    /// They have a name while they boot, and are in no repository yet.
    pub adopting: BTreeSet<Name>,
    /// They ask to be let in.
    pub asking: BTreeMap<Name, Asking>,
}

/// Who asks for a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asking {
    /// The fingerprint of its key.
    pub key: String,
    /// Its console shows six digits, and not the key.
    pub shows_digits: bool,
}

/// Ends what a node was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoke {
    pub node: Name,
}

impl fmt::Display for Revoke {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("its certificate ends")
    }
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Leaving;

impl Planner for Leaving {
    /// The repository's nodes.
    type Declared = BTreeSet<Name>;
    type Observed = Observed;
    type Step = Revoke;
    type Seen = ();

    fn plan(&self, declared: &BTreeSet<Name>, observed: &Observed, _now: Millis) -> Plan<Revoke, ()> {
        let gone = observed.known.iter().filter(|name| !declared.contains(*name) && !observed.adopting.contains(*name));
        let steps = gone.map(|node| Planned {
            subject: Subject::node(node),
            seen: (),
            reason: "it is no longer in the repository".into(),
            risk: Risk::Disrupts { what: format!("{node}, which is let go") },
            step: Revoke { node: node.clone() },
        });
        let mut plan = Plan { steps: steps.collect(), waits: Vec::new() };
        for (node, Asking { key, shows_digits }) in observed.asking.iter().filter(|(node, _)| declared.contains(*node))
        {
            let act = match shows_digits {
                true => format!(
                    "`bramble node approve {node} DIGITS`, with the six digits that its console shows; where it has no \
                     screen, `bramble node approve --press {node}`"
                ),
                false => format!("`bramble node approve {node} {key}`, where its console shows that key"),
            };
            plan.wait(Subject::node(node), "it waits to be let in", Ends::Person(act));
        }
        plan
    }

    fn foresee(&self, observed: &mut Observed, step: &Revoke) {
        observed.known.remove(&step.node);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::contract::{self, foresee};

    fn names() -> impl Strategy<Value = BTreeSet<Name>> {
        prop::collection::btree_set("[a-f]".prop_map(|text| text.parse().expect("a name")), 0..6)
    }

    #[test]
    fn who_has_left_is_let_go() {
        let names = |names: &[&str]| names.iter().map(|name| name.parse().expect("a name")).collect::<BTreeSet<Name>>();
        let observed = Observed {
            known: names(&["m1", "m2", "w1", "w2", "adopted"]),
            adopting: names(&["adopted"]),
            asking: [("w1", "9f86", false), ("m1", "2c26", false), ("m2", "2c27", true)]
                .map(|(name, key, shows_digits)| {
                    (name.parse().expect("a name"), Asking { key: key.to_owned(), shows_digits })
                })
                .into(),
        };
        insta::assert_snapshot!(contract::text(&Leaving.plan(&names(&["m1", "m2", "w9"]), &observed, 0)));
    }

    proptest! {
        #[test]
        fn who_left_is_let_go_once_and_nobody_else(declared in names(), known in names(), adopting in names()) {
            let observed = Observed { known: known.clone(), adopting: adopting.clone(), asking: BTreeMap::new() };
            let plan = foresee(&Leaving, &declared, observed.clone(), 0);
            let gone: BTreeSet<Name> = plan.steps.iter().map(|planned| planned.step.node.clone()).collect();
            prop_assert_eq!(gone.len(), plan.steps.len());
            for name in &known {
                prop_assert_eq!(gone.contains(name), !declared.contains(name) && !adopting.contains(name));
            }
            let mut after = observed;
            plan.steps.iter().for_each(|planned| Leaving.foresee(&mut after, &planned.step));
            prop_assert!(Leaving.plan(&declared, &after, 0).steps.is_empty());
        }
    }
}
