//! Names that the Swarm lists: each machine says its own, and so any.

use proptest::prelude::*;

use super::suspects::{changes, cluster, manager};
use super::*;

/// `m1` and `m3` are the repository's managers; `w1` was one, and calls itself so.
fn old_manager(called: &str, says: Option<EngineState>) -> World {
    let mut world = cluster().manager("m3", in_swarm("s", "c", true, true));
    world.observed.nodes.get_mut(&name("w1")).expect("there").engine = says;
    world.observed.record.managers = ["m1", "m3", "w1"].map(name).into();
    lists(world, vec![manager("a", "m1"), manager("w", called), manager("c", "m3")])
}

/// The record stays as it is.
fn lists(world: World, members: Vec<Member>) -> World {
    let managers = world.observed.record.managers.clone();
    let mut world = world.reads("m1", "s", members, Vec::new());
    world.observed.record.managers = managers;
    world
}

/// All the way to rest, with what was there on the way.
fn at_rest(mut world: World) -> (World, Vec<Step>) {
    let mut done = Vec::new();
    for _ in 0..24 {
        for planned in world.plan().steps {
            Swarm.foresee(&mut world.observed, &planned.step);
            done.push(planned.step);
        }
    }
    assert!(world.plan().steps.is_empty(), "not at rest: {}", world.text());
    (world, done)
}

/// The ids of those that are managers.
fn managers(world: &World) -> Vec<&str> {
    let Some(View::Read { listing, .. }) = &world.observed.view else { panic!("it is read") };
    listing.members.iter().filter(|member| member.manager).map(|member| member.id.as_str()).collect()
}

/// It called itself as one of today's managers, or nothing, and so stayed a manager of the Swarm for ever.
#[test]
fn an_old_manager_goes_whatever_it_calls_itself() {
    for called in ["m1", "m3", "w1", "w2", "nobody", "a name.that/is none", ""] {
        for says in [in_swarm("s", "w", true, true), in_swarm("s", "nobodys", false, true), ALONE, None] {
            let old = old_manager(called, says.clone());
            let told = format!("{called:?}, {says:?}: {}", old.text());
            let (rest, done) = at_rest(old);
            assert_eq!(managers(&rest), ["a", "c"], "{told}");
            let ended = done.iter().filter_map(|step| match step {
                Step::SetPart { node_id, part: EnginePart::Worker, .. } => Some(node_id.as_str()),
                _ => None,
            });
            assert_eq!(ended.collect::<Vec<_>>(), ["w"], "nobody else: {told}");
            assert!(matches!(done.last(), Some(Step::Rotate { .. } | Step::Join { .. })), "{told}");
            assert_eq!(rest.observed.record.token, ManagerToken::Kept, "{told}");
        }
    }
    let as_m1 = old_manager("m1", in_swarm("s", "w", true, true));
    insta::assert_snapshot!("it_has_the_name_of_a_manager", as_m1.text());
    insta::assert_snapshot!("it_has_no_name", old_manager("", None).text());
}

/// Docker lists a member before it knows its name, and a new manager is no old one then.
#[test]
fn a_new_manager_without_a_name_yet_keeps_its_place() {
    let world = old_manager("w1", in_swarm("s", "w", true, true));
    let new = lists(world, vec![manager("a", "m1"), entry("w", "w1", true), manager("c", "")]);
    assert_eq!(managers(&at_rest(new).0), ["a", "c"]);
}

/// A head that has just started has heard nobody yet.
#[test]
fn a_silent_managers_place_is_its_own_while_no_other_takes_its_name() {
    let mut world = old_manager("w1", in_swarm("s", "w", false, true)).manager("m2", None);
    world.observed.record.managers.insert(name("m2"));
    let alone = vec![manager("a", "m1"), manager("b", "m2"), manager("c", "m3"), entry("w", "w1", true)];
    assert_eq!(managers(&at_rest(lists(world.clone(), alone)).0), ["a", "b", "c"]);
    let two = vec![manager("a", "m1"), manager("w", "m2"), manager("c", "m3"), manager("b", "m2")];
    let two = lists(world, two);
    insta::assert_snapshot!("two_have_the_name_of_a_silent_one", two.text());
    // Whichever of them went: when it speaks, it is in its place, and the other one is not.
    let (rest, _) = at_rest(two);
    assert_eq!(managers(&rest).len(), 3);
    let stayed = managers(&rest).contains(&"b");
    let rest = rest.manager("m2", in_swarm("s", "b", stayed, true));
    let mut speaking = managers(&at_rest(rest).0).join(" ").split(' ').map(str::to_owned).collect::<Vec<_>>();
    speaking.sort_unstable();
    assert_eq!(speaking, ["a", "b", "c"]);
}

