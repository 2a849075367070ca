//! What a machine is given at one boot.

use std::net::SocketAddrV4;

use bramble_boot::{HandedOut, PartitionId, file_path};
use bramble_image::BootSet;
use bramble_model::boot_set::Artifact;
use bramble_model::names::{BootId, BootTag, Digest, Name};
use sha2::{Digest as _, Sha256};

/// What a machine is given at this boot.
pub(crate) enum Given {
    /// bramble's own system.
    Own(Box<Own>),
    /// A kernel of another one.
    Kernel(Handed),
    /// The URL of a program for UEFI.
    Efi(String),
    /// It boots its disk.
    Disk,
}

/// The kernel of another system that a node is given at this boot.
pub(crate) struct Handed {
    pub(crate) kernel: String,
    pub(crate) initrds: Vec<String>,
    pub(crate) cmdline: String,
}

/// One boot of bramble's own system.
pub(crate) struct Own {
    pub(super) node: Name,
    pub(super) http: SocketAddrV4,
    pub(super) agent_port: u16,
    pub(super) boot: BootId,
    /// For a machine that does not claim its boot.
    pub(super) nonce: Option<String>,
    pub(super) inventory: bool,
    /// Its data partition, where its stage 1 mounts no other.
    pub(super) data: Option<PartitionId>,
    pub(super) set: BootSet,
    /// Its digest in hex.
    pub(super) digest: String,
}

impl Own {
    /// The kernel's arguments.
    pub(crate) fn words(&self) -> HandedOut<'_> {
        HandedOut {
            node: self.node.as_str(),
            head: self.http,
            agent_port: self.agent_port,
            boot: &self.boot.0,
            nonce: self.nonce.as_deref(),
            set: &self.digest,
            inventory: self.inventory,
            data: self.data,
            cmdline: &self.set.manifest.cmdline,
        }
    }

    /// Where its kernel and its initrd are fetched.
    pub(crate) fn urls(&self) -> [String; 2] {
        let Own { http, boot, set, .. } = self;
        let url =
            |file: &Artifact, name| format!("http://{http}{}", file_path(&file.sha256.to_string(), &boot.0, name));
        [url(&set.manifest.kernel, "kernel"), url(&set.manifest.initrd, "initrd")]
    }
}

/// What the timeline tells of a boot.
pub(super) fn tag(boot: &BootId) -> BootTag {
    BootTag(Digest(Sha256::digest(boot.0.as_bytes()).into()).short())
}
