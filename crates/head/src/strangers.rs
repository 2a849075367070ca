//! Machines that asked to boot and are not in the repository: held in memory, a bounded number, and
//! written when there is time. A flood of them costs neither disk nor another machine's boot.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bramble_model::api::Seen;
use bramble_model::names::Mac;
use bramble_model::timeline::{Millis, What};
use bramble_system::now;
use tokio_util::sync::CancellationToken;

use crate::store::Store;
use crate::{Error, Head, vendor};

/// A machine repeats itself: within this many milliseconds it is one event.
const SAME: Millis = 4000;
/// How many are kept.
const MOST: usize = 512;
/// Events of strangers within a minute; more are counted and not told.
const TOLD: u32 = 60;
const WRITE: Duration = Duration::from_secs(2);

#[derive(Default)]
pub(crate) struct Strangers(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    seen: BTreeMap<Mac, Seen>,
    /// To be written, and to be removed from disk.
    changed: BTreeMap<Mac, bool>,
    /// The present minute, and events told in it.
    told: (Millis, u32),
}

impl Strangers {
    pub(crate) fn open(store: &Store) -> Result<Self, Error> {
        let seen = store.seen()?.into_iter().map(|seen| (seen.mac, seen)).collect();
        Ok(Strangers(Mutex::new(Inner { seen, ..Inner::default() })))
    }

    /// Notes it; `true` where it is worth an event.
    fn note(&self, mac: Mac, firmware: &str, uuid: Option<String>, at: Millis) -> bool {
        let mut inner = self.0.lock().expect("no panic while held");
        let known = inner.seen.get(&mac);
        let recent = known.is_some_and(|seen| seen.last + SAME > at);
        let (first, times) = known.map_or((at, 0), |seen| (seen.first, seen.times));
        let vendor = known.and_then(|seen| seen.vendor.clone());
        let is_known = known.is_some();
        if !is_known && inner.seen.len() >= MOST {
            let oldest = inner.seen.values().min_by_key(|seen| seen.last).map(|seen| seen.mac);
            if let Some(oldest) = oldest {
                inner.seen.remove(&oldest);
                inner.changed.insert(oldest, false);
            }
        }
        let seen = Seen { mac, vendor, firmware: firmware.to_owned(), uuid, first, last: at, times: times + 1 };
        inner.seen.insert(mac, seen);
        inner.changed.insert(mac, true);
        if at / 60_000 != inner.told.0 {
            inner.told = (at / 60_000, 0);
        }
        if recent || inner.told.1 >= TOLD {
            return false;
        }
        inner.told.1 += 1;
        true
    }

    pub(crate) fn all(&self) -> Vec<Seen> {
        self.0.lock().expect("no panic while held").seen.values().cloned().collect()
    }

    /// Looks up who made the cards that are new, all at once and beside the wire's own work.
    fn name_vendors(&self) {
        let new: Vec<Mac> = {
            let inner = self.0.lock().expect("no panic while held");
            inner.seen.values().filter(|seen| seen.vendor.is_none()).map(|seen| seen.mac).collect()
        };
        if new.is_empty() {
            return;
        }
        let vendors = vendor::of_all(&new);
        let mut inner = self.0.lock().expect("no panic while held");
        for (mac, vendor) in new.into_iter().zip(vendors) {
            if let Some(seen) = inner.seen.get_mut(&mac) {
                seen.vendor = Some(vendor);
                inner.changed.insert(mac, true);
            }
        }
    }

    /// Writes what has changed.
    pub(crate) fn flush(&self, store: &Store) {
        self.name_vendors();
        let (put, gone) = {
            let mut inner = self.0.lock().expect("no panic while held");
            let changed = std::mem::take(&mut inner.changed);
            let (put, gone): (Vec<_>, Vec<_>) = changed.into_iter().partition(|(_, kept)| *kept);
            let put: Vec<Seen> = put.iter().filter_map(|(mac, _)| inner.seen.get(mac).cloned()).collect();
            (put, gone.into_iter().map(|(mac, _)| mac).collect::<Vec<_>>())
        };
        if (!put.is_empty() || !gone.is_empty())
            && let Err(error) = store.put_seen(&put, &gone)
        {
            tracing::error!(%error, "seen machines could not be stored");
        }
    }

    /// Keeps the disk up to date until cancelled.
    pub(crate) async fn keep(head: Arc<Head>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(WRITE) => {}
            }
            let head = Arc::clone(&head);
            // The store's own error is logged; a panic there ends the head elsewhere.
            let _ = tokio::task::spawn_blocking(move || head.strangers.flush(&head.store)).await;
        }
    }
}

impl Head {
    /// Remembers a machine that the repository does not have.
    pub(crate) fn saw_unknown(&self, mac: Mac, firmware: String, uuid: Option<String>) {
        if self.strangers.note(mac, &firmware, uuid, now()) {
            self.timeline.add(None, What::SeenUnknown { mac, firmware });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(number: u16) -> Mac {
        let [high, low] = number.to_be_bytes();
        Mac([2, 0, 0, 0, high, low])
    }

    #[test]
    fn a_flood_is_bounded_in_memory_and_in_events() {
        let strangers = Strangers::default();
        let told = (0..5000).filter(|number| strangers.note(card(*number), "BIOS PXE", None, 1000)).count();
        assert_eq!((strangers.all().len(), told), (MOST, TOLD as usize));
    }

    #[test]
    fn what_was_seen_is_there_after_a_restart() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("head.redb");
        {
            let store = Store::open(&path).expect("opens");
            let strangers = Strangers::open(&store).expect("reads");
            strangers.note(card(1), "BIOS PXE", None, 1000);
            strangers.note(card(1), "BIOS PXE", None, 9000);
            strangers.flush(&store);
        }
        let strangers = Strangers::open(&Store::open(&path).expect("opens")).expect("reads");
        let [seen] = &strangers.all()[..] else { panic!("one machine") };
        assert_eq!((seen.first, seen.last, seen.times), (1000, 9000, 2));
    }
}