/// A worker that has another's name was passed over, since it is a worker as it should be.
#[test]
fn a_node_by_anothers_name_is_told_whatever_its_part() {
    let world = old_manager("w1", in_swarm("s", "w", false, true));
    for (members, node, id, called) in [
        (vec![manager("a", "m1"), entry("w", "m1", true), manager("c", "m3")], "w1", "w", "m1"),
        (vec![manager("a", "m1"), entry("w", "w1", true), manager("c", "w9")], "m3", "c", "w9"),
    ] {
        let told = lists(world.clone(), members).text();
        let wait = format!(
            "waits: {node}: it says that it is member {id}, which the Swarm has as {called:?} [find out what runs on {node}, and boot it anew]\n"
        );
        assert!(told.contains(&wait), "{told}");
    }
}

/// One that was off when its role was taken away came back as a manager, with the Swarm's state and its vote.
#[test]
fn an_old_manager_that_is_down_goes_too() {
    let down = |id, hostname| Member { up: false, ..manager(id, hostname) };
    let world = old_manager("w1", None).worker("w2", in_swarm("s", "y", false, true));
    let members = vec![manager("a", "m1"), manager("b", "w2"), manager("c", "m3"), down("w", "w1"), down("z", "gone")];
    insta::assert_snapshot!("two_are_down", lists(world.clone(), members).whole());
    // Also one that a manager was before it was installed anew; and while another manager cannot join.
    let mut anew = world.manager("m3", in_swarm("s", "c2", true, true)).manager("m4", ALONE);
    anew.observed.record.managers = ["m1", "m3", "m4", "w1"].map(name).into();
    let members = vec![manager("a", "m1"), manager("c2", "m3"), down("c", "m3"), entry("y", "w2", true)];
    let anew = lists(anew, members);
    assert!(changes(&anew).iter().any(|step| step == "m3 (c): becomes a worker of the Swarm"), "{}", anew.text());
    assert_eq!(managers(&at_rest(anew).0), ["a", "c2", "new-m4"]);
}

