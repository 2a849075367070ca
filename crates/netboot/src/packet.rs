//! Packet sockets (packet(7)), and socket options that no library here names.

use std::io;
use std::mem::size_of;
use std::os::fd::AsRawFd;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

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

/// Hands on every frame that a packet socket hears, as far as `longest` bytes of it, until cancelled.
///
/// # Errors
/// When the runtime does not take the socket.
pub(crate) async fn listen(
    socket: Socket,
    longest: usize,
    stop: &CancellationToken,
    heard: impl Fn(&[u8]),
) -> io::Result<()> {
    // tokio has no packet sockets; its UDP socket only ever calls recv, which is the same.
    let socket = UdpSocket::from_std(socket.into())?;
    let mut buffer = vec![0; longest];
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            received = socket.recv(&mut buffer) => match received {
                Ok(length) => heard(&buffer[..length]),
                // The interface went down; it may come back.
                Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
            },
        }
    }
}

/// Has the kernel drop every frame that is no UDP of IPv4 to this port (socket(7), `SO_ATTACH_FILTER`): what else is on
/// the wire wakes nobody.
pub(crate) fn only_udp_to(socket: &Socket, port: u16) -> io::Result<()> {
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let (load_byte, load_far) = (0x30, 0x48);
    let (equal, header_length, give) = (0x15, 0xb1, 0x06);
    let mut program = [
        // The protocol is UDP, which begins behind a header of this length.
        step(load_byte, 0, 0, 23),
        step(equal, 0, 4, 17),
        step(header_length, 0, 0, 14),
        step(load_far, 0, 0, 16),
        step(equal, 0, 1, u32::from(port)),
        step(give, 0, 0, u32::from(u16::MAX)),
        step(give, 0, 0, 0),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    let length = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: the descriptor is open, and the kernel copies the program before the call returns.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            length,
        )
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets a socket option whose value is an int (setsockopt(2)).
pub(crate) fn set_option(socket: &impl AsRawFd, level: i32, name: i32, value: libc::c_int) -> io::Result<()> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is open, and the value is an int of the length that is told.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
