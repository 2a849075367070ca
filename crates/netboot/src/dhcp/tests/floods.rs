//! Whoever is on the wire can send any message, as any card: what each such attack comes to.

use std::collections::BTreeSet;

use super::*;

/// A subnet of a hundred addresses, with these nodes' cards.
fn wide(nodes: &[(Mac, Option<Ipv4Addr>)]) -> Server {
    let subnet = Subnet { pool: ([10, 77, 0, 100].into(), [10, 77, 0, 199].into()), ..subnet(0) };
    let leases = Leases::new(subnet.pool, BTreeMap::new(), vec![HEAD], []);
    let mut server = Server { domain: "home.arpa".into(), pools: vec![Pool { subnet, leases }], relays: Vec::new() };
    server.follow(&nodes.iter().copied().collect());
    server
}

fn node(number: u8) -> Mac {
    Mac([0x52, 0x54, 0, 0, 1, number])
}

fn made_up(number: u32) -> Mac {
    let [_, a, b, c] = number.to_be_bytes();
    Mac([2, 0xbd, 0, a, b, c])
}

fn with(mut message: Message, option: DhcpOption) -> Message {
    message.opts_mut().insert(option);
    message
}

fn request(mac: Mac, address: Ipv4Addr) -> Message {
    with(message(MessageType::Request, mac), DhcpOption::RequestedIpAddress(address))
}

fn decline(mac: Mac, address: Ipv4Addr) -> Message {
    with(message(MessageType::Decline, mac), DhcpOption::RequestedIpAddress(address))
}

/// DISCOVER and REQUEST: the address that it gets.
fn lease(server: &mut Server, mac: Mac, now: u64) -> Option<Ipv4Addr> {
    let (_, offer) = reply(handle(server, &message(MessageType::Discover, mac), Port::Dhcp, now))?;
    let (_, ack) = reply(handle(server, &request(mac, offer.yiaddr()), Port::Dhcp, now))?;
    (ack.opts().msg_type() == Some(MessageType::Ack)).then(|| ack.yiaddr())
}

fn kind(outcome: Outcome) -> Option<MessageType> {
    reply(outcome).and_then(|(_, message)| message.opts().msg_type())
}

#[test]
fn made_up_cards_get_a_share_of_the_pool_and_every_node_its_address() {
    let cards: Vec<_> = (0..20).map(|number| (node(number), None)).collect();
    let mut server = wide(&cards);
    let got: BTreeSet<Ipv4Addr> = (0..5000).filter_map(|number| lease(&mut server, made_up(number), 1000)).collect();
    // A hundred, less the twenty nodes' and an eighth for what is declined.
    assert_eq!(got.len(), 68);
    let outcome = handle(&mut server, &message(MessageType::Discover, STRANGER), Port::Dhcp, 1000);
    let turned = outcome.turned.expect("a person is told");
    assert_eq!(turned.away, Away::Share);
    assert!(turned.who.ends_with("on 10.77.0.0/24, where they hold 68 of 100 addresses and may hold 68"), "{turned:?}");
    let nodes: BTreeSet<Ipv4Addr> = cards.iter().filter_map(|(mac, _)| lease(&mut server, *mac, 1000)).collect();
    assert_eq!(nodes.len(), 20);
    assert!(nodes.is_disjoint(&got));
    let again: Vec<_> = (0..68).filter_map(|number| lease(&mut server, made_up(number), 1200)).collect();
    assert_eq!(again.len(), 68, "whoever had one keeps it");
}

#[test]
fn without_nodes_to_keep_it_for_strangers_have_three_quarters() {
    let mut server = wide(&[(M1, Some([10, 77, 0, 11].into()))]);
    let got = (0..200).filter(|number| lease(&mut server, made_up(*number), 1000).is_some()).count();
    assert_eq!(got, 75);
    assert_eq!(lease(&mut server, M1, 1000), Some([10, 77, 0, 11].into()));
}

#[test]
fn offers_that_nobody_takes_count_to_the_share_and_end_after_a_minute() {
    let mut server = wide(&[(node(1), None)]);
    let discover = |server: &mut Server, mac, now| {
        handle(server, &message(MessageType::Discover, mac), Port::Dhcp, now).reply.is_some()
    };
    assert_eq!((0..5000).filter(|number| discover(&mut server, made_up(*number), 1000)).count(), 75);
    assert!(lease(&mut server, node(1), 1000).is_some());
    assert!(discover(&mut server, STRANGER, 1000 + OFFER_SECONDS + 1));
}

