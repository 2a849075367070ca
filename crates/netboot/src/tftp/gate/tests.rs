use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const MOST: Most = Most { all: 1024, strangers: 512, unproven: 128, leaving: 256 };

const GUEST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);
const NODE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 11);

fn at(address: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(address, port)
}

/// An address that nobody else here has.
fn made_up(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 88, 0, 0)) + number)
}

fn gate() -> (Gate, Instant) {
    let now = Instant::now();
    (Gate::new(MOST.all, now), now)
}

/// They had a thread and twenty seconds each, and there were no more than these.
#[test]
fn a_thousand_datagrams_of_one_address_are_one_transfer_and_stop_nobody() {
    let (mut gate, now) = gate();
    let begun = (0..1000).filter(|port| gate.ask(at(GUEST, 2000 + port), now, || false).is_ok()).count();
    assert_eq!((begun, gate.running.len()), (ONE.burst as usize, 1), "of those that began the newest is left");
    assert_eq!(gate.ask(at(GUEST, 5000), now, || false), Err(No::Turned(Away::Address)));
    assert!(gate.ask(at(made_up(1), 2000), now, || false).is_ok());
    assert!(gate.ask(at(NODE, 2000), now, || true).is_ok());
}

#[test]
fn made_up_addresses_stop_no_node_and_cost_a_bounded_number_of_threads() {
    let (mut gate, mut now) = gate();
    let mut begun = 0;
    for number in 0..100_000 {
        now += Duration::from_micros(10);
        begun += u32::from(gate.ask(at(made_up(number), 2000), now, || false).is_ok());
        if number % 1000 == 0 {
            // A node asks in the midst of it, and answers when it has the first packet.
            let start = gate.ask(at(NODE, 3000 + (number / 1000) as u16), now, || true).expect("nodes go first");
            assert!(gate.proves(start.id, NODE, now));
            gate.ends(start.id);
            gate.is_gone(start.id);
        }
    }
    assert!(begun <= ALL_STRANGERS.burst + ALL_STRANGERS.a_second, "{begun} in a second");
    assert!(gate.threads() <= MOST.unproven + MOST.leaving, "{} threads", gate.threads());
    assert!(gate.addresses.len() <= begun as usize + 1, "{} are remembered", gate.addresses.len());
}

#[test]
fn where_all_is_full_a_node_takes_the_place_of_whoever_has_not_answered() {
    let (mut gate, now) = gate();
    let mut nodes = 0;
    while gate.running.len() < MOST.all - 1 {
        nodes += 1;
        let start = gate.ask(at(made_up(nodes), 2000), now, || true).expect("there is room");
        assert!(gate.proves(start.id, made_up(nodes), now));
    }
    let nobody = gate.ask(at(GUEST, 2000), now, || false).expect("the last place");
    assert_eq!(gate.ask(at(made_up(0), 2000), now, || false), Err(No::Turned(Away::Full)));
    let start = gate.ask(at(NODE, 2000), now, || true).expect("a node's place");
    assert_eq!(start.instead_of, Some(nobody.id));
    assert!(!gate.proves(nobody.id, GUEST, now), "its answer comes too late");
    assert_eq!(gate.ask(at(NODE, 2001), now, || true).map(|start| start.instead_of), Ok(Some(start.id)), "its own");
}

#[test]
fn slow_readers_that_are_no_nodes_hold_half_of_all_transfers_at_most() {
    let (mut gate, mut now) = gate();
    for number in 0..4 * MOST.strangers as u32 {
        now += Duration::from_millis(10);
        if let Ok(start) = gate.ask(at(made_up(number / 16), 2000 + number as u16), now, || false) {
            gate.proves(start.id, made_up(number / 16), now);
        }
    }
    assert_eq!(gate.running.len(), MOST.strangers);
    for number in 0..(MOST.all - MOST.strangers) as u32 {
        let start = gate.ask(at(made_up(10_000 + number), 2000), now, || true).expect("half is the nodes'");
        assert!(gate.proves(start.id, made_up(10_000 + number), now));
    }
}

/// It learns a file's size, ends that, and asks again; or its answer was lost, and it asks from a new port.
#[test]
fn pxe_roms_that_ask_again_from_a_new_port_are_served_at_once() {
    let (mut gate, now) = gate();
    for port in 2000..2100 {
        let size = gate.ask(at(NODE, port), now, || true).expect("the first request");
        if port % 2 == 0 {
            assert!(gate.proves(size.id, NODE, now), "its abort says that it is there");
            gate.ends(size.id);
            gate.is_gone(size.id);
        }
        let read = gate.ask(at(NODE, 10_000 + port), now, || true).expect("the second one");
        assert_eq!(read.instead_of, (port % 2 == 1).then_some(size.id));
        assert!(gate.proves(read.id, NODE, now));
        gate.ends(read.id);
        gate.is_gone(read.id);
        if let Some(before) = read.instead_of {
            gate.is_gone(before);
        }
    }
    assert_eq!(gate.threads(), 0);
}

/// On a busy head the next request is read before the thread of the last one has read its abort.
#[test]
fn a_machine_whose_aborts_are_read_late_may_ask_on() {
    let (mut gate, now) = gate();
    let mut before = None;
    for port in 0..1000 {
        let start = gate.ask(at(NODE, 2000 + port), now, || true).expect("there is somebody");
        assert_eq!(start.instead_of, before);
        if let Some(before) = before.replace(start.id) {
            assert!(!gate.proves(before, NODE, now));
            gate.is_gone(before);
        }
    }
}

