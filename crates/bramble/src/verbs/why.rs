//! `bramble why`

use anyhow::{Result, bail};
use bramble_model::api::Explanation;
use bramble_model::names::Mac;

use crate::client::Client;
use crate::exit::Exit;
use crate::place::Place;
use crate::screen;

/// `machine` is a node's name or a MAC address.
pub async fn run(machine: &str, place: &Place, json: bool) -> Result<Exit> {
    let client = Client::of(place)?;
    let status = client.status().await?;
    let mac = machine.parse::<Mac>().ok();
    let node = status.nodes.iter().find(|node| match mac {
        Some(mac) => node.macs.contains(&mac),
        None => node.name.as_str() == machine,
    });
    let (name, state, since, why): (String, &str, u64, Explanation) = match (node, mac) {
        (Some(node), _) => (node.name.to_string(), node.phase.as_str(), node.since, node.why.clone()),
        (None, Some(mac)) => match status.seen.iter().find(|seen| seen.mac == mac) {
            Some(seen) => (mac.to_string(), "seen", seen.last, seen.why(status.at)),
            None => bail!(
                "{mac} is no machine of the repository and has never asked to boot here: `bramble status` lists those that did"
            ),
        },
        (None, None) => bail!("there is no node `{machine}`: `bramble node ls` lists them"),
    };
    if json {
        screen::json(&why)?;
        return Ok(Exit::Done);
    }
    let time = if since == 0 { "since ever".to_owned() } else { format!("for {} s", why.seconds) };
    println!("{name}: {state} {time}");
    println!("  {}", why.cause);
    if let Some(advice) = why.advice {
        println!("  to do: {advice}");
    }
    Ok(Exit::Done)
}
