//! The one connection between an agent and its head, as both sides hold it: who is still there (a machine without
//! sockets), and lines over a stream that end when the machine says so.

mod connection;
pub mod session;

pub use connection::{Connection, Ended, Event};
