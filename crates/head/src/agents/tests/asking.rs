//! Agents that ask to be let in and wait for a person; and requests that somebody has seen and says again.

use bramble_model::agent::{Binding, EnrolRequest};
use bramble_model::digits::{Digits, Draw};
use rcgen::Attribute;
use serde_json::Value;

use super::*;

/// Every key waits for a person.
const REPOSITORY: &str = "[cluster]\nname = \"c\"\nadmission = \"approve\"\n[network]\ninterface = \"lo\"\n\
    [roles.r]\nengine = \"none\"\n[nodes.w1]\nmac = \"52:54:00:00:00:01\"\nrole = \"r\"\n";

/// A machine with a key of its own, in a boot that it was given.
struct Machine {
    key: KeyPair,
    boot: BootId,
}

impl Machine {
    fn boots(agents: &Agents, boot: &str) -> Self {
        let machine = Machine { key: KeyPair::generate().expect("a key"), boot: BootId(boot.to_owned()) };
        let nonce = Some(Digest(Sha256::digest("00ff").into()));
        let served = Served { id: machine.boot.clone(), nonce, set: Digest([1; 32]), card: None, by_datagram: false };
        admissions::change(&agents.store, &node(1), |record| record.serve(served.clone(), 1, false)).expect("written");
        machine
    }

    /// Its request for a certificate, for the connection whose binding this is.
    fn request(&self, binding: Option<&Binding>) -> EnrolRequest {
        let attributes = binding.map(|binding| {
            let text = binding.to_string();
            let values = [&[0x31, 66, 0x0c, 64], text.as_bytes()].concat();
            Attribute { oid: &[1, 2, 840, 113_549, 1, 9, 7], values }
        });
        let csr =
            CertificateParams::default().serialize_request_with_attributes(&self.key, attributes.into_iter().collect());
        EnrolRequest {
            node: node(1),
            boot: self.boot.clone(),
            nonce: "00ff".into(),
            csr: csr.and_then(|csr| csr.pem()).expect("a request"),
            keeps: agent::Keeps::Nothing,
            shows_digits: true,
        }
    }

    fn fingerprint(&self) -> String {
        RequestedKey::of(&self.request(None).csr).expect("a key").fingerprint()
    }
}

fn binding(lines: &Lines) -> Binding {
    let exported = lines.get_ref().get_ref().1.export_keying_material([0; 32], Binding::LABEL, None);
    Binding(exported.expect("TLS is up"))
}

async fn answer(lines: &mut Lines, request: &EnrolRequest) -> Value {
    lines.send(serde_json::to_string(request).expect("plain data")).await.expect("it is connected");
    serde_json::from_str(&lines.next().await.expect("an answer").expect("a line")).expect("JSON")
}

/// What the head answers to a machine that asks over a connection of its own.
async fn asks(agents: &Agents, address: SocketAddr, machine: &Machine) -> Value {
    let mut lines = dial(agents, address, None).await;
    let request = machine.request(Some(&binding(&lines)));
    answer(&mut lines, &request).await
}

fn draw(answer: &Value) -> Option<Draw> {
    answer.get("draw").map(|draw| serde_json::from_value(draw.clone()).expect("a draw"))
}

#[tokio::test]
async fn a_machine_is_let_in_by_the_digits_on_its_console_and_a_wrong_number_uses_them_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let agents = agents_of(folder.path(), REPOSITORY, LIMITS);
    let address = listening(&agents).await;
    let machine = Machine::boots(&agents, "1");
    let first = draw(&asks(&agents, address, &machine).await).expect("it waits");
    assert_eq!(first.ca, agents.authority.digest());
    assert_eq!(draw(&asks(&agents, address, &machine).await), Some(first), "the same, each time");
    let listed = admissions::waiting(&agents.store, &node(1)).expect("read");
    let keys: Vec<_> = listed.keys(now()).map(|(key, _)| (key.fingerprint.clone(), key.address)).collect();
    assert_eq!(keys, [(machine.fingerprint(), Ipv4Addr::LOCALHOST.into())]);
    let digits = Digits::of(&machine.fingerprint(), &first);
    let wrong = ["000000", "000001"].map(|text| text.parse::<Digits>().expect("digits"));
    let wrong = wrong.into_iter().find(|wrong| *wrong != digits).expect("one of two");
    assert_eq!(agents.approve_shown(&node(1), wrong).expect("written"), Err(NotThese::Wrong { used_up: 1 }));
    assert_eq!(agents.approve_shown(&node(1), digits).expect("written"), Err(NotThese::NobodyShows), "one try");
    let told = asks(&agents, address, &machine).await;
    assert_eq!(draw(&told), None);
    assert!(told["refused"].as_str().is_some_and(|why| why.contains("other digits were typed")), "{told}");
    // It is started again, beside a stranger.
    let (machine, stranger) = (Machine::boots(&agents, "2"), Machine::boots(&agents, "3"));
    let second = draw(&asks(&agents, address, &machine).await).expect("it waits");
    let strangers = draw(&asks(&agents, address, &stranger).await).expect("it waits");
    assert_ne!(second.nonce, strangers.nonce);
    let typed = agents.approve_shown(&node(1), Digits::of(&machine.fingerprint(), &second)).expect("written");
    assert_eq!(typed, Ok(machine.fingerprint()));
    assert!(asks(&agents, address, &stranger).await.get("refused").is_some());
    assert!(asks(&agents, address, &machine).await.get("certificate").is_some(), "let in");
    assert!(admissions::waiting(&agents.store, &node(1)).expect("read").is_empty(), "nobody else is meant");
    assert!(asks(&agents, address, &stranger).await.get("refused").is_some());
}

