//! What asks to boot, and the names that it has in the timeline.

use std::fmt;

/// Instruction sets, by Debian's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cpu {
    Amd64,
    I386,
    Arm64,
    Armhf,
}

impl Cpu {
    const ALL: [Cpu; 4] = [Cpu::Amd64, Cpu::I386, Cpu::Arm64, Cpu::Armhf];

    pub fn as_str(self) -> &'static str {
        match self {
            Cpu::Amd64 => "amd64",
            Cpu::I386 => "i386",
            Cpu::Arm64 => "arm64",
            Cpu::Armhf => "armhf",
        }
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What kind of boot client it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// PXE in a BIOS: architecture 0.
    Bios,
    /// PXE in a UEFI. 7, 8 and 9 all mean amd64 in practice.
    Uefi(Cpu),
    /// HTTP boot in a UEFI: 15 to 19.
    UefiHttp(Cpu),
    /// iPXE, from a card's ROM or loaded from here. One in a BIOS counts as amd64: that is what it
    /// will start.
    Ipxe(Cpu),
    /// U-Boot's own PXE, which reads `pxelinux.cfg/…`: 21 and 22, or a class that begins `U-Boot`.
    UBoot(Cpu),
    /// The boot ROM or EEPROM of a Raspberry Pi, which calls itself architecture 0.
    RaspberryPi(Pi),
    /// Architecture number of a firmware that nothing here can boot.
    Other(u16),
}

/// Which way of network boot a Raspberry Pi has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pi {
    /// Pi 3 and older: a boot ROM that fetches `bootcode.bin` first, and misses quick answers.
    Rom,
    /// Pi 4, 5 and later: a loader in an EEPROM.
    Eeprom,
}

/// What stands before the number of a firmware that nothing here can boot.
const NUMBERED: &str = "firmware of architecture ";

impl fmt::Display for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Firmware::Bios => f.write_str("BIOS PXE"),
            Firmware::Uefi(cpu) => write!(f, "UEFI {} PXE", shown(*cpu)),
            Firmware::UefiHttp(cpu) => write!(f, "UEFI {} HTTP", shown(*cpu)),
            Firmware::Ipxe(Cpu::Amd64) => f.write_str("iPXE"),
            Firmware::Ipxe(cpu) => write!(f, "iPXE {cpu}"),
            Firmware::UBoot(cpu) => write!(f, "U-Boot {cpu}"),
            Firmware::RaspberryPi(Pi::Rom) => f.write_str("Raspberry Pi ROM"),
            Firmware::RaspberryPi(Pi::Eeprom) => f.write_str("Raspberry Pi EEPROM"),
            Firmware::Other(number) => write!(f, "{NUMBERED}{number}"),
        }
    }
}

/// Firmware's own word for amd64.
fn shown(cpu: Cpu) -> &'static str {
    if cpu == Cpu::Amd64 { "x64" } else { cpu.as_str() }
}

impl Firmware {
    /// The instruction set of the system that it can start.
    pub fn cpu(self) -> Option<Cpu> {
        match self {
            Firmware::Bios => Some(Cpu::Amd64),
            Firmware::Uefi(cpu) | Firmware::UefiHttp(cpu) | Firmware::Ipxe(cpu) | Firmware::UBoot(cpu) => Some(cpu),
            Firmware::RaspberryPi(_) => Some(Cpu::Arm64),
            Firmware::Other(_) => None,
        }
    }

    /// The firmware that is named so.
    fn named(name: &str) -> Option<Self> {
        if let Some(number) = name.strip_prefix(NUMBERED) {
            return number.parse().ok().map(Firmware::Other);
        }
        let of_each = [Firmware::Uefi, Firmware::UefiHttp, Firmware::Ipxe, Firmware::UBoot];
        let of_each = of_each.into_iter().flat_map(|kind| Cpu::ALL.map(kind));
        let single = [Firmware::Bios, Firmware::RaspberryPi(Pi::Rom), Firmware::RaspberryPi(Pi::Eeprom)];
        single.into_iter().chain(of_each).find(|known| known.to_string() == name)
    }
}

