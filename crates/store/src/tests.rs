//! The store against a model of it; and what it keeps through restarts.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use redb::{ReadableDatabase as _, ReadableTable as _, TableDefinition};

use super::*;

const TABLES: [Table; 2] = [Table::new("a"), Table::new("b")];

/// Something that one of several writers does.
#[derive(Debug, Clone)]
enum Act {
    /// Looks, and remembers what it saw.
    Look {
        writer: usize,
        table: usize,
        key: u8,
    },
    /// Compares with what it saw and swaps, in both tables at once where `both`.
    Swap {
        writer: usize,
        table: usize,
        key: u8,
        value: Option<u8>,
        both: bool,
    },
    Lead {
        name: u8,
    },
    NewLife {
        now: u64,
    },
    Reopen,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (0..3_usize, 0..2_usize, 0..3_u8).prop_map(|(writer, table, key)| Act::Look { writer, table, key }),
        (0..3_usize, 0..2_usize, 0..3_u8, any::<Option<u8>>(), any::<bool>())
            .prop_map(|(writer, table, key, value, both)| Act::Swap { writer, table, key, value, both }),
        (0..2_u8).prop_map(|name| Act::Lead { name }),
        (0..100_u64).prop_map(|now| Act::NewLife { now }),
        Just(Act::Reopen),
    ]
}

fn key(number: u8) -> Key {
    Key::Text(format!("k{number}"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// A swap succeeds exactly where nobody wrote since the look, and then writes all of it; fences and lives
    /// only grow, through restarts, too.
    #[test]
    fn as_a_model_says(acts in prop::collection::vec(act(), 1..40)) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("store");
        let mut store = Blocking::open(&path, 50).expect("opens");
        let mut model: BTreeMap<(usize, u8), (u64, u8)> = BTreeMap::new();
        // What each writer saw: the model's own count of the write, 0 for none.
        let mut saw: BTreeMap<(usize, usize, u8), (u64, Version)> = BTreeMap::new();
        let mut count = 0;
        let mut fences: BTreeMap<u8, Fence> = BTreeMap::new();
        let mut life = 50;
        for act in acts {
            match act {
                Act::Look { writer, table, key: of } => {
                    let found = store.get(TABLES[table], &key(of)).expect("read");
                    let known = model.get(&(table, of));
                    prop_assert_eq!(found.as_ref().map(|entry| entry.bytes[0]), known.map(|(_, value)| *value));
                    let version = found.map_or(Version::ABSENT, |entry| entry.version);
                    saw.insert((writer, table, of), (known.map_or(0, |(count, _)| *count), version));
                }
                Act::Swap { writer, table, key: of, value, both } => {
                    let (seen, version) = saw.get(&(writer, table, of)).copied().unwrap_or((0, Version::ABSENT));
                    let fresh = model.get(&(table, of)).map_or(0, |(count, _)| *count) == seen;
                    let expect = Expect { table: TABLES[table], key: key(of), version };
                    let tables = if both { vec![table, 1 - table] } else { vec![table] };
                    let writes: Vec<Write> = tables.iter().map(|table| match value {
                        Some(value) => Write::Put { table: TABLES[*table], key: key(of), bytes: vec![value] },
                        None => Write::Remove { table: TABLES[*table], key: key(of) },
                    }).collect();
                    match store.commit(&[expect], &writes) {
                        Ok(_) => {
                            prop_assert!(fresh);
                            count += 1;
                            for table in tables {
                                match value {
                                    Some(value) => { model.insert((table, of), (count, value)); }
                                    None => { model.remove(&(table, of)); }
                                }
                            }
                        }
                        Err(Error::Conflict { .. }) => prop_assert!(!fresh),
                        Err(error) => panic!("{error}"),
                    }
                }
                Act::Lead { name } => {
                    let fence = store.lead(&format!("loop {name}")).expect("a lead");
                    prop_assert_eq!(fence.life, life);
                    if let Some(old) = fences.insert(name, fence) {
                        prop_assert!(fence > old);
                    }
                }
                Act::NewLife { now } => {
                    let new = store.begin_new_life(now).expect("begun");
                    prop_assert!(new > life && new >= now);
                    life = new;
                }
                Act::Reopen => {
                    drop(store);
                    store = Blocking::open(&path, 7).expect("opens again");
                    prop_assert_eq!(store.life().expect("read"), life);
                }
            }
            for (table, of) in [0, 1].into_iter().flat_map(|table| [0, 1, 2].map(|of| (table, of))) {
                let found = store.get(TABLES[table], &key(of)).expect("read").map(|entry| entry.bytes[0]);
                prop_assert_eq!(found, model.get(&(table, of)).map(|(_, value)| *value));
            }
        }
    }
}

#[test]
fn a_second_process_cannot_use_the_same_store() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("store");
    let _first = Blocking::open(&path, 1).expect("opens");
    let Err(error) = Blocking::open(&path, 1) else { panic!("it was opened twice") };
    assert!(matches!(error, Error::InUse(_)), "{error}");
}

