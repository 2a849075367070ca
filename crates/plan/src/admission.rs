//! One node's boots: who may boot, and which boot's agent is let in.
//!
//! ```text
//!                    script asked                    enrol: right boot, right nonce,
//!   ┌──────────┐  (new boot and nonce)  ┌────────┐   expected, and no one else here   ┌──────────┐
//!   │   Idle   │ ─────────────────────▶ │ Served │ ─────────────────────────────────▶ │ Admitted │
//!   └──────────┘                        └────────┘                                    └──────────┘
//!                                        ▲      ▲  script asked: the old nonce is void    │
//!                                        └──────┴──────────────────────────────────────────┘
//! ```
//! A nonce is good for one enrolment. A boot is *expected* when the head switched the node on,
//! when an operator said so, or when a node that was here before comes back after its connection
//! was lost (a power cut, a reboot). Anything else waits for an operator, who sees the key's
//! fingerprint. That is [`Admission::Expected`]; with [`Admission::Approve`] only a key that an operator
//! approved is let in, and with [`Admission::Open`] every boot that was handed out. A MAC address alone admits nobody: while the admitted machine is alive, a second
//! one with its address is refused.

use bramble_model::names::{BootId, Digest};
use bramble_model::repository::Admission;
use bramble_model::timeline::Millis;
use serde::{Deserialize, Serialize};

/// How long a node that was switched on is expected, in milliseconds. Firmware of servers may
/// test its memory for minutes.
pub const EXPECTED_FOR: Millis = 30 * 60 * 1000;

/// What the store keeps of a node's boots.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Record {
    pub state: State,
    /// A boot is expected until then: someone switched the node on.
    pub expected_until: Option<Millis>,
    /// It has been admitted at least once.
    pub known: bool,
    /// The key of the last admission, by fingerprint.
    pub fingerprint: Option<String>,
    /// A key that an operator approved for the boot that waits.
    pub approved: Option<String>,
}

/// Where the node's present boot stands.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum State {
    #[default]
    Idle,
    Served(Boot),
    Admitted(Boot),
}

/// A boot that was handed out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    pub id: BootId,
    /// SHA-256 of the nonce: the nonce itself is not kept.
    pub nonce: Digest,
    /// The boot set that it was given.
    pub set: Digest,
    pub at: Millis,
    /// It was expected when it was handed out.
    pub expected: bool,
}

/// What an agent presents.
#[derive(Debug, Clone)]
pub struct Enrolment {
    pub boot: BootId,
    /// SHA-256 of the nonce it sent.
    pub nonce: Digest,
    pub fingerprint: String,
    /// When an agent of this node was last heard over an admitted connection.
    pub last_heard: Option<Millis>,
}

/// Whether the agent is let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Admit,
    /// Not now and not later: the sentence says why.
    Refuse(String),
    /// When an operator approves this key.
    AskOperator(String),
}

impl Record {
    pub fn boot(&self) -> Option<&Boot> {
        match &self.state {
            State::Idle => None,
            State::Served(boot) | State::Admitted(boot) => Some(boot),
        }
    }

    /// The head or an operator switched the node on, or asked a person to. Gives the time until which its boot is
    /// expected.
    pub fn expect(&mut self, now: Millis) -> Millis {
        let until = now + EXPECTED_FOR;
        self.expected_until = Some(until);
        until
    }

    /// Nothing was switched on after all: what was expected before `until` was said is what is expected.
    pub fn take_back(&mut self, until: Millis, before: Option<Millis>) {
        if self.expected_until == Some(until) {
            self.expected_until = before;
        }
    }

    /// An operator approves a key for the present boot.
    pub fn approve(&mut self, fingerprint: String) {
        self.approved = Some(fingerprint);
    }

    /// The node asks for its boot script and is given `id`.
    pub fn serve(&mut self, id: BootId, nonce: Digest, set: Digest, now: Millis) {
        let switched_on = self.expected_until.is_some_and(|until| now <= until);
        // An expectation stays until someone is admitted on it: firmware may ask twice.
        self.state = State::Served(Boot { id, nonce, set, at: now, expected: switched_on || self.known });
        self.approved = None;
    }

