//! `bramble adopt`

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bramble_model::inventory::{Adoption, Inventory, likely_role, next_name};
use bramble_model::names::{Mac, Name};
use bramble_model::repository::{Cluster, FILE};
use bramble_system::files;

use crate::client::Client;
use crate::exit::Exit;
use crate::place::Place;
use crate::process::{Interrupted, Interrupts};
use crate::screen;

/// How often the head is asked.
const LOOK: Duration = Duration::from_secs(1);

/// What the person said beside the machine.
pub struct Wishes {
    pub name: Option<Name>,
    pub role: Option<Name>,
    pub write: bool,
    pub again: bool,
    pub limit: u64,
}

pub async fn run(mac: Mac, wishes: Wishes, place: &Place, json: bool) -> Result<Exit> {
    let repository = place.repository()?;
    let cluster = Cluster::check(&repository)?;
    let client = Client::of(place)?;
    let role = match wishes.role {
        Some(role) => role,
        None => likely_role(&cluster).context("there is no node yet to take the role from: say --role ROLE")?,
    };
    let name = wishes.name.unwrap_or_else(|| next_name(&cluster, &role));
    if cluster.nodes.contains_key(&name) {
        bail!("there is a node `{name}` already: say another --name");
    }
    let inventory = match client.inventory(mac).await {
        Ok(Adoption::Done { inventory, .. }) if !wishes.again => *inventory,
        _ => ask(&client, mac, Duration::from_secs(wishes.limit)).await?,
    };
    if json {
        screen::json(&inventory)?;
        return Ok(Exit::Done);
    }
    let stanza = inventory.stanza(&name, &role, mac);
    if !wishes.write {
        print!("{stanza}");
        return Ok(Exit::Done);
    }
    let path = repository.join(FILE);
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let text = format!("{}\n\n{stanza}", text.trim_end());
    // What would not be understood is not written.
    Cluster::parse(&repository, &path, &text)?;
    files::replace(&path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
    print!("{stanza}");
    eprintln!("{name} is in {}: look at it, and `bramble apply`, or commit it", path.display());
    Ok(Exit::Done)
}

/// Has the machine say what it is.
async fn ask(client: &Client, mac: Mac, limit: Duration) -> Result<Inventory> {
    let mut stop = Interrupts::listen()?;
    client.adopt(mac).await?;
    eprintln!("switch {mac} on, and have it boot over the network: it says what it is, and switches itself off");
    let start = Instant::now();
    let mut booting = false;
    loop {
        match client.inventory(mac).await {
            Ok(Adoption::Done { inventory, .. }) => return Ok(*inventory),
            Ok(Adoption::Booting { .. }) if !booting => {
                booting = true;
                eprintln!("it boots");
            }
            Ok(_) => {}
            Err(error) => return Err(error),
        }
        if start.elapsed() > limit {
            bail!("{mac} has not said what it is within {} s: `bramble why {mac}` may know more", limit.as_secs());
        }
        tokio::select! {
            () = stop.next() => return Err(Interrupted.into()),
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}
