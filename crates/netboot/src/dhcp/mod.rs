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
//! Who the client is comes as an argument, and what was seen of it goes back with the answer: nothing is looked up
//! or recorded while a message is being decided on.
//!
//! A machine that the repository does not know gets an address in full mode and never a boot
//! file; in proxy mode it gets silence.

mod leases;
mod listen;
pub mod probe;
mod raw;
mod serve;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use bramble_boot::{Firmware, Pi};
use bramble_model::names::{Mac, Name};
use bramble_model::repository::Subnet;
use dhcproto::v4::relay::{RelayCode, RelayInfo};
use dhcproto::v4::{DhcpOption, Flags, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable, Decoder, Encodable, Encoder};

pub use leases::{Lease, Leases};
pub use listen::listen;
pub use serve::{Interface, LeaseStore, run};

use crate::client::{Client, option};
use crate::{BootServer, KnownMachine, Sight, pi};

/// Relays and old clients drop shorter messages: the BOOTP minimum (RFC 1542, section 2.1).
const SHORTEST: usize = 300;
/// Seconds for which an offered address is kept for its client.
const OFFER_SECONDS: u64 = 60;
/// The ROM of a Pi 3 misses an answer that comes at once (raspberrypi/firmware#862).
const PI_ROM_DELAY: Duration = Duration::from_secs(1);

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
    /// How long it is held back.
    pub delay: Duration,
    pub message: Message,
}

/// What a message leads to.
#[derive(Debug, Default)]
pub struct Outcome {
    pub reply: Option<Reply>,
    /// To be stored durably before the reply is sent, or the address could be given twice.
    pub store: Vec<Lease>,
    /// What was seen of the machine with this card, in order.
    pub saw: Vec<(Mac, Sight)>,
}

/// One wire that is served: the head's own address on it, which is server identifier and boot
/// server there.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    pub address: Ipv4Addr,
    pub boot: BootServer,
}

/// The machine. Without pools it is a proxy.
#[derive(Debug)]
pub struct Server {
    pub domain: String,
    /// One for each subnet, on a wire of the head's own or behind a relay.
    pub pools: Vec<Pool>,
}

/// What full DHCP hands out on one subnet.
#[derive(Debug)]
pub struct Pool {
    pub subnet: Subnet,
    pub leases: Leases,
}

/// A message that is being answered, and what is known by then.
struct Question<'a> {
    message: &'a Message,
    kind: MessageType,
    client: Client,
    link: &'a Link,
    /// The node and the file that it may boot.
    boot: Option<(&'a Name, &'a str)>,
}

/// The boot client that a message is from, where who it is matters for the answer: whoever has the
/// [`Directory`](crate::Directory) looks it up and hands what is known to [`Server::handle`].
pub fn asks(message: &Message, link: &Link) -> Option<Client> {
    let client = Client::of(message)?;
    (message.opcode() == Opcode::BootRequest && client.firmware.is_some() && elsewhere(message, link).is_none())
        .then_some(client)
}

/// Another server that the message is for: none of this one's business (RFC 2131, section 4.3.2).
fn elsewhere(message: &Message, link: &Link) -> Option<Ipv4Addr> {
    match option(message, OptionCode::ServerIdentifier) {
        Some(DhcpOption::ServerIdentifier(server)) if *server != link.address => Some(*server),
        _ => None,
    }
}

impl Server {
    /// Replaces the fixed addresses of nodes: each goes to the pool of its subnet.
    pub fn fix(&mut self, fixed: &BTreeMap<Mac, Ipv4Addr>) {
        for pool in &mut self.pools {
            let own = fixed.iter().filter(|(_, address)| pool.subnet.contains(**address));
            pool.leases.fix(own.map(|(mac, address)| (*mac, *address)).collect());
        }
    }

