//! The node's key and what it proves with it.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bramble_model::agent::Enrolled;
use bramble_system::{files, locked};
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::{Error, ThisBoot};

/// The head's CA, put into the image when it was built.
const CA: &str = "/etc/bramble/ca.pem";
/// On the data partition where the node has one, else in memory.
const KEY: &str = "/var/lib/bramble/agent.key";

/// A key of the node's own, the CA it trusts, and its certificate once it has one.
pub(crate) struct Identity {
    key: KeyPair,
    roots: Arc<RootCertStore>,
    /// The CA's public key, an uncompressed point of P-256, and since when it is good, in seconds.
    ca: (Vec<u8>, i64),
    name: String,
    enrolled: Mutex<Option<Enrolled>>,
}

impl Identity {
    /// Loads the key, or makes one.
    pub(crate) fn open(boot: &ThisBoot) -> Result<Self, Error> {
        let file = |doing: &str| {
            let doing = doing.to_owned();
            move |source| Error::File { doing, source }
        };
        let kept = fs::read_to_string(KEY).ok().and_then(|pem| KeyPair::from_pem(&pem).ok());
        let key = match kept {
            Some(key) => key,
            None => {
                let key = KeyPair::generate().map_err(Error::Key)?;
                let path = Path::new(KEY);
                if let Some(folder) = path.parent() {
                    fs::create_dir_all(folder).map_err(file("cannot make the agent's folder"))?;
                }
                files::replace_secret(path, key.serialize_pem().as_bytes())
                    .map_err(file("cannot keep the agent's key"))?;
                key
            }
        };
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(CA).map_err(|error| Error::Trust(error.to_string()))?;
        let own_ca = {
            let (_, parsed) =
                x509_parser::parse_x509_certificate(&ca).map_err(|error| Error::Trust(error.to_string()))?;
            (parsed.public_key().subject_public_key.data.to_vec(), parsed.validity().not_before.timestamp())
        };
        roots.add(ca).map_err(|error| Error::Trust(error.to_string()))?;
        Ok(Identity {
            key,
            roots: Arc::new(roots),
            ca: own_ca,
            name: boot.node.to_string(),
            enrolled: Mutex::new(None),
        })
    }

    /// A certificate request for the node's name (PKCS#10, PEM).
    pub(crate) fn request(&self) -> Result<String, Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, self.name.as_str());
        params.serialize_request(&self.key).and_then(|request| request.pem()).map_err(Error::Key)
    }

    pub(crate) fn keep(&self, enrolled: Enrolled) {
        *locked(&self.enrolled) = Some(enrolled);
    }

    /// The CA's public key, and since when the CA is there, in seconds since the epoch.
    pub(crate) fn ca(&self) -> (&[u8], i64) {
        (&self.ca.0, self.ca.1)
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
    pub(crate) fn of(name: &str, ca: CertificateDer<'static>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(ca).expect("a CA");
        let key = KeyPair::generate().expect("a key");
        Identity { key, roots: Arc::new(roots), ca: (Vec::new(), 0), name: name.into(), enrolled: Mutex::new(None) }
    }

    /// TLS towards the head: with the certificate where there is one.
    pub(crate) fn tls(&self) -> Result<ClientConfig, Error> {
        let trust = |error: rustls::Error| Error::Trust(error.to_string());
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(trust)?
            .with_root_certificates(Arc::clone(&self.roots));
        let Some(enrolled) = self.enrolled() else { return Ok(builder.with_no_client_auth()) };
        let certificate = CertificateDer::from_pem_slice(enrolled.certificate.as_bytes())
            .map_err(|error| Error::Trust(error.to_string()))?;
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).map_err(|error| Error::Trust(error.into()))?;
        builder.with_client_auth_cert(vec![certificate], key).map_err(trust)
    }
}

/// Whether a certificate (PEM) has ended, or has not begun. One that cannot be read is for the head to judge.
fn is_out_of_time(certificate: &str, now: u64) -> bool {
    let Ok(der) = CertificateDer::from_pem_slice(certificate.as_bytes()) else { return false };
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(&der) else { return false };
    let (now, validity) = (now.cast_signed() / 1000, parsed.validity());
    now < validity.not_before.timestamp() || validity.not_after.timestamp() < now
}
