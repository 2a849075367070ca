//! What this node lets in, given to nft(8).
//!
//! ```text
//! agent starts ─▶ nothing but what booting needs ── document ─▶ what it says ── the head is away ─▶ stays
//! ```
//! The rules are the kernel's: they outlive the agent, and one that starts anew finds those that it has been told.

use std::ffi::OsString;
use std::time::Duration;

use bramble_model::firewall::{Firewall, Rules, TABLE, off};
use bramble_system::{Command, CommandError, Failure};

use crate::health;

/// How long nft may take.
const LIMIT: Duration = Duration::from_secs(30);

/// What gives rules to the kernel.
#[derive(Debug, Clone)]
pub(crate) struct Nft(Vec<OsString>);

impl Default for Nft {
    fn default() -> Self {
        Nft(vec!["nft".into()])
    }
}

impl Nft {
    fn command(&self) -> Command {
        Command::new(&self.0[0]).args(&self.0[1..]).limit(LIMIT)
    }

    fn load(&self, script: String) -> Result<(), CommandError> {
        self.command().args(["-f", "-"]).text(script).run().map(drop)
    }

    /// Closes the node until its document comes; one that has rules of before keeps them.
    pub(crate) fn begin(&self) {
        let has_rules = self.command().args(["list", "table"]).args(TABLE.split(' ')).run().is_ok();
        if !has_rules && let Err(error) = self.load(Rules::default().script()) {
            missing(&error);
            tracing::error!(error = bramble_system::sentence(&error), "this node has no firewall yet");
        }
    }

    /// Lets in what the head says. One of before says nothing: everything, then, as ever.
    ///
    /// # Errors
    /// When nft does not take it. What there is stays.
    pub(crate) fn apply(&self, firewall: Option<&Firewall>) -> Result<(), CommandError> {
        let done = match firewall {
            Some(Firewall::On(rules)) => self.load(rules.script()),
            Some(Firewall::Off) | None => match self.load(off()) {
                // Who cannot filter filters nothing.
                Err(error) if matches!(error.failure, Failure::NotFound) => return Ok(()),
                done => done,
            },
            Some(Firewall::Unknown) => {
                tracing::warn!("the head says of the firewall what this agent does not know: it stays as it is");
                return Ok(());
            }
        };
        done.inspect_err(missing)
    }
}

/// Whoever stands before the machine is told what its image lacks.
fn missing(error: &CommandError) {
    if matches!(error.failure, Failure::NotFound) {
        health::say_on_console(
            "nothing is filtered: the image has no nft; `bramble image build` makes one that has it, unless \
             `firewall.enabled = false` is meant",
        );
    }
}

#[cfg(test)]
mod tests;
