//! One node's boots and its identity: who may boot, which machine is let in, and what it is known by from then on.
//!
//! ```text
//!                 script asked                     enrol, and one of these:
//!   ┌──────────┐ (and claimed)    ┌────────┐       the key that it is known by  ┌──────────┐
//!   │   Idle   │ ───────────────▶ │ Served │ ───▶  a person approved this key ─▶│ Admitted │
//!   └──────────┘                  └────────┘       this boot was expected, and  └──────────┘
//!                                  ▲      ▲        asks from its own place          │
//!                                  └──────┴──── script asked: all of them wait ─────┘
//!                                               until one of them is let in
//! ```
//! What a machine *keeps* (a key in its TPM, on its disk, in its firmware) is its identity once it was let in with it:
//! from then on that key lets it in at any time and without hands, and no other one does before a person has said so.
//! A machine that keeps nothing is known by its card's own place on the wire, and comes back only where its connection
//! was lost, or where someone caused its boot. That is [`Admission::Expected`]; with [`Admission::Approve`] a new key
//! always waits for a person, and with [`Admission::Open`] every boot that was handed out is let in, where the node is not
//! known by another key and its role does not ask for one that is kept. While the admitted
//! machine is alive, a second one with its card's address is refused in every mode.

mod identity;
#[cfg(test)]
mod tests;
pub mod waiting;

use std::collections::VecDeque;

use bramble_model::names::{BootId, Digest, Mac};
use bramble_model::repository::{Admission, Identity};
use bramble_model::timeline::Millis;
use serde::{Deserialize, Serialize};

pub use identity::{By, Keeps, Kept, Machine};

/// How long a node that was switched on is expected, in milliseconds. Firmware of servers may
/// test its memory for minutes.
pub const EXPECTED_FOR: Millis = 30 * 60 * 1000;
/// Boots that wait at once, those that were asked for from the card's own place, and those that were not: firmware asks for
/// its script twice or three times, and a person may start a machine again.
const MOST_SERVED: usize = 8;
/// Keys that a person approved and that nobody has come with.
const MOST_APPROVED: usize = 8;

/// What the store keeps of a node's boots.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Record {
    /// Boots that were handed out and that nobody was let in with, the oldest first.
    pub served: VecDeque<Boot>,
    /// The boot that was let in last.
    pub admitted: Option<Admitted>,
    /// A boot is expected until then: someone switched the node on.
    pub expected_until: Option<Millis>,
    /// What it is known by; `None` for a machine that keeps nothing, or that was never let in.
    pub kept: Option<Kept>,
    /// It is connected, or was when the head last heard of it: where it is not, it was lost and may come back. Not so
    /// where someone has switched it off.
    pub is_here: bool,
    /// Keys that a person has approved, the oldest first.
    pub approved: VecDeque<String>,
}

/// A boot that was handed out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    pub id: BootId,
    /// SHA-256 of the nonce, which is not kept; `None` where the machine has not claimed its boot yet.
    pub nonce: Option<Digest>,
    /// SHA-256 of what its reports have to name beside the boot, where it was claimed.
    #[serde(default)]
    pub report: Option<Digest>,
    /// The boot set that it was given.
    pub set: Digest,
    pub at: Millis,
    pub cause: Cause,
    /// The node's card from whose own place on the wire it was asked for; `None` where it was asked for from elsewhere.
    pub card: Option<Mac>,
    /// It was asked for by a single datagram, in whoever's name.
    #[serde(default)]
    pub by_datagram: bool,
}

/// A boot, as it is handed out.
#[derive(Debug, Clone)]
pub struct Served {
    pub id: BootId,
    /// As the head drew it for a machine that does not claim its boot.
    pub nonce: Option<Digest>,
    pub set: Digest,
    pub card: Option<Mac>,
    pub by_datagram: bool,
}

/// Why a machine may have asked for its script, as far as the head knew then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The head or a person has switched it on.
    SwitchedOn,
    /// Its connection had been lost.
    Lost,
    /// It was connected: a machine that resets says no goodbye, and one that uses its address waits for none.
    Here,
    /// None that anybody knows.
    Unknown,
}

