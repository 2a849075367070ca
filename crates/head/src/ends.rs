//! Who is at a connection.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use tokio::net::TcpStream;

/// The two ends of a connection: where the machine is, and as what it knows the head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends {
    pub(crate) local: SocketAddrV4,
    pub(crate) peer: SocketAddrV4,
}

impl Ends {
    pub(crate) fn of(stream: &TcpStream, peer: SocketAddr) -> io::Result<Self> {
        let v4 = |address| match address {
            SocketAddr::V4(address) => address,
            // The listener's own address is of version 4.
            SocketAddr::V6(_) => SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0),
        };
        Ok(Ends { local: v4(stream.local_addr()?), peer: v4(peer) })
    }
}
