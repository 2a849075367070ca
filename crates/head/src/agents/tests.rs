//! The agents' listener over TLS on the loopback: this part of the head, and what it is handed.

mod asking;
mod identity;
mod nodes;
mod other_releases;
mod rotation;

use std::io::Write;
use std::net::Ipv4Addr;
use std::path::Path;

use bramble_model::agent::{self, Capability, Facts, FromAgent, LONGEST_LINE, Refuses, ToAgent, swarm};
use bramble_model::engine::{EngineKind, EngineState};
use bramble_model::hands::{Channel, Data, End, PIECE, WINDOW};
use bramble_model::names::BootId;
use bramble_model::repository::{Admission, Identity};
use bramble_plan::admission::{Keeps, Served};
use futures_util::{SinkExt, StreamExt};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::codec::{Framed, LinesCodec};

use super::*;
use crate::adoptions::Adoptions;
use crate::ca::RequestedKey;
use crate::hands::Carried;
use crate::snapshots::Snapshots;
use crate::snapshots::tests::begun;

/// Short, for tests: a second for a message to leave.
const LIMITS: Limits = Limits { greeting: 20_000, silence: 30_000, sending: 1_000, beat: 300 };

fn node(number: u8) -> Name {
    format!("w{number}").parse().expect("a name")
}

/// The agents of a head of three nodes, with its state in this folder.
fn agents(folder: &Path, limits: Limits) -> Arc<Agents> {
    let mut text =
        String::from("[cluster]\nname = \"c\"\n[network]\ninterface = \"lo\"\n[roles.r]\nengine = \"none\"\n");
    for number in 1..=3 {
        text += &format!("[nodes.w{number}]\nmac = \"52:54:00:00:00:0{number}\"\nrole = \"r\"\n");
    }
    agents_of(folder, &text, limits)
}

/// The agents of a head of this repository.
fn agents_of(folder: &Path, text: &str, limits: Limits) -> Arc<Agents> {
    parts_of(folder, text, limits).0
}

/// As [`agents_of`], and the parts beside it.
pub(crate) fn parts_of(folder: &Path, text: &str, limits: Limits) -> (Arc<Agents>, Arc<Timeline>, Arc<Snapshots>) {
    parts_beside(folder, text, limits, |_| {})
}

/// As [`parts_of`], where something is made in the folder of the keys before the CA is looked for.
fn parts_beside(
    folder: &Path,
    text: &str,
    limits: Limits,
    makes: impl FnOnce(&Path),
) -> (Arc<Agents>, Arc<Timeline>, Arc<Snapshots>) {
    let (store, snapshots, current) = begun(folder, text);
    makes(&folder.join(".bramble/keys"));
    let authority = Arc::new(Authority::open(&folder.join(".bramble/keys")).expect("made"));
    let timeline = Arc::new(Timeline::open(store.clone(), &current.cluster, 0).expect("opens"));
    let nodes = Nodes::new(Arc::clone(&snapshots), Arc::new(Adoptions::open(store.clone()).expect("opens")));
    let hosts = Arc::new(HostAuthority::open(&folder.join(".bramble/keys")));
    let agents = Agents::open(nodes, Arc::default(), Arc::clone(&timeline), store, authority, hosts).expect("opens");
    (Arc::new(Agents { limits, ..agents }), timeline, snapshots)
}

/// Where they are listened for, until the test ends.
async fn listening(agents: &Arc<Agents>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let gate = Gate::new(64, STRANGERS_OF_ONE);
    tokio::spawn(run(Arc::clone(agents), listener, gate, CancellationToken::new()));
    address
}

type Lines = Framed<TlsStream<TcpStream>, LinesCodec>;

/// An agent that was admitted, has said hello and was told its document. Its machine takes little at a time.
async fn settle(agents: &Agents, address: SocketAddr, name: &Name) -> Lines {
    let (mut lines, hello, _) = connect(agents, address, name).await;
    say(&mut lines, &hello).await;
    assert!(matches!(hear(&mut lines).await, Some(ToAgent::Document(document)) if document.hostname == *name));
    lines
}

/// An agent that was admitted and is connected, what it says first, and its certificate request.
async fn connect(agents: &Agents, address: SocketAddr, name: &Name) -> (Lines, FromAgent, String) {
    let (lines, hello, csr, _) = connect_with(agents, address, name, KeyPair::generate().expect("a key")).await;
    (lines, hello, csr)
}

