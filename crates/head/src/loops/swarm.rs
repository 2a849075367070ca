//! The Swarm: what its agents say of it, and asking them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bramble_model::agent::swarm::{Observed as Listing, Reply, Work, ca_of};
use bramble_model::agent::{self, Answer, Capability, Expects, Under};
use bramble_model::engine::{EngineKind, EnginePart};
use bramble_model::names::{ClusterId, Digest, MemberId, Name};
use bramble_model::timeline::{Millis, Phase};
use bramble_plan::contract::{Outcome, Planned, Retry, Unknown};
use bramble_plan::swarm::{
    Declared, ManagerToken, Node, Observed, Record, Seen, Step, Swarm, View, ends_a_manager, lets_token_out, to_ask,
};
use bramble_system::{locked, now};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{RwLock, RwLockReadGuard, watch};
use tokio::time::{Instant, timeout};

use crate::agents::Agents;
use crate::error::Error;
use crate::snapshots::{Current, Snapshots};
use crate::swarm;
use crate::timeline::Timeline;

/// The longest an agent may take for a step: a Swarm join waits for Raft, a deployment for Docker.
const STEP: Duration = Duration::from_secs(180);
/// The longest that managers may take to say what they see.
const OBSERVE: Duration = Duration::from_secs(30);
/// When the token of managers is looked at again, in milliseconds, while someone may be joining with it.
const IN_USE: Millis = 2_000;
/// One that has said nothing for so long is not waited for alone.
const SILENCE: Duration = Duration::from_secs(2);

pub(crate) struct Controller {
    pub(super) agents: Arc<Agents>,
    pub(super) timeline: Arc<Timeline>,
    pub(super) swarm: Arc<swarm::Swarm>,
    pub(super) snapshots: Arc<Snapshots>,
    /// Read by whoever lets the token of managers out, until that step has ended; written by whoever rotates it, for as long as
    /// that takes: what is written down of it has to be so in between, too.
    pub(super) manager_token: RwLock<()>,
    /// Members whose end as managers failed at the last try: of those that the Swarm lists as managers.
    pub(super) in_vain: Mutex<BTreeSet<MemberId>>,
}

/// What a manager says of how others join.
struct Tokens {
    manager: String,
    worker: String,
    /// Whose CA both say.
    ca: Digest,
    /// Where it is.
    seed: String,
}

impl Controller {
    /// Asks managers of the Swarm for their view: those that have a majority first. Gives the first view, and who gave
    /// none, with the reason.
    async fn view(&self, declared: &Declared, record: &Record) -> (Option<View>, BTreeMap<Name, String>) {
        let Some(cluster) = record.cluster() else { return Default::default() };
        let managers = to_ask(declared, record, |name| self.timeline.engine_of(name, EngineKind::Swarm));
        self.ask_in_turn(managers.iter(), cluster).await
    }

