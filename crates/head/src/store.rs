//! What survives: one embedded database in one file, each entry JSON under its key.

use std::path::{Path, PathBuf};

use bramble_model::api::Seen;
use bramble_model::names::{Mac, Name};
use bramble_model::timeline::Event;
use bramble_netboot::dhcp::Lease;
use bramble_plan::admission::Record;
use bramble_plan::chain::Chain;
use bramble_plan::hand_off;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Error;

type Table = TableDefinition<'static, &'static str, &'static [u8]>;

/// Address → lease.
const LEASES: Table = TableDefinition::new("leases");
/// Node → what is known of its boots.
const ADMISSIONS: Table = TableDefinition::new("admissions");
/// Node → which other system it was handed.
const HAND_OFFS: Table = TableDefinition::new("hand-offs");
/// Which loaders run on a node.
const CHAINS: Table = TableDefinition::new("chains");
/// MAC → a machine that is not in the repository.
const SEEN: Table = TableDefinition::new("seen");
/// Single values by name.
const FACTS: Table = TableDefinition::new("facts");
/// Event number → event.
const EVENTS: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("events");

/// The engine's cluster that the nodes belong to.
const CLUSTER: &str = "cluster";

/// The store.
pub(crate) struct Store {
    database: Database,
    path: PathBuf,
}

