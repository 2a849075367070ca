//! Who is who on the wire: the head's side of netboot.

use bramble_boot::Firmware;
use bramble_model::names::Mac;
use bramble_model::repository::Starts;
use bramble_model::timeline::{Phase, What};
use bramble_netboot::{BootServer, Client, Directory, FirstFile, Heard, KnownMachine, Sight, Witness};
use bramble_plan::chain::Chain;
use bramble_plan::hand_off::Give;
use bramble_system::now;

use super::{Boots, foreign};

/// A machine that says it has been asking for longer than this was not heard.
const UNHEARD: u16 = 15;

impl Boots {
    /// A boot client asked.
    fn asked(&self, client: &Client, firmware: Firmware) {
        let (mac, at) = (client.mac, now());
        let before = self.neighbours.asks(mac, at);
        self.made.forget(mac);
        let Some(name) = self.nodes.of_card(mac) else {
            self.strangers.saw(mac, firmware.into(), client.uuid.clone());
            return;
        };
        self.own.asks(&name);
        self.tell_once(&name, What::Asked { mac, firmware: firmware.into() });
        let unheard = before.is_none_or(|before| before + u64::from(client.seconds) * 1000 < at);
        if client.seconds >= UNHEARD && unheard {
            self.tell_once(&name, What::HeardLate { seconds: client.seconds });
        }
        if let Firmware::Ipxe(_) = firmware {
            self.chains.runs(&name);
        }
    }
}

impl Directory for Boots {
    fn look(&self, client: &Client, server: &BootServer) -> Option<KnownMachine> {
        let name = self.nodes.of_card(client.mac)?;
        let node = self.nodes.declared(&name)?;
        let cluster = self.nodes.cluster();
        let efi = node.boot.as_ref().filter(|profile| {
            cluster.boots.get(*profile).is_some_and(|profile| matches!(profile.starts, Starts::Efi(_)))
        });
        let boot = match efi {
            Some(profile) if self.foreign.give(&name) == Some(Give::Profile) => {
                FirstFile::File(foreign::efi_path(profile))
            }
            _ => match client.firmware {
                Some(Firmware::Uefi(_) | Firmware::UefiHttp(_))
                    if self.chains.give(&name, node.secure_boot) == Chain::Signed =>
                {
                    FirstFile::Signed
                }
                _ => FirstFile::Loader,
            },
        };
        let file = server.first_file(client, &boot, |loader| self.own.has_loader(loader, &name));
        Some(KnownMachine { node: name, file })
    }
}

impl Witness for Boots {
    fn heard(&self, mac: Mac, on: Heard) {
        // Of cards of nodes alone: no flood of strangers has anyone forgotten.
        if self.nodes.of_card(mac).is_some() {
            self.neighbours.hears(mac, on, now());
        }
    }

    fn saw(&self, mac: Mac, sight: Sight) {
        match &sight {
            Sight::Asked(client) => {
                if let Some(firmware) = client.firmware {
                    self.asked(client, firmware);
                }
                return;
            }
            Sight::Leased { address, .. } | Sight::LookedForHead { address } | Sight::AskedBootServer { address }
                if !address.is_unspecified() =>
            {
                self.neighbours.learn(*address, mac);
            }
            _ => {}
        }
        let Some(node) = self.nodes.of_card(mac) else { return };
        let what = match sight {
            Sight::Asked(_) => return,
            Sight::Offered { file } => What::Offered { file },
            Sight::Chose { server } => What::Chose { server },
            Sight::Leased { address, firmware: Some(_) } => What::Leased { address },
            // A system that renews its lease says nothing of its boot.
            Sight::Leased { firmware: None, .. } => return,
            Sight::AskedBootServer { .. } => What::AskedBootServer,
            // So does one that runs and forgot the head's address for a moment.
            Sight::LookedForHead { .. }
                if self.timeline.look(&node, |track| track.phase > Phase::Loader) == Some(true) =>
            {
                return;
            }
            Sight::LookedForHead { address } => What::LookedForHead { address },
            Sight::NoLoader { firmware } => What::NoLoader { firmware: firmware.into() },
        };
        self.tell_once(&node, what);
    }
}
