//! Desired state: the snapshots of the repository that the head has, and which of them is current.
//!
//! ```text
//!  a folder, a commit ──offer──▶ candidate ──its contents come──▶ checked ──apply──▶ current ──▶ kept (50)
//!                                    └── does not check: nothing has changed, and what is wrong is said
//! ```
//! A snapshot that is current lies in `snapshots/DIGEST`, made anew from the store and the shelf at each start:
//! whoever serves or builds from files reads them there, and never in anybody's working tree.

mod current;
mod folder;
mod mending;
pub(crate) mod record;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bramble_image::Shelf;
use bramble_model::names::{Digest, Name};
use bramble_model::repository::tree::Tree;
use bramble_model::repository::{Cluster, Places, Problems, Severity, Source};
use bramble_model::snapshot::{Entry, Kept, Revision, SMALL, Snapshot};
use bramble_model::timeline::Millis;
use bramble_plan::brake::taken_away;
use bramble_plan::swarm;
use bramble_store::Store;
use bramble_system::{locked, now};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

pub(crate) use current::Current;
pub use current::image_inputs;
pub(crate) use record::{Applied, Follow, Held, Pointer, Stored};

use crate::error::Error;
use crate::readable::Readable;
use current::generation;
use waiting::{Candidate, Waiting};

/// Who holds following git where a snapshot was lost.
const THE_HEAD: &str = "the head";
/// Digits by which a snapshot or a commit is found, at least.
pub(crate) const SHORTEST: usize = 4;
/// Files that one sentence names.
const NAMED: usize = 5;

/// Why a snapshot does not become current.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the head has no snapshot or commit `{0}`")]
    Unknown(String),
    #[error("several snapshots begin with `{0}`")]
    Ambiguous(String),
    #[error("{}", first_error(.0))]
    Problems(Problems),
    /// What is wrong with a commit, as the look said that found it.
    #[error("{0}")]
    Unfit(String),
    #[error("it is no sound snapshot: a path leaves it, or it is too long")]
    Unsound,
    #[error("{} of its files have not come", .0.len())]
    Missing(Vec<Digest>),
    #[error("{} on the head's shelf any more", gone(.0))]
    Gone(Vec<String>),
    /// By what is current now, and who made it so.
    #[error("{0}: nothing was changed")]
    Overtaken(String),
    #[error("a person holds following git")]
    Held,
    #[error(transparent)]
    Head(#[from] Error),
}

/// The first error of a repository, with its place.
pub(crate) fn first_error(problems: &Problems) -> String {
    let first = problems.0.iter().find(|problem| problem.severity == Severity::Error);
    first
        .map_or_else(|| "it has errors".into(), |problem| format!("{}, line {}, {problem}", problem.file, problem.line))
}

/// Which files are gone.
fn gone(paths: &[String]) -> String {
    format!("{} {} not", named(paths), if paths.len() == 1 { "is" } else { "are" })
}

/// Paths, as many as one sentence takes.
fn named(paths: &[String]) -> String {
    let named = paths.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match paths.len() {
        0..=NAMED => named,
        more => format!("{named} and {} more", more - NAMED),
    }
}

impl Refused {
    /// Why a head does not start with it.
    fn at_the_start(self) -> Error {
        match self {
            Refused::Head(error) => error,
            Refused::Problems(problems) => Error::Repository(problems),
            other => Error::Snapshot(bramble_system::sentence(&other)),
        }
    }
}

/// The part of the head that owns desired state.
pub(crate) struct Snapshots {
    /// Where the current one lies as files.
    folder: PathBuf,
    /// What is no part of a repository is beside this: the head's own folder.
    home: PathBuf,
    shelf: Shelf,
    store: Store,
    waiting: Mutex<Waiting>,
    current: watch::Sender<Option<Arc<Current>>>,
    /// One change of the current snapshot at a time.
    changing: Mutex<()>,
    /// Why the current one is not laid out as it should be.
    trouble: Mutex<Option<String>>,
    /// Snapshots that this head has laid out itself, whole.
    laid_out: Mutex<BTreeSet<Digest>>,
    /// Why the one that the store calls current is not the one that is kept true. Then git is not followed.
    lost: Mutex<Option<Held>>,
}

