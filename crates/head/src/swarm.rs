//! What the head knows of the Swarm: what it remembers, what it saw last, and in which lead it asks.

use std::sync::Mutex;

use bramble_model::agent::Fence;
use bramble_model::agent::swarm::Observed as Listing;
use bramble_model::timeline::Millis;
use bramble_plan::swarm::Record;
use bramble_store::Store;
use bramble_system::now;

use crate::error::Error;
use crate::membership;

/// What was last seen of the Swarm, for whoever shows it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sight {
    /// What a manager said last, and when.
    pub(crate) listing: Option<(Listing, Millis)>,
    /// Why that is not the present: what could not be read, and since when.
    pub(crate) stale: Option<(String, Millis)>,
}

/// The part of the head that knows the Swarm. It keeps nothing true: that is the loop's.
pub(crate) struct Swarm {
    store: Store,
    /// In which this head leads it.
    lead: Fence,
    /// The last view of it.
    sight: Mutex<Sight>,
}

impl Swarm {
    /// Takes the lead.
    pub(crate) fn open(store: Store) -> Self {
        // A disk that takes no writes gives no lead: boots go on, and agents refuse what needs one.
        let lead = store.blocking().lead("swarm");
        let lead = lead.map_or(Fence { life: 0, number: 0 }, |lead| Fence { life: lead.life, number: lead.number });
        Swarm { store, lead, sight: Mutex::default() }
    }

    pub(crate) fn lead(&self) -> Fence {
        self.lead
    }

    /// What is remembered of it.
    ///
    /// # Errors
    /// When it cannot be read; that is not "there is none".
    pub(crate) fn remembered(&self) -> Result<Record, Error> {
        membership::swarm(&self.store)
    }

    /// Changes what is remembered of it. On disk when this returns.
    ///
    /// # Errors
    /// When the one before cannot be read, or the store not be written; then nothing has changed.
    pub(crate) fn remember<T>(&self, change: impl FnMut(&mut Record) -> T) -> Result<T, Error> {
        membership::change_swarm(&self.store, change)
    }

    pub(crate) fn sight(&self) -> Sight {
        self.sight.lock().expect("no panic while held").clone()
    }

    pub(crate) fn read(&self, listing: Listing) {
        *self.sight.lock().expect("no panic while held") = Sight { listing: Some((listing, now())), stale: None };
    }

    /// It could not be read: what was read before stays, and is shown as what it is.
    pub(crate) fn cannot_read(&self, reason: &str) {
        let mut sight = self.sight.lock().expect("no panic while held");
        let since = sight.stale.take().map_or_else(now, |(_, since)| since);
        sight.stale = Some((reason.to_owned(), since));
    }

    /// A Swarm that was there and cannot be read is a problem by name, whatever its nodes look like.
    pub(crate) fn problem(&self, sight: &Sight) -> Option<String> {
        let (reason, since) = sight.stale.as_ref()?;
        let seconds = now().saturating_sub(*since) / 1000;
        let remembered = self.remembered().ok()?.cluster().map(str::to_owned)?;
        let last = match &sight.listing {
            Some((_, at)) => format!("; what is shown of it is {} s old", now().saturating_sub(*at) / 1000),
            None => String::new(),
        };
        Some(format!("Swarm {remembered} cannot be read, for {seconds} s: {reason}{last}"))
    }
}
