//! `bramble ssh …`: how SSH knows the nodes.

use anyhow::{Result, bail};

use crate::client::Client;
use crate::exit::Exit;
use crate::place::Place;
use crate::screen;

pub async fn known_hosts(place: &Place, json: bool) -> Result<Exit> {
    let known = Client::of(place)?.known_hosts().await?;
    if json {
        screen::json(&known)?;
        return Ok(Exit::Done);
    }
    let Some(line) = known.line else {
        bail!("no node has an SSH server: the repository has no `cluster.ssh_keys` (`bramble shell NODE` needs none)");
    };
    println!("{line}");
    Ok(Exit::Done)
}
