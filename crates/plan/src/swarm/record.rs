//! What the head remembers of the Swarm: a record of its store.

use std::collections::BTreeSet;

use bramble_model::names::{ClusterId, Name};
use serde::{Deserialize, Serialize};

/// What the head keeps of the Swarm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub memory: Memory,
    /// Who may hold its state: whoever was made one of its managers, or was to be, and has not been seen to be made a
    /// worker. Empty where nobody wrote it down: then it may be anyone.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub managers: BTreeSet<Name>,
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

impl Record {
    pub fn new(memory: Memory) -> Self {
        Record { memory, managers: BTreeSet::new(), former: BTreeSet::new(), without: None }
    }

    pub fn cluster(&self) -> Option<&ClusterId> {
        match &self.memory {
            Memory::Swarm { cluster } => Some(cluster),
            Memory::Never | Memory::Lost | Memory::Begun { .. } => None,
        }
    }

    /// Whether this head has made the node a manager, or cannot tell that it has not: what it says of the remembered
    /// Swarm counts, whatever it is declared as.
    pub(super) fn made_manager(&self, node: &Name) -> bool {
        let unwritten = self.managers.is_empty() && matches!(self.memory, Memory::Swarm { .. });
        unwritten
            || self.managers.contains(node)
            || matches!(&self.memory, Memory::Begun { node: told } if told == node)
    }

    /// It is this Swarm, and these may hold its state. Another one that was remembered is given up.
    pub fn remember(&mut self, cluster: &ClusterId, managers: BTreeSet<Name>) {
        if let Memory::Swarm { cluster: old } = &self.memory
            && old != cluster
        {
            self.former.insert(old.clone());
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
        self.without = None;
    }

    /// A person gives a Swarm up: whoever remembers it may be made to leave it.
    pub fn give_up(&mut self, cluster: &ClusterId) {
        self.former.insert(cluster.clone());
        if self.cluster() == Some(cluster) {
            self.memory = Memory::Lost;
        }
    }

    /// What came after this was written is not in it: a Swarm may have been begun since, and others been made managers.
    pub fn is_from_before(&mut self) {
        if self.cluster().is_none() {
            self.memory = Memory::Lost;
        }
        self.managers.clear();
    }
}
