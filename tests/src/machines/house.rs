//! A house: a wire, a home router on it, and the real head, all in namespaces of the test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use bramble_model::boot_set::{Architecture, Artifact, FORM, Layer, Manifest};
use bramble_model::names::Digest;
use bramble_model::repository::Cluster;
use bramble_netboot::recipe;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::wire::Wire;
use crate::program;

/// Says that a process is in the namespaces that [`inside`] made.
const MARK: &str = "BRAMBLE_TEST_INSIDE";

/// Runs the test of this name in a user, network, mount and process namespace of its own. `false` in
/// the process that only waited for it.
pub fn inside(test: &str) -> bool {
    if std::env::var_os(MARK).is_some() {
        hide_other_heads();
        return true;
    }
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"])
        .arg(std::env::current_exe().expect("this program"))
        .args([test, "--exact", "--nocapture", "--include-ignored"])
        .env(MARK, "1")
        .status();
    assert!(status.expect("unshare starts").success(), "{test} failed in its namespaces");
    false
}

/// Where the heads of a computer have the sockets of their clusters.
const SOCKETS: &str = "/run/bramble";

/// The mount namespace is the test's own: so are the heads that are found in it. Where that folder is not there and cannot be
/// made, no head makes a socket in it either.
fn hide_other_heads() {
    if std::fs::create_dir_all(SOCKETS).is_ok() {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "mode=0755", "tmpfs", SOCKETS]).status();
        assert!(mounted.expect("mount starts").success(), "no folder of sockets of the test's own");
    }
}

/// Who hands out addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Router {
    /// The head: full DHCP.
    None,
    Dnsmasq,
    /// One whose offer names a boot file of the head's, for everyone.
    DnsmasqWithBootFile(&'static str),
    Kea,
    /// Those that say what to boot, as `bramble router-recipe` has it.
    DnsmasqWithRecipe,
    KeaWithRecipe,
    Udhcpd,
}

/// The house.
pub struct House {
    pub wire: Wire,
    folder: tempfile::TempDir,
    head: Child,
    router: Option<Child>,
}

/// The wire's name in the head's namespace.
const BRIDGE: &str = "eth0";
pub const HEAD: &str = "10.77.0.1";
/// The address that the repository lets ask as Pixiecore.
pub const PIXIECORE: &str = "10.77.0.98";
/// A relay that simulated agents ask by.
pub const RELAY: &str = "10.77.0.250";
const ROUTER: &str = "10.77.0.254";

impl House {
    /// Starts one. `machines` is the part of `bramble.toml` that declares nodes and what they boot;
    /// `dhcp` its word for `network.dhcp`.
    pub fn start(dhcp: &str, router: Router, machines: &str, files: &[(&str, &[u8])]) -> Self {
        Self::start_on((24, "10.77.0.100-10.77.0.240", ""), "", dhcp, router, machines, files)
    }

    /// Starts one in proxy mode without a router; `cluster` is what its `[cluster]` says beside the name.
    pub fn start_as(cluster: &str, machines: &str) -> Self {
        Self::start_with_files(cluster, machines, &[])
    }

    /// As [`House::start_as`], with full DHCP.
    pub fn start_full(cluster: &str, machines: &str) -> Self {
        Self::start_on((16, "10.77.1.0-10.77.250.0", ""), cluster, "full", Router::None, machines, &[])
    }

    /// As [`House::start_as`], with files in its repository.
    pub fn start_with_files(cluster: &str, machines: &str, files: &[(&str, &[u8])]) -> Self {
        Self::start_on((16, "10.77.1.0-10.77.250.0", ""), cluster, "proxy", Router::None, machines, files)
    }

    /// As [`House::start`], with room for thousands of machines.
    pub fn start_wide(dhcp: &str, router: Router, machines: &str, files: &[(&str, &[u8])]) -> Self {
        Self::start_on((16, "10.77.1.0-10.77.250.0", ""), "", dhcp, router, machines, files)
    }

