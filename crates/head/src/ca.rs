//! The cluster's CA: a root, which agents and people trust, and an issuer below it, which signs the head's own certificate
//! and the agents'. Their keys are sealed (`bramble_seal`).
//!
//! ```text
//!   root, 10 years, `keys/ca.*` ──▶ issuer, a year, `keys/issuer.*` ──▶ head.bramble and the head's names, a day
//!   constraints: bramble,           constraints: what the head         └▶ NODE.node.bramble, a day
//!   localhost, the domain,          is called now
//!   private networks
//! ```
//! A root of the release before signs the last ones itself, until it is rotated ([`bramble_plan::rotation`]).

mod beside;
mod files;
mod issuer;
mod request;
mod root;
pub(crate) mod sets;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bramble_model::agent::{SignedLife, SignedTime};
use bramble_model::ca::message;
use bramble_model::names::{BootId, Digest, Name};
use bramble_model::timeline::Millis;
use bramble_plan::rotation::{BEGIN, FINISH, Phase, Record};
use bramble_seal::Vault;
use bramble_system::locked;
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair,
    KeyUsagePurpose, SigningKey,
};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use time::{Duration, OffsetDateTime};

use crate::changes::Changes;
use crate::error::Error;
use files::Files;
use issuer::Issuers;
use root::{NEXT, Root, is_its_key};

pub(crate) use beside::{
    UNUSED, certificate, fingerprint, first_store, has_had_a_store, has_store, is_there, keep_life, least_life,
};
pub(crate) use request::{RequestedKey, whose};
pub use root::Home;

/// The name in the head's certificate.
const HEAD: &str = "head.bramble";
/// Nodes' names in their certificates are below this.
const NODES: &str = "node.bramble";
/// Life of an agent's and of the server's certificate.
const DAY: Duration = Duration::DAY;
/// When it is renewed: at two thirds.
const RENEW: Duration = Duration::hours(16);
/// Clocks differ a little.
const SKEW: Duration = Duration::minutes(10);
/// A root that ends within so long is a problem of the status.
const ENDS_SOON: Duration = Duration::days(365);

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Certificates(error.to_string())
}

/// The roots that the cluster trusts, for whoever builds images.
pub struct Roots(Vec<(String, Digest)>);

impl Roots {
    /// The roots in `folder`; the first is made there where there has been none.
    ///
    /// # Errors
    /// When the files cannot be written, or are not a CA.
    pub fn open(folder: &Path, home: &Home) -> Result<Self, Error> {
        let vault = Vault::open(folder)?;
        root::make_first(folder, &vault, home)?;
        let (first, next) = files::roots(folder, &vault, files::record(folder)?.as_ref())?;
        Ok(Roots([Some(first), next].into_iter().flatten().map(|root| (root.pem, root.fingerprint)).collect()))
    }

    /// Their certificates, one after the other: what images carry.
    #[must_use]
    pub fn pem(&self) -> String {
        self.0.iter().map(|(pem, _)| pem.as_str()).collect()
    }

    /// SHA-256 of each one's certificate.
    #[must_use]
    pub fn fingerprints(&self) -> Vec<Digest> {
        self.0.iter().map(|(_, fingerprint)| *fingerprint).collect()
    }

    /// Whether one of these CAs (PEM) has signed this text; the signature is in hex.
    #[must_use]
    pub fn have_signed(pem: &str, text: &str, signature: &str) -> bool {
        let hex = |at: usize| u8::from_str_radix(signature.get(at..at + 2)?, 16).ok();
        let signature: Option<Vec<u8>> = (0..signature.len()).step_by(2).map(hex).collect();
        let Some(signature) = signature else { return false };
        CertificateDer::pem_slice_iter(pem.as_bytes()).flatten().any(|der| {
            let Ok((_, parsed)) = x509_parser::parse_x509_certificate(&der) else { return false };
            let key: &[u8] = &parsed.public_key().subject_public_key.data;
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key).verify(text.as_bytes(), &signature).is_ok()
        })
    }
}

/// A root and what signs in its name.
struct Signer {
    root: Root,
    issuers: Option<Issuers>,
}

