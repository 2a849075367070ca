//! The rotation of the CA, as the head sees it: who trusts the next one, and what would be lost with the old one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use bramble_model::boot_set::Architecture;
use bramble_model::ca::{CaFinish, CaLoss, CaRoot, CaRotation, CaStatus};
use bramble_model::names::{BootId, Digest};
use bramble_model::timeline::Phase;
use bramble_plan::admission;
use bramble_plan::contract::Unknown;
use bramble_plan::rotation::{Given, Loss, Node, OVERLAP, Rotation, losses};
use bramble_store::Store;
use bramble_system::now;

use crate::admissions;
use crate::agents::{Agents, Stands};
use crate::boot_sets::BootSets;
use crate::ca::{Authority, sets};
use crate::error::Error;
use crate::snapshots::Snapshots;
use crate::store::beside;
use crate::timeline::Timeline;

/// The part of the head that changes its CA.
pub(crate) struct Rotating {
    /// Where it is written down which CAs boot sets carry.
    pub(crate) state: PathBuf,
    pub(crate) authority: Arc<Authority>,
    pub(crate) agents: Arc<Agents>,
    pub(crate) boot_sets: Arc<BootSets>,
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) store: Store,
    pub(crate) timeline: Arc<Timeline>,
}

/// Why a rotation does not end.
pub(crate) enum NotFinished {
    /// There is none.
    None,
    /// This one takes the old one's place, and another one was meant.
    Other(Digest),
    /// These would not find the head, and nobody has said that they may be lost.
    Loses(Vec<Loss>),
    Unknown(Unknown),
    Head(Error),
}

/// What is known of a node beside what is kept of its boots.
#[derive(Debug, Clone, Copy, Default)]
struct Seen<'a> {
    /// As its agent says, where that is connected.
    stands: Option<&'a Stands>,
    /// The boot in which its agent said that it trusts the next CA.
    moved: Option<&'a BootId>,
    /// Something was heard of it since its power was switched off.
    is_heard: bool,
}

/// How a node stands to the next CA, where boot sets carry that as `carries` says. `None` of one that was never let in
/// and was handed no boot without it either: it boots what it is given.
fn state(record: &admission::Record, seen: Seen<'_>, carries: impl Fn(&Digest) -> bool) -> Option<Node> {
    // A machine may be in the middle of that boot, or wait in it until a person lets it in.
    if record.served.iter().any(|boot| !carries(&boot.set)) {
        return Some(Node::Away);
    }
    let admitted = record.admitted.as_ref()?;
    Some(match seen.stands {
        Some(Stands::Trusts) => Node::Moved,
        Some(Stands::Told) => Node::Told,
        Some(Stands::Unable(runs)) => Node::Unable(runs.clone()),
        None if seen.moved == Some(&admitted.boot) => Node::Moved,
        // It was said to go down, and boots what it is given. That it did, nobody knows of one that was heard since.
        None if !record.is_here && !seen.is_heard => Node::Moved,
        None => Node::Away,
    })
}

impl Rotating {
    /// Whether a boot set carries this CA, as whoever built it has written down.
    fn carries(&self, set: &Digest, root: &Digest) -> bool {
        sets::of(&self.state, set).is_some_and(|roots| roots.contains(root))
    }

    /// The sets that nodes are given, and whether each carries this CA.
    fn given(&self, next: &Digest) -> Result<BTreeMap<Architecture, Given>, Unknown> {
        let mut found = BTreeMap::new();
        for architecture in Architecture::ALL {
            let given =
                self.boot_sets.given(architecture).map_err(|error| Unknown(bramble_system::sentence(&error)))?;
            if let Some(set) = given {
                let carries = self.carries(&set.digest, next);
                found.insert(architecture, Given { set: set.digest, carries });
            }
        }
        Ok(found)
    }

