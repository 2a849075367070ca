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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaFinish {
    /// Whatever is lost with the old one: without this it is refused where there is something.
    #[serde(default)]
    pub regardless: bool,
}

/// The header in which the head names the CAs that it has, by the SHA-256 of their certificates, with commas between: a
/// command line that knows others asks for them, over a connection that one that it knows has verified.
pub const ROOTS: &str = "bramble-ca";
