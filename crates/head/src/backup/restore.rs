//! Putting a backup into an empty state folder: all of it, or nothing.
//!
//! ```text
//!  opened and checked ─▶ STATE/restoring/ made whole ─ renamed ─▶ STATE/restored/ ─▶ each part to its place ─▶ it is gone
//!       nothing is there, or nothing that counts                    whoever comes next goes on from here
//! ```
//! Until the one rename there is no state that a head could start with; from then on the next start of a head, or the next
//! `bramble restore`, moves what has not been moved.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bramble_model::engine::EngineKind;
use bramble_model::names::Digest;
use bramble_model::timeline::Millis;
use bramble_seal::{Seal, Unreadable};
use bramble_system::files;

use super::archive::Archive;
use super::{Contents, FOLDERS, Identities, KEYS, Unusable, belongs, is_kept, is_seal};
use crate::ca;
use crate::membership::{self, Engines};
use crate::store::STORE;

/// What is being made, and does not count.
const MAKING: &str = "restoring";
/// What is whole, and is being put into its places.
const WHOLE: &str = "restored";
/// The certificate of the head's CA, and of the one that takes its place.
const CA: &str = "keys/ca.pem";
const NEXT_CA: &str = "keys/next-ca.pem";
const CA_KEY: &str = "keys/ca.key";
const NEXT_CA_KEY: &str = "keys/next-ca.key";
/// How far that is.
const ROTATION: &str = "keys/rotation.json";

fn file(path: &Path) -> impl FnOnce(io::Error) -> Unusable {
    let path = path.to_owned();
    move |source| Unusable::File { path, source }
}

/// A backup that is whole and can be opened, before anything of it is anywhere.
#[derive(Debug)]
pub struct Opened {
    path: PathBuf,
    archive: Archive,
}

/// Opens a backup: with these keys where it is encrypted, and with the head's seal in this file where it has none.
///
/// # Errors
/// When it is damaged, is of a newer bramble, or a key or the seal is missing or another one.
pub fn open(path: &Path, identities: Option<&Identities>, seal: Option<&Path>) -> Result<Opened, Unusable> {
    let mut archive = Archive::read(path, identities)?;
    for (name, _) in &archive.files {
        if name != STORE && belongs(name).is_none() {
            return Err(Unusable::Malformed { path: path.to_owned(), reason: format!("it has a file `{name}`") });
        }
    }
    if let Some(given) = seal {
        let bytes = fs::read(given).map_err(file(given))?;
        let unusable = |source| Unusable::Seal { path: given.to_owned(), source };
        let seal = Seal::of_file(&bytes).map_err(unusable)?;
        archive.files.retain(|(name, _)| !belongs(name).is_some_and(|(folder, name)| is_seal(folder, name)));
        archive.files.push((format!("{KEYS}/{}", bramble_seal::SEAL), seal.file()));
    }
    let opened = Opened { path: path.to_owned(), archive };
    let sealed = opened.seals_open()?;
    // The certificates are in every image: that they are the cluster's says nothing of who packed them.
    let of = |name: &str| opened.archive.files.iter().find(|(file, _)| file == name).map(|(_, bytes)| bytes);
    let fits = |certificate: &str, key: &str, is_needed: bool| match (of(certificate), sealed.get(key).or(of(key))) {
        (Some(certificate), Some(key)) => ca::fits(certificate, key),
        (Some(_), None) => !is_needed,
        (None, _) => true,
    };
    // While the next CA takes the first one's place, in that may be half of each.
    let is_finishing = of(NEXT_CA).is_some() && of(ROTATION).is_some_and(|record| ca::is_finishing(record));
    // One that names the next CA has its key, which nobody else has.
    if (is_finishing || fits(CA, CA_KEY, false)) && fits(NEXT_CA, NEXT_CA_KEY, true) {
        Ok(opened)
    } else {
        Err(Unusable::OtherKey(opened.path))
    }
}

impl Opened {
    /// SHA-256 of the certificate of the head's CA; `None` where it has none.
    #[must_use]
    pub fn ca(&self) -> Option<Digest> {
        self.fingerprint(CA)
    }

    fn fingerprint(&self, file: &str) -> Option<Digest> {
        let (_, pem) = self.archive.files.iter().find(|(name, _)| name == file)?;
        ca::fingerprint(pem)
    }

