//! Which Swarm it is, and who may begin one.

use super::*;

/// What a declared manager means for a Swarm that may be begun.
enum Holder {
    /// It holds nothing that anyone wants: it belongs to none, or to one that was given up.
    Blank { leaves: Option<String> },
    /// It holds this Swarm's state.
    Holds { cluster: String, reachable: bool },
    /// What it holds is not known.
    Away { why: &'static str, ends: Ends },
}

impl Look<'_> {
    fn holder(&self, name: &Name, node: &Node) -> Holder {
        match &node.engine {
            Some(EngineState::Alone) => Holder::Blank { leaves: None },
            Some(EngineState::Member { cluster, .. }) if self.is_former(cluster) => {
                Holder::Blank { leaves: Some(cluster.clone()) }
            }
            Some(EngineState::Member { cluster, manager: true, reachable, .. }) => {
                Holder::Holds { cluster: cluster.clone(), reachable: *reachable }
            }
            // A worker of a Swarm holds nothing of its state, and says that there is one.
            Some(EngineState::Member { cluster, .. }) => {
                let act = format!("`bramble engine give-up swarm {cluster}`, if its managers are gone for good");
                Holder::Away { why: "is a worker of a Swarm", ends: Ends::Person(act) }
            }
            Some(EngineState::Starting { .. }) => Holder::Away { why: "starts its Docker", ends: Ends::ByItself },
            Some(EngineState::None) => {
                Holder::Away { why: "has not heard of its part in the Swarm", ends: Ends::ByItself }
            }
            None if node.boots => Holder::Away { why: "boots", ends: Ends::ByItself },
            None => Holder::Away { why: "is not here yet", ends: Ends::Person(format!("switch {name} on")) },
        }
    }

    /// The Swarm that it is; or the step that makes or finds one; or what that waits for.
    pub(super) fn cluster(&self, plan: &mut Plan) -> Option<String> {
        let record = &self.observed.record;
        let holders: Vec<(&Name, Node, Holder)> = self
            .managers()
            .into_iter()
            .map(|(name, node)| {
                let holder = self.holder(name, &node);
                (name, node, holder)
            })
            .collect();
        let without = record.without.clone().unwrap_or_default();
        let counts = |name: &Name| !without.contains(name);
        // The remembered one, for as long as anyone may hold it.
        if let (Some(cluster), None) = (record.cluster(), &record.without) {
            let may_live = holders.iter().any(|(_, _, holder)| match holder {
                Holder::Holds { cluster: own, .. } => own == cluster,
                Holder::Away { .. } => true,
                Holder::Blank { .. } => false,
            });
            if may_live {
                return Some(cluster.to_owned());
            }
        }
        let held: BTreeMap<&str, bool> = holders
            .iter()
            .filter(|(name, ..)| counts(name))
            .filter_map(|(.., holder)| match holder {
                Holder::Holds { cluster, reachable } => Some((cluster.as_str(), *reachable)),
                Holder::Blank { .. } | Holder::Away { .. } => None,
            })
            .fold(BTreeMap::new(), |mut held, (cluster, reachable)| {
                *held.entry(cluster).or_insert(false) |= reachable;
                held
            });
        if held.len() > 1 {
            let list: Vec<&str> = held.keys().copied().collect();
            let reason = format!(
                "managers hold different Swarms ({}), and nobody said which is this cluster's",
                list.join(", ")
            );
            let advice = format!("`bramble engine give-up swarm {}`, or another of them", list[list.len() - 1]);
            plan.wait(WHOLE, reason, Ends::Person(advice));
            return None;
        }
        if let Some((cluster, reachable)) = held.first_key_value() {
            if *reachable {
                plan.steps.push(Planned {
                    subject: WHOLE,
                    seen: Seen::Record(record.clone()),
                    reason: "a manager of this cluster holds it".into(),
                    risk: Risk::Safe,
                    step: Step::Remember { cluster: (*cluster).to_owned() },
                });
            } else {
                let reason = format!("a manager holds Swarm {cluster}, and waits for a majority of its managers");
                plan.wait(WHOLE, reason, self.who_mends(cluster));
            }
            return None;
        }
        self.begin(&holders, &without, plan);
        None
    }

