use bramble_model::audit::{Broken, Follower, Verdict};

use super::*;

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = Store::open(&folder.path().join("head.redb"), 1).expect("opens");
    (folder, store)
}

fn verdict(store: &Store) -> Verdict {
    let mut page = page(store, 0).expect("read");
    let mut follower = Follower::of(&page.chain);
    loop {
        page.links.iter().for_each(|link| follower.takes(link));
        if page.next >= page.chain.last {
            return follower.ends(&page.chain);
        }
        page = self::page(store, page.next).expect("read");
    }
}

fn did(what: &str) -> Step {
    Step::Did { who: "ann".into(), from: "local".into(), what: what.into(), result: "begun".into() }
}

#[test]
fn one_line_stays_one_line() {
    assert_eq!(describe(&Method::POST, "/x", b"a\nb", body), "POST /x a b");
    assert_eq!(describe(&Method::POST, "/x", b"secret", nothing), "POST /x");
    assert_eq!(describe(&Method::POST, "/x", &[b'a'; 1000], body).chars().count(), LONGEST);
}

#[test]
fn what_was_done_is_told_with_how_it_went() {
    let (_folder, store) = store();
    let one = begin(&store, ("ann", "local"), "POST /x", "begun", true).expect("written");
    let two = begin(&store, ("bob", "10.77.0.9"), &format!("exec\u{1b}[2J {}", "w".repeat(5000)), "begun", false);
    let two = two.expect("written");
    end(&store, two, "done");
    end(&store, one, "failed: 404 Not Found");
    let told = latest(&store, 9).expect("read").all;
    let told: Vec<_> = told.iter().map(|line| (line.number, line.who.as_str(), line.result.as_str())).collect();
    assert_eq!(told, [(one, "ann", "failed: 404 Not Found"), (two, "bob", "done")]);
    let last = &latest(&store, 1).expect("read").all[0];
    assert!(last.who == "bob" && last.what.len() == LONGEST_TEXT && !last.what.contains('\u{1b}'), "{last:?}");
    let (news, next) = news(&store, one).expect("read");
    let news: Vec<_> = news.iter().map(|line| (line.who.as_str(), line.result.as_str())).collect();
    assert_eq!((news, next), (vec![("bob", "begun"), ("bob", "done"), ("ann", "failed: 404 Not Found")], 4));
    assert_eq!(verdict(&store).broken, []);
}

/// Each of them in the store, where nobody looks who is not root.
#[test]
fn whoever_changes_or_removes_an_entry_breaks_the_chain_there() {
    type Meddle = fn(&Store) -> Vec<Write>;
    let meddles: [(Meddle, &[Broken]); 4] = [
        (
            |store| {
                let mut link = links(store, 4, 5).expect("read").remove(0);
                link.step = did("POST /innocent");
                vec![put::<AuditLog>(&5, &link)]
            },
            &[Broken::Changed { number: 5 }],
        ),
        (
            |_| vec![bramble_store::remove::<AuditLog>(&5), bramble_store::remove::<AuditLog>(&6)],
            &[Broken::Missing { from: 5, to: 6 }],
        ),
        (|_| vec![bramble_store::remove::<AuditLog>(&10)], &[Broken::Missing { from: 10, to: 10 }]),
        (
            |store| vec![put::<AuditLog>(&10, &Link { at: 1, ..links(store, 9, 10).expect("read").remove(0) })],
            &[Broken::Changed { number: 10 }],
        ),
    ];
    for (meddle, expected) in meddles {
        let (_folder, store) = store();
        for number in 0..10 {
            add(&store, &did(&format!("POST /x/{number}")), true, KEPT).expect("written");
        }
        assert_eq!(verdict(&store).broken, []);
        let writes = meddle(&store);
        store.blocking().commit(&[], &writes).expect("written");
        assert_eq!(verdict(&store).broken, expected);
        begin(&store, ("ann", "local"), "POST /later", "done", true).expect("it goes on all the same");
        assert!(verdict(&store).broken.len() >= expected.len(), "and the break stays");
    }
}

