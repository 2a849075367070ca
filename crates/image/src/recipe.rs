//! What goes into a root: the stock recipe, the engine's packages and the cluster's own.

use bramble_model::boot_set::Architecture;
use bramble_model::repository::{Cluster, EngineKind};
use sha2::{Digest as _, Sha256};

/// Counts up when the way a root is made changes, so that no cached root outlives its recipe.
const VERSION: u32 = 6;

/// Packages that every node has.
///
/// No D-Bus: systemd, networkd and Docker speak over systemd's own socket, and it would be one
/// more thing to start. `tiny-initramfs` satisfies the kernel's dependency on some initramfs
/// maker at the least cost: the initrd is made here.
const STOCK: [&str; 10] = [
    "ca-certificates",
    "e2fsprogs",
    "iproute2",
    "kmod",
    "netbase",
    "openssh-server",
    "systemd-sysv",
    "systemd-timesyncd",
    "tiny-initramfs",
    "udev",
];

const SWARM: [&str; 3] = ["docker.io", "docker-cli", "iptables"];

/// Files that no node needs: documentation, and drivers for what a cluster node does not have
/// (sound, screens, cameras, radios, sensors), the tools of Docker that this recipe does not use. They are left out when packages are unpacked.
pub(crate) const LEFT_OUT: &[&str] = &[
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/lintian/*",
    "/usr/share/bug/*",
    "/usr/lib/modules/*/kernel/sound/*",
    "/usr/lib/modules/*/kernel/drivers/media/*",
    "/usr/lib/modules/*/kernel/drivers/gpu/drm/*/*",
    "/usr/lib/modules/*/kernel/drivers/net/wireless/*",
    "/usr/lib/modules/*/kernel/drivers/net/can/*",
    "/usr/lib/modules/*/kernel/drivers/iio/*",
    "/usr/lib/modules/*/kernel/drivers/comedi/*",
    "/usr/lib/modules/*/kernel/drivers/staging/*",
    "/usr/lib/modules/*/kernel/drivers/infiniband/*",
    "/usr/lib/modules/*/kernel/drivers/bluetooth/*",
    "/usr/lib/modules/*/kernel/drivers/isdn/*",
    "/usr/lib/modules/*/kernel/net/bluetooth/*",
    "/usr/lib/modules/*/kernel/net/wireless/*",
    "/usr/lib/modules/*/kernel/net/mac80211/*",
    "/usr/bin/ctr",
    "/usr/bin/containerd-shim",
    "/usr/bin/containerd-shim-runc-v1",
    "/usr/sbin/docker-proxy",
    "/usr/lib/udev/hwdb.d/*",
    "/usr/lib/*/gconv/*",
    "/usr/lib/modules/*/kernel/drivers/accel/*",
    "/usr/lib/modules/*/kernel/drivers/mtd/*",
    "/usr/lib/modules/*/kernel/drivers/usb/gadget/*",
    "/usr/lib/modules/*/kernel/drivers/scsi/lpfc/*",
    "/usr/lib/modules/*/kernel/drivers/scsi/qla2xxx/*",
    "/usr/lib/modules/*/kernel/drivers/video/fbdev/*",
    "/usr/lib/modules/*/kernel/fs/bcachefs/*",
    "/usr/lib/modules/*/kernel/fs/ocfs2/*",
    "/usr/lib/modules/*/kernel/fs/f2fs/*",
];

/// Kernel arguments that every node gets. Nothing reads the audit log, which would grow by a line
/// with each change of the packet filter.
const CMDLINE: &str = "panic=30 systemd.getty_auto=no systemd.show_status=no net.ifnames=0 audit=0";

/// Kernel arguments of the nodes of an architecture. `/dev/console` is the last console that exists:
/// arm64 boards and servers have a PL011 (`ttyAMA0`), some boards an 8250.
pub(crate) fn cmdline(architecture: Architecture) -> String {
    let consoles = match architecture {
        Architecture::Amd64 => "console=tty0 console=ttyS0,115200n8",
        Architecture::Arm64 => "console=tty0 console=ttyS0,115200n8 console=ttyAMA0,115200n8",
    };
    format!("quiet {consoles} {CMDLINE}")
}

/// The inputs of a root layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recipe {
    pub(crate) suite: String,
    pub(crate) architecture: Architecture,
    /// Sorted, each once.
    pub(crate) packages: Vec<String>,
}

impl Recipe {
    pub(crate) fn of(cluster: &Cluster, architecture: Architecture) -> Self {
        let engine = match cluster.engine {
            EngineKind::Swarm => SWARM,
        };
        let mut packages: Vec<String> = STOCK.into_iter().chain(engine).map(str::to_owned).collect();
        packages.push(format!("linux-image-{architecture}"));
        packages.extend(cluster.image.packages.iter().cloned());
        packages.sort();
        packages.dedup();
        Recipe { suite: cluster.image.suite.clone(), architecture, packages }
    }

    /// Names the root that this recipe makes, in the cache.
    pub(crate) fn key(&self) -> String {
        let mut hash = Sha256::new();
        for part in [&VERSION.to_string(), &self.suite, self.architecture.as_str(), crate::root::CLEAN]
            .into_iter()
            .map(|part| part as &str)
        {
            hash.update(part);
            hash.update([0]);
        }
        let mut parts: Vec<&str> = crate::modules::wanted(self.architecture).collect();
        parts.extend(crate::firmware::packages(self.architecture));
        parts.extend(LEFT_OUT);
        parts.extend(self.packages.iter().map(String::as_str));
        for part in parts {
            hash.update(part);
            hash.update([0]);
        }
        bramble_model::names::Digest(hash.finalize().into()).short()
    }
}
