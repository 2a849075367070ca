//! `bramble up`

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use bramble_model::api::{NodeStatus, PowerAction, Status};
use bramble_model::timeline::Phase;

use crate::cli::{Exit, Place};
use crate::client::Client;
use crate::screen::{self, Progress};

/// How often the screen is renewed.
const LOOK: Duration = Duration::from_millis(400);

pub async fn run(place: &Place, limit: u64, json: bool) -> Result<Exit> {
    let client = Client::of(place)?;
    switch_on(&client).await?;
    let status = follow(&client, Duration::from_secs(limit), json).await?;
    if json {
        screen::json(&status)?;
    } else {
        println!("all {} nodes are ready", status.nodes.len());
    }
    Ok(Exit::Done)
}

/// A node on its way is silent for no longer than this, in milliseconds: servers test their memory.
const SILENT: u64 = 5 * 60 * 1000;

/// Switches on every node that is off, or has gone away, or stopped on its way.
async fn switch_on(client: &Client) -> Result<()> {
    let status = client.status().await?;
    for node in &status.nodes {
        let on_its_way = !matches!(node.phase, Phase::Off | Phase::Ready) && node.since + SILENT > status.at;
        if !node.connected
            && !on_its_way
            && let Err(error) = client.power(&node.name, PowerAction::On).await
        {
            // A node that is switched by hand is followed like the others.
            eprintln!("{}: {error}", node.name);
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
