//! The protocols that a machine without a system speaks: DHCP and proxyDHCP, TFTP, HTTP ranges,
//! iPXE scripts, GRUB menus and the IPv6 router question.
//!
//! Each protocol is a machine without sockets (bytes and `now` in, bytes and decisions out) and a
//! thin file of sockets beside it. Who a machine is and what it boots is decided in one place,
//! outside of this crate: see [`Directory`].

pub mod arp;
pub mod away;
pub mod client;
pub mod dhcp;
pub mod grub;
pub mod ipxe;
mod packet;
pub mod pi;
pub mod range;
pub mod recipe;
pub mod router;
pub mod tftp;
pub mod uboot;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::panic::{AssertUnwindSafe, catch_unwind};

use bramble_boot::{Firmware, Loader};
use bramble_model::names::{Mac, Name};
pub use client::{Client, architecture};

/// Does what one message leads to. Where that panics the message is dropped, whose sender asks again, and the next ones
/// are served. What it leaves behind has to be whole between any two lines.
fn isolated<T>(doing: impl FnOnce() -> T) -> Option<T> {
    let done = catch_unwind(AssertUnwindSafe(doing));
    done.inspect_err(|_| tracing::error!("a message is dropped: an error of bramble's own, see above")).ok()
}

/// Who is who: the one decision point behind every protocol.
pub trait Directory: Send + Sync {
    /// What this machine is to the cluster, and what it may boot from `server`; `None` where the repository does
    /// not have it. Only looks: asked for each message of a boot client, before anything is decided on it.
    fn look(&self, client: &Client, server: &BootServer) -> Option<KnownMachine>;
}

/// Whom the sockets tell what came of a message. No decision asks it anything.
pub trait Witness: Send + Sync {
    /// The machine with this card asks for an address, there. Told before anything is decided on its message, of every
    /// message, a machine's that runs, too.
    fn heard(&self, mac: Mac, on: Heard);

    /// Something was seen of the machine with this card. Told after what it leads to has been decided, and before
    /// the machine is answered.
    fn saw(&self, mac: Mac, sight: Sight);
}

/// Where a machine's DHCP was heard.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Heard {
    /// On the wire of this interface.
    Wire(String),
    /// By a relay.
    Relay,
}

/// A machine of the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownMachine {
    pub node: Name,
    /// What its firmware is to fetch first, by [`BootServer::first_file`]; `None` where nothing here boots it.
    pub file: Option<String>,
}

/// What a node's firmware is to fetch first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstFile {
    /// The loader for its firmware, which then asks for a script.
    Loader,
    /// As [`FirstFile::Loader`], signed where the firmware is a UEFI.
    Signed,
    /// This file, by its path here.
    File(String),
}

/// What DHCP sees of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// Its firmware or loader asked.
    Asked(Client),
    /// It was offered this boot file; empty where its firmware knows the names itself.
    Offered { file: String },
    /// It took an address from another server.
    Chose { server: Ipv4Addr },
    /// It was given an address. `firmware` is `None` once its system runs.
    Leased { address: Ipv4Addr, firmware: Option<Firmware> },
    /// It asked the boot server's port, 4011, from this address.
    AskedBootServer { address: Ipv4Addr },
    /// It asked for the head's hardware address, from this one of its own.
    LookedForHead { address: Ipv4Addr },
    /// Nothing here can boot such a firmware.
    NoLoader { firmware: Firmware },
}

/// Where boot files are, as firmware is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootServer {
    /// Address and port of HTTP; TFTP is on the same address.
    pub http: SocketAddrV4,
}

impl BootServer {
    /// What this firmware is to fetch first, if it can boot from here. Empty for firmware that
    /// knows the names of its files itself. `has` says whether there is a loader.
    pub fn first_file(&self, client: &Client, boot: &FirstFile, has: impl Fn(Loader) -> bool) -> Option<String> {
        let firmware = client.firmware?;
        let named = |loader: Loader| loader.name().filter(|_| has(loader));
        let loader = |firmware| ipxe::loader(firmware).and_then(named);
        let shim = |cpu| Some(Loader::Shim(cpu)).filter(|_| *boot == FirstFile::Signed).and_then(named);
        let over_http = |path: &str| format!("http://{}/boot/loader/{path}", self.http);
        match (firmware, boot) {
            (Firmware::Ipxe(_), _) => Some(ipxe::script_url(self.http, client)),
            (Firmware::RaspberryPi(_), _) => Some(String::new()),
            (Firmware::UBoot(_), _) => Some(uboot::BOOT_FILE.into()),
            (Firmware::Uefi(_), FirstFile::File(path)) => Some(path.clone()),
            (Firmware::UefiHttp(_), FirstFile::File(path)) => Some(format!("http://{}/boot/{path}", self.http)),
            (Firmware::Bios, _) => loader(firmware).map(str::to_owned),
            (Firmware::Uefi(cpu), _) => shim(cpu).or_else(|| loader(firmware)).map(str::to_owned),
            (Firmware::UefiHttp(cpu), _) => shim(cpu).or_else(|| loader(Firmware::Uefi(cpu))).map(over_http),
            (Firmware::Other(_), _) => None,
        }
    }
}
