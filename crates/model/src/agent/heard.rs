//! A line of the other side, which may be of another release.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard<T> {
    Message(T),
    /// A message in a form that this program does not know. It ends no connection.
    Unknown {
        /// Its question's, its answer's or its process's own word, else its type; of printable ASCII, and short.
        what: String,
        waits: Option<Waits>,
    },
}

/// Who waits for more than a message that is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waits {
    /// For the answer to this question.
    Answer(u64),
    /// For the end of this process, which was to start, or has ended.
    End(u64),
}

/// The longest word that is kept of what is not known, in characters.
const LONGEST_WORD: usize = 40;

impl<T: DeserializeOwned> Heard<T> {
    /// Reads a line.
    ///
    /// # Errors
    /// When it is no message of any release: no JSON, or nothing with a type.
    pub fn read(line: &str) -> Result<Self, serde_json::Error> {
        let error = match serde_json::from_str(line) {
            Ok(message) => return Ok(Heard::Message(message)),
            Err(error) => error,
        };
        let value: Value = serde_json::from_str(line)?;
        let Some(kind) = value.get("type").and_then(Value::as_str) else { return Err(error) };
        // Questions and answers have a word of their own.
        let word = |part: &str, tag: &str| value.get(part)?.get(tag)?.as_str();
        let what = word("work", "do").or_else(|| word("answer", "is")).or_else(|| word("tell", "type")).unwrap_or(kind);
        let number = value.get("number").and_then(Value::as_u64);
        let waits = number.and_then(|number| match (kind, what) {
            ("ask" | "answer", _) => Some(Waits::Answer(number)),
            ("start", _) | ("process", "ended") => Some(Waits::End(number)),
            _ => None,
        });
        let what = what.chars().filter(char::is_ascii_graphic).take(LONGEST_WORD).collect();
        Ok(Heard::Unknown { what, waits })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::{FromAgent, ToAgent};
    use super::*;

    #[test]
    fn a_known_message_in_a_form_that_is_not_known_is_no_error() {
        let unknown = |line: &str| match Heard::<ToAgent>::read(line) {
            Ok(Heard::Unknown { what, waits }) => (what, waits),
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(
            unknown(r#"{"type":"ask","number":8,"work":{"do":"forget"}}"#),
            ("forget".into(), Some(Waits::Answer(8)))
        );
        assert_eq!(
            unknown(r#"{"type":"start","number":9,"start":{"image":"x"}}"#),
            ("start".into(), Some(Waits::End(9)))
        );
        let ended = r#"{"type":"process","number":9,"tell":{"type":"ended","end":{"end":"vanished"}}}"#;
        let heard = Heard::<FromAgent>::read(ended);
        assert_eq!(format!("{heard:?}"), r#"Ok(Unknown { what: "ended", waits: Some(End(9)) })"#);
        let hums = r#"{"type":"process","number":9,"tell":{"type":"hum"}}"#;
        assert!(matches!(Heard::<FromAgent>::read(hums), Ok(Heard::Unknown { waits: None, .. })));
        // What the plan saw, in a form of a later release: it is not done, and whoever asks hears it.
        let under = r#"{"type":"ask","number":9,"work":{"do":"forget","node_id":"n"},"under":{"fence":{"life":1,"number":2},"expects":{"saw":"weather"}}}"#;
        assert_eq!(unknown(under), ("forget".into(), Some(Waits::Answer(9))));
        let health = r#"{"type":"health","engine":{"state":"orbiting"}}"#;
        let heard = Heard::<FromAgent>::read(health);
        assert!(matches!(heard, Ok(Heard::Unknown { ref what, waits: None }) if what == "health"), "{heard:?}");
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for line in ["", "{}", "7", "weather", "[]", r#"{"type":7}"#, &"[".repeat(100_000)] {
            Heard::<ToAgent>::read(line).expect_err(line);
        }
    }

    /// JSON of any shape.
    fn anything() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
            prop::sample::select(&["ask", "answer", "observe", "done", "member", "process", "input"][..])
                .prop_map(Value::from),
        ];
        let key = prop::sample::select(&["type", "number", "work", "do", "answer", "is", "tell", "start", "state"][..]);
        leaf.prop_recursive(4, 24, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map(key.clone().prop_map(str::to_owned), inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let line = String::from_utf8_lossy(&bytes);
            let _ = Heard::<ToAgent>::read(&line);
            let _ = Heard::<FromAgent>::read(&line);
        }

        /// Whatever another release calls its messages, and whatever is in them, the connection goes on.
        #[test]
        fn any_object_with_a_type_ends_no_connection(
            kind in prop_oneof![
                "[a-z-]{0,12}",
                prop::sample::select(&["ask", "answer", "start", "process", "health", "document", "hello"][..])
                    .prop_map(str::to_owned),
            ],
            rest in anything(),
        ) {
            let mut message = json!({ "type": kind, "number": 7, "work": rest, "answer": rest, "tell": rest, "start": rest });
            if let Some(object) = rest.as_object() {
                message.as_object_mut().expect("an object").extend(object.clone());
                message["type"] = Value::from(kind);
            }
            let line = message.to_string();
            prop_assert!(Heard::<ToAgent>::read(&line).is_ok(), "{}", line);
            let heard = Heard::<FromAgent>::read(&line);
            prop_assert!(heard.is_ok(), "{}", line);
            if let Ok(Heard::Unknown { what, .. }) = heard {
                prop_assert!(what.len() <= LONGEST_WORD && what.bytes().all(|byte| byte.is_ascii_graphic()));
            }
        }
    }
}
