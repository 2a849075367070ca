//! From a git repository to the plain files of one commit, by the `git` command and safely.
//!
//! ```text
//! Settings ─▶ fetch ─▶ Head { commit, author, … } ─▶ files ─▶ Files: what is at each path, without git
//!               └────▶ Problem: a sentence, and what to do
//! ```
//! What is in the repository is another's word: nothing in it is run (no hook, filter, attribute, submodule or
//! configuration), and no name or link of it leads out of its own files. What git says to people is shown
//! and never searched for a cause: causes come from exit codes, HTTP's status, and from asking again step by step.

mod files;
mod git;
mod keys;
mod problem;
mod settings;
mod signature;
mod ssh;

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bramble_model::source::{Inside, Transport};
use bramble_system::files::{give_all_below, make_secret};
use bramble_system::{Cancel, Failure};

use git::{Git, Layout, clean, detail, exit_code};

pub use files::{Content, Entry, Files, Refused};
pub use keys::Keys;
pub use problem::Problem;
pub use settings::{Commit, Credentials, Limits, Settings};

/// A program that was started has begun after so long.
const BEGINS: Duration = Duration::from_secs(1);
/// How often a lock that is held is tried again.
const LOOK: Duration = Duration::from_millis(10);

/// Where the branch that was fetched last stands in our own repository.
const INCOMING: &str = "refs/bramble/incoming";
/// What a disk takes that is not full, in bytes.
const ROOM: usize = 64 << 10;
/// So many packs are put together into one.
const PACKS: usize = 50;

/// A bare repository in a folder of its own, which one process uses at a time.
#[derive(Debug)]
pub struct Source {
    layout: Layout,
    /// Held as long as this lives; the system lets go of it when the process ends, however it ends.
    _lock: File,
}

impl Drop for Source {
    /// What git and ssh-keygen made as root belongs to the folder's owner, who may be the next to use it.
    fn drop(&mut self) {
        give_all_below(self.layout.root());
    }
}

/// git is started in this folder, and its files are named to it: relative ones would be looked for twice.
fn absolute(folder: &Path) -> Result<PathBuf, Problem> {
    std::path::absolute(folder).map_err(Problem::file("find", folder))
}

/// The commit that a branch stands at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub commit: Commit,
    /// `Name <mail>`, as the commit says: nobody has checked it. See `signed_by`.
    pub author: String,
    /// When it was committed, by the committer's clock, in seconds since the epoch.
    pub at: u64,
    /// Its first line.
    pub subject: String,
    /// Whose key signed it; none where `signers` is empty.
    pub signed_by: Option<String>,
}

