//! The agents' connections: who is let in, who is there, and asking them for work.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bramble_model::agent::{
    Answer, EngineState, EnrolRequest, Enrolled, FromAgent, Health, LONGEST_LINE, NodeDocument, ToAgent, Work,
};
use bramble_model::hands::{FromProcess, Start, ToProcess};
use bramble_model::names::{Digest, Name};
use bramble_model::repository::EnginePart;
use bramble_model::timeline::{Millis, Phase, What};
use bramble_plan::admission::{Enrolment, Verdict};
use bramble_system::now;
use futures_util::{SinkExt, StreamExt};
use sha2::{Digest as _, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::codec::{Framed, LinesCodec};
use tokio_util::sync::CancellationToken;

use crate::gate::{Gate, Pass};
use crate::timeline::Track;
use crate::{Error, Head, ca, service};

/// An agent speaks every ten seconds; silence for three times as long means that it is gone.
const SILENCE: Duration = Duration::from_secs(30);
const HANDSHAKE: Duration = Duration::from_secs(20);
/// An agent whose handshake fails tries again and again: within so many milliseconds it is one event.
const SAME_FAILURE: Millis = 60_000;
/// What a process may have said and nobody has taken. Its window is full before, unless it prints letter by
/// letter to someone who does not read.
const PROCESS_QUEUE: usize = 4096;
/// Connections that have not said who they are, in all and from one address. A node has one.
const STRANGERS: usize = 4096;
const STRANGERS_OF_ONE: usize = 16;

type Lines = Framed<TlsStream<TcpStream>, LinesCodec>;

/// Who is connected.
#[derive(Default)]
pub(crate) struct Agents {
    sessions: Mutex<BTreeMap<Name, Session>>,
    numbers: AtomicU64,
    /// Something about an agent has changed.
    pub(crate) changed: Notify,
}

struct Session {
    number: u64,
    say: mpsc::Sender<Say>,
    last_heard: Millis,
}

/// What the head has to say to an agent.
enum Say {
    Ask(Work, oneshot::Sender<Answer>),
    /// Start a process; what it says goes to the queue.
    Start(u64, Start, mpsc::Sender<FromProcess>),
    Process(u64, ToProcess),
    /// The repository says something else of the node.
    Document(NodeDocument),
    /// The last word: why it is no longer served.
    Goodbye(String),
}

impl Agents {
    fn sessions(&self) -> std::sync::MutexGuard<'_, BTreeMap<Name, Session>> {
        self.sessions.lock().expect("no panic while held")
    }

    fn last_heard(&self, node: &Name) -> Option<Millis> {
        self.sessions().get(node).map(|session| session.last_heard)
    }

    /// Asks an agent and waits for its answer; an agent that goes away or takes too long fails.
    pub(crate) async fn ask(&self, node: &Name, work: Work, limit: Duration) -> Answer {
        let failed = |error: &str| Answer::Failed { error: error.to_owned() };
        let Some(queue) = self.sessions().get(node).map(|session| session.say.clone()) else {
            return failed("its agent is not connected");
        };
        let (answer, answered) = oneshot::channel();
        if queue.send(Say::Ask(work, answer)).await.is_err() {
            return failed("its agent has gone away");
        }
        match timeout(limit, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => failed("its agent went away before it answered"),
            Err(_) => failed(&format!("its agent did not answer within {} s", limit.as_secs())),
        }
    }

    /// Starts a process on a node: its number there, and what it will say. Ends with the connection.
    pub(crate) async fn start(&self, node: &Name, start: Start) -> Option<(u64, mpsc::Receiver<FromProcess>)> {
        let session = self.sessions().get(node).map(|session| session.say.clone())?;
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let (tell, told) = mpsc::channel(PROCESS_QUEUE);
        session.send(Say::Start(number, start, tell)).await.ok()?;
        Some((number, told))
    }

    /// Tells a process something; one that is gone hears nothing.
    pub(crate) async fn tell(&self, node: &Name, number: u64, order: ToProcess) {
        let session = self.sessions().get(node).map(|session| session.say.clone());
        if let Some(session) = session {
            let _ = session.send(Say::Process(number, order)).await;
        }
    }

    pub(crate) fn is_connected(&self, node: &Name) -> bool {
        self.sessions().contains_key(node)
    }

    /// Tells every agent its document as it is now. One whose queue is full is stuck, and is told when it
    /// comes back.
    pub(crate) fn tell_documents(&self, document: impl Fn(&Name) -> Option<NodeDocument>) {
        for (node, session) in self.sessions().iter() {
            if let Some(document) = document(node) {
                let _ = session.say.try_send(Say::Document(document));
            }
        }
    }

    /// Ends a node's connection.
    pub(crate) fn hang_up(&self, node: &Name) {
        if let Some(session) = self.sessions().remove(node) {
            // Where the queue is full, the connection ends with its sender.
            let _ = session.say.try_send(Say::Goodbye("its certificate was revoked".into()));
        }
    }
}

