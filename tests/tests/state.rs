//! What the head knows, through everything that ends heads and disks: kills at any moment, full and read-only
//! disks, and a new machine with a backup.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bramble_tests::agents::{Agent, Head, health, runtime};
use bramble_tests::machines::firmware::power_on;
use bramble_tests::machines::house::{HEAD, House, inside, mount};
use bramble_tests::machines::persona::Persona;
use bramble_tests::machines::wire::Trouble;
use bramble_tests::wait;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

const NODES: usize = 8;
/// Machines that are lent an address.
const LENT: usize = 4;

fn nodes() -> String {
    (1..=NODES).map(|number| format!("[nodes.w{number}]\nmac = \"{}\"\nrole = \"other\"\n\n", mac(number))).collect()
}

fn mac(number: usize) -> String {
    format!("52:54:00:02:00:{number:02x}")
}

fn connect(house: &House) -> Head {
    Head::new(HEAD.parse().expect("an address"), &house.path().join(".bramble"))
}

/// What the head said yes to.
#[derive(Default)]
struct Acknowledged {
    users: BTreeMap<String, &'static str>,
    /// The last agent of each node that was let in.
    agents: BTreeMap<String, Agent>,
    /// Boots that were handed out.
    boots: Vec<(String, String)>,
}

/// What the timeline tells of a boot: the first digits of its id's SHA-256, and never the id.
fn tag(boot: &str) -> String {
    bramble_model::names::Digest(Sha256::digest(boot).into()).short()
}

/// Enrolments and changes without end, until the head is killed.
async fn load(head: Head, operator: String, round: usize, told: Arc<Mutex<Acknowledged>>, stop: Arc<AtomicBool>) {
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let name = format!("w{}", number % NODES + 1);
        // Whatever is answered after the head's end is no answer.
        let Ok(boot) = head.boot(&mac(number % NODES + 1)).await else { return };
        told.lock().expect("no panic").boots.push((name.clone(), boot.id.clone()));
        let mut agent = Agent::new(&head, &name, boot);
        // Should the answer be lost, it may have taken the place of the one before, and may not.
        told.lock().expect("no panic").agents.remove(&name);
        if agent.enrol().await.is_ok() {
            if let Ok(mut session) = agent.settle().await {
                let _ = session.say(&health(1)).await;
            }
            told.lock().expect("no panic").agents.insert(name, agent);
        }
        let user = format!("user-{round}-{}", number % 20);
        let role = if number % 2 == 0 { "viewer" } else { "operator" };
        let password = if number < 20 { ",\"password\":\"correct horse\"" } else { "" };
        let body = format!("{{\"role\":\"{role}\"{password}}}");
        let request = format!(
            "PUT /v1/users/{user} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nAuthorization: Bearer {operator}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        match head.try_https(&request).await {
            Ok((204, _)) => {
                told.lock().expect("no panic").users.insert(user, role);
            }
            _ => {
                // It may have been made, and may not: what it is cannot be said any more.
                told.lock().expect("no panic").users.remove(&user);
            }
        }
    }
}

/// Machines that boot again and again, each of which has an address of its own from the head. They go on through
/// its kills; gives each machine's address, once it is asked to end.
fn lend(house: &House, stop: &Arc<AtomicBool>) -> Vec<std::thread::JoinHandle<(String, usize)>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("personas");
    let loaders = Persona::all(&folder.join("loaders"));
    let mut persona = Persona::read(&folder.join("ipxe-rom-2019.toml"));
    persona.dhcp.collects = 0.0;
    (1..=LENT)
        .map(|number| {
            let (wire, persona, loaders, stop) =
                (house.wire.clone(), persona.clone(), loaders.clone(), Arc::clone(stop));
            std::thread::spawn(move || {
                let (mut first, mut times) = (String::new(), 0);
                while !stop.load(Ordering::Relaxed) {
                    let boot =
                        power_on(&wire, &format!("l{number}"), &persona, &loaders, Trouble::default(), times + 1);
                    for line in boot.log.iter().filter_map(|line| line.split_once("has address ")) {
                        if first.is_empty() {
                            line.1.clone_into(&mut first);
                        }
                        assert_eq!(line.1, first, "l{number} keeps its address:\n{}", boot.log.join("\n"));
                        times += 1;
                    }
                }
                (first, usize::try_from(times).expect("small"))
            })
        })
        .collect()
}

