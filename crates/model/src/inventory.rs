//! What a machine is, as it says itself when it boots once to be adopted; and what `bramble.toml` would say
//! of it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::names::{Mac, Name};
use crate::repository::Cluster;
use crate::said::{self, Title, Word};
use crate::timeline::Millis;

/// A machine's parts. `POST /v1/boots/BOOT/inventory`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// `Dell Inc. OptiPlex 7050`, `Raspberry Pi 4 Model B Rev 1.4`; empty where it does not say.
    pub machine: Title,
    pub serial: Title,
    /// `UEFI, American Megatrends F.20`.
    pub firmware: Title,
    /// `amd64` or `arm64`.
    pub architecture: Word,
    /// `Intel(R) Core(TM) i5-6500 CPU @ 3.20GHz`
    pub processor: Title,
    #[serde(deserialize_with = "said::number::processors_of")]
    pub cpus: u32,
    /// Bytes.
    #[serde(deserialize_with = "said::number::bytes_of")]
    pub memory: u64,
    #[serde(deserialize_with = "said::few::<64, _, _>")]
    pub disks: Vec<Disk>,
    #[serde(deserialize_with = "said::few::<64, _, _>")]
    pub cards: Vec<Card>,
    /// The hottest sensor, in degrees Celsius.
    #[serde(default, deserialize_with = "said::number::temperature_of")]
    pub temperature: Option<i16>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// The kernel's name: `nvme0n1`.
    pub name: Word,
    pub model: Title,
    pub serial: Title,
    /// Bytes.
    #[serde(deserialize_with = "said::number::bytes_of")]
    pub size: u64,
    /// What is on it: `gpt`, `ext4 on sda2`, `data without a known form`; nothing where it is empty.
    #[serde(deserialize_with = "said::few::<64, _, _>")]
    pub holds: Vec<Word>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    pub name: Word,
    pub mac: Mac,
    pub driver: Word,
    /// Megabits a second; `None` without a link.
    pub speed: Option<u32>,
}

/// How far a machine's adoption is. `GET /v1/seen/MAC/inventory`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Adoption {
    /// Its next boot before `until` will be into the inventory.
    Asked {
        until: Millis,
    },
    /// It was given that boot.
    Booting {
        until: Millis,
    },
    Done {
        at: Millis,
        inventory: Box<Inventory>,
    },
}

/// Sizes as they are printed on boxes.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000_000 => format!("{} MB", bytes / 1_000_000),
        1_000_000_000..1_000_000_000_000 => format!("{} GB", bytes / 1_000_000_000),
        _ => format!("{:.1} TB", bytes as f64 / 1e12),
    }
}

fn list(words: &[Word]) -> String {
    words.iter().map(Word::as_str).collect::<Vec<_>>().join(", ")
}

fn words(words: &[&str]) -> String {
    words.iter().filter(|word| !word.is_empty()).copied().collect::<Vec<_>>().join(" ")
}

impl Inventory {
    /// What it is, line by line.
    pub fn lines(&self) -> Vec<String> {
        let machine = if self.machine.is_empty() { "a machine that does not say what it is" } else { &self.machine };
        let serial = if self.serial.is_empty() { String::new() } else { format!(", serial {}", self.serial) };
        let heat = self.temperature.map(|degrees| format!(", {degrees} °C")).unwrap_or_default();
        let mut lines = vec![
            format!("{machine}{serial}"),
            format!("{}, {} CPUs ({}), {} MiB{heat}", self.processor, self.cpus, self.architecture, self.memory >> 20),
            format!("firmware: {}", self.firmware),
        ];
        for disk in &self.disks {
            let what = words(&[&disk.name, &disk.model, &size(disk.size), &disk.serial]);
            let holds =
                if disk.holds.is_empty() { "empty".into() } else { format!("CARRIES DATA: {}", list(&disk.holds)) };
            lines.push(format!("disk {what}: {holds}"));
        }
        for card in &self.cards {
            let speed = card.speed.map_or_else(|| "no link".into(), |speed| format!("{speed} Mbit/s"));
            lines.push(format!("card {}, {speed}", words(&[&card.name, &card.mac.to_string(), &card.driver])));
        }
        lines
    }

    /// The part of `bramble.toml` that makes it a node. `boots_from` is the card that it booted from, and the only one that
    /// is known to be its own: the others are what it says, and may be another machine's.
    pub fn stanza(&self, name: &Name, role: &Name, boots_from: Mac) -> String {
        // What a machine says of itself is text in a comment, and stays in its line ([`said::Said`]).
        let comment: String = self.lines().iter().map(|line| format!("# {line}\n")).collect();
        format!("{comment}[nodes.{name}]\nmac  = \"{boots_from}\"\nrole = \"{role}\"\n")
    }
}

