//! Real sockets on loopback, where every address from 127.0.0.1 on is this machine's.

#![expect(clippy::octal_escapes, reason = "packets end words with NUL, and digits follow")]

use std::collections::BTreeSet;

use super::*;
use crate::away::Away;

const HEAD: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const NODE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
const GUEST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);
/// A wait that is long enough for whatever is expected to come.
const LONG: Duration = Duration::from_secs(30);

/// Everyone gets the same file.
struct OneFile {
    ended: Mutex<Vec<(Ipv4Addr, End)>>,
}

impl Files for OneFile {
    fn open(&self, _: Ipv4Addr, path: &str) -> Option<Content> {
        (path == "ipxe.efi").then(|| Content::Memory(vec![7; 3000].into()))
    }

    fn is_of_a_node(&self, from: Ipv4Addr) -> bool {
        from == NODE
    }

    fn ended(&self, from: Ipv4Addr, _: &str, end: End) {
        self.ended.lock().expect("no panic").push((from, end));
    }
}

/// A server on a port of its own, with its own threads; it ends with the test.
struct Served {
    at: SocketAddr,
    files: Arc<OneFile>,
    counts: Arc<Counts>,
    stop: CancellationToken,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Served {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let files = Arc::new(OneFile { ended: Mutex::default() });
        let (counts, stop) = (Arc::<Counts>::default(), CancellationToken::new());
        let socket = runtime.block_on(tokio::net::UdpSocket::bind((HEAD, 0))).expect("a port");
        let at = socket.local_addr().expect("bound");
        runtime.spawn(serve(
            socket,
            HEAD,
            Arc::clone(&files) as _,
            Arc::clone(&counts),
            Arc::new(1024.into()),
            stop.clone(),
        ));
        Served { at, files, counts, stop, runtime: Some(runtime) }
    }

    fn client(&self, address: Ipv4Addr) -> UdpSocket {
        let socket = UdpSocket::bind((address, 0)).expect("a port");
        socket.set_read_timeout(Some(LONG)).expect("set");
        socket
    }

    fn ask(&self, client: &UdpSocket, options: &[u8]) {
        client.send_to(&[b"\0\x01ipxe.efi\0octet\0", options].concat(), self.at).expect("sent");
    }

    /// Reads the whole file from this address, asking again as a ROM does.
    fn read(&self, address: Ipv4Addr) -> Vec<u8> {
        let client = self.client(address);
        client.set_read_timeout(Some(Duration::from_millis(300))).expect("set");
        self.ask(&client, b"");
        let (mut got, mut next, mut from) = (Vec::new(), 1_u16, None);
        let mut buffer = [0; 600];
        loop {
            let Ok((length, sender)) = client.recv_from(&mut buffer) else {
                if from.is_none() {
                    self.ask(&client, b"");
                }
                continue;
            };
            from = Some(sender);
            let [0, 3, high, low, data @ ..] = &buffer[..length] else { panic!("{:?}", &buffer[..length]) };
            if u16::from_be_bytes([*high, *low]) == next {
                got.extend_from_slice(data);
                next += 1;
            }
            let [high, low] = (next - 1).to_be_bytes();
            client.send_to(&[0, 4, high, low], sender).expect("sent");
            if data.len() < 512 {
                return got;
            }
        }
    }

    fn turned(&self, away: Away) -> u64 {
        self.counts.all().into_iter().find(|(which, _)| *which == away).map_or(0, |(_, count)| count.times)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[test]
fn a_node_boots_while_one_address_sends_a_thousand_requests() {
    let served = Served::start();
    let flood: Vec<UdpSocket> = (0..400).map(|_| served.client(GUEST)).collect();
    // Again and again, from all of its ports.
    for _ in 0..3 {
        flood.iter().for_each(|client| served.ask(client, b"timeout\09\0"));
    }
    assert_eq!(served.read(NODE), [7; 3000]);
    flood.iter().for_each(|client| served.ask(client, b""));
    assert_eq!(served.read(Ipv4Addr::new(127, 0, 0, 67)), [7; 3000], "and so does a machine that nobody knows");
    assert!(served.turned(Away::Address) > 0, "a person sees it");
}

/// What a victim gets whose address was made up in requests: no windows, and nothing for most of them.
#[test]
fn a_made_up_sender_is_sent_little() {
    let served = Served::start();
    let victim: Vec<UdpSocket> = (0..200).map(|_| served.client(GUEST)).collect();
    victim.iter().for_each(|client| served.ask(client, b"blksize\01468\0windowsize\064\0"));
    // By then each of them was taken or turned away.
    assert_eq!(served.read(NODE), [7; 3000]);
    let mut buffer = [0; 2048];
    let mut bytes = 0;
    for client in &victim {
        client.set_nonblocking(true).expect("set");
        while let Ok(length) = client.recv(&mut buffer) {
            assert_eq!(buffer[..2], [0, 6], "options, and no data");
            bytes += length;
        }
    }
    assert!(bytes < 4096, "{bytes} bytes for 200 requests");
}

/// The abort of the first request has to free its place before the second one is there.
#[test]
fn pxe_roms_that_learn_the_size_first_are_served_at_once() {
    let served = Served::start();
    let mut buffer = [0; 2048];
    for _ in 0..12 {
        let client = served.client(NODE);
        served.ask(&client, b"tsize\00\0");
        let (length, from) = client.recv_from(&mut buffer).expect("its size");
        assert_eq!(buffer[..length], *b"\0\x06tsize\03000\0");
        client.send_to(b"\0\x05\0\0aborted\0", from).expect("sent");
        let client = served.client(NODE);
        served.ask(&client, b"blksize\01468\0");
        let (_, from) = client.recv_from(&mut buffer).expect("its options");
        client.send_to(b"\0\x05\0\0aborted\0", from).expect("sent");
    }
    assert_eq!(served.turned(Away::Address), 0);
}

#[test]
fn many_machines_read_at_the_same_time() {
    let served = Served::start();
    let addresses: BTreeSet<Ipv4Addr> = (1..=100).map(|last| Ipv4Addr::new(127, 0, 7, last)).collect();
    thread::scope(|scope| {
        for address in &addresses {
            scope.spawn(|| assert_eq!(served.read(*address), [7; 3000]));
        }
    });
    let ended = || {
        let ended = served.files.ended.lock().expect("no panic");
        ended.iter().filter(|(_, end)| *end == End::Sent { bytes: 3000 }).map(|(from, _)| *from).collect()
    };
    while addresses != ended() {
        thread::yield_now();
    }
}
