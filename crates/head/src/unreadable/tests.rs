//! Every kind of records, as it was written, torn, and of a form that is not known yet.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use axum::response::{IntoResponse, Response};
use bramble_model::api::LACKS;
use bramble_model::audit::Link;
use bramble_model::repository::Cluster;
use bramble_netboot::dhcp::LeaseStore as _;
use bramble_store::{Blocking, Error as StoreError, Key, Table, Write, put};

use super::*;
use crate::access::audit;
use crate::access::people::People;
use crate::boots::foreign;
use crate::leases::Leases;
use crate::strangers::Strangers;
use crate::timeline::Timeline;
use crate::{admissions, membership};

mod fixture;

/// A store as commit 5b09a28 left it.
fn of_5b09a28() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(STORE);
    std::fs::write(&path, include_bytes!("../../tests-data/store-5b09a28.redb")).expect("written");
    let store = Store::open(&path, 1_765_000_000_000).expect("opens");
    (folder, store)
}

fn kept<R: Record>(store: &Store) -> BTreeMap<R::Key, R::Value> {
    let all = store.blocking().read_all::<R>().expect("read");
    assert!(all.unreadable.is_empty(), "{}", all.unreadable[0]);
    all.readable
}

#[test]
fn a_store_of_5b09a28_opens_whole() {
    let (folder, store) = of_5b09a28();
    let check = |store: &Store| {
        let leases = fixture::leases().into_iter().map(|lease| (lease.address, lease));
        assert_eq!(kept::<LentAddresses>(store), leases.collect());
        assert_eq!(kept::<Admissions>(store), fixture::admissions().into_iter().collect());
        assert_eq!(kept::<HandOffs>(store), fixture::hand_offs().into_iter().collect());
        assert_eq!(kept::<LastChains>(store), fixture::chains().into_iter().collect());
        assert_eq!(kept::<Sightings>(store), fixture::seen().into_iter().map(|seen| (seen.mac, seen)).collect());
        assert_eq!(kept::<AdoptionsKept>(store), fixture::adoptions().into_iter().collect());
        assert_eq!(kept::<Users>(store), fixture::users().into_iter().collect());
        assert_eq!(kept::<Sessions>(store), fixture::sessions().into_iter().collect());
        assert_eq!(kept::<Tokens>(store), fixture::tokens().into_iter().collect());
        assert_eq!(membership::swarm(store).expect("read").cluster(), Some(&fixture::cluster()));
        let events = fixture::events().into_iter().map(|event| (event.number, event));
        assert_eq!(kept::<Events>(store), events.collect());
        let audit = fixture::audit_of_form_1().into_iter().map(|link| (link.number, link));
        let told = |links: BTreeMap<u64, Link>| links.into_values().map(|link| link.step).collect::<Vec<_>>();
        assert_eq!(told(kept::<AuditLog>(store)), told(audit.collect()));
        assert_eq!(store.blocking().life().expect("read"), 1_765_000_000_000, "it had no life before");
    };
    check(&store);
    drop(store);
    check(&Store::open(&folder.path().join(STORE), 1_766_000_000_000).expect("opens again"));
}

fn golden<R: Record>(records: impl IntoIterator<Item = (R::Key, R::Value)>) -> String {
    let line = |(key, value)| {
        let Write::Put { table, key, bytes } = put::<R>(&key, &value) else { panic!("a put") };
        format!("{} {key} {}\n", table.name(), String::from_utf8(bytes).expect("text"))
    };
    records.into_iter().map(line).collect()
}

#[test]
fn form_1_of_every_record() {
    let all = [
        golden::<LentAddresses>(fixture::leases().into_iter().map(|lease| (lease.address, lease))),
        golden::<LastChains>(fixture::chains()),
        golden::<Sightings>(fixture::seen().into_iter().map(|seen| (seen.mac, seen))),
        golden::<AdoptionsKept>(fixture::adoptions()),
        golden::<Users>(fixture::users()),
        golden::<Sessions>(fixture::sessions()),
        golden::<Tokens>(fixture::tokens()),
        golden::<SingleValues>([("cluster".to_owned(), fixture::cluster())]),
        golden::<Events>(fixture::events().into_iter().map(|event| (event.number, event))),
    ];
    // What form 1 of the audit log was is in a file of its own, as that of admissions is.
    // When a form changes, this file stays, and is read; the new one gets a file of its own.
    insta::assert_snapshot!(all.concat());
}

