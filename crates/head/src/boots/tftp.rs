//! What is read over TFTP. A file that is made for a boot begins it, by [`Boots::hand_out`].

use std::net::Ipv4Addr;

use bramble_boot::{Cpu, File, Loader};
use bramble_model::names::{Mac, Name};
use bramble_model::repository::Starts;
use bramble_model::timeline::{Stopped, What};
use bramble_netboot::tftp::{Content, End, Files};
use bramble_netboot::{pi, uboot};
use bramble_system::now;

use super::given::Given;
use super::own::content;
use super::{Boots, Way, foreign};

impl Boots {
    /// A file of U-Boot's boot. Its menu is asked for by card; it takes the addresses from its own variables.
    fn uboot_file(&self, from: Ipv4Addr, path: &str) -> Option<Content> {
        if let Some(mac) = uboot::card(path) {
            let node = self.nodes.of_card(mac)?;
            if self.nodes.declared(&node)?.boot.is_some() {
                return None;
            }
            let http = self.wires.http_beside(from);
            let asker = self.asker(&node, mac, from, Way::Firmware).ok()?;
            return self.made.of((mac, asker.card().is_some()), now(), || {
                match self.hand_out(&node, mac, asker, Cpu::Arm64, (from, http)).ok()? {
                    Given::Own(own) => Some(uboot::menu(&own.words().render(&uboot::addresses(mac)))),
                    Given::Kernel(_) | Given::Efi(_) | Given::Disk => None,
                }
            });
        }
        let (_, node) = self.node_at(from)?;
        self.own.named(&node, Cpu::Arm64, |set| {
            Some(if path == uboot::KERNEL { set.manifest.kernel.clone() } else { set.manifest.initrd.clone() })
        })
    }

    /// A file of a Raspberry Pi's boot. The first folder is how the board names itself.
    fn pi_file(&self, from: Ipv4Addr, path: &str) -> Option<Content> {
        let by_prefix = || {
            // Whose an address of the wire is, the kernel says.
            if self.neighbours.on_the_wire(from).is_some() {
                return None;
            }
            let mac = pi::prefix(path)?.replace('-', ":").parse::<Mac>().ok()?;
            self.nodes.of_card(mac).map(|name| (mac, name))
        };
        let (mac, node) = self.node_at(from).or_else(by_prefix)?;
        if self.nodes.declared(&node)?.boot.is_some() {
            return None;
        }
        let file = pi::file(path)?;
        if file.is_first() {
            self.own.starts(&node);
            self.made.forget(mac);
        }
        match file {
            // Without a system to boot nothing is answered, and the board goes on in its boot order.
            pi::File::Config => {
                self.own.set_of(&node, Cpu::Arm64).ok()?;
                Some(Content::Memory(pi::CONFIG.as_bytes().into()))
            }
            pi::File::Cmdline => {
                let (own, http) = (self.wires.addresses(from, mac), self.wires.http_beside(from));
                let asker = self.asker(&node, mac, from, Way::Firmware).ok()?;
                self.made.of((mac, asker.card().is_some()), now(), || {
                    match self.hand_out(&node, mac, asker, Cpu::Arm64, (from, http)).ok()? {
                        Given::Own(boot) => Some(boot.words().render(&own) + "\n"),
                        Given::Kernel(_) | Given::Efi(_) | Given::Disk => None,
                    }
                })
            }
            pi::File::Kernel => self.own.named(&node, Cpu::Arm64, |set| {
                Some(set.manifest.firmware(pi::KERNEL).unwrap_or(&set.manifest.kernel).clone())
            }),
            pi::File::Initrd => self.own.named(&node, Cpu::Arm64, |set| Some(set.manifest.initrd.clone())),
            pi::File::Firmware(name) => self.own.named(&node, Cpu::Arm64, |set| set.manifest.firmware(&name).cloned()),
        }
    }
}

