//! Hearing who of a wire asks for an address: beside the head's own DHCP, and where the router does all of it.
//!
//! What a machine asks before it has an address is a broadcast from port 68 (RFC 2131, section 4.1), and that is what
//! counts as hearing it here: a container behind a router sends no broadcast, and a program without rights has no such
//! port. The head's ports are left to whoever serves there: this is a packet socket.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use dhcproto::v4::{Message, MessageType, Opcode};
use tokio_util::sync::CancellationToken;

use super::decode;
use super::serve::Interface;
use crate::client::Client;
use crate::{Heard, Sight, Witness, isolated, packet};

/// Who answers what is heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listening {
    /// The head's own sockets, which tell the rest.
    Beside,
    /// The router: what is heard is all that is seen. Relays that send it here, too, are these.
    Alone { relays: Vec<Ipv4Addr> },
}

const ETHERTYPE_IPV4: u16 = 0x0800;
const UDP: u8 = 17;
/// The ports of DHCP's servers and clients.
const SERVER: u16 = 67;
const CLIENT: u16 = 68;

/// Reads an Ethernet frame: where a message to a DHCP server comes from and goes to, and the message.
fn message(frame: &[u8]) -> Option<(SocketAddrV4, Ipv4Addr, &[u8])> {
    let packet = frame.get(14..)?;
    let (first, protocol) = (*packet.first()?, *packet.get(9)?);
    let header = usize::from(first & 0x0f) * 4;
    // Version 4, and the first fragment of one that has no more: no message to a server is as long.
    let fragment = u16::from_be_bytes(packet.get(6..8)?.try_into().ok()?) & 0x3fff;
    if first >> 4 != 4 || header < 20 || protocol != UDP || fragment != 0 {
        return None;
    }
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
    let (from, to) = (address(12)?, address(16)?);
    let udp = packet.get(header..)?;
    let number = |at: usize| Some(u16::from_be_bytes(udp.get(at..at + 2)?.try_into().ok()?));
    let (port, server, length) = (number(0)?, number(2)?, usize::from(number(4)?));
    (server == SERVER).then_some((SocketAddrV4::new(from, port), to, udp.get(8..length)?))
}

/// The machine that asks for an address by this message, which has none that it renews.
pub(super) fn starts(message: &Message) -> Option<Client> {
    let asks = matches!(message.opts().msg_type(), Some(MessageType::Discover | MessageType::Request));
    let anew = message.opcode() == Opcode::BootRequest && message.ciaddr().is_unspecified();
    Client::of(message).filter(|_| asks && anew)
}

/// Listens on one interface until cancelled.
///
/// # Errors
/// When a packet socket is not allowed.
pub async fn listen(
    interface: &Interface,
    how: &Listening,
    witness: Arc<dyn Witness>,
    stop: CancellationToken,
) -> io::Result<()> {
    let socket = packet::open(interface.index, ETHERTYPE_IPV4)?;
    packet::only_udp_to(&socket, SERVER)?;
    packet::listen(socket, 4096, &stop, |frame| {
        isolated(|| hear(frame, interface, how, &*witness));
    })
    .await
}

