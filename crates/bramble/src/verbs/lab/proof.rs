//! That the lab's cluster works: every replica answers from its own node. And how long it took.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bramble_lab::{Lab, Places};
use bramble_model::api::{NodeStatus, Status};
use bramble_model::repository::Check;
use bramble_model::timeline::{Event, Millis, Phase, What};
use bramble_power::lab::{Request, ask};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::Client;
use crate::screen::{seconds, table};

const LOOK: Duration = Duration::from_millis(250);
/// One request: a service that is starting may accept and not answer.
const REQUEST: Duration = Duration::from_secs(3);

/// After an answer from a node that had not answered yet: the mesh chooses in turn.
const BETWEEN: Duration = Duration::from_millis(50);

/// What answered.
#[derive(Debug, Clone, Serialize)]
pub struct Proof {
    pub url: String,
    /// Nodes that answered, each from its own replica.
    pub nodes: BTreeSet<String>,
    pub requests: u32,
    /// When the first answer came, and when every replica had answered.
    pub first: Millis,
    pub all: Millis,
}

/// Asks until every replica has answered from its own node.
pub async fn gather(
    client: &Client,
    lab: &Lab,
    places: &Places,
    check: &Check,
    limit: Duration,
    quiet: bool,
) -> Result<Proof> {
    let forward = lab.forwards.iter().find(|(name, _)| name == check.workload.as_str());
    let local = forward.map(|(_, address)| *address).context("the workload's port is not forwarded")?;
    let start = Instant::now();
    let mut nodes = BTreeSet::new();
    let (mut requests, mut first, mut led_to) = (0, None, None);
    loop {
        if start.elapsed() > limit {
            bail!(
                "the workload {} has not answered from every replica after {} s: {nodes:?} did",
                check.workload,
                limit.as_secs()
            );
        }
        let status = client.status().await?;
        let Some((entry, wanted)) = entry_point(&status, check) else {
            tokio::time::sleep(LOOK).await;
            continue;
        };
        if led_to != Some(entry) {
            ask(&places.socket(), &Request::Forward { name: check.workload.to_string(), to: entry }).await?;
            led_to = Some(entry);
        }
        requests += 1;
        match tokio::time::timeout(REQUEST, fetch(local, &check.path)).await {
            Ok(Ok(answer)) => {
                let at = bramble_system::now();
                if first.is_none() && !quiet {
                    println!("first answer: {}", answer.replace('\n', " "));
                }
                let first = *first.get_or_insert(at);
                let node = answer.lines().find_map(|line| line.strip_prefix("node="));
                let is_new =
                    nodes.insert(node.context("the workload does not say its node (a line `node=NAME`)")?.to_owned());
                if wanted > 0 && nodes.len() >= wanted {
                    return Ok(Proof { url: format!("http://{local}{}", check.path), nodes, requests, first, all: at });
                }
                // Those that have not answered are starting: requests would only slow them down.
                tokio::time::sleep(if is_new { BETWEEN } else { LOOK }).await;
            }
            // Not there yet.
            Ok(Err(_)) | Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

/// The address of a node that is in the cluster, and how many replicas there are to be.
fn entry_point(status: &Status, check: &Check) -> Option<(SocketAddr, usize)> {
    let workload = status.workloads.iter().find(|workload| workload.name == check.workload)?;
    let wanted: u32 = workload.services.iter().map(|service| service.wanted).sum();
    let running = workload.services.iter().any(|service| service.running > 0);
    let node = status.nodes.iter().find(|node| node.phase == Phase::Ready && node.connected)?;
    let address = node.facts.as_ref()?.address;
    running.then(|| (SocketAddr::new(address, check.port), wanted as usize))
}

/// The body of one GET over a connection of its own, so that the mesh may choose any replica.
async fn fetch(to: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(to).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    anyhow::ensure!(head.starts_with("HTTP/1.1 200"), "not a 200");
    Ok(body.to_owned())
}

/// The times of a boot of the whole lab.
#[derive(Debug, Serialize)]
pub struct Report {
    phases: Vec<PhaseTimes>,
    /// From its power-on, of the node that took longest: agent connected, engine up as its agent
    /// tells, ready.
    milestones: Milestones,
    /// From the first power-on to the last node ready.
    all_ready: Millis,
    /// From the first power-on to the first answer.
    first_answer: Option<Millis>,
    every_replica: Option<Millis>,
    proof: Option<Proof>,
    /// Resident bytes.
    head_resident: u64,
    agent_resident: u64,
}

/// When a node had come so far, in milliseconds after its power-on.
#[derive(Debug, Default, Serialize)]
struct Milestones {
    agent: Millis,
    engine: Millis,
    ready: Millis,
}

/// How long the nodes spent in a phase, in milliseconds.
#[derive(Debug, Serialize)]
struct PhaseTimes {
    phase: Phase,
    min: Millis,
    median: Millis,
    max: Millis,
}

impl Report {
    pub async fn of(client: &Client, proof: Option<Proof>) -> Result<Self> {
        let status = client.status().await?;
        let events = client.all_events().await?;
        Ok(Self::from_status(&status, &events, proof))
    }

    fn from_status(status: &Status, events: &[Event], proof: Option<Proof>) -> Self {
        let start = status.nodes.iter().filter_map(|node| node.times.first()).map(|(_, at)| *at).min().unwrap_or(0);
        let ready = status.nodes.iter().filter_map(|node| time(node, Phase::Ready)).max().unwrap_or(start);
        let phases = Phase::WAY.windows(2).filter_map(|pair| {
            let mut spent: Vec<Millis> = status
                .nodes
                .iter()
                .filter_map(|node| {
                    // A phase that a node passed unseen lasts no time.
                    let began = time(node, pair[0])?;
                    let ended = node.times.iter().filter(|(phase, _)| *phase > pair[0]).map(|(_, at)| *at).min()?;
                    Some(ended.saturating_sub(began))
                })
                .collect();
            spent.sort_unstable();
            let (min, max) = (*spent.first()?, *spent.last()?);
            Some(PhaseTimes { phase: pair[0], min, median: spent[spent.len() / 2], max })
        });
        let health = status.nodes.iter().filter_map(|node| node.health.as_ref());
        Report {
            phases: phases.collect(),
            milestones: milestones(status, events),
            all_ready: ready.saturating_sub(start),
            first_answer: proof.as_ref().map(|proof| proof.first.saturating_sub(start)),
            every_replica: proof.as_ref().map(|proof| proof.all.saturating_sub(start)),
            proof,
            head_resident: status.head_resident,
            agent_resident: health.map(|health| health.agent_resident).max().unwrap_or(0),
        }
    }

    pub fn render(&self) -> String {
        let rows: Vec<_> = self
            .phases
            .iter()
            .map(|times| {
                vec![times.phase.as_str().into(), seconds(times.min), seconds(times.median), seconds(times.max)]
            })
            .collect();
        let mut text = format!("\n{}", table(&["PHASE", "MIN", "MEDIAN", "MAX"], &rows));
        text += &format!("\npower-on to all nodes ready   {}\n", seconds(self.all_ready));
        if let (Some(proof), Some(first), Some(all)) = (&self.proof, self.first_answer, self.every_replica) {
            let nodes: Vec<&str> = proof.nodes.iter().map(String::as_str).collect();
            text += &format!("power-on to first answer      {}\n", seconds(first));
            text += &format!(
                "every replica has answered    {} ({}, {} requests)\n",
                seconds(all),
                nodes.join(" "),
                proof.requests
            );
            text += &format!("\nworkload: {}\n", proof.url);
        }
        text
    }
}

fn milestones(status: &Status, events: &[Event]) -> Milestones {
    let mut latest = Milestones::default();
    for node in &status.nodes {
        let Some(start) = node.times.first().map(|(_, at)| *at) else { continue };
        let up = |event: &&Event| {
            let of_this_boot = event.node.as_ref() == Some(&node.name) && event.at >= start;
            of_this_boot && matches!(event.what, What::Engine { up: true, .. } | What::Ready)
        };
        let engine = events.iter().find(up).map_or(start, |event| event.at);
        let since = |at: Option<Millis>| at.unwrap_or(start).saturating_sub(start);
        latest.agent = latest.agent.max(since(time(node, Phase::Agent)));
        latest.engine = latest.engine.max(since(Some(engine)));
        latest.ready = latest.ready.max(since(time(node, Phase::Ready)));
    }
    latest
}

fn time(node: &NodeStatus, wanted: Phase) -> Option<Millis> {
    node.times.iter().find(|(phase, _)| *phase == wanted).map(|(_, at)| *at)
}
