//! What a node's Docker is asked of its Swarm, and what it answers.

mod token;

use serde::{Deserialize, Serialize};

pub use self::token::ca_of;
use super::Capability;
use crate::engine::EnginePart;
use crate::names::{ClusterId, Generation, MemberId, Name};
use crate::said::{self, Sentence, Title, Word};

/// A question to the Swarm. Each can be asked twice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Work {
    /// Start a new cluster with this node as its first manager. A node that belongs to another one than `leaves`
    /// refuses.
    Initialise {
        address: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        leaves: Option<ClusterId>,
    },
    /// Say how others join: asked of a manager.
    JoinTokens,
    /// Join `cluster` as `part`. A node that belongs to another one than `leaves` refuses.
    Join {
        cluster: ClusterId,
        manager: String,
        token: String,
        part: EnginePart,
        address: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        leaves: Option<ClusterId>,
    },
    /// What the engine knows of members and workloads: asked of a manager.
    Observe,
    /// Remove a member that is gone.
    Forget { node_id: MemberId },
    /// Make the engine's part of a member match its role.
    SetPart { node_id: MemberId, part: EnginePart },
    /// Deploy one workload: `file` is in the engine's own format.
    Deploy {
        name: Name,
        generation: Generation,
        file: String,
        /// Networks that it makes for it are encrypted between nodes.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        encrypted: bool,
    },
    /// Remove a workload that the repository no longer has.
    Remove { name: Name },
    /// Make the token with which managers have joined `cluster` worthless: asked of one of its managers.
    RotateManagerToken { cluster: ClusterId },
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
            | Work::Remove { .. }
            | Work::RotateManagerToken { .. } => false,
        }
    }

    /// As of [`super::Work::needs`].
    pub(super) fn needs(&self) -> Option<Capability> {
        match self {
            // Without the name, it would leave whatever Swarm it has.
            Work::Initialise { leaves: Some(_), .. } | Work::Join { leaves: Some(_), .. } => {
                Some(Capability::LeavesByName)
            }
            Work::RotateManagerToken { .. } => Some(Capability::RotatesTokens),
            Work::Deploy { encrypted: true, .. } => Some(Capability::EncryptsNetworks),
            Work::Initialise { leaves: None, .. }
            | Work::Join { leaves: None, .. }
            | Work::JoinTokens
            | Work::Observe
            | Work::Forget { .. }
            | Work::SetPart { .. }
            | Work::Deploy { encrypted: false, .. }
            | Work::Remove { .. }
            | Work::Unknown => None,
        }
    }
}

/// What is answered beyond whether it was done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Reply {
    JoinTokens { manager: Title, worker: Title, address: Title },
    Observed(Observed),
}

/// A manager's view of its cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    pub cluster: ClusterId,
    #[serde(deserialize_with = "said::no_more_than::<10_000, _, _>")]
    pub members: Vec<Member>,
    #[serde(deserialize_with = "said::no_more_than::<4096, _, _>")]
    pub services: Vec<Service>,
}

/// A machine as the engine knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub id: MemberId,
    /// Empty until it has introduced itself.
    pub hostname: Title,
    pub manager: bool,
    /// False only where the engine has given it up.
    pub up: bool,
}

/// A service of a workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// The workload it belongs to; `None` where something else made it.
    pub workload: Option<Word>,
    /// What the head called the workload's content when it was deployed.
    pub generation: Option<Label>,
    pub name: Title,
    #[serde(deserialize_with = "said::number::replicas_of")]
    pub wanted: u32,
    #[serde(deserialize_with = "said::number::replicas_of")]
    pub running: u32,
    /// TCP ports that any member answers on.
    #[serde(deserialize_with = "said::few::<64, _, _>")]
    pub ports: Vec<u16>,
    #[serde(deserialize_with = "said::no_more_than::<10_000, _, _>")]
    pub replicas: Vec<Replica>,
}

/// One replica of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// The member that it is on; `None` until the engine has found one for it.
    #[serde(with = "placed")]
    pub node_id: Option<MemberId>,
    pub state: Word,
    pub error: Option<Sentence>,
}

/// What a service's label says of the content that it was deployed from.
///
/// A label is anyone's to write: one that no head wrote is another generation than any, and stops no listing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Label {
    Generation(Generation),
    Other(Word),
}

impl From<String> for Label {
    fn from(text: String) -> Self {
        text.parse().map_or_else(|_| Label::Other(text.into()), Label::Generation)
    }
}

impl From<Generation> for Label {
    fn from(generation: Generation) -> Self {
        Label::Generation(generation)
    }
}

/// Where a replica is, on the wire: nowhere yet is an empty text.
mod placed {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::names::MemberId;

    pub(super) fn serialize<S: Serializer>(node: &Option<MemberId>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(node.as_ref().map_or("", MemberId::as_str))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<MemberId>, D::Error> {
        let text = String::deserialize(from)?;
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_swarm_lists_is_written_as_it_was_read() {
        for (label, node) in [("1f0a", "a"), ("by hand: v2", ""), ("", "a")] {
            let service = format!(
                r#"{{"workload":"web","generation":"{label}","name":"web_x","wanted":1,"running":0,"ports":[],"replicas":[{{"node_id":"{node}","state":"pending","error":null}}]}}"#
            );
            let read: Service = serde_json::from_str(&service).expect("whatever the label");
            assert_eq!(read.generation, Some(Label::from(label.to_owned())));
            assert_eq!(matches!(read.generation, Some(Label::Generation(_))), label == "1f0a");
            assert_eq!(read.replicas[0].node_id.as_ref().map(MemberId::as_str), Some(node).filter(|id| !id.is_empty()));
            assert_eq!(serde_json::to_string(&read).expect("plain data"), service);
        }
    }
}
