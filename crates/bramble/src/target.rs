//! Which head a verb asks.
//!
//! ```text
//!                     head of its own here          none here
//! a named folder ───▶ that one; two heads are       BRAMBLE_HEAD, else nobody
//!                     named with BRAMBLE_HEAD
//! the nearest one ──▶ BRAMBLE_HEAD, else that one   BRAMBLE_HEAD, else the only login, else the only head that
//!                                                   answers on this computer and has the folder's cluster, if any
//! ```
//! A folder is named by `-C`, `--state` or `BRAMBLE_REPOSITORY`. Its head is its own whether it runs or not: one that has
//! ended is no reason to ask another.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Result, bail};
use bramble_head::control::{self, Running};

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
    /// Clusters whose heads run on this computer, and whether this user may ask them there.
    pub here: Vec<(String, bool)>,
}

impl NoHead {
    pub fn at(at: String, others: Vec<String>) -> Self {
        let here = control::running().into_iter().map(|head| (head.cluster, head.socket.is_some()));
        NoHead { at, others, here: here.collect() }
    }
}

impl fmt::Display for NoHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NoHead { at, others, here } = self;
        write!(f, "no head answers at {at}: start one with `bramble serve`, or a lab with `bramble lab up`; or ")?;
        let names: Vec<String> = others.iter().map(|url| format!("`{VARIABLE}={url}`")).collect();
        if names.is_empty() {
            f.write_str("reach one elsewhere with `bramble login`")?;
        } else {
            write!(f, "name one elsewhere: {}", names.join(", "))?;
        }
        for (cluster, may_ask) in here {
            write!(f, "; the head of cluster `{cluster}` runs on this computer")?;
            f.write_str(match may_ask {
                true => ": name its folder with -C, or ask outside of other folders",
                false => {
                    ", for root, its owner and the group `bramble`: `sudo usermod -aG bramble \"$USER\"`, and log in anew"
                }
            })?;
        }
        Ok(())
    }
}

impl std::error::Error for NoHead {}

#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    /// The head with this state.
    Here(PathBuf),
    /// The head of this cluster on this computer, at this socket.
    Running { cluster: String, socket: PathBuf },
    /// The head at this address, as a person wrote it.
    Elsewhere(String),
}

impl Target {
    /// That of a verb about this place.
    pub fn of(place: &Place) -> Result<Self> {
        let named = std::env::var_os(VARIABLE).filter(|named| !named.is_empty());
        let cluster = place.cluster();
        choose(place.folder(), named.map(|named| named.to_string_lossy().into_owned()), heads::urls, || {
            let running = control::running().into_iter();
            running.filter(|head| cluster.as_ref().is_none_or(|own| head.cluster == *own)).collect()
        })
    }
}

/// What decides: the folder, the head that `BRAMBLE_HEAD` names, the addresses of those that somebody is logged in at, and
/// the heads of the folder's cluster on this computer (of any cluster where there is no folder): each is looked at where
/// nothing else says it.
///
/// # Errors
/// When two heads are named, or none is and there is nothing to tell which.
fn choose(
    folder: Folder,
    named: Option<String>,
    logins: impl FnOnce() -> Result<Vec<String>>,
    running: impl FnOnce() -> Vec<Running>,
) -> Result<Target> {
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
                (0, state) => {
                    let mut open: Vec<(String, PathBuf)> =
                        running().into_iter().filter_map(|head| Some((head.cluster, head.socket?))).collect();
                    match (open.len(), state) {
                        (1, _) => {
                            let (cluster, socket) = open.remove(0);
                            Ok(Target::Running { cluster, socket })
                        }
                        (_, Ok(state)) => Ok(Target::Here(state)),
                        (0, Err(none)) => {
                            Err(NoHead::at(format!("any place that is known here ({none})"), logins).into())
                        }
                        (_, Err(_)) => bail!(
                            "several heads run on this computer ({}): name the folder of one with -C",
                            Vec::from_iter(open.into_iter().map(|(cluster, _)| cluster)).join(", ")
                        ),
                    }
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
        told_beside(folder, named, logins, &[])
    }

    fn told_beside(folder: Folder, named: Option<&str>, logins: &[&str], running: &[(&str, bool)]) -> String {
        let logins = || Ok(logins.iter().map(|url| (*url).to_owned()).collect());
        let running = running.iter().map(|(cluster, open)| {
            let socket = open.then(|| PathBuf::from(format!("/run/bramble/{cluster}/1-2.sock")));
            Running { cluster: (*cluster).to_owned(), socket }
        });
        match choose(folder, named.map(str::to_owned), logins, || running.collect()) {
            Ok(Target::Here(state)) => state.display().to_string(),
            Ok(Target::Running { socket, .. }) => socket.display().to_string(),
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

    /// As for a member of the group `bramble`, in a clone of their own or nowhere.
    #[test]
    fn the_only_head_of_this_computer_is_asked_where_nothing_else_is_named() {
        let nowhere =
            || Folder { by: None, state: Err(NoRepository::NoneAbove { here: "/srv".into() }), has_head: false };
        let clone = |by, has_head| Folder { by, state: Ok("clone/.bramble".into()), has_head };
        let (home, lab) = (("home", true), ("lab", true));
        assert_eq!(told_beside(nowhere(), None, &[], &[home]), "/run/bramble/home/1-2.sock");
        assert_eq!(told_beside(clone(None, false), None, &[], &[home]), "/run/bramble/home/1-2.sock");
        assert_eq!(told_beside(nowhere(), None, &[], &[("other", false), home]), "/run/bramble/home/1-2.sock");
        // One that has a head has no other, also where that has ended.
        assert_eq!(told_beside(clone(None, true), None, &[], &[home]), "clone/.bramble");
        assert_eq!(told_beside(clone(Some("-C"), false), None, &[], &[home]), "clone/.bramble");
        assert_eq!(told_beside(nowhere(), None, &[HEAD], &[home]), HEAD, "a login, as ever");
        assert_eq!(told_beside(nowhere(), Some(OTHER), &[], &[home]), OTHER);
        let several = told_beside(nowhere(), None, &[], &[home, lab]);
        assert!(several.contains("(home, lab): name the folder of one with -C"), "{several}");
        assert_eq!(told_beside(clone(None, false), None, &[], &[home, home]), "clone/.bramble");
    }

    #[test]
    fn where_no_head_answers_it_is_said_which_ones_run_here_and_for_whom() {
        let none = |here: &[(&str, bool)]| {
            let here = here.iter().map(|(cluster, open)| ((*cluster).to_owned(), *open)).collect();
            NoHead { at: "home/.bramble/head.sock".into(), others: Vec::new(), here }.to_string()
        };
        assert!(!none(&[]).contains("runs on this computer"));
        let closed = none(&[("home", false)]);
        assert!(closed.contains("the head of cluster `home` runs on this computer, for root, its owner and the group"));
        assert!(closed.contains("usermod -aG bramble"), "{closed}");
        let open = none(&[("home", true)]);
        assert!(open.contains("name its folder with -C"), "{open}");
    }
}