impl Files for Boots {
    fn open(&self, from: Ipv4Addr, path: &str) -> Option<Content> {
        if Loader::named(path).is_some() {
            return self.own.loader(path, || self.node_at(from).map(|(_, node)| node));
        }
        if let Some(profile) = foreign::profile_of_efi(path) {
            let cluster = self.nodes.cluster();
            let profile = cluster.boots.get(&profile)?;
            let Starts::Efi(path) = &profile.starts else { return None };
            return content(&foreign::inside(&cluster.root, path)?);
        }
        if let Some(menu) = self.grub(path, from, Way::Datagram) {
            return Some(menu);
        }
        if uboot::card(path).is_some() || [uboot::KERNEL, uboot::INITRD].contains(&path) {
            return self.uboot_file(from, path);
        }
        self.pi_file(from, path)
    }

    fn is_of_a_node(&self, from: Ipv4Addr) -> bool {
        let cluster = self.nodes.cluster();
        match self.neighbours.lately_at(from).or_else(|| self.neighbours.heard_at(from)) {
            Some(mac) => cluster.node_of(mac).is_some() || self.adoptions.of_card(mac).is_some(),
            None => cluster.nodes.values().any(|node| node.address == Some(from)),
        }
    }

    fn ended(&self, from: Ipv4Addr, path: &str, end: End) {
        let node: Option<Name> = self.node_at(from).map(|(_, node)| node);
        let node = node.as_ref();
        let file = path.to_owned();
        let what = match end {
            End::Sent { bytes } => {
                let part = match (path.rsplit('/').next(), pi::file(path)) {
                    (_, Some(pi::File::Kernel)) | (Some("kernel"), _) => Some(File::Kernel),
                    (_, Some(pi::File::Initrd)) | (Some("initrd"), _) => Some(File::Initrd),
                    _ => None,
                };
                if let (Some(file), Some(node)) = (part, node) {
                    self.timeline.add(Some(node), What::Fetching { file, bytes });
                    return;
                }
                if let (Some(_), Some(node)) = (foreign::profile_of_efi(path), node) {
                    self.foreign.handed(node, self.fetches(node, from));
                    return;
                }
                if let Some(node) = node {
                    self.chains.sent(node, path);
                }
                // Each counts: a loader that is fetched again and again is a loop.
                if node.is_some() || self.strangers.may_be_told_of() {
                    self.timeline.add(node, What::TftpSent { file, bytes });
                }
                return;
            }
            End::Missing => What::TftpMissing { file },
            // Firmware ends a transfer on purpose, to learn a file's size.
            End::Aborted { at: 0, .. } => return,
            End::Aborted { reason, at, of, block } => {
                What::TftpStopped { file, at, of, block, agreed: true, reason: Stopped::GaveUp(reason) }
            }
            // A single datagram, in whoever's name, does not get into the journal of a machine that nobody knows.
            End::Silent { at: 0, agreed: false, .. } if node.is_none() => return,
            End::Silent { at, of, block, agreed } => {
                What::TftpStopped { file, at, of, block, agreed, reason: Stopped::Silent }
            }
            End::Slow { at, of, .. } => What::Note {
                text: format!("{path} is sent no further after {at} of {of} bytes: it was taken too slowly"),
            },
            End::Unreadable { reason } => What::Note { text: format!("cannot read {path}: {reason}") },
        };
        match node {
            Some(node) => self.tell_once(node, what),
            // Strangers ask for much.
            None if matches!(what, What::TftpMissing { .. }) => tracing::debug!(%from, path, "no such file"),
            None if self.strangers.may_be_told_of() => self.timeline.add(None, what),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use bramble_image::Shelf;
    use bramble_model::boot_set::Architecture;
    use bramble_netboot::Heard;

    use super::super::Around;
    use super::super::own::Loaders;
    use super::super::own::tests::{read, shelve};
    use super::*;
    use crate::adoptions::Adoptions;
    use crate::boot_sets::BootSets;
    use crate::neighbours::Neighbours;
    use crate::nodes::Nodes;
    use crate::snapshots::tests::begun;
    use crate::strangers::Strangers;
    use crate::timeline::Timeline;
    use crate::wires::Wires;

    const PI: Mac = Mac([0xb8, 0x27, 0xeb, 0, 0, 1]);
    const AT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);

    /// The boots of a head of one Raspberry Pi, heard at its address, and what gives it a set of files with this word.
    fn boots(home: &Path) -> (Boots, impl Fn(&str)) {
        let text = format!(
            "[cluster]\nname = \"c\"\n[network]\ninterface = \"lo\"\n[roles.r]\nengine = \"none\"\n\
            [nodes.pi]\nmac = \"{PI}\"\nrole = \"r\"\n"
        );
        let (store, snapshots, current) = begun(home, &text);
        let folder = home.join(".bramble/image");
        let shelf = Shelf::open(&folder).expect("opens");
        let timeline = Arc::new(Timeline::open(store.clone(), &current.cluster, 0).expect("opens"));
        let adoptions = Arc::new(Adoptions::open(store.clone()).expect("opens"));
        let boot_sets = Arc::new(BootSets::open(store.clone(), shelf.clone()));
        let around = Around {
            wires: Arc::new(Wires::open(&current.cluster.network)),
            nodes: Nodes::new(snapshots, Arc::clone(&adoptions)),
            neighbours: Arc::new(Neighbours::on(|| [(AT, vec![(PI, "lo".to_owned())])].into())),
            strangers: Arc::new(Strangers::open(store.clone(), Arc::clone(&timeline)).expect("opens")),
            adoptions,
            timeline,
            boot_sets: Arc::clone(&boot_sets),
        };
        let boots = Boots::open(around, shelf, &store, Loaders::new()).expect("opens");
        boots.neighbours.hears(PI, Heard::Wire("lo".into()), now());
        let give = move |word: &str| {
            let set = shelve(&folder, Architecture::Arm64, word);
            boot_sets.give(Architecture::Arm64, set).expect("given");
        };
        (boots, give)
    }

    /// Beside a router that says by itself what to boot, no DHCP is seen. It is reset in the middle of its boot.
    #[test]
    fn a_pi_that_starts_again_is_seen_by_its_first_file_and_its_boot_is_of_one_set() {
        let firsts = [("bootcode.bin", "bootcode.bin"), ("1a2b3c4d/config.txt", "1a2b3c4d/start4.elf")];
        for (first, firmware) in firsts {
            let home = tempfile::tempdir().expect("a temporary folder");
            let (boots, give) = boots(home.path());
            let fetch = |path: &str| read(boots.open(AT, path));
            for word in ["old", "new", "newest"] {
                give(word);
                fetch(first);
                assert!(fetch(firmware).starts_with(&format!("{word} ")), "{first}: {}", fetch(firmware));
                let cmdline = fetch("1a2b3c4d/cmdline.txt");
                assert!(cmdline.contains(&format!("set={word} ")), "{first}: {cmdline}");
                assert_eq!(fetch("1a2b3c4d/kernel.img"), format!("{word} kernel"), "{first}");
            }
        }
    }
    #[test]
    fn nodes_go_first_by_what_was_heard_of_their_cards() {
        let home = tempfile::tempdir().expect("a temporary folder");
        let (boots, _) = boots(home.path());
        let guest = Ipv4Addr::new(127, 0, 0, 10);
        assert!(boots.is_of_a_node(AT));
        assert!(!boots.is_of_a_node(guest), "nothing was heard from there");
        boots.neighbours.learn(guest, Mac([2, 0, 0, 0, 0, 9]));
        assert!(!boots.is_of_a_node(guest), "it has a lease, and is nobody's");
    }

    /// Each of them was an event, and a write.
    #[test]
    fn machines_that_nobody_knows_do_not_fill_the_journal() {
        let home = tempfile::tempdir().expect("a temporary folder");
        let (boots, _) = boots(home.path());
        let events = || boots.timeline.after(0, 10_000).len();
        let before = events();
        for number in 0..2000_u32 {
            let guest = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 88, 0, 0)) + number);
            boots.ended(guest, "ipxe.efi", End::Silent { at: 0, of: 1000, block: 512, agreed: false });
        }
        assert_eq!(events(), before, "a datagram in somebody's name");
        for number in 0..2000_u32 {
            let guest = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 88, 0, 0)) + number);
            boots.ended(guest, "ipxe.efi", End::Sent { bytes: 1000 });
            boots.ended(guest, "ipxe.efi", End::Aborted { reason: "enough".into(), at: 512, of: 1000, block: 512 });
        }
        let told = events() - before;
        // A minute may begin meanwhile.
        assert!((1..=120).contains(&told), "{told}");
    }
}
