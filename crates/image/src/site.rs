//! The site layer: the agent, the stock files, containers and the cluster's overlay, over the
//! root. Cached by its inputs, rebuilt in seconds.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bramble_engine::parts::parts;
use bramble_model::names::Digest;
use bramble_model::repository::Cluster;
use bramble_system::Cancel;
use sha2::{Digest as _, Sha256};

use crate::{EPOCH, Error, Ingredients, container, root};

/// Counts up when the way a site layer is made changes.
const VERSION: u32 = 1;

/// Where containers lie on a node; the agent loads them into the engine.
const CONTAINERS: &str = "usr/share/bramble/containers";

/// Files that every node has, by their place in the root; the engines add their own. See `images/README.md`.
const STOCK: &[(&str, &str)] = &[
    ("etc/systemd/system/bramble-agent.service", include_str!("../../../images/bramble-agent.service")),
    ("etc/systemd/system/bramble-sshd.service", include_str!("../../../images/bramble-sshd.service")),
    ("etc/ssh/sshd_config.d/bramble.conf", include_str!("../../../images/sshd.conf")),
    ("etc/systemd/system/systemd-networkd.service.d/late.conf", include_str!("../../../images/late.conf")),
    ("etc/systemd/system/systemd-timesyncd.service.d/late.conf", include_str!("../../../images/late.conf")),
    ("etc/systemd/system/systemd-udev-trigger.service.d/late.conf", include_str!("../../../images/late.conf")),
    ("etc/systemd/system/systemd-udev-trigger.service.d/coldplug.conf", include_str!("../../../images/coldplug.conf")),
    ("etc/systemd/system/systemd-udevd.service.d/background.conf", include_str!("../../../images/background.conf")),
    ("etc/systemd/system/systemd-timesyncd.service.d/background.conf", include_str!("../../../images/background.conf")),
    ("etc/udev/rules.d/99-virtual-net.rules", include_str!("../../../images/virtual-net.rules")),
    ("etc/systemd/journald.conf.d/bramble.conf", include_str!("../../../images/journald.conf")),
    ("etc/systemd/network/80-bramble.network", include_str!("../../../images/bramble.network")),
];

/// Units that are started.
const ENABLED: &[(&str, &str)] = &[
    ("multi-user.target.wants", "bramble-agent.service"),
    ("multi-user.target.wants", "systemd-networkd.service"),
    ("sysinit.target.wants", "systemd-timesyncd.service"),
];

/// Units that a node without a disk, a console login or a clock of its own has no use for. Each
/// would cost a slow machine a part of a second at every boot.
const MASKED: &[&str] = &[
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "console-getty.service",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty-static.service",
    "getty@tty1.service",
    "ldconfig.service",
    "logrotate.timer",
    "ssh.service",
    "systemd-growfs-root.service",
    "systemd-hwdb-update.service",
    "systemd-hostnamed.socket",
    "systemd-journal-catalog-update.service",
    "systemd-journal-flush.service",
    "systemd-machine-id-commit.service",
    "systemd-logind.service",
    "systemd-networkd-persistent-storage.service",
    "systemd-networkd-wait-online.service",
    "systemd-pcrphase.service",
    "systemd-pcrphase-sysinit.service",
    "systemd-random-seed.service",
    "systemd-rfkill.socket",
    "systemd-tpm2-setup.service",
    "systemd-tpm2-setup-early.service",
    "systemd-update-done.service",
    "systemd-update-utmp.service",
    "systemd-user-sessions.service",
    "dev-hugepages.mount",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "modprobe@configfs.service",
    "modprobe@drm.service",
    "modprobe@efi_pstore.service",
    "modprobe@fuse.service",
];

/// Generators that look for what a node does not have.
const NO_GENERATORS: &[&str] =
    &["systemd-ssh-generator", "systemd-gpt-auto-generator", "systemd-hibernate-resume-generator"];

/// One entry of the layer, by its path.
enum Entry {
    Folder,
    Bytes(Vec<u8>),
    /// A file to copy, and whether it can be executed.
    File(PathBuf, bool),
    Link(String),
}

/// The site layer of these ingredients: from the cache, or made now.
pub(crate) fn layer(
    cluster: &Cluster,
    ingredients: &Ingredients<'_>,
    cache: &Path,
    cancel: &Cancel,
    progress: &dyn Fn(&str),
) -> Result<PathBuf, Error> {
    let tree = tree(cluster, ingredients)?;
    let sites = cache.join("sites");
    fs::create_dir_all(&sites).map_err(Error::file("cannot make the cache", &sites))?;
    let layer = sites.join(format!("{}.squashfs", key(&tree)?));
    if layer.exists() {
        return Ok(layer);
    }
    progress("site layer");
    let building = tempfile::Builder::new()
        .prefix(".building-")
        .tempdir_in(&sites)
        .map_err(Error::file("cannot make a folder for the build", &sites))?;
    let archive = building.path().join("site.tar");
    pack(&tree, &archive)?;
    let new = building.path().join("site.squashfs");
    root::squash(&archive, &new, 6, cancel)?;
    bramble_system::files::publish(&new, &layer).map_err(Error::file("cannot move the layer to its place", &layer))?;
    Ok(layer)
}

