//! What to put into a router's own DHCP offer, so that machines boot from here without an offer of
//! ours: for firmware that never merges two offers (`docs/real-boards.md`).

use std::fmt::Write;
use std::net::SocketAddrV4;

use crate::ipxe::{BIOS_LOADER, UEFI_X64_LOADER};

/// A router whose configuration is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Router {
    Dnsmasq,
    Kea,
    Mikrotik,
    Openwrt,
    Pihole,
    Unifi,
}

impl Router {
    /// All of them, by name.
    pub const ALL: [(&str, Router); 6] = [
        ("dnsmasq", Router::Dnsmasq),
        ("kea", Router::Kea),
        ("mikrotik", Router::Mikrotik),
        ("openwrt", Router::Openwrt),
        ("pihole", Router::Pihole),
        ("unifi", Router::Unifi),
    ];
}

/// The configuration for `router`, as text to paste, with comments that say where. `http` is the
/// head's HTTP service; its TFTP is on the same address.
pub fn recipe(router: Router, http: SocketAddrV4) -> String {
    match router {
        Router::Dnsmasq => {
            format!("# For example /etc/dnsmasq.d/bramble.conf; then: systemctl restart dnsmasq\n{}", dnsmasq(http))
        }
        Router::Kea => kea(http),
        Router::Mikrotik => mikrotik(http),
        Router::Openwrt => format!(
            "# On the router, which keeps /etc/dnsmasq.conf over upgrades.\n\
             cat >>/etc/dnsmasq.conf <<'END'\n{}END\n/etc/init.d/dnsmasq restart\n",
            dnsmasq(http)
        ),
        Router::Pihole => format!(
            "# Pi-hole 6 reads /etc/dnsmasq.d only when it is told to; 5 does always.\n\
             sudo pihole-FTL --config misc.etc_dnsmasq_d true\n\
             sudo tee /etc/dnsmasq.d/10-bramble.conf <<'END'\n{}END\nsudo systemctl restart pihole-FTL\n",
            dnsmasq(http)
        ),
        Router::Unifi => UNIFI.to_owned(),
    }
}

/// Where iPXE finds the script of its machine. iPXE itself fills in the address of the card that it
/// boots from (its settings are expanded in a boot file's name).
fn script(http: SocketAddrV4) -> String {
    format!("http://{http}/boot/script/${{netX/mac}}")
}

fn loader(http: SocketAddrV4) -> String {
    format!("http://{http}/boot/loader/{UEFI_X64_LOADER}")
}

fn dnsmasq(http: SocketAddrV4) -> String {
    let head = http.ip();
    let mut text = String::from(
        "# iPXE says what it is in its user class and with its own option.\n\
         dhcp-userclass=set:bramble-ipxe,iPXE\n\
         dhcp-match=set:bramble-ipxe,175\n\
         # Client architectures (RFC 4578): 7, 8 and 9 all mean 64-bit UEFI in practice.\n\
         dhcp-match=set:bramble-bios,option:client-arch,0\n",
    );
    for architecture in [7, 8, 9] {
        let _ = writeln!(text, "dhcp-match=set:bramble-uefi,option:client-arch,{architecture}");
    }
    for architecture in [15, 16] {
        let _ = writeln!(text, "dhcp-match=set:bramble-http,option:client-arch,{architecture}");
    }
    let _ = write!(
        text,
        "dhcp-boot=tag:bramble-ipxe,{}\n\
         dhcp-boot=tag:bramble-bios,tag:!bramble-ipxe,{BIOS_LOADER},,{head}\n\
         dhcp-boot=tag:bramble-uefi,tag:!bramble-ipxe,{UEFI_X64_LOADER},,{head}\n\
         dhcp-boot=tag:bramble-http,tag:!bramble-ipxe,{}\n\
         dhcp-option-force=tag:bramble-http,tag:!bramble-ipxe,60,HTTPClient\n",
        script(http),
        loader(http),
    );
    text
}