    /// Whether a certificate for this key still counts, on a connection of this boot.
    ///
    /// # Errors
    /// Why not.
    pub fn holds(&self, boot: &BootId, fingerprint: &str) -> Result<(), &'static str> {
        if self.fingerprint.as_deref() != Some(fingerprint) {
            return Err("its certificate was revoked");
        }
        match &self.state {
            State::Admitted(admitted) if admitted.id == *boot => Ok(()),
            // A later boot was handed out; while that one is not admitted, this machine is still the
            // node, and its being heard is what keeps a second one out.
            State::Served(_) if self.known => Ok(()),
            _ => Err("its boot is not the admitted one"),
        }
    }

    /// An agent asks to be let in. Admission changes the record; the caller stores it first.
    pub fn enrol(&mut self, enrolment: &Enrolment, admission: Admission) -> Verdict {
        let boot = match &self.state {
            State::Idle => return Verdict::Refuse("this node was not given a boot".into()),
            State::Admitted(boot) if boot.id == enrolment.boot => {
                return if self.fingerprint.as_deref() == Some(enrolment.fingerprint.as_str())
                    && boot.nonce == enrolment.nonce
                {
                    // The answer was lost on its way: the same key asks again.
                    Verdict::Admit
                } else {
                    Verdict::Refuse("the nonce of this boot has been used".into())
                };
            }
            State::Served(boot) | State::Admitted(boot) => boot.clone(),
        };
        if boot.id != enrolment.boot {
            return Verdict::Refuse("a later boot of this node has taken its place".into());
        }
        if boot.nonce != enrolment.nonce {
            return Verdict::Refuse("the nonce is not the one of this boot".into());
        }
        // In the same millisecond counts, too: firmware takes far longer than that from its last word as the old boot
        // to its first as the new one.
        if enrolment.last_heard.is_some_and(|heard| heard >= boot.at) {
            return Verdict::Refuse("the admitted machine is still alive: another one uses its MAC address".into());
        }
        let is = |key: &Option<String>| key.as_deref() == Some(enrolment.fingerprint.as_str());
        match admission {
            _ if is(&self.approved) => {}
            Admission::Open => {}
            Admission::Expected if boot.expected => {}
            Admission::Expected => {
                return Verdict::AskOperator("nobody switched this node on: `bramble node approve` lets it in".into());
            }
            // A key that was approved once, and lies on the node's data partition.
            Admission::Approve if is(&self.fingerprint) => {}
            Admission::Approve => {
                return Verdict::AskOperator(
                    "an operator has to approve its key: `bramble node approve` lets it in".into(),
                );
            }
        }
        self.state = State::Admitted(boot);
        self.known = true;
        self.expected_until = None;
        self.approved = None;
        self.fingerprint = Some(enrolment.fingerprint.clone());
        Verdict::Admit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(n: u8) -> BootId {
        BootId(format!("boot-{n}"))
    }

    fn digest(n: u8) -> Digest {
        Digest([n; 32])
    }

    fn enrolment(boot: u8, nonce: u8, key: u8) -> Enrolment {
        Enrolment { boot: id(boot), nonce: digest(nonce), fingerprint: format!("key-{key}"), last_heard: None }
    }

    #[test]
    fn a_node_that_was_switched_on_is_let_in_once() {
        let mut record = Record::default();
        record.expect(0);
        record.serve(id(1), digest(1), digest(9), 10);
        assert_eq!(record.enrol(&enrolment(1, 1, 1), Admission::Expected), Verdict::Admit);
        assert_eq!(record.enrol(&enrolment(1, 1, 1), Admission::Expected), Verdict::Admit, "the answer was lost");
        assert!(
            matches!(record.enrol(&enrolment(1, 1, 2), Admission::Expected), Verdict::Refuse(_)),
            "another key, same nonce"
        );
    }

    #[test]
    fn a_stranger_to_the_head_waits_for_an_operator() {
        let mut record = Record::default();
        record.serve(id(1), digest(1), digest(9), 10);
        assert!(matches!(record.enrol(&enrolment(1, 1, 1), Admission::Expected), Verdict::AskOperator(_)));
        record.approve("key-2".into());
        assert!(
            matches!(record.enrol(&enrolment(1, 1, 1), Admission::Expected), Verdict::AskOperator(_)),
            "another key was approved"
        );
        record.approve("key-1".into());
        assert_eq!(record.enrol(&enrolment(1, 1, 1), Admission::Expected), Verdict::Admit);
    }

    #[test]
    fn a_node_comes_back_after_a_power_cut() {
        let mut record = Record { known: true, ..Record::default() };
        record.serve(id(2), digest(2), digest(9), 1000);
        let enrolment = Enrolment { last_heard: Some(900), ..enrolment(2, 2, 5) };
        assert_eq!(record.enrol(&enrolment, Admission::Expected), Verdict::Admit);
    }

    #[test]
    fn a_second_machine_with_the_address_of_a_living_node_is_refused() {
        let mut record = Record { known: true, ..Record::default() };
        record.serve(id(2), digest(2), digest(9), 1000);
        for heard in [1500, 1000] {
            let enrolment = Enrolment { last_heard: Some(heard), ..enrolment(2, 2, 5) };
            assert!(matches!(record.enrol(&enrolment, Admission::Expected), Verdict::Refuse(_)), "heard at {heard}");
        }
    }

    #[test]
    fn an_expectation_runs_out() {
        let mut record = Record::default();
        record.expect(0);
        record.serve(id(1), digest(1), digest(9), EXPECTED_FOR + 1);
        assert!(matches!(record.enrol(&enrolment(1, 1, 1), Admission::Expected), Verdict::AskOperator(_)));
    }

    #[test]
    fn where_keys_are_approved_being_switched_on_is_not_enough() {
        let mut record = Record::default();
        record.expect(0);
        record.serve(id(1), digest(1), digest(9), 10);
        assert!(matches!(record.enrol(&enrolment(1, 1, 1), Admission::Approve), Verdict::AskOperator(_)));
        record.approve("key-1".into());
        assert_eq!(record.enrol(&enrolment(1, 1, 1), Admission::Approve), Verdict::Admit);
        record.serve(id(2), digest(2), digest(9), 20);
        assert!(matches!(record.enrol(&enrolment(2, 2, 2), Admission::Approve), Verdict::AskOperator(_)), "a new key");
        assert_eq!(record.enrol(&enrolment(2, 2, 1), Admission::Approve), Verdict::Admit, "the key that was approved");
    }

    #[test]
    fn an_open_head_lets_every_boot_in_once() {
        let mut record = Record::default();
        record.serve(id(1), digest(1), digest(9), 10);
        assert!(matches!(record.enrol(&enrolment(1, 2, 1), Admission::Open), Verdict::Refuse(_)), "a wrong nonce");
        assert_eq!(record.enrol(&enrolment(1, 1, 1), Admission::Open), Verdict::Admit);
        assert!(matches!(record.enrol(&enrolment(1, 1, 2), Admission::Open), Verdict::Refuse(_)), "another key");
    }

    #[test]
    fn a_certificate_counts_for_the_key_that_was_admitted_last() {
        let mut record = Record::default();
        assert!(record.holds(&id(1), "key-1").is_err(), "it was never admitted, or was revoked");
        record.expect(0);
        record.serve(id(1), digest(1), digest(9), 10);
        assert_eq!(record.enrol(&enrolment(1, 1, 1), Admission::Expected), Verdict::Admit);
        assert_eq!(record.holds(&id(1), "key-1"), Ok(()));
        assert!(record.holds(&id(1), "key-2").is_err());
        record.serve(id(2), digest(2), digest(9), 20);
        assert_eq!(record.holds(&id(1), "key-1"), Ok(()), "nobody has taken its place yet");
        assert_eq!(record.enrol(&enrolment(2, 2, 2), Admission::Expected), Verdict::Admit);
        assert!(record.holds(&id(1), "key-1").is_err(), "someone has");
    }

    #[derive(Debug, Clone)]
    enum Event {
        Expect,
        Approve(u8),
        Serve,
        Enrol { boot: u8, nonce: u8, key: u8 },
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Expect),
            (0..3_u8).prop_map(Event::Approve),
            Just(Event::Serve),
            (0..5_u8, 0..5_u8, 0..3_u8).prop_map(|(boot, nonce, key)| Event::Enrol { boot, nonce, key }),
        ]
    }

    proptest! {
        /// Over any sequence of events: only the present boot's nonce admits, one key for each
        /// boot, and the first admission needs someone who switched the node on or approved it.
        #[test]
        fn nobody_gets_in_by_repeating_what_was_said(events in prop::collection::vec(event(), 0..60)) {
            let mut record = Record::default();
            let mut served = 0_u8;
            let mut someone_said_so = false;
            let mut admitted: Option<(BootId, String)> = None;
            for (now, event) in events.into_iter().enumerate() {
                match event {
                    Event::Expect => { record.expect(now as Millis); someone_said_so = true; }
                    Event::Approve(key) => { record.approve(format!("key-{key}")); someone_said_so = true; }
                    Event::Serve => {
                        // Each boot has its own id and nonce, as the head's random ones have.
                        served = served.wrapping_add(1).max(6);
                        record.serve(id(served), digest(served), digest(9), now as Millis);
                    }
                    Event::Enrol { boot, nonce, key } => {
                        let boot = served.wrapping_sub(boot);
                        let nonce = served.wrapping_sub(nonce);
                        let enrolment = enrolment(boot, nonce, key);
                        if record.enrol(&enrolment, Admission::Expected) == Verdict::Admit {
                            prop_assert!(someone_said_so);
                            prop_assert_eq!((boot, nonce), (served, served));
                            if let Some((before, by)) = &admitted && *before == enrolment.boot {
                                prop_assert_eq!(by, &enrolment.fingerprint);
                            }
                            admitted = Some((enrolment.boot, enrolment.fingerprint));
                        }
                    }
                }
                let stored = serde_json::to_string(&record).expect("plain data");
                prop_assert_eq!(&serde_json::from_str::<Record>(&stored).expect("reads back"), &record);
            }
        }
    }
}