impl Signer {
    fn issuer(&self) -> &Issuer<'static, KeyPair> {
        self.issuers.as_ref().map_or(&self.root.issuer, |issuers| &issuers.issuer)
    }

    /// What leads from what it signs to its root.
    fn chain(&self) -> Option<&CertificateDer<'static>> {
        self.issuers.as_ref().and_then(|issuers| issuers.certificates.first())
    }

    /// Whose certificates agents may come with.
    fn anchors(&self) -> &[CertificateDer<'static>] {
        match &self.issuers {
            Some(issuers) => &issuers.certificates,
            None => std::slice::from_ref(&self.root.der),
        }
    }

    fn allows(&self, name: &str) -> bool {
        self.root.allows(name) && self.issuers.as_ref().is_none_or(|issuers| issuers.permitted.allows(name))
    }
}

/// All that signs, at one time.
struct Signers {
    /// Counts up whenever something else signs.
    number: u64,
    /// Of the head's own certificate, of time and life.
    first: Signer,
    /// While the CA is rotated: of the agents' certificates.
    next: Option<Signer>,
    /// The first one's, of which roots there are.
    signature: String,
}

impl Signers {
    fn all(&self) -> impl Iterator<Item = &Signer> {
        [Some(&self.first), self.next.as_ref()].into_iter().flatten()
    }

    /// Of agents' certificates.
    fn of_agents(&self) -> &Signer {
        self.next.as_ref().unwrap_or(&self.first)
    }
}

/// The CA and what it signs.
pub(crate) struct Authority {
    inner: Arc<Inner>,
    /// Other roots are trusted, or another one signs.
    pub(crate) changed: Changes,
}

struct Inner {
    folder: PathBuf,
    home: Home,
    /// Names and addresses of the head beside [`HEAD`].
    names: Vec<String>,
    signers: Mutex<Arc<Signers>>,
    record: Mutex<Kept>,
    server: Mutex<Option<Server>>,
    agents: Mutex<Option<(u64, Arc<ServerConfig>)>>,
    /// Held by whoever changes the files of the CA, or reads all of them.
    turn: Mutex<()>,
}

/// The head's own certificate.
struct Server {
    /// Of the signers that it is of.
    number: u64,
    key: Arc<CertifiedKey>,
    renew: OffsetDateTime,
}

/// What is known of a rotation.
#[derive(Default)]
struct Kept {
    record: Option<Record>,
    /// It is not on the disk as it is here.
    is_newer: bool,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

/// The roots that are trusted, as whoever trusts the first takes them.
pub(crate) struct Told {
    /// Their certificates, one after the other.
    pub(crate) pem: String,
    pub(crate) fingerprints: Vec<Digest>,
    /// Of [`message`] of these, by the one that signs first; in hex.
    pub(crate) signature: String,
}

/// A root, told.
pub(crate) struct RootSeen {
    pub(crate) fingerprint: Digest,
    /// Milliseconds since the epoch.
    pub(crate) since: Millis,
    pub(crate) until: Millis,
    /// An issuer signs in its name.
    pub(crate) has_issuer: bool,
}

impl Authority {
    /// The CA in `folder`, made there where there has been none, of a head that is known by these names and addresses. What
    /// was begun of a rotation is gone on with.
    ///
    /// # Errors
    /// When the files cannot be written, or are not a CA.
    pub(crate) fn open_for(folder: &Path, home: Home, names: Vec<String>) -> Result<Self, Error> {
        let vault = Vault::open(folder)?;
        root::make_first(folder, &vault, &home)?;
        let record = files::record(folder)?;
        let since = record.as_ref().map_or(0, |record| record.since);
        let files = Files { folder, vault: &vault, made: None, since };
        if let Err(error) = files.go_on(record.as_ref()) {
            // What is written down holds: the next root has taken the old one's place, or there is none yet.
            tracing::error!(error = bramble_system::sentence(&error), "the CA's rotation is not gone on with");
        }
        let record = files::record(folder)?;
        let signers = signers(folder, &vault, record.as_ref(), &names, 1)?;
        let inner = Inner {
            folder: folder.to_owned(),
            home,
            names,
            signers: Mutex::new(Arc::new(signers)),
            record: Mutex::new(Kept { record, is_newer: false }),
            server: Mutex::default(),
            agents: Mutex::default(),
            turn: Mutex::default(),
        };
        Ok(Authority { inner: Arc::new(inner), changed: Changes::default() })
    }