/// A liar that called itself `w2` had `w2` written down as one that was made a manager, and its own name taken off.
#[test]
fn no_name_is_written_down_that_its_own_node_does_not_confirm() {
    let noted = |world: &World| {
        let look = Look { declared: &world.declared, observed: &world.observed };
        let Some(View::Read { through, listing }) = &world.observed.view else { panic!("it is read") };
        look.managers_of(through, listing).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    for called in ["w2", "m1", "m3", "nobody", ""] {
        for says in [in_swarm("s", "w", true, true), ALONE, None] {
            let lies = old_manager(called, says).worker("w2", in_swarm("s", "y", false, true));
            assert_eq!(noted(&lies), ["m1", "m3", "w1"], "{called:?}");
            assert!(!lies.plan().steps.iter().any(|planned| matches!(planned.step, Step::Remember { .. })));
        }
    }
    // A silent manager's name covers nobody who does not say that he is a worker.
    let silent = old_manager("m3", None);
    assert_eq!(noted(&World { observed: silent.clone().manager("m3", None).observed, ..silent }), ["m1", "m3", "w1"]);
    // It goes when the Swarm has it as a worker, or has no other manager any more.
    let is_worker = vec![manager("a", "m1"), manager("c", "m3"), entry("w", "w1", true)];
    let world = old_manager("w1", in_swarm("s", "w", false, true));
    assert_eq!(noted(&lists(world.clone(), is_worker)), ["m1", "m3"]);
    let gone = vec![manager("a", "m1"), manager("c", "m3")];
    assert_eq!(noted(&lists(world.clone(), gone.clone())), ["m1", "m3"]);
    let off = old_manager("w1", None);
    assert_eq!(noted(&lists(off, gone)), ["m1", "m3"]);
    // A head that forgot finds it again, by its name and its own word.
    let mut forgot = old_manager("w1", in_swarm("s", "w", true, true));
    forgot.observed.record.managers = BTreeSet::from([name("m1")]);
    assert_eq!(noted(&forgot), ["m1", "m3", "w1"]);
}

/// It was held off silently, and for ever where the old manager could not be made a worker.
#[test]
fn a_rotation_that_is_held_off_says_for_whom_and_is_not_held_off_in_vain() {
    let rotates = |world: &World| world.plan().steps.iter().any(|planned| matches!(planned.step, Step::Rotate { .. }));
    let mut world = old_manager("w1", in_swarm("s", "w", true, true)).worker("w2", in_swarm("s", "y", false, true));
    world.observed.record.token = ManagerToken::Out;
    insta::assert_snapshot!("it_waits_for_an_old_manager", world.text());
    assert!(!rotates(&world));
    world.observed.in_vain.insert(id("w"));
    assert!(rotates(&world), "{}", world.text());
    assert!(changes(&world).contains(&"w1: becomes a worker of the Swarm".to_owned()), "that is tried on");
    // Another one that was in vain, and has gone, is nobody to give up waiting for this one.
    world.observed.in_vain = BTreeSet::from([id("z")]);
    assert!(!rotates(&world));
    // Nor is it silent while only an old manager can be asked.
    let only_old = old_manager("w1", in_swarm("s", "w", true, true)).manager("m1", ALONE).manager("m3", None);
    let mut only_old = only_old.reads("w1", "s", vec![manager("w", "w1")], Vec::new());
    only_old.observed.record.token = ManagerToken::Out;
    insta::assert_snapshot!("it_waits_for_one_of_todays_managers", only_old.text());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// Three managers of today, of which one that is asked speaks, and old ones: at rest no old one is a manager, and
    /// whoever of today's has said who it is, is one.
    #[test]
    fn nobody_keeps_a_managers_place_by_a_name(
        speaks in prop::collection::vec(any::<bool>(), 2),
        old in prop::collection::vec(("m[1-3]|w[1-3]|x|", any::<bool>(), prop::option::of("[bcpqr]")), 0..4),
    ) {
        let mut world = world(remembers("s")).manager("m1", in_swarm("s", "a", true, true));
        let mut members = vec![manager("a", "m1"), manager("b", "m2"), manager("c", "m3")];
        for ((text, id), speaks) in [("m2", "b"), ("m3", "c")].into_iter().zip(&speaks) {
            world = world.manager(text, speaks.then(|| in_swarm("s", id, true, true)).flatten());
        }
        for (((called, up, says), id), text) in old.iter().zip(["p", "q", "r"]).zip(["w1", "w2", "w3"]) {
            members.push(Member { up: *up, ..manager(id, called) });
            world = world.worker(text, says.as_deref().and_then(|said| in_swarm("s", said, true, true)));
        }
        world.observed.record.managers = ["m1", "m2", "m3", "w1", "w2", "w3"].map(name).into();
        let rest = at_rest(lists(world, members)).0;
        let managers = managers(&rest);
        prop_assert!(managers.contains(&"a"));
        for ((id, called), speaks) in [("b", "m2"), ("c", "m3")].into_iter().zip(&speaks) {
            let is_alone = !old.iter().any(|(taken, ..)| taken == called);
            prop_assert!(managers.contains(&id) || !speaks && !is_alone, "{called} loses its place");
        }
        for ((called, ..), id) in old.iter().zip(["p", "q", "r"]) {
            // Whose name it has taken does not say which member it is.
            let is_covered = [("m2", speaks[0]), ("m3", speaks[1])].contains(&(called.as_str(), false));
            prop_assert!(!managers.contains(&id) || is_covered, "{id} stays a manager as {called:?}");
        }
    }
}
