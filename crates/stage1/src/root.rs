//! The root: verified layers under an overlay in memory, and the switch to it.

use std::ffi::CStr;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use bramble_boot::{Arguments, BOOT_FILE, Failure, HandOver};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_move};

use sha2::{Digest, Sha256};

use crate::claim::Proof;
use crate::data;
use crate::error::{Doing, Error};
use crate::loop_device;
use crate::manifest::{DataFolder, hex};

/// Where the root is put together.
const NEW: &str = "/new";

/// What the kernel's own file systems show, before anything else.
pub fn early_mounts() -> Result<(), Error> {
    let plain = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    once("proc", "/proc", "proc", plain, None)?;
    once("sysfs", "/sys", "sysfs", plain, None)?;
    once("devtmpfs", "/dev", "devtmpfs", MountFlags::NOSUID, None)?;
    once("tmpfs", "/run", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=0755,size=80%"))?;
    fs::create_dir_all("/run/bramble").doing("cannot make /run/bramble")
}

/// Mounts, where it is not mounted yet.
fn once(source: &str, target: &str, kind: &str, flags: MountFlags, data: Option<&CStr>) -> Result<(), Error> {
    match mount(source, target, kind, flags, data) {
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(error) => Err(error).doing(format_args!("cannot mount {target}")),
    }
}

/// Puts the root together in [`NEW`]. `grow` are the manifest's folders, `data` is the data partition.
pub fn assemble(layers: &[PathBuf], grow: &[DataFolder], data: Option<&Path>) -> Result<(), Error> {
    let mut lower = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        let place = format!("/run/bramble/layer{index}");
        fs::create_dir_all(&place).doing("cannot make a mount point")?;
        let device = loop_device::attach(layer)?;
        mount(&device, &place, "squashfs", MountFlags::RDONLY | MountFlags::NODEV, None)
            .doing(format_args!("cannot mount layer {}", layer.display()))?;
        lower.push(place);
    }
    lower.reverse();
    let upper = "/run/bramble/upper";
    fs::create_dir_all(upper).doing("cannot make a mount point")?;
    once("tmpfs", upper, "tmpfs", MountFlags::empty(), Some(c"mode=0755,size=50%"))?;
    for name in ["root", "work"] {
        fs::create_dir_all(format!("{upper}/{name}")).doing("cannot make the upper layer")?;
    }
    let options = format!("lowerdir={},upperdir={upper}/root,workdir={upper}/work\0", lower.join(":"));
    let options = CStr::from_bytes_with_nul(options.as_bytes()).expect("one NUL, at the end");
    fs::create_dir_all(NEW).doing("cannot make a mount point")?;
    mount("overlay", NEW, "overlay", MountFlags::empty(), Some(options)).doing("cannot mount the root")?;
    // overlayfs refuses an overlay as its upper layer, and engines make overlays.
    for DataFolder { name, path } in grow {
        let target = format!("{NEW}{path}");
        fs::create_dir_all(&target).doing("cannot make a folder for the engine")?;
        match data {
            Some(data) => data::bind(data, name, &target)?,
            None => once("tmpfs", &target, "tmpfs", MountFlags::empty(), Some(c"mode=0711,size=80%"))?,
        }
    }
    if let Some(data) = data {
        let target = format!("{NEW}/var/lib/bramble");
        fs::create_dir_all(&target).doing("cannot make a folder for the agent")?;
        data::bind_agent(data, &target)?;
    }
    Ok(())
}

/// What the root needs to know of this boot.
pub fn hand_over(arguments: &Arguments, proof: Proof, interface: &str) -> Result<(), Error> {
    let boot = HandOver {
        node: arguments.node.clone(),
        boot: arguments.boot.clone(),
        nonce: proof.nonce,
        report: proof.report,
        set: arguments.set.clone(),
        head: (*arguments.head.ip()).into(),
        http_port: arguments.head.port(),
        agent_port: arguments.agent_port,
        address: arguments.address.into(),
        interface: interface.to_owned(),
        inventory: arguments.inventory,
    };
    let mut file = OpenOptions::new();
    let file = file.write(true).create(true).truncate(true).mode(0o600).open(BOOT_FILE);
    let written = file.and_then(|mut file| file.write_all(boot.render().as_bytes()));
    written.doing("cannot write what the agent needs")?;
    let dns = arguments.dns.map(|server| format!("nameserver {server}\n")).unwrap_or_default();
    fs::write("/run/bramble/resolv.conf", dns).doing("cannot write resolv.conf")?;
    fs::write(format!("{NEW}/etc/hostname"), format!("{}\n", arguments.node)).doing("cannot write the host name")?;
    // An identity of this boot's own. The image's says "uninitialized", and systemd would take that
    // for the first start of a new installation, with every unit's preset applied.
    let id = hex(&Sha256::digest(&arguments.boot)[..16]);
    fs::write(format!("{NEW}/etc/machine-id"), format!("{id}\n")).doing("cannot write the machine id")?;
    // The address stays while networkd takes over, so the agent can speak at once; the lease that
    // networkd then gets is for the same MAC and so the same address.
    let mac = arguments.mac.map(|byte| format!("{byte:02x}")).join(":");
    let folder = "/run/systemd/network";
    fs::create_dir_all(folder).doing("cannot make a folder for networkd")?;
    let network = format!(
        "[Match]\nMACAddress={mac}\n\n[Network]\nDHCP=ipv4\nKeepConfiguration=yes\nLLMNR=no\nMulticastDNS=no\n\n\
         [DHCPv4]\nClientIdentifier=mac\nUseDomains=yes\nSendRelease=no\n"
    );
    fs::write(format!("{folder}/10-boot.network"), network).doing("cannot write the network's settings")
}

/// Leaves the initrd for the root, and stage 1 for systemd. Returns only when that failed, and
/// then nothing can be tried again: the root is half moved.
pub fn switch() -> Error {
    match enter().doing("cannot change to the root") {
        Ok(()) => {
            let error = Command::new("/usr/lib/systemd/systemd").env_clear().exec();
            Error::new(Failure::Machine, format!("cannot start systemd: {error}"))
        }
        Err(error) => error,
    }
}

fn enter() -> std::io::Result<()> {
    for place in ["/dev", "/proc", "/sys", "/run"] {
        mount_move(place, format!("{NEW}{place}"))?;
    }
    // The initrd's files lie in memory; nothing needs them any more.
    for folder in ["/lib", "/etc"] {
        let _ = fs::remove_dir_all(folder);
    }
    let _ = fs::remove_file("/init");
    std::env::set_current_dir(NEW)?;
    mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    std::env::set_current_dir("/")
}
