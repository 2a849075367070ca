//! The head's CA: its own certificate, the server's, and the agents'. Its key is sealed (`bramble_seal`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bramble_model::agent::{Binding, SignedLife, SignedTime};
use bramble_model::names::{Digest, Name};
use bramble_model::timeline::Millis;
use bramble_seal::Vault;
use bramble_system::{files, locked};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SigningKey,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use sha2::{Digest as _, Sha256};
use time::{Duration, OffsetDateTime};
use x509_parser::cri_attributes::ParsedCriAttribute;

use crate::error::Error;

/// The name in the head's certificate.
const HEAD: &str = "head.bramble";
const CA_YEARS: i64 = 10;
/// Life of an agent's and of the server's certificate.
const DAY: Duration = Duration::DAY;
/// When it is renewed: at two thirds.
const RENEW: Duration = Duration::hours(16);
/// Clocks differ a little.
const SKEW: Duration = Duration::minutes(10);

/// The CA's key, in the folder of the keys.
const KEY: &str = "ca.key";

/// The CA and what it signs.
pub struct Authority {
    pem: String,
    /// SHA-256 of the certificate, in hex.
    fingerprint: String,
    inner: Arc<Inner>,
}

struct Inner {
    /// Names and addresses of the head beside [`HEAD`].
    names: Vec<String>,
    issuer: Issuer<'static, KeyPair>,
    server: Mutex<Option<(Arc<CertifiedKey>, OffsetDateTime)>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Certificates(error.to_string())
}

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

impl Authority {
    /// Loads the CA from `folder`, or makes it there.
    ///
    /// # Errors
    /// When the files cannot be written, or are not a CA.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let (key_path, certificate_path) = (folder.join(KEY), certificate(folder));
        let vault = Vault::open(folder)?;
        let file = |doing: &'static str, path: &Path| {
            let path = path.to_owned();
            move |source| Error::File { doing, path, source }
        };
        if !certificate_path.exists() {
            let key = KeyPair::generate().map_err(failed)?;
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, "bramble head");
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            params.not_before = OffsetDateTime::now_utc() - SKEW;
            params.not_after = OffsetDateTime::now_utc() + Duration::days(365 * CA_YEARS);
            let certificate = params.self_signed(&key).map_err(failed)?;
            // The key first: a CA certificate that exists has its key beside it.
            vault.write(KEY, key.serialize_pem().as_bytes())?;
            files::replace(&folder.join(UNUSED), b"no head has had a store with this CA yet\n")
                .map_err(file("cannot write to", folder))?;
            files::replace(&certificate_path, certificate.pem().as_bytes())
                .map_err(file("cannot write the CA", &certificate_path))?;
        }
        let wrong = |path: &Path, problem| Error::Key { path: path.to_owned(), problem };
        let missing = |path: &Path| wrong(path, "it is missing, and the rest of the CA is there");
        let no_text = |path: &Path| wrong(path, "it is damaged: this is no text");
        let pem = fs::read_to_string(&certificate_path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => missing(&certificate_path),
            io::ErrorKind::InvalidData => no_text(&certificate_path),
            _ => file("cannot read the CA", &certificate_path)(error),
        })?;
        let key = match vault.read(KEY) {
            Err(error) if error.is_no_file() => return Err(missing(&key_path)),
            read => String::from_utf8(read?).map_err(|_| no_text(&key_path))?,
        };
        let key = KeyPair::from_pem(&key).map_err(|_| wrong(&key_path, "it is damaged: this is no private key"))?;
        let damaged = || wrong(&certificate_path, "it is damaged: this is no certificate of a CA");
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| damaged())?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|_| damaged())?;
        if !is_its_key(&parsed, &key) {
            return Err(wrong(&key_path, "it is not the key of the CA's certificate beside it"));
        }
        let fingerprint = Digest(Sha256::digest(&der).into()).to_string();
        let issuer = Issuer::from_ca_cert_pem(&pem, key).map_err(|_| damaged())?;
        Ok(Authority {
            pem,
            fingerprint,
            inner: Arc::new(Inner { names: Vec::new(), issuer, server: Mutex::new(None) }),
        })
    }

    /// As what people know the head: names and addresses in its own certificate.
    #[must_use]
    pub(crate) fn known_as(self, names: Vec<String>) -> Self {
        let Inner { issuer, .. } = Arc::into_inner(self.inner).expect("nobody has it yet");
        Authority { inner: Arc::new(Inner { names, issuer, server: Mutex::new(None) }), ..self }
    }

    /// SHA-256 of the CA's certificate, in hex.
    pub(crate) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The same, as a digest.
    pub(crate) fn digest(&self) -> Digest {
        self.fingerprint.parse().expect("it is one")
    }

    /// The CA's own certificate: what images carry.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Signs an agent's request for a day. Only its key is taken from the request: name and
    /// purpose are the head's to say. Gives the certificate (PEM) and the time to renew it
    /// in milliseconds.
    pub(crate) fn sign(&self, node: &Name, csr: &str) -> Result<(String, u64), Error> {
        let mut request = CertificateSigningRequestParams::from_pem(csr).map_err(failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, node.as_str());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let now = OffsetDateTime::now_utc();
        params.not_before = now - SKEW;
        params.not_after = now + DAY;
        request.params = params;
        let certificate = request.signed_by(&self.inner.issuer).map_err(failed)?;
        let renew = u64::try_from((now + RENEW).unix_timestamp()).unwrap_or(0) * 1000;
        Ok((certificate.pem(), renew))
    }

    /// Signs the time for a node's challenge.
    pub(crate) fn sign_time(&self, challenge: &str, at: u64) -> Result<String, Error> {
        let signed = self.inner.issuer.key().sign(SignedTime::message(challenge, at).as_bytes()).map_err(failed)?;
        Ok(signed.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Signs the life of the head's store, for agents.
    pub(crate) fn sign_life(&self, life: u64) -> Result<SignedLife, Error> {
        let signed = self.inner.issuer.key().sign(SignedLife::message(life).as_bytes()).map_err(failed)?;
        Ok(SignedLife { life, signature: signed.iter().map(|byte| format!("{byte:02x}")).collect() })
    }

    /// TLS for people and programs, who say who they are in HTTP.
    pub(crate) fn tls_for_people(&self) -> Result<ServerConfig, Error> {
        self.inner.server_certificate()?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&self.inner) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    /// TLS for the agents: a certificate is asked for, and its absence is allowed, for enrolment.
    pub(crate) fn tls(&self) -> Result<ServerConfig, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(self.pem.as_bytes()).map_err(failed)?;
        roots.add(ca).map_err(failed)?;
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .map_err(failed)?;
        self.inner.server_certificate()?;
        Ok(ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(failed)?
            .with_client_cert_verifier(clients)
            .with_cert_resolver(Arc::clone(&self.inner) as Arc<dyn ResolvesServerCert>))
    }
}

