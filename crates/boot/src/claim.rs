//! How a machine makes a boot its own: stage 1 draws the nonce, and tells the head what it hashes to.
//!
//! ```text
//! stage 1 ── SHA-256 of its nonce ──▶ head       once a boot: another hash is refused, the same one again is not
//!         ◀─── word for its reports ──
//!    └── boot.json: nonce ─▶ agent ── nonce, over TLS ──▶ head
//! ```
//! The nonce itself is on no wire in the clear and not on the kernel's command line, which every program of the
//! machine can read.

use crate::json::{Fields, Malformed, Writer};

/// What a set's manifest says that its stage 1 knows, where it claims its boot. Older ones get the nonce of the head
/// with the kernel's arguments.
pub const CLAIMS: &str = "claim";

/// The longest word for reports that is taken, in bytes.
const LONGEST: usize = 64;

/// What stage 1 sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// SHA-256 of the nonce, in hex.
    pub nonce: String,
}

/// What the head answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// What the reports of this boot have to name from now on.
    pub report: String,
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl Claim {
    /// One JSON object.
    pub fn render(&self) -> String {
        Writer::default().text("nonce", &self.nonce).end()
    }

    /// # Errors
    /// When it has no hash of a nonce.
    pub fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let expected = "64 hexadecimal digits";
        let fields = Fields::read(bytes)?;
        let nonce = fields.text("nonce").ok().filter(|text| text.len() == 64 && is_hex(text));
        Ok(Claim { nonce: nonce.ok_or(Malformed::Field { name: "nonce", expected })?.to_owned() })
    }
}

impl Claimed {
    /// One JSON object.
    pub fn render(&self) -> String {
        Writer::default().text("report", &self.report).end()
    }

    /// # Errors
    /// When it has no word for reports.
    pub fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let expected = "up to 64 hexadecimal digits";
        let fields = Fields::read(bytes)?;
        let report = fields.text("report").ok();
        let report = report.filter(|text| (1..=LONGEST).contains(&text.len()) && is_hex(text));
        Ok(Claimed { report: report.ok_or(Malformed::Field { name: "report", expected })?.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_a_hash_is_a_claim() {
        for wrong in ["{}", r#"{"nonce":"abc"}"#, &format!(r#"{{"nonce":"{}"}}"#, "G".repeat(64)), "", "[]"] {
            Claim::read(wrong.as_bytes()).expect_err(wrong);
        }
        for wrong in [r#"{"report":""}"#, r#"{"report":"../x"}"#, &format!(r#"{{"report":"{}"}}"#, "a".repeat(65))] {
            Claimed::read(wrong.as_bytes()).expect_err(wrong);
        }
    }

    proptest! {
        #[test]
        fn both_survive_the_wire(nonce in "[0-9a-f]{64}", report in "[0-9a-f]{1,64}") {
            let (claim, claimed) = (Claim { nonce }, Claimed { report });
            prop_assert_eq!(Claim::read(claim.render().as_bytes()), Ok(claim));
            prop_assert_eq!(Claimed::read(claimed.render().as_bytes()), Ok(claimed));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = Claim::read(&bytes);
            let _ = Claimed::read(&bytes);
        }
    }
}