/// As [`connect`], with this key, which is given back.
async fn connect_with(
    agents: &Agents,
    address: SocketAddr,
    name: &Name,
    key: KeyPair,
) -> (Lines, FromAgent, String, KeyPair) {
    let csr = CertificateParams::default().serialize_request(&key).and_then(|csr| csr.pem()).expect("a request");
    let fingerprint = RequestedKey::of(&csr).expect("a key").fingerprint();
    let (boot, nonce) = (BootId(format!("boot-of-{name}-{fingerprint}")), Digest([7; 32]));
    let enrolment = Enrolment {
        boot: boot.clone(),
        nonce,
        fingerprint,
        keeps: Keeps::Nothing,
        card: None,
        heard: Heard { last: None, since: 0 },
    };
    let declared = Declared { admission: Admission::Open, identity: Identity::Wire };
    let verdict = admissions::change(&agents.store, name, |record| {
        record.serve(
            Served { id: boot.clone(), nonce: Some(nonce), set: Digest([1; 32]), card: None, by_datagram: false },
            1,
            false,
        );
        record.enrol(&enrolment, declared)
    });
    assert_eq!(verdict.expect("written"), Verdict::Admit);
    let (certificate, _) = agents.authority.sign(name, &csr).expect("signed");
    let lines = dial(agents, address, Some((&certificate, &key))).await;
    let facts = Facts {
        kernel: "6.12.0".into(),
        architecture: "x86_64".into(),
        cpus: 4,
        memory: 8 << 30,
        set: "none".into(),
        address: Ipv4Addr::LOCALHOST.into(),
    };
    let capabilities = Capability::OWN.to_vec();
    let hello = FromAgent::Hello { boot, version: "0".into(), facts, protocol: Versions::OWN, capabilities };
    (lines, hello, csr, key)
}

/// A connection with this certificate (PEM), or with none.
async fn dial(agents: &Agents, address: SocketAddr, own: Option<(&str, &KeyPair)>) -> Lines {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(agents.authority.pem().as_bytes()).expect("PEM")).expect("a CA");
    let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots);
    let tls = match own {
        None => tls.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM")];
            let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
            tls.with_client_auth_cert(chain, key).expect("it fits")
        }
    };
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("set");
    let stream = socket.connect(address).await.expect("it listens");
    let server = ServerName::try_from("head.bramble").expect("a name");
    let stream = TlsConnector::from(Arc::new(tls)).connect(server, stream).await.expect("TLS");
    Framed::new(stream, LinesCodec::new_with_max_length(LONGEST_LINE))
}

async fn say(lines: &mut Lines, message: &FromAgent) {
    lines.send(serde_json::to_string(message).expect("plain data")).await.expect("it is connected");
}

/// What the head says next, but its hello, whom it may trust, and that the node is ready.
async fn hear(lines: &mut Lines) -> Option<ToAgent> {
    loop {
        let line = lines.next().await?.ok()?;
        match serde_json::from_str(&line).expect("a message of the head") {
            ToAgent::Hello { .. } | ToAgent::Trust { .. } | ToAgent::Ready => {}
            message => return Some(message),
        }
    }
}

fn health() -> FromAgent {
    FromAgent::Health(Health {
        uptime: 60,
        busy: 1,
        load: 0.5,
        temperature: None,
        memory_available: 1 << 30,
        disk_available: Some(1 << 30),
        killed_for_memory: 0,
        agent_resident: 1 << 20,
        engines: Default::default(),
        refuses: None,
    })
}

/// Answers every question, and every command with its own words.
async fn live(mut lines: Lines) {
    while let Some(message) = hear(&mut lines).await {
        match message {
            ToAgent::Ask { number, .. } => say(&mut lines, &FromAgent::Answer { number, answer: Answer::Done }).await,
            ToAgent::Start { number, start } => {
                let data = Data(start.argv.join(" ").into_bytes());
                let output = FromProcess::Output { channel: Channel::Out, data };
                let end = FromProcess::Ended { end: End::Exited { code: 0 } };
                for tell in [output, end] {
                    say(&mut lines, &FromAgent::Process { number, tell }).await;
                }
            }
            // Such an agent is heard in good time where it answers the head's beat.
            ToAgent::Beat => say(&mut lines, &health()).await,
            _ => {}
        }
    }
}