/// Why a machine is not given the boot that it claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotGiven {
    /// It was not handed out, or is over.
    Unknown,
    /// Someone has claimed it, with another nonce.
    Taken,
    /// It was handed out at another card's place.
    Elsewhere,
}

/// Who was let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admitted {
    pub boot: BootId,
    pub nonce: Digest,
    /// The boot set that it was given; `None` where it booted by itself, and only its key counted.
    pub set: Option<Digest>,
    /// Of the key.
    pub fingerprint: String,
}

/// What an agent presents.
#[derive(Debug, Clone)]
pub struct Enrolment {
    pub boot: BootId,
    /// SHA-256 of the nonce it sent.
    pub nonce: Digest,
    /// Of the key that it has shown to have.
    pub fingerprint: String,
    pub keeps: Keeps,
    /// The card that its address is of; `None` where nobody can tell.
    pub card: Option<Mac>,
    pub heard: Heard,
}

/// What the head knows of how long the node was alive.
#[derive(Debug, Clone, Copy)]
pub struct Heard {
    /// When an agent of it was last heard over an admitted connection, also over one that has ended; `None` where this
    /// process has heard none.
    pub last: Option<Millis>,
    /// Since when this process would have heard one.
    pub since: Millis,
}

/// What the repository says of who may be let in.
#[derive(Debug, Clone, Copy)]
pub struct Declared {
    pub admission: Admission,
    /// What the node's role asks for.
    pub identity: Identity,
}

/// Whether the agent is let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Admit,
    /// When it has proved that its key is in the TPM that it names.
    Prove,
    /// Not now and not later: the sentence says why.
    Refuse(String),
    /// When a person approves this key.
    AskPerson(String),
}

impl Record {
    /// A boot that was handed out and that nobody was let in with.
    #[must_use]
    pub fn handed_out(&self, id: &BootId) -> Option<&Boot> {
        self.served.iter().find(|boot| boot.id == *id)
    }

    /// Every boot that leads to this node, and the set that it was given; the newest last.
    pub fn boots(&self) -> impl Iterator<Item = (&BootId, Option<Digest>)> {
        let admitted = self.admitted.iter().map(|admitted| (&admitted.boot, admitted.set));
        admitted.chain(self.served.iter().map(|boot| (&boot.id, Some(boot.set))))
    }

    /// Someone has caused the node's next boot; gives the time until which it is expected. What was handed out `since`
    /// they began to is that boot: a quick machine may have asked before its switch had answered.
    pub fn expect(&mut self, since: Millis, now: Millis) -> Millis {
        for boot in self.served.iter_mut().filter(|boot| boot.at >= since) {
            boot.cause = Cause::SwitchedOn;
        }
        let until = now + EXPECTED_FOR;
        self.expected_until = Some(until);
        until
    }

    /// A person approves a key, whichever boot brings it.
    pub fn approve(&mut self, fingerprint: String) {
        self.approved.retain(|known| *known != fingerprint);
        self.approved.push_back(fingerprint);
        if self.approved.len() > MOST_APPROVED {
            self.approved.pop_front();
        }
    }

    /// Its connection is gone, over which it was last heard then. What was handed out after that was asked for by a
    /// machine that had reset, and was not missed yet.
    pub fn is_lost(&mut self, last_heard: Millis) {
        for boot in self.served.iter_mut().filter(|boot| boot.cause == Cause::Here && boot.at > last_heard) {
            boot.cause = Cause::Lost;
        }
    }

    /// It is connected, whatever was said of it before.
    pub fn is_seen(&mut self) {
        self.is_here = true;
    }

    /// Someone switches it off: it is not lost then, and comes back where it is switched on.
    pub fn leaves(&mut self) {
        self.is_here = false;
    }

