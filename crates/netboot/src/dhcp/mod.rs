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
//! A machine that the repository does not know gets an address in full mode, of the share that is for such machines, and
//! never a boot file; in proxy mode it gets silence.
//!
//! Who a message is from is what it says of itself, and everyone on the wire can say anything. So no message touches
//! more than one card's own lease or offer, a card has one, and no answer leaves for an address that the repository does
//! not name or the wire does not have.

mod codec;
mod leases;
mod listen;
pub mod probe;
mod raw;
mod serve;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use bramble_boot::{Firmware, Pi};
use bramble_model::names::{Mac, Name};
use bramble_model::repository::{Subnet, mask};
use dhcproto::v4::relay::{RelayCode, RelayInfo};
use dhcproto::v4::{DhcpOption, Flags, Message, MessageType, Opcode, OptionCode};

pub use codec::{decode, encode};
pub use leases::{Lease, Leases};
pub use listen::{Listening, listen};
pub use serve::{Around, Interface, LeaseStore, run};

use crate::away::{Away, Turned};
use crate::client::{Client, option};
use crate::{BootServer, KnownMachine, Sight, pi};

/// Seconds for which an offered address is kept for its client.
const OFFER_SECONDS: u64 = 60;
/// The ROM of a Pi 3 misses an answer that comes at once (raspberrypi/firmware#862).
const PI_ROM_DELAY: Duration = Duration::from_secs(1);
/// A lease whose end would move by less than this many seconds, or an eighth of it, stays as it is on disk: the loaders
/// of one boot ask one after the other, and who asks a thousand times a second has nothing written.
const SAME_LEASE: u64 = 60;

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
    /// Whether the repository has the sender's card: it goes before those that it has not.
    pub is_of_a_node: bool,
    /// Why it gets no answer, where that is to be told.
    pub turned: Option<Turned>,
}

/// One wire that is served: the head's own address on it, which is server identifier and boot
/// server there.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    pub address: Ipv4Addr,
    /// Length of the network prefix in bits.
    pub prefix: u8,
    pub boot: BootServer,
}

impl Link {
    /// Whether this address is on this wire.
    fn reaches(&self, address: Ipv4Addr) -> bool {
        let mask = u32::from(mask(self.prefix));
        u32::from(address) & mask == u32::from(self.address) & mask
    }
}

/// Where a message came in, and from where.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    pub link: &'a Link,
    pub port: Port,
    /// The sender's address, as the message's IP header has it.
    pub from: Ipv4Addr,
}

/// The machine. Without pools it is a proxy.
#[derive(Debug)]
pub struct Server {
    pub domain: String,
    /// One for each subnet, on a wire of the head's own or behind a relay.
    pub pools: Vec<Pool>,
    /// Relays that a proxy answers.
    pub relays: Vec<Ipv4Addr>,
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
    /// Replaces the nodes' cards, each with its fixed address where it has one: that goes to the pool of its subnet.
    pub fn follow(&mut self, cards: &BTreeMap<Mac, Option<Ipv4Addr>>) {
        let without: BTreeSet<Mac> = cards.iter().filter(|(_, fixed)| fixed.is_none()).map(|(mac, _)| *mac).collect();
        for pool in &mut self.pools {
            let fixed = cards.iter().filter_map(|(mac, fixed)| Some((*mac, (*fixed)?)));
            let own = fixed.filter(|(_, address)| pool.subnet.contains(*address));
            pool.leases.follow(own.collect(), without.clone());
        }
    }

    /// These leases are on disk.
    pub fn stored(&mut self, leases: &[Lease]) {
        for lease in leases {
            if let Some(pool) = self.pools.iter_mut().find(|pool| pool.subnet.contains(lease.address)) {
                pool.leases.stored(lease);
            }
        }
    }

