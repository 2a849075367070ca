//! A cluster repository and its places on this machine.
//!
//! ```text
//! the folder ───────────── no snapshot yet, or asked for ──┐
//!                                                          ├──▶ Material ──▶ boot sets ──▶ given to nodes
//! the head's snapshot, as it lies in .bramble/snapshots ───┘
//! ```

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bramble_image::signing::{Signed, SigningKeys};
use bramble_image::{BootSet, Built, Error, Hold, Ingredients, Listed, Shelf, ToSign};
use bramble_model::boot_set::{Architecture, Floor, GivenSet};
use bramble_model::names::Digest;
use bramble_model::repository::{Cluster, FILE, Places, tree};
use bramble_model::snapshot::{Revision, Snapshot};
use bramble_model::source::short;
use bramble_system::{Cancel, Command, Failure, files};

use crate::client::Client;
use crate::place::Place;
use crate::process::runtime;
use crate::screen;
use crate::target::NoHead;

/// The static program that becomes `/init` of a booting node; `build.rs` makes it.
pub const STAGE1: &[u8] = include_bytes!(env!("BRAMBLE_STAGE1"));
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The repository and where its state lies.
pub struct Workspace {
    pub cluster: Cluster,
    pub state: PathBuf,
}

impl Workspace {
    /// Loads and validates the repository; prints its warnings.
    pub fn open(place: &Place) -> Result<Self> {
        let cluster = Cluster::of_folder(&place.repository()?)?;
        screen::reservations(&cluster);
        let state = place.state()?;
        make_state(&state)?;
        Ok(Workspace { cluster, state })
    }
}

/// Where boot sets are built and kept, with or without a repository's folder beside them.
pub struct BootSets {
    state: PathBuf,
    pub shelf: Shelf,
}

impl BootSets {
    pub fn open(place: &Place) -> Result<Self> {
        Self::at(place.state()?)
    }

    pub fn at(state: PathBuf) -> Result<Self> {
        make_state(&state)?;
        let shelf = Shelf::open(state.join("image"))?;
        Ok(BootSets { state, shelf })
    }

    /// What lies on the shelf, where its signatures are looked at, too: of a shelf without a key there are none.
    pub fn signed(&self) -> Result<Listed> {
        let keys = self.keys_folder();
        let keys = if SigningKeys::are_in(&keys) { SigningKeys::open(&keys).ok() } else { None };
        Ok(keys.map_or_else(|| self.shelf.list(), |keys| self.shelf.list_signed(&keys))?)
    }

    fn keys_folder(&self) -> PathBuf {
        self.state.join("keys")
    }

    /// The keys that sign, made where there are none.
    pub fn keys(&self) -> Result<SigningKeys> {
        Ok(SigningKeys::open(&self.keys_folder())?)
    }

    /// Which boot sets are forbidden.
    pub fn floor(&self) -> Result<Floor> {
        match runtime()?.block_on(Client::local(&self.state).floor()) {
            Err(error) if error.is::<NoHead>() => Ok(bramble_head::boot_sets::floor_of(&self.state, &self.shelf)?),
            answer => answer,
        }
    }

    /// Forbids this set and all that was signed before it.
    pub fn forbid(&self, set: &Digest) -> Result<Floor> {
        match runtime()?.block_on(Client::local(&self.state).forbid_set(set)) {
            Err(error) if error.is::<NoHead>() => {
                Ok(bramble_head::boot_sets::forbid_in(&self.state, &self.shelf, *set)?)
            }
            answer => answer,
        }
    }

    /// What whoever signs the set whose digest begins so has to know.
    pub fn to_sign(&self, set: &str) -> Result<ToSign> {
        match runtime()?.block_on(Client::local(&self.state).set_to_sign(set)) {
            Err(error) if error.is::<NoHead>() => {
                Ok(bramble_head::boot_sets::to_sign_in(&self.state, &self.shelf, set)?)
            }
            answer => answer,
        }
    }

    /// Takes a signature for this set.
    pub fn take_signature(&self, set: &Digest, signature: &str) -> Result<()> {
        match runtime()?.block_on(Client::local(&self.state).sign_set(set, signature)) {
            Err(error) if error.is::<NoHead>() => {
                Ok(bramble_head::boot_sets::sign_in(&self.state, &self.shelf, *set, signature)?)
            }
            answer => answer,
        }
    }