fn is_its_key(certificate: &x509_parser::certificate::X509Certificate<'_>, key: &KeyPair) -> bool {
    *certificate.public_key().subject_public_key.data == *key.der_bytes()
}

/// Whether this private key (PEM) is the one of this certificate (PEM).
pub(crate) fn fits(certificate: &[u8], key: &[u8]) -> bool {
    let key = std::str::from_utf8(key).ok().and_then(|key| KeyPair::from_pem(key).ok());
    let Ok(der) = CertificateDer::from_pem_slice(certificate) else { return false };
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(&der) else { return false };
    key.is_some_and(|key| is_its_key(&parsed, &key))
}

/// The public key of a request (PKCS#10), whose owner has signed it.
pub(crate) struct RequestedKey {
    fingerprint: String,
    /// The key's own bytes: of a P-256 key, its point, uncompressed.
    point: Vec<u8>,
    /// What the request says of the connection that it is for; `None` of an agent of a release before.
    challenge: Option<String>,
}

impl RequestedKey {
    /// # Errors
    /// When it is no request (PEM), or not signed by its key.
    pub(crate) fn of(csr: &str) -> Result<Self, Error> {
        // It checks the signature: who has a key's public half alone says nothing in its name.
        CertificateSigningRequestParams::from_pem(csr).map_err(failed)?;
        let (_, pem) = x509_parser::pem::parse_x509_pem(csr.as_bytes()).map_err(failed)?;
        let (_, request) =
            <x509_parser::certification_request::X509CertificationRequest<'_> as x509_parser::prelude::FromDer<
                '_,
                x509_parser::error::X509Error,
            >>::from_der(&pem.contents)
            .map_err(failed)?;
        let key = &request.certification_request_info.subject_pki;
        let challenge = request.certification_request_info.iter_attributes().find_map(|attribute| {
            match attribute.parsed_attribute() {
                ParsedCriAttribute::ChallengePassword(challenge) => Some(challenge.0.clone()),
                ParsedCriAttribute::ExtensionRequest(_) | ParsedCriAttribute::UnsupportedAttribute => None,
            }
        });
        let point = key.subject_public_key.data.to_vec();
        Ok(RequestedKey { fingerprint: fingerprint_of(key), point, challenge })
    }

    /// Whether it was made for another connection than this one, and somebody says it again. One that is for none is of an
    /// agent of a release before: nobody can make it of one that is for a connection, since its key has signed that.
    pub(crate) fn is_for_another(&self, connection: &Binding) -> bool {
        self.challenge.as_ref().is_some_and(|challenge| *challenge != connection.to_string())
    }

    /// SHA-256 of it, its first 16 bytes in hex.
    pub(crate) fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }

    pub(crate) fn point(&self) -> &[u8] {
        &self.point
    }
}

/// SHA-256 of a public key, its first 16 bytes in hex.
pub(crate) fn fingerprint_of(key: &x509_parser::x509::SubjectPublicKeyInfo<'_>) -> String {
    Digest(Sha256::digest(key.raw).into()).to_string()[..32].to_owned()
}

