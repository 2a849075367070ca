//! iPXE: which binary a firmware gets, and the script that each boot of each node gets.

use std::net::SocketAddrV4;

use bramble_model::names::{BootId, Digest, Mac, Name};

use crate::client::{Client, Cpu, Firmware};

/// For BIOS: uses the card's own UNDI driver, so it works with cards that iPXE has no driver for.
pub const BIOS_LOADER: &str = "undionly.kpxe";
/// For 64-bit UEFI.
pub const UEFI_X64_LOADER: &str = "ipxe.efi";
/// For UEFI on arm64.
pub const UEFI_ARM64_LOADER: &str = "ipxe-arm64.efi";
/// All that is handed out.
pub const LOADERS: [&str; 3] = [BIOS_LOADER, UEFI_X64_LOADER, UEFI_ARM64_LOADER];
/// Where Debian's `ipxe` package keeps them.
pub const FOLDER: &str = "/usr/lib/ipxe";

/// The loader that this firmware fetches over TFTP.
pub fn loader(firmware: Firmware) -> Option<&'static str> {
    match firmware {
        Firmware::Bios => Some(BIOS_LOADER),
        Firmware::Uefi(Cpu::Amd64) => Some(UEFI_X64_LOADER),
        Firmware::Uefi(Cpu::Arm64) => Some(UEFI_ARM64_LOADER),
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

/// The kernel arguments of one boot of one node.
#[derive(Debug, Clone)]
pub struct Arguments<'a> {
    pub node: &'a Name,
    pub http: SocketAddrV4,
    pub agent_port: u16,
    pub boot: &'a BootId,
    pub nonce: &'a str,
    pub set: &'a Digest,
    pub cmdline: &'a str,
}

/// What a machine knows of its own network: values, or a loader's names for them.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// With hyphens: `52-54-00-00-00-01`.
    pub mac: String,
    pub address: String,
    pub mask: String,
    pub gateway: String,
    pub dns: String,
}

impl Addresses {
    /// iPXE's settings; `netX` is the card that it booted from.
    pub fn ipxe() -> Self {
        let setting = |name: &str| format!("${{netX/{name}}}");
        Addresses {
            mac: setting("mac:hexhyp"),
            address: setting("ip"),
            mask: setting("netmask"),
            gateway: setting("gateway"),
            dns: setting("dns"),
        }
    }

    /// U-Boot's variables.
    pub fn uboot(mac: Mac) -> Self {
        let variable = |name: &str| format!("${{{name}}}");
        Addresses {
            mac: mac.to_string().replace(':', "-"),
            address: variable("ipaddr"),
            mask: variable("netmask"),
            gateway: variable("gatewayip"),
            dns: variable("dnsip"),
        }
    }
}

impl Arguments<'_> {
    /// Where kernel and initrd of this boot are fetched.
    pub fn files(&self, kernel: &Digest, initrd: &Digest) -> [String; 2] {
        let Arguments { http, boot, .. } = self;
        [(kernel, "kernel"), (initrd, "initrd")]
            .map(|(digest, name)| format!("http://{http}/boot/files/{digest}?boot={boot}&name={name}"))
    }

    pub fn render(&self, own: &Addresses) -> String {
        let Arguments { node, http, agent_port, boot, nonce, set, cmdline } = self;
        let Addresses { mac, address, mask, gateway, dns } = own;
        format!(
            "{cmdline} bramble.head={http} bramble.agent={agent_port} bramble.node={node} bramble.boot={boot} \
             bramble.nonce={nonce} bramble.set={set} BOOTIF=01-{mac} bramble.ip={address}/{mask} \
             bramble.gateway={gateway} bramble.dns={dns}"
        )
    }
}

/// One boot of one node, as a script.
#[derive(Debug, Clone)]
pub struct Script<'a> {
    pub arguments: Arguments<'a>,
    pub kernel: &'a Digest,
    pub initrd: &'a Digest,
}

impl Script<'_> {
    /// The script. A fetch that fails is tried again for ever, since the head may be away for a moment
    /// and nobody sits at the machine. The card's PCI id goes with the first fetch: should no driver
    /// of the kernel's know it, that is the only one who could tell.
    pub fn render(&self) -> String {
        let Script { arguments, kernel, initrd } = self;
        let words = arguments.render(&Addresses::ipxe());
        let [kernel, initrd] = arguments.files(kernel, initrd);
        start(arguments.node, &format!("{kernel}&card=${{netX/busid:hexraw}}"), &words, &[initrd])
    }
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

/// For a machine that has nothing to boot yet: wait, and ask again.
pub fn wait_script(reason: &str, http: SocketAddrV4) -> String {
    let reason: String = reason.chars().filter(|c| c.is_ascii() && !c.is_ascii_control()).collect();
    format!("#!ipxe\necho bramble: {reason}\nsleep 5\nchain --replace http://{http}/boot/script/${{netX/mac}}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_of_a_boot() {
        let digest = |byte| Digest([byte; 32]);
        let arguments = Arguments {
            node: &"m1".parse().expect("a name"),
            http: "10.77.0.1:7080".parse().expect("an address"),
            agent_port: 7443,
            boot: &BootId("b00t".into()),
            nonce: "n0nce",
            set: &digest(1),
            cmdline: "quiet console=ttyS0",
        };
        let script = Script { arguments, kernel: &digest(2), initrd: &digest(3) };
        insta::assert_snapshot!(script.render());
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
    }
}
