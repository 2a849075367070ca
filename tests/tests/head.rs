//! The head under attack, and in the hands of people: the real head, spoken to by agents and clients that
//! follow its protocol or break it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use bramble_model::agent::{FromAgent, ToAgent};
use bramble_tests::agents::{Agent, Boot, Head, dhcp_discover, health, runtime};
use bramble_tests::machines::fetch::{Fetched, http};
use bramble_tests::machines::house::{HEAD, House, Router, inside};
use bramble_tests::machines::stack::Stack;
use bramble_tests::machines::wire::Trouble;
use bramble_tests::wait;
use serde_json::Value;

const NODES: &str = "[nodes.w1]\nmac = \"52:54:00:00:00:11\"\nrole = \"other\"\n\n\
                     [nodes.w2]\nmac = \"52:54:00:00:00:12\"\nrole = \"other\"\n\n\
                     [nodes.w3]\nmac = \"52:54:00:00:00:13\"\nrole = \"other\"\n";
const W1: &str = "52:54:00:00:00:11";
const W2: &str = "52:54:00:00:00:12";

/// A house whose head is asked; `open` lets every boot of a node in.
fn house(admission: &str) -> (House, Head) {
    let house = House::start_as(&format!("admission = \"{admission}\""), NODES);
    let head = Head::new(HEAD.parse().expect("an address"), &house.path().join(".bramble"));
    (house, head)
}

fn edit(house: &House, change: impl FnOnce(String) -> String) {
    let path = house.path().join("bramble.toml");
    let text = std::fs::read_to_string(&path).expect("readable");
    std::fs::write(&path, change(text)).expect("writable");
}

/// Changes the repository, and has the head keep that true.
fn edit_and_apply(house: &House, change: impl FnOnce(String) -> String) {
    edit(house, change);
    house.must(&["apply", "--yes"], "");
}

fn connected(house: &House, node: &str) -> bool {
    let status = house.status().expect("the head answers");
    bramble_tests::node(&status, node)["connected"] == true
}

#[test]
fn nobody_takes_the_place_of_a_living_node() {
    if !inside("nobody_takes_the_place_of_a_living_node") {
        return;
    }
    let (house, head) = house("open");
    runtime().block_on(async {
        let (first, mut session) = Agent::up(&head, "w1", W1).await.expect("the node itself is let in");
        // A nonce is good for one key.
        let mut replayed = Agent::new(&head, "w1", first.boot.clone());
        let refused = replayed.enrol().await.expect_err("a replayed nonce");
        assert!(refused.contains("has been used"), "{refused}");
        let mut guessed = Agent::new(&head, "w1", Boot { nonce: "00".repeat(16), ..first.boot.clone() });
        guessed.enrol().await.expect_err("a guessed nonce");
        // Someone with its MAC address asks for a boot, and has a nonce that is right.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let mut spoofed = Agent::new(&head, "w1", head.boot(W1).await.expect("a boot is handed out"));
        session.say(&health(1)).await.expect("the node lives");
        tokio::time::sleep(Duration::from_millis(200)).await;
        let refused = spoofed.enrol().await.expect_err("a spoofed MAC address");
        assert!(refused.contains("was alive after this boot was handed out"), "{refused}");
        session.say(&health(2)).await.expect("the node lives on");
        assert!(connected(&house, "w1"));
        // Its own connection may be lost, and it comes back with what it has.
        drop(session);
        let session = first.settle().await.expect("the node comes back");
        drop(session);
        // A nonce of one node is none for another.
        let boot = head.boot(W2).await.expect("a boot");
        Agent::new(&head, "w1", boot.clone()).enrol().await.expect_err("another node's boot");
        // What a certificate is for, the head says, and not the request.
        let mut other = Agent::new(&head, "w2", boot);
        other.enrol().await.expect("let in");
        let mut as_another = other.connect().await.expect("TLS");
        let mut hello = other.hello();
        let FromAgent::Hello { boot, .. } = &mut hello else { unreachable!("it is one") };
        *boot = bramble_model::names::BootId(first.boot.id.clone());
        as_another.say(&hello).await.expect("sent");
        assert!(as_another.is_ended().await, "w2's certificate, and w1's boot: no document");
    });
}

