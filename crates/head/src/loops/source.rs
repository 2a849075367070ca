//! Following the git repository: fetch, check, and make current what may be.

mod fetching;
pub(crate) mod newest;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bramble_model::repository;
use bramble_model::snapshot::Revision;
use bramble_model::source::short;
use bramble_model::timeline::Millis;
use bramble_plan::contract::{Outcome, Planned, Retry, Unknown};
use bramble_plan::source::{CORRECT, Look, Newest, Observed, Obstacle, Source};
use bramble_source::{Keys, Problem, Source as Git};
use bramble_store::Store;
use bramble_system::{Cancel, locked, now};
use tokio::runtime::Handle;
use tokio::sync::watch;

pub(crate) use fetching::check;
use fetching::{AGAIN, Fetched, Stopped, refused, settings, take};
use newest::{Against, Found};

use super::{Changes, Foresight};
use crate::desired::Desired;
use crate::error::Error;
use crate::snapshots::{Applied, Current, Follow, Refused, SHORTEST, Snapshots};
use crate::timeline::Timeline;

/// Who applies what came by git.
const BY: &str = "git";

/// What is known of following the repository. The newest commit outlives the head; all else is learnt anew after its
/// start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Followed {
    pub(crate) looked: Option<Millis>,
    /// Looks that were begun, and the newest of them that has ended. A person's question is answered by one that was
    /// begun after it: numbers say so whatever a clock does.
    begun: u64,
    ended: u64,
    /// How many looks were begun when a person asked last.
    asked: Option<u64>,
    /// What was in the way of the last look, and what to do.
    pub(crate) problem: Option<(String, String)>,
    /// The newest commit, where that did not become current.
    newest: Option<Found>,
    /// Whether this head has found that. One that has just started judges once more: it may be another release, with
    /// other rules.
    is_own: bool,
}

impl Followed {
    /// Whether a person waits for a look that has not been begun, or not ended.
    fn is_asked(&self) -> bool {
        self.asked.is_some_and(|asked| self.ended <= asked)
    }

    /// The newest commit, where that itself is to blame, and what is wrong with it.
    pub(crate) fn unfit(&self) -> Option<(&str, &str)> {
        let newest = &self.newest.as_ref()?.newest;
        Some((&newest.commit, newest.unfit()?))
    }

    /// The newest commit, where it waits for a person, and why.
    pub(crate) fn braked(&self) -> Option<(&str, &[String])> {
        let newest = &self.newest.as_ref()?.newest;
        Some((&newest.commit, newest.braked()?))
    }

    /// Only what is true of what is followed and current now: a person may have made something else of either meanwhile.
    fn of(mut self, now: &Against) -> Followed {
        self.newest = self.newest.take_if(|found| found.holds(now));
        self
    }

    /// The newest commit, where another look against the same would find the same of it.
    fn judged(&self, against: &Against) -> Option<&str> {
        let found = self.newest.as_ref().filter(|found| self.is_own && found.against == *against)?;
        Some(&found.newest.commit)
    }

    /// Commits that nobody can want any more: what waited before and waits no more, and what does not check.
    fn unwanted<'a>(&'a self, before: &'a Followed) -> impl Iterator<Item = &'a str> {
        let commit = |followed: &'a Followed| followed.braked().map(|(commit, _)| commit);
        let waits = commit(self);
        let before = commit(before).filter(move |before| Some(*before) != waits);
        before.into_iter().chain(self.unfit().map(|(commit, _)| commit))
    }

    /// As the planner has it.
    fn observed(&self, held: Option<String>, now: Millis) -> Observed {
        // What was seen in the future was seen before the clock was set back: it is looked at again.
        let looked = self.looked.filter(|looked| *looked <= now);
        let asked = self.is_asked().then(|| looked.map_or(now, |looked| now.max(looked + 1)));
        let newest = self.newest.as_ref().map(|found| found.newest.clone());
        Observed { looked, asked, held, problem: self.problem.clone(), newest }
    }

