//! Agents of other releases: of version 1 of the protocol, by what commit 5b09a28 said and heard, and of later ones.

use bramble_model::agent::{Expects, Fence, FromAgent as Message};
use bramble_model::engine::{EngineKind, EngineState};
use bramble_model::names::MemberId;
use serde_json::Value;

use super::*;

#[path = "../../../../model/tests-data/protocol-1/words.rs"]
#[allow(dead_code, reason = "each test that includes it needs a part of it")]
mod words;

use words::{Said, conversation};

const ENROLMENT: &str = include_str!("../../../../model/tests-data/protocol-1/enrolment.txt");
const MANAGER: &str = include_str!("../../../../model/tests-data/protocol-1/manager.txt");
const KEY: &str = include_str!("../../../../model/tests-data/protocol-1/agent-key.pem");

/// What the recorded head served.
const REPOSITORY: &str = r#"
[cluster]
name = "c"
domain = "home.arpa"
admission = "open"
ssh_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHRlc3R0ZXN0dGVzdHRlc3R0ZXN0dGVzdHRlc3R0ZXN0 me@home"]
time_servers = ["192.168.7.1"]
[network]
interface = "lo"
[roles.manager]
engine = "manager"
identity = "wire"
[roles.worker]
engine = "worker"
[nodes.m1]
mac = "52:54:00:00:00:01"
role = "manager"
[nodes.w1]
mac = "52:54:00:00:00:02"
role = "worker"
"#;

/// For what comes at once, or never.
const SOON: Duration = Duration::from_secs(20);

/// All that a head may say to an agent of version 1 beyond what that knows. It passes over it, and misses nothing.
const PASSED_OVER: [&str; 6] = ["life", "document.life", "docker", "document.docker", "firewall", "document.firewall"];

fn m1() -> Name {
    "m1".parse().expect("a name")
}

/// In whose lead this head asks: an agent of version 1 must not hear of it.
fn under() -> Option<Under> {
    let expects = Some(Expects::Engine { state: EngineState::Alone });
    Some(Under { fence: Fence { life: 1, number: 1 }, expects })
}

/// What the head says next, as version 1 reads it.
async fn hear_as_then<T: serde::Serialize + serde::de::DeserializeOwned>(lines: &mut Lines) -> T {
    let line = timeout(SOON, lines.next()).await.expect("it is told").expect("it goes on").expect("a line");
    let (told, over) = words::read(&line);
    let unexpected: Vec<&String> = over.iter().filter(|path| !PASSED_OVER.contains(&path.as_str())).collect();
    assert!(unexpected.is_empty(), "{unexpected:?} of {line}");
    told
}

async fn say_as_then(lines: &mut Lines, line: &str) {
    lines.send(line.to_owned()).await.expect("it is connected");
}

fn as_now<T: serde::de::DeserializeOwned>(line: &str) -> T {
    serde_json::from_str(line).expect("understood")
}

/// The recorded agent of m1, enrolled as it was and connected with what it was given. It has said nothing yet.
async fn enrolled(agents: &Agents, address: SocketAddr) -> Lines {
    let mut recorded = conversation(ENROLMENT);
    let (Some(Said::Agent(asks)), Some(Said::Head(told))) = (recorded.next(), recorded.next()) else {
        panic!("a request and its answer");
    };
    let request: EnrolRequest = as_now(asks);
    let nonce = Digest(Sha256::digest(request.nonce.as_bytes()).into());
    let served = admissions::change(&agents.store, &m1(), |record| {
        record.serve(
            Served {
                id: request.boot.clone(),
                nonce: Some(nonce),
                set: Digest([1; 32]),
                card: None,
                by_datagram: false,
            },
            1,
            false,
        )
    });
    served.expect("written");
    let mut lines = dial(agents, address, None).await;
    say_as_then(&mut lines, asks).await;
    let enrolled: words::Enrolled = hear_as_then(&mut lines).await;
    assert_eq!(enrolled.document, words::read::<words::Enrolled>(told).0.document);
    let key = KeyPair::from_pem(KEY).expect("a key");
    dial(agents, address, Some((&enrolled.certificate, &key))).await
}

/// What no recording can have foreseen is the same here and there.
fn without_certificate(mut told: words::ToAgent) -> words::ToAgent {
    if let words::ToAgent::Renewed(enrolled) = &mut told {
        (enrolled.certificate, enrolled.renew_at) = (String::new(), 0);
    }
    told
}

