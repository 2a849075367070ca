//! The sockets under the DHCP machine: ports 67 and 4011 of each interface.
//!
//! ```text
//! a reader for each port ─▶ machine ─┬──────────────────────────────────────────────────────▶ answers
//!                                    └─▶ leases stored, one transaction for all that waited ─▶ answers
//! ```
//! While one transaction goes to disk the leases of the next one gather, so the rate does not hang on
//! how long a disk takes to sync; and what gives no lease waits for none. Readers and store are threads:
//! each message costs one wake-up, and a busy head's other work does not hold it up.
//!
//! What waits is bounded, for the disk as for the time when a slow ROM hears it, and the last places are for the
//! repository's own machines.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bramble_model::names::Mac;
use bramble_model::repository::mask;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::listen::starts;
use super::raw::PacketSocket;
use super::{Arrival, Lease, Link, Port, Reply, Server, Target, asks, decode, encode};
use crate::away::{Away, Counts, Turned};
use crate::packet::set_option;
use crate::{BootServer, Directory, Heard, Witness, isolated};

/// Leases that wait to be stored; more get no answer, as a full socket would give none. The first number is all that is
/// for machines that the repository does not have.
const QUEUE: Room = Room { strangers: 4096, all: 5120 };
/// Answers that are held back for a ROM that misses quick ones.
const LATE: Room = Room { strangers: 64, all: 1024 };
/// Answers whose leases go to disk together.
const BATCH: usize = 512;
/// After more answers than these at once it is a rush: then the next ones gather for a moment, since a
/// transaction costs nearly the same for one lease and for fifty.
const RUSH: usize = 8;
const GATHER: Duration = Duration::from_millis(3);
/// Bytes of the sockets' buffers: a thousand machines that are switched on at once.
const BUFFER: libc::c_int = 4 << 20;
/// How often a silent port looks whether it is to end.
const LOOK: Duration = Duration::from_millis(200);

/// The wire that is served.
#[derive(Debug, Clone)]
pub struct Interface {
    pub name: String,
    pub index: u32,
    pub mac: Mac,
    pub address: Ipv4Addr,
    /// Length of the network prefix in bits.
    pub prefix: u8,
    /// The default gateway on this wire.
    pub gateway: Option<Ipv4Addr>,
}

impl Interface {
    pub fn mask(&self) -> Ipv4Addr {
        mask(self.prefix)
    }

    /// Whether this address is on the interface's own wire.
    pub fn reaches(&self, address: Ipv4Addr) -> bool {
        let mask = u32::from(self.mask());
        u32::from(address) & mask == u32::from(self.address) & mask
    }
}

/// Where leases are kept over a restart.
pub trait LeaseStore: Send + Sync {
    /// Returns when the leases are on disk.
    ///
    /// # Errors
    /// When they are not; the clients then get no answer and ask again.
    fn store(&self, leases: &[Lease]) -> io::Result<()>;
}

/// A UDP socket that sends and hears on one interface only, so that no offer leaves by another.
fn bind(interface: &str, port: u16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_broadcast(true)?;
    widen(&socket);
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
    Ok(socket)
}

/// As [`bind`], for a task.
pub(super) fn bind_async(interface: &str, port: u16) -> io::Result<UdpSocket> {
    let socket = bind(interface, port)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket.into())
}

/// Gives a socket room for what arrives while leases go to disk: past the system's limit where this
/// program may (`SO_RCVBUFFORCE`, socket(7)), else up to it.
fn widen(socket: &Socket) {
    let forced = set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER);
    if forced.is_err()
        && let Err(error) = socket.set_recv_buffer_size(BUFFER as usize)
    {
        tracing::debug!(%error, "the socket keeps its buffer");
    }
}

/// One interface, open.
struct Open {
    interface: Interface,
    link: Link,
    dhcp: std::net::UdpSocket,
    proxy: std::net::UdpSocket,
    wire: PacketSocket,
}

/// An answer on its way out.
struct Outgoing {
    on: Arc<Open>,
    port: Port,
    from: SocketAddr,
    reply: Reply,
    /// Held until an answer has left that is held back.
    _late: Option<Place>,
}

/// How many may wait.
#[derive(Debug, Clone, Copy)]
struct Room {
    strangers: usize,
    all: usize,
}

/// Those that wait now.
#[derive(Debug, Default)]
struct Waiting(AtomicUsize);

impl Waiting {
    /// A place among them, for as long as it is held; `None` where there is none left for such a machine.
    fn enter(self: &Arc<Self>, room: Room, is_of_a_node: bool) -> Option<Place> {
        let most = if is_of_a_node { room.all } else { room.strangers };
        let entered = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| (now < most).then_some(now + 1));
        entered.ok().map(|_| Place(Arc::clone(self)))
    }
}

