//! The folder of the head's keys: its seal, and the secrets that are sealed by it.
//!
//! ```text
//!  no seal, nothing sealed ──▶ a seal is made ──▶ clear secrets are sealed, one by one
//!  no seal, something sealed ▶ an error: never a new seal
//!  seal.new beside the seal ─▶ what the first has sealed is sealed anew ──▶ seal.new takes its place
//! ```

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bramble_system::files;
use bramble_tpm::{Device, Tpm};

use crate::Error;
use crate::blob::{is_sealed, seal_of};
use crate::key::{Kept, Seal, Unreadable};

/// The seal's file in the folder of the keys.
pub const SEAL: &str = "seal";
/// The one that takes its place, while secrets are sealed anew.
pub const NEXT: &str = "seal.new";
/// The head's secrets, and how each begins in the clear, as a former bramble and [`Vault::unseal`] leave them: what begins in
/// another way is for its reader to tell of, as it lies there. Of the keys of images there are several, by number.
const SECRETS: [(&str, &[u8]); 6] = [
    ("ca.key", PEM),
    ("next-ca.key", PEM),
    ("issuer.key", PEM),
    ("next-issuer.key", PEM),
    ("image.key", b"untrusted comment:"),
    ("ssh-host.key", PEM),
];
const PEM: &[u8] = b"-----BEGIN ";

/// How the secret of this name begins in the clear; `None` where it is none of the head's.
fn beginning(name: &str) -> Option<&'static [u8]> {
    let number = name.strip_prefix("image-").and_then(|rest| rest.strip_suffix(".key"));
    let is_numbered = number.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit()));
    let name = if is_numbered { "image.key" } else { name };
    SECRETS.iter().find(|(secret, _)| *secret == name).map(|(_, begins)| *begins)
}

/// What the name of a file has that was being written when its program was killed ([`files::replace_secret`]).
const HALF: &str = ".new-";
/// The resource manager of the machine's TPM.
const DEVICE: &str = "/dev/tpmrm0";

type Opens = dyn Fn() -> io::Result<Box<dyn Device>> + Send + Sync;

/// The TPM of the head's machine.
#[derive(Clone)]
pub enum Chip {
    /// There is none.
    None,
    /// Opens it.
    There {
        opens: Arc<Opens>,
        /// Whether a seal may be sealed to it.
        seals: bool,
    },
}

impl Chip {
    /// Of this machine. A seal is sealed to it where the head runs as the owner of the folder: else the two of them work on
    /// the same keys, and the owner may not open the TPM.
    pub fn of_this_machine(folder: &Path) -> Self {
        let open = || File::options().read(true).write(true).open(DEVICE);
        if !Path::new(DEVICE).exists() {
            return Chip::None;
        }
        let owner = folder.ancestors().find_map(|above| files::owner(above).ok());
        let is_own = owner.is_some_and(|(user, _)| user == rustix::process::geteuid().as_raw());
        Chip::There {
            seals: is_own && open().is_ok(),
            opens: Arc::new(move || open().map(|file| Box::new(file) as Box<dyn Device>)),
        }
    }

    fn tpm(&self, path: &Path) -> Result<Tpm<Box<dyn Device>>, Error> {
        let away = |source| Error::NoTpm { path: path.to_owned(), source };
        match self {
            Chip::None => Err(away(io::Error::new(io::ErrorKind::NotFound, format!("there is no {DEVICE}")))),
            Chip::There { opens, .. } => opens().map(Tpm::new).map_err(away),
        }
    }

    fn seals(&self) -> bool {
        matches!(self, Chip::There { seals: true, .. })
    }
}

/// A turn at the folder: nobody renews its seal meanwhile.
#[derive(Debug)]
pub struct Turn {
    _folder: File,
}

/// The folder of the head's keys.
pub struct Vault {
    folder: PathBuf,
    chip: Chip,
}

/// The seals of a folder, the newest first: two of them while one takes the other's place.
struct Seals(Vec<Seal>);

impl Seals {
    fn newest(&self) -> Option<&Seal> {
        self.0.first()
    }
}

/// What is done to renew a seal, in order. Between any two of them every secret can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// The next seal is kept beside the first.
    KeepNext,
    /// This secret is sealed by it.
    SealAnew(String),
    /// It takes the first one's place, which has sealed nothing any more.
    TakePlace,
}

