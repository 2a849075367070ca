//! Boots of bramble's own system: from which set each is, and the files of it.

use std::fs::File;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bramble_boot::{Cpu, Loader, PartitionId, reporting};
use bramble_image::{BootSet, Shelf};
use bramble_model::boot_set::{Architecture, Artifact};
use bramble_model::names::{BootId, Digest, Mac, Name};
use bramble_model::timeline::What;
use bramble_netboot::tftp::Content;
use bramble_netboot::{architecture, ipxe};
use bramble_plan::admission::{NotGiven, Record, Served};
use bramble_store::Store;
use bramble_system::{locked, now};
use sha2::{Digest as _, Sha256};

use super::SAME_REFUSAL;
use super::given::{Own, tag};
use super::index::Index;
use super::sets::Sets;
use crate::admissions;
use crate::boot_sets::BootSets;
use crate::error::Error;
use crate::random::random;
use crate::timeline::Timeline;

/// The iPXE builds of this machine.
pub(crate) type Loaders = Vec<(Loader, Arc<[u8]>)>;

/// What is known of the machines that boot bramble's own system.
pub(crate) struct OwnBoots {
    pub(super) shelf: Shelf,
    store: Store,
    timeline: Arc<Timeline>,
    loaders: Loaders,
    given: Arc<BootSets>,
    /// Present boots.
    present: Mutex<Index>,
    sets: Mutex<Sets>,
}

/// For whom a boot of bramble's own system is begun.
pub(crate) struct Asked<'a> {
    pub(crate) node: &'a Name,
    pub(crate) cpu: Cpu,
    /// The HTTP service, as the machine reaches it.
    pub(crate) http: SocketAddrV4,
    pub(crate) agent_port: u16,
    /// It is no node, and only says what it is.
    pub(crate) inventory: bool,
    /// The data partition that the repository has as the node's.
    pub(crate) data: Option<PartitionId>,
    /// The card from whose own place it asks.
    pub(crate) card: Option<Mac>,
    /// It asks by a single datagram.
    pub(crate) by_datagram: bool,
}

/// The content of a file, as it is now.
pub(super) fn content(path: &Path) -> Option<Content> {
    let file = File::open(path).ok()?;
    let size = file.metadata().ok()?.len();
    Some(Content::File { file: Arc::new(file), size })
}

/// The loaders of Debian's package `ipxe` on this machine. One for another processor than amd64 comes
/// with the boot set for that processor.
///
/// # Errors
/// The file that cannot be read.
pub(crate) fn loaders() -> Result<Loaders, Error> {
    let mut files = Loaders::new();
    for loader in ipxe::LOADERS {
        let path = PathBuf::from(ipxe::FOLDER).join(loader.name().expect("it is handed out"));
        match std::fs::read(&path) {
            Ok(bytes) => files.push((loader, bytes.into())),
            Err(_) if loader.cpu() != Cpu::Amd64 => {}
            Err(_) => return Err(Error::Loader(path)),
        }
    }
    Ok(files)
}

/// The boots of a record.
fn ids(record: &Record) -> Vec<BootId> {
    record.boots().map(|(boot, _)| boot.clone()).collect()
}

/// What a machine with this processor boots.
fn runs(cpu: Cpu) -> Result<Architecture, String> {
    architecture(cpu).ok_or_else(|| {
        format!("bramble's system is for amd64 and arm64, and this machine is {cpu}: give it a `[boot.NAME]` profile")
    })
}

/// The set that is given, or in words why there is none.
fn found(given: Result<Option<BootSet>, Error>, architecture: Architecture) -> Result<BootSet, String> {
    let given = given.map_err(|error| bramble_system::sentence(&error))?;
    given.ok_or_else(|| bramble_image::Error::NoBootSet { architecture }.to_string())
}

