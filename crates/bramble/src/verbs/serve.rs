//! `bramble serve`

use std::path::PathBuf;

use anyhow::{Context, Result};
use bramble_head::Settings;
use tokio_util::sync::CancellationToken;

use crate::cli::{Exit, Place};
use crate::verbs::{interrupted, log};
use crate::workspace::Workspace;

pub fn run(place: &Place, lab: Option<PathBuf>) -> Result<Exit> {
    log();
    let workspace = Workspace::open(place)?;
    let shelf = workspace.shelf()?;
    let settings = Settings { cluster: workspace.cluster, state: workspace.state, shelf, lab };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let asked = stop.clone();
        tokio::spawn(async move {
            if interrupted().await.is_ok() {
                asked.cancel();
            }
        });
        bramble_head::run(settings, stop).await
    })?;
    Ok(Exit::Done)
}
