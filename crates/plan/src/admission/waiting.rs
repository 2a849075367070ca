//! The keys that ask for one node and wait for a person, and the two ways in which a person lets one of them in without
//! comparing it digit by digit.
//!
//! ```text
//!            asks, and is not let in            a person types its six digits
//!   (none) ─────────────────────────▶ waits ──────────────────────────────────▶ approved, and let in when it asks again
//!                                     │   │                                         ▲
//!        3 min without a word         │   │ a number that fits no key that waits    │ 5 min, and nobody else has come
//!   (none) ◀──────────────────────────┘   ▼                                         │
//!                                       spent ── another boot of it ─▶ waits       held
//!                                         │                                         ▲
//!                                         └── a person approves the key itself ──▶  │ it is the first that comes in a boot
//!                                                                                   │ that began after `--press`
//! ```
//! **Digits** are of a key and a nonce that is drawn after the key has come ([`Digits`], where it is said what a stranger's
//! chance is). A key keeps its nonce while it waits, in whichever boot; one whose digits somebody has mistyped gets another one
//! in another boot only.
//!
//! **`--press`** is for a board without a screen: a person has power-cycled the very board, so the boot of a machine in the
//! node's place that began after the question is that board's. It is worth what the place is: whoever takes the card's place
//! on the wire in just these minutes could be first. So the first that comes is held for five minutes, in which a slow board
//! comes, too. One more machine that asks in that time, in whatever boot and though it is refused, another boot of the place
//! that a machine has claimed since the question, or one that is still there after the new boot began, ends the question, and
//! nobody is let in: [`Asked::ends_press`]. What is left is a stranger who takes the place while the board is off and keeps the
//! board itself from the network.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::IpAddr;

use bramble_model::digits::{Digits, Draw};
use bramble_model::names::{BootId, Mac};
use bramble_model::timeline::Millis;
use serde::{Deserialize, Serialize};

use super::{Boot, Record};

/// Keys that wait at once: those that ask from the card's own place, and as many from elsewhere. What one of a kind takes,
/// none of the other has less.
const MOST_WAITING: usize = 8;
/// And of these from elsewhere at one address: a machine behind a relay, which is never in its own place, has room beside a
/// stranger there.
const MOST_OF_ONE: usize = 2;
/// An agent asks every 15 s: one that has not for so long is gone.
const GONE_AFTER: Millis = 3 * 60 * 1000;
/// How exactly it is written down when one asked last.
const WRITTEN_EVERY: Millis = 60 * 1000;
/// Keys whose digits were mistyped; each costs a person a wrong number.
const MOST_SPENT: usize = 64;
/// How long a person has for the way to the board, and the board for its boot.
pub const PRESSED_FOR: Millis = 30 * 60 * 1000;
/// How long the first that comes after `--press` is held: as long as a slow board may take to come after a stranger.
const HELD_FOR: Millis = 5 * 60 * 1000;

/// What waits at one node. What is lost of it waits again.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Waiting {
    /// The oldest first.
    keys: Vec<Key>,
    /// Keys, and the boot in which their digits were mistyped.
    spent: VecDeque<(String, BootId)>,
    press: Option<Press>,
}

/// A key that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    pub fingerprint: String,
    /// The boot in which it asked last.
    pub boot: BootId,
    /// Where it asked from last.
    pub address: IpAddr,
    pub since: Millis,
    /// When it asked last, to the minute.
    pub last: Millis,
    /// Its agent shows digits; one of a release before shows its key.
    pub shows_digits: bool,
    draw: Draw,
    from_own_place: bool,
}

/// The question that a person has answered by hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Press {
    asked: Millis,
    until: Millis,
    /// The first that came.
    first: Option<(String, Millis)>,
    /// When one asked last that is none of the keys: there was no room for it, it was refused, or it is gone.
    crowded: Option<Millis>,
}

impl Press {
    /// The first that came has its time, also where it came late.
    fn is_open(&self, now: Millis) -> bool {
        now <= if self.first.is_some() { self.until + HELD_FOR } else { self.until }
    }
}

/// An agent that was told to wait.
#[derive(Debug, Clone)]
pub struct Asks<'a> {
    pub fingerprint: &'a str,
    /// Its boot; `None` of one that nobody handed out.
    pub boot: Option<&'a Boot>,
    pub id: &'a BootId,
    pub address: IpAddr,
    /// The card that its address is of, where it is one of the node's.
    pub card: Option<Mac>,
    pub shows_digits: bool,
    /// What [`claimed_beside`] says.
    pub claimed_beside: Option<Millis>,
}

