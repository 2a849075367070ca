//! `bramble up`

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use bramble_model::api::{NodeStatus, PowerAction, Status};
use bramble_model::section::Ends;
use bramble_model::snapshot::Snapshot;
use bramble_model::subject::Subject;
use bramble_model::timeline::Phase;

use crate::client::Client;
use crate::exit::Exit;
use crate::place::Place;
use crate::screen::{self, Progress};
use crate::verbs::desired::{self, Changed};

/// How often the screen is renewed.
const LOOK: Duration = Duration::from_millis(400);

pub async fn run(place: &Place, limit: u64, yes: bool, json: bool) -> Result<Exit> {
    let client = Client::of(place)?;
    settle(place, &client, yes, json).await?;
    for sentence in lacking(&client.status().await?) {
        eprintln!("{sentence}");
    }
    switch_on(&client).await?;
    let status = follow(&client, Duration::from_secs(limit), json).await?;
    if json {
        screen::json(&status)?;
    } else {
        println!("all {} nodes are ready", status.nodes.len());
    }
    Ok(Exit::Done)
}

/// Has the head keep this folder true, where it is another one and the head follows no git repository.
async fn settle(place: &Place, client: &Client, yes: bool, json: bool) -> Result<()> {
    // A head that follows git has none, and is asked from anywhere.
    let Ok(folder) = place.repository() else { return Ok(()) };
    let status = client.status().await?;
    if status.follows_git {
        if let Some(difference) = difference(&folder, &status) {
            eprintln!("{difference}: it is not applied");
        }
        return Ok(());
    }
    let digest = desired::send(client, &folder).await?;
    match desired::change(client, &digest.to_string(), false, yes, json).await? {
        Changed::Nothing | Changed::Applied(_) => Ok(()),
        Changed::Unwanted => bail!("without it, nothing is switched on"),
    }
}

/// How a folder is not what the head follows, in words.
fn difference(folder: &Path, status: &Status) -> Option<String> {
    match Snapshot::read(folder) {
        Err(error) => {
            let error = bramble_system::sentence(&error);
            Some(format!("this folder is not what the head follows by git, and cannot be read ({error})"))
        }
        Ok((snapshot, _)) => {
            let other = status.desired.as_ref().is_some_and(|desired| desired.snapshot != snapshot.digest());
            other.then(|| "this folder is not what the head follows by git".to_owned())
        }
    }
}

/// Boot sets without which nodes cannot boot, each with what makes it: what a person has to know before the wait.
fn lacking(status: &Status) -> Vec<String> {
    let waits = status.waiting().filter_map(|wait| match (&wait.subject, &wait.ends) {
        (Subject::Image { .. }, Ends::Person(act)) => Some(format!("{}: {}: {act}", wait.subject, wait.reason)),
        _ => None,
    });
    let told: Vec<String> = waits.collect();
    // The loop that says so may not have looked yet.
    if told.is_empty() && status.set.is_none() && status.nodes.iter().any(|node| node.boot.is_none()) {
        return vec!["there is no boot set yet, and the nodes cannot boot: `bramble image build` makes it".into()];
    }
    told
}

/// A node on its way is silent for no longer than this, in milliseconds: servers test their memory.
const SILENT: u64 = 5 * 60 * 1000;

/// Switches on every node that is off, or has gone away, or stopped on its way; says whose button a person has to
/// press.
async fn switch_on(client: &Client) -> Result<()> {
    let status = client.status().await?;
    for node in &status.nodes {
        let on_its_way = !matches!(node.phase, Phase::Off | Phase::Ready) && node.since + SILENT > status.at;
        if node.connected || on_its_way {
            continue;
        }
        // Whatever comes of it, the node is followed like the others.
        match client.power(&node.name, PowerAction::On).await {
            Ok(switched) => {
                if let Some(to_do) = switched.to_do(&node.name, bramble_system::now()) {
                    eprintln!("{to_do}");
                }
            }
            Err(error) => eprintln!("{}: {error}", node.name),
        }
    }
    Ok(())
}

/// Ready; or handed to another system, of which no more is seen.
fn is_up(node: &NodeStatus) -> bool {
    match node.boot {
        Some(_) => node.phase >= Phase::Kernel,
        None => node.phase == Phase::Ready && node.connected,
    }
}

/// Shows every node's way until all are ready.
pub async fn follow(client: &Client, limit: Duration, quiet: bool) -> Result<Status> {
    let mut progress = Progress::new(quiet);
    let start = Instant::now();
    loop {
        let status = client.status().await?;
        progress.show(&status);
        if status.nodes.iter().all(is_up) {
            progress.end();
            return Ok(status);
        }
        if start.elapsed() > limit {
            progress.end();
            let late = status.nodes.iter().filter(|node| !is_up(node));
            let reasons: Vec<String> =
                late.map(|node| format!("\n  {} ({}): {}", node.name, screen::state(node), node.why.cause)).collect();
            bail!("not all nodes are ready after {} s:{}", limit.as_secs(), reasons.concat());
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use bramble_model::boot_set::Architecture;
    use bramble_model::section::{Section, Waiting};

    use super::*;

    fn status() -> Status {
        let node = serde_json::json!({
            "name": "m1", "macs": [], "role": "manager", "phase": "off", "since": 0, "connected": false, "times": [],
            "why": { "name": "off", "cause": "it is off", "advice": null, "seconds": 0 },
        });
        let status = serde_json::json!({
            "cluster": "c", "ca": "", "at": 0, "set": null, "head_resident": 0, "nodes": [node], "workloads": [],
            "seen": [], "problems": [], "desired": null, "loops": [],
        });
        serde_json::from_value(status).expect("a status")
    }

    #[test]
    fn what_no_node_can_boot_without_is_said_with_what_makes_it() {
        let mut status = status();
        let none = lacking(&status);
        assert_eq!(none, ["there is no boot set yet, and the nodes cannot boot: `bramble image build` makes it"]);
        let wait = Waiting {
            subject: Subject::Image { architecture: Architecture::Arm64 },
            reason: "there is no boot set yet, and its nodes cannot boot".into(),
            ends: Ends::Person("`bramble image build`".into()),
            since: 0,
        };
        status.loops = vec![Section { waits: vec![wait], ..Section::default() }];
        assert!(
            lacking(&status)[0].ends_with("and its nodes cannot boot: `bramble image build`"),
            "{:?}",
            lacking(&status)
        );
        status.loops.clear();
        status.set = Some(bramble_model::names::Digest([7; 32]));
        assert!(lacking(&status).is_empty());
        status.set = None;
        status.nodes[0].boot = Some("other".parse().expect("a name"));
        assert!(lacking(&status).is_empty(), "what runs another system boots no set");
    }
}