    /// Asks these managers in their order. One that hangs holds up nobody: after a while of silence the next is asked,
    /// too, and the first view counts.
    async fn ask_in_turn<'a>(
        &self,
        mut managers: impl ExactSizeIterator<Item = &'a Name>,
        cluster: &ClusterId,
    ) -> (Option<View>, BTreeMap<Name, String>) {
        let end = Instant::now() + OBSERVE;
        let (mut without, mut last) = (BTreeMap::new(), None);
        let (mut asked, mut since) = (FuturesUnordered::new(), BTreeMap::new());
        loop {
            if let Some(name) = managers.next() {
                since.insert(name, Instant::now());
                asked.push(self.look_through(name, cluster, end - Instant::now()));
            }
            let patience = if managers.len() == 0 { OBSERVE } else { SILENCE };
            match timeout(patience, asked.next()).await {
                Err(_) => {}
                Ok(None) => return (last, without),
                Ok(Some((name, Ok(listing)))) => {
                    since.remove(name);
                    let silent = since.into_iter().filter(|(_, since)| since.elapsed() >= SILENCE);
                    without.extend(silent.map(|(name, _)| {
                        (name.clone(), format!("its agent has not answered within {} s", SILENCE.as_secs()))
                    }));
                    return (Some(View::Read { through: name.clone(), listing }), without);
                }
                Ok(Some((name, Err(reason)))) => {
                    since.remove(name);
                    last = Some(View::Unreadable { through: name.clone(), reason: reason.clone() });
                    without.insert(name.clone(), reason);
                }
            }
        }
    }

    /// What one manager sees of this Swarm, or why it does not say.
    async fn look_through<'a>(
        &self,
        name: &'a Name,
        cluster: &ClusterId,
        limit: Duration,
    ) -> (&'a Name, Result<Listing, String>) {
        let seen = match self.agents.ask(name, Work::Observe.into(), None, limit).await {
            Answer::Swarm(Reply::Observed(listing)) if listing.cluster == *cluster => Ok(listing),
            Answer::Failed { error } => Err(error.into()),
            Answer::Swarm(Reply::Observed(listing)) => {
                Err(format!("it says what it sees of Swarm {}", listing.cluster))
            }
            Answer::CannotDo | Answer::Unknown(_) => Err("its agent is of another release, and cannot say".into()),
            Answer::Refused { why } => Err(format!("it refuses: {why}")),
            // Neither is one to this question; and one of them is a secret.
            Answer::Done | Answer::Swarm(Reply::JoinTokens { .. }) => Err("it does not say what it sees".into()),
        };
        (name, seen)
    }

    /// What a manager says of how others join. What is no token of a Swarm, or of two CAs, is dropped.
    async fn tokens(&self, through: &Name) -> Result<Tokens, Outcome> {
        let answer = self.ask(through, Work::JoinTokens, None).await?;
        let Answer::Swarm(Reply::JoinTokens { manager, worker, address: seed }) = answer else {
            return Err(failed(format!("{through} gave no join tokens")));
        };
        let of = |token: &str| {
            ca_of(token).map_err(|error| failed(format!("what {through} gave is no join token: {error}")))
        };
        let (ca, of_worker) = (of(&manager)?, of(&worker)?);
        if ca != of_worker {
            return Err(failed(format!("the join tokens of {through} are of two CAs, {ca} and {of_worker}")));
        }
        Ok(Tokens { manager: manager.into(), worker: worker.into(), ca, seed: seed.into() })
    }

    /// Others than the Swarm's managers may know the token with which managers join, from now on: written down before that is
    /// so, for a head that ends before it has rotated it. Nobody does while this is held.
    async fn let_token_out(&self) -> Result<RwLockReadGuard<'_, ()>, Outcome> {
        let held = self.manager_token.read().await;
        self.change(|record| {
            record.token = ManagerToken::Out;
            Ok(())
        })?;
        Ok(held)
    }

    /// Asks in this head's lead, with what the plan saw.
    async fn ask(&self, node: &Name, work: Work, expects: Option<Expects>) -> Result<Answer, Outcome> {
        let work = agent::Work::from(work);
        let needs: Vec<Capability> =
            [work.needs(), expects.as_ref().and_then(Expects::needs)].into_iter().flatten().collect();
        let can = |needed: &Capability| self.agents.is_connected(node) && self.agents.unable(node, needed).is_none();
        let promised = !needs.is_empty() && needs.iter().all(can);
        let under = match (work.only_looks(), self.swarm.lead()) {
            (true, _) => None,
            (false, Ok(fence)) => Some(Under { fence, expects }),
            (false, Err(error)) => {
                return Err(Outcome::Failed { reason: without_lead(&error), retry: Retry::BackOff });
            }
        };
        answered(node, promised, self.agents.ask(node, work, under, STEP).await)
    }

    /// Changes the record, where it is still what the plan saw. Who knows the token of managers is written by steps beside
    /// this one, and is left as it is.
    fn write(&self, seen: &Seen, change: impl Fn(&mut Record)) -> Result<(), Outcome> {
        let Seen::Record(expected) = seen else { return Err(failed("the plan saw no record".into())) };
        self.change(|record| {
            if *record != (Record { token: record.token, ..expected.clone() }) {
                return Err("the head's record of the Swarm has changed since it was planned".to_owned());
            }
            change(record);
            Ok(())
        })
    }

    fn change(&self, change: impl FnMut(&mut Record) -> Result<(), String>) -> Result<(), Outcome> {
        match self.swarm.remember(change) {
            Ok(changed) => changed.map_err(failed),
            Err(error) => {
                let help = error.help().map(|help| format!(": {help}")).unwrap_or_default();
                Err(failed(format!("{}{help}", bramble_system::sentence(&error))))
            }
        }
    }

    async fn done(&self, planned: Planned<Step, Seen>) -> Result<(), Outcome> {
        let expects = match (&planned.seen, &planned.step) {
            (Seen::Engine(state), Step::Initialise { .. } | Step::Join { .. }) => {
                Some(Expects::Engine { state: state.clone() })
            }
            (
                Seen::Generation { generation, several },
                Step::Deploy { workload, .. } | Step::Remove { workload, .. },
            ) => {
                let (workload, generation) = (workload.clone(), generation.clone());
                Some(Expects::Generation { workload, generation, several: Some(*several) })
            }
            (Seen::Member(member), Step::SetPart { .. } | Step::Forget { .. }) => {
                Some(Expects::Member { member: member.clone() })
            }
            // The head's own record is not the asked agent's to see.
            _ => None,
        };
        let _held = match lets_token_out(&planned) {
            true => Some(self.let_token_out().await?),
            false => None,
        };
        match planned.step {
            Step::Begin { node } => self.write(&planned.seen, |record| record.begin(&node))?,
            Step::Remember { cluster, managers } => {
                self.write(&planned.seen, |record| record.remember(&cluster, managers.clone()))?;
            }
            Step::Initialise { node, address, leaves } => {
                self.ask(&node, Work::Initialise { address, leaves }, expects).await?;
            }
            Step::Pin { through } => {
                let Tokens { ca, .. } = self.tokens(&through).await?;
                self.write(&planned.seen, |record| record.ca = Some(ca))?;
            }
            Step::Join { node, cluster, through, part, address, leaves } => {
                // The tokens pass through on their way from agent to agent and are not kept.
                let Tokens { manager, worker, ca, seed } = self.tokens(&through).await?;
                self.swarm
                    .remembered()
                    .map_err(|error| failed(bramble_system::sentence(&error)))?
                    .gives_token(&node, part, &cluster, &through, ca)
                    .map_err(|error| failed(error.to_string()))?;
                let token = if part == EnginePart::Manager { manager } else { worker };
                let work = Work::Join { cluster, manager: seed, token, part, address, leaves };
                self.ask(&node, work, expects).await?;
            }
            Step::Rotate { through, cluster } => {
                let Ok(_unused) = self.manager_token.try_write() else {
                    let reason = "someone joins as a manager, or is made none".into();
                    return Err(Outcome::Wait { reason, until: now() + IN_USE });
                };
                self.ask(&through, Work::RotateManagerToken { cluster }, None).await?;
                self.write(&planned.seen, |record| record.token = ManagerToken::Kept)?;
            }
            Step::SetPart { through, node_id, part, .. } => {
                self.ask(&through, Work::SetPart { node_id, part }, expects).await?;
            }
            Step::Forget { through, node_id, .. } => {
                self.ask(&through, Work::Forget { node_id }, expects).await?;
            }
            Step::Deploy { through, workload, generation, file, encrypted, .. } => {
                let work = Work::Deploy { name: workload, generation, file: file.to_string(), encrypted };
                self.ask(&through, work, expects).await?;
            }
            Step::Remove { through, workload } => {
                self.ask(&through, Work::Remove { name: workload }, expects).await?;
            }
        }
        Ok(())
    }
}

