//! Why the head, or a part of it, does not go on.

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use bramble_model::boot_set::Architecture;
use bramble_model::names::Digest;

/// Why a head does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {doing}", path.display())]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Store(#[from] bramble_store::Error),
    #[error("network interface {name}: {problem}")]
    Interface { name: String, problem: String },
    #[error("full DHCP is not started on {interface}: another DHCP server answers there ({})", list(.others))]
    OtherDhcp { interface: String, others: Vec<Ipv4Addr> },
    #[error("{service}")]
    Service { service: String, source: io::Error },
    #[error("a part of the head ended by an error of bramble's own: {0}")]
    Part(String),
    #[error("the head's snapshot: {0}")]
    Snapshot(String),
    #[error("{} is missing, and the head of the store {} has had one", ca.display(), store.display())]
    NoKeys { store: PathBuf, ca: PathBuf },
    #[error(transparent)]
    Seal(#[from] bramble_seal::Error),
    #[error("backups are encrypted to whom the repository names, and it names nobody (`[backup] recipients`)")]
    NoRecipients,
    #[error("a backup that was being restored cannot be put into its place")]
    Restoring(#[source] Box<crate::backup::Unusable>),
    /// Of a file in the folder of the head's keys.
    #[error("{}: {problem}", path.display())]
    Key { path: PathBuf, problem: &'static str },
    /// The current one, and there is no other to start with.
    #[error("{reason}. The head's folder does not give one either")]
    Lost { reason: String, source: Box<Error> },
    #[error("the boot files' shelf")]
    Shelf(#[source] bramble_image::Error),
    #[error(transparent)]
    Repository(#[from] bramble_model::repository::Problems),
    #[error("{} cannot be read as a repository", home.display())]
    Folder { home: PathBuf, source: bramble_model::snapshot::Error },
    #[error("boot set {} is for {architecture}", .set.short())]
    OtherArchitecture { set: Digest, architecture: Architecture },
    #[error("boot set {} is not whole on the shelf: it lacks {}", .set.short(), .files.join(", "))]
    NotWhole { set: Digest, files: Vec<String> },
    #[error("boot set {} is forbidden", .set.short())]
    Forbidden { set: Digest },
    #[error("nodes of {architecture} are given boot set {}, which would be forbidden, too", .set.short())]
    GivenIsForbidden { architecture: Architecture, set: Digest },
    #[error("the head's certificates: {0}")]
    Certificates(String),
    #[error("cannot read loader {0}: install Debian's package `ipxe`")]
    Loader(PathBuf),
}

impl Error {
    /// Whether a record is there and cannot be read: a person's affair, which is known by name.
    pub(crate) fn is_unreadable(&self) -> bool {
        matches!(self, Error::Store(bramble_store::Error::Unreadable(_)))
    }

    /// Whether the disk took no writes, and may again: nothing has changed.
    pub(crate) fn is_not_lasting(&self) -> bool {
        matches!(self, Error::Store(bramble_store::Error::NotLasting(_)))
    }

    /// What the person can do about it.
    pub fn help(&self) -> Option<&'static str> {
        Some(match self {
            Error::Shelf(bramble_image::Error::Unsigned { .. } | bramble_image::Error::NoSignature { .. }) => {
                "`bramble image sign SET --key FILE` signs it"
            }
            Error::Shelf(bramble_image::Error::ShelfHeld { .. }) => "try again when the build has ended",
            Error::OtherDhcp { .. } => {
                "two would give machines conflicting addresses: set `network.dhcp = \"proxy\"` and let the other one hand out addresses, or switch it off"
            }
            Error::Interface { .. } => {
                "name the interface that the nodes hang on in `network.interface`; `ip link` lists them"
            }
            Error::Service { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "boot services need ports below 1024 and raw sockets: run `bramble serve` as root, or as a service with CAP_NET_ADMIN, CAP_NET_RAW and CAP_NET_BIND_SERVICE"
            }
            Error::Service { source, .. } if source.kind() == io::ErrorKind::AddrInUse => {
                "another program has that port: `ss -lnup` and `ss -lntp` name it"
            }
            Error::Store(error) => return error.help(),
            Error::Seal(error) => return error.help(),
            Error::NoRecipients => bramble_model::repository::recipient::HELP,
            Error::Restoring(error) => return error.help(),
            Error::NotWhole { .. } => {
                "`bramble image build` puts there what the repository's image is made of, and gives that; `bramble image ls` lists other sets"
            }
            Error::Forbidden { .. } => {
                "`bramble image sign SET` signs it anew, where it is good after all; `bramble image build` makes another one"
            }
            Error::GivenIsForbidden { .. } => {
                "give them another set first: `bramble image build` makes a new one, `bramble image sign SET` signs an older one anew, and `bramble image use SET` gives it"
            }
            Error::NoKeys { .. } | Error::Key { .. } => {
                "put the file back, or move head.redb and the folder `keys` aside and `bramble restore` a backup; with both aside and no backup, a head begins anew: no node, user or image of the old one is known to it"
            }
            Error::File { source, .. } if is_full(source) => {
                "make room on that disk, and try again: nothing has changed"
            }
            Error::Lost { .. } => {
                "put the repository, with its bramble.toml, into the head's folder and start again; or move the state folder aside and `bramble restore` a backup"
            }
            _ => return None,
        })
    }
}

/// Whether there is no room left on a disk, or not for this user.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn list(addresses: &[Ipv4Addr]) -> String {
    addresses.iter().map(Ipv4Addr::to_string).collect::<Vec<_>>().join(", ")
}

impl Error {
    pub(crate) fn image(error: bramble_image::Error) -> Error {
        Error::Shelf(error)
    }

    pub(crate) fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::File { doing, path, source }
    }

    /// Of a service that cannot be had.
    pub(crate) fn service(name: &str) -> impl FnOnce(io::Error) -> Error {
        let service = name.to_owned();
        move |source| Error::Service { service, source }
    }
}
