//! Whether every node runs the boot set that it would be given.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bramble_model::boot_set::Architecture;
use bramble_model::names::Name;
use bramble_plan::contract::{Outcome, Planned, Unknown};
use bramble_plan::sets::{Declared, Observed, Runs, Set, Sets};
use tokio::sync::watch;

use crate::agents::Agents;
use crate::boot_sets::BootSets;
use crate::snapshots::Current;
use crate::timeline::Timeline;

pub(crate) struct Controller {
    pub(super) boot_sets: Arc<BootSets>,
    pub(super) timeline: Arc<Timeline>,
    pub(super) agents: Arc<Agents>,
}

impl Controller {
    fn runs(&self, name: &Name) -> Option<Runs> {
        self.timeline.look(name, |track| {
            let facts = track.facts.as_ref().filter(|_| track.connected)?;
            let architecture = match facts.architecture.as_str() {
                "x86_64" => Architecture::Amd64,
                "aarch64" => Architecture::Arm64,
                _ => return None,
            };
            Some(Runs { architecture, set: facts.set.parse().ok()?, forbidden: false })
        })?
    }
}

impl super::Controller for Controller {
    type Planner = Sets;

    const NAME: &'static str = "images";

    fn declared(&self, current: &Current) -> Declared {
        current.sets()
    }

    async fn observe(&self, declared: &Declared) -> Result<Observed, Unknown> {
        let sets = Arc::clone(&self.boot_sets);
        let nodes = declared.nodes.iter().filter_map(|name| Some((name.clone(), self.runs(name)?)));
        let mut nodes: BTreeMap<Name, Runs> = nodes.collect();
        let observed = tokio::task::spawn_blocking(move || {
            let mut found = BTreeMap::new();
            for architecture in Architecture::ALL {
                let given = sets.given(architecture).map_err(|error| Unknown(bramble_system::sentence(&error)))?;
                let Some(given) = given else { continue };
                let refused = sets.refused(&given).map_err(|error| Unknown(bramble_system::sentence(&error)))?;
                let expires = given.signed.statement().and_then(|said| said.expires);
                let set = Set { digest: given.digest, inputs: given.manifest.inputs, expires, refused };
                found.insert(architecture, set);
            }
            for runs in nodes.values_mut() {
                runs.forbidden =
                    sets.is_forbidden(runs.set).map_err(|error| Unknown(bramble_system::sentence(&error)))?;
            }
            Ok(Observed { shelf: found, nodes })
        });
        observed.await.map_err(|error| Unknown(error.to_string()))?
    }

    async fn perform(&self, planned: Planned<Infallible, ()>) -> Outcome {
        match planned.step {}
    }

    fn wakes(&self) -> Vec<watch::Receiver<u64>> {
        vec![self.agents.changed.receiver(), self.boot_sets.changed.receiver()]
    }

    fn looks(&self) -> (Duration, Duration) {
        (Duration::from_secs(15), Duration::from_secs(15))
    }
}
