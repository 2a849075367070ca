//! The snapshot that is kept true, as planners and readers see it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use bramble_model::engine::EngineKind;
use bramble_model::names::{Digest, Generation, Name};
use bramble_model::repository::{Cluster, FILE};
use bramble_model::snapshot::{Revision, Snapshot};
use bramble_plan::{sets, swarm};
use sha2::{Digest as _, Sha256};

/// Changed files that are named one by one.
const MOST_FILES: usize = 20;

/// The snapshot that is kept true.
#[derive(Debug)]
pub(crate) struct Current {
    pub(crate) digest: Digest,
    pub(crate) snapshot: Snapshot,
    pub(crate) revision: Revision,
    pub(crate) cluster: Arc<Cluster>,
    /// Workloads with their content, as the Swarm's planner has them.
    pub(super) workloads: BTreeMap<Name, swarm::Workload>,
}

impl Current {
    #[cfg(test)]
    pub(crate) fn of(digest: Digest, snapshot: Snapshot, revision: Revision, cluster: Cluster) -> Self {
        Current { digest, snapshot, revision, cluster: Arc::new(cluster), workloads: BTreeMap::new() }
    }

    /// The same, as another revision says it.
    pub(crate) fn of_revision(self, revision: Revision) -> Self {
        Current { revision, ..self }
    }

    /// What it says of the Swarm.
    pub(crate) fn swarm(&self) -> swarm::Declared {
        let nodes = self.cluster.nodes.iter().map(|(name, node)| (name.clone(), node.part(EngineKind::Swarm)));
        swarm::Declared {
            nodes: nodes.collect(),
            workloads: self.workloads.clone(),
            encrypted: self.cluster.encrypted_networks,
        }
    }

    /// What it says of images.
    pub(crate) fn sets(&self) -> sets::Declared {
        let own = self.cluster.nodes.iter().filter(|(_, node)| node.boot.is_none());
        sets::Declared {
            architectures: self.cluster.image.architectures.clone(),
            nodes: own.map(|(name, _)| name.clone()).collect(),
            inputs: Some(image_inputs(&self.cluster, &self.snapshot)),
        }
    }

    /// A workload, as the Swarm's planner has it.
    pub(crate) fn workload(&self, name: &Name) -> Option<&swarm::Workload> {
        self.workloads.get(name)
    }

    /// What does not check, and stops nothing but itself.
    pub(crate) fn sick(&self) -> impl Iterator<Item = (&Name, &str)> {
        self.workloads.iter().filter_map(|(name, workload)| match workload {
            swarm::Workload::Sick { problem } => Some((name, problem.as_str())),
            swarm::Workload::Ready { .. } => None,
        })
    }

    /// Workloads that name a volume, or a folder of the machine: what they hold is not made again by deploying them.
    pub(crate) fn holding_data(&self) -> BTreeSet<Name> {
        let all = self.cluster.workloads.iter();
        all.filter(|(_, workload)| workload.holds_data).map(|(name, _)| name.clone()).collect()
    }

    /// Paths of files that differ in another snapshot, beside `bramble.toml`.
    pub(crate) fn changed_files(&self, next: &Current) -> BTreeSet<String> {
        let (old, new) = (&self.snapshot.entries, &next.snapshot.entries);
        let differs = |path: &&String| old.get(*path) != new.get(*path) && path.as_str() != FILE;
        old.keys().chain(new.keys()).filter(differs).cloned().collect()
    }

    /// How some of these files differ in another snapshot, in short sentences.
    pub(crate) fn told(&self, files: &BTreeSet<String>, next: &Current) -> Vec<String> {
        let is_in = |current: &Current, path: &String| current.snapshot.entries.contains_key(path);
        let told = |path| match (is_in(self, path), is_in(next, path)) {
            (false, _) => format!("adds {path}"),
            (_, false) => format!("removes {path}"),
            _ => format!("{path} changes"),
        };
        files.iter().take(MOST_FILES).map(told).collect()
    }
}

/// SHA-256 of all that a repository says of the image: of its keys, and of the files that go into it.
pub fn image_inputs(cluster: &Cluster, snapshot: &Snapshot) -> Digest {
    let image = &cluster.image;
    let mut hash = Sha256::new();
    let inside =
        |path: &Path| path.strip_prefix(&cluster.root).unwrap_or(path).to_string_lossy().trim_matches('/').to_owned();
    hash.update(format!("{}\n{}\n{:?}\n{:?}\n", image.suite, image.cmdline, image.packages, cluster.engines()));
    hash.update(env!("CARGO_PKG_VERSION"));
    let folders = image.overlay.iter().chain(&image.containers).map(|path| inside(path));
    for folder in folders {
        let below = format!("{folder}/");
        let own = snapshot.entries.iter().filter(|(path, _)| **path == folder || path.starts_with(&below));
        for (path, entry) in own {
            hash.update(format!("{path}\0{entry:?}\n"));
        }
    }
    Digest(hash.finalize().into())
}

/// What the content of a workload's file is called.
pub(super) fn generation(file: &[u8]) -> Generation {
    Generation::of(&Digest(Sha256::digest(file).into()))
}