#[test]
fn form_1_of_places() {
    insta::assert_snapshot!(golden::<PlacesKept>(fixture::places()));
}

#[test]
fn form_1_of_what_signatures_say() {
    let all = [golden::<ReadyWith>(fixture::ready_with()), golden::<FloorKept>(fixture::floor())];
    insta::assert_snapshot!(all.concat());
}

#[test]
fn form_1_of_what_signatures_say_is_read() {
    let (_folder, store) = of_everything();
    assert_eq!(kept::<ReadyWith>(&store), fixture::ready_with().into_iter().collect());
    assert_eq!(kept::<FloorKept>(&store), fixture::floor().into_iter().collect());
}

#[test]
fn form_2_of_engines() {
    insta::assert_snapshot!(golden::<Engines>(fixture::pinned()));
}

#[test]
fn form_3_of_admissions() {
    insta::assert_snapshot!(golden::<Admissions>(fixture::claims()));
}

#[test]
fn form_1_of_waiting_keys() {
    insta::assert_snapshot!(golden::<WaitingKeys>(fixture::waiting_keys()));
}

#[test]
fn keys_that_wait_are_read() {
    let (_folder, store) = of_everything();
    assert_eq!(kept::<WaitingKeys>(&store), fixture::waiting_keys().into_iter().collect());
}

#[test]
fn form_2_of_hand_offs() {
    insta::assert_snapshot!(golden::<HandOffs>(fixture::hand_offs_by_place()));
}

#[test]
fn form_2_of_the_audit_log_and_what_came_with_it() {
    let (chain, links) = fixture::chained();
    let all = [
        golden::<AuditLog>(links.into_iter().map(|link| (link.number, link))),
        golden::<Chains>([("chain".to_owned(), chain)]),
        golden::<RefusalsKept>(fixture::refusals()),
        golden::<CopiedTo>(fixture::copied()),
        golden::<Sessions>(fixture::newer_sessions()),
    ];
    insta::assert_snapshot!(all.concat());
}

#[test]
fn what_came_with_the_chain_of_the_audit_log_is_read() {
    let (_folder, store) = of_everything();
    let (chain, links) = fixture::chained();
    let links = links.into_iter().map(|link| (link.number, link));
    assert_eq!(kept::<AuditLog>(&store).split_off(&3), links.collect());
    assert_eq!(kept::<Chains>(&store), [("chain".to_owned(), chain)].into());
    assert_eq!(kept::<RefusalsKept>(&store), fixture::refusals().into_iter().collect());
    assert_eq!(kept::<CopiedTo>(&store), fixture::copied().into_iter().collect());
    let (key, session) = fixture::newer_sessions().remove(0);
    assert_eq!(kept::<Sessions>(&store).remove(&key), Some(session));
}

#[test]
fn form_1_of_every_record_that_came_with_snapshots() {
    let all = [
        golden::<Snapshots>(fixture::snapshots()),
        golden::<Contents>(fixture::contents()),
        golden::<Pointers>(fixture::pointers()),
        golden::<History>(fixture::history()),
        golden::<BegunWith>(fixture::begun_with()),
        golden::<GivenSets>(fixture::given_sets()),
        golden::<NewestCommits>(fixture::newest_commits()),
    ];
    insta::assert_snapshot!(all.concat());
}

#[test]
fn form_1_of_every_kind_of_event() {
    insta::assert_snapshot!(golden::<Events>(every_event()));
}

fn every_event() -> BTreeMap<u64, bramble_model::timeline::Event> {
    fixture::every_event().into_iter().map(|event| (event.number, event)).collect()
}

