//! Wrote the conversations beside it. It is no part of the build: it ran as an example of this crate as it was at commit
//! 5b09a28, with `rcgen` among its dev-dependencies, so that the types of that time wrote every byte. In which order they
//! come is what `node/src/connection.rs` and `head/src/agents.rs` of that commit do.
//!
//! ```text
//! git archive 5b09a28 | tar -x -C OLD
//! cp record.rs OLD/crates/model/examples/
//! sed -i '/^\[dev-dependencies\]/a rcgen.workspace = true' OLD/crates/model/Cargo.toml
//! cd OLD && cargo run -p bramble-model --example record FOLDER
//! ```

use std::fmt::Write;

use bramble_model::agent::*;
use bramble_model::hands::*;
use bramble_model::names::{BootId, Name};
use bramble_model::repository::EnginePart;
use rcgen::{CertificateParams, DnType, KeyPair};

const CLUSTER: &str = "p3qk8v1w6m2x9c0tz5r7s4d1b";
const MANAGER: &str = "k8v1w6m2x9c0tz5r7s4d1bp3q";
const GONE: &str = "w6m2x9c0tz5r7s4d1bp3qk8v1";
const BOOT: &str = "5f2c9a7e01b34d68";

#[derive(Default)]
struct Conversation(String);

impl Conversation {
    fn agent(&mut self, message: &impl serde::Serialize) {
        writeln!(self.0, "agent {}", serde_json::to_string(message).unwrap()).unwrap();
    }

    fn head(&mut self, message: &impl serde::Serialize) {
        writeln!(self.0, "head {}", serde_json::to_string(message).unwrap()).unwrap();
    }

    /// Asks, and answers as an agent did: first what the work has changed, then that it is done.
    fn ask(&mut self, number: u64, work: Work, engine: &EngineState, answer: Answer) {
        self.head(&ToAgent::Ask { number, work });
        self.agent(&health(engine));
        self.agent(&FromAgent::Answer { number, answer });
    }

