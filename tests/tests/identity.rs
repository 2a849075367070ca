//! What machines are known by, on real firmware: a TPM, a variable of UEFI, the wire.

use std::fs;

use bramble_tests::{Lab, Repository, is_ready, node, wait};
use serde_json::Value;

const NODES: [&str; 4] = ["t1", "v1", "d1", "w1"];
/// GUID of the data partition of d1.
const DATA: &str = "5b1c1f0e-6c43-4f0b-9a52-0f2d4f0c8a11";

const REPOSITORY: &str = r#"
[cluster]
name = "identities"

[network]
interface = "eth0"
dhcp      = "full"
subnet    = "10.77.0.0/24"
pool      = "10.77.0.100-10.77.0.199"
no_ipv6_router = true

[image]
suite = "trixie"

[roles.kept]
engine   = "none"
identity = "kept"

[roles.plain]
engine = "none"

[nodes.t1]
mac  = "52:54:00:00:00:01"
role = "kept"
lab  = { tpm = true }

[nodes.v1]
mac  = "52:54:00:00:00:02"
role = "kept"
lab  = { firmware = "uefi" }

[nodes.d1]
mac  = "52:54:00:00:00:04"
role = "kept"
data = "5b1c1f0e-6c43-4f0b-9a52-0f2d4f0c8a11"

[nodes.w1]
mac  = "52:54:00:00:00:03"
role = "plain"
"#;

/// The keys with which a node was let in, in turn.
fn keys(lab: &Lab, node: &str) -> Vec<String> {
    let events = lab.events(node);
    let admitted = events.iter().filter(|event| event["what"]["kind"] == "admitted");
    admitted.map(|event| event["what"]["fingerprint"].as_str().expect("a key").to_owned()).collect()
}

fn all_ready(status: &Value) -> bool {
    NODES.iter().all(|node| is_ready(status, node))
}

fn asked(lab: &Lab) -> Vec<Value> {
    NODES.iter().flat_map(|node| lab.events(node)).filter(|event| event["what"]["kind"] == "waits").collect()
}

/// How far the rotation of the CA is.
fn rotation(lab: &Lab) -> Value {
    let shown: Value = serde_json::from_str(&lab.repository.must(&["ca", "show", "--json"])).expect("JSON");
    shown["rotation"].clone()
}

/// The CA is rotated: running nodes move over without hands, through a restart of the head, and a machine that starts then
/// boots the next one's image. Nobody asks a person.
fn rotates_its_ca(lab: &mut Lab) {
    let before = NODES.map(|node| keys(lab, node));
    lab.repository.must(&["ca", "rotate", "--yes"]);
    let has_moved = |lab: &Lab| rotation(lab)["moved"].as_array().is_some_and(|moved| moved.len() == NODES.len());
    wait("all have moved", || has_moved(lab));
    let lost = rotation(lab)["losses"].clone();
    assert_eq!(lost.as_array().map(Vec::len), Some(1), "the set that nodes are given is of before: {lost}");
    let refused = lab.repository.run(&["ca", "rotate", "--finish"]);
    assert!(!refused.status.success(), "nobody is there to ask");
    lab.repository.must(&["image", "build"]);
    wait("the set that nodes are given has both", || rotation(lab)["losses"] == serde_json::json!([]));
    lab.kill_head();
    lab.wait("all are back", 120, all_ready);
    wait("all have moved", || has_moved(lab));
    lab.repository.must(&["ca", "rotate", "--finish", "--yes"]);
    assert_eq!(rotation(lab), Value::Null);
    lab.kill_head();
    lab.wait("all trust the next one", 120, all_ready);
    // Whose certificate was of the old one asks for another, with the key that it has.
    for (node, before) in NODES.into_iter().zip(before) {
        let last = before.last().expect("it was let in");
        assert!(keys(lab, node)[before.len()..].iter().all(|key| key == last), "{node} keeps its key");
    }
    lab.repository.must(&["power", "off", "w1"]);
    lab.repository.must(&["power", "on", "w1"]);
    lab.wait("w1 boots what the next one is in", 300, |status| is_ready(status, "w1"));
    assert_eq!(asked(lab), Vec::<Value>::new(), "no hands");
}

