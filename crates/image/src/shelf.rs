//! Where boot sets are kept: files by digest, sets by the digest of their manifest. Which of them nodes are given is
//! in the head's store.
//!
//! ```text
//! files/SHA256                 kernels, initrds and layers, each once
//! sets/SHA256/manifest.json    and manifest.json.minisig, or `unsigned` until that is there
//! lock                         held by whoever puts something there, and alone by whoever removes
//! building/                    folders of builds under way
//! claims/SHA256                digests of files that a snapshot of the repository names, a line each
//! ```
//! A set appears by the rename of its folder after all its files are there. So there is never half a set, whatever
//! stops the builder.

mod hashed;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bramble_boot::{Day, MANIFEST, SIGNATURE, SOON, Statement, kept_file, kept_set};
use bramble_model::boot_set::{Architecture, Artifact, Manifest};
use bramble_model::names::Digest;
use bramble_system::files;
use sha2::{Digest as _, Sha256};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::signing::{Public, Secret, Signed, SigningKeys};
use crate::site::digest_of;
use hashed::Hashed;

/// The shelf of one cluster.
#[derive(Debug, Clone)]
pub struct Shelf {
    folder: PathBuf,
    hashed: Hashed,
}

/// A complete boot set.
#[derive(Debug, Clone)]
pub struct BootSet {
    pub digest: Digest,
    pub manifest: Manifest,
    pub built: SystemTime,
    /// What its signature says. Whether that is a good one, the nodes look at.
    pub signed: Signed,
}

/// What is signed of a set: what its signature says has to be so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToSign {
    pub set: Digest,
    /// The bytes of its manifest, which are text.
    pub manifest: String,
    /// The serial is greater than this.
    pub above: u64,
    pub floor: u64,
}

/// In a set's folder while it waits for its signature.
const UNSIGNED: &str = "unsigned";

/// Held while something is put on the shelf: until it is dropped, nothing is removed from there.
#[derive(Debug)]
pub struct Hold {
    _lock: Locked,
}

/// Held by whoever removes something: until it is dropped, nothing is put on the shelf.
#[derive(Debug)]
pub struct Alone {
    _lock: Locked,
}

/// A file with a lock, which ends with this. Closing the file is not enough: a child that another thread starts has the
/// file too, until it executes its program, and the lock belongs to all who have it (flock(2)).
#[derive(Debug)]
struct Locked(File);

impl Drop for Locked {
    fn drop(&mut self) {
        // It cannot fail on a file that is open; if it did, closing the file would end the lock all the same.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

/// What [`Shelf::sweep`] removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swept {
    pub sets: usize,
    pub files: usize,
    pub bytes: u64,
    /// What there is to say of sets that could not be read, a sentence each.
    pub notes: Vec<String>,
}

/// The sets of a shelf.
#[derive(Debug, Default)]
pub struct Listed {
    /// The newest first.
    pub sets: Vec<BootSet>,
    /// Those that cannot be read, and why.
    pub unreadable: Vec<(Digest, Error)>,
}

impl Shelf {
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, Error> {
        let folder = folder.into();
        for name in ["files", "sets", "claims", "building"] {
            let path = folder.join(name);
            files::make_folder(&path).map_err(Error::file("cannot make the folder", &path))?;
        }
        Ok(Shelf { folder, hashed: Hashed::default() })
    }

    fn lock_file(&self) -> Result<(PathBuf, File), Error> {
        let path = self.folder.join("lock");
        let open = || {
            let new = !path.exists();
            let file = File::options().read(true).append(true).create(true).open(&path)?;
            if new {
                files::give_to_owner_of(&self.folder, &file);
            }
            Ok(file)
        };
        let file = open().map_err(Error::file("cannot open the shelf's lock", &path))?;
        Ok((path, file))
    }

    /// Waits until nothing is being removed, and keeps it so: what is put on the shelf from now on stays,
    /// though no boot set names it yet. Several may hold it.
    ///
    /// # Errors
    /// When the lock cannot be had.
    pub fn hold(&self) -> Result<Hold, Error> {
        let (path, file) = self.lock_file()?;
        flock(&file, FlockOperation::LockShared)
            .map_err(|error| Error::file("cannot lock the shelf", &path)(error.into()))?;
        Ok(Hold { _lock: Locked(file) })
    }

