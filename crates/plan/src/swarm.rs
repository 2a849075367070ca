//! Docker Swarm on the fleet: who starts it, who joins, which old entries go, what is deployed.
//!
//! The Swarm's own Raft decides everything inside; this plan only decides which node is asked to
//! do what. It is level-triggered: the same facts give the same steps, and applied steps give none.

use std::collections::{BTreeMap, BTreeSet};

use bramble_model::agent::{EngineState, Observed};
use bramble_model::names::Name;
use bramble_model::repository::EnginePart;

use crate::Wait;

/// What is declared and what is observed.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub nodes: BTreeMap<Name, Node>,
    /// A manager's view, and which one was asked.
    pub view: Option<(Name, Observed)>,
    /// The cluster that the nodes belonged to when last seen.
    pub remembered: Option<String>,
    /// Workloads of the repository with the name of their content; `None` where it cannot be read.
    pub workloads: BTreeMap<Name, Option<String>>,
}

/// One declared node.
#[derive(Debug, Clone)]
pub struct Node {
    pub part: EnginePart,
    /// What its agent says; `None` while it is not connected.
    pub engine: Option<EngineState>,
    /// The address that others reach it by; known once it is connected.
    pub address: Option<String>,
}

/// One thing to ask of one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Initialise { node: Name, address: String, reason: String },
    Join { node: Name, cluster: String, through: Name, part: EnginePart, address: String },
    SetPart { through: Name, node: Name, node_id: String, part: EnginePart },
    Forget { through: Name, hostname: String, node_id: String, reason: String },
    Deploy { through: Name, workload: Name, generation: String },
    Remove { through: Name, workload: Name },
}

/// What to do now, and what is waited for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub steps: Vec<Step>,
    pub waits: Vec<Wait>,
    /// The cluster to remember.
    pub cluster: Option<String>,
}

/// Plans the next steps.
pub fn plan(facts: &Facts) -> Plan {
    let mut plan = Plan { cluster: facts.remembered.clone(), ..Plan::default() };
    let Some(seed) = seed(facts, &mut plan) else { return plan };
    let cluster = match &facts.nodes[&seed].engine {
        Some(EngineState::Member { cluster, .. }) => cluster.clone(),
        _ => return plan,
    };
    plan.cluster = Some(cluster.clone());
    members(facts, &seed, &cluster, &mut plan);
    if let Some((through, view)) = &facts.view
        && view.cluster == cluster
    {
        forget(facts, through, view, &mut plan);
        workloads(facts, through, view, &mut plan);
    }
    plan
}

/// A working manager of the cluster; or the step that makes one; or what that waits for.
fn seed(facts: &Facts, plan: &mut Plan) -> Option<Name> {
    let managers = || facts.nodes.iter().filter(|(_, node)| node.part == EnginePart::Manager);
    let working = |wanted: Option<&str>| {
        facts.nodes.iter().find_map(|(name, node)| match &node.engine {
            Some(EngineState::Member { cluster, manager: true, reachable: true, .. })
                if wanted.is_none_or(|wanted| wanted == cluster) =>
            {
                Some(name.clone())
            }
            _ => None,
        })
    };
    if let Some(remembered) = &facts.remembered
        && let Some(seed) = working(Some(remembered))
    {
        return Some(seed);
    }
    // Whoever could still hold the state of a cluster is waited for, so that a Swarm is never
    // started beside one that lives: who is away, and who remembers but has no quorum yet.
    let mut may_hold = Vec::new();
    let mut free = Vec::new();
    let mut other = None;
    for (name, node) in managers() {
        match &node.engine {
            Some(EngineState::Alone) => free.push((name, node)),
            // Not the remembered one: started when that was lost, or before this head was.
            Some(EngineState::Member { manager: true, reachable: true, cluster, .. }) => {
                other.get_or_insert((name.clone(), cluster.clone()));
            }
            Some(EngineState::Member { .. }) => {
                may_hold.push((name, "remembers the Swarm and waits for the other managers"))
            }
            Some(EngineState::Starting { .. }) => may_hold.push((name, "its Docker is starting")),
            Some(EngineState::None) | None => may_hold.push((name, "is not here yet")),
        }
    }
    if let Some((name, cluster)) = other
        && (facts.remembered.is_none() || may_hold.is_empty())
    {
        plan.cluster = Some(cluster);
        return Some(name);
    }
    let (Some((first, node)), true) = (free.first(), facts.remembered.is_none() || may_hold.is_empty()) else {
        for (name, why) in may_hold {
            let reason = match &facts.remembered {
                Some(cluster) => format!("manager {name} {why}; it may hold the state of Swarm {cluster}"),
                None => format!("manager {name} {why}; the Swarm needs a first manager"),
            };
            plan.waits.push(Wait { subject: name.to_string(), reason });
        }
        return None;
    };
    let reason = match &facts.remembered {
        Some(cluster) => format!("all managers are here and none of them holds Swarm {cluster} any more"),
        None => "the first manager to be ready".into(),
    };
    if let Some(address) = node.address.clone() {
        plan.steps.push(Step::Initialise { node: (*first).clone(), address, reason });
    }
    None
}

