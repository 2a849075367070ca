//! What is signed together with a manifest: when, until when it may be begun with, and what is not to be booted any more.
//!
//! It is the trusted comment of the manifest's minisign signature, one line, and so not in the manifest: equal inputs give
//! the same manifest, whenever it was signed. `minisign -Vm manifest.json` shows it.
//!
//! ```text
//! bramble boot set; serial 1764500000; expires 1796036000; floor 0
//! ```

use std::fmt;
use std::str::FromStr;

const BEGINNING: &str = "bramble boot set";
const DAY: u64 = 24 * 3600;
/// So long before it expires a signature is worth a word, and is made again by a build; in seconds.
pub const SOON: u64 = 14 * DAY;

/// What whoever signed a manifest says of it. Times are seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statement {
    /// When it was signed; of two signatures of a cluster the later one has the greater.
    pub serial: u64,
    /// From then on no node begins with it; `None` for never.
    pub expires: Option<u64>,
    /// What was signed with a lesser serial is forbidden. Whoever has seen a floor never takes a lower one.
    pub floor: u64,
}

/// Text that is no statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoStatement;

impl fmt::Display for NoStatement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected `{BEGINNING}; serial SECONDS; expires SECONDS or never; floor SECONDS`")
    }
}

/// Why a boot set is not to be booted, though its signature is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotToBoot {
    /// It was signed before what somebody has forbidden, or is that.
    Forbidden { serial: u64 },
    /// Its time is up by a clock that says `now`, and this machine was never ready with it.
    Expired { at: u64, now: u64 },
}

impl fmt::Display for NotToBoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotToBoot::Forbidden { serial } => {
                write!(f, "it was signed on {}, and what was signed until then is forbidden", Day(*serial))
            }
            NotToBoot::Expired { at, now } => write!(
                f,
                "its signature expired on {}, by a clock that says {}, and this machine was never ready with it",
                Day(*at),
                Day(*now)
            ),
        }
    }
}

impl Statement {
    /// Whether a machine may boot what this was said of. `floor` is the highest that it has seen elsewhere; `now` in
    /// seconds; `was_ready` says whether it was ready with this set before: what it was ready with always boots, unless
    /// that is forbidden.
    ///
    /// # Errors
    /// Why not.
    pub fn may_boot(&self, floor: u64, now: u64, was_ready: bool) -> Result<(), NotToBoot> {
        if self.serial < floor.max(self.floor) {
            return Err(NotToBoot::Forbidden { serial: self.serial });
        }
        match self.expires {
            Some(at) if at <= now && !was_ready => Err(NotToBoot::Expired { at, now }),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Statement { serial, expires, floor } = self;
        write!(f, "{BEGINNING}; serial {serial}; expires ")?;
        match expires {
            Some(at) => write!(f, "{at}")?,
            None => f.write_str("never")?,
        }
        write!(f, "; floor {floor}")
    }
}

impl FromStr for Statement {
    type Err = NoStatement;

    /// Words that a later bramble adds are passed over; one that is there twice is an error.
    fn from_str(text: &str) -> Result<Self, NoStatement> {
        let mut parts = text.split("; ");
        if parts.next() != Some(BEGINNING) {
            return Err(NoStatement);
        }
        let (mut serial, mut expires, mut floor) = (None, None, None);
        for part in parts {
            let (word, value) = part.split_once(' ').ok_or(NoStatement)?;
            let (place, read) = match (word, value) {
                ("expires", "never") => (&mut expires, None),
                ("expires", value) => (&mut expires, Some(seconds(value)?)),
                ("serial", value) => (&mut serial, Some(seconds(value)?)),
                ("floor", value) => (&mut floor, Some(seconds(value)?)),
                _ => continue,
            };
            if place.replace(read).is_some() {
                return Err(NoStatement);
            }
        }
        let said = |number: Option<Option<u64>>| number.flatten().ok_or(NoStatement);
        Ok(Statement { serial: said(serial)?, expires: expires.ok_or(NoStatement)?, floor: said(floor)? })
    }
}

/// Seconds in decimal digits, as [`Statement`] writes them.
fn seconds(text: &str) -> Result<u64, NoStatement> {
    let number: u64 = text.parse().map_err(|_| NoStatement)?;
    if number.to_string() == text { Ok(number) } else { Err(NoStatement) }
}

/// The day of a time in seconds since 1970, in UTC: `2026-11-30`.
pub struct Day(pub u64);

impl fmt::Display for Day {
    /// Days of the proleptic Gregorian calendar, in years that begin in March.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days = self.0 / DAY + 719_468;
        let (era, of_era) = (days / 146_097, days % 146_097);
        let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let march = (5 * of_year + 2) / 153;
        let (day, month) = (of_year - (153 * march + 2) / 5 + 1, if march < 10 { march + 3 } else { march - 9 });
        write!(f, "{:04}-{month:02}-{day:02}", era * 400 + year + u64::from(month <= 2))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn statement() -> impl Strategy<Value = Statement> {
        (any::<u64>(), any::<Option<u64>>(), any::<u64>()).prop_map(|(serial, expires, floor)| Statement {
            serial,
            expires,
            floor,
        })
    }

