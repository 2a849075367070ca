//! What head and agent say to each other over their one connection: JSON, one message a line,
//! over mutual TLS. The agent dials; the head asks; every question has a number and one answer.
//!
//! Both sides may be of another release. What is not known is answered [`Answer::CannotDo`], or dropped, and ends no
//! connection. New fields may be absent, and a new message goes only to whoever said that it speaks that version.
//! Version 1 is what commit 5b09a28 speaks: it says no version, and ends at a message that it does not know. What an
//! engine is asked is in a module of its own.

use std::fmt;

mod form;
mod heard;
pub mod swarm;
#[cfg(test)]
mod version_1;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use heard::{Heard, Waits};

use crate::engine::{ByEngine, DockerSettings, EngineKind, EnginePart, EngineState};
use crate::firewall::Firewall;
use crate::hands::{FromProcess, Start, ToProcess};
use crate::names::{BootId, Bytes, Digest, Mac, Name};
use crate::said::{self, Sentence, Title, Word};

/// The longest line that either side accepts, in bytes. A workload travels in one line.
pub const LONGEST_LINE: usize = 4 << 20;

/// What makes one image serve every node. Fetched over TLS by an admitted agent only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "form::Document", into = "form::Document")]
pub struct NodeDocument {
    pub hostname: Name,
    pub domain: String,
    pub role: Name,
    /// Its part in each engine that it has one in.
    pub engines: ByEngine<EnginePart>,
    /// Public SSH keys that may log in as root.
    pub ssh_keys: Vec<String>,
    /// NTP servers; empty keeps the distribution's.
    pub time_servers: Vec<String>,
    /// The life of the head's store, signed; absent from a head of version 1.
    pub life: Option<SignedLife>,
    /// How its Docker treats containers, where it has a part in the Swarm. Absent from a head of before.
    pub docker: Option<DockerSettings>,
    /// What it lets in. Absent from a head of before: then everything.
    pub firewall: Option<Firewall>,
}

/// Versions of this protocol that a side speaks, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    pub from: u32,
    pub to: u32,
}

impl Versions {
    /// What this program speaks.
    pub const OWN: Versions = Versions { from: 1, to: 2 };

    /// Whether the two have a version in common.
    pub fn meets(self, other: Versions) -> bool {
        self.from <= other.to && other.from <= self.to
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "versions {} to {}", self.from, self.to)
    }
}

impl Default for Versions {
    /// Of a side that says nothing of versions.
    fn default() -> Self {
        Versions { from: 1, to: 1 }
    }
}

/// Something that not every agent, or not every head, can do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Capability {
    /// An agent refuses what comes from an older lead, or was planned from something else than it sees. A head says both.
    Fences,
    /// It leaves a Swarm that is named, and no other.
    LeavesByName,
    /// It knows [`ToAgent::Beat`], and ends a connection over which no more of them come.
    HearsBeats,
    /// It looks at a member of its Swarm before it changes or removes it: it knows [`Expects::Member`].
    SeesMembers,
    /// It knows [`swarm::Work::RotateManagerToken`].
    RotatesTokens,
    /// An agent cleans what it lists as the head cleans what it reads, so that both see the same ([`said::Said`]).
    ListsPlainly,
    /// It knows [`ToAgent::Ready`], and remembers the boot sets that its machine was ready with.
    RemembersReady,
    /// An agent knows what [`swarm::Work::Deploy`] says of encrypted networks.
    EncryptsNetworks,
    /// A head signs a node's SSH host key: it knows [`FromAgent::SshHostKey`].
    SignsHostKeys,
    /// An agent knows [`ToAgent::Trust`], and asks to be let in anew where the head does not know its certificate's CA.
    TakesRoots,
    /// One that this program does not know.
    #[serde(untagged)]
    Other(Word),
}

impl Capability {
    /// What this program's agent can do.
    pub const OWN: [Capability; 9] = [
        Capability::Fences,
        Capability::LeavesByName,
        Capability::HearsBeats,
        Capability::SeesMembers,
        Capability::RotatesTokens,
        Capability::ListsPlainly,
        Capability::RemembersReady,
        Capability::EncryptsNetworks,
        Capability::TakesRoots,
    ];
    /// What this program's head can do.
    pub const OF_HEAD: [Capability; 2] = [Capability::Fences, Capability::SignsHostKeys];
}

