//! Desired state, by the real head, the real command line and real git: snapshots, what they would change, the brake,
//! and the power switch in between.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bramble_model::names::Digest;
use bramble_tests::git::Git;
use bramble_tests::git_http::Http;
use bramble_tests::machines::house::{House, inside};
use bramble_tests::wait;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

fn nodes(count: usize) -> String {
    (1..=count).map(|number| node(&format!("w{number}"), number)).collect()
}

fn node(name: &str, number: usize) -> String {
    format!("[nodes.{name}]\nmac = \"52:54:00:02:00:{number:02x}\"\nrole = \"other\"\n\n")
}

fn toml(house: &House) -> PathBuf {
    house.path().join("bramble.toml")
}

fn edit(house: &House, change: impl FnOnce(String) -> String) {
    let text = std::fs::read_to_string(toml(house)).expect("readable");
    std::fs::write(toml(house), change(text)).expect("writable");
}

fn json(house: &House, words: &[&str]) -> Value {
    serde_json::from_str(&house.must(words, "")).expect("JSON")
}

fn current(house: &House) -> String {
    let status = house.status().expect("the head answers");
    status["desired"]["snapshot"].as_str().expect("a snapshot").to_owned()
}

fn names(house: &House) -> BTreeSet<String> {
    let status = house.status().expect("the head answers");
    let nodes = status["nodes"].as_array().expect("nodes");
    nodes.iter().map(|node| node["name"].as_str().expect("a name").to_owned()).collect()
}

/// What the loop of this name waits for.
fn waits(house: &House, name: &str) -> String {
    let status = house.status().expect("the head answers");
    let loops = status["loops"].as_array().expect("loops");
    let own = loops.iter().filter(|section| section["name"] == name);
    own.map(|section| section["waits"].to_string() + &section["unknown"].to_string()).collect()
}

#[test]
fn a_snapshot_is_shown_applied_and_taken_back() {
    if !inside("a_snapshot_is_shown_applied_and_taken_back") {
        return;
    }
    let house = House::start_as("admission = \"open\"", &nodes(3));
    let first = current(&house);
    let said = house.must(&["apply"], "");
    assert!(said.contains("nothing to change"), "{said}");
    let (code, ..) = house.bramble(&["plan", "--exit-code"], "");
    assert_eq!(code, 0, "nothing would change");

    // A file that someone edits is nobody's wish yet.
    edit(&house, |text| text + &node("x9", 9));
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!((current(&house), names(&house).contains("x9")), (first.clone(), false));
    let (code, plan, _) = house.bramble(&["plan", "--exit-code"], "");
    assert!(code == 5 && plan.contains("node x9 is new"), "{code}: {plan}");
    let (code, _, error) = house.bramble(&["apply"], "");
    assert!(code == 1 && error.contains("--yes"), "nobody is there to ask: {error}");
    let applied = json(&house, &["apply", "--yes", "--json"]);
    assert_eq!(applied["applied"]["snapshot"], current(&house).as_str());
    assert!(names(&house).contains("x9"));

    // What does not check changes nothing, and says where.
    let second = current(&house);
    let good = std::fs::read_to_string(toml(&house)).expect("readable");
    edit(&house, |text| text + "[nodes.w1]\n");
    let (code, _, error) = house.bramble(&["apply", "--yes"], "");
    assert!(code == 3 && error.contains("nodes.w1"), "{code}: {error}");
    assert_eq!(current(&house), second);

    let history = house.must(&["history"], "");
    assert!(history.contains("node x9 is new") && history.contains(&format!("{} *", &second[..12])), "{history}");
    house.must(&["rollback", "--yes"], "");
    assert_eq!((current(&house), names(&house).contains("x9")), (first.clone(), false));
    house.must(&["rollback", &second[..8].to_uppercase(), "--yes"], "");
    assert_eq!(current(&house), second);
    let (code, _, error) = house.bramble(&["apply", "--yes", "ffffffff"], "");
    assert!(code == 1 && error.contains("bramble history"), "{error}");

    // Who reads the history hears of each line why it is there.
    std::fs::write(toml(&house), good + "# the end\n").expect("writable");
    house.must(&["apply", "--yes"], "");
    let history = json(&house, &["history", "--json"]);
    assert_eq!(history[0]["changed"][0], "bramble.toml changes in nothing that the head uses");
}

