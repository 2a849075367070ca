//! Docker Swarm on the fleet: who starts it, who joins, which dead entries go, what is deployed.
//!
//! The Swarm's own Raft decides everything inside; this plan decides which node is asked to do what. What makes
//! it careful is [`Memory`]: a Swarm's state lies with its managers, so none is begun while any of them may hold
//! one, and none is left that nobody has given up.
//!
//! ```text
//!  Never ──a manager is ready──▶ Begun ──it has begun──▶ Swarm ◀──a manager holds one── Lost
//!    │        (it, and no other, may begin)  ▲             │                             │
//!    │                                       └─────────────┴── every manager is blank ───┘
//!    └── a manager holds one ──▶ Swarm                          (or a person: start --new --without …)
//! ```

mod begin;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bramble_model::agent::swarm::Observed as Listing;
use bramble_model::engine::{EngineKind, EnginePart, EngineState};
use bramble_model::names::Name;
use bramble_model::section::{Ends, Risk};
use bramble_model::subject::Subject;
use bramble_model::timeline::Millis;
use serde::{Deserialize, Serialize};

use crate::contract::{self, Planned, Planner};
use crate::engine::Advice;

/// A person on the node asks Docker.
pub(crate) const ADVICE: Advice = Advice {
    full_disk: "remove what is not used (`docker system prune` on the node), or give it a larger disk or more memory",
    refuses: "the sentence is the engine's own; `docker info` and its journal on the node say more",
};

/// What a snapshot says of the Swarm.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Declared {
    pub nodes: BTreeMap<Name, EnginePart>,
    pub workloads: BTreeMap<Name, Workload>,
}

/// A workload of the snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Workload {
    /// `generation` is what this content is called, `file` the content: it travels with the step.
    Ready { generation: String, file: Arc<str> },
    /// Its own files do not check: what is deployed stays.
    Sick { problem: String },
}

/// What is seen of the Swarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// Every declared node.
    pub nodes: BTreeMap<Name, Node>,
    pub record: Record,
    /// What a manager of the remembered Swarm says of it; `None` where there is none to ask.
    pub view: Option<View>,
    /// Managers that were asked and gave no view, and why.
    pub without: BTreeMap<Name, String>,
}

/// A declared node, as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// What its agent says; `None` while it is not connected.
    pub engine: Option<EngineState>,
    /// It is switched on, and boots.
    pub boots: bool,
    /// The address that others reach it by; known once it is connected.
    pub address: Option<String>,
    /// What its agent runs, where that cannot leave a Swarm by its name: then it is not asked to leave any.
    pub unable: Option<String>,
}

/// A manager's word on its Swarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum View {
    Read {
        through: Name,
        listing: Listing,
    },
    /// It was asked, and could not say: a Swarm without a leader, a manager that hangs.
    Unreadable {
        through: Name,
        reason: String,
    },
}

/// What the head keeps of the Swarm: a record of its store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub memory: Memory,
    /// Swarms that were given up: a node that remembers one of these may be made to leave it.
    #[serde(default)]
    pub former: BTreeSet<String>,
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
    Swarm { cluster: String },
}

impl Record {
    pub fn new(memory: Memory) -> Self {
        Record { memory, former: BTreeSet::new(), without: None }
    }

    pub fn cluster(&self) -> Option<&str> {
        match &self.memory {
            Memory::Swarm { cluster } => Some(cluster),
            Memory::Never | Memory::Lost | Memory::Begun { .. } => None,
        }
    }

    /// It is this Swarm. Another one that was remembered is given up.
    pub fn remember(&mut self, cluster: &str) {
        if let Memory::Swarm { cluster: old } = &self.memory
            && old != cluster
        {
            self.former.insert(old.clone());
        }
        self.former.remove(cluster);
        self.memory = Memory::Swarm { cluster: cluster.to_owned() };
        self.without = None;
    }

