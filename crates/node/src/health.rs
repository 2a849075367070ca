//! What the machine is and how it is, from `/proc` (proc(5)).

use std::fs;
use std::io::Write;

use bramble_model::agent::{EngineState, Facts, Health};

use crate::Boot;

pub(crate) fn facts(boot: &Boot) -> Facts {
    let system = rustix::system::uname();
    Facts {
        kernel: system.release().to_string_lossy().into_owned(),
        architecture: system.machine().to_string_lossy().into_owned(),
        cpus: std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX)),
        memory: kibibytes("/proc/meminfo", "MemTotal:") * 1024,
        set: boot.set.clone(),
        address: boot.address,
    }
}

pub(crate) fn health(engine: EngineState) -> Health {
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    Health {
        uptime: uptime.split(['.', ' ']).next().and_then(|seconds| seconds.parse().ok()).unwrap_or(0),
        memory_available: kibibytes("/proc/meminfo", "MemAvailable:") * 1024,
        disk_available: rustix::fs::statvfs("/var").map_or(0, |space| space.f_bavail * space.f_frsize),
        killed_for_memory: killed_for_memory(),
        agent_resident: kibibytes("/proc/self/status", "VmRSS:") * 1024,
        engine,
    }
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

pub(crate) fn say_on_console(text: &str) {
    if let Ok(mut console) = fs::OpenOptions::new().write(true).open("/dev/console") {
        // A console that is away hears nothing; the journal has it too.
        let _ = writeln!(console, "bramble: {text}\r");
    }
}
