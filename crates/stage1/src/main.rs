//! Stage 1: the first program of a booting node, `/init` of the initrd.
//!
//! ```text
//! kernel ─▶ drivers ─▶ network ─▶ claim ─▶ manifest ─▶ layers ─▶ mount ─▶ switch root ─▶ systemd
//!              ▲__________________ failed: say why, wait, try again __________________|
//! ```
//! It never opens a shell and never boots what the signed manifest does not vouch for. What goes
//! wrong is said on the console and to the head, and tried again until it works or someone
//! switches the machine off.

mod claim;
mod clock;
mod data;
mod drivers;
mod error;
mod gpt;
mod http;
mod layers;
mod loop_device;
mod manifest;
mod memory;
mod network;
mod report;
mod root;

use std::fs;
use std::thread;
use std::time::Duration;

use bramble_boot::{Arguments, Failure, Step};
use claim::Nonce;
use error::{Doing, Error};
use report::Reporter;

fn main() {
    if std::process::id() != 1 {
        eprintln!("bramble-stage1 is the first program of a booting node and does nothing elsewhere");
        std::process::exit(2);
    }
    let mut reporter = Reporter::console();
    let mut waits = Backoff::default();
    if let Err(error) = root::early_mounts() {
        reporter.failed(&error, waits.next());
    }
    let mut nonce = Nonce::default();
    loop {
        let error = match boot(&mut reporter, &mut nonce) {
            Ok(()) => break,
            Err(error) => error,
        };
        let wait = waits.next();
        reporter.failed(&error, wait);
        thread::sleep(wait);
    }
    reporter.flush();
    let error = root::switch();
    // The kernel panics when its first program ends, and `panic=30` starts the machine again.
    reporter.failed(&error, Duration::from_secs(30));
}

/// One attempt to put the root together. Everything it does can be done again by the next.
fn boot(reporter: &mut Reporter, nonce: &mut Nonce) -> Result<(), Error> {
    let line = fs::read_to_string("/proc/cmdline").doing("cannot read the kernel's command line")?;
    let arguments = Arguments::read(&line).map_err(|missing| Error::new(Failure::Arguments, missing.to_string()))?;
    reporter.step(Step::Drivers, None);
    let mut drivers = drivers::Drivers::read()?;
    drivers.load_for_devices()?;
    drivers.load(&["loop", "squashfs", "overlay"])?;
    let interface = network::up(&arguments, &mut drivers)?;
    reporter.connect(&arguments, nonce.word());
    reporter.step(Step::Network, None);
    let proof = claim::claim(&arguments, nonce)?;
    reporter.connect(&arguments, proof.report.as_deref());
    // Nothing is mounted of a machine that is not a node.
    let wanted = arguments.data.filter(|_| !arguments.inventory);
    let data = wanted.and_then(|wanted| data::open(wanted, &mut drivers, reporter));
    if wanted.is_none() && !arguments.inventory {
        data::tell_of_former(reporter);
    }
    let manifest = manifest::fetch(&arguments, data.as_deref())?;
    let paths = layers::gather(&arguments, &manifest, data.as_deref(), reporter)?;
    let data = data::prepared(data, wanted, &manifest.data, reporter);
    reporter.step(Step::Mount, None);
    root::assemble(&paths, &manifest.data, data.as_deref())?;
    root::hand_over(&arguments, proof, &interface)?;
    reporter.step(Step::SwitchRoot, None);
    Ok(())
}

/// 1, 2, 4, 8 … 30 seconds.
#[derive(Default)]
struct Backoff {
    tries: u32,
}

impl Backoff {
    fn next(&mut self) -> Duration {
        let seconds = 1_u64 << self.tries.min(5);
        self.tries += 1;
        Duration::from_secs(seconds.min(30))
    }
}
