//! Someone else on the wire, with a card and an address of their own, who knows what everyone there can know: the nodes'
//! addresses, and what was sent in the clear. Each attack fails, and the node itself boots at the same time.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use bramble_tests::agents::dhcp_discover;
use bramble_tests::machines::fetch::{Fetched, http, post};
use bramble_tests::machines::firmware::{Ended, power_on};
use bramble_tests::machines::house::{HEAD, House, Router, inside, ip};
use bramble_tests::machines::persona::Persona;
use bramble_tests::machines::stack::Stack;
use bramble_tests::machines::wire::Trouble;
use rustix::net::{AddressFamily, SocketAddrV4, SocketType, bind, connect, socket};

const NODE: &str = "52:54:00:00:00:11";
const OTHER: &str = "52:54:00:00:00:66";

fn house() -> House {
    let node = format!("[nodes.w1]\nmac = \"{NODE}\"\nrole = \"other\"\n");
    House::start("proxy", Router::None, &node, &[])
}

/// A machine with this card, at this address.
fn plug(house: &House, mac: &str, address: &str) -> Stack {
    let mut stack = Stack::new(house.wire.plug(mac.parse().expect("a MAC"), Trouble::default(), 7), 7);
    stack.configure(address.parse().expect("an address"), 24, None);
    stack
}

fn url(path: &str) -> String {
    format!("http://{HEAD}:7080{path}")
}

/// The script that is given to whoever asks from there.
fn script(stack: &mut Stack) -> String {
    match http(stack, &url(&format!("/boot/script/{NODE}"))) {
        Fetched::File(bytes) => String::from_utf8(bytes).expect("text"),
        other => panic!("no script: {other:?}"),
    }
}

/// The id of the boot in a script.
fn boot(script: &str) -> Option<String> {
    let (_, rest) = script.split_once("bramble.boot=")?;
    rest.split_whitespace().next().map(str::to_owned)
}

/// Asks for an address and then for a script, as often as it takes the head to hear the first.
fn boots(machine: &mut Stack) -> String {
    let mut given = None;
    bramble_tests::wait("a boot is given", || {
        machine.broadcast_dhcp(&dhcp_discover(NODE.parse().expect("a MAC"), Ipv4Addr::UNSPECIFIED));
        given = boot(&script(machine));
        given.is_some()
    });
    given.expect("given")
}

fn is_refused(fetched: &Fetched, status: &str) -> bool {
    matches!(fetched, Fetched::Failed(reason) if reason.contains(status))
}

#[test]
fn nobody_is_given_the_boot_of_a_machine_that_has_not_asked_for_an_address() {
    if !inside("nobody_is_given_the_boot_of_a_machine_that_has_not_asked_for_an_address") {
        return;
    }
    let house = house();
    let mut other = plug(&house, OTHER, "10.77.0.66");
    // GRUB is told the same as iPXE.
    let menu = http(&mut other, &url(&format!("/grub/menu/x86_64/{NODE}")));
    let Fetched::File(menu) = menu else { panic!("no menu: {menu:?}") };
    let menu = String::from_utf8(menu).expect("text");
    assert!(boot(&menu).is_none() && menu.contains("net_dhcp"), "{menu}");
    let told = script(&mut other);
    assert!(boot(&told).is_none() && told.contains("dhcp netX"), "the machine itself would ask again: {told}");
    house.wait_for_cause("w1", "boot-not-given", 10);
    let mut node = plug(&house, NODE, "10.77.0.11");
    boots(&mut node);
}

#[test]
fn nobody_claims_a_boot_that_was_given_to_another_or_says_how_it_goes() {
    if !inside("nobody_claims_a_boot_that_was_given_to_another_or_says_how_it_goes") {
        return;
    }
    let house = house();
    let (mut node, mut other) = (plug(&house, NODE, "10.77.0.11"), plug(&house, OTHER, "10.77.0.66"));
    let id = boots(&mut node);
    let claim = |n: u8| format!("{{\"nonce\":\"{}\"}}", format!("{n:02x}").repeat(32));
    let at = url(&format!("/v1/boots/{id}/claim"));
    let stolen = post(&mut other, &at, &claim(6));
    assert!(is_refused(&stolen, "403"), "it was sent in the clear: {stolen:?}");
    let Fetched::File(word) = post(&mut node, &at, &claim(1)) else { panic!("its own boot") };
    let word: serde_json::Value = serde_json::from_slice(&word).expect("JSON");
    let word = word["report"].as_str().expect("a word");
    let container = post(&mut node, &at, &claim(6));
    assert!(is_refused(&container, "409"), "a program of the node reads the kernel's command line: {container:?}");
    let step = "{\"step\":\"root\",\"percent\":60}";
    let report = |stack: &mut Stack, name: &str| post(stack, &url(&format!("/v1/boots/{name}/report")), step);
    assert!(matches!(report(&mut other, &id), Fetched::Missing), "the boot alone is no word for reports");
    assert!(matches!(report(&mut other, &format!("{id}.00ff")), Fetched::Missing));
    assert!(matches!(report(&mut node, &format!("{id}.{word}")), Fetched::File(_)), "its own is noted");
    house.wait_for_cause("w1", "root-arrives", 10);
}

