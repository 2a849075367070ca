//! `bramble node show`, `expect`, `approve`, `revoke` and `reinstall`

use std::time::Duration;

use anyhow::Result;
use bramble_model::names::Name;

use crate::client::Client;
use crate::exit::Exit;
use crate::place::Place;
use crate::screen::{self, ago, seconds};

/// Events shown.
const EVENTS: usize = 40;

pub async fn show(node: &Name, place: &Place, json: bool) -> Result<Exit> {
    let client = Client::of(place)?;
    let (status, found) = client.node(node).await?;
    let mut events = client.all_events().await?;
    events.retain(|event| event.node.as_ref() == Some(node));
    if json {
        screen::json(&serde_json::json!({ "node": found, "events": events }))?;
        return Ok(Exit::Done);
    }
    println!("{node} ({}): {}", found.role, screen::state(&found));
    if let Some(facts) = &found.facts {
        println!(
            "{} {}, {} CPUs, {} MiB, {}, boot set {}",
            facts.kernel,
            facts.architecture,
            facts.cpus,
            facts.memory >> 20,
            facts.address,
            facts.set.get(..12).unwrap_or(&facts.set)
        );
    }
    if let Some(known_by) = found.known_by {
        println!("known by {known_by}");
    }
    let start = found.times.first().map_or(0, |(_, at)| *at);
    for (phase, at) in &found.times {
        println!("  {:>8}  {}", seconds(at.saturating_sub(start)), phase.as_str());
    }
    for event in &events[events.len().saturating_sub(EVENTS)..] {
        let age = ago(Duration::from_millis(status.at.saturating_sub(event.at)));
        println!("  {age:>12}  {}", event.what.sentence());
    }
    Ok(Exit::Done)
}

pub async fn approve(node: &Name, fingerprint: &str, place: &Place) -> Result<Exit> {
    Client::of(place)?.approve(node, fingerprint).await?;
    println!("{node} is let in when it asks again with key {fingerprint}");
    Ok(Exit::Done)
}

pub async fn revoke(node: &Name, place: &Place) -> Result<Exit> {
    Client::of(place)?.revoke(node).await?;
    println!(
        "{node} is no longer let in: `bramble power cycle {node}` has it enrol anew, or remove it from bramble.toml"
    );
    Ok(Exit::Done)
}

pub async fn expect(node: &Name, place: &Place, json: bool) -> Result<Exit> {
    let expected = Client::of(place)?.expect(node).await?;
    if json {
        screen::json(&expected)?;
    } else {
        let minutes = expected.until.saturating_sub(bramble_system::now()).div_ceil(60_000);
        println!("{node}: switch it on; its boot is expected for {minutes} min");
    }
    Ok(Exit::Done)
}

pub async fn reinstall(node: &Name, place: &Place) -> Result<Exit> {
    Client::of(place)?.reinstall(node).await?;
    println!("{node} installs itself at its next boot: `bramble power cycle {node}`, or switch it on");
    Ok(Exit::Done)
}
