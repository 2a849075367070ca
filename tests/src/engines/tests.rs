use super::*;

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

/// What the first manager is called, where it has begun a Swarm.
fn m1_0() -> MemberId {
    "m1-0".parse().expect("an id")
}

fn managers() -> Arc<World> {
    World::new(["m1", "m2"].map(|node| (name(node), EnginePart::Manager, String::new())))
}

fn initialise(leaves: Option<&str>) -> Question {
    Question::Initialise { address: "10.77.0.11".into(), leaves: leaves.map(|named| named.parse().expect("an id")) }
}

fn deploy(generation: &str, image: &str) -> Question {
    let file = format!("services:\n  web:\n    image: {image}\n");
    Question::Deploy {
        name: name("web"),
        generation: generation.parse().expect("a generation"),
        file,
        encrypted: false,
    }
}

fn under(number: u64, expects: Option<Expects>) -> Under {
    Under { fence: Fence { life: 1, number }, expects }
}

/// What is written down after these were done, the node that did each beside it.
fn written_down(work: &[(&str, Question)]) -> String {
    let world = managers();
    let mut state = world.state();
    for (node, work) in work {
        state.perform(&name(node), work.clone());
    }
    state.broken.join("; ")
}

#[test]
fn what_must_never_be_asked_is_written_down() {
    let begin = ("m1", initialise(None));
    assert_eq!(written_down(&[begin.clone(), ("m1", deploy("a", "web:1")), ("m1", deploy("b", "web:2"))]), "");
    let told = written_down(&[begin.clone(), ("m2", initialise(None))]);
    assert!(told.contains("m2 begins a Swarm beside"), "{told}");
    let told = written_down(&[begin.clone(), ("m1", initialise(Some("swarm-1")))]);
    assert!(told.contains("told to leave Swarm swarm-1, which lives"), "{told}");
    let told = written_down(&[begin.clone(), ("m1", Question::Forget { node_id: m1_0() })]);
    assert!(told.contains("m1-0 lives"), "{told}");
    let told = written_down(&[begin.clone(), ("m1", deploy("a", "web:1")), ("m1", deploy("a", "web:2"))]);
    assert!(told.contains("is not its content"), "one name, two contents: {told}");
    let told = written_down(&[begin.clone(), ("m1", deploy("a", "api:1"))]);
    assert!(told.contains("is not its content"), "another workload's: {told}");
    let joins = Question::Join {
        cluster: "swarm-1".parse().expect("an id"),
        manager: "m1:2377".into(),
        token: Swarm::default().token(&"swarm-1".parse().expect("an id"), false),
        part: EnginePart::Manager,
        address: "10.77.0.12".into(),
        leaves: None,
    };
    let told = written_down(&[begin, ("m2", joins)]);
    assert!(told.contains("with the token"), "{told}");
}

#[test]
fn a_node_obeys_the_newest_lead_and_what_it_sees() {
    let world = managers();
    let mut state = world.state();
    let m1 = name("m1");
    let alone = Some(Expects::Engine { state: EngineState::Alone });
    state.may(&m1, &initialise(None), Some(&under(2, alone.clone()))).expect_err("no head has said its life");
    state.node(&m1).life = 1;
    let never = Under { fence: Fence { life: 0, number: 9 }, expects: alone.clone() };
    state.may(&m1, &initialise(None), Some(&never)).expect_err("no head is in that life");
    state.may(&m1, &initialise(None), Some(&under(2, alone.clone()))).expect("it is alone");
    state.may(&m1, &initialise(None), Some(&under(1, alone.clone()))).expect_err("an older lead");
    state.perform(&m1, initialise(None));
    state.may(&m1, &initialise(None), Some(&under(3, alone))).expect_err("it is a member by now");
    state.may(&m1, &deploy("a", "web:1"), Some(&under(3, None))).expect("nobody said what to see");
    let member =
        |up| Expects::Member { member: swarm::Member { id: m1_0(), hostname: "m1".into(), manager: true, up } };
    let forget = Question::Forget { node_id: m1_0() };
    state.may(&m1, &forget, Some(&under(3, Some(member(false))))).expect_err("it is up by now");
    state.may(&m1, &forget, Some(&under(3, Some(member(true))))).expect("it is that");
    assert_eq!(state.broken, Vec::<String>::new());
    // A plan that has seen what it asks for, and one of nobody's.
    state.perform(&m1, deploy("a", "web:1"));
    let seen = Expects::Generation {
        workload: name("web"),
        generation: Some(Label::from("a".to_owned())),
        several: Some(false),
    };
    state.may(&m1, &deploy("a", "web:1"), Some(&under(3, Some(seen)))).expect("it sees that");
    state.may(&m1, &deploy("b", "web:2"), None).expect("as an agent does");
    let told = state.broken.join("; ");
    assert!(told.contains("a second time") && told.contains("without a lead"), "{told}");
}
