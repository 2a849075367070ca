//! The agent: identity, health and engine of one node.
//!
//! ```text
//! boot.json ─▶ key ─▶ enrol (nonce) ─▶ certificate ─▶ connection ─▶ document, work, health
//!                                           ▲ two thirds of its life │ lost: again, for ever
//! ```

mod boot;
mod clock;
mod connection;
mod document;
mod engine;
mod health;
mod http;
mod identity;
mod inventory;
mod process;

use std::time::Duration;

use bramble_model::agent::EngineState;
use tokio::sync::watch;
use tokio::time::sleep;

pub use boot::Boot;

/// What the agent did not do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{doing}")]
    File { doing: String, source: std::io::Error },
    #[error("{path} is malformed")]
    Malformed { path: String, source: serde_json::Error },
    #[error("cannot make a key")]
    Key(#[source] rcgen::Error),
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
}

/// Runs the agent for ever.
///
/// # Errors
/// Only what waiting cannot mend: an image without what the agent needs.
pub async fn run(version: &str) -> Result<std::convert::Infallible, Error> {
    let boot = Boot::read()?;
    if boot.inventory {
        return inventory::run(&boot).await;
    }
    let identity = identity::Identity::open(&boot)?;
    let (state, engine_state) = watch::channel(EngineState::None);
    let (part, wanted_part) = watch::channel(None);
    let engine = engine::start(state, wanted_part);
    let mut wait = 1;
    loop {
        let error = match connection::hold(&boot, &identity, version, &engine, &engine_state, &part).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        if clock::is_the_cause(&error) {
            match clock::set(&boot, identity.ca()).await {
                // Where it was right, the cause is another one: no hurry then.
                Ok(-60..=60) => {}
                Ok(seconds) => {
                    health::say_on_console(&format!(
                        "the clock was off by {seconds} s and was set by the head's signed time"
                    ));
                    continue;
                }
                Err(error) => tracing::warn!(error = bramble_system::sentence(&error), "the clock was not set"),
            }
        }
        let sentence = bramble_system::sentence(&error);
        tracing::warn!(error = sentence, "no connection to the head");
        if matches!(error, Error::Refused(_)) {
            // Whoever stands before the machine should see why it does not go on.
            health::say_on_console(&format!("{sentence}; asking again in {wait} s"));
        }
        sleep(Duration::from_secs(wait)).await;
        wait = if matches!(error, Error::Ended(_)) { 1 } else { (wait * 2).min(15) };
    }
}
