//! Every firmware that is known of, against the real head: what it fetches, that it never loops, and
//! that a bad wire only makes it slower. Each persona is a file in `tests/personas/`.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::Duration;

use bramble_model::boot_set::Architecture;
use bramble_tests::machines::fetch::{Fetched, tftp};
use bramble_tests::machines::firmware::{Boot, Ended, power_on};
use bramble_tests::machines::house::{House, Router, content, inside};
use bramble_tests::machines::persona::{Persona, Tftp, Way};
use bramble_tests::machines::stack::Stack;
use bramble_tests::machines::wire::Trouble;

/// Power cycles of each machine.
const CYCLES: u64 = 10;

/// One percent in ten is lost, and some come twice or late.
const BAD: Trouble = Trouble { lost: 10, doubled: 3, late: 3, silent: Duration::ZERO, longest: None };

fn personas() -> BTreeMap<String, Persona> {
    Persona::all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("personas"))
}

fn loaders() -> BTreeMap<String, Persona> {
    Persona::all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("personas/loaders"))
}

/// The nodes of `bramble.toml`: every persona that boots.
fn nodes(personas: &BTreeMap<String, Persona>) -> String {
    let mut text = String::new();
    for (name, persona) in personas.iter().filter(|(_, persona)| persona.way != Way::Phone) {
        let macs: Vec<String> = [Some(persona.mac(name)), persona.second_mac(name)]
            .iter()
            .flatten()
            .map(|mac| format!("\"{mac}\""))
            .collect();
        text += &format!("[nodes.{name}]\nmac = [{}]\nrole = \"worker\"\n\n", macs.join(", "));
    }
    text
}

/// What a persona is to fetch.
fn expected(name: &str, persona: &Persona, beside: Router) -> Vec<String> {
    let files = match &persona.expect.proxy {
        Some(files) if beside != Router::None => files,
        _ => &persona.expect.full,
    };
    let mac = persona.mac(name).to_string().replace(':', "-");
    files.iter().map(|file| file.replace("01-MAC", &format!("01-{mac}"))).collect()
}

/// The cause for which it never boots beside this router.
fn never_boots(persona: &Persona, beside: Router) -> Option<&str> {
    let quick = beside == Router::Kea;
    let quick = persona.expect.quick_router_why.as_deref().filter(|_| quick);
    quick.or(persona.expect.proxy_why.as_deref().filter(|_| beside != Router::None))
}

/// Whether a boot was what its persona expects; else why not.
fn judge(name: &str, persona: &Persona, boot: &Boot, beside: Router, exactly: bool) -> Result<(), String> {
    let wanted = expected(name, persona, beside);
    let mut fetched = boot.files.clone();
    if !exactly {
        // On a bad wire a loader may ask twice.
        let mut seen = Vec::new();
        fetched.retain(|file| {
            !seen.contains(file) && {
                seen.push(file.clone());
                true
            }
        });
    }
    let wanted = if never_boots(persona, beside).is_some() { Vec::new() } else { wanted };
    let ended_well = match (&boot.ended, persona.way) {
        (Ended::Address(_), Way::Phone) => true,
        (Ended::GaveUp(_), _) => wanted.is_empty(),
        (Ended::Kernel { cmdline }, _) => {
            let mac = persona.second_mac(name).unwrap_or(persona.mac(name)).to_string().replace(':', "-");
            let words = [format!("BOOTIF=01-{mac} "), format!("bramble.node={name} "), "bramble.ip=10.77.0.".into()];
            words.iter().all(|word| cmdline.contains(word.as_str())) && cmdline.contains("/255.255.255.0 ")
        }
        _ => false,
    };
    if fetched == wanted && ended_well {
        return Ok(());
    }
    Err(format!("{name}: fetched {fetched:?}, expected {wanted:?}\n{}", boot.log.join("\n")))
}

/// Switches every machine on `cycles` times, all machines at once.
fn run(house: &House, beside: Router, cycles: u64, trouble: Trouble) {
    let (personas, loaders) = (personas(), loaders());
    let failures: Vec<String> = thread::scope(|scope| {
        let machines: Vec<_> = personas
            .iter()
            .map(|(name, persona)| {
                let (wire, loaders) = (&house.wire, &loaders);
                scope.spawn(move || {
                    for cycle in 0..cycles {
                        let seed = name.bytes().fold(cycle + 17, |seed, byte| seed.wrapping_mul(31) + u64::from(byte));
                        let mut boot = power_on(wire, name, persona, loaders, trouble, seed);
                        let gave_up = matches!(boot.ended, Ended::GaveUp(_));
                        if gave_up && persona.expect.gives_up_in_silence && !trouble.silent.is_zero() {
                            // Someone presses the switch again; the port is open by now.
                            thread::sleep(trouble.silent);
                            let open = Trouble { silent: Duration::ZERO, ..trouble };
                            boot = power_on(wire, name, persona, loaders, open, seed + 1);
                        }
                        let exactly = trouble.lost == 0;
                        judge(name, persona, &boot, beside, exactly)
                            .map_err(|why| format!("power cycle {cycle} of {why}"))?;
                    }
                    Ok(())
                })
            })
            .collect();
        machines.into_iter().filter_map(|machine| machine.join().expect("no panic").err()).collect()
    });
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), personas.len(), failures.join("\n\n"));
    never_loops(house, &personas, beside, cycles, trouble);
}