#[test]
fn a_sick_workload_stops_alone() {
    if !inside("a_sick_workload_stops_alone") {
        return;
    }
    let machines = "[roles.m]\nengine = \"manager\"\n[nodes.m1]\nmac = \"52:54:00:02:00:01\"\nrole = \"m\"\n\n\
                    [workloads.web]\npath = \"web.yaml\"\n\n[workloads.sick]\npath = \"sick.yaml\"\n";
    let well: &[u8] = b"services:\n  web:\n    image: web:1\n";
    let house = House::start_with_files("admission = \"open\"", machines, &[("web.yaml", well), ("sick.yaml", well)]);
    std::fs::write(house.path().join("sick.yaml"), "services: [\n").expect("writable");
    let (code, ..) = house.bramble(&["check"], "");
    assert_eq!(code, 3, "check names it");
    house.must(&["apply", "--yes"], "");
    wait("the loop says why", || waits(&house, "swarm").contains("what is deployed stays"));
    assert!(house.head_says("workload sick is not deployed as this says"), "and so does the journal");
    let status = house.status().expect("the head answers");
    let sick = |name: &str| {
        let workloads = status["workloads"].as_array().expect("workloads");
        workloads.iter().find(|workload| workload["name"] == name).expect("a workload")["problem"].is_string()
    };
    assert!(sick("sick") && !sick("web"));
}

/// A repository of git with the house's own bramble.toml in it.
fn git_of(house: &House) -> Git {
    let git = Git::new();
    std::fs::copy(toml(house), git.work().join("bramble.toml")).expect("copied");
    git.edit(|text| format!("{text}\n[source]\ngit = \"{}\"\nevery = \"5s\"\n", git.url()));
    git.publish("the first");
    git
}

fn revision(house: &House) -> String {
    let status = house.status().expect("the head answers");
    status["desired"]["revision"]["commit"].as_str().unwrap_or_default().to_owned()
}

/// Bytes of a file that lies on the shelf.
const LARGE: usize = 100_000;

/// Whether a file of such bytes is there.
fn is_on_the_shelf(house: &House, content: u8) -> bool {
    let digest = Digest(Sha256::digest(vec![content; LARGE]).into());
    house.path().join(".bramble/image/files").join(digest.to_string()).exists()
}