/// Tells of whom a frame is.
fn hear(frame: &[u8], on: &Interface, how: &Listening, witness: &dyn Witness) {
    let Some((from, to, bytes)) = message(frame) else { return };
    let Some(message) = decode(bytes) else { return };
    if let Some(client) = starts(&message) {
        let relay = message.giaddr();
        match how {
            _ if relay.is_unspecified() => {
                if from.port() == CLIENT && to.is_broadcast() {
                    witness.heard(client.mac, Heard::Wire(on.name.clone()));
                }
            }
            Listening::Alone { relays } if relays.contains(&relay) => witness.heard(client.mac, Heard::Relay),
            Listening::Alone { .. } | Listening::Beside => {}
        }
    }
    let is_seen = *how != Listening::Beside && message.opcode() == Opcode::BootRequest;
    if let Some(client) = Client::of(&message).filter(|client| is_seen && client.firmware.is_some()) {
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

    const NOBODY: [u8; 4] = [0; 4];
    const EVERYONE: [u8; 4] = [255; 4];

    fn frame((from, port): ([u8; 4], u16), to: [u8; 4], class: &[u8], relay: Ipv4Addr) -> Vec<u8> {
        let none = Ipv4Addr::UNSPECIFIED;
        let mut asks = Message::new_with_id(7, none, none, none, relay, &CARD.0);
        asks.opts_mut().insert(DhcpOption::MessageType(MessageType::Discover));
        asks.opts_mut().insert(DhcpOption::ClassIdentifier(class.to_vec()));
        let payload = encode(&asks);
        let mut frame = vec![0xff; 14];
        frame.extend([0x45, 0, 0, 0, 0, 0, 0, 0, 64, UDP, 0, 0]);
        frame.extend(from);
        frame.extend(to);
        frame.extend(port.to_be_bytes());
        frame.extend(SERVER.to_be_bytes());
        frame.extend((payload.len() as u16 + 8).to_be_bytes());
        frame.extend([0, 0]);
        frame.extend(payload);
        frame
    }

    fn heard_by(how: &Listening, frame: &[u8]) -> Vec<(Mac, Option<Heard>)> {
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        let address = Ipv4Addr::new(10, 77, 0, 1);
        let on = Interface { name: "eth0".into(), index: 1, mac, address, prefix: 24, gateway: None };
        let ear = Ear::default();
        hear(frame, &on, how, &ear);
        ear.0.into_inner().expect("nobody panicked")
    }

    fn heard(frame: &[u8]) -> Vec<(Mac, Option<Heard>)> {
        heard_by(&Listening::Alone { relays: vec![Ipv4Addr::new(10, 99, 0, 1)] }, frame)
    }

    #[test]
    fn who_asks_is_heard_and_where_and_no_program_that_says_to_be_a_machine() {
        let none = Ipv4Addr::UNSPECIFIED;
        let wire = (CARD, Some(Heard::Wire("eth0".into())));
        let asks = frame((NOBODY, 68), EVERYONE, b"PXEClient", none);
        assert_eq!(heard(&asks), [wire.clone(), (CARD, None)]);
        assert_eq!(heard_by(&Listening::Beside, &asks), std::slice::from_ref(&wire), "the head's own sockets see it");
        assert_eq!(heard(&frame((NOBODY, 68), EVERYONE, b"MSFT 5.0", none)), std::slice::from_ref(&wire));
        assert_eq!(heard(&frame(([10, 77, 0, 9], 68), EVERYONE, b"MSFT 5.0", none)), [wire], "iPXE that asks again");
        for (from, to, why) in [
            (([10, 77, 0, 9], 40_000), EVERYONE, "a program without rights"),
            (([10, 77, 0, 9], 68), [10, 77, 0, 1], "a container behind a router"),
        ] {
            assert_eq!(heard(&frame(from, to, b"MSFT 5.0", none)), [], "{why}");
        }
        let relayed = |relay: [u8; 4]| frame(([192, 168, 9, 9], 67), [10, 77, 0, 1], b"MSFT 5.0", relay.into());
        assert_eq!(heard(&relayed([10, 99, 0, 1])), [(CARD, Some(Heard::Relay))]);
        assert_eq!(heard(&relayed([10, 99, 0, 2])), [], "nobody names that one");
        assert_eq!(heard_by(&Listening::Beside, &relayed([10, 99, 0, 1])), []);
    }

    proptest::proptest! {
        #[test]
        fn no_frame_makes_it_panic(mut bytes: Vec<u8>, cut in 0..400_usize) {
            heard(&bytes);
            bytes.truncate(60);
            let mut frame = frame((NOBODY, 68), EVERYONE, &bytes, Ipv4Addr::UNSPECIFIED);
            frame.truncate(cut);
            heard(&frame);
        }
    }
}
