//! What nobody can guess.

/// 128 random bits in hex: an id, or a nonce.
pub(crate) fn random() -> String {
    format!("{:032x}", rand::random::<u128>())
}