    /// Which boot set nodes of each architecture are given.
    pub fn given(&self) -> Result<BTreeMap<Architecture, GivenSet>> {
        match runtime()?.block_on(Client::local(&self.state).boot_sets()) {
            Err(error) if error.is::<NoHead>() => Ok(bramble_head::boot_sets::all_of(&self.state, &self.shelf)?),
            answer => answer,
        }
    }

    /// Gives nodes of its architecture this set from their next boot on.
    pub fn give(&self, set: &Digest, architecture: Architecture) -> Result<()> {
        match runtime()?.block_on(Client::local(&self.state).give_boot_set(architecture, set)) {
            Err(error) if error.is::<NoHead>() => {
                Ok(bramble_head::boot_sets::give_to(&self.state, &self.shelf, architecture, *set)?)
            }
            answer => answer,
        }
    }

    /// The sets that nodes are given, of the architectures that have one.
    pub fn current(&self) -> Result<Vec<BootSet>> {
        let loaded = self.given()?.into_values().map(|given| self.shelf.load(given.set));
        let there = loaded.filter(|set| !matches!(set, Err(Error::NotOnShelf { .. })));
        Ok(there.collect::<Result<_, _>>()?)
    }

    /// The snapshot that the head keeps true, and where it came from; `None` where there is none yet.
    fn snapshot(&self) -> Result<Option<(Digest, Revision)>> {
        match runtime()?.block_on(Client::local(&self.state).status()) {
            Ok(status) => Ok(status.desired.map(|desired| (desired.snapshot, desired.revision))),
            Err(error) if error.is::<NoHead>() => Ok(bramble_head::current_snapshot(&self.state)?),
            Err(error) => Err(error),
        }
    }

    /// What the head keeps true; of a head that has nothing yet, its folder.
    pub fn desired(&self, place: &Place) -> Result<Material> {
        settled(|| self.snapshot(), |digest, revision| self.of_snapshot(digest, revision))?
            .map_or_else(|| Material::of_folder(&place.repository()?), Ok)
    }

    /// The snapshot as it lies beside the head.
    fn of_snapshot(&self, digest: Digest, revision: Revision) -> Result<Material> {
        let laid_out = self.state.join("snapshots").join(digest.to_string());
        let hold = self.shelf.hold()?;
        // The head removes the folders of earlier snapshots, and a build takes minutes.
        let workplace = self.shelf.workplace(&hold)?;
        let root = workplace.path().join("snapshot");
        let unusable = |source: anyhow::Error| self.unusable(&digest, &laid_out, source);
        files::link_tree(&laid_out, &root).map_err(|error| unusable(error.into()))?;
        let (snapshot, _) = Snapshot::read(&root).map_err(|error| unusable(error.into()))?;
        if snapshot.digest() != digest {
            return Err(unusable(anyhow::anyhow!("what lies there is another one")));
        }
        let cluster = Cluster::of_kept(&tree::Folder(&root), Places { root: &root, home: &root })?;
        let inputs = Some(bramble_head::image_inputs(&cluster, &snapshot));
        Ok(Material { cluster, revision, inputs, snapshot: Some(digest), _place: Some((workplace, hold)) })
    }

