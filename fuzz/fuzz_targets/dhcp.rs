//! Any bytes on port 67 or 4011, to a server with and without addresses of its own; then the answer.
#![no_main]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use bramble_model::repository::Subnet;
use bramble_netboot::dhcp::{Arrival, Leases, Link, Pool, Port, Server, asks, decode, encode};
use bramble_netboot::{BootServer, FirstFile, KnownMachine};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some(message) = decode(bytes) else { return };
    let subnet = Subnet {
        address: [10, 77, 0, 0].into(),
        prefix: 24,
        pool: ([10, 77, 0, 100].into(), [10, 77, 0, 102].into()),
        router: None,
        dns: Vec::new(),
        relays: vec![[10, 77, 0, 2].into()],
        lease_seconds: 600,
    };
    let leases = Leases::new(subnet.pool, BTreeMap::new(), Vec::new(), []);
    let http = "10.77.0.1:7080".parse().expect("an address");
    let link = Link { address: [10, 77, 0, 1].into(), prefix: 24, boot: BootServer { http } };
    let known = asks(&message, &link).map(|client| KnownMachine {
        node: "n".parse().expect("a name"),
        file: link.boot.first_file(&client, &FirstFile::Loader, |_| true),
    });
    for pools in [Vec::new(), vec![Pool { subnet, leases }]] {
        let mut server = Server { domain: "home.arpa".into(), pools, relays: Vec::new() };
        for port in [Port::Dhcp, Port::Proxy] {
            let arrival = Arrival { link: &link, port, from: Ipv4Addr::UNSPECIFIED };
            if let Some(reply) = server.handle(&message, arrival, 1000, known.as_ref()).reply {
                let bytes = encode(&reply.message);
                assert!(bytes.len() >= 300);
                assert!(decode(&bytes).is_some(), "an answer of our own decodes");
            }
        }
    }
});
