//! A node with a data partition: layers come from its disk, and its key survives there.

use std::fs;
use std::process::Command;

use bramble_tests::{Lab, Repository, has_reached};
use serde_json::Value;

/// Where the partition begins and how long it is, in MiB.
const START: u64 = 1;
const LENGTH: u64 = 2048;

fn run(program: &str, arguments: &[&str], input: &str) {
    use std::io::Write;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("it reads");
    assert!(child.wait().expect("it ends").success(), "{program} {arguments:?}");
}

#[test]
fn layers_on_a_data_partition_are_not_fetched_and_the_key_survives() {
    let repository = Repository::first_light();
    repository.only("m1");
    let mut lab = Lab::start(repository);
    let set: Value = serde_json::from_str(&lab.repository.must(&["image", "inspect", "--json"])).expect("JSON");
    let root = set["manifest"]["layers"][0]["sha256"].as_str().expect("a digest").to_owned();

    // The disk as an installed machine has it: GPT, one ext4 partition, the root layer in it.
    let content = lab.repository.path().join("content");
    fs::create_dir_all(content.join("files")).expect("a folder");
    fs::copy(lab.repository.state().join("image/files").join(&root), content.join("files").join(&root))
        .expect("copied");
    let disk = lab.repository.state().join("lab/machines/m1/disk.raw").display().to_string();
    run(
        "/usr/sbin/sfdisk",
        &["--quiet", &disk],
        &format!("label: gpt\nstart={START}MiB, size={LENGTH}MiB, name=bramble-data\n"),
    );
    let offset = format!("offset={}", START << 20);
    let folder = content.display().to_string();
    run("/usr/sbin/mkfs.ext4", &["-q", "-F", "-E", &offset, "-d", &folder, &disk, &format!("{LENGTH}M")], "");

    lab.repository.must(&["power", "on", "m1"]);
    lab.wait("the agent has come", 180, |status| has_reached(status, "m1", "agent"));
    let fetched: Vec<Value> =
        lab.events("m1").into_iter().filter(|event| event["what"]["kind"] == "fetching").collect();
    let fetched: Vec<&str> = fetched.iter().filter_map(|event| event["what"]["file"].as_str()).collect();
    assert_eq!(fetched, ["kernel", "initrd", "site"], "the root came from the disk");

    let fingerprints = |lab: &Lab| -> Vec<String> {
        let events = lab.events("m1");
        let admitted = events.iter().filter(|event| event["what"]["kind"] == "admitted");
        admitted.map(|event| event["what"]["fingerprint"].as_str().expect("text").to_owned()).collect()
    };
    lab.repository.must(&["lab", "power", "cycle", "m1"]);
    lab.wait("it boots again", 60, |status| !has_reached(status, "m1", "agent"));
    lab.wait("it comes back after a power cut", 180, |status| has_reached(status, "m1", "agent"));
    let keys = fingerprints(&lab);
    assert_eq!((keys.len(), &keys[0]), (2, &keys[1]), "the same key");
}