    /// Why a snapshot cannot be used as it lies there, and what to do.
    fn unusable(&self, digest: &Digest, laid_out: &Path, source: anyhow::Error) -> anyhow::Error {
        let (short, place) = (digest.short(), laid_out.display());
        let kind = source.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>()).map(std::io::Error::kind);
        let lacking = self.shelf.lacks(digest).unwrap_or_default();
        let why = match kind {
            Some(ErrorKind::PermissionDenied) => format!(
                "snapshot {short} may not be read in {place}: run this as the user whom the head's state belongs to"
            ),
            Some(ErrorKind::NotFound) if matches!(laid_out.try_exists(), Ok(false)) => {
                format!("snapshot {short} is not laid out in {place}: `bramble serve` does so when it starts")
            }
            // What is not whole on the shelf is left out where it is laid out.
            Some(ErrorKind::NotFound) | None if !lacking.is_empty() => {
                let files: Vec<String> = lacking.iter().map(Digest::to_string).collect();
                format!(
                    "snapshot {short} lacks large files, which are damaged or gone on the shelf: SHA-256 {}: while `bramble \
                     serve` runs, `bramble apply` from a folder that has them sends them anew",
                    files.join(", "),
                )
            }
            Some(ErrorKind::NotFound) | None => {
                format!("snapshot {short} is not whole in {place}: `bramble serve` lays it out anew when it starts")
            }
            Some(_) => format!("snapshot {short} cannot be taken from {place}"),
        };
        source.context(why)
    }

    /// Builds a boot set for each architecture, and gives it to the nodes; what has not changed is reused.
    pub fn build(
        &self,
        from: &Material,
        refresh: bool,
        cancel: &Cancel,
        progress: &dyn Fn(&str),
    ) -> Result<Vec<Built>> {
        let (authority, keys, cache) = (bramble_head::authority(&self.state, &from.cluster)?, self.keys()?, cache()?);
        let floor = self.floor()?.floor;
        let revision = from.revision.commit.as_deref().map(|commit| {
            let short = short(commit);
            if from.revision.dirty { format!("{short}-dirty") } else { short }
        });
        let ca = authority.pem();
        let build = |architecture: Architecture| {
            let (agent, stage1) = programs(architecture)?;
            let ingredients = Ingredients {
                architecture,
                agent: &agent,
                stage1: &stage1,
                ca: &ca,
                version: VERSION,
                revision: revision.clone(),
                inputs: from.inputs,
                floor,
                now: bramble_system::now() / 1000,
            };
            let cluster = &from.cluster;
            let built =
                bramble_image::build(cluster, &ingredients, &self.shelf, &keys, &cache, refresh, cancel, progress)?;
            // Before it is given: a set of which that is not known counts as one of before.
            bramble_head::note_roots_of(&self.state, &self.shelf, &built.digest, &authority.fingerprints())?;
            Ok(built)
        };
        self.build_and_give(&from.cluster.image.architectures, build)
    }

    fn build_and_give(
        &self,
        architectures: &[Architecture],
        build: impl Fn(Architecture) -> Result<Built>,
    ) -> Result<Vec<Built>> {
        // A set that is published and not given yet is not swept.
        let _hold = self.shelf.hold()?;
        let of = |architecture: &Architecture| {
            let built = build(*architecture)?;
            // One that waits for its signature is given when it has that.
            if self.shelf.load(built.digest)?.signed != Signed::Not {
                self.give(&built.digest, *architecture)?;
            }
            Ok(built)
        };
        architectures.iter().map(of).collect()
    }
}

/// What boot sets are built from.
pub struct Material {
    cluster: Cluster,
    revision: Revision,
    /// SHA-256 of all that goes into the image.
    pub inputs: Option<Digest>,
    /// The snapshot that it is; `None` of a folder.
    pub snapshot: Option<Digest>,
    /// Where the snapshot's files lie meanwhile, and what keeps a sweep of the shelf from removing them.
    _place: Option<(tempfile::TempDir, Hold)>,
}

/// The snapshot that `asks` tells, by `takes`. Where that fails and the head has gone on to another one meanwhile, it has
/// removed the folder: once more with that.
fn settled<T>(
    asks: impl Fn() -> Result<Option<(Digest, Revision)>>,
    takes: impl Fn(Digest, Revision) -> Result<T>,
) -> Result<Option<T>> {
    let Some((digest, revision)) = asks()? else { return Ok(None) };
    let failed = match takes(digest, revision) {
        Ok(taken) => return Ok(Some(taken)),
        Err(failed) => failed,
    };
    match asks() {
        Ok(Some((next, revision))) if next != digest => takes(next, revision).map(Some),
        Ok(_) | Err(_) => Err(failed),
    }
}

impl Material {
    /// # Errors
    /// When the folder is no repository, or no snapshot: nobody could say of a set what went into it.
    pub fn of_folder(folder: &Path) -> Result<Self> {
        let (cluster, snapshot, _) = Cluster::with_snapshot(folder)?;
        let revision = revision(folder);
        let inputs = Some(bramble_head::image_inputs(&cluster, &snapshot));
        Ok(Material { cluster, revision, inputs, snapshot: None, _place: None })
    }
}

