use bramble_model::agent::swarm::{Member, Service};
use proptest::prelude::*;

use super::*;
use crate::contract::foresee;

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

/// A Swarm's world: declared and observed beside each other, as a test writes them.
#[derive(Debug, Clone)]
struct World {
    declared: Declared,
    observed: Observed,
}

fn world(memory: Memory) -> World {
    let observed =
        Observed { nodes: BTreeMap::new(), record: Record::new(memory), view: None, without: BTreeMap::new() };
    World { declared: Declared::default(), observed }
}

impl World {
    fn node(mut self, text: &str, part: EnginePart, engine: Option<EngineState>) -> Self {
        let address = engine.is_some().then(|| "10.0.0.1".to_owned());
        self.declared.nodes.insert(name(text), part);
        self.observed.nodes.insert(name(text), Node { engine, boots: false, address, unable: None });
        self
    }

    fn manager(self, text: &str, engine: Option<EngineState>) -> Self {
        self.node(text, EnginePart::Manager, engine)
    }

    fn worker(self, text: &str, engine: Option<EngineState>) -> Self {
        self.node(text, EnginePart::Worker, engine)
    }

    fn reads(mut self, through: &str, cluster: &str, members: Vec<Member>, services: Vec<Service>) -> Self {
        let listing = Listing { cluster: cluster.into(), members, services };
        self.observed.view = Some(View::Read { through: name(through), listing });
        self
    }

    fn workload(mut self, text: &str, generation: &str) -> Self {
        let workload = Workload::Ready { generation: generation.into(), file: "services: {}".into() };
        self.declared.workloads.insert(name(text), workload);
        self
    }

    fn plan(&self) -> Plan {
        Swarm.plan(&self.declared, &self.observed, 0)
    }

    /// As a person reads it.
    fn text(&self) -> String {
        told(&self.plan())
    }

    /// All the way to rest.
    fn whole(&self) -> String {
        told(&foresee(&Swarm, &self.declared, self.observed.clone(), 0))
    }
}

fn told(plan: &Plan) -> String {
    let steps = plan.steps.iter().map(|planned| {
        let told = planned.told();
        format!("{}: {} ({}; {})\n", told.subject, told.step, told.reason, told.risk)
    });
    let waits = plan.waits.iter().map(|wait| {
        let ends = match &wait.ends {
            Ends::At(at) => format!("until {at}"),
            Ends::ByItself => "by itself".into(),
            Ends::Person(act) => act.clone(),
        };
        format!("waits: {}: {} [{ends}]\n", wait.subject, wait.reason)
    });
    steps.chain(waits).collect()
}

const ALONE: Option<EngineState> = Some(EngineState::Alone);

fn in_swarm(cluster: &str, id: &str, manager: bool, reachable: bool) -> Option<EngineState> {
    Some(EngineState::Member { cluster: cluster.into(), node_id: id.into(), manager, reachable })
}

fn entry(id: &str, hostname: &str, up: bool) -> Member {
    Member { id: id.into(), hostname: hostname.into(), manager: false, up }
}

fn service(workload: Option<&str>, generation: &str) -> Service {
    Service {
        workload: workload.map(str::to_owned),
        generation: Some(generation.into()),
        name: "x".into(),
        wanted: 1,
        running: 1,
        ports: Vec::new(),
        replicas: Vec::new(),
    }
}

fn remembers(cluster: &str) -> Memory {
    Memory::Swarm { cluster: cluster.into() }
}

#[test]
fn a_new_cluster_from_the_first_manager_to_the_workload() {
    let world = world(Memory::Never).manager("m1", None).manager("m2", ALONE).worker("w1", ALONE).workload("web", "1");
    insta::assert_snapshot!(world.whole());
}

#[test]
fn who_may_begin_is_written_down_before_it_is_asked() {
    let world = world(Memory::Begun { node: name("m1") });
    let away = world.clone().manager("m1", None).manager("m2", ALONE);
    insta::assert_snapshot!("the_one_that_may_begin_is_away", away.text());
    let there = world.manager("m1", ALONE).manager("m2", ALONE);
    assert!(
        matches!(&there.plan().steps[..], [Planned { step: Step::Initialise { node, .. }, .. }] if node.as_str() == "m1")
    );
}

#[test]
fn a_swarm_that_was_is_waited_for_while_a_manager_is_away() {
    let waiting = world(remembers("old")).manager("m1", ALONE).manager("m2", None);
    insta::assert_snapshot!("a_manager_is_away", waiting.text());
    let whole = world(remembers("old"))
        .manager("m1", ALONE)
        .manager("m2", ALONE)
        .worker("w1", in_swarm("old", "w", false, true));
    insta::assert_snapshot!("every_manager_is_blank", whole.whole());
}