    #[test]
    fn what_is_missing_twice_or_of_another_form_is_no_statement() {
        let whole = "bramble boot set; serial 3; expires never; floor 0";
        assert_eq!(whole.parse(), Ok(Statement { serial: 3, expires: None, floor: 0 }));
        let later = format!("{whole}; channel stable");
        assert_eq!(later.parse::<Statement>(), whole.parse(), "a later bramble says more");
        for text in [
            "",
            "bramble boot set",
            "bramble boot set; serial 3; expires never",
            "bramble boot set; serial never; expires never; floor 0",
            "bramble boot set; serial 3; serial 4; expires never; floor 0",
            "bramble boot set; serial 3; expires never; expires 5; floor 0",
            "bramble boot set; serial +3; expires never; floor 0",
            "bramble boot set; serial 03; expires never; floor 0",
            "bramble boot set;serial 3; expires never; floor 0",
            "a boot set; serial 3; expires never; floor 0",
        ] {
            assert_eq!(text.parse::<Statement>(), Err(NoStatement), "{text}");
        }
    }

    #[test]
    fn what_a_machine_was_ready_with_boots_for_ever_unless_it_is_forbidden() {
        let said = Statement { serial: 100, expires: Some(200), floor: 50 };
        assert_eq!(said.may_boot(0, 199, false), Ok(()));
        assert_eq!(said.may_boot(0, 200, false), Err(NotToBoot::Expired { at: 200, now: 200 }));
        assert_eq!(said.may_boot(0, u64::MAX, true), Ok(()), "a home that was off for years");
        assert_eq!(said.may_boot(100, 0, true), Ok(()), "the floor itself is allowed");
        assert_eq!(said.may_boot(101, 0, true), Err(NotToBoot::Forbidden { serial: 100 }));
        let never = Statement { expires: None, ..said };
        assert_eq!(never.may_boot(0, u64::MAX, false), Ok(()));
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        for (seconds, day) in [
            (0, "1970-01-01"),
            (951_782_399, "2000-02-28"),
            (951_782_400, "2000-02-29"),
            (1_709_208_000, "2024-02-29"),
            (1_735_689_599, "2024-12-31"),
            (1_735_689_600, "2025-01-01"),
            (1_795_996_800, "2026-11-30"),
        ] {
            assert_eq!(Day(seconds).to_string(), day);
        }
    }

    proptest! {
        #[test]
        fn it_reads_what_it_writes_in_one_line(said in statement()) {
            prop_assert_eq!(said.to_string().parse(), Ok(said));
            prop_assert!(said.to_string().bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        }

        #[test]
        fn no_text_makes_it_panic(text: String) {
            let _ = text.parse::<Statement>();
        }

        #[test]
        fn no_time_makes_a_day_panic(seconds: u64) {
            let _ = Day(seconds).to_string();
        }

        /// Nothing lowers a floor: what is refused for one is refused for every higher one, whenever it is asked.
        #[test]
        fn a_floor_only_rises(said in statement(), floor: u64, more: u64, now: u64, later: u64, ready: bool) {
            if let Err(NotToBoot::Forbidden { .. }) = said.may_boot(floor, now, ready) {
                let refused = said.may_boot(floor.saturating_add(more), later, true);
                prop_assert_eq!(refused, Err(NotToBoot::Forbidden { serial: said.serial }));
            }
        }
    }
}
