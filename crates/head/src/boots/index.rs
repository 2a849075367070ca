//! Whose boot it is, by its id: reports and fetches of files name nothing else.

use std::collections::{HashMap, VecDeque};

use bramble_model::names::{BootId, Name};

/// Boots of a node that lead to it. Which one is present is in its record; of two that were begun at once, either may
/// have been stored last.
const KEPT: usize = 4;

/// Boot id → node, for the latest boots of each node. The records are in the store; here is what finds the right one.
#[derive(Debug, Default)]
pub(super) struct Index {
    node_of: HashMap<BootId, Name>,
    boots_of: HashMap<Name, VecDeque<BootId>>,
}

impl Index {
    /// A boot was handed out.
    pub(super) fn begins(&mut self, node: &Name, boot: BootId) {
        let boots = self.boots_of.entry(node.clone()).or_default();
        boots.push_back(boot.clone());
        if boots.len() > KEPT
            && let Some(oldest) = boots.pop_front()
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
        /// The latest boots of each node lead to it, whatever the others do, and no more are kept.
        #[test]
        fn it_leads_to_the_node_of_each_late_boot(begun in prop::collection::vec(0..5_u8, 0..60)) {
            let mut index = Index::default();
            let name = |node: u8| format!("n{node}").parse::<Name>().expect("a name");
            for (number, node) in begun.iter().enumerate() {
                index.begins(&name(*node), BootId(number.to_string()));
            }
            for (number, node) in begun.iter().enumerate() {
                let later = begun[number + 1..].iter().filter(|other| *other == node).count();
                let node = name(*node);
                prop_assert_eq!(index.node(&BootId(number.to_string())), (later < KEPT).then_some(&node));
            }
            prop_assert!(index.node_of.len() <= 5 * KEPT);
        }
    }
}