    /// As [`House::start`] in full DHCP, with two more subnets: 10.79.0.0/24 on VLAN 7 of another cable of
    /// the head's, and 10.78.0.0/24 behind a DHCP relay. Gives both wires.
    pub fn start_with_more_wires(machines: &str) -> (Self, Wire, Wire) {
        let bridge = |name: &str, tap: &str| {
            ip(&["link", "add", name, "type", "bridge", "stp_state", "0", "forward_delay", "0"]);
            ip(&["link", "set", name, "up"]);
            let wire = Wire::make(tap);
            ip(&["link", "set", tap, "master", name, "up"]);
            wire
        };
        // The head's end is tagged; the other is a switch, whose machines' ports are not.
        let second = bridge("switch", "machines1");
        ip(&["link", "add", "cable", "type", "veth", "peer", "name", "trunk"]);
        let vlan = |end: &str, name: &str| {
            ip(&["link", "set", end, "up"]);
            let words = ["link", "add", "link", end, "name", name, "type", "vlan", "id", "7"];
            Command::new("ip").args(words).stderr(Stdio::null()).status().expect("ip starts").success()
        };
        if !(vlan("cable", "eth1.7") && vlan("trunk", "trunk.7")) {
            eprintln!("      this kernel has no VLANs: the second wire is not tagged");
            ip(&["link", "set", "cable", "down"]);
            ip(&["link", "set", "cable", "name", "eth1.7"]);
            ip(&["link", "set", "trunk", "down"]);
            ip(&["link", "set", "trunk", "name", "trunk.7"]);
        }
        ip(&["link", "set", "trunk.7", "master", "switch", "up"]);
        ip(&["address", "add", "10.79.0.1/24", "dev", "eth1.7"]);
        ip(&["link", "set", "eth1.7", "up"]);
        let attic = bridge("attic", "machines2");
        let subnets = "[network.subnets.second]\nsubnet = \"10.79.0.0/24\"\npool = \"10.79.0.100-10.79.0.199\"\n\n\
                       [network.subnets.attic]\nsubnet = \"10.78.0.0/24\"\npool = \"10.78.0.100-10.78.0.199\"\nrouter = \"10.78.0.1\"\n";
        let mut house =
            Self::start_on((24, "10.77.0.100-10.77.0.240", subnets), "", "full", Router::None, machines, &[]);
        house.router = Some(start_relay(house.path()));
        (house, second, attic)
    }

