//! iPXE: which binary a firmware gets, and the script that each boot of each node gets.

use std::net::SocketAddrV4;

use bramble_model::names::{BootId, Digest, Name};

/// For BIOS: uses the card's own UNDI driver, so it works with cards that iPXE has no driver for.
pub const BIOS_LOADER: &str = "undionly.kpxe";
/// For 64-bit UEFI.
pub const UEFI_X64_LOADER: &str = "ipxe.efi";
/// All that is handed out.
pub const LOADERS: [&str; 2] = [BIOS_LOADER, UEFI_X64_LOADER];
/// Where Debian's `ipxe` package keeps them.
pub const FOLDER: &str = "/usr/lib/ipxe";

/// One boot of one node.
#[derive(Debug, Clone)]
pub struct Script<'a> {
    pub node: &'a Name,
    pub http: SocketAddrV4,
    pub agent_port: u16,
    pub boot: &'a BootId,
    pub nonce: &'a str,
    pub set: &'a Digest,
    pub kernel: &'a Digest,
    pub initrd: &'a Digest,
    pub cmdline: &'a str,
}

impl Script<'_> {
    /// The script. `netX` is the card that iPXE itself booted from; a fetch that fails is tried
    /// again for ever, since the head may be away for a moment and nobody sits at the machine.
    pub fn render(&self) -> String {
        let Script { node, http, agent_port, boot, nonce, set, kernel, initrd, cmdline } = self;
        format!(
            "#!ipxe\n\
             # {node}\n\
             :again\n\
             imgfree\n\
             kernel http://{http}/boot/files/{kernel}?boot={boot}&name=kernel initrd=initrd {cmdline} \
             bramble.head={http} bramble.agent={agent_port} bramble.node={node} bramble.boot={boot} \
             bramble.nonce={nonce} bramble.set={set} BOOTIF=01-${{netX/mac:hexhyp}} \
             bramble.ip=${{netX/ip}}/${{netX/netmask}} bramble.gateway=${{netX/gateway}} bramble.dns=${{netX/dns}} || goto wait\n\
             initrd --name initrd http://{http}/boot/files/{initrd}?boot={boot}&name=initrd || goto wait\n\
             boot || goto wait\n\
             :wait\n\
             echo bramble: could not fetch or start the system, trying again in 3 seconds\n\
             sleep 3\n\
             goto again\n"
        )
    }
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
        let script = Script {
            node: &"m1".parse().expect("a name"),
            http: "10.77.0.1:7080".parse().expect("an address"),
            agent_port: 7443,
            boot: &BootId("b00t".into()),
            nonce: "n0nce",
            set: &digest(1),
            kernel: &digest(2),
            initrd: &digest(3),
            cmdline: "quiet console=ttyS0",
        };
        insta::assert_snapshot!(script.render());
    }

    #[test]
    fn the_script_that_waits() {
        let http = "10.77.0.1:7080".parse().expect("an address");
        insta::assert_snapshot!(wait_script("no boot set\nyet", http));
    }
}
