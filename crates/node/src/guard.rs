//! Whom the agent obeys.
//!
//! ```text
//!   a question that changes something ─▶ from the newest life that the CA signed? ─▶ from no older lead?
//!                                    ─▶ does the node see what the plan saw? ─▶ the engine's driver
//!                        any "no" ─▶ refused: nothing has been done
//! ```
//! A head that was restored, or stood still and woke up, says what was true once; its document of the node is refused as
//! well, and so is every process that it starts. It hears that with the node's health ([`Refuses`]). A question without a lead comes from a head of version 1: it is obeyed. That a node leaves a Swarm only by its name
//! is the driver's own care.
//!
//! What was obeyed is of one CA, which may have another one beside it while it is rotated: a board that comes from another
//! cluster owes that one's head nothing. Nor does a node that was down when the rotation ended: nothing that it trusts says
//! that the CA of before was this cluster's. Where it cannot be
//! read nothing is changed before the head has said its signed life again; which lead was obeyed in it is forgotten then, as
//! it is on a node without a disk.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bramble_model::agent::{Expects, Fence, Refuses, SignedLife, Under};
use bramble_system::{files, locked};
use serde::{Deserialize, Serialize};

use crate::trust::Trust;

/// On the data partition where the node has one, else in memory.
const KEPT: &str = "/var/lib/bramble/lead.json";

/// What is remembered is shorter, in bytes.
const LONGEST: u64 = 64 << 10;

/// What is remembered of who leads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Lead {
    /// The newest life that the CA signed; 0 before there was one.
    life: u64,
    /// The newest lead that something was done for.
    newest: Option<Fence>,
}

impl Lead {
    /// The CA has signed this life. Whether it is the newest.
    fn learn(&mut self, life: u64) -> Result<(), Refuses> {
        if life < self.life {
            return Err(Refuses { life, obeys: self.life });
        }
        self.life = life;
        Ok(())
    }

    /// Whether something may be done in this lead; a newer one is remembered.
    fn obey(&mut self, fence: Fence) -> Result<(), String> {
        if self.life == 0 {
            return Err("the head has not said in which life its store is".into());
        }
        if fence.life != self.life {
            return Err(format!(
                "it is asked in life {} of the head's store, and obeys life {}",
                fence.life, self.life
            ));
        }
        if let Some(newest) = self.newest.filter(|newest| newest.life == fence.life && newest.number > fence.number) {
            return Err(format!("it is asked in lead {}, and has obeyed lead {}", fence.number, newest.number));
        }
        self.newest = Some(fence);
        Ok(())
    }
}

/// What is kept of it over a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// Whose lives these are: the fingerprint of the key of the CA that signed the newest. Absent from a file of before: of
    /// the present CA then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ca: Option<String>,
    #[serde(flatten)]
    lead: Lead,
}

/// What is remembered, of a CA that is trusted.
fn read(path: &Path, trust: &Trust) -> io::Result<Kept> {
    let bytes = match files::read_regular(path, LONGEST) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Kept::default()),
        bytes => bytes?,
    };
    let mut kept: Kept = serde_json::from_slice(&bytes)?;
    if kept.ca.as_ref().is_some_and(|kept| !trust.knows(kept)) {
        tracing::info!("what another cluster's head was obeyed in is forgotten");
        return Ok(Kept::default());
    }
    kept.ca = kept.ca.or_else(|| trust.first());
    Ok(kept)
}

/// Whether what is seen now is what the plan saw; `None` where that is not there any more.
pub(crate) fn sees(expects: &Expects, now: Option<&Expects>) -> Result<(), String> {
    if now.is_some_and(|now| expects.is_met_by(now)) {
        return Ok(());
    }
    Err(match expects {
        Expects::Engine { .. } => "its place in the engine is not what the plan saw".into(),
        Expects::Generation { .. } => "the workload is not what the plan saw".into(),
        Expects::Member { member } => format!("{} is not the member that the plan saw", member.hostname),
    })
}

/// The agent's memory of whom it obeys.
pub(crate) struct Guard {
    path: PathBuf,
    trust: Arc<Trust>,
    kept: Mutex<Kept>,
}

impl Guard {
    /// Of an agent that trusts these CAs.
    pub(crate) fn open(trust: Arc<Trust>) -> Self {
        Self::at(Path::new(KEPT), trust)
    }

    pub(crate) fn at(path: &Path, trust: Arc<Trust>) -> Self {
        let kept = read(path, &trust).unwrap_or_else(|error| {
            tracing::error!(path = %path.display(), %error, "which head was obeyed cannot be read: it has to say its life");
            Kept::default()
        });
        Guard { path: path.to_owned(), trust, kept: Mutex::new(kept) }
    }