fn tree(cluster: &Cluster, ingredients: &Ingredients<'_>) -> Result<BTreeMap<String, Entry>, Error> {
    let mut tree = BTreeMap::new();
    let engines: Vec<_> = cluster.engines().into_iter().map(parts).collect();
    for (path, text) in STOCK.iter().chain(engines.iter().flat_map(|parts| parts.files)) {
        tree.insert((*path).to_owned(), Entry::Bytes(text.as_bytes().to_vec()));
    }
    for (target, unit) in ENABLED.iter().chain(engines.iter().flat_map(|parts| parts.enabled)) {
        let place = if tree.contains_key(&format!("etc/systemd/system/{unit}")) { "/etc" } else { "/usr/lib" };
        tree.insert(
            format!("etc/systemd/system/{target}/{unit}"),
            Entry::Link(format!("{place}/systemd/system/{unit}")),
        );
    }
    for unit in MASKED.iter().chain(engines.iter().flat_map(|parts| parts.masked)) {
        tree.insert(format!("etc/systemd/system/{unit}"), Entry::Link("/dev/null".into()));
    }
    for generator in NO_GENERATORS {
        tree.insert(format!("etc/systemd/system-generators/{generator}"), Entry::Link("/dev/null".into()));
    }
    tree.insert("usr/bin/bramble".into(), Entry::File(ingredients.agent.to_owned(), true));
    tree.insert("etc/bramble/ca.pem".into(), Entry::Bytes(ingredients.ca.as_bytes().to_vec()));
    tree.insert("etc/resolv.conf".into(), Entry::Link("/run/bramble/resolv.conf".into()));
    for path in &cluster.image.containers {
        if !container::runs_on(path, ingredients.architecture)? {
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        tree.insert(format!("{CONTAINERS}/{name}"), Entry::File(path.clone(), false));
    }
    if let Some(overlay) = &cluster.image.overlay {
        walk(overlay, "", &mut tree).map_err(Error::file("cannot read the overlay", overlay))?;
    }
    let folders: Vec<String> =
        tree.keys().flat_map(|path| path.match_indices('/').map(|(at, _)| path[..at].to_owned())).collect();
    for folder in folders {
        tree.entry(folder).or_insert(Entry::Folder);
    }
    Ok(tree)
}

fn walk(folder: &Path, prefix: &str, tree: &mut BTreeMap<String, Entry>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name =
            entry.file_name().into_string().map_err(|name| io::Error::other(format!("{name:?} is not UTF-8")))?;
        let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        let kind = entry.file_type()?;
        if kind.is_dir() {
            tree.insert(path.clone(), Entry::Folder);
            walk(&entry.path(), &path, tree)?;
        } else if kind.is_symlink() {
            let target = fs::read_link(entry.path())?;
            tree.insert(path, Entry::Link(target.to_string_lossy().into_owned()));
        } else if kind.is_file() {
            let executable = entry.metadata()?.permissions().mode() & 0o100 != 0;
            tree.insert(path, Entry::File(entry.path(), executable));
        } else {
            return Err(io::Error::other(format!("{path} is neither file, folder nor link")));
        }
    }
    Ok(())
}

/// Names the layer that this tree makes, in the cache.
fn key(tree: &BTreeMap<String, Entry>) -> Result<String, Error> {
    let mut hash = Sha256::new();
    hash.update(VERSION.to_le_bytes());
    for (path, entry) in tree {
        let (kind, content): (u8, Digest) = match entry {
            Entry::Folder => (0, Digest([0; 32])),
            Entry::Bytes(bytes) => (1, Digest(Sha256::digest(bytes).into())),
            Entry::File(source, executable) => (2 + u8::from(*executable), digest_of(source)?),
            Entry::Link(target) => (4, Digest(Sha256::digest(target).into())),
        };
        hash.update(path);
        hash.update([0, kind]);
        hash.update(content.0);
    }
    Ok(Digest(hash.finalize().into()).to_string())
}

pub(crate) fn digest_of(path: &Path) -> Result<Digest, Error> {
    let mut file = File::open(path).map_err(Error::file("cannot read", path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(Error::file("cannot read", path))? {
            0 => return Ok(Digest(hash.finalize().into())),
            read => hash.update(&buffer[..read]),
        }
    }
}

fn pack(tree: &BTreeMap<String, Entry>, archive: &Path) -> Result<(), Error> {
    let file = File::create(archive).map_err(Error::file("cannot write", archive))?;
    let mut builder = tar::Builder::new(io::BufWriter::new(file));
    let mut append = |path: &str, entry: &Entry| {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(EPOCH);
        header.set_mode(0o644);
        header.set_size(0);
        match entry {
            Entry::Folder => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(0o755);
                builder.append_data(&mut header, path, io::empty())
            }
            Entry::Bytes(bytes) => {
                header.set_size(bytes.len() as u64);
                builder.append_data(&mut header, path, &bytes[..])
            }
            Entry::File(source, executable) => {
                let file = File::open(source)?;
                header.set_size(file.metadata()?.len());
                header.set_mode(if *executable { 0o755 } else { 0o644 });
                builder.append_data(&mut header, path, file)
            }
            Entry::Link(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o777);
                builder.append_link(&mut header, path, target)
            }
        }
    };
    for (path, entry) in tree {
        let source = match entry {
            Entry::File(source, _) => source,
            _ => archive,
        };
        append(path, entry).map_err(Error::file("cannot pack the site layer", source))?;
    }
    builder.into_inner().and_then(|mut file| io::Write::flush(&mut file)).map_err(Error::file("cannot write", archive))
}
