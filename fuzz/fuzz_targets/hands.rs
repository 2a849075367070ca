//! Messages of a WebSocket for exec, shell and logs, and what agents say of processes.
#![no_main]

use bramble_model::hands::{End, FromProcess, Request, ToProcess, Told};
use bramble_model::said::plain::is_plain;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(request) = serde_json::from_str::<Request>(text) {
        let again = serde_json::to_string(&request).expect("plain data");
        assert_eq!(serde_json::from_str::<Request>(&again).expect("one of our own"), request);
        let _ = request.errand.sentence();
    }
    if let Ok(order) = serde_json::from_str::<ToProcess>(text) {
        let again = serde_json::to_string(&order).expect("plain data");
        assert_eq!(serde_json::from_str::<ToProcess>(&again).expect("one of our own"), order);
    }
    let _ = serde_json::from_str::<Told>(text);
    if let Ok(FromProcess::Ended { end }) = serde_json::from_str::<FromProcess>(text) {
        let _ = end.code();
        if let End::Failed { reason } = end {
            assert!(reason.len() <= 1024 && reason.chars().all(is_plain), "{reason:?}");
        }
    }
});