/// A manager that runs commit 5b09a28, from its enrolment to its new certificate: each line that it said then is said to
/// this head, and this head says to it what its own head said.
#[tokio::test]
async fn an_agent_of_version_1_is_served_as_its_own_head_served_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let agents = agents_of(folder.path(), REPOSITORY, LIMITS);
    let address = listening(&agents).await;
    let mut lines = enrolled(&agents, address).await;
    let mut asked = JoinSet::new();
    let mut told = None;
    let mut health: Option<Health> = None;
    for said in conversation(MANAGER) {
        let line = match said {
            Said::Agent(line) => {
                say_as_then(&mut lines, line).await;
                match as_now(line) {
                    Message::Health(said) => health = Some(said),
                    Message::Answer { answer, .. } => {
                        let understood = asked.join_next().await.expect("one is asked").expect("no panic");
                        assert_eq!(understood, answer, "{line}");
                        let track = |track: &Track| (track.connected, track.phase, track.health.clone());
                        let seen = agents.timeline.look(&m1(), track).expect("a node");
                        assert_eq!(seen, (true, Phase::Ready, health.clone()), "healthy, as it says: {line}");
                    }
                    Message::Process { tell, .. } => {
                        let told: &mut mpsc::Receiver<FromProcess> = told.as_mut().expect("it was started");
                        assert_eq!(told.recv().await, Some(tell));
                    }
                    _ => {}
                }
                continue;
            }
            Said::Head(line) => line,
        };
        match as_now(line) {
            ToAgent::Ask { work, .. } => {
                let agents = Arc::clone(&agents);
                asked.spawn(async move { agents.ask(&m1(), work, under(), SOON).await });
            }
            ToAgent::Start { start, .. } => told = agents.start(&m1(), start).await.map(|(_, told)| told),
            ToAgent::Process { number, tell } => agents.tell(&m1(), number, tell).await,
            // It says these by itself.
            _ => {}
        }
        let heard: words::ToAgent = hear_as_then(&mut lines).await;
        assert_eq!(without_certificate(heard), without_certificate(words::read(line).0));
    }
    let facts = agents.timeline.look(&m1(), |track| track.facts.clone()).flatten().expect("it said hello");
    assert_eq!((facts.cpus, facts.memory), (4, 8 << 30));
    agents.revoke(&m1()).expect("written");
    let heard: words::ToAgent = hear_as_then(&mut lines).await;
    assert_eq!(heard, words::ToAgent::Refused { reason: "its certificate was revoked".into() });
}

/// The recorded agent of m1 in a head that says a beat often, beside one of this release, and both in the Swarm `own`.
async fn old_and_new(folder: &Path) -> (Arc<Agents>, Lines, Lines) {
    let agents = agents_of(folder, REPOSITORY, Limits { beat: 20, ..LIMITS });
    let address = listening(&agents).await;
    let mut old = enrolled(&agents, address).await;
    let Some(Said::Agent(hello)) = conversation(MANAGER).next() else { panic!("it says hello first") };
    say_as_then(&mut old, hello).await;
    assert!(matches!(hear_as_then(&mut old).await, words::ToAgent::Document(_)));
    let new = settle(&agents, address, &node(1)).await;
    (agents, old, new)
}

/// It would pass over the name of the Swarm to leave, and leave whatever it has.
#[tokio::test]
async fn an_agent_of_version_1_is_not_asked_what_it_cannot_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let (agents, mut old, mut new) = old_and_new(folder.path()).await;
    let leaves = Some("own".parse().expect("an id"));
    let initialise = swarm::Work::Initialise { address: "192.168.7.21".into(), leaves: leaves.clone() };
    let join = swarm::Work::Join {
        cluster: "c".parse().expect("an id"),
        manager: "192.168.7.22:2377".into(),
        token: "t".into(),
        part: bramble_model::engine::EnginePart::Manager,
        address: "192.168.7.21".into(),
        leaves,
    };
    for work in [initialise.clone(), join] {
        assert_eq!(agents.ask(&m1(), work.into(), under(), SOON).await, Answer::CannotDo);
    }
    // What a plan waits with, before it comes to that.
    let unable = agents.unable(&m1(), &Capability::LeavesByName);
    assert_eq!(unable.as_deref(), Some("an agent of bramble 0.1.0"));
    assert_eq!(agents.unable(&node(1), &Capability::LeavesByName), None);

    let mut asked = JoinSet::new();
    for (name, work) in [(m1(), swarm::Work::Observe), (node(1), initialise.clone())] {
        let agents = Arc::clone(&agents);
        asked.spawn(async move { agents.ask(&name, work.into(), under(), SOON).await });
    }
    // Nothing of it went over the wire.
    let heard: words::ToAgent = hear_as_then(&mut old).await;
    assert_eq!(heard, words::ToAgent::Ask { number: 1, work: words::Work::Observe });
    // One of this release is asked the same, in this head's lead.
    loop {
        match hear(&mut new).await.expect("it goes on") {
            ToAgent::Beat => {}
            ToAgent::Ask { number: 1, work, under: Some(_) } => break assert_eq!(work, initialise.into()),
            other => panic!("{other:?}"),
        }
    }
}