/// The programs of a node of this architecture: its agent and its stage 1. For another one than this
/// computer's, `bramble-ARCHITECTURE` lies beside this program, and tells its own stage 1; it has to
/// run here, as have the programs of Debian's packages.
fn programs(architecture: Architecture) -> Result<(PathBuf, Cow<'static, [u8]>)> {
    let own = std::env::current_exe().context("cannot find this program")?;
    let native = match std::env::consts::ARCH {
        "x86_64" => Architecture::Amd64,
        _ => Architecture::Arm64,
    };
    if architecture == native {
        return Ok((own, STAGE1.into()));
    }
    let foreign = own.with_file_name(format!("bramble-{architecture}"));
    if !foreign.exists() {
        bail!(
            "{} is missing: nodes of architecture {architecture} need bramble's program for it, beside this one",
            foreign.display()
        );
    }
    let tell = |word: &str| {
        Command::new(&foreign).arg(word).run().map_err(|error| match error.failure {
            Failure::CouldNotStart(_) => Error::CannotRun { architecture }.into(),
            _ => anyhow::Error::new(error),
        })
    };
    let version = tell("--version")?.text();
    if version != format!("bramble {VERSION}") {
        bail!("{} is {version}, this is bramble {VERSION}: take both from one release", foreign.display());
    }
    let stage1 = tell("stage1")?.stdout;
    Ok((foreign, stage1.into()))
}

/// Where a folder's content comes from, as far as git knows. A commit that has no `bramble.toml` here is another
/// repository's, in which the folder happens to lie.
pub fn revision(folder: &Path) -> Revision {
    let git = |arguments: &[&str]| {
        let command = Command::new("git").args(arguments).folder(folder).limit(Duration::from_secs(10));
        command.run().ok().map(|output| output.text())
    };
    let names = git(&["rev-parse", "HEAD", &format!("HEAD:./{FILE}")]);
    let Some(commit) = names.as_deref().and_then(|names| names.lines().next()).map(str::to_owned) else {
        return Revision::default();
    };
    let dirty = git(&["status", "--porcelain", "--", "."]).is_none_or(|changes| !changes.is_empty());
    let of_commit = |format: &str| git(&["log", "-1", format]).filter(|text| !text.is_empty());
    Revision {
        dirty,
        author: of_commit("--format=%an <%ae>"),
        subject: of_commit("--format=%s"),
        at: of_commit("--format=%ct").and_then(|seconds| seconds.parse::<u64>().ok()).map(|seconds| seconds * 1000),
        commit: Some(commit),
    }
}

/// Makes the folder of the state, where there is none.
pub fn make_state(state: &Path) -> Result<()> {
    if !state.exists() {
        files::make_secret_folder(state).with_context(|| format!("cannot make {}", state.display()))?;
        // Keys lie here: the folder keeps itself out of git.
        files::replace(&state.join(".gitignore"), b"*\n")
            .with_context(|| format!("cannot write to {}", state.display()))?;
    }
    Ok(())
}

