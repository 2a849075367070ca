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

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

/// How often a running program is looked at where the kernel does not say when it ends: many end at once, so the first
/// looks follow each other closely.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LOOK: Duration = Duration::from_millis(20);
/// How often the size of the folder that it fills is looked at.
const SIZE_LOOK: Duration = Duration::from_millis(100);
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
    alone: bool,
    output: Option<PathBuf>,
    most: usize,
    folder_limit: Option<(PathBuf, u64)>,
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
        /// What it ended with; none where a signal ended it.
        code: Option<i32>,
        stderr: String,
    },
    TimedOut(Duration),
    /// It printed more than this many bytes.
    TooMuch(usize),
    /// The folder that it writes into holds more than this many bytes.
    TooLarge(u64),
    Cancelled,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::NotFound => f.write_str("not installed"),
            Failure::CouldNotStart(why) => write!(f, "could not start: {why}"),
            Failure::Failed { status, stderr, .. } => {
                let lines: Vec<&str> = stderr.lines().filter(|line| !line.trim().is_empty()).collect();
                let last = lines[lines.len().saturating_sub(12)..].join("\n  ");
                write!(f, "{status}\n  {last}")
            }
            Failure::TimedOut(limit) => write!(f, "took longer than {} s and was stopped", limit.as_secs()),
            Failure::TooMuch(most) => write!(f, "printed more than {most} bytes and was stopped"),
            Failure::TooLarge(most) => write!(f, "wrote more than {most} bytes and was stopped"),
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
            alone: false,
            output: None,
            most: usize::MAX,
            folder_limit: None,
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

    /// Gives it nothing of this process's environment: only what [`Command::env`] names.
    pub fn clear_env(mut self) -> Self {
        self.alone = true;
        self
    }

    /// Writes its standard output into this file, which may be there, and not into memory.
    pub fn output(mut self, file: &Path) -> Self {
        self.output = Some(file.to_owned());
        self
    }

    /// The most that it may print, in bytes. Default: without bound.
    pub fn most(mut self, bytes: usize) -> Self {
        self.most = bytes;
        self
    }

    /// Stops it as soon as this folder holds more than so many bytes, looked at as it runs.
    pub fn folder_limit(mut self, folder: &Path, bytes: u64) -> Self {
        self.folder_limit = Some((folder.to_owned(), bytes));
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
        if self.alone {
            command.env_clear();
        }
        command.args(&self.args).envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stderr(Stdio::piped()).process_group(0);
        command.stdout(match &self.output {
            None => Stdio::piped(),
            Some(path) => {
                let file = File::create(path);
                Stdio::from(file.map_err(|error| Failure::CouldNotStart(format!("{}: {error}", path.display())))?)
            }
        });
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
        let over = Cancel::default();
        let stdout = child.0.stdout.take().map(|pipe| {
            let (most, over) = (self.most, over.clone());
            thread::spawn(move || gather(pipe, most, &over))
        });
        let stderr = child.0.stderr.take().map(|pipe| thread::spawn(move || drain(pipe, KEPT)));
        let status = self.wait(&mut child, &over)?;
        let collect = |reader: Option<thread::JoinHandle<Vec<u8>>>| {
            reader.and_then(|reader| reader.join().ok()).unwrap_or_default()
        };
        let (stdout, stderr) = (collect(stdout), collect(stderr));
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        if over.is_cancelled() {
            Err(Failure::TooMuch(self.most))
        } else if status.success() {
            Ok(Output { stdout, stderr })
        } else {
            Err(Failure::Failed { status: status.to_string(), code: status.code(), stderr })
        }
    }

    fn wait(&self, child: &mut Group, printed: &Cancel) -> Result<std::process::ExitStatus, Failure> {
        let start = Instant::now();
        let (mut sized, mut pause) = (start, FIRST_LOOK);
        let end = child.end();
        loop {
            let status = child.0.try_wait().map_err(|error| Failure::CouldNotStart(error.to_string()))?;
            let mut stop = None;
            if let Some((folder, most)) = &self.folder_limit
                && (sized.elapsed() >= SIZE_LOOK || status.is_some())
            {
                if crate::files::size(folder) > *most {
                    stop = Some(Failure::TooLarge(*most));
                }
                sized = Instant::now();
            }
            if printed.is_cancelled() {
                stop = Some(Failure::TooMuch(self.most));
            }
            if let (None, Some(status)) = (&stop, status) {
                return Ok(status);
            }
            if start.elapsed() > self.limit {
                stop = Some(Failure::TimedOut(self.limit));
            } else if self.cancel.is_cancelled() {
                stop = Some(Failure::Cancelled);
            }
            if let Some(failure) = stop {
                child.stop();
                return Err(failure);
            }
            await_end(end.as_ref(), pause);
            pause = (pause * 2).min(LOOK);
        }
    }
}