/// What asked to boot, as the timeline names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asker {
    Firmware(Firmware),
    /// GRUB, which asks for its menu.
    Grub,
    /// A machine that was started by someone else's Pixiecore.
    Pixiecore,
    /// A name that this generation does not know.
    Other(String),
}

/// The longest name that is kept, in characters.
const LONGEST: usize = 64;
const GRUB: &str = "GRUB";
const PIXIECORE: &str = "a machine that asks by Pixiecore";

impl Asker {
    pub fn firmware(&self) -> Option<Firmware> {
        match self {
            Asker::Firmware(firmware) => Some(*firmware),
            Asker::Grub | Asker::Pixiecore | Asker::Other(_) => None,
        }
    }
}

impl From<Firmware> for Asker {
    fn from(firmware: Firmware) -> Self {
        Asker::Firmware(firmware)
    }
}

impl From<&str> for Asker {
    fn from(name: &str) -> Self {
        match name {
            GRUB => Asker::Grub,
            PIXIECORE => Asker::Pixiecore,
            _ => Firmware::named(name).map_or_else(
                || Asker::Other(name.chars().filter(|c| crate::plain::is_plain(*c)).take(LONGEST).collect()),
                Asker::Firmware,
            ),
        }
    }
}

impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Asker::Firmware(firmware) => firmware.fmt(f),
            Asker::Grub => f.write_str(GRUB),
            Asker::Pixiecore => f.write_str(PIXIECORE),
            Asker::Other(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cpu() -> impl Strategy<Value = Cpu> {
        prop::sample::select(&Cpu::ALL[..])
    }

    fn firmware() -> impl Strategy<Value = Firmware> {
        prop_oneof![
            Just(Firmware::Bios),
            cpu().prop_map(Firmware::Uefi),
            cpu().prop_map(Firmware::UefiHttp),
            cpu().prop_map(Firmware::Ipxe),
            cpu().prop_map(Firmware::UBoot),
            Just(Firmware::RaspberryPi(Pi::Rom)),
            Just(Firmware::RaspberryPi(Pi::Eeprom)),
            any::<u16>().prop_map(Firmware::Other),
        ]
    }

    /// Timelines of older heads are read by these.
    #[test]
    fn names_stay() {
        for (name, asker) in [
            ("BIOS PXE", Firmware::Bios.into()),
            ("UEFI x64 PXE", Firmware::Uefi(Cpu::Amd64).into()),
            ("UEFI arm64 HTTP", Firmware::UefiHttp(Cpu::Arm64).into()),
            ("iPXE", Firmware::Ipxe(Cpu::Amd64).into()),
            ("iPXE arm64", Firmware::Ipxe(Cpu::Arm64).into()),
            ("U-Boot armhf", Firmware::UBoot(Cpu::Armhf).into()),
            ("Raspberry Pi ROM", Firmware::RaspberryPi(Pi::Rom).into()),
            ("Raspberry Pi EEPROM", Firmware::RaspberryPi(Pi::Eeprom).into()),
            ("firmware of architecture 5", Firmware::Other(5).into()),
            ("GRUB", Asker::Grub),
            ("a machine that asks by Pixiecore", Asker::Pixiecore),
            ("", Asker::Other(String::new())),
            ("Open Firmware", Asker::Other("Open Firmware".into())),
        ] {
            assert_eq!(Asker::from(name), asker);
            assert_eq!(asker.to_string(), name);
        }
    }

    proptest! {
        #[test]
        fn each_is_known_by_its_name(firmware in firmware()) {
            prop_assert_eq!(Asker::from(&*firmware.to_string()), Asker::Firmware(firmware));
        }

        #[test]
        fn an_unknown_name_is_bounded_and_stays(name: String) {
            let asker = Asker::from(&*name);
            prop_assert!(asker.to_string().chars().count() <= LONGEST);
            prop_assert_eq!(Asker::from(&*asker.to_string()), asker);
        }
    }
}
