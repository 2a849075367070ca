//! What loaders say of themselves: architecture, cards, names of files, ARP.
#![no_main]

use bramble_model::names::Mac;
use bramble_netboot::{arp, grub, ipxe, pi, router, uboot};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = arp::hear(bytes, [10, 77, 0, 1].into());
    let _ = router::hear(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = ipxe::architecture(Some(text));
    let _ = text.parse::<Mac>();
    let _ = uboot::card(text);
    let _ = (pi::file(text), pi::prefix(text));
    let _ = (grub::asked(text), grub::file(text), grub::program(text));
    let node = "m1".parse().expect("a name");
    if let Ok(menu) = grub::menu(&node, "http://10.77.0.1:7080/kernel", text, &[]) {
        // However odd a word, it stays between its quotes: what follows is the menu's own.
        assert!(menu.contains("; then boot; fi\n"), "{menu}");
    }
    let menu = grub::wait_menu(text);
    assert_eq!(menu.lines().count(), 3, "a reason stays on its line");
    let script = ipxe::wait_script(text, "10.77.0.1:7080".parse().expect("an address"));
    assert_eq!(script.lines().count(), 4, "a reason stays on its line");
});
