//! Rules that a real nft gives to a real kernel: a node, a member of its Swarm and a stranger on one wire, each in a network
//! namespace of its own.

use std::fs::File;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;

use bramble_model::firewall::{Opening, Ports, Source, Traffic};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketType, ipproto};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::*;

/// Long enough for a packet on this computer, and what a probe that is dropped costs.
const PROBE: Duration = Duration::from_millis(300);

const NODE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 11);
const MEMBER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 12);
const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 50);
/// As a container has it, behind the node.
const CONTAINER: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 2);

/// Says that a process is the one with namespaces of its own.
const INSIDE: &str = "BRAMBLE_TEST_HAS_NETWORKS";

/// Runs the test of this name as root with networks and mounts of its own, which go with it; `false` in the process that
/// only waited for it.
fn with_networks(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let users: &[&str] = if rustix::process::geteuid().is_root() { &[] } else { &["--map-root-user", "--map-auto"] };
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "--net"]).args(users).arg(std::env::current_exe().expect("this program"));
    let ended = command.args([test, "--exact", "--include-ignored"]).env(INSIDE, "").output().expect("unshare starts");
    let [said, failed] = [&ended.stdout, &ended.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(ended.status.success() && said.contains("1 passed"), "{test} failed with networks:\n{said}{failed}");
    false
}

fn run(line: &str) {
    let mut words = line.split(' ');
    let command = Command::new(words.next().expect("a program")).args(words).limit(LIMIT);
    command.run().unwrap_or_else(|error| panic!("{line}: {}", bramble_system::sentence(&error)));
}

/// The wire, with everyone on it.
fn wire() {
    // Names of namespaces are files there.
    run("mount -t tmpfs none /run");
    run("ip link add wire type bridge forward_delay 0");
    run("ip link set wire up");
    for (name, address) in [("node", NODE), ("member", MEMBER), ("stranger", STRANGER)] {
        run(&format!("ip netns add {name}"));
        run(&format!("ip link add {name} type veth peer name eth0 netns {name}"));
        run(&format!("ip link set {name} master wire up"));
        run(&format!("ip -n {name} link set lo up"));
        run(&format!("ip -n {name} link set eth0 up"));
        run(&format!("ip -n {name} addr add {address}/24 dev eth0"));
    }
}

/// Does something in the namespace of this name.
fn inside<T: Send>(name: &str, does: impl FnOnce() -> T + Send) -> T {
    let namespace = File::open(Path::new("/run/netns").join(name)).expect("it was made");
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may");
            does()
        });
        thread.join().expect("no panic")
    })
}

fn nft() -> Nft {
    Nft(["ip", "netns", "exec", "node", "nft"].map(OsString::from).into())
}

/// Whether a connection from there to this port of the node stands.
fn connects(from: &str, port: u16) -> bool {
    inside(from, || match TcpStream::connect_timeout(&SocketAddr::from((NODE, port)), PROBE) {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::TimedOut => false,
        Err(error) => panic!("{port}: {error}"),
    })
}

/// Whether a datagram from there comes to this socket of the node.
fn arrives(from: &str, at: &UdpSocket) -> bool {
    arrives_at(from, NODE, at)
}

/// Whether a datagram from there comes to this socket at that address.
fn arrives_at(from: &str, address: Ipv4Addr, at: &UdpSocket) -> bool {
    let port = at.local_addr().expect("bound").port();
    inside(from, || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port");
        socket.send_to(from.as_bytes(), (address, port)).expect("sent");
    });
    at.recv(&mut [0; 16]).is_ok()
}

/// A socket that waits no longer than a probe may take.
fn hears(port: u16) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("a port");
    socket.set_read_timeout(Some(PROBE)).expect("set");
    socket
}

/// A container behind the node, as Docker has it.
fn container() {
    for line in [
        "ip netns add container",
        "ip -n node link add docker_gwbridge type veth peer name eth0 netns container",
        "ip -n node addr add 172.18.0.1/16 dev docker_gwbridge",
        "ip -n node link set docker_gwbridge up",
        "ip -n container link set lo up",
        "ip -n container addr add 172.18.0.2/16 dev eth0",
        "ip -n container link set eth0 up",
        "ip -n container route add default via 172.18.0.1",
        "ip netns exec node sysctl -q -w net.ipv4.ip_forward=1",
    ] {
        run(line);
    }
}

/// Whether an encrypted packet from there would come to the node.
fn encrypted_arrives(from: &str) -> bool {
    let esp = || Protocol::from_raw(50.try_into().expect("a number"));
    let raw = || rustix::net::socket(AddressFamily::INET, SocketType::RAW, Some(esp())).expect("root may");
    let hears = inside("node", || {
        let hears = raw();
        rustix::net::sockopt::set_socket_timeout(&hears, rustix::net::sockopt::Timeout::Recv, Some(PROBE))
            .expect("set");
        hears
    });
    inside(from, || {
        rustix::net::sendto(raw(), b"12345678", SendFlags::empty(), &SocketAddr::from((NODE, 0))).expect("sent");
    });
    rustix::net::recv(&hears, &mut [0_u8; 64][..], RecvFlags::empty()).is_ok()
}

