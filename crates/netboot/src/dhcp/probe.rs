//! Is there another DHCP server on this wire? Asked before full DHCP starts.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bramble_model::names::Mac;
use dhcproto::v4::{DhcpOption, Flags, Message, MessageType, OptionCode};
use tokio::time::Instant;

use super::serve::{Interface, bind_async};
use crate::client::option;
use crate::isolated;

/// A server may ping an address before it offers it: dnsmasq, the router of many homes, waits three
/// seconds for an echo.
const ROUNDS: [Duration; 4] =
    [Duration::from_millis(500), Duration::from_secs(1), Duration::from_millis(1500), Duration::from_millis(2500)];

/// Asks as a client would, four times within five and a half seconds, and gives the servers that answered.
///
/// # Errors
/// When port 68 cannot be had or the interface is down.
pub async fn other_servers(interface: &Interface) -> io::Result<BTreeSet<Ipv4Addr>> {
    let socket = bind_async(&interface.name, 68)?;
    let mut found = BTreeSet::new();
    let question = question(interface.mac);
    let mut buffer = [0; 4096];
    for round in ROUNDS {
        let everyone = SocketAddr::from((Ipv4Addr::BROADCAST, 67));
        socket.send_to(&super::encode(&question), everyone).await?;
        let until = Instant::now() + round;
        while let Ok(received) = tokio::time::timeout_at(until, socket.recv_from(&mut buffer)).await {
            let Ok((length, from)) = received else { continue };
            found.extend(isolated(|| answer(&buffer[..length], question.xid(), from)).flatten());
        }
        if !found.is_empty() {
            break;
        }
    }
    Ok(found)
}

/// A DISCOVER from a card that does not exist, so that no server counts it for a machine.
fn question(mac: Mac) -> Message {
    let none = Ipv4Addr::UNSPECIFIED;
    let mut local = mac.0;
    local[0] = local[0] & 0xfe | 2;
    local[5] ^= 0xff;
    let mut message = Message::new(none, none, none, none, &local);
    message.set_flags(Flags::default().set_broadcast());
    message.opts_mut().insert(DhcpOption::MessageType(MessageType::Discover));
    message.opts_mut().insert(DhcpOption::ParameterRequestList(vec![OptionCode::SubnetMask, OptionCode::Router]));
    message
}

/// The server behind an OFFER to our question.
fn answer(bytes: &[u8], xid: u32, from: SocketAddr) -> Option<Ipv4Addr> {
    let message = super::decode(bytes)?;
    if message.xid() != xid || message.opts().msg_type()? != MessageType::Offer {
        return None;
    }
    match (option(&message, OptionCode::ServerIdentifier), from) {
        (Some(DhcpOption::ServerIdentifier(server)), _) => Some(*server),
        (_, SocketAddr::V4(from)) => Some(*from.ip()),
        _ => None,
    }
}
