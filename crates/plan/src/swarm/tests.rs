mod fleet;
mod names;
mod properties;
mod suspects;

use std::str::FromStr;

use bramble_model::agent::swarm::{Member, Service};
use bramble_model::names::NotAName;

use super::*;
use crate::contract::foresee;

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn id<T: FromStr<Err = NotAName>>(text: &str) -> T {
    text.parse().expect("an id")
}

/// A Swarm's world: declared and observed beside each other, as a test writes them.
#[derive(Debug, Clone)]
struct World {
    declared: Declared,
    observed: Observed,
}

fn world(memory: Memory) -> World {
    let observed = Observed {
        nodes: BTreeMap::new(),
        record: Record::new(memory),
        view: None,
        without: BTreeMap::new(),
        in_vain: BTreeSet::new(),
    };
    World { declared: Declared::default(), observed }
}

impl World {
    fn node(mut self, text: &str, part: EnginePart, engine: Option<EngineState>) -> Self {
        let address = engine.is_some().then(|| "10.0.0.1".to_owned());
        self.declared.nodes.insert(name(text), part);
        self.observed
            .nodes
            .insert(name(text), Node { engine, boots: false, address, unable: None, rotates_not: None, refuses: None });
        self
    }

    fn manager(self, text: &str, engine: Option<EngineState>) -> Self {
        self.node(text, EnginePart::Manager, engine)
    }

    fn worker(self, text: &str, engine: Option<EngineState>) -> Self {
        self.node(text, EnginePart::Worker, engine)
    }

    fn reads(mut self, through: &str, cluster: &str, members: Vec<Member>, services: Vec<Service>) -> Self {
        let listing = Listing { cluster: id(cluster), members, services };
        let look = Look { declared: &self.declared, observed: &self.observed };
        self.observed.record.managers = look.managers_of(&name(through), &listing);
        self.observed.record.ca = Some(Digest([0xca; 32]));
        self.observed.view = Some(View::Read { through: name(through), listing });
        self
    }

    fn workload(self, text: &str, generation: &str) -> Self {
        self.runs(text, generation, &["x"])
    }

