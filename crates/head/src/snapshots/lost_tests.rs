//! A head whose store lost its current snapshot.

use bramble_store::{Key, Table, Write};

use bramble_model::repository::FILE;

use super::*;
use crate::store::{self, STORE};
use crate::unreadable;

/// A head's folder with two snapshots: `old`, and `new`, which is current.
struct Home {
    folder: tempfile::TempDir,
    old: Digest,
    new: Digest,
}

impl Home {
    fn new() -> Self {
        let mut home =
            Home { folder: tempfile::tempdir().expect("a folder"), old: Digest([0; 32]), new: Digest([0; 32]) };
        (home.old, home.new) = (home.begin("old"), home.begin("new"));
        home
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join(".bramble")
    }

    fn open(&self) -> Snapshots {
        std::fs::create_dir_all(self.state()).expect("a folder");
        let shelf = Shelf::open(self.state().join("image")).expect("a shelf");
        let store = store::open(&self.state()).expect("opens");
        Snapshots::open(&self.state(), self.folder.path(), shelf, store).expect("the head starts")
    }

    /// Makes the folder say so, and that current.
    fn begin(&self, name: &str) -> Digest {
        let text = format!("[cluster]\nname = \"{name}\"\n\n[network]\ninterface = \"eth0\"\ndhcp = \"proxy\"\n");
        std::fs::write(self.folder.path().join(FILE), text).expect("written");
        let snapshots = self.open();
        let (next, applied) = snapshots.first(self.folder.path(), Revision::default()).expect("it checks");
        snapshots.begin(next, applied).expect("current").digest
    }

    fn plant(&self, table: &'static str, key: &Key, write: impl Fn(Table, Key) -> Write) {
        let store = bramble_store::Blocking::open(&self.state().join(STORE), 1).expect("nobody uses it");
        store.commit(&[], &[write(Table::new(table), key.clone())]).expect("written");
    }

    fn damage(&self, table: &'static str, key: &str) {
        self.plant(table, &key.into(), |table, key| Write::Put { table, key, bytes: b"1 {torn".to_vec() });
    }

    /// The digest of the file that says what the cluster is.
    fn content(&self, snapshot: &Digest) -> Digest {
        let store = store::open(&self.state()).expect("opens");
        let known = record::known(&store, snapshot).expect("read").expect("there");
        *known.snapshot.contents().keys().next().expect("one file")
    }

    fn repair(&self) -> usize {
        unreadable::repair_of(&self.state()).expect("repaired").records
    }
}

fn is_on(snapshots: &Snapshots, digest: &Digest) -> bool {
    snapshots.current().is_some_and(|current| current.digest == *digest)
}

#[test]
fn a_current_snapshot_that_cannot_be_read_gives_way_to_the_newest_that_can() {
    type Damage = fn(&Home);
    let damages: [(&str, Damage); 3] = [
        ("its record", |home| home.damage("snapshots", &home.new.to_string())),
        ("its file", |home| home.damage("contents", &home.content(&home.new).to_string())),
        ("a repair without it", |home| {
            home.plant("snapshots", &home.new.to_string().as_str().into(), |table, key| Write::Remove { table, key });
        }),
    ];
    for (what, damage) in damages {
        let home = Home::new();
        damage(&home);
        let snapshots = home.open();
        assert!(is_on(&snapshots, &home.old), "{what}");
        let problem = snapshots.lost().expect("it is said");
        assert!(problem.contains("cannot be had") && problem.contains(&home.old.short()), "{what}: {problem}");
        let pointer = snapshots.pointer().expect("read").expect("there");
        assert!(pointer.digest == home.old && pointer.held.is_some(), "{what}: following is held");
        assert!(snapshots.hold(None).is_err(), "{what}: until a person has seen to it");
        assert!(snapshots.in_doubt().is_some_and(|why| why.contains("cannot be had")), "{what}");
        drop(snapshots);
        assert!(home.repair() > 0, "{what}");
        assert!(unreadable::list_of(&home.state()).expect("read").is_empty(), "{what}");
        let snapshots = home.open();
        assert!(is_on(&snapshots, &home.old) && snapshots.in_doubt().is_some(), "{what}, repaired");
        // A person goes on with what the folder has.
        let (next, applied) = snapshots.first(home.folder.path(), Revision::default()).expect("it checks");
        snapshots.make_current(next, None, applied, Follow::Free).expect("applied");
        assert!(is_on(&snapshots, &home.new) && snapshots.lost().is_none(), "{what}");
        assert_eq!(snapshots.in_doubt(), None, "{what}");
        drop(snapshots);
        let snapshots = home.open();
        assert!(is_on(&snapshots, &home.new) && snapshots.lost().is_none(), "{what}: and stays so");
    }
}

#[test]
fn a_lost_pointer_is_mended_by_a_repair_and_a_start() {
    let home = Home::new();
    home.damage("desired", "current");
    let snapshots = home.open();
    assert!(is_on(&snapshots, &home.new), "the newest that is kept is the one that was current");
    assert!(snapshots.lost().is_some_and(|problem| problem.contains("store repair")));
    assert!(snapshots.pointer().is_err(), "whether following is held is not known");
    drop(snapshots);
    assert_eq!(home.repair(), 1);
    let snapshots = home.open();
    let pointer = snapshots.pointer().expect("read").expect("there");
    assert!(pointer.digest == home.new && pointer.held.is_some() && snapshots.in_doubt().is_some());
    snapshots.hold(None).expect("a person may follow again");
    assert_eq!(snapshots.in_doubt(), None);
    drop(snapshots);
    let snapshots = home.open();
    assert!(snapshots.lost().is_none() && is_on(&snapshots, &home.new));
}

#[test]
fn the_folder_takes_the_place_of_the_only_snapshot() {
    for table in ["snapshots", "desired"] {
        let home = Home::new();
        home.plant("snapshots", &home.old.to_string().as_str().into(), |table, key| Write::Remove { table, key });
        home.damage("snapshots", &home.new.to_string());
        home.damage(table, if table == "desired" { "current" } else { "other" });
        let snapshots = home.open();
        assert!(snapshots.current().is_none() && snapshots.lost().is_some(), "{table}");
        let (next, applied) = snapshots.first(home.folder.path(), Revision::default()).expect("it checks");
        snapshots.begin(next, applied).expect("the head starts");
        assert!(is_on(&snapshots, &home.new), "{table}");
        drop(snapshots);
        let left = unreadable::list_of(&home.state()).expect("read");
        assert!(left.iter().any(|record| record.key == home.new.to_string()), "{table}: nothing is written over");
        assert!(home.repair() > 1);
        let snapshots = home.open();
        let (next, applied) = snapshots.first(home.folder.path(), Revision::default()).expect("it checks");
        snapshots.begin(next, applied).expect("the head starts");
        assert!(snapshots.lost().is_none() && snapshots.pointer().expect("read").is_some(), "{table}: as a new one");
    }
}
