//! Backups of what the head knows: its store and its keys, in one archive. Made while it runs, and by a timer.
//!
//! Boot sets are not in it: they are large, and `bramble image build` makes them again.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bramble_model::names::Digest;
use bramble_model::repository::Backup;
use bramble_model::timeline::Millis;
use bramble_store::Store;
use bramble_system::{files, now};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::Error;
use crate::membership::{self, Engines};
use crate::refusal::{Refusal, failed};
use crate::snapshots::Snapshots;
use crate::store::{STORE, beside};
use crate::timeline::Timeline;

/// Counts up when the form of a backup changes.
const FORM: u32 = 1;
/// The first entry: what the others are.
const CONTENTS: &str = "bramble-backup.json";
const KEYS: &str = "keys";
/// What a file of a backup's folder ends with.
const ENDING: &str = ".bramble-backup";
/// The longest file of a backup: a store of a thousand nodes has a hundredth of it.
const LONGEST: u64 = 1 << 30;

/// What is in a backup.
#[derive(Debug, Serialize, Deserialize)]
pub struct Contents {
    pub form: u32,
    pub cluster: String,
    /// bramble's version that wrote it.
    pub version: String,
    pub at: Millis,
    /// SHA-256 of each file, in order.
    files: Vec<(String, Digest)>,
}

/// Why a backup cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error("{}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{} is no backup of bramble's head: {reason}", path.display())]
    Malformed { path: PathBuf, reason: String },
    #[error(transparent)]
    Store(#[from] bramble_store::Error),
    #[error("{} is there already, and a head's state is not written over", .0.display())]
    Occupied(PathBuf),
}

impl Unusable {
    /// What the person can do about it.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Unusable::Store(error) => error.help(),
            Unusable::Malformed { .. } => {
                Some("give another backup: the folder of `[backup]` in bramble.toml has several")
            }
            Unusable::Occupied(_) => {
                Some("move head.redb and the folder `keys` of that state aside, both, and restore again")
            }
            Unusable::File { .. } => None,
        }
    }
}

/// The keys in the state folder, by their names in a backup.
fn keys(state: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let entries = fs::read_dir(state.join(KEYS))?.map(|entry| entry.map(|entry| entry.path()));
    let mut paths = entries.collect::<Result<Vec<_>, _>>()?;
    paths.sort();
    let named = paths.into_iter().filter(|path| path.is_file()).filter_map(|path| {
        let name = path.file_name()?.to_str()?;
        Some((format!("{KEYS}/{name}"), path))
    });
    Ok(named.collect())
}

fn append(archive: &mut tar::Builder<impl Write>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o600);
    archive.append_data(&mut header, name, bytes)
}

/// The part of the head that makes backups.
pub(crate) struct Backups {
    /// Where the store and the keys are.
    state: PathBuf,
    store: Store,
    snapshots: Arc<Snapshots>,
    timeline: Arc<Timeline>,
}

impl Backups {
    pub(crate) fn new(state: PathBuf, store: Store, snapshots: Arc<Snapshots>, timeline: Arc<Timeline>) -> Self {
        Backups { state, store, snapshots, timeline }
    }