    /// The rotation that is under way, and all that it depends on. The store and files are read for it.
    ///
    /// # Errors
    /// What cannot be read.
    pub(crate) fn look(&self) -> Result<Option<Rotation>, Unknown> {
        let (Some(record), Some(next)) = (self.authority.rotation(), self.authority.next()) else { return Ok(None) };
        let stand = self.agents.stand_to(&next);
        let unknown = |error: Error| Unknown(bramble_system::sentence(&error));
        let mut nodes = BTreeMap::new();
        for (name, node) in &self.snapshots.cluster().nodes {
            // Another system trusts nobody.
            if node.boot.is_some() {
                continue;
            }
            let admission = admissions::of(&self.store, name).map_err(unknown)?;
            let phase = self.timeline.look(name, |track| track.phase);
            let seen = Seen {
                stands: stand.get(name),
                moved: record.moved.get(name),
                is_heard: phase.is_some_and(|phase| phase != Phase::Off),
            };
            if let Some(state) = state(&admission, seen, |set| self.carries(set, &next)) {
                nodes.insert(name.clone(), state);
            }
        }
        Ok(Some(Rotation { since: record.since, nodes, sets: self.given(&next)? }))
    }

    /// # Errors
    /// What cannot be read.
    pub(crate) async fn status(self: Arc<Self>) -> Result<CaStatus, Unknown> {
        let roots = self.authority.roots().into_iter().map(|root| CaRoot {
            fingerprint: root.fingerprint,
            since: root.since,
            until: root.until,
            has_issuer: root.has_issuer,
        });
        let roots = roots.collect();
        let rotation = beside(move || self.look()).await?.map(|rotation| CaRotation {
            since: rotation.since,
            until: rotation.since.saturating_add(OVERLAP),
            losses: losses(&rotation).into_iter().map(told).collect(),
            moved: rotation
                .nodes
                .into_iter()
                .filter(|(_, state)| *state == Node::Moved)
                .map(|(name, _)| name)
                .collect(),
        });
        Ok(CaStatus { roots, rotation })
    }

    /// Begins one; where one is under way, that goes on.
    ///
    /// # Errors
    /// When something cannot be written; then nothing has changed.
    pub(crate) fn begin(&self) -> Result<(), Error> {
        if self.authority.rotate(now())? {
            let next = self.authority.next().map(|next| next.to_string()).unwrap_or_default();
            self.timeline.note(&format!("the CA is rotated: {next} is trusted beside it, and takes its place"));
        }
        Ok(())
    }

    /// The next CA takes the old one's place: where it is the one that is meant, and nothing is lost that may not be.
    ///
    /// # Errors
    /// Why it does not.
    pub(crate) fn finish(&self, meant: &CaFinish) -> Result<(), NotFinished> {
        // It has, and its files follow.
        if self.authority.is_finishing() && self.authority.digest() == meant.next {
            return self.authority.keep().map_err(NotFinished::Head);
        }
        let lost = match self.look() {
            Ok(None) => return Err(NotFinished::None),
            Ok(Some(rotation)) => losses(&rotation),
            Err(unknown) => return Err(NotFinished::Unknown(unknown)),
        };
        if let Some(next) = self.authority.next().filter(|next| *next != meant.next) {
            return Err(NotFinished::Other(next));
        }
        let lost: Vec<Loss> = lost.into_iter().filter(|loss| !meant.losing.contains(&loss.subject)).collect();
        if !lost.is_empty() {
            return Err(NotFinished::Loses(lost));
        }
        let old = self.authority.fingerprint();
        let done = self.authority.finish();
        let new = self.authority.fingerprint();
        if new != old {
            self.timeline.note(&format!(
                "the CA {new} has taken the place of {old}, which is trusted no more; `cluster.ca` in the repository is \
                 `ca = \"{new}\"` from now on"
            ));
        }
        done.map(drop).map_err(NotFinished::Head)
    }

