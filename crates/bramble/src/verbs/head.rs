//! `bramble head`: the key that seals the head's secrets.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bramble_head::control;
use bramble_seal::Vault;
use bramble_system::files;

use crate::exit::Exit;
use crate::place::Place;
use crate::target::Target;

/// The folder of the keys of the head here.
fn keys(place: &Place) -> Result<PathBuf> {
    let state = match Target::of(place)? {
        Target::Here(state) => state,
        Target::Running { cluster, .. } => {
            bail!("the seal of cluster `{cluster}` is in the folder of its head: name that folder with -C")
        }
        Target::Elsewhere(url) => bail!("the seal of {url} is on that machine, and is looked after there"),
    };
    let keys = state.join("keys");
    if !keys.is_dir() {
        bail!("there is no head here that has begun: {} is missing", keys.display());
    }
    Ok(keys)
}

pub fn rotate_seal(place: &Place) -> Result<Exit> {
    let seal = Vault::open(&keys(place)?)?.renew()?;
    println!("the head's secrets are sealed by seal {seal} now; of the old one nothing opens any more");
    println!(
        "what `bramble head save-seal` wrote is of the old one: it opens backups of before, and none from now on: write it again"
    );
    Ok(Exit::Done)
}

pub fn unseal(place: &Place) -> Result<Exit> {
    let keys = keys(place)?;
    if keys.parent().is_some_and(control::runs) {
        bail!("a head runs here, and would seal them again: stop it first");
    }
    Vault::open(&keys)?.unseal()?;
    println!("{}: its secrets lie in the clear, for a release of before seals", keys.display());
    Ok(Exit::Done)
}

pub fn save_seal(file: &Path, place: &Place) -> Result<Exit> {
    let keys = keys(place)?;
    let vault = Vault::open(&keys)?;
    let seals = vault.seal_files(&vault.turn()?)?;
    let Some((_, bytes)) = seals.first() else { bail!("there is no seal yet: it is made when the head starts") };
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let state = keys.parent().and_then(|state| state.canonicalize().ok());
    if folder.canonicalize().is_ok_and(|folder| state.is_some_and(|state| folder.starts_with(state))) {
        bail!("{} is in the head's own folder: a copy of that would have it, too", file.display());
    }
    if file.exists() {
        bail!("{} is there already, and may be the seal of an older backup: name another file", file.display());
    }
    files::replace_secret(file, bytes).with_context(|| format!("cannot write {}", file.display()))?;
    println!("{}: keep it apart from backups and from the head", file.display());
    if vault.bind()? {
        println!(
            "the head's own is sealed to its TPM now: a copy of its folder opens on no other machine, but by this file"
        );
    }
    Ok(Exit::Done)
}