/// So many kills at random moments; after each, all that was acknowledged is there.
fn kills(rounds: usize) {
    let persona = Persona::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("personas/ipxe-rom-2019.toml"));
    let lent: String = (1..=LENT)
        .map(|number| {
            format!("[nodes.l{number}]\nmac = \"{}\"\nrole = \"other\"\n\n", persona.mac(&format!("l{number}")))
        })
        .collect();
    let mut house = House::start_full("admission = \"open\"", &(nodes() + &lent));
    let end = Arc::new(AtomicBool::new(false));
    let lending = lend(&house, &end);
    let operator = house.must(&["token", "add", "load", "--role", "operator"], "").trim().to_owned();
    let runtime = runtime();
    let told = Arc::new(Mutex::new(Acknowledged::default()));
    let mut dice: u64 = 0x9e37_79b9_7f4a_7c15;
    for round in 0..rounds {
        let stop = Arc::new(AtomicBool::new(false));
        let loading =
            runtime.spawn(load(connect(&house), operator.clone(), round, Arc::clone(&told), Arc::clone(&stop)));
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        std::thread::sleep(Duration::from_millis(20 + dice % 400));
        house.kill_head();
        stop.store(true, Ordering::Relaxed);
        runtime.block_on(loading).expect("no panic");
        let told = told.lock().expect("no panic");
        let users: Vec<Value> = serde_json::from_str(&house.must(&["user", "ls", "--json"], "")).expect("JSON");
        for (name, role) in &told.users {
            let found = users.iter().find(|user| user["name"] == name.as_str());
            assert!(found.is_some_and(|user| user["role"] == *role), "round {round}: {name} is {role}, not {found:?}");
        }
        let head = connect(&house);
        runtime.block_on(async {
            for (name, agent) in &told.agents {
                // A later boot that was handed out takes nobody's place before its agent is let in.
                agent.settle().await.unwrap_or_else(|error| panic!("round {round}: {name} was let in: {error}"));
            }
            let (_, _) = head.http("GET /v1/openapi.json HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
        });
        if round % 10 == 9 {
            for name in 1..=NODES {
                let events = house.events(&format!("w{name}"));
                let has = |boot: &str| events.iter().any(|event| event["what"]["boot"] == tag(boot).as_str());
                let own = told.boots.iter().filter(|(node, _)| *node == format!("w{name}"));
                let lost: Vec<_> = own.filter(|(_, boot)| !has(boot)).collect();
                assert!(lost.is_empty(), "round {round}: boots that were handed out are not in the timeline: {lost:?}");
            }
        }
        let audit: Vec<Value> =
            serde_json::from_str(&house.must(&["audit", "--last", "100000", "--json"], "")).expect("JSON");
        for name in told.users.keys() {
            let path = format!("PUT /v1/users/{name}");
            assert!(
                audit.iter().any(|entry| entry["what"] == path.as_str()),
                "round {round}: {path} is in the audit log"
            );
        }
    }
    end.store(true, Ordering::Relaxed);
    let leases: Vec<(String, usize)> = lending.into_iter().map(|machine| machine.join().expect("no panic")).collect();
    let mut addresses: Vec<&String> = leases.iter().map(|(address, _)| address).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), LENT, "nobody has another's address: {leases:?}");
    let lent: usize = leases.iter().map(|(_, times)| times).sum();
    assert!(lent >= rounds, "there was load: {leases:?}");
    let told = told.lock().expect("no panic");
    eprintln!("      {rounds} kills, {} boots, {} users, {lent} leases", told.boots.len(), told.users.len());
    assert!(told.boots.len() > rounds && told.users.len() > rounds, "there was load");
}