/// Where roots are kept that any repository may use (XDG Base Directory Specification).
fn cache() -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    Ok(base.context("neither XDG_CACHE_HOME nor HOME is set, so there is no place for a cache")?.join("bramble"))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeSet;

    use bramble_model::boot_set::{FORM, Manifest};
    use sha2::{Digest as _, Sha256};

    use super::*;
    use crate::exit::Exit;

    /// A state with a snapshot in it that is laid out, and has a large file.
    struct Laid {
        folder: tempfile::TempDir,
        sets: BootSets,
        digest: Digest,
        large: Digest,
    }

    impl Laid {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let sets = BootSets::at(folder.path().join("state")).expect("made");
            let new = folder.path().join("state/snapshots/new");
            std::fs::create_dir_all(new.join("files")).expect("made");
            let text = "[cluster]\nname = \"c\"\n[network]\ninterface = \"lo\"\n[image]\noverlay = \"files\"\n";
            std::fs::write(new.join(FILE), text).expect("written");
            std::fs::write(new.join("files/large"), vec![7; 100 << 10]).expect("written");
            let (snapshot, _) = Snapshot::read(&new).expect("read");
            let digest = snapshot.digest();
            let contents = snapshot.contents().into_iter();
            let large = contents.max_by_key(|(_, size)| *size).expect("two files").0;
            std::fs::copy(new.join("files/large"), sets.shelf.file(&large)).expect("copied");
            sets.shelf.claim(&digest, &BTreeSet::from([large])).expect("written");
            let laid = Laid { folder, sets, digest, large };
            std::fs::rename(new, laid.place()).expect("renamed");
            laid
        }

        fn place(&self) -> PathBuf {
            self.folder.path().join("state/snapshots").join(self.digest.to_string())
        }

        fn take(&self) -> Result<Material> {
            self.sets.of_snapshot(self.digest, Revision::default())
        }

        fn why(&self) -> String {
            format!("{:#}", self.take().map(drop).expect_err("it cannot be used"))
        }
    }

    #[test]
    fn no_sweep_comes_between_a_snapshot_that_is_taken_and_its_build() {
        let laid = Laid::new();
        let material = laid.take().expect("it is whole");
        let held = laid.sets.shelf.alone().expect_err("its files lie on the shelf");
        assert!(matches!(held, Error::ShelfHeld { .. }), "{held}");
        drop(material);
        laid.sets.shelf.alone().expect("nobody needs them");
    }

    /// Puts a set onto the shelf, as a build does that ends.
    fn published(shelf: &Shelf, architecture: Architecture) -> Built {
        let bytes = b"a kernel";
        let kernel = shelf.take_as(&Digest(Sha256::digest(bytes).into()), &bytes[..]).expect("taken");
        let manifest = Manifest {
            form: FORM,
            cluster: "c".parse().expect("a name"),
            version: VERSION.into(),
            revision: None,
            architecture,
            suite: "trixie".into(),
            firmware: Vec::new(),
            initrd: kernel.clone(),
            kernel,
            layers: Vec::new(),
            cmdline: String::new(),
            knows: Vec::new(),
            trusts: Vec::new(),
            packages: Vec::new(),
            inputs: None,
            data: Vec::new(),
        };
        let bytes = serde_json::to_vec(&manifest).expect("plain data");
        let digest = Digest(Sha256::digest(&bytes).into());
        let set = shelf.set(&digest);
        std::fs::create_dir(&set).expect("made");
        std::fs::write(set.join("manifest.json"), bytes).expect("written");
        std::fs::write(set.join("manifest.json.minisig"), "as it signs").expect("written");
        Built { digest, manifest }
    }

    #[test]
    fn no_sweep_comes_between_a_set_that_is_published_and_its_being_given() {
        let folder = tempfile::tempdir().expect("a folder");
        let sets = BootSets::at(folder.path().join("state")).expect("made");
        let architectures = [Architecture::Amd64, Architecture::Arm64];
        let build = |architecture| {
            let built = published(&sets.shelf, architecture);
            // As `bramble image gc` does, from another process.
            let another = Shelf::open(folder.path().join("state/image")).expect("opens");
            let given = sets.given().expect("read").into_values().map(|given| given.set).collect();
            match another.alone() {
                Ok(alone) => drop(another.sweep(&alone, &given, 0).expect("swept")),
                Err(error) => assert!(matches!(error, Error::ShelfHeld { .. }), "{error}"),
            }
            Ok(built)
        };
        let built = sets.build_and_give(&architectures, build).expect("built and given");
        let built: BTreeSet<Digest> = built.into_iter().map(|built| built.digest).collect();
        let given: BTreeSet<Digest> = sets.given().expect("read").into_values().map(|given| given.set).collect();
        assert_eq!((built.len(), built), (2, given));
        sets.shelf.alone().expect("it has ended");
    }

    #[test]
    fn a_snapshot_that_cannot_be_used_is_told_as_what_it_is() {
        let laid = Laid::new();
        std::fs::remove_file(laid.place().join("files/large")).expect("removed");
        let why = laid.why();
        assert!(why.contains("is not whole"), "{why}");
        let on_the_shelf = laid.sets.shelf.file(&laid.large);
        let damaged = || std::fs::write(&on_the_shelf, vec![8; 100 << 10]);
        let removed = || std::fs::remove_file(&on_the_shelf);
        for damage in [&damaged as &dyn Fn() -> std::io::Result<()>, &removed] {
            damage().expect("done");
            let why = laid.why();
            assert!(why.contains("lacks large files") && why.contains(&laid.large.to_string()), "{why}");
            assert!(why.contains("`bramble apply`"), "{why}");
        }
        std::fs::remove_dir_all(laid.place()).expect("removed");
        let why = laid.why();
        assert!(why.contains("is not laid out"), "{why}");
        let denied = std::io::Error::from(ErrorKind::PermissionDenied);
        let why = laid.sets.unusable(&laid.digest, &laid.place(), denied.into()).to_string();
        assert!(why.contains("may not be read") && !why.contains("serve"), "{why}");
        let failed = std::io::Error::from(ErrorKind::StorageFull);
        let why = laid.sets.unusable(&laid.digest, &laid.place(), failed.into()).to_string();
        assert!(!why.contains("serve"), "{why}");
    }

    #[test]
    fn no_set_is_built_of_a_folder_that_is_no_snapshot() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = "[cluster]\nname = \"c\"\n[network]\ninterface = \"lo\"\n[image]\noverlay = \"files\"\n";
        std::fs::write(folder.path().join(FILE), text).expect("written");
        std::fs::create_dir(folder.path().join("files")).expect("made");
        let of_folder = || Material::of_folder(folder.path());
        assert!(of_folder().expect("it is one").inputs.is_some());
        let _pipe = std::os::unix::net::UnixListener::bind(folder.path().join("files/socket")).expect("a socket");
        let error = of_folder().map(drop).expect_err("nobody could say what went into it");
        assert!(error.to_string().contains("files/socket: is no plain file"), "{error}");
        assert_eq!(Exit::of(&error), Exit::Repository);
    }

    #[test]
    fn a_snapshot_that_the_head_has_left_meanwhile_is_asked_for_once_more() {
        let (old, new) = (Digest([1; 32]), Digest([2; 32]));
        let asked = Cell::new(0);
        let told = |all: &'static [Digest]| {
            asked.set(0);
            let asked = &asked;
            move || {
                let index = asked.replace(asked.get() + 1).min(all.len() - 1);
                Ok(Some((all[index], Revision::default())))
            }
        };
        const MOVES: &[Digest] = &[Digest([1; 32]), Digest([2; 32])];
        const STAYS: &[Digest] = &[Digest([1; 32])];
        let only_new = |digest, _| if digest == new { Ok(digest) } else { bail!("{old:?} has gone") };
        assert_eq!(settled(told(MOVES), only_new).expect("the next one"), Some(new));
        assert_eq!(asked.get(), 2);
        settled(told(STAYS), only_new).expect_err("it is the same one");
        settled(told(MOVES), |_, _| -> Result<()> { bail!("never") }).expect_err("it is tried once more, not for ever");
        assert_eq!(asked.get(), 2);
        assert_eq!(settled(|| Ok(None), only_new).expect("there is none"), None);
    }

    /// A folder that happens to lie in another repository, as one in a temporary folder or in a home that is kept in
    /// git, has no commit: what is pushed later would not descend from it.
    #[test]
    fn a_commit_counts_where_it_has_the_repository() {
        let folder = tempfile::tempdir().expect("a folder");
        let git = |words: &[&str]| {
            let named = ["-c", "user.name=Ann", "-c", "user.email=ann@home.arpa"];
            Command::new("git").args(named).args(words).folder(folder.path()).run().expect("git runs");
        };
        git(&["init", "-q"]);
        git(&["commit", "-q", "--allow-empty", "-m", "another's"]);
        let own = folder.path().join("own");
        std::fs::create_dir(&own).expect("a folder");
        std::fs::write(own.join(FILE), "").expect("written");
        assert_eq!(revision(&own), Revision::default());
        git(&["add", "own"]);
        git(&["commit", "-q", "-m", "begin"]);
        let found = revision(&own);
        assert_eq!((found.commit.map(|commit| commit.len()), found.dirty), (Some(40), false));
    }
}