    /// Writes a backup of this moment.
    ///
    /// # Errors
    /// When something cannot be read, or the output not be written.
    fn write(&self, output: impl Write) -> Result<(), Error> {
        let failed = |doing: &'static str| {
            let path = self.state.clone();
            move |source: io::Error| Error::File { doing, path, source }
        };
        let mut contents = Contents {
            form: FORM,
            cluster: self.snapshots.cluster().name.to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
            at: now(),
            files: Vec::new(),
        };
        let mut whole = vec![(STORE.to_owned(), self.store.blocking().copy()?)];
        for (name, path) in keys(&self.state).map_err(failed("cannot list the keys"))? {
            whole.push((name, fs::read(&path).map_err(Error::file("cannot read a key for the backup", &path))?));
        }
        let digest = |bytes: &[u8]| Digest(Sha256::digest(bytes).into());
        contents.files = whole.iter().map(|(name, bytes)| (name.clone(), digest(bytes))).collect();
        let write = || {
            let mut archive = tar::Builder::new(GzEncoder::new(output, Compression::default()));
            append(&mut archive, CONTENTS, &serde_json::to_vec_pretty(&contents).expect("plain data"))?;
            for (name, bytes) in &whole {
                append(&mut archive, name, bytes)?;
            }
            archive.into_inner()?.finish()?.flush()
        };
        write().map_err(failed("cannot write the backup"))
    }

    /// Makes a backup in this folder.
    pub(crate) fn make(&self, plan: &Backup) -> Result<(), Error> {
        let failed = |source| Error::File { doing: "cannot write a backup to", path: plan.folder.clone(), source };
        fs::create_dir_all(&plan.folder).map_err(failed)?;
        let mut bytes = Vec::new();
        self.write(&mut bytes)?;
        let name = format!("{}-{}{ENDING}", self.snapshots.cluster().name, now() / 1000);
        files::replace_secret(&plan.folder.join(name), &bytes).map_err(failed)?;
        self.timeline.note("a backup was made");
        Ok(())
    }

    /// Removes those that were made at these times.
    pub(crate) fn remove(&self, plan: &Backup, gone: &[Millis]) -> Result<(), Error> {
        let failed = |source| Error::File { doing: "cannot remove a backup in", path: plan.folder.clone(), source };
        for (_, path) in self.list(plan).map_err(failed)?.iter().filter(|(at, _)| gone.contains(at)) {
            fs::remove_file(path).map_err(failed)?;
        }
        Ok(())
    }

    /// This cluster's backups in a folder, and when they were made.
    pub(crate) fn list(&self, plan: &Backup) -> io::Result<Vec<(Millis, PathBuf)>> {
        let start = format!("{}-", self.snapshots.cluster().name);
        let entries = match fs::read_dir(&plan.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let found = entries.flatten().filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let seconds: Millis = name.strip_prefix(&start)?.strip_suffix(ENDING)?.parse().ok()?;
            Some((seconds * 1000, entry.path()))
        });
        Ok(found.collect())
    }
}

/// `POST /v1/backup`: a backup of this moment. It holds the cluster's keys.
pub(crate) async fn make(State(backups): State<Arc<Backups>>) -> Result<Response, Refusal> {
    let made = beside(move || {
        let mut bytes = Vec::new();
        backups.write(&mut bytes).map(|()| bytes)
    });
    match made.await {
        Ok(bytes) => Ok(([(header::CONTENT_TYPE, "application/gzip")], Body::from(bytes)).into_response()),
        Err(error) => Err(failed(error)),
    }
}

/// Puts a backup into an empty state folder: all of it, or nothing. Its store begins a new life, so that what the
/// old head told after the backup is known to be another's.
///
/// # Errors
/// When the backup is damaged, is of a newer bramble, or the folder has a head's state; then there is none in it
/// that a head could start with.
pub fn restore(backup: &Path, state: &Path, now: Millis) -> Result<Contents, Unusable> {
    let malformed = |reason: String| Unusable::Malformed { path: backup.to_owned(), reason };
    let file = |path: &Path| {
        let path = path.to_owned();
        move |source| Unusable::File { path, source }
    };
    for name in [STORE, KEYS] {
        if state.join(name).exists() {
            return Err(Unusable::Occupied(state.join(name)));
        }
    }
    let mut archive = tar::Archive::new(GzDecoder::new(File::open(backup).map_err(file(backup))?));
    let mut entries = Vec::new();
    for entry in archive.entries().map_err(|error| malformed(error.to_string()))? {
        let mut entry = entry.map_err(|error| malformed(error.to_string()))?;
        let name = entry.path().map_err(|error| malformed(error.to_string()))?.to_string_lossy().into_owned();
        let mut bytes = Vec::new();
        entry.by_ref().take(LONGEST).read_to_end(&mut bytes).map_err(|error| malformed(error.to_string()))?;
        entries.push((name, bytes));
    }
    let Some((_, first)) = entries.first().filter(|(name, _)| name == CONTENTS) else {
        return Err(malformed("its list of contents is missing".into()));
    };
    let contents: Contents =
        serde_json::from_slice(first).map_err(|error| malformed(format!("its list of contents: {error}")))?;
    if contents.form != FORM {
        let reason = format!(
            "it is of form {}, and this is bramble {} with form {FORM}",
            contents.form,
            env!("CARGO_PKG_VERSION")
        );
        return Err(malformed(reason));
    }
    let rest = &entries[1..];
    let listed = contents.files.iter().map(|(name, _)| name);
    if !listed.eq(rest.iter().map(|(name, _)| name)) {
        return Err(malformed("its files are not those that it lists".into()));
    }
    for ((name, bytes), (_, digest)) in rest.iter().zip(&contents.files) {
        let key =
            name.strip_prefix("keys/").is_some_and(|key| !key.is_empty() && !key.contains(['/', '\\']) && key != "..");
        if name != STORE && !key {
            return Err(malformed(format!("it has a file `{name}`")));
        }
        if Digest(Sha256::digest(bytes).into()) != *digest {
            return Err(malformed(format!("`{name}` is damaged")));
        }
    }
    fs::create_dir_all(state).map_err(file(state))?;
    let beside = state.join("restoring.redb");
    let placed = place(rest, state, &beside, now);
    if placed.is_err() {
        // What went wrong first is what the person hears.
        let _ = fs::remove_file(&beside);
    }
    placed.map(|()| contents)
}

