//! A key that never leaves the machine's TPM.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bramble_model::agent::{Keeps, Prove};
use bramble_model::names::Bytes;
use bramble_system::locked;
use bramble_tpm::{Credential, Key, Problem, Template, Tpm};
use rcgen::{PublicKeyData, SignatureAlgorithm};
use ring::digest::{SHA256, digest};
use rustls::sign::{Signer, SigningKey};
use rustls::{SignatureScheme, pki_types};

use crate::Error;

/// The kernel's resource manager: beside it, two programs would disturb each other, and three keys fill a TPM.
const DEVICE: &str = "/dev/tpmrm0";

/// The keys of this machine's TPM, made again at each start of the agent and loaded until its end.
#[derive(Debug)]
pub(crate) struct TpmKey {
    tpm: Mutex<Tpm<File>>,
    key: Key,
    endorsement: Key,
}

impl TpmKey {
    /// `None` where the machine has no TPM, or one that is of no use: an early one without P-256, or one whose owner has
    /// closed its endorsement hierarchy.
    ///
    /// # Errors
    /// When it is there and cannot be asked now: what comes with another key meanwhile is a stranger.
    pub(super) fn find() -> Result<Option<Arc<Self>>, Error> {
        let device = match OpenOptions::new().read(true).write(true).open(Path::new(DEVICE)) {
            Ok(device) => device,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::File { doing: format!("cannot open {DEVICE}"), source }),
        };
        match Self::of(device) {
            Ok(key) => Ok(Some(key)),
            Err(error) if error.passes() => Err(Error::Tpm(error)),
            Err(error) => {
                tracing::error!(error = bramble_system::sentence(&error), "the TPM of this machine is of no use");
                Ok(None)
            }
        }
    }

    fn of(device: File) -> Result<Arc<Self>, Problem> {
        let mut tpm = Tpm::new(device);
        let (key, endorsement) = (tpm.primary(Template::Identity)?, tpm.primary(Template::Endorsement)?);
        Ok(Arc::new(TpmKey { tpm: Mutex::new(tpm), key, endorsement }))
    }

    /// What the agent says of it.
    pub(super) fn keeps(&self) -> Keeps {
        let area = |key: &Key| Bytes(key.public().area().to_vec());
        Keeps::Tpm { endorsement: area(&self.endorsement), key: area(&self.key) }
    }

    /// What is in the head's credential: it opens in this TPM alone.
    pub(super) fn prove(&self, prove: &Prove) -> Result<Bytes, Problem> {
        let credential = Credential { blob: prove.credential.0.clone(), secret: prove.secret.0.clone() };
        locked(&self.tpm).activate(&self.key, &self.endorsement, &credential).map(Bytes)
    }

    /// ECDSA over SHA-256 of a message, in ASN.1.
    fn signs(&self, message: &[u8]) -> Result<Vec<u8>, Problem> {
        let digest = digest(&SHA256, message);
        let digest = digest.as_ref().try_into().expect("SHA-256 has 32 bytes");
        Ok(locked(&self.tpm).sign(&self.key, digest)?.der())
    }
}

impl PublicKeyData for TpmKey {
    fn der_bytes(&self) -> &[u8] {
        self.key.public().point()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for TpmKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.signs(message).map_err(|error| {
            tracing::error!(error = bramble_system::sentence(&error), "the TPM did not sign a request");
            rcgen::Error::RemoteKeyError
        })
    }
}

/// The same key, as TLS uses it. One command a handshake: tens of milliseconds.
#[derive(Debug)]
pub(super) struct InTls(pub(super) Arc<TpmKey>);

impl SigningKey for InTls {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let offers = offered.contains(&SignatureScheme::ECDSA_NISTP256_SHA256);
        offers.then(|| Box::new(InTls(Arc::clone(&self.0))) as Box<dyn Signer>)
    }

    fn algorithm(&self) -> rustls::SignatureAlgorithm {
        rustls::SignatureAlgorithm::ECDSA
    }

    fn public_key(&self) -> Option<pki_types::SubjectPublicKeyInfoDer<'_>> {
        None
    }
}

impl Signer for InTls {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.0.signs(message).map_err(|error| rustls::Error::General(bramble_system::sentence(&error)))
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}
