//! What is done about join tokens: whose CA they may say, and that no old one makes a manager.

use super::*;

impl Look<'_> {
    /// Nobody joins before the Swarm's CA is known; and the token with which managers join is rotated when others than
    /// today's managers may know it. Only one that the repository has as a manager does that: an old one would know the new
    /// token, too.
    pub(super) fn tokens(&self, through: &Name, listing: &Listing, plan: &mut Plan) {
        let record = &self.observed.record;
        let written = !plan.steps.iter().any(|planned| matches!(planned.step, Step::Remember { .. }));
        if record.ca.is_none() {
            plan.steps.retain(|planned| !matches!(planned.step, Step::Join { .. }));
            if written {
                let pin = Planned {
                    subject: WHOLE,
                    seen: Seen::Record(record.clone()),
                    reason: "tokens of another CA would lead nodes into another Swarm".into(),
                    risk: Risk::Safe,
                    step: Step::Pin { through: through.clone() },
                };
                plan.steps.insert(0, pin);
            }
            return;
        }
        if record.token == ManagerToken::Kept || !written {
            return;
        }
        if !self.is_manager(through) {
            let reason = "others than its managers may know the token with which managers join: it is rotated when one that the repository has as a manager holds the Swarm's state";
            let ends = self.until_firm(plan);
            return plan.wait(WHOLE, reason, ends);
        }
        // Whoever is a manager until then would learn the new one: it is waited for, and for no longer than it goes.
        let goes = |planned: &&Planned<Step, Seen>| ends_a_manager(planned) && !self.is_in_vain(planned);
        if let Some(goes) = plan.steps.iter().find(goes) {
            let reason = format!(
                "others than its managers may know the token with which managers join: it is rotated when {} is no manager any more",
                goes.subject
            );
            return plan.wait(WHOLE, reason, Ends::ByItself);
        }
        match self.rotates(through, listing) {
            Ok(through) => plan.steps.push(Planned {
                subject: WHOLE,
                seen: Seen::Record(record.clone()),
                reason: "others than its managers may know the token".into(),
                risk: Risk::Safe,
                step: Step::Rotate { through, cluster: listing.cluster.clone() },
            }),
            Err(unable) => {
                let reason = format!(
                    "others than its managers may know the token with which managers join, and {through} runs {unable}, which cannot rotate it"
                );
                plan.wait(WHOLE, reason, Ends::Person(format!("boot {through} anew")));
            }
        }
    }

    /// Whether a step that ends a manager was tried and came to nothing: others that know the token from before are not
    /// to have it for as long as that one stays. The next try lets it out again, and so does its end on the record.
    fn is_in_vain(&self, planned: &Planned<Step, Seen>) -> bool {
        matches!(&planned.seen, Seen::Member(member) if self.observed.in_vain.contains(&member.id))
    }

    /// Who rotates the token: whoever is asked already, or another manager that can.
    fn rotates(&self, through: &Name, listing: &Listing) -> Result<Name, String> {
        let Some(unable) = self.node(through).rotates_not else { return Ok(through.clone()) };
        let can = |(name, node): &(&Name, Node)| {
            let listed = listing.members.iter().any(|member| member.manager && member.hostname == name.as_str());
            let holds = holds(node) == Some((&listing.cluster, true));
            listed && holds && node.rotates_not.is_none() && node.refuses.is_none()
        };
        let other = self.managers().into_iter().find(can).map(|(name, _)| name.clone());
        other.filter(|name| self.observed.record.managers.contains(name)).ok_or(unable)
    }
}

/// Whether somebody who knows the token with which managers join is no manager when this has been done.
pub fn ends_a_manager(planned: &Planned<Step, Seen>) -> bool {
    matches!(planned.step, Step::SetPart { part, .. } if part != EnginePart::Manager)
}

/// Whether others than the Swarm's managers may know the token with which managers join, when this has been begun.
pub fn lets_token_out(planned: &Planned<Step, Seen>) -> bool {
    matches!(planned.step, Step::Join { part: EnginePart::Manager, .. }) || ends_a_manager(planned)
}
