//! From a recipe to a signed boot set: Debian packages → root layer → initrd → site layer →
//! manifest, without root and the same to the byte every time.
//!
//! ```text
//! recipe ─ mmdebstrap ─▶ root.squashfs + kernel + drivers        slow, cached by its inputs
//! agent + stock files + overlay + containers ─▶ site.squashfs    seconds
//! stage 1 + verification key + drivers ─▶ initrd                 at once
//! signed loaders, Raspberry Pi firmware ─ unpacked ─▶ files of their own   cached with the root
//! all of them ─▶ manifest.json + signature ─▶ the shelf
//! ```

mod build;
pub mod container;
mod firmware;
mod initrd;
mod mmdebstrap;
mod modules;
mod recipe;
mod root;
mod shelf;
pub mod signing;
mod site;

pub use build::{Built, Ingredients, build};
pub use shelf::{Alone, BootSet, Hold, Listed, Shelf, Swept, ToSign};

use std::path::{Path, PathBuf};

use bramble_model::boot_set::Architecture;
use bramble_model::names::Digest;
use bramble_system::{CommandError, Failure};

/// The time that every file of a boot set carries, so that equal inputs give equal bytes:
/// the release of Debian 13, in seconds since the epoch. Not earlier, since systemd sets the
/// clock of a board without one to the time of its own build.
pub(crate) const EPOCH: u64 = 1_754_697_600;

/// A build that did not make a boot set. The shelf is as it was.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {doing}", path.display())]
    File { doing: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{doing}: {source}")]
    Program { doing: &'static str, source: CommandError },
    #[error(transparent)]
    Seal(bramble_seal::Error),
    /// Of one of the two files of the signing key.
    #[error("{}: {problem}", path.display())]
    Key { path: PathBuf, problem: String },
    /// Of a key outside of the head's folder.
    #[error("{}: {problem}", path.display())]
    NoKey { path: PathBuf, problem: String },
    #[error("the key of images is being changed to {next} already")]
    KeyChanging { next: String },
    #[error("the key of images is not being changed")]
    KeyNotChanging,
    #[error("this is the key that signs already")]
    SameKey,
    #[error("boot set {} waits for its signature: the key of images lies elsewhere", .set.short())]
    Unsigned { set: Digest },
    #[error("boot set {} is forbidden", .set.short())]
    Forbidden { set: Digest },
    #[error("the keys of images are being changed by another command")]
    KeysChanged,
    #[error("boot set {} does not trust the key {key}", .set.short())]
    NotTrusted { set: Digest, key: String },
    #[error("the signature for boot set {} is not to be taken: {problem}", .set.short())]
    NoSignature { set: Digest, problem: String },
    #[error("the Debian root has no {0}")]
    Lacks(&'static str),
    #[error("{}: {problem}", path.display())]
    Malformed { path: PathBuf, problem: String },
    #[error("Debian {suite} has no package `{package}`: correct `image.packages` in bramble.toml")]
    NoSuchPackage { suite: String, package: String },
    /// `more` files beside this one could not be fetched.
    #[error("cannot fetch {url}: {reason}{}", others(*.more))]
    Fetch { url: String, reason: String, more: usize },
    #[error("a build is putting files on the shelf{}", processes(.by))]
    ShelfHeld { by: Vec<u32> },
    #[error("stopped on request")]
    Cancelled,
    #[error("there is no boot set for {architecture} yet: {}", how_to_make(*.architecture))]
    NoBootSet { architecture: Architecture },
    #[error("programs for {architecture} cannot be run on this computer, and the packages' own have to be")]
    CannotRun { architecture: Architecture },
    #[error("no boot set begins with `{0}`: `bramble image ls` lists them")]
    NoSuchSet(String),
    #[error("boot set {} is not on the shelf", .set.short())]
    NotOnShelf { set: Digest },
    #[error("boot set {} is damaged: {problem}", .set.short())]
    DamagedSet { set: Digest, problem: &'static str },
}

fn how_to_make(architecture: Architecture) -> String {
    match architecture {
        Architecture::Amd64 => "run `bramble image build`".into(),
        other => format!("add \"{other}\" to `image.architectures` in bramble.toml and run `bramble image build`"),
    }
}

fn processes(by: &[u32]) -> String {
    match by {
        [] => String::new(),
        [one] => format!(" (process {one})"),
        several => format!(" (processes {})", several.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")),
    }
}

fn others(more: usize) -> String {
    if more > 0 { format!(" (and {more} more)") } else { String::new() }
}

impl Error {
    /// What the person can do about it, beyond what the error says.
    pub fn help(&self) -> Option<String> {
        match self {
            Error::File { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                Some("free some space (`bramble image gc` removes old boot sets) and build again".into())
            }
            Error::Seal(error) => error.help().map(str::to_owned),
            Error::Key { .. } => Some(
                "put it back from a backup, or move image.json and all that begins with image- or image. in that folder aside: a new pair is made, and signs what is built from then on"
                    .into(),
            ),
            Error::KeyChanging { .. } => {
                Some("`bramble image key rotate --finish` ends that, `--abandon` gives it up".into())
            }
            Error::KeyNotChanging => Some("`bramble image key rotate` begins that".into()),
            Error::Unsigned { set } => Some(format!("`bramble image sign {} --key FILE` signs it", set.short())),
            Error::NotTrusted { .. } => Some(
                "its stage 1 was built before that key was known, and would refuse the signature: `bramble image build` makes \
                 one that trusts it"
                    .into(),
            ),
            Error::NoSignature { .. } => {
                Some("`bramble image sign SET` makes one, `bramble image build` a set that can be signed".into())
            }
            Error::Forbidden { set } => Some(format!(
                "`bramble image sign {}` allows it again, where it is good after all; or change what it is built from",
                set.short()
            )),
            Error::KeysChanged => Some("nothing was changed: run this again, after `bramble image key show`".into()),
            Error::Program { source: CommandError { failure: Failure::NotFound, program }, .. } => {
                Some(format!("install `{program}` with the distribution's package manager"))
            }
            Error::Program { source: CommandError { failure: Failure::Failed { stderr, .. }, .. }, .. } => {
                if stderr.contains("No space left") || stderr.contains("write failed") {
                    Some("free some space (`bramble image gc` removes old boot sets) and build again".into())
                } else {
                    Some("nothing was changed; what is ready is kept, so building again goes on from there".into())
                }
            }
            Error::ShelfHeld { .. } => {
                Some("nothing was removed: run this again when the build has ended (`ps -p PROCESS` shows it)".into())
            }
            Error::DamagedSet { .. } => Some(
                "`bramble image build` makes it anew, or another one in its place; `bramble image gc` removes it once nobody \
                 is given it"
                    .into(),
            ),
            Error::CannotRun { .. } => Some(
                "install QEMU's user emulation: `apt install qemu-user-binfmt` (Debian 12 and Ubuntu: `qemu-user-static`)"
                    .into(),
            ),
            Error::Fetch { .. } => Some(
                "is the network away, or the mirror? nothing was changed: build again when `apt-get update` works"
                    .into(),
            ),
            _ => None,
        }
    }

    pub(crate) fn file<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> Error + 'a {
        move |source| Error::File { doing, path: path.to_owned(), source }
    }

    pub(crate) fn program(doing: &'static str) -> impl FnOnce(CommandError) -> Error {
        move |source| match source.failure {
            Failure::Cancelled => Error::Cancelled,
            _ => Error::Program { doing, source },
        }
    }
}
