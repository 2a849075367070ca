use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn id(n: u8) -> BootId {
    BootId(format!("boot-{n}"))
}

fn digest(n: u8) -> Digest {
    Digest([n; 32])
}

/// One that keeps nothing, on its own place, of a node that was not heard.
fn enrolment(boot: u8, nonce: u8, key: u8) -> Enrolment {
    Enrolment {
        boot: id(boot),
        nonce: digest(nonce),
        fingerprint: format!("key-{key}"),
        keeps: Keeps::Nothing,
        card: Some(CARD),
        heard: Heard { last: None, since: 0 },
    }
}

const CARD: Mac = Mac([2, 0, 0, 0, 0, 1]);

/// A boot that was asked for from the node's own place, with a nonce of the head's.
fn boot(n: u8) -> Served {
    Served { id: id(n), nonce: Some(digest(n)), set: digest(9), card: Some(CARD), by_datagram: false }
}

/// One of a machine that claims it.
fn unclaimed(n: u8) -> Served {
    Served { nonce: None, ..boot(n) }
}

fn heard(last: Millis, enrolment: Enrolment) -> Enrolment {
    Enrolment { heard: Heard { last: Some(last), since: 0 }, ..enrolment }
}

fn keeps(keeps: Keeps, enrolment: Enrolment) -> Enrolment {
    Enrolment { keeps, ..enrolment }
}

fn elsewhere(enrolment: Enrolment) -> Enrolment {
    Enrolment { card: Some(Mac([2, 0, 0, 0, 0, 9])), ..enrolment }
}

fn tpm(endorsement: u8, has_proved: bool) -> Keeps {
    Keeps::Tpm { endorsement: digest(endorsement), has_proved }
}

fn machine(board: Option<&str>, cards: &[u8]) -> Machine {
    let cards = cards.iter().map(|n| Mac([2, 0, 0, 0, 0, *n])).collect();
    Machine { cards, board: board.map(ToOwned::to_owned) }
}

const WIRE: Declared = Declared { admission: Admission::Expected, identity: Identity::Wire };
const KEPT: Declared = Declared { identity: Identity::Kept, ..WIRE };

/// A node that was switched on and asked for its script.
fn switched_on() -> Record {
    let mut record = Record::default();
    record.expect(0, 0);
    record.serve(boot(1), 10, false);
    record
}

/// A node that was let in with this, and is connected.
fn admitted(with: Keeps) -> Record {
    let mut record = switched_on();
    assert_eq!(record.enrol(&keeps(with, enrolment(1, 1, 1)), WIRE), Verdict::Admit);
    record
}

fn asks(verdict: &Verdict, word: &str) -> bool {
    matches!(verdict, Verdict::AskPerson(reason) if reason.contains(word))
}

#[test]
fn a_node_that_was_switched_on_is_let_in_once() {
    let mut record = switched_on();
    assert_eq!(record.enrol(&enrolment(1, 1, 1), WIRE), Verdict::Admit);
    assert_eq!(record.enrol(&enrolment(1, 1, 1), WIRE), Verdict::Admit, "the answer was lost");
    assert!(matches!(record.enrol(&enrolment(1, 1, 2), WIRE), Verdict::Refuse(_)), "another key, same nonce");
}

/// It was expected before the switch was asked, and a switch that never answered left it so.
#[test]
fn a_machine_that_asks_before_its_switch_has_answered_was_switched_on() {
    let mut record = Record::default();
    record.serve(boot(1), 5, false);
    record.serve(boot(2), 11, false);
    record.expect(10, 20);
    assert!(asks(&record.clone().enrol(&enrolment(1, 1, 1), WIRE), "nobody"), "it asked before anyone did anything");
    assert_eq!(record.enrol(&enrolment(2, 2, 1), WIRE), Verdict::Admit);
}