impl Inner {
    /// The server's certificate, renewed at two thirds of its day.
    fn server_certificate(&self) -> Result<Arc<CertifiedKey>, Error> {
        let mut server = locked(&self.server);
        let now = OffsetDateTime::now_utc();
        if let Some((key, renew)) = &*server
            && now < *renew
        {
            return Ok(Arc::clone(key));
        }
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::new([&[HEAD.to_owned()], &self.names[..]].concat()).map_err(failed)?;
        params.distinguished_name.push(DnType::CommonName, HEAD);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.not_before = now - SKEW;
        params.not_after = now + DAY;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        let private = PrivateKeyDer::try_from(key.serialize_der()).map_err(failed)?;
        let signing = rustls::crypto::ring::sign::any_supported_type(&private).map_err(failed)?;
        let certified = Arc::new(CertifiedKey::new(vec![certificate.der().clone()], signing));
        *server = Some((Arc::clone(&certified), now + RENEW));
        Ok(certified)
    }
}

impl ResolvesServerCert for Inner {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.server_certificate().inspect_err(|error| tracing::error!(%error, "no server certificate")).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_gets_the_name_that_the_head_says_and_a_day() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let authority = Authority::open(folder.path()).expect("made");
        assert_eq!(Authority::open(folder.path()).expect("loaded").pem(), authority.pem());
        let key = KeyPair::generate().expect("a key");
        let mut wish = CertificateParams::new(vec!["head.bramble".to_owned()]).expect("params");
        wish.distinguished_name.push(DnType::CommonName, "m9");
        let csr = wish.serialize_request(&key).and_then(|request| request.pem()).expect("a request");
        let (pem, renew) = authority.sign(&"m1".parse().expect("a name"), &csr).expect("signed");
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).expect("PEM");
        let certificate = pem.parse_x509().expect("X.509");
        let name = certificate.subject().iter_common_name().next().expect("a name").as_str().expect("text");
        assert_eq!(name, "m1");
        assert!(certificate.subject_alternative_name().expect("readable").is_none(), "no wish is granted");
        let life = certificate.validity().not_after.timestamp() - certificate.validity().not_before.timestamp();
        assert!((86_400..=86_400 + 600).contains(&life), "{life}");
        assert!(i64::try_from(renew / 1000).expect("small") < certificate.validity().not_after.timestamp());
        assert_eq!(RequestedKey::of(&csr).expect("a key").fingerprint().len(), 32);
    }

    /// As a former bramble left it: whoever copies the file alone has no key any more.
    #[test]
    fn the_key_of_the_ca_is_sealed_also_where_it_lay_in_the_clear() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let authority = Authority::open(folder.path()).expect("made");
        let sealed = || bramble_seal::is_sealed(&fs::read(folder.path().join(KEY)).expect("there"));
        assert!(sealed(), "a new one");
        let key = Vault::open(folder.path()).and_then(|vault| vault.read(KEY)).expect("opens");
        assert!(key.starts_with(b"-----BEGIN PRIVATE KEY-----"));
        fs::remove_file(folder.path().join(bramble_seal::SEAL)).expect("removed");
        fs::write(folder.path().join(KEY), key).expect("written");
        assert_eq!(Authority::open(folder.path()).expect("opened").pem(), authority.pem());
        assert!(sealed(), "one of before");
        fs::remove_file(folder.path().join(bramble_seal::SEAL)).expect("removed");
        let Err(error) = Authority::open(folder.path()) else { panic!("without its seal it was opened") };
        assert!(error.to_string().contains("seal is missing"), "{error}");
        assert!(error.help().is_some_and(|help| help.contains("bramble restore")), "{error}");
    }

    #[test]
    fn a_ca_that_is_damaged_is_told_by_its_file_and_what_to_do() {
        let new = || tempfile::tempdir().expect("a temporary folder");
        let (folder, other) = (new(), new());
        for folder in [&folder, &other] {
            Authority::open(folder.path()).expect("made");
        }
        for file in ["ca.key", "ca.pem"] {
            let path = folder.path().join(file);
            let whole = fs::read(&path).expect("there");
            let half = whole[..whole.len() / 2].to_vec();
            let others = fs::read(other.path().join(file)).expect("there");
            for bytes in [Some(half), Some(b"\xff\xfe".to_vec()), Some(Vec::new()), Some(others), None] {
                match &bytes {
                    Some(bytes) => fs::write(&path, bytes).expect("written"),
                    // Where the certificate is missing, whoever opens knows whether one may be made.
                    None if file == "ca.pem" => continue,
                    None => fs::remove_file(&path).expect("removed"),
                }
                let Err(error) = Authority::open(folder.path()) else { panic!("{file} {bytes:?} was taken") };
                let told = bramble_system::sentence(&error);
                assert!(told.starts_with(&*folder.path().join("ca.").to_string_lossy()), "{told}");
                assert!(error.help().is_some_and(|help| help.contains("bramble restore")), "{told}");
            }
            fs::write(&path, whole).expect("written");
        }
        Authority::open(folder.path()).expect("whole again");
    }

    #[test]
    fn a_request_that_is_none_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let authority = Authority::open(folder.path()).expect("made");
        assert!(authority.sign(&"m1".parse().expect("a name"), "not a request").is_err());
    }
}