    /// This manager, and no other, may begin one. The one that was remembered is given up.
    pub fn begin(&mut self, node: &Name) {
        if let Memory::Swarm { cluster } = &self.memory {
            self.former.insert(cluster.clone());
        }
        self.memory = Memory::Begun { node: node.clone() };
        self.without = None;
    }

    /// A person gives a Swarm up: whoever remembers it may be made to leave it.
    pub fn give_up(&mut self, cluster: &str) {
        self.former.insert(cluster.to_owned());
        if self.cluster() == Some(cluster) {
            self.memory = Memory::Lost;
        }
    }
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Write down who may begin, before it is asked to.
    Begin {
        node: Name,
    },
    /// Write down which Swarm it is.
    Remember {
        cluster: String,
    },
    Initialise {
        node: Name,
        address: String,
        leaves: Option<String>,
    },
    Join {
        node: Name,
        cluster: String,
        through: Name,
        part: EnginePart,
        address: String,
        leaves: Option<String>,
    },
    SetPart {
        through: Name,
        node: Name,
        node_id: String,
        part: EnginePart,
    },
    Forget {
        through: Name,
        hostname: String,
        node_id: String,
    },
    Deploy {
        through: Name,
        workload: Name,
        generation: String,
        file: Arc<str>,
    },
    Remove {
        through: Name,
        workload: Name,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Begin { node } => write!(f, "is to begin with {node}"),
            Step::Remember { cluster } => write!(f, "is {cluster}"),
            Step::Initialise { leaves: None, .. } => f.write_str("starts the Swarm"),
            Step::Initialise { leaves: Some(old), .. } => write!(f, "leaves Swarm {old} and starts a new one"),
            Step::Join { through, leaves: None, part, .. } => {
                write!(f, "joins the Swarm as {} through {through}", word(*part))
            }
            Step::Join { through, leaves: Some(old), part, .. } => {
                write!(f, "leaves Swarm {old} and joins as {} through {through}", word(*part))
            }
            Step::SetPart { part, .. } => write!(f, "becomes a {} of the Swarm", word(*part)),
            Step::Forget { .. } => f.write_str("its old entry in the Swarm goes"),
            Step::Deploy { generation, .. } => write!(f, "is deployed as {generation}"),
            Step::Remove { .. } => f.write_str("is removed"),
        }
    }
}

fn word(part: EnginePart) -> &'static str {
    match part {
        EnginePart::Manager => "manager",
        EnginePart::Worker => "worker",
        EnginePart::None => "nothing",
    }
}

/// What a step expects to find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// The head's own record.
    Record(Record),
    /// The node's place in the engine.
    Engine(EngineState),
    /// A member of this id.
    Member(String),
    /// The workload's services have this generation; `None` where there are none, or of several.
    Generation(Option<String>),
}

/// The subject of the Swarm as a whole.
pub const WHOLE: Subject = Subject::Engine { engine: EngineKind::Swarm };

pub type Plan = contract::Plan<Step, Seen>;

/// The Swarm's planner.
#[derive(Debug, Clone, Copy, Default)]
pub struct Swarm;

impl Planner for Swarm {
    type Declared = Declared;
    type Observed = Observed;
    type Step = Step;
    type Seen = Seen;

    fn plan(&self, declared: &Declared, observed: &Observed, _now: Millis) -> Plan {
        let mut plan = Plan::default();
        let look = Look { declared, observed };
        for (name, workload) in &declared.workloads {
            if let Workload::Sick { problem } = workload {
                let reason = format!("{problem}; what is deployed stays");
                plan.wait(workload_subject(name), reason, Ends::Person("correct its file".into()));
            }
        }
        if declared.nodes.values().all(|part| *part == EnginePart::None) {
            return plan;
        }
        let Some(cluster) = look.cluster(&mut plan) else { return plan };
        match &observed.view {
            Some(View::Read { through, listing }) if listing.cluster == cluster && look.is_manager(through) => {
                look.members(through, &cluster, &mut plan);
                look.forget(through, listing, &mut plan);
                look.workloads(through, listing, &mut plan);
            }
            Some(View::Unreadable { through, reason }) => {
                look.absent(&cluster, &mut plan);
                let reason = format!("Swarm {cluster} cannot be read through {through}: {reason}");
                plan.wait(WHOLE, reason, look.who_mends(&cluster));
            }
            Some(View::Read { .. }) | None => {
                look.absent(&cluster, &mut plan);
                plan.wait(WHOLE, look.without_manager(&cluster), look.who_mends(&cluster));
            }
        }
        plan
    }

