//! A firmware, declared: what it sends, what it ignores, how it retries and gives up.
//!
//! One file in `tests/personas/` each; the fields are described here.

use std::collections::BTreeMap;
use std::path::Path;

use bramble_model::names::Mac;
use serde::Deserialize;

/// A firmware.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Persona {
    /// Which firmware it is, and what is known of it.
    pub about: String,
    /// The lines of the field notes that it holds.
    pub notes: Vec<String>,
    pub way: Way,
    /// Debian's name of its processor.
    #[serde(default = "amd64")]
    pub cpu: String,
    /// Its address, where that matters; else one is made from its name.
    pub mac: Option<String>,
    /// It asks for its address with one card, and its loader with another.
    #[serde(default)]
    pub two_cards: bool,
    /// How often it goes through its boot order before it stops.
    #[serde(default = "three")]
    pub rounds: u32,
    pub dhcp: Dhcp,
    #[serde(default)]
    pub tftp: Tftp,
    pub pi: Option<Pi>,
    /// The firmware that it becomes when it starts iPXE: a file in `tests/personas/loaders`.
    pub becomes: Option<String>,
    pub expect: Expect,
}

fn amd64() -> String {
    "amd64".into()
}

fn three() -> u32 {
    3
}

/// The order of its steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// DHCP, one file over TFTP, start it.
    Pxe,
    /// DHCP, a script over HTTP, and what that says.
    Ipxe,
    /// DHCP, one file over HTTP, start it.
    HttpBoot,
    /// DHCP without a REQUEST, `bootcode.bin`, DHCP again, its files.
    PiRom,
    /// DHCP, its files.
    PiEeprom,
    /// DHCP, `pxelinux.cfg`, kernel and initrd over TFTP.
    UBoot,
    /// Wants an address, and nothing to boot.
    Phone,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dhcp {
    /// Option 60.
    pub class: Option<String>,
    /// Option 93.
    pub architecture: Option<u16>,
    /// Option 97, in hex.
    pub uuid: Option<String>,
    /// Option 77, as the bytes of this text.
    pub user_class: Option<String>,
    /// Option 77 has the length in front that RFC 3004 wants.
    #[serde(default)]
    pub user_class_has_length: bool,
    /// More options, by number, in hex.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Seconds that it waits for an offer after each DISCOVER; then it gives up.
    pub waits: Vec<f64>,
    /// Seconds for which it goes on listening after the first offer.
    #[serde(default)]
    pub collects: f64,
    #[serde(default = "yes")]
    pub sends_request: bool,
    /// The REQUEST leaves option 60 out.
    #[serde(default)]
    pub request_lacks_class: bool,
    /// Zero bytes between options of the REQUEST.
    #[serde(default)]
    pub request_is_padded: bool,
    #[serde(default = "yes")]
    pub broadcast: bool,
    /// Milliseconds after its DISCOVER in which it misses an answer.
    #[serde(default)]
    pub deaf_for: u64,
    /// Puts the router's offer and a proxy's together.
    #[serde(default = "yes")]
    pub merges: bool,
    /// When it asks port 4011.
    #[serde(default)]
    pub boot_server: BootServer,
    /// Asks there by INFORM.
    #[serde(default)]
    pub boot_server_by_inform: bool,
    /// What an offer has to have to count as one to boot from.
    #[serde(default)]
    pub needs: Vec<Need>,
    /// Where it reads the boot file's name.
    #[serde(default)]
    pub reads: Reads,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootServer {
    #[default]
    Never,
    /// Where a proxy's offer has no discovery control 8 (option 43, sub-option 6).
    UnlessTold,
    /// After each proxy offer.
    Always,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// Option 43, sub-option 6, says 8.
    DiscoveryControl,
    NoOption43,
    /// Option 43 has "Raspberry Pi Boot".
    PiText,
    /// With three blanks behind it.
    PiTextWithBlanks,
    ClassPxe,
    ClassHttp,
    ServerIdentifier,
    Siaddr,
    /// Option 66.
    TftpServerName,
    /// Option 97 is echoed.
    Uuid,
    /// At least 300 bytes.
    ThreeHundredBytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reads {
    /// Option 67, else the header.
    #[default]
    Either,
    /// Only the BOOTP header.
    Header,
    /// Only option 67.
    Option,
}

/// How it reads over TFTP (RFC 1350, 2347–2349, 7440).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tftp {
    pub blksize: Option<u32>,
    pub windowsize: Option<u32>,
    /// Asks for the size of each file in a transfer that it aborts, before the real one.
    pub asks_size_first: bool,
    pub tsize: bool,
    /// Option `timeout`.
    pub timeout: Option<u32>,
    /// Seconds after which it asks or acknowledges again.
    pub wait: f64,
    /// How often it asks before it gives up.
    pub tries: u32,
    /// The last block number it can count to: no wrap.
    pub counts_to: Option<u64>,
    /// Sends each acknowledgement twice.
    pub doubles_acks: bool,
    /// What it puts in front of names.
    pub slash: String,
}

impl Default for Tftp {
    fn default() -> Self {
        Tftp {
            blksize: Some(1456),
            windowsize: None,
            asks_size_first: false,
            tsize: true,
            timeout: None,
            wait: 0.5,
            tries: 12,
            counts_to: None,
            doubles_acks: false,
            slash: String::new(),
        }
    }
}

/// What a Raspberry Pi is.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pi {
    /// The folder that it puts in front: its serial number, its address, a fixed word, or nothing.
    pub prefix: String,
    /// What it looks for before `config.txt`; `-` in front marks what need not be there.
    pub before: Vec<String>,
    /// What it loads after it.
    pub after: Vec<String>,
}

/// What is to come of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// The files it fetches in full DHCP, in order: `tftp NAME` or `http NAME`.
    pub full: Vec<String>,
    /// The files it fetches beside a router that hands out addresses. Default: the same.
    pub proxy: Option<Vec<String>>,
    /// It does not boot beside a router, and `bramble why` names the cause so.
    pub proxy_why: Option<String>,
    /// It does not boot beside a router that answers at once; the cause that `bramble why` names.
    pub quick_router_why: Option<String>,
    /// It gives up before a port that runs spanning tree opens: it needs another power cycle.
    #[serde(default)]
    pub gives_up_in_silence: bool,
}

impl Persona {
    /// Reads one file.
    pub fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Reads all of a folder, by name.
    pub fn all(folder: &Path) -> BTreeMap<String, Persona> {
        let entries = std::fs::read_dir(folder).expect("the personas' folder").flatten();
        let files = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "toml"));
        let name = |path: &Path| path.file_stem().expect("a name").to_string_lossy().into_owned();
        files.map(|path| (name(&path), Persona::read(&path))).collect()
    }

    /// Its hardware address.
    pub fn mac(&self, name: &str) -> Mac {
        if let Some(mac) = &self.mac {
            return mac.parse().expect("a MAC address");
        }
        let hash = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        let [.., a, b, c, d] = hash.to_be_bytes();
        Mac([0x52, 0x54, a, b, c, d])
    }

    /// The address of its second card.
    pub fn second_mac(&self, name: &str) -> Option<Mac> {
        let Mac(mut bytes) = self.mac(name);
        bytes[5] ^= 1;
        self.two_cards.then_some(Mac(bytes))
    }
}