    /// Keeps everyone from putting something there.
    ///
    /// # Errors
    /// [`Error::ShelfHeld`] while a build does: no boot set names it yet.
    pub fn alone(&self) -> Result<Alone, Error> {
        let (path, lock) = self.lock_file()?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Alone { _lock: Locked(lock) }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::ShelfHeld { by: holders(&lock) }),
            Err(error) => Err(Error::file("cannot lock the shelf", &path)(error.into())),
        }
    }

    /// An empty folder for a build that holds the shelf. It goes when it is dropped; where the build is killed, with
    /// the next sweep.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn workplace(&self, _hold: &Hold) -> Result<tempfile::TempDir, Error> {
        let folder = self.folder.join("building");
        let made = tempfile::tempdir_in(&folder).map_err(Error::file("cannot make a folder in", &folder))?;
        let opened = File::open(made.path()).map_err(Error::file("cannot open", made.path()))?;
        files::give_to_owner_of(&folder, opened);
        Ok(made)
    }

    /// Where a file of this digest lies or would lie.
    pub fn file(&self, digest: &Digest) -> PathBuf {
        kept_file(&self.folder, &digest.to_string())
    }

    /// The folder of a set's manifest and signature.
    pub fn set(&self, digest: &Digest) -> PathBuf {
        kept_set(&self.folder, &digest.to_string())
    }

    fn named_before_in(&self, architecture: Architecture) -> PathBuf {
        self.folder.join(match architecture {
            Architecture::Amd64 => "current".to_owned(),
            other => format!("current-{other}"),
        })
    }

    /// The set that nodes of this architecture were given before the head's store said so: it was in a file.
    ///
    /// # Errors
    /// When that is there and cannot be read.
    pub fn named_before(&self, architecture: Architecture) -> Result<Option<Digest>, Error> {
        let path = self.named_before_in(architecture);
        match fs::read_to_string(&path) {
            Ok(text) => {
                let digest = text.trim().parse();
                digest.map(Some).map_err(|_| Error::Malformed { path, problem: "it names no boot set".into() })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::file("cannot read", &path)(error)),
        }
    }

    /// Removes the file of [`Shelf::named_before`]. On disk when this returns.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn forget_named_before(&self, architecture: Architecture) -> Result<(), Error> {
        let path = self.named_before_in(architecture);
        match fs::remove_file(&path) {
            Ok(()) => files::sync_folder(&path).map_err(Error::file("cannot sync the folder of", &path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::file("cannot remove", &path)(error)),
        }
    }

    /// All sets. One that cannot be read is among them by its name.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn list(&self) -> Result<Listed, Error> {
        let path = self.folder.join("sets");
        let entries = fs::read_dir(&path).map_err(Error::file("cannot list boot sets", &path))?;
        let mut listed = Listed::default();
        for entry in entries {
            let name = entry.map_err(Error::file("cannot list boot sets", &path))?.file_name();
            if let Some(digest) = name.to_str().and_then(|name| name.parse().ok()) {
                match self.load(digest) {
                    Ok(set) => listed.sets.push(set),
                    Err(error) => listed.unreadable.push((digest, error)),
                }
            }
        }
        listed.sets.sort_by_key(|set| (std::cmp::Reverse(set.built), set.digest));
        listed.unreadable.sort_by_key(|(digest, _)| *digest);
        Ok(listed)
    }

    /// As [`Shelf::list`]; what says that it is of this key, and is not, cannot be read either. Sets of an earlier key are
    /// what they were.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn list_signed(&self, keys: &SigningKeys) -> Result<Listed, Error> {
        let Listed { sets, mut unreadable } = self.list()?;
        let is_sound = |set: &BootSet| {
            if set.signed == Signed::Not {
                return true;
            }
            let folder = self.set(&set.digest);
            let read = fs::read(folder.join(MANIFEST)).and_then(|bytes| Ok((bytes, fs::read(folder.join(SIGNATURE))?)));
            read.is_ok_and(|(bytes, signature)| keys.is_anothers(&signature) || keys.verifies(&bytes, &signature))
        };
        let (sets, forged): (Vec<_>, Vec<_>) = sets.into_iter().partition(is_sound);
        let problem = "its signature is not that of its manifest";
        unreadable.extend(forged.into_iter().map(|set| (set.digest, Error::DamagedSet { set: set.digest, problem })));
        unreadable.sort_by_key(|(digest, _)| *digest);
        Ok(Listed { sets, unreadable })
    }

    /// The set whose digest begins with `prefix`.
    ///
    /// # Errors
    /// When there is none, or more than one; when it cannot be read.
    pub fn find(&self, prefix: &str) -> Result<BootSet, Error> {
        let digits = prefix.to_ascii_lowercase();
        let Listed { sets, unreadable } = self.list()?;
        let sets = sets.into_iter().map(|set| (set.digest, Ok(set)));
        let all = sets.chain(unreadable.into_iter().map(|(digest, error)| (digest, Err(error))));
        let mut found = all.filter(|(digest, _)| digest.to_string().starts_with(&digits));
        match (found.next(), found.next()) {
            (Some((_, set)), None) if !prefix.is_empty() => set,
            _ => Err(Error::NoSuchSet(prefix.to_owned())),
        }
    }

    /// The set of this digest.
    ///
    /// # Errors
    /// [`Error::NotOnShelf`] when it is not there, [`Error::DamagedSet`] when it is damaged for good: one that a newer
    /// bramble wrote is not, nor is one that the disk does not give now.
    pub fn load(&self, digest: Digest) -> Result<BootSet, Error> {
        let folder = self.set(&digest);
        let damaged = |problem| Error::DamagedSet { set: digest, problem };
        let path = folder.join(MANIFEST);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(if self.is_absent(&digest) {
                    Error::NotOnShelf { set: digest }
                } else {
                    damaged("its manifest is gone")
                });
            }
            read => read.map_err(Error::file("cannot read the manifest", &path))?,
        };
        if Digest(Sha256::digest(&bytes).into()) != digest {
            return Err(damaged("its manifest is another one than its name says"));
        }
        let path_of_signature = folder.join(SIGNATURE);
        let signed = match fs::read(&path_of_signature) {
            Ok(signature) => Signed::of_file(&signature),
            Err(error) if error.kind() == io::ErrorKind::NotFound && folder.join(UNSIGNED).exists() => Signed::Not,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(damaged("its signature is gone")),
            Err(error) => return Err(Error::file("cannot read the signature", &path_of_signature)(error)),
        };
        let manifest: Manifest = serde_json::from_slice(&bytes)
            .map_err(|error| Error::Malformed { path: path.clone(), problem: error.to_string() })?;
        let built = fs::metadata(&path).and_then(|data| data.modified()).map_err(Error::file("cannot read", &path))?;
        Ok(BootSet { digest, manifest, built, signed })
    }

    fn is_absent(&self, digest: &Digest) -> bool {
        matches!(fs::symlink_metadata(self.set(digest)), Err(error) if error.kind() == io::ErrorKind::NotFound)
    }

    /// Takes a copy of `path`, under its digest.
    pub(crate) fn take(&self, path: &Path) -> Result<Artifact, Error> {
        let file = File::open(path).map_err(Error::file("cannot read", path))?;
        self.take_stream(file).map_err(|error| match error {
            Error::File { source, .. } => {
                Error::File { doing: "cannot take onto the shelf", path: path.to_owned(), source }
            }
            other => other,
        })
    }

    /// Takes what `source` gives, where it is what `digest` says.
    ///
    /// # Errors
    /// When it is something else, or the shelf takes no writes. What is something else is swept in time.
    pub fn take_as(&self, digest: &Digest, source: impl Read) -> Result<Artifact, Error> {
        let artifact = self.take_stream(source)?;
        if artifact.sha256 != *digest {
            let problem = format!("what came is {}: it changed on its way", artifact.sha256.short());
            return Err(Error::Malformed { path: digest.short().into(), problem });
        }
        Ok(artifact)
    }

    /// Whether a file of this digest and length is there. A damaged one may be, of the same length.
    pub fn has(&self, digest: &Digest, size: u64) -> bool {
        fs::metadata(self.file(digest)).is_ok_and(|data| data.len() == size)
    }

    /// Whether a file of this digest is there, and whole. It is hashed once, and again when it has changed.
    pub fn is_whole(&self, digest: &Digest, size: u64) -> bool {
        self.holds(&self.file(digest), digest, size)
    }

    /// Whether what lies at `path` is what `digest` says, as [`Shelf::is_whole`]: of a link to a file on the shelf, and
    /// of what may be taken onto it.
    pub fn holds(&self, path: &Path, digest: &Digest, size: u64) -> bool {
        self.hashed.holds(path, digest, size)
    }

    /// Keeps files from being swept while `claimant`, the digest of a snapshot, names them.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn claim(&self, claimant: &Digest, files: &BTreeSet<Digest>) -> Result<(), Error> {
        let path = self.folder.join("claims").join(claimant.to_string());
        let text: String = files.iter().map(|digest| format!("{digest}\n")).collect();
        files::replace(&path, text.as_bytes()).map_err(Error::file("cannot write", &path))
    }

    /// Nobody asks for this snapshot's files any more.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn release(&self, claimant: &Digest) -> Result<(), Error> {
        let path = self.folder.join("claims").join(claimant.to_string());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::file("cannot remove", &path)(error)),
            _ => Ok(()),
        }
    }

    /// The files that this snapshot names and the shelf has not, or not whole.
    ///
    /// # Errors
    /// When that cannot be read.
    pub fn lacks(&self, claimant: &Digest) -> Result<Vec<Digest>, Error> {
        let path = self.folder.join("claims").join(claimant.to_string());
        let text = fs::read_to_string(&path).map_err(Error::file("cannot read", &path))?;
        let named = text.lines().filter_map(|line| line.parse().ok());
        let is_lacking = |digest: &Digest| match digest_of(&self.file(digest)) {
            Ok(found) => found != *digest,
            Err(Error::File { source, .. }) => source.kind() == io::ErrorKind::NotFound,
            Err(_) => false,
        };
        Ok(named.filter(is_lacking).collect())
    }

    /// The files that snapshots name.
    fn claimed(&self) -> Result<BTreeSet<String>, Error> {
        let folder = self.folder.join("claims");
        let mut claimed = BTreeSet::new();
        for entry in fs::read_dir(&folder).map_err(Error::file("cannot list", &folder))? {
            let path = entry.map_err(Error::file("cannot list", &folder))?.path();
            let text = fs::read_to_string(&path).map_err(Error::file("cannot read", &path))?;
            claimed.extend(text.lines().map(str::to_owned));
        }
        Ok(claimed)
    }

    /// Takes what `source` gives, under its digest. A file that is there already is left alone where it is whole,
    /// and else replaced: a disk may have damaged it.
    pub(crate) fn take_stream(&self, mut source: impl Read) -> Result<Artifact, Error> {
        let folder = self.folder.join("files");
        let doing = "cannot write to the shelf";
        let mut new =
            tempfile::Builder::new().prefix(".taking-").tempfile_in(&folder).map_err(Error::file(doing, &folder))?;
        let mut hash = Sha256::new();
        let mut size = 0;
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = source.read(&mut buffer).map_err(Error::file(doing, &folder))?;
            if read == 0 {
                break;
            }
            hash.update(&buffer[..read]);
            new.write_all(&buffer[..read]).map_err(Error::file(doing, &folder))?;
            size += read as u64;
        }
        let sha256 = Digest(hash.finalize().into());
        let path = self.file(&sha256);
        let is_whole = self.has(&sha256, size) && digest_of(&path).is_ok_and(|found| found == sha256);
        if !is_whole {
            new.as_file().sync_all().map_err(Error::file(doing, &path))?;
            set_readable(new.as_file()).map_err(Error::file(doing, &path))?;
            files::give_to_owner_of(&folder, new.as_file());
            new.persist(&path).map_err(|error| Error::File { doing, path: path.clone(), source: error.error })?;
            files::sync_folder(&path).map_err(Error::file(doing, &path))?;
        }
        self.hashed.note(&path, sha256);
        Ok(Artifact { sha256, size })
    }

    /// Publishes a set whose files are all on the shelf. One that is there already is left alone where it is whole; where its
    /// time is up, or nearly so, or it does not say what is forbidden, it is signed again, if the key is here. A good signature
    /// never goes before there is another one. `now` is seconds since 1970, `lasts` seconds; `None` is for ever.
    ///
    /// # Errors
    /// [`Error::Forbidden`] where it is there and forbidden: that is lifted by a person's word alone.
    pub(crate) fn publish(
        &self,
        manifest: &Manifest,
        keys: &SigningKeys,
        floor: u64,
        now: u64,
        lasts: Option<u64>,
    ) -> Result<Digest, Error> {
        let bytes = serde_json::to_vec_pretty(manifest).expect("a manifest is plain data");
        let digest = Digest(Sha256::digest(&bytes).into());
        let place = self.set(&digest);
        // Where it is whole: what its signature says.
        let published = || {
            let is_same = fs::read(place.join(MANIFEST)).is_ok_and(|found| found == bytes);
            match fs::read(place.join(SIGNATURE)) {
                Ok(signature) => keys.said(&bytes, &signature),
                Err(_) => place.join(UNSIGNED).exists().then_some(Signed::Not),
            }
            .filter(|_| is_same)
        };
        let sign = || {
            let serial = keys.next_serial(now, self.above(floor)?)?;
            let said = Statement { serial, expires: lasts.map(|lasts| serial.saturating_add(lasts)), floor };
            keys.sign(&bytes, &said)
        };
        if let Some(signed) = published() {
            let lasts_on = match signed {
                Signed::Not => false,
                Signed::Plainly => floor == 0,
                Signed::Says(said) if said.serial < floor => return Err(Error::Forbidden { set: digest }),
                Signed::Says(said) => {
                    said.floor == floor && said.expires.is_none_or(|at| at > now.saturating_add(SOON))
                }
            };
            if !lasts_on && let Some(signature) = sign()? {
                self.put_signature(&digest, &signature)?;
            }
            return Ok(digest);
        }
        let signature = sign()?;
        let sets = self.folder.join("sets");
        let new = tempfile::Builder::new()
            .prefix(".publishing-")
            .tempdir_in(&sets)
            .map_err(Error::file("cannot make a folder", &sets))?;
        let write = |name: &str, bytes: &[u8]| {
            let path = new.path().join(name);
            files::replace(&path, bytes).map_err(Error::file("cannot write", &path))
        };
        write(MANIFEST, &bytes)?;
        match signature {
            Some(signature) => write(SIGNATURE, signature.as_bytes())?,
            None => write(UNSIGNED, b"")?,
        }
        let folder = File::open(new.path()).map_err(Error::file("cannot open", new.path()))?;
        files::give_to_owner_of(&sets, folder);
        match fs::rename(new.path(), &place) {
            Ok(()) => drop(new.keep()),
            // Another build has published the same set meanwhile.
            Err(_) if published().is_some() => {}
            // What lies there is damaged.
            Err(_) => {
                files::put_folder(new.path(), &place).map_err(Error::file("cannot publish the boot set", &place))?;
                drop(new.keep());
            }
        }
        files::sync_folder(&place).map_err(Error::file("cannot sync", &place))?;
        Ok(digest)
    }

    /// What the next serial is to be greater than: every one on the shelf, and all that is forbidden.
    fn above(&self, floor: u64) -> Result<u64, Error> {
        let said = self.list()?.sets.into_iter().filter_map(|set| Some(set.signed.statement()?.serial));
        Ok(said.chain([floor.saturating_sub(1)]).max().unwrap_or(0))
    }

    /// What whoever signs this set now has to know. `floor` is that of the cluster.
    ///
    /// # Errors
    /// When the set cannot be read.
    pub fn to_sign(&self, set: &Digest, floor: u64) -> Result<ToSign, Error> {
        let digest = self.load(*set)?.digest;
        let path = self.set(&digest).join(MANIFEST);
        let text = fs::read_to_string(&path).map_err(Error::file("cannot read the manifest", &path))?;
        Ok(ToSign { set: digest, manifest: text, above: self.above(floor)?, floor })
    }

    /// Takes a signature for a set in the place of the one that it has; `now` in seconds since 1970. On disk when this
    /// returns.
    ///
    /// # Errors
    /// [`Error::NoSignature`] when it is not one of a key that the set trusts, or says what is not so; when the set cannot be
    /// read, or the signature not be written.
    pub fn take_signature(&self, set: &Digest, floor: u64, now: u64, signature: &str) -> Result<Statement, Error> {
        let to_sign = self.to_sign(set, floor)?;
        let said = to_sign.said_by(signature, now)?;
        self.put_signature(set, signature)?;
        Ok(said)
    }

    /// Has a signature take the place of the one that a set has. On disk when this returns.
    fn put_signature(&self, set: &Digest, signature: &str) -> Result<(), Error> {
        let folder = self.set(set);
        let path = folder.join(SIGNATURE);
        files::replace(&path, signature.as_bytes()).map_err(Error::file("cannot write", &path))?;
        let waiting = folder.join(UNSIGNED);
        match fs::remove_file(&waiting) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %waiting.display(), %error, "it is signed all the same");
            }
            Ok(()) | Err(_) => {}
        }
        Ok(())
    }

    /// The highest floor that a signature on the shelf names; 0 where none does.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn floor_said(&self) -> Result<u64, Error> {
        Ok(self.list()?.sets.into_iter().filter_map(|set| Some(set.signed.statement()?.floor)).max().unwrap_or(0))
    }

    /// Removes all sets but those that nodes are given and the `keep` newest others, damaged ones that nobody is given,
    /// the files that no set names any more, and what stopped builds left behind. `given` has to be learnt while
    /// [`Alone`] is held. While a set stays that cannot be read, so do all files: some are its own.
    ///
    /// # Errors
    /// When something cannot be listed or removed.
    pub fn sweep(&self, _alone: &Alone, given: &BTreeSet<Digest>, keep: usize) -> Result<Swept, Error> {
        let mut swept = Swept::default();
        let Listed { sets, unreadable } = self.list()?;
        let mut all_are_known = true;
        for (digest, error) in unreadable {
            let short = digest.short();
            let why = bramble_system::sentence(&error);
            if matches!(error, Error::DamagedSet { .. }) && !given.contains(&digest) {
                self.remove_set(&digest, &mut swept)?;
                swept.notes.push(format!("boot set {short} is removed: {why}"));
            } else {
                all_are_known = false;
                let help = error.help().map(|help| format!("; {help}")).unwrap_or_default();
                swept.notes.push(format!("boot set {short} cannot be read, so no files are removed: {why}{help}"));
            }
        }
        let (current, others): (Vec<_>, Vec<_>) = sets.into_iter().partition(|set| given.contains(&set.digest));
        for set in others.iter().skip(keep) {
            self.remove_set(&set.digest, &mut swept)?;
        }
        if all_are_known {
            self.sweep_files(current.iter().chain(others.iter().take(keep)), &mut swept)?;
        }
        let building = self.folder.join("building");
        for entry in fs::read_dir(&building).map_err(Error::file("cannot list", &building))? {
            let path = entry.map_err(Error::file("cannot list", &building))?.path();
            fs::remove_dir_all(&path).map_err(Error::file("cannot remove", &path))?;
        }
        Ok(swept)
    }

    fn remove_set(&self, digest: &Digest, swept: &mut Swept) -> Result<(), Error> {
        let path = self.set(digest);
        fs::remove_dir_all(&path).map_err(Error::file("cannot remove the boot set", &path))?;
        swept.sets += 1;
        Ok(())
    }

    /// Removes those of these files that neither a set nor a snapshot names. While a set is there that cannot be read, it
    /// removes none: some may be its own.
    ///
    /// # Errors
    /// When something cannot be listed or removed.
    pub fn remove(&self, _alone: &Alone, files: &BTreeSet<Digest>) -> Result<(), Error> {
        let Listed { sets, unreadable } = self.list()?;
        if !unreadable.is_empty() {
            return Ok(());
        }
        let kept = self.named(sets.iter())?;
        for digest in files.iter().filter(|digest| !kept.contains(&digest.to_string())) {
            let path = self.file(digest);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::file("cannot remove", &path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The files that these sets and snapshots name.
    fn named<'a>(&self, sets: impl Iterator<Item = &'a BootSet>) -> Result<BTreeSet<String>, Error> {
        let mut named = self.claimed()?;
        named.extend(sets.flat_map(|set| set.manifest.artifacts()).map(|artifact| artifact.sha256.to_string()));
        Ok(named)
    }

    /// Removes the files that neither these sets nor snapshots name.
    fn sweep_files<'a>(&self, sets: impl Iterator<Item = &'a BootSet>, swept: &mut Swept) -> Result<(), Error> {
        let kept = self.named(sets)?;
        let files = self.folder.join("files");
        for entry in fs::read_dir(&files).map_err(Error::file("cannot list", &files))? {
            let entry = entry.map_err(Error::file("cannot list", &files))?;
            if !kept.contains(&*entry.file_name().to_string_lossy()) {
                swept.bytes += entry.metadata().map_or(0, |data| data.len());
                swept.files += 1;
                fs::remove_file(entry.path()).map_err(Error::file("cannot remove", &entry.path()))?;
            }
        }
        Ok(())
    }
}

