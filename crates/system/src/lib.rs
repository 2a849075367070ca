//! The operating system through one door: other programs, files that survive a power cut, the clock;
//! and how an error is said in one sentence.

mod command;
pub mod files;

use std::error::Error;
use std::time::{SystemTime, UNIX_EPOCH};

pub use command::{Cancel, Command, CommandError, Failure, Output};

/// Milliseconds since the epoch by the system's clock; 0 where that stands before it.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

/// An error with its causes: `cannot read /x: no such file`.
pub fn sentence(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text += &format!(": {next}");
        cause = next.source();
    }
    text
}
