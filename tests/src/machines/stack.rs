//! The network stack of one simulated machine: raw frames before it has an address, and smoltcp's
//! ARP, UDP and TCP after.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{tcp, udp};
use smoltcp::time::Instant as Time;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, IpEndpoint, IpListenEndpoint};

use super::wire::Plug;

/// Frames between smoltcp and the plug.
#[derive(Default)]
struct Queue {
    arrived: VecDeque<Vec<u8>>,
    leaving: VecDeque<Vec<u8>>,
}

struct Arrived(Vec<u8>);
struct Leaving<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut frame = vec![0; length];
        let result = fill(&mut frame);
        self.0.push_back(frame);
        result
    }
}

impl Device for Queue {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Leaving<'a>;

    fn receive(&mut self, _: Time) -> Option<(Arrived, Leaving<'_>)> {
        Some((Arrived(self.arrived.pop_front()?), Leaving(&mut self.leaving)))
    }

    fn transmit(&mut self, _: Time) -> Option<Leaving<'_>> {
        Some(Leaving(&mut self.leaving))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        // The kernel leaves checksums of what it sends to itself for the card to fill in.
        capabilities.checksum.udp = Checksum::Tx;
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}

/// The stack.
pub struct Stack {
    pub plug: Plug,
    interface: Interface,
    device: Queue,
    sockets: SocketSet<'static>,
    start: Instant,
    next_port: u16,
}

impl Stack {
    pub fn new(plug: Plug, seed: u64) -> Self {
        let mut device = Queue::default();
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(plug.mac.0)));
        config.random_seed = seed;
        let interface = Interface::new(config, &mut device, Time::ZERO);
        let next_port = 1024 + (seed % 30_000) as u16;
        Stack { plug, interface, device, sockets: SocketSet::new(Vec::new()), start: Instant::now(), next_port }
    }

    /// Takes an address; an earlier one is forgotten.
    pub fn configure(&mut self, address: Ipv4Addr, prefix: u8, gateway: Option<Ipv4Addr>) {
        self.interface.update_ip_addrs(|addresses| {
            addresses.clear();
            // It was just cleared.
            let _ = addresses.push(IpCidr::new(address.into(), prefix));
        });
        self.interface.routes_mut().remove_default_ipv4_route();
        if let Some(gateway) = gateway {
            let _ = self.interface.routes_mut().add_default_ipv4_route(gateway);
        }
    }

    pub fn address(&self) -> Ipv4Addr {
        self.interface.ipv4_addr().unwrap_or(Ipv4Addr::UNSPECIFIED)
    }

    fn port(&mut self) -> u16 {
        self.next_port = if self.next_port > 60_000 { 1024 } else { self.next_port + 1 };
        self.next_port
    }

    /// Broadcasts a UDP packet from port 68 to port 67, as a machine without an address does.
    pub fn broadcast_dhcp(&mut self, payload: &[u8]) {
        let from = self.address();
        let mac = self.plug.mac;
        self.plug.send(&udp_frame((mac.0, from, 68), ([0xff; 6], Ipv4Addr::BROADCAST, 67), payload));
    }

    /// The next UDP packet to port 68, until `deadline`.
    pub fn receive_dhcp(&mut self, deadline: Instant) -> Option<Vec<u8>> {
        loop {
            let frame = self.plug.receive(deadline)?;
            if let Some((68, payload)) = udp_payload(&frame) {
                return Some(payload.to_vec());
            }
        }
    }

    /// Lets the stack work on what has arrived, and send what it has.
    fn work(&mut self) -> Time {
        let now = Time::from_micros(self.start.elapsed().as_micros() as i64);
        self.interface.poll(now, &mut self.device, &mut self.sockets);
        while let Some(frame) = self.device.leaving.pop_front() {
            self.plug.send(&frame);
        }
        now
    }

    /// Waits for a frame until `deadline` or the stack's own next timer, and lets the stack work on it.
    fn turn(&mut self, deadline: Instant) {
        let now = self.work();
        let delay = self.interface.poll_delay(now, &self.sockets);
        let until =
            delay.map_or(deadline, |delay| deadline.min(Instant::now() + Duration::from_micros(delay.total_micros())));
        if let Some(frame) = self.plug.receive(until) {
            self.device.arrived.push_back(frame);
            // What else is there already.
            while let Some(frame) = self.plug.receive(Instant::now()) {
                self.device.arrived.push_back(frame);
            }
        }
        self.work();
    }

    /// A UDP socket on this port, or on a free one.
    pub fn udp(&mut self, port: Option<u16>) -> Udp {
        let buffer = |packets, bytes| udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; packets], vec![0; bytes]);
        let mut socket = udp::Socket::new(buffer(128, 256 << 10), buffer(16, 16 << 10));
        let port = port.unwrap_or_else(|| self.port());
        socket.bind(IpListenEndpoint::from(port)).expect("a free port");
        Udp { handle: self.sockets.add(socket) }
    }

    pub fn send(&mut self, udp: &Udp, to: SocketAddrV4, payload: &[u8]) {
        let socket = self.sockets.get_mut::<udp::Socket<'_>>(udp.handle);
        // A full buffer loses packets, as a wire does.
        let _ = socket.send_slice(payload, IpEndpoint::new((*to.ip()).into(), to.port()));
        self.work();
    }

    /// The next packet, until `deadline`.
    pub fn receive(&mut self, udp: &Udp, deadline: Instant) -> Option<(SocketAddrV4, Vec<u8>)> {
        loop {
            let socket = self.sockets.get_mut::<udp::Socket<'_>>(udp.handle);
            if let Ok((payload, from)) = socket.recv() {
                let smoltcp::wire::IpAddress::Ipv4(address) = from.endpoint.addr;
                return Some((SocketAddrV4::new(address, from.endpoint.port), payload.to_vec()));
            }
            if Instant::now() >= deadline {
                return None;
            }
            self.turn(deadline);
        }
    }

    pub fn close(&mut self, udp: Udp) {
        self.sockets.remove(udp.handle);
    }

    /// Sends `request` over TCP and gives all that comes back until the other end closes. `silence`
    /// is how long nothing may come.
    ///
    /// # Errors
    /// When no connection is made, it breaks, or falls silent.
    pub fn exchange(
        &mut self,
        to: SocketAddrV4,
        request: &[u8],
        silence: Duration,
        mut take: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), String> {
        let buffer = |bytes| tcp::SocketBuffer::new(vec![0; bytes]);
        let mut socket = tcp::Socket::new(buffer(128 << 10), buffer(4 << 10));
        socket.set_nagle_enabled(false);
        let port = self.port();
        let remote = IpEndpoint::new((*to.ip()).into(), to.port());
        socket.connect(self.interface.context(), remote, port).map_err(|error| error.to_string())?;
        let handle = self.sockets.add(socket);
        let result = self.converse(handle, request, silence, &mut take);
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        socket.abort();
        self.work();
        self.sockets.remove(handle);
        result
    }

    fn converse(
        &mut self,
        handle: SocketHandle,
        mut request: &[u8],
        silence: Duration,
        take: &mut impl FnMut(&[u8]) -> bool,
    ) -> Result<(), String> {
        let mut deadline = Instant::now() + silence;
        loop {
            let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
            if socket.may_send() && !request.is_empty() {
                let sent = socket.send_slice(request).map_err(|error| error.to_string())?;
                request = &request[sent..];
            }
            let mut enough = false;
            while socket.can_recv() {
                deadline = Instant::now() + silence;
                let more = socket.recv(|bytes| (bytes.len(), take(bytes)));
                enough |= !more.map_err(|error| error.to_string())?;
            }
            if enough || (request.is_empty() && !socket.may_recv() && !matches!(socket.state(), tcp::State::SynSent)) {
                return Ok(());
            }
            if !socket.is_open() {
                return Err("the connection was refused or broke".into());
            }
            if Instant::now() > deadline {
                return Err(format!("silence in state {}", socket.state()));
            }
            self.turn(deadline);
        }
    }
}

