//! `bramble top`

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::Result;
use bramble_model::api::Status;
use bramble_model::engine::EngineState;
use bramble_model::node_set::Wrong;

use crate::client::Client;
use crate::exit::Exit;
use crate::place::Place;
use crate::process::Interrupts;
use crate::screen;
use crate::terminal;

const LOOK: Duration = Duration::from_secs(2);

/// Shows how busy the nodes are, the busiest first; on a terminal until Ctrl-C.
pub async fn run(role: Option<String>, place: &Place, once: bool, json: bool) -> Result<Exit> {
    let client = Client::of(place)?;
    let mut stop = Interrupts::listen()?;
    let goes_on = std::io::stdout().is_terminal() && !once && !json;
    loop {
        let mut status = client.status().await?;
        if let Some(role) = &role {
            status.nodes.retain(|node| node.role.as_str() == role);
            if status.nodes.is_empty() {
                return Err(Wrong::NoRole { role: role.clone(), like: None }.into());
            }
        }
        if json {
            screen::json(&status.nodes)?;
            return Ok(Exit::Done);
        }
        if goes_on {
            terminal::clear();
        }
        print!("{}", render(&status));
        if !goes_on {
            return Ok(Exit::Done);
        }
        tokio::select! {
            () = stop.next() => return Ok(Exit::Done),
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

fn place(engine: &EngineState) -> &'static str {
    match engine {
        EngineState::None => "–",
        EngineState::Starting { .. } => "starting",
        EngineState::Alone => "alone",
        EngineState::Member { manager: true, .. } => "manager",
        EngineState::Member { .. } => "worker",
    }
}

fn render(status: &Status) -> String {
    let mut nodes: Vec<_> = status.nodes.iter().collect();
    let busy = |node: &&bramble_model::api::NodeStatus| node.health.as_ref().map_or(0, |health| health.busy);
    nodes.sort_by_key(|node| std::cmp::Reverse(busy(node)));
    let rows: Vec<Vec<String>> = nodes
        .into_iter()
        .map(|node| {
            let name = node.name.to_string();
            let Some(health) = node.health.as_ref().filter(|_| node.connected) else {
                return [vec![name, screen::state(node)], vec![String::new(); 6]].concat();
            };
            let memory = node.facts.as_ref().map_or(0, |facts| facts.memory);
            let used = memory.saturating_sub(health.memory_available);
            let engines: Vec<&str> = health.engines.values().map(place).collect();
            let engine = if engines.is_empty() { "–".to_owned() } else { engines.join(", ") };
            vec![
                name,
                screen::state(node),
                format!("{} %", health.busy),
                format!("{:.2}", health.load),
                format!("{} of {} MiB", used >> 20, memory >> 20),
                health.disk_available.map_or_else(|| "–".into(), |free| format!("{} MiB", free >> 20)),
                health.temperature.map_or_else(|| "–".into(), |degrees| format!("{degrees} °C")),
                engine,
            ]
        })
        .collect();
    screen::table(&["NODE", "STATE", "CPU", "LOAD", "MEMORY", "DISK FREE", "HEAT", "ENGINE"], &rows)
}