    /// A look has ended with this. Gives what a person is told where that is new.
    fn end(&mut self, look: (u64, Millis), against: &Against, came: Came) -> Option<Told> {
        (self.ended, self.looked) = (look.0, Some(look.1));
        let away = self.problem.take();
        match came {
            Came::Current => {
                (self.newest, self.is_own) = (None, false);
                None
            }
            Came::Judged => None,
            Came::Found(newest) => {
                let before = self.newest.take();
                let newest = &self.newest.insert(Found { newest, against: against.clone() }).newest;
                self.is_own = true;
                let told = Told::of(newest);
                let before = before.map(|before| Told::of(&before.newest));
                (before.as_ref() != Some(&told)).then_some(told)
            }
            // What was found of the newest commit stands, though its repository cannot be had now.
            Came::Wrong { reason, help } => {
                self.problem = Some((reason.clone(), help));
                away.is_none_or(|(before, _)| before != reason).then_some(Told::NotFollowed(reason))
            }
        }
    }
}

/// What came of a look.
enum Came {
    /// The newest commit is what is current, or has become that.
    Current,
    /// It was judged before, against the same.
    Judged,
    /// It does not become current.
    Found(Newest),
    /// Nothing that can be followed. It may pass.
    Wrong { reason: String, help: String },
}

/// What a person is told of a look.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Waits(String),
    NotFollowed(String),
}

impl Told {
    fn of(newest: &Newest) -> Told {
        match &newest.obstacle {
            Obstacle::Braked(_) => Told::Waits(newest.sentence()),
            Obstacle::Unfit(reason) => Told::NotFollowed(reason.clone()),
        }
    }
}

/// The part of the head that follows git.
pub(crate) struct Following {
    /// The bare repository, and the head's own key.
    folder: PathBuf,
    state: watch::Sender<Followed>,
    /// Where the newest commit is kept.
    store: Store,
    /// One keeps it at a time, and the last one what is last.
    keeping: Mutex<()>,
    /// The repository is asked one thing at a time.
    turn: Mutex<()>,
    /// The head ends: so does whatever git is doing.
    ends: Cancel,
    pub(crate) changed: Changes,
}

impl Following {
    pub(crate) fn new(state: &Path, store: Store) -> Self {
        let newest = newest::kept(&store).unwrap_or_else(|error| {
            // It is set aside, and the next look finds it again.
            tracing::warn!(
                error = bramble_system::sentence(&error),
                "what was found of the newest commit is not known"
            );
            None
        });
        Following {
            folder: folder(state),
            state: watch::Sender::new(Followed { newest, ..Followed::default() }),
            store,
            keeping: Mutex::new(()),
            turn: Mutex::new(()),
            ends: Cancel::default(),
            changed: Changes::default(),
        }
    }

    /// What is known, and true of what is followed and current now.
    pub(crate) fn followed(&self, snapshots: &Snapshots) -> Followed {
        self.known().of(&Against::now(snapshots))
    }

    fn known(&self) -> Followed {
        self.state.borrow().clone()
    }

    /// Whether this is the newest commit, and waits for a person.
    pub(crate) fn waits_with(&self, snapshots: &Snapshots, revision: &Revision) -> bool {
        let followed = self.followed(snapshots);
        let waits = followed.braked().map(|(commit, _)| commit);
        !revision.dirty && waits.is_some() && waits == revision.commit.as_deref()
    }

    /// What is wrong with the newest commit, where this word names it and it does not check.
    pub(crate) fn unfit(&self, snapshots: &Snapshots, word: &str) -> Option<String> {
        let followed = self.followed(snapshots);
        let (commit, reason) = followed.unfit()?;
        (word.len() >= SHORTEST && commit.starts_with(&word.to_ascii_lowercase())).then(|| reason.to_owned())
    }

    /// Keeps what is known of the newest commit.
    fn keep(&self) {
        let _keeping = locked(&self.keeping);
        let newest = self.known().newest;
        // What is not kept is found again.
        if let Err(error) = newest::keep(&self.store, newest.as_ref()) {
            tracing::warn!(error = bramble_system::sentence(&error), "what was found of the newest commit is not kept");
        }
    }

