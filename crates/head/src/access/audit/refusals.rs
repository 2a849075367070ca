//! What was refused, and what changes nothing: folded and counted, so that whoever tries without end costs so much memory
//! and disk, and pushes nothing else out.
//!
//! ```text
//!  a try ── one like it within the hour ──────────────────────────▶ counted there
//!    ├── another, and its name has not had too many kinds there ──▶ an entry of its own; the oldest whose hour is over goes
//!    ├── of a name that has had too many at this place ───────────▶ "other requests" of it
//!    └── all entries are younger than an hour ────────────────────▶ "other requests" of that door
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bramble_model::audit::{Entry, Refused};
use bramble_model::timeline::Millis;
use bramble_store::{Key, OnLoss, Record, Store, Table};
use bramble_system::{locked, now};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::access::door::Door;
use crate::error::Error;
use crate::store::beside;

/// Number → what was refused. It is only told: one that is lost is counted anew.
pub(crate) struct RefusalsKept;

impl Record for RefusalsKept {
    type Key = u64;
    type Value = Refused;
    const TABLE: Table = Table::new("refusals");
    const FORM: u32 = 1;
    const WHAT: &'static str = "entry of what was refused";
    const ON_LOSS: OnLoss = OnLoss::BeginAnew;

    fn key(key: &u64) -> Key {
        Key::Number(*key)
    }
}

/// Entries that are kept, but for one of each door.
const MOST: usize = 1000;
/// Kinds of tries in one name at one place within the hour that have an entry each.
const OF_PLACE: usize = 32;
/// For so long, tries of one kind are one entry.
const WINDOW: Millis = 3600 * 1000;
/// How often what has changed is written.
const WRITE: Duration = Duration::from_secs(2);
/// The longest text of an entry, in characters.
const LONGEST: usize = 300;
/// The route of what is counted together.
const OTHERS: &str = "other requests";
const ANYWHERE: &str = "anywhere";

/// A try that was refused.
#[derive(Debug, Clone)]
pub(crate) struct Try<'a> {
    pub(crate) door: Door,
    /// The route, not the path: there are so many, whatever is asked for.
    pub(crate) route: &'a str,
    /// By what was shown; `None` where nothing is known of who it was.
    pub(crate) who: Option<&'a str>,
    pub(crate) what: &'a str,
    pub(crate) result: &'a str,
}

/// Tries that are counted as one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    door: &'static str,
    route: String,
    who: String,
    place: String,
}

impl Kind {
    fn of(refused: &Refused) -> Self {
        let Refused { route, who, place, .. } = refused.clone();
        Kind { door: door(&refused.door), route, who, place }
    }

    /// All else in this name, from this place.
    fn others_there(&self) -> Self {
        Kind { route: OTHERS.into(), ..self.clone() }
    }

    /// All else at this door.
    fn others(&self) -> Self {
        Kind { door: self.door, route: OTHERS.into(), who: SOMEONE.into(), place: ANYWHERE.into() }
    }
}

const SOMEONE: &str = "someone";

/// The same word, for as long as the program runs.
fn door(word: &str) -> &'static str {
    ["https", "http", "socket"].into_iter().find(|known| *known == word).unwrap_or("socket")
}

fn line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect()
}

/// Whether it is worth a new word that there were so many: 1, 10, 100 and so on.
fn is_news(times: u64) -> bool {
    10u64.checked_pow(times.ilog10()) == Some(times)
}

/// What was refused, as a machine without a clock or a disk.
#[derive(Debug, Default)]
struct Folding {
    kept: BTreeMap<u64, Refused>,
    /// The latest entry of each kind.
    open: HashMap<Kind, u64>,
    /// The number of the last one.
    last: u64,
    stamp: u64,
    /// Since they were written.
    changed: BTreeSet<u64>,
}

impl Folding {
    fn of(kept: impl IntoIterator<Item = (u64, Refused)>) -> Self {
        let mut folding = Folding::default();
        for (number, refused) in kept {
            folding.open.insert(Kind::of(&refused), number);
            folding.last = folding.last.max(number);
            folding.stamp = folding.stamp.max(refused.stamp);
            folding.kept.insert(number, refused);
        }
        folding
    }