/// Waits so long, or until the program ends.
fn await_end(end: Option<&OwnedFd>, pause: Duration) {
    let Some(end) = end else { return thread::sleep(pause) };
    let pause = Timespec { tv_sec: 0, tv_nsec: pause.subsec_nanos().into() };
    if poll(&mut [PollFd::new(end, PollFlags::IN)], Some(&pause)).is_err() {
        // A signal: the next look is soon.
        thread::sleep(FIRST_LOOK);
    }
}

/// Reads to the end, or to `most` bytes: then `over` is set, and the rest is left where it is.
fn gather(mut pipe: impl Read, most: usize, over: &Cancel) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = [0; 8192];
    while let Ok(read @ 1..) = pipe.read(&mut buffer) {
        if all.len() + read > most {
            over.cancel();
            break;
        }
        all.extend_from_slice(&buffer[..read]);
    }
    all
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
    /// What becomes readable when the leader ends; none where the kernel has no such thing.
    fn end(&self) -> Option<OwnedFd> {
        pidfd_open(Pid::from_raw(self.0.id().cast_signed())?, PidfdFlags::empty()).ok()
    }

    /// SIGTERM, a while to clean up, SIGKILL.
    fn stop(&mut self) {
        self.signal(Signal::TERM);
        let start = Instant::now();
        while start.elapsed() < GRACE {
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                break;
            }
            thread::sleep(LOOK);
        }
        // Also where the leader has ended: what it started may go on without it.
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

    /// A program's own group, as [`Command::run`] has it.
    fn group(program: &str, arguments: &[&str]) -> Group {
        let mut command = std::process::Command::new(program);
        Group(command.args(arguments).process_group(0).spawn().expect("it starts"))
    }

    #[test]
    fn a_leader_has_an_end_that_becomes_readable_when_it_ends() {
        let readable = |end: &OwnedFd, wait: Option<&Timespec>| {
            poll(&mut [PollFd::new(end, PollFlags::IN)], wait).expect("no signal comes") == 1
        };
        let group = group("sleep", &["600"]);
        let end = group.end().expect("every kernel since 5.3 tells it");
        assert!(!readable(&end, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), "it runs");
        group.signal(Signal::KILL);
        assert!(readable(&end, None), "waits without bound for the end of what would go on for minutes");
    }

    #[test]
    fn without_such_an_end_it_is_looked_at_again_and_again() {
        let mut group = group("true", &[]);
        while group.0.try_wait().expect("it is a child").is_none() {
            await_end(None, FIRST_LOOK);
        }
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
    fn a_program_that_prints_without_end_is_stopped() {
        let error = Command::new("yes").most(100_000).run().expect_err("too much");
        assert_eq!(error.failure, Failure::TooMuch(100_000));
    }

    #[test]
    fn a_program_that_fills_its_folder_is_stopped() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let zero = format!("of={}/zero", folder.path().display());
        let fill = Command::new("dd").args(["if=/dev/zero", &zero, "bs=1M", "count=64"]);
        let error = fill.folder_limit(folder.path(), 1 << 20).run().expect_err("too large");
        assert_eq!(error.failure, Failure::TooLarge(1 << 20));
    }

    #[test]
    fn what_a_stopped_program_started_ends_with_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mark = folder.path().join("alive");
        let script = "trap '' TERM; (while :; do touch \"$0\"; sleep 0.05; done) & trap 'exit 0' TERM; wait";
        let limit = Duration::from_millis(200);
        let stopped = Command::new("sh").args(["-c", script]).arg(&mark).limit(limit).run();
        assert_eq!(stopped.expect_err("too slow").failure, Failure::TimedOut(limit));
        std::fs::remove_file(&mark).expect("it was alive");
        thread::sleep(Duration::from_millis(300));
        assert!(!mark.exists(), "it went on without its parent");
    }

    #[test]
    fn an_environment_of_its_own_has_what_is_named_and_nothing_else() {
        let output = Command::new("/usr/bin/env").clear_env().env("ONLY", "this").run().expect("env works");
        assert_eq!(output.text(), "ONLY=this");
    }

    #[test]
    fn input_reaches_the_program() {
        let output = Command::new("cat").text("a line\n").run().expect("cat works");
        assert_eq!(output.text(), "a line");
    }
}
