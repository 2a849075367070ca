//! U-Boot's own PXE: a menu in the form of PXELINUX, by the name of the machine's card (U-Boot's
//! `doc/usage/cmd/pxe.rst` and `README.pxe`).

use bramble_boot::Addresses;
use bramble_model::names::Mac;

/// What DHCP names as its boot file. U-Boot takes only the folder of it, and looks for
/// `pxelinux.cfg` there; one that loads it anyway gets a clean "not found".
pub const BOOT_FILE: &str = "pxelinux.0";
/// Where kernel and initrd of the machine that asks are.
pub const KERNEL: &str = "bramble/kernel";
pub const INITRD: &str = "bramble/initrd";

/// The card in `pxelinux.cfg/01-aa-bb-cc-dd-ee-ff`; `None` for any other path.
pub fn card(path: &str) -> Option<Mac> {
    let name = path.strip_prefix("pxelinux.cfg/01-")?;
    (name.len() == 17).then(|| name.replace('-', ":").parse().ok()).flatten()
}

/// Its variables for what it knows of its network.
pub fn addresses(mac: Mac) -> Addresses {
    let variable = |name: &str| format!("${{{name}}}");
    Addresses {
        mac: mac.to_string().replace(':', "-"),
        address: variable("ipaddr"),
        mask: variable("netmask"),
        gateway: variable("gatewayip"),
        dns: variable("dnsip"),
    }
}

/// The menu: one entry, started without a question. U-Boot passes its own device tree.
pub fn menu(cmdline: &str) -> String {
    format!(
        "DEFAULT bramble\nPROMPT 0\nTIMEOUT 1\nLABEL bramble\n  LINUX {KERNEL}\n  INITRD {INITRD}\n  APPEND {cmdline}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_menu_is_named_by_its_card() {
        assert_eq!(card("pxelinux.cfg/01-52-54-00-00-00-01"), "52:54:00:00:00:01".parse().ok());
        for other in ["pxelinux.cfg/default", "pxelinux.cfg/01-52-54", "pxelinux.cfg/0A4D", "01-52-54-00-00-00-01"] {
            assert_eq!(card(other), None, "{other}");
        }
    }

    #[test]
    fn the_menu() {
        insta::assert_snapshot!(menu("quiet bramble.node=m1"));
    }
}
