//! Each node's place in the Swarm: who joins, who becomes or stays a manager, which old entries go.
//!
//! ```text
//!   off ──▶ alone ──joins──▶ worker ◀──▶ manager          a new manager, first: who may hold the state is written down
//!                                          ▲              an old one goes last, one at a time: when one of the
//!                                          └ joins        repository's is there, and the rest keep a majority
//! ```

use bramble_model::agent::swarm::Member;

use super::managers::list;
use super::*;

impl Look<'_> {
    pub(super) fn members(&self, through: &Name, listing: &Listing, plan: &mut Plan) {
        let record = &self.observed.record;
        let managers = self.managers_of(listing);
        if managers != record.managers {
            plan.steps.push(Planned {
                subject: WHOLE,
                seen: Seen::Record(record.clone()),
                reason: "who may hold its state is written down before anyone is made a manager".into(),
                risk: Risk::Safe,
                step: Step::Remember { cluster: listing.cluster.clone(), managers },
            });
        }
        let mut old = Vec::new();
        for (name, part) in &self.declared.nodes {
            if *part == EnginePart::None || self.absence(name, &listing.cluster, Whole::Read(listing), plan) {
                continue;
            }
            let node = self.node(name);
            let Some(engine) = node.engine.clone() else { continue };
            let subject = Subject::node(name);
            // Whoever is not written down yet has its turn when it is.
            let may = *part != EnginePart::Manager || record.managers.contains(name);
            match &engine {
                EngineState::Member { cluster: own, manager, node_id, .. } if *own == listing.cluster => {
                    if *manager == (*part == EnginePart::Manager) {
                        continue;
                    }
                    match listing.members.iter().find(|member| member.id == *node_id) {
                        Some(entry) if entry.manager == *manager && *part == EnginePart::Manager => {
                            if may {
                                self.set_part(name, *part, entry, through, Risk::Safe, plan);
                            }
                        }
                        Some(entry) if entry.manager == *manager => old.push((name, entry)),
                        Some(_) => {
                            let reason = format!("the Swarm has it as a {}, which it does not know yet", word(*part));
                            plan.wait(subject, reason, Ends::ByItself);
                        }
                        None => plan.wait(subject, "the Swarm does not list it yet", Ends::ByItself),
                    }
                }
                EngineState::Alone if may => self.join(name, &node, engine, None, through, &listing.cluster, plan),
                EngineState::Member { cluster: own, .. } if self.is_former(own) => {
                    if may {
                        let own = own.clone();
                        self.join(name, &node, engine, Some(own), through, &listing.cluster, plan);
                    }
                }
                EngineState::Member { cluster: own, .. } => {
                    let reason = format!("it belongs to Swarm {own}, which is not this cluster's {}", listing.cluster);
                    let advice = format!("`bramble engine give-up swarm {own}` has it leave that one, data and all");
                    plan.wait(subject, reason, Ends::Person(advice));
                }
                EngineState::Alone | EngineState::None | EngineState::Starting { .. } => {}
            }
        }
        self.demote(&old, through, listing, plan);
    }

    /// Those that are managers and shall be workers: one at a time, and none before others can do without it.
    fn demote(&self, old: &[(&Name, &Member)], through: &Name, listing: &Listing, plan: &mut Plan) {
        let mut one_goes = false;
        for (name, entry) in old {
            let stays = match self.stays(entry, listing, plan) {
                None if !one_goes => {
                    one_goes = true;
                    let what = "the majority of the Swarm's managers, which is one less".into();
                    self.set_part(name, EnginePart::Worker, entry, through, Risk::Disrupts { what }, plan);
                    continue;
                }
                None => ("it stays a manager until the one before it is none".to_owned(), Ends::ByItself),
                Some(stays) => stays,
            };
            plan.wait(Subject::node(name), stays.0, stays.1);
        }
    }

    /// Why a manager that the repository has as a worker stays one, and until when.
    fn stays(&self, entry: &Member, listing: &Listing, plan: &Plan) -> Option<(String, Ends)> {
        let managers = self.managers();
        let firm = managers.iter().any(|(_, node)| holds(node) == Some((&listing.cluster, true)));
        let comes = plan.steps.iter().any(|planned| match &planned.step {
            Step::Join { part, .. } | Step::SetPart { part, .. } => *part == EnginePart::Manager,
            Step::Remember { .. } => true,
            _ => false,
        });
        if !firm || comes {
            let reason = "it stays a manager until one that the repository has as a manager holds the Swarm's state";
            // What those wait for is what this one waits for.
            let acts = plan.waits.iter().filter_map(|wait| match &wait.ends {
                Ends::Person(act) if managers.iter().any(|(name, _)| wait.subject == Subject::node(name)) => {
                    Some(act.as_str())
                }
                Ends::Person(_) | Ends::At(_) | Ends::ByItself => None,
            });
            let acts: Vec<&str> = acts.collect();
            let ends = match acts.is_empty() {
                _ if managers.is_empty() => Ends::Person("give a node a role with `engine = \"manager\"`".into()),
                false if !comes => Ends::Person(acts.join("; ")),
                _ => Ends::ByItself,
            };
            return Some((reason.to_owned(), ends));
        }
        let others = listing.members.iter().filter(|member| member.manager && member.id != entry.id);
        let (up, down): (Vec<&Member>, Vec<&Member>) = others.partition(|member| member.up);
        if up.len() > down.len() {
            return None;
        }
        let off = self.declared.nodes.keys().filter(|name| {
            down.iter().any(|member| member.hostname == name.as_str()) && self.node(name).engine.is_none()
        });
        let off: Vec<&Name> = off.collect();
        let ends = match off.is_empty() {
            // Their old entries go.
            true => Ends::ByItself,
            false => Ends::Person(format!("switch {} on", list(&off))),
        };
        Some(("it stays a manager: without it, too few of the Swarm's managers are up".to_owned(), ends))
    }

    fn set_part(&self, name: &Name, part: EnginePart, entry: &Member, through: &Name, risk: Risk, plan: &mut Plan) {
        plan.steps.push(Planned {
            subject: Subject::node(name),
            seen: Seen::Member(entry.clone()),
            reason: format!("the repository has it as a {}", word(part)),
            risk,
            step: Step::SetPart { through: through.clone(), node: name.clone(), node_id: entry.id.clone(), part },
        });
    }

    #[expect(clippy::too_many_arguments, reason = "all that a step to join is made of")]
    fn join(
        &self,
        name: &Name,
        node: &Node,
        engine: EngineState,
        leaves: Option<ClusterId>,
        through: &Name,
        cluster: &ClusterId,
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
        let (node, through, cluster) = (name.clone(), through.clone(), cluster.clone());
        plan.steps.push(Planned {
            subject,
            seen: Seen::Engine(engine),
            reason: "the repository has it, and it is not in the Swarm".into(),
            risk,
            step: Step::Join { node, cluster, through, part, address, leaves },
        });
    }

    /// Old entries: of nodes that joined again under a new id, and of nodes that are not declared.
    pub(super) fn forget(&self, through: &Name, listing: &Listing, plan: &mut Plan) {
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
                seen: Seen::Member(member.clone()),
                reason: reason.into(),
                risk: Risk::Safe,
                step: Step::Forget { through: through.clone(), hostname, node_id: id },
            });
        }
    }
}