#[test]
fn a_revoked_certificate_ends_at_once() {
    if !inside("a_revoked_certificate_ends_at_once") {
        return;
    }
    let (house, head) = house("open");
    runtime().block_on(async {
        let (stolen, mut session) = Agent::up(&head, "w1", W1).await.expect("let in");
        house.must(&["node", "revoke", "w1"], "");
        assert!(session.is_ended().await, "the connection ends with the certificate");
        let refused = stolen.settle().await.map(drop).expect_err("a revoked certificate");
        assert!(refused.contains("revoked"), "{refused}");
        let (mut again, _) = Agent::up(&head, "w1", W1).await.expect("an open head lets a new boot in");

        // A certificate is renewed for the key that it is for.
        let mut session = again.settle().await.expect("connected");
        session.say(&FromAgent::Renew { csr: again.request() }).await.expect("sent");
        assert!(matches!(session.hear().await, Some(ToAgent::Renewed(_))));
        again.key = rcgen::KeyPair::generate().expect("a key");
        session.say(&FromAgent::Renew { csr: again.request() }).await.expect("sent");
        assert!(session.is_ended().await, "another key has to enrol");

        // Gone from the repository, it is gone; back in it, it is as one that was never here.
        let (gone, mut session) = Agent::up(&head, "w2", W2).await.expect("let in");
        edit(&house, |text| text.replace("[nodes.w2]", "[nodes.w9]"));
        assert!(connected(&house, "w2"), "a file that someone edits changes nothing");
        edit_and_apply(&house, |text| text);
        assert!(session.is_ended().await, "removed from the repository");
        assert!(gone.settle().await.is_err());
        wait("it is let go", || {
            house.head_says("node=\"w2\" event=\"its certificate ends") && rests(&house, "admissions")
        });
        edit_and_apply(&house, |text| text.replace("[nodes.w9]", "[nodes.w2]"));
        wait("w2 is back in the repository", || {
            !house.status().is_none_or(|status| bramble_tests::node(&status, "w2").is_null())
        });
        assert!(gone.settle().await.is_err(), "its old certificate does not come back with its name");

        // An error in the file changes nothing.
        let (_, mut session) = Agent::up(&head, "w3", "52:54:00:00:00:13").await.expect("let in");
        edit(&house, |text| text + "\n[nodes.w1]\n");
        let (code, _, error) = house.bramble(&["apply", "--yes"], "");
        assert!(code == 3 && error.contains("nodes.w1"), "{code}: {error}");
        session.say(&health(1)).await.expect("connected");
        assert!(connected(&house, "w3"));
    });
}

/// Whether a loop of the head has no step under way.
fn rests(house: &House, name: &str) -> bool {
    let status = house.status().expect("the head answers");
    let section = status["loops"].as_array().expect("loops").iter().find(|section| section["name"] == name);
    section.expect("the loop is there")["busy"].as_array().expect("a list").is_empty()
}

#[test]
fn a_node_waits_for_an_operator_who_knows_its_key() {
    if !inside("a_node_waits_for_an_operator_who_knows_its_key") {
        return;
    }
    for mode in ["expected", "approve"] {
        let (house, head) = house(mode);
        runtime().block_on(async {
            let mut agent = Agent::new(&head, "w1", head.boot(W1).await.expect("a boot"));
            let refused = agent.enrol().await.expect_err("nobody said so");
            let status = house.status().expect("the head answers");
            let key = bramble_tests::node(&status, "w1")["pending"].as_str().expect("a key").to_owned();
            assert!(refused.contains(&key), "the console shows the same key: {refused}");
            assert_eq!(house.why("w1")["name"], "admission-pending");
            let (code, _, err) = house.bramble(&["node", "approve", "w1", "nonsense"], "");
            assert!(code == 2 && err.contains("six digits, or a key's 32"), "{err}");
            house.must(&["node", "approve", "w1", &"0".repeat(32)], "");
            agent.enrol().await.expect_err("another key was approved");
            house.must(&["node", "approve", "w1", &key], "");
            agent.enrol().await.expect("approved");
            drop(agent.settle().await.expect("connected"));
            // Another key in its name, from the head's own address and not from its card's place, while it is away.
            let again = Agent::up(&head, "w1", W1).await.map(drop).expect_err("anyone could do that");
            let reason = if mode == "expected" { "its card's own place" } else { "a person has to approve its key" };
            assert!(again.contains(reason), "{again}");
            let audit = house.must(&["audit", "--json"], "");
            assert!(
                audit.contains(&format!("POST /v1/nodes/w1/approve {{\\\"fingerprint\\\":\\\"{key}\\\"}}")),
                "{audit}"
            );
        });
        drop(house);
    }
}

