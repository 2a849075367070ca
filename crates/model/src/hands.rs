//! Remote hands: processes on nodes that nobody logs in to. What the command line says to the head over a
//! WebSocket (`GET /v1/hands`), and the head to an agent over its connection.
//!
//! ```text
//! bramble ──Request──▶ head ──Start──▶ agent ──▶ process
//!         ◀──Told────       ◀─Output──
//! ```
//! Output and input have a window each: whoever sends has at most so many bytes on the way, so that a process
//! that prints without end fills no memory, and holds up nothing else on the agent's connection.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::names::Name;
use crate::said::Sentence;

/// Bytes of output, or of input, that may be on their way before the other side says that there is room.
pub const WINDOW: u64 = 256 << 10;
/// The longest piece of output or input, in bytes.
pub const PIECE: usize = 32 << 10;

/// Bytes, in JSON as base64.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Data(pub Vec<u8>);

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Data {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        STANDARD.decode(text.as_bytes()).map(Data).map_err(|_| serde::de::Error::custom("expected bytes in base64"))
    }
}

/// A terminal's size, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    pub columns: u16,
    pub rows: u16,
}

/// What is to be done on nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Errand {
    /// Run a program; `input` says whether something will be sent to it.
    Exec {
        argv: Vec<String>,
        input: bool,
    },
    /// A shell on a terminal.
    Shell {
        term: String,
        size: Size,
    },
    /// The journal, of a unit or of all.
    Logs {
        unit: Option<String>,
        follow: bool,
        lines: u32,
    },
    /// A file or folder, as a tar archive on the output.
    Fetch {
        path: String,
    },
    /// A tar archive with one entry, `name`, on the input: to `path`, or into it where that is a folder.
    Place {
        path: String,
        name: String,
    },
    Reboot,
    Halt,
}

impl Errand {
    /// In one line, for the audit log.
    pub fn sentence(&self) -> String {
        match self {
            Errand::Exec { argv, .. } => format!("exec {}", argv.join(" ")),
            Errand::Shell { .. } => "shell".into(),
            Errand::Logs { unit: Some(unit), .. } => format!("logs {unit}"),
            Errand::Logs { unit: None, .. } => "logs".into(),
            Errand::Fetch { path } => format!("cp from {path}"),
            Errand::Place { path, name } => format!("cp {name} to {path}"),
            Errand::Reboot => "reboot".into(),
            Errand::Halt => "halt".into(),
        }
    }
}

/// The first message of the command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// A node set, as [`crate::node_set`] reads it.
    pub nodes: String,
    pub errand: Errand,
}

/// To a process, or to all of a request: from the command line, and from the head to an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ToProcess {
    Input {
        data: Data,
    },
    EndOfInput,
    Resize {
        size: Size,
    },
    /// There is room for so many more bytes of output. The head says it to an agent.
    Room {
        bytes: u64,
    },
    /// Nobody waits for it any more.
    Stop,
}

/// How an agent starts a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    pub argv: Vec<String>,
    /// The terminal it gets, and what kind the person has.
    pub terminal: Option<(String, Size)>,
    pub input: bool,
}

/// Which of a process's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Channel {
    Out,
    Err,
}

/// From a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum FromProcess {
    Output {
        channel: Channel,
        data: Data,
    },
    /// There is room for so many more bytes of input.
    Room {
        bytes: u64,
    },
    Ended {
        end: End,
    },
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "kebab-case")]
pub enum End {
    Exited {
        code: i32,
    },
    Killed {
        signal: i32,
    },
    /// It never began, or was lost on its way.
    Failed {
        reason: Sentence,
    },
}

impl End {
    /// The exit code that a shell would show: 128 and the signal for one that was killed, 255 for one that
    /// was lost (as ssh has it).
    pub fn code(&self) -> i32 {
        match self {
            End::Exited { code } => *code,
            End::Killed { signal } => signal.saturating_add(128),
            End::Failed { .. } => 255,
        }
    }
}

/// What the head tells the command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Told {
    /// First: the nodes that the set names.
    Nodes {
        nodes: Vec<Name>,
    },
    Output {
        node: Name,
        channel: Channel,
        data: Data,
    },
    /// There is room for so many more bytes of input, at every node.
    Room {
        bytes: u64,
    },
    Ended {
        node: Name,
        end: End,
    },
    /// Nothing was begun.
    Refused {
        error: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_pass_through_json() {
        let told = FromProcess::Output { channel: Channel::Err, data: Data(vec![0, 255, 10]) };
        let text = serde_json::to_string(&told).expect("plain data");
        assert_eq!(text, r#"{"type":"output","channel":"err","data":"AP8K"}"#);
        assert_eq!(serde_json::from_str::<FromProcess>(&text).expect("reads back"), told);
    }
}