fn failed(reason: String) -> Outcome {
    Outcome::Failed { reason, retry: Retry::BackOff }
}

fn without_lead(error: &Error) -> String {
    format!("this head does not lead the Swarm yet: {}", bramble_system::sentence(error))
}

/// What an answer is to a step; `promised` is that the agent said that it can do this. One that did, and cannot, is asked
/// again when a person says so: nothing that goes by itself makes it another.
fn answered(node: &Name, promised: bool, answer: Answer) -> Result<Answer, Outcome> {
    let (reason, retry) = match answer {
        Answer::Failed { error } => (error.into(), Retry::BackOff),
        Answer::Refused { why } => (format!("{node} refuses: {why}"), Retry::BackOff),
        Answer::CannotDo if promised => (
            format!("the agent of {node} says that it can do that, and does not know it: boot {node} anew"),
            Retry::Never,
        ),
        Answer::CannotDo | Answer::Unknown(_) => {
            (format!("the agent of {node} cannot do that: it is of another release"), Retry::BackOff)
        }
        answer @ (Answer::Done | Answer::Swarm(_)) => return Ok(answer),
    };
    Err(Outcome::Failed { reason, retry })
}

impl super::Controller for Controller {
    type Planner = Swarm;

    const NAME: &'static str = "swarm";

