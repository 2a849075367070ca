//! The driver over a thing as simple as can be: numbers that are to be there.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use bramble_model::names::{Digest, Name};
use bramble_model::repository::Cluster;
use bramble_model::section::Risk;
use bramble_model::snapshot::{Revision, Snapshot};
use bramble_plan::contract::Plan;
use bramble_store::Store;

use super::*;

/// Adds the nodes of the repository that are not there.
#[derive(Default)]
struct Adding;

#[derive(Debug, Clone)]
struct Add(Name);

impl fmt::Display for Add {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("is added")
    }
}

impl Planner for Adding {
    type Declared = BTreeSet<Name>;
    type Observed = BTreeSet<Name>;
    type Step = Add;
    type Seen = ();

    fn plan(&self, declared: &BTreeSet<Name>, observed: &BTreeSet<Name>, _now: Millis) -> Plan<Add, ()> {
        assert!(
            observed.iter().all(|name| name.as_str() != "cursed"),
            "as a planner that has an error of its own does"
        );
        let steps = declared.difference(observed).map(|name| Planned {
            subject: Subject::node(name),
            seen: (),
            reason: "it is not there".into(),
            risk: Risk::Safe,
            step: Add(name.clone()),
        });
        Plan { steps: steps.collect(), waits: Vec::new() }
    }

    fn foresee(&self, observed: &mut BTreeSet<Name>, step: &Add) {
        observed.insert(step.0.clone());
    }
}

/// A world that takes its time.
#[derive(Default)]
struct World {
    /// The first look takes its time, and each later one hangs.
    hangs: bool,
    there: Mutex<BTreeSet<Name>>,
    /// How often each was added.
    added: Mutex<BTreeMap<Name, usize>>,
    looks: AtomicUsize,
    /// How often what was seen was told to others.
    told: AtomicUsize,
    /// How often it was told that nothing could be seen.
    blinded: AtomicUsize,
    changed: Changes,
    blind: Mutex<Option<String>>,
    doubt: Mutex<Option<String>>,
}

struct Slow {
    world: Arc<World>,
    look: Duration,
    step: Duration,
    panics: bool,
}

impl Controller for Slow {
    type Planner = Adding;

    const NAME: &'static str = "adding";

    fn declared(&self, current: &Current) -> BTreeSet<Name> {
        current.cluster.nodes.keys().cloned().collect()
    }

    async fn observe(&self, _declared: &BTreeSet<Name>) -> Result<BTreeSet<Name>, Unknown> {
        let looks = self.world.looks.fetch_add(1, Ordering::Relaxed);
        if self.world.hangs && looks > 0 {
            std::future::pending::<()>().await;
        }
        // What is seen is of the look's beginning, and told late.
        let seen = self.world.there.lock().expect("no panic").clone();
        let blind = self.world.blind.lock().expect("no panic").clone();
        tokio::time::sleep(self.look).await;
        blind.map_or(Ok(seen), |reason| Err(Unknown(reason)))
    }

    fn saw(&self, seen: Result<&BTreeSet<Name>, &Unknown>) {
        let count = if seen.is_ok() { &self.world.told } else { &self.world.blinded };
        count.fetch_add(1, Ordering::Relaxed);
    }

    fn doubt(&self) -> Option<String> {
        self.world.doubt.lock().expect("no panic").clone()
    }

    async fn perform(&self, planned: Planned<Add, ()>) -> Outcome {
        assert!(!self.panics, "as a step that has an error of its own does");
        tokio::time::sleep(self.step).await;
        let name = planned.step.0;
        *self.world.added.lock().expect("no panic").entry(name.clone()).or_default() += 1;
        self.world.there.lock().expect("no panic").insert(name);
        Outcome::Done
    }

    fn wakes(&self) -> Vec<watch::Receiver<u64>> {
        vec![self.world.changed.receiver()]
    }

    fn looks(&self) -> (Duration, Duration) {
        (Duration::from_secs(5), Duration::from_secs(1))
    }
}

fn snapshot(nodes: &[&str]) -> Arc<Current> {
    let mut text =
        String::from("[cluster]\nname = \"c\"\n[network]\ninterface = \"eth0\"\n[roles.r]\nengine = \"none\"\n");
    for (at, name) in nodes.iter().enumerate() {
        text += &format!("[nodes.{name}]\nmac = \"52:54:00:00:00:{at:02x}\"\nrole = \"r\"\n");
    }
    let place = Path::new("/nowhere");
    let cluster = Cluster::parse(place, &place.join("bramble.toml"), &text).expect("valid");
    Arc::new(Current::of(
        Digest([u8::try_from(nodes.len()).expect("few"); 32]),
        Snapshot::default(),
        Revision::default(),
        cluster,
    ))
}

