//! The agents' connections: who is let in, who is there, and asking them for work.

mod identity;
mod serve;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bramble_link::session::Limits;
use bramble_model::agent::{
    Answer, Binding, Capability, EnrolRequest, Enrolled, Health, NodeDocument, Refuses, SignedLife, Under, Versions,
    Work,
};
use bramble_model::digits::{Digits, Draw};
use bramble_model::hands::{FromProcess, Start, ToProcess};
use bramble_model::names::{BootId, Digest, Name};
use bramble_model::repository::Cluster;
use bramble_model::timeline::{Millis, Phase, What};
use bramble_plan::admission::waiting::{Asked, Asks, NotThese, Told, Waiting, claimed_beside};
use bramble_plan::admission::{self, Declared, Enrolment, Heard, Verdict};
use bramble_plan::{firewall, ready};
use bramble_store::Store;
use bramble_system::{locked, now};
use sha2::{Digest as _, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::admissions;
use crate::ca::{self, Authority};
use crate::changes::Changes;
use crate::error::Error;
use crate::gate::{self, Gate};
use crate::host_ca::HostAuthority;
use crate::neighbours::Neighbours;
use crate::nodes::Nodes;
use crate::places::Places;
use crate::random::bytes;
use crate::store::beside;
use crate::timeline::{Timeline, Track};
use identity::Challenge;

/// How long a process's orders wait for room behind what else its agent is told.
const TELL: Duration = Duration::from_secs(20);
/// An agent whose handshake fails tries again and again: within so many milliseconds it is one event.
const SAME_FAILURE: Millis = 60_000;
/// An agent that is not let in in a boot asks again every 15 s: within this, the same answer is one event.
const SAME_ANSWER: Millis = 3_600_000;
/// What a process may have said and nobody has taken. Its window is full before, unless it prints letter by
/// letter to someone who does not read.
const PROCESS_QUEUE: usize = 4096;
/// Connections that have not said who they are, of one address. A node has one.
pub(crate) const STRANGERS_OF_ONE: usize = 16;
/// Letters of a boot's name; the head's own have 32.
const LONGEST_BOOT: usize = 64;

/// Every node is told where the others are: at most so often, and longer with each that is connected.
const MOVES: Duration = Duration::from_secs(1);
const MOVES_EACH: Duration = Duration::from_millis(5);
const HELD: &str = "its board was power-cycled, as an operator was asked to: it is let in five minutes after it came, where no other machine asks";
const PRESS_ENDS: &str = "another machine asks beside the board that an operator power-cycles, and neither is let in by that: `bramble node approve` lists who asks, and `--press` has to be said again";
const SPENT: &str = "other digits were typed for it: start its machine again, or approve its key itself";
const FULL: &str = "more keys wait than have room: it has no digits until one of them is gone";

/// Why a node is served no more that has a connection.
const REVOKED: &str = "its certificate was revoked";

/// The part of the head that agents are connected to.
pub(crate) struct Agents {
    nodes: Nodes,
    neighbours: Arc<Neighbours>,
    timeline: Arc<Timeline>,
    store: Store,
    authority: Arc<Authority>,
    hosts: Arc<HostAuthority>,
    places: Places,
    /// The life of the store, signed by what signed then ([`Authority::number`]).
    life: Mutex<(u64, SignedLife)>,
    /// Who is connected.
    sessions: Mutex<BTreeMap<Name, Connected>>,
    /// When agents were last heard whose connections have ended, and since when this head would have heard them.
    heard: Mutex<BTreeMap<Name, Millis>>,
    since: Millis,
    numbers: AtomicU64,
    limits: Limits,
    /// The repository says something else of nodes: each connection tells its own the newest, as soon as that takes it.
    documents: Changes,
    /// A node is elsewhere: each connection tells its own where that makes a difference to it.
    moves: Changes,
    /// Something about an agent has changed.
    pub(crate) changed: Changes,
    /// Someone asks to be let in, or was let in who had asked.
    pub(crate) asked: Changes,
}

/// A connection, as everyone but itself sees it.
struct Connected {
    number: u64,
    say: mpsc::Sender<Say>,
    last_heard: Millis,
    /// What it runs, as it says.
    version: String,
    protocol: Versions,
    capabilities: Vec<Capability>,
    /// The CAs that it trusts, as it says; nothing before it has said so.
    trusts: Vec<Digest>,
}

/// How the connected agent of a node stands to a CA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stands {
    Trusts,
    /// It is being told.
    Told,
    /// It takes none: what it runs.
    Unable(String),
}

