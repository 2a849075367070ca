//! The build itself: root, site, initrd, manifest.

use std::fs::{self, File};
use std::path::Path;

use bramble_engine::parts::parts;
use bramble_model::boot_set::{Architecture, DataFolder, FORM, Layer, Manifest};
use bramble_model::names::Digest;
use bramble_model::repository::Cluster;
use bramble_system::Cancel;
use rustix::fs::{FlockOperation, flock};

use crate::recipe::{self, Recipe};
use crate::root::Root;
use crate::signing::SigningKeys;
use crate::{Error, Shelf, initrd, site};

/// What a boot set is made of beside the repository.
pub struct Ingredients<'a> {
    /// What the programs below run on.
    pub architecture: Architecture,
    /// The static program that nodes run as their agent.
    pub agent: &'a Path,
    /// The static program that becomes `/init`.
    pub stage1: &'a [u8],
    /// The head's CA certificate, PEM: whom the agents trust.
    pub ca: &'a str,
    pub version: &'a str,
    /// The git revision of the repository, `-dirty` where it had changes.
    pub revision: Option<String>,
    /// SHA-256 of what the repository says of the image.
    pub inputs: Option<Digest>,
    /// What was signed with a lesser serial is forbidden.
    pub floor: u64,
    /// Seconds since 1970.
    pub now: u64,
}

/// Seconds.
const DAY: u64 = 24 * 3600;

/// A finished build.
#[derive(Debug)]
pub struct Built {
    pub digest: Digest,
    pub manifest: Manifest,
}

/// Builds the boot set of `cluster` for the ingredients' architecture onto `shelf`, reusing from `cache`
/// what has not changed. `refresh` asks Debian for newer packages though the recipe is the same.
///
/// # Errors
/// Whatever stops the build; the shelf then is as it was, and what was finished stays cached.
#[expect(clippy::too_many_arguments, reason = "each is a place or a switch of its own")]
pub fn build(
    cluster: &Cluster,
    ingredients: &Ingredients<'_>,
    shelf: &Shelf,
    keys: &SigningKeys,
    cache: &Path,
    refresh: bool,
    cancel: &Cancel,
    progress: &dyn Fn(&str),
) -> Result<Built, Error> {
    let _lock = lock(cache, progress)?;
    let _hold = shelf.hold()?;
    let recipe = Recipe::of(cluster, ingredients.architecture);
    let root = Root::of(&recipe, cache, refresh, cancel, progress)?;
    let site = site::layer(cluster, ingredients, cache, cancel, progress)?;
    progress("initrd and manifest");
    let program = program(cluster, ingredients, keys);
    let drivers = File::open(root.drivers()).map_err(Error::file("cannot read drivers", &root.drivers()))?;
    let layer = |name: &str, path: &Path| Ok(Layer { name: name.to_owned(), artifact: shelf.take(path)? });
    let firmware = root.firmware()?;
    let manifest = Manifest {
        form: FORM,
        cluster: cluster.name.clone(),
        version: ingredients.version.to_owned(),
        revision: ingredients.revision.clone(),
        architecture: recipe.architecture,
        suite: recipe.suite.clone(),
        firmware: firmware.iter().map(|(name, path)| layer(name, path)).collect::<Result<_, Error>>()?,
        kernel: shelf.take(&root.kernel())?,
        initrd: shelf.take_stream(std::io::Read::chain(&program[..], drivers))?,
        layers: vec![layer("root", &root.layer())?, layer("site", &site)?],
        cmdline: cmdline(cluster, recipe.architecture),
        knows: [bramble_boot::CLAIMS, bramble_boot::OWN_DATA].map(str::to_owned).into(),
        trusts: keys.trusted(),
        packages: root.facts.packages,
        data: cluster.engines().into_iter().flat_map(|kind| parts(kind).data).map(folder).collect(),
        inputs: ingredients.inputs,
    };
    if cancel.is_cancelled() {
        return Err(Error::Cancelled);
    }
    let now = ingredients.now;
    let lasts = cluster.image.expires_days.map(|days| u64::from(days) * DAY);
    let digest = shelf.publish(&manifest, keys, ingredients.floor, now, lasts)?;
    Ok(Built { digest, manifest })
}

