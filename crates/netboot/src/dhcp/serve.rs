//! The sockets under the DHCP machine: one interface, ports 67 and 4011.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bramble_model::names::Mac;
use dhcproto::v4::Message;
use dhcproto::{Decodable, Decoder};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use super::raw::Wire;
use super::{Lease, Port, Server, Target, encode};
use crate::Directory;

/// The wire that is served.
#[derive(Debug, Clone)]
pub struct Interface {
    pub name: String,
    pub index: u32,
    pub mac: Mac,
    pub address: Ipv4Addr,
}

/// Where leases are kept over a restart.
pub trait LeaseStore: Send + Sync {
    /// Returns when the leases are on disk.
    ///
    /// # Errors
    /// When they are not; the client then gets no answer and asks again.
    fn store(&self, leases: &[Lease]) -> io::Result<()>;
}

/// A UDP socket that sends and hears on one interface only, so that no offer leaves by another.
pub(super) fn bind(interface: &str, port: u16) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_broadcast(true)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
    UdpSocket::from_std(socket.into())
}

/// Serves until cancelled.
///
/// # Errors
/// When a port cannot be had.
pub async fn run(
    mut server: Server,
    interface: Interface,
    directory: Arc<dyn Directory>,
    store: Arc<dyn LeaseStore>,
    stop: CancellationToken,
) -> io::Result<()> {
    let dhcp = bind(&interface.name, 67)?;
    let proxy = bind(&interface.name, 4011)?;
    let wire = Wire::open(interface.index)?;
    let mut one = vec![0; 4096];
    let mut other = vec![0; 4096];
    loop {
        let (port, received) = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            received = dhcp.recv_from(&mut one) => (Port::Dhcp, received.map(|(length, from)| (&one[..length], from))),
            received = proxy.recv_from(&mut other) => (Port::Proxy, received.map(|(length, from)| (&other[..length], from))),
        };
        // An ICMP error of an earlier answer shows up here; the socket lives on.
        let Ok((bytes, from)) = received else { continue };
        let message = match Message::decode(&mut Decoder::new(bytes)) {
            Ok(message) => message,
            Err(error) => {
                tracing::debug!(%from, %error, "not a DHCP message");
                continue;
            }
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let outcome = server.handle(&message, port, now, &*directory);
        if !outcome.store.is_empty()
            && let Err(error) = store.store(&outcome.store)
        {
            tracing::error!(%error, "a lease could not be stored and is not given");
            continue;
        }
        let Some(reply) = outcome.reply else { continue };
        let bytes = encode(&reply.message);
        let socket = if port == Port::Proxy { &proxy } else { &dhcp };
        let to = |address: Ipv4Addr, port| SocketAddr::V4(SocketAddrV4::new(address, port));
        let sent = match reply.to {
            Target::Broadcast => socket.send_to(&bytes, to(Ipv4Addr::BROADCAST, 68)).await.map(drop),
            Target::Relay(relay) => socket.send_to(&bytes, to(relay, 67)).await.map(drop),
            Target::Client(client) => socket.send_to(&bytes, to(client, 68)).await.map(drop),
            Target::Sender => socket.send_to(&bytes, from).await.map(drop),
            Target::Card(mac, address) => wire.send((interface.mac, interface.address), (mac, address), &bytes),
        };
        if let Err(error) = sent {
            tracing::warn!(to = ?reply.to, %error, "an answer could not be sent");
        }
    }
}
