//! The signed manifest: what this boot may mount.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use bramble_boot::{Arguments, CLUSTER_FILE, Failure, KEY_FILE, MANIFEST, SIGNATURE, kept_set, set_path};
use minisign_verify::{PublicKey, Signature};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::error::{Doing, Error};
use crate::{clock, http};

/// The form of the manifest that this program reads.
const FORM: u32 = 1;
/// No manifest is longer, in bytes.
const LONGEST: u64 = 4 << 20;

/// As much of a manifest as booting needs.
#[derive(Debug, Deserialize)]
pub struct Manifest {
    form: u32,
    cluster: String,
    /// By Debian's name.
    architecture: String,
    /// The lowest first.
    pub layers: Vec<Layer>,
    /// Folders that must not lie on an overlay.
    #[serde(default)]
    pub data: Vec<DataFolder>,
}

/// Where an engine keeps what grows.
#[derive(Debug, Deserialize)]
pub struct DataFolder {
    /// On the data partition.
    pub name: String,
    pub path: String,
}

/// One squashfs layer.
#[derive(Debug, Deserialize)]
pub struct Layer {
    pub name: String,
    /// In hex.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
}

/// Whose manifests this initrd boots.
struct Trust {
    /// The key that signs them, in minisign's base64.
    key: String,
    cluster: String,
}

impl Trust {
    /// What the initrd says.
    fn read() -> Result<Self, Error> {
        let text =
            |path: &str| fs::read_to_string(Path::new("/").join(path)).doing(format_args!("cannot read /{path}"));
        Ok(Trust { key: text(KEY_FILE)?, cluster: text(CLUSTER_FILE)? })
    }
}

/// What this program runs on, by Debian's name.
const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

/// Gets the manifest that the boot script named, from the data partition or the head, and
/// verifies its digest, its signature, and that it is for this cluster and this processor.
pub fn fetch(arguments: &Arguments, data: Option<&Path>) -> Result<Manifest, Error> {
    let trust = Trust::read()?;
    let set = &arguments.set;
    let mut from_head = |name: &str| {
        let what = format!("cannot fetch {name}");
        let answer = http::get(arguments.head, &set_path(set, name), 0).doing_as(Failure::Fetch, &what)?;
        if let Some(date) = &answer.date {
            clock::set_if_behind(date);
        }
        http::read_all(answer, LONGEST).doing_as(Failure::Fetch, what)
    };
    find(set, &trust, data, &mut from_head)
}

/// The manifest of `set` that is to be trusted: the one that is kept below `data`, or else the head's, which
/// then takes the place of a damaged one. A disk that lost a sector must not keep the node down.
fn find(
    set: &str,
    trust: &Trust,
    data: Option<&Path>,
    from_head: &mut dyn FnMut(&str) -> Result<Vec<u8>, Error>,
) -> Result<Manifest, Error> {
    let folder = data.map(|data| kept_set(data, set)).filter(|folder| folder.is_dir());
    let kept = folder.map(|folder| match kept(&folder, set, trust) {
        Ok(manifest) => Ok(manifest),
        Err(damage) => Err((folder, damage)),
    });
    let damaged = match kept {
        Some(Ok(manifest)) => return Ok(manifest),
        Some(Err(damaged)) => Some(damaged),
        None => None,
    };
    let fetched = from_head(MANIFEST).and_then(|bytes| {
        let signature = from_head(SIGNATURE)?;
        Ok((verify(&bytes, &signature, set, trust)?, bytes, signature))
    });
    match (fetched, damaged) {
        (Ok((manifest, ..)), None) => Ok(manifest),
        (Ok((manifest, bytes, signature)), Some((folder, damage))) => {
            eprintln!("bramble: the boot set on the data partition is damaged ({damage}): the head's takes its place");
            let replaced = replace(&folder, MANIFEST, &bytes).and_then(|()| replace(&folder, SIGNATURE, &signature));
            if let Err(error) = replaced {
                // The node boots all the same, and tries again next time.
                eprintln!("bramble: {error}");
            }
            Ok(manifest)
        }
        (Err(error), None) => Err(error),
        (Err(error), Some((_, damage))) => {
            let sentence = format!("{error}; the boot set on the data partition is damaged: {damage}");
            Err(Error { sentence, ..error })
        }
    }
}

