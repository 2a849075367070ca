//! A process that is killed in the middle of its commits: what was acknowledged is there, and nothing is half.

use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use bramble_store::{Blocking, Expect, Key, Table, Version, Write};

/// Names the store to the child.
const CHILD: &str = "BRAMBLE_STORE_UNDER_TEST";
const ONE: Table = Table::new("one");
const OTHER: Table = Table::new("other");
const KILLS: u64 = 40;

fn count(store: &Blocking, table: Table) -> (u64, Version) {
    let entry = store.get(table, &Key::from("count")).expect("read");
    entry.map_or((0, Version::ABSENT), |entry| {
        let digits = String::from_utf8(entry.bytes).expect("digits");
        (digits.parse().expect("a number"), entry.version)
    })
}

/// The child: counts in two tables at once, and says each count when it is acknowledged.
#[test]
fn child_that_commits() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let store = Blocking::open(Path::new(&path), 1).expect("opens");
    let mut out = std::io::stdout();
    loop {
        let (number, version) = count(&store, ONE);
        let put = |table| Write::Put { table, key: "count".into(), bytes: (number + 1).to_string().into_bytes() };
        let expect = Expect { table: ONE, key: "count".into(), version };
        store.commit(&[expect], &[put(ONE), put(OTHER)]).expect("committed");
        writeln!(out, "acknowledged {}", number + 1).and_then(|()| out.flush()).expect("someone listens");
    }
}

#[test]
fn what_was_acknowledged_survives_kills() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("store");
    let mut acknowledged = 0;
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["child_that_commits", "--exact", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let told = |line: &str| Some(line.split_once("acknowledged ")?.1.parse::<u64>().expect("a number"));
        // It has begun; then the kill falls at some moment of a commit.
        let first = lines.by_ref().map_while(Result::ok).find_map(|line| told(&line)).expect("it commits");
        acknowledged = acknowledged.max(first);
        std::thread::sleep(Duration::from_micros(kill * 977 % 9000));
        child.kill().expect("killed");
        child.wait().expect("ended");
        acknowledged = lines.map_while(Result::ok).filter_map(|line| told(&line)).fold(acknowledged, u64::max);
        let store = Blocking::open(&path, 1).expect("opens after the kill");
        let (one, other) = (count(&store, ONE).0, count(&store, OTHER).0);
        assert_eq!(one, other, "a commit is whole or not there");
        assert!(one == acknowledged || one == acknowledged + 1, "{one} is there and {acknowledged} was acknowledged");
        assert_eq!(store.life().expect("read"), 1);
    }
}
