use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { greeting: 20, silence: 30, sending: 20, beat: 10 };

/// A session with somebody who is watched.
fn watched(now: Millis) -> Session {
    let mut session = Session::new(LIMITS, now);
    session.greeted();
    session.watch(now);
    session
}

#[test]
fn a_stranger_does_not_buy_time_by_talking() {
    let mut session = Session::new(LIMITS, 5);
    session.heard(24);
    session.watch(24);
    assert_eq!((session.deadline(), session.expired(24), session.beats(24)), (25, None, false));
    assert_eq!(session.expired(25), Some(Why::NoGreeting { limit: 20 }));
}

#[test]
fn who_promised_nothing_may_be_silent_for_ever() {
    let mut session = Session::new(LIMITS, 0);
    session.greeted();
    assert!(session.beats(1_000_000));
    assert_eq!((session.expired(1_000_000), session.deadline()), (None, 1_000_010));
}

#[test]
fn who_takes_nothing_is_gone_whatever_it_says() {
    let mut session = watched(0);
    session.sending(3);
    for now in 3..23 {
        session.heard(now);
        // What is behind it has no time of its own.
        session.sending(now);
        assert_eq!((session.expired(now), session.deadline()), (None, 23));
    }
    session.heard(23);
    assert_eq!(session.expired(23), Some(Why::TakesNothing { limit: 20 }));
}

#[test]
fn the_earliest_limit_is_the_reason() {
    let mut session = watched(0);
    session.sending(15);
    assert_eq!(session.expired(1_000), Some(Why::Silent { limit: 30 }));
    session.heard(16);
    assert_eq!(session.expired(1_000), Some(Why::TakesNothing { limit: 20 }));
}

#[test]
fn it_beats_once_each_time_and_not_over_what_is_leaving() {
    let mut session = watched(0);
    assert!(!session.beats(9) && session.beats(10) && !session.beats(10));
    session.sending(11);
    assert!(!session.beats(25), "it is saying something");
    session.sent();
    assert!(session.beats(25), "late, and once");
    assert!(!session.beats(34) && session.beats(35));
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Greeted,
    Watch,
    Heard,
    Sending,
    Sent,
    /// The socket loop wakes up.
    Wakes,
}

fn events() -> impl Strategy<Value = Vec<(Millis, Event)>> {
    let event = prop_oneof![
        Just(Event::Greeted),
        Just(Event::Watch),
        Just(Event::Heard),
        Just(Event::Sending),
        Just(Event::Sent),
        Just(Event::Wakes),
    ];
    prop::collection::vec((0..15 as Millis, event), 0..60)
}

/// What the limits demand, kept beside the session and in the plainest way.
#[derive(Debug, Default)]
struct Seen {
    greeted: bool,
    /// The last that was heard of one that is watched.
    heard: Option<Millis>,
    leaving: Option<Millis>,
}

impl Seen {
    fn event(&mut self, event: Event, now: Millis) {
        match event {
            Event::Greeted => self.greeted = true,
            Event::Watch if self.greeted && self.heard.is_none() => self.heard = Some(now),
            Event::Heard if self.heard.is_some() => self.heard = Some(now),
            Event::Sending if self.leaving.is_none() => self.leaving = Some(now),
            Event::Sent => self.leaving = None,
            Event::Watch | Event::Heard | Event::Sending | Event::Wakes => {}
        }
    }

    /// When it has to be over.
    fn end(&self) -> Option<Millis> {
        let greeting = (!self.greeted).then_some(LIMITS.greeting);
        let silence = self.heard.map(|at| at + LIMITS.silence);
        let sending = self.leaving.map(|at| at + LIMITS.sending);
        [greeting, silence, sending].into_iter().flatten().min()
    }
}

fn apply(session: &mut Session, event: Event, now: Millis) {
    match event {
        Event::Greeted => session.greeted(),
        Event::Watch => session.watch(now),
        Event::Heard => session.heard(now),
        Event::Sending => session.sending(now),
        Event::Sent => session.sent(),
        Event::Wakes => {}
    }
}

proptest! {
    /// Whatever happens in whatever order: it ends exactly when a limit is over, the deadline is never later than
    /// that, and one that has come is done with when the loop has woken: it does not wake again for the same.
    #[test]
    fn the_deadline_is_in_time_and_does_not_stay(events in events()) {
        let (mut session, mut seen, mut now) = (Session::new(LIMITS, 0), Seen::default(), 0);
        for (later, event) in events {
            now += later;
            apply(&mut session, event, now);
            seen.event(event, now);
            let end = seen.end();
            prop_assert_eq!(session.expired(now).is_some(), end.is_some_and(|end| end <= now));
            prop_assert!(end.is_none_or(|end| session.deadline() <= end));
            if session.expired(now).is_some() {
                return Ok(());
            }
            let due = session.deadline() <= now;
            prop_assert_eq!(session.beats(now), due, "nothing but an end or a beat is waited for");
            prop_assert!(session.deadline() > now);
            prop_assert!(session.deadline() < Millis::MAX, "there is always something to wait for");
        }
    }

    /// It speaks and takes what it is told in time: it stays.
    #[test]
    fn who_goes_on_talking_stays(steps in prop::collection::vec((0..LIMITS.sending, any::<bool>()), 0..100)) {
        let (mut session, mut now) = (watched(0), 0);
        for (later, told) in steps {
            if told {
                session.sending(now);
            }
            now += later;
            prop_assert_eq!(session.expired(now), None);
            session.sent();
            session.heard(now);
            session.beats(now);
        }
    }

    /// A loop that sleeps until the deadline, and does nothing else, ends what is silent, and at its limit.
    #[test]
    fn sleeping_until_the_deadline_is_enough(begin in 0..1_000 as Millis, sending in prop::option::of(0..29 as Millis)) {
        let mut session = watched(begin);
        let limit = sending.map_or(LIMITS.silence, |at| LIMITS.silence.min(at + LIMITS.sending));
        let mut sending = sending.map(|at| begin + at);
        for _ in 0..20 {
            let now = session.deadline().min(sending.unwrap_or(Millis::MAX));
            if sending.take_if(|at| *at <= now).is_some() {
                session.sending(now);
            }
            if session.expired(now).is_some() {
                prop_assert_eq!(now, begin + limit);
                return Ok(());
            }
            session.beats(now);
        }
        prop_assert!(false, "it never ended");
    }
}
