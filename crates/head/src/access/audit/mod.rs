//! The audit log: every change that someone made, who, from where, and how it went; on disk before a change that lasts is
//! made. Each entry is chained to the one before ([`bramble_model::audit`]). What was refused, and what changes nothing, is
//! counted beside it ([`refusals`]), and can push nothing out of here; copies of both leave the machine ([`copy`]).

pub(crate) mod copy;
pub(crate) mod refusals;

use std::collections::BTreeMap;

use axum::http::Method;
use bramble_model::audit::{Chain, Entry, Link, Page, Position, Step};
use bramble_model::timeline::Millis;
use bramble_store::{Blocking, Expect, Key, OnLoss, Record, Store, Table, Version, Why, Write, put};
use bramble_system::now;
use serde::Deserialize;

use crate::error::Error;
use crate::readable::Readable;

/// Number → what someone did, or how it went.
pub(crate) struct AuditLog;

impl Record for AuditLog {
    type Key = u64;
    type Value = Link;
    const TABLE: Table = Table::new("audit");
    const FORM: u32 = 2;
    const WHAT: &'static str = "entry of the audit log";
    const ON_LOSS: OnLoss = OnLoss::Wait;

    fn key(key: &u64) -> Key {
        Key::Number(*key)
    }

    fn older(form: u32, json: &[u8]) -> Result<Link, Why> {
        let 1 = form else { return Err(Why::UnknownForm { form }) };
        let Form1 { number, at, who, from, what, result } = serde_json::from_slice(json)?;
        Ok(Link { number, at, before: None, step: Step::Did { who, from, what, result } })
    }
}

/// Frozen: form 1, before entries were chained. How it went was written over it.
#[derive(Deserialize)]
struct Form1 {
    number: u64,
    at: Millis,
    who: String,
    from: String,
    what: String,
    result: String,
}

/// `chain` → where the chain begins and ends. One that is lost begins a new chain, after what is there.
pub(crate) struct Chains;

impl Record for Chains {
    type Key = String;
    type Value = Chain;
    const TABLE: Table = Table::new("audit-chain");
    const FORM: u32 = 1;
    const WHAT: &'static str = "the ends of the audit log's";
    const ON_LOSS: OnLoss = OnLoss::BeginAnew;
}

const CHAIN: &str = "chain";

/// Entries that are kept: of a change there are mostly two.
const KEPT: u64 = 100_000;
/// Entries in one answer.
const PAGE: u64 = 1000;
/// The longest description, in characters.
const LONGEST: usize = 300;
/// The longest text of an entry, in characters: an errand names its nodes.
const LONGEST_TEXT: usize = 1000;

/// The chain and its version; one that has yet to begin does so after the entries of a former release.
fn chain(store: &Store) -> Result<(Chain, Version), Error> {
    let (chain, version) = store.blocking().read_with_version::<Chains>(&CHAIN.to_owned())?;
    let chain = match chain {
        Some(chain) => chain,
        None => Chain::new(store.blocking().last_number(AuditLog::TABLE)? + 1),
    };
    Ok((chain, version))
}

/// What is removed that has expired: the chain goes on to begin where it did, by its anchor.
fn expire(store: &Store, chain: &mut Chain, kept: u64) -> Result<Option<Write>, Error> {
    let from = (chain.last + 1).saturating_sub(kept);
    if from <= chain.first {
        // Of a former release, or none.
        return Ok((from > 0).then_some(Write::RemoveBefore { table: AuditLog::TABLE, number: from }));
    }
    let read = |number: u64| match store.blocking().read::<AuditLog>(&number) {
        Err(bramble_store::Error::Unreadable(_)) => Ok(None),
        read => read,
    };
    // One of the two says it; where neither can be read, that is told of both.
    chain.anchor = match read(from)? {
        Some(first) => first.before,
        None => read(from - 1)?.map(|expired| expired.hash()),
    };
    chain.first = from;
    Ok(Some(Write::RemoveBefore { table: AuditLog::TABLE, number: from }))
}

