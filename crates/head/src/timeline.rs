//! The timeline: events in a bounded ring, kept over restarts, and what they say of each node.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bramble_boot::Failure;
use bramble_model::agent::{Facts, Health};
use bramble_model::engine::{EngineKind, EngineState};
use bramble_model::names::Name;
use bramble_model::repository::Cluster;
use bramble_model::timeline::{Event, Millis, Phase, What};
use bramble_store::{Key, OnLoss, Record, Store, Table, Write, put};
use bramble_system::{locked, now};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::Error;

/// Event number → event.
pub(crate) struct Events;

impl Record for Events {
    type Key = u64;
    type Value = Event;
    const TABLE: Table = Table::new("events");
    const FORM: u32 = 1;
    const WHAT: &'static str = "event";
    const ON_LOSS: OnLoss = OnLoss::BeginAnew;

    fn key(key: &u64) -> Key {
        Key::Number(*key)
    }
}

/// A day in milliseconds.
const DAY: Millis = 24 * 3600 * 1000;
/// Events that are kept.
const KEPT: u64 = 20_000;
/// Events of the present boot that are kept for each node.
const RECENT: usize = 96;
/// Events wait at most so long to be on disk: a boot makes dozens within seconds, and one write
/// takes them all. Nothing is decided by an event alone.
const WRITE: Duration = Duration::from_millis(250);

/// The timeline.
pub(crate) struct Timeline {
    store: Store,
    inner: Mutex<Inner>,
    /// The number of the newest event.
    newest: watch::Sender<u64>,
    /// The latest time that was stored when the head started.
    stored: Millis,
}

#[derive(Default)]
struct Inner {
    events: VecDeque<Event>,
    /// Events that are not on disk yet.
    unwritten: Vec<Event>,
    nodes: BTreeMap<Name, Track>,
}

/// What a node says of why it does not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) reason: String,
    /// Where stage 1 said it.
    pub(crate) kind: Option<Failure>,
}

/// Where a node is, by its events.
#[derive(Debug, Clone)]
pub(crate) struct Track {
    pub(crate) phase: Phase,
    pub(crate) since: Millis,
    pub(crate) percent: Option<u8>,
    pub(crate) last: Option<What>,
    pub(crate) failure: Option<Said>,
    /// The key that waits for an operator.
    pub(crate) pending: Option<String>,
    pub(crate) connected: bool,
    pub(crate) facts: Option<Facts>,
    pub(crate) health: Option<Health>,
    /// When the phases of the present boot began.
    pub(crate) times: Vec<(Phase, Millis)>,
    /// The latest events of the present boot, oldest first.
    pub(crate) recent: VecDeque<Event>,
}

impl Default for Track {
    fn default() -> Self {
        Track {
            phase: Phase::Off,
            since: 0,
            percent: None,
            last: None,
            failure: None,
            pending: None,
            connected: false,
            facts: None,
            health: None,
            times: Vec::new(),
            recent: VecDeque::new(),
        }
    }
}

impl Track {
    fn happen(&mut self, event: &Event) {
        self.enter(event.at, &event.what);
        self.recent.push_back(event.clone());
        if self.recent.len() > RECENT {
            // The first ones say what it is; what repeats lies between.
            self.recent.remove(RECENT / 4);
        }
    }

