//! Large files of the current snapshot: a disk may have damaged them, or somebody removed them.
//!
//! ```text
//! whole on the shelf ──────────────────────────────────────────────▶ laid out, a link
//! damaged or gone ──┬─ as it is laid out, in the head's folder ─────▶ on the shelf again
//!                   ├─ what follows git, or `bramble apply` brings it ▶ on the shelf again
//!                   └─ nowhere: left out where it is laid out, and the status says which
//! ```

use std::fs::File;

use bramble_model::names::Digest;
use bramble_model::snapshot::{Entry, SMALL, Snapshot};
use bramble_system::locked;

use super::{Current, Snapshots, named};

/// A large file of a snapshot.
pub(super) struct Large<'a> {
    pub(super) path: &'a str,
    pub(super) digest: &'a Digest,
    pub(super) size: u64,
}

/// The large files of a snapshot.
pub(super) fn large(snapshot: &Snapshot) -> impl Iterator<Item = Large<'_>> {
    snapshot.entries.iter().filter_map(|(path, entry)| match entry {
        Entry::File { digest, size, .. } if *size > SMALL => Some(Large { path, digest, size: *size }),
        Entry::File { .. } | Entry::Folder | Entry::Link { .. } | Entry::Unread { .. } => None,
    })
}

impl Snapshots {
    /// Whether files of the current snapshot are damaged or gone.
    pub(crate) fn lacks_files(&self) -> bool {
        self.current().is_some_and(|current| !self.lacking(&current.snapshot).is_empty())
    }

    /// The large files of a snapshot that are not on the shelf, or not whole there.
    pub(super) fn lacking<'a>(&self, snapshot: &'a Snapshot) -> Vec<Large<'a>> {
        large(snapshot).filter(|file| !self.shelf.is_whole(file.digest, file.size)).collect()
    }

    /// Lays the current one out, where something of it is not as it should be: a disk took no writes before, or has damaged
    /// a file.
    pub(crate) fn mend(&self) {
        self.in_turn(|| {
            if let Some(current) = self.current() {
                self.restore(&current);
            }
        });
    }

    /// Lays out what can be had of a snapshot, and remembers what is wrong with it then.
    pub(super) fn restore(&self, current: &Current) {
        self.bring(current);
        let trouble = match self.lay_out(current) {
            // A disk that takes no writes has it as it was laid out last, and boots go on.
            Err(error) => Some(bramble_system::sentence(&error)),
            Ok(()) => told(&current.digest, &self.lacking(&current.snapshot)),
        };
        let mut known = locked(&self.trouble);
        if let Some(reason) = trouble.as_ref().filter(|_| *known != trouble) {
            tracing::error!(reason, "the current snapshot is not laid out whole");
        }
        *known = trouble;
    }

    /// Takes onto the shelf what is lacking there and lies elsewhere on this machine.
    fn bring(&self, current: &Current) {
        let laid_out = self.folder.join(current.digest.to_string());
        for Large { path, digest, size } in self.lacking(&current.snapshot) {
            let mut places = [laid_out.join(path), self.home.join(path)].into_iter();
            let Some(place) = places.find(|place| self.shelf.holds(place, digest, size)) else { continue };
            let take = || {
                let _hold = self.shelf.hold()?;
                let file = File::open(&place).map_err(|source| bramble_image::Error::File {
                    doing: "cannot read",
                    path: place.clone(),
                    source,
                })?;
                self.shelf.take_as(digest, file)
            };
            match take() {
                Ok(_) => tracing::warn!(path, from = %place.display(), "a damaged file was taken anew"),
                Err(error) => tracing::warn!(path, error = bramble_system::sentence(&error), "it is not taken anew"),
            }
        }
    }
}

/// Which files nobody has, and what a person does.
fn told(snapshot: &Digest, lacking: &[Large<'_>]) -> Option<String> {
    let paths: Vec<String> = lacking.iter().map(|file| file.path.to_owned()).collect();
    let (snapshot, verb) = (snapshot.short(), if paths.len() == 1 { "is" } else { "are" });
    (!paths.is_empty()).then(|| {
        format!(
            "{} of the current snapshot, {snapshot}, {verb} damaged or gone on the head's shelf, and left out: `bramble \
             apply` from a folder that has the same content brings it back",
            named(&paths)
        )
    })
}
