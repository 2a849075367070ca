//! The node's data partition: the one that the head names, and no other.
//!
//! ```text
//! bramble.data=GUID ─▶ tables of all disks ─▶ one partition ─▶ mounted ─▶ folders bound into the root
//!                            │ none, two, or it cannot be used: that is said, and the node goes on without
//! ```
//! Whatever lies on it may be anybody's: programs get no rights by their mode, device files are none, stage 1 follows no link,
//! layers and manifests of it count by their digests alone, and nothing starts from it before the agent was let in
//! ([`bramble_boot::UNTRUSTED_DATA`]).

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use bramble_boot::{AGENT_FOLDER, Failure, PartitionId, Step, UNTRUSTED_DATA};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_bind, mount_remount};

use crate::drivers::Drivers;
use crate::error::{Doing, Error};
use crate::gpt;
use crate::manifest::DataFolder;
use crate::report::Reporter;

/// Where it is mounted for stage 1.
const MOUNT: &str = "/run/bramble/data";
/// The name that such partitions had when it was enough.
const FORMER_NAME: &str = "bramble-data";
/// How long a disk may take to appear: those on USB that have to spin up take longest.
const PATIENCE: Duration = Duration::from_secs(30);
const OFTEN: Duration = Duration::from_millis(250);

/// What is allowed of the partition: no device files, no rights by a file's mode.
const FLAGS: MountFlags = MountFlags::NOATIME.union(MountFlags::NODEV).union(MountFlags::NOSUID);

/// A partition of this machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Partition {
    device: PathBuf,
    id: PartitionId,
    name: String,
}

/// Why the data partition that the head names is not used.
#[derive(Debug, PartialEq, Eq)]
enum Unused {
    Missing { others: Vec<PartitionId> },
    Twice(PathBuf, PathBuf),
}

impl fmt::Display for Unused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unused::Missing { others } => {
                write!(f, "it is on no disk of this machine")?;
                for other in others {
                    write!(f, "; one that is named {FORMER_NAME} has the GUID {other}")?;
                }
                Ok(())
            }
            Unused::Twice(one, other) => write!(
                f,
                "both {} and {} have its GUID, as after a disk was copied: take one of them out",
                one.display(),
                other.display()
            ),
        }
    }
}

/// Mounts this node's data partition; `None` where it is not to be used, which is told.
pub fn open(wanted: PartitionId, drivers: &mut Drivers, reporter: &mut Reporter) -> Option<PathBuf> {
    let mounted = wait(wanted, drivers, reporter).and_then(|device| {
        drivers.load(&["ext4"])?;
        fs::create_dir_all(MOUNT).doing("cannot make a mount point")?;
        // Links on it lead nowhere while stage 1 reads and writes there.
        match mount(&device, MOUNT, "ext4", FLAGS | MountFlags::NOSYMFOLLOW, None) {
            Ok(()) | Err(Errno::BUSY) => {
                fs::write(UNTRUSTED_DATA, "").doing("cannot mark the data partition as untrusted")
            }
            Err(error) => Err(error).doing(format_args!("cannot mount {}", device.display())),
        }
    });
    match mounted {
        Ok(()) => Some(MOUNT.into()),
        Err(error) => {
            tell(wanted, &error, reporter);
            None
        }
    }
}

/// A damaged disk must not keep the node down: it boots without, and says so.
fn tell(wanted: PartitionId, error: &Error, reporter: &mut Reporter) {
    let sentence = format!("the data partition {wanted} of this node is not used: {error}");
    reporter.remark(&Error::new(Failure::Data, sentence));
}

/// Tells of partitions that a release before mounted by their name, where the repository does not say that one is this
/// node's: what is on them is missed.
pub fn tell_of_former(reporter: &mut Reporter) {
    // The kernel says the names: where there is no such one, no disk has to answer.
    let is_former = |entry: fs::DirEntry| {
        let said = fs::read_to_string(entry.path().join("uevent")).unwrap_or_default();
        said.lines().any(|line| line.strip_prefix("PARTNAME=") == Some(FORMER_NAME))
    };
    if !fs::read_dir("/sys/class/block").into_iter().flatten().flatten().any(is_former) {
        return;
    }
    for former in partitions(Path::new("/sys/class/block"), Path::new("/dev")) {
        if former.name == FORMER_NAME {
            let sentence = format!(
                "a partition named {FORMER_NAME} is not used: the repository does not say that {} is the data partition of \
                 this node",
                former.id
            );
            reporter.remark(&Error::new(Failure::Data, sentence));
        }
    }
}