    /// Takes one message that came in on `link`. `now` is in seconds since the epoch; `known` is what the directory
    /// says of a client that [`asks`].
    pub fn handle(
        &mut self,
        message: &Message,
        link: &Link,
        port: Port,
        now: u64,
        known: Option<&KnownMachine>,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        if message.opcode() != Opcode::BootRequest {
            return outcome;
        }
        let (Some(kind), Some(client)) = (message.opts().msg_type(), Client::of(message)) else {
            return outcome;
        };
        if let Some(server) = elsewhere(message, link) {
            if kind == MessageType::Request {
                for pool in &mut self.pools {
                    pool.leases.forget_offer(client.mac);
                }
                if client.firmware.is_some() {
                    outcome.saw.push((client.mac, Sight::Chose { server }));
                }
            }
            return outcome;
        }
        let answers = match (self.pools.is_empty(), port) {
            (_, Port::Proxy) => matches!(kind, MessageType::Request | MessageType::Inform),
            (true, Port::Dhcp) => matches!(kind, MessageType::Discover | MessageType::Inform),
            (false, Port::Dhcp) => true,
        };
        if !answers {
            return outcome;
        }
        let boot = known.and_then(|known| Some((&known.node, known.file.as_deref()?)));
        if let Some(firmware) = client.firmware {
            outcome.saw.push((client.mac, Sight::Asked(client.clone())));
            if let Some(known) = known {
                let sight = match &known.file {
                    Some(file) => Sight::Offered { file: file.clone() },
                    None => Sight::NoLoader { firmware },
                };
                outcome.saw.push((client.mac, sight));
            }
        }
        if port == Port::Proxy && boot.is_some() {
            outcome.saw.push((client.mac, Sight::AskedBootServer { address: message.ciaddr() }));
        }
        let question = Question { message, kind, client, link, boot };
        if port == Port::Proxy || self.pools.is_empty() {
            outcome.reply = proxy(&question, port);
            return outcome;
        }
        let on = subnet_of(message, link);
        match self.pools.iter_mut().find(|pool| pool.subnet.contains(on)) {
            Some(pool) => full(pool, &self.domain, &question, now, &mut outcome),
            None => {
                tracing::warn!(mac = %question.client.mac, relay = %on, "no subnet of bramble.toml holds this relay's address");
            }
        }
        outcome
    }
}

/// The address whose subnet the client is on: what a relay says of its link (RFC 3527), the relay
/// itself, or this wire.
fn subnet_of(message: &Message, link: &Link) -> Ipv4Addr {
    if let Some(DhcpOption::RelayAgentInformation(relay)) = option(message, OptionCode::RelayAgentInformation)
        && let Some(RelayInfo::LinkSelection(address)) = relay.get(RelayCode::LinkSelection)
    {
        return *address;
    }
    if message.giaddr().is_unspecified() { link.address } else { message.giaddr() }
}

fn proxy(question: &Question<'_>, port: Port) -> Option<Reply> {
    let (_, file) = question.boot?;
    let kind = if question.kind == MessageType::Discover { MessageType::Offer } else { MessageType::Ack };
    let mut message = answer(question, kind);
    add_boot(&mut message, question, file, true);
    let to = if port == Port::Proxy { Target::Sender } else { target(question.message, Ipv4Addr::UNSPECIFIED) };
    Some(Reply { to, delay: delay(&question.client), message })
}

