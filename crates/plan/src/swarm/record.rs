//! What the head remembers of the Swarm: a record of its store.
//!
//! The token with which managers join is as good as the Swarm, and whoever has joined with it, or has been a manager, knows
//! it:
//!
//! ```text
//!              one is to join as a manager, or to be none any more
//!   Kept ─────────────────────────────────────────────────────────▶ Out     written before that is asked
//!    ▲                                                               │
//!    └────── rotated, once no such step is due but in vain ◀─────────┘      also by a head that has started since
//! ```

use std::collections::BTreeSet;

use bramble_model::engine::EnginePart;
use bramble_model::names::{ClusterId, Digest, Name};
use serde::{Deserialize, Serialize};

/// What the head keeps of the Swarm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub memory: Memory,
    /// Who may hold its state: whoever was made one of its managers, or was to be, and has not been seen to be made a
    /// worker. Empty where nobody wrote it down: then it may be anyone, and nobody is taken for one who is not declared.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub managers: BTreeSet<Name>,
    /// The SHA-256 of its CA's certificate, as the first join tokens had it; `None` before there were any.
    pub ca: Option<Digest>,
    /// Who knows the token with which managers join.
    pub token: ManagerToken,
    /// Swarms that were given up: a node that remembers one of these may be made to leave it.
    #[serde(default)]
    pub former: BTreeSet<ClusterId>,
    /// A person's word to begin anew, whatever these managers may hold.
    #[serde(default)]
    pub without: Option<BTreeSet<Name>>,
}

/// What the head knows of whether there is a Swarm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Memory {
    /// The store was made together with the cluster's CA: there has never been one.
    Never,
    /// The store is younger than the CA, or was restored: there may be one.
    Lost,
    /// This manager, and no other, was told to begin one.
    Begun { node: Name },
    /// The Swarm of this id.
    Swarm { cluster: ClusterId },
}

/// Who knows the token with which managers join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ManagerToken {
    /// Its managers alone.
    Kept,
    /// Others may: it has to be rotated.
    Out,
}

/// Why a node is given no join token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoToken {
    #[error("the head's record of the Swarm has changed since it was planned")]
    Changed,
    #[error(
        "the join tokens of {through} are of another CA ({said}) than this Swarm's ({pinned}), and were dropped: whoever \
         rotated the CA (`docker swarm ca --rotate`) says so with `bramble engine trust swarm {said}`; if nobody did, {through} \
         is not to be trusted"
    )]
    AnotherCa { through: Name, said: Digest, pinned: Digest },
}

impl Record {
    pub fn new(memory: Memory) -> Self {
        let (former, managers) = (BTreeSet::new(), BTreeSet::new());
        Record { memory, managers, ca: None, token: ManagerToken::Kept, former, without: None }
    }

    pub fn cluster(&self) -> Option<&ClusterId> {
        match &self.memory {
            Memory::Swarm { cluster } => Some(cluster),
            Memory::Never | Memory::Lost | Memory::Begun { .. } => None,
        }
    }

    /// Whether this head has written down that the node is made a manager, or begins the Swarm.
    pub(super) fn made_manager(&self, node: &Name) -> bool {
        match &self.memory {
            Memory::Swarm { .. } => self.managers.contains(node),
            Memory::Begun { node: told } => told == node,
            // What it was before is of a Swarm that was given up, or forgotten.
            Memory::Never | Memory::Lost => false,
        }
    }

    /// Whether a node may be given a token that says this CA, so that it joins this Swarm as that part.
    ///
    /// # Errors
    /// Why not.
    pub fn gives_token(
        &self,
        node: &Name,
        part: EnginePart,
        cluster: &ClusterId,
        through: &Name,
        ca: Digest,
    ) -> Result<(), NoToken> {
        let Some(pinned) = self.ca.filter(|_| self.cluster() == Some(cluster)) else { return Err(NoToken::Changed) };
        if pinned != ca {
            return Err(NoToken::AnotherCa { through: through.clone(), said: ca, pinned });
        }
        let written = self.token == ManagerToken::Out && self.managers.contains(node);
        match part {
            EnginePart::Manager if written => Ok(()),
            EnginePart::Worker => Ok(()),
            EnginePart::Manager | EnginePart::None => Err(NoToken::Changed),
        }
    }

    /// It is this Swarm, and these may hold its state. Another one that was remembered is given up.
    pub fn remember(&mut self, cluster: &ClusterId, managers: BTreeSet<Name>) {
        match &self.memory {
            // Whoever is taken off knew the token, however it came to be no manager any more: a demotion may have failed here
            // and be done there.
            Memory::Swarm { cluster: old } if old == cluster => {
                if !self.managers.is_subset(&managers) {
                    self.token = ManagerToken::Out;
                }
            }
            memory => {
                // What nobody but this head began may be known to anyone.
                let is_own = matches!(memory, Memory::Begun { .. });
                (self.ca, self.token) = (None, if is_own { ManagerToken::Kept } else { ManagerToken::Out });
                if let Memory::Swarm { cluster: old } = memory {
                    self.former.insert(old.clone());
                }
            }
        }
        self.former.remove(cluster);
        self.memory = Memory::Swarm { cluster: cluster.clone() };
        self.managers = managers;
        self.without = None;
    }

    /// This manager, and no other, may begin one. The one that was remembered is given up.
    pub fn begin(&mut self, node: &Name) {
        if let Memory::Swarm { cluster } = &self.memory {
            self.former.insert(cluster.clone());
        }
        self.memory = Memory::Begun { node: node.clone() };
        self.managers = BTreeSet::from([node.clone()]);
        (self.ca, self.token) = (None, ManagerToken::Kept);
        self.without = None;
    }

    /// A person gives a Swarm up: whoever remembers it may be made to leave it.
    pub fn give_up(&mut self, cluster: &ClusterId) {
        self.former.insert(cluster.clone());
        if self.cluster() == Some(cluster) {
            self.memory = Memory::Lost;
            self.ca = None;
        }
    }

    /// A person says that this is its CA now: its managers' tokens of the one before are worthless. Whether there is a Swarm.
    pub fn trust(&mut self, ca: Digest) -> bool {
        let is_there = self.cluster().is_some();
        if is_there {
            self.ca = Some(ca);
        }
        is_there
    }

    /// What came after this was written is not in it: a Swarm may have been begun since, others been made managers, and the
    /// token been given to anyone.
    pub fn is_from_before(&mut self) {
        if self.cluster().is_none() {
            self.memory = Memory::Lost;
        }
        self.managers.clear();
        self.token = ManagerToken::Out;
    }
}
