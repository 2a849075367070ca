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
mod document;
mod engine;
mod guard;
mod health;
mod http;
mod identity;
mod inventory;
mod process;

use std::time::Duration;

use bramble_model::digits::Digits;
use tokio::sync::watch;
use tokio::time::sleep;

pub use boot::ThisBoot;

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
}

/// What was done about an error before the next try.
#[derive(Debug, PartialEq, Eq)]
enum Mended {
    /// The cause is another one than a time: no hurry.
    Nothing,
    /// The clock was off by so many seconds, and is right now.
    Clock(i64),
    /// The certificate is out of time, by a time that the CA has signed: the next try enrols.
    Forgotten,
}

/// Mends what a time may be the cause of. `set` sets the clock by the head's signed time, and is asked for only then: a
/// clock that is off makes no certificate worthless.
async fn mend(error: &Error, identity: &identity::Identity, set: impl Future<Output = Result<i64, Error>>) -> Mended {
    let now = bramble_system::now;
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
    let identity = identity::Identity::open(&boot)?;
    let (told, states) = watch::channel(engine::States::default());
    let (declared, known) = watch::channel(None);
    let engines = engine::Engines::start(&told, &known, guard::Guard::open(identity.ca().0));
    let documents = document::Documents::start(declared);
    let (mut wait, mut had_ended) = (1, false);
    loop {
        let error = match connection::hold(&boot, &identity, version, &engines, &states, &documents).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        match mend(&error, &identity, clock::set(&boot, identity.ca())).await {
            Mended::Nothing => {}
            Mended::Clock(seconds) => {
                health::say_on_console(&format!(
                    "the clock was off by {seconds} s and was set by the head's signed time"
                ));
                continue;
            }
            Mended::Forgotten => {
                had_ended = true;
                health::say_on_console("the certificate of this node is out of time: it asks for another one");
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
        tracing::warn!(error = sentence, "no connection to the head");
        if matches!(error, Error::Refused(_) | Error::Waits { .. }) {
            // Whoever stands before the machine should see why it does not go on.
            health::say_on_console(&format!("{sentence}; asking again in {wait} s"));
        }
        sleep(Duration::from_secs(wait)).await;
        wait = if matches!(error, Error::Ended(_)) { 1 } else { (wait * 2).min(15) };
    }
}
