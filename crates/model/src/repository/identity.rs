//! What the repository alone tells of how each machine will be known: which ones can keep an identity, and what it means
//! where they cannot. What is soldered to a board it does not say, so this says what to look for there.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::rules::Rules;
use super::{Admission, Cluster, Dhcp, Identity, LabFirmware, Network, Node};
use crate::names::Name;

impl Network {
    /// The relays of the subnet that this address is in, by which its machine's DHCP comes; none where it is heard itself.
    pub fn relays_of(&self, address: Ipv4Addr) -> &[Ipv4Addr] {
        match &self.dhcp {
            Dhcp::Full(subnets) => {
                subnets.iter().find(|subnet| subnet.contains(address)).map_or(&[], |subnet| &subnet.relays)
            }
            Dhcp::Proxy | Dhcp::Router => &[],
        }
    }

    /// All relays that may ask for machines.
    fn all_relays(&self) -> Vec<Ipv4Addr> {
        let mut all = self.relays.clone();
        if let Dhcp::Full(subnets) = &self.dhcp {
            all.extend(subnets.iter().flat_map(|subnet| &subnet.relays));
        }
        all.sort_unstable();
        all.dedup();
        all
    }
}

impl Node {
    /// It boots bramble's own system, and the repository names no disk of its own: what it keeps, if anything, is in its TPM or
    /// its UEFI.
    fn may_keep_nothing(&self) -> bool {
        self.boot.is_none() && self.data.is_none()
    }

    /// Its virtual machine in the lab has neither.
    fn keeps_nothing_in_the_lab(&self) -> bool {
        !self.machine.tpm && self.machine.firmware == LabFirmware::Bios
    }
}

fn listed<'a>(names: impl IntoIterator<Item = &'a Name>) -> String {
    names.into_iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
}

impl Rules<'_> {
    /// Nodes that are to be known by their place on the wire, where nobody sees that.
    pub(super) fn behind_relays(
        &mut self,
        network: Option<&Network>,
        nodes: &BTreeMap<Name, Node>,
        admission: Admission,
    ) {
        let Some(network) = network.filter(|_| admission == Admission::Expected) else { return };
        for (name, node) in nodes {
            let is_wire = node.identity == Identity::Wire && node.may_keep_nothing();
            let relays = node.address.filter(|_| is_wire).map_or(&[][..], |address| network.relays_of(address));
            let Some(relay) = relays.first() else { continue };
            let message = format!(
                "`{name}` is behind the DHCP relay {relay}, where nobody sees whose card an address is of: it is not known by its \
                 place on the wire, and waits for a person where its board keeps nothing"
            );
            let mut problem = self.source.problem(&["nodes", name.as_str(), "address"], message).warning();
            problem.help = Some(
                "a TPM 2.0, a UEFI with variables or a disk of its own (`data`) lets it in without hands; \
                 `identity = \"kept\"` of its role says that it has one"
                    .into(),
            );
            self.problems.push(problem);
        }
    }
}

impl Cluster {
    /// What to know of the nodes' identities before their machines are bought, a sentence each; none where nothing is open.
    pub fn identity_notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let open = |identity| {
            let nodes = self.nodes.iter().filter(move |(_, node)| node.identity == identity && node.may_keep_nothing());
            nodes.collect::<Vec<_>>()
        };
        let (kept, wire) = (open(Identity::Kept), open(Identity::Wire));
        if self.admission == Admission::Open && !wire.is_empty() {
            notes.push("`admission = \"open\"` lets in every machine that was given a boot: for labs alone".into());
        }
        if !kept.is_empty() {
            notes.push(format!(
                "{}: the role wants an identity that the machine keeps, and the repository names no disk for it (`data`): its \
                 board has to have a TPM 2.0 or a UEFI with variables. Where it has neither, as a Raspberry Pi or a board with \
                 BIOS or U-Boot, it waits at every boot for a person (`bramble node approve`)",
                listed(kept.iter().map(|(name, _)| *name))
            ));
            let in_lab: Vec<_> = kept.iter().filter(|(_, node)| node.keeps_nothing_in_the_lab()).collect();
            if !in_lab.is_empty() {
                notes.push(format!(
                    "{}: in the lab the machine has neither, and waits there for a person: `lab = {{ tpm = true }}` gives it one",
                    listed(in_lab.iter().map(|(name, _)| *name))
                ));
            }
        }
        if !wire.is_empty() && self.admission == Admission::Expected {
            notes.push(format!(
                "{}: where the board has no TPM 2.0 and no UEFI with variables, it keeps nothing and is known by its card's place \
                 on the wire: it comes back by itself after a power cut, but not when it was switched off by hand (`bramble node \
                 expect`), and whoever takes its MAC address on this wire while it is away can take its place",
                listed(wire.iter().map(|(name, _)| *name))
            ));
        }
        let relays = self.network.all_relays();
        if !relays.is_empty() && !wire.is_empty() && self.admission == Admission::Expected {
            let relays = relays.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            notes.push(format!(
                "behind a DHCP relay ({relays}) nobody sees whose card an address is of: no machine there is known by its place on \
                 the wire. It keeps an identity, or a person approves it"
            ));
        }
        notes
    }
}