    /// No manager that is here holds a Swarm: one may be begun, where nobody may hold one.
    fn begin(&self, holders: &[(&Name, Node, Holder)], without: &BTreeSet<Name>, plan: &mut Plan) {
        let record = &self.observed.record;
        let (mut blank, mut away) = (Vec::new(), Vec::new());
        for (name, node, holder) in holders {
            match holder {
                Holder::Blank { leaves } => blank.push((*name, node, leaves.clone())),
                Holder::Away { why, ends } if !without.contains(*name) => away.push((*name, *why, ends.clone())),
                Holder::Away { .. } | Holder::Holds { .. } => {}
            }
        }
        let (told, patient, what) = match &record.memory {
            Memory::Never => (None, false, "the Swarm needs a first manager".to_owned()),
            Memory::Begun { node } if record.without.is_none() => {
                (Some(node), false, format!("manager {node} was told to begin the Swarm"))
            }
            Memory::Begun { .. } | Memory::Lost => {
                (None, true, "this head does not remember whether there is a Swarm".to_owned())
            }
            Memory::Swarm { cluster } => (None, true, format!("it may hold the state of Swarm {cluster}")),
        };
        if patient && !away.is_empty() {
            let names: Vec<String> = away.iter().map(|(name, ..)| name.to_string()).collect();
            let anew = format!("`bramble engine start swarm --new --without {}` begins without it", names.join(","));
            for (name, why, ends) in away {
                let ends = match ends {
                    Ends::Person(act) => Ends::Person(format!("{act}, or {anew}")),
                    other => other,
                };
                plan.wait(Subject::node(name), format!("manager {name} {why}; {what}"), ends);
            }
            return;
        }
        let may = |(name, node, leaves): &&(&Name, &Node, Option<String>)| {
            let able = node.unable.is_none() || leaves.is_none();
            told.is_none_or(|told| *name == told) && able && node.address.is_some()
        };
        let Some((name, node, leaves)) = blank.iter().find(may) else {
            for (name, node, leaves) in &blank {
                if let (Some(unable), Some(_)) = (&node.unable, leaves) {
                    plan.wait(Subject::node(name), cannot(unable), Ends::Person(format!("boot {name} anew")));
                }
            }
            for (name, why, ends) in away.into_iter().filter(|(name, ..)| told.is_none_or(|told| *name == told)) {
                plan.wait(Subject::node(name), format!("manager {name} {why}; {what}"), ends);
            }
            if plan.waits.is_empty() && plan.steps.is_empty() {
                let act = match told {
                    Some(told) => format!(
                        "bring {told} back, or `bramble engine start swarm --new --without {told}` begins with another"
                    ),
                    None => "give a node a role with `engine = \"manager\"`".into(),
                };
                plan.wait(WHOLE, what, Ends::Person(act));
            }
            return;
        };
        let (step, risk, subject, seen) = match (&record.memory, &node.engine, &node.address) {
            (Memory::Begun { node: told }, Some(engine), Some(address))
                if told == *name && record.without.is_none() =>
            {
                let risk = match leaves {
                    None => Risk::Safe,
                    Some(old) => Risk::Destroys { what: format!("what {name} keeps of Swarm {old}") },
                };
                let (node, address, leaves) = ((*name).clone(), address.clone(), leaves.clone());
                let seen = Seen::Engine(engine.clone());
                (Step::Initialise { node, address, leaves }, risk, Subject::node(name), seen)
            }
            _ => {
                let risk = match (&record.memory, without.is_empty()) {
                    (Memory::Never | Memory::Begun { .. }, true) => Risk::Safe,
                    (Memory::Lost | Memory::Swarm { .. }, true) => {
                        Risk::Disrupts { what: "what ran in the Swarm before".into() }
                    }
                    (_, false) => {
                        let names: Vec<String> = without.iter().map(Name::to_string).collect();
                        Risk::Destroys { what: format!("the state of a Swarm that {} may hold", names.join(", ")) }
                    }
                };
                (Step::Begin { node: (*name).clone() }, risk, WHOLE, Seen::Record(record.clone()))
            }
        };
        let reason = match &record.memory {
            Memory::Never | Memory::Begun { .. } => "it is the first manager to be ready".to_owned(),
            Memory::Lost => "every manager is here, and none of them holds a Swarm".to_owned(),
            Memory::Swarm { cluster } => {
                format!("every manager is here, and none of them holds Swarm {cluster} any more")
            }
        };
        let reason = if without.is_empty() { reason } else { "a person said to begin anew".into() };
        plan.steps.push(Planned { subject, seen, reason, risk, step });
    }

    /// Why a Swarm that is remembered has no manager that could be asked.
    pub(super) fn without_manager(&self, cluster: &str) -> String {
        let managers = self.managers();
        let holding = managers.iter().filter(|(_, node)| holds(node).is_some_and(|(own, _)| own == cluster));
        let holding: Vec<String> = holding.map(|(name, _)| name.to_string()).collect();
        if holding.is_empty() {
            format!("no manager of Swarm {cluster} is here")
        } else {
            format!("Swarm {cluster} has no leader: {} alone is no majority of its managers", holding.join(", "))
        }
    }

    /// What brings a Swarm back that has no leader: its managers, or a person who gives it up.
    pub(super) fn who_mends(&self, cluster: &str) -> Ends {
        let managers = self.managers();
        let named = |keep: &dyn Fn(&Node) -> bool| -> Vec<String> {
            managers.iter().filter(|(_, node)| keep(node)).map(|(name, _)| name.to_string()).collect()
        };
        let away = named(&|node| node.engine.is_none());
        let holding = named(&|node| holds(node).is_some_and(|(own, _)| own == cluster));
        if !away.is_empty() {
            return Ends::Person(format!("switch {} on", away.join(", ")));
        }
        let blank =
            managers.iter().filter(|(name, node)| matches!(self.holder(name, node), Holder::Blank { .. })).count();
        if blank * 2 >= managers.len() && !holding.is_empty() {
            return Ends::Person(format!(
                "its other managers came back blank: `bramble engine start swarm --new --without {}` begins anew, and gives up what {} holds",
                holding.join(","),
                holding.join(", ")
            ));
        }
        Ends::ByItself
    }
}
