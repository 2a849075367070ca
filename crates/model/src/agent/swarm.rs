//! What a node's Docker is asked of its Swarm, and what it answers.

use serde::{Deserialize, Serialize};

use super::Capability;
use crate::engine::EnginePart;
use crate::names::Name;

/// A question to the Swarm. Each can be asked twice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Work {
    /// Start a new cluster with this node as its first manager. A node that belongs to another one than `leaves`
    /// refuses.
    Initialise {
        address: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        leaves: Option<String>,
    },
    /// Say how others join: asked of a manager.
    JoinTokens,
    /// Join `cluster` as `part`. A node that belongs to another one than `leaves` refuses.
    Join {
        cluster: String,
        manager: String,
        token: String,
        part: EnginePart,
        address: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        leaves: Option<String>,
    },
    /// What the engine knows of members and workloads: asked of a manager.
    Observe,
    /// Remove a member that is gone.
    Forget { node_id: String },
    /// Make the engine's part of a member match its role.
    SetPart { node_id: String, part: EnginePart },
    /// Deploy one workload: `file` is in the engine's own format.
    Deploy { name: Name, generation: String, file: String },
    /// Remove a workload that the repository no longer has.
    Remove { name: Name },
    /// A question that this program does not know.
    #[serde(other, skip_serializing)]
    Unknown,
}

impl Work {
    /// Whether it only looks.
    pub fn only_looks(&self) -> bool {
        match self {
            Work::JoinTokens | Work::Observe | Work::Unknown => true,
            Work::Initialise { .. }
            | Work::Join { .. }
            | Work::Forget { .. }
            | Work::SetPart { .. }
            | Work::Deploy { .. }
            | Work::Remove { .. } => false,
        }
    }

    /// As of [`super::Work::needs`].
    pub(super) fn needs(&self) -> Option<Capability> {
        match self {
            // Without the name, it would leave whatever Swarm it has.
            Work::Initialise { leaves: Some(_), .. } | Work::Join { leaves: Some(_), .. } => {
                Some(Capability::LeavesByName)
            }
            Work::Initialise { leaves: None, .. }
            | Work::Join { leaves: None, .. }
            | Work::JoinTokens
            | Work::Observe
            | Work::Forget { .. }
            | Work::SetPart { .. }
            | Work::Deploy { .. }
            | Work::Remove { .. }
            | Work::Unknown => None,
        }
    }
}

/// What is answered beyond whether it was done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Reply {
    JoinTokens { manager: String, worker: String, address: String },
    Observed(Observed),
}

/// A manager's view of its cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    pub cluster: String,
    pub members: Vec<Member>,
    pub services: Vec<Service>,
}

/// A machine as the engine knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub id: String,
    /// Empty until it has introduced itself.
    pub hostname: String,
    pub manager: bool,
    /// False only where the engine has given it up.
    pub up: bool,
}

/// A service of a workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// The workload it belongs to; `None` where something else made it.
    pub workload: Option<String>,
    /// What the head called the workload's content when it was deployed.
    pub generation: Option<String>,
    pub name: String,
    pub wanted: u32,
    pub running: u32,
    /// TCP ports that any member answers on.
    pub ports: Vec<u16>,
    pub replicas: Vec<Replica>,
}

/// One replica of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    pub node_id: String,
    pub state: String,
    pub error: Option<String>,
}
