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
    address: IpAddr,
    claimed_beside: Option<Millis>,
}

impl Machine {
    fn own(key: &str, n: u8, at: Millis) -> Self {
        let (key, boot) = (key.into(), boot(n, at));
        Machine { key, boot, card: CARD, address: [10, 0, 0, 5].into(), claimed_beside: None }
    }

    fn elsewhere(key: &str, n: u8, at: Millis) -> Self {
        Machine { card: ELSEWHERE, address: [10, 0, 1, n].into(), ..Machine::own(key, n, at) }
    }

    fn asks(&self, waiting: &mut Waiting, nonce: u8, now: Millis) -> Told {
        self.asks_with(waiting, draw(nonce), now).told
    }

    fn asks_with(&self, waiting: &mut Waiting, draw: Draw, now: Millis) -> Asked {
        let asks = Asks {
            fingerprint: &self.key,
            boot: Some(&self.boot),
            id: &self.boot.id,
            address: self.address,
            card: Some(self.card),
            shows_digits: true,
            claimed_beside: self.claimed_beside,
        };
        waiting.asks(&asks, draw, now)
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
    let (fingerprint, shows_digits, claimed_beside) = ("old", false, None);
    let asks = Asks { fingerprint, boot: Some(&handed), id: &handed.id, address, card, shows_digits, claimed_beside };
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

/// One machine behind the router of the node's own subnet had all the room that the node could have.
#[test]
fn a_stranger_elsewhere_takes_two_places_and_no_room_of_another_one_there() {
    let mut waiting = Waiting::default();
    let strangers_are =
        |n| Machine { address: [10, 0, 2, 1].into(), ..Machine::elsewhere(&format!("thief-{n}"), n, 5) };
    for n in 0..20 {
        let told = strangers_are(n).asks(&mut waiting, n, 10);
        assert_eq!(told == Told::Full, usize::from(n) >= MOST_OF_ONE, "{n}");
    }
    assert_eq!(Machine::elsewhere("relayed", 30, 5).asks(&mut waiting, 30, 11), Told::Waits(draw(30)));
    // In the node's own place all have the node's address.
    for n in 40..48 {
        assert_eq!(Machine::own(&format!("own-{n}"), n, 5).asks(&mut waiting, n, 12), Told::Waits(draw(n)));
    }
}

/// It had no digits for ever: its agent shows none of a CA that it does not trust.
#[test]
fn a_key_that_waits_while_the_ca_is_rotated_has_digits_of_the_new_one() {
    let mut waiting = Waiting::default();
    let own = Machine::own("own", 1, 5);
    assert_eq!(own.asks(&mut waiting, 1, 10), Told::Waits(draw(1)));
    let rotated = Draw { ca: Digest([8; 32]), ..draw(2) };
    let told = |waiting: &mut Waiting, draw, now| own.asks_with(waiting, draw, now).told;
    assert_eq!(told(&mut waiting, rotated, 20), Told::Waits(rotated));
    assert_eq!(told(&mut waiting, Draw { ca: Digest([8; 32]), ..draw(3) }, 30), Told::Waits(rotated), "and keeps them");
    assert_eq!(waiting.types(Digits::of("own", &rotated), 31), Ok("own".into()));
}

#[test]
fn a_board_that_is_power_cycled_is_let_in_five_minutes_later() {
    let mut waiting = Waiting::default();
    let before = Machine::own("before", 1, 5);
    for at in [10, 25, 40] {
        assert!(matches!(before.asks(&mut waiting, 1, at * SECOND), Told::Waits(_)));
    }
    waiting.press(45 * SECOND);
    // It has not been switched off yet.
    assert!(matches!(before.asks(&mut waiting, 1, 55 * SECOND), Told::Waits(_)));
    let after = Machine::own("after", 2, 70 * SECOND);
    assert_eq!(after.asks(&mut waiting, 2, 90 * SECOND), Told::Held { seconds: 300 });
    assert_eq!(after.asks(&mut waiting, 2, 389 * SECOND), Told::Held { seconds: 1 });
    assert_eq!(after.asks(&mut waiting, 2, 390 * SECOND), Told::Pressed);
}

/// Its firmware tests its memory: it comes in the last moment, and is held then, too.
#[test]
fn a_board_that_comes_late_after_a_press_has_its_time() {
    let mut waiting = Waiting::default();
    waiting.press(0);
    let board = Machine::own("board", 2, PRESSED_FOR - MINUTE);
    assert_eq!(board.asks(&mut waiting, 2, PRESSED_FOR), Told::Held { seconds: 300 });
    assert_eq!(waiting.pressed_until(PRESSED_FOR + HELD_FOR), Some(PRESSED_FOR));
    assert_eq!(board.asks(&mut waiting.clone(), 2, PRESSED_FOR + HELD_FOR), Told::Pressed);
    let late = board.asks(&mut waiting, 2, PRESSED_FOR + HELD_FOR + 1);
    assert!(matches!(late, Told::Waits(_)), "{late:?}");
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
        let mut asked: Vec<(Millis, &Machine)> = (0..30).map(|n| (90 + 15 * n, &board)).collect();
        asked.push((at, &thief));
        asked.push((at + 15, &thief));
        asked.sort_by_key(|(at, _)| *at);
        let mut ends = 0;
        for (at, machine) in asked {
            let asked = machine.asks_with(&mut waiting, draw(1), at * SECOND);
            assert_ne!(asked.told, Told::Pressed, "{why}: {} at {at}", machine.key);
            ends += usize::from(asked.ends_press);
        }
        assert_eq!(ends, 1, "{why}: that is told once");
        assert_eq!(waiting.pressed_until(170 * SECOND), None, "{why}: a person is to ask again");
    }
}

/// One that is refused waits for nobody, and was no second machine.
#[test]
fn one_that_is_refused_or_has_claimed_a_boot_is_a_second_machine_to_a_press() {
    let board = Machine::own("board", 2, 70 * SECOND);
    let held = |waiting: &mut Waiting| {
        waiting.press(45 * SECOND);
        assert!(!waiting.turned_away("before", true, 50 * SECOND), "it has not been switched off yet");
        assert!(!waiting.turned_away("board", false, 80 * SECOND), "it has yet to prove where its key is");
        assert_eq!(board.asks(waiting, 2, 90 * SECOND), Told::Held { seconds: 300 });
        assert!(!waiting.turned_away("board", false, 91 * SECOND));
    };
    for is_refused in [true, false] {
        let mut waiting = Waiting::default();
        held(&mut waiting);
        assert!(waiting.turned_away("thief", is_refused, 100 * SECOND));
        assert!(!waiting.turned_away("thief", is_refused, 115 * SECOND), "once");
        assert!(matches!(board.asks(&mut waiting, 2, 400 * SECOND), Told::Waits(_)));
    }
    // Before the board has come, and after its boot began.
    let mut waiting = Waiting::default();
    waiting.press(45 * SECOND);
    assert!(!waiting.turned_away("thief", true, 80 * SECOND));
    assert!(board.asks_with(&mut waiting, draw(2), 90 * SECOND).ends_press);
    // It has claimed a boot, and keeps silent.
    let mut waiting = Waiting::default();
    held(&mut waiting);
    let beside = |at| Machine { claimed_beside: Some(at), ..Machine::own("board", 2, 70 * SECOND) };
    assert_eq!(beside(45 * SECOND).asks(&mut waiting.clone(), 2, 390 * SECOND), Told::Pressed, "before the question");
    let asked = beside(60 * SECOND).asks_with(&mut waiting, draw(2), 390 * SECOND);
    assert!(asked.ends_press && matches!(asked.told, Told::Waits(_)), "{asked:?}");
}

/// A slow board comes when the stranger that it finds there is listed no more.
#[test]
fn one_that_asked_after_the_boot_began_and_went_is_a_second_machine_to_a_press() {
    let mut waiting = Waiting::default();
    waiting.press(45 * SECOND);
    let (board, thief) = (Machine::own("board", 2, 70 * SECOND), Machine::elsewhere("thief", 1, 5));
    thief.asks(&mut waiting, 1, 80 * SECOND);
    assert!(board.asks_with(&mut waiting, draw(2), 90 * SECOND + GONE_AFTER).ends_press);
}

#[test]
fn the_newest_boot_that_a_machine_has_claimed_at_the_nodes_own_place_is_found() {
    let (claimed, report) = (|n, at| Boot { report: Some(Digest([8; 32])), ..boot(n, at) }, None);
    let foreign = Boot { card: None, ..claimed(4, 40) };
    let served = [claimed(1, 10), claimed(2, 20), claimed(3, 30), foreign, Boot { report, ..boot(5, 50) }];
    let record = Record { served: served.into(), ..Record::default() };
    assert_eq!(claimed_beside(&record, &id(3)), Some(20));
    assert_eq!(claimed_beside(&record, &id(2)), Some(30));
    assert_eq!(claimed_beside(&Record::default(), &id(2)), None);
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
    for at in [90, 240, 390, 540] {
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
    /// A stranger asks in a boot that nobody has handed out.
    Guesses { key: u8 },
    /// The person power-cycles the board, as they have told the head.
    Presses,
    /// The machine's agent asks, every 15 s for six minutes.
    AsksOn,
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
        2 => (1..30_u8).prop_map(|key| Event::Guesses { key }),
        1 => Just(Event::Presses),
        2 => Just(Event::AsksOn),
        2 => (0..400_u16).prop_map(Event::Wait),
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
    /// When the board was power-cycled, and who has asked since, whatever came of it.
    pressed: Option<Millis>,
    asked: Vec<(Millis, String)>,
    /// Keys that a press has let in: each may come back.
    let_in: BTreeSet<String>,
}

impl House {
    fn press(&mut self) {
        self.waiting.press(self.now);
        (self.pressed, self.asked) = (Some(self.now), Vec::new());
    }

    /// What a press has let in is alone in the node's own place, since its boot began.
    fn was_alone(&self, key: &str, boot: &Boot, card: Mac) -> bool {
        let first = self.asked.iter().find(|(_, other)| other == key).map(|(at, _)| *at);
        self.pressed.is_some_and(|pressed| boot.at > pressed)
            && (boot.card, card) == (Some(CARD), CARD)
            && first.is_some_and(|first| first + HELD_FOR <= self.now)
            && self.asked.iter().all(|(at, other)| other == key || *at < boot.at)
    }

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
        self.asked.push((self.now, key.to_owned()));
        match self.record.enrol(&enrolment, declared) {
            Verdict::Admit => {
                self.waiting.is_over();
                self.pressed = None;
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
                    claimed_beside: claimed_beside(&self.record, &boot.id),
                };
                let draw = Draw { nonce: Digest(nonce), ca: Digest([7; 32]) };
                let told = self.waiting.asks(&asks, draw, self.now).told;
                if told == Told::Pressed {
                    let handed = handed.expect("it was handed out");
                    assert!(self.was_alone(key, &handed, card), "{key} was let in by a press, and was not alone");
                    self.record.approve(key.to_owned());
                    assert_eq!(self.record.enrol(&enrolment, declared), Verdict::Admit);
                    self.waiting.is_over();
                    self.pressed = None;
                    self.let_in.insert(key.to_owned());
                }
                Some(told)
            }
            Verdict::Prove | Verdict::Refuse(_) => {
                self.waiting.turned_away(key, true, self.now);
                Some(Told::Full)
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]
    /// Over any sequence of what is said on the wire, with boots and nonces of everyone's in everyone's hands, no key gets in
    /// but one whose own digits a person has typed, or that was alone in the place of the board that a person has
    /// power-cycled; and the machine's own key does by what its console shows, where no stranger's happens to have the same.
    #[test]
    fn nobody_gets_in_without_the_digits_by_any_sequence_of_what_was_ever_on_the_wire(
        events in prop::collection::vec(event(), 0..80),
        keeps_key in any::<bool>(),
    ) {
        let (record, waiting) = (Record::default(), Waiting::default());
        let (boots, asked, let_in) = (Vec::new(), Vec::new(), BTreeSet::new());
        let mut house = House { record, waiting, number: 0, boots, now: 1000, pressed: None, asked, let_in };
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
                Event::Boots | Event::Presses => {
                    if matches!(event, Event::Presses) {
                        house.press();
                        house.now += 1;
                    }
                    life += 1;
                    console = None;
                    own_boot = house.serve(Some(CARD));
                }
                Event::Asks | Event::AsksOn => {
                    let times = if matches!(event, Event::AsksOn) { 25 } else { 1 };
                    for time in 0..times {
                        house.now += if time > 0 { 15 * SECOND } else { 0 };
                        match house.enrol(&own_key, &own_boot, CARD) {
                            Some(Told::Waits(draw)) => {
                                let digits = Digits::of(&own_key, &draw);
                                told.entry(own_key.clone()).or_default().insert(digits);
                                console = Some(digits);
                            }
                            Some(_) => console = None,
                            None => {
                                let own = told.get(&own_key).cloned().unwrap_or_default();
                                prop_assert!(house.let_in.contains(&own_key) || !own.is_disjoint(&typed));
                            }
                        }
                    }
                }
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
                        Some(_) => {}
                        None => {
                            let own = told.get(&key).cloned().unwrap_or_default();
                            let by_press = house.let_in.contains(&key);
                            prop_assert!(by_press || !own.is_disjoint(&typed), "{key}: nobody had typed its digits");
                        }
                    }
                }
                Event::Guesses { key } => {
                    let (id, nonce) = (BootId("guessed".into()), Some(Digest([0; 32])));
                    let guessed = Served { id, nonce, set: Digest([9; 32]), card: None, by_datagram: false };
                    prop_assert_eq!(house.enrol(&format!("stranger-{key}"), &guessed, ELSEWHERE), Some(Told::Full));
                }
                Event::Wait(seconds) => house.now += Millis::from(seconds) * SECOND,
            }
            let stored = serde_json::to_string(&house.waiting).expect("plain data");
            prop_assert_eq!(&serde_json::from_str::<Waiting>(&stored).expect("reads back"), &house.waiting);
            prop_assert!(house.waiting.keys.len() <= 2 * MOST_WAITING && house.waiting.spent.len() <= MOST_SPENT);
        }
        // After all of it, in a quiet hour: the board is started once more, and its digits let it in.
        house.now += PRESSED_FOR + HELD_FOR + GONE_AFTER;
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
