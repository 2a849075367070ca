//! A backup as bytes: tar and gzip, and first of all the list of what is in it.
//!
//! ```text
//!  in the clear:  bramble-backup.json · head.redb · keys/… · source/…
//!  encrypted:     bramble-backup.json · secret.age ──▶ as in the clear, with keys/seal
//! ```

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use bramble_model::names::{Digest, Name};
use bramble_model::repository::Recipient;
use bramble_model::timeline::Millis;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Identities, Unusable, recipients};

/// Counts up when the form of a backup changes. One of form 1 has nothing of `source`; of forms 1 and 2 keys are not sealed
/// and nothing is encrypted; both are restored as any other.
pub(super) const FORM: u32 = 3;
/// The first entry: what the others are.
const CONTENTS: &str = "bramble-backup.json";
/// All the rest, where that is encrypted.
const SECRET: &str = "secret.age";
/// The longest file of a backup: a store of a thousand nodes has a hundredth of it.
const LONGEST: u64 = 1 << 30;

/// What is in a backup.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Contents {
    pub form: u32,
    pub cluster: String,
    /// bramble's version that wrote it.
    pub version: String,
    pub at: Millis,
    /// To whom it is encrypted: public keys of age. None of a backup in the clear.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recipients: Vec<String>,
    /// SHA-256 of each file, in order.
    pub(super) files: Vec<(String, Digest)>,
}

/// A backup that was taken apart, with the bytes of each file.
#[derive(Debug)]
pub(super) struct Archive {
    pub(super) contents: Contents,
    pub(super) files: Vec<(String, Vec<u8>)>,
}

fn append(archive: &mut tar::Builder<impl Write>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o600);
    archive.append_data(&mut header, name, bytes)
}

/// These files as a backup.
pub(super) fn packed(contents: &Contents, files: &[(String, Vec<u8>)]) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    append(&mut archive, CONTENTS, &serde_json::to_vec_pretty(contents).expect("plain data"))?;
    for (name, bytes) in files {
        append(&mut archive, name, bytes)?;
    }
    archive.into_inner()?.finish()
}

pub(super) fn listed(files: &[(String, Vec<u8>)]) -> Vec<(String, Digest)> {
    files.iter().map(|(name, bytes)| (name.clone(), Digest(Sha256::digest(bytes).into()))).collect()
}

/// These files as a backup of this moment, encrypted to the recipients where there are any.
pub(super) fn whole(
    cluster: &Name,
    at: Millis,
    files: Vec<(String, Vec<u8>)>,
    to: &[Recipient],
) -> io::Result<Vec<u8>> {
    let contents = |files: &[(String, Vec<u8>)], recipients| Contents {
        form: FORM,
        cluster: cluster.to_string(),
        version: env!("CARGO_PKG_VERSION").into(),
        at,
        recipients,
        files: listed(files),
    };
    let inner = packed(&contents(&files, Vec::new()), &files)?;
    if to.is_empty() {
        return Ok(inner);
    }
    let secret = vec![(SECRET.to_owned(), recipients::encrypted(to, &inner)?)];
    packed(&contents(&secret, to.iter().map(Recipient::to_string).collect()), &secret)
}

/// What a backup says of itself, without the rest of it; `None` where these bytes are none.
pub fn contents_of(backup: &[u8]) -> Option<Contents> {
    let mut archive = tar::Archive::new(GzDecoder::new(backup));
    let first = archive.entries().ok()?.next()?.ok()?;
    if first.path().ok()?.to_str() != Some(CONTENTS) {
        return None;
    }
    serde_json::from_reader(first.take(LONGEST)).ok()
}

impl Archive {
    /// Reads a backup, and what of it is encrypted.
    ///
    /// # Errors
    /// When it is damaged, of a newer bramble, or encrypted and no key opens it.
    pub(super) fn read(path: &Path, identities: Option<&Identities>) -> Result<Self, Unusable> {
        let file = |source| Unusable::File { path: path.to_owned(), source };
        let outer = Self::unpacked(path, File::open(path).map_err(file)?)?;
        let [(name, secret)] = outer.files.as_slice() else { return Ok(outer) };
        if name != SECRET {
            return Ok(outer);
        }
        let to = outer.contents.recipients.clone();
        let Some(identities) = identities else { return Err(Unusable::Encrypted { path: path.to_owned(), to }) };
        let opened = identities.opened(secret).map_err(|wrong| match wrong {
            recipients::Wrong::Identity => {
                Unusable::OtherIdentity { path: path.to_owned(), identities: identities.path.clone(), to }
            }
            recipients::Wrong::Bytes => {
                Unusable::Malformed { path: path.to_owned(), reason: "what is encrypted in it is damaged".into() }
            }
        })?;
        Self::unpacked(path, opened.as_slice())
    }

    fn unpacked(path: &Path, bytes: impl Read) -> Result<Self, Unusable> {
        let malformed = |reason: String| Unusable::Malformed { path: path.to_owned(), reason };
        let mut archive = tar::Archive::new(GzDecoder::new(bytes));
        let mut entries = Vec::new();
        for entry in archive.entries().map_err(|error| malformed(error.to_string()))? {
            let mut entry = entry.map_err(|error| malformed(error.to_string()))?;
            let name = entry.path().map_err(|error| malformed(error.to_string()))?.to_string_lossy().into_owned();
            let mut bytes = Vec::new();
            entry.by_ref().take(LONGEST).read_to_end(&mut bytes).map_err(|error| malformed(error.to_string()))?;
            entries.push((name, bytes));
        }
        let Some((_, first)) = entries.first().filter(|(name, _)| name == CONTENTS) else {
            return Err(malformed("its list of contents is missing".into()));
        };
        let contents: Contents =
            serde_json::from_slice(first).map_err(|error| malformed(format!("its list of contents: {error}")))?;
        if !(1..=FORM).contains(&contents.form) {
            let reason = format!(
                "it is of form {}, and this is bramble {} with forms up to {FORM}",
                contents.form,
                env!("CARGO_PKG_VERSION")
            );
            return Err(malformed(reason));
        }
        let files = entries.split_off(1);
        if !contents.files.iter().map(|(name, _)| name).eq(files.iter().map(|(name, _)| name)) {
            return Err(malformed("its files are not those that it lists".into()));
        }
        for ((name, bytes), (_, digest)) in files.iter().zip(&contents.files) {
            if Digest(Sha256::digest(bytes).into()) != *digest {
                return Err(malformed(format!("`{name}` is damaged")));
            }
        }
        Ok(Archive { contents, files })
    }
}
