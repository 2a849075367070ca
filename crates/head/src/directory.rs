//! Who is who on the wire, and the leases that DHCP stores: the head's side of netboot.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use bramble_model::api::Seen;
use bramble_model::names::{Mac, Name};
use bramble_model::timeline::What;
use bramble_netboot::dhcp::{Lease, LeaseStore};
use bramble_netboot::{Client, Directory, Who};
use bramble_system::now;

use crate::Head;

/// A firmware repeats itself: what it said within this many milliseconds is one event.
const SAME: u64 = 4000;

/// The head as netboot sees it.
pub(crate) struct Book(pub(crate) Arc<Head>);

impl Book {
    /// Adds an event, unless the node's firmware only repeats itself.
    fn tell_once(&self, node: &Name, what: What) {
        let repeated = self.0.timeline.of(node, 4).iter().any(|event| event.what == what && event.at + SAME > now());
        if !repeated {
            self.0.timeline.add(Some(node), what);
        }
    }
}

impl Directory for Book {
    fn who(&self, client: &Client) -> Who {
        let firmware = client.firmware.map(|firmware| firmware.to_string()).unwrap_or_default();
        let Some((name, _)) = self.0.cluster.node_of(client.mac) else {
            self.0.saw_unknown(client.mac, firmware, client.uuid.clone());
            return Who::Unknown;
        };
        let mac = client.mac;
        self.tell_once(name, What::Asked { mac, firmware });
        Who::Node(name.clone())
    }

    fn offered(&self, node: &Name, file: &str) {
        self.tell_once(node, What::Offered { file: file.to_owned() });
    }

    fn tftp_sent(&self, to: Ipv4Addr, file: &str, bytes: u64) {
        let leases = self.0.store.leases().unwrap_or_default();
        let fixed = self.0.cluster.nodes.iter().find(|(_, node)| node.address == Some(to)).map(|(name, _)| name);
        let lent =
            || leases.iter().find(|lease| lease.address == to).and_then(|lease| self.0.cluster.node_of(lease.mac));
        let node = fixed.or_else(|| lent().map(|(name, _)| name));
        self.0.timeline.add(node, What::TftpSent { file: file.to_owned(), bytes });
    }
}

impl LeaseStore for Book {
    fn store(&self, leases: &[Lease]) -> io::Result<()> {
        self.0.store.put_leases(leases).map_err(io::Error::other)
    }
}

impl Head {
    /// Remembers a machine that the repository does not have.
    pub(crate) fn saw_unknown(&self, mac: Mac, firmware: String, uuid: Option<String>) {
        let at = now();
        let known = self.store.seen().unwrap_or_default().into_iter().find(|seen| seen.mac == mac);
        let recent = known.as_ref().is_some_and(|seen| seen.last + SAME > at);
        let (first, times) = known.map_or((at, 0), |seen| (seen.first, seen.times));
        let seen = Seen { mac, firmware: firmware.clone(), uuid, first, last: at, times: times + 1 };
        if let Err(error) = self.store.put_seen(&seen) {
            tracing::error!(%error, "a seen machine could not be stored");
        }
        if !recent {
            self.timeline.add(None, What::SeenUnknown { mac, firmware });
        }
    }
}
