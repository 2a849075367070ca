//! The seal, and the file that it lies in.

use std::fmt;

use bramble_tpm::Sealed;
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};

use crate::Error;

/// What the file of a seal begins with.
pub const MAGIC: &str = "bramble-seal ";
const FORM: &str = "1";
/// Hex digits of a seal's name: so much of a hash of it as tells seals apart.
const NAME: usize = 16;
/// More bytes than a TPM needs for 32 sealed ones.
const LONGEST: usize = 1024;

/// Why bytes are no seal, or nothing that one has sealed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("it is damaged: {reason}")]
    Damaged { reason: &'static str },
    #[error("it is of form {form}, and this is bramble {} with form 1", env!("CARGO_PKG_VERSION"))]
    Newer { form: String },
    #[error("it is sealed by seal {wanted}, which is another one")]
    OtherSeal { wanted: String },
}

/// A key that seals secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct Seal([u8; 32]);

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seal({})", self.id())
    }
}

impl Seal {
    /// A new one.
    ///
    /// # Errors
    /// When there are no random numbers.
    pub fn new() -> Result<Self, Error> {
        let mut secret = [0; 32];
        SystemRandom::new().fill(&mut secret).map_err(|_| Error::Random)?;
        Ok(Seal(secret))
    }

    pub(crate) fn of_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Seal)
    }

    pub(crate) fn secret(&self) -> &[u8; 32] {
        &self.0
    }

    /// What tells it apart from others, and nothing of it: 16 hex digits.
    #[must_use]
    pub fn id(&self) -> String {
        let hash = Sha256::new().chain_update(b"bramble seal 1\0").chain_update(self.0).finalize();
        hex(&hash)[..NAME].to_owned()
    }

    /// The file that it lies in, where no TPM keeps it: what backups have.
    #[must_use]
    pub fn file(&self) -> Vec<u8> {
        Kept::Clear(self.clone()).file()
    }

    /// The seal of such a file.
    ///
    /// # Errors
    /// When it is damaged, or sealed to a TPM.
    pub fn of_file(bytes: &[u8]) -> Result<Self, Unreadable> {
        match Kept::of_file(bytes)? {
            Kept::Clear(seal) => Ok(seal),
            Kept::InTpm(_) => Err(Unreadable::Damaged {
                reason: "only the TPM that it is sealed to can open it; `bramble head save-seal` writes one that opens anywhere",
            }),
        }
    }
}

/// How a seal lies on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kept {
    Clear(Seal),
    InTpm(Sealed),
}

impl Kept {
    pub(crate) fn file(&self) -> Vec<u8> {
        let text = match self {
            // With its name: a digit that is not what was written is found out before anything is opened by it.
            Kept::Clear(seal) => format!("{MAGIC}{FORM} file {}\n{}\n", seal.id(), hex(&seal.0)),
            Kept::InTpm(Sealed { private, public }) => {
                format!("{MAGIC}{FORM} tpm\n{}\n{}\n", hex(private), hex(public))
            }
        };
        text.into_bytes()
    }

    pub(crate) fn of_file(bytes: &[u8]) -> Result<Self, Unreadable> {
        let damaged = |reason| Unreadable::Damaged { reason };
        let text = std::str::from_utf8(bytes).map_err(|_| damaged("this is no text"))?;
        let mut lines = text.lines();
        let first = lines.next().and_then(|line| line.strip_prefix(MAGIC)).ok_or(damaged("this is no seal"))?;
        let (form, kind) = first.split_once(' ').ok_or(damaged("its first line is cut off"))?;
        if form != FORM {
            return Err(Unreadable::Newer { form: form.to_owned() });
        }
        let mut number = || lines.next().and_then(unhex).ok_or(damaged("a line of it is not what was written"));
        let kept = match kind.split_once(' ').unwrap_or((kind, "")) {
            ("file", name) => {
                let seal = Seal::of_bytes(&number()?).ok_or(damaged("it is cut off"))?;
                if seal.id() != name {
                    return Err(damaged("it is not the seal of its name"));
                }
                Kept::Clear(seal)
            }
            ("tpm", "") => Kept::InTpm(Sealed { private: number()?, public: number()? }),
            _ => return Err(damaged("it does not say where its key is")),
        };
        // A line without its end may be half of one.
        if !text.ends_with('\n') || lines.next().is_some() {
            return Err(damaged("it does not end where it should"));
        }
        Ok(kept)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || text.len() > 2 * LONGEST || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_seal_is_read_as_it_was_written_and_in_no_other_way() {
        let seal = Seal::new().expect("made");
        let in_tpm = Kept::InTpm(Sealed { private: vec![1; 180], public: vec![2; 40] });
        assert_eq!(Seal::of_file(&seal.file()), Ok(seal.clone()));
        assert_eq!(Kept::of_file(&in_tpm.file()), Ok(in_tpm.clone()));
        assert!(matches!(Seal::of_file(&in_tpm.file()), Err(Unreadable::Damaged { reason }) if reason.contains("TPM")));
        for whole in [seal.file(), in_tpm.file()] {
            for length in 0..whole.len() {
                assert!(Kept::of_file(&whole[..length]).is_err(), "{length} bytes of it");
            }
        }
        // Of a key, every digit counts.
        let whole = seal.file();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert_ne!(Seal::of_file(&changed), Ok(seal.clone()), "byte {at}");
            assert!(Seal::of_file(&changed).is_err(), "byte {at}");
        }
        assert!(!format!("{seal:?}").contains(&hex(&seal.0)), "it is not said in a log");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), begins in any::<bool>()) {
            let bytes = if begins { [b"bramble-seal 1 ".as_slice(), &bytes].concat() } else { bytes };
            prop_assert!(Kept::of_file(&bytes).is_err());
        }
    }
}
