//! Which head a verb asks.
//!
//! ```text
//!                     head of its own here          none here
//! a named folder ───▶ that one; two heads are       BRAMBLE_HEAD, else nobody
//!                     named with BRAMBLE_HEAD
//! the nearest one ──▶ BRAMBLE_HEAD, else that one   BRAMBLE_HEAD, else the only login
//! ```
//! A folder is named by `-C`, `--state` or `BRAMBLE_REPOSITORY`. Its head is its own whether it runs or not: one that has
//! ended is no reason to ask another.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::heads;
use crate::place::{Folder, NoRepository, Place};

/// The variable that names a head elsewhere.
const VARIABLE: &str = "BRAMBLE_HEAD";

/// Nobody answers.
#[derive(Debug)]
pub struct NoHead {
    pub at: String,
    /// Heads elsewhere that can be asked in its place, when they are named.
    pub others: Vec<String>,
}

impl fmt::Display for NoHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NoHead { at, others } = self;
        write!(f, "no head answers at {at}: start one with `bramble serve`, or a lab with `bramble lab up`; or ")?;
        let names: Vec<String> = others.iter().map(|url| format!("`{VARIABLE}={url}`")).collect();
        if names.is_empty() {
            f.write_str("reach one elsewhere with `bramble login`")
        } else {
            write!(f, "name one elsewhere: {}", names.join(", "))
        }
    }
}

impl std::error::Error for NoHead {}

#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    /// The head with this state.
    Here(PathBuf),
    /// The head at this address, as a person wrote it.
    Elsewhere(String),
}

impl Target {
    /// That of a verb about this place.
    pub fn of(place: &Place) -> Result<Self> {
        let named = std::env::var_os(VARIABLE).filter(|named| !named.is_empty());
        choose(place.folder(), named.map(|named| named.to_string_lossy().into_owned()), heads::urls)
    }
}

/// What decides: the folder, the head that `BRAMBLE_HEAD` names, and the addresses of those that somebody is logged in at,
/// which are looked at where nothing else says it.
///
/// # Errors
/// When two heads are named, or none is and there is nothing to tell which.
fn choose(folder: Folder, named: Option<String>, logins: impl FnOnce() -> Result<Vec<String>>) -> Result<Target> {
    let Folder { by, state, has_head } = folder;
    match (state, named, by) {
        // Whoever named a folder means that one.
        (Err(error @ NoRepository::Named { .. }), ..) => Err(error.into()),
        (Ok(state), Some(other), Some(by)) if has_head => bail!(
            "two heads are named: {} (of {by}) has one of its own, and {VARIABLE} names {other}: leave {by} or \
             {VARIABLE} out; inside of the folder, and without {by}, {VARIABLE} takes its content to the other one",
            state.display()
        ),
        (_, Some(other), _) => Ok(Target::Elsewhere(other)),
        (Ok(state), None, _) if has_head || by.is_some() => Ok(Target::Here(state)),
        (state, None, _) => {
            let mut logins = logins()?;
            match (logins.len(), state) {
                (1, _) => Ok(Target::Elsewhere(logins.remove(0))),
                (0, Ok(state)) => Ok(Target::Here(state)),
                (0, Err(none)) => {
                    Err(NoHead { at: format!("any place that is known here ({none})"), others: logins }.into())
                }
                _ => bail!("several heads are known ({}): name one in {VARIABLE}", logins.join(", ")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "https://head:7444";
    const OTHER: &str = "https://other:7444";

    /// As it is told: `here`, `head`, or why not.
    fn chosen(by: Option<&'static str>, has_head: bool, named: Option<&str>, logins: &[&str]) -> String {
        let folder = Folder { by, state: Ok("home/.bramble".into()), has_head };
        told(folder, named, logins)
    }

    fn told(folder: Folder, named: Option<&str>, logins: &[&str]) -> String {
        let logins = || Ok(logins.iter().map(|url| (*url).to_owned()).collect());
        match choose(folder, named.map(str::to_owned), logins) {
            Ok(Target::Here(state)) => state.display().to_string(),
            Ok(Target::Elsewhere(url)) => url,
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_folder_that_is_named_has_its_own_head_only() {
        for by in ["-C", "--state", "BRAMBLE_REPOSITORY"] {
            for logins in [&[][..], &[HEAD], &[HEAD, OTHER]] {
                for has_head in [true, false] {
                    assert_eq!(chosen(Some(by), has_head, None, logins), "home/.bramble", "{by} {logins:?}");
                }
                assert_eq!(chosen(Some(by), false, Some(HEAD), logins), HEAD, "it is sent to a head that is named");
                let two = chosen(Some(by), true, Some(HEAD), logins);
                assert!(two.starts_with(&format!("two heads are named: home/.bramble (of {by})")), "{two}");
                assert!(two.contains(HEAD), "{two}");
            }
        }
    }

    #[test]
    fn the_nearest_folder_gives_way_to_a_head_that_is_named_and_to_no_other() {
        for logins in [&[][..], &[HEAD], &[HEAD, OTHER]] {
            assert_eq!(chosen(None, true, None, logins), "home/.bramble", "whether it runs or not");
            for has_head in [true, false] {
                assert_eq!(chosen(None, has_head, Some(OTHER), logins), OTHER);
            }
        }
        assert_eq!(chosen(None, false, None, &[]), "home/.bramble");
        assert_eq!(chosen(None, false, None, &[HEAD]), HEAD);
        let several = chosen(None, false, None, &[HEAD, OTHER]);
        assert!(several.contains(HEAD) && several.contains("name one in BRAMBLE_HEAD"), "{several}");
    }

    #[test]
    fn without_a_folder_there_is_only_what_is_elsewhere() {
        let nowhere =
            || Folder { by: None, state: Err(NoRepository::NoneAbove { here: "/srv".into() }), has_head: false };
        assert_eq!(told(nowhere(), Some(OTHER), &[HEAD]), OTHER);
        assert_eq!(told(nowhere(), None, &[HEAD]), HEAD);
        assert!(told(nowhere(), None, &[HEAD, OTHER]).contains("several heads"));
        assert!(told(nowhere(), None, &[]).starts_with("no head answers at any place"));
    }

    #[test]
    fn a_folder_that_was_named_and_is_none_is_an_error_whatever_else_is_named() {
        for named in [None, Some(HEAD)] {
            let state = Err(NoRepository::Named { folder: "typo".into(), by: "-C" });
            let wrong = told(Folder { by: Some("-C"), state, has_head: false }, named, &[HEAD]);
            assert!(wrong.starts_with("typo (of -C) is no cluster repository"), "{wrong}");
        }
    }
}