    /// As [`Authority::open_for`], of a head without names.
    #[cfg(test)]
    pub(crate) fn open(folder: &Path) -> Result<Self, Error> {
        Self::open_for(folder, Home { domain: "home.arpa".into(), addresses: Vec::new() }, Vec::new())
    }

    fn signers(&self) -> Arc<Signers> {
        Arc::clone(&locked(&self.inner.signers))
    }

    /// As long as this is kept, nobody changes a file of the CA.
    pub(crate) fn still(&self) -> MutexGuard<'_, ()> {
        locked(&self.inner.turn)
    }

    /// Counts up whenever other roots are trusted, or another one signs.
    pub(crate) fn number(&self) -> u64 {
        self.signers().number
    }

    /// SHA-256 of the certificate of the root that the head's own certificate is of, in hex.
    pub(crate) fn fingerprint(&self) -> String {
        self.signers().first.root.fingerprint.to_string()
    }

    /// The same, as a digest.
    pub(crate) fn digest(&self) -> Digest {
        self.signers().first.root.fingerprint
    }

    /// The roots that are trusted, the one that signs first.
    pub(crate) fn roots(&self) -> Vec<RootSeen> {
        let millis = |seconds: i64| u64::try_from(seconds).unwrap_or(0).saturating_mul(1000);
        let seen = |signer: &Signer| RootSeen {
            fingerprint: signer.root.fingerprint,
            since: millis(signer.root.since + SKEW.whole_seconds()),
            until: millis(signer.root.until),
            has_issuer: signer.issuers.is_some(),
        };
        self.signers().all().map(seen).collect()
    }

    /// The certificates of all roots that are trusted, one after the other: what images, agents and people trust.
    pub(crate) fn pem(&self) -> String {
        self.signers().all().map(|signer| signer.root.pem.as_str()).collect()
    }

    /// The same, signed.
    pub(crate) fn told(&self) -> Told {
        let signers = self.signers();
        Told {
            pem: signers.all().map(|signer| signer.root.pem.as_str()).collect(),
            fingerprints: signers.all().map(|signer| signer.root.fingerprint).collect(),
            signature: signers.signature.clone(),
        }
    }

    /// Names of the head that the root may not sign, and that are in no certificate for that.
    pub(crate) fn not_allowed(&self) -> Vec<String> {
        let signers = self.signers();
        self.inner.names.iter().filter(|name| !signers.first.root.allows(name)).cloned().collect()
    }

    /// What is wrong with it.
    pub(crate) fn problems(&self, wanted: Option<&Digest>) -> Vec<String> {
        let mut problems = Vec::new();
        let roots = self.roots();
        if let Some(wanted) = wanted.filter(|wanted| roots.iter().all(|root| root.fingerprint != **wanted)) {
            let own = self.fingerprint();
            problems.push(format!(
                "`cluster.ca` in the repository is {wanted}, and the head's CA is {own}: where it was rotated, write \
                 `ca = \"{own}\"`; else this is another cluster's head"
            ));
        }
        let now = OffsetDateTime::now_utc();
        let ends_soon = u64::try_from((now + ENDS_SOON).unix_timestamp()).unwrap_or(0).saturating_mul(1000);
        if roots.iter().all(|root| root.until < ends_soon) {
            problems
                .push("the cluster's CA ends within a year, and all that trusts it then: `bramble ca rotate`".into());
        }
        let not_allowed = self.not_allowed();
        if !not_allowed.is_empty() {
            problems.push(format!(
                "the head's certificate is not for {}: its CA was made for other names; `bramble ca rotate` makes one for these",
                not_allowed.join(", ")
            ));
        }
        problems
    }