/// When the newest boot was handed out at the node's own place that a machine has claimed, another one than this.
#[must_use]
pub fn claimed_beside(record: &Record, id: &BootId) -> Option<Millis> {
    let claimed = |boot: &&Boot| boot.id != *id && boot.card.is_some() && boot.report.is_some();
    record.served.iter().filter(claimed).map(|boot| boot.at).max()
}

/// What comes of one that asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub told: Told,
    /// It has ended the question of `--press`: nobody is let in by that any more.
    pub ends_press: bool,
}

/// What it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// Its console shows the digits of this.
    Waits(Draw),
    /// It waits, and is let in by itself in so many seconds where nobody else comes.
    Held { seconds: u64 },
    /// Its board was power-cycled by whom the head had asked to.
    Pressed,
    /// Its digits were mistyped in this boot.
    Spent,
    /// Others wait in its place.
    Full,
}

/// Why a number lets nobody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotThese {
    /// No machine shows digits now.
    NobodyShows,
    /// None has these, and all that had some are used up.
    Wrong { used_up: usize },
    /// Two have these: both are used up.
    Twice,
}

impl Waiting {
    /// Nothing of it is worth keeping.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Waiting::default()
    }

    /// Who waits now, the oldest first, and whether its digits were mistyped.
    pub fn keys(&self, now: Millis) -> impl Iterator<Item = (&Key, bool)> {
        let here = self.keys.iter().filter(move |key| key.is_here(now));
        here.map(|key| (key, self.is_spent(&key.fingerprint, &key.boot)))
    }

    /// Until when a board may be power-cycled.
    #[must_use]
    pub fn pressed_until(&self, now: Millis) -> Option<Millis> {
        self.press.as_ref().filter(|press| press.is_open(now)).map(|press| press.until)
    }

    fn is_spent(&self, fingerprint: &str, boot: &BootId) -> bool {
        self.spent.iter().any(|(key, of)| key == fingerprint && of == boot)
    }

    /// A key asks, and is not let in by anything else. `draw` is new, and is taken where the key is.
    pub fn asks(&mut self, asks: &Asks<'_>, draw: Draw, now: Millis) -> Asked {
        self.press.take_if(|press| !press.is_open(now));
        if let Some(press) = &mut self.press {
            let gone = self.keys.iter().filter(|key| !key.is_here(now) && key.fingerprint != asks.fingerprint);
            press.crowded = press.crowded.max(gone.map(|key| key.last).max());
        }
        self.keys.retain(|key| key.is_here(now));
        let was_pressed = self.press.is_some();
        self.entered(asks, draw, now);
        let told = self.pressed(asks, now).unwrap_or_else(|| self.waits(asks));
        Asked { told, ends_press: was_pressed && self.press.is_none() }
    }

    /// What one is told that waits for its digits.
    fn waits(&self, asks: &Asks<'_>) -> Told {
        if self.is_spent(asks.fingerprint, asks.id) {
            return Told::Spent;
        }
        let known = self.keys.iter().find(|key| key.fingerprint == asks.fingerprint);
        known.map_or(Told::Full, |key| Told::Waits(key.draw))
    }

    /// A key was not let in and waits for nobody: it `is_refused`, or has yet to prove where it is. Gives whether it has
    /// ended the question of `--press`, as [`Asked::ends_press`].
    pub fn turned_away(&mut self, fingerprint: &str, is_refused: bool, now: Millis) -> bool {
        self.press.take_if(|press| !press.is_open(now));
        let Some(press) = &mut self.press else { return false };
        let is_another = press.first.as_ref().map(|(first, _)| first != fingerprint);
        if is_another.is_none() && is_refused {
            press.crowded = Some(now);
        }
        let ends = is_another == Some(true);
        if ends {
            self.press = None;
        }
        ends
    }

    /// Notes that it asked, where there is room.
    fn entered(&mut self, asks: &Asks<'_>, draw: Draw, now: Millis) {
        let from_own_place = asks.is_in_own_place();
        let is_exact = self.press.is_some();
        if let Some(at) = self.keys.iter().position(|key| key.fingerprint == asks.fingerprint) {
            // It was used up in another boot: this one has a try of its own. Or its machine trusts another CA by now.
            let is_new = {
                let Key { boot, draw: known, .. } = &self.keys[at];
                known.ca != draw.ca || (boot != asks.id && self.is_spent(asks.fingerprint, boot))
            };
            let key = &mut self.keys[at];
            if is_new {
                key.draw = draw;
            }
            if is_exact || key.last + WRITTEN_EVERY <= now || key.boot != *asks.id || key.address != asks.address {
                key.last = now;
            }
            key.boot = asks.id.clone();
            key.address = asks.address;
            key.shows_digits = asks.shows_digits;
            return;
        }
        let alike = || self.keys.iter().filter(move |key| key.from_own_place == from_own_place);
        let counts = |key: &&Key| key.address == asks.address && !self.is_spent(&key.fingerprint, &key.boot);
        let of_one = alike().filter(counts).count();
        if alike().count() >= MOST_WAITING || (!from_own_place && of_one >= MOST_OF_ONE) {
            if let Some(press) = &mut self.press {
                press.crowded = Some(now);
            }
        } else {
            self.keys.push(Key {
                fingerprint: asks.fingerprint.to_owned(),
                boot: asks.id.clone(),
                address: asks.address,
                since: now,
                last: now,
                shows_digits: asks.shows_digits,
                draw,
                from_own_place,
            });
        }
    }

    /// What the question of `--press` makes of it; `None` where it is nothing to it.
    fn pressed(&mut self, asks: &Asks<'_>, now: Millis) -> Option<Told> {
        let press = self.press.as_ref()?;
        let own = asks.boot.filter(|boot| boot.at > press.asked && asks.is_in_own_place());
        let Some(boot) = own else {
            // Someone else beside the one that came: one that has not gone away, or comes from elsewhere.
            if press.first.as_ref().is_some_and(|(first, _)| first != asks.fingerprint) {
                self.press = None;
            }
            return None;
        };
        let is_alone = press.crowded.is_none_or(|last| last < boot.at)
            && asks.claimed_beside.is_none_or(|last| last <= press.asked)
            && self.keys.iter().all(|key| key.fingerprint == asks.fingerprint || key.last < boot.at);
        let first = press.first.clone().unwrap_or_else(|| (asks.fingerprint.to_owned(), now));
        if !is_alone || first.0 != asks.fingerprint {
            self.press = None;
            return None;
        }
        let waited = now.saturating_sub(first.1);
        if waited >= HELD_FOR {
            return Some(Told::Pressed);
        }
        self.press = self.press.take().map(|press| Press { first: Some(first), ..press });
        Some(Told::Held { seconds: (HELD_FOR - waited).div_ceil(1000) })
    }

    /// A person types digits: gives the key that is theirs, which is to be approved.
    ///
    /// # Errors
    /// Where they are nobody's; whoever could have been meant is used up then.
    pub fn types(&mut self, digits: Digits, now: Millis) -> Result<String, NotThese> {
        let shown: Vec<(String, BootId, bool)> = self
            .keys
            .iter()
            .filter(|key| key.is_here(now) && key.shows_digits && !self.is_spent(&key.fingerprint, &key.boot))
            .map(|key| (key.fingerprint.clone(), key.boot.clone(), key.digits() == digits))
            .collect();
        let mut fitting = shown.iter().filter(|(_, _, fits)| *fits);
        let why = match (fitting.next(), fitting.next()) {
            _ if shown.is_empty() => return Err(NotThese::NobodyShows),
            (Some((fingerprint, ..)), None) => return Ok(fingerprint.clone()),
            (None, _) => NotThese::Wrong { used_up: shown.len() },
            (Some(_), Some(_)) => NotThese::Twice,
        };
        for (fingerprint, boot, _) in shown {
            self.spent.push_back((fingerprint, boot));
        }
        while self.spent.len() > MOST_SPENT {
            self.spent.pop_front();
        }
        Err(why)
    }

    /// A person says that they power-cycle the board now; gives until when its boot counts.
    pub fn press(&mut self, now: Millis) -> Millis {
        let until = now + PRESSED_FOR;
        self.press = Some(Press { asked: now, until, first: None, crowded: None });
        until
    }

    /// A person has approved this key by itself.
    pub fn lifts(&mut self, fingerprint: &str) {
        self.spent.retain(|(key, _)| key != fingerprint);
    }

    /// Someone was let in: nobody of the others is meant by what a person does next.
    pub fn is_over(&mut self) {
        *self = Waiting::default();
    }
}

impl Key {
    fn is_here(&self, now: Millis) -> bool {
        now < self.last + GONE_AFTER
    }

    fn digits(&self) -> Digits {
        Digits::of(&self.fingerprint, &self.draw)
    }
}

impl Asks<'_> {
    /// From the place of the card at which its boot was handed out.
    fn is_in_own_place(&self) -> bool {
        self.boot.and_then(|boot| boot.card).is_some_and(|card| self.card == Some(card))
    }
}
