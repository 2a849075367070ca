//! A Swarm that lives, while the repository gives its nodes other parts again and again.
//!
//! Docker is what it is to the planner: a manager's state stays with its machine, a Swarm is led by a majority of its
//! managers, and refuses to lose it by a step. A machine that has left the repository runs on, and is not heard.

use proptest::prelude::*;

use super::*;

/// What a machine has of a Swarm: it stays when its power goes.
#[derive(Debug, Clone)]
struct Machine {
    on: bool,
    /// What it calls itself, where that is not its name.
    called: Option<String>,
    place: Option<Place>,
    joins: usize,
    /// Tokens of managers that were seen on it.
    knows: BTreeSet<(ClusterId, usize)>,
}

#[derive(Debug, Clone)]
struct Place {
    cluster: ClusterId,
    id: MemberId,
    manager: bool,
}

#[derive(Debug, Clone)]
struct Fleet {
    declared: Declared,
    machines: BTreeMap<Name, Machine>,
    members: BTreeMap<ClusterId, Vec<Member>>,
    /// How often each Swarm's token of managers was rotated.
    tokens: BTreeMap<ClusterId, usize>,
    record: Record,
}

/// What happens between two plans.
#[derive(Debug, Clone)]
enum Event {
    /// Another snapshot: `None` is a node that is not in it.
    Apply(Vec<Option<EnginePart>>),
    Switch {
        machine: usize,
        on: bool,
    },
    /// Root on it has it call itself so: as another one, or nothing.
    Call {
        machine: usize,
        called: &'static str,
    },
    /// So many steps of a plan are done.
    Perform(usize),
}

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

impl Fleet {
    fn new() -> Self {
        let machine = || Machine { on: true, called: None, place: None, joins: 0, knows: BTreeSet::new() };
        let machines = NAMES.map(|text| (name(text), machine())).into();
        let (declared, members, tokens) = (Declared::default(), BTreeMap::new(), BTreeMap::new());
        Fleet { declared, machines, members, tokens, record: Record::new(Memory::Never) }
    }

    fn apply(&mut self, parts: &[Option<EnginePart>]) {
        let nodes = NAMES.iter().zip(parts).filter_map(|(text, part)| Some((name(text), (*part)?)));
        self.declared.nodes = nodes.collect();
    }

    fn is_up(&self, cluster: &ClusterId, member: &Member) -> bool {
        let machine = &self.machines[&name(&member.hostname)];
        machine.on && machine.place.as_ref().is_some_and(|place| place.cluster == *cluster && place.id == member.id)
    }

    /// Managers that are up, and all of them; `without` as if it were none.
    fn votes(&self, cluster: &ClusterId, without: Option<&MemberId>) -> (usize, usize) {
        let managers = self.members.get(cluster).into_iter().flatten().filter(|member| member.manager);
        let counted: Vec<&Member> = managers.filter(|member| Some(&member.id) != without).collect();
        (counted.iter().filter(|member| self.is_up(cluster, member)).count(), counted.len())
    }

    fn is_led(&self, cluster: &ClusterId) -> bool {
        let (up, all) = self.votes(cluster, None);
        up * 2 > all
    }

    fn engine(&self, node: &Name) -> Option<EngineState> {
        let machine = self.machines.get(node).filter(|machine| machine.on)?;
        match (self.declared.nodes.get(node)?, &machine.place) {
            (EnginePart::None, _) => Some(EngineState::None),
            (_, None) => ALONE,
            (_, Some(Place { cluster, id, manager })) => {
                let listed = self.members[cluster].iter().any(|member| member.id == *id);
                in_swarm(cluster.as_str(), id.as_str(), *manager, listed && self.is_led(cluster))
            }
        }
    }

    fn observed(&self) -> Observed {
        let nodes = self.declared.nodes.keys().map(|name| {
            let engine = self.engine(name);
            let address = engine.is_some().then(|| "10.0.0.1".to_owned());
            (name.clone(), Node { engine, boots: false, address, unable: None, rotates_not: None, refuses: None })
        });
        let asked = to_ask(&self.declared, &self.record, |name| self.engine(name));
        let view = asked.into_iter().next().map(|through| {
            let cluster = self.record.cluster().expect("whoever is asked is asked of one").clone();
            if !self.is_led(&cluster) {
                return View::Unreadable { through, reason: "The swarm does not have a leader.".into() };
            }
            let members = self.members[&cluster].iter();
            let called = |member: &Member| self.machines[&name(&member.hostname)].called.clone();
            let members = members.map(|member| Member {
                up: self.is_up(&cluster, member),
                hostname: called(member).map_or_else(|| member.hostname.clone(), Into::into),
                ..member.clone()
            });
            let members = members.collect();
            View::Read { through, listing: Listing { cluster, members, services: Vec::new() } }
        });
        Observed {
            nodes: nodes.collect(),
            record: self.record.clone(),
            view,
            without: BTreeMap::new(),
            in_vain: BTreeSet::new(),
        }
    }