/// Listens for agents; the future runs until cancelled.
pub(crate) async fn listen(
    head: Arc<Head>,
    address: Ipv4Addr,
    stop: CancellationToken,
) -> Result<impl Future<Output = Result<(), Error>> + use<>, Error> {
    let tls = TlsAcceptor::from(Arc::new(head.authority.tls()?));
    let port = head.network.agent_port;
    let name = format!("agents (port {port})");
    let listener = TcpListener::bind((address, port)).await.map_err(service(&name))?;
    let gate = Gate::new(STRANGERS, STRANGERS_OF_ONE);
    Ok(async move {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Some(_) = connections.join_next(), if !connections.is_empty() => continue,
                accepted = listener.accept() => accepted,
            };
            // Out of file descriptors, say: the next one may work.
            let Ok((stream, from)) = accepted else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let Some(pass) = gate.enter(from.ip()) else { continue };
            let (head, tls) = (Arc::clone(&head), tls.clone());
            connections.spawn(async move {
                if let Err(error) = greet(head, tls, stream, from, pass).await {
                    tracing::debug!(%from, %error, "a connection ended");
                }
            });
        }
    })
}

async fn send(lines: &mut Lines, message: &impl serde::Serialize) -> io::Result<()> {
    let text = serde_json::to_string(message).expect("messages are plain data");
    lines.send(text).await.map_err(io::Error::other)
}

async fn receive<T: serde::de::DeserializeOwned>(lines: &mut Lines, limit: Duration) -> io::Result<T> {
    let line = timeout(limit, lines.next()).await.map_err(|_| io::Error::other("it is silent"))?;
    let line = line.ok_or(io::ErrorKind::UnexpectedEof)?.map_err(io::Error::other)?;
    Ok(serde_json::from_str(&line)?)
}

/// With a certificate it is an agent; without one it may enrol, and nothing else.
async fn greet(head: Arc<Head>, tls: TlsAcceptor, stream: TcpStream, from: SocketAddr, pass: Pass) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let shaken = timeout(HANDSHAKE, tls.accept(stream)).await.map_err(|_| io::Error::other("no handshake"))?;
    let stream = shaken.inspect_err(|error| head.tls_failed(from, error))?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).map(|der| der.to_vec());
    let mut lines = Framed::new(stream, LinesCodec::new_with_max_length(LONGEST_LINE));
    match certificate {
        Some(der) => {
            let (node, key) = whose(&der).ok_or_else(|| io::Error::other("its certificate has no name"))?;
            serve(head, node, key, lines, pass).await
        }
        None => {
            let request: EnrolRequest = receive(&mut lines, HANDSHAKE).await?;
            match head.enrol(&request) {
                Ok(enrolled) => send(&mut lines, &enrolled).await,
                Err(refused) => send(&mut lines, &serde_json::json!({ "refused": refused })).await,
            }
        }
    }
}

/// The node that a certificate is for, and its key's fingerprint.
fn whose(der: &[u8]) -> Option<(Name, String)> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?.parse().ok()?;
    Some((name, ca::fingerprint_of(&certificate.tbs_certificate.subject_pki)))
}

