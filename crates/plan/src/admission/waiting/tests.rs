use std::collections::{BTreeMap, BTreeSet};

use bramble_model::names::Digest;
use bramble_model::repository::{Admission, Identity};
use proptest::prelude::*;

use super::super::{Declared, Enrolment, Heard, Keeps, Record, Served, Verdict};
use super::*;
use crate::admission::Cause;

const CARD: Mac = Mac([2, 0, 0, 0, 0, 1]);
const ELSEWHERE: Mac = Mac([2, 0, 0, 0, 0, 9]);

fn id(n: u8) -> BootId {
    BootId(format!("boot-{n}"))
}

fn draw(n: u8) -> Draw {
    Draw { nonce: Digest([n; 32]), ca: Digest([7; 32]) }
}

fn boot(n: u8, at: Millis) -> Boot {
    let (report, nonce) = (None, Some(Digest([n; 32])));
    let cause = Cause::Unknown;
    Boot { id: id(n), nonce, report, set: Digest([9; 32]), at, cause, card: Some(CARD), by_datagram: false }
}

/// A key, in a boot, from the card's own place.
struct Machine {
    key: String,
    boot: Boot,
    card: Mac,
}

impl Machine {
    fn own(key: &str, n: u8, at: Millis) -> Self {
        Machine { key: key.into(), boot: boot(n, at), card: CARD }
    }

    fn elsewhere(key: &str, n: u8, at: Millis) -> Self {
        Machine { card: ELSEWHERE, ..Machine::own(key, n, at) }
    }

    fn asks(&self, waiting: &mut Waiting, nonce: u8, now: Millis) -> Told {
        let asks = Asks {
            fingerprint: &self.key,
            boot: Some(&self.boot),
            id: &self.boot.id,
            address: [10, 0, 0, 5].into(),
            card: Some(self.card),
            shows_digits: true,
        };
        waiting.asks(&asks, draw(nonce), now)
    }
}

fn digits(key: &str, nonce: u8) -> Digits {
    Digits::of(key, &draw(nonce))
}

const SECOND: Millis = 1000;
const MINUTE: Millis = 60 * SECOND;

#[test]
fn the_key_whose_digits_are_typed_is_the_one_and_has_one_try() {
    let mut waiting = Waiting::default();
    let (own, thief) = (Machine::own("own", 1, 5), Machine::own("thief", 2, 5));
    assert_eq!(own.asks(&mut waiting, 1, 10), Told::Waits(draw(1)));
    assert_eq!(thief.asks(&mut waiting, 2, 11), Told::Waits(draw(2)));
    assert_eq!(own.asks(&mut waiting, 3, 12), Told::Waits(draw(1)), "it keeps what was drawn for it");
    assert_eq!(waiting.clone().types(digits("own", 1), 20), Ok("own".into()));
    assert_eq!(waiting.types(digits("own", 3), 20), Err(NotThese::Wrong { used_up: 2 }), "that was never told");
    assert_eq!(waiting.types(digits("own", 1), 21), Err(NotThese::NobodyShows), "one try");
    assert_eq!(own.asks(&mut waiting, 4, 30), Told::Spent);
    // Its machine is started again, with another key or with the one that it keeps.
    assert_eq!(Machine::own("newer", 3, 40).asks(&mut waiting, 5, 41), Told::Waits(draw(5)));
    assert_eq!(Machine::own("own", 4, 50).asks(&mut waiting, 6, 51), Told::Waits(draw(6)), "another nonce");
    assert_eq!(waiting.clone().types(digits("own", 1), 52), Err(NotThese::Wrong { used_up: 2 }));
    assert_eq!(waiting.types(digits("own", 6), 52), Ok("own".into()));
}

