//! What is said of desired state over the API: offering a snapshot, what it would change, and its history.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::hands::Data;
use crate::names::Digest;
use crate::section::{Ends, Told, Waiting};
use crate::snapshot::{Revision, Snapshot};
use crate::subject::Subject;
use crate::timeline::Millis;

/// `POST /v1/snapshots`: a snapshot that may be applied.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Offer {
    pub snapshot: Snapshot,
    pub revision: Revision,
}

/// The head's answer to [`Offer`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Offered {
    pub digest: Digest,
    /// Contents that have to come before it can be applied.
    pub missing: Vec<Digest>,
}

/// `POST /v1/contents`: small files, whole.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Contents {
    pub contents: Vec<Data>,
}

/// `POST /v1/plan`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Question {
    /// First digits of a snapshot or commit; `None` for the current one.
    pub revision: Option<String>,
}

/// What would happen.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Preview {
    /// The snapshot that is asked about.
    pub snapshot: Digest,
    pub revision: Revision,
    /// The current one; `None` where there is none yet.
    pub current: Option<Digest>,
    /// How the repository differs from the current one, in short sentences.
    pub changed: Vec<String>,
    /// Why it would wait for a person, if it came by itself.
    pub brake: Vec<String>,
    pub loops: Vec<Foreseen>,
}

impl Preview {
    /// Every step of every loop.
    pub fn steps(&self) -> impl Iterator<Item = &Told> {
        self.loops.iter().flat_map(|one| &one.steps)
    }
}

/// What one loop would do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Foreseen {
    pub name: String,
    /// What could not be learnt: then there is no plan.
    pub unknown: Option<String>,
    /// In order.
    pub steps: Vec<Told>,
    pub waits: Vec<Awaited>,
}

/// What is waited for when all steps are done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Awaited {
    pub subject: Subject,
    pub reason: String,
    pub ends: Ends,
}

impl From<Waiting> for Awaited {
    fn from(Waiting { subject, reason, ends, .. }: Waiting) -> Self {
        Awaited { subject, reason, ends }
    }
}

/// `POST /v1/snapshots/REVISION/apply`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Apply {
    /// What was current when it was looked at: where another one is by now, nothing is changed.
    pub expects: Option<Digest>,
    /// It is an earlier one that is made current again.
    #[serde(default)]
    pub rollback: bool,
}

/// A line of `GET /v1/history`, the newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub snapshot: Digest,
    pub revision: Revision,
    pub at: Millis,
    pub by: String,
    pub changed: Vec<String>,
    /// The head still has it: it can be made current again.
    pub kept: bool,
    pub current: bool,
}

/// What the status says of desired state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    pub snapshot: Digest,
    pub revision: Revision,
    /// When it became current.
    pub at: Millis,
    pub by: String,
    /// Why the git repository is not followed now, though there is one: a person has said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
}

/// `POST /v1/source/sync`: what came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Synced {
    /// What is current now.
    pub desired: Option<Desired>,
    /// Why the newest commit is not followed, and what to do.
    pub problem: Option<String>,
    /// The newest commit itself is to blame for it: it has errors.
    #[serde(default)]
    pub unfit: bool,
    /// The newest commit waits for a person, and why.
    pub braked: Option<(String, Vec<String>)>,
    /// Workloads of what is current that stay as they are, each with why: their own files are wrong.
    #[serde(default)]
    pub stopped: Vec<String>,
}

/// `GET /v1/source/key`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SourceKey {
    /// The head's own public key, as a line of `authorized_keys`.
    pub public: String,
    /// The fingerprint of the server's host key, once one is pinned.
    pub host: Option<String>,
}

/// Following git is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    pub since: Millis,
    /// `ann`, `root on the head`.
    pub by: String,
    pub reason: String,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "following git is held by {}: {}", self.by, self.reason)
    }
}
