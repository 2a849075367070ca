//! Messages as bytes, and back.

use dhcproto::v4::Message;
use dhcproto::{Decodable, Decoder, Encodable, Encoder};

/// Relays and old clients drop shorter messages: the BOOTP minimum (RFC 1542, section 2.1).
const SHORTEST: usize = 300;
/// Options that mean something here, and the length that they have to have; 0 is any.
const KNOWN: [(u8, usize); 10] =
    [(50, 4), (53, 1), (54, 4), (60, 0), (61, 0), (77, 0), (82, 0), (93, 2), (97, 0), (175, 0)];
/// Bytes of the BOOTP header and the magic cookie (RFC 2131, section 2; RFC 2132, section 2).
pub(super) const HEADER: usize = 240;
const COOKIE: [u8; 4] = [0x63, 0x82, 0x53, 0x63];

/// Reads a message from the wire. Only what is used here is looked at: an option that firmware gets
/// wrong, or that the library below cannot take (dhcproto 0.15 panics at an option 94 that has not three
/// bytes), does no harm.
pub fn decode(bytes: &[u8]) -> Option<Message> {
    let (header, mut rest) = bytes.split_at_checked(HEADER)?;
    if header[HEADER - 4..] != COOKIE {
        return None;
    }
    let mut plain = header.to_vec();
    while let [code, after @ ..] = rest {
        match (code, after) {
            (0, _) => rest = after,
            (255, _) | (_, []) => break,
            (_, [length, value @ ..]) => {
                // One that is torn ends the message.
                let Some(value) = value.get(..usize::from(*length)) else { break };
                let fits = |wanted: usize| wanted == 0 || wanted == value.len();
                if KNOWN.iter().any(|(known, wanted)| known == code && fits(*wanted)) {
                    plain.extend([*code, *length]);
                    plain.extend(value);
                }
                rest = &after[1 + value.len()..];
            }
        }
    }
    plain.push(255);
    Message::decode(&mut Decoder::new(&plain)).ok()
}

/// The bytes of a message, padded.
pub fn encode(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(SHORTEST);
    let encoded = message.encode(&mut Encoder::new(&mut bytes));
    debug_assert!(encoded.is_ok(), "an answer of our own encodes");
    bytes.resize(bytes.len().max(SHORTEST), 0);
    bytes
}
