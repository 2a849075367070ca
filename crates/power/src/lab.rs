//! The lab's control socket: one JSON line asks, one answers.

use std::io;
use std::path::Path;

use bramble_model::names::Name;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// What can be asked of a running lab.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub enum Request {
    Power {
        node: Name,
        on: bool,
    },
    List,
    /// Lead the forwarded port of this name to an address inside the lab.
    Forward {
        name: String,
        to: std::net::SocketAddr,
    },
    /// End the lab.
    Down,
}

/// What it answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Reply {
    Done,
    Machines { machines: Vec<Machine>, accelerator: String },
    Failed { error: String },
}

/// One virtual machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machine {
    pub node: Name,
    pub on: bool,
    pub firmware: String,
    /// Its process, while it is on.
    pub process: Option<u32>,
    /// The file that keeps what its serial port printed.
    pub console: String,
}

/// Asks the lab behind `socket`.
///
/// # Errors
/// When nobody is there, or the answer is not one.
pub async fn ask(socket: &Path, request: &Request) -> io::Result<Reply> {
    let mut stream = UnixStream::connect(socket).await?;
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    stream.write_all(line.as_bytes()).await?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).await?;
    Ok(serde_json::from_str(&answer)?)
}
