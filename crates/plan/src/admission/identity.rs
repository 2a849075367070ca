//! What a machine is known by, strongest first: a key that its TPM never gives out, one on its disk, one in its firmware's
//! variables.

use std::collections::BTreeSet;

use bramble_model::names::{Digest, Mac};
use serde::{Deserialize, Serialize};

/// Where a machine keeps the key that it came with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keeps {
    /// Its agent does not say, or says it in words of another release: that is not "nowhere".
    Unsaid,
    /// Nowhere: it is made anew at each boot.
    Nothing,
    /// In a variable of its UEFI.
    Variable,
    /// On the node's own data disk, which is in this machine now.
    Disk(Machine),
    /// In the TPM whose endorsement key has this name, as it says, or as it has proved.
    Tpm { endorsement: Digest, has_proved: bool },
}

/// A machine, by what is soldered to it. It says this of itself: a disk with it in another machine, whose owner forges
/// it, is that node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Machine {
    pub cards: BTreeSet<Mac>,
    /// The UUID that its firmware says, else the board's serial number.
    pub board: Option<String>,
}

impl Machine {
    /// Whether both are the same one: the same board with a card that it had, or where a board has no number all of its
    /// cards.
    fn is(&self, other: &Machine) -> bool {
        match (&self.board, &other.board) {
            (Some(one), Some(other_board)) => one == other_board && !self.cards.is_disjoint(&other.cards),
            (None, None) => !self.cards.is_empty() && self.cards == other.cards,
            _ => false,
        }
    }
}

/// What a node is known by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Of its key.
    pub fingerprint: String,
    #[serde(flatten)]
    pub by: By,
}

/// Where that key is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "kebab-case")]
pub enum By {
    Variable,
    /// And counts in this machine alone.
    Disk {
        machine: Machine,
    },
    /// Which has this endorsement key.
    Tpm {
        endorsement: Digest,
    },
}

impl Kept {
    /// What a machine is known by from its admission on; `None` where it keeps nothing.
    pub(super) fn of(keeps: &Keeps, fingerprint: &str) -> Option<Self> {
        let by = match keeps {
            Keeps::Nothing | Keeps::Unsaid => return None,
            Keeps::Variable => By::Variable,
            Keeps::Disk(machine) => By::Disk { machine: machine.clone() },
            Keeps::Tpm { endorsement, .. } => By::Tpm { endorsement: *endorsement },
        };
        Some(Kept { fingerprint: fingerprint.to_owned(), by })
    }

    /// Why this key does not count where it is now, though it is the same: a disk is carried about more easily than
    /// a machine.
    pub(super) fn is_moved(&self, keeps: &Keeps) -> Option<&'static str> {
        match (&self.by, keeps) {
            (By::Disk { machine }, Keeps::Disk(now)) if machine.is(now) => None,
            (By::Disk { .. }, Keeps::Disk(_)) => Some("the disk that it is known by is in another machine"),
            (By::Disk { .. }, _) => Some("the key of its disk is not on its disk any more"),
            (By::Variable, _) | (By::Tpm { .. }, _) => None,
        }
    }
}