/// What the head has to say to an agent.
enum Say {
    Ask(Work, Option<Under>, oneshot::Sender<Answer>),
    /// Start a process; what it says goes to the queue.
    Start(u64, Start, mpsc::Sender<FromProcess>),
    Process(u64, ToProcess),
    /// The last word: why it is no longer served.
    Goodbye(String),
}

impl Agents {
    /// # Errors
    /// When the store's life cannot be read or signed.
    pub(crate) fn open(
        nodes: Nodes,
        neighbours: Arc<Neighbours>,
        timeline: Arc<Timeline>,
        store: Store,
        authority: Arc<Authority>,
        hosts: Arc<HostAuthority>,
    ) -> Result<Self, Error> {
        Ok(Agents {
            places: Places::open(store.clone())?,
            hosts,
            life: Mutex::new((authority.number(), authority.sign_life(store.blocking().life()?)?)),
            nodes,
            neighbours,
            timeline,
            store,
            authority,
            sessions: Mutex::default(),
            heard: Mutex::default(),
            since: now(),
            numbers: AtomicU64::default(),
            limits: Limits::default(),
            documents: Changes::default(),
            moves: Changes::default(),
            changed: Changes::default(),
            asked: Changes::default(),
        })
    }

    fn sessions(&self) -> std::sync::MutexGuard<'_, BTreeMap<Name, Connected>> {
        locked(&self.sessions)
    }

    /// How long a node was alive, as far as this process knows.
    fn last_heard(&self, node: &Name) -> Heard {
        let connected = self.sessions().get(node).map(|session| session.last_heard);
        Heard { last: connected.or_else(|| locked(&self.heard).get(node).copied()), since: self.since }
    }

    /// Asks an agent and waits for its answer; an agent that goes away or takes too long fails. One that did not say that
    /// it can do this is not asked, and one that could not read what the plan saw is not told that.
    pub(crate) async fn ask(&self, node: &Name, work: Work, under: Option<Under>, limit: Duration) -> Answer {
        let failed = |error: &str| Answer::Failed { error: error.into() };
        let needs = work.needs();
        let known = self.sessions().get(node).map(|session| {
            let has = |needed: Option<Capability>| needed.is_none_or(|one| session.capabilities.contains(&one));
            // One of version 1 knows no leads.
            let under = under
                .filter(|_| session.protocol.to >= 2)
                .map(|under| Under { expects: under.expects.filter(|expects| has(expects.needs())), ..under });
            (session.say.clone(), under, has(needs))
        });
        let Some((queue, under, can)) = known else { return failed("its agent is not connected") };
        if !can {
            return Answer::CannotDo;
        }
        let (answer, answered) = oneshot::channel();
        // Many may ask one manager at once. Where its agent takes nothing, the connection ends, and so does the waiting.
        let asking = async {
            queue.send(Say::Ask(work, under, answer)).await.ok()?;
            answered.await.ok()
        };
        match timeout(limit, asking).await {
            Ok(Some(answer)) => answer,
            Ok(None) => failed("its agent went away before it answered"),
            Err(_) => failed(&format!("its agent did not answer within {} s", limit.as_secs())),
        }
    }

    /// Starts a process on a node: its number there, and what it will say. Ends with the connection. One that is busy
    /// with something else is waited for.
    pub(crate) async fn start(&self, node: &Name, start: Start) -> Option<(u64, mpsc::Receiver<FromProcess>)> {
        let session = self.sessions().get(node).map(|session| session.say.clone())?;
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let (tell, told) = mpsc::channel(PROCESS_QUEUE);
        timeout(TELL, session.send(Say::Start(number, start, tell))).await.ok()?.ok()?;
        Some((number, told))
    }

    /// Tells a process something; one that is gone hears nothing.
    pub(crate) async fn tell(&self, node: &Name, number: u64, order: ToProcess) {
        let session = self.sessions().get(node).map(|session| session.say.clone());
        if let Some(session) = session {
            // One that takes nothing for so long is gone; its process hears it by the end of the connection.
            let _ = timeout(TELL, session.send(Say::Process(number, order))).await;
        }
    }

    /// What a node's agent runs, where that cannot do this; `None` where it can, or nobody knows.
    pub(crate) fn unable(&self, node: &Name, capability: &Capability) -> Option<String> {
        let sessions = self.sessions();
        let session = sessions.get(node)?;
        let can = session.capabilities.contains(capability);
        (!can).then(|| format!("an agent of bramble {}", session.version))
    }

    /// How each connected agent stands to this CA.
    pub(crate) fn stand_to(&self, root: &Digest) -> BTreeMap<Name, Stands> {
        let stands = |session: &Connected| match session.trusts.contains(root) {
            true => Stands::Trusts,
            false if session.capabilities.contains(&Capability::TakesRoots) => Stands::Told,
            false => Stands::Unable(format!("an agent of bramble {}", session.version)),
        };
        self.sessions().iter().map(|(name, session)| (name.clone(), stands(session))).collect()
    }

    /// The nodes that are connected.
    pub(crate) fn connected(&self) -> Vec<Name> {
        self.sessions().keys().cloned().collect()
    }

    pub(crate) fn is_connected(&self, node: &Name) -> bool {
        self.sessions().contains_key(node)
    }

    /// How a node refuses this head's lead, where it does.
    pub(crate) fn refuses(&self, node: &Name) -> Option<Refuses> {
        self.timeline.look(node, |track| track.health.as_ref()?.refuses).flatten()
    }

    /// Tells every agent what the current snapshot says of its node.
    pub(crate) fn follow(&self, cluster: &Cluster) {
        // Whoever left is told nothing more; the loop of admissions lets it go.
        for name in self.connected() {
            if !cluster.nodes.contains_key(&name) {
                self.hang_up(&name);
            }
        }
        self.places.follow(cluster);
        self.documents.tell();
    }

    /// Whom the head's record has as managers of the Swarm: others let them in.
    pub(crate) fn managers_are(&self, managers: &BTreeSet<Name>) {
        self.places.managers_are(managers);
    }

    /// Has every node told where the others are, for ever. A thousand that come at once are told of together.
    async fn tell_of_moves(&self) -> std::convert::Infallible {
        loop {
            self.places.changed().await;
            self.moves.tell();
            let connected = u32::try_from(self.sessions().len()).unwrap_or(u32::MAX);
            sleep(MOVES + MOVES_EACH.saturating_mul(connected)).await;
        }
    }

    /// Ends a node's connection.
    fn hang_up(&self, node: &Name) {
        if let Some(session) = self.sessions().remove(node) {
            // Where the queue is full, the connection ends with its sender.
            let _ = session.say.try_send(Say::Goodbye(REVOKED.into()));
        }
    }
}