impl Vault {
    /// Opens the folder of the head's keys, which is made if it is missing, as is its seal where there has been none. What a
    /// former bramble left in the clear is sealed, and what was begun is ended.
    ///
    /// # Errors
    /// Where the seal is missing and something is sealed by it, or cannot be read.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        Self::open_with(folder, Chip::of_this_machine(folder))
    }

    /// As [`Vault::open`], with this TPM.
    ///
    /// # Errors
    /// As [`Vault::open`].
    pub fn open_with(folder: &Path, chip: Chip) -> Result<Self, Error> {
        if let Err(error) = files::make_secret_folder(folder) {
            if !folder.is_dir() {
                return Err(Error::file("cannot make the folder of the keys", folder)(error));
            }
            tracing::warn!(folder = %folder.display(), %error, "whether others can list the keys is not known");
        }
        let vault = Vault { folder: folder.to_owned(), chip };
        let _alone = vault.alone()?;
        vault.sweep();
        vault.settle()?;
        Ok(vault)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// What a secret is called where it is sealed.
    fn sealed_as(name: &str) -> String {
        format!("keys/{name}")
    }

    fn locked(&self, lock: impl FnOnce(&File) -> io::Result<()>) -> Result<Turn, Error> {
        let opened = File::open(&self.folder).and_then(|folder| lock(&folder).map(|()| folder));
        let folder = opened.map_err(Error::file("cannot lock the folder of the keys", &self.folder))?;
        Ok(Turn { _folder: folder })
    }

    fn alone(&self) -> Result<Turn, Error> {
        self.locked(File::lock)
    }

    /// As long as this is kept, nobody renews the seal.
    ///
    /// # Errors
    /// When the folder cannot be opened.
    pub fn turn(&self) -> Result<Turn, Error> {
        self.locked(File::lock_shared)
    }

    /// The seal in this file; `None` where there is none.
    fn kept(&self, name: &str) -> Result<Option<Kept>, Error> {
        let path = self.at(name);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(Error::file("cannot read the seal", &path))?,
        };
        Kept::of_file(&bytes).map(Some).map_err(|source| Error::Unreadable { path, source })
    }

    fn seal_of(&self, kept: Kept, name: &str) -> Result<Seal, Error> {
        let sealed = match kept {
            Kept::Clear(seal) => return Ok(seal),
            Kept::InTpm(sealed) => sealed,
        };
        let path = self.at(name);
        match self.chip.tpm(&path)?.unseal(&sealed) {
            Ok(bytes) => Seal::of_bytes(&bytes).ok_or(Error::Unreadable {
                path,
                source: Unreadable::Damaged { reason: "what the TPM has sealed is no seal" },
            }),
            Err(source) => Err(Error::Tpm { path, source }),
        }
    }

    fn seals(&self) -> Result<Seals, Error> {
        let mut seals = Vec::new();
        for name in [NEXT, SEAL] {
            if let Some(kept) = self.kept(name)? {
                seals.push(self.seal_of(kept, name)?);
            }
        }
        Ok(Seals(seals))
    }

    /// Removes what a write that was cut off has left. Whoever writes here has a turn, and nobody has one now.
    fn sweep(&self) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if is_half(&entry.file_name())
                && let Err(error) = fs::remove_file(entry.path())
            {
                tracing::warn!(path = %entry.path().display(), %error, "half a file of the keys is not removed");
            }
        }
    }

    /// Keeps a seal, as a file that opens anywhere.
    fn keep(&self, seal: &Seal, name: &str) -> Result<(), Error> {
        let path = self.at(name);
        files::replace_secret(&path, &Kept::Clear(seal.clone()).file())
            .map_err(Error::file("cannot keep the seal", &path))
    }

    /// Seals the seal to the machine's TPM, where there is one that takes it; gives whether it is sealed to one. Only for
    /// whoever has saved the seal elsewhere: a TPM that is cleared, or a board that dies, takes it along.
    ///
    /// # Errors
    /// When the seal cannot be read or written.
    pub fn bind(&self) -> Result<bool, Error> {
        let _alone = self.alone()?;
        let Some(kept) = self.kept(SEAL)? else { return Ok(false) };
        if matches!(kept, Kept::InTpm(_)) {
            return Ok(true);
        }
        let (path, seal) = (self.at(SEAL), self.seal_of(kept, SEAL)?);
        let Some(bound) = self.in_tpm(&seal, &path) else { return Ok(false) };
        files::replace_secret(&path, &bound.file()).map_err(Error::file("cannot keep the seal", &path))?;
        Ok(true)
    }

    /// Writes the secrets in the clear again and removes the seal, as a bramble of before seals needs them; the next start
    /// of this one seals them anew.
    ///
    /// # Errors
    /// When something cannot be read or written; what is sealed still opens then.
    pub fn unseal(&self) -> Result<(), Error> {
        let _alone = self.alone()?;
        let seals = self.seals()?;
        for name in self.sealed()? {
            let path = self.at(&name);
            let bytes = fs::read(&path).map_err(Error::file("cannot read the key", &path))?;
            let secret = self.opened(&seals, &name, &bytes)?;
            files::replace_secret(&path, &secret).map_err(Error::file("cannot write the key", &path))?;
        }
        for name in [NEXT, SEAL] {
            let path = self.at(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::file("cannot remove the seal", &path)(error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// The seal as the TPM has it, where there is one that gives it out again.
    fn in_tpm(&self, seal: &Seal, path: &Path) -> Option<Kept> {
        if !self.chip.seals() {
            return None;
        }
        let sealed = || {
            let failed = |source| Error::Tpm { path: path.to_owned(), source };
            let mut tpm = self.chip.tpm(path)?;
            let sealed = tpm.seal(seal.secret()).map_err(failed)?;
            Ok(if tpm.unseal(&sealed).map_err(failed)? == seal.secret() { Some(sealed) } else { None })
        };
        match sealed() {
            Ok(sealed) => sealed.map(Kept::InTpm),
            Err(error) => {
                let error: Error = error;
                tracing::warn!(error = bramble_system::sentence(&error), "the seal is not kept in this machine's TPM");
                None
            }
        }
    }

    /// The sealed secrets of the folder, by name.
    fn sealed(&self) -> Result<Vec<String>, Error> {
        let listing = Error::file("cannot list the keys", &self.folder);
        let entries = fs::read_dir(&self.folder).and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(listing)?;
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.path();
            if !path.is_file() || is_half(&entry.file_name()) {
                continue;
            }
            let bytes = fs::read(&path).map_err(Error::file("cannot read the key", &path))?;
            if let (true, Ok(name)) = (is_sealed(&bytes), entry.file_name().into_string()) {
                found.push(name);
            }
        }
        found.sort();
        Ok(found)
    }

    /// Brings the folder to where every secret is sealed by one seal.
    fn settle(&self) -> Result<(), Error> {
        let sealed = self.sealed()?;
        let (first, next) = (self.kept(SEAL)?, self.kept(NEXT)?);
        let seal = match (first, next) {
            (None, _) if !sealed.is_empty() => {
                return Err(Error::Missing { seal: self.at(SEAL), sealed: self.at(&sealed[0]) });
            }
            // Nothing is sealed yet.
            (None, _) => match Seal::new().and_then(|seal| self.keep(&seal, SEAL).map(|()| seal)) {
                Ok(seal) => seal,
                // A disk that takes no writes: what is there is read as it is.
                Err(error @ Error::File { .. }) if self.has_clear() => {
                    tracing::error!(error = bramble_system::sentence(&error), "the keys are not sealed");
                    return Ok(());
                }
                Err(error) => return Err(error),
            },
            (Some(_), Some(_)) => {
                let seals = self.seals()?;
                match self.renewed(&seals) {
                    // A disk that takes no writes: each of the two opens what it has sealed.
                    Err(error @ Error::File { .. }) => {
                        tracing::error!(error = bramble_system::sentence(&error), "the seal is not renewed yet");
                        return Ok(());
                    }
                    renewed => renewed?,
                }
                self.seals()?.0.pop().expect("it was there")
            }
            (Some(kept), None) => self.seal_of(kept, SEAL)?,
        };
        for (name, begins) in self.secrets() {
            if let Err(error) = self.seal_clear(&seal, &name, begins) {
                tracing::error!(error = bramble_system::sentence(&error), "a key is not sealed");
            }
        }
        Ok(())
    }

    /// The head's secrets that are there, in one form or the other, by name; with how each begins in the clear.
    fn secrets(&self) -> Vec<(String, &'static [u8])> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut found: Vec<_> = names.filter_map(|name| beginning(&name).map(|begins| (name, begins))).collect();
        found.sort();
        found
    }

    fn has_clear(&self) -> bool {
        !self.secrets().is_empty()
    }

    /// Seals a secret that lies in the clear: it is whole in one form or the other at every instant.
    fn seal_clear(&self, seal: &Seal, name: &str, begins: &[u8]) -> Result<(), Error> {
        let path = self.at(name);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            read => read.map_err(Error::file("cannot read the key", &path))?,
        };
        if bytes.starts_with(begins) { self.put(seal, name, &bytes) } else { Ok(()) }
    }

    fn put(&self, seal: &Seal, name: &str, secret: &[u8]) -> Result<(), Error> {
        let (path, sealed) = (self.at(name), seal.seal(&Self::sealed_as(name), secret)?);
        files::replace_secret(&path, &sealed).map_err(Error::file("cannot write the key", &path))
    }

    /// The secret of this name in the folder.
    ///
    /// # Errors
    /// When it is not there ([`Error::is_no_file`]), or none of the folder's seals opens it.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, Error> {
        let _turn = self.turn()?;
        let path = self.at(name);
        let bytes = fs::read(&path).map_err(Error::file("cannot read the key", &path))?;
        // As a head leaves it whose disk takes no writes.
        if !is_sealed(&bytes) { Ok(bytes) } else { self.opened(&self.seals()?, name, &bytes) }
    }

    fn opened(&self, seals: &Seals, name: &str, bytes: &[u8]) -> Result<Vec<u8>, Error> {
        let path = self.at(name);
        let wanted = match seal_of(bytes) {
            Ok(wanted) => wanted,
            Err(source) => return Err(Error::Unreadable { path, source }),
        };
        match seals.0.iter().find(|seal| seal.id() == wanted) {
            Some(seal) => seal.open(&Self::sealed_as(name), bytes).map_err(|source| Error::Unreadable { path, source }),
            None if seals.0.is_empty() => Err(Error::Missing { seal: self.at(SEAL), sealed: path }),
            None => Err(Error::Wrong { path, wanted, seal: self.at(SEAL) }),
        }
    }

    /// Keeps a secret, sealed.
    ///
    /// # Errors
    /// When it cannot be written, or there is no seal.
    pub fn write(&self, name: &str, secret: &[u8]) -> Result<(), Error> {
        let _turn = self.turn()?;
        let seals = self.seals()?;
        let seal = seals.newest().ok_or_else(|| Error::Missing { seal: self.at(SEAL), sealed: self.at(name) })?;
        self.put(seal, name, secret)
    }

    /// The seals as files that open on any machine, by their names in the folder; for whoever has a [`Turn`]. What is
    /// sealed by them is safe as long as these are.
    ///
    /// # Errors
    /// When the TPM does not give them out.
    pub fn seal_files(&self, _turn: &Turn) -> Result<Vec<(&'static str, Vec<u8>)>, Error> {
        let mut found = Vec::new();
        for name in [SEAL, NEXT] {
            if let Some(kept) = self.kept(name)? {
                found.push((name, self.seal_of(kept, name)?.file()));
            }
        }
        Ok(found)
    }

    /// Has another seal take the place of this one, and gives its name. Whoever has a copy of the old one opens nothing
    /// that is written from now on.
    ///
    /// # Errors
    /// When something cannot be written, or is sealed by neither; all can be read then as before.
    pub fn renew(&self) -> Result<String, Error> {
        let _alone = self.alone()?;
        // Of two people who do this at once, each gets a new one.
        let mut seals = self.seals()?;
        if seals.0.len() > 1 {
            self.renewed(&seals)?;
            seals = self.seals()?;
        }
        let next = Seal::new()?;
        seals.0.insert(0, next.clone());
        self.renewed(&seals)?;
        Ok(next.id())
    }

    /// Takes every step that is left until the newest seal is the only one.
    fn renewed(&self, seals: &Seals) -> Result<(), Error> {
        self.steps(seals)?.iter().try_for_each(|step| self.take(seals, step))
    }

    fn steps(&self, seals: &Seals) -> Result<Vec<Step>, Error> {
        let Some(newest) = seals.newest() else { return Ok(Vec::new()) };
        let mut steps = Vec::new();
        if !self.at(NEXT).exists() {
            steps.push(Step::KeepNext);
        }
        for name in self.sealed()? {
            let path = self.at(&name);
            let bytes = fs::read(&path).map_err(Error::file("cannot read the key", &path))?;
            // What cannot be read is found out before anything is sealed anew.
            match self.opened(seals, &name, &bytes) {
                // Somebody's copy, under a name of its own, is no secret of the head's.
                Err(error) if !is_secret(&name) => {
                    tracing::warn!(error = bramble_system::sentence(&error), "it is left as it is");
                    continue;
                }
                opened => opened.map(drop)?,
            }
            if seal_of(&bytes) != Ok(newest.id()) {
                steps.push(Step::SealAnew(name));
            }
        }
        steps.push(Step::TakePlace);
        Ok(steps)
    }

    fn take(&self, seals: &Seals, step: &Step) -> Result<(), Error> {
        let newest = seals.newest().expect("a step is of one");
        match step {
            Step::KeepNext => self.keep(newest, NEXT),
            Step::SealAnew(name) => {
                let path = self.at(name);
                let bytes = fs::read(&path).map_err(Error::file("cannot read the key", &path))?;
                self.put(newest, name, &self.opened(seals, name, &bytes)?)
            }
            Step::TakePlace => {
                let place = self.at(SEAL);
                files::publish(&self.at(NEXT), &place).map_err(Error::file("cannot put the seal in its place", &place))
            }
        }
    }
}

/// Whether the head does not start without what is sealed under this name.
pub fn is_secret(name: &str) -> bool {
    beginning(name).is_some()
}

/// Whether a file of this name was being written when its program was killed.
pub fn is_half(name: &OsStr) -> bool {
    let text = name.to_string_lossy();
    text.split_once(HALF).is_some_and(|(of, _)| is_secret(of) || [SEAL, NEXT].contains(&of))
}

#[cfg(test)]
mod tests;
