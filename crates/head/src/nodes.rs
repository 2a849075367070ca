//! Who counts as a node: those of the current snapshot, and machines that boot once to be adopted.

use std::path::Path;
use std::sync::Arc;

use bramble_model::names::{Digest, Mac, Name};
use bramble_model::repository::{Cluster, Node};

use crate::adoptions::Adoptions;
use crate::snapshots::Snapshots;

/// Has no state: looks into two parts that have.
#[derive(Clone)]
pub(crate) struct Nodes {
    snapshots: Arc<Snapshots>,
    adoptions: Arc<Adoptions>,
}

impl Nodes {
    pub(crate) fn new(snapshots: Arc<Snapshots>, adoptions: Arc<Adoptions>) -> Self {
        Nodes { snapshots, adoptions }
    }

    /// The current snapshot's cluster.
    pub(crate) fn cluster(&self) -> Arc<Cluster> {
        self.snapshots.cluster()
    }

    /// What a file of a snapshot contains, by its digest; `None` where it is not of the current one.
    pub(crate) fn content_of(&self, path: &Path) -> Option<Digest> {
        self.snapshots.content_of(path)
    }

    /// The node with this card; or the machine that boots once to be adopted.
    pub(crate) fn of_card(&self, mac: Mac) -> Option<Name> {
        let node = self.cluster().node_of(mac).map(|(name, _)| name.clone());
        node.or_else(|| self.adoptions.of_card(mac))
    }

    /// What the repository says of a node, or what holds for a machine that is to be adopted.
    pub(crate) fn declared(&self, node: &Name) -> Option<Node> {
        self.cluster().nodes.get(node).cloned().or_else(|| self.adoptions.declared(node))
    }

    /// Whether there is such a node, or such a machine that is to be adopted.
    pub(crate) fn has(&self, node: &Name) -> bool {
        self.cluster().nodes.contains_key(node) || self.adoptions.names().contains(node)
    }
}
