//! What head and agent say to each other over their one connection: JSON, one message a line,
//! over mutual TLS. The agent dials; the head asks; every question has a number and one answer.

use serde::{Deserialize, Serialize};

use crate::hands::{FromProcess, Start, ToProcess};
use crate::names::{BootId, Name};
use crate::repository::EnginePart;

/// The longest line that either side accepts, in bytes. A workload travels in one line.
pub const LONGEST_LINE: usize = 4 << 20;

/// What makes one image serve every node. Fetched over TLS by an admitted agent only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDocument {
    pub hostname: Name,
    pub domain: String,
    pub role: Name,
    pub part: EnginePart,
    /// Public SSH keys that may log in as root.
    pub ssh_keys: Vec<String>,
    /// NTP servers; empty keeps the distribution's.
    pub time_servers: Vec<String>,
}

/// A new agent asks for its certificate.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EnrolRequest {
    pub node: Name,
    pub boot: BootId,
    /// The one-time nonce of this boot, from the kernel's command line.
    pub nonce: String,
    /// PKCS#10, PEM.
    pub csr: String,
}

/// The head's answer to [`EnrolRequest`] and to a renewal.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Enrolled {
    /// X.509, PEM.
    pub certificate: String,
    /// Milliseconds since the epoch at which the agent should renew: two thirds of its life.
    pub renew_at: u64,
    pub document: NodeDocument,
}

/// The head's time, for a node whose clock is too far off to check a certificate: `GET /v1/time/CHALLENGE`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedTime {
    /// Milliseconds since the epoch.
    pub at: u64,
    /// ECDSA P-256 over SHA-256 by the CA's key, in ASN.1, of [`SignedTime::message`]; in hex.
    pub signature: String,
}

impl SignedTime {
    /// Whether this is one: 32 hexadecimal digits in lower case. The node draws it anew each time, so that
    /// nobody can answer with what was said before.
    pub fn is_challenge(text: &str) -> bool {
        text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    }

    /// What is signed. No certificate begins like this (they begin with 0x30), so a signature on one cannot
    /// be had in this way.
    pub fn message(challenge: &str, at: u64) -> String {
        format!("bramble: the time for {challenge} is {at}")
    }
}

/// From the agent to the head.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum FromAgent {
    /// First on every connection.
    Hello {
        boot: BootId,
        version: String,
        facts: Facts,
    },
    /// At every change and at least every ten seconds; a head that hears nothing for thirty
    /// takes the node for lost.
    Health(Health),
    Answer {
        number: u64,
        answer: Answer,
    },
    /// Asks for a new certificate over the connection that the old one opened.
    Renew {
        csr: String,
    },
    /// Of a process that the head had started.
    Process {
        number: u64,
        tell: FromProcess,
    },
}

/// From the head to the agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ToAgent {
    Document(NodeDocument),
    Ask {
        number: u64,
        work: Work,
    },
    Renewed(Box<Enrolled>),
    /// Start a process; its number is new.
    Start {
        number: u64,
        start: Start,
    },
    Process {
        number: u64,
        tell: ToProcess,
    },
    /// The node is not served, or not any more; the connection ends.
    Refused {
        reason: String,
    },
}

/// What the machine is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    pub kernel: String,
    pub architecture: String,
    pub cpus: u32,
    /// Bytes.
    pub memory: u64,
    /// The boot set that runs, by digest.
    pub set: String,
    /// The address it reaches the head from.
    pub address: std::net::IpAddr,
}

/// How the node is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// Seconds since its kernel started.
    pub uptime: u64,
    /// Share of its processors that worked since the last report, in percent.
    #[serde(default)]
    pub busy: u8,
    /// Processes that ran or waited for a processor, over the last minute.
    #[serde(default)]
    pub load: f32,
    /// The hottest sensor, in degrees Celsius; `None` where there is none.
    #[serde(default)]
    pub temperature: Option<i16>,
    /// Bytes free for new work.
    pub memory_available: u64,
    /// Bytes free in `/var`, where the engine keeps its data.
    #[serde(default)]
    pub disk_available: u64,
    /// Processes that the kernel has killed for want of memory since it started.
    #[serde(default)]
    pub killed_for_memory: u64,
    /// Resident bytes of the agent itself.
    pub agent_resident: u64,
    pub engine: EngineState,
}

/// The engine as the node's own daemon sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum EngineState {
    /// The node's role has no part in the engine.
    None,
    /// The daemon is not up yet, or not any more.
    Starting { waiting_for: String },
    /// The daemon is up and belongs to no cluster.
    Alone,
    /// Joined. `cluster` is the engine's own name of its cluster.
    Member { cluster: String, node_id: String, manager: bool, reachable: bool },
}

/// What the head asks of an agent. Each can be asked twice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Work {
    /// Start a new cluster with this node as its first manager.
    Initialise { address: String },
    /// Say how others join: asked of a manager.
    JoinTokens,
    /// Join `cluster` as `part`, leaving whatever other one the node's daemon remembers.
    Join { cluster: String, manager: String, token: String, part: EnginePart, address: String },
    /// What the engine knows of members and workloads: asked of a manager.
    Observe,
    /// Remove a member that is gone.
    Forget { node_id: String },
    /// Make the engine's part of a member match its role.
    SetPart { node_id: String, part: EnginePart },
    /// Deploy one workload: `files` are in the engine's own format.
    Deploy { name: Name, generation: String, file: String },
    /// Remove a workload that the repository no longer has.
    Remove { name: Name },
}

/// An agent's answer to [`Work`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Answer {
    Done,
    JoinTokens { manager: String, worker: String, address: String },
    Observed(Observed),
    Failed { error: String },
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