/// Who leads: a later one is greater, always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fence {
    /// The life of the head's store.
    pub life: u64,
    /// Counts up with each lead in it.
    pub number: u64,
}

/// What a plan saw, and whoever performs its step has to see, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "saw", rename_all = "kebab-case")]
pub enum Expects {
    /// The node's own place in the engine.
    Engine { state: EngineState },
    /// The workload's services, and the one generation that all of them have.
    Generation {
        workload: Name,
        generation: Option<swarm::Label>,
        /// They are of several. Where there is no generation, that tells them from none; a head of before did not say it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        several: Option<bool>,
    },
    /// A member of the Swarm, as it lists it.
    Member { member: swarm::Member },
}

impl Expects {
    /// What an agent has to be able to do to read it. One that cannot would not know the question with it.
    pub fn needs(&self) -> Option<Capability> {
        match self {
            // Whoever lists it as it was written would see something else.
            Expects::Member { member } if member.hostname.was_changed() => Some(Capability::ListsPlainly),
            Expects::Generation { generation: Some(swarm::Label::Other(label)), .. } if label.was_changed() => {
                Some(Capability::ListsPlainly)
            }
            Expects::Engine { .. } | Expects::Generation { .. } => None,
            Expects::Member { .. } => Some(Capability::SeesMembers),
        }
    }

    /// Whether what is seen now is what the plan saw.
    pub fn is_met_by(&self, now: &Expects) -> bool {
        match (self, now) {
            (
                Expects::Generation { workload, generation, several: None },
                Expects::Generation { workload: own, generation: there, .. },
            ) => workload == own && generation == there,
            (expected, now) => expected == now,
        }
    }
}

/// In whose lead something is asked, and what the plan saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Under {
    pub fence: Fence,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expects: Option<Expects>,
}

/// The life of the head's store, signed by the cluster's CA: an agent obeys the newest that was signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedLife {
    pub life: u64,
    /// As in [`SignedTime::signature`], of [`SignedLife::message`].
    pub signature: String,
}

impl SignedLife {
    /// What is signed. No time is signed that begins like this.
    pub fn message(life: u64) -> String {
        format!("bramble: the head's store is in its life {life}")
    }
}

/// An agent refuses the lead of the head that it is connected to: its node obeys another life of that head's store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Refuses {
    /// The life that the head says.
    pub life: u64,
    /// The one that the node obeys; 0 where it knows none.
    pub obeys: u64,
}

impl fmt::Display for Refuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refuses { life, obeys } = self;
        write!(f, "it refuses this head's lead: the head's store is in life {life}, and the node obeys life {obeys}")
    }
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
    /// Where it keeps the key of that; an agent of an earlier release does not say.
    #[serde(default, skip_serializing_if = "Keeps::is_unsaid")]
    pub keeps: Keeps,
    /// It shows the six digits of its key, where it is told what they are made of (`crate::digits`); one of an earlier
    /// release shows the key's own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shows_digits: bool,
}

/// What an agent's request for a certificate is bound to: the TLS connection over which it is said, by what both ends of that
/// alone can make (RFC 9266, `tls-exporter`). It is in the request as its challenge (RFC 7030, section 3.5), in hex, so that
/// the key's own signature is over it: a request that somebody has seen is worth nothing over another connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding(pub [u8; 32]);

impl Binding {
    /// By which TLS makes it, with no context.
    pub const LABEL: &[u8] = b"EXPORTER-Channel-Binding";
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Where a machine keeps its key, as its agent says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "in", rename_all = "kebab-case")]
pub enum Keeps {
    #[default]
    Unsaid,
    /// In memory: it is another one at the next boot.
    Nothing,
    /// In a variable of its UEFI.
    Variable,
    /// On its data disk, which is in the machine with these cards and this UUID or serial number.
    Disk { cards: Vec<Mac>, board: Option<String> },
    /// In its TPM 2.0: the public areas (TPMT_PUBLIC) of its endorsement key and of the key.
    Tpm { endorsement: Bytes, key: Bytes },
    /// In a way that this program does not know.
    #[serde(other)]
    Unknown,
}

impl Keeps {
    fn is_unsaid(&self) -> bool {
        *self == Keeps::Unsaid
    }
}

