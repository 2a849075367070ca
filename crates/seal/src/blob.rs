//! A sealed secret as bytes: a line that says form and seal, a nonce, and the secret under ChaCha20-Poly1305 (RFC 8439).

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

use crate::Error;
use crate::key::{Seal, Unreadable};

/// What every form begins with.
const MAGIC: &str = "bramble-sealed ";
/// Counts up when what is behind the line changes.
const FORM: &str = "1";
/// So long may the line be.
const LONGEST: usize = 100;

/// Whether these bytes are a sealed secret, of whatever form.
#[must_use]
pub fn is_sealed(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC.as_bytes())
}

/// A sealed secret, taken apart.
struct Blob<'a> {
    /// With the end of the line.
    header: &'a [u8],
    seal: &'a str,
    nonce: [u8; NONCE_LEN],
    hidden: &'a [u8],
}

impl<'a> Blob<'a> {
    fn of(bytes: &'a [u8]) -> Result<Self, Unreadable> {
        let damaged = |reason| Unreadable::Damaged { reason };
        let end = bytes.iter().take(LONGEST).position(|byte| *byte == b'\n').ok_or(damaged("it has no first line"))?;
        let (header, rest) = bytes.split_at(end + 1);
        let line = std::str::from_utf8(&header[..end]).map_err(|_| damaged("its first line is no text"))?;
        let words = line.strip_prefix(MAGIC).ok_or(damaged("it is no sealed secret"))?;
        let (form, seal) = words.split_once(' ').ok_or(damaged("its first line does not name a seal"))?;
        if form != FORM {
            return Err(Unreadable::Newer { form: form.to_owned() });
        }
        let (nonce, hidden) = rest.split_first_chunk().ok_or(damaged("it is cut off"))?;
        Ok(Blob { header, seal, nonce: *nonce, hidden })
    }
}

/// Which seal a secret is sealed by.
pub(crate) fn seal_of(bytes: &[u8]) -> Result<String, Unreadable> {
    Blob::of(bytes).map(|blob| blob.seal.to_owned())
}

fn key(seal: &Seal) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, seal.secret()).expect("a seal is as long as a key"))
}

/// Binds a secret to its name and to what is said of it: no sealed secret can be put in another's place.
fn beside(header: &[u8], name: &str) -> Aad<Vec<u8>> {
    Aad::from([header, name.as_bytes()].concat())
}

impl Seal {
    /// Seals the secret of this name, such as `keys/ca.key`.
    ///
    /// # Errors
    /// When there are no random numbers.
    pub fn seal(&self, name: &str, secret: &[u8]) -> Result<Vec<u8>, Error> {
        let header = format!("{MAGIC}{FORM} {}\n", self.id()).into_bytes();
        // Few secrets are ever sealed by one key: random nonces of 96 bits do not meet (NIST SP 800-38D, section 8.3,
        // for as many bits).
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| Error::Random)?;
        let mut hidden = secret.to_vec();
        let aad = beside(&header, name);
        key(self)
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut hidden)
            .expect("a secret is shorter than 256 GiB");
        Ok([header.as_slice(), &nonce, &hidden].concat())
    }

    /// The secret of this name that was sealed.
    ///
    /// # Errors
    /// When it was sealed by another seal, for another name, or is damaged.
    pub fn open(&self, name: &str, sealed: &[u8]) -> Result<Vec<u8>, Unreadable> {
        let blob = Blob::of(sealed)?;
        if blob.seal != self.id() {
            return Err(Unreadable::OtherSeal { wanted: blob.seal.to_owned() });
        }
        let mut hidden = blob.hidden.to_vec();
        let aad = beside(blob.header, name);
        let opened = key(self).open_in_place(Nonce::assume_unique_for_key(blob.nonce), aad, &mut hidden);
        let length = opened.map_err(|_| Unreadable::Damaged { reason: "its seal is broken" })?.len();
        hidden.truncate(length);
        Ok(hidden)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_secret_opens_by_its_seal_and_its_name_alone_and_no_bit_of_it_can_change() {
        let (seal, other) = (Seal::new().expect("made"), Seal::new().expect("made"));
        let sealed = seal.seal("keys/ca.key", b"secret").expect("sealed");
        assert!(is_sealed(&sealed) && !sealed.windows(6).any(|part| part == b"secret"));
        assert_eq!(seal.open("keys/ca.key", &sealed).expect("its own"), b"secret");
        assert!(
            matches!(other.open("keys/ca.key", &sealed), Err(Unreadable::OtherSeal { wanted }) if wanted == seal.id())
        );
        assert!(seal.open("keys/image.key", &sealed).is_err(), "in another's place");
        for at in 0..sealed.len() {
            for bit in 0..8 {
                let mut changed = sealed.clone();
                changed[at] ^= 1 << bit;
                assert!(seal.open("keys/ca.key", &changed).is_err(), "byte {at}, bit {bit}");
            }
            assert!(seal.open("keys/ca.key", &sealed[..at]).is_err(), "{at} bytes of it");
        }
        assert_ne!(seal.seal("keys/ca.key", b"secret").expect("sealed"), sealed, "each has a nonce of its own");
        let newer = [b"bramble-sealed 2 ", &sealed[17..]].concat();
        assert!(matches!(seal.open("keys/ca.key", &newer), Err(Unreadable::Newer { form }) if form == "2"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), begins in any::<bool>()) {
            let bytes = if begins { [b"bramble-sealed 1 ".as_slice(), &bytes].concat() } else { bytes };
            let seal = Seal::new().expect("made");
            prop_assert!(seal.open("keys/ca.key", &bytes).is_err());
        }
    }
}