#[test]
fn being_expected_counts_on_the_nodes_own_place_alone() {
    let mut record = switched_on();
    let verdict = record.enrol(&elsewhere(enrolment(1, 1, 1)), WIRE);
    assert!(asks(&verdict, "another card's address"), "{verdict:?}");
    let verdict = record.enrol(&Enrolment { card: None, ..enrolment(1, 1, 1) }, WIRE);
    assert!(asks(&verdict, "behind a router"), "{verdict:?}");
    // Whoever guessed the card's address asked for the script from its own, and sits in the card's place by now.
    record.serve(Served { card: None, ..boot(2) }, 10, false);
    let verdict = record.enrol(&enrolment(2, 2, 1), WIRE);
    assert!(asks(&verdict, "was not asked for from its card's own place"), "{verdict:?}");
    assert_eq!(record.enrol(&enrolment(1, 1, 2), WIRE), Verdict::Admit, "the real one");
}

#[test]
fn a_stranger_to_the_head_waits_for_a_person() {
    let mut record = Record::default();
    record.serve(boot(1), 10, false);
    assert!(asks(&record.enrol(&enrolment(1, 1, 1), WIRE), "nobody switched this node on"));
    record.approve("key-2".into());
    assert!(asks(&record.enrol(&enrolment(1, 1, 1), WIRE), "nobody"), "another key was approved");
    record.approve("key-1".into());
    assert_eq!(record.enrol(&elsewhere(enrolment(1, 1, 1)), WIRE), Verdict::Admit);
    assert_eq!(record.approved, ["key-2"], "an approval is for one admission");
}

/// A GET from anywhere in the house voided the boot of the real machine, and its approval.
#[test]
fn a_later_request_voids_no_boot_and_no_approval() {
    let mut record = switched_on();
    record.approve("key-1".into());
    for n in 2..5 {
        record.serve(boot(n), 20, false);
    }
    assert_eq!(record.approved, ["key-1"]);
    assert_eq!(record.enrol(&enrolment(1, 1, 1), WIRE), Verdict::Admit);
    assert!(matches!(record.enrol(&enrolment(3, 3, 2), WIRE), Verdict::Refuse(_)), "one of them was let in");
}

#[test]
fn boots_and_approvals_do_not_pile_up_and_strangers_push_out_their_own() {
    let mut record = switched_on();
    for n in 100..200 {
        record.serve(Served { card: None, ..boot(n) }, 20, false);
        record.approve(format!("key-{n}"));
    }
    assert_eq!((record.served.len(), record.approved.len()), (MOST_SERVED + 1, MOST_APPROVED));
    assert_eq!(record.clone().enrol(&enrolment(1, 1, 1), WIRE), Verdict::Admit, "the machine itself");
    for n in 2..50 {
        record.serve(boot(n), 20, false);
    }
    assert_eq!(record.served.len(), 2 * MOST_SERVED);
}

#[test]
fn an_agent_of_an_earlier_release_comes_back_as_it_did_then_and_forgets_no_key() {
    // It was let in before anyone said where keys are.
    let mut record = admitted(Keeps::Unsaid);
    record.serve(boot(2), 1000, false);
    assert_eq!(record.enrol(&keeps(Keeps::Unsaid, enrolment(2, 2, 2)), KEPT), Verdict::Admit);
    // With a release that says it, it is known by what it keeps.
    record.serve(boot(3), 2000, false);
    assert_eq!(record.enrol(&keeps(Keeps::Variable, enrolment(3, 3, 3)), KEPT), Verdict::Admit);
    // A person gives it the earlier release again, and then the later one.
    record.serve(boot(4), 3000, false);
    assert!(asks(&record.enrol(&keeps(Keeps::Unsaid, enrolment(4, 4, 4)), KEPT), "another key"));
    record.approve("key-4".into());
    assert_eq!(record.enrol(&keeps(Keeps::Unsaid, enrolment(4, 4, 4)), KEPT), Verdict::Admit);
    record.serve(boot(5), 4000, false);
    assert_eq!(record.enrol(&keeps(Keeps::Variable, enrolment(5, 5, 3)), KEPT), Verdict::Admit, "it is still known");
    let mut new = switched_on();
    assert!(asks(&new.enrol(&keeps(Keeps::Unsaid, enrolment(1, 1, 1)), KEPT), "of a release that does not say"));
}

