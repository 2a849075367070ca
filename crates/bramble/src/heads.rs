//! Heads that this person has logged in to: where they are, whom to trust, and the session's token.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bramble_head::Roots;
use bramble_model::ca::{leads_back, message};
use bramble_system::files;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The name in every head's certificate: its CA is of one cluster, and signs no other head.
const HEAD: &str = "head.bramble";
const PORT: u16 = 7444;
const LIMIT: Duration = Duration::from_secs(10);

/// Bytes to and from the head.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A head elsewhere.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KnownHead {
    /// `https://HOST:PORT`
    pub url: String,
    /// The head's CA, PEM; while it is rotated, the next one after it.
    pub ca: String,
    pub user: String,
    pub token: String,
    /// Milliseconds since the epoch; `None` where the head alone knows.
    pub until: Option<u64>,
}

/// `https://HOST:PORT` of what a person writes: `head`, `10.77.0.1:7444`, `https://head/`.
pub fn url(text: &str) -> Result<String> {
    let rest = text.strip_prefix("https://").unwrap_or(text).trim_end_matches('/');
    if rest.contains("://") || rest.is_empty() || rest.contains(['/', ' ', '@', '?']) {
        bail!("`{text}` is no address of a head: expected HOST, HOST:PORT or https://HOST:PORT");
    }
    Ok(match rest.rsplit_once(':') {
        Some((_, port)) if port.parse::<u16>().is_ok() => format!("https://{rest}"),
        _ => format!("https://{rest}:{PORT}"),
    })
}

/// Where they are kept (XDG Base Directory Specification).
fn path() -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")));
    let base = base.context("neither XDG_CONFIG_HOME nor HOME is set, so there is no place for logins")?;
    Ok(base.join("bramble/heads.json"))
}

fn all() -> Result<BTreeMap<String, KnownHead>> {
    let path = path()?;
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is malformed: remove it and log in again", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn write(all: &BTreeMap<String, KnownHead>) -> Result<()> {
    let path = path()?;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let text = serde_json::to_string_pretty(all).expect("plain data");
    files::replace_secret(&path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

pub fn keep(known: KnownHead) -> Result<()> {
    let mut all = all()?;
    all.insert(known.url.clone(), known);
    write(&all)
}

/// Forgets a head; gives what was known.
pub fn forget(url: &str) -> Result<Option<KnownHead>> {
    let mut all = all()?;
    let known = all.remove(url);
    write(&all)?;
    Ok(known)
}

/// The head at this address.
pub fn find(wish: &str) -> Result<KnownHead> {
    let url = url(wish)?;
    all()?.remove(&url).with_context(|| format!("nobody is logged in at {url}: `bramble login {url}`"))
}

/// The addresses of all.
pub fn urls() -> Result<Vec<String>> {
    Ok(all()?.into_keys().collect())
}

/// SHA-256 of a CA's certificate, in hex; of the first, where there are several.
pub fn fingerprint(ca: &str) -> Result<String> {
    fingerprints(ca)?.into_iter().next().context("the head's CA is malformed: it is empty")
}

/// SHA-256 of each CA's certificate, in hex.
pub fn fingerprints(ca: &str) -> Result<Vec<String>> {
    let all = CertificateDer::pem_slice_iter(ca.as_bytes()).map(|der| Ok(hex(&Sha256::digest(der?))));
    let all: Result<Vec<_>, rustls::pki_types::pem::Error> = all.collect();
    all.context("the head's CA is malformed")
}

/// The one of these CAs that has this fingerprint: nobody has compared the others.
pub fn only(ca: &str, wanted: &str) -> Result<Option<String>> {
    for part in ca.split_inclusive(END).filter(|part| part.ends_with(END)) {
        let der = CertificateDer::from_pem_slice(part.as_bytes()).context("the head's CA is malformed")?;
        if hex(&Sha256::digest(&der)) == wanted {
            return Ok(Some(format!("{}\n", part.trim_start())));
        }
    }
    Ok(None)
}

/// What a certificate ends with as text (RFC 7468, section 2).
const END: &str = "-----END CERTIFICATE-----";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether these CAs are other ones than the head names that it has (`bramble_model::ca::ROOTS`).
pub fn are_others(ca: &str, named: &str) -> bool {
    let named: BTreeSet<&str> = named.split(',').map(str::trim).collect();
    fingerprints(ca).is_ok_and(|known| known.iter().map(String::as_str).collect::<BTreeSet<_>>() != named)
}

/// Whether the CAs that the head names may take the place of these: one of these has signed that (in hex), and it is not
/// of before. That one has verified the connection is not enough: whoever stole its issuer's key could be the head.
///
/// # Errors
/// Why not.
pub fn may_take(ca: &str, named: &str, signature: &str) -> Result<()> {
    let digests = |all: Vec<&str>| -> Result<Vec<bramble_model::names::Digest>> {
        all.into_iter().map(|one| one.trim().parse().ok().context("the head's CAs are malformed")).collect()
    };
    let told = digests(named.split(',').collect())?;
    let known = fingerprints(ca)?;
    let known = digests(known.iter().map(String::as_str).collect())?;
    if !Roots::have_signed(ca, &message(&told), signature) {
        bail!("no CA that is known of it has signed it");
    }
    if leads_back(&known, &told) {
        bail!("what the head names leaves out the CA that takes the first one's place: it is of before");
    }
    Ok(())
}

/// The CAs of a head that is known, as one of them has signed it. What is known of it else stays: somebody may have
/// logged in there anew.
pub fn move_over(url: &str, from: &str, to: &str) -> Result<()> {
    let mut all = all()?;
    let Some(known) = all.get_mut(url).filter(|known| known.ca == from) else { return Ok(()) };
    to.clone_into(&mut known.ca);
    write(&all)
}

/// The head is of another CA than the one that was known there.
#[derive(Debug)]
pub struct OtherCa {
    url: String,
}

impl std::fmt::Display for OtherCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let url = &self.url;
        write!(
            f,
            "{url} is not the head that was known there: its CA was rotated since you used it last, it was made anew, or \
             someone is in between: `bramble login {url}` again, and compare the fingerprint with `bramble status` on the head"
        )
    }
}

