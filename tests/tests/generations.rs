//! Two releases in one lab: a head and the nodes of another release, which boot the other one's own image.
//!
//! The other release is the last one that speaks version 1 of the agents' protocol: its program is built from its
//! commit.

use std::path::PathBuf;

use bramble_tests::generations::{PROTOCOL_1, program_of};
use bramble_tests::{Lab, Repository, has_reached, is_ready, node, program, replicas};
use serde_json::Value;

/// Longer than either side waits for one that says nothing, in seconds.
const PATIENCE: u64 = 70;

fn before() -> PathBuf {
    program_of(PROTOCOL_1)
}

/// Nodes boot the set of this program, from now on; gives its digest.
fn boots(lab: &Lab, program: &std::path::Path) -> String {
    lab.repository.build_by(program);
    let status = lab.status().expect("the head answers");
    status["set"].as_str().expect("a boot set").to_owned()
}

/// Switches nodes on, and waits until each has its boot, and so its set.
fn switch_on(lab: &mut Lab, nodes: &[&str]) {
    for node in nodes {
        lab.repository.must(&["power", "on", node]);
    }
    lab.wait("they have their boot sets", 180, |status| nodes.iter().all(|node| has_reached(status, node, "root")));
}

/// The node's place in the Swarm, as its agent says it to a head of today or of before.
fn place<'a>(status: &'a Value, name: &str) -> &'a Value {
    let health = &node(status, name)["health"];
    match &health["engines"]["swarm"] {
        Value::Null => &health["engine"],
        place => place,
    }
}

fn is_member(status: &Value, name: &str, cluster: &str) -> bool {
    place(status, name)["state"] == "member" && place(status, name)["cluster"] == cluster
}

/// How often the node's agent has connected and its connection has ended, since the head began.
fn connections(lab: &Lab, name: &str) -> (usize, usize) {
    let events = lab.events(name);
    let count = |kind: &str| events.iter().filter(|event| event["what"]["kind"] == kind).count();
    (count("connected"), count("disconnected"))
}

/// Watches the connections of these nodes for longer than either side waits for a silent one: they stay, and health
/// goes on over them.
fn stay_connected(lab: &mut Lab, nodes: &[&str]) {
    let uptime = |status: &Value, name: &str| node(status, name)["health"]["uptime"].as_u64().unwrap_or(0);
    let status = lab.status().expect("the head answers");
    let first: Vec<_> = nodes.iter().map(|name| (connections(lab, name), uptime(&status, name))).collect();
    lab.wait("health goes on", 2 * PATIENCE, |status| {
        nodes.iter().zip(&first).all(|(name, (_, since))| uptime(status, name) >= since + PATIENCE)
    });
    for (name, (before, _)) in nodes.iter().zip(&first) {
        assert_eq!(connections(lab, name), *before, "the connection of {name} stays");
    }
}

/// The lead that a node's agent has obeyed last; null where it has heard of none.
fn lead(lab: &Lab, name: &str) -> Value {
    let text = lab.repository.must(&["exec", "-n", name, "--", "sh", "-c", "cat /var/lib/bramble/lead.json || true"]);
    let kept = text.find('{').map(|at| serde_json::from_str::<Value>(&text[at..]).expect("JSON"));
    kept.map_or(Value::Null, |kept| kept["newest"].clone())
}

/// What the loop of the Swarm waits for.
fn waits(status: &Value) -> String {
    let sections = status["loops"].as_array().expect("loops");
    let own = sections.iter().filter(|section| section["name"] == "swarm");
    own.map(|section| section["waits"].to_string()).collect()
}