/// The manifest in a folder of the data partition.
fn kept(folder: &Path, set: &str, trust: &Trust) -> Result<Manifest, Error> {
    let read = |name: &str| {
        let mut bytes = Vec::new();
        let path = folder.join(name);
        // What else may lie there would never end, or never begin.
        if !path.is_file() {
            return Err(Error::new(Failure::Machine, format!("{name} is not there")));
        }
        let read = File::open(path).and_then(|file| file.take(LONGEST).read_to_end(&mut bytes));
        read.doing(format_args!("cannot read {name}")).map(|_| bytes)
    };
    verify(&read(MANIFEST)?, &read(SIGNATURE)?, set, trust)
}

/// Replaces a file whole: a power cut leaves the old one or the new one.
fn replace(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), Error> {
    let new = folder.join(format!(".{name}.new"));
    let written = File::create(&new).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, folder.join(name))?;
        File::open(folder)?.sync_all()
    });
    written.doing(format_args!("cannot replace {name} on the data partition"))
}

fn verify(bytes: &[u8], signature: &[u8], set: &str, trust: &Trust) -> Result<Manifest, Error> {
    if hex(&Sha256::digest(bytes)) != *set {
        let sentence = "the manifest is not the one that the boot script names: its digest differs";
        return Err(Error::new(Failure::Digest, sentence));
    }
    let key = PublicKey::from_base64(trust.key.trim())
        .doing_as(Failure::Signature, "the verification key of this initrd is malformed")?;
    let signature = String::from_utf8_lossy(signature);
    let signature =
        Signature::decode(&signature).doing_as(Failure::Signature, "the manifest's signature is malformed")?;
    key.verify(bytes, &signature, false)
        .doing_as(Failure::Signature, "the manifest is not signed with the key of this initrd")?;
    let manifest: Manifest = serde_json::from_slice(bytes).doing("the manifest is malformed")?;
    if manifest.form != FORM {
        let sentence = format!("the manifest has form {}, and this stage 1 reads form {FORM}", manifest.form);
        return Err(Error::new(Failure::Machine, sentence));
    }
    let is_for = |what: &str, theirs: &str, own: &str| match theirs == own {
        true => Ok(()),
        false => Err(Error::new(Failure::Signature, format!("the manifest is for {what} {theirs}, and this is {own}"))),
    };
    is_for("the cluster", &manifest.cluster, &trust.cluster)?;
    is_for("the architecture", &manifest.architecture, ARCHITECTURE)?;
    Ok(manifest)
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bramble_model::boot_set as model;
    use bramble_model::names::Digest as Name;

    const OWN: model::Architecture =
        if cfg!(target_arch = "aarch64") { model::Architecture::Arm64 } else { model::Architecture::Amd64 };
    const OTHER: model::Architecture =
        if cfg!(target_arch = "aarch64") { model::Architecture::Amd64 } else { model::Architecture::Arm64 };

    fn manifest() -> Vec<u8> {
        manifest_for("lab", OWN)
    }

    fn manifest_for(cluster: &str, architecture: model::Architecture) -> Vec<u8> {
        let artifact = || model::Artifact { sha256: Name([7; 32]), size: 9 };
        let manifest = model::Manifest {
            form: model::FORM,
            cluster: cluster.parse().expect("a name"),
            version: "1".into(),
            revision: None,
            architecture,
            suite: "trixie".into(),
            kernel: artifact(),
            initrd: artifact(),
            firmware: Vec::new(),
            layers: vec![model::Layer { name: "root".into(), artifact: artifact() }],
            knows: Vec::new(),
            cmdline: String::new(),
            packages: Vec::new(),
            inputs: None,
            data: Vec::new(),
        };
        serde_json::to_vec(&manifest).expect("plain data")
    }

    fn signed(bytes: &[u8]) -> (Vec<u8>, Trust) {
        let pair = minisign::KeyPair::generate_unencrypted_keypair().expect("a key");
        let signature = minisign::sign(Some(&pair.pk), &pair.sk, bytes, None, None).expect("signed");
        (signature.into_string().into_bytes(), Trust { key: pair.pk.to_base64(), cluster: "lab".into() })
    }

    #[test]
    fn the_manifest_that_the_head_writes_is_read() {
        let bytes = manifest();
        let (signature, key) = signed(&bytes);
        let read = verify(&bytes, &signature, &hex(&Sha256::digest(&bytes)), &key).expect("verified");
        assert_eq!((read.layers[0].name.as_str(), read.layers[0].size), ("root", 9));
        assert_eq!(read.layers[0].sha256, "07".repeat(32));
    }

    #[test]
    fn another_key_another_digest_or_another_byte_is_refused() {
        let bytes = manifest();
        let (signature, key) = signed(&bytes);
        let (_, other) = signed(&bytes);
        let name = hex(&Sha256::digest(&bytes));
        verify(&bytes, &signature, &name, &other).expect_err("another key");
        verify(&bytes, &signature, &"0".repeat(64), &key).expect_err("another digest");
        let mut changed = bytes.clone();
        changed[5] ^= 1;
        verify(&changed, &signature, &hex(&Sha256::digest(&changed)), &key).expect_err("another byte");
    }

    #[test]
    fn a_manifest_of_another_cluster_or_for_another_processor_is_refused_though_its_signature_is_good() {
        for (bytes, what) in
            [(manifest_for("home", OWN), "the cluster home"), (manifest_for("lab", OTHER), "architecture")]
        {
            let (signature, key) = signed(&bytes);
            let error = verify(&bytes, &signature, &hex(&Sha256::digest(&bytes)), &key).expect_err(what);
            assert!(error.kind == Failure::Signature && error.sentence.contains(what), "{error}");
        }
    }

    /// A data partition with this set on it.
    fn data(set: &str, bytes: &[u8], signature: &[u8]) -> tempfile::TempDir {
        let data = tempfile::tempdir().expect("a folder");
        let folder = kept_set(data.path(), set);
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join(MANIFEST), bytes).expect("written");
        fs::write(folder.join(SIGNATURE), signature).expect("written");
        data
    }

    #[test]
    fn a_whole_set_on_the_data_partition_needs_no_head() {
        let bytes = manifest();
        let (signature, key) = signed(&bytes);
        let set = hex(&Sha256::digest(&bytes));
        let data = data(&set, &bytes, &signature);
        let mut away = |_: &str| Err(Error::new(Failure::Fetch, "the head is away"));
        find(&set, &key, Some(data.path()), &mut away).expect("verified");
    }

    /// However the set on the disk is damaged, the head's is booted, and lies there afterwards.
    #[test]
    fn a_damaged_set_on_the_data_partition_is_replaced_by_the_heads() {
        let bytes = manifest();
        let (signature, key) = signed(&bytes);
        let set = hex(&Sha256::digest(&bytes));
        let mut torn = bytes.clone();
        torn.truncate(20);
        let (forged, _) = signed(&bytes);
        for (kept, kept_signature) in
            [(&torn, &signature), (&bytes, &Vec::new()), (&bytes, &forged), (&Vec::new(), &Vec::new())]
        {
            let data = data(&set, kept, kept_signature);
            let mut head = |name: &str| Ok(if name == MANIFEST { bytes.clone() } else { signature.clone() });
            find(&set, &key, Some(data.path()), &mut head).expect("the head's is whole");
            let mut away = |_: &str| Err(Error::new(Failure::Fetch, "the head is away"));
            find(&set, &key, Some(data.path()), &mut away).expect("it was replaced");
        }
    }

    #[test]
    fn files_that_are_gone_from_the_set_come_from_the_head() {
        let bytes = manifest();
        let (signature, key) = signed(&bytes);
        let set = hex(&Sha256::digest(&bytes));
        let data = data(&set, &bytes, &signature);
        fs::remove_file(kept_set(data.path(), &set).join(SIGNATURE)).expect("removed");
        let mut away = |_: &str| Err(Error::new(Failure::Fetch, "the head is away"));
        let error = find(&set, &key, Some(data.path()), &mut away).expect_err("neither has it");
        assert_eq!(error.kind, Failure::Fetch);
        assert!(
            error.sentence.starts_with("the head is away; the boot set on the data partition is damaged"),
            "{error}"
        );
        let mut head = |name: &str| Ok(if name == MANIFEST { bytes.clone() } else { signature.clone() });
        find(&set, &key, Some(data.path()), &mut head).expect("the head's is whole");
        // The head's word is not taken for more than it is.
        fs::remove_file(kept_set(data.path(), &set).join(SIGNATURE)).expect("removed");
        let (forged, _) = signed(&bytes);
        let mut liar = |name: &str| Ok(if name == MANIFEST { bytes.clone() } else { forged.clone() });
        let error = find(&set, &key, Some(data.path()), &mut liar).expect_err("another key");
        assert_eq!(error.kind, Failure::Signature);
    }
}
