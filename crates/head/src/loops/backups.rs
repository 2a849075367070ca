//! Backups are made by the repository's plan.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bramble_model::repository::Backup;
use bramble_model::timeline::Millis;
use bramble_plan::backups::{Backups, Step};
use bramble_plan::contract::{Outcome, Planned, Retry, Unknown};
use bramble_system::now;

use crate::backup;
use crate::snapshots::{Current, Snapshots};

pub(crate) struct Controller {
    pub(super) backups: Arc<backup::Backups>,
    pub(super) snapshots: Arc<Snapshots>,
}

impl super::Controller for Controller {
    type Planner = Backups;

    const NAME: &'static str = "backups";

    fn declared(&self, current: &Current) -> Option<Backup> {
        current.cluster.backup.clone()
    }

    async fn observe(&self, declared: &Option<Backup>) -> Result<(BTreeSet<Millis>, Millis), Unknown> {
        let Some(backup) = declared.clone() else { return Ok((BTreeSet::new(), now())) };
        let backups = Arc::clone(&self.backups);
        let made = tokio::task::spawn_blocking(move || {
            let made = backups.list(&backup);
            made.map_err(|error| Unknown(format!("{} cannot be listed: {error}", backup.folder.display())))
        });
        let made = made.await.map_err(|error| Unknown(error.to_string()))??;
        Ok((made.into_iter().map(|(at, _)| at).collect(), now()))
    }

    async fn perform(&self, planned: Planned<Step, ()>) -> Outcome {
        let (backups, snapshots) = (Arc::clone(&self.backups), Arc::clone(&self.snapshots));
        let done = tokio::task::spawn_blocking(move || {
            let Some(backup) = snapshots.cluster().backup.clone() else { return Ok(()) };
            match planned.step {
                Step::Make => backups.make(&backup),
                Step::Remove { made } => backups.remove(&backup, &made),
            }
        });
        match done.await {
            Ok(Ok(())) => Outcome::Done,
            Ok(Err(error)) => Outcome::Failed { reason: bramble_system::sentence(&error), retry: Retry::BackOff },
            Err(error) => Outcome::Failed { reason: error.to_string(), retry: Retry::BackOff },
        }
    }

    fn looks(&self) -> (Duration, Duration) {
        (Duration::from_secs(60), Duration::from_secs(60))
    }
}
