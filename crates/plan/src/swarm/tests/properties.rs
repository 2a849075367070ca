//! What holds of any plan, in any world.

use proptest::prelude::*;

use super::*;
use crate::swarm;

pub(super) fn any_engine() -> impl Strategy<Value = Option<EngineState>> {
    prop_oneof![
        Just(None),
        Just(Some(EngineState::None)),
        Just(ALONE),
        Just(Some(EngineState::Starting { waiting_for: "Docker".into() })),
        ("[ab]", "[xyz]", any::<bool>(), any::<bool>())
            .prop_map(|(cluster, id, manager, reachable)| in_swarm(&cluster, &id, manager, reachable)),
    ]
}

pub(super) fn any_memory() -> impl Strategy<Value = Memory> {
    prop_oneof![
        Just(Memory::Never),
        Just(Memory::Lost),
        "[a-e]".prop_map(|node| Memory::Begun { node: name(&node) }),
        "[ab]".prop_map(|cluster| remembers(&cluster)),
    ]
}

pub(super) fn any_view() -> impl Strategy<Value = Option<View>> {
    let members = prop::collection::vec(("[xyz]", "[a-g]", any::<bool>(), any::<bool>()), 0..4);
    // Labels are of a generation, or written by hand.
    let services = prop::collection::vec((prop::option::of("[p-s]"), "[xyz]", "[12x]"), 0..4);
    let read = ("[a-e]", "[ab]", members, services).prop_map(|(through, cluster, members, services)| View::Read {
        through: name(&through),
        listing: Listing {
            cluster: id(&cluster),
            members: members
                .iter()
                .map(|(node_id, hostname, up, manager)| ((node_id, hostname), (up, manager)))
                // An id is one member's.
                .collect::<BTreeMap<_, _>>()
                .into_iter()
                .map(|((node_id, hostname), (up, manager))| Member {
                    manager: *manager,
                    ..entry(&format!("{node_id}-{hostname}"), hostname, *up)
                })
                .collect(),
            services: services
                .iter()
                .map(|(workload, service, generation)| service_of(workload.as_deref(), service, generation))
                .collect(),
        },
    });
    let unreadable =
        "[a-e]".prop_map(|through| View::Unreadable { through: name(&through), reason: "no leader".into() });
    prop_oneof![Just(None), read.prop_map(Some), unreadable.prop_map(Some)]
}

pub(super) fn any_world() -> impl Strategy<Value = World> {
    let part = prop_oneof![Just(EnginePart::Manager), Just(EnginePart::Worker), Just(EnginePart::None)];
    let nodes = prop::collection::btree_map("[a-e]", (part, any_engine(), any::<bool>(), any::<bool>()), 0..6);
    // Earlier parts, also of a node that has left.
    let managers = prop::collection::btree_set("[a-f]", 0..4);
    let ready = ("[12]", prop::collection::btree_set("[xyz]", 1..3));
    let workloads = prop::collection::btree_map("[p-r]", prop::option::of(ready), 0..3);
    let former = prop::collection::btree_set("[ab]", 0..2);
    let without = prop::option::of(prop::collection::btree_set("[a-e]", 0..3));
    let tokens = (any::<bool>(), any::<bool>());
    (nodes, workloads, any_memory(), (managers, former, tokens), without, any_view()).prop_map(
        |(nodes, workloads, memory, (managers, former, (is_pinned, is_out)), without, view)| {
            let mut world = world(memory);
            for (text, (part, engine, unable, boots)) in nodes {
                let engine = engine.map(|engine| match engine {
                    _ if part == EnginePart::None => EngineState::None,
                    EngineState::Member { cluster, node_id, manager, reachable } => {
                        let node_id = id(&format!("{node_id}-{text}"));
                        EngineState::Member { cluster, node_id, manager, reachable }
                    }
                    other => other,
                });
                world = world.node(&text, part, engine);
                let node = world.observed.nodes.get_mut(&name(&text)).expect("there");
                node.unable = unable.then(|| "an old agent".to_owned());
                node.boots = boots && node.engine.is_none();
            }
            for (text, ready) in workloads {
                let workload = match ready {
                    Some((generation, services)) => {
                        Workload::Ready { generation: id(&generation), file: "f".into(), services }
                    }
                    None => Workload::Sick { problem: "torn".into() },
                };
                world.declared.workloads.insert(name(&text), workload);
            }
            world.observed.record.managers = managers.iter().map(|text| name(text)).collect();
            world.observed.record.former = former.iter().map(|cluster| id(cluster)).collect();
            if let Some(cluster) = world.observed.record.cluster().cloned() {
                world.observed.record.former.remove(&cluster);
            }
            world.observed.record.without = without.map(|names| names.iter().map(|text| name(text)).collect());
            world.observed.record.ca = is_pinned.then_some(Digest([0xca; 32]));
            world.observed.record.token = if is_out { ManagerToken::Out } else { ManagerToken::Kept };
            world.observed.view = view;
            world
        },
    )
}