    /// A person wants it looked at now. Gives how many looks were begun before.
    fn ask(&self) -> u64 {
        let mut begun = 0;
        self.state.send_modify(|state| {
            begun = state.begun;
            state.asked = Some(begun);
        });
        self.changed.tell();
        begun
    }

    /// A look begins; gives its number.
    fn begin(&self) -> u64 {
        let mut number = 0;
        self.state.send_modify(|state| {
            state.begun += 1;
            number = state.begun;
        });
        number
    }

    /// What came of a look that was begun after so many others.
    async fn after(&self, asked: u64) -> Followed {
        let mut state = self.state.subscribe();
        // A look has a time limit of its own; the head may end meanwhile.
        let seen = state.wait_for(|state| state.ended > asked).await;
        seen.map(|state| state.clone()).unwrap_or_default()
    }

    /// A look has ended.
    fn ended(&self, look: (u64, Millis), against: &Against, came: Came) -> Option<Told> {
        let mut told = None;
        self.state.send_modify(|state| told = state.end(look, against, came));
        self.keep();
        told
    }

    /// It guards nothing that a panic could leave half done: git's own folder is looked at anew each time.
    fn turn(&self) -> MutexGuard<'_, ()> {
        locked(&self.turn)
    }

    /// Ends what git is doing: a server that is silent would hold the head up for as long as git may wait.
    pub(crate) fn end(&self) {
        self.ends.cancel();
    }
}

impl Following {
    /// The head's public key for private repositories, and the server's pinned host key; also while git waits for a
    /// server that is silent.
    pub(crate) fn key(&self, source: Option<&repository::Source>) -> Result<(String, Option<String>), Problem> {
        let keys = Keys::open(&self.folder)?;
        let key = keys.deploy_key()?;
        let host = match source {
            Some(source) => keys.host_key(&settings(source, Some(&keys))?)?,
            None => None,
        };
        Ok((key, host))
    }

    /// Forgets the server's pinned host key.
    pub(crate) fn forget_host(&self, source: &repository::Source) -> Result<(), Problem> {
        let keys = Keys::open(&self.folder)?;
        keys.forget_host_key(&settings(source, Some(&keys))?)
    }

    /// The snapshot of a commit that was fetched and never became current, by its first digits.
    pub(crate) fn fetched(&self, snapshots: &Snapshots, word: &str) -> Result<Current, Refused> {
        let unknown = || Refused::Unknown(word.to_owned());
        let source = snapshots.source()?.ok_or_else(unknown)?;
        let fetched = self.named(&source, &word.to_ascii_lowercase()).map_err(|stopped| match stopped {
            Stopped::Unfit { reason, .. } => Refused::Unfit(reason),
            Stopped::Wrong(reason, help) => Error::Snapshot(format!("{reason}: {help}")).into(),
            Stopped::Current(_) | Stopped::Judged => unknown(),
        })?;
        take(snapshots, &fetched.ok_or_else(unknown)?)
    }

    /// A person wants the repository followed, and looked at now; gives what came of it.
    pub(crate) async fn sync(&self, snapshots: &Snapshots) -> Result<Followed, Error> {
        snapshots.hold(None)?;
        Ok(self.after(self.ask()).await.of(&Against::now(snapshots)))
    }
}

