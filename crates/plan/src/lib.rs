//! Decisions with their reasons: pure functions of what is declared, what is observed and the
//! time. No I/O, no clock, no randomness.
//!
//! What is kept true has a [`contract::Planner`], and [`driver`] is what its loop remembers. Admission, hand-off
//! and chain are lives of single records; `explain` names causes.

pub mod admission;
pub mod backups;
pub mod brake;
pub mod chain;
pub mod contract;
pub mod driver;
pub mod engine;
pub mod explain;
pub mod firewall;
pub mod hand_off;
pub mod lead;
pub mod leaving;
pub mod ready;
pub mod rotation;
pub mod sets;
pub mod source;
pub mod strangers;
pub mod swarm;
