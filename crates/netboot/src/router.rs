//! "Is there an IPv6 router?": "No." (RFC 4861)
//!
//! iPXE waits 13 seconds for a router advertisement before it fetches anything. Where the wire has
//! no IPv6 router, an advertisement of lifetime 0 ("I am no default router") ends that wait. Where
//! a real router is heard, this stays silent for good.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use crate::isolated;

const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// What an ICMPv6 packet means to the machine that says "no router here".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Someone asks.
    Question,
    /// A real router speaks.
    Router,
    Nothing,
}

/// Reads an ICMPv6 packet (RFC 4861, sections 4.1 and 4.2).
pub fn hear(packet: &[u8]) -> Heard {
    match packet {
        [SOLICITATION, 0, _, _, _, _, _, _, ..] => Heard::Question,
        // Router lifetime in seconds: zero is what this program itself says.
        [ADVERTISEMENT, 0, _, _, _, _, high, low, ..] if (*high, *low) != (0, 0) => Heard::Router,
        _ => Heard::Nothing,
    }
}

/// Type, code, checksum (the kernel's), hop limit, flags, lifetime 0, reachable and retransmit time.
const NO_ROUTER: [u8; 16] = [ADVERTISEMENT, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Answers on one interface until cancelled or until a real router is heard; `true` for the latter.
///
/// # Errors
/// When the interface has no IPv6, or the raw socket is not allowed.
pub async fn run(interface: &str, index: u32, stop: CancellationToken) -> io::Result<bool> {
    let socket = Socket::new(Domain::IPV6, Type::RAW.nonblocking(), Some(Protocol::ICMPV6))?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.join_multicast_v6(&ALL_ROUTERS, index)?;
    socket.set_multicast_if_v6(index)?;
    // Neighbour discovery packets with another hop limit are forged (section 6.1.2).
    socket.set_multicast_hops_v6(255)?;
    socket.set_multicast_loop_v6(false)?;
    // tokio has no raw sockets; its UDP socket only ever calls recv and sendto, which are the same.
    let socket = UdpSocket::from_std(socket.into())?;
    let mut buffer = [0; 1500];
    loop {
        let length = tokio::select! {
            () = stop.cancelled() => return Ok(false),
            received = socket.recv(&mut buffer) => received?,
        };
        match isolated(|| hear(&buffer[..length])).unwrap_or(Heard::Nothing) {
            Heard::Question => {
                let everyone = SocketAddr::V6(SocketAddrV6::new(ALL_NODES, 0, 0, index));
                // A lost answer costs the asker its wait, no more.
                let _ = socket.send_to(&NO_ROUTER, everyone).await;
            }
            Heard::Router => return Ok(true),
            Heard::Nothing => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_a_router_and_our_own_answer_are_told_apart() {
        assert_eq!(hear(&[133, 0, 0, 0, 0, 0, 0, 0]), Heard::Question);
        assert_eq!(hear(&[134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]), Heard::Router);
        assert_eq!(hear(&NO_ROUTER), Heard::Nothing);
        assert_eq!(hear(&[135, 0]), Heard::Nothing);
    }

    proptest::proptest! {
        #[test]
        fn no_packet_makes_it_panic(packet: Vec<u8>) {
            let _ = hear(&packet);
        }
    }
}