/// The golden lines: table, key, form, JSON.
fn lines() -> Vec<[String; 4]> {
    let files = [
        "form_1_of_every_record",
        "form_1_of_admissions",
        "form_1_of_every_record_that_came_with_snapshots",
        "form_1_of_every_kind_of_event",
        "form_2_of_admissions",
        "form_3_of_admissions",
        "form_1_of_waiting_keys",
        "form_1_of_hand_offs",
        "form_2_of_hand_offs",
        "form_1_of_the_audit_log",
        "form_2_of_the_audit_log_and_what_came_with_it",
        "form_1_of_engines",
        "form_2_of_engines",
        "form_1_of_places",
        "form_1_of_what_signatures_say",
    ];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/unreadable/snapshots");
    let mut lines = Vec::new();
    for file in files {
        let path = folder.join(format!("bramble_head__unreadable__tests__{file}.snap"));
        let text = std::fs::read_to_string(path).expect("golden bytes");
        for line in text.splitn(3, "---\n").nth(2).expect("a head and a body").lines() {
            let words: Vec<String> = line.splitn(4, ' ').map(str::to_owned).collect();
            lines.push(words.try_into().unwrap_or_else(|words| panic!("no golden line: {words:?}")));
        }
    }
    lines
}

/// The store of 5b09a28 with the golden bytes of what it has not.
fn of_everything() -> (tempfile::TempDir, Store) {
    let (folder, store) = of_5b09a28();
    for [table, key, form, json] in lines() {
        let key = key.parse().map_or_else(|_| key.as_str().into(), |number: u64| Key::Number(number));
        let table = Table::new(table.leak());
        if store.blocking().get(table, &key).expect("read").is_none() {
            plant(store.blocking(), table, &key, format!("{form} {json}").as_bytes());
        }
    }
    (folder, store)
}

#[test]
fn form_1_of_what_came_with_snapshots_is_read() {
    let (_folder, store) = of_everything();
    assert_eq!(kept::<Snapshots>(&store), fixture::snapshots().into_iter().collect());
    assert_eq!(kept::<Contents>(&store), fixture::contents().into_iter().collect());
    assert_eq!(kept::<Pointers>(&store), fixture::pointers().into_iter().collect());
    assert_eq!(kept::<History>(&store), fixture::history().into_iter().collect());
    assert_eq!(kept::<BegunWith>(&store), fixture::begun_with().into_iter().collect());
    assert_eq!(kept::<GivenSets>(&store), fixture::given_sets().into_iter().collect());
    assert_eq!(kept::<NewestCommits>(&store), fixture::newest_commits().into_iter().collect());
    assert_eq!(kept::<Events>(&store).split_off(&101), every_event());
}

#[test]
fn form_1_of_places_is_read() {
    let (_folder, store) = of_everything();
    assert_eq!(kept::<PlacesKept>(&store), fixture::places().into_iter().collect());
}

#[test]
fn both_forms_of_engines_are_read() {
    let (_folder, store) = of_everything();
    let all = fixture::engines().into_iter().chain(fixture::pinned()).collect();
    assert_eq!(kept::<Engines>(&store), all);
}

#[test]
fn all_forms_of_admissions_and_hand_offs_are_read() {
    let (_folder, store) = of_everything();
    let admissions = fixture::admissions().into_iter().chain(fixture::identities()).chain(fixture::claims());
    assert_eq!(kept::<Admissions>(&store), admissions.collect());
    let hand_offs = fixture::hand_offs().into_iter().chain(fixture::hand_offs_by_place());
    assert_eq!(kept::<HandOffs>(&store), hand_offs.collect());
}

/// It is passed over by a bramble that does not know it, so the form is the same.
#[test]
fn a_line_of_the_history_names_what_it_removed() {
    let (number, mut line) = fixture::history().remove(1);
    line.removed = BTreeSet::from([fixture::name("w4")]);
    let bytes = golden::<History>([(number, line.clone())]);
    assert!(bytes.ends_with(",\"holds\":\"a snapshot was applied by hand\",\"removed\":[\"w4\"]}\n"), "{bytes}");
    let (_folder, store) = of_everything();
    plant(
        store.blocking(),
        History::TABLE,
        &number.into(),
        bytes.trim_start_matches("history 2 ").trim_end().as_bytes(),
    );
    assert_eq!(kept::<History>(&store).remove(&number), Some(line));
}

