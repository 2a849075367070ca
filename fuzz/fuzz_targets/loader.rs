//! What loaders say of themselves: architecture, cards, names of files, ARP.
#![no_main]

use bramble_model::names::Mac;
use bramble_netboot::{arp, ipxe, pi, router, uboot};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = arp::hear(bytes, [10, 77, 0, 1].into());
    let _ = router::hear(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = ipxe::architecture(Some(text));
    let _ = text.parse::<Mac>();
    let _ = uboot::card(text);
    let _ = (pi::file(text), pi::prefix(text));
    let script = ipxe::wait_script(text, "10.77.0.1:7080".parse().expect("an address"));
    assert_eq!(script.lines().count(), 4, "a reason stays on its line");
});
