//! The sockets under the DHCP machine: ports 67 and 4011 of each interface.
//!
//! ```text
//! readers ─▶ queue ─▶ machine ─▶ leases stored, one transaction for all that waited ─▶ answers
//! ```
//! While one batch of leases goes to disk the next one gathers, so the rate does not hang on how
//! long a disk takes to sync.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bramble_model::names::Mac;
use bramble_model::repository::mask;
use dhcproto::v4::Message;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::raw::Wire;
use super::{Lease, Link, Port, Reply, Server, Target, decode, encode};
use crate::packet::set_option;
use crate::{BootServer, Directory};

/// Messages that wait to be taken; more are dropped, as a full socket would.
const QUEUE: usize = 4096;
/// Messages whose leases go to disk together.
const BATCH: usize = 512;
/// Bytes of the sockets' buffers: a thousand machines that are switched on at once.
const BUFFER: libc::c_int = 4 << 20;

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
pub(super) fn bind(interface: &str, port: u16) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_broadcast(true)?;
    widen(&socket);
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
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
    dhcp: UdpSocket,
    proxy: UdpSocket,
    wire: Wire,
}

/// A message on its way to the machine.
struct Received {
    on: Arc<Open>,
    port: Port,
    from: SocketAddr,
    message: Message,
}

/// Serves `interfaces` until cancelled.
///
/// # Errors
/// When a port cannot be had.
pub async fn run(
    mut server: Server,
    interfaces: Vec<(Interface, BootServer)>,
    directory: Arc<dyn Directory>,
    store: Arc<dyn LeaseStore>,
    stop: CancellationToken,
) -> io::Result<()> {
    let (queue, mut arrived) = mpsc::channel(QUEUE);
    let mut readers = JoinSet::new();
    for (interface, boot) in interfaces {
        let open = Arc::new(Open {
            dhcp: bind(&interface.name, 67)?,
            proxy: bind(&interface.name, 4011)?,
            wire: Wire::open(interface.index)?,
            link: Link { address: interface.address, boot },
            interface,
        });
        for port in [Port::Dhcp, Port::Proxy] {
            readers.spawn(read(Arc::clone(&open), port, queue.clone()));
        }
    }
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Some(ended) = readers.join_next() => match ended {
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                _ => {}
            },
            _ = arrived.recv_many(&mut batch, BATCH) => {}
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let mut leases = Vec::new();
        let mut answers = Vec::new();
        for Received { on, port, from, message } in batch.drain(..) {
            let outcome = server.handle(&message, &on.link, port, now, &*directory);
            // A lease and its answer go or fail together.
            leases.extend(outcome.store);
            answers.extend(outcome.reply.map(|reply| (on, port, from, reply)));
        }
        if !leases.is_empty() {
            let store = Arc::clone(&store);
            let stored = tokio::task::spawn_blocking(move || store.store(&leases)).await;
            if let Err(error) = stored.unwrap_or_else(|error| Err(io::Error::other(error))) {
                tracing::error!(%error, "leases could not be stored and are not given");
                continue;
            }
        }
        for (on, port, from, reply) in answers {
            if reply.delay.is_zero() {
                on.answer(port, from, &reply).await;
            } else {
                readers.spawn(async move {
                    tokio::time::sleep(reply.delay).await;
                    on.answer(port, from, &reply).await;
                });
            }
        }
    }
}

/// Reads one socket for ever. What is no DHCP message costs no more than its decoding.
async fn read(on: Arc<Open>, port: Port, queue: mpsc::Sender<Received>) {
    let socket = on.socket(port);
    let mut buffer = vec![0; 4096];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An ICMP error of an earlier answer shows up here; the socket lives on. A socket that
            // is broken (its interface is gone) would fail at once again.
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        let Some(message) = decode(&buffer[..length]) else {
            tracing::debug!(%from, "not a DHCP message");
            continue;
        };
        if queue.try_send(Received { on: Arc::clone(&on), port, from, message }).is_err() && queue.is_closed() {
            return;
        }
    }
}

impl Open {
    fn socket(&self, port: Port) -> &UdpSocket {
        match port {
            Port::Dhcp => &self.dhcp,
            Port::Proxy => &self.proxy,
        }
    }

    async fn answer(&self, port: Port, from: SocketAddr, reply: &Reply) {
        let bytes = encode(&reply.message);
        let socket = self.socket(port);
        let to = |address: Ipv4Addr, port| SocketAddr::V4(SocketAddrV4::new(address, port));
        let sent = match reply.to {
            Target::Broadcast => socket.send_to(&bytes, to(Ipv4Addr::BROADCAST, 68)).await.map(drop),
            Target::Relay(relay) => socket.send_to(&bytes, to(relay, 67)).await.map(drop),
            Target::Client(client) => socket.send_to(&bytes, to(client, 68)).await.map(drop),
            Target::Sender => socket.send_to(&bytes, from).await.map(drop),
            Target::Card(mac, address) => {
                self.wire.send((self.interface.mac, self.interface.address), (mac, address), &bytes)
            }
        };
        if let Err(error) = sent {
            tracing::warn!(to = ?reply.to, %error, "an answer could not be sent");
        }
    }
}