/// Form 1 had them where they were written down, and where they were not it may be anyone.
#[test]
fn what_is_remembered_of_the_swarm_names_who_may_hold_its_state() {
    let (key, mut record) = fixture::engines().remove(0);
    let (_folder, store) = of_everything();
    let line = lines().into_iter().find(|[table, of, form, _]| (&**table, of, &**form) == ("engines", &key, "1"));
    let [.., json] = line.expect("there are golden bytes");
    let json = json.replace(",\"former\":", ",\"managers\":[\"m1\",\"w4\"],\"former\":");
    plant(store.blocking(), Engines::TABLE, &key.as_str().into(), format!("1 {json}").as_bytes());
    record.managers = BTreeSet::from([fixture::name("m1"), fixture::name("w4")]);
    assert_eq!(kept::<Engines>(&store).remove(&key), Some(record));
}

/// Every `impl Record` of this crate, as it is written: its type, its table and its form.
fn records() -> Vec<(String, String, String)> {
    fn files(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            // Only what is compiled into the head.
            if entry.path().file_stem().is_some_and(|name| name == "tests") {
                continue;
            }
            if entry.path().is_dir() {
                files(&entry.path(), found);
            } else if entry.path().extension().is_some_and(|extension| extension == "rs") {
                found.push(entry.path());
            }
        }
    }
    let mut found = Vec::new();
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    let mut records = Vec::new();
    for file in found {
        let text = std::fs::read_to_string(&file).expect("a file");
        // Also `impl bramble_store::Record for`.
        for body in text.split("Record for ").skip(1) {
            let between = |start: &str, end: &str| {
                let rest = body.split_once(start).map(|(_, rest)| rest);
                rest.and_then(|rest| rest.split_once(end)).map(|(word, _)| word.to_owned())
            };
            let name: String = body.chars().take_while(|c| c.is_alphanumeric()).collect();
            let table = between("const TABLE: Table = Table::new(\"", "\"");
            let form = between("const FORM: u32 = ", ";");
            let (Some(table), Some(form)) = (table, form) else { panic!("{}: {name}", file.display()) };
            records.push((name, table, form));
        }
    }
    records
}

#[test]
fn every_record_has_golden_bytes_of_its_form_and_is_looked_at_when_the_head_starts() {
    let (golden, looked_at) = (lines(), include_str!("../unreadable.rs"));
    let records = records();
    assert!(records.len() >= 18, "they are written in another way now: {records:?}");
    for (name, table, form) in records {
        let has = golden.iter().any(|[of, _, of_form, _]| *of == table && *of_form == form);
        assert!(has, "{name} has no golden bytes of form {form}, with the table `{table}`");
        assert!(looked_at.contains(&format!("add::<{name}>(")), "{name} is not looked at");
    }
}

/// What may lie where a record was.
const FOUND: [&[u8]; 4] = [b"9 {\"is\":\"of the future\"}", b"1 {\"torn\":", b"\0\0\0", b""];

fn plant(store: &Blocking, table: Table, key: &Key, bytes: &[u8]) {
    store.commit(&[], &[Write::Put { table, key: key.clone(), bytes: bytes.to_vec() }]).expect("written");
}

