//! Backups of what the head knows: its store and its keys, also those by which a git repository's server and it know each
//! other, in one archive. Made while it runs, and by a timer. Records that cannot be read are in it as they are.
//!
//! ```text
//!  the repository names recipients ──▶ all of it, with the seal, encrypted to each of them
//!                 names none ── on the head's own socket ──▶ in the clear: keys as they lie there, sealed, and no seal
//!                             └─ over the network, by the timer ──▶ none is made
//! ```
//! Boot sets are not in it: they are large, and `bramble image build` makes them again. Neither is what was fetched.

mod archive;
mod recipients;
mod restore;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bramble_model::repository::recipient::HELP;
use bramble_model::repository::{Backup, Recipient};
use bramble_model::timeline::Millis;
use bramble_seal::Vault;
use bramble_store::{LOST, Store};
use bramble_system::{files, now};

use crate::access::Door;
use crate::ca::Authority;
use crate::error::Error;
use crate::refusal::{Refusal, failed, refuse};
use crate::snapshots::Snapshots;
use crate::store::{STORE, beside};
use crate::timeline::Timeline;
use crate::{ca, unreadable};

pub use archive::{Contents, contents_of};
pub use recipients::{Identities, new_identity};
pub use restore::{Opened, go_on, is_free, open};

const KEYS: &str = "keys";
/// The folders whose files are in a backup: also the deploy key, and the pinned keys of servers.
const FOLDERS: [&str; 3] = [KEYS, "source/key", "source/hosts"];
/// What a file of a backup's folder ends with.
const ENDING: &str = ".bramble-backup";

/// Why a backup cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error("{}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{} is no backup of bramble's head: {reason}", path.display())]
    Malformed { path: PathBuf, reason: String },
    #[error("{} is encrypted to {}", path.display(), to.join(", "))]
    Encrypted { path: PathBuf, to: Vec<String> },
    #[error("none of the keys in {} opens {}, which is encrypted to {}", identities.display(), path.display(), to.join(", "))]
    OtherIdentity { path: PathBuf, identities: PathBuf, to: Vec<String> },
    #[error("{} is no file of keys: it has no line that begins with AGE-SECRET-KEY-, or another one that is no remark", .0.display())]
    NoIdentity(PathBuf),
    #[error("{} has `{name}`, which is sealed, and not the head's seal", path.display())]
    NoSeal { path: PathBuf, name: String },
    #[error("{} has `{name}`, which the seal that is given does not open", path.display())]
    OtherSeal { path: PathBuf, name: String, source: bramble_seal::Unreadable },
    #[error("{} is no seal of a head", path.display())]
    Seal { path: PathBuf, source: bramble_seal::Unreadable },
    #[error("{} is of another cluster: its CA is {has}, and `cluster.ca` in the repository is {wanted}", path.display())]
    OtherCa { path: PathBuf, has: String, wanted: String },
    #[error(transparent)]
    Store(#[from] bramble_store::Error),
    #[error("{} is there already, and a head's state is not written over", .0.display())]
    Occupied(PathBuf),
    #[error("{} is there, and a restore that was cut off has another one for that place", .0.display())]
    InTheWay(PathBuf),
    #[error("{}: a key of its CA is not the one of the certificate beside it", .0.display())]
    OtherKey(PathBuf),
}

impl Unusable {
    /// What the person can do about it.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Unusable::Store(error) => error.help(),
            Unusable::Malformed { .. } => {
                Some("give another backup: the folder of `[backup]` in bramble.toml has several")
            }
            Unusable::Encrypted { .. } => {
                Some("give the file with the private half of one of these: --identity KEYFILE")
            }
            Unusable::OtherIdentity { .. } => Some("give the file with the private half of one of those"),
            Unusable::NoIdentity(_) => Some("`bramble backup keygen` and `age-keygen` write such files"),
            Unusable::NoSeal { .. } => Some(
                "give what `bramble head save-seal` wrote on the old head, or `keys/seal` of its folder where it had no TPM: --seal FILE",
            ),
            Unusable::OtherSeal { .. } | Unusable::Seal { .. } => {
                Some("give the seal that the old head had when the backup was made")
            }
            Unusable::OtherCa { .. } => Some(
                "give a backup of this cluster, and of after its CA was rotated; where the repository is to follow the other CA, correct `cluster.ca`",
            ),
            Unusable::InTheWay(_) => Some("move that aside, and nothing else, and start again: it goes on from there"),
            Unusable::OtherKey(_) => Some("nobody has made it like that by `bramble backup`: take another one"),
            Unusable::Occupied(_) => {
                Some("move head.redb and the folder `keys` of that state aside, both, and restore again")
            }
            Unusable::File { source, .. } if crate::error::is_full(source) => {
                Some("make room on that disk, and restore again: nothing has changed")
            }
            Unusable::File { .. } => None,
        }
    }
}

