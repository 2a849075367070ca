//! Certificates, as OpenSSH's own programs take them.

use std::path::PathBuf;
use std::process::{Command, Output};

use bramble_system::now;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

fn node(text: &str) -> Name {
    text.parse().expect("a name")
}

fn cluster() -> Cluster {
    let text = "[cluster]\nname = \"home\"\ndomain = \"home.arpa\"\n\
                ssh_keys = [\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAnn ann@home\"]\n\
                [network]\ninterface = \"eth0\"\ndhcp = \"full\"\nsubnet = \"10.77.0.0/24\"\npool = \"10.77.0.100-10.77.0.199\"\n\
                [roles.r]\nengine = \"none\"\n\
                [nodes.m1]\nmac = \"52:54:00:00:00:01\"\nrole = \"r\"\naddress = \"10.77.0.11\"\n\
                [nodes.w1]\nmac = \"52:54:00:00:00:02\"\nrole = \"r\"\n";
    let folder = tempfile::tempdir().expect("a temporary folder");
    Cluster::parse(folder.path(), Path::new("bramble.toml"), text).expect("checks")
}

fn authority(folder: &Path) -> HostAuthority {
    let authority = HostAuthority::open(folder);
    assert_eq!(authority.0.as_ref().err(), None);
    authority
}

/// An SSH server with a key that it has just made, one for each connection: a client begins it in the place of a socket.
struct Server {
    folder: TempDir,
    public: String,
}

impl Server {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // Where tests run as root, sshd wants its empty folder.
        let _ = fs::create_dir_all("/run/sshd");
        for name in ["host", "user"] {
            let mut make = Command::new("ssh-keygen");
            make.args(["-q", "-t", "ed25519", "-N", "", "-f", name]).current_dir(folder.path());
            assert!(make.status().expect("ssh-keygen runs").success());
        }
        let public = fs::read_to_string(folder.path().join("host.pub")).expect("made");
        let server = Server { folder, public };
        server.configure();
        server
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn configure(&self) {
        let program = Self::program();
        let mut lines = vec![
            format!("HostKey {}", self.at("host").display()),
            // As the stock file of nodes has it: there before the certificate is.
            format!("HostCertificate {}", self.at("host-cert.pub").display()),
            format!("AuthorizedKeysFile {}", self.at("user.pub").display()),
            "StrictModes no".into(),
            "UsePAM no".into(),
            "PasswordAuthentication no".into(),
        ];
        // Since OpenSSH 9.8 a session is a program of its own, which an sshd that is only unpacked does not find.
        let parts = program.ancestors().nth(3).unwrap_or(Path::new("/")).join("usr/lib/openssh");
        for (option, name) in [("SshdSessionPath", "sshd-session"), ("SshdAuthPath", "sshd-auth")] {
            if parts.join(name).exists() {
                lines.push(format!("{option} {}", parts.join(name).display()));
            }
        }
        fs::write(self.at("config"), lines.join("\n") + "\n").expect("written");
        // An sshd of root wants a user `sshd`, which only its package makes.
        let users = fs::read_to_string("/etc/passwd").expect("readable");
        let sshd = "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n";
        fs::write(self.at("passwd"), format!("{}\n{sshd}", users.trim_end())).expect("written");
        let begin = format!(
            "#!/bin/sh\nexec {} {} -i -f {} 2>/dev/null\n",
            if rustix::process::geteuid().is_root() && !users.lines().any(|line| line.starts_with("sshd:")) {
                let passwd = self.at("passwd").display().to_string();
                format!("unshare --mount sh -c 'mount --bind {passwd} /etc/passwd && exec \"$@\"' -")
            } else {
                String::new()
            },
            program.display(),
            self.at("config").display()
        );
        fs::write(self.at("begin"), begin).expect("written");
    }

    fn program() -> PathBuf {
        PathBuf::from(std::env::var_os("BRAMBLE_SSHD").unwrap_or("/usr/sbin/sshd".into()))
    }

    /// Has this certificate, or none.
    fn shows(&self, certificate: Option<&str>) {
        let path = self.at("host-cert.pub");
        let _ = fs::remove_file(&path);
        if let Some(certificate) = certificate {
            fs::write(path, format!("{certificate}\n")).expect("written");
        }
    }

