//! Heads of other releases: of version 1 of the protocol, by what the head of commit 5b09a28 said and heard, and of later
//! ones.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::take;
use std::path::PathBuf;

use bramble_engine::swarm::Swarm;
use bramble_model::engine::{EngineKind, EngineState};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use tokio_util::codec::{Framed, LinesCodec};

use super::*;

#[path = "../../../../model/tests-data/protocol-1/words.rs"]
#[allow(dead_code, reason = "each test that includes it needs a part of it")]
mod words;

use words::{Said, conversation};

const ENROLMENT: &str = include_str!("../../../../model/tests-data/protocol-1/enrolment.txt");
const MANAGER: &str = include_str!("../../../../model/tests-data/protocol-1/manager.txt");
const MEMBER: &str = include_str!("../../../../model/tests-data/protocol-1/member.txt");
/// Of a manager: Swarm `swarm-a`, node `node-a`.
const CERTIFICATE: &str = include_str!("../../../../engine/tests-data/swarm-node.crt");

/// All that an agent may say to a head of version 1 beyond what that knows. It passes over it, and misses nothing.
const PASSED_OVER: [&str; 5] = ["capabilities", "protocol", "engines", "keeps", "shows_digits"];

/// For what comes at once, or never.
const SOON: Duration = Duration::from_secs(20);

/// The side of a head of version 1.
struct OldHead<S> {
    lines: Framed<S, LinesCodec>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> OldHead<S> {
    fn new(stream: S) -> Self {
        OldHead { lines: Framed::new(stream, LinesCodec::new_with_max_length(bramble_model::agent::LONGEST_LINE)) }
    }

    async fn says(&mut self, line: &str) {
        self.lines.send(line.to_owned()).await.expect("it is connected");
    }

    /// What the agent says next, as version 1 reads it.
    async fn hears<T: serde::Serialize + serde::de::DeserializeOwned>(&mut self) -> T {
        let line = timeout(SOON, self.lines.next()).await.expect("it is told").expect("it goes on").expect("a line");
        let (told, over) = words::read(&line);
        let unexpected: Vec<&String> = over.iter().filter(|path| !PASSED_OVER.contains(&path.as_str())).collect();
        assert!(unexpected.is_empty(), "{unexpected:?} of {line}");
        told
    }

    /// Waits for the answer to a question. What the work has changed comes first.
    async fn answer(&mut self, question: u64) -> words::Answer {
        let mut changed = false;
        loop {
            match self.hears().await {
                words::FromAgent::Answer { number, answer } => {
                    assert!(number == question && changed, "answer {number} to question {question}");
                    return answer;
                }
                told => changed = matches!(told, words::FromAgent::Health(_)),
            }
        }
    }

    /// Says what was recorded, but what is left out, and waits where the recorded agent had answered. Gives the answers.
    async fn plays(&mut self, recorded: &str, leave_out: fn(&words::Work) -> bool) -> BTreeMap<u64, words::Answer> {
        let (mut answers, mut left_out) = (BTreeMap::new(), BTreeSet::new());
        for said in conversation(recorded) {
            match said {
                Said::Head(line) => match words::read(line).0 {
                    words::ToAgent::Ask { number, work } if leave_out(&work) => drop(left_out.insert(number)),
                    _ => self.says(line).await,
                },
                Said::Agent(line) => match words::read(line).0 {
                    words::FromAgent::Answer { number, .. } if !left_out.contains(&number) => {
                        answers.insert(number, self.answer(number).await);
                    }
                    ended @ words::FromAgent::Process { tell: words::FromProcess::Ended { .. }, .. } => loop {
                        match self.hears::<words::FromAgent>().await {
                            said @ words::FromAgent::Process { tell: words::FromProcess::Ended { .. }, .. } => {
                                break assert_eq!(said, ended);
                            }
                            words::FromAgent::Process { .. } | words::FromAgent::Health(_) => {}
                            other => panic!("{other:?}"),
                        }
                    },
                    // It says these by itself, in its own time.
                    _ => {}
                },
            }
        }
        answers
    }
}

/// A stand-in for dockerd: it follows the Docker Engine API for the calls that the recorded questions lead to.
struct Docker {
    folder: tempfile::TempDir,
    /// Method and path of every call that changes something.
    changes: Arc<Mutex<Vec<String>>>,
}

impl Docker {
    /// As `membership` says, which is what `GET /_ping` says in its header `Swarm`.
    fn start(membership: &'static str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(folder.path().join("docker.sock")).expect("a socket");
        let certificate = folder.path().join("swarm/certificates/swarm-node.crt");
        std::fs::create_dir_all(certificate.parent().expect("a folder")).expect("made");
        let mut membership = membership;
        if membership != "inactive" {
            std::fs::write(&certificate, CERTIFICATE).expect("written");
        }
        let changes = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&changes);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let call = call(&mut stream).await;
                if !call.starts_with("GET ") {
                    heard.lock().expect("no panic while held").push(call.clone());
                }
                if call == "POST /swarm/init" {
                    std::fs::write(&certificate, CERTIFICATE).expect("written");
                    membership = "active/manager";
                }
                let body = answer_to(&call);
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nApi-Version: 1.47\r\nSwarm: {membership}\r\nContent-Type: application/json\r\n\
                     Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Docker { folder, changes }
    }