/// Whoever may hold a Swarm's state, by their parts of today and of before.
fn may_have_been_managers(world: &World) -> BTreeSet<Name> {
    let record = &world.observed.record;
    let anyone = record.managers.is_empty() && matches!(record.memory, Memory::Lost | Memory::Swarm { .. });
    let declared = world.declared.nodes.iter();
    let declared = declared.filter(|(_, part)| **part == EnginePart::Manager || anyone && **part == EnginePart::Worker);
    declared.map(|(name, _)| name).chain(&record.managers).cloned().collect()
}

/// Whether one of those may hold a Swarm's state that nobody gave up.
fn may_hold(world: &World, name: &Name) -> bool {
    let record = &world.observed.record;
    let is_manager = world.declared.nodes.get(name) == Some(&EnginePart::Manager);
    match world.observed.nodes.get(name).and_then(|node| node.engine.as_ref()) {
        None | Some(EngineState::Starting { .. } | EngineState::None) => true,
        Some(EngineState::Alone) => false,
        Some(EngineState::Member { cluster, manager, .. }) => {
            let of_another = is_manager && record.cluster() != Some(cluster);
            !record.former.contains(cluster) && (*manager || of_another)
        }
    }
}

/// Whether a node says that it is this member of the Swarm that is remembered.
fn says(world: &World, name: &Name, id: &MemberId) -> bool {
    let engine = world.observed.nodes.get(name).and_then(|node| node.engine.as_ref());
    matches!(engine, Some(EngineState::Member { cluster, node_id, .. }) if node_id == id && Some(cluster) == world.observed.record.cluster())
}

