//! The protocols that a machine without a system speaks: DHCP and proxyDHCP, TFTP, HTTP ranges,
//! iPXE scripts and the IPv6 router question.
//!
//! Each protocol is a machine without sockets (bytes and `now` in, bytes and decisions out) and a
//! thin file of sockets beside it. Who a machine is and what it boots is decided in one place,
//! outside of this crate: see [`Directory`].

pub mod client;
pub mod dhcp;
pub mod ipxe;
pub mod range;
pub mod recipe;
pub mod router;
pub mod tftp;

use std::net::SocketAddrV4;

use bramble_model::names::Name;
pub use client::{Client, Firmware};

/// Who is who: the one decision point behind every protocol.
pub trait Directory: Send + Sync {
    /// What this machine is to the cluster. Asked for each DHCP message of a boot client, so that
    /// whoever answers also learns that the machine was seen.
    fn who(&self, client: &Client) -> Who;

    /// A node was offered a boot file.
    fn offered(&self, node: &Name, file: &str);

    /// A loader left by TFTP; the machine is known by its address only.
    fn tftp_sent(&self, to: std::net::Ipv4Addr, file: &str, bytes: u64);
}

/// What a machine is to the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// A node, which may boot.
    Node(Name),
    /// Not in the repository: it is seen, and given nothing to boot.
    Unknown,
}

/// Where boot files are, as firmware is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootServer {
    /// Address and port of HTTP; TFTP is on the same address.
    pub http: SocketAddrV4,
}

impl BootServer {
    /// What this firmware is to fetch first, if it can boot from here.
    pub fn first_file(&self, client: &Client) -> Option<String> {
        match client.firmware? {
            // iPXE needs a script and no second copy of itself, whether it came from a card's ROM
            // or from here.
            Firmware::Ipxe => Some(format!("http://{}/boot/script/{}", self.http, client.mac)),
            Firmware::Bios => Some(ipxe::BIOS_LOADER.into()),
            Firmware::UefiX64 => Some(ipxe::UEFI_X64_LOADER.into()),
            Firmware::UefiHttpX64 => Some(format!("http://{}/boot/loader/{}", self.http, ipxe::UEFI_X64_LOADER)),
            Firmware::RaspberryPi | Firmware::Other(_) => None,
        }
    }
}
