//! UEFI in all its kinds, as real firmware: HTTP boot, signatures, arm64. PXE on amd64 is part of every
//! other lab test.

use bramble_tests::{Lab, Repository, has_reached};
use serde_json::Value;

/// The cluster with one machine, of these keys in its stanza.
fn one_machine(keys: &str) -> Repository {
    let repository = Repository::first_light().by_wire();
    repository.only("m1");
    repository.edit(|text| text.replace("role    = \"manager\"", &format!("role    = \"manager\"\n{keys}")));
    repository
}

fn on_arm64(keys: &str) -> Repository {
    let repository = one_machine(keys);
    repository.edit(|text| text.replace("[image]", "[image]\narchitectures = [\"arm64\"]"));
    repository
}

fn beside_a_router(repository: Repository) -> Repository {
    repository.beside_a_router("proxy");
    repository
}

/// Switches the machine on and waits until its root is mounted; what happened until then.
fn boot(repository: Repository) -> Vec<Value> {
    let mut lab = Lab::start(repository);
    lab.repository.must(&["power", "on", "m1"]);
    lab.wait("the machine is in its root", 240, |status| has_reached(status, "m1", "system"));
    lab.events("m1")
}

fn asked_as(events: &[Value], firmware: &str) {
    assert!(events.iter().any(|event| event["what"]["firmware"] == firmware), "{firmware} asked: {events:#?}");
}

/// The loaders that left, in order.
fn loaders(events: &[Value]) -> Vec<&str> {
    let left = |event: &&Value| event["what"]["kind"] == "tftp-sent" || event["what"]["kind"] == "http-sent";
    let files = events.iter().filter(left).filter_map(|event| event["what"]["file"].as_str());
    files.filter(|file| file.ends_with(".efi")).collect()
}

fn boots_over_http(repository: Repository) {
    let events = boot(repository);
    asked_as(&events, "UEFI x64 HTTP");
    assert!(!events.iter().any(|event| event["what"]["kind"] == "tftp-sent"), "nothing came over TFTP");
}

#[test]
fn ovmf_boots_over_http_from_full_dhcp() {
    boots_over_http(one_machine("lab = { firmware = \"uefi-http\" }"));
}

#[test]
fn ovmf_boots_over_http_beside_a_home_router() {
    boots_over_http(beside_a_router(one_machine("lab = { firmware = \"uefi-http\" }")));
}

#[test]
fn ovmf_that_checks_signatures_boots_the_signed_chain_beside_a_home_router() {
    let events = boot(beside_a_router(one_machine("secure_boot = true\nlab = { firmware = \"uefi-secure\" }")));
    asked_as(&events, "UEFI x64 PXE");
    assert_eq!(loaders(&events), ["shimx64.efi", "grubx64.efi"]);
}

/// It refuses iPXE over PXE, and then tries HTTP by itself.
#[test]
fn ovmf_that_checks_signatures_is_found_out() {
    let mut lab = Lab::start(one_machine("lab = { firmware = \"uefi-secure\" }"));
    lab.repository.must(&["power", "on", "m1"]);
    lab.wait("the machine is in its root", 300, |status| has_reached(status, "m1", "system"));
    let events = lab.events("m1");
    assert_eq!(loaders(&events), ["ipxe.efi", "shimx64.efi", "grubx64.efi"]);
    asked_as(&events, "UEFI x64 HTTP");
    lab.repository.must(&["lab", "power", "cycle", "m1"]);
    lab.wait("the machine asks again", 60, |status| !has_reached(status, "m1", "system"));
    lab.wait("the machine is in its root again", 120, |status| has_reached(status, "m1", "system"));
    let learned = ["ipxe.efi", "shimx64.efi", "grubx64.efi", "shimx64.efi", "grubx64.efi"];
    assert_eq!(loaders(&lab.events("m1")), learned, "what ran is given at once");
}

#[test]
fn aavmf_boots_an_arm64_boot_set_by_pxe_from_full_dhcp() {
    let events = boot(on_arm64("lab = { firmware = \"uefi\", architecture = \"arm64\" }"));
    asked_as(&events, "UEFI arm64 PXE");
    assert_eq!(loaders(&events), ["ipxe-arm64.efi"]);
}

/// What the firmware personas of Raspberry Pis fetch is in the real boot set, and small enough for them.
#[test]
fn an_arm64_boot_set_has_what_raspberry_pis_ask_for() {
    let repository = on_arm64("");
    repository.must(&["image", "build"]);
    let set: Value = serde_json::from_str(&repository.must(&["image", "inspect", "--json"])).expect("JSON");
    let firmware = set["manifest"]["firmware"].as_array().expect("files");
    let size = |name: &str| firmware.iter().find(|file| file["name"] == name).and_then(|file| file["size"].as_u64());
    for name in [
        "bootcode.bin",
        "start.elf",
        "fixup.dat",
        "start4.elf",
        "fixup4.dat",
        "bcm2837-rpi-3-b.dtb",
        "bcm2711-rpi-4-b.dtb",
        "bcm2712-rpi-5-b.dtb",
    ] {
        assert!(size(name).is_some_and(|size| size > 1000), "{name}: {firmware:#?}");
    }
    let initrd = set["manifest"]["initrd"]["size"].as_u64();
    for (name, size) in [("kernel.img", size("kernel.img")), ("initrd", initrd)] {
        assert!(size.is_some_and(|size| size > 5_000_000 && size < 30_000_000), "{name}: {size:?}");
    }
}

#[test]
fn aavmf_boots_an_arm64_boot_set_by_pxe_beside_a_home_router() {
    let events = boot(beside_a_router(on_arm64("lab = { firmware = \"uefi\", architecture = \"arm64\" }")));
    asked_as(&events, "UEFI arm64 PXE");
}

#[test]
fn aavmf_boots_an_arm64_boot_set_over_http() {
    let events = boot(on_arm64("lab = { firmware = \"uefi-http\", architecture = \"arm64\" }"));
    asked_as(&events, "UEFI arm64 HTTP");
}