struct Running {
    _folder: tempfile::TempDir,
    sections: Arc<Sections>,
    current: watch::Sender<Option<Arc<Current>>>,
    stop: CancellationToken,
}

impl Running {
    fn start(controller: Slow, nodes: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&folder.path().join("head.redb"), 1).expect("opens");
        let current = watch::Sender::new(Some(snapshot(nodes)));
        let cluster = Arc::clone(&snapshot(nodes).cluster);
        let timeline = Arc::new(Timeline::open(store, &cluster, 0).expect("opens"));
        let (sections, stop) = (Arc::<Sections>::default(), CancellationToken::new());
        let shared = Shared { sections: Arc::clone(&sections), timeline, current: current.subscribe() };
        tokio::spawn(run(Arc::new(controller), shared, stop.clone()));
        Running { _folder: folder, sections, current, stop }
    }

    async fn until(&self, what: &str, is: impl Fn(&Section) -> bool) -> Section {
        // The clock of these tests runs by itself while everyone waits.
        for _ in 0..10_000 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if let Some(section) = self.sections.all().into_iter().find(|section| is(section)) {
                return section;
            }
        }
        panic!("{what} never came: {:?}", self.sections.all());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn names(texts: &[&str]) -> BTreeSet<Name> {
    texts.iter().map(|text| text.parse().expect("a name")).collect()
}

