//! Decisions with their reasons: pure functions of what is declared, what is observed and the
//! time. No I/O, no clock, no randomness.

pub mod admission;
pub mod backups;
pub mod chain;
pub mod changes;
pub mod explain;
pub mod hand_off;
pub mod swarm;

use serde::{Deserialize, Serialize};

/// Something that a plan waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// Node or workload.
    pub subject: String,
    pub reason: String,
}