    fn foresee(&self, observed: &mut Observed, step: &Step) {
        match step {
            Step::Begin { node } => {
                observed.record.begin(node);
            }
            Step::Remember { cluster } => {
                observed.record.remember(cluster);
                // Whoever holds it is asked from now on.
                let holder = observed.nodes.iter().find(|(_, node)| holds(node).is_some_and(|(own, _)| own == cluster));
                if let Some((through, _)) = holder {
                    let known =
                        matches!(&observed.view, Some(View::Read { listing, .. }) if listing.cluster == *cluster);
                    if !known {
                        let listing = Listing { cluster: cluster.clone(), ..Listing::default() };
                        observed.view = Some(View::Read { through: through.clone(), listing });
                    }
                }
            }
            Step::Initialise { node, .. } => {
                let engine = member("new", &format!("new-{node}"), true);
                observed.nodes.entry(node.clone()).or_default().engine = Some(engine);
            }
            Step::Join { node, cluster, part, .. } => {
                let engine = member(cluster, &format!("new-{node}"), *part == EnginePart::Manager);
                observed.nodes.entry(node.clone()).or_default().engine = Some(engine);
            }
            Step::SetPart { node, part, .. } => {
                let engine = observed.nodes.get_mut(node).and_then(|node| node.engine.as_mut());
                if let Some(EngineState::Member { manager, .. }) = engine {
                    *manager = *part == EnginePart::Manager;
                }
            }
            Step::Forget { node_id, .. } => {
                if let Some(View::Read { listing, .. }) = &mut observed.view {
                    listing.members.retain(|member| member.id != *node_id);
                }
            }
            Step::Deploy { workload, generation, .. } => {
                if let Some(View::Read { listing, .. }) = &mut observed.view {
                    listing.services.retain(|service| service.workload.as_deref() != Some(workload.as_str()));
                    listing.services.push(bramble_model::agent::swarm::Service {
                        workload: Some(workload.to_string()),
                        generation: Some(generation.clone()),
                        name: workload.to_string(),
                        wanted: 1,
                        running: 1,
                        ports: Vec::new(),
                        replicas: Vec::new(),
                    });
                }
            }
            Step::Remove { workload, .. } => {
                if let Some(View::Read { listing, .. }) = &mut observed.view {
                    listing.services.retain(|service| service.workload.as_deref() != Some(workload.as_str()));
                }
            }
        }
    }
}

fn member(cluster: &str, node_id: &str, manager: bool) -> EngineState {
    EngineState::Member { cluster: cluster.into(), node_id: node_id.into(), manager, reachable: true }
}

fn workload_subject(name: &Name) -> Subject {
    Subject::workload(EngineKind::Swarm, name)
}

/// The Swarm whose state a node holds as a manager, and whether it has a majority.
fn holds(node: &Node) -> Option<(&str, bool)> {
    match &node.engine {
        Some(EngineState::Member { cluster, manager: true, reachable, .. }) => Some((cluster, *reachable)),
        _ => None,
    }
}

/// Both arguments of one plan.
struct Look<'a> {
    declared: &'a Declared,
    observed: &'a Observed,
}

