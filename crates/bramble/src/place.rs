//! Which repository a verb is about, and where its state lies.
//!
//! ```text
//! -C DIR ── else ──▶ BRAMBLE_REPOSITORY ── else ──▶ the nearest folder, here or above, with a bramble.toml
//! ```

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use bramble_head::control;
use bramble_model::repository::{Cluster, FILE};
use clap::Args;

/// Names the repository where no `-C` does.
const VARIABLE: &str = "BRAMBLE_REPOSITORY";
/// What goes by this name is never committed.
const STATE: &str = ".bramble";

/// What the person said of the repository and its state; found when a verb needs them.
#[derive(Args, Clone, Debug, Default)]
pub struct Place {
    /// Folder of the cluster repository. Default: BRAMBLE_REPOSITORY, else the nearest at or above this folder.
    #[arg(short = 'C', long, global = true, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Folder for keys, boot sets and the head's store. Default: `.bramble` in the repository.
    #[arg(long, global = true, value_name = "DIR")]
    state: Option<PathBuf>,
}

/// There is no repository where one was looked for.
#[derive(Debug, PartialEq, Eq)]
pub enum NoRepository {
    /// The folder that `by` names has no `bramble.toml`.
    Named { folder: PathBuf, by: &'static str },
    /// Neither this folder nor one above it has one.
    NoneAbove { here: PathBuf },
}

impl fmt::Display for NoRepository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoRepository::Named { folder, by } => write!(
                f,
                "{} (of {by}) is no cluster repository: there is no {FILE} in it; `bramble init {}` makes one",
                folder.display(),
                folder.display()
            ),
            NoRepository::NoneAbove { here } => write!(
                f,
                "there is no cluster repository here: no {FILE} in {} or in a folder above it; name the repository's \
                 folder with -C DIR or {VARIABLE}, or make one with `bramble init DIR`",
                here.display()
            ),
        }
    }
}

impl std::error::Error for NoRepository {}

impl Place {
    /// Folder of the repository.
    ///
    /// # Errors
    /// When there is none.
    pub fn repository(&self) -> Result<PathBuf, NoRepository> {
        let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
        find(self.directory.as_deref(), std::env::var_os(VARIABLE), &here)
    }

    /// Folder of the state: of the repository's, or of a head that was begun here with a repository elsewhere.
    ///
    /// # Errors
    /// When it is not said, and there is neither.
    pub fn state(&self) -> Result<PathBuf, NoRepository> {
        if let Some(state) = &self.state {
            return Ok(state.clone());
        }
        self.repository().map(|repository| repository.join(STATE)).or_else(|none| {
            let (_, state) = self.head()?;
            if state.join(bramble_head::STORE).exists() { Ok(state) } else { Err(none) }
        })
    }

    /// Folder of a head: of its repository, or, where it was begun with a repository elsewhere, the one that was named
    /// or the present one; and of its state.
    ///
    /// # Errors
    /// When the folder that was named is none.
    pub fn head(&self) -> Result<(PathBuf, PathBuf), NoRepository> {
        let home = home(self.repository())?;
        let state = self.state.clone().unwrap_or_else(|| home.join(STATE));
        Ok((home, state))
    }

    /// What a verb is about, as far as it tells which head is asked.
    pub fn folder(&self) -> Folder {
        let variable = std::env::var_os(VARIABLE).filter(|text| !text.is_empty());
        let by = match (&self.state, &self.directory, variable) {
            (Some(_), _, _) => Some("--state"),
            (None, Some(_), _) => Some("-C"),
            (None, None, variable) => variable.map(|_| VARIABLE),
        };
        let state = self.state();
        let has_head = state.as_ref().is_ok_and(|state| has_head(state));
        // A head whose repository is elsewhere has a folder all the same.
        let state = match self.repository() {
            Err(wrong @ NoRepository::Named { .. }) if !has_head || self.head().is_err() => Err(wrong),
            _ => state,
        };
        Folder { by, state, has_head }
    }