/// Fault 1 of the ground: a head that forgot let one blank manager start a Swarm while others remembered one.
#[test]
fn a_head_that_forgot_starts_nothing_while_a_manager_may_remember() {
    let one = world(Memory::Lost).manager("m1", ALONE).manager("m2", None).manager("m3", None);
    insta::assert_snapshot!("two_are_away", one.text());
    let adopts =
        world(Memory::Lost).manager("m1", ALONE).manager("m2", in_swarm("runs", "b", true, true)).manager("m3", None);
    assert!(
        matches!(&adopts.plan().steps[..], [Planned { step: Step::Remember { cluster }, .. }] if cluster == "runs")
    );
    let minority =
        world(Memory::Lost).manager("m1", ALONE).manager("m2", in_swarm("runs", "b", true, false)).manager("m3", ALONE);
    insta::assert_snapshot!("one_remembers_without_a_majority", minority.text());
    let blank = world(Memory::Lost).manager("m1", ALONE).manager("m2", ALONE).manager("m3", ALONE);
    assert!(matches!(&blank.plan().steps[..], [Planned { step: Step::Begin { .. }, .. }]), "{}", blank.text());
    let mut said = one;
    said.observed.record.without = Some(BTreeSet::from([name("m2"), name("m3")]));
    insta::assert_snapshot!("a_person_begins_without_two", said.text());
}

#[test]
fn two_swarms_are_for_a_person_to_choose_from() {
    let world =
        world(Memory::Lost).manager("m1", in_swarm("a", "1", true, true)).manager("m2", in_swarm("b", "2", true, true));
    insta::assert_snapshot!(world.text());
}

#[test]
fn nobody_is_made_to_leave_a_swarm_that_nobody_gave_up() {
    let mut world = world(remembers("s"))
        .manager("m1", in_swarm("s", "a", true, true))
        .worker("w1", in_swarm("theirs", "x", false, true))
        .reads("m1", "s", Vec::new(), Vec::new());
    insta::assert_snapshot!("it_waits_for_a_person", world.text());
    world.observed.record.give_up("theirs");
    insta::assert_snapshot!("it_was_given_up", world.text());
}

/// Fault 15 of the ground: the third of three managers had no majority, and its last view was shown as the present.
#[test]
fn a_swarm_without_a_leader_is_said_and_nobody_is_asked_to_join_it() {
    let mut world = world(remembers("s"))
        .manager("m1", in_swarm("s", "a", true, true))
        .manager("m2", ALONE)
        .manager("m3", ALONE)
        .workload("web", "1");
    world.observed.view =
        Some(View::Unreadable { through: name("m1"), reason: "The swarm does not have a leader.".into() });
    insta::assert_snapshot!(world.text());
}

#[test]
fn a_reinstalled_node_joins_again_and_its_old_entry_goes() {
    let members =
        vec![entry("a", "m1", true), entry("old", "w1", false), entry("new", "w1", true), entry("z", "gone", false)];
    let world = world(remembers("s"))
        .manager("m1", in_swarm("s", "a", true, true))
        .worker("w1", in_swarm("s", "new", false, true))
        .reads("m1", "s", members, Vec::new());
    insta::assert_snapshot!(world.text());
}

#[test]
fn a_node_that_is_only_off_keeps_its_entry() {
    let world = world(remembers("s")).manager("m1", in_swarm("s", "a", true, true)).worker("w1", None).reads(
        "m1",
        "s",
        vec![entry("w", "w1", false)],
        Vec::new(),
    );
    insta::assert_snapshot!(world.text());
}

#[test]
fn a_changed_workload_is_deployed_and_a_removed_one_goes_but_nothing_of_others() {
    let services =
        vec![service(Some("whoami"), "1"), service(Some("old"), "1"), service(None, "1"), service(Some("sick"), "1")];
    let mut world = world(remembers("s"))
        .manager("m1", in_swarm("s", "a", true, true))
        .reads("m1", "s", Vec::new(), services)
        .workload("whoami", "2");
    let sick = Workload::Sick { problem: "sick.yaml has no services".into() };
    world.declared.workloads.insert(name("sick"), sick);
    insta::assert_snapshot!(world.text());
}

/// Fault 7 of the ground.
#[test]
fn a_workload_named_like_a_node_is_another_subject() {
    let world = world(remembers("s"))
        .manager("m1", in_swarm("s", "a", true, true))
        .worker("web", ALONE)
        .workload("web", "1")
        .reads("m1", "s", Vec::new(), Vec::new());
    let subjects: BTreeSet<Subject> = world.plan().steps.into_iter().map(|step| step.subject).collect();
    assert_eq!(subjects.len(), 2, "one joins and the other is deployed: {subjects:?}");
}

