//! DHCP (RFC 2131) and proxyDHCP (PXE 2.1, section 2): one machine, with or without addresses to
//! hand out.
//!
//! ```text
//!            full                                proxy
//! DISCOVER ─▶ OFFER (address, boot file)         OFFER (boot file only)       port 67
//! REQUEST  ─▶ ACK, or NAK for a wrong address    –                            port 67
//! REQUEST  ─▶ –                                  ACK (boot file)              port 4011
//! INFORM   ─▶ ACK (no address)                   ACK (boot file)              67 and 4011
//! RELEASE, DECLINE ─▶ the lease changes          –
//! ```
//! A machine that the repository does not know gets an address in full mode and never a boot
//! file; in proxy mode it gets silence.

mod leases;
pub mod probe;
mod raw;
mod serve;

use std::net::Ipv4Addr;

use bramble_model::names::{Mac, Name};
use bramble_model::repository::Subnet;
use dhcproto::v4::{DhcpOption, Flags, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Encodable, Encoder};

pub use leases::{Lease, Leases};
pub use serve::{Interface, LeaseStore, run};

use crate::client::{Client, Firmware, option};
use crate::{BootServer, Directory, Who};

/// Relays and old clients drop shorter messages: the BOOTP minimum (RFC 1542, section 2.1).
const SHORTEST: usize = 300;
/// Seconds for which an offered address is kept for its client.
const OFFER_SECONDS: u64 = 60;

/// The port that a message came in on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// 67: DHCP.
    Dhcp,
    /// 4011: the boot server of a proxy offer.
    Proxy,
}

/// Where an answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Everyone on the wire, port 68.
    Broadcast,
    /// A relay agent, port 67.
    Relay(Ipv4Addr),
    /// A client that has an address, port 68.
    Client(Ipv4Addr),
    /// A client that has no address yet: a frame to its card.
    Card(Mac, Ipv4Addr),
    /// Back to where the message came from, on the port that it came from.
    Sender,
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub to: Target,
    pub message: Message,
}

/// What a message leads to.
#[derive(Debug, Default)]
pub struct Outcome {
    pub reply: Option<Reply>,
    /// To be stored durably before the reply is sent, or the address could be given twice.
    pub store: Vec<Lease>,
}

/// The machine. Without a pool it is a proxy.
#[derive(Debug)]
pub struct Server {
    /// The head's own address on this wire: server identifier and boot server.
    pub address: Ipv4Addr,
    pub boot: BootServer,
    pub domain: String,
    pub pool: Option<Pool>,
}

/// What full DHCP hands out.
#[derive(Debug)]
pub struct Pool {
    pub subnet: Subnet,
    pub leases: Leases,
}

impl Server {
    /// Takes one message. `now` is in seconds since the epoch.
    pub fn handle(&mut self, message: &Message, port: Port, now: u64, directory: &dyn Directory) -> Outcome {
        if message.opcode() != Opcode::BootRequest {
            return Outcome::default();
        }
        let (Some(kind), Some(client)) = (message.opts().msg_type(), Client::of(message)) else {
            return Outcome::default();
        };
        // A message for another server is none of this one's business (RFC 2131, section 4.3.2).
        if let Some(DhcpOption::ServerIdentifier(server)) = option(message, OptionCode::ServerIdentifier)
            && *server != self.address
        {
            if let (Some(pool), MessageType::Request) = (&mut self.pool, kind) {
                pool.leases.forget_offer(client.mac);
            }
            return Outcome::default();
        }
        let boot = self.boot_file(&client, directory);
        match (&mut self.pool, port) {
            (Some(_), Port::Dhcp) => self.full(message, kind, &client, boot, now),
            (None, Port::Dhcp) if !matches!(kind, MessageType::Discover | MessageType::Inform) => Outcome::default(),
            (_, Port::Proxy) if !matches!(kind, MessageType::Request | MessageType::Inform) => Outcome::default(),
            _ => self.proxy(message, kind, &client, boot, port),
        }
    }

    /// Which file the client may boot; tells the directory that it asked.
    fn boot_file(&self, client: &Client, directory: &dyn Directory) -> Option<(Name, String)> {
        client.firmware?;
        match directory.who(client) {
            Who::Node(node) => {
                let file = self.boot.first_file(client)?;
                directory.offered(&node, &file);
                Some((node, file))
            }
            Who::Unknown => None,
        }
    }