#[test]
fn a_request_that_is_sent_again_from_the_same_port_has_its_transfer_already() {
    let (mut gate, now) = gate();
    let start = gate.ask(at(NODE, 2000), now, || true).expect("a transfer");
    for _ in 0..1000 {
        assert_eq!(gate.ask(at(NODE, 2000), now, || true), Err(No::Repeated));
    }
    assert!(gate.proves(start.id, NODE, now));
    assert!(gate.ask(at(NODE, 2001), now, || true).is_ok(), "that cost it nothing");
}

#[test]
fn u_boot_and_raspberry_pis_may_ask_for_a_dozen_files_that_are_not_there() {
    let (mut gate, now) = gate();
    for port in 0..24 {
        let start = gate.ask(at(NODE, 2000 + port), now, || true).expect("each is told at once that there is none");
        gate.ends(start.id);
        gate.is_gone(start.id);
    }
}

#[test]
fn several_machines_behind_one_address_read_at_the_same_time() {
    let (mut gate, now) = gate();
    for port in 0..OF_ONE as u16 {
        let start = gate.ask(at(NODE, 2000 + port), now, || true).expect("a transfer");
        assert_eq!(start.instead_of, None);
        assert!(gate.proves(start.id, NODE, now));
    }
    assert_eq!(gate.ask(at(NODE, 3000), now, || true), Err(No::Turned(Away::Address)));
}

#[test]
fn what_is_no_request_is_refused_at_a_bounded_rate() {
    let (mut gate, now) = gate();
    assert_eq!((0..1000).filter(|port| gate.may_refuse(at(GUEST, *port), now)).count(), ONE.burst as usize);
    let others = (0..10_000).filter(|number| gate.may_refuse(at(made_up(*number), 1), now)).count();
    assert_eq!(others as u32, ALL_STRANGERS.burst - ONE.burst);
}

#[test]
fn in_a_crowd_windows_are_smaller() {
    let (mut gate, now) = gate();
    let windows: Vec<u16> = (0..600)
        .map(|number| {
            let start = gate.ask(at(made_up(number), 2000), now, || true).expect("a transfer");
            gate.proves(start.id, made_up(number), now);
            start.window
        })
        .collect();
    let memory: usize = windows.iter().map(|window| usize::from(*window) * 1472).sum();
    assert_eq!((windows[0], windows[255], windows[256]), (64, 64, 16));
    assert!(memory < 34 << 20, "{memory} bytes of windows");
}

#[derive(Debug, Clone)]
enum Event {
    Asks { address: u32, port: u16, is_node: bool },
    Proves(usize),
    Ends(usize),
    Gone(usize),
    Later(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        6 => (0..40_u32, 0..40_u16).prop_map(|(address, port)| Event::Asks { address, port, is_node: address % 3 == 0 }),
        2 => any::<usize>().prop_map(Event::Proves),
        2 => any::<usize>().prop_map(Event::Ends),
        2 => any::<usize>().prop_map(Event::Gone),
        1 => (0..2000_u64).prop_map(Event::Later),
    ];
    prop::collection::vec(event, 0..600)
}

proptest! {
    /// Whatever is asked, and however transfers end: each client has one transfer, each address its bound, and what is
    /// counted is what is there.
    #[test]
    fn the_bounds_hold_in_every_sequence(events in events()) {
        let (mut gate, mut now) = gate();
        let mut threads: Vec<Id> = Vec::new();
        let mut proven: BTreeSet<Id> = BTreeSet::new();
        for event in events {
            match event {
                Event::Asks { address, port, is_node } => {
                    if let Ok(start) = gate.ask(at(made_up(address), port), now, || is_node) {
                        if let Some(other) = start.instead_of {
                            prop_assert!(!proven.contains(&other), "whoever has answered keeps its place");
                            prop_assert!(threads.contains(&other));
                        }
                        threads.push(start.id);
                    }
                }
                Event::Proves(which) if !threads.is_empty() => {
                    let id = threads[which % threads.len()];
                    let from = gate.running.get(&id).map_or(GUEST, |running| *running.from.ip());
                    if gate.proves(id, from, now) {
                        proven.insert(id);
                    }
                }
                Event::Ends(which) if !threads.is_empty() => gate.ends(threads[which % threads.len()]),
                Event::Gone(which) if !threads.is_empty() => {
                    let id = threads.swap_remove(which % threads.len());
                    gate.is_gone(id);
                }
                Event::Later(milliseconds) => now += Duration::from_millis(milliseconds),
                _ => {}
            }
            prop_assert_eq!(gate.threads(), threads.len());
            prop_assert_eq!(gate.by_client.len(), gate.running.len());
            let strangers = gate.running.values().filter(|one| !one.is_node).count();
            let unproven = gate.running.values().filter(|one| !one.is_node && !one.is_proven).count();
            prop_assert_eq!((strangers, unproven), (gate.strangers, gate.unproven_strangers.len()));
            prop_assert!(unproven <= MOST.unproven && strangers <= MOST.strangers);
            for address in gate.addresses.values() {
                let unproven = address.transfers.iter().filter(|id| !gate.running[id].is_proven).count();
                prop_assert!(address.transfers.len() <= OF_ONE && unproven <= UNPROVEN_OF_ONE);
                prop_assert!(unproven <= 1 || unproven < address.transfers.len() || !proven.is_empty());
            }
        }
    }
}