impl Controller {
    /// Looks at the repository, and makes current what may be. What it found is in [`Following`].
    fn look(&self, source: &repository::Source) {
        // From its beginning: what was pushed later may not be in it.
        let look = (self.following.begin(), now());
        let current = self.snapshots.current();
        let against = Against::of(Some(source), current.as_deref());
        let before = self.following.known();
        // Others may have crowded out a commit that waits, and a person may want it: it is judged anew.
        let stays = before.braked().is_none_or(|(commit, _)| self.snapshots.waits_on(commit));
        let judged = before.judged(&against).filter(|_| stays);
        let again = self.snapshots.lacks_files();
        let fetched = self.following.fetch(source, current.as_deref(), judged, again);
        let came = fetched.and_then(|fetched| self.judge(&fetched, current.as_deref()));
        let came = came.unwrap_or_else(|stopped| match stopped {
            Stopped::Current(_) => Came::Current,
            Stopped::Judged => Came::Judged,
            Stopped::Wrong(reason, help) => Came::Wrong { reason, help },
            Stopped::Unfit { commit, reason } => Came::Found(Newest { commit, obstacle: Obstacle::Unfit(reason) }),
        });
        let told = self.following.ended(look, &against, came);
        for commit in self.following.known().unwanted(&before) {
            self.snapshots.forget(commit);
        }
        match told {
            Some(Told::Waits(sentence)) => self.timeline.note(&sentence),
            // A look that the head's end has cut short says nothing of the repository.
            Some(Told::NotFollowed(reason)) if !self.following.ends.is_cancelled() => {
                tracing::warn!(reason, "the git repository is not followed");
                self.timeline.note(&format!("the git repository is not followed: {reason}"));
            }
            Some(Told::NotFollowed(_)) | None => {}
        }
    }

    /// What a commit's snapshot would destroy, in sentences.
    fn destroys(&self, commit: &str, current: Option<&Current>, next: &Current) -> Result<Vec<String>, Stopped> {
        let Some(current) = current else { return Ok(Vec::new()) };
        let destroyed = Handle::current().block_on(self.foresight.destroyed(current, next));
        let told = destroyed.map_err(|Unknown(reason)| {
            let reason = format!("commit {}: what it would destroy cannot be seen: {reason}", short(commit));
            Stopped::Wrong(reason, AGAIN.into())
        })?;
        Ok(told.into_iter().map(|step| format!("it {}: {}", step.risk, step.reason)).collect())
    }

    /// Makes a commit current, or says why it has to wait for a person.
    fn judge(&self, fetched: &Fetched, current: Option<&Current>) -> Result<Came, Stopped> {
        let next = take(&self.snapshots, fetched).map_err(|error| refused(&fetched.commit, error))?;
        // What was the same before came of another commit: the next one has to descend from this one.
        let next = next.of_revision(fetched.revision.clone());
        let descends = self.desired.descends(&next);
        // What is pushed onto a rewritten branch later descends from it, though its files are the same.
        if descends && current.is_some_and(|current| current.digest == next.digest) {
            let revised = self.snapshots.revise(next);
            return revised.map(|()| Came::Current).map_err(|error| refused(&fetched.commit, error.into()));
        }
        let (changed, mut reasons) = self.desired.weigh(&next, descends);
        reasons.extend(self.destroys(&fetched.commit, current, &next)?);
        if !reasons.is_empty() {
            return Ok(Came::Found(Newest { commit: fetched.commit.clone(), obstacle: Obstacle::Braked(reasons) }));
        }
        let expects = Some(current.map(|current| current.digest));
        let applied = self.desired.apply_weighed(next, changed, expects, BY, Follow::Came);
        applied.map(|_| Came::Current).map_err(|error| refused(&fetched.commit, error))
    }
}

/// Where the repository and the head's own key are, in the folder of its state.
pub(crate) fn folder(state: &Path) -> PathBuf {
    state.join("source")
}

/// The public half of the head's key, made where there is none.
///
/// # Errors
/// When the folder cannot be written.
pub(crate) fn deploy_key(state: &Path) -> Result<String, Problem> {
    Keys::open(&folder(state))?.deploy_key()
}

