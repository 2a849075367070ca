//! What people see of a cluster in which every text is somebody else's.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use bramble_model::agent::{Facts, Health};
use bramble_model::api::{Status, WaitingKey};
use bramble_model::timeline::{Event, What};
use bramble_testing::{HOSTILE, obeyed, poisoned};
use serde_json::{Value, json};

/// Everything that a status can have, with something in it.
fn status() -> Value {
    let health = json!({
        "uptime": 7, "busy": 3, "load": 0.5, "temperature": 40, "memory_available": 1, "disk_available": 1,
        "killed_for_memory": 0, "agent_resident": 2, "engine": { "state": "starting", "waiting_for": "dockerd" },
        "engines": { "swarm": { "state": "starting", "waiting_for": "dockerd" } },
    });
    let facts = json!({
        "kernel": "6.12", "architecture": "x86_64", "cpus": 4, "memory": 1 << 30, "set": "none", "address": "10.0.0.2",
    });
    let subject = json!({ "kind": "node", "name": "m1" });
    json!({
        "cluster": "c", "ca": "ab", "at": 100_000, "set": null, "head_resident": 0, "problems": ["the disk is full"],
        "nodes": [{
            "name": "m1", "macs": ["52:54:00:00:00:01"], "role": "r", "phase": "agent", "since": 90_000, "percent": null,
            "last": "asked", "failure": "no link", "pending": "ab", "known_by": null, "connected": true, "set": null,
            "facts": facts, "health": health, "times": [["firmware", 80_000], ["agent", 90_000]], "boot": null,
            "waiting": [{ "fingerprint": "ab", "address": "10.0.0.3", "since": 1, "last": 2, "shows_digits": true, "is_spent": false }],
            "why": { "name": "admission-pending", "cause": "it waits", "advice": "look", "seconds": 3 },
        }],
        "workloads": [],
        "seen": [{
            "mac": "52:54:00:00:00:09", "vendor": "QEMU", "firmware": "BIOS PXE", "uuid": "4c4c", "first": 1, "last": 2, "times": 3,
        }],
        "desired": null, "follows_git": false,
        "loops": [{
            "name": "swarm", "revision": null, "observed_at": 1, "unknown": null, "busy": [], "waits": [{ "subject": subject, "reason": "it is away", "ends": { "person": "switch it on" }, "since": 1 }],
            "failed": [{ "subject": subject, "step": "joins", "reason": "no route", "times": 1, "since": 1, "again": null }],
        }],
    })
}

/// A head that answers with a status and events.
fn head(folder: &Path, status: String, events: String) {
    fs::create_dir_all(folder.join(".bramble")).expect("made");
    fs::write(folder.join("bramble.toml"), "[cluster]\nname = \"c\"\n").expect("written");
    let listener = UnixListener::bind(folder.join(".bramble/head.sock")).expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut request = [0; 4096];
            let length = stream.read(&mut request).unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            let body = match request.split(' ').nth(1) {
                Some("/v1/status") => status.clone(),
                Some("/v1/events?after=0") => events.clone(),
                Some(path) if path.starts_with("/v1/events") => json!({ "events": [], "next": 9 }).to_string(),
                _ => continue,
            };
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(format!("{head}{body}").as_bytes());
        }
    });
}

fn bramble(folder: &Path, line: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_bramble"))
        .args(line.split(' '))
        .current_dir(folder)
        .env_remove("BRAMBLE_HEAD")
        .env_remove("BRAMBLE_REPOSITORY")
        .env("XDG_CONFIG_HOME", folder)
        .output()
        .expect("bramble starts");
    let (said, err) =
        (String::from_utf8(output.stdout).expect("text"), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(output.status.success(), "{line}: {said}{err}");
    assert_eq!(obeyed(&err), None, "{line}: {err:?}");
    said
}

#[test]
fn nothing_of_a_hostile_status_reaches_the_terminal() {
    let sample: Status = serde_json::from_value(status()).expect("a status");
    let (hostile, count) = poisoned(&sample);
    assert!(count > 15, "{count} texts: most of them may be anything");
    assert_eq!(hostile.nodes[0].failure.as_deref(), Some(HOSTILE), "as if a head had let it through");
    let event = |what| Event { number: 1, at: 99_000, node: Some("m1".parse().expect("a name")), what };
    let fails = What::Failed { reason: HOSTILE.into(), retry_in_seconds: 1, failure: None };
    let waits = What::Waits { fingerprint: HOSTILE.into(), reason: HOSTILE.into(), digits: true };
    let events =
        json!({ "events": [event(fails), event(waits), event(What::Note { text: HOSTILE.into() })], "next": 2 });
    let folder = tempfile::tempdir().expect("a folder");
    head(folder.path(), serde_json::to_string(&hostile).expect("plain data"), events.to_string());
    for line in ["status", "why m1", "why 52:54:00:00:00:09", "node show m1", "node ls", "node approve"] {
        for line in [line.to_owned(), format!("--json {line}")] {
            let said = bramble(folder.path(), &line);
            assert_eq!(obeyed(&said), None, "{line}: {said:?}");
            assert!(said.contains("owned"), "{line}: it is shown as text, and not left out: {said}");
        }
    }
}

/// What a node says itself is one line, and short, before any head can pass it on.
#[test]
fn a_node_forges_no_line_of_anothers() {
    let long = format!("{HOSTILE}{}", "x".repeat(100_000));
    let facts =
        json!({ "kernel": long, "architecture": long, "cpus": 4, "memory": 1, "set": long, "address": "10.0.0.2" });
    let facts: Facts = serde_json::from_value(facts).expect("facts");
    let health = json!({
        "uptime": 7, "memory_available": 1, "agent_resident": 2, "engine": { "state": "starting", "waiting_for": long },
        "engines": { "swarm": { "state": "starting", "waiting_for": long } },
    });
    let health: Health = serde_json::from_value(health).expect("health");
    let mut sample: Status = serde_json::from_value(status()).expect("a status");
    sample.nodes[0].facts = Some(facts);
    sample.nodes[0].health = Some(health);
    let key = WaitingKey {
        fingerprint: "ab".repeat(16),
        address: [10, 0, 0, 3].into(),
        since: 1,
        last: 2,
        shows_digits: true,
        is_spent: false,
    };
    sample.nodes[0].waiting = vec![key];
    let folder = tempfile::tempdir().expect("a folder");
    let events = json!({ "events": [], "next": 0 }).to_string();
    head(folder.path(), serde_json::to_string(&sample).expect("plain data"), events);
    for line in ["status", "node show m1", "node approve"] {
        let said = bramble(folder.path(), line);
        assert!(!said.lines().any(|line| line.starts_with("m9")), "{said}");
        assert!(said.len() < 8000, "{line}: {} bytes", said.len());
    }
}