fn full(pool: &mut Pool, domain: &str, question: &Question<'_>, now: u64, outcome: &mut Outcome) {
    let Question { message, client, .. } = question;
    let requested = match option(message, OptionCode::RequestedIpAddress) {
        Some(DhcpOption::RequestedIpAddress(address)) => Some(*address),
        _ => None,
    };
    let seconds = u64::from(pool.subnet.lease_seconds);
    match question.kind {
        MessageType::Discover => {
            let Some(address) = pool.leases.choose(client.mac, requested, now) else {
                tracing::warn!(mac = %client.mac, "the pool is exhausted");
                return;
            };
            // The ROM of a Pi 3 takes the offer and never sends a REQUEST: the offer is its lease.
            if client.firmware == Some(Firmware::RaspberryPi(Pi::Rom)) {
                // No firmware is named: that it took the offer is not known.
                outcome.saw.push((client.mac, Sight::Leased { address, firmware: None }));
                outcome.store.push(pool.leases.grant(client.mac, address, now + seconds));
            } else {
                pool.leases.hold(client.mac, address, now + OFFER_SECONDS);
            }
            outcome.reply = Some(with_address(&pool.subnet, domain, question, MessageType::Offer, address));
        }
        MessageType::Request => {
            let renewing = message.ciaddr();
            let wanted = if renewing.is_unspecified() { requested } else { Some(renewing) };
            let Some(wanted) = wanted else { return };
            if pool.leases.may_have(client.mac, wanted, now) {
                outcome.store.push(pool.leases.grant(client.mac, wanted, now + seconds));
                outcome.saw.push((client.mac, Sight::Leased { address: wanted, firmware: client.firmware }));
                outcome.reply = Some(with_address(&pool.subnet, domain, question, MessageType::Ack, wanted));
                return;
            }
            let mut reply = answer(question, MessageType::Nak);
            reply.opts_mut().insert(DhcpOption::Message(format!("{wanted} is not yours")));
            reply.set_flags(Flags::default().set_broadcast());
            let to =
                if message.giaddr().is_unspecified() { Target::Broadcast } else { Target::Relay(message.giaddr()) };
            outcome.reply = Some(Reply { to, delay: Duration::ZERO, message: reply });
        }
        MessageType::Inform => {
            let mut reply = answer(question, MessageType::Ack);
            reply.set_ciaddr(message.ciaddr());
            add_network(&mut reply, &pool.subnet, domain);
            if let Some((_, file)) = question.boot {
                add_boot(&mut reply, question, file, false);
            }
            let to = target(message, Ipv4Addr::UNSPECIFIED);
            outcome.reply = Some(Reply { to, delay: Duration::ZERO, message: reply });
        }
        MessageType::Release => outcome.store.extend(pool.leases.release(client.mac, message.ciaddr(), now)),
        MessageType::Decline => {
            // Only what the client could have been given: nobody takes another's address away.
            let declined = requested.filter(|address| pool.leases.may_have(client.mac, *address, now));
            outcome.store.extend(declined.map(|address| pool.leases.quarantine(client.mac, address, now + seconds)));
        }
        _ => {}
    }
}

fn with_address(subnet: &Subnet, domain: &str, question: &Question<'_>, kind: MessageType, address: Ipv4Addr) -> Reply {
    let mut message = answer(question, kind);
    message.set_yiaddr(address);
    if kind == MessageType::Ack {
        message.set_ciaddr(question.message.ciaddr());
    }
    let seconds = subnet.lease_seconds;
    for option in [
        DhcpOption::AddressLeaseTime(seconds),
        DhcpOption::Renewal(seconds / 2),
        DhcpOption::Rebinding(seconds / 8 * 7),
    ] {
        message.opts_mut().insert(option);
    }
    add_network(&mut message, subnet, domain);
    if let Some((node, file)) = question.boot {
        message.opts_mut().insert(DhcpOption::Hostname(node.to_string()));
        add_boot(&mut message, question, file, false);
    }
    let to = target(question.message, address);
    Reply { to, delay: delay(&question.client), message }
}

/// An answer with what every answer has.
fn answer(question: &Question<'_>, kind: MessageType) -> Message {
    let (none, message) = (Ipv4Addr::UNSPECIFIED, question.message);
    let mut reply = Message::new_with_id(message.xid(), none, none, none, message.giaddr(), message.chaddr());
    reply.set_opcode(Opcode::BootReply).set_htype(message.htype()).set_flags(message.flags());
    let options = reply.opts_mut();
    options.insert(DhcpOption::MessageType(kind));
    options.insert(DhcpOption::ServerIdentifier(question.link.address));
    // Both are echoed: the machine's id (RFC 4578), and what a relay added (RFC 3046).
    for code in [OptionCode::ClientMachineIdentifier, OptionCode::RelayAgentInformation, OptionCode::ClientIdentifier] {
        if let Some(echo) = option(message, code) {
            options.insert(echo.clone());
        }
    }
    reply
}

