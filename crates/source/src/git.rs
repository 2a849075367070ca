//! git as a tool that takes orders from nobody but us: its environment is what stands here, its only configuration a
//! file that is written here, and what it starts ends with it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bramble_model::source::Transport;
use bramble_system::{Cancel, Command, CommandError, Failure, Output, files};

use crate::problem::Problem;
use crate::settings::{Credentials, Limits, Settings};

/// The most that git may answer in memory, in bytes: a hostile tree can list without end.
const ANSWER: usize = 64 << 20;

/// So long after a call's time git still ends by itself, where nobody ends it: the head does it before.
const AFTER: Duration = Duration::from_secs(2);

/// What is passed on from the head's environment: how it reaches the world, and whom it trusts there.
const PASSED_ON: [&str; 10] = [
    "PATH",
    "http_proxy",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// The folder of a source and what lies in it.
#[derive(Debug, Clone)]
pub(crate) struct Layout(PathBuf);

impl Layout {
    pub fn new(folder: &Path) -> Layout {
        Layout(folder.to_owned())
    }

    pub fn root(&self) -> &Path {
        &self.0
    }

    pub fn repository(&self) -> PathBuf {
        self.0.join("repository.git")
    }

    /// Where our repository waits while all is fetched anew.
    pub fn before(&self) -> PathBuf {
        self.0.join("before.git")
    }

    pub fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    /// The pinned host keys; one file for each server.
    pub fn hosts(&self) -> PathBuf {
        self.0.join("hosts")
    }

    pub fn key(&self) -> PathBuf {
        self.keys().join("id_ed25519")
    }

    pub fn ssh(&self) -> PathBuf {
        self.0.join("ssh")
    }

    pub fn askpass(&self) -> PathBuf {
        self.0.join("askpass")
    }

    pub fn config(&self) -> PathBuf {
        self.0.join("gitconfig")
    }

    fn home(&self) -> PathBuf {
        self.0.join("home")
    }

    pub fn trace(&self) -> PathBuf {
        self.0.join("http-trace")
    }

    /// The folder of the deploy key.
    pub fn keys(&self) -> PathBuf {
        self.0.join("key")
    }

    /// Makes the folder and those in it.
    pub fn make(&self) -> Result<(), Problem> {
        files::make_folder(self.root()).map_err(Problem::file("make the folder", self.root()))?;
        for folder in [self.home(), self.hosts(), self.keys()] {
            files::make_secret_folder(&folder).map_err(Problem::file("make the folder", &folder))?;
        }
        Ok(())
    }

    /// Makes the two scripts that git calls, and its configuration, for who has the lock. The scripts hold no secret:
    /// what they need is in their environment.
    pub fn prepare(&self) -> Result<(), Problem> {
        for (path, text) in [(self.askpass(), ASKPASS), (self.ssh(), SSH)] {
            if !is_there(&path, 0o700, |there| there == text.as_bytes()) {
                files::replace_program(&path, text.as_bytes()).map_err(Problem::file("write", &path))?;
            }
        }
        // What a former call was told of the other side may stay: whoever talks to one says anew to which.
        let is_ours = is_there(&self.config(), CONFIG_MODE, |there| there.starts_with(CONFIG.as_bytes()));
        if is_ours { Ok(()) } else { self.configure(None) }
    }

    /// Writes git's only configuration, where it is another one now, for who has the lock. It is a file and not `-c`,
    /// since what git starts at the other end of a local path is given no `-c`.
    pub fn configure(&self, settings: Option<&Settings>) -> Result<(), Problem> {
        let mut text = String::from(CONFIG);
        let mut set = |key: &str, value: &str| {
            let (section, name) = key.rsplit_once('.').unwrap_or((key, ""));
            let section = match section.split_once('.') {
                Some((section, sub)) => format!("{section} \"{sub}\""),
                None => section.to_owned(),
            };
            let value = value.replace('\\', "\\\\").replace('"', "\\\"");
            text += &format!("[{section}]\n\t{name} = \"{value}\"\n");
        };
        if let Some(settings) = settings {
            match settings.git.transport() {
                Transport::Local(path) => {
                    set("protocol.file.allow", "always");
                    // Who is named in the head's own configuration may belong to another user than the head.
                    set("safe.directory", &path.to_string_lossy());
                    set("safe.directory", &path.join(".git").to_string_lossy());
                }
                Transport::Http { secure, .. } => {
                    set(if *secure { "protocol.https.allow" } else { "protocol.http.allow" }, "always");
                    // A token goes to the server that is named, and to none that it names.
                    let token = matches!(settings.credentials, Credentials::TokenFile(_));
                    set("http.followRedirects", if token { "false" } else { "initial" });
                    if settings.git.is_loopback() {
                        set("http.proxy", "");
                    }
                }
                Transport::Ssh { .. } => set("protocol.ssh.allow", "always"),
            }
        }
        let path = self.config();
        if is_there(&path, CONFIG_MODE, |there| there == text.as_bytes()) {
            return Ok(());
        }
        files::replace_secret(&path, text.as_bytes()).map_err(Problem::file("write", path))
    }
}

/// As [`files::replace_secret`] makes it.
const CONFIG_MODE: u32 = 0o600;

/// Whether a file is there with this mode and what it should hold.
fn is_there(path: &Path, mode: u32, holds: impl Fn(&[u8]) -> bool) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let data = std::fs::symlink_metadata(path);
    data.is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o7777 == mode)
        && std::fs::read(path).is_ok_and(|there| holds(&there))
}

