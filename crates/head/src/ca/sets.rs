//! Which roots boot sets carry: written down by whoever builds one. What is not written down was built by a bramble of
//! before, which knew one root.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use bramble_image::Shelf;
use bramble_model::names::Digest;
use bramble_system::files;

use crate::error::Error;

/// Beside the shelf: a file for each set, with the SHA-256 of each root's certificate on a line.
const FOLDER: &str = "ca-of-sets";

fn path(state: &Path, set: &Digest) -> PathBuf {
    state.join(FOLDER).join(set.to_string())
}

/// Writes down which roots a set carries that was built, and forgets those of sets that are gone.
///
/// # Errors
/// When it cannot be written.
pub fn note(state: &Path, shelf: &Shelf, set: &Digest, roots: &[Digest]) -> Result<(), Error> {
    let folder = state.join(FOLDER);
    files::make_folder(&folder).map_err(Error::file("cannot make the folder", &folder))?;
    let path = path(state, set);
    let text: String = roots.iter().map(|root| format!("{root}\n")).collect();
    files::replace(&path, text.as_bytes()).map_err(Error::file("cannot write which CA a boot set carries", &path))?;
    for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
        let is_gone = entry.file_name().to_str().and_then(|name| name.parse().ok()).is_some_and(|of: Digest| {
            // The one that was just built may be on its way.
            of != *set && !shelf.set(&of).exists()
        });
        if is_gone && let Err(error) = fs::remove_file(entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "what a boot set carried that is gone is not forgotten");
        }
    }
    Ok(())
}

/// The roots that a set carries; `None` where nobody has written that down.
pub(crate) fn of(state: &Path, set: &Digest) -> Option<BTreeSet<Digest>> {
    let text = fs::read_to_string(path(state, set)).ok()?;
    Some(text.lines().filter_map(|line| line.trim().parse().ok()).collect())
}
