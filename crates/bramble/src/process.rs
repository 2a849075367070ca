//! How this process runs: its runtime, its log, and the signals that end it.

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::terminal;

/// The person pressed Ctrl-C; everything has been put away.
#[derive(Debug)]
pub struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted; nothing is left behind")
    }
}

impl std::error::Error for Interrupted {}

/// Runs a verb that waits for others.
pub fn wait<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    runtime()?.block_on(work)
}

/// Runs a verb that asks on the terminal: Ctrl-C drops it, and so what it changed there is put right.
pub fn wait_for_person<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        let mut interrupts = Interrupts::listen()?;
        tokio::select! {
            result = work => result,
            () = interrupts.next() => Err(Interrupted.into()),
        }
    });
    // A name that is being looked up cannot be dropped, and nobody waits for it.
    runtime.shutdown_background();
    ended
}

/// One thread is enough for all but the head.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")
}

/// Logs fields as lines; on a node they go to the journal, which has its own time.
pub fn log() {
    let level = std::env::var("BRAMBLE_LOG").ok().and_then(|level| level.parse().ok()).unwrap_or(tracing::Level::INFO);
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .with_ansi(false)
        .with_writer(|| terminal::Log(std::io::stderr()))
        .init();
}

/// The person's wish to end: Ctrl-C, or the system's. From its making on, none is missed.
pub struct Interrupts([Signal; 3]);

impl Interrupts {
    pub fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Interrupts([
            listen(SignalKind::terminate())?,
            listen(SignalKind::interrupt())?,
            listen(SignalKind::hangup())?,
        ]))
    }

    /// Completes when there is one.
    pub async fn next(&mut self) {
        let [terminate, interrupt, hangup] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// Completes when the person presses Ctrl-C or the system asks to end.
pub async fn interrupted() -> Result<()> {
    Interrupts::listen()?.next().await;
    Ok(())
}
