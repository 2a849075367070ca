//! What stage 1 says over plain HTTP: the claim of its boot, its reports, and what an adopted machine is.
#![no_main]

use bramble_boot::plain::is_plain;
use bramble_boot::{Claim, Claimed, Report, reporting};
use bramble_model::inventory::Inventory;
use bramble_model::names::Mac;
use bramble_model::timeline::What;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(claim) = Claim::read(bytes) {
        assert_eq!(Claim::read(claim.render().as_bytes()), Ok(claim), "one of our own");
    }
    if let Ok(claimed) = Claimed::read(bytes) {
        assert_eq!(Claimed::read(claimed.render().as_bytes()), Ok(claimed), "one of our own");
    }
    let what = match Report::read(bytes) {
        Ok(Report::Step { step, percent }) => {
            assert!(percent.is_none_or(|percent| percent <= 100));
            Some(What::Stage1 { step, percent })
        }
        Ok(Report::Failed { kind, reason, retry_in_seconds }) => {
            Some(What::Failed { reason, retry_in_seconds, failure: kind })
        }
        Err(_) => None,
    };
    if let Some(what) = what {
        let sentence = what.plain().sentence();
        assert!(sentence.len() < 2500 && sentence.chars().all(is_plain), "{sentence:?}");
    }
    if let Ok(inventory) = serde_json::from_slice::<Inventory>(bytes) {
        let (name, role) = ("n".parse().expect("a name"), "r".parse().expect("a name"));
        let stanza = inventory.stanza(&name, &role, Mac([2, 0, 0, 0, 0, 1]));
        assert!(stanza.chars().all(|c| c == '\n' || is_plain(c)), "{stanza:?}");
        assert_eq!(stanza.lines().filter(|line| !line.starts_with('#')).count(), 3, "{stanza}");
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = reporting(text);
    }
});
