//! One wire with any number of simulated machines on it: a TAP device, whose other end is the real
//! network stack that the head and its rivals run on.

use std::collections::{HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bramble_model::names::Mac;

/// What the wire does to the packets of one machine, both ways.
#[derive(Debug, Clone, Copy, Default)]
pub struct Trouble {
    /// Shares of packets, of 100.
    pub lost: u32,
    pub doubled: u32,
    pub late: u32,
    /// Everything is lost for so long after power-on: a switch port that runs spanning tree.
    pub silent: Duration,
    /// Frames towards the machine that are longer than this are lost: an MTU that is too small.
    pub longest: Option<usize>,
}

type Ports = Arc<Mutex<HashMap<Mac, Sender<Vec<u8>>>>>;

/// The wire.
#[derive(Clone)]
pub struct Wire {
    tap: Arc<File>,
    ports: Ports,
}

impl Wire {
    /// Makes the TAP device `name`, down, in this network namespace.
    pub fn make(name: &str) -> Self {
        let tap = OpenOptions::new().read(true).write(true).open("/dev/net/tun").expect("/dev/net/tun");
        // SAFETY: plain data, valid when zeroed.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
        // SAFETY: the descriptor is open and the request lives through the call.
        let made = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF as libc::Ioctl, &raw mut request) };
        assert_eq!(made, 0, "TUNSETIFF: {}", std::io::Error::last_os_error());
        let wire = Wire { tap: Arc::new(tap), ports: Ports::default() };
        let (tap, ports) = (Arc::clone(&wire.tap), Arc::clone(&wire.ports));
        thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            // Ends with the process: the reader holds no more than the device.
            while let Ok(length) = (&*tap).read(&mut buffer) {
                deliver(&buffer[..length], &ports);
            }
        });
        wire
    }

    /// Sends a frame that no machine of its own sends.
    pub fn send(&self, frame: &[u8]) {
        (&*self.tap).write_all(frame).expect("the device takes it");
    }

    /// Plugs a machine in. What the wire does to its packets depends on `seed` alone.
    pub fn plug(&self, mac: Mac, trouble: Trouble, seed: u64) -> Plug {
        let (sender, frames) = channel();
        self.ports.lock().expect("no panic while held").insert(mac, sender);
        Plug {
            mac,
            trouble,
            wire: self.clone(),
            frames,
            since: Instant::now(),
            dice: Dice(seed | 1),
            held: None,
            waiting: VecDeque::new(),
        }
    }
}

/// A frame goes to the machine it is for, or to all.
fn deliver(frame: &[u8], ports: &Ports) {
    let Some(target) = frame.get(..6).and_then(|mac| mac.try_into().ok()).map(Mac) else { return };
    let ports = ports.lock().expect("no panic while held");
    if target.is_group() {
        for port in ports.values() {
            // A machine that was unplugged hears nothing.
            let _ = port.send(frame.to_vec());
        }
    } else if let Some(port) = ports.get(&target) {
        let _ = port.send(frame.to_vec());
    }
}

/// A machine's end of the wire.
pub struct Plug {
    pub mac: Mac,
    trouble: Trouble,
    wire: Wire,
    frames: Receiver<Vec<u8>>,
    since: Instant,
    dice: Dice,
    /// A frame that leaves behind the next one.
    held: Option<Vec<u8>>,
    /// Frames that have arrived twice or late.
    waiting: VecDeque<Vec<u8>>,
}

impl Plug {
    fn is_silent(&self) -> bool {
        self.since.elapsed() < self.trouble.silent
    }

    pub fn send(&mut self, frame: &[u8]) {
        if self.is_silent() || self.dice.falls(self.trouble.lost) {
            return;
        }
        if self.held.is_none() && self.dice.falls(self.trouble.late) {
            self.held = Some(frame.to_vec());
            return;
        }
        let twice = self.dice.falls(self.trouble.doubled);
        for _ in 0..=u32::from(twice) {
            self.write(frame);
        }
        if let Some(late) = self.held.take() {
            self.write(&late);
        }
    }

    fn write(&self, frame: &[u8]) {
        // A full device loses frames, as a wire does.
        let _ = (&*self.wire.tap).write(frame);
    }

    /// The next frame, until `deadline`.
    pub fn receive(&mut self, deadline: Instant) -> Option<Vec<u8>> {
        loop {
            if let Some(frame) = self.waiting.pop_front() {
                return Some(frame);
            }
            // No frame may follow the one that was held back to come late: then it goes by itself.
            let patience = if self.held.is_some() { Duration::from_millis(20) } else { Duration::MAX };
            let left = deadline.saturating_duration_since(Instant::now());
            let frame = match self.frames.recv_timeout(left.min(patience)) {
                Ok(frame) => frame,
                Err(RecvTimeoutError::Timeout) if left > patience => {
                    if let Some(late) = self.held.take() {
                        self.write(&late);
                    }
                    continue;
                }
                Err(_) => return None,
            };
            let too_long = self.trouble.longest.is_some_and(|longest| frame.len() > longest + 14);
            if self.is_silent() || too_long || self.dice.falls(self.trouble.lost) {
                continue;
            }
            if self.dice.falls(self.trouble.doubled) {
                self.waiting.push_back(frame.clone());
            }
            if self.dice.falls(self.trouble.late)
                && let Ok(next) = self.frames.recv_timeout(Duration::from_millis(20))
            {
                self.waiting.push_back(frame);
                return Some(next);
            }
            return Some(frame);
        }
    }
}

impl Drop for Plug {
    fn drop(&mut self) {
        self.wire.ports.lock().expect("no panic while held").remove(&self.mac);
    }
}

/// Numbers that look random and are the same for the same seed (xorshift).
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn falls(&mut self, of_100: u32) -> bool {
        of_100 > 0 && self.roll() % 100 < u64::from(of_100)
    }
}
