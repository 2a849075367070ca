//! The driver against a stand-in for the daemon's socket: it follows the Docker Engine API for the few calls
//! that a node's membership takes, and remembers which were made.

use std::fs;
use std::str::FromStr;
use std::sync::{Arc, Mutex};

use bramble_model::names::NotAName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use super::*;

/// Of a manager: Swarm `swarm-a`, node `node-a`.
const MANAGER: &str = include_str!("../../tests-data/swarm-node.crt");

/// A daemon that is a member, or is none, or failed to become one.
struct Daemon {
    folder: tempfile::TempDir,
    /// Method and path of every call but pings.
    calls: Arc<Mutex<Vec<String>>>,
}

impl Daemon {
    /// `membership` is what `GET /_ping` says in its header `Swarm`.
    fn start(membership: &'static str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(folder.path().join("docker.sock")).expect("a socket");
        let certificates = folder.path().join("swarm/certificates");
        fs::create_dir_all(&certificates).expect("a folder");
        if membership != "inactive" {
            fs::write(certificates.join("swarm-node.crt"), MANAGER).expect("written");
        }
        let calls = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&calls);
        let networks = folder.path().join("networks");
        let member = folder.path().join("member");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let call = request(&mut stream).await;
                if !call.ends_with("/_ping") {
                    heard.lock().expect("no panic while held").push(call.clone());
                }
                let networks = fs::read_to_string(&networks).unwrap_or_else(|_| "[]".into());
                let member = fs::read_to_string(&member).unwrap_or_default();
                let body = match &call {
                    call if call.contains("/swarm/init") => "\"node-b\"",
                    call if call.ends_with("/networks") => &networks,
                    call if call.starts_with("GET") && call.contains("/nodes/") => &member,
                    call if call.starts_with("GET") && call.ends_with("/swarm") => {
                        r#"{"ID":"swarm-a","Version":{"Index":9},"Spec":{"Name":"default","CAConfig":{"NodeCertExpiry":7776000000000000}}}"#
                    }
                    _ => "",
                };
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nApi-Version: 1.47\r\nSwarm: {membership}\r\nContent-Type: application/json\r\n\
                     Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Daemon { folder, calls }
    }

    async fn driver(&self) -> Swarm {
        Swarm::at(&self.folder.path().join("docker.sock"), &self.certificate()).await.expect("it answers")
    }

    fn certificate(&self) -> PathBuf {
        self.folder.path().join("swarm/certificates/swarm-node.crt")
    }

    /// The calls so far, without the API's version in front.
    fn calls(&self) -> Vec<String> {
        let calls = self.calls.lock().expect("no panic while held");
        let short = |call: &String| match (call.split_once("/swarm"), call.rsplit_once('/')) {
            (Some((_, rest)), _) => rest.to_owned(),
            (None, Some((_, last))) => format!("/{last}"),
            (None, None) => call.clone(),
        };
        calls.iter().map(short).collect()
    }
}

/// How Docker describes a member.
fn described(state: &str, manager: bool) -> String {
    let manager = if manager { r#","ManagerStatus":{"Reachability":"unreachable"}"# } else { "" };
    format!(
        r#"{{"ID":"old","Version":{{"Index":7}},"Spec":{{"Role":"manager"}},"Description":{{"Hostname":"m2"}},"Status":{{"State":"{state}"}}{manager}}}"#
    )
}

/// Reads one request to its end; gives method and path.
async fn request(stream: &mut UnixStream) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer).await.unwrap_or(0);
        bytes.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&bytes).to_lowercase();
        let length = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .and_then(|length| length.trim().parse::<usize>().ok())
            .unwrap_or(0);
        let whole = text.split_once("\r\n\r\n").is_some_and(|(_, body)| body.len() >= length);
        if whole || count == 0 {
            let first = String::from_utf8_lossy(&bytes).lines().next().unwrap_or_default().to_owned();
            return first.split(' ').take(2).collect::<Vec<_>>().join(" ");
        }
    }
}

