//! What a node lets in, by what the repository declares of it and of the others.
//!
//! ```text
//! ssh         22/tcp                      `firewall.ssh`, where there are keys
//! swarm       7946/tcp+udp, 4789/udp, esp from members: gossip, overlay networks, the same encrypted
//! managers    2377/tcp                    from members, at managers
//! workloads   what they publish           at every member: the routing mesh
//! `[firewall.open.NAME]`                  where it says
//! ```
//! Published ports are in it though Docker takes their packets away before (it rewrites their address in `prerouting`, and
//! they are forwarded, not let in: moby's `programIngress` and the bridge's port mappings): what is declared is let in,
//! whichever way an engine of a later release goes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use bramble_model::engine::EngineKind;
use bramble_model::firewall::{Firewall, Opening, Ports, Rules, Source, Traffic};
use bramble_model::names::Name;
use bramble_model::repository::{Cluster, Node};

/// What the head knows beside the repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fleet {
    /// Where the connection of each node's agent came from last. Who has none yet is let in nowhere but at its declared
    /// address.
    pub places: BTreeMap<Name, Ipv4Addr>,
    /// Managers of the Swarm by the head's own record: also those that are on their way out, through which others come in.
    pub managers: BTreeSet<Name>,
}

const SSH: Traffic = Traffic::Tcp(Ports::one(22));
const MANAGER: Traffic = Traffic::Tcp(Ports::one(2377));
const MEMBER: [Traffic; 4] =
    [Traffic::Tcp(Ports::one(7946)), Traffic::Udp(Ports::one(7946)), Traffic::Udp(Ports::one(4789)), Traffic::Esp];

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

