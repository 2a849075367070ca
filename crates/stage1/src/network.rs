//! The network that the firmware used, brought up again with the same address (rtnetlink(7)).

use std::fs;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use bramble_boot::{Arguments, Failure};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, bind, recv, send, socket};

use crate::drivers::Drivers;
use crate::error::{Doing, Error};

/// How long a network card may take to appear: USB needs seconds.
const APPEARS: Duration = Duration::from_secs(15);
/// How long its link may take to come up: a switch that runs spanning tree blocks for 30 s and
/// more, but shows a link at once.
const LINKS: Duration = Duration::from_secs(20);

// linux/rtnetlink.h, linux/netlink.h
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_REPLACE: u16 = 0x100;
const IFA_LOCAL: u16 = 2;
const IFA_ADDRESS: u16 = 1;
const RTA_GATEWAY: u16 = 5;
const RTA_OIF: u16 = 4;

/// Brings up the card with the firmware's MAC and gives its name.
pub fn up(arguments: &Arguments, drivers: &mut Drivers) -> Result<String, Error> {
    let name = find(arguments.mac, drivers)?;
    let index: u32 = read(&name, "ifindex")?.parse().doing("ifindex is no number")?;
    set_up(1)?;
    set_up(index)?;
    let start = Instant::now();
    while read(&name, "carrier").ok().as_deref() != Some("1") {
        if start.elapsed() > LINKS {
            let sentence = format!("network card {name} has no link: is its cable plugged in?");
            return Err(Error::new(Failure::NoLink, sentence));
        }
        thread::sleep(Duration::from_millis(20));
    }
    add_address(index, arguments.address, arguments.prefix)?;
    if let Some(gateway) = arguments.gateway {
        add_default_route(index, gateway)?;
    }
    Ok(name)
}

/// Waits until a card with this address is there, loading drivers as devices appear.
fn find(mac: [u8; 6], drivers: &mut Drivers) -> Result<String, Error> {
    let wanted = mac.map(|byte| format!("{byte:02x}")).join(":");
    let start = Instant::now();
    loop {
        let found = fs::read_dir("/sys/class/net").doing("cannot list network cards")?.flatten().find_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            (read(&name, "address").ok()? == wanted).then_some(name)
        });
        if let Some(name) = found {
            return Ok(name);
        }
        if start.elapsed() > APPEARS {
            let sentence =
                format!("no driver of this initrd brought up the network card {wanted} that the firmware booted from");
            return Err(Error::new(Failure::NoDriver, sentence));
        }
        thread::sleep(Duration::from_millis(50));
        drivers.load_for_devices()?;
    }
}

fn read(interface: &str, what: &str) -> Result<String, Error> {
    let path = format!("/sys/class/net/{interface}/{what}");
    fs::read_to_string(&path).map(|text| text.trim().to_owned()).doing(path)
}

fn set_up(index: u32) -> Result<(), Error> {
    const IFF_UP: u32 = 1;
    // struct ifinfomsg: family, pad, type, index, flags, change
    let mut body = vec![0, 0, 0, 0];
    body.extend(index.to_ne_bytes());
    body.extend(IFF_UP.to_ne_bytes());
    body.extend(IFF_UP.to_ne_bytes());
    request(RTM_NEWLINK, 0, body).doing("cannot switch a network card on")
}

fn add_address(index: u32, address: Ipv4Addr, prefix: u8) -> Result<(), Error> {
    // struct ifaddrmsg: family, prefix length, flags, scope, index
    let mut body = vec![libc::AF_INET as u8, prefix, 0, 0];
    body.extend(index.to_ne_bytes());
    attribute(&mut body, IFA_LOCAL, &address.octets());
    attribute(&mut body, IFA_ADDRESS, &address.octets());
    request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, body).doing(format_args!("cannot take the address {address}"))
}

fn add_default_route(index: u32, gateway: Ipv4Addr) -> Result<(), Error> {
    // struct rtmsg: family, dst_len, src_len, tos, table main, protocol boot, scope universe, type unicast, flags
    let mut body = vec![libc::AF_INET as u8, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
    attribute(&mut body, RTA_GATEWAY, &gateway.octets());
    attribute(&mut body, RTA_OIF, &index.to_ne_bytes());
    request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, body).doing(format_args!("cannot route through {gateway}"))
}

/// Appends a `struct rtattr` with its value, padded to four bytes.
fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).expect("attributes here are short");
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// Sends one request and waits for the kernel's word on it.
fn request(kind: u16, flags: u16, body: Vec<u8>) -> Result<(), std::io::Error> {
    // Protocol 0 of this family is NETLINK_ROUTE.
    let socket = socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    let mut message = Vec::new();
    message.extend(u32::try_from(16 + body.len()).expect("requests here are short").to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    send(&socket, &message, SendFlags::empty())?;
    let mut buffer = [0; 4096];
    let (read, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
    // struct nlmsghdr (16 bytes), then struct nlmsgerr, which begins with the negative errno.
    let code = buffer
        .get(16..20)
        .filter(|_| read >= 20)
        .map_or(0, |bytes| i32::from_ne_bytes(bytes.try_into().expect("four bytes")));
    if code == 0 { Ok(()) } else { Err(std::io::Error::from_raw_os_error(-code)) }
}