fn id<T: FromStr<Err = NotAName>>(text: &str) -> T {
    text.parse().expect("an id")
}

fn initialise(leaves: Option<&str>) -> Work {
    Work::Initialise { address: "192.168.7.21".into(), leaves: leaves.map(id) }
}

fn join(cluster: &str, leaves: Option<&str>) -> Work {
    Work::Join {
        cluster: id(cluster),
        manager: "192.168.7.22:2377".into(),
        token: "SWMTKN-1-aa-m".into(),
        part: EnginePart::Manager,
        address: "192.168.7.21".into(),
        leaves: leaves.map(id),
    }
}

#[tokio::test]
async fn a_member_never_leaves_what_nobody_named() {
    // One that works, and one that waits for the other managers.
    for membership in ["active/manager", "error"] {
        let daemon = Daemon::start(membership);
        let swarm = daemon.driver().await;
        for work in
            [initialise(None), initialise(Some("swarm-b")), join("swarm-b", None), join("swarm-b", Some("swarm-c"))]
        {
            let answer = swarm.work(work.clone()).await;
            let Answer::Refused { why } = &answer else { panic!("{membership}, {work:?}: {answer:?}") };
            assert!(why.contains("swarm-a"), "{why}");
        }
        assert_eq!(daemon.calls(), Vec::<String>::new(), "{membership}: nothing is left, and nothing begun");
    }
}

#[tokio::test]
async fn a_head_of_version_1_cannot_make_a_member_leave() {
    let daemon = Daemon::start("active/manager");
    let swarm = daemon.driver().await;
    for question in [
        r#"{"do":"initialise","address":"192.168.7.21"}"#,
        r#"{"do":"join","cluster":"swarm-b","manager":"192.168.7.22:2377","token":"t","part":"worker","address":"192.168.7.21"}"#,
    ] {
        let answer = swarm.work(serde_json::from_str(question).expect("a question of version 1")).await;
        assert!(matches!(answer, Answer::Refused { .. }), "{question}: {answer:?}");
    }
    assert_eq!(daemon.calls(), Vec::<String>::new());
}

#[tokio::test]
async fn a_member_leaves_the_one_that_is_named() {
    let daemon = Daemon::start("active/manager");
    let swarm = daemon.driver().await;
    assert_eq!(swarm.work(join("swarm-b", Some("swarm-a"))).await, Answer::Done);
    assert_eq!(daemon.calls(), ["/leave?force=true", "/networks", "/join"]);
}

#[tokio::test]
async fn a_daemon_that_keeps_networks_of_the_swarm_that_it_left_is_started_anew() {
    let kept = r#"[{"Name":"bridge","Scope":"local"},{"Name":"whoami_default","Scope":"swarm"}]"#;
    for (membership, leaves) in [("active/manager", Some("swarm-a")), ("inactive", None)] {
        let daemon = Daemon::start(membership);
        let networks = daemon.folder.path().join("networks");
        fs::write(&networks, kept).expect("written");
        let program = format!("echo '[]' >{}", networks.display());
        let restart: &[&str] = Box::leak(Box::new(["sh", "-c", Box::leak(program.into_boxed_str())]));
        let swarm = Swarm { restart, ..daemon.driver().await };
        assert_eq!(swarm.work(join("swarm-b", leaves)).await, Answer::Done);
        assert_eq!(daemon.calls().iter().rev().take(3).rev().collect::<Vec<_>>(), ["/networks", "/networks", "/join"]);
        // One that does not help is told, and nothing is joined.
        fs::write(&networks, kept).expect("written");
        let swarm = Swarm { restart: &["true"], ..swarm };
        let answer = swarm.work(join("swarm-b", leaves)).await;
        assert!(matches!(&answer, Answer::Failed { error } if error.contains("boot the node anew")), "{answer:?}");
        assert_eq!(daemon.calls().last().map(String::as_str), Some("/networks"));
    }
}