/// A machine that resets is missed later than it asks, and a head that is started again meanwhile heard nothing of it.
#[test]
fn a_reset_is_a_coming_back_though_the_head_is_started_again() {
    let mut record = admitted(Keeps::Nothing);
    record.serve(boot(2), 1000, true);
    record.is_lost(999);
    let after = |boot| Enrolment { heard: Heard { last: None, since: 2000 }, ..enrolment(boot, boot, 5) };
    assert_eq!(record.clone().enrol(&after(2), WIRE), Verdict::Admit);
    let mut spoofed = admitted(Keeps::Nothing);
    spoofed.serve(boot(2), 1000, true);
    spoofed.is_lost(1500);
    assert!(asks(&spoofed.enrol(&after(2), WIRE), "nobody"), "the node lived on after that");
}

#[test]
fn a_node_on_the_wire_comes_back_after_a_power_cut_and_not_after_it_was_switched_off() {
    let lost = |leaves: bool| {
        let mut record = admitted(Keeps::Nothing);
        if leaves {
            record.leaves();
        }
        record.serve(boot(2), 1000, false);
        record.enrol(&heard(900, enrolment(2, 2, 5)), WIRE)
    };
    assert_eq!(lost(false), Verdict::Admit);
    assert!(asks(&lost(true), "nobody switched this node on"));
}

/// A machine that resets asks for its script before the head has missed it.
#[test]
fn a_reset_is_a_coming_back() {
    let mut record = admitted(Keeps::Nothing);
    record.serve(boot(2), 1000, true);
    assert_eq!(record.enrol(&heard(999, enrolment(2, 2, 5)), WIRE), Verdict::Admit);
}

/// A script that was asked for while the node lived was good as soon as that was switched off.
#[test]
fn a_boot_that_was_asked_for_beside_the_living_node_stays_worthless() {
    let mut record = admitted(Keeps::Nothing);
    record.serve(boot(2), 1000, true);
    for last in [1500, 1000] {
        let verdict = record.enrol(&heard(last, enrolment(2, 2, 5)), WIRE);
        assert!(matches!(verdict, Verdict::Refuse(_)), "heard at {last}: {verdict:?}");
    }
    // The head was killed, and does not know how long it lived.
    let after = Enrolment { heard: Heard { last: None, since: 2000 }, ..enrolment(2, 2, 5) };
    assert!(asks(&record.enrol(&after, WIRE), "nobody switched this node on"));
}

#[test]
fn an_expectation_runs_out() {
    let mut record = Record::default();
    record.expect(0, 0);
    record.serve(boot(1), EXPECTED_FOR + 1, false);
    assert!(asks(&record.enrol(&enrolment(1, 1, 1), WIRE), "nobody"));
}

#[test]
fn a_role_that_wants_a_kept_identity_takes_no_machine_by_its_wire() {
    let mut record = switched_on();
    let verdict = record.enrol(&enrolment(1, 1, 1), KEPT);
    assert!(asks(&verdict, "keeps none"), "{verdict:?}");
    assert!(asks(&record.enrol(&enrolment(1, 1, 1), Declared { admission: Admission::Open, ..KEPT }), "keeps none"));
    assert_eq!(record.enrol(&keeps(Keeps::Variable, enrolment(1, 1, 2)), KEPT), Verdict::Admit);
}

#[test]
fn a_kept_key_is_let_in_at_any_time_and_no_other_one_is() {
    for with in [Keeps::Variable, Keeps::Disk(machine(Some("board"), &[1])), tpm(7, true)] {
        let again = |boot, key| keeps(with.clone(), enrolment(boot, boot, key));
        let mut record = admitted(with.clone());
        record.leaves();
        record.serve(boot(2), EXPECTED_FOR * 2, false);
        let verdict = record.enrol(&again(2, 5), WIRE);
        assert!(asks(&verdict, "another key than the one"), "{with:?}: {verdict:?}");
        assert!(asks(&record.enrol(&enrolment(2, 2, 5), WIRE), "another key than the one"), "{with:?}: nor one unkept");
        let mut open = record.clone();
        let declared = Declared { admission: Admission::Open, ..WIRE };
        assert!(asks(&open.enrol(&again(2, 5), declared), "another key than the one"), "{with:?}");
        assert_eq!(record.enrol(&elsewhere(again(2, 1)), KEPT), Verdict::Admit, "{with:?}: from anywhere");
        // A store that was brought back from a backup knows nothing of this boot.
        assert_eq!(record.enrol(&again(77, 1), KEPT), Verdict::Admit, "{with:?}: in a boot of its own");
        assert_eq!(record.holds(&id(77), "key-1"), Ok(()), "{with:?}");
        // A person has looked: the new key is the one from now on.
        record.serve(boot(3), EXPECTED_FOR * 2, false);
        record.approve("key-5".into());
        assert_eq!(record.enrol(&again(3, 5), KEPT), Verdict::Admit, "{with:?}");
        assert!(matches!(record.enrol(&again(2, 1), KEPT), Verdict::Refuse(_)), "{with:?}: the old key is a stranger");
    }
}

