//! The CA's rotation ends by itself when nothing is lost with the old one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bramble_model::ca::CaFinish;
use bramble_model::names::Name;
use bramble_plan::contract::{Outcome, Planned, Retry, Unknown};
use bramble_plan::rotation::{Rotation, Rotations, Step};
use tokio::sync::watch;

use crate::rotation::{NotFinished, Rotating};
use crate::snapshots::Current;
use crate::store::beside;

/// It looks again after so long, though nobody woke it.
const SOON: Duration = Duration::from_secs(15);

pub(crate) struct Controller {
    pub(super) rotating: Arc<Rotating>,
}

impl super::Controller for Controller {
    type Planner = Rotations;

    const NAME: &'static str = "ca";

    fn declared(&self, current: &Current) -> BTreeSet<Name> {
        current.sets().nodes.into_iter().collect()
    }

    async fn observe(&self, _declared: &BTreeSet<Name>) -> Result<Option<Rotation>, Unknown> {
        let rotating = Arc::clone(&self.rotating);
        beside(move || {
            // Who has moved is written down before anything is concluded from it.
            rotating.authority.keep().map_err(|error| Unknown(bramble_system::sentence(&error)))?;
            rotating.look()
        })
        .await
    }

    async fn perform(&self, planned: Planned<Step, ()>) -> Outcome {
        let rotating = Arc::clone(&self.rotating);
        let done = match planned.step {
            Step::Finish => {
                let Some(next) = rotating.authority.next() else { return Outcome::Done };
                beside(move || rotating.finish(&CaFinish { next, losing: Vec::new() })).await
            }
        };
        let reason = match done {
            Ok(()) | Err(NotFinished::None) => return Outcome::Done,
            Err(NotFinished::Loses(lost)) => {
                let lost: Vec<String> = lost.iter().map(|loss| loss.subject.to_string()).collect();
                format!("it would not be the CA of {} any more", lost.join(", "))
            }
            Err(NotFinished::Other(next)) => format!("{next} takes its place, and another one was planned with"),
            Err(NotFinished::Unknown(unknown)) => unknown.0,
            Err(NotFinished::Head(error)) => bramble_system::sentence(&error),
        };
        Outcome::Failed { reason, retry: Retry::BackOff }
    }

    fn wakes(&self) -> Vec<watch::Receiver<u64>> {
        let Rotating { agents, boot_sets, authority, .. } = &*self.rotating;
        vec![agents.changed.receiver(), boot_sets.changed.receiver(), authority.changed.receiver()]
    }

    fn looks(&self) -> (Duration, Duration) {
        (SOON, SOON)
    }
}