    /// Takes one message. `now` is in seconds since the epoch; `known` is what the directory says of a client that
    /// [`asks`].
    pub fn handle(
        &mut self,
        message: &Message,
        arrival: Arrival<'_>,
        now: u64,
        known: Option<&KnownMachine>,
    ) -> Outcome {
        let Arrival { link, port, .. } = arrival;
        let mut outcome = Outcome::default();
        if message.opcode() != Opcode::BootRequest {
            return outcome;
        }
        let (Some(kind), Some(client)) = (message.opts().msg_type(), Client::of(message)) else {
            return outcome;
        };
        let relay = Some(message.giaddr()).filter(|relay| !relay.is_unspecified());
        if let Some(relay) = relay.filter(|relay| !self.is_relay(message, link, *relay)) {
            outcome.turned = Some(Turned { away: Away::Relay, who: format!("the relay {relay}") });
            return outcome;
        }
        outcome.is_of_a_node = known.is_some() || self.pools.iter().any(|pool| pool.leases.is_of_a_node(client.mac));
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
        if let Some(pool) = self.pools.iter_mut().find(|pool| pool.subnet.contains(on)) {
            full(pool, &self.domain, &question, arrival.from, now, &mut outcome);
        }
        outcome
    }

    /// Whether the subnet that this message is for names this relay. An answer to any other would leave for whatever
    /// address the message was made up with.
    pub(crate) fn is_relay(&self, message: &Message, link: &Link, relay: Ipv4Addr) -> bool {
        if self.pools.is_empty() {
            return self.relays.contains(&relay);
        }
        let on = subnet_of(message, link);
        self.pools.iter().any(|pool| pool.subnet.contains(on) && pool.subnet.relays.contains(&relay))
    }
}

/// The address whose subnet the client is on: this wire, the relay itself, or what that says of its link (RFC 3527). A
/// client that says so itself, without a relay, is not believed (RFC 3046, section 2.1).
fn subnet_of(message: &Message, link: &Link) -> Ipv4Addr {
    if message.giaddr().is_unspecified() {
        return link.address;
    }
    if let Some(DhcpOption::RelayAgentInformation(relay)) = option(message, OptionCode::RelayAgentInformation)
        && let Some(RelayInfo::LinkSelection(address)) = relay.get(RelayCode::LinkSelection)
    {
        return *address;
    }
    message.giaddr()
}

fn proxy(question: &Question<'_>, port: Port) -> Option<Reply> {
    let (_, file) = question.boot?;
    let kind = if question.kind == MessageType::Discover { MessageType::Offer } else { MessageType::Ack };
    let mut message = answer(question, kind);
    add_boot(&mut message, question, file, true);
    let to = if port == Port::Proxy {
        Target::Sender
    } else {
        target(question, Ipv4Addr::UNSPECIFIED, |client| question.link.reaches(client))?
    };
    Some(Reply { to, delay: delay(&question.client), message })
}

