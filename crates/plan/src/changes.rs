//! `bramble plan`: what would change, and why, between the repository and the cluster that runs.

use std::collections::BTreeSet;

use bramble_model::api::Status;
use bramble_model::names::Name;
use bramble_model::timeline::Phase;
use serde::Serialize;

/// What the repository says, as far as the cluster can differ from it.
#[derive(Debug, Clone, Default)]
pub struct Declared {
    pub nodes: BTreeSet<Name>,
    /// Workloads with the name of their content.
    pub workloads: Vec<(Name, String)>,
    /// The boot set that the repository's image has; `None` before it is built.
    pub set: Option<String>,
    /// The image's inputs have changed since that set was built.
    pub set_is_stale: bool,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    pub subject: String,
    pub action: String,
    pub reason: String,
}

/// All differences, in the order in which they would be dealt with. `status` is `None` while no
/// head runs.
pub fn changes(declared: &Declared, status: Option<&Status>) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut add = |subject: &str, action: &str, reason: String| {
        changes.push(Change { subject: subject.into(), action: action.into(), reason });
    };
    match &declared.set {
        None => add("image", "build", "there is no boot set yet".into()),
        Some(_) if declared.set_is_stale => {
            add("image", "build", "its recipe, its files or bramble itself has changed".into())
        }
        Some(_) => {}
    }
    let Some(status) = status else {
        add("head", "start", "no head answers for this repository (`bramble serve`)".into());
        for node in &declared.nodes {
            add(node.as_str(), "boot", "no head, so no node".into());
        }
        return changes;
    };
    for node in &declared.nodes {
        match status.nodes.iter().find(|known| known.name == *node) {
            None => add(
                node.as_str(),
                "add",
                "it is new in the repository; the head takes it in when it starts again".into(),
            ),
            Some(known) if known.phase == Phase::Off => add(node.as_str(), "boot", "it is off".into()),
            Some(known) if known.phase != Phase::Ready => {
                add(node.as_str(), "wait", format!("it is on its way: {}", known.phase.as_str()));
            }
            Some(known) if declared.set.is_some() && known.set != declared.set => {
                let short = |set: &Option<String>| {
                    set.as_deref().map_or_else(|| "none".to_owned(), |set| set.chars().take(12).collect())
                };
                add(
                    node.as_str(),
                    "reboot",
                    format!("it runs boot set {}, the repository has {}", short(&known.set), short(&declared.set)),
                );
            }
            Some(_) => {}
        }
    }
    for known in status.nodes.iter().filter(|known| !declared.nodes.contains(&known.name)) {
        add(known.name.as_str(), "remove", "it is not in the repository any more".into());
    }
    for (name, generation) in &declared.workloads {
        let services = status
            .workloads
            .iter()
            .find(|known| known.name == *name)
            .map(|known| &known.services[..])
            .unwrap_or_default();
        if services.is_empty() {
            add(name.as_str(), "deploy", "it is not deployed".into());
        } else if services.iter().any(|service| service.generation.as_ref() != Some(generation)) {
            add(name.as_str(), "deploy", "its file has changed since it was deployed".into());
        }
    }
    for known in &status.workloads {
        if !declared.workloads.iter().any(|(name, _)| *name == known.name) {
            add(known.name.as_str(), "remove", "it is not in the repository any more".into());
        }
    }
    changes
}