fn folder((name, path): &(&str, &str)) -> DataFolder {
    DataFolder { name: (*name).to_owned(), path: (*path).to_owned() }
}

/// The initrd's part that changes with the program.
fn program(cluster: &Cluster, ingredients: &Ingredients<'_>, keys: &SigningKeys) -> Vec<u8> {
    let mut program = Vec::new();
    initrd::write_program(&mut program, ingredients.stage1, &keys.trusted(), &cluster.name)
        .expect("memory takes what is written");
    program
}

fn cmdline(cluster: &Cluster, architecture: Architecture) -> String {
    format!("{} {}", recipe::cmdline(architecture), cluster.image.cmdline).trim_end().to_owned()
}

/// One build at a time: two would make the same things beside each other.
fn lock(cache: &Path, progress: &dyn Fn(&str)) -> Result<File, Error> {
    fs::create_dir_all(cache).map_err(Error::file("cannot make the cache", cache))?;
    let path = cache.join("lock");
    let file = File::create(&path).map_err(Error::file("cannot open the lock", &path))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        progress("waiting for another build to end");
        flock(&file, FlockOperation::LockExclusive).map_err(|error| Error::file("cannot lock", &path)(error.into()))?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;

    use bramble_system::files;
    use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

    use super::*;

    const TEXT: &str = "[cluster]\nname = \"c\"\n[network]\ninterface = \"lo\"\n";

    /// A root in the cache as a build leaves it, whose layer is read for as long as the test writes it.
    fn cached(cache: &Path, recipe: &Recipe) -> std::path::PathBuf {
        let folder = cache.join("roots").join(recipe.key());
        files::make_folder(&folder.join("firmware")).expect("made");
        let facts = br#"{"kernel_release":"6.12","packages":[]}"#;
        let whole = [("facts.json", &facts[..]), ("vmlinuz", b"a kernel"), ("drivers.cpio", b"drivers")];
        for (name, bytes) in whole {
            fs::write(folder.join(name), bytes).expect("written");
        }
        let layer = folder.join("root.squashfs");
        mknodat(CWD, &layer, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("made");
        layer
    }

    /// No boot set names its files yet.
    #[test]
    fn nothing_is_swept_beside_a_build() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| folder.path().join(name);
        let (shelf, key) = (Shelf::open(at("shelf")).expect("made"), SigningKeys::open(&at("keys")).expect("a key"));
        fs::write(at("agent"), "an agent").expect("written");
        let cluster = Cluster::parse(folder.path(), &at("bramble.toml"), TEXT).expect("valid");
        let layer = cached(&at("cache"), &Recipe::of(&cluster, Architecture::Amd64));
        let ingredients = Ingredients {
            architecture: Architecture::Amd64,
            agent: &at("agent"),
            stage1: b"the first program",
            ca: "a certificate",
            version: "1",
            revision: None,
            inputs: None,
            floor: 0,
            now: 1_764_500_000,
        };
        let builds = || {
            let cancel = Cancel::default();
            build(&cluster, &ingredients, &shelf, &key, &at("cache"), false, &cancel, &|_| {}).expect("built")
        };
        let built = std::thread::scope(|scope| {
            let build = scope.spawn(builds);
            // It can be opened to be written once the build reads it (fifo(7)).
            let mut layer = loop {
                let opened = File::options().write(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(&layer);
                match opened {
                    Ok(layer) => break layer,
                    Err(_) if !build.is_finished() => std::thread::yield_now(),
                    Err(error) => panic!("the build has ended without the layer: {error}"),
                }
            };
            let alone = shelf.alone();
            if let Ok(alone) = &alone {
                shelf.sweep(alone, &BTreeSet::new(), 0).expect("swept");
            }
            layer.write_all(b"a layer").expect("it is read");
            drop(layer);
            let built = build.join().expect("no panic");
            assert!(matches!(alone, Err(Error::ShelfHeld { .. })));
            built
        });
        let is_whole = |artifact: &bramble_model::boot_set::Artifact| shelf.is_whole(&artifact.sha256, artifact.size);
        assert!(built.manifest.artifacts().all(is_whole) && built.manifest.artifacts().count() == 4);
        shelf.alone().expect("it has ended");
    }
}