#[test]
fn a_key_that_a_tpm_holds_is_proved_before_it_counts() {
    let mut record = switched_on();
    let before = record.clone();
    assert_eq!(record.enrol(&keeps(tpm(7, false), enrolment(1, 1, 1)), KEPT), Verdict::Prove);
    assert_eq!(record, before);
    assert_eq!(record.enrol(&keeps(tpm(7, true), enrolment(1, 1, 1)), KEPT), Verdict::Admit);
    // Once it is known, the key says it all; what it says of the chip beside changes nothing.
    record.serve(boot(2), 20, false);
    assert_eq!(record.enrol(&keeps(tpm(8, false), enrolment(2, 2, 1)), KEPT), Verdict::Admit);
    assert_eq!(record.kept.as_ref().map(|kept| &kept.by), Some(&identity::By::Tpm { endorsement: digest(7) }));
    record.approve("key-1".into());
    record.serve(boot(4), 25, false);
    assert_eq!(record.enrol(&keeps(tpm(8, false), enrolment(4, 4, 1)), KEPT), Verdict::Admit);
    assert_eq!(record.kept.as_ref().map(|kept| &kept.by), Some(&identity::By::Tpm { endorsement: digest(7) }));
    // Another key is not proved for nothing, and an approved one is proved, too.
    record.serve(boot(3), 30, false);
    assert!(asks(&record.enrol(&keeps(tpm(8, false), enrolment(3, 3, 2)), KEPT), "another key"));
    record.approve("key-2".into());
    assert_eq!(record.enrol(&keeps(tpm(8, false), enrolment(3, 3, 2)), KEPT), Verdict::Prove);
}

#[test]
fn a_disk_in_another_machine_waits_for_a_person() {
    let home = machine(Some("board-1"), &[1, 2]);
    let with = |machine: Machine| keeps(Keeps::Disk(machine), enrolment(2, 2, 1));
    for (place, is_same) in [
        (machine(Some("board-1"), &[1, 2]), true),
        (machine(Some("board-1"), &[2, 3]), true),
        (machine(Some("board-1"), &[3]), false),
        (machine(Some("board-2"), &[1, 2]), false),
        (machine(None, &[1, 2]), false),
    ] {
        let mut record = admitted(Keeps::Disk(home.clone()));
        let verdict = record.enrol(&with(place.clone()), KEPT);
        if is_same {
            assert_eq!(verdict, Verdict::Admit, "{place:?}");
            continue;
        }
        assert!(asks(&verdict, "in another machine"), "{place:?}: {verdict:?}");
        record.approve("key-1".into());
        assert_eq!(record.enrol(&with(place.clone()), KEPT), Verdict::Admit, "{place:?}: a person moved it");
        assert_eq!(record.enrol(&with(place), KEPT), Verdict::Admit, "and there it stays");
    }
    let mut record = admitted(Keeps::Disk(home));
    assert!(asks(&record.enrol(&enrolment(2, 2, 1), KEPT), "not on its disk any more"));
    // Boards without a number are known by all of their cards.
    let mut record = admitted(Keeps::Disk(machine(None, &[1, 2])));
    assert_eq!(record.enrol(&with(machine(None, &[1, 2])), KEPT), Verdict::Admit);
    assert!(asks(&record.enrol(&keeps(Keeps::Disk(machine(None, &[1])), enrolment(3, 3, 1)), KEPT), "another machine"));
}

