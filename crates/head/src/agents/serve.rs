//! One connection: the handshake, and the conversation with an admitted agent.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bramble_link::{Connection, Ended, Event};
use bramble_model::agent::{
    Answer, Binding, Capability, EnrolRequest, Enrolled, FromAgent, Heard, HostCertificate, NodeDocument, Proof,
    ToAgent, Versions, Waits,
};
use bramble_model::hands::{End, FromProcess, ToProcess, WINDOW};
use bramble_model::names::{BootId, Digest, Name};
use bramble_model::timeline::What;
use bramble_system::{locked, now};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{Agents, Caller, Connected, NotLetIn, REVOKED, Say};
use crate::error::Error;
use crate::gate::{Pass, Speaks};
use crate::store::beside;
use crate::timeline::Track;
use crate::{admissions, ca};

/// What may wait for a connection that is busy. One that has more waiting is stuck.
pub(super) const QUEUE: usize = 32;

/// Boxed: each `async fn` that it is handed to has room for it, and a head has a thousand of these for months.
type Agent = Box<Connection<TlsStream<TcpStream>>>;

/// Why a connection is served no more.
#[derive(Debug, thiserror::Error)]
pub(super) enum Why {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Ended(#[from] Ended),
    /// What its agent did, or what is known of its node.
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Head(#[from] Error),
}

fn refused(why: impl Into<String>) -> Why {
    Why::Refused(why.into())
}

/// With a certificate it is an agent; without one it may enrol, and nothing else.
pub(super) async fn greet(
    agents: Arc<Agents>,
    tls: TlsAcceptor,
    stream: TcpStream,
    from: SocketAddr,
    pass: Arc<Pass>,
) -> Result<(), Why> {
    stream.set_nodelay(true)?;
    let shaken = Connection::open(agents.limits, tls.accept(stream)).await;
    let mut agent = Box::new(shaken.inspect_err(|error| agents.tls_failed(from, error))?);
    agent.is_a_strangers();
    let certificates = agent.stream().get_ref().1.peer_certificates();
    let certificate = certificates.and_then(|chain| chain.first()).map(|der| der.to_vec());
    // Its handshake is done, which has cost both sides the most.
    let Some(speaks) = pass.speaks() else { return Err(refused("another connection needed its room")) };
    let connection = agent.stream().get_ref().1.export_keying_material([0; 32], Binding::LABEL, None);
    let connection = Binding(connection.map_err(|error| refused(error.to_string()))?);
    match certificate {
        Some(der) => {
            let (node, key) = ca::whose(&der).ok_or_else(|| refused("its certificate has no name, or several"))?;
            serve(agents, node, key, (agent, connection), (from, pass, speaks)).await
        }
        None => {
            let request: EnrolRequest = agent.first().await?;
            // What it says it is, it has yet to prove.
            agent.is_a_strangers();
            let ask = |has_proved| {
                let (agents, request) = (Arc::clone(&agents), request.clone());
                let from = Caller { address: from.ip(), connection };
                beside(move || agents.enrol(&request, &from, has_proved))
            };
            let mut answer = ask(false).await;
            if let Err(NotLetIn::Proves(challenge)) = &answer {
                agent.say(&challenge.prove)?;
                let proof: Proof = agent.first().await?;
                answer = match challenge.is_met(&proof) {
                    true => ask(true).await,
                    false => Err(NotLetIn::Refused("its key is not in the TPM that it names".into())),
                };
            }
            match answer {
                Ok(enrolled) => agent.say(&enrolled)?,
                Err(NotLetIn::Refused(why)) => agent.say(&serde_json::json!({ "refused": why }))?,
                // One of a release before passes over what it does not know.
                Err(NotLetIn::Waits { why, draw: Some(draw) }) => {
                    agent.say(&serde_json::json!({ "refused": why, "draw": draw }))?;
                }
                Err(NotLetIn::Waits { why, draw: None }) => agent.say(&serde_json::json!({ "refused": why }))?,
                Err(NotLetIn::Proves(_)) => unreachable!("it has proved that"),
            }
            Ok(agent.finish().await?)
        }
    }
}

/// By which a document is known that was told: a head has a thousand connections for months, and a document names every node.
fn digest(document: &NodeDocument) -> Digest {
    Digest(Sha256::digest(serde_json::to_vec(document).expect("plain data")).into())
}

/// The last word to an agent that is not served, or not any more.
async fn refuse(mut agent: Agent, reason: String) -> Result<(), Why> {
    agent.say(&ToAgent::Refused { reason: reason.clone() })?;
    agent.finish().await?;
    Err(Why::Refused(reason))
}

/// Who an agent is, by its certificate and its hello.
#[derive(Clone, Copy)]
struct Who<'a> {
    node: &'a Name,
    boot: &'a BootId,
    /// The fingerprint of its key.
    key: &'a str,
}

impl Who<'_> {
    /// What it is told of its node, where it is still the one that was let in; or why it is not.
    ///
    /// # Errors
    /// When the admission cannot be read. No verdict is told then: an agent that is refused forgets who it is.
    async fn holds(&self, agents: &Agents) -> Result<Result<NodeDocument, String>, Error> {
        let (store, node) = (agents.store.clone(), self.node.clone());
        let record = beside(move || admissions::of(&store, &node)).await?;
        Ok(match (agents.document(self.node), record.holds(self.boot, self.key)) {
            (Some(document), Ok(())) => {
                if !record.is_here {
                    agents.is_seen(self.node).await?;
                }
                Ok(document)
            }
            (None, _) => Err("this node is not in the repository".into()),
            (Some(_), Err(reason)) => Err(reason.into()),
        })
    }
}

