//! What the machine is and how it is, from `/proc` (proc(5)).

use std::fs;
use std::io::Write;

use bramble_boot::plain;
use bramble_model::agent::{Facts, Health, Refuses};

use crate::ThisBoot;
use crate::engine::{States, folders};

pub(crate) fn facts(boot: &ThisBoot) -> Facts {
    let system = rustix::system::uname();
    Facts {
        kernel: (*system.release().to_string_lossy()).into(),
        architecture: (*system.machine().to_string_lossy()).into(),
        cpus: std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX)),
        memory: memory(),
        set: boot.set.as_str().into(),
        address: boot.address,
    }
}

/// Bytes of memory.
pub(crate) fn memory() -> u64 {
    kibibytes("/proc/meminfo", "MemTotal:") * 1024
}

/// What is measured from one report to the next.
#[derive(Default)]
pub(crate) struct Meter {
    /// Clock ticks of all processors since the start: working, and in all.
    ticks: (u64, u64),
}

impl Meter {
    /// Share of the processors that worked since the last question, in percent.
    fn busy(&mut self) -> u8 {
        let ticks = ticks(&fs::read_to_string("/proc/stat").unwrap_or_default());
        let (working, all) = (ticks.0.saturating_sub(self.ticks.0), ticks.1.saturating_sub(self.ticks.1));
        self.ticks = ticks;
        u8::try_from((working * 100).checked_div(all).unwrap_or(0)).unwrap_or(100)
    }

    pub(crate) fn health(&mut self, engines: States, refuses: Option<Refuses>) -> Health {
        let busy = self.busy();
        Health { refuses, ..health(engines, busy) }
    }
}

/// Working and all ticks in `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal.
fn ticks(stat: &str) -> (u64, u64) {
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).take(8).filter_map(|word| word.parse().ok()).collect();
    let all = ticks.iter().sum();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    (all - idle, all)
}

/// The hottest sensor in degrees (`/sys/class/thermal`, in thousandths).
pub(crate) fn temperature() -> Option<i16> {
    let zones = fs::read_dir("/sys/class/thermal").ok()?.flatten();
    let read = |path: std::path::PathBuf| fs::read_to_string(path.join("temp")).ok()?.trim().parse::<i32>().ok();
    let hottest = zones.filter_map(|zone| read(zone.path())).max()?;
    i16::try_from(hottest / 1000).ok()
}

fn health(engines: States, busy: u8) -> Health {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    Health {
        uptime: uptime.split(['.', ' ']).next().and_then(|seconds| seconds.parse().ok()).unwrap_or(0),
        busy,
        load: load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
        temperature: temperature(),
        memory_available: kibibytes("/proc/meminfo", "MemAvailable:") * 1024,
        disk_available: least_free(growing()),
        killed_for_memory: killed_for_memory(),
        agent_resident: kibibytes("/proc/self/status", "VmRSS:") * 1024,
        engines,
        refuses: None,
    }
}

/// Where the node and its engines keep what grows; an engine's folder may be on a disk of its own.
fn growing() -> impl Iterator<Item = &'static str> {
    folders().chain(["/var"])
}

/// Bytes free in the fullest of these folders that are there; `None` where none can be asked.
fn least_free<'a>(folders: impl IntoIterator<Item = &'a str>) -> Option<u64> {
    let free = folders.into_iter().filter_map(|folder| rustix::fs::statvfs(folder).ok());
    free.map(|space| space.f_bavail * space.f_frsize).min()
}

/// The kernel's count since it started (`oom_kill` in `/proc/vmstat`).
fn killed_for_memory() -> u64 {
    let text = fs::read_to_string("/proc/vmstat").unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
}

fn kibibytes(path: &str, name: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// The longest line on a console, in bytes.
const LONGEST_LINE: usize = 1000;

/// A console obeys what it is sent: only a plain line goes there.
pub(crate) fn say_on_console(text: &str) {
    if let Ok(mut console) = fs::OpenOptions::new().write(true).open("/dev/console") {
        // A console that is away hears nothing; the journal has it too.
        let _ = writeln!(console, "bramble: {}\r", plain::line(text, LONGEST_LINE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fault 11 of the ground: a full disk of the engine's own was not seen, since only `/var` was looked at.
    #[test]
    fn the_fullest_folder_is_what_counts() {
        // proc(5) has a file system without a free byte.
        assert!(least_free(["/", "/nowhere"]).is_some_and(|free| free > 0));
        assert_eq!(least_free(["/", "/proc"]), Some(0), "a full one is not one that cannot be asked");
        assert_eq!(least_free(["/nowhere"]), None);
        let asked: Vec<&str> = growing().collect();
        assert!(asked.contains(&"/var/lib/docker") && asked.contains(&"/var"), "{asked:?}");
    }

    #[test]
    fn working_ticks_are_those_that_are_not_idle() {
        assert_eq!(ticks("cpu  10 1 5 80 4 0 0 0 0 0\ncpu0 1 1 1 1\n"), (16, 100));
        assert_eq!(ticks(""), (0, 0));
    }
}