/// Whether an echo request from there is answered (RFC 792).
fn is_there(from: &str, at: Ipv4Addr) -> bool {
    inside(from, || {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP)).expect("root may");
        let limit = Some(10 * PROBE);
        rustix::net::sockopt::set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Recv, limit).expect("set");
        // Echo request, code 0, and the sum of these words.
        let asks = [8, 0, 0xf7, 0xff, 0, 0, 0, 0];
        rustix::net::sendto(&socket, &asks, SendFlags::empty(), &SocketAddr::from((at, 0))).expect("sent");
        let mut packet = [0_u8; 64];
        loop {
            match rustix::net::recv(&socket, &mut packet[..], RecvFlags::empty()) {
                // Behind the header of IP, an echo reply.
                Ok((length, _)) if length >= 28 && packet[20] == 0 => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    })
}

fn opening(name: &str, traffic: &[Traffic], from: &[Source]) -> Opening {
    Opening { name: name.parse().expect("a name"), traffic: traffic.into(), from: from.into() }
}

/// As `bramble_plan::firewall` makes them: its golden files have the same.
fn rules(is_manager: bool) -> Rules {
    let tcp = |port| Traffic::Tcp(Ports::one(port));
    let udp = |port| Traffic::Udp(Ports::one(port));
    let stranger = Source::Network { address: IpAddr::V4(STRANGER), prefix: 32 };
    let mut openings = vec![
        opening("ssh", &[tcp(22)], &[stranger]),
        opening("swarm", &[tcp(7946), udp(7946), udp(4789), Traffic::Esp], &[Source::Swarm]),
        opening("web", &[tcp(80)], &[Source::Anywhere]),
        opening("metrics", &[tcp(9100)], &[Source::Nodes]),
    ];
    if is_manager {
        openings.push(opening("swarm-managers", &[tcp(2377)], &[Source::Swarm]));
    }
    let nodes = [NODE, MEMBER].into();
    Rules { swarm: [MEMBER].into(), nodes, openings }
}

/// Who answers on the node.
struct Servers {
    _tcp: Vec<TcpListener>,
    gossip: UdpSocket,
    overlay: UdpSocket,
}

fn servers() -> Servers {
    inside("node", || {
        let listens = |port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("a port");
        let tcp = [22, 80, 2377, 5000, 7946, 9100].map(listens);
        Servers { _tcp: tcp.into(), gossip: hears(7946), overlay: hears(4789) }
    })
}

#[test]
fn members_and_strangers_reach_what_the_declared_parts_need_and_no_more() {
    if !with_networks("firewall::tests::members_and_strangers_reach_what_the_declared_parts_need_and_no_more") {
        return;
    }
    wire();
    let servers = servers();
    for is_manager in [false, true] {
        nft().apply(Some(&Firewall::On(rules(is_manager)))).expect("loaded");
        for (port, member, stranger) in [
            (22, false, true),
            (80, true, true),
            (2377, is_manager, false),
            (5000, false, false),
            (7946, true, false),
            (9100, true, false),
        ] {
            assert_eq!(connects("member", port), member, "a member at {port} of a manager: {is_manager}");
            assert_eq!(connects("stranger", port), stranger, "a stranger at {port} of a manager: {is_manager}");
        }
        for socket in [&servers.gossip, &servers.overlay] {
            assert!(arrives("member", socket) && !arrives("stranger", socket));
        }
        assert!(encrypted_arrives("member") && !encrypted_arrives("stranger"));
    }
    // What the node asks is answered, also by whoever may ask it nothing.
    let answers = inside("stranger", || TcpListener::bind((Ipv4Addr::UNSPECIFIED, 7080)).expect("a port"));
    inside("node", || TcpStream::connect_timeout(&SocketAddr::from((STRANGER, 7080)), PROBE).expect("it goes out"));
    drop(answers);
    assert!(is_there("stranger", NODE));
}

#[test]
fn a_node_is_closed_until_it_is_told_and_keeps_what_it_was_told() {
    if !with_networks("firewall::tests::a_node_is_closed_until_it_is_told_and_keeps_what_it_was_told") {
        return;
    }
    wire();
    let _servers = servers();
    assert!(connects("stranger", 22), "as the kernel begins");
    nft().begin();
    assert!(!connects("stranger", 22) && !connects("member", 7946), "before it is let in");
    assert!(is_there("node", STRANGER), "its own questions are answered");
    assert!(is_there("stranger", NODE));
    nft().apply(Some(&Firewall::On(rules(false)))).expect("loaded");
    assert!(connects("member", 7946));
    nft().begin();
    assert!(connects("member", 7946), "its agent was started again, and the head is away");
    nft().apply(Some(&Firewall::Unknown)).expect("nothing to do");
    assert!(!connects("stranger", 5000), "a later head says what it does not know");
    nft().apply(Some(&Firewall::Off)).expect("taken away");
    assert!(connects("stranger", 5000));
    nft().apply(Some(&Firewall::Off)).expect("there is none");
    nft().begin();
    nft().apply(None).expect("taken away");
    assert!(connects("stranger", 5000), "a head of before says nothing: as ever");
}