/// An agent without a wire, whose node's part in the Swarm is this: to what it has no answer it stays silent.
pub(crate) fn pretend(
    agents: &Arc<Agents>,
    name: &Name,
    engine: EngineState,
    mut answers: impl FnMut(&Work) -> Option<Answer> + Send + 'static,
) {
    let (say, mut queue) = mpsc::channel(serve::QUEUE);
    let number = agents.numbers.fetch_add(1, Ordering::Relaxed);
    let (protocol, capabilities, trusts) = (Versions::OWN, Capability::OWN.to_vec(), Vec::new());
    let entry = Connected { number, say, last_heard: now(), version: "0".into(), protocol, capabilities, trusts };
    agents.sessions().insert(name.clone(), entry);
    agents.timeline.add(Some(name), What::Connected);
    let FromAgent::Health(health) = health() else { unreachable!("it is health") };
    agents.heard(name, Health { engines: [(EngineKind::Swarm, engine)].into_iter().collect(), ..health });
    tokio::spawn(async move {
        // Whoever asks one that is silent waits.
        let mut unanswered = Vec::new();
        while let Some(said) = queue.recv().await {
            let Say::Ask(work, _, asker) = said else { continue };
            match answers(&work) {
                Some(answer) => drop(asker.send(answer)),
                None => unanswered.push(asker),
            }
        }
    });
}

/// An agent without a wire that starts whatever it is to, and ends nothing by itself; gives when it has started something,
/// and what that is told.
pub(crate) fn runs(agents: &Agents, name: &Name) -> mpsc::UnboundedReceiver<Option<ToProcess>> {
    let (say, mut queue) = mpsc::channel(serve::QUEUE);
    let (tells, told) = mpsc::unbounded_channel();
    let number = agents.numbers.fetch_add(1, Ordering::Relaxed);
    let (protocol, capabilities, trusts) = (Versions::OWN, Capability::OWN.to_vec(), Vec::new());
    let entry = Connected { number, say, last_heard: now(), version: "0".into(), protocol, capabilities, trusts };
    agents.sessions().insert(name.clone(), entry);
    tokio::spawn(async move {
        let mut running = Vec::new();
        while let Some(said) = queue.recv().await {
            let told = match said {
                Say::Start(_, _, process) => {
                    running.push(process);
                    None
                }
                Say::Process(_, order) => Some(order),
                Say::Ask(..) | Say::Goodbye(_) => continue,
            };
            if tells.send(told).is_err() {
                return;
            }
        }
    });
    told
}

/// Its agent says that it refuses this head's lead; gives how.
pub(crate) fn refuses(agents: &Agents, name: &Name) -> String {
    let FromAgent::Health(health) = health() else { unreachable!("it is health") };
    let refuses = Refuses { life: 100, obeys: 200 };
    agents.heard(name, Health { refuses: Some(refuses), ..health });
    refuses.to_string()
}

fn words(words: &[&str]) -> Start {
    Start { argv: words.iter().map(|word| (*word).to_owned()).collect(), terminal: None, input: true }
}

/// Why the head says that a node is no longer connected.
async fn end_of(agents: &Agents, node: &Name) -> String {
    let mut newest = agents.timeline.newest();
    loop {
        newest.borrow_and_update();
        let end = agents.timeline.of(node, 100).into_iter().find_map(|event| match event.what {
            What::Disconnected { reason } => Some(reason),
            _ => None,
        });
        if let Some(end) = end {
            return end;
        }
        newest.changed().await.expect("the head lives");
    }
}

/// Its agent asks every 15 s, for as long as nobody starts its machine again.
#[tokio::test]
async fn an_agent_that_is_refused_again_and_again_is_one_event() {
    let folder = tempfile::tempdir().expect("a folder");
    let agents = agents(folder.path(), LIMITS);
    let key = KeyPair::generate().expect("a key");
    let csr = CertificateParams::default().serialize_request(&key).and_then(|csr| csr.pem()).expect("a request");
    let request = EnrolRequest {
        node: node(1),
        boot: BootId("guessed".into()),
        nonce: "guessed".into(),
        csr,
        keeps: agent::Keeps::Nothing,
        shows_digits: false,
    };
    let from = Caller { address: Ipv4Addr::LOCALHOST.into(), connection: agent::Binding([0; 32]) };
    for _ in 0..5 {
        assert!(agents.enrol(&request, &from, false).is_err(), "it knows no boot");
    }
    let events = agents.timeline.of(&node(1), 100);
    assert_eq!(events.iter().filter(|event| matches!(event.what, What::Refused { .. })).count(), 1);
}

