//! Keeping the engine true to the repository: observe, plan, do, again.
//!
//! ```text
//! wait for (agents changed | time) ─▶ observe ─▶ plan (pure) ─▶ start the steps that are new
//!        ▲                                                              │
//!        └──────── a step ended, or failed and is due again ◀───────────┘
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bramble_model::agent::{Answer, EngineState, Observed, Work};
use bramble_model::api::Waiting;
use bramble_model::names::{Digest, Name};
use bramble_model::repository::EnginePart;
use bramble_model::timeline::{Millis, What};
use bramble_plan::swarm::{Facts, Node, Plan, Step, plan};
use bramble_system::now;
use sha2::{Digest as _, Sha256};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Head;

/// Between two looks at a cluster that changes, and at one that rests.
const SOON: Duration = Duration::from_millis(1500);
const REST: Duration = Duration::from_secs(5);
/// After a failed step, in milliseconds.
const AGAIN: Millis = 5000;
/// The longest an agent may take for a step: a Swarm join waits for Raft, a deployment for Docker.
const STEP: Duration = Duration::from_secs(180);
const OBSERVE: Duration = Duration::from_secs(30);

/// What the loop waits for, by subject.
#[derive(Default)]
pub(crate) struct Waits(Mutex<BTreeMap<String, Waiting>>);

impl Waits {
    pub(crate) fn list(&self) -> Vec<Waiting> {
        self.0.lock().expect("no panic while held").values().cloned().collect()
    }

    /// Replaces the list; a reason that stays keeps its time.
    fn set(&self, new: impl IntoIterator<Item = (String, String, Option<Millis>)>) {
        let mut held = self.0.lock().expect("no panic while held");
        let old = std::mem::take(&mut *held);
        for (subject, reason, until) in new {
            let since = old.get(&subject).filter(|old| old.reason == reason).map_or_else(now, |old| old.since);
            held.insert(subject.clone(), Waiting { subject, reason, since, until });
        }
    }
}

/// The last view of the engine.
#[derive(Default)]
pub(crate) struct View(Mutex<Observed>);

impl View {
    pub(crate) fn latest(&self) -> Observed {
        self.0.lock().expect("no panic while held").clone()
    }

    fn set(&self, observed: Observed) {
        *self.0.lock().expect("no panic while held") = observed;
    }
}

/// What the content of a workload's file is called.
pub fn generation(file: &[u8]) -> String {
    Digest(Sha256::digest(file).into()).short()
}

/// A step that failed.
struct Failure {
    reason: String,
    again: Millis,
}

impl Head {
    /// Workloads with the name of their content, read anew each time: the repository is the truth.
    /// `None` where the file cannot be read.
    pub(crate) fn generations(&self) -> BTreeMap<Name, Option<String>> {
        let read = |(name, workload): (&Name, &bramble_model::repository::Workload)| {
            let bytes = std::fs::read(&workload.path);
            if let Err(error) = &bytes {
                tracing::debug!(workload = %name, path = %workload.path.display(), %error, "its file cannot be read");
            }
            (name.clone(), bytes.ok().map(|bytes| generation(&bytes)))
        };
        self.cluster().workloads.iter().map(read).collect()
    }

    fn facts(&self) -> Facts {
        let cluster = self.cluster();
        let nodes = cluster.nodes.iter().map(|(name, node)| {
            self.timeline.study(name, |track| {
                let engine = track.health.as_ref().filter(|_| track.connected).map(|health| health.engine.clone());
                let address = track.facts.as_ref().map(|facts| facts.address.to_string());
                (name.clone(), Node { part: node.part, engine, address })
            })
        });
        let remembered = self.store.cluster().unwrap_or_else(|error| {
            tracing::error!(%error, "the store cannot be read");
            None
        });
        Facts { nodes: nodes.collect(), view: None, remembered, workloads: self.generations() }
    }

    /// Asks a manager of the cluster for its view.
    async fn observe(&self, facts: &Facts) -> Option<(Name, Observed)> {
        let manager = facts.nodes.iter().find_map(|(name, node)| match &node.engine {
            Some(EngineState::Member { manager: true, reachable: true, cluster, .. })
                if facts.remembered.as_ref().is_none_or(|remembered| remembered == cluster) =>
            {
                Some(name.clone())
            }
            _ => None,
        })?;
        match self.agents.ask(&manager, Work::Observe, OBSERVE).await {
            Answer::Observed(observed) => Some((manager, observed)),
            Answer::Failed { error } => {
                tracing::warn!(%manager, error, "a manager could not be asked");
                None
            }
            _ => None,
        }
    }