/// Adds an entry, and gives its number.
fn add(store: &Store, step: &Step, lasts: bool, kept: u64) -> Result<u64, Error> {
    let commit = if lasts { Blocking::commit } else { Blocking::commit_even_in_memory };
    loop {
        let (mut chain, version) = chain(store)?;
        let link = chain.next(now(), step.clone());
        chain.takes(&link);
        let mut writes = vec![put::<AuditLog>(&link.number, &link)];
        writes.extend(expire(store, &mut chain, kept)?);
        writes.push(put::<Chains>(&CHAIN.to_owned(), &chain));
        let expects = [
            Expect { table: Chains::TABLE, key: CHAIN.into(), version },
            // One that is there and cannot be read is not written over either.
            Expect { table: AuditLog::TABLE, key: link.number.into(), version: Version::ABSENT },
        ];
        match commit(store.blocking(), &expects, &writes) {
            Ok(_) => return Ok(link.number),
            // Someone else's entry took this place.
            Err(bramble_store::Error::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// What someone does, as one line, without what a terminal would obey.
fn line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_TEXT).collect()
}

/// Writes down what someone does; gives the entry's number. On disk when this returns, where it is of a change that
/// `lasts`.
///
/// # Errors
/// When the store cannot be written.
pub(super) fn begin(
    store: &Store,
    (who, from): (&str, &str),
    what: &str,
    result: &str,
    lasts: bool,
) -> Result<u64, Error> {
    tracing::info!(who, from, what, result, "audit");
    let step = Step::Did { who: line(who), from: from.to_owned(), what: line(what), result: line(result) };
    add(store, &step, lasts, KEPT)
}

/// Writes down how it went.
pub(super) fn end(store: &Store, number: u64, result: &str) {
    let step = Step::Ended { of: number, result: line(result) };
    if let Err(error) = add(store, &step, false, KEPT) {
        tracing::error!(%error, number, result, "the audit log has no result of this");
    }
}

/// Entries as lines: how each went is in it, where that is among them.
fn told(links: impl IntoIterator<Item = Link>) -> Vec<Entry> {
    let mut lines: BTreeMap<u64, Entry> = BTreeMap::new();
    for Link { number, at, step, .. } in links {
        match step {
            Step::Did { who, from, what, result } => {
                lines.insert(number, Entry { number, at, who, from, what, result, folded: None });
            }
            Step::Ended { of, result } => {
                if let Some(line) = lines.get_mut(&of) {
                    line.result = result;
                }
            }
        }
    }
    lines.into_values().collect()
}

/// The latest changes, oldest first.
///
/// # Errors
/// When the store cannot be read.
pub(crate) fn latest(store: &Store, most: usize) -> Result<Readable<Entry>, Error> {
    let mut read = most.saturating_mul(2);
    loop {
        let found = store.blocking().read_last::<AuditLog>(read)?;
        let there = found.readable.len() + found.unreadable.len();
        let mut lines = told(found.readable.into_values());
        // Those before may have ended among the latest.
        if lines.len() >= most || there < read {
            let lacks = found.unreadable.len();
            return Ok(Readable { all: lines.split_off(lines.len().saturating_sub(most)), lacks });
        }
        read = read.saturating_mul(2).max(2);
    }
}

/// The entries after this number, as they are, with the ends of the chain that they are of.
///
/// # Errors
/// When the store cannot be read.
pub(crate) fn page(store: &Store, after: u64) -> Result<Page, Error> {
    loop {
        let (chain, _) = chain(store)?;
        let end = chain.last.min(after.saturating_add(PAGE));
        let links = links(store, after, end)?;
        // Unless some have expired in between.
        if self::chain(store)?.0.first == chain.first {
            // What cannot be read is missing there, and more may come after it.
            return Ok(Page { chain, links, next: end.max(after) });
        }
    }
}

/// The readable entries after one number, up to another.
fn links(store: &Store, after: u64, to: u64) -> Result<Vec<Link>, Error> {
    if to <= after {
        return Ok(Vec::new());
    }
    let read = |number| match store.blocking().read::<AuditLog>(&number) {
        Err(bramble_store::Error::Unreadable(record)) => {
            tracing::debug!(%record, "an entry is left out");
            Ok(None)
        }
        read => read,
    };
    (after + 1..=to).filter_map(|number| read(number).transpose()).collect::<Result<_, _>>().map_err(Error::from)
}

/// The number of the last entry.
pub(super) fn last(store: &Store) -> Result<u64, Error> {
    Ok(chain(store)?.0.last)
}

/// What has been written after this position, at most a page; of how something ended, with what it was.
pub(super) fn news(store: &Store, after: u64) -> Result<(Vec<Entry>, u64), Error> {
    let end = last(store)?.min(after.saturating_add(PAGE));
    let mut lines = Vec::new();
    for Link { number, at, step, .. } in links(store, after, end)? {
        let (step, result) = match step {
            Step::Ended { of, result } => match links(store, of.saturating_sub(1), of)?.pop() {
                Some(begun) => (begun.step, Some(result)),
                None => continue,
            },
            step => (step, None),
        };
        if let Step::Did { who, from, what, result: begun } = step {
            let result = result.unwrap_or(begun);
            lines.push(Entry { number, at, who, from, what, result, folded: None });
        }
    }
    Ok((lines, end.max(after)))
}

/// Up to where there is something.
pub(super) fn position(store: &Store, refusals: &refusals::Refusals) -> Result<Position, Error> {
    Ok(Position { link: last(store)?, refusal: refusals.stamp() })
}

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

#[cfg(test)]
mod tests;