/// Four addresses of the wire, from which someone floods.
const FLOODING: [Ipv4Addr; 4] = [
    Ipv4Addr::new(10, 77, 0, 201),
    Ipv4Addr::new(10, 77, 0, 202),
    Ipv4Addr::new(10, 77, 0, 203),
    Ipv4Addr::new(10, 77, 0, 204),
];
/// Connections that each holds at a port, and the head's descriptors for everything.
const HELD: usize = 300;
const DESCRIPTORS: u32 = 1024;

/// A connection from this address, where the head takes it.
fn dial(from: Ipv4Addr, port: u16) -> Option<TcpStream> {
    let own = socket(AddressFamily::INET, SocketType::STREAM, None).ok()?;
    bind(&own, &SocketAddrV4::new(from, 0)).ok()?;
    connect(&own, &SocketAddrV4::new(HEAD.parse().ok()?, port)).ok()?;
    Some(TcpStream::from(own))
}

/// Opens connections and says half of something on each, for as long as it goes.
fn holds_connections(from: Ipv4Addr, port: u16, over: &AtomicBool) {
    let mut held = VecDeque::new();
    while !over.load(Ordering::Relaxed) {
        match dial(from, port) {
            Some(mut stream) => {
                let _ = stream.write_all(b"GET /boot/files/0011");
                held.push_back(stream);
            }
            None => thread::sleep(Duration::from_millis(5)),
        }
        if held.len() > HELD {
            held.pop_front();
        }
    }
}

/// Asks over TFTP for a file that is there, from ever another port, and takes nothing of it.
fn asks_for_files(from: Ipv4Addr, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        let Ok(own) = UdpSocket::bind((from, 0)) else { continue };
        let _ = own.send_to(b"\0\x01undionly.kpxe\0octet\0blksize\x001468\0timeout\x00255\0", (HEAD, 69));
        thread::sleep(Duration::from_millis(1));
    }
}

/// Asks for addresses and for boots in the names of cards that nobody has.
fn makes_up_cards(from: Ipv4Addr, over: &AtomicBool) {
    let own = UdpSocket::bind((from, 0)).expect("a socket");
    own.set_broadcast(true).expect("set");
    let mut number = 0_u32;
    while !over.load(Ordering::Relaxed) {
        number = number.wrapping_add(1);
        let [a, b, c, d] = number.to_be_bytes();
        let card = bramble_model::names::Mac([6, from.octets()[3], a, b, c, d]);
        let _ = own.send_to(&dhcp_discover(card, Ipv4Addr::UNSPECIFIED), (Ipv4Addr::BROADCAST, 67));
        thread::sleep(Duration::from_millis(1));
    }
}

/// One address ended all network boots with a thousand slow connections, or with a thousand datagrams.
#[test]
fn all_floods_at_once_stop_no_boot() {
    if !inside("all_floods_at_once_stop_no_boot") {
        return;
    }
    let node = |n: u8| format!("[nodes.p{n}]\nmac = \"52:54:00:aa:cc:0{n}\"\nrole = \"other\"\n\n");
    let nodes: String = (0..10).map(node).collect();
    let mut house = House::start("full", Router::None, &nodes, &[]);
    house.limit_head(DESCRIPTORS);
    for from in FLOODING {
        ip(&["address", "add", &format!("{from}/24"), "dev", "eth0"]);
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("personas");
    let loaders: BTreeMap<String, Persona> = Persona::all(&folder.join("loaders"));
    let kinds = ["ipxe-rom-2019", "bios-strict-43", "uefi-x64-edk2", "uefi-x64-http-16", "raspberry-pi-4"];
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).expect("a limit");
    let over = AtomicBool::new(false);
    let ended = thread::scope(|scope| {
        let over = &over;
        for from in FLOODING {
            for port in [7080, 7443, 7444] {
                scope.spawn(move || holds_connections(from, port, over));
            }
            scope.spawn(move || asks_for_files(from, over));
            scope.spawn(move || makes_up_cards(from, over));
        }
        let (wire, folder, loaders) = (&house.wire, &folder, &loaders);
        let boots: Vec<_> = (0..10_u8)
            .map(|n| {
                scope.spawn(move || {
                    let kind = kinds[usize::from(n) % kinds.len()];
                    let mut persona = Persona::read(&folder.join(format!("{kind}.toml")));
                    persona.mac = Some(format!("52:54:00:aa:cc:0{n}"));
                    let boot =
                        power_on(wire, &format!("p{n}"), &persona, loaders, Trouble::default(), u64::from(n) + 1);
                    (kind, boot)
                })
            })
            .collect();
        let ended: Vec<_> = boots.into_iter().map(|boot| boot.join().expect("followed")).collect();
        over.store(true, Ordering::Relaxed);
        ended
    });
    for (kind, boot) in ended {
        assert!(matches!(boot.ended, Ended::Kernel { .. }), "{kind}: {:?}\n{}", boot.ended, boot.log.join("\n"));
    }
    let (_, told, errors) = house.bramble(&["status", "--json"], "");
    assert!(told.contains("problems"), "its owner is served as well: {told}{errors}");
}
