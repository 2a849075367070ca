//! Whether the other side of a connection is still there, and when this side has to say something.
//!
//! ```text
//!               greeted              watch
//!   Greeting ───────────▶ Trusted ───────────▶ Watched ─┐ heard: its silence begins anew
//!      │ greeting is over    │                    │  ▲────┘
//!      ▼                     ▼                    ▼ silent for too long
//!   NoGreeting            (never)               Silent
//!
//!   in each of them:      sending ─▶ leaving ─ sent ─▶ (nothing leaves)
//!                                       │ for too long, whatever is heard meanwhile
//!                                       ▼
//!                                   TakesNothing
//! ```
//! A pure machine: times go in, one deadline and the reason of an end come out. Times are milliseconds of one clock
//! that nobody sets: since the connection began, say.

use bramble_model::timeline::Millis;

/// How long a session waits for what, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The other side has so long to say its first message, from the connection's begin.
    pub greeting: Millis,
    /// One that is watched, and silent for so long, is gone.
    pub silence: Millis,
    /// A message has so long to leave.
    pub sending: Millis,
    /// This side says something at least so often.
    pub beat: Millis,
}

impl Limits {
    /// Of heads and agents: who says something every ten seconds, and is silent for three times as long, is gone.
    pub const USUAL: Limits = Limits { greeting: 20_000, silence: 30_000, sending: 20_000, beat: 10_000 };
}

impl Default for Limits {
    fn default() -> Self {
        Limits::USUAL
    }
}

/// Why a connection ends: what the other side did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    #[error("its first message did not come within {} s", .limit / 1000)]
    NoGreeting { limit: Millis },
    #[error("it said nothing for {} s", .limit / 1000)]
    Silent { limit: Millis },
    #[error("it took nothing for {} s", .limit / 1000)]
    TakesNothing { limit: Millis },
}

/// One connection, as one side sees it.
#[derive(Debug)]
pub struct Session {
    limits: Limits,
    other: Other,
    /// Since when a message is on its way out.
    leaving: Option<Millis>,
    /// When this side has to say something.
    beat: Millis,
}

/// What is known of the other side.
#[derive(Debug)]
enum Other {
    /// It has not said who it is.
    Greeting { since: Millis },
    /// It has, and did not promise to say more.
    Trusted,
    /// It says something again and again, the last time then.
    Watched { heard: Millis },
}

impl Session {
    /// A connection that begins now.
    pub fn new(limits: Limits, now: Millis) -> Self {
        Session { limits, other: Other::Greeting { since: now }, leaving: None, beat: now.saturating_add(limits.beat) }
    }

    /// The other side has said who it is.
    pub fn greeted(&mut self) {
        if let Other::Greeting { .. } = self.other {
            self.other = Other::Trusted;
        }
    }

    /// The other side says something at least as often as this one beats: its silence counts from now on. One that
    /// has not greeted is not watched.
    pub fn watch(&mut self, now: Millis) {
        match self.other {
            Other::Trusted => self.other = Other::Watched { heard: now },
            Other::Greeting { .. } | Other::Watched { .. } => {}
        }
    }

    /// Something came from the other side.
    pub fn heard(&mut self, now: Millis) {
        match &mut self.other {
            Other::Watched { heard } => *heard = now.max(*heard),
            // A stranger does not buy time by talking.
            Other::Greeting { .. } | Other::Trusted => {}
        }
    }

    /// A message is on its way out. One behind another has no time of its own.
    pub fn sending(&mut self, now: Millis) {
        self.leaving.get_or_insert(now);
    }

    /// All that was on its way out has left.
    pub fn sent(&mut self) {
        self.leaving = None;
    }

    pub fn is_sending(&self) -> bool {
        self.leaving.is_some()
    }

    /// Whether this side has to say something now: told once each time. Never while something is on its way out,
    /// and not to a stranger.
    pub fn beats(&mut self, now: Millis) -> bool {
        let due = self.beat_at().is_some_and(|at| at <= now);
        if due {
            self.beat = now.saturating_add(self.limits.beat);
        }
        due
    }

    fn beat_at(&self) -> Option<Millis> {
        match self.other {
            Other::Greeting { .. } => None,
            Other::Trusted | Other::Watched { .. } => self.leaving.is_none().then_some(self.beat),
        }
    }

    /// Each limit that runs, by the time that it ends at.
    fn ends(&self) -> impl Iterator<Item = (Millis, Why)> {
        let Limits { greeting, silence, sending, beat: _ } = self.limits;
        let other = match self.other {
            Other::Greeting { since } => Some((since.saturating_add(greeting), Why::NoGreeting { limit: greeting })),
            Other::Trusted => None,
            Other::Watched { heard } => Some((heard.saturating_add(silence), Why::Silent { limit: silence })),
        };
        let leaving = self.leaving.map(|since| (since.saturating_add(sending), Why::TakesNothing { limit: sending }));
        other.into_iter().chain(leaving)
    }

    /// When to ask [`Session::expired`] and [`Session::beats`] again though nothing happens. There is always
    /// something to wait for: a stranger has a limit, and to others this side beats.
    pub fn deadline(&self) -> Millis {
        self.ends().map(|(at, _)| at).chain(self.beat_at()).min().unwrap_or(Millis::MAX)
    }

    /// Why the connection is over; `None` while it is not.
    pub fn expired(&self, now: Millis) -> Option<Why> {
        self.ends().filter(|(at, _)| *at <= now).min_by_key(|(at, _)| *at).map(|(_, why)| why)
    }
}

#[cfg(test)]
mod tests;
