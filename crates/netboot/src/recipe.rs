//! What to put into a router's own DHCP offer, so that machines boot from here without an offer of
//! ours: for firmware that never merges two offers (`docs/real-boards.md`).

use std::fmt::Write;
use std::net::SocketAddrV4;

use bramble_boot::{Cpu, Loader, Pi};
use bramble_model::names::Mac;
use bramble_model::repository::{Cluster, Node};

use crate::pi;

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

/// Cards of this cluster's machines that want another answer than their architecture says.
#[derive(Debug, Clone, Default)]
pub struct Cards {
    /// Of machines whose UEFI starts signed programs only.
    pub signed: Vec<Mac>,
    /// Of Raspberry Pis, which call themselves BIOSes.
    pub pis: Vec<Mac>,
}

impl Cards {
    pub fn of(cluster: &Cluster) -> Self {
        let cards = |wanted: &dyn Fn(&Node, Mac) -> bool| -> Vec<Mac> {
            let all = cluster.nodes.values().flat_map(|node| node.macs.iter().map(move |mac| (node, *mac)));
            all.filter(|(node, mac)| wanted(node, *mac)).map(|(_, mac)| mac).collect()
        };
        Cards {
            signed: cards(&|node, _| node.secure_boot == Some(true)),
            pis: cards(&|_, mac| mac.may_be_raspberry_pi()),
        }
    }
}

/// Which way a Raspberry Pi of this address boots: models up to the 3 have the oldest prefix, and a ROM.
fn pi_of(mac: Mac) -> Pi {
    if mac.0.starts_with(&[0xb8, 0x27, 0xeb]) { Pi::Rom } else { Pi::Eeprom }
}

/// Option 43 for a Raspberry Pi, as hex digits.
fn pi_option(mac: Mac, between: &str) -> String {
    let bytes = pi::vendor_options(pi_of(mac)).into_iter().map(|byte| format!("{byte:02x}"));
    bytes.collect::<Vec<_>>().join(between)
}

/// The configuration for `router`, as text to paste, with comments that say where. `http` is the
/// head's HTTP service; its TFTP is on the same address.
pub fn recipe(router: Router, http: SocketAddrV4, cards: &Cards) -> String {
    match router {
        Router::Dnsmasq => format!(
            "# For example /etc/dnsmasq.d/bramble.conf; then: systemctl restart dnsmasq\n{}",
            dnsmasq(http, cards)
        ),
        Router::Kea => kea(http, cards),
        Router::Mikrotik => mikrotik(http, cards),
        Router::Openwrt => format!(
            "# On the router, which keeps /etc/dnsmasq.conf over upgrades.\n\
             cat >>/etc/dnsmasq.conf <<'END'\n{}END\n/etc/init.d/dnsmasq restart\n",
            dnsmasq(http, cards)
        ),
        Router::Pihole => format!(
            "# Pi-hole 6 reads /etc/dnsmasq.d only when it is told to; 5 does always.\n\
             sudo pihole-FTL --config misc.etc_dnsmasq_d true\n\
             sudo tee /etc/dnsmasq.d/10-bramble.conf <<'END'\n{}END\nsudo systemctl restart pihole-FTL\n",
            dnsmasq(http, cards)
        ),
        Router::Unifi => UNIFI.to_owned(),
    }
}

/// Where iPXE finds the script of its machine. iPXE itself fills in the address of the card that it
/// boots from and what it was built for (its settings are expanded in a boot file's name).
fn script(http: SocketAddrV4) -> String {
    format!("http://{http}/boot/script/${{netX/mac}}?arch=${{buildarch}}")
}

/// A kind of firmware: its name in the recipes, its client architectures (RFC 4578), and what it is
/// to fetch.
struct Kind {
    name: &'static str,
    architectures: &'static [u16],
    file: String,
    /// What it fetches where it starts signed programs only.
    signed: Option<String>,
    over_http: bool,
}

