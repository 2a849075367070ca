//! What an engine needs in the image of a node.

use bramble_model::engine::EngineKind;

use crate::swarm;

/// The parts of an engine. All are empty where it needs none.
#[derive(Debug)]
pub struct Parts {
    /// Debian packages.
    pub packages: &'static [&'static str],
    /// Files of these packages that no node needs, as patterns of dpkg's `path-exclude`.
    pub left_out: &'static [&'static str],
    /// Files over the root, by their place in it. A unit of the engine begins with
    /// `ConditionKernelCommandLine=!bramble.inventory=1` and `ConditionPathExists=!/run/bramble/untrusted-data`.
    pub files: &'static [(&'static str, &'static str)],
    /// Units that are started, each after what wants it.
    pub enabled: &'static [(&'static str, &'static str)],
    /// Units of the packages that are not.
    pub masked: &'static [&'static str],
    /// Folders that grow, by their name on a data partition. They lie on no overlay: overlayfs refuses one as its
    /// upper layer.
    pub data: &'static [(&'static str, &'static str)],
}

/// The parts of this engine.
pub fn parts(kind: EngineKind) -> &'static Parts {
    match kind {
        EngineKind::Swarm => &swarm::PARTS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine that only says what it is would lose minutes, and memory that it may not have.
    #[test]
    fn no_unit_of_an_engine_starts_in_an_inventory() {
        let mut units = 0;
        for (path, text) in EngineKind::ALL.into_iter().flat_map(|kind| parts(kind).files) {
            if path.ends_with(".service") {
                assert!(text.lines().any(|line| line == "ConditionKernelCommandLine=!bramble.inventory=1"), "{path}");
                units += 1;
            }
        }
        assert!(units > 0);
    }

    /// A disk that someone put in had its containers started before the node was let in.
    #[test]
    fn no_unit_of_an_engine_starts_from_a_data_partition_that_nobody_trusts_yet() {
        let condition = format!("ConditionPathExists=!{}", bramble_boot::UNTRUSTED_DATA);
        for (path, text) in EngineKind::ALL.into_iter().flat_map(|kind| parts(kind).files) {
            if path.ends_with(".service") {
                assert!(text.lines().any(|line| line == condition), "{path}");
            }
        }
    }

    #[test]
    fn a_folder_belongs_to_one_engine_and_is_absolute() {
        let mut seen = std::collections::BTreeSet::new();
        for (name, place) in EngineKind::ALL.into_iter().flat_map(|kind| parts(kind).data) {
            assert!(place.starts_with("/var/lib/") && !name.contains('/'), "{name}: {place}");
            assert!(seen.insert(name) && seen.insert(place), "{name}: {place}");
        }
    }
}
