//! The clock of a board that has none: certificates need the year at least.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, Timespec, clock_settime};

/// How far behind the head the clock may be, in seconds, before it is taken for unset.
const BEHIND: i64 = 24 * 3600;

/// Sets the clock to the head's `Date` header (RFC 9110, section 5.6.7) where it is behind by a
/// day or more. Never turns it back.
pub fn set_if_behind(date: &str) {
    let Some(head) = seconds(date) else { return };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs().cast_signed());
    if head > now + BEHIND {
        // A machine that refuses keeps its clock; the agent's TLS error will say so.
        let _ = clock_settime(ClockId::Realtime, Timespec { tv_sec: head, tv_nsec: 0 });
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` in seconds since the epoch.
fn seconds(date: &str) -> Option<i64> {
    let mut words = date.split_ascii_whitespace().skip(1);
    let day: i64 = words.next()?.parse().ok()?;
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = words.next()?;
    let month = 1 + i64::try_from(months.iter().position(|name| *name == month)?).ok()?;
    let year: i64 = words.next()?.parse().ok().filter(|year| (1970..10_000).contains(year))?;
    let mut time = words.next()?.split(':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    // Days from 1970-01-01 in the proleptic Gregorian calendar, with years that begin in March.
    let (y, m) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    Some(days.checked_mul(86_400)? + hour.checked_mul(3600)? + minute.checked_mul(60)? + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read() {
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(seconds("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(seconds("Thu, 29 Feb 2024 12:00:00 GMT"), Some(1_709_208_000));
        assert_eq!(seconds("yesterday"), None);
    }

    proptest::proptest! {
        #[test]
        fn no_date_makes_it_panic(date: String) {
            let _ = seconds(&date);
        }
    }
}
