//! Who has left the repository is let go, and who asks to be let in is shown to a person.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bramble_model::names::Name;
use bramble_plan::contract::{Outcome, Planned, Retry, Unknown};
use bramble_plan::leaving::{Leaving, Observed, Revoke};
use bramble_store::Store;
use tokio::sync::watch;

use crate::admissions;
use crate::adoptions::Adoptions;
use crate::agents::Agents;
use crate::snapshots::{Current, Snapshots};
use crate::timeline::Timeline;

pub(crate) struct Controller {
    pub(super) agents: Arc<Agents>,
    pub(super) adoptions: Arc<Adoptions>,
    pub(super) snapshots: Arc<Snapshots>,
    pub(super) store: Store,
    pub(super) timeline: Arc<Timeline>,
}

impl super::Controller for Controller {
    type Planner = Leaving;

    const NAME: &'static str = "admissions";

    fn declared(&self, current: &Current) -> BTreeSet<Name> {
        current.cluster.nodes.keys().cloned().collect()
    }

    async fn observe(&self, declared: &BTreeSet<Name>) -> Result<Observed, Unknown> {
        let known = admissions::known_nodes(&self.store);
        let known = known.map_err(|error| {
            Unknown(format!("who was admitted cannot be read: {}", bramble_system::sentence(&error)))
        })?;
        let asking = |name: &Name| self.timeline.study(name, |track| track.pending.clone());
        let asking = declared.iter().filter_map(|name| Some((name.clone(), asking(name)?))).collect();
        Ok(Observed { known, adopting: self.adoptions.names().into_iter().collect(), asking })
    }

    fn doubt(&self) -> Option<String> {
        self.snapshots.in_doubt()
    }

    async fn perform(&self, planned: Planned<Revoke, ()>) -> Outcome {
        let node = planned.step.node;
        // It may have come back while the step waited for its turn.
        if self.snapshots.cluster().nodes.contains_key(&node) {
            return Outcome::Done;
        }
        match self.agents.revoke(&node) {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::Failed { reason: bramble_system::sentence(&error), retry: Retry::BackOff },
        }
    }

    fn wakes(&self) -> Vec<watch::Receiver<u64>> {
        vec![self.agents.asked.receiver()]
    }

    fn looks(&self) -> (Duration, Duration) {
        (Duration::from_secs(60), Duration::from_secs(5))
    }
}
