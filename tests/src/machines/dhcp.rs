//! DHCP as firmware writes and reads it (RFC 951, 2131, 2132): bytes, with the mistakes that firmware
//! makes, and independent of what bramble uses.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use bramble_model::names::Mac;

pub const DISCOVER: u8 = 1;
pub const OFFER: u8 = 2;
pub const REQUEST: u8 = 3;
pub const ACK: u8 = 5;
pub const NAK: u8 = 6;
pub const INFORM: u8 = 8;

/// A message to be sent.
pub struct Question {
    pub xid: u32,
    pub mac: Mac,
    pub seconds: u16,
    pub broadcast: bool,
    pub ciaddr: Ipv4Addr,
    /// In the order they are written.
    pub options: Vec<(u8, Vec<u8>)>,
    /// Zero bytes between the options, as some EEPROMs have them.
    pub padded: bool,
}

impl Question {
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![1, 1, 6, 0];
        bytes.extend(self.xid.to_be_bytes());
        bytes.extend(self.seconds.to_be_bytes());
        bytes.extend(if self.broadcast { [0x80, 0] } else { [0, 0] });
        bytes.extend(self.ciaddr.octets());
        bytes.extend([0; 12]);
        bytes.extend(self.mac.0);
        bytes.extend([0; 10 + 64 + 128]);
        bytes.extend([0x63, 0x82, 0x53, 0x63]);
        for (code, value) in &self.options {
            bytes.push(*code);
            bytes.push(value.len() as u8);
            bytes.extend(value);
            if self.padded {
                bytes.extend([0; 3]);
            }
        }
        bytes.push(255);
        bytes
    }
}

/// A message that came.
#[derive(Debug, Clone)]
pub struct Answer {
    pub kind: u8,
    pub xid: u32,
    pub yiaddr: Ipv4Addr,
    pub siaddr: Ipv4Addr,
    /// `file` of the BOOTP header.
    pub file: String,
    pub options: BTreeMap<u8, Vec<u8>>,
    /// Bytes of the whole message.
    pub length: usize,
}

impl Answer {
    /// Reads a reply to the machine with this address.
    pub fn read(bytes: &[u8], mac: Mac) -> Option<Self> {
        let address = |at: usize| bytes.get(at..at + 4).map(|four| Ipv4Addr::new(four[0], four[1], four[2], four[3]));
        if bytes.first() != Some(&2) || bytes.get(28..34)? != mac.0 || bytes.get(236..240)? != [0x63, 0x82, 0x53, 0x63]
        {
            return None;
        }
        let file = bytes.get(108..236)?;
        let file = file.split(|byte| *byte == 0).next().unwrap_or_default();
        let mut options: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
        let mut rest = &bytes[240..];
        while let [code, after @ ..] = rest {
            match (code, after) {
                (0, _) => rest = after,
                (255, _) => break,
                (_, [length, value @ ..]) => {
                    let value_bytes = value.get(..usize::from(*length))?;
                    // Long options come in parts (RFC 3396).
                    options.entry(*code).or_default().extend(value_bytes);
                    rest = &value[usize::from(*length)..];
                }
                _ => break,
            }
        }
        Some(Answer {
            kind: *options.get(&53)?.first()?,
            xid: u32::from_be_bytes(bytes.get(4..8)?.try_into().ok()?),
            yiaddr: address(16)?,
            siaddr: address(20)?,
            file: String::from_utf8_lossy(file).into_owned(),
            options,
            length: bytes.len(),
        })
    }

    pub fn text(&self, code: u8) -> String {
        let bytes = self.options.get(&code).map(Vec::as_slice).unwrap_or_default();
        String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
    }

    pub fn address(&self, code: u8) -> Option<Ipv4Addr> {
        let four: [u8; 4] = self.options.get(&code)?.get(..4)?.try_into().ok()?;
        Some(four.into())
    }

    /// Whether it says what to boot.
    pub fn boots(&self) -> bool {
        !self.file.is_empty() || self.options.contains_key(&67) || self.options.contains_key(&43)
    }
}