    /// Signs an agent's request for a day. Only its key is taken from the request: name and
    /// purpose are the head's to say. Gives the certificate and what leads to its root (PEM), and the time to renew it
    /// in milliseconds.
    pub(crate) fn sign(&self, node: &Name, csr: &str) -> Result<(String, u64), Error> {
        let mut request = CertificateSigningRequestParams::from_pem(csr).map_err(failed)?;
        let mut params = CertificateParams::new([request::name_of(node)]).map_err(failed)?;
        params.distinguished_name.push(DnType::CommonName, node.as_str());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let now = OffsetDateTime::now_utc();
        params.not_before = now - SKEW;
        params.not_after = now + DAY;
        request.params = params;
        let signers = self.signers();
        let signer = signers.of_agents();
        let certificate = request.signed_by(signer.issuer()).map_err(failed)?;
        let renew = u64::try_from((now + RENEW).unix_timestamp()).unwrap_or(0) * 1000;
        let chain = signer.chain().map(|der| issuer::pem(der)).unwrap_or_default();
        Ok((certificate.pem() + &chain, renew))
    }

    /// Signs the time for a node's challenge, as every agent can check it: by the root that signs first.
    pub(crate) fn sign_time(&self, challenge: &str, at: u64) -> Result<String, Error> {
        self.sign_text(&SignedTime::message(challenge, at))
    }

    /// Signs the life of the head's store, for agents.
    pub(crate) fn sign_life(&self, life: u64) -> Result<SignedLife, Error> {
        Ok(SignedLife { life, signature: self.sign_text(&SignedLife::message(life))? })
    }

    fn sign_text(&self, text: &str) -> Result<String, Error> {
        signed(&self.signers().first.root, text)
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

    /// TLS for the agents, as it is now: a certificate is asked for, and its absence is allowed, for enrolment. Whoever was
    /// let in by what signs no more begins no new connection by an old session either: each has sessions of its own.
    pub(crate) fn tls(&self) -> Result<Arc<ServerConfig>, Error> {
        let signers = self.signers();
        let mut agents = locked(&self.inner.agents);
        if let Some((number, config)) = &*agents
            && *number == signers.number
        {
            return Ok(Arc::clone(config));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut anchors = RootCertStore::empty();
        for anchor in signers.all().flat_map(Signer::anchors) {
            anchors.add(anchor.clone()).map_err(failed)?;
        }
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(anchors), Arc::clone(&provider))
            .allow_unauthenticated()
            // Nobody chooses by them, and there may be several.
            .clear_root_hint_subjects()
            .build()
            .map_err(failed)?;
        self.inner.server_certificate()?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(failed)?
            .with_client_cert_verifier(clients)
            .with_cert_resolver(Arc::clone(&self.inner) as Arc<dyn ResolvesServerCert>);
        let config = Arc::new(config);
        *agents = Some((signers.number, Arc::clone(&config)));
        Ok(config)
    }
}

/// The rotation (`plan::rotation`).
impl Authority {
    /// The rotation that is under way.
    pub(crate) fn rotation(&self) -> Option<Record> {
        locked(&self.inner.record).record.clone()
    }

    /// The root that takes the first one's place, while both are trusted.
    pub(crate) fn next(&self) -> Option<Digest> {
        self.signers().next.as_ref().map(|signer| signer.root.fingerprint)
    }

    /// Whether the next root has taken the first one's place, and its files are not all where they belong yet.
    pub(crate) fn is_finishing(&self) -> bool {
        self.phase() == Some(Phase::Finishing)
    }

    fn phase(&self) -> Option<Phase> {
        locked(&self.inner.record).record.as_ref().map(|record| record.phase)
    }

    /// Reads what is written down where that is not what is known here: steps were done, and what came of them could not
    /// be read. To do them again would be to begin anew with files that are gone. Gives whether it was so.
    ///
    /// # Errors
    /// When it still cannot be read.
    fn catch_up(&self) -> Result<bool, Error> {
        let written = files::record(&self.inner.folder)?.map(|record| record.phase);
        if written == self.phase() {
            return Ok(false);
        }
        self.read_again(&Vault::open(&self.inner.folder)?)?;
        Ok(true)
    }

