//! MakeCredential in software (TPM 2.0 Library, part 1, sections 24 and C.6.1): a secret that only the TPM with this
//! endorsement key gives out, and only where a key of this name is loaded in it.

use aes::Aes128;
use aes::cipher::{BlockCipherEncrypt, KeyInit};
use ring::agreement::{ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral};
use ring::hmac;
use ring::rand::SystemRandom;
use sha2::{Digest, Sha256};

use crate::public::{Malformed, Name, Public};
use crate::wire::Writer;

/// What is sent to a TPM: two sized buffers without the length before them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// TPMS_ID_OBJECT: the secret, and what says that nobody has changed it.
    pub blob: Vec<u8>,
    /// The seed of its keys, for the endorsement key alone.
    pub secret: Vec<u8>,
}

/// Part 1, section 11.4.10.2: HMAC-SHA-256 of a counter, a label and what it is for.
fn derive(key: &[u8], label: &str, context: &[u8], bits: u32) -> hmac::Tag {
    let input = Writer::default().u32(1).bytes(label.as_bytes()).u8(0).bytes(context).u32(bits);
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), &input.0)
}

/// AES-128 in CFB mode, from a block of zeros on: NIST SP 800-38A, section 6.3, with segments of a whole block.
fn encrypt(key: &[u8; 16], text: &mut [u8]) {
    let cipher = Aes128::new(&(*key).into());
    let mut last = [0; 16];
    for segment in text.chunks_mut(16) {
        let mut mask = last.into();
        cipher.encrypt_block(&mut mask);
        for (byte, mask) in segment.iter_mut().zip(mask) {
            *byte ^= mask;
        }
        last[..segment.len()].copy_from_slice(segment);
    }
}

/// Wraps `secret` for the TPM whose endorsement key this is, and the key of this name in it.
///
/// # Errors
/// When the endorsement key is no point of the curve.
pub fn make(endorsement: &Public, name: &Name, secret: &[u8; 32]) -> Result<Credential, Malformed> {
    let own = EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new()).expect("random numbers are there");
    let public = own.compute_public_key().expect("of a key that was just made");
    let (x, y) = public.as_ref()[1..].split_at(32);
    // Part 1, section 11.4.10.3.
    let seed = |shared: &[u8]| {
        Sha256::new()
            .chain_update(1_u32.to_be_bytes())
            .chain_update(shared)
            .chain_update(b"IDENTITY\0")
            .chain_update(x)
            .chain_update(&endorsement.point()[1..33])
            .finalize()
    };
    let theirs = UnparsedPublicKey::new(&ECDH_P256, endorsement.point());
    let seed = agree_ephemeral(own, &theirs, seed).map_err(|_| Malformed)?;
    let mut hidden = Writer::default().sized(secret).0;
    let key = derive(&seed, "STORAGE", &name.0, 128);
    encrypt(key.as_ref().first_chunk().expect("SHA-256 is longer"), &mut hidden);
    let key = derive(&seed, "INTEGRITY", &[], 256);
    let integrity =
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.as_ref()), &[hidden.as_slice(), &name.0].concat());
    Ok(Credential {
        blob: Writer::default().sized(integrity.as_ref()).bytes(&hidden).0,
        secret: Writer::default().sized(x).sized(y).0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// NIST SP 800-38A, section F.3.13, whose first mask is made of another block.
    #[test]
    fn the_cipher_is_cfb() {
        let key = 0x2b7e_1516_28ae_d2a6_abf7_1588_09cf_4f3c_u128.to_be_bytes();
        let mut text = [0_u128; 2].map(u128::to_be_bytes).concat();
        encrypt(&key, &mut text);
        // Of zeros, it is the block cipher over and over.
        let cipher = Aes128::new(&key.into());
        let mut block = [0; 16].into();
        cipher.encrypt_block(&mut block);
        assert_eq!(text[..16], block[..]);
        cipher.encrypt_block(&mut block);
        assert_eq!(text[16..], block[..]);
        let mut short = [0xff; 20];
        encrypt(&key, &mut short);
        assert_eq!(short[..16], text[..16].iter().map(|byte| !byte).collect::<Vec<_>>()[..]);
    }
}
