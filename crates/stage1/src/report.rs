//! What happens, told on the console and to the head.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::SocketAddrV4;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bramble_boot::{Arguments, Report, Step, plain, report_path};

use crate::error::Error;
use crate::http;

/// Tells the console; and the head once there is a network.
pub struct Reporter {
    head: Option<Head>,
    /// The last step and percentage that was told.
    last: Option<(Step, Option<u8>)>,
}

struct Head {
    /// Where each report goes, and what it says.
    queue: Sender<(String, String)>,
    thread: JoinHandle<()>,
    path: String,
}

/// The longest line on a console, in bytes.
const LONGEST_LINE: usize = 1000;
/// A head that is slower than this misses a report.
const SILENCE: Duration = Duration::from_secs(3);

impl Reporter {
    pub fn console() -> Self {
        Reporter { head: None, last: None }
    }

    /// What is told from now on goes to the head, too; `claimed` is its word for reports, where the boot has one.
    pub fn connect(&mut self, arguments: &Arguments, claimed: Option<&str>) {
        let path = report_path(&arguments.boot, claimed);
        if let Some(head) = &mut self.head {
            head.path = path;
            return;
        }
        let (queue, reports) = mpsc::channel::<(String, String)>();
        let head: SocketAddrV4 = arguments.head;
        let thread = thread::spawn(move || {
            for (path, report) in reports {
                // A head that is away misses a report, no more: the boot does not depend on it.
                let _ = http::post(head, &path, &report, SILENCE);
            }
        });
        self.head = Some(Head { queue, thread, path });
    }

    pub fn step(&mut self, step: Step, percent: Option<u8>) {
        let now = Some((step.clone(), percent));
        if self.last == now {
            return;
        }
        self.last = now;
        match percent {
            Some(percent) => say(&format!("{step} {percent} %")),
            None => say(step.as_str()),
        }
        self.send(&Report::Step { step, percent });
    }

    /// Tells a share of the whole, in steps of ten percent.
    pub fn percent(&mut self, step: Step, done: u64, total: u64) {
        let percent = (done * 10).checked_div(total).unwrap_or(10).min(10) as u8 * 10;
        self.step(step, Some(percent));
    }

    pub fn failed(&mut self, error: &Error, wait: Duration) {
        say(&format!("FAILED: {error}"));
        say(&format!("trying again in {} s", wait.as_secs()));
        self.send(&Report::Failed {
            kind: Some(error.kind.clone()),
            reason: error.sentence.clone(),
            retry_in_seconds: wait.as_secs(),
        });
    }

    /// Tells what is wrong where the boot goes on all the same.
    pub fn remark(&mut self, error: &Error) {
        say(&error.sentence);
        self.send(&Report::Failed {
            kind: Some(error.kind.clone()),
            reason: error.sentence.clone(),
            retry_in_seconds: 0,
        });
    }

    fn send(&self, report: &Report) {
        if let Some(head) = &self.head {
            // The receiver lives as long as the sender.
            let _ = head.queue.send((head.path.clone(), report.render()));
        }
    }

    /// Waits until everything has been told.
    pub fn flush(&mut self) {
        if let Some(head) = self.head.take() {
            drop(head.queue);
            let _ = head.thread.join();
        }
    }
}

/// On the serial console and on the screen, whichever there is.
///
/// A console obeys what it is sent, and some of this a head said, or whoever answers in its place: only a plain line goes
/// there.
fn say(text: &str) {
    let text = plain::line(text, LONGEST_LINE);
    for path in ["/dev/console", "/dev/tty0"] {
        if let Ok(mut console) = OpenOptions::new().write(true).open(path) {
            let _ = writeln!(console, "bramble: {text}\r");
        }
    }
}