/// What becomes of a world in which no person acts: who boots arrives, what starts has started, and a majority that is
/// here finds its leader.
fn time_goes_by(world: &mut World) {
    for planned in world.plan().steps {
        Swarm.foresee(&mut world.observed, &planned.step);
    }
    let Observed { nodes, record, view, .. } = &mut world.observed;
    for (name, node) in nodes.iter_mut() {
        let has_part = world.declared.nodes[name] != EnginePart::None;
        match &node.engine {
            None if node.boots => (node.engine, node.boots) = (Some(EngineState::None), false),
            Some(EngineState::None | EngineState::Starting { .. }) if has_part => node.engine = ALONE,
            _ => {}
        }
        if node.engine.is_some() {
            node.address = Some("10.0.0.1".into());
        }
    }
    let holding = |nodes: &BTreeMap<Name, Node>, cluster: &ClusterId| {
        nodes.values().filter(|node| holds(node).is_some_and(|(own, _)| own == cluster)).count()
    };
    // All that anyone knows of, whatever became of it; a worker is no manager.
    let all = |nodes: &BTreeMap<Name, Node>, cluster: &ClusterId| {
        let others =
            record.managers.iter().filter(|name| match nodes.get(*name).and_then(|node| node.engine.as_ref()) {
                Some(EngineState::Member { cluster: own, .. }) => own != cluster,
                _ => true,
            });
        holding(nodes, cluster) + others.count()
    };
    let led: BTreeSet<ClusterId> = ["a", "b", "new"]
        .into_iter()
        .map(id)
        .filter(|cluster| holding(nodes, cluster) * 2 > all(nodes, cluster))
        .collect();
    let listed: Vec<MemberId> = match &*view {
        Some(View::Read { listing, .. }) => listing.members.iter().map(|member| member.id.clone()).collect(),
        _ => Vec::new(),
    };
    for node in nodes.values_mut() {
        if let Some(EngineState::Member { cluster, reachable, node_id, .. }) = &mut node.engine
            && (led.contains(cluster) || listed.contains(node_id))
        {
            *reachable = true;
        }
    }
    let engine_of = |name: &Name| nodes.get(name)?.engine.clone();
    let asked = to_ask(&world.declared, record, engine_of);
    let cluster = record.cluster().cloned();
    *view = asked.first().zip(cluster).map(|(through, cluster)| {
        let through = through.clone();
        if !led.contains(&cluster) {
            return View::Unreadable { through, reason: "The swarm does not have a leader.".into() };
        }
        let members = nodes.iter().filter_map(|(name, node)| match &node.engine {
            Some(EngineState::Member { cluster: own, node_id, manager, .. }) if *own == cluster => {
                Some(swarm::entry(node_id.clone(), name, *manager))
            }
            _ => None,
        });
        let services = match &*view {
            Some(View::Read { listing, .. }) => listing.services.clone(),
            _ => Vec::new(),
        };
        View::Read { through, listing: Listing { cluster: cluster.clone(), members: members.collect(), services } }
    });
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
        let managers = may_have_been_managers(&world);
        let record = &world.observed.record;
        let holds_one = |name: &Name| matches!(
            world.observed.nodes.get(name).and_then(|node| node.engine.as_ref()),
            Some(EngineState::Member { manager: true, cluster, .. }) if !record.former.contains(cluster)
        );
        for planned in world.plan().steps {
            match planned.step {
                Step::Begin { .. } => {
                    let without = record.without.clone().unwrap_or_default();
                    let patient = record.memory != Memory::Never;
                    for manager in managers.iter().filter(|name| !without.contains(*name)) {
                        prop_assert!(!(holds_one(manager) || patient && may_hold(&world, manager)), "{manager} may hold one");
                    }
                }
                Step::Initialise { node, leaves, .. } => {
                    prop_assert_eq!(&record.memory, &Memory::Begun { node: node.clone() }, "it was not written down");
                    prop_assert!(!may_hold(&world, &node));
                    if let Some(left) = leaves {
                        prop_assert!(record.former.contains(&left));
                    }
                    for manager in &managers {
                        prop_assert!(!holds_one(manager), "{manager} holds one");
                    }
                }
                Step::Join { leaves: Some(left), .. } => prop_assert!(record.former.contains(&left)),
                Step::SetPart { part: EnginePart::Worker, hostname: node, node_id, .. } => {
                    let others = managers.iter().filter(|name| !says(&world, name, &node_id) && world.declared.nodes.get(*name) == Some(&EnginePart::Manager));
                    prop_assert!(others.clone().any(holds_one), "{node} is the last");
                }
                _ => {}
            }
        }
    }

    /// Nothing goes through a node but one that is a manager of the Swarm, and declared as one or made one; nobody becomes a
    /// manager who is not declared as one.
    #[test]
    fn no_step_goes_through_a_node_that_was_not_made_for_it(world in any_world()) {
        let record = &world.observed.record;
        let is = |name: &Name, part| world.declared.nodes.get(name) == Some(&part);
        let holds_it = |name: &Name| holds(&world.observed.nodes[name]).is_some_and(|(own, _)| Some(own) == record.cluster());
        let asked = |name: &Name| holds_it(name) && is(name, EnginePart::Manager);
        // An old manager does nothing but bring a new one.
        let hands_over = |name: &Name| holds_it(name) && (is(name, EnginePart::Manager) || record.managers.contains(name));
        for planned in world.plan().steps {
            match &planned.step {
                Step::Begin { node } | Step::Initialise { node, .. } => prop_assert!(is(node, EnginePart::Manager)),
                Step::Join { node, through, part, .. } => {
                    prop_assert!(is(node, *part) && hands_over(through));
                    prop_assert!(*part == EnginePart::Manager || asked(through));
                    prop_assert!(*part == EnginePart::Worker || record.managers.contains(node), "it was not written down");
                    prop_assert!(record.ca.is_some(), "nobody knows whose tokens these are");
                }
                Step::SetPart { hostname, through, part: EnginePart::Manager, .. } => {
                    prop_assert!(is(&name(hostname), EnginePart::Manager) && hands_over(through));
                    prop_assert!(record.managers.contains(&name(hostname)), "it was not written down");
                }
                Step::SetPart { node_id, through, .. } => {
                    let is_todays = world.declared.nodes.keys().any(|name| is(name, EnginePart::Manager) && says(&world, name, node_id));
                    prop_assert!(!is_todays && asked(through));
                }
                Step::Forget { through, .. } | Step::Deploy { through, .. } | Step::Remove { through, .. } => {
                    prop_assert!(asked(through));
                }
                Step::Rotate { through, .. } => prop_assert!(asked(through) && record.token == ManagerToken::Out),
                Step::Pin { through } => prop_assert!(hands_over(through) && record.ca.is_none()),
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
            && !matches!(&world.observed.nodes[name].engine, Some(EngineState::Member { cluster, .. }) if Some(cluster) == world.observed.record.cluster());
        if anyone && world.declared.nodes.iter().any(wanted) {
            prop_assert!(!plan.steps.is_empty() || !plan.waits.is_empty(), "silence");
        }
    }

    /// What a plan says ends by itself does: when time has gone by, all that is still waited for names who acts.
    #[test]
    fn what_ends_by_itself_ends(world in any_world()) {
        let mut world = world;
        for _ in 0..24 {
            time_goes_by(&mut world);
        }
        for wait in world.plan().waits {
            prop_assert!(matches!(wait.ends, Ends::Person(_)), "{}: {} in {:#?}", wait.subject, wait.reason, world.observed);
        }
    }
}