    fn proxy(
        &self,
        message: &Message,
        kind: MessageType,
        client: &Client,
        boot: Option<(Name, String)>,
        port: Port,
    ) -> Outcome {
        let Some((_, file)) = boot else { return Outcome::default() };
        let kind = if kind == MessageType::Discover { MessageType::Offer } else { MessageType::Ack };
        let mut reply = self.answer(message, kind);
        self.add_boot(&mut reply, client, &file);
        let to = if port == Port::Proxy { Target::Sender } else { target(message, Ipv4Addr::UNSPECIFIED) };
        Outcome { reply: Some(Reply { to, message: reply }), store: Vec::new() }
    }

    fn full(
        &mut self,
        message: &Message,
        kind: MessageType,
        client: &Client,
        boot: Option<(Name, String)>,
        now: u64,
    ) -> Outcome {
        let Some(pool) = &mut self.pool else { return Outcome::default() };
        let requested = match option(message, OptionCode::RequestedIpAddress) {
            Some(DhcpOption::RequestedIpAddress(address)) => Some(*address),
            _ => None,
        };
        let seconds = pool.subnet.lease_seconds;
        match kind {
            MessageType::Discover => {
                let Some(address) = pool.leases.choose(client.mac, requested, now) else {
                    tracing::warn!(mac = %client.mac, "the pool is exhausted");
                    return Outcome::default();
                };
                pool.leases.hold(client.mac, address, now + OFFER_SECONDS);
                self.with_address(message, MessageType::Offer, address, seconds, client, boot, Vec::new())
            }
            MessageType::Request => {
                let renewing = message.ciaddr();
                let wanted = if renewing.is_unspecified() { requested } else { Some(renewing) };
                let Some(wanted) = wanted else { return Outcome::default() };
                if pool.leases.may_have(client.mac, wanted, now) {
                    let lease = pool.leases.grant(client.mac, wanted, now + u64::from(seconds));
                    return self.with_address(message, MessageType::Ack, wanted, seconds, client, boot, vec![lease]);
                }
                let mut reply = self.answer(message, MessageType::Nak);
                reply.opts_mut().insert(DhcpOption::Message(format!("{wanted} is not yours")));
                reply.set_flags(Flags::default().set_broadcast());
                let to =
                    if message.giaddr().is_unspecified() { Target::Broadcast } else { Target::Relay(message.giaddr()) };
                Outcome { reply: Some(Reply { to, message: reply }), store: Vec::new() }
            }
            MessageType::Inform => {
                let mut reply = self.answer(message, MessageType::Ack);
                self.add_network(&mut reply);
                if let Some((_, file)) = boot {
                    self.add_boot(&mut reply, client, &file);
                }
                Outcome {
                    reply: Some(Reply { to: target(message, Ipv4Addr::UNSPECIFIED), message: reply }),
                    store: Vec::new(),
                }
            }
            MessageType::Release => {
                let store = pool.leases.release(client.mac, message.ciaddr(), now).into_iter().collect();
                Outcome { reply: None, store }
            }
            MessageType::Decline => {
                // Only what the client could have been given: nobody takes another's address away.
                let declined = requested.filter(|address| pool.leases.may_have(client.mac, *address, now));
                let store =
                    declined.map(|address| pool.leases.quarantine(client.mac, address, now + u64::from(seconds)));
                Outcome { reply: None, store: store.into_iter().collect() }
            }
            _ => Outcome::default(),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "each is a field of the answer")]
    fn with_address(
        &self,
        message: &Message,
        kind: MessageType,
        address: Ipv4Addr,
        seconds: u32,
        client: &Client,
        boot: Option<(Name, String)>,
        store: Vec<Lease>,
    ) -> Outcome {
        let mut reply = self.answer(message, kind);
        reply.set_yiaddr(address);
        if kind == MessageType::Ack {
            reply.set_ciaddr(message.ciaddr());
        }
        for option in [
            DhcpOption::AddressLeaseTime(seconds),
            DhcpOption::Renewal(seconds / 2),
            DhcpOption::Rebinding(seconds / 8 * 7),
        ] {
            reply.opts_mut().insert(option);
        }
        self.add_network(&mut reply);
        if let Some((node, file)) = boot {
            reply.opts_mut().insert(DhcpOption::Hostname(node.to_string()));
            self.add_boot(&mut reply, client, &file);
        }
        Outcome { reply: Some(Reply { to: target(message, address), message: reply }), store }
    }

