//! The boot timeline: what happened to a node and when, the one source for progress lines,
//! the status page, `bramble why` and the benchmarks.

use std::fmt;
use std::net::Ipv4Addr;

use bramble_boot::{Asker, Failure, File, Step, plain};
use serde::{Deserialize, Serialize};

use crate::names::{BootTag, Mac, Name};

/// Milliseconds since the Unix epoch.
pub type Millis = u64;

/// Where a node stands on its way to work, in order.
///
/// ```text
/// off ─▶ firmware ─▶ loader ─▶ kernel ─▶ root ─▶ system ─▶ agent ─▶ engine ─▶ ready
///                                          └────────── failed (and tries again) ◀──┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Nothing has been heard of it since it was switched off, or ever.
    Off,
    /// Switched on; its firmware runs.
    Firmware,
    /// It fetched a loader, or asks for its boot script.
    Loader,
    /// It fetches kernel and initrd, and starts them.
    Kernel,
    /// Stage 1 runs: drivers, network, layers.
    Root,
    /// The root is mounted and systemd starts.
    System,
    /// The agent speaks to the head.
    Agent,
    /// The agent is admitted; its engine is joining.
    Engine,
    Ready,
}

impl Phase {
    /// The phases a node passes, in order.
    pub const WAY: [Phase; 8] = [
        Phase::Firmware,
        Phase::Loader,
        Phase::Kernel,
        Phase::Root,
        Phase::System,
        Phase::Agent,
        Phase::Engine,
        Phase::Ready,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Off => "off",
            Phase::Firmware => "firmware",
            Phase::Loader => "loader",
            Phase::Kernel => "kernel",
            Phase::Root => "root",
            Phase::System => "system",
            Phase::Agent => "agent",
            Phase::Engine => "engine",
            Phase::Ready => "ready",
        }
    }
}

/// One entry of the timeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Counts up over the life of the head's store.
    pub number: u64,
    pub at: Millis,
    /// The node it concerns; `None` for a machine that is not in the repository.
    pub node: Option<Name>,
    pub what: What,
}

/// The longest text of an event, in bytes.
pub const LONGEST_TEXT: usize = 1024;

impl Event {
    /// Bytes that it takes in memory.
    pub fn weight(&self) -> usize {
        let texts: usize = self.what.clone().texts().into_iter().flatten().map(|text| text.len()).sum();
        size_of::<Event>() + texts
    }
}

