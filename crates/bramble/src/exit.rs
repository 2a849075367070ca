//! How the program ends: its exit codes.

use std::process::ExitCode;

use bramble_model::repository::Problems;

use crate::client::Unfit;
use crate::place::NoRepository;
use crate::process::Interrupted;
use crate::target::NoHead;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Done,
    Failed,
    Repository,
    NoHead,
    /// Something would change.
    Changes,
    Interrupted,
    /// As what ran on nodes did.
    Node(u8),
}

impl Exit {
    /// The exit code that tells this error.
    pub fn of(error: &anyhow::Error) -> Exit {
        let of_the_head = error.downcast_ref::<bramble_head::Error>();
        if error.is::<Problems>()
            || error.is::<NoRepository>()
            || error.is::<Unfit>()
            || matches!(of_the_head, Some(bramble_head::Error::Repository(_)))
        {
            Exit::Repository
        } else if error.is::<NoHead>() {
            Exit::NoHead
        } else if error.is::<Interrupted>() {
            Exit::Interrupted
        } else {
            Exit::Failed
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Repository => 3,
            Exit::NoHead => 4,
            Exit::Changes => 5,
            Exit::Interrupted => 130,
            Exit::Node(code) => code,
        })
    }
}
