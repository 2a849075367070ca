//! The lab from outside: starting it, and its ports on the loopback.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bramble_system::files::{give_all_below, make_folder, owner};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::{Error, Places};

/// How long the inside may take to make its wire.
const START: Duration = Duration::from_secs(30);
/// How long it may take to end by itself.
const END: Duration = Duration::from_secs(5);

/// What of the lab is its own (unshare(1)): also its users, with whom nobody needs to be root for the rest.
const USERS: [&str; 2] = ["--user", "--map-root-user"];
const NAMESPACES: [&str; 6] = ["--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"];

/// What the lab forwards, by name, and the port wished for on the loopback.
#[derive(Debug, Clone)]
pub struct Plan {
    pub forwards: Vec<(String, u16)>,
}

/// A running lab. Dropped, it ends.
pub struct Lab {
    child: Child,
    places: Places,
    /// Where each forward listens.
    pub forwards: Vec<(String, SocketAddr)>,
    /// Held while the lab runs.
    _lock: File,
}

impl Lab {
    /// Starts the supervisor of `repository` in its namespaces.
    ///
    /// # Errors
    /// When another lab runs, or namespaces cannot be made.
    pub fn start(repository: &Path, state: &Path, plan: &Plan) -> Result<Lab, Error> {
        let places = Places::new(state);
        make_folder(&places.folder()).map_err(Error::io("cannot make the lab's folder"))?;
        let lock = File::create(places.folder().join("lock")).map_err(Error::io("cannot open the lab's lock"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| Error::Running)?;
        let program = std::env::current_exe().map_err(Error::io("cannot find this program"))?;
        let listeners: Vec<(String, TcpListener)> = plan
            .forwards
            .iter()
            .map(|(name, port)| Ok((name.clone(), listen(*port)?)))
            .collect::<io::Result<_>>()
            .map_err(Error::io("cannot listen on the loopback"))?;
        let mut forwards = Vec::new();
        let mut names = Vec::new();
        for (name, listener) in &listeners {
            // Inherited by the inside, where it keeps accepting from outside.
            rustix::io::fcntl_setfd(listener, rustix::io::FdFlags::empty())
                .map_err(|error| Error::io("cannot hand over a listener")(error.into()))?;
            names.push(format!("{name}={}", listener.as_raw_fd()));
            forwards
                .push((name.clone(), listener.local_addr().map_err(Error::io("cannot read a listener's address"))?));
        }
        let socket = places.socket();
        // The lock is ours, so what lies there is a dead lab's.
        let _ = fs::remove_file(&socket);
        let log = File::create(places.folder().join("lab.log")).map_err(Error::io("cannot open the lab's log"))?;
        // Root of a namespace may not write what is a user's outside: by `sudo` in that one's folder, it stays root.
        let is_by_sudo = rustix::process::geteuid().is_root() && owner(state).is_ok_and(|(user, _)| user != 0);
        let mut command = Command::new("unshare");
        command
            .args(if is_by_sudo { &[] } else { USERS.as_slice() })
            .args(NAMESPACES)
            .arg(program)
            .args(["lab", "inside", "-C"])
            .arg(repository)
            .arg("--state")
            .arg(state)
            .args(names.iter().flat_map(|name| ["--forward", name]))
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(Error::io("cannot open the lab's log"))?)
            .stderr(log)
            .process_group(0);
        // SAFETY: only one system call, which is safe between fork and exec.
        unsafe {
            // Whatever ends this program ends the lab.
            command.pre_exec(|| set_parent_process_death_signal(Some(Signal::KILL)).map_err(Into::into));
        }
        let child = command.spawn().map_err(Error::io("cannot start `unshare` (package util-linux)"))?;
        let mut lab = Lab { child, places, forwards, _lock: lock };
        let start = Instant::now();
        while !socket.exists() {
            if let Ok(Some(status)) = lab.child.try_wait() {
                namespaces(&["true"])?;
                return Err(Error::Ended(format!("{status}\n{}", lab.log_end())));
            }
            if start.elapsed() > START {
                return Err(Error::Ended(format!("it did not start within {} s\n{}", START.as_secs(), lab.log_end())));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(lab)
    }

    /// The last lines of the lab's log.
    pub fn log_end(&self) -> String {
        let text = fs::read_to_string(self.places.folder().join("lab.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it and waits until nothing of it is left.
    pub fn end(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        if !self.has_ended() {
            self.end_processes();
        }
        give_all_below(&self.places.state);
    }

    fn end_processes(&mut self) {
        // Asked first, so that the head can put its store in order.
        let asked =
            UnixStream::connect(self.places.socket()).and_then(|mut lab| lab.write_all(b"{\"ask\":\"down\"}\n"));
        let start = Instant::now();
        while asked.is_ok() && !self.has_ended() && start.elapsed() < END {
            std::thread::sleep(Duration::from_millis(20));
        }
        // `unshare` takes the first process of its namespace along, and the kernel all others.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(self.places.scratch());
        let _ = fs::remove_file(self.places.socket());
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Runs a command in namespaces like the lab's.
///
/// # Errors
/// [`Error::Namespaces`] where this system gives none.
fn namespaces(command: &[&str]) -> Result<(), Error> {
    let run = bramble_system::Command::new("unshare").args(USERS).args(NAMESPACES).args(command).run();
    run.map(drop).map_err(|source| Error::Namespaces { source })
}

/// The wished port, or any other where it is taken.
fn listen(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the advice is for is known by the error, whatever its sentence says.
    #[test]
    fn a_system_that_gives_no_namespaces_is_told_with_what_allows_them() {
        let error = namespaces(&["false"]).expect_err("as where `unshare` fails");
        assert!(error.help().is_some_and(|help| help.contains("apparmor_restrict_unprivileged_userns")), "{error}");
        let Error::Namespaces { source } = error else { panic!("{error}") };
        assert_eq!(Error::Program { doing: "cannot make the lab's namespace", source }.help(), None);
    }
}