fn kea(http: SocketAddrV4) -> String {
    let head = http.ip();
    let any = |numbers: &[u16]| {
        let tests: Vec<String> = numbers.iter().map(|number| format!("option[93].hex == 0x{number:04x}")).collect();
        format!("({}) and not member('bramble-ipxe')", tests.join(" or "))
    };
    let ipxe = "option[175].exists or option[77].hex == 'iPXE' or substring(option[77].hex, 1, 4) == 'iPXE'";
    format!(
        "// Into \"Dhcp4\" of /etc/kea/kea-dhcp4.conf; then: systemctl restart kea-dhcp4-server\n\
         \"client-classes\": [\n  \
         {{ \"name\": \"bramble-ipxe\", \"test\": \"{ipxe}\",\n    \
         \"boot-file-name\": \"{}\" }},\n  \
         {{ \"name\": \"bramble-bios\", \"test\": \"{}\",\n    \
         \"next-server\": \"{head}\", \"boot-file-name\": \"{BIOS_LOADER}\" }},\n  \
         {{ \"name\": \"bramble-uefi\", \"test\": \"{}\",\n    \
         \"next-server\": \"{head}\", \"boot-file-name\": \"{UEFI_X64_LOADER}\" }},\n  \
         {{ \"name\": \"bramble-http\", \"test\": \"{}\",\n    \
         \"boot-file-name\": \"{}\",\n    \
         \"option-data\": [ {{ \"name\": \"vendor-class-identifier\", \"data\": \"HTTPClient\", \"always-send\": true }} ] }}\n\
         ]\n",
        script(http),
        any(&[0]),
        any(&[7, 8, 9]),
        any(&[15, 16]),
        loader(http),
    )
}

/// RouterOS 7: matchers pick an option set; a quoted string has to escape `$`.
fn mikrotik(http: SocketAddrV4) -> String {
    let head = http.ip();
    let script = script(http).replace('$', "\\$");
    let http_loader = loader(http);
    let mut text = String::from(
        "# RouterOS 7, in its terminal; neither checked against its manual nor tried on a device yet. The server is taken to be `defconf`: `/ip dhcp-server print` lists them.\n\
         /ip dhcp-server option\n",
    );
    let files = [("ipxe", script.as_str()), ("bios", BIOS_LOADER), ("uefi", UEFI_X64_LOADER), ("http", &http_loader)];
    for (name, file) in files {
        let _ = writeln!(text, "add name=bramble-{name}-file code=67 value=\"'{file}'\"");
    }
    let _ = write!(
        text,
        "add name=bramble-tftp code=66 value=\"'{head}'\"\n\
         add name=bramble-http-class code=60 value=\"'HTTPClient'\"\n\
         /ip dhcp-server option sets\n\
         add name=bramble-ipxe options=bramble-ipxe-file\n\
         add name=bramble-bios options=bramble-bios-file,bramble-tftp\n\
         add name=bramble-uefi options=bramble-uefi-file,bramble-tftp\n\
         add name=bramble-http options=bramble-http-file,bramble-http-class\n\
         /ip dhcp-server matcher\n\
         add name=bramble-ipxe server=defconf code=77 value=\"iPXE\" matching-type=substring option-set=bramble-ipxe\n"
    );
    let architectures =
        [("bios", "0000"), ("uefi", "0007"), ("uefi", "0008"), ("uefi", "0009"), ("http", "000f"), ("http", "0010")];
    for (set, code) in architectures {
        let _ = writeln!(
            text,
            "add name=bramble-{set}-{code} server=defconf code=93 value=0x{code} option-set=bramble-{set}"
        );
    }
    let _ = writeln!(text, "/ip dhcp-server network set [find] next-server={head}");
    text
}

/// UniFi has one boot file for all: firmware and the iPXE that it loads would get the same one.
const UNIFI: &str = "\
UniFi Network (Settings > Networks > DHCP > Network boot) offers one boot file to every machine. iPXE
needs another one than the firmware that loads it, so UniFi's own offer cannot boot them.

Leave network boot off there, and `dhcp = \"proxy\"` in bramble.toml: nearly all firmware puts the two
offers together. For machines that do not, make a network of their own: Settings > Networks > New,
DHCP mode None, and on it a head with `dhcp = \"full\"`.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_router_has_its_recipe() {
        let http = "10.77.0.1:7080".parse().expect("an address");
        for (name, router) in Router::ALL {
            insta::assert_snapshot!(name, recipe(router, http));
        }
    }
}
