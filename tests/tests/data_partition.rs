//! A node with a data partition: what comes from its disk, and when; and how it is known and closed. That its key survives
//! there is in `identity.rs`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

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
    let login = login(&repository);
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

    it_is_known_to_ssh_and_lets_in_what_its_parts_need(&lab, &login);

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

/// A key that the repository lets in, and where its private half lies.
fn login(repository: &Repository) -> PathBuf {
    let key = repository.path().join("login");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
    assert!(made.expect("ssh-keygen starts").success());
    let public = fs::read_to_string(key.with_extension("pub")).expect("made");
    let line = format!("domain = \"home.arpa\"\nssh_keys = [\"{}\"]\n", public.trim_end());
    repository.edit(|text| text.replacen("domain = \"home.arpa\"\n", &line, 1));
    key
}

/// Somebody on the wire knows the node by the line of its cluster, and reaches what the repository opens.
fn it_is_known_to_ssh_and_lets_in_what_its_parts_need(lab: &Lab, login: &std::path::Path) {
    let says = |command: &str| lab.repository.must(&["exec", "-n", "m1", "--", "sh", "-c", command]);
    let certificate = "/var/lib/bramble/ssh_host_ed25519_key-cert.pub";
    let shown = says(&format!(
        "for i in $(seq 60); do [ -e {certificate} ] && break; sleep 1; done; ssh-keygen -L -f {certificate}"
    ));
    for principal in ["m1", "m1.home.arpa", "10.77.0.11"] {
        assert!(shown.lines().any(|line| line.trim() == principal), "{shown}");
    }
    let known = lab.repository.path().join("known");
    fs::write(&known, lab.repository.must(&["ssh", "known-hosts"])).expect("written");
    let (known, login) = (format!("UserKnownHostsFile={}", known.display()), login.display().to_string());
    let ssh = ["ssh", "-F", "/dev/null", "-o", &known, "-o", "GlobalKnownHostsFile=/dev/null", "-o", "BatchMode=yes"];
    let more = ["-o", "StrictHostKeyChecking=yes", "-i", &login, "root@10.77.0.11", "true"];
    lab.on_the_wire(&[&ssh[..], &more].concat());

    let rules = says("nft list table inet bramble");
    for rule in ["policy drop", "tcp dport 22 accept", "ip saddr @swarm tcp dport 2377 accept", "tcp dport 8000 accept"]
    {
        assert!(rules.contains(rule), "{rule}: {rules}");
    }
    // The head's machine is no member of the Swarm: what it sends there is not answered, nor refused.
    let probe = |port: u16| format!("timeout 5 bash -c '</dev/tcp/10.77.0.11/{port}'");
    lab.on_the_wire(&["sh", "-c", &probe(22)]);
    lab.on_the_wire(&["sh", "-c", &format!("! {}", probe(2377))]);
    lab.on_the_wire(&["sh", "-c", &format!("! {}", probe(7946))]);

    let docker = says("docker info --format '{{json .SecurityOptions}}'");
    for option in ["name=apparmor", "name=no-new-privileges", "name=seccomp"] {
        assert!(docker.contains(option), "{option}: {docker}");
    }
}