#[test]
fn where_keys_are_approved_being_switched_on_is_not_enough() {
    let approve = Declared { admission: Admission::Approve, ..WIRE };
    let mut record = switched_on();
    assert!(asks(&record.enrol(&enrolment(1, 1, 1), approve), "a person has to approve"));
    record.approve("key-1".into());
    assert_eq!(record.enrol(&keeps(Keeps::Unsaid, enrolment(1, 1, 1)), approve), Verdict::Admit);
    record.serve(boot(7), 15, false);
    assert_eq!(record.enrol(&keeps(Keeps::Variable, enrolment(7, 7, 1)), approve), Verdict::Admit, "the key of before");
    record.serve(boot(2), 20, false);
    assert!(asks(&record.enrol(&enrolment(2, 2, 2), approve), "another key"));
    assert_eq!(record.enrol(&keeps(Keeps::Variable, enrolment(2, 2, 1)), approve), Verdict::Admit);
}

#[test]
fn an_open_head_lets_every_boot_in_once() {
    let open = Declared { admission: Admission::Open, ..WIRE };
    let mut record = Record::default();
    record.serve(boot(1), 10, false);
    assert!(matches!(record.enrol(&enrolment(1, 2, 1), open), Verdict::Refuse(_)), "a wrong nonce");
    assert_eq!(record.enrol(&enrolment(1, 1, 1), open), Verdict::Admit);
    assert!(matches!(record.enrol(&enrolment(1, 1, 2), open), Verdict::Refuse(_)), "another key");
}

#[test]
fn a_certificate_counts_for_the_key_and_the_boot_that_were_admitted_last() {
    let mut record = Record::default();
    assert!(record.holds(&id(1), "key-1").is_err(), "it was never admitted, or was revoked");
    record = admitted(Keeps::Nothing);
    assert_eq!(record.holds(&id(1), "key-1"), Ok(()));
    assert!(record.holds(&id(1), "key-2").is_err());
    assert!(record.holds(&id(2), "key-1").is_err());
    record.serve(boot(2), 20, false);
    assert_eq!(record.holds(&id(1), "key-1"), Ok(()), "nobody has taken its place yet");
    assert_eq!(record.enrol(&enrolment(2, 2, 2), WIRE), Verdict::Admit);
    assert!(record.holds(&id(1), "key-1").is_err(), "someone has");
}

#[test]
fn a_boot_is_its_machines_that_claims_it_first_and_from_its_own_place() {
    let mut record = Record::default();
    record.expect(0, 0);
    record.serve(unclaimed(1), 1, false);
    let before = record.clone();
    let thief = Some(Mac([2, 0, 0, 0, 0, 9]));
    for place in [thief, None] {
        assert_eq!(record.claim(&id(1), digest(7), digest(70), place), Err(NotGiven::Elsewhere));
    }
    assert_eq!(record.claim(&id(2), digest(7), digest(70), Some(CARD)), Err(NotGiven::Unknown));
    assert_eq!(record, before, "who is refused changes nothing");
    assert!(matches!(record.enrol(&enrolment(1, 7, 1), WIRE), Verdict::Refuse(_)), "nobody has claimed it");
    assert!(record.may_report(&id(1), None, Some(CARD)), "that it cannot claim it, say");
    assert_eq!(record.claim(&id(1), digest(3), digest(30), Some(CARD)), Ok(()));
    assert!(!record.may_report(&id(1), None, Some(CARD)) && record.may_report(&id(1), Some(digest(30)), Some(CARD)));
    assert_eq!(
        record.claim(&id(1), digest(4), digest(40), Some(CARD)),
        Err(NotGiven::Taken),
        "as a container there does"
    );
    assert_eq!(record.claim(&id(1), digest(3), digest(31), Some(CARD)), Ok(()), "its answer was lost");
    assert!(
        !record.may_report(&id(1), Some(digest(30)), Some(CARD))
            && record.may_report(&id(1), Some(digest(31)), Some(CARD))
    );
    assert!(matches!(record.enrol(&enrolment(1, 4, 1), WIRE), Verdict::Refuse(_)));
    assert_eq!(record.enrol(&enrolment(1, 3, 1), WIRE), Verdict::Admit);
    assert!(!record.may_report(&id(1), Some(digest(31)), Some(CARD)), "its agent speaks now");
    assert_eq!(record.claim(&id(1), digest(3), digest(30), Some(CARD)), Err(NotGiven::Unknown), "it is over");
}

