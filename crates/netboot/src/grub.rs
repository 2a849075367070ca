//! UEFI that starts nothing unsigned: Debian's shim, which Microsoft signed, its GRUB, which Debian
//! signed and shim checks, and Debian's kernel, which GRUB has shim check.
//!
//! ```text
//! firmware ─▶ shimx64.efi ─▶ grubx64.efi ─▶ /grub/grub.cfg ─▶ /grub/menu/CPU/MAC ─▶ kernel, initrd
//! ```
//! GRUB's image for network boot looks for its configuration below `/grub`, over the protocol that it
//! came by itself (GRUB manual, "Booting GRUB from the network").

use bramble_boot::{Cpu, Loader};
use bramble_model::names::{Mac, Name};

/// For which instruction set this program of the chain is; `None` for any other name.
pub fn program(name: &str) -> Option<Cpu> {
    match Loader::named(name)? {
        Loader::Shim(cpu) | Loader::Grub(cpu) | Loader::MokManager(cpu) => Some(cpu),
        Loader::IpxeBios | Loader::Ipxe(_) => None,
    }
}

/// What GRUB asks for below `/grub/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Its configuration: the same for all, [`CONFIGURATION`].
    Configuration,
    /// What this machine is to start.
    Menu(Cpu, Mac),
}

/// Has GRUB ask for the menu of its machine.
pub const CONFIGURATION: &str = "configfile /grub/menu/$grub_cpu/$net_default_mac\n";

/// What this path means, without a leading slash. GRUB looks for `grub.cfg-01-` and its address, parts
/// of its IP address and then `grub.cfg`; the first is answered.
pub fn asked(path: &str) -> Option<Asked> {
    let name = path.strip_prefix("grub/")?;
    if let Some(rest) = name.strip_prefix("menu/") {
        let (cpu, mac) = rest.split_once('/')?;
        let cpu = match cpu {
            "x86_64" => Cpu::Amd64,
            "arm64" => Cpu::Arm64,
            _ => return None,
        };
        return Some(Asked::Menu(cpu, mac.parse().ok()?));
    }
    (name == "grub.cfg" || name.starts_with("grub.cfg-01-")).then_some(Asked::Configuration)
}

/// How GRUB names what is at an HTTP URL; `None` for other URLs, such as those of TLS, which it has not.
pub fn file(url: &str) -> Option<String> {
    let (server, path) = url.strip_prefix("http://")?.split_once('/')?;
    Some(format!("(http,{server})/{path}"))
}

/// Fetches a kernel and its initrds, and starts it. What cannot be fetched or is not signed sends the
/// machine back to its firmware, since nobody sits at it.
///
/// # Errors
/// The URL that GRUB cannot fetch.
pub fn menu(node: &Name, kernel: &str, words: &str, initrds: &[String]) -> Result<String, String> {
    let file = |url: &str| file(url).ok_or_else(|| format!("GRUB fetches over plain HTTP only, and not {url}"));
    let words: String = words.split_whitespace().flat_map(|word| [" ".to_owned(), quoted(word)]).collect();
    let initrds = initrds.iter().map(|url| file(url).map(|file| format!(" {}", quoted(&file))));
    let initrds = initrds.collect::<Result<String, String>>()?;
    // GRUB's shell has no `&&`.
    let start = if initrds.is_empty() { "boot".to_owned() } else { format!("if initrd{initrds}; then boot; fi") };
    let kernel = quoted(&file(kernel)?);
    Ok(format!(
        "# {node}\n\
         if linux {kernel}{words}; then {start}; fi\n\
         echo 'bramble: could not fetch or start the system, starting again in 10 seconds'\n\
         sleep 10\n\
         reboot\n"
    ))
}

/// Starts another program for UEFI.
///
/// # Errors
/// As [`menu`].
pub fn chain_menu(node: &Name, url: &str) -> Result<String, String> {
    let file = file(url).ok_or_else(|| format!("GRUB fetches over plain HTTP only, and not {url}"))?;
    let file = quoted(&file);
    Ok(format!(
        "# {node}\n\
         if chainloader {file}; then boot; fi\n\
         echo 'bramble: could not fetch or start it, starting again in 10 seconds'\n\
         sleep 10\n\
         reboot\n"
    ))
}

/// For a machine that boots its disk: back to the firmware, which goes on in its boot order.
pub fn disk_menu(mac: Mac) -> String {
    format!("echo 'bramble: {mac} boots its disk'\nexit\n")
}

/// For a machine that has nothing to boot yet: say why, wait, and ask again.
pub fn wait_menu(reason: &str) -> String {
    let reason: String = reason.chars().filter(|c| c.is_ascii() && !c.is_ascii_control() && *c != '\'').collect();
    format!("echo 'bramble: {reason}'\nsleep 5\n{CONFIGURATION}")
}

/// For a machine whose DHCP the head has not heard: ask for an address again (GRUB manual, "net_dhcp"), and then for the
/// menu.
pub fn ask_again_menu(reason: &str) -> String {
    wait_menu(reason).replace(CONFIGURATION, &format!("net_dhcp\n{CONFIGURATION}"))
}

/// A word of GRUB's shell, whatever is in it (GRUB manual, "Quoting").
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_menu_of_a_machine_is_asked_for_by_its_card() {
        let mac = "52:54:00:00:00:01".parse().expect("an address");
        assert_eq!(asked("grub/menu/x86_64/52:54:00:00:00:01"), Some(Asked::Menu(Cpu::Amd64, mac)));
        assert_eq!(asked("grub/menu/arm64/52:54:00:00:00:01"), Some(Asked::Menu(Cpu::Arm64, mac)));
        assert_eq!(asked("grub/grub.cfg"), Some(Asked::Configuration));
        assert_eq!(asked("grub/grub.cfg-01-52-54-00-00-00-01"), Some(Asked::Configuration));
        for path in ["grub/x86_64-efi/command.lst", "grub/menu/x86_64/", "grub/menu/mips/52:54:00:00:00:01", "grub"] {
            assert_eq!(asked(path), None, "{path}");
        }
    }

    #[test]
    fn a_menu_with_everything_quoted() {
        let files = ["http://10.77.0.1:7080/boot/files/ab?boot=b&name=initrd".to_owned()];
        let kernel = "http://10.77.0.1:7080/boot/files/cd?boot=b&name=kernel";
        let menu = menu(&"m1".parse().expect("a name"), kernel, "quiet note=it's;reboot", &files);
        insta::assert_snapshot!(menu.expect("plain HTTP"));
    }

    #[test]
    fn a_url_that_grub_cannot_fetch_is_named() {
        let refused = menu(&"m1".parse().expect("a name"), "https://example.org/kernel", "", &[]);
        assert!(refused.expect_err("TLS").contains("https://example.org/kernel"));
    }
}
