//! A node that lies, and tokens: what reaches whom.

use std::sync::Mutex;

use bramble_model::agent::swarm::Member;
use bramble_model::section::Risk;
use bramble_model::subject::Subject;
use bramble_plan::contract::Planner as _;
use bramble_plan::swarm::WHOLE;
use bramble_system::locked;

use super::*;

/// What an agent was asked.
type Asked = Arc<Mutex<Vec<Work>>>;

/// A node that says that this is its place, and answers so.
fn node(
    controller: &Controller,
    node: &str,
    engine: EngineState,
    answers: impl Fn(&Work) -> Option<Answer> + Send + 'static,
) -> Asked {
    let asked = Asked::default();
    let heard = Arc::clone(&asked);
    pretend(&controller.agents, &name(node), engine, move |work| {
        let agent::Work::Swarm(work) = work else { panic!("{work:?}") };
        locked(&heard).push(work.clone());
        answers(work)
    });
    asked
}

/// The token of a CA whose certificate's digest is this number.
fn token(ca: u8, secret: &str) -> String {
    format!("SWMTKN-1-{ca:050}-{secret:0>25}")
}

fn ca(number: u8) -> Digest {
    let mut digest = [0; 32];
    digest[31] = number;
    Digest(digest)
}

fn tokens(manager: u8, worker: u8) -> Answer {
    let (manager, worker) = (token(manager, "m"), token(worker, "w"));
    Answer::Swarm(Reply::JoinTokens {
        manager: manager.into(),
        worker: worker.into(),
        address: "192.168.7.21:2377".into(),
    })
}

/// A manager whose tokens are of this CA, and which does what it is asked.
fn obeys(tokens: Answer) -> impl Fn(&Work) -> Option<Answer> + Send + 'static {
    move |work| match work {
        Work::JoinTokens => Some(tokens.clone()),
        Work::Observe => {
            let node_id = |text: &str| text.parse().expect("an id");
            let member = Member { id: node_id("m1"), hostname: "m1".into(), manager: true, up: true };
            let listing = Listing { cluster: own(), members: vec![member], services: Vec::new() };
            Some(Answer::Swarm(Reply::Observed(listing)))
        }
        _ => Some(Answer::Done),
    }
}

/// A controller that remembers a Swarm with these managers, and its CA.
fn pinned(folder: &Path, managers: &[&str]) -> Controller {
    let controller = controller(folder, Store::open(&folder.join("head.redb"), 1).expect("opens"));
    let managers = || managers.iter().map(|text| name(text)).collect();
    controller
        .swarm
        .remember(|record| {
            record.remember(&own(), managers());
            (record.ca, record.token) = (Some(ca(1)), ManagerToken::Kept);
        })
        .expect("written");
    controller
}

fn join(node: &str, part: EnginePart) -> Planned<Step, Seen> {
    let (through, address) = (name("m1"), "192.168.7.9".into());
    planned(
        Subject::node(&name(node)),
        Seen::Engine(EngineState::Alone),
        Step::Join { node: name(node), cluster: own(), through, part, address, leaves: None },
    )
}

fn planned(subject: Subject, seen: Seen, step: Step) -> Planned<Step, Seen> {
    Planned { subject, seen, reason: "it is due".into(), risk: Risk::Safe, step }
}

fn record(controller: &Controller) -> Record {
    controller.swarm.remembered().expect("read")
}

fn reason(outcome: Outcome) -> String {
    match outcome {
        Outcome::Failed { reason, .. } => reason,
        outcome => panic!("{outcome:?}"),
    }
}

/// The plan of one look.
async fn plan(controller: &Controller) -> Vec<Step> {
    let (seen, _) = look(controller).await;
    let declared = controller.declared(&controller.snapshots.current().expect("there is one"));
    Swarm.plan(&declared, &seen, 0).steps.into_iter().map(|planned| planned.step).collect()
}

