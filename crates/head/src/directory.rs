//! Who is who on the wire, what each may read there, and the leases that DHCP stores: the head's
//! side of netboot.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bramble_model::boot_set::Artifact;
use bramble_model::names::{Mac, Name};
use bramble_model::repository::Starts;
use bramble_model::timeline::{Millis, Phase, What};
use bramble_netboot::dhcp::{Lease, LeaseStore};
use bramble_netboot::ipxe::Addresses;
use bramble_netboot::tftp::{Content, End};
use bramble_netboot::{Boot, Client, Cpu, Directory, Firmware, Known, Sight, pi, uboot};
use bramble_plan::chain::Chain;
use bramble_plan::hand_off::Give;
use bramble_system::now;

use crate::{Head, foreign};

/// A firmware repeats itself: what it said within this many milliseconds is one event.
const SAME: u64 = 4000;
/// A machine that says it has been asking for longer than this was not heard.
const UNHEARD: u16 = 15;
/// Addresses that are remembered. A wire of a thousand machines fits; a flood of forged ones does not.
const REMEMBERED: usize = 8192;

/// A file that is made for one boot is the same for so many milliseconds: firmware asks for its size
/// first, and then for the file.
const SAME_FILE: Millis = 10_000;

/// When a file was made, and the file.
type Made = (Millis, Arc<[u8]>);

/// The machines of the wire, by what was last heard of them.
#[derive(Default)]
pub(crate) struct Wire {
    by_address: Mutex<HashMap<Ipv4Addr, Mac>>,
    last_asked: Mutex<HashMap<Mac, Millis>>,
    /// Files made for one boot, and when.
    made: Mutex<HashMap<Mac, Made>>,
}

impl Wire {
    /// Learns that a machine has an address.
    pub(crate) fn learn(&self, address: Ipv4Addr, mac: Mac) {
        let mut known = self.by_address.lock().expect("no panic while held");
        if known.len() >= REMEMBERED && !known.contains_key(&address) {
            known.clear();
        }
        known.insert(address, mac);
    }

    pub(crate) fn mac(&self, address: Ipv4Addr) -> Option<Mac> {
        self.by_address.lock().expect("no panic while held").get(&address).copied()
    }

    /// The file that this machine's present boot has, made now where there is none.
    pub(crate) fn made(&self, mac: Mac, make: impl FnOnce() -> Option<String>) -> Option<Content> {
        let at = now();
        let mut made = self.made.lock().expect("no panic while held");
        made.retain(|_, (since, _)| *since + SAME_FILE > at);
        if let Some((_, bytes)) = made.get(&mac) {
            return Some(Content::Memory(Arc::clone(bytes)));
        }
        let bytes: Arc<[u8]> = make()?.into_bytes().into();
        made.insert(mac, (at, Arc::clone(&bytes)));
        Some(Content::Memory(bytes))
    }

    /// A new boot of this machine has begun.
    fn forget_made(&self, mac: Mac) {
        self.made.lock().expect("no panic while held").remove(&mac);
    }

    /// When the machine asked before, and that it asks now.
    fn asks(&self, mac: Mac, at: Millis) -> Option<Millis> {
        let mut asked = self.last_asked.lock().expect("no panic while held");
        if asked.len() >= REMEMBERED && !asked.contains_key(&mac) {
            asked.clear();
        }
        asked.insert(mac, at)
    }
}

/// The head as netboot sees it.
pub(crate) struct Book(pub(crate) Arc<Head>);

impl Book {
    /// Adds an event, unless the node's firmware only repeats itself.
    fn tell_once(&self, node: &Name, what: What) {
        if !self.0.timeline.has_just_told(node, &what, SAME) {
            self.0.timeline.add(Some(node), what);
        }
    }

    fn of_set(&self, architecture: Cpu, find: impl Fn(&bramble_image::BootSet) -> Option<Artifact>) -> Option<Content> {
        let set = self.0.set_for(architecture).ok()?;
        content(&self.0.shelf.file(&find(&set)?.sha256))
    }

