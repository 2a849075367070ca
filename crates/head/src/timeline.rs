//! The timeline: events in a bounded ring, kept over restarts, and what they say of each node.

mod budget;
mod kept;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bramble_boot::Failure;
use bramble_model::agent::{Facts, Health};
use bramble_model::engine::{EngineKind, EngineState};
use bramble_model::names::Name;
use bramble_model::repository::Cluster;
use bramble_model::timeline::{Event, Millis, Phase, What};
use bramble_plan::leaving::Asking;
use bramble_store::{Key, OnLoss, Record, Store, Table, Write, put, remove};
use bramble_system::{locked, now};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use budget::{Budgets, Owner, PER_MINUTE, Voice};
use kept::Kept;

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
/// Events of the present boot that are kept for each node.
const RECENT: usize = 96;
/// And their bytes.
const RECENT_BYTES: usize = 64 << 10;
/// What was not kept is told that long after, at the latest.
const TOLD: Duration = Duration::from_secs(60);
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
    kept: Kept,
    budgets: BTreeMap<Owner, Budgets>,
    /// Events that are kept and not on disk yet, by number.
    unwritten: BTreeSet<u64>,
    /// Events that are on disk, or on their way there, and are not kept any more.
    gone: BTreeSet<u64>,
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
    pub(crate) pending: Option<Asking>,
    pub(crate) connected: bool,
    pub(crate) facts: Option<Facts>,
    pub(crate) health: Option<Health>,
    /// When the phases of the present boot began.
    pub(crate) times: Vec<(Phase, Millis)>,
    /// The latest events of the present boot, oldest first.
    pub(crate) recent: VecDeque<Event>,
    /// Their bytes.
    recent_bytes: usize,
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
            recent_bytes: 0,
        }
    }
}

impl Track {
    fn happen(&mut self, event: &Event) {
        self.enter(event.at, &event.what);
        self.recent.push_back(event.clone());
        self.recent_bytes += event.weight();
        while self.recent.len() > RECENT || self.recent_bytes > RECENT_BYTES {
            // The first ones say what it is; what repeats lies between.
            let Some(old) = self.recent.remove((RECENT / 4).min(self.recent.len() / 4)) else { break };
            self.recent_bytes -= old.weight();
        }
    }