#[tokio::test(start_paused = true)]
async fn what_was_seen_before_a_step_ended_is_not_planned_from() {
    // A look takes longer than a step: many end while it is under way.
    for (look, step) in [(3000, 100), (100, 3000), (700, 700), (1, 1)] {
        let world = Arc::new(World::default());
        let (look, step) = (Duration::from_millis(look), Duration::from_millis(step));
        let controller = Slow { world: Arc::clone(&world), look, step, panics: false };
        let running = Running::start(controller, &["a", "b", "c"]);
        let noisy = Arc::clone(&world);
        let noise = tokio::spawn(async move {
            loop {
                noisy.changed.tell();
                tokio::time::sleep(Duration::from_millis(130)).await;
            }
        });
        running
            .until("rest", |section| {
                section.busy.is_empty() && *world.there.lock().expect("no panic") == names(&["a", "b", "c"])
            })
            .await;
        running.current.send_replace(Some(snapshot(&["a", "b", "c", "d"])));
        running
            .until("the new one", |section| section.busy.is_empty() && world.there.lock().expect("no panic").len() == 4)
            .await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        noise.abort();
        let added = world.added.lock().expect("no panic").clone();
        assert!(added.values().all(|times| *times == 1), "{look:?}, {step:?}: {added:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_look_that_hangs_is_said_and_holds_up_no_step() {
    let world = Arc::new(World { hangs: true, ..World::default() });
    let (look, step) = (Duration::from_millis(1), Duration::from_secs(10));
    let running = Running::start(Slow { world: Arc::clone(&world), look, step, panics: false }, &["a"]);
    running.until("a step", |section| !section.busy.is_empty()).await;
    world.changed.tell();
    // The step ends while the second look hangs, and is said to have ended before that is given up.
    let section = running.until("its end", |section| section.busy.is_empty()).await;
    assert!(world.looks.load(Ordering::Relaxed) == 2 && section.unknown.is_none(), "{section:?}");
    assert_eq!(*world.there.lock().expect("no panic"), names(&["a"]));
    assert_eq!(world.blinded.load(Ordering::Relaxed), 0);
    let section = running.until("an unknown", |section| section.unknown.is_some()).await;
    assert!(section.unknown.is_some_and(|unknown| unknown.reason.contains("nothing was learnt")));
    assert!(world.blinded.load(Ordering::Relaxed) > 0, "whoever shows what was seen is told that nothing is seen now");
}

#[tokio::test(start_paused = true)]
async fn from_what_cannot_be_read_nothing_is_planned() {
    let world = Arc::new(World::default());
    *world.blind.lock().expect("no panic") = Some("its file is torn".into());
    let step = Duration::from_millis(1);
    let running = Running::start(Slow { world: Arc::clone(&world), look: step, step, panics: false }, &["a"]);
    running.until("an unknown", |section| section.unknown.is_some()).await;
    assert!(world.there.lock().expect("no panic").is_empty());
    *world.blind.lock().expect("no panic") = None;
    world.changed.tell();
    running.until("what was read", |section| section.unknown.is_none() && section.revision.is_some()).await;
    running.until("what was to be done", |_| !world.there.lock().expect("no panic").is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn from_what_is_declared_in_doubt_nothing_is_planned_and_a_preview_is() {
    let world = Arc::<World>::default();
    *world.doubt.lock().expect("no panic") = Some("an older one took its place".into());
    let step = Duration::from_millis(1);
    let controller = Slow { world: Arc::clone(&world), look: step, step, panics: false };
    assert_eq!(foresee(&controller, &snapshot(&["a"])).await.steps.len(), 1);
    let running = Running::start(controller, &["a"]);
    running.until("an unknown", |section| section.unknown.is_some()).await;
    assert!(world.there.lock().expect("no panic").is_empty() && world.told.load(Ordering::Relaxed) > 0);
    *world.doubt.lock().expect("no panic") = None;
    world.changed.tell();
    running.until("what was to be done", |_| !world.there.lock().expect("no panic").is_empty()).await;
}

/// `bramble plan` of a snapshot that nobody applied could make the status say that the Swarm cannot be read.
#[tokio::test(start_paused = true)]
async fn what_is_seen_for_a_preview_is_shown_to_nobody() {
    let world = Arc::<World>::default();
    let step = Duration::from_millis(1);
    let controller = Slow { world: Arc::clone(&world), look: step, step, panics: false };
    let foreseen = foresee(&controller, &snapshot(&["a", "b"])).await;
    assert_eq!((foreseen.steps.len(), world.looks.load(Ordering::Relaxed)), (2, 1));
    assert_eq!(world.told.load(Ordering::Relaxed), 0);
    let running = Running::start(controller, &["a", "b"]);
    running.until("both", |section| section.waits.is_empty() && section.observed_at.is_some()).await;
    assert!(world.told.load(Ordering::Relaxed) > 0, "the loop's own looks are");
}

/// It ended the head, with all boots, and again after each start.
#[tokio::test(start_paused = true)]
async fn a_planner_that_panics_makes_no_plan_and_the_loop_goes_on() {
    let world = Arc::new(World::default());
    world.there.lock().expect("no panic").extend(names(&["cursed"]));
    let step = Duration::from_millis(1);
    let running = Running::start(Slow { world: Arc::clone(&world), look: step, step, panics: false }, &["a"]);
    let section = running.until("an unknown", |section| section.unknown.is_some()).await;
    assert!(section.unknown.is_some_and(|unknown| unknown.reason.contains("bramble's own")));
    world.there.lock().expect("no panic").clear();
    world.changed.tell();
    running.until("what was to be done", |_| *world.there.lock().expect("no panic") == names(&["a"])).await;
}

#[tokio::test(start_paused = true)]
async fn a_step_that_panics_has_failed_and_the_loop_goes_on() {
    let world = Arc::new(World::default());
    let step = Duration::from_millis(1);
    let running = Running::start(Slow { world: Arc::clone(&world), look: step, step, panics: true }, &["a"]);
    let section = running.until("a failure", |section| !section.failed.is_empty()).await;
    assert!(section.failed[0].reason.contains("bramble's own"), "{section:?}");
    assert!(section.failed[0].again.is_some(), "it is tried again");
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_is_at_rest_looks_seldom_and_a_noisy_world_wakes_it_no_more_than_it_can_look() {
    let world = Arc::new(World::default());
    let step = Duration::from_millis(1);
    let running = Running::start(Slow { world: Arc::clone(&world), look: step, step, panics: false }, &["a"]);
    running.until("rest", |section| section.revision.is_some() && section.busy.is_empty()).await;
    let before = world.looks.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(50)).await;
    let rested = world.looks.load(Ordering::Relaxed) - before;
    assert!((8..=12).contains(&rested), "{rested} looks in 50 s");
    for _ in 0..1000 {
        world.changed.tell();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let looked = world.looks.load(Ordering::Relaxed) - before - rested;
    assert!(looked <= 60, "{looked} looks in a second");
}

/// Fault 7 of the ground: what is done for a workload stood in the timeline of the node of its name.
#[tokio::test]
async fn a_workload_named_like_a_node_writes_nothing_into_that_nodes_timeline() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(&folder.path().join("head.redb"), 1).expect("opens");
    let timeline = Timeline::open(store, &snapshot(&["web"]).cluster, 0).expect("opens");
    let web: Name = "web".parse().expect("a name");
    let happens = |subject: Subject| {
        let (reason, step) = ("it is not there".to_owned(), Add(web.clone()));
        let planned = Planned { subject: subject.clone(), seen: (), reason, risk: Risk::Safe, step };
        tell_begin(&timeline, &planned);
        let outcome = Outcome::Failed { reason: "it does not check".into(), retry: Retry::Never };
        tell_end(&timeline, &Driver::new("swarm"), &subject, &outcome);
        timeline.of(&web, 100).len()
    };
    assert_eq!(happens(Subject::workload(bramble_model::engine::EngineKind::Swarm, &web)), 0);
    assert!(timeline.after(0, 100).len() >= 2, "they are told of the cluster");
    assert_eq!(happens(Subject::node(&web)), 2);
}