impl Snapshots {
    /// Opens what the store has, and lays the current snapshot out as files.
    ///
    /// # Errors
    /// When the store cannot be read, or the files not be written.
    pub(crate) fn open(state: &Path, home: &Path, shelf: Shelf, store: Store) -> Result<Self, Error> {
        let snapshots = Snapshots {
            folder: state.join("snapshots"),
            home: home.to_owned(),
            shelf,
            store,
            waiting: Mutex::default(),
            current: watch::Sender::new(None),
            changing: Mutex::new(()),
            trouble: Mutex::new(None),
            laid_out: Mutex::default(),
            lost: Mutex::new(None),
        };
        let found = match snapshots.stored() {
            Ok(found) => found,
            Err(error) => snapshots.newest_but(&bramble_system::sentence(&error))?,
        };
        if let Some(current) = found {
            snapshots.restore(&current);
            snapshots.current.send_replace(Some(Arc::new(current)));
        }
        Ok(snapshots)
    }

    /// The one that the store calls current.
    fn stored(&self) -> Result<Option<Current>, Error> {
        let Some(pointer) = record::current(&self.store)? else {
            let kept = !record::all_known(&self.store)?.is_empty();
            let gone = || Error::Snapshot("which of those that are kept is current is not in the store".into());
            return if kept { Err(gone()) } else { Ok(None) };
        };
        let known = record::known(&self.store, &pointer.digest)?;
        let known = known.ok_or_else(|| {
            Error::Snapshot(format!("the current one, {}, is not in the store", pointer.digest.short()))
        })?;
        self.look_at_kept(&pointer.digest, &known.snapshot, &known.revision).map(Some).map_err(Refused::at_the_start)
    }

    /// In place of a current one that cannot be had: the newest of those that are kept and can be read whole. Nothing
    /// that cannot be read is written over: it is a person's to repair.
    fn newest_but(&self, reason: &str) -> Result<Option<Current>, Error> {
        let mut kept: Vec<(Digest, Stored)> = record::all_known(&self.store)?.into_iter().collect();
        kept.sort_by_key(|(_, known)| std::cmp::Reverse(known.at));
        // Large files that are not on the shelf are left out, and whoever asks for one is told.
        let is_whole = |snapshot: &Snapshot| {
            let contents = snapshot.contents();
            contents.iter().filter(|(_, size)| **size <= SMALL).all(|(digest, _)| self.content(digest).is_ok())
        };
        let whole = kept.iter().filter(|(_, known)| is_whole(&known.snapshot));
        let found = whole
            .into_iter()
            .find_map(|(digest, known)| self.look_at_kept(digest, &known.snapshot, &known.revision).ok());
        let instead = match &found {
            Some(current) => format!("snapshot {} takes its place", current.digest.short()),
            None => "none that is kept can take its place".into(),
        };
        let reason = format!(
            "the current snapshot cannot be had ({reason}); {instead}, and git is not followed until a person has seen \
             to it: `bramble store repair`, then `bramble apply`, or start the head again"
        );
        tracing::error!(reason, "the head goes on without its current snapshot");
        let held = Held { since: now(), by: THE_HEAD.into(), reason };
        if let Some(current) = &found {
            record::point_again(&self.store, &current.digest, &held)?;
        }
        *locked(&self.lost) = Some(held);
        Ok(found)
    }

    /// Why the one that the store calls current is not the one that is kept true.
    pub(crate) fn lost(&self) -> Option<String> {
        locked(&self.lost).as_ref().map(|held| held.reason.clone())
    }

    /// Why what is kept true may not be what was: it took the place of one that cannot be had, and no person has said
    /// since that it may. Nobody is let go and nothing is removed for it.
    pub(crate) fn in_doubt(&self) -> Option<String> {
        match self.pointer() {
            Ok(pointer) => pointer.and_then(|pointer| pointer.held).filter(|held| held.by == THE_HEAD),
            Err(_) => locked(&self.lost).clone(),
        }
        .map(|held| held.reason)
    }

    /// Lets go of what nobody has applied for too long, and of what it left on the shelf.
    pub(crate) fn tidy(&self) {
        self.waiting().tidy(now());
        if let Err(error) = self.sweep() {
            self.waiting().left.clear();
            let error = bramble_system::sentence(&error);
            tracing::warn!(error, "files of a snapshot that was never current stay until `bramble image gc`");
        }
    }

    /// Nobody can want a commit any more that waited to be applied: another one has taken its place, or it does not check.
    pub(crate) fn forget(&self, commit: &str) {
        self.waiting().forget(commit);
        self.tidy();
    }

