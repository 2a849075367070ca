//! Machines of no repository are forgotten in time, and adoptions end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bramble_model::inventory::Adoption;
use bramble_model::names::Mac;
use bramble_plan::contract::{Outcome, Planned, Retry, Unknown};
use bramble_plan::strangers::{Observed, Step, Strangers};
use tokio::sync::watch;

use crate::adoptions::Adoptions;
use crate::snapshots::Current;
use crate::strangers;

pub(crate) struct Controller {
    pub(super) strangers: Arc<strangers::Strangers>,
    pub(super) adoptions: Arc<Adoptions>,
}

impl super::Controller for Controller {
    type Planner = Strangers;

    const NAME: &'static str = "strangers";

    fn declared(&self, current: &Current) -> BTreeSet<Mac> {
        current.cluster.nodes.values().flat_map(|node| node.macs.iter().copied()).collect()
    }

    async fn observe(&self, _declared: &BTreeSet<Mac>) -> Result<Observed, Unknown> {
        let seen = self.strangers.all().into_iter().map(|seen| (seen.mac, seen.last)).collect();
        Ok(Observed { seen, adoptions: self.adoptions.list() })
    }

    async fn perform(&self, planned: Planned<Step, Option<Adoption>>) -> Outcome {
        let done = match planned.step {
            Step::ForgetSighting { mac } => {
                self.strangers.forget(mac);
                Ok(())
            }
            Step::EndAdoption { mac } => planned.seen.map_or(Ok(()), |seen| self.adoptions.end(mac, &seen)),
        };
        match done {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::Failed { reason: bramble_system::sentence(&error), retry: Retry::BackOff },
        }
    }

    fn wakes(&self) -> Vec<watch::Receiver<u64>> {
        vec![self.adoptions.changed.receiver()]
    }

    fn looks(&self) -> (Duration, Duration) {
        (Duration::from_secs(60), Duration::from_secs(60))
    }
}
