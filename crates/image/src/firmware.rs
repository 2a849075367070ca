//! What firmware fetches before the kernel, out of Debian's packages: unpacked and not installed, so
//! that nothing of another architecture has to run.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::Path;

use bramble_model::boot_set::Architecture;
use bramble_system::Cancel;

use crate::Error;
use crate::mmdebstrap::mmdebstrap;
use crate::recipe::{Recipe, firmware_packages};

/// Where files lie in the packages, and the name that firmware asks for. Shim asks for its second
/// stage, and for the manager of its keys, beside itself.
const AMD64: &[(&str, &str)] = &[
    ("usr/lib/shim/shimx64.efi.signed", "shimx64.efi"),
    ("usr/lib/shim/mmx64.efi.signed", "mmx64.efi"),
    ("usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed", "grubx64.efi"),
];
const ARM64: &[(&str, &str)] = &[
    ("usr/lib/shim/shimaa64.efi.signed", "shimaa64.efi"),
    ("usr/lib/shim/mmaa64.efi.signed", "mmaa64.efi"),
    ("usr/lib/grub/arm64-efi-signed/grubnetaa64.efi.signed", "grubaa64.efi"),
    ("usr/lib/ipxe/ipxe-arm64.efi", "ipxe-arm64.efi"),
];

/// All that lies here is a Raspberry Pi's: `bootcode.bin`, `start*.elf` and `fixup*.dat`.
const RASPBERRY_PI: &str = "usr/lib/raspi-firmware/";

/// Fetches the packages and takes their files out, by the name that firmware asks for. `archive` is
/// where they may lie meanwhile.
pub(crate) fn fetch(recipe: &Recipe, archive: &Path, cancel: &Cancel) -> Result<BTreeMap<String, Vec<u8>>, Error> {
    let packages: Vec<String> = firmware_packages(recipe.architecture).iter().map(|name| (*name).to_owned()).collect();
    let more = ["--variant=extract", "--components=main,non-free-firmware"].map(str::to_owned);
    mmdebstrap(recipe, &packages, more, archive, cancel)?;
    let doing = "cannot read the firmware's archive";
    let file = File::open(archive).map_err(Error::file(doing, archive))?;
    let mut tar = tar::Archive::new(BufReader::with_capacity(1 << 20, file));
    let mut found = BTreeMap::new();
    for entry in tar.entries().map_err(Error::file(doing, archive))? {
        let mut entry = entry.map_err(Error::file(doing, archive))?;
        let path = entry.path().map_err(Error::file(doing, archive))?.to_string_lossy().into_owned();
        let Some(name) = name(recipe.architecture, path.trim_start_matches("./")) else { continue };
        if entry.header().entry_type().is_file() {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(Error::file(doing, archive))?;
            found.insert(name.to_owned(), bytes);
        }
    }
    fs::remove_file(archive).map_err(Error::file("cannot remove", archive))?;
    if let Some((_, name)) = wanted(recipe.architecture).iter().find(|(_, name)| !found.contains_key(*name)) {
        return Err(Error::Lacks(name));
    }
    Ok(found)
}

fn wanted(architecture: Architecture) -> &'static [(&'static str, &'static str)] {
    match architecture {
        Architecture::Amd64 => AMD64,
        Architecture::Arm64 => ARM64,
    }
}

/// What firmware calls the file of this path, if it asks for it at all.
fn name(architecture: Architecture, path: &str) -> Option<&str> {
    let named = wanted(architecture).iter().find(|(wanted, _)| *wanted == path).map(|(_, name)| *name);
    let pi = || {
        let name = path.strip_prefix(RASPBERRY_PI).filter(|_| architecture == Architecture::Arm64)?;
        let known = name == "bootcode.bin" || name.ends_with(".elf") || name.ends_with(".dat");
        (known && !name.contains('/')).then_some(name)
    };
    named.or_else(pi)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raspberry_pi_has_its_files_and_no_overlays() {
        let pi = |path| name(Architecture::Arm64, path);
        assert_eq!(pi("usr/lib/raspi-firmware/start4.elf"), Some("start4.elf"));
        assert_eq!(pi("usr/lib/raspi-firmware/bootcode.bin"), Some("bootcode.bin"));
        assert_eq!(pi("usr/lib/raspi-firmware/overlays/README.md"), None);
        assert_eq!(name(Architecture::Amd64, "usr/lib/raspi-firmware/start4.elf"), None);
    }

    #[test]
    fn the_second_stage_has_the_name_that_shim_asks_for() {
        let path = "usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed";
        assert_eq!(name(Architecture::Amd64, path), Some("grubx64.efi"));
    }
}
