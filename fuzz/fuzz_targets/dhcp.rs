//! Any bytes on port 67 or 4011, to a server with and without addresses of its own; then the answer.
#![no_main]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use bramble_model::names::Mac;
use bramble_model::repository::Subnet;
use bramble_netboot::dhcp::{Leases, Link, Pool, Port, Server, decode, encode};
use bramble_netboot::tftp::{Content, End};
use bramble_netboot::{Boot, BootServer, Client, Directory, Known, Sight};
use libfuzzer_sys::fuzz_target;

/// Knows everyone.
struct All;

impl Directory for All {
    fn who(&self, _: &Client) -> Option<Known> {
        Some(Known { node: "n".parse().expect("a name"), boot: Boot::Loader })
    }
    fn has_loader(&self, _: &str) -> bool {
        true
    }
    fn saw(&self, _: Mac, _: Sight) {}
    fn file(&self, _: Ipv4Addr, _: &str) -> Option<Content> {
        None
    }
    fn read(&self, _: Ipv4Addr, _: &str, _: End) {}
}

fuzz_target!(|bytes: &[u8]| {
    let Some(message) = decode(bytes) else { return };
    let subnet = Subnet {
        address: [10, 77, 0, 0].into(),
        prefix: 24,
        pool: ([10, 77, 0, 100].into(), [10, 77, 0, 102].into()),
        router: None,
        dns: Vec::new(),
        lease_seconds: 600,
    };
    let leases = Leases::new(subnet.pool, BTreeMap::new(), Vec::new(), []);
    let http = "10.77.0.1:7080".parse().expect("an address");
    let link = Link { address: [10, 77, 0, 1].into(), boot: BootServer { http } };
    for pools in [Vec::new(), vec![Pool { subnet, leases }]] {
        let mut server = Server { domain: "home.arpa".into(), pools };
        for port in [Port::Dhcp, Port::Proxy] {
            if let Some(reply) = server.handle(&message, &link, port, 1000, &All).reply {
                let bytes = encode(&reply.message);
                assert!(bytes.len() >= 300);
                assert!(decode(&bytes).is_some(), "an answer of our own decodes");
            }
        }
    }
});
