//! Whom the agent obeys.
//!
//! ```text
//!   a question that changes something ─▶ from the newest life that the CA signed? ─▶ from no older lead?
//!                                    ─▶ does the node see what the plan saw? ─▶ the engine's driver
//!                        any "no" ─▶ refused: nothing has been done
//! ```
//! A head that was restored, or stood still and woke up, says what was true once. A question without a lead comes from a
//! head of version 1: it is obeyed. That a node leaves a Swarm only by its name is the driver's own care.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use bramble_model::agent::{Expects, Fence, SignedLife, Under};
use bramble_system::files;
use serde::{Deserialize, Serialize};

use crate::clock;

/// On the data partition where the node has one, else in memory.
const KEPT: &str = "/var/lib/bramble/lead.json";

/// What is remembered of who leads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Lead {
    /// The newest life that the CA signed.
    life: u64,
    /// The newest lead that something was done for.
    newest: Option<Fence>,
}

impl Lead {
    /// The CA has signed this life.
    fn learn(&mut self, life: u64) {
        self.life = self.life.max(life);
    }

    /// Whether something may be done in this lead; a newer one is remembered.
    fn obey(&mut self, fence: Fence) -> Result<(), String> {
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
    lead: Mutex<Lead>,
}

impl Guard {
    pub(crate) fn open() -> Self {
        Self::at(Path::new(KEPT))
    }

    pub(crate) fn at(path: &Path) -> Self {
        let kept = std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Guard { path: path.to_owned(), lead: Mutex::new(kept.unwrap_or_default()) }
    }

    /// The head says in which life its store is; only what the CA signed counts.
    pub(crate) fn learn(&self, life: Option<&SignedLife>, ca: &[u8]) {
        let Some(life) = life else { return };
        if !clock::is_signed_by(&SignedLife::message(life.life), &life.signature, ca) {
            tracing::warn!(life = life.life, "the head names a life of its store that the CA has not signed");
            return;
        }
        self.change(|lead| lead.learn(life.life));
    }

    /// Whether what is asked so may be done.
    pub(crate) fn obey(&self, under: &Under) -> Result<(), String> {
        self.change(|lead| lead.obey(under.fence))
    }

    fn change<T>(&self, change: impl FnOnce(&mut Lead) -> T) -> T {
        let mut lead = self.lead.lock().expect("no panic while held");
        let before = *lead;
        let result = change(&mut lead);
        // Where it cannot be kept it is remembered until the agent ends, which is better than not to obey.
        if *lead != before
            && let Err(error) = files::replace(&self.path, &serde_json::to_vec(&*lead).expect("plain data"))
        {
            tracing::warn!(path = %self.path.display(), %error, "who leads could not be kept");
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use bramble_model::agent::swarm::Member;
    use bramble_model::engine::EngineState;
    use proptest::prelude::*;
    use rcgen::{KeyPair, PublicKeyData, SigningKey};

    use super::*;

    fn member(cluster: &str) -> EngineState {
        EngineState::Member { cluster: cluster.into(), node_id: "n".into(), manager: true, reachable: true }
    }

    #[test]
    fn what_the_plan_saw_has_to_be_seen() {
        let engine = |state| Expects::Engine { state };
        assert!(sees(&engine(EngineState::Alone), Some(&engine(EngineState::Alone))).is_ok());
        assert!(sees(&engine(EngineState::Alone), Some(&engine(member("a")))).is_err());
        let generation = |generation: Option<&str>, several| Expects::Generation {
            workload: "web".parse().expect("a name"),
            generation: generation.map(str::to_owned),
            several,
        };
        let (one, none) = (generation(Some("1"), Some(false)), generation(None, Some(false)));
        assert!(sees(&one, Some(&one)).is_ok());
        assert!(sees(&none, Some(&one)).is_err());
        assert!(sees(&none, Some(&generation(None, Some(true)))).is_err(), "nothing is deployed, or several are");
        for now in [&none, &generation(None, Some(true))] {
            assert!(sees(&generation(None, None), Some(now)).is_ok(), "a head of before does not tell them apart");
        }
        let listed =
            |manager, up| Expects::Member { member: Member { id: "n".into(), hostname: "m2".into(), manager, up } };
        assert!(sees(&listed(true, false), Some(&listed(true, false))).is_ok());
        assert!(sees(&listed(true, false), Some(&listed(true, true))).is_err(), "it has come back");
        assert!(sees(&listed(true, false), Some(&listed(false, false))).is_err(), "it has another part");
        assert!(sees(&listed(true, false), None).is_err(), "it is gone");
    }

    #[test]
    fn only_the_ca_begins_a_life_and_a_restart_forgets_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lead.json");
        let (ca, other) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
        let signed = |key: &KeyPair, life| {
            let signature = key.sign(SignedLife::message(life).as_bytes()).expect("signed");
            SignedLife { life, signature: signature.iter().map(|byte| format!("{byte:02x}")).collect() }
        };
        let under = |life, number| Under { fence: Fence { life, number }, expects: None };
        let guard = Guard::at(&path);
        guard.learn(Some(&signed(&other, 900)), ca.der_bytes());
        guard.learn(Some(&signed(&ca, 100)), ca.der_bytes());
        assert!(guard.obey(&under(900, 1)).is_err(), "nobody signed it");
        assert!(guard.obey(&under(100, 5)).is_ok());
        let guard = Guard::at(&path);
        assert!(guard.obey(&under(100, 4)).is_err(), "an older lead, and the agent was started again");
        guard.learn(Some(&signed(&ca, 200)), ca.der_bytes());
        assert!(guard.obey(&under(200, 1)).is_ok(), "a restored head counts anew");
        assert!(guard.obey(&under(100, 9)).is_err(), "the head that was replaced");
        guard.learn(Some(&signed(&ca, 100)), ca.der_bytes());
        assert!(guard.obey(&under(100, 9)).is_err(), "an old signature raises nothing");
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
                    lead.learn(life);
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
