//! What is deployed, changed and removed.

use super::*;

impl Look<'_> {
    pub(super) fn workloads(&self, through: &Name, listing: &Listing, plan: &mut Plan) {
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