    /// Removes from the shelf what nothing names that is kept, waits or boots; the next time, where someone puts something
    /// there now.
    fn sweep(&self) -> Result<(), Error> {
        if self.waiting().left.is_empty() {
            return Ok(());
        }
        let alone = match self.shelf.alone() {
            Err(bramble_image::Error::ShelfHeld { .. }) => return Ok(()),
            alone => alone.map_err(Error::image)?,
        };
        let kept = record::all_known(&self.store)?;
        // Whoever offers a snapshot is told afterwards what is missing.
        let mut waiting = self.waiting();
        let mut left = std::mem::take(&mut waiting.left);
        for content in kept.values().flat_map(|known| known.snapshot.contents().into_keys()) {
            left.remove(&content);
        }
        self.shelf.remove(&alone, &left).map_err(Error::image)
    }

    /// Whether a commit still waits to be applied. It waits on: a person may want it.
    pub(crate) fn waits_on(&self, commit: &str) -> bool {
        let mut waiting = self.waiting();
        let mut waits = false;
        for candidate in waiting.candidates.values_mut() {
            if candidate.is_of(commit) {
                (candidate.at, waits) = (now(), true);
            }
        }
        waits
    }

    /// Nodes whose machines a snapshot has taken away since then; `None` where that cannot be read.
    pub(crate) fn removed_since(&self, since: Millis) -> Option<BTreeSet<Name>> {
        let removed = record::removed_since(&self.store, since);
        removed.inspect_err(|error| tracing::error!(error = bramble_system::sentence(error), "the history")).ok()
    }

    /// Volumes of workloads whose files do not check in the current snapshot, as those said when they last did: what runs
    /// is of then. `None` where that cannot be read.
    pub(crate) fn volumes_before(&self, current: &Current) -> BTreeMap<Name, Option<BTreeSet<String>>> {
        let all = current.cluster.workloads.iter().filter(|(_, workload)| workload.problem.is_some());
        all.map(|(name, _)| (name.clone(), self.last_volumes(name))).collect()
    }

    fn last_volumes(&self, name: &Name) -> Option<BTreeSet<String>> {
        let lines = record::history(&self.store, usize::MAX).ok().filter(|lines| lines.lacks == 0)?;
        let mut looked_at = BTreeSet::new();
        for digest in lines.all.into_iter().map(|line| line.digest).filter(|digest| looked_at.insert(*digest)) {
            let known = record::known(&self.store, &digest).ok()??;
            let then = self.look_at_kept(&digest, &known.snapshot, &known.revision).ok()?;
            match then.cluster.workloads.get(name) {
                Some(workload) if workload.problem.is_some() => {}
                Some(workload) => return Some(workload.volumes.clone()),
                None => break,
            }
        }
        Some(BTreeSet::new())
    }

    /// Why files of the current snapshot may not be where they are served from.
    pub(crate) fn trouble(&self) -> Option<String> {
        locked(&self.trouble).clone()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Arc<Current>>> {
        self.current.subscribe()
    }

    pub(crate) fn current(&self) -> Option<Arc<Current>> {
        self.current.borrow().clone()
    }

    /// What a file of the current snapshot contains, by where it is laid out.
    pub(crate) fn content_of(&self, path: &Path) -> Option<Digest> {
        let current = self.current()?;
        let inside = path.strip_prefix(self.folder.join(current.digest.to_string())).ok()?;
        match current.snapshot.entries.get(inside.to_str()?)? {
            Entry::File { digest, .. } => Some(*digest),
            Entry::Folder | Entry::Link { .. } | Entry::Unread { .. } => None,
        }
    }

    /// The current one's cluster.
    pub(crate) fn cluster(&self) -> Arc<Cluster> {
        Arc::clone(&self.current().expect("a head runs with a snapshot").cluster)
    }

    /// The git repository with which this head was begun.
    ///
    /// # Errors
    /// When that cannot be read: there may be one.
    pub(crate) fn begun_with(&self) -> Result<Option<Source>, Error> {
        record::begun_with(&self.store)
    }

    /// The repository that is followed: the snapshot's own word, else the one with which the head was begun.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn source_of(&self, current: &Current) -> Result<Option<Source>, Error> {
        current.cluster.source.clone().map_or_else(|| self.begun_with(), |source| Ok(Some(source)))
    }