/// What happened. Seen from outside (packets, reads) or reported by the node itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum What {
    PowerOn,
    PowerOff,
    /// A boot client asked for an address or a boot file; `firmware` says what it is.
    Asked {
        mac: Mac,
        #[serde(with = "word")]
        firmware: Asker,
    },
    /// A machine that the repository does not know asked, and got nothing to boot.
    SeenUnknown {
        mac: Mac,
        #[serde(with = "word")]
        firmware: Asker,
    },
    /// The node was offered a boot file.
    Offered {
        file: String,
    },
    /// Its first request that arrived says that it has been asking for so long.
    HeardLate {
        seconds: u16,
    },
    /// Its firmware took an address from another server.
    Chose {
        server: Ipv4Addr,
    },
    /// It was given an address.
    Leased {
        address: Ipv4Addr,
    },
    /// Its firmware asked the boot server's port, 4011.
    AskedBootServer,
    /// Its firmware looked for the head's hardware address (ARP): it means to fetch something.
    LookedForHead {
        address: Ipv4Addr,
    },
    /// Nothing here can boot its firmware.
    NoLoader {
        #[serde(with = "word")]
        firmware: Asker,
    },
    /// A file left by TFTP.
    TftpSent {
        file: String,
        bytes: u64,
    },
    /// A loader left by HTTP.
    HttpSent {
        file: String,
        bytes: u64,
    },
    /// Its firmware asked for a file that is not there.
    TftpMissing {
        file: String,
    },
    /// A transfer over TFTP ended early: the client gave up, or fell silent.
    TftpStopped {
        file: String,
        /// Bytes that had arrived.
        at: u64,
        of: u64,
        /// Bytes of a block, and whether the client had agreed to them.
        block: u32,
        agreed: bool,
        #[serde(with = "word")]
        reason: Stopped,
    },
    /// Someone asked for its boot, and was given nothing: not the machine, as far as the head can tell.
    NotGiven {
        reason: String,
    },
    /// The node fetched the script of a new boot.
    ScriptServed {
        boot: BootTag,
        set: String,
    },
    /// The node started to fetch this file of its boot set.
    Fetching {
        #[serde(with = "word")]
        file: File,
        bytes: u64,
    },
    /// Its loader says which network card it uses: vendor and device number on PCI, in hex.
    Card {
        pci: String,
    },
    /// The node was given what another system boots with.
    HandedOff {
        profile: Name,
    },
    /// The node was told to boot its disk.
    BootsDisk,
    /// The node's other system says that it is installed.
    Installed,
    /// Stage 1 reports a step.
    Stage1 {
        #[serde(with = "word")]
        step: Step,
        percent: Option<u8>,
    },
    /// Stage 1 or the agent could not go on. It says why, and when it tries again.
    Failed {
        reason: String,
        retry_in_seconds: u64,
        /// `None` from the agent, and from a stage 1 of before there were kinds.
        #[serde(default, skip_serializing_if = "Option::is_none", with = "word::optional")]
        failure: Option<Failure>,
    },
    /// The agent of this boot was given a certificate for this key.
    Admitted {
        fingerprint: String,
    },
    /// An agent was refused.
    Refused {
        reason: String,
    },
    /// An agent asks to be let in, and waits for an operator who knows its key.
    Waits {
        fingerprint: String,
        reason: String,
        /// Its console shows six digits of its key, and not the key.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        digits: bool,
    },
    /// Its agent came, and it and the head do not speak the same.
    OtherRelease {
        reason: String,
    },
    /// An agent's TLS handshake failed.
    TlsFailed {
        reason: String,
        /// A certificate is not valid yet, or not any more: one of the two clocks is off.
        #[serde(default)]
        clock: bool,
    },
    Connected,
    Disconnected {
        reason: String,
    },
    Engine {
        state: String,
        /// It waits for nothing of its own any more, only for its cluster.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        up: bool,
    },
    Ready,
    Note {
        text: String,
    },
}

/// Why a transfer ended early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stopped {
    /// Nothing more was heard of the client.
    Silent,
    /// The client said that it goes no further, and why.
    GaveUp(String),
}

const SILENT: &str = "silent";
const GAVE_UP: &str = "the client gave up: ";

impl From<&str> for Stopped {
    fn from(text: &str) -> Self {
        match text {
            SILENT => Stopped::Silent,
            other => Stopped::GaveUp(other.strip_prefix(GAVE_UP).unwrap_or(other).to_owned()),
        }
    }
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stopped::Silent => f.write_str(SILENT),
            Stopped::GaveUp(reason) => write!(f, "{GAVE_UP}{reason}"),
        }
    }
}

/// Words as text: an unknown one is kept as it is.
mod word {
    use std::fmt::Display;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(word: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(word)
    }

    pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: for<'a> From<&'a str>,
        D: Deserializer<'de>,
    {
        Ok(T::from(&String::deserialize(deserializer)?))
    }

    pub(super) mod optional {
        use super::{Deserialize, Deserializer, Display, Serializer};

        pub(in super::super) fn serialize<S: Serializer>(
            word: &Option<impl Display>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            match word {
                Some(word) => serializer.collect_str(word),
                None => serializer.serialize_none(),
            }
        }

        pub(in super::super) fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
        where
            T: for<'a> From<&'a str>,
            D: Deserializer<'de>,
        {
            Ok(Option::<String>::deserialize(deserializer)?.map(|word| T::from(&word)))
        }
    }
}

