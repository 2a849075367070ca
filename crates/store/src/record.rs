//! What the bytes of a table mean: records, each beside its owner, each with the number of its form.
//!
//! On disk: the form in decimal, a space, JSON. What commit 5b09a28 wrote has no number, and is form 1.
//!
//! ```text
//! of this form ──────────────────────────────▶ read
//! of an older one ── frozen type, conversion ─▶ read; written in this form when it changes
//! of a newer one, or not to be parsed ────────▶ Unreadable: never "absent", and never written over
//! ```

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Blocking, Entry, Error, Expect, Key, Table, Version, Write};

/// What happens to records that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnLoss {
    /// They are set aside and begin anew: the world tells them again.
    BeginAnew,
    /// They wait for a person, who says `bramble store repair`.
    Wait,
}

/// The verb that sets aside what cannot be read.
pub const LOST: &str = "`bramble store repair` lists what cannot be read, and sets it aside";

/// A kind of records.
pub trait Record {
    type Key: Display + FromStr + Ord;
    type Value: Serialize + DeserializeOwned;
    const TABLE: Table;
    /// Counts up when the JSON of a value changes so that a former bramble would misread it, or this one would
    /// misread a former one's. The former type is then frozen, and [`Record::older`] converts it.
    const FORM: u32;
    /// What one is, with the word before its key: `the admission of`.
    const WHAT: &'static str;
    const ON_LOSS: OnLoss;

    /// The key in the table. A numbered table's owner says so here.
    fn key(key: &Self::Key) -> Key {
        Key::Text(key.to_string())
    }

    /// Reads JSON of an older form.
    ///
    /// # Errors
    /// When it is not what that form was.
    fn older(form: u32, json: &[u8]) -> Result<Self::Value, Why> {
        let _ = json;
        Err(Why::UnknownForm { form })
    }
}

/// Why a record cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    #[error("it is of form {form}, and this bramble reads forms up to {known}")]
    Newer { form: u32, known: u32 },
    #[error("there has never been a form {form} of it")]
    UnknownForm { form: u32 },
    #[error("it is damaged ({0})")]
    Damaged(String),
    #[error("its key is none ({0})")]
    Key(String),
}

impl From<serde_json::Error> for Why {
    fn from(error: serde_json::Error) -> Self {
        Why::Damaged(error.to_string())
    }
}

/// A record that is there and cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {key} cannot be read: {why}; {LOST}")]
pub struct Unreadable {
    pub what: &'static str,
    pub table: Table,
    pub key: Key,
    pub why: Why,
    /// What was found: what is set aside is this and no other.
    pub(crate) entry: Entry,
}

impl Unreadable {
    /// A record that was read, and is of no use all the same: what it names is not there.
    pub fn new<R: Record>(key: Key, entry: Entry, why: Why) -> Self {
        unreadable::<R>(key, entry, why)
    }
}

/// All records of a kind.
pub struct All<R: Record> {
    pub readable: BTreeMap<R::Key, R::Value>,
    pub unreadable: Vec<Unreadable>,
}

fn bytes<R: Record>(value: &R::Value) -> Vec<u8> {
    let mut bytes = format!("{} ", R::FORM).into_bytes();
    serde_json::to_writer(&mut bytes, value).expect("records are plain data");
    bytes
}

/// The form and the JSON.
fn opened(bytes: &[u8]) -> Result<(u32, &[u8]), Why> {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    match bytes.get(digits) {
        Some(b' ') if digits > 0 => {
            let form = str::from_utf8(&bytes[..digits]).ok().and_then(|digits| digits.parse().ok());
            Ok((form.ok_or_else(|| Why::Damaged("the number of its form is too long".into()))?, &bytes[digits + 1..]))
        }
        // Before forms had numbers, a record was an object or a text.
        Some(b'{' | b'"') if digits == 0 => Ok((1, bytes)),
        _ => Err(Why::Damaged("it has no form".into())),
    }
}

fn value<R: Record>(bytes: &[u8]) -> Result<R::Value, Why> {
    let (form, json) = opened(bytes)?;
    if form > R::FORM {
        return Err(Why::Newer { form, known: R::FORM });
    }
    if form == R::FORM { Ok(serde_json::from_slice(json)?) } else { R::older(form, json) }
}

fn unreadable<R: Record>(key: Key, entry: Entry, why: Why) -> Unreadable {
    Unreadable { what: R::WHAT, table: R::TABLE, key, why, entry }
}

