//! A real head with a fleet whose nodes are members of a simulated Swarm: how long it takes from a change of desired
//! state to the first step, and from a push to a current snapshot.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bramble_model::names::Name;
use bramble_tests::agents::{Agent, Head, control, runtime};
use bramble_tests::fleet::{addresses, mac};
use bramble_tests::git::Git;
use bramble_tests::machines::house::{HEAD, House};
use bramble_tests::measure::{figure, mark, megabytes, percentile};
use bramble_tests::swarm::{Deployed, Swarm};
use serde_json::Value;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;

const MANAGERS: usize = 3;
/// Changes of one workload by hand, and commits that are pushed.
const CHANGES: usize = 100;
const COMMITS: usize = 30;
/// From the request that makes a snapshot current to the first step, in milliseconds.
const STEP_TARGET: f64 = 200.0;
/// From a push to a current snapshot, in milliseconds.
const SYNC_TARGET: f64 = 1000.0;
/// The longest that anything may take before it counts as broken.
const LONGEST: Duration = Duration::from_secs(300);

/// Measures both ways of a change, or only the one by git.
pub fn measure(nodes: usize, workloads: usize, by_hand: bool) {
    let house = house(nodes);
    let addresses = addresses();
    let head = Head::new(HEAD.parse().expect("an address"), &house.path().join(".bramble"));
    let members = (0..nodes).map(|number| (node(number), number < MANAGERS)).collect();
    let (swarm, mut deployed) = Swarm::new(members);
    let runtime = runtime();
    let start = Instant::now();
    let mut fleet = runtime.block_on(async {
        let mut arriving = JoinSet::new();
        for number in 0..nodes {
            let (head, from) = (head.clone(), addresses[number % addresses.len()]);
            arriving.spawn(async move {
                let name = node(number);
                (number, Agent::arrive(&head, name.as_str(), &mac(number), from).await)
            });
        }
        let mut fleet = JoinSet::new();
        for (number, session) in arriving.join_all().await {
            fleet.spawn(Arc::clone(&swarm).serve(number, session));
        }
        fleet
    });
    println!("a head with {nodes} nodes that are members of a Swarm, and {workloads} workloads");
    figure("every agent is connected", start.elapsed().as_secs_f64(), "s");
    figure("head's memory without workloads", resident(&house), "MB");

    runtime.block_on(deploy_all(&house, &swarm, &mut deployed, workloads));
    if by_hand {
        runtime.block_on(changes(&house, &mut deployed, workloads));
    }
    pushes(&house, workloads);

    figure("head's memory, resident", resident(&house), "MB");
    figure("head's memory, resident at most so far", megabytes(house.head_pid(), "VmHWM:"), "MB");
    let ended = runtime.block_on(async { fleet.try_join_next() });
    assert!(ended.is_none(), "an agent's connection has ended: {ended:?}");
}

fn house(nodes: usize) -> House {
    let machines: String = (0..nodes)
        .map(|number| {
            let role = if number < MANAGERS { "manager" } else { "worker" };
            format!("[nodes.{}]\nmac = \"{}\"\nrole = \"{role}\"\n\n", node(number), mac(number))
        })
        .collect();
    House::start_as(
        "admission = \"open\"",
        &format!("[roles.manager]\nengine = \"manager\"\nidentity = \"wire\"\n\n{machines}"),
    )
}

fn node(number: usize) -> Name {
    format!("n{number}").parse().expect("a name")
}

fn workload(number: usize) -> Name {
    format!("w{number}").parse().expect("a name")
}

/// Resident megabytes of the head, as it says itself.
fn resident(house: &House) -> f64 {
    house.head_resident() as f64 / 1e6
}

/// Writes the file of a workload into a repository; `word` makes it different from the one before.
fn write(folder: &Path, number: usize, word: &str) {
    let name = workload(number);
    let text = format!(
        "# {word}\nservices:\n  {name}:\n    image: registry.home.arpa/{name}:1\n    environment:\n      \
         NODE: \"{{{{.Node.Hostname}}}}\"\n      REPLICA: \"{{{{.Task.Slot}}}}\"\n    ports:\n      \
         - \"{}:8000\"\n    deploy:\n      replicas: 3\n      placement:\n        max_replicas_per_node: 1\n",
        8000 + number
    );
    fs::write(folder.join(format!("workloads/{name}.yaml")), text).expect("written");
}

fn edit(folder: &Path, change: impl FnOnce(String) -> String) {
    let path = folder.join("bramble.toml");
    let text = fs::read_to_string(&path).expect("readable");
    fs::write(&path, change(text)).expect("written");
}

/// Waits for the next workload that a manager is told to deploy.
async fn next(deployed: &mut UnboundedReceiver<Deployed>) -> Deployed {
    let next = tokio::time::timeout(LONGEST, deployed.recv()).await;
    next.expect("a workload is deployed in time").expect("the Swarm lives")
}

/// Applies a folder with all workloads, and waits until each of them is deployed.
async fn deploy_all(house: &House, swarm: &Swarm, deployed: &mut UnboundedReceiver<Deployed>, workloads: usize) {
    fs::create_dir_all(house.path().join("workloads")).expect("a folder");
    (0..workloads).for_each(|number| write(house.path(), number, "the first"));
    let sections = (0..workloads).map(|number| {
        let name = workload(number);
        format!("\n[workloads.{name}]\npath = \"workloads/{name}.yaml\"\n")
    });
    edit(house.path(), |text| text + &sections.collect::<String>());
    let begun = Instant::now();
    house.must(&["apply", "--yes"], "");
    figure(&format!("bramble apply --yes of {workloads} new workloads"), begun.elapsed().as_secs_f64(), "s");
    let applied = Instant::now();
    while swarm.workloads() < workloads {
        next(deployed).await;
    }
    figure("from then until a manager was told all of them", applied.elapsed().as_secs_f64(), "s");
    at_rest(house);
    while deployed.try_recv().is_ok() {}
}

