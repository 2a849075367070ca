//! Load for `./dev bench netboot`: readers over TFTP and HTTP on the kernel's own sockets, the same
//! for every server, and a storm of simulated machines.
//!
//! ```text
//! bramble-load tftp SERVER FILE BLOCK WINDOW CLIENTS ROUNDS    seconds for all, and bytes
//! bramble-load http URL CLIENTS SECONDS                        bytes a second, whole files only at the end
//! bramble-load storm MACHINES                                  inside namespaces of its own
//! bramble-load seeds FOLDER                                    what personas send, for the fuzzers
//! ```

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bramble_tests::machines::dhcp::{DISCOVER, INFORM, REQUEST};
use bramble_tests::machines::fetch::request;
use bramble_tests::machines::firmware::{Boot, Ended, message, power_on};
use bramble_tests::machines::house::{House, Router, content};
use bramble_tests::machines::persona::Persona;
use bramble_tests::machines::wire::Trouble;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["tftp", server, file, block, window, clients, rounds] => {
            let number = |text: &str| text.parse::<usize>().expect("a number");
            tftp(server, file, number(block), number(window), number(clients), number(rounds));
        }
        ["http", url, clients, seconds] => {
            http(url, clients.parse().expect("a number"), seconds.parse().expect("seconds"));
        }
        ["storm", machines] => storm(machines.parse().expect("a number")),
        ["seeds", folder] => seeds(std::path::Path::new(folder)),
        _ => {
            eprintln!(
                "bramble-load tftp SERVER FILE BLOCK WINDOW CLIENTS ROUNDS | http URL CLIENTS SECONDS | storm MACHINES"
            );
            std::process::exit(2);
        }
    }
}

fn tftp(server: &str, file: &str, block: usize, window: usize, clients: usize, rounds: usize) {
    let start = Instant::now();
    let bytes = AtomicU64::new(0);
    thread::scope(|scope| {
        for client in 0..clients {
            let bytes = &bytes;
            scope.spawn(move || {
                for _ in 0..rounds {
                    let got = read(client, server, file, block, window);
                    bytes.fetch_add(got as u64, Ordering::Relaxed);
                }
            });
        }
    });
    println!("{:.4} {}", start.elapsed().as_secs_f64(), bytes.into_inner());
}

