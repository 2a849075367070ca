//! Real repositories, git's own HTTP backend behind a small server, and a real sshd; all of it on loopback and in
//! folders that vanish.
#![allow(dead_code)] // each test program uses its part

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use bramble_model::source::Inside;
use bramble_source::{
    Commit, Content, Credentials, Entry, Files, Head, Keys, Limits, Problem, Settings, Source, descends,
};
use bramble_system::Cancel;
use tempfile::TempDir;

/// Runs a program to its end, which must be a good one.
pub fn run(folder: &Path, program: &str, args: &[&str]) -> String {
    let mut command = Command::new(program);
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        command.env_remove(name);
    }
    for (who, name) in [("AUTHOR", "Ada"), ("COMMITTER", "Ada")] {
        command.env(format!("GIT_{who}_NAME"), name).env(format!("GIT_{who}_EMAIL"), "ada@example.org");
    }
    let config = [("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_CONFIG_NOSYSTEM", "1")];
    let output = command.args(args).envs(config).current_dir(folder).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// A repository that someone pushes to, with a work tree.
pub struct Repository {
    pub folder: TempDir,
}

impl Repository {
    pub fn new() -> Repository {
        let folder = tempfile::tempdir().expect("a temporary folder");
        run(folder.path(), "git", &["init", "-q", "-b", "main"]);
        let repository = Repository { folder };
        repository.commit("bramble.toml", "[cluster]\n");
        repository
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn git(&self, args: &[&str]) -> String {
        run(self.path(), "git", args)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().expect("it has a parent")).expect("made");
        fs::write(path, content).expect("written");
    }

    pub fn commit(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        self.write(name, content);
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", &format!("Change {name}")]);
        self.head()
    }

    pub fn head(&self) -> String {
        self.git(&["rev-parse", "HEAD"])
    }

    /// A commit whose tree has these lines, as `git mktree -z` takes them: also trees that no work tree could have.
    pub fn commit_tree(&self, lines: &[u8]) -> String {
        let mut child = Command::new("git")
            .args(["mktree", "-z", "--missing"])
            .current_dir(self.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("git runs");
        child.stdin.take().expect("piped").write_all(lines).expect("written");
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "mktree failed");
        let tree = String::from_utf8(output.stdout).expect("hexadecimal");
        let commit = self.git(&["commit-tree", "-p", "HEAD", "-m", "A tree", tree.trim()]);
        self.git(&["update-ref", "refs/heads/main", &commit]);
        commit
    }

    pub fn blob(&self, content: &str) -> String {
        let file = self.path().join(".git/blob");
        fs::write(&file, content).expect("written");
        self.git(&["hash-object", "-w", "--no-filters", "--", ".git/blob"])
    }
}

/// Paths with spaces and signs that ssh reads otherwise.
pub const FOLDER: &str = "a source %h";

/// A source in a folder of its own, and what it is told.
pub struct World {
    pub folder: TempDir,
    pub source: Source,
    pub settings: Settings,
    pub limits: Limits,
    /// The most files of a commit.
    pub most: usize,
}

impl World {
    pub fn of(url: &str) -> World {
        World::below(tempfile::tempdir().expect("a temporary folder"), url)
    }

    pub fn below(folder: TempDir, url: &str) -> World {
        let source = Source::open(&folder.path().join(FOLDER)).expect("opened");
        let settings = Settings {
            git: url.parse().expect("an address"),
            branch: "main".parse().expect("a branch"),
            path: Inside::default(),
            signers: Vec::new(),
            credentials: Credentials::None,
        };
        World {
            folder,
            source,
            settings,
            limits: Limits { time: Duration::from_secs(60), ..Limits::default() },
            most: 1000,
        }
    }

    pub fn at(repository: &Repository) -> World {
        World::of(&repository.path().display().to_string())
    }

    pub fn keys(&self) -> Keys {
        Keys::open(&self.folder.path().join(FOLDER)).expect("opened")
    }

    pub fn fetch(&self) -> Result<Head, Problem> {
        self.source.fetch(&self.settings, self.limits, &Cancel::default())
    }

    /// Whether `new` descends from `old`; `None` where `new` was never fetched.
    pub fn descends(&self, old: &Commit, new: &Commit) -> Option<bool> {
        descends(&self.folder.path().join(FOLDER), old, new).expect("git is asked")
    }

    /// Reads the files of a commit, and writes them into a folder.
    pub fn export(&self, head: &Head) -> (PathBuf, Result<Files, Problem>) {
        let into = self.folder.path().join(format!("out-{}", &head.commit.as_str()[..8]));
        let files = self.files(head);
        for (path, entry) in files.iter().flat_map(|files| &files.entries) {
            let path = into.join(path);
            fs::create_dir_all(path.parent().expect("it has one")).expect("made");
            match entry {
                Entry::Link { target } => std::os::unix::fs::symlink(target, &path).expect("linked"),
                Entry::File { executable, content } => {
                    match content {
                        Content::Bytes(bytes) => fs::write(&path, bytes).expect("written"),
                        Content::Written(file) => drop(fs::copy(file, &path).expect("copied")),
                    }
                    let mode = fs::Permissions::from_mode(if *executable { 0o755 } else { 0o644 });
                    fs::set_permissions(&path, mode).expect("its mode");
                }
            }
        }
        (into, files)
    }

