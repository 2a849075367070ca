//! The six digits by which a person tells the key of the machine that stands before them from any other one's.
//!
//! ```text
//!  agent                                 head                                   person
//!    │ its key, in a request that it has  │                                       │
//!    │ signed ───────────────────────────▶│ keeps the key, and only then draws    │
//!    │                                    │ a nonce for it, the one that it has   │
//!    │◀────────────────────── nonce, CA ──│                                       │
//!    │ digits = H(key ‖ nonce ‖ CA)       │                                       │
//!    │ shows them on its console ─────────┼──────────────────────────────────────▶│
//!    │                                    │◀───────── `node approve m1 123456` ───│
//!    │                                    │ lets in the key that has these digits │
//! ```
//! The order is the whole of it. Whoever wants to be let in in the machine's place would need a key whose digits are those on
//! the machine's console, and has to name that key before the nonce of it is drawn: no key can be looked for that fits, a key
//! has one nonce for as long as it waits, and of the digits that a person reads the wire has seen nothing. So a key that is
//! not the machine's fits with a probability of 10⁻⁶. Eight keys of a place and eight of elsewhere wait at once
//! (`plan::admission::waiting`), so with all of them an attacker's, a number that a person types lets one of them in with
//! at most 1.6 · 10⁻⁵; two that fit are let in neither. A number that fits none uses up all that could have been meant, so
//! trying again does not add up without somebody at the console.
//!
//! The digits are of the machine's own computing, from its own key, and the head that drew the nonce is the one whose CA the
//! machine trusts. Whoever boots that machine into something else has its console, too: against that, no number helps.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::names::Digest;

/// What the head draws for a key after it has got it, and the CA that it is the head of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draw {
    /// Random.
    pub nonce: Digest,
    /// SHA-256 of the CA's certificate.
    pub ca: Digest,
}

/// Six decimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digits(u32);

impl Digits {
    const COUNT: u32 = 1_000_000;

    /// Of the key with this fingerprint.
    pub fn of(fingerprint: &str, draw: &Draw) -> Self {
        let mut hash = Sha256::new_with_prefix("bramble: the six digits of a key\n");
        // Each has its own length, so that no part can be taken for another one's.
        hash.update(fingerprint.as_bytes());
        hash.update("\n");
        hash.update(draw.nonce.0);
        hash.update(draw.ca.0);
        let hash = hash.finalize();
        let first = u64::from_be_bytes(*hash.first_chunk().expect("SHA-256 has 32 bytes"));
        // 2⁶⁴ is no multiple of it, by less than one in 10¹³.
        Digits(u32::try_from(first % u64::from(Self::COUNT)).expect("below a million"))
    }
}

impl fmt::Display for Digits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06}", self.0)
    }
}

/// What is no six digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected six digits, as the machine's console shows them")]
pub struct NoDigits;

impl FromStr for Digits {
    type Err = NoDigits;

    /// As a person types them: in one, or `123 456`.
    fn from_str(text: &str) -> Result<Self, NoDigits> {
        let digits: String = text.trim().split([' ', '-']).collect();
        match digits.len() == 6 && digits.bytes().all(|byte| byte.is_ascii_digit()) {
            true => digits.parse().map(Digits).map_err(|_| NoDigits),
            false => Err(NoDigits),
        }
    }
}

impl From<Digits> for String {
    fn from(digits: Digits) -> String {
        digits.to_string()
    }
}

impl TryFrom<String> for Digits {
    type Error = NoDigits;

    fn try_from(text: String) -> Result<Self, NoDigits> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn draw(nonce: u8, ca: u8) -> Draw {
        Draw { nonce: Digest([nonce; 32]), ca: Digest([ca; 32]) }
    }

    /// Head and agent are of two releases: what both compute is the same for ever.
    #[test]
    fn the_digits_of_a_key_are_the_same_for_ever() {
        let key = "0123456789abcdef0123456789abcdef";
        let told = [(1, 2), (2, 1), (1, 3)].map(|(nonce, ca)| Digits::of(key, &draw(nonce, ca)).to_string());
        insta::assert_snapshot!(told.join(" "));
        assert_eq!(
            serde_json::to_string(&draw(1, 2)).expect("plain data"),
            format!(r#"{{"nonce":"{}","ca":"{}"}}"#, "01".repeat(32), "02".repeat(32))
        );
    }

    #[test]
    fn key_nonce_and_ca_each_change_them() {
        let first = Digits::of("a", &draw(1, 1));
        for other in [Digits::of("b", &draw(1, 1)), Digits::of("a", &draw(2, 1)), Digits::of("a", &draw(1, 2))] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn they_are_read_as_a_person_types_them() {
        for text in ["012345", "012 345", " 012-345\n"] {
            assert_eq!(text.parse::<Digits>().expect("digits").to_string(), "012345", "{text}");
        }
        for text in ["", "12345", "1234567", "+12345", "-12345", "12 34 5", "12345a", "１２３４５６", "1e5", "0x1234"]
        {
            assert_eq!(text.parse::<Digits>(), Err(NoDigits), "{text}");
        }
    }

    proptest! {
        #[test]
        fn all_that_is_shown_is_read_again(nonce in any::<[u8; 32]>(), key in "[0-9a-f]{32}", text in ".{0,12}") {
            let digits = Digits::of(&key, &Draw { nonce: Digest(nonce), ca: Digest([0; 32]) });
            let shown = digits.to_string();
            prop_assert_eq!(shown.len(), 6);
            prop_assert_eq!(shown.parse::<Digits>(), Ok(digits));
            if let Ok(read) = text.parse::<Digits>() {
                prop_assert_eq!(read.to_string(), text.chars().filter(char::is_ascii_digit).collect::<String>());
            }
        }
    }
}