/// Finds out whether a node's agent is served, and serves it.
async fn serve(
    agents: Arc<Agents>,
    node: Name,
    key: String,
    (mut agent, connection): (Agent, Binding),
    (from, pass, speaks): (SocketAddr, Arc<Pass>, Speaks),
) -> Result<(), Why> {
    let (boot, version, facts, protocol, capabilities) = match agent.first().await {
        Ok(FromAgent::Hello { boot, version, facts, protocol, capabilities }) => {
            (boot, version, facts, protocol, capabilities)
        }
        Ok(_) | Err(Ended::Malformed(_)) => {
            let reason = "its agent is of another release: it says hello in a form that this head does not know";
            return Err(agents.of_another_release(&node, reason.into()));
        }
        Err(ended) => return Err(ended.into()),
    };
    let version: String = version.as_str().chars().filter(|c| c.is_ascii_graphic()).take(32).collect();
    // One of version 1 ends at a message that it does not know.
    if protocol.to >= 2 {
        let (version, capabilities) = (env!("CARGO_PKG_VERSION").to_owned(), Capability::OF_HEAD.to_vec());
        agent.say(&ToAgent::Hello { version, protocol: Versions::OWN, capabilities })?;
    }
    if !Versions::OWN.meets(protocol) {
        let own = Versions::OWN;
        let reason = format!(
            "its agent is of another release: bramble {version} speaks {protocol} of the protocol, and this head {own}"
        );
        let why = agents.of_another_release(&node, reason);
        agent.finish().await?;
        return Err(why);
    }
    let who = Who { node: &node, boot: &boot, key: &key };
    if let Err(reason) = who.holds(&agents).await? {
        return refuse(agent, reason).await;
    }
    // It is no stranger any more.
    drop((pass, speaks));
    if let IpAddr::V4(address) = from.ip() {
        let (agents, node) = (Arc::clone(&agents), node.clone());
        beside(move || agents.places.learn(&node, address)).await;
    }
    agent.watch();
    let number = agents.numbers.fetch_add(1, Ordering::Relaxed);
    let (say, queue) = mpsc::channel(QUEUE);
    let can = |capability| capabilities.contains(&capability);
    let (hears_beats, takes_roots) = (can(Capability::HearsBeats), can(Capability::TakesRoots));
    let remembers = can(Capability::RemembersReady);
    let trusts = Vec::new();
    let entry = Connected { number, say, last_heard: now(), version: version.clone(), protocol, capabilities, trusts };
    let mut leaving = Leaving::enter(&agents, &node, entry);
    let news = News { documents: agents.documents.receiver(), moves: agents.moves.receiver() };
    let roots = agents.authority.changed.receiver();
    // Whoever revoked it in between found no connection to end, and whoever told documents none to tell.
    let document = match who.holds(&agents).await {
        Ok(Ok(document)) => document,
        Ok(Err(reason)) => {
            leaving.reason.clone_from(&reason);
            drop(leaving);
            return refuse(agent, reason).await;
        }
        Err(why) => {
            leaving.reason = why.to_string();
            return Err(why.into());
        }
    };
    agents.timeline.learn(&node, |track| track.facts = Some(facts));
    tracing::info!(%node, version, "agent connected");
    let told = digest(&document);
    agent.say(&ToAgent::Document(document))?;
    let conversation = Conversation { agents: &agents, who, connection, number, hears_beats, remembers, takes_roots };
    conversation.tell_roots(&mut agent)?;
    let ended = conversation.hold(&mut agent, queue, (news, told), roots).await;
    leaving.reason = match &ended {
        Ok(None) => "it said goodbye".to_owned(),
        Ok(Some(reason)) => reason.clone(),
        Err(why) => why.to_string(),
    };
    drop(leaving);
    match ended? {
        None => Ok(()),
        Some(reason) => refuse(agent, reason).await,
    }
}

