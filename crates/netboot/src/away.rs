//! What was turned away: counted for a person and for `GET /metrics`, and logged at a bounded rate, so that a flood is
//! seen and writes nothing.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Seconds between two lines of the log about the same.
const AGAIN: u64 = 60;

/// Why something gets no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Away {
    /// DHCP: machines that the repository does not have hold their share of a pool.
    Share,
    /// DHCP: no address is left for a node.
    Exhausted,
    /// DHCP: it came by a relay that no subnet names.
    Relay,
    /// DHCP: more answers wait for the disk, or for their time, than may.
    Waiting,
    /// TFTP: one address asks for more than a machine does.
    Address,
    /// TFTP: more is asked for, by machines that DHCP does not know, than is served to such.
    Strangers,
    /// TFTP: as many transfers run as may.
    Full,
}

impl Away {
    pub const ALL: [Away; 7] =
        [Away::Share, Away::Exhausted, Away::Relay, Away::Waiting, Away::Address, Away::Strangers, Away::Full];

    /// As a metric's label has it.
    pub fn label(self) -> &'static str {
        match self {
            Away::Share => "dhcp-share",
            Away::Exhausted => "dhcp-exhausted",
            Away::Relay => "dhcp-relay",
            Away::Waiting => "dhcp-waiting",
            Away::Address => "tftp-address",
            Away::Strangers => "tftp-strangers",
            Away::Full => "tftp-full",
        }
    }
}

/// Something that was turned away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turned {
    pub away: Away,
    /// Who it was, and at what.
    pub who: String,
}

/// How often, since the head's start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Count {
    pub times: u64,
    /// Seconds since the epoch.
    pub last: u64,
    /// The last one.
    pub who: String,
    logged: u64,
}

/// The counts of a head.
#[derive(Debug, Default)]
pub struct Counts(Mutex<BTreeMap<Away, Count>>);

impl Counts {
    /// Counts one, at `now` in seconds since the epoch.
    pub fn add(&self, turned: Turned, now: u64) {
        let Turned { away, who } = turned;
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(away).or_default();
        (count.times, count.last) = (count.times + 1, now);
        if now >= count.logged + AGAIN || now < count.logged {
            count.logged = now;
            tracing::warn!(what = away.label(), last = who, times = count.times, "turned away");
        }
        count.who = who;
    }

    /// Of each reason, whether or not there was one.
    pub fn all(&self) -> Vec<(Away, Count)> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Away::ALL.iter().map(|away| (*away, counts.get(away).cloned().unwrap_or_default())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_turned_away_is_counted_by_its_reason_and_the_last_is_named() {
        let counts = Counts::default();
        for number in 0..1000 {
            counts.add(Turned { away: Away::Address, who: format!("10.77.0.9, port {number}") }, 100);
        }
        let all = counts.all();
        assert_eq!(all.len(), Away::ALL.len());
        for (away, count) in all {
            let wanted = if away == Away::Address { (1000, "10.77.0.9, port 999") } else { (0, "") };
            assert_eq!((count.times, count.who.as_str()), wanted, "{}", away.label());
        }
    }
}
