//! Load for `./dev bench head`: a fleet of simulated agents over real mutual TLS, inside namespaces of its own.
//!
//! ```text
//! bramble-fleet many AGENTS SECONDS    a connect storm, steady heartbeats, changes and readers
//! bramble-fleet idle NODES SECONDS     what a head costs that has little to do
//! bramble-fleet agent SECONDS          what the real agent costs, connected to a head
//! ```

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use bramble_model::agent::FromAgent;
use bramble_model::engine::{EngineKind, EngineState};
use bramble_tests::agents::{Agent, Head, health, runtime};
use bramble_tests::fleet::{HEARTBEAT, addresses, mac, offset};
use bramble_tests::machines::house::{HEAD, House, mount};
use bramble_tests::measure::{mark, megabytes, percentile, processor};
use bramble_tests::{measure, program};
use futures_util::StreamExt as _;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// Changes whose way to a listener is timed, and reads of the API.
const CHANGES: usize = 300;
const READS: usize = 300;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok()).expect("a number");
    match words.first().map(String::as_str) {
        Some("many") => many(number(1) as usize, Duration::from_secs(number(2))),
        Some("idle") => idle(number(1) as usize, Duration::from_secs(number(2))),
        Some("agent") => agent(Duration::from_secs(number(1))),
        _ => {
            eprintln!("bramble-fleet many AGENTS SECONDS | idle NODES SECONDS | agent SECONDS");
            return ExitCode::from(2);
        }
    }
    measure::end()
}

fn house(nodes: usize) -> (House, Head) {
    let machines: String = (0..nodes)
        .map(|number| format!("[nodes.n{number}]\nmac = \"{}\"\nrole = \"worker\"\n\n", mac(number)))
        .collect();
    let house = House::start_as("admission = \"open\"", &format!("[access]\npublic = true\n\n{machines}"));
    let head = Head::new(HEAD.parse().expect("an address"), &house.path().join(".bramble"));
    (house, head)
}

/// A live agent; what is sent to it, it says to the head.
async fn live(head: Head, number: usize, from: Ipv4Addr) -> (f64, mpsc::Sender<FromAgent>) {
    let start = Instant::now();
    let name = format!("n{number}");
    let mut session = Agent::arrive(&head, &name, &mac(number), from).await;
    session.say(&health(0)).await.expect("connected");
    let took = start.elapsed().as_secs_f64();
    let (say, mut said) = mpsc::channel::<FromAgent>(4);
    tokio::spawn(async move {
        tokio::time::sleep(offset(number)).await;
        let mut beat = tokio::time::interval(HEARTBEAT);
        let mut busy = 0;
        loop {
            let message = tokio::select! {
                _ = beat.tick() => {
                    busy = (busy + 7) % 100;
                    health(busy)
                }
                Some(message) = said.recv() => message,
                heard = session.lines.next() => match heard {
                    Some(Ok(_)) => continue,
                    _ => panic!("the head hung up on n{number}"),
                },
            };
            session.say(&message).await.expect("connected");
        }
    });
    (took, say)
}

