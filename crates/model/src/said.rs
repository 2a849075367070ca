//! What another machine says, bounded and clean from the moment that it is read: no later code can have it otherwise.
//!
//! Text for people is cut where it is too long ([`Said`]), and a list is cut ([`few`]); what decides something is refused
//! whole instead ([`no_more_than`], and the names of [`crate::names`]). Numbers are brought into a range that makes sense: a
//! share above 100 % and a temperature below absolute zero are nobody's, and a number that is none would make the JSON of
//! everything that it is part of unreadable.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

pub use bramble_boot::plain;
use serde::de::{Error, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::names::BootId;

/// One line of text that a machine said, of at most so many bytes: no character in it moves a cursor, turns the order of
/// what stands beside it, or hides ([`plain::line`]).
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Said<const MOST: usize>(String);

/// A word: a version, the name of a device.
pub type Word = Said<64>;
/// A name that is shown: a service's, a machine's.
pub type Title = Said<256>;
/// A sentence: why something failed.
pub type Sentence = Said<1024>;

impl<const MOST: usize> Said<MOST> {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether something was taken out of it, or cut: another text may look the same.
    pub fn was_changed(&self) -> bool {
        self.0.ends_with(plain::CUT) || self.0.contains(plain::TAKEN_OUT)
    }
}

impl<const MOST: usize> From<&str> for Said<MOST> {
    fn from(text: &str) -> Self {
        Said(plain::line(text, MOST))
    }
}

impl<const MOST: usize> From<String> for Said<MOST> {
    fn from(text: String) -> Self {
        Said::from(text.as_str())
    }
}

impl<const MOST: usize> From<Said<MOST>> for String {
    fn from(said: Said<MOST>) -> Self {
        said.0
    }
}

impl<const MOST: usize> Deref for Said<MOST> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<const MOST: usize> PartialEq<str> for Said<MOST> {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

impl<const MOST: usize> PartialEq<&str> for Said<MOST> {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

impl<const MOST: usize> fmt::Display for Said<MOST> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<const MOST: usize> fmt::Debug for Said<MOST> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl<const MOST: usize> Serialize for Said<MOST> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0)
    }
}

impl<'de, const MOST: usize> Deserialize<'de> for Said<MOST> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Text<const MOST: usize>;

        impl<const MOST: usize> Visitor<'_> for Text<MOST> {
            type Value = Said<MOST>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Said<MOST>, E> {
                Ok(text.into())
            }
        }
        from.deserialize_str(Text)
    }
}

/// A list, which is read whole or as far as its bound.
struct List<T, const MOST: usize> {
    is_cut: bool,
    of: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for List<T, MOST> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MOST}")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Vec<T>, A::Error> {
        let mut read = Vec::new();
        while read.len() < MOST {
            match all.next_element()? {
                Some(one) => read.push(one),
                None => return Ok(read),
            }
        }
        while all.next_element::<IgnoredAny>()?.is_some() {
            if !self.is_cut {
                return Err(A::Error::invalid_length(MOST + 1, &self));
            }
        }
        Ok(read)
    }
}

/// The first `MOST` of a list for people.
///
/// # Errors
/// When it is no list, or one of them is not what it should be.
pub fn few<'de, const MOST: usize, T, D>(from: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    from.deserialize_seq(List::<T, MOST> { is_cut: true, of: PhantomData })
}

/// A list that decides something: half of it would say something else.
///
/// # Errors
/// When it has more than `MOST`, or is no list.
pub fn no_more_than<'de, const MOST: usize, T, D>(from: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    from.deserialize_seq(List::<T, MOST> { is_cut: false, of: PhantomData })
}

/// A share in percent: 100 at most.
pub(crate) fn percent(share: u8) -> u8 {
    share.min(100)
}

/// How many processes want a processor: none, up to a million.
pub(crate) fn load(load: f32) -> f32 {
    // Where it is no number, nothing is known of it; what compares as 0 is 0, also with a sign.
    if load > 0.0 { load.min(1e6) } else { 0.0 }
}

/// In degrees Celsius, where a sensor of a machine that runs may say that.
pub(crate) fn temperature(degrees: Option<i16>) -> Option<i16> {
    degrees.filter(|degrees| (-100..=250).contains(degrees))
}

/// More bytes than any machine has: 2^60.
const MOST_BYTES: u64 = 1 << 60;

pub(crate) fn bytes(bytes: u64) -> u64 {
    bytes.min(MOST_BYTES)
}

/// Seconds: a hundred years at most.
pub(crate) fn seconds(seconds: u64) -> u64 {
    seconds.min(100 * 365 * 24 * 3600)
}

/// What a machine counts.
pub(crate) fn count(count: u64) -> u64 {
    count.min(u64::from(u32::MAX))
}

/// Makes a reader for a number that is brought into its range.
macro_rules! reader {
    ($($name:ident: $number:ty, $range:path;)*) => {
        /// Readers of numbers, for `#[serde(deserialize_with)]`.
        pub(crate) mod number {
            use super::*;

            $(pub(crate) fn $name<'de, D: Deserializer<'de>>(from: D) -> Result<$number, D::Error> {
                <$number>::deserialize(from).map($range)
            })*
        }
    };
}

fn processors(count: u32) -> u32 {
    count.min(1 << 16)
}

fn replicas(count: u32) -> u32 {
    count.min(1_000_000)
}

reader! {
    bytes_of: u64, bytes;
    processors_of: u32, processors;
    replicas_of: u32, replicas;
    temperature_of: Option<i16>, temperature;
}

/// The longest name of a boot, in letters; the head's own have 32.
pub const LONGEST_BOOT: usize = 64;

/// Whether it may be the name of a boot.
pub fn is_boot(boot: &BootId) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    boot.0.len() <= LONGEST_BOOT && boot.0.bytes().all(is_letter)
}

/// A boot by its name.
///
/// # Errors
/// When it is none: it is a key, and nothing is cut of one.
pub(crate) fn boot<'de, D: Deserializer<'de>>(from: D) -> Result<BootId, D::Error> {
    let boot = BootId::deserialize(from)?;
    if is_boot(&boot) {
        return Ok(boot);
    }
    Err(D::Error::custom(format!("expected up to {LONGEST_BOOT} letters, digits and hyphens, as a boot is named")))
}

#[cfg(test)]
mod tests;
