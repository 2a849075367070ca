//! Backups of what the head knows: its store and its keys, also those by which a git repository's server and it know each
//! other, in one archive. Made while it runs, and by a timer. Records that cannot be read are in it as they are.
//!
//! Boot sets are not in it: they are large, and `bramble image build` makes them again. Neither is what was fetched.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bramble_model::engine::EngineKind;
use bramble_model::names::Digest;
use bramble_model::repository::Backup;
use bramble_model::timeline::Millis;
use bramble_store::{LOST, Store};
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
use crate::{ca, unreadable};

/// Counts up when the form of a backup changes. One of form 1 has nothing of `source`, and is restored as any other.
const FORM: u32 = 2;
/// The first entry: what the others are.
const CONTENTS: &str = "bramble-backup.json";
const KEYS: &str = "keys";
/// The folders whose files are in a backup: also the deploy key, and the pinned keys of servers.
const FOLDERS: [&str; 3] = [KEYS, "source/key", "source/hosts"];
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

/// The files of the state folder that are in a backup beside the store, by their names in it.
fn keys(state: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut named = Vec::new();
    for folder in FOLDERS {
        let entries = match fs::read_dir(state.join(folder)) {
            // A head that follows no repository.
            Err(error) if error.kind() == io::ErrorKind::NotFound && folder != KEYS => continue,
            entries => entries?.map(|entry| entry.map(|entry| entry.path())),
        };
        let mut paths = entries.collect::<Result<Vec<_>, _>>()?;
        paths.sort();
        named.extend(paths.into_iter().filter(|path| path.is_file()).filter_map(|path| {
            let name = path.file_name()?.to_str()?;
            is_kept(folder, name).then(|| (format!("{folder}/{name}"), path.clone()))
        }));
    }
    Ok(named)
}

/// Whether a backup has a file of this name in this folder. A store that comes out of a backup is never the first one of
/// its CA.
fn is_kept(folder: &str, name: &str) -> bool {
    !(folder == KEYS && name == ca::UNUSED)
}

