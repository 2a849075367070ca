use proptest::prelude::*;

use super::*;
use crate::contract;

const DAY: Millis = 24 * 3600 * 1000;

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn rotation(nodes: &[(&str, Node)], carries: &[bool]) -> Rotation {
    let sets = Architecture::ALL.into_iter().zip(carries);
    Rotation {
        since: 10 * DAY,
        nodes: nodes.iter().map(|(node, state)| (name(node), state.clone())).collect(),
        sets: sets.map(|(of, carries)| (of, Given { set: Digest([7; 32]), carries: *carries })).collect(),
    }
}

fn text(observed: &Option<Rotation>, now: Millis) -> String {
    contract::text(&Rotations.plan(&BTreeSet::new(), observed, now))
}

#[test]
fn what_a_rotation_waits_for_is_said_and_what_mends_it() {
    let nodes = [
        ("away", Node::Away),
        ("moved", Node::Moved),
        ("old", Node::Unable("an agent of bramble 0.1.0".into())),
        ("told", Node::Told),
    ];
    let waits = rotation(&nodes, &[false, true]);
    insta::assert_snapshot!(
        [
            text(&None, 11 * DAY),
            text(&Some(waits.clone()), 11 * DAY),
            text(&Some(waits), 30 * DAY),
            text(&Some(rotation(&[("moved", Node::Moved)], &[true])), 11 * DAY),
            text(&Some(rotation(&[("moved", Node::Moved)], &[true])), 17 * DAY),
        ]
        .join("\n")
    );
}

/// However long it takes: an agent that was away for the whole overlap is named, and its rotation waits for a person.
#[test]
fn one_that_is_away_for_the_whole_overlap_holds_it_until_a_person_says_so() {
    for days in [0, 8, 400] {
        let plan = Rotations.plan(&BTreeSet::new(), &Some(rotation(&[("m1", Node::Away)], &[true])), (10 + days) * DAY);
        assert!(plan.steps.is_empty());
        let wait = plan.waits.iter().find(|wait| wait.subject == Subject::node(&name("m1"))).expect("it is named");
        assert!(matches!(&wait.ends, Ends::Person(what) if what.contains("start m1 again")), "{wait:?}");
    }
}

/// A folder of keys, as far as a rotation goes: each file is of one root, by its number.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Files {
    phase: Option<Phase>,
    key: u8,
    root: u8,
    issuer: u8,
    next_key: Option<u8>,
    next: Option<u8>,
}

impl Files {
    fn of(root: u8) -> Self {
        Files { phase: None, key: root, root, issuer: root, next_key: None, next: None }
    }

    fn take(&mut self, step: FileStep) {
        let next = self.root.max(self.issuer) + 1;
        match step {
            FileStep::KeepNextKey => self.next_key = Some(next),
            FileStep::KeepNext => self.next = self.next_key,
            FileStep::Note(phase) => self.phase = Some(phase),
            FileStep::TakeKey => self.key = self.next_key.expect("it is there until it is over"),
            FileStep::Take => self.root = self.next.expect("it is there until it is over"),
            FileStep::TakeIssuer => self.issuer = self.next.expect("it is there until it is over"),
            FileStep::Forget => self.phase = None,
            FileStep::RemoveNext => (self.next_key, self.next) = (None, None),
        }
    }

    /// The roots that a reader takes for the cluster's, each with its key.
    fn roots(&self) -> Vec<u8> {
        let next = || {
            assert_eq!(self.next, self.next_key, "the next root has its key beside it: {self:?}");
            self.next.expect("it is there")
        };
        let own = || {
            assert_eq!(self.root, self.key, "the root has its key beside it: {self:?}");
            self.root
        };
        match self.phase {
            None => vec![own()],
            Some(Phase::Overlap) => vec![own(), next()],
            Some(Phase::Finishing) => vec![next()],
        }
    }

    /// A start, which may be killed after so many steps; gives whether it was whole.
    fn starts(&mut self, killed_after: usize) -> bool {
        let steps = on_start(self.phase, self.next.is_some() || self.next_key.is_some());
        steps.iter().take(killed_after).for_each(|step| self.take(*step));
        killed_after >= steps.len()
    }
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Rotate,
    Finish,
}

proptest! {
    /// Rotations, each killed anywhere, and starts that are killed anywhere: at every instant there is a whole root to be
    /// read, no root is skipped, and the old one goes only when the next one is there.
    #[test]
    fn whoever_is_killed_at_any_step_goes_on(
        events in prop::collection::vec((prop_oneof![Just(Event::Rotate), Just(Event::Finish)], 0..8_usize, prop::collection::vec(0..8_usize, 0..3)), 1..20)
    ) {
        let mut files = Files::of(1);
        for (event, killed_after, starts) in events {
            let before = files.roots();
            let steps: &[FileStep] = match (event, files.phase) {
                (Event::Rotate, None) => &BEGIN,
                (Event::Finish, Some(Phase::Overlap)) => &FINISH,
                _ => continue,
            };
            for step in steps.iter().take(killed_after) {
                files.take(*step);
                let now = files.roots();
                prop_assert!(now.iter().any(|root| before.contains(root)), "{:?} after {:?}", now, before);
            }
            for killed_after in starts {
                files.starts(killed_after);
                files.roots();
            }
            prop_assert!(files.starts(usize::MAX));
            prop_assert!(files.phase != Some(Phase::Finishing));
            prop_assert_eq!(files.next.is_some(), files.phase.is_some());
            prop_assert_eq!(files.issuer, files.root, "agents' certificates are of the root that is there");
            let now = files.roots();
            let done = killed_after > 0 && matches!(event, Event::Finish);
            prop_assert_eq!(now[0] > before[0], done, "what was written down is done, and nothing else");
        }
    }

    /// It ends by itself only where nothing is lost by it, in its time, and comes to rest.
    #[test]
    fn it_ends_by_itself_only_where_nobody_is_lost(
        states in prop::collection::vec(0..4_u8, 0..6), carries in prop::collection::vec(any::<bool>(), 0..2), days in 0..30_u64
    ) {
        let state = |n: u8| match n {
            0 => Node::Moved,
            1 => Node::Told,
            2 => Node::Unable("x".into()),
            _ => Node::Away,
        };
        let nodes: Vec<(String, Node)> = states.iter().enumerate().map(|(n, of)| (format!("n{n}"), state(*of))).collect();
        let nodes: Vec<(&str, Node)> = nodes.iter().map(|(name, of)| (name.as_str(), of.clone())).collect();
        let observed = rotation(&nodes, &carries);
        let now = 10 * DAY + days * DAY;
        let plan = Rotations.plan(&BTreeSet::new(), &Some(observed.clone()), now);
        let is_safe = states.iter().all(|state| *state == 0) && carries.iter().all(|carries| *carries);
        prop_assert_eq!(plan.steps.len(), usize::from(is_safe && days >= 7));
        prop_assert_eq!(losses(&observed).is_empty(), is_safe);
        prop_assert!(!plan.steps.is_empty() || !plan.waits.is_empty(), "it says what it waits for");
        let whole = contract::foresee(&Rotations, &BTreeSet::new(), Some(observed), now);
        prop_assert!(whole.steps.len() <= 1);
    }
}