/// A head of today with a manager and a worker of before, and a worker of today.
#[test]
#[ignore = "builds an earlier release and boots five times: part of ./dev soak"]
fn a_head_serves_agents_of_the_release_before_and_asks_them_what_they_can_do() {
    let before = before();
    let mut lab = Lab::start(Repository::first_light().by_wire());
    let old = boots(&lab, &before);
    switch_on(&mut lab, &["m1", "w2"]);
    let new = boots(&lab, &program("bramble"));
    assert_ne!(old, new, "two releases, two boot sets");
    switch_on(&mut lab, &["w1"]);
    let all = ["m1", "w1", "w2"];
    let status = lab.wait("all nodes are ready", 600, |status| all.iter().all(|name| is_ready(status, name)));
    for (name, set) in [("m1", &old), ("w1", &new), ("w2", &old)] {
        assert_eq!(node(&status, name)["set"], set.as_str(), "{name} runs its own release");
    }

    // The one of before has begun the Swarm, gives others in, and deploys.
    let status = lab.wait("three replicas run", 300, |status| replicas(status) == (3, 3));
    let first = place(&status, "m1")["cluster"].as_str().expect("a Swarm").to_owned();
    assert!(all.iter().all(|name| is_member(&status, name, &first)), "{status:#}");
    stay_connected(&mut lab, &all);
    // Who knows leads is asked in one, and who does not is asked without.
    assert!(lead(&lab, "w1")["number"].is_u64(), "w1 has obeyed this head's lead");
    assert_eq!(["m1", "w2"].map(|name| lead(&lab, name)), [Value::Null, Value::Null]);

    // All of them come back to a head that was started again.
    lab.kill_head();
    lab.wait("all agents are connected again", 120, |status| all.iter().all(|name| is_ready(status, name)));

    // They leave whatever they have when they are told to begin or to join, and so are told neither.
    lab.repository.must(&["engine", "give-up", "swarm", &first, "--yes"]);
    let status = lab.wait("the loop says who cannot leave", 60, |status| {
        let waits = waits(status);
        waits.contains("cannot leave a Swarm by its name") && waits.contains("boot m1 anew")
    });
    assert!(all.iter().all(|name| is_member(&status, name, &first)), "nobody has left");
    stay_connected(&mut lab, &all);
    let status = lab.status().expect("the head answers");
    assert!(all.iter().all(|name| is_member(&status, name, &first)), "nobody has left: {status:#}");

    // With the release of today the manager begins another one; the worker of today leaves the old one by its name,
    // and the one of before stays until it boots, too.
    lab.repository.must(&["lab", "power", "off", "m1"]);
    switch_on(&mut lab, &["m1"]);
    let other = |status: &Value, name: &str| {
        place(status, name)["state"] == "member" && place(status, name)["cluster"] != first.as_str()
    };
    let status = lab.wait("a new Swarm has m1 and w1", 500, |status| other(status, "m1") && other(status, "w1"));
    let second = place(&status, "m1")["cluster"].as_str().expect("a Swarm").to_owned();
    assert!(is_member(&status, "w1", &second) && waits(&status).contains("boot w2 anew"), "{status:#}");
    assert!(!is_member(&status, "w2", &second), "it was not asked to join");
    lab.repository.must(&["lab", "power", "off", "w2"]);
    switch_on(&mut lab, &["w2"]);
    lab.wait("all are members of the new Swarm", 500, |status| all.iter().all(|name| is_member(status, name, &second)));
    lab.wait("three replicas run again", 300, |status| replicas(status) == (3, 3));
}

/// A head of before with a manager of today and a worker of its own.
#[test]
#[ignore = "builds an earlier release and boots two machines: part of ./dev soak"]
fn an_agent_serves_a_head_of_the_release_before_without_fences() {
    let mut lab = Lab::start(Repository::first_light_of(before()));
    let new = boots(&lab, &program("bramble"));
    switch_on(&mut lab, &["m1"]);
    let old = boots(&lab, &before());
    assert_ne!(old, new, "two releases, two boot sets");
    switch_on(&mut lab, &["w1"]);
    let both = ["m1", "w1"];
    let status = lab.wait("both are ready", 500, |status| both.iter().all(|name| is_ready(status, name)));
    assert_eq!(["m1", "w1"].map(|name| node(&status, name)["set"].clone()), [new, old].map(Value::from));
    // The one of today has begun a Swarm, lets the other in, says what there is, and deploys.
    let status = lab.wait("two of three replicas run", 300, |status| replicas(status) == (2, 3));
    let cluster = place(&status, "m1")["cluster"].as_str().expect("a Swarm");
    assert!(both.iter().all(|name| is_member(&status, name, cluster)), "{status:#}");
    stay_connected(&mut lab, &both);
    assert_eq!(lead(&lab, "m1"), Value::Null, "nobody spoke of a lead");
    // It comes back to a head that was started again, and nothing is begun anew.
    let cluster = cluster.to_owned();
    lab.kill_head();
    let status = lab.wait("both are connected again", 120, |status| both.iter().all(|name| is_ready(status, name)));
    assert!(both.iter().all(|name| is_member(&status, name, &cluster)), "{status:#}");
}