/// Three strangers had all addresses of a small pool, and a node of the next commit had none for an hour.
#[test]
fn nodes_that_come_later_get_an_address_before_strangers_keep_theirs() {
    let mut server = wide(&[]);
    let strangers: Vec<Mac> = (0..75).map(made_up).collect();
    for mac in &strangers {
        lease(&mut server, *mac, 1000).expect("its share");
    }
    let cards: Vec<_> = (0..60).map(|number| (node(number), None)).collect();
    server.follow(&cards.iter().copied().collect());
    let at_once = cards.iter().filter(|(mac, _)| lease(&mut server, *mac, 1100).is_some()).count();
    assert_eq!(at_once, 25, "what strangers never had");
    // Half of their time is over, and they renew: those that are beyond the share of today may not.
    for mac in &strangers {
        let own = handle(&mut server, &message(MessageType::Discover, *mac), Port::Dhcp, 1300).reply;
        assert!(own.is_none(), "75 hold addresses where 28 may");
    }
    let later = cards.iter().filter(|(mac, _)| lease(&mut server, *mac, 1601).is_some()).count();
    assert_eq!(later, 60);
}

/// Each REQUEST for a free address was granted: one card emptied a pool.
#[test]
fn a_card_has_one_lease_however_often_and_as_whom_it_asks() {
    let mut server = wide(&[]);
    let own = lease(&mut server, STRANGER, 1000).expect("an address");
    for last in 100..=199 {
        let other = Ipv4Addr::new(10, 77, 0, last);
        let named = with(request(STRANGER, other), DhcpOption::ClientIdentifier(vec![255, last, 1, 2, 3]));
        let wanted = if other == own { MessageType::Ack } else { MessageType::Nak };
        assert_eq!(kind(handle(&mut server, &named, Port::Dhcp, 1000)), Some(wanted), "{other}");
        let discover = message(MessageType::Discover, STRANGER);
        let named = with(discover, DhcpOption::ClientIdentifier(vec![1, last, last]));
        let (_, offer) = reply(handle(&mut server, &named, Port::Dhcp, 1000)).expect("an offer");
        assert_eq!(offer.yiaddr(), own);
    }
    assert_eq!(server.pools[0].leases.entries().count(), 1);
    // Its lease has ended, and it takes another address: the first is free for others.
    let other = Ipv4Addr::new(10, 77, 0, 150);
    assert_eq!(kind(handle(&mut server, &request(STRANGER, other), Port::Dhcp, 5000)), Some(MessageType::Ack));
    assert_eq!(server.pools[0].leases.entries().count(), 1);
}

#[test]
fn an_address_that_is_offered_to_one_is_not_given_to_another() {
    let mut server = wide(&[(node(1), None)]);
    let (_, offer) = ask(&mut server, &message(MessageType::Discover, node(1)), Port::Dhcp).expect("an offer");
    for mac in [STRANGER, M1] {
        assert_eq!(kind(handle(&mut server, &request(mac, offer.yiaddr()), Port::Dhcp, 1000)), Some(MessageType::Nak));
    }
    let taken = handle(&mut server, &request(node(1), offer.yiaddr()), Port::Dhcp, 1001);
    assert_eq!(kind(taken), Some(MessageType::Ack));
}

/// Every free address could be declined, by one card, until the pool was empty for an hour.
#[test]
fn a_decline_touches_only_the_senders_own_lease_or_offer() {
    let mut server = wide(&[(node(1), None)]);
    let of_node = lease(&mut server, node(1), 1000).expect("an address");
    for last in 100..=199 {
        let outcome = handle(&mut server, &decline(STRANGER, [10, 77, 0, last].into()), Port::Dhcp, 1000);
        assert_eq!(outcome.store, [], "10.77.0.{last}");
    }
    assert_eq!(lease(&mut server, node(1), 1000), Some(of_node));
    // Its own, again and again: what others get from it is an eighth less of the pool, and not of the nodes' part.
    for round in 0..1000 {
        let (_, offer) = ask(&mut server, &message(MessageType::Discover, STRANGER), Port::Dhcp).expect("an offer");
        handle(&mut server, &decline(STRANGER, offer.yiaddr()), Port::Dhcp, 1000 + round % 2);
    }
    let nobodys = server.pools[0].leases.entries().filter(|lease| lease.quarantined).count();
    assert_eq!(nobodys, 12);
    assert_eq!((0..200).filter(|number| lease(&mut server, made_up(*number), 1000).is_some()).count(), 75);
}