#[test]
fn a_home_that_lost_its_power_comes_back_on_what_each_machine_keeps() {
    let repository = Repository::first_light();
    repository.edit(|_| REPOSITORY.to_owned());
    let mut lab = Lab::start(repository);
    lab.partition("d1", DATA, None);
    for node in NODES {
        lab.repository.must(&["power", "on", node]);
    }
    let status = lab.wait("all are let in", 300, all_ready);
    let known_by = NODES.map(|name| node(&status, name)["known_by"].clone());
    assert_eq!(known_by, ["tpm", "variable", "disk", "wire"]);
    // Whoever else is on that machine is shown no variable.
    lab.repository.must(&["exec", "-n", "v1", "--", "sh", "-c", "! grep efivarfs /proc/mounts"]);
    // Power goes, also to the head, and comes back.
    for node in NODES {
        lab.repository.must(&["lab", "power", "off", node]);
    }
    lab.kill_head();
    for node in NODES {
        lab.repository.must(&["lab", "power", "on", node]);
    }
    lab.wait("all are back", 300, all_ready);
    assert_eq!(asked(&lab), Vec::<Value>::new(), "no hands");
    for node in NODES {
        let [first, second] = &keys(&lab, node)[..] else { panic!("{node} was let in twice") };
        assert_eq!(first == second, node != "w1", "{node} keeps its key: {first} {second}");
    }

    rotates_its_ca(&mut lab);

    // The disk of d1 in a machine that has taken its MAC address, too.
    lab.repository.must(&["power", "off", "d1"]);
    let board = lab.repository.state().join("lab/machines/d1/uuid");
    let own = fs::read_to_string(&board).expect("it has one");
    fs::write(&board, own.replace("8000", "9000")).expect("written");
    lab.repository.must(&["power", "on", "d1"]);
    lab.wait("d1 waits for a person", 120, |status| node(status, "d1")["pending"].is_string());
    let why = lab.repository.must(&["why", "d1"]);
    assert!(why.contains("the disk that it is known by is in another machine"), "{why}");
    lab.repository.must(&["power", "off", "d1"]);

    // Another TPM in t1's place, switched on by its own head: it waits for a person.
    lab.repository.must(&["power", "off", "t1"]);
    fs::remove_dir_all(lab.repository.state().join("lab/machines/t1/tpm")).expect("it had one");
    fs::create_dir(lab.repository.state().join("lab/machines/t1/tpm")).expect("an empty one");
    lab.repository.must(&["power", "on", "t1"]);
    lab.wait("t1 waits for a person", 120, |status| node(status, "t1")["pending"].is_string());
    let why = lab.repository.must(&["why", "t1"]);
    assert!(why.contains("it came with another key than the one that it is known by"), "{why}");
    let status = lab.status().expect("a head");
    let key = node(&status, "t1")["pending"].as_str().expect("a key").to_owned();
    // Whoever stands before it reads six digits, which nobody else is told.
    let listed = lab.repository.must(&["node", "approve"]);
    assert!(listed.contains(&key) && listed.contains("DIGITS, on its console"), "{listed}");
    let mut digits = None;
    bramble_tests::wait("its console shows six digits", || {
        let console = lab.repository.must(&["lab", "console", "t1"]);
        let shown = console.rsplit_once("the six digits of this machine are ").map(|(_, rest)| rest[..6].to_owned());
        digits = shown.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        digits.is_some()
    });
    let digits = digits.expect("it was waited for");
    let told = serde_json::to_string(&lab.status().expect("a head")).expect("plain data") + &listed;
    assert!(!told.contains(&format!("\"{digits}\"")), "they are on its console alone");
    lab.repository.must(&["node", "approve", "t1", &digits]);
    lab.wait("t1 is let in", 60, |status| is_ready(status, "t1"));
    assert_eq!(keys(&lab, "t1").last(), Some(&key));
}
