//! The kernel arguments of a boot: what the head hands out, and what stage 1 reads.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};

use crate::PartitionId;

/// What `bramble.data` is.
const GUID: &str = "a partition's GUID";
/// What a machine that only says what it is gets beside: no engine, and nobody who logs in.
const INVENTORY: &str = " bramble.inventory=1";

/// One boot, as the head hands it out.
#[derive(Debug, Clone)]
pub struct HandedOut<'a> {
    pub node: &'a str,
    /// Where boot files and reports go.
    pub head: SocketAddrV4,
    /// Where the agent connects.
    pub agent_port: u16,
    pub boot: &'a str,
    /// For a boot set whose stage 1 does not [claim](crate::Claim) its boot; `None` for all others.
    pub nonce: Option<&'a str>,
    /// Digest of the manifest to boot, in hex.
    pub set: &'a str,
    pub inventory: bool,
    /// The node's data partition, for a boot set whose stage 1 [knows](crate::OWN_DATA) the word.
    pub data: Option<PartitionId>,
    /// Further arguments, of the boot set.
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

impl HandedOut<'_> {
    /// All arguments of the kernel.
    pub fn render(&self, own: &Addresses) -> String {
        let HandedOut { node, head, agent_port, boot, nonce, set, inventory, data, cmdline } = self;
        let Addresses { mac, address, mask, gateway, dns } = own;
        let inventory = if *inventory { INVENTORY } else { "" };
        let nonce = nonce.map(|nonce| format!(" bramble.nonce={nonce}")).unwrap_or_default();
        let data = data.map(|data| format!(" bramble.data={data}")).unwrap_or_default();
        format!(
            "{cmdline}{inventory} bramble.head={head} bramble.agent={agent_port} bramble.node={node} bramble.boot={boot}\
             {nonce}{data} bramble.set={set} BOOTIF=01-{mac} bramble.ip={address}/{mask} bramble.gateway={gateway} \
             bramble.dns={dns}"
        )
    }
}

/// The arguments that are meant for stage 1 and the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arguments {
    /// `bramble.head=ADDRESS:PORT`: where boot files and reports go.
    pub head: SocketAddrV4,
    /// `bramble.agent=PORT`: where the agent connects.
    pub agent_port: u16,
    /// `bramble.node=NAME`.
    pub node: String,
    /// `bramble.boot=ID`: this boot, for reports.
    pub boot: String,
    /// `bramble.nonce=…`, from a head of before boots were claimed: proves once that this boot was handed out by it.
    pub nonce: Option<String>,
    /// `bramble.set=SHA256`: the manifest to boot.
    pub set: String,
    /// `BOOTIF=01-MAC`: the network card that the firmware used.
    pub mac: [u8; 6],
    /// `bramble.ip=ADDRESS/NETMASK`: what the firmware was given.
    pub address: Ipv4Addr,
    /// Length of the network prefix in bits.
    pub prefix: u8,
    /// `bramble.gateway=ADDRESS`, absent or empty where there is none.
    pub gateway: Option<Ipv4Addr>,
    /// `bramble.inventory=1`: the machine is no node, and says once what it is.
    pub inventory: bool,
    /// `bramble.data=GUID`: the node's data partition, absent where it has none.
    pub data: Option<PartitionId>,
    /// `bramble.dns=ADDRESS`, absent or empty where there is none.
    pub dns: Option<Ipv4Addr>,
}

/// A kernel's command line that is not one of a boot: which word it lacks, or what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    Word(&'static str),
    Wrong { word: &'static str, text: String, expected: &'static str },
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Missing::Word(word) => write!(f, "the kernel's command line has no `{word}`"),
            Missing::Wrong { word, text, expected } => {
                write!(f, "`{word}={text}` on the kernel's command line: expected {expected}")
            }
        }
    }
}

impl std::error::Error for Missing {}

impl Arguments {
    /// Reads a kernel's command line. Of a word that is there twice, the last one counts.
    ///
    /// # Errors
    /// The first word that is missing or wrong.
    pub fn read(line: &str) -> Result<Self, Missing> {
        let words: BTreeMap<&str, &str> = line.split_whitespace().filter_map(|word| word.split_once('=')).collect();
        let word = |name| words.get(name).copied().ok_or(Missing::Word(name));
        let wrong = |word, text: &str, expected| Missing::Wrong { word, text: text.to_owned(), expected };
        let optional = |name| words.get(name).and_then(|text| text.parse().ok());
        let head = word("bramble.head")?;
        let port = word("bramble.agent")?;
        let own = word("bramble.ip")?;
        let (address, mask) = own.split_once('/').unwrap_or((own, ""));
        let no_address = |_| wrong("bramble.ip", own, "an address and its netmask");
        let mask: Ipv4Addr = mask.parse().map_err(no_address)?;
        let card = word("BOOTIF")?;
        Ok(Arguments {
            head: head.parse().map_err(|_| wrong("bramble.head", head, "an address and port"))?,
            agent_port: port.parse().map_err(|_| wrong("bramble.agent", port, "a port"))?,
            node: word("bramble.node")?.to_owned(),
            boot: word("bramble.boot")?.to_owned(),
            nonce: words.get("bramble.nonce").map(|&nonce| nonce.to_owned()),
            set: word("bramble.set")?.to_owned(),
            mac: mac(card).ok_or_else(|| wrong("BOOTIF", card, "a hardware address"))?,
            address: address.parse().map_err(no_address)?,
            prefix: u32::from(mask).leading_ones() as u8,
            inventory: words.get("bramble.inventory") == Some(&"1"),
            data: words
                .get("bramble.data")
                .map(|&data| data.parse().map_err(|_| wrong("bramble.data", data, GUID)))
                .transpose()?,
            gateway: optional("bramble.gateway"),
            dns: optional("bramble.dns"),
        })
    }
}