#[test]
fn a_fixed_address_is_declined_by_nobody() {
    let fixed = Ipv4Addr::new(10, 77, 0, 110);
    let mut server = wide(&[(M1, Some(fixed))]);
    assert_eq!(lease(&mut server, M1, 1000), Some(fixed));
    for mac in [M1, STRANGER] {
        assert_eq!(handle(&mut server, &decline(mac, fixed), Port::Dhcp, 1000).store, []);
    }
    assert_eq!(lease(&mut server, M1, 1000), Some(fixed));
}

#[test]
fn nobody_releases_anothers_lease_and_a_nodes_stays_its_own() {
    let mut server = wide(&[(node(1), None)]);
    let release = |mac: Mac, address: Ipv4Addr| {
        let mut message = message(MessageType::Release, mac);
        message.set_ciaddr(address);
        message
    };
    let (of_node, of_stranger) = (lease(&mut server, node(1), 1000), lease(&mut server, STRANGER, 1000));
    let (of_node, of_stranger) = (of_node.expect("an address"), of_stranger.expect("an address"));
    let elsewhere = Ipv4Addr::new(10, 77, 0, 66);
    for (message, from) in [
        (release(M1, of_stranger), of_stranger),
        (release(STRANGER, of_node), of_node),
        (release(STRANGER, of_stranger), elsewhere),
        (release(node(1), of_node), of_node),
    ] {
        assert_eq!(handle_from(&mut server, &message, Port::Dhcp, from, 1000).store, []);
    }
    assert_eq!(kind(handle(&mut server, &request(M1, of_stranger), Port::Dhcp, 1001)), Some(MessageType::Nak));
    let own = handle_from(&mut server, &release(STRANGER, of_stranger), Port::Dhcp, of_stranger, 1001);
    assert_eq!(own.store.len(), 1);
    assert_eq!(kind(handle(&mut server, &request(M1, of_stranger), Port::Dhcp, 1001)), Some(MessageType::Ack));
}

/// Whoever named a card could end its lease by a REQUEST to another server.
#[test]
fn a_request_to_another_server_ends_an_offer_and_no_lease() {
    let mut server = wide(&[]);
    let other = |mac| with(message(MessageType::Request, mac), DhcpOption::ServerIdentifier([10, 77, 0, 254].into()));
    let leased = lease(&mut server, STRANGER, 1000).expect("an address");
    let (_, offer) = ask(&mut server, &message(MessageType::Discover, M1), Port::Dhcp).expect("an offer");
    for mac in [STRANGER, M1] {
        assert!(handle(&mut server, &other(mac), Port::Dhcp, 1000).reply.is_none());
    }
    let taken = |server: &mut Server, address| kind(handle(server, &request(made_up(1), address), Port::Dhcp, 1000));
    assert_eq!(taken(&mut server, leased), Some(MessageType::Nak));
    assert_eq!(taken(&mut server, offer.yiaddr()), Some(MessageType::Ack));
}

/// Answers left for any address that a message named as its relay.
#[test]
fn answers_go_to_relays_that_a_subnet_names_and_to_no_others() {
    for (full, named, others) in [
        (true, [[10, 77, 9, 1], [10, 99, 0, 1]], [[10, 77, 9, 2], [10, 77, 0, 254], [10, 88, 0, 1], [192, 0, 2, 1]]),
        (false, [[10, 88, 0, 1]; 2], [[10, 77, 9, 1], [10, 77, 0, 254], [10, 88, 0, 2], [192, 0, 2, 1]]),
    ] {
        for kind in [MessageType::Discover, MessageType::Request, MessageType::Inform] {
            for giaddr in others {
                let mut message = pxe(with(message(kind, M1), DhcpOption::RequestedIpAddress([8, 8, 8, 8].into())), 0);
                message.set_giaddr(giaddr);
                let outcome = handle(&mut server(full), &message, Port::Dhcp, 1000);
                assert!(outcome.reply.is_none() && outcome.store.is_empty() && outcome.saw.is_empty(), "{giaddr:?}");
                assert_eq!(outcome.turned.map(|turned| turned.away), Some(Away::Relay));
            }
        }
        for giaddr in named {
            let mut discover = pxe(message(MessageType::Discover, M1), 0);
            discover.set_giaddr(giaddr);
            let mut relay = dhcproto::v4::relay::RelayAgentInformation::default();
            relay.insert(RelayInfo::LinkSelection([10, 77, 9, 0].into()));
            discover.opts_mut().insert(DhcpOption::RelayAgentInformation(relay));
            let (to, _) = ask(&mut server(full), &discover, Port::Dhcp).expect("an offer");
            assert_eq!(to, Target::Relay(giaddr.into()));
        }
    }
}