    fn plan(&self) -> Plan {
        Swarm.plan(&self.declared, &self.observed(), 0)
    }

    /// A machine becomes a member, and leaves what it is told to leave.
    fn enter(&mut self, node: &Name, cluster: &ClusterId, manager: bool) {
        let machine = self.machines.get_mut(node).expect("a machine");
        machine.joins += 1;
        let id: MemberId = id(&format!("{node}-{}", machine.joins));
        machine.place = Some(Place { cluster: cluster.clone(), id: id.clone(), manager });
        let member = Member { id, hostname: node.as_str().into(), manager, up: true };
        self.members.entry(cluster.clone()).or_default().push(member);
    }

    /// Every manager of a Swarm that is on knows its present token.
    fn learn(&mut self) {
        for machine in self.machines.values_mut().filter(|machine| machine.on) {
            if let Some(Place { cluster, id, manager: true }) = &machine.place
                && self.members[cluster].iter().any(|member| member.id == *id)
            {
                machine.knows.insert((cluster.clone(), self.tokens.get(cluster).copied().unwrap_or(0)));
            }
        }
    }

    /// Does what a plan wants, as far as Docker does.
    fn perform(&mut self, step: Step) {
        match step {
            Step::Begin { node } => self.record.begin(&node),
            Step::Remember { cluster, managers } => self.record.remember(&cluster, managers),
            Step::Initialise { node, .. } => {
                let cluster = id(&format!("swarm{}", self.members.len()));
                self.enter(&node, &cluster, true);
            }
            Step::Join { node, cluster, part, leaves, .. } => {
                assert_eq!(leaves, None, "{node} is told to leave a Swarm that lives");
                if self.is_led(&cluster) {
                    self.enter(&node, &cluster, part == EnginePart::Manager);
                }
            }
            Step::SetPart { node_id, part, .. } => {
                // Whatever it is called.
                let node = name(&node_id.as_str()[..1]);
                let place = self.machines[&node].place.clone().expect("a member");
                let manager = part == EnginePart::Manager;
                assert!(manager || self.votes(&place.cluster, Some(&node_id)).0 > 0, "{node} is its last manager");
                let (up, all) = self.votes(&place.cluster, Some(&node_id));
                if self.is_led(&place.cluster) && (manager || up * 2 > all) {
                    self.machines.get_mut(&node).expect("a machine").place = Some(Place { manager, ..place.clone() });
                    let members = self.members.get_mut(&place.cluster).expect("a Swarm");
                    members
                        .iter_mut()
                        .filter(|member| member.id == node_id)
                        .for_each(|member| member.manager = manager);
                }
            }
            Step::Forget { node_id, .. } => {
                for (cluster, mut members) in self.members.clone() {
                    let (up, all) = self.votes(&cluster, Some(&node_id));
                    members.retain(|member| member.id != node_id || self.is_up(&cluster, member) || up * 2 <= all);
                    self.members.insert(cluster, members);
                }
            }
            Step::Pin { .. } => self.record.ca = Some(Digest([0xca; 32])),
            Step::Rotate { cluster, .. } => {
                *self.tokens.entry(cluster).or_default() += 1;
                self.record.token = ManagerToken::Kept;
            }
            Step::Deploy { .. } | Step::Remove { .. } => {}
        }
        self.learn();
    }

    /// Performs a plan's first steps; nothing of them may end a Swarm that lives.
    fn go_on(&mut self, most: usize) -> usize {
        let steps = self.plan().steps;
        let count = steps.len();
        for planned in steps.into_iter().take(most) {
            let begins = matches!(planned.step, Step::Begin { .. } | Step::Initialise { .. });
            let lives = self.machines.values().any(|machine| machine.place.as_ref().is_some_and(|place| place.manager));
            assert!(!(begins && lives), "{} in {self:#?}", planned.told().step);
            if lets_token_out(&planned) {
                self.record.token = ManagerToken::Out;
            }
            self.perform(planned.step);
            self.has_all_managers_on_its_record();
        }
        count
    }

    /// Nobody who may hold the state of the Swarm that is remembered is off the record.
    fn has_all_managers_on_its_record(&self) {
        let members = self.record.cluster().and_then(|cluster| self.members.get(cluster));
        for member in members.into_iter().flatten().filter(|member| member.manager) {
            let is_written = self.record.managers.contains(&name(&member.hostname));
            assert!(is_written, "{} is a manager and off the record: {self:#?}", member.hostname);
        }
    }

