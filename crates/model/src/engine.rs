//! Engines: what runs workloads on the fleet. A node may have a part in several.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

use crate::names::{ClusterId, MemberId};
use crate::said::Title;

/// Makes `EngineKind` of its engines, each as it is written and as people say it, so that `ALL` has every one.
macro_rules! engines {
    ($($kind:ident: $written:literal, $title:literal;)+) => {
        /// What runs workloads.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum EngineKind {
            $(#[serde(rename = $written)] $kind,)+
        }

        impl EngineKind {
            pub const ALL: [EngineKind; [$(EngineKind::$kind),+].len()] = [$(EngineKind::$kind),+];

            /// As a repository and the agents' protocol write it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(EngineKind::$kind => $written,)+
                }
            }

            /// As people say it.
            pub fn title(self) -> &'static str {
                match self {
                    $(EngineKind::$kind => $title,)+
                }
            }
        }
    };
}

engines! {
    Swarm: "swarm", "Swarm";
}

impl EngineKind {
    /// The one that is written so.
    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// What a role does in an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EnginePart {
    Manager,
    Worker,
    /// Not a member.
    None,
}

/// How a node's Docker treats containers, as far as the repository says it; else as its image has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DockerSettings {
    /// Programs in containers gain no more rights than they began with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_new_privileges: Option<bool>,
    /// Root of a container is nobody on the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub userns_remap: Option<bool>,
}

/// An engine as the node's own daemon sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum EngineState {
    /// The node's role has no part in the engine.
    None,
    /// The daemon is not up yet, or not any more.
    Starting { waiting_for: Title },
    /// The daemon is up and belongs to no cluster.
    Alone,
    /// Joined. `cluster` is the engine's own name of its cluster.
    Member { cluster: ClusterId, node_id: MemberId, manager: bool, reachable: bool },
}

/// Something of each engine that a node has a part in.
///
/// Read from a side of another release, engines that this program does not know are left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct ByEngine<T>(BTreeMap<EngineKind, T>);

impl<T> Default for ByEngine<T> {
    fn default() -> Self {
        ByEngine(BTreeMap::new())
    }
}

impl<T> ByEngine<T> {
    pub fn of(&self, kind: EngineKind) -> Option<&T> {
        self.0.get(&kind)
    }

    pub fn set(&mut self, kind: EngineKind, value: T) {
        self.0.insert(kind, value);
    }

    pub fn remove(&mut self, kind: EngineKind) {
        self.0.remove(&kind);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn kinds(&self) -> impl Iterator<Item = EngineKind> {
        self.0.keys().copied()
    }

    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.0.values()
    }

    pub fn iter(&self) -> impl Iterator<Item = (EngineKind, &T)> {
        self.0.iter().map(|(kind, value)| (*kind, value))
    }
}

impl<T> FromIterator<(EngineKind, T)> for ByEngine<T> {
    fn from_iter<I: IntoIterator<Item = (EngineKind, T)>>(all: I) -> Self {
        ByEngine(all.into_iter().collect())
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for ByEngine<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let written = BTreeMap::<String, serde_json::Value>::deserialize(from)?;
        let known = written.into_iter().filter_map(|(name, value)| Some((EngineKind::named(&name)?, value)));
        known
            .map(|(kind, value)| Ok((kind, serde_json::from_value(value).map_err(serde::de::Error::custom)?)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_is_named_as_it_is_written() {
        for kind in EngineKind::ALL {
            assert_eq!(EngineKind::named(kind.as_str()), Some(kind));
            assert_eq!(serde_json::to_value(kind).expect("plain data"), kind.as_str());
        }
    }

    #[test]
    fn an_engine_of_a_later_release_is_left_out() {
        let text = r#"{"orchestra":{"seats":80},"swarm":"worker"}"#;
        let parts: ByEngine<EnginePart> = serde_json::from_str(text).expect("readable");
        assert_eq!(parts, [(EngineKind::Swarm, EnginePart::Worker)].into_iter().collect());
        assert!(serde_json::from_str::<ByEngine<EnginePart>>(r#"{"swarm":7}"#).is_err());
    }
}
