//! Who boots another system, and how often it is handed out.
//!
//! ```text
//!          script asked            its last file fetched           script asked
//!   Due ────────────────▶ (same) ───────────────────────▶ Handed ────────────────▶ once: the disk
//!    ▲                                                       │ said to be done      until-done: again
//!    │        told to install again, or another profile      ▼
//!    └────────────────────────────────────────────────── Installed ──────────────▶ the disk
//! ```
//! A machine that installs itself again at each power cycle destroys what it holds: so the default is
//! to hand out once.

use std::collections::VecDeque;

use bramble_model::names::{BootId, Name};
use bramble_model::repository::HandOff;
use bramble_model::timeline::Millis;
use serde::{Deserialize, Serialize};

/// What the store keeps of a node that runs another system.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Record {
    /// The profile that this is about; another one in the repository begins anew.
    pub profile: Option<Name>,
    pub state: Stage,
    /// The latest boot that was handed out: with its own place the capability for its templates, and to say "done".
    pub boot: Option<BootId>,
    /// When that was asked for, and how; `None` of a head that did not write it down, and where its firmware was told by
    /// DHCP what to fetch.
    #[serde(default)]
    pub asked: Option<Asked>,
    /// Boots before it, the latest first: whoever asks for another one in its name takes none from it.
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    pub before: VecDeque<BootId>,
    /// How often it was handed out in full.
    pub times: u32,
}

/// How a boot was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    pub at: Millis,
    pub by: By,
}

/// Who asked for a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// The machine, from its card's own place on the wire.
    Card,
    /// The machine, from behind a relay, where nobody can tell whose card an address is of.
    Relayed,
    /// Pixiecore, for the machine: it fetches its kernel for it, too, and nothing else.
    Pixiecore,
}

/// Who fetches in a node's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetches {
    /// A card of the node, from its own place.
    Card,
    /// The node's own address, with a router between.
    Routed,
    /// Whom the repository lets ask as Pixiecore.
    Pixiecore,
    /// Another card of the wire, or another address behind a router.
    Other,
}

/// Boots that are known beside the latest.
const MOST_BEFORE: usize = 3;

/// For how long an installing machine is given its templates, in milliseconds.
pub const INSTALLS_FOR: Millis = 60 * 60 * 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    #[default]
    Due,
    Handed,
    Installed,
}

/// What a node is to be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Give {
    Profile,
    Disk,
}

impl Record {
    /// What to give at this boot, under the repository's present word.
    pub fn give(&mut self, profile: &Name, hand_off: HandOff) -> Give {
        if self.profile.as_ref() != Some(profile) {
            *self = Record { profile: Some(profile.clone()), ..Record::default() };
        }
        match (hand_off, self.state) {
            (HandOff::EveryBoot, _) | (_, Stage::Due) | (HandOff::UntilDone, Stage::Handed) => Give::Profile,
            (HandOff::Once, Stage::Handed) | (HandOff::Once | HandOff::UntilDone, Stage::Installed) => Give::Disk,
        }
    }

    /// The last of its files has been fetched.
    pub fn handed(&mut self) {
        self.times += 1;
        if self.state == Stage::Due {
            self.state = Stage::Handed;
        }
    }

    /// A boot is handed out. A system that is installed anew, or at every boot, installs from now on.
    pub fn begins(&mut self, boot: BootId, asked: Asked) {
        if let Some(before) = self.boot.replace(boot) {
            self.before.push_front(before);
            self.before.truncate(MOST_BEFORE);
        }
        self.asked = Some(asked);
        if self.state == Stage::Installed {
            self.state = Stage::Due;
        }
    }

    /// Whether this is one of its boots.
    pub fn has(&self, boot: &BootId) -> bool {
        self.boot.as_ref() == Some(boot) || self.before.contains(boot)
    }

    /// Whether who fetches in this boot's name is its machine.
    pub fn is_of(&self, fetches: Fetches) -> bool {
        match (self.asked.map_or(By::Card, |asked| asked.by), fetches) {
            (_, Fetches::Card) | (By::Relayed | By::Pixiecore, Fetches::Routed) => true,
            (_, Fetches::Other | Fetches::Pixiecore) | (By::Card, Fetches::Routed) => false,
        }
    }

    /// Whether who fetches the last of its files does so for its machine.
    pub fn is_handed_by(&self, fetches: Fetches) -> bool {
        let by = self.asked.map(|asked| asked.by);
        let is_for_it = by == Some(By::Pixiecore) && fetches == Fetches::Pixiecore;
        self.is_of(fetches) || is_for_it || by.is_none() && fetches == Fetches::Routed
    }

    /// Whether its templates, with what is secret in them, are given still.
    pub fn is_installing(&self, now: Millis) -> bool {
        self.state != Stage::Installed && self.asked.is_none_or(|asked| now < asked.at + INSTALLS_FOR)
    }

