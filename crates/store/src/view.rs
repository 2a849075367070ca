//! All records of a kind, for whoever asks for them often: read anew only where their table has changed.

use std::sync::{Arc, Mutex};

use bramble_system::locked;
use tokio::sync::watch;

use crate::{All, Error, Record, Store, Version};

/// What is kept of a table.
pub struct View<R: Record> {
    store: Store,
    changed: watch::Receiver<Version>,
    /// As the table was at this version, or a later one.
    kept: Mutex<Option<(Version, Arc<All<R>>)>>,
}

impl<R: Record> View<R> {
    pub fn new(store: Store) -> Self {
        let changed = store.watch(R::TABLE);
        View { store, changed, kept: Mutex::new(None) }
    }

    /// As [`crate::Blocking::read_all`]: whatever was acknowledged before is in it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn all(&self) -> Result<Arc<All<R>>, Error> {
        // What is written from here on is read now, or announced after.
        let version = *self.changed.borrow();
        if let Some((of, all)) = &*locked(&self.kept)
            && *of == version
        {
            return Ok(Arc::clone(all));
        }
        let all = Arc::new(self.store.blocking().read_all::<R>()?);
        *locked(&self.kept) = Some((version, Arc::clone(&all)));
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{OnLoss, Table, Write, put};

    struct Counters;

    impl Record for Counters {
        type Key = String;
        type Value = u64;
        const TABLE: Table = Table::new("counters");
        const FORM: u32 = 1;
        const WHAT: &'static str = "counter";
        const ON_LOSS: OnLoss = OnLoss::Wait;
    }

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&folder.path().join("store"), 1).expect("opens");
        (folder, store)
    }

    #[test]
    fn it_is_read_anew_where_its_table_has_changed_and_only_there() {
        let (_folder, store) = store();
        let commit = |write: Write| store.blocking().commit(&[], &[write]).expect("written");
        commit(put::<Counters>(&"a".into(), &1));
        let view = View::<Counters>::new(store.clone());
        let first = view.all().expect("read");
        assert_eq!(first.readable["a"], 1, "also what was there before it");
        commit(Write::Put { table: Table::new("others"), key: "a".into(), bytes: b"1 9".to_vec() });
        assert!(Arc::ptr_eq(&first, &view.all().expect("read")), "another table is");
        commit(Write::Put { table: Counters::TABLE, key: "b".into(), bytes: b"1 {torn".to_vec() });
        let torn = view.all().expect("read");
        assert_eq!((torn.readable.len(), torn.unreadable.len()), (1, 1));
        commit(crate::remove::<Counters>(&"a".into()));
        assert!(view.all().expect("read").readable.is_empty());
    }

    #[test]
    fn whatever_was_acknowledged_is_in_it() {
        let (_folder, store) = store();
        let view = View::<Counters>::new(store.clone());
        std::thread::scope(|scope| {
            for reader in 0..2 {
                let (view, key) = (&view, format!("k{reader}"));
                let store = store.clone();
                scope.spawn(move || {
                    for number in 0..60 {
                        store.blocking().update::<Counters, ()>(&key, |kept| *kept = Some(number)).expect("written");
                        assert_eq!(view.all().expect("read").readable[&key], number);
                    }
                });
            }
        });
    }
}
