//! A simulated Swarm: its members are simulated agents, and its manager answers what the head asks of one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bramble_model::agent::swarm::{Label, Member, Observed, Replica, Reply, Service, Work as Question};
use bramble_model::agent::{Answer, Expects, FromAgent, ToAgent, Under, Work};
use bramble_model::engine::EngineState;
use bramble_model::names::{ClusterId, Generation, MemberId, Name};
use futures_util::StreamExt;
use tokio::sync::mpsc;

use crate::agents::{Session, health_with};
use crate::fleet::{HEARTBEAT, offset};

/// Replicas of every service.
const REPLICAS: usize = 3;

/// A workload that a manager was told to deploy.
#[derive(Debug)]
pub struct Deployed {
    pub workload: Name,
    /// The workload's file.
    pub file: String,
    /// When the question had arrived.
    pub at: Instant,
}

/// The state that all managers share.
pub struct Swarm {
    /// Nodes, and whether each is a manager.
    members: Vec<(Name, bool)>,
    /// Workloads that are deployed, and the generation of each.
    deployed: Mutex<BTreeMap<Name, Generation>>,
    tell: mpsc::UnboundedSender<Deployed>,
}

impl Swarm {
    /// A Swarm that these nodes have joined; the second of each says whether it is a manager. What is deployed is
    /// told to the receiver.
    pub fn new(members: Vec<(Name, bool)>) -> (Arc<Self>, mpsc::UnboundedReceiver<Deployed>) {
        let (tell, told) = mpsc::unbounded_channel();
        (Arc::new(Swarm { members, deployed: Mutex::default(), tell }), told)
    }

    /// How many workloads are deployed.
    pub fn workloads(&self) -> usize {
        self.deployed.lock().expect("no panic while held").len()
    }

    /// The place of a node in it.
    fn state(&self, number: usize) -> EngineState {
        let (name, manager) = &self.members[number];
        EngineState::Member { cluster: cluster(), node_id: id(name), manager: *manager, reachable: true }
    }

    fn listing(&self) -> Observed {
        let members = self.members.iter().map(|(name, manager)| Member {
            id: id(name),
            hostname: name.as_str().into(),
            manager: *manager,
            up: true,
        });
        let deployed = self.deployed.lock().expect("no panic while held");
        let services = deployed.iter().enumerate().map(|(number, (workload, generation))| Service {
            workload: Some(workload.as_str().into()),
            generation: Some(generation.clone().into()),
            // The bench names the one service of a file as its workload.
            name: format!("{workload}_{workload}").into(),
            wanted: REPLICAS as u32,
            running: REPLICAS as u32,
            ports: vec![8000 + number as u16],
            replicas: (0..REPLICAS)
                .map(|replica| Replica {
                    node_id: Some(id(&self.members[(number * REPLICAS + replica) % self.members.len()].0)),
                    state: "running".into(),
                    error: None,
                })
                .collect(),
        });
        Observed { cluster: cluster(), members: members.collect(), services: services.collect() }
    }

    /// What a manager answers.
    fn answer(&self, work: Work, under: Option<Under>) -> Answer {
        let at = Instant::now();
        let mut deployed = self.deployed.lock().expect("no panic while held");
        if let Some(Expects::Generation { workload, generation, .. }) = under.and_then(|under| under.expects)
            && deployed.get(&workload).cloned().map(Label::from) != generation
        {
            return Answer::Refused { why: format!("workload {workload} is of another generation").into() };
        }
        let Work::Swarm(work) = work else { return Answer::CannotDo };
        match work {
            Question::Observe => {
                drop(deployed);
                Answer::Swarm(Reply::Observed(self.listing()))
            }
            Question::Deploy { name, generation, file, .. } => {
                deployed.insert(name.clone(), generation);
                // Nobody may listen any more.
                let _ = self.tell.send(Deployed { workload: name, file, at });
                Answer::Done
            }
            Question::Remove { name } => {
                deployed.remove(&name);
                Answer::Done
            }
            _ => Answer::CannotDo,
        }
    }

    /// Is the member of this number, until the connection ends.
    ///
    /// # Errors
    /// When the connection ends.
    pub async fn serve(self: Arc<Self>, number: usize, mut session: Session) -> std::io::Result<()> {
        session.say(&health_with(0, self.state(number))).await?;
        let mut beat = tokio::time::interval_at(tokio::time::Instant::now() + offset(number), HEARTBEAT);
        let mut busy = 0;
        loop {
            let line = tokio::select! {
                _ = beat.tick() => {
                    busy = (busy + 7) % 100;
                    session.say(&health_with(busy, self.state(number))).await?;
                    continue;
                }
                line = session.lines.next() => line.ok_or(std::io::ErrorKind::UnexpectedEof)?,
            };
            let message = serde_json::from_str(&line.map_err(std::io::Error::other)?)?;
            if let ToAgent::Ask { number, work, under } = message {
                session.say(&FromAgent::Answer { number, answer: self.answer(work, under) }).await?;
            }
        }
    }
}

/// The id of the only Swarm.
fn cluster() -> ClusterId {
    "simulated".parse().expect("letters are an id")
}

/// What the Swarm calls a node.
fn id(name: &Name) -> MemberId {
    format!("id-{name}").parse().expect("a simulated node's name is short")
}