/// Fetches the first snapshot of a head that was begun with a repository's address, and the line of its history.
///
/// # Errors
/// What is wrong with the repository, or the way to it.
pub(crate) fn first_of(
    following: &Following,
    snapshots: &Snapshots,
    source: &repository::Source,
) -> Result<(Current, Applied), Error> {
    let told = |stopped: Stopped| match stopped {
        Stopped::Wrong(reason, help) => Error::Snapshot(format!("{reason}: {help}")),
        Stopped::Unfit { reason, .. } => Error::Snapshot(format!("{reason}: {CORRECT}")),
        Stopped::Current(commit) => Error::Snapshot(format!("commit {commit} is current already")),
        Stopped::Judged => Error::Snapshot("its newest commit was judged before".into()),
    };
    let fetched = following.fetch(source, None, None, false).map_err(told)?;
    let not = |error| told(refused(&fetched.commit, error));
    let next = take(snapshots, &fetched).map_err(not)?;
    let applied = Applied {
        digest: next.digest,
        revision: fetched.revision.clone(),
        at: now(),
        by: BY.into(),
        changed: vec!["the first snapshot".into()],
        holds: None,
        removed: BTreeSet::new(),
    };
    Ok((next, applied))
}

/// Whether a repository is followed: one that is declared, or none that the head was begun with.
fn is_known(snapshots: &Snapshots, declared: Option<&repository::Source>) -> Result<(), Unknown> {
    if declared.is_some() {
        return Ok(());
    }
    let begun_with = snapshots.begun_with();
    begun_with.map(drop).map_err(|error| {
        Unknown(format!("which repository is followed cannot be read: {}", bramble_system::sentence(&error)))
    })
}

/// What follows git, and what it changes.
#[derive(Clone)]
pub(crate) struct Controller {
    pub(super) following: Arc<Following>,
    pub(super) snapshots: Arc<Snapshots>,
    pub(super) desired: Arc<Desired>,
    pub(super) timeline: Arc<Timeline>,
    pub(super) foresight: Arc<dyn Foresight>,
}

impl super::Controller for Controller {
    type Planner = Source;

    const NAME: &'static str = "source";

    fn declared(&self, current: &Current) -> Option<repository::Source> {
        // Whether that is because it cannot be read is observed.
        self.snapshots.source_of(current).unwrap_or_default()
    }

    async fn observe(&self, declared: &Option<repository::Source>) -> Result<(Observed, Millis), Unknown> {
        is_known(&self.snapshots, declared.as_ref())?;
        let pointer = self.snapshots.pointer();
        let pointer = pointer.map_err(|error| {
            Unknown(format!("whether following is held cannot be read: {}", bramble_system::sentence(&error)))
        })?;
        let held = pointer.and_then(|pointer| pointer.held);
        let held = held.map(|held| bramble_model::desired::Held::from(held).to_string());
        let at = now();
        Ok((self.following.followed(&self.snapshots).observed(held, at), at))
    }

    async fn perform(&self, _: Planned<Look, ()>) -> Outcome {
        let source = match self.snapshots.source() {
            Ok(Some(source)) => source,
            Ok(None) => return Outcome::Done,
            Err(error) => {
                return Outcome::Failed { reason: bramble_system::sentence(&error), retry: Retry::BackOff };
            }
        };
        let looking = self.clone();
        let looked = tokio::task::spawn_blocking(move || looking.look(&source));
        match looked.await {
            Ok(()) => Outcome::Done,
            Err(error) => {
                let reason = format!("an error of bramble's own: {error}");
                Outcome::Failed { reason, retry: Retry::BackOff }
            }
        }
    }

    fn wakes(&self) -> Vec<watch::Receiver<u64>> {
        vec![self.following.changed.receiver()]
    }

    fn looks(&self) -> (Duration, Duration) {
        (Duration::from_secs(60), Duration::from_secs(60))
    }
}

/// Removes what a killed head left of a fetch and of a commit's files. Where it cannot, the next fetch says why.
pub(crate) fn sweep(state: &Path) {
    let folder = folder(state);
    if !folder.is_dir() {
        return;
    }
    // As long as this lives nobody else writes there.
    let cleaned = Git::open(&folder).and_then(|git| git.clean().map(|()| git));
    let _git = match cleaned {
        Ok(git) => git,
        Err(problem) => {
            let error = bramble_system::sentence(&problem);
            tracing::warn!(error, "what an aborted fetch may have left is not removed");
            return;
        }
    };
    for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("export-") {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests;