impl What {
    /// The texts in it whose length and letters others choose; the words beside them are bounded by themselves.
    fn texts(&mut self) -> [Option<&mut String>; 2] {
        match self {
            What::Offered { file }
            | What::TftpSent { file, .. }
            | What::HttpSent { file, .. }
            | What::TftpMissing { file }
            | What::TftpStopped { file, reason: Stopped::Silent, .. } => [Some(file), None],
            What::TftpStopped { file, reason: Stopped::GaveUp(reason), .. } => [Some(file), Some(reason)],
            What::NotGiven { reason }
            | What::Failed { reason, .. }
            | What::Refused { reason }
            | What::OtherRelease { reason }
            | What::TlsFailed { reason, .. }
            | What::Disconnected { reason } => [Some(reason), None],
            What::ScriptServed { boot: BootTag(boot), set } => [Some(boot), Some(set)],
            What::Card { pci } => [Some(pci), None],
            What::Admitted { fingerprint } => [Some(fingerprint), None],
            What::Waits { fingerprint, reason, .. } => [Some(fingerprint), Some(reason)],
            What::Engine { state, .. } => [Some(state), None],
            What::Note { text } => [Some(text), None],
            What::PowerOn
            | What::PowerOff
            | What::Asked { .. }
            | What::SeenUnknown { .. }
            | What::HeardLate { .. }
            | What::Chose { .. }
            | What::Leased { .. }
            | What::AskedBootServer
            | What::LookedForHead { .. }
            | What::NoLoader { .. }
            | What::Fetching { .. }
            | What::HandedOff { .. }
            | What::BootsDisk
            | What::Installed
            | What::Stage1 { .. }
            | What::Connected
            | What::Ready => [None, None],
        }
    }

    /// With each of its texts as a plain line of at most [`LONGEST_TEXT`] bytes, wherever it comes from.
    pub fn plain(mut self) -> Self {
        for text in self.texts().into_iter().flatten() {
            *text = plain::line(text, LONGEST_TEXT);
        }
        self
    }

    /// The phase that a node enters with this event, if it enters one.
    pub fn phase(&self) -> Option<Phase> {
        Some(match self {
            What::PowerOff => Phase::Off,
            What::PowerOn | What::Asked { .. } => Phase::Firmware,
            What::TftpSent { .. } | What::HttpSent { .. } | What::ScriptServed { .. } => Phase::Loader,
            What::Fetching { file: File::Kernel, .. } => Phase::Kernel,
            What::Stage1 { step: Step::SwitchRoot, .. } => Phase::System,
            What::Stage1 { .. } => Phase::Root,
            What::Connected | What::Waits { .. } => Phase::Agent,
            What::Engine { .. } => Phase::Engine,
            What::Ready => Phase::Ready,
            What::HandedOff { .. } => Phase::Kernel,
            What::BootsDisk => Phase::Ready,
            What::SeenUnknown { .. }
            | What::Offered { .. }
            | What::HeardLate { .. }
            | What::Chose { .. }
            | What::Leased { .. }
            | What::AskedBootServer
            | What::LookedForHead { .. }
            | What::NoLoader { .. }
            | What::NotGiven { .. }
            | What::TftpMissing { .. }
            | What::TftpStopped { .. }
            | What::Card { .. }
            | What::Installed
            | What::TlsFailed { .. }
            | What::OtherRelease { .. }
            | What::Fetching { .. }
            | What::Failed { .. }
            | What::Admitted { .. }
            | What::Refused { .. }
            | What::Disconnected { .. }
            | What::Note { .. } => return None,
        })
    }