#[test]
fn nothing_that_was_acknowledged_is_lost_when_the_head_is_killed() {
    if inside("nothing_that_was_acknowledged_is_lost_when_the_head_is_killed") {
        kills(8);
    }
}

/// The long run of the same.
#[test]
#[ignore = "takes minutes: ./dev soak"]
fn two_hundred_kills() {
    if inside("two_hundred_kills") {
        kills(200);
    }
}

/// Fills what is left of a file system.
fn fill(folder: &Path) {
    use std::io::Write;
    let mut file = fs::File::create(folder.join("full")).expect("a file");
    for piece in [1 << 16, 1 << 12, 1] {
        while file.write_all(&vec![b'x'; piece]).is_ok() {}
    }
}

#[test]
fn a_full_or_read_only_disk_stops_no_boot() {
    if !inside("a_full_or_read_only_disk_stops_no_boot") {
        return;
    }
    let mut house = House::start_as("admission = \"open\"", &nodes());
    let state = house.path().join(".bramble");
    house.move_state_to_a_disk(24);
    let head = connect(&house);
    let runtime = runtime();
    let problem = |house: &House| {
        let status = house.status().expect("the head answers");
        status["problems"][0].as_str().unwrap_or_default().to_owned()
    };
    let (old, _) = runtime.block_on(Agent::up(&head, "w1", &mac(1))).expect("let in");
    house.must(&["user", "set", "ann"], "correct horse\n");
    house.must(&["token", "add", "backup"], "");

    let stolen = house.must(&["token", "add", "stolen", "--role", "operator"], "").trim().to_owned();

    // Full, while it runs: nobody has found out yet. What a person is told is so after a kill.
    fill(&state);
    let (code, _, err) = house.bramble(&["token", "rm", "stolen"], "");
    assert!(code == 0 || err.contains("takes no writes"), "{err}");
    house.kill_head();
    let request =
        format!("GET /v1/me HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {stolen}\r\nConnection: close\r\n\r\n");
    let (status, _) = runtime.block_on(head.try_https(&request)).expect("the head answers");
    assert_eq!(status, if code == 0 { 401 } else { 200 }, "removed: {}", code == 0);
    // Boots are handed out, agents let in, and those that were there stay.
    let (new, _) = runtime.block_on(Agent::up(&head, "w2", &mac(2))).expect("let in on a full disk");
    runtime.block_on(old.settle()).expect("a node that was there is served");
    // The store's file has some room in itself; boots fill it.
    wait("the head says what is wrong", || {
        let again = runtime.block_on(Agent::up(&head, "w4", &mac(4)));
        again.map(drop).expect("let in on a full disk");
        problem(&house).contains("takes no writes")
    });
    assert!(house.events("w2").iter().any(|event| event["what"]["kind"] == "admitted"));
    // What could not last is not promised.
    let (code, _, err) = house.bramble(&["user", "set", "eve"], "correct horse\n");
    assert!(code == 1 && err.contains("takes no writes"), "{err}");
    // By whatever name: neither is `power` a node's switch here, nor `backup` a backup.
    for words in [&["user", "set", "power"][..], &["token", "rm", "backup"]] {
        let (code, _, err) = house.bramble(words, "correct horse\n");
        assert!(code == 1 && err.contains("takes no writes"), "{words:?}: {err}");
    }
    assert!(house.must(&["user", "ls"], "").contains("ann"));
    // A backup is what one wants now.
    house.must(&["backup", "-o", "now.bramble-backup"], "");
    fs::remove_file(state.join("full")).expect("removed");
    wait("the head is on its disk again", || problem(&house).is_empty());
    house.kill_head();
    runtime.block_on(new.settle()).expect("what was let in meanwhile is known after a kill");
    house.must(&["user", "set", "after"], "correct horse\n");

    // Read-only, from its start: as a card that is worn out. A dead head's control socket lies where none can be made.
    mount(&["-t", "tmpfs", "tmpfs", "/run"]);
    house.stop_head();
    mount(&["-o", "remount,ro", &state.display().to_string()]);
    house.start_head();
    assert!(problem(&house).contains("takes no writes"), "{}", problem(&house));
    let (code, _, err) = house.bramble(&["restore", "now.bramble-backup"], "");
    assert!(code == 1 && err.contains("a head runs here"), "{err}");
    runtime.block_on(old.settle()).expect("a node that was there is served");
    runtime.block_on(Agent::up(&head, "w3", &mac(3))).expect("let in on a read-only disk");
    assert!(house.must(&["user", "ls"], "").contains("after"), "what the disk has is known");
    mount(&["-o", "remount,rw", &state.display().to_string()]);
    wait("the head is on its disk again", || problem(&house).is_empty());
    house.kill_head();
    assert!(house.must(&["user", "ls"], "").contains("after"));
    assert!(house.events("w3").iter().any(|event| event["what"]["kind"] == "admitted"));
}

