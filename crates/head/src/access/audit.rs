//! The audit log: every change that someone made or tried, who, from where, and how it went. On disk before
//! the change is made.

use axum::http::Method;
use bramble_model::api::Audit;
use bramble_system::now;

use super::Actor;
use crate::{Error, Head};

/// The longest description, in characters.
const LONGEST: usize = 300;

/// A change in words. Of what may hold a secret only the name is told.
pub(super) fn describe(method: &Method, path: &str, body: &[u8]) -> String {
    let secret = path.starts_with("/v1/users/");
    let body = if secret || body.is_empty() { String::new() } else { format!(" {}", String::from_utf8_lossy(body)) };
    let text = format!("{method} {path}{body}");
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect()
}

impl Head {
    /// Writes down what someone does.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub(crate) fn audit(&self, actor: &Actor, what: &str, result: &str) -> Result<u64, Error> {
        let entry = Audit {
            number: 0,
            at: now(),
            who: actor.name.clone(),
            from: actor.from.clone(),
            what: what.to_owned(),
            result: result.to_owned(),
        };
        tracing::info!(who = entry.who, from = entry.from, what, result, "audit");
        self.store.add_audit(entry)
    }

    /// Writes down how it went.
    pub(crate) fn audit_result(&self, number: u64, result: &str) {
        if let Err(error) = self.store.end_audit(number, result) {
            tracing::error!(%error, number, result, "the audit log has no result of this");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_written_down() {
        let text = describe(&Method::PUT, "/v1/users/ann", br#"{"password":"hunter2"}"#);
        assert_eq!(text, "PUT /v1/users/ann");
        assert_eq!(describe(&Method::POST, "/v1/nodes/w1/power", b"\"off\""), "POST /v1/nodes/w1/power \"off\"");
        assert_eq!(describe(&Method::POST, "/x", b"a\nb"), "POST /x a b", "one line stays one line");
    }
}
