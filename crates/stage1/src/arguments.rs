//! What the boot script said on the kernel's command line.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};

use crate::{Doing, Error};

/// The kernel arguments that are meant for stage 1 and the agent.
#[derive(Debug, Clone)]
pub struct Arguments {
    /// `bramble.head=ADDRESS:PORT`: where boot files and reports go.
    pub head: SocketAddrV4,
    /// `bramble.agent=PORT`: where the agent connects.
    pub agent_port: u16,
    /// `bramble.node=NAME`.
    pub node: String,
    /// `bramble.boot=ID`: this boot, for reports.
    pub boot: String,
    /// `bramble.nonce=…`: proves once that this boot was handed out by the head.
    pub nonce: String,
    /// `bramble.set=SHA256`: the manifest to boot.
    pub set: String,
    /// `BOOTIF=01-MAC`: the network card that the firmware used.
    pub mac: [u8; 6],
    /// `bramble.ip=ADDRESS/NETMASK`: what the firmware was given.
    pub address: Ipv4Addr,
    pub prefix: u8,
    /// `bramble.gateway=ADDRESS`, absent or empty where there is none.
    pub gateway: Option<Ipv4Addr>,
    /// `bramble.inventory=1`: the machine is no node, and says once what it is.
    pub inventory: bool,
    /// `bramble.dns=ADDRESS`, absent or empty where there is none.
    pub dns: Option<Ipv4Addr>,
}

impl Arguments {
    pub fn read() -> Result<Self, Error> {
        let line = fs::read_to_string("/proc/cmdline").doing("cannot read the kernel's command line")?;
        Self::parse(&line)
    }

    fn parse(line: &str) -> Result<Self, Error> {
        let words: BTreeMap<&str, &str> = line.split_whitespace().filter_map(|word| word.split_once('=')).collect();
        let word = |name: &str| {
            words.get(name).copied().ok_or_else(|| Error(format!("the kernel's command line has no `{name}`")))
        };
        let optional = |name: &str| words.get(name).and_then(|text| text.parse().ok());
        let (address, mask) = word("bramble.ip")?.split_once('/').unwrap_or_default();
        let mask: Ipv4Addr = mask.parse().doing("bramble.ip has no netmask")?;
        Ok(Arguments {
            head: word("bramble.head")?.parse().doing("bramble.head is no address and port")?,
            agent_port: word("bramble.agent")?.parse().doing("bramble.agent is no port")?,
            node: word("bramble.node")?.to_owned(),
            boot: word("bramble.boot")?.to_owned(),
            nonce: word("bramble.nonce")?.to_owned(),
            set: word("bramble.set")?.to_owned(),
            mac: mac(word("BOOTIF")?)?,
            address: address.parse().doing("bramble.ip is no address")?,
            prefix: u32::from(mask).leading_ones() as u8,
            inventory: words.get("bramble.inventory") == Some(&"1"),
            gateway: optional("bramble.gateway"),
            dns: optional("bramble.dns"),
        })
    }
}

/// `01-52-54-00-00-00-01`: the hardware type (1 is Ethernet) and the address, as PXELINUX began.
fn mac(text: &str) -> Result<[u8; 6], Error> {
    let wrong = || Error(format!("BOOTIF `{text}` is no hardware address"));
    let mut mac = [0; 6];
    let bytes: Vec<&str> = text.split(['-', ':']).collect();
    let bytes = bytes.get(bytes.len().saturating_sub(6)..).filter(|bytes| bytes.len() == 6).ok_or_else(wrong)?;
    for (byte, text) in mac.iter_mut().zip(bytes) {
        *byte = u8::from_str_radix(text, 16).map_err(|_| wrong())?;
    }
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "quiet bramble.head=10.77.0.1:7080 bramble.agent=7443 bramble.node=m1 bramble.boot=b \
                        bramble.nonce=n bramble.set=s BOOTIF=01-52-54-00-00-00-01 \
                        bramble.ip=10.77.0.11/255.255.255.0 bramble.gateway= bramble.dns=10.77.0.1\n";

    #[test]
    fn an_ipxe_command_line_is_read() {
        let arguments = Arguments::parse(LINE).expect("complete");
        assert_eq!(arguments.mac, [0x52, 0x54, 0, 0, 0, 1]);
        assert_eq!((arguments.address, arguments.prefix), (Ipv4Addr::new(10, 77, 0, 11), 24));
        assert_eq!((arguments.gateway, arguments.dns), (None, Some(Ipv4Addr::new(10, 77, 0, 1))));
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = Arguments::parse(&LINE.replace("bramble.nonce=n", "")).expect_err("incomplete");
        assert!(error.0.contains("bramble.nonce"), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn no_command_line_makes_it_panic(line: String, mac_text: String) {
            let _ = Arguments::parse(&line);
            let _ = mac(&mac_text);
        }
    }
}
