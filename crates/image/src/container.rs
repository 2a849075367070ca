//! OCI archives: a static program as a container image that needs no registry to be built or run.
//!
//! Layout and media types: OCI Image Specification 1.1, `image-layout.md` and `config.md`.

use std::io::{self, Write};

use bramble_model::names::Digest;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::EPOCH;

/// An image of one static program, which it starts.
pub struct Program<'a> {
    /// Name and tag: `whoami:1`.
    pub tag: &'a str,
    /// The file's name in the image; it lies in `/`.
    pub name: &'a str,
    pub bytes: &'a [u8],
    /// Debian's (and Go's) name of the architecture.
    pub architecture: &'a str,
}

impl Program<'_> {
    /// Writes the archive: the same bytes for the same program.
    ///
    /// # Errors
    /// As `out` says.
    pub fn write(&self, out: impl Write) -> io::Result<()> {
        let mut layer = tar::Builder::new(Vec::new());
        append(&mut layer, self.name, self.bytes, 0o755)?;
        let layer = layer.into_inner()?;
        let config = to_bytes(&json!({
            "architecture": self.architecture,
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
