//! Nodes that run another system: handed over once, templated per node, and never in a loop.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use bramble_tests::machines::fetch::{Fetched, http, post};
use bramble_tests::machines::firmware::{Boot, Ended, power_on};
use bramble_tests::machines::house::{HEAD, House, PIXIECORE, Router, inside};
use bramble_tests::machines::persona::Persona;
use bramble_tests::machines::stack::Stack;
use bramble_tests::machines::wire::Trouble;

const MAC: &str = "52:54:00:aa:bb:01";

const FILES: [(&str, &[u8]); 4] = [
    ("boot/linux", b"a kernel"),
    ("boot/initrd.gz", b"an initrd"),
    (
        "boot/templates/user-data",
        b"#cloud-config\nhostname: {{ node }}\nfqdn: {{ node }}.{{ domain }}\nphone_home: {{ done }}\n",
    ),
    ("boot/templates/broken.cfg", b"{{ ssh_keys[7].name }}\n"),
];

fn repository(hand_off: &str) -> String {
    format!(
        "[boot.debian]\nkernel = \"boot/linux\"\ninitrd = \"boot/initrd.gz\"\ntemplates = \"boot/templates\"\n\
         cmdline = \"auto=true ds=nocloud;s={{{{ url }}}} done={{{{ done }}}}\"\nhand_off = \"{hand_off}\"\n\n\
         [nodes.nas]\nmac = \"{MAC}\"\nrole = \"other\"\nboot = \"debian\"\n"
    )
}

fn boot(house: &House, seed: u64) -> Boot {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("personas");
    let loaders: BTreeMap<String, Persona> = Persona::all(&folder.join("loaders"));
    let mut persona = Persona::read(&folder.join("ipxe-rom-2019.toml"));
    persona.mac = Some(MAC.into());
    persona.dhcp.collects = 0.0;
    power_on(&house.wire, "nas", &persona, &loaders, Trouble::default(), seed)
}

/// A word of the command line that a boot was given.
fn word(boot: &Boot, name: &str) -> String {
    let Ended::Kernel { cmdline } = &boot.ended else { panic!("no kernel: {}", boot.log.join("\n")) };
    cmdline.split(' ').find_map(|word| word.strip_prefix(name)).expect("a word").to_owned()
}

/// A machine on the wire, with this card and address.
fn stack(house: &House, mac: &str, address: &str) -> Stack {
    let mut stack = Stack::new(house.wire.plug(mac.parse().expect("a MAC"), Trouble::default(), 5), 5);
    stack.configure(address.parse().expect("an address"), 24, None);
    stack
}

/// Reads a URL as an installer on the node does, at whatever address its own DHCP has brought it.
fn get(house: &House, url: &str) -> Fetched {
    http(&mut stack(house, MAC, "10.77.0.99"), url)
}

/// As whoever else is on the wire.
fn get_as_another(house: &House, url: &str) -> Fetched {
    http(&mut stack(house, "52:54:00:aa:bb:66", "10.77.0.66"), url)
}

/// As the Pixiecore that the repository names.
fn get_as_pixiecore(house: &House, url: &str) -> Fetched {
    http(&mut stack(house, "52:54:00:aa:bb:98", PIXIECORE), url)
}

fn is_refused(fetched: &Fetched) -> bool {
    matches!(fetched, Fetched::Failed(reason) if reason.contains("403"))
}

fn text(fetched: Fetched) -> String {
    let Fetched::File(bytes) = fetched else { panic!("{fetched:?}") };
    String::from_utf8(bytes).expect("text")
}

#[test]
fn a_machine_that_installed_itself_boots_its_disk_until_it_is_told_otherwise() {
    if inside("a_machine_that_installed_itself_boots_its_disk_until_it_is_told_otherwise") {
        let house = House::start("full", Router::None, &repository("once"), &FILES);
        let first = boot(&house, 1);
        assert_eq!(first.files, ["http script", "http profile/debian/kernel", "http profile/debian/initrd0"]);
        assert_eq!(word(&first, "auto="), "true");
        for cycle in 2..=10 {
            let again = boot(&house, cycle);
            assert_eq!((&again.ended, again.files.len()), (&Ended::Disk, 1), "power cycle {cycle}");
        }
        house.wait_for_cause("nas", "boots-disk", 10);
        house.run(&["node", "reinstall", "nas"]).expect("told otherwise");
        assert_eq!(boot(&house, 11).files.len(), 3);
        assert_eq!(boot(&house, 12).ended, Ended::Disk);
    }
}

