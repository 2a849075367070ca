//! Public areas of keys (TPM 2.0 Library, part 2, section 12.2.4): what a key is, and its name.

use sha2::{Digest, Sha256};

use crate::wire::{
    ALG_AES, ALG_CFB, ALG_ECC, ALG_ECDSA, ALG_KEYEDHASH, ALG_NULL, ALG_SHA256, CURVE_P256, Reader, Writer,
};

/// Bytes that are no public area of a P-256 key, or no answer of a TPM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("these bytes are not what a TPM says")]
pub struct Malformed;

/// fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, sign: the TPM made it, it never leaves it, and it signs
/// whatever it is given.
const SIGNS: u32 = 0x0004_0472;
/// fixedTPM, fixedParent, sensitiveDataOrigin, adminWithPolicy, restricted, decrypt.
const ENDORSES: u32 = 0x0003_00b2;
/// fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, decrypt.
const STORES: u32 = 0x0003_0472;
/// fixedTPM, fixedParent, userWithAuth, noDA: it was given to the TPM, and only this one gives it out again.
const SEALED: u32 = 0x0000_0452;

/// PolicySecret(endorsement), as each endorsement key of the TCG's low-range templates has it.
const ENDORSEMENT_POLICY: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd, 0x52, 0xd7,
    0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];

/// Makes the identity another key than any other program's.
const LABEL: &[u8] = b"bramble identity 1";

/// What a primary is made from. The same template is the same key, for the life of the TPM's endorsement seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Template {
    /// The node's own key: P-256, ECDSA with SHA-256.
    Identity,
    /// The endorsement key L-2 of "TCG EK Credential Profile", section B.3.4: P-256, AES-128-CFB.
    Endorsement,
    /// What sealed data lies under, of the owner hierarchy: P-256, AES-128-CFB, as the storage key of "TCG TPM v2.0
    /// Provisioning Guidance", section 7.5.1.
    Storage,
}

impl Template {
    fn attributes(self) -> u32 {
        match self {
            Template::Identity => SIGNS,
            Template::Endorsement => ENDORSES,
            Template::Storage => STORES,
        }
    }

    fn policy(self) -> &'static [u8] {
        match self {
            Template::Identity | Template::Storage => &[],
            Template::Endorsement => &ENDORSEMENT_POLICY,
        }
    }

    /// The public area without the key itself.
    fn kind(self) -> Writer {
        let kind = Writer::default().u16(ALG_ECC).u16(ALG_SHA256).u32(self.attributes()).sized(self.policy());
        let kind = match self {
            Template::Identity => kind.u16(ALG_NULL).u16(ALG_ECDSA).u16(ALG_SHA256),
            Template::Endorsement | Template::Storage => kind.u16(ALG_AES).u16(128).u16(ALG_CFB).u16(ALG_NULL),
        };
        kind.u16(CURVE_P256).u16(ALG_NULL)
    }

    /// The public area that a TPM is asked to make a primary of.
    pub(crate) fn wanted(self) -> Vec<u8> {
        let kind = self.kind();
        match self {
            Template::Identity => kind.sized(&Sha256::digest(LABEL)).sized(&[]).0,
            Template::Endorsement | Template::Storage => kind.sized(&[0; 32]).sized(&[0; 32]).0,
        }
    }
}

/// The public area of data that a TPM is asked to seal: a keyed hash without a scheme, no policy, and so no PCRs.
pub(crate) fn sealed() -> Vec<u8> {
    Writer::default().u16(ALG_KEYEDHASH).u16(ALG_SHA256).u32(SEALED).sized(&[]).u16(ALG_NULL).sized(&[]).0
}

/// A P-256 key of a TPM: its public area as the TPM wrote it, and the point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Public {
    area: Vec<u8>,
    point: [u8; 65],
}

/// What a TPM calls a key by: the algorithm, and SHA-256 of the public area. It covers the attributes, so that a key
/// that could leave its TPM has another name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name(pub [u8; 34]);