    /// The head says in which life its store is; only what a trusted CA signed counts. One of version 1 says nothing.
    ///
    /// # Errors
    /// Where it is not obeyed.
    pub(crate) fn learn(&self, life: Option<&SignedLife>) -> Result<(), Refuses> {
        let Some(life) = life else { return Ok(()) };
        let Some(signer) = self.trust.signer(&SignedLife::message(life.life), &life.signature) else {
            tracing::error!(life = life.life, "the head names a life of its store that no CA of this node has signed");
            return Err(Refuses { life: life.life, obeys: locked(&self.kept).lead.life });
        };
        self.change(|kept| {
            kept.lead.learn(life.life)?;
            // Of the next CA from when that signs: the file is read with it alone one day.
            kept.ca = Some(signer.key_name());
            Ok(())
        })
    }

    /// Whether what is asked so may be done.
    pub(crate) fn obey(&self, under: &Under) -> Result<(), String> {
        self.change(|kept| kept.lead.obey(under.fence))
    }

    fn change<T>(&self, change: impl FnOnce(&mut Kept) -> T) -> T {
        let mut kept = locked(&self.kept);
        let before = kept.clone();
        let result = change(&mut kept);
        if *kept == before {
            return result;
        }
        let bytes = serde_json::to_vec(&*kept).expect("plain data");
        // Where it cannot be kept it is remembered until the agent ends, which is better than not to obey.
        if let Err(error) = files::replace(&self.path, &bytes) {
            tracing::warn!(path = %self.path.display(), %error, "who leads could not be kept");
        }
        result
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use bramble_model::agent::swarm::{Label, Member};
    use bramble_model::engine::EngineState;
    use proptest::prelude::*;
    use rcgen::{KeyPair, PublicKeyData, SigningKey};

    use super::*;

    fn member(cluster: &str) -> EngineState {
        let (cluster, node_id) = (cluster.parse().expect("an id"), "n".parse().expect("an id"));
        EngineState::Member { cluster, node_id, manager: true, reachable: true }
    }

    #[test]
    fn what_the_plan_saw_has_to_be_seen() {
        let engine = |state| Expects::Engine { state };
        assert!(sees(&engine(EngineState::Alone), Some(&engine(EngineState::Alone))).is_ok());
        assert!(sees(&engine(EngineState::Alone), Some(&engine(member("a")))).is_err());
        let generation = |generation: Option<&str>, several| Expects::Generation {
            workload: "web".parse().expect("a name"),
            generation: generation.map(|text| Label::from(text.to_owned())),
            several,
        };
        let (one, none) = (generation(Some("1"), Some(false)), generation(None, Some(false)));
        assert!(sees(&one, Some(&one)).is_ok());
        assert!(sees(&none, Some(&one)).is_err());
        assert!(sees(&none, Some(&generation(None, Some(true)))).is_err(), "nothing is deployed, or several are");
        for now in [&none, &generation(None, Some(true))] {
            assert!(sees(&generation(None, None), Some(now)).is_ok(), "a head of before does not tell them apart");
        }
        let listed = |manager, up| {
            let id = "n".parse().expect("an id");
            Expects::Member { member: Member { id, hostname: "m2".into(), manager, up } }
        };
        assert!(sees(&listed(true, false), Some(&listed(true, false))).is_ok());
        assert!(sees(&listed(true, false), Some(&listed(true, true))).is_err(), "it has come back");
        assert!(sees(&listed(true, false), Some(&listed(false, false))).is_err(), "it has another part");
        assert!(sees(&listed(true, false), None).is_err(), "it is gone");
    }

    fn key() -> KeyPair {
        KeyPair::generate().expect("a key")
    }

    pub(crate) fn signed(key: &KeyPair, life: u64) -> SignedLife {
        let signature = key.sign(SignedLife::message(life).as_bytes()).expect("signed");
        SignedLife { life, signature: signature.iter().map(|byte| format!("{byte:02x}")).collect() }
    }

    pub(crate) fn under(life: u64, number: u64) -> Under {
        Under { fence: Fence { life, number }, expects: None }
    }

    #[test]
    fn only_the_ca_begins_a_life_and_a_restart_forgets_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lead.json");
        let (ca, other) = (key(), key());
        let guard = Guard::at(&path, Trust::in_keys(&[ca.der_bytes()]));
        assert!(guard.learn(Some(&signed(&other, 900))).is_err());
        assert!(guard.learn(Some(&signed(&ca, 100))).is_ok());
        assert!(guard.obey(&under(900, 1)).is_err(), "nobody signed it");
        assert!(guard.obey(&under(100, 5)).is_ok());
        let guard = Guard::at(&path, Trust::in_keys(&[ca.der_bytes()]));
        assert!(guard.obey(&under(100, 4)).is_err(), "an older lead, and the agent was started again");
        assert!(guard.learn(Some(&signed(&ca, 200))).is_ok());
        assert!(guard.obey(&under(200, 1)).is_ok(), "a restored head counts anew");
        assert!(guard.obey(&under(100, 9)).is_err(), "the head that was replaced");
        assert!(guard.learn(Some(&signed(&ca, 100))).is_err(), "an old signature raises nothing");
        assert!(guard.obey(&under(100, 9)).is_err());
        assert!(guard.learn(None).is_ok(), "a head of version 1");
    }

