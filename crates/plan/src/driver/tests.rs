use bramble_model::engine::EngineKind;
use bramble_model::section::Risk;
use proptest::prelude::*;

use super::*;
use crate::contract::Wait;

fn subject(number: u8) -> Subject {
    let name = format!("n{number}").parse().expect("a name");
    // Names are shared on purpose: a workload is no node.
    if number.is_multiple_of(2) {
        Subject::Node { name }
    } else {
        Subject::Workload { engine: EngineKind::Swarm, name }
    }
}

fn step(number: u8, text: &str) -> Planned<String, ()> {
    Planned { subject: subject(number), seen: (), reason: "why".into(), risk: Risk::Safe, step: text.into() }
}

fn plan(steps: &[(u8, &str)]) -> Plan<String, ()> {
    Plan { steps: steps.iter().map(|(number, text)| step(*number, text)).collect(), waits: Vec::new() }
}

fn failed(retry: Retry) -> Outcome {
    Outcome::Failed { reason: "no".into(), retry }
}

#[test]
fn a_subject_does_one_step_at_a_time_and_others_go_on() {
    let mut driver = Driver::new("test");
    let due = driver.take("r", plan(&[(1, "join"), (1, "deploy"), (2, "join")]), 0);
    assert_eq!(due.iter().map(|due| due.step.as_str()).collect::<Vec<_>>(), ["join", "join"]);
    assert!(driver.take("r", plan(&[(1, "join"), (2, "join")]), 1).is_empty(), "both still run");
    driver.ended(&subject(1), Outcome::Done, 2, 0);
    let due = driver.take("r", plan(&[(1, "deploy"), (2, "join")]), 3);
    assert_eq!(due, [step(1, "deploy")]);
}

#[test]
fn a_failure_backs_off_and_is_seen() {
    let mut driver = Driver::new("test");
    let mut now = 0;
    let mut pauses = Vec::new();
    for _ in 0..12 {
        assert_eq!(driver.take("r", plan(&[(1, "join")]), now).len(), 1);
        driver.ended(&subject(1), failed(Retry::BackOff), now, 0);
        let again = driver.deadline().expect("it comes back");
        assert!(driver.take("r", plan(&[(1, "join")]), again - 1).is_empty(), "not before its time");
        pauses.push(again - now);
        now = again;
    }
    assert!(pauses.is_sorted() && *pauses.last().expect("some") <= LONGEST, "{pauses:?}");
    let [failure] = &driver.section().failed[..] else { panic!("one") };
    assert_eq!((failure.times, failure.since, failure.reason.as_str()), (12, 0, "no"));
}

#[test]
fn what_needs_a_person_waits_for_one_or_for_another_wish() {
    let mut driver = Driver::new("test");
    assert_eq!(driver.take("r", plan(&[(1, "wipe")]), 0).len(), 1);
    driver.ended(&subject(1), failed(Retry::Never), 1, 0);
    assert_eq!(driver.deadline(), None);
    assert!(driver.take("r", plan(&[(1, "wipe")]), Millis::MAX / 2).is_empty());
    assert!(driver.retry(&subject(1), 9) && !driver.retry(&subject(2), 9));
    assert_eq!(driver.take("r", plan(&[(1, "wipe")]), 9).len(), 1);
    driver.ended(&subject(1), failed(Retry::Never), 10, 0);
    assert_eq!(driver.take("r", plan(&[(1, "keep")]), 11).len(), 1, "the plan wants something else");
}

#[test]
fn a_wait_keeps_its_time_while_its_reason_stays() {
    let mut driver = Driver::new("test");
    let waits = |reason: &str| Plan::<String, ()> {
        waits: vec![Wait { subject: subject(1), reason: reason.into(), ends: Ends::ByItself }],
        ..Plan::default()
    };
    driver.take("r", waits("it boots"), 5);
    driver.take("r", waits("it boots"), 9);
    assert_eq!(driver.section().waits[0].since, 5);
    driver.take("r", waits("its engine starts"), 12);
    assert_eq!(driver.section().waits[0].since, 12);
}