    /// It says that it is installed. `true` where it can be: it has fetched its files, or `is_unseen`, from elsewhere.
    pub fn installed(&mut self, is_unseen: bool) -> bool {
        if self.state == Stage::Due && !is_unseen {
            return false;
        }
        self.state = Stage::Installed;
        true
    }

    /// Someone wants it installed again.
    pub fn again(&mut self) {
        self.state = Stage::Due;
        self.times = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> Name {
        text.parse().expect("a name")
    }

    #[test]
    fn once_is_once_over_any_number_of_power_cycles() {
        let mut record = Record::default();
        assert_eq!(record.give(&name("debian"), HandOff::Once), Give::Profile);
        assert_eq!(record.give(&name("debian"), HandOff::Once), Give::Profile, "it came back before it had its files");
        record.handed();
        for _ in 0..10 {
            assert_eq!(record.give(&name("debian"), HandOff::Once), Give::Disk);
        }
        record.again();
        assert_eq!(record.give(&name("debian"), HandOff::Once), Give::Profile);
    }

    #[test]
    fn until_done_survives_a_power_cut_in_the_middle_and_ends() {
        let mut record = Record::default();
        assert_eq!(record.give(&name("debian"), HandOff::UntilDone), Give::Profile);
        assert!(!record.installed(false), "it has fetched nothing");
        record.handed();
        assert_eq!(record.give(&name("debian"), HandOff::UntilDone), Give::Profile);
        assert!(record.installed(false));
        assert_eq!(record.give(&name("debian"), HandOff::UntilDone), Give::Disk);
    }

    #[test]
    fn templates_are_for_the_machine_that_installs_and_for_an_hour() {
        let mut record = Record { asked: Some(Asked { at: 1000, by: By::Card }), ..Record::default() };
        let fetch = [Fetches::Card, Fetches::Routed, Fetches::Pixiecore, Fetches::Other];
        assert_eq!(fetch.map(|who| record.is_of(who)), [true, false, false, false]);
        record.asked = Some(Asked { at: 1000, by: By::Relayed });
        assert_eq!(fetch.map(|who| record.is_of(who)), [true, true, false, false]);
        record.asked = Some(Asked { at: 1000, by: By::Pixiecore });
        assert_eq!(fetch.map(|who| record.is_of(who)), [true, true, false, false]);
        assert_eq!(
            fetch.map(|who| record.is_handed_by(who)),
            [true, true, true, false],
            "it fetches the kernel for it"
        );
        record.asked = None;
        assert_eq!(fetch.map(|who| record.is_handed_by(who)), [true, true, false, false], "DHCP told it what to fetch");
        record.asked = Some(Asked { at: 1000, by: By::Card });
        assert!(record.is_installing(1000 + INSTALLS_FOR - 1) && !record.is_installing(1000 + INSTALLS_FOR));
        record.handed();
        assert!(record.is_installing(2000), "it fetches them after its kernel");
        record.installed(false);
        assert!(!record.is_installing(2000));
    }

    /// One with a system that it is given at every boot got its templates at the first one only.
    #[test]
    fn a_boot_that_begins_anew_is_given_its_templates_again() {
        let mut record = Record::default();
        for at in [0, 7_200_000, 14_400_000] {
            assert_eq!(record.give(&name("live"), HandOff::EveryBoot), Give::Profile);
            record.begins(BootId(at.to_string()), Asked { at, by: By::Card });
            assert!(record.is_installing(at));
            record.handed();
            assert!(record.installed(false) && !record.is_installing(at));
        }
        assert!(record.has(&BootId("0".into())) && record.has(&BootId("14400000".into())));
        for at in 0..9 {
            record.begins(BootId(format!("more {at}")), Asked { at, by: By::Card });
        }
        assert_eq!(record.before.len(), MOST_BEFORE);
    }

    #[test]
    fn another_profile_begins_anew() {
        let mut record = Record::default();
        record.give(&name("debian"), HandOff::Once);
        record.handed();
        assert_eq!(record.give(&name("fedora"), HandOff::Once), Give::Profile);
    }

    proptest! {
        /// Whatever happens, a machine that was handed its files once gets its disk from then on.
        #[test]
        fn nothing_installs_itself_in_a_loop(events in prop::collection::vec(0..3_u8, 0..40)) {
            let mut record = Record::default();
            let profile = name("debian");
            let mut handed = false;
            for event in events {
                match event {
                    0 => prop_assert_eq!(record.give(&profile, HandOff::Once) == Give::Disk, handed),
                    1 if record.profile.is_some() => { record.handed(); handed = true; }
                    2 if record.profile.is_some() => handed = record.installed(false) || handed,
                    _ => {}
                }
            }
        }
    }
}
