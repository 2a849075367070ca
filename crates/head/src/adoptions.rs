//! Machines that are to be adopted: one that is not in the repository boots once, into an inventory, and says
//! what it is.
//!
//! ```text
//! unknown ──adopt──▶ Asked ──it asks for a boot──▶ Booting ──its inventory──▶ Done
//!                      └──────────── half an hour ────────────┘──▶ unknown
//! ```
//! Until it is done, it counts as a node with a name of its own, so that every firmware boots as it does for a
//! node. It is never let in: it has no certificate, no document, and none of its disks is mounted.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use bramble_model::engine::ByEngine;
use bramble_model::inventory::{Adoption, Inventory};
use bramble_model::names::{Mac, Name};
use bramble_model::repository::{Identity, LabFirmware, LabMachine, Node, PowerKind};
use bramble_model::timeline::Millis;
use bramble_plan::admission::EXPECTED_FOR;
use bramble_store::{OnLoss, Record, Store, Table, waits};
use bramble_system::{locked, now};

use crate::admissions;
use crate::changes::Changes;
use crate::error::Error;

/// What the names of such machines begin with.
const PREFIX: &str = "inventory-";

/// MAC → how far a machine's adoption is.
pub(crate) struct AdoptionsKept;

impl Record for AdoptionsKept {
    type Key = Mac;
    type Value = Adoption;
    const TABLE: Table = Table::new("adoptions");
    const FORM: u32 = 1;
    const WHAT: &'static str = "the adoption of";
    const ON_LOSS: OnLoss = OnLoss::Wait;
}

/// Machines that are to say what they are, and those that did.
pub(crate) struct Adoptions {
    store: Store,
    all: Mutex<BTreeMap<Mac, Adoption>>,
    /// Whoever changes one does so alone, from its reading to its being stored.
    turn: Mutex<()>,
    pub(crate) changed: Changes,
}

/// Until when a machine may boot so, where it may.
fn until(adoption: &Adoption) -> Option<Millis> {
    match adoption {
        Adoption::Asked { until } | Adoption::Booting { until } => Some(*until),
        Adoption::Done { .. } => None,
    }
}

impl Adoptions {
    /// # Errors
    /// When the store cannot be read.
    pub(crate) fn open(store: Store) -> Result<Self, Error> {
        let all = Mutex::new(store.blocking().read_all::<AdoptionsKept>()?.readable);
        Ok(Adoptions { store, all, turn: Mutex::default(), changed: Changes::default() })
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<Mac, Adoption>> {
        locked(&self.all)
    }

    pub(crate) fn list(&self) -> BTreeMap<Mac, Adoption> {
        self.all().clone()
    }

    /// Whoever has it waits for the disk.
    fn turn(&self) -> MutexGuard<'_, ()> {
        waits(|| locked(&self.turn))
    }

    fn of(&self, mac: Mac) -> Option<Adoption> {
        self.all().get(&mac).cloned()
    }

    /// On disk when this returns.
    fn set(&self, _turn: &MutexGuard<'_, ()>, mac: Mac, adoption: Adoption) -> Result<(), Error> {
        self.store.blocking().update::<AdoptionsKept, ()>(&mac, |kept| *kept = Some(adoption.clone()))?;
        self.tell(mac, adoption);
        Ok(())
    }

    fn tell(&self, mac: Mac, adoption: Adoption) {
        self.all().insert(mac, adoption);
        self.changed.tell();
    }

    /// How far a machine's adoption is, where it has one whose time is not over.
    pub(crate) fn present(&self, mac: Mac) -> Option<Adoption> {
        self.of(mac).filter(|adoption| until(adoption).is_none_or(|until| until > now()))
    }