/// `01-52-54-00-00-00-01`: the hardware type (1 is Ethernet) and the address, as PXELINUX began. The type may be
/// missing.
fn mac(text: &str) -> Option<[u8; 6]> {
    let parts: Vec<&str> = text.split(['-', ':']).collect();
    let bytes = parts.get(parts.len().checked_sub(6)?..)?;
    let mut mac = [0; 6];
    for (byte, text) in mac.iter_mut().zip(bytes) {
        *byte = u8::from_str_radix(text, 16).ok()?;
    }
    Some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LINE: &str = "quiet bramble.head=10.77.0.1:7080 bramble.agent=7443 bramble.node=m1 bramble.boot=b \
                        bramble.nonce=n bramble.set=s BOOTIF=01-52-54-00-00-00-01 \
                        bramble.ip=10.77.0.11/255.255.255.0 bramble.gateway= bramble.dns=10.77.0.1\n";

    const DATA: &str = "0fc63daf-8483-4772-8e79-3d69d8477de4";

    #[test]
    fn an_ipxe_command_line_is_read() {
        let arguments = Arguments::read(LINE).expect("complete");
        assert_eq!(arguments.mac, [0x52, 0x54, 0, 0, 0, 1]);
        assert_eq!((arguments.address, arguments.prefix), (Ipv4Addr::new(10, 77, 0, 11), 24));
        assert_eq!((arguments.gateway, arguments.dns), (None, Some(Ipv4Addr::new(10, 77, 0, 1))));
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let error = Arguments::read(&LINE.replace("bramble.set=s", "")).expect_err("incomplete");
        assert_eq!(error, Missing::Word("bramble.set"));
        let error = Arguments::read(&LINE.replace("/255.255.255.0", "")).expect_err("no mask");
        assert_eq!(
            error.to_string(),
            "`bramble.ip=10.77.0.11` on the kernel's command line: expected an address and its netmask"
        );
        let error = Arguments::read(&format!("{LINE} bramble.data=sda1")).expect_err("no GUID");
        assert_eq!(error.to_string(), "`bramble.data=sda1` on the kernel's command line: expected a partition's GUID");
    }

    /// As the head of commit 5b09a28 rendered it.
    #[test]
    fn the_arguments_stay() {
        let own = Addresses {
            mac: "52-54-00-00-00-01".into(),
            address: "10.77.0.11".into(),
            mask: "255.255.255.0".into(),
            gateway: String::new(),
            dns: "10.77.0.1".into(),
        };
        let mut handed = HandedOut {
            node: "m1",
            head: "10.77.0.1:7080".parse().expect("an address"),
            agent_port: 7443,
            boot: "b",
            nonce: Some("n"),
            set: "s",
            inventory: false,
            data: None,
            cmdline: "quiet",
        };
        assert_eq!(handed.render(&own), LINE.trim_end());
        handed.nonce = None;
        assert_eq!(handed.render(&own), LINE.replace(" bramble.nonce=n", "").trim_end());
        handed.data = Some(DATA.parse().expect("a GUID"));
        let data = LINE.replace("bramble.nonce=n", &format!("bramble.data={DATA}"));
        assert_eq!(handed.render(&own), data.trim_end());
        handed.nonce = Some("n");
        handed.data = None;
        handed.inventory = true;
        let inventory = LINE.replace("quiet", "quiet bramble.inventory=1");
        assert_eq!(handed.render(&own), inventory.trim_end());
    }

    fn word() -> impl Strategy<Value = String> {
        "[a-z0-9-]{1,20}"
    }

    proptest! {
        #[test]
        fn arguments_survive_the_command_line(
            words in prop::array::uniform3(word()), nonce in prop::option::of(word()), head: SocketAddrV4, agent_port: u16, mac: [u8; 6],
            address: Ipv4Addr, prefix in 0..=32_u32, gateway: Option<Ipv4Addr>, dns: Option<Ipv4Addr>, inventory: bool,
            data: [u8; 16], cmdline in "[ a-z=,0-9]{0,40}",
        ) {
            let [node, boot, set] = words;
            let text = |address: Option<Ipv4Addr>| address.map(|address| address.to_string()).unwrap_or_default();
            let own = Addresses {
                mac: mac.map(|byte| format!("{byte:02x}")).join("-"),
                address: address.to_string(),
                mask: Ipv4Addr::from(u32::MAX.checked_shl(32 - prefix).unwrap_or(0)).to_string(),
                gateway: text(gateway),
                dns: text(dns),
            };
            let data = PartitionId::of_entry(data);
            let handed = HandedOut { node: &node, head, agent_port, boot: &boot, nonce: nonce.as_deref(), set: &set, inventory, data, cmdline: &cmdline };
            let read = Arguments::read(&handed.render(&own)).expect("one of our own");
            let prefix = prefix as u8;
            prop_assert_eq!(read, Arguments { head, agent_port, node, boot, nonce, set, mac, address, prefix, gateway, inventory, data, dns });
        }

        #[test]
        fn no_command_line_makes_it_panic(line: String, text: String) {
            let _ = Arguments::read(&line);
            let _ = Arguments::read(&LINE.replace("10.77.0.11/255.255.255.0", &text));
            let _ = mac(&text);
        }
    }
}