    /// Makes the next root, which is trusted beside the first from now on. Gives whether that is new.
    ///
    /// # Errors
    /// When something cannot be written; then nothing has changed. And while the one before takes its place.
    pub(crate) fn rotate(&self, now: Millis) -> Result<bool, Error> {
        let _turn = self.still();
        let has_caught_up = self.catch_up()?;
        match self.phase() {
            None if has_caught_up => {
                return Err(failed("a rotation of the CA has just ended: `bramble ca rotate` again begins another"));
            }
            None => {}
            Some(Phase::Overlap) => return Ok(has_caught_up),
            Some(Phase::Finishing) => {
                return Err(failed(
                    "the last rotation of the CA is not done: its files are still put into their places",
                ));
            }
        }
        let vault = Vault::open(&self.inner.folder)?;
        let made = Some(root::make(&self.inner.home)?);
        let files = Files { folder: &self.inner.folder, vault: &vault, made, since: now };
        BEGIN.iter().try_for_each(|step| files.take(*step))?;
        self.read_again(&vault)?;
        Ok(true)
    }

    /// The next root takes the first one's place, which is trusted no more. Gives whether that is new.
    ///
    /// # Errors
    /// When something cannot be written. Where its beginning is written down, it is done all the same, and
    /// [`Authority::keep`] does the rest of the files.
    pub(crate) fn finish(&self) -> Result<bool, Error> {
        let _turn = self.still();
        if self.catch_up()? {
            return Ok(self.phase() != Some(Phase::Overlap));
        }
        let Some(Record { phase: Phase::Overlap, since, .. }) = self.rotation() else { return Ok(false) };
        let vault = Vault::open(&self.inner.folder)?;
        let files = Files { folder: &self.inner.folder, vault: &vault, made: None, since };
        let done = FINISH.iter().try_for_each(|step| files.take(*step));
        self.read_again(&vault)?;
        done.map(|()| true)
    }

    /// Reads what is written down, and goes on with that.
    fn read_again(&self, vault: &Vault) -> Result<(), Error> {
        let record = files::record(&self.inner.folder)?;
        let number = self.number() + 1;
        let next = signers(&self.inner.folder, vault, record.as_ref(), &self.inner.names, number)?;
        *locked(&self.inner.signers) = Arc::new(next);
        *locked(&self.inner.record) = Kept { record, is_newer: false };
        self.changed.tell();
        Ok(())
    }

    /// A node's agent trusts these roots in this boot of it.
    pub(crate) fn trusts(&self, node: &Name, boot: &BootId, roots: &[Digest]) {
        let Some(next) = self.next() else { return };
        let mut kept = locked(&self.inner.record);
        let Some(record) = kept.record.as_mut().filter(|_| roots.contains(&next)) else { return };
        if record.moved.get(node) != Some(boot) {
            record.moved.insert(node.clone(), boot.clone());
            kept.is_newer = true;
        }
    }

    /// Does the rest of an end that was begun.
    ///
    /// # Errors
    /// When a step cannot be done; nobody is told of anything new then.
    fn go_on(&self) -> Result<(), Error> {
        let vault = Vault::open(&self.inner.folder)?;
        let record = files::record(&self.inner.folder)?;
        let since = record.as_ref().map_or(0, |record| record.since);
        Files { folder: &self.inner.folder, vault: &vault, made: None, since }.go_on(record.as_ref())?;
        self.read_again(&vault)
    }