    /// This machine's next boot is into the inventory.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub(crate) fn ask(&self, mac: Mac) -> Result<(), Error> {
        self.set(&self.turn(), mac, Adoption::Asked { until: now() + EXPECTED_FOR })
    }

    /// This machine was given its boot into the inventory. One that has said meanwhile what it is stays so.
    pub(crate) fn begins(&self, node: &Name) {
        let Some(mac) = mac_of(node) else { return };
        let turn = self.turn();
        let Some(until) = self.of(mac).as_ref().and_then(until) else { return };
        // Of one that is lost the machine was asked, and may boot so again.
        let (store, begun) = (self.store.blocking(), Adoption::Booting { until });
        match store.update_even_in_memory::<AdoptionsKept, ()>(&mac, |kept| *kept = Some(begun.clone())) {
            Ok(()) => self.tell(mac, begun),
            Err(error) => tracing::error!(%error, %mac, "an adoption could not be stored"),
        }
        drop(turn);
    }

    /// This machine has said what it is: it is no node any more.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub(crate) fn done(&self, mac: Mac, inventory: Inventory) -> Result<(), Error> {
        self.set(&self.turn(), mac, Adoption::Done { at: now(), inventory: Box::new(inventory) })?;
        admissions::forget(&self.store, &name_of(mac))
    }

    /// Nothing is asked of this machine any more, and what it said is not kept. One that is no more as it was `seen` stays:
    /// a person has asked anew, or the machine has said something. On disk when this returns.
    ///
    /// # Errors
    /// When the disk takes no writes.
    pub(crate) fn end(&self, mac: Mac, seen: &Adoption) -> Result<(), Error> {
        let _turn = self.turn();
        let ended = self.store.blocking().update::<AdoptionsKept, bool>(&mac, |kept| {
            let same = kept.as_ref() == Some(seen);
            if same {
                *kept = None;
            }
            same
        })?;
        if ended {
            self.all().remove(&mac);
        }
        Ok(())
    }

    /// Names of machines that boot so now.
    pub(crate) fn names(&self) -> Vec<Name> {
        let all = self.all();
        all.iter().filter(|(_, adoption)| until(adoption).is_some()).map(|(mac, _)| name_of(*mac)).collect()
    }

    /// The machine with this card, where it may boot into an inventory now.
    pub(crate) fn of_card(&self, mac: Mac) -> Option<Name> {
        let until = self.of(mac).as_ref().and_then(until)?;
        (until > now()).then(|| name_of(mac))
    }

    /// What holds for such a machine.
    pub(crate) fn declared(&self, name: &Name) -> Option<Node> {
        let mac = mac_of(name)?;
        self.of_card(mac)?;
        Some(Node {
            macs: vec![mac],
            role: "inventory".parse().expect("a name"),
            engines: ByEngine::default(),
            identity: Identity::Wire,
            docker: None,
            address: None,
            boot: None,
            secure_boot: None,
            data: None,
            power: PowerKind::Hand,
            machine: LabMachine {
                firmware: LabFirmware::Bios,
                architecture: bramble_model::boot_set::Architecture::Amd64,
                memory: 0,
                cpus: 0,
                disk: 0,
                tpm: false,
            },
        })
    }
}

/// The name that such a machine has while it boots.
pub(crate) fn name_of(mac: Mac) -> Name {
    let digits: String = mac.0.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{PREFIX}{digits}").parse().expect("letters, digits and a hyphen")
}

/// The card of a machine with such a name.
pub(crate) fn mac_of(name: &Name) -> Option<Mac> {
    let digits = name.as_str().strip_prefix(PREFIX)?;
    let mut mac = [0; 6];
    for (index, byte) in mac.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(index * 2..index * 2 + 2)?, 16).ok()?;
    }
    (digits.len() == 12).then_some(Mac(mac))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It asked for its boot twice, and its inventory came while the second one was noted.
    #[test]
    fn what_a_machine_has_said_is_not_forgotten_for_a_boot() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&folder.path().join("head.redb"), 1).expect("opens");
        let adoptions = Adoptions::open(store).expect("opens");
        let inventory = Inventory {
            machine: "a machine".into(),
            serial: "".into(),
            firmware: "".into(),
            architecture: "amd64".into(),
            processor: "".into(),
            cpus: 1,
            memory: 1 << 30,
            disks: Vec::new(),
            cards: Vec::new(),
            temperature: None,
        };
        for number in 0..50 {
            let mac = Mac([0x52, 0x54, 0, 0xab, 0, number]);
            adoptions.ask(mac).expect("written");
            let both = std::sync::Barrier::new(2);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    both.wait();
                    adoptions.begins(&name_of(mac));
                });
                both.wait();
                adoptions.done(mac, inventory.clone()).expect("written");
            });
            let kept = adoptions.store.blocking().read::<AdoptionsKept>(&mac).expect("read");
            assert!(matches!(kept, Some(Adoption::Done { .. })), "machine {number}: {kept:?}");
            assert_eq!(adoptions.of(mac), kept);
        }
    }

    #[test]
    fn an_adoption_that_was_asked_for_anew_does_not_end_with_the_one_before() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&folder.path().join("head.redb"), 1).expect("opens");
        let adoptions = Adoptions::open(store).expect("opens");
        let mac = Mac([0x52, 0x54, 0, 0xab, 0, 1]);
        adoptions.ask(mac).expect("written");
        let seen = Adoption::Asked { until: 7 };
        adoptions.end(mac, &seen).expect("written");
        let asked = adoptions.of(mac).expect("it is asked anew");
        assert_eq!(adoptions.store.blocking().read::<AdoptionsKept>(&mac).expect("read"), Some(asked.clone()));
        adoptions.end(mac, &asked).expect("written");
        assert_eq!(adoptions.of(mac), None);
    }

    #[test]
    fn a_name_leads_back_to_its_card() {
        let mac = Mac([0x52, 0x54, 0, 0xab, 0, 1]);
        assert_eq!(name_of(mac).as_str(), "inventory-525400ab0001");
        assert_eq!(mac_of(&name_of(mac)), Some(mac));
        for other in ["w1", "inventory-", "inventory-52540000000", "inventory-5254000000011"] {
            assert_eq!(mac_of(&other.parse().unwrap_or_else(|_| "x".parse().expect("a name"))), None, "{other}");
        }
    }
}
