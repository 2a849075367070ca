//! The repository as it is now: `bramble.toml` is read again when it has changed, and what changed takes
//! effect. Nodes come and go; whoever went loses its certificate at once.
//!
//! What is bound to sockets stays as it was when the head started: `[network]`, and which `image` is built.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime};

use bramble_model::names::{Mac, Name};
use bramble_model::repository::{Cluster, FILE, Node};
use bramble_model::timeline::What;
use tokio_util::sync::CancellationToken;

use crate::{Error, Head};

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The cluster as the repository last said it without an error.
pub(crate) struct Repository {
    path: PathBuf,
    cluster: RwLock<Arc<Cluster>>,
    /// What is wrong with the file as it is now.
    problem: RwLock<Option<String>>,
}

/// What tells two contents of a file apart, without reading them: an editor that writes within the same
/// instant changes the length or the inode.
type Stamp = Option<(SystemTime, u64, u64)>;

impl Repository {
    pub(crate) fn new(cluster: Cluster) -> Self {
        Repository {
            path: cluster.root.join(FILE),
            cluster: RwLock::new(Arc::new(cluster)),
            problem: RwLock::new(None),
        }
    }

    pub(crate) fn cluster(&self) -> Arc<Cluster> {
        Arc::clone(&self.cluster.read().expect("no panic while held"))
    }

    /// What is wrong with `bramble.toml`, where the head goes on with what it said before.
    pub(crate) fn problem(&self) -> Option<String> {
        self.problem.read().expect("no panic while held").clone()
    }

    fn stamp(&self) -> Stamp {
        use std::os::unix::fs::MetadataExt;
        let data = std::fs::metadata(&self.path).ok()?;
        Some((data.modified().ok()?, data.len(), data.ino()))
    }
}

impl Head {
    /// The repository's cluster, as it is now.
    pub(crate) fn cluster(&self) -> Arc<Cluster> {
        self.repository.cluster()
    }

    /// The node with this card; or the machine that boots once to be adopted.
    pub(crate) fn node_of(&self, mac: Mac) -> Option<Name> {
        let node = self.cluster().node_of(mac).map(|(name, _)| name.clone());
        node.or_else(|| self.adopted(mac))
    }

    /// What the repository says of a node, or what holds for a machine that is to be adopted.
    pub(crate) fn declared(&self, node: &Name) -> Option<Node> {
        self.cluster().nodes.get(node).cloned().or_else(|| self.adopted_node(node))
    }

    /// Fixed addresses by card, for DHCP.
    pub(crate) fn fixed_addresses(&self) -> BTreeMap<Mac, std::net::Ipv4Addr> {
        let cluster = self.cluster();
        let nodes = cluster.nodes.values();
        nodes.flat_map(|node| node.macs.iter().filter_map(|mac| Some((*mac, node.address?)))).collect()
    }

    /// Reads the file again.
    fn reload(&self) {
        let found = Cluster::load(&self.cluster().root);
        let new = match found {
            Ok(new) => new,
            Err(problems) => {
                let first =
                    problems.0.first().map(|problem| format!("line {}, {problem}", problem.line)).unwrap_or_default();
                self.timeline.note(&format!("bramble.toml has errors, and stays as it was before: {first}"));
                let problem =
                    format!("bramble.toml has errors, and the head goes on with what it said before: {first}");
                *self.repository.problem.write().expect("no panic while held") = Some(problem);
                return;
            }
        };
        *self.repository.problem.write().expect("no panic while held") = None;
        let old = self.cluster();
        if new.network != old.network {
            self.timeline
                .note("`[network]` of bramble.toml has changed: it takes effect when the head is started again");
        }
        *self.repository.cluster.write().expect("no panic while held") = Arc::new(new);
        if let Err(error) = self.settle() {
            tracing::error!(%error, "nodes that left the repository could not be forgotten");
        }
        self.agents.tell_documents(|node| self.document(node));
        self.agents.changed.notify_one();
    }

    /// Makes what the head knows fit the repository's nodes: who is no longer in it is let go.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub(crate) fn settle(&self) -> Result<(), Error> {
        let cluster = self.cluster();
        let adopted = self.adopted_names();
        let stays = |name: &Name| cluster.nodes.contains_key(name) || adopted.contains(name);
        for gone in self.store.known_nodes()?.into_iter().filter(|name| !stays(name)) {
            self.revoke(&gone)?;
            self.timeline.note(&format!("{gone} is no longer in the repository: its certificate has ended"));
        }
        for name in self.timeline.keep_only(cluster.nodes.keys()) {
            self.timeline.add(Some(&name), What::Note { text: "is new in the repository".into() });
        }
        if let Some(dhcp) = &self.dhcp {
            dhcp.lock().expect("no panic while held").fix(&self.fixed_addresses());
        }
        Ok(())
    }

    /// Ends what a node was given: its certificate, its connection, and its being known.
    ///
    /// # Errors
    /// When the store cannot be written; then nothing has ended.
    pub(crate) fn revoke(&self, node: &Name) -> Result<(), Error> {
        self.store.forget(node)?;
        self.agents.hang_up(node);
        Ok(())
    }
}

/// Follows the file until cancelled.
pub(crate) async fn follow(head: Arc<Head>, stop: CancellationToken) {
    let mut known = head.repository.stamp();
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let now = head.repository.stamp();
        if now == known {
            continue;
        }
        known = now;
        let head = Arc::clone(&head);
        if let Err(error) = tokio::task::spawn_blocking(move || head.reload()).await
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}