/// One record of a kind is lost: it is known by name, the others are read, and what waits is not touched.
fn lose<R: Record>() {
    // What points to the snapshot leads nowhere then.
    let expected = if R::TABLE == <Snapshots as Record>::TABLE { 2 } else { 1 };
    for found in FOUND {
        let (folder, store) = of_everything();
        let before = store.blocking().all(R::TABLE).expect("read");
        let key = before[0].0.clone();
        plant(store.blocking(), R::TABLE, &key, found);
        let (waiting, notes) = Waiting::find(&store).expect("the head starts");
        let rest = store.blocking().read_all::<R>().expect("read");
        assert_eq!(rest.readable.len(), before.len() - 1, "{}", R::TABLE.name());
        match R::ON_LOSS {
            OnLoss::BeginAnew => {
                assert!(waiting.list().is_empty() && rest.unreadable.is_empty());
                assert!(notes[0].contains(&format!("set-aside/{}-", R::TABLE.name())), "{notes:?}");
            }
            OnLoss::Wait => {
                let sentence = waiting.list()[0].to_string();
                assert!(sentence.starts_with(&format!("{} {key} cannot be read: ", R::WHAT)), "{sentence}");
                assert!(sentence.contains("`bramble store repair`"), "{sentence}");
                let kept = store.blocking().get(R::TABLE, &key).expect("read").expect("there");
                assert_eq!(kept.bytes, found, "nothing is written over");
                drop(store);
                assert_eq!(list_of(folder.path()).expect("read")[0].problem, sentence);
                assert_eq!(repair_of(folder.path()).expect("repaired").records, expected);
                assert!(list_of(folder.path()).expect("read").is_empty());
            }
        }
        let files: Vec<_> = std::fs::read_dir(folder.path().join("set-aside")).expect("a folder").collect();
        assert_eq!(files.len(), expected);
    }
}

#[test]
fn one_lost_record_of_each_kind_is_a_problem_by_name() {
    lose::<LentAddresses>();
    lose::<Admissions>();
    lose::<HandOffs>();
    lose::<LastChains>();
    lose::<WaitingKeys>();
    lose::<Sightings>();
    lose::<AdoptionsKept>();
    lose::<SingleValues>();
    lose::<Engines>();
    lose::<Snapshots>();
    lose::<Contents>();
    lose::<Pointers>();
    lose::<History>();
    lose::<BegunWith>();
    lose::<GivenSets>();
    lose::<NewestCommits>();
    lose::<Users>();
    lose::<Sessions>();
    lose::<Tokens>();
    lose::<Events>();
    lose::<AuditLog>();
    lose::<Chains>();
    lose::<RefusalsKept>();
    lose::<CopiedTo>();
}

#[tokio::test]
async fn what_needs_a_lost_record_fails_with_its_name() {
    let (_folder, store) = of_5b09a28();
    let lost = b"9 {}";
    for (table, key) in [("admissions", "w1"), ("hand-offs", "d2"), ("users", "ann"), ("facts", "cluster")] {
        plant(store.blocking(), Table::new(table), &key.into(), lost);
    }
    let w1 = fixture::name("w1");
    let sentence = |error: &Error| {
        assert!(error.is_unreadable(), "{error}");
        error.to_string()
    };
    let error = admissions::change(&store, &w1, |record| record.expect(0, 0)).expect_err("lost");
    assert!(sentence(&error).starts_with("the admission of w1 cannot be read: it is of form 9"), "{error}");
    sentence(&admissions::forget(&store, &w1).expect_err("lost"));
    assert!(admissions::known_nodes(&store).expect("read").contains(&w1), "it is known all the same");
    let d2 = fixture::name("d2");
    let error = foreign::change_hand_off(&store, &d2, bramble_plan::hand_off::Record::again).expect_err("lost");
    assert!(sentence(&error).starts_with("the hand-off of d2 cannot be read"), "{error}");
    let another = "another".parse().expect("an id");
    let error =
        membership::change_swarm(&store, |record| record.remember(&another, BTreeSet::new())).expect_err("lost");
    assert!(sentence(&error).starts_with("the engine's record cluster cannot be read"), "{error}");
    sentence(&membership::swarm(&store).expect_err("lost: unknown is not none"));
    assert!(People::new().check(&store, "here", "ann", "correct horse", 1).await.is_err());
    for (table, key) in [("admissions", "w1"), ("hand-offs", "d2"), ("users", "ann"), ("facts", "cluster")] {
        let kept = store.blocking().get(Table::new(table), &key.into()).expect("read").expect("there");
        assert_eq!(kept.bytes, lost, "{table} {key}");
    }
    assert!(admissions::all(&store).expect("read").contains_key(&fixture::name("m1")), "the others go on");
}