/// Listens for agents; the future runs until cancelled.
pub(crate) async fn listen(
    agents: Arc<Agents>,
    address: SocketAddrV4,
    gate: Arc<Gate>,
    stop: CancellationToken,
) -> Result<impl Future<Output = Result<(), Error>> + use<>, Error> {
    let name = format!("agents (port {})", address.port());
    let listener = TcpListener::bind(address).await.map_err(Error::service(&name))?;
    agents.authority.tls()?;
    Ok(run(agents, listener, gate, stop))
}

/// Serves agents until cancelled.
async fn run(
    agents: Arc<Agents>,
    listener: TcpListener,
    gate: Arc<Gate>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let moves = Arc::clone(&agents);
    let serve = |(stream, from): (TcpStream, SocketAddr)| {
        let pass = gate.enter(from.ip())?;
        // By whoever signs now.
        let tls = agents.authority.tls().inspect_err(|error| tracing::error!(%error, "no TLS for agents")).ok()?;
        let (agents, tls) = (Arc::clone(&agents), TlsAcceptor::from(tls));
        Some(async move {
            match pass.stay().during(serve::greet(agents, tls, stream, from, pass)).await {
                Some(Ok(())) => {}
                Some(Err(error)) => tracing::debug!(%from, %error, "a connection ended"),
                None => tracing::debug!(%from, "it said nothing, and another one needs its room"),
            }
        })
    };
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        // What a connection had entered goes with it, also where it panics: see `serve::Leaving`.
        never = gate::accept(|| listener.accept(), serve) => match never {},
        never = moves.tell_of_moves() => match never {},
    }
}

