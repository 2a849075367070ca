//! One head, several wires: two interfaces, and a subnet behind a real DHCP relay.

use std::path::Path;

use bramble_tests::machines::firmware::{Ended, power_on};
use bramble_tests::machines::house::{House, inside};
use bramble_tests::machines::persona::Persona;
use bramble_tests::machines::wire::{Trouble, Wire};

/// The command line that this firmware's kernel gets on this wire.
fn boot(wire: &Wire, name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("personas");
    let persona = Persona::read(&folder.join(format!("{name}.toml")));
    let boot = power_on(wire, name, &persona, &Persona::all(&folder.join("loaders")), Trouble::default(), 7);
    let Ended::Kernel { cmdline } = boot.ended else { panic!("{name}:\n{}", boot.log.join("\n")) };
    cmdline
}

#[test]
fn machines_boot_on_every_wire_and_behind_a_relay() {
    if inside("machines_boot_on_every_wire_and_behind_a_relay") {
        let names = ["bios-intel-2008", "uefi-x64-edk2", "raspberry-pi-4"];
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("personas");
        let nodes = names.map(|name| {
            let mac = Persona::read(&folder.join(format!("{name}.toml"))).mac(name);
            format!("[nodes.{name}]\nmac = \"{mac}\"\nrole = \"worker\"\n")
        });
        let (house, second, attic) = House::start_with_more_wires(&nodes.join("\n"));
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
