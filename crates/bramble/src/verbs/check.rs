//! `bramble check`

use anyhow::Result;
use bramble_model::repository::Cluster;

use crate::exit::Exit;
use crate::place::Place;
use crate::screen;

pub fn run(place: &Place, json: bool) -> Result<Exit> {
    let cluster = Cluster::check(&place.repository()?)?;
    let notes = cluster.identity_notes();
    if json {
        screen::json(&serde_json::json!({ "problems": cluster.warnings, "notes": notes }))?;
        return Ok(Exit::Done);
    }
    screen::warnings(&cluster.warnings);
    println!(
        "{}: {}, {}, {}",
        cluster.name,
        screen::counted(cluster.nodes.len(), "node"),
        screen::counted(cluster.workloads.len(), "workload"),
        screen::counted(cluster.warnings.0.len(), "warning")
    );
    for note in notes {
        println!("note: {note}");
    }
    Ok(Exit::Done)
}