/// It was told to go and stayed "connected", with its last health, for as long as its node was in the repository.
#[tokio::test]
async fn a_node_whose_certificate_is_revoked_is_shown_as_gone() {
    let folder = tempfile::tempdir().expect("a folder");
    let agents = agents(folder.path(), LIMITS);
    let address = listening(&agents).await;
    let mut lines = settle(&agents, address, &node(1)).await;
    say(&mut lines, &health()).await;
    let is_connected = || agents.timeline.look(&node(1), |track| track.connected).expect("a node");
    assert!(is_connected());
    agents.revoke(&node(1)).expect("written");
    assert!(matches!(hear(&mut lines).await, Some(ToAgent::Refused { .. })));
    assert_eq!(end_of(&agents, &node(1)).await, "its certificate was revoked");
    assert!(!is_connected());
    assert!(agents.timeline.look(&node(1), |track| track.health.is_none()).expect("a node"));
}

/// Whoever revokes it then finds no connection to end: it stayed for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_revoked_while_it_comes_in_does_not_stay() {
    let folder = tempfile::tempdir().expect("a folder");
    let agents = agents(folder.path(), LIMITS);
    let address = listening(&agents).await;
    let (mut lines, hello, _) = connect(&agents, address, &node(1)).await;
    let (holds, held) = oneshot::channel();
    let revoking = Arc::clone(&agents);
    let revoked = std::thread::spawn(move || {
        // Until this goes, nobody enters. A connection has its number once its admission has been read.
        let sessions = revoking.sessions();
        holds.send(()).expect("the test waits");
        while revoking.numbers.load(Ordering::Relaxed) == 0 {
            std::thread::yield_now();
        }
        admissions::forget(&revoking.store, &node(1)).expect("written");
        assert!(sessions.is_empty(), "there is no connection to end");
    });
    held.await.expect("it holds");
    say(&mut lines, &hello).await;
    let heard = hear(&mut lines).await;
    assert!(matches!(&heard, Some(ToAgent::Refused { reason }) if reason.contains("revoked")), "{heard:?}");
    revoked.join().expect("no panic");
    assert!(!agents.is_connected(&node(1)));
}

#[tokio::test]
async fn a_certificate_that_was_revoked_is_not_renewed() {
    let folder = tempfile::tempdir().expect("a folder");
    let agents = agents(folder.path(), LIMITS);
    let address = listening(&agents).await;
    let (mut lines, hello, csr) = connect(&agents, address, &node(1)).await;
    say(&mut lines, &hello).await;
    assert!(matches!(hear(&mut lines).await, Some(ToAgent::Document(_))));
    say(&mut lines, &FromAgent::Renew { csr: csr.clone() }).await;
    assert!(matches!(hear(&mut lines).await, Some(ToAgent::Renewed(_))));
    admissions::forget(&agents.store, &node(1)).expect("written");
    say(&mut lines, &FromAgent::Renew { csr }).await;
    let heard = hear(&mut lines).await;
    assert!(matches!(&heard, Some(ToAgent::Refused { reason }) if reason.contains("revoked")), "{heard:?}");
    end_of(&agents, &node(1)).await;
    assert!(!agents.is_connected(&node(1)));
}

