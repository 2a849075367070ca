//! The CA of the nodes' SSH servers: a node that makes another key at each boot is the same one to whoever trusts this.
//!
//! ```text
//! repository ─ name, domain, address ─┐
//! agent ── its server's public key ───┴─▶ certificate for a week ─▶ sshd
//! ```
//! Its key is sealed beside those of the head's CA, and another one: SSH knows no certificates of TLS. The certificate is
//! written here, in a dozen fields (OpenSSH's PROTOCOL.certkeys): the crate for it has had no release but candidates for
//! years, and the signature is ring's, as all of the head's are.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bramble_model::agent::HostCertificate;
use bramble_model::names::Name;
use bramble_model::repository::Cluster;
use bramble_model::timeline::Millis;
use bramble_seal::{Vault, is_sealed};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use crate::error::Error;
use crate::random;

/// Its key, in the folder of the keys.
const KEY: &str = "ssh-host.key";
const BEGINS: &str = "-----BEGIN PRIVATE KEY-----\n";
const ENDS: &str = "-----END PRIVATE KEY-----\n";

const KIND: &str = "ssh-ed25519";
const CERTIFICATE: &str = "ssh-ed25519-cert-v01@openssh.com";
/// SSH_CERT_TYPE_HOST.
const HOST: u32 = 2;

/// A certificate's life, in seconds, and when it is renewed: at two thirds.
const WEEK: u64 = 7 * 24 * 3600;
const RENEW: u64 = WEEK * 2 / 3;
/// The clock of whoever connects may be behind by so many seconds.
const SKEW: u64 = 3600;

/// Signs host keys. Where it cannot, nodes boot and serve on without.
pub(crate) struct HostAuthority(Result<Ed25519KeyPair, String>);

/// What is signed: strings with their lengths before them (RFC 4251, section 5).
#[derive(Default)]
struct Blob(Vec<u8>);

impl Blob {
    fn string(mut self, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        self.0.extend(u32::try_from(bytes.len()).expect("short").to_be_bytes());
        self.0.extend(bytes);
        self
    }

    fn number(mut self, number: u64) -> Self {
        self.0.extend(number.to_be_bytes());
        self
    }
}

/// A public key of Ed25519, as SSH writes it.
fn public(key: &[u8]) -> Vec<u8> {
    Blob::default().string(KIND).string(key).0
}

/// The key in a line of a `.pub` file; `None` where it is none of Ed25519, which every agent makes.
fn key_of(line: &str) -> Option<[u8; 32]> {
    let mut words = line.split_ascii_whitespace();
    let bytes = match (words.next(), words.next()) {
        (Some(KIND), Some(body)) => STANDARD.decode(body).ok()?,
        _ => return None,
    };
    let key: [u8; 32] = bytes.get(bytes.len().checked_sub(32)?..)?.try_into().ok()?;
    (public(&key) == bytes).then_some(key)
}

/// Whom the repository says that a node is: the names that its server may have.
pub(crate) fn principals(cluster: &Cluster, node: &Name) -> Option<Vec<String>> {
    let declared = cluster.nodes.get(node)?;
    let mut names = vec![node.to_string(), format!("{node}.{}", cluster.domain)];
    names.extend(declared.address.map(|address| address.to_string()));
    Some(names)
}

impl HostAuthority {
    /// Loads the key from `folder`, or makes it there. One that cannot be read, or written, is logged, and said to whoever
    /// asks: no other one takes its place, since people trust it.
    pub(crate) fn open(folder: &Path) -> Self {
        let opened = Self::key(folder).map_err(|error| bramble_system::sentence(&error));
        if let Err(error) = &opened {
            tracing::error!(error, "SSH host keys of nodes are not signed");
        }
        HostAuthority(opened)
    }

    fn key(folder: &Path) -> Result<Ed25519KeyPair, Error> {
        let (vault, path) = (Vault::open(folder)?, folder.join(KEY));
        let damaged = || Error::Key { path: path.clone(), problem: "it is damaged: this is no private key of Ed25519" };
        let pem = match vault.read(KEY) {
            Err(error) if error.is_no_file() => {
                let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
                    .map_err(|_| Error::Certificates("no key of Ed25519 is made".into()))?;
                let pem = format!("{BEGINS}{}\n{ENDS}", STANDARD.encode(made.as_ref()));
                vault.write(KEY, pem.as_bytes())?;
                pem.into_bytes()
            }
            read => read?,
        };
        let pem = String::from_utf8(pem).map_err(|_| damaged())?;
        let body = pem.strip_prefix(BEGINS).and_then(|rest| rest.strip_suffix(ENDS)).ok_or_else(damaged)?;
        let key = STANDARD.decode(body.trim_end()).map_err(|_| damaged())?;
        let key = Ed25519KeyPair::from_pkcs8(&key).map_err(|_| damaged())?;
        // As `bramble head unseal` has left it.
        if fs::read(&path).is_ok_and(|bytes| !is_sealed(&bytes))
            && let Err(error) = vault.write(KEY, pem.as_bytes())
        {
            tracing::error!(error = bramble_system::sentence(&error), "a key is not sealed");
        }
        Ok(key)
    }

    /// What whoever connects to nodes writes into a file of known hosts.
    ///
    /// # Errors
    /// Why the key cannot be had.
    pub(crate) fn known_hosts(&self, cluster: &Cluster) -> Result<String, String> {
        let key = self.0.as_ref().map_err(Clone::clone)?;
        let mut hosts = vec![format!("*.{}", cluster.domain)];
        hosts.extend(cluster.nodes.iter().filter(|(_, node)| node.boot.is_none()).flat_map(|(name, node)| {
            std::iter::once(name.to_string()).chain(node.address.map(|address| address.to_string()))
        }));
        let key = STANDARD.encode(public(key.public_key().as_ref()));
        Ok(format!("@cert-authority {} {KIND} {key} bramble-{}", hosts.join(","), cluster.name))
    }

    /// A certificate for the server of this node with this public key, a line of a `.pub` file. Names and times are the
    /// head's to say.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn certify(
        &self,
        cluster: &Cluster,
        node: &Name,
        key: &str,
        now: Millis,
    ) -> Result<HostCertificate, String> {
        let authority = self.0.as_ref().map_err(Clone::clone)?;
        let key = key_of(key).ok_or("its host key is no public key of Ed25519")?;
        let names = principals(cluster, node).ok_or("it is not in the repository")?;
        let (nonce, serial) = (random::bytes(), random::number());
        let names = names.iter().fold(Blob::default(), Blob::string);
        let now = now / 1000;
        let mut signed = Blob::default().string(CERTIFICATE).string(nonce).string(key).number(serial);
        signed.0.extend(HOST.to_be_bytes());
        let signed = signed
            .string(format!("bramble {node}"))
            .string(names.0)
            .number(now.saturating_sub(SKEW))
            .number(now + WEEK)
            // Critical options, extensions, and what is reserved: a host has none.
            .string("")
            .string("")
            .string("")
            .string(public(authority.public_key().as_ref()));
        let signature = Blob::default().string(KIND).string(authority.sign(&signed.0)).0;
        let certificate = format!("{CERTIFICATE} {} {node}", STANDARD.encode(signed.string(signature).0));
        tracing::info!(%node, serial, "its SSH host key is signed");
        Ok(HostCertificate { certificate, renew_at: (now + RENEW) * 1000 })
    }
}

#[cfg(test)]
mod tests;