fn add_network(reply: &mut Message, subnet: &Subnet, domain: &str) {
    let options = reply.opts_mut();
    options.insert(DhcpOption::SubnetMask(subnet.mask()));
    if let Some(router) = subnet.router {
        options.insert(DhcpOption::Router(vec![router]));
    }
    if !subnet.dns.is_empty() {
        options.insert(DhcpOption::DomainNameServer(subnet.dns.clone()));
    }
    options.insert(DhcpOption::DomainName(domain.to_owned()));
}

fn add_boot(reply: &mut Message, question: &Question<'_>, file: &str, proxy: bool) {
    let Question { client, link, .. } = question;
    reply.set_siaddr(link.address);
    let options = reply.opts_mut();
    options.insert(DhcpOption::TFTPServerName(link.address.to_string().into_bytes()));
    let class: &[u8] = match client.firmware {
        Some(Firmware::UefiHttp(_)) => b"HTTPClient",
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
        Some(Firmware::Ipxe(_)) if !proxy => {
            let encapsulated = dhcproto::v4::UnknownOption::new(OptionCode::from(175), vec![176, 1, 1]);
            options.insert(DhcpOption::Unknown(encapsulated));
        }
        Some(Firmware::RaspberryPi(pi)) => {
            options.insert(DhcpOption::VendorExtensions(pi::vendor_options(pi)));
        }
        _ => {}
    }
    if !file.is_empty() {
        options.insert(DhcpOption::BootfileName(file.as_bytes().to_vec()));
        // U-Boot reads only the BOOTP header, others only the option: both are filled. The header
        // has room for 128 bytes; a longer URL is in the option alone.
        if file.len() < 128 {
            reply.set_fname_str(file);
        }
    }
}

/// How long this machine's answer is held back.
fn delay(client: &Client) -> Duration {
    match client.firmware {
        Some(Firmware::RaspberryPi(Pi::Rom)) => PI_ROM_DELAY,
        _ => Duration::ZERO,
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

/// Options that mean something here, and the length that they have to have; 0 is any.
const KNOWN: [(u8, usize); 10] =
    [(50, 4), (53, 1), (54, 4), (60, 0), (61, 0), (77, 0), (82, 0), (93, 2), (97, 0), (175, 0)];
/// Bytes of the BOOTP header and the magic cookie (RFC 2131, section 2; RFC 2132, section 2).
const HEADER: usize = 240;
const COOKIE: [u8; 4] = [0x63, 0x82, 0x53, 0x63];

/// Reads a message from the wire. Only what is used here is looked at: an option that firmware gets
/// wrong, or that the library below cannot take (dhcproto 0.15 panics at an option 94 that has not three
/// bytes), does no harm.
pub fn decode(bytes: &[u8]) -> Option<Message> {
    let (header, mut rest) = bytes.split_at_checked(HEADER)?;
    if header[HEADER - 4..] != COOKIE {
        return None;
    }
    let mut plain = header.to_vec();
    while let [code, after @ ..] = rest {
        match (code, after) {
            (0, _) => rest = after,
            (255, _) | (_, []) => break,
            (_, [length, value @ ..]) => {
                // One that is torn ends the message.
                let Some(value) = value.get(..usize::from(*length)) else { break };
                let fits = |wanted: usize| wanted == 0 || wanted == value.len();
                if KNOWN.iter().any(|(known, wanted)| known == code && fits(*wanted)) {
                    plain.extend([*code, *length]);
                    plain.extend(value);
                }
                rest = &after[1 + value.len()..];
            }
        }
    }
    plain.push(255);
    Message::decode(&mut Decoder::new(&plain)).ok()
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
