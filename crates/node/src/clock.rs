//! A clock that is too far off for TLS: the head's signed time sets it.
//!
//! Many boards have no clock that runs without power, and a dead battery says 1970 or 2001. The answer is
//! signed with the CA's key over a challenge of this moment: whoever else is on the wire can neither make one
//! up nor say again what was said before.

use std::io;
use std::time::Instant;

use bramble_model::agent::SignedTime;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustix::time::{ClockId, Timespec, clock_settime};
use rustls::CertificateError::{BadSignature, Expired, ExpiredContext, NotValidYet, NotValidYetContext, UnknownIssuer};

use crate::trust::Trust;
use crate::{Error, ThisBoot, http};

/// Whether the connection failed because of a time: of the head's certificate, or of this node's own.
pub(crate) fn is_the_cause(error: &Error) -> bool {
    let source = match error {
        Error::OutOfTime => return true,
        Error::Reach { source, .. } => source,
        _ => return false,
    };
    let tls = source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(
        tls,
        Some(rustls::Error::InvalidCertificate(
            Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. }
        ))
    )
}

/// Whether the head takes this node's certificate for one that has ended, or has not begun. It says so after the
/// handshake, which is complete for this side by then.
pub(crate) fn is_why_the_head_refuses(error: &io::Error) -> bool {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(tls, Some(rustls::Error::AlertReceived(rustls::AlertDescription::CertificateExpired)))
}

/// Whether the head is of no CA that this node trusts: the cluster's was rotated while it was away, or it is another
/// cluster's.
pub(crate) fn is_of_no_known_ca(error: &Error) -> bool {
    let Error::Reach { source, .. } = error else { return false };
    let tls = source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(tls, Some(rustls::Error::InvalidCertificate(UnknownIssuer | BadSignature)))
}

/// Whether the head knows no CA that signed this node's certificate: it was rotated since. Said after the handshake, too.
pub(crate) fn is_of_no_ca_of_the_head(error: &io::Error) -> bool {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    // One of the same name, with another key, finds the signature wrong (RFC 8446, section 6.2).
    matches!(
        tls,
        Some(rustls::Error::AlertReceived(
            rustls::AlertDescription::UnknownCA | rustls::AlertDescription::DecryptError
        ))
    )
}

/// Sets the clock by the head's time, which a CA that this node trusts has signed. A head that says an earlier time than
/// that CA was made has lost its own. Gives by how many seconds it was off.
pub(crate) async fn set(boot: &ThisBoot, trust: &Trust) -> Result<i64, Error> {
    let clock = |reason: String| Error::Clock(reason);
    let mut random = [0; 16];
    SystemRandom::new().fill(&mut random).map_err(|_| clock("this machine gives no random numbers".into()))?;
    let challenge: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let start = Instant::now();
    let answer = http::get(boot, &format!("/v1/time/{challenge}")).await.map_err(clock)?;
    let answer: SignedTime =
        serde_json::from_slice(&answer).map_err(|_| clock("the head's answer is malformed".into()))?;
    let Some(signer) = trust.signer(&SignedTime::message(&challenge, answer.at), &answer.signature) else {
        return Err(clock("the time was not signed by this image's head".into()));
    };
    if answer.at.cast_signed() / 1000 < signer.since {
        return Err(clock("the head's own clock stands before its CA was made".into()));
    }
    let now = answer.at + u64::try_from(start.elapsed().as_millis() / 2).unwrap_or(0);
    let off = now.cast_signed() / 1000 - bramble_system::now().cast_signed() / 1000;
    let time = Timespec { tv_sec: now.cast_signed() / 1000, tv_nsec: (now % 1000).cast_signed() * 1_000_000 };
    clock_settime(ClockId::Realtime, time).map_err(|error| clock(format!("it cannot be set: {error}")))?;
    Ok(off)
}

/// Whether the CA with this public key signed a message; the signature is in hex.
pub(crate) fn is_signed_by(message: &str, signature: &str, key: &[u8]) -> bool {
    let hex = |at: usize| u8::from_str_radix(signature.get(at..at + 2)?, 16).ok();
    let signature: Option<Vec<u8>> = (0..signature.len()).step_by(2).map(hex).collect();
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key);
    signature.is_some_and(|signature| key.verify(message.as_bytes(), &signature).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{KeyPair, PublicKeyData, SigningKey};

    fn is_signed(answer: &SignedTime, challenge: &str, key: &[u8]) -> bool {
        is_signed_by(&SignedTime::message(challenge, answer.at), &answer.signature, key)
    }

    fn signed(key: &KeyPair, challenge: &str, at: u64) -> SignedTime {
        let signature = key.sign(SignedTime::message(challenge, at).as_bytes()).expect("signed");
        SignedTime { at, signature: signature.iter().map(|byte| format!("{byte:02x}")).collect() }
    }

    #[test]
    fn only_the_head_says_the_time_and_only_once() {
        let (head, other) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
        let answer = signed(&head, "c1", 1_700_000_000_000);
        assert!(is_signed(&answer, "c1", head.der_bytes()));
        assert!(!is_signed(&answer, "c2", head.der_bytes()), "an answer to an earlier challenge");
        assert!(!is_signed(&answer, "c1", other.der_bytes()), "another head's");
        assert!(
            !is_signed(&SignedTime { at: answer.at + 1, ..answer.clone() }, "c1", head.der_bytes()),
            "a changed one"
        );
        for torn in ["", "0", "zz", "30é"] {
            assert!(!is_signed(&SignedTime { signature: torn.into(), ..answer.clone() }, "c1", head.der_bytes()));
        }
    }
}