    /// The node asks for its boot script and is given `id`, from the place of this card where that is its own. What was
    /// handed out before stays good: whoever asks in its name from elsewhere voids nothing of the machine's own.
    pub fn serve(&mut self, boot: Served, now: Millis, is_connected: bool) {
        let Served { id, nonce, set, card, by_datagram } = boot;
        // An expectation stays until someone is admitted on it: firmware may ask twice.
        let cause = match (self.expected_until, self.is_here) {
            (Some(until), _) if now <= until => Cause::SwitchedOn,
            (_, true) if is_connected => Cause::Here,
            (_, true) => Cause::Lost,
            (_, false) => Cause::Unknown,
        };
        self.served.push_back(Boot { id, nonce, report: None, set, at: now, cause, card, by_datagram });
        // Those that can be forged push out their own kind alone, and none that its machine has claimed.
        let kind = |boot: &Boot| (boot.card.is_some(), boot.by_datagram, boot.report.is_some());
        let like = |wanted| self.served.iter().enumerate().filter(move |(_, boot)| kind(boot) == wanted);
        let wanted = (card.is_some(), by_datagram, false);
        if let (Some((oldest, _)), true) = (like(wanted).next(), like(wanted).count() > MOST_SERVED) {
            self.served.remove(oldest);
        }
    }

    /// The machine with this card makes a boot its own, by the hash of a nonce that it has drawn. The same one again is
    /// the same machine, whose answer was lost; `report` is what it names from now on.
    ///
    /// # Errors
    /// Why it is not given to it; nothing has changed then.
    pub fn claim(&mut self, id: &BootId, nonce: Digest, report: Digest, card: Option<Mac>) -> Result<(), NotGiven> {
        let boot = self.served.iter_mut().find(|boot| boot.id == *id).ok_or(NotGiven::Unknown)?;
        if boot.card.is_some() && boot.card != card {
            return Err(NotGiven::Elsewhere);
        }
        // One that the head drew itself was told with the boot: nobody claims that.
        if boot.nonce.is_some_and(|known| known != nonce) || (boot.nonce.is_some() && boot.report.is_none()) {
            return Err(NotGiven::Taken);
        }
        boot.nonce = Some(nonce);
        boot.report = Some(report);
        // A machine is in the middle of one boot, and may have been in another one before.
        let claimed = |served: &VecDeque<Boot>| {
            let claimed = served.iter().enumerate().filter(|(_, boot)| boot.report.is_some());
            (claimed.clone().count() > MOST_SERVED).then(|| claimed.map(|(at, _)| at).next()).flatten()
        };
        if let Some(oldest) = claimed(&self.served) {
            self.served.remove(oldest);
        }
        Ok(())
    }

    /// Whether whoever names this boot, and this word of it, from the place of this card, is its machine on its way. Once an
    /// agent was let in, it says by itself how it goes. What was asked for from elsewhere says nothing beside a boot of the
    /// machine's own.
    pub fn may_report(&self, id: &BootId, word: Option<Digest>, card: Option<Mac>) -> bool {
        let Some(boot) = self.served.iter().find(|boot| boot.id == *id && boot.report == word) else { return false };
        match boot.card {
            Some(_) => boot.card == card,
            None => self.served.iter().all(|boot| boot.card.is_none()),
        }
    }

