//! Which boot set the nodes of each architecture are given: desired state, so a record of the store. The sets
//! themselves lie on the shelf.
//!
//! A head that runs is told over its API. Where none runs, a person's command opens the store itself.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use bramble_boot::{Day, NotToBoot, Statement};
use bramble_image::{BootSet, Shelf, ToSign};
use bramble_model::boot_set::{Architecture, Artifact, Floor, GivenSet};
use bramble_model::names::Digest;
use bramble_model::timeline::Millis;
use bramble_store::{OnLoss, Record, Store, Table};
use bramble_system::now;

use crate::changes::Changes;
use crate::error::Error;
use crate::refusal::{Asked, Path as UrlPath, Refusal, failed, refuse};
use crate::store::{self, STORE, beside};
use crate::timeline::Timeline;

/// Architecture → the boot set that its nodes are given.
pub(crate) struct GivenSets;

impl Record for GivenSets {
    type Key = String;
    type Value = GivenSet;
    const TABLE: Table = Table::new("boot-sets");
    const FORM: u32 = 1;
    const WHAT: &'static str = "which boot set is given to nodes of";
    const ON_LOSS: OnLoss = OnLoss::Wait;
}

/// Below which serial boot sets are forbidden: one record.
pub(crate) struct FloorKept;

impl Record for FloorKept {
    type Key = String;
    type Value = Floor;
    const TABLE: Table = Table::new("boot-sets-floor");
    const FORM: u32 = 1;
    const WHAT: &'static str = "which boot sets are forbidden in";
    const ON_LOSS: OnLoss = OnLoss::Wait;
}

/// The only key of that table.
const CLUSTER: &str = "cluster";

/// The part of the head that knows which boot set is given.
pub(crate) struct BootSets {
    store: Store,
    shelf: Shelf,
    /// Another set is given.
    pub(crate) changed: Changes,
}

impl BootSets {
    /// Takes over what a file on the shelf said, where the store has not said anything yet.
    pub(crate) fn open(store: Store, shelf: Shelf) -> Self {
        let sets = BootSets { store, shelf, changed: Changes::default() };
        for architecture in Architecture::ALL {
            // Nothing is lost: the file stays, and is looked at again at the next start.
            if let Err(error) = sets.take_over(architecture) {
                let error = bramble_system::sentence(&error);
                tracing::error!(%architecture, error, "the boot set that was given before is not taken over");
            }
        }
        sets
    }

    /// Before the store said which set is given, a file beside the sets did. It says so once: a store that is new, or
    /// whose record was set aside, is not to be told again of a set of long ago.
    fn take_over(&self, architecture: Architecture) -> Result<(), Error> {
        match self.said(architecture) {
            Ok(None) => {
                let Some(set) = self.shelf.named_before(architecture).map_err(Error::image)? else { return Ok(()) };
                // The file stays until the disk takes writes.
                self.store.blocking().update_even_in_memory::<GivenSets, ()>(&architecture.to_string(), |kept| {
                    kept.get_or_insert(GivenSet { set, since: 0 });
                })?;
            }
            Ok(Some(_)) => {}
            // Whatever it says came after the file.
            Err(error) if error.is_unreadable() => {}
            Err(error) => return Err(error),
        }
        self.forget_before(architecture)
    }

    /// Removes that file, where what the store says now will be there at the next start.
    fn forget_before(&self, architecture: Architecture) -> Result<(), Error> {
        if self.store.blocking().trouble().is_some() {
            return Ok(());
        }
        self.shelf.forget_named_before(architecture).map_err(Error::image)
    }

    /// What was said last; `None` where nobody has said it.
    fn said(&self, architecture: Architecture) -> Result<Option<GivenSet>, Error> {
        Ok(self.store.blocking().read::<GivenSets>(&architecture.to_string())?)
    }