/// The readable ones of these entries, and the others by name.
fn all_of<R: Record>(entries: impl IntoIterator<Item = (Key, Entry)>) -> All<R> {
    let mut all = All { readable: BTreeMap::new(), unreadable: Vec::new() };
    for (key, entry) in entries {
        let Ok(own) = key.to_string().parse::<R::Key>() else {
            let why = Why::Key(key.to_string());
            all.unreadable.push(unreadable::<R>(key, entry, why));
            continue;
        };
        match value::<R>(&entry.bytes) {
            Ok(value) => {
                all.readable.insert(own, value);
            }
            Err(why) => all.unreadable.push(unreadable::<R>(key, entry, why)),
        }
    }
    all
}

/// A part of a commit: keeps this record. Of a table whose records wait for a person it may only be made where
/// the old one was read, or is known to be absent.
pub fn put<R: Record>(key: &R::Key, value: &R::Value) -> Write {
    Write::Put { table: R::TABLE, key: R::key(key), bytes: bytes::<R>(value) }
}

/// A part of a commit: removes this record.
pub fn remove<R: Record>(key: &R::Key) -> Write {
    Write::Remove { table: R::TABLE, key: R::key(key) }
}

/// How a record's change is written: on the disk, or wherever the store is.
type Commit = fn(&Blocking, &[Expect], &[Write]) -> Result<Version, Error>;

impl Blocking {
    /// One record with its version; without one, [`Version::ABSENT`].
    ///
    /// # Errors
    /// [`Error::Unreadable`]; when the store cannot be read.
    pub fn read_with_version<R: Record>(&self, key: &R::Key) -> Result<(Option<R::Value>, Version), Error> {
        let key = R::key(key);
        let Some(entry) = self.get(R::TABLE, &key)? else { return Ok((None, Version::ABSENT)) };
        match value::<R>(&entry.bytes) {
            Ok(value) => Ok((Some(value), entry.version)),
            Err(why) => Err(unreadable::<R>(key, entry, why).into()),
        }
    }

    /// One record.
    ///
    /// # Errors
    /// [`Error::Unreadable`]; when the store cannot be read.
    pub fn read<R: Record>(&self, key: &R::Key) -> Result<Option<R::Value>, Error> {
        self.read_with_version::<R>(key).map(|(value, _)| value)
    }

