use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use dhcproto::v4::{Architecture, DhcpOptions, UnknownOption};
use dhcproto::{Decodable, Decoder};
use proptest::prelude::*;

use super::codec::HEADER;
use super::*;
use bramble_boot::{Cpu, Loader};

const HEAD: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const M1: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);
const STRANGER: Mac = Mac([0x52, 0x54, 0, 0, 0, 0x99]);

/// What a directory that has `m1` and every loader says of the sender.
fn look(message: &Message) -> Option<KnownMachine> {
    let client = asks(message, &link())?;
    let has = |loader: Loader| crate::ipxe::LOADERS.contains(&loader);
    let file = link().boot.first_file(&client, &crate::FirstFile::Loader, has);
    (client.mac == M1).then(|| KnownMachine { node: "m1".parse().expect("a name"), file })
}

/// One message, from whoever sent it.
fn handle(server: &mut Server, message: &Message, port: Port, now: u64) -> Outcome {
    handle_from(server, message, port, message.ciaddr(), now)
}

/// One message, whose IP header names this sender.
fn handle_from(server: &mut Server, message: &Message, port: Port, from: Ipv4Addr, now: u64) -> Outcome {
    let outcome = server.handle(message, Arrival { link: &link(), port, from }, now, look(message).as_ref());
    server.stored(&outcome.store);
    outcome
}

fn link() -> Link {
    Link { address: HEAD, prefix: 24, boot: BootServer { http: "10.77.0.1:7080".parse().expect("an address") } }
}

fn subnet(third: u8) -> Subnet {
    Subnet {
        address: [10, 77, third, 0].into(),
        prefix: 24,
        pool: ([10, 77, third, 100].into(), [10, 77, third, 102].into()),
        router: Some([10, 77, third, 254].into()),
        dns: Vec::new(),
        relays: if third == 0 { Vec::new() } else { vec![[10, 77, third, 1].into(), [10, 99, 0, 1].into()] },
        lease_seconds: 600,
    }
}

/// With the subnet of its own wire and one behind a relay.
fn server(full: bool) -> Server {
    let pool = |third| {
        let fixed = if third == 0 { BTreeMap::from([(M1, Ipv4Addr::new(10, 77, 0, 11))]) } else { BTreeMap::new() };
        let subnet = subnet(third);
        Pool { leases: Leases::new(subnet.pool, fixed, vec![HEAD], []), subnet }
    };
    let pools = if full { vec![pool(0), pool(9)] } else { Vec::new() };
    Server { domain: "home.arpa".into(), pools, relays: vec![[10, 88, 0, 1].into()] }
}

fn message(kind: MessageType, mac: Mac) -> Message {
    let none = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new_with_id(7, none, none, none, none, &mac.0);
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    message
}

/// The same message from a boot client of this architecture.
fn pxe(mut message: Message, architecture: u16) -> Message {
    let class = format!("PXEClient:Arch:{architecture:05}:UNDI:003016").into_bytes();
    message.opts_mut().insert(DhcpOption::ClassIdentifier(class));
    message.opts_mut().insert(DhcpOption::ClientSystemArchitecture(Architecture::from(architecture)));
    message
}

fn ipxe(mut message: Message) -> Message {
    message = pxe(message, 0);
    message.opts_mut().insert(DhcpOption::UserClass(b"iPXE".to_vec()));
    message
}

/// What firmware sees: the message after its way over the wire.
fn reply(outcome: Outcome) -> Option<(Target, Message)> {
    let reply = outcome.reply?;
    let bytes = encode(&reply.message);
    assert!(bytes.len() >= 300);
    Some((reply.to, Message::decode(&mut Decoder::new(&bytes)).expect("decodes")))
}

fn file(message: &Message) -> Option<String> {
    match message.opts().get(OptionCode::BootfileName) {
        Some(DhcpOption::BootfileName(name)) => Some(String::from_utf8_lossy(name).into_owned()),
        _ => None,
    }
}

fn ask(server: &mut Server, message: &Message, port: Port) -> Option<(Target, Message)> {
    reply(handle(server, message, port, 1000))
}