    /// It obeyed the life of the younger cluster, and refused its own for ever.
    #[test]
    fn a_board_that_comes_from_another_cluster_obeys_its_own() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lead.json");
        let (younger, older) = (key(), key());
        let guard = Guard::at(&path, Trust::in_keys(&[younger.der_bytes()]));
        guard.learn(Some(&signed(&younger, 900))).expect("signed");
        let guard = Guard::at(&path, Trust::in_keys(&[older.der_bytes()]));
        guard.learn(Some(&signed(&older, 100))).expect("signed");
        assert_eq!(guard.obey(&under(100, 1)), Ok(()));
    }

    /// The CA is rotated: what was obeyed under the old one counts under both, and then under the new one alone.
    #[test]
    fn what_was_obeyed_outlives_a_rotation_of_the_ca() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lead.json");
        let (old, new, other) = (key(), key(), key());
        let open = |keys: &[&KeyPair]| {
            let keys: Vec<&[u8]> = keys.iter().map(|key| key.der_bytes()).collect();
            Guard::at(&path, Trust::in_keys(&keys))
        };
        open(&[&old]).learn(Some(&signed(&old, 100))).expect("signed");
        open(&[&old, &new]).obey(&under(100, 5)).expect("in its lead");
        let both = open(&[&old, &new]);
        assert!(both.obey(&under(100, 4)).is_err(), "an older lead");
        both.learn(Some(&signed(&old, 100))).expect("the head signs with the old one meanwhile");
        both.learn(Some(&signed(&new, 100))).expect("and then with the new one");
        assert!(both.learn(Some(&signed(&other, 900))).is_err(), "a stranger's");
        let after = open(&[&new]);
        assert!(after.obey(&under(100, 4)).is_err(), "an older lead, also when the old CA is gone");
        assert!(after.learn(Some(&signed(&new, 99))).is_err(), "an older life");
        assert!(after.learn(Some(&signed(&old, 900))).is_err(), "the old CA says nothing any more");
        assert_eq!(after.obey(&under(100, 5)), Ok(()));
    }

    #[test]
    fn a_file_of_before_is_of_the_present_ca() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lead.json");
        std::fs::write(&path, r#"{"life":100,"newest":{"life":100,"number":5}}"#).expect("written");
        let guard = Guard::at(&path, Trust::in_keys(&[key().der_bytes()]));
        assert!(guard.obey(&under(100, 4)).is_err() && guard.obey(&under(100, 5)).is_ok());
    }

    /// Half a file counted as none, and whatever asked was obeyed.
    #[test]
    fn what_was_obeyed_and_cannot_be_read_is_not_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lead.json");
        let ca = key();
        std::fs::write(&path, r#"{"life":100,"newest":{"li"#).expect("written");
        let guard = Guard::at(&path, Trust::in_keys(&[ca.der_bytes()]));
        for life in [0, 100] {
            let refused = guard.obey(&under(life, 9)).expect_err("it obeys nobody");
            assert_eq!(refused, "the head has not said in which life its store is");
        }
        guard.learn(Some(&signed(&ca, 100))).expect("signed");
        assert_eq!(guard.obey(&under(100, 9)), Ok(()));
    }

    proptest! {
        /// Whatever is asked in whatever order: what was obeyed only grows, and never beyond what was signed.
        #[test]
        fn leads_only_grow(events in prop::collection::vec((any::<bool>(), 0..4_u64, 0..4_u64), 0..40)) {
            let mut lead = Lead::default();
            let mut signed = 0;
            let mut last: Option<Fence> = None;
            for (signs, life, number) in events {
                if signs {
                    let newest = life >= signed;
                    prop_assert_eq!(lead.learn(life).is_ok(), newest);
                    signed = signed.max(life);
                } else {
                    let fence = Fence { life, number };
                    if lead.obey(fence).is_ok() {
                        prop_assert_eq!(life, signed);
                        prop_assert!(last.is_none_or(|last| last <= fence), "{:?} after {:?}", fence, last);
                        last = Some(fence);
                    }
                }
            }
        }
    }
}
