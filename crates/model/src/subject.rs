//! What a step, a wait or a problem is about. Two things of one name are two subjects: a workload that is
//! called like a node neither waits for it nor holds it up.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::boot_set::Architecture;
use crate::engine::EngineKind;
use crate::names::{Mac, MemberId, Name};

/// What something is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Subject {
    /// A machine of the repository.
    Node {
        name: Name,
    },
    /// An engine as a whole: its cluster, its leader.
    Engine {
        engine: EngineKind,
    },
    /// A machine as an engine knows it, by the engine's own id.
    Member {
        engine: EngineKind,
        hostname: String,
        id: MemberId,
    },
    Workload {
        engine: EngineKind,
        name: Name,
    },
    /// A machine that is not in the repository.
    Machine {
        mac: Mac,
    },
    /// The boot set of an architecture.
    Image {
        architecture: Architecture,
    },
    /// The git repository that the head follows.
    Source,
    Backups,
    /// The cluster's CA, while it is rotated.
    Ca,
}

impl Subject {
    pub fn node(name: &Name) -> Self {
        Subject::Node { name: name.clone() }
    }

    pub fn workload(engine: EngineKind, name: &Name) -> Self {
        Subject::Workload { engine, name: name.clone() }
    }

    /// The node that this is about, and nothing else is.
    pub fn as_node(&self) -> Option<&Name> {
        match self {
            Subject::Node { name } => Some(name),
            _ => None,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Node { name } => write!(f, "{name}"),
            Subject::Engine { engine } => write!(f, "the {}", engine.title()),
            Subject::Member { hostname, id, .. } => write!(f, "{hostname} ({id})"),
            Subject::Workload { name, .. } => write!(f, "workload {name}"),
            Subject::Machine { mac } => write!(f, "machine {mac}"),
            Subject::Image { architecture } => write!(f, "image for {architecture}"),
            Subject::Source => f.write_str("the git repository"),
            Subject::Backups => f.write_str("backups"),
            Subject::Ca => f.write_str("the CA"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_not_the_node_of_its_name() {
        let name: Name = "web".parse().expect("a name");
        let workload = Subject::workload(EngineKind::Swarm, &name);
        assert_ne!(workload, Subject::node(&name));
        assert_eq!((workload.as_node(), Subject::node(&name).as_node()), (None, Some(&name)));
        let text = serde_json::to_string(&workload).expect("plain data");
        assert_eq!(text, r#"{"kind":"workload","engine":"swarm","name":"web"}"#);
        assert_eq!(serde_json::from_str::<Subject>(&text).expect("reads back"), workload);
    }
}
