//! The files of a rotation in the folder of the keys, and what is done to them (`plan::rotation`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bramble_model::timeline::Millis;
use bramble_plan::rotation::{FileStep, Phase, Record, on_start};
use bramble_seal::Vault;
use bramble_system::files;

use super::root::{FIRST, NEXT, Place, Root};
use crate::error::Error;

/// How far a rotation is. Of a head of before there is none.
const RECORD: &str = "rotation.json";

/// The folder of the keys, while a rotation's steps are done in it.
pub(super) struct Files<'a> {
    pub(super) folder: &'a Path,
    pub(super) vault: &'a Vault,
    /// Key and certificate of the next root, where one begins.
    pub(super) made: Option<(String, String)>,
    pub(super) since: Millis,
}

/// What is written down of a rotation.
///
/// # Errors
/// When it cannot be read, or is damaged: what of the keys counts is not known then.
pub(super) fn record(folder: &Path) -> Result<Option<Record>, Error> {
    let path = folder.join(RECORD);
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(Error::file("cannot read how far the CA's rotation is", &path))?,
    };
    let damaged = |_| Error::Key { path, problem: "it is damaged: it does not say how far the CA's rotation is" };
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

/// Writes down how far a rotation is.
///
/// # Errors
/// When the disk takes no writes; what was written down before holds.
pub(super) fn write(folder: &Path, record: &Record) -> Result<(), Error> {
    let path = folder.join(RECORD);
    let bytes = serde_json::to_vec(record).expect("plain data");
    files::replace(&path, &bytes).map_err(Error::file("cannot write how far the CA's rotation is", &path))
}

/// The roots that are trusted, as this record says: the one that signs first.
///
/// # Errors
/// When one of them is not whole.
pub(super) fn roots(folder: &Path, vault: &Vault, record: Option<&Record>) -> Result<(Root, Option<Root>), Error> {
    let read = |place| Root::read(folder, vault, place);
    match record.map(|record| record.phase) {
        None => Ok((read(FIRST)?, None)),
        Some(Phase::Overlap) => Ok((read(FIRST)?, Some(read(NEXT)?))),
        Some(Phase::Finishing) => Ok((read(place_of_first(folder, record)?)?, None)),
    }
}

/// Where the root lies that signs first. While the next one takes its place, that is where the next one is: in the first
/// one's place may be half of each. Where it is there no more, all of it has its place.
///
/// # Errors
/// When nobody can say whether it is there.
pub(super) fn place_of_first(folder: &Path, record: Option<&Record>) -> Result<Place, Error> {
    let is_finishing = record.is_some_and(|record| record.phase == Phase::Finishing);
    Ok(if is_finishing && has_certificate(folder)? { NEXT } else { FIRST })
}

fn has_certificate(folder: &Path) -> Result<bool, Error> {
    let path = folder.join(NEXT.certificate);
    path.try_exists().map_err(Error::file("cannot look for the CA", &path))
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::file("cannot remove", path)(error)),
        Ok(()) | Err(_) => files::sync_folder(path).map_err(Error::file("cannot remove", path)),
    }
}

impl Files<'_> {
    fn at(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn has_next(&self) -> bool {
        NEXT.all().iter().any(|name| self.at(name).exists())
    }

    /// Goes on with what was begun.
    ///
    /// # Errors
    /// When a step cannot be done; those before it are.
    pub(super) fn go_on(&self, record: Option<&Record>) -> Result<(), Error> {
        let phase = record.map(|record| record.phase);
        // Its files are in their places, and what is said of it is left of that.
        if phase == Some(Phase::Finishing) && !has_certificate(self.folder)? {
            return self.take(FileStep::Forget);
        }
        let steps = on_start(phase, self.has_next());
        steps.iter().try_for_each(|step| self.take(*step))
    }

    /// Does one step. It may be done again.
    ///
    /// # Errors
    /// When something cannot be read or written.
    pub(super) fn take(&self, step: FileStep) -> Result<(), Error> {
        let writing = "cannot write the CA";
        match step {
            FileStep::KeepNextKey => {
                let (key, _) = self.made.as_ref().expect("a rotation begins with one");
                Ok(self.vault.write(NEXT.key, key.as_bytes())?)
            }
            FileStep::KeepNext => {
                let (_, certificate) = self.made.as_ref().expect("a rotation begins with one");
                let path = self.at(NEXT.certificate);
                files::replace(&path, certificate.as_bytes()).map_err(Error::file(writing, &path))
            }
            FileStep::Note(phase) => {
                let record = record(self.folder)?;
                let moved = record.map(|record| record.moved).unwrap_or_default();
                write(self.folder, &Record { phase, since: self.since, moved })
            }
            FileStep::TakeKey => Ok(self.vault.write(FIRST.key, &self.vault.read(NEXT.key)?)?),
            FileStep::Take => self.copy(NEXT.certificate, FIRST.certificate),
            FileStep::TakeIssuer => {
                // Where there is none, or it is damaged, one is made: nothing hangs on it.
                match self.vault.read(NEXT.issuer_key) {
                    Ok(key) if self.at(NEXT.issuers).exists() => {
                        self.vault.write(FIRST.issuer_key, &key)?;
                        self.copy(NEXT.issuers, FIRST.issuers)
                    }
                    Ok(_) | Err(_) => {
                        remove(&self.at(FIRST.issuers))?;
                        remove(&self.at(FIRST.issuer_key))
                    }
                }
            }
            FileStep::Forget => remove(&self.at(RECORD)),
            FileStep::RemoveNext => NEXT.all().iter().try_for_each(|name| remove(&self.at(name))),
        }
    }

    fn copy(&self, from: &str, to: &str) -> Result<(), Error> {
        let (from, to) = (self.at(from), self.at(to));
        let bytes = fs::read(&from).map_err(Error::file("cannot read the CA", &from))?;
        files::replace(&to, &bytes).map_err(Error::file("cannot write the CA", &to))
    }
}

impl Place {
    fn all(self) -> [&'static str; 4] {
        [self.key, self.certificate, self.issuer_key, self.issuers]
    }
}