/// The entry of a connection among those that are there, for as long as it is: whichever way it ends, also by an error
/// of bramble's own, no node stays listed as connected.
pub(super) struct Leaving<'a> {
    agents: &'a Agents,
    node: &'a Name,
    number: u64,
    reason: String,
}

impl Agents {
    /// A certificate for the SSH server of a node; none where its repository has no SSH, or it asks too often.
    ///
    /// # Errors
    /// Why its key is not signed.
    fn host_certificate(
        &self,
        node: &Name,
        key: &str,
        waiting: &mut Waiting,
    ) -> Result<Option<HostCertificate>, String> {
        let cluster = self.nodes.cluster();
        if cluster.ssh_keys.is_empty() || waiting.host_key.is_some_and(|last| last.elapsed() < HOST_KEY) {
            return Ok(None);
        }
        waiting.host_key = Some(Instant::now());
        self.hosts.certify(&cluster, node, key, now()).map(Some)
    }

    /// An agent was not understood. It comes again and again: that is told once, until something else is seen of its node.
    fn of_another_release(&self, node: &Name, reason: String) -> Why {
        let told = |track: &Track| track.failure.as_ref().is_some_and(|said| said.reason == reason);
        if self.document(node).is_some() && self.timeline.look(node, told) != Some(true) {
            self.timeline.add(Some(node), What::OtherRelease { reason: reason.clone() });
        }
        refused(reason)
    }
}

impl<'a> Leaving<'a> {
    /// Enters it. An older connection of the same node ends when its entry is replaced.
    pub(super) fn enter(agents: &'a Agents, node: &'a Name, entry: Connected) -> Self {
        let number = entry.number;
        agents.sessions().insert(node.clone(), entry);
        agents.timeline.add(Some(node), What::Connected);
        Leaving { agents, node, number, reason: "an error of bramble's own".into() }
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let Leaving { agents, node, number, reason } = self;
        let left = {
            let mut sessions = agents.sessions();
            // A newer connection has taken its place. Where there is none, it was told to go, and goes now.
            if sessions.get(*node).is_some_and(|entry| entry.number != *number) {
                return;
            }
            let left = sessions.remove(*node);
            if let Some(left) = &left {
                locked(&agents.heard).insert((*node).clone(), left.last_heard);
            }
            left
        };
        // It may write, which nobody else's connection waits for.
        if let Some(left) = left {
            agents.is_lost(node, left.last_heard);
        }
        agents.timeline.add(Some(node), What::Disconnected { reason: std::mem::take(reason) });
        agents.timeline.learn(node, |track| track.health = None);
        agents.changed.tell();
    }
}

/// What may make another document.
struct News {
    documents: watch::Receiver<u64>,
    moves: watch::Receiver<u64>,
}

impl News {
    /// When something has come; whether the document is told anew, whatever it says. Nothing is lost where this is dropped.
    async fn come(&mut self) -> bool {
        // Whoever tells them lives as long as its connections.
        tokio::select! {
            _ = self.documents.changed() => true,
            _ = self.moves.changed() => false,
        }
    }
}

/// What a conversation is about.
struct Conversation<'a> {
    agents: &'a Agents,
    who: Who<'a>,
    /// What a request for a certificate is for that is said over it.
    connection: Binding,
    /// Of its entry among those that are there.
    number: u64,
    hears_beats: bool,
    /// It wants to know when its node is ready.
    remembers: bool,
    takes_roots: bool,
}