fn kinds(http: SocketAddrV4) -> [Kind; 5] {
    let file = |loader: Loader| loader.name().expect("there is one for this instruction set");
    let tftp = |name, architectures, loader, signed: Option<Loader>| Kind {
        name,
        architectures,
        file: file(loader).to_owned(),
        signed: signed.map(|shim| file(shim).to_owned()),
        over_http: false,
    };
    let over_http = |name, architectures, cpu| {
        let url = |loader| format!("http://{http}/boot/loader/{}", file(loader));
        let signed = Some(url(Loader::Shim(cpu)));
        Kind { name, architectures, file: url(Loader::Ipxe(cpu)), signed, over_http: true }
    };
    let shim = |cpu| Some(Loader::Shim(cpu));
    [
        tftp("bios", &[0], Loader::IpxeBios, None),
        // 7, 8 and 9 all mean 64-bit UEFI in practice.
        tftp("uefi", &[7, 8, 9], Loader::Ipxe(Cpu::Amd64), shim(Cpu::Amd64)),
        tftp("arm64", &[11], Loader::Ipxe(Cpu::Arm64), shim(Cpu::Arm64)),
        over_http("http", &[15, 16], Cpu::Amd64),
        over_http("http-arm64", &[19], Cpu::Arm64),
    ]
}

fn dnsmasq(http: SocketAddrV4, Cards { signed, pis }: &Cards) -> String {
    let head = http.ip();
    let mut text = String::from(
        "# iPXE says what it is in its user class and with its own option.\n\
         dhcp-userclass=set:bramble-ipxe,iPXE\n\
         dhcp-match=set:bramble-ipxe,175\n\
         # Client architectures (RFC 4578).\n",
    );
    for Kind { name, architectures, .. } in &kinds(http) {
        for architecture in *architectures {
            let _ = writeln!(text, "dhcp-match=set:bramble-{name},option:client-arch,{architecture}");
        }
    }
    if !signed.is_empty() {
        text.push_str("# Machines whose UEFI starts signed programs only.\n");
    }
    for mac in signed {
        let _ = writeln!(text, "dhcp-mac=set:bramble-signed,{mac}");
    }
    let _ = writeln!(text, "dhcp-boot=tag:bramble-ipxe,{}", script(http));
    for Kind { name, file, signed: shim, over_http, .. } in &kinds(http) {
        let server = if *over_http { String::new() } else { format!(",,{head}") };
        match shim {
            Some(shim) if !signed.is_empty() => {
                let tags = format!("tag:bramble-{name},tag:!bramble-ipxe");
                let _ = writeln!(text, "dhcp-boot={tags},tag:!bramble-signed,{file}{server}");
                let _ = writeln!(text, "dhcp-boot={tags},tag:bramble-signed,{shim}{server}");
            }
            _ => {
                let _ = writeln!(text, "dhcp-boot=tag:bramble-{name},tag:!bramble-ipxe,{file}{server}");
            }
        }
        if *over_http {
            let _ = writeln!(text, "dhcp-option-force=tag:bramble-{name},tag:!bramble-ipxe,60,HTTPClient");
        }
    }
    if !pis.is_empty() {
        text.push_str("# Raspberry Pis fetch from the server of option 66. The ROM of a Pi 3 misses quick answers.\n");
    }
    for mac in pis {
        let tag = format!("bramble-pi-{}", mac.to_string().replace(':', ""));
        let _ = writeln!(text, "dhcp-mac=set:{tag},{mac}");
        let _ = writeln!(text, "dhcp-option-force=tag:{tag},43,{}", pi_option(*mac, ":"));
        let _ = writeln!(text, "dhcp-option-force=tag:{tag},66,\"{head}\"");
        if pi_of(*mac) == Pi::Rom {
            let _ = writeln!(text, "dhcp-reply-delay=tag:{tag},1");
        }
    }
    text
}