/// It says how it is again and again, and takes nothing: whoever asks it is told so when the limit is over, and
/// nobody else waits at all.
#[tokio::test]
async fn an_agent_that_takes_nothing_holds_up_itself() {
    let folder = tempfile::tempdir().expect("a folder");
    let agents = agents(folder.path(), LIMITS);
    let address = listening(&agents).await;
    let (stuck, lively) = (node(1), node(2));
    let (_reads, mut writes) = tokio::io::split(settle(&agents, address, &stuck).await.into_inner());
    tokio::spawn(async move {
        let line = serde_json::to_string(&health()).expect("plain data") + "\n";
        while tokio::io::AsyncWriteExt::write_all(&mut writes, line.as_bytes()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    tokio::spawn(live(settle(&agents, address, &lively).await));

    // More than the buffers of both machines hold.
    let mut asked = JoinSet::new();
    for _ in 0..12 {
        let (agents, stuck) = (Arc::clone(&agents), stuck.clone());
        let file = "x".repeat(LONGEST_LINE - 1024);
        let work = swarm::Work::Deploy {
            name: node(9),
            generation: "1f0a".parse().expect("a generation"),
            file,
            encrypted: false,
        }
        .into();
        asked.spawn(async move { agents.ask(&stuck, work, None, Duration::from_secs(600)).await });
    }
    // An errand of both: the stuck one's process is given orders that its agent does not take.
    let (says, mut said) = mpsc::channel(64);
    let mut orders = Vec::new();
    for name in [&stuck, &lively] {
        let (order, ordered) = mpsc::channel(serve::QUEUE * 4);
        for _ in 0..serve::QUEUE * 2 {
            order.try_send(ToProcess::Room { bytes: 1 }).expect("room");
        }
        orders.push(order);
        let start = words(&["hostname"]);
        tokio::spawn(crate::hands::carry(Arc::clone(&agents), name.clone(), start, ordered, says.clone()));
    }
    let (from, output) = said.recv().await.expect("one speaks");
    assert!(from == lively && matches!(output, Carried::Said(FromProcess::Output { .. })), "{from}: {output:?}");
    let (from, end) = said.recv().await.expect("it ends");
    let exited = FromProcess::Ended { end: End::Exited { code: 0 } };
    assert_eq!((from, end), (lively.clone(), Carried::Said(exited)));
    // A loop that looks at both.
    let look = agents.ask(&lively, swarm::Work::Observe.into(), None, Duration::from_secs(600)).await;
    assert_eq!((look, agents.is_connected(&stuck)), (Answer::Done, true));

    assert_eq!(end_of(&agents, &stuck).await, "it took nothing for 1 s");
    assert!(!agents.is_connected(&stuck));
    for answer in asked.join_all().await {
        assert_eq!(answer, Answer::Failed { error: "its agent went away before it answered".into() });
    }
    let (from, end) = said.recv().await.expect("it is told");
    assert_eq!((from, end), (stuck.clone(), Carried::Lost));
    // What it does not take is not what others do not say.
    let look = agents.ask(&lively, swarm::Work::Observe.into(), None, Duration::from_secs(600)).await;
    assert_eq!(look, Answer::Done);
}

/// For as long as it took nothing it was heard, and whoever had asked it waited.
#[tokio::test]
async fn an_agent_that_takes_nothing_is_heard_no_more_once_it_is_revoked() {
    let folder = tempfile::tempdir().expect("a folder");
    let agents = agents(folder.path(), Limits { sending: 600_000, ..LIMITS });
    let address = listening(&agents).await;
    let (_reads, mut writes) = tokio::io::split(settle(&agents, address, &node(1)).await.into_inner());
    // More than the buffers of both machines hold.
    let mut asked = JoinSet::new();
    for _ in 0..12 {
        let agents = Arc::clone(&agents);
        let file = "x".repeat(LONGEST_LINE - 1024);
        let work = swarm::Work::Deploy {
            name: node(9),
            generation: "1f0a".parse().expect("a generation"),
            file,
            encrypted: false,
        }
        .into();
        asked.spawn(async move { agents.ask(&node(1), work, None, Duration::from_secs(600)).await });
    }
    let waiting = || agents.sessions().get(&node(1)).is_some_and(|session| session.say.capacity() < serve::QUEUE);
    while !waiting() {
        tokio::task::yield_now().await;
    }
    agents.revoke(&node(1)).expect("written");
    tokio::spawn(async move {
        let line = serde_json::to_string(&health()).expect("plain data") + "\n";
        while tokio::io::AsyncWriteExt::write_all(&mut writes, line.as_bytes()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let end = timeout(Duration::from_secs(60), end_of(&agents, &node(1))).await.expect("it is not waited for");
    assert_eq!(end, "its certificate was revoked");
    for answer in asked.join_all().await {
        assert_eq!(answer, Answer::Failed { error: "its agent went away before it answered".into() });
    }
    assert!(agents.timeline.look(&node(1), |track| track.health.is_none()).expect("a node"));
}

/// It takes a little in each while, and is never stuck: what was declared while its queue was full was never told, and
/// the SSH keys of the document before stayed good.
#[tokio::test]
async fn a_slow_agent_is_told_the_newest_document_as_soon_as_it_takes_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let agents = agents(folder.path(), Limits { sending: 600_000, ..LIMITS });
    let address = listening(&agents).await;
    let mut slow = settle(&agents, address, &node(1)).await;
    // More than the buffers of both machines and the head's own queue hold.
    let mut asked = JoinSet::new();
    for number in 0..serve::QUEUE + 12 {
        let agents = Arc::clone(&agents);
        let file = "x".repeat(if number < 8 { LONGEST_LINE - 1024 } else { 1 });
        let work = swarm::Work::Deploy {
            name: node(9),
            generation: "1f0a".parse().expect("a generation"),
            file,
            encrypted: false,
        }
        .into();
        asked.spawn(async move { agents.ask(&node(1), work, None, Duration::from_secs(600)).await });
    }
    let full = || agents.sessions().get(&node(1)).is_some_and(|session| session.say.capacity() == 0);
    while !full() {
        tokio::task::yield_now().await;
    }
    for _ in 0..3 {
        agents.follow(&agents.nodes.cluster());
    }
    // A command waits for its turn, too.
    let starting = Arc::clone(&agents);
    let started = tokio::spawn(async move { starting.start(&node(1), words(&["true"])).await.is_some() });
    let (mut documents, mut starts) = (0, 0);
    while documents == 0 || starts == 0 {
        match hear(&mut slow).await.expect("it is connected") {
            ToAgent::Document(document) => {
                assert_eq!(document.hostname, node(1));
                documents += 1;
            }
            ToAgent::Start { .. } => starts += 1,
            ToAgent::Ask { number, .. } => {
                say(&mut slow, &FromAgent::Answer { number, answer: Answer::Done }).await;
            }
            _ => {}
        }
    }
    assert!(started.await.expect("no panic"), "it was only busy");
    assert_eq!(documents, 1, "the newest, once");
}

/// It came again and again, and nobody was told why it does not stay.
#[tokio::test]
async fn an_agent_of_another_release_is_told_of_by_name_once_and_hears_what_this_head_speaks() {
    let folder = tempfile::tempdir().expect("a folder");
    let agents = agents(folder.path(), LIMITS);
    let address = listening(&agents).await;
    let told = |number| {
        let events = agents.timeline.of(&node(number), 100).into_iter();
        let reasons = events.filter_map(|event| match event.what {
            What::OtherRelease { reason } => Some(reason),
            _ => None,
        });
        reasons.collect::<Vec<_>>()
    };
    for _ in 0..2 {
        let (mut lines, mut hello, _) = connect(&agents, address, &node(1)).await;
        let FromAgent::Hello { protocol, .. } = &mut hello else { unreachable!("it is a hello") };
        *protocol = Versions { from: 3, to: 4 };
        say(&mut lines, &hello).await;
        let line = lines.next().await.expect("it is told").expect("a line");
        let heard = serde_json::from_str(&line).expect("a message of the head");
        let ToAgent::Hello { protocol, capabilities, .. } = heard else { panic!("{heard:?}") };
        assert_eq!((protocol, capabilities), (Versions::OWN, Capability::OF_HEAD.to_vec()));
        assert!(lines.next().await.and_then(Result::ok).is_none(), "it is served no more");
        let reason = "its agent is of another release: bramble 0 speaks versions 3 to 4 of the protocol, and this head versions 1 to 2";
        assert_eq!(told(1), [reason]);
    }
    for line in [r#"{"type":"hello","boot":7}"#, r#"{"type":"good-morning"}"#] {
        let (mut lines, _, _) = connect(&agents, address, &node(2)).await;
        lines.send(line.to_owned()).await.expect("it is connected");
        assert!(lines.next().await.and_then(Result::ok).is_none(), "it is served no more");
        assert_eq!(told(2).len(), 1, "{:?}", told(2));
    }
    assert!(agents.timeline.look(&node(2), |track| track.failure.is_some()).expect("a node"), "it is shown");
}

/// `bramble exec` waited for an end that was said in another form.
#[tokio::test]
async fn a_process_that_ends_as_nobody_knows_has_ended() {
    let folder = tempfile::tempdir().expect("a folder");
    let agents = agents(folder.path(), LIMITS);
    let address = listening(&agents).await;
    let mut lines = settle(&agents, address, &node(1)).await;
    let (number, mut told) = agents.start(&node(1), words(&["true"])).await.expect("connected");
    let line =
        format!(r#"{{"type":"process","number":{number},"tell":{{"type":"ended","end":{{"end":"vanished"}}}}}}"#);
    lines.send(line).await.expect("it is connected");
    let ended = told.recv().await;
    assert!(matches!(ended, Some(FromProcess::Ended { end: End::Failed { .. } })), "{ended:?}");
}

/// A node that keeps to no window filled the head's memory: 4096 messages of megabytes waited for a person.
#[tokio::test]
async fn a_process_that_says_more_than_there_is_room_for_is_stopped() {
    let folder = tempfile::tempdir().expect("a folder");
    let agents = agents(folder.path(), LIMITS);
    let address = listening(&agents).await;
    let mut lines = settle(&agents, address, &node(1)).await;
    let (number, mut told) = agents.start(&node(1), words(&["yes"])).await.expect("connected");
    let piece = FromProcess::Output { channel: Channel::Out, data: Data(vec![b'y'; PIECE]) };
    let message = FromAgent::Process { number, tell: piece };
    let fits = 2 * usize::try_from(WINDOW).expect("small") / PIECE;
    for _ in 0..=fits {
        say(&mut lines, &message).await;
    }
    let mut taken = 0;
    while told.recv().await.is_some() {
        taken += 1;
    }
    assert_eq!(taken, fits);
    loop {
        match hear(&mut lines).await.expect("it is told") {
            ToAgent::Process { number: of, tell: ToProcess::Stop } if of == number => break,
            _ => {}
        }
    }
}

#[tokio::test]
async fn an_agent_that_is_silent_is_gone_and_one_that_hears_the_beat_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let agents = agents(folder.path(), Limits { silence: 1_000, ..LIMITS });
    let address = listening(&agents).await;
    let silent = settle(&agents, address, &node(1)).await;
    tokio::spawn(live(settle(&agents, address, &node(2)).await));
    assert_eq!(end_of(&agents, &node(1)).await, "it said nothing for 1 s");
    assert!(agents.is_connected(&node(2)));
    drop(silent);
}

/// What is logged while this is kept.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic while held").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_connection_that_panics_is_logged_and_forgotten_and_others_go_on() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let folder = tempfile::tempdir().expect("a folder");
    let agents = agents(folder.path(), LIMITS);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let numbers = AtomicU64::new(1);
    let entered = Arc::clone(&agents);
    // Each takes its place as an agent that was let in does; the first has an error of its own then.
    let serve = move |(stream, _)| {
        let (agents, number) = (Arc::clone(&entered), numbers.fetch_add(1, Ordering::Relaxed));
        Some(async move {
            let name = node(u8::try_from(number).expect("few"));
            let (say, _queue) = mpsc::channel(1);
            let version = "0".to_owned();
            let (protocol, capabilities) = (Versions::OWN, Vec::new());
            let entry = Connected { number, say, last_heard: 1, version, protocol, capabilities, trusts: Vec::new() };
            let _leaving = serve::Leaving::enter(&agents, &name, entry);
            assert!(number > 1, "as an error of bramble's own");
            let mut byte = [0];
            let _ = tokio::io::AsyncReadExt::read(&mut { stream }, &mut byte).await;
        })
    };
    tokio::spawn(async move { gate::accept(|| listener.accept(), serve).await });
    let _first = TcpStream::connect(address).await.expect("it listens");
    assert_eq!(end_of(&agents, &node(1)).await, "an error of bramble's own");
    assert_eq!(agents.connected(), []);
    let second = TcpStream::connect(address).await.expect("it still listens");
    let mut newest = agents.timeline.newest();
    while !agents.is_connected(&node(2)) {
        newest.changed().await.expect("the head lives");
    }
    drop(second);
    assert_eq!(end_of(&agents, &node(2)).await, "an error of bramble's own", "it gave no reason of its own");
    let log = String::from_utf8(log.0.lock().expect("no panic").clone()).expect("text");
    let line = log.lines().find(|line| line.contains("a connection ended by an error of bramble's own"));
    assert!(line.is_some_and(|line| line.contains("ERROR") && line.contains("panic")), "{log}");
}

/// Two hundred workloads are deployed through one manager: each question waits for its turn, and none is taken for
/// one of a stuck agent.
#[tokio::test]
async fn one_agent_may_be_asked_by_many_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let agents = agents(folder.path(), LIMITS);
    let address = listening(&agents).await;
    let lively = node(1);
    tokio::spawn(live(settle(&agents, address, &lively).await));
    let mut asked = JoinSet::new();
    for _ in 0..200 {
        let (agents, lively) = (Arc::clone(&agents), lively.clone());
        let limit = Duration::from_secs(600);
        asked.spawn(async move { agents.ask(&lively, swarm::Work::Observe.into(), None, limit).await });
    }
    for answer in asked.join_all().await {
        assert_eq!(answer, Answer::Done);
    }
}

#[test]
fn a_node_is_ready_once_whatever_an_engine_does_of_which_it_is_no_part() {
    let folder = tempfile::tempdir().expect("a folder");
    let agents = agents(folder.path(), LIMITS);
    let FromAgent::Health(health) = health() else { unreachable!("it is health") };
    for waiting_for in [None, Some("dockerd"), Some("a time")] {
        let state = waiting_for.map(|what| EngineState::Starting { waiting_for: what.into() });
        let engines = state.map(|state| (EngineKind::Swarm, state)).into_iter().collect();
        agents.heard(&node(1), Health { engines, ..health.clone() });
    }
    let told = agents.timeline.of(&node(1), 10);
    assert_eq!(told.iter().filter(|event| event.what == What::Ready).count(), 1, "{told:?}");
}

/// Its next boots are of that set however long ago it was signed, and it may remember that itself.
#[tokio::test]
async fn a_node_that_is_ready_is_told_so_and_with_which_set_is_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let agents = agents(folder.path(), LIMITS);
    let address = listening(&agents).await;
    for (remembers, set) in [(true, Digest([1; 32])), (false, Digest([1; 32]))] {
        let name = node(if remembers { 1 } else { 2 });
        let (mut lines, hello, _) = connect(&agents, address, &name).await;
        let FromAgent::Hello { boot, version, facts, protocol, mut capabilities } = hello else {
            unreachable!("hello")
        };
        capabilities.retain(|one| remembers || *one != Capability::RemembersReady);
        say(&mut lines, &FromAgent::Hello { boot, version, facts, protocol, capabilities }).await;
        assert!(!admissions::was_ready_with(&agents.store, &name, &set));
        say(&mut lines, &health()).await;
        let mut told = Vec::new();
        // The head beats to whoever is quiet.
        while !told.iter().any(|line: &String| line.contains("\"beat\"")) {
            told.push(lines.next().await.expect("it is connected").expect("a line"));
            say(&mut lines, &health()).await;
        }
        assert_eq!(told.iter().filter(|line| line.contains("\"ready\"")).count(), usize::from(remembers), "{told:?}");
        assert!(admissions::was_ready_with(&agents.store, &name, &set), "what it was handed, not what it says");
    }
}

/// Whoever looks at nodes did not look again.
#[test]
fn that_a_node_refuses_this_heads_lead_is_told_once_and_wakes_the_loops() {
    let folder = tempfile::tempdir().expect("a folder");
    let agents = agents(folder.path(), LIMITS);
    let mut changed = agents.changed.receiver();
    let why = refuses(&agents, &node(1));
    assert!(changed.has_changed().expect("it is there"));
    changed.mark_unchanged();
    refuses(&agents, &node(1));
    assert!(!changed.has_changed().expect("it is there"));
    let told = agents.timeline.of(&node(1), 10);
    let told: Vec<_> = told.iter().filter(|event| matches!(&event.what, What::Note { text } if *text == why)).collect();
    assert_eq!(told.len(), 1);
    let FromAgent::Health(health) = health() else { unreachable!("it is health") };
    agents.heard(&node(1), health);
    assert!(changed.has_changed().expect("it is there"), "it obeys again");
}