/// The role that a new machine most likely has: that of most nodes, and of no manager where there is another.
pub fn likely_role(cluster: &Cluster) -> Option<Name> {
    let roles: BTreeSet<&Name> = cluster.nodes.values().map(|node| &node.role).collect();
    let score = |role: &Name| {
        let own: Vec<_> = cluster.nodes.values().filter(|node| node.role == *role).collect();
        (own.iter().all(|node| !node.is_manager()), own.len())
    };
    roles.into_iter().max_by_key(|role| score(role)).cloned()
}

/// A name that goes on from those of this role: `w3` after `w1` and `w2`.
pub fn next_name(cluster: &Cluster, role: &Name) -> Name {
    let split = |name: &Name| {
        let start = name.as_str().trim_end_matches(|c: char| c.is_ascii_digit()).to_owned();
        let number: u32 = name.as_str()[start.len()..].parse().ok()?;
        Some((start, number))
    };
    let own = cluster.nodes.iter().filter(|(_, node)| node.role == *role).filter_map(|(name, _)| split(name));
    let (start, last) = own.max_by_key(|(_, number)| *number).unwrap_or_else(|| (role.to_string() + "-", 0));
    (last + 1..)
        .filter_map(|number| format!("{start}{number}").parse::<Name>().ok())
        .find(|name| !cluster.nodes.contains_key(name))
        .unwrap_or_else(|| "new-node".parse().expect("a name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inventory() -> Inventory {
        Inventory {
            machine: "Dell Inc. OptiPlex 7050".into(),
            serial: "1ABC".into(),
            firmware: "UEFI, Dell Inc. 1.2".into(),
            architecture: "amd64".into(),
            processor: "Intel(R) Core(TM) i5-6500".into(),
            cpus: 4,
            memory: 8 << 30,
            disks: vec![
                Disk {
                    name: "sda".into(),
                    model: "Samsung 860".into(),
                    serial: "S3Z".into(),
                    size: 500_107_862_016,
                    holds: vec!["gpt".into(), "ext4 on sda2".into()],
                },
                Disk {
                    name: "sdb".into(),
                    model: "evil\n[nodes.m1]".into(),
                    serial: "".into(),
                    size: 8_000_000,
                    holds: Vec::new(),
                },
            ],
            cards: vec![Card {
                name: "eno1".into(),
                mac: Mac([2, 0, 0, 0, 0, 7]),
                driver: "e1000e".into(),
                speed: Some(1000),
            }],
            temperature: Some(41),
        }
    }

    #[test]
    fn a_stanza_to_paste() {
        let (name, role) = ("w3".parse().expect("a name"), "worker".parse().expect("a name"));
        insta::assert_snapshot!(inventory().stanza(&name, &role, Mac([2, 0, 0, 0, 0, 7])));
        let two = Inventory { machine: "Dell\u{202e}\n[nodes.x]".into(), ..inventory() };
        let two = two.stanza(&name, &role, Mac([2, 0, 0, 0, 0, 9]));
        assert!(two.starts_with("# Dell\u{fffd} [nodes.x]"), "{two}");
        assert!(two.contains("mac  = \"02:00:00:00:00:09\"\n"), "the other card may be another machine's: {two}");
    }

    #[test]
    fn names_go_on() {
        let text = "[cluster]\nname = \"c\"\n[network]\ninterface = \"eth0\"\n[roles.manager]\nengine = \"manager\"\n[roles.worker]\nengine = \"worker\"\n\
                    [nodes.m1]\nmac = \"52:54:00:00:00:01\"\nrole = \"manager\"\n[nodes.w1]\nmac = \"52:54:00:00:00:02\"\nrole = \"worker\"\n\
                    [nodes.w9]\nmac = \"52:54:00:00:00:03\"\nrole = \"worker\"\n";
        let place = std::path::Path::new("/nowhere");
        let cluster = Cluster::parse(place, &place.join("bramble.toml"), text).expect("valid");
        let role = likely_role(&cluster).expect("a role");
        assert_eq!((role.as_str(), next_name(&cluster, &role).as_str()), ("worker", "w10"));
        assert_eq!(next_name(&cluster, &"edge".parse().expect("a name")).as_str(), "edge-1");
    }
}
