//! What stage 1 tells the head of a boot.

use std::fmt;

use crate::bounded;
use crate::json::{Fields, Malformed, Writer};
use crate::plain;

/// A step of stage 1, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Drivers are loaded. Told on the console only: there is no network yet.
    Drivers,
    /// The network is up.
    Network,
    /// The node's data partition is waited for.
    Data,
    /// The root's layers arrive.
    Root,
    /// They are mounted.
    Mount,
    /// systemd is about to be started.
    SwitchRoot,
    /// A step of another generation.
    Other(String),
}

impl Step {
    const ALL: [Step; 6] = [Step::Drivers, Step::Network, Step::Data, Step::Root, Step::Mount, Step::SwitchRoot];

    pub fn as_str(&self) -> &str {
        match self {
            Step::Drivers => "drivers",
            Step::Network => "network",
            Step::Data => "data",
            Step::Root => "root",
            Step::Mount => "mount",
            Step::SwitchRoot => "switch-root",
            Step::Other(word) => word,
        }
    }
}

/// Why stage 1 could not go on: what helps depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The kernel's command line lacks a word, or has a wrong one.
    Arguments,
    /// No driver of the initrd brought the network card up.
    NoDriver,
    /// The card has no link.
    NoLink,
    /// The head, or what is between, does not answer.
    Fetch,
    /// The head does not give this boot to this machine, which goes on without after a few tries.
    Claim,
    /// What arrived is not what was named: its digest differs.
    Digest,
    /// The manifest is not signed with the key of this initrd.
    Signature,
    /// The boot set's time is up, and this machine was never ready with it.
    Expired,
    /// A person has forbidden the boot set.
    Forbidden,
    /// The node's data partition is not there, or not to be used: it goes on without.
    Data,
    /// The machine has no memory left.
    NoMemory,
    /// Something on the machine itself: a mount, a module, a device.
    Machine,
    /// A kind of another generation.
    Other(String),
}

impl Failure {
    const ALL: [Failure; 12] = [
        Failure::Arguments,
        Failure::NoDriver,
        Failure::NoLink,
        Failure::Fetch,
        Failure::Claim,
        Failure::Digest,
        Failure::Signature,
        Failure::Expired,
        Failure::Forbidden,
        Failure::Data,
        Failure::NoMemory,
        Failure::Machine,
    ];

    pub fn as_str(&self) -> &str {
        match self {
            Failure::Arguments => "arguments",
            Failure::NoDriver => "no-driver",
            Failure::NoLink => "no-link",
            Failure::Fetch => "fetch",
            Failure::Claim => "claim",
            Failure::Digest => "digest",
            Failure::Signature => "signature",
            Failure::Expired => "expired",
            Failure::Forbidden => "forbidden",
            Failure::Data => "data",
            Failure::NoMemory => "no-memory",
            Failure::Machine => "machine",
            Failure::Other(word) => word,
        }
    }
}

