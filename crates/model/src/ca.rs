//! The cluster's CA, as the API tells it. `GET /v1/ca`.

use serde::{Deserialize, Serialize};

use crate::names::{Digest, Name};
use crate::section::Ends;
use crate::subject::Subject;
use crate::timeline::Millis;

/// The CAs that are trusted, and a rotation that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaStatus {
    /// The first is the one that the head's own certificate is of.
    pub roots: Vec<CaRoot>,
    pub rotation: Option<CaRotation>,
}

/// A CA that is trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaRoot {
    /// SHA-256 of its certificate.
    pub fingerprint: Digest,
    pub since: Millis,
    pub until: Millis,
    /// An issuer of a year signs in its name. One of a release before signs itself.
    pub has_issuer: bool,
}

/// A rotation: the next CA takes the first one's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaRotation {
    pub since: Millis,
    /// It does not end by itself before this time.
    pub until: Millis,
    /// Nodes that trust the next one.
    pub moved: Vec<Name>,
    /// What would not find the head, were it to end now.
    pub losses: Vec<CaLoss>,
}

/// Something that knows the old CA alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaLoss {
    pub subject: Subject,
    pub reason: String,
    pub ends: Ends,
}

/// The end of a rotation. `POST /v1/ca/finish`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaFinish {
    /// SHA-256 of the certificate of the CA that is to take the first one's place: where the next one is another, it is
    /// refused.
    pub next: Digest,
    /// What may be lost with the old one: where something else would be, it is refused.
    #[serde(default)]
    pub losing: Vec<Subject>,
}

/// The header in which the head names the CAs that it has, by the SHA-256 of their certificates, with commas between: a
/// command line that knows others asks for them, over a connection that one that it knows has verified.
pub const ROOTS: &str = "bramble-ca";

/// The header with the signature of what [`ROOTS`] names, in hex: ECDSA with P-256 and SHA-256, in ASN.1, of [`message`],
/// by the CA that is named first. An issuer signs no such list: whoever stole one leads nobody over to another CA.
pub const ROOTS_SIGNATURE: &str = "bramble-ca-signature";

/// What is signed of the CAs that the cluster has, by the SHA-256 of their certificates, in the order in which they are
/// told. No time and no life is signed that begins like this.
#[must_use]
pub fn message(roots: &[Digest]) -> String {
    let roots: Vec<String> = roots.iter().map(Digest::to_string).collect();
    format!("bramble: the CAs are {}", roots.join(" "))
}

/// Whether a list of CAs would lead back: it leaves out the one that takes the first one's place, of those that are known,
/// and keeps the first. What was signed before a rotation could be told again in it.
#[must_use]
pub fn leads_back(known: &[Digest], told: &[Digest]) -> bool {
    let Some(first) = known.first() else { return false };
    told.contains(first)
        && told.iter().all(|root| known.contains(root))
        && !known.iter().all(|root| told.contains(root))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_before_a_rotation_leads_back_and_none_of_after_it() {
        let [old, next, other] = [1, 2, 3].map(|n| Digest([n; 32]));
        assert!(leads_back(&[old, next], &[old]));
        let others: [(&[Digest], &[Digest]); 5] = [
            (&[old], &[old, next]),
            (&[old, next], &[next]),
            (&[old, next], &[old, next]),
            (&[old, next], &[old, other]),
            (&[], &[old]),
        ];
        for (known, told) in others {
            assert!(!leads_back(known, told), "{known:?} {told:?}");
        }
        assert_eq!(message(&[old, next]), format!("bramble: the CAs are {old} {next}"));
    }
}
