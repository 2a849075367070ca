//! The Swarm: what its agents say of it, and asking them.

use std::sync::Arc;
use std::time::Duration;

use bramble_model::agent::swarm::{Reply, Work};
use bramble_model::agent::{self, Answer, Capability, Expects, Under};
use bramble_model::engine::{EngineKind, EnginePart};
use bramble_model::names::Name;
use bramble_model::timeline::Phase;
use bramble_plan::contract::{Outcome, Planned, Retry, Unknown};
use bramble_plan::swarm::{Declared, Node, Observed, Record, Seen, Step, Swarm, View, to_ask};
use tokio::sync::watch;

use crate::agents::Agents;
use crate::snapshots::{Current, Snapshots};
use crate::swarm;
use crate::timeline::Timeline;

/// The longest an agent may take for a step: a Swarm join waits for Raft, a deployment for Docker.
const STEP: Duration = Duration::from_secs(180);
/// The longest that a manager may take to say what it sees.
const OBSERVE: Duration = Duration::from_secs(30);

pub(crate) struct Controller {
    pub(super) agents: Arc<Agents>,
    pub(super) timeline: Arc<Timeline>,
    pub(super) swarm: Arc<swarm::Swarm>,
    pub(super) snapshots: Arc<Snapshots>,
}

impl Controller {
    /// Asks a manager of the Swarm for its view.
    async fn view(&self, declared: &Declared, record: &Record) -> Option<View> {
        let cluster = record.cluster()?;
        let managers = to_ask(declared, record, |name| self.timeline.engine_of(name, EngineKind::Swarm));
        let mut last = None;
        for through in managers {
            match self.agents.ask(&through, Work::Observe.into(), None, OBSERVE).await {
                Answer::Swarm(Reply::Observed(listing)) if listing.cluster == cluster => {
                    return Some(View::Read { through, listing });
                }
                Answer::Failed { error } => last = Some(View::Unreadable { through, reason: error }),
                answer => last = Some(View::Unreadable { through, reason: format!("it answers {answer:?}") }),
            }
        }
        last
    }

    /// Asks in this head's lead, with what the plan saw.
    async fn ask(&self, node: &Name, work: Work, expects: Option<Expects>) -> Result<Answer, Outcome> {
        let work = agent::Work::from(work);
        let needs: Vec<Capability> =
            [work.needs(), expects.as_ref().and_then(Expects::needs)].into_iter().flatten().collect();
        let can = |needed: &Capability| self.agents.is_connected(node) && self.agents.unable(node, needed).is_none();
        let promised = !needs.is_empty() && needs.iter().all(can);
        let under = (!work.only_looks()).then_some(Under { fence: self.swarm.lead(), expects });
        answered(node, promised, self.agents.ask(node, work, under, STEP).await)
    }

    /// Changes the record, where it is still what the plan saw.
    fn write(&self, seen: &Seen, change: impl Fn(&mut Record)) -> Result<(), Outcome> {
        let failed = |reason: String| Outcome::Failed { reason, retry: Retry::BackOff };
        let Seen::Record(expected) = seen else { return Err(failed("the plan saw no record".into())) };
        let changed = self.swarm.remember(|record| {
            let same = record == expected;
            if same {
                change(record);
            }
            same
        });
        match changed {
            Ok(true) => Ok(()),
            Ok(false) => Err(failed("the head's record of the Swarm has changed since it was planned".into())),
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
        match planned.step {
            Step::Begin { node } => self.write(&planned.seen, |record| record.begin(&node))?,
            Step::Remember { cluster, managers } => {
                self.write(&planned.seen, |record| record.remember(&cluster, managers.clone()))?;
            }
            Step::Initialise { node, address, leaves } => {
                self.ask(&node, Work::Initialise { address, leaves }, expects).await?;
            }
            Step::Join { node, cluster, through, part, address, leaves } => {
                // The tokens pass through on their way from agent to agent and are not kept.
                let Answer::Swarm(Reply::JoinTokens { manager, worker, address: seed }) =
                    self.ask(&through, Work::JoinTokens, None).await?
                else {
                    let reason = format!("{through} gave no join tokens");
                    return Err(Outcome::Failed { reason, retry: Retry::BackOff });
                };
                let token = if part == EnginePart::Manager { manager } else { worker };
                let work = Work::Join { cluster, manager: seed, token, part, address, leaves };
                self.ask(&node, work, expects).await?;
            }
            Step::SetPart { through, node_id, part, .. } => {
                self.ask(&through, Work::SetPart { node_id, part }, expects).await?;
            }
            Step::Forget { through, node_id, .. } => {
                self.ask(&through, Work::Forget { node_id }, expects).await?;
            }
            Step::Deploy { through, workload, generation, file, .. } => {
                let work = Work::Deploy { name: workload, generation, file: file.to_string() };
                self.ask(&through, work, expects).await?;
            }
            Step::Remove { through, workload } => {
                self.ask(&through, Work::Remove { name: workload }, expects).await?;
            }
        }
        Ok(())
    }
}

/// What an answer is to a step; `promised` is that the agent said that it can do this. One that did, and cannot, is asked
/// again when a person says so: nothing that goes by itself makes it another.
fn answered(node: &Name, promised: bool, answer: Answer) -> Result<Answer, Outcome> {
    let (reason, retry) = match answer {
        Answer::Failed { error } => (error, Retry::BackOff),
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
        let view = self.view(declared, &record).await;
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
            });
            (name.clone(), node)
        });
        Ok(Observed { nodes: nodes.collect(), record, view })
    }

    fn saw(&self, observed: &Observed) {
        match &observed.view {
            Some(View::Read { listing, .. }) => self.swarm.read(listing.clone()),
            Some(View::Unreadable { through, reason }) => {
                self.swarm.cannot_read(&format!("manager {through} cannot say: {reason}"));
            }
            None => self.swarm.cannot_read("no manager of it is here"),
        }
    }

    fn doubt(&self) -> Option<String> {
        self.snapshots.in_doubt()
    }

    async fn perform(&self, planned: Planned<Step, Seen>) -> Outcome {
        self.done(planned).await.err().unwrap_or(Outcome::Done)
    }

    fn wakes(&self) -> Vec<watch::Receiver<u64>> {
        vec![self.agents.changed.receiver()]
    }

    fn looks(&self) -> (Duration, Duration) {
        (Duration::from_secs(5), Duration::from_millis(1500))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_promised_and_does_not_know_waits_for_a_person() {
        let node = "m1".parse().expect("a name");
        let retry = |promised, answer| match answered(&node, promised, answer) {
            Err(Outcome::Failed { retry, .. }) => Some(retry),
            _ => None,
        };
        assert_eq!(retry(true, Answer::CannotDo), Some(Retry::Never));
        // It may run another release soon.
        assert_eq!(retry(false, Answer::CannotDo), Some(Retry::BackOff));
        assert_eq!(retry(true, Answer::UNKNOWN), Some(Retry::BackOff));
        assert_eq!(retry(true, Answer::Failed { error: "it hangs".into() }), Some(Retry::BackOff));
        assert_eq!(retry(true, Answer::Refused { why: "it sees another".into() }), Some(Retry::BackOff));
        assert_eq!(retry(true, Answer::Done), None);
    }
}
