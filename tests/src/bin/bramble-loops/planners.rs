//! One plan of every planner, over a world where much is to be done and over one at rest.

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::time::Instant;

use bramble_model::agent::swarm::{Label, Member, Observed as Listing, Service};
use bramble_model::boot_set::Architecture;
use bramble_model::engine::{EnginePart, EngineState};
use bramble_model::inventory::Adoption;
use bramble_model::names::{ClusterId, Digest, Mac, MemberId, Name};
use bramble_model::repository::{Backup, Source as Followed};
use bramble_model::timeline::Millis;
use bramble_plan::backups::Backups;
use bramble_plan::contract::Planner;
use bramble_plan::leaving::{self, Leaving};
use bramble_plan::sets::{self, Runs, Set, Sets};
use bramble_plan::source::{self, Source};
use bramble_plan::strangers::{self, FORGOTTEN_AFTER, Strangers};
use bramble_plan::swarm::{self, Memory, Node, Record, Swarm, View, Workload};
use bramble_tests::measure::{figure, mark, percentile};

/// Plans that are timed in each world.
const REPETITIONS: usize = 1000;
/// The longest that a plan may take, in milliseconds.
const TARGET: f64 = 20.0;
/// The time of every plan.
const NOW: Millis = 2 * FORGOTTEN_AFTER;
const HOUR: Millis = 3600 * 1000;

const CLUSTER: &str = "the-swarm";
/// A Swarm that was given up.
const FORMER: &str = "the-old-swarm";
/// Two generations of every workload.
const NEW: &str = "4e3f5d2a9b10";
const OLD: &str = "01d0c4b7e65a";
const MANAGERS: usize = 3;

/// Times the plans of one planner. Each world is declared and observed, `much` first.
fn time<P: Planner>(name: &str, planner: &P, much: &(P::Declared, P::Observed), rest: &(P::Declared, P::Observed)) {
    for (world, (declared, observed)) in [("much to do", much), ("at rest", rest)] {
        let mut times = Vec::with_capacity(REPETITIONS);
        let mut due = 0;
        let mut waits = 0;
        for _ in 0..REPETITIONS {
            let begun = Instant::now();
            let plan = black_box(planner.plan(black_box(declared), black_box(observed), NOW));
            times.push(begun.elapsed().as_secs_f64() * 1000.0);
            (due, waits) = (plan.steps.len(), plan.waits.len());
        }
        assert!(world == "much to do" || due == 0, "{name} is not at rest: {due} steps");
        figure(&format!("{name}, {world} ({due} steps, {waits} waits), p50"), percentile(50, &times), "ms");
        mark(&format!("{name}, {world}, p99"), percentile(99, &times), "ms", TARGET);
    }
}

pub fn measure(nodes: usize, workloads: usize) {
    println!("one plan for {nodes} nodes and {workloads} workloads, {REPETITIONS} times");
    time("swarm", &Swarm, &swarm_with_much_to_do(nodes, workloads), &swarm_at_rest(nodes, workloads));
    let names: BTreeSet<Name> = (0..nodes).map(node).collect();
    let left = (0..nodes).map(|number| name(&format!("gone{number}")));
    let known = names.iter().cloned().chain(left).collect();
    let much = leaving::Observed { known, ..leaving::Observed::default() };
    let rest = leaving::Observed { known: names.clone(), ..leaving::Observed::default() };
    time("admissions", &Leaving, &(names.clone(), much), &(names.clone(), rest));
    time("strangers", &Strangers, &strangers_with_much_to_do(nodes), &strangers_at_rest(nodes));
    time("backups", &Backups, &backups(1000), &backups(7));
    time("images", &Sets, &images(nodes, 1), &images(nodes, 2));
    time("source", &Source, &source(Some(NOW)), &source(None));
}

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn node(number: usize) -> Name {
    name(&format!("n{number}"))
}

fn workload(number: usize) -> Name {
    name(&format!("w{number}"))
}

fn id(number: usize) -> MemberId {
    member_id("id", number)
}

fn member_id(kind: &str, number: usize) -> MemberId {
    format!("{kind}-{number}").parse().expect("an id")
}

fn cluster_id(text: &str) -> ClusterId {
    text.parse().expect("an id")
}

fn part(number: usize) -> EnginePart {
    if number < MANAGERS { EnginePart::Manager } else { EnginePart::Worker }
}

fn member(cluster: &str, number: usize) -> EngineState {
    let manager = part(number) == EnginePart::Manager;
    EngineState::Member { cluster: cluster_id(cluster), node_id: id(number), manager, reachable: true }
}

fn entry(id: MemberId, hostname: &Name, manager: bool, up: bool) -> Member {
    Member { id, hostname: hostname.as_str().into(), manager, up }
}

fn service(workload: &Name, generation: &str) -> Service {
    Service {
        workload: Some(workload.as_str().into()),
        generation: Some(Label::from(generation.to_owned())),
        name: format!("{workload}_web").into(),
        wanted: 3,
        running: 3,
        ports: vec![8000],
        replicas: Vec::new(),
    }
}

fn declared_swarm(nodes: usize, workloads: usize) -> swarm::Declared {
    let file = "services:\n  web:\n    image: web:1\n".repeat(20);
    let services = BTreeSet::from(["web".to_owned()]);
    let ready = || {
        let generation = NEW.parse().expect("a generation");
        Workload::Ready { generation, file: file.as_str().into(), services: services.clone() }
    };
    swarm::Declared {
        nodes: (0..nodes).map(|number| (node(number), part(number))).collect(),
        workloads: (0..workloads).map(|number| (workload(number), ready())).collect(),
        encrypted: false,
    }
}

