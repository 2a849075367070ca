//! Which loader the UEFI of a machine is given: it never says whether it starts unsigned programs
//! (Secure Boot), so that is learned from what it does.
//!
//! ```text
//!            loader sent whole             firmware asks again: it did not run
//!   Plain ───────────────────▶ on trial ───────────────────────────────────────▶ the other one
//!     ▲                            │ a loader asks for its script or menu: it runs
//!     └────────────────────────────┘ and is kept
//! ```

use serde::{Deserialize, Serialize};

/// A way from UEFI to a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Chain {
    /// iPXE: quick, and signed by nobody.
    #[default]
    Plain,
    /// Debian's shim and GRUB, which check Debian's signatures.
    Signed,
}

impl Chain {
    fn other(self) -> Chain {
        match self {
            Chain::Plain => Chain::Signed,
            Chain::Signed => Chain::Plain,
        }
    }
}

/// What is known of one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Learned {
    last: Chain,
    /// The last loader left whole, and has not been heard of since.
    on_trial: bool,
}

impl Learned {
    /// What is known after a restart: the chain that ran.
    pub fn from(ran: Chain) -> Self {
        Learned { last: ran, on_trial: false }
    }

    /// What to give now that firmware asks. `declared` is the repository's word on Secure Boot.
    pub fn give(self, declared: Option<bool>) -> Chain {
        match declared {
            Some(true) => Chain::Signed,
            Some(false) => Chain::Plain,
            None if self.on_trial => self.last.other(),
            None => self.last,
        }
    }

    /// The first program of this chain has left whole.
    pub fn sent(&mut self, chain: Chain) {
        *self = Learned { last: chain, on_trial: true };
    }

    /// Whether a loader left that has not been heard of since.
    pub fn on_trial(self) -> bool {
        self.on_trial
    }

    /// The loader asked for what to start. Returns the chain that ran.
    pub fn ran(&mut self) -> Chain {
        self.on_trial = false;
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loader_that_is_never_heard_of_is_followed_by_the_other_one() {
        let mut learned = Learned::default();
        assert_eq!(learned.give(None), Chain::Plain);
        learned.sent(Chain::Plain);
        assert_eq!(learned.give(None), Chain::Signed);
        learned.sent(Chain::Signed);
        assert_eq!(learned.give(None), Chain::Plain, "the signed one did not run either");
        learned.sent(Chain::Plain);
        learned.sent(Chain::Signed);
        assert_eq!(learned.ran(), Chain::Signed);
        assert_eq!(learned.give(None), Chain::Signed, "what ran is kept");
        assert_eq!(Learned::from(Chain::Signed).give(None), Chain::Signed, "after a restart, too");
    }

    #[test]
    fn the_repository_has_the_last_word() {
        let mut learned = Learned::default();
        assert_eq!(learned.give(Some(true)), Chain::Signed);
        learned.sent(Chain::Plain);
        assert_eq!(learned.give(Some(false)), Chain::Plain);
    }
}
