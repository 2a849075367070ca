//! A node with a data partition: what comes from its disk, and when. That its key survives there is in `identity.rs`.

use std::fs;
use std::os::unix::fs::symlink;

use bramble_tests::{Lab, Repository, has_reached, node};
use serde_json::Value;

/// GUID of the partition, as the repository has it.
const OWN: &str = "5b1c1f0e-6c43-4f0b-9a52-0f2d4f0c8a11";

#[test]
fn layers_on_a_data_partition_are_not_fetched_and_nothing_starts_from_it_before_its_node_is_let_in() {
    let repository = Repository::first_light();
    repository.only("m1");
    // Its key is on the disk, and in no TPM.
    repository.edit(|text| text.replacen("lab     = { tpm = true }\n", &format!("data    = \"{OWN}\"\n"), 1));
    let mut lab = Lab::start(repository);
    let set: Value = serde_json::from_str(&lab.repository.must(&["image", "inspect", "--json"])).expect("JSON");
    let root = set["manifest"]["layers"][0]["sha256"].as_str().expect("a digest").to_owned();

    // The disk as an installed machine has it: GPT, one ext4 partition, the root layer in it.
    let content = lab.repository.path().join("content");
    fs::create_dir_all(content.join("files")).expect("a folder");
    fs::copy(lab.repository.state().join("image/files").join(&root), content.join("files").join(&root))
        .expect("copied");
    lab.partition("m1", OWN, Some(&content));

    lab.repository.must(&["power", "on", "m1"]);
    lab.wait("the agent has come", 180, |status| has_reached(status, "m1", "agent"));
    let fetched: Vec<Value> =
        lab.events("m1").into_iter().filter(|event| event["what"]["kind"] == "fetching").collect();
    let fetched: Vec<&str> = fetched.iter().filter_map(|event| event["what"]["file"].as_str()).collect();
    assert_eq!(fetched, ["kernel", "initrd", "site"], "the root came from the disk");

    lab.wait("its engine joins", 180, |status| has_reached(status, "m1", "ready"));
    let says = |command: &str| lab.repository.must(&["exec", "-n", "m1", "--", "sh", "-c", command]);
    let options = says("grep -E ' /var/lib/(docker|containerd|bramble) ' /proc/mounts");
    for folder in options.lines() {
        assert!(folder.contains("nodev") && folder.contains("nosuid"), "{options}");
    }
    assert_eq!(options.lines().count(), 3, "{options}");
    // What a disk has could have been anybody's until the node was let in.
    let journal = says("journalctl --boot --unit docker.service --unit containerd.service --output cat");
    let held = journal.find("untrusted-data").expect(&journal);
    let started = journal.find("Started docker.service").or(journal.find("Started Docker")).expect(&journal);
    assert!(held < started, "{journal}");

    // Someone's disk, which says to be m1's, and would have the engine's data lie elsewhere.
    lab.repository.must(&["power", "off", "m1"]);
    let links = lab.repository.path().join("links");
    fs::create_dir(&links).and_then(|()| symlink("/etc", links.join("docker"))).expect("made");
    lab.partition("m1", OWN, Some(&links));
    lab.repository.must(&["power", "on", "m1"]);
    lab.wait("it waits for a person", 180, |status| node(status, "m1")["pending"].is_string());
    let why = lab.repository.must(&["why", "m1"]);
    assert!(why.contains(&format!("the data partition {OWN} of this node is not used")), "{why}");
}