/// Writes what every persona sends, in a folder for each fuzz target.
fn seeds(folder: &std::path::Path) {
    let write = |target: &str, name: &str, bytes: &[u8]| {
        let folder = folder.join(target);
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join(name), bytes).expect("written");
    };
    for (name, persona) in Persona::all(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("personas")) {
        for kind in [DISCOVER, REQUEST, INFORM] {
            let bytes = message(&persona.dhcp, kind, 7, persona.mac(&name), 0).bytes();
            write("dhcp", &format!("{name}-{kind}"), &bytes);
        }
        write("tftp", &name, &request("ipxe.efi", &persona.tftp, persona.tftp.asks_size_first));
    }
    for (name, range) in [("whole", ""), ("from", "bytes=5-"), ("part", "bytes=0-499"), ("end", "bytes=-500")] {
        write("range", name, range.as_bytes());
    }
    for (name, query) in [("kernel", "boot=00ff&name=kernel&card=01808610d3"), ("arch", "arch=arm64")] {
        write("loader", name, query.as_bytes());
        write("query", name, query.as_bytes());
    }
    let said = |file: &str| {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/model/tests-data/protocol-1");
        std::fs::read_to_string(std::path::Path::new(folder).join(file)).expect("what version 1 said")
    };
    for (number, line) in said("from-agent.jsonl").lines().enumerate() {
        write("agent", &number.to_string(), line.as_bytes());
    }
    for line in said("enrolment.txt").lines().filter_map(|line| line.strip_prefix("agent ")) {
        write("enrol", "request", line.as_bytes());
    }
    let claim = format!(r#"{{"nonce":"{}"}}"#, "0".repeat(64));
    let failed = r#"{"failed":"no link","kind":"no-link","retry_in_seconds":4}"#;
    for (name, said) in [("claim", &*claim), ("step", r#"{"percent":60,"step":"root"}"#), ("failed", failed)] {
        write("claim", name, said.as_bytes());
    }
    for (name, said) in [
        ("exec", r#"{"nodes":"all","errand":{"do":"exec","argv":["true"],"input":false}}"#),
        ("input", r#"{"type":"input","data":"AP8K"}"#),
        ("ended", r#"{"type":"ended","end":{"end":"failed","reason":"gone"}}"#),
    ] {
        write("hands", name, said.as_bytes());
    }
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/first-light/bramble.toml");
    write("configuration", "first-light", &std::fs::read(example).expect("the example"));
}

/// Reads a file (RFC 1350, 2348, 7440) as the client of this number, from an address of its own where `netboot.sh` has
/// given it one, and gives the file's size. A server that does not grant a window is read without.
fn read(client: usize, server: &str, file: &str, block: usize, window: usize) -> usize {
    let own = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 64, 254, 1)) + client as u32);
    let socket = UdpSocket::bind((own, 0)).or_else(|_| UdpSocket::bind("0.0.0.0:0")).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
    let mut request = [&[0, 1], file.as_bytes(), b"\0octet\0blksize\0", block.to_string().as_bytes(), b"\0"].concat();
    if window > 1 {
        request.extend([b"windowsize\0", window.to_string().as_bytes(), b"\0"].concat());
    }
    let mut to: SocketAddr = format!("{server}:69").parse().expect("an address");
    socket.send_to(&request, to).expect("sent");
    let (mut granted, mut got, mut received, mut unacknowledged) = (1, 0, 0_u64, 0);
    let (mut size, mut silent) = (512, 0);
    let mut last = request;
    let mut buffer = [0; 2048];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else {
            silent += 1;
            assert!(silent < 10, "{server} has been silent for {silent} s after {received} blocks");
            socket.send_to(&last, to).expect("sent");
            continue;
        };
        // A server that has not heard the end of an earlier read may still send to this port.
        if to.port() != 69 && from != to {
            continue;
        }
        (to, silent) = (from, 0);
        match &buffer[..length] {
            [0, 6, options @ ..] => {
                let words: Vec<&[u8]> = options.split(|byte| *byte == 0).collect();
                for pair in words.chunks(2).filter(|pair| pair.len() == 2) {
                    let value = String::from_utf8_lossy(pair[1]).parse().unwrap_or(0);
                    match pair[0].to_ascii_lowercase().as_slice() {
                        b"blksize" => size = value,
                        b"windowsize" => granted = value,
                        _ => {}
                    }
                }
                last = vec![0, 4, 0, 0];
            }
            [0, 3, high, low, data @ ..] => {
                let number = u16::from_be_bytes([*high, *low]);
                if number != ((received + 1) & 0xffff) as u16 {
                    // A gap: the server goes on from what is acknowledged.
                    if unacknowledged > 0 {
                        unacknowledged = 0;
                        socket.send_to(&last, to).expect("sent");
                    }
                    continue;
                }
                received += 1;
                unacknowledged += 1;
                got += data.len();
                last = vec![0, 4, *high, *low];
                if data.len() < size {
                    socket.send_to(&last, to).expect("sent");
                    return got;
                }
                if unacknowledged < granted {
                    continue;
                }
                unacknowledged = 0;
            }
            other => panic!("{file}: {}", String::from_utf8_lossy(other)),
        }
        socket.send_to(&last, to).expect("sent");
    }
}

/// Reads a URL again and again with so many clients at once; prints bytes a second.
fn http(url: &str, clients: usize, seconds: f64) {
    let rest = url.strip_prefix("http://").expect("a URL");
    let (host, path) = rest.split_once('/').expect("a path");
    let (bytes, start) = (AtomicU64::new(0), Instant::now());
    let end = start + Duration::from_secs_f64(seconds);
    thread::scope(|scope| {
        for _ in 0..clients {
            let bytes = &bytes;
            let client = move || {
                let mut buffer = vec![0; 256 << 10];
                while Instant::now() < end {
                    let mut stream = TcpStream::connect(host).expect("connects");
                    let request = format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
                    stream.write_all(request.as_bytes()).expect("sent");
                    loop {
                        match stream.read(&mut buffer).expect("readable") {
                            0 => break,
                            read => {
                                bytes.fetch_add(read as u64, Ordering::Relaxed);
                            }
                        }
                        if Instant::now() >= end {
                            return;
                        }
                    }
                }
            };
            thread::Builder::new().stack_size(128 << 10).spawn_scoped(scope, client).expect("a thread");
        }
    });
    println!("{:.0}", bytes.into_inner() as f64 / start.elapsed().as_secs_f64());
}