impl Source {
    /// Takes the folder, which is made if it is missing, for this process.
    ///
    /// # Errors
    /// When another process has it, or it cannot be written.
    pub fn open(folder: &Path) -> Result<Source, Problem> {
        let folder = absolute(folder)?;
        let layout = Layout::new(&folder);
        layout.make()?;
        let lock = layout.lock();
        let lock = make_secret(&lock).and_then(|()| File::options().write(true).open(&lock));
        let lock = lock.map_err(Problem::file("write", layout.lock()))?;
        let start = Instant::now();
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                // A program that is being started holds what its parent held until it begins (fork(2), execve(2)).
                Err(TryLockError::WouldBlock) if start.elapsed() < BEGINS => std::thread::sleep(LOOK),
                Err(TryLockError::WouldBlock) => return Err(Problem::InUse { folder }),
                Err(TryLockError::Error(error)) => return Err(Problem::file("lock", layout.lock())(error)),
            }
        }
        layout.prepare()?;
        Ok(Source { layout, _lock: lock })
    }

    /// Puts right what a process that was killed in this folder left behind, as each fetch does: it may be gigabytes, and
    /// the next fetch far off.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn clean(&self) -> Result<(), Problem> {
        self.put_back()?;
        self.sweep()?;
        keys::sweep(&self.layout)
    }

    /// Where the branch stands now. What is here already is not fetched again.
    ///
    /// The history that is here stays, also what a force-push has thrown away; only where it does not fit into
    /// `limits.repository` any more, or was damaged, is all of it fetched anew, and earlier commits may be gone then.
    ///
    /// # Errors
    /// See [`Problem`]; what was fetched before is still there.
    pub fn fetch(&self, settings: &Settings, limits: Limits, cancel: &Cancel) -> Result<Head, Problem> {
        settings.check().map_err(Problem::Setting)?;
        match &settings.credentials {
            Credentials::TokenFile(path) if !settings::is_readable(path) => {
                return Err(Problem::TokenUnreadable { path: path.clone() });
            }
            Credentials::DeployKey(path) if !path.is_file() => return Err(Problem::KeyMissing { path: path.clone() }),
            _ => {}
        }
        self.layout.configure(Some(settings))?;
        let git = Git::new(&self.layout, limits, cancel).towards(settings);
        self.clean()?;
        if !self.layout.repository().exists() {
            self.make_repository(&git)?;
        }
        self.bring(&git, settings)?;
        let head = Source::described(&git, settings, INCOMING)?
            .ok_or_else(|| Problem::NotACommit { commit: format!("what '{}' stands at", settings.branch.as_str()) })?;
        files::find(&git, &head.commit, &settings.path)?;
        self.pack(&git);
        Ok(head)
    }

    /// A commit that was fetched before, by 4 or more of its first hexadecimal digits; `None` where it is not here, or
    /// several begin so.
    ///
    /// # Errors
    /// See [`Problem`]: one that nobody signed whose word counts, or that has no such folder.
    pub fn named(
        &self,
        digits: &str,
        settings: &Settings,
        limits: Limits,
        cancel: &Cancel,
    ) -> Result<Option<Head>, Problem> {
        if digits.len() < 4
            || !digits.bytes().all(|byte| byte.is_ascii_hexdigit())
            || !self.layout.repository().exists()
        {
            return Ok(None);
        }
        let git = Git::new(&self.layout, limits, cancel);
        let head = Source::described(&git, settings, &format!("{digits}^{{commit}}"))?;
        if let Some(head) = &head {
            files::find(&git, &head.commit, &settings.path)?;
        }
        Ok(head)
    }

    /// The commit that this names in our own repository, and who signed it; `None` where it names none.
    fn described(git: &Git<'_>, settings: &Settings, name: &str) -> Result<Option<Head>, Problem> {
        let words = ["log", "-n", "1", "-z", "--no-color", "--format=%H%x00%an <%ae>%x00%ct%x00%s", name, "--"];
        let said = match git.run("read a commit", words) {
            Err(Problem::Git { .. }) => return Ok(None),
            said => said?,
        };
        let text = String::from_utf8_lossy(&said.stdout);
        let mut words = text.split('\0');
        let [Some(commit), Some(author), Some(at), Some(subject)] = [(); 4].map(|()| words.next()) else {
            return Ok(None);
        };
        let commit: Commit = commit.parse().map_err(Problem::Setting)?;
        let signed_by = match settings.signers.as_slice() {
            [] => None,
            signers => Some(signature::check(git, &commit, signers)?),
        };
        let (author, subject) = (clean(author, 200), clean(subject, 500));
        Ok(Some(Head { commit, author, at: at.parse().unwrap_or(0), subject, signed_by }))
    }

    /// The files of a commit, below `path` in it: `most` of them and links at most. Large ones are written into a folder,
    /// which has to be there and empty; they are not synced to the disk.
    ///
    /// # Errors
    /// See [`Problem`].
    pub fn files(
        &self,
        commit: &Commit,
        path: &Inside,
        most: usize,
        large: &Path,
        limits: Limits,
        cancel: &Cancel,
    ) -> Result<Files, Problem> {
        let git = Git::new(&self.layout, limits, cancel);
        let large = std::path::absolute(large).map_err(Problem::file("find", large))?;
        Source::of(&git, [commit], files::read(&git, commit, path, most, &large))
    }

    /// Removes what a git that was killed left behind: nobody else is in this folder.
    fn sweep(&self) -> Result<(), Problem> {
        fn below(folder: &Path) -> std::io::Result<()> {
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                let (name, path) = (entry.file_name(), entry.path());
                let name = name.to_string_lossy();
                if entry.file_type()?.is_dir() {
                    if name.starts_with("incoming-") || name.starts_with("tmp_objdir-") {
                        fs::remove_dir_all(&path)?;
                    } else {
                        below(&path)?;
                    }
                } else if name.ends_with(".lock") || name.ends_with(".keep") || name.starts_with("tmp_") {
                    fs::remove_file(&path)?;
                }
            }
            Ok(())
        }
        let repository = self.layout.repository();
        match below(&repository) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Problem::file("clean", repository)(error))
            }
            _ => Ok(()),
        }
    }

    fn make_repository(&self, git: &Git<'_>) -> Result<(), Problem> {
        let made = git.run("make its repository", ["init", "--quiet", "--bare"]);
        made.map(drop).or_else(|problem| self.has_room().and(Err(problem)))
    }

    /// Whether our own disk takes more: where git cannot write, it ends as where the other side is at fault.
    fn has_room(&self) -> Result<(), Problem> {
        let root = self.layout.root();
        let written = tempfile::tempfile_in(root).and_then(|mut file| {
            file.write_all(&[0; ROOM])?;
            // Some file systems say it only then.
            file.sync_all()
        });
        written.map_err(Problem::file("write to", root))
    }

    /// Whether git takes our own repository for one.
    fn is_repository(&self, git: &Git<'_>) -> Result<bool, Problem> {
        match git.command(["rev-parse", "--git-dir"]).run() {
            Ok(_) => Ok(true),
            Err(error) if exit_code(&error).is_some() => Ok(false),
            Err(error) => Err(Problem::program("open its repository", error)),
        }
    }

    fn remove_repository(&self) -> Result<(), Problem> {
        let repository = self.layout.repository();
        fs::remove_dir_all(&repository).map_err(Problem::file("remove", &repository))
    }

    /// Asks the other side for the branch, to learn why nothing came of it: it is there, or this is the problem.
    fn ask(&self, git: &Git<'_>, settings: &Settings) -> Result<(), Problem> {
        let (url, branch) = (settings.git.as_str(), settings.branch.as_str());
        let name = format!("refs/heads/{branch}");
        let missing = || Problem::BranchMissing { url: url.to_owned(), branch: branch.to_owned() };
        let _ = fs::remove_file(self.layout.trace());
        let asked = git.outward("git").args(["ls-remote", "--exit-code", "--refs", "--", url, &name]).run();
        let said = match asked {
            Ok(said) => said.text(),
            // The other side answered: it has nothing by that name.
            Err(error) if exit_code(&error) == Some(2) => return Err(missing()),
            Err(error) => match &error.failure {
                Failure::TimedOut(limit) => return Err(silent(settings, *limit)),
                Failure::Failed { .. } => return Err(self.cause(git, settings, detail(&error))),
                _ => return Err(Problem::program("ask for the branch", error)),
            },
        };
        let line = said.lines().find_map(|line| line.split_once('\t').filter(|(_, found)| *found == name));
        let (commit, _) = line.ok_or_else(missing)?;
        commit.parse::<Commit>().map(drop).map_err(|_| Problem::Damaged {
            url: url.to_owned(),
            detail: format!("'{}' is no SHA-1 name of a commit", clean(commit, 80)),
        })
    }

    /// Why the other side gave nothing.
    fn cause(&self, git: &Git<'_>, settings: &Settings, detail: String) -> Problem {
        let url = settings.git.to_string();
        match settings.git.transport() {
            Transport::Local(path) => match fs::read_dir(path) {
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Problem::Refused { url, detail },
                _ => Problem::NoRepository { url, detail },
            },
            Transport::Ssh { .. } => ssh::cause(git, settings, detail),
            Transport::Http { .. } => {
                let trace = fs::read(self.layout.trace()).unwrap_or_default();
                let _ = fs::remove_file(self.layout.trace());
                let (status, to) = answered(&String::from_utf8_lossy(&trace));
                match (status, to) {
                    (Some(401 | 403 | 407), _) => Problem::Refused { url, detail },
                    (Some(300..=399), Some(to)) => Problem::Moved { url, to },
                    (Some(200..=499), _) if status != Some(429) => Problem::NoRepository { url, detail },
                    _ => Problem::Away { url, detail },
                }
            }
        }
    }

    /// Fetches the branch; begins anew, once, where our own repository is damaged or full of what nobody needs.
    fn bring(&self, git: &Git<'_>, settings: &Settings) -> Result<(), Problem> {
        match self.bring_once(git, settings) {
            Err(Problem::TooLarge { .. }) if Source::known(git, INCOMING)?.is_some() => {}
            Err(Problem::Damaged { .. }) if !self.is_sound(git)? => {}
            other => return other,
        }
        let (ours, before) = (self.layout.repository(), self.layout.before());
        fs::rename(&ours, &before).map_err(Problem::file("move", &ours))?;
        let brought = self.make_repository(git).and_then(|()| self.bring_once(git, settings));
        match brought {
            Ok(()) => fs::remove_dir_all(&before).map_err(Problem::file("remove", &before)),
            Err(problem) => self.put_back().and(Err(problem)),
        }
    }

    /// Puts the repository back that had to make way for one that did not come.
    fn put_back(&self) -> Result<(), Problem> {
        let (ours, before) = (self.layout.repository(), self.layout.before());
        // Without a HEAD it is the rest of one that was being removed, since the new one had come.
        if !before.join("HEAD").exists() {
            return match fs::remove_dir_all(&before) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(Problem::file("remove", &before)(error))
                }
                _ => Ok(()),
            };
        }
        if ours.exists() {
            self.remove_repository()?;
        }
        fs::rename(&before, &ours).map_err(Problem::file("move", &before))
    }

    /// Fetches the branch. What is here already does not come again, so nobody is asked first whether it has moved: only
    /// where it fails it is asked what stands in the way.
    fn bring_once(&self, git: &Git<'_>, settings: &Settings) -> Result<(), Problem> {
        let spec = format!("+refs/heads/{}:{INCOMING}", settings.branch.as_str());
        let fetch = git
            .outward("git")
            .args(["fetch", "--quiet", "--no-progress", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance"])
            .args(["--no-recurse-submodules", "--no-show-forced-updates", "--", settings.git.as_str(), &spec])
            .folder_limit(&self.layout.repository(), git.limits.repository);
        let fetched = fetch.run();
        let _ = fs::remove_file(self.layout.trace());
        let Err(error) = fetched else { return Ok(()) };
        let has_begun = self.has_begun();
        // Looked at before what came makes room again.
        let room = self.has_room();
        self.sweep()?;
        match error.failure {
            // It comes first, and has had all of the time.
            Failure::TimedOut(_) if !has_begun => return Err(silent(settings, git.limits.time)),
            Failure::Failed { .. } => room?,
            _ => return Err(Problem::program("fetch", error)),
        }
        if !self.is_repository(git)? {
            self.remove_repository()?;
            self.make_repository(git)?;
            return self.bring_once(git, settings);
        }
        // Whoever answers this one was there: then what it sent is at fault, and else the cause is found there.
        self.ask(git, settings)?;
        Err(Problem::Damaged { url: settings.git.to_string(), detail: detail(&error) })
    }

    /// Whether something has come of a fetch that did not end.
    fn has_begun(&self) -> bool {
        let packs = fs::read_dir(self.layout.repository().join("objects").join("pack"));
        packs.into_iter().flatten().flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("tmp_"))
    }

    /// Whether everything that our own repository should have is there.
    fn is_sound(&self, git: &Git<'_>) -> Result<bool, Problem> {
        let check = git.command(["fsck", "--connectivity-only", "--no-progress", "--no-dangling"]).run();
        match check {
            Ok(_) => Ok(true),
            Err(error) if exit_code(&error).is_some() => Ok(false),
            Err(error) => Err(Problem::program("check its repository", error)),
        }
    }

    /// The commit that this names, if it is here.
    fn known(git: &Git<'_>, name: &str) -> Result<Option<Commit>, Problem> {
        let check = git.command(["cat-file", "--batch-check"]).text(format!("{name}^{{commit}}\n"));
        let said = match check.run() {
            Ok(said) => said.text(),
            // A ref or an object that is there and cannot be read: not here, and the fetch mends it.
            Err(error) if exit_code(&error).is_some() => return Ok(None),
            Err(error) => return Err(Problem::program("look for a commit", error)),
        };
        let mut words = said.split(' ');
        let commit = words.next().and_then(|word| word.parse().ok());
        Ok(commit.filter(|_| words.next() == Some("commit")))
    }

    /// What came of a question about commits. Only where it failed they are looked at: one of them may not be here.
    fn of<T, const N: usize>(git: &Git<'_>, commits: [&Commit; N], answer: Result<T, Problem>) -> Result<T, Problem> {
        if let Err(Problem::Git { .. }) = &answer {
            for commit in commits {
                if Source::known(git, commit.as_str())?.as_ref() != Some(commit) {
                    return Err(Problem::NotACommit { commit: commit.to_string() });
                }
            }
        }
        answer
    }

    /// Puts many packs together, also what no branch has any more. It is housekeeping: where it fails, the next time
    /// comes.
    fn pack(&self, git: &Git<'_>) {
        let packs = fs::read_dir(self.layout.repository().join("objects").join("pack"));
        let names = packs.into_iter().flatten().flatten().map(|entry| entry.file_name());
        if names.filter(|name| name.to_string_lossy().ends_with(".pack")).count() > PACKS {
            let _ = git.command(["repack", "-a", "-d", "-k", "-q"]).run();
        }
    }
}

