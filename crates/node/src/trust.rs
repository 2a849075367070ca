//! The CAs that this node trusts: those of its image, and from when the head says others, these alone.
//!
//! ```text
//!   image: /etc/bramble/ca.pem ──▶ trusted ◀── told by the head, and signed by a CA that is trusted already
//!                                     ▲                       │ kept in memory, for as long as the machine runs
//!                                     └── /run/bramble/ca.pem ┘
//! ```
//! That a trusted one has verified the connection is not enough: whoever stole its issuer's key could be the head, and signs
//! no list.
//!
//! It is not kept on any disk: one that was in another machine would say whom to trust.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bramble_model::ca::{leads_back, message};
use bramble_model::names::Digest;
use bramble_system::{files, locked};
use ring::digest::{SHA256, digest};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::{Error, clock};

/// The CAs of the image, put there when it was built.
const IMAGE: &str = "/etc/bramble/ca.pem";
/// What the head has said since the machine started. In memory.
const TOLD: &str = "/run/bramble/ca.pem";
/// No file of CAs is longer, in bytes.
const LONGEST: u64 = 64 << 10;
/// CAs that are trusted at once: a rotation has two.
const MOST: usize = 4;

/// One of the cluster's CAs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ca {
    der: CertificateDer<'static>,
    /// SHA-256 of its certificate.
    pub(crate) fingerprint: Digest,
    /// Its public key, an uncompressed point of P-256.
    key: Vec<u8>,
    /// Since when it is there, in seconds since the epoch: a head that says an earlier time has lost its own.
    pub(crate) since: i64,
}