    fn keep(self, name: &str) {
        let folder = std::env::args().nth(1).expect("a folder");
        std::fs::write(format!("{folder}/{name}"), self.0).unwrap();
    }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn document(part: EnginePart) -> NodeDocument {
    let (hostname, role) = if part == EnginePart::Manager { ("m1", "manager") } else { ("w1", "worker") };
    NodeDocument {
        hostname: name(hostname),
        domain: "home.arpa".into(),
        role: name(role),
        part,
        ssh_keys: vec![
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHRlc3R0ZXN0dGVzdHRlc3R0ZXN0dGVzdHRlc3R0ZXN0 me@home".into(),
        ],
        time_servers: vec!["192.168.7.1".into()],
    }
}

fn hello(address: [u8; 4]) -> FromAgent {
    let facts = Facts {
        kernel: "6.12.48+deb13-amd64".into(),
        architecture: "x86_64".into(),
        cpus: 4,
        memory: 8 << 30,
        set: "b1946ac92492d2347c6235b4d2611184".into(),
        address: address.into(),
    };
    FromAgent::Hello { boot: BootId(BOOT.into()), version: "0.1.0".into(), facts }
}

fn health(engine: &EngineState) -> FromAgent {
    FromAgent::Health(Health {
        uptime: 431,
        busy: 7,
        load: 0.25,
        temperature: Some(48),
        memory_available: 6 << 30,
        disk_available: 100 << 30,
        killed_for_memory: 0,
        agent_resident: 9 << 20,
        engine: engine.clone(),
    })
}

fn starting() -> EngineState {
    EngineState::Starting { waiting_for: "dockerd to start".into() }
}

fn member(cluster: &str, manager: bool) -> EngineState {
    EngineState::Member { cluster: cluster.into(), node_id: MANAGER.into(), manager, reachable: true }
}

fn observed(services: Vec<Service>) -> Answer {
    let up = Member { id: MANAGER.into(), hostname: "m1".into(), manager: true, up: true };
    let gone = Member { id: GONE.into(), hostname: "w9".into(), manager: false, up: false };
    Answer::Observed(Observed { cluster: CLUSTER.into(), members: vec![up, gone], services })
}

fn service() -> Service {
    let replica = |state: &str, error: Option<&str>| Replica {
        node_id: MANAGER.into(),
        state: state.into(),
        error: error.map(Into::into),
    };
    Service {
        workload: Some("whoami".into()),
        generation: Some("1f0a".into()),
        name: "whoami_web".into(),
        wanted: 2,
        running: 1,
        ports: vec![8080],
        replicas: vec![replica("running", None), replica("failed", Some("task: non-zero exit (1)"))],
    }
}

/// A manager's whole life on one connection, after it has enrolled on another.
fn manager(key: &KeyPair) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "m1");
    let csr = params.serialize_request(key).unwrap().pem().unwrap();
    // Of no CA: the player puts one of its own in its place.
    let certificate = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n".to_owned();
    let enrolled = Enrolled { certificate, renew_at: 1_795_600_000_000, document: document(EnginePart::Manager) };
    let mut it = Conversation::default();
    let boot = BootId(BOOT.into());
    it.agent(&EnrolRequest { node: name("m1"), boot, nonce: "00ff".into(), csr: csr.clone() });
    it.head(&enrolled);
    it.keep("enrolment.txt");

    let mut it = Conversation::default();
    let member = member(CLUSTER, true);
    it.agent(&hello([192, 168, 7, 21]));
    it.agent(&health(&starting()));
    it.head(&ToAgent::Document(document(EnginePart::Manager)));
    it.agent(&health(&EngineState::Alone));
    it.ask(1, Work::Initialise { address: "192.168.7.21".into() }, &member, Answer::Done);
    it.ask(2, Work::Observe, &member, observed(Vec::new()));
    let (manager, worker) = ("SWMTKN-1-aa-m".into(), "SWMTKN-1-aa-w".into());
    let tokens = Answer::JoinTokens { manager, worker, address: "192.168.7.21:2377".into() };
    it.ask(3, Work::JoinTokens, &member, tokens);
    let file = "services:\n  web:\n    image: whoami\n".into();
    it.ask(4, Work::Deploy { name: name("whoami"), generation: "1f0a".into(), file }, &member, Answer::Done);
    it.ask(5, Work::Observe, &member, observed(vec![service()]));
    it.ask(6, Work::SetPart { node_id: MANAGER.into(), part: EnginePart::Manager }, &member, Answer::Done);
    let failed = Answer::Failed {
        error: "Docker: cannot remove the old entry: Docker responded with status code 503: rpc error".into(),
    };
    it.ask(7, Work::Forget { node_id: GONE.into() }, &member, failed);
    it.ask(8, Work::Remove { name: name("whoami") }, &member, Answer::Done);
    let size = Size { columns: 120, rows: 40 };
    let start = Start { argv: vec!["sh".into()], terminal: Some(("xterm-256color".into(), size)), input: true };
    it.head(&ToAgent::Start { number: 1, start });
    let to = |tell| ToAgent::Process { number: 1, tell };
    let from = |tell| FromAgent::Process { number: 1, tell };
    let output = |text: &str| FromProcess::Output { channel: Channel::Out, data: Data(text.into()) };
    it.agent(&from(output("# ")));
    it.head(&to(ToProcess::Room { bytes: 2 }));
    it.head(&to(ToProcess::Resize { size: Size { columns: 80, rows: 24 } }));
    it.head(&to(ToProcess::Input { data: Data(b"exit 3\n".to_vec()) }));
    it.agent(&from(FromProcess::Room { bytes: 7 }));
    it.agent(&from(output("exit 3\r\n")));
    it.agent(&from(FromProcess::Ended { end: End::Exited { code: 3 } }));
    it.agent(&FromAgent::Renew { csr });
    it.head(&ToAgent::Renewed(Box::new(enrolled)));
    it.keep("manager.txt");
}

/// A member of another Swarm than the one that its head knows: it was asked to begin one, and to join one, and left its own
/// by force each time. Then its node was revoked.
fn member_of_another() {
    let mut it = Conversation::default();
    it.agent(&hello([192, 168, 7, 22]));
    it.agent(&health(&member("another", false)));
    it.head(&ToAgent::Document(document(EnginePart::Worker)));
    let own = member("began", true);
    it.ask(1, Work::Initialise { address: "192.168.7.22".into() }, &own, Answer::Done);
    let work = Work::Join {
        cluster: CLUSTER.into(),
        manager: "192.168.7.21:2377".into(),
        token: "SWMTKN-1-aa-w".into(),
        part: EnginePart::Worker,
        address: "192.168.7.22".into(),
    };
    it.ask(2, work, &member(CLUSTER, false), Answer::Done);
    it.head(&ToAgent::Refused { reason: "its certificate was revoked".into() });
    it.keep("member.txt");
}

fn main() {
    let key = KeyPair::generate().unwrap();
    manager(&key);
    member_of_another();
    let folder = std::env::args().nth(1).expect("a folder");
    std::fs::write(format!("{folder}/agent-key.pem"), key.serialize_pem()).unwrap();
}
