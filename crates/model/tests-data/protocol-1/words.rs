//! The words of version 1, frozen: what commit 5b09a28 wrote and read, as its `model/src/agent.rs` and `model/src/hands.rs`
//! said it, with plain texts for names. Tests on both sides of the connection include this file, and nothing else does.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeDocument {
    pub hostname: String,
    pub domain: String,
    pub role: String,
    pub part: EnginePart,
    pub ssh_keys: Vec<String>,
    pub time_servers: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EnginePart {
    Manager,
    Worker,
    None,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EnrolRequest {
    pub node: String,
    pub boot: String,
    pub nonce: String,
    pub csr: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Enrolled {
    pub certificate: String,
    pub renew_at: u64,
    pub document: NodeDocument,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum FromAgent {
    Hello { boot: String, version: String, facts: Facts },
    Health(Health),
    Answer { number: u64, answer: Answer },
    Renew { csr: String },
    Process { number: u64, tell: FromProcess },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ToAgent {
    Document(NodeDocument),
    Ask { number: u64, work: Work },
    Renewed(Box<Enrolled>),
    Start { number: u64, start: Start },
    Process { number: u64, tell: ToProcess },
    Refused { reason: String },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    pub kernel: String,
    pub architecture: String,
    pub cpus: u32,
    pub memory: u64,
    pub set: String,
    pub address: std::net::IpAddr,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Health {
    pub uptime: u64,
    #[serde(default)]
    pub busy: u8,
    #[serde(default)]
    pub load: f32,
    #[serde(default)]
    pub temperature: Option<i16>,
    pub memory_available: u64,
    #[serde(default)]
    pub disk_available: u64,
    #[serde(default)]
    pub killed_for_memory: u64,
    pub agent_resident: u64,
    pub engine: EngineState,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum EngineState {
    None,
    Starting { waiting_for: String },
    Alone,
    Member { cluster: String, node_id: String, manager: bool, reachable: bool },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Work {
    Initialise { address: String },
    JoinTokens,
    Join { cluster: String, manager: String, token: String, part: EnginePart, address: String },
    Observe,
    Forget { node_id: String },
    SetPart { node_id: String, part: EnginePart },
    Deploy { name: String, generation: String, file: String },
    Remove { name: String },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Answer {
    Done,
    JoinTokens { manager: String, worker: String, address: String },
    Observed(Observed),
    Failed { error: String },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    pub cluster: String,
    pub members: Vec<Member>,
    pub services: Vec<Service>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    pub id: String,
    pub hostname: String,
    pub manager: bool,
    pub up: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Service {
    pub workload: Option<String>,
    pub generation: Option<String>,
    pub name: String,
    pub wanted: u32,
    pub running: u32,
    pub ports: Vec<u16>,
    pub replicas: Vec<Replica>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Replica {
    pub node_id: String,
    pub state: String,
    pub error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Size {
    pub columns: u16,
    pub rows: u16,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ToProcess {
    /// In base64.
    Input {
        data: String,
    },
    EndOfInput,
    Resize {
        size: Size,
    },
    Room {
        bytes: u64,
    },
    Stop,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Start {
    pub argv: Vec<String>,
    pub terminal: Option<(String, Size)>,
    pub input: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Channel {
    Out,
    Err,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum FromProcess {
    /// In base64.
    Output {
        channel: Channel,
        data: String,
    },
    Room {
        bytes: u64,
    },
    Ended {
        end: End,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "kebab-case")]
pub enum End {
    Exited { code: i32 },
    Killed { signal: i32 },
    Failed { reason: String },
}

/// Reads a line as version 1 did, for which anything else ended the connection. Also gives what it passed over: the fields
/// that it does not know.
pub fn read<T: Serialize + DeserializeOwned>(line: &str) -> (T, Vec<String>) {
    let told: T = serde_json::from_str(line).unwrap_or_else(|error| panic!("version 1 ends here: {error}: {line}"));
    let mut over = Vec::new();
    passed_over(
        &serde_json::from_str(line).expect("it was read"),
        &serde_json::to_value(&told).expect("plain data"),
        "",
        &mut over,
    );
    (told, over)
}

fn passed_over(said: &Value, known: &Value, path: &str, over: &mut Vec<String>) {
    match (said, known) {
        (Value::Object(said), Value::Object(known)) => {
            for (key, said) in said {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match known.get(key) {
                    Some(known) => passed_over(said, known, &path, over),
                    None => over.push(path),
                }
            }
        }
        (Value::Array(said), Value::Array(known)) => {
            for (said, known) in said.iter().zip(known) {
                passed_over(said, known, path, over);
            }
        }
        _ => {}
    }
}

/// Who said a line of a recorded conversation, and what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said<'a> {
    Agent(&'a str),
    Head(&'a str),
}

/// A conversation, line by line.
pub fn conversation(recorded: &str) -> impl Iterator<Item = Said<'_>> {
    recorded.lines().map(|line| match line.split_once(' ') {
        Some(("agent", said)) => Said::Agent(said),
        Some(("head", said)) => Said::Head(said),
        _ => panic!("nobody said: {line}"),
    })
}
