//! Text of somebody who wants to be obeyed by a terminal, to turn what stands beside it, or to forge a line.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Clears the screen, sets its title, moves the cursor (by ESC and by C1), turns the direction of text, hides, and begins a
/// line of its own.
pub const HOSTILE: &str = "\u{1b}[2J\u{1b}[1;1H\u{1b}]0;owned\u{7}\u{9b}31m\u{90}q\u{202e}reversed\u{2066}\u{200f}\u{200b}\u{feff}\u{0}\u{8}\u{7f}\rm9: ready\n\u{2028}<script>alert(1)</script>\"'&";

/// The same value with [`HOSTILE`] in the place of each text in it that may be any; gives how many those were, too.
pub fn poisoned<T: Serialize + DeserializeOwned>(sample: &T) -> (T, usize) {
    let mut whole = serde_json::to_value(sample).expect("plain data");
    let mut paths = Vec::new();
    texts(&whole, String::new(), &mut paths);
    let mut poisoned = 0;
    for path in paths {
        let text = whole.pointer_mut(&path).expect("it is there");
        let before = std::mem::replace(text, HOSTILE.into());
        if serde_json::from_value::<T>(whole.clone()).is_ok() {
            poisoned += 1;
        } else {
            // A name, a digest, a word of several: nobody can say anything else there.
            *whole.pointer_mut(&path).expect("it is there") = before;
        }
    }
    (serde_json::from_value(whole).expect("as it was tried"), poisoned)
}

fn texts(value: &Value, path: String, found: &mut Vec<String>) {
    match value {
        Value::String(_) => found.push(path),
        Value::Array(list) => list.iter().enumerate().for_each(|(at, one)| texts(one, format!("{path}/{at}"), found)),
        Value::Object(map) => map.iter().for_each(|(key, one)| {
            texts(one, format!("{path}/{}", key.replace('~', "~0").replace('/', "~1")), found);
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// What a terminal obeys, or what turns or hides the text beside it; newline and tab are for whoever writes lines.
pub fn obeyed(text: &str) -> Option<char> {
    let turns = |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{2028}' | '\u{2029}');
    text.chars().find(|c| (c.is_control() && !matches!(c, '\n' | '\t')) || turns(*c))
}
