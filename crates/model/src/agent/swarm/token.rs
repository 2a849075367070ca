//! What a join token says of its Swarm's CA.
//!
//! ```text
//!   SWMTKN-1-<50 letters and digits: SHA-256 of the CA's certificate>-<25: the secret>
//! ```
//! Both are numbers in base 36, with zeros before them (SwarmKit's `ca/config.go`, `GenerateJoinToken`). A node that joins
//! with a token goes to no manager whose CA's certificate has another digest.

use crate::names::{Digest, NotAName};

/// What every token begins with. One of a Docker in FIPS mode begins with `SWMTKN-2-`: no node of ours has such a one.
const BEGINS: &str = "SWMTKN-1-";
/// Digits of the digest, and of the secret.
const LENGTHS: [usize; 2] = [50, 25];

/// The digest of the CA's certificate (PEM) that a join token carries.
///
/// # Errors
/// When it is no join token. The error does not have its text: a token is a secret.
pub fn ca_of(token: &str) -> Result<Digest, NotAName> {
    let wrong = || NotAName("expected a join token of Docker Swarm, \"SWMTKN-1-…-…\"".into());
    let (digest, secret) = token.strip_prefix(BEGINS).and_then(|rest| rest.split_once('-')).ok_or_else(wrong)?;
    let is_number = |text: &str| text.bytes().all(|c| c.is_ascii_digit() || c.is_ascii_lowercase());
    let has_length = [digest.len(), secret.len()] == LENGTHS;
    if !has_length || !is_number(digest) || !is_number(secret) {
        return Err(wrong());
    }
    from_base_36(digest).map(Digest).ok_or_else(wrong)
}

/// A number in base 36 as 32 bytes, the greatest first; `None` where it is none, or greater.
fn from_base_36(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0_u8; 32];
    for digit in text.chars() {
        let mut carry = digit.to_digit(36)?;
        for byte in bytes.iter_mut().rev() {
            carry += u32::from(*byte) * 36;
            [.., *byte] = carry.to_be_bytes();
            carry >>= 8;
        }
        if carry > 0 {
            return None;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn in_base_36(bytes: [u8; 32]) -> String {
        let (mut number, mut digits) = (bytes, Vec::new());
        while number != [0; 32] {
            let mut rest = 0_u32;
            for byte in &mut number {
                rest = rest << 8 | u32::from(*byte);
                *byte = u8::try_from(rest / 36).expect("the rest is below 36");
                rest %= 36;
            }
            digits.push(char::from_digit(rest, 36).expect("below 36"));
        }
        format!("{:0>50}", digits.into_iter().rev().collect::<String>())
    }

    fn token(digest: &str) -> String {
        format!("{BEGINS}{digest}-{}", "x".repeat(25))
    }

    /// Of Docker's own documentation of `docker swarm join-token`.
    #[test]
    fn the_token_of_dockers_documentation_is_read() {
        let token = "SWMTKN-1-3pu6hszjas19xyp7ghgosyx9k8atbfcr8p2is99znpy26u2lkl-7p73s1dx5in4tatdymyhg9hu2";
        let ca = ca_of(token).expect("a token");
        assert_eq!(in_base_36(ca.0), token.split('-').nth(2).expect("a digest"));
    }

    #[test]
    fn what_is_no_token_is_none_and_is_not_repeated() {
        let least = "0".repeat(50);
        let most = in_base_36([0xff; 32]);
        assert_eq!(ca_of(&token(&least)), Ok(Digest([0; 32])));
        assert_eq!(ca_of(&token(&most)), Ok(Digest([0xff; 32])));
        let secret = "x".repeat(25);
        let wrong = [
            "".to_owned(),
            "SWMTKN-1-aa-m".into(),
            least.clone(),
            token(&least).replace("SWMTKN-1-", "SWMTKN-2-1-"),
            token(&least).to_uppercase(),
            token(&"z".repeat(50)),
            token(&"ä".repeat(25)),
            token(&least[1..]),
            format!("{BEGINS}{least}-{secret}-{secret}"),
            format!("{BEGINS}{least}-{}", &secret[1..]),
            format!(" {}", token(&least)),
            format!("{}\n", token(&least)),
        ];
        for text in wrong {
            let error = ca_of(&text).expect_err(&text);
            assert!(!error.to_string().contains("xxx"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_digest_is_read_as_it_was_written(bytes in any::<[u8; 32]>()) {
            prop_assert_eq!(ca_of(&token(&in_base_36(bytes))), Ok(Digest(bytes)));
        }

        #[test]
        fn no_text_ends_the_reader(text in "(SWMTKN-1-)?[0-9a-z-]{0,90}|.{0,90}") {
            let _ = ca_of(&text);
        }
    }
}