impl Agents {
    /// Decides on an enrolment from this address, of an agent that `has_proved` that its key is in the TPM that it names.
    /// The admission is stored before the certificate is told.
    fn enrol(&self, request: &EnrolRequest, from: &Caller, has_proved: bool) -> Result<Enrolled, NotLetIn> {
        let refused = |reason: &str| NotLetIn::Refused(reason.to_owned());
        let cluster = self.nodes.cluster();
        let (Some(document), Some(node)) = (self.document(&request.node), cluster.nodes.get(&request.node)) else {
            return Err(refused("this node is not in the repository"));
        };
        let internal = |error: Error| {
            tracing::error!(%error, node = %request.node, "an enrolment failed");
            refused("the head has an error of its own; see its log")
        };
        if request.boot.0.len() > LONGEST_BOOT
            || !request.boot.0.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        {
            return Err(refused("the name of its boot is none"));
        }
        let key = ca::RequestedKey::of(&request.csr).map_err(|_| refused("the certificate request is malformed"))?;
        if key.is_for_another(&from.connection) {
            return Err(refused("its request for a certificate is of another connection"));
        }
        let fingerprint = key.fingerprint();
        let kept = identity::Kept::read(&request.keeps, &key).map_err(refused)?;
        let enrolment = Enrolment {
            boot: request.boot.clone(),
            nonce: Digest(Sha256::digest(request.nonce.as_bytes()).into()),
            fingerprint: fingerprint.clone(),
            keeps: kept.as_planned(has_proved),
            card: match from.address {
                IpAddr::V4(address) => self.neighbours.card_at(address),
                IpAddr::V6(_) => None,
            },
            heard: self.last_heard(&request.node),
        };
        let declared = Declared { admission: cluster.admission, identity: node.identity };
        let enrol = |record: &mut admission::Record| {
            let verdict = record.enrol(&enrolment, declared);
            (verdict, record.handed_out(&enrolment.boot).cloned(), claimed_beside(record, &enrolment.boot))
        };
        let ask = || match admissions::change_even_in_memory(&self.store, &request.node, enrol) {
            Err(error) if error.is_unreadable() => Ok((Verdict::Refuse(error.to_string()), None, None)),
            verdict => verdict.map_err(internal),
        };
        let (mut verdict, boot, claimed_beside) = ask()?;
        let mut waits = None;
        if let Verdict::AskPerson(_) = &verdict {
            let asks = Asks {
                fingerprint: &fingerprint,
                boot: boot.as_ref(),
                id: &enrolment.boot,
                address: from.address,
                card: enrolment.card,
                shows_digits: request.shows_digits,
                claimed_beside,
            };
            let draw = Draw { nonce: Digest(bytes()), ca: self.authority.digest() };
            let asked =
                admissions::change_waiting(&self.store, &request.node, |waiting| waiting.asks(&asks, draw, now()));
            let Asked { told, ends_press } = asked.map_err(internal)?;
            if ends_press {
                self.press_ends(&request.node);
            }
            if told == Told::Pressed {
                let text =
                    format!("its board was power-cycled, as an operator was asked to: key {fingerprint} is let in");
                admissions::change_even_in_memory(&self.store, &request.node, |record| {
                    record.approve(fingerprint.clone());
                })
                .map_err(internal)?;
                self.timeline.note_of(&request.node, &text);
                verdict = ask()?.0;
            }
            waits = Some(told);
        }
        // Whoever is not let in is a second machine to a press, also where nobody is to decide about it.
        if let Verdict::Refuse(_) | Verdict::Prove = &verdict {
            let is_refused = verdict != Verdict::Prove;
            let turned_away = |waiting: &mut Waiting| waiting.turned_away(&fingerprint, is_refused, now());
            let ends_press = admissions::change_waiting(&self.store, &request.node, turned_away).map_err(internal)?;
            if ends_press {
                self.press_ends(&request.node);
            }
        }
        match verdict {
            Verdict::Admit => {}
            Verdict::Prove => return Err(kept.challenge().map_or_else(refused, NotLetIn::Proves)),
            Verdict::Refuse(reason) => {
                self.tell_once(&request.node, What::Refused { reason: reason.clone() });
                return Err(NotLetIn::Refused(reason));
            }
            Verdict::AskPerson(mut reason) => {
                let draw = match waits {
                    Some(Told::Waits(draw)) if request.shows_digits => Some(draw),
                    Some(Told::Held { .. }) => {
                        reason = HELD.to_owned();
                        None
                    }
                    Some(Told::Spent) => {
                        reason = format!("{reason}; {SPENT}");
                        None
                    }
                    Some(Told::Full) => {
                        reason = format!("{reason}; {FULL}");
                        None
                    }
                    Some(Told::Waits(_) | Told::Pressed) | None => None,
                };
                let digits = request.shows_digits;
                let what = What::Waits { fingerprint: fingerprint.clone(), reason: reason.clone(), digits };
                self.tell_once(&request.node, what);
                return Err(NotLetIn::Waits { why: format!("{reason}; its key is {fingerprint}"), draw });
            }
        }
        // Nobody else is meant by what a person does next.
        if let Err(error) = admissions::change_waiting(&self.store, &request.node, Waiting::is_over) {
            tracing::warn!(%error, node = %request.node, "who else waits is not forgotten");
        }
        let (certificate, renew_at) = self.authority.sign(&request.node, &request.csr).map_err(internal)?;
        let had_asked = self.timeline.look(&request.node, |track| track.pending.is_some()) == Some(true);
        self.timeline.add(Some(&request.node), What::Admitted { fingerprint });
        // A thousand that come at once and need nobody wake no loop.
        if had_asked {
            self.asked.tell();
        }
        Ok(Enrolled { certificate, renew_at, document })
    }

