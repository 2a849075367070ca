//! `bramble check`

use anyhow::Result;
use bramble_model::repository::Cluster;

use crate::exit::Exit;
use crate::place::Place;
use crate::screen;

pub fn run(place: &Place, json: bool) -> Result<Exit> {
    let cluster = Cluster::check(&place.repository()?)?;
    if json {
        screen::json(&serde_json::json!({ "problems": cluster.warnings }))?;
        return Ok(Exit::Done);
    }
    screen::warnings(&cluster.warnings);
    println!(
        "{}: {} nodes, {} workloads, {} warnings",
        cluster.name,
        cluster.nodes.len(),
        cluster.workloads.len(),
        cluster.warnings.0.len()
    );
    Ok(Exit::Done)
}
