//! Whether every node runs the boot set that it would be given now. Nothing is done about it here: a node boots
//! another set when it is started again, and what a person has to do for that is said.

use std::collections::BTreeMap;
use std::convert::Infallible;

use bramble_model::boot_set::Architecture;
use bramble_model::names::{Digest, Name};
use bramble_model::section::Ends;
use bramble_model::subject::Subject;
use bramble_model::timeline::Millis;

use crate::contract::{Plan, Planner};

/// What a snapshot says of images.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Declared {
    /// What it wants a boot set for.
    pub architectures: Vec<Architecture>,
    /// Nodes that run bramble's own system. Others boot what is not of a boot set.
    pub nodes: Vec<Name>,
    /// SHA-256 of all that the image is made from.
    pub inputs: Option<Digest>,
}

/// What is on the shelf, and what runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    pub shelf: BTreeMap<Architecture, Set>,
    /// Connected nodes, and what each runs.
    pub nodes: BTreeMap<Name, Runs>,
}

/// The boot set that an architecture's nodes are given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    pub digest: Digest,
    /// SHA-256 of what it was made from; `None` where the program that made it did not say.
    pub inputs: Option<Digest>,
}

/// A node, as it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runs {
    pub architecture: Architecture,
    pub set: Digest,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Sets;

impl Planner for Sets {
    type Declared = Declared;
    type Observed = Observed;
    type Step = Infallible;
    type Seen = ();

    fn plan(&self, declared: &Declared, observed: &Observed, _now: Millis) -> Plan<Infallible, ()> {
        let mut plan = Plan::default();
        let build = || Ends::Person("`bramble image build`".into());
        for architecture in &declared.architectures {
            let subject = Subject::Image { architecture: *architecture };
            match observed.shelf.get(architecture) {
                None => plan.wait(subject, "there is no boot set yet, and its nodes cannot boot", build()),
                Some(set) if set.inputs.is_some() && declared.inputs.is_some() && set.inputs != declared.inputs => {
                    let reason =
                        "the repository's image has changed since its boot set was built; nodes boot the old one";
                    plan.wait(subject, reason, build());
                }
                Some(_) => {}
            }
        }
        for name in &declared.nodes {
            let Some(runs) = observed.nodes.get(name) else { continue };
            // By its own architecture: a set of another one is nothing to it.
            let Some(set) = observed.shelf.get(&runs.architecture) else { continue };
            if set.digest != runs.set {
                let reason = format!(
                    "it runs boot set {}, and boots {} when it starts again",
                    runs.set.short(),
                    set.digest.short()
                );
                plan.wait(Subject::node(name), reason, Ends::Person(format!("`bramble reboot {name}`")));
            }
        }
        plan
    }