/// How far ahead of a clock a time may be that is signed, in seconds: clocks differ, and whoever sends such a time to be
/// signed would be obeyed for ever.
const AHEAD: u64 = 24 * 3600;

impl ToSign {
    /// Its manifest, where that is the set's; what else was said of the set is of no account.
    ///
    /// # Errors
    /// [`Error::NoSignature`] when it is not.
    pub fn manifest(&self) -> Result<Manifest, Error> {
        let no = |problem: String| Error::NoSignature { set: self.set, problem };
        if Digest(Sha256::digest(self.manifest.as_bytes()).into()) != self.set {
            return Err(no("what the head gave is not its manifest".into()));
        }
        let manifest: Manifest = serde_json::from_str(&self.manifest)
            .map_err(|error| no(format!("its manifest is of another bramble: {error}")))?;
        if manifest.trusts.is_empty() {
            return Err(no("a bramble built it that did not say which keys it trusts: build it anew".into()));
        }
        Ok(manifest)
    }

    /// What a signature says of the set, where it is one that its nodes take.
    ///
    /// # Errors
    /// [`Error::NoSignature`] and what is wrong with it.
    fn said_by(&self, signature: &str, now: u64) -> Result<Statement, Error> {
        let no = |problem: String| Error::NoSignature { set: self.set, problem };
        let trusts = self.manifest()?.trusts;
        let trusted = trusts.iter().filter_map(|key| Public::parse(key).ok());
        let signed = trusted.into_iter().find_map(|key| key.said(self.manifest.as_bytes(), signature.as_bytes()));
        let Some(signed) = signed else {
            return Err(no(format!("none of the keys that it trusts has made it: {}", trusts.join(", "))));
        };
        let Signed::Says(said) = signed else {
            return Err(no("its trusted comment says no serial".into()));
        };
        if said.serial <= self.above {
            return Err(no(format!("its serial {} is not above {}, which was signed before", said.serial, self.above)));
        }
        if said.serial > now.max(self.above).saturating_add(AHEAD) {
            return Err(no(format!("it was signed on {}, which is ahead of this computer's clock", Day(said.serial))));
        }
        if said.floor != self.floor {
            return Err(no(format!("it names the floor {}, and that of the cluster is {}", said.floor, self.floor)));
        }
        if said.expires.is_some_and(|at| at <= said.serial) {
            return Err(no("it expires before it was made".into()));
        }
        Ok(said)
    }

