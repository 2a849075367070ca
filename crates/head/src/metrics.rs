//! `GET /metrics`: what the loops say of themselves, and what DHCP and TFTP turn away, as Prometheus reads it (text exposition format, version 0.0.4).

use std::fmt::Write;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use bramble_model::section::{Ends, Section};
use bramble_netboot::away::{Away, Count, Counts};

use crate::loops::Sections;

/// One metric: its name, what it counts, and its samples of a section, each with labels of its own.
struct Metric {
    name: &'static str,
    help: &'static str,
    samples: fn(&Section) -> Vec<(&'static str, u64)>,
}

/// A label of whoever has to act.
fn ends(ends: &Ends) -> &'static str {
    match ends {
        Ends::At(_) => "ends=\"by time\"",
        Ends::ByItself => "ends=\"by itself\"",
        Ends::Person(_) => "ends=\"by a person\"",
    }
}

const ENDS: [&str; 3] = ["ends=\"by time\"", "ends=\"by itself\"", "ends=\"by a person\""];
/// Whether a step that failed is tried again without a person.
const AGAIN: [&str; 2] = ["again=\"by itself\"", "again=\"by a person\""];

/// How many of all have each of the labels; also those that none has, or a rule on one would have nothing to look at.
fn counted<T, const N: usize>(
    labels: [&'static str; N],
    all: &[T],
    label: impl Fn(&T) -> &'static str,
) -> Vec<(&'static str, u64)> {
    labels.map(|one| (one, all.iter().filter(|item| label(item) == one).count() as u64)).to_vec()
}

static METRICS: &[Metric] = &[
    Metric {
        name: "bramble_loop_waits",
        help: "What a loop waits for, by what ends it.",
        samples: |section| counted(ENDS, &section.waits, |wait| ends(&wait.ends)),
    },
    Metric {
        name: "bramble_loop_busy",
        help: "Steps of a loop that run.",
        samples: |section| vec![("", section.busy.len() as u64)],
    },
    Metric {
        name: "bramble_loop_failed",
        help: "Steps of a loop that failed, by who tries them again.",
        samples: |section| counted(AGAIN, &section.failed, |failure| AGAIN[usize::from(failure.again.is_none())]),
    },
    Metric {
        name: "bramble_loop_unknown",
        help: "1 while a loop cannot learn what it needs, and makes no plan.",
        samples: |section| vec![("", u64::from(section.unknown.is_some()))],
    },
    Metric {
        name: "bramble_loop_observed_timestamp_seconds",
        help: "When a loop last saw what it plans from.",
        samples: |section| section.observed_at.iter().map(|at| ("", at / 1000)).collect(),
    },
];

const TURNED_AWAY: &str = "bramble_netboot_turned_away_total";

/// Names of loops are ours, and need no escaping.
fn render(sections: &[Section], turned_away: &[(Away, Count)]) -> String {
    let mut text = String::new();
    for Metric { name, help, samples } in METRICS {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for section in sections {
            for (label, value) in samples(section) {
                let comma = if label.is_empty() { "" } else { "," };
                let _ = writeln!(text, "{name}{{loop=\"{}\"{comma}{label}}} {value}", section.name);
            }
        }
    }
    let _ = writeln!(
        text,
        "# HELP {TURNED_AWAY} What DHCP and TFTP left unanswered, by why.\n# TYPE {TURNED_AWAY} counter"
    );
    for (away, count) in turned_away {
        let _ = writeln!(text, "{TURNED_AWAY}{{what=\"{}\"}} {}", away.label(), count.times);
    }
    text
}

/// `GET /metrics`
pub(crate) async fn metrics(
    State(sections): State<Arc<Sections>>,
    State(turned_away): State<Arc<Counts>>,
) -> impl IntoResponse {
    let text = render(&sections.all(), &turned_away.all());
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

#[cfg(test)]
mod tests {
    use bramble_model::section::{Busy, Failure, Unknown, Waiting};
    use bramble_model::subject::Subject;
    use bramble_netboot::away::Turned;

    use super::*;

    #[test]
    fn what_loops_say_of_themselves() {
        let (subject, reason, step) = (Subject::Source, "because".to_owned(), "is looked at".to_owned());
        let wait = |ends| Waiting { subject: subject.clone(), reason: reason.clone(), ends, since: 1 };
        let failure = |again| Failure {
            subject: subject.clone(),
            step: step.clone(),
            reason: reason.clone(),
            times: 2,
            since: 1,
            again,
        };
        let source = Section {
            name: "source".into(),
            observed_at: Some(1_764_000_000_999),
            waits: vec![wait(Ends::At(5)), wait(Ends::Person("`bramble sync`".into())), wait(Ends::At(6))],
            busy: vec![Busy { subject: subject.clone(), step: step.clone(), reason: reason.clone(), since: 1 }],
            failed: vec![failure(None), failure(Some(7))],
            ..Section::default()
        };
        let unknown = Some(Unknown { reason: reason.clone(), since: 3 });
        let swarm = Section { name: "swarm".into(), unknown, ..Section::default() };
        let counts = Counts::default();
        counts.add(Turned { away: Away::Address, who: "10.77.0.9".into() }, 5);
        insta::assert_snapshot!(render(&[source, swarm], &counts.all()));
    }
}
