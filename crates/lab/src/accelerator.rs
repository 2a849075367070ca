//! Can this computer run machines with KVM? Found out by running one.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use bramble_model::boot_set::Architecture;
use bramble_system::{Command, Failure};

/// How the machines run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Accelerator {
    Kvm,
    /// In software, and why.
    Emulation(String),
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Accelerator::Kvm => f.write_str("KVM"),
            Accelerator::Emulation(why) => write!(f, "software emulation: {why}"),
        }
    }
}

impl Accelerator {
    /// QEMU's arguments for a machine of this architecture. In emulation the model has to be plain, since with `max` some QEMU versions
    /// break guest kernels, and an AMD one: guests then know themselves safe from Meltdown, keep
    /// one page table for kernel and programs, and a boot takes a sixth less than with Nehalem.
    ///
    /// KVM is asked of amd64 only, and what is not this computer's own architecture is always emulated.
    pub(crate) fn arguments(&self, architecture: Architecture) -> [&'static str; 4] {
        let emulated = "tcg,thread=multi,tb-size=256";
        match (self, architecture) {
            (Accelerator::Kvm, Architecture::Amd64) => ["-accel", "kvm", "-cpu", "host"],
            (_, Architecture::Amd64) => ["-accel", emulated, "-cpu", "Opteron_G3,-svm"],
            (_, Architecture::Arm64) => ["-accel", emulated, "-cpu", "cortex-a72"],
        }
    }

    /// Starts a machine with firmware and nothing else, and looks whether the firmware speaks
    /// (SeaBIOS writes to port 0x402): `/dev/kvm` may exist and not work.
    pub(crate) fn probe(scratch: &Path) -> Accelerator {
        if !Path::new("/dev/kvm").exists() {
            return Accelerator::Emulation("this computer has no /dev/kvm".into());
        }
        let log = scratch.join("kvm-probe");
        let run = Command::new("qemu-system-x86_64")
            .args(["-accel", "kvm", "-cpu", "host", "-m", "64", "-display", "none", "-nodefaults", "-no-reboot"])
            .arg("-debugcon")
            .arg(format!("file:{}", log.display()))
            .args(["-global", "isa-debugcon.iobase=0x402"])
            .limit(Duration::from_secs(3))
            .run();
        let spoke = std::fs::metadata(&log).is_ok_and(|data| data.len() > 0);
        // The next probe makes its own.
        let _ = std::fs::remove_file(&log);
        match run {
            _ if spoke => Accelerator::Kvm,
            Err(error) => match error.failure {
                Failure::Failed { stderr, .. } => {
                    let line = stderr.lines().next().unwrap_or("QEMU failed").to_owned();
                    Accelerator::Emulation(format!("/dev/kvm does not work ({line})"))
                }
                _ => Accelerator::Emulation("a machine under KVM did not start its firmware".into()),
            },
            Ok(_) => Accelerator::Emulation("a machine under KVM ended at once".into()),
        }
    }
}
