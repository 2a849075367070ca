//! What cannot be read is set aside: into a file beside the store, where a person or a later program finds it
//! whole, and then out of the store.

use std::path::PathBuf;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bramble_system::files;
use serde::Serialize;

use crate::{Blocking, Error, Expect, Millis, Unreadable, Write};

/// The folder beside the store.
const FOLDER: &str = "set-aside";

/// One record in such a file.
#[derive(Serialize)]
struct Kept<'a> {
    table: &'static str,
    key: String,
    why: String,
    /// What was under the key, in base64.
    bytes: &'a str,
}

/// What was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// One for each table.
    pub files: Vec<PathBuf>,
    pub records: usize,
}

impl Blocking {
    /// Writes these records into files `set-aside/TABLE-TIME.json` beside the store, and removes them once they
    /// are there. A record that was changed meanwhile stays.
    ///
    /// # Errors
    /// When a file cannot be written: then its records stay; when the store cannot be written.
    pub fn set_aside(&self, records: &[Unreadable], now: Millis) -> Result<SetAside, Error> {
        let mut done = SetAside { files: Vec::new(), records: 0 };
        let mut tables: Vec<_> = records.iter().map(|record| record.table.name()).collect();
        tables.sort_unstable();
        tables.dedup();
        let folder = self.path().with_file_name(FOLDER);
        let failed = |path: &PathBuf| {
            let path = path.clone();
            move |source| Error::Aside { path, source }
        };
        for table in tables {
            let own: Vec<&Unreadable> = records.iter().filter(|record| record.table.name() == table).collect();
            let encoded: Vec<String> = own.iter().map(|record| BASE64_STANDARD.encode(&record.entry.bytes)).collect();
            let kept: Vec<Kept<'_>> = own
                .iter()
                .zip(&encoded)
                .map(|(record, bytes)| Kept { table, key: record.key.to_string(), why: record.why.to_string(), bytes })
                .collect();
            files::make_folder(&folder).map_err(failed(&folder))?;
            // Two within a millisecond are two files.
            let path = (now..)
                .map(|time| folder.join(format!("{table}-{time}.json")))
                .find(|path| !path.exists())
                .expect("times without a file are left");
            let text = serde_json::to_vec_pretty(&kept).expect("texts");
            // Some hold what only the head may know.
            files::replace_secret(&path, &text).map_err(failed(&path))?;
            files::sync_folder(&folder).map_err(failed(&folder))?;
            let expects: Vec<Expect> = own
                .iter()
                .map(|record| Expect { table: record.table, key: record.key.clone(), version: record.entry.version })
                .collect();
            let writes: Vec<Write> =
                own.iter().map(|record| Write::Remove { table: record.table, key: record.key.clone() }).collect();
            self.commit(&expects, &writes)?;
            tracing::warn!(table, records = own.len(), path = %path.display(), "records that cannot be read are set aside");
            done.files.push(path);
            done.records += own.len();
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use bramble_testing::{as_root, given, not_given};

    use crate::{Entry, Key, Table, Version, Why};

    use super::*;

    #[test]
    fn what_is_set_aside_is_whole_in_a_file_and_out_of_the_store() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Blocking::open(&folder.path().join("store"), 1).expect("opens");
        let table = Table::new("leases");
        let version = store
            .commit(&[], &[Write::Put { table, key: "10.0.0.1".into(), bytes: b"torn".to_vec() }])
            .expect("written");
        let record = |version: Version| Unreadable {
            what: "lease",
            table,
            key: "10.0.0.1".into(),
            why: Why::Damaged("no form".into()),
            entry: Entry { version, bytes: b"torn".to_vec() },
        };
        let stale = store.set_aside(&[record(Version::ABSENT)], 5);
        assert!(matches!(stale, Err(Error::Conflict { .. })), "it was changed meanwhile");
        let done = store.set_aside(&[record(version)], 5).expect("set aside");
        assert_eq!(done, SetAside { files: vec![folder.path().join("set-aside/leases-6.json")], records: 1 });
        let text = std::fs::read_to_string(&done.files[0]).expect("there");
        let kept: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(kept[0]["bytes"], "dG9ybg==");
        assert_eq!(store.all(table).expect("read"), []);
    }

    /// Whoever owns the store sets aside the next record.
    #[test]
    fn what_root_sets_aside_belongs_to_the_owner_of_the_folder() {
        if !as_root("aside::tests::what_root_sets_aside_belongs_to_the_owner_of_the_folder") {
            return;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        given(folder.path());
        let store = Blocking::open(&folder.path().join("store"), 1).expect("opens");
        let (table, key) = (Table::new("leases"), Key::from("10.0.0.1"));
        let put = Write::Put { table, key: key.clone(), bytes: b"torn".to_vec() };
        let entry = Entry { version: store.commit(&[], &[put]).expect("written"), bytes: b"torn".to_vec() };
        let record = Unreadable { what: "lease", table, key, why: Why::Damaged("no form".into()), entry };
        let done = store.set_aside(&[record], 5).expect("set aside");
        let aside = folder.path().join(FOLDER);
        assert!(done.files.len() == 1 && done.files[0].starts_with(&aside), "{done:?}");
        let roots = not_given(&aside);
        assert!(roots.is_empty(), "{roots:?}");
    }
}