    /// As [`Opened::ca`], of the one that takes its place, where it was being rotated.
    #[must_use]
    pub fn next_ca(&self) -> Option<Digest> {
        self.fingerprint(NEXT_CA)
    }

    /// What it says of itself.
    #[must_use]
    pub fn contents(&self) -> &Contents {
        &self.archive.contents
    }

    /// Refuses one of another CA.
    ///
    /// # Errors
    /// [`Unusable::OtherCa`].
    pub fn is_of(&self, wanted: &Digest) -> Result<(), Unusable> {
        match (self.ca(), self.next_ca()) {
            // The repository may name either while it is rotated.
            (ca, next) if [ca, next].contains(&Some(*wanted)) => Ok(()),
            (ca, _) => Err(Unusable::OtherCa {
                path: self.path.clone(),
                has: ca.map_or_else(|| "none".into(), |ca| ca.to_string()),
                wanted: wanted.to_string(),
            }),
        }
    }

    /// Every sealed secret opens by a seal that is here: without it a head would not start. Gives the keys of the
    /// CA that are sealed.
    fn seals_open(&self) -> Result<BTreeMap<String, Vec<u8>>, Unusable> {
        let (mut seals, mut ca_keys) = (Vec::new(), BTreeMap::new());
        for (name, bytes) in &self.archive.files {
            if belongs(name).is_some_and(|(folder, name)| is_seal(folder, name)) {
                seals.push(Seal::of_file(bytes).map_err(|source| Unusable::Seal { path: self.path.clone(), source })?);
            }
        }
        for (name, bytes) in self.archive.files.iter().filter(|(_, bytes)| bramble_seal::is_sealed(bytes)) {
            let (path, name) = (self.path.clone(), name.clone());
            let mut last = None;
            let is_open = seals.iter().any(|seal| match seal.open(&name, bytes) {
                Ok(secret) => {
                    if name == CA_KEY || name == NEXT_CA_KEY {
                        ca_keys.insert(name.clone(), secret);
                    }
                    true
                }
                // Of two seals, the one that is meant says what is wrong.
                Err(wrong) => {
                    if !matches!((&last, &wrong), (Some(_), Unreadable::OtherSeal { .. })) {
                        last = Some(wrong);
                    }
                    false
                }
            });
            let is_ours = belongs(&name).is_some_and(|(folder, name)| folder == KEYS && bramble_seal::is_secret(name));
            match last {
                // Half a file, or somebody's copy: a head starts without.
                _ if is_open || !is_ours => {}
                Some(source) => return Err(Unusable::OtherSeal { path, name, source }),
                None => return Err(Unusable::NoSeal { path, name }),
            }
        }
        Ok(ca_keys)
    }

    /// Puts it into an empty state folder: all of it, or nothing. Its store begins a new life, so that what the old head
    /// told after the backup is known to be another's.
    ///
    /// # Errors
    /// When its store does not open, the disk takes no more, or the folder has a head's state.
    pub fn place(self, state: &Path, now: Millis) -> Result<Contents, Unusable> {
        files::make_folder(state).map_err(file(state))?;
        let _alone = alone(state)?;
        is_free_now(state)?;
        let (making, whole) = (state.join(MAKING), state.join(WHOLE));
        let made = self.make_in(&making, now);
        let made = made
            .and_then(|()| fs::rename(&making, &whole).and_then(|()| files::sync_folder(&whole)).map_err(file(&whole)));
        if made.is_err() {
            // What went wrong first is what the person hears.
            let _ = files::remove_folder(&making);
        }
        made?;
        go_on_now(state)?;
        Ok(self.archive.contents)
    }