    fn enter(&mut self, at: Millis, what: &What) {
        self.last = Some(what.clone());
        match what {
            What::Connected => self.connected = true,
            What::Disconnected { .. } | What::PowerOff => self.connected = false,
            What::Stage1 { percent, .. } => self.percent = *percent,
            What::Waits { fingerprint, .. } => self.pending = Some(fingerprint.clone()),
            What::Admitted { .. } | What::Refused { .. } => self.pending = None,
            _ => {}
        }
        match what {
            What::Failed { reason, failure, .. } => {
                self.failure = Some(Said { reason: reason.clone(), kind: failure.clone() })
            }
            What::Refused { reason } | What::Waits { reason, .. } | What::OtherRelease { reason } => {
                self.failure = Some(Said { reason: reason.clone(), kind: None })
            }
            _ if what.phase().is_some() => self.failure = None,
            _ => {}
        }
        let Some(phase) = what.phase() else { return };
        let begins_anew = match what {
            What::PowerOn | What::PowerOff => true,
            // Firmware and loader both ask; later, asking means that the machine started again. Beside a
            // router that says what to boot, the script is the first that is heard of it.
            What::Asked { .. } | What::TftpSent { .. } | What::HttpSent { .. } | What::ScriptServed { .. } => {
                self.phase > Phase::Loader
            }
            _ => false,
        };
        if begins_anew {
            // What its agent says counts for as long as the agent is connected: anyone can ask in its name.
            let alive = self.connected.then(|| (self.facts.take(), self.health.take()));
            let connected = alive.is_some();
            let (facts, health) = alive.unwrap_or_default();
            *self = Track { last: self.last.take(), connected, facts, health, ..Track::default() };
        }
        // Within one boot the way leads forward. An engine that lost its place leads back to it.
        let back = matches!(what, What::Engine { .. }) && self.phase == Phase::Ready;
        if begins_anew || phase > self.phase || back {
            self.phase = phase;
            self.since = at;
            if !self.times.iter().any(|(known, _)| *known == phase) && phase != Phase::Off {
                self.times.push((phase, at));
            }
        }
    }
}

/// The number of the last event that was written, readable or not: clients go on from it.
///
/// # Errors
/// When the store cannot be read.
pub(crate) fn last_number(store: &Store) -> Result<u64, Error> {
    Ok(store.blocking().last_number(Events::TABLE)?)
}

/// Adds events and drops all before number `first`.
fn keep_events(store: &Store, events: &[Event], first: u64) -> Result<(), Error> {
    let puts = events.iter().map(|event| put::<Events>(&event.number, event));
    let writes: Vec<Write> = puts.chain([Write::RemoveBefore { table: Events::TABLE, number: first }]).collect();
    store.blocking().commit_even_in_memory(&[], &writes)?;
    Ok(())
}