#[test]
fn what_expires_leaves_an_anchor_that_the_rest_still_hangs_on() {
    let (folder, store) = store();
    for number in 0..30 {
        add(&store, &did(&format!("POST /x/{number}")), true, 10).expect("written");
    }
    let found = verdict(&store);
    assert_eq!((found.chained, found.broken), (10, Vec::new()));
    let (chain, _) = chain(&store).expect("read");
    assert_eq!((chain.first, chain.last), (21, 30));
    assert!(chain.anchor.is_some());
    assert_eq!(store.blocking().all(AuditLog::TABLE).expect("read").len(), 10);
    drop(store);
    let store = Store::open(&folder.path().join("head.redb"), 2).expect("opens again");
    add(&store, &did("POST /after/a/start"), true, 10).expect("written");
    assert_eq!(verdict(&store).broken, []);
    // Without the oldest one nothing hangs on the anchor.
    store.blocking().commit(&[], &[bramble_store::remove::<AuditLog>(&22)]).expect("written");
    assert_eq!(verdict(&store).broken, [Broken::Missing { from: 22, to: 22 }]);
}

/// It goes on where the copy of the store was taken.
#[test]
fn a_chain_that_was_restored_from_a_backup_is_whole() {
    let (folder, store) = store();
    let add = |store: &Store, what| self::add(store, &did(what), true, KEPT).expect("written");
    add(&store, "POST /before");
    let copy = folder.path().join("copy.redb");
    std::fs::write(&copy, store.blocking().copy().expect("a copy")).expect("written");
    add(&store, "POST /lost");
    let restored = Store::open(&copy, 9).expect("opens");
    restored.blocking().begin_new_life(9).expect("restored");
    add(&restored, "POST /after");
    let found = verdict(&restored);
    assert_eq!((found.chained, found.broken), (2, Vec::new()));
}

#[test]
fn the_chain_begins_after_the_entries_of_the_release_before_and_they_expire_with_it() {
    let (_folder, store) = store();
    for number in 1..=3u64 {
        let json = format!(
            "1 {{\"number\":{number},\"at\":5,\"who\":\"ann\",\"from\":\"local\",\"what\":\"POST /old\",\"result\":\"done\"}}"
        );
        let write = Write::Put { table: AuditLog::TABLE, key: number.into(), bytes: json.into_bytes() };
        store.blocking().commit(&[], &[write]).expect("written");
    }
    assert_eq!(latest(&store, 9).expect("read").all.len(), 3);
    for _ in 0..3 {
        add(&store, &did("POST /new"), true, 4).expect("written");
    }
    let found = verdict(&store);
    assert_eq!((found.unchained, found.chained, found.broken), (1, 3, Vec::new()));
    for _ in 0..3 {
        add(&store, &did("POST /new"), true, 4).expect("written");
    }
    let found = verdict(&store);
    assert_eq!((found.unchained, found.chained, found.broken), (0, 4, Vec::new()));
}

#[test]
fn an_entry_that_cannot_be_read_is_missing_and_is_not_written_over() {
    let (_folder, store) = store();
    for _ in 0..4 {
        add(&store, &did("POST /x"), true, KEPT).expect("written");
    }
    let torn = |number: u64| Write::Put { table: AuditLog::TABLE, key: number.into(), bytes: b"2 {torn".to_vec() };
    store.blocking().commit(&[], &[torn(2)]).expect("written");
    assert_eq!(verdict(&store).broken, [Broken::Missing { from: 2, to: 2 }]);
    assert_eq!(latest(&store, 9).expect("read").lacks, 1);
    // Also where what has expired ends there.
    add(&store, &did("POST /x"), true, 4).expect("written");
    let found = verdict(&store);
    assert_eq!(found.broken, [Broken::Missing { from: 2, to: 2 }]);
    add(&store, &did("POST /x"), true, 4).expect("written");
    assert_eq!(verdict(&store).broken, []);
}

#[test]
fn two_who_write_at_once_make_one_chain() {
    let (_folder, store) = store();
    std::thread::scope(|scope| {
        for who in ["ann", "bob", "eve"] {
            let store = store.clone();
            scope.spawn(move || {
                for _ in 0..20 {
                    let number = begin(&store, (who, "local"), "POST /x", "begun", false).expect("written");
                    end(&store, number, "done");
                }
            });
        }
    });
    let found = verdict(&store);
    assert_eq!((found.chained, found.broken), (120, Vec::new()));
    let told = latest(&store, 100).expect("read").all;
    assert!(told.len() == 60 && told.iter().all(|line| line.result == "done"));
}
