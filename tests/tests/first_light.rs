//! The example cluster, from power-off to a served request, through what goes wrong in a home.

use bramble_tests::git::Git;
use bramble_tests::{Lab, Repository, copy, has_reached, is_ready, node, replicas};
use serde_json::Value;

const NODES: [&str; 3] = ["m1", "w1", "w2"];

fn all_ready(status: &Value) -> bool {
    NODES.iter().all(|node| is_ready(status, node))
}

#[test]
fn a_cluster_survives_its_head_and_its_power() {
    let mut lab = Lab::start(Repository::first_light());
    for node in NODES {
        lab.repository.must(&["power", "on", node]);
    }

    lab.wait("a node is in stage 1", 120, |status| NODES.iter().any(|node| has_reached(status, node, "root")));
    let boots_before: Vec<_> = NODES.iter().map(|node| scripts(&lab, node)).collect();
    lab.kill_head();
    let status = lab.wait("all nodes are ready", 400, all_ready);
    let boots_after: Vec<_> = NODES.iter().map(|node| scripts(&lab, node)).collect();
    for (before, after) in boots_before.iter().zip(&boots_after) {
        // A node that had its boot before the head was killed went on with it.
        assert!(before.iter().all(|boot| after.contains(boot)), "{before:?} {after:?}");
        assert_eq!(after.len(), 1, "no node had to start over: {after:?}");
    }
    let sets: Vec<_> = NODES.iter().map(|name| node(&status, name)["set"].clone()).collect();
    assert!(sets.iter().all(|set| *set == status["set"]), "the release is still known: {sets:?}");
    lab.wait("three replicas run", 240, |status| replicas(status) == (3, 3));

    let admissions = |lab: &Lab| lab.events("m1").iter().filter(|event| event["what"]["kind"] == "admitted").count();
    assert_eq!(admissions(&lab), 1);
    lab.kill_head();
    lab.wait("all agents are connected again", 120, all_ready);
    assert_eq!(admissions(&lab), 1, "nobody had to be admitted again");

    lab.repository.must(&["lab", "power", "off", "w1"]);
    lab.repository.must(&["lab", "power", "on", "w1"]);
    lab.wait("w1 boots again", 120, |status| node(status, "w1")["phase"] == "root");
    lab.repository.must(&["lab", "power", "off", "w1"]);
    lab.repository.must(&["lab", "power", "on", "w1"]);
    lab.wait("w1 is back after two power cuts", 300, |status| scripts_in(status, "w1") && is_ready(status, "w1"));
    lab.wait("three replicas run again", 300, |status| replicas(status) == (3, 3));
    lab.wait("its old entries are gone", 120, |status| is_at_rest(status, "swarm"));
    it_follows_git(&mut lab);
}

/// The lab follows git: a commit is deployed, and neither one that breaks, nor one that lets everyone go, nor a branch that
/// was rewritten stops anything that runs.
fn it_follows_git(lab: &mut Lab) {
    let git = Git::new();
    copy(lab.repository.path(), &git.work());
    git.edit(|text| format!("{text}\n[source]\ngit = \"{}\"\nevery = \"1h\"\n", git.url()));
    git.publish("what runs");
    lab.repository.edit(|text| format!("{text}\n[source]\ngit = \"{}\"\nevery = \"1h\"\n", git.url()));
    lab.repository.must(&["apply", "--yes"]);
    let sync = |lab: &Lab| lab.repository.run(&["sync"]).status.code();
    assert_eq!(sync(lab), Some(0));
    let scale = |from: &str, to: &str| {
        let path = git.work().join("workloads/whoami.yaml");
        let text = std::fs::read_to_string(&path).expect("readable");
        assert!(text.contains(from), "{text}");
        std::fs::write(&path, text.replace(from, to)).expect("writable");
    };
    scale("replicas: 3", "replicas: 2");
    let good = git.publish("two are enough");
    assert_eq!(sync(lab), Some(0));
    lab.wait("the commit is deployed", 120, |status| replicas(status) == (2, 2) && is_at_rest(status, "swarm"));

    git.edit(|text| text + "[nodes.w1]\n");
    git.publish("it breaks");
    assert_eq!(sync(lab), Some(3), "it does not check");
    git.edit(|text| {
        text[..text.find("[nodes.w1]").expect("there")].to_owned() + &text[text.find("[source]").expect("there")..]
    });
    git.edit(|text| text.strip_suffix("[nodes.w1]\n").expect("it broke").to_owned());
    git.publish("nobody is left but m1, and nothing to run");
    assert_eq!(sync(lab), Some(1), "it waits for a person");
    git.run(&git.work(), &["checkout", "-q", "--orphan", "anew", &good]);
    scale("replicas: 2", "replicas: 1");
    git.commit("another history");
    git.run(&git.work(), &["push", "-q", "-f", "origin", "anew:main"]);
    assert_eq!(sync(lab), Some(1), "it waits, too");
    let status = lab.wait("nobody was let go", 10, all_ready);
    assert_eq!(status["desired"]["revision"]["commit"], good.as_str());
    assert_eq!(replicas(&status).1, 2, "nothing was changed");
    let another = git.run(&git.work(), &["rev-parse", "HEAD"]);
    lab.repository.must(&["apply", "--yes", &another[..12]]);
    lab.wait("what a person lets through is deployed", 120, |status| replicas(status) == (1, 1));
}

/// The loop has read its part of the world, and there is nothing to do and nothing to wait for.
fn is_at_rest(status: &Value, name: &str) -> bool {
    let section = status["loops"].as_array().expect("loops").iter().find(|section| section["name"] == name);
    let section = section.expect("the loop is there");
    let none = |key: &str| section[key].as_array().expect("a list").is_empty();
    section["unknown"].is_null() && ["waits", "busy", "failed"].into_iter().all(none)
}

/// The node's present boot has passed all of its way.
fn scripts_in(status: &Value, name: &str) -> bool {
    has_reached(status, name, "root") && has_reached(status, name, "ready")
}

/// Boots that were handed out to a node.
fn scripts(lab: &Lab, node: &str) -> Vec<String> {
    let events = lab.events(node);
    let served = events.iter().filter(|event| event["what"]["kind"] == "script-served");
    served.map(|event| event["what"]["boot"].as_str().expect("an id").to_owned()).collect()
}
