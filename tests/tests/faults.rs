//! What goes wrong on a wire, planted, and the name that `bramble why` has for it. Faults of nodes
//! that run are planted in the reports that they would send; faults of a decision alone are in
//! `bramble_plan::explain`.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::Duration;

use bramble_model::boot_set::Architecture;
use bramble_tests::machines::fetch::{Fetched, http, post};
use bramble_tests::machines::firmware::{Boot, power_on};
use bramble_tests::machines::house::{House, Router, content, filter, inside};
use bramble_tests::machines::persona::Persona;
use bramble_tests::machines::stack::Stack;
use bramble_tests::machines::wire::Trouble;

fn persona(name: &str) -> Persona {
    Persona::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("personas/{name}.toml")))
}

fn loaders() -> BTreeMap<String, Persona> {
    Persona::all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("personas/loaders"))
}

/// One node that is this persona.
fn node(name: &str) -> String {
    format!("[nodes.{name}]\nmac = \"{}\"\nrole = \"worker\"\n", persona(name).mac(name))
}

/// A house with one machine, which is switched on and goes through its boot order once.
fn boot(house: &House, name: &str, trouble: Trouble) -> Boot {
    let once = Persona { rounds: 1, ..persona(name) };
    power_on(&house.wire, name, &once, &loaders(), trouble, 7)
}

/// Plants a fault: a persona in a house with packet filter rules; and expects its name.
fn plant(dhcp: &str, router: Router, name: &str, rules: &str, trouble: Trouble, cause: &str) {
    let house = House::start(dhcp, router, &node(name), &[]);
    if !rules.is_empty() {
        filter(rules);
    }
    thread::scope(|scope| {
        scope.spawn(|| boot(&house, name, trouble));
        let why = house.wait_for_cause(name, cause, 120);
        assert!(why["advice"].is_string(), "{cause} says what to do");
        // The status page has the same sentence.
        let status = house.status().expect("a status");
        assert_eq!(status["nodes"][0]["why"]["cause"], why["cause"]);
    });
}

/// Rules for what enters and leaves the head.
fn drop_in(what: &str) -> String {
    format!("table ip test {{ chain in {{ type filter hook input priority 0; {what} drop; }}\n}}")
}

fn drop_out(what: &str) -> String {
    format!("table ip test {{ chain out {{ type filter hook output priority 0; {what} drop; }}\n}}")
}

macro_rules! faults {
    ($($test:ident: $dhcp:literal, $router:ident, $persona:literal, $rules:expr, $trouble:expr => $cause:literal;)*) => {
        $(#[test]
        fn $test() {
            if inside(stringify!($test)) {
                plant($dhcp, Router::$router, $persona, &$rules, $trouble, $cause);
            }
        })*
    };
}

const GOOD: Trouble = Trouble { lost: 0, doubled: 0, late: 0, silent: Duration::ZERO, longest: None };

faults! {
    offers_that_are_never_merged:
        "proxy", Dnsmasq, "uefi-x64-never-merges", "", GOOD => "offers-never-merged";
    an_offer_and_no_request:
        "proxy", None, "bios-intel-2008", "", GOOD => "offer-without-request";
    a_boot_server_port_that_is_blocked:
        "proxy", Dnsmasq, "uefi-x64-ami", drop_in("udp dport 4011"), GOOD => "boot-server-port-unreachable";
    tftp_requests_that_are_blocked:
        "full", None, "bios-intel-2008", drop_in("udp dport 69"), GOOD => "tftp-blocked";
    tftp_answers_that_are_blocked:
        "full", None, "bios-intel-2008", drop_out("udp sport 30000-65535"), GOOD => "tftp-blocked";
    http_that_is_blocked:
        "full", None, "bios-intel-2008", drop_in("tcp dport 7080"), GOOD => "http-blocked";
    http_boot_that_is_blocked:
        "full", None, "uefi-x64-http-16", drop_in("tcp dport 7080"), GOOD => "http-blocked";
    an_mtu_that_is_too_small:
        "full", None, "uefi-x64-edk2", "", Trouble { longest: Some(1400), ..GOOD } => "mtu-too-small";
    a_firmware_that_nothing_boots:
        "full", None, "uefi-ia32", "", GOOD => "no-loader";
}

/// The firmware's own retries end before the port opens.
#[test]
fn a_port_that_spanning_tree_blocks() {
    if inside("a_port_that_spanning_tree_blocks") {
        let house = House::start("full", Router::None, &node("raspberry-pi-3"), &[]);
        // Its last DISCOVER gets through, at 20 s, and the answer does not.
        filter(&drop_out("udp sport 67"));
        let boot = boot(&house, "raspberry-pi-3", Trouble { silent: Duration::from_secs(18), ..GOOD });
        assert!(boot.files.is_empty());
        house.wait_for_cause("raspberry-pi-3", "spanning-tree-delay", 60);
    }
}

