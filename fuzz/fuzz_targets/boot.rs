//! What a booting machine and another generation's programs say: reports, the file for the agent, a command line.
#![no_main]

use bramble_boot::{Arguments, Asker, HandOver, Report};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(report) = Report::read(bytes) {
        assert_eq!(Report::read(report.render().as_bytes()), Ok(report), "one of our own");
    }
    if let Ok(boot) = HandOver::read(bytes) {
        assert_eq!(HandOver::read(boot.render().as_bytes()), Ok(boot), "one of our own");
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = Arguments::read(text);
    assert!(Asker::from(text).to_string().len() <= 4 * 64, "bounded");
});
