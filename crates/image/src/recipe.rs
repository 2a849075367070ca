//! What goes into a root: the stock recipe, the engine's packages and the cluster's own.

use bramble_engine::parts::parts;
use bramble_model::boot_set::Architecture;
use bramble_model::repository::Cluster;
use sha2::{Digest as _, Sha256};

/// Counts up when the way a root is made changes, so that no cached root outlives its recipe.
const VERSION: u32 = 6;

/// Packages that every node has.
///
/// No D-Bus: systemd, networkd and the engines speak over systemd's own socket, and it would be one
/// more thing to start. `tiny-initramfs` satisfies the kernel's dependency on some initramfs
/// maker at the least cost: the initrd is made here.
const STOCK: [&str; 11] = [
    "ca-certificates",
    "e2fsprogs",
    "iproute2",
    "kmod",
    "netbase",
    "nftables",
    "openssh-server",
    "systemd-sysv",
    "systemd-timesyncd",
    "tiny-initramfs",
    "udev",
];

/// Files that no node needs: documentation, and drivers for what a cluster node does not have
/// (sound, screens, cameras, radios, sensors). With those of the engines they are left out when packages are unpacked.
const LEFT_OUT: &[&str] = &[
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

/// Runs in the fresh root (`$1`). Host keys are each machine's own; the rest
/// is what changes from build to build and nobody reads.
pub(crate) const CLEAN: &str = r#"rm -rf "$1"/etc/ssh/ssh_host_* "$1"/boot/initrd.img* "$1"/boot/System.map* \
    "$1"/boot/config-* "$1"/var/cache/ldconfig "$1"/var/log/* "$1"/initrd.img* "$1"/vmlinuz*"#;

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

/// The packages with what the firmware of an architecture fetches. `raspi-firmware` is in Debian's `non-free-firmware`.
pub(crate) fn firmware_packages(architecture: Architecture) -> &'static [&'static str] {
    match architecture {
        Architecture::Amd64 => &["shim-signed", "grub-efi-amd64-signed"],
        Architecture::Arm64 => &["shim-signed", "grub-efi-arm64-signed", "ipxe", "raspi-firmware"],
    }
}

/// The inputs of a root layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recipe {
    pub(crate) suite: String,
    pub(crate) architecture: Architecture,
    /// Sorted, each once.
    pub(crate) packages: Vec<String>,
    /// Patterns of files in them that no node needs.
    pub(crate) left_out: Vec<&'static str>,
}

impl Recipe {
    pub(crate) fn of(cluster: &Cluster, architecture: Architecture) -> Self {
        let engines: Vec<_> = cluster.engines().into_iter().map(parts).collect();
        let of_engines = engines.iter().flat_map(|parts| parts.packages).copied();
        let mut packages: Vec<String> = STOCK.into_iter().chain(of_engines).map(str::to_owned).collect();
        packages.push(format!("linux-image-{architecture}"));
        packages.extend(cluster.image.packages.iter().cloned());
        packages.sort();
        packages.dedup();
        let left_out = LEFT_OUT.iter().chain(engines.iter().flat_map(|parts| parts.left_out)).copied().collect();
        Recipe { suite: cluster.image.suite.clone(), architecture, packages, left_out }
    }

    /// Names the root that this recipe makes, in the cache.
    pub(crate) fn key(&self) -> String {
        let mut hash = Sha256::new();
        for part in
            [&VERSION.to_string(), &self.suite, self.architecture.as_str(), CLEAN].into_iter().map(|part| part as &str)
        {
            hash.update(part);
            hash.update([0]);
        }
        let mut more: Vec<&str> = crate::modules::wanted(self.architecture).collect();
        more.extend(firmware_packages(self.architecture));
        more.extend(&self.left_out);
        more.extend(self.packages.iter().map(String::as_str));
        for part in more {
            hash.update(part);
            hash.update([0]);
        }
        bramble_model::names::Digest(hash.finalize().into()).short()
    }
}