/// What the node lets in; `None` where the repository has no such node.
pub fn of(cluster: &Cluster, node: &Name, fleet: &Fleet) -> Option<Firewall> {
    let own = cluster.nodes.get(node)?;
    if !cluster.firewall.enabled {
        return Some(Firewall::Off);
    }
    let declared = |(name, node): (&Name, &Node)| fleet.places.get(name).copied().into_iter().chain(node.address);
    let is_member =
        |name: &Name, node: &Node| node.engines.of(EngineKind::Swarm).is_some() || fleet.managers.contains(name);
    let mut openings = Vec::new();
    let mut open = |name: Name, traffic: Vec<Traffic>, from: Vec<Source>| {
        openings.push(Opening { name, traffic, from });
    };
    if !cluster.ssh_keys.is_empty() {
        open(name("ssh"), vec![SSH], cluster.firewall.ssh.clone());
    }
    if is_member(node, own) {
        open(name("swarm"), MEMBER.to_vec(), vec![Source::Swarm]);
        let is_declared = cluster.managers(EngineKind::Swarm).any(|manager| manager == node);
        if is_declared || fleet.managers.contains(node) {
            open(name("swarm-managers"), vec![MANAGER], vec![Source::Swarm]);
        }
        for (workload, declared) in &cluster.workloads {
            if !declared.published.is_empty() {
                open(workload.clone(), declared.published.iter().copied().collect(), vec![Source::Anywhere]);
            }
        }
    }
    for (opening, declared) in &cluster.firewall.open {
        if declared.is_for(node, &own.role) {
            open(opening.clone(), declared.traffic.clone(), declared.from.clone());
        }
    }
    // Who needs none of them is told nothing new where somebody moves.
    let needs = |source| openings.iter().any(|opening| opening.from.contains(&source));
    let nodes = match needs(Source::Nodes) {
        true => cluster.nodes.iter().flat_map(declared).collect(),
        false => BTreeSet::new(),
    };
    let swarm = match needs(Source::Swarm) {
        true => {
            let members = cluster.nodes.iter().filter(|(name, node)| is_member(name, node)).flat_map(declared);
            // A manager that has left the repository still hands over.
            members.chain(fleet.managers.iter().filter_map(|name| fleet.places.get(name).copied())).collect()
        }
        false => BTreeSet::new(),
    };
    Some(Firewall::On(Rules { nodes, swarm, openings }))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    const REPOSITORY: &str = r#"
[cluster]
name = "home"
ssh_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAnn ann@home"]

[network]
interface = "eth0"
dhcp = "full"
subnet = "10.77.0.0/24"
pool = "10.77.0.100-10.77.0.199"

[firewall]
ssh = ["10.77.0.0/24", "fd00:77::/64"]

[firewall.open.metrics]
ports = ["9100/tcp"]
from = ["10.77.0.1", "nodes"]

[firewall.open.games]
ports = ["27015-27030/udp"]
roles = ["worker"]

[firewall.open.nfs]
ports = ["2049/tcp"]
from = ["nodes"]
nodes = ["s1"]

[roles.manager]
engine = "manager"
[roles.worker]
engine = "worker"
[roles.storage]
engine = "none"

[nodes.m1]
mac = "52:54:00:00:00:01"
role = "manager"
address = "10.77.0.11"
[nodes.w1]
mac = "52:54:00:00:00:02"
role = "worker"
[nodes.w2]
mac = "52:54:00:00:00:03"
role = "worker"
[nodes.s1]
mac = "52:54:00:00:00:04"
role = "storage"
address = "10.77.0.14"

[workloads.web]
path = "web.yaml"
"#;

    fn cluster(text: &str) -> Cluster {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let web = "services:\n  web:\n    image: a\n    ports: ['80:8080', '53:53/udp']\n";
        std::fs::write(folder.path().join("web.yaml"), web).expect("written");
        Cluster::parse(folder.path(), Path::new("bramble.toml"), text).expect("checks")
    }

    fn fleet(places: &[(&str, [u8; 4])], managers: &[&str]) -> Fleet {
        Fleet {
            places: places.iter().map(|(node, place)| (name(node), Ipv4Addr::from(*place))).collect(),
            managers: managers.iter().map(|node| name(node)).collect(),
        }
    }

    fn rules(cluster: &Cluster, node: &str, fleet: &Fleet) -> Rules {
        match of(cluster, &name(node), fleet) {
            Some(Firewall::On(rules)) => rules,
            other => panic!("{other:?}"),
        }
    }

    fn script(node: &str) -> String {
        let fleet = fleet(&[("m1", [10, 77, 0, 11]), ("w1", [10, 77, 0, 101])], &["m1"]);
        rules(&cluster(REPOSITORY), node, &fleet).script()
    }

    #[test]
    fn a_manager_lets_in_what_its_parts_need() {
        insta::assert_snapshot!(script("m1"));
    }

    #[test]
    fn a_worker_lets_in_what_its_parts_need() {
        insta::assert_snapshot!(script("w1"));
    }

    #[test]
    fn a_node_without_a_part_lets_in_what_is_opened_for_it() {
        insta::assert_snapshot!(script("s1"));
    }

    #[test]
    fn without_ssh_keys_and_workloads_neither_is_let_in_and_a_firewall_can_be_off() {
        let bare = REPOSITORY.replace("ssh_keys", "time_servers").replace("[workloads.web]\npath = \"web.yaml\"\n", "");
        let script = rules(&cluster(&bare), "w1", &Fleet::default()).script();
        assert!(!script.contains("dport 22 ") && !script.contains("dport 80 "), "{script}");
        let off = cluster(&REPOSITORY.replace("[firewall]\n", "[firewall]\nenabled = false\n"));
        assert_eq!(of(&off, &name("w1"), &Fleet::default()), Some(Firewall::Off));
        assert_eq!(of(&off, &name("w9"), &Fleet::default()), None);
    }

    /// A new manager joins through the old one, and the two agree by Raft until that one is a worker.
    #[test]
    fn an_old_manager_is_let_in_and_lets_others_in_until_it_has_handed_over() {
        let moved = REPOSITORY.replace(
            "[nodes.w1]\nmac = \"52:54:00:00:00:02\"\nrole = \"worker\"",
            "[nodes.w1]\nmac = \"52:54:00:00:00:02\"\nrole = \"manager\"",
        );
        let moved = moved
            .replace("role = \"manager\"\naddress = \"10.77.0.11\"", "role = \"storage\"\naddress = \"10.77.0.11\"");
        let cluster = cluster(&moved);
        let places = [("m1", [10, 77, 0, 11]), ("w1", [10, 77, 0, 101]), ("gone", [10, 77, 0, 99])];
        let before = fleet(&places, &["m1", "w1", "gone"]);
        let old = rules(&cluster, "m1", &before);
        assert!(old.script().contains("@swarm tcp dport 2377"), "{}", old.script());
        let new = rules(&cluster, "w1", &before);
        for place in [[10, 77, 0, 11], [10, 77, 0, 99]] {
            assert!(new.swarm.contains(&place.into()), "{new:?}");
        }
        let after = fleet(&places, &["w1"]);
        assert!(!rules(&cluster, "m1", &after).script().contains("ip saddr @swarm "), "it has no part any more");
        assert!(!rules(&cluster, "w1", &after).swarm.contains(&[10, 77, 0, 11].into()));
    }

    proptest! {
        /// Wherever its nodes are: a Swarm's ports are for members alone, and managers' for managers.
        #[test]
        fn no_place_opens_more_than_the_declared_parts_need(
            places in prop::collection::btree_map(prop::sample::select(vec!["m1", "w1", "w2", "s1", "stranger"]), any::<u32>(), 0..5),
            managers in prop::collection::btree_set(prop::sample::select(vec!["m1", "w1", "old"]), 0..3),
        ) {
            let cluster = cluster(REPOSITORY);
            let fleet = Fleet {
                places: places.iter().map(|(node, place)| (name(node), Ipv4Addr::from(*place))).collect(),
                managers: managers.iter().map(|node| name(node)).collect(),
            };
            for (node, declared) in &cluster.nodes {
                let rules = rules(&cluster, node.as_str(), &fleet);
                let member = |name: &Name| {
                    cluster.nodes.get(name).is_some_and(|node| node.engines.of(EngineKind::Swarm).is_some()) || fleet.managers.contains(name)
                };
                for address in &rules.swarm {
                    let is = fleet.places.iter().any(|(name, place)| place == address && member(name))
                        || cluster.nodes.iter().any(|(name, node)| node.address == Some(*address) && member(name));
                    prop_assert!(is, "{} is no member's", address);
                }
                for opening in &rules.openings {
                    if opening.traffic.iter().any(|traffic| MEMBER.contains(traffic) || *traffic == MANAGER) {
                        prop_assert_eq!(&opening.from, &vec![Source::Swarm]);
                        prop_assert!(member(node));
                    }
                    if opening.traffic.contains(&MANAGER) {
                        prop_assert!(declared.is_manager() || fleet.managers.contains(node));
                    }
                }
            }
        }
    }
}
