//! Packet sockets (packet(7)).

use std::io;
use std::mem::size_of;

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

/// A packet socket on the interface of this index, hearing frames of one EtherType; 0 hears none.
/// Needs `CAP_NET_RAW`.
pub(crate) fn open(index: u32, ethertype: u16) -> io::Result<Socket> {
    let protocol = Protocol::from(i32::from(ethertype.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(protocol))?;
    if ethertype != 0 {
        socket.bind(&address(index, ethertype))?;
    }
    Ok(socket)
}

/// The interface, as packet sockets address it.
pub(crate) fn address(index: u32, ethertype: u16) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    let length = size_of::<libc::sockaddr_ll>();
    // SAFETY: `sockaddr_ll` is plain data and fits into the storage.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ethertype.to_be();
    address.sll_ifindex = index.cast_signed();
    address.sll_halen = 6;
    // SAFETY: the storage holds a `sockaddr_ll` of this length.
    unsafe { SockAddr::new(storage, length as libc::socklen_t) }
}