    /// All records of a kind: the readable ones, and the others by name.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn read_all<R: Record>(&self) -> Result<All<R>, Error> {
        self.read_last(usize::MAX)
    }

    /// As [`Blocking::read_all`], of the last `most` records.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn read_last<R: Record>(&self, most: usize) -> Result<All<R>, Error> {
        Ok(all_of(self.last(R::TABLE, most)?))
    }

    /// As [`Blocking::read_all`], of the records before this number.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn read_before<R: Record<Key = u64>>(&self, number: u64) -> Result<All<R>, Error> {
        let entries = self.numbers(R::TABLE, ..number)?;
        Ok(all_of(entries.into_iter().map(|(number, entry)| (Key::Number(number), entry))))
    }

    /// Reads, changes and writes a record; again from the beginning where someone else changed it meanwhile, so
    /// `change` may be called more than once. On disk when this returns. What becomes `None` is removed.
    ///
    /// # Errors
    /// [`Error::Unreadable`], and [`Error::NotLasting`] where the disk takes no writes: then nothing is written; when the
    /// store cannot be read.
    pub fn update<R: Record, T>(
        &self,
        key: &R::Key,
        change: impl FnMut(&mut Option<R::Value>) -> T,
    ) -> Result<T, Error> {
        self.update_by::<R, T>(key, change, Blocking::commit)
    }

    /// As [`Blocking::update`], by [`Blocking::commit_even_in_memory`].
    ///
    /// # Errors
    /// [`Error::Unreadable`]: then nothing is written; when the store cannot be read or written.
    pub fn update_even_in_memory<R: Record, T>(
        &self,
        key: &R::Key,
        change: impl FnMut(&mut Option<R::Value>) -> T,
    ) -> Result<T, Error> {
        self.update_by::<R, T>(key, change, Blocking::commit_even_in_memory)
    }

    /// Keeps what was seen, or removes what has no value, by [`Blocking::commit_even_in_memory`]. Records that are there and
    /// cannot be read stay as they are: what is seen of them is not kept.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub fn note<R: Record>(&self, seen: &[(R::Key, Option<&R::Value>)]) -> Result<(), Error> {
        loop {
            let (mut expects, mut writes) = (Vec::new(), Vec::new());
            for (key, value) in seen {
                let version = match self.read_with_version::<R>(key) {
                    Ok((_, version)) => version,
                    Err(Error::Unreadable(record)) => {
                        tracing::warn!(%record, "what was seen is not kept");
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                expects.push(Expect { table: R::TABLE, key: R::key(key), version });
                writes.push(value.map_or_else(|| remove::<R>(key), |value| put::<R>(key, value)));
            }
            match self.commit_even_in_memory(&expects, &writes) {
                Ok(_) => return Ok(()),
                Err(Error::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn update_by<R: Record, T>(
        &self,
        key: &R::Key,
        mut change: impl FnMut(&mut Option<R::Value>) -> T,
        commit: Commit,
    ) -> Result<T, Error> {
        loop {
            let (mut value, version) = self.read_with_version::<R>(key)?;
            let result = change(&mut value);
            let expect = Expect { table: R::TABLE, key: R::key(key), version };
            let write = value.as_ref().map_or_else(|| remove::<R>(key), |value| put::<R>(key, value));
            match commit(self, &[expect], &[write]) {
                Ok(_) => return Ok(result),
                Err(Error::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;

    /// A record that has had three forms.
    struct Boards;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Board {
        name: String,
        cpus: u32,
    }

    /// Frozen: form 2.
    #[derive(Deserialize)]
    struct Named {
        name: String,
    }

    impl Record for Boards {
        type Key = String;
        type Value = Board;
        const TABLE: Table = Table::new("boards");
        const FORM: u32 = 3;
        const WHAT: &'static str = "board";
        const ON_LOSS: OnLoss = OnLoss::Wait;

        fn older(form: u32, json: &[u8]) -> Result<Board, Why> {
            let name = match form {
                1 => serde_json::from_slice::<String>(json)?,
                2 => serde_json::from_slice::<Named>(json)?.name,
                _ => return Err(Why::UnknownForm { form }),
            };
            Ok(Board { name, cpus: 1 })
        }
    }

    #[test]
    fn every_form_is_read_and_the_latest_written() {
        let board = |cpus| Board { name: "pi".into(), cpus };
        for (golden, expected) in [
            (&b"\"pi\""[..], board(1)),
            (b"1 \"pi\"", board(1)),
            (b"2 {\"name\":\"pi\"}", board(1)),
            (b"3 {\"name\":\"pi\",\"cpus\":4}", board(4)),
        ] {
            assert_eq!(value::<Boards>(golden), Ok(expected), "{}", String::from_utf8_lossy(golden));
        }
        assert_eq!(bytes::<Boards>(&board(4)), b"3 {\"name\":\"pi\",\"cpus\":4}");
    }

    #[test]
    fn what_cannot_be_read_has_a_name_and_stays() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Blocking::open(&folder.path().join("store"), 1).expect("opens");
        for found in [&b"4 {}"[..], b"3 {\"name\":\"p", b"", b"0 {}", b"99999999999 {}", b"\xff\xff"] {
            let write = Write::Put { table: Boards::TABLE, key: "b1".into(), bytes: found.to_vec() };
            store.commit(&[], &[write]).expect("written");
            let error = store.update::<Boards, ()>(&"b1".into(), |board| *board = None).expect_err("unreadable");
            let sentence = error.to_string();
            assert!(
                sentence.starts_with("board b1 cannot be read: ") && sentence.contains("store repair"),
                "{sentence}"
            );
            let kept = store.get(Boards::TABLE, &"b1".into()).expect("read").expect("there");
            assert_eq!(kept.bytes, found);
            let all = store.read_all::<Boards>().expect("read");
            assert_eq!((all.readable.len(), all.unreadable.len()), (0, 1));
        }
    }

    #[test]
    fn what_was_seen_is_kept_beside_what_cannot_be_read() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Blocking::open(&folder.path().join("store"), 1).expect("opens");
        let torn = Write::Put { table: Boards::TABLE, key: "torn".into(), bytes: b"3 {".to_vec() };
        store.commit(&[], &[torn]).expect("written");
        let board = Board { name: "pi".into(), cpus: 4 };
        let whole = || store.read::<Boards>(&"whole".into()).expect("read");
        for (value, kept) in [(Some(&board), Some(Board { name: "pi".into(), cpus: 4 })), (None, None)] {
            store.note::<Boards>(&[("torn".into(), value), ("whole".into(), value)]).expect("written");
            assert_eq!(whole(), kept);
            let bytes = store.get(Boards::TABLE, &"torn".into()).expect("read").expect("there").bytes;
            assert_eq!(bytes, b"3 {", "nothing is written over");
        }
    }

    proptest! {
        /// Whatever lies on a disk is read or refused.
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = value::<Boards>(&bytes);
        }
    }
}
