//! Whether every node runs the boot set that it would be given now. Nothing is done about it here: a node boots
//! another set when it is started again, and what a person has to do for that is said. So is a signature whose time is up
//! or nearly so, and a set that is forbidden and runs all the same.

use std::collections::BTreeMap;
use std::convert::Infallible;

use bramble_boot::{Day, SOON};
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
    /// When its signature expires, in seconds since 1970; `None` for never.
    pub expires: Option<u64>,
    /// Why nodes boot nothing of it all the same.
    pub refused: Option<&'static str>,
}

/// A node, as it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runs {
    pub architecture: Architecture,
    pub set: Digest,
    /// A person has forbidden it since it was started.
    pub forbidden: bool,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Sets;

impl Planner for Sets {
    type Declared = Declared;
    type Observed = Observed;
    type Step = Infallible;
    type Seen = ();

    fn plan(&self, declared: &Declared, observed: &Observed, now: Millis) -> Plan<Infallible, ()> {
        let mut plan = Plan::default();
        let build = || Ends::Person("`bramble image build`".into());
        for architecture in &declared.architectures {
            let subject = Subject::Image { architecture: *architecture };
            let Some(set) = observed.shelf.get(architecture) else {
                plan.wait(subject, "there is no boot set yet, and its nodes cannot boot", build());
                continue;
            };
            let sign =
                || Ends::Person(format!("`bramble image build`, or `bramble image sign {}`", set.digest.short()));
            if let Some(refused) = set.refused {
                let reason = format!("nodes boot nothing of the boot set that they are given: {refused}");
                plan.wait(subject.clone(), reason, sign());
            }
            if set.inputs.is_some() && declared.inputs.is_some() && set.inputs != declared.inputs {
                let reason = "the repository's image has changed since its boot set was built; nodes boot the old one";
                plan.wait(subject.clone(), reason, build());
            }
            if let Some(reason) = set.expires.and_then(|at| expiry(at, now / 1000)) {
                plan.wait(subject, reason, sign());
            }
        }
        for name in &declared.nodes {
            let Some(runs) = observed.nodes.get(name) else { continue };
            // By its own architecture: a set of another one is nothing to it.
            let Some(set) = observed.shelf.get(&runs.architecture) else { continue };
            if set.digest != runs.set {
                let forbidden = if runs.forbidden { ", which is forbidden" } else { "" };
                let reason = format!(
                    "it runs boot set {}{forbidden}, and boots {} when it starts again",
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

/// What there is to say of a signature that expires then, both in seconds since 1970.
fn expiry(at: u64, now: u64) -> Option<String> {
    if at <= now {
        Some(format!("its signature expired on {}: nodes that were never ready with it do not boot it", Day(at)))
    } else if at - now <= SOON {
        Some(format!("its signature expires on {}: from then on no node begins with it", Day(at)))
    } else {
        None
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
        let set = |n| Set { digest: digest(n), inputs: None, expires: None, refused: None };
        let runs = |architecture, n| Runs { architecture, set: digest(n), forbidden: false };
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
        let runs = |architecture, n| Runs { architecture, set: digest(n), forbidden: false };
        let declared = Declared {
            architectures: vec![Amd64, Arm64],
            nodes: vec![name("m1"), name("w1")],
            inputs: Some(digest(5)),
        };
        let observed = Observed {
            shelf: BTreeMap::from([(
                Amd64,
                Set { digest: digest(1), inputs: Some(digest(4)), expires: None, refused: None },
            )]),
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
            shelf in prop::collection::btree_map(
                architecture(), (0..3_u8, prop::option::of(0..3_u8), prop::option::of(0..3 * SOON), any::<bool>()), 0..3,
            ),
            nodes in prop::collection::btree_map("[a-d]", (architecture(), 0..3_u8), 0..5),
            inputs in prop::option::of(0..3_u8),
        ) {
            let declared = Declared {
                architectures: wanted.into_iter().collect(),
                nodes: nodes.keys().map(|node| name(node)).collect(),
                inputs: inputs.map(digest),
            };
            let mut observed = Observed {
                shelf: shelf.into_iter().map(|(of, (n, inputs, expires, refused))| {
                    let refused = refused.then_some("it is forbidden");
                    (of, Set { digest: digest(n), inputs: inputs.map(digest), expires, refused })
                }).collect(),
                nodes: nodes.iter().map(|(node, (architecture, n))| (name(node), Runs { architecture: *architecture, set: digest(*n), forbidden: false })).collect(),
            };
            let plan = Sets.plan(&declared, &observed, 0);
            prop_assert_eq!(plan.steps.len(), 0);
            for wait in plan.waits {
                prop_assert!(matches!(wait.ends, Ends::Person(_)));
                if let Subject::Image { architecture } = wait.subject {
                    observed.shelf.insert(architecture, Set { digest: digest(7), inputs: declared.inputs, expires: None, refused: None });
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
        let old = Set { digest: digest(1), inputs: Some(digest(4)), expires: None, refused: None };
        let mut observed = Observed { shelf: BTreeMap::from([(Architecture::Amd64, old)]), ..Observed::default() };
        let waits = Sets.plan(&declared, &observed, 0).waits;
        assert_eq!(waits.len(), 2, "one is old, the other missing: {waits:?}");
        assert!(waits.iter().all(|wait| wait.ends == Ends::Person("`bramble image build`".into())));
        for architecture in Architecture::ALL {
            observed
                .shelf
                .insert(architecture, Set { digest: digest(1), inputs: Some(digest(5)), expires: None, refused: None });
        }
        assert_eq!(Sets.plan(&declared, &observed, 0).waits, []);
    }

    /// The page says it in time; until then nothing is said.
    #[test]
    fn a_signature_is_told_of_before_it_expires_and_after() {
        let declared = Declared { architectures: vec![Architecture::Amd64], ..Declared::default() };
        let set = Set { digest: digest(1), inputs: None, expires: Some(100 * SOON), refused: None };
        let observed = Observed { shelf: BTreeMap::from([(Architecture::Amd64, set)]), ..Observed::default() };
        let told = |seconds: u64| {
            let waits = Sets.plan(&declared, &observed, seconds * 1000).waits;
            waits.into_iter().map(|wait| (wait.reason, wait.ends)).collect::<Vec<_>>()
        };
        assert_eq!(told(99 * SOON - 1), []);
        let [(reason, ends)] = &told(99 * SOON)[..] else { panic!("one wait") };
        assert!(reason.contains("expires on 1973-11-01") && reason.contains("no node begins"), "{reason}");
        assert!(matches!(ends, Ends::Person(what) if what.contains("image sign 010101010101")), "{ends:?}");
        // Also where its image has changed meanwhile.
        let changed = Declared { inputs: Some(digest(5)), ..declared.clone() };
        let old =
            Set { digest: digest(1), inputs: Some(digest(4)), expires: Some(SOON), refused: Some("it is forbidden") };
        let observed_old = Observed { shelf: BTreeMap::from([(Architecture::Amd64, old)]), ..Observed::default() };
        let waits = Sets.plan(&changed, &observed_old, 0).waits;
        assert_eq!(waits.len(), 3, "{waits:?}");
        assert!(waits[0].reason.contains("boot nothing") && waits[0].reason.contains("forbidden"), "{waits:?}");
        let [(reason, _)] = &told(100 * SOON)[..] else { panic!("one wait") };
        assert!(reason.contains("expired on 1973-11-01"), "{reason}");
    }

    #[test]
    fn a_node_that_runs_what_was_forbidden_meanwhile_is_told_of() {
        let declared = Declared { nodes: vec![name("w1")], ..Declared::default() };
        let runs = Runs { architecture: Architecture::Amd64, set: digest(9), forbidden: true };
        let set = Set { digest: digest(1), inputs: None, expires: None, refused: None };
        let observed = Observed {
            shelf: BTreeMap::from([(Architecture::Amd64, set)]),
            nodes: BTreeMap::from([(name("w1"), runs)]),
        };
        let waits = Sets.plan(&declared, &observed, 0).waits;
        assert!(waits.len() == 1 && waits[0].reason.contains("090909090909, which is forbidden"), "{waits:?}");
    }
}
