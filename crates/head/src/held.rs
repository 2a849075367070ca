//! What a panic that was swallowed leaves of the values that boots go through.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a value that is whole between any two lines of those who change it. A connection's panic ends that connection:
/// where it held this, nobody else's boot ends with it, in a head that goes on and hands out none.
pub(crate) fn held<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}
