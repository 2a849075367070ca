//! What stage 1 left for the agent: who this node is and where its head is.

use std::net::IpAddr;

use bramble_boot::{BOOT_FILE, HandOver};
use bramble_model::names::{BootId, Name};

use crate::Error;

/// This boot.
#[derive(Debug, Clone)]
pub struct ThisBoot {
    pub node: Name,
    pub boot: BootId,
    pub nonce: String,
    /// What its reports name beside the boot.
    pub report: Option<String>,
    pub set: String,
    pub head: IpAddr,
    /// Where boot files and the signed time are.
    pub http_port: u16,
    pub agent_port: u16,
    pub address: IpAddr,
    /// The machine is no node: it is to say what it is, and no more.
    pub inventory: bool,
}

impl ThisBoot {
    pub(crate) fn read() -> Result<Self, Error> {
        let text = std::fs::read(BOOT_FILE).map_err(|source| Error::File {
            doing: format!("{BOOT_FILE}: this machine was not booted by bramble"),
            source,
        })?;
        Self::of(&text).map_err(|problem| Error::HandOver { path: BOOT_FILE.into(), problem })
    }

    fn of(text: &[u8]) -> Result<Self, String> {
        let left = HandOver::read(text).map_err(|error| error.to_string())?;
        Ok(ThisBoot {
            node: left.node.parse().map_err(|error| format!("node `{}`: {error}", left.node))?,
            boot: BootId(left.boot),
            nonce: left.nonce,
            report: left.report,
            set: left.set,
            head: left.head,
            http_port: left.http_port,
            agent_port: left.agent_port,
            address: left.address,
            inventory: left.inventory,
        })
    }

    pub(crate) fn head_address(&self) -> String {
        format!("{}:{}", self.head, self.agent_port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stage_1_left_is_read_and_a_name_that_is_none_is_said() {
        let text = r#"{"node":"m1","boot":"b","nonce":"n","set":"s","head":"10.77.0.1","http_port":7080,"agent_port":7443,"address":"10.77.0.11"}"#;
        let boot = ThisBoot::of(text.as_bytes()).expect("complete");
        assert_eq!((boot.node.as_str(), boot.head_address().as_str()), ("m1", "10.77.0.1:7443"));
        let error = ThisBoot::of(text.replace("m1", "M 1").as_bytes()).expect_err("no name");
        assert!(error.starts_with("node `M 1`: expected"), "{error}");
    }
}
