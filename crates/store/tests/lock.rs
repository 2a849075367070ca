//! One process has a store, also where its disk takes no writes: what a second one wrote there would be lost when the
//! first comes back to it.

use std::fs;
use std::path::Path;
use std::process::Command;

use bramble_store::{Blocking, Error, Table, Write};
use bramble_testing::as_root;

const TABLE: Table = Table::new("texts");

fn put(store: &Blocking, value: u8) -> Result<(), Error> {
    store.commit(&[], &[Write::Put { table: TABLE, key: "key".into(), bytes: vec![value; 64 << 10] }]).map(drop)
}

fn is_in_use(path: &Path) -> bool {
    matches!(Blocking::open(path, 9), Err(Error::InUse(_)))
}

#[test]
fn a_store_that_is_held_in_memory_is_not_for_a_second_process() {
    if !as_root("a_store_that_is_held_in_memory_is_not_for_a_second_process") {
        return;
    }
    let place = tempfile::tempdir().expect("a temporary folder");
    let mount = |options: &str| {
        let mut command = Command::new("mount");
        let mounted = command.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(place.path()).status();
        assert!(mounted.expect("mount runs").success(), "{options}");
    };
    mount("size=4m");
    let (path, eater) = (place.path().join("head.redb"), place.path().join("eater"));
    let store = Blocking::open(&path, 1).expect("made");
    put(&store, 1).expect("written");
    assert!(is_in_use(&path), "on the disk");
    // Full, while it is used.
    fs::write(&eater, vec![0; 8 << 20]).expect_err("the disk is full");
    while !matches!(put(&store, 2), Err(Error::NotLasting(_))) {}
    assert!(is_in_use(&path), "in memory");
    fs::remove_file(&eater).expect("removed");
    assert!(is_in_use(&path), "in memory, though the disk would take writes again");
    assert!(store.mend(), "the disk takes writes again");
    put(&store, 3).expect("written");
    assert!(is_in_use(&path), "on the disk again");
    drop(store);
    // Read-only, from its start.
    mount("remount,ro");
    let store = Blocking::open(&path, 5).expect("opens in memory");
    assert!(store.trouble().is_some());
    assert!(is_in_use(&path), "in memory, on a disk that is read-only");
    mount("remount,rw");
    assert!(is_in_use(&path), "in memory, though the disk would take writes");
    assert!(store.mend(), "the disk takes writes");
    assert!(is_in_use(&path), "on the disk again");
    drop(store);
    let store = Blocking::open(&path, 7).expect("nobody uses it");
    assert_eq!(store.get(TABLE, &"key".into()).expect("read").map(|entry| entry.bytes[0]), Some(3));
}
