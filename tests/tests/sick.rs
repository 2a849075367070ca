//! Faults of machines that run, planted in the machines: `bramble why` names each.

use std::fs;
use std::os::unix::fs::symlink;

use bramble_tests::{Lab, Repository, has_reached, node};
use serde_json::Value;

/// Adds a unit to the overlay that runs this script on this node, before its agent starts.
fn plant(repository: &Repository, node: &str, script: &str) {
    let overlay = repository.path().join("overlay");
    let units = overlay.join("etc/systemd/system");
    let name = format!("plant-{node}.service");
    fs::create_dir_all(units.join("sysinit.target.wants")).expect("a folder");
    fs::write(overlay.join(format!("etc/plant-{node}")), script).expect("written");
    let text = format!(
        "[Unit]\nConditionKernelCommandLine=bramble.node={node}\nDefaultDependencies=no\nAfter=local-fs.target\n\
         Before=bramble-agent.service docker.service\n\n[Service]\nType=oneshot\nRemainAfterExit=yes\n\
         ExecStart=/bin/sh /etc/plant-{node}\n"
    );
    fs::write(units.join(&name), text).expect("written");
    symlink(format!("/etc/systemd/system/{name}"), units.join("sysinit.target.wants").join(&name)).expect("a link");
}

fn cause(lab: &Lab, node: &str) -> String {
    let why: Value = serde_json::from_str(&lab.repository.must(&["why", node, "--json"])).expect("JSON");
    why["name"].as_str().unwrap_or_default().to_owned()
}

fn wait_for_cause(lab: &mut Lab, node: &str, name: &str, seconds: u64) {
    let start = std::time::Instant::now();
    eprintln!("      … {node}: {name}");
    loop {
        let found = cause(lab, node);
        if found == name {
            return;
        }
        let why = lab.repository.must(&["why", node]);
        assert!(start.elapsed().as_secs() < seconds, "{node} is `{found}` and not `{name}`:\n{why}");
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
}

/// A manager whose `/var` is full, a worker without memory, and one that cannot reach the Swarm.
#[test]
fn a_full_disk_no_memory_and_an_engine_that_cannot_join() {
    let repository = Repository::first_light();
    plant(&repository, "m1", "fallocate -l $(($(df --output=avail -B1M /var | tail -n 1) - 64))M /var/full");
    plant(&repository, "w1", "iptables -A OUTPUT -p tcp --dport 2377 -j REJECT");
    // What is left serves the system and its agent, and no engine; what others give back is eaten, too. At one gulp: a
    // slow machine took minutes where each mouthful had processes of its own.
    plant(
        &repository,
        "w2",
        "(sleep 15\nmkdir -p /run/eater\nmount -t tmpfs -o size=100% tmpfs /run/eater\n\
         while :; do sleep 0.2\n\
         free=$(sed -n 's/MemAvailable: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo)\n\
         [ \"$free\" -le 45000 ] || head -c $((free - 43000))K /dev/zero >>/run/eater/full\n\
         done) &\n",
    );
    let mut lab = Lab::start(repository);
    for node in ["m1", "w1", "w2"] {
        lab.repository.must(&["power", "on", node]);
    }
    wait_for_cause(&mut lab, "m1", "disk-full", 240);
    wait_for_cause(&mut lab, "w1", "engine-refuses", 240);
    wait_for_cause(&mut lab, "w2", "out-of-memory", 240);
}

/// Machines whose clocks are a quarter of a century off when their agents start: behind and ahead, and the
/// head's signed time sets them. One that cannot hear it is told of. It is a lab as by `sudo` in a user's folder.
#[test]
fn clocks_that_are_too_far_off() {
    let repository = Repository::first_light();
    plant(&repository, "m1", "date -s 2001-01-01");
    plant(&repository, "w1", "date -s 2049-01-01");
    // Its agent reaches the head, and not what says the time.
    plant(&repository, "w2", "date -s 2001-01-01; iptables -A OUTPUT -p tcp --dport 7080 -j REJECT");
    if rustix::process::geteuid().is_root() {
        fs::create_dir(repository.state()).expect("made");
        bramble_testing::given(&repository.state());
    }
    let mut lab = Lab::start(repository);
    for node in ["m1", "w1", "w2"] {
        lab.repository.must(&["power", "on", node]);
    }
    for node in ["m1", "w1"] {
        lab.wait(&format!("{node} is let in"), 240, |status| has_reached(status, node, "engine"));
        let console = lab.repository.must(&["lab", "console", node]);
        assert!(console.contains("set by the head's signed time"), "{console}");
    }
    wait_for_cause(&mut lab, "w2", "clock-off", 240);
}

/// A kernel that has no driver for the machine's network card. The card's number on PCI is said.
#[test]
fn a_kernel_without_a_driver_for_the_card() {
    let repository = Repository::first_light();
    repository.only("m1");
    repository.edit(|text| text.replace("[image]", "[image]\ncmdline = \"initcall_blacklist=virtio_net_driver_init\""));
    let mut lab = Lab::start(repository);
    lab.repository.must(&["power", "on", "m1"]);
    wait_for_cause(&mut lab, "m1", "stage1-silent", 240);
    let why = lab.repository.must(&["why", "m1"]);
    assert!(why.contains("PCI id 1af4:1000"), "{why}");
}

/// Large packets from the head no longer arrive, in the middle of a layer; small ones do.
#[test]
fn a_layer_whose_fetch_stalls() {
    let repository = Repository::first_light();
    repository.only("m1");
    let mut lab = Lab::start(repository);
    lab.repository.must(&["power", "on", "m1"]);
    // Its first report comes before it has the manifest, which would not arrive either.
    lab.wait("a part of a layer is there", 120, |status| node(status, "m1")["percent"].as_u64() > Some(0));
    lab.on_the_wire(&["nft", "add table inet fault"]);
    lab.on_the_wire(&["nft", "add chain inet fault out { type filter hook output priority 0; }"]);
    lab.on_the_wire(&["nft", "add rule inet fault out tcp sport 7080 meta length > 900 drop"]);
    wait_for_cause(&mut lab, "m1", "layer-fetch-stalls", 240);
    lab.on_the_wire(&["nft", "delete table inet fault"]);
    lab.wait("it goes on by itself", 120, |status| has_reached(status, "m1", "system"));
}
