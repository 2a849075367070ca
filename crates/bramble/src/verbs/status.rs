//! `bramble status` and `bramble node ls`

use std::time::Duration;

use anyhow::Result;
use bramble_model::api::Status;

use crate::cli::{Exit, Place};
use crate::client::Client;
use crate::screen::{self, ago};

pub async fn run(place: &Place, json: bool) -> Result<Exit> {
    let status = Client::of(place)?.status().await?;
    if json {
        screen::json(&status)?;
    } else {
        print!("{}", render(&status));
    }
    Ok(Exit::Done)
}

pub async fn nodes(place: &Place, json: bool) -> Result<Exit> {
    let status = Client::of(place)?.status().await?;
    if json {
        screen::json(&status.nodes)?;
    } else {
        print!("{}", node_table(&status));
    }
    Ok(Exit::Done)
}

fn since(status: &Status, at: u64) -> String {
    if at == 0 { "–".into() } else { ago(Duration::from_millis(status.at.saturating_sub(at))) }
}

fn node_table(status: &Status) -> String {
    let rows: Vec<_> = status
        .nodes
        .iter()
        .map(|node| {
            let last = node.failure.clone().or_else(|| node.last.clone()).unwrap_or_default();
            let name = node.name.to_string();
            vec![name, node.role.to_string(), screen::state(node), since(status, node.since), last]
        })
        .collect();
    screen::table(&["NODE", "ROLE", "STATE", "SINCE", "LAST"], &rows)
}

fn render(status: &Status) -> String {
    let set = status.set.as_deref().map_or("not built yet", |set| &set[..12]);
    let mut text = format!("{}, boot set {set}\nCA {}\n\n{}", status.cluster, status.ca, node_table(status));
    let services: Vec<_> = status
        .workloads
        .iter()
        .flat_map(|workload| {
            let state = if workload.current { "as in the repository" } else { "being updated" };
            workload.services.iter().map(move |service| {
                let ports: Vec<String> = service.ports.iter().map(u16::to_string).collect();
                let replicas = format!("{} of {}", service.running, service.wanted);
                vec![workload.name.to_string(), service.name.clone(), replicas, ports.join(" "), state.into()]
            })
        })
        .collect();
    if !services.is_empty() {
        text += &format!("\n{}", screen::table(&["WORKLOAD", "SERVICE", "REPLICAS", "PORTS", "STATE"], &services));
    }
    for workload in status.workloads.iter().filter(|workload| workload.services.is_empty()) {
        text += &format!("\n{} is not deployed yet\n", workload.name);
    }
    let seen: Vec<_> = status
        .seen
        .iter()
        .map(|seen| {
            vec![
                seen.mac.to_string(),
                seen.vendor.clone().unwrap_or_default(),
                seen.firmware.clone(),
                seen.uuid.clone().unwrap_or_default(),
                since(status, seen.last),
            ]
        })
        .collect();
    if !seen.is_empty() {
        text += &format!(
            "\nSeen, not in the repository:\n{}",
            screen::table(&["MAC", "VENDOR", "FIRMWARE", "UUID", "LAST"], &seen)
        );
    }
    for problem in &status.problems {
        text += &format!("\nPROBLEM: {problem}\n");
    }
    for (node, key) in status.nodes.iter().filter_map(|node| Some((node, node.pending.as_ref()?))) {
        text += &format!("\n{} waits to be let in: bramble node approve {} {key}\n", node.name, node.name);
    }
    for waiting in &status.waiting {
        text +=
            &format!("\nwaiting: {}: {} (since {})\n", waiting.subject, waiting.reason, since(status, waiting.since));
    }
    text
}
