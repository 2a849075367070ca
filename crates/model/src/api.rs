//! What the head tells the command line, the status page and anyone with `curl`.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::agent::swarm::Service;
use crate::agent::{Facts, Health};
use crate::desired::Desired;
use crate::engine::{EngineKind, EngineState};
use crate::names::{Digest, Mac, Name};
use crate::section::{Failure, Section, Waiting};
use crate::timeline::{Event, Millis, Phase};

/// How whoever connects by SSH knows the nodes. `GET /v1/ssh/known-hosts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownHosts {
    /// A line of OpenSSH's `known_hosts`; `None` where no node has an SSH server.
    pub line: Option<String>,
}

/// The whole cluster at one moment. `GET /v1/status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    pub cluster: Name,
    /// SHA-256 of the head's CA, in hex: what `bramble login` compares.
    pub ca: String,
    pub at: Millis,
    /// The boot set that nodes are given, by digest; `None` before one is built.
    pub set: Option<Digest>,
    /// Resident bytes of the head itself.
    pub head_resident: u64,
    pub nodes: Vec<NodeStatus>,
    pub workloads: Vec<WorkloadStatus>,
    /// Machines that asked to boot and are not in the repository.
    pub seen: Vec<Seen>,
    /// What is wrong with the head itself or with a whole engine: a disk that takes no writes, a Swarm without a leader.
    pub problems: Vec<String>,
    /// The snapshot that is kept true.
    pub desired: Option<Desired>,
    /// The head follows a git repository.
    #[serde(default)]
    pub follows_git: bool,
    /// What every loop waits for, does and could not do.
    pub loops: Vec<Section>,
}

impl Status {
    /// What is waited for, of all loops.
    pub fn waiting(&self) -> impl Iterator<Item = &Waiting> {
        self.loops.iter().flat_map(|section| &section.waits)
    }

    /// Steps that failed, of all loops.
    pub fn failed(&self) -> impl Iterator<Item = &Failure> {
        self.loops.iter().flat_map(|section| &section.failed)
    }
}

/// One node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeStatus {
    pub name: Name,
    pub macs: Vec<Mac>,
    pub role: Name,
    pub phase: Phase,
    /// When it entered this phase.
    pub since: Millis,
    /// Percent of the root that is there, in stage 1.
    pub percent: Option<u8>,
    /// The last thing that happened to it.
    pub last: Option<String>,
    /// The reason it does not go on, if it said one.
    pub failure: Option<String>,
    /// The key that asked last and waits for an operator, by fingerprint.
    pub pending: Option<String>,
    /// All keys that wait for an operator, the oldest first; none of a head of an earlier release.
    #[serde(default)]
    pub waiting: Vec<WaitingKey>,
    /// What it is known by since it was let in last.
    #[serde(default)]
    pub known_by: Option<KnownBy>,
    pub connected: bool,
    pub set: Option<Digest>,
    pub facts: Option<Facts>,
    pub health: Option<Health>,
    /// When the phases of its present boot began.
    pub times: Vec<(Phase, Millis)>,
    /// The other system that it runs, by the name of its profile.
    pub boot: Option<Name>,
    /// What it waits for, or the cause of its trouble.
    pub why: Explanation,
}

/// A key that asks for a node and waits for an operator. Its digits are not here: they are on the machine's console.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingKey {
    pub fingerprint: String,
    /// Where it asks from.
    pub address: IpAddr,
    pub since: Millis,
    /// When it asked last, to the minute.
    pub last: Millis,
    /// Its console shows six digits; where it does not, the key itself.
    pub shows_digits: bool,
    /// Somebody typed other digits: it waits for another boot of its machine, or for the key itself.
    pub is_spent: bool,
}

/// `POST /v1/nodes/NODE/approve`: how a person knows the machine. One of the three.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// By its key, as its console shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// By the six digits that its console shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digits: Option<String>,
    /// By power-cycling it, now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub press: bool,
}

/// What comes of it: a key that is let in when it asks again, or a boot that is waited for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approved {
    pub fingerprint: Option<String>,
    /// Until when the board may be power-cycled, and has to be up.
    pub until: Option<Millis>,
}

/// What tells a node's machine from another one, strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KnownBy {
    Tpm,
    Disk,
    Variable,
    Wire,
}

impl fmt::Display for KnownBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KnownBy::Tpm => "a key in its TPM",
            KnownBy::Disk => "a key on its data disk, in this machine",
            KnownBy::Variable => "a key in its UEFI",
            KnownBy::Wire => "its card's place on the wire, and nothing that it keeps",
        })
    }
}

/// Why a machine is where it is, as `bramble why`, the status page and the API tell it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// A short name of the cause, the same in every version: `offers-never-merged`.
    pub name: String,
    /// What it waits for, or the cause of its trouble.
    pub cause: String,
    /// What a person can do; `None` where waiting is right.
    pub advice: Option<String>,
    /// Seconds in this state.
    pub seconds: u64,
}

impl NodeStatus {
    /// The node's place in this engine, as it says; `None` where nothing has been heard of it.
    pub fn engine(&self, kind: EngineKind) -> Option<&EngineState> {
        self.health.as_ref().map(|health| health.engine(kind))
    }
}

/// One workload of the repository.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WorkloadStatus {
    pub name: Name,
    /// Deployed as the current snapshot has it.
    pub current: bool,
    /// What is wrong with its own file: what is deployed stays.
    #[serde(default)]
    pub problem: Option<String>,
    pub services: Vec<Service>,
    /// When the engine last said so.
    #[serde(default)]
    pub seen_at: Option<Millis>,
    /// Why that is not the present, and since when.
    #[serde(default)]
    pub stale: Option<Stale>,
}

