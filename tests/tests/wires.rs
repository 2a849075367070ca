//! One head, several wires: an interface, a VLAN, and a subnet behind a real DHCP relay; and a router
//! that says by itself what to boot.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use bramble_tests::machines::firmware::{Ended, power_on};
use bramble_tests::machines::house::{House, Router, inside};
use bramble_tests::machines::persona::Persona;
use bramble_tests::machines::wire::{Trouble, Wire};
use bramble_tests::{Lab, Repository, has_reached, program};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("personas")
}

fn persona(name: &str) -> Persona {
    Persona::read(&folder().join(format!("{name}.toml")))
}

/// The part of `bramble.toml` that declares these machines.
fn nodes(names: &[&str]) -> String {
    let node = |name: &&str| {
        let mac = persona(name).mac(name);
        format!("[nodes.{name}]\nmac = \"{mac}\"\nrole = \"worker\"\n\n")
    };
    names.iter().map(node).collect()
}

/// The command line that this firmware's kernel gets on this wire.
fn boot(wire: &Wire, name: &str) -> String {
    let loaders = Persona::all(&folder().join("loaders"));
    let boot = power_on(wire, name, &persona(name), &loaders, Trouble::default(), 7);
    let Ended::Kernel { cmdline } = boot.ended else { panic!("{name}:\n{}", boot.log.join("\n")) };
    cmdline
}

#[test]
fn machines_boot_on_every_wire_and_behind_a_relay() {
    if inside("machines_boot_on_every_wire_and_behind_a_relay") {
        let names = ["bios-intel-2008", "uefi-x64-edk2", "raspberry-pi-4"];
        let (house, second, attic) = House::start_with_more_wires(&nodes(&names));
        for (wire, head, subnet) in [
            (&house.wire, "10.77.0.1", "10.77.0."),
            (&second, "10.79.0.1", "10.79.0."),
            (&attic, "10.77.0.1", "10.78.0."),
        ] {
            for name in names {
                let cmdline = boot(wire, name);
                // Each reaches the head at the address of its own wire.
                assert!(cmdline.contains(&format!("bramble.head={head}:7080 ")), "{name}: {cmdline}");
                assert!(cmdline.contains(&format!("bramble.ip={subnet}")), "{name}: {cmdline}");
            }
        }
    }
}

/// By the router's own offer, made as the recipe has it, and no DHCP of the head's own: also firmware that
/// never merges two offers. The ROM of a Pi 3 misses Kea's quick answers.
fn boot_by_the_routers_offer(router: Router, and: &[&str]) {
    let names = [
        "bios-intel-2008",
        "ipxe-rom-2019",
        "raspberry-pi-4",
        "raspberry-pi-5",
        "uefi-arm64-pxe",
        "uefi-x64-edk2",
        "uefi-x64-http-16",
        "uefi-x64-never-merges",
    ];
    let names = [&names, and].concat();
    let house = House::start("router", router, &nodes(&names), &[]);
    for name in names {
        let cmdline = boot(&house.wire, name);
        assert!(cmdline.contains(&format!("bramble.node={name} ")), "{name}: {cmdline}");
    }
}

#[test]
fn machines_boot_by_keas_own_offer() {
    if inside("machines_boot_by_keas_own_offer") {
        boot_by_the_routers_offer(Router::KeaWithRecipe, &[]);
    }
}

#[test]
fn machines_boot_by_dnsmasqs_own_offer() {
    if inside("machines_boot_by_dnsmasqs_own_offer") {
        boot_by_the_routers_offer(Router::DnsmasqWithRecipe, &["raspberry-pi-3"]);
    }
}

/// The first of these tests under Debian's own kernel, which has VLANs, in a machine of the lab: this very
/// program and the head run in it.
#[test]
#[ignore = "builds an image of its own: part of ./dev soak"]
fn machines_boot_on_a_vlan_in_a_guest() {
    let repository = Repository::first_light().by_wire();
    repository.only("m1");
    repository.edit(|text| {
        let text = text.replace("[image]", "[image]\npackages = [\"dnsmasq-base\", \"ipxe\"]");
        text.replace("role    = \"manager\"", "role    = \"manager\"\nlab     = { memory = 3000 }")
    });
    let overlay = repository.path().join("overlay");
    let place = |path: &Path| {
        let place = overlay.join(path.strip_prefix("/").expect("absolute"));
        fs::create_dir_all(place.parent().expect("a folder")).expect("a folder");
        place
    };
    let write = |path: &str, text: &str| fs::write(place(Path::new(path)), text).expect("written");
    for file in [folder(), folder().join("loaders")].iter().flat_map(|folder| fs::read_dir(folder).expect("a folder")) {
        let file = file.expect("readable").path();
        if file.is_file() {
            fs::copy(&file, place(&file)).expect("copied");
        }
    }
    symlink("/usr/bin/bramble", place(&program("bramble"))).expect("a link");
    fs::copy(std::env::current_exe().expect("this program"), place(Path::new("/usr/bin/wires"))).expect("copied");
    write("/etc/modules-load.d/wires.conf", "8021q\nbridge\ntun\nveth\n");
    write(
        "/etc/wires",
        "exec >/dev/ttyS0 2>&1\nsleep 15\nwires machines_boot_on_every_wire_and_behind_a_relay --exact --nocapture\necho \"wires ended with $?\"\n",
    );
    write(
        "/etc/systemd/system/wires.service",
        "[Service]\nType=oneshot\nEnvironment=TMPDIR=/tmp\nExecStart=/bin/sh /etc/wires\n",
    );
    let wanted = place(Path::new("/etc/systemd/system/multi-user.target.wants/wires.service"));
    symlink("/etc/systemd/system/wires.service", wanted).expect("a link");
    let mut lab = Lab::start(repository);
    lab.repository.must(&["power", "on", "m1"]);
    lab.wait("the machine is in its root", 150, |status| has_reached(status, "m1", "system"));
    let start = Instant::now();
    let console = loop {
        let console = lab.repository.must(&["lab", "console", "m1"]);
        if console.contains("wires ended with") {
            break console;
        }
        assert!(start.elapsed() < Duration::from_secs(300), "the test in the guest does not end:\n{console}");
        sleep(Duration::from_secs(2));
    };
    assert!(console.contains("wires ended with 0"), "{console}");
    assert!(!console.contains("this kernel has no VLANs"), "{console}");
}
