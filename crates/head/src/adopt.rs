//! Machines that are to be adopted: one that is not in the repository boots once, into an inventory, and says
//! what it is.
//!
//! ```text
//! unknown ──adopt──▶ Asked ──it asks for a boot──▶ Booting ──its inventory──▶ Done
//!                      └──────────── half an hour ────────────┘──▶ unknown
//! ```
//! Until it is done, it counts as a node with a name of its own, so that every firmware boots as it does for a
//! node. It is never let in: it has no certificate, no document, and none of its disks is mounted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use bramble_model::inventory::{Adoption, Inventory};
use bramble_model::names::{Mac, Name};
use bramble_model::repository::{Cluster, EnginePart, LabFirmware, LabMachine, Node, PowerKind};
use bramble_model::timeline::{Millis, What};
use bramble_plan::admission::EXPECTED_FOR;
use bramble_power::Driver;
use bramble_system::now;

use crate::api::{Refusal, refuse};
use crate::store::Store;
use crate::{Error, Head};

/// What the names of such machines begin with.
const PREFIX: &str = "inventory-";

/// Machines that are to say what they are, and those that did.
#[derive(Default)]
pub(crate) struct Adoptions(Mutex<BTreeMap<Mac, Adoption>>);

/// Until when a machine may boot so, where it may.
fn until(adoption: &Adoption) -> Option<Millis> {
    match adoption {
        Adoption::Asked { until } | Adoption::Booting { until } => Some(*until),
        Adoption::Done { .. } => None,
    }
}

impl Adoptions {
    pub(crate) fn open(store: &Store) -> Result<Self, Error> {
        Ok(Adoptions(Mutex::new(store.adoptions()?.into_iter().collect())))
    }

    fn all(&self) -> std::sync::MutexGuard<'_, BTreeMap<Mac, Adoption>> {
        self.0.lock().expect("no panic while held")
    }

    pub(crate) fn of(&self, mac: Mac) -> Option<Adoption> {
        self.all().get(&mac).cloned()
    }

    fn set(&self, store: &Store, mac: Mac, adoption: Adoption) -> Result<(), Error> {
        store.put_adoption(mac, &adoption)?;
        self.all().insert(mac, adoption);
        Ok(())
    }
}

/// The name that such a machine has while it boots.
fn name_of(mac: Mac) -> Name {
    let digits: String = mac.0.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{PREFIX}{digits}").parse().expect("letters, digits and a hyphen")
}

fn mac_of(name: &Name) -> Option<Mac> {
    let digits = name.as_str().strip_prefix(PREFIX)?;
    let mut mac = [0; 6];
    for (index, byte) in mac.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(index * 2..index * 2 + 2)?, 16).ok()?;
    }
    (digits.len() == 12).then_some(Mac(mac))
}

impl Head {
    /// The machine with this card, where it may boot into an inventory now.
    pub(crate) fn adopted(&self, mac: Mac) -> Option<Name> {
        let until = self.adoptions.of(mac).as_ref().and_then(until)?;
        (until > now()).then(|| name_of(mac))
    }

    /// As [`Head::declared`], of such a machine.
    pub(crate) fn adopted_node(&self, name: &Name) -> Option<Node> {
        let mac = mac_of(name)?;
        self.adopted(mac)?;
        Some(Node {
            macs: vec![mac],
            role: "inventory".parse().expect("a name"),
            part: EnginePart::None,
            address: None,
            boot: None,
            secure_boot: None,
            power: PowerKind::Hand,
            machine: LabMachine {
                firmware: LabFirmware::Bios,
                architecture: bramble_model::boot_set::Architecture::Amd64,
                memory: 0,
                cpus: 0,
                disk: 0,
            },
        })
    }

    /// Names of machines that boot so now.
    pub(crate) fn adopted_names(&self) -> Vec<Name> {
        let all = self.adoptions.all();
        all.iter().filter(|(_, adoption)| until(adoption).is_some()).map(|(mac, _)| name_of(*mac)).collect()
    }

