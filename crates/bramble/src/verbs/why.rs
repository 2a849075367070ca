//! `bramble why`

use anyhow::Result;
use bramble_model::names::Name;
use bramble_plan::explain::explain;

use crate::cli::{Exit, Place};
use crate::client::Client;
use crate::{screen, workspace};

pub async fn run(node: &Name, place: &Place, json: bool) -> Result<Exit> {
    let (status, found) = Client::new(&workspace::state(place)).node(node).await?;
    let why = explain(&status, &found);
    if json {
        screen::json(&why)?;
        return Ok(Exit::Done);
    }
    let time = if found.since == 0 { "since ever".to_owned() } else { format!("for {} s", why.seconds) };
    println!("{node}: {} {time}", why.state);
    println!("  {}", why.cause);
    if let Some(advice) = why.advice {
        println!("  to do: {advice}");
    }
    Ok(Exit::Done)
}