/// A socket of a [`Stack`].
pub struct Udp {
    handle: SocketHandle,
}

/// An Ethernet frame with a UDP packet in it (RFC 894, 791, 768).
pub fn udp_frame(from: ([u8; 6], Ipv4Addr, u16), to: ([u8; 6], Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    let mut ip = vec![0x45, 0];
    ip.extend((20 + length).to_be_bytes());
    ip.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    ip.extend(from.1.octets());
    ip.extend(to.1.octets());
    let mut sum: u32 = ip.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    ip[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    let mut frame = [&to.0[..], &from.0, &[8, 0]].concat();
    frame.extend(ip);
    for word in [from.2, to.2, length, 0] {
        frame.extend(word.to_be_bytes());
    }
    frame.extend(payload);
    frame
}

/// Destination port and payload of a frame, where it is UDP over IPv4.
fn udp_payload(frame: &[u8]) -> Option<(u16, &[u8])> {
    let ip = frame.strip_prefix(&frame[..12])?.strip_prefix(&[8, 0])?;
    let header = usize::from(ip.first()? & 15) * 4;
    if ip.get(9) != Some(&17) {
        return None;
    }
    let udp = ip.get(header..)?;
    let port = u16::from_be_bytes([*udp.get(2)?, *udp.get(3)?]);
    let length = usize::from(u16::from_be_bytes([*udp.get(4)?, *udp.get(5)?]));
    Some((port, udp.get(8..length)?))
}
