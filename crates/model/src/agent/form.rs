//! Messages as they are written: what version 1 knows of the Swarm alone is said beside what is said of all engines.

use serde::{Deserialize, Serialize};

use super::{Refuses, SignedLife};
use crate::engine::{ByEngine, DockerSettings, EngineKind, EnginePart, EngineState};
use crate::firewall::Firewall;
use crate::names::Name;
use crate::said;

#[derive(Serialize, Deserialize)]
pub(super) struct Document {
    hostname: Name,
    domain: String,
    role: Name,
    /// The part in the Swarm.
    part: EnginePart,
    /// Absent where it says no more than `part`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    engines: Option<ByEngine<EnginePart>>,
    ssh_keys: Vec<String>,
    time_servers: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    life: Option<SignedLife>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    docker: Option<DockerSettings>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    firewall: Option<Firewall>,
}

/// What is said where only the Swarm is spoken of.
fn swarm_alone(part: EnginePart) -> ByEngine<EnginePart> {
    let own = (part != EnginePart::None).then_some((EngineKind::Swarm, part));
    own.into_iter().collect()
}

impl From<super::NodeDocument> for Document {
    fn from(document: super::NodeDocument) -> Self {
        let super::NodeDocument { hostname, domain, role, engines, ssh_keys, time_servers, life, docker, firewall } =
            document;
        let part = engines.of(EngineKind::Swarm).copied().unwrap_or(EnginePart::None);
        let engines = (engines != swarm_alone(part)).then_some(engines);
        Document { hostname, domain, role, part, engines, ssh_keys, time_servers, life, docker, firewall }
    }
}

impl From<Document> for super::NodeDocument {
    fn from(written: Document) -> Self {
        let Document { hostname, domain, role, part, engines, ssh_keys, time_servers, life, docker, firewall } =
            written;
        let engines = engines.unwrap_or_else(|| swarm_alone(part));
        super::NodeDocument { hostname, domain, role, engines, ssh_keys, time_servers, life, docker, firewall }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct Health {
    uptime: u64,
    #[serde(default)]
    busy: u8,
    #[serde(default)]
    load: f32,
    #[serde(default)]
    temperature: Option<i16>,
    memory_available: u64,
    /// Absent where it is not known: a side that knows no `null` reads what is absent as 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    disk_available: Option<u64>,
    #[serde(default)]
    killed_for_memory: u64,
    agent_resident: u64,
    /// The Swarm.
    engine: EngineState,
    /// Absent from an agent of version 1.
    #[serde(default)]
    engines: Option<ByEngine<EngineState>>,
    /// A head of before passes over it, and is refused all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refuses: Option<Refuses>,
}

impl From<super::Health> for Health {
    fn from(health: super::Health) -> Self {
        Health {
            uptime: health.uptime,
            busy: health.busy,
            load: health.load,
            temperature: health.temperature,
            memory_available: health.memory_available,
            disk_available: health.disk_available,
            killed_for_memory: health.killed_for_memory,
            agent_resident: health.agent_resident,
            engine: health.engine(EngineKind::Swarm).clone(),
            engines: Some(health.engines),
            refuses: health.refuses,
        }
    }
}

impl From<Health> for super::Health {
    fn from(written: Health) -> Self {
        let swarm = (written.engine != EngineState::None).then_some((EngineKind::Swarm, written.engine));
        super::Health {
            uptime: said::seconds(written.uptime),
            busy: said::percent(written.busy),
            load: said::load(written.load),
            temperature: said::temperature(written.temperature),
            memory_available: said::bytes(written.memory_available),
            disk_available: written.disk_available.map(said::bytes),
            killed_for_memory: said::count(written.killed_for_memory),
            agent_resident: said::bytes(written.agent_resident),
            engines: written.engines.unwrap_or_else(|| swarm.into_iter().collect()),
            refuses: written.refuses,
        }
    }
}
