//! TFTP, to read loaders: RFC 1350 with the options of RFC 2347, 2348 (blksize), 2349 (tsize,
//! timeout) and 7440 (windowsize).
//!
//! ```text
//! read request ─▶ (options) OACK ─ ACK 0 ─▶ window of DATA ─ ACK n ─▶ … ─▶ short DATA ─ last ACK ─▶ done
//!                                   └────────── silence: the window again ◀──┘
//! ```

mod serve;

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use serve::run;

/// 1500 bytes of Ethernet less IP, UDP and TFTP headers: more would be sent in fragments, which
/// boot ROMs do not put together.
const LARGEST_BLOCK: usize = 1468;
const LARGEST_WINDOW: u16 = 64;
/// The first wait for an answer, doubled with each silence up to the longest one. A duplicate answer
/// never makes a packet go out again, so a lost one costs its wait.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// A client that is silent for so long is gone.
const GONE: Duration = Duration::from_secs(20);

/// What a name stands for: bytes made for this client, or a file of any size.
#[derive(Debug, Clone)]
pub enum Content {
    Memory(Arc<[u8]>),
    File { file: Arc<File>, size: u64 },
}

impl Content {
    /// Bytes.
    pub fn size(&self) -> u64 {
        match self {
            Content::Memory(bytes) => bytes.len() as u64,
            Content::File { size, .. } => *size,
        }
    }

    /// Appends `length` bytes from `start` on to `packet`.
    fn append(&self, start: u64, length: usize, packet: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Content::Memory(bytes) => {
                let start = start as usize;
                packet.extend_from_slice(&bytes[start..start + length]);
                Ok(())
            }
            Content::File { file, .. } => {
                let at = packet.len();
                packet.resize(at + length, 0);
                file.read_exact_at(&mut packet[at..], start)
            }
        }
    }
}

/// How a read ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// All of its bytes have arrived.
    Sent { bytes: u64 },
    /// There is no such file for this machine.
    Missing,
    /// The client ended it: firmware does so on purpose, to learn a file's size.
    Aborted { reason: String, at: u64, of: u64, block: u32 },
    /// The client fell silent after so many bytes of so many; `agreed` where it had confirmed the
    /// options, of which `block` bytes in a packet is one.
    Silent { at: u64, of: u64, block: u32, agreed: bool },
    /// The file cannot be read any more.
    Unreadable { reason: String },
}

/// What is served. Who asks is known by its address.
pub trait Files: Send + Sync {
    /// What the machine at this address gets by this name. It may have to be made, and may begin a boot: whoever
    /// asks waits for it, and holds nobody else up.
    fn open(&self, from: Ipv4Addr, path: &str) -> Option<Content>;

    /// How the read of it ended.
    fn ended(&self, from: Ipv4Addr, path: &str, end: End);
}

/// A request to read, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadRequest {
    pub file: String,
    /// Options in the order they came, names in lower case.
    pub options: Vec<(String, String)>,
}

/// Error codes of RFC 1350.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    NotFound,
    AccessViolation,
    IllegalOperation,
}

impl Refusal {
    /// The packet that says so.
    pub fn packet(self) -> Vec<u8> {
        let (code, text): (u8, &str) = match self {
            Refusal::NotFound => (1, "file not found"),
            Refusal::AccessViolation => (2, "that path is not served"),
            Refusal::IllegalOperation => (4, "only reading is served"),
        };
        [&[0, 5, 0, code], text.as_bytes(), &[0]].concat()
    }
}

/// Reads a request. `Err(None)` is for what is not a request at all and gets no answer.
pub fn parse_request(packet: &[u8]) -> Result<ReadRequest, Option<Refusal>> {
    let (opcode, rest) = packet.split_at_checked(2).ok_or(None)?;
    match opcode {
        [0, 1] => {}
        [0, 2] => return Err(Some(Refusal::IllegalOperation)),
        _ => return Err(None),
    }
    let mut words = rest.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    let file = words.next().unwrap_or_default().into_owned();
    let mode = words.next().unwrap_or_default().to_ascii_lowercase();
    if mode != "octet" && mode != "netascii" {
        return Err(Some(Refusal::IllegalOperation));
    }
    let mut options = Vec::new();
    while let (Some(name), Some(value)) = (words.next(), words.next()) {
        options.push((name.to_ascii_lowercase(), value.into_owned()));
    }
    Ok(ReadRequest { file: plain_path(&file).ok_or(Some(Refusal::AccessViolation))?, options })
}

/// The path without what firmware puts in front; `None` where it leaves the root.
fn plain_path(path: &str) -> Option<String> {
    let path = path.replace('\\', "/");
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => return None,
            part if part.contains('%') || part.chars().any(char::is_control) => return None,
            part => parts.push(part),
        }
    }
    if parts.is_empty() { None } else { Some(parts.join("/")) }
}

/// What a transfer wants done.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Send the packets of [`Transfer::packets`] and wait for an answer until
    /// [`Transfer::deadline`].
    Send,
    /// Nothing to do but wait.
    Wait,
    /// It is over.
    Over(End),
}

/// One file on its way to one client.
#[derive(Debug)]
pub struct Transfer {
    content: Content,
    block: usize,
    window: u16,
    /// What the client asked to be waited for (RFC 2349).
    timeout: Option<Duration>,
    wait: Duration,
    heard: Instant,
    /// Options still to be acknowledged by ACK 0.
    oack: Option<Vec<u8>>,
    /// The client has acknowledged the options.
    agreed: bool,
    /// Blocks acknowledged, counted without wrapping.
    acknowledged: u64,
    deadline: Instant,
    /// Packets to send, one behind the other: all but the last have [`Transfer::stride`] bytes.
    out: Vec<u8>,
}

