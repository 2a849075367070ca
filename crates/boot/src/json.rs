//! As much JSON as a flat object needs (RFC 8259): text, whole numbers, truth and `null`. What is nested, or
//! another kind of number, is read past.

use std::collections::BTreeMap;
use std::fmt;

/// No value nests deeper in what is read here.
const DEEPEST: u32 = 32;

/// Why bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Malformed {
    /// No JSON: what was expected at which byte.
    Json { at: usize, expected: &'static str },
    /// A field is not there, or is not what it should be.
    Field { name: &'static str, expected: &'static str },
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Malformed::Json { at, expected } => write!(f, "not JSON: expected {expected} at byte {at}"),
            Malformed::Field { name, expected } => write!(f, "expected `{name}`, which is {expected}"),
        }
    }
}

impl std::error::Error for Malformed {}

/// A value of a flat object.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Text(String),
    Number(u64),
    Truth(bool),
    /// `null`, and everything that nothing here needs.
    Other,
}

/// The fields of an object.
#[derive(Debug)]
pub(crate) struct Fields(BTreeMap<String, Value>);

impl Fields {
    /// Reads an object. Of a field that is there twice, the last one counts.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let text = std::str::from_utf8(bytes)
            .map_err(|error| Malformed::Json { at: error.valid_up_to(), expected: "UTF-8" })?;
        let mut reader = Reader { text, at: 0 };
        let mut fields = BTreeMap::new();
        reader.members(0, &mut |name, value| {
            fields.insert(name, value);
        })?;
        reader.blank();
        if reader.at < text.len() { Err(reader.wrong("the end")) } else { Ok(Fields(fields)) }
    }

    pub(crate) fn text(&self, name: &'static str) -> Result<&str, Malformed> {
        self.optional_text(name).ok_or(Malformed::Field { name, expected: "text" })
    }

    pub(crate) fn optional_text(&self, name: &str) -> Option<&str> {
        match self.0.get(name) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        match self.0.get(name) {
            Some(Value::Number(number)) => Some(*number),
            _ => None,
        }
    }

    pub(crate) fn is_true(&self, name: &str) -> bool {
        self.0.get(name) == Some(&Value::Truth(true))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn wrong(&self, expected: &'static str) -> Malformed {
        Malformed::Json { at: self.at, expected }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn blank(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        let is = self.peek() == Some(byte);
        self.at += usize::from(is);
        is
    }

    fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), Malformed> {
        self.blank();
        if self.take(byte) { Ok(()) } else { Err(self.wrong(what)) }
    }

    /// An object whole, each of its fields to `tell`.
    fn members(&mut self, depth: u32, tell: &mut dyn FnMut(String, Value)) -> Result<(), Malformed> {
        self.expect(b'{', "an object")?;
        self.blank();
        if self.take(b'}') {
            return Ok(());
        }
        loop {
            self.blank();
            let name = self.string()?;
            self.expect(b':', "`:`")?;
            let value = self.value(depth + 1)?;
            tell(name, value);
            self.blank();
            if self.take(b'}') {
                return Ok(());
            }
            self.expect(b',', "`,` or `}`")?;
        }
    }

    fn value(&mut self, depth: u32) -> Result<Value, Malformed> {
        if depth > DEEPEST {
            return Err(self.wrong("less depth"));
        }
        self.blank();
        match self.peek() {
            Some(b'"') => self.string().map(Value::Text),
            Some(b'{') => self.members(depth, &mut |_, _| {}).map(|()| Value::Other),
            Some(b'[') => {
                self.at += 1;
                self.blank();
                if self.take(b']') {
                    return Ok(Value::Other);
                }
                loop {
                    self.value(depth + 1)?;
                    self.blank();
                    if self.take(b']') {
                        return Ok(Value::Other);
                    }
                    self.expect(b',', "`,` or `]`")?;
                }
            }
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => {
                for (word, value) in
                    [("true", Value::Truth(true)), ("false", Value::Truth(false)), ("null", Value::Other)]
                {
                    if self.text[self.at..].starts_with(word) {
                        self.at += word.len();
                        return Ok(value);
                    }
                }
                Err(self.wrong("a value"))
            }
        }
    }

    /// RFC 8259, section 6. Only whole ones that fit are kept.
    fn number(&mut self) -> Result<Value, Malformed> {
        let begin = self.at;
        self.take(b'-');
        let whole = self.at;
        self.digits()?;
        if self.text.as_bytes()[whole] == b'0' && self.at > whole + 1 {
            self.at = whole + 1;
            return Err(self.wrong("no digit after a leading 0"));
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _ = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        Ok(self.text[begin..self.at].parse().map_or(Value::Other, Value::Number))
    }

    fn digits(&mut self) -> Result<(), Malformed> {
        let begin = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == begin { Err(self.wrong("a digit")) } else { Ok(()) }
    }

    fn string(&mut self) -> Result<String, Malformed> {
        if !self.take(b'"') {
            return Err(self.wrong("`\"`"));
        }
        let mut read = String::new();
        loop {
            let rest = &self.text[self.at..];
            let plain = rest.find(['"', '\\']).unwrap_or(rest.len());
            if let Some(control) = rest[..plain].find(|c: char| c < ' ') {
                self.at += control;
                return Err(self.wrong("no control character"));
            }
            read.push_str(&rest[..plain]);
            self.at += plain;
            if self.take(b'"') {
                return Ok(read);
            }
            if !self.take(b'\\') {
                return Err(self.wrong("`\"`"));
            }
            let escape = self.peek().ok_or_else(|| self.wrong("an escape"))?;
            self.at += 1;
            read.push(match escape {
                b'"' => '"',
                b'\\' => '\\',
                b'/' => '/',
                b'b' => '\u{8}',
                b'f' => '\u{c}',
                b'n' => '\n',
                b'r' => '\r',
                b't' => '\t',
                b'u' => self.unicode()?,
                _ => {
                    self.at -= 1;
                    return Err(self.wrong("an escape"));
                }
            });
        }
    }

    /// What follows `\u`: one code unit, or two that are a pair (RFC 8259, section 7).
    fn unicode(&mut self) -> Result<char, Malformed> {
        let high = self.unit()?;
        let code = match high {
            0xd800..=0xdbff => {
                if !(self.take(b'\\') && self.take(b'u')) {
                    return Err(self.wrong("the second half of a pair"));
                }
                let low = self.unit()?;
                if !(0xdc00..=0xdfff).contains(&low) {
                    return Err(self.wrong("the second half of a pair"));
                }
                0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00)
            }
            other => other,
        };
        char::from_u32(code).ok_or_else(|| self.wrong("a character"))
    }

    fn unit(&mut self) -> Result<u32, Malformed> {
        let digits = self.text.get(self.at..self.at + 4).filter(|hex| hex.bytes().all(|c| c.is_ascii_hexdigit()));
        let unit = digits.and_then(|hex| u32::from_str_radix(hex, 16).ok());
        let unit = unit.ok_or_else(|| self.wrong("four hex digits"))?;
        self.at += 4;
        Ok(unit)
    }
}

