//! Where boot sets are kept: files by digest, sets by the digest of their manifest, and the name
//! of the current one.
//!
//! ```text
//! files/SHA256                 kernels, initrds and layers, each once
//! sets/SHA256/manifest.json    and manifest.json.minisig
//! current                      the digest of the set that nodes are given; for other architectures
//!                              than amd64, `current-arm64`
//! ```
//! A set appears by the rename of its folder after all its files are there; `current` changes by
//! rename. So there is never half a set, whatever stops the builder.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bramble_model::boot_set::{Architecture, Artifact, Manifest};
use bramble_model::names::Digest;
use bramble_system::files;
use sha2::{Digest as _, Sha256};

use crate::Error;
use crate::signing::SigningKey;

/// The shelf of one cluster.
#[derive(Debug, Clone)]
pub struct Shelf {
    folder: PathBuf,
}

/// A complete boot set.
#[derive(Debug, Clone)]
pub struct BootSet {
    pub digest: Digest,
    pub manifest: Manifest,
    pub built: SystemTime,
    pub current: bool,
}

/// What [`Shelf::sweep`] removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    pub sets: usize,
    pub files: usize,
    pub bytes: u64,
}

impl Shelf {
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, Error> {
        let folder = folder.into();
        for name in ["files", "sets"] {
            let path = folder.join(name);
            fs::create_dir_all(&path).map_err(Error::file("cannot make the folder", &path))?;
        }
        Ok(Shelf { folder })
    }

    /// Where a file of this digest lies or would lie.
    pub fn file(&self, digest: &Digest) -> PathBuf {
        self.folder.join("files").join(digest.to_string())
    }

    /// The folder of a set's manifest and signature.
    pub fn set(&self, digest: &Digest) -> PathBuf {
        self.folder.join("sets").join(digest.to_string())
    }

    /// The file that names the set for `architecture`.
    fn current_file(&self, architecture: Architecture) -> PathBuf {
        self.folder.join(match architecture {
            Architecture::Amd64 => "current".to_owned(),
            other => format!("current-{other}"),
        })
    }

    /// The set that nodes of this architecture are given.
    ///
    /// # Errors
    /// [`Error::NoBootSet`] before the first build.
    pub fn current(&self, architecture: Architecture) -> Result<BootSet, Error> {
        let none = || Error::NoBootSet { architecture };
        let text = fs::read_to_string(self.current_file(architecture)).map_err(|_| none())?;
        self.load(text.trim().parse().map_err(|_| none())?)
    }

    /// All sets, the newest first.
    pub fn list(&self) -> Result<Vec<BootSet>, Error> {
        let path = self.folder.join("sets");
        let entries = fs::read_dir(&path).map_err(Error::file("cannot list boot sets", &path))?;
        let mut sets = Vec::new();
        for entry in entries {
            let name = entry.map_err(Error::file("cannot list boot sets", &path))?.file_name();
            if let Some(digest) = name.to_str().and_then(|name| name.parse().ok()) {
                sets.push(self.load(digest)?);
            }
        }
        sets.sort_by_key(|set| (std::cmp::Reverse(set.built), set.digest));
        Ok(sets)
    }

    /// The set whose digest begins with `prefix`.
    pub fn find(&self, prefix: &str) -> Result<BootSet, Error> {
        let mut found = self.list()?.into_iter().filter(|set| set.digest.to_string().starts_with(prefix));
        match (found.next(), found.next()) {
            (Some(set), None) if !prefix.is_empty() => Ok(set),
            _ => Err(Error::NoSuchSet(prefix.to_owned())),
        }
    }

    fn load(&self, digest: Digest) -> Result<BootSet, Error> {
        let path = self.set(&digest).join("manifest.json");
        let bytes = fs::read(&path).map_err(Error::file("cannot read the manifest", &path))?;
        let manifest: Manifest = serde_json::from_slice(&bytes)
            .map_err(|error| Error::Malformed { path: path.clone(), problem: error.to_string() })?;
        let built = fs::metadata(&path).and_then(|data| data.modified()).map_err(Error::file("cannot read", &path))?;
        let current = fs::read_to_string(self.current_file(manifest.architecture));
        let current = current.is_ok_and(|text| text.trim() == digest.to_string());
        Ok(BootSet { digest, manifest, built, current })
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

    /// Takes what `source` gives, under its digest. A file that is there already is left alone.
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
        if !fs::metadata(&path).is_ok_and(|data| data.len() == size) {
            new.as_file().sync_all().map_err(Error::file(doing, &path))?;
            set_readable(new.as_file()).map_err(Error::file(doing, &path))?;
            new.persist(&path).map_err(|error| Error::File { doing, path: path.clone(), source: error.error })?;
            files::sync_folder(&path).map_err(Error::file(doing, &path))?;
        }
        Ok(Artifact { sha256, size })
    }

    /// Publishes a set whose files are all on the shelf, and makes it the current one.
    pub(crate) fn publish(&self, manifest: &Manifest, key: &SigningKey) -> Result<Digest, Error> {
        let bytes = serde_json::to_vec_pretty(manifest).expect("a manifest is plain data");
        let digest = Digest(Sha256::digest(&bytes).into());
        let place = self.set(&digest);
        if !place.join("manifest.json.minisig").exists() {
            let sets = self.folder.join("sets");
            let new = tempfile::Builder::new()
                .prefix(".publishing-")
                .tempdir_in(&sets)
                .map_err(Error::file("cannot make a folder", &sets))?;
            let write = |name: &str, bytes: &[u8]| {
                let path = new.path().join(name);
                files::replace(&path, bytes).map_err(Error::file("cannot write", &path))
            };
            write("manifest.json", &bytes)?;
            write("manifest.json.minisig", key.sign(&bytes)?.as_bytes())?;
            fs::rename(new.path(), &place).map_err(Error::file("cannot publish the boot set", &place))?;
            let _ = new.keep();
            files::sync_folder(&place).map_err(Error::file("cannot sync", &place))?;
        }
        let current = self.current_file(manifest.architecture);
        files::replace(&current, format!("{digest}\n").as_bytes())
            .map_err(Error::file("cannot name the current boot set", &current))?;
        Ok(digest)
    }

    /// Removes all sets but the current one and the `keep` newest others, the files that no set
    /// names any more, and what stopped builds left behind.
    pub fn sweep(&self, keep: usize) -> Result<Swept, Error> {
        let mut swept = Swept::default();
        let (current, others): (Vec<_>, Vec<_>) = self.list()?.into_iter().partition(|set| set.current);
        for set in others.iter().skip(keep) {
            let path = self.set(&set.digest);
            fs::remove_dir_all(&path).map_err(Error::file("cannot remove the boot set", &path))?;
            swept.sets += 1;
        }
        let kept: BTreeSet<String> = current
            .iter()
            .chain(others.iter().take(keep))
            .flat_map(|set| set.manifest.artifacts())
            .map(|artifact| artifact.sha256.to_string())
            .collect();
        let files = self.folder.join("files");
        for entry in fs::read_dir(&files).map_err(Error::file("cannot list", &files))? {
            let entry = entry.map_err(Error::file("cannot list", &files))?;
            if !kept.contains(&*entry.file_name().to_string_lossy()) {
                swept.bytes += entry.metadata().map_or(0, |data| data.len());
                swept.files += 1;
                fs::remove_file(entry.path()).map_err(Error::file("cannot remove", &entry.path()))?;
            }
        }
        Ok(swept)
    }
}

/// Temporary files are private; the head, perhaps another user, has to read this one.
fn set_readable(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}