#[test]
fn a_new_machine_goes_on_with_a_backup() {
    if !inside("a_new_machine_goes_on_with_a_backup") {
        return;
    }
    // Of age's own tests.
    let private = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33\n";
    let recipient = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";
    let machines = format!("[backup]\nfolder = \"backups\"\nrecipients = [\"{recipient}\"]\nkeep = 2\n\n{}", nodes());
    let mut house = House::start_as("", &machines);
    let key = house.path().join("backup.key");
    fs::write(&key, private).expect("written");
    let key = key.display().to_string();
    let head = connect(&house);
    let runtime = runtime();
    let mut agents = Vec::new();
    runtime.block_on(async {
        for number in 1..=3 {
            let mut agent = Agent::new(&head, &format!("w{number}"), head.boot(&mac(number)).await.expect("a boot"));
            let _ = agent.enrol().await;
            let status = house.status().expect("the head answers");
            let key = bramble_tests::node(&status, &agent.name)["pending"].as_str().expect("a key").to_owned();
            house.must(&["node", "approve", &agent.name, &key], "");
            agent.enrol().await.expect("approved");
            agents.push(agent);
        }
    });
    house.must(&["user", "set", "ann", "--role", "operator"], "correct horse\n");
    // By the timer, and by hand while everything runs.
    let made = || fs::read_dir(house.path().join("backups")).map(|entries| entries.count()).unwrap_or(0);
    wait("the head has made a backup by itself", || made() == 1);
    let backup = house.path().join("now.bramble-backup");
    house.must(&["backup", "-o", &backup.display().to_string()], "");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&backup).expect("there").permissions());
    assert_eq!(mode & 0o777, 0o600);
    let (code, _, err) = house.bramble(&["restore", "now.bramble-backup"], "");
    assert!(code == 1 && err.contains("a head runs here"), "{err}");

    // The old machine is gone. Its boot sets are built anew; here they are copied.
    house.stop_head();
    let state = house.path().join(".bramble");
    let (code, _, err) = house.bramble(&["restore", "now.bramble-backup"], "");
    assert!(code == 1 && err.contains("not written over"), "{err}");
    fs::rename(&state, house.path().join("old")).expect("moved");
    let mut torn = fs::read(&backup).expect("readable");
    let middle = torn.len() / 2;
    torn[middle] ^= 0x40;
    fs::write(house.path().join("torn.bramble-backup"), torn).expect("written");
    let (code, _, err) = house.bramble(&["restore", "torn.bramble-backup", "--identity", &key, "--yes"], "");
    assert!(code == 1 && err.contains("torn.bramble-backup"), "{err}");
    assert!(!state.join("head.redb").exists() && !state.join("keys").exists(), "nothing of a torn backup is written");
    let (code, _, err) = house.bramble(&["restore", "now.bramble-backup"], "");
    assert!(code == 1 && err.contains(recipient) && err.contains("--identity"), "{err}");
    let (code, out, err) = house.bramble(&["restore", "now.bramble-backup", "--identity", &key], "");
    assert!(code == 1 && out.contains("fingerprint of its CA: ") && err.contains("--yes"), "{out}{err}");
    assert!(!state.join("head.redb").exists() && !state.join("keys").exists(), "nobody has said that it is meant");
    house.must(&["restore", "now.bramble-backup", "--identity", &key, "--yes"], "");
    fs::rename(house.path().join("old/image"), state.join("image")).expect("moved");
    house.start_head();
    runtime.block_on(async {
        for agent in &agents {
            let session = agent.settle().await.expect("it goes on with the certificate that it has");
            let before = agent.enrolled.as_ref().and_then(|enrolled| enrolled.document.life.as_ref());
            let before = before.expect("this head says its life").life;
            assert!(session.life > before, "agents obey the new life: {} after {before}", session.life);
        }
    });
    assert!(house.must(&["user", "ls"], "").contains("ann"));
    assert!(house.must(&["audit"], "").contains("PUT /v1/users/ann"));
}

