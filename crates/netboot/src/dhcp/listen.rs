//! Hearing the DHCP of a wire where the router does all of it: who asks, and where, and no answer.
//!
//! What machines ask is for everyone on the wire (RFC 2131, section 4.1). The port is left to whoever serves there: this
//! is a packet socket.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;

use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use super::decode;
use super::serve::{Interface, tell};
use crate::client::Client;
use crate::{Sight, Witness, isolated, packet};

const ETHERTYPE_IPV4: u16 = 0x0800;
const UDP: u8 = 17;
/// The port of DHCP servers.
const SERVER: u16 = 67;

/// Reads an Ethernet frame: from where a message to a DHCP server comes, and the message.
fn message(frame: &[u8]) -> Option<(SocketAddr, &[u8])> {
    let packet = frame.get(14..)?;
    let (first, protocol) = (*packet.first()?, *packet.get(9)?);
    let header = usize::from(first & 0x0f) * 4;
    // Version 4, and the first fragment of one that has no more: no message to a server is as long.
    let fragment = u16::from_be_bytes(packet.get(6..8)?.try_into().ok()?) & 0x3fff;
    if first >> 4 != 4 || header < 20 || protocol != UDP || fragment != 0 {
        return None;
    }
    let from = Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(12..16)?).ok()?);
    let udp = packet.get(header..)?;
    let number = |at: usize| Some(u16::from_be_bytes(udp.get(at..at + 2)?.try_into().ok()?));
    let (port, to, length) = (number(0)?, number(2)?, usize::from(number(4)?));
    let from = SocketAddr::V4(SocketAddrV4::new(from, port));
    (to == SERVER).then_some((from, udp.get(8..length)?))
}

/// Listens on one interface until cancelled.
///
/// # Errors
/// When a packet socket is not allowed.
pub async fn listen(
    interface: &Interface,
    relays: &[Ipv4Addr],
    witness: Arc<dyn Witness>,
    stop: CancellationToken,
) -> io::Result<()> {
    let socket = packet::open(interface.index, ETHERTYPE_IPV4)?;
    packet::only_udp_to(&socket, SERVER)?;
    // tokio has no packet sockets; its UDP socket only ever calls recv, which is the same.
    let socket = UdpSocket::from_std(socket.into())?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            received = socket.recv(&mut buffer) => match received {
                Ok(length) => length,
                // The interface went down; it may come back.
                Err(_) => {
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                    continue;
                }
            },
        };
        isolated(|| hear(&buffer[..length], interface, relays, &*witness));
    }
}

/// Tells of whom a frame is.
fn hear(frame: &[u8], on: &Interface, relays: &[Ipv4Addr], witness: &dyn Witness) {
    let Some((from, bytes)) = message(frame) else { return };
    let Some(message) = decode(bytes) else { return };
    tell(&message, on, from, relays.contains(&message.giaddr()), witness);
    let asks = message.opts().msg_type().is_some() && message.opcode() == dhcproto::v4::Opcode::BootRequest;
    if let Some(client) = Client::of(&message).filter(|client| asks && client.firmware.is_some()) {
        witness.saw(client.mac, Sight::Asked(client));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use bramble_model::names::Mac;
    use dhcproto::v4::{DhcpOption, Message, MessageType};

    use super::*;
    use crate::Heard;
    use crate::dhcp::encode;

    #[derive(Default)]
    struct Ear(Mutex<Vec<(Mac, Option<Heard>)>>);

    impl Witness for Ear {
        fn heard(&self, mac: Mac, on: Heard) {
            self.0.lock().expect("nobody panicked").push((mac, Some(on)));
        }

        fn saw(&self, mac: Mac, _: Sight) {
            self.0.lock().expect("nobody panicked").push((mac, None));
        }
    }

    const CARD: Mac = Mac([2, 0, 0, 0, 0, 7]);

    fn frame(from: [u8; 4], to: u16, class: &[u8], relay: Ipv4Addr) -> Vec<u8> {
        let none = Ipv4Addr::UNSPECIFIED;
        let mut asks = Message::new_with_id(7, none, none, none, relay, &CARD.0);
        asks.opts_mut().insert(DhcpOption::MessageType(MessageType::Discover));
        asks.opts_mut().insert(DhcpOption::ClassIdentifier(class.to_vec()));
        let payload = encode(&asks);
        let mut frame = vec![0xff; 14];
        frame.extend([0x45, 0, 0, 0, 0, 0, 0, 0, 64, UDP, 0, 0]);
        frame.extend(from);
        frame.extend([255; 4]);
        frame.extend(68_u16.to_be_bytes());
        frame.extend(to.to_be_bytes());
        frame.extend((payload.len() as u16 + 8).to_be_bytes());
        frame.extend([0, 0]);
        frame.extend(payload);
        frame
    }

    fn heard(frame: &[u8]) -> Vec<(Mac, Option<Heard>)> {
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        let address = Ipv4Addr::new(10, 77, 0, 1);
        let on = Interface { name: "eth0".into(), index: 1, mac, address, prefix: 24, gateway: None };
        let ear = Ear::default();
        hear(frame, &on, &[Ipv4Addr::new(10, 99, 0, 1)], &ear);
        ear.0.into_inner().expect("nobody panicked")
    }

    #[test]
    fn who_asks_a_router_is_heard_and_where() {
        let none = Ipv4Addr::UNSPECIFIED;
        let wire = (CARD, Some(Heard::Wire("eth0".into())));
        assert_eq!(heard(&frame([0; 4], 67, b"PXEClient", none)), [wire.clone(), (CARD, None)]);
        assert_eq!(heard(&frame([0; 4], 67, b"MSFT 5.0", none)), std::slice::from_ref(&wire), "it boots nothing");
        assert_eq!(
            heard(&frame([10, 77, 0, 9], 67, b"MSFT 5.0", none)),
            [],
            "a program of a machine that runs says so"
        );
        assert_eq!(heard(&frame([192, 168, 9, 9], 67, b"MSFT 5.0", none)), [], "it is on another wire");
        let relay = Ipv4Addr::new(10, 99, 0, 1);
        assert_eq!(heard(&frame([192, 168, 9, 9], 67, b"MSFT 5.0", relay)), [(CARD, Some(Heard::Relay))]);
        let other = Ipv4Addr::new(10, 99, 0, 2);
        assert_eq!(heard(&frame([192, 168, 9, 9], 67, b"MSFT 5.0", other)), [], "nobody names that one");
        assert_eq!(heard(&frame([0; 4], 69, b"PXEClient", none)), [], "another port");
    }

    proptest::proptest! {
        #[test]
        fn no_frame_makes_it_panic(mut bytes: Vec<u8>, cut in 0..400_usize) {
            heard(&bytes);
            bytes.truncate(60);
            let mut frame = frame([0; 4], 67, &bytes, Ipv4Addr::UNSPECIFIED);
            frame.truncate(cut);
            heard(&frame);
        }
    }
}