impl Public {
    /// Reads a public area that was made from this template, and nothing else: whoever sent it may have any key.
    ///
    /// # Errors
    /// When it is another kind of key, or could leave its TPM. Whether the point is one of the curve is seen where it is
    /// used.
    pub fn read(area: &[u8], template: Template) -> Result<Self, Malformed> {
        let kind = template.kind().0;
        let mut rest = Reader(area.strip_prefix(kind.as_slice()).ok_or(Malformed)?);
        let (x, y) = (rest.sized()?, rest.sized()?);
        rest.end()?;
        // Some TPMs leave out leading zeros.
        if x.len() > 32 || y.len() > 32 {
            return Err(Malformed);
        }
        let mut point = [0; 65];
        point[0] = 4;
        point[33 - x.len()..33].copy_from_slice(x);
        point[65 - y.len()..].copy_from_slice(y);
        Ok(Public { area: area.to_vec(), point })
    }

    /// As the TPM wrote it, without the length before it.
    pub fn area(&self) -> &[u8] {
        &self.area
    }

    /// The point, uncompressed (SEC 1, section 2.3.3).
    pub fn point(&self) -> &[u8; 65] {
        &self.point
    }

    pub fn name(&self) -> Name {
        let mut name = [0; 34];
        name[..2].copy_from_slice(&ALG_SHA256.to_be_bytes());
        name[2..].copy_from_slice(&Sha256::digest(&self.area));
        Name(name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ring::agreement::{ECDH_P256, EphemeralPrivateKey};
    use ring::rand::SystemRandom;

    use super::*;
    use crate::credential::make;

    /// The point of a key that no TPM has made.
    fn point() -> Vec<u8> {
        let key = EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new()).expect("a key");
        key.compute_public_key().expect("its point").as_ref()[1..].to_vec()
    }

    fn area(template: Template) -> Vec<u8> {
        let point = point();
        template.kind().sized(&point[..32]).sized(&point[32..]).0
    }

    #[test]
    fn only_a_key_that_cannot_leave_its_tpm_is_an_identity() {
        let good = area(Template::Identity);
        let read = Public::read(&good, Template::Identity).expect("an identity");
        assert_eq!(read.area(), good);
        assert_eq!(Public::read(&good, Template::Endorsement), Err(Malformed), "it is no endorsement key");
        // Each attribute, algorithm and size counts: another byte before the point is another kind of key.
        for at in 0..good.len() - 68 {
            for bit in 0..8 {
                let mut other = good.clone();
                other[at] ^= 1 << bit;
                assert_eq!(Public::read(&other, Template::Identity), Err(Malformed), "byte {at}, bit {bit}");
            }
        }
        assert_eq!(Public::read(&[good.as_slice(), &[0]].concat(), Template::Identity), Err(Malformed), "too long");
    }

    #[test]
    fn nothing_is_wrapped_for_a_point_that_is_off_the_curve() {
        let mut area = area(Template::Endorsement);
        let name = Public::read(&area, Template::Endorsement).expect("a key").name();
        let of = |area: &[u8]| make(&Public::read(area, Template::Endorsement).expect("two numbers"), &name, &[1; 32]);
        assert!(of(&area).is_ok());
        *area.last_mut().expect("a byte") ^= 1;
        assert_eq!(of(&area), Err(Malformed));
    }

    #[test]
    fn leading_zeros_that_a_tpm_leaves_out_are_the_same_point_and_another_name() {
        let point = std::iter::repeat_with(point).find(|point| point[0] == 0).expect("one of 256 begins so");
        let of = |x: &[u8]| Template::Identity.kind().sized(x).sized(&point[32..]).0;
        let [whole, short] = [&point[..32], &point[1..32]].map(|x| Public::read(&of(x), Template::Identity));
        let (whole, short) = (whole.expect("a key"), short.expect("a key"));
        assert_eq!(whole.point(), short.point());
        assert_ne!(whole.name(), short.name());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), tail in any::<bool>()) {
            let bytes = if tail { [Template::Endorsement.kind().0, bytes].concat() } else { bytes };
            for template in [Template::Identity, Template::Endorsement, Template::Storage] {
                if let Ok(read) = Public::read(&bytes, template) {
                    prop_assert_eq!(read.area(), bytes.as_slice());
                }
            }
        }
    }
}
