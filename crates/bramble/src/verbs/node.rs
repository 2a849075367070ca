//! `bramble node show`, `expect`, `approve`, `revoke` and `reinstall`

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Result;
use bramble_model::api::{Approval, NodeStatus, Status};
use bramble_model::digits::Digits;
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

/// What a machine's console shows of its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    Digits(Digits),
    /// Its fingerprint.
    Key(String),
}

impl FromStr for Shown {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let key = text.trim().to_ascii_lowercase();
        if key.len() == 32 && key.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(Shown::Key(key));
        }
        text.parse().map(Shown::Digits).map_err(|_| "expected six digits, or a key's 32 hexadecimal ones".into())
    }
}

/// Lets in the machine that a person knows; without a way to know it, lists who waits.
pub async fn approve(
    node: Option<&Name>,
    shown: Option<&Shown>,
    press: bool,
    place: &Place,
    json: bool,
) -> Result<Exit> {
    let client = Client::of(place)?;
    let approval = match shown {
        Some(Shown::Digits(digits)) => Approval { digits: Some(digits.to_string()), ..Approval::default() },
        Some(Shown::Key(key)) => Approval { fingerprint: Some(key.clone()), ..Approval::default() },
        None => Approval { press, ..Approval::default() },
    };
    let Some(node) = node.filter(|_| approval != Approval::default()) else {
        return list_waiting(&client, node, json).await;
    };
    let told = client.approve(node, &approval).await?;
    if json {
        screen::json(&told.unwrap_or_default())?;
        return Ok(Exit::Done);
    }
    let told = told.unwrap_or_default();
    match (told.until, told.fingerprint.or(approval.fingerprint)) {
        (Some(until), _) => {
            let minutes = until.saturating_sub(bramble_system::now()).div_ceil(60_000);
            println!(
                "{node}: take its power away now, and give it back: for {minutes} min, the machine that boots from its place \
                 on the wire is let in, five minutes after it has come and where no other one asks"
            );
        }
        (None, key) => println!("{node} is let in when it asks again with key {}", key.unwrap_or_default()),
    }
    Ok(Exit::Done)
}

async fn list_waiting(client: &Client, node: Option<&Name>, json: bool) -> Result<Exit> {
    let mut status = client.status().await?;
    if let Some(node) = node {
        client.node(node).await?;
        status.nodes.retain(|known| known.name == *node);
    }
    if json {
        let waiting = status.nodes.iter().map(|node| (&node.name, &node.waiting));
        screen::json(&BTreeMap::from_iter(waiting.filter(|(_, keys)| !keys.is_empty())))?;
        return Ok(Exit::Done);
    }
    match waiting_table(&status) {
        Some(table) => print!("{table}"),
        None => println!("nobody waits to be let in"),
    }
    Ok(Exit::Done)
}

/// Every key that waits, with its address; `None` where there is none.
pub fn waiting_table(status: &Status) -> Option<String> {
    let age = |at: u64| ago(Duration::from_millis(status.at.saturating_sub(at)));
    let of = |node: &NodeStatus| {
        let rows = node.waiting.iter().map(|key| {
            let how = match (key.is_spent, key.shows_digits) {
                (true, _) => "other digits were typed: start it again, or approve KEY",
                (false, true) => "DIGITS, on its console",
                (false, false) => "KEY, where its console shows it",
            };
            let (name, address, key_text) = (node.name.to_string(), key.address.to_string(), key.fingerprint.clone());
            vec![name, address, key_text, age(key.since), age(key.last), how.to_owned()]
        });
        rows.collect::<Vec<_>>()
    };
    let rows: Vec<_> = status.nodes.iter().flat_map(of).collect();
    (!rows.is_empty()).then(|| screen::table(&["NODE", "ASKS FROM", "KEY", "FIRST", "LAST", "APPROVE BY"], &rows))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_console_shows_is_six_digits_or_a_key() {
        assert_eq!("123 456".parse(), Ok(Shown::Digits("123456".parse().expect("digits"))));
        assert_eq!(
            "9F86D081884C7D659A2FEAA0C55AD015".parse(),
            Ok(Shown::Key("9f86d081884c7d659a2feaa0c55ad015".into()))
        );
        for text in ["w1", "12345", "", "9f86d081884c7d659a2feaa0c55ad01", "1234567"] {
            assert!(text.parse::<Shown>().is_err(), "{text}");
        }
    }
}
