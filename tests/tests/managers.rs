//! Three managers, two of which lose their power and come back with nothing: no Swarm is lost, and nothing stale is
//! shown as present.

use bramble_tests::{Lab, Repository, is_ready, node, replicas};
use serde_json::Value;

const NODES: [&str; 3] = ["m1", "w1", "w2"];

fn all_ready(status: &Value) -> bool {
    NODES.iter().all(|node| is_ready(status, node))
}

fn swarm<'a>(status: &'a Value, name: &str) -> &'a Value {
    &node(status, name)["health"]["engines"]["swarm"]
}

fn problems(status: &Value) -> String {
    status["problems"].to_string()
}

/// When the Swarm's loop has looked last.
fn looked_at(status: &Value) -> u64 {
    let mut sections = status["loops"].as_array().expect("loops").iter();
    sections.find(|section| section["name"] == "swarm").and_then(|section| section["observed_at"].as_u64()).unwrap_or(0)
}

/// Fault 15 of the ground, whole.
#[test]
#[ignore = "three managers that boot twice: part of ./dev soak"]
fn what_two_of_three_managers_held_is_kept_by_the_third_until_a_person_gives_it_up() {
    let repository = Repository::first_light().by_wire();
    repository.edit(|text| text.replace("role    = \"worker\"", "role    = \"manager\""));
    let mut lab = Lab::start(repository);
    for node in NODES {
        lab.repository.must(&["power", "on", node]);
    }
    lab.wait("all nodes are ready", 500, all_ready);
    let status = lab.wait("three replicas run", 240, |status| replicas(status) == (3, 3));
    let first = swarm(&status, "w2")["cluster"].as_str().expect("a Swarm").to_owned();
    assert!(NODES.iter().all(|node| swarm(&status, node)["manager"] == true), "{status:#}");

    for node in ["m1", "w1"] {
        lab.repository.must(&["lab", "power", "off", node]);
    }
    let gone = lab.wait("a Swarm without a majority is a problem by name", 120, |status| {
        problems(status).contains(&format!("Swarm {first} cannot be read"))
    });
    let workload = &gone["workloads"][0];
    assert!(
        workload["current"] == false && workload["stale"]["since"].is_u64(),
        "what is old is shown as old: {workload}"
    );
    let why: Value = serde_json::from_str(&lab.repository.must(&["why", "w2", "--json"])).expect("JSON");
    assert_ne!(why["name"], "ready", "{why}");

    for node in ["m1", "w1"] {
        lab.repository.must(&["lab", "power", "on", node]);
    }
    lab.wait("the two are back, and blank", 500, |status| {
        ["m1", "w1"].iter().all(|node| swarm(status, node)["state"] == "alone")
    });
    // Each of these looks could begin another one.
    for _ in 0..5 {
        let before = looked_at(&lab.status().expect("the head answers"));
        lab.wait("the loop looks again", 60, |status| looked_at(status) > before);
    }
    let status = lab.status().expect("the head answers");
    assert_eq!(swarm(&status, "w2")["cluster"], first.as_str(), "the third keeps what it has");
    assert!(["m1", "w1"].iter().all(|node| swarm(&status, node)["state"] == "alone"), "nobody begins another one");
    let waits = status["loops"].to_string();
    assert!(waits.contains("bramble engine start swarm --new --without"), "a person is told what to do: {waits}");

    lab.repository.must(&["engine", "start", "swarm", "--new", "--without", "w2", "--yes"]);
    let status = lab.wait("all are ready in a new Swarm", 400, |status| {
        all_ready(status) && NODES.iter().all(|node| swarm(status, node)["cluster"] != first.as_str())
    });
    assert!(!problems(&status).contains(&first), "{}", problems(&status));
    lab.wait("three replicas run again", 300, |status| replicas(status) == (3, 3));
}
