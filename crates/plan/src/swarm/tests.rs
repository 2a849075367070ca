use bramble_model::agent::{Member, Service};
use proptest::prelude::*;

use super::*;

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn node(part: EnginePart, engine: Option<EngineState>) -> Node {
    let address = engine.is_some().then(|| "10.0.0.1".to_owned());
    Node { part, engine, address }
}

fn member(cluster: &str, id: &str, manager: bool) -> EngineState {
    EngineState::Member { cluster: cluster.into(), node_id: id.into(), manager, reachable: true }
}

fn facts(nodes: impl IntoIterator<Item = (&'static str, Node)>) -> Facts {
    Facts { nodes: nodes.into_iter().map(|(text, node)| (name(text), node)).collect(), ..Facts::default() }
}

#[test]
fn the_first_manager_to_be_ready_starts_the_swarm() {
    let facts = facts([
        ("m1", node(EnginePart::Manager, None)),
        ("m2", node(EnginePart::Manager, Some(EngineState::Alone))),
        ("w1", node(EnginePart::Worker, Some(EngineState::Alone))),
    ]);
    let steps = plan(&facts).steps;
    assert!(matches!(&steps[..], [Step::Initialise { node, .. }] if node.as_str() == "m2"), "{steps:?}");
}

#[test]
fn a_swarm_that_was_is_waited_for_while_a_manager_is_away() {
    let mut facts =
        facts([("m1", node(EnginePart::Manager, Some(EngineState::Alone))), ("m2", node(EnginePart::Manager, None))]);
    facts.remembered = Some("old".into());
    let waiting = plan(&facts);
    assert_eq!(waiting.steps, []);
    assert!(waiting.waits[0].reason.contains("m2 is not here yet"), "{waiting:?}");
    facts.nodes.insert(name("m2"), node(EnginePart::Manager, Some(EngineState::Alone)));
    assert!(
        matches!(&plan(&facts).steps[..], [Step::Initialise { reason, .. }] if reason.contains("none of them holds"))
    );
}

#[test]
fn a_head_that_lost_its_memory_adopts_the_swarm_that_runs() {
    let facts = facts([
        ("m1", node(EnginePart::Manager, Some(EngineState::Alone))),
        ("m2", node(EnginePart::Manager, Some(member("runs", "b", true)))),
    ]);
    let plan = plan(&facts);
    assert_eq!(plan.cluster.as_deref(), Some("runs"));
    assert!(
        matches!(&plan.steps[..], [Step::Join { node, through, .. }] if (node.as_str(), through.as_str()) == ("m1", "m2"))
    );
}

#[test]
fn a_reinstalled_node_joins_again_and_its_old_entry_goes() {
    let mut facts = facts([
        ("m1", node(EnginePart::Manager, Some(member("s", "a", true)))),
        ("w1", node(EnginePart::Worker, Some(member("s", "new", false)))),
    ]);
    let entry = |id: &str, hostname: &str, up| Member { id: id.into(), hostname: hostname.into(), manager: false, up };
    let members =
        vec![entry("a", "m1", true), entry("old", "w1", false), entry("new", "w1", true), entry("z", "gone", false)];
    facts.view = Some((name("m1"), Observed { cluster: "s".into(), members, services: Vec::new() }));
    let ids: Vec<String> = plan(&facts)
        .steps
        .into_iter()
        .filter_map(|step| if let Step::Forget { node_id, .. } = step { Some(node_id) } else { None })
        .collect();
    assert_eq!(ids, ["old", "z"]);
}

#[test]
fn a_node_that_is_only_off_keeps_its_entry() {
    let mut facts = facts([
        ("m1", node(EnginePart::Manager, Some(member("s", "a", true)))),
        ("w1", node(EnginePart::Worker, None)),
    ]);
    let members = vec![Member { id: "w".into(), hostname: "w1".into(), manager: false, up: false }];
    facts.view = Some((name("m1"), Observed { cluster: "s".into(), members, services: Vec::new() }));
    assert_eq!(plan(&facts).steps, []);
}

#[test]
fn a_changed_workload_is_deployed_and_a_removed_one_goes_but_nothing_of_others() {
    let mut facts = facts([("m1", node(EnginePart::Manager, Some(member("s", "a", true))))]);
    facts.workloads = BTreeMap::from([(name("whoami"), Some("2".to_owned()))]);
    let service = |workload: Option<&str>, generation: &str| Service {
        workload: workload.map(str::to_owned),
        generation: Some(generation.into()),
        name: "x".into(),
        wanted: 1,
        running: 1,
        ports: Vec::new(),
        replicas: Vec::new(),
    };
    let services = vec![service(Some("whoami"), "1"), service(Some("old"), "1"), service(None, "1")];
    facts.view = Some((name("m1"), Observed { cluster: "s".into(), members: Vec::new(), services }));
    assert!(
        matches!(&plan(&facts).steps[..], [Step::Deploy { .. }, Step::Remove { workload, .. }] if workload.as_str() == "old")
    );
}

/// A Swarm as simple as can be: what each step does to it.
fn apply(facts: &mut Facts, plan: &Plan) {
    // As the head does: what is remembered is replaced and never dropped.
    facts.remembered = plan.cluster.clone().or(facts.remembered.take());
    for step in &plan.steps {
        match step {
            Step::Initialise { node, .. } => {
                let id = format!("id-{node}");
                facts.nodes.get_mut(node).expect("declared").engine = Some(member("fresh", &id, true));
                facts.view = Some((node.clone(), Observed { cluster: "fresh".into(), ..Observed::default() }));
            }
            Step::Join { node, through, part, .. } => {
                let Some(EngineState::Member { cluster, .. }) = facts.nodes[through].engine.clone() else {
                    panic!("no cluster")
                };
                let id = format!("id-{node}");
                facts.nodes.get_mut(node).expect("declared").engine =
                    Some(member(&cluster, &id, *part == EnginePart::Manager));
            }
            Step::SetPart { node, part, .. } => {
                if let Some(EngineState::Member { manager, .. }) =
                    &mut facts.nodes.get_mut(node).expect("declared").engine
                {
                    *manager = *part == EnginePart::Manager;
                }
            }
            Step::Forget { node_id, .. } => {
                if let Some((_, view)) = &mut facts.view {
                    view.members.retain(|member| member.id != *node_id);
                }
            }
            Step::Deploy { workload, generation, .. } => {
                if let Some((_, view)) = &mut facts.view {
                    view.services.retain(|service| service.workload.as_deref() != Some(workload.as_str()));
                    view.services.push(Service {
                        workload: Some(workload.to_string()),
                        generation: Some(generation.clone()),
                        name: workload.to_string(),
                        wanted: 1,
                        running: 1,
                        ports: Vec::new(),
                        replicas: Vec::new(),
                    });
                }
            }
            Step::Remove { workload, .. } => {
                if let Some((_, view)) = &mut facts.view {
                    view.services.retain(|service| service.workload.as_deref() != Some(workload.as_str()));
                }
            }
        }
    }
    // The view is asked of a manager of the cluster that the plan settled on.
    if let Some(seed) = facts.nodes.iter().find_map(|(name, node)| match &node.engine {
        Some(EngineState::Member { cluster, manager: true, reachable: true, .. })
            if facts.remembered.as_ref().is_none_or(|r| r == cluster) =>
        {
            Some((name.clone(), cluster.clone()))
        }
        _ => None,
    }) && facts.view.as_ref().is_none_or(|(_, view)| view.cluster != seed.1)
    {
        facts.view = Some((seed.0, Observed { cluster: seed.1, ..Observed::default() }));
    }
}

fn any_engine() -> impl Strategy<Value = Option<EngineState>> {
    prop_oneof![
        Just(None),
        Just(Some(EngineState::Alone)),
        Just(Some(EngineState::Starting { waiting_for: "Docker".into() })),
        ("[ab]", "[xyz]", any::<bool>(), any::<bool>()).prop_map(|(cluster, node_id, manager, reachable)| {
            Some(EngineState::Member { cluster, node_id, manager, reachable })
        }),
    ]
}

fn any_facts() -> impl Strategy<Value = Facts> {
    let part = prop_oneof![Just(EnginePart::Manager), Just(EnginePart::Worker), Just(EnginePart::None)];
    let nodes = prop::collection::btree_map("[a-e]", (part, any_engine()), 0..6);
    let workloads = prop::collection::btree_map("[p-r]", prop::option::of("[12]"), 0..3);
    (nodes, workloads, prop::option::of("[ab]")).prop_map(|(nodes, workloads, remembered)| Facts {
        nodes: nodes.into_iter().map(|(text, (part, engine))| (name(&text), node(part, engine))).collect(),
        workloads: workloads.into_iter().map(|(text, generation)| (name(&text), generation)).collect(),
        remembered,
        view: None,
    })
}

proptest! {
    #[test]
    fn applied_plans_come_to_rest_and_then_change_nothing(facts in any_facts()) {
        let mut facts = facts;
        for _ in 0..12 {
            let next = plan(&facts);
            apply(&mut facts, &next);
        }
        let rest = plan(&facts);
        prop_assert_eq!(&rest.steps, &[], "not at rest");
        apply(&mut facts, &rest);
        prop_assert_eq!(plan(&facts), rest, "applied twice, nothing changes");
    }

    #[test]
    fn no_swarm_is_started_beside_one_that_may_live(facts in any_facts()) {
        let started = plan(&facts).steps.iter().any(|step| matches!(step, Step::Initialise { .. }));
        if started && facts.remembered.is_some() {
            for node in facts.nodes.values().filter(|node| node.part == EnginePart::Manager) {
                let away = matches!(node.engine, None | Some(EngineState::Starting { .. }));
                prop_assert!(!away);
                let lives = matches!(&node.engine, Some(EngineState::Member { cluster, manager: true, reachable: true, .. }) if Some(cluster) == facts.remembered.as_ref());
                prop_assert!(!lives);
            }
        }
    }
}