/// An object that is being written. Fields come in the order of their names, as every generation so far wrote
/// them.
#[derive(Default)]
pub(crate) struct Writer(String);

impl Writer {
    fn name(&mut self, name: &str) -> &mut String {
        self.0.push(if self.0.is_empty() { '{' } else { ',' });
        quote(&mut self.0, name);
        self.0.push(':');
        &mut self.0
    }

    pub(crate) fn text(mut self, name: &str, value: &str) -> Self {
        quote(self.name(name), value);
        self
    }

    pub(crate) fn number(mut self, name: &str, value: u64) -> Self {
        self.name(name).push_str(&value.to_string());
        self
    }

    pub(crate) fn truth(mut self, name: &str, value: bool) -> Self {
        self.name(name).push_str(if value { "true" } else { "false" });
        self
    }

    pub(crate) fn null(mut self, name: &str) -> Self {
        self.name(name).push_str("null");
        self
    }

    pub(crate) fn end(self) -> String {
        if self.0.is_empty() { "{}".into() } else { self.0 + "}" }
    }
}

fn quote(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (bytes, at) in [
            (&b""[..], 0),
            (b"[]", 0),
            (b"{\"a\":01}", 6),
            (b"{\"a\":1} x", 8),
            (b"{\"a\"", 4),
            (b"{\"a\":tru}", 5),
            (b"{\"a\":\"\\x\"}", 7),
            (b"{\"a\":\"\\ud800\"}", 12),
            (b"{\"a\":\"\xff\"}", 6),
        ] {
            let found = Fields::read(bytes).expect_err("malformed");
            assert!(matches!(found, Malformed::Json { at: place, .. } if place == at), "{found}");
        }
        let deep = format!("{{\"a\":{}", "[".repeat(100_000));
        assert!(Fields::read(deep.as_bytes()).is_err());
    }

    #[test]
    fn what_nobody_needs_is_read_past() {
        let text =
            r#" {"a":{"b":[1,-2.5e3,{}]},"c":18446744073709551616,"n":7, "t":"x\u00e9\ud83d\ude00\/", "y":true} "#;
        let fields = Fields::read(text.as_bytes()).expect("an object");
        assert_eq!((fields.number("n"), fields.number("c")), (Some(7), None));
        assert_eq!(fields.text("t"), Ok("xé😀/"));
        assert!(fields.is_true("y") && fields.has("a") && !fields.has("b"));
    }

    proptest! {
        /// A second implementation agrees, on what is JSON and on what it says.
        #[test]
        fn it_reads_what_serde_writes(text: String, number: u64, truth: bool) {
            let written = serde_json::json!({ "n": number, "none": null, "t": text, "y": truth }).to_string();
            let fields = Fields::read(written.as_bytes()).expect("an object");
            prop_assert_eq!(fields.text("t"), Ok(text.as_str()));
            prop_assert_eq!(fields.number("n"), Some(number));
            prop_assert_eq!(fields.is_true("y"), truth);
            let own = Writer::default().number("n", number).null("none").text("t", &text).truth("y", truth).end();
            prop_assert_eq!(own, written);
        }

        #[test]
        fn it_agrees_with_serde_on_what_is_an_object(text in "[ \\[\\]{}\":,\\\\a0-9.eE+u-]{0,24}") {
            let text = format!("{{\"k\":{text}");
            let theirs = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text);
            // serde refuses a number that no double holds; what nobody needs is not looked at here.
            if !theirs.as_ref().is_err_and(|error| error.to_string().contains("out of range")) {
                prop_assert_eq!(Fields::read(text.as_bytes()).is_ok(), theirs.is_ok(), "{}", text);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = Fields::read(&bytes);
            let _ = Fields::read(&[b"{\"a\":", &bytes[..], b"}"].concat());
        }
    }
}
