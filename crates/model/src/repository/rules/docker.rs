//! How nodes' Docker treats containers, and which services do not run so.

use std::collections::BTreeMap;
use std::path::Path;

use super::super::written;
use super::{ByEngine, DockerSettings, EngineKind, EnginePart, Firewall, Name, Node, Problem, Rules, compose};

/// Where root of a container is nobody on the node.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Remapping {
    Nowhere,
    OnSome,
    /// On all that workloads can run on.
    Everywhere,
}

/// What nodes make of services on the host's own network.
#[derive(Clone, Copy)]
pub(super) struct HostNetwork {
    remapping: Remapping,
    /// The firewall is on, and opens nothing on any node that workloads can run on.
    closed: bool,
}

impl HostNetwork {
    pub(super) fn of(nodes: &BTreeMap<Name, Node>, firewall: &Firewall) -> Self {
        let mut members = nodes.iter().filter(|(_, node)| node.engines.of(EngineKind::Swarm).is_some());
        let opens = members.any(|(name, node)| firewall.open.values().any(|open| open.is_for(name, &node.role)));
        HostNetwork { remapping: remapping(nodes), closed: firewall.enabled && !opens }
    }
}

fn remapping(nodes: &BTreeMap<Name, Node>) -> Remapping {
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
    /// `verifyPlatformContainerSettings`). Elsewhere it publishes no ports, and the firewall knows none of it.
    pub(super) fn on_the_host(
        &mut self,
        key: &[&str],
        path: &Path,
        runs: compose::Runs,
        network: HostNetwork,
    ) -> Result<compose::Runs, Box<Problem>> {
        let Some(service) = runs.on_the_host.first() else { return Ok(runs) };
        let HostNetwork { remapping, closed } = network;
        let shown = path.display();
        let closed = closed.then(|| {
            let message = format!(
                "{shown}: `services.{service}` is on the host's own network, and the firewall lets in nothing for it"
            );
            let help = "open its ports on its nodes, by `[firewall.open.NAME]`";
            self.source.problem(key, message).help(help).warning()
        });
        if remapping == Remapping::Nowhere {
            self.problems.extend(closed);
            return Ok(runs);
        }
        let message = format!(
            "{shown}: `services.{service}` is on the host's own network, and Docker runs it on no node with `userns_remap`"
        );
        if remapping == Remapping::Everywhere {
            let help = "have a role without `userns_remap`, or publish its ports instead";
            return Err(Box::new(self.source.problem(key, message).help(help)));
        }
        let help = "keep it to other nodes, by `deploy.placement.constraints`";
        self.problems.push(self.source.problem(key, message).help(help).warning());
        self.problems.extend(closed);
        Ok(runs)
    }

    /// A port of the Swarm's own is every node's already, and no workload's.
    pub(super) fn off_the_swarms_ports(
        &self,
        key: &[&str],
        path: &Path,
        runs: compose::Runs,
    ) -> Result<compose::Runs, Box<Problem>> {
        let Some(own) = runs.published.iter().find(|traffic| traffic.is_of_the_swarm()) else { return Ok(runs) };
        let message = format!("{}: `{own}` is a port of the Swarm's own", path.display());
        Err(Box::new(self.source.problem(key, message).help("publish another one")))
    }
}