fn observed_swarm(nodes: BTreeMap<Name, Node>, members: Vec<Member>, services: Vec<Service>) -> swarm::Observed {
    let mut record = Record::new(Memory::Swarm { cluster: cluster_id(CLUSTER) });
    record.former.insert(cluster_id(FORMER));
    record.managers = (0..MANAGERS).map(node).collect();
    record.ca = Some(Digest([0xca; 32]));
    let listing = Listing { cluster: cluster_id(CLUSTER), members, services };
    let view = Some(View::Read { through: node(0), listing });
    swarm::Observed { nodes, record, view, without: BTreeMap::new(), in_vain: BTreeSet::new() }
}

fn here(engine: EngineState) -> Node {
    Node { engine: Some(engine), address: Some("10.0.0.1".into()), ..Node::default() }
}

fn swarm_at_rest(nodes: usize, workloads: usize) -> (swarm::Declared, swarm::Observed) {
    let seen = (0..nodes).map(|number| (node(number), here(member(CLUSTER, number)))).collect();
    let members = (0..nodes).map(|number| entry(id(number), &node(number), number < MANAGERS, true)).collect();
    let services = (0..workloads).map(|number| service(&workload(number), NEW)).collect();
    (declared_swarm(nodes, workloads), observed_swarm(seen, members, services))
}

/// The managers are there. Of each five workers one has to join, one is away, one has to leave another Swarm, one has
/// an old entry, and one's engine starts; as many dead entries are of nobody. Half of the workloads are not deployed,
/// the others are of an older generation, and a quarter as many have to go.
fn swarm_with_much_to_do(nodes: usize, workloads: usize) -> (swarm::Declared, swarm::Observed) {
    let state = |number: usize| match number % 5 {
        _ if number < MANAGERS => here(member(CLUSTER, number)),
        0 => here(EngineState::Alone),
        1 => Node::default(),
        2 => here(member(FORMER, number)),
        3 => here(member(CLUSTER, number)),
        _ => here(EngineState::Starting { waiting_for: "containerd".into() }),
    };
    let mut members: Vec<Member> = (0..MANAGERS).map(|number| entry(id(number), &node(number), true, true)).collect();
    members.extend((MANAGERS..nodes).map(|number| entry(member_id("old", number), &node(number), false, false)));
    members.extend((0..nodes / 5).map(|number| entry(member_id("gone", number), &workload(number), false, false)));
    let mut services: Vec<Service> = (0..workloads / 2).map(|number| service(&workload(number * 2), OLD)).collect();
    services.extend((0..workloads / 4).map(|number| service(&name(&format!("gone{number}")), OLD)));
    let seen = (0..nodes).map(|number| (node(number), state(number))).collect();
    (declared_swarm(nodes, workloads), observed_swarm(seen, members, services))
}

fn card(kind: u8, number: usize) -> Mac {
    Mac([2, 0, kind, 0, (number >> 8) as u8, number as u8])
}

/// Every card of a node was seen as a stranger's, as many machines were not seen for a month, and as many did not say
/// in time what they are.
fn strangers_with_much_to_do(nodes: usize) -> (BTreeSet<Mac>, strangers::Observed) {
    let declared: BTreeSet<Mac> = (0..nodes).map(|number| card(0, number)).collect();
    let old = (0..nodes).map(|number| (card(1, number), 0));
    let seen = declared.iter().map(|mac| (*mac, NOW)).chain(old).collect();
    let adoptions = (0..nodes).map(|number| (card(2, number), Adoption::Asked { until: NOW })).collect();
    (declared, strangers::Observed { seen, adoptions })
}

fn strangers_at_rest(nodes: usize) -> (BTreeSet<Mac>, strangers::Observed) {
    let declared = (0..nodes).map(|number| card(0, number)).collect();
    let seen = (0..nodes).map(|number| (card(1, number), NOW)).collect();
    (declared, strangers::Observed { seen, adoptions: BTreeMap::new() })
}

/// Whom backups are encrypted to: of age's own tests.
const KEY: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";

/// So many backups, one an hour, of which seven stay.
fn backups(made: u64) -> (Option<Backup>, (BTreeSet<Millis>, Millis)) {
    let backup = Backup {
        folder: "/backups".into(),
        recipients: vec![KEY.parse().expect("a key")],
        every_hours: 1,
        keep: 7,
        days: 365,
    };
    (Some(backup), ((0..made).map(|number| NOW - 1 - number * HOUR).collect(), NOW))
}

/// Every node runs boot set 2, and boots this one when it starts again.
fn images(nodes: usize, set: u8) -> (sets::Declared, sets::Observed) {
    let digest = |number| Digest([number; 32]);
    let declared = sets::Declared {
        architectures: Architecture::ALL.to_vec(),
        nodes: (0..nodes).map(node).collect(),
        inputs: Some(digest(2)),
    };
    let shelf = |architecture| {
        (architecture, Set { digest: digest(set), inputs: Some(digest(set)), expires: None, refused: None })
    };
    let runs = |number| (node(number), Runs { architecture: Architecture::Amd64, set: digest(2), forbidden: false });
    let observed = sets::Observed {
        shelf: Architecture::ALL.into_iter().map(shelf).collect(),
        nodes: (0..nodes).map(runs).collect(),
    };
    (declared, observed)
}

/// A repository that was looked at a second ago; a person may have asked for another look since.
fn source(asked: Option<Millis>) -> (Option<Followed>, (source::Observed, Millis)) {
    let followed = Followed {
        git: "/srv/home.git".into(),
        branch: "main".into(),
        every: 30,
        path: String::new(),
        signers: Vec::new(),
        token_file: None,
    };
    let observed = source::Observed { looked: Some(NOW - 1000), asked, ..source::Observed::default() };
    (Some(followed), (observed, NOW))
}