    fn enter(&mut self, at: Millis, what: &What) {
        self.last = Some(what.clone());
        match what {
            What::Connected => self.connected = true,
            What::Disconnected { .. } | What::PowerOff => self.connected = false,
            What::Stage1 { percent, .. } => self.percent = *percent,
            What::Waits { fingerprint, digits, .. } => {
                self.pending = Some(Asking { key: fingerprint.clone(), shows_digits: *digits });
            }
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

/// Adds events, and drops those with these numbers.
fn keep_events(store: &Store, events: &[Event], gone: &BTreeSet<u64>) -> Result<(), Error> {
    let puts = events.iter().map(|event| put::<Events>(&event.number, event));
    let writes: Vec<Write> = puts.chain(gone.iter().map(remove::<Events>)).collect();
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
        let mut stored = 0;
        for event in store.blocking().read_all::<Events>()?.readable.into_values() {
            // A head of before kept texts as they were said.
            let event = Event { what: event.what.plain(), ..event };
            stored = stored.max(event.at);
            if let Some(track) = event.node.as_ref().and_then(|name| inner.nodes.get_mut(name)) {
                track.happen(&event);
            }
            let owner = Owner::of(event.node.as_ref(), Voice::of(&event.what));
            let gone = inner.kept.push(owner, event);
            inner.gone.extend(gone);
        }
        // No agent is connected to a head that has just started.
        for track in inner.nodes.values_mut() {
            track.connected = false;
        }
        let newest = inner.kept.all().last().map_or(0, |event| event.number).max(last);
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

    /// Adds an event. Where its voice has said too much of this node, the node is where it says all the same, and the event
    /// is counted only.
    pub(crate) fn add(&self, node: Option<&Name>, what: What) {
        self.say(Voice::of(&what), node, what, now());
    }

    /// A sentence of the node's own: what it says there counts with all else that it says.
    pub(crate) fn says_of_itself(&self, node: &Name, text: &str) {
        self.say(Voice::Machine, Some(node), What::Note { text: text.to_owned() }, now());
    }

    fn say(&self, voice: Voice, node: Option<&Name>, what: What, at: Millis) {
        let what = what.plain();
        let owner = Owner::of(node, voice);
        let mut inner = self.inner();
        // What the head says of nobody is nobody's flood.
        let may = owner == Owner::Head || inner.budgets.entry(owner.clone()).or_default().may(voice, at);
        if may {
            self.keep_one(inner, owner, node, what, at);
        } else if let Some(track) = node.and_then(|name| inner.nodes.get_mut(name)) {
            track.enter(at, &what);
        }
    }

    fn keep_one(&self, mut inner: MutexGuard<'_, Inner>, owner: Owner, node: Option<&Name>, what: What, at: Millis) {
        let sentence = what.sentence();
        let number = *self.newest.borrow() + 1;
        let event = Event { number, at, node: node.cloned(), what };
        if let Some(track) = node.and_then(|name| inner.nodes.get_mut(name)) {
            track.happen(&event);
        }
        inner.unwritten.insert(number);
        for gone in inner.kept.push(owner, event) {
            // What was never written need not be removed.
            if !inner.unwritten.remove(&gone) {
                inner.gone.insert(gone);
            }
        }
        // Still under the lock: the next event counts on from this one.
        self.newest.send_replace(number);
        drop(inner);
        tracing::info!(node = node.map(Name::as_str), event = sentence);
    }

    /// Tells how much was not kept, of whoever a minute is over.
    fn tell_what_was_not_kept(&self, at: Millis) {
        let due: Vec<(Owner, u64)> = {
            let mut inner = self.inner();
            let owners = inner.budgets.iter_mut();
            owners.filter_map(|(owner, budgets)| Some((owner.clone(), budgets.due(at)?))).collect()
        };
        for (owner, lost) in due {
            let events = if lost == 1 { "event was" } else { "events were" };
            let text = format!("{lost} more {events} not kept: {PER_MINUTE} a minute are");
            let node = match &owner {
                Owner::Node(node) => Some(node.clone()),
                Owner::Strangers | Owner::Head => None,
            };
            self.keep_one(self.inner(), owner, node.as_ref(), What::Note { text }, at);
        }
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
        self.inner().kept.after(after).take(most).cloned().collect()
    }

    /// The latest events of a node, the newest first.
    pub(crate) fn of(&self, node: &Name, most: usize) -> Vec<Event> {
        self.inner().kept.of(&Owner::Node(node.clone())).take(most).cloned().collect()
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
        self.tell_what_was_not_kept(now());
        let (events, gone) = {
            let mut inner = self.inner();
            let numbers = std::mem::take(&mut inner.unwritten);
            let events: Vec<Event> = numbers.iter().filter_map(|number| inner.kept.get(*number).cloned()).collect();
            (events, std::mem::take(&mut inner.gone))
        };
        if events.is_empty() && gone.is_empty() {
            return;
        }
        if let Err(error) = keep_events(&self.store, &events, &gone) {
            tracing::error!(%error, "events could not be stored");
            let mut inner = self.inner();
            // What went meanwhile is among those that are gone.
            let still: Vec<u64> = events.iter().map(|event| event.number).collect();
            let still: Vec<u64> = still.into_iter().filter(|number| inner.kept.get(*number).is_some()).collect();
            inner.unwritten.extend(still);
            inner.gone.extend(gone);
        }
    }

    /// Whether something is still to be told of what was not kept.
    fn owes(&self) -> bool {
        self.inner().budgets.values().any(Budgets::owes)
    }

    /// Keeps the disk up to date until cancelled.
    pub(crate) async fn keep(self: Arc<Self>, stop: CancellationToken) {
        let mut newest = self.newest();
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => {}
                changed = newest.changed() => if changed.is_err() { return },
                // One that has said too much may say nothing more.
                () = tokio::time::sleep(TOLD), if self.owes() => {}
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
mod tests;