fn members(facts: &Facts, seed: &Name, cluster: &str, plan: &mut Plan) {
    for (name, node) in &facts.nodes {
        if node.part == EnginePart::None {
            continue;
        }
        match &node.engine {
            Some(EngineState::Member { cluster: own, manager, node_id, .. }) if own == cluster => {
                if *manager != (node.part == EnginePart::Manager) {
                    plan.steps.push(Step::SetPart {
                        through: seed.clone(),
                        node: name.clone(),
                        node_id: node_id.clone(),
                        part: node.part,
                    });
                }
            }
            Some(EngineState::Alone | EngineState::Member { .. }) => {
                if let Some(address) = node.address.clone() {
                    let (node, through, cluster) = (name.clone(), seed.clone(), cluster.to_owned());
                    let part = facts.nodes[name].part;
                    plan.steps.push(Step::Join { node, cluster, through, part, address });
                }
            }
            Some(EngineState::Starting { waiting_for }) => {
                plan.waits
                    .push(Wait { subject: name.to_string(), reason: format!("its engine waits for {waiting_for}") });
            }
            Some(EngineState::None) => {}
            None => plan.waits.push(Wait { subject: name.to_string(), reason: "its agent is not connected".into() }),
        }
    }
}

/// Old entries: of nodes that joined again under a new id, and of nodes that are not declared.
fn forget(facts: &Facts, through: &Name, view: &Observed, plan: &mut Plan) {
    let present: BTreeMap<&str, &str> = facts
        .nodes
        .iter()
        .filter_map(|(name, node)| match &node.engine {
            Some(EngineState::Member { node_id, cluster, .. }) if *cluster == view.cluster => {
                Some((name.as_str(), node_id.as_str()))
            }
            _ => None,
        })
        .collect();
    for member in view.members.iter().filter(|member| !member.up && !member.hostname.is_empty()) {
        let reason = match present.get(member.hostname.as_str()) {
            Some(id) if *id != member.id => "the node joined again under a new id",
            Some(_) => continue,
            None if !facts.nodes.keys().any(|name| name.as_str() == member.hostname) => "it is not in the repository",
            None => continue,
        };
        plan.steps.push(Step::Forget {
            through: through.clone(),
            hostname: member.hostname.clone(),
            node_id: member.id.clone(),
            reason: reason.into(),
        });
    }
}

fn workloads(facts: &Facts, through: &Name, view: &Observed, plan: &mut Plan) {
    for (name, generation) in &facts.workloads {
        let Some(generation) = generation else {
            // An editor saves, or a disk is full: what runs goes on.
            let reason = "its file cannot be read; what is deployed stays".into();
            plan.waits.push(Wait { subject: name.to_string(), reason });
            continue;
        };
        let mut services =
            view.services.iter().filter(|service| service.workload.as_deref() == Some(name.as_str())).peekable();
        let current =
            services.peek().is_some() && services.all(|service| service.generation.as_ref() == Some(generation));
        if !current {
            plan.steps.push(Step::Deploy {
                through: through.clone(),
                workload: name.clone(),
                generation: generation.clone(),
            });
        }
    }
    let deployed: BTreeSet<Name> =
        view.services.iter().filter_map(|service| service.workload.as_ref()?.parse().ok()).collect();
    for workload in deployed {
        if !facts.workloads.contains_key(&workload) {
            plan.steps.push(Step::Remove { through: through.clone(), workload });
        }
    }
}

#[cfg(test)]
mod tests;