#[test]
fn a_client_that_says_itself_to_be_behind_a_relay_gets_an_address_of_its_own_wire() {
    let mut relay = dhcproto::v4::relay::RelayAgentInformation::default();
    relay.insert(RelayInfo::LinkSelection([10, 77, 9, 0].into()));
    let discover = with(message(MessageType::Discover, STRANGER), DhcpOption::RelayAgentInformation(relay));
    let (_, offer) = ask(&mut server(true), &discover, Port::Dhcp).expect("an offer");
    assert_eq!(offer.yiaddr(), Ipv4Addr::new(10, 77, 0, 100));
}

/// An INFORM in anybody's name was answered at that address.
#[test]
fn informs_are_answered_on_their_own_wire_alone_and_change_nothing() {
    for full in [true, false] {
        let mut server = server(full);
        let mut inform = pxe(message(MessageType::Inform, M1), 0);
        for _ in 0..1000 {
            inform.set_ciaddr([192, 0, 2, 1]);
            let outcome = handle(&mut server, &inform, Port::Dhcp, 1000);
            assert!(outcome.reply.is_none() && outcome.store.is_empty());
            inform.set_ciaddr([10, 77, 0, 20]);
            let outcome = handle(&mut server, &inform, Port::Dhcp, 1000);
            assert_eq!(reply(outcome).expect("an answer").0, Target::Client([10, 77, 0, 20].into()));
        }
    }
}

/// Each of them went to disk, and into the queue for it.
#[test]
fn one_card_that_asks_a_thousand_times_has_its_lease_written_once() {
    for architecture in [None, Some(0)] {
        let mut server = wide(&[]);
        let card = Mac([0xb8, 0x27, 0xeb, 1, 2, 3]);
        let own = lease(&mut server, card, 1000).expect("an address");
        let mut written = 0;
        for _ in 0..1000 {
            let discover = message(MessageType::Discover, card);
            // The ROM of a Pi 3 has its lease by the offer.
            let discover = if let Some(architecture) = architecture { pxe(discover, architecture) } else { discover };
            for message in [discover, request(card, own)] {
                let outcome = handle(&mut server, &message, Port::Dhcp, 1059);
                written += outcome.store.len();
                let (_, answer) = reply(outcome).expect("an answer");
                let time = answer.opts().get(OptionCode::AddressLeaseTime);
                // A system's offer has the whole time: it is written when that is taken.
                let whole = answer.opts().msg_type() == Some(MessageType::Offer) && architecture.is_none();
                assert_eq!(time, Some(&DhcpOption::AddressLeaseTime(if whole { 600 } else { 541 })));
            }
        }
        assert_eq!(written, 0, "it lasts for as long as the answer says");
        let later = handle(&mut server, &request(card, own), Port::Dhcp, 1076);
        assert_eq!(later.store.len(), 1);
    }
}

/// An answer for which nothing is written would be one for what a disk never had.
#[test]
fn a_lease_that_is_not_on_disk_yet_is_written_again_before_it_is_acknowledged_again() {
    let mut server = wide(&[]);
    let request = request(STRANGER, [10, 77, 0, 120].into());
    let arrival = Arrival { link: &link(), port: Port::Dhcp, from: Ipv4Addr::UNSPECIFIED };
    for _ in 0..2 {
        let outcome = server.handle(&request, arrival, 1000, None);
        assert_eq!(outcome.store.len(), 1, "the queue was full, or the disk");
    }
    let outcome = server.handle(&request, arrival, 1000, None);
    server.stored(&outcome.store);
    assert_eq!(server.handle(&request, arrival, 1000, None).store, []);
}

