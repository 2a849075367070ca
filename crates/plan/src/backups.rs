//! When a backup is due, and which have had their time.

use std::collections::BTreeSet;
use std::fmt;

use bramble_model::repository::Backup;
use bramble_model::repository::recipient::HELP;
use bramble_model::section::{Ends, Risk};
use bramble_model::subject::Subject;
use bramble_model::timeline::Millis;

use crate::contract::{Plan, Planned, Planner};

const HOUR: Millis = 3600 * 1000;
const DAY: Millis = 24 * HOUR;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Make,
    /// Removes those that were made at these times.
    Remove {
        made: Vec<Millis>,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Make => f.write_str("one is made"),
            Step::Remove { made } if made.len() == 1 => f.write_str("an old one goes"),
            Step::Remove { made } => write!(f, "{} old ones go", made.len()),
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Backups;

impl Planner for Backups {
    /// What the repository says of backups, where it does.
    type Declared = Option<Backup>;
    /// When those in the folder were made, and the time at which it was looked: the newest that a step makes.
    type Observed = (BTreeSet<Millis>, Millis);
    type Step = Step;
    type Seen = ();

    fn plan(&self, declared: &Option<Backup>, (made, _): &Self::Observed, now: Millis) -> Plan<Step, ()> {
        let mut plan = Plan::default();
        let Some(backup) = declared else { return plan };
        if backup.recipients.is_empty() {
            // Of a release before. Nor is any removed: there would be no new one in its place.
            let reason =
                "backups are encrypted, and the repository names nobody to encrypt them to (`[backup] recipients`)";
            plan.wait(Subject::Backups, reason, Ends::Person(HELP.into()));
            return plan;
        }
        let every = Millis::from(backup.every_hours) * HOUR;
        let due = made.last().map_or(0, |last| last + every);
        let mut step = |reason: String, risk, step| {
            plan.steps.push(Planned { subject: Subject::Backups, seen: (), reason, risk, step });
        };
        if due <= now {
            let reason = match made.last() {
                Some(last) => format!("the last one is {} hours old", now.saturating_sub(*last) / HOUR),
                None => "there is none".into(),
            };
            step(reason, Risk::Safe, Step::Make);
            return plan;
        }
        let made: Vec<Millis> = made.iter().copied().collect();
        let gone = expired(&made, now, backup.keep, backup.days);
        if !gone.is_empty() {
            let what = if gone.len() == 1 { "a backup".into() } else { format!("{} backups", gone.len()) };
            step("the repository keeps fewer".into(), Risk::Destroys { what }, Step::Remove { made: gone });
        }
        plan.wait(Subject::Backups, "the next one has its time", Ends::At(due));
        plan
    }

    fn foresee(&self, (made, looked): &mut Self::Observed, step: &Step) {
        match step {
            Step::Make => drop(made.insert(*looked)),
            Step::Remove { made: gone } => made.retain(|at| !gone.contains(at)),
        }
    }
}

/// The backups to remove, of those made at these times: all but the newest `keep`, and those older than `days`.
/// The newest stays in any case: a head that was away for long comes back to it.
fn expired(made: &[Millis], now: Millis, keep: usize, days: u32) -> Vec<Millis> {
    let mut newest_first = made.to_vec();
    newest_first.sort_unstable_by(|one, other| other.cmp(one));
    let old = |at: Millis| at + Millis::from(days) * DAY < now;
    let goes = |(index, at): &(usize, Millis)| *index > 0 && (*index >= keep || old(*at));
    newest_first.into_iter().enumerate().filter(goes).map(|(_, at)| at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Of age's own tests.
    fn recipients() -> Vec<bramble_model::repository::Recipient> {
        let key = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";
        vec![key.parse().expect("a key")]
    }

    #[test]
    fn without_recipients_none_is_made_and_none_goes() {
        let declared = Some(Backup { folder: "/b".into(), recipients: Vec::new(), every_hours: 1, keep: 1, days: 1 });
        for made in [vec![], vec![DAY, 2 * DAY, 3 * DAY]] {
            let plan = Backups.plan(&declared, &(made.into_iter().collect(), 90 * DAY), 90 * DAY);
            assert_eq!(plan.steps, vec![]);
            let [wait] = plan.waits.as_slice() else { panic!("{:?}", plan.waits) };
            assert!(
                matches!(&wait.ends, Ends::Person(what) if what.contains("recipients = [") && what.contains("keygen"))
            );
        }
    }

    #[test]
    fn by_count_and_by_age() {
        let days = |days: u64| days * DAY;
        let made = [days(1), days(8), days(9), days(10)];
        assert_eq!(expired(&made, days(10), 3, 30), [days(1)]);
        assert_eq!(expired(&made, days(10), 9, 5), [days(1)]);
        assert_eq!(expired(&made, days(400), 9, 5), [days(9), days(8), days(1)], "the newest stays");
        assert_eq!(expired(&made, days(10), 0, 30), [days(9), days(8), days(1)]);
    }

    #[test]
    fn one_is_made_in_time_and_old_ones_go() {
        let declared =
            Some(Backup { folder: "/b".into(), recipients: recipients(), every_hours: 24, keep: 2, days: 30 });
        let text = |made: &[u64], now| {
            let made = made.iter().map(|day| day * DAY).collect();
            crate::contract::text(&Backups.plan(&declared, &(made, now), now))
        };
        let hour = 10 * DAY + HOUR;
        let none = crate::contract::text(&Backups.plan(&None, &([DAY].into(), hour), hour));
        insta::assert_snapshot!(
            [none, text(&[], hour), text(&[8], hour), text(&[10], hour), text(&[7, 8, 9, 10], hour)].join("\n")
        );
    }

    proptest! {
        #[test]
        fn plans_come_to_rest(made in prop::collection::btree_set(0..1000_u64, 0..20), now in 1..2000_u64, keep in 0..5_usize, days in 1..9_u32) {
            let backup = Backup { folder: "/b".into(), recipients: recipients(), every_hours: 24, keep, days };
            let made = made.into_iter().map(|at| at * HOUR).collect();
            let now = now * HOUR;
            let mut observed = (made, now);
            let declared = Some(backup);
            let plan = crate::contract::foresee(&Backups, &declared, observed.clone(), now);
            plan.steps.iter().for_each(|planned| Backups.foresee(&mut observed, &planned.step));
            let rest = Backups.plan(&declared, &observed, now);
            prop_assert_eq!(rest.steps, vec![]);
            prop_assert!(matches!(rest.waits[0].ends, Ends::At(at) if at > now));
        }

        #[test]
        fn the_newest_always_stays(made in prop::collection::vec(0..1000_u64, 0..20), now in 0..2000_u64, keep in 0..5_usize, days in 0..9_u32) {
            let made: std::collections::BTreeSet<Millis> = made.into_iter().map(|at| at * DAY).collect();
            let made: Vec<Millis> = made.into_iter().collect();
            let gone = expired(&made, now * DAY, keep, days);
            if let Some(newest) = made.iter().max() {
                prop_assert!(!gone.contains(newest));
            }
            prop_assert!(made.len() - gone.len() <= keep.max(1));
        }
    }
}