/// A request over a socket, and its whole answer.
fn raw(port: u16, request: &[u8]) -> String {
    let mut stream = TcpStream::connect((HEAD, port)).expect("the head listens");
    stream.set_read_timeout(Some(Duration::from_secs(40))).expect("set");
    // A head that has heard enough closes, and what it said lies there.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn no_path_leads_out_of_what_is_served() {
    if !inside("no_path_leads_out_of_what_is_served") {
        return;
    }
    let machines = format!(
        "[boot.tool]\nkernel = \"tool/kernel\"\nfiles = \"tool/files\"\ntemplates = \"tool/templates\"\nhand_off = \"every-boot\"\n\n{NODES}boot = \"tool\"\n"
    );
    let files: [(&str, &[u8]); 4] = [
        ("tool/kernel", b"kernel"),
        ("tool/files/plain", b"plain"),
        ("tool/templates/user-data", b"hello"),
        ("secret", b"TOP SECRET"),
    ];
    let house = House::start("proxy", Router::None, &machines, &files);
    std::os::unix::fs::symlink(house.path().join("secret"), house.path().join("tool/files/link")).expect("a link");
    let get = |path: &str| raw(7080, format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").as_bytes());
    assert!(get("/boot/profile/tool/files/plain").ends_with("plain"), "what is meant is served");
    // What goes to the machine itself is asked for by it.
    let card = "52:54:00:00:00:13".parse().expect("a MAC");
    let mut machine = Stack::new(house.wire.plug(card, Trouble::default(), 5), 5);
    machine.configure(Ipv4Addr::new(10, 77, 0, 99), 24, None);
    let machine = std::cell::RefCell::new(machine);
    let by_machine = |path: &str| match http(&mut machine.borrow_mut(), &format!("http://{HEAD}:7080{path}")) {
        Fetched::File(bytes) => format!("HTTP/1.1 200 OK\r\n\r\n{}", String::from_utf8_lossy(&bytes)),
        Fetched::Missing => "HTTP/1.1 404 Not Found\r\n\r\n".to_owned(),
        Fetched::Failed(reason) if reason.contains("status") => "HTTP/1.1 400 Bad Request\r\n\r\n".to_owned(),
        Fetched::Failed(reason) => panic!("{path}: {reason}"),
    };
    let mut script = String::new();
    wait("a script", || {
        machine.borrow_mut().broadcast_dhcp(&dhcp_discover(card, Ipv4Addr::UNSPECIFIED));
        script = by_machine("/boot/script/52:54:00:00:00:13");
        script.contains("boot=")
    });
    let boot = script.split("boot=").nth(1).expect("a boot");
    let boot = boot.split(|c: char| c.is_whitespace() || c == '&').next().expect("an id").to_owned();
    assert!(by_machine(&format!("/boot/seed/{boot}/user-data")).ends_with("hello"));
    let routes = [
        "/boot/files/".to_owned(),
        "/boot/sets/".to_owned(),
        format!("/boot/sets/{}/", "0".repeat(64)),
        "/boot/loader/".to_owned(),
        "/boot/profile/tool/".to_owned(),
        "/boot/profile/tool/files/".to_owned(),
        format!("/boot/seed/{boot}/"),
        "/grub/".to_owned(),
        "/boot/script/".to_owned(),
        "/v1/boot/".to_owned(),
        "/boot/done/".to_owned(),
    ];
    let up = |times: usize, step: &str| step.repeat(times);
    let mut tried = 0;
    for route in &routes {
        for target in ["secret", "bramble.toml", ".bramble/keys/ca.key", "etc/passwd"] {
            for step in ["../", "..%2f", "%2e%2e/", "%2e%2e%2f", "..%5c", ".%00./", "....//", "/../", "..;/"] {
                for times in [1, 2, 6] {
                    let path = format!("{route}{}{target}", up(times, step));
                    let answer = if route.starts_with("/boot/seed/") { by_machine(&path) } else { get(&path) };
                    let status: u16 = answer.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
                    let leaks =
                        ["TOP SECRET", "PRIVATE KEY", "root:x:", "[cluster]"].iter().any(|word| answer.contains(word));
                    assert!((400..500).contains(&status) && !leaks, "{route}{}{target}: {answer}", up(times, step));
                    tried += 1;
                }
            }
        }
        for odd in [
            "/etc/passwd",
            "%00",
            "link",
            "//etc/passwd",
            "file:///etc/passwd",
            &"a".repeat(5000),
            "%ff%fe",
            "?x=../../secret",
        ] {
            let answer = get(&format!("{route}{odd}"));
            assert!(!answer.contains("root:x:") && !answer.contains("TOP SECRET"), "{route}{odd}: {answer}");
        }
    }
    assert_eq!(tried, routes.len() * 4 * 9 * 3);
    // TFTP has no routes: every name is looked up, and none is a path.
    for name in ["../secret", "../../../../etc/passwd", "/etc/passwd", "profile/../../secret", "..\\secret"] {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
        socket.send_to(&[b"\0\x01", name.as_bytes(), b"\0octet\0"].concat(), (HEAD, 69)).expect("sent");
        let mut answer = [0; 600];
        let (length, _) = socket.recv_from(&mut answer).expect("an answer");
        assert_eq!(answer[..2], [0, 5], "{name}: {:?}", &answer[..length]);
    }
}

#[test]
fn what_is_too_long_or_too_slow_is_cut_off() {
    if !inside("what_is_too_long_or_too_slow_is_cut_off") {
        return;
    }
    let (house, head) = house("open");
    let before = house.head_resident();
    // Bodies and headers.
    let body = vec![b'x'; 8 << 20];
    let request = |length: usize| {
        format!(
            "POST /v1/boots/b/report HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        )
    };
    let answer = raw(7080, &[request(body.len()).as_bytes(), &body].concat());
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer}");
    let header = format!("GET / HTTP/1.1\r\nHost: h\r\nX-Long: {}\r\n\r\n", "x".repeat(4 << 20));
    let answer = raw(7080, header.as_bytes());
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    let many = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "A: b\r\n".repeat(2000));
    let answer = raw(7080, many.as_bytes());
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    runtime().block_on(async {
        let (status, _) = head.https(&format!("{}{}", request(body.len()), String::from_utf8_lossy(&body))).await;
        assert!([0, 404, 413].contains(&status), "{status}");
        // An agent's line without end.
        let (_, mut session) = Agent::up(&head, "w1", W1).await.expect("let in");
        let long = "x".repeat(6 << 20);
        let sent = session.say_json(&long).await;
        assert!(sent.is_err() || session.is_ended().await, "a line of 6 MB ends the connection");
    });
    assert!(house.head_resident() < before + (32 << 20), "{} and {before}", house.head_resident());

    // Slow ones: a byte a second, on every port, 600 from one address.
    let slow: Vec<(u16, TcpStream)> = [7080, 7443, 7444]
        .into_iter()
        .flat_map(|port| (0..200).filter_map(move |_| Some((port, TcpStream::connect((HEAD, port)).ok()?))))
        .collect();
    let start = Instant::now();
    let mut cut = std::collections::BTreeMap::<u16, usize>::new();
    let mut left: Vec<_> = slow;
    let lines = b"GET /v1/openapi.json HTTP/1.1\r\nHost: h\r\nX-Slow: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    while !left.is_empty() {
        assert!(start.elapsed() < Duration::from_secs(60), "{} slow connections are still held", left.len());
        let at = usize::try_from(start.elapsed().as_secs()).expect("small").min(lines.len() - 1);
        left.retain_mut(|(port, stream)| {
            stream.set_read_timeout(Some(Duration::from_millis(1))).expect("set");
            let byte = if *port == 7080 { lines[at] } else { 22 };
            let mut answer = [0; 64];
            let gone = stream.write_all(&[byte]).is_err() || matches!(stream.read(&mut answer), Ok(0));
            if gone {
                *cut.entry(*port).or_default() += 1;
            }
            !gone
        });
        // Meanwhile the head serves.
        let asked = Instant::now();
        head.discover(W2).expect("sent");
        wait("a boot", || {
            raw(7080, b"GET /boot/script/52:54:00:00:00:12 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
                .contains("bramble.boot=")
        });
        assert!(asked.elapsed() < Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(500));
    }
    assert!(cut.values().all(|count| *count > 0), "{cut:?}");
}

