//! Who looks for the head? (RFC 826)
//!
//! A machine that means to fetch something from here asks for the head's hardware address first. In
//! proxy mode that is the only sign that it accepted the offer, and how the address that the router
//! gave it becomes known.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use bramble_model::names::Mac;
use tokio_util::sync::CancellationToken;

use crate::dhcp::Interface;
use crate::{Sight, Witness, isolated, packet};

const ETHERTYPE_ARP: u16 = 0x0806;

/// Reads an Ethernet frame: the machine that asks for `head`.
pub fn hear(frame: &[u8], head: Ipv4Addr) -> Option<(Mac, Ipv4Addr)> {
    let packet = frame.get(14..42)?;
    // Ethernet, IPv4, lengths 6 and 4, and a request.
    if packet[..8] != [0, 1, 8, 0, 6, 4, 0, 1] || packet[24..28] != head.octets() {
        return None;
    }
    let mac = Mac(packet[8..14].try_into().ok()?);
    let address: [u8; 4] = packet[14..18].try_into().ok()?;
    let address = Ipv4Addr::from(address);
    // A probe of its own address (RFC 5227) comes from nowhere.
    (!address.is_unspecified()).then_some((mac, address))
}

/// Listens on one interface until cancelled.
///
/// # Errors
/// When a packet socket is not allowed.
pub async fn run(interface: &Interface, witness: Arc<dyn Witness>, stop: CancellationToken) -> io::Result<()> {
    let socket = packet::open(interface.index, ETHERTYPE_ARP)?;
    packet::listen(socket, 128, &stop, |frame| tell(frame, interface.address, &*witness)).await
}

/// Says whom one frame is from, where that looks for the head.
fn tell(frame: &[u8], head: Ipv4Addr, witness: &dyn Witness) {
    isolated(|| {
        if let Some((mac, address)) = hear(frame, head) {
            witness.saw(mac, Sight::LookedForHead { address });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

    fn request(from: [u8; 4], target: [u8; 4]) -> Vec<u8> {
        let mut frame = vec![0xff; 6];
        frame.extend([2, 0, 0, 0, 0, 7, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 7]);
        frame.extend(from);
        frame.extend([0; 6]);
        frame.extend(target);
        frame
    }

    #[test]
    fn who_asks_for_the_head_is_heard_and_nobody_else() {
        let heard = Some((Mac([2, 0, 0, 0, 0, 7]), [10, 77, 0, 20].into()));
        assert_eq!(hear(&request([10, 77, 0, 20], [10, 77, 0, 1]), HEAD), heard);
        assert_eq!(hear(&request([10, 77, 0, 20], [10, 77, 0, 2]), HEAD), None);
        assert_eq!(hear(&request([0, 0, 0, 0], [10, 77, 0, 1]), HEAD), None, "a probe");
    }

    #[test]
    fn a_frame_over_which_its_witness_panics_is_dropped() {
        struct Ill;
        impl Witness for Ill {
            fn heard(&self, _: Mac, _: crate::Heard) {}

            fn saw(&self, _: Mac, _: Sight) {
                panic!("as an error of bramble's own does");
            }
        }
        tell(&request([10, 77, 0, 20], HEAD.octets()), HEAD, &Ill);
    }

    proptest::proptest! {
        #[test]
        fn no_frame_makes_it_panic(frame: Vec<u8>) {
            let _ = hear(&frame, HEAD);
        }
    }
}
