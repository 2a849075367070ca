//! What could not be done: a sentence for people, and a kind for whoever looks for the cause.

use std::any::Any;
use std::fmt;
use std::io;

use bramble_boot::Failure;
use rustix::io::Errno;

/// What could not be done, as one sentence with its cause.
#[derive(Debug)]
pub struct Error {
    pub kind: Failure,
    pub sentence: String,
}

impl Error {
    pub fn new(kind: Failure, sentence: impl Into<String>) -> Self {
        Error { kind, sentence: sentence.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

/// Turns a failure into a sentence that names what was being done.
pub trait Doing<T> {
    /// A failure of the machine itself.
    fn doing(self, what: impl fmt::Display) -> Result<T, Error>;

    /// A failure of this kind, unless it is the memory that was missing.
    fn doing_as(self, kind: Failure, what: impl fmt::Display) -> Result<T, Error>;
}

impl<T, E: fmt::Display + Any> Doing<T> for Result<T, E> {
    fn doing(self, what: impl fmt::Display) -> Result<T, Error> {
        self.doing_as(Failure::Machine, what)
    }

    fn doing_as(self, kind: Failure, what: impl fmt::Display) -> Result<T, Error> {
        self.map_err(|error| {
            let kind = if wants_memory(&error) { Failure::NoMemory } else { kind };
            Error { kind, sentence: format!("{what}: {error}") }
        })
    }
}

/// Everything that stage 1 writes lies in memory: a full file system means the same as a failed allocation.
fn wants_memory(error: &dyn Any) -> bool {
    let code = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
    let code = code.or_else(|| error.downcast_ref::<Errno>().map(|error| error.raw_os_error()));
    code.is_some_and(|code| [Errno::NOSPC, Errno::NOMEM].map(Errno::raw_os_error).contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_missing_is_told_from_the_rest() {
        let full = || io::Error::from_raw_os_error(Errno::NOSPC.raw_os_error());
        let kind = |result: Result<(), Error>| result.expect_err("an error").kind;
        assert_eq!(kind(Err(full()).doing("cannot keep a layer in memory")), Failure::NoMemory);
        assert_eq!(kind(Err(Errno::NOMEM).doing_as(Failure::Fetch, "cannot fetch")), Failure::NoMemory);
        assert_eq!(kind(Err(Errno::INVAL).doing("cannot mount the root")), Failure::Machine);
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(kind(Err(refused).doing_as(Failure::Fetch, "cannot fetch")), Failure::Fetch);
    }
}
