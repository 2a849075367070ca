//! The signed manifest: what this boot may mount.

use std::fs;
use std::path::Path;

use minisign_verify::{PublicKey, Signature};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::arguments::Arguments;
use crate::{Doing, Error, clock, http};

/// The form of the manifest that this program reads.
const FORM: u32 = 1;
/// No manifest is longer, in bytes.
const LONGEST: u64 = 4 << 20;

/// As much of a manifest as booting needs.
#[derive(Debug, Deserialize)]
pub struct Manifest {
    form: u32,
    /// The lowest first.
    pub layers: Vec<Layer>,
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

/// Gets the manifest that the boot script named, from the data partition or the head, and
/// verifies its digest and its signature.
pub fn fetch(arguments: &Arguments, data: Option<&Path>) -> Result<Manifest, Error> {
    let key = fs::read_to_string("/etc/bramble.pub").doing("cannot read the verification key")?;
    let set = &arguments.set;
    let local = data.map(|data| data.join("sets").join(set));
    let (bytes, signature) = match local.filter(|folder| folder.is_dir()) {
        Some(folder) => (
            fs::read(folder.join("manifest.json")).doing("cannot read the manifest on the data partition")?,
            fs::read(folder.join("manifest.json.minisig")).doing("cannot read its signature")?,
        ),
        None => {
            let get = |name: &str| {
                let path = format!("/boot/sets/{set}/{name}");
                let answer = http::get(arguments.head, &path, 0).doing(format_args!("cannot fetch {name}"))?;
                if let Some(date) = &answer.date {
                    clock::set_if_behind(date);
                }
                http::read_all(answer, LONGEST).doing(format_args!("cannot fetch {name}"))
            };
            (get("manifest.json")?, get("manifest.json.minisig")?)
        }
    };
    verify(&bytes, &signature, set, &key)
}

fn verify(bytes: &[u8], signature: &[u8], set: &str, key: &str) -> Result<Manifest, Error> {
    if hex(&Sha256::digest(bytes)) != *set {
        return Err(Error("the manifest is not the one that the boot script names: its digest differs".into()));
    }
    let key = PublicKey::from_base64(key.trim()).doing("the verification key of this initrd is malformed")?;
    let signature = String::from_utf8_lossy(signature);
    let signature = Signature::decode(&signature).doing("the manifest's signature is malformed")?;
    key.verify(bytes, &signature, false).doing("the manifest is not signed with the key of this initrd")?;
    let manifest: Manifest = serde_json::from_slice(bytes).doing("the manifest is malformed")?;
    if manifest.form != FORM {
        return Err(Error(format!("the manifest has form {}, and this stage 1 reads form {FORM}", manifest.form)));
    }
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

    fn manifest() -> Vec<u8> {
        let artifact = || model::Artifact { sha256: Name([7; 32]), size: 9 };
        let manifest = model::Manifest {
            form: model::FORM,
            cluster: "lab".parse().expect("a name"),
            version: "1".into(),
            revision: None,
            architecture: bramble_model::boot_set::Architecture::Amd64,
            suite: "trixie".into(),
            kernel: artifact(),
            initrd: artifact(),
            firmware: Vec::new(),
            layers: vec![model::Layer { name: "root".into(), artifact: artifact() }],
            cmdline: String::new(),
            packages: Vec::new(),
        };
        serde_json::to_vec(&manifest).expect("plain data")
    }

    fn signed(bytes: &[u8]) -> (Vec<u8>, String) {
        let pair = minisign::KeyPair::generate_unencrypted_keypair().expect("a key");
        let signature = minisign::sign(Some(&pair.pk), &pair.sk, bytes, None, None).expect("signed");
        (signature.into_string().into_bytes(), pair.pk.to_base64())
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
}