    async fn perform(&self, step: &Step) -> Result<(), String> {
        let ask = async |node: &Name, work: Work| match self.agents.ask(node, work, STEP).await {
            Answer::Failed { error } => Err(error),
            answer => Ok(answer),
        };
        match step {
            Step::Initialise { node, address, .. } => {
                ask(node, Work::Initialise { address: address.clone() }).await.map(drop)
            }
            Step::Join { node, cluster, through, part, address } => {
                // The tokens pass through on their way from agent to agent and are not kept.
                let Answer::JoinTokens { manager, worker, address: seed } = ask(through, Work::JoinTokens).await?
                else {
                    return Err(format!("{through} gave no join tokens"));
                };
                let token = if *part == EnginePart::Manager { manager } else { worker };
                let (cluster, address) = (cluster.clone(), address.clone());
                let work = Work::Join { cluster, manager: seed, token, part: *part, address };
                ask(node, work).await.map(drop)
            }
            Step::SetPart { through, node_id, part, .. } => {
                ask(through, Work::SetPart { node_id: node_id.clone(), part: *part }).await.map(drop)
            }
            Step::Forget { through, node_id, .. } => {
                ask(through, Work::Forget { node_id: node_id.clone() }).await.map(drop)
            }
            Step::Deploy { through, workload, generation } => {
                let cluster = self.cluster();
                let path = &cluster.workloads.get(workload).ok_or("it has just left the repository")?.path;
                let file =
                    tokio::fs::read_to_string(path).await.map_err(|error| format!("{}: {error}", path.display()))?;
                let work = Work::Deploy { name: workload.clone(), generation: generation.clone(), file };
                ask(through, work).await.map(drop)
            }
            Step::Remove { through, workload } => ask(through, Work::Remove { name: workload.clone() }).await.map(drop),
        }
    }
}

/// What a step concerns, and the sentence that says what it does.
fn describe(step: &Step) -> (String, String) {
    match step {
        Step::Initialise { node, reason, .. } => (node.to_string(), format!("starts the Swarm: {reason}")),
        Step::Join { node, through, .. } => (node.to_string(), format!("joins the Swarm through {through}")),
        Step::SetPart { node, part, .. } => {
            (node.to_string(), format!("becomes a {part:?} of the Swarm").to_lowercase())
        }
        Step::Forget { hostname, node_id, reason, .. } => {
            (format!("{hostname} ({node_id})"), format!("its old entry in the Swarm goes: {reason}"))
        }
        Step::Deploy { workload, generation, .. } => (workload.to_string(), format!("is deployed as {generation}")),
        Step::Remove { workload, .. } => (workload.to_string(), "is removed: it is not in the repository".into()),
    }
}

/// Runs until cancelled.
pub(crate) async fn run(head: Arc<Head>, stop: CancellationToken) {
    let mut running: JoinSet<(Step, Result<(), String>)> = JoinSet::new();
    let mut busy: BTreeMap<String, String> = BTreeMap::new();
    let mut failed: BTreeMap<String, Failure> = BTreeMap::new();
    while !stop.is_cancelled() {
        let mut facts = head.facts();
        facts.view = tokio::select! {
            () = stop.cancelled() => return,
            view = head.observe(&facts) => view,
        };
        if let Some((_, view)) = &facts.view {
            head.observed.set(view.clone());
        }
        let Plan { steps, waits, cluster } = plan(&facts);
        if let Some(cluster) = cluster.filter(|cluster| facts.remembered.as_ref() != Some(cluster)) {
            match head.store.put_cluster(&cluster) {
                Ok(()) => head.timeline.note(&format!("the nodes' Swarm is {cluster}")),
                Err(error) => tracing::error!(%error, "the Swarm could not be remembered"),
            }
        }
        let resting = steps.is_empty() && waits.is_empty() && settled(&head);
        for step in steps {
            let (subject, sentence) = describe(&step);
            if busy.contains_key(&subject) || failed.get(&subject).is_some_and(|failure| failure.again > now()) {
                continue;
            }
            let node = subject.parse::<Name>().ok().filter(|name| head.cluster().nodes.contains_key(name));
            let text = if node.is_some() { sentence.clone() } else { format!("{subject} {sentence}") };
            head.timeline.add(node.as_ref(), What::Note { text });
            busy.insert(subject, sentence);
            let head = Arc::clone(&head);
            running.spawn(async move {
                let result = head.perform(&step).await;
                (step, result)
            });
        }
        failed.retain(|_, failure| failure.again + 2 * AGAIN > now());
        head.waiting.set(
            waits
                .into_iter()
                .map(|wait| (wait.subject, wait.reason, None))
                .chain(busy.iter().map(|(subject, sentence)| (subject.clone(), sentence.clone(), None)))
                .chain(
                    failed
                        .iter()
                        .map(|(subject, failure)| (subject.clone(), failure.reason.clone(), Some(failure.again))),
                ),
        );
        tokio::select! {
            () = stop.cancelled() => {}
            () = head.agents.changed.notified() => {}
            () = tokio::time::sleep(if resting { REST } else { SOON }) => {}
            Some(ended) = running.join_next(), if !running.is_empty() => {
                let (step, result) = ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
                let (subject, sentence) = describe(&step);
                busy.remove(&subject);
                failed.remove(&subject);
                if let Err(reason) = result {
                    head.timeline.note(&format!("{subject} {sentence}: failed: {reason}"));
                    failed.insert(subject, Failure { reason, again: now() + AGAIN });
                }
            }
        }
    }
    // What still runs is asked of agents; they finish it, and the next head observes the result.
    running.abort_all();
}

/// Every service has its replicas.
fn settled(head: &Head) -> bool {
    head.observed.latest().services.iter().all(|service| service.running == service.wanted)
}
