//! How nodes' Docker treats containers, and which services do not run so.

use std::collections::BTreeMap;
use std::path::Path;

use super::super::written;
use super::{ByEngine, DockerSettings, EngineKind, EnginePart, Name, Node, Problem, Rules, compose};

/// Where root of a container is nobody on the node.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Remapping {
    Nowhere,
    OnSome,
    /// On all that workloads can run on.
    Everywhere,
}

pub(super) fn remapping(nodes: &BTreeMap<Name, Node>) -> Remapping {
    let settings = nodes.values().filter_map(|node| node.docker).map(|docker| docker.userns_remap == Some(true));
    let (remaps, others): (Vec<bool>, Vec<bool>) = settings.partition(|remaps| *remaps);
    match (remaps.is_empty(), others.is_empty()) {
        (true, _) => Remapping::Nowhere,
        (false, false) => Remapping::OnSome,
        (false, true) => Remapping::Everywhere,
    }
}

impl Rules<'_> {
    /// How the role's nodes treat containers.
    pub(super) fn docker(
        &mut self,
        name: &str,
        role: &written::RoleSection,
        engines: &ByEngine<EnginePart>,
        engine: &written::EngineSection,
    ) -> Option<DockerSettings> {
        if engines.of(EngineKind::Swarm).is_none() {
            let said = [("no_new_privileges", role.no_new_privileges), ("userns_remap", role.userns_remap)].into_iter();
            for (key, _) in said.filter(|(_, value)| value.is_some()) {
                self.wrong(&["roles", name, key], "the role has no part in the Swarm, and so no Docker").help =
                    Some("leave it out, or give the role a part in the Swarm".into());
            }
            return None;
        }
        Some(DockerSettings {
            no_new_privileges: role.no_new_privileges.or(engine.no_new_privileges),
            userns_remap: role.userns_remap.or(engine.userns_remap),
        })
    }

    /// A service on the host's own network does not run where root of a container is nobody on the node (moby's
    /// `verifyPlatformContainerSettings`).
    pub(super) fn on_the_host(
        &mut self,
        key: &[&str],
        path: &Path,
        runs: compose::Runs,
        remapping: Remapping,
    ) -> Result<compose::Runs, Box<Problem>> {
        let Some(service) = runs.on_the_host.first().filter(|_| remapping != Remapping::Nowhere) else {
            return Ok(runs);
        };
        let shown = path.display();
        let message = format!(
            "{shown}: `services.{service}` is on the host's own network, and Docker runs it on no node with `userns_remap`"
        );
        if remapping == Remapping::Everywhere {
            let help = "have a role without `userns_remap`, or publish its ports instead";
            return Err(Box::new(self.source.problem(key, message).help(help)));
        }
        let help = "keep it to other nodes, by `deploy.placement.constraints`";
        self.problems.push(self.source.problem(key, message).help(help).warning());
        Ok(runs)
    }
}
