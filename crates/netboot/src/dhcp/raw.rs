//! A frame to a card that has no address yet.
//!
//! Before a client has taken its address it answers no ARP, so a UDP socket cannot reach it: the
//! Ethernet, IP and UDP headers are written here (RFC 894, 791, 768).

use std::io;
use std::net::Ipv4Addr;

use bramble_model::names::Mac;
use socket2::{SockAddr, Socket};

use crate::packet;

const ETHERTYPE_IPV4: u16 = 0x0800;
const UDP: u8 = 17;

/// A packet socket on one interface, for sending only.
pub(super) struct PacketSocket {
    socket: Socket,
    to: SockAddr,
}

impl PacketSocket {
    /// Opens it on the interface of this index. Needs `CAP_NET_RAW`.
    pub(super) fn open(index: u32) -> io::Result<Self> {
        Ok(PacketSocket { socket: packet::open(index, 0)?, to: packet::address(index, ETHERTYPE_IPV4) })
    }

    /// Sends `payload` from port 67 of `from` to port 68 of `to`.
    pub(super) fn send(&self, from: (Mac, Ipv4Addr), to: (Mac, Ipv4Addr), payload: &[u8]) -> io::Result<()> {
        self.socket.send_to(&frame(from, to, payload), &self.to).map(drop)
    }
}

fn frame(from: (Mac, Ipv4Addr), to: (Mac, Ipv4Addr), payload: &[u8]) -> Vec<u8> {
    let udp_length = u16::try_from(8 + payload.len()).expect("a DHCP message is short");
    let mut ip = vec![0x45, 0];
    ip.extend((20 + udp_length).to_be_bytes());
    // No identification, do not fragment, hop limit 64, checksum to come.
    ip.extend([0, 0, 0x40, 0, 64, UDP, 0, 0]);
    ip.extend(from.1.octets());
    ip.extend(to.1.octets());
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = Vec::with_capacity(14 + 20 + usize::from(udp_length));
    frame.extend(to.0.0);
    frame.extend(from.0.0);
    frame.extend(ETHERTYPE_IPV4.to_be_bytes());
    frame.extend(ip);
    frame.extend(67_u16.to_be_bytes());
    frame.extend(68_u16.to_be_bytes());
    frame.extend(udp_length.to_be_bytes());
    // UDP over IPv4 may leave its checksum out.
    frame.extend([0, 0]);
    frame.extend(payload);
    frame
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_a_known_header() {
        let header = [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7];
        assert_eq!(checksum(&header), 0xb861);
    }

    #[test]
    fn a_frame_has_its_lengths_and_a_header_that_sums_to_zero() {
        let card = |last| Mac([2, 0, 0, 0, 0, last]);
        let frame = frame((card(1), [10, 77, 0, 1].into()), (card(2), [10, 77, 0, 9].into()), &[7; 300]);
        assert_eq!(frame.len(), 14 + 20 + 8 + 300);
        assert_eq!(checksum(&frame[14..34]), 0);
        assert_eq!(&frame[..6], &card(2).0);
    }
}