    /// Makes all of it in a folder of its own. The store is opened there.
    fn make_in(&self, making: &Path, now: Millis) -> Result<(), Unusable> {
        files::make_secret_folder(making).map_err(file(making))?;
        let place = making.join(STORE);
        for (_, bytes) in self.archive.files.iter().filter(|(name, _)| name == STORE) {
            files::replace_secret(&place, bytes).map_err(file(&place))?;
            let store = bramble_store::Blocking::open(&place, now)?;
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
                    Err(bramble_store::Error::Unreadable(record)) => {
                        tracing::warn!(%record, "it is restored as it is");
                    }
                    marked => marked?,
                }
            }
        }
        let keys = making.join(KEYS);
        files::make_secret_folder(&keys).map_err(file(&keys))?;
        for (name, bytes) in &self.archive.files {
            let Some((folder, name)) = belongs(name).filter(|(folder, name)| is_kept(folder, name)) else { continue };
            let path = making.join(folder).join(name);
            let folder = making.join(folder);
            files::make_secret_folder(&folder).map_err(file(&folder))?;
            files::replace_secret(&path, bytes).map_err(file(&path))?;
        }
        if place.exists() {
            fs::File::open(&place).and_then(|store| store.sync_all()).map_err(file(&place))?;
        }
        Ok(())
    }
}

/// Whether a backup can be put into this folder. What a restore that was cut off has left is put into its place, or is
/// removed.
///
/// # Errors
/// [`Unusable::Occupied`] where a head has its state there.
pub fn is_free(state: &Path) -> Result<(), Unusable> {
    if !state.exists() {
        return Ok(());
    }
    let _alone = alone(state)?;
    is_free_now(state)
}

/// As long as this is kept, nobody else restores into that folder, and no head begins to go on with it.
fn alone(state: &Path) -> Result<fs::File, Unusable> {
    fs::File::open(state).and_then(|folder| folder.lock().map(|()| folder)).map_err(file(state))
}

fn is_free_now(state: &Path) -> Result<(), Unusable> {
    go_on_now(state)?;
    match [STORE, KEYS].iter().map(|name| state.join(name)).find(|path| path.exists()) {
        Some(path) => Err(Unusable::Occupied(path)),
        None => Ok(()),
    }
}

/// Goes on with a restore that was cut off: what is whole is put into its places, and what is not is removed.
///
/// Gives whether there was one that is whole now.
///
/// # Errors
/// When something cannot be moved, or something else has come into its place; the rest waits for the next time.
pub fn go_on(state: &Path) -> Result<bool, Unusable> {
    if ![MAKING, WHOLE].iter().any(|name| state.join(name).exists()) {
        return Ok(false);
    }
    let _alone = alone(state)?;
    go_on_now(state)
}

fn go_on_now(state: &Path) -> Result<bool, Unusable> {
    let (making, whole) = (state.join(MAKING), state.join(WHOLE));
    files::remove_folder(&making).map_err(file(&making))?;
    if !whole.exists() {
        return Ok(false);
    }
    let moves = moves(state)?;
    // Half of a head's state beside half of another's would be neither's.
    if let Some((_, to)) = moves.iter().find(|(_, to)| is_state(to) && to.exists()) {
        return Err(Unusable::InTheWay(to.clone()));
    }
    for (from, to) in moves {
        put(&from, &to)?;
    }
    files::remove_folder(&whole).map_err(file(&whole))?;
    files::sync_folder(&whole).map_err(file(state))?;
    Ok(true)
}

/// What is to be moved, and where to: the store before the folder of the keys, since a head does not begin with a store
/// whose keys are missing.
fn moves(state: &Path) -> Result<Vec<(PathBuf, PathBuf)>, Unusable> {
    let whole = state.join(WHOLE);
    let mut moves = Vec::new();
    for folder in FOLDERS.into_iter().filter(|folder| *folder != KEYS) {
        let from = whole.join(folder);
        let entries = match fs::read_dir(&from) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries.and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(file(&from))?,
        };
        moves.extend(entries.iter().map(|entry| (entry.path(), state.join(folder).join(entry.file_name()))));
    }
    moves.sort();
    let main = [STORE, KEYS].map(|name| (whole.join(name), state.join(name)));
    moves.extend(main.into_iter().filter(|(from, _)| from.exists()));
    Ok(moves)
}

/// A deploy key that was made meanwhile is no state: the head's own takes its place.
fn is_state(place: &Path) -> bool {
    place.file_name().is_some_and(|name| name == STORE || name == KEYS)
}

fn put(from: &Path, to: &Path) -> Result<(), Unusable> {
    if let Some(folder) = to.parent().filter(|folder| !folder.exists()) {
        files::make_secret_folder(folder).map_err(file(folder))?;
    }
    fs::rename(from, to).and_then(|()| files::sync_folder(to)).map_err(file(to))
}

#[cfg(test)]
mod tests;