/// Each power cycle was handed one boot, and no more.
fn never_loops(house: &House, personas: &BTreeMap<String, Persona>, beside: Router, cycles: u64, trouble: Trouble) {
    for (name, persona) in personas {
        if persona.way == Way::Phone || expected(name, persona, beside).is_empty() {
            continue;
        }
        let events = house.events(name);
        let boots = events.iter().filter(|event| event["what"]["kind"] == "script-served").count() as u64;
        if let Some(why) = never_boots(persona, beside) {
            assert_eq!(boots, 0, "{name} gets nothing");
            house.wait_for_cause(name, why, 30);
        } else if trouble.lost == 0 {
            assert_eq!(boots, cycles, "{name} boots once for each power cycle");
        }
    }
}

#[test]
fn there_are_personas_for_every_line_of_the_field_notes_that_firmware_can_show() {
    let personas = personas();
    assert!(personas.len() >= 30, "{}", personas.len());
    let held: Vec<&str> = personas.values().flat_map(|persona| &persona.notes).map(String::as_str).collect();
    let shown = [
        "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "16", "17", "18", "20", "21", "22", "23",
        "26", "27", "28", "30", "34",
    ];
    for note in shown {
        assert!(held.contains(&note), "no persona holds line {note}");
    }
}

#[test]
fn every_firmware_boots_from_full_dhcp() {
    if inside("every_firmware_boots_from_full_dhcp") {
        let house = House::start("full", Router::None, &nodes(&personas()), &[]);
        run(&house, Router::None, CYCLES, Trouble::default());
    }
}

#[test]
fn every_firmware_boots_beside_dnsmasq() {
    if inside("every_firmware_boots_beside_dnsmasq") {
        let house = House::start("proxy", Router::Dnsmasq, &nodes(&personas()), &[]);
        run(&house, Router::Dnsmasq, CYCLES, Trouble::default());
    }
}

#[test]
fn every_firmware_boots_beside_kea() {
    if inside("every_firmware_boots_beside_kea") {
        let house = House::start("proxy", Router::Kea, &nodes(&personas()), &[]);
        run(&house, Router::Kea, 1, Trouble::default());
    }
}

#[test]
fn every_firmware_boots_beside_udhcpd() {
    if inside("every_firmware_boots_beside_udhcpd") {
        let house = House::start("proxy", Router::Udhcpd, &nodes(&personas()), &[]);
        run(&house, Router::Udhcpd, 1, Trouble::default());
    }
}

/// The current set changes while a board that fetches by name is in the middle of its boot.
#[test]
fn a_boot_is_of_one_set_though_another_becomes_current() {
    if !inside("a_boot_is_of_one_set_though_another_becomes_current") {
        return;
    }
    let (pi, uboot) = ("52:54:00:22:22:01", "52:54:00:22:22:02");
    let machines: String = [("pi", pi, "10.77.0.11"), ("uboot", uboot, "10.77.0.12")]
        .map(|(name, mac, address)| {
            format!("[nodes.{name}]\nmac = \"{mac}\"\nrole = \"worker\"\naddress = \"{address}\"\n\n")
        })
        .concat();
    let house = House::start("full", Router::None, &machines, &[]);
    let (old, new) = (content("the old kernel", 9000), content("the new kernel", 9000));
    let read = |mac: &str, last: u8, path: &str| {
        let mac = mac.parse().expect("a MAC");
        let mut stack = Stack::new(house.wire.plug(mac, Trouble::default(), 3), 3);
        stack.configure([10, 77, 0, last].into(), 24, None);
        match tftp(&mut stack, [10, 77, 0, 1].into(), path, &Tftp::default()) {
            Fetched::File(bytes) => bytes,
            other => panic!("{path}: {other:?}"),
        }
    };
    let set_of = |words: &[u8]| {
        let words = String::from_utf8_lossy(words);
        let set = words.split_whitespace().find_map(|word| word.strip_prefix("bramble.set="));
        set.expect("a set").to_owned()
    };
    house.replace_kernel(Architecture::Arm64, &old);
    read(pi, 11, "config.txt");
    let menu = read(uboot, 12, "pxelinux.cfg/01-52-54-00-22-22-02");
    house.replace_kernel(Architecture::Arm64, &new);
    // The Pi had its first file, and U-Boot its menu, from the old one.
    assert_eq!(set_of(&read(pi, 11, "cmdline.txt")), set_of(&menu));
    assert!(read(pi, 11, "kernel.img") == old, "the Pi's kernel is of the set of its command line");
    assert!(read(uboot, 12, "bramble/kernel") == old, "U-Boot's kernel is of the set of its menu");
    // A machine that starts now gets the new one.
    read(pi, 11, "config.txt");
    assert!(read(pi, 11, "kernel.img") == new, "the next boot is of the new set");
}

/// 10 % loss, packets twice and out of order, on a port that opens after 50 s.
#[test]
fn a_bad_wire_only_makes_it_slower() {
    if inside("a_bad_wire_only_makes_it_slower") {
        let house = House::start("full", Router::None, &nodes(&personas()), &[]);
        run(&house, Router::None, 1, Trouble { silent: Duration::from_secs(50), ..BAD });
    }
}