    /// A second machine has asked: no press lets anyone in any more.
    fn press_ends(&self, node: &Name) {
        self.timeline.note_of(node, PRESS_ENDS);
        self.asked.tell();
    }

    /// An agent that is not let in asks again and again: the same answer is one event.
    fn tell_once(&self, node: &Name, what: What) {
        if !self.timeline.has_just_told(node, &what, SAME_ANSWER) {
            self.timeline.add(Some(node), what);
            self.asked.tell();
        }
    }

    fn document(&self, node: &Name) -> Option<NodeDocument> {
        let cluster = self.nodes.cluster();
        let declared = cluster.nodes.get(node)?;
        Some(NodeDocument {
            hostname: node.clone(),
            domain: cluster.domain.clone(),
            role: declared.role.clone(),
            engines: declared.engines.clone(),
            ssh_keys: cluster.ssh_keys.clone(),
            time_servers: cluster.time_servers.clone(),
            life: Some(self.signed_life()),
            docker: declared.docker,
            firewall: firewall::of(&cluster, node, &self.places.fleet()),
        })
    }

    /// The life of the store, signed by what signs now.
    fn signed_life(&self) -> SignedLife {
        let mut life = locked(&self.life);
        let number = self.authority.number();
        if life.0 != number {
            match self.authority.sign_life(life.1.life) {
                Ok(signed) => *life = (number, signed),
                Err(error) => tracing::error!(%error, "the life of the head's store is signed by who signed it before"),
            }
        }
        life.1.clone()
    }

