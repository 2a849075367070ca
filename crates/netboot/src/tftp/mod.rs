//! TFTP, to read loaders: RFC 1350 with the options of RFC 2347, 2348 (blksize), 2349 (tsize,
//! timeout) and 7440 (windowsize).
//!
//! ```text
//! read request ─▶ (options) OACK ─ ACK 0 ─▶ window of DATA ─ ACK n ─▶ … ─▶ short DATA ─ last ACK ─▶ done
//!                                   └────────── silence: the window again ◀──┘
//! ```
//! Before the first ACK one packet goes out, a few times: whoever made the request up has no more than that sent to
//! somebody else. Who gets a transfer at all is [`gate`]'s.

mod gate;
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
/// How often the first packet goes out that nobody acknowledges: for under four seconds, by when a client that is there
/// has asked again.
const FIRST_TRIES: u32 = 4;
/// The longest wait that a client may ask for (RFC 2349 allows 255 s, in which it could be silent and keep its place).
/// U-Boot asks for 5 s.
const LONGEST_TIMEOUT: u64 = 10;
/// Bytes a second of a client that is not too slow, after the first half minute. Lock step with blocks of 512 bytes over
/// a wire that loses a tenth of its packets has more than five times of it.
const LEAST_RATE: u64 = 1024;
/// Bytes of a client's own words that are kept.
const LONGEST_REASON: usize = 200;
const SLOW_START: Duration = Duration::from_secs(30);

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
    /// The client takes it so slowly that it only keeps a place.
    Slow { at: u64, of: u64, block: u32 },
    /// The file cannot be read any more.
    Unreadable { reason: String },
}

/// What is served. Who asks is known by its address.
pub trait Files: Send + Sync {
    /// What the machine at this address gets by this name. It may have to be made, and may begin a boot: whoever
    /// asks waits for it, and holds nobody else up.
    fn open(&self, from: Ipv4Addr, path: &str) -> Option<Content>;

    /// Whether this address is a node's, as far as is known without asking anybody: such go first where much is asked for.
    fn is_of_a_node(&self, from: Ipv4Addr) -> bool;

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
    /// The largest window that is granted.
    largest_window: u16,
    /// What the client asked to be waited for (RFC 2349); from its first answer on.
    timeout: Option<Duration>,
    wait: Duration,
    begun: Instant,
    heard: Instant,
    /// How often the first packet went out.
    tries: u32,
    /// The client has answered: there is one.
    is_proven: bool,
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
    /// Begins it. Windows of more than `window` blocks are not granted.
    pub fn start(content: Content, request: &ReadRequest, window: u16, now: Instant) -> (Self, Step) {
        let mut transfer = Transfer {
            content,
            block: 512,
            window: 1,
            largest_window: window.clamp(1, LARGEST_WINDOW),
            timeout: None,
            wait: FIRST_WAIT,
            begun: now,
            heard: now,
            tries: 0,
            is_proven: false,
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
            // Not granted where it is longer: another value than the one asked for cannot be (RFC 2349).
            "timeout" if (1..=LONGEST_TIMEOUT).contains(&number) => {
                self.timeout = Some(Duration::from_secs(number));
                Some(number.to_string())
            }
            "windowsize" if number >= 1 => {
                self.window = u16::try_from(number).unwrap_or(u16::MAX).min(self.largest_window);
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
        let asked = self.timeout.filter(|_| self.is_proven);
        self.deadline = now + asked.unwrap_or(self.wait);
        self.tries += u32::from(!self.is_proven);
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
                self.is_proven = true;
                let text = &text[..text.len().min(LONGEST_REASON)];
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
        self.is_proven = true;
        if self.acknowledged == self.blocks() {
            return Step::Over(End::Sent { bytes: self.content.size() });
        }
        self.progress(now)
    }

    /// The client has what was sent: on with the next.
    fn progress(&mut self, now: Instant) -> Step {
        (self.wait, self.heard, self.is_proven) = (FIRST_WAIT, now, true);
        if self.is_too_slow(now) {
            return Step::Over(End::Slow { at: self.arrived(), of: self.content.size(), block: self.block as u32 });
        }
        self.send(now)
    }

    fn is_too_slow(&self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.begun);
        passed >= SLOW_START && self.arrived() < LEAST_RATE * passed.as_secs()
    }

    /// Whether the client has answered: somebody is there.
    pub fn is_proven(&self) -> bool {
        self.is_proven
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
        let is_nobody = !self.is_proven && self.tries >= FIRST_TRIES;
        if is_nobody || now.saturating_duration_since(self.heard) >= GONE {
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