/// Puts bytes where the head has a record.
fn plant(state: &Path, table: &'static str, key: &str, bytes: &[u8]) {
    use bramble_store::{Blocking, Table, Write};
    let store = Blocking::open(&state.join("head.redb"), 1).expect("nobody uses it");
    let write = Write::Put { table: Table::new(table), key: key.into(), bytes: bytes.to_vec() };
    store.commit(&[], &[write]).expect("written");
}

#[test]
fn one_record_that_cannot_be_read_stops_nobody_else() {
    if !inside("one_record_that_cannot_be_read_stops_nobody_else") {
        return;
    }
    let mut house = House::start_as("admission = \"open\"", &nodes());
    let state = house.path().join(".bramble");
    let head = connect(&house);
    let runtime = runtime();
    let (other, _) = runtime.block_on(Agent::up(&head, "w2", &mac(2))).expect("let in");
    runtime.block_on(Agent::up(&head, "w1", &mac(1))).map(drop).expect("let in");
    assert!(house.must(&["store", "repair"], "").contains("every record can be read"));
    house.stop_head();
    plant(&state, "admissions", "w1", b"9 {\"of\":\"the future\"}");
    plant(&state, "seen", "52:54:00:00:00:77", b"1 {torn");
    house.start_head();

    let sentence = "the admission of w1 cannot be read: it is of form 9, and this bramble reads forms up to 3";
    let problems = house.status().expect("the head answers")["problems"].to_string();
    assert!(problems.contains(sentence) && problems.contains("`bramble store repair`"), "{problems}");
    assert!(!problems.contains("sighting"), "what begins anew is set aside: {problems}");
    runtime.block_on(async {
        other.settle().await.expect("the others go on");
        let mut lost = Agent::new(&head, "w1", head.boot(&mac(1)).await.expect("it boots"));
        let refused = lost.enrol().await.expect_err("it is not let in");
        assert!(refused.contains(sentence), "{refused}");
    });
    let (code, _, err) = house.bramble(&["node", "approve", "w1", &"a".repeat(32)], "");
    assert!(code == 1 && err.contains(sentence), "{err}");
    let (code, out, _) = house.bramble(&["store", "repair"], "");
    assert!(code == 1 && out.contains(sentence) && out.contains("--yes"), "{out}");

    // Through the head that runs.
    let done = house.must(&["store", "repair", "--yes"], "");
    assert!(done.contains("1 record set aside") && done.contains("set-aside/admissions-"), "{done}");
    assert_eq!(house.status().expect("the head answers")["problems"].to_string(), "[]");
    runtime.block_on(Agent::up(&head, "w1", &mac(1))).map(drop).expect("let in as one that was never here");

    // And where none runs.
    house.stop_head();
    plant(&state, "users", "ann", b"");
    let (code, out, _) = house.bramble(&["store", "repair"], "");
    assert!(code == 1 && out.contains("the user ann cannot be read"), "{out}");
    assert!(house.must(&["store", "repair", "--yes"], "").contains("set-aside/users-"));
    assert_eq!(fs::read_dir(state.join("set-aside")).expect("a folder").count(), 3);
    house.start_head();
    assert_eq!(house.status().expect("the head answers")["problems"].to_string(), "[]");
}

