//! What a loop says of itself: what it waits for, what it does, what failed. API, pages, `why` and metrics
//! read this and nothing else.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::subject::Subject;
use crate::timeline::Millis;

/// One loop, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    /// The loop: `swarm`, `admissions`, `backups`.
    pub name: String,
    /// The snapshot that it last planned from, by digest; `None` before the first plan.
    pub revision: Option<String>,
    /// When what it planned from was last seen.
    pub observed_at: Option<Millis>,
    /// What it could not learn, and since when: while this is there, no plan is made.
    pub unknown: Option<Unknown>,
    pub waits: Vec<Waiting>,
    pub busy: Vec<Busy>,
    pub failed: Vec<Failure>,
}

/// A fact that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unknown {
    pub reason: String,
    pub since: Millis,
}

/// What ends a wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ends {
    /// At this time the loop looks again by itself.
    At(Millis),
    /// When the cluster itself has gone on: a node that boots, an engine that starts.
    ByItself,
    /// When a person does this.
    Person(String),
}

/// Something that is waited for: what, since when, and what ends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    pub subject: Subject,
    pub reason: String,
    pub ends: Ends,
    pub since: Millis,
}

/// A step that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Busy {
    pub subject: Subject,
    /// What it does: `joins the Swarm through m1`.
    pub step: String,
    pub reason: String,
    pub since: Millis,
}

/// A step that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub subject: Subject,
    pub step: String,
    pub reason: String,
    /// How often in a row.
    pub times: u32,
    /// Since when it fails.
    pub since: Millis,
    /// When it is tried again; `None` where a person has to act first (`bramble retry`).
    pub again: Option<Millis>,
}

/// What a step puts at risk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "risk", rename_all = "kebab-case")]
pub enum Risk {
    /// Nothing that runs notices.
    Safe,
    /// Names what is interrupted.
    Disrupts { what: String },
    /// Names what is lost.
    Destroys { what: String },
}

impl fmt::Display for Risk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Risk::Safe => f.write_str("safe"),
            Risk::Disrupts { what } => write!(f, "disrupts {what}"),
            Risk::Destroys { what } => write!(f, "destroys {what}"),
        }
    }
}

/// A step that a plan has, told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    pub subject: Subject,
    pub step: String,
    pub reason: String,
    #[serde(flatten)]
    pub risk: Risk,
}
