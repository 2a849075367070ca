//! What a request for a certificate says of its key, and what a certificate says of its owner.

use bramble_model::agent::Binding;
use bramble_model::names::{Digest, Name};
use rcgen::CertificateSigningRequestParams;
use sha2::{Digest as _, Sha256};
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::GeneralName;

use super::{NODES, failed};
use crate::error::Error;

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

/// The node that a certificate is for, and its key's fingerprint. `None` where its names do not agree: whoever signed it was
/// not this head.
pub(crate) fn whose(der: &[u8]) -> Option<(Name, String)> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let name: Name = certificate.subject().iter_common_name().next()?.as_str().ok()?.parse().ok()?;
    // One of before has none; in all others it is what the issuer's constraints hold for.
    if let Some(names) = certificate.subject_alternative_name().ok()? {
        let [GeneralName::DNSName(known)] = names.value.general_names[..] else { return None };
        if known != name_of(&name) {
            return None;
        }
    }
    Some((name, fingerprint_of(&certificate.tbs_certificate.subject_pki)))
}

/// A node's name in its certificate.
pub(super) fn name_of(node: &Name) -> String {
    format!("{node}.{NODES}")
}
