//! From which boot set a machine's files come that it fetches by name and not by digest: U-Boot, Raspberry Pi, and
//! the programs of the signed chain.
//!
//! ```text
//!            its firmware's first file           a boot is handed out
//!   Free ───────────────────────────▶ Before ─────────────────────────▶ Begun ──▶ kernel, initrd
//!    ▲                                  │ nothing more for a minute       │ it asks by DHCP, or for
//!    └──────────────────────────────────┴─────────────────────────────────┘ the first file of a boot
//! ```
//! The current set may change at any moment. A machine that has begun with one set goes on with it: firmware, kernel,
//! initrd and layers are of one build.

use std::collections::HashMap;

use bramble_model::names::{Digest, Name};
use bramble_model::timeline::Millis;

/// Firmware that fetched a file and then nothing for so long is not in the middle of a boot.
const QUIET: Millis = 60_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Before { set: Digest, used: Millis },
    Begun { set: Digest },
}

/// Which set each machine is in the middle of.
#[derive(Debug, Default)]
pub(super) struct Sets(HashMap<Name, Of>);

impl Sets {
    /// It asks by DHCP, as machines do that start.
    pub(super) fn asks(&mut self, node: &Name) {
        self.0.remove(node);
    }

    /// It asks for a file that only a machine asks for that starts. One that has not begun a boot may ask again.
    pub(super) fn starts(&mut self, node: &Name) {
        if matches!(self.0.get(node), Some(Of::Begun { .. })) {
            self.0.remove(node);
        }
    }

    /// The set that its files come from; `None` where it is to be chosen.
    pub(super) fn of(&self, node: &Name, now: Millis) -> Option<Digest> {
        match self.0.get(node)? {
            Of::Begun { set } => Some(*set),
            Of::Before { .. } => self.before(node, now),
        }
    }

    /// The set that its next boot has to be of; `None` where it is to be chosen.
    pub(super) fn before(&self, node: &Name, now: Millis) -> Option<Digest> {
        match self.0.get(node)? {
            Of::Before { set, used } if now < used + QUIET => Some(*set),
            Of::Before { .. } | Of::Begun { .. } => None,
        }
    }

    /// It gets a file of this set.
    pub(super) fn gets(&mut self, node: &Name, set: Digest, now: Millis) {
        if !matches!(self.0.get(node), Some(Of::Begun { .. })) {
            self.0.insert(node.clone(), Of::Before { set, used: now });
        }
    }

    /// A boot of this set is handed out to it.
    pub(super) fn begins(&mut self, node: &Name, set: Digest) {
        self.0.insert(node.clone(), Of::Begun { set });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node() -> Name {
        "pi".parse().expect("a name")
    }

    const A: Digest = Digest([1; 32]);
    const B: Digest = Digest([2; 32]);

    #[test]
    fn a_boot_stays_with_the_set_of_its_first_file() {
        let mut sets = Sets::default();
        sets.asks(&node());
        assert_eq!(sets.of(&node(), 0), None, "it is to be chosen");
        sets.gets(&node(), A, 0);
        assert_eq!((sets.of(&node(), 10), sets.before(&node(), 10)), (Some(A), Some(A)));
        sets.begins(&node(), A);
        assert_eq!(sets.of(&node(), 10 * QUIET), Some(A), "however long its kernel takes");
        assert_eq!(sets.before(&node(), 10), None, "another boot may be of another set");
    }

    /// Beside a router that says by itself what to boot, no DHCP is seen.
    #[test]
    fn a_machine_that_starts_again_is_seen_by_its_first_file() {
        let mut sets = Sets::default();
        sets.begins(&node(), A);
        sets.starts(&node());
        assert_eq!(sets.of(&node(), 0), None);
        sets.gets(&node(), B, 0);
        sets.starts(&node());
        assert_eq!(sets.of(&node(), 1), Some(B), "it reads its configuration twice");
        assert_eq!(sets.of(&node(), QUIET), None, "it was switched off in between");
    }

    proptest! {
        /// In any sequence of files, boots and changes of the current set: what is fetched between two starts is
        /// of one set from the first file after a boot was handed out.
        #[test]
        fn a_begun_boot_never_mixes(events in prop::collection::vec((0..5_u8, 0..30_000_u64), 0..80)) {
            let (mut sets, mut now, mut current) = (Sets::default(), 0, 0_u8);
            let mut begun = None;
            for (event, later) in events {
                now += later;
                let chosen = |pinned: Option<Digest>| pinned.unwrap_or(Digest([current; 32]));
                match event {
                    0 => { sets.asks(&node()); begun = None; }
                    1 => { sets.starts(&node()); begun = None; }
                    2 => {
                        let set = chosen(sets.of(&node(), now));
                        sets.gets(&node(), set, now);
                        prop_assert!(begun.is_none_or(|begun| begun == set));
                    }
                    3 => {
                        let set = chosen(sets.before(&node(), now));
                        sets.begins(&node(), set);
                        begun = Some(set);
                    }
                    _ => current = current.wrapping_add(1),
                }
            }
        }
    }
}
