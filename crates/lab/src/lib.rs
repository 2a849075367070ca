//! The lab: the cluster in virtual machines on one computer, on a wire of its own.
//!
//! ```text
//! your computer                 │ user, network, mount and process namespace
//!                               │
//! bramble lab up ── control ────┼─▶ supervisor ─┬─▶ bramble serve (the real head)
//! 127.0.0.1:PORT ── forward ────┼─▶             ├─▶ QEMU m1 ─ tap ─┐
//!                               │               └─▶ QEMU w1 ─ tap ─┴─ bridge
//! ```
//! Needs no root. When the supervisor ends, however it ends, the kernel ends everything inside
//! and the wire with it.

mod accelerator;
mod control;
mod forward;
mod machine;
mod network;
mod outside;
mod supervisor;

use std::io;
use std::path::{Path, PathBuf};

use bramble_system::CommandError;

pub use outside::{Lab, Plan};
pub use supervisor::inside;

/// What the forwards of the head's ports are called: its plain HTTP, and the one over TLS.
pub const HEAD: &str = "head";
pub const HEAD_TLS: &str = "head-tls";

/// What the lab did not do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{doing}")]
    Program { doing: &'static str, source: CommandError },
    #[error("{doing}")]
    Io { doing: String, source: io::Error },
    #[error("cannot make the lab's namespaces")]
    Namespaces { source: CommandError },
    #[error("the lab ended: {0}")]
    Ended(String),
    #[error("another lab runs for this repository")]
    Running,
}

impl Error {
    /// What the person can do about it.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Error::Running => Some("`bramble lab down` ends it"),
            Error::Namespaces { .. } => Some(
                "this system may forbid unprivileged namespaces: on Ubuntu, `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0` allows them until the next start",
            ),
            Error::Program { .. } | Error::Io { .. } | Error::Ended(_) => None,
        }
    }

    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let doing = doing.into();
        move |source| Error::Io { doing, source }
    }
}

/// The places of one repository's lab, below its state folder.
#[derive(Debug, Clone)]
pub struct Places {
    state: PathBuf,
}

impl Places {
    pub fn new(state: &Path) -> Self {
        Places { state: state.to_owned() }
    }

    pub fn folder(&self) -> PathBuf {
        self.state.join("lab")
    }

    /// Where the lab is asked; the `lab` power driver's address.
    pub fn socket(&self) -> PathBuf {
        self.folder().join("lab.sock")
    }

    /// What a machine's serial port printed. Kept after the lab has ended.
    pub fn console(&self, node: &str) -> PathBuf {
        self.folder().join("console").join(format!("{node}.log"))
    }

    /// What the head printed.
    pub fn head_log(&self) -> PathBuf {
        self.folder().join("head.log")
    }

    /// Disks and firmware variables; removed when the lab ends.
    fn scratch(&self) -> PathBuf {
        self.folder().join("machines")
    }
}
