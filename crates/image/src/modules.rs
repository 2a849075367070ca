//! Which drivers the initrd carries: all that a netboot or a data partition can need, with what
//! they depend on, and no others.

use std::collections::{BTreeMap, BTreeSet};

use bramble_model::boot_set::Architecture;

/// Drivers of every architecture, by path below `kernel/` of the module tree; a trailing slash takes a whole folder.
const WANTED: [&str; 31] = [
    // Network cards, and what stands between them and the wire.
    "drivers/net/ethernet/",
    "drivers/net/phy/",
    "drivers/net/mdio/",
    "drivers/net/pcs/",
    "drivers/net/usb/",
    "drivers/net/dsa/",
    "drivers/net/hyperv/",
    "drivers/net/vmxnet3/",
    "drivers/net/virtio_net",
    "drivers/net/xen-netfront",
    "drivers/pci/controller/",
    "drivers/hv/hv_vmbus",
    // Buses on which a USB network card or disk may hang.
    "drivers/usb/host/",
    "drivers/usb/storage/",
    // Disks that may hold a data partition.
    "drivers/ata/ahci",
    "drivers/ata/libahci",
    "drivers/ata/ata_piix",
    "drivers/ata/ata_generic",
    "drivers/block/virtio_blk",
    "drivers/block/loop",
    "drivers/nvme/host/nvme",
    "drivers/scsi/sd_mod",
    "drivers/scsi/virtio_scsi",
    "drivers/mmc/core/mmc_block",
    "drivers/mmc/host/sdhci-pci",
    "drivers/mmc/host/sdhci-acpi",
    "drivers/virtio/",
    // File systems of layers and data partition.
    "fs/squashfs/",
    "fs/overlayfs/",
    "fs/ext4/",
    // The checksum that ext4 asks the kernel's crypto interface for, by name and not as a module.
    "crypto/crc32c_generic",
];

/// And of one architecture. Boards hide their network cards and USB ports behind clocks, regulators,
/// pins and buses, each with a driver of its own.
const WANTED_AMD64: [&str; 1] = ["arch/x86/crypto/crc32c-intel"];
const WANTED_ARM64: [&str; 17] = [
    "drivers/bus/",
    "drivers/clk/",
    "drivers/firmware/",
    "drivers/gpio/",
    "drivers/i2c/busses/",
    "drivers/mailbox/",
    "drivers/mfd/",
    "drivers/mmc/host/",
    "drivers/phy/",
    "drivers/pinctrl/",
    "drivers/regulator/",
    "drivers/reset/",
    "drivers/soc/",
    "drivers/usb/dwc2/",
    "drivers/usb/dwc3/",
    "drivers/nvmem/",
    "drivers/power/reset/",
];

/// The drivers that an initrd for this architecture carries.
pub(crate) fn wanted(architecture: Architecture) -> impl Iterator<Item = &'static str> {
    let more: &[&str] = match architecture {
        Architecture::Amd64 => &WANTED_AMD64,
        Architecture::Arm64 => &WANTED_ARM64,
    };
    WANTED.iter().chain(more).copied()
}

/// Ethernet families of data centres: over 100 Gbit/s, megabytes of driver each.
const LEFT_OUT: [&str; 8] = [
    "drivers/net/ethernet/mellanox/mlxsw",
    "drivers/net/ethernet/netronome",
    "drivers/net/ethernet/chelsio",
    "drivers/net/ethernet/qlogic",
    "drivers/net/ethernet/sfc",
    "drivers/net/ethernet/pensando",
    "drivers/net/ethernet/brocade",
    "drivers/net/ethernet/cavium",
];