    /// Whether a certificate for this key still counts, on a connection of this boot.
    ///
    /// # Errors
    /// Why not.
    pub fn holds(&self, boot: &BootId, fingerprint: &str) -> Result<(), &'static str> {
        match &self.admitted {
            Some(admitted) if admitted.fingerprint == fingerprint && admitted.boot == *boot => Ok(()),
            Some(admitted) if admitted.fingerprint == fingerprint => Err("its boot is not the admitted one"),
            Some(_) | None => Err("its certificate was revoked"),
        }
    }

    /// An agent asks to be let in. Admission changes the record; the caller stores it first.
    pub fn enrol(&mut self, enrolment: &Enrolment, declared: Declared) -> Verdict {
        let Enrolment { boot, nonce, fingerprint, .. } = enrolment;
        let served = self.served.iter().find(|served| served.id == *boot);
        let verdict = match (&self.kept, &self.admitted) {
            // The answer was lost on its way: the same key asks again.
            (_, Some(last)) if last.boot == *boot && last.fingerprint == *fingerprint && last.nonce == *nonce => {
                return Verdict::Admit;
            }
            // Nobody but the machine has its key: on that alone it takes its own place, at any time and in any boot.
            (Some(kept), _) if kept.fingerprint == *fingerprint => self.comes_back(kept, enrolment),
            (_, Some(last)) if last.boot == *boot => Verdict::Refuse("the nonce of this boot has been used".into()),
            _ => match served {
                None => Verdict::Refuse("this boot was not handed out, or another one has taken its place".into()),
                Some(served) if served.nonce != Some(*nonce) => {
                    Verdict::Refuse("the nonce is not the one of this boot".into())
                }
                Some(served) => self.judge(enrolment, served, declared),
            },
        };
        if verdict == Verdict::Admit {
            let set = served.map(|served| served.set);
            self.admit(enrolment, set);
        }
        verdict
    }

    fn comes_back(&self, kept: &Kept, enrolment: &Enrolment) -> Verdict {
        match kept.is_moved(&enrolment.keeps) {
            Some(reason) if !self.approved.contains(&enrolment.fingerprint) => ask(reason),
            _ => Verdict::Admit,
        }
    }

    /// Whether a machine with a key that the node is not known by is the node.
    fn judge(&self, enrolment: &Enrolment, boot: &Boot, declared: Declared) -> Verdict {
        let Enrolment { fingerprint, keeps, card, heard, .. } = enrolment;
        // In the same millisecond counts, too: firmware takes far longer than that from its last word as the old boot
        // to its first as the new one.
        if heard.last.is_some_and(|last| last >= boot.at) {
            let reason =
                "the admitted machine was alive after this boot was handed out: another one uses its MAC address";
            return Verdict::Refuse(reason.into());
        }
        let admit = match keeps {
            Keeps::Tpm { has_proved: false, .. } => Verdict::Prove,
            Keeps::Tpm { .. } | Keeps::Disk(_) | Keeps::Variable | Keeps::Nothing | Keeps::Unsaid => Verdict::Admit,
        };
        if self.approved.contains(fingerprint) {
            return admit;
        }
        if self.kept.is_some() {
            return ask("it came with another key than the one that it is known by");
        }
        match (keeps, declared.identity) {
            (Keeps::Nothing, Identity::Kept) => {
                return ask(
                    "its role wants an identity that is kept, and this machine keeps none (no TPM, no data disk, no UEFI)",
                );
            }
            // One that was here before its agent could say it comes back as it did then.
            (Keeps::Unsaid, Identity::Kept) if self.admitted.is_none() => {
                return ask("its role wants an identity that is kept, and its agent is of a release that does not say");
            }
            _ => {}
        }
        let is_expected = match boot.cause {
            Cause::SwitchedOn | Cause::Lost => true,
            // Whoever was killed since then may have heard the machine after it, and has forgotten.
            Cause::Here => boot.at >= heard.since,
            Cause::Unknown => false,
        };
        match declared.admission {
            Admission::Open => admit,
            Admission::Approve if self.admitted.as_ref().is_some_and(|last| last.fingerprint == *fingerprint) => admit,
            Admission::Approve => ask("a person has to approve its key"),
            Admission::Expected if !is_expected => ask("nobody switched this node on"),
            Admission::Expected => match (card, &boot.card) {
                (Some(own), Some(asked)) if own == asked => admit,
                (_, None) => ask("its boot was not asked for from its card's own place on the wire"),
                (None, _) => ask("it asks from behind a router, where nobody can tell whose card it has"),
                (Some(_), Some(_)) => ask("it asks from another card's address"),
            },
        }
    }

    fn admit(&mut self, enrolment: &Enrolment, set: Option<Digest>) {
        let Enrolment { boot, nonce, fingerprint, keeps, .. } = enrolment;
        // What a known key says of where it lies changes nothing, unless a person has let it move.
        let own = self.kept.as_ref().filter(|kept| kept.fingerprint == *fingerprint);
        let is_known = own.is_some_and(|kept| kept.is_moved(keeps).is_none());
        // An earlier release's agent knows nothing of the key that the machine is known by, which is still in it.
        if !is_known && *keeps != Keeps::Unsaid {
            self.kept = Kept::of(keeps, fingerprint);
        }
        self.approved.retain(|approved| approved != fingerprint);
        let (boot, fingerprint) = (boot.clone(), fingerprint.clone());
        self.admitted = Some(Admitted { boot, nonce: *nonce, set, fingerprint });
        self.served.clear();
        self.expected_until = None;
        self.is_here = true;
    }
}

fn ask(reason: &str) -> Verdict {
    Verdict::AskPerson(format!("{reason}: `bramble node approve` lets it in"))
}
