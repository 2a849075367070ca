//! A real TPM 2.0 of its own: `swtpm`, whose socket takes the same commands as the device of a machine.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use bramble_tpm::{Device, Tpm};

/// A TPM, on until it is dropped.
#[derive(Debug)]
pub struct Chip {
    child: Child,
    stream: UnixStream,
}

impl Chip {
    /// Switches on the TPM whose state is in this folder; an empty one is a new TPM.
    pub fn on(state: &Path) -> Tpm<Chip> {
        let (server, ctrl) = (state.join("server"), state.join("ctrl"));
        for socket in [&server, &ctrl] {
            let _ = std::fs::remove_file(socket);
        }
        let child = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .args(["--tpmstate", &format!("dir={}", state.display())])
            .args(["--server", &format!("type=unixio,path={}", server.display())])
            .args(["--ctrl", &format!("type=unixio,path={}", ctrl.display())])
            .stdin(Stdio::null())
            .spawn()
            .expect("swtpm (package swtpm) starts");
        let start = Instant::now();
        let stream = loop {
            match UnixStream::connect(&server) {
                Ok(stream) => break stream,
                Err(error) => assert!(start.elapsed() < Duration::from_secs(30), "no swtpm: {error}"),
            }
            sleep(Duration::from_millis(10));
        };
        Tpm::new(Chip { child, stream })
    }
}

impl Drop for Chip {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Device for Chip {
    fn transmit(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        self.stream.write_all(command)?;
        let mut answer = vec![0; 10];
        self.stream.read_exact(&mut answer)?;
        let length = u32::from_be_bytes([answer[2], answer[3], answer[4], answer[5]]);
        answer.resize(length as usize, 0);
        self.stream.read_exact(&mut answer[10..])?;
        Ok(answer)
    }
}