    /// A file of a Raspberry Pi's boot. The first folder is how the board names itself.
    fn pi_file(&self, from: Ipv4Addr, path: &str) -> Option<Content> {
        let by_prefix = || {
            let mac = pi::prefix(path)?.replace('-', ":").parse::<Mac>().ok()?;
            self.0.node_of(mac).map(|name| (mac, name))
        };
        let (mac, node) = self.0.node_at(from).or_else(by_prefix)?;
        if self.0.declared(&node)?.boot.is_some() {
            return None;
        }
        match pi::file(path)? {
            // Without a system to boot nothing is answered, and the board goes on in its boot order.
            pi::File::Config => {
                self.0.set_for(Cpu::Arm64).ok()?;
                Some(Content::Memory(pi::CONFIG.as_bytes().into()))
            }
            pi::File::Cmdline => {
                let own = self.0.addresses(from, mac);
                let http = self.0.http_beside(from);
                self.0.wire.made(mac, || {
                    let words = self.0.new_boot(&node, mac, Cpu::Arm64, http, |arguments, _| arguments.render(&own));
                    Some(words.ok()? + "\n")
                })
            }
            pi::File::Kernel => self.of_set(Cpu::Arm64, |set| {
                Some(set.manifest.firmware(pi::KERNEL).unwrap_or(&set.manifest.kernel).clone())
            }),
            pi::File::Initrd => self.of_set(Cpu::Arm64, |set| Some(set.manifest.initrd.clone())),
            pi::File::Firmware(name) => self.of_set(Cpu::Arm64, |set| set.manifest.firmware(&name).cloned()),
        }
    }
}

impl Head {
    /// The node that has this address: by what was heard on the wire, by its lease, or by its fixed one.
    pub(crate) fn node_at(&self, address: Ipv4Addr) -> Option<(Mac, Name)> {
        let cluster = self.cluster();
        if let Some(mac) = self.wire.mac(address).or_else(|| neighbour(address)) {
            return self.node_of(mac).map(|name| (mac, name));
        }
        let fixed = cluster.nodes.iter().find(|(_, node)| node.address == Some(address));
        fixed.and_then(|(name, node)| Some((*node.macs.first()?, name.clone())))
    }

    /// What a machine knows of its network, for firmware that cannot say it to a kernel itself.
    pub(crate) fn addresses(&self, from: Ipv4Addr, mac: Mac) -> Addresses {
        let subnet = self.subnets().iter().find(|subnet| subnet.contains(from));
        let interface = self.interface_beside(from);
        let mask = subnet.map_or_else(|| interface.mask(), |subnet| subnet.mask());
        let gateway = match subnet {
            Some(subnet) => subnet.router,
            None => interface.gateway,
        };
        let dns = subnet.and_then(|subnet| subnet.dns.first().copied()).or(gateway);
        let text = |address: Option<Ipv4Addr>| address.map(|address| address.to_string()).unwrap_or_default();
        Addresses {
            mac: mac.to_string().replace(':', "-"),
            address: from.to_string(),
            mask: mask.to_string(),
            gateway: text(gateway),
            dns: text(dns),
        }
    }
}

/// The kernel's own word on who has an address (`/proc/net/arp`): it answers a machine's ARP question
/// before this program has read it.
fn neighbour(address: Ipv4Addr) -> Option<Mac> {
    let table = std::fs::read_to_string("/proc/net/arp").ok()?;
    let line = table.lines().find(|line| line.split_whitespace().next() == Some(&address.to_string()))?;
    line.split_whitespace().nth(3)?.parse().ok().filter(|mac| *mac != Mac([0; 6]))
}

/// The content of a file, as it is now.
pub(crate) fn content(path: &Path) -> Option<Content> {
    let file = File::open(path).ok()?;
    let size = file.metadata().ok()?.len();
    Some(Content::File { file: Arc::new(file), size })
}

impl Directory for Book {
    fn who(&self, client: &Client) -> Option<Known> {
        let firmware = client.firmware.map(|firmware| firmware.to_string()).unwrap_or_default();
        let (mac, at) = (client.mac, now());
        let before = self.0.wire.asks(mac, at);
        self.0.wire.forget_made(mac);
        let cluster = self.0.cluster();
        let found = self.0.node_of(mac).and_then(|name| Some((self.0.declared(&name)?, name)));
        let Some((node, name)) = found else {
            self.0.saw_unknown(mac, firmware, client.uuid.clone());
            return None;
        };
        self.tell_once(&name, What::Asked { mac, firmware });
        let unheard = before.is_none_or(|before| before + u64::from(client.seconds) * 1000 < at);
        if client.seconds >= UNHEARD && unheard {
            self.tell_once(&name, What::HeardLate { seconds: client.seconds });
        }
        let efi = node.boot.as_ref().filter(|profile| {
            cluster.boots.get(*profile).is_some_and(|profile| matches!(profile.starts, Starts::Efi(_)))
        });
        let boot = match efi {
            Some(profile) if self.0.give(&name) == Some(Give::Profile) => Boot::File(foreign::efi_path(profile)),
            _ => match client.firmware {
                Some(Firmware::Uefi(_) | Firmware::UefiHttp(_)) if self.0.chain(&name) == Chain::Signed => Boot::Signed,
                _ => Boot::Loader,
            },
        };
        if let Some(Firmware::Ipxe(_)) = client.firmware {
            self.0.loader_runs(&name);
        }
        Some(Known { node: name, boot })
    }