/// A commit's own old faults are let pass where they do no harm: histories of twenty years have them.
const CONFIG: &str = "\
[core]
	hooksPath = /dev/null
	attributesFile = /dev/null
	excludesFile = /dev/null
	fsmonitor = false
	fsync = committed
	alternateRefsCommand = false
	pager = cat
[protocol]
	allow = never
[protocol \"ext\"]
	allow = never
[transfer]
	fsckObjects = true
	unpackLimit = 1
	advertiseSID = false
	bundleURI = false
[fetch \"fsck\"]
	zeroPaddedFilemode = ignore
	badTimezone = ignore
	missingSpaceBeforeDate = ignore
[fetch]
	recurseSubmodules = false
	writeCommitGraph = false
[submodule]
	recurse = false
[gc]
	auto = 0
[maintenance]
	auto = false
[credential]
	helper =
[http]
	version = HTTP/1.1
	lowSpeedLimit = 1
	lowSpeedTime = 30
[log]
	showSignature = false
	mailmap = false
[init]
	templateDir =
	defaultBranch = main
";

/// One call's worth of git: until when, within which limits, and who may end it.
#[derive(Debug)]
pub(crate) struct Git<'a> {
    pub layout: &'a Layout,
    pub limits: Limits,
    pub cancel: &'a Cancel,
    until: Instant,
    settings: Option<&'a Settings>,
}

impl<'a> Git<'a> {
    pub fn new(layout: &'a Layout, limits: Limits, cancel: &'a Cancel) -> Git<'a> {
        Git { layout, limits, cancel, until: Instant::now() + limits.time, settings: None }
    }

    /// Also as who talks to the repository of these settings.
    pub fn towards(mut self, settings: &'a Settings) -> Git<'a> {
        self.settings = Some(settings);
        self
    }

    /// How much of the call's time is left; never nothing, so that what comes last says that it is over.
    pub fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
    }

    /// A program in the environment that git has, within this call's limits.
    pub fn program(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program).clear_env().limit(self.left()).cancel(self.cancel).most(ANSWER);
        for name in PASSED_ON {
            if let Some(value) = std::env::var_os(name) {
                command = command.env(name, value);
            }
        }
        let nowhere = Path::new("/dev/null");
        command = command
            .folder(self.layout.root())
            .env("HOME", self.layout.home())
            .env("XDG_CONFIG_HOME", nowhere)
            .env("LC_ALL", "C")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", self.layout.config())
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "false")
            .env("SSH_ASKPASS", "false")
            .env("GIT_SSH", self.layout.ssh())
            .env("GIT_SSH_VARIANT", "ssh")
            .env("GIT_LITERAL_PATHSPECS", "1")
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("GIT_NO_LAZY_FETCH", "1")
            .env("GIT_OPTIONAL_LOCKS", "0")
            .env("GIT_DIR", self.layout.repository());
        let Some(settings) = self.settings else { return command };
        if let Credentials::TokenFile(path) = &settings.credentials {
            command = command.env("GIT_ASKPASS", self.layout.askpass()).env("BRAMBLE_TOKEN_FILE", path);
        }
        if let Transport::Ssh { host, port, .. } = settings.git.transport() {
            let key = match &settings.credentials {
                Credentials::DeployKey(path) => ssh_word(path),
                _ => "none".to_owned(),
            };
            let pinned = pinned_file(self.layout, host, *port);
            let known = std::fs::metadata(&pinned).is_ok_and(|data| data.len() > 0);
            command = command
                .env("BRAMBLE_SSH_KEY", key)
                .env("BRAMBLE_SSH_HOSTS", ssh_word(&pinned))
                .env("BRAMBLE_SSH_CHECK", if known { "yes" } else { "accept-new" });
        }
        if let Transport::Http { .. } = settings.git.transport() {
            command = command
                .env("GIT_TRACE_CURL", self.layout.trace())
                .env("GIT_TRACE_CURL_NO_DATA", "1")
                .env("GIT_TRACE_REDACT", "1");
        }
        command
    }

    pub fn command<A: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        self.program("git").args(args)
    }

    /// A program that talks to the other side, which may keep it waiting for ever: it ends soon after this call's time,
    /// with all that it has started, also where the head was killed and stops nothing any more (timeout(1)).
    pub fn outward(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let limit = (self.left() + AFTER).as_secs_f64().to_string();
        self.program("timeout").args(["--signal=KILL", &limit]).arg(program)
    }

    /// Runs git on what is here already, where a failure means that something is wrong with the folder.
    pub fn run<A: AsRef<std::ffi::OsStr>>(
        &self,
        doing: &'static str,
        args: impl IntoIterator<Item = A>,
    ) -> Result<Output, Problem> {
        self.command(args).run().map_err(|error| Problem::program(doing, error))
    }

    /// Asks git a question that it answers by its exit code: 0 is yes, and `no` is no.
    pub fn asks<A: AsRef<std::ffi::OsStr>>(
        &self,
        doing: &'static str,
        no: i32,
        args: impl IntoIterator<Item = A>,
    ) -> Result<bool, Problem> {
        match self.command(args).run() {
            Ok(_) => Ok(true),
            Err(error) if exit_code(&error) == Some(no) => Ok(false),
            Err(error) => Err(Problem::program(doing, error)),
        }
    }
}