#[test]
fn the_head_follows_git_and_brakes() {
    if !inside("the_head_follows_git_and_brakes") {
        return;
    }
    let house = House::start_as("admission = \"open\"", &nodes(6));
    let git = git_of(&house);
    // Of age's own tests.
    let recipient = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";
    git.edit(|text| format!("{text}\n[backup]\nfolder = \"backups\"\nrecipients = [\"{recipient}\"]\nkeep = 9\n"));
    let first = git.publish("keep backups");
    let now = std::time::UNIX_EPOCH.elapsed().expect("a clock").as_secs();
    std::fs::create_dir(house.path().join("backups")).expect("made");
    let cluster = house.status().expect("the head answers")["cluster"].as_str().expect("a name").to_owned();
    let backup = |hours: u64| house.path().join(format!("backups/{cluster}-{}.bramble-backup", now - hours * 3600));
    (1..=3).for_each(|hours| std::fs::write(backup(hours), "").expect("written"));
    // It is told by hand where to look, which only a person may, and looks from then on.
    std::fs::copy(git.work().join("bramble.toml"), toml(&house)).expect("copied");
    let told = house.must(&["apply", "--yes"], "");
    assert!(!told.contains("held"), "{told}");
    wait("it is followed", || waits(&house, "source").contains("looked at again"));
    let by_hand = std::fs::read_to_string(toml(&house)).expect("there") + &node("y1", 30);
    std::fs::write(toml(&house), by_hand).expect("written");
    let (_, _, error) = house.bramble(&["up", "--yes", "--limit", "1"], "");
    assert!(error.contains("it is not applied") && !names(&house).contains("y1"), "{error}");
    let told = house.must(&["apply", "--yes"], "");
    assert!(told.contains("following git is held"), "{told}");
    wait("what was applied by hand is not overtaken", || waits(&house, "source").contains("held"));
    house.must(&["sync"], "");
    assert!(!names(&house).contains("y1"), "git says nothing of it");

    // Ten commits in a second: the last one wins.
    let mut last = first;
    for number in 10..20 {
        git.edit(|text| text + &node(&format!("x{number}"), number));
        last = git.publish(&format!("add x{number}"));
    }
    house.must(&["sync"], "");
    assert_eq!(revision(&house), last);
    assert_eq!(names(&house).len(), 16);
    let history = house.must(&["history"], "");
    assert!(history.contains("Ann") && history.contains("git"), "{history}");

    // One in between was passed over, and is here all the same.
    let between = git.run(&git.work(), &["rev-parse", "HEAD~3"]);
    house.must(&["rollback", "--yes", &between[..12]], "");
    assert_eq!((revision(&house), names(&house).len()), (between, 13));
    house.must(&["sync"], "");
    assert_eq!(revision(&house), last);

    // By itself, without a sync.
    git.edit(|text| text + &node("y1", 30));
    let good = git.publish("add y1");
    wait("the commit is followed by itself", || revision(&house) == good);

    // One that does not check changes nothing, and says where.
    git.edit(|text| text + "[nodes.y1]\n");
    let broken = git.publish("break it");
    let upper = broken[..12].to_uppercase();
    for words in [&["sync"][..], &["plan", &broken], &["apply", "--yes", &broken[..12]], &["rollback", "--yes", &upper]]
    {
        let (code, _, error) = house.bramble(words, "");
        assert!(code == 3 && error.contains("bramble.toml, line"), "{words:?}: {code}: {error}");
    }
    let (code, told, _) = house.bramble(&["sync", "--json"], "");
    assert!(code == 3 && told.contains("bramble.toml, line"), "{code}: {told}");
    assert_eq!(revision(&house), good);
    wait("the status says it, too", || house.must(&["status"], "").contains("bramble.toml, line"));

    // One whose plan destroys something waits for a person.
    git.edit(|text| text.strip_suffix("[nodes.y1]\n").expect("it was broken").replace("keep = 9", "keep = 1"));
    git.publish("keep one backup");
    let (code, out, error) = house.bramble(&["sync"], "");
    assert!(code == 1 && out.contains("it destroys 2 backups"), "{code}: {out}{error}");
    assert!((1..=3).all(|hours| backup(hours).exists()) && revision(&house) == good);
    git.edit(|text| text.replace("keep = 1", "keep = 9"));
    let good = git.publish("keep them all");
    house.must(&["sync"], "");
    assert_eq!(revision(&house), good);

    // One that lets nearly everyone go waits for a person.
    git.edit(|text| {
        text[..text.find("[nodes.w2]").expect("there")].to_owned()
            + &text[text.find("[source]").expect("there")..text.find("[nodes.x10]").expect("there")]
    });
    let bold = git.publish("remove everyone");
    let (code, out, error) = house.bramble(&["sync"], "");
    assert!(code == 1 && out.contains("waits for a person") && out.contains("nodes go"), "{code}: {out}{error}");
    assert_eq!((revision(&house), names(&house).len()), (good.clone(), 17), "nothing has changed");
    wait("what lets it through is said", || waits(&house, "source").contains("bramble apply --yes"));
    let said = house.must(&["apply", "--yes", &bold[..12]], "");
    assert!(said.contains("nodes go") && !said.contains("does not descend"), "{said}");
    assert_eq!((revision(&house), names(&house).len()), (bold.clone(), 1));
    assert!(!waits(&house, "source").contains("held"), "what was let through is what git has");

    // So does one that was rewritten to the same files: what is pushed onto it would come by itself.
    git.run(&git.work(), &["checkout", "-q", "--orphan", "same"]);
    git.run(&git.work(), &["commit", "-q", "-m", "the same files"]);
    git.run(&git.work(), &["push", "-q", "-f", "origin", "same:main"]);
    let same = git.run(&git.work(), &["rev-parse", "HEAD"]);
    let (code, out, error) = house.bramble(&["sync"], "");
    assert!(code == 1 && out.contains("does not descend"), "{code}: {out}{error}");
    assert_eq!(revision(&house), bold);
    let careful = "CAREFUL: it does not descend";
    let plan = house.must(&["plan", &same[..12]], "");
    assert!(plan.contains(careful), "{plan}");
    let let_through = house.must(&["apply", "--yes", &same[..12]], "");
    assert!(let_through.contains("is current") && !let_through.contains("held"), "{let_through}");
    assert!(let_through.contains(careful), "{let_through}");
    assert_eq!(revision(&house), same);
    house.must(&["sync"], "");
    let (code, out, error) = house.bramble(&["plan", &bold[..12]], "");
    assert!(code == 0, "a commit that the history has is found, whoever says the same now: {code}: {out}{error}");
    assert!(out.contains(careful), "{out}");

    // A branch that was rewritten waits, too.
    git.run(&git.work(), &["checkout", "-q", "--orphan", "other"]);
    git.edit(|text| text + &node("z1", 40) + "[image]\noverlay = \"overlay\"\n");
    std::fs::create_dir(git.work().join("overlay")).expect("made");
    let rewrite = |content: u8| {
        std::fs::write(git.work().join("overlay/large"), vec![content; LARGE]).expect("written");
        git.run(&git.work(), &["add", "-A"]);
        git.run(&git.work(), &["commit", "-q", "--amend", "-m", "a new history"]);
        git.run(&git.work(), &["push", "-q", "-f", "origin", "other:main"]);
        let (code, out, error) = house.bramble(&["sync"], "");
        assert!(code == 1 && out.contains("does not descend"), "{code}: {out}{error}");
    };
    git.run(&git.work(), &["commit", "-q", "-m", "nothing yet"]);
    rewrite(1);
    assert!(is_on_the_shelf(&house, 1), "it waits");
    rewrite(2);
    wait("what waits no more has gone from the shelf", || !is_on_the_shelf(&house, 1));
    assert!(is_on_the_shelf(&house, 2), "it waits");
    let plan = house.must(&["plan", &git.run(&git.work(), &["rev-parse", "HEAD"])], "");
    assert!(plan.contains("node z1 is new") && plan.contains(careful), "{plan}");

    // A branch that vanishes, and a repository that is away, are told and end nothing.
    let away = git.path().join("away.git");
    std::fs::rename(git.path().join("home.git"), &away).expect("moved");
    let (code, _, error) = house.bramble(&["sync"], "");
    assert!(code == 1 && error.contains("home.git"), "{error}");
    std::fs::rename(&away, git.path().join("home.git")).expect("moved back");
    assert_eq!(names(&house).len(), 1);

    // After a rollback it is not followed, until someone says so.
    house.must(&["rollback", &good[..12], "--yes"], "");
    let held = || waits(&house, "source").contains("an earlier snapshot was made current");
    wait("following is held, and says so", held);
    assert_eq!(revision(&house), good);
}

