//! One virtual machine with a power switch.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use bramble_model::boot_set::Architecture;
use bramble_model::names::Name;
use bramble_model::repository::{LabFirmware, LabMachine, Node};
use tokio::process::{Child, Command};
use tokio::time::sleep;

use crate::accelerator::Accelerator;
use crate::{Error, Places, network};

/// Code and variables of UEFI, by distribution. Those called `ms` have Microsoft's keys enrolled, and
/// start nothing that is not signed by one of them.
pub(crate) const OVMF: &[(&str, &str)] = &[
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
];
const OVMF_SECURE: &[(&str, &str)] = &[
    ("/usr/share/OVMF/OVMF_CODE_4M.ms.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"),
    ("/usr/share/OVMF/OVMF_CODE.ms.fd", "/usr/share/OVMF/OVMF_VARS.ms.fd"),
];
const AAVMF: &[(&str, &str)] = &[
    ("/usr/share/AAVMF/AAVMF_CODE.no-secboot.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),
    ("/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),
];
const AAVMF_SECURE: &[(&str, &str)] = &[("/usr/share/AAVMF/AAVMF_CODE.ms.fd", "/usr/share/AAVMF/AAVMF_VARS.ms.fd")];

/// Where the firmware of this machine may be; nothing for a BIOS, which QEMU has itself.
fn uefi(machine: &LabMachine) -> &'static [(&'static str, &'static str)] {
    match (machine.architecture, machine.firmware) {
        (_, LabFirmware::Bios) => &[],
        (Architecture::Amd64, LabFirmware::UefiSecure) => OVMF_SECURE,
        (Architecture::Amd64, _) => OVMF,
        (Architecture::Arm64, LabFirmware::UefiSecure) => AAVMF_SECURE,
        (Architecture::Arm64, _) => AAVMF,
    }
}

/// The program that is a computer of this architecture, and the Debian package of its UEFI.
fn qemu(architecture: Architecture) -> (&'static str, &'static str) {
    match architecture {
        Architecture::Amd64 => ("qemu-system-x86_64", "ovmf"),
        Architecture::Arm64 => ("qemu-system-aarch64", "qemu-efi-aarch64"),
    }
}

/// QEMU's board. UEFI keeps its keys from the system where only the processor's system management
/// mode may write its variables.
fn board(machine: &LabMachine) -> &'static [&'static str] {
    match (machine.architecture, machine.firmware) {
        (Architecture::Amd64, LabFirmware::UefiSecure) => {
            &["-machine", "q35,usb=off,vmport=off,smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on"]
        }
        (Architecture::Amd64, _) => &["-machine", "q35,usb=off,vmport=off"],
        (Architecture::Arm64, _) => &["-machine", "virt,usb=off"],
    }
}

/// Emulated processors are more than this computer has. A manager's come first then: its workers
/// have no Swarm to join before it is up.
const YIELDING: u8 = 10;

/// The machine.
pub(crate) struct Machine {
    pub(crate) node: Name,
    pub(crate) firmware: LabFirmware,
    architecture: Architecture,
    pub(crate) console: PathBuf,
    arguments: Vec<String>,
    /// Has the UUID that its firmware says: another one in it is another board.
    board: PathBuf,
    /// How much it yields to the other machines, nice(2).
    nice: u8,
    /// Where its TPM's state is, which is all that makes it this one; `None` for a machine without.
    tpm: Option<PathBuf>,
    tpm_process: Option<Child>,
    process: Option<Child>,
}

/// How long a TPM may take to be there.
const TPM_START: Duration = Duration::from_secs(10);

/// The socket over which QEMU controls the TPM of this state.
fn control(state: &Path) -> PathBuf {
    state.join("control.sock")
}

/// Switches on a TPM, which is off again when QEMU has ended.
async fn start_tpm(state: &Path) -> Result<Child, Error> {
    let control = control(state);
    // Of a machine whose power was cut, which its TPM may have outlived for a moment.
    let _ = fs::remove_file(&control);
    let (folder, socket) = (format!("dir={}", state.display()), format!("type=unixio,path={}", control.display()));
    let started = Command::new("swtpm")
        .args(["socket", "--tpm2", "--terminate", "--tpmstate", &folder, "--ctrl", &socket])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let mut tpm = started.map_err(Error::io("cannot start swtpm (package swtpm): a machine has `lab.tpm = true`"))?;
    let start = Instant::now();
    while !control.exists() {
        let ended = tpm.try_wait().map_err(Error::io("cannot look at swtpm"))?;
        if let Some(status) = ended {
            return Err(Error::Ended(format!("swtpm ended: {status}")));
        }
        if start.elapsed() > TPM_START {
            return Err(Error::Ended(format!("swtpm did not start within {} s", TPM_START.as_secs())));
        }
        sleep(Duration::from_millis(10)).await;
    }
    Ok(tpm)
}

/// The UUID that a machine's firmware says: each has its own, as real ones have.
fn uuid(mac: &str) -> String {
    format!("6272616d-626c-4065-8000-{}", mac.replace(':', ""))
}

