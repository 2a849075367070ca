//! What the head knows of the Swarm: what it remembers, what it saw last, and in which lead it asks.

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock};

use bramble_model::agent::Fence;
use bramble_model::agent::swarm::Observed as Listing;
use bramble_model::names::Name;
use bramble_model::timeline::Millis;
use bramble_plan::swarm::Record;
use bramble_store::Store;
use bramble_system::{locked, now};

use crate::error::Error;
use crate::membership;

/// What was last seen of the Swarm, for whoever shows it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sight {
    /// What a manager said last, and when.
    pub(crate) listing: Option<(Listing, Millis)>,
    /// Why that is not the present: what could not be read, and since when.
    pub(crate) stale: Option<(String, Millis)>,
    /// Managers that were asked and gave no view, and why.
    pub(crate) without: BTreeMap<Name, String>,
}

impl Sight {
    /// What is wrong with each manager that gave no view.
    pub(crate) fn mute(&self) -> impl Iterator<Item = (&Name, String)> {
        self.without.iter().map(|(name, reason)| (name, format!("manager {name} does not say what it sees: {reason}")))
    }
}

/// The part of the head that knows the Swarm. It keeps nothing true: that is the loop's.
pub(crate) struct Swarm {
    store: Store,
    /// In which this head leads it: taken once, when the disk takes writes.
    lead: OnceLock<Fence>,
    /// The last view of it.
    sight: Mutex<Sight>,
}

impl Swarm {
    pub(crate) fn open(store: Store) -> Self {
        Swarm { store, lead: OnceLock::new(), sight: Mutex::default() }
    }

    /// In which this head leads it. Where it does not yet, it takes the lead.
    ///
    /// # Errors
    /// When the disk takes no writes: a lead that would not last is none.
    pub(crate) fn lead(&self) -> Result<Fence, Error> {
        if let Some(lead) = self.lead.get() {
            return Ok(*lead);
        }
        let lead = self.store.blocking().lead("swarm")?;
        Ok(*self.lead.get_or_init(|| Fence { life: lead.life, number: lead.number }))
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
        locked(&self.sight).clone()
    }

    pub(crate) fn read(&self, listing: Listing, without: BTreeMap<Name, String>) {
        let sight = Sight { listing: Some((listing, now())), stale: None, without };
        *locked(&self.sight) = sight;
    }

    /// It could not be read: what was read before stays, and is shown as what it is.
    pub(crate) fn cannot_read(&self, reason: &str, without: BTreeMap<Name, String>) {
        let mut sight = locked(&self.sight);
        sight.without = without;
        let since = sight.stale.take().map_or_else(now, |(_, since)| since);
        sight.stale = Some((reason.to_owned(), since));
    }

    /// A Swarm that was there and cannot be read is a problem by name, whatever its nodes look like.
    pub(crate) fn problem(&self, sight: &Sight) -> Option<String> {
        let (reason, since) = sight.stale.as_ref()?;
        let seconds = now().saturating_sub(*since) / 1000;
        let which = match self.remembered() {
            Ok(record) => format!("Swarm {}", record.cluster()?),
            // What cannot be read is not none.
            Err(_) => "the Swarm".to_owned(),
        };
        let last = match &sight.listing {
            Some((_, at)) => format!("; what is shown of it is {} s old", now().saturating_sub(*at) / 1000),
            None => String::new(),
        };
        Some(format!("{which} cannot be read, for {seconds} s: {reason}{last}"))
    }
}