    /// Logs in at `host` as somebody whose file of known hosts has only this.
    fn log_in(&self, host: &str, known_hosts: &str) -> Output {
        self.log_in_by("yes", host, known_hosts)
    }

    /// As that, with this `StrictHostKeyChecking`.
    fn log_in_by(&self, strict: &str, host: &str, known_hosts: &str) -> Output {
        fs::write(self.at("known"), format!("{known_hosts}\n")).expect("written");
        let user = Command::new("id").arg("-un").output().expect("id runs").stdout;
        let options = [
            format!("ProxyCommand=sh {}", self.at("begin").display()),
            format!("UserKnownHostsFile={}", self.at("known").display()),
            "GlobalKnownHostsFile=/dev/null".into(),
            format!("IdentityFile={}", self.at("user").display()),
            "IdentitiesOnly=yes".into(),
            "BatchMode=yes".into(),
            format!("StrictHostKeyChecking={strict}"),
            "ConnectTimeout=20".into(),
        ];
        let mut command = Command::new("ssh");
        command.args(["-F", "/dev/null"]).args(options.iter().flat_map(|option| ["-o", option]));
        command.args(["-l", String::from_utf8_lossy(&user).trim(), host, "echo", "in"]);
        command.output().expect("ssh runs")
    }
}

#[track_caller]
fn is_in(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && output.stdout == b"in\n", "{said}");
}

#[track_caller]
fn is_refused(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("Host key verification failed"), "{said}");
    assert!(!output.status.success() && output.stdout.is_empty(), "{said}");
}

/// A machine without a disk makes another key at each boot.
#[test]
fn ssh_connects_without_asking_to_a_server_whose_key_is_new() {
    let (keys, cluster) = (tempfile::tempdir().expect("a folder"), cluster());
    let authority = authority(keys.path());
    let known_hosts = authority.known_hosts(&cluster).expect("a line");
    for host in ["m1", "m1.home.arpa", "10.77.0.11"] {
        let server = Server::new();
        is_refused(&server.log_in(host, &known_hosts));
        let signed = authority.certify(&cluster, &node("m1"), &server.public, now()).expect("signed");
        server.shows(Some(&signed.certificate));
        is_in(&server.log_in(host, &known_hosts));
    }
}

#[test]
fn ssh_refuses_a_server_whose_certificate_names_another_node_or_is_of_another_ca() {
    let (keys, others) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let (cluster, own, other) = (cluster(), authority(keys.path()), authority(others.path()));
    let known_hosts = own.known_hosts(&cluster).expect("a line");
    let server = Server::new();
    let sign = |authority: &HostAuthority, name: &str, at| {
        authority.certify(&cluster, &node(name), &server.public, at).expect("signed").certificate
    };
    for refused in [
        sign(&own, "w1", now()),
        sign(&other, "m1", now()),
        // Of last week.
        sign(&own, "m1", now() - (WEEK + 60) * 1000),
    ] {
        server.shows(Some(&refused));
        is_refused(&server.log_in("m1", &known_hosts));
    }
    server.shows(Some(&sign(&own, "m1", now())));
    is_in(&server.log_in("m1", &known_hosts));
}

/// `accept-new` connects where a person would be asked, and to no host that is a wrong one.
#[test]
fn by_the_line_alone_another_machine_is_unknown() {
    let (keys, others) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let (cluster, own, other) = (cluster(), authority(keys.path()), authority(others.path()));
    let known_hosts = own.known_hosts(&cluster).expect("a line");
    let server = Server::new();
    let foreign = other.certify(&cluster, &node("m1"), &server.public, now()).expect("signed").certificate;
    for shown in [None, Some(foreign.as_str())] {
        server.shows(shown);
        is_refused(&server.log_in("m1", &known_hosts));
        is_in(&server.log_in_by("accept-new", "m1", &known_hosts));
    }
}