/// The head's answer to an agent that may be let in when its key is in the TPM that it names: a secret that only that one
/// gives out. The agent answers with a [`Proof`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prove {
    /// TPMS_ID_OBJECT.
    pub credential: Bytes,
    /// TPMS_ECC_POINT, by which the TPM finds the key of that.
    pub secret: Bytes,
}

/// What was in a credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    pub proof: Bytes,
}

/// The head's answer to [`EnrolRequest`] and to a renewal.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Enrolled {
    /// X.509, PEM; after it what leads from it to the CA, where that did not sign it itself. An agent of before reads the
    /// first alone.
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
        #[serde(deserialize_with = "said::boot")]
        boot: BootId,
        version: Word,
        facts: Facts,
        #[serde(default)]
        protocol: Versions,
        #[serde(default, deserialize_with = "said::few::<64, _, _>")]
        capabilities: Vec<Capability>,
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
    /// Asks for a certificate of its SSH server's key, where the head says [`Capability::SignsHostKeys`]. Whom that is for,
    /// the head knows.
    SshHostKey {
        /// A line of a `.pub` file of OpenSSH.
        key: Title,
    },
    /// After [`ToAgent::Trust`]: the CAs that it trusts now, by the SHA-256 of their certificates.
    Trusts {
        #[serde(deserialize_with = "said::few::<8, _, _>")]
        roots: Vec<Digest>,
    },
    /// A message that this program does not know.
    #[serde(other, skip_serializing)]
    Unknown,
}

/// A certificate of a node's SSH server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostCertificate {
    /// A line of a `-cert.pub` file of OpenSSH.
    pub certificate: String,
    /// Milliseconds since the epoch at which the agent should ask again: two thirds of its life.
    pub renew_at: u64,
}

/// From the head to the agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ToAgent {
    /// First on every connection with an agent that speaks version 2; one that does not know it passes over it.
    Hello {
        version: String,
        protocol: Versions,
        #[serde(default)]
        capabilities: Vec<Capability>,
    },
    Document(NodeDocument),
    Ask {
        number: u64,
        work: Work,
        /// Absent from a head of version 1, and where nothing is changed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        under: Option<Under>,
    },
    Renewed(Box<Enrolled>),
    /// The answer to [`FromAgent::SshHostKey`]; there is none where the head gives no certificate.
    SshHostCertificate(HostCertificate),
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
    /// The head is there. Said every ten seconds to agents that know it: one that has heard it and hears nothing for
    /// thirty takes the head for lost.
    Beat,
    /// The node is ready, with the boot set that it runs. Said to agents that remember that.
    Ready,
    /// The cluster's CAs (X.509, PEM, one after the other): the agent trusts these and no others from now on, for as long as
    /// its machine runs. Said at each beginning, and when they change, to agents that know it.
    Trust {
        roots: String,
        /// As in [`SignedTime::signature`], of [`crate::ca::message`], by the first of them: a list that no CA has signed
        /// that the agent trusts already is not taken.
        #[serde(default)]
        signature: String,
    },
    /// A message that this program does not know.
    #[serde(other, skip_serializing)]
    Unknown,
}

/// What the machine is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    pub kernel: Word,
    pub architecture: Word,
    #[serde(deserialize_with = "said::number::processors_of")]
    pub cpus: u32,
    /// Bytes.
    #[serde(deserialize_with = "said::number::bytes_of")]
    pub memory: u64,
    /// The boot set that runs, by digest.
    pub set: Word,
    /// The address it reaches the head from.
    pub address: std::net::IpAddr,
}

/// How the node is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "form::Health", into = "form::Health")]
pub struct Health {
    /// Seconds since its kernel started.
    pub uptime: u64,
    /// Share of its processors that worked since the last report, in percent.
    pub busy: u8,
    /// Processes that ran or waited for a processor, over the last minute.
    pub load: f32,
    /// The hottest sensor, in degrees Celsius; `None` where there is none.
    pub temperature: Option<i16>,
    /// Bytes free for new work.
    pub memory_available: u64,
    /// Bytes free where the node and its engines keep their data: in the fullest of `/var` and the engines' own folders;
    /// `None` where that cannot be asked.
    pub disk_available: Option<u64>,
    /// Processes that the kernel has killed for want of memory since it started.
    pub killed_for_memory: u64,
    /// Resident bytes of the agent itself.
    pub agent_resident: u64,
    /// Each engine that the node has a part in.
    pub engines: ByEngine<EngineState>,
    /// It refuses what this head says of the node, and what it asks for.
    pub refuses: Option<Refuses>,
}