/// The text of the house's `bramble.toml` with another interface.
fn name_interface(house: &House, from: &str, to: &str) {
    let path = house.path().join("bramble.toml");
    let text = fs::read_to_string(&path).expect("readable");
    let (from, to) = (format!("interface = \"{from}\""), format!("interface = \"{to}\""));
    assert!(text.contains(&from), "{text}");
    fs::write(path, text.replace(&from, &to)).expect("written");
}

#[test]
fn a_wrong_interface_is_corrected_by_naming_the_right_one() {
    if !inside("a_wrong_interface_is_corrected_by_naming_the_right_one") {
        return;
    }
    let mut house = House::start_as("", &nodes());
    let state = house.path().join(".bramble");

    // At the beginning: what a head cannot begin with is not kept.
    house.stop_head();
    fs::rename(&state, house.path().join("old")).expect("moved");
    name_interface(&house, "eth0", "eth9");
    let (code, _, err) = house.bramble(&["serve"], "");
    assert!(code == 1 && err.contains("eth9") && err.contains("network.interface"), "{err}");
    name_interface(&house, "eth9", "eth0");
    house.start_head();
    assert_eq!(house.status().expect("the head answers")["problems"].to_string(), "[]");

    // Later: the head comes up without the wire, says so, and takes the correction.
    name_interface(&house, "eth0", "eth9");
    house.must(&["apply", "--yes"], "");
    house.kill_head();
    let problems = house.status().expect("the head answers")["problems"].to_string();
    assert!(problems.contains("network interface eth9") && problems.contains("nothing is served"), "{problems}");
    let listens = || std::net::TcpStream::connect((HEAD, 7080)).is_ok();
    assert!(!listens(), "no wire is served");
    name_interface(&house, "eth9", "eth0");
    house.must(&["apply", "--yes"], "");
    wait("the head serves the wire that is named now", listens);
    let well = || house.status().is_some_and(|status| status["problems"].as_array().is_some_and(Vec::is_empty));
    wait("nothing is wrong any more", well);
}

#[test]
fn a_head_whose_port_is_taken_ends_with_its_name_and_holds_none() {
    if !inside("a_head_whose_port_is_taken_ends_with_its_name_and_holds_none") {
        return;
    }
    let mut house = House::start_full("", &nodes());
    house.stop_head();
    let taken = std::net::TcpListener::bind((HEAD, 7080)).expect("the head has ended");
    let (code, _, err) = house.bramble(&["serve"], "");
    assert!(code == 1 && err.contains("HTTP (10.77.0.1:7080)") && err.contains("ss -lntp"), "{err}");
    drop(taken);
    house.start_head();
}

#[test]
fn a_current_snapshot_that_is_lost_stops_no_boot() {
    if !inside("a_current_snapshot_that_is_lost_stops_no_boot") {
        return;
    }
    let mut house = House::start_as("admission = \"open\"", &nodes());
    let state = house.path().join(".bramble");
    let current = |house: &House| {
        let status = house.status().expect("the head answers");
        (status["desired"]["snapshot"].as_str().unwrap_or_default().to_owned(), status["problems"].to_string())
    };
    let (only, _) = current(&house);
    house.stop_head();
    plant(&state, "snapshots", &only, b"1 {torn");
    // The folder has the same: the head serves it, and writes over nothing.
    house.start_head();
    let (again, problems) = current(&house);
    assert!(again == only && problems.contains("cannot be had") && problems.contains("cannot be read"), "{problems}");
    runtime().block_on(Agent::up(&connect(&house), "w1", &mac(1))).map(drop).expect("boots go on");
    house.stop_head();
    assert!(house.must(&["store", "repair", "--yes"], "").contains("set-aside/desired-"));
    house.start_head();
    assert_eq!(current(&house), (only, "[]".to_owned()));
}