/// The store is opened beside its place, and takes it last: a folder with a store has everything else.
fn place(entries: &[(String, Vec<u8>)], state: &Path, beside: &Path, now: Millis) -> Result<(), Unusable> {
    let file = |path: &Path| {
        let path = path.to_owned();
        move |source| Unusable::File { path, source }
    };
    let (stores, keys): (Vec<_>, Vec<_>) = entries.iter().partition(|(name, _)| name == STORE);
    for (_, bytes) in stores {
        files::replace_secret(beside, bytes).map_err(file(beside))?;
        let store = bramble_store::Blocking::open(beside, now)?;
        store.begin_new_life(now)?;
        store.update::<Engines, ()>(&membership::SWARM.to_owned(), |kept| {
            if let Some(record) = kept.as_mut() {
                record.is_from_before();
            }
        })?;
        if let Some(trouble) = store.trouble() {
            return Err(bramble_store::Error::NotLasting(trouble).into());
        }
    }
    fs::create_dir_all(state.join(KEYS)).map_err(file(&state.join(KEYS)))?;
    for (name, bytes) in keys {
        let path = state.join(name);
        files::replace_secret(&path, bytes).map_err(file(&path))?;
    }
    let store = state.join(STORE);
    match fs::exists(beside).map_err(file(beside))? {
        true => files::publish(beside, &store).map_err(file(&store)),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use bramble_store::{Blocking, Fence};

    use super::*;

    fn backup(folder: &Path, store: &[u8]) -> PathBuf {
        let contents = Contents {
            form: FORM,
            cluster: "c".into(),
            version: "0".into(),
            at: 1,
            files: [(STORE, store), ("keys/ca.key", b"secret")]
                .map(|(name, bytes)| (name.to_owned(), Digest(Sha256::digest(bytes).into())))
                .into(),
        };
        let path = folder.join("c.bramble-backup");
        let mut archive = tar::Builder::new(GzEncoder::new(File::create(&path).expect("made"), Compression::fast()));
        append(&mut archive, CONTENTS, &serde_json::to_vec(&contents).expect("JSON")).expect("written");
        append(&mut archive, STORE, store).expect("written");
        append(&mut archive, "keys/ca.key", b"secret").expect("written");
        archive.into_inner().and_then(GzEncoder::finish).expect("written");
        path
    }

    #[test]
    fn a_restored_store_begins_a_new_life_whatever_the_clock_says() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let old = Blocking::open(&folder.path().join("old"), 5000).expect("opens");
        let told = old.lead("swarm").expect("a lead");
        let path = backup(folder.path(), &old.copy().expect("copied"));
        for (now, life) in [(9000, 9000), (7, 5001)] {
            let state = folder.path().join(now.to_string());
            restore(&path, &state, now).expect("restored");
            let store = Blocking::open(&state.join(STORE), 1).expect("opens");
            let fence = store.lead("swarm").expect("a lead");
            assert_eq!(fence, Fence { life, number: 2 });
            assert!(fence > told);
            assert_eq!(fs::read(state.join("keys/ca.key")).expect("there"), b"secret");
            assert!(!state.join("restoring.redb").exists());
        }
    }

    #[test]
    fn a_store_that_does_not_open_is_not_put_into_place() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = backup(folder.path(), b"no store at all");
        let state = folder.path().join("state");
        assert!(matches!(restore(&path, &state, 1), Err(Unusable::Store(_))));
        assert!(!state.join(STORE).exists() && !state.join("restoring.redb").exists());
        assert!(!state.join("keys/ca.key").exists());
    }
}
