//! How often someone may try to log in.

use std::collections::HashMap;

use bramble_model::timeline::Millis;

/// Failures from one address, and for one name from one address, within [`WINDOW`].
const OF_ADDRESS: u32 = 20;
const OF_BOTH: u32 = 5;
const WINDOW: Millis = 60_000;
/// Addresses and names that are remembered. A flood of forged names costs this much memory and no more.
const REMEMBERED: usize = 4096;

/// Failed logins, by address and by address and name. A name alone is never locked: anyone could lock
/// someone else out.
#[derive(Default)]
pub(crate) struct Limits {
    failures: HashMap<(String, Option<String>), (Millis, u32)>,
}

impl Limits {
    /// Whether a try may be made; otherwise, seconds until it may.
    pub(crate) fn may_try(&self, from: &str, name: &str, now: Millis) -> Result<(), u64> {
        for (key, most) in Self::keys(from, name) {
            if let Some((since, failures)) = self.failures.get(&key)
                && *failures >= most
                && *since + WINDOW > now
            {
                return Err((*since + WINDOW - now).div_ceil(1000));
            }
        }
        Ok(())
    }

    pub(crate) fn failed(&mut self, from: &str, name: &str, now: Millis) {
        if self.failures.len() + 2 > REMEMBERED {
            self.failures.retain(|_, (since, _)| *since + WINDOW > now);
        }
        for (key, _) in Self::keys(from, name) {
            if self.failures.len() >= REMEMBERED && !self.failures.contains_key(&key) {
                continue;
            }
            let entry = self.failures.entry(key).or_insert((now, 0));
            if entry.0 + WINDOW <= now {
                *entry = (now, 0);
            }
            entry.1 += 1;
        }
    }

    fn keys(from: &str, name: &str) -> [((String, Option<String>), u32); 2] {
        [((from.to_owned(), None), OF_ADDRESS), ((from.to_owned(), Some(name.to_owned())), OF_BOTH)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_failures_for_a_name_and_twenty_from_an_address() {
        let mut limits = Limits::default();
        for _ in 0..5 {
            assert_eq!(limits.may_try("1.2.3.4", "ann", 1000), Ok(()));
            limits.failed("1.2.3.4", "ann", 1000);
        }
        assert_eq!(limits.may_try("1.2.3.4", "ann", 2000), Err(59));
        assert_eq!(limits.may_try("1.2.3.4", "bob", 2000), Ok(()), "another name");
        assert_eq!(limits.may_try("1.2.3.5", "ann", 2000), Ok(()), "ann herself, from elsewhere");
        assert_eq!(limits.may_try("1.2.3.4", "ann", 61_000), Ok(()), "a minute later");
        for name in 0..15 {
            limits.failed("1.2.3.4", &format!("guess{name}"), 2000);
        }
        assert!(limits.may_try("1.2.3.4", "bob", 2000).is_err());
    }

    #[test]
    fn a_flood_of_names_costs_little() {
        let mut limits = Limits::default();
        for name in 0..100_000 {
            limits.failed("1.2.3.4", &name.to_string(), 1000);
        }
        assert!(limits.failures.len() <= REMEMBERED);
        assert!(limits.may_try("1.2.3.4", "ann", 1000).is_err());
    }
}