#[test]
fn numbered_tables_give_ranges_and_lose_their_beginning() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = Blocking::open(&folder.path().join("store"), 1).expect("opens");
    let table = Table::new("events");
    assert_eq!(store.numbers(table, ..).expect("read"), [], "a table that nobody wrote to");
    let puts: Vec<Write> = (1..=300).map(|number| Write::Put { table, key: number.into(), bytes: vec![1] }).collect();
    store.commit(&[], &puts).expect("written");
    store.commit(&[], &[Write::RemoveBefore { table, number: 10 }]).expect("written");
    let numbers = |range: Vec<(u64, Entry)>| range.into_iter().map(|(number, _)| number).collect::<Vec<_>>();
    assert_eq!(numbers(store.numbers(table, ..12).expect("read")), [10, 11]);
    assert_eq!(numbers(store.numbers(table, 299..).expect("read")), [299, 300]);
    let last: Vec<Key> = store.last(table, 2).expect("read").into_iter().map(|(key, _)| key).collect();
    assert_eq!(last, [Key::Number(299), Key::Number(300)]);
    assert_eq!(store.all(table).expect("read").len(), 291);
}

#[test]
fn a_copy_is_the_same_store_of_the_same_life() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = Blocking::open(&folder.path().join("store"), 500).expect("opens");
    let version =
        store.commit(&[], &[Write::Put { table: TABLES[0], key: key(1), bytes: b"x".to_vec() }]).expect("written");
    store.lead("swarm").expect("a lead");
    let path = folder.path().join("copy");
    std::fs::write(&path, store.copy().expect("copied")).expect("written");
    let copy = Blocking::open(&path, 9).expect("opens");
    assert_eq!(copy.get(TABLES[0], &key(1)).expect("read"), Some(Entry { version, bytes: b"x".to_vec() }));
    assert_eq!(copy.begin_new_life(9).expect("begun"), 501, "a clock that is behind makes no older life");
    assert_eq!(copy.lead("swarm").expect("a lead"), Fence { life: 501, number: 2 });
}

#[tokio::test]
async fn whoever_watches_a_table_hears_of_its_commits() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = Store::open(&folder.path().join("store"), 1).expect("opens");
    let mut watch = store.watch(TABLES[0]);
    let expect = |table| Expect { table, key: key(1), version: Version::ABSENT };
    store.change(expect(TABLES[1]), Some(vec![1])).await.expect("written");
    assert!(!watch.has_changed().expect("the store is there"));
    let version = store.change(expect(TABLES[0]), Some(vec![1])).await.expect("written");
    watch.changed().await.expect("the store is there");
    assert_eq!(*watch.borrow(), version);
    assert_eq!(store.all(TABLES[0]).await.expect("read").len(), 1);
}

#[test]
fn a_numbered_table_counts_on_from_what_was_there_last() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = Blocking::open(&folder.path().join("store"), 1).expect("opens");
    let table = Table::new("numbered");
    assert_eq!(store.last_number(table).expect("read"), 0, "nobody has written to it");
    let put = |number: u64, bytes: &[u8]| Write::Put { table, key: number.into(), bytes: bytes.to_vec() };
    store.commit(&[], &[put(7, b"1 {}"), put(8, b"not to be read")]).expect("written");
    assert_eq!(store.last_number(table).expect("read"), 8);
    store.commit(&[], &[Write::RemoveBefore { table, number: 8 }]).expect("written");
    assert_eq!(store.last_number(table).expect("read"), 8);
}