    /// What is wrong with the CA, and with what nodes are given as far as it goes.
    pub(crate) fn problems(&self) -> Vec<String> {
        let wanted = self.snapshots.cluster().ca;
        let mut problems = self.authority.problems(wanted.as_ref());
        let roots: BTreeSet<Digest> = self.authority.roots().into_iter().map(|root| root.fingerprint).collect();
        for architecture in Architecture::ALL {
            // What cannot be read is told elsewhere.
            let Ok(Some(set)) = self.boot_sets.given(architecture) else { continue };
            let Some(carried) = sets::of(&self.state, &set.digest) else { continue };
            let short = set.digest.short();
            if carried.is_disjoint(&roots) {
                problems.push(format!(
                    "boot set {short}, which nodes of {architecture} are given, carries a CA that was rotated: they do not \
                     find the head; `bramble image build`"
                ));
            } else if self.authority.rotation().is_none() && !carried.is_subset(&roots) {
                problems.push(format!(
                    "boot set {short}, which nodes of {architecture} are given, trusts a CA that was rotated away: \
                     `bramble image build`"
                ));
            }
        }
        problems
    }
}

fn told(loss: Loss) -> CaLoss {
    CaLoss { subject: loss.subject, reason: loss.reason, ends: loss.ends }
}

#[cfg(test)]
mod tests {
    use bramble_plan::admission::{Admitted, Served};

    use super::*;

    /// A node that has moved and loses its connection is not waited for, and in another boot it is.
    #[test]
    fn a_node_is_known_by_what_its_agent_said_in_its_present_boot() {
        let admitted = |boot: &str| {
            let (boot, nonce) = (BootId(boot.into()), Digest([1; 32]));
            Some(Admitted { boot, nonce, set: None, fingerprint: "f".into() })
        };
        let record = |boot, is_here| admission::Record { admitted: admitted(boot), is_here, ..Default::default() };
        let moved = BootId("b1".into());
        let state = |record: &admission::Record, stands: Option<&Stands>| {
            super::state(record, Seen { stands, moved: Some(&moved), is_heard: false }, |_| true)
        };
        assert_eq!(state(&admission::Record::default(), None), None, "it was never let in");
        assert_eq!(state(&record("b1", true), None), Some(Node::Moved));
        assert_eq!(state(&record("b2", true), None), Some(Node::Away), "it may run a set of before");
        assert_eq!(state(&record("b2", false), None), Some(Node::Moved), "it is down");
        assert_eq!(state(&record("b2", true), Some(&Stands::Trusts)), Some(Node::Moved));
        assert_eq!(state(&record("b1", true), Some(&Stands::Told)), Some(Node::Told), "its agent was started again");
        let unable = Stands::Unable("an agent of bramble 0.1.0".into());
        assert!(matches!(state(&record("b1", true), Some(&unable)), Some(Node::Unable(_))));
        // It was said to go down, and something was heard of it all the same.
        let heard = |record: &admission::Record| {
            super::state(record, Seen { stands: None, moved: Some(&moved), is_heard: true }, |_| true)
        };
        assert_eq!(heard(&record("b2", false)), Some(Node::Away));
        assert_eq!(heard(&record("b1", false)), Some(Node::Moved), "it was told in that boot");
    }

    /// A machine that was started with the old set and waits for a person, or is on its way: of the node that it will be,
    /// the boot before says nothing.
    #[test]
    fn a_boot_that_was_handed_out_with_a_set_of_the_old_ca_alone_holds_the_end() {
        let moved = BootId("b1".into());
        let (old, new) = (Digest([8; 32]), Digest([9; 32]));
        let admitted = Admitted { boot: moved.clone(), nonce: Digest([1; 32]), set: None, fingerprint: "f".into() };
        for admitted in [None, Some(admitted)] {
            for (set, wanted) in [(old, Some(Node::Away)), (new, admitted.as_ref().map(|_| Node::Moved))] {
                let mut record = admission::Record { admitted: admitted.clone(), is_here: true, ..Default::default() };
                let id = BootId("b2".into());
                record.serve(Served { id, nonce: None, set, card: None, by_datagram: false }, 5, false);
                let seen = Seen { moved: Some(&moved), ..Seen::default() };
                assert_eq!(state(&record, seen, |set| *set == new), wanted);
            }
        }
    }
}