/// A head without a repository of its own begins with an address, and follows what it finds there over HTTP.
#[test]
fn a_head_begins_with_git_over_http() {
    if !inside("a_head_begins_with_git_over_http") {
        return;
    }
    let mut house = House::start_as("admission = \"open\"", &nodes(2));
    let git = git_of(&house);
    let server = Http::serve(git.path(), None);
    let url = server.url("home.git");
    git.edit(|text| text.replace(&git.url(), &url));
    let first = git.publish("say where it is");

    house.stop_head();
    let (code, _, error) = house.bramble(&["source", "set", &url], "");
    assert!(code == 1 && error.contains("has a bramble.toml"), "{code}: {error}");
    std::fs::remove_file(toml(&house)).expect("removed");
    std::fs::remove_dir_all(house.path().join(".bramble")).expect("removed");
    house.must(&["source", "set", &url], "");
    house.start_head();
    assert_eq!((revision(&house), names(&house).len()), (first, 2));

    git.edit(|text| text + &node("y1", 30));
    let second = git.publish("add y1");
    house.must(&["sync"], "");
    assert_eq!((revision(&house), names(&house).len()), (second.clone(), 3));

    // A server that is ill is told, ends nothing, and is asked again.
    server.always.store(503, Ordering::Relaxed);
    git.edit(|text| text + &node("y2", 31));
    let third = git.publish("add y2");
    let (code, _, error) = house.bramble(&["sync"], "");
    assert!(code == 1 && error.contains("503"), "{code}: {error}");
    house.kill_head();
    assert_eq!(revision(&house), second, "it goes on with what it has");
    server.always.store(0, Ordering::Relaxed);
    wait("the server is asked again", || revision(&house) == third);
}