/// What is acknowledged is on the disk or is not there; what only tells what was seen goes on in memory.
#[test]
fn what_is_acknowledged_lasts_and_is_refused_when_the_disk_fails_after_the_start() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let disk = testing::Disk::default();
    let store = disk.open(&folder.path().join("store"));
    let store = store.blocking();
    let put = |value: u8| Write::Put { table: TABLES[0], key: key(1), bytes: vec![value] };
    let value = || store.get(TABLES[0], &key(1)).expect("read").map(|entry| entry.bytes);
    store.commit(&[], &[put(1)]).expect("the disk is well");
    disk.is_full(true);
    for again in ["it fails", "it has failed"] {
        let error = store.commit(&[], &[put(2)]).expect_err(again);
        assert!(matches!(error, Error::NotLasting(_)), "{again}: {error}");
        assert!(!error.to_string().contains("in memory only"), "the same sentence each time: {error}");
        assert!(error.help().is_some_and(|help| help.contains("make room")), "{again}");
        assert_eq!(value(), Some(vec![1]), "{again}: nothing is changed");
        store.lead("swarm").expect_err(again);
        store.begin_new_life(1).expect_err(again);
    }
    store.commit_even_in_memory(&[], &[put(3)]).expect("what need not last goes on in memory");
    assert_eq!(value(), Some(vec![3]));
    store.commit(&[], &[put(4)]).expect_err("in memory only");
    disk.is_full(false);
    assert!(store.mend(), "the disk takes writes again");
    assert_eq!(value(), Some(vec![3]));
    store.commit(&[], &[put(5)]).expect("and is relied on again");
}

/// The only two workers write at once, on a disk that takes a second for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_writes_to_a_slow_disk_holds_up_no_other_task() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let disk = testing::Disk::default();
    let store = disk.open(&folder.path().join("store"));
    let time = std::time::Duration::from_secs(1);
    disk.flushes_in(time);
    let commit = |table| {
        let store = store.clone();
        let expect = Expect { table, key: key(1), version: Version::ABSENT };
        tokio::spawn(async move { store.blocking().change(expect, Some(vec![1])).map(drop) })
    };
    let writes = TABLES.map(commit);
    let since = std::time::Instant::now();
    for _ in 0..50 {
        // It is for the workers to do, as a request is, and looks at what is there.
        let store = store.clone();
        let read = tokio::spawn(async move { store.blocking().get(TABLES[0], &key(2)) });
        assert_eq!(read.await.expect("no panic").expect("read"), None);
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    assert!(since.elapsed() < time, "held up for {:?}", since.elapsed());
    assert!(writes.iter().any(|write| !write.is_finished()), "they were written meanwhile");
    for write in writes {
        write.await.expect("no panic").expect("written");
    }
}

/// Where no other thread takes a worker's place, a write just waits.
#[test]
fn a_write_waits_on_any_thread_and_in_any_runtime() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = Store::open(&folder.path().join("store"), 1).expect("opens");
    let writes = || {
        let put = Write::Put { table: TABLES[0], key: key(1), bytes: vec![1] };
        store.blocking().commit(&[], &[put]).expect("written")
    };
    writes();
    let one = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    one.block_on(async { writes() });
    tokio::task::LocalSet::new().block_on(&one, async { writes() });
    let several = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
    several.block_on(async { writes() });
    std::thread::scope(|scope| {
        let beside = several.handle().clone();
        scope.spawn(move || beside.block_on(async { writes() }));
    });
}

const TEXTS: Table = Table::new("texts");
const NUMBERS: Table = Table::new("numbers");
const LIFE: Millis = 1_795_000_000_000;