impl Health {
    /// The node's place in this engine.
    pub fn engine(&self, kind: EngineKind) -> &EngineState {
        self.engines.of(kind).unwrap_or(&EngineState::None)
    }
}

/// What the head asks of an agent: a question to one of the node's engines. Each can be asked twice.
///
/// On the wire a question to another engine than the Swarm says which one, in `engine`; version 1 knows the Swarm
/// alone, and so its questions say nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    Swarm(swarm::Work),
    /// To an engine that this program does not know.
    Unknown,
}

impl Work {
    /// Whether it only looks.
    pub fn only_looks(&self) -> bool {
        match self {
            Work::Swarm(work) => work.only_looks(),
            Work::Unknown => true,
        }
    }

    /// What an agent has to be able to do to be asked this. One that cannot passes over what it does not know of the
    /// question, and does something else.
    pub fn needs(&self) -> Option<Capability> {
        match self {
            Work::Swarm(work) => work.needs(),
            Work::Unknown => None,
        }
    }
}

impl From<swarm::Work> for Work {
    fn from(work: swarm::Work) -> Self {
        Work::Swarm(work)
    }
}

impl Serialize for Work {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Work::Swarm(work) => work.serialize(to),
            Work::Unknown => Err(serde::ser::Error::custom("a question that nobody knows is asked of nobody")),
        }
    }
}

impl<'de> Deserialize<'de> for Work {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let written = serde_json::Value::deserialize(from)?;
        let kind = match written.get("engine") {
            None => Some(EngineKind::Swarm),
            Some(name) => name.as_str().and_then(EngineKind::named),
        };
        match kind {
            Some(EngineKind::Swarm) => {
                serde_json::from_value(written).map(Work::Swarm).map_err(serde::de::Error::custom)
            }
            None => Ok(Work::Unknown),
        }
    }
}

/// An agent's answer to [`Work`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Answer {
    Done,
    Failed {
        error: Sentence,
    },
    /// The agent does not know this question.
    CannotDo,
    /// It sees something else than the plan saw, or obeys a later lead. Nothing was done.
    Refused {
        why: Sentence,
    },
    /// What the Swarm alone answers.
    #[serde(untagged)]
    Swarm(swarm::Reply),
    /// An answer that this program does not know.
    #[serde(untagged, skip_serializing)]
    Unknown(IgnoredAny),
}