impl Machine {
    /// Makes disk, firmware variables and tap; the machine is off.
    pub(crate) fn make(
        node: &Name,
        declared: &Node,
        index: usize,
        bridge: &str,
        accelerator: &Accelerator,
        places: &Places,
    ) -> Result<Self, Error> {
        let folder = places.scratch().join(node.as_str());
        fs::create_dir_all(&folder).map_err(Error::io("cannot make the machine's folder"))?;
        let mac = declared.macs.first().map(ToString::to_string).unwrap_or_default();
        let own_uuid = folder.join("uuid");
        fs::write(&own_uuid, uuid(&mac)).map_err(Error::io("cannot write the machine's UUID"))?;
        let disk = folder.join("disk.raw");
        File::create(&disk)
            .and_then(|file| file.set_len(u64::from(declared.machine.disk) << 30))
            .map_err(Error::io("cannot make the machine's disk"))?;
        let console = places.console(node.as_str());
        fs::create_dir_all(console.parent().unwrap_or(&folder))
            .map_err(Error::io("cannot make the console's folder"))?;
        File::create(&console).map_err(Error::io("cannot make the console's file"))?;
        let tap = format!("tap{index}");
        network::tap(&tap, bridge)?;
        let plain = accelerator.arguments(declared.machine.architecture);
        let plain = plain.iter().chain(board(&declared.machine));
        let mut arguments: Vec<String> = plain.map(|text| (*text).to_owned()).collect();
        // The card's own ROM is iPXE, also for UEFI on amd64: it would boot in HTTP boot's place, and is
        // not signed.
        let own_rom = matches!(declared.machine.firmware, LabFirmware::Bios | LabFirmware::Uefi)
            && declared.machine.architecture == Architecture::Amd64;
        let rom = if own_rom { "" } else { ",romfile=" };
        let more = [
            "-name".to_owned(),
            node.to_string(),
            "-nodefaults".into(),
            "-display".into(),
            "none".into(),
            "-smp".into(),
            declared.machine.cpus.to_string(),
            "-m".into(),
            declared.machine.memory.to_string(),
            "-serial".into(),
            format!("file:{}", console.display()),
            "-netdev".into(),
            format!("tap,id=wire,ifname={tap},script=no,downscript=no"),
            "-device".into(),
            format!("virtio-net-pci,netdev=wire,mac={mac},bootindex=1{rom}"),
            "-drive".into(),
            format!("if=none,id=disk,format=raw,cache=unsafe,file={}", disk.display()),
            "-device".into(),
            "virtio-blk-pci,drive=disk,bootindex=2".into(),
            "-device".into(),
            "virtio-rng-pci".into(),
        ];
        arguments.extend(more);
        if declared.machine.firmware == LabFirmware::UefiHttp {
            // OVMF's own switch (OvmfPkg, "PXE boot support at run time"): HTTP boot comes next in its order.
            for version in ["IPv4PXESupport", "IPv6PXESupport"] {
                arguments.extend(["-fw_cfg".into(), format!("name=opt/org.tianocore/{version},string=no")]);
            }
        }
        let known = uefi(&declared.machine);
        if !known.is_empty() {
            let (_, package) = qemu(declared.machine.architecture);
            let missing = || Error::Ended(format!("UEFI firmware is missing: install the package `{package}`"));
            let (code, variables) =
                known.iter().find(|(code, _)| std::path::Path::new(code).exists()).ok_or_else(missing)?;
            let own = folder.join("variables.fd");
            fs::copy(variables, &own).map_err(Error::io("cannot copy the firmware's variables"))?;
            arguments.extend([
                "-drive".into(),
                format!("if=pflash,unit=0,format=raw,readonly=on,file={code}"),
                "-drive".into(),
                format!("if=pflash,unit=1,format=raw,file={}", own.display()),
            ]);
        }
        let tpm = declared.machine.tpm.then(|| folder.join("tpm"));
        if let Some(state) = &tpm {
            fs::create_dir_all(state).map_err(Error::io("cannot make the folder of the machine's TPM"))?;
            arguments.extend([
                "-chardev".into(),
                format!("socket,id=tpm,path={}", control(state).display()),
                "-tpmdev".into(),
                "emulator,id=tpm0,chardev=tpm".into(),
                "-device".into(),
                "tpm-crb,tpmdev=tpm0".into(),
            ]);
        }
        let works = !declared.engines.is_empty() && !declared.is_manager();
        let nice = if matches!(accelerator, Accelerator::Emulation(_)) && works { YIELDING } else { 0 };
        let LabMachine { firmware, architecture, .. } = declared.machine;
        Ok(Machine {
            node: node.clone(),
            firmware,
            architecture,
            console,
            arguments,
            board: own_uuid,
            nice,
            tpm,
            tpm_process: None,
            process: None,
        })
    }

    /// The process, while the machine is on. A machine that switched itself off is off.
    pub(crate) fn process(&mut self) -> Option<u32> {
        if let Some(process) = &mut self.process
            && matches!(process.try_wait(), Ok(Some(_)) | Err(_))
        {
            self.process = None;
        }
        self.process.as_ref().and_then(Child::id)
    }

    /// Presses the switch. On and on stays on.
    pub(crate) async fn power(&mut self, on: bool) -> Result<(), Error> {
        match (on, self.process()) {
            (true, None) => {
                // QEMU's own complaints go behind what the machine printed.
                let log =
                    File::options().append(true).open(&self.console).map_err(Error::io("cannot open the console"))?;
                let (qemu, _) = qemu(self.architecture);
                if let Some(state) = &self.tpm {
                    self.tpm_process = Some(start_tpm(state).await?);
                }
                let board = fs::read_to_string(&self.board).map_err(Error::io("cannot read the machine's UUID"))?;
                let process = Command::new("nice")
                    .args(["-n", &self.nice.to_string(), qemu, "-uuid", board.trim()])
                    .args(&self.arguments)
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(log)
                    .kill_on_drop(true)
                    .spawn()
                    .map_err(Error::io(format!("cannot start {qemu}")))?;
                self.process = Some(process);
                Ok(())
            }
            (false, Some(_)) => {
                if let Some(mut process) = self.process.take() {
                    process.kill().await.map_err(Error::io("cannot cut the power"))?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
