//! The rotation of the CA, as the head sees it: who trusts the next one, and what would be lost with the old one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use bramble_model::boot_set::Architecture;
use bramble_model::ca::{CaLoss, CaRoot, CaRotation, CaStatus};
use bramble_model::names::{Digest, Name};
use bramble_plan::admission;
use bramble_plan::contract::Unknown;
use bramble_plan::rotation::{Given, Loss, Node, OVERLAP, Record, Rotation, losses};
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
    /// These would not find the head.
    Loses(Vec<Loss>),
    Unknown(Unknown),
    Head(Error),
}

/// How a node that was let in stands to the next CA. `None` of one that was not: it boots what it is given.
fn state(record: &admission::Record, stands: Option<&Stands>, moved: Option<&Record>, name: &Name) -> Option<Node> {
    let admitted = record.admitted.as_ref()?;
    Some(match stands {
        Some(Stands::Trusts) => Node::Moved,
        Some(Stands::Told) => Node::Told,
        Some(Stands::Unable(runs)) => Node::Unable(runs.clone()),
        // It was said to go down, and boots what it is given.
        None if !record.is_here => Node::Moved,
        None if moved.and_then(|record| record.moved.get(name)) == Some(&admitted.boot) => Node::Moved,
        None => Node::Away,
    })
}

impl Rotating {
    /// The sets that nodes are given, and whether each carries this CA.
    fn given(&self, next: &Digest) -> Result<BTreeMap<Architecture, Given>, Unknown> {
        let mut found = BTreeMap::new();
        for architecture in Architecture::ALL {
            let given =
                self.boot_sets.given(architecture).map_err(|error| Unknown(bramble_system::sentence(&error)))?;
            if let Some(set) = given {
                let carries = sets::of(&self.state, &set.digest).is_some_and(|roots| roots.contains(next));
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
            if let Some(state) = state(&admission, stand.get(name), Some(&record), name) {
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

    /// The next CA takes the old one's place: where nothing is lost with that, or `regardless`.
    ///
    /// # Errors
    /// Why it does not.
    pub(crate) fn finish(&self, regardless: bool) -> Result<(), NotFinished> {
        let lost = match self.look() {
            Ok(None) => return Err(NotFinished::None),
            Ok(Some(rotation)) => losses(&rotation),
            // Whoever says so takes what is not known, too.
            Err(_) if regardless => Vec::new(),
            Err(unknown) => return Err(NotFinished::Unknown(unknown)),
        };
        if !lost.is_empty() && !regardless {
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
            if sets::of(&self.state, &set.digest).is_some_and(|carried| carried.is_disjoint(&roots)) {
                problems.push(format!(
                    "boot set {}, which nodes of {architecture} are given, carries a CA that was rotated: they do not \
                     find the head; `bramble image build`",
                    set.digest.short()
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
    use bramble_model::names::BootId;
    use bramble_plan::admission::Admitted;
    use bramble_plan::rotation::Phase;

    use super::*;

    /// A node that has moved and loses its connection is not waited for, and in another boot it is.
    #[test]
    fn a_node_is_known_by_what_its_agent_said_in_its_present_boot() {
        let name: Name = "m1".parse().expect("a name");
        let admitted = |boot: &str| {
            let (boot, nonce) = (BootId(boot.into()), Digest([1; 32]));
            Some(Admitted { boot, nonce, set: None, fingerprint: "f".into() })
        };
        let record = |boot, is_here| admission::Record { admitted: admitted(boot), is_here, ..Default::default() };
        let moved = [(name.clone(), BootId("b1".into()))].into_iter().collect();
        let kept = Record { phase: Phase::Overlap, since: 1, moved };
        let state = |record: &admission::Record, stands: Option<&Stands>| state(record, stands, Some(&kept), &name);
        assert_eq!(state(&admission::Record::default(), None), None, "it was never let in");
        assert_eq!(state(&record("b1", true), None), Some(Node::Moved));
        assert_eq!(state(&record("b2", true), None), Some(Node::Away), "it may run a set of before");
        assert_eq!(state(&record("b2", false), None), Some(Node::Moved), "it is down");
        assert_eq!(state(&record("b2", true), Some(&Stands::Trusts)), Some(Node::Moved));
        assert_eq!(state(&record("b1", true), Some(&Stands::Told)), Some(Node::Told), "its agent was started again");
        let unable = Stands::Unable("an agent of bramble 0.1.0".into());
        assert!(matches!(state(&record("b1", true), Some(&unable)), Some(Node::Unable(_))));
    }
}
