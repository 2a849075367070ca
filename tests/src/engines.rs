//! Simulated nodes with an engine: what Docker Swarm is to the head, without a machine behind.
//!
//! ```text
//!  power on ─▶ boot ─▶ enrol ─▶ Alone ──initialise, join──▶ Member ──leaves by name──▶ Alone
//!                                 ▲                           │
//!                                 └──────── power cut: blank ─┘   its entry in the Swarm stays, and is down
//! ```
//! They obey leads and refuse what was planned from something else than they see, as the agent does; what they are
//! asked takes a while, and goes on when the connection is lost. What must never be asked is written down.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bramble_model::agent::swarm::{self, Label, Observed, Reply, Service, Work as Question};
use bramble_model::agent::{Answer, Expects, Fence, FromAgent, ToAgent, Under, Work};
use bramble_model::engine::{EnginePart, EngineState};
use bramble_model::names::{ClusterId, Generation, MemberId, Name};
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::agents::{Agent, Head, Session, health_with};

/// How often they say how they are; changes are said at once.
const BEAT: Duration = Duration::from_secs(1);
/// Between two tries to reach a head.
const AGAIN: Duration = Duration::from_millis(50);
/// The longest that a step takes before its effect, and after it, in milliseconds.
const SLOW: u64 = 200;

/// All nodes, and the Swarms that they hold.
pub struct World(Mutex<State>);

#[derive(Default)]
struct State {
    nodes: BTreeMap<Name, Node>,
    swarms: BTreeMap<ClusterId, Swarm>,
    /// What each content was called when it was deployed.
    called: BTreeMap<(Name, Generation), String>,
    tally: Tally,
    broken: Vec<String>,
    /// Why a node is not let in, the last time that it was not.
    trouble: BTreeMap<Name, String>,
    dice: u64,
}

struct Node {
    part: EnginePart,
    mac: String,
    /// Counts up with each power cut: what an earlier one was asked has no effect any more.
    power: u64,
    task: Option<JoinHandle<()>>,
    /// The Swarm that it is in, and what it is called there.
    place: Option<(ClusterId, MemberId)>,
    /// The newest life of the head's store that it was told since it was switched on, and the newest lead that it has
    /// obeyed in it.
    life: u64,
    lead: Option<Fence>,
    /// Its engine does one thing at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct Swarm {
    members: BTreeMap<MemberId, Member>,
    deployed: BTreeMap<Name, Deployed>,
    /// How often its token of managers was rotated.
    rotations: usize,
}

struct Member {
    hostname: Name,
    manager: bool,
    up: bool,
}

/// A workload, as it was deployed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployed {
    pub generation: Generation,
    pub file: String,
}

/// What had an effect, and what had none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    pub boots: usize,
    pub begun: usize,
    pub joined: usize,
    pub deployed: usize,
    pub forgotten: usize,
    pub refused: usize,
    /// Steps that a node works on just now.
    pub under_way: usize,
}