#[test]
fn cloud_init_finds_its_seed_and_says_when_it_is_done() {
    if inside("cloud_init_finds_its_seed_and_says_when_it_is_done") {
        let house = House::start("full", Router::None, &repository("until-done"), &FILES);
        // Cut off in the middle of an installation: it is handed over again.
        boot(&house, 1);
        let second = boot(&house, 2);
        assert_eq!(second.files.len(), 3);
        let (seed, done) = (word(&second, "ds=nocloud;s="), word(&second, "done="));
        let user = text(get(&house, &format!("{seed}user-data")));
        assert!(user.contains("hostname: nas\nfqdn: nas.home.arpa\n") && user.contains(&done), "{user}");
        let meta = text(get(&house, &format!("{seed}meta-data")));
        assert!(meta.contains("local-hostname: nas") && meta.contains("instance-id: "), "{meta}");
        assert!(matches!(get(&house, &format!("{seed}vendor-data")), Fetched::Missing));
        // A template that names what is not there says so, and where.
        assert!(matches!(get(&house, &format!("{seed}broken.cfg")), Fetched::Failed(reason) if reason.contains("500")));
        let events = house.events("nas");
        assert!(
            events
                .iter()
                .any(|event| event["what"]["reason"].as_str().is_some_and(|reason| reason.contains("broken.cfg")))
        );
        // Nobody who does not know the boot reads a seed, nor who was sent another machine's and knows it.
        assert!(matches!(get(&house, "http://10.77.0.1:7080/boot/seed/0123/user-data"), Fetched::Missing));
        assert!(is_refused(&get_as_another(&house, &format!("{seed}user-data"))));
        let say_done = |stack: &mut Stack| post(stack, &done, "");
        assert!(is_refused(&say_done(&mut stack(&house, "52:54:00:aa:bb:66", "10.77.0.66"))));
        assert!(!matches!(get(&house, &done), Fetched::File(_)), "a page in someone's browser can say GET");
        assert_eq!(boot(&house, 3).files.len(), 3, "nobody has said that it is installed");
        let (again, done) = (boot(&house, 4), boot(&house, 5));
        assert_eq!(text(post(&mut stack(&house, MAC, "10.77.0.99"), &word(&done, "done="), "")), "installed\n");
        let late = get(&house, &format!("{}user-data", word(&done, "ds=nocloud;s=")));
        assert!(is_refused(&late), "it is installed: {late:?}");
        assert!(
            is_refused(&get(&house, &format!("{}user-data", word(&again, "ds=nocloud;s=")))),
            "in an earlier boot, too"
        );
        assert_eq!(boot(&house, 6).ended, Ended::Disk);
    }
}

/// Pixiecore asks its API server (`pixiecore api http://head:7080`), and serves what that says.
#[test]
fn pixiecore_is_answered_at_its_usual_path() {
    if inside("pixiecore_is_answered_at_its_usual_path") {
        let house = House::start("full", Router::None, &repository("once"), &FILES);
        assert!(is_refused(&get_as_another(&house, &format!("http://10.77.0.1:7080/v1/boot/{MAC}"))));
        let answer = text(get_as_pixiecore(&house, &format!("http://10.77.0.1:7080/v1/boot/{MAC}")));
        let answer: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
        let kernel = answer["kernel"].as_str().expect("a kernel");
        assert_eq!(text(get_as_pixiecore(&house, kernel)), "a kernel");
        assert_eq!(text(get_as_pixiecore(&house, answer["initrd"][0].as_str().expect("an initrd"))), "an initrd");
        assert!(answer["cmdline"].as_str().expect("a command line").starts_with("auto=true ds=nocloud"));
        // It has been handed over: the disk from now on, which Pixiecore's API says by 404.
        assert!(matches!(get_as_pixiecore(&house, &format!("http://10.77.0.1:7080/v1/boot/{MAC}")), Fetched::Missing));
        assert!(matches!(
            get_as_pixiecore(&house, "http://10.77.0.1:7080/v1/boot/52:54:00:99:99:99"),
            Fetched::Missing
        ));
    }
}

/// A snapshot that becomes current between kernel and initrd: its initrd is not the kernel's.
#[test]
fn a_boot_that_was_handed_out_gets_nothing_of_another_snapshot() {
    if inside("a_boot_that_was_handed_out_gets_nothing_of_another_snapshot") {
        let house = House::start("full", Router::None, &repository("once"), &FILES);
        let answer = text(get_as_pixiecore(&house, &format!("http://10.77.0.1:7080/v1/boot/{MAC}")));
        let answer: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
        let (kernel, initrd) = (answer["kernel"].as_str().expect("one"), answer["initrd"][0].as_str().expect("one"));
        std::fs::write(house.path().join("boot/initrd.gz"), "another initrd").expect("written");
        house.must(&["apply", "--yes"], "");
        assert_eq!(text(get(&house, kernel)), "a kernel", "it is the same in both");
        assert!(matches!(get(&house, initrd), Fetched::Missing));
        // What it asks for anew is of one snapshot again: it had no system yet.
        let answer = text(get_as_pixiecore(&house, &format!("http://10.77.0.1:7080/v1/boot/{MAC}")));
        let answer: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
        assert_eq!(text(get(&house, answer["initrd"][0].as_str().expect("one"))), "another initrd");
    }
}

/// GRUB compares header names letter by letter, and asks for a file's size before it fetches it; shim puts a
/// second slash before the name of what lies beside it.
#[test]
fn http_is_spoken_as_signed_loaders_read_it() {
    if inside("http_is_spoken_as_signed_loaders_read_it") {
        let house = House::start("full", Router::None, &repository("once"), &FILES);
        for (path, found) in
            [("/grub/grub.cfg", true), ("/boot/loader//ipxe.efi", true), ("/grub/x86_64-efi/fs.lst", false)]
        {
            let mut stream = TcpStream::connect((HEAD, 7080)).expect("the head listens");
            write!(stream, "HEAD {path} HTTP/1.1\r\nHost: {HEAD}\r\nConnection: close\r\n\r\n").expect("sent");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("answered");
            let status = if found { "HTTP/1.1 200 OK\r\n" } else { "HTTP/1.1 404 Not Found\r\n" };
            assert!(answer.starts_with(status), "{path}: {answer}");
            assert!(answer.contains("\r\nContent-Length: "), "{path}: {answer}");
        }
        drop(house);
    }
}
