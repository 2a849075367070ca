//! `bramble sync` and `bramble source …`: the git repository that a head follows.

use anyhow::{Result, bail};
use bramble_model::repository::{Cluster, Source};
use bramble_model::source::short;

use crate::client::{Client, Unfit};
use crate::exit::Exit;
use crate::place::Place;
use crate::screen;
use crate::target::NoHead;
use crate::workspace;

pub async fn sync(place: &Place, json: bool) -> Result<Exit> {
    let synced = Client::of(place)?.sync().await?;
    let exit = match (&synced.problem, &synced.braked) {
        (Some(_), _) if synced.unfit => Exit::Repository,
        (None, None) => Exit::Done,
        _ => Exit::Failed,
    };
    if json {
        screen::json(&synced)?;
        return Ok(exit);
    }
    if let Some(desired) = &synced.desired {
        let revision = desired.revision.short().unwrap_or_else(|| "of a folder".into());
        println!("snapshot {} ({revision}) is current", desired.snapshot.short());
    }
    for stopped in &synced.stopped {
        println!("{stopped}");
    }
    if let Some((commit, reasons)) = &synced.braked {
        let short = short(commit);
        println!("commit {short} waits for a person: {}", reasons.join("; "));
        println!("`bramble plan {short}` shows what it does, `bramble apply --yes {short}` lets it through");
    }
    match synced.problem {
        Some(problem) if synced.unfit => Err(Unfit(problem).into()),
        Some(problem) => bail!("{problem}"),
        None => Ok(exit),
    }
}

pub async fn hold(place: &Place) -> Result<Exit> {
    Client::of(place)?.hold().await?;
    println!("the head stays with its present snapshot; `bramble sync` follows the repository again");
    Ok(Exit::Done)
}

pub async fn forget_host(place: &Place) -> Result<Exit> {
    Client::of(place)?.forget_host().await?;
    println!(
        "the server's host key is forgotten; the next fetch pins the one that it finds: `bramble source key` shows it"
    );
    Ok(Exit::Done)
}

pub async fn key(place: &Place, json: bool) -> Result<Exit> {
    let client = Client::of(place)?;
    let key = match client.source_key().await {
        Ok(key) => key,
        // Before the head has run once, the key can be given to the repository's server.
        Err(error) if error.is::<NoHead>() && client.elsewhere().is_none() => {
            let (_, state) = place.head()?;
            workspace::make_state(&state)?;
            bramble_model::desired::SourceKey { public: bramble_head::source_key(&state)?, host: None }
        }
        Err(error) => return Err(error),
    };
    if json {
        screen::json(&key)?;
        return Ok(Exit::Done);
    }
    println!("{}", key.public.trim_end());
    match key.host {
        Some(host) => eprintln!("the server's host key is pinned: {host}"),
        None => eprintln!("the server's host key is pinned at the first fetch, and shown here then"),
    }
    Ok(Exit::Done)
}

/// Begins a head that has no repository of its own with the address of one.
pub fn set(place: &Place, source: &Source) -> Result<Exit> {
    let (home, state) = place.head()?;
    let url = &source.git;
    if Cluster::is_in(&home) {
        bail!("{} has a bramble.toml: write `[source] git = \"{url}\"` into it, and `bramble apply`", home.display());
    }
    workspace::make_state(&state)?;
    bramble_head::begin_with(&state, source)?;
    let private = match source.token_file {
        Some(_) => "",
        None => "; a private one needs `bramble source key` first, or a `--token-file` over https",
    };
    match bramble_head::current_snapshot(&state)? {
        None => println!("`bramble serve` fetches {url}, and begins with what it says{private}"),
        Some((digest, _)) => println!(
            "`bramble serve` goes on with snapshot {}, and follows {url} from there{private}; a commit that does not \
             descend from it waits for a person",
            digest.short()
        ),
    }
    Ok(Exit::Done)
}
