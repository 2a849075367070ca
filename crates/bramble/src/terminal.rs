//! What this program writes for people goes through here: `print!` and its like are these, in the whole program, and let no
//! character through that a terminal obeys, but newline and tab. What a node prints itself (`exec`, `shell`, `logs`) is
//! written to the streams as it is, by who shows it.

use std::io::{self, Write};

use bramble_model::said::plain;

/// As the standard library's, with plain text alone.
macro_rules! print {
    ($($text:tt)*) => { $crate::terminal::out(&format!($($text)*)) };
}

/// As the standard library's, with plain text alone.
macro_rules! println {
    () => { $crate::terminal::out("\n") };
    ($($text:tt)*) => { $crate::terminal::out(&format!("{}\n", format_args!($($text)*))) };
}

/// As the standard library's, with plain text alone.
macro_rules! eprint {
    ($($text:tt)*) => { $crate::terminal::err(&format!($($text)*)) };
}

/// As the standard library's, with plain text alone.
macro_rules! eprintln {
    () => { $crate::terminal::err("\n") };
    ($($text:tt)*) => { $crate::terminal::err(&format!("{}\n", format_args!($($text)*))) };
}

/// Writes to the standard output.
pub fn out(text: &str) {
    std::print!("{}", plain::lines(text));
}

/// Writes to the standard error.
pub fn err(text: &str) {
    std::eprint!("{}", plain::lines(text));
}

/// Writes text with colours of this program's own to the standard error.
pub fn coloured(text: &str) {
    std::eprint!("{}", with_colours(text));
}

/// Goes home, and clears what is below (ECMA-48, CUP and ED).
pub fn clear() {
    std::print!("\x1b[H\x1b[J");
}

/// Plain text, and colours (ECMA-48, SGR) but for concealed ones.
fn with_colours(text: &str) -> String {
    const BEGINS: &str = "\x1b[";
    let mut parts = text.split(BEGINS);
    let mut shown = plain::lines(parts.next().unwrap_or_default());
    for part in parts {
        let length = part.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b';').count();
        let (numbers, rest) = part.split_at(length);
        match rest.strip_prefix('m').filter(|_| numbers.split(';').all(|number| number.trim_start_matches('0') != "8"))
        {
            Some(rest) => shown.push_str(&format!("{BEGINS}{numbers}m{}", plain::lines(rest))),
            None => shown.push_str(&plain::lines(&format!("{BEGINS}{part}"))),
        }
    }
    shown
}

/// JSON in which every character that a terminal obeys is written as its number: it is read as before.
pub fn escaped(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        if c == '\n' || plain::is_plain(c) {
            escaped.push(c);
        } else {
            // Outside of text JSON has none.
            for unit in c.encode_utf16(&mut [0; 2]) {
                escaped.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    escaped
}

/// Lines of the log, each whole in one call: what is in them is plain, and is no line of its own.
pub struct Log<W>(pub W);

impl<W: Write> Write for Log<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let line = plain::line(text.trim_end_matches('\n'), LONGEST_LINE);
        self.0.write_all(format!("{line}\n").as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The longest line of the log, in bytes.
const LONGEST_LINE: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn colours_are_this_programs_and_nothing_else_is_obeyed() {
        assert_eq!(with_colours("\x1b[1;31mwrong\x1b[0m\n"), "\x1b[1;31mwrong\x1b[0m\n");
        assert_eq!(
            with_colours("\x1b[8mhidden\x1b[2Jgone\x1b]0;title\x07"),
            "\u{fffd}[8mhidden\u{fffd}[2Jgone\u{fffd}]0;title\u{fffd}"
        );
    }

    #[test]
    fn a_line_of_the_log_is_one_line() {
        let mut log = Log(Vec::new());
        log.write_all("INFO event=\"x\nERROR all is lost\u{1b}[2J\u{202e}\"\n".as_bytes()).expect("written");
        assert_eq!(String::from_utf8(log.0).expect("text"), "INFO event=\"x ERROR all is lost\u{fffd}[2J\u{fffd}\"\n");
    }

    proptest! {
        #[test]
        fn json_is_read_as_it_was_and_obeyed_by_nobody(text: String) {
            let json = serde_json::to_string_pretty(&serde_json::json!({ "text": text, "more": [1] })).expect("plain data");
            let told = escaped(&json);
            prop_assert!(told.chars().all(|c| plain::is_plain(c) || c == '\n'), "{told:?}");
            let (read, said): (serde_json::Value, serde_json::Value) =
                (serde_json::from_str(&told).expect("JSON"), serde_json::from_str(&json).expect("JSON"));
            prop_assert_eq!(read, said);
        }

        #[test]
        fn nothing_but_colours_passes(text: String) {
            let shown = with_colours(&text);
            let rest = shown.replace("\x1b[", "");
            prop_assert!(rest.chars().all(|c| plain::is_plain(c) || matches!(c, '\n' | '\t')), "{shown:?}");
        }
    }
}