/// The partition's device, once it is there.
fn wait(wanted: PartitionId, drivers: &mut Drivers, reporter: &mut Reporter) -> Result<PathBuf, Error> {
    let until = Instant::now() + PATIENCE;
    loop {
        let unused = match choose(wanted, partitions(Path::new("/sys/class/block"), Path::new("/dev"))) {
            Ok(device) => return Ok(device),
            Err(unused) => unused,
        };
        if Instant::now() >= until || matches!(unused, Unused::Twice(..)) {
            return Err(Error::new(Failure::Data, unused.to_string()));
        }
        reporter.step(Step::Data, None);
        thread::sleep(OFTEN);
        // What has appeared behind a bus may want a driver of its own.
        drivers.load_for_devices()?;
    }
}

/// The one partition that is wanted.
fn choose(wanted: PartitionId, found: BTreeSet<Partition>) -> Result<PathBuf, Unused> {
    let (own, others): (Vec<_>, Vec<_>) = found.into_iter().partition(|partition| partition.id == wanted);
    let mut own = own.into_iter().map(|partition| partition.device);
    match (own.next(), own.next()) {
        (Some(device), None) => Ok(device),
        (Some(one), Some(other)) => Err(Unused::Twice(one, other)),
        (None, _) => {
            let others = others.into_iter().filter(|other| other.name == FORMER_NAME).map(|other| other.id).collect();
            Err(Unused::Missing { others })
        }
    }
}

/// All partitions of this machine whose entries the kernel has read in the same way. `class` is `/sys/class/block`
/// (sysfs-block(5)), whose entries are links to `…/DISK/PARTITION`.
fn partitions(class: &Path, dev: &Path) -> BTreeSet<Partition> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(class).into_iter().flatten().flatten() {
        let (folder, disk) = (entry.path(), entry.file_name());
        let of_disk = |name: &str| number(&folder.join(name));
        let (Some(block), Some(sectors), None) =
            (of_disk("queue/logical_block_size"), of_disk("size"), of_disk("partition"))
        else {
            continue;
        };
        let parts: Vec<_> = fs::read_dir(&folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|part| Some((number(&part.path().join("partition"))?, part)))
            .collect();
        if parts.is_empty() || block == 0 {
            continue;
        }
        let opened = File::open(dev.join(&disk));
        let entries = match opened.and_then(|mut file| gpt::entries(&mut file, block, sectors * 512 / block)) {
            Ok(entries) => entries,
            Err(error) => {
                eprintln!("bramble: cannot read the partitions of {}: {error}", disk.display());
                continue;
            }
        };
        for (index, part) in parts {
            let [start, length] = ["start", "size"].map(|name| number(&part.path().join(name)));
            // The kernel counts in 512 bytes, whatever the disk does.
            let is_this = |entry: &&gpt::Entry| {
                entry.number == index
                    && entry.first.checked_mul(block) == start.and_then(|start| start.checked_mul(512))
                    && entry.blocks.checked_mul(block) == length.and_then(|length| length.checked_mul(512))
            };
            if let Some(entry) = entries.iter().find(is_this) {
                let device = dev.join(part.file_name());
                found.insert(Partition { device, id: entry.id, name: entry.name.clone() });
            }
        }
    }
    found
}

/// The number in a file of sysfs.
fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Makes the folders on the partition that the root gets; gives it back where all are there. One that cannot be written is
/// not used.
pub fn prepared(
    data: Option<PathBuf>,
    wanted: Option<PartitionId>,
    folders: &[DataFolder],
    reporter: &mut Reporter,
) -> Option<PathBuf> {
    let (data, wanted) = (data?, wanted?);
    let make = |name: &str| {
        let (folder, probe) = (data.join(name), data.join(name).join(".bramble-probe"));
        fs::create_dir_all(&folder).doing(format_args!("cannot make the folder {name} on it"))?;
        // A file system that has turned read-only has the folders all the same.
        fs::write(&probe, "").and_then(|()| fs::remove_file(&probe)).doing(format_args!("cannot write to {name} on it"))
    };
    let made = folders.iter().map(|folder| folder.name.as_str()).chain([AGENT_FOLDER]).try_for_each(make);
    match made {
        Ok(()) => Some(data),
        Err(error) => {
            tell(wanted, &error, reporter);
            None
        }
    }
}