/// Who waits for what an agent says, and what was heard of it.
#[derive(Default)]
struct Waiting {
    answers: BTreeMap<u64, oneshot::Sender<Answer>>,
    asked: u64,
    processes: BTreeMap<u64, Process>,
    /// Messages that were not understood.
    odd: u32,
    /// Its node was ready when it was heard last on this connection.
    was_ready: bool,
    /// When its SSH host key was looked at last.
    host_key: Option<Instant>,
}

/// Messages of one connection that were not understood and are logged.
const ODD: u32 = 8;
/// How soon after another one a question for a certificate of its SSH host key is looked at.
const HOST_KEY: Duration = Duration::from_secs(1);

/// A process on the node.
struct Process {
    says: mpsc::Sender<FromProcess>,
    /// Bytes of output that it may say before there is room for more.
    room: u64,
}

impl Process {
    /// One that has just started. What was on its way while room was told is not counted to the byte.
    fn new(says: mpsc::Sender<FromProcess>) -> Self {
        Process { says, room: 2 * WINDOW }
    }

    /// Passes on what it says; `false` where it says more than there is room for, or nobody takes it.
    fn passes(&mut self, said: FromProcess) -> bool {
        if let FromProcess::Output { data, .. } = &said {
            let Some(left) = self.room.checked_sub(data.0.len() as u64) else { return false };
            self.room = left;
        }
        self.says.try_send(said).is_ok()
    }
}

impl Waiting {
    /// A process is told something, which may be that there is room.
    fn told(&mut self, number: u64, order: &ToProcess) {
        if let (ToProcess::Room { bytes }, Some(process)) = (order, self.processes.get_mut(&number)) {
            process.room = process.room.saturating_add(*bytes);
        }
    }

    /// Something was not understood; whether it is worth a line of the log.
    fn is_odd(&mut self) -> bool {
        self.odd = self.odd.saturating_add(1);
        self.odd <= ODD
    }
}

