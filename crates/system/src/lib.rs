//! The operating system through one door: other programs, files that survive a power cut, the clock;
//! and how an error is said in one sentence.

mod command;
pub mod files;

use std::error::Error;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

pub use command::{Cancel, Command, CommandError, Failure, Output};

/// Milliseconds since the epoch by the system's clock; 0 where that stands before it.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

/// An error with its causes: `cannot read /x: no such file`.
pub fn sentence(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text += &format!(": {next}");
        cause = next.source();
    }
    text
}

/// Locks a value that is whole between any two lines of those who change it. A panic ends the connection or the part that
/// it happened in: where that held this, nobody else ends with it, in a process that goes on and serves no one.
pub fn locked<T: ?Sized>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_that_held_a_value_ends_nobody_else() {
        let value = Mutex::new(1);
        let panicked = std::thread::scope(|scope| {
            let part = scope.spawn(|| {
                *locked(&value) += 1;
                let _held = locked(&value);
                panic!("as an error of bramble's own does");
            });
            part.join()
        });
        assert!(panicked.is_err());
        assert_eq!(*locked(&value), 2);
    }
}