    /// The boot set that nodes of this architecture are given; `None` before the first build, and on a new machine, to
    /// which a backup brings the record and no sets.
    ///
    /// # Errors
    /// When the record or the set cannot be read.
    pub(crate) fn given(&self, architecture: Architecture) -> Result<Option<BootSet>, Error> {
        let Some(GivenSet { set, .. }) = self.said(architecture)? else { return Ok(None) };
        match self.shelf.load(set) {
            Ok(set) => Ok(Some(set)),
            Err(bramble_image::Error::NotOnShelf { .. }) => Ok(None),
            Err(error) => Err(Error::image(error)),
        }
    }

    /// What was said of every architecture.
    ///
    /// # Errors
    /// When a record cannot be read.
    fn all(&self) -> Result<BTreeMap<Architecture, GivenSet>, Error> {
        let said = |architecture| Ok(self.said(architecture)?.map(|given| (architecture, given)));
        Architecture::ALL.into_iter().filter_map(|architecture| said(architecture).transpose()).collect()
    }

    /// Why nodes boot nothing of this set, though they are given it.
    ///
    /// # Errors
    /// When what is forbidden cannot be read.
    pub(crate) fn refused(&self, set: &BootSet) -> Result<Option<&'static str>, Error> {
        Ok(match set.signed.statement() {
            None => Some("it waits for its signature"),
            Some(said) if said.serial < self.floor()?.floor.max(said.floor) => Some("it is forbidden"),
            Some(_) => None,
        })
    }

    /// What is forbidden.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub(crate) fn floor(&self) -> Result<Floor, Error> {
        Ok(self.store.blocking().read::<FloorKept>(&CLUSTER.to_owned())?.unwrap_or_default())
    }

    /// The floor as far as it is known: where the record of it is torn or was repaired away, what signatures on the shelf say.
    fn highest_floor(&self) -> Result<u64, Error> {
        let kept = match self.floor() {
            Err(error) if !error.is_unreadable() => return Err(error),
            Err(_) => 0,
            Ok(floor) => floor.floor,
        };
        Ok(kept.max(self.shelf.floor_said().map_err(Error::image)?))
    }

    /// Whether a person has forbidden this set; one that is not on the shelf any more, nobody knows of.
    ///
    /// # Errors
    /// When what is forbidden cannot be read.
    pub(crate) fn is_forbidden(&self, set: Digest) -> Result<bool, Error> {
        let floor = self.floor()?.floor;
        let said = self.shelf.load(set).ok().and_then(|set| set.signed.statement());
        Ok(said.is_some_and(|said| said.serial < floor))
    }

    /// Whether a node may begin with this set: `was_ready` says whether it was ready with it before.
    ///
    /// # Errors
    /// In words, why not; also where what is forbidden cannot be read.
    pub(crate) fn may_boot(&self, set: &BootSet, now: Millis, was_ready: impl FnOnce() -> bool) -> Result<(), String> {
        let floor = match self.floor() {
            // A torn record keeps nobody down.
            Err(error) if error.is_unreadable() => self.highest_floor(),
            floor => floor.map(|floor| floor.floor),
        };
        let floor = floor.map_err(|error| bramble_system::sentence(&error))?;
        let short = set.digest.short();
        let Some(said) = set.signed.statement() else {
            return Err(bramble_image::Error::Unsigned { set: set.digest }.to_string());
        };
        let now = now / 1000;
        let may = said.may_boot(floor, now, false).or_else(|_| said.may_boot(floor, now, was_ready()));
        may.map_err(|why| match why {
            NotToBoot::Forbidden { .. } => format!("boot set {short} is forbidden: {why}"),
            NotToBoot::Expired { at, now } => format!(
                "the signature of boot set {short} expired on {}, by this head's clock, which says {}, and this node was never \
                 ready with it: `bramble image sign {short}` signs it again, `bramble image build` makes a newer one",
                Day(at),
                Day(now)
            ),
        })
    }

    /// Forbids this set and all that was signed before it. On disk when this returns. Gives what is forbidden now.
    ///
    /// # Errors
    /// When it is not signed, nodes are given what would be forbidden, or something cannot be read or written.
    pub(crate) fn forbid(&self, set: Digest) -> Result<Floor, Error> {
        // What is given does not change meanwhile: whoever gives holds the shelf, too.
        let _alone = self.shelf.alone().map_err(Error::image)?;
        let serial_of = |set: Digest| {
            let found = self.shelf.load(set).map_err(Error::image)?;
            let said = found.signed.statement();
            said.map(|said| said.serial).ok_or_else(|| Error::image(bramble_image::Error::Unsigned { set }))
        };
        let floor = serial_of(set)?.saturating_add(1);
        for (architecture, given) in self.all()? {
            match serial_of(given.set) {
                Ok(serial) if serial < floor => {
                    return Err(Error::GivenIsForbidden { architecture, set: given.set });
                }
                Ok(_) | Err(Error::Shelf(bramble_image::Error::NotOnShelf { .. })) => {}
                Err(error) => return Err(error),
            }
        }
        let at = now();
        let before = self.shelf.floor_said().map_err(Error::image)?;
        let kept = self.store.blocking().update::<FloorKept, Floor>(&CLUSTER.to_owned(), |kept| {
            let kept = kept.get_or_insert(Floor { floor: before, ..Floor::default() });
            if floor > kept.floor {
                *kept = Floor { floor, set: Some(set), at };
            }
            *kept
        })?;
        self.changed.tell();
        Ok(kept)
    }

    /// What whoever signs the set whose digest begins so has to know.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn to_sign(&self, prefix: &str) -> Result<ToSign, Error> {
        let set = self.shelf.find(prefix).map_err(Error::image)?.digest;
        self.shelf.to_sign(&set, self.highest_floor()?).map_err(Error::image)
    }

    /// Takes a signature for a set. On disk when this returns.
    ///
    /// # Errors
    /// When it is none that nodes would take, or cannot be written.
    pub(crate) fn take_signature(&self, set: Digest, signature: &str) -> Result<Statement, Error> {
        let _hold = self.shelf.hold().map_err(Error::image)?;
        let floor = self.highest_floor()?;
        let said = self.shelf.take_signature(&set, floor, now() / 1000, signature).map_err(Error::image)?;
        self.changed.tell();
        Ok(said)
    }

    /// Nodes of this architecture are given this set from now on. On disk when this returns.
    ///
    /// # Errors
    /// When the shelf has no such set for them, or not all of its files, what was there before cannot be read, or the store not be written.
    pub(crate) fn give(&self, architecture: Architecture, set: Digest) -> Result<(), Error> {
        // Nothing is swept while the set is named by nobody.
        let _hold = self.shelf.hold().map_err(Error::image)?;
        let found = self.shelf.load(set).map_err(Error::image)?;
        if found.manifest.architecture != architecture {
            return Err(Error::OtherArchitecture { set, architecture: found.manifest.architecture });
        }
        match found.signed.statement() {
            None => return Err(Error::image(bramble_image::Error::Unsigned { set })),
            Some(said) if said.serial < self.highest_floor()? => return Err(Error::Forbidden { set }),
            Some(_) => {}
        }
        let is_missing = |artifact: &Artifact| !self.shelf.has(&artifact.sha256, artifact.size);
        let missing = found.manifest.files().filter(|(_, artifact)| is_missing(artifact));
        let files: Vec<String> =
            missing.map(|(name, artifact)| format!("{name} (SHA-256 {})", artifact.sha256.short())).collect();
        if !files.is_empty() {
            return Err(Error::NotWhole { set, files });
        }
        let new = GivenSet { set, since: now() };
        self.store.blocking().update::<GivenSets, ()>(&architecture.to_string(), |kept| {
            if kept.as_ref().is_none_or(|kept| kept.set != set) {
                *kept = Some(new);
            }
        })?;
        self.changed.tell();
        self.forget_before(architecture)
    }
}