/// As where the disk is full at the start: the world tells these again, and something else than what was there.
#[test]
fn what_cannot_be_set_aside_is_not_written_over() {
    let (folder, store) = of_everything();
    std::fs::write(folder.path().join("set-aside"), "this is no folder").expect("written");
    let (lease, seen) = (fixture::leases().remove(0), fixture::seen().remove(0));
    let torn =
        [(LentAddresses::TABLE, LentAddresses::key(&lease.address)), (Sightings::TABLE, Sightings::key(&seen.mac))];
    for (table, key) in &torn {
        plant(store.blocking(), *table, key, b"1 {torn");
    }
    let (waiting, notes) = Waiting::find(&store).expect("the head starts");
    assert!(waiting.list().len() == 2 && notes.is_empty(), "{notes:?}");
    Leases(store.clone()).store(&fixture::leases()).expect("addresses are lent");
    let place = Path::new("/nowhere");
    let text = "[cluster]\nname = \"c\"\n[network]\ninterface = \"eth0\"\n";
    let cluster = Cluster::parse(place, &place.join("bramble.toml"), text).expect("valid");
    let timeline = Arc::new(Timeline::open(store.clone(), &cluster, 0).expect("opens"));
    let strangers = Strangers::open(store.clone(), timeline).expect("opens");
    strangers.saw(seen.mac, "BIOS PXE".into(), None);
    strangers.flush();
    for (table, key) in &torn {
        let kept = store.blocking().get(*table, key).expect("read").expect("there");
        assert_eq!(kept.bytes, b"1 {torn", "{key}");
    }
    assert_eq!(store.blocking().read_all::<LentAddresses>().expect("read").readable.len(), fixture::leases().len() - 1);
}

/// Each as an empty table with the number of records that are there.
#[test]
fn what_is_listed_says_how_many_records_it_lacks() {
    let (_folder, store) = of_everything();
    for [table, key, ..] in lines() {
        let key = key.parse().map_or_else(|_| key.as_str().into(), |number: u64| Key::Number(number));
        plant(store.blocking(), Table::new(table.leak()), &key, b"1 {torn");
    }
    let lacks = |response: Response| {
        let lacks = response.headers().get(LACKS).expect("it lacks some").to_str().expect("digits").to_owned();
        lacks.parse::<usize>().expect("a number")
    };
    let people = People::new();
    assert_eq!(lacks(people.users(&store).expect("read").into_response()), fixture::users().len());
    assert_eq!(lacks(people.tokens(&store).expect("read").into_response()), fixture::tokens().len());
    assert_eq!(lacks(record::history(&store, 9).expect("read").into_response()), fixture::history().len());
    assert_eq!(
        lacks(audit::latest(&store, 9).expect("read").into_response()),
        fixture::audit_of_form_1().len() + fixture::chained().1.len()
    );
    let (_folder, store) = of_everything();
    assert!(!people.users(&store).expect("read").into_response().headers().contains_key(LACKS));
}

#[test]
fn a_newer_store_is_refused_by_the_name_of_its_form() {
    let error = Error::Store(StoreError::Newer { path: "/x/head.redb".into(), found: 7, known: 2 });
    assert!(error.to_string().contains("of form 7"), "{error}");
    assert!(error.help().is_some_and(|help| help.contains("newer bramble")));
}

/// Also one without a control socket, by which `store repair` would find it.
#[test]
fn nobody_repairs_beside_a_head_that_runs() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(STORE);
    let torn = Write::Put { table: Users::TABLE, key: "ann".into(), bytes: b"1 {".to_vec() };
    let refused = || {
        let done = [list_of(folder.path()).map(drop), repair_of(folder.path()).map(drop)];
        done.into_iter().all(|done| matches!(done, Err(Error::Store(StoreError::InUse(_)))))
    };
    let head = store::open(folder.path()).expect("made");
    head.blocking().commit(&[], std::slice::from_ref(&torn)).expect("written");
    assert!(refused());
    drop(head);
    let disk = bramble_store::testing::Disk::default();
    let head = disk.open(&path);
    disk.is_full(true);
    head.blocking().commit(&[], &[torn]).expect_err("the disk is full");
    assert!(head.blocking().trouble().is_some() && refused(), "it goes on in memory");
    drop(head);
    assert_eq!(repair_of(folder.path()).expect("nobody uses it").records, 1);
}
