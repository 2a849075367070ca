//! Whose boot it is, by its id: reports and fetches of files name nothing else.

use std::collections::{HashMap, VecDeque};

use bramble_model::names::{BootId, Name};

/// Boots of a node that lead to it beside those that its record has: of two that were begun at once, either may have been
/// stored last.
const MORE: usize = 4;

/// Boot id → node, for the latest boots of each node. The records are in the store; here is what finds the right one.
#[derive(Debug, Default)]
pub(super) struct Index {
    node_of: HashMap<BootId, Name>,
    boots_of: HashMap<Name, VecDeque<BootId>>,
}

impl Index {
    /// A boot was handed out; its record has these now. Nobody who asks in the node's name makes those lead nowhere.
    pub(super) fn begins(&mut self, node: &Name, boot: BootId, recorded: &[BootId]) {
        let boots = self.boots_of.entry(node.clone()).or_default();
        boots.push_back(boot.clone());
        let more: Vec<usize> = (0..boots.len()).filter(|at| !recorded.contains(&boots[*at])).collect();
        if more.len() > MORE
            && let Some(oldest) = boots.remove(more[0])
        {
            self.node_of.remove(&oldest);
        }
        self.node_of.insert(boot, node.clone());
    }

    /// The node whose record is to be looked at.
    pub(super) fn node(&self, boot: &BootId) -> Option<&Name> {
        self.node_of.get(boot)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The boots of a node's record lead to it, and a few late ones, whatever the others do; no more are kept.
        #[test]
        fn it_leads_to_the_node_of_each_boot_of_its_record(
            begun in prop::collection::vec((0..5_u8, any::<bool>()), 0..60),
        ) {
            let mut index = Index::default();
            let name = |node: u8| format!("n{node}").parse::<Name>().expect("a name");
            let id = |number: usize| BootId(number.to_string());
            let mut recorded: HashMap<u8, Vec<BootId>> = HashMap::new();
            let mut others: HashMap<u8, Vec<BootId>> = HashMap::new();
            for (number, (node, is_recorded)) in begun.iter().enumerate() {
                let own = recorded.entry(*node).or_default();
                if *is_recorded { own.push(id(number)) } else { others.entry(*node).or_default().push(id(number)) }
                index.begins(&name(*node), id(number), own);
            }
            for (node, boots) in &recorded {
                prop_assert!(boots.iter().all(|boot| index.node(boot) == Some(&name(*node))));
            }
            for (node, boots) in &others {
                let known = boots.iter().filter(|boot| index.node(boot) == Some(&name(*node))).count();
                prop_assert_eq!(known, boots.len().min(MORE));
            }
        }
    }
}