impl Timeline {
    /// Goes on after event `last`, should those up to it not be there any more.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) fn open(store: Store, cluster: &Cluster, last: u64) -> Result<Self, Error> {
        let mut inner = Inner::default();
        for name in cluster.nodes.keys() {
            inner.nodes.insert(name.clone(), Track::default());
        }
        for event in store.blocking().read_all::<Events>()?.readable.into_values() {
            if let Some(track) = event.node.as_ref().and_then(|name| inner.nodes.get_mut(name)) {
                track.happen(&event);
            }
            inner.events.push_back(event);
        }
        // No agent is connected to a head that has just started.
        for track in inner.nodes.values_mut() {
            track.connected = false;
        }
        let newest = inner.events.back().map_or(0, |event| event.number).max(last);
        let stored = inner.events.iter().map(|event| event.at).max().unwrap_or(0);
        Ok(Timeline { store, inner: Mutex::new(inner), newest: watch::Sender::new(newest), stored })
    }

    /// Keeps what is known of these nodes, and of no others. Gives those that are new.
    pub(crate) fn keep_only<'a>(&self, nodes: impl Iterator<Item = &'a Name>) -> Vec<Name> {
        let mut inner = self.inner();
        let mut old = std::mem::take(&mut inner.nodes);
        let mut new = Vec::new();
        for name in nodes {
            let track = old.remove(name).unwrap_or_else(|| {
                new.push(name.clone());
                Track::default()
            });
            inner.nodes.insert(name.clone(), track);
        }
        new
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        locked(&self.inner)
    }

    /// Says that the head's clock is behind what it wrote itself: a board without a clock of its own, before it
    /// has asked for the time.
    pub(crate) fn clock_problem(&self) -> Option<String> {
        let days = self.stored.saturating_sub(now()) / DAY;
        (days > 0).then(|| {
            format!("the head's clock is {days} days behind its own records: set it, or certificates made now are good for nothing")
        })
    }

    /// Adds an event.
    pub(crate) fn add(&self, node: Option<&Name>, what: What) {
        let at = now();
        tracing::info!(node = node.map(Name::as_str), event = what.sentence());
        let mut inner = self.inner();
        let number = *self.newest.borrow() + 1;
        let event = Event { number, at, node: node.cloned(), what };
        if let Some(track) = node.and_then(|name| inner.nodes.get_mut(name)) {
            track.happen(&event);
        }
        inner.unwritten.push(event.clone());
        inner.events.push_back(event);
        while inner.events.len() as u64 > KEPT {
            inner.events.pop_front();
        }
        // Still under the lock: the next event counts on from this one.
        self.newest.send_replace(number);
        drop(inner);
    }

    pub(crate) fn note(&self, text: &str) {
        self.add(None, What::Note { text: text.to_owned() });
    }

    pub(crate) fn note_of(&self, node: &Name, text: &str) {
        self.add(Some(node), What::Note { text: text.to_owned() });
    }

    /// What is known of a node, where it stands; of one that is not known, nothing.
    pub(crate) fn study<T>(&self, node: &Name, read: impl FnOnce(&mut Track) -> T) -> T {
        match self.inner().nodes.get_mut(node) {
            Some(track) => read(track),
            None => read(&mut Track::default()),
        }
    }

    /// One thing that is known of a node, without a copy of the rest.
    pub(crate) fn look<T>(&self, node: &Name, read: impl FnOnce(&Track) -> T) -> Option<T> {
        self.inner().nodes.get(node).map(read)
    }

    /// A connected node's place in this engine, as it says.
    pub(crate) fn engine_of(&self, node: &Name, kind: EngineKind) -> Option<EngineState> {
        let engine = |health: &Health| health.engine(kind).clone();
        self.look(node, |track| track.health.as_ref().filter(|_| track.connected).map(engine))?
    }

    /// Changes what is known of a node beside its events.
    pub(crate) fn learn(&self, node: &Name, change: impl FnOnce(&mut Track)) {
        if let Some(track) = self.inner().nodes.get_mut(node) {
            change(track);
        }
    }

    /// Events after number `after`, at most `most`.
    pub(crate) fn after(&self, after: u64, most: usize) -> Vec<Event> {
        self.inner().events.iter().filter(|event| event.number > after).take(most).cloned().collect()
    }

    /// The latest events of a node, the newest first.
    pub(crate) fn of(&self, node: &Name, most: usize) -> Vec<Event> {
        self.inner().events.iter().rev().filter(|event| event.node.as_ref() == Some(node)).take(most).cloned().collect()
    }

    /// Whether this was said of the node within the last so many milliseconds, and of the same question: a
    /// loader that asks anew takes the same steps as the firmware before it, and they count.
    pub(crate) fn has_just_told(&self, node: &Name, what: &What, within: Millis) -> bool {
        let since = now().saturating_sub(within);
        let asks = matches!(what, What::Asked { .. });
        let inner = self.inner();
        let recent = inner.nodes.get(node).into_iter().flat_map(|track| track.recent.iter().rev());
        for event in recent.take_while(|event| event.at > since) {
            if event.what == *what {
                return true;
            }
            if !asks && matches!(event.what, What::Asked { .. }) {
                return false;
            }
        }
        false
    }

    /// Tells when there is a newer event.
    pub(crate) fn newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// Writes what is not on disk yet.
    pub(crate) fn flush(&self) {
        let events = std::mem::take(&mut self.inner().unwritten);
        let Some(last) = events.last() else { return };
        let first = (last.number + 1).saturating_sub(KEPT);
        if let Err(error) = keep_events(&self.store, &events, first) {
            tracing::error!(%error, "events could not be stored");
            let mut inner = self.inner();
            let newer = std::mem::replace(&mut inner.unwritten, events);
            inner.unwritten.extend(newer);
        }
    }

    /// Keeps the disk up to date until cancelled.
    pub(crate) async fn keep(self: Arc<Self>, stop: CancellationToken) {
        let mut newest = self.newest();
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => {}
                changed = newest.changed() => if changed.is_err() { return },
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(WRITE) => {}
            }
            self.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bramble_model::names::{BootTag, Mac};

    impl Track {
        fn happens(&mut self, at: Millis, what: &What) {
            self.happen(&Event { number: at, at, node: None, what: what.clone() });
        }
    }

    fn boot() -> Vec<What> {
        let asked = What::Asked { mac: Mac([0; 6]), firmware: "UEFI x64 PXE".into() };
        vec![
            What::PowerOn,
            asked.clone(),
            What::TftpSent { file: "ipxe.efi".into(), bytes: 1 },
            asked,
            What::ScriptServed { boot: BootTag("b".into()), set: "s".into() },
            What::Fetching { file: "kernel".into(), bytes: 1 },
            What::Stage1 { step: "root".into(), percent: Some(60) },
            What::Stage1 { step: "switch-root".into(), percent: None },
            What::Connected,
            What::Engine { state: "joining".into(), up: false },
            What::Ready,
        ]
    }

    #[test]
    fn a_boot_passes_its_phases_in_order() {
        let mut track = Track::default();
        for (at, what) in boot().iter().enumerate() {
            track.happens(at as Millis, what);
        }
        let phases: Vec<Phase> = track.times.iter().map(|(phase, _)| *phase).collect();
        assert_eq!(phases, Phase::WAY);
    }

    #[test]
    fn a_machine_that_asks_again_has_started_again() {
        let mut track = Track::default();
        for (at, what) in boot().iter().chain(&boot()[1..6]).enumerate() {
            track.happens(at as Millis, what);
        }
        assert_eq!((track.phase, track.times[0]), (Phase::Kernel, (Phase::Firmware, 11)));
        assert!(track.connected, "someone asks in its name; its connection tells when it has ended");
        track.happens(99, &What::Disconnected { reason: "silent".into() });
        assert!(!track.connected);
    }

    #[test]
    fn a_machine_that_only_fetches_its_script_has_started_again() {
        let mut track = Track::default();
        for (at, what) in boot().iter().chain(&boot()[4..6]).enumerate() {
            track.happens(at as Millis, what);
        }
        assert_eq!((track.phase, track.times[0]), (Phase::Kernel, (Phase::Loader, 11)));
    }

    #[test]
    fn a_panic_of_whoever_looks_at_a_node_ends_no_timeline() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(&folder.path().join("head.redb"), 1).expect("opens");
        let place = std::path::Path::new("/nowhere");
        let text = "[cluster]\nname = \"c\"\n[network]\ninterface = \"eth0\"\n[roles.r]\nengine = \"none\"\n\
            [nodes.w1]\nmac = \"52:54:00:00:00:01\"\nrole = \"r\"\n";
        let cluster = Cluster::parse(place, &place.join("bramble.toml"), text).expect("valid");
        let timeline = Timeline::open(store, &cluster, 0).expect("opens");
        let w1: Name = "w1".parse().expect("a name");
        std::thread::scope(|scope| {
            let connection = scope.spawn(|| timeline.learn(&w1, |_| panic!("a connection's")));
            connection.join().expect_err("it panics");
        });
        timeline.add(Some(&w1), What::Connected);
        assert_eq!(timeline.look(&w1, |track| track.connected), Some(true));
    }

    #[test]
    fn a_clock_that_is_behind_is_told() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(&folder.path().join("head.redb"), 1).expect("opens");
        let place = std::path::Path::new("/nowhere");
        let text = "[cluster]\nname = \"c\"\n[network]\ninterface = \"eth0\"\n";
        let cluster = Cluster::parse(place, &place.join("bramble.toml"), text).expect("valid");
        let event = |at| Event { number: 1, at, node: None, what: What::Ready };
        keep_events(&store, &[event(now())], 0).expect("stored");
        assert_eq!(Timeline::open(store.clone(), &cluster, 0).expect("opens").clock_problem(), None);
        keep_events(&store, &[event(now() + 400 * DAY + DAY / 2)], 0).expect("stored");
        let problem = Timeline::open(store, &cluster, 0).expect("opens").clock_problem().expect("a problem");
        assert!(problem.contains("400 days behind"), "{problem}");
    }

    #[test]
    fn old_events_are_dropped_and_numbers_go_on() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(&folder.path().join("head.redb"), 1).expect("opens");
        let event = |number| Event { number, at: 0, node: None, what: What::Ready };
        keep_events(&store, &[event(1), event(2), event(3)], 2).expect("stored");
        let kept = store.blocking().read_all::<Events>().expect("read").readable;
        assert_eq!(kept.into_keys().collect::<Vec<_>>(), [2, 3]);
        assert_eq!(last_number(&store).expect("read"), 3);
    }

    #[test]
    fn a_failure_is_forgotten_when_the_node_goes_on() {
        let mut track = Track::default();
        track.happens(0, &What::Failed { reason: "no link".into(), retry_in_seconds: 1, failure: None });
        assert_eq!(track.failure, Some(Said { reason: "no link".into(), kind: None }));
        track.happens(1, &What::Stage1 { step: "root".into(), percent: Some(0) });
        assert_eq!(track.failure, None);
    }
}