/// Bytes of the kernel in the storm. All of it crosses a TAP device frame by frame, which takes a
/// hundred times as long as a network card: a few megabytes for each machine are enough to fill it.
const KERNEL: usize = 3_000_000;

/// Machines that are powered on within ten seconds: a UEFI firmware, its loader, kernel and initrd.
fn storm(machines: usize) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("personas");
    let loaders = Persona::all(&folder.join("loaders"));
    let mut persona = Persona::read(&folder.join("ipxe-rom-2019.toml"));
    persona.dhcp.collects = 0.0;
    // A broadcast would wake a thousand machines of this one computer.
    persona.dhcp.broadcast = false;
    let persona = &persona;
    let name = |number: usize| format!("n{number}");
    let nodes: String = (0..machines)
        .map(|number| {
            format!("[nodes.{0}]\nmac = \"{1}\"\nrole = \"worker\"\n", name(number), persona.mac(&name(number)))
        })
        .collect();
    let house = House::start_wide("full", Router::None, &nodes, &[]);
    house.replace_kernel(bramble_model::boot_set::Architecture::Amd64, &content("a kernel", KERNEL));
    // What the wire itself takes: one machine alone, as often as there are machines.
    let alone = Instant::now();
    let first = power_on(&house.wire, &name(0), persona, &loaders, Trouble::default(), 1);
    assert!(matches!(first.ended, Ended::Kernel { .. }), "{}", first.log.join("\n"));
    let link = alone.elapsed().as_secs_f64() * machines as f64;
    let peak = AtomicU64::new(0);
    let done = std::sync::atomic::AtomicBool::new(false);
    let start = Instant::now();
    let boots: Vec<(Duration, Boot)> = thread::scope(|scope| {
        let running: Vec<_> = (0..machines)
            .map(|number| {
                let (wire, loaders) = (&house.wire, &loaders);
                let machine = move || {
                    thread::sleep(Duration::from_secs(10) * number as u32 / machines as u32);
                    let since = start.elapsed();
                    (since, power_on(wire, &name(number), persona, loaders, Trouble::default(), number as u64 + 1))
                };
                thread::Builder::new().stack_size(256 << 10).spawn_scoped(scope, machine).expect("a thread")
            })
            .collect();
        let (watch, peak) = (&done, &peak);
        let pid = house.head_pid();
        scope.spawn(move || {
            while !watch.load(Ordering::Relaxed) {
                let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
                let kib = line.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0);
                peak.fetch_max(kib, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(200));
            }
        });
        let boots = running.into_iter().map(|machine| machine.join().expect("no panic")).collect();
        done.store(true, Ordering::Relaxed);
        boots
    });
    let failed = boots.iter().filter(|(_, boot)| !matches!(boot.ended, Ended::Kernel { .. })).count();
    let mut steps: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let mut last = 0.0_f64;
    for (since, boot) in &boots {
        for (step, at) in &boot.steps {
            steps.entry(step).or_default().push(at.as_secs_f64());
            last = last.max((*since + *at).as_secs_f64());
        }
    }
    println!("machines {machines} failed {failed}");
    println!("last {last:.1} s after the first power-on; one after the other they would take {link:.1} s");
    for (step, mut times) in steps {
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        println!("step {step}: median {:.2} s, p99 {:.2} s, longest {:.2} s", at(0.5), at(0.99), at(1.0));
    }
    println!("head {:.1} MB resident at most", peak.into_inner() as f64 / 1024.0);
    for (_, boot) in boots.iter().filter(|(_, boot)| !matches!(boot.ended, Ended::Kernel { .. })).take(1) {
        println!("{}", boot.log.join("\n"));
    }
}