macro_rules! word {
    ($($name:ident),*) => {$(
        impl From<&str> for $name {
            fn from(word: &str) -> Self {
                let word = bounded(word);
                Self::ALL.into_iter().find(|known| known.as_str() == word).unwrap_or($name::Other(word))
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    )*};
}
word!(Step, Failure);

/// One report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// Where it is. `percent` is of the whole root, 0 to 100.
    Step { step: Step, percent: Option<u8> },
    /// It could not go on, and tries again; or what is wrong where it goes on all the same, with 0 seconds. `reason` is a sentence for people; `kind` is `None` from a stage 1
    /// of before there were kinds.
    Failed { kind: Option<Failure>, reason: String, retry_in_seconds: u64 },
}

/// The longest reason that is kept, in bytes.
const LONGEST_REASON: usize = 2000;
/// The longest wait that is told, in seconds: a day.
const LONGEST_WAIT: u64 = 24 * 3600;

impl Report {
    /// One JSON object.
    pub fn render(&self) -> String {
        match self {
            Report::Step { step, percent: Some(percent) } => {
                Writer::default().number("percent", u64::from(*percent)).text("step", step.as_str()).end()
            }
            Report::Step { step, percent: None } => Writer::default().null("percent").text("step", step.as_str()).end(),
            Report::Failed { kind, reason, retry_in_seconds } => {
                let mut out = Writer::default().text("failed", reason);
                if let Some(kind) = kind {
                    out = out.text("kind", kind.as_str());
                }
                out.number("retry_in_seconds", *retry_in_seconds).end()
            }
        }
    }

    /// Reads what any generation of stage 1 wrote, bounded: it comes from a machine that nobody has let in.
    ///
    /// # Errors
    /// When it is neither a step nor a failure.
    pub fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let fields = Fields::read(bytes)?;
        if fields.has("step") {
            let percent = fields.number("percent").map(|percent| percent.min(100) as u8);
            return Ok(Report::Step { step: fields.text("step")?.into(), percent });
        }
        let reason =
            fields.text("failed").map_err(|_| Malformed::Field { name: "step", expected: "text, or `failed`" })?;
        let retry_in_seconds = fields.number("retry_in_seconds");
        Ok(Report::Failed {
            kind: fields.optional_text("kind").map(Failure::from),
            reason: plain::line(reason, LONGEST_REASON),
            retry_in_seconds: retry_in_seconds
                .ok_or(Malformed::Field { name: "retry_in_seconds", expected: "a number" })?
                .min(LONGEST_WAIT),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![prop::sample::select(Step::ALL.to_vec()), "[a-z-]{1,40}".prop_map(|word| Step::from(&*word))]
    }

    fn kind() -> impl Strategy<Value = Failure> {
        prop_oneof![prop::sample::select(Failure::ALL.to_vec()), "[a-z-]{1,40}".prop_map(|word| Failure::from(&*word))]
    }

    fn report() -> impl Strategy<Value = Report> {
        prop_oneof![
            (step(), prop::option::of(0..=100_u8)).prop_map(|(step, percent)| Report::Step { step, percent }),
            (prop::option::of(kind()), "[ -~äß…日]{0,300}", 0..=LONGEST_WAIT)
                .prop_map(|(kind, reason, retry_in_seconds)| Report::Failed { kind, reason, retry_in_seconds }),
        ]
    }

    /// The bytes of the stage 1 of commit 5b09a28, which older boot sets still hold.
    #[test]
    fn a_stage_1_of_before_there_were_kinds_is_understood() {
        for (bytes, report) in [
            (r#"{"percent":null,"step":"network"}"#, Report::Step { step: Step::Network, percent: None }),
            (r#"{"percent":60,"step":"root"}"#, Report::Step { step: Step::Root, percent: Some(60) }),
            (r#"{"percent":null,"step":"switch-root"}"#, Report::Step { step: Step::SwitchRoot, percent: None }),
            (
                r#"{"failed":"network card eth0 has no link: is its cable plugged in?","retry_in_seconds":4}"#,
                Report::Failed {
                    kind: None,
                    reason: "network card eth0 has no link: is its cable plugged in?".into(),
                    retry_in_seconds: 4,
                },
            ),
        ] {
            assert_eq!(Report::read(bytes.as_bytes()).as_ref(), Ok(&report));
            assert_eq!(report.render(), bytes);
        }
    }

    #[test]
    fn what_another_generation_says_is_kept_and_bounded() {
        let long = "x".repeat(100);
        let read = Report::read(format!(r#"{{"step":"{long}<b>","percent":300,"more":[]}}"#).as_bytes());
        assert_eq!(read, Ok(Report::Step { step: Step::Other("x".repeat(32)), percent: Some(100) }));
        let failed = r#"{"failed":"a\u0007b","kind":"gremlins!","retry_in_seconds":1}"#;
        let Ok(Report::Failed { kind, reason, .. }) = Report::read(failed.as_bytes()) else { panic!("a failure") };
        assert_eq!((kind, reason.as_str()), (Some(Failure::Other("gremlins".into())), "a\u{fffd}b"));
        for neither in ["{}", "[]", r#"{"failed":"x"}"#, r#"{"step":1}"#] {
            Report::read(neither.as_bytes()).expect_err(neither);
        }
    }

    proptest! {
        #[test]
        fn a_report_survives_the_wire(report in report()) {
            let read = Report::read(report.render().as_bytes()).expect("one of our own");
            prop_assert_eq!(read, report);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, word: String) {
            if let Ok(Report::Failed { reason, retry_in_seconds, .. }) = Report::read(&bytes) {
                prop_assert!(reason.len() <= LONGEST_REASON && retry_in_seconds <= LONGEST_WAIT);
            }
            let step = Step::from(&*word);
            prop_assert!(step.as_str().len() <= 32);
            prop_assert_eq!(Step::from(step.as_str()), step);
        }
    }
}
