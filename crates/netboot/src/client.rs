//! Who asks: what a DHCP message says of the machine that sent it.

use bramble_boot::{Cpu, Firmware, Pi};
use bramble_model::boot_set::Architecture;
use bramble_model::names::Mac;
use dhcproto::v4::{DhcpOption, HType, Message, OptionCode};

/// A machine, as its DHCP message describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    pub mac: Mac,
    /// `None` for what only wants an address: a phone, a booted system.
    pub firmware: Option<Firmware>,
    /// Machine UUID in the order its firmware prints it (RFC 4578, section 2.3), where it sent one.
    pub uuid: Option<String>,
    /// Seconds that it says it has been asking for.
    pub seconds: u16,
}

/// As which bramble's own system knows an instruction set, if it runs on it.
pub fn architecture(cpu: Cpu) -> Option<Architecture> {
    match cpu {
        Cpu::Amd64 => Some(Architecture::Amd64),
        Cpu::Arm64 => Some(Architecture::Arm64),
        Cpu::I386 | Cpu::Armhf => None,
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
        Some(Client { mac, firmware, uuid: uuid.and_then(readable_uuid), seconds: message.secs() })
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
    let named = match option(message, OptionCode::ClientSystemArchitecture) {
        Some(DhcpOption::ClientSystemArchitecture(architecture)) => Some(u16::from(*architecture)),
        _ => None,
    };
    let http = class.starts_with(b"HTTPClient");
    let uboot = class.starts_with(b"U-Boot");
    let pi_uuid = uuid.is_some_and(|uuid| uuid.get(1..4) == Some(b"RPi") || uuid.get(..3) == Some(b"RPi"));
    // A Pi's EEPROM leaves its class out of the REQUEST, with its UUID still there (rpi-eeprom#82).
    if !http && !uboot && !pi_uuid && !class.starts_with(b"PXEClient") {
        return None;
    }
    let architecture = named.unwrap_or_else(|| architecture_in_class(class));
    if is_ipxe(message) {
        return Some(Firmware::Ipxe(match architecture {
            10 | 18 => Cpu::Armhf,
            11 | 19 => Cpu::Arm64,
            6 | 15 => Cpu::I386,
            _ => Cpu::Amd64,
        }));
    }
    if uboot {
        return Some(Firmware::UBoot(if class.ends_with(b"armv7") { Cpu::Armhf } else { Cpu::Arm64 }));
    }
    // A Pi is known by what its UUID begins with. The prefix of its address alone is not enough:
    // a Pi that runs another loader has it too, and then names its own architecture.
    Some(match architecture {
        0 | 41 if pi_uuid => Firmware::RaspberryPi(Pi::Eeprom),
        0 if mac.may_be_raspberry_pi() => Firmware::RaspberryPi(Pi::Rom),
        41 => Firmware::RaspberryPi(Pi::Eeprom),
        0 if !http => Firmware::Bios,
        6 => Firmware::Uefi(Cpu::I386),
        7..=9 => Firmware::Uefi(Cpu::Amd64),
        10 => Firmware::Uefi(Cpu::Armhf),
        11 => Firmware::Uefi(Cpu::Arm64),
        // 15 is 32-bit x86 by the registry, and what some 64-bit firmware sends.
        15 | 16 => Firmware::UefiHttp(Cpu::Amd64),
        18 => Firmware::UefiHttp(Cpu::Armhf),
        19 => Firmware::UefiHttp(Cpu::Arm64),
        21 => Firmware::UBoot(Cpu::Armhf),
        22 => Firmware::UBoot(Cpu::Arm64),
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