    fn start_on(
        (prefix, pool, subnets): (u8, &str, &str),
        cluster: &str,
        dhcp: &str,
        router: Router,
        machines: &str,
        files: &[(&str, &[u8])],
    ) -> Self {
        ip(&["link", "set", "lo", "up"]);
        ip(&["link", "add", BRIDGE, "type", "bridge", "stp_state", "0", "forward_delay", "0"]);
        ip(&["address", "add", &format!("{HEAD}/{prefix}"), "dev", BRIDGE]);
        ip(&["link", "set", BRIDGE, "up"]);
        let wire = Wire::make("machines");
        ip(&["link", "set", "machines", "master", BRIDGE, "up"]);
        let folder = tempfile::Builder::new().prefix("bramble-house-").tempdir().expect("a temporary folder");
        let full = format!("subnet = \"10.77.0.0/{prefix}\"\npool = \"{pool}\"\nrouter = \"{ROUTER}\"\n");
        let interfaces = if subnets.is_empty() { "\"eth0\"" } else { "[\"eth0\", \"eth1.7\"]" };
        let text = format!(
            "[cluster]\nname = \"house\"\n{cluster}\n\n[network]\ninterface = {interfaces}\ndhcp = \"{dhcp}\"\npixiecore = \"{PIXIECORE}\"\nrelays = [\"{RELAY}\"]\n{}\n{subnets}\n\
             [roles.worker]\nengine = \"worker\"\n\n[roles.other]\nengine = \"none\"\n\n{machines}",
            if dhcp == "full" { full.as_str() } else { "" }
        );
        for (name, bytes) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, bytes).expect("written");
        }
        fs::write(folder.path().join("bramble.toml"), text).expect("written");
        let router = start_router(router, folder.path());
        let house_state = folder.path().join(".bramble");
        stock(folder.path(), &house_state.join("image"));
        let head = start_head(folder.path());
        let house = House { wire, folder, head, router };
        house.wait_for_head();
        house
    }

    /// Kills the head as the kernel would when memory runs out, and starts it again.
    pub fn kill_head(&mut self) {
        self.stop_head();
        self.start_head();
    }

    /// Kills the head.
    pub fn stop_head(&mut self) {
        self.head.kill().expect("the head is killed");
        self.head.wait().expect("the head has ended");
    }

    /// Starts the head after [`House::stop_head`].
    pub fn start_head(&mut self) {
        self.head = start_head(self.folder.path());
        self.wait_for_head();
    }

    /// As [`House::kill_head`], with so many descriptors for it and no more.
    pub fn limit_head(&mut self, descriptors: u32) {
        self.stop_head();
        self.head = start_head_by(self.folder.path(), &["prlimit", &format!("--nofile={descriptors}:{descriptors}")]);
        self.wait_for_head();
    }

    /// Gives the head's state a file system of its own, of so many MiB.
    pub fn move_state_to_a_disk(&mut self, size: u32) {
        self.stop_head();
        let (state, old) = (self.path().join(".bramble"), self.path().join("old-state"));
        fs::rename(&state, &old).expect("moved");
        fs::create_dir(&state).expect("a folder");
        mount(&["-t", "tmpfs", "-o", &format!("size={size}m"), "tmpfs", &state.display().to_string()]);
        let copied = Command::new("cp").args(["-a", "-T"]).args([&old, &state]).status().expect("cp starts");
        assert!(copied.success(), "the state is copied");
        self.start_head();
    }

    /// A router comes to the wire.
    pub fn add_router(&mut self, router: Router) {
        self.router = start_router(router, self.folder.path());
    }

    /// The boot set of this architecture gets another kernel.
    pub fn replace_kernel(&self, architecture: Architecture, bytes: &[u8]) {
        shelve(self.path(), &self.path().join(".bramble/image"), architecture, bytes);
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    fn wait_for_head(&self) {
        let start = Instant::now();
        while self.status().is_none() {
            let log = fs::read_to_string(self.path().join("head.log")).unwrap_or_default();
            assert!(start.elapsed() < Duration::from_secs(30), "no head answers:\n{log}");
            sleep(Duration::from_millis(50));
        }
    }

    /// Runs `bramble` here and gives what it printed, where it ended well.
    pub fn run(&self, words: &[&str]) -> Option<String> {
        let output = Command::new(program("bramble")).args(words).current_dir(self.path()).output();
        let output = output.expect("bramble starts");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs `bramble` here with this input; gives exit code, output and errors. Its logins are the house's own.
    pub fn bramble(&self, words: &[&str], input: &str) -> (i32, String, String) {
        self.run_in(Command::new(program("bramble")), self.path(), words, input)
    }

    /// As [`House::bramble`], in this folder of another computer: it has no sockets of the head's.
    pub fn bramble_elsewhere(&self, folder: &Path, words: &[&str], input: &str) -> (i32, String, String) {
        let hide = format!("if [ -d {SOCKETS} ]; then mount -t tmpfs tmpfs {SOCKETS}; fi; exec \"$@\"");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &hide, "sh"]).arg(program("bramble"));
        self.run_in(command, folder, words, input)
    }

    fn run_in(&self, mut command: Command, folder: &Path, words: &[&str], input: &str) -> (i32, String, String) {
        let mut child = command
            .args(words)
            .current_dir(folder)
            .env("XDG_CONFIG_HOME", self.path().join("config"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("bramble starts");
        // One that reads nothing may have ended before.
        let _ = std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), input.as_bytes());
        let output = child.wait_with_output().expect("it ends");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
    }

    /// As [`House::bramble`]; it must succeed. Gives what it printed.
    pub fn must(&self, words: &[&str], input: &str) -> String {
        let (code, out, err) = self.bramble(words, input);
        assert_eq!(code, 0, "bramble {words:?}: {err}");
        out
    }

    pub fn status(&self) -> Option<Value> {
        serde_json::from_str(&self.run(&["status", "--json"])?).ok()
    }

    /// What `bramble why` says of a machine.
    pub fn why(&self, machine: &str) -> Value {
        let text = self.run(&["why", machine, "--json"]).unwrap_or_else(|| panic!("no answer about {machine}"));
        serde_json::from_str(&text).expect("JSON")
    }

    /// Waits until `bramble why` names this cause.
    pub fn wait_for_cause(&self, machine: &str, name: &str, seconds: u64) -> Value {
        let start = Instant::now();
        loop {
            let why = self.why(machine);
            if why["name"] == name {
                return why;
            }
            assert!(
                start.elapsed() < Duration::from_secs(seconds),
                "{machine}: expected `{name}`, not {why:#}\n{}",
                self.events(machine).iter().map(|event| format!("{event}\n")).collect::<String>()
            );
            sleep(Duration::from_millis(300));
        }
    }

    /// Events of a node, oldest first.
    pub fn events(&self, node: &str) -> Vec<Value> {
        let Some(text) = self.run(&["node", "show", node, "--json"]) else { return Vec::new() };
        let shown: Value = serde_json::from_str(&text).expect("JSON");
        shown["events"].as_array().expect("events").clone()
    }

    /// Resident bytes of the head.
    /// Whether the head has said this in its journal.
    pub fn head_says(&self, text: &str) -> bool {
        fs::read_to_string(self.path().join("head.log")).is_ok_and(|log| log.contains(text))
    }

    pub fn head_resident(&self) -> u64 {
        self.status().and_then(|status| status["head_resident"].as_u64()).unwrap_or(0)
    }

    pub fn head_pid(&self) -> u32 {
        self.head.id()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        for child in self.router.iter_mut().chain([&mut self.head]) {
            // It may have ended by itself; the namespace takes along what is left.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            for who in ["head", "router"] {
                let log = fs::read_to_string(self.path().join(format!("{who}.log"))).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                eprintln!("the {who}'s last words:\n{}", lines[lines.len().saturating_sub(30)..].join("\n"));
            }
        }
        for device in ["machines", "routerport", "insideport", "attic", "trunk.7", "switch", BRIDGE] {
            let _ = Command::new("ip").args(["link", "del", device]).stderr(Stdio::null()).status();
        }
    }
}

