//! The loaders that firmware is given, by the names that it fetches them by.

use crate::Cpu;

/// A program that firmware starts, or that one of these starts beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loader {
    /// iPXE for a BIOS. It uses the card's own UNDI driver, so it works with cards that iPXE has no driver for.
    IpxeBios,
    /// iPXE for a 64-bit UEFI.
    Ipxe(Cpu),
    /// Debian's shim, which Microsoft signed.
    Shim(Cpu),
    /// Debian's GRUB, which shim checks.
    Grub(Cpu),
    /// The manager of shim's keys.
    MokManager(Cpu),
}

impl Loader {
    /// All that are handed out, with their names.
    const ALL: [(Loader, &'static str); 9] = [
        (Loader::IpxeBios, "undionly.kpxe"),
        (Loader::Ipxe(Cpu::Amd64), "ipxe.efi"),
        (Loader::Ipxe(Cpu::Arm64), "ipxe-arm64.efi"),
        (Loader::Shim(Cpu::Amd64), "shimx64.efi"),
        (Loader::Shim(Cpu::Arm64), "shimaa64.efi"),
        (Loader::Grub(Cpu::Amd64), "grubx64.efi"),
        (Loader::Grub(Cpu::Arm64), "grubaa64.efi"),
        (Loader::MokManager(Cpu::Amd64), "mmx64.efi"),
        (Loader::MokManager(Cpu::Arm64), "mmaa64.efi"),
    ];

    /// The loader that has this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(loader, _)| *loader)
    }

    /// The name that firmware fetches it by; `None` where there is none for that instruction set.
    pub fn name(self) -> Option<&'static str> {
        Self::ALL.iter().find(|(known, _)| *known == self).map(|(_, name)| *name)
    }

    /// For which instruction set it is. A BIOS starts amd64.
    pub fn cpu(self) -> Cpu {
        match self {
            Loader::IpxeBios => Cpu::Amd64,
            Loader::Ipxe(cpu) | Loader::Shim(cpu) | Loader::Grub(cpu) | Loader::MokManager(cpu) => cpu,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_known_by_its_name() {
        for (loader, name) in Loader::ALL {
            assert_eq!((Loader::named(name), loader.name()), (Some(loader), Some(name)));
        }
        assert_eq!(Loader::Shim(Cpu::I386).name(), None);
        assert_eq!(Loader::named("/shimx64.efi"), None);
    }
}
