//! A node that says anything: what it may bring about, and what it may not.

use proptest::prelude::*;

use super::properties::{any_engine, any_view, any_world};
use super::*;
use crate::engine::trust::{Errand, Suspicious, no_word_counts_for_more_than_the_declared_part};

/// All that a node can say.
#[derive(Debug, Clone)]
pub(crate) struct Word {
    node: Node,
    /// What its machine calls itself: any manager lists its own members so.
    called: Option<String>,
    /// What it answers where it is asked of the Swarm.
    view: Option<Listing>,
}

impl Suspicious for Swarm {
    type Word = Word;

    fn part(declared: &Declared, node: &Name) -> EnginePart {
        declared.nodes.get(node).copied().unwrap_or(EnginePart::None)
    }

    fn made(observed: &Observed, node: &Name) -> bool {
        let begun = matches!(&observed.record.memory, Memory::Begun { node: told } if told == node);
        observed.record.managers.contains(node) || begun
    }

    fn says(observed: &Observed, node: &Name) -> Option<(String, bool)> {
        let Some(EngineState::Member { cluster, node_id, .. }) = &observed.nodes.get(node)?.engine else { return None };
        let is_of = Some(cluster) == observed.record.cluster();
        let is_it = |member: &Member| member.id == *node_id && member.manager;
        let listed = |view: &View| matches!(view, View::Read { listing, .. } if listing.members.iter().any(is_it));
        is_of.then(|| (node_id.to_string(), observed.view.as_ref().is_some_and(listed)))
    }

    fn is_listed(observed: &Observed, node: &Name) -> bool {
        let is_it = |member: &Member| member.manager && machine(&member.id) == node.as_str();
        matches!(&observed.view, Some(View::Read { listing, .. }) if listing.members.iter().any(is_it))
    }

    fn by_its_own_name(declared: &Declared, observed: &Observed, word: &Word) -> Option<Word> {
        let covers = |name: &Name| {
            let engine = observed.nodes.get(name).and_then(|node| node.engine.as_ref());
            let is_silent = matches!(engine, None | Some(EngineState::None | EngineState::Starting { .. }));
            is_silent && word.called.as_deref() == Some(name.as_str())
        };
        (!Self::managers(declared).iter().any(covers)).then(|| Word { called: None, ..word.clone() })
    }

    fn managers(declared: &Declared) -> Vec<Name> {
        let managers = declared.nodes.iter().filter(|(_, part)| **part == EnginePart::Manager);
        managers.map(|(name, _)| name.clone()).collect()
    }

    fn has_forgotten(observed: &Observed) -> bool {
        matches!(observed.record.memory, Memory::Lost | Memory::Swarm { .. }) && observed.record.managers.is_empty()
    }

    /// As the head's loop does: whoever is to be asked, and nobody else, is asked.
    fn hears(declared: &Declared, observed: &mut Observed, node: &Name, word: &Word) {
        observed.nodes.insert(node.clone(), word.node.clone());
        let engine_of = |name: &Name| observed.nodes.get(name)?.engine.clone();
        let asked = to_ask(declared, &observed.record, engine_of);
        let through = |view: &View| match view {
            View::Read { through, .. } | View::Unreadable { through, .. } => through.clone(),
        };
        if asked.contains(node) {
            observed.view = word.view.clone().map(|listing| View::Read { through: node.clone(), listing });
        } else if observed.view.as_ref().is_some_and(|view| !asked.contains(&through(view))) {
            observed.view = None;
        }
        if let (Some(called), Some(View::Read { listing, .. })) = (&word.called, &mut observed.view) {
            let own = listing.members.iter_mut().filter(|member| machine(&member.id) == node.as_str());
            own.for_each(|member| member.hostname = called.as_str().into());
        }
    }

