//! Who asks, and through which door.

use std::net::SocketAddr;

use bramble_model::api::Role;

use crate::ends::Ends;

/// Where a connection came in.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Door {
    /// Plain HTTP on a wire of the nodes.
    Wire(Ends),
    Tls(SocketAddr),
    /// The control socket, which only its owner can open.
    Socket {
        user: u32,
    },
}

impl Door {
    /// Where someone comes from: the address, or `local`.
    pub(super) fn from(self) -> String {
        match self {
            Door::Wire(ends) => ends.peer.ip().to_string(),
            Door::Tls(peer) => peer.ip().to_string(),
            Door::Socket { .. } => "local".into(),
        }
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Actor {
    pub(crate) name: String,
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
