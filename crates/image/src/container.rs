//! OCI archives: a static program as a container image that needs no registry to be built or run, and
//! what an archive is for.
//!
//! Layout and media types: OCI Image Specification 1.1, `image-layout.md` and `config.md`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use bramble_model::boot_set::Architecture;
use bramble_model::names::Digest;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{EPOCH, Error};

/// Bytes of an archive's entry above which it is a layer.
const LARGEST_DOCUMENT: u64 = 1 << 20;

/// An image of one static program, which it starts.
pub struct Program<'a> {
    /// Name and tag: `whoami:1`.
    pub tag: &'a str,
    /// The file's name in the image; it lies in `/`.
    pub name: &'a str,
    pub bytes: &'a [u8],
}

/// What an ELF program runs on (System V gABI, `e_machine`); `None` for any other file.
fn machine(program: &[u8]) -> Option<Architecture> {
    if program.get(..4)? != b"\x7fELF" {
        return None;
    }
    match u16::from_le_bytes(program.get(18..20)?.try_into().ok()?) {
        62 => Some(Architecture::Amd64),
        183 => Some(Architecture::Arm64),
        _ => None,
    }
}

impl Program<'_> {
    /// Writes the archive: the same bytes for the same program.
    ///
    /// # Errors
    /// As `out` says; and what is no program for amd64 or arm64.
    pub fn write(&self, out: impl Write) -> io::Result<()> {
        let not = || io::Error::other(format!("{} is not a Linux program for amd64 or arm64", self.name));
        let architecture = machine(self.bytes).ok_or_else(not)?;
        let mut layer = tar::Builder::new(Vec::new());
        append(&mut layer, self.name, self.bytes, 0o755)?;
        let layer = layer.into_inner()?;
        let config = to_bytes(&json!({
            "architecture": architecture,
            "os": "linux",
            "config": { "Entrypoint": [format!("/{}", self.name)], "User": "65534:65534" },
            "rootfs": { "type": "layers", "diff_ids": [name(&layer)] },
        }));
        let manifest = to_bytes(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
        }));
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        let (repository, tag) = self.tag.split_once(':').unwrap_or((self.tag, "latest"));
        entry["annotations"] = json!({
            // What `docker load` names the image by.
            "io.containerd.image.name": format!("docker.io/library/{repository}:{tag}"),
            "org.opencontainers.image.ref.name": tag,
        });
        let index = to_bytes(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [entry],
        }));
        // Docker before 25 reads this one instead of the index.
        let docker = to_bytes(&json!([{
            "Config": blob(&config),
            "RepoTags": [format!("{repository}:{tag}")],
            "Layers": [blob(&layer)],
        }]));
        let mut archive = tar::Builder::new(out);
        append(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
        append(&mut archive, "index.json", &index, 0o644)?;
        append(&mut archive, "manifest.json", &docker, 0o644)?;
        for bytes in [&layer, &config, &manifest] {
            append(&mut archive, &blob(bytes), bytes, 0o644)?;
        }
        archive.into_inner()?.flush()
    }
}

/// Whether the image in this archive is for `architecture`: an archive of several platforms is for each
/// of them, and one that says nothing is for all.
///
/// # Errors
/// When there is no such file, or it is no archive.
pub(crate) fn runs_on(archive: &Path, architecture: Architecture) -> Result<bool, Error> {
    let documents = documents(archive).map_err(Error::file("cannot read the container's archive", archive))?;
    let of = |name: &str| documents.get(name);
    let mut named: Vec<&str> = Vec::new();
    // Docker's own index names the configuration of each image; OCI's may name platforms.
    for entry in of("manifest.json").and_then(Value::as_array).into_iter().flatten() {
        let config = entry["Config"].as_str().and_then(of);
        named.extend(config.and_then(|config| config["architecture"].as_str()));
    }
    for entry in of("index.json").and_then(|index| index["manifests"].as_array()).into_iter().flatten() {
        named.extend(entry["platform"]["architecture"].as_str());
    }
    Ok(named.is_empty() || named.contains(&architecture.as_str()))
}

/// The JSON documents of an archive, by path.
fn documents(archive: &Path) -> io::Result<BTreeMap<String, Value>> {
    let mut found = BTreeMap::new();
    let mut tar = tar::Archive::new(io::BufReader::new(File::open(archive)?));
    for entry in tar.entries()? {
        let mut entry = entry?;
        if entry.size() > LARGEST_DOCUMENT || !entry.header().entry_type().is_file() {
            continue;
        }
        let path = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        if let Ok(value) = serde_json::from_slice(&bytes) {
            found.insert(path, value);
        }
    }
    Ok(found)
}

fn append(archive: &mut tar::Builder<impl Write>, path: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    header.set_mtime(EPOCH);
    archive.append_data(&mut header, path, bytes)
}

fn digest(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

fn name(bytes: &[u8]) -> String {
    format!("sha256:{}", digest(bytes))
}

fn blob(bytes: &[u8]) -> String {
    format!("blobs/sha256/{}", digest(bytes))
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": name(bytes), "size": bytes.len() })
}

fn to_bytes(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("a JSON value is serialisable")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_for_the_architecture_of_its_program() {
        for (number, architecture, other) in
            [(62_u16, Architecture::Amd64, Architecture::Arm64), (183, Architecture::Arm64, Architecture::Amd64)]
        {
            let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
            bytes.resize(64, 0);
            bytes[18..20].copy_from_slice(&number.to_le_bytes());
            let file = tempfile::NamedTempFile::new().expect("a temporary file");
            Program { tag: "whoami:1", name: "whoami", bytes: &bytes }.write(file.as_file()).expect("packed");
            assert!(runs_on(file.path(), architecture).expect("readable"));
            assert!(!runs_on(file.path(), other).expect("readable"));
        }
    }

    #[test]
    fn a_script_is_no_program() {
        let script = Program { tag: "script:1", name: "script", bytes: b"#!/bin/sh" };
        script.write(io::sink()).expect_err("not an ELF file");
    }
}