/// The files of the state folder that are in a backup beside store and seal, by their names in it.
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
            let is_half = bramble_seal::is_half(name.as_ref());
            (is_kept(folder, name) && !is_seal(folder, name) && !is_half)
                .then(|| (format!("{folder}/{name}"), path.clone()))
        }));
    }
    Ok(named)
}

/// Whether a backup has a file of this name in this folder. A store that comes out of a backup is never the first one of
/// its CA.
fn is_kept(folder: &str, name: &str) -> bool {
    !(folder == KEYS && name == ca::UNUSED)
}

/// Whether this is a seal, which is only in what is encrypted.
fn is_seal(folder: &str, name: &str) -> bool {
    folder == KEYS && (name == bramble_seal::SEAL || name == bramble_seal::NEXT)
}

/// Whether this is what a seal's file has, of whatever form.
fn is_any_seal(bytes: &[u8]) -> bool {
    bytes.starts_with(bramble_seal::BEGINS.as_bytes())
}

/// Where a file of a backup belongs, beside the store: its folder and its name.
fn belongs(file: &str) -> Option<(&'static str, &str)> {
    let of = |folder: &'static str| Some((folder, file.strip_prefix(folder)?.strip_prefix('/')?));
    let (folder, name) = FOLDERS.into_iter().find_map(of)?;
    (!matches!(name, "" | "." | "..") && !name.contains(['/', '\\'])).then_some((folder, name))
}

/// The part of the head that makes backups.
pub(crate) struct Backups {
    /// Where the store and the keys are.
    state: PathBuf,
    store: Store,
    snapshots: Arc<Snapshots>,
    timeline: Arc<Timeline>,
    authority: Arc<Authority>,
}

impl Backups {
    pub(crate) fn new(
        state: PathBuf,
        store: Store,
        snapshots: Arc<Snapshots>,
        timeline: Arc<Timeline>,
        authority: Arc<Authority>,
    ) -> Self {
        Backups { state, store, snapshots, timeline, authority }
    }

    /// A backup of this moment, encrypted to these; in the clear and without the seal where there are none.
    ///
    /// # Errors
    /// When something cannot be read.
    fn bytes(&self, recipients: &[Recipient]) -> Result<Vec<u8>, Error> {
        let listed = Error::file("cannot list the keys", &self.state);
        let mut files = vec![(STORE.to_owned(), self.store.blocking().copy()?)];
        let vault = Vault::open(&self.state.join(KEYS))?;
        // Of a CA that is rotated, all of one instant.
        let still = self.authority.still();
        // Nobody renews the seal while its secrets are read.
        let turn = vault.turn()?;
        for (name, path) in keys(&self.state).map_err(listed)? {
            let bytes = fs::read(&path).map_err(Error::file("cannot read a key for the backup", &path))?;
            // A copy of a seal, whatever its name: what it seals would lie beside it in the clear.
            if !is_any_seal(&bytes) {
                files.push((name, bytes));
            }
        }
        if !recipients.is_empty() {
            let seals = vault.seal_files(&turn)?;
            files.extend(seals.into_iter().map(|(name, bytes)| (format!("{KEYS}/{name}"), bytes)));
        }
        drop((turn, still));
        let written = archive::whole(&self.snapshots.cluster().name, now(), files, recipients);
        written.map_err(Error::file("cannot write the backup of", &self.state))
    }

    /// Makes a backup in this folder.
    pub(crate) fn make(&self, plan: &Backup) -> Result<(), Error> {
        let failed = |source| Error::File { doing: "cannot write a backup to", path: plan.folder.clone(), source };
        if plan.recipients.is_empty() {
            return Err(Error::NoRecipients);
        }
        files::make_folder(&plan.folder).map_err(failed)?;
        let bytes = self.bytes(&plan.recipients)?;
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

/// `POST /v1/backup`: a backup of this moment. It holds the cluster's keys, and leaves the head's machine only encrypted.
pub(crate) async fn make(
    State(backups): State<Arc<Backups>>,
    Extension(door): Extension<Door>,
) -> Result<Response, Refusal> {
    let recipients = backups.snapshots.cluster().backup.as_ref().map(|backup| backup.recipients.clone());
    let recipients = recipients.unwrap_or_default();
    if recipients.is_empty() && !matches!(door, Door::Socket { is_owner: true, .. }) {
        let why = "a backup holds the cluster's keys, and over the network it is given encrypted only: the repository names \
                   nobody to encrypt it to (`[backup] recipients`)";
        return Err(refuse(StatusCode::CONFLICT, why, Some(HELP)));
    }
    let kind = if recipients.is_empty() { "application/gzip" } else { "application/octet-stream" };
    match beside(move || backups.bytes(&recipients)).await {
        Ok(bytes) => Ok(([(header::CONTENT_TYPE, kind)], Body::from(bytes)).into_response()),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests;
