//! Power switches: how a node is switched on and off.

pub mod lab;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use bramble_model::names::{Mac, Name};
use tokio::net::UdpSocket;

/// How one node is switched.
#[derive(Debug, Clone)]
pub enum Driver {
    /// A person presses the button.
    Hand,
    /// Magic packets to these cards, out of the interface with this address (AMD's white paper
    /// 20213). It can only switch on.
    WakeOnLan { cards: Vec<Mac>, from: Ipv4Addr, broadcast: Ipv4Addr },
    /// The lab's switch, behind this Unix socket.
    Lab { socket: PathBuf },
}

/// What a switch did not do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0} is switched by hand: press its button, or give it a `power` driver in bramble.toml")]
    ByHand(Name),
    #[error("Wake-on-LAN can only switch on: shut {0} down from its own system")]
    OnlyOn(Name),
    #[error("cannot send the magic packet")]
    Packet(#[source] io::Error),
    #[error("the lab does not answer")]
    Lab(#[source] io::Error),
    #[error("the lab: {0}")]
    Refused(String),
}

impl Driver {
    /// Switches a node. Switching it to what it is already changes nothing.
    ///
    /// # Errors
    /// When the driver cannot do that, or its hardware does not answer.
    pub async fn set(&self, node: &Name, on: bool) -> Result<(), Error> {
        match (self, on) {
            (Driver::Hand, _) => Err(Error::ByHand(node.clone())),
            (Driver::WakeOnLan { cards, from, broadcast }, true) => {
                wake(cards, *from, *broadcast).await.map_err(Error::Packet)
            }
            (Driver::WakeOnLan { .. }, false) => Err(Error::OnlyOn(node.clone())),
            (Driver::Lab { socket }, _) => {
                match lab::ask(socket, &lab::Request::Power { node: node.clone(), on }).await.map_err(Error::Lab)? {
                    lab::Reply::Failed { error } => Err(Error::Refused(error)),
                    _ => Ok(()),
                }
            }
        }
    }
}

async fn wake(cards: &[Mac], from: Ipv4Addr, broadcast: Ipv4Addr) -> io::Result<()> {
    let socket = UdpSocket::bind((from, 0)).await?;
    socket.set_broadcast(true)?;
    for card in cards {
        // Port 9, discard: nothing listens, the card sees the frame go by.
        socket.send_to(&magic(*card), SocketAddr::from((broadcast, 9))).await?;
    }
    Ok(())
}

/// Six times 0xff, then the address sixteen times.
fn magic(mac: Mac) -> Vec<u8> {
    [vec![0xff; 6], mac.0.repeat(16)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_magic_packet_is_102_bytes() {
        let packet = magic(Mac([1, 2, 3, 4, 5, 6]));
        assert_eq!(
            (packet.len(), &packet[..7], &packet[96..]),
            (102, &[255, 255, 255, 255, 255, 255, 1][..], &[1, 2, 3, 4, 5, 6][..])
        );
    }
}
