//! The issuer: an intermediate CA of a year, which signs the head's and the agents' certificates. What may change is in its
//! constraints, and not in the root's: it is made anew when the head has other names, and in time.
//!
//! Certificates of one that was replaced are taken for as long as they last, which is a day.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use bramble_seal::Vault;
use bramble_system::files;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData,
};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use time::{Duration, OffsetDateTime};

use super::root::{Permitted, Place, Root, is_its_key, key, short};
use super::{HEAD, NODES, SKEW, failed};
use crate::error::Error;

/// Its life, in days.
const DAYS: i64 = 365;
/// One that was replaced is known for so long: longer than a certificate of it lasts.
const KNOWN: Duration = Duration::days(2);

/// The issuer of a root, and those before it.
pub(super) struct Issuers {
    pub(super) issuer: Issuer<'static, KeyPair>,
    /// The newest, and then those that it replaced, of which certificates may last.
    pub(super) certificates: Vec<CertificateDer<'static>>,
    pub(super) permitted: Permitted,
    /// When it is to be made anew, or the next of those that it replaced is known no more, in seconds since the epoch.
    pub(super) renew: i64,
}

/// What is looked at of a certificate.
struct Seen {
    since: i64,
    until: i64,
    permitted: Option<Permitted>,
}

/// Looks at a certificate that this root has signed.
fn seen(der: &[u8], root: &Root) -> Option<Seen> {
    let (_, parsed) = x509_parser::parse_x509_certificate(der).ok()?;
    let root_key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, root.issuer.key().der_bytes());
    root_key.verify(parsed.tbs_certificate.as_ref(), &parsed.signature_value.data).ok()?;
    let validity = parsed.validity();
    Some(Seen {
        since: validity.not_before.timestamp(),
        until: validity.not_after.timestamp(),
        permitted: Permitted::of(&parsed),
    })
}

/// Of these, the newest first, those of which a certificate may last: each but the first is known for a while after the one
/// before it was made. And when the next of those falls out.
fn lasting(
    certificates: impl IntoIterator<Item = CertificateDer<'static>>,
    root: &Root,
    now: i64,
) -> (Vec<CertificateDer<'static>>, i64) {
    let mut replaced = None;
    let (mut kept, mut next) = (Vec::new(), i64::MAX);
    for der in certificates {
        let Some(seen) = seen(&der, root) else { continue };
        let until = replaced.map_or(seen.until, |at: i64| seen.until.min(at + KNOWN.whole_seconds()));
        if now < until {
            kept.push(der);
            next = if replaced.is_some() { next.min(until) } else { next };
        }
        replaced = Some(seen.since + SKEW.whole_seconds());
    }
    (kept, next)
}

/// What an issuer of a head of these names may sign.
fn wanted(root: &Root, names: &[String]) -> Permitted {
    let own = [HEAD, NODES, "localhost"].map(str::to_owned);
    let known = names.iter().filter(|name| root.allows(name));
    let (addresses, names): (Vec<&String>, Vec<&String>) = known.partition(|name| name.parse::<IpAddr>().is_ok());
    let addresses = addresses.into_iter().filter_map(|address| address.parse().ok());
    let addresses = [IpAddr::V4(Ipv4Addr::LOCALHOST)].into_iter().chain(addresses);
    let networks = addresses.map(|address| (address, if address.is_ipv4() { 32 } else { 128 }));
    Permitted::new(own.into_iter().chain(names.into_iter().cloned()), networks)
}

impl Issuers {
    /// The issuer of this root for a head of these names: as it lies there, or made anew. `None` of a root that signs
    /// alone. Where it cannot be kept it is good until the head ends.
    ///
    /// # Errors
    /// When none can be made.
    pub(super) fn settle(
        folder: &Path,
        vault: &Vault,
        place: Place,
        root: &Root,
        names: &[String],
    ) -> Result<Option<Self>, Error> {
        if root.signs_alone {
            return Ok(None);
        }
        let now = OffsetDateTime::now_utc();
        let wanted = wanted(root, names);
        let listed = fs::read(folder.join(place.issuers)).unwrap_or_default();
        let listed: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&listed).flatten().collect();
        if let Some(found) = Self::found(folder, vault, place, root, &listed, &wanted, now) {
            return Ok(Some(found));
        }
        let (new, key) = make(root, &wanted, now)?;
        let (certificates, next) = lasting([new.clone()].into_iter().chain(listed), root, now.unix_timestamp());
        let text: String = certificates.iter().map(|der| pem(der)).collect();
        let path = folder.join(place.issuers);
        let kept = vault.write(place.issuer_key, key.serialize_pem().as_bytes()).map_err(Error::from).and_then(|()| {
            files::replace(&path, text.as_bytes()).map_err(Error::file("cannot write the CA's issuer", &path))
        });
        if let Err(error) = kept {
            tracing::error!(error = bramble_system::sentence(&error), "the CA's issuer is not kept");
        }
        let issuer = Issuer::from_ca_cert_der(&new, key).map_err(failed)?;
        let renew = (now + Duration::days(DAYS * 2 / 3)).unix_timestamp().min(next);
        Ok(Some(Issuers { issuer, certificates, permitted: wanted, renew }))
    }

    /// As it lies there, where that is still what is wanted.
    fn found(
        folder: &Path,
        vault: &Vault,
        place: Place,
        root: &Root,
        listed: &[CertificateDer<'static>],
        wanted: &Permitted,
        now: OffsetDateTime,
    ) -> Option<Self> {
        let newest = listed.first()?;
        let seen = seen(newest, root)?;
        let renew = seen.since + (seen.until - seen.since) * 2 / 3;
        let now = now.unix_timestamp();
        if seen.permitted.as_ref() != Some(wanted) || now < seen.since || now >= renew {
            return None;
        }
        // What does not open or fit is made anew: nothing hangs on this one key.
        let key = key(vault, &folder.join(place.issuer_key))
            .inspect_err(|error| tracing::error!(%error, "the CA's issuer is made anew"))
            .ok()?;
        let (_, parsed) = x509_parser::parse_x509_certificate(newest).ok()?;
        if !is_its_key(&parsed, &key) {
            return None;
        }
        let issuer = Issuer::from_ca_cert_der(newest, key).ok()?;
        let (certificates, next) = lasting(listed.to_vec(), root, now);
        Some(Issuers { issuer, certificates, permitted: wanted.clone(), renew: renew.min(next) })
    }
}

/// A new one, in memory.
pub(super) fn make(
    root: &Root,
    permitted: &Permitted,
    now: OffsetDateTime,
) -> Result<(CertificateDer<'static>, KeyPair), Error> {
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("bramble issuer {}", short(&key)));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.name_constraints = Some(permitted.constraints());
    params.use_authority_key_identifier_extension = true;
    params.not_before = now - SKEW;
    params.not_after = now + Duration::days(DAYS);
    let certificate = params.signed_by(&key, &root.issuer).map_err(failed)?;
    Ok((certificate.der().clone(), key))
}

/// A certificate as text (RFC 7468, section 5).
pub(super) fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}