/// Where a file of a backup belongs, beside the store: its folder and its name.
fn belongs(file: &str) -> Option<(&'static str, &str)> {
    let of = |folder: &'static str| Some((folder, file.strip_prefix(folder)?.strip_prefix('/')?));
    let (folder, name) = FOLDERS.into_iter().find_map(of)?;
    (!matches!(name, "" | "." | "..") && !name.contains(['/', '\\'])).then_some((folder, name))
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
        files::make_folder(&plan.folder).map_err(failed)?;
        let mut bytes = Vec::new();
        self.write(&mut bytes)?;
        let name = format!("{}-{}{ENDING}", self.snapshots.cluster().name, now() / 1000);
        files::replace_secret(&plan.folder.join(name), &bytes).map_err(failed)?;
        self.timeline.note(&match unreadable::number(&self.store)? {
            0 => "a backup was made".to_owned(),
            number => format!("a backup was made, and {number} records in it cannot be read: {LOST}"),
        });
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
    if !(1..=FORM).contains(&contents.form) {
        let reason = format!(
            "it is of form {}, and this is bramble {} with forms up to {FORM}",
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
        if name != STORE && belongs(name).is_none() {
            return Err(malformed(format!("it has a file `{name}`")));
        }
        if Digest(Sha256::digest(bytes).into()) != *digest {
            return Err(malformed(format!("`{name}` is damaged")));
        }
    }
    files::make_folder(state).map_err(file(state))?;
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
        for kind in EngineKind::ALL {
            let marked = match kind {
                // What came after the backup is not in it: a Swarm may have been begun since.
                EngineKind::Swarm => store.update::<Engines, ()>(&membership::SWARM.to_owned(), |kept| {
                    if let Some(record) = kept.as_mut() {
                        record.is_from_before();
                    }
                }),
            };
            match marked {
                // It waits for a person as it did before: until then nothing is planned for the engine, and after a
                // repair there is no word of one, which may be lost (see `membership`).
                Err(bramble_store::Error::Unreadable(record)) => tracing::warn!(%record, "it is restored as it is"),
                marked => marked?,
            }
        }
    }
    files::make_secret_folder(&state.join(KEYS)).map_err(file(&state.join(KEYS)))?;
    for (name, bytes) in keys {
        let Some((folder, name)) = belongs(name).filter(|(folder, name)| is_kept(folder, name)) else { continue };
        let folder = state.join(folder);
        files::make_secret_folder(&folder).map_err(file(&folder))?;
        let path = folder.join(name);
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
    use bramble_plan::swarm::Memory;
    use bramble_store::{Blocking, Fence, Record as _};
    use bramble_testing::{as_root, given, not_given};

    use super::*;

    /// As a former bramble made it: of form 1.
    fn backup(folder: &Path, store: &[u8]) -> PathBuf {
        backup_of(folder, 1, &[(STORE, store), ("keys/ca.key", b"secret")])
    }

    fn backup_of(folder: &Path, form: u32, files: &[(&str, &[u8])]) -> PathBuf {
        let listed = files.iter().map(|(name, bytes)| ((*name).to_owned(), Digest(Sha256::digest(bytes).into())));
        let contents = Contents { form, cluster: "c".into(), version: "0".into(), at: 1, files: listed.collect() };
        let path = folder.join("c.bramble-backup");
        let mut archive = tar::Builder::new(GzEncoder::new(File::create(&path).expect("made"), Compression::fast()));
        append(&mut archive, CONTENTS, &serde_json::to_vec(&contents).expect("JSON")).expect("written");
        for (name, bytes) in files {
            append(&mut archive, name, bytes).expect("written");
        }
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
            let store = Store::open(&state.join(STORE), 1).expect("opens");
            let fence = store.blocking().lead("swarm").expect("a lead");
            assert_eq!(fence, Fence { life, number: 2 });
            assert!(fence > told);
            // Agents are told the life that they are asked in, and obey no older one.
            let asked = crate::swarm::Swarm::open(store.clone()).lead().expect("a lead");
            assert_eq!((asked.life, store.blocking().life().expect("read")), (life, life));
            assert_eq!(fs::read(state.join("keys/ca.key")).expect("there"), b"secret");
            assert!(!state.join("restoring.redb").exists());
        }
    }

    #[test]
    fn a_record_that_cannot_be_read_is_restored_as_it_is_and_no_swarm_begins_for_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let old = Blocking::open(&folder.path().join("old"), 5000).expect("opens");
        let (table, key) = (Engines::TABLE, Engines::key(&membership::SWARM.to_owned()));
        let torn = bramble_store::Write::Put { table, key: key.clone(), bytes: b"1 {torn".to_vec() };
        old.commit(&[], &[torn]).expect("written");
        let path = backup(folder.path(), &old.copy().expect("copied"));
        let state = folder.path().join("state");
        restore(&path, &state, 9000).expect("restored");
        {
            let store = Store::open(&state.join(STORE), 1).expect("opens");
            assert_eq!(store.blocking().life().expect("read"), 9000);
            let kept = store.blocking().get(table, &key).expect("read").expect("there");
            assert_eq!(kept.bytes, b"1 {torn", "nothing is written over");
            assert!(membership::swarm(&store).expect_err("it waits").is_unreadable());
        }
        assert_eq!(unreadable::list_of(&state).expect("read").len(), 1, "it is known by name");
        assert_eq!(unreadable::repair_of(&state).expect("repaired").records, 1);
        let store = Store::open(&state.join(STORE), 1).expect("opens");
        assert_eq!(membership::swarm(&store).expect("read").memory, Memory::Lost, "one may live");
    }

    #[test]
    fn the_keys_towards_a_repositorys_server_are_in_a_backup() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let state = folder.path().join("old");
        let files = [
            ("keys/ca.key", &b"secret"[..]),
            ("keys/unused", b"no store yet"),
            ("source/key/id_ed25519", b"a key"),
            ("source/hosts/git.home.arpa_22", b"a pinned key"),
            ("source/repository.git/HEAD", b"fetched again"),
        ];
        for (name, bytes) in files {
            let path = state.join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, bytes).expect("written");
        }
        let listed: Vec<String> = keys(&state).expect("listed").into_iter().map(|(name, _)| name).collect();
        assert_eq!(listed, ["keys/ca.key", "source/key/id_ed25519", "source/hosts/git.home.arpa_22"]);

        let store = Blocking::open(&folder.path().join("store"), 5000).expect("opens").copy().expect("copied");
        let [ca, unused, key, host, _] = files;
        let path = backup_of(folder.path(), FORM, &[(STORE, &store), ca, unused, key, host]);
        let new = folder.path().join("new");
        restore(&path, &new, 1).expect("restored");
        for (name, bytes) in [ca, key, host] {
            assert_eq!(fs::read(new.join(name)).expect(name), bytes, "{name}");
        }
        assert!(!new.join("keys/unused").exists(), "this store is not the first of its CA");
        for wrong in ["source/key/..", "source/key/", "keys/.", "keys/a\\b"] {
            assert_eq!(belongs(wrong), None, "{wrong}");
        }
        for wrong in ["source/hosts/a/b", "source/lock", "other/x", "keys"] {
            let path = backup_of(folder.path(), FORM, &[(STORE, &store), (wrong, b"x")]);
            let refused = restore(&path, &folder.path().join("nothing"), 1);
            assert!(matches!(refused, Err(Unusable::Malformed { .. })), "{wrong}");
        }
    }

    /// `sudo bramble serve` and `sudo bramble restore`, and then both without.
    #[test]
    fn what_root_backs_up_and_restores_belongs_to_the_owner_of_the_folder() {
        if !as_root("backup::tests::what_root_backs_up_and_restores_belongs_to_the_owner_of_the_folder") {
            return;
        }
        let home = tempfile::tempdir().expect("a temporary folder");
        given(home.path());
        let text = "[cluster]\nname = \"c\"\n[network]\ninterface = \"lo\"\n";
        let (store, snapshots, current) = crate::snapshots::tests::begun(home.path(), text);
        let state = home.path().join(".bramble");
        for name in ["keys/ca.key", "source/key/id_ed25519"] {
            let path = state.join(name);
            files::make_secret_folder(path.parent().expect("a folder")).expect("made");
            files::replace_secret(&path, b"secret").expect("written");
        }
        let timeline = Arc::new(Timeline::open(store.clone(), &current.cluster, 0).expect("opens"));
        let backups = Backups::new(state, store, snapshots, timeline);
        let folder = home.path().join("backups/head");
        let plan = Backup { folder, every_hours: 24, keep: 14, days: 90 };
        backups.make(&plan).expect("made");
        let [(_, backup)] = &backups.list(&plan).expect("listed")[..] else { panic!("there is one") };
        let restored = home.path().join("restored");
        restore(backup, &restored.join(".bramble"), 9).expect("restored");
        assert!(restored.join(".bramble/source/key/id_ed25519").exists());
        let roots: Vec<PathBuf> =
            [home.path().join("backups"), restored].iter().flat_map(|made| not_given(made)).collect();
        assert!(roots.is_empty(), "{roots:?}");
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