impl Head {
    /// Decides on an enrolment. The admission is on disk before the certificate is told.
    fn enrol(&self, request: &EnrolRequest) -> Result<Enrolled, String> {
        let Some(document) = self.document(&request.node) else {
            return Err("this node is not in the repository".into());
        };
        let internal = |error: Error| {
            tracing::error!(%error, node = %request.node, "an enrolment failed");
            "the head has an error of its own; see its log".to_owned()
        };
        let fingerprint = ca::fingerprint(&request.csr).map_err(|_| "the certificate request is malformed")?;
        let enrolment = Enrolment {
            boot: request.boot.clone(),
            nonce: Digest(Sha256::digest(request.nonce.as_bytes()).into()),
            fingerprint: fingerprint.clone(),
            last_heard: self.agents.last_heard(&request.node),
        };
        let admission = self.cluster().admission;
        let verdict = self
            .store
            .change_admission(&request.node, |record| record.enrol(&enrolment, admission))
            .map_err(internal)?;
        match verdict {
            Verdict::Admit => {}
            Verdict::Refuse(reason) => {
                self.timeline.add(Some(&request.node), What::Refused { reason: reason.clone() });
                return Err(reason);
            }
            Verdict::AskOperator(reason) => {
                let what = What::Waits { fingerprint: fingerprint.clone(), reason: reason.clone() };
                // It asks again and again.
                if !self.timeline.has_just_told(&request.node, &what, SAME_FAILURE) {
                    self.timeline.add(Some(&request.node), what);
                }
                return Err(format!("{reason}; its key is {fingerprint}"));
            }
        }
        let (certificate, renew_at) = self.authority.sign(&request.node, &request.csr).map_err(internal)?;
        self.timeline.add(Some(&request.node), What::Admitted { fingerprint });
        Ok(Enrolled { certificate, renew_at, document })
    }

    pub(crate) fn document(&self, node: &Name) -> Option<NodeDocument> {
        let cluster = self.cluster();
        let declared = cluster.nodes.get(node)?;
        Some(NodeDocument {
            hostname: node.clone(),
            domain: cluster.domain.clone(),
            role: declared.role.clone(),
            part: declared.part,
            ssh_keys: cluster.ssh_keys.clone(),
            time_servers: cluster.time_servers.clone(),
        })
    }
}

/// The conversation with an admitted agent.
async fn serve(head: Arc<Head>, node: Name, key: String, mut lines: Lines, pass: Pass) -> io::Result<()> {
    let hello: FromAgent = receive(&mut lines, HANDSHAKE).await?;
    let FromAgent::Hello { boot, version, facts } = hello else { return Err(io::Error::other("it did not say hello")) };
    let record = head.store.admission(&node).map_err(io::Error::other)?;
    let document = match (head.document(&node), record.holds(&boot, &key)) {
        (Some(document), Ok(())) => document,
        (document, verdict) => {
            let reason = if document.is_none() {
                "this node is not in the repository"
            } else {
                verdict.err().unwrap_or_default()
            };
            send(&mut lines, &ToAgent::Refused { reason: reason.into() }).await?;
            return Err(io::Error::other(reason));
        }
    };
    // It is no stranger any more.
    drop(pass);
    let number = head.agents.numbers.fetch_add(1, Ordering::Relaxed);
    let (say, mut queue) = mpsc::channel(32);
    head.agents.sessions().insert(node.clone(), Session { number, say, last_heard: now() });
    head.timeline.add(Some(&node), What::Connected);
    head.timeline.learn(&node, |track| track.facts = Some(facts));
    tracing::info!(%node, version, "agent connected");
    send(&mut lines, &ToAgent::Document(document)).await?;
    let ended = converse(&head, &node, &key, &mut lines, &mut queue, number).await;
    let was_current = {
        let mut sessions = head.agents.sessions();
        let current = sessions.get(&node).is_some_and(|session| session.number == number);
        if current {
            sessions.remove(&node);
        }
        current
    };
    if was_current {
        let reason = ended.as_ref().err().map_or_else(|| "it said goodbye".to_owned(), io::Error::to_string);
        head.timeline.add(Some(&node), What::Disconnected { reason });
        head.timeline.learn(&node, |track| track.health = None);
        head.agents.changed.notify_one();
    }
    ended
}

