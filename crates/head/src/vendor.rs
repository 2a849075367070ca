//! Who made a network card, by the first three bytes of its address (IEEE's register, Debian's `ieee-data`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader};

use bramble_model::names::Mac;

/// Where Debian's package `ieee-data` keeps the register.
const REGISTER: &str = "/usr/share/ieee-data/oui.txt";

/// The vendors of these cards; empty where nobody is registered, or the register is not on this machine. Reads
/// the register through once, which takes some milliseconds.
pub(crate) fn of_all(macs: &[Mac]) -> Vec<String> {
    let register = File::open(REGISTER).map(BufReader::new);
    let registered = register.map(|register| read(register, macs)).unwrap_or_default();
    macs.iter().map(|mac| known(*mac).or_else(|| registered.get(&prefix(*mac)).cloned()).unwrap_or_default()).collect()
}

/// Addresses that no register has: locally administered ones (IEEE 802, section 8.2).
fn known(mac: Mac) -> Option<String> {
    if mac.0[..3] == [0x52, 0x54, 0] {
        return Some("QEMU virtual machine".into());
    }
    (mac.0[0] & 2 != 0).then(|| "a made-up address".into())
}

fn prefix(mac: Mac) -> String {
    format!("{:02X}-{:02X}-{:02X}", mac.0[0], mac.0[1], mac.0[2])
}

/// `28-6F-B9   (hex)     Nokia Shanghai Bell Co., Ltd.`
fn read(register: impl BufRead, macs: &[Mac]) -> BTreeMap<String, String> {
    let wanted: BTreeSet<String> = macs.iter().map(|mac| prefix(*mac)).collect();
    let lines = register.lines().map_while(Result::ok);
    let vendors = lines.filter_map(|line| {
        let (prefix, vendor) = line.split_once("(hex)")?;
        wanted.contains(prefix.trim()).then(|| (prefix.trim().to_owned(), vendor.trim().to_owned()))
    });
    vendors.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vendor_is_found_in_the_register() {
        let register = "OUI/MA-L\n\n28-6F-B9   (hex)\t\tNokia Shanghai Bell Co., Ltd.\n286FB9     (base 16)\t\tNokia\n";
        let (nokia, nobody) = (Mac([0x28, 0x6f, 0xb9, 1, 2, 3]), Mac([0x28, 0x6f, 0xba, 1, 2, 3]));
        let found = read(register.as_bytes(), &[nokia, nobody]);
        assert_eq!(found.get(&prefix(nokia)).map(String::as_str), Some("Nokia Shanghai Bell Co., Ltd."));
        assert_eq!(found.get(&prefix(nobody)), None);
        assert_eq!(of_all(&[Mac([0x52, 0x54, 0, 0, 0, 1])]), ["QEMU virtual machine"]);
    }
}