    fn errands(planned: &Planned<Step, Seen>) -> Vec<Errand> {
        match &planned.step {
            Step::Begin { node } | Step::Initialise { node, .. } => {
                vec![Errand::Becomes(node.to_string(), EnginePart::Manager)]
            }
            Step::Remember { cluster, managers } => {
                let Seen::Record(record) = &planned.seen else { panic!("it is seen to be due by the record") };
                let written = managers.difference(&record.managers).cloned().map(Errand::WritesDown);
                let taken = record.managers.difference(managers).cloned().map(Errand::TakesOff);
                // Whoever held another Swarm is none of this one; and a person may begin without anyone.
                let is_the_same = record.cluster() == Some(cluster) && record.without.is_none();
                written.chain(taken.filter(|_| is_the_same)).collect()
            }
            Step::Pin { through } => vec![Errand::HandsOver(through.clone())],
            Step::Join { node, through, part: part @ EnginePart::Manager, .. } => {
                vec![Errand::HandsOver(through.clone()), Errand::Becomes(node.to_string(), *part)]
            }
            Step::Join { node, through, part, .. } => {
                vec![Errand::Through(through.clone()), Errand::Becomes(node.to_string(), *part)]
            }
            Step::SetPart { hostname, through, part: part @ EnginePart::Manager, .. } => {
                vec![Errand::HandsOver(through.clone()), Errand::Becomes(hostname.clone(), *part)]
            }
            Step::SetPart { node_id, through, .. } => {
                let ends = Errand::Ends { member: node_id.to_string(), of: machine(node_id).to_owned() };
                vec![Errand::Through(through.clone()), ends]
            }
            Step::Forget { through, node_id, .. } => {
                vec![Errand::Through(through.clone()), Errand::Loses(machine(node_id).to_owned())]
            }
            Step::Deploy { through, .. } | Step::Remove { through, .. } | Step::Rotate { through, .. } => {
                vec![Errand::Through(through.clone())]
            }
        }
    }
}

/// Whose a member is, whatever it calls itself: in these worlds, its id tells.
fn machine(id: &MemberId) -> &str {
    id.as_str().rsplit_once('-').map_or("", |(_, machine)| machine)
}

fn any_word() -> impl Strategy<Value = Word> {
    let said = prop_oneof![
        1 => any_engine(),
        // Of any Swarm, and any member of it, also another node's.
        3 => ("[ab]", "[xyz]-[a-g]", any::<bool>(), any::<bool>())
            .prop_map(|(cluster, id, manager, reachable)| in_swarm(&cluster, &id, manager, reachable)),
    ];
    let listing = |view| if let Some(View::Read { listing, .. }) = view { Some(listing) } else { None };
    let called = prop::option::of("[a-g]|");
    (said, called, prop::option::of(".{0,12}"), any::<[bool; 3]>(), any_view().prop_map(listing)).prop_map(
        |(engine, called, address, [unable, rotates_not, refuses], view)| {
            let agent = |can_not: bool| can_not.then(|| "an agent of bramble 0".to_owned());
            let refuses = refuses.then_some(Refuses { life: 1, obeys: 2 });
            let (unable, rotates_not) = (agent(unable), agent(rotates_not));
            Word { node: Node { engine, boots: false, address, unable, rotates_not, refuses }, called, view }
        },
    )
}