pub(crate) fn exit_code(error: &CommandError) -> Option<i32> {
    match error.failure {
        Failure::Failed { code, .. } => code,
        _ => None,
    }
}

/// The last lines that a program said, for a person to read; bounded, and without control characters.
pub(crate) fn detail(error: &CommandError) -> String {
    let Failure::Failed { stderr, status, .. } = &error.failure else { return error.failure.to_string() };
    let lines: Vec<&str> = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines[lines.len().saturating_sub(4)..].join("; ");
    if last.is_empty() { status.clone() } else { clean(&last, 600) }
}

/// What another machine said, fit to be shown: at most so many characters, and none that moves a cursor.
pub(crate) fn clean(text: &str, most: usize) -> String {
    text.chars().take(most).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// What git calls where it is asked for a name (`Username for …`), and then for a password. A name has no colon (RFC 7617,
/// section 2), a password may.
const ASKPASS: &str = r#"#!/bin/sh
IFS= read -r line < "$BRAMBLE_TOKEN_FILE" || [ -n "$line" ] || exit 1
case $line in
?*:*) name=${line%%:*} token=${line#*:} ;;
*) name=git token=$line ;;
esac
case $1 in
Username*) printf '%s\n' "$name" ;;
*) printf '%s\n' "$token" ;;
esac
"#;

/// What git calls as ssh. It reads no configuration of the user's or the system's, asks nothing, and forwards nothing.
const SSH: &str = r#"#!/bin/sh
exec ssh -F /dev/null -o BatchMode=yes -o IdentitiesOnly=yes -o IdentityAgent=none -o "IdentityFile=$BRAMBLE_SSH_KEY" \
    -o "UserKnownHostsFile=$BRAMBLE_SSH_HOSTS" -o GlobalKnownHostsFile=/dev/null \
    -o "StrictHostKeyChecking=$BRAMBLE_SSH_CHECK" -o HashKnownHosts=no -o UpdateHostKeys=no -o CheckHostIP=no \
    -o VerifyHostKeyDNS=no -o PreferredAuthentications=publickey -o ForwardAgent=no -o ClearAllForwardings=yes \
    -o ControlPath=none -o ConnectTimeout=15 -o ServerAliveInterval=10 -o ServerAliveCountMax=3 "$@"
"#;

/// A path as ssh takes it as the value of an option: quoted, and with nothing that stands for something else.
fn ssh_word(path: &Path) -> String {
    format!("\"{}\"", path.to_string_lossy().replace('%', "%%"))
}

/// Where the host key of a server is pinned.
pub(crate) fn pinned_file(layout: &Layout, host: &str, port: u16) -> PathBuf {
    layout.hosts().join(format!("{}_{port}", host.to_ascii_lowercase().replace(':', "_")))
}
