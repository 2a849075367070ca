//! The words that loader, stage 1, agent and head share, each rendered and read in one place.
//!
//! ```text
//! firmware ──▶ head ── kernel arguments ─▶ stage 1 ── boot.json ─▶ agent
//!   (who asks)  ▲ ▲─── claim, reports ───────┘
//!               └── names of files: loaders, kernel, initrd, layers, manifest
//! ```
//! An image may be older or newer than the head that serves it: a word that is not known here is kept as it
//! is (`Other`), bounded, and decides nothing. Nothing is ever decided by a sentence: those are for people.
//!
//! No dependencies, since all of it is in the first program of a booting node.

mod arguments;
mod claim;
mod file;
mod firmware;
mod json;
mod loader;
mod partition;
mod place;
pub mod plain;
mod report;
mod statement;

pub use arguments::{Addresses, Arguments, HandedOut, Missing};
pub use claim::{CLAIMS, Claim, Claimed};
pub use file::{File, HandOver};
pub use firmware::{Asker, Cpu, Firmware, Pi};
pub use json::Malformed;
pub use loader::Loader;
pub use partition::{NoPartitionId, OWN_DATA, PartitionId};
pub use place::{
    AGENT_FOLDER, BOOT_FILE, CLUSTER_FILE, FLOOR_FILE, KEY_FILE, MANIFEST, READY_FOLDER, SIGNATURE, UNTRUSTED_DATA,
    claim_path, file_path, inventory_path, is_kept_of_a_set, kept_file, kept_set, report_path, reporting, set_path,
};
pub use report::{Failure, Report, Step};
pub use statement::{Day, NoStatement, NotToBoot, SOON, Statement};

/// The longest word of another generation that is kept, in characters.
const LONGEST_WORD: usize = 32;

/// A word of letters, digits and hyphens, as another program wrote it, bounded.
fn bounded(word: &str) -> String {
    word.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(LONGEST_WORD).collect()
}