impl WorkloadStatus {
    /// In a few words.
    pub fn state(&self, at: Millis) -> String {
        let before = match (&self.stale, self.services.is_empty()) {
            (Some(stale), _) => {
                format!("unknown for {} s: {}", at.saturating_sub(stale.since) / 1000, stale.reason)
            }
            (None, true) => "not deployed yet".into(),
            (None, false) if self.current => "as in the repository".into(),
            (None, false) => "being updated".into(),
        };
        match &self.problem {
            Some(problem) => format!("{before}; its file has an error: {problem}"),
            None => before,
        }
    }
}

/// What was seen before something could not be read any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stale {
    pub reason: String,
    pub since: Millis,
}

/// A machine that is not in the repository, with what it said of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub mac: Mac,
    /// Who made its network card, where that is known.
    #[serde(default)]
    pub vendor: Option<String>,
    pub firmware: String,
    /// Machine UUID (option 97), where it sent one.
    pub uuid: Option<String>,
    pub first: Millis,
    pub last: Millis,
    pub times: u64,
}

impl Seen {
    /// Why it does not boot.
    pub fn why(&self, now: Millis) -> Explanation {
        Explanation {
            name: "not-in-the-repository".into(),
            cause: format!("{} at {} asked to boot, and the repository does not have it", self.firmware, self.mac),
            advice: Some(format!(
                "`bramble adopt {}` has it say what it is, and writes its part of bramble.toml",
                self.mac
            )),
            seconds: now.saturating_sub(self.last) / 1000,
        }
    }
}

/// `GET /v1/events?after=N`: what has happened since, oldest first.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Events {
    pub events: Vec<Event>,
    /// Give this as `after` next time.
    pub next: u64,
}

/// `POST /v1/nodes/NAME/power`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PowerAction {
    On,
    Off,
    /// Off, and on again.
    Cycle,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Switched {
    Done,
    /// It has no switch but its button: a person has to press it. Its boot is expected until then.
    ByHand {
        until: Millis,
        /// Off, and on again.
        off_first: bool,
    },
}

impl Switched {
    /// What a person has to do, if anything, as one sentence.
    pub fn to_do(self, node: &Name, now: Millis) -> Option<String> {
        let Switched::ByHand { until, off_first } = self else { return None };
        let minutes = until.saturating_sub(now).div_ceil(60_000);
        let button = if off_first { "switch it off, and press" } else { "press" };
        Some(format!("{node}: {button} its power button; its boot is expected for {minutes} min"))
    }
}

/// A node's boot is expected until then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    pub until: Millis,
}

/// What a person or a program may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Look.
    Viewer,
    /// Look and change.
    Operator,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
        }
    }
}

impl std::str::FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "viewer" => Ok(Role::Viewer),
            "operator" => Ok(Role::Operator),
            _ => Err("expected viewer or operator".into()),
        }
    }
}

/// `POST /v1/login`.
#[derive(Clone, Serialize, Deserialize)]
pub struct Login {
    pub user: String,
    pub password: String,
}

/// The answer to [`Login`]: a token for the header `Authorization: Bearer TOKEN`.
#[derive(Clone, Serialize, Deserialize)]
pub struct LoggedIn {
    pub token: String,
    pub user: String,
    pub role: Role,
    pub until: Millis,
}

/// Who asks, as the head sees it. `GET /v1/me`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Me {
    pub name: String,
    pub role: Role,
}

/// `PUT /v1/users/NAME`. Of a user who is known, what is absent stays.
#[derive(Clone, Serialize, Deserialize)]
pub struct UserChange {
    pub password: Option<String>,
    pub role: Option<Role>,
}

/// A person who may log in with a password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserStatus {
    pub name: String,
    pub role: Role,
    pub since: Millis,
}

/// `POST /v1/tokens`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewToken {
    pub name: String,
    pub role: Role,
    /// Days that it is good for; `None` until it is removed.
    pub days: Option<u32>,
}

/// A token of a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenStatus {
    pub name: String,
    pub role: Role,
    pub since: Millis,
    pub until: Option<Millis>,
}

/// Someone who is logged in. `GET /v1/sessions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// The first digits of the hash that the head keeps: it lets nobody in.
    pub id: String,
    pub user: String,
    pub role: Role,
    /// 0 where a former release began it.
    pub since: Millis,
    pub until: Millis,
    /// The address that it was begun from; `None` where a former release began it.
    pub from: Option<String>,
    /// The account is another service's.
    pub elsewhere: bool,
    /// It is the one that asks.
    pub own: bool,
}

/// The header of an answer that lists records: how many more there are that cannot be read. Without it, none.
pub const LACKS: &str = "bramble-unreadable";

/// A record of the head's store that is there and cannot be read. `GET /v1/store/unreadable`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadableRecord {
    pub table: String,
    pub key: String,
    /// Why, and what to do, as a sentence.
    pub problem: String,
}

/// What was set aside. `POST /v1/store/repair`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repaired {
    /// On the head's machine, one for each table.
    pub files: Vec<String>,
    pub records: usize,
}

/// Any failure of the API: what was wrong, and what to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Problem {
    pub error: String,
    pub help: Option<String>,
    /// The repository that was asked for has errors.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unfit: bool,
}
