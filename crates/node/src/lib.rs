//! The agent: identity, health and engines of one node.
//!
//! ```text
//! boot.json ─▶ key ─▶ enrol (nonce) ─▶ certificate ─▶ connection ─▶ document, work, health
//!                       ▲                   ▲ two thirds of its life │ lost: again, for ever
//!                       └── it has ended meanwhile, by signed time ──┘
//! ```
//! A certificate lasts a day, and a head may be away for longer. What was let in asks again then, with the key and the
//! nonce of this boot: the head lets the same key of the same boot in again, unless it was revoked or a later boot has
//! taken its place. So nothing that expired is ever taken for good, and nobody gets in who was not let in before.

mod boot;
mod clock;
mod connection;
mod docker;
mod document;
mod engine;
mod firewall;
mod guard;
mod health;
mod http;
mod identity;
mod inventory;
mod process;
mod ready;
mod ssh;
mod trust;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bramble_model::digits::Digits;
use tokio::sync::watch;
use tokio::time::sleep;

pub use boot::ThisBoot;

/// What the agent keeps, on the data partition where there is one.
const FOLDER: &str = "/var/lib/bramble";

/// What the agent did not do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{doing}")]
    File { doing: String, source: std::io::Error },
    #[error("{path}, which stage 1 left, is malformed: {problem}")]
    HandOver { path: String, problem: String },
    #[error("cannot make a key")]
    Key(#[source] rcgen::Error),
    #[error("the TPM does not do what it was asked")]
    Tpm(#[source] bramble_tpm::Problem),
    #[error("the head's CA in this image is malformed: {0}")]
    Trust(String),
    #[error("cannot reach the head at {head}")]
    Reach { head: String, source: std::io::Error },
    #[error("this machine's clock is too far off: {0}")]
    Clock(String),
    #[error("the connection to the head ended: {0}")]
    Ended(String),
    #[error("the head refuses this node: {0}")]
    Refused(String),
    /// Its digits are what a person types.
    #[error("the six digits of this machine are {digits}; the head waits for a person to type them: {why}")]
    Waits { why: String, digits: Digits },
    #[error("the certificate of this node has ended, or has not begun, by the head's clock")]
    OutOfTime,
    #[error("the head knows no CA that signed this node's certificate: its CA was rotated since")]
    OfNoCa,
}

/// What was done about an error before the next try.
#[derive(Debug, PartialEq, Eq)]
enum Mended {
    /// The cause is another one than a time: no hurry.
    Nothing,
    /// The clock was off by so many seconds, and is right now.
    Clock(i64),
    /// The certificate is out of time, by a time that the CA has signed, or of a CA that is none any more: the next try
    /// enrols.
    Forgotten,
}

/// Mends what a time may be the cause of, or a CA that was rotated. `set` sets the clock by the head's signed time, and is asked for only then: a
/// clock that is off makes no certificate worthless.
async fn mend(error: &Error, identity: &identity::Identity, set: impl Future<Output = Result<i64, Error>>) -> Mended {
    let now = bramble_system::now;
    if matches!(error, Error::OfNoCa) {
        // The same key of the same boot is let in again.
        identity.forget();
        return Mended::Forgotten;
    }
    if !clock::is_the_cause(error) && !identity.is_out_of_time(now()) {
        return Mended::Nothing;
    }
    match set.await {
        Ok(_) if identity.is_out_of_time(now()) => {
            identity.forget();
            Mended::Forgotten
        }
        Ok(-60..=60) => Mended::Nothing,
        Ok(seconds) => Mended::Clock(seconds),
        Err(error) => {
            tracing::warn!(error = bramble_system::sentence(&error), "the clock was not set");
            Mended::Nothing
        }
    }
}

/// Runs the agent for ever.
///
/// # Errors
/// Only what waiting cannot mend: an image without what the agent needs.
pub async fn run(version: &str) -> Result<std::convert::Infallible, Error> {
    let boot = ThisBoot::read()?;
    if boot.inventory {
        return inventory::run(&boot).await;
    }
    // What it was told it keeps; until it is told anything, it lets in what booting needs.
    if let Err(error) = tokio::task::spawn_blocking(|| firewall::Nft::default().begin()).await {
        tracing::error!(%error, "closing the node ended by an error of bramble's own");
    }
    let trust = trust::Trust::open()?;
    let identity = identity::Identity::open(&boot, Arc::clone(&trust))?;
    let (told, states) = watch::channel(engine::States::default());
    let (declared, known) = watch::channel(None);
    let engines = engine::Engines::start(&told, &known, guard::Guard::open(trust));
    let documents = document::Documents::start(declared);
    let ready = ready::Ready::with(&boot.set, Path::new(FOLDER));
    let (mut wait, mut had_ended) = (1, false);
    loop {
        let error = match connection::hold(&boot, &identity, version, &engines, &states, &documents, &ready).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        match mend(&error, &identity, clock::set(&boot, identity.trust())).await {
            Mended::Nothing => {}
            Mended::Clock(seconds) => {
                health::say_on_console(&format!(
                    "the clock was off by {seconds} s and was set by the head's signed time"
                ));
                continue;
            }
            Mended::Forgotten => {
                had_ended = true;
                health::say_on_console("the certificate of this node is good no more: it asks for another one");
            }
        }
        let mut sentence = bramble_system::sentence(&error);
        match error {
            Error::Refused(_) | Error::Waits { .. } if had_ended => {
                sentence += "; starting this machine again lets it ask as a new boot"
            }
            // It was let in.
            Error::Ended(_) => had_ended = false,
            _ => {}
        }
        let is_foreign = clock::is_of_no_known_ca(&error);
        if is_foreign {
            sentence += "; its CA was rotated while this machine was away, or it is another cluster's head: starting this \
                         machine again gives it the present one's system";
        }
        tracing::warn!(error = sentence, "no connection to the head");
        if is_foreign || matches!(error, Error::Refused(_) | Error::Waits { .. }) {
            // Whoever stands before the machine should see why it does not go on.
            health::say_on_console(&format!("{sentence}; asking again in {wait} s"));
        }
        sleep(Duration::from_secs(wait)).await;
        wait = if matches!(error, Error::Ended(_)) { 1 } else { (wait * 2).min(15) };
    }
}
