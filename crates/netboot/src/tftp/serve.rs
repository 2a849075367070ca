//! The sockets under the TFTP machine: one for requests, one for each transfer.

use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Content, End, Files, ReadRequest, Refusal, Step, Transfer, parse_request};
use crate::isolated;
use crate::packet::set_option;

/// Bytes of a transfer's stack; its packets are on the heap. A file that is made for one boot goes through
/// the head's store.
const STACK: usize = 512 << 10;
/// Packets that the kernel is given at once: 64 KB at most.
const AT_ONCE: usize = 40;

/// Transfers at once; more wait for their client to ask again.
const MOST: usize = 1024;

/// Serves what `files` has on `address`, port 69, until cancelled.
///
/// # Errors
/// When the port cannot be had.
pub async fn run(address: Ipv4Addr, files: Arc<dyn Files>, stop: CancellationToken) -> io::Result<()> {
    let socket = tokio::net::UdpSocket::bind((address, 69)).await?;
    let mut transfers = JoinSet::new();
    // A client that asks again before the first answer arrived has its transfer already.
    let mut running: HashSet<SocketAddr> = HashSet::new();
    let mut buffer = [0; 2048];
    loop {
        let (length, from) = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Some(done) = transfers.join_next(), if !transfers.is_empty() => {
                match done {
                    Ok(client) => { running.remove(&client); }
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Err(_) => {}
                }
                continue;
            }
            received = socket.recv_from(&mut buffer) => match received {
                Ok(received) => received,
                // An ICMP error of an earlier answer shows up here; the socket lives on.
                Err(_) => continue,
            },
        };
        let SocketAddr::V4(client) = from else { continue };
        let request = match isolated(|| parse_request(&buffer[..length])) {
            Some(Ok(request)) => request,
            None | Some(Err(None)) => continue,
            Some(Err(Some(refusal))) => {
                let _ = socket.send_to(&refusal.packet(), from).await;
                continue;
            }
        };
        if transfers.len() >= MOST || running.contains(&from) {
            continue;
        }
        running.insert(from);
        let files = Arc::clone(&files);
        let (done, ended) = oneshot::channel();
        // A thread of its own: lock step lives on the time between an answer and the next packet, and a
        // thread that waits in `recv` has the shortest. Most of them sleep. And a file that has to be made
        // holds nobody else up.
        let spawned = thread::Builder::new().name("tftp".into()).stack_size(STACK).spawn(move || {
            match answer(address, client, &*files, &request) {
                Ok(end) => files.ended(*client.ip(), &request.file, end),
                Err(error) => tracing::debug!(file = request.file, %client, %error, "no answer could be sent"),
            }
            // Nobody waits where the head is ending.
            let _ = done.send(());
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread for a transfer");
        }
        transfers.spawn(async move {
            // An error is a thread that panicked or was not made; its client may ask again.
            let _ = ended.await;
            from
        });
    }
}

/// Sends what was asked for, to its end.
fn answer(address: Ipv4Addr, to: SocketAddrV4, files: &dyn Files, request: &ReadRequest) -> io::Result<End> {
    // A port of its own is the transfer's name, also that of one that is refused (RFC 1350, section 4).
    let socket = UdpSocket::bind((address, 0))?;
    socket.connect(to)?;
    match files.open(*to.ip(), &request.file) {
        Some(content) => transfer(&socket, content, request),
        None => socket.send(&Refusal::NotFound.packet()).map(|_| End::Missing),
    }
}

fn transfer(socket: &UdpSocket, content: Content, request: &ReadRequest) -> io::Result<End> {
    let (mut transfer, mut step) = Transfer::start(content, request, Instant::now());
    let mut buffer = [0; 2048];
    let mut waits = None;
    let mut segments = Segments::default();
    loop {
        match step {
            Step::Over(end) => return Ok(end),
            Step::Wait => {}
            Step::Send => segments.send(socket, &transfer)?,
        }
        // Rounded up to what a socket counts in; a syscall only where the wait is another one.
        let left = transfer.deadline().saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let left = Duration::from_millis(left.as_millis() as u64 + 1);
        if waits != Some(left) {
            socket.set_read_timeout(Some(left))?;
            waits = Some(left);
        }
        step = match socket.recv(&mut buffer) {
            Ok(length) => transfer.packet(&buffer[..length], Instant::now()),
            Err(error) => match error.kind() {
                // Nobody listens there any more (ICMP): the same as silence, and known at once.
                io::ErrorKind::ConnectionRefused => Step::Over(transfer.refused()),
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => transfer.timed_out(Instant::now()),
                io::ErrorKind::Interrupted => Step::Wait,
                _ => return Err(error),
            },
        };
    }
}

/// Sends windows in one go: the kernel cuts them into packets (`UDP_SEGMENT`, udp(7)).
#[derive(Default)]
struct Segments {
    /// Bytes of a packet, as the socket was told.
    told: usize,
    /// The kernel or the card cannot do it.
    refused: bool,
}

impl Segments {
    fn send(&mut self, socket: &UdpSocket, transfer: &Transfer) -> io::Result<()> {
        let (bytes, stride) = (transfer.bytes(), transfer.stride());
        if bytes.len() <= stride || self.refused {
            return transfer.packets().try_for_each(|packet| socket.send(packet).map(drop));
        }
        if self.told != stride {
            // The size of a segment is 16 bits wide.
            let size = stride as libc::c_int;
            if set_option(socket, libc::SOL_UDP, libc::UDP_SEGMENT, size).is_err() {
                self.refused = true;
                return self.send(socket, transfer);
            }
            self.told = stride;
        }
        for part in bytes.chunks(stride * AT_ONCE) {
            match socket.send(part) {
                Ok(_) => {}
                // A card without checksums of its own.
                Err(error) if error.raw_os_error() == Some(libc::EIO) => {
                    self.refused = true;
                    return self.send(socket, transfer);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