fn kea(http: SocketAddrV4, Cards { signed, pis }: &Cards) -> String {
    let head = http.ip();
    let ipxe = "option[175].exists or option[77].hex == 'iPXE' or substring(option[77].hex, 1, 4) == 'iPXE'";
    let mut text = format!(
        "// Into \"Dhcp4\" of /etc/kea/kea-dhcp4.conf; then: systemctl restart kea-dhcp4-server\n\
         \"client-classes\": [\n  \
         {{ \"name\": \"bramble-ipxe\", \"test\": \"{ipxe}\",\n    \
         \"boot-file-name\": \"{}\" }}",
        script(http)
    );
    if !signed.is_empty() {
        let cards: Vec<String> =
            signed.iter().map(|mac| format!("pkt4.mac == 0x{}", mac.to_string().replace(':', ""))).collect();
        let _ = write!(text, ",\n  {{ \"name\": \"bramble-signed\", \"test\": \"{}\" }}", cards.join(" or "));
    }
    let mut class = |name: &str, test: &str, file: &str, over_http: bool| {
        let _ = write!(text, ",\n  {{ \"name\": \"bramble-{name}\", \"test\": \"{test}\",\n    ");
        let _ = if over_http {
            write!(
                text,
                "\"boot-file-name\": \"{file}\",\n    \"option-data\": [ {{ \"name\": \"vendor-class-identifier\", \
                 \"data\": \"HTTPClient\", \"always-send\": true }} ] }}"
            )
        } else {
            write!(text, "\"next-server\": \"{head}\", \"boot-file-name\": \"{file}\" }}")
        };
    };
    for Kind { name, architectures, file, signed: shim, over_http } in &kinds(http) {
        let tests: Vec<String> =
            architectures.iter().map(|number| format!("option[93].hex == 0x{number:04x}")).collect();
        let test = format!("({}) and not member('bramble-ipxe')", tests.join(" or "));
        match shim {
            Some(shim) if !signed.is_empty() => {
                class(name, &format!("{test} and not member('bramble-signed')"), file, *over_http);
                class(&format!("{name}-signed"), &format!("{test} and member('bramble-signed')"), shim, *over_http);
            }
            _ => class(name, &test, file, *over_http),
        }
    }
    for mac in pis {
        let digits = mac.to_string().replace(':', "");
        let _ = write!(
            text,
            ",\n  {{ \"name\": \"bramble-pi-{digits}\", \"test\": \"pkt4.mac == 0x{digits}\",\n    \
             \"option-def\": [ {{ \"name\": \"vendor-encapsulated-options\", \"code\": 43, \"type\": \"binary\" }} ],\n    \
             \"option-data\": [ {{ \"name\": \"vendor-encapsulated-options\", \"csv-format\": false, \"always-send\": true,\n      \
             \"data\": \"{}\" }},\n      \
             {{ \"name\": \"tftp-server-name\", \"data\": \"{head}\", \"always-send\": true }} ] }}",
            pi_option(*mac, "")
        );
    }
    text.push_str("\n]\n");
    text
}

/// RouterOS 7: matchers pick an option set; a quoted string has to escape `$`.
fn mikrotik(http: SocketAddrV4, Cards { signed, pis }: &Cards) -> String {
    let head = http.ip();
    let kinds = kinds(http);
    let mut text = String::from(
        "# RouterOS 7, in its terminal; neither checked against its manual nor tried on a device yet. The server is taken to be `defconf`: `/ip dhcp-server print` lists them.\n\
         /ip dhcp-server option\n",
    );
    if !signed.is_empty() || !pis.is_empty() {
        text.insert_str(0, "# Not for Raspberry Pis and machines with `secure_boot = true`: they need `dhcp = \"proxy\"` or \"full\".\n");
    }
    let _ = writeln!(text, "add name=bramble-ipxe-file code=67 value=\"'{}'\"", script(http).replace('$', "\\$"));
    for Kind { name, file, .. } in &kinds {
        let _ = writeln!(text, "add name=bramble-{name}-file code=67 value=\"'{file}'\"");
    }
    let _ = write!(
        text,
        "add name=bramble-tftp code=66 value=\"'{head}'\"\n\
         add name=bramble-http-class code=60 value=\"'HTTPClient'\"\n\
         /ip dhcp-server option sets\n\
         add name=bramble-ipxe options=bramble-ipxe-file\n"
    );
    for Kind { name, over_http, .. } in &kinds {
        let more = if *over_http { "bramble-http-class" } else { "bramble-tftp" };
        let _ = writeln!(text, "add name=bramble-{name} options=bramble-{name}-file,{more}");
    }
    text.push_str(
        "/ip dhcp-server matcher\n\
         add name=bramble-ipxe server=defconf code=77 value=\"iPXE\" matching-type=substring option-set=bramble-ipxe\n",
    );
    for Kind { name, architectures, .. } in &kinds {
        for code in *architectures {
            let _ = writeln!(
                text,
                "add name=bramble-{name}-{code:04x} server=defconf code=93 value=0x{code:04x} option-set=bramble-{name}"
            );
        }
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
            insta::assert_snapshot!(name, recipe(router, http, &Cards::default()));
        }
        let cards = |macs: [&str; 2]| macs.map(|mac| mac.parse().expect("an address")).to_vec();
        let cards = Cards {
            signed: cards(["52:54:00:00:00:01", "52:54:00:00:00:02"]),
            pis: cards(["b8:27:eb:00:00:03", "dc:a6:32:00:00:04"]),
        };
        for (name, router) in [("dnsmasq-special", Router::Dnsmasq), ("kea-special", Router::Kea)] {
            insta::assert_snapshot!(name, recipe(router, http, &cards));
        }
    }
}