#[test]
fn a_pool_of_any_size_keeps_a_bounded_number_of_strangers() {
    let mut leases = Leases::new(([10, 0, 0, 1].into(), [10, 255, 0, 1].into()), BTreeMap::new(), Vec::new(), []);
    assert_eq!(leases.share(), 1 << 15);
    for number in 0..40_000 {
        if let Some(address) = leases.choose(made_up(number), None, 1000) {
            leases.grant(made_up(number), address, 1600);
        }
    }
    assert_eq!(leases.entries().count(), 1 << 15);
    assert!(leases.choose(STRANGER, None, 1000).is_none());
}

/// Any message of any client, over time.
fn events() -> impl Strategy<Value = Vec<(u8, u8, Option<u8>, u64)>> {
    prop::collection::vec((0..12_u8, 0..8_u8, prop::option::of(98..112_u8), 0..400_u64), 0..120)
}

proptest! {
    /// Whatever clients say: no two of them hold the same address at the same time, none holds two, a message touches
    /// the leases of its own card alone, and strangers never hold more than their share.
    #[test]
    fn no_address_is_given_twice_and_no_card_has_two(events in events(), nodes in 0..4_u8) {
        let subnet = Subnet { pool: ([10, 77, 0, 100].into(), [10, 77, 0, 109].into()), ..subnet(0) };
        let leases = Leases::new(subnet.pool, BTreeMap::new(), vec![HEAD], []);
        let mut server =
            Server { domain: "home.arpa".into(), pools: vec![Pool { subnet, leases }], relays: Vec::new() };
        let card = |client| Mac([2, 0, 0, 0, 0, client]);
        server.follow(&(0..nodes).map(|client| (card(client), None)).collect());
        let mut now = 1000;
        let mut held: BTreeMap<Ipv4Addr, (Mac, u64)> = BTreeMap::new();
        for (client, kind, address, later) in events {
            now += later;
            let mac = card(client);
            let address = address.map(|last| Ipv4Addr::new(10, 77, 0, last));
            let kind = [
                MessageType::Discover, MessageType::Discover, MessageType::Request, MessageType::Request,
                MessageType::Request, MessageType::Release, MessageType::Decline, MessageType::Inform,
            ][usize::from(kind)];
            let mut message = message(kind, mac);
            if let Some(address) = address {
                if kind == MessageType::Release { message.set_ciaddr(address); }
                else { message.opts_mut().insert(DhcpOption::RequestedIpAddress(address)); }
            }
            let others = |server: &Server| -> Vec<Lease> {
                let entries = server.pools[0].leases.entries();
                entries.filter(|lease| lease.mac != mac && lease.until >= now && !lease.quarantined).copied().collect()
            };
            let before = others(&server);
            let outcome = handle(&mut server, &message, Port::Dhcp, now);
            // A node may be given what was only offered to a stranger.
            let after = others(&server);
            let untouched = |lease: &&Lease| held.get(&lease.address).is_some_and(|(mac, _)| *mac == lease.mac);
            for lease in before.iter().filter(untouched) {
                prop_assert!(after.contains(lease), "{mac} touched {lease:?}");
            }
            for lease in &outcome.store {
                if kind == MessageType::Release || lease.quarantined {
                    prop_assert_eq!(held.get(&lease.address).map_or(mac, |(owner, _)| *owner), mac);
                    held.remove(&lease.address);
                    continue;
                }
                held.retain(|at, (owner, until)| *owner != mac || *at == lease.address || {
                    assert!(*until < now, "{mac} has {at} until {until}, and another one");
                    false
                });
                if let Some((owner, until)) = held.insert(lease.address, (mac, lease.until)) {
                    prop_assert!(owner == mac || until < now, "{} belongs to {owner} until {until}", lease.address);
                }
                prop_assert!((100..=109).contains(&lease.address.octets()[3]));
            }
            let leases = &server.pools[0].leases;
            prop_assert!(leases.held_by_strangers() <= leases.share());
            let cards: BTreeSet<Mac> = leases.entries().filter(|lease| !lease.quarantined).map(|lease| lease.mac).collect();
            let nobodys = leases.entries().filter(|lease| lease.quarantined).count();
            prop_assert_eq!(leases.entries().count(), cards.len() + nobodys);
        }
        // And every node gets an address after all that.
        let got: BTreeSet<Ipv4Addr> = (0..nodes).filter_map(|client| lease(&mut server, card(client), now)).collect();
        prop_assert_eq!(got.len(), usize::from(nodes));
    }
}
