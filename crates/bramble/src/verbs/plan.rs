//! `bramble plan`

use anyhow::Result;
use bramble_plan::changes::{Declared, changes};

use crate::cli::{Exit, Place};
use crate::client::{Client, NoHead};
use crate::screen;
use crate::workspace::Workspace;

pub async fn run(place: &Place, json: bool) -> Result<Exit> {
    let workspace = Workspace::open(place)?;
    let shelf = workspace.shelf()?;
    let architectures = &workspace.cluster.image.architectures;
    let set = architectures.iter().find_map(|architecture| shelf.current(*architecture).ok());
    let set = set.map(|set| set.digest.to_string());
    let set_is_stale = set.is_some() && !workspace.sets_are_current()?;
    let mut workloads = Vec::new();
    for (name, workload) in &workspace.cluster.workloads {
        let bytes = std::fs::read(&workload.path)?;
        workloads.push((name.clone(), bramble_head::generation(&bytes)));
    }
    let declared = Declared { nodes: workspace.cluster.nodes.keys().cloned().collect(), workloads, set, set_is_stale };
    let status = match Client::local(&workspace.state).status().await {
        Ok(status) => Some(status),
        Err(error) if error.is::<NoHead>() => None,
        Err(error) => return Err(error),
    };
    let changes = changes(&declared, status.as_ref());
    if json {
        screen::json(&changes)?;
        return Ok(Exit::Done);
    }
    if changes.is_empty() {
        println!("nothing would change: the cluster is as the repository says");
    }
    let rows: Vec<_> = changes.into_iter().map(|change| vec![change.action, change.subject, change.reason]).collect();
    if !rows.is_empty() {
        print!("{}", screen::table(&["CHANGE", "WHAT", "WHY"], &rows));
    }
    Ok(Exit::Done)
}
