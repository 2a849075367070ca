//! The signed manifest: what this boot may mount.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use bramble_boot::{Arguments, CLUSTER_FILE, Failure, KEY_FILE, MANIFEST, SIGNATURE, Statement, kept_set, set_path};
use minisign_verify::{PublicKey, Signature};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::error::{Doing, Error};
use crate::memory::Memory;
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

/// Whose manifests this machine boots.
struct Trust {
    /// The keys that sign them, in minisign's base64, a line each.
    keys: String,
    cluster: String,
    memory: Memory,
}

impl Trust {
    /// What the initrd says, and the data partition remembers.
    fn read(data: Option<&Path>) -> Result<Self, Error> {
        let text =
            |path: &str| fs::read_to_string(Path::new("/").join(path)).doing(format_args!("cannot read /{path}"));
        Ok(Trust { keys: text(KEY_FILE)?, cluster: text(CLUSTER_FILE)?, memory: Memory::on(data) })
    }
}

/// What this program runs on, by Debian's name.
const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

/// Gets the manifest that the boot script named, from the data partition or the head, and
/// verifies its digest, its signature and what that says, and that it is for this cluster and this processor.
pub fn fetch(arguments: &Arguments, data: Option<&Path>) -> Result<Manifest, Error> {
    let trust = Trust::read(data)?;
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
            eprintln!("bramble: the boot set on the data partition is not used ({damage}): the head's takes its place");
            let replaced = replace(&folder, MANIFEST, &bytes).and_then(|()| replace(&folder, SIGNATURE, &signature));
            if let Err(error) = replaced {
                // The node boots all the same, and tries again next time.
                eprintln!("bramble: {error}");
            }
            Ok(manifest)
        }
        (Err(error), None) => Err(error),
        (Err(error), Some((_, damage))) => {
            let sentence = format!("{error}; the boot set on the data partition is not used: {damage}");
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
pub fn replace(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), Error> {
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
    let signature = String::from_utf8_lossy(signature);
    let signature =
        Signature::decode(&signature).doing_as(Failure::Signature, "the manifest's signature is malformed")?;
    let mut refused = Error::new(Failure::Signature, "this initrd has no verification key");
    let signer = trust.keys.lines().map(str::trim).filter(|line| !line.is_empty()).find(|line| {
        let verified = PublicKey::from_base64(line)
            .doing_as(Failure::Signature, "the verification key of this initrd is malformed")
            .and_then(|key| {
                key.verify(bytes, &signature, false)
                    .doing_as(Failure::Signature, "the manifest is not signed with the key of this initrd")
            });
        verified.map_err(|error| refused = error).is_ok()
    });
    let Some(signer) = signer else { return Err(refused) };
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
    let said: Statement = (signature.trusted_comment().parse())
        .doing_as(Failure::Signature, "what the manifest's signature says is malformed")?;
    trust.memory.admits(set, &said, &trust.keys)?;
    trust.memory.raise(said.floor, signer);
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
            trusts: Vec::new(),
            cmdline: String::new(),
            packages: Vec::new(),
            inputs: None,
            data: Vec::new(),
        };
        serde_json::to_vec(&manifest).expect("plain data")
    }

    fn signed(bytes: &[u8]) -> (Vec<u8>, Trust) {
        signed_with(bytes, "bramble boot set; serial 1764500000; expires never; floor 0")
    }

    fn signed_with(bytes: &[u8], says: &str) -> (Vec<u8>, Trust) {
        let pair = minisign::KeyPair::generate_unencrypted_keypair().expect("a key");
        let signature = minisign::sign(Some(&pair.pk), &pair.sk, bytes, Some(says), None).expect("signed");
        let trust = Trust { keys: pair.pk.to_base64(), cluster: "lab".into(), memory: Memory::on(None) };
        (signature.into_string().into_bytes(), trust)
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

    /// A machine that was ready with another set before.
    fn remembers_another(data: &Path) {
        let ready = data.join(bramble_boot::AGENT_FOLDER).join(bramble_boot::READY_FOLDER);
        fs::create_dir_all(&ready).and_then(|()| fs::write(ready.join("0808"), "")).expect("written");
    }

    /// While the key is being changed.
    #[test]
    fn either_of_two_keys_will_do() {
        let bytes = manifest();
        let name = hex(&Sha256::digest(&bytes));
        let (signature, mut trust) = signed(&bytes);
        let (_, other) = signed(&bytes);
        let own = trust.keys.clone();
        for keys in [format!("{own}\n{}", other.keys), format!("{}\n{own}\n", other.keys)] {
            trust.keys = keys;
            verify(&bytes, &signature, &name, &trust).expect("one of them signed it");
        }
        for keys in [String::new(), "\n".into(), other.keys] {
            trust.keys = keys;
            let error = verify(&bytes, &signature, &name, &trust).expect_err("neither");
            assert_eq!(error.kind, Failure::Signature);
        }
    }

    #[test]
    fn what_the_signature_says_counts_and_cannot_be_changed_without_the_key() {
        let bytes = manifest();
        let set = hex(&Sha256::digest(&bytes));
        for nothing in ["bramble boot set", "timestamp:1764500000"] {
            let (signature, trust) = signed_with(&bytes, nothing);
            assert_eq!(verify(&bytes, &signature, &set, &trust).expect_err(nothing).kind, Failure::Signature);
        }
        let disk = tempfile::tempdir().expect("a folder");
        remembers_another(disk.path());
        let pair = minisign::KeyPair::generate_unencrypted_keypair().expect("a key");
        let memory = Memory::on(Some(disk.path()));
        let trust = Trust { keys: pair.pk.to_base64(), cluster: "lab".into(), memory };
        let sign = |says: &str| {
            let signed = minisign::sign(None, &pair.sk, &bytes[..], Some(says), None).expect("signed");
            signed.into_string().into_bytes()
        };
        let signature = sign("bramble boot set; serial 5; expires 6; floor 0");
        assert_eq!(verify(&bytes, &signature, &set, &trust).expect_err("long ago").kind, Failure::Expired);
        let text = String::from_utf8(signature).expect("text");
        let forged = text.replace("expires 6", "expires never");
        assert!(forged != text);
        let error = verify(&bytes, forged.as_bytes(), &set, &trust).expect_err("nobody signed that");
        assert_eq!(error.kind, Failure::Signature);
        // A floor that a good signature names is remembered, and one that a forged one names is not.
        let higher = sign("bramble boot set; serial 9; expires never; floor 9");
        let text = String::from_utf8(higher.clone()).expect("text");
        verify(&bytes, text.replace("floor 9", "floor 999").as_bytes(), &set, &trust).expect_err("forged");
        verify(&bytes, &higher, &set, &trust).expect("good");
        let lower = sign("bramble boot set; serial 8; expires never; floor 0");
        let error = verify(&bytes, &lower, &set, &trust).expect_err("signed before the floor");
        assert_eq!(error.kind, Failure::Forbidden);
    }

    /// A set on the disk whose time is up is as a damaged one: the head may have signed it again.
    #[test]
    fn a_set_on_the_data_partition_that_was_signed_again_boots_by_the_heads_signature() {
        let bytes = manifest();
        let set = hex(&Sha256::digest(&bytes));
        let pair = minisign::KeyPair::generate_unencrypted_keypair().expect("a key");
        let sign = |says: &str| {
            let signed = minisign::sign(None, &pair.sk, &bytes[..], Some(says), None).expect("signed");
            signed.into_string().into_bytes()
        };
        let (old, new) = (
            sign("bramble boot set; serial 5; expires 6; floor 0"),
            sign("bramble boot set; serial 7; expires never; floor 0"),
        );
        let data = data(&set, &bytes, &old);
        remembers_another(data.path());
        let memory = Memory::on(Some(data.path()));
        let trust = Trust { keys: pair.pk.to_base64(), cluster: "lab".into(), memory };
        let mut away = |_: &str| Err(Error::new(Failure::Fetch, "the head is away"));
        let error = find(&set, &trust, Some(data.path()), &mut away).expect_err("its time is up");
        assert!(error.sentence.contains("expired on 1970-01-01"), "{error}");
        let mut head = |name: &str| Ok(if name == MANIFEST { bytes.clone() } else { new.clone() });
        find(&set, &trust, Some(data.path()), &mut head).expect("signed again");
        find(&set, &trust, Some(data.path()), &mut away).expect("it is kept");
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
            error.sentence.starts_with("the head is away; the boot set on the data partition is not used"),
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
