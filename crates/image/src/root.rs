//! The root layer: mmdebstrap makes the tree, squashfs packs it, and the kernel and drivers that
//! a boot needs before the root is there are taken out. Cached by its inputs.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bramble_model::boot_set::{Architecture, Package};
use bramble_system::{Cancel, Command, files};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};

use crate::mmdebstrap::mmdebstrap;
use crate::recipe::{CLEAN, Recipe};
use crate::{EPOCH, Error, firmware, initrd, modules};

/// Long enough for a slow line and a slow machine.
const LIMIT: Duration = Duration::from_secs(3600);

/// The folder of a cached root with what firmware fetches.
const FIRMWARE: &str = "firmware";

/// The kernel as a Raspberry Pi asks for it. Its firmware unpacks gzip, and has 30 s for each file;
/// Debian's kernel for arm64 is not compressed, as other firmware wants it.
const RASPBERRY_PI_KERNEL: &str = "kernel.img";

/// A root in the cache.
pub(crate) struct Root {
    pub(crate) folder: PathBuf,
    pub(crate) facts: RootFacts,
}

/// What `facts.json` beside a cached root says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RootFacts {
    pub(crate) kernel_release: String,
    pub(crate) packages: Vec<Package>,
}

impl Root {
    pub(crate) fn layer(&self) -> PathBuf {
        self.folder.join("root.squashfs")
    }

    pub(crate) fn kernel(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    pub(crate) fn drivers(&self) -> PathBuf {
        self.folder.join("drivers.cpio")
    }

    /// What firmware fetches before the kernel, by the name that it asks for, sorted.
    pub(crate) fn firmware(&self) -> Result<BTreeMap<String, PathBuf>, Error> {
        let folder = self.folder.join(FIRMWARE);
        let doing = "cannot list the firmware's files";
        let entries = fs::read_dir(&folder).map_err(Error::file(doing, &folder))?;
        entries
            .map(|entry| {
                let entry = entry.map_err(Error::file(doing, &folder))?;
                Ok((entry.file_name().to_string_lossy().into_owned(), entry.path()))
            })
            .collect()
    }

    /// The root of this recipe, where it has been made before.
    pub(crate) fn cached(recipe: &Recipe, cache: &Path) -> Result<Option<Root>, Error> {
        let folder = cache.join("roots").join(recipe.key());
        let facts = folder.join("facts.json");
        let Ok(bytes) = fs::read(&facts) else { return Ok(None) };
        let facts = serde_json::from_slice(&bytes)
            .map_err(|error| Error::Malformed { path: facts, problem: error.to_string() })?;
        Ok(Some(Root { folder, facts }))
    }

    /// The root of this recipe: from the cache, or made now.
    pub(crate) fn of(
        recipe: &Recipe,
        cache: &Path,
        refresh: bool,
        cancel: &Cancel,
        progress: &dyn Fn(&str),
    ) -> Result<Root, Error> {
        if !refresh && let Some(root) = Root::cached(recipe, cache)? {
            return Ok(root);
        }
        let folder = cache.join("roots").join(recipe.key());
        let roots = cache.join("roots");
        fs::create_dir_all(&roots).map_err(Error::file("cannot make the cache", &roots))?;
        // Beside the final place, so that publishing is one rename; removed by Drop on any error.
        let building = tempfile::Builder::new()
            .prefix(".building-")
            .tempdir_in(&roots)
            .map_err(Error::file("cannot make a folder for the build", &roots))?;
        let facts = make(recipe, building.path(), cancel, progress)?;
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(Error::file("cannot replace the old root", &folder))?;
        }
        fs::rename(building.path(), &folder).map_err(Error::file("cannot move the root to its place", &folder))?;
        // The folder has moved away from under the guard.
        let _ = building.keep();
        files::sync_folder(&folder).map_err(Error::file("cannot sync the cache", &roots))?;
        Ok(Root { folder, facts })
    }
}

fn make(recipe: &Recipe, folder: &Path, cancel: &Cancel, progress: &dyn Fn(&str)) -> Result<RootFacts, Error> {
    let tree = folder.join("root.tar");
    progress(&format!(
        "Debian {} {}: {} packages and what they need",
        recipe.suite,
        recipe.architecture,
        recipe.packages.len()
    ));
    bootstrap(recipe, &tree, cancel)?;
    progress("kernel and drivers");
    let found = read(recipe.architecture, &tree)?;
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        files::replace(&path, bytes).map_err(Error::file("cannot write", &path))
    };
    write("vmlinuz", &found.kernel)?;
    let mut drivers = Vec::new();
    initrd::write_drivers(BufWriter::new(&mut drivers), &found.kernel_release, &found.drivers)
        .map_err(Error::file("cannot pack drivers", folder))?;
    write("drivers.cpio", &drivers)?;
    progress("loaders and firmware");
    let firmware = folder.join(FIRMWARE);
    fs::create_dir(&firmware).map_err(Error::file("cannot make a folder", &firmware))?;
    let fetched = firmware::fetch(recipe, &folder.join("firmware.tar"), cancel)?;
    for (name, bytes) in found.device_trees.iter().chain(&fetched) {
        write(&format!("{FIRMWARE}/{name}"), bytes)?;
    }
    if recipe.architecture == Architecture::Arm64 {
        write(&format!("{FIRMWARE}/{RASPBERRY_PI_KERNEL}"), &gzip(&found.kernel))?;
    }
    progress("root layer");
    squash(&tree, &folder.join("root.squashfs"), 15, cancel)?;
    fs::remove_file(&tree).map_err(Error::file("cannot remove", &tree))?;
    let facts = RootFacts { kernel_release: found.kernel_release, packages: found.packages };
    let text = serde_json::to_vec_pretty(&facts).expect("facts are plain data");
    write("facts.json", &text)?;
    Ok(facts)
}