    /// An answer to `message` with what every answer has.
    fn answer(&self, message: &Message, kind: MessageType) -> Message {
        let none = Ipv4Addr::UNSPECIFIED;
        let mut reply = Message::new_with_id(message.xid(), none, none, none, message.giaddr(), message.chaddr());
        reply.set_opcode(Opcode::BootReply).set_htype(message.htype()).set_flags(message.flags());
        let options = reply.opts_mut();
        options.insert(DhcpOption::MessageType(kind));
        options.insert(DhcpOption::ServerIdentifier(self.address));
        // Both are echoed: the machine's id (RFC 4578), and what a relay added (RFC 3046).
        for code in
            [OptionCode::ClientMachineIdentifier, OptionCode::RelayAgentInformation, OptionCode::ClientIdentifier]
        {
            if let Some(echo) = option(message, code) {
                options.insert(echo.clone());
            }
        }
        reply
    }

    fn add_network(&self, reply: &mut Message) {
        let Some(Pool { subnet, .. }) = &self.pool else { return };
        let options = reply.opts_mut();
        options.insert(DhcpOption::SubnetMask(subnet.mask()));
        if let Some(router) = subnet.router {
            options.insert(DhcpOption::Router(vec![router]));
        }
        if !subnet.dns.is_empty() {
            options.insert(DhcpOption::DomainNameServer(subnet.dns.clone()));
        }
        options.insert(DhcpOption::DomainName(self.domain.clone()));
    }

    fn add_boot(&self, reply: &mut Message, client: &Client, file: &str) {
        reply.set_siaddr(self.address);
        // U-Boot reads only the BOOTP header, others only the option: both are filled. The header
        // has room for 128 bytes; a longer URL is in the option alone.
        if file.len() < 128 {
            reply.set_fname_str(file);
        }
        let options = reply.opts_mut();
        options.insert(DhcpOption::BootfileName(file.as_bytes().to_vec()));
        options.insert(DhcpOption::TFTPServerName(self.address.to_string().into_bytes()));
        let class: &[u8] = match client.firmware {
            Some(Firmware::UefiHttpX64) => b"HTTPClient",
            _ => b"PXEClient",
        };
        options.insert(DhcpOption::ClassIdentifier(class.to_vec()));
        match client.firmware {
            // Discovery control 8: "the boot file is in this offer, ask nobody else". A BIOS needs
            // it; many UEFIs want an offer without it and then ask port 4011.
            Some(Firmware::Bios) => {
                options.insert(DhcpOption::VendorExtensions(vec![6, 1, 8, 255]));
            }
            // Sub-option 176, `no-pxedhcp`: do not wait two seconds for a proxy offer.
            Some(Firmware::Ipxe) if self.pool.is_some() => {
                let encapsulated = dhcproto::v4::UnknownOption::new(OptionCode::from(175), vec![176, 1, 1]);
                options.insert(DhcpOption::Unknown(encapsulated));
            }
            _ => {}
        }
    }
}

/// Where an answer that gives `address` goes (RFC 2131, section 4.1).
fn target(message: &Message, address: Ipv4Addr) -> Target {
    if !message.giaddr().is_unspecified() {
        Target::Relay(message.giaddr())
    } else if !message.ciaddr().is_unspecified() {
        Target::Client(message.ciaddr())
    } else if message.flags().broadcast() || address.is_unspecified() {
        Target::Broadcast
    } else {
        Target::Card(Mac(message.chaddr().try_into().unwrap_or_default()), address)
    }
}

/// The bytes of a message, padded.
pub fn encode(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(SHORTEST);
    let encoded = message.encode(&mut Encoder::new(&mut bytes));
    debug_assert!(encoded.is_ok(), "an answer of our own encodes");
    bytes.resize(bytes.len().max(SHORTEST), 0);
    bytes
}

#[cfg(test)]
mod tests;
