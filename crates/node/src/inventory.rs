//! What this machine is: read from `/sys` and `/proc`, sent to the head once, and then it switches itself off.
//!
//! Nothing is written to any disk, and none is mounted.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use bramble_boot::inventory_path;
use bramble_model::inventory::{Card, Disk, Inventory};
use bramble_model::names::Mac;
use bramble_system::Command;
use tokio::time::sleep;

use crate::{Error, ThisBoot, health, http};

/// How often the head is tried before the machine switches itself off all the same.
const TRIES: u32 = 20;
/// Places that are looked at on a disk that says nothing of itself, and bytes at each.
const SAMPLES: u64 = 128;
const SAMPLE: usize = 4096;

/// Tells the head what this machine is and switches it off.
pub(crate) async fn run(boot: &ThisBoot) -> Result<std::convert::Infallible, Error> {
    // Disks and cards come as their drivers do.
    let settle = Command::new("udevadm").args(["settle", "--timeout=20"]).limit(Duration::from_secs(30)).run();
    if let Err(error) = settle {
        tracing::warn!(%error, "not all devices may be there yet");
    }
    let inventory = take();
    for line in inventory.lines() {
        health::say_on_console(&line);
    }
    let body = serde_json::to_vec(&inventory).expect("plain data");
    for again in 0..TRIES {
        match http::post(boot, &inventory_path(&boot.boot.0, boot.report.as_deref()), &body).await {
            Ok(()) => {
                health::say_on_console("the head knows what this machine is; switching off");
                break;
            }
            Err(reason) => {
                health::say_on_console(&format!("the head does not take the inventory: {reason}"));
                sleep(Duration::from_secs(u64::from(again.min(10)))).await;
            }
        }
    }
    let off = Command::new("systemctl").args(["poweroff"]).limit(Duration::from_secs(60)).run();
    if let Err(error) = off {
        health::say_on_console(&format!("it cannot be switched off: {error}"));
    }
    loop {
        sleep(Duration::from_secs(3600)).await;
    }
}

fn text(path: impl AsRef<Path>) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    // What a device tree has ends with a zero byte.
    String::from_utf8_lossy(&bytes).trim_matches(|c: char| c == '\0' || c.is_whitespace()).to_owned()
}

fn words(parts: &[String]) -> String {
    parts.iter().map(String::as_str).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

fn take() -> Inventory {
    let dmi = |name: &str| text(Path::new("/sys/class/dmi/id").join(name));
    let tree = |name: &str| text(Path::new("/proc/device-tree").join(name));
    let machine = words(&[dmi("sys_vendor"), dmi("product_name")]);
    let serial = dmi("product_serial");
    let kind = if Path::new("/sys/firmware/efi").exists() { "UEFI" } else { "BIOS" };
    let kind = if Path::new("/proc/device-tree/model").exists() && kind == "BIOS" { "the board's own" } else { kind };
    let version = words(&[dmi("bios_vendor"), dmi("bios_version")]);
    let system = rustix::system::uname();
    let cpuinfo = text("/proc/cpuinfo");
    let of_cpu = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    Inventory {
        machine: if machine.is_empty() { tree("model") } else { machine }.into(),
        serial: if serial.is_empty() { tree("serial-number") } else { serial }.into(),
        firmware: if version.is_empty() { kind.to_owned() } else { format!("{kind}, {version}") }.into(),
        architecture: match system.machine().to_bytes() {
            b"x86_64" => "amd64".into(),
            b"aarch64" => "arm64".into(),
            other => (*String::from_utf8_lossy(other)).into(),
        },
        processor: of_cpu("model name")
            .or_else(|| of_cpu("Model"))
            .unwrap_or_else(|| "a processor without a name".into())
            .into(),
        cpus: std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX)),
        memory: health::memory(),
        disks: disks(),
        cards: cards(),
        temperature: health::temperature(),
    }
}

/// What a board says whose maker has given it no number.
const NO_NUMBERS: [&str; 6] =
    ["default string", "not specified", "none", "system serial number", "to be filled by o.e.m.", "123456789"];

/// A number that tells this board from others; the zeros and the letters of a firmware that knows none do not.
fn number(text: &str) -> Option<String> {
    let text = text.trim().to_ascii_lowercase();
    let digits: Vec<char> = text.chars().filter(char::is_ascii_alphanumeric).collect();
    let is_one = digits.len() > 3 && digits.iter().any(|digit| *digit != digits[0]);
    (is_one && !NO_NUMBERS.contains(&text.as_str())).then_some(text)
}

