//! What the head keeps secret in files, sealed by one key, `keys/seal`.
//!
//! ```text
//!  keys/seal ── the key itself (0600), or that sealed to the head's TPM
//!      │ opens
//!      ▼
//!  keys/ca.key · keys/image.key      header: form, which seal ─ nonce ─ ChaCha20-Poly1305 over the secret,
//!                                    with the header and the secret's name beside it
//! ```
//! It protects a copied store or a copied `ca.key`, and no head that is stolen with its seal. Whoever has both has all.
//!
//! It is sealed to a TPM where it was saved elsewhere before ([`Vault::bind`]): a TPM that is cleared takes it along.
//!
//! A seal is renewed in steps, and between any two of them every secret can be read: the next one lies in `keys/seal.new`
//! before anything is sealed by it, and takes the place of the first when nothing is sealed by that any more. Whoever opens
//! the folder next goes on where a power cut ended it ([`Vault::open`]).

mod blob;
mod key;
mod vault;

pub use blob::is_sealed;
pub use key::{MAGIC as BEGINS, Seal, Unreadable};
pub use vault::{Chip, NEXT, SEAL, Turn, Vault, is_half, is_secret};

use std::io;
use std::path::PathBuf;

/// Why a secret cannot be had, or not be kept.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {doing}", path.display())]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is missing, and {} is sealed by it", seal.display(), sealed.display())]
    Missing { seal: PathBuf, sealed: PathBuf },
    /// Of another seal than the one that is there.
    #[error("{} is sealed by seal {wanted}, and {} is another one", path.display(), seal.display())]
    Wrong { path: PathBuf, wanted: String, seal: PathBuf },
    #[error("{}", path.display())]
    Unreadable { path: PathBuf, source: Unreadable },
    #[error("{} is sealed to a TPM that does not open it", path.display())]
    Tpm { path: PathBuf, source: bramble_tpm::Problem },
    #[error("{} is sealed to a TPM, and this machine's cannot be opened", path.display())]
    NoTpm { path: PathBuf, source: io::Error },
    #[error("this system gives no random numbers")]
    Random,
}

impl Error {
    pub(crate) fn file(doing: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::File { doing, path, source }
    }

    /// Whether a secret is simply not there.
    pub fn is_no_file(&self) -> bool {
        matches!(self, Error::File { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// What the person can do about it.
    pub fn help(&self) -> Option<&'static str> {
        Some(match self {
            Error::Missing { .. } | Error::Wrong { .. } => {
                "put the seal back into the folder `keys`, from what `bramble head save-seal` wrote or from a copy of that folder; or move head.redb and the folder `keys` aside and `bramble restore` a backup"
            }
            Error::Unreadable { source: Unreadable::Newer { .. }, .. } => {
                "a newer bramble wrote it: start that one again"
            }
            Error::Unreadable { .. } => {
                "put the file back from a copy of the folder `keys`, or move head.redb and the folder `keys` aside and `bramble restore` a backup"
            }
            Error::Tpm { source, .. } if source.passes() => "try again: the TPM was busy",
            Error::Tpm { .. } => {
                "it was sealed on another machine, or its TPM was cleared: put what `bramble head save-seal` wrote in its place; or move head.redb and the folder `keys` aside and `bramble restore` a backup"
            }
            Error::NoTpm { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "run this as root, or as the user who runs the head, in the group of /dev/tpmrm0"
            }
            Error::NoTpm { .. } => {
                "start it again when the driver of the machine's TPM is there; on another machine put what `bramble head save-seal` wrote in its place; or move head.redb and the folder `keys` aside and `bramble restore` a backup"
            }
            Error::File { .. } | Error::Random => return None,
        })
    }
}
