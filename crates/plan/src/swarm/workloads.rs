//! What is deployed, changed and removed.

use bramble_model::agent::swarm::Service;

use super::*;

/// A workload of the snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Workload {
    /// `generation` is what this content is called, `file` the content: it travels with the step. `services` are the
    /// names that the file gives them.
    Ready { generation: Generation, file: Arc<str>, services: BTreeSet<String> },
    /// Its own files do not check: what is deployed stays.
    Sick { problem: String },
}

impl Workload {
    /// Whether it is deployed as the snapshot has it: every service of the file, and all that is there of this content.
    /// Docker makes one after the other, and may end between two.
    pub fn is_deployed(&self, name: &Name, listed: &[Service]) -> bool {
        match self {
            Workload::Ready { generation, services, .. } => {
                let deployed = Deployed::of(name.as_str(), listed);
                deployed.is_of(generation) && deployed.lacks(name, services).next().is_none()
            }
            Workload::Sick { .. } => false,
        }
    }
}

/// What Docker calls a service of a stack.
pub(super) fn listed_as(workload: &Name, service: &str) -> String {
    format!("{workload}_{service}")
}

/// What there is of a workload.
struct Deployed<'a> {
    services: BTreeSet<&'a str>,
    generations: BTreeSet<Option<&'a Label>>,
}

impl<'a> Deployed<'a> {
    fn of(workload: &str, listed: &'a [Service]) -> Self {
        let own: Vec<&Service> =
            listed.iter().filter(|service| service.workload.as_deref() == Some(workload)).collect();
        Deployed {
            services: own.iter().map(|service| service.name.as_str()).collect(),
            generations: own.iter().map(|service| service.generation.as_ref()).collect(),
        }
    }

    /// All that there is, is of this content.
    fn is_of(&self, generation: &Generation) -> bool {
        let own = |label: &Option<&Label>| matches!(label, Some(Label::Generation(own)) if own == generation);
        !self.generations.is_empty() && self.generations.iter().all(own)
    }

    /// Services of the file that are not there.
    fn lacks<'b>(&self, workload: &Name, services: &'b BTreeSet<String>) -> impl Iterator<Item = &'b str> {
        services.iter().map(String::as_str).filter(|service| !self.services.contains(&*listed_as(workload, service)))
    }

    fn seen(&self) -> Seen {
        let several = self.generations.len() > 1;
        let only = self.generations.first().filter(|_| !several).copied().flatten();
        Seen::Generation { generation: only.cloned(), several }
    }
}

impl Look<'_> {
    /// While the Swarm can be asked through an old manager only, nothing is deployed through it.
    pub(super) fn withheld(&self, through: &Name, plan: &mut Plan) {
        if !self.declared.workloads.is_empty() {
            let reason = format!("no workload is deployed through {through}, which the repository has as no manager");
            let ends = self.until_firm(plan);
            plan.wait(WHOLE, reason, ends);
        }
    }

    pub(super) fn workloads(&self, through: &Name, listing: &Listing, plan: &mut Plan) {
        for (name, workload) in &self.declared.workloads {
            let Workload::Ready { generation, file, services } = workload else { continue };
            let deployed = Deployed::of(name.as_str(), &listing.services);
            let missing: Vec<&str> = deployed.lacks(name, services).collect();
            let (reason, risk) = if deployed.services.is_empty() {
                ("it is not deployed".to_owned(), Risk::Safe)
            } else if !deployed.is_of(generation) {
                let what = format!("workload {name} while it is updated");
                ("its file has changed".to_owned(), Risk::Disrupts { what })
            } else if !missing.is_empty() {
                (format!("it was deployed in part, without {}", missing.join(", ")), Risk::Safe)
            } else {
                continue;
            };
            plan.steps.push(Planned {
                subject: workload_subject(name),
                seen: deployed.seen(),
                reason,
                risk,
                step: Step::Deploy {
                    through: through.clone(),
                    workload: name.clone(),
                    generation: generation.clone(),
                    file: Arc::clone(file),
                    services: services.clone(),
                    encrypted: self.declared.encrypted,
                },
            });
        }
        let deployed: BTreeSet<Name> =
            listing.services.iter().filter_map(|service| service.workload.as_ref()?.parse().ok()).collect();
        for name in deployed.into_iter().filter(|name| !self.declared.workloads.contains_key(name)) {
            plan.steps.push(Planned {
                subject: workload_subject(&name),
                seen: Deployed::of(name.as_str(), &listing.services).seen(),
                reason: "it is not in the repository".into(),
                risk: Risk::Disrupts { what: format!("workload {name}, which ends") },
                step: Step::Remove { through: through.clone(), workload: name },
            });
        }
    }
}
