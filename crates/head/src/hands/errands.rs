//! How many errands run at once, by in whose name: each holds a connection, and a process on every node that it is for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bramble_system::locked;

/// Errands of one name: a person has a few shells and logs open, a program runs a few at once.
pub(crate) const OF_ONE: usize = 32;
/// Of all names together.
pub(crate) const OF_ALL: usize = 256;

/// Errands that run.
#[derive(Debug, Default)]
pub(crate) struct Errands(Mutex<BTreeMap<String, usize>>);

/// Why another one is not begun.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TooMany {
    #[error("{OF_ONE} errands (exec, shell, logs, cp) run in the name of {0} already: end one of them first")]
    OfOne(String),
    #[error("{OF_ALL} errands (exec, shell, logs, cp) run already: wait until one of them has ended")]
    OfAll,
}

/// One that runs. Dropped, it is counted no more.
#[derive(Debug)]
pub(crate) struct Running {
    errands: Arc<Errands>,
    name: String,
}

impl Errands {
    /// Counts one more in this name.
    ///
    /// # Errors
    /// When there are as many as there may be.
    pub(crate) fn begin(self: &Arc<Self>, name: &str) -> Result<Running, TooMany> {
        let mut all = locked(&self.0);
        if all.get(name).is_some_and(|own| *own >= OF_ONE) {
            return Err(TooMany::OfOne(name.to_owned()));
        }
        if all.values().sum::<usize>() >= OF_ALL {
            return Err(TooMany::OfAll);
        }
        *all.entry(name.to_owned()).or_default() += 1;
        Ok(Running { errands: Arc::clone(self), name: name.to_owned() })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut all = locked(&self.errands.0);
        if let Some(own) = all.get_mut(&self.name) {
            *own -= 1;
            if *own == 0 {
                all.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_so_many_errands_and_all_have_so_many_together() {
        let errands = Arc::<Errands>::default();
        let mut run: Vec<Running> = (0..OF_ONE).map(|_| errands.begin("ann").expect("room")).collect();
        assert_eq!(errands.begin("ann").expect_err("too many"), TooMany::OfOne("ann".into()));
        run.extend((OF_ONE..OF_ALL).map(|number| errands.begin(&format!("p{}", number / OF_ONE)).expect("room")));
        assert_eq!(errands.begin("bob").expect_err("too many"), TooMany::OfAll);
        run.remove(0);
        drop(errands.begin("ann").expect("one has ended"));
        run.clear();
        assert!(locked(&errands.0).is_empty(), "nothing is left of those that have ended");
    }
}