    /// A node's agent says which CAs it trusts.
    fn trusts(&self, node: &Name, number: u64, boot: &BootId, roots: Vec<Digest>) {
        self.authority.trusts(node, boot, &roots);
        if let Some(session) = self.sessions().get_mut(node).filter(|session| session.number == number) {
            session.trusts = roots;
        }
        self.changed.tell();
    }
}

impl Agents {
    /// An operator types the digits that a machine's console shows; gives its key, which is let in from now on.
    ///
    /// # Errors
    /// When the store cannot be read or written; or why they let nobody in.
    pub(crate) fn approve_shown(&self, node: &Name, digits: Digits) -> Result<Result<String, NotThese>, Error> {
        let typed = admissions::change_waiting(&self.store, node, |waiting| waiting.types(digits, now()))?;
        match &typed {
            Ok(fingerprint) => self.approve(node, fingerprint)?,
            Err(NotThese::NobodyShows) => {}
            Err(NotThese::Wrong { .. } | NotThese::Twice) => {
                self.timeline.note_of(node, "an operator typed six digits that no machine that waits has");
                self.asked.tell();
            }
        }
        Ok(typed)
    }

    /// An operator power-cycles the board now; gives until when its boot counts. Of a machine that is never in its card's own
    /// place, the relay behind which it is: no press could let it in.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub(crate) fn approve_pressed(&self, node: &Name) -> Result<Result<Millis, Ipv4Addr>, Error> {
        let cluster = self.nodes.cluster();
        let address = cluster.nodes.get(node).and_then(|node| node.address);
        if let Some(relay) = address.and_then(|address| cluster.network.relays_of(address).first()) {
            return Ok(Err(*relay));
        }
        let until = admissions::change_waiting(&self.store, node, |waiting| waiting.press(now()))?;
        self.timeline.note_of(node, "an operator power-cycles its board, and lets in the machine that boots then");
        Ok(Ok(until))
    }

    /// An operator has compared this key, and lets it in.
    ///
    /// # Errors
    /// When the admission cannot be read, or the store not be written.
    pub(crate) fn approve(&self, node: &Name, fingerprint: &str) -> Result<(), Error> {
        admissions::change(&self.store, node, |record| record.approve(fingerprint.to_owned()))?;
        admissions::change_waiting(&self.store, node, |waiting| waiting.lifts(fingerprint))?;
        self.timeline.add(Some(node), What::Note { text: format!("an operator approved key {fingerprint}") });
        Ok(())
    }

    /// Ends what a node was given: its certificate, its connection, and its being known.
    ///
    /// # Errors
    /// When the store cannot be written; then nothing has ended.
    pub(crate) fn revoke(&self, node: &Name) -> Result<(), Error> {
        admissions::forget(&self.store, node)?;
        self.hang_up(node);
        Ok(())
    }

    /// A node is connected that was said to go down.
    async fn is_seen(&self, node: &Name) -> Result<(), Error> {
        let (store, node) = (self.store.clone(), node.clone());
        beside(move || admissions::change_even_in_memory(&store, &node, admission::Record::is_seen)).await
    }

    /// A node's connection has ended, over which it was last heard then.
    fn is_lost(&self, node: &Name, last_heard: Millis) {
        let has_reset = admissions::of(&self.store, node).is_ok_and(|record| {
            let mut lost = record.clone();
            lost.is_lost(last_heard);
            lost != record
        });
        if has_reset
            && let Err(error) =
                admissions::change_even_in_memory(&self.store, node, |record| record.is_lost(last_heard))
        {
            tracing::error!(%error, %node, "that its machine has reset could not be written down");
        }
    }

    /// A node goes down because someone said so; where it is to come back, its next boot is expected.
    pub(crate) fn goes_down(&self, node: &Name, comes_back: bool) {
        let change = |record: &mut admission::Record| {
            if comes_back {
                record.expect(now(), now());
            } else {
                record.leaves();
            }
        };
        if let Err(error) = admissions::change_even_in_memory(&self.store, node, change) {
            tracing::error!(%error, %node, "whether its next boot is expected could not be written down");
        }
        let text = if comes_back { "an operator reboots it" } else { "an operator halts it" };
        self.timeline.note_of(node, text);
    }
}

