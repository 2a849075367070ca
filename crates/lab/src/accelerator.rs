//! Can this computer run machines with KVM? Found out by running one.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use bramble_model::boot_set::Architecture;
use bramble_system::{Command, Failure};

use crate::machine::OVMF;

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
            _ if spoke => Self::probe_uefi(),
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

    /// Under a KVM that is nested in another one a BIOS may run, and a machine stop at the first instruction that has to be
    /// emulated for it: OVMF sets up its floating point before anything else, and QEMU says "KVM internal error".
    fn probe_uefi() -> Accelerator {
        let Some(code) = OVMF.iter().map(|(code, _)| Path::new(code)).find(|code| code.exists()) else {
            return Accelerator::Kvm;
        };
        // `timeout` leaves what QEMU said; it runs for ever where all is well.
        let run = Command::new("timeout")
            .args(["1.5", "qemu-system-x86_64", "-accel", "kvm", "-cpu", "host", "-machine", "q35", "-m", "256"])
            .args(["-display", "none", "-nodefaults", "-no-reboot", "-drive"])
            .arg(format!("if=pflash,format=raw,readonly=on,file={}", code.display()))
            .limit(Duration::from_secs(5))
            .run();
        Self::of_uefi(&run.err().map(|error| error.failure))
    }

    /// What a machine with UEFI that was stopped says of KVM.
    fn of_uefi(ended: &Option<Failure>) -> Accelerator {
        match ended {
            Some(Failure::Failed { stderr, .. }) if stderr.contains("KVM internal error") => Accelerator::Emulation(
                "/dev/kvm runs a BIOS, and stops a machine with UEFI (KVM internal error)".into(),
            ),
            _ => Accelerator::Kvm,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seen on a computer that is a virtual machine itself: SeaBIOS came up, and every machine of the lab stood still.
    #[test]
    fn a_kvm_that_stops_machines_is_not_used() {
        let said = |stderr: &str| Failure::Failed { status: "124".into(), code: Some(124), stderr: stderr.into() };
        let broken = said("KVM internal error. Suberror: 1\nextra data[0]: 0x0000000000000001\nemulation failure\n");
        assert!(matches!(Accelerator::of_uefi(&Some(broken)), Accelerator::Emulation(_)));
        let stopped = said("qemu-system-x86_64: terminating on signal 15 from pid 7 (timeout)\n");
        assert_eq!(Accelerator::of_uefi(&Some(stopped)), Accelerator::Kvm);
    }
}