/// As `GET /v1/boot-sets` says it, where no head runs.
///
/// # Errors
/// When the store cannot be read, or a head is using it.
pub fn all_of(state: &Path, shelf: &Shelf) -> Result<BTreeMap<Architecture, GivenSet>, Error> {
    if !state.join(STORE).exists() {
        return Ok(BTreeMap::new());
    }
    BootSets::open(store::open(state)?, shelf.clone()).all()
}

/// As `PUT /v1/boot-sets/{architecture}`, where no head runs.
///
/// # Errors
/// When the shelf has no such set, the store cannot be written, or a head is using it.
pub fn give_to(state: &Path, shelf: &Shelf, architecture: Architecture, set: Digest) -> Result<(), Error> {
    let path = state.join(STORE);
    bramble_system::files::make_secret(&path).map_err(Error::file("cannot make the store", &path))?;
    BootSets::open(store::open(state)?, shelf.clone()).give(architecture, set)
}

/// As `GET /v1/sets`, where no head runs.
///
/// # Errors
/// When the store cannot be read, or a head is using it.
pub fn floor_of(state: &Path, shelf: &Shelf) -> Result<Floor, Error> {
    if !state.join(STORE).exists() {
        return Ok(Floor::default());
    }
    BootSets::open(store::open(state)?, shelf.clone()).floor()
}

