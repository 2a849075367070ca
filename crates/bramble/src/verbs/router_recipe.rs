//! `bramble router-recipe`

use std::net::Ipv4Addr;

use anyhow::Result;
use bramble_model::repository::Cluster;
use bramble_netboot::recipe::{Cards, Router, recipe};

use crate::exit::Exit;
use crate::place::Place;
use crate::screen;

pub fn run(router: Router, head: Option<Ipv4Addr>, place: &Place, json: bool) -> Result<Exit> {
    let cluster = Cluster::of_folder(&place.repository()?)?;
    let http = match head {
        Some(address) => cluster.network.http(address),
        None => bramble_head::http_address(&cluster)?,
    };
    let text = recipe(router, http, &Cards::of(&cluster));
    if json {
        screen::json(&serde_json::json!({ "recipe": text }))?;
    } else {
        print!("{text}");
    }
    Ok(Exit::Done)
}
