//! What survives: one embedded database in one file, each entry JSON under its key.

mod backing;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bramble_model::api::{Audit, Seen};
use bramble_model::inventory::Adoption;
use bramble_model::names::{Mac, Name};
use bramble_model::timeline::{Event, Millis};
use bramble_netboot::dhcp::Lease;
use bramble_plan::admission::Record;
use bramble_plan::chain::Chain;
use bramble_plan::hand_off;
use redb::{ReadableTable, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Error;
use crate::access::people::{Session, Token, User};

use backing::Backing;

type Table = TableDefinition<'static, &'static str, &'static [u8]>;
type Numbered = TableDefinition<'static, u64, &'static [u8]>;

/// Address → lease.
const LEASES: Table = TableDefinition::new("leases");
/// Node → what is known of its boots.
const ADMISSIONS: Table = TableDefinition::new("admissions");
/// Node → which other system it was handed.
const HAND_OFFS: Table = TableDefinition::new("hand-offs");
/// Which loaders run on a node.
const CHAINS: Table = TableDefinition::new("chains");
/// What is kept of each node, under its name.
const OF_NODES: [Table; 3] = [ADMISSIONS, HAND_OFFS, CHAINS];
/// MAC → a machine that is not in the repository.
const SEEN: Table = TableDefinition::new("seen");
/// MAC → how far a machine's adoption is.
const ADOPTIONS: Table = TableDefinition::new("adoptions");
/// Name → a person with a password.
const USERS: Table = TableDefinition::new("users");
/// SHA-256 of its secret → a session.
const SESSIONS: Table = TableDefinition::new("sessions");
/// SHA-256 of its secret → a program's token.
const TOKENS: Table = TableDefinition::new("tokens");
/// Single values by name.
const FACTS: Table = TableDefinition::new("facts");
/// Event number → event.
const EVENTS: Numbered = TableDefinition::new("events");

/// Number → what someone did.
const AUDIT: Numbered = TableDefinition::new("audit");
/// All of them.
const TABLES: [Table; 10] = [LEASES, ADMISSIONS, HAND_OFFS, CHAINS, SEEN, ADOPTIONS, FACTS, USERS, SESSIONS, TOKENS];
const NUMBERED: [Numbered; 2] = [EVENTS, AUDIT];
/// Entries of the audit log that are kept.
const AUDITED: u64 = 50_000;

/// The engine's cluster that the nodes belong to.
const CLUSTER: &str = "cluster";

/// The store.
pub(crate) struct Store {
    backing: Backing,
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
        Ok(Store { backing: Backing::open(path)? })
    }

    /// Why what is written now would not survive the head's end; `None` where all is well.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.backing.trouble()
    }

    /// Goes back to the disk, where it takes writes again; `true` when it did.
    pub(crate) fn mend(&self) -> bool {
        self.backing.mend()
    }

    /// Everything, as it is at this moment, as the bytes of a store's file.
    pub(crate) fn copy(&self) -> Result<Vec<u8>, Error> {
        self.backing.copy()
    }

    fn put(&self, table: Table, entries: &[(String, impl Serialize)]) -> Result<(), Error> {
        self.backing.write(|transaction| {
            let mut table = transaction.open_table(table)?;
            for (key, value) in entries {
                let bytes = serde_json::to_vec(value).expect("stored types are plain data");
                table.insert(key.as_str(), bytes.as_slice())?;
            }
            Ok(())
        })
    }

    fn all<T: DeserializeOwned>(&self, table: Table) -> Result<Vec<(String, T)>, Error> {
        self.backing.read(|transaction| {
            let table = transaction.open_table(table)?;
            let mut found = Vec::new();
            for entry in table.iter()? {
                let (key, value) = entry?;
                // An entry of an older form counts as absent: what matters is asked for again.
                if let Ok(value) = serde_json::from_slice(value.value()) {
                    found.push((key.value().to_owned(), value));
                }
            }
            Ok(found)
        })
    }

    pub(crate) fn leases(&self) -> Result<Vec<Lease>, Error> {
        Ok(self.all(LEASES)?.into_iter().map(|(_, lease)| lease).collect())
    }

    pub(crate) fn put_leases(&self, leases: &[Lease]) -> Result<(), Error> {
        let entries: Vec<_> = leases.iter().map(|lease| (lease.address.to_string(), lease)).collect();
        self.put(LEASES, &entries)
    }

    fn one<T: DeserializeOwned + Default>(&self, table: Table, key: &str) -> Result<T, Error> {
        Ok(self.find(table, key)?.unwrap_or_default())
    }

    fn find<T: DeserializeOwned>(&self, table: Table, key: &str) -> Result<Option<T>, Error> {
        self.backing.read(|transaction| {
            let table = transaction.open_table(table)?;
            let kept = table.get(key)?;
            Ok(kept.and_then(|bytes| serde_json::from_slice(bytes.value()).ok()))
        })
    }

    /// Reads, changes and writes a record in one transaction (a second time in memory, should the disk fail), so that two who change the same one
    /// do so one after the other. On disk when this returns.
    fn change<R: DeserializeOwned + Serialize + Default, T>(
        &self,
        table: Table,
        key: &str,
        mut change: impl FnMut(&mut R) -> T,
    ) -> Result<T, Error> {
        let mut result = None;
        self.backing.write(|transaction| {
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

    /// Of all nodes, in one look.
    pub(crate) fn admissions(&self) -> Result<BTreeMap<Name, Record>, Error> {
        let all = self.all(ADMISSIONS)?.into_iter();
        Ok(all.filter_map(|(name, record)| Some((name.parse().ok()?, record))).collect())
    }

    pub(crate) fn change_admission<T>(&self, node: &Name, change: impl FnMut(&mut Record) -> T) -> Result<T, Error> {
        self.change(ADMISSIONS, node.as_str(), change)
    }

    /// Nodes that something is kept of.
    pub(crate) fn known_nodes(&self) -> Result<BTreeSet<Name>, Error> {
        let mut known = BTreeSet::new();
        for table in OF_NODES {
            let names = self.all::<serde::de::IgnoredAny>(table)?.into_iter();
            known.extend(names.filter_map(|(name, _)| name.parse::<Name>().ok()));
        }
        Ok(known)
    }

    /// Forgets all that is kept of a node.
    pub(crate) fn forget(&self, node: &Name) -> Result<(), Error> {
        self.backing.write(|transaction| {
            for table in OF_NODES {
                transaction.open_table(table)?.remove(node.as_str())?;
            }
            Ok(())
        })
    }

    pub(crate) fn hand_off(&self, node: &Name) -> Result<hand_off::Record, Error> {
        self.one(HAND_OFFS, node.as_str())
    }

    pub(crate) fn change_hand_off<T>(
        &self,
        node: &Name,
        change: impl FnMut(&mut hand_off::Record) -> T,
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
        self.backing.write(|transaction| {
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

    pub(crate) fn adoptions(&self) -> Result<Vec<(Mac, Adoption)>, Error> {
        let all = self.all(ADOPTIONS)?.into_iter();
        Ok(all.filter_map(|(mac, adoption)| Some((mac.parse().ok()?, adoption))).collect())
    }

    pub(crate) fn put_adoption(&self, mac: Mac, adoption: &Adoption) -> Result<(), Error> {
        self.put(ADOPTIONS, &[(mac.to_string(), adoption)])
    }

    pub(crate) fn user(&self, name: &str) -> Result<Option<User>, Error> {
        self.find(USERS, name)
    }

    pub(crate) fn users(&self) -> Result<Vec<(String, User)>, Error> {
        self.all(USERS)
    }

    /// Keeps a user, and ends the user's sessions where that is asked for.
    pub(crate) fn put_user(&self, name: &str, user: &User, end_sessions: bool) -> Result<(), Error> {
        let bytes = serde_json::to_vec(user).expect("stored types are plain data");
        self.backing.write(|transaction| {
            transaction.open_table(USERS)?.insert(name, bytes.as_slice())?;
            if end_sessions { end_sessions_of(transaction, name) } else { Ok(()) }
        })
    }

    /// Removes a user with all sessions; `false` where there was none.
    pub(crate) fn remove_user(&self, name: &str) -> Result<bool, Error> {
        let mut was_there = false;
        self.backing.write(|transaction| {
            was_there = transaction.open_table(USERS)?.remove(name)?.is_some();
            end_sessions_of(transaction, name)
        })?;
        Ok(was_there)
    }

    pub(crate) fn session(&self, key: &str) -> Result<Option<Session>, Error> {
        self.find(SESSIONS, key)
    }

    /// Keeps a session. Those whose time is over go, and the oldest of more than `most`.
    pub(crate) fn put_session(&self, key: &str, session: &Session, now: Millis, most: usize) -> Result<(), Error> {
        let bytes = serde_json::to_vec(session).expect("stored types are plain data");
        self.backing.write(|transaction| {
            let mut table = transaction.open_table(SESSIONS)?;
            let mut known: Vec<(Millis, String)> = Vec::new();
            for entry in table.iter()? {
                let (key, value) = entry?;
                let until = serde_json::from_slice::<Session>(value.value()).map_or(0, |session| session.until);
                known.push((until, key.value().to_owned()));
            }
            known.sort_unstable();
            let over = known.partition_point(|(until, _)| *until <= now).max((known.len() + 1).saturating_sub(most));
            for (_, old) in &known[..over] {
                table.remove(old.as_str())?;
            }
            table.insert(key, bytes.as_slice())?;
            Ok(())
        })
    }

    pub(crate) fn remove_session(&self, key: &str) -> Result<(), Error> {
        self.backing.write(|transaction| {
            transaction.open_table(SESSIONS)?.remove(key)?;
            Ok(())
        })
    }

    pub(crate) fn token(&self, key: &str) -> Result<Option<Token>, Error> {
        self.find(TOKENS, key)
    }

    pub(crate) fn tokens(&self) -> Result<Vec<Token>, Error> {
        Ok(self.all(TOKENS)?.into_iter().map(|(_, token)| token).collect())
    }

    pub(crate) fn put_token(&self, key: &str, token: &Token) -> Result<(), Error> {
        self.put(TOKENS, &[(key.to_owned(), token)])
    }

    /// Removes the token of this name; `false` where there was none.
    pub(crate) fn remove_token(&self, name: &str) -> Result<bool, Error> {
        let found = self.all::<Token>(TOKENS)?.into_iter().find(|(_, token)| token.name == name);
        let Some((key, _)) = found else { return Ok(false) };
        self.backing.write(|transaction| {
            transaction.open_table(TOKENS)?.remove(key.as_str())?;
            Ok(())
        })?;
        Ok(true)
    }

    /// Adds an entry to the audit log and gives its number. On disk when this returns.
    pub(crate) fn add_audit(&self, mut entry: Audit) -> Result<u64, Error> {
        let mut number = 0;
        self.backing.write(|transaction| {
            let mut table = transaction.open_table(AUDIT)?;
            number = table.last()?.map_or(0, |(last, _)| last.value()) + 1;
            entry.number = number;
            let bytes = serde_json::to_vec(&entry).expect("stored types are plain data");
            table.insert(number, bytes.as_slice())?;
            table.retain_in(..number.saturating_sub(AUDITED), |_, _| false)?;
            Ok(())
        })?;
        Ok(number)
    }

    /// Writes how it went.
    pub(crate) fn end_audit(&self, number: u64, result: &str) -> Result<(), Error> {
        self.backing.write(|transaction| {
            let mut table = transaction.open_table(AUDIT)?;
            let entry = table.get(number)?.and_then(|bytes| serde_json::from_slice::<Audit>(bytes.value()).ok());
            if let Some(mut entry) = entry {
                result.clone_into(&mut entry.result);
                let bytes = serde_json::to_vec(&entry).expect("stored types are plain data");
                table.insert(number, bytes.as_slice())?;
            }
            Ok(())
        })
    }

    /// The latest entries of the audit log, oldest first.
    pub(crate) fn audited(&self, most: usize) -> Result<Vec<Audit>, Error> {
        self.backing.read(|transaction| {
            let table = transaction.open_table(AUDIT)?;
            let mut found = Vec::new();
            for entry in table.iter()?.rev().take(most) {
                found.extend(serde_json::from_slice(entry?.1.value()));
            }
            found.reverse();
            Ok(found)
        })
    }

    pub(crate) fn cluster(&self) -> Result<Option<String>, Error> {
        Ok(self.all(FACTS)?.into_iter().find(|(name, _)| name == CLUSTER).map(|(_, value)| value))
    }

    pub(crate) fn put_cluster(&self, cluster: &str) -> Result<(), Error> {
        self.put(FACTS, &[(CLUSTER.to_owned(), cluster)])
    }

    pub(crate) fn events(&self) -> Result<Vec<Event>, Error> {
        self.backing.read(|transaction| {
            let table = transaction.open_table(EVENTS)?;
            let mut found = Vec::new();
            for entry in table.iter()? {
                found.extend(serde_json::from_slice(entry?.1.value()));
            }
            Ok(found)
        })
    }

    /// Adds events and drops all before number `first`.
    pub(crate) fn put_events(&self, events: &[Event], first: u64) -> Result<(), Error> {
        self.backing.write(|transaction| {
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

fn end_sessions_of(transaction: &redb::WriteTransaction, user: &str) -> Result<(), redb::Error> {
    let is_theirs = |bytes: &[u8]| {
        serde_json::from_slice::<Session>(bytes).is_ok_and(|session| session.user == user && session.role.is_none())
    };
    transaction.open_table(SESSIONS)?.retain(|_, bytes| !is_theirs(bytes))?;
    Ok(())
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