fn start_head(folder: &Path) -> Child {
    start_head_by(folder, &["env"])
}

/// Starts it by way of another program.
fn start_head_by(folder: &Path, words: &[&str]) -> Child {
    let log = fs::File::create(folder.join("head.log")).expect("a log");
    Command::new(words[0])
        .args(&words[1..])
        .arg(program("bramble"))
        .arg("serve")
        .current_dir(folder)
        .stdout(log.try_clone().expect("a log"))
        .stderr(log)
        .spawn()
        .expect("the head starts")
}

/// Runs `mount`, which must succeed, in this mount namespace.
pub fn mount(words: &[&str]) {
    let output = Command::new("mount").args(words).output().expect("mount starts");
    assert!(output.status.success(), "mount {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs `ip`, which must succeed.
pub fn ip(words: &[&str]) {
    let output = Command::new("ip").args(words).output().expect("ip starts");
    assert!(output.status.success(), "ip {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Puts packet filter rules in place, in the syntax of nft(8).
pub fn filter(rules: &str) {
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft starts");
    std::io::Write::write_all(&mut nft.stdin.take().expect("a pipe"), rules.as_bytes()).expect("written");
    assert!(nft.wait().expect("nft").success(), "nft refuses:\n{rules}");
}

/// The root in which `./dev` keeps the programs of others that tests and benches run beside bramble.
pub fn peers() -> PathBuf {
    let path = program("bramble").ancestors().nth(3).expect("the target folder").join("peers");
    assert!(path.join("usr").exists(), "{} is missing: run ./dev build", path.display());
    path
}

/// What `bramble router-recipe` prints for the repository in this folder.
fn recipe_for(folder: &Path, router: recipe::Router) -> String {
    let cluster = Cluster::of_folder(folder).expect("a good repository");
    recipe::recipe(router, format!("{HEAD}:7080").parse().expect("an address"), &recipe::Cards::of(&cluster))
}

/// Starts a router in a network namespace of its own, with one end of a cable to the bridge.
fn start_router(router: Router, folder: &Path) -> Option<Child> {
    let wait = "until ip link show router >/dev/null 2>&1; do sleep 0.05; done; ip link set lo up; \
                ip address add \"$ROUTER\"/24 dev router; ip link set router up; exec \"$@\"";
    let chroot = || vec!["chroot".to_owned(), peers().display().to_string()];
    let words: Vec<String> = match router {
        Router::None => return None,
        Router::Dnsmasq | Router::DnsmasqWithBootFile(_) | Router::DnsmasqWithRecipe => {
            let configuration = folder.join("router.conf");
            let text = match router {
                Router::DnsmasqWithBootFile(file) => format!("dhcp-boot={file},,{HEAD}\n"),
                Router::DnsmasqWithRecipe => recipe_for(folder, recipe::Router::Dnsmasq),
                // The ROM of a Pi 3 misses quick answers: dnsmasq's manual has this option for it.
                _ => "dhcp-mac=set:pi,b8:27:eb:*:*:*\ndhcp-reply-delay=tag:pi,1\n".into(),
            };
            fs::write(&configuration, text).expect("written");
            let words = "dnsmasq --no-daemon --user=root --port=0 --interface=router --bind-interfaces \
                         --dhcp-range=10.77.0.100,10.77.0.240,1h --no-ping --dhcp-authoritative --log-dhcp";
            let places = [("conf-file", configuration), ("dhcp-leasefile", folder.join("router.leases"))];
            let places = places.map(|(name, path)| format!("--{name}={}", path.display()));
            words.split_whitespace().map(str::to_owned).chain(places).collect()
        }
        Router::Kea | Router::KeaWithRecipe => {
            let recipe = match router {
                Router::KeaWithRecipe => format!("{},", recipe_for(folder, recipe::Router::Kea)),
                _ => String::new(),
            };
            let rest = r#"
                "interfaces-config": { "interfaces": [ "router" ], "dhcp-socket-type": "raw" },
                "lease-database": { "type": "memfile", "persist": false },
                "valid-lifetime": 3600,
                "subnet4": [ { "id": 1, "subnet": "10.77.0.0/24", "pools": [ { "pool": "10.77.0.100 - 10.77.0.240" } ],
                               "option-data": [ { "name": "routers", "data": "10.77.0.254" } ] } ] } }"#;
            fs::write(peers().join("tmp/kea.json"), format!("{{ \"Dhcp4\": {{\n{recipe}\n{rest}")).expect("written");
            for needed in ["run/kea", "var/run/kea", "var/lib/kea"] {
                fs::create_dir_all(peers().join(needed)).expect("a folder");
            }
            // Of a Kea that was killed; a process of that number may live in these namespaces.
            let _ = fs::remove_file(peers().join("run/kea/kea.kea-dhcp4.pid"));
            [chroot(), vec!["kea-dhcp4".into(), "-c".into(), "/tmp/kea.json".into()]].concat()
        }
        Router::Udhcpd => {
            let configuration = "start 10.77.0.100\nend 10.77.0.240\ninterface router\nlease_file /tmp/udhcpd.leases\n\
                                 option subnet 255.255.255.0\noption router 10.77.0.254\noption lease 3600\n";
            fs::write(peers().join("tmp/udhcpd.conf"), configuration).expect("written");
            fs::write(peers().join("tmp/udhcpd.leases"), "").expect("written");
            [chroot(), vec!["busybox".into(), "udhcpd".into(), "-f".into(), "-a10".into(), "/tmp/udhcpd.conf".into()]]
                .concat()
        }
    };
    let child = elsewhere(folder, wait, &words);
    plug_in(&child, "router", "routerport", BRIDGE);
    Some(child)
}

/// A relay between the head's wire and the attic: a real one, and the route to it.
fn start_relay(folder: &Path) -> Child {
    let wait = "until ip link show router && ip link show inside; do sleep 0.05; done >/dev/null 2>&1; \
                ip link set lo up; ip address add 10.77.0.253/24 dev router; ip address add 10.78.0.1/24 dev inside; \
                ip link set router up; ip link set inside up; echo 1 >/proc/sys/net/ipv4/ip_forward; exec \"$@\"";
    let words = format!("dnsmasq --no-daemon --conf-file=/dev/null --user=root --port=0 --dhcp-relay=10.78.0.1,{HEAD}");
    let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
    let child = elsewhere(folder, wait, &words);
    plug_in(&child, "router", "routerport", BRIDGE);
    plug_in(&child, "inside", "insideport", "attic");
    ip(&["route", "add", "10.78.0.0/24", "via", "10.77.0.253"]);
    child
}

/// Starts a shell in a network namespace of its own, which waits for its devices and becomes `words`.
fn elsewhere(folder: &Path, wait: &str, words: &[String]) -> Child {
    let log = fs::File::create(folder.join("router.log")).expect("a log");
    let child = Command::new("unshare")
        .args(["--net", "sh", "-c", wait, "router"])
        .args(words)
        .env("ROUTER", ROUTER)
        .stdout(log.try_clone().expect("a log"))
        .stderr(log)
        .spawn()
        .expect("the router starts");
    // `unshare` has to be in its namespace first.
    let own = fs::read_link("/proc/self/ns/net").expect("a namespace");
    let theirs = format!("/proc/{}/ns/net", child.id());
    let start = Instant::now();
    while fs::read_link(&theirs).is_ok_and(|namespace| namespace == own) {
        assert!(start.elapsed() < Duration::from_secs(10), "the router did not start");
        sleep(Duration::from_millis(5));
    }
    child
}

/// A cable from a process in another namespace to a bridge here.
fn plug_in(child: &Child, device: &str, port: &str, bridge: &str) {
    ip(&["link", "add", device, "type", "veth", "peer", "name", port]);
    ip(&["link", "set", port, "master", bridge, "up"]);
    ip(&["link", "set", device, "netns", &child.id().to_string()]);
}

/// Bytes that stand for a file of a boot set: these personas fetch, and start nothing.
pub fn content(name: &str, size: usize) -> Vec<u8> {
    let mut hash = Sha256::digest(name);
    let mut bytes = Vec::with_capacity(size + 32);
    while bytes.len() < size {
        bytes.extend_from_slice(&hash);
        hash = Sha256::digest(hash);
    }
    bytes.truncate(size);
    bytes
}

/// Puts a small boot set of each architecture onto a house's shelf.
fn stock(house: &Path, shelf: &Path) {
    for architecture in Architecture::ALL {
        shelve(house, shelf, architecture, &content(&format!("{architecture} kernel"), 300_000));
    }
}

/// Puts a boot set onto a shelf, in its public form (`bramble_image::Shelf`), and gives it to the nodes as a person
/// does.
fn shelve(house: &Path, shelf: &Path, architecture: Architecture, kernel: &[u8]) {
    let take = |name: &str, bytes: &[u8]| {
        let sha256 = Digest(Sha256::digest(bytes).into());
        let path = shelf.join("files").join(sha256.to_string());
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, bytes).expect("written");
        Layer { name: name.to_owned(), artifact: Artifact { sha256, size: bytes.len() as u64 } }
    };
    let plain = |name: &str, size| take(name, &content(&format!("{architecture} {name}"), size));
    let mut firmware = Vec::new();
    if architecture == Architecture::Arm64 {
        let names = ["bootcode.bin", "start.elf", "fixup.dat", "start4.elf", "fixup4.dat"];
        let trees = ["bcm2710-rpi-3-b.dtb", "bcm2711-rpi-4-b.dtb", "bcm2712-rpi-5-b.dtb"];
        firmware.extend(names.iter().chain(&trees).map(|name| plain(name, 40_000)));
        firmware.push(take("ipxe-arm64.efi", &arm64_program()));
    }
    let manifest = Manifest {
        form: FORM,
        cluster: "house".parse().expect("a name"),
        version: "test".into(),
        revision: None,
        architecture,
        suite: "trixie".into(),
        kernel: take("kernel", kernel).artifact,
        initrd: plain("initrd", 200_000).artifact,
        layers: vec![plain("root", 1000)],
        firmware,
        cmdline: "quiet".into(),
        knows: vec!["claim".into()],
        trusts: Vec::new(),
        packages: Vec::new(),
        inputs: None,
        data: Vec::new(),
    };
    let bytes = serde_json::to_vec(&manifest).expect("plain data");
    let digest = Digest(Sha256::digest(&bytes).into());
    let place = shelf.join("sets").join(digest.to_string());
    fs::create_dir_all(&place).expect("a folder");
    fs::write(place.join("manifest.json"), bytes).expect("written");
    // Nobody here looks at it: the machines of this house run no stage 1.
    fs::write(place.join("manifest.json.minisig"), "as a build signs").expect("written");
    let set = digest.to_string();
    let given = Command::new(program("bramble")).args(["image", "use", &set]).current_dir(house).output();
    let given = given.expect("bramble starts");
    assert!(given.status.success(), "{}", String::from_utf8_lossy(&given.stderr));
}

/// As much of an arm64 UEFI program as a firmware looks at before it starts one.
fn arm64_program() -> Vec<u8> {
    let mut bytes = content("ipxe-arm64.efi", 90_000);
    bytes[..2].copy_from_slice(b"MZ");
    bytes[0x3c..0x40].copy_from_slice(&0x80_u32.to_le_bytes());
    bytes[0x80..0x84].copy_from_slice(b"PE\0\0");
    bytes[0x84..0x86].copy_from_slice(&0xaa64_u16.to_le_bytes());
    bytes
}