    /// Goes on with an end that was begun, makes issuers anew whose time has come, takes nothing any more of those that
    /// were replaced when theirs is over, and writes down who has moved.
    ///
    /// # Errors
    /// When that cannot be written; it is tried again.
    pub(crate) fn keep(&self) -> Result<(), Error> {
        let _turn = self.still();
        if self.is_finishing() {
            self.go_on()?;
        } else {
            // What is known here of a rotation that is over is not written down again.
            self.catch_up()?;
        }
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let is_due = |signer: &Signer| signer.issuers.as_ref().is_some_and(|issuers| issuers.renew <= now);
        if self.signers().all().any(is_due) {
            let vault = Vault::open(&self.inner.folder)?;
            let record = self.rotation();
            let number = self.number() + 1;
            let next = signers(&self.inner.folder, &vault, record.as_ref(), &self.inner.names, number)?;
            *locked(&self.inner.signers) = Arc::new(next);
        }
        let mut kept = locked(&self.inner.record);
        if let Kept { record: Some(record), is_newer: true } = &*kept {
            files::write(&self.inner.folder, record)?;
            kept.is_newer = false;
        }
        Ok(())
    }
}

/// What signs, as the files say.
fn signers(
    folder: &Path,
    vault: &Vault,
    record: Option<&Record>,
    names: &[String],
    number: u64,
) -> Result<Signers, Error> {
    let (first, next) = files::roots(folder, vault, record)?;
    let place = files::place_of_first(folder, record)?;
    let signer = |root: Root, place| {
        let issuers = Issuers::settle(folder, vault, place, &root, names)?;
        Ok::<_, Error>(Signer { root, issuers })
    };
    let next = next.map(|root| signer(root, NEXT)).transpose()?;
    let first = signer(first, place)?;
    let roots = [Some(&first), next.as_ref()].into_iter().flatten().map(|signer| signer.root.fingerprint);
    let signature = signed(&first.root, &message(&roots.collect::<Vec<_>>()))?;
    Ok(Signers { number, first, next, signature })
}

/// A root's signature of a text, in hex.
fn signed(root: &Root, text: &str) -> Result<String, Error> {
    let signed = root.issuer.key().sign(text.as_bytes()).map_err(failed)?;
    Ok(signed.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Whether this is a record of a rotation whose end was begun: the files of the next root alone are whole for certain.
pub(crate) fn is_finishing(record: &[u8]) -> bool {
    serde_json::from_slice::<Record>(record).is_ok_and(|record| record.phase == Phase::Finishing)
}

/// Whether this private key (PEM) is the one of this certificate (PEM).
pub(crate) fn fits(certificate: &[u8], key: &[u8]) -> bool {
    let key = std::str::from_utf8(key).ok().and_then(|key| KeyPair::from_pem(key).ok());
    let Ok(der) = CertificateDer::from_pem_slice(certificate) else { return false };
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(&der) else { return false };
    key.is_some_and(|key| is_its_key(&parsed, &key))
}

impl Inner {
    /// The server's certificate, renewed at two thirds of its day, and when another one signs.
    fn server_certificate(&self) -> Result<Arc<CertifiedKey>, Error> {
        let signers = Arc::clone(&locked(&self.signers));
        let mut server = locked(&self.server);
        let now = OffsetDateTime::now_utc();
        if let Some(Server { number, key, renew }) = &*server
            && *number == signers.number
            && now < *renew
        {
            return Ok(Arc::clone(key));
        }
        let key = KeyPair::generate().map_err(failed)?;
        let signer = &signers.first;
        // One name too many would make it worthless to all.
        let names = self.names.iter().filter(|name| signer.allows(name)).cloned();
        let names: Vec<String> = [HEAD.to_owned()].into_iter().chain(names).collect();
        let mut params = CertificateParams::new(names).map_err(failed)?;
        params.distinguished_name.push(DnType::CommonName, HEAD);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = now - SKEW;
        params.not_after = now + DAY;
        let certificate = params.signed_by(&key, signer.issuer()).map_err(failed)?;
        let private = PrivateKeyDer::try_from(key.serialize_der()).map_err(failed)?;
        let signing = rustls::crypto::ring::sign::any_supported_type(&private).map_err(failed)?;
        let chain = [certificate.der().clone()].into_iter().chain(signer.chain().cloned()).collect();
        let certified = Arc::new(CertifiedKey::new(chain, signing));
        *server = Some(Server { number: signers.number, key: Arc::clone(&certified), renew: now + RENEW });
        Ok(certified)
    }
}

impl ResolvesServerCert for Inner {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.server_certificate().inspect_err(|error| tracing::error!(%error, "no server certificate")).ok()
    }
}

#[cfg(test)]
pub(crate) mod tests;