    /// Counts a try; gives the entry where there is something new to tell of it.
    fn add(&mut self, refused: &Try<'_>, now: Millis) -> Option<&Refused> {
        let place = refused.door.place();
        let who = refused.who.unwrap_or(SOMEONE);
        let kind = Kind { door: refused.door.name(), route: line(refused.route), who: line(who), place };
        let number = self.number(&kind, refused, now);
        let entry = self.kept.get_mut(&number)?;
        (entry.times, entry.last) = (entry.times.saturating_add(1), now);
        self.changed.insert(number);
        if !is_news(entry.times) {
            return None;
        }
        self.stamp += 1;
        entry.stamp = self.stamp;
        Some(entry)
    }

    /// The entry that counts it.
    fn number(&mut self, kind: &Kind, refused: &Try<'_>, now: Millis) -> u64 {
        let kinds = [kind.clone(), kind.others_there(), kind.others()];
        for (turn, kind) in kinds.iter().enumerate() {
            if let Some(number) = self.counting(kind, now) {
                return number;
            }
            let has_room = match turn {
                0 => self.kinds_beside(kind, now) < OF_PLACE && self.makes_room(now),
                1 => self.kinds_beside(kind, now) >= OF_PLACE && self.makes_room(now),
                // One of each door is beyond the others.
                _ => true,
            };
            if has_room {
                return self.begin(kind, refused, now);
            }
        }
        unreachable!("the last one has room")
    }

    fn counting(&self, kind: &Kind, now: Millis) -> Option<u64> {
        let number = *self.open.get(kind)?;
        is_young(self.kept.get(&number)?, now).then_some(number)
    }

    fn kinds_beside(&self, kind: &Kind, now: Millis) -> usize {
        let beside = |entry: &&Refused| entry.place == kind.place && entry.who == kind.who && is_young(entry, now);
        self.kept.values().filter(beside).count()
    }

    /// Whether there is room for another, once the oldest whose hour is over have gone.
    fn makes_room(&mut self, now: Millis) -> bool {
        while self.kept.len() >= MOST {
            let over = self.kept.iter().filter(|(_, entry)| !is_young(entry, now));
            let oldest = over.min_by_key(|(number, entry)| (entry.last, **number)).map(|(number, _)| *number);
            let Some((number, gone)) = oldest.and_then(|oldest| self.kept.remove_entry(&oldest)) else { return false };
            let kind = Kind::of(&gone);
            if self.open.get(&kind) == Some(&number) {
                self.open.remove(&kind);
            }
            self.changed.insert(number);
        }
        true
    }

    fn begin(&mut self, kind: &Kind, refused: &Try<'_>, now: Millis) -> u64 {
        self.last += 1;
        let entry = Refused {
            number: self.last,
            first: now,
            last: now,
            times: 0,
            door: kind.door.to_owned(),
            route: kind.route.clone(),
            who: kind.who.clone(),
            from: refused.door.from(),
            place: kind.place.clone(),
            what: if kind.route == OTHERS { OTHERS.to_owned() } else { line(refused.what) },
            result: line(refused.result),
            stamp: 0,
        };
        // An older one of the kind whose hour is over stays as it is.
        self.open.insert(kind.clone(), self.last);
        self.kept.insert(self.last, entry);
        self.last
    }
}

/// Whether tries are counted there. A clock that goes back closes no entry for long.
fn is_young(entry: &Refused, now: Millis) -> bool {
    now.abs_diff(entry.first) < WINDOW
}

/// The part of the audit log that counts what was refused. It is written after a while, by itself.
pub(crate) struct Refusals {
    store: Store,
    folding: Mutex<Folding>,
    stamp: watch::Sender<u64>,
}

impl Refusals {
    /// # Errors
    /// When the store cannot be read.
    pub(crate) fn open(store: Store) -> Result<Self, Error> {
        let folding = Folding::of(store.blocking().read_all::<RefusalsKept>()?.readable);
        let stamp = watch::Sender::new(folding.stamp);
        Ok(Refusals { store, folding: Mutex::new(folding), stamp })
    }

