//! `bramble serve`

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use bramble_head::{Ended, Settings};
use bramble_image::Shelf;
use tokio_util::sync::CancellationToken;

use crate::exit::Exit;
use crate::place::Place;
use crate::process::{interrupted, log};
use crate::workspace;

/// For so long a thread may go on that is in the middle of something.
const ENDING: Duration = Duration::from_secs(10);

pub fn run(place: &Place, lab: Option<PathBuf>) -> Result<Exit> {
    log();
    let (home, state) = place.head()?;
    // A head that cannot begin leaves nothing behind.
    if !state.exists() {
        bramble_head::could_begin(&home)?;
    }
    workspace::make_state(&state)?;
    let shelf = Shelf::open(state.join("image"))?;
    let home = home.canonicalize().context("cannot find the repository")?;
    // A lab has the folder that it is given, whatever it had before.
    let revision = workspace::revision(&home);
    let settings = Settings { home, revision, state, shelf, apply: lab.is_some(), lab };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let ended = runtime.block_on(async {
        let stop = CancellationToken::new();
        let asked = stop.clone();
        tokio::spawn(async move {
            if interrupted().await.is_ok() {
                asked.cancel();
            }
        });
        bramble_head::run(settings, stop).await
    });
    // A thread that hangs with its disk would keep a process that serves nobody.
    runtime.shutdown_timeout(ENDING);
    match ended? {
        Ended::Asked => Ok(Exit::Done),
        // Nothing of the old head is left in a new program, and whoever watches this process keeps it.
        Ended::ForAWire => {
            let program = std::env::current_exe().context("cannot find this program")?;
            Err(Command::new(program).args(std::env::args_os().skip(1)).exec()).context("cannot begin anew")
        }
    }
}