#[test]
fn each_firmware_gets_its_own_loader() {
    let mut server = server(true);
    let mut loader = |message| file(&ask(&mut server, &message, Port::Dhcp).expect("an offer").1);
    let discover = || message(MessageType::Discover, M1);
    assert_eq!(loader(pxe(discover(), 0)).as_deref(), Some("undionly.kpxe"));
    for uefi in [7, 8, 9] {
        assert_eq!(loader(pxe(discover(), uefi)).as_deref(), Some("ipxe.efi"));
    }
    assert_eq!(loader(ipxe(discover())).as_deref(), Some("http://10.77.0.1:7080/boot/script/52:54:00:00:00:01"));
    assert_eq!(loader(discover()), None, "not a boot client");
    assert_eq!(loader(pxe(discover(), 11)).as_deref(), Some("ipxe-arm64.efi"));
    assert_eq!(loader(pxe(discover(), 16)).as_deref(), Some("http://10.77.0.1:7080/boot/loader/ipxe.efi"));
    assert_eq!(loader(pxe(discover(), 22)).as_deref(), Some("pxelinux.0"));
    assert_eq!(loader(pxe(discover(), 6)), None, "32-bit UEFI");
}

#[test]
fn ipxe_is_known_by_any_of_its_marks() {
    let mut prefixed = pxe(message(MessageType::Discover, M1), 7);
    prefixed.opts_mut().insert(DhcpOption::UserClass(b"\x04iPXE".to_vec()));
    let mut encapsulated = pxe(message(MessageType::Discover, M1), 7);
    encapsulated.opts_mut().insert(DhcpOption::Unknown(UnknownOption::new(OptionCode::from(175), vec![1, 2, 3])));
    for message in [prefixed, encapsulated] {
        assert_eq!(Client::of(&message).and_then(|client| client.firmware), Some(Firmware::Ipxe(Cpu::Amd64)));
    }
}

#[test]
fn raspberry_pi_4_is_known_though_it_calls_itself_a_bios() {
    let mut pi = pxe(message(MessageType::Discover, Mac([0x02, 1, 2, 3, 4, 5])), 0);
    pi.opts_mut().insert(DhcpOption::ClientMachineIdentifier(
        b"\0RPi4\x14\x31\xd0\x00\xb2\x5a\x1f\x2e\xaa\xbb\xcc\xdd".to_vec(),
    ));
    assert_eq!(Client::of(&pi).and_then(|client| client.firmware), Some(Firmware::RaspberryPi(Pi::Eeprom)));
}

#[test]
fn a_uuid_of_the_wrong_length_is_tolerated_and_echoed() {
    let mut discover = pxe(message(MessageType::Discover, M1), 0);
    discover.opts_mut().insert(DhcpOption::ClientMachineIdentifier(vec![0, 1, 2]));
    let (_, offer) = ask(&mut server(true), &discover, Port::Dhcp).expect("an offer");
    assert_eq!(
        offer.opts().get(OptionCode::ClientMachineIdentifier),
        Some(&DhcpOption::ClientMachineIdentifier(vec![0, 1, 2]))
    );
}

#[test]
fn a_stranger_gets_an_address_in_full_mode_and_nothing_to_boot() {
    let discover = pxe(message(MessageType::Discover, STRANGER), 7);
    let outcome = handle(&mut server(true), &discover, Port::Dhcp, 0);
    let saw = outcome.saw.clone();
    let (_, offer) = reply(outcome).expect("an offer");
    assert_eq!(offer.yiaddr(), Ipv4Addr::new(10, 77, 0, 100));
    assert_eq!((file(&offer), offer.siaddr()), (None, Ipv4Addr::UNSPECIFIED));
    assert!(matches!(&saw[..], [(STRANGER, Sight::Asked(client))] if client.mac == STRANGER), "and was seen");
}

#[test]
fn in_proxy_mode_phones_and_strangers_hear_nothing() {
    let mut server = server(false);
    for kind in [MessageType::Discover, MessageType::Request, MessageType::Inform] {
        for port in [Port::Dhcp, Port::Proxy] {
            for message in [message(kind, M1), message(kind, STRANGER), pxe(message(kind, STRANGER), 7)] {
                assert!(handle(&mut server, &message, port, 0).reply.is_none());
            }
        }
    }
}

