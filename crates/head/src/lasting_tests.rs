//! What a person is told is done is on the disk, or was refused and is not done; what only tells what was seen goes on.

use std::path::Path;

use bramble_model::api::{NewToken, Role, UserChange};
use bramble_model::names::{Digest, Mac, Name};
use bramble_netboot::dhcp::{Lease, LeaseStore};
use bramble_plan::hand_off;
use bramble_store::testing::Disk;
use bramble_store::{Key, Record, Store};

use crate::access::people::{self, People, Refused, Tokens, Users};
use crate::access::sessions::{self, By, Sessions};
use crate::admissions::{self, Admissions, HandOffs};
use crate::adoptions::{Adoptions, AdoptionsKept};
use crate::boots::foreign;
use crate::error::Error;
use crate::leases::Leases;
use crate::membership::{self, Engines};
use crate::store::STORE;

/// The store of commit 5b09a28, which has one of everything, on a disk that is well.
fn on_a_disk() -> (tempfile::TempDir, Disk, Store) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (disk, path) = (Disk::default(), folder.path().join(STORE));
    std::fs::write(&path, include_bytes!("../tests-data/store-5b09a28.redb")).expect("written");
    let store = disk.open(&path);
    (folder, disk, store)
}

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn stored(refused: Refused) -> Error {
    match refused {
        Refused::Store(error) => error,
        other => panic!("{other}"),
    }
}

fn set(store: &Store, user: &str, password: &str) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let change = UserChange { password: Some(password.into()), role: Some(Role::Viewer) };
    runtime.block_on(People::new().change_user(store, user, change, 1)).map_err(stored)
}

type Act = fn(&Store) -> Result<(), Error>;

/// What people are told is done.
const ACTS: [(&str, Act); 12] = [
    ("a new user", |store| set(store, "eve", "correct horse")),
    ("another password", |store| set(store, "ann", "battery staple")),
    ("a user is removed", |store| people::remove_user(store, "ann").map(drop)),
    ("a new token", |store| {
        let new = NewToken { name: "new".into(), role: Role::Viewer, days: None };
        People::new().add_token(store, &new, 1).map(drop).map_err(stored)
    }),
    ("a token is removed", |store| people::remove_token(store, "robot").map(drop)),
    ("a session is ended", |store| sessions::remove_session(store, &Digest([1; 32]).to_string())),
    ("a key is let in", |store| admissions::change(store, &name("w1"), |record| record.approve("ab".repeat(16)))),
    ("a node is let go", |store| admissions::forget(store, &name("m1"))),
    ("a node is to be installed again", |store| foreign::change_hand_off(store, &name("d2"), hand_off::Record::again)),
    ("a machine is to say what it is", |store| Adoptions::open(store.clone())?.ask(Mac([2, 0, 0, 0, 0, 9]))),
    ("a Swarm is given up", |store| {
        membership::change_swarm(store, |record| record.give_up(&"any".parse().expect("an id")))
    }),
    ("a Swarm may be begun without a manager", |store| {
        membership::change_swarm(store, |record| record.without = Some([name("m2")].into()))
    }),
];

/// All that the acts could change.
fn content(store: &Store) -> Vec<(Key, Vec<u8>)> {
    let tables =
        [Users::TABLE, Tokens::TABLE, Sessions::TABLE, Admissions::TABLE, HandOffs::TABLE, AdoptionsKept::TABLE];
    let tables = tables.into_iter().chain([Engines::TABLE]);
    let all = tables.flat_map(|table| store.blocking().all(table).expect("read"));
    all.map(|(key, entry)| (key, entry.bytes)).collect()
}

fn after_a_kill(folder: &Path) -> Vec<(Key, Vec<u8>)> {
    // The process is gone with what it had in memory; its file is as it was.
    let copy = folder.join("as it is after a kill");
    std::fs::copy(folder.join(STORE), &copy).expect("copied");
    content(&Store::open(&copy, 1).expect("opens"))
}

#[test]
fn what_people_are_told_is_there_after_a_kill_or_was_refused() {
    for (what, act) in ACTS {
        let (folder, _disk, store) = on_a_disk();
        let before = content(&store);
        act(&store).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_ne!(content(&store), before, "{what}: it changes something");
        assert_eq!(after_a_kill(folder.path()), content(&store), "{what}");

        // The first to find out that the disk is full, and one who comes after.
        let (folder, disk, store) = on_a_disk();
        disk.is_full(true);
        for turn in ["first", "second"] {
            let error = act(&store).expect_err(what);
            assert!(error.is_not_lasting() && error.help().is_some(), "{what}, {turn}: {error}");
            assert_eq!(content(&store), before, "{what}, {turn}: nothing has changed");
        }
        assert_eq!(after_a_kill(folder.path()), before, "{what}");
    }
}

#[test]
fn what_is_only_seen_goes_on_where_the_disk_is_full() {
    let (_folder, disk, store) = on_a_disk();
    disk.is_full(true);
    let lease = Lease { address: [10, 77, 0, 9].into(), mac: Mac([2; 6]), until: 9, quarantined: false };
    Leases(store.clone()).store(&[lease]).expect("an address is lent");
    let expected = |record: &mut bramble_plan::admission::Record| record.expect(1, 1);
    admissions::change_even_in_memory(&store, &name("w1"), expected).expect("a node boots");
    let ann = store.blocking().read::<Users>(&"ann".into()).expect("read").expect("there");
    let (secret, _) =
        People::new().begin(&store, ("ann", "here"), &By::Password(ann), 1000, 1).expect("a person logs in");
    assert!(store.blocking().read::<Sessions>(&people::kept(&secret)).expect("read").is_some());
}