impl Conversation<'_> {
    /// Tells the agent which CAs the cluster has, where it can be told.
    fn tell_roots(&self, agent: &mut Agent) -> Result<(), Why> {
        if self.takes_roots {
            let told = self.agents.authority.told();
            agent.say(&ToAgent::Trust { roots: told.pem, signature: told.signature })?;
        }
        Ok(())
    }

    /// Goes on until one side ends it. Nothing is awaited but what happens next: what the agent does not take holds up
    /// nothing that it says. Gives why it is served no more, where this side ends it.
    async fn hold(
        self,
        agent: &mut Agent,
        mut queue: mpsc::Receiver<Say>,
        (mut news, mut told): (News, Digest),
        mut roots: watch::Receiver<u64>,
    ) -> Result<Option<String>, Why> {
        let mut waiting = Waiting::default();
        loop {
            tokio::select! {
                event = agent.next() => match event? {
                    Event::Line(line) => match self.heard(&line, &mut waiting, agent).await? {
                        ControlFlow::Continue(()) => {}
                        ControlFlow::Break(reason) => return Ok(Some(reason)),
                    },
                    Event::Beat if self.hears_beats => agent.say(&ToAgent::Beat)?,
                    Event::Beat | Event::Free => {}
                },
                asked = queue.recv(), if agent.is_free() => match asked {
                    // The queue closes when a newer connection of the same node has taken over.
                    None => return Ok(None),
                    Some(Say::Goodbye(reason)) => return Ok(Some(reason)),
                    Some(Say::Ask(work, under, answer)) => {
                        // Who stopped waiting is not told, and an agent that never answers fills nothing.
                        waiting.answers.retain(|_, asker| !asker.is_closed());
                        waiting.asked += 1;
                        waiting.answers.insert(waiting.asked, answer);
                        agent.say(&ToAgent::Ask { number: waiting.asked, work, under })?;
                    }
                    Some(Say::Start(number, start, tell)) => {
                        waiting.processes.insert(number, Process::new(tell));
                        agent.say(&ToAgent::Start { number, start })?;
                    }
                    Some(Say::Process(number, tell)) => {
                        waiting.told(number, &tell);
                        agent.say(&ToAgent::Process { number, tell })?;
                    }
                },
                // First whom it may trust, and then its document, which the one that signs now has signed.
                _ = roots.changed(), if agent.is_free() => {
                    self.tell_roots(agent)?;
                    if let Some(document) = self.agents.document(self.who.node) {
                        told = digest(&document);
                        agent.say(&ToAgent::Document(document))?;
                    }
                }
                // However much it was changed while the agent took nothing: it is told the newest.
                anew = news.come(), if agent.is_free() => {
                    let document = self.agents.document(self.who.node);
                    if let Some(document) = document.filter(|own| anew || digest(own) != told) {
                        told = digest(&document);
                        agent.say(&ToAgent::Document(document))?;
                    }
                }
            }
        }
    }

    /// Does what a line asks for; breaks with the reason why its agent is served no more.
    async fn heard(&self, line: &str, waiting: &mut Waiting, agent: &mut Agent) -> Result<ControlFlow<String>, Why> {
        let (agents, node) = (self.agents, self.who.node);
        match agents.sessions().get_mut(node) {
            // Its goodbye waits for what it does not take, and it is heard no more.
            None => return Ok(ControlFlow::Break(REVOKED.into())),
            Some(known) if known.number == self.number => known.last_heard = now(),
            // A newer connection has taken over, and this one ends.
            Some(_) => {}
        }
        let message = match Heard::read(line).map_err(Ended::from)? {
            Heard::Message(message) => message,
            Heard::Unknown { what, waits } => {
                if waiting.is_odd() {
                    tracing::warn!(%node, what, "its agent said something in a form that this head does not know");
                }
                // Whoever asked need not wait for more.
                match waits {
                    Some(Waits::Answer(number)) => {
                        if let Some(asker) = waiting.answers.remove(&number) {
                            let _ = asker.send(Answer::UNKNOWN);
                        }
                    }
                    Some(Waits::End(number)) => {
                        if let Some(asker) = waiting.processes.remove(&number) {
                            let reason = "it ended in a way that this head does not know".into();
                            let _ = asker.says.try_send(FromProcess::Ended { end: End::Failed { reason } });
                        }
                    }
                    None => {}
                }
                return Ok(ControlFlow::Continue(()));
            }
        };
        match message {
            FromAgent::Health(health) => {
                let is_ready = agents.heard(node, health);
                if is_ready && !waiting.was_ready {
                    agents.is_ready(node);
                    if self.remembers {
                        agent.say(&ToAgent::Ready)?;
                    }
                }
                waiting.was_ready = is_ready;
            }
            FromAgent::Answer { number, answer } => {
                if let Some(asker) = waiting.answers.remove(&number) {
                    // Whoever asked may have stopped waiting.
                    let _ = asker.send(answer);
                }
            }
            FromAgent::Process { number, tell } => {
                let ends = matches!(tell, FromProcess::Ended { .. });
                // Whoever asked may have gone, and is not waited for: what is on its way fits the queue.
                let passed = waiting.processes.get_mut(&number).is_some_and(|process| process.passes(tell));
                if ends {
                    waiting.processes.remove(&number);
                } else if !passed && waiting.processes.remove(&number).is_some() {
                    agent.say(&ToAgent::Process { number, tell: ToProcess::Stop })?;
                }
            }
            FromAgent::Renew { csr } => {
                // The key that was admitted, and no other: a new one enrols with a boot of its own.
                let requested = ca::RequestedKey::of(&csr)?;
                if requested.fingerprint() != self.who.key {
                    return Err(refused("it asks for a certificate for another key"));
                }
                if requested.is_for_another(&self.connection) {
                    return Err(refused("its request for a certificate is of another connection"));
                }
                let document = match self.who.holds(agents).await? {
                    Ok(document) => document,
                    Err(reason) => return Ok(ControlFlow::Break(reason)),
                };
                let (certificate, renew_at) = agents.authority.sign(node, &csr)?;
                agent.say(&ToAgent::Renewed(Box::new(Enrolled { certificate, renew_at, document })))?;
            }
            FromAgent::SshHostKey { key } => match agents.host_certificate(node, &key, waiting) {
                Ok(Some(certificate)) => agent.say(&ToAgent::SshHostCertificate(certificate))?,
                Ok(None) => {}
                Err(why) => tracing::warn!(%node, why, "its SSH host key is not signed"),
            },
            FromAgent::Trusts { roots } => agents.trusts(node, self.number, self.who.boot, roots),
            FromAgent::Hello { .. } => return Err(refused("it said hello twice")),
            FromAgent::Unknown if waiting.is_odd() => {
                tracing::warn!(%node, "its agent said something that this head does not know");
            }
            FromAgent::Unknown => {}
        }
        Ok(ControlFlow::Continue(()))
    }
}