#[test]
fn in_proxy_mode_an_offer_has_no_address_and_names_this_server() {
    let (to, offer) =
        ask(&mut server(false), &pxe(message(MessageType::Discover, M1), 0), Port::Dhcp).expect("an offer");
    assert_eq!((to, offer.yiaddr(), offer.siaddr()), (Target::Broadcast, Ipv4Addr::UNSPECIFIED, HEAD));
    assert_eq!(offer.opts().get(OptionCode::ServerIdentifier), Some(&DhcpOption::ServerIdentifier(HEAD)));
    assert_eq!(offer.opts().get(OptionCode::SubnetMask), None);
    assert!(matches!(offer.opts().get(OptionCode::VendorExtensions), Some(DhcpOption::VendorExtensions(_))));
}

#[test]
fn uefi_gets_no_option_43_and_is_acknowledged_on_port_4011() {
    let mut server = server(false);
    let (_, offer) = ask(&mut server, &pxe(message(MessageType::Discover, M1), 7), Port::Dhcp).expect("an offer");
    assert_eq!(offer.opts().get(OptionCode::VendorExtensions), None);
    for kind in [MessageType::Request, MessageType::Inform] {
        let (to, ack) = ask(&mut server, &pxe(message(kind, M1), 7), Port::Proxy).expect("an ack");
        assert_eq!((to, ack.opts().msg_type()), (Target::Sender, Some(MessageType::Ack)));
        assert_eq!(file(&ack).as_deref(), Some("ipxe.efi"));
    }
}

#[test]
fn the_file_is_in_the_header_and_in_the_option() {
    let (_, offer) = ask(&mut server(true), &pxe(message(MessageType::Discover, M1), 0), Port::Dhcp).expect("an offer");
    let header = String::from_utf8_lossy(offer.fname().unwrap_or_default()).trim_end_matches('\0').to_owned();
    assert_eq!(Some(header), file(&offer));
}

#[test]
fn a_node_gets_its_fixed_address_and_another_one_is_refused() {
    let mut server = server(true);
    let (to, offer) = ask(&mut server, &message(MessageType::Discover, M1), Port::Dhcp).expect("an offer");
    assert_eq!((to, offer.yiaddr()), (Target::Card(M1, [10, 77, 0, 11].into()), [10, 77, 0, 11].into()));
    let mut request = message(MessageType::Request, M1);
    request.opts_mut().insert(DhcpOption::RequestedIpAddress([10, 77, 0, 100].into()));
    let (to, nak) = ask(&mut server, &request, Port::Dhcp).expect("an answer");
    assert_eq!((to, nak.opts().msg_type()), (Target::Broadcast, Some(MessageType::Nak)));
}

#[test]
fn a_lease_is_to_be_stored_before_it_is_acknowledged_and_survives() {
    let mut server = server(true);
    let mut request = message(MessageType::Request, STRANGER);
    request.opts_mut().insert(DhcpOption::RequestedIpAddress([10, 77, 0, 101].into()));
    let outcome = handle(&mut server, &request, Port::Dhcp, 1000);
    let [lease] = outcome.store[..] else { panic!("one lease, not {:?}", outcome.store) };
    assert_eq!((lease.mac, lease.until), (STRANGER, 1600));
    let mut restarted =
        Leases::new(([10, 77, 0, 100].into(), [10, 77, 0, 102].into()), BTreeMap::new(), vec![], [lease]);
    assert_eq!(restarted.choose(STRANGER, None, 5000), Some([10, 77, 0, 101].into()), "its own, also after it ran out");
    assert_eq!(restarted.choose(M1, Some([10, 77, 0, 101].into()), 1001), Some([10, 77, 0, 100].into()));
}

#[test]
fn an_exhausted_pool_offers_nothing_until_a_lease_runs_out() {
    let mut server = server(true);
    for last in 0..3 {
        let card = Mac([2, 0, 0, 0, 0, last]);
        let mut request = message(MessageType::Request, card);
        request.opts_mut().insert(DhcpOption::RequestedIpAddress([10, 77, 0, 100 + last].into()));
        assert!(handle(&mut server, &request, Port::Dhcp, 1000 + u64::from(last)).reply.is_some());
    }
    let late = message(MessageType::Discover, STRANGER);
    assert!(handle(&mut server, &late, Port::Dhcp, 1001).reply.is_none());
    let (_, offer) = reply(handle(&mut server, &late, Port::Dhcp, 9000)).expect("an offer");
    assert_eq!(offer.yiaddr(), Ipv4Addr::new(10, 77, 0, 100), "the one that ran out longest ago");
}