impl World {
    /// These nodes, switched off.
    pub fn new(nodes: impl IntoIterator<Item = (Name, EnginePart, String)>) -> Arc<Self> {
        let nodes = nodes.into_iter().map(|(name, part, mac)| {
            let turn = Arc::default();
            (name, Node { part, mac, power: 0, task: None, place: None, life: 0, lead: None, turn })
        });
        let dice = 0x9e37_79b9_7f4a_7c15;
        Arc::new(World(Mutex::new(State { nodes: nodes.collect(), dice, ..State::default() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic while held")
    }

    /// These nodes lose their power in the same instant, and get it again: their engines are blank. Within a runtime.
    pub fn cut(self: &Arc<Self>, head: &Head, names: &[Name]) {
        let mut state = self.state();
        for name in names {
            let node = state.nodes.get_mut(name).expect("a node");
            if let Some(task) = node.task.take() {
                task.abort();
            }
            node.power += 1;
            (node.life, node.lead) = (0, None);
            node.turn = Arc::default();
            let here = Here { world: Arc::clone(self), name: name.clone(), power: node.power };
            node.task = Some(tokio::spawn(here.live(head.clone(), node.mac.clone())));
            state.leave(name);
            state.tally.boots += 1;
        }
    }

    /// What was asked of a node and must never be.
    pub fn broken(&self) -> Vec<String> {
        self.state().broken.clone()
    }

    pub fn tally(&self) -> Tally {
        self.state().tally.clone()
    }

    /// The one Swarm that all nodes are in, each with its own part, without an entry of any that is gone.
    ///
    /// # Errors
    /// What is different.
    pub fn at_rest(&self) -> Result<(ClusterId, BTreeMap<Name, Deployed>), String> {
        let state = self.state();
        let clusters: BTreeSet<Option<&ClusterId>> =
            state.nodes.values().map(|node| node.place.as_ref().map(|(cluster, _)| cluster)).collect();
        let places: Vec<_> = state.nodes.iter().map(|(name, node)| (name, &node.place)).collect();
        let told = || format!("{places:?}; {:?}", state.trouble);
        let (1, Some(Some(cluster))) = (clusters.len(), clusters.first()) else { return Err(told()) };
        let swarm = &state.swarms[*cluster];
        for (id, member) in &swarm.members {
            let wanted = state.nodes[&member.hostname].part == EnginePart::Manager;
            if !member.up || member.manager != wanted {
                return Err(format!("{id}: up {}, manager {}; {}", member.up, member.manager, told()));
            }
        }
        Ok(((*cluster).clone(), swarm.deployed.clone()))
    }
}

impl State {
    fn dice(&mut self, sides: u64) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice % sides
    }

    fn node(&mut self, name: &Name) -> &mut Node {
        self.nodes.get_mut(name).expect("a node")
    }

    fn member(&self, name: &Name) -> Option<(&ClusterId, &MemberId, &Swarm)> {
        let (cluster, id) = self.nodes[name].place.as_ref()?;
        Some((cluster, id, &self.swarms[cluster]))
    }

    /// What the node's daemon says of itself.
    fn engine(&self, name: &Name) -> EngineState {
        let Some((cluster, id, swarm)) = self.member(name) else { return EngineState::Alone };
        let manager = swarm.members.get(id).is_some_and(|member| member.manager);
        let (cluster, node_id) = (cluster.clone(), id.clone());
        EngineState::Member { cluster, node_id, manager, reachable: !manager || swarm.has_majority() }
    }

    /// The Swarm in which this node can answer as a manager.
    fn managed(&mut self, name: &Name) -> Result<(ClusterId, &mut Swarm), Answer> {
        let failed = |error: &str| Answer::Failed { error: error.into() };
        match self.engine(name) {
            EngineState::Member { cluster, manager: true, reachable: true, .. } => {
                let swarm = self.swarms.get_mut(&cluster).expect("a Swarm");
                Ok((cluster, swarm))
            }
            EngineState::Member { manager: true, .. } => Err(failed("The swarm does not have a leader")),
            _ => Err(failed("This node is not a swarm manager")),
        }
    }

    /// Whether a manager that is switched on holds this Swarm.
    fn lives(&self, cluster: &ClusterId) -> bool {
        self.swarms.get(cluster).is_some_and(|swarm| swarm.members.values().any(|member| member.up && member.manager))
    }

    /// The node has no place any more; its entry stays.
    fn leave(&mut self, name: &Name) {
        let Some((cluster, id)) = self.node(name).place.take() else { return };
        if let Some(member) = self.swarms.get_mut(&cluster).and_then(|swarm| swarm.members.get_mut(&id)) {
            member.up = false;
        }
    }

    fn enter(&mut self, name: &Name, cluster: &ClusterId, manager: bool) {
        let id = format!("{name}-{}", self.node(name).power);
        let id: MemberId = id.parse().expect("a simulated node's name is short");
        let swarm = self.swarms.entry(cluster.clone()).or_default();
        swarm.members.insert(id.clone(), Member { hostname: name.clone(), manager, up: true });
        self.node(name).place = Some((cluster.clone(), id));
    }

    /// The one generation of a workload, as the manager of this name sees it.
    fn generation(&mut self, through: &Name, workload: &Name) -> Option<Option<Label>> {
        let (_, swarm) = self.managed(through).ok()?;
        Some(swarm.deployed.get(workload).map(|deployed| deployed.generation.clone().into()))
    }

    /// Whether a node may do what it is asked: nobody obeys an older lead, or a plan from something else than there is.
    fn may(&mut self, name: &Name, work: &Question, under: Option<&Under>) -> Result<(), String> {
        let Some(under) = under else {
            self.broken.push(format!("{name} is asked without a lead: {work:?}"));
            return Ok(());
        };
        let node = self.node(name);
        if under.fence.life == 0 || under.fence.life != node.life {
            return Err(format!("it is asked in life {}, and obeys life {}", under.fence.life, node.life));
        }
        if node.lead.is_some_and(|lead| lead > under.fence) {
            return Err("it has obeyed a later lead".into());
        }
        node.lead = Some(under.fence);
        let seen = match &under.expects {
            None => true,
            Some(Expects::Engine { state }) => *state == self.engine(name),
            Some(Expects::Generation { workload, generation, .. }) => {
                self.generation(name, workload).as_ref() == Some(generation)
            }
            Some(Expects::Member { member }) => self
                .managed(name)
                .is_ok_and(|(cluster, swarm)| swarm.listing(cluster).members.iter().any(|listed| listed == member)),
        };
        if !seen {
            return Err("it sees something else".into());
        }
        // Nothing that is so already is asked for again, by a plan that has seen it.
        let again = match work {
            Question::Initialise { leaves, .. } | Question::Join { leaves, .. } => {
                leaves.is_none() && self.engine(name) != EngineState::Alone
            }
            Question::Deploy { name: workload, generation, .. } => {
                self.generation(name, workload) == Some(Some(generation.clone().into()))
            }
            _ => false,
        };
        if again {
            self.broken.push(format!("{name} is asked a second time: {work:?}"));
        }
        Ok(())
    }

    /// Does what is asked. Each thing can be asked twice.
    fn perform(&mut self, name: &Name, work: Question) -> Answer {
        self.effect(name, work).unwrap_or_else(|answer| answer)
    }

    /// The node leaves what it is told to leave, and nothing else.
    fn make_free(&mut self, name: &Name, leaves: Option<&ClusterId>) -> Result<(), Answer> {
        match self.engine(name) {
            EngineState::Alone => Ok(()),
            EngineState::Member { cluster, .. } if leaves == Some(&cluster) => {
                if self.lives(&cluster) {
                    self.broken.push(format!("{name} is told to leave Swarm {cluster}, which lives"));
                }
                self.leave(name);
                Ok(())
            }
            _ => Err(Answer::Refused { why: "it belongs to another Swarm".into() }),
        }
    }

    fn effect(&mut self, name: &Name, work: Question) -> Result<Answer, Answer> {
        match work {
            Question::Initialise { leaves, .. } => {
                self.make_free(name, leaves.as_ref())?;
                let living: Vec<&ClusterId> = self.swarms.keys().filter(|cluster| self.lives(cluster)).collect();
                if !living.is_empty() {
                    let told = format!("{name} begins a Swarm beside {living:?}");
                    self.broken.push(told);
                }
                self.tally.begun += 1;
                let cluster = format!("swarm-{}", self.tally.begun).parse().expect("a short id");
                self.enter(name, &cluster, true);
            }
            Question::JoinTokens => {
                let (cluster, swarm) = self.managed(name)?;
                let (manager, worker) = (swarm.token(&cluster, true), swarm.token(&cluster, false));
                return Ok(Answer::Swarm(Reply::JoinTokens {
                    manager: manager.into(),
                    worker: worker.into(),
                    address: format!("{name}:2377").into(),
                }));
            }
            Question::Join { cluster, token, part, leaves, .. } => {
                if matches!(self.engine(name), EngineState::Member { cluster: own, .. } if own == cluster) {
                    return Ok(Answer::Done);
                }
                let manager = part == EnginePart::Manager;
                if !Swarm::is_token(&token, &cluster, manager) {
                    self.broken.push(format!("{name} is to join {cluster} as {part:?} with the token `{token}`"));
                }
                let Some(swarm) = self.swarms.get(&cluster).filter(|swarm| swarm.has_majority()) else {
                    return Ok(Answer::Failed { error: "Timeout was reached before node joined".into() });
                };
                if token != swarm.token(&cluster, manager) {
                    return Ok(Answer::Failed { error: "invalid join token".into() });
                }
                self.make_free(name, leaves.as_ref())?;
                self.tally.joined += 1;
                self.enter(name, &cluster, manager);
            }
            Question::Observe => {
                let (cluster, swarm) = self.managed(name)?;
                return Ok(Answer::Swarm(Reply::Observed(swarm.listing(cluster))));
            }
            Question::Forget { node_id } => {
                let (_, swarm) = self.managed(name)?;
                match swarm.members.get(&node_id).map(|member| member.up) {
                    None => {}
                    Some(false) => {
                        swarm.members.remove(&node_id);
                        self.tally.forgotten += 1;
                    }
                    Some(true) => self.broken.push(format!("{node_id} lives, and is to be forgotten")),
                }
            }
            Question::SetPart { node_id, part } => {
                let (_, swarm) = self.managed(name)?;
                if let Some(member) = swarm.members.get_mut(&node_id) {
                    member.manager = part == EnginePart::Manager;
                }
            }
            Question::Deploy { name: workload, generation, file, .. } => {
                let (_, swarm) = self.managed(name)?;
                let new = Deployed { generation: generation.clone(), file: file.clone() };
                let is_new = swarm.deployed.insert(workload.clone(), new.clone()) != Some(new);
                self.tally.deployed += usize::from(is_new);
                let called = self.called.entry((workload.clone(), generation.clone())).or_insert_with(|| file.clone());
                if *called != file || !file.contains(&format!("image: {workload}:")) {
                    self.broken
                        .push(format!("{workload} is deployed as {generation}, which is not its content: {file}"));
                }
            }
            Question::Remove { name: workload } => {
                let (_, swarm) = self.managed(name)?;
                swarm.deployed.remove(&workload);
            }
            Question::RotateManagerToken { cluster } => {
                let (own, swarm) = self.managed(name)?;
                if own != cluster {
                    return Ok(Answer::Refused { why: format!("it is a manager of {own}").into() });
                }
                swarm.rotations += 1;
            }
            Question::Unknown => return Ok(Answer::CannotDo),
        }
        Ok(Answer::Done)
    }
}

impl Swarm {
    /// Its CA is known by the number of the Swarm, and a token by its part and how often it was rotated.
    fn token(&self, cluster: &ClusterId, manager: bool) -> String {
        let secret = if manager { format!("m{}", self.rotations) } else { "w".to_owned() };
        format!("{}{secret:0>25}", Self::begins(cluster))
    }

    fn begins(cluster: &ClusterId) -> String {
        let ca: String = cluster.as_str().chars().filter(char::is_ascii_digit).collect();
        format!("SWMTKN-1-{ca:0>50}-")
    }

    /// Whether it is a token of this Swarm and part, or was one.
    fn is_token(token: &str, cluster: &ClusterId, manager: bool) -> bool {
        let secret = token.strip_prefix(&Self::begins(cluster)).map(|secret| secret.trim_start_matches('0'));
        secret.is_some_and(|secret| secret.starts_with(if manager { 'm' } else { 'w' }))
    }

    fn has_majority(&self) -> bool {
        let managers = self.members.values().filter(|member| member.manager);
        let (up, all) = managers.fold((0, 0), |(up, all), member| (up + usize::from(member.up), all + 1));
        up * 2 > all
    }

    fn listing(&self, cluster: ClusterId) -> Observed {
        let members = self.members.iter().map(|(id, member)| swarm::Member {
            id: id.clone(),
            hostname: member.hostname.as_str().into(),
            manager: member.manager,
            up: member.up,
        });
        let services = self.deployed.iter().map(|(workload, deployed)| Service {
            workload: Some(workload.as_str().into()),
            generation: Some(deployed.generation.clone().into()),
            name: format!("{workload}_{workload}").into(),
            wanted: 1,
            running: 1,
            ports: Vec::new(),
            replicas: Vec::new(),
        });
        Observed { cluster, members: members.collect(), services: services.collect() }
    }
}

/// A node from one power cut to the next.
#[derive(Clone)]
struct Here {
    world: Arc<World>,
    name: Name,
    power: u64,
}

impl Here {
    /// The world, where the node still has this power.
    fn state(&self) -> Option<MutexGuard<'_, State>> {
        let state = self.world.state();
        (state.nodes[&self.name].power == self.power).then_some(state)
    }

    fn trouble(&self, error: impl ToString) {
        self.world.state().trouble.insert(self.name.clone(), error.to_string());
    }

    /// Boots, is let in, and serves whatever head there is.
    async fn live(self, head: Head, mac: String) {
        let boot = loop {
            match head.boot(&mac).await {
                Ok(boot) => break boot,
                Err(error) => self.trouble(error),
            }
            sleep(AGAIN).await;
        };
        let mut agent = Agent::new(&head, self.name.as_str(), boot);
        while let Err(error) = agent.enrol().await {
            self.trouble(error);
            sleep(AGAIN).await;
        }
        loop {
            match agent.settle().await {
                Ok(session) => {
                    self.world.state().trouble.remove(&self.name);
                    // It ends with the head.
                    let _ = self.serve(session).await;
                }
                Err(error) => self.trouble(error),
            }
            sleep(AGAIN).await;
        }
    }

    /// The head says in which life its store is. These nodes trust it with the signature.
    fn learn(&self, life: u64) {
        if let Some(mut state) = self.state() {
            let node = state.node(&self.name);
            node.life = node.life.max(life);
        }
    }

    fn health(&self) -> FromAgent {
        health_with(0, self.world.state().engine(&self.name))
    }

    async fn serve(&self, mut session: Session) -> std::io::Result<()> {
        let (answers, mut done) = mpsc::unbounded_channel();
        let mut beat = tokio::time::interval(BEAT);
        self.learn(session.life);
        loop {
            let line = tokio::select! {
                _ = beat.tick() => {
                    session.say(&self.health()).await?;
                    continue;
                }
                Some((number, answer)) = done.recv() => {
                    // First what the work has changed, then that it is done.
                    session.say(&self.health()).await?;
                    session.say(&FromAgent::Answer { number, answer }).await?;
                    continue;
                }
                line = session.lines.next() => line.ok_or(std::io::ErrorKind::UnexpectedEof)?,
            };
            match serde_json::from_str(&line.map_err(std::io::Error::other)?)? {
                ToAgent::Ask { number, work: Work::Swarm(work), under } => {
                    let (here, answers) = (self.clone(), answers.clone());
                    tokio::spawn(async move {
                        if let Some(answer) = here.work(work, under).await {
                            // The connection may have ended; the effect has not.
                            let _ = answers.send((number, answer));
                        }
                    });
                }
                ToAgent::Ask { number, .. } => {
                    session.say(&FromAgent::Answer { number, answer: Answer::CannotDo }).await?;
                }
                ToAgent::Document(document) => self.learn(document.life.map_or(0, |life| life.life)),
                ToAgent::Refused { reason } => {
                    let told = format!("{} was let in, and is refused: {reason}", self.name);
                    self.world.state().broken.push(told);
                }
                _ => {}
            }
        }
    }

    /// Does what it is asked, in its turn; nothing where its power goes meanwhile.
    async fn work(&self, work: Question, under: Option<Under>) -> Option<Answer> {
        if work.only_looks() {
            return Some(self.state()?.perform(&self.name, work));
        }
        let turn = Arc::clone(&self.state()?.node(&self.name).turn);
        let _turn = turn.lock().await;
        let (before, after) = {
            let mut state = self.state()?;
            if let Err(why) = state.may(&self.name, &work, under.as_ref()) {
                state.tally.refused += 1;
                return Some(Answer::Refused { why: why.into() });
            }
            state.tally.under_way += 1;
            (state.dice(SLOW), state.dice(SLOW))
        };
        sleep(Duration::from_millis(before)).await;
        let answer = self.state().map(|mut state| state.perform(&self.name, work));
        sleep(Duration::from_millis(after)).await;
        self.world.state().tally.under_way -= 1;
        answer
    }
}

#[cfg(test)]
mod tests;
