//! Any `Range` header, and files of any size.
#![no_main]

use bramble_netboot::range::{Part, part};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, u64)| {
    let (range, size) = input;
    if let Part::Range { start, length } = part(Some(range), size) {
        assert!(length > 0 && start.checked_add(length).is_some_and(|end| end <= size));
    }
});