    fn declared(&self, current: &Current) -> Declared {
        current.swarm()
    }

    async fn observe(&self, declared: &Declared) -> Result<Observed, Unknown> {
        let record = self.swarm.remembered().map_err(|error| {
            Unknown(format!("the head's record of the Swarm cannot be read: {}", bramble_system::sentence(&error)))
        })?;
        self.agents.managers_are(&record.managers);
        let (view, without) = self.view(declared, &record).await;
        let nodes = declared.nodes.keys().map(|name| {
            let node = self.timeline.study(name, |track| Node {
                engine: track
                    .health
                    .as_ref()
                    .filter(|_| track.connected)
                    .map(|health| health.engine(EngineKind::Swarm).clone()),
                boots: !track.connected && !matches!(track.phase, Phase::Off | Phase::Ready),
                address: track.facts.as_ref().map(|facts| facts.address.to_string()),
                unable: self.agents.unable(name, &Capability::LeavesByName),
                rotates_not: self.agents.unable(name, &Capability::RotatesTokens),
                refuses: track.health.as_ref().filter(|_| track.connected).and_then(|health| health.refuses),
            });
            (name.clone(), node)
        });
        let mut in_vain = locked(&self.in_vain);
        if let Some(View::Read { listing, .. }) = &view {
            in_vain.retain(|id| listing.members.iter().any(|member| member.manager && member.id == *id));
        }
        Ok(Observed { nodes: nodes.collect(), record, view, without, in_vain: in_vain.clone() })
    }

    fn saw(&self, seen: Result<&Observed, &Unknown>) {
        let without = seen.map(|observed| observed.without.clone()).unwrap_or_default();
        match seen.map(|observed| &observed.view) {
            Ok(Some(View::Read { listing, .. })) => self.swarm.read(listing.clone(), without),
            Ok(Some(View::Unreadable { through, reason })) => {
                self.swarm.cannot_read(&format!("manager {through} cannot say: {reason}"), without);
            }
            Ok(None) => self.swarm.cannot_read("no manager of it is here", without),
            Err(Unknown(reason)) => self.swarm.cannot_read(reason, without),
        }
    }

    /// No step is asked without a lead: each look tries to take it.
    fn doubt(&self) -> Option<String> {
        self.snapshots.in_doubt().or_else(|| self.swarm.lead().err().map(|error| without_lead(&error)))
    }

    async fn perform(&self, planned: Planned<Step, Seen>) -> Outcome {
        let ends = match &planned.seen {
            Seen::Member(member) if ends_a_manager(&planned) => Some(member.id.clone()),
            _ => None,
        };
        let outcome = self.done(planned).await.err().unwrap_or(Outcome::Done);
        if let Some(id) = ends {
            let mut in_vain = locked(&self.in_vain);
            match &outcome {
                Outcome::Failed { .. } => in_vain.insert(id),
                Outcome::Done | Outcome::Wait { .. } => in_vain.remove(&id),
            };
        }
        outcome
    }

    fn wakes(&self) -> Vec<watch::Receiver<u64>> {
        vec![self.agents.changed.receiver()]
    }

    fn looks(&self) -> (Duration, Duration) {
        (Duration::from_secs(5), Duration::from_millis(1500))
    }
}

#[cfg(test)]
mod tests;