    pub fn files(&self, head: &Head) -> Result<Files, Problem> {
        let large = self.folder.path().join("large");
        fs::create_dir_all(&large).expect("made");
        self.source.files(&head.commit, &self.settings.path, self.most, &large, self.limits, &Cancel::default())
    }

    pub fn repository(&self) -> PathBuf {
        self.folder.path().join(FOLDER).join("repository.git")
    }
}

/// A real sshd that lets in whoever has one of the keys that were allowed.
pub struct Sshd {
    pub port: u16,
    folder: TempDir,
    child: Child,
}

impl Sshd {
    pub fn start() -> Sshd {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("allowed"), "").expect("written");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let mut sshd = Sshd { port, child: Command::new("true").spawn().expect("true runs"), folder };
        sshd.new_host_key();
        sshd
    }

    pub fn user() -> String {
        run(Path::new("/"), "id", &["-un"])
    }

    pub fn url(&self, path: &Path) -> String {
        format!("ssh://{}@127.0.0.1:{}{}", Sshd::user(), self.port, path.display())
    }

    pub fn allow(&self, public: &str) {
        fs::write(self.folder.path().join("allowed"), format!("{public}\n")).expect("written");
    }

    /// Begins again with another host key.
    pub fn new_host_key(&mut self) {
        self.stop();
        // Where tests run as root, sshd wants its empty folder.
        let _ = fs::create_dir_all("/run/sshd");
        let key = self.folder.path().join("host");
        let _ = fs::remove_file(&key);
        run(self.folder.path(), "ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", "host"]);
        let program = PathBuf::from(std::env::var_os("BRAMBLE_SSHD").unwrap_or("/usr/sbin/sshd".into()));
        let allowed = self.folder.path().join("allowed");
        let mut options = vec![
            format!("Port={}", self.port),
            "ListenAddress=127.0.0.1".to_owned(),
            format!("HostKey={}", key.display()),
            format!("AuthorizedKeysFile={}", allowed.display()),
            "PidFile=none".to_owned(),
            "StrictModes=no".to_owned(),
            "UsePAM=no".to_owned(),
            "PermitRootLogin=prohibit-password".to_owned(),
            "PasswordAuthentication=no".to_owned(),
        ];
        // Since OpenSSH 9.8 a session is a program of its own, which an sshd that is only unpacked does not find.
        let parts = program.ancestors().nth(3).unwrap_or(Path::new("/")).join("usr/lib/openssh");
        for (option, name) in [("SshdSessionPath", "sshd-session"), ("SshdAuthPath", "sshd-auth")] {
            if parts.join(name).exists() {
                options.push(format!("{option}={}", parts.join(name).display()));
            }
        }
        let mut command = self.with_its_user(&program);
        command.args(["-D", "-e", "-f", "/dev/null"]).stderr(Stdio::null());
        command.args(options.iter().flat_map(|option| ["-o", option]));
        self.child = command.spawn().expect("sshd runs: ./dev installs it");
        let start = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            assert!(start.elapsed() < Duration::from_secs(20), "sshd does not listen");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// An sshd of root wants a user `sshd`, which only its package makes: where there is none, it begins in mounts of
    /// its own in which there is one.
    fn with_its_user(&self, program: &Path) -> Command {
        let users = fs::read_to_string("/etc/passwd").expect("readable");
        if Sshd::user() != "root" || users.lines().any(|line| line.starts_with("sshd:")) {
            return Command::new(program);
        }
        let passwd = self.folder.path().join("passwd");
        let line = "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n";
        fs::write(&passwd, format!("{}\n{line}", users.trim_end())).expect("written");
        let mut command = Command::new("unshare");
        let begin = r#"mount --bind "$0" /etc/passwd && exec "$@""#;
        command.args(["--mount", "sh", "-c", begin]).arg(passwd).arg(program);
        command
    }

    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Bytes that do not compress.
pub fn noise(seed: &mut u64, length: usize) -> Vec<u8> {
    let next = |seed: &mut u64| {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        seed.to_le_bytes()
    };
    (0..length / 8).flat_map(|_| next(seed)).collect()
}

/// A program file that leaves a mark when someone runs it.
pub fn trap(folder: &Path) -> (PathBuf, PathBuf) {
    let (program, mark) = (folder.join("trap"), folder.join("sprung"));
    fs::write(&program, format!("#!/bin/sh\ntouch {}\ncat\n", mark.display())).expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("executable");
    (program, mark)
}