    fn has_loader(&self, name: &str) -> bool {
        self.0.loader(name).is_some()
    }

    fn saw(&self, mac: Mac, sight: Sight) {
        match &sight {
            Sight::Leased { address, .. } | Sight::LookedForHead { address } | Sight::AskedBootServer { address }
                if !address.is_unspecified() =>
            {
                self.0.wire.learn(*address, mac);
            }
            _ => {}
        }
        let Some(node) = self.0.node_of(mac) else { return };
        let what = match sight {
            Sight::Offered { file } => What::Offered { file },
            Sight::Chose { server } => What::Chose { server },
            Sight::Leased { address, firmware: Some(_) } => What::Leased { address },
            // A system that renews its lease says nothing of its boot.
            Sight::Leased { firmware: None, .. } => return,
            Sight::AskedBootServer { .. } => What::AskedBootServer,
            // So does one that runs and forgot the head's address for a moment.
            Sight::LookedForHead { .. }
                if self.0.timeline.look(&node, |track| track.phase > Phase::Loader) == Some(true) =>
            {
                return;
            }
            Sight::LookedForHead { address } => What::LookedForHead { address },
            Sight::NoLoader { firmware } => What::NoLoader { firmware: firmware.to_string() },
        };
        self.tell_once(&node, what);
    }

    fn file(&self, from: Ipv4Addr, path: &str) -> Option<Content> {
        let head = &self.0;
        if let Some(loader) = head.loader(path) {
            return Some(loader);
        }
        if let Some(profile) = foreign::profile_of_efi(path) {
            let cluster = head.cluster();
            let profile = cluster.boots.get(&profile)?;
            let Starts::Efi(path) = &profile.starts else { return None };
            return content(path);
        }
        if let Some(mac) = uboot::card(path) {
            let node = head.node_of(mac)?;
            head.wire.learn(from, mac);
            let http = head.http_beside(from);
            return head.wire.made(mac, || {
                let own = Addresses::uboot(mac);
                let menu =
                    head.new_boot(&node, mac, Cpu::Arm64, http, |arguments, _| uboot::menu(&arguments.render(&own)));
                menu.ok()
            });
        }
        if let Some(menu) = head.grub(path, from) {
            return Some(menu);
        }
        match path {
            uboot::KERNEL => self.of_set(Cpu::Arm64, |set| Some(set.manifest.kernel.clone())),
            uboot::INITRD => self.of_set(Cpu::Arm64, |set| Some(set.manifest.initrd.clone())),
            _ => self.pi_file(from, path),
        }
    }

    fn read(&self, from: Ipv4Addr, path: &str, end: End) {
        let node = self.0.node_at(from).map(|(_, node)| node);
        let node = node.as_ref();
        let file = path.to_owned();
        let what = match end {
            End::Sent { bytes } => {
                let name = match (path.rsplit('/').next(), pi::file(path)) {
                    (_, Some(pi::File::Kernel)) | (Some("kernel"), _) => Some("kernel"),
                    (_, Some(pi::File::Initrd)) | (Some("initrd"), _) => Some("initrd"),
                    _ => None,
                };
                if let (Some(name), Some(node)) = (name, node) {
                    self.0.timeline.add(Some(node), What::Fetching { file: name.into(), bytes });
                    return;
                }
                if let (Some(_), Some(node)) = (foreign::profile_of_efi(path), node) {
                    self.0.handed(node);
                    return;
                }
                if let Some(node) = node {
                    self.0.loader_sent(node, &file);
                }
                // Each counts: a loader that is fetched again and again is a loop.
                self.0.timeline.add(node, What::TftpSent { file, bytes });
                return;
            }
            End::Missing => What::TftpMissing { file },
            // Firmware ends a transfer on purpose, to learn a file's size.
            End::Aborted { at: 0, .. } => return,
            End::Aborted { reason, at, of, block } => {
                What::TftpStopped { file, at, of, block, agreed: true, reason: format!("the client gave up: {reason}") }
            }
            End::Silent { at, of, block, agreed } => {
                What::TftpStopped { file, at, of, block, agreed, reason: "silent".into() }
            }
            End::Unreadable { reason } => What::Note { text: format!("cannot read {path}: {reason}") },
        };
        match node {
            Some(node) => self.tell_once(node, what),
            // Strangers ask for much.
            None if matches!(what, What::TftpMissing { .. }) => tracing::debug!(%from, path, "no such file"),
            None => self.0.timeline.add(None, what),
        }
    }
}

impl LeaseStore for Book {
    fn store(&self, leases: &[Lease]) -> io::Result<()> {
        self.0.store.put_leases(leases).map_err(io::Error::other)
    }
}
