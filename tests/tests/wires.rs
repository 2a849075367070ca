//! One head, several wires: an interface, a VLAN, and a subnet behind a real DHCP relay; and a router
//! that says by itself what to boot.

use std::path::{Path, PathBuf};

use bramble_tests::machines::firmware::{Ended, power_on};
use bramble_tests::machines::house::{House, Router, inside};
use bramble_tests::machines::persona::Persona;
use bramble_tests::machines::wire::{Trouble, Wire};

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

/// A real Kea with the recipe, and no DHCP of the head's own: also for firmware that never merges two
/// offers.
#[test]
fn machines_boot_by_keas_own_offer() {
    if inside("machines_boot_by_keas_own_offer") {
        let names = [
            "bios-intel-2008",
            "ipxe-rom-2019",
            "uefi-arm64-pxe",
            "uefi-x64-edk2",
            "uefi-x64-http-16",
            "uefi-x64-never-merges",
        ];
        let house = House::start("router", Router::KeaWithRecipe, &nodes(&names), &[]);
        for name in names {
            let cmdline = boot(&house.wire, name);
            assert!(cmdline.contains(&format!("bramble.node={name} ")), "{name}: {cmdline}");
        }
    }
}
