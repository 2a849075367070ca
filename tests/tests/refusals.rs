//! What must not happen: unverified layers, strangers that boot, two DHCP servers on a wire.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::{Command, Output};

use bramble_tests::{Lab, Repository, has_reached, node, program};
use serde_json::Value;

#[test]
fn a_flipped_byte_is_never_mounted_and_a_stranger_boots_nothing() {
    let repository = Repository::first_light();
    repository.only("m1");
    let mut lab = Lab::start(repository);

    let set: Value = serde_json::from_str(&lab.repository.must(&["image", "inspect", "--json"])).expect("JSON");
    let layers = set["manifest"]["layers"].as_array().expect("layers");
    let site = layers.iter().find(|layer| layer["name"] == "site").expect("a site layer");
    let path = lab.repository.state().join("image/files").join(site["sha256"].as_str().expect("a digest"));
    let file = File::options().read(true).write(true).open(path).expect("the layer");
    let flip = || {
        let mut byte = [0];
        file.read_exact_at(&mut byte, 4096).expect("readable");
        file.write_all_at(&[byte[0] ^ 1], 4096).expect("writable");
    };
    flip();
    lab.repository.must(&["power", "on", "m1"]);
    let status = lab.wait("the node says that the layer is wrong", 120, |status| {
        node(status, "m1")["failure"]
            .as_str()
            .is_some_and(|failure| failure.contains("not the one that the manifest names"))
    });
    assert!(!has_reached(&status, "m1", "system"));
    let why = lab.repository.must(&["why", "m1"]);
    assert!(why.contains("layer `site`"), "{why}");
    flip();
    lab.wait("the node boots once the byte is right", 120, |status| has_reached(status, "m1", "system"));

    // The machine stays, and the repository does not know its address any more.
    lab.repository.must(&["lab", "power", "off", "m1"]);
    let served = |lab: &Lab| lab.events("m1").iter().filter(|event| event["what"]["kind"] == "script-served").count();
    let before = served(&lab);
    lab.repository.edit(|text| text.replace("52:54:00:00:00:01", "52:54:00:00:00:77"));
    lab.kill_head();
    lab.repository.must(&["lab", "power", "on", "m1"]);
    let status = lab.wait("the stranger is seen", 60, |status| {
        status["seen"].as_array().is_some_and(|seen| seen.iter().any(|seen| seen["mac"] == "52:54:00:00:00:01"))
    });
    assert!(status["seen"][0]["firmware"].as_str().is_some_and(|firmware| firmware.contains("iPXE")));
    // Its firmware gives up by itself and tries the next device: it was given nothing.
    lab.wait("the stranger asked more than once", 60, |status| status["seen"][0]["times"].as_u64() > Some(1));
    assert_eq!(served(&lab), before, "nothing was handed out");
}

/// A wire of the test's own: `eth0` here, with the head's address, and `other` in the namespace that
/// `beside` enters.
const WIRE: &str = r#"
    set -e
    ip link set lo up
    ip link add eth0 type veth peer name other
    unshare --net sleep 90 & other=$!
    while [ "$(readlink /proc/$other/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.05; done
    ip link set other netns $other
    beside() { nsenter --net=/proc/$other/ns/net "$@"; }
    ip address add 10.77.0.1/24 dev eth0
    ip link set eth0 up
"#;

/// Runs a script on [`WIRE`].
fn on_a_wire(repository: &Repository, script: &str) -> Output {
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--pid", "--fork", "--mount-proc", "--kill-child", "bash", "-c"])
        .arg(format!("{WIRE}{script}"))
        .env("BRAMBLE", program("bramble"))
        .env("REPOSITORY", repository.path())
        .output();
    output.expect("unshare starts")
}

/// Full DHCP where a real dnsmasq answers.
#[test]
fn full_dhcp_does_not_start_beside_another_server() {
    let repository = Repository::first_light();
    let script = r#"
        beside ip address add 10.77.0.254/24 dev other
        beside ip link set other up
        beside dnsmasq --no-daemon --conf-file=/dev/null --port=0 --interface=other --bind-interfaces \
            --dhcp-range=10.77.0.50,10.77.0.60,1h --dhcp-leasefile=/dev/null &
        sleep 0.5
        timeout 30 "$BRAMBLE" -C "$REPOSITORY" serve
    "#;
    let output = on_a_wire(&repository, script);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("another DHCP server answers there (10.77.0.254)"), "{told}");
    assert!(told.contains("help: "), "{told}");
    assert_eq!(output.status.code(), Some(1));
}

/// What arrives at the client is counted: nothing for a phone (a real udhcpc), and, so that the count is
/// known to work, an offer for the same client once it says that it boots, with a known address.
#[test]
fn a_phone_gets_no_answer_in_proxy_mode() {
    let repository = Repository::first_light();
    repository.beside_a_router("proxy");
    let script = r#"
        cd "$REPOSITORY"
        "$BRAMBLE" serve & head=$!
        until "$BRAMBLE" status >/dev/null 2>&1; do sleep 0.1; done
        beside ip link set other up
        beside nft 'add table netdev count'
        beside nft 'add chain netdev count in { type filter hook ingress device other priority 0; }'
        beside nft 'add rule netdev count in udp sport { 67, 4011 } counter'
        answers() { beside nft list chain netdev count in | sed -n 's/.*packets \([0-9]*\) .*/\1/p'; }
        ask() { beside udhcpc -i other -n -q -f -t 3 -T 1 -s /bin/true "$@" >/dev/null 2>&1 || true; }
        ask
        ask -V android-dhcp-14
        sleep 1
        echo "to a phone: $(answers)"
        beside ip link set other address 52:54:00:00:00:01
        ask -V PXEClient:Arch:00007:UNDI:003016 -x 0x5d:0007
        sleep 1
        echo "to a booting machine: $(answers)"
        kill $head
    "#;
    let output = on_a_wire(&repository, script);
    let said = String::from_utf8_lossy(&output.stdout);
    let told = String::from_utf8_lossy(&output.stderr);
    let answers: Vec<u32> = said.lines().filter_map(|line| line.rsplit_once(": ")?.1.parse().ok()).collect();
    assert!(matches!(answers[..], [0, some] if some > 0), "{said}\n{told}");
}
