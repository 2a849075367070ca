//! A root: what agents and people trust. Of the release before it signs certificates itself, and may sign no issuer.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use bramble_model::names::Digest;
use bramble_seal::Vault;
use bramble_system::files;
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DnType, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    NameConstraints, PublicKeyData,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest as _, Sha256};
use time::{Duration, OffsetDateTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use super::{SKEW, failed};
use crate::error::Error;

const YEARS: i64 = 10;

/// Addresses that no network gives to one host of the world alone: a root is good for these whatever the head's own are.
const PRIVATE: [(IpAddr, u8); 9] = [
    (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 0)), 8),
    (IpAddr::V4(Ipv4Addr::new(172, 16, 0, 0)), 12),
    (IpAddr::V4(Ipv4Addr::new(192, 168, 0, 0)), 16),
    (IpAddr::V4(Ipv4Addr::new(100, 64, 0, 0)), 10),
    (IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)), 16),
    (IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8),
    (IpAddr::V6(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0)), 7),
    (IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10),
    (IpAddr::V6(Ipv6Addr::LOCALHOST), 128),
];

/// Whose CA it is: what its names are below, for all its years.
#[derive(Debug, Clone, Default)]
pub struct Home {
    /// The cluster's domain.
    pub domain: String,
    /// The head's addresses.
    pub addresses: Vec<IpAddr>,
}

/// The names that a certificate of a CA may be for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Permitted {
    /// Each with all below it.
    dns: BTreeSet<String>,
    /// Address and mask, one after the other.
    addresses: BTreeSet<Vec<u8>>,
}

impl Permitted {
    /// These names and all below them, and these networks.
    pub(super) fn new(
        names: impl IntoIterator<Item = String>,
        networks: impl IntoIterator<Item = (IpAddr, u8)>,
    ) -> Self {
        let network = |(address, prefix)| match CidrSubnet::from_addr_prefix(address, prefix) {
            CidrSubnet::V4(address, mask) => [&address[..], &mask].concat(),
            CidrSubnet::V6(address, mask) => [&address[..], &mask].concat(),
        };
        let dns = names.into_iter().filter(|name| !name.is_empty()).map(|name| name.to_ascii_lowercase());
        Permitted { dns: dns.collect(), addresses: networks.into_iter().map(network).collect() }
    }

    /// As a certificate says; `None` where it says nothing: then each name is permitted.
    pub(super) fn of(certificate: &X509Certificate<'_>) -> Option<Self> {
        let constraints = certificate.name_constraints().ok()??.value;
        let mut permitted = Permitted::default();
        for subtree in constraints.permitted_subtrees.as_ref()? {
            match &subtree.base {
                GeneralName::DNSName(name) => drop(permitted.dns.insert((*name).to_ascii_lowercase())),
                GeneralName::IPAddress(bytes) => drop(permitted.addresses.insert(bytes.to_vec())),
                _ => {}
            }
        }
        Some(permitted)
    }

    /// Whether a certificate may have this name, or this address. Of a kind that is not named there may be any.
    pub(super) fn allows(&self, name: &str) -> bool {
        let Ok(address) = name.parse::<IpAddr>() else {
            let name = name.to_ascii_lowercase();
            let is_below =
                |of: &String| name.strip_suffix(of.as_str()).is_some_and(|of| of.is_empty() || of.ends_with('.'));
            return self.dns.is_empty() || self.dns.iter().any(is_below);
        };
        let address = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let holds = |network: &Vec<u8>| {
            let (base, mask) = network.split_at(network.len() / 2);
            base.len() == address.len()
                && base.iter().zip(mask).zip(&address).all(|((base, mask), byte)| base & mask == byte & mask)
        };
        self.addresses.is_empty() || self.addresses.iter().any(holds)
    }

    pub(super) fn constraints(&self) -> NameConstraints {
        let dns = self.dns.iter().cloned().map(GeneralSubtree::DnsName);
        let subnet = |bytes: &Vec<u8>| {
            let (address, mask) = bytes.split_at(bytes.len() / 2);
            let v4 = || Some(CidrSubnet::V4(address.try_into().ok()?, mask.try_into().ok()?));
            let v6 = || Some(CidrSubnet::V6(address.try_into().ok()?, mask.try_into().ok()?));
            v4().or_else(v6).map(GeneralSubtree::IpAddress)
        };
        let networks = self.addresses.iter().filter_map(subnet);
        NameConstraints { permitted_subtrees: dns.chain(networks).collect(), excluded_subtrees: Vec::new() }
    }
}

/// Where a root lies in the folder of the keys.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) key: &'static str,
    pub(super) certificate: &'static str,
    pub(super) issuer_key: &'static str,
    pub(super) issuers: &'static str,
}

/// The cluster's.
pub(super) const FIRST: Place =
    Place { key: "ca.key", certificate: "ca.pem", issuer_key: "issuer.key", issuers: "issuer.pem" };