    /// A workload of these services.
    fn runs(mut self, text: &str, generation: &str, services: &[&str]) -> Self {
        let services = services.iter().map(|&service| service.to_owned()).collect();
        let workload = Workload::Ready { generation: id(generation), file: "services: {}".into(), services };
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

fn in_swarm(cluster: &str, node_id: &str, manager: bool, reachable: bool) -> Option<EngineState> {
    Some(EngineState::Member { cluster: id(cluster), node_id: id(node_id), manager, reachable })
}

fn entry(node_id: &str, hostname: &str, up: bool) -> Member {
    Member { id: id(node_id), hostname: hostname.into(), manager: false, up }
}

/// A workload's service `x`.
fn service(workload: Option<&str>, generation: &str) -> Service {
    service_of(workload, "x", generation)
}

fn service_of(workload: Option<&str>, service: &str, generation: &str) -> Service {
    Service {
        workload: workload.map(Into::into),
        generation: Some(Label::from(generation.to_owned())),
        name: workload.map_or_else(|| service.to_owned(), |workload| format!("{workload}_{service}")).into(),
        wanted: 1,
        running: 1,
        ports: Vec::new(),
        replicas: Vec::new(),
    }
}

fn remembers(cluster: &str) -> Memory {
    Memory::Swarm { cluster: id(cluster) }
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
        matches!(&adopts.plan().steps[..], [Planned { step: Step::Remember { cluster, .. }, .. }] if cluster.as_str() == "runs")
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
    world.observed.record.give_up(&id("theirs"));
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

/// It was waited for a majority that cannot come, and nobody was named.
#[test]
fn a_manager_that_is_a_worker_of_another_swarm_now_is_none_of_a_majority() {
    let mut world = world(Memory::Never)
        .manager("m1", in_swarm("s", "a", true, false))
        .worker("w1", in_swarm("theirs", "b", false, true));
    world.observed.record.managers.insert(name("w1"));
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

/// No head wrote it, so it is of another content than the file's, and the rest of the listing counts.
#[test]
fn a_workload_whose_label_a_person_wrote_is_deployed_again() {
    let world = world(remembers("s"))
        .manager("m1", in_swarm("s", "a", true, true))
        .workload("web", "1")
        .workload("whoami", "1")
        .reads("m1", "s", Vec::new(), vec![service(Some("web"), "v2, by hand"), service(Some("whoami"), "1")]);
    let [Planned { step: Step::Deploy { workload, .. }, seen, reason, .. }] = &world.plan().steps[..] else {
        panic!("{}", world.text())
    };
    assert_eq!((workload.as_str(), reason.as_str()), ("web", "its file has changed"));
    let label = Label::Other("v2, by hand".into());
    assert_eq!(*seen, Seen::Generation { generation: Some(label), several: false });
}

/// Docker makes one service after the other: what ended after the first one has the label of the whole.
#[test]
fn a_workload_that_was_deployed_in_part_is_deployed_again() {
    let of = |services: &[(&str, &str)]| -> Vec<Service> {
        services.iter().map(|(service, generation)| service_of(Some("shop"), service, generation)).collect()
    };
    let world = |services: &[(&str, &str)]| {
        world(remembers("s"))
            .manager("m1", in_swarm("s", "a", true, true))
            .runs("shop", "2", &["api", "db", "web"])
            .reads("m1", "s", Vec::new(), of(services))
    };
    insta::assert_snapshot!("one_of_three_services", world(&[("db", "2")]).text());
    insta::assert_snapshot!("one_is_of_before", world(&[("api", "2"), ("db", "2"), ("web", "1")]).text());
    insta::assert_snapshot!(
        "one_has_left_the_file",
        world(&[("api", "2"), ("db", "2"), ("web", "2"), ("mail", "1")]).text()
    );
    let whole = [("api", "2"), ("db", "2"), ("web", "2")];
    assert_eq!(world(&whole).text(), "");
    let shop = &world(&[]).declared.workloads[&name("shop")];
    assert!(shop.is_deployed(&name("shop"), &of(&whole)));
    assert!(!shop.is_deployed(&name("shop"), &of(&whole[..2])), "what is shown as the repository's is all of it");
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

/// `na` holds the Swarm, and `nb` is in it: in the repository, these are their parts now, and `nc` is one more.
fn after_an_apply(na: EnginePart, nb: EnginePart, nc: Option<EngineState>) -> World {
    let mut world = world(remembers("s"))
        .node("na", na, in_swarm("s", "a", true, true))
        .node("nb", nb, in_swarm("s", "b", false, true))
        .manager("nc", nc)
        .reads("na", "s", vec![Member { manager: true, ..entry("a", "na", true) }, entry("b", "nb", true)], Vec::new());
    world.observed.record.managers = BTreeSet::from([name("na")]);
    world
}

#[test]
fn a_new_manager_joins_through_the_one_that_it_replaces() {
    let world = after_an_apply(EnginePart::Worker, EnginePart::Worker, ALONE);
    insta::assert_snapshot!("the_manager_is_replaced", world.whole());
}

#[test]
fn the_last_manager_is_not_made_a_worker() {
    let mut world = after_an_apply(EnginePart::Worker, EnginePart::Worker, None);
    insta::assert_snapshot!("the_new_manager_is_off", world.whole());
    world.observed.nodes.get_mut(&name("nc")).expect("there").boots = true;
    insta::assert_snapshot!("the_new_manager_boots", world.whole());
    let mut nobody = after_an_apply(EnginePart::Worker, EnginePart::Worker, None);
    nobody.declared.nodes.remove(&name("nc"));
    insta::assert_snapshot!("nobody_is_to_be_a_manager", nobody.whole());
}

#[test]
fn manager_and_worker_swap_their_parts() {
    let mut world = after_an_apply(EnginePart::Worker, EnginePart::Manager, ALONE);
    world.declared.nodes.insert(name("nc"), EnginePart::Worker);
    insta::assert_snapshot!("parts_are_swapped", world.whole());
}

#[test]
fn who_was_a_manager_is_waited_for_whatever_it_is_now() {
    let mut world = after_an_apply(EnginePart::Worker, EnginePart::Worker, ALONE);
    world.observed.view = None;
    world.observed.nodes.get_mut(&name("na")).expect("there").engine = None;
    insta::assert_snapshot!("the_old_manager_is_off", world.text());
    world.declared.nodes.remove(&name("na"));
    world.observed.nodes.remove(&name("na"));
    insta::assert_snapshot!("the_old_manager_left_the_repository", world.text());
    world.observed.record.without = Some(BTreeSet::from([name("na")]));
    insta::assert_snapshot!("a_person_begins_without_the_old_manager", world.text());
    let mut world = after_an_apply(EnginePart::None, EnginePart::Worker, ALONE);
    world.observed.view = None;
    world.observed.nodes.get_mut(&name("na")).expect("there").engine = Some(EngineState::None);
    insta::assert_snapshot!("the_old_manager_has_no_part", world.text());
}

/// Where nobody wrote down who was a manager, it may be anyone; and a node does not make its own Swarm the cluster's.
#[test]
fn a_worker_that_holds_a_swarm_is_no_manager_and_is_not_passed_over() {
    let world = world(Memory::Lost).manager("nc", ALONE).worker("na", in_swarm("s", "a", true, true));
    insta::assert_snapshot!("a_worker_holds_one", world.text());
    let away = world.clone().worker("na", None);
    insta::assert_snapshot!("a_worker_is_off", away.text());
    let mut remembered = world;
    remembered.observed.record = Record::new(remembers("s"));
    remembered.observed.record.managers = BTreeSet::from([name("nc")]);
    let engine_of = |name: &Name| remembered.observed.nodes[name].engine.clone();
    assert_eq!(to_ask(&remembered.declared, &remembered.observed.record, engine_of), []);
    remembered.observed.record.managers.insert(name("na"));
    assert_eq!(to_ask(&remembered.declared, &remembered.observed.record, engine_of), [name("na")]);
}

#[test]
fn an_old_manager_stays_while_the_rest_would_be_no_majority() {
    let manager = |id, hostname, up| Member { manager: true, ..entry(id, hostname, up) };
    let world = world(remembers("s"))
        .worker("na", in_swarm("s", "a", true, true))
        .manager("nb", in_swarm("s", "b", true, true))
        .manager("nc", None)
        .reads(
            "nb",
            "s",
            vec![manager("a", "na", true), manager("b", "nb", true), manager("c", "nc", false)],
            Vec::new(),
        );
    insta::assert_snapshot!("it_stays", world.text());
}

#[test]
fn a_node_that_its_swarm_has_forgotten_is_named() {
    let world = world(remembers("s"))
        .manager("na", in_swarm("s", "a", true, true))
        .worker("nb", in_swarm("s", "b", false, false))
        .reads("na", "s", vec![Member { manager: true, ..entry("a", "na", true) }], Vec::new());
    insta::assert_snapshot!("it_was_forgotten", world.text());
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

/// It waited by itself for ever, and what was asked of it was refused again and again.
#[test]
fn a_node_that_refuses_this_heads_lead_waits_for_a_person_and_is_asked_nothing() {
    let refuses = |mut world: World, text: &str| {
        let refuses = Some(bramble_model::agent::Refuses { life: 100, obeys: 200 });
        world.observed.nodes.get_mut(&name(text)).expect("there").refuses = refuses;
        world
    };
    let starting = || Some(EngineState::Starting { waiting_for: "the head to say what this node does".into() });
    let running = world(remembers("s"))
        .manager("m1", in_swarm("s", "a", true, true))
        .worker("w1", starting())
        .worker("w2", ALONE)
        .workload("web", "1")
        .reads("m1", "s", vec![Member { manager: true, ..entry("a", "m1", true) }], Vec::new());
    insta::assert_snapshot!("workers_refuse_the_lead", refuses(refuses(running.clone(), "w1"), "w2").text());
    insta::assert_snapshot!("the_manager_refuses_the_lead", refuses(running, "m1").text());
    let blank = world(Memory::Never).manager("m1", ALONE).worker("w1", ALONE);
    insta::assert_snapshot!("the_first_manager_refuses_the_lead", refuses(blank, "m1").text());
}