impl OwnBoots {
    /// Knows again the boots that were handed out before this start.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) fn open(
        shelf: Shelf,
        store: Store,
        timeline: Arc<Timeline>,
        loaders: Loaders,
        given: Arc<BootSets>,
    ) -> Result<Self, Error> {
        let (mut present, mut sets) = (Index::default(), Sets::default());
        for (node, record) in admissions::all(&store)? {
            let recorded = ids(&record);
            // One that nobody handed out has the name that its agent gave it.
            for (boot, set) in record.boots() {
                if let Some(set) = set {
                    present.begins(&node, boot.clone(), &recorded);
                    sets.begins(&node, set);
                }
            }
        }
        Ok(OwnBoots { shelf, store, timeline, loaders, given, present: Mutex::new(present), sets: Mutex::new(sets) })
    }

    fn sets(&self) -> MutexGuard<'_, Sets> {
        locked(&self.sets)
    }

    fn present(&self) -> MutexGuard<'_, Index> {
        locked(&self.present)
    }

    /// The machine asks by DHCP, as machines do that start.
    pub(super) fn asks(&self, node: &Name) {
        self.sets().asks(node);
    }

    /// The machine asks for a file that only one asks for that starts.
    pub(super) fn starts(&self, node: &Name) {
        self.sets().starts(node);
    }

    /// The boot set that this node gets at its next boot; or the reason why there is none. Where the record of what is
    /// given cannot be read, it gets again what it had last.
    pub(crate) fn set_for(&self, node: &Name, cpu: Cpu) -> Result<BootSet, String> {
        let architecture = runs(cpu)?;
        let lost = match self.given.given(architecture) {
            Err(error) if error.is_unreadable() => error,
            given => return found(given, architecture).and_then(|set| self.admits(node, set)),
        };
        let record = admissions::of(&self.store, node).ok();
        let last = record.as_ref().and_then(|record| record.boots().filter_map(|(_, set)| set).last());
        match last.and_then(|set| self.load(set, cpu)) {
            Some(Ok(set)) => self.admits(node, set),
            Some(Err(_)) | None => Err(bramble_system::sentence(&lost)),
        }
    }

    /// Whether this node may begin with this set; what it was ready with, it may.
    fn admits(&self, node: &Name, set: BootSet) -> Result<BootSet, String> {
        let was_ready = || admissions::was_ready_with(&self.store, node, &set.digest);
        self.given.may_boot(&set, now(), was_ready)?;
        Ok(set)
    }

    fn current(&self, cpu: Cpu) -> Result<BootSet, String> {
        let architecture = runs(cpu)?;
        found(self.given.given(architecture), architecture)
    }

    /// This very set, where it is for such a machine.
    fn load(&self, set: Digest, cpu: Cpu) -> Option<Result<BootSet, String>> {
        match self.shelf.load(set) {
            Ok(set) if Some(set.manifest.architecture) != architecture(cpu) => None,
            Ok(set) => Some(Ok(set)),
            Err(error) => Some(Err(error.to_string())),
        }
    }

    /// The set that the files come from which this machine fetches by name.
    pub(super) fn set_of(&self, node: &Name, cpu: Cpu) -> Result<BootSet, String> {
        let known = self.sets().of(node, now());
        let set = match known.and_then(|set| self.load(set, cpu)) {
            // A boot whose set has gone goes no further: half of it and half of another one is no system.
            Some(set) => set?,
            None => self.set_for(node, cpu)?,
        };
        self.sets().gets(node, set.digest, now());
        Ok(set)
    }

    /// A file that this machine fetches by name.
    pub(super) fn named(&self, node: &Name, cpu: Cpu, find: impl Fn(&BootSet) -> Option<Artifact>) -> Option<Content> {
        let set = self.set_of(node, cpu).ok()?;
        content(&self.shelf.file(&find(&set)?.sha256))
    }

    /// The loader of this name: of this machine, or of the boot set of the node that asks.
    pub(crate) fn loader(&self, name: &str, node: impl FnOnce() -> Option<Name>) -> Option<Content> {
        let loader = Loader::named(name)?;
        if let Some(bytes) = self.own_loader(loader) {
            return Some(Content::Memory(bytes));
        }
        let of_set = |set: &BootSet| set.manifest.firmware(name).cloned();
        let Some(node) = node() else {
            return content(&self.shelf.file(&of_set(&self.current(loader.cpu()).ok()?)?.sha256));
        };
        if matches!(loader, Loader::Shim(_) | Loader::Ipxe(_)) {
            self.starts(&node);
        }
        self.named(&node, loader.cpu(), of_set)
    }

    fn own_loader(&self, loader: Loader) -> Option<Arc<[u8]>> {
        self.loaders.iter().find(|(known, _)| *known == loader).map(|(_, bytes)| Arc::clone(bytes))
    }

    /// Whether this node can be given this loader.
    pub(super) fn has_loader(&self, loader: Loader, node: &Name) -> bool {
        let of_set = || {
            let set = self.set_for(node, loader.cpu()).ok()?;
            content(&self.shelf.file(&set.manifest.firmware(loader.name()?)?.sha256))
        };
        self.own_loader(loader).is_some() || of_set().is_some()
    }

    /// Begins a boot of bramble's own system, stored before it is told; or the reason why there is none.
    pub(super) fn begin(&self, asked: &Asked<'_>) -> Result<Own, String> {
        let Asked { node, cpu, http, agent_port, inventory, data, card, by_datagram } = *asked;
        // What its firmware has fetched already binds it. One whose set has gone begins with another.
        let before = self.sets().before(node, now());
        let set = match before.and_then(|set| self.load(set, cpu)) {
            Some(Ok(set)) => set,
            Some(Err(_)) | None => self.set_for(node, cpu)?,
        };
        let boot = BootId(random());
        let nonce = (!set.manifest.claims()).then(random);
        let told = nonce.as_deref().map(sha256);
        let is_connected = self.timeline.look(node, |track| track.connected) == Some(true);
        let stored = admissions::change_even_in_memory(&self.store, node, |record| {
            let served = Served { id: boot.clone(), nonce: told, set: set.digest, card, by_datagram };
            record.serve(served, now(), is_connected);
            ids(record)
        });
        let recorded = match stored {
            Ok(recorded) => recorded,
            // It may boot, and is not let in before someone has repaired the record: nothing is written over.
            Err(error) if error.is_unreadable() => {
                self.timeline.add(Some(node), What::Note { text: error.to_string() });
                Vec::new()
            }
            Err(error) => return Err(bramble_system::sentence(&error)),
        };
        self.present().begins(node, boot.clone(), &recorded);
        self.sets().begins(node, set.digest);
        tracing::debug!(%node, "a new boot");
        self.timeline.add(Some(node), What::ScriptServed { boot: tag(&boot), set: set.digest.short() });
        // A boot that was handed out is in the timeline, too, should the head be killed now.
        self.timeline.flush();
        let digest = set.digest.to_string();
        let data = data.filter(|_| set.manifest.knows_data());
        Ok(Own { node: node.clone(), http, agent_port, boot, nonce, inventory, data, set, digest })
    }

    /// The node that this boot leads to, by the index, and its record.
    fn leads_to(&self, boot: &str) -> Option<(BootId, Name, Result<Record, Error>)> {
        let boot = BootId(boot.to_owned());
        let node = self.present().node(&boot).cloned()?;
        let record = admissions::of(&self.store, &node);
        let leads = record.as_ref().map_or(true, |record| record.boots().any(|(present, _)| *present == boot));
        leads.then_some((boot, node, record))
    }

    /// The node whose machine is on its way in this boot, and the card that it was handed out to, where that asked from its
    /// own place.
    pub(super) fn boot(&self, boot: &str) -> Option<(Name, Option<Mac>)> {
        let (boot, node, record) = self.leads_to(boot)?;
        let served = record.ok()?.served.into_iter().find(|served| served.id == boot)?;
        Some((node, served.card))
    }

    /// The node that reports so from the place of this card, by its boot and its word for reports; `None` where nobody is
    /// on the way who has that.
    pub(super) fn reports(&self, reporter: &str, card: Option<Mac>) -> Option<Name> {
        let (boot, word) = reporting(reporter);
        let (boot, node, record) = self.leads_to(boot)?;
        record.ok()?.may_report(&boot, word.map(sha256), card).then_some(node)
    }

    /// The machine with this card claims a boot; gives its word for reports.
    pub(super) fn claim(&self, boot: &str, nonce: Digest, card: Option<Mac>) -> Result<String, Unclaimed> {
        let (boot, node, record) = self.leads_to(boot).ok_or(Unclaimed::NotGiven(NotGiven::Unknown))?;
        let word = random();
        // It may boot, and is not let in before someone has repaired the record.
        if record.is_err_and(|error| error.is_unreadable()) {
            return Ok(word);
        }
        let claim = |record: &mut Record| record.claim(&boot, nonce, sha256(&word), card);
        let claimed = admissions::change_even_in_memory(&self.store, &node, claim);
        match claimed.map_err(|error| Unclaimed::Store(Box::new(error)))? {
            Ok(()) => Ok(word),
            Err(reason) => {
                let text = format!("a boot of it was claimed, and not given: {}", sentence(reason));
                if !self.timeline.has_just_told(&node, &What::Note { text: text.clone() }, SAME_REFUSAL) {
                    self.timeline.add(Some(&node), What::Note { text });
                }
                Err(Unclaimed::NotGiven(reason))
            }
        }
    }
}

/// Why a boot could not be claimed.
pub(super) enum Unclaimed {
    NotGiven(NotGiven),
    Store(Box<Error>),
}

/// In words, for the console of whoever claims it.
pub(super) fn sentence(reason: NotGiven) -> &'static str {
    match reason {
        NotGiven::Unknown => "this boot was not handed out, or is over",
        NotGiven::Taken => "someone has claimed this boot already",
        NotGiven::Elsewhere => "it was handed out at the place of another card",
    }
}

/// Of a nonce or a word for reports.
fn sha256(text: impl AsRef<str>) -> Digest {
    Digest(Sha256::digest(text.as_ref().as_bytes()).into())
}

#[cfg(test)]
pub(crate) mod tests;