#[test]
fn a_key_keeps_its_digits_over_boots_and_is_forgotten_when_it_is_gone() {
    let mut waiting = Waiting::default();
    assert_eq!(Machine::own("own", 1, 5).asks(&mut waiting, 1, 10), Told::Waits(draw(1)));
    assert_eq!(Machine::own("own", 2, 20).asks(&mut waiting, 2, 30), Told::Waits(draw(1)));
    assert_eq!(waiting.types(digits("own", 1), 30 + GONE_AFTER), Err(NotThese::NobodyShows), "it is gone");
    assert_eq!(waiting.keys(30 + GONE_AFTER).count(), 0);
    assert_eq!(Machine::own("own", 2, 20).asks(&mut waiting, 3, 30 + GONE_AFTER), Told::Waits(draw(3)));
}

#[test]
fn a_person_who_approves_the_key_itself_takes_a_wrong_number_back() {
    let mut waiting = Waiting::default();
    let own = Machine::own("own", 1, 5);
    own.asks(&mut waiting, 1, 10);
    waiting.types(digits("own", 9), 11).expect_err("wrong");
    assert_eq!(waiting.keys(12).map(|(_, is_spent)| is_spent).collect::<Vec<_>>(), [true]);
    waiting.lifts("own");
    assert_eq!(own.asks(&mut waiting, 2, 12), Told::Waits(draw(1)));
    assert_eq!(waiting.types(digits("own", 1), 13), Ok("own".into()));
}

/// An agent of a release before shows its key, and whatever digits it would have are on no console.
#[test]
fn a_machine_that_shows_no_digits_is_let_in_by_none() {
    let mut waiting = Waiting::default();
    let handed = boot(1, 5);
    let (address, card) = ([10, 0, 0, 5].into(), Some(CARD));
    let asks = Asks { fingerprint: "old", boot: Some(&handed), id: &handed.id, address, card, shows_digits: false };
    waiting.asks(&asks, draw(1), 10);
    assert_eq!(waiting.types(digits("old", 1), 11), Err(NotThese::NobodyShows));
    assert_eq!(waiting.keys(11).count(), 1, "it is listed");
}

#[test]
fn two_machines_with_the_same_digits_are_both_let_in_by_none() {
    // Two of many that happen to agree: the bound on what waits is not what this is about.
    let mut seen: BTreeMap<Digits, u32> = BTreeMap::new();
    let (one, two) = (0..)
        .find_map(|n| seen.insert(digits(&format!("key-{n}"), 1), n).map(|before| (before, n)))
        .expect("there are a million");
    let mut waiting = Waiting::default();
    for (n, boot) in [(one, 1), (two, 2)] {
        Machine::own(&format!("key-{n}"), boot, 5).asks(&mut waiting, 1, 10);
    }
    assert_eq!(waiting.types(digits(&format!("key-{one}"), 1), 11), Err(NotThese::Twice));
    assert_eq!(waiting.types(digits(&format!("key-{one}"), 1), 11), Err(NotThese::NobodyShows));
}

#[test]
fn strangers_elsewhere_take_no_room_of_the_machine_in_its_own_place() {
    let mut waiting = Waiting::default();
    for n in 0..100 {
        let told = Machine::elsewhere(&format!("thief-{n}"), n, 5).asks(&mut waiting, n, 10);
        assert_eq!(told == Told::Full, usize::from(n) >= MOST_WAITING, "{n}");
    }
    assert_eq!(Machine::own("own", 200, 5).asks(&mut waiting, 200, 11), Told::Waits(draw(200)));
    // One that comes into the place later has the room that it took before.
    for n in 0..100 {
        Machine::own(&format!("thief-{n}"), n, 5).asks(&mut waiting, n, 12);
    }
    assert!(waiting.keys.len() <= 2 * MOST_WAITING);
    assert_eq!(waiting.types(digits("own", 200), 13), Ok("own".into()));
    assert_eq!(waiting.keys(13).filter(|(key, _)| key.fingerprint == "own").count(), 1);
}

