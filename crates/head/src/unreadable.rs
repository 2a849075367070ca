//! Records that cannot be read: what begins anew is set aside when the head starts; the others wait for a person,
//! and whatever needs one of them fails with its name.
//!
//! Only the head writes to its store, so what was found when it started, and after each repair, is all.

use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::Json;
use axum::extract::State;
use bramble_model::api::{Repaired, UnreadableRecord};
use bramble_store::{OnLoss, Record, Store, Unreadable};
use bramble_system::{locked, now};

use crate::access::audit::copy::CopiedTo;
use crate::access::audit::refusals::RefusalsKept;
use crate::access::audit::{AuditLog, Chains};
use crate::access::people::{Tokens, Users};
use crate::access::sessions::Sessions;
use crate::admissions::{Admissions, HandOffs, LastChains, ReadyWith, WaitingKeys};
use crate::adoptions::AdoptionsKept;
use crate::boot_sets::{FloorKept, GivenSets};
use crate::error::Error;
use crate::leases::LentAddresses;
use crate::loops::source::newest::NewestCommits;
use crate::membership::{Engines, SingleValues};
use crate::places::PlacesKept;
use crate::refusal::{Refusal, failed};
use crate::snapshots::record::{self, BegunWith, Contents, History, Pointers, Snapshots};
use crate::store::{self, STORE};
use crate::strangers::Sightings;
use crate::timeline::Events;

/// What waits for a person: no plan is made that needs one of these records.
pub(crate) struct Waiting {
    found: Mutex<Vec<Unreadable>>,
    /// Two who repair do so one after the other, and whoever only looks waits for neither.
    turn: Mutex<()>,
}

fn add<R: Record>(store: &Store, found: &mut Vec<(OnLoss, Unreadable)>) -> Result<(), Error> {
    let unreadable = store.blocking().read_all::<R>()?.unreadable;
    found.extend(unreadable.into_iter().map(|record| (R::ON_LOSS, record)));
    Ok(())
}

/// All of every kind.
fn all(store: &Store) -> Result<Vec<(OnLoss, Unreadable)>, Error> {
    let mut found = Vec::new();
    add::<LentAddresses>(store, &mut found)?;
    add::<Admissions>(store, &mut found)?;
    add::<HandOffs>(store, &mut found)?;
    add::<LastChains>(store, &mut found)?;
    add::<ReadyWith>(store, &mut found)?;
    add::<WaitingKeys>(store, &mut found)?;
    add::<Sightings>(store, &mut found)?;
    add::<AdoptionsKept>(store, &mut found)?;
    add::<PlacesKept>(store, &mut found)?;
    add::<SingleValues>(store, &mut found)?;
    add::<Engines>(store, &mut found)?;
    add::<Snapshots>(store, &mut found)?;
    add::<Contents>(store, &mut found)?;
    add::<Pointers>(store, &mut found)?;
    add::<History>(store, &mut found)?;
    add::<BegunWith>(store, &mut found)?;
    add::<NewestCommits>(store, &mut found)?;
    add::<GivenSets>(store, &mut found)?;
    add::<FloorKept>(store, &mut found)?;
    add::<Users>(store, &mut found)?;
    add::<Sessions>(store, &mut found)?;
    add::<Tokens>(store, &mut found)?;
    add::<Events>(store, &mut found)?;
    add::<AuditLog>(store, &mut found)?;
    add::<Chains>(store, &mut found)?;
    add::<RefusalsKept>(store, &mut found)?;
    add::<CopiedTo>(store, &mut found)?;
    found.extend(record::dangling(store)?.map(|pointer| (Pointers::ON_LOSS, pointer)));
    Ok(found)
}

/// How many records cannot be read.
///
/// # Errors
/// When the store cannot be read.
pub(crate) fn number(store: &Store) -> Result<usize, Error> {
    Ok(all(store)?.len())
}

