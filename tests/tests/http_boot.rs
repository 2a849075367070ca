//! UEFI HTTP boot with real firmware: OVMF with PXE switched off.

use bramble_tests::{Lab, Repository, has_reached};

fn boots_over_http(repository: Repository) {
    repository.only("m1");
    repository.edit(|text| {
        text.replace("role    = \"manager\"", "role    = \"manager\"\nlab     = { firmware = \"uefi-http\" }")
    });
    let mut lab = Lab::start(repository);
    lab.repository.must(&["power", "on", "m1"]);
    lab.wait("the machine is in its root", 240, |status| has_reached(status, "m1", "system"));
    let events = lab.events("m1");
    let asked = |event: &serde_json::Value| event["what"]["firmware"] == "UEFI x64 HTTP";
    assert!(events.iter().any(asked), "it asked for HTTP boot: {events:#?}");
    assert!(!events.iter().any(|event| event["what"]["kind"] == "tftp-sent"), "nothing came over TFTP");
}

#[test]
fn ovmf_boots_over_http_from_full_dhcp() {
    boots_over_http(Repository::first_light());
}

#[test]
fn ovmf_boots_over_http_beside_a_home_router() {
    let repository = Repository::first_light();
    repository.beside_a_router("proxy");
    boots_over_http(repository);
}