/// As `POST /v1/sets/{set}/forbid`, where no head runs.
///
/// # Errors
/// As [`BootSets::forbid`], or when a head is using the store.
pub fn forbid_in(state: &Path, shelf: &Shelf, set: Digest) -> Result<Floor, Error> {
    let path = state.join(STORE);
    bramble_system::files::make_secret(&path).map_err(Error::file("cannot make the store", &path))?;
    BootSets::open(store::open(state)?, shelf.clone()).forbid(set)
}

/// As `GET /v1/sets/{set}/to-sign`, where no head runs.
///
/// # Errors
/// When there is no such set, or a head is using the store.
pub fn to_sign_in(state: &Path, shelf: &Shelf, prefix: &str) -> Result<ToSign, Error> {
    if !state.join(STORE).exists() {
        let set = shelf.find(prefix).map_err(Error::image)?.digest;
        return shelf.to_sign(&set, 0).map_err(Error::image);
    }
    BootSets::open(store::open(state)?, shelf.clone()).to_sign(prefix)
}

/// As `PUT /v1/sets/{set}/signature`, where no head runs.
///
/// # Errors
/// When the signature is none that nodes would take, or a head is using the store.
pub fn sign_in(state: &Path, shelf: &Shelf, set: Digest, signature: &str) -> Result<(), Error> {
    if !state.join(STORE).exists() {
        return shelf.take_signature(&set, 0, now() / 1000, signature).map(drop).map_err(Error::image);
    }
    BootSets::open(store::open(state)?, shelf.clone()).take_signature(set, signature).map(drop)
}

/// `GET /v1/sets`
pub(crate) async fn floor(State(sets): State<Arc<BootSets>>) -> Result<Json<Floor>, Refusal> {
    beside(move || sets.floor()).await.map(Json).map_err(failed)
}

/// `GET /v1/sets/{set}/to-sign`
pub(crate) async fn to_sign(
    State(sets): State<Arc<BootSets>>,
    UrlPath(set): UrlPath<String>,
) -> Result<Json<ToSign>, Refusal> {
    beside(move || sets.to_sign(&set)).await.map(Json).map_err(refused)
}