/// A table of ours never costs one of Docker's, and what that forwards is not ours to let in.
#[test]
fn what_docker_has_in_its_own_tables_stays_and_goes_on() {
    if !with_networks("firewall::tests::what_docker_has_in_its_own_tables_stays_and_goes_on") {
        return;
    }
    wire();
    // With ports that the node publishes; one of them is the Swarm's in there, and only in there.
    container();
    let docker = "table ip nat {\n chain PREROUTING {\n  type nat hook prerouting priority dstnat; policy accept;\n  \
                  fib daddr type local tcp dport 8080 dnat to 172.18.0.2:80\n  \
                  fib daddr type local tcp dport 8081 dnat to 172.18.0.2:7946\n }\n}\n";
    nft().load(docker.into()).expect("loaded");
    let _web = inside("container", || [80, 7946].map(|port| TcpListener::bind((CONTAINER, port)).expect("a port")));
    assert!(connects("stranger", 8080), "as Docker has it");
    nft().begin();
    for _ in 0..2 {
        nft().apply(Some(&Firewall::On(rules(false)))).expect("loaded");
        assert!(connects("stranger", 8080), "it is forwarded, and the rules open no such port");
        assert!(connects("stranger", 8081), "also where the container calls it as the Swarm calls one of its own");
    }
    nft().apply(Some(&Firewall::Off)).expect("taken away");
    assert!(connects("stranger", 8080));
}

/// What it says has its node's address, which other nodes let in.
#[test]
fn a_container_says_nothing_to_the_swarm_in_its_nodes_name() {
    if !with_networks("firewall::tests::a_container_says_nothing_to_the_swarm_in_its_nodes_name") {
        return;
    }
    wire();
    container();
    let docker = "table ip nat {\n chain POSTROUTING {\n  type nat hook postrouting priority srcnat; policy accept;\n  \
                  ip saddr 172.18.0.0/16 oifname \"eth0\" masquerade\n }\n}\n";
    nft().load(docker.into()).expect("loaded");
    let [overlay, gossip, other] = inside("member", || [4789, 7946, 4790].map(hears));
    let manager = inside("member", || TcpListener::bind((MEMBER, 2377)).expect("a port"));
    let joins = || inside("container", || TcpStream::connect_timeout(&SocketAddr::from((MEMBER, 2377)), PROBE).is_ok());
    for socket in [&overlay, &gossip, &other] {
        assert!(arrives_at("container", MEMBER, socket), "as Docker has it");
    }
    assert!(joins());
    nft().apply(Some(&Firewall::On(rules(false)))).expect("loaded");
    assert!(!arrives_at("container", MEMBER, &overlay) && !arrives_at("container", MEMBER, &gossip) && !joins());
    assert!(arrives_at("container", MEMBER, &other), "all else is Docker's affair");
    assert!(arrives_at("node", MEMBER, &overlay) && arrives_at("node", MEMBER, &gossip), "the node's own");
    drop(manager);
}

/// To the kernel its datagrams answer the node's, for as long as it sends some.
#[test]
fn who_is_no_member_any_more_is_not_let_in_by_what_it_said_before() {
    if !with_networks("firewall::tests::who_is_no_member_any_more_is_not_let_in_by_what_it_said_before") {
        return;
    }
    wire();
    let servers = servers();
    let all = rules(false);
    nft().apply(Some(&Firewall::On(all.clone()))).expect("loaded");
    let talks = inside("member", || hears(0));
    let sends = |to: &UdpSocket| {
        talks.send_to(b"x", (NODE, to.local_addr().expect("bound").port())).expect("sent");
        to.recv_from(&mut [0; 16]).map(|(_, from)| from)
    };
    for socket in [&servers.gossip, &servers.overlay] {
        let from = sends(socket).expect("a member");
        socket.send_to(b"y", from).expect("sent");
        talks.recv(&mut [0; 16]).expect("answered: the flow is established");
        assert!(sends(socket).is_ok());
    }
    nft().apply(Some(&Firewall::On(Rules { swarm: [NODE].into(), ..all }))).expect("loaded");
    for socket in [&servers.gossip, &servers.overlay] {
        assert!(sends(socket).is_err(), "it has left");
    }
}

#[test]
fn an_image_without_nft_says_so_and_goes_on() {
    let none = Nft(vec!["/nowhere/nft".into()]);
    none.begin();
    none.apply(None).expect("who cannot filter filters nothing");
    none.apply(Some(&Firewall::Off)).expect("nor has it to");
    let error = none.apply(Some(&Firewall::On(Rules::default()))).expect_err("it is not filtered");
    assert!(bramble_system::sentence(&error).contains("not installed"), "{error}");
}