/// One that waits.
#[derive(Debug)]
struct Place(Arc<Waiting>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Leases that are not on disk yet, and the answer that waits for that: both go or fail together.
struct Unstored {
    leases: Vec<Lease>,
    answer: Option<Outgoing>,
    _place: Place,
}

/// What the readers share.
struct Shared {
    server: Arc<Mutex<Server>>,
    directory: Arc<dyn Directory>,
    witness: Arc<dyn Witness>,
    counts: Arc<Counts>,
    unstored: Arc<Waiting>,
    late: Arc<Waiting>,
    stop: CancellationToken,
}

/// Whom the sockets ask and tell.
pub struct Around {
    pub directory: Arc<dyn Directory>,
    pub witness: Arc<dyn Witness>,
    pub store: Arc<dyn LeaseStore>,
    pub counts: Arc<Counts>,
}

/// Serves `interfaces` until cancelled.
///
/// # Errors
/// When a port cannot be had.
pub async fn run(
    server: Arc<Mutex<Server>>,
    interfaces: Vec<(Interface, BootServer)>,
    around: Around,
    stop: CancellationToken,
) -> io::Result<()> {
    let Around { directory, witness, store, counts } = around;
    let (queue, unstored) = sync_channel(QUEUE.all);
    let (waiting, late) = (Arc::default(), Arc::default());
    let storing = Arc::clone(&server);
    let shared = Arc::new(Shared { server, directory, witness, counts, unstored: waiting, late, stop });
    let mut threads = JoinSet::new();
    for (interface, boot) in interfaces {
        let open = Arc::new(Open {
            dhcp: bind(&interface.name, 67)?.into(),
            proxy: bind(&interface.name, 4011)?.into(),
            wire: PacketSocket::open(interface.index)?,
            link: Link { address: interface.address, prefix: interface.prefix, boot },
            interface,
        });
        for port in [Port::Dhcp, Port::Proxy] {
            open.socket(port).set_read_timeout(Some(LOOK))?;
            let (open, shared, queue) = (Arc::clone(&open), Arc::clone(&shared), queue.clone());
            threads.spawn_blocking(move || {
                let heard = |bytes: &[u8], from| answer(&open, port, &shared, &queue, bytes, from);
                read(open.socket(port), &shared.stop, heard);
            });
        }
    }
    // The last reader that ends closes the queue.
    drop(queue);
    threads.spawn_blocking(move || keep(&unstored, &*store, &storing));
    while let Some(ended) = threads.join_next().await {
        if let Err(error) = ended
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
    Ok(())
}

/// Hands on what one socket hears, until cancelled.
fn read(socket: &std::net::UdpSocket, stop: &CancellationToken, mut heard: impl FnMut(&[u8], SocketAddr)) {
    let mut buffer = vec![0; 4096];
    while !stop.is_cancelled() {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => {
                isolated(|| heard(&buffer[..length], from));
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            // An ICMP error of an earlier answer shows up here; the socket lives on. A socket that
            // is broken (its interface is gone) would fail at once again.
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Answers one message. What is no DHCP message costs no more than its decoding.
fn answer(on: &Arc<Open>, port: Port, shared: &Shared, queue: &SyncSender<Unstored>, bytes: &[u8], from: SocketAddr) {
    let Some(message) = decode(bytes) else {
        tracing::debug!(%from, "not a DHCP message");
        return;
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let IpAddr::V4(sender) = from.ip() else { return };
    // Both may wait for a disk: neither happens while the machine is held.
    let known = asks(&message, &on.link).and_then(|client| shared.directory.look(&client, &on.link.boot));
    // Its leases are whole between any two lines, also those of a message over which a reader panicked.
    let mut server = shared.server.lock().unwrap_or_else(PoisonError::into_inner);
    let arrival = Arrival { link: &on.link, port, from: sender };
    let outcome = server.handle(&message, arrival, now, known.as_ref());
    let is_relay = server.is_relay(&message, &on.link, message.giaddr());
    drop(server);
    // What is of this wire is heard beside these sockets: `super::listen`.
    if let Some(client) = starts(&message).filter(|_| is_relay) {
        shared.witness.heard(client.mac, Heard::Relay);
    }
    for (mac, sight) in outcome.saw {
        shared.witness.saw(mac, sight);
    }
    if let Some(turned) = outcome.turned {
        shared.counts.add(turned, now);
    }
    let is_of_a_node = outcome.is_of_a_node;
    let waits = |waiting: &Arc<Waiting>, room| {
        let place = waiting.enter(room, is_of_a_node);
        if place.is_none() {
            shared.counts.add(Turned { away: Away::Waiting, who: format!("{from} on {}", on.interface.name) }, now);
        }
        place
    };
    // A client that is not answered asks again.
    let answer = match outcome.reply {
        Some(reply) if reply.delay.is_zero() => Some((reply, None)),
        Some(reply) => waits(&shared.late, LATE).map(|place| (reply, Some(place))),
        None => None,
    };
    let answer = answer.map(|(reply, late)| Outgoing { on: Arc::clone(on), port, from, reply, _late: late });
    if !outcome.store.is_empty() {
        if let Some(place) = waits(&shared.unstored, QUEUE) {
            // The queue has room for all who have a place; it is closed where the head ends.
            let _ = queue.try_send(Unstored { leases: outcome.store, answer, _place: place });
        }
    } else if let Some(answer) = answer {
        answer.send();
    }
}

/// Stores leases and then sends their answers, until the queue is closed.
fn keep(queue: &Receiver<Unstored>, store: &dyn LeaseStore, server: &Mutex<Server>) {
    while let Ok(first) = queue.recv() {
        let batch: Vec<Unstored> = std::iter::once(first).chain(queue.try_iter()).take(BATCH).collect();
        let leases: Vec<Lease> = batch.iter().flat_map(|unstored| unstored.leases.iter().copied()).collect();
        let rush = batch.len() > RUSH;
        match store.store(&leases) {
            Ok(()) => {
                server.lock().unwrap_or_else(PoisonError::into_inner).stored(&leases);
                for answer in batch.into_iter().filter_map(|unstored| unstored.answer) {
                    isolated(|| answer.send());
                }
            }
            Err(error) => tracing::error!(%error, "leases could not be stored and are not given"),
        }
        if rush {
            std::thread::sleep(GATHER);
        }
    }
}

impl Open {
    fn socket(&self, port: Port) -> &std::net::UdpSocket {
        match port {
            Port::Dhcp => &self.dhcp,
            Port::Proxy => &self.proxy,
        }
    }
}

impl Outgoing {
    /// Sends it now, or when it has been held back long enough.
    fn send(self) {
        if self.reply.delay.is_zero() {
            self.leave();
        } else {
            Handle::current().spawn(async move {
                tokio::time::sleep(self.reply.delay).await;
                self.leave();
            });
        }
    }

    fn leave(&self) {
        let Outgoing { on, port, from, reply, .. } = self;
        let bytes = encode(&reply.message);
        let socket = on.socket(*port);
        let to = |address: Ipv4Addr, port| SocketAddr::V4(SocketAddrV4::new(address, port));
        let sent = match reply.to {
            Target::Broadcast => socket.send_to(&bytes, to(Ipv4Addr::BROADCAST, 68)).map(drop),
            Target::Relay(relay) => socket.send_to(&bytes, to(relay, 67)).map(drop),
            Target::Client(client) => socket.send_to(&bytes, to(client, 68)).map(drop),
            Target::Sender => socket.send_to(&bytes, from).map(drop),
            Target::Card(mac, address) => {
                on.wire.send((on.interface.mac, on.interface.address), (mac, address), &bytes)
            }
        };
        if let Err(error) = sent {
            tracing::warn!(to = ?reply.to, %error, "an answer could not be sent");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_places_of_what_waits_are_for_the_repositorys_own_machines() {
        let (waiting, room) = (Arc::<Waiting>::default(), Room { strangers: 3, all: 5 });
        let mut places: Vec<Place> = (0..100).filter_map(|_| waiting.enter(room, false)).collect();
        assert_eq!(places.len(), 3);
        places.extend((0..100).filter_map(|_| waiting.enter(room, true)));
        assert_eq!(places.len(), 5);
        drop(places);
        assert!(waiting.enter(room, false).is_some(), "a place is free again once it is left");
    }

    /// It ended the part, and the head with it.
    #[test]
    fn a_message_over_which_a_reader_panics_is_dropped_and_the_next_one_answered() {
        let bind = || std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let (served, client, stop) = (bind(), bind(), CancellationToken::new());
        client.connect(served.local_addr().expect("bound")).expect("connected");
        for socket in [&served, &client] {
            socket.set_read_timeout(Some(LOOK)).expect("set");
        }
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                read(&served, &stop, |bytes, from| {
                    assert_ne!(bytes, b"bad", "as an error of bramble's own does");
                    served.send_to(bytes, from).expect("sent");
                });
            });
            client.send(b"bad").expect("sent");
            client.send(b"good").expect("sent");
            let mut buffer = [0; 16];
            let answered = loop {
                match client.recv(&mut buffer) {
                    Ok(length) => break Some(&buffer[..length]),
                    Err(_) if reader.is_finished() => break None,
                    Err(_) => {}
                }
            };
            stop.cancel();
            assert_eq!(answered, Some(&b"good"[..]));
            assert!(reader.join().is_ok());
        });
    }
}