/// The one that takes its place.
pub(super) const NEXT: Place =
    Place { key: "next-ca.key", certificate: "next-ca.pem", issuer_key: "next-issuer.key", issuers: "next-issuer.pem" };

/// A root, with its key.
pub(super) struct Root {
    pub(super) pem: String,
    pub(super) der: CertificateDer<'static>,
    /// SHA-256 of the certificate.
    pub(super) fingerprint: Digest,
    pub(super) issuer: Issuer<'static, KeyPair>,
    /// It signs no issuer: agents' and the head's certificates are its own.
    pub(super) signs_alone: bool,
    pub(super) permitted: Option<Permitted>,
    /// Seconds since the epoch.
    pub(super) since: i64,
    pub(super) until: i64,
}

/// A new one, not written anywhere: key and certificate, PEM.
pub(super) fn make(home: &Home) -> Result<(String, String), Error> {
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("bramble root {}", short(&key)));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let own = home.addresses.iter().map(|address| (*address, if address.is_ipv4() { 32 } else { 128 }));
    let names = ["bramble", "localhost", &home.domain].map(str::to_owned);
    params.name_constraints = Some(Permitted::new(names, PRIVATE.into_iter().chain(own)).constraints());
    params.not_before = OffsetDateTime::now_utc() - SKEW;
    params.not_after = OffsetDateTime::now_utc() + Duration::days(365 * YEARS);
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok((key.serialize_pem(), certificate.pem()))
}

/// The first digits of a key's SHA-256: no two CAs are called the same.
pub(super) fn short(key: &KeyPair) -> String {
    Digest(Sha256::digest(key.der_bytes()).into()).to_string()[..8].to_owned()
}

fn wrong(path: &Path, problem: &'static str) -> Error {
    Error::Key { path: path.to_owned(), problem }
}

/// A text of the folder of the keys, which has to be there.
fn text(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => wrong(path, "it is missing, and the rest of the CA is there"),
        io::ErrorKind::InvalidData => wrong(path, "it is damaged: this is no text"),
        _ => Error::file("cannot read the CA", path)(error),
    })
}

/// A sealed key of the folder, which has to be there.
pub(super) fn key(vault: &Vault, path: &Path) -> Result<KeyPair, Error> {
    let name = path.file_name().and_then(|name| name.to_str()).expect("a name of ours");
    let pem = match vault.read(name) {
        Err(error) if error.is_no_file() => return Err(wrong(path, "it is missing, and the rest of the CA is there")),
        read => String::from_utf8(read?).map_err(|_| wrong(path, "it is damaged: this is no text"))?,
    };
    KeyPair::from_pem(&pem).map_err(|_| wrong(path, "it is damaged: this is no private key"))
}

impl Root {
    /// # Errors
    /// When a file of it is missing, damaged, or not the other one's.
    pub(super) fn read(folder: &Path, vault: &Vault, place: Place) -> Result<Self, Error> {
        let (key_path, path) = (folder.join(place.key), folder.join(place.certificate));
        let pem = text(&path)?;
        let key = key(vault, &key_path)?;
        let damaged = || wrong(&path, "it is damaged: this is no certificate of a CA");
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| damaged())?;
        let (signs_alone, permitted, since, until) = {
            let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|_| damaged())?;
            if !is_its_key(&parsed, &key) {
                return Err(wrong(&key_path, "it is not the key of the CA's certificate beside it"));
            }
            let constraints = parsed.basic_constraints().map_err(|_| damaged())?.ok_or_else(damaged)?.value;
            let validity = parsed.validity();
            (
                constraints.path_len_constraint == Some(0),
                Permitted::of(&parsed),
                validity.not_before.timestamp(),
                validity.not_after.timestamp(),
            )
        };
        let issuer = Issuer::from_ca_cert_pem(&pem, key).map_err(|_| damaged())?;
        let fingerprint = Digest(Sha256::digest(&der).into());
        Ok(Root { pem, der, fingerprint, issuer, signs_alone, permitted, since, until })
    }

    pub(super) fn allows(&self, name: &str) -> bool {
        self.permitted.as_ref().is_none_or(|permitted| permitted.allows(name))
    }
}

/// Makes the cluster's root, where there is none.
pub(super) fn make_first(folder: &Path, vault: &Vault, home: &Home) -> Result<(), Error> {
    let path: PathBuf = folder.join(FIRST.certificate);
    if path.exists() {
        return Ok(());
    }
    let (key, certificate) = make(home)?;
    // The key first: a CA certificate that exists has its key beside it.
    vault.write(FIRST.key, key.as_bytes())?;
    files::replace(&folder.join(super::UNUSED), b"no head has had a store with this CA yet\n")
        .map_err(Error::file("cannot write to", folder))?;
    files::replace(&path, certificate.as_bytes()).map_err(Error::file("cannot write the CA", &path))
}

/// Whether this is the key of that certificate.
pub(super) fn is_its_key(certificate: &X509Certificate<'_>, key: &KeyPair) -> bool {
    *certificate.public_key().subject_public_key.data == *key.der_bytes()
}