#[test]
fn a_certificate_says_what_the_repository_says_and_no_more() {
    let (keys, cluster) = (tempfile::tempdir().expect("a folder"), cluster());
    let authority = authority(keys.path());
    let server = Server::new();
    let told = |name: &str| {
        let at = now();
        let signed = authority.certify(&cluster, &node(name), &server.public, at).expect("signed");
        assert_eq!(signed.renew_at / 1000, at / 1000 + WEEK * 2 / 3);
        server.shows(Some(&signed.certificate));
        let shown = Command::new("ssh-keygen").arg("-L").arg("-f").arg(server.at("host-cert.pub")).output();
        String::from_utf8(shown.expect("ssh-keygen runs").stdout).expect("text")
    };
    let (m1, w1) = (told("m1"), told("w1"));
    for (text, principals) in [(&m1, &["m1", "m1.home.arpa", "10.77.0.11"][..]), (&w1, &["w1", "w1.home.arpa"][..])] {
        assert!(text.contains("ssh-ed25519-cert-v01@openssh.com host certificate"), "{text}");
        assert!(text.contains("Critical Options: (none)") && text.contains("Extensions: (none)"), "{text}");
        let (_, list) = text.split_once("Principals:").expect("principals");
        let (list, _) = list.split_once("Critical").expect("options");
        assert_eq!(list.split_whitespace().collect::<Vec<_>>(), principals);
    }
    let serial = |text: &str| text.lines().find(|line| line.contains("Serial:")).map(str::to_owned).expect("a serial");
    assert_ne!(serial(&m1), serial(&w1));
    let gone = authority.certify(&cluster, &node("w9"), &server.public, now());
    assert_eq!(gone, Err("it is not in the repository".into()));
}

#[test]
fn what_is_no_key_is_not_signed() {
    let (keys, cluster) = (tempfile::tempdir().expect("a folder"), cluster());
    let authority = authority(keys.path());
    let body = |blob: &[u8]| STANDARD.encode(blob);
    let good = public(&[7; 32]);
    for wrong in [
        String::new(),
        "ssh-ed25519".into(),
        "ssh-ed25519 ????".into(),
        "ssh-ed25519 AAAA".into(),
        format!("ssh-rsa {}", body(&good)),
        format!("ssh-ed25519 {}", body(&[&good[..], b"x"].concat())),
        format!("ssh-ed25519 {}", body(&good[1..])),
        format!("ssh-ed25519 {}", body(&Blob::default().string("ssh-ed25518").string([7; 32]).0)),
    ] {
        authority.certify(&cluster, &node("m1"), &wrong, now()).expect_err(&wrong);
    }
    authority.certify(&cluster, &node("m1"), &format!("ssh-ed25519 {} root@m1", body(&good)), now()).expect("signed");
}

#[test]
fn the_key_is_sealed_and_stays_and_a_damaged_one_is_not_made_anew() {
    let (keys, cluster) = (tempfile::tempdir().expect("a folder"), cluster());
    let line = authority(keys.path()).known_hosts(&cluster).expect("a line");
    assert!(line.starts_with("@cert-authority *.home.arpa,m1,10.77.0.11,w1 ssh-ed25519 AAAA"), "{line}");
    let path = keys.path().join(KEY);
    let sealed = || is_sealed(&fs::read(&path).expect("there"));
    assert!(sealed());
    assert_eq!(authority(keys.path()).known_hosts(&cluster), Ok(line.clone()), "the same after a start");
    let vault = Vault::open(keys.path()).expect("opens");
    vault.renew().expect("renewed");
    assert_eq!(authority(keys.path()).known_hosts(&cluster), Ok(line.clone()), "and by another seal");
    vault.unseal().expect("unsealed");
    assert!(!sealed());
    assert_eq!(authority(keys.path()).known_hosts(&cluster), Ok(line), "and as it lay in the clear");
    assert!(sealed());
    fs::write(&path, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").expect("written");
    let error = HostAuthority::open(keys.path()).known_hosts(&cluster).expect_err("damaged");
    assert!(error.contains(KEY) && error.contains("damaged"), "{error}");
}

proptest! {
    #[test]
    fn no_line_makes_the_parser_panic(line: String, body: Vec<u8>) {
        let _ = key_of(&line);
        let _ = key_of(&format!("ssh-ed25519 {}", STANDARD.encode(body)));
    }
}