    async fn swarm(&self) -> Swarm {
        let at = |path: &str| -> PathBuf { self.folder.path().join(path) };
        Swarm::at(&at("docker.sock"), &at("swarm/certificates/swarm-node.crt")).await.expect("it answers")
    }

    fn changes(&self) -> Vec<String> {
        take(&mut *self.changes.lock().expect("no panic while held"))
    }
}

fn answer_to(call: &str) -> &'static str {
    match call {
        "POST /swarm/init" => r#""node-a""#,
        "GET /networks" => "[]",
        "GET /swarm" => r#"{"ID":"swarm-a","JoinTokens":{"Manager":"SWMTKN-1-aa-m","Worker":"SWMTKN-1-aa-w"}}"#,
        "GET /info" => r#"{"Swarm":{"NodeAddr":"192.168.7.21"}}"#,
        "GET /nodes" => r#"[{"ID":"node-a","Description":{"Hostname":"m1"},"ManagerStatus":{"Leader":true}}]"#,
        "GET /services" | "GET /tasks" => "[]",
        call if call.starts_with("GET /nodes/") => {
            r#"{"ID":"node-b","Version":{"Index":7},"Spec":{"Availability":"active"},"Status":{"State":"down"}}"#
        }
        _ => "",
    }
}

/// Reads one request to its end; gives method and path, without the API's version in front and the query behind.
async fn call(stream: &mut UnixStream) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer).await.unwrap_or(0);
        bytes.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let length = |line: &str| line.to_lowercase().strip_prefix("content-length:")?.trim().parse::<usize>().ok();
        let length = text.lines().find_map(length).unwrap_or(0);
        let whole = text.split_once("\r\n\r\n").is_some_and(|(_, body)| body.len() >= length);
        if whole || count == 0 {
            let mut words = text.split([' ', '?']);
            let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let path = path.strip_prefix("/v").and_then(|rest| rest.find('/').map(|at| &rest[at..])).unwrap_or(path);
            return format!("{method} {path}");
        }
    }
}

/// What an agent has besides its connection, with this Swarm's daemon or one that has not started.
fn agent_of(swarm: Option<Swarm>, state: EngineState) -> (Agent, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let (told, states) = watch::channel([(EngineKind::Swarm, state)].into_iter().collect());
    let (declared, known) = watch::channel(None);
    let engines = Engines::of(swarm, told, Guard::at(&folder.path().join("lead.json"), Trust::in_keys(&[])));
    (Agent { engines, states, documents: Documents::start_with(|_| {}, Arc::default(), declared), known }, folder)
}

/// An agent whose conversation has this far end, until it ends.
async fn conversation_of(
    here: &Agent,
    identity: &Identity,
    limits: Limits,
    ours: DuplexStream,
) -> Result<Infallible, Error> {
    let head = Connection::open(limits, async { Ok(ours) }).await.expect("opened");
    converse(head, identity, None, &here.engines, &here.states, &here.documents, &unremembered()).await
}

fn all(_: &words::Work) -> bool {
    false
}

/// Their driver calls the Docker of the machine that this test runs on.
fn workloads(work: &words::Work) -> bool {
    matches!(work, words::Work::Deploy { .. } | words::Work::Remove { .. })
}

