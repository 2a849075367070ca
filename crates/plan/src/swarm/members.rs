//! Each node's place in the Swarm: who joins, who becomes or stays a manager, which old entries go.
//!
//! ```text
//!   off ──▶ alone ──joins──▶ worker ◀──▶ manager          a new manager, first: who may hold the state is written down
//!                                          ▲              an old one goes last, one at a time: when one of the
//!                                          └ joins        repository's is there, and the rest keep a majority
//! ```
//! A member is its node's where the Swarm has it by the node's name *and* the node says its id: either may be anyone's. Who
//! is a manager is the Swarm's word, and so an old one goes whatever it says, or does not say, of itself, and whatever it
//! calls itself ([`super::entries`]). While only old managers can be asked, they hand over, and nothing else goes through
//! them: new managers join or are made.

use bramble_model::agent::swarm::Member;

use super::entries::entry_of;
use super::managers::list;
use super::*;

impl Look<'_> {
    pub(super) fn members(&self, through: &Name, listing: &Listing, plan: &mut Plan) {
        let record = &self.observed.record;
        let managers = self.managers_of(through, listing);
        if managers != record.managers {
            plan.steps.push(Planned {
                subject: WHOLE,
                seen: Seen::Record(record.clone()),
                reason: "who may hold its state is written down before anyone is made a manager".into(),
                risk: Risk::Safe,
                step: Step::Remember { cluster: listing.cluster.clone(), managers },
            });
        }
        let entries = listing.members.iter().map(|member| (&member.id, member)).collect();
        let mut later = Vec::new();
        for (name, part) in &self.declared.nodes {
            if *part == EnginePart::None || self.absence(name, &listing.cluster, Whole::Read(listing), plan) {
                continue;
            }
            let node = self.node(name);
            let Some(engine) = node.engine.clone() else { continue };
            let leaves = match &engine {
                EngineState::Alone => None,
                EngineState::Member { cluster: own, manager, node_id, .. } if *own == listing.cluster => {
                    self.place(name, *part, (node_id, *manager), through, &entries, plan);
                    continue;
                }
                EngineState::Member { cluster: own, .. } if self.is_former(own) => Some(own.clone()),
                EngineState::Member { cluster: own, .. } => {
                    let reason = format!("it belongs to Swarm {own}, which is not this cluster's {}", listing.cluster);
                    let advice = format!("`bramble engine give-up swarm {own}` has it leave that one, data and all");
                    plan.wait(Subject::node(name), reason, Ends::Person(advice));
                    continue;
                }
                EngineState::None | EngineState::Starting { .. } => continue,
            };
            match part {
                // Whoever is not written down yet has its turn when it is.
                EnginePart::Manager if !record.managers.contains(name) => {}
                EnginePart::Worker if !self.is_manager(through) => later.push(name),
                _ => self.join(name, &node, engine, leaves, through, &listing.cluster, plan),
            }
        }
        self.demote(through, listing, plan);
        for name in later {
            let reason =
                "it joins through a manager that the repository has as one, and none holds the Swarm's state yet";
            let ends = self.until_firm(plan);
            plan.wait(Subject::node(name), reason, ends);
        }
    }

    /// A node that says that it is this member, and what it is there.
    fn place(
        &self,
        name: &Name,
        part: EnginePart,
        (node_id, manager): (&MemberId, bool),
        through: &Name,
        entries: &BTreeMap<&MemberId, &Member>,
        plan: &mut Plan,
    ) {
        let subject = Subject::node(name);
        let is_in_its_place = manager == (part == EnginePart::Manager);
        match entries.get(node_id).copied() {
            // Before all else: whoever has taken another's name is in nobody's place.
            Some(entry) if entry.hostname != name.as_str() && !entry.hostname.is_empty() => {
                let reason =
                    format!("it says that it is member {node_id}, which the Swarm has as {:?}", entry.hostname);
                plan.wait(subject, reason, Ends::Person(format!("find out what runs on {name}, and boot it anew")));
            }
            _ if is_in_its_place => {}
            // It has not introduced itself.
            Some(entry) if entry.hostname.is_empty() => {
                plan.wait(subject, "the Swarm does not know its name yet", Ends::ByItself);
            }
            Some(entry) if entry.manager == manager && part == EnginePart::Manager => {
                if self.observed.record.managers.contains(name) {
                    let reason = format!("the repository has it as a {}", word(part));
                    Self::set_part(subject, part, entry, through, (reason, Risk::Safe), plan);
                }
            }
            // What the Swarm has as a manager, and shall be none, goes by what the Swarm has.
            Some(entry) if entry.manager == manager => {}
            Some(_) => {
                let reason = format!("the Swarm has it as a {}, which it does not know yet", word(part));
                plan.wait(subject, reason, Ends::ByItself);
            }
            None => plan.wait(subject, "the Swarm does not list it yet", Ends::ByItself),
        }
    }

    /// Those that are managers, and are none in the repository, or are not in it: one at a time, and none before others can
    /// do without it. One that is down goes, too: its state is on its disk, and it would come back with its vote.
    fn demote(&self, through: &Name, listing: &Listing, plan: &mut Plan) {
        let old = listing.members.iter().filter(|member| member.manager && !self.is_of_today(member, listing));
        let mut old: Vec<&Member> = old.collect();
        // Who is up can do more with its place.
        old.sort_by_key(|member| !member.up);
        let mut one_goes = false;
        for entry in old {
            let subject = self.subject_of(entry, listing);
            let stays = match self.stays(entry, through, listing, plan) {
                None if !one_goes => {
                    one_goes = true;
                    let reason = match self.named(entry).filter(|_| !matches!(subject, Subject::Member { .. })) {
                        Some(name) if self.declared.nodes[name] == EnginePart::None => {
                            "the repository gives it no part in the Swarm".to_owned()
                        }
                        Some(_) => "the repository has it as a worker".to_owned(),
                        None => self.why_old(entry, listing),
                    };
                    let risk = match entry.up {
                        true => {
                            Risk::Disrupts { what: "the majority of the Swarm's managers, which is one less".into() }
                        }
                        // It counts for the number of which a majority has to be up, and for nothing else.
                        false => Risk::Safe,
                    };
                    Self::set_part(subject, EnginePart::Worker, entry, through, (reason, risk), plan);
                    continue;
                }
                None => ("it stays a manager until the one before it is none".to_owned(), Ends::ByItself),
                Some(stays) => stays,
            };
            plan.wait(subject, stays.0, stays.1);
        }
    }

    /// Whether one that the repository has as a manager holds the Swarm's state: by its own word, and by the Swarm's.
    fn is_firm(&self, listing: &Listing) -> bool {
        self.managers().iter().any(|(name, node)| match &node.engine {
            Some(EngineState::Member { cluster, node_id, manager: true, reachable: true }) => {
                let own = |member: &Member| member.id == *node_id && member.hostname == name.as_str();
                *cluster == listing.cluster && listing.members.iter().any(|member| own(member) && member.manager)
            }
            _ => false,
        })
    }

    /// Whether this plan brings a manager.
    fn comes(plan: &Plan) -> bool {
        plan.steps.iter().any(|planned| match &planned.step {
            Step::Join { part, .. } | Step::SetPart { part, .. } => *part == EnginePart::Manager,
            Step::Remember { .. } => true,
            _ => false,
        })
    }

    /// Until when none of the repository's managers holds the Swarm's state: what those wait for is what is waited for.
    pub(super) fn until_firm(&self, plan: &Plan) -> Ends {
        let managers = self.managers();
        let acts = plan.waits.iter().filter_map(|wait| match &wait.ends {
            Ends::Person(act) if managers.iter().any(|(name, _)| wait.subject == Subject::node(name)) => {
                Some(act.as_str())
            }
            Ends::Person(_) | Ends::At(_) | Ends::ByItself => None,
        });
        let acts: Vec<&str> = acts.collect();
        match acts.is_empty() {
            _ if managers.is_empty() => Ends::Person("give a node a role with `engine = \"manager\"`".into()),
            false if !Self::comes(plan) => Ends::Person(acts.join("; ")),
            _ => Ends::ByItself,
        }
    }

    /// Why an old manager stays one, and until when. One that is down is no help to anyone who comes.
    fn stays(&self, entry: &Member, through: &Name, listing: &Listing, plan: &Plan) -> Option<(String, Ends)> {
        let may_go = match entry.up {
            true => self.is_firm(listing) && !Self::comes(plan),
            false => self.is_manager(through),
        };
        if !may_go {
            let reason = "it stays a manager until one that the repository has as a manager holds the Swarm's state";
            return Some((reason.to_owned(), self.until_firm(plan)));
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

    fn set_part(
        subject: Subject,
        part: EnginePart,
        entry: &Member,
        through: &Name,
        (reason, risk): (String, Risk),
        plan: &mut Plan,
    ) {
        let (hostname, node_id) = (entry.hostname.to_string(), entry.id.clone());
        plan.steps.push(Planned {
            subject,
            seen: Seen::Member(entry.clone()),
            reason,
            risk,
            step: Step::SetPart { through: through.clone(), hostname, node_id, part },
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

    /// Old entries: of nodes that joined again under a new id, and of nodes that are not declared. One that is a manager
    /// loses its vote first.
    pub(super) fn forget(&self, through: &Name, listing: &Listing, plan: &mut Plan) {
        let old = |member: &&Member| !member.up && !member.manager && !member.hostname.is_empty();
        for member in listing.members.iter().filter(old) {
            let reason = match self.named(member).map(|name| self.node(name).engine) {
                None if self.claimed(member, &listing.cluster).is_some() => continue,
                None => "it is not in the repository",
                Some(Some(EngineState::Member { node_id, cluster, .. }))
                    if cluster == listing.cluster && node_id != member.id && is_listed(&node_id, member, listing) =>
                {
                    "the node joined again under a new id"
                }
                Some(_) => continue,
            };
            plan.steps.push(Planned {
                subject: entry_of(member),
                seen: Seen::Member(member.clone()),
                reason: reason.into(),
                risk: Risk::Safe,
                step: Step::Forget {
                    through: through.clone(),
                    hostname: member.hostname.to_string(),
                    node_id: member.id.clone(),
                },
            });
        }
    }
}

/// Whether the Swarm has a member of this id by the same name as the old one.
fn is_listed(id: &MemberId, old: &Member, listing: &Listing) -> bool {
    listing.members.iter().any(|member| member.id == *id && member.hostname == old.hostname)
}