impl Transfer {
    pub fn start(content: Content, request: &ReadRequest, now: Instant) -> (Self, Step) {
        let mut transfer = Transfer {
            content,
            block: 512,
            window: 1,
            timeout: None,
            wait: FIRST_WAIT,
            heard: now,
            oack: None,
            agreed: false,
            acknowledged: 0,
            deadline: now,
            out: Vec::new(),
        };
        let mut oack = vec![0, 6];
        for (name, value) in &request.options {
            if let Some(value) = transfer.option(name, value) {
                oack.extend([name.as_bytes(), &[0], value.as_bytes(), &[0]].concat());
            }
        }
        transfer.oack = (oack.len() > 2).then_some(oack);
        let step = transfer.send(now);
        (transfer, step)
    }

    /// Takes an option, and gives the value that is granted.
    fn option(&mut self, name: &str, value: &str) -> Option<String> {
        let number: u64 = value.parse().ok()?;
        match name {
            "blksize" if number >= 8 => {
                self.block = usize::try_from(number).unwrap_or(LARGEST_BLOCK).min(LARGEST_BLOCK);
                Some(self.block.to_string())
            }
            "tsize" => Some(self.content.size().to_string()),
            "timeout" if (1..=255).contains(&number) => {
                self.timeout = Some(Duration::from_secs(number));
                Some(number.to_string())
            }
            "windowsize" if number >= 1 => {
                self.window = u16::try_from(number).unwrap_or(u16::MAX).min(LARGEST_WINDOW);
                Some(self.window.to_string())
            }
            _ => None,
        }
    }

    /// When [`Transfer::timed_out`] is due.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The packets to send, after [`Step::Send`].
    pub fn packets(&self) -> impl Iterator<Item = &[u8]> {
        self.out.chunks(self.stride().max(1))
    }

    /// Bytes of a full packet of [`Transfer::packets`].
    pub fn stride(&self) -> usize {
        if self.oack.is_some() { self.out.len() } else { 4 + self.block }
    }

    /// All packets to send, one behind the other.
    pub fn bytes(&self) -> &[u8] {
        &self.out
    }

    /// All blocks of the file; the last is short, and may be empty.
    fn blocks(&self) -> u64 {
        self.content.size() / self.block as u64 + 1
    }

    /// Bytes that have arrived.
    fn arrived(&self) -> u64 {
        (self.acknowledged * self.block as u64).min(self.content.size())
    }

    fn send(&mut self, now: Instant) -> Step {
        self.deadline = now + self.timeout.unwrap_or(self.wait);
        self.out.clear();
        if let Some(oack) = &self.oack {
            self.out.extend_from_slice(oack);
            return Step::Send;
        }
        let end = (self.acknowledged + u64::from(self.window)).min(self.blocks());
        for block in self.acknowledged..end {
            if let Err(error) = self.data(block) {
                return Step::Over(End::Unreadable { reason: error.to_string() });
            }
        }
        Step::Send
    }

    /// Appends the block of this index from 0; on the wire they count from 1 and wrap after 65535.
    fn data(&mut self, index: u64) -> io::Result<()> {
        let (size, block) = (self.content.size(), self.block as u64);
        let start = (index * block).min(size);
        let length = (size - start).min(block) as usize;
        let number = ((index + 1) & 0xffff) as u16;
        self.out.extend_from_slice(&[0, 3]);
        self.out.extend_from_slice(&number.to_be_bytes());
        self.content.append(start, length, &mut self.out)
    }

    /// A packet came from the client.
    pub fn packet(&mut self, packet: &[u8], now: Instant) -> Step {
        match packet {
            [0, 4, high, low, ..] => self.acknowledge(u16::from_be_bytes([*high, *low]), now),
            [0, 5, _, _, text @ ..] => {
                let reason: String = String::from_utf8_lossy(text).chars().filter(|c| !c.is_control()).collect();
                Step::Over(self.aborted(reason))
            }
            _ => Step::Wait,
        }
    }

    fn acknowledge(&mut self, number: u16, now: Instant) -> Step {
        if self.oack.is_some() {
            if number != 0 {
                return Step::Wait;
            }
            self.oack = None;
            self.agreed = true;
            return self.progress(now);
        }
        // How many blocks past the last acknowledged one this is, in the wrapping count.
        let ahead = u64::from(number.wrapping_sub((self.acknowledged & 0xffff) as u16));
        let sent = u64::from(self.window).min(self.blocks() - self.acknowledged);
        if ahead == 0 || ahead > sent {
            // A duplicate. Sending again would double every packet from here on (the Sorcerer's
            // Apprentice, RFC 1123, section 4.2.3.1): only silence makes a window go out again.
            return Step::Wait;
        }
        self.acknowledged += ahead;
        if self.acknowledged == self.blocks() {
            return Step::Over(End::Sent { bytes: self.content.size() });
        }
        self.progress(now)
    }

    /// The client has what was sent: on with the next.
    fn progress(&mut self, now: Instant) -> Step {
        (self.wait, self.heard) = (FIRST_WAIT, now);
        self.send(now)
    }

    /// Nobody listens at the client's port any more.
    pub fn refused(&self) -> End {
        self.aborted("its port is closed".into())
    }

    fn aborted(&self, reason: String) -> End {
        End::Aborted { reason, at: self.arrived(), of: self.content.size(), block: self.block as u32 }
    }

    /// The client has been silent until the deadline.
    pub fn timed_out(&mut self, now: Instant) -> Step {
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
        if now.duration_since(self.heard) >= GONE {
            return Step::Over(End::Silent {
                at: self.arrived(),
                of: self.content.size(),
                block: self.block as u32,
                agreed: self.agreed,
            });
        }
        self.send(now)
    }
}

#[cfg(test)]
mod tests;
