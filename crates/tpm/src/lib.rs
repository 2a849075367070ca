//! TPM 2.0, as far as an identity rests on it: a signing key that never leaves the chip, and the proof that it is in
//! the one that a machine was known by; and data that is sealed to a chip, as the head's seal is.
//!
//! ```text
//! node:  create_primary(identity) ──▶ the key of its certificate      head:  check its public area, name it,
//!        create_primary(endorsement) ─▶ the chip it is in ───────────────▶   make a credential for both
//!        activate(credential) ◀──────────────────────────────────────────    (opens only where both are)
//!        what was in it ─────────────────────────────────────────────────▶   compare
//! ```
//! Both keys are *primaries* of fixed templates in the endorsement hierarchy: the same key at each boot, nothing kept, no
//! PCRs, so that no update of the firmware makes a stranger of a machine. Commands and answers are bytes (TPM 2.0 Library,
//! part 3); what carries them is a [`Device`], on a node `/dev/tpmrm0`.

mod credential;
mod device;
mod public;
mod wire;

pub use credential::{Credential, make};
pub use device::{Device, Key, Problem, Sealed, Signature, Tpm};
pub use public::{Malformed, Name, Public, Template};