/// Whether `new` descends from `old`, or is it, in a folder of [`Source`] that another may be fetching into: it is only
/// read. `None` where `new` is not here. What is here has all of its ancestors: an `old` that is not here is none of them,
/// and someone rewrote the branch.
///
/// # Errors
/// When git cannot be asked.
pub fn descends(folder: &Path, old: &Commit, new: &Commit) -> Result<Option<bool>, Problem> {
    let layout = Layout::new(&absolute(folder)?);
    if !layout.repository().exists() {
        return Ok(None);
    }
    let cancel = Cancel::default();
    let git = Git::new(&layout, Limits::default(), &cancel);
    if Source::known(&git, new.as_str())?.as_ref() != Some(new) {
        return Ok(None);
    }
    let words = ["merge-base", "--is-ancestor", old.as_str(), new.as_str()];
    match Source::of(&git, [old, new], git.asks("compare two commits", 1, words)) {
        Err(Problem::NotACommit { .. }) => Ok(Some(false)),
        answer => answer.map(Some),
    }
}

fn silent(settings: &Settings, limit: std::time::Duration) -> Problem {
    let detail = format!("no answer within {} s", limit.as_secs());
    Problem::Away { url: settings.git.to_string(), detail }
}

/// The last status that a server answered with, and where it said to go, from curl's trace of the headers.
fn answered(trace: &str) -> (Option<u16>, Option<String>) {
    let (mut status, mut to) = (None, None);
    for line in trace.lines() {
        let Some((_, header)) = line.split_once("<= Recv header: ") else { continue };
        if let Some(rest) = header.strip_prefix("HTTP/") {
            status = rest.split(' ').nth(1).and_then(|code| code.parse().ok());
            to = None;
        } else if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("location")
        {
            to = Some(clean(value.trim(), 500));
        }
    }
    (status, to)
}

#[cfg(test)]
mod tests;
