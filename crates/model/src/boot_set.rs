//! The manifest of a boot set: what a node boots, by digest, signed as one file.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::names::{Digest, Name};

/// The version of the manifest's form. Stage 1 refuses one it does not know.
pub const FORM: u32 = 1;

/// Instruction sets that boot sets are built for, by Debian's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    Amd64,
    Arm64,
}

impl Architecture {
    pub const ALL: [Architecture; 2] = [Architecture::Amd64, Architecture::Arm64];

    pub fn as_str(self) -> &'static str {
        match self {
            Architecture::Amd64 => "amd64",
            Architecture::Arm64 => "arm64",
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which boot set nodes of one architecture are given. `GET /v1/boot-sets`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenSet {
    pub set: Digest,
    /// Milliseconds since 1970; 0 where that was not kept.
    pub since: u64,
}

/// What was signed too long ago to be booted any more: `GET /v1/sets`. It only rises.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floor {
    /// Boot sets whose signature has a lesser serial are forbidden; seconds since 1970.
    pub floor: u64,
    /// The set that a person named last.
    pub set: Option<Digest>,
    /// When that was, in milliseconds since 1970; 0 for never.
    pub at: u64,
}

/// What `manifest.json` in a boot set says. Its SHA-256 digest names the boot set;
/// `manifest.json.minisig` beside it is the minisign signature over the same bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub form: u32,
    pub cluster: Name,
    /// Version of the program that built the set.
    pub version: String,
    /// Git revision of the cluster repository, and `-dirty` where the tree had changes.
    /// `None` outside a git repository.
    pub revision: Option<String>,
    pub architecture: Architecture,
    pub suite: String,
    pub kernel: Artifact,
    pub initrd: Artifact,
    /// Read-only squashfs layers, the lowest first.
    pub layers: Vec<Layer>,
    /// What firmware fetches before the kernel, by the name that it asks for: signed loaders, the
    /// firmware of Raspberry Pis and device trees.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub firmware: Vec<Layer>,
    /// Kernel arguments that every node gets.
    pub cmdline: String,
    /// What its stage 1 can do beside what every one can: [`bramble_boot::CLAIMS`], [`bramble_boot::OWN_DATA`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub knows: Vec<String>,
    /// The keys whose signatures its stage 1 takes, in minisign's base64, the one that signed at first before the others;
    /// empty in sets of programs that did not say it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trusts: Vec<String>,
    /// SHA-256 of all that the repository and this program say of the image; `None` in sets of programs that did
    /// not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<Digest>,
    /// Debian packages in the root, sorted by name.
    pub packages: Vec<Package>,
    /// Folders that must not lie on an overlay: stage 1 puts them on the data partition, or into memory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data: Vec<DataFolder>,
}

impl Manifest {
    /// All files of the set, by what each is.
    pub fn files(&self) -> impl Iterator<Item = (&str, &Artifact)> {
        let named = self.layers.iter().chain(&self.firmware).map(|file| (file.name.as_str(), &file.artifact));
        [("kernel", &self.kernel), ("initrd", &self.initrd)].into_iter().chain(named)
    }

    /// All files of the set.
    pub fn artifacts(&self) -> impl Iterator<Item = &Artifact> {
        self.files().map(|(_, artifact)| artifact)
    }

    /// What firmware fetches by this name.
    pub fn firmware(&self, name: &str) -> Option<&Artifact> {
        self.firmware.iter().find(|file| file.name == name).map(|file| &file.artifact)
    }

    /// Whether its stage 1 claims its boot, with a nonce that it draws itself.
    pub fn claims(&self) -> bool {
        self.knows.iter().any(|known| known == bramble_boot::CLAIMS)
    }

    /// Whether its stage 1 mounts the data partition that the head names.
    pub fn knows_data(&self) -> bool {
        self.knows.iter().any(|known| known == bramble_boot::OWN_DATA)
    }

    /// Bytes that a node without a disk fetches to boot.
    pub fn payload(&self) -> u64 {
        let layers = self.layers.iter().map(|layer| layer.artifact.size).sum::<u64>();
        self.kernel.size + self.initrd.size + layers
    }
}

/// One file of a boot set, kept under its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    pub sha256: Digest,
    /// Bytes.
    pub size: u64,
}

/// A named file: one squashfs layer of the root, a loader, or a board's firmware.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Of layers `root` (Debian packages) or `site` (agent, stock files, overlay, containers).
    pub name: String,
    #[serde(flatten)]
    pub artifact: Artifact,
}

/// A folder in which an engine keeps what grows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFolder {
    /// Of the folder on the data partition.
    pub name: String,
    /// Absolute, in the root.
    pub path: String,
}

/// One Debian package in the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    pub name: String,
    pub version: String,
}