/// Binds a folder of the partition into the root. Engines make links in theirs.
pub fn bind(data: &Path, name: &str, target: &str) -> Result<(), Error> {
    bind_with(data, name, target, FLAGS)
}

fn bind_with(data: &Path, name: &str, target: &str, flags: MountFlags) -> Result<(), Error> {
    mount_bind(data.join(name), target).doing(format_args!("cannot mount {target}"))?;
    mount_remount(target, MountFlags::BIND | flags, c"").doing(format_args!("cannot mount {target} again"))
}

/// Binds the agent's folder: its key survives where there is something for it to survive on. It reads that before the head
/// has let the node in, and follows no link.
pub fn bind_agent(data: &Path, target: &str) -> Result<(), Error> {
    bind_with(data, AGENT_FOLDER, target, FLAGS | MountFlags::NOSYMFOLLOW | MountFlags::NOEXEC)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const OWN: &str = "0fc63daf-8483-4772-8e79-3d69d8477de4";
    const OTHER: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";

    fn id(text: &str) -> PartitionId {
        text.parse().expect("a GUID")
    }

    /// A machine with these disks, each of one partition that sfdisk made, as sysfs shows it.
    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new(disks: &[(&str, &str)]) -> Self {
            let machine = Machine(tempfile::tempdir().expect("a folder"));
            for folder in ["class", "dev", "devices"] {
                fs::create_dir(machine.0.path().join(folder)).expect("made");
            }
            for (disk, id) in disks {
                machine.plug(disk, id);
            }
            machine
        }

        fn plug(&self, disk: &str, id: &str) {
            let at = |place: String| self.0.path().join(place);
            let device = at(format!("dev/{disk}"));
            gpt::tests::partition(&device, &format!("start=1MiB, size=2MiB, uuid={id}, name={FORMER_NAME}\n"));
            let folder = at(format!("devices/{disk}"));
            let part = folder.join(format!("{disk}1"));
            fs::create_dir_all(folder.join("queue")).and_then(|()| fs::create_dir(&part)).expect("made");
            let files = [("queue/logical_block_size", 512), ("size", 16384)];
            let of_part = [("partition", 1), ("start", 2048), ("size", 4096)];
            for (folder, files) in [(&folder, &files[..]), (&part, &of_part)] {
                for (name, number) in files {
                    fs::write(folder.join(name), format!("{number}\n")).expect("written");
                }
            }
            symlink(&folder, at(format!("class/{disk}"))).expect("linked");
            symlink(&part, at(format!("class/{disk}1"))).expect("linked");
        }

        fn partitions(&self) -> BTreeSet<Partition> {
            partitions(&self.0.path().join("class"), &self.0.path().join("dev"))
        }
    }

    #[test]
    fn the_partition_that_the_head_names_is_found_and_no_other_one_by_its_name() {
        let machine = Machine::new(&[("sda", OTHER), ("sdb", OWN)]);
        let device = choose(id(OWN), machine.partitions()).expect("one");
        assert_eq!(device, machine.0.path().join("dev/sdb1"));
        let stick = Machine::new(&[("sdc", OTHER)]);
        let missing = choose(id(OWN), stick.partitions()).expect_err("a stick with such a name");
        assert_eq!(missing, Unused::Missing { others: vec![id(OTHER)] });
        assert!(missing.to_string().ends_with(OTHER), "whoever means it can write that down: {missing}");
    }

    #[test]
    fn of_two_disks_that_say_to_be_the_nodes_neither_is_used() {
        let machine = Machine::new(&[("sda", OWN), ("sdb", OWN)]);
        let twice = choose(id(OWN), machine.partitions()).expect_err("two");
        assert!(twice.to_string().contains("sda1") && twice.to_string().contains("sdb1"), "{twice}");
    }

    /// The table was changed since the kernel read it, or it is another disk's.
    #[test]
    fn a_partition_that_the_kernel_has_elsewhere_is_not_the_one_of_the_table() {
        let machine = Machine::new(&[("sda", OWN)]);
        fs::write(machine.0.path().join("devices/sda/sda1/start"), "4096\n").expect("written");
        assert_eq!(machine.partitions(), BTreeSet::new());
    }
}
