//! Who asks: what a DHCP message says of the machine that sent it.

use std::fmt;

use bramble_model::names::Mac;
use dhcproto::v4::{DhcpOption, HType, Message, OptionCode};

/// Prefixes of the addresses that Raspberry Pis have.
const PI: [[u8; 3]; 7] = [
    [0xb8, 0x27, 0xeb],
    [0xdc, 0xa6, 0x32],
    [0xe4, 0x5f, 0x01],
    [0x28, 0xcd, 0xc1],
    [0xd8, 0x3a, 0xdd],
    [0x2c, 0xcf, 0x67],
    [0x88, 0xa2, 0x9e],
];

/// A machine, as its DHCP message describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    pub mac: Mac,
    /// `None` for what only wants an address: a phone, a booted system.
    pub firmware: Option<Firmware>,
    /// Machine UUID in the order its firmware prints it (RFC 4578, section 2.3), where it sent one.
    pub uuid: Option<String>,
}

/// What kind of boot client it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// PXE in a BIOS: architecture 0.
    Bios,
    /// PXE in a 64-bit UEFI: 7, 8 and 9 all mean that in practice.
    UefiX64,
    /// HTTP boot in a 64-bit UEFI: 15 and 16.
    UefiHttpX64,
    Ipxe,
    /// The boot ROM of a Raspberry Pi, which calls itself architecture 0.
    RaspberryPi,
    /// Architecture number of a firmware that nothing here can boot yet.
    Other(u16),
}

impl fmt::Display for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Firmware::Bios => f.write_str("BIOS PXE"),
            Firmware::UefiX64 => f.write_str("UEFI x64 PXE"),
            Firmware::UefiHttpX64 => f.write_str("UEFI x64 HTTP"),
            Firmware::Ipxe => f.write_str("iPXE"),
            Firmware::RaspberryPi => f.write_str("Raspberry Pi"),
            Firmware::Other(number) => write!(f, "firmware of architecture {number}"),
        }
    }
}

impl Client {
    /// `None` where the message is not from an Ethernet machine.
    pub fn of(message: &Message) -> Option<Self> {
        if message.htype() != HType::Eth || message.hlen() != 6 {
            return None;
        }
        let mac = Mac(message.chaddr().try_into().ok()?);
        let uuid = match option(message, OptionCode::ClientMachineIdentifier) {
            Some(DhcpOption::ClientMachineIdentifier(bytes)) => Some(bytes.as_slice()),
            _ => None,
        };
        let firmware = firmware(message, mac, uuid);
        Some(Client { mac, firmware, uuid: uuid.and_then(readable_uuid) })
    }
}

pub(crate) fn option(message: &Message, code: OptionCode) -> Option<&DhcpOption> {
    message.opts().get(code)
}

fn firmware(message: &Message, mac: Mac, uuid: Option<&[u8]>) -> Option<Firmware> {
    let class = match option(message, OptionCode::ClassIdentifier) {
        Some(DhcpOption::ClassIdentifier(class)) => class.as_slice(),
        _ => &[],
    };
    let http = class.starts_with(b"HTTPClient");
    if !http && !class.starts_with(b"PXEClient") {
        return None;
    }
    if is_ipxe(message) {
        return Some(Firmware::Ipxe);
    }
    let architecture = match option(message, OptionCode::ClientSystemArchitecture) {
        Some(DhcpOption::ClientSystemArchitecture(architecture)) => u16::from(*architecture),
        _ => architecture_in_class(class),
    };
    // A Pi is known by what its UUID begins with. The prefix of its address alone is not enough:
    // a Pi that runs another loader has it too, and then names its own architecture.
    let pi = uuid.is_some_and(|uuid| uuid.get(1..4) == Some(b"RPi") || uuid.get(..3) == Some(b"RPi"));
    let may_be_pi = PI.iter().any(|prefix| mac.0.starts_with(prefix));
    Some(match architecture {
        0 if pi || may_be_pi => Firmware::RaspberryPi,
        0 if !http => Firmware::Bios,
        7..=9 => Firmware::UefiX64,
        15 | 16 => Firmware::UefiHttpX64,
        41 => Firmware::RaspberryPi,
        other => Firmware::Other(other),
    })
}

/// iPXE says so in its user class, which often comes malformed (not length-prefixed as RFC 3004
/// has it), and in its own encapsulated options (175).
fn is_ipxe(message: &Message) -> bool {
    let class = match option(message, OptionCode::UserClass) {
        Some(DhcpOption::UserClass(class)) => class.as_slice(),
        _ => &[],
    };
    let named = class == b"iPXE" || class.get(1..) == Some(b"iPXE");
    named || option(message, OptionCode::from(175)).is_some()
}

/// `PXEClient:Arch:00007:UNDI:003016`, where option 93 is missing.
fn architecture_in_class(class: &[u8]) -> u16 {
    let text = String::from_utf8_lossy(class);
    text.split_once("Arch:").and_then(|(_, rest)| rest.get(..5)?.parse().ok()).unwrap_or(0)
}

/// A type byte of 0 and sixteen bytes, of which the first three fields are little-endian.
fn readable_uuid(bytes: &[u8]) -> Option<String> {
    let [0, b @ ..] = bytes else { return None };
    let b: &[u8; 16] = b.try_into().ok()?;
    let hex = |order: &[usize]| order.iter().map(|at| format!("{:02x}", b[*at])).collect::<String>();
    Some(format!(
        "{}-{}-{}-{}-{}",
        hex(&[3, 2, 1, 0]),
        hex(&[5, 4]),
        hex(&[7, 6]),
        hex(&[8, 9]),
        hex(&[10, 11, 12, 13, 14, 15])
    ))
}
