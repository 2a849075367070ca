//! What an agent says of where its key is, read and checked; and the question that only its TPM can answer.

use std::collections::BTreeSet;

use bramble_model::agent::{self, Proof, Prove};
use bramble_model::names::{Bytes, Digest, Mac};
use bramble_plan::admission::{Keeps, Machine};
use bramble_tpm::{Public, Template};
use sha2::{Digest as _, Sha256};

use crate::ca::RequestedKey;
use crate::random::bytes;

/// Cards that a machine may have, and letters of its number: what it says of itself is bounded.
const MOST_CARDS: usize = 32;
const LONGEST_NUMBER: usize = 64;

/// Where a key is.
pub(super) enum Kept {
    Unsaid,
    Nothing,
    Variable,
    Disk(Machine),
    Tpm(Box<Chip>),
}

/// A TPM, and the key in it, as far as can be seen from outside.
pub(super) struct Chip {
    endorsement: Public,
    key: Public,
}

/// What an agent is asked, and what it has to answer.
pub(super) struct Challenge {
    pub(super) prove: Prove,
    secret: [u8; 32],
}

impl Challenge {
    pub(super) fn is_met(&self, proof: &Proof) -> bool {
        // By their digests: how far two of those agree tells nobody anything.
        Sha256::digest(self.secret) == Sha256::digest(&proof.proof.0)
    }
}

impl Kept {
    /// What an agent says of the key of its request.
    ///
    /// # Errors
    /// Where that cannot be.
    pub(super) fn read(keeps: &agent::Keeps, requested: &RequestedKey) -> Result<Self, &'static str> {
        Ok(match keeps {
            agent::Keeps::Unsaid | agent::Keeps::Unknown => Kept::Unsaid,
            agent::Keeps::Nothing => Kept::Nothing,
            agent::Keeps::Variable => Kept::Variable,
            agent::Keeps::Disk { cards, board } => {
                let cards: BTreeSet<Mac> = cards.iter().copied().take(MOST_CARDS).collect();
                let clean =
                    |board: &String| board.chars().filter(char::is_ascii_graphic).take(LONGEST_NUMBER).collect();
                Kept::Disk(Machine { cards, board: board.as_ref().map(clean) })
            }
            agent::Keeps::Tpm { endorsement, key } => {
                let read = |area: &Bytes, template| Public::read(&area.0, template);
                let (Ok(endorsement), Ok(key)) =
                    (read(endorsement, Template::Endorsement), read(key, Template::Identity))
                else {
                    return Err("what it says of its TPM's keys is not what a TPM says");
                };
                if key.point().as_slice() != requested.point() {
                    return Err("its request is for another key than its TPM's");
                }
                Kept::Tpm(Box::new(Chip { endorsement, key }))
            }
        })
    }

    pub(super) fn as_planned(&self, has_proved: bool) -> Keeps {
        match self {
            Kept::Unsaid => Keeps::Unsaid,
            Kept::Nothing => Keeps::Nothing,
            Kept::Variable => Keeps::Variable,
            Kept::Disk(machine) => Keeps::Disk(machine.clone()),
            Kept::Tpm(chip) => {
                let name = chip.endorsement.name().0;
                let endorsement = Digest(*name.last_chunk().expect("SHA-256 and its number"));
                Keeps::Tpm { endorsement, has_proved }
            }
        }
    }

    /// A new secret that comes out of this TPM alone, and only where this key is in it.
    ///
    /// # Errors
    /// Where there is no such TPM.
    pub(super) fn challenge(&self) -> Result<Challenge, &'static str> {
        let Kept::Tpm(chip) = self else { return Err("it has no TPM to prove") };
        let secret = bytes();
        let made = bramble_tpm::make(&chip.endorsement, &chip.key.name(), &secret);
        let credential = made.map_err(|_| "its TPM's endorsement key is no key")?;
        let prove = Prove { credential: Bytes(credential.blob), secret: Bytes(credential.secret) };
        Ok(Challenge { prove, secret })
    }
}