/// From enrolment to renewal, over TLS: its head hears nothing that ends the connection, and an answer to each question.
#[tokio::test]
async fn a_head_of_version_1_is_enrolled_with_greeted_and_answered() {
    let head = TestHead::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let boot = this_boot(&listener);
    let starting = EngineState::Starting { waiting_for: "dockerd to start".into() };
    let (here, _folder) = agent_of(None, starting.clone());
    let identity = head.identity();
    let serve = async {
        let (stream, _) = listener.accept().await.expect("someone comes");
        let mut enrolling = OldHead::new(head.tls.accept(stream).await.expect("TLS"));
        let request: words::EnrolRequest = enrolling.hears().await;
        assert_eq!((&*request.node, &*request.boot, &*request.nonce), ("w1", "b1", "n1"));
        let Some(Said::Head(told)) = conversation(ENROLMENT).nth(1) else { panic!("a request and its answer") };
        let mut enrolled: words::Enrolled = words::read(told).0;
        enrolled.certificate = head.enrolled(&request.csr, 2999).certificate;
        enrolling.says(&serde_json::to_string(&enrolled).expect("plain data")).await;

        let (stream, _) = listener.accept().await.expect("it comes again");
        let mut it = OldHead::new(head.tls.accept(stream).await.expect("TLS"));
        let hello: words::FromAgent = it.hears().await;
        assert!(matches!(&hello, words::FromAgent::Hello { boot, .. } if boot == "b1"), "{hello:?}");
        let health: words::FromAgent = it.hears().await;
        let words::FromAgent::Health(words::Health { engine, .. }) = health else { panic!("{health:?}") };
        assert_eq!(engine, words::EngineState::Starting { waiting_for: "dockerd to start".into() });
        it.plays(MANAGER, all).await
    };
    let ready = unremembered();
    let (held, answers) =
        tokio::join!(hold(&boot, &identity, "1", &here.engines, &here.states, &here.documents, &ready), serve);
    assert!(matches!(&held, Err(Error::Ended(why)) if why == "the certificate was renewed"), "{held:?}");
    assert_eq!(answers.keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7, 8]);
    for answer in answers.into_values() {
        assert_eq!(answer, words::Answer::Failed { error: "dockerd has not started yet".into() });
    }
    let parts = here.known.borrow().clone().expect("it was told");
    assert_eq!(parts.of(EngineKind::Swarm), Some(&bramble_model::engine::EnginePart::Manager), "of `part` alone");
    let renewed = identity.enrolled().expect("it has one").certificate;
    assert!(renewed.contains("MIIB"), "the renewed one is kept: {renewed}");
}

/// Without fences: a node that belongs to no Swarm does what it is asked.
#[tokio::test]
async fn a_head_of_version_1_is_served_without_fences() {
    let docker = Docker::start("inactive");
    let (here, _folder) = agent_of(Some(docker.swarm().await), EngineState::Alone);
    let identity = TestHead::new().identity();
    let (ours, theirs) = duplex(1 << 20);
    let mut head = OldHead::new(theirs);
    let (ended, answers) =
        tokio::join!(conversation_of(&here, &identity, Limits::USUAL, ours), head.plays(MANAGER, workloads));
    assert!(matches!(&ended, Err(Error::Ended(why)) if why == "the certificate was renewed"), "{ended:?}");
    for number in [1, 6, 7] {
        assert_eq!(answers[&number], words::Answer::Done, "question {number}");
    }
    for number in [2, 5] {
        let words::Answer::Observed(view) = &answers[&number] else { panic!("question {number}: {answers:?}") };
        assert_eq!((&*view.cluster, &*view.members[0].hostname), ("swarm-a", "m1"));
    }
    let tokens = words::Answer::JoinTokens {
        manager: "SWMTKN-1-aa-m".into(),
        worker: "SWMTKN-1-aa-w".into(),
        address: "192.168.7.21:2377".into(),
    };
    assert_eq!(answers[&3], tokens);
    let changes = docker.changes();
    assert_eq!(changes[0], "POST /swarm/init");
    assert!(!changes.iter().any(|call| call.contains("leave")), "{changes:?}");
}

/// Fault of the old agent: it left the Swarm that it had by force.
#[tokio::test]
async fn a_head_of_version_1_makes_no_member_begin_or_join_another_swarm() {
    // One that works, and one that waits for the other managers.
    for membership in ["active/manager", "error"] {
        let docker = Docker::start(membership);
        let swarm = docker.swarm().await;
        let (here, _folder) = agent_of(Some(swarm), EngineState::Alone);
        let head = TestHead::new();
        let identity = head.identity();
        identity.keep(head.enrolled(&identity.request(None).expect("a request"), 2999));
        let (ours, theirs) = duplex(1 << 20);
        let mut old = OldHead::new(theirs);
        let (ended, answers) =
            tokio::join!(conversation_of(&here, &identity, Limits::USUAL, ours), old.plays(MEMBER, all));
        assert_eq!(answers.len(), 2, "it was asked to begin one, and to join one");
        for (number, answer) in answers {
            // It knows no refusal.
            let words::Answer::Failed { error } = &answer else { panic!("question {number}: {answer:?}") };
            assert!(error.contains("belongs to Swarm swarm-a"), "{error}");
        }
        assert_eq!(docker.changes(), Vec::<String>::new(), "nothing is left, and nothing begun");
        assert!(matches!(&ended, Err(Error::Refused(why)) if why == "its certificate was revoked"), "{ended:?}");
        assert!(identity.enrolled().is_none(), "it asks to be let in like any other");
    }
}

