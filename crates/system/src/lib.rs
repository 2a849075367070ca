//! The operating system through one door: other programs, and files that survive a power cut.

mod command;
pub mod files;

pub use command::{Cancel, Command, CommandError, Failure, Output};