/// One compromised worker says "I am a manager": it was asked what the Swarm is, and for the tokens of others.
#[tokio::test(start_paused = true)]
async fn a_worker_that_says_it_is_a_manager_is_asked_nothing_by_the_head() {
    // With what a restored backup has of the managers, too: nothing.
    for managers in [&["m1", "m2", "m3"][..], &[]] {
        let folder = tempfile::tempdir().expect("a folder");
        let controller = pinned(folder.path(), managers);
        let asked = node(&controller, "w1", manager("m1"), obeys(tokens(1, 1)));
        let (seen, _) = look(&controller).await;
        assert_eq!(seen.view, None);
        assert_eq!(plan(&controller).await, [], "{managers:?}");
        let through = node(&controller, "m1", manager("m1"), obeys(tokens(1, 1)));
        let (seen, _) = look(&controller).await;
        assert!(matches!(&seen.view, Some(View::Read { through, .. }) if *through == name("m1")), "{:?}", seen.view);
        assert!(!plan(&controller).await.iter().any(|step| matches!(step, Step::SetPart { .. })), "m1 stays");
        assert!(!locked(&through).is_empty());
        assert_eq!(*locked(&asked), [], "{managers:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_of_another_ca_reaches_no_node_until_a_person_says_that_it_was_rotated() {
    let folder = tempfile::tempdir().expect("a folder");
    let controller = pinned(folder.path(), &["m1"]);
    node(&controller, "m1", manager("m1"), obeys(tokens(2, 2)));
    let asked = node(&controller, "w1", EngineState::Alone, |_| Some(Answer::Done));
    let why = reason(controller.perform(join("w1", EnginePart::Worker)).await);
    assert!(why.contains(&format!("`bramble engine trust swarm {}`", ca(2))) && why.contains("m1"), "{why}");
    assert_eq!(*locked(&asked), []);
    assert!(controller.swarm.remember(|record| record.trust(ca(2))).expect("written"));
    assert_eq!(controller.perform(join("w1", EnginePart::Worker)).await, Outcome::Done);
    let asked = locked(&asked);
    assert!(matches!(&asked[..], [Work::Join { token: given, .. }] if *given == token(2, "w")), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn the_ca_of_a_swarm_is_pinned_when_it_starts_and_what_is_no_token_pins_nothing() {
    let none = Answer::Swarm(Reply::JoinTokens { manager: "m".into(), worker: "w".into(), address: "a".into() });
    for (answer, pins) in [(none, None), (tokens(1, 2), None), (tokens(3, 3), Some(ca(3)))] {
        let folder = tempfile::tempdir().expect("a folder");
        let controller = controller(folder.path(), Store::open(&folder.path().join("head.redb"), 1).expect("opens"));
        let begun = |record: &mut Record| {
            record.begin(&name("m1"));
            record.remember(&own(), ["m1", "m2", "m3"].map(name).into());
        };
        controller.swarm.remember(begun).expect("written");
        node(&controller, "m1", manager("m1"), obeys(answer));
        let [pin @ Step::Pin { .. }] = &plan(&controller).await[..] else { panic!("the CA is not pinned") };
        let seen = Seen::Record(record(&controller));
        let outcome = controller.perform(planned(WHOLE, seen, pin.clone())).await;
        assert_eq!((record(&controller).ca, outcome == Outcome::Done), (pins, pins.is_some()));
        assert!(matches!(&plan(&controller).await[..], [Step::Pin { .. }]) == pins.is_none());
    }
}

/// Whoever had it could come back with it as a manager, for ever.
#[tokio::test(start_paused = true)]
async fn the_token_of_managers_is_written_down_as_used_before_it_is_handed_out_and_rotated_after() {
    let folder = tempfile::tempdir().expect("a folder");
    let controller = pinned(folder.path(), &["m1", "m2", "m3"]);
    let asked = node(&controller, "m1", manager("m1"), obeys(tokens(1, 1)));
    let swarm = Arc::clone(&controller.swarm);
    node(&controller, "m2", EngineState::Alone, move |work| {
        let Work::Join { token: given, .. } = work else { panic!("{work:?}") };
        let written = swarm.remembered().expect("read").token;
        assert_eq!((given, written), (&token(1, "m"), ManagerToken::Out), "the head may end now");
        // Whoever fails to join knows it as well.
        Some(Answer::Failed { error: "it hangs".into() })
    });
    assert_eq!(reason(controller.perform(join("m2", EnginePart::Manager)).await), "it hangs");
    let steps = plan(&controller).await;
    let rotate = steps.into_iter().find(|step| matches!(step, Step::Rotate { .. })).expect("it is due");
    // As of a head that has started since: the record says it.
    let rotate = || planned(WHOLE, Seen::Record(record(&controller)), rotate.clone());
    {
        let _joins = controller.manager_token.read().await;
        assert!(matches!(controller.perform(rotate()).await, Outcome::Wait { .. }), "someone is joining with it");
    }
    assert_eq!(controller.perform(rotate()).await, Outcome::Done);
    assert_eq!(locked(&asked).last(), Some(&Work::RotateManagerToken { cluster: own() }));
    assert_eq!(record(&controller).token, ManagerToken::Kept);
    assert!(!plan(&controller).await.iter().any(|step| matches!(step, Step::Rotate { .. })));
}

/// The token of workers makes nobody a manager.
#[tokio::test(start_paused = true)]
async fn a_worker_gets_the_token_of_workers_and_leaves_the_other_one_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let controller = pinned(folder.path(), &["m1"]);
    node(&controller, "m1", manager("m1"), obeys(tokens(1, 1)));
    let asked = node(&controller, "w1", EngineState::Alone, |_| Some(Answer::Done));
    assert_eq!(controller.perform(join("w1", EnginePart::Worker)).await, Outcome::Done);
    assert!(matches!(&locked(&asked)[..], [Work::Join { token: given, .. }] if *given == token(1, "w")));
    assert_eq!(record(&controller).token, ManagerToken::Kept);
    // A step that makes it a manager is none that the head's record allows.
    let why = reason(controller.perform(join("w1", EnginePart::Manager)).await);
    assert!(why.contains("record of the Swarm has changed"), "{why}");
    assert_eq!(locked(&asked).len(), 1);
}

/// Whoever is made no manager any more knows the token, and no step of a plan goes on from a record of before.
#[tokio::test(start_paused = true)]
async fn an_old_manager_takes_no_token_along() {
    let folder = tempfile::tempdir().expect("a folder");
    let controller = pinned(folder.path(), &["m1", "w1"]);
    node(&controller, "m1", manager("m1"), obeys(tokens(1, 1)));
    let member = Member { id: "w1".parse().expect("an id"), hostname: "w1".into(), manager: true, up: true };
    let part = EnginePart::Worker;
    let demote = Step::SetPart { through: name("m1"), hostname: "w1".into(), node_id: member.id.clone(), part };
    let before = record(&controller);
    let demote = planned(Subject::node(&name("w1")), Seen::Member(member), demote);
    assert_eq!(controller.perform(demote).await, Outcome::Done);
    assert_eq!(record(&controller).token, ManagerToken::Out);
    // A step beside that one is not stopped by it.
    let remember = Step::Remember { cluster: own(), managers: ["m1", "m2", "m3"].map(name).into() };
    assert_eq!(controller.perform(planned(WHOLE, Seen::Record(before), remember)).await, Outcome::Done);
    assert_eq!(record(&controller).token, ManagerToken::Out);
}

/// An old manager that cannot be made a worker held the rotation up for ever, and whoever had gone before it kept the token.
#[tokio::test(start_paused = true)]
async fn an_old_manager_that_cannot_be_made_a_worker_holds_up_no_rotation_for_ever() {
    let folder = tempfile::tempdir().expect("a folder");
    let controller = pinned(folder.path(), &["m1", "m2", "m3", "w1"]);
    let lists_w1 = Arc::new(Mutex::new(true));
    let lists = Arc::clone(&lists_w1);
    node(&controller, "m1", manager("m1"), move |work| match work {
        Work::Observe => {
            let all = ["m1", "m2", "m3", "w1"].into_iter();
            let members = all.map(|text| Member {
                id: text.parse().expect("an id"),
                hostname: text.into(),
                manager: text != "w1" || *locked(&lists),
                up: true,
            });
            let listing = Listing { cluster: own(), members: members.collect(), services: Vec::new() };
            Some(Answer::Swarm(Reply::Observed(listing)))
        }
        Work::SetPart { .. } => Some(Answer::Failed { error: "it hangs".into() }),
        _ => Some(Answer::Done),
    });
    let node_id = "w1".parse().expect("an id");
    let worker = EngineState::Member { cluster: own(), node_id, manager: false, reachable: true };
    node(&controller, "w1", worker, |_| None);
    controller.swarm.remember(|record| record.token = ManagerToken::Out).expect("written");
    let due = async || {
        let (seen, _) = look(&controller).await;
        let declared = controller.declared(&controller.snapshots.current().expect("there is one"));
        Swarm.plan(&declared, &seen, 0).steps
    };
    let rotates = |planned: &Planned<Step, Seen>| matches!(planned.step, Step::Rotate { .. });
    let [demote] = &due().await[..] else { panic!("one step, and no rotation yet") };
    assert!(matches!(&demote.step, Step::SetPart { hostname, .. } if hostname == "w1"), "{demote:?}");
    assert_eq!(reason(controller.perform(demote.clone()).await), "it hangs");
    let rotate = due().await.into_iter().find(rotates).expect("it is not waited for any more");
    assert_eq!(controller.perform(rotate).await, Outcome::Done);
    assert_eq!(record(&controller).token, ManagerToken::Kept);
    // It was done all the same, later: whoever is taken off the record knew the new one, too.
    *locked(&lists_w1) = false;
    let [remember] = &due().await[..] else { panic!("it is taken off the record") };
    assert_eq!(controller.perform(remember.clone()).await, Outcome::Done);
    assert_eq!(record(&controller).token, ManagerToken::Out);
    assert!(matches!(&due().await[..], [planned] if rotates(planned)));
    assert!(locked(&controller.in_vain).is_empty());
}