/// A datagram in a machine's name begins a boot, too: sixteen of them pushed out the one that the machine was in.
#[test]
fn forged_datagrams_push_out_their_own_boots_and_none_that_was_claimed() {
    let mut record = Record::default();
    record.serve(unclaimed(1), 1, false);
    record.serve(Served { by_datagram: true, ..unclaimed(2) }, 1, false);
    assert_eq!(record.claim(&id(2), digest(2), digest(20), Some(CARD)), Ok(()), "as a Raspberry Pi does");
    for n in 100..200 {
        record.serve(Served { by_datagram: true, ..unclaimed(n) }, 2, false);
    }
    assert_eq!(record.claim(&id(1), digest(1), digest(10), Some(CARD)), Ok(()), "over TCP, nobody forges its place");
    assert!(record.may_report(&id(2), Some(digest(20)), Some(CARD)));
    assert!(record.served.len() <= 2 + MOST_SERVED);
}

#[test]
fn nobody_says_from_elsewhere_how_a_boot_goes() {
    let mut record = Record::default();
    record.serve(Served { card: None, ..unclaimed(1) }, 1, false);
    assert!(record.may_report(&id(1), None, None), "behind a relay nobody can tell");
    record.serve(unclaimed(2), 2, false);
    assert!(!record.may_report(&id(1), None, None), "the machine itself is here");
    assert!(record.may_report(&id(2), None, Some(CARD)));
    assert!(!record.may_report(&id(2), None, None) && !record.may_report(&id(2), None, Some(Mac([2, 0, 0, 0, 0, 9]))));
}

#[test]
fn a_boot_whose_nonce_the_head_has_told_is_claimed_by_nobody() {
    let mut record = switched_on();
    assert_eq!(record.claim(&id(1), digest(1), digest(30), Some(CARD)), Err(NotGiven::Taken));
    assert!(record.may_report(&id(1), None, Some(CARD)));
}

/// What happens around one node, and what anyone says in its name. Key 0 is the machine's own, which nobody else has.
#[derive(Debug, Clone)]
enum Event {
    Expect,
    Approve(u8),
    Serve { is_connected: bool, from_own: bool, claims: bool },
    Claim { boot: u8, nonce: u8, own_place: bool },
    Leaves,
    Restart,
    Enrol { boot: u8, nonce: u8, key: u8, keeps: u8, own_place: bool, heard: Option<u8> },
}

fn event() -> impl Strategy<Value = Event> {
    let serve = |(is_connected, from_own, claims)| Event::Serve { is_connected, from_own, claims };
    prop_oneof![
        Just(Event::Expect),
        (0..4_u8).prop_map(Event::Approve),
        any::<(bool, bool, bool)>().prop_map(serve),
        (0..4_u8, 0..4_u8, any::<bool>()).prop_map(|(boot, nonce, own_place)| Event::Claim { boot, nonce, own_place }),
        Just(Event::Leaves),
        Just(Event::Restart),
        (0..5_u8, 0..5_u8, 0..4_u8, 0..5_u8, any::<bool>(), prop::option::of(0..10_u8)).prop_map(
            |(boot, nonce, key, keeps, own_place, heard)| Event::Enrol { boot, nonce, key, keeps, own_place, heard }
        ),
    ]
}

fn kinds(n: u8) -> Keeps {
    match n {
        0 => Keeps::Nothing,
        1 => Keeps::Variable,
        2 => Keeps::Disk(machine(Some("board"), &[1])),
        3 => Keeps::Disk(machine(Some("other"), &[2])),
        _ => tpm(7, true),
    }
}