    fn folding(&self) -> MutexGuard<'_, Folding> {
        locked(&self.folding)
    }

    /// Counts a try that was refused, or changes nothing.
    pub(crate) fn add(&self, refused: &Try<'_>) {
        let mut folding = self.folding();
        if let Some(Refused { who, from, what, result, times, .. }) = folding.add(refused, now()) {
            tracing::info!(who, from, what, result, times, "audit");
        }
        self.stamp.send_if_modified(|stamp| std::mem::replace(stamp, folding.stamp) != folding.stamp);
    }

    /// That of the last news.
    pub(crate) fn stamp(&self) -> u64 {
        self.folding().stamp
    }

    /// Tells the stamp of the last news.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.stamp.subscribe()
    }

    /// How many wait for news.
    #[cfg(test)]
    pub(crate) fn followers(&self) -> usize {
        self.stamp.receiver_count()
    }

    /// The latest, oldest first.
    pub(crate) fn latest(&self, most: usize) -> Vec<Entry> {
        let mut all: Vec<Entry> = self.folding().kept.values().map(Refused::told).collect();
        all.sort_by_key(|entry| (entry.folded.map(|folded| folded.last), entry.number));
        all.split_off(all.len().saturating_sub(most))
    }

    /// Those of which there is something to tell since this stamp, in that order.
    pub(crate) fn since(&self, stamp: u64) -> Vec<Refused> {
        let mut found: Vec<Refused> =
            self.folding().kept.values().filter(|entry| entry.stamp > stamp).cloned().collect();
        found.sort_by_key(|entry| entry.stamp);
        found
    }

    pub(crate) fn flush(&self) {
        let changed: Vec<(u64, Option<Refused>)> = {
            let mut folding = self.folding();
            let changed = std::mem::take(&mut folding.changed);
            changed.into_iter().map(|number| (number, folding.kept.get(&number).cloned())).collect()
        };
        let changed: Vec<_> = changed.iter().map(|(number, entry)| (*number, entry.as_ref())).collect();
        if !changed.is_empty()
            && let Err(error) = self.store.blocking().note::<RefusalsKept>(&changed)
        {
            tracing::error!(%error, "what was refused could not be stored");
        }
    }

    /// Keeps the disk up to date until cancelled.
    pub(crate) async fn keep(self: Arc<Self>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(WRITE) => {}
            }
            let refusals = Arc::clone(&self);
            beside(move || refusals.flush()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::*;

    const HOUR: Millis = WINDOW;

    fn from(address: &str) -> Door {
        Door::Tls(SocketAddr::new(address.parse().expect("an address"), 4000))
    }

    fn refused<'a>(door: Door, route: &'a str, who: Option<&'a str>) -> Try<'a> {
        Try { door, route, who, what: route, result: "refused: log in first" }
    }

    fn told(folding: &Folding) -> Vec<(&str, &str, &str, u64)> {
        let all = folding.kept.values();
        all.map(|entry| (entry.route.as_str(), entry.who.as_str(), entry.place.as_str(), entry.times)).collect()
    }

    #[test]
    fn tries_of_one_kind_are_one_entry_for_an_hour() {
        let mut folding = Folding::default();
        for second in 0..500 {
            folding.add(&refused(from("10.77.0.9"), "log in", Some("ann")), 1000 + second);
        }
        folding.add(&refused(from("10.77.0.9"), "log in", None), 2000);
        folding.add(&refused(from("10.77.0.8"), "log in", Some("ann")), 2000);
        assert_eq!(
            told(&folding),
            [
                ("log in", "ann", "10.77.0.9", 500),
                ("log in", "someone", "10.77.0.9", 1),
                ("log in", "ann", "10.77.0.8", 1)
            ]
        );
        let first = &folding.kept[&1];
        assert_eq!((first.first, first.last), (1000, 1499));
        folding.add(&refused(from("10.77.0.9"), "log in", Some("ann")), 1000 + HOUR);
        assert_eq!(folding.kept.len(), 4, "the next hour begins another");
    }

    #[test]
    fn a_host_has_all_addresses_of_its_network_of_ipv6() {
        let mut folding = Folding::default();
        for host in 0..2000 {
            folding.add(&refused(from(&format!("2001:db8:1:2::{host:x}")), "log in", None), 5);
        }
        folding.add(&refused(from("::ffff:10.77.0.9"), "log in", None), 5);
        assert_eq!(
            told(&folding),
            [("log in", "someone", "2001:db8:1:2::/64", 2000), ("log in", "someone", "10.77.0.9", 1)]
        );
    }

    #[test]
    fn one_place_has_so_many_entries_and_pushes_out_no_other() {
        let mut folding = Folding::default();
        folding.add(&refused(from("10.77.0.8"), "log in", Some("ann")), 5);
        for number in 0..5000 {
            folding.add(&refused(from("10.77.0.9"), &format!("GET /{number}"), None), 6);
        }
        assert_eq!(folding.kept.len(), 1 + OF_PLACE + 1);
        assert_eq!(told(&folding)[0], ("log in", "ann", "10.77.0.8", 1));
        assert_eq!(told(&folding)[OF_PLACE + 1], (OTHERS, "someone", "10.77.0.9", 5000 - OF_PLACE as u64));
    }

    #[test]
    fn what_was_told_within_the_hour_is_pushed_out_by_nobody() {
        let mut folding = Folding::default();
        for number in 0..10_000u32 {
            let address = std::net::Ipv4Addr::from(0x0a00_0000 + number);
            folding.add(&refused(from(&address.to_string()), "log in", None), 5);
        }
        assert_eq!(folding.kept.len(), MOST + 1);
        assert_eq!(told(&folding)[0], ("log in", "someone", "10.0.0.0", 1));
        assert_eq!(told(&folding)[MOST], (OTHERS, "someone", ANYWHERE, 10_000 - MOST as u64));
        folding.add(&refused(from("10.77.0.9"), "log in", Some("ann")), 5 + HOUR);
        assert_eq!(told(&folding).last(), Some(&("log in", "ann", "10.77.0.9", 1)), "an hour later there is room");
    }

    #[test]
    fn what_is_told_anew_becomes_rarer() {
        let mut folding = Folding::default();
        let news = (0..100_000).filter(|_| folding.add(&refused(from("10.77.0.9"), "log in", None), 5).is_some());
        assert_eq!(news.count(), 6, "1, 10, 100 …");
    }

    #[test]
    fn what_was_refused_is_known_after_a_start_and_counted_on() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("head.redb");
        let refuse = |refusals: &Refusals| refusals.add(&refused(from("10.77.0.9"), "log in", Some("ann")));
        let refusals = Refusals::open(Store::open(&path, 1).expect("opens")).expect("read");
        let news = refusals.watch();
        refuse(&refusals);
        assert!(news.has_changed().expect("open"));
        refuse(&refusals);
        refusals.flush();
        drop(refusals);
        let refusals = Refusals::open(Store::open(&path, 2).expect("opens")).expect("read");
        refuse(&refusals);
        let latest = refusals.latest(9);
        assert!(latest.len() == 1 && latest[0].folded.is_some_and(|folded| folded.times == 3), "{latest:?}");
        assert_eq!((refusals.since(0).len(), refusals.since(refusals.stamp()).len()), (1, 0));
    }

    fn door_of(network: u8, host: u16) -> Door {
        match network {
            0 => from(&format!("2001:db8:{host:x}::1")),
            1 => Door::Socket { user: 0, is_owner: true },
            _ => from(&std::net::Ipv4Addr::from(0x0a00_0000 + u32::from(host)).to_string()),
        }
    }

    fn counted(folding: &Folding) -> u64 {
        folding.kept.values().map(|entry| entry.times).sum()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Whoever tries what, from wherever, whenever.
        #[test]
        fn all_are_counted_and_few_are_kept(
            tries in prop::collection::vec((0u8..4, 0u16..1200, 0u8..40, any::<bool>()), 0..2000),
            hours in prop::collection::vec(0u64..4, 0..4),
        ) {
            let mut folding = Folding::default();
            for (network, host, route, named) in &tries {
                folding.add(&refused(door_of(*network, *host), &format!("route {route}"), named.then_some("ann")), 5);
            }
            prop_assert_eq!(counted(&folding), tries.len() as u64, "within an hour nothing goes");
            for hour in hours {
                for (network, host, route, named) in &tries {
                    let door = door_of(*network, host.wrapping_mul(3));
                    folding.add(&refused(door, &format!("route {route}"), named.then_some("ann")), 5 + hour * HOUR);
                }
                prop_assert!(folding.kept.len() <= MOST + 3 && folding.open.len() <= folding.kept.len());
            }
            let again = Folding::of(folding.kept.clone());
            let last = folding.kept.keys().max().copied().unwrap_or(0);
            let stamp = folding.kept.values().map(|entry| entry.stamp).max().unwrap_or(0);
            prop_assert_eq!((again.last, again.stamp), (last, stamp));
        }
    }
}