/// It was switched on, and nothing came; a Raspberry Pi has a reason of its own.
#[test]
fn no_packet_at_all() {
    if inside("no_packet_at_all") {
        let nodes = format!("{}\n{}", node("bios-intel-2008"), node("raspberry-pi-4"));
        let house = House::start("full", Router::None, &nodes, &[]);
        house.wait_for_cause("bios-intel-2008", "no-packet", 10);
        house.wait_for_cause("raspberry-pi-4", "pi-without-network-boot", 10);
        let stranger = boot(&house, "uefi-x64-ami", GOOD);
        assert!(stranger.files.is_empty());
        let mac = persona("uefi-x64-ami").mac("uefi-x64-ami").to_string();
        house.wait_for_cause(&mac, "not-in-the-repository", 10);
    }
}

/// A second DHCP server came to the wire after the head had looked for one.
#[test]
fn a_rival_dhcp_server() {
    if inside("a_rival_dhcp_server") {
        let mut house = House::start("full", Router::None, &node("bios-intel-2008"), &[]);
        house.add_router(Router::Dnsmasq);
        // The head's own offers come too late to be taken.
        filter(&drop_out("udp sport 67 ip daddr 255.255.255.255"));
        thread::scope(|scope| {
            scope.spawn(|| boot(&house, "bios-intel-2008", GOOD));
            house.wait_for_cause("bios-intel-2008", "rival-dhcp-server", 120);
        });
    }
}

/// The router's own boot file is for a BIOS, and wins.
#[test]
fn a_boot_file_for_another_architecture() {
    if inside("a_boot_file_for_another_architecture") {
        let mut house = House::start("proxy", Router::None, &node("uefi-x64-arch-9"), &[]);
        house.add_router(Router::DnsmasqWithBootFile("undionly.kpxe"));
        boot(&house, "uefi-x64-arch-9", GOOD);
        house.wait_for_cause("uefi-x64-arch-9", "wrong-architecture-file", 60);
    }
}

/// The router tells iPXE to load iPXE.
#[test]
fn a_loader_that_loads_itself() {
    if inside("a_loader_that_loads_itself") {
        let mut house = House::start("proxy", Router::None, &node("bios-intel-2008"), &[]);
        house.add_router(Router::DnsmasqWithBootFile("undionly.kpxe"));
        for _ in 0..3 {
            boot(&house, "bios-intel-2008", GOOD);
        }
        house.wait_for_cause("bios-intel-2008", "loader-loop", 60);
    }
}

/// An EEPROM of before September 2025 and a kernel of more than 65535 blocks.
#[test]
fn a_block_counter_that_does_not_wrap() {
    if inside("a_block_counter_that_does_not_wrap") {
        let house = House::start("full", Router::None, &node("raspberry-pi-4"), &[]);
        let mut old = persona("raspberry-pi-4");
        old.tftp.counts_to = Some(65_535);
        // Blocks so small that the kernel of this test has more of them.
        old.tftp.blksize = Some(8);
        house.replace_kernel(Architecture::Arm64, &content("a large kernel", 65_536 * 8 + 4000));
        power_on(&house.wire, "raspberry-pi-4", &old, &loaders(), GOOD, 7);
        house.wait_for_cause("raspberry-pi-4", "block-counter-wrap", 60);
    }
}