    /// Whether this boot is into an inventory; it is noted that it was given.
    pub(crate) fn begins_inventory(&self, node: &Name) -> bool {
        let Some(mac) = mac_of(node) else { return false };
        let Some(until) = self.adoptions.of(mac).as_ref().and_then(until) else { return false };
        if let Err(error) = self.adoptions.set(&self.store, mac, Adoption::Booting { until }) {
            tracing::error!(%error, %mac, "an adoption could not be stored");
        }
        true
    }
}

fn parse(mac: &str) -> Result<Mac, Refusal> {
    mac.parse().map_err(|_| refuse(StatusCode::BAD_REQUEST, format!("`{mac}` is no MAC address"), None))
}

fn not_a_node(cluster: &Cluster, mac: Mac) -> Result<(), Refusal> {
    match cluster.node_of(mac) {
        Some((name, _)) => Err(refuse(StatusCode::CONFLICT, format!("{mac} is node {name} already"), None)),
        None => Ok(()),
    }
}

/// `POST /v1/seen/MAC/adopt`: its next boot is into the inventory. A machine that sleeps is woken.
pub(crate) async fn adopt(State(head): State<Arc<Head>>, Path(mac): Path<String>) -> Result<StatusCode, Refusal> {
    let mac = parse(&mac)?;
    not_a_node(&head.cluster(), mac)?;
    let asked = Adoption::Asked { until: now() + EXPECTED_FOR };
    let stored = head.adoptions.set(&head.store, mac, asked);
    stored.map_err(|error| refuse(StatusCode::INTERNAL_SERVER_ERROR, bramble_system::sentence(&error), None))?;
    head.timeline.note(&format!("{mac} is to say what it is at its next boot"));
    let wake = Driver::WakeOnLan {
        cards: vec![mac],
        from: head.interfaces[0].address,
        broadcast: std::net::Ipv4Addr::BROADCAST,
    };
    // Many machines do not listen for it; a person switches them on.
    if let Err(error) = wake.set(&name_of(mac), true).await {
        tracing::debug!(%mac, error = bramble_system::sentence(&error), "it could not be woken");
    }
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /v1/seen/MAC/inventory`
pub(crate) async fn inventory(
    State(head): State<Arc<Head>>,
    Path(mac): Path<String>,
) -> Result<Json<Adoption>, Refusal> {
    let mac = parse(&mac)?;
    let known = head.adoptions.of(mac);
    let known = known.filter(|adoption| until(adoption).is_none_or(|until| until > now()));
    known.map(Json).ok_or_else(|| {
        refuse(StatusCode::NOT_FOUND, format!("{mac} has not said what it is"), Some("`bramble adopt` asks it"))
    })
}

/// `POST /v1/boots/BOOT/inventory`: the machine of this boot says what it is. The boot's id is the capability.
pub(crate) async fn report(
    State(head): State<Arc<Head>>,
    Path(boot): Path<String>,
    Json(inventory): Json<Inventory>,
) -> Result<StatusCode, Refusal> {
    let Some(mac) = head.node_of_boot(&boot).as_ref().and_then(mac_of) else {
        return Err(refuse(StatusCode::NOT_FOUND, "there is no such boot", None));
    };
    let first = inventory.lines().into_iter().next().unwrap_or_default();
    let done = Adoption::Done { at: now(), inventory: Box::new(inventory) };
    let stored = head.adoptions.set(&head.store, mac, done).and_then(|()| head.store.forget(&name_of(mac)));
    stored.map_err(|error| refuse(StatusCode::INTERNAL_SERVER_ERROR, bramble_system::sentence(&error), None))?;
    head.timeline.add(Some(&name_of(mac)), What::Note { text: format!("says what it is: {first}") });
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_back_to_its_card() {
        let mac = Mac([0x52, 0x54, 0, 0xab, 0, 1]);
        assert_eq!(name_of(mac).as_str(), "inventory-525400ab0001");
        assert_eq!(mac_of(&name_of(mac)), Some(mac));
        for other in ["w1", "inventory-", "inventory-52540000000", "inventory-5254000000011"] {
            assert_eq!(mac_of(&other.parse().unwrap_or_else(|_| "x".parse().expect("a name"))), None, "{other}");
        }
    }
}