    /// What is said of it from now on, for so many seconds.
    pub fn statement(&self, serial: u64, lasts: Option<u64>) -> Statement {
        Statement { serial, expires: lasts.map(|lasts| serial.saturating_add(lasts)), floor: self.floor }
    }

    /// Signs it with a key that lies off the head, from `now` on, for so many seconds.
    ///
    /// # Errors
    /// [`Error::NotTrusted`] when its stage 1 would refuse that key; [`Error::NoSignature`] when what the head gave is not
    /// what it names, or ahead of this computer's clock.
    pub fn sign(&self, key: &Secret, now: u64, lasts: Option<u64>) -> Result<String, Error> {
        let public = key.public()?.text();
        if !self.manifest()?.trusts.contains(&public) {
            return Err(Error::NotTrusted { set: self.set, key: public });
        }
        if self.above.max(self.floor) > now.saturating_add(AHEAD) {
            let latest = Day(self.above.max(self.floor));
            let problem =
                format!("the head says that something was signed on {latest}: is this computer's clock right?");
            return Err(Error::NoSignature { set: self.set, problem });
        }
        let serial = now.max(self.above.saturating_add(1));
        key.sign(self.manifest.as_bytes(), &self.statement(serial, lasts))
    }
}

/// The processes that hold a lock on this file (proc_locks(5)); none where they are of another namespace.
fn holders(lock: &File) -> Vec<u32> {
    use std::os::unix::fs::MetadataExt;
    let Ok(data) = lock.metadata() else { return Vec::new() };
    let (major, minor) = (rustix::fs::major(data.dev()), rustix::fs::minor(data.dev()));
    let file = format!("{major:02x}:{minor:02x}:{}", data.ino());
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    // `1: FLOCK  ADVISORY  READ 4242 08:01:1234 0 EOF`
    let holder = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, process, of, ..] = words[..] else { return None };
        process.parse().ok().filter(|process| of == file && *process > 0)
    };
    locks.lines().filter_map(holder).collect()
}

/// Temporary files are private; the head, perhaps another user, has to read this one.
fn set_readable(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

#[cfg(test)]
mod tests;