/// What comes after the kernel: stage 1 and the agent report it, and these are their reports.
#[test]
fn what_a_node_reports_has_a_name() {
    if inside("what_a_node_reports_has_a_name") {
        let house = House::start("full", Router::None, &node("bios-intel-2008"), &[]);
        let booted = boot(&house, "bios-intel-2008", GOOD);
        let bramble_tests::machines::firmware::Ended::Kernel { cmdline } = booted.ended else { panic!("it boots") };
        let word = |name: &str| cmdline.split(' ').find_map(|word| word.strip_prefix(name)).expect("a word").to_owned();
        let mac = persona("bios-intel-2008").mac("bios-intel-2008");
        let mut stack = Stack::new(house.wire.plug(mac, GOOD, 3), 3);
        stack.configure([10, 77, 0, 100].into(), 24, None);
        let url = format!("http://10.77.0.1:7080/v1/boots/{}/report", word("bramble.boot="));
        let mut report = |json: &str| {
            let answer = post(&mut stack, &url, json);
            assert!(matches!(answer, Fetched::File(_)), "{json}: {answer:?}");
        };
        for (kind, failed, name) in [
            (
                "digest",
                "layer `root` from the head is not the one that the manifest names (digest 0123…, expected 4567…); it was not mounted",
                "digest-mismatch",
            ),
            ("fetch", "cannot fetch layer `root` past byte 4096: connection timed out", "layer-fetch-stalls"),
            ("no-memory", "cannot keep a layer in memory: No space left on device (os error 28)", "out-of-memory"),
            (
                "no-driver",
                "no driver of this initrd brought up the network card 52:54:00:00:00:01 that the firmware booted from",
                "no-driver",
            ),
        ] {
            report(r#"{"step":"root","percent":40}"#);
            report(&format!(r#"{{"failed":"{failed}","kind":"{kind}","retry_in_seconds":1}}"#));
            house.wait_for_cause("bios-intel-2008", name, 10);
        }
        // The stage 1 of an older boot set says no kind: its sentence is for whoever reads it.
        report(r#"{"step":"root","percent":40}"#);
        report(r#"{"failed":"no driver of this initrd brought up the network card","retry_in_seconds":1}"#);
        let why = house.wait_for_cause("bios-intel-2008", "stage1-failed", 10);
        assert!(why["cause"].as_str().is_some_and(|cause| cause.contains("no driver of this initrd")), "{why}");
    }
}

/// A machine that sends nothing but rubbish, as fast as it can, and one that boots beside it.
#[test]
fn a_flood_of_malformed_packets_delays_nobody() {
    if inside("a_flood_of_malformed_packets_delays_nobody") {
        let house = House::start("full", Router::None, &node("uefi-x64-edk2"), &[]);
        let quiet = boot(&house, "uefi-x64-edk2", GOOD);
        let stop = std::sync::atomic::AtomicBool::new(false);
        let flooded = thread::scope(|scope| {
            scope.spawn(|| {
                let mac = "52:54:00:66:66:66".parse().expect("a MAC");
                let mut stack = Stack::new(house.wire.plug(mac, GOOD, 3), 3);
                let mut dice = bramble_tests::machines::wire::Dice(99);
                stack.configure([10, 77, 0, 99].into(), 24, None);
                let udp = stack.udp(None);
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let length = dice.roll() as usize % 600;
                    let mut rubbish: Vec<u8> = (0..length).map(|_| dice.roll() as u8).collect();
                    if rubbish.len() > 240 {
                        // As near to a DHCP message as rubbish comes.
                        rubbish[..4].copy_from_slice(&[1, 1, 6, 0]);
                        rubbish[236..240].copy_from_slice(&[0x63, 0x82, 0x53, 0x63]);
                    }
                    stack.broadcast_dhcp(&rubbish);
                    for port in [69, 4011] {
                        stack.send(&udp, std::net::SocketAddrV4::new([10, 77, 0, 1].into(), port), &rubbish);
                    }
                }
            });
            thread::sleep(Duration::from_millis(500));
            let flooded = boot(&house, "uefi-x64-edk2", GOOD);
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            flooded
        });
        assert_eq!(flooded.files, quiet.files, "{}", flooded.log.join("\n"));
    }
}

/// Paths that lead out of what is served, over both protocols.
#[test]
fn nothing_outside_can_be_named() {
    if inside("nothing_outside_can_be_named") {
        let machines = "[boot.tool]\nkernel = \"boot/linux\"\nfiles = \"boot/\"\n\n[nodes.x]\nmac = \"52:54:00:11:11:11\"\nrole = \"other\"\nboot = \"tool\"\n";
        let house = House::start("full", Router::None, machines, &[("boot/linux", b"kernel"), ("secret", b"secret")]);
        let mac = "52:54:00:11:11:11".parse().expect("a MAC");
        let mut stack = Stack::new(house.wire.plug(mac, GOOD, 3), 3);
        stack.configure([10, 77, 0, 99].into(), 24, None);
        let good = http(&mut stack, "http://10.77.0.1:7080/boot/profile/tool/files/linux");
        assert!(matches!(good, Fetched::File(ref bytes) if bytes == b"kernel"), "{good:?}");
        for path in
            ["../secret", "..%2fsecret", "%2e%2e/secret", "/etc/passwd", "....//secret", "..\\\\secret", "linux%00", ""]
        {
            for base in
                ["boot/profile/tool/files/", "boot/profile/", "boot/loader/", "boot/files/", "boot/seed/", "boot/sets/"]
            {
                let got = http(&mut stack, &format!("http://10.77.0.1:7080/{base}{path}"));
                assert!(!matches!(got, Fetched::File(_)), "{base}{path}: {got:?}");
            }
        }
        let plain = persona("bios-intel-2008").tftp;
        for path in [
            "../secret",
            "/etc/passwd",
            "boot/linux",
            "..\\secret",
            "%2e%2e/secret",
            "pxelinux.cfg/../../secret",
            "profile/../start.efi",
        ] {
            let got = bramble_tests::machines::fetch::tftp(&mut stack, [10, 77, 0, 1].into(), path, &plain);
            assert!(!matches!(got, Fetched::File(_)), "{path}: {got:?}");
        }
    }
}