/// The modules to carry, as paths relative to the module tree, dependencies included.
/// `dep` is the text of `modules.dep`, `softdep` that of `modules.softdep`.
pub(crate) fn choose(architecture: Architecture, dep: &str, softdep: &str) -> BTreeSet<String> {
    let needs: BTreeMap<&str, Vec<&str>> = dep
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(module, needs)| (module, needs.split_whitespace().collect()))
        .collect();
    let by_name: BTreeMap<String, &str> = needs.keys().map(|path| (name_of(path), *path)).collect();
    let soft: BTreeMap<String, Vec<&str>> = softdep
        .lines()
        .filter_map(|line| line.strip_prefix("softdep "))
        .filter_map(|line| line.split_once(' '))
        .map(|(module, rest)| {
            let names = rest.split_whitespace().filter(|word| !word.ends_with(':'));
            let paths = names.filter_map(|name| by_name.get(&name.replace('-', "_")).copied()).collect();
            (module.replace('-', "_"), paths)
        })
        .collect();
    let mut chosen = BTreeSet::new();
    let mut open: Vec<&str> = needs.keys().copied().filter(|path| is_wanted(architecture, path)).collect();
    while let Some(path) = open.pop() {
        if chosen.insert(path.to_owned()) {
            open.extend(needs.get(path).into_iter().flatten());
            open.extend(soft.get(&name_of(path)).into_iter().flatten());
        }
    }
    chosen
}

fn is_wanted(architecture: Architecture, path: &str) -> bool {
    let Some(path) = path.strip_prefix("kernel/") else { return false };
    let file = |wanted: &str| path.strip_prefix(wanted).is_some_and(|rest| rest.starts_with(".ko"));
    wanted(architecture).any(|wanted| if wanted.ends_with('/') { path.starts_with(wanted) } else { file(wanted) })
        && !LEFT_OUT.iter().any(|out| path.starts_with(out))
}

/// A module's name as the kernel has it: no folder, no suffix, underscores.
pub(crate) fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

/// Keeps the lines of `modules.alias` that lead to a chosen module.
pub(crate) fn aliases(alias: &str, chosen: &BTreeSet<String>) -> String {
    let names: BTreeSet<String> = chosen.iter().map(|path| name_of(path)).collect();
    alias
        .lines()
        .filter(|line| line.rsplit(' ').next().is_some_and(|name| names.contains(name)))
        .flat_map(|line| [line, "\n"])
        .collect()
}

/// Keeps the lines of `modules.dep` that concern a chosen module.
pub(crate) fn dependencies(dep: &str, chosen: &BTreeSet<String>) -> String {
    dep.lines()
        .filter(|line| line.split_once(':').is_some_and(|(path, _)| chosen.contains(path)))
        .flat_map(|line| [line, "\n"])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/drivers/net/ethernet/realtek/r8169.ko.xz: kernel/drivers/net/phy/libphy.ko.xz\n\
                       kernel/drivers/net/phy/libphy.ko.xz:\n\
                       kernel/drivers/net/phy/realtek.ko.xz: kernel/drivers/net/phy/libphy.ko.xz\n\
                       kernel/drivers/net/virtio_net.ko.xz: kernel/net/core/failover.ko.xz\n\
                       kernel/net/core/failover.ko.xz:\n\
                       kernel/fs/ext4/ext4.ko.xz:\n\
                       kernel/lib/crc32c.ko.xz:\n\
                       kernel/drivers/net/ethernet/qlogic/qed/qed.ko.xz:\n\
                       kernel/drivers/net/virtio_netty.ko.xz:\n\
                       kernel/sound/snd.ko.xz:\n";

    #[test]
    fn drivers_come_with_what_they_need_and_nothing_else() {
        let chosen = choose(Architecture::Amd64, DEP, "# soft dependencies\nsoftdep ext4 pre: crc32c\n");
        let names: Vec<String> = chosen.iter().map(|path| name_of(path)).collect();
        assert_eq!(names, ["r8169", "libphy", "realtek", "virtio_net", "ext4", "crc32c", "failover"]);
    }

    #[test]
    fn aliases_of_other_modules_are_left_out() {
        let chosen = choose(Architecture::Amd64, DEP, "");
        let alias = "alias virtio:d00000001v* virtio_net\nalias snd-card-* snd\n";
        assert_eq!(aliases(alias, &chosen), "alias virtio:d00000001v* virtio_net\n");
    }
}
