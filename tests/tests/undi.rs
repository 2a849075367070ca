//! A BIOS whose network boot is not iPXE: `undionly.kpxe` drives the card by the firmware's own UNDI.
//!
//! QEMU has no such ROM. So the card has none, and an iPXE that is started like a kernel stands in for the
//! ROM: it offers its UNDI to what it loads, as a ROM does, and does what a ROM is told by DHCP.

use std::fs;
use std::process::{Child, Command, Stdio};

use bramble_tests::{Lab, Repository, has_reached};

/// Ends with the test.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn undionly_boots_by_the_firmwares_own_driver() {
    let repository = Repository::first_light();
    repository.only("m1");
    let mut lab = Lab::start(repository);
    lab.on_the_wire(&["ip", "tuntap", "add", "dev", "undi", "mode", "tap"]);
    lab.on_the_wire(&["ip", "link", "set", "undi", "master", "eth0", "up"]);
    let script = lab.repository.path().join("rom.ipxe");
    let console = lab.repository.path().join("console");
    fs::write(&script, "#!ipxe\ndhcp\nchain tftp://10.77.0.1/undionly.kpxe\n").expect("written");
    let words = format!(
        "qemu-system-x86_64 -accel tcg -cpu Opteron_G3,-svm -machine q35 -m 1536 -nodefaults -display none \
         -kernel /usr/lib/ipxe/ipxe.lkrn -initrd {} -serial file:{} \
         -netdev tap,id=wire,ifname=undi,script=no,downscript=no \
         -device virtio-net-pci,netdev=wire,mac=52:54:00:00:00:01,romfile=",
        script.display(),
        console.display()
    );
    let machine = Command::new("nsenter")
        .args(lab.entering())
        .args(words.split_whitespace())
        .stdin(Stdio::null())
        .spawn()
        .expect("nsenter starts");
    let _machine = Machine(machine);
    lab.wait("the machine is in its root", 240, |status| has_reached(status, "m1", "system"));
    let events = lab.events("m1");
    let sent =
        |event: &serde_json::Value| event["what"]["kind"] == "tftp-sent" && event["what"]["file"] == "undionly.kpxe";
    assert!(events.iter().any(sent), "undionly.kpxe went out: {events:#?}");
}
