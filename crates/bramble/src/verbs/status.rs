//! `bramble status` and `bramble node ls`

use std::time::Duration;

use anyhow::Result;
use bramble_model::api::Status;
use bramble_model::section::Ends;

use crate::client::Client;
use crate::exit::Exit;
use crate::place::Place;
use crate::screen::{self, ago};
use crate::verbs::node::waiting_table;

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
    let set = status.set.map_or_else(|| "not built yet".into(), |set| set.short());
    let snapshot = status.desired.as_ref().map_or_else(String::new, |desired| {
        let revision = desired.revision.short().map(|revision| format!(" ({revision})")).unwrap_or_default();
        let (applied, by) = (since(status, desired.at), &desired.by);
        let held = desired.held.as_ref().map(|held| format!("{held}, since {}\n", since(status, held.since)));
        format!(
            "snapshot {}{revision}, applied {applied} by {by}\n{}",
            desired.snapshot.short(),
            held.unwrap_or_default()
        )
    });
    let mut text = format!("{}, boot set {set}\n{snapshot}CA {}\n\n{}", status.cluster, status.ca, node_table(status));
    let services: Vec<_> = status
        .workloads
        .iter()
        .flat_map(|workload| {
            let state = workload.state(status.at);
            workload.services.iter().map(move |service| {
                let ports: Vec<String> = service.ports.iter().map(u16::to_string).collect();
                let replicas = format!("{} of {}", service.running, service.wanted);
                vec![workload.name.to_string(), service.name.to_string(), replicas, ports.join(" "), state.clone()]
            })
        })
        .collect();
    if !services.is_empty() {
        text += &format!("\n{}", screen::table(&["WORKLOAD", "SERVICE", "REPLICAS", "PORTS", "STATE"], &services));
    }
    for workload in status.workloads.iter().filter(|workload| workload.services.is_empty()) {
        text += &format!("\n{} is {}\n", workload.name, workload.state(status.at));
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
    if let Some(waiting) = waiting_table(status) {
        text += &format!("\nWaiting to be let in:\n{waiting}");
    }
    for problem in &status.problems {
        text += &format!("\nPROBLEM: {problem}\n");
    }
    for failure in status.failed() {
        let again = match failure.again {
            Some(again) => format!("again in {} s", again.saturating_sub(status.at) / 1000),
            None => "`bramble retry` tries it again".into(),
        };
        text += &format!("\nfailed: {} {}: {} ({again})\n", failure.subject, failure.step, failure.reason);
    }
    for waiting in status.waiting() {
        let since = since(status, waiting.since);
        text += &format!("\nwaiting: {}: {} (since {since})\n", waiting.subject, waiting.reason);
        if let Ends::Person(act) = &waiting.ends {
            text += &format!("  {act}\n");
        }
    }
    text
}