/// A table as it lies in the file, whatever this program calls it.
fn raw<K: redb::Key + 'static, V: redb::Value + 'static, T>(
    path: &Path,
    table: &str,
    plain: impl for<'a> Fn(K::SelfType<'a>, V::SelfType<'a>) -> T,
) -> Vec<T> {
    let database = redb::Database::open(path).expect("opens");
    let table = database.begin_read().expect("begins").open_table(TableDefinition::<K, V>::new(table)).expect("there");
    let entries = table.iter().expect("read").map(|entry| entry.expect("read"));
    entries.map(|(key, value)| plain(key.value(), value.value())).collect()
}

/// What `tests-data/form-2.redb` has, which commit 8437996 wrote.
fn written(path: &Path) {
    let store = Blocking::open(path, LIFE).expect("made");
    let put = |table, key: Key, bytes: &[u8]| Write::Put { table, key, bytes: bytes.to_vec() };
    store.commit(&[], &[put(TEXTS, "first".into(), br#"1 {"says":"hello"}"#)]).expect("written");
    let second = put(TEXTS, "second".into(), br#"1 {"says":"there"}"#);
    store.commit(&[], &[second, put(NUMBERS, 7.into(), br#"1 {"says":"seven"}"#)]).expect("written");
    for _ in 0..3 {
        store.lead("swarm").expect("a lead");
    }
}

struct Said;

impl Record for Said {
    type Key = String;
    type Value = BTreeMap<String, String>;
    const TABLE: Table = TEXTS;
    const FORM: u32 = 1;
    const WHAT: &'static str = "what was said";
    const ON_LOSS: OnLoss = OnLoss::Wait;
}

#[test]
fn a_store_of_form_2_opens_whole() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("store");
    std::fs::write(&path, include_bytes!("../tests-data/form-2.redb")).expect("written");
    let store = Blocking::open(&path, 9).expect("opens");
    assert_eq!(store.life().expect("read"), LIFE);
    let entry = |version, says: &str| Entry { version: Version(version), bytes: says.as_bytes().to_vec() };
    let first = store.get(TEXTS, &"first".into()).expect("read");
    assert_eq!(first, Some(entry(1, r#"1 {"says":"hello"}"#)));
    let numbers = store.numbers(NUMBERS, ..).expect("read");
    assert_eq!(numbers, [(7, entry(2, r#"1 {"says":"seven"}"#))]);
    let All { readable, unreadable } = store.read_all::<Said>().expect("read");
    assert_eq!((readable["second"]["says"].as_str(), readable.len(), unreadable), ("there", 2, Vec::new()));
    assert_eq!(store.lead("swarm").expect("a lead"), Fence { life: LIFE, number: 4 });
    let expect = |version| Expect { table: TEXTS, key: "second".into(), version: Version(version) };
    let changed = |version| store.change(expect(version), Some(b"1 {}".to_vec()));
    assert!(matches!(changed(1), Err(Error::Conflict { .. })));
    assert_eq!(changed(2).expect("it is of the second commit"), Version(3));
}

/// A former bramble of this form reads it.
#[test]
fn what_is_written_lies_in_the_file_as_form_2_says() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("store");
    let own = [("form", 2), ("lead of swarm", 3), ("life", LIFE), ("revision", 2)];
    let value = |version: u8, says: &str| [&[0, 0, 0, 0, 0, 0, 0, version], says.as_bytes()].concat();
    let texts = [("first", value(1, r#"1 {"says":"hello"}"#)), ("second", value(2, r#"1 {"says":"there"}"#))];
    let numbers = [(7, value(2, r#"1 {"says":"seven"}"#))];
    let check = || {
        let found = raw::<&str, u64, _>(&path, "bramble-store", |name, number| (name.to_owned(), number));
        assert_eq!(found, own.map(|(name, number)| (name.to_owned(), number)));
        let found = raw::<&str, &[u8], _>(&path, "texts", |key, value| (key.to_owned(), value.to_vec()));
        assert_eq!(found, texts.clone().map(|(key, value)| (key.to_owned(), value)));
        assert_eq!(raw::<u64, &[u8], _>(&path, "numbers", |key, value| (key, value.to_vec())), numbers);
    };
    written(&path);
    check();
    std::fs::write(&path, include_bytes!("../tests-data/form-2.redb")).expect("written");
    check();
}