    /// Machines that the Swarm has as managers.
    fn managers(&self, cluster: &ClusterId) -> BTreeSet<Name> {
        let managers = self.members[cluster].iter().filter(|member| member.manager);
        managers.map(|member| name(&member.hostname)).collect()
    }

    /// Whatever has a place in no Swarm that would know it is made blank by a person. Whether there was any.
    fn make_blank_what_was_forgotten(&mut self) -> bool {
        let (members, mut any) = (&self.members, false);
        for machine in self.machines.values_mut() {
            let known = |place: &Place| members[&place.cluster].iter().any(|member| member.id == place.id);
            any |= machine.place.as_ref().is_some_and(|place| !known(place));
            machine.place = machine.place.take().filter(known);
        }
        any
    }
}

fn any_event() -> impl Strategy<Value = Event> {
    let part = prop_oneof![
        3 => Just(Some(EnginePart::Manager)),
        4 => Just(Some(EnginePart::Worker)),
        1 => Just(Some(EnginePart::None)),
        1 => Just(None),
    ];
    prop_oneof![
        2 => prop::collection::vec(part, NAMES.len()).prop_map(Event::Apply),
        1 => (0..NAMES.len(), prop::sample::select(vec!["a", "b", "c", "nobody", ""]))
            .prop_map(|(machine, called)| Event::Call { machine, called }),
        2 => (0..NAMES.len(), any::<bool>()).prop_map(|(machine, on)| Event::Switch { machine, on }),
        4 => (0_usize..6).prop_map(Event::Perform),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn a_swarm_outlives_every_change_of_parts(
        first in prop::sample::subsequence((0..NAMES.len()).collect::<Vec<_>>(), 1..4),
        events in prop::collection::vec(any_event(), 0..24),
        last in prop::sample::subsequence((0..NAMES.len()).collect::<Vec<_>>(), 1..5),
    ) {
        let parts = |managers: &[usize]| {
            let part = |index| if managers.contains(&index) { EnginePart::Manager } else { EnginePart::Worker };
            (0..NAMES.len()).map(|index| Some(part(index))).collect::<Vec<_>>()
        };
        let mut fleet = Fleet::new();
        fleet.apply(&parts(&first));
        while fleet.go_on(usize::MAX) > 0 {}
        prop_assert_eq!(fleet.members.len(), 1);
        for event in events {
            fleet.learn();
            match event {
                Event::Apply(parts) => fleet.apply(&parts),
                Event::Switch { machine, on } => fleet.machines.get_mut(&name(NAMES[machine])).expect("there").on = on,
                Event::Call { machine, called } => {
                    fleet.machines.get_mut(&name(NAMES[machine])).expect("there").called = Some(called.to_owned());
                }
                Event::Perform(most) => drop(fleet.go_on(most)),
            }
        }
        // In the end all are on, and have a part.
        fleet.machines.values_mut().for_each(|machine| machine.on = true);
        fleet.apply(&parts(&last));
        let come_to_rest = |fleet: &mut Fleet| {
            for _ in 0..40 {
                let did = fleet.go_on(usize::MAX) > 0;
                if !(fleet.make_blank_what_was_forgotten() || did) {
                    break;
                }
            }
        };
        // Nobody stays a manager by the name that it has given itself; and managers have theirs.
        let todays: BTreeSet<Name> = last.iter().map(|index| name(NAMES[*index])).collect();
        fleet.machines.iter_mut().filter(|(name, _)| todays.contains(*name)).for_each(|(_, machine)| machine.called = None);
        come_to_rest(&mut fleet);
        prop_assert_eq!(fleet.managers(&id("swarm0")), todays, "{:#?}", fleet);
        // Those that a person was sent to are booted anew.
        fleet.machines.values_mut().for_each(|machine| machine.called = None);
        come_to_rest(&mut fleet);
        let plan = fleet.plan();
        prop_assert!(plan.steps.is_empty() && plan.waits.is_empty(), "{} in {:#?}", told(&plan), fleet);
        for (node, part) in &fleet.declared.nodes {
            let manager = *part == EnginePart::Manager;
            let place = fleet.machines[node].place.as_ref();
            prop_assert_eq!(place.map(|place| (place.cluster.as_str(), place.manager)), Some(("swarm0", manager)));
            let known = (id("swarm0"), fleet.tokens.get(&id::<ClusterId>("swarm0")).copied().unwrap_or(0));
            let knows = fleet.machines[node].knows.contains(&known);
            prop_assert!(manager || !knows, "{node} is no manager, and could join as one");
        }
    }
}
