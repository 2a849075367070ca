//! Docker Swarm on the fleet: who starts it, who joins, which dead entries go, what is deployed.
//!
//! The Swarm's own Raft decides everything inside; this plan decides which node is asked to do what. What makes
//! it careful is [`Memory`]: a Swarm's state lies with its managers, whatever they are declared as by now, so none is
//! begun while any of them may hold one, and none is left that nobody has given up.
//!
//! ```text
//!  Never ──a manager is ready──▶ Begun ──it has begun──▶ Swarm ◀──a manager holds one── Lost
//!    │        (it, and no other, may begin)  ▲             │                             │
//!    │                                       └─────────────┴── every manager is blank ───┘
//!    └── a manager holds one ──▶ Swarm                          (or a person: start --new --without …)
//! ```

mod begin;
mod entries;
mod managers;
mod members;
mod record;
mod tokens;
mod workloads;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bramble_model::agent::Refuses;
use bramble_model::agent::swarm::{Label, Member, Observed as Listing};
use bramble_model::engine::{EngineKind, EnginePart, EngineState};
use bramble_model::names::{ClusterId, Digest, Generation, MemberId, Name};
use bramble_model::section::{Ends, Risk};
use bramble_model::subject::Subject;
use bramble_model::timeline::Millis;

pub use self::managers::to_ask;
pub use self::record::{ManagerToken, Memory, NoToken, Record};
pub use self::tokens::{ends_a_manager, lets_token_out};
pub use self::workloads::Workload;
use crate::contract::{self, Planned, Planner};
use crate::engine::Advice;
use crate::lead;

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
    /// Networks that are made for workloads are encrypted between nodes.
    pub encrypted: bool,
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
    /// Members that were to be made no managers any more, where the last try failed.
    pub in_vain: BTreeSet<MemberId>,
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
    /// What its agent runs, where that cannot rotate the token with which managers join.
    pub rotates_not: Option<String>,
    /// It refuses this head's lead: nothing is asked of it.
    pub refuses: Option<Refuses>,
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

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Write down who may begin, before it is asked to.
    Begin {
        node: Name,
    },
    /// Write down which Swarm it is, and who may hold its state.
    Remember {
        cluster: ClusterId,
        managers: BTreeSet<Name>,
    },
    Initialise {
        node: Name,
        address: String,
        leaves: Option<ClusterId>,
    },
    Join {
        node: Name,
        cluster: ClusterId,
        through: Name,
        part: EnginePart,
        address: String,
        leaves: Option<ClusterId>,
    },
    /// Write down whose CA the Swarm's join tokens say.
    Pin {
        through: Name,
    },
    /// Make the token worthless with which managers have joined.
    Rotate {
        through: Name,
        cluster: ClusterId,
    },
    SetPart {
        through: Name,
        hostname: String,
        node_id: MemberId,
        part: EnginePart,
    },
    Forget {
        through: Name,
        hostname: String,
        node_id: MemberId,
    },
    Deploy {
        through: Name,
        workload: Name,
        generation: Generation,
        file: Arc<str>,
        /// By their names in the file.
        services: BTreeSet<String>,
        /// Networks that are made for it are encrypted.
        encrypted: bool,
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
            Step::Remember { cluster, managers } => {
                write!(f, "is {cluster}, whose state {} may hold", managers::list(&managers.iter().collect::<Vec<_>>()))
            }
            Step::Initialise { leaves: None, .. } => f.write_str("starts the Swarm"),
            Step::Initialise { leaves: Some(old), .. } => write!(f, "leaves Swarm {old} and starts a new one"),
            Step::Join { through, leaves: None, part, .. } => {
                write!(f, "joins the Swarm as {} through {through}", word(*part))
            }
            Step::Join { through, leaves: Some(old), part, .. } => {
                write!(f, "leaves Swarm {old} and joins as {} through {through}", word(*part))
            }
            Step::Pin { through } => write!(f, "its CA is pinned, as the join tokens of {through} have it"),
            Step::Rotate { through, .. } => {
                write!(f, "the token with which managers join is rotated through {through}")
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
    /// A member, as the Swarm lists it.
    Member(Member),
    /// The one generation that the workload's services have, where it is one, and whether they are of several.
    Generation { generation: Option<Label>, several: bool },
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
            // It says what it sees to anyone, and does nothing for this head.
            Some(View::Read { through, .. }) if look.node(through).refuses.is_some() => {
                look.absent(&cluster, &mut plan);
                let reason = format!("manager {through}, through which the Swarm is asked, refuses this head's lead");
                plan.wait(WHOLE, reason, Ends::Person(lead::ADVICE.into()));
            }
            Some(View::Read { through, listing }) if listing.cluster == cluster && look.asks(through) => {
                look.members(through, listing, &mut plan);
                if look.is_manager(through) {
                    look.forget(through, listing, &mut plan);
                    look.workloads(through, listing, &mut plan);
                } else {
                    look.withheld(through, &mut plan);
                }
                look.tokens(through, listing, &mut plan);
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
            Step::Remember { cluster, managers } => {
                observed.record.remember(cluster, managers.clone());
                // Whoever holds it is asked from now on.
                let known = matches!(&observed.view, Some(View::Read { listing, .. }) if listing.cluster == *cluster);
                let made = |name: &Name| {
                    managers.contains(name) && holds(&observed.nodes[name]).is_some_and(|(own, _)| own == cluster)
                };
                let holder = observed.nodes.keys().find(|name| made(name)).cloned();
                if let (Some(through), false) = (holder, known) {
                    let members = observed.nodes.iter().filter_map(|(name, node)| match &node.engine {
                        Some(EngineState::Member { cluster: own, node_id, manager, .. }) if own == cluster => {
                            Some(entry(node_id.clone(), name, *manager))
                        }
                        _ => None,
                    });
                    let members = members.collect();
                    let listing = Listing { cluster: cluster.clone(), members, services: Vec::new() };
                    observed.view = Some(View::Read { through, listing });
                }
            }
            Step::Initialise { node, .. } => {
                let cluster = "new".parse().expect("three letters are an id");
                let engine = member(cluster, foreseen(node), true);
                observed.nodes.entry(node.clone()).or_default().engine = Some(engine);
            }
            Step::Join { node, cluster, part, .. } => {
                let (id, manager) = (foreseen(node), *part == EnginePart::Manager);
                if manager {
                    observed.record.token = ManagerToken::Out;
                }
                let engine = member(cluster.clone(), id.clone(), manager);
                observed.nodes.entry(node.clone()).or_default().engine = Some(engine);
                if let Some(View::Read { through, listing }) = &mut observed.view {
                    listing.members.push(entry(id, node, manager));
                    // Only one of today's becomes a manager, and old ones are not asked beside it.
                    if manager {
                        *through = node.clone();
                    }
                }
            }
            Step::Pin { .. } => observed.record.ca = Some(Digest([0; 32])),
            Step::Rotate { .. } => observed.record.token = ManagerToken::Kept,
            Step::SetPart { hostname, node_id, part, .. } => {
                let is_manager = *part == EnginePart::Manager;
                if !is_manager {
                    observed.record.token = ManagerToken::Out;
                }
                if let Some(View::Read { listing, .. }) = &mut observed.view {
                    let own = listing.members.iter_mut().filter(|member| member.id == *node_id);
                    own.for_each(|member| member.manager = is_manager);
                }
                // Whoever says that it is this member, whatever the Swarm calls it.
                let cluster = observed.record.cluster();
                let is_it = |node: &Node| matches!(&node.engine, Some(EngineState::Member { node_id: own, cluster: of, .. }) if own == node_id && cluster == Some(of));
                let mut own: Vec<_> = observed.nodes.iter_mut().filter(|(_, node)| is_it(node)).collect();
                own.sort_by_key(|(name, _)| name.as_str() != hostname);
                let node = own.into_iter().next();
                let Some((name, Node { engine: Some(EngineState::Member { manager, reachable, .. }), .. })) = node
                else {
                    return;
                };
                let name = name.clone();
                *manager = is_manager;
                let asked = (is_manager && *reachable).then(|| name.clone());
                // Another one is asked where this one was; and old ones are not asked beside one of today's.
                if let Some(View::Read { through, listing }) = &mut observed.view {
                    let another = || {
                        let holding = |node: &Node| holds(node) == Some((&listing.cluster, true));
                        let other = observed.nodes.iter().find(|(_, node)| holding(node));
                        other.filter(|_| *through == name).map(|(name, _)| name.clone())
                    };
                    if let Some(other) = asked.or_else(another) {
                        *through = other;
                    }
                }
            }
            Step::Forget { node_id, .. } => {
                if let Some(View::Read { listing, .. }) = &mut observed.view {
                    listing.members.retain(|member| member.id != *node_id);
                }
            }
            Step::Deploy { workload, generation, services, .. } => {
                if let Some(View::Read { listing, .. }) = &mut observed.view {
                    listing.services.retain(|service| service.workload.as_deref() != Some(workload.as_str()));
                    let new = services.iter().map(|service| bramble_model::agent::swarm::Service {
                        workload: Some(workload.as_str().into()),
                        generation: Some(generation.clone().into()),
                        name: workloads::listed_as(workload, service).into(),
                        wanted: 1,
                        running: 1,
                        ports: Vec::new(),
                        replicas: Vec::new(),
                    });
                    listing.services.extend(new);
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

fn member(cluster: ClusterId, node_id: MemberId, manager: bool) -> EngineState {
    EngineState::Member { cluster, node_id, manager, reachable: true }
}

/// What a node is called in a Swarm that it has not joined yet.
fn foreseen(node: &Name) -> MemberId {
    format!("new-{node:.60}").parse().expect("a name's letters are an id's, and it is cut to an id's length")
}

fn entry(id: MemberId, hostname: &Name, manager: bool) -> Member {
    Member { id, hostname: hostname.as_str().into(), manager, up: true }
}

fn workload_subject(name: &Name) -> Subject {
    Subject::workload(EngineKind::Swarm, name)
}

/// The Swarm whose state a node holds as a manager, and whether it has a majority.
fn holds(node: &Node) -> Option<(&ClusterId, bool)> {
    match &node.engine {
        Some(EngineState::Member { cluster, manager: true, reachable, .. }) => Some((cluster, *reachable)),
        _ => None,
    }
}

/// What the Swarm as a whole says, where one node is not there.
#[derive(Clone, Copy)]
enum Whole<'a> {
    Read(&'a Listing),
    /// It says nothing, until this.
    Leaderless(&'a Ends),
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

    /// Whether this node is asked of the remembered Swarm.
    fn asks(&self, through: &Name) -> bool {
        let engine_of = |name: &Name| self.observed.nodes.get(name)?.engine.clone();
        to_ask(self.declared, &self.observed.record, engine_of).contains(through)
    }

    /// Declared managers, as they are.
    fn managers(&self) -> Vec<(&Name, Node)> {
        let declared = self.declared.nodes.iter().filter(|(_, part)| **part == EnginePart::Manager);
        declared.map(|(name, _)| (name, self.node(name))).collect()
    }

    fn is_former(&self, cluster: &ClusterId) -> bool {
        self.observed.record.former.contains(cluster)
    }

    /// Waits for each node whose agent or engine is not there.
    fn absent(&self, cluster: &ClusterId, plan: &mut Plan) {
        let ends = self.who_mends(cluster);
        for (name, part) in &self.declared.nodes {
            if *part != EnginePart::None {
                self.absence(name, cluster, Whole::Leaderless(&ends), plan);
            }
        }
    }

    /// Waits for a node whose agent or engine is not there, or which refuses this head; `true` where it did.
    fn absence(&self, name: &Name, cluster: &ClusterId, whole: Whole<'_>, plan: &mut Plan) -> bool {
        let node = self.node(name);
        if let Some(refuses) = node.refuses {
            plan.wait(Subject::node(name), refuses.to_string(), Ends::Person(lead::ADVICE.into()));
            return true;
        }
        match &node.engine {
            None if node.boots => plan.wait(Subject::node(name), "it boots", Ends::ByItself),
            None => {
                plan.wait(Subject::node(name), "its agent is not connected", Ends::Person(format!("switch {name} on")));
            }
            Some(EngineState::None) => {
                plan.wait(Subject::node(name), "it has not heard of its part in the Swarm", Ends::ByItself);
            }
            Some(EngineState::Starting { waiting_for }) => {
                plan.wait(Subject::node(name), format!("its engine waits for {waiting_for}"), Ends::ByItself);
            }
            Some(EngineState::Member { cluster: own, node_id, reachable: false, .. }) if own == cluster => {
                let (reason, ends) = match whole {
                    Whole::Read(listing) if listing.members.iter().all(|member| member.id != *node_id) => {
                        let act = format!("`docker swarm leave --force` on {name}, or boot it blank");
                        ("it is in the Swarm, which has no entry of it any more", Ends::Person(act))
                    }
                    Whole::Read(_) => ("it is in the Swarm, and does not reach it yet", Ends::ByItself),
                    Whole::Leaderless(ends) => {
                        ("it is in the Swarm, and does not reach a majority of its managers", ends.clone())
                    }
                };
                plan.wait(Subject::node(name), reason, ends);
            }
            _ => return false,
        }
        true
    }
}

fn cannot(unable: &str) -> String {
    format!("it runs {unable}, which cannot leave a Swarm by its name")
}

#[cfg(test)]
mod tests;