#[test]
fn where_something_is_unknown_nothing_starts_and_nothing_is_forgotten() {
    let mut driver = Driver::new("test");
    driver.take("r", plan(&[(1, "join")]), 0);
    driver.ended(&subject(1), failed(Retry::BackOff), 1, 0);
    driver.cannot_see("the store cannot be read".into(), 2);
    driver.cannot_see("the store cannot be read".into(), 3);
    let section = driver.section();
    assert_eq!(section.unknown.map(|unknown| unknown.since), Some(2));
    assert_eq!((section.failed.len(), driver.rests()), (1, false));
}

#[derive(Debug, Clone)]
enum Event {
    Plan(Vec<(u8, bool)>),
    Blind,
    End(u8, u8),
    Retry(u8),
    Later(Millis),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        prop::collection::vec((0..4_u8, any::<bool>()), 0..6).prop_map(Event::Plan),
        Just(Event::Blind),
        (0..4_u8, 0..4_u8).prop_map(|(number, how)| Event::End(number, how)),
        (0..4_u8).prop_map(Event::Retry),
        (0..400_000_u64).prop_map(Event::Later),
    ]
}

proptest! {
    /// Over any sequence: never two steps of one subject at once, nothing before its time, and nothing that waits for a
    /// person without a person or another wish.
    #[test]
    fn one_step_a_subject_and_none_before_its_time(events in prop::collection::vec(event(), 0..80), chance: u64) {
        let mut driver = Driver::new("test");
        let mut now = 0;
        let mut running: BTreeSet<Subject> = BTreeSet::new();
        let mut barred: BTreeMap<Subject, (String, Option<Millis>)> = BTreeMap::new();
        let text = |other| if other { "other" } else { "one" };
        for event in events {
            match event {
                Event::Plan(steps) => {
                    let steps: Vec<(u8, &str)> = steps.into_iter().map(|(number, other)| (number, text(other))).collect();
                    let first = |wanted: &Subject| steps.iter().find(|(number, _)| subject(*number) == *wanted).map(|(_, text)| (*text).to_owned());
                    barred.retain(|known, (step, _)| first(known).as_ref() == Some(step));
                    for due in driver.take("r", plan(&steps), now) {
                        prop_assert!(running.insert(due.subject.clone()), "two at once");
                        prop_assert_eq!(Some(due.step.clone()), first(&due.subject), "out of order");
                        if let Some((_, again)) = barred.get(&due.subject) {
                            prop_assert!(again.is_some_and(|again| again <= now), "before its time");
                        }
                    }
                }
                Event::Blind => driver.cannot_see("unknown".into(), now),
                Event::End(number, how) => {
                    let subject = subject(number);
                    let step = driver.section().busy.iter().find(|busy| busy.subject == subject).map(|busy| busy.step.clone());
                    let outcome = match how {
                        0 => Outcome::Done,
                        1 => Outcome::Wait { reason: "not yet".into(), until: now + 1000 },
                        2 => failed(Retry::BackOff),
                        _ => failed(Retry::Never),
                    };
                    driver.ended(&subject, outcome, now, chance);
                    prop_assert_eq!(running.remove(&subject), step.is_some());
                    if let Some(step) = step {
                        match how {
                            0 => { barred.remove(&subject); }
                            1 => { barred.insert(subject, (step, Some(now + 1000))); }
                            2 => { barred.insert(subject, (step, Some(now + FIRST * 3 / 4))); }
                            _ => { barred.insert(subject, (step, None)); }
                        }
                    }
                }
                Event::Retry(number) => {
                    if driver.retry(&subject(number), now) {
                        barred.insert(subject(number), (driver.failure(&subject(number)).expect("it failed").step.clone(), Some(now)));
                    }
                }
                Event::Later(by) => now += by,
            }
        }
        prop_assert_eq!(driver.section().busy.len(), running.len());
    }
}