impl Answer {
    /// What came cannot be read.
    pub const UNKNOWN: Answer = Answer::Unknown(IgnoredAny);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_no_error() {
        let ask =
            r#"{"type":"ask","number":7,"work":{"do":"levitate","height":3},"under":{"fence":{"life":1,"number":2}}}"#;
        assert!(matches!(
            serde_json::from_str(ask),
            Ok(ToAgent::Ask { number: 7, work: Work::Swarm(swarm::Work::Unknown), under: Some(_) })
        ));
        let ask = r#"{"type":"ask","number":7,"work":{"engine":"orchestra","do":"tune"}}"#;
        assert!(matches!(serde_json::from_str(ask), Ok(ToAgent::Ask { number: 7, work: Work::Unknown, under: None })));
        assert!(matches!(serde_json::from_str(r#"{"type":"sing","song":[1]}"#), Ok(ToAgent::Unknown)));
        assert!(matches!(serde_json::from_str(r#"{"type":"sing","song":[1]}"#), Ok(FromAgent::Unknown)));
        let answer = r#"{"type":"answer","number":7,"answer":{"is":"floating","height":3}}"#;
        assert!(matches!(
            serde_json::from_str(answer),
            Ok(FromAgent::Answer { number: 7, answer: Answer::Unknown(_) })
        ));
        let capabilities: Vec<Capability> = serde_json::from_str(r#"["fences","teleports"]"#).expect("a list");
        assert_eq!(capabilities, [Capability::Fences, Capability::Other("teleports".into())]);
        // What is new in this release is as unknown to the one before, and so is asked only of whoever says that it can.
        let rotate = Work::from(swarm::Work::RotateManagerToken { cluster: "c".parse().expect("an id") });
        assert_eq!(
            serde_json::to_string(&rotate).expect("plain data"),
            r#"{"do":"rotate-manager-token","cluster":"c"}"#
        );
        assert_eq!(rotate.needs(), Some(Capability::RotatesTokens));
        assert_eq!(serde_json::to_string(&Capability::RotatesTokens).expect("plain data"), r#""rotates-tokens""#);
        let deploy = |encrypted| {
            let (name, generation) = ("web".parse().expect("a name"), "1f0a".parse().expect("a generation"));
            Work::from(swarm::Work::Deploy { name, generation, file: String::new(), encrypted })
        };
        assert_eq!(
            serde_json::to_string(&deploy(false)).expect("plain data"),
            r#"{"do":"deploy","name":"web","generation":"1f0a","file":""}"#,
            "as the release before says it"
        );
        assert_eq!((deploy(false).needs(), deploy(true).needs()), (None, Some(Capability::EncryptsNetworks)));
    }
    /// A side of version 1 reads of the Swarm alone, and is understood where it says of nothing else.
    #[test]
    fn engines_are_told_so_that_version_1_finds_the_swarm() {
        let old = r#"{"uptime":7,"memory_available":1,"agent_resident":2,"engine":{"state":"alone"}}"#;
        let health: Health = serde_json::from_str(old).expect("readable");
        assert_eq!(health.engine(EngineKind::Swarm), &EngineState::Alone);
        let told = serde_json::to_value(&health).expect("plain data");
        assert_eq!(told["engine"]["state"], "alone");
        assert_eq!(told["engines"]["swarm"]["state"], "alone");
        assert_eq!(serde_json::from_value::<Health>(told).expect("readable"), health);
        let none = r#"{"uptime":7,"memory_available":1,"agent_resident":2,"engine":{"state":"none"}}"#;
        let told = |disk_available| {
            let health = Health { disk_available, ..health.clone() };
            let told = serde_json::to_value(&health).expect("plain data");
            assert_eq!(serde_json::from_value::<Health>(told.clone()).expect("readable"), health);
            told.get("disk_available").cloned()
        };
        // What is absent is 0 to version 1, and unknown there; `null` would not be a message.
        assert_eq!((health.disk_available, told(None)), (None, None));
        assert_eq!(told(Some(0)), Some(0.into()), "a full disk is no unknown one");
        assert!(serde_json::from_str::<Health>(none).expect("readable").engines.is_empty());
        for refuses in [None, Some(Refuses { life: 100, obeys: 200 })] {
            let health = Health { refuses, ..health.clone() };
            let told = serde_json::to_value(&health).expect("plain data");
            assert_eq!(told.get("refuses").is_some(), refuses.is_some(), "{told}");
            assert_eq!(serde_json::from_value::<Health>(told).expect("readable"), health);
        }

        let document = NodeDocument {
            hostname: "m1".parse().expect("a name"),
            domain: "home.arpa".into(),
            role: "manager".parse().expect("a name"),
            engines: [(EngineKind::Swarm, EnginePart::Manager)].into_iter().collect(),
            ssh_keys: Vec::new(),
            time_servers: Vec::new(),
            life: None,
            docker: None,
            firewall: None,
        };
        let told = serde_json::to_value(&document).expect("plain data");
        assert_eq!(told["part"], "manager");
        assert_eq!(serde_json::from_value::<NodeDocument>(told).expect("readable"), document);
        let docker = Some(DockerSettings { no_new_privileges: Some(true), userns_remap: None });
        for firewall in [Firewall::Off, Firewall::On(crate::firewall::Rules::default())] {
            let document = NodeDocument { docker, firewall: Some(firewall), ..document.clone() };
            let told = serde_json::to_value(&document).expect("plain data");
            assert_eq!(serde_json::from_value::<NodeDocument>(told).expect("readable"), document);
        }
        let old = r#"{"hostname":"m1","domain":"d","role":"r","part":"worker","ssh_keys":[],"time_servers":[]}"#;
        let document: NodeDocument = serde_json::from_str(old).expect("readable");
        assert_eq!((document.docker, &document.firewall), (None, &None), "a head of before says nothing of them");
        assert_eq!(document.engines.of(EngineKind::Swarm), Some(&EnginePart::Worker));
    }
}