impl Look<'_> {
    fn node(&self, name: &Name) -> Node {
        self.observed.nodes.get(name).cloned().unwrap_or_default()
    }

    fn is_manager(&self, name: &Name) -> bool {
        self.declared.nodes.get(name) == Some(&EnginePart::Manager)
    }

    /// Declared managers, as they are.
    fn managers(&self) -> Vec<(&Name, Node)> {
        let declared = self.declared.nodes.iter().filter(|(_, part)| **part == EnginePart::Manager);
        declared.map(|(name, _)| (name, self.node(name))).collect()
    }

    fn is_former(&self, cluster: &str) -> bool {
        self.observed.record.former.contains(cluster)
    }

    /// Waits for each node whose agent or engine is not there.
    fn absent(&self, cluster: &str, plan: &mut Plan) {
        for (name, part) in &self.declared.nodes {
            if *part != EnginePart::None {
                self.absence(name, cluster, plan);
            }
        }
    }

    /// Waits for a node whose agent or engine is not there; `true` where it did.
    fn absence(&self, name: &Name, cluster: &str, plan: &mut Plan) -> bool {
        let node = self.node(name);
        match &node.engine {
            None if node.boots => plan.wait(Subject::node(name), "it boots", Ends::ByItself),
            None => {
                plan.wait(Subject::node(name), "its agent is not connected", Ends::Person(format!("switch {name} on")));
            }
            Some(EngineState::Starting { waiting_for }) => {
                plan.wait(Subject::node(name), format!("its engine waits for {waiting_for}"), Ends::ByItself);
            }
            Some(EngineState::Member { cluster: own, reachable: false, .. }) if own == cluster => {
                let reason = "it is in the Swarm, and does not reach a majority of its managers";
                plan.wait(Subject::node(name), reason, Ends::ByItself);
            }
            _ => return false,
        }
        true
    }

    fn members(&self, through: &Name, cluster: &str, plan: &mut Plan) {
        let firm = self.managers().into_iter().filter(|(_, node)| holds(node) == Some((cluster, true))).count();
        for (name, part) in &self.declared.nodes {
            if *part == EnginePart::None || self.absence(name, cluster, plan) {
                continue;
            }
            let node = self.node(name);
            let Some(engine) = node.engine.clone() else { continue };
            let subject = Subject::node(name);
            match &engine {
                EngineState::Member { cluster: own, manager, node_id, .. } if own == cluster => {
                    let wanted = *part == EnginePart::Manager;
                    if *manager == wanted {
                        continue;
                    }
                    if !wanted && firm == 0 {
                        let reason = "it alone holds the Swarm's state, and the repository has it as a worker";
                        let advice = format!("keep {name} a manager until another one has joined");
                        plan.wait(subject, reason, Ends::Person(advice));
                        continue;
                    }
                    let risk = if wanted {
                        Risk::Safe
                    } else {
                        Risk::Disrupts { what: "the majority of the Swarm's managers, which is one less".into() }
                    };
                    let (through, node, node_id) = (through.clone(), name.clone(), node_id.clone());
                    plan.steps.push(Planned {
                        subject,
                        seen: Seen::Engine(engine),
                        reason: format!("the repository has it as a {}", word(*part)),
                        risk,
                        step: Step::SetPart { through, node, node_id, part: *part },
                    });
                }
                EngineState::Alone => self.join(name, &node, engine, None, through, cluster, plan),
                EngineState::Member { cluster: own, .. } if self.is_former(own) => {
                    let own = own.clone();
                    self.join(name, &node, engine, Some(own), through, cluster, plan);
                }
                EngineState::Member { cluster: own, .. } => {
                    let reason = format!("it belongs to Swarm {own}, which is not this cluster's {cluster}");
                    let advice = format!("`bramble engine give-up swarm {own}` has it leave that one, data and all");
                    plan.wait(subject, reason, Ends::Person(advice));
                }
                EngineState::None | EngineState::Starting { .. } => {}
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "all that a step to join is made of")]
    fn join(
        &self,
        name: &Name,
        node: &Node,
        engine: EngineState,
        leaves: Option<String>,
        through: &Name,
        cluster: &str,
        plan: &mut Plan,
    ) {
        let subject = Subject::node(name);
        if let (Some(unable), Some(_)) = (&node.unable, &leaves) {
            return plan.wait(subject, cannot(unable), Ends::Person(format!("boot {name} anew")));
        }
        let Some(address) = node.address.clone() else {
            return plan.wait(subject, "its address is not known yet", Ends::ByItself);
        };
        let part = self.declared.nodes[name];
        let risk = match &leaves {
            None => Risk::Safe,
            Some(old) => Risk::Destroys { what: format!("what {name} keeps of Swarm {old}") },
        };
        let (node, through, cluster) = (name.clone(), through.clone(), cluster.to_owned());
        plan.steps.push(Planned {
            subject,
            seen: Seen::Engine(engine),
            reason: "the repository has it, and it is not in the Swarm".into(),
            risk,
            step: Step::Join { node, cluster, through, part, address, leaves },
        });
    }

    /// Old entries: of nodes that joined again under a new id, and of nodes that are not declared.
    fn forget(&self, through: &Name, listing: &Listing, plan: &mut Plan) {
        for member in listing.members.iter().filter(|member| !member.up && !member.hostname.is_empty()) {
            let name = self.declared.nodes.keys().find(|name| name.as_str() == member.hostname);
            let reason = match name.map(|name| self.node(name).engine) {
                None => "it is not in the repository",
                Some(Some(EngineState::Member { node_id, cluster, .. }))
                    if cluster == listing.cluster && node_id != member.id =>
                {
                    "the node joined again under a new id"
                }
                Some(_) => continue,
            };
            let (engine, hostname, id) = (EngineKind::Swarm, member.hostname.clone(), member.id.clone());
            plan.steps.push(Planned {
                subject: Subject::Member { engine, hostname: hostname.clone(), id: id.clone() },
                seen: Seen::Member(id.clone()),
                reason: reason.into(),
                risk: Risk::Safe,
                step: Step::Forget { through: through.clone(), hostname, node_id: id },
            });
        }
    }

    fn workloads(&self, through: &Name, listing: &Listing, plan: &mut Plan) {
        let generation_of = |name: &str| {
            let own: BTreeSet<Option<&String>> = listing
                .services
                .iter()
                .filter(|service| service.workload.as_deref() == Some(name))
                .map(|service| service.generation.as_ref())
                .collect();
            let only = if own.len() == 1 { own.first().copied().flatten().cloned() } else { None };
            (!own.is_empty(), only)
        };
        for (name, workload) in &self.declared.workloads {
            let Workload::Ready { generation, file } = workload else { continue };
            let (deployed, seen) = generation_of(name.as_str());
            if seen.as_ref() == Some(generation) {
                continue;
            }
            let (reason, risk) = if deployed {
                ("its file has changed", Risk::Disrupts { what: format!("workload {name} while it is updated") })
            } else {
                ("it is not deployed", Risk::Safe)
            };
            plan.steps.push(Planned {
                subject: workload_subject(name),
                seen: Seen::Generation(seen),
                reason: reason.into(),
                risk,
                step: Step::Deploy {
                    through: through.clone(),
                    workload: name.clone(),
                    generation: generation.clone(),
                    file: Arc::clone(file),
                },
            });
        }
        let deployed: BTreeSet<Name> =
            listing.services.iter().filter_map(|service| service.workload.as_ref()?.parse().ok()).collect();
        for name in deployed.into_iter().filter(|name| !self.declared.workloads.contains_key(name)) {
            let (_, seen) = generation_of(name.as_str());
            plan.steps.push(Planned {
                subject: workload_subject(&name),
                seen: Seen::Generation(seen),
                reason: "it is not in the repository".into(),
                risk: Risk::Disrupts { what: format!("workload {name}, which ends") },
                step: Step::Remove { through: through.clone(), workload: name },
            });
        }
    }
}

fn cannot(unable: &str) -> String {
    format!("it runs {unable}, which cannot leave a Swarm by its name")
}

#[cfg(test)]
mod tests;