fn bootstrap(recipe: &Recipe, tree: &Path, cancel: &Cancel) -> Result<(), Error> {
    let left_out = recipe.left_out.iter().map(|path| format!("--dpkgopt=path-exclude={path}"));
    let more = left_out.chain([format!("--customize-hook={CLEAN}"), "--variant=essential".to_owned()]);
    mmdebstrap(recipe, &recipe.packages, more, tree, cancel)
}

/// Packs a tar archive as squashfs. Owners, modes and times are the archive's.
pub(crate) fn squash(tree: &Path, layer: &Path, level: u32, cancel: &Cancel) -> Result<(), Error> {
    // Not `sqfstar`: that of squashfs-tools 4.5.1 (Debian 12) does not take compressor options.
    Command::new("mksquashfs")
        .arg("-")
        .arg(layer)
        .args(["-tar", "-comp", "zstd", "-Xcompression-level", &level.to_string(), "-b", "256K"])
        .args(["-root-mode", "0755", "-root-uid", "0", "-root-gid", "0"])
        .args([
            "-no-progress",
            "-quiet",
            "-exports",
            "-noappend",
            "-wildcards",
            "-e",
            "boot/*",
            "usr/lib/linux-image-*",
        ])
        .input(tree)
        .env("SOURCE_DATE_EPOCH", EPOCH.to_string())
        .limit(LIMIT)
        .cancel(cancel)
        .run()
        .map_err(Error::program("cannot pack the layer"))?;
    Ok(())
}

/// What is taken out of the tree.
struct Found {
    kernel: Vec<u8>,
    kernel_release: String,
    drivers: BTreeMap<String, Vec<u8>>,
    device_trees: BTreeMap<String, Vec<u8>>,
    packages: Vec<Package>,
}

fn read(architecture: Architecture, tree: &Path) -> Result<Found, Error> {
    let doing = "cannot read the root's archive";
    let file = File::open(tree).map_err(Error::file(doing, tree))?;
    let mut archive = tar::Archive::new(std::io::BufReader::with_capacity(1 << 20, file));
    let mut kernel = None;
    let mut modules_tree: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut device_trees = BTreeMap::new();
    let mut status = String::new();
    for entry in archive.entries().map_err(Error::file(doing, tree))? {
        let mut entry = entry.map_err(Error::file(doing, tree))?;
        let path = entry.path().map_err(Error::file(doing, tree))?.to_string_lossy().into_owned();
        let path = path.trim_start_matches("./");
        let device_tree = device_tree(path);
        let wanted = path.starts_with("boot/vmlinuz-")
            || path.starts_with("usr/lib/modules/")
            || path == "var/lib/dpkg/status"
            || device_tree.is_some();
        if !wanted || !entry.header().entry_type().is_file() {
            continue;
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(Error::file(doing, tree))?;
        if let Some(release) = path.strip_prefix("boot/vmlinuz-") {
            kernel = Some((release.to_owned(), bytes));
        } else if let Some(module) = path.strip_prefix("usr/lib/modules/") {
            modules_tree.insert(module.to_owned(), bytes);
        } else if let Some(name) = device_tree {
            device_trees.insert(name.to_owned(), bytes);
        } else {
            status = String::from_utf8_lossy(&bytes).into_owned();
        }
    }
    let (kernel_release, kernel) = kernel.ok_or(Error::Lacks("kernel"))?;
    let text = |name: &str| {
        let bytes =
            modules_tree.get(&format!("{kernel_release}/{name}")).ok_or(Error::Lacks("list of kernel modules"))?;
        Ok(String::from_utf8_lossy(bytes).into_owned())
    };
    let (dep, softdep, alias) = (text("modules.dep")?, text("modules.softdep")?, text("modules.alias")?);
    let chosen = modules::choose(architecture, &dep, &softdep);
    let mut drivers = BTreeMap::new();
    for path in &chosen {
        let bytes = modules_tree.remove(&format!("{kernel_release}/{path}")).ok_or(Error::Lacks("module it lists"))?;
        drivers.insert(path.clone(), bytes);
    }
    drivers.insert("modules.dep".into(), modules::dependencies(&dep, &chosen).into_bytes());
    drivers.insert("modules.alias".into(), modules::aliases(&alias, &chosen).into_bytes());
    drivers.insert("modules.softdep".into(), softdep.into_bytes());
    Ok(Found { kernel, kernel_release, drivers, device_trees, packages: packages(&status) })
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut writer = GzEncoder::new(Vec::new(), Compression::best());
    writer.write_all(bytes).and_then(|()| writer.finish()).expect("memory takes what is written")
}

/// The name of a Raspberry Pi's device tree, among those that come with the kernel.
fn device_tree(path: &str) -> Option<&str> {
    let name = path.strip_prefix("usr/lib/linux-image-")?.split_once("/broadcom/")?.1;
    (name.starts_with("bcm27") || name.starts_with("bcm28")).then_some(name).filter(|name| name.ends_with(".dtb"))
}

/// The installed packages, from dpkg's status file (Debian policy, section 5.1).
fn packages(status: &str) -> Vec<Package> {
    let field = |paragraph: &str, name: &str| {
        paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::to_owned)
    };
    let mut found: Vec<Package> = status
        .split("\n\n")
        .filter_map(|paragraph| {
            Some(Package { name: field(paragraph, "Package")?, version: field(paragraph, "Version")? })
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}
