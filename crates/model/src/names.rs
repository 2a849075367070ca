//! Newtypes for the words that must not be mixed up: names, hardware addresses, digests, and what engines name their own by.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An Ethernet hardware address, written `52:54:00:00:00:01`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

/// Prefixes of the addresses that Raspberry Pis have.
const RASPBERRY_PI: [[u8; 3]; 7] = [
    [0xb8, 0x27, 0xeb],
    [0xdc, 0xa6, 0x32],
    [0xe4, 0x5f, 0x01],
    [0x28, 0xcd, 0xc1],
    [0xd8, 0x3a, 0xdd],
    [0x2c, 0xcf, 0x67],
    [0x88, 0xa2, 0x9e],
];

impl Mac {
    /// Whether a Raspberry Pi may have it.
    pub fn may_be_raspberry_pi(self) -> bool {
        RASPBERRY_PI.iter().any(|prefix| self.0.starts_with(prefix))
    }

    /// Group addresses (the lowest bit of the first byte) belong to no single machine.
    pub fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Why a text is not the name it should be. The message says what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotAName(pub String);

impl FromStr for Mac {
    type Err = NotAName;

    /// Accepts colons or dashes between the six bytes, in either case.
    fn from_str(text: &str) -> Result<Self, NotAName> {
        let wrong = || NotAName("expected six bytes in hex, such as \"52:54:00:00:00:01\"".into());
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().ok_or_else(wrong)?;
            if part.len() != 2 || !part.bytes().all(|c| c.is_ascii_hexdigit()) {
                return Err(wrong());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() {
            return Err(wrong());
        }
        Ok(Mac(bytes))
    }
}

/// One DNS label of lower-case letters, digits and inner hyphens (RFC 1123, section 2.1).
///
/// Nodes, roles, workloads and clusters are all named so: each may become part of a host name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for Name {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        if text.is_empty() || text.len() > 63 {
            return Err(NotAName("expected 1 to 63 characters".into()));
        }
        if !text.bytes().all(inner) || text.starts_with('-') || text.ends_with('-') {
            return Err(NotAName("expected lower-case letters, digits and inner hyphens, as in a host name".into()));
        }
        Ok(Name(text.to_owned()))
    }
}

/// A SHA-256 digest, written as 64 hex digits. It names layers, boot files and boot sets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The first 12 hex digits: enough for people to tell boot sets apart.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Digest {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        let wrong = || NotAName("expected 64 hex digits".into());
        if text.len() != 64 || !text.bytes().all(|c| c.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
        }
        Ok(Digest(bytes))
    }
}

/// Bytes that are written as hex digits.
#[derive(Clone, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Bytes {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        let wrong = || NotAName("expected pairs of hex digits".into());
        if !text.len().is_multiple_of(2) || !text.bytes().all(|c| c.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| wrong());
        (0..text.len()).step_by(2).map(byte).collect::<Result<_, _>>().map(Bytes)
    }
}

/// One boot of one node: 128 random bits in hex, chosen by the head when it hands out a boot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootId(pub String);

/// What anyone may know of a boot, who looks at the timeline: enough to tell it from others. Its id is a
/// capability: whoever has it reports in the boot's name and reads the node's templates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootTag(pub String);

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The longest id that an engine gives, and the longest name of a generation, in characters.
const LONGEST_ID: usize = 64;

macro_rules! bounded_text {
    ($($name:ident, $may:expr, $expected:literal;)*) => {$(
        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
        impl FromStr for $name {
            type Err = NotAName;

            fn from_str(text: &str) -> Result<Self, NotAName> {
                let may: fn(u8) -> bool = $may;
                if text.is_empty() || text.len() > LONGEST_ID || !text.bytes().all(may) {
                    return Err(NotAName($expected.into()));
                }
                Ok($name(text.to_owned()))
            }
        }
    )*};
}

/// An engine's own name of its cluster. Docker's Swarm has 25 of a-z and 0-9: a random number in base 36 (moby's
/// package `identity`).
///
/// An agent may say 1 to 64 ASCII letters, digits, hyphens and underscores: it becomes part of sentences and commands.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(String);

/// A machine's id in an engine's cluster: a node that joins anew gets a new one. Of the same source and shape as
/// [`ClusterId`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(String);

/// What a head calls the content of a workload's file: the first 12 hex digits of its SHA-256.
///
/// A head of another release may write fewer or more: 1 to 64 hex digits in lower case.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(String);

impl Generation {
    /// What a content of this digest is called.
    pub fn of(content: &Digest) -> Self {
        Generation(content.short())
    }
}

bounded_text! {
    ClusterId, |c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_',
        "expected 1 to 64 letters, digits, hyphens and underscores, as an engine names its cluster";
    MemberId, |c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_',
        "expected 1 to 64 letters, digits, hyphens and underscores, as an engine names its members";
    Generation, |c| matches!(c, b'0'..=b'9' | b'a'..=b'f'),
        "expected 1 to 64 hex digits in lower case";
}

macro_rules! text_form {
    ($($name:ty),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
text_form!(Mac, Name, Bytes, Digest, ClusterId, MemberId, Generation);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn macs_survive_their_text(bytes: [u8; 6]) {
            let mac = Mac(bytes);
            prop_assert_eq!(mac.to_string().parse::<Mac>(), Ok(mac));
            prop_assert_eq!(mac.to_string().replace(':', "-").to_uppercase().parse::<Mac>(), Ok(mac));
        }

        #[test]
        fn digests_survive_their_text(bytes: [u8; 32]) {
            let digest = Digest(bytes);
            prop_assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
        }

        #[test]
        fn no_text_makes_a_parser_panic(text: String) {
            let _ = (text.parse::<Mac>(), text.parse::<Name>(), text.parse::<Digest>());
            let _ = (text.parse::<ClusterId>(), text.parse::<MemberId>(), text.parse::<Generation>());
        }

        #[test]
        fn what_engines_name_their_own_by_survives_its_text(id in "[a-zA-Z0-9_-]{1,64}", generation in "[0-9a-f]{1,64}") {
            let (cluster, member) = (id.parse::<ClusterId>(), id.parse::<MemberId>());
            prop_assert_eq!(cluster.map(|cluster| cluster.to_string()), Ok(id.clone()));
            prop_assert_eq!(member.map(|member| member.to_string()), Ok(id));
            prop_assert_eq!(generation.parse::<Generation>().map(|generation| generation.to_string()), Ok(generation));
        }
    }

    #[test]
    fn an_id_is_bounded_wherever_it_comes_from() {
        let docker = "0m3p6jkl2v9zq1xw8r7tys4ab";
        let text = format!("\"{docker}\"");
        let id: ClusterId = serde_json::from_str(&text).expect("as Docker makes it");
        assert_eq!(serde_json::to_string(&id).expect("plain data"), text);
        for odd in ["", "the old one", "a\u{1b}[31m", "é", &"x".repeat(65)] {
            let error = odd.parse::<ClusterId>().expect_err(odd);
            assert!(error.0.starts_with("expected 1 to 64 letters"), "{error}");
            let text = serde_json::to_string(odd).expect("plain data");
            let said = serde_json::from_str::<MemberId>(&text).expect_err(odd);
            assert!(said.to_string().starts_with("expected 1 to 64 letters"), "{said}");
        }
        for odd in ["", "new", "1F0A", &"0".repeat(65)] {
            assert_eq!(
                odd.parse::<Generation>(),
                Err(NotAName("expected 1 to 64 hex digits in lower case".into())),
                "{odd}"
            );
        }
        assert_eq!(Generation::of(&Digest([0xab; 32])).as_str(), "abababababab");
    }
}