/// Waits until the Swarm's loop has nothing to do.
fn at_rest(house: &House) {
    bramble_tests::wait("the loop of the Swarm is at rest", || {
        let status = house.status().expect("the head answers");
        let loops = status["loops"].as_array().expect("loops");
        let swarm = loops.iter().find(|section| section["name"] == "swarm").expect("a section");
        ["busy", "failed", "waits"].iter().all(|key| swarm[*key].as_array().is_some_and(Vec::is_empty))
    });
}

/// Changes one workload's file again and again, and times the way from the apply to the manager.
async fn changes(house: &House, deployed: &mut UnboundedReceiver<Deployed>, workloads: usize) {
    let (mut from_asked, mut from_acknowledged, mut applies) = (Vec::new(), Vec::new(), Vec::new());
    let socket = house.path().join(".bramble/head.sock");
    for number in 0..CHANGES {
        let (changed, word) = (number * 31 % workloads, format!("change {number}"));
        write(house.path(), changed, &word);
        // It sends the head the folder, and changes nothing.
        let preview: Value = serde_json::from_str(&house.must(&["plan", "--json"], "")).expect("JSON");
        let snapshot = preview["snapshot"].as_str().expect("a snapshot");
        let wish = serde_json::json!({ "expects": preview["current"] }).to_string();
        let request = format!(
            "POST /v1/snapshots/{snapshot}/apply HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{wish}",
            wish.len()
        );
        let asked = Instant::now();
        let (status, body) = control(&socket, &request).await;
        let acknowledged = Instant::now();
        assert_eq!(status, 200, "{body}");
        let told = next(deployed).await;
        assert!(told.workload == workload(changed) && told.file.contains(&word), "not this change: {told:?}");
        // A step may leave before the answer has come: the time from that is less than nothing then.
        let milliseconds = |since: Instant| {
            let (after, before) = (told.at.saturating_duration_since(since), since.saturating_duration_since(told.at));
            (after.as_secs_f64() - before.as_secs_f64()) * 1000.0
        };
        from_asked.push(milliseconds(asked));
        from_acknowledged.push(milliseconds(acknowledged));
        applies.push((acknowledged - asked).as_secs_f64() * 1000.0);
    }
    figure("a change is applied: from the request to its answer, p50", percentile(50, &applies), "ms");
    figure("a change is applied: from the request to its answer, p99", percentile(99, &applies), "ms");
    figure("from the request to the first step, p50", percentile(50, &from_asked), "ms");
    mark("from the request to the first step, p99", percentile(99, &from_asked), "ms", STEP_TARGET);
    figure("from the answer to the first step, p50", percentile(50, &from_acknowledged), "ms");
    figure("from the answer to the first step, p99", percentile(99, &from_acknowledged), "ms");
    at_rest(house);
}

/// A repository of git with the house's own files in it, which now name it as their source.
fn git_of(house: &House) -> Git {
    let git = Git::new();
    edit(house.path(), |text| format!("{text}\n[source]\ngit = \"{}\"\nevery = \"1h\"\n", git.url()));
    fs::create_dir(git.work().join("workloads")).expect("a folder");
    fs::copy(house.path().join("bramble.toml"), git.work().join("bramble.toml")).expect("copied");
    for entry in fs::read_dir(house.path().join("workloads")).expect("a folder") {
        let entry = entry.expect("readable");
        fs::copy(entry.path(), git.work().join("workloads").join(entry.file_name())).expect("copied");
    }
    git.publish("the first");
    git
}

/// Pushes commits, and times the way to the current snapshot by `bramble sync`.
fn pushes(house: &House, workloads: usize) {
    let git = git_of(house);
    // Where to look is a change that only a person makes.
    house.must(&["apply", "--yes"], "");
    house.must(&["sync"], "");
    let (mut from_push, mut from_pushed) = (Vec::new(), Vec::new());
    for number in 0..COMMITS {
        write(&git.work(), number * 31 % workloads, &format!("commit {number}"));
        let commit = git.commit(&format!("commit {number}"));
        let push = Instant::now();
        git.push();
        let pushed = Instant::now();
        house.must(&["sync"], "");
        loop {
            let status = house.status().expect("the head answers");
            if status["desired"]["revision"]["commit"] == commit.as_str() {
                break;
            }
            assert!(pushed.elapsed() < LONGEST, "commit {commit} does not become current");
        }
        from_push.push(push.elapsed().as_secs_f64() * 1000.0);
        from_pushed.push(pushed.elapsed().as_secs_f64() * 1000.0);
    }
    figure("git push, bramble sync and the status that says it, p50", percentile(50, &from_push), "ms");
    figure("git push, bramble sync and the status that says it, p95", percentile(95, &from_push), "ms");
    figure("from the end of the push until it is current, p50", percentile(50, &from_pushed), "ms");
    mark("from the end of the push until it is current, p95", percentile(95, &from_pushed), "ms", SYNC_TARGET);
    at_rest(house);
}