fn full(pool: &mut Pool, domain: &str, question: &Question<'_>, from: Ipv4Addr, now: u64, outcome: &mut Outcome) {
    let Question { message, client, .. } = question;
    let requested = match option(message, OptionCode::RequestedIpAddress) {
        Some(DhcpOption::RequestedIpAddress(address)) => Some(*address),
        _ => None,
    };
    let seconds = u64::from(pool.subnet.lease_seconds);
    match question.kind {
        MessageType::Discover => {
            let Some(address) = pool.leases.choose(client.mac, requested, now) else {
                outcome.turned = Some(pool.none_for(client.mac));
                return;
            };
            // The ROM of a Pi 3 takes the offer and never sends a REQUEST: the offer is its lease.
            let until = if client.firmware == Some(Firmware::RaspberryPi(Pi::Rom)) {
                // No firmware is named: that it took the offer is not known.
                outcome.saw.push((client.mac, Sight::Leased { address, firmware: None }));
                pool.lease(client.mac, address, now, outcome)
            } else {
                pool.leases.hold(client.mac, address, now, now + OFFER_SECONDS);
                now + seconds
            };
            outcome.reply = with_address(pool, domain, question, MessageType::Offer, address, until - now);
        }
        MessageType::Request => {
            let renewing = message.ciaddr();
            let wanted = if renewing.is_unspecified() { requested } else { Some(renewing) };
            let Some(wanted) = wanted else { return };
            if pool.leases.may_have(client.mac, wanted, now) {
                let until = pool.lease(client.mac, wanted, now, outcome);
                outcome.saw.push((client.mac, Sight::Leased { address: wanted, firmware: client.firmware }));
                outcome.reply = with_address(pool, domain, question, MessageType::Ack, wanted, until - now);
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
            let to = target(question, Ipv4Addr::UNSPECIFIED, |client| pool.subnet.contains(client));
            outcome.reply = to.map(|to| Reply { to, delay: Duration::ZERO, message: reply });
        }
        // From the address that it is about (RFC 2131, section 4.4.6): no program of another machine's says it by a mere
        // datagram of its own.
        MessageType::Release if from == message.ciaddr() => {
            outcome.store.extend(pool.leases.release(client.mac, message.ciaddr(), now));
        }
        MessageType::Decline => {
            let declined =
                requested.and_then(|address| pool.leases.quarantine(client.mac, address, now, now + seconds));
            outcome.store.extend(declined);
        }
        _ => {}
    }
}

impl Pool {
    /// Lends an address that this card may have, and gives the lease's end.
    fn lease(&mut self, mac: Mac, address: Ipv4Addr, now: u64, outcome: &mut Outcome) -> u64 {
        let seconds = u64::from(self.subnet.lease_seconds);
        let until = now + seconds;
        if let Some(lease) = self.leases.covering(mac, address, until, SAME_LEASE.min(seconds / 8)) {
            return lease.until;
        }
        outcome.store.push(self.leases.grant(mac, address, until));
        until
    }

    /// Why this card gets no address.
    fn none_for(&self, mac: Mac) -> Turned {
        let Subnet { address, prefix, .. } = self.subnet;
        let Pool { leases, .. } = self;
        if leases.is_of_a_node(mac) {
            let who = format!("{mac} on {address}/{prefix}, whose pool has {} addresses", leases.size());
            return Turned { away: Away::Exhausted, who };
        }
        let (held, share, size) = (leases.held_by_strangers(), leases.share(), leases.size());
        let who =
            format!("{mac} on {address}/{prefix}, where they hold {held} of {size} addresses and may hold {share}");
        Turned { away: Away::Share, who }
    }
}

fn with_address(
    pool: &Pool,
    domain: &str,
    question: &Question<'_>,
    kind: MessageType,
    address: Ipv4Addr,
    seconds: u64,
) -> Option<Reply> {
    let subnet = &pool.subnet;
    let mut message = answer(question, kind);
    message.set_yiaddr(address);
    if kind == MessageType::Ack {
        message.set_ciaddr(question.message.ciaddr());
    }
    let seconds = u32::try_from(seconds).unwrap_or(subnet.lease_seconds);
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
    let to = target(question, address, |client| subnet.contains(client))?;
    Some(Reply { to, delay: delay(&question.client), message })
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

/// Where an answer that gives `address` goes (RFC 2131, section 4.1): to a client that names its address only where that
/// is one of its subnet. Nowhere else, or whoever makes one up would send the head's answers anywhere.
fn target(question: &Question<'_>, address: Ipv4Addr, is_near: impl Fn(Ipv4Addr) -> bool) -> Option<Target> {
    let Question { message, kind, client, .. } = question;
    if !message.giaddr().is_unspecified() {
        return Some(Target::Relay(message.giaddr()));
    }
    if !message.ciaddr().is_unspecified() {
        if is_near(message.ciaddr()) {
            return Some(Target::Client(message.ciaddr()));
        }
        if *kind == MessageType::Inform {
            return None;
        }
    }
    let on_the_wire = message.flags().broadcast() || address.is_unspecified();
    Some(if on_the_wire { Target::Broadcast } else { Target::Card(client.mac, address) })
}

#[cfg(test)]
mod tests;
