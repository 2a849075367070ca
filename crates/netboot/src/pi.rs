//! Raspberry Pi: straight from its boot ROM or EEPROM to a kernel, over TFTP, without a loader of
//! ours (Raspberry Pi documentation, "Network booting" and "config.txt").
//!
//! ```text
//! Pi 3   DISCOVER ─▶ OFFER with "Raspberry Pi Boot   " ─▶ bootcode.bin ─▶ DISCOVER … ─▶ SERIAL/start.elf …
//! Pi 4+  DISCOVER ─▶ OFFER with "Raspberry Pi Boot" ─ REQUEST ─▶ SERIAL/config.txt, start4.elf, …
//!        ─▶ device tree, cmdline.txt, kernel, initrd
//! ```
//! The machine is known by its address. The folder that it puts in front of every name (its serial
//! number, its hardware address, or a fixed word) is taken off.

use bramble_boot::Pi;

/// What the firmware looks for in option 43. Sub-option 6: discovery control 3, no broadcast and
/// no multicast; 9: the menu, of which the text counts; 10: the menu's prompt, "PXE" at once.
///
/// The ROM of the Pi 3 wants three blanks behind the text; the EEPROMs do not.
pub fn vendor_options(pi: Pi) -> Vec<u8> {
    let text: &[u8] = match pi {
        Pi::Rom => b"Raspberry Pi Boot   ",
        Pi::Eeprom => b"Raspberry Pi Boot",
    };
    let mut options = vec![6, 1, 3, 10, 4, 0];
    options.extend(b"PXE");
    options.push(9);
    options.push(3 + text.len() as u8);
    options.extend([0, 0, text.len() as u8]);
    options.extend(text);
    options.push(255);
    options
}

/// A file of a Raspberry Pi's boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum File {
    /// `config.txt`, the same for all.
    Config,
    /// `cmdline.txt`: the kernel's arguments, a new boot each time.
    Cmdline,
    Kernel,
    Initrd,
    /// A file of Debian's `raspi-firmware`, or a device tree.
    Firmware(String),
}

impl File {
    /// Whether only a board asks for it that starts: the ROM of a Pi 3 for `bootcode.bin`, an EEPROM for `config.txt`.
    pub fn is_first(&self) -> bool {
        match self {
            File::Config => true,
            File::Firmware(name) => name == BOOTCODE,
            File::Cmdline | File::Kernel | File::Initrd => false,
        }
    }
}

const BOOTCODE: &str = "bootcode.bin";

/// Names that `config.txt` gives kernel and initrd.
pub const KERNEL: &str = "kernel.img";
const INITRD: &str = "initrd.img";

/// What `config.txt` says. The serial console costs nothing, and is where a headless board speaks.
pub const CONFIG: &str = "[all]\narm_64bit=1\nkernel=kernel.img\ninitramfs initrd.img followkernel\nenable_uart=1\nupstream_kernel=1\ndisable_fw_kms_setup=1\n";

/// Which file a path means. Any one folder in front is taken for a prefix; `overlays/` is the one
/// folder that the firmware itself has.
pub fn file(path: &str) -> Option<File> {
    let parts: Vec<&str> = path.split('/').collect();
    let name = match parts[..] {
        ["overlays", _] => return None,
        [name] | [_, name] => name,
        _ => return None,
    };
    Some(match name {
        "config.txt" => File::Config,
        "cmdline.txt" => File::Cmdline,
        KERNEL => File::Kernel,
        INITRD => File::Initrd,
        _ => File::Firmware(name.to_owned()),
    })
}

/// The folder in front of a path: how a board names itself.
pub fn prefix(path: &str) -> Option<&str> {
    path.split_once('/').map(|(folder, _)| folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rom_of_a_pi_3_gets_its_three_blanks() {
        let options = vendor_options(Pi::Rom);
        assert!(options.windows(20).any(|part| part == b"Raspberry Pi Boot   "));
        assert_eq!(&options[..9], [6, 1, 3, 10, 4, 0, b'P', b'X', b'E']);
        assert_eq!(&options[9..14], [9, 23, 0, 0, 20]);
    }

    #[test]
    fn an_eeprom_gets_the_text_alone() {
        let options = vendor_options(Pi::Eeprom);
        assert_eq!(&options[9..14], [9, 20, 0, 0, 17]);
        assert_eq!(options.last(), Some(&255));
        assert_eq!(options.len(), 14 + 17 + 1);
    }

    #[test]
    fn serial_address_and_fixed_prefix_mean_the_same_files() {
        for prefix in ["", "1a2b3c4d/", "dc-a6-32-01-02-03/", "pis/"] {
            assert_eq!(file(&format!("{prefix}config.txt")), Some(File::Config), "{prefix}");
            assert_eq!(file(&format!("{prefix}start4.elf")), Some(File::Firmware("start4.elf".into())), "{prefix}");
        }
        assert_eq!(file("overlays/disable-bt.dtbo"), None);
        assert_eq!(file("a/b/config.txt"), None);
    }

    #[test]
    fn the_configuration_names_the_files_that_are_served() {
        for name in CONFIG.split_whitespace().filter_map(|word| word.strip_prefix("kernel=")) {
            assert_eq!(file(name), Some(File::Kernel));
        }
        assert!(CONFIG.contains(&format!("initramfs {INITRD} ")));
    }
}