/// An agent of the release before knows no digits, and is approved by its key.
#[tokio::test]
async fn an_agent_that_shows_no_digits_is_told_none_and_is_approved_by_its_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let agents = agents_of(folder.path(), REPOSITORY, LIMITS);
    let address = listening(&agents).await;
    let machine = Machine::boots(&agents, "1");
    let old = EnrolRequest { shows_digits: false, ..machine.request(None) };
    let said = serde_json::to_string(&old).expect("plain data");
    assert!(!said.contains("digits"), "as it said it: {said}");
    let told = answer(&mut dial(&agents, address, None).await, &old).await;
    assert!(draw(&told).is_none() && told["refused"].as_str().is_some_and(|why| why.contains(&machine.fingerprint())));
    let key = agents.timeline.look(&node(1), |track| track.pending.clone()).flatten().expect("it waits");
    assert_eq!((key.key, key.shows_digits), (machine.fingerprint(), false));
    agents.approve(&node(1), &machine.fingerprint()).expect("written");
    let told = answer(&mut dial(&agents, address, None).await, &old).await;
    assert!(told.get("certificate").is_some(), "{told}");
}

/// Whoever is the head for once, or reads its memory, has a request that a key has signed.
#[tokio::test]
async fn a_request_that_was_seen_is_worth_nothing_over_another_connection() {
    let folder = tempfile::tempdir().expect("a folder");
    let agents = agents_of(folder.path(), &REPOSITORY.replace("approve", "open"), LIMITS);
    let address = listening(&agents).await;
    let machine = Machine::boots(&agents, "1");
    let mut seen = dial(&agents, address, None).await;
    let request = machine.request(Some(&binding(&seen)));
    let mut thief = dial(&agents, address, None).await;
    let told = answer(&mut thief, &request).await;
    assert!(told["refused"].as_str().is_some_and(|why| why.contains("of another connection")), "{told}");
    assert_eq!(admissions::of(&agents.store, &node(1)).expect("read").admitted, None);
    assert!(answer(&mut seen, &request).await.get("certificate").is_some(), "its own");
    // One of the release before is for no connection.
    let old = Machine::boots(&agents, "2");
    let told = answer(&mut dial(&agents, address, None).await, &old.request(None)).await;
    assert!(told.get("certificate").is_some(), "{told}");
}

/// As a first one is: whoever has a node's certificate and its key's old words is not that node for longer.
#[tokio::test]
async fn a_renewal_that_was_seen_is_worth_nothing_over_another_connection() {
    let folder = tempfile::tempdir().expect("a folder");
    let agents = agents_of(folder.path(), REPOSITORY, LIMITS);
    let address = listening(&agents).await;
    let key = KeyPair::generate().expect("a key");
    let (mut lines, hello, _, key) = connect_with(&agents, address, &node(1), key).await;
    say(&mut lines, &hello).await;
    assert!(matches!(hear(&mut lines).await, Some(ToAgent::Document(_))));
    let machine = Machine { key, boot: BootId("1".into()) };
    let renew = |binding: Binding| FromAgent::Renew { csr: machine.request(Some(&binding)).csr };
    let own = renew(binding(&lines));
    say(&mut lines, &own).await;
    assert!(matches!(hear(&mut lines).await, Some(ToAgent::Renewed(_))));
    say(&mut lines, &renew(Binding([7; 32]))).await;
    assert_eq!(end_of(&agents, &node(1)).await, "its request for a certificate is of another connection");
}