#[test]
fn ten_thousand_half_open_connections_keep_nobody_out() {
    if !inside("ten_thousand_half_open_connections_keep_nobody_out") {
        return;
    }
    let (house, head) = house("open");
    let before = house.head_resident();
    let card = bridge_mac();
    // Half open in TCP's own sense: the first packet of a handshake, and never the third.
    for port in [7080_u16, 7443, 7444] {
        for number in 0..10_000_u32 {
            house.wire.send(&syn(card, number, port));
        }
    }
    // Open, and silent ever after: from ten addresses, as many as this process may have.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).expect("a limit");
    let most = usize::try_from(limit.maximum.unwrap_or(20_000)).unwrap_or(20_000).saturating_sub(500).min(10_000);
    runtime().block_on(async {
        let (_, mut session) = Agent::up(&head, "w1", W1).await.expect("let in");
        let mut silent = Vec::new();
        for number in 0..most {
            let from = Ipv4Addr::new(10, 77, 0, 200 + u8::try_from(number % 10).expect("small"));
            if number < 10 {
                bramble_tests::machines::house::ip(&["address", "add", &format!("{from}/16"), "dev", "eth0"]);
            }
            let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
            socket.bind((from, 0).into()).expect("an address");
            let port = [7080, 7443, 7444][number % 3];
            let open = tokio::time::timeout(Duration::from_millis(200), socket.connect((head.address, port).into()));
            if let Ok(Ok(stream)) = open.await {
                silent.push(stream);
            }
        }
        assert!(silent.len() > most / 2, "{} of {most}", silent.len());
        let start = Instant::now();
        session.say(&health(1)).await.expect("a node that is there stays");
        let (_, other) = Agent::up(&head, "w2", W2).await.expect("a node that comes is let in");
        let (status, _) = head.https("GET /v1/openapi.json HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
        assert_eq!(status, 200);
        assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
        assert!(connected(&house, "w1") && connected(&house, "w2"));
        let resident = house.head_resident();
        assert!(resident < before + (96 << 20), "{resident} and {before}");
        drop((silent, other));
    });
}

/// The first packet of a TCP handshake from an address that answers nothing, as a frame for the wire
/// (RFC 9293, section 3.1).
fn syn(card: [u8; 6], number: u32, port: u16) -> Vec<u8> {
    let from = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 77, 0, 2)) + number % 150);
    let to: Ipv4Addr = HEAD.parse().expect("an address");
    let mut tcp = Vec::new();
    tcp.extend((1024 + u16::try_from(number % 60_000).expect("small")).to_be_bytes());
    tcp.extend(port.to_be_bytes());
    tcp.extend(number.to_be_bytes());
    tcp.extend([0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    let sum = |bytes: &[u8]| bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>();
    let fold = |mut sum: u32| {
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !u16::try_from(sum).expect("folded")
    };
    let pseudo = sum(&from.octets()) + sum(&to.octets()) + 6 + 20;
    let checksum = fold(pseudo + sum(&tcp));
    tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
    let mut ip = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0];
    ip.extend(from.octets());
    ip.extend(to.octets());
    let checksum = fold(sum(&ip));
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    let mut frame = card.to_vec();
    frame.extend([2, 0, 0, 0, 0, 9, 0x08, 0x00]);
    frame.extend(ip);
    frame.extend(tcp);
    frame
}

