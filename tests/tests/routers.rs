//! Beside a home router that hands out addresses: a real dnsmasq, and real firmware.

use std::fs;
use std::process::Command;

use bramble_tests::{Lab, Repository, has_reached};

/// BIOS and UEFI, by two offers that they put together.
#[test]
fn machines_boot_beside_a_home_router() {
    let repository = Repository::first_light();
    repository.beside_a_router("proxy");
    let mut lab = Lab::start(repository);
    for node in ["m1", "w1"] {
        lab.repository.must(&["power", "on", node]);
    }
    for node in ["m1", "w1"] {
        lab.wait("the machine is in its root", 240, |status| has_reached(status, node, "system"));
    }
}

/// BIOS, UEFI and UEFI that checks signatures, with the recipe in the router and no DHCP of the head's own.
#[test]
fn machines_boot_by_the_routers_own_offer() {
    let repository = Repository::first_light();
    repository.beside_a_router("router");
    let secure = "mac     = \"52:54:00:00:00:03\"\nsecure_boot = true\nlab = { firmware = \"uefi-secure\" }";
    repository.edit(|text| text.replace("mac     = \"52:54:00:00:00:03\"", secure));
    let mut lab = Lab::start(repository);
    for node in ["m1", "w1", "w2"] {
        lab.repository.must(&["power", "on", node]);
    }
    for (node, what) in [
        ("m1", "the BIOS machine is in its root"),
        ("w1", "the UEFI machine is in its root"),
        ("w2", "the machine that checks signatures is in its root"),
    ] {
        lab.wait(what, 240, |status| has_reached(status, node, "system"));
        let events = lab.events(node);
        let count = |kind: &str| events.iter().filter(|event| event["what"]["kind"] == kind).count();
        assert_eq!(count("offered"), 0, "the head answered {node}");
        assert!(count("asked") > 0, "the head has heard {node}, and gives its boot to it");
    }
}

#[test]
fn dnsmasq_accepts_its_recipe() {
    let repository = Repository::first_light();
    let place = repository.path().join("dnsmasq.conf");
    fs::write(&place, repository.must(&["router-recipe", "dnsmasq", "--head", "10.77.0.1"])).expect("written");
    let check = Command::new("dnsmasq").arg("--test").arg(format!("--conf-file={}", place.display())).output();
    let check = check.expect("dnsmasq starts");
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
}
