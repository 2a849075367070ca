//! What a loader puts into the URL of its boot script and of its files.
#![no_main]

use std::collections::BTreeMap;

use bramble_boot::{File, is_kept_of_a_set};
use bramble_model::names::{Digest, Mac};
use bramble_netboot::ipxe;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|query: &str| {
    let path = query.split('?').next().unwrap_or_default();
    let _ = (path.parse::<Mac>(), path.parse::<Digest>(), is_kept_of_a_set(path));
    let Ok(words) = serde_urlencoded::from_str::<BTreeMap<String, String>>(query) else { return };
    let cpu = ipxe::architecture(words.get("arch").map(String::as_str));
    assert!(!cpu.as_str().is_empty());
    for word in words.values() {
        let name = File::from(word.as_str());
        assert!(name.as_str().len() <= 32 && name.as_str().bytes().all(|byte| byte.is_ascii_graphic()));
        let http = "10.77.0.1:7080".parse().expect("an address");
        let script = ipxe::wait_script(word, http);
        assert_eq!(script.lines().count(), 4, "a reason stays on its line");
    }
});