fn bridge_mac() -> [u8; 6] {
    let output = Command::new("ip").args(["-json", "link", "show", "eth0"]).output().expect("ip starts");
    let links: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let mac: bramble_model::names::Mac = links[0]["address"].as_str().expect("an address").parse().expect("a MAC");
    mac.0
}

#[test]
fn a_board_without_a_switch_is_expected_and_a_person_is_told() {
    if !inside("a_board_without_a_switch_is_expected_and_a_person_is_told") {
        return;
    }
    let (house, head) = house("expected");
    let (code, out, err) = house.bramble(&["power", "on", "w1"], "");
    assert_eq!((code, out.as_str()), (0, "w1: press its power button; its boot is expected for 30 min\n"), "{err}");
    let (code, _, err) = house.bramble(&["power", "off", "w1"], "");
    assert!(code == 1 && err.contains("switched by hand"), "{err}");
    let events = house.events("w1");
    assert!(events.iter().any(|event| event["what"]["text"] == "expected: press its button"), "{events:?}");
    assert!(!events.iter().any(|event| event["what"]["kind"] == "power-on"), "nobody has switched it on: {events:?}");
    assert_eq!(bramble_tests::node(&house.status().expect("a status"), "w1")["phase"], "off");
    // Whoever asks in its name from elsewhere is not it, though it is expected: here, from the head's own address. The
    // machine itself is let in (`tests/identity.rs`).
    let refused = runtime().block_on(Agent::up(&head, "w1", W1)).map(drop).expect_err("it is elsewhere");
    assert!(refused.contains("its boot was not asked for from its card's own place on the wire"), "{refused}");
}
