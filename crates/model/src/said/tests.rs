use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::agent::{Answer, Expects, FromAgent, Health, Heard, swarm};
use crate::hands::{End, FromProcess};
use crate::inventory::Inventory;

/// A load of 1e300 was infinite as it is kept, and infinite is `null` in JSON: nobody could read the status any more.
#[test]
fn a_number_of_one_node_blinds_nobody() {
    let said = |field: &str, value: &str| {
        let rest = r#""uptime":7,"memory_available":1,"agent_resident":2,"engine":{"state":"alone"}"#;
        let health: Health = serde_json::from_str(&format!("{{{rest},\"{field}\":{value}}}")).expect("readable");
        let told = serde_json::to_string(&health).expect("plain data");
        assert_eq!(serde_json::from_str::<Health>(&told).expect("it can be read again"), health);
        health
    };
    assert_eq!(said("load", "1e300").load, 1e6);
    assert!(said("load", "-0.0").load.is_sign_positive() && said("load", "-3.5").load == 0.0);
    assert_eq!(said("busy", "200").busy, 100);
    assert_eq!(
        [-32768, 3000, 71].map(|heat| said("temperature", &heat.to_string()).temperature),
        [None, None, Some(71)]
    );
    assert_eq!(said("disk_available", "18446744073709551615").disk_available, Some(1 << 60));
    let killed = End::Killed { signal: i32::MAX };
    assert_eq!(killed.code(), i32::MAX, "no signal makes another code of it");
}

#[test]
fn text_is_cut_and_what_decides_is_refused() {
    let member = |hostname: &str| json!({ "id": "a", "hostname": hostname, "manager": false, "up": true });
    let read = |value| serde_json::from_value::<swarm::Member>(value);
    let long = read(member(&"x".repeat(100_000))).expect("a member");
    assert!(long.hostname.len() <= 256 && long.hostname.ends_with('…') && long.hostname.was_changed());
    assert_eq!(read(member("m1\u{202e}\n\u{1b}[2J")).expect("a member").hostname, "m1\u{fffd} \u{fffd}[2J");
    let mut key = member("m1");
    key["id"] = "a\u{1b}".into();
    read(key).expect_err("an id is a key");
    let hello = |boot: &str| {
        let facts =
            json!({ "kernel": "6", "architecture": "x", "cpus": 1, "memory": 1, "set": "s", "address": "10.0.0.1" });
        serde_json::from_value::<FromAgent>(json!({ "type": "hello", "boot": boot, "version": "0", "facts": facts }))
    };
    hello("b0-0t").expect("a boot");
    for boot in ["b\u{1b}[2J".to_owned(), "b".repeat(65)] {
        hello(&boot).expect_err("a boot is a key");
    }
    // Half of a list of members would be another Swarm, and a hundred ports are as good as a thousand to look at.
    let observed = |members: Vec<Value>, ports: Vec<u16>| {
        let service = json!({ "name": "s", "wanted": 1, "running": 1, "ports": ports, "replicas": [] });
        serde_json::from_value::<swarm::Observed>(json!({ "cluster": "c", "members": members, "services": [service] }))
    };
    let some = observed(vec![member("m"); 9], (0..500).collect()).expect("a view");
    assert_eq!((some.members.len(), some.services[0].ports.len()), (9, 64));
    observed(vec![member("m"); 10_001], vec![]).expect_err("not the first of them");
}

/// An agent of the release before does not clean what it lists, and would see another member than the plan did.
#[test]
fn what_was_cleaned_is_compared_by_agents_that_clean_it_too() {
    let needs = |hostname: &str| {
        let member =
            swarm::Member { id: "a".parse().expect("an id"), hostname: hostname.into(), manager: false, up: false };
        Expects::Member { member }.needs().expect("a capability")
    };
    use crate::agent::Capability::{ListsPlainly, SeesMembers};
    assert_eq!([needs("m1"), needs("m\u{202e}1"), needs(&"x".repeat(300))], [SeesMembers, ListsPlainly, ListsPlainly]);
}

/// Text of any kind, the worst first.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[\u{0}-\u{9f}\u{200b}-\u{200f}\u{2028}-\u{202e}\u{2066}-\u{2069}\u{61c}\u{feff}a-z ]{0,40}",
        any::<String>(),
        "[a-z0-9]{1,12}",
        (any::<char>(), 200..3000_usize).prop_map(|(letter, times)| letter.to_string().repeat(times)),
    ]
}

fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0..300_u64).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        Just(json!(-0.0)),
        Just(json!(1e300)),
    ]
}

/// Messages of each kind; their texts and numbers are put in anew.
fn forms() -> Vec<Value> {
    let replica = json!({ "node_id": "a", "state": "S", "error": "S" });
    let service = json!({ "workload": "S", "generation": "S", "name": "S", "wanted": 0, "running": 0, "ports": [0],
        "replicas": [replica] });
    let member = json!({ "id": "a", "hostname": "S", "manager": true, "up": true });
    let state = json!({ "state": "starting", "waiting_for": "S" });
    let answer = |answer: Value| json!({ "type": "answer", "number": 7, "answer": answer });
    vec![
        json!({ "type": "hello", "boot": "b", "version": "S", "capabilities": ["S", "fences"], "facts": { "kernel": "S",
            "architecture": "S", "cpus": 0, "memory": 0, "set": "S", "address": "10.0.0.1" } }),
        json!({ "type": "health", "uptime": 0, "busy": 0, "load": 0, "temperature": 0, "memory_available": 0,
            "disk_available": 0, "killed_for_memory": 0, "agent_resident": 0, "engine": state, "engines": { "swarm": state },
            "refuses": { "life": 0, "obeys": 0 } }),
        answer(json!({ "is": "failed", "error": "S" })),
        answer(json!({ "is": "refused", "why": "S" })),
        answer(json!({ "is": "join-tokens", "manager": "S", "worker": "S", "address": "S" })),
        answer(json!({ "is": "observed", "cluster": "c", "members": [member], "services": [service] })),
        json!({ "type": "process", "number": 0, "tell": { "type": "ended", "end": { "end": "failed", "reason": "S" } } }),
        json!({ "type": "process", "number": 0, "tell": { "type": "ended", "end": { "end": "killed", "signal": 0 } } }),
    ]
}

