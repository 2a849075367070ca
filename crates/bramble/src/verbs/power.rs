//! `bramble power`

use anyhow::Result;
use bramble_model::api::PowerAction;
use bramble_model::names::Name;

use crate::cli::Switch;
use crate::client::Client;
use crate::exit::Exit;
use crate::place::Place;
use crate::screen;

pub async fn run(action: Switch, node: &Name, place: &Place, json: bool) -> Result<Exit> {
    let action = match action {
        Switch::On => PowerAction::On,
        Switch::Off => PowerAction::Off,
        Switch::Cycle => PowerAction::Cycle,
    };
    let switched = Client::of(place)?.power(node, action).await?;
    if json {
        screen::json(&switched)?;
    } else if let Some(to_do) = switched.to_do(node, bramble_system::now()) {
        println!("{to_do}");
    }
    Ok(Exit::Done)
}