#[test]
fn a_board_that_is_power_cycled_is_let_in_a_minute_later() {
    let mut waiting = Waiting::default();
    let before = Machine::own("before", 1, 5);
    for at in [10, 25, 40] {
        assert!(matches!(before.asks(&mut waiting, 1, at * SECOND), Told::Waits(_)));
    }
    waiting.press(45 * SECOND);
    // It has not been switched off yet.
    assert!(matches!(before.asks(&mut waiting, 1, 55 * SECOND), Told::Waits(_)));
    let after = Machine::own("after", 2, 70 * SECOND);
    assert_eq!(after.asks(&mut waiting, 2, 90 * SECOND), Told::Held { seconds: 60 });
    assert_eq!(after.asks(&mut waiting, 2, 149 * SECOND), Told::Held { seconds: 1 });
    assert_eq!(after.asks(&mut waiting, 2, 150 * SECOND), Told::Pressed);
}

#[test]
fn a_press_lets_nobody_in_who_was_there_before_or_comes_from_elsewhere_or_too_late() {
    let mut waiting = Waiting::default();
    waiting.press(10 * SECOND);
    for (machine, why) in [
        (Machine::own("a", 1, 5 * SECOND), "its boot began before"),
        (Machine::own("b", 2, 10 * SECOND), "in the same moment"),
        (Machine::elsewhere("c", 3, 20 * SECOND), "from elsewhere"),
    ] {
        let mut alone = waiting.clone();
        for minute in 1..5 {
            let told = machine.asks(&mut alone, 1, minute * MINUTE);
            assert!(matches!(told, Told::Waits(_)), "{why}: {told:?}");
        }
    }
    let foreign = Boot { card: None, ..boot(4, 20 * SECOND) };
    let machine = Machine { boot: foreign, ..Machine::own("d", 4, 0) };
    assert!(
        matches!(machine.asks(&mut waiting.clone(), 1, MINUTE), Told::Waits(_)),
        "handed out to somebody elsewhere"
    );
    let late = Machine::own("e", 5, 20 * SECOND);
    let told = late.asks(&mut waiting.clone(), 1, 10 * SECOND + PRESSED_FOR + 1);
    assert!(matches!(told, Told::Waits(_)), "{told:?}");
    assert_eq!(waiting.pressed_until(MINUTE), Some(10 * SECOND + PRESSED_FOR));
    assert_eq!(waiting.pressed_until(MINUTE + PRESSED_FOR), None);
}

#[test]
fn two_machines_in_the_place_of_a_pressed_board_are_both_refused() {
    // Each way in which a second one shows, before or after the board has come.
    let second: [(&str, Machine, Millis); 4] = [
        ("one that has not gone away", Machine::own("thief", 1, 5), 80),
        ("one that boots beside it", Machine::own("thief", 3, 75 * SECOND), 95),
        ("one from elsewhere", Machine::elsewhere("thief", 3, 75 * SECOND), 95),
        ("an old one that speaks again", Machine::own("thief", 1, 5), 120),
    ];
    for (why, thief, at) in second {
        let mut waiting = Waiting::default();
        Machine::own("before", 9, 5).asks(&mut waiting, 9, 20 * SECOND);
        waiting.press(45 * SECOND);
        let board = Machine::own("board", 2, 70 * SECOND);
        let mut asked: Vec<(Millis, &Machine)> = [90, 105, 120, 135, 150, 165].map(|at| (at, &board)).into();
        asked.push((at, &thief));
        asked.push((at + 15, &thief));
        asked.sort_by_key(|(at, _)| *at);
        for (at, machine) in asked {
            let told = machine.asks(&mut waiting, 1, at * SECOND);
            assert_ne!(told, Told::Pressed, "{why}: {} at {at}", machine.key);
        }
        assert_eq!(waiting.pressed_until(170 * SECOND), None, "{why}: a person is to ask again");
    }
}

/// With all the room taken, one more is no less a second machine.
#[test]
fn a_crowd_hides_no_second_machine_from_a_press() {
    let mut waiting = Waiting::default();
    for n in 0..8 {
        Machine::elsewhere(&format!("silent-{n}"), n, 5).asks(&mut waiting, n, 44 * SECOND);
    }
    waiting.press(45 * SECOND);
    assert_eq!(Machine::elsewhere("thief", 20, 5).asks(&mut waiting, 20, 80 * SECOND), Told::Full);
    let board = Machine::own("board", 21, 70 * SECOND);
    for at in [90, 120, 150, 180] {
        assert!(matches!(board.asks(&mut waiting, 21, at * SECOND), Told::Waits(_)), "at {at}");
    }
}

