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

use bramble_model::agent::{Binding, Enrolled, Keeps, Proof, Prove};
use bramble_model::digits::{Digits, Draw};
use bramble_model::names::Digest;
use bramble_system::{files, locked};
use rcgen::{Attribute, CertificateParams, DnType, KeyPair, PublicKeyData};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use crate::trust::Trust;
use crate::{Error, ThisBoot, health, inventory};
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
        Ok(pem) => match KeyPair::from_pem(&String::from_utf8_lossy(&pem)) {
            Ok(key) => return Ok(key),
            Err(error) => set_aside(path, &error).map_err(file("cannot set aside what is no agent's key"))?,
        },
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        // A folder, a device, a link, a file without end.
        Err(error)
            if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::FileTooLarge)
                || fs::symlink_metadata(path).is_ok_and(|data| !data.is_file()) =>
        {
            set_aside(path, &error).map_err(file("cannot set aside what is no agent's key"))?;
        }
        // A disk that does not read today may do so tomorrow, and another key in its place would be a stranger's.
        Err(error) => return Err(file("cannot read the agent's key")(error)),
    }
    let key = new_key()?;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(file("cannot make the agent's folder"))?;
    }
    files::replace_secret(path, key.serialize_pem().as_bytes()).map_err(file("cannot keep the agent's key"))?;
    Ok(key)
}

/// Moves what lies in the key's place and is none to beside it, and tells whoever stands before the machine. The node is
/// another one to the head then, and waits for a person there: that is better than an agent that ends at each start.
fn set_aside(path: &Path, why: &dyn std::fmt::Display) -> std::io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".set-aside-{}", bramble_system::now()));
    fs::rename(path, &name)?;
    if let Some(folder) = path.parent() {
        files::sync_folder(folder)?;
    }
    let aside = Path::new(&name).display();
    tracing::error!(%why, %aside, "what lies in the place of the agent's key is none, and is set aside");
    health::say_on_console(&format!(
        "what lies in the place of this machine's key is none ({why}) and is now {aside}: it has a new key, which a person has to let in"
    ));
    Ok(())
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

    /// A certificate request for the node's name (PKCS#10, PEM), for this connection and no other.
    pub(crate) fn request(&self, binding: Option<&Binding>) -> Result<String, Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, self.name.as_str());
        let attributes = || binding.map(challenge).into_iter().collect();
        let request = match &self.secret {
            Secret::Tpm(key) => params.serialize_request_with_attributes(&**key, attributes()),
            Secret::Held(key) => params.serialize_request_with_attributes(&**key, attributes()),
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

    /// The six digits of its key, of what the head has drawn for it; `None` where that is of no CA that this
    /// machine trusts.
    pub(crate) fn digits(&self, draw: &Draw) -> Option<Digits> {
        let key = match &self.secret {
            Secret::Tpm(key) => key.subject_public_key_info(),
            Secret::Held(key) => key.subject_public_key_info(),
        };
        let hash = ring::digest::digest(&ring::digest::SHA256, &key);
        // As the head writes down whose key it is.
        let fingerprint = Digest(hash.as_ref().try_into().expect("SHA-256")).to_string()[..32].to_owned();
        self.trust.is_of(&draw.ca).then(|| Digits::of(&fingerprint, draw))
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

/// A request's challenge (RFC 2985, section 5.4.1) that says which connection it is for.
fn challenge(binding: &Binding) -> Attribute {
    const CHALLENGE: &[u64] = &[1, 2, 840, 113_549, 1, 9, 7];
    const SET: u8 = 0x31;
    const UTF8_STRING: u8 = 0x0c;
    let text = binding.to_string();
    let length = u8::try_from(text.len()).expect("64 digits");
    // DER: both lengths are below 128, and take a byte each.
    let values = [&[SET, length + 2, UTF8_STRING, length], text.as_bytes()].concat();
    Attribute { oid: CHALLENGE, values }
}

/// Whether a certificate (PEM) has ended, or has not begun. One that cannot be read is for the head to judge.
fn is_out_of_time(certificate: &str, now: u64) -> bool {
    let Ok(der) = CertificateDer::from_pem_slice(certificate.as_bytes()) else { return false };
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(&der) else { return false };
    let (now, validity) = (now.cast_signed() / 1000, parsed.validity());
    now < validity.not_before.timestamp() || validity.not_after.timestamp() < now
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, IsCa};
    use x509_parser::certification_request::X509CertificationRequest;
    use x509_parser::cri_attributes::ParsedCriAttribute;
    use x509_parser::prelude::FromDer;

    use super::*;

    fn ca() -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").der().clone()
    }

    /// The head writes a key down by the first half of the SHA-256 of it, as the request has it.
    #[test]
    fn the_digits_are_those_of_the_key_that_the_request_is_for() {
        let ca = ca();
        let own = Digest(ring::digest::digest(&ring::digest::SHA256, &ca).as_ref().try_into().expect("SHA-256"));
        let draw = Draw { nonce: Digest([3; 32]), ca: own };
        let identity = Identity::of("m1", Trust::of(&[ca]));
        let binding = Binding([0xab; 32]);
        let pem = identity.request(Some(&binding)).expect("a request");
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).expect("PEM");
        let (_, request) = X509CertificationRequest::from_der(&pem.contents).expect("a request");
        let key = request.certification_request_info.subject_pki.raw;
        let fingerprint =
            Digest(ring::digest::digest(&ring::digest::SHA256, key).as_ref().try_into().expect("32 bytes"));
        assert_eq!(identity.digits(&draw), Some(Digits::of(&fingerprint.to_string()[..32], &draw)));
        assert_eq!(identity.digits(&Draw { ca: Digest([0; 32]), ..draw }), None, "of another CA");
        let mut attributes = request.certification_request_info.iter_attributes();
        let challenge = attributes.find_map(|attribute| match attribute.parsed_attribute() {
            ParsedCriAttribute::ChallengePassword(challenge) => Some(challenge.0.clone()),
            _ => None,
        });
        assert_eq!(challenge, Some("ab".repeat(32)));
    }

    /// A disk whose file system was repaired, or that somebody has put a file on: the agent ended at each start.
    #[test]
    fn rubbish_in_the_place_of_the_key_is_set_aside_and_the_agent_goes_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("agent.key");
        let aside = || {
            let all = fs::read_dir(folder.path()).expect("a folder").map(|entry| entry.expect("read").file_name());
            all.filter(|name| name.to_string_lossy().contains(".set-aside-")).count()
        };
        let kept = filed(&path).expect("made").serialize_pem();
        assert_eq!((filed(&path).expect("read").serialize_pem(), aside()), (kept, 0));
        let rubbish: [&dyn Fn(); 5] = [
            &|| fs::write(&path, "").expect("written"),
            &|| fs::write(&path, [0xff, 0, 7]).expect("written"),
            &|| fs::write(&path, vec![b'a'; 1 << 20]).expect("written"),
            &|| fs::create_dir(&path).expect("made"),
            &|| std::os::unix::fs::symlink("nowhere/else", &path).expect("linked"),
        ];
        for (number, put) in rubbish.iter().enumerate() {
            fs::remove_file(&path).expect("removed");
            put();
            let key = filed(&path).unwrap_or_else(|error| panic!("{number}: {error}")).serialize_pem();
            assert_eq!(filed(&path).expect("read").serialize_pem(), key, "{number}: it is kept");
            assert_eq!(aside(), number + 1);
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
}
