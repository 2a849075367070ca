//! Someone else on the wire, with a card and an address of their own, who knows what everyone there can know: the nodes'
//! addresses, and what was sent in the clear. Each attack fails, and the node itself boots at the same time.

use std::net::Ipv4Addr;

use bramble_tests::agents::dhcp_discover;
use bramble_tests::machines::fetch::{Fetched, http, post};
use bramble_tests::machines::house::{HEAD, House, Router, inside};
use bramble_tests::machines::stack::Stack;
use bramble_tests::machines::wire::Trouble;

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
    assert!(is_refused(&report(&mut node, &format!("{id}.{word}")), "204"), "its own is noted");
    house.wait_for_cause("w1", "root-arrives", 10);
}
