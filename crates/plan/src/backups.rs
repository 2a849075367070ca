//! Which backups have had their time.

use bramble_model::timeline::Millis;

const DAY: Millis = 24 * 3600 * 1000;

/// The backups to remove, of those made at these times: all but the newest `keep`, and those older than `days`.
/// The newest stays in any case: a head that was away for long comes back to it.
pub fn expired(made: &[Millis], now: Millis, keep: usize, days: u32) -> Vec<Millis> {
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

    #[test]
    fn by_count_and_by_age() {
        let days = |days: u64| days * DAY;
        let made = [days(1), days(8), days(9), days(10)];
        assert_eq!(expired(&made, days(10), 3, 30), [days(1)]);
        assert_eq!(expired(&made, days(10), 9, 5), [days(1)]);
        assert_eq!(expired(&made, days(400), 9, 5), [days(9), days(8), days(1)], "the newest stays");
        assert_eq!(expired(&made, days(10), 0, 30), [days(9), days(8), days(1)]);
    }

    proptest! {
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