/// The node of a snapshot that cannot be read was let go for good, because an older one does not know it.
#[test]
fn an_older_snapshot_in_the_place_of_a_lost_one_lets_nobody_go() {
    if !inside("an_older_snapshot_in_the_place_of_a_lost_one_lets_nobody_go") {
        return;
    }
    let mut house = House::start_as("admission = \"open\"", &nodes());
    let (state, file) = (house.path().join(".bramble"), house.path().join("bramble.toml"));
    let (newcomer, its_mac) = (format!("w{}", NODES + 1), mac(NODES + 1));
    let text = fs::read_to_string(&file).expect("readable");
    let node = format!("\n[nodes.{newcomer}]\nmac = \"{its_mac}\"\nrole = \"other\"\n");
    fs::write(&file, text + &node).expect("written");
    house.must(&["apply", "--yes"], "");
    let runtime = runtime();
    let (agent, _) = runtime.block_on(Agent::up(&connect(&house), &newcomer, &its_mac)).expect("let in");
    let newest = house.status().expect("the head answers")["desired"]["snapshot"].as_str().expect("one").to_owned();
    house.stop_head();
    plant(&state, "snapshots", &newest, b"1 {torn");
    let waits = |house: &House| {
        wait("who left is not asked of an older snapshot", || {
            let status = house.status().unwrap_or_default();
            let sections = status["loops"].as_array().cloned().unwrap_or_default();
            let unknown = |name: &str| {
                let section = sections.iter().find(|section| section["name"] == name);
                section.is_some_and(|section| section["unknown"].to_string().contains("cannot be had"))
            };
            status["desired"]["snapshot"] != newest.as_str() && unknown("admissions") && unknown("swarm")
        });
    };
    house.start_head();
    waits(&house);
    house.stop_head();
    house.must(&["store", "repair", "--yes"], "");
    house.start_head();
    waits(&house);
    house.must(&["apply", "--yes"], "");
    runtime.block_on(agent.settle()).map(drop).expect("it was never let go");
    assert!(!house.must(&["history"], "").contains("leaves"));
}

#[test]
fn a_damaged_store_and_missing_keys_are_refused_by_name() {
    if !inside("a_damaged_store_and_missing_keys_are_refused_by_name") {
        return;
    }
    let mut house = House::start_as("", &nodes());
    let state = house.path().join(".bramble");
    let (store, keys) = (state.join("head.redb"), state.join("keys"));
    house.must(&["user", "set", "ann"], "correct horse\n");
    house.stop_head();
    let whole = fs::read(&store).expect("readable");
    let refused = |house: &House, words: &[&str], what: &str| {
        let (code, _, err) = house.bramble(words, "");
        assert!(code == 1 && err.contains(what) && err.contains("restore"), "{words:?}: {err}");
    };
    fs::write(&store, "").expect("written");
    refused(&house, &["serve"], "it is empty");
    refused(&house, &["store", "repair"], "it is empty");
    let mut torn = whole.clone();
    let end = torn.len().min(42 * 4096);
    let mut dice: u32 = 1;
    for byte in &mut torn[2 * 4096..end] {
        dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = dice.to_be_bytes()[0];
    }
    fs::write(&store, torn).expect("written");
    refused(&house, &["serve"], "head.redb");
    refused(&house, &["store", "repair"], "head.redb");
    fs::write(&store, whole).expect("written");
    fs::rename(&keys, state.join("keys-aside")).expect("moved");
    refused(&house, &["serve"], "ca.pem is missing");
    assert!(!keys.exists(), "no CA was made");
    fs::rename(state.join("keys-aside"), &keys).expect("moved");
    house.start_head();
    assert!(house.must(&["user", "ls"], "").contains("ann"));
}
