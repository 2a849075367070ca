//! Machines that asked to boot and are not in the repository: held in memory, a bounded number, and
//! written when there is time. A flood of them costs neither disk nor another machine's boot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bramble_boot::Asker;
use bramble_model::api::Seen;
use bramble_model::names::Mac;
use bramble_model::timeline::{Millis, What};
use bramble_store::{OnLoss, Record, Store, Table};
use bramble_system::{locked, now};
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::store::beside;
use crate::timeline::Timeline;
use crate::vendor;

/// A machine repeats itself: within this many milliseconds it is one event.
const SAME: Millis = 4000;
/// How many are kept.
const MOST: usize = 512;
/// Events of strangers within a minute; more are counted and not told.
const TOLD: u32 = 60;
const WRITE: Duration = Duration::from_secs(2);

/// MAC → a machine that is not in the repository.
pub(crate) struct Sightings;

impl Record for Sightings {
    type Key = Mac;
    type Value = Seen;
    const TABLE: Table = Table::new("seen");
    const FORM: u32 = 1;
    const WHAT: &'static str = "the sighting of";
    const ON_LOSS: OnLoss = OnLoss::BeginAnew;
}

/// Who was seen and is nobody's.
pub(crate) struct Strangers {
    store: Store,
    timeline: Arc<Timeline>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    seen: BTreeMap<Mac, Seen>,
    /// To be written, or to be removed from disk where it is not seen any more.
    changed: BTreeSet<Mac>,
    /// The present minute, and events told in it.
    told: (Millis, u32),
}

impl Inner {
    /// Notes it; `true` where it is worth an event.
    fn note(&mut self, mac: Mac, firmware: &str, uuid: Option<String>, at: Millis) -> bool {
        let known = self.seen.get(&mac);
        let recent = known.is_some_and(|seen| seen.last + SAME > at);
        let (first, times) = known.map_or((at, 0), |seen| (seen.first, seen.times));
        let vendor = known.and_then(|seen| seen.vendor.clone());
        let is_known = known.is_some();
        if !is_known && self.seen.len() >= MOST {
            let oldest = self.seen.values().min_by_key(|seen| seen.last).map(|seen| seen.mac);
            if let Some(oldest) = oldest {
                self.seen.remove(&oldest);
                self.changed.insert(oldest);
            }
        }
        let seen = Seen { mac, vendor, firmware: firmware.to_owned(), uuid, first, last: at, times: times + 1 };
        self.seen.insert(mac, seen);
        self.changed.insert(mac);
        !recent && self.may_tell(at)
    }

    /// Whether one event more of strangers is told in this minute.
    fn may_tell(&mut self, at: Millis) -> bool {
        if at / 60_000 != self.told.0 {
            self.told = (at / 60_000, 0);
        }
        let may = self.told.1 < TOLD;
        self.told.1 += u32::from(may);
        may
    }
}

impl Strangers {
    /// # Errors
    /// When the store cannot be read.
    pub(crate) fn open(store: Store, timeline: Arc<Timeline>) -> Result<Self, Error> {
        let seen = store.blocking().read_all::<Sightings>()?.readable;
        Ok(Strangers { store, timeline, inner: Mutex::new(Inner { seen, ..Inner::default() }) })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        locked(&self.inner)
    }

    /// Remembers a machine that the repository does not have.
    pub(crate) fn saw(&self, mac: Mac, firmware: Asker, uuid: Option<String>) {
        let is_news = self.inner().note(mac, &firmware.to_string(), uuid, now());
        if is_news {
            self.timeline.add(None, What::SeenUnknown { mac, firmware });
        }
    }

    /// Whether one more event of machines that are nobody's goes into the journal: a flood of them does not fill it.
    pub(crate) fn may_be_told_of(&self) -> bool {
        self.inner().may_tell(now())
    }

    /// Nothing is kept of having seen it.
    pub(crate) fn forget(&self, mac: Mac) {
        let mut inner = self.inner();
        if inner.seen.remove(&mac).is_some() {
            inner.changed.insert(mac);
        }
    }

    pub(crate) fn all(&self) -> Vec<Seen> {
        self.inner().seen.values().cloned().collect()
    }

    /// Looks up who made the cards that are new, all at once and beside the wire's own work.
    fn name_vendors(&self) {
        let new: Vec<Mac> = {
            let inner = self.inner();
            inner.seen.values().filter(|seen| seen.vendor.is_none()).map(|seen| seen.mac).collect()
        };
        if new.is_empty() {
            return;
        }
        let vendors = vendor::of_all(&new);
        let mut inner = self.inner();
        for (mac, vendor) in new.into_iter().zip(vendors) {
            if let Some(seen) = inner.seen.get_mut(&mac) {
                seen.vendor = Some(vendor);
                inner.changed.insert(mac);
            }
        }
    }

    /// Writes what has changed.
    pub(crate) fn flush(&self) {
        self.name_vendors();
        let changed: Vec<(Mac, Option<Seen>)> = {
            let mut inner = self.inner();
            let changed = std::mem::take(&mut inner.changed);
            changed.into_iter().map(|mac| (mac, inner.seen.get(&mac).cloned())).collect()
        };
        let changed: Vec<_> = changed.iter().map(|(mac, seen)| (*mac, seen.as_ref())).collect();
        if !changed.is_empty()
            && let Err(error) = self.store.blocking().note::<Sightings>(&changed)
        {
            tracing::error!(%error, "seen machines could not be stored");
        }
    }

    /// Keeps the disk up to date until cancelled.
    pub(crate) async fn keep(self: Arc<Self>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(WRITE) => {}
            }
            let strangers = Arc::clone(&self);
            // The store's own error is logged; a panic there is one of this part.
            beside(move || strangers.flush()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use bramble_model::repository::Cluster;

    use super::*;

    fn card(number: u16) -> Mac {
        let [high, low] = number.to_be_bytes();
        Mac([2, 0, 0, 0, high, low])
    }

    #[test]
    fn a_flood_is_bounded_in_memory_and_in_events() {
        let mut inner = Inner::default();
        let told = (0..5000).filter(|number| inner.note(card(*number), "BIOS PXE", None, 1000)).count();
        assert_eq!((inner.seen.len(), told), (MOST, TOLD as usize));
    }

    fn open(folder: &std::path::Path) -> Strangers {
        let store = Store::open(&folder.join("head.redb"), 1).expect("opens");
        let place = std::path::Path::new("/nowhere");
        let text = "[cluster]\nname = \"c\"\n[network]\ninterface = \"eth0\"\n";
        let cluster = Cluster::parse(place, &place.join("bramble.toml"), text).expect("valid");
        let timeline = Arc::new(Timeline::open(store.clone(), &cluster, 0).expect("opens"));
        Strangers::open(store, timeline).expect("reads")
    }

    #[test]
    fn what_was_seen_is_there_after_a_restart() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        {
            let strangers = open(folder.path());
            strangers.inner().note(card(1), "BIOS PXE", None, 1000);
            strangers.inner().note(card(1), "BIOS PXE", None, 9000);
            strangers.flush();
        }
        let strangers = open(folder.path());
        let [seen] = &strangers.all()[..] else { panic!("one machine") };
        assert_eq!((seen.first, seen.last, seen.times), (1000, 9000, 2));
    }
}