#[test]
fn the_last_manager_is_not_made_a_worker() {
    let world = world(remembers("s"))
        .node("m1", EnginePart::Worker, in_swarm("s", "a", true, true))
        .manager("m2", None)
        .reads("m2", "s", Vec::new(), Vec::new());
    insta::assert_snapshot!(world.text());
}

#[test]
fn an_agent_that_cannot_is_waited_for_by_name() {
    let mut world = world(remembers("s")).manager("m1", in_swarm("s", "a", true, true)).worker("w1", ALONE).reads(
        "m1",
        "s",
        Vec::new(),
        Vec::new(),
    );
    world.observed.nodes.get_mut(&name("w1")).expect("there").unable = Some("an agent of bramble 0.0.9".into());
    insta::assert_snapshot!(world.text());
}

fn any_engine() -> impl Strategy<Value = Option<EngineState>> {
    prop_oneof![
        Just(None),
        Just(Some(EngineState::None)),
        Just(ALONE),
        Just(Some(EngineState::Starting { waiting_for: "Docker".into() })),
        ("[ab]", "[xyz]", any::<bool>(), any::<bool>())
            .prop_map(|(cluster, id, manager, reachable)| in_swarm(&cluster, &id, manager, reachable)),
    ]
}

fn any_memory() -> impl Strategy<Value = Memory> {
    prop_oneof![
        Just(Memory::Never),
        Just(Memory::Lost),
        "[a-e]".prop_map(|node| Memory::Begun { node: name(&node) }),
        "[ab]".prop_map(|cluster| Memory::Swarm { cluster }),
    ]
}

fn any_view() -> impl Strategy<Value = Option<View>> {
    let members = prop::collection::vec(("[xyz]", "[a-g]", any::<bool>()), 0..4);
    let services = prop::collection::vec((prop::option::of("[p-s]"), "[12]"), 0..4);
    let read = ("[a-e]", "[ab]", members, services).prop_map(|(through, cluster, members, services)| View::Read {
        through: name(&through),
        listing: Listing {
            cluster,
            members: members.iter().map(|(id, hostname, up)| entry(id, hostname, *up)).collect(),
            services: services.iter().map(|(workload, generation)| service(workload.as_deref(), generation)).collect(),
        },
    });
    let unreadable =
        "[a-e]".prop_map(|through| View::Unreadable { through: name(&through), reason: "no leader".into() });
    prop_oneof![Just(None), read.prop_map(Some), unreadable.prop_map(Some)]
}

fn any_world() -> impl Strategy<Value = World> {
    let part = prop_oneof![Just(EnginePart::Manager), Just(EnginePart::Worker), Just(EnginePart::None)];
    let nodes = prop::collection::btree_map("[a-e]", (part, any_engine(), any::<bool>()), 0..6);
    let workloads = prop::collection::btree_map("[p-r]", prop::option::of("[12]"), 0..3);
    let former = prop::collection::btree_set("[ab]", 0..2);
    let without = prop::option::of(prop::collection::btree_set("[a-e]", 0..3));
    (nodes, workloads, any_memory(), former, without, any_view()).prop_map(
        |(nodes, workloads, memory, former, without, view)| {
            let mut world = world(memory);
            for (text, (part, engine, unable)) in nodes {
                world = world.node(&text, part, engine);
                let unable = unable.then(|| "an old agent".to_owned());
                world.observed.nodes.get_mut(&name(&text)).expect("there").unable = unable;
            }
            for (text, generation) in workloads {
                let workload = match generation {
                    Some(generation) => Workload::Ready { generation, file: "f".into() },
                    None => Workload::Sick { problem: "torn".into() },
                };
                world.declared.workloads.insert(name(&text), workload);
            }
            world.observed.record.former = former;
            if let Some(cluster) = world.observed.record.cluster().map(str::to_owned) {
                world.observed.record.former.remove(&cluster);
            }
            world.observed.record.without = without.map(|names| names.iter().map(|text| name(text)).collect());
            world.observed.view = view;
            world
        },
    )
}