/// Who asks to be let in, as far as the connection says.
struct Caller {
    address: IpAddr,
    connection: Binding,
}

/// Why an agent is not let in, or not yet.
enum NotLetIn {
    Refused(String),
    /// Until a person lets it in.
    Waits {
        why: String,
        /// What the digits on its console are made of.
        draw: Option<Draw>,
    },
    /// When it shows what is in this credential.
    Proves(Challenge),
}

/// Whether TLS failed for the time that one side has: a certificate is not valid then.
fn blames_a_clock(error: &rustls::Error) -> bool {
    use rustls::{AlertDescription, CertificateError as Bad, Error};
    matches!(
        error,
        Error::AlertReceived(AlertDescription::CertificateExpired)
            | Error::InvalidCertificate(
                Bad::Expired | Bad::ExpiredContext { .. } | Bad::NotValidYet | Bad::NotValidYetContext { .. }
            )
    )
}

impl Agents {
    /// Tells the timeline of the node at this address, where TLS itself says why.
    fn tls_failed(&self, from: SocketAddr, error: &io::Error) {
        let said = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let SocketAddr::V4(from) = from else { return };
        let card = self.neighbours.on_the_wire(*from.ip()).or_else(|| self.neighbours.heard_at(*from.ip()));
        let Some(node) = card.and_then(|mac| self.nodes.of_card(mac)) else { return };
        let what = What::TlsFailed { reason: error.to_string(), clock: said.is_some_and(blames_a_clock) };
        if said.is_some() && !self.timeline.has_just_told(&node, &what, SAME_FAILURE) {
            self.timeline.add(Some(&node), what);
        }
    }

    /// What an agent says of its node; gives whether that is ready.
    fn heard(&self, node: &Name, health: Health) -> bool {
        // Where someone asked for a boot in its name, what it does is told anew.
        let told = |track: &Track| {
            let engines = track.health.as_ref().map(|health| health.engines.clone());
            engines.filter(|_| track.phase >= Phase::Engine).map(|engines| (engines, track.phase == Phase::Ready))
        };
        let before = self.timeline.look(node, told).flatten();
        let (refused, refuses, engines) = (self.refuses(node), health.refuses, health.engines.clone());
        self.timeline.learn(node, |track| track.health = Some(health));
        if refuses != refused {
            refuses.iter().for_each(|refuses| self.timeline.says_of_itself(node, &refuses.to_string()));
            self.changed.tell();
        }
        let (same, was_ready) = before.map_or((false, false), |(before, ready)| (before == engines, ready));
        if same {
            return was_ready;
        }
        let parts = self.nodes.declared(node).map(|node| node.engines).unwrap_or_default();
        let waits = ready::waits(&parts, &engines);
        let what = waits.map_or(What::Ready, |wait| What::Engine { state: wait.sentence, up: wait.up });
        // An engine of which it is no part may have changed.
        let is_ready = what == What::Ready;
        if !(was_ready && is_ready) {
            self.timeline.add(Some(node), what);
        }
        self.changed.tell();
        is_ready
    }

    /// A node is ready, and may boot this set for ever: the one that it was handed, whatever it says that it runs. Done anew at
    /// each connection.
    fn is_ready(&self, node: &Name) {
        let handed = admissions::of(&self.store, node).map(|record| record.admitted.and_then(|admitted| admitted.set));
        let kept = handed.and_then(|set| set.map_or(Ok(()), |set| admissions::is_ready_with(&self.store, node, set)));
        if let Err(error) = kept {
            tracing::error!(%error, %node, "that it is ready with its boot set could not be written down");
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
