//! `bramble adopt`

use std::path::{Path, PathBuf};
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
    let cluster = Cluster::of_folder(&repository)?;
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
    let path = add(&repository, &stanza)?;
    print!("{stanza}");
    eprintln!("{name} is in {}: look at it, and `bramble apply`, or commit it", path.display());
    Ok(Exit::Done)
}

/// Adds a node's part to the repository's file, and gives where that is. What would not be understood is not written;
/// what is wrong with a workload's own files has no say in it.
fn add(repository: &Path, stanza: &str) -> Result<PathBuf> {
    let text = format!("{}\n\n{stanza}", Cluster::text(repository)?.trim_end());
    let path = repository.join(FILE);
    Cluster::parse(repository, &path, &text)?;
    // A link in the repository stays one.
    let place = path.canonicalize().with_context(|| format!("cannot read {}", path.display()))?;
    files::replace(&place, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use bramble_netboot::recipe::Router;
    use clap::Parser;

    use super::*;
    use crate::cli::Arguments;
    use crate::verbs::router_recipe;

    const TOML: &str = "[cluster]\nname = \"c\"\n[network]\ninterface = \"eth0\"\n[roles.manager]\nengine = \"manager\"\n\
        [nodes.m1]\nmac = \"52:54:00:00:00:01\"\nrole = \"manager\"\n[workloads.web]\npath = \"web.yaml\"\n";

    #[test]
    fn a_sick_workload_keeps_no_node_from_being_added_and_no_router_from_its_recipe() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let home = folder.path();
        std::fs::write(home.join("web.yaml"), "services: [\n").expect("written");
        std::fs::create_dir(home.join("clusters")).expect("made");
        std::fs::write(home.join("clusters/home.toml"), TOML).expect("written");
        std::os::unix::fs::symlink("clusters/home.toml", home.join(FILE)).expect("a link");
        let stanza = |mac: &str| format!("[nodes.m2]\nmac = \"{mac}\"\nrole = \"manager\"\n");
        add(home, &stanza("52:54:00:00:00:01")).expect_err("a card of another node");
        assert_eq!(std::fs::read_to_string(home.join(FILE)).expect("there"), TOML, "nothing was written");
        let path = add(home, &stanza("52:54:00:00:00:02")).expect("added");
        assert!(path.is_symlink(), "a link stays one");
        let cluster = Cluster::of_folder(home).expect("it is understood");
        assert_eq!((cluster.nodes.len(), cluster.sick().0.len()), (2, 1));
        let home = home.to_str().expect("UTF-8");
        let Ok(said) = Arguments::try_parse_from(["bramble", "-C", home, "router-recipe", "dnsmasq"]) else {
            panic!("a command line")
        };
        router_recipe::run(Router::Dnsmasq, Some(Ipv4Addr::new(10, 77, 0, 1)), &said.place, false).expect("a recipe");
    }
}
