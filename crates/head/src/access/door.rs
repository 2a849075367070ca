//! Who asks, and through which door.

use std::net::{IpAddr, SocketAddr};

use bramble_model::api::Role;

use crate::ends::Ends;

/// Where a connection came in.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Door {
    /// Plain HTTP on a wire of the nodes.
    Wire(Ends),
    Tls(SocketAddr),
    /// A control socket.
    Socket {
        user: u32,
        /// Root, who runs the head, or the owner of its folder, and not just a member of the group `bramble`.
        is_owner: bool,
    },
}

impl Door {
    /// In a word.
    pub(super) fn name(self) -> &'static str {
        match self {
            Door::Wire(_) => "http",
            Door::Tls(_) => "https",
            Door::Socket { .. } => "socket",
        }
    }

    /// The address of whoever comes; `None` of someone on the head's own machine.
    pub(super) fn address(self) -> Option<IpAddr> {
        match self {
            Door::Wire(ends) => Some(IpAddr::V4(*ends.peer.ip())),
            Door::Tls(peer) => Some(peer.ip()),
            Door::Socket { .. } => None,
        }
    }

    /// Which addresses are one place: a host has a /64 of IPv6 to itself (RFC 6177, section 2).
    pub(super) fn place(self) -> String {
        match self.address() {
            None => "local".into(),
            Some(IpAddr::V4(address)) => address.to_string(),
            Some(IpAddr::V6(address)) => match address.to_ipv4_mapped() {
                Some(address) => address.to_string(),
                None => {
                    let [a, b, c, d, ..] = address.segments();
                    format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
                }
            },
        }
    }

    /// Where someone comes from: the address, or `local`.
    pub(super) fn from(self) -> String {
        self.address().map_or_else(|| "local".into(), |address| address.to_string())
    }
}

/// What someone shows, by which the head knows who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Credential {
    /// The kernel says so, at the control socket.
    Owner,
    /// A program's token, by the hash that is kept.
    Token(String),
    /// A login, by the hash that is kept.
    Session(String),
    /// None: everyone may look here.
    Nothing,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Actor {
    pub(crate) name: String,
    pub(crate) credential: Credential,
    pub(crate) role: Role,
    /// The address, or `local`.
    pub(crate) from: String,
    /// What a browser's form has to bring along; `None` where no browser sends credentials by itself.
    pub(crate) csrf: Option<String>,
}

/// What a route that changes something says of itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change {
    /// Whether the change would be gone with a head whose store is in memory only. Such a one is not made.
    pub(crate) lasts: bool,
    /// What of the body the audit log may hold.
    pub(crate) told: fn(&[u8]) -> String,
}

/// The actor of a request, where there is one.
#[derive(Debug, Clone)]
pub(crate) struct Who(pub(crate) Option<Actor>);
