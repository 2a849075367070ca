use std::pin::Pin;

use bramble_model::engine::EngineState;
use bramble_model::hands::{Data, PIECE, WINDOW};
use futures_util::{sink, stream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::*;
use crate::agents::tests::{parts_of, pretend, refuses};

#[test]
fn a_file_is_fetched_from_its_folder() {
    let argv = |path: &str| start(&Errand::Fetch { path: path.into() }).argv.join(" ");
    assert_eq!(argv("/etc/hosts"), "tar -c -f - -C /etc -- hosts");
    assert_eq!(argv("/etc/"), "tar -c -f - -C / -- etc");
    assert_eq!(argv("notes"), "tar -c -f - -C . -- notes");
    assert_eq!(argv("-x"), "tar -c -f - -C . -- -x");
    assert_eq!(argv("/"), "tar -c -f - -C / -- .");
}

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

type Wishes = Pin<Box<dyn Stream<Item = Result<Message, axum::Error>> + Send>>;
type Answers = Pin<Box<dyn Sink<Message, Error = axum::Error> + Send>>;

/// A person's end of the connection.
struct Person {
    wishes: UnboundedSender<ToProcess>,
    told: UnboundedReceiver<Told>,
}

impl Person {
    /// One, and the head's ends.
    fn new() -> (Person, Wishes, Answers) {
        let (wishes, wished) = unbounded_channel::<ToProcess>();
        let (tells, told) = unbounded_channel();
        let from = stream::unfold(wished, async |mut wished| {
            let text = serde_json::to_string(&wished.recv().await?).expect("plain data");
            Some((Ok(Message::text(text)), wished))
        });
        let to = sink::unfold(tells, async |tells, message: Message| {
            let told = serde_json::from_str(message.to_text().expect("text")).expect("it is told something");
            tells.send(told).map_err(axum::Error::new)?;
            Ok(tells)
        });
        (Person { wishes, told }, Box::pin(from), Box::pin(to))
    }

    fn wishes(&self, wish: ToProcess) {
        self.wishes.send(wish).expect("the head listens");
    }

    /// What it is told until it has ended everywhere; each node's end.
    async fn ends(&mut self, nodes: usize) -> BTreeMap<Name, End> {
        let mut ends = BTreeMap::new();
        while ends.len() < nodes {
            if let Some(Told::Ended { node, end }) = self.told.recv().await {
                ends.insert(node, end);
            }
        }
        ends
    }
}

/// A process that takes input and counts it, up to so many bytes; at the end of its input it ends.
async fn takes(node: Name, most: u64, mut orders: mpsc::Receiver<ToProcess>, say: mpsc::Sender<(Name, Carried)>) {
    let mut taken = 0;
    while let Some(order) = orders.recv().await {
        let said = match order {
            ToProcess::Input { data } if taken < most => {
                let bytes = data.0.len() as u64;
                taken += bytes;
                FromProcess::Room { bytes }
            }
            ToProcess::EndOfInput if taken < most => FromProcess::Ended { end: End::Exited { code: 0 } },
            _ => continue,
        };
        let _ = say.send((node.clone(), Carried::Said(said))).await;
    }
}

/// An errand on nodes whose processes take so many bytes at most; gives the ends when input of so many windows was sent
/// as fast as there was room, and ended.
async fn places(nodes: &[(&str, u64)], windows: u64) -> BTreeMap<Name, End> {
    let (mut person, mut from, to) = Person::new();
    let (say, mut said) = mpsc::channel(QUEUE);
    let mut running = Running::new(to);
    for (node, most) in nodes {
        let orders = running.begin(name(node));
        tokio::spawn(takes(name(node), *most, orders, say.clone()));
    }
    let errand = Errand::Place { path: "/tmp/".into(), name: "big".into() };
    let sends = async {
        let (mut room, mut left, mut ends) = (WINDOW, windows * WINDOW, BTreeMap::new());
        let piece = PIECE as u64;
        while ends.len() < nodes.len() {
            while left > 0 && room >= piece {
                person.wishes(ToProcess::Input { data: Data(vec![7; PIECE]) });
                (room, left) = (room - piece, left - piece);
                if left == 0 {
                    person.wishes(ToProcess::EndOfInput);
                }
            }
            match person.told.recv().await {
                Some(Told::Room { bytes }) => room += bytes,
                Some(Told::Ended { node, end }) => drop(ends.insert(node, end)),
                other => panic!("{other:?}"),
            }
        }
        ends
    };
    let hour = Duration::from_secs(3600);
    let (ends, conversed) =
        timeout(hour, async { tokio::join!(sends, converse(&errand, &mut running, &mut said, &mut from)) })
            .await
            .expect("it goes on");
    conversed.expect("nobody went away");
    let failed: Vec<String> =
        ends.iter().filter(|(_, end)| end.code() != 0).map(|(node, _)| node.to_string()).collect();
    assert_eq!(running.failed, failed);
    ends
}

/// Its `tar` hung, or its agent was frozen: `bramble cp big all:/tmp/` stood still on every node.
#[tokio::test(start_paused = true)]
async fn a_node_that_takes_no_input_is_left_behind_and_the_others_go_on() {
    let done = End::Exited { code: 0 };
    let ends = places(&[("w1", u64::MAX), ("w2", 3 * PIECE as u64), ("w3", u64::MAX)], 5).await;
    assert_eq!((&ends[&name("w1")], &ends[&name("w3")]), (&done, &done));
    let End::Failed { reason } = &ends[&name("w2")] else { panic!("{ends:?}") };
    assert!(reason.contains("has taken no input for 60 s, and others wait for it"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn all_that_are_well_take_all_of_it() {
    let ends = places(&[("w1", u64::MAX), ("w2", u64::MAX)], 5).await;
    assert!(ends.values().all(|end| *end == End::Exited { code: 0 }), "{ends:?}");
}

/// What a node's agent said of why it does not go down was taken for its going down.
#[tokio::test]
async fn a_node_that_does_not_go_down_is_no_node_that_has_gone() {
    let refused = lost("it refuses this head's lead");
    let said = |end: &End| Carried::Said(FromProcess::Ended { end: end.clone() });
    for errand in [Errand::Reboot, Errand::Halt] {
        let (mut person, mut from, to) = Person::new();
        let (say, mut ends) = mpsc::channel(QUEUE);
        let mut running = Running::new(to);
        let _orders = ["w1", "w2", "w3"].map(|node| running.begin(name(node)));
        let killed = End::Killed { signal: 15 };
        for (node, end) in [("w1", Carried::Lost), ("w2", said(&refused)), ("w3", said(&killed))] {
            say.send((name(node), end)).await.expect("room");
        }
        converse(&errand, &mut running, &mut ends, &mut from).await.expect("nobody went away");
        let ends = person.ends(3).await;
        let gone = End::Exited { code: 0 };
        assert_eq!(
            ends,
            BTreeMap::from([(name("w1"), gone.clone()), (name("w2"), refused.clone()), (name("w3"), gone)])
        );
        assert_eq!(running.failed, ["w2"]);
    }
}

/// It was written down that an operator reboots it, and its next boot was expected.
#[tokio::test]
async fn a_node_that_refuses_this_heads_lead_is_told_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = "[cluster]\nname = \"c\"\n[network]\ninterface = \"lo\"\n[roles.r]\nengine = \"none\"\n[nodes.w1]\nmac = \"52:54:00:00:00:01\"\nrole = \"r\"\n";
    let (agents, timeline, _) = parts_of(folder.path(), text, bramble_link::session::Limits::USUAL);
    pretend(&agents, &name("w1"), EngineState::None, |work| panic!("{work:?} is asked"));
    let why = refuses(&agents, &name("w1"));
    for errand in [Errand::Reboot, Errand::Exec { argv: vec!["true".into()], input: false }] {
        let (mut person, mut from, to) = Person::new();
        let run = run(&agents, &errand, vec![name("w1")], &mut from, to);
        let failed =
            timeout(Duration::from_secs(20), run).await.expect("it is not waited for").expect("nobody went away");
        assert_eq!(failed, ["w1"]);
        assert_eq!(person.ends(1).await[&name("w1")], lost(&why));
    }
    let events = timeline.of(&name("w1"), 100);
    assert!(!events.iter().any(|event| event.what.sentence().contains("an operator")), "{events:?}");
}