    /// One line for people.
    pub fn sentence(&self) -> String {
        match self {
            What::PowerOn => "power on".into(),
            What::PowerOff => "power off".into(),
            What::Asked { mac, firmware } => format!("{firmware} at {mac} asks to boot"),
            What::SeenUnknown { mac, firmware } => {
                format!("{firmware} at {mac} is not in the repository and gets nothing to boot")
            }
            What::Offered { file } if file.is_empty() => "offered this boot server".into(),
            What::Offered { file } => format!("offered {file}"),
            What::HeardLate { seconds } => format!("has been asking for {seconds} s before anything arrived here"),
            What::Chose { server } => format!("took its address from {server}"),
            What::Leased { address } => format!("has address {address}"),
            What::AskedBootServer => "asked the boot server (port 4011)".into(),
            What::LookedForHead { address } => format!("looks for the head, from {address}"),
            What::NoLoader { firmware } => format!("nothing here boots {firmware}"),
            What::NotGiven { reason } => format!("its boot was asked for and not given: {reason}"),
            What::HttpSent { file, bytes } => format!("fetched {file} over HTTP, {bytes} bytes"),
            What::TftpSent { file, bytes } => format!("fetched {file} over TFTP, {bytes} bytes"),
            What::TftpMissing { file } => format!("asked for {file}, which is not there"),
            What::TftpStopped { file, at, of, reason, .. } => {
                format!("stopped fetching {file} at {at} of {of} bytes: {reason}")
            }
            What::Card { pci } => format!("boots from network card {pci} (PCI)"),
            What::HandedOff { profile } => format!("handed over to {profile}"),
            What::BootsDisk => "told to boot its disk".into(),
            What::Installed => "says that it is installed".into(),
            What::TlsFailed { reason, .. } => format!("its agent and the head do not agree on TLS: {reason}"),
            What::OtherRelease { reason } => reason.clone(),
            What::ScriptServed { set, .. } => format!("boots set {set}"),
            What::Fetching { file, bytes } => format!("fetches {file}, {bytes} bytes"),
            What::Stage1 { step, percent: Some(percent) } => format!("stage 1: {step} {percent} %"),
            What::Stage1 { step, percent: None } => format!("stage 1: {step}"),
            What::Failed { reason, retry_in_seconds: 0, .. } => format!("failed: {reason}"),
            What::Failed { reason, retry_in_seconds, .. } => {
                format!("failed: {reason}; tries again in {retry_in_seconds} s")
            }
            What::Admitted { fingerprint } => format!("admitted with key {fingerprint}"),
            What::Refused { reason } => format!("refused: {reason}"),
            What::Waits { fingerprint, reason, .. } => format!("waits to be let in with key {fingerprint}: {reason}"),
            What::Connected => "agent connected".into(),
            What::Disconnected { reason } => format!("agent disconnected: {reason}"),
            What::Engine { state, .. } => format!("engine: {state}"),
            What::Ready => "ready".into(),
            What::Note { text } => text.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Events that the head of commit 5b09a28 stored.
    #[test]
    fn former_events_are_read_and_written_as_they_were() {
        for (text, phase) in [
            (r#"{"kind":"asked","mac":"52:54:00:00:00:01","firmware":"UEFI x64 PXE"}"#, Some(Phase::Firmware)),
            (r#"{"kind":"seen-unknown","mac":"52:54:00:00:00:01","firmware":"GRUB"}"#, None),
            (r#"{"kind":"no-loader","firmware":"firmware of architecture 5"}"#, None),
            (r#"{"kind":"fetching","file":"kernel","bytes":9}"#, Some(Phase::Kernel)),
            (r#"{"kind":"fetching","file":"site","bytes":9}"#, None),
            (r#"{"kind":"stage1","step":"root","percent":60}"#, Some(Phase::Root)),
            (r#"{"kind":"stage1","step":"switch-root","percent":null}"#, Some(Phase::System)),
            (r#"{"kind":"stage1","step":"decrypt","percent":null}"#, Some(Phase::Root)),
            (r#"{"kind":"failed","reason":"no link","retry_in_seconds":4}"#, None),
            (r#"{"kind":"tftp-stopped","file":"f","at":0,"of":9,"block":512,"agreed":true,"reason":"silent"}"#, None),
            (
                r#"{"kind":"tftp-stopped","file":"f","at":0,"of":9,"block":512,"agreed":true,"reason":"the client gave up: x"}"#,
                None,
            ),
        ] {
            let what: What = serde_json::from_str(text).expect(text);
            assert_eq!(what.phase(), phase, "{text}");
            assert_eq!(serde_json::to_string(&what).expect("plain data"), text);
        }
        let former: What = serde_json::from_str(r#"{"kind":"tls-failed","reason":"x"}"#).expect("read");
        assert_eq!(former, What::TlsFailed { reason: "x".into(), clock: false });
    }

    /// What a machine says never moves it: only the step does.
    #[test]
    fn a_sentence_decides_no_phase() {
        let failed = What::Failed { reason: "switch-root: ready".into(), retry_in_seconds: 1, failure: None };
        assert_eq!(failed.phase(), None);
        let failed = What::Failed { failure: Some(Failure::Digest), reason: String::new(), retry_in_seconds: 1 };
        let text = serde_json::to_string(&failed).expect("plain data");
        assert_eq!(text, r#"{"kind":"failed","reason":"","retry_in_seconds":1,"failure":"digest"}"#);
        assert_eq!(serde_json::from_str::<What>(&text).expect("read"), failed);
    }
}
