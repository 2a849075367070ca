//! Any line of an agent: it is read or refused, and what is read of it is clean, bounded and can be read again.
#![no_main]

use bramble_model::agent::{FromAgent, Heard};
use bramble_model::said::plain::is_plain;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fn is_clean(value: &Value) -> bool {
    match value {
        Value::String(text) => text.len() <= 1024 && text.chars().all(is_plain),
        Value::Number(number) => number.as_f64().is_some_and(f64::is_finite),
        Value::Array(all) => all.iter().all(is_clean),
        Value::Object(all) => all.values().all(is_clean),
        Value::Bool(_) | Value::Null => true,
    }
}

fuzz_target!(|line: &str| {
    match Heard::<FromAgent>::read(line) {
        Ok(Heard::Message(message)) => {
            // A request for a certificate and output of a process are for no eyes; what is not known is told to nobody.
            let is_raw = matches!(message, FromAgent::Renew { .. } | FromAgent::Process { .. });
            if let Ok(told) = serde_json::to_value(&message) {
                assert!(is_raw || is_clean(&told), "{told}");
                let again: FromAgent = serde_json::from_value(told.clone()).expect("one of our own");
                assert_eq!(serde_json::to_value(&again).expect("as before"), told);
            }
        }
        Ok(Heard::Unknown { what, .. }) => assert!(what.len() <= 40 && what.chars().all(is_plain)),
        Err(_) => {}
    }
});
