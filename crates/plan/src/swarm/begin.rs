//! Which Swarm it is, and who may begin one.

use super::managers::{Holder, anew, list};
use super::*;

impl Look<'_> {
    /// The Swarm that it is; or the step that makes or finds one; or what that waits for.
    pub(super) fn cluster(&self, plan: &mut Plan) -> Option<ClusterId> {
        let record = &self.observed.record;
        let holders: Vec<(&Name, Node, Holder)> = self
            .may_hold()
            .into_iter()
            .map(|(name, node)| {
                let holder = self.holder(name, &node);
                (name, node, holder)
            })
            .collect();
        let without = record.without.clone().unwrap_or_default();
        // The remembered one, for as long as anyone may hold it.
        if let (Some(cluster), None) = (record.cluster(), &record.without) {
            let may_live = holders.iter().any(|(_, _, holder)| match holder {
                Holder::Holds { cluster: own, .. } => own == cluster,
                Holder::Away { .. } => true,
                Holder::Blank { .. } | Holder::Worker => false,
            });
            if may_live {
                return Some(cluster.clone());
            }
        }
        let held: BTreeMap<&ClusterId, bool> = holders
            .iter()
            .filter_map(|(name, _, holder)| match holder {
                Holder::Holds { cluster, reachable } if !without.contains(*name) && self.counts(name, cluster) => {
                    Some((cluster, *reachable))
                }
                Holder::Holds { .. } | Holder::Blank { .. } | Holder::Worker | Holder::Away { .. } => None,
            })
            .fold(BTreeMap::new(), |mut held, (cluster, reachable)| {
                *held.entry(cluster).or_insert(false) |= reachable;
                held
            });
        if held.len() > 1 {
            let list: Vec<&str> = held.keys().map(|cluster| cluster.as_str()).collect();
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
                    step: Step::Remember { cluster: (*cluster).clone(), managers: self.managers_with(cluster) },
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
                Holder::Blank { leaves } if self.is_manager(name) => blank.push((*name, node, leaves.clone())),
                Holder::Away { .. } | Holder::Holds { .. } if without.contains(*name) => {}
                Holder::Away { why, ends } => away.push((*name, *why, ends.clone())),
                // One that is no manager here, or was none of the Swarm that is remembered: nobody takes its word for
                // the cluster's, and nobody begins another beside it.
                Holder::Holds { cluster, .. } => {
                    let reason = format!("{} holds Swarm {cluster}", self.called(name));
                    let act = format!(
                        "make {name} a manager in the repository until another one has joined, or `bramble engine give-up swarm {cluster}`"
                    );
                    return plan.wait(Subject::node(name), reason, Ends::Person(act));
                }
                Holder::Blank { .. } | Holder::Worker => {}
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
            let names: Vec<&Name> = away.iter().map(|(name, ..)| *name).collect();
            let anew = anew(&names);
            for (name, why, ends) in away {
                let ends = match ends {
                    Ends::Person(act) => Ends::Person(format!("{act}, or {anew}")),
                    other => other,
                };
                plan.wait(Subject::node(name), format!("{} {why}; {what}", self.called(name)), ends);
            }
            return;
        }
        let may = |(name, node, leaves): &&(&Name, &Node, Option<ClusterId>)| {
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
                plan.wait(Subject::node(name), format!("{} {why}; {what}", self.called(name)), ends);
            }
            for (name, ..) in blank.iter().filter(|(_, node, _)| node.address.is_none()) {
                plan.wait(Subject::node(name), "its address is not known yet", Ends::ByItself);
            }
            if plan.waits.is_empty() && plan.steps.is_empty() {
                let act = match told {
                    Some(told) if !self.is_manager(told) => format!(
                        "make {told} a manager in the repository again, or `bramble engine start swarm --new --without {told}` begins with another"
                    ),
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
                        let names: Vec<&Name> = without.iter().collect();
                        Risk::Destroys { what: format!("the state of a Swarm that {} may hold", list(&names)) }
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
}
