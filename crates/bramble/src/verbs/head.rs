//! `bramble head`: the key that seals the head's secrets.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bramble_seal::Vault;
use bramble_system::files;

use crate::exit::Exit;
use crate::place::Place;
use crate::target::Target;

/// The folder of the keys of the head here.
fn keys(place: &Place) -> Result<PathBuf> {
    let state = match Target::of(place)? {
        Target::Here(state) => state,
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
    println!("what `bramble head save-seal` wrote is of the old one: it opens backups of before, and none from now on");
    Ok(Exit::Done)
}

pub fn save_seal(file: &Path, place: &Place) -> Result<Exit> {
    let vault = Vault::open(&keys(place)?)?;
    let seals = vault.seal_files(&vault.turn()?)?;
    let Some((_, bytes)) = seals.first() else { bail!("there is no seal yet: it is made when the head starts") };
    if file.exists() {
        bail!("{} is there already, and may be the seal of an older backup: name another file", file.display());
    }
    files::replace_secret(file, bytes).with_context(|| format!("cannot write {}", file.display()))?;
    println!("{}: keep it apart from backups and from the head", file.display());
    Ok(Exit::Done)
}
