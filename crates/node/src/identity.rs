//! The node's key and what it proves with it.
//!
//! It is kept in the strongest place that the machine has: in its TPM, on the node's data partition, in a variable of its
//! UEFI. A machine that has none of them makes another key at each boot.

mod tpm;
mod variable;

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bramble_model::agent::{Enrolled, Keeps, Proof, Prove};
use bramble_system::{files, locked};
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use crate::trust::Trust;
use crate::{Error, ThisBoot, inventory};
use tpm::{InTls, TpmKey};

/// On the data partition where the node has one, else in memory.
const KEY: &str = "/var/lib/bramble/agent.key";

/// No key is longer, in bytes: whatever lies in its place is of a disk that may be anybody's.
const LONGEST: u64 = 64 << 10;

/// The key, where it is.
enum Secret {
    /// It never leaves the TPM.
    Tpm(Arc<TpmKey>),
    /// In the agent's memory, wherever it was read from.
    Held(Box<KeyPair>),
}

/// A key of the node's own, the CAs it trusts, and its certificate once it has one.
pub(crate) struct Identity {
    secret: Secret,
    keeps: Keeps,
    trust: Arc<Trust>,
    name: String,
    enrolled: Mutex<Option<Enrolled>>,
}

/// A key for this boot, or one that is kept from now on.
fn new_key() -> Result<KeyPair, Error> {
    KeyPair::generate().map_err(Error::Key)
}

/// The key in the agent's own folder, made where there is none. Also where that folder is in memory: the agent may be
/// started again in this boot.
fn filed(path: &Path) -> Result<KeyPair, Error> {
    let file = |doing: &str| {
        let doing = doing.to_owned();
        move |source| Error::File { doing, source }
    };
    match files::read_regular(path, LONGEST) {
        Ok(pem) => {
            let key = KeyPair::from_pem(&String::from_utf8_lossy(&pem));
            return key.map_err(|source| Error::KeptKey { path: path.to_owned(), source });
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        // Another one in its place would be a stranger's.
        Err(error) => return Err(file("cannot read the agent's key")(error)),
    }
    let key = new_key()?;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(file("cannot make the agent's folder"))?;
    }
    files::replace_secret(path, key.serialize_pem().as_bytes()).map_err(file("cannot keep the agent's key"))?;
    Ok(key)
}

/// Whether what is in this folder outlasts the boot: it is on the data partition.
fn is_on_disk(folder: &Path) -> bool {
    /// statfs(2): tmpfs, ramfs and overlayfs, over which a node's root lies.
    const IN_MEMORY: [i64; 3] = [0x0102_1994, 0x8584_58f6, 0x794c_7630];
    rustix::fs::statfs(folder).is_ok_and(|system| !IN_MEMORY.contains(&system.f_type))
}

/// The key of the strongest place that this machine has.
fn find() -> Result<(Secret, Keeps), Error> {
    if let Some(tpm) = TpmKey::find()? {
        let keeps = tpm.keeps();
        return Ok((Secret::Tpm(tpm), keeps));
    }
    let path = Path::new(KEY);
    if path.parent().is_some_and(is_on_disk) {
        let (cards, board) = inventory::machine();
        return Ok((Secret::Held(Box::new(filed(path)?)), Keeps::Disk { cards, board }));
    }
    let new = new_key()?;
    let kept = variable::key(|| new.serialize_der());
    if let Some(key) = kept.and_then(|der| KeyPair::try_from(der).ok()) {
        return Ok((Secret::Held(Box::new(key)), Keeps::Variable));
    }
    Ok((Secret::Held(Box::new(filed(path)?)), Keeps::Nothing))
}

impl Identity {
    /// Loads the key, or makes one.
    pub(crate) fn open(boot: &ThisBoot, trust: Arc<Trust>) -> Result<Self, Error> {
        let (secret, keeps) = find()?;
        Ok(Identity { secret, keeps, trust, name: boot.node.to_string(), enrolled: Mutex::new(None) })
    }

    /// A certificate request for the node's name (PKCS#10, PEM).
    pub(crate) fn request(&self) -> Result<String, Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, self.name.as_str());
        let request = match &self.secret {
            Secret::Tpm(key) => params.serialize_request(&**key),
            Secret::Held(key) => params.serialize_request(&**key),
        };
        request.and_then(|request| request.pem()).map_err(Error::Key)
    }

    /// Where the key is kept.
    pub(crate) fn keeps(&self) -> &Keeps {
        &self.keeps
    }

    /// Shows that the key is in the TPM that it was said to be in.
    pub(crate) fn prove(&self, prove: &Prove) -> Result<Proof, Error> {
        let Secret::Tpm(key) = &self.secret else {
            return Err(Error::Ended("the head asked for a proof of a TPM, and there is none".into()));
        };
        key.prove(prove).map(|proof| Proof { proof }).map_err(Error::Tpm)
    }

    pub(crate) fn keep(&self, enrolled: Enrolled) {
        *locked(&self.enrolled) = Some(enrolled);
    }

    /// Whom the node trusts.
    pub(crate) fn trust(&self) -> &Trust {
        &self.trust
    }

    pub(crate) fn forget(&self) {
        *locked(&self.enrolled) = None;
    }

    /// Whether it has a certificate that is not good at this time, in milliseconds since the epoch.
    pub(crate) fn is_out_of_time(&self, now: u64) -> bool {
        self.enrolled().is_some_and(|enrolled| is_out_of_time(&enrolled.certificate, now))
    }

    pub(crate) fn enrolled(&self) -> Option<Enrolled> {
        locked(&self.enrolled).clone()
    }

    #[cfg(test)]
    pub(crate) fn of(name: &str, trust: Arc<Trust>) -> Self {
        let secret = Secret::Held(Box::new(KeyPair::generate().expect("a key")));
        Identity { secret, keeps: Keeps::Nothing, trust, name: name.into(), enrolled: Mutex::new(None) }
    }

    /// TLS towards the head: with the certificate where there is one.
    pub(crate) fn tls(&self) -> Result<ClientConfig, Error> {
        let trust = |error: rustls::Error| Error::Trust(error.to_string());
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(trust)?
            .with_root_certificates(self.trust.roots());
        let Some(enrolled) = self.enrolled() else { return Ok(builder.with_no_client_auth()) };
        let chain = CertificateDer::pem_slice_iter(enrolled.certificate.as_bytes()).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| Error::Trust(error.to_string()))?;
        match &self.secret {
            Secret::Tpm(key) => {
                let certified = CertifiedKey::new(chain, Arc::new(InTls(Arc::clone(key))));
                Ok(builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified))))
            }
            Secret::Held(key) => {
                let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|error| Error::Trust(error.into()))?;
                builder.with_client_auth_cert(chain, key).map_err(trust)
            }
        }
    }
}

/// Whether a certificate (PEM) has ended, or has not begun. One that cannot be read is for the head to judge.
fn is_out_of_time(certificate: &str, now: u64) -> bool {
    let Ok(der) = CertificateDer::from_pem_slice(certificate.as_bytes()) else { return false };
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(&der) else { return false };
    let (now, validity) = (now.cast_signed() / 1000, parsed.validity());
    now < validity.not_before.timestamp() || validity.not_after.timestamp() < now
}