/// `PUT /v1/sets/{set}/signature`
pub(crate) async fn sign(
    State(sets): State<Arc<BootSets>>,
    State(timeline): State<Arc<Timeline>>,
    UrlPath(set): UrlPath<Digest>,
    Asked(signature): Asked<String>,
) -> Result<StatusCode, Refusal> {
    let said = beside(move || sets.take_signature(set, &signature)).await.map_err(refused)?;
    let until = said.expires.map_or_else(|| "for ever".to_owned(), |at| format!("until {}", Day(at)));
    timeline.note(&format!("boot set {} is signed {until}", set.short()));
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/sets/{set}/forbid`
pub(crate) async fn forbid(
    State(sets): State<Arc<BootSets>>,
    State(timeline): State<Arc<Timeline>>,
    UrlPath(set): UrlPath<Digest>,
) -> Result<Json<Floor>, Refusal> {
    let floor = beside(move || sets.forbid(set)).await.map_err(refused)?;
    timeline.note(&format!("boot set {} and what was signed before it are forbidden", set.short()));
    Ok(Json(floor))
}

/// `GET /v1/boot-sets`
pub(crate) async fn list(State(sets): State<Arc<BootSets>>) -> Result<Json<BTreeMap<Architecture, GivenSet>>, Refusal> {
    beside(move || sets.all()).await.map(Json).map_err(failed)
}

/// `PUT /v1/boot-sets/{architecture}`
pub(crate) async fn put(
    State(sets): State<Arc<BootSets>>,
    State(timeline): State<Arc<Timeline>>,
    UrlPath(architecture): UrlPath<Architecture>,
    Asked(set): Asked<Digest>,
) -> Result<StatusCode, Refusal> {
    match beside(move || sets.give(architecture, set)).await {
        Ok(()) => {
            timeline.note(&format!("nodes of {architecture} are given boot set {}", set.short()));
            Ok(StatusCode::NO_CONTENT)
        }
        Err(error) => Err(refused(error)),
    }
}

/// Why a set is not given: for what was asked, or for what the head itself cannot do.
fn refused(error: Error) -> Refusal {
    let status = match &error {
        Error::Shelf(bramble_image::Error::NotOnShelf { .. } | bramble_image::Error::NoSuchSet(_)) => {
            StatusCode::NOT_FOUND
        }
        Error::OtherArchitecture { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        Error::Shelf(bramble_image::Error::NoSignature { .. }) => {
            return refuse(StatusCode::UNPROCESSABLE_ENTITY, bramble_system::sentence(&error), error.help());
        }
        Error::Forbidden { .. }
        | Error::GivenIsForbidden { .. }
        | Error::Shelf(bramble_image::Error::Unsigned { .. } | bramble_image::Error::ShelfHeld { .. }) => {
            return refuse(StatusCode::CONFLICT, bramble_system::sentence(&error), error.help());
        }
        Error::NotWhole { .. } => return refuse(StatusCode::CONFLICT, bramble_system::sentence(&error), error.help()),
        _ => return failed(error),
    };
    refuse(status, bramble_system::sentence(&error), Some("`bramble image ls` lists them"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::boots::own::tests::{shelve, sign};

    struct Place {
        folder: tempfile::TempDir,
        shelf: Shelf,
    }

    impl Place {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let shelf = Shelf::open(folder.path().join("image")).expect("opens");
            Place { folder, shelf }
        }

        fn set(&self, architecture: Architecture, word: &str) -> Digest {
            shelve(&self.folder.path().join("image"), architecture, word)
        }

        fn given(&self, architecture: Architecture) -> Option<Digest> {
            self.open().given(architecture).expect("read").map(|set| set.digest)
        }

        fn open(&self) -> BootSets {
            BootSets::open(store::open(self.folder.path()).expect("opens"), self.shelf.clone())
        }
    }

    #[test]
    fn each_architecture_is_given_what_was_said_last() {
        let place = Place::new();
        let (old, new) = (place.set(Architecture::Amd64, "old"), place.set(Architecture::Amd64, "new"));
        let arm64 = place.set(Architecture::Arm64, "arm64");
        assert_eq!(place.given(Architecture::Amd64), None, "being on the shelf is not being given");
        let give = |architecture, set| give_to(place.folder.path(), &place.shelf, architecture, set);
        for set in [old, new, old] {
            give(Architecture::Amd64, set).expect("given");
            assert_eq!(place.given(Architecture::Amd64), Some(set));
        }
        give(Architecture::Arm64, arm64).expect("given");
        assert_eq!((place.given(Architecture::Amd64), place.given(Architecture::Arm64)), (Some(old), Some(arm64)));
        let wrong = give(Architecture::Amd64, arm64).expect_err("another architecture's");
        assert!(wrong.to_string().contains("arm64"), "{wrong}");
        give(Architecture::Amd64, Digest([7; 32])).expect_err("it is not on the shelf");
        assert_eq!(place.given(Architecture::Amd64), Some(old), "what was refused has changed nothing");
    }

    /// A node that is given such a set asks for its files for ever.
    #[test]
    fn a_set_whose_files_are_not_all_there_is_not_given() {
        let place = Place::new();
        let (whole, torn) = (place.set(Architecture::Amd64, "whole"), place.set(Architecture::Amd64, "torn"));
        let give = |set| give_to(place.folder.path(), &place.shelf, Architecture::Amd64, set);
        give(whole).expect("given");
        let manifest = place.shelf.load(torn).expect("its manifest is there").manifest;
        std::fs::remove_file(place.shelf.file(&manifest.kernel.sha256)).expect("removed");
        let half = std::fs::File::options().write(true).open(place.shelf.file(&manifest.initrd.sha256));
        half.expect("opens").set_len(1).expect("cut off");
        let error = give(torn).expect_err("nobody could boot it");
        let told = error.to_string();
        assert!(told.contains("kernel (SHA-256 ") && told.contains("initrd (SHA-256 "), "{told}");
        assert!(!told.contains("start4.elf"), "{told}");
        assert!(error.help().is_some_and(|help| help.contains("`bramble image build`")), "{error}");
        assert_eq!(refused(error).0, StatusCode::CONFLICT);
        assert_eq!(place.given(Architecture::Amd64), Some(whole), "what was refused has changed nothing");
    }

    #[test]
    fn no_set_is_given_that_would_not_last() {
        let place = Place::new();
        let set = place.set(Architecture::Amd64, "a kernel");
        let store = Store::open(&place.folder.path().join("no folder/head.redb"), 1).expect("opens in memory");
        let sets = BootSets::open(store, place.shelf.clone());
        let error = sets.give(Architecture::Amd64, set).expect_err("it would not last");
        assert!(error.is_not_lasting() && error.help().is_some(), "{error}");
        assert!(sets.given(Architecture::Amd64).expect("read").is_none(), "nothing has changed");
    }

    /// The record comes with a backup, the set does not.
    #[test]
    fn a_set_that_is_not_on_the_shelf_is_none() {
        let place = Place::new();
        let set = place.set(Architecture::Amd64, "a kernel");
        give_to(place.folder.path(), &place.shelf, Architecture::Amd64, set).expect("given");
        std::fs::remove_dir_all(place.shelf.set(&set)).expect("removed");
        assert_eq!(place.given(Architecture::Amd64), None);
    }

    /// Until the store had the record, a file beside the sets named the one that was given.
    #[test]
    fn what_the_shelf_said_before_the_store_did_is_taken_over_once() {
        let place = Place::new();
        let (old, new) = (place.set(Architecture::Arm64, "old"), place.set(Architecture::Arm64, "new"));
        let file = place.folder.path().join("image/current-arm64");
        let named_before = || std::fs::write(&file, format!("{old}\n")).expect("written");
        named_before();
        assert_eq!(place.given(Architecture::Arm64), Some(old));
        assert!(!file.exists(), "the store says it now");
        assert_eq!(place.given(Architecture::Arm64), Some(old));
        // As a bramble of before leaves it that ran in between.
        named_before();
        give_to(place.folder.path(), &place.shelf, Architecture::Arm64, new).expect("given");
        assert!(!file.exists());
        assert_eq!(place.given(Architecture::Arm64), Some(new));
        std::fs::remove_file(place.folder.path().join(STORE)).expect("removed");
        assert_eq!(place.given(Architecture::Arm64), None, "a new store is not told of a set of long ago");
    }

    #[test]
    fn a_file_that_names_no_set_stays_and_says_nothing() {
        let place = Place::new();
        let file = place.folder.path().join("image/current");
        std::fs::write(&file, "half a dig").expect("written");
        assert_eq!(place.given(Architecture::Amd64), None);
        assert!(file.exists());
    }

    /// Keeps bytes that no bramble can read as which set is given.
    pub(crate) fn tear(store: &Store, architecture: Architecture) {
        let (table, key) = (GivenSets::TABLE, bramble_store::Key::Text(architecture.to_string()));
        let write = bramble_store::Write::Put { table, key, bytes: b"1 {\"set\":".to_vec() };
        store.blocking().commit(&[], &[write]).expect("written");
    }

    #[test]
    fn after_a_repair_no_set_of_long_ago_is_given() {
        let place = Place::new();
        let (old, new) = (place.set(Architecture::Amd64, "old"), place.set(Architecture::Amd64, "new"));
        give_to(place.folder.path(), &place.shelf, Architecture::Amd64, new).expect("given");
        let file = place.folder.path().join("image/current");
        std::fs::write(&file, old.to_string()).expect("written");
        {
            let sets = {
                let store = store::open(place.folder.path()).expect("opens");
                tear(&store, Architecture::Amd64);
                BootSets::open(store, place.shelf.clone())
            };
            let error = sets.given(Architecture::Amd64).expect_err("it is there and cannot be read");
            assert!(error.is_unreadable(), "{error}");
        }
        assert!(!file.exists());
        assert_eq!(crate::unreadable::repair_of(place.folder.path()).expect("repaired").records, 1);
        assert_eq!(place.given(Architecture::Amd64), None);
    }

    #[test]
    fn only_what_is_asked_wrongly_is_refused_as_such() {
        let place = Place::new();
        let (set, arm64) = (place.set(Architecture::Amd64, "a kernel"), place.set(Architecture::Arm64, "arm64"));
        let sets = place.open();
        let status = |set| refused(sets.give(Architecture::Amd64, set).expect_err("refused")).0;
        assert_eq!(status(Digest([7; 32])), StatusCode::NOT_FOUND);
        assert_eq!(status(arm64), StatusCode::UNPROCESSABLE_ENTITY);
        std::fs::write(place.shelf.set(&set).join(bramble_boot::MANIFEST), "{").expect("damaged");
        assert_eq!(status(set), StatusCode::INTERNAL_SERVER_ERROR);
    }

    /// A shelf with sets that were signed then.
    fn signed(serials: [u64; 3]) -> (Place, [Digest; 3]) {
        let place = Place::new();
        let sets = serials.map(|serial| {
            let set = place.set(Architecture::Amd64, &format!("set {serial}"));
            sign(&place.folder.path().join("image"), &set, Statement { serial, expires: None, floor: 0 });
            set
        });
        (place, sets)
    }

    #[test]
    fn what_is_forbidden_is_given_to_nobody_and_what_was_signed_before_it_neither() {
        let (place, [first, second, third]) = signed([10, 20, 30]);
        let give = |set| give_to(place.folder.path(), &place.shelf, Architecture::Amd64, set);
        let forbid = |set| forbid_in(place.folder.path(), &place.shelf, set);
        give(second).expect("given");
        let error = forbid(second).expect_err("nodes could boot nothing any more");
        assert!(matches!(error, Error::GivenIsForbidden { set, .. } if set == second) && error.help().is_some());
        assert_eq!(floor_of(place.folder.path(), &place.shelf).expect("read"), Floor::default(), "nothing has changed");
        give(third).expect("given");
        assert_eq!(forbid(second).expect("forbidden").floor, 21);
        assert_eq!(forbid(first).expect("it is already").floor, 21, "a floor never falls");
        for set in [first, second] {
            let error = give(set).expect_err("forbidden");
            assert_eq!(refused(error).0, StatusCode::CONFLICT);
        }
        assert_eq!(place.given(Architecture::Amd64), Some(third));
        let sets = place.open();
        let may = |set| sets.may_boot(&place.shelf.load(set).expect("there"), 0, || true);
        assert!(may(second).expect_err("though it was ready with it").contains("is forbidden"));
        may(third).expect("it is not");
        assert_eq!([first, second, third].map(|set| sets.is_forbidden(set).expect("read")), [true, true, false]);
        // Where an older one is good after all, it is signed again.
        sign(&place.folder.path().join("image"), &first, Statement { serial: 40, expires: None, floor: 21 });
        sets.give(Architecture::Amd64, first).expect("given");
    }

    /// A home that was off for years comes back, and a machine that is new begins with nothing old.
    #[test]
    fn an_expired_set_boots_where_it_was_ready_before_and_nowhere_else() {
        let (place, [set, ..]) = signed([10, 20, 30]);
        sign(&place.folder.path().join("image"), &set, Statement { serial: 10, expires: Some(1000), floor: 0 });
        let (sets, set) = (place.open(), place.shelf.load(set).expect("there"));
        sets.may_boot(&set, 999_999, || panic!("it is not asked for")).expect("in time");
        let why = sets.may_boot(&set, 1_000_000, || false).expect_err("its time is up");
        assert!(why.contains("expired on 1970-01-01") && why.contains("`bramble image sign"), "{why}");
        sets.may_boot(&set, u64::MAX, || true).expect("it was ready with it");
    }

    #[test]
    fn a_torn_record_of_what_is_forbidden_keeps_nobody_down_and_lets_nothing_out() {
        let (place, [first, second, third]) = signed([10, 20, 30]);
        let shelf = place.folder.path().join("image");
        give_to(place.folder.path(), &place.shelf, Architecture::Amd64, third).expect("given");
        forbid_in(place.folder.path(), &place.shelf, first).expect("forbidden");
        sign(&shelf, &third, Statement { serial: 31, expires: None, floor: 11 });
        let store = store::open(place.folder.path()).expect("opens");
        let (table, key) = (FloorKept::TABLE, bramble_store::Key::Text(CLUSTER.into()));
        let write = bramble_store::Write::Put { table, key, bytes: b"1 {".to_vec() };
        store.blocking().commit(&[], &[write]).expect("written");
        let sets = BootSets::open(store, place.shelf.clone());
        let may = |set| sets.may_boot(&place.shelf.load(set).expect("there"), 0, || false);
        may(second).expect("it is not forbidden");
        may(third).expect("nor is this");
        assert!(may(first).expect_err("the third one's signature says so").contains("forbidden"));
        drop(sets);
        crate::unreadable::repair_of(place.folder.path()).expect("repaired");
        let error = give_to(place.folder.path(), &place.shelf, Architecture::Amd64, first).expect_err("forbidden");
        assert!(matches!(error, Error::Forbidden { .. }), "{error}");
    }

    #[test]
    fn a_set_that_waits_for_its_signature_is_not_given() {
        let (place, [set, ..]) = signed([10, 20, 30]);
        let folder = place.shelf.set(&set);
        std::fs::rename(folder.join(bramble_boot::SIGNATURE), folder.join("unsigned")).expect("renamed");
        let error = give_to(place.folder.path(), &place.shelf, Architecture::Amd64, set).expect_err("not signed");
        assert!(error.help().is_some_and(|help| help.contains("image sign")), "{error}");
        assert_eq!(refused(error).0, StatusCode::CONFLICT);
    }

    #[test]
    fn whoever_waits_for_another_set_is_woken() {
        let place = Place::new();
        let set = place.set(Architecture::Amd64, "a kernel");
        let sets = place.open();
        let mut changed = sets.changed.receiver();
        changed.borrow_and_update();
        sets.give(Architecture::Amd64, set).expect("given");
        assert!(changed.has_changed().expect("it lives"));
    }
}