/// Whether a declared manager may hold a Swarm's state that nobody gave up.
fn may_hold(world: &World, manager: &Name) -> bool {
    match &world.observed.nodes[manager].engine {
        None | Some(EngineState::Starting { .. } | EngineState::None) => true,
        Some(EngineState::Alone) => false,
        Some(EngineState::Member { cluster, .. }) => !world.observed.record.former.contains(cluster),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn applied_plans_come_to_rest_and_then_change_nothing(world in any_world()) {
        let mut world = world;
        for _ in 0..24 {
            for planned in world.plan().steps {
                Swarm.foresee(&mut world.observed, &planned.step);
            }
        }
        prop_assert_eq!(world.plan().steps, vec![], "not at rest");
    }

    /// No Swarm is begun, and none is begun anew, while anyone may hold one: but where there has never been one, or
    /// where a person said so.
    #[test]
    fn no_swarm_is_started_beside_one_that_may_live(world in any_world()) {
        let managers: Vec<Name> = world.declared.nodes.iter().filter(|(_, part)| **part == EnginePart::Manager).map(|(name, _)| name.clone()).collect();
        for planned in world.plan().steps {
            match planned.step {
                Step::Begin { .. } => {
                    let without = world.observed.record.without.clone().unwrap_or_default();
                    let patient = world.observed.record.memory != Memory::Never;
                    for manager in managers.iter().filter(|name| !without.contains(*name)) {
                        let connected = world.observed.nodes[manager].engine.is_some();
                        prop_assert!(!(patient || connected && matches!(world.observed.nodes[manager].engine, Some(EngineState::Member { manager: true, .. }))) || !may_hold(&world, manager), "{manager} may hold one");
                    }
                }
                Step::Initialise { node, leaves, .. } => {
                    prop_assert_eq!(&world.observed.record.memory, &Memory::Begun { node: node.clone() }, "it was not written down");
                    prop_assert!(!may_hold(&world, &node));
                    if let Some(left) = leaves {
                        prop_assert!(world.observed.record.former.contains(&left));
                    }
                    for manager in &managers {
                        prop_assert!(!matches!(&world.observed.nodes[manager].engine, Some(EngineState::Member { manager: true, cluster, .. }) if !world.observed.record.former.contains(cluster)), "another holds one");
                    }
                }
                Step::Join { leaves: Some(left), .. } => prop_assert!(world.observed.record.former.contains(&left)),
                _ => {}
            }
        }
    }

    /// Nothing goes through a node that is not declared a manager, or concerns a node that is not declared.
    #[test]
    fn no_step_goes_through_a_node_that_is_not_declared_for_it(world in any_world()) {
        let is = |name: &Name, part| world.declared.nodes.get(name) == Some(&part);
        for planned in world.plan().steps {
            match &planned.step {
                Step::Begin { node } | Step::Initialise { node, .. } => prop_assert!(is(node, EnginePart::Manager)),
                Step::Join { node, through, part, .. } | Step::SetPart { node, through, part, .. } => {
                    prop_assert!(is(node, *part) && is(through, EnginePart::Manager));
                }
                Step::Forget { through, .. } | Step::Deploy { through, .. } | Step::Remove { through, .. } => {
                    prop_assert!(is(through, EnginePart::Manager));
                }
                Step::Remember { .. } => {}
            }
            if let Step::Initialise { node, leaves: Some(_), .. } | Step::Join { node, leaves: Some(_), .. } = &planned.step {
                prop_assert!(world.observed.nodes[node].unable.is_none(), "it cannot do that");
            }
        }
    }

    /// Where the Swarm could not be read, nothing is done to its members and workloads.
    #[test]
    fn from_a_swarm_that_cannot_be_read_nothing_is_planned(world in any_world()) {
        let mut world = world;
        world.observed.view = Some(View::Unreadable { through: name("a"), reason: "it hangs".into() });
        for planned in world.plan().steps {
            prop_assert!(matches!(planned.step, Step::Begin { .. } | Step::Initialise { .. } | Step::Remember { .. }), "{}", planned.step);
        }
    }

    /// Whoever is declared and not where it should be has a wait, a step, or is waited for through the whole Swarm;
    /// and every wait says something and who or what ends it.
    #[test]
    fn every_wait_has_a_reason_and_nothing_is_silent(world in any_world()) {
        let plan = world.plan();
        for wait in &plan.waits {
            prop_assert!(!wait.reason.is_empty());
            if let Ends::Person(act) = &wait.ends {
                prop_assert!(!act.is_empty());
            }
        }
        let anyone = world.declared.nodes.values().any(|part| *part != EnginePart::None);
        let wanted = |(name, part): (&Name, &EnginePart)| *part != EnginePart::None
            && !matches!(&world.observed.nodes[name].engine, Some(EngineState::Member { cluster, .. }) if Some(cluster.as_str()) == world.observed.record.cluster());
        if anyone && world.declared.nodes.iter().any(wanted) {
            prop_assert!(!plan.steps.is_empty() || !plan.waits.is_empty(), "silence");
        }
    }
}
