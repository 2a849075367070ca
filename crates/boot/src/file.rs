//! What is fetched for a boot, and what stage 1 leaves for the agent.

use std::fmt;
use std::net::IpAddr;

use crate::bounded;
use crate::json::{Fields, Malformed, Writer};

/// A file of a boot set, by the name that the boot which fetches it calls it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum File {
    Kernel,
    Initrd,
    /// A layer of the root, by its name in the manifest.
    Layer(String),
}

impl File {
    pub fn as_str(&self) -> &str {
        match self {
            File::Kernel => "kernel",
            File::Initrd => "initrd",
            File::Layer(name) => name,
        }
    }
}

impl From<&str> for File {
    fn from(name: &str) -> Self {
        match name {
            "kernel" => File::Kernel,
            "initrd" => File::Initrd,
            other => File::Layer(bounded(other)),
        }
    }
}

impl fmt::Display for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who this node is in this boot, and where its head is: [`crate::BOOT_FILE`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandOver {
    pub node: String,
    pub boot: String,
    pub nonce: String,
    /// What its reports have to name beside the boot, where stage 1 has claimed it.
    pub report: Option<String>,
    /// Digest of the boot set's manifest, in hex.
    pub set: String,
    pub head: IpAddr,
    /// Where boot files and the signed time are.
    pub http_port: u16,
    pub agent_port: u16,
    /// The node's own address.
    pub address: IpAddr,
    /// Name of the card that it booted from; empty where it was not told.
    pub interface: String,
    /// The machine is no node: it is to say what it is, and no more.
    pub inventory: bool,
}

impl HandOver {
    /// One JSON object.
    pub fn render(&self) -> String {
        let mut out = Writer::default()
            .text("address", &self.address.to_string())
            .number("agent_port", u64::from(self.agent_port))
            .text("boot", &self.boot)
            .text("head", &self.head.to_string())
            .number("http_port", u64::from(self.http_port))
            .text("interface", &self.interface)
            .truth("inventory", self.inventory)
            .text("node", &self.node)
            .text("nonce", &self.nonce);
        if let Some(report) = &self.report {
            out = out.text("report", report);
        }
        out.text("set", &self.set).end()
    }

    /// Reads what any generation of stage 1 left.
    ///
    /// # Errors
    /// The first field that is not there or not what it should be.
    pub fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let fields = Fields::read(bytes)?;
        let text = |name| fields.text(name).map(str::to_owned);
        let address =
            |name| fields.text(name)?.parse().map_err(|_| Malformed::Field { name, expected: "an IP address" });
        let port = |name| {
            let port = fields.number(name).and_then(|number| u16::try_from(number).ok());
            port.ok_or(Malformed::Field { name, expected: "a port" })
        };
        Ok(HandOver {
            node: text("node")?,
            boot: text("boot")?,
            nonce: text("nonce")?,
            report: fields.optional_text("report").map(str::to_owned),
            set: text("set")?,
            head: address("head")?,
            http_port: port("http_port")?,
            agent_port: port("agent_port")?,
            address: address("address")?,
            interface: fields.optional_text("interface").unwrap_or_default().to_owned(),
            inventory: fields.is_true("inventory"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The bytes that the stage 1 of commit 5b09a28 wrote.
    const FORMER: &str = r#"{"address":"10.77.0.11","agent_port":7443,"boot":"b00t","head":"10.77.0.1","http_port":7080,"interface":"eth0","inventory":false,"node":"m1","nonce":"n0nce","set":"5e7"}"#;

    #[test]
    fn the_form_stays() {
        let boot = HandOver::read(FORMER.as_bytes()).expect("complete");
        assert_eq!((boot.node.as_str(), boot.http_port, boot.inventory), ("m1", 7080, false));
        assert_eq!(boot.render(), FORMER);
    }

    #[test]
    fn what_is_missing_is_named_and_what_is_new_is_not_needed() {
        let missing = HandOver::read(FORMER.replace("nonce", "once").as_bytes()).expect_err("incomplete");
        assert_eq!(missing.to_string(), "expected `nonce`, which is text");
        let wrong = HandOver::read(FORMER.replace("7443", "74430").as_bytes()).expect_err("too large");
        assert_eq!(wrong.to_string(), "expected `agent_port`, which is a port");
        let older = FORMER.replace(r#""interface":"eth0","inventory":false,"#, "");
        assert_eq!(HandOver::read(older.as_bytes()).expect("complete").interface, "");
    }

    #[test]
    fn files_are_known_by_their_names() {
        assert_eq!((File::from("kernel"), File::from("initrd")), (File::Kernel, File::Initrd));
        assert_eq!(File::from("../site\n"), File::Layer("site".into()));
    }

    proptest! {
        #[test]
        fn a_boot_survives_its_file(
            words in prop::array::uniform5(any::<String>()), head: std::net::IpAddr, address: std::net::Ipv4Addr,
            ports: [u16; 2], inventory: bool, report: Option<String>,
        ) {
            let [node, boot, nonce, set, interface] = words;
            let [http_port, agent_port] = ports;
            let address = address.into();
            let boot = HandOver { node, boot, nonce, report, set, head, http_port, agent_port, address, interface, inventory };
            prop_assert_eq!(HandOver::read(boot.render().as_bytes()), Ok(boot));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = HandOver::read(&bytes);
        }
    }
}