async fn converse(
    head: &Head,
    node: &Name,
    key: &str,
    lines: &mut Lines,
    queue: &mut mpsc::Receiver<Say>,
    session: u64,
) -> io::Result<()> {
    let mut open: BTreeMap<u64, oneshot::Sender<Answer>> = BTreeMap::new();
    let mut processes: BTreeMap<u64, mpsc::Sender<FromProcess>> = BTreeMap::new();
    let mut number = 0;
    loop {
        let message = tokio::select! {
            message = receive::<FromAgent>(lines, SILENCE) => message?,
            asked = queue.recv() => {
                // The queue closes when a newer connection of the same node has taken over.
                match asked {
                    None => return Ok(()),
                    Some(Say::Ask(work, answer)) => {
                        number += 1;
                        open.insert(number, answer);
                        send(lines, &ToAgent::Ask { number, work }).await?;
                    }
                    Some(Say::Start(number, start, tell)) => {
                        processes.insert(number, tell);
                        send(lines, &ToAgent::Start { number, start }).await?;
                    }
                    Some(Say::Process(number, tell)) => send(lines, &ToAgent::Process { number, tell }).await?,
                    Some(Say::Document(document)) => send(lines, &ToAgent::Document(document)).await?,
                    Some(Say::Goodbye(reason)) => {
                        send(lines, &ToAgent::Refused { reason: reason.clone() }).await?;
                        return Err(io::Error::other(reason));
                    }
                }
                continue;
            }
        };
        if let Some(known) = head.agents.sessions().get_mut(node).filter(|known| known.number == session) {
            known.last_heard = now();
        }
        match message {
            FromAgent::Health(health) => head.heard(node, health),
            FromAgent::Answer { number, answer } => {
                if let Some(asker) = open.remove(&number) {
                    // Whoever asked may have stopped waiting.
                    let _ = asker.send(answer);
                }
            }
            FromAgent::Process { number, tell } => {
                let ends = matches!(tell, FromProcess::Ended { .. });
                // Whoever asked may have gone, and is not waited for: what is on its way fits the queue.
                let passed = processes.get(&number).is_some_and(|asker| asker.try_send(tell).is_ok());
                if ends {
                    processes.remove(&number);
                } else if !passed && processes.remove(&number).is_some() {
                    send(lines, &ToAgent::Process { number, tell: ToProcess::Stop }).await?;
                }
            }
            FromAgent::Renew { csr } => {
                let document = head.document(node).ok_or_else(|| io::Error::other("it is not in the repository"))?;
                // The key that was admitted, and no other: a new one enrols with a boot of its own.
                if ca::fingerprint(&csr).map_err(io::Error::other)? != key {
                    return Err(io::Error::other("it asks for a certificate for another key"));
                }
                let (certificate, renew_at) = head.authority.sign(node, &csr).map_err(io::Error::other)?;
                send(lines, &ToAgent::Renewed(Box::new(Enrolled { certificate, renew_at, document }))).await?;
            }
            FromAgent::Hello { .. } => return Err(io::Error::other("it said hello twice")),
        }
    }
}

impl Head {
    /// Tells the timeline of the node at this address, where TLS itself says why.
    fn tls_failed(&self, from: SocketAddr, error: &io::Error) {
        let said = error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
        let SocketAddr::V4(from) = from else { return };
        let Some(node) = self.wire.mac(*from.ip()).and_then(|mac| self.node_of(mac)) else { return };
        let what = What::TlsFailed { reason: error.to_string() };
        if said && !self.timeline.has_just_told(&node, &what, SAME_FAILURE) {
            self.timeline.add(Some(&node), what);
        }
    }

    fn heard(&self, node: &Name, health: Health) {
        // Where someone asked for a boot in its name, what it does is told anew.
        let told = |track: &Track| {
            let engine = track.health.as_ref().map(|health| health.engine.clone());
            engine.filter(|_| track.phase >= Phase::Engine)
        };
        let before = self.timeline.look(node, told).flatten();
        let engine = health.engine.clone();
        self.timeline.learn(node, |track| track.health = Some(health));
        if before.as_ref() == Some(&engine) {
            return;
        }
        let part = self.declared(node).map_or(EnginePart::None, |node| node.part);
        let what = match &engine {
            EngineState::None if part == EnginePart::None => What::Ready,
            EngineState::Member { reachable: true, .. } => What::Ready,
            EngineState::None => What::Engine { state: "not started".into() },
            EngineState::Starting { waiting_for } => What::Engine { state: format!("waiting for {waiting_for}") },
            EngineState::Alone => What::Engine { state: "up, belongs to no cluster".into() },
            EngineState::Member { .. } => What::Engine { state: "waits for a majority of the managers".into() },
        };
        self.timeline.add(Some(node), what);
        self.agents.changed.notify_one();
    }
}
