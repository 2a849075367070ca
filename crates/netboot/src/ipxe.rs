//! iPXE: which binary a firmware gets, and the script that each boot of each node gets.

use std::net::SocketAddrV4;

use bramble_boot::{Addresses, Cpu, Firmware, HandedOut, Loader};
use bramble_model::names::{Mac, Name};

use crate::client::Client;

/// The builds that are handed out.
pub const LOADERS: [Loader; 3] = [Loader::IpxeBios, Loader::Ipxe(Cpu::Amd64), Loader::Ipxe(Cpu::Arm64)];
/// Where Debian's `ipxe` package keeps them.
pub const FOLDER: &str = "/usr/lib/ipxe";

/// The build that this firmware fetches over TFTP.
pub fn loader(firmware: Firmware) -> Option<Loader> {
    match firmware {
        Firmware::Bios => Some(Loader::IpxeBios),
        Firmware::Uefi(cpu @ (Cpu::Amd64 | Cpu::Arm64)) => Some(Loader::Ipxe(cpu)),
        _ => None,
    }
}

/// Where iPXE finds the script of this machine.
pub fn script_url(http: SocketAddrV4, client: &Client) -> String {
    let url = format!("http://{http}/boot/script/{}", client.mac);
    match client.firmware {
        Some(Firmware::Ipxe(Cpu::Arm64)) => format!("{url}?arch=arm64"),
        _ => url,
    }
}

/// The instruction set that `arch=` names: Debian's word, or iPXE's `${buildarch}`. One built for
/// i386 runs in a BIOS and starts amd64 kernels.
pub fn architecture(word: Option<&str>) -> Cpu {
    match word {
        Some("arm64") => Cpu::Arm64,
        Some("arm32" | "armhf") => Cpu::Armhf,
        _ => Cpu::Amd64,
    }
}

/// For a machine that boots its own disk: leave iPXE. UEFI goes on with the next entry of its boot
/// order; a BIOS that loaded iPXE has no next one, so the first disk is started from here.
pub fn disk_script(mac: Mac) -> String {
    format!(
        "#!ipxe\n\
         echo bramble: {mac} boots its disk\n\
         iseq ${{platform}} pcbios && sanboot --no-describe --drive 0x80 ||\n\
         exit\n"
    )
}

/// iPXE's settings; `netX` is the card that it booted from.
pub fn addresses() -> Addresses {
    let setting = |name: &str| format!("${{netX/{name}}}");
    Addresses {
        mac: setting("mac:hexhyp"),
        address: setting("ip"),
        mask: setting("netmask"),
        gateway: setting("gateway"),
        dns: setting("dns"),
    }
}

/// The script of a boot of bramble's own system. A fetch that fails is tried again for ever, since the head may
/// be away for a moment and nobody sits at the machine. The card's PCI id goes with the first fetch: should no
/// driver of the kernel's know it, that is the only one who could tell.
pub fn script(node: &Name, kernel: &str, words: &HandedOut<'_>, initrd: &str) -> String {
    let words = words.render(&addresses());
    start(node, &format!("{kernel}&card=${{netX/busid:hexraw}}"), &words, &[initrd.to_owned()])
}

/// Fetches a kernel and its initrds, and starts it.
pub fn start(node: &Name, kernel: &str, words: &str, initrds: &[String]) -> String {
    let mut names = String::new();
    let mut fetches = String::new();
    for (index, url) in initrds.iter().enumerate() {
        let name = if index == 0 { "initrd".to_owned() } else { format!("initrd{index}") };
        names.push_str(&format!("initrd={name} "));
        fetches.push_str(&format!("initrd --name {name} {url} || goto wait\n"));
    }
    format!(
        "#!ipxe\n\
         # {node}\n\
         :again\n\
         imgfree\n\
         kernel {kernel} {names}{words} || goto wait\n\
         {fetches}\
         boot || goto wait\n\
         :wait\n\
         echo bramble: could not fetch or start the system, trying again in 3 seconds\n\
         sleep 3\n\
         goto again\n"
    )
}

/// Starts another program instead: a program for UEFI.
pub fn chain_script(node: &Name, url: &str) -> String {
    format!(
        "#!ipxe\n\
         # {node}\n\
         :again\n\
         imgfree\n\
         chain {url} ||\n\
         echo bramble: could not fetch or start it, trying again in 3 seconds\n\
         sleep 3\n\
         goto again\n"
    )
}

fn printable(reason: &str) -> String {
    reason.chars().filter(|c| c.is_ascii() && !c.is_ascii_control()).collect()
}

/// For a machine that has nothing to boot yet: wait, and ask again.
pub fn wait_script(reason: &str, http: SocketAddrV4) -> String {
    let reason = printable(reason);
    format!("#!ipxe\necho bramble: {reason}\nsleep 5\nchain --replace http://{http}/boot/script/${{netX/mac}}\n")
}

/// For a machine whose DHCP the head has not heard: ask for an address again (ipxe.org/cmd/dhcp), and then for the script.
pub fn ask_again_script(reason: &str, mac: Mac, http: SocketAddrV4) -> String {
    let reason = printable(reason);
    format!(
        "#!ipxe\n\
         echo bramble: {reason}\n\
         :again\n\
         sleep 5\n\
         dhcp netX || dhcp ||\n\
         chain --replace http://{http}/boot/script/{mac} || goto again\n"
    )
}

#[cfg(test)]
mod tests {
    use bramble_boot::file_path;
    use bramble_model::names::Digest;

    use super::*;

    #[test]
    fn the_script_of_a_boot() {
        let [set, kernel, initrd] = [1, 2, 3].map(|byte| Digest([byte; 32]).to_string());
        let words = HandedOut {
            node: "m1",
            head: "10.77.0.1:7080".parse().expect("an address"),
            agent_port: 7443,
            boot: "b00t",
            nonce: Some("n0nce"),
            set: &set,
            inventory: false,
            data: None,
            cmdline: "quiet console=ttyS0",
        };
        let url = |digest: &str, name| format!("http://{}{}", words.head, file_path(digest, words.boot, name));
        let node = "m1".parse().expect("a name");
        insta::assert_snapshot!(script(&node, &url(&kernel, "kernel"), &words, &url(&initrd, "initrd")));
    }

    #[test]
    fn scripts_of_other_systems() {
        let node = "nas".parse().expect("a name");
        let initrds = ["http://h/one".to_owned(), "http://h/two".to_owned()];
        insta::assert_snapshot!(
            [
                start(&node, "http://h/linux", "auto=true", &initrds),
                chain_script(&node, "http://h/tool.efi"),
                disk_script(Mac([2, 0, 0, 0, 0, 1])),
            ]
            .join("\n")
        );
    }

    #[test]
    fn the_script_that_waits() {
        let http = "10.77.0.1:7080".parse().expect("an address");
        insta::assert_snapshot!(wait_script("no boot set\nyet", http));
        insta::assert_snapshot!(ask_again_script("its card was\nnot heard", Mac([2, 0, 0, 0, 0, 1]), http));
    }
}