    /// The repository that is followed now, with the current snapshot.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn source(&self) -> Result<Option<Source>, Error> {
        self.current().map_or(Ok(None), |current| self.source_of(&current))
    }

    /// Whether a repository is followed with this snapshot, or may be.
    pub(crate) fn may_follow(&self, current: &Current) -> bool {
        !matches!(self.source_of(current), Ok(None))
    }

    /// Whether a repository is followed now, and would be with another snapshot: who makes that one current by hand holds
    /// following, or the next look would undo it. Who begins to follow one wants it looked at.
    pub(crate) fn follows(&self, next: &Current) -> bool {
        self.current().is_some_and(|current| self.may_follow(&current)) && self.may_follow(next)
    }

    /// Which one is current, since when and by whom, and why following git is held.
    ///
    /// # Errors
    /// When that cannot be read.
    pub(crate) fn pointer(&self) -> Result<Option<Pointer>, Error> {
        let pointer = record::current(&self.store)?;
        let lost = locked(&self.lost).clone();
        Ok(match (lost, self.current()) {
            (Some(lost), Some(current)) if pointer.as_ref().is_none_or(|kept| kept.digest != current.digest) => {
                let (digest, at, by) = (current.digest, lost.since, lost.by.clone());
                Some(Pointer { digest, at, by, held: Some(lost) })
            }
            _ => pointer,
        })
    }

    /// Holds following git, or goes on with it.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub(crate) fn hold(&self, held: Option<&Held>) -> Result<(), Error> {
        let goes_on = |pointer: &Pointer| self.current().is_some_and(|current| current.digest == pointer.digest);
        if let Some(lost) = self.lost().filter(|_| held.is_none())
            && !record::current(&self.store)?.as_ref().is_some_and(goes_on)
        {
            return Err(Error::Snapshot(lost));
        }
        let hold = || record::hold(&self.store, held);
        // What came by following and becomes current just now comes before, or not at all.
        if held.is_some() { self.in_turn(hold) } else { hold() }
    }

    /// Changes what is current, or what lies of it as files: one change at a time. After a panic of it memory has what the
    /// store has, before anybody else's turn comes.
    fn in_turn<T>(&self, change: impl FnOnce() -> T) -> T {
        let _turn = locked(&self.changing);
        catch_unwind(AssertUnwindSafe(change)).unwrap_or_else(|panic| {
            self.reload();
            resume_unwind(panic)
        })
    }

    fn reload(&self) {
        let stored = match self.stored() {
            Ok(Some(stored)) => stored,
            Ok(None) => return,
            Err(error) => {
                let error = bramble_system::sentence(&error);
                tracing::error!(error, "what is current by the store is not known after an error of bramble's own");
                return;
            }
        };
        self.current.send_if_modified(|current| {
            let said = |current: &Current| (current.digest, current.revision.clone());
            let lags = current.as_ref().is_none_or(|current| said(current) != said(&stored));
            if lags {
                *current = Some(Arc::new(stored));
            }
            lags
        });
        *locked(&self.lost) = None;
    }

    /// The latest lines of the history, the newest first.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(crate) fn history(&self, most: usize) -> Result<Readable<Applied>, Error> {
        record::history(&self.store, most)
    }

    /// Those that the head has.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(crate) fn kept(&self) -> Result<BTreeSet<Digest>, Error> {
        Ok(record::all_known(&self.store)?.into_keys().collect())
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        locked(&self.waiting)
    }

    /// A content, from where it lies: among those that just came, in the store, or on the shelf.
    fn content(&self, digest: &Digest) -> io::Result<Arc<[u8]>> {
        if let Some(bytes) = self.waiting().loose.get(digest) {
            return Ok(Arc::clone(bytes));
        }
        if let Some(bytes) = record::content(&self.store, digest).map_err(io::Error::other)? {
            return Ok(bytes.into());
        }
        let bytes = std::fs::read(self.shelf.file(digest))?;
        if Digest(Sha256::digest(&bytes).into()) != *digest {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is damaged on the head's shelf"));
        }
        Ok(bytes.into())
    }

    /// Those contents of a snapshot that are nowhere, or damaged.
    fn missing(&self, snapshot: &Snapshot) -> Result<Vec<Digest>, Error> {
        let mut missing = Vec::new();
        for (digest, size) in snapshot.contents() {
            let is_there = if size <= SMALL {
                let stored = match record::content(&self.store, &digest) {
                    Err(error) if error.is_unreadable() => None,
                    stored => stored?,
                };
                self.waiting().loose.contains_key(&digest) || stored.is_some()
            } else {
                self.shelf.is_whole(&digest, size)
            };
            if !is_there {
                missing.push(digest);
            }
        }
        Ok(missing)
    }

    /// Takes a candidate; gives its digest, and the contents that have to come before it can be applied.
    pub(crate) fn offer(&self, snapshot: Snapshot, revision: Revision) -> Result<(Digest, Vec<Digest>), Refused> {
        if !snapshot.is_sound() {
            return Err(Refused::Unsound);
        }
        let digest = snapshot.digest();
        // What waits is not swept from here on: what is there now stays.
        self.waiting().offer(digest, Candidate { snapshot: snapshot.clone(), revision, at: now() });
        let missing = self.missing(&snapshot)?;
        Ok((digest, missing))
    }

    /// A small content has come. Where there is no room, what waits for longest makes way.
    pub(crate) fn take_small(&self, bytes: &[u8]) -> bool {
        self.waiting().take(bytes, now())
    }

    /// A content of any length has come: it goes to the shelf.
    pub(crate) fn take_large(&self, digest: &Digest, content: impl Read) -> Result<(), bramble_image::Error> {
        let hold = self.shelf.hold()?;
        self.shelf.take_as(digest, content)?;
        drop(hold);
        // What was the last that the current one lacked: an image may be built of it at once.
        let names = |current: &Arc<Current>| current.snapshot.contents().contains_key(digest);
        if self.current().filter(names).is_some_and(|current| self.lacking(&current.snapshot).is_empty()) {
            self.mend();
        }
        Ok(())
    }

    /// Validates a snapshot from its contents alone.
    fn look(&self, digest: &Digest, snapshot: &Snapshot, revision: &Revision) -> Result<Current, Refused> {
        self.judged(Cluster::of, digest, snapshot, revision)
    }

    /// As [`Snapshots::look`], of one that is kept: perhaps since a release that asked for less.
    fn look_at_kept(&self, digest: &Digest, snapshot: &Snapshot, revision: &Revision) -> Result<Current, Refused> {
        self.judged(Cluster::of_kept, digest, snapshot, revision)
    }

    fn judged(
        &self,
        judge: fn(&dyn Tree, Places<'_>) -> Result<Cluster, Problems>,
        digest: &Digest,
        snapshot: &Snapshot,
        revision: &Revision,
    ) -> Result<Current, Refused> {
        let root = self.folder.join(digest.to_string());
        let content = |digest: &Digest| self.content(digest).map(|bytes| bytes.to_vec());
        let tree = Kept { snapshot, content };
        let cluster = judge(&tree, Places { root: &root, home: &self.home }).map_err(Refused::Problems)?;
        let mut workloads = BTreeMap::new();
        for (name, workload) in &cluster.workloads {
            let read = || {
                if let Some(problem) = &workload.problem {
                    return Err(problem.to_string());
                }
                let path = workload.path.strip_prefix(&root).unwrap_or(&workload.path);
                let file = tree.text(path).map_err(|error| error.to_string())?;
                Ok(swarm::Workload::Ready {
                    generation: generation(file.as_bytes()),
                    file: file.into(),
                    services: workload.services.clone(),
                })
            };
            workloads.insert(name.clone(), read().unwrap_or_else(|problem| swarm::Workload::Sick { problem }));
        }
        let (snapshot, revision) = (snapshot.clone(), revision.clone());
        Ok(Current { digest: *digest, snapshot, revision, cluster: Arc::new(cluster), workloads })
    }

    /// Reads the folder of a head that has no snapshot yet; gives it, and the line of its history.
    ///
    /// # Errors
    /// When it does not check.
    pub(crate) fn first(&self, home: &Path, revision: Revision) -> Result<(Current, Applied), Error> {
        // Errors show the line that breaks a rule where a person reads them.
        Cluster::of_folder(home)?;
        let (snapshot, files) =
            Snapshot::read(home).map_err(|source| Error::Folder { home: home.to_owned(), source })?;
        let applied = Applied {
            digest: snapshot.digest(),
            revision: revision.clone(),
            at: now(),
            by: "the head's own folder".into(),
            changed: vec!["as it was when the head started".into()],
            holds: None,
            removed: BTreeSet::new(),
        };
        Ok((self.take(snapshot, revision, &files).map_err(Refused::at_the_start)?, applied))
    }

    /// Makes the snapshot current with which a head begins. Where one was lost, nothing is stored: what cannot be read
    /// would be written over.
    ///
    /// # Errors
    /// When it cannot be laid out or stored; nothing is current then.
    pub(crate) fn begin(&self, next: Current, applied: Applied) -> Result<Arc<Current>, Error> {
        if let Some(current) = self.current().filter(|current| current.digest == next.digest) {
            return Ok(current);
        }
        if self.current().is_some() || self.lost().is_none() {
            return self.make_current(next, None, applied, Follow::Free).map_err(Refused::at_the_start);
        }
        self.lay_out(&next)?;
        let next = Arc::new(next);
        self.current.send_replace(Some(Arc::clone(&next)));
        Ok(next)
    }

    /// Takes a snapshot whose files lie on this machine, and checks it.
    pub(crate) fn take(
        &self,
        snapshot: Snapshot,
        revision: Revision,
        files: &BTreeMap<Digest, PathBuf>,
    ) -> Result<Current, Refused> {
        let (digest, missing) = self.offer(snapshot, revision)?;
        let sizes: BTreeMap<Digest, u64> =
            self.waiting().candidates.get(&digest).map(|candidate| candidate.snapshot.contents()).unwrap_or_default();
        let _hold = self.shelf.hold().map_err(Error::image)?;
        for content in missing {
            let Some(path) = files.get(&content) else { return Err(Refused::Missing(vec![content])) };
            let failed = Error::file("a file of the repository cannot be read", path);
            if sizes.get(&content).is_some_and(|size| *size <= SMALL) {
                let bytes = std::fs::read(path).map_err(failed)?;
                if Digest(Sha256::digest(&bytes).into()) != content || !self.take_small(&bytes) {
                    return Err(
                        Error::Snapshot(format!("{} changed while it was read: try again", path.display())).into()
                    );
                }
            } else {
                let file = std::fs::File::open(path).map_err(failed)?;
                self.take_large(&content, file).map_err(Error::image)?;
            }
        }
        self.find(&digest.to_string())
    }

    /// The snapshot that a word names: a digest's or a commit's first digits, of a candidate or of one that is kept.
    pub(crate) fn find(&self, word: &str) -> Result<Current, Refused> {
        let mut found: BTreeMap<Digest, (Snapshot, Revision)> = BTreeMap::new();
        let digits = word.to_ascii_lowercase();
        let is = |digest: &Digest, revision: &Revision| {
            let commit = revision.commit.as_deref().filter(|_| !revision.dirty).unwrap_or_default();
            digest.to_string().starts_with(&digits) || commit.starts_with(&digits)
        };
        if word.len() < SHORTEST || !word.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Refused::Unknown(word.to_owned()));
        }
        for (digest, candidate) in &self.waiting().candidates {
            if is(digest, &candidate.revision) {
                found.insert(*digest, (candidate.snapshot.clone(), candidate.revision.clone()));
            }
        }
        let known = record::all_known(&self.store)?;
        // What is current is of the commit that said it last; others that said the same are in the history, which a
        // whole digest needs nothing of: each push asks by one.
        let most = if word.parse::<Digest>().is_ok() { 0 } else { usize::MAX };
        let before = record::history(&self.store, most)?.all.into_iter().map(|line| (line.digest, line.revision));
        let said = known.iter().map(|(digest, known)| (*digest, known.revision.clone())).chain(before);
        for (digest, revision) in said.filter(|(digest, revision)| is(digest, revision)) {
            if let Some(known) = known.get(&digest) {
                found.entry(digest).or_insert_with(|| (known.snapshot.clone(), revision));
            }
        }
        let (digest, (snapshot, revision)) = match (found.pop_first(), found.is_empty()) {
            (Some(only), true) => only,
            (Some(_), false) => return Err(Refused::Ambiguous(word.to_owned())),
            (None, _) => return Err(Refused::Unknown(word.to_owned())),
        };
        let missing = self.missing(&snapshot)?;
        if !missing.is_empty() && self.current().is_none_or(|current| current.digest != digest) {
            return Err(Refused::Missing(missing));
        }
        // One that is kept was good when it came: a later rule takes no way back away.
        let is_new = self.waiting().candidates.contains_key(&digest);
        if is_new { self.look(&digest, &snapshot, &revision) } else { self.look_at_kept(&digest, &snapshot, &revision) }
    }

    /// The current snapshot is what another revision says, too, from now on. On disk when this returns; where another one
    /// is current by now, nothing has changed.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub(crate) fn revise(&self, next: Current) -> Result<(), Error> {
        self.in_turn(|| self.revise_now(next))
    }

    fn revise_now(&self, next: Current) -> Result<(), Error> {
        if self.current().is_none_or(|current| current.digest != next.digest || current.revision == next.revision) {
            return Ok(());
        }
        record::revise(&self.store, &next.digest, &next.revision)?;
        self.current.send_replace(Some(Arc::new(next)));
        Ok(())
    }

    /// Makes a snapshot current: on disk when this returns, with the line in the history. Where `expects` names
    /// another one than the current, nothing is changed.
    pub(crate) fn make_current(
        &self,
        next: Current,
        expects: Option<Option<Digest>>,
        applied: Applied,
        follow: Follow,
    ) -> Result<Arc<Current>, Refused> {
        self.in_turn(|| self.make_current_now(next, expects, applied, follow))
    }

    fn make_current_now(
        &self,
        next: Current,
        expects: Option<Option<Digest>>,
        applied: Applied,
        follow: Follow,
    ) -> Result<Arc<Current>, Refused> {
        let before = self.current();
        if expects.is_some_and(|expected| expected != before.as_ref().map(|current| current.digest)) {
            let now = match (before, self.pointer()?) {
                (Some(current), Some(pointer)) => {
                    format!("snapshot {} has become current meanwhile, by {}", current.digest.short(), pointer.by)
                }
                _ => "there is no current snapshot any more".into(),
            };
            return Err(Refused::Overtaken(now));
        }
        if follow == Follow::Came && self.pointer()?.is_some_and(|pointer| pointer.held.is_some()) {
            return Err(Refused::Held);
        }
        let _hold = self.shelf.hold().map_err(Error::image)?;
        // Until now its large files could be swept. What a backup has brought here may be current without them.
        if before.as_ref().is_none_or(|current| current.digest != next.digest) {
            let missing: BTreeSet<Digest> = self.missing(&next.snapshot)?.into_iter().collect();
            let is_gone = |entry: &Entry| matches!(entry, Entry::File { digest, .. } if missing.contains(digest));
            let paths = next.snapshot.entries.iter().filter(|(_, entry)| is_gone(entry)).map(|(path, _)| path.clone());
            let paths: Vec<String> = paths.collect();
            if !paths.is_empty() {
                return Err(Refused::Gone(paths));
            }
        }
        let contents = next.snapshot.contents();
        let large = contents.iter().filter(|(_, size)| **size > SMALL).map(|(digest, _)| *digest).collect();
        self.shelf.claim(&next.digest, &large).map_err(Error::image)?;
        let mut small = Vec::new();
        for (digest, _) in contents.iter().filter(|(_, size)| **size <= SMALL) {
            if record::content(&self.store, digest)?.is_none() {
                let bytes = self.content(digest);
                small.push((
                    *digest,
                    bytes.map_err(Error::file("a file of the snapshot cannot be read", &self.folder))?,
                ));
            }
        }
        self.lay_out(&next)?;
        let known = Stored { snapshot: next.snapshot.clone(), revision: next.revision.clone(), at: now() };
        let removes = before.as_ref().map(|before| taken_away(&before.cluster, &next.cluster));
        let applied = Applied { removed: removes.unwrap_or_default(), ..applied };
        let gone =
            record::make_current(&self.store, &next.digest, &known, &small, &applied, &follow).inspect_err(|_| {
                // What was never current claims nothing.
                if let Ok(None) = record::known(&self.store, &next.digest) {
                    let _ = self.shelf.release(&next.digest);
                }
            })?;
        let next = Arc::new(next);
        self.current.send_replace(Some(Arc::clone(&next)));
        *locked(&self.trouble) = None;
        *locked(&self.lost) = None;
        let mut waiting = self.waiting();
        waiting.candidates.remove(&next.digest);
        // The store has them now.
        waiting.loose.retain(|digest, _| !contents.contains_key(digest));
        waiting.tidy(now());
        drop(waiting);
        for digest in gone {
            // What is still claimed is only kept for longer.
            if let Err(error) = self.shelf.release(&digest) {
                tracing::warn!(error = bramble_system::sentence(&error), "a snapshot's files could not be released");
            }
        }
        Ok(next)
    }
}

#[cfg(test)]
mod lost_tests;
#[cfg(test)]
pub(crate) mod tests;