impl Store {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|source| Error::File {
                doing: "cannot make the folder",
                path: folder.to_owned(),
                source,
            })?;
        }
        let failed = |error: redb::Error| Error::Store { path: path.to_owned(), source: Box::new(error) };
        // A small cache: a cluster's store is a few megabytes, and the head has 40 to live in.
        let database =
            Database::builder().set_cache_size(4 << 20).create(path).map_err(|error| failed(error.into()))?;
        let store = Store { database, path: path.to_owned() };
        store.write(|transaction| {
            for table in [LEASES, ADMISSIONS, HAND_OFFS, CHAINS, SEEN, FACTS] {
                transaction.open_table(table)?;
            }
            transaction.open_table(EVENTS)?;
            Ok(())
        })?;
        Ok(store)
    }

    fn failed(&self, error: impl Into<redb::Error>) -> Error {
        Error::Store { path: self.path.clone(), source: Box::new(error.into()) }
    }

    /// One transaction, on disk when this returns.
    fn write(&self, change: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>) -> Result<(), Error> {
        let transaction = self.database.begin_write().map_err(|error| self.failed(error))?;
        change(&transaction).map_err(|error| self.failed(error))?;
        transaction.commit().map_err(|error| self.failed(error))
    }

    fn put(&self, table: Table, entries: &[(String, impl Serialize)]) -> Result<(), Error> {
        self.write(|transaction| {
            let mut table = transaction.open_table(table)?;
            for (key, value) in entries {
                let bytes = serde_json::to_vec(value).expect("stored types are plain data");
                table.insert(key.as_str(), bytes.as_slice())?;
            }
            Ok(())
        })
    }

    fn all<T: DeserializeOwned>(&self, table: Table) -> Result<Vec<(String, T)>, Error> {
        let read = || {
            let table = self.database.begin_read()?.open_table(table)?;
            let mut found = Vec::new();
            for entry in table.iter()? {
                let (key, value) = entry?;
                // An entry of an older form counts as absent: what matters is asked for again.
                if let Ok(value) = serde_json::from_slice(value.value()) {
                    found.push((key.value().to_owned(), value));
                }
            }
            Ok::<_, redb::Error>(found)
        };
        read().map_err(|error| self.failed(error))
    }

    pub(crate) fn leases(&self) -> Result<Vec<Lease>, Error> {
        Ok(self.all(LEASES)?.into_iter().map(|(_, lease)| lease).collect())
    }

    pub(crate) fn put_leases(&self, leases: &[Lease]) -> Result<(), Error> {
        let entries: Vec<_> = leases.iter().map(|lease| (lease.address.to_string(), lease)).collect();
        self.put(LEASES, &entries)
    }

    fn one<T: DeserializeOwned + Default>(&self, table: Table, key: &str) -> Result<T, Error> {
        let read = || {
            let table = self.database.begin_read()?.open_table(table)?;
            let kept = table.get(key)?;
            Ok::<_, redb::Error>(kept.and_then(|bytes| serde_json::from_slice(bytes.value()).ok()))
        };
        Ok(read().map_err(|error| self.failed(error))?.unwrap_or_default())
    }

    /// Reads, changes and writes a record in one transaction, so that two who change the same one
    /// do so one after the other. On disk when this returns.
    fn change<R: DeserializeOwned + Serialize + Default, T>(
        &self,
        table: Table,
        key: &str,
        change: impl FnOnce(&mut R) -> T,
    ) -> Result<T, Error> {
        let mut result = None;
        self.write(|transaction| {
            let mut table = transaction.open_table(table)?;
            let kept = table.get(key)?.and_then(|bytes| serde_json::from_slice(bytes.value()).ok());
            let mut record: R = kept.unwrap_or_default();
            result = Some(change(&mut record));
            let bytes = serde_json::to_vec(&record).expect("stored types are plain data");
            table.insert(key, bytes.as_slice())?;
            Ok(())
        })?;
        Ok(result.expect("the transaction ran the change"))
    }

    pub(crate) fn admission(&self, node: &Name) -> Result<Record, Error> {
        self.one(ADMISSIONS, node.as_str())
    }

    pub(crate) fn change_admission<T>(&self, node: &Name, change: impl FnOnce(&mut Record) -> T) -> Result<T, Error> {
        self.change(ADMISSIONS, node.as_str(), change)
    }

    pub(crate) fn hand_off(&self, node: &Name) -> Result<hand_off::Record, Error> {
        self.one(HAND_OFFS, node.as_str())
    }

    pub(crate) fn change_hand_off<T>(
        &self,
        node: &Name,
        change: impl FnOnce(&mut hand_off::Record) -> T,
    ) -> Result<T, Error> {
        self.change(HAND_OFFS, node.as_str(), change)
    }

    pub(crate) fn chain(&self, node: &Name) -> Result<Chain, Error> {
        self.one(CHAINS, node.as_str())
    }

    pub(crate) fn put_chain(&self, node: &Name, chain: Chain) -> Result<(), Error> {
        self.put(CHAINS, &[(node.to_string(), chain)])
    }

    pub(crate) fn seen(&self) -> Result<Vec<Seen>, Error> {
        Ok(self.all(SEEN)?.into_iter().map(|(_, seen)| seen).collect())
    }

    pub(crate) fn put_seen(&self, seen: &[Seen], gone: &[Mac]) -> Result<(), Error> {
        self.write(|transaction| {
            let mut table = transaction.open_table(SEEN)?;
            for seen in seen {
                let bytes = serde_json::to_vec(seen).expect("stored types are plain data");
                table.insert(seen.mac.to_string().as_str(), bytes.as_slice())?;
            }
            for mac in gone {
                table.remove(mac.to_string().as_str())?;
            }
            Ok(())
        })
    }

    pub(crate) fn cluster(&self) -> Result<Option<String>, Error> {
        Ok(self.all(FACTS)?.into_iter().find(|(name, _)| name == CLUSTER).map(|(_, value)| value))
    }

    pub(crate) fn put_cluster(&self, cluster: &str) -> Result<(), Error> {
        self.put(FACTS, &[(CLUSTER.to_owned(), cluster)])
    }

    pub(crate) fn events(&self) -> Result<Vec<Event>, Error> {
        let read = || {
            let table = self.database.begin_read()?.open_table(EVENTS)?;
            let mut found = Vec::new();
            for entry in table.iter()? {
                found.extend(serde_json::from_slice(entry?.1.value()));
            }
            Ok::<_, redb::Error>(found)
        };
        read().map_err(|error| self.failed(error))
    }

    /// Adds events and drops all before number `first`.
    pub(crate) fn put_events(&self, events: &[Event], first: u64) -> Result<(), Error> {
        self.write(|transaction| {
            let mut table = transaction.open_table(EVENTS)?;
            for event in events {
                let bytes = serde_json::to_vec(event).expect("events are plain data");
                table.insert(event.number, bytes.as_slice())?;
            }
            table.retain_in(..first, |_, _| false)?;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stored_is_there_after_a_restart() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("head.redb");
        let mac = "52:54:00:00:00:01".parse().expect("a MAC");
        let lease = Lease { address: [10, 77, 0, 100].into(), mac, until: 7, quarantined: false };
        let node: Name = "m1".parse().expect("a name");
        let record = Record { known: true, ..Record::default() };
        {
            let store = Store::open(&path).expect("opens");
            store.put_leases(&[lease]).expect("stored");
            store.change_admission(&node, |kept| *kept = record.clone()).expect("stored");
            store.put_cluster("abc").expect("stored");
        }
        let store = Store::open(&path).expect("opens again");
        assert_eq!(store.leases().expect("read"), [lease]);
        assert_eq!(store.admission(&node).expect("read"), record);
        assert_eq!(store.cluster().expect("read").as_deref(), Some("abc"));
    }

    #[test]
    fn a_second_head_cannot_use_the_same_store() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("head.redb");
        let _first = Store::open(&path).expect("opens");
        assert!(Store::open(&path).is_err());
    }

    #[test]
    fn old_events_are_dropped() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(&folder.path().join("head.redb")).expect("opens");
        let event = |number| Event { number, at: 0, node: None, what: bramble_model::timeline::What::Ready };
        store.put_events(&[event(1), event(2), event(3)], 2).expect("stored");
        let numbers: Vec<u64> = store.events().expect("read").iter().map(|event| event.number).collect();
        assert_eq!(numbers, [2, 3]);
    }
}
