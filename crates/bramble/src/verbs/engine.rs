//! `bramble engine …`: a person's word on what the head cannot know of an engine.

use anyhow::Result;
use bramble_model::engine::{EngineKind, EngineState};
use bramble_model::names::{ClusterId, Digest, Name};

use super::desired::asked;
use crate::client::Client;
use crate::exit::Exit;
use crate::place::Place;

pub async fn start(place: &Place, without: &[Name], yes: bool) -> Result<Exit> {
    let client = Client::of(place)?;
    let status = client.status().await?;
    for name in without {
        let node = status.nodes.iter().find(|node| node.name == *name);
        let holds = match node.map(|node| node.engine(EngineKind::Swarm)) {
            // The head knows whether it has been a manager.
            None => "it is not in the repository: what it may hold of a Swarm is given up".into(),
            Some(Some(EngineState::Member { cluster, .. })) => {
                format!("it holds Swarm {cluster}: its services, secrets and settings are given up")
            }
            Some(Some(_)) => "it holds no Swarm now".into(),
            Some(None) => "it is not here: what it holds of a Swarm is given up, services, secrets and settings".into(),
        };
        println!("{name}: {holds}");
    }
    for workload in &status.workloads {
        println!("{}: is deployed anew; what its volumes hold stays on the nodes that have them", workload.name);
    }
    if !yes && !asked("begin a new Swarm?")? {
        println!("nothing has changed");
        return Ok(Exit::Failed);
    }
    client.start_swarm(without).await?;
    println!("a new Swarm may be begun: `bramble status` shows how it goes");
    Ok(Exit::Done)
}

pub async fn give_up(place: &Place, cluster: &ClusterId, yes: bool) -> Result<Exit> {
    let client = Client::of(place)?;
    let status = client.status().await?;
    let holds = |node: &&bramble_model::api::NodeStatus| matches!(node.engine(EngineKind::Swarm), Some(EngineState::Member { cluster: own, .. }) if own == cluster);
    let members: Vec<String> = status.nodes.iter().filter(holds).map(|node| node.name.to_string()).collect();
    if members.is_empty() {
        println!("no node that is connected holds Swarm {cluster}");
    } else {
        println!("{} leave it, and lose what they keep of it", members.join(", "));
    }
    if !yes && !asked(&format!("give Swarm {cluster} up?"))? {
        println!("nothing has changed");
        return Ok(Exit::Failed);
    }
    client.give_up_swarm(cluster).await?;
    Ok(Exit::Done)
}

pub async fn trust(place: &Place, ca: &Digest, yes: bool) -> Result<Exit> {
    let client = Client::of(place)?;
    println!("join tokens of this CA, and of no other, reach nodes from now on: whoever has its key is the Swarm");
    if !yes && !asked(&format!("have you rotated the Swarm's CA, and is its certificate's SHA-256 {ca}?"))? {
        println!("nothing has changed");
        return Ok(Exit::Failed);
    }
    client.trust_swarm(ca).await?;
    Ok(Exit::Done)
}