/// The board has come after `--press`, and is held.
fn held(agents: &Agents) {
    agents.approve_pressed(&node(1)).expect("written").expect("it has a place of its own");
    let card = Some(bramble_model::names::Mac([2, 0, 0, 0, 0, 1]));
    let handed = admission::Boot {
        id: BootId("board".into()),
        nonce: None,
        report: None,
        set: Digest([1; 32]),
        at: now() + 1,
        cause: admission::Cause::Unknown,
        card,
        by_datagram: false,
    };
    let asks = Asks {
        fingerprint: "board",
        boot: Some(&handed),
        id: &handed.id,
        address: Ipv4Addr::LOCALHOST.into(),
        card,
        shows_digits: true,
        claimed_beside: None,
    };
    let draw = Draw { nonce: Digest([2; 32]), ca: agents.authority.digest() };
    let asked = admissions::change_waiting(&agents.store, &node(1), |waiting| waiting.asks(&asks, draw, now()));
    assert!(matches!(asked.expect("written").told, Told::Held { .. }));
}

#[tokio::test]
async fn another_machine_ends_a_press_also_where_it_is_refused_and_that_is_told_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let agents = agents_of(folder.path(), REPOSITORY, LIMITS);
    let address = listening(&agents).await;
    let told = || {
        let events = agents.timeline.of(&node(1), 100);
        events.iter().filter(|event| matches!(&event.what, What::Note { text } if text == PRESS_ENDS)).count()
    };
    let waiting = Machine::boots(&agents, "1");
    let guesses = Machine { key: KeyPair::generate().expect("a key"), boot: BootId("guessed".into()) };
    for (times, other) in [(1, &guesses), (2, &waiting)] {
        held(&agents);
        for _ in 0..2 {
            assert!(asks(&agents, address, other).await.get("refused").is_some());
        }
        assert_eq!(told(), times);
        let left = admissions::waiting(&agents.store, &node(1)).expect("read");
        assert_eq!(left.pressed_until(now()), None, "a person is to ask again");
    }
}

#[tokio::test]
async fn no_board_behind_a_relay_is_let_in_by_a_press() {
    let folder = tempfile::tempdir().expect("a folder");
    let subnets = "[network]\ndhcp = \"full\"\nsubnet = \"10.77.0.0/24\"\npool = \"10.77.0.100-10.77.0.199\"\n";
    let attic = "[network.subnets.attic]\nsubnet = \"10.78.0.0/24\"\npool = \"10.78.0.100-10.78.0.199\"\n\
                 router = \"10.78.0.1\"\n[roles.r]\n";
    let text = REPOSITORY.replace("[network]\n", subnets).replace("[roles.r]\n", attic);
    let text = text + "address = \"10.78.0.12\"\n[nodes.w2]\nmac = \"52:54:00:00:00:02\"\nrole = \"r\"\n";
    let agents = agents_of(folder.path(), &text, LIMITS);
    assert_eq!(agents.approve_pressed(&node(1)).expect("read"), Err(Ipv4Addr::new(10, 78, 0, 1)));
    agents.approve_pressed(&node(2)).expect("written").expect("it is on the head's own wire");
}

/// It kept its node out, and its node in the store.
#[tokio::test]
async fn keys_that_wait_and_cannot_be_read_keep_no_machine_out_and_no_node_in() {
    let folder = tempfile::tempdir().expect("a folder");
    let agents = agents_of(folder.path(), REPOSITORY, LIMITS);
    let address = listening(&agents).await;
    let lose = || {
        let (table, key) = (bramble_store::Table::new("waiting-keys"), node(1).to_string().as_str().into());
        let lost = bramble_store::Write::Put { table, key, bytes: b"9 {}".to_vec() };
        agents.store.blocking().commit(&[], &[lost]).expect("written");
        assert!(admissions::waiting(&agents.store, &node(1)).is_err());
    };
    let machine = Machine::boots(&agents, "1");
    lose();
    draw(&asks(&agents, address, &machine).await).expect("it waits");
    lose();
    agents.approve(&node(1), &machine.fingerprint()).expect("written");
    lose();
    assert!(asks(&agents, address, &machine).await.get("certificate").is_some(), "let in");
    assert!(admissions::waiting(&agents.store, &node(1)).expect("read").is_empty());
    lose();
    admissions::forget(&agents.store, &node(1)).expect("written");
    assert!(!admissions::known_nodes(&agents.store).expect("read").contains(&node(1)));
}