/// As that, at a repository that lets in by a token alone, and with commits of one person alone.
#[test]
fn a_head_begins_with_a_private_repository_and_with_signed_commits() {
    if !inside("a_head_begins_with_a_private_repository_and_with_signed_commits") {
        return;
    }
    let mut house = House::start_as("admission = \"open\"", &nodes(1));
    let git = git_of(&house);
    let server = Http::serve(git.path(), Some("Basic Z2l0OnMzY3JldA=="));
    let url = server.url("home.git");
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-f", "ann"]).current_dir(git.path());
    assert!(keygen.status().expect("ssh-keygen starts").success());
    let signer = std::fs::read_to_string(git.path().join("ann.pub")).expect("readable");
    let signing = git.path().join("ann").display().to_string();
    for (key, value) in [("gpg.format", "ssh"), ("user.signingkey", &signing), ("commit.gpgsign", "true")] {
        git.run(&git.work(), &["config", key, value]);
    }
    // It says nothing of a source: what the head was begun with counts on.
    git.edit(|text| text.split("\n[source]").next().expect("there is a first part").to_owned());
    let first = git.publish("signed");

    house.stop_head();
    std::fs::remove_file(toml(&house)).expect("removed");
    std::fs::remove_dir_all(house.path().join(".bramble")).expect("removed");
    std::fs::write(house.path().join("token"), "s3cret\n").expect("written");
    let set = ["source", "set", &url, "--token-file", "token", "--signer"];
    let (code, _, error) = house.bramble(&[&set[..], &["ann"]].concat(), "");
    assert!(code == 1 && error.contains("neither an SSH nor an OpenPGP public key"), "{code}: {error}");
    house.must(&[&set[..], &[&signer]].concat(), "");
    house.start_head();
    assert_eq!(revision(&house), first);

    git.run(&git.work(), &["config", "commit.gpgsign", "false"]);
    git.publish("signed by nobody");
    let (code, _, error) = house.bramble(&["sync"], "");
    assert!(code == 1 && error.contains("is not signed"), "{code}: {error}");
    assert_eq!(revision(&house), first);
    git.run(&git.work(), &["config", "commit.gpgsign", "true"]);
    let second = git.publish("signed again");
    house.must(&["sync"], "");
    assert_eq!(revision(&house), second);
}

/// Kills the head at any moment, so many times, and looks whether what it has acknowledged is there: after each kill
/// the snapshot is the one that was acknowledged last, or the whole of the one that was being applied. Gives how many of
/// them came after an answer.
fn kills(times: usize) -> usize {
    let mut house = House::start_as("admission = \"open\"", &nodes(2));
    let original = std::fs::read_to_string(toml(&house)).expect("readable");
    let mut acknowledged = current(&house);
    let mut answered = 0;
    for round in 0..times {
        // Not the clock's own rhythm: any instant of an apply comes up.
        let pause = Duration::from_millis((round as u64 * 7919) % 240);
        let path = toml(&house);
        let text = format!("{original}\n{}", node(&format!("k{}", round % 40), 60 + round % 40));
        std::fs::write(&path, text).expect("writable");
        let (code, told, error) = std::thread::scope(|scope| {
            let applying = scope.spawn(|| house.bramble(&["apply", "--yes", "--json"], ""));
            std::thread::sleep(pause);
            let killed = Command::new("kill").args(["-9", &house.head_pid().to_string()]).status();
            assert!(killed.expect("kill runs").success());
            applying.join().expect("no panic")
        });
        house.kill_head();
        let now = current(&house);
        let history = json(&house, &["history", "--json"]);
        assert_eq!(history[0]["snapshot"], now.as_str(), "round {round}");
        if code == 0 {
            let answer: Value = serde_json::from_str(&told).expect("JSON");
            let applied = answer["applied"]["snapshot"].as_str().expect("each round's snapshot is another one");
            assert_eq!(now, applied, "round {round}: what was acknowledged is current");
            answered += 1;
        } else if now != acknowledged {
            // No answer came, so it is the one that was being applied: to apply the same again changes nothing.
            house.must(&["apply", "--yes"], "");
            assert_eq!(
                current(&house),
                now,
                "round {round}: neither the one before nor the one that was being applied: {error}"
            );
        }
        acknowledged = now;
    }
    eprintln!("{times} kills, {answered} of them after an answer");
    answered
}

#[test]
fn what_was_acknowledged_is_current_after_a_kill() {
    if inside("what_was_acknowledged_is_current_after_a_kill") {
        kills(12);
    }
}

#[test]
#[ignore = "two hundred kills: part of ./dev soak"]
fn what_was_acknowledged_is_current_after_two_hundred_kills() {
    if inside("what_was_acknowledged_is_current_after_two_hundred_kills") {
        let answered = kills(200);
        assert!(answered > 0, "kills came after an answer, too");
    }
}
