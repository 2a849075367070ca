//! What nobody can guess.

/// 128 random bits in hex: an id, or a nonce.
pub(crate) fn random() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// 256 random bits: a secret.
pub(crate) fn bytes() -> [u8; 32] {
    rand::random()
}

/// A number that no other certificate has.
pub(crate) fn number() -> u64 {
    rand::random()
}
