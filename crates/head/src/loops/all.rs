//! Every loop of the head, and what each is handed.

use std::sync::{Arc, Mutex};

use bramble_model::desired::Foreseen;
use bramble_model::engine::EngineKind;
use bramble_model::section::Told;
use bramble_plan::contract::Unknown;
use bramble_store::Store;
use futures_util::future::BoxFuture;
use tokio::sync::RwLock;
use tokio_util::sync::CancellationToken;

use super::source::Following;
use super::{Controller, Foresight, Sections, Shared, destroyed, foresee, run};
use super::{backups, leaving, rotation, sets, source, strangers, swarm};
use crate::adoptions::Adoptions;
use crate::agents::Agents;
use crate::backup::Backups;
use crate::boot_sets::BootSets;
use crate::desired::Desired;
use crate::rotation::Rotating;
use crate::snapshots::{Current, Snapshots};
use crate::strangers::Strangers;
use crate::swarm::Swarm;
use crate::timeline::Timeline;

/// What the loops see and change.
pub(crate) struct Subjects {
    pub(crate) store: Store,
    pub(crate) boot_sets: Arc<BootSets>,
    pub(crate) timeline: Arc<Timeline>,
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) following: Arc<Following>,
    pub(crate) desired: Arc<Desired>,
    pub(crate) agents: Arc<Agents>,
    pub(crate) swarm: Arc<Swarm>,
    pub(crate) strangers: Arc<Strangers>,
    pub(crate) adoptions: Arc<Adoptions>,
    pub(crate) backups: Arc<Backups>,
    pub(crate) rotating: Arc<Rotating>,
    pub(crate) sections: Arc<Sections>,
}

/// The part of the head that keeps things true.
pub(crate) struct Loops {
    sections: Arc<Sections>,
    timeline: Arc<Timeline>,
    snapshots: Arc<Snapshots>,
    declared: Arc<OfDeclared>,
    source: Arc<source::Controller>,
    /// Of no snapshot: it goes on whatever the repository says.
    rotation: Arc<rotation::Controller>,
}

/// What keeps true what a snapshot declares: all but the loop that brings snapshots.
struct OfDeclared {
    swarm: Arc<swarm::Controller>,
    leaving: Arc<leaving::Controller>,
    strangers: Arc<strangers::Controller>,
    backups: Arc<backups::Controller>,
    sets: Arc<sets::Controller>,
}

impl Foresight for OfDeclared {
    fn destroyed<'a>(&'a self, current: &'a Current, next: &'a Current) -> BoxFuture<'a, Result<Vec<Told>, Unknown>> {
        Box::pin(async move {
            let mut all = destroyed(&*self.leaving, current, next).await?;
            for kind in EngineKind::ALL {
                all.extend(match kind {
                    EngineKind::Swarm => destroyed(&*self.swarm, current, next).await?,
                });
            }
            all.extend(destroyed(&*self.sets, current, next).await?);
            all.extend(destroyed(&*self.backups, current, next).await?);
            all.extend(destroyed(&*self.strangers, current, next).await?);
            Ok(all)
        })
    }
}

pub(crate) type LoopTask = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

impl Loops {
    pub(crate) fn of(subjects: Subjects) -> Self {
        let Subjects { store, boot_sets, timeline, snapshots, following, desired, agents, .. } = subjects;
        let Subjects { swarm, strangers, adoptions, backups, rotating, sections, .. } = subjects;
        let declared = Arc::new(OfDeclared {
            swarm: Arc::new(swarm::Controller {
                agents: Arc::clone(&agents),
                timeline: Arc::clone(&timeline),
                swarm,
                snapshots: Arc::clone(&snapshots),
                manager_token: RwLock::default(),
                in_vain: Mutex::default(),
            }),
            leaving: Arc::new(leaving::Controller {
                agents: Arc::clone(&agents),
                adoptions: Arc::clone(&adoptions),
                snapshots: Arc::clone(&snapshots),
                store,
                timeline: Arc::clone(&timeline),
            }),
            strangers: Arc::new(strangers::Controller { strangers, adoptions }),
            backups: Arc::new(backups::Controller { backups, snapshots: Arc::clone(&snapshots) }),
            sets: Arc::new(sets::Controller { boot_sets, timeline: Arc::clone(&timeline), agents }),
        });
        Loops {
            source: Arc::new(source::Controller {
                following,
                snapshots: Arc::clone(&snapshots),
                desired,
                timeline: Arc::clone(&timeline),
                foresight: Arc::clone(&declared) as Arc<dyn Foresight>,
            }),
            rotation: Arc::new(rotation::Controller { rotating }),
            declared,
            sections,
            timeline,
            snapshots,
        }
    }

    /// Starts all of them.
    pub(crate) fn start(&self, stop: &CancellationToken, spawn: &mut impl FnMut(LoopTask)) {
        for kind in EngineKind::ALL {
            spawn(match kind {
                EngineKind::Swarm => self.one(&self.declared.swarm, stop),
            });
        }
        spawn(self.one(&self.declared.leaving, stop));
        spawn(self.one(&self.declared.strangers, stop));
        spawn(self.one(&self.declared.backups, stop));
        spawn(self.one(&self.declared.sets, stop));
        spawn(self.one(&self.source, stop));
        spawn(self.one(&self.rotation, stop));
    }

    fn one<C: Controller>(&self, controller: &Arc<C>, stop: &CancellationToken) -> LoopTask {
        let shared = Shared {
            sections: Arc::clone(&self.sections),
            timeline: Arc::clone(&self.timeline),
            current: self.snapshots.subscribe(),
        };
        Box::pin(run(Arc::clone(controller), shared, stop.clone()))
    }

    /// What every loop would do with a snapshot, by its own planner, from what is to see now.
    pub(crate) async fn foresee(&self, next: &Current) -> Vec<Foreseen> {
        let mut all = vec![foresee(&*self.declared.leaving, next).await];
        for kind in EngineKind::ALL {
            all.push(match kind {
                EngineKind::Swarm => foresee(&*self.declared.swarm, next).await,
            });
        }
        all.extend([
            foresee(&*self.declared.sets, next).await,
            foresee(&*self.source, next).await,
            foresee(&*self.declared.backups, next).await,
            foresee(&*self.declared.strangers, next).await,
        ]);
        all
    }
}
