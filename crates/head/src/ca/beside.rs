//! What lies beside a CA: whether a store was ever made with it, and the newest life of one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bramble_model::names::Digest;
use bramble_model::timeline::Millis;
use bramble_system::files;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest as _, Sha256};

use super::SKEW;
use crate::error::Error;

/// Lies beside a CA that was made and has not had a store yet: only the first store can know that there has never
/// been an engine's cluster.
pub(crate) const UNUSED: &str = "unused";

/// Whether a store that is made now is the first with the CA in this folder.
pub(crate) fn first_store(folder: &Path) -> Result<bool, Error> {
    let path = folder.join(UNUSED);
    path.try_exists().map_err(|source| Error::File { doing: "cannot look for", path, source })
}

/// SHA-256 of a CA's certificate (PEM); `None` where that is none.
pub(crate) fn fingerprint(pem: &[u8]) -> Option<Digest> {
    let der = CertificateDer::from_pem_slice(pem).ok()?;
    Some(Digest(Sha256::digest(&der).into()))
}

/// The CA's certificate in this folder.
pub(crate) fn certificate(folder: &Path) -> PathBuf {
    folder.join("ca.pem")
}

/// Whether there is a CA in this folder.
pub(crate) fn is_there(folder: &Path) -> Result<bool, Error> {
    let path = certificate(folder);
    path.try_exists().map_err(|source| Error::File { doing: "cannot look for", path, source })
}

/// Whether a head has served with the CA in this folder, and so has written to its store.
pub(crate) fn has_had_a_store(folder: &Path) -> Result<bool, Error> {
    Ok(is_there(folder)? && !first_store(folder)?)
}

/// There is a store with the CA in this folder from now on.
pub(crate) fn has_store(folder: &Path) -> Result<(), Error> {
    let path = folder.join(UNUSED);
    fs::remove_file(&path).and_then(|()| files::sync_folder(&path)).map_err(|source| Error::File {
        doing: "cannot remove",
        path,
        source,
    })
}

/// The newest life of a store that agents may have been told of, signed with the CA beside it. It is not in the store: it
/// is for when that is gone.
const LIFE: &str = "life";

/// The least life of a store that is made beside the CA in this folder: agents obey none that is older than what they were
/// told before, and the clock may be behind. Where there is no CA, or it cannot be read, there is no such.
pub(crate) fn least_life(folder: &Path) -> Millis {
    let path = folder.join(LIFE);
    let kept = fs::read_to_string(&path).and_then(|text| text.trim().parse::<Millis>().map_err(io::Error::other));
    let kept = match kept {
        Ok(life) => life.saturating_add(1),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "which life agents were told last cannot be read");
            0
        }
    };
    let made = fs::read(certificate(folder)).ok().and_then(|pem| made(&pem)).unwrap_or(0);
    kept.max(made)
}

/// When a CA was made. Its first store was made just before that.
fn made(pem: &[u8]) -> Option<Millis> {
    let der = CertificateDer::from_pem_slice(pem).ok()?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).ok()?;
    // Certificates know no parts of a second.
    let made = parsed.validity().not_before.timestamp() + SKEW.whole_seconds() + 1;
    Some(Millis::try_from(made).ok()?.saturating_mul(1000))
}

/// Agents are told of this life from now on. Where that cannot be kept, they are told all the same.
pub(crate) fn keep_life(folder: &Path, life: Millis) {
    if least_life(folder) > life {
        return;
    }
    let path = folder.join(LIFE);
    if let Err(error) = files::replace(&path, format!("{life}\n").as_bytes()) {
        tracing::warn!(path = %path.display(), %error, "which life agents are told could not be kept");
    }
}
