//! Heads that this person has logged in to: where they are, whom to trust, and the session's token.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
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
    /// The head's CA, PEM.
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

/// SHA-256 of a CA's certificate, in hex.
pub fn fingerprint(ca: &str) -> Result<String> {
    let der = CertificateDer::from_pem_slice(ca.as_bytes()).context("the head's CA is malformed")?;
    Ok(Sha256::digest(&der).iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Connects, and trusts the kept CA only.
pub async fn connect(known: &KnownHead) -> Result<Box<dyn Stream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(known.ca.as_bytes()).context("the kept CA is malformed")?)?;
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
                Some(rustls::Error::InvalidCertificate(_)) => Some(format!(
                    "{url} is not the head that was known there: if it was made anew, `bramble login {url}` again"
                )),
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
}