impl Waiting {
    /// Looks for them when the head starts. What begins anew is set aside; where that cannot be done, it is
    /// told as what waits is. Gives what is to be said of it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) fn find(store: &Store) -> Result<(Self, Vec<String>), Error> {
        let (anew, wait): (Vec<_>, Vec<_>) =
            all(store)?.into_iter().partition(|(on_loss, _)| *on_loss == OnLoss::BeginAnew);
        let only = |found: Vec<(OnLoss, Unreadable)>| found.into_iter().map(|(_, record)| record).collect::<Vec<_>>();
        let (anew, mut wait) = (only(anew), only(wait));
        let mut notes = Vec::new();
        match store.blocking().set_aside(&anew, now()) {
            Ok(done) => notes.extend(done.files.iter().map(|path| {
                format!("records of the head that could not be read are in {}, and begin anew", path.display())
            })),
            Err(error) => {
                tracing::error!(error = bramble_system::sentence(&error), "records could not be set aside");
                wait.extend(anew);
            }
        }
        for record in &wait {
            tracing::error!(%record, "a record waits for a person");
        }
        Ok((Waiting { found: Mutex::new(wait), turn: Mutex::new(()) }, notes))
    }

    pub(crate) fn list(&self) -> Vec<Unreadable> {
        locked(&self.found).clone()
    }

    /// Sets aside all that cannot be read.
    fn repair(&self, store: &Store) -> Result<Repaired, Error> {
        let _turn = locked(&self.turn);
        let done = set_aside(store)?;
        let left = all(store)?.into_iter().map(|(_, record)| record).collect();
        *locked(&self.found) = left;
        Ok(done)
    }
}

fn told(record: &Unreadable) -> UnreadableRecord {
    UnreadableRecord { table: record.table.name().to_owned(), key: record.key.to_string(), problem: record.to_string() }
}

/// Sets aside all that cannot be read; then what led to it and leads nowhere now.
fn set_aside(store: &Store) -> Result<Repaired, Error> {
    let mut repaired = Repaired { files: Vec::new(), records: 0 };
    loop {
        let found: Vec<Unreadable> = all(store)?.into_iter().map(|(_, record)| record).collect();
        if found.is_empty() {
            return Ok(repaired);
        }
        let done = store.blocking().set_aside(&found, now())?;
        repaired.files.extend(done.files.iter().map(|path| path.display().to_string()));
        repaired.records += done.records;
    }
}

/// `GET /v1/store/unreadable`
pub(crate) async fn list(State(waiting): State<Arc<Waiting>>) -> Json<Vec<UnreadableRecord>> {
    Json(waiting.list().iter().map(told).collect())
}

/// `POST /v1/store/repair`: sets aside what cannot be read.
pub(crate) async fn repair(
    State(waiting): State<Arc<Waiting>>,
    State(store): State<Store>,
) -> Result<Json<Repaired>, Refusal> {
    let done = store::beside(move || waiting.repair(&store)).await;
    done.map(Json).map_err(failed)
}

/// Whether a head has been here.
pub fn has_store(state: &Path) -> bool {
    state.join(STORE).exists()
}

/// The store of a head that does not run.
fn resting(state: &Path) -> Result<Option<Store>, Error> {
    // A look makes no store where there is none.
    if has_store(state) { Ok(Some(store::open(state)?)) } else { Ok(None) }
}

/// What cannot be read in the store of a head that does not run.
///
/// # Errors
/// When the store cannot be opened.
pub fn list_of(state: &Path) -> Result<Vec<UnreadableRecord>, Error> {
    let Some(store) = resting(state)? else { return Ok(Vec::new()) };
    Ok(all(&store)?.iter().map(|(_, record)| told(record)).collect())
}

/// Sets aside what cannot be read in the store of a head that does not run.
///
/// # Errors
/// When the store cannot be opened or written.
pub fn repair_of(state: &Path) -> Result<Repaired, Error> {
    match resting(state)? {
        Some(store) => set_aside(&store),
        None => Ok(Repaired { files: Vec::new(), records: 0 }),
    }
}

#[cfg(test)]
mod tests;