/// Its head says nothing for as long as it has nothing to ask, and takes a silent agent for lost.
#[tokio::test]
async fn a_head_of_version_1_hears_a_beat_and_need_say_none() {
    let (here, _folder) = agent_of(None, EngineState::Alone);
    let head = TestHead::new();
    let identity = head.identity();
    identity.keep(Enrolled { renew_at: 1, ..head.enrolled(&identity.request(None).expect("a request"), 2999) });
    // Forty beats are ten times the silence after which a head that says beats is lost.
    let quick = Limits { beat: 10, silence: 40, ..Limits::USUAL };
    let (ours, theirs) = duplex(1 << 20);
    let mut old = OldHead::new(theirs);
    let test = async {
        let document = conversation(MEMBER).find(|said| matches!(said, Said::Head(_)));
        let Some(Said::Head(document)) = document else { panic!("it is told what it is") };
        old.says(document).await;
        let (mut beats, mut renewals) = (0, 0);
        while beats < 40 {
            match old.hears().await {
                words::FromAgent::Health(_) => beats += 1,
                words::FromAgent::Renew { csr } if csr.starts_with("-----BEGIN CERTIFICATE REQUEST") => renewals += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(renewals, 1, "one that is due is asked for, and not again at once");
    };
    tokio::select! {
        ended = conversation_of(&here, &identity, quick, ours) => panic!("it ended: {ended:?}"),
        () = test => {}
    }
}

#[tokio::test]
async fn a_head_says_what_it_speaks_and_one_that_speaks_nothing_of_this_is_left() {
    for (from, to, stays) in [(1, 2, true), (2, 9, true), (3, 4, false)] {
        let (here, _folder) = agent_of(None, EngineState::Alone);
        let identity = TestHead::new().identity();
        let (ours, theirs) = duplex(1 << 20);
        let mut head = OldHead::new(theirs);
        let test = async {
            let protocol = format!(r#"{{"from":{from},"to":{to}}}"#);
            head.says(&format!(r#"{{"type":"hello","version":"9","protocol":{protocol},"capabilities":["flies"]}}"#))
                .await;
            head.says(r#"{"type":"ask","number":4,"work":{"do":"levitate"}}"#).await;
            head.answer(4).await
        };
        tokio::select! {
            ended = conversation_of(&here, &identity, Limits::USUAL, ours) => {
                let error = ended.expect_err("it never ends well").to_string();
                assert!(!stays && error.contains("speaks versions 3 to 4 of the protocol"), "{error}");
            }
            _ = test => assert!(stays, "{from} to {to}"),
        }
    }
}

/// Of a later release, say.
#[tokio::test]
async fn a_question_that_nobody_knows_is_answered_and_a_message_dropped() {
    let docker = Docker::start("active/manager");
    let (here, _folder) = agent_of(Some(docker.swarm().await), EngineState::Alone);
    let identity = TestHead::new().identity();
    let (ours, theirs) = duplex(1 << 20);
    let mut later = OldHead::new(theirs);
    let test = async {
        later.says(r#"{"type":"sing","song":[1]}"#).await;
        // Whoever wants a process waits for its end.
        later.says(r#"{"type":"start","number":9,"start":{"image":"x"}}"#).await;
        let ended = loop {
            let line =
                timeout(SOON, later.lines.next()).await.expect("it is told").expect("it goes on").expect("a line");
            match serde_json::from_str(&line).expect("a message") {
                FromAgent::Process { number: 9, tell } => break tell,
                FromAgent::Health(_) => {}
                other => panic!("{other:?}"),
            }
        };
        let FromProcess::Ended { end: End::Failed { reason } } = ended else { panic!("{ended:?}") };
        assert!(reason.contains("another release"), "{reason}");
        later.says(r#"{"type":"process","number":9,"tell":{"type":"hum"}}"#).await;
        later.says(r#"{"type":"document","hostname":7}"#).await;
        for (number, work) in [
            // Of another engine; another question; one whose form is not known.
            (1, r#"{"engine":"orchestra","do":"tune"}"#),
            (2, r#"{"do":"levitate","height":3}"#),
            (3, r#"{"do":"forget"}"#),
        ] {
            later.says(&format!(r#"{{"type":"ask","number":{number},"work":{work}}}"#)).await;
            let answered = loop {
                let line = later.lines.next().await.expect("it goes on").expect("a line");
                match serde_json::from_str(&line).expect("a message") {
                    FromAgent::Answer { number, answer } => break (number, answer),
                    FromAgent::Health(_) => {}
                    other => panic!("{other:?}"),
                }
            };
            assert_eq!(answered, (number, Answer::CannotDo), "{work}");
        }
        later.says(r#"{"type":"ask","number":4,"work":{"do":"observe"}}"#).await;
        assert!(matches!(later.answer(4).await, words::Answer::Observed(_)), "it goes on");
    };
    tokio::select! {
        ended = conversation_of(&here, &identity, Limits::USUAL, ours) => panic!("it ended: {ended:?}"),
        () = test => {}
    }
    assert_eq!(docker.changes(), Vec::<String>::new());
}
