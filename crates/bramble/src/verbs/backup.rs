//! `bramble backup` and `bramble restore`

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bramble_head::control;
use bramble_model::api::UnreadableRecord;
use bramble_system::files;

use crate::client::Client;
use crate::exit::Exit;
use crate::place::Place;
use crate::screen::ago;
use crate::workspace;

pub async fn make(output: Option<PathBuf>, place: &Place) -> Result<Exit> {
    let client = Client::of(place)?;
    let path = match output {
        Some(path) => path,
        None => {
            let cluster = client.status().await?.cluster;
            PathBuf::from(format!("{cluster}-{}.bramble-backup", bramble_system::now() / 1000))
        }
    };
    let bytes = client.backup().await?;
    files::replace_secret(&path, &bytes).with_context(|| format!("cannot write {}", path.display()))?;
    println!("{} ({} KB): it holds the cluster's keys", path.display(), bytes.len() / 1000);
    warn_of(&client.unreadable().await?);
    Ok(Exit::Done)
}

pub fn restore(backup: &Path, place: &Place) -> Result<Exit> {
    let state = place.state()?;
    if control::runs(&state) {
        bail!("a head runs here: stop it first");
    }
    workspace::make_state(&state)?;
    let contents = bramble_head::backup::restore(backup, &state, bramble_system::now())?;
    let age = ago(Duration::from_millis(bramble_system::now().saturating_sub(contents.at)));
    println!("the state of {} of {age} is in {}", contents.cluster, state.display());
    warn_of(&bramble_head::unreadable::list_of(&state)?);
    println!("next: `bramble image build`, and `bramble serve` at the old head's address");
    Ok(Exit::Done)
}

/// What of a backup cannot be read. It is in it as it was found, and that is what can be had.
fn warn_of(unreadable: &[UnreadableRecord]) {
    for record in unreadable {
        eprintln!("in it as it is: {}", record.problem);
    }
}
