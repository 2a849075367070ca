//! To whom backups are encrypted: public keys of age (age-encryption.org/v1), as text.

use std::fmt;
use std::str::FromStr;

use bech32::primitives::decode::CheckedHrpstring;
use bech32::{Bech32, Hrp};

/// What a public key of age begins with, before the `1` of Bech32 (BIP 173).
const PUBLIC: &str = "age";
/// Bytes of an X25519 key.
const LENGTH: usize = 32;

/// The line to add, and where the key comes from.
pub const HELP: &str = "add `recipients = [\"age1…\"]` with the line that `bramble backup keygen` prints (or `age-keygen`): \
                        it keeps the private half in a file, which belongs elsewhere than on the head";

/// A public key of age.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Recipient(String);

/// Why a text is no public key of age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotARecipient {
    /// The text itself is not repeated.
    #[error("this is the private half of a key, which belongs into no repository")]
    Private,
    #[error("a key of SSH is no recipient here")]
    Ssh,
    #[error("this is no public key of age: expected \"age1…\"")]
    Other,
    #[error("this is a public key of age with a letter that is not its own")]
    Mistyped,
    /// A point that gives the same secret with everyone (RFC 7748, section 6.1).
    #[error("to this key nothing can be encrypted")]
    Weak,
}

impl NotARecipient {
    /// What to do about it.
    pub fn help(self) -> Option<&'static str> {
        Some(match self {
            NotARecipient::Private => {
                "who has read it can read every backup: make another with `bramble backup keygen`, and write its public half here"
            }
            NotARecipient::Ssh | NotARecipient::Weak => "`bramble backup keygen` makes one (or `age-keygen`)",
            NotARecipient::Other | NotARecipient::Mistyped => {
                "copy the whole line that `bramble backup keygen` or `age-keygen` printed"
            }
        })
    }
}

/// Points of small order on Curve25519, as Montgomery coordinates, little-endian, without their highest bit.
const WEAK: [[u8; LENGTH]; 7] = [
    [0; LENGTH],
    low(1),
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09,
        0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04, 0x44,
        0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
    ],
    high(0xec),
    high(0xed),
    high(0xee),
];

/// A small number.
const fn low(byte: u8) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    bytes[0] = byte;
    bytes
}

/// A number beside the field's prime, 2^255 - 19.
const fn high(byte: u8) -> [u8; LENGTH] {
    let mut bytes = [0xff; LENGTH];
    bytes[0] = byte;
    bytes[LENGTH - 1] = 0x7f;
    bytes
}

impl FromStr for Recipient {
    type Err = NotARecipient;

    fn from_str(text: &str) -> Result<Self, NotARecipient> {
        if text.to_ascii_uppercase().contains("AGE-SECRET-KEY-") {
            return Err(NotARecipient::Private);
        }
        if text.starts_with("ssh-") {
            return Err(NotARecipient::Ssh);
        }
        if !text.starts_with("age1") {
            return Err(NotARecipient::Other);
        }
        let checked = CheckedHrpstring::new::<Bech32>(text).map_err(|_| NotARecipient::Mistyped)?;
        let bytes: Vec<u8> = checked.byte_iter().collect();
        let Ok(mut point) = <[u8; LENGTH]>::try_from(bytes) else { return Err(NotARecipient::Other) };
        if checked.hrp() != Hrp::parse_unchecked(PUBLIC) {
            return Err(NotARecipient::Other);
        }
        point[LENGTH - 1] &= 0x7f;
        if WEAK.contains(&point) {
            return Err(NotARecipient::Weak);
        }
        Ok(Recipient(text.to_owned()))
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Of age's own tests.
    const KEY: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";

    #[test]
    fn a_key_of_age_is_taken_and_one_with_a_wrong_letter_is_not() {
        assert_eq!(KEY.parse::<Recipient>().expect("a key").to_string(), KEY);
        for at in 4..KEY.len() {
            let other = if &KEY[at..=at] == "q" { "p" } else { "q" };
            let wrong = format!("{}{other}{}", &KEY[..at], &KEY[at + 1..]);
            assert_eq!(wrong.parse::<Recipient>(), Err(NotARecipient::Mistyped), "letter {at}");
        }
        for (text, wrong) in [
            ("AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33", NotARecipient::Private),
            ("ssh-ed25519 AAAA ann@home", NotARecipient::Ssh),
            ("ann@home.arpa", NotARecipient::Other),
            ("", NotARecipient::Other),
        ] {
            assert_eq!(text.parse::<Recipient>(), Err(wrong), "{text}");
        }
    }

    /// The crate that encrypts panics with one of these.
    #[test]
    fn no_key_is_taken_to_which_nothing_can_be_encrypted() {
        for point in WEAK {
            for top in [0, 0x80] {
                let mut bytes = point;
                bytes[LENGTH - 1] |= top;
                let text = bech32::encode::<Bech32>(Hrp::parse_unchecked(PUBLIC), &bytes).expect("short");
                assert_eq!(text.parse::<Recipient>(), Err(NotARecipient::Weak), "{text}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,80}", begins in any::<bool>()) {
            let text = if begins { format!("age1{text}") } else { text };
            prop_assert!(text.parse::<Recipient>().is_err());
        }
    }
}
