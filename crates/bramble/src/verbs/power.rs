//! `bramble power`

use anyhow::Result;
use bramble_model::api::PowerAction;
use bramble_model::names::Name;

use crate::cli::{Exit, Place, Switch};
use crate::client::Client;

pub async fn run(action: Switch, node: &Name, place: &Place) -> Result<Exit> {
    let action = match action {
        Switch::On => PowerAction::On,
        Switch::Off => PowerAction::Off,
        Switch::Cycle => PowerAction::Cycle,
    };
    Client::of(place)?.power(node, action).await?;
    Ok(Exit::Done)
}
