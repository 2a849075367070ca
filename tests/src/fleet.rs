//! What a fleet of simulated agents has in common.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::machines::house::ip;

/// How often an agent says how it is.
pub const HEARTBEAT: Duration = Duration::from_secs(10);
/// Addresses that the agents come from, as from as many machines.
const ADDRESSES: u8 = 100;

/// The network card of the node of this number.
pub fn mac(number: usize) -> String {
    format!("52:54:00:03:{:02x}:{:02x}", number >> 8, number & 255)
}

/// Gives the wire the addresses that agents come from.
pub fn addresses() -> Vec<Ipv4Addr> {
    let addresses: Vec<Ipv4Addr> = (0..ADDRESSES).map(|number| Ipv4Addr::new(10, 77, 251, 1 + number)).collect();
    for address in &addresses {
        ip(&["address", "add", &format!("{address}/16"), "dev", "eth0"]);
    }
    addresses
}

/// How long the agent of this number waits before its first heartbeat, so that not all come in the same instant.
pub fn offset(number: usize) -> Duration {
    HEARTBEAT * (number % 1000) as u32 / 1000
}
