//! Backups of what the head knows: its store and its keys, in one archive. Made while it runs, and by a timer.
//!
//! Boot sets are not in it: they are large, and `bramble image build` makes them again.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bramble_model::names::Digest;
use bramble_model::repository::Backup;
use bramble_model::timeline::Millis;
use bramble_plan::backups::expired;
use bramble_system::{files, now};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use crate::api::{Refusal, refuse};
use crate::{Error, Head};

/// Counts up when the form of a backup changes.
const FORM: u32 = 1;
/// The first entry: what the others are.
const CONTENTS: &str = "bramble-backup.json";
const STORE: &str = "head.redb";
const KEYS: &str = "keys";
/// What a file of a backup's folder ends with.
const ENDING: &str = ".bramble-backup";
/// How often the timer looks.
const LOOK: Duration = Duration::from_secs(60);
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
    #[error("{} is there already, and a head's state is not written over", .0.display())]
    Occupied(PathBuf),
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

impl Head {
    /// Writes a backup of this moment.
    ///
    /// # Errors
    /// When something cannot be read, or the output not be written.
    pub(crate) fn back_up(&self, output: impl Write) -> Result<(), Error> {
        let failed = |doing: &'static str| {
            let path = self.state.clone();
            move |source: io::Error| Error::File { doing, path, source }
        };
        let mut contents = Contents {
            form: FORM,
            cluster: self.cluster().name.to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
            at: now(),
            files: Vec::new(),
        };
        let mut whole = vec![(STORE.to_owned(), self.store.copy()?)];
        for (name, path) in keys(&self.state).map_err(failed("cannot list the keys"))? {
            whole.push((name, fs::read(&path).map_err(failed("cannot read a key for the backup"))?));
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

    /// Makes a backup in this folder, and removes those that have had their time.
    fn back_up_to(&self, plan: &Backup) -> Result<(), Error> {
        let failed = |source| Error::File { doing: "cannot write a backup to", path: plan.folder.clone(), source };
        fs::create_dir_all(&plan.folder).map_err(failed)?;
        let mut bytes = Vec::new();
        self.back_up(&mut bytes)?;
        let name = format!("{}-{}{ENDING}", self.cluster().name, now() / 1000);
        files::replace_secret(&plan.folder.join(name), &bytes).map_err(failed)?;
        let made = self.backups_in(plan).map_err(failed)?;
        let times: Vec<Millis> = made.iter().map(|(at, _)| *at).collect();
        let gone = expired(&times, now(), plan.keep, plan.days);
        for (_, path) in made.iter().filter(|(at, _)| gone.contains(at)) {
            fs::remove_file(path).map_err(failed)?;
        }
        Ok(())
    }

    /// This cluster's backups in a folder, and when they were made.
    fn backups_in(&self, plan: &Backup) -> io::Result<Vec<(Millis, PathBuf)>> {
        let start = format!("{}-", self.cluster().name);
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

/// Makes backups by the repository's plan, until cancelled.
pub(crate) async fn keep(head: Arc<Head>, stop: CancellationToken) {
    let mut failed = false;
    while !stop.is_cancelled() {
        let looking = Arc::clone(&head);
        let result = tokio::task::spawn_blocking(move || {
            let Some(plan) = looking.cluster().backup.clone() else { return Ok(false) };
            let last = looking.backups_in(&plan).unwrap_or_default().into_iter().map(|(at, _)| at).max().unwrap_or(0);
            if last + Millis::from(plan.every_hours) * 3600 * 1000 > now() {
                return Ok(false);
            }
            looking.back_up_to(&plan).map(|()| true)
        });
        match result.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())) {
            Ok(true) => {
                failed = false;
                head.timeline.note("a backup was made");
            }
            Ok(false) => {}
            Err(error) => {
                // Said once, and tried again and again.
                if !std::mem::replace(&mut failed, true) {
                    head.timeline.note(&format!("no backup could be made: {}", bramble_system::sentence(&error)));
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// `POST /v1/backup`: a backup of this moment. It holds the cluster's keys.
pub(crate) async fn make(State(head): State<Arc<Head>>) -> Result<Response, Refusal> {
    let made = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        head.back_up(&mut bytes).map(|()| bytes)
    });
    match made.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())) {
        Ok(bytes) => Ok(([(header::CONTENT_TYPE, "application/gzip")], Body::from(bytes)).into_response()),
        Err(error) => Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, bramble_system::sentence(&error), None)),
    }
}

/// Puts a backup into an empty state folder: all of it, or nothing.
///
/// # Errors
/// When the backup is damaged, or the folder has a head's state; nothing has been written then.
pub fn restore(backup: &Path, state: &Path) -> Result<Contents, Unusable> {
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
    // The store last: a folder with a store has everything else.
    fs::create_dir_all(state.join(KEYS)).map_err(file(&state.join(KEYS)))?;
    for (name, bytes) in rest.iter().rev() {
        let path = state.join(name);
        files::replace_secret(&path, bytes).map_err(file(&path))?;
    }
    Ok(contents)
}
