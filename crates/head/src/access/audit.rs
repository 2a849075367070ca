//! The audit log: every change that someone made or tried, who, from where, and how it went. On disk before a change
//! that lasts is made; what was refused, how it went and what is over when it is done is kept wherever the store is.

use axum::http::Method;
use bramble_model::api::Audit;
use bramble_system::now;

use bramble_store::{Blocking, Expect, Key, OnLoss, Record, Store, Table, Version, Write, put};

use super::door::Actor;
use crate::error::Error;
use crate::readable::Readable;

/// Number → what someone did.
pub(crate) struct AuditLog;

impl Record for AuditLog {
    type Key = u64;
    type Value = Audit;
    const TABLE: Table = Table::new("audit");
    const FORM: u32 = 1;
    const WHAT: &'static str = "entry of the audit log";
    const ON_LOSS: OnLoss = OnLoss::Wait;

    fn key(key: &u64) -> Key {
        Key::Number(*key)
    }
}

/// Entries that are kept.
const KEPT: u64 = 50_000;

/// Adds an entry to the audit log and gives its number.
fn add(store: &Store, mut entry: Audit, lasts: bool) -> Result<u64, Error> {
    let commit = if lasts { Blocking::commit } else { Blocking::commit_even_in_memory };
    loop {
        let number = store.blocking().last_number(AuditLog::TABLE)? + 1;
        entry.number = number;
        let writes = [
            put::<AuditLog>(&number, &entry),
            Write::RemoveBefore { table: AuditLog::TABLE, number: number.saturating_sub(KEPT) },
        ];
        let expect = Expect { table: AuditLog::TABLE, key: number.into(), version: Version::ABSENT };
        match commit(store.blocking(), &[expect], &writes) {
            Ok(_) => return Ok(number),
            // Someone else's entry took this number.
            Err(bramble_store::Error::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The latest entries of the audit log, oldest first.
///
/// # Errors
/// When the store cannot be read.
pub(crate) fn latest(store: &Store, most: usize) -> Result<Readable<Audit>, Error> {
    Ok(Readable::from(store.blocking().read_last::<AuditLog>(most)?).map(|(_, entry)| entry))
}

/// The longest description, in characters.
const LONGEST: usize = 300;

/// Of bodies that may hold a secret, or are empty.
pub(crate) fn nothing(_: &[u8]) -> String {
    String::new()
}

/// The whole body.
pub(crate) fn body(body: &[u8]) -> String {
    String::from_utf8_lossy(body).into_owned()
}

/// The fields of a form, without the session's own word.
pub(crate) fn form(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    text.split('&').filter(|field| !field.starts_with("csrf=")).collect::<Vec<_>>().join("&")
}

/// A change in words, in one line. `told` says what of the body is in it.
pub(crate) fn describe(method: &Method, path: &str, body: &[u8], told: fn(&[u8]) -> String) -> String {
    let body = told(body);
    let space = if body.is_empty() { "" } else { " " };
    let text = format!("{method} {path}{space}{body}");
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect()
}

/// Writes down what someone does; gives the entry's number. On disk when this returns, where it is of a change that
/// `lasts`.
///
/// # Errors
/// When the store cannot be written.
pub(super) fn begin(store: &Store, actor: &Actor, what: &str, result: &str, lasts: bool) -> Result<u64, Error> {
    let entry = Audit {
        number: 0,
        at: now(),
        who: actor.name.clone(),
        from: actor.from.clone(),
        what: what.to_owned(),
        result: result.to_owned(),
    };
    tracing::info!(who = entry.who, from = entry.from, what, result, "audit");
    add(store, entry, lasts)
}

/// Writes down how it went.
pub(super) fn end(store: &Store, number: u64, result: &str) {
    let ended = store.blocking().update_even_in_memory::<AuditLog, ()>(&number, |entry| {
        if let Some(entry) = entry {
            result.clone_into(&mut entry.result);
        }
    });
    if let Err(error) = ended {
        tracing::error!(%error, number, result, "the audit log has no result of this");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_stays_one_line() {
        assert_eq!(describe(&Method::POST, "/x", b"a\nb", body), "POST /x a b");
        assert_eq!(describe(&Method::POST, "/x", b"secret", nothing), "POST /x");
        assert_eq!(describe(&Method::POST, "/x", &[b'a'; 1000], body).chars().count(), LONGEST);
    }
}
