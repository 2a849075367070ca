//! The sockets under the TFTP machine: one for requests, one for each transfer.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio_util::sync::CancellationToken;

use super::gate::{Gate, Id, No};
use super::{Content, End, Files, ReadRequest, Refusal, Step, Transfer, parse_request};
use crate::away::{Counts, Turned};
use crate::isolated;
use crate::packet::set_option;

/// Bytes of a transfer's stack; its packets are on the heap. A file that is made for one boot goes through
/// the head's store.
const STACK: usize = 512 << 10;
/// Packets that the kernel is given at once: 64 KB at most.
const AT_ONCE: usize = 40;

/// Serves what `files` has on `address`, port 69, until cancelled; so many transfers at once as `most` says when one is
/// asked for.
///
/// # Errors
/// When the port cannot be had.
pub async fn run(
    address: Ipv4Addr,
    files: Arc<dyn Files>,
    counts: Arc<Counts>,
    most: Arc<AtomicUsize>,
    stop: CancellationToken,
) -> io::Result<()> {
    serve(tokio::net::UdpSocket::bind((address, 69)).await?, address, files, counts, most, stop).await;
    Ok(())
}

/// Serves requests that come to this socket; transfers leave from `address`.
async fn serve(
    socket: tokio::net::UdpSocket,
    address: Ipv4Addr,
    files: Arc<dyn Files>,
    counts: Arc<Counts>,
    most: Arc<AtomicUsize>,
    stop: CancellationToken,
) {
    let transfers = Arc::new(Transfers::new(most.load(Ordering::Relaxed)));
    let mut buffer = [0; 2048];
    loop {
        let (length, from) = tokio::select! {
            () = stop.cancelled() => return,
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
                if transfers.inner().gate.may_refuse(client, Instant::now()) {
                    let _ = socket.send_to(&refusal.packet(), from).await;
                }
                continue;
            }
        };
        transfers.inner().gate.resize(most.load(Ordering::Relaxed));
        let place = match transfers.place(client, || files.is_of_a_node(*client.ip())) {
            Ok(place) => place,
            Err(No::Repeated) => continue,
            Err(No::Turned(away)) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
                counts.add(Turned { away, who: client.to_string() }, now);
                continue;
            }
        };
        let files = Arc::clone(&files);
        // A thread of its own: lock step lives on the time between an answer and the next packet, and a
        // thread that waits in `recv` has the shortest. Most of them sleep. And a file that has to be made
        // holds nobody else up.
        let spawned = thread::Builder::new().name("tftp".into()).stack_size(STACK).spawn(move || {
            let answered = answer(address, client, &*files, &request, &place);
            // Its client may ask for the next file before it has been written down how this one went.
            place.transfers.inner().gate.ends(place.id);
            match answered {
                Ok(Some(end)) => files.ended(*client.ip(), &request.file, end),
                Ok(None) => {}
                Err(error) => tracing::debug!(file = request.file, %client, %error, "no answer could be sent"),
            }
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread for a transfer");
        }
    }
}

/// The transfers that run.
struct Transfers(Mutex<Inner>);

struct Inner {
    gate: Gate,
    /// What tells each that another has its place.
    gives_way: HashMap<Id, Arc<AtomicBool>>,
}

impl Transfers {
    /// So many at once.
    fn new(most: usize) -> Self {
        Transfers(Mutex::new(Inner { gate: Gate::new(most, Instant::now()), gives_way: HashMap::new() }))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a transfer to this client.
    fn place(self: &Arc<Self>, client: SocketAddrV4, is_node: impl FnOnce() -> bool) -> Result<Place, No> {
        let mut inner = self.inner();
        let start = inner.gate.ask(client, Instant::now(), is_node)?;
        if let Some(other) = start.instead_of.and_then(|other| inner.gives_way.get(&other)) {
            other.store(true, Ordering::Release);
        }
        let gives_way = Arc::<AtomicBool>::default();
        inner.gives_way.insert(start.id, Arc::clone(&gives_way));
        drop(inner);
        let client = *client.ip();
        Ok(Place { transfers: Arc::clone(self), client, id: start.id, window: start.window, gives_way })
    }
}

/// The place of one transfer, held by its thread for as long as that is there.
struct Place {
    transfers: Arc<Transfers>,
    client: Ipv4Addr,
    id: Id,
    window: u16,
    gives_way: Arc<AtomicBool>,
}

impl Place {
    /// Its client has answered; `false` where it had to give way before that.
    fn is_proven(&self) -> bool {
        self.transfers.inner().gate.proves(self.id, self.client, Instant::now())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.transfers.inner();
        inner.gate.is_gone(self.id);
        inner.gives_way.remove(&self.id);
    }
}

/// Sends what was asked for, to its end; `None` where it gave way to another request.
fn answer(
    address: Ipv4Addr,
    to: SocketAddrV4,
    files: &dyn Files,
    request: &ReadRequest,
    place: &Place,
) -> io::Result<Option<End>> {
    // A port of its own is the transfer's name, also that of one that is refused (RFC 1350, section 4).
    let socket = UdpSocket::bind((address, 0))?;
    socket.connect(to)?;
    match files.open(*to.ip(), &request.file) {
        Some(content) => transfer(&socket, content, request, place),
        None => socket.send(&Refusal::NotFound.packet()).map(|_| Some(End::Missing)),
    }
}

fn transfer(socket: &UdpSocket, content: Content, request: &ReadRequest, place: &Place) -> io::Result<Option<End>> {
    let (mut transfer, mut step) = Transfer::start(content, request, place.window, Instant::now());
    let mut buffer = [0; 2048];
    let mut waits = None;
    let mut segments = Segments::default();
    let mut is_proven = false;
    loop {
        if !is_proven {
            // Once it is, nobody takes its place, and this costs it no more.
            is_proven = transfer.is_proven() && place.is_proven();
            if !is_proven && place.gives_way.load(Ordering::Acquire) {
                return Ok(None);
            }
        }
        match step {
            Step::Over(end) => return Ok(Some(end)),
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

#[cfg(test)]
mod tests;