#[test]
fn a_declined_address_is_left_alone() {
    let mut server = server(true);
    ask(&mut server, &message(MessageType::Discover, STRANGER), Port::Dhcp).expect("an offer");
    let mut decline = message(MessageType::Decline, STRANGER);
    decline.opts_mut().insert(DhcpOption::RequestedIpAddress([10, 77, 0, 100].into()));
    assert_eq!(handle(&mut server, &decline, Port::Dhcp, 1000).store.len(), 1);
    let (_, offer) = ask(&mut server, &message(MessageType::Discover, STRANGER), Port::Dhcp).expect("an offer");
    assert_eq!(offer.yiaddr(), Ipv4Addr::new(10, 77, 0, 101));
}

#[test]
fn the_broadcast_flag_and_relays_are_honoured() {
    let mut discover = message(MessageType::Discover, M1);
    discover.set_flags(Flags::default().set_broadcast());
    assert_eq!(ask(&mut server(true), &discover, Port::Dhcp).expect("an offer").0, Target::Broadcast);
    discover.set_giaddr([10, 77, 9, 1]);
    let (to, offer) = ask(&mut server(true), &discover, Port::Dhcp).expect("an offer");
    assert_eq!((to, offer.giaddr()), (Target::Relay([10, 77, 9, 1].into()), [10, 77, 9, 1].into()));
}

/// By the relay's address (RFC 2131), or by the link that it names (RFC 3527).
#[test]
fn a_relay_decides_the_subnet_and_gets_its_option_back() {
    let mut discover = message(MessageType::Discover, STRANGER);
    discover.set_giaddr([10, 77, 9, 1]);
    let (_, offer) = ask(&mut server(true), &discover, Port::Dhcp).expect("an offer");
    assert_eq!(offer.yiaddr(), Ipv4Addr::new(10, 77, 9, 100));
    let mut relay = dhcproto::v4::relay::RelayAgentInformation::default();
    relay.insert(RelayInfo::LinkSelection([10, 77, 9, 0].into()));
    relay.insert(RelayInfo::AgentCircuitId(b"port 7".to_vec()));
    discover.set_giaddr([10, 99, 0, 1]);
    discover.opts_mut().insert(DhcpOption::RelayAgentInformation(relay.clone()));
    let (to, offer) = ask(&mut server(true), &discover, Port::Dhcp).expect("an offer");
    assert_eq!((to, offer.yiaddr()), (Target::Relay([10, 99, 0, 1].into()), Ipv4Addr::new(10, 77, 9, 100)));
    let echoed = offer.opts().get(OptionCode::RelayAgentInformation);
    assert_eq!(echoed, Some(&DhcpOption::RelayAgentInformation(relay)));
    discover.opts_mut().remove(OptionCode::RelayAgentInformation);
    let outcome = handle(&mut server(true), &discover, Port::Dhcp, 1000);
    assert!(outcome.reply.is_none(), "no subnet is known there");
    assert_eq!(outcome.turned.map(|turned| turned.away), Some(Away::Relay), "and a person is told");
}

#[test]
fn raspberry_pi_3_sends_no_request_and_keeps_what_it_was_offered() {
    let card = Mac([0xb8, 0x27, 0xeb, 1, 2, 3]);
    let outcome = handle(&mut server(true), &pxe(message(MessageType::Discover, card), 0), Port::Dhcp, 1000);
    assert_eq!(outcome.store.len(), 1, "the offer is its lease");
    assert!(outcome.reply.expect("an offer").delay >= Duration::from_millis(500), "it misses quick answers");
}

#[test]
fn raspberry_pi_4_leaves_its_class_out_of_the_request() {
    let mut request = message(MessageType::Request, M1);
    request.opts_mut().insert(DhcpOption::ClientMachineIdentifier(
        b"\0RPi4\x14\x31\xd0\x00\xb2\x5a\x1f\x2e\xaa\xbb\xcc\xdd".to_vec(),
    ));
    request.opts_mut().insert(DhcpOption::RequestedIpAddress([10, 77, 0, 11].into()));
    let (_, ack) = ask(&mut server(true), &request, Port::Dhcp).expect("an ack");
    let Some(DhcpOption::VendorExtensions(options)) = ack.opts().get(OptionCode::VendorExtensions) else {
        panic!("option 43 is missing")
    };
    assert!(options.windows(17).any(|part| part == b"Raspberry Pi Boot"));
    assert_eq!(ack.siaddr(), HEAD);
}