impl std::error::Error for OtherCa {}

/// Connects, and trusts the kept CA only.
pub async fn connect(known: &KnownHead) -> Result<Box<dyn Stream>> {
    let mut roots = RootCertStore::empty();
    for der in CertificateDer::pem_slice_iter(known.ca.as_bytes()) {
        roots.add(der.context("the kept CA is malformed")?)?;
    }
    let tls = builder()?.with_root_certificates(roots).with_no_client_auth();
    Ok(Box::new(open(&known.url, tls).await?))
}

/// Connects to someone whose CA is not known yet. Whatever comes from there has to be compared.
pub async fn connect_to_anyone(url: &str) -> Result<Box<dyn Stream>> {
    let tls = builder()?.dangerous().with_custom_certificate_verifier(Arc::new(Anyone)).with_no_client_auth();
    Ok(Box::new(open(url, tls).await?))
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?)
}

async fn open(url: &str, tls: ClientConfig) -> Result<TlsStream<TcpStream>> {
    let address = url.strip_prefix("https://").unwrap_or(url);
    let open = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(HEAD).expect("a valid name");
        TlsConnector::from(Arc::new(tls)).connect(name, stream).await
    };
    match tokio::time::timeout(LIMIT, open).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => {
            let said = match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
                Some(rustls::Error::InvalidCertificate(_)) => {
                    return Err(anyhow::Error::new(error).context(OtherCa { url: url.to_owned() }));
                }
                Some(_) => Some(format!("{address} does not speak TLS as a head does for people")),
                None => None,
            };
            let error = anyhow::Error::new(error);
            Err(match said {
                Some(said) => error.context(said),
                None => error,
            })
        }
        Err(late) => Err(std::io::Error::from(late).into()),
    }
}

/// Takes any certificate: for the one question after the CA, whose answer a person or a fingerprint checks.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_people_write_them() {
        for (text, wanted) in [
            ("head", "https://head:7444"),
            ("10.77.0.1:80", "https://10.77.0.1:80"),
            ("https://head.home.arpa/", "https://head.home.arpa:7444"),
        ] {
            assert_eq!(url(text).expect("an address"), wanted);
        }
        for text in ["", "http://head", "https://a/b", "a b", "user@head"] {
            assert!(url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn who_knows_other_cas_than_the_head_has_asks_for_them() {
        let ca = |name: &str| {
            let key = rcgen::KeyPair::generate().expect("a key");
            rcgen::CertificateParams::new([name.to_owned()]).expect("a name").self_signed(&key).expect("signed").pem()
        };
        let (old, new) = (ca("old"), ca("new"));
        let names = |ca: &str| fingerprints(ca).expect("certificates").join(",");
        let both = format!("{old}{new}");
        assert_eq!(fingerprint(&both).expect("one"), names(&old));
        for one in [&old, &new] {
            let kept = only(&both, &names(one)).expect("certificates").expect("it is there");
            assert_eq!(fingerprints(&kept).expect("a certificate"), [names(one)], "who is in between adds none");
        }
        assert_eq!(only(&old, &names(&new)).expect("a certificate"), None);
        assert!(are_others(&old, &names(&both)) && are_others(&both, &names(&new)) && are_others(&old, &names(&new)));
        assert!(!are_others(&both, &names(&both)) && !are_others(&new, &names(&new)));
        assert!(!are_others(&both, &names(&format!("{new}{old}"))), "in whatever order");
        for malformed in ["", "x"] {
            assert!(fingerprint(malformed).is_err(), "{malformed}");
        }
    }

    /// Whoever stole the key of an issuer is the head to who knows its root, and leads nobody over to a CA of their own.
    #[test]
    fn other_cas_are_taken_only_where_one_that_is_known_has_signed_them() {
        use rcgen::SigningKey as _;
        let ca = |name: &str| {
            let key = rcgen::KeyPair::generate().expect("a key");
            let params = rcgen::CertificateParams::new([name.to_owned()]).expect("a name");
            (params.self_signed(&key).expect("signed").pem(), key)
        };
        let ((old, old_key), (new, new_key)) = (ca("old"), ca("new"));
        let signed = |ca: &str, key: &rcgen::KeyPair| {
            let named = fingerprints(ca).expect("certificates");
            let text = format!("bramble: the CAs are {}", named.join(" "));
            (named.join(","), hex(&key.sign(text.as_bytes()).expect("signed")))
        };
        let both = format!("{old}{new}");
        let (named, by_old) = signed(&both, &old_key);
        may_take(&old, &named, &by_old).expect("one that is known has signed it");
        for signature in ["", "zz", &signed(&both, &new_key).1, &signed(&old, &old_key).1] {
            assert!(may_take(&old, &named, signature).is_err(), "{signature}");
        }
        let (named, by_new) = signed(&new, &new_key);
        may_take(&both, &named, &by_new).expect("the rotation is over");
        let (named, by_old) = signed(&old, &old_key);
        assert!(may_take(&both, &named, &by_old).is_err(), "what was signed before it, said again");
        assert!(may_take(&old, "x", &by_old).is_err());
    }
}
