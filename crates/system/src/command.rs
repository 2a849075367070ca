//! Other programs: by argv and never through a shell, with a time limit and a way to stop them.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// How often a running program is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How long a program may clean up after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(10);
/// How much of its standard error is kept, in bytes.
const KEPT: usize = 64 << 10;

/// Set once, seen everywhere: stop what you are doing and clean up.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A program to run to its end.
#[derive(Debug)]
pub struct Command {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    folder: Option<PathBuf>,
    input: Option<PathBuf>,
    text: Option<Vec<u8>>,
    limit: Duration,
    cancel: Cancel,
}

/// What a successful program printed.
#[derive(Debug, Clone, Default)]
pub struct Output {
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Output {
    /// Its standard output as text, without the last line break.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }
}

/// A program that did not do its work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{program}: {failure}")]
pub struct CommandError {
    pub program: String,
    pub failure: Failure,
}

/// Why it did not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// It is not installed.
    NotFound,
    CouldNotStart(String),
    /// Its exit status and the end of its standard error.
    Failed {
        status: String,
        stderr: String,
    },
    TimedOut(Duration),
    Cancelled,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::NotFound => f.write_str("not installed"),
            Failure::CouldNotStart(why) => write!(f, "could not start: {why}"),
            Failure::Failed { status, stderr } => {
                let lines: Vec<&str> = stderr.lines().filter(|line| !line.trim().is_empty()).collect();
                let last = lines[lines.len().saturating_sub(12)..].join("\n  ");
                write!(f, "{status}\n  {last}")
            }
            Failure::TimedOut(limit) => write!(f, "took longer than {} s and was stopped", limit.as_secs()),
            Failure::Cancelled => f.write_str("stopped on request"),
        }
    }
}

impl Command {
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Command {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            folder: None,
            input: None,
            text: None,
            limit: Duration::from_secs(60),
            cancel: Cancel::default(),
        }
    }

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    pub fn folder(mut self, folder: &Path) -> Self {
        self.folder = Some(folder.to_owned());
        self
    }

    /// Gives it this file as standard input.
    pub fn input(mut self, file: &Path) -> Self {
        self.input = Some(file.to_owned());
        self
    }

    /// Gives it these bytes as standard input.
    pub fn text(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.text = Some(text.into());
        self
    }

    /// The longest it may take. Default: one minute.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    pub fn cancel(mut self, cancel: &Cancel) -> Self {
        self.cancel = cancel.clone();
        self
    }

    /// Runs it to its end, in a process group of its own so that nothing it started outlives it.
    ///
    /// # Errors
    /// When it is missing, fails, takes too long or is cancelled.
    pub fn run(self) -> Result<Output, CommandError> {
        let program = self.program.to_string_lossy().into_owned();
        self.supervise().map_err(|failure| CommandError { program, failure })
    }

    fn supervise(self) -> Result<Output, Failure> {
        if self.cancel.is_cancelled() {
            return Err(Failure::Cancelled);
        }
        let could_not = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => Failure::NotFound,
            _ => Failure::CouldNotStart(error.to_string()),
        };
        let mut command = std::process::Command::new(&self.program);
        command.args(&self.args).envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        command.stdin(match (&self.input, &self.text) {
            (Some(path), _) => {
                let file = File::open(path);
                Stdio::from(file.map_err(|error| Failure::CouldNotStart(format!("{}: {error}", path.display())))?)
            }
            (None, Some(_)) => Stdio::piped(),
            (None, None) => Stdio::null(),
        });
        let mut child = Group(command.spawn().map_err(could_not)?);
        if let (Some(text), Some(mut stdin)) = (self.text.clone(), child.0.stdin.take()) {
            // A program that does not read its input is its own affair: the exit status tells.
            thread::spawn(move || stdin.write_all(&text));
        }
        let stdout = child.0.stdout.take().map(|pipe| thread::spawn(move || drain(pipe, usize::MAX)));
        let stderr = child.0.stderr.take().map(|pipe| thread::spawn(move || drain(pipe, KEPT)));
        let status = self.wait(&mut child)?;
        let collect = |reader: Option<thread::JoinHandle<Vec<u8>>>| {
            reader.and_then(|reader| reader.join().ok()).unwrap_or_default()
        };
        let (stdout, stderr) = (collect(stdout), collect(stderr));
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        if status.success() {
            Ok(Output { stdout, stderr })
        } else {
            Err(Failure::Failed { status: status.to_string(), stderr })
        }
    }

    fn wait(&self, child: &mut Group) -> Result<std::process::ExitStatus, Failure> {
        let start = Instant::now();
        loop {
            match child.0.try_wait() {
                Ok(Some(status)) => return Ok(status),
                Ok(None) => {}
                Err(error) => return Err(Failure::CouldNotStart(error.to_string())),
            }
            let over = start.elapsed() > self.limit;
            if over || self.cancel.is_cancelled() {
                child.stop();
                return Err(if over { Failure::TimedOut(self.limit) } else { Failure::Cancelled });
            }
            thread::sleep(LOOK);
        }
    }
}

/// Reads to the end and keeps the last `kept` bytes, roughly.
fn drain(mut pipe: impl Read, kept: usize) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = [0; 8192];
    while let Ok(read @ 1..) = pipe.read(&mut buffer) {
        all.extend_from_slice(&buffer[..read]);
        if all.len() / 2 > kept {
            all.drain(..all.len() - kept);
        }
    }
    all
}

/// A child that leads its own process group; dropped, the group ends.
struct Group(Child);

impl Group {
    /// SIGTERM, a while to clean up, SIGKILL.
    fn stop(&mut self) {
        self.signal(Signal::TERM);
        let start = Instant::now();
        while start.elapsed() < GRACE {
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                return;
            }
            thread::sleep(LOOK);
        }
        self.signal(Signal::KILL);
        let _ = self.0.wait();
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = Pid::from_raw(self.0.id().cast_signed()) {
            // The group may have ended by itself in between.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            self.signal(Signal::KILL);
            let _ = self.0.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_fails_tells_its_standard_error() {
        let error = Command::new("ls").arg("/no/such/folder").run().expect_err("it fails");
        assert!(error.to_string().contains("/no/such/folder"), "{error}");
    }

    #[test]
    fn a_missing_program_is_told_as_not_installed() {
        let error = Command::new("no-such-program").run().expect_err("it is missing");
        assert_eq!(error.failure, Failure::NotFound);
    }

    #[test]
    fn a_time_limit_ends_the_whole_process_group() {
        let limit = Duration::from_millis(50);
        let error = Command::new("sh").args(["-c", "sleep 60 & sleep 60"]).limit(limit).run().expect_err("too slow");
        assert_eq!(error.failure, Failure::TimedOut(limit));
    }

    #[test]
    fn a_cancelled_program_ends_at_once() {
        let cancel = Cancel::default();
        cancel.cancel();
        let error = Command::new("sleep").arg("60").cancel(&cancel).run().expect_err("cancelled");
        assert_eq!(error.failure, Failure::Cancelled);
    }

    #[test]
    fn input_reaches_the_program() {
        let output = Command::new("cat").text("a line\n").run().expect("cat works");
        assert_eq!(output.text(), "a line");
    }
}