#[tokio::test]
async fn asked_twice_to_join_it_stays() {
    let daemon = Daemon::start("active/manager");
    assert_eq!(daemon.driver().await.work(join("swarm-a", None)).await, Answer::Done);
    assert_eq!(daemon.calls(), Vec::<String>::new());
}

#[tokio::test]
async fn who_belongs_to_none_begins() {
    let daemon = Daemon::start("inactive");
    let swarm = daemon.driver().await;
    assert_eq!(swarm.work(initialise(None)).await, Answer::Done);
    assert_eq!(daemon.calls(), ["/networks", "/init"]);
}

/// Seen on a machine that was short of memory: the join took longer than the daemon waits, failed behind its back, and
/// every other one was refused with "already part of a swarm".
#[tokio::test]
async fn a_try_to_join_that_failed_is_no_membership() {
    for work in [join("swarm-b", None), initialise(None)] {
        let daemon = Daemon::start("error");
        fs::remove_file(daemon.certificate()).expect("removed");
        let swarm = daemon.driver().await;
        assert_eq!(swarm.state().await, EngineState::Alone);
        assert_eq!(swarm.work(work).await, Answer::Done);
        assert_eq!(daemon.calls()[0], "/leave?force=true");
        assert_eq!(daemon.calls().len(), 3);
    }
}

/// Neither beginning nor joining makes this node leave what it may have, or begin anything: why.
async fn keeps_what_it_has(daemon: &Daemon) -> String {
    let swarm = daemon.driver().await;
    let mut said = String::new();
    for work in [initialise(None), initialise(Some("swarm-a")), join("swarm-b", None), join("swarm-b", Some("swarm-a"))]
    {
        let answer = swarm.work(work).await;
        let Answer::Refused { why } = answer else { panic!("{answer:?}") };
        said = why.into();
    }
    assert_eq!(daemon.calls(), Vec::<String>::new());
    said
}

#[tokio::test]
async fn who_has_a_log_and_no_certificate_keeps_the_log() {
    let daemon = Daemon::start("error");
    fs::remove_file(daemon.certificate()).expect("removed");
    fs::create_dir(daemon.folder.path().join("swarm/raft")).expect("a folder");
    let why = keeps_what_it_has(&daemon).await;
    assert!(why.contains("missing beside a Swarm's log"), "{why}");
}

#[tokio::test]
async fn who_cannot_look_for_a_log_leaves_nothing() {
    let daemon = Daemon::start("error");
    fs::remove_file(daemon.certificate()).expect("removed");
    // As a disk does that fails: there is no telling whether a log is there.
    let raft = daemon.folder.path().join("swarm/raft");
    std::os::unix::fs::symlink(&raft, &raft).expect("a link to itself");
    let why = keeps_what_it_has(&daemon).await;
    assert!(why.contains("log, which cannot be read"), "{why}");
}

/// With `userns-remap` a daemon keeps all below a folder of its own, and makes an empty one beside it.
#[tokio::test]
async fn a_daemon_whose_root_is_nobody_is_found_in_its_own_folder() {
    let daemon = Daemon::start("active/manager");
    let swarm = daemon.driver().await;
    let remapped = daemon.folder.path().join(REMAPPED).join("swarm/certificates");
    fs::create_dir_all(&remapped).expect("a folder");
    assert!(matches!(swarm.state().await, EngineState::Member { .. }), "it is empty");
    fs::rename(daemon.certificate(), remapped.join("swarm-node.crt")).expect("moved");
    assert!(matches!(swarm.state().await, EngineState::Member { .. }));
    assert_eq!(swarm.log(), daemon.folder.path().join(REMAPPED).join("swarm/raft"));
    fs::write(daemon.folder.path().join(STATE), "{}").expect("written");
    assert_eq!(swarm.log(), daemon.folder.path().join("swarm/raft"), "what is in the other is left over");
    fs::write(daemon.folder.path().join(REMAPPED).join(STATE), "{}").expect("written");
    assert_eq!(swarm.log(), daemon.folder.path().join(REMAPPED).join("swarm/raft"));
}

