//! The Swarm's controller: its lead, and agents that answer late or never.

use std::path::Path;

use bramble_model::engine::EngineState;
use bramble_store::Store;

use super::*;
use crate::agents::tests::{parts_of, pretend};
use crate::loops::Controller as _;

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

mod trust;

/// The controller of a head of three managers and two workers, whose store is this one.
fn controller(folder: &Path, store: Store) -> Controller {
    let mut text =
        String::from("[cluster]\nname = \"c\"\n[network]\ninterface = \"lo\"\n[roles.manager]\nengine = \"manager\"\n");
    for number in 1..=3 {
        text += &format!("[nodes.m{number}]\nmac = \"52:54:00:00:00:0{number}\"\nrole = \"manager\"\n");
    }
    text += "[roles.worker]\nengine = \"worker\"\n";
    for number in 1..=2 {
        text += &format!("[nodes.w{number}]\nmac = \"52:54:00:00:01:0{number}\"\nrole = \"worker\"\n");
    }
    let (agents, timeline, snapshots) = parts_of(folder, &text, bramble_link::session::Limits::USUAL);
    let swarm = Arc::new(swarm::Swarm::open(store));
    Controller { agents, timeline, swarm, snapshots, manager_token: RwLock::default(), in_vain: Mutex::default() }
}

/// It took the lead once, when it began; every agent refused it from then on, and its status said that all is well.
#[tokio::test]
async fn a_head_that_began_on_a_disk_without_writes_leads_once_there_is_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("disk/head.redb");
    let store = Store::open(&place, 1).expect("opens in memory");
    let controller = controller(folder.path(), store.clone());
    let doubt = controller.doubt().expect("there is no lead that would last");
    assert!(doubt.starts_with("this head does not lead the Swarm yet") && doubt.contains("takes no writes"), "{doubt}");
    pretend(&controller.agents, &name("m1"), EngineState::Alone, |work| panic!("{work:?} is asked without a lead"));
    let work = Work::Initialise { address: "192.168.7.21".into(), leaves: None };
    let refused = controller.ask(&name("m1"), work, None).await.expect_err("it does not lead");
    assert!(matches!(&refused, Outcome::Failed { reason, .. } if *reason == doubt), "{refused:?}");
    std::fs::create_dir(folder.path().join("disk")).expect("made");
    assert!(store.blocking().mend(), "the disk is there");
    assert_eq!(controller.doubt(), None);
    let lead = controller.swarm.lead().expect("it leads");
    assert_eq!((lead.number, controller.swarm.lead().expect("it leads")), (1, lead), "it takes it once");
    assert!(lead.life > 0);
}

fn own() -> ClusterId {
    "own".parse().expect("an id")
}

fn manager(node: &str) -> EngineState {
    let node_id = node.parse().expect("an id");
    EngineState::Member { cluster: own(), node_id, manager: true, reachable: true }
}

/// A controller that remembers a Swarm of three managers; those that are named say nothing of it.
fn swarm_with(folder: &Path, silent: &[&str]) -> Controller {
    let store = Store::open(&folder.join("head.redb"), 1).expect("opens");
    let controller = controller(folder, store);
    controller.swarm.remember(|record| record.remember(&own(), ["m1", "m2", "m3"].map(name).into())).expect("written");
    for node in ["m1", "m2", "m3"] {
        let is_silent = silent.contains(&node);
        pretend(&controller.agents, &name(node), manager(node), move |_| {
            let listing = Listing { cluster: own(), members: Vec::new(), services: Vec::new() };
            (!is_silent).then_some(Answer::Swarm(Reply::Observed(listing)))
        });
    }
    controller
}

/// One look, told as the loop tells it; and how long it took.
async fn look(controller: &Controller) -> (Observed, Duration) {
    let began = Instant::now();
    let declared = controller.declared(&controller.snapshots.current().expect("there is one"));
    let seen = controller.observe(&declared).await.expect("it is seen");
    controller.saw(Ok(&seen));
    (seen, began.elapsed())
}

/// They were asked one after another, and each was waited for, for longer than a look may take: what was seen minutes
/// ago was shown as present, and a manager that is well was never asked.
#[tokio::test(start_paused = true)]
async fn managers_that_hang_are_named_and_one_that_is_well_is_asked_soon() {
    let folder = tempfile::tempdir().expect("a folder");
    let controller = swarm_with(folder.path(), &["m1", "m2"]);
    let (seen, took) = look(&controller).await;
    assert!(matches!(&seen.view, Some(View::Read { through, .. }) if *through == name("m3")), "{:?}", seen.view);
    assert!(took < Duration::from_secs(5), "{took:?}");
    let sight = controller.swarm.sight();
    let mute: Vec<_> = sight.mute().collect();
    let [(first, problem), (second, _)] = &mute[..] else { panic!("two: {mute:?}") };
    assert_eq!((first.as_str(), second.as_str()), ("m1", "m2"));
    assert_eq!(problem, "manager m1 does not say what it sees: its agent has not answered within 2 s");
    assert!(sight.stale.is_none() && sight.listing.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_manager_that_is_well_is_asked_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let controller = swarm_with(folder.path(), &["m2", "m3"]);
    let (seen, _) = look(&controller).await;
    assert!(matches!(&seen.view, Some(View::Read { through, .. }) if *through == name("m1")), "{:?}", seen.view);
    assert!(seen.without.is_empty(), "{:?}", seen.without);
}

#[tokio::test(start_paused = true)]
async fn where_all_managers_hang_what_was_seen_is_stale_before_a_look_is_given_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let controller = swarm_with(folder.path(), &["m1", "m2", "m3"]);
    let (seen, took) = look(&controller).await;
    assert!(matches!(seen.view, Some(View::Unreadable { .. })), "{:?}", seen.view);
    assert!(took < super::super::LOOK, "{took:?}");
    assert_eq!(controller.swarm.sight().without.len(), 3);
    let problem = controller.swarm.problem(&controller.swarm.sight()).expect("it cannot be read");
    assert!(problem.starts_with("Swarm own cannot be read"), "{problem}");
    // A look that came to nothing says so, too.
    controller.saw(Err(&Unknown("nothing was learnt within 40 s".into())));
    let stale = controller.swarm.sight().stale.expect("it is not the present");
    assert_eq!(stale.0, "nothing was learnt within 40 s");
}

#[test]
fn what_an_agent_promised_and_does_not_know_waits_for_a_person() {
    let retry = |promised, answer| match answered(&name("m1"), promised, answer) {
        Err(Outcome::Failed { retry, .. }) => Some(retry),
        _ => None,
    };
    assert_eq!(retry(true, Answer::CannotDo), Some(Retry::Never));
    // It may run another release soon.
    assert_eq!(retry(false, Answer::CannotDo), Some(Retry::BackOff));
    assert_eq!(retry(true, Answer::UNKNOWN), Some(Retry::BackOff));
    assert_eq!(retry(true, Answer::Failed { error: "it hangs".into() }), Some(Retry::BackOff));
    assert_eq!(retry(true, Answer::Refused { why: "it sees another".into() }), Some(Retry::BackOff));
    assert_eq!(retry(true, Answer::Done), None);
}