/// dhcproto 0.15 asserts three bytes there; found by fuzzing.
#[test]
fn an_interface_option_of_the_wrong_length_does_no_harm() {
    let mut bytes = encode(&pxe(message(MessageType::Discover, M1), 7));
    let end = bytes.iter().rposition(|byte| *byte == 255).expect("an end");
    bytes.splice(end.., [94, 2, 1, 3, 93, 3, 0, 7, 0, 12, 200, 1, 255]);
    let message = decode(&bytes).expect("a message");
    assert_eq!(Client::of(&message).and_then(|client| client.firmware), Some(Firmware::Uefi(Cpu::Amd64)));
}

#[test]
fn what_a_machine_takes_from_another_server_is_seen() {
    let mut request = pxe(message(MessageType::Request, M1), 7);
    request.opts_mut().insert(DhcpOption::ServerIdentifier([10, 77, 0, 254].into()));
    assert_eq!(asks(&request, &link()), None, "nobody has to know who it is");
    let outcome = handle(&mut server(false), &request, Port::Dhcp, 0);
    assert_eq!(outcome.saw, [(M1, Sight::Chose { server: [10, 77, 0, 254].into() })]);
}

#[test]
fn what_is_seen_comes_in_order_and_only_of_what_is_answered() {
    let names = |server: &mut Server, message: &Message, port| {
        let saw = handle(server, message, port, 1000).saw;
        let name = |(_, sight): &(Mac, Sight)| match sight {
            Sight::Asked(_) => "asked",
            Sight::Offered { .. } => "offered",
            Sight::AskedBootServer { .. } => "asked 4011",
            Sight::Leased { .. } => "leased",
            _ => "other",
        };
        saw.iter().map(name).collect::<Vec<_>>().join(", ")
    };
    let mut request = pxe(message(MessageType::Request, M1), 7);
    request.opts_mut().insert(DhcpOption::RequestedIpAddress([10, 77, 0, 11].into()));
    assert_eq!(names(&mut server(true), &request, Port::Dhcp), "asked, offered, leased");
    assert_eq!(names(&mut server(false), &request, Port::Proxy), "asked, offered, asked 4011");
    assert_eq!(names(&mut server(false), &request, Port::Dhcp), "", "a proxy answers none on port 67");
    assert_eq!(names(&mut server(true), &message(MessageType::Discover, M1), Port::Dhcp), "", "no boot client");
}

#[test]
fn a_request_for_another_server_is_left_to_it() {
    let mut request = message(MessageType::Request, M1);
    request.opts_mut().insert(DhcpOption::ServerIdentifier([10, 77, 0, 254].into()));
    request.opts_mut().insert(DhcpOption::RequestedIpAddress([10, 77, 0, 11].into()));
    assert!(ask(&mut server(true), &request, Port::Dhcp).is_none());
}

proptest! {
    #[test]
    fn no_bytes_make_the_server_panic(options in prop::collection::vec(any::<u8>(), 0..500), full: bool) {
        let mut bytes = encode(&message(MessageType::Discover, M1))[..HEADER].to_vec();
        bytes.extend(options);
        if let Some(message) = decode(&bytes) {
            for port in [Port::Dhcp, Port::Proxy] {
                let _ = ask(&mut server(full), &message, port);
            }
        }
    }

    #[test]
    fn no_options_make_the_server_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), full: bool) {
        let Ok(options) = DhcpOptions::decode(&mut Decoder::new(&bytes)) else { return Ok(()) };
        for kind in [MessageType::Discover, MessageType::Request, MessageType::Inform] {
            let mut message = message(kind, M1);
            message.set_opts(options.clone());
            message.opts_mut().insert(DhcpOption::MessageType(kind));
            let _ = ask(&mut server(full), &message, Port::Dhcp);
        }
    }
}

mod floods;