#[test]
fn who_was_let_in_ends_what_others_waited_for() {
    let mut waiting = Waiting::default();
    Machine::own("a", 1, 5).asks(&mut waiting, 1, 10);
    waiting.press(11);
    waiting.types(digits("b", 1), 12).expect_err("wrong");
    waiting.is_over();
    assert!(waiting.is_empty());
}

/// What happens around one node whose keys are always approved. Key 0 is the machine's own, which nobody else has.
#[derive(Debug, Clone)]
enum Event {
    /// Its board is power-cycled, and boots with the key that it keeps or with a new one.
    Boots,
    /// The machine's agent asks.
    Asks,
    /// The person types what is on its console.
    Types,
    /// The person mistypes.
    Mistypes(u8),
    /// A stranger gets a boot handed out, in the machine's place or not.
    Serve { own_place: bool },
    /// A stranger asks with a key of its own, in any boot.
    Stranger { key: u8, boot: u8, own_place: bool },
    /// Seconds go by.
    Wait(u16),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => Just(Event::Boots),
        4 => Just(Event::Asks),
        2 => Just(Event::Types),
        1 => any::<u8>().prop_map(Event::Mistypes),
        2 => any::<bool>().prop_map(|own_place| Event::Serve { own_place }),
        6 => (1..30_u8, 0..6_u8, any::<bool>()).prop_map(|(key, boot, own_place)| Event::Stranger { key, boot, own_place }),
        2 => (0..300_u16).prop_map(Event::Wait),
    ]
}

/// The record of the node and what waits there, as the head goes from one to the other.
struct House {
    record: Record,
    waiting: Waiting,
    /// What was drawn last, and boots that were handed out.
    number: u32,
    boots: Vec<Served>,
    now: Millis,
}

impl House {
    fn serve(&mut self, card: Option<Mac>) -> Served {
        self.number += 1;
        let id = BootId(format!("boot-{}", self.number));
        let nonce = Some(Digest([self.number as u8; 32]));
        let served = Served { id, nonce, set: Digest([9; 32]), card, by_datagram: false };
        self.record.serve(served.clone(), self.now, false);
        self.boots.push(served.clone());
        served
    }

