//! Any request, and any packet of its client after it.
#![no_main]

use std::time::Instant;

use bramble_netboot::tftp::{Content, Transfer, parse_request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(request) = parse_request(bytes) else { return };
    assert!(!request.file.split('/').any(|part| part == ".." || part.is_empty()), "{}", request.file);
    let now = Instant::now();
    let (mut transfer, _) = Transfer::start(Content::Memory(vec![7; 5000].into()), &request, 64, now);
    for packet in bytes.chunks(4) {
        let _ = transfer.packet(packet, now);
        assert!(transfer.packets().all(|packet| packet.len() <= 4 + 1468 || packet[1] == 6));
        let _ = transfer.timed_out(now);
    }
});
