//! The rules of `[network]`.

use super::*;

/// Words of `network.dhcp`.
#[derive(Clone, Copy)]
enum Mode {
    Proxy,
    Router,
    Full,
}

impl Rules<'_> {
    pub(super) fn network(&mut self, network: &written::NetworkSection) -> Option<Network> {
        let interfaces = network.interface.as_slice();
        if interfaces.is_empty() {
            self.wrong(&["network", "interface"], "is missing").help = Some("add `interface = …`".into());
            return None;
        }
        for interface in interfaces {
            if interface.is_empty() || interface.len() > 15 || interface.contains(['/', ' ', ':']) {
                self.wrong(
                    &["network", "interface"],
                    format!(
                        "`{interface}`: expected the name of a network interface, 1 to 15 characters, such as \"eth0\""
                    ),
                );
            }
        }
        let modes = [("proxy", Mode::Proxy), ("router", Mode::Router), ("full", Mode::Full)];
        let dhcp = match self.word(&["network", "dhcp"], network.dhcp.as_deref(), "DHCP mode", &modes) {
            Mode::Full => Dhcp::Full(self.subnets(network)?),
            Mode::Proxy => self.without_addresses(network, "proxy", Dhcp::Proxy),
            Mode::Router => self.without_addresses(network, "router", Dhcp::Router),
        };
        let relays = match &dhcp {
            Dhcp::Full(subnets) => subnets[0].relays.clone(),
            Dhcp::Proxy | Dhcp::Router => self.relays(&["network"], &network.relays),
        };
        let ports = [
            ("http_port", network.http_port.unwrap_or(7080)),
            ("agent_port", network.agent_port.unwrap_or(7443)),
            ("https_port", network.https_port.unwrap_or(7444)),
        ];
        for (index, (key, port)) in ports.iter().enumerate() {
            if let Some((other, _)) = ports[..index].iter().find(|(_, taken)| taken == port) {
                self.wrong(&["network", key], format!("port {port} is already the `{other}`"));
            }
        }
        let [(_, http_port), (_, agent_port), (_, https_port)] = ports;
        let pixiecore = network.pixiecore.as_ref().and_then(|text| self.address(&["network", "pixiecore"], text));
        Some(Network {
            interfaces: interfaces.to_vec(),
            dhcp,
            pixiecore,
            relays,
            http_port,
            agent_port,
            https_port,
            no_ipv6_router: network.no_ipv6_router.unwrap_or(false),
        })
    }

    /// A mode in which the head hands out no addresses.
    fn without_addresses(&mut self, network: &written::NetworkSection, mode: &str, dhcp: Dhcp) -> Dhcp {
        let only_full = [
            ("subnet", network.subnet.is_some()),
            ("pool", network.pool.is_some()),
            ("router", network.router.is_some()),
            ("dns", !network.dns.is_empty()),
            ("lease_seconds", network.lease_seconds.is_some()),
            ("subnets", !network.subnets.is_empty()),
        ];
        for (key, written) in only_full {
            if written {
                self.wrong(
                    &["network", key],
                    format!("has no effect while `dhcp` is \"{mode}\": the home router hands out addresses"),
                )
                .help = Some("remove it, or set `dhcp = \"full\"`".into());
            }
        }
        dhcp
    }

    pub(super) fn cidr(&mut self, key: &[&str], text: &str) -> Option<(Ipv4Addr, u8)> {
        let parsed = text.split_once('/').and_then(|(address, prefix)| {
            Some((
                address.parse::<Ipv4Addr>().ok()?,
                prefix.parse::<u8>().ok().filter(|prefix| (8..=30).contains(prefix))?,
            ))
        });
        let Some((address, prefix)) = parsed else {
            self.wrong(key, format!("`{text}`: expected a subnet of prefix 8 to 30, such as \"10.77.0.0/24\""));
            return None;
        };
        let network = Ipv4Addr::from(u32::from(address) & u32::from(mask(prefix)));
        if network != address {
            self.wrong(key, format!("`{text}` has bits set behind its prefix")).help =
                Some(format!("did you mean `{network}/{prefix}`?"));
        }
        Some((network, prefix))
    }

    /// The main subnet and those beside it.
    fn subnets(&mut self, network: &written::NetworkSection) -> Option<Vec<Subnet>> {
        let (Some(subnet), Some(pool)) = (&network.subnet, &network.pool) else {
            let missing = if network.subnet.is_none() { "subnet" } else { "pool" };
            self.wrong(&["network", "dhcp"], format!("full DHCP needs `{missing}`")).help =
                Some("add `subnet = \"10.77.0.0/24\"` and `pool = \"10.77.0.100-10.77.0.199\"`".into());
            return None;
        };
        let seconds = network.lease_seconds.unwrap_or(3600);
        if seconds < 120 {
            self.wrong(&["network", "lease_seconds"], "expected at least 120: machines renew at half of it");
        }
        let main = written::SubnetSection {
            subnet: subnet.clone(),
            pool: pool.clone(),
            router: network.router.clone(),
            relays: Some(network.relays.clone()),
            dns: network.dns.clone(),
        };
        let mut found = vec![self.subnet(&["network"], &main, seconds)?];
        for (name, section) in &network.subnets {
            let key = ["network", "subnets", name];
            self.name(&key, name);
            let Some(mut subnet) = self.subnet(&key, section, seconds) else { continue };
            if section.dns.is_empty() {
                subnet.dns = found[0].dns.clone();
            }
            let overlaps = |other: &&Subnet| other.contains(subnet.address) || subnet.contains(other.address);
            if let Some(other) = found.iter().find(overlaps) {
                let message = format!("{} overlaps {}/{}", section.subnet, other.address, other.prefix);
                self.wrong(&["network", "subnets", name, "subnet"], message);
            }
            found.push(subnet);
        }
        Some(found)
    }

    /// A subnet that is written in the table `at`.
    fn subnet(&mut self, at: &[&str], section: &written::SubnetSection, lease_seconds: u32) -> Option<Subnet> {
        let key = |last: &'static str| [at, &[last]].concat();
        let (address, prefix) = self.cidr(&key("subnet"), &section.subnet)?;
        let pool = &section.pool;
        let Some((first, last)) = pool.split_once('-').and_then(|(first, last)| {
            Some((first.trim().parse::<Ipv4Addr>().ok()?, last.trim().parse::<Ipv4Addr>().ok()?))
        }) else {
            self.wrong(
                &key("pool"),
                format!("`{pool}`: expected two IPv4 addresses, such as \"10.77.0.100-10.77.0.199\""),
            );
            return None;
        };
        let mut found = Subnet {
            address,
            prefix,
            pool: (first, last),
            router: None,
            dns: Vec::new(),
            relays: Vec::new(),
            lease_seconds,
        };
        let (low, high) = found.hosts();
        if first > last {
            self.wrong(&key("pool"), format!("the pool ends ({last}) before it begins ({first})"));
        } else if first < low || last > high {
            self.wrong(&key("pool"), format!("the pool {first}-{last} is outside the subnet {}", section.subnet))
                .help = Some(format!("addresses for machines are {low} to {high}"));
        }
        if let Some(router) = &section.router {
            found.router = self.address(&key("router"), router);
            if found.router.is_some_and(|router| !found.contains(router)) {
                self.wrong(&key("router"), format!("{router} is outside the subnet {}", section.subnet));
            }
        }
        found.relays = match &section.relays {
            Some(relays) => self.relays(at, relays),
            None => found.router.into_iter().collect(),
        };
        for (index, server) in section.dns.iter().enumerate() {
            let index = index.to_string();
            found.dns.extend(self.address(&[at, &["dns", &index]].concat(), server));
        }
        Some(found)
    }

    /// Every card of a node without a fixed address may need one of a pool.
    pub(super) fn room_for(&mut self, network: Option<&Network>, nodes: &BTreeMap<Name, Node>) {
        let Some(Network { dhcp: Dhcp::Full(subnets), .. }) = network else { return };
        let cards: usize = nodes.values().filter(|node| node.address.is_none()).map(|node| node.macs.len()).sum();
        // One that is backwards is told already.
        let size = |subnet: &Subnet| Some(u32::from(subnet.pool.1).checked_sub(u32::from(subnet.pool.0))? as usize + 1);
        let Some(addresses) = subnets.iter().map(size).sum::<Option<usize>>() else { return };
        if cards > addresses {
            let message =
                format!("{cards} cards of nodes have no fixed address, and all pools together have {addresses}");
            let problem = self.source.problem(&["network", "pool"], message).warning();
            self.problems.push(problem.help("make it larger, or give nodes an `address`"));
        }
    }

    /// The relays that are written in the table `at`.
    fn relays(&mut self, at: &[&str], relays: &[String]) -> Vec<Ipv4Addr> {
        let mut found = Vec::new();
        for (index, relay) in relays.iter().enumerate() {
            let index = index.to_string();
            let key = [at, &["relays", &index]].concat();
            let Some(address) = self.address(&key, relay) else { continue };
            if address.is_unspecified() || address.is_broadcast() || address.is_multicast() {
                self.wrong(&key, format!("`{relay}` is no relay's address"));
            } else {
                found.push(address);
            }
        }
        found
    }
}