fn many(agents: usize, length: Duration) {
    let (house, head) = house(agents);
    let pid = house.head_pid();
    let addresses = addresses();
    runtime().block_on(async {
        let start = Instant::now();
        let starting: Vec<_> = (0..agents)
            .map(|number| tokio::spawn(live(head.clone(), number, addresses[number % addresses.len()])))
            .collect();
        let mut fleet = Vec::new();
        let mut took = Vec::new();
        for agent in starting {
            let (seconds, say) = agent.await.expect("no panic");
            took.push(seconds);
            fleet.push(say);
        }
        println!(
            "     {agents} agents booted, enrolled and connected in {:.1} s, p99 {:.1} s",
            start.elapsed().as_secs_f64(),
            percentile(99, &took)
        );

        tokio::time::sleep(HEARTBEAT).await;
        let (before, since) = (processor(pid), Instant::now());
        tokio::time::sleep(length).await;
        let cores = (processor(pid) - before) / since.elapsed().as_secs_f64();
        mark("head's processors, steady heartbeats", cores, "cores", 0.5);

        let mut stream = TcpStream::connect((head.address, 7080)).await.expect("the head listens");
        let newest = newest(&head).await;
        let request = format!("GET /v1/stream?after={newest} HTTP/1.1\r\nHost: h\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut lines = BufReader::new(stream).lines();
        let mut ways = Vec::new();
        for number in 0..CHANGES {
            let word = format!("change {number} of the bench");
            let FromAgent::Health(mut health) = health(1) else { unreachable!("it is one") };
            health.engines.set(EngineKind::Swarm, EngineState::Starting { waiting_for: word.into() });
            let told = Instant::now();
            let node = number * 31 % agents;
            fleet[node].send(FromAgent::Health(health)).await.expect("it lives");
            let of_node = format!("\"node\":\"n{node}\"");
            while !lines.next_line().await.expect("the stream goes on").expect("no end").contains(&of_node) {}
            ways.push(told.elapsed().as_secs_f64());
        }
        mark("a node's change to a listener, p99", percentile(99, &ways), "s", 1.0);

        for path in ["/v1/status", "/v1/events", "/v1/me", "/nodes/n1"] {
            let mut stream = TcpStream::connect((head.address, 7080)).await.expect("the head listens");
            let mut times = Vec::new();
            let mut bytes = 0;
            for _ in 0..READS {
                let asked = Instant::now();
                bytes = read(&mut stream, path).await;
                times.push(asked.elapsed().as_secs_f64() * 1000.0);
            }
            mark(&format!("GET {path} ({} KB), p99", bytes / 1000), percentile(99, &times), "ms", 30.0);
        }
        mark("head's memory, at most", megabytes(pid, "VmHWM:"), "MB", 96.0);
    });
}

async fn newest(head: &Head) -> u64 {
    let (_, body) = head.http("GET /v1/events HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
    let mut after = 0;
    let mut page = body;
    loop {
        let events: serde_json::Value = serde_json::from_str(&page).expect("JSON");
        let next = events["next"].as_u64().expect("a number");
        if next == after {
            return after;
        }
        after = next;
        page = head
            .http(&format!("GET /v1/events?after={after} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"))
            .await
            .1;
    }
}

/// One request on a connection that stays open; gives the length of its body.
async fn read(stream: &mut TcpStream, path: &str) -> usize {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    let mut piece = vec![0; 64 << 10];
    loop {
        let length = stream.read(&mut piece).await.expect("readable");
        assert!(length > 0, "the head closed the connection");
        answer.extend_from_slice(&piece[..length]);
        let Some(end) = answer.windows(4).position(|end| end == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
        let wanted: usize = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .and_then(|length| length.parse().ok())
            .expect("a length");
        if answer.len() >= end + 4 + wanted {
            return wanted;
        }
    }
}

fn idle(nodes: usize, length: Duration) {
    let (house, head) = house(nodes);
    let pid = house.head_pid();
    runtime().block_on(async {
        let mut fleet = Vec::new();
        for number in 0..nodes {
            fleet.push(live(head.clone(), number, Ipv4Addr::UNSPECIFIED).await);
        }
        tokio::time::sleep(HEARTBEAT).await;
        let (before, since) = (processor(pid), Instant::now());
        tokio::time::sleep(length).await;
        let percent = (processor(pid) - before) / since.elapsed().as_secs_f64() * 100.0;
        mark(&format!("head with {nodes} nodes, processor"), percent, "% of one", 1.0);
        mark(&format!("head with {nodes} nodes, memory"), megabytes(pid, "VmRSS:"), "MB", 40.0);
    });
}

/// The real agent, in a mount namespace that looks like a node. There is no Docker: it waits for it all the time.
fn agent(length: Duration) {
    let (house, head) = house(1);
    let boot = runtime().block_on(head.boot(&mac(0))).expect("a boot");
    for folder in ["/run/bramble", "/etc/bramble", "/var/lib/bramble"] {
        let made = !Path::new(folder).exists();
        if made {
            fs::create_dir_all(folder).expect("a folder");
        }
        mount(&["-t", "tmpfs", "tmpfs", folder]);
    }
    // The agent writes the host's name, and more, into /etc and /root.
    for folder in ["/etc", "/root"] {
        let copy = house.path().join(folder.trim_start_matches('/'));
        fs::create_dir_all(&copy).expect("a folder");
        mount(&["--bind", &copy.display().to_string(), folder]);
    }
    fs::create_dir_all("/etc/bramble").expect("a folder");
    fs::copy(house.path().join(".bramble/keys/ca.pem"), "/etc/bramble/ca.pem").expect("copied");
    let file = serde_json::json!({
        "node": "n0", "boot": boot.id, "nonce": boot.nonce, "set": "none", "head": HEAD, "http_port": 7080,
        "agent_port": 7443, "address": HEAD,
    });
    fs::write("/run/bramble/boot.json", file.to_string()).expect("written");
    let mut agent = Command::new("unshare")
        .args(["--uts"])
        .arg(program("bramble"))
        .arg("agent")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the agent starts");
    bramble_tests::wait("the agent is connected", || {
        house.status().is_some_and(|status| bramble_tests::node(&status, "n0")["connected"] == true)
    });
    std::thread::sleep(HEARTBEAT);
    let (before, since) = (processor(agent.id()), Instant::now());
    std::thread::sleep(length);
    let percent = (processor(agent.id()) - before) / since.elapsed().as_secs_f64() * 100.0;
    mark("agent without an engine, processor", percent, "% of one", 0.5);
    mark("agent without an engine, memory", megabytes(agent.id(), "VmHWM:"), "MB", 15.0);
    agent.kill().expect("ended");
    agent.wait().expect("ended");
}