/// Puts other texts and numbers into a form: at each place the next one.
fn fill(form: &mut Value, texts: &mut impl Iterator<Item = String>, numbers: &mut impl Iterator<Item = Value>) {
    match form {
        Value::String(text) if text == "S" => *text = texts.next().expect("as many as it takes"),
        Value::Number(_) => *form = numbers.next().expect("as many as it takes"),
        Value::Array(all) => all.iter_mut().for_each(|one| fill(one, texts, numbers)),
        Value::Object(all) => all.values_mut().for_each(|one| fill(one, texts, numbers)),
        Value::String(_) | Value::Bool(_) | Value::Null => {}
    }
}

/// Every text in it is a plain line, and every number one that can be read again.
fn is_clean(value: &Value) -> bool {
    match value {
        Value::String(text) => text.len() <= 1024 && text.chars().all(plain::is_plain),
        Value::Number(number) => number.as_f64().is_some_and(f64::is_finite),
        Value::Array(all) => all.iter().all(is_clean),
        Value::Object(all) => all.values().all(is_clean),
        Value::Bool(_) | Value::Null => true,
    }
}

fn filled(form: usize, texts: Vec<String>, numbers: Vec<Value>) -> Value {
    let mut message = forms().swap_remove(form);
    fill(&mut message, &mut texts.into_iter().cycle(), &mut numbers.into_iter().cycle());
    message
}

/// The forms are ones that are known: else nothing below would be tested.
#[test]
fn the_forms_are_read() {
    for message in forms() {
        let message: FromAgent =
            serde_json::from_value(message.clone()).unwrap_or_else(|error| panic!("{message}: {error}"));
        assert!(
            !matches!(message, FromAgent::Unknown | FromAgent::Answer { answer: Answer::Unknown(_), .. }),
            "{message:?}"
        );
    }
}

proptest! {
    #[test]
    fn whatever_an_agent_says_is_clean_when_it_is_read(
        form in 0..forms().len(), texts in prop::collection::vec(text(), 1..8), numbers in prop::collection::vec(number(), 1..8),
    ) {
        let line = filled(form, texts, numbers).to_string();
        let Ok(Heard::Message(message)) = Heard::<FromAgent>::read(&line) else { return Ok(()) };
        // It is nothing that is told to anyone.
        if matches!(message, FromAgent::Answer { answer: Answer::Unknown(_), .. } | FromAgent::Unknown) {
            return Ok(());
        }
        let read = serde_json::to_value(&message).expect("plain data");
        prop_assert!(is_clean(&read), "{}", read);
        // What is told of it can be read.
        let again: FromAgent = serde_json::from_str(&read.to_string()).expect("its own JSON");
        prop_assert_eq!(serde_json::to_value(&again).expect("plain data"), read);
        if let FromAgent::Process { tell: FromProcess::Ended { end }, .. } = message {
            let _ = end.code();
        }
    }

    #[test]
    fn whatever_an_adopted_machine_says_is_clean_and_each_part_is_one_line(
        texts in prop::collection::vec(text(), 1..8), numbers in prop::collection::vec(number(), 1..8), disks in 0..200_usize,
    ) {
        let disk = json!({ "name": "S", "model": "S", "serial": "S", "size": 0, "holds": ["S", "S"] });
        let card = json!({ "name": "S", "mac": "02:00:00:00:00:01", "driver": "S", "speed": 1000 });
        let mut said = json!({ "machine": "S", "serial": "S", "firmware": "S", "architecture": "S", "processor": "S",
            "cpus": 0, "memory": 0, "disks": vec![disk; disks], "cards": [card] });
        fill(&mut said, &mut texts.into_iter().cycle(), &mut numbers.into_iter().cycle());
        let Ok(inventory) = serde_json::from_value::<Inventory>(said) else { return Ok(()) };
        prop_assert!(is_clean(&serde_json::to_value(&inventory).expect("plain data")));
        prop_assert!(inventory.disks.len() <= 64);
        let (name, role) = ("n".parse().expect("a name"), "r".parse().expect("a name"));
        let stanza = inventory.stanza(&name, &role, crate::names::Mac([2, 0, 0, 0, 0, 1]));
        prop_assert!(stanza.chars().all(|c| plain::is_plain(c) || c == '\n'));
        let [.., heading, _, _] = &stanza.lines().collect::<Vec<_>>()[..] else { panic!("{stanza}") };
        prop_assert_eq!(*heading, "[nodes.n]");
        prop_assert!(stanza.lines().rev().skip(3).all(|line| line.starts_with("# ")));
    }
}
