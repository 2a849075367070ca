//! What was found of the newest commit, kept: with its repository away, a head that has just started says what waits.

use bramble_plan::source::Newest;
use bramble_store::{OnLoss, Record, Store, Table};

use crate::error::Error;

/// `newest` → the newest commit of the repository that is followed, where it did not become current.
pub(crate) struct NewestCommits;

impl Record for NewestCommits {
    type Key = String;
    type Value = Newest;
    const TABLE: Table = Table::new("newest-commit");
    const FORM: u32 = 1;
    const WHAT: &'static str = "what was found of the commit";
    const ON_LOSS: OnLoss = OnLoss::BeginAnew;
}

fn key() -> String {
    "newest".into()
}

/// # Errors
/// When that cannot be read.
pub(super) fn kept(store: &Store) -> Result<Option<Newest>, Error> {
    Ok(store.blocking().read::<NewestCommits>(&key())?)
}

/// Keeps it, where it is another than before.
///
/// # Errors
/// When the store cannot be read or written.
pub(super) fn keep(store: &Store, newest: Option<&Newest>) -> Result<(), Error> {
    if kept(store).is_ok_and(|kept| kept.as_ref() == newest) {
        return Ok(());
    }
    Ok(store.blocking().note::<NewestCommits>(&[(key(), newest)])?)
}