    /// As the head does it; what the agent is told, or that it is let in.
    fn enrol(&mut self, key: &str, boot: &Served, card: Mac) -> Option<Told> {
        let enrolment = Enrolment {
            boot: boot.id.clone(),
            nonce: boot.nonce.expect("drawn"),
            fingerprint: key.into(),
            keeps: Keeps::Nothing,
            card: Some(card),
            heard: Heard { last: None, since: 0 },
        };
        let declared = Declared { admission: Admission::Approve, identity: Identity::Wire };
        match self.record.enrol(&enrolment, declared) {
            Verdict::Admit => {
                self.waiting.is_over();
                None
            }
            Verdict::AskPerson(_) => {
                self.number += 1;
                let mut nonce = [0; 32];
                nonce[..4].copy_from_slice(&self.number.to_be_bytes());
                let handed = self.record.handed_out(&boot.id).cloned();
                let asks = Asks {
                    fingerprint: key,
                    boot: handed.as_ref(),
                    id: &boot.id,
                    address: [10, 0, 0, 5].into(),
                    card: Some(card),
                    shows_digits: true,
                };
                let draw = Draw { nonce: Digest(nonce), ca: Digest([7; 32]) };
                Some(self.waiting.asks(&asks, draw, self.now))
            }
            Verdict::Prove | Verdict::Refuse(_) => Some(Told::Full),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]
    /// Over any sequence of what is said on the wire, with boots and nonces of everyone's in everyone's hands, no key gets in
    /// but one whose own digits a person has typed; and the machine's own key does by what its console shows, where no
    /// stranger's happens to have the same.
    #[test]
    fn nobody_gets_in_without_the_digits_by_any_sequence_of_what_was_ever_on_the_wire(
        events in prop::collection::vec(event(), 0..80),
        keeps_key in any::<bool>(),
    ) {
        let (record, waiting) = (Record::default(), Waiting::default());
        let mut house = House { record, waiting, number: 0, boots: Vec::new(), now: 1000 };
        let (mut own_boot, mut life) = (house.serve(Some(CARD)), 0);
        let mut console: Option<Digits> = None;
        // What was typed for whom: the digits of every key that was ever told some.
        let mut told: BTreeMap<String, BTreeSet<Digits>> = BTreeMap::new();
        let mut typed: BTreeSet<Digits> = BTreeSet::new();
        let mut strangers: BTreeMap<String, Draw> = BTreeMap::new();
        for event in events {
            house.now += 1;
            let own_key = if keeps_key { "own".to_owned() } else { format!("own-{life}") };
            match event {
                Event::Boots => {
                    life += 1;
                    console = None;
                    own_boot = house.serve(Some(CARD));
                }
                Event::Asks => match house.enrol(&own_key, &own_boot, CARD) {
                    Some(Told::Waits(draw)) => {
                        let digits = Digits::of(&own_key, &draw);
                        told.entry(own_key).or_default().insert(digits);
                        console = Some(digits);
                    }
                    Some(_) => console = None,
                    None => prop_assert!(!told.get(&own_key).map_or(&BTreeSet::new(), |own| own).is_disjoint(&typed)),
                },
                Event::Types => {
                    let Some(digits) = console else { continue };
                    typed.insert(digits);
                    let fits = house.waiting.types(digits, house.now);
                    let is_shared = strangers.iter().any(|(key, draw)| Digits::of(key, draw) == digits);
                    if let Ok(key) = fits {
                        prop_assert!(key.starts_with("own") || is_shared, "{key}");
                        house.record.approve(key);
                    }
                }
                Event::Mistypes(n) => {
                    let digits = Digits::of("nobody's", &draw(n));
                    typed.insert(digits);
                    if let Ok(key) = house.waiting.types(digits, house.now) {
                        house.record.approve(key);
                    }
                }
                Event::Serve { own_place } => drop(house.serve(own_place.then_some(CARD))),
                Event::Stranger { key, boot, own_place } => {
                    // It has seen all that was ever handed out, the machine's own boot with it.
                    let at = house.boots.len().saturating_sub(1 + usize::from(boot));
                    let (key, boot) = (format!("stranger-{key}"), house.boots[at].clone());
                    match house.enrol(&key, &boot, if own_place { CARD } else { ELSEWHERE }) {
                        Some(Told::Waits(draw)) => {
                            told.entry(key.clone()).or_default().insert(Digits::of(&key, &draw));
                            strangers.insert(key, draw);
                        }
                        Some(told) => prop_assert!(told != Told::Pressed),
                        None => {
                            let own = told.get(&key).cloned().unwrap_or_default();
                            prop_assert!(!own.is_disjoint(&typed), "{key} was let in, and nobody had typed its digits");
                        }
                    }
                }
                Event::Wait(seconds) => house.now += Millis::from(seconds) * SECOND,
            }
            let stored = serde_json::to_string(&house.waiting).expect("plain data");
            prop_assert_eq!(&serde_json::from_str::<Waiting>(&stored).expect("reads back"), &house.waiting);
            prop_assert!(house.waiting.keys.len() <= 2 * MOST_WAITING && house.waiting.spent.len() <= MOST_SPENT);
        }
        // After all of it, in a quiet hour: the board is started once more, and its digits let it in.
        house.now += GONE_AFTER;
        let boot = house.serve(Some(CARD));
        let Some(Told::Waits(draw)) = house.enrol("own-at-last", &boot, CARD) else {
            return Err(TestCaseError::fail("it is told its digits"));
        };
        let key = house.waiting.types(Digits::of("own-at-last", &draw), house.now);
        prop_assert_eq!(key.as_deref(), Ok("own-at-last"));
        house.record.approve("own-at-last".into());
        prop_assert_eq!(house.enrol("own-at-last", &boot, CARD), None);
    }
}