/// The machine's network cards, and its UUID or its serial number.
pub(crate) fn machine() -> (Vec<Mac>, Option<String>) {
    let places =
        ["/sys/class/dmi/id/product_uuid", "/sys/class/dmi/id/product_serial", "/proc/device-tree/serial-number"];
    let board = places.into_iter().find_map(|place| number(&text(place)));
    (cards().into_iter().map(|card| card.mac).collect(), board)
}

fn names(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn disks() -> Vec<Disk> {
    // What has a device behind it is a disk; loops and RAM disks have none.
    let real = |name: &String| Path::new("/sys/block").join(name).join("device").exists() && !name.starts_with("sr");
    names("/sys/block").into_iter().filter(real).map(disk).filter(|disk| disk.size > 0).collect()
}

fn disk(name: String) -> Disk {
    let folder = Path::new("/sys/block").join(&name);
    let size = text(folder.join("size")).parse::<u64>().unwrap_or(0) * 512;
    let serial =
        [folder.join("device/serial"), folder.join("serial")].map(text).into_iter().find(|text| !text.is_empty());
    let serial = serial.unwrap_or_else(|| udev(&name, "ID_SERIAL_SHORT"));
    let model = words(&[text(folder.join("device/vendor")), text(folder.join("device/model"))]);
    let mut holds: Vec<String> = signature(&name).into_iter().collect();
    for part in names(&folder.display().to_string()).iter().filter(|part| folder.join(part).join("partition").exists())
    {
        holds.push(format!("{} on {part}", signature(part).unwrap_or_else(|| "a partition".into())));
    }
    if holds.is_empty() && carries(&name, size) {
        holds.push("data without a known form".into());
    }
    // A virtio disk's vendor is a number.
    let model = if model.starts_with("0x") { "virtual disk".into() } else { model };
    let holds = holds.into_iter().map(Into::into).collect();
    Disk { name: name.into(), model: model.into(), serial: serial.into(), size, holds }
}

/// A property that udev knows of a device.
fn udev(name: &str, property: &str) -> String {
    let asked = Command::new("udevadm")
        .args(["info", "--query=property", &format!("--property={property}"), "--value", &format!("/dev/{name}")])
        .limit(Duration::from_secs(10))
        .run();
    asked.map(|output| output.text()).unwrap_or_default()
}

/// What lies on a device by its own signature, probed and not remembered (blkid(8)).
fn signature(name: &str) -> Option<String> {
    let output = Command::new("blkid")
        .args(["--probe", "--output", "export", &format!("/dev/{name}")])
        .limit(Duration::from_secs(20))
        .run()
        .ok()?;
    let text = output.text();
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned);
    let kind = value("PTTYPE").or_else(|| value("TYPE"))?;
    Some(match value("LABEL").or_else(|| value("PART_ENTRY_NAME")) {
        Some(label) => format!("{kind} \"{label}\""),
        None => kind,
    })
}

/// Whether anything but zeros lies on a disk, at places all over it.
fn carries(name: &str, size: u64) -> bool {
    let Ok(disk) = fs::File::open(Path::new("/dev").join(name)) else { return true };
    let mut sample = vec![0; SAMPLE];
    (0..SAMPLES).any(|number| {
        let at = size / SAMPLES * number / SAMPLE as u64 * SAMPLE as u64;
        // What cannot be read may be anything.
        disk.read_exact_at(&mut sample, at).is_err() || sample.iter().any(|byte| *byte != 0)
    })
}

fn cards() -> Vec<Card> {
    let card = |name: String| {
        let folder = Path::new("/sys/class/net").join(&name);
        let driver = fs::read_link(folder.join("device/driver")).ok()?;
        let mac = text(folder.join("address")).parse().ok()?;
        let speed = text(folder.join("speed")).parse::<i64>().ok().and_then(|speed| u32::try_from(speed).ok());
        let has_link = text(folder.join("carrier")) == "1";
        let driver = driver.file_name()?.to_str()?.into();
        Some(Card { name: name.into(), mac, driver, speed: speed.filter(|_| has_link) })
    };
    names("/sys/class/net").into_iter().filter_map(card).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_every_board_of_a_maker_has_is_none() {
        for none in [
            "",
            "0",
            "Default string",
            "00000000-0000-0000-0000-000000000000",
            "FFFFFFFF",
            "To be filled by O.E.M.",
            "xx",
        ] {
            assert_eq!(number(none), None, "{none}");
        }
        assert_eq!(number(" 4C4C4544-0042 \n").as_deref(), Some("4c4c4544-0042"));
    }

    #[test]
    fn this_machine_has_parts() {
        let inventory = take();
        assert!(inventory.memory > 0 && inventory.cpus > 0 && !inventory.processor.is_empty());
        assert!(inventory.lines().len() >= 3);
    }
}