/// It would not know the question for what the plan saw of a member.
#[tokio::test]
async fn an_agent_is_told_of_members_where_it_looks_at_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let agents = agents(folder.path(), LIMITS);
    let address = listening(&agents).await;
    let (mut before, hello, _) = connect(&agents, address, &node(1)).await;
    let Message::Hello { boot, version, facts, protocol, .. } = hello else { panic!("it says hello first") };
    let capabilities = vec![Capability::Fences, Capability::LeavesByName];
    say(&mut before, &Message::Hello { boot, version, facts, protocol, capabilities }).await;
    assert!(matches!(hear(&mut before).await, Some(ToAgent::Document(_))));
    let mut now = settle(&agents, address, &node(2)).await;

    let old: MemberId = "old".parse().expect("an id");
    let member = swarm::Member { id: old.clone(), hostname: "m2".into(), manager: true, up: false };
    let fence = Fence { life: 1, number: 1 };
    let member = Some(Under { fence, expects: Some(Expects::Member { member }) });
    let work = swarm::Work::Forget { node_id: old };
    for (lines, name, told) in
        [(&mut before, node(1), Some(Under { fence, expects: None })), (&mut now, node(2), member.clone())]
    {
        let (asking, work, member) = (Arc::clone(&agents), work.clone(), member.clone());
        let asked = tokio::spawn(async move { asking.ask(&name, work.into(), member, SOON).await });
        let number = loop {
            match hear(lines).await.expect("it goes on") {
                ToAgent::Beat => {}
                ToAgent::Ask { number, under, .. } => {
                    assert_eq!(under, told);
                    break number;
                }
                other => panic!("{other:?}"),
            }
        };
        say(lines, &Message::Answer { number, answer: Answer::Done }).await;
        assert_eq!(asked.await.expect("no panic"), Answer::Done);
    }
}

/// It ends at a message that it does not know.
#[tokio::test]
async fn an_agent_of_version_1_is_told_no_beat() {
    let folder = tempfile::tempdir().expect("a folder");
    let (agents, mut old, mut new) = old_and_new(folder.path()).await;
    for _ in 0..5 {
        assert!(matches!(hear(&mut new).await, Some(ToAgent::Beat)));
    }
    let asking = Arc::clone(&agents);
    let look = tokio::spawn(async move { asking.ask(&m1(), swarm::Work::Observe.into(), under(), SOON).await });
    let heard: words::ToAgent = hear_as_then(&mut old).await;
    assert_eq!(heard, words::ToAgent::Ask { number: 1, work: words::Work::Observe });
    let answer = r#"{"type":"answer","number":1,"answer":{"is":"failed","error":"dockerd has not started yet"}}"#;
    say_as_then(&mut old, answer).await;
    assert_eq!(look.await.expect("no panic"), Answer::Failed { error: "dockerd has not started yet".into() });
}

/// Of a later release, say.
#[tokio::test]
async fn what_an_agent_says_that_nobody_knows_is_logged_and_dropped() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let folder = tempfile::tempdir().expect("a folder");
    let agents = agents(folder.path(), LIMITS);
    let address = listening(&agents).await;
    let mut lines = settle(&agents, address, &node(1)).await;
    for line in [
        r#"{"type":"sing","song":[1]}"#,
        r#"{"type":"health","engine":{"state":"orbiting"}}"#,
        // Whole, but for an id that no engine gives: the node is as it was last seen, and connected.
        r#"{"type":"health","uptime":7,"memory_available":1,"agent_resident":2,"engine":{"state":"member","cluster":"the old one","node_id":"n","manager":true,"reachable":true}}"#,
        r#"{"type":"process","number":9,"tell":{"type":"hum"}}"#,
        r#"{"type":"answer","number":77,"answer":{"is":"done"}}"#,
    ] {
        say_as_then(&mut lines, line).await;
    }
    // Two that are known by name or not at all: whoever asked hears that it cannot be read.
    for answer in [r#"{"is":"floating","height":3}"#, r#"{"is":"failed","error":{"code":7}}"#] {
        let asking = Arc::clone(&agents);
        let asked = tokio::spawn(async move { asking.ask(&node(1), swarm::Work::Observe.into(), None, SOON).await });
        let number = loop {
            match hear(&mut lines).await.expect("it goes on") {
                ToAgent::Ask { number, .. } => break number,
                ToAgent::Beat => {}
                other => panic!("{other:?}"),
            }
        };
        let answer: Value = serde_json::from_str(answer).expect("JSON");
        let line = serde_json::json!({ "type": "answer", "number": number, "answer": answer });
        say_as_then(&mut lines, &line.to_string()).await;
        assert_eq!(asked.await.expect("no panic"), Answer::UNKNOWN);
    }
    say(&mut lines, &health()).await;
    tokio::spawn(live(lines));
    assert_eq!(agents.ask(&node(1), swarm::Work::Observe.into(), None, SOON).await, Answer::Done);
    let engine = agents.timeline.engine_of(&node(1), EngineKind::Swarm);
    assert_eq!(engine, Some(EngineState::None), "what it says in a form that is known counts");
    let log = String::from_utf8(log.0.lock().expect("no panic").clone()).expect("text");
    let warned = |what: &str| log.lines().filter(|line| line.contains("WARN") && line.contains(what)).count();
    assert_eq!(warned("something that this head does not know"), 1, "{log}");
    assert_eq!(warned("in a form that this head does not know"), 3, "{log}");
}