/// A worker has no log: its certificate is all that says that it belongs to a Swarm.
#[tokio::test]
async fn a_worker_with_a_damaged_certificate_leaves_nothing() {
    let daemon = Daemon::start("error");
    for damaged in ["", "-----BEGIN CERTIFICATE-----\nMIIB"] {
        fs::write(daemon.certificate(), damaged).expect("damaged");
        let why = keeps_what_it_has(&daemon).await;
        assert!(why.contains("damaged: `docker swarm leave --force` on the node"), "{why}");
    }
}

#[tokio::test]
async fn a_word_that_nobody_knows_is_not_none() {
    for word in ["", "migrating", "Inactive"] {
        let why = keeps_what_it_has(&Daemon::start(word)).await;
        assert!(why.contains(&format!("{word:?}")), "{why}");
    }
}

#[tokio::test]
async fn who_cannot_tell_what_it_has_begins_nothing() {
    keeps_what_it_has(&Daemon::start("locked")).await;
}

/// What the plan saw is seconds old: by now, the member may be back.
#[tokio::test]
async fn a_member_that_came_back_is_not_removed() {
    let forget = || Work::Forget { node_id: id("old") };
    let seen = |manager, up| Expects::Member { member: Member { id: id("old"), hostname: "m2".into(), manager, up } };
    let daemon = Daemon::start("active/manager");
    let swarm = daemon.driver().await;
    for state in ["ready", "unknown", "disconnected"] {
        fs::write(daemon.folder.path().join("member"), described(state, true)).expect("written");
        assert_eq!(swarm.sees(&seen(true, false)).await.expect("read"), Some(seen(true, true)));
        let answer = swarm.work(forget()).await;
        assert!(matches!(&answer, Answer::Refused { why } if why == "m2 (old) is up in the Swarm"), "{answer:?}");
    }
    assert!(
        daemon.calls().iter().all(|call| call == "/old"),
        "it is looked at, and nothing else: {:?}",
        daemon.calls()
    );
    fs::write(daemon.folder.path().join("member"), described("down", true)).expect("written");
    assert_eq!(swarm.sees(&seen(true, false)).await.expect("read"), Some(seen(true, false)));
    assert_eq!(swarm.work(forget()).await, Answer::Done);
    // It loses its vote; and Docker itself would keep it, were it back between the two.
    let calls = daemon.calls();
    assert_eq!(calls[calls.len() - 2..], ["/update?version=7", "/old"]);
    fs::write(daemon.folder.path().join("member"), described("down", false)).expect("written");
    assert_eq!(swarm.sees(&seen(true, false)).await.expect("read"), Some(seen(false, false)));
}

#[tokio::test]
async fn the_token_of_managers_is_rotated_in_the_swarm_that_is_named() {
    let daemon = Daemon::start("active/manager");
    let swarm = daemon.driver().await;
    let rotate = |cluster| Work::RotateManagerToken { cluster: id(cluster) };
    let answer = swarm.work(rotate("swarm-b")).await;
    assert!(matches!(&answer, Answer::Refused { why } if why.contains("swarm-a")), "{answer:?}");
    assert_eq!(daemon.calls(), [""], "it is looked at, and nothing else");
    assert_eq!(swarm.work(rotate("swarm-a")).await, Answer::Done);
    let calls = daemon.calls();
    let last = calls.last().expect("it is asked");
    assert!(last.starts_with("/update?") && last.contains("version=9"), "{last}");
    assert!(last.contains("rotateManagerToken=true") && !last.contains("rotateWorkerToken=true"), "{last}");
}