/// A Swarm whose members are in their places, old managers among them: most of what an old one can do needs one that lives.
fn any_swarm() -> impl Strategy<Value = World> {
    let is_manager = || (any::<bool>(), any::<bool>(), any::<bool>());
    let others = prop::collection::btree_map("[b-e]", (is_manager(), prop::option::of("[xyz]")), 1..5);
    (others, any::<bool>()).prop_map(|(others, is_out)| {
        let mut swarm = world(remembers("b")).manager("a", in_swarm("b", "x-a", true, true));
        let mut members = vec![manager("x-a", "a")];
        let mut made = BTreeSet::from([name("a")]);
        for (text, ((declared, listed, is_written), says)) in others {
            let part = if declared { EnginePart::Manager } else { EnginePart::Worker };
            let engine = says.and_then(|says| in_swarm("b", &format!("{says}-{text}"), listed, true));
            swarm = swarm.node(&text, part, engine);
            members.push(Member { manager: listed, ..entry(&format!("x-{text}"), &text, true) });
            made.extend((declared || listed && is_written).then(|| name(&text)));
        }
        swarm = swarm.reads("a", "b", members, Vec::new());
        swarm.observed.record.managers = made;
        swarm.observed.record.token = if is_out { ManagerToken::Out } else { ManagerToken::Kept };
        swarm
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// Over all facts that a hostile node can utter, no step runs through it that its declared part does not allow.
    #[test]
    fn no_step_runs_through_a_node_that_its_declared_part_does_not_allow(
        world in prop_oneof![any_world(), any_swarm()],
        suspect in "[a-e]",
        words in prop::collection::vec(any_word(), 2..6),
    ) {
        let (suspect, World { mut declared, mut observed }) = (name(&suspect), world);
        declared.nodes.entry(suspect.clone()).or_insert(EnginePart::Worker);
        observed.nodes.entry(suspect.clone()).or_default();
        no_word_counts_for_more_than_the_declared_part(&Swarm, &declared, &observed, &suspect, &words)?;
    }
}

pub(super) fn manager(node_id: &str, hostname: &str) -> Member {
    Member { manager: true, ..entry(node_id, hostname, true) }
}

/// `m1` holds the Swarm and is asked of it; `w1` is a worker of it, and `w2` is to join.
pub(super) fn cluster() -> World {
    let mut world = world(remembers("s"))
        .manager("m1", in_swarm("s", "a", true, true))
        .worker("w1", in_swarm("s", "w", false, true))
        .worker("w2", ALONE)
        .reads("m1", "s", vec![manager("a", "m1"), entry("w", "w1", true)], Vec::new());
    world.observed.record.managers = BTreeSet::from([name("m1")]);
    world
}

impl World {
    fn says(mut self, text: &str, engine: Option<EngineState>) -> Self {
        self.observed.nodes.get_mut(&name(text)).expect("there").engine = engine;
        self
    }

    fn asked(&self) -> Vec<Name> {
        let engine_of = |name: &Name| self.observed.nodes.get(name)?.engine.clone();
        to_ask(&self.declared, &self.observed.record, engine_of)
    }
}

pub(super) fn changes(world: &World) -> Vec<String> {
    world.plan().steps.iter().map(|planned| format!("{}: {}", planned.subject, planned.step)).collect()
}

/// One compromised worker said "I am a manager", and got the cluster through the head: it was asked for what the Swarm is,
/// and for the tokens of others.
#[test]
fn a_worker_that_says_it_is_a_manager_is_asked_nothing() {
    let lies = cluster().says("w1", in_swarm("s", "w", true, true));
    assert_eq!(lies.asked(), [name("m1")]);
    let alone = lies.clone().says("m1", None);
    assert_eq!(alone.asked(), [], "not even while no manager is here");
    let mut speaks = alone;
    let Some(View::Read { through, .. }) = &mut speaks.observed.view else { panic!("there is a view") };
    *through = name("w1");
    assert_eq!(changes(&speaks), [""; 0], "what it says of the Swarm is not heard");
}

/// A record that was brought back from a backup does not name the managers: then anyone was one by its own word.
#[test]
fn a_worker_is_no_manager_by_its_own_word_where_the_head_has_forgotten_who_is() {
    let mut lies = cluster().says("w1", in_swarm("s", "w", true, true)).says("m1", None);
    lies.observed.record.managers.clear();
    assert_eq!(lies.asked(), []);
    assert_eq!(lies.says("m1", in_swarm("s", "a", true, true)).asked(), [name("m1")]);
}

/// It had been a manager of a Swarm that a person gave up, and then anything that it said was the cluster's Swarm.
#[test]
fn whoever_was_a_manager_of_a_swarm_that_was_given_up_makes_no_other_the_clusters() {
    let mut world = world(remembers("s")).manager("m1", ALONE).worker("w1", in_swarm("evil", "w", true, true));
    world.observed.record.managers = BTreeSet::from([name("m1"), name("w1")]);
    world.observed.record.give_up(&id("s"));
    assert_eq!(changes(&world), [""; 0]);
}

/// It said that it is a member that is a manager, and the repository has it as a worker: so the head had that one demoted.
#[test]
fn a_worker_that_says_another_members_id_demotes_nobody() {
    let lies = cluster()
        .manager("m2", in_swarm("s", "b", true, true))
        .says("w1", in_swarm("s", "b", true, true))
        .reads("m1", "s", vec![manager("a", "m1"), manager("b", "m2"), entry("w", "w1", true)], Vec::new());
    assert!(!changes(&lies).iter().any(|step| step.contains("becomes")), "{:?}", changes(&lies));
    insta::assert_snapshot!("it_says_another_members_id", lies.text());
    // One that has just joined has no name yet: that ends by itself.
    let new = cluster().manager("m2", in_swarm("s", "b", false, true));
    let mut new = new.reads("m1", "s", vec![manager("a", "m1"), entry("b", "", true)], Vec::new());
    new.observed.nodes.remove(&name("w2"));
    new.declared.nodes.remove(&name("w2"));
    assert_eq!(new.text(), "waits: m2: the Swarm does not know its name yet [by itself]\n");
}

/// An id that nobody has made its own entry look like an old one; another's never was its to lose.
#[test]
fn a_node_that_says_another_id_has_no_entry_removed() {
    let members = || vec![manager("a", "m1"), entry("w", "w1", false), entry("y", "w2", false)];
    for said in ["nobodys", "y", "a"] {
        let lies = cluster().says("w1", in_swarm("s", said, false, true)).says("w2", None);
        let lies = lies.reads("m1", "s", members(), Vec::new());
        assert_eq!(changes(&lies), [""; 0], "{said}");
    }
}

/// It keeps the manager's place that it had by playing dead, or by saying that it is a worker already.
#[test]
fn an_old_manager_goes_whatever_it_says_of_itself() {
    let words = [None, ALONE, in_swarm("s", "w", false, true), in_swarm("s", "nobodys", true, true)];
    let members = || vec![manager("a", "m1"), manager("w", "w1"), manager("c", "m3")];
    for said in words {
        let old = cluster().manager("m3", in_swarm("s", "c", true, true)).says("w1", said.clone());
        let old = old.reads("m1", "s", members(), Vec::new());
        assert!(changes(&old).contains(&"w1: becomes a worker of the Swarm".to_owned()), "{said:?}: {}", old.text());
    }
    // Also one that has left the repository, and so is not heard at all.
    let mut gone = cluster().manager("m3", in_swarm("s", "c", true, true)).reads("m1", "s", members(), Vec::new());
    gone.declared.nodes.remove(&name("w1"));
    gone.observed.nodes.remove(&name("w1"));
    insta::assert_snapshot!("an_old_manager_has_left_the_repository", gone.text());
}

/// The first view that came was taken, and whoever answers first is whoever wants to.
#[test]
fn an_old_manager_is_not_asked_beside_one_of_todays() {
    let mut world = cluster().says("w1", in_swarm("s", "w", true, true));
    world.observed.record.managers.insert(name("w1"));
    assert_eq!(world.asked(), [name("m1")]);
    // Without a majority, either may be the one that has it soon.
    let silent = world.clone().says("m1", in_swarm("s", "a", true, false));
    assert_eq!(silent.asked(), [name("w1")]);
    assert_eq!(silent.says("w1", in_swarm("s", "w", true, false)).asked(), [name("m1"), name("w1")]);
}

/// Whoever hands over says what the Swarm is: it makes nobody else a manager in the head's record, drops none from it, and
/// gets neither workers nor workloads.
#[test]
fn an_old_manager_hands_over_and_nothing_else_goes_through_it() {
    let mut world = world(remembers("s"))
        .worker("w1", in_swarm("s", "w", true, true))
        .worker("w2", ALONE)
        .worker("w3", in_swarm("s", "x", true, true))
        .manager("m1", ALONE)
        .manager("m2", in_swarm("s", "b", false, true))
        .workload("web", "1")
        .reads(
            "w1",
            "s",
            vec![manager("w", "w1"), manager("x", "w3"), entry("b", "m2", true), entry("z", "gone", false)],
            Vec::new(),
        );
    world.observed.record.managers = ["m1", "m2", "w1", "w3"].map(name).into();
    insta::assert_snapshot!("an_old_manager_hands_over", world.text());
}

#[test]
fn nobody_joins_before_the_ca_of_the_swarm_is_pinned() {
    let mut world = cluster();
    world.observed.record.ca = None;
    insta::assert_snapshot!("the_ca_is_pinned_first", world.whole());
}

/// Whoever has joined with it, or has been a manager, knows it: and it made anyone a manager, for ever.
#[test]
fn the_token_of_managers_is_rotated_when_others_may_know_it() {
    let mut world = cluster().says("w2", in_swarm("s", "y", false, true));
    assert_eq!(changes(&world), [""; 0]);
    world.observed.record.token = ManagerToken::Out;
    assert_eq!(changes(&world), ["the Swarm: the token with which managers join is rotated through m1"]);
    // Not while someone is a manager still who shall be none.
    let old = world.clone().says("w1", in_swarm("s", "w", true, true));
    let old = old.manager("m3", in_swarm("s", "c", true, true));
    let old = old.reads("m1", "s", vec![manager("a", "m1"), manager("w", "w1"), manager("c", "m3")], Vec::new());
    assert_eq!(changes(&old), ["w1: becomes a worker of the Swarm"]);
    let told = foresee(&Swarm, &old.declared, old.observed, 0);
    assert!(told.steps.last().is_some_and(|last| matches!(last.step, Step::Rotate { .. })), "{told:?}");
    // By another manager, where the one that is asked is of the release before.
    let mut before = world;
    before.observed.nodes.get_mut(&name("m1")).expect("there").rotates_not = Some("an agent of bramble 0".into());
    insta::assert_snapshot!("nobody_can_rotate_the_token", before.text());
    let other = before.manager("m3", in_swarm("s", "c", true, true));
    let mut other = other.reads("m1", "s", vec![manager("a", "m1"), manager("c", "m3")], Vec::new());
    other.observed.record.token = ManagerToken::Out;
    assert_eq!(changes(&other), ["the Swarm: the token with which managers join is rotated through m3"]);
}

/// What is handed out is what the record says, at that moment.
#[test]
fn a_token_is_given_for_the_declared_part_of_this_swarm_and_of_its_ca_alone() {
    let mut record = cluster().observed.record;
    let (m1, w1, swarm, ca) = (name("m1"), name("w1"), id("s"), Digest([0xca; 32]));
    let gives = |record: &Record, node, part, ca| record.gives_token(node, part, &swarm, &m1, ca);
    assert_eq!(gives(&record, &w1, EnginePart::Worker, ca), Ok(()));
    assert_eq!(
        gives(&record, &m1, EnginePart::Manager, ca),
        Err(NoToken::Changed),
        "nobody wrote down that it goes out"
    );
    record.token = ManagerToken::Out;
    assert_eq!(gives(&record, &m1, EnginePart::Manager, ca), Ok(()));
    assert_eq!(gives(&record, &w1, EnginePart::Manager, ca), Err(NoToken::Changed), "nobody wrote it down as one");
    let refused = gives(&record, &w1, EnginePart::Worker, Digest([0xee; 32])).expect_err("another CA");
    insta::assert_snapshot!("a_token_of_another_ca", refused);
    assert_eq!(record.gives_token(&w1, EnginePart::Worker, &id("other"), &m1, ca), Err(NoToken::Changed));
    assert!(record.trust(Digest([0xee; 32])), "a person has rotated the CA");
    assert_eq!(gives(&record, &w1, EnginePart::Worker, Digest([0xee; 32])), Ok(()));
    assert!(gives(&record, &w1, EnginePart::Worker, ca).is_err());
    assert!(!Record::new(Memory::Lost).trust(ca), "there is none");
    record.remember(&id("other"), BTreeSet::from([m1.clone()]));
    assert_eq!((record.ca, record.token), (None, ManagerToken::Out), "another Swarm has another CA");
    record.is_from_before();
    assert_eq!(record.token, ManagerToken::Out, "what was given since is not in a backup");
}