    /// The name of the repository's cluster, as far as that can be read: whatever else is wrong is for others to say.
    pub fn cluster(&self) -> Option<String> {
        let file = self.repository().ok()?.join(FILE);
        let text = std::fs::read_to_string(file).ok()?;
        bramble_model::repository::name_in(&text)
    }

    /// Whether a repository was named on the command line.
    pub fn is_named(&self) -> bool {
        self.directory.is_some()
    }
}

/// A folder and its head.
#[derive(Debug)]
pub struct Folder {
    /// What named it; `None` of the nearest one.
    pub by: Option<&'static str>,
    /// Where its state lies.
    pub state: Result<PathBuf, NoRepository>,
    /// A head was begun here, which may have ended.
    pub has_head: bool,
}

/// What cannot be looked at may be another user's.
fn has_head(state: &Path) -> bool {
    let has_store = state.join(bramble_head::STORE).try_exists();
    has_store.unwrap_or(true) || control::socket(state).exists()
}

/// Where a head is at home that has a repository here, or elsewhere.
fn home(repository: Result<PathBuf, NoRepository>) -> Result<PathBuf, NoRepository> {
    match repository {
        Err(NoRepository::Named { folder, .. }) if folder.is_dir() => Ok(folder),
        Err(NoRepository::NoneAbove { .. }) => Ok(PathBuf::from(".")),
        found => found,
    }
}

/// As it was said; a relative folder is relative to `here`, the present one.
fn find(said: Option<&Path>, variable: Option<OsString>, here: &Path) -> Result<PathBuf, NoRepository> {
    let variable = variable.filter(|text| !text.is_empty()).map(PathBuf::from);
    let named = said.map(|folder| (folder.to_owned(), "-C")).or_else(|| Some((variable?, VARIABLE)));
    if let Some((folder, by)) = named {
        return if Cluster::is_in(&here.join(&folder)) { Ok(folder) } else { Err(NoRepository::Named { folder, by }) };
    }
    if Cluster::is_in(here) {
        // Messages then name files as the person would.
        return Ok(PathBuf::from("."));
    }
    let above = here.ancestors().skip(1).find(|folder| Cluster::is_in(folder));
    above.map(Path::to_owned).ok_or_else(|| NoRepository::NoneAbove { here: here.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_then_the_variable_then_the_nearest_above() {
        let top = tempfile::tempdir().expect("a temporary folder");
        let at = |path: &str| top.path().join(path);
        for folder in ["home/workloads/deep", "home/inner", "other", "none/below"] {
            std::fs::create_dir_all(at(folder)).expect("made");
        }
        for repository in ["home", "home/inner", "other"] {
            std::fs::write(at(repository).join(FILE), "").expect("written");
        }
        std::fs::create_dir(at("torn")).expect("made");
        std::os::unix::fs::symlink("nowhere", at("torn").join(FILE)).expect("a link");
        assert_eq!(find(None, None, &at("torn")), Ok(".".into()), "what it leads to is for the reader to say");
        let variable = || Some(at("other").into_os_string());
        assert_eq!(
            find(Some(Path::new("inner")), variable(), &at("home")),
            Ok("inner".into()),
            "the flag, as it was said"
        );
        assert_eq!(find(None, variable(), &at("home")), Ok(at("other")));
        assert_eq!(find(None, Some(OsString::new()), &at("home")), Ok(".".into()), "an empty variable says nothing");
        assert_eq!(find(None, None, &at("home/workloads/deep")), Ok(at("home")));
        assert_eq!(find(None, None, &at("home/inner")), Ok(".".into()), "the nearest");
        let wrong = find(Some(Path::new("none")), variable(), top.path());
        assert_eq!(wrong, Err(NoRepository::Named { folder: "none".into(), by: "-C" }), "never another than was said");
        let none = find(None, None, &at("none/below")).expect_err("there is none");
        assert!(none.to_string().contains(&at("none/below").display().to_string()), "{none}");
        assert!(none.to_string().contains("-C DIR or BRAMBLE_REPOSITORY"), "{none}");
    }
}