/// What is known of a boot beside the record.
#[derive(Debug, Clone, Copy)]
struct Handed {
    at: Millis,
    /// The nonce that it is bound to.
    nonce: Option<u8>,
    from_own: bool,
    /// Someone had switched the node on by then, or it was one that was let in and that nobody had switched off.
    has_cause: bool,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
    /// Over any sequence of events, nobody is let in
    /// - with a nonce that is not the one that its boot was handed out with, or claimed with first, from its place; but
    ///   with the key that the node is known by;
    /// - with a new key, where its boot had no cause, before a person approved that key;
    /// - with a new key, where the node is known by one, before a person approved that key;
    /// - with a boot that was handed out before the node was last heard.
    ///
    /// And after it a key that a person has approved is let in, and then that one again where it is kept.
    #[test]
    fn nobody_gets_in_by_anything_that_was_ever_said(
        events in prop::collection::vec(event(), 0..60),
        is_kept in any::<bool>(),
    ) {
        let declared = if is_kept { KEPT } else { WIRE };
        let mut record = Record::default();
        let (mut served, mut since, mut now) = (5_u8, 0, 0);
        let mut handed: Vec<Option<Handed>> = vec![None; 256];
        let mut approved: BTreeSet<u8> = BTreeSet::new();
        let (mut is_expected, mut is_here) = (false, false);
        for event in events {
            now += 1;
            match event {
                Event::Expect => { record.expect(now, now); is_expected = true; }
                Event::Approve(key) => { record.approve(format!("key-{key}")); approved.insert(key); }
                Event::Leaves => { record.leaves(); is_here = false; }
                Event::Restart => since = now,
                Event::Serve { is_connected, from_own, claims } => {
                    served += 1;
                    // Each boot has its own id, and its nonce where the head draws it.
                    let (card, nonce) = (from_own.then_some(CARD), (!claims).then_some(served));
                    let has_cause = is_expected || is_here;
                    handed[usize::from(served)] = Some(Handed { at: now, nonce, from_own, has_cause });
                    record.serve(Served { card, nonce: nonce.map(digest), ..boot(served) }, now, is_connected);
                }
                Event::Claim { boot, nonce, own_place } => {
                    let boot = served - boot;
                    let before = record.clone();
                    let claimed = record.claim(&id(boot), digest(nonce), digest(200), own_place.then_some(CARD));
                    let Some(of) = &mut handed[usize::from(boot)] else { prop_assert!(claimed.is_err()); continue };
                    if claimed.is_ok() {
                        prop_assert!(own_place || !of.from_own);
                        prop_assert!(of.nonce.is_none_or(|first| first == nonce));
                        of.nonce = Some(nonce);
                    } else {
                        prop_assert_eq!(&record, &before);
                    }
                }
                Event::Enrol { boot, nonce, key, keeps, own_place, heard } => {
                    let boot = served - boot;
                    // A small one is of a claim, the others are the head's own.
                    let nonce = if nonce < 4 { nonce } else { boot };
                    let last = heard.map(|ago| now.saturating_sub(ago.into()));
                    let said = Enrolment {
                        keeps: kinds(keeps),
                        card: own_place.then_some(CARD),
                        heard: Heard { last, since },
                        ..enrolment(boot, nonce, key)
                    };
                    let before = record.clone();
                    let again = before.holds(&said.boot, &said.fingerprint).is_ok();
                    let verdict = record.enrol(&said, declared);
                    if verdict != Verdict::Admit {
                        prop_assert_eq!(&record, &before, "who is not let in changes nothing");
                        continue;
                    }
                    let knows = before.kept.as_ref().is_some_and(|kept| kept.fingerprint == said.fingerprint);
                    if !again && !knows {
                        prop_assert!(before.served.iter().any(|known| known.id == said.boot));
                        let of = handed[usize::from(boot)].expect("it was handed out");
                        prop_assert_eq!(of.nonce, Some(nonce));
                        prop_assert!(last.is_none_or(|last| last < of.at));
                        let has_approval = approved.remove(&key);
                        let by_wire = of.has_cause && of.from_own && own_place && before.kept.is_none();
                        prop_assert!(has_approval || by_wire);
                        prop_assert!(has_approval || !is_kept || said.keeps != Keeps::Nothing);
                    }
                    if !again {
                        approved.remove(&key);
                        is_expected = false;
                        is_here = true;
                    }
                }
            }
            let stored = serde_json::to_string(&record).expect("plain data");
            prop_assert_eq!(&serde_json::from_str::<Record>(&stored).expect("reads back"), &record);
        }
        let own = |boot: u8, kept: Keeps| keeps(kept, enrolment(boot, boot, 9));
        record.approve("key-9".into());
        record.serve(boot(250), now + 1, true);
        prop_assert_eq!(record.enrol(&own(250, kinds(2)), declared), Verdict::Admit);
        record.serve(Served { card: None, ..boot(251) }, now + 2, true);
        prop_assert_eq!(record.enrol(&heard(now + 9, own(251, kinds(2))), declared), Verdict::Admit, "it is known now");
    }
}