    fn foresee(&self, _observed: &mut Observed, step: &Infallible) {
        match *step {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::contract;

    fn digest(n: u8) -> Digest {
        Digest([n; 32])
    }

    fn name(text: &str) -> Name {
        text.parse().expect("a name")
    }

    /// Fault 5 of the ground: the preview compared every node with the first architecture's set.
    #[test]
    fn a_node_is_compared_with_its_own_architectures_set_and_a_foreign_one_with_none() {
        use Architecture::{Amd64, Arm64};
        let set = |n| Set { digest: digest(n), inputs: None };
        let runs = |architecture, n| Runs { architecture, set: digest(n) };
        let declared = Declared {
            architectures: vec![Amd64, Arm64],
            nodes: vec![name("x1"), name("p1"), name("p2"), name("off")],
            inputs: None,
        };
        let observed = Observed {
            shelf: BTreeMap::from([(Amd64, set(1)), (Arm64, set(2))]),
            nodes: BTreeMap::from([
                (name("x1"), runs(Amd64, 1)),
                (name("p1"), runs(Arm64, 2)),
                (name("p2"), runs(Arm64, 7)),
                (name("foreign"), runs(Amd64, 9)),
            ]),
        };
        let waits = Sets.plan(&declared, &observed, 0).waits;
        assert_eq!(waits.iter().map(|wait| wait.subject.to_string()).collect::<Vec<_>>(), ["p2"]);
        assert!(waits[0].reason.contains("070707070707") && waits[0].reason.contains("020202020202"), "{waits:?}");
    }

    #[test]
    fn nodes_and_images_that_are_not_as_they_would_be() {
        use Architecture::{Amd64, Arm64};
        let runs = |architecture, n| Runs { architecture, set: digest(n) };
        let declared = Declared {
            architectures: vec![Amd64, Arm64],
            nodes: vec![name("m1"), name("w1")],
            inputs: Some(digest(5)),
        };
        let observed = Observed {
            shelf: BTreeMap::from([(Amd64, Set { digest: digest(1), inputs: Some(digest(4)) })]),
            nodes: BTreeMap::from([(name("m1"), runs(Amd64, 1)), (name("w1"), runs(Amd64, 9))]),
        };
        insta::assert_snapshot!(contract::text(&Sets.plan(&declared, &observed, 0)));
    }

    fn architecture() -> impl Strategy<Value = Architecture> {
        prop::sample::select(Architecture::ALL.to_vec())
    }

    proptest! {
        /// Nothing is done by itself; what a person is asked for ends the wait, and nothing else is waited for.
        #[test]
        fn what_a_person_does_ends_every_wait(
            wanted in prop::collection::btree_set(architecture(), 0..3),
            shelf in prop::collection::btree_map(architecture(), (0..3_u8, prop::option::of(0..3_u8)), 0..3),
            nodes in prop::collection::btree_map("[a-d]", (architecture(), 0..3_u8), 0..5),
            inputs in prop::option::of(0..3_u8),
        ) {
            let declared = Declared {
                architectures: wanted.into_iter().collect(),
                nodes: nodes.keys().map(|node| name(node)).collect(),
                inputs: inputs.map(digest),
            };
            let mut observed = Observed {
                shelf: shelf.into_iter().map(|(of, (n, inputs))| (of, Set { digest: digest(n), inputs: inputs.map(digest) })).collect(),
                nodes: nodes.iter().map(|(node, (architecture, n))| (name(node), Runs { architecture: *architecture, set: digest(*n) })).collect(),
            };
            let plan = Sets.plan(&declared, &observed, 0);
            prop_assert_eq!(plan.steps.len(), 0);
            for wait in plan.waits {
                prop_assert!(matches!(wait.ends, Ends::Person(_)));
                if let Subject::Image { architecture } = wait.subject {
                    observed.shelf.insert(architecture, Set { digest: digest(7), inputs: declared.inputs });
                }
            }
            for runs in observed.nodes.values_mut() {
                if let Some(set) = observed.shelf.get(&runs.architecture) {
                    runs.set = set.digest;
                }
            }
            prop_assert_eq!(Sets.plan(&declared, &observed, 0).waits, []);
        }
    }

    #[test]
    fn what_has_to_be_built_is_said_with_the_command() {
        let declared =
            Declared { architectures: Architecture::ALL.to_vec(), nodes: Vec::new(), inputs: Some(digest(5)) };
        let old = Set { digest: digest(1), inputs: Some(digest(4)) };
        let mut observed = Observed { shelf: BTreeMap::from([(Architecture::Amd64, old)]), ..Observed::default() };
        let waits = Sets.plan(&declared, &observed, 0).waits;
        assert_eq!(waits.len(), 2, "one is old, the other missing: {waits:?}");
        assert!(waits.iter().all(|wait| wait.ends == Ends::Person("`bramble image build`".into())));
        for architecture in Architecture::ALL {
            observed.shelf.insert(architecture, Set { digest: digest(1), inputs: Some(digest(5)) });
        }
        assert_eq!(Sets.plan(&declared, &observed, 0).waits, []);
    }
}
