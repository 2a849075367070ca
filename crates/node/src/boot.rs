//! What stage 1 left for the agent: who this node is and where its head is.

use std::net::IpAddr;

use bramble_model::names::{BootId, Name};
use serde::Deserialize;

use crate::Error;

const PATH: &str = "/run/bramble/boot.json";

/// This boot.
#[derive(Debug, Clone, Deserialize)]
pub struct Boot {
    pub node: Name,
    pub boot: BootId,
    pub nonce: String,
    pub set: String,
    pub head: IpAddr,
    /// Where boot files and the signed time are.
    pub http_port: u16,
    pub agent_port: u16,
    pub address: IpAddr,
    /// The machine is no node: it is to say what it is, and no more.
    #[serde(default)]
    pub inventory: bool,
}

impl Boot {
    pub(crate) fn read() -> Result<Self, Error> {
        let text = std::fs::read(PATH).map_err(|source| Error::File {
            doing: format!("{PATH}: this machine was not booted by bramble"),
            source,
        })?;
        serde_json::from_slice(&text).map_err(|source| Error::Malformed { path: PATH.into(), source })
    }

    pub(crate) fn head_address(&self) -> String {
        format!("{}:{}", self.head, self.agent_port)
    }
}
