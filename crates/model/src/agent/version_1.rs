//! Version 1 of the protocol: what commit 5b09a28 and its head said to each other.

use serde_json::Value;

use super::*;

#[path = "../../tests-data/protocol-1/words.rs"]
#[allow(dead_code, reason = "each test that includes it needs a part of it")]
mod words;

use words::{Said, conversation};

/// A line of each kind.
const FROM_AGENT: &str = include_str!("../../tests-data/protocol-1/from-agent.jsonl");
const TO_AGENT: &str = include_str!("../../tests-data/protocol-1/to-agent.jsonl");
const CONVERSATIONS: [&str; 2] =
    [include_str!("../../tests-data/protocol-1/manager.txt"), include_str!("../../tests-data/protocol-1/member.txt")];

fn lines() -> impl Iterator<Item = Said<'static>> {
    let kinds = FROM_AGENT.lines().map(Said::Agent).chain(TO_AGENT.lines().map(Said::Head));
    kinds.chain(CONVERSATIONS.into_iter().flat_map(conversation))
}

/// What others are measured with is what was said then, byte for byte.
#[test]
fn the_frozen_words_write_what_was_recorded() {
    for line in lines() {
        let (line, again) = match line {
            Said::Agent(line) => (line, serde_json::to_string(&words::read::<words::FromAgent>(line).0)),
            Said::Head(line) => (line, serde_json::to_string(&words::read::<words::ToAgent>(line).0)),
        };
        assert_eq!(again.expect("plain data"), line);
    }
    let mut enrolment = conversation(include_str!("../../tests-data/protocol-1/enrolment.txt"));
    let (Some(Said::Agent(asks)), Some(Said::Head(told)), None) =
        (enrolment.next(), enrolment.next(), enrolment.next())
    else {
        panic!("a request and its answer");
    };
    assert_eq!(serde_json::to_string(&words::read::<words::EnrolRequest>(asks).0).expect("plain data"), asks);
    assert_eq!(serde_json::to_string(&words::read::<words::Enrolled>(told).0).expect("plain data"), told);
}

#[test]
fn all_that_an_agent_of_version_1_says_is_understood() {
    let mut said = 0;
    for line in lines() {
        let Said::Agent(line) = line else { continue };
        let message: FromAgent = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        match message {
            FromAgent::Unknown | FromAgent::Answer { answer: Answer::Unknown(_), .. } => panic!("not known: {line}"),
            FromAgent::Hello { protocol, capabilities, .. } => {
                assert_eq!((protocol, capabilities.len()), (Versions { from: 1, to: 1 }, 0));
            }
            _ => {}
        }
        said += 1;
    }
    assert!(said > 30, "{said} lines");
}

/// An agent of version 1 ends at what it does not know: what it is told without a lead and without a Swarm to leave is
/// what it was told then.
#[test]
fn an_agent_of_version_1_is_told_what_it_was_told_then() {
    let mut said = 0;
    for line in lines() {
        let Said::Head(line) = line else { continue };
        let message: ToAgent = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert!(
            !matches!(
                message,
                ToAgent::Unknown | ToAgent::Ask { work: Work::Unknown | Work::Swarm(swarm::Work::Unknown), .. }
            ),
            "not known: {line}"
        );
        let again = serde_json::to_value(&message).expect("plain data");
        assert_eq!(again, serde_json::from_str::<Value>(line).expect("JSON"), "{line}");
        said += 1;
    }
    assert!(said > 30, "{said} lines");
}

/// What it does not know of a question is what it would not do: it is not asked then.
#[test]
fn a_question_needs_what_version_1_does_not_know_of_it() {
    let (address, leaves) = (String::from("192.168.7.21"), Some("another".parse().expect("an id")));
    let asked = |work: swarm::Work| Work::from(work);
    let initialise = |leaves| asked(swarm::Work::Initialise { address: address.clone(), leaves });
    let join = |leaves| {
        let (manager, token, part) = ("192.168.7.22:2377".into(), "t".into(), EnginePart::Worker);
        asked(swarm::Work::Join {
            cluster: "c".parse().expect("an id"),
            manager,
            token,
            part,
            address: address.clone(),
            leaves,
        })
    };
    for work in [initialise(None), join(None), initialise(leaves.clone()), join(leaves), swarm::Work::Observe.into()] {
        let line = serde_json::to_string(&ToAgent::Ask { number: 1, work: work.clone(), under: None }).expect("plain");
        let (_, over) = words::read::<words::ToAgent>(&line);
        assert_eq!(work.needs().is_some(), !over.is_empty(), "{line}");
    }
}