fn sha256(bytes: &[u8]) -> Digest {
    Digest(digest(&SHA256, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes"))
}

/// What a key is called where it is remembered: SHA-256 of it, in hex.
pub(crate) fn name_of(key: &[u8]) -> String {
    sha256(key).to_string()
}

impl Ca {
    fn read(der: CertificateDer<'static>) -> Result<Self, String> {
        let (key, since) = {
            let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|error| error.to_string())?;
            if !parsed.is_ca() {
                return Err("a certificate in it is of no CA".into());
            }
            (parsed.public_key().subject_public_key.data.to_vec(), parsed.validity().not_before.timestamp())
        };
        RootCertStore::empty().add(der.clone()).map_err(|error| error.to_string())?;
        Ok(Ca { fingerprint: sha256(&der), key, since, der })
    }

    /// What its key is called where it is remembered.
    pub(crate) fn key_name(&self) -> String {
        name_of(&self.key)
    }
}

/// The CAs in a file (PEM).
///
/// # Errors
/// A sentence, where there is none, or one too many, or something that is none.
fn read(pem: &[u8]) -> Result<Vec<Ca>, String> {
    let mut found: Vec<Ca> = Vec::new();
    for der in CertificateDer::pem_slice_iter(pem) {
        let ca = Ca::read(der.map_err(|error| error.to_string())?)?;
        if found.len() >= MOST {
            return Err(format!("it has more than {MOST} CAs"));
        }
        if !found.contains(&ca) {
            found.push(ca);
        }
    }
    if found.is_empty() { Err("there is no CA in it".into()) } else { Ok(found) }
}

fn fingerprints(cas: &[Ca]) -> Vec<Digest> {
    cas.iter().map(|ca| ca.fingerprint).collect()
}

/// Whom this node trusts.
pub(crate) struct Trust {
    /// Where it is kept what the head has said.
    told: PathBuf,
    now: Mutex<Vec<Ca>>,
}

impl Trust {
    /// As the image and, since this machine started, the head say.
    ///
    /// # Errors
    /// When the image has no CA, or it cannot be read.
    pub(crate) fn open() -> Result<Arc<Self>, Error> {
        Self::at(Path::new(IMAGE), Path::new(TOLD))
    }

    fn at(image: &Path, told: &Path) -> Result<Arc<Self>, Error> {
        let trust = |reason: String| Error::Trust(reason);
        let bytes = files::read_regular(image, LONGEST).map_err(|error| trust(error.to_string()))?;
        let of_image = read(&bytes).map_err(trust)?;
        let now = match files::read_regular(told, LONGEST) {
            Ok(bytes) => read(&bytes).unwrap_or_else(|error| {
                tracing::error!(path = %told.display(), error, "what the head said of its CA is not taken");
                of_image
            }),
            Err(error) => {
                if error.kind() != ErrorKind::NotFound {
                    tracing::error!(path = %told.display(), %error, "what the head said of its CA cannot be read");
                }
                of_image
            }
        };
        Ok(Arc::new(Trust { told: told.to_owned(), now: Mutex::new(now) }))
    }

    /// The head says which CAs the cluster has, with a signature in hex. Gives what is trusted from now on.
    ///
    /// # Errors
    /// A sentence where these are none, or no CA that is trusted has signed them: what was trusted stays.
    pub(crate) fn take(&self, pem: &str, signature: &str) -> Result<Vec<Digest>, String> {
        let next = read(pem.as_bytes())?;
        let told = fingerprints(&next);
        let said = message(&told);
        let mut now = locked(&self.now);
        if !now.iter().any(|ca| clock::is_signed_by(&said, signature, &ca.key)) {
            return Err("no CA that this node trusts has signed which ones there are".into());
        }
        if leads_back(&fingerprints(&now), &told) {
            return Err("it leaves out the CA that takes the first one's place: it is of before".into());
        }
        if *now != next {
            // The agent may be started again in this boot. What is trusted in it does not hang on that.
            if let Err(error) = files::replace(&self.told, pem.as_bytes()) {
                tracing::error!(path = %self.told.display(), %error, "which CAs are trusted could not be kept");
            }
            *now = next;
            let trusted: Vec<String> = now.iter().map(|ca| ca.fingerprint.short()).collect();
            tracing::info!(?trusted, "the head has said which CAs are trusted");
        }
        Ok(told)
    }

    /// For TLS.
    pub(crate) fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        for ca in locked(&self.now).iter() {
            roots.add(ca.der.clone()).expect("it was read");
        }
        Arc::new(roots)
    }

    /// The CA that has signed a message, where one of them has; the signature is in hex.
    pub(crate) fn signer(&self, message: &str, signature: &str) -> Option<Ca> {
        let now = locked(&self.now);
        now.iter().find(|ca| clock::is_signed_by(message, signature, &ca.key)).cloned()
    }

    /// Whether one has this fingerprint.
    pub(crate) fn is_of(&self, fingerprint: &Digest) -> bool {
        locked(&self.now).iter().any(|ca| ca.fingerprint == *fingerprint)
    }

    /// Whether this is the name of one's key.
    pub(crate) fn knows(&self, key_name: &str) -> bool {
        locked(&self.now).iter().any(|ca| ca.key_name() == key_name)
    }

    /// The name of the first one's key.
    pub(crate) fn first(&self) -> Option<String> {
        locked(&self.now).first().map(Ca::key_name)
    }

    /// Of these certificates alone.
    #[cfg(test)]
    pub(crate) fn of(certificates: &[CertificateDer<'static>]) -> Arc<Self> {
        let now = certificates.iter().map(|der| Ca::read(der.clone()).expect("a CA")).collect();
        Arc::new(Trust { told: "/nowhere/ca.pem".into(), now: Mutex::new(now) })
    }

    /// Of CAs with these keys, whose certificates nobody looks at.
    #[cfg(test)]
    pub(crate) fn in_keys(keys: &[&[u8]]) -> Arc<Self> {
        let ca = |key: &&[u8]| Ca {
            der: CertificateDer::from(key.to_vec()),
            fingerprint: sha256(key),
            key: key.to_vec(),
            since: 0,
        };
        Arc::new(Trust { told: "/nowhere/ca.pem".into(), now: Mutex::new(keys.iter().map(ca).collect()) })
    }
}

/// A head's signature of these CAs (PEM), in hex.
#[cfg(test)]
pub(crate) fn signed(pem: &str, key: &rcgen::KeyPair) -> String {
    use rcgen::SigningKey as _;
    let said = message(&read(pem.as_bytes()).map(|cas| fingerprints(&cas)).unwrap_or_default());
    key.sign(said.as_bytes()).expect("signed").iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, SigningKey};

    use super::*;

    fn ca(name: &str) -> (String, KeyPair) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        (params.self_signed(&key).expect("signed").pem(), key)
    }

    /// A head that rotates its CA, an agent that is started again meanwhile, and a boot of the old image after it.
    #[test]
    fn what_the_head_says_holds_for_as_long_as_the_machine_runs() {
        let folder = tempfile::tempdir().expect("a folder");
        let (image, told) = (folder.path().join("image.pem"), folder.path().join("told.pem"));
        let ((old, old_key), (new, new_key)) = (ca("old"), ca("new"));
        std::fs::write(&image, &old).expect("written");
        let is_signer = |trust: &Trust, key: &KeyPair| {
            let signature = key.sign(b"m").expect("signed");
            let signature: String = signature.iter().map(|byte| format!("{byte:02x}")).collect();
            trust.signer("m", &signature).is_some()
        };
        let trusts = |trust: &Trust| (is_signer(trust, &old_key), is_signer(trust, &new_key), trust.roots().len());
        let trust = Trust::at(&image, &told).expect("opens");
        assert_eq!(trusts(&trust), (true, false, 1));
        let both = format!("{old}{new}");
        assert_eq!(trust.take(&both, &signed(&both, &old_key)).expect("two CAs").len(), 2);
        assert_eq!(trusts(&trust), (true, true, 2));
        assert_eq!(trusts(&Trust::at(&image, &told).expect("opens")), (true, true, 2), "it was started again");
        trust.take(&old, &signed(&old, &old_key)).expect_err("what was said before it is said again");
        assert_eq!(trusts(&trust), (true, true, 2));
        trust.take(&new, &signed(&new, &new_key)).expect("a CA");
        assert_eq!(trusts(&trust), (false, true, 1), "the old one is trusted no more");
        assert_eq!(trusts(&Trust::at(&image, &told).expect("opens")), (false, true, 1));
        std::fs::remove_file(&told).expect("memory is empty after a boot");
        assert_eq!(trusts(&Trust::at(&image, &told).expect("opens")), (true, false, 1), "as its image says");
        // An image of the overlap has both.
        std::fs::write(&image, format!("{old}{new}")).expect("written");
        assert_eq!(trusts(&Trust::at(&image, &told).expect("opens")), (true, true, 2));
    }

    #[test]
    fn what_is_no_ca_is_not_taken_and_changes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let (image, told) = (folder.path().join("image.pem"), folder.path().join("told.pem"));
        let (own, own_key) = ca("own");
        std::fs::write(&image, &own).expect("written");
        let trust = Trust::at(&image, &told).expect("opens");
        let key = KeyPair::generate().expect("a key");
        let node = CertificateParams::new(["m1.node.bramble".to_owned()]).expect("a name").self_signed(&key);
        let many: String = (0..=MOST).map(|n| ca(&format!("{n}")).0).collect();
        for none in ["", "x", &own[..own.len() / 2], &node.expect("signed").pem(), &many] {
            trust.take(none, &signed(none, &own_key)).expect_err(none);
            assert_eq!(trust.roots().len(), 1);
        }
        // Half a file of an agent that was killed: the image is what there is.
        std::fs::write(&told, &own[..own.len() / 2]).expect("written");
        assert_eq!(Trust::at(&image, &told).expect("opens").roots().len(), 1);
        for none in ["", "x"] {
            std::fs::write(&image, none).expect("written");
            assert!(Trust::at(&image, &told).is_err(), "{none}");
        }
    }

    /// Whoever stole the key of an issuer is the head to its nodes, and leads none of them over to a CA of their own.
    #[test]
    fn a_list_that_no_trusted_ca_has_signed_is_not_taken() {
        let folder = tempfile::tempdir().expect("a folder");
        let (image, told) = (folder.path().join("image.pem"), folder.path().join("told.pem"));
        let ((own, own_key), (foreign, foreign_key)) = (ca("own"), ca("foreign"));
        std::fs::write(&image, &own).expect("written");
        let trust = Trust::at(&image, &told).expect("opens");
        let both = format!("{own}{foreign}");
        for signature in [String::new(), signed(&both, &foreign_key), signed(&own, &own_key), "zz".into()] {
            trust.take(&both, &signature).expect_err(&signature);
            assert_eq!(trust.roots().len(), 1);
        }
        assert!(!told.exists(), "nothing is kept");
        trust.take(&both, &signed(&both, &own_key)).expect("its own has signed it");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = read(&bytes);
            let framed = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", String::from_utf8_lossy(&bytes));
            let _ = read(framed.as_bytes());
        }
    }
}
