//! What is written about a source, validated: where the repository is, which branch and folder of it count, who may
//! sign, and how one gets in.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::problem::Wrong;

fn wrong<T>(subject: &'static str, wrong: impl Into<String>, help: &'static str) -> Result<T, Wrong> {
    Err(Wrong { subject, wrong: wrong.into(), help })
}

/// Everything that a fetch is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub git: Url,
    pub branch: Branch,
    /// The folder inside the repository that holds the cluster.
    pub path: Inside,
    /// Who may sign. Empty: signatures are not asked for.
    pub signers: Vec<Signer>,
    pub credentials: Credentials,
}

/// How one gets into a private repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Credentials {
    #[default]
    None,
    /// A private SSH key in this file; [`crate::Keys::deploy_key`] makes one.
    DeployKey(PathBuf),
    /// The first line of this file is the token, or the password. It is read at each fetch.
    TokenFile(PathBuf),
}

impl Settings {
    /// Looks at what must fit together.
    ///
    /// # Errors
    /// When the credentials are of another kind than the address takes, or would travel in the clear.
    pub fn check(&self) -> Result<(), Wrong> {
        match (&self.credentials, &self.git.transport) {
            (Credentials::TokenFile(_), Transport::Http { secure: false, .. }) if !self.git.is_loopback() => wrong(
                "token",
                format!("'{}' would carry it in the clear", self.git),
                "write the address with https://, or use a deploy key over ssh",
            ),
            (Credentials::TokenFile(_), Transport::Ssh { .. } | Transport::Local(_)) => wrong(
                "token",
                format!("'{}' takes no token", self.git),
                "a token goes with an https:// address; ssh takes a deploy key",
            ),
            (Credentials::DeployKey(_), Transport::Http { .. } | Transport::Local(_)) => wrong(
                "key",
                format!("'{}' takes no deploy key", self.git),
                "a deploy key goes with an ssh address (git@host:path); https takes a token in a file",
            ),
            _ => Ok(()),
        }
    }
}

/// The address of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    text: String,
    pub(crate) transport: Transport,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Transport {
    Local(PathBuf),
    Http { secure: bool, user: Option<String>, host: String },
    Ssh { user: Option<String>, host: String, port: u16 },
}

const URL_HELP: &str = "write https://host/path.git, git@host:path.git, ssh://git@host:port/path.git or /a/path";

impl Url {
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the other side is reached by ssh, and a key lets one in.
    pub fn is_ssh(&self) -> bool {
        matches!(self.transport, Transport::Ssh { .. })
    }

    pub(crate) fn is_loopback(&self) -> bool {
        match &self.transport {
            Transport::Http { host, .. } | Transport::Ssh { host, .. } => {
                let ip: Result<std::net::IpAddr, _> = host.trim_matches(['[', ']']).parse();
                host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
            }
            Transport::Local(_) => true,
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Url {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        let bad = |why: &str| wrong("git", format!("'{}' {why}", text.escape_debug()), URL_HELP);
        if text.is_empty() || text.starts_with('-') || text.len() > 2048 {
            return bad("is no address of a repository");
        }
        if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\'' || c == '"' || c == '\\') {
            return bad("has a character that an address cannot have");
        }
        let transport = if let Some(path) = text.strip_prefix("file://") {
            local(path)
        } else if text.starts_with('/') {
            local(text)
        } else if let Some(rest) = text.strip_prefix("https://") {
            http(rest, true)?
        } else if let Some(rest) = text.strip_prefix("http://") {
            http(rest, false)?
        } else if let Some(rest) = text.strip_prefix("ssh://") {
            let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
            (!path.is_empty()).then(|| ssh(authority, true)).flatten()
        } else if text.contains("://") || text.contains("::") {
            return bad("is of a kind that is not followed");
        } else {
            let (authority, path) = text.split_once(':').unwrap_or((text, ""));
            (!path.is_empty() && !path.starts_with('-')).then(|| ssh(authority, false)).flatten()
        };
        match transport {
            Some(transport) => Ok(Url { text: text.to_owned(), transport }),
            None => bad("is no address of a repository"),
        }
    }
}

fn local(path: &str) -> Option<Transport> {
    path.starts_with('/').then(|| Transport::Local(PathBuf::from(path)))
}

fn http(rest: &str, secure: bool) -> Result<Option<Transport>, Wrong> {
    let authority = rest.split('/').next().unwrap_or_default();
    let (user, server) = match authority.rsplit_once('@') {
        Some((user, server)) => (Some(user.to_owned()), server),
        None => (None, authority),
    };
    // The address itself is not repeated here: what it should not hold may be a password.
    if user.as_deref().is_some_and(|user| user.contains(':') || user.is_empty()) {
        return wrong(
            "git",
            "a password stands in the address",
            "put it into a file of its own, and name that with `token_file`",
        );
    }
    Ok(host_and_port(server).map(|(host, _)| Transport::Http { secure, user, host }))
}

fn ssh(authority: &str, with_port: bool) -> Option<Transport> {
    let (user, server) = match authority.rsplit_once('@') {
        Some((user, server)) => (Some(user.to_owned()), server),
        None => (None, authority),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_+".contains(c);
    if user.as_deref().is_some_and(|user| user.is_empty() || user.starts_with('-') || !user.chars().all(plain)) {
        return None;
    }
    let (host, port) = host_and_port(server)?;
    (with_port || port.is_none()).then_some(Transport::Ssh { user, host, port: port.unwrap_or(22) })
}

/// The host, without the brackets of an IPv6 address, and the port if one is named.
fn host_and_port(server: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match server.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, if after.is_empty() { None } else { Some(after.strip_prefix(':')?) })
        }
        None => match server.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (server, None),
        },
    };
    let name = |c: char| c.is_ascii_alphanumeric() || ".-_:".contains(c);
    if host.is_empty() || host.starts_with(['-', '.']) || !host.chars().all(name) {
        return None;
    }
    Some((host.to_owned(), port.map(str::parse).transpose().ok()?))
}

/// The name of a branch, as `git check-ref-format --branch` takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branch(String);

impl Branch {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Branch {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        let odd = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
        let part =
            |part: &str| part.is_empty() || part.starts_with('.') || part.to_ascii_lowercase().ends_with(".lock");
        let bad = text.starts_with('-')
            || text.len() > 200
            || text == "@"
            || text.ends_with('.')
            || text.contains("..")
            || text.contains("@{")
            || text.chars().any(odd)
            || text.split('/').any(part);
        if bad {
            let help = "write a branch as `git branch` lists it, without refs/heads/";
            return wrong("branch", format!("'{}' is no name of a branch", text.escape_debug()), help);
        }
        Ok(Branch(text.to_owned()))
    }
}

/// A folder inside the repository; empty for the repository's own root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inside(Vec<String>);

impl Inside {
    pub(crate) fn parts(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for Inside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("/"))
    }
}

impl FromStr for Inside {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        let trimmed = text.strip_suffix('/').unwrap_or(text);
        if trimmed.is_empty() && text.is_empty() || text == "." {
            return Ok(Inside::default());
        }
        let parts: Vec<String> = trimmed.split('/').map(str::to_owned).collect();
        if parts.iter().any(|part| crate::name::name_fault(part.as_bytes()).is_some()) {
            let help = "write a folder relative to the repository's root, such as clusters/home";
            return wrong("path", format!("'{}' is no folder inside a repository", text.escape_debug()), help);
        }
        Ok(Inside(parts))
    }
}

/// Whose signature counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signer {
    /// An SSH public key: its kind and its base64.
    Ssh { key: String },
    /// An OpenPGP public key in its ASCII armour.
    Gpg { armour: String },
}

const SIGNER_HELP: &str = "give an SSH public key (the line in ~/.ssh/id_ed25519.pub) or the text that \
                           `gpg --armor --export FINGERPRINT` prints";

impl FromStr for Signer {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        let text = text.trim();
        if text.starts_with("-----BEGIN PGP PUBLIC KEY BLOCK-----") {
            return Ok(Signer::Gpg { armour: format!("{text}\n") });
        }
        if text.contains("PRIVATE KEY") {
            return wrong("signers", "a private key is written where a public one belongs", SIGNER_HELP);
        }
        let mut words = text.split_whitespace();
        let (kind, key) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let known = ["ssh-ed25519", "ssh-rsa", "sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"];
        let base64 = key.len() >= 32 && key.chars().all(|c| c.is_ascii_alphanumeric() || "+/=".contains(c));
        if text.lines().count() == 1 && base64 && (known.contains(&kind) || kind.starts_with("ecdsa-sha2-nistp")) {
            return Ok(Signer::Ssh { key: format!("{kind} {key}") });
        }
        let hex = text.len() >= 16 && text.chars().all(|c| c.is_ascii_hexdigit() || c == ' ');
        if hex {
            return wrong(
                "signers",
                "a fingerprint alone cannot check a signature: the key itself is needed",
                SIGNER_HELP,
            );
        }
        wrong("signers", "this is neither an SSH nor an OpenPGP public key", SIGNER_HELP)
    }
}

/// A commit, by all 40 digits of its name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Commit(String);

impl Commit {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Commit {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        if text.len() == 40 && text.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f')) {
            return Ok(Commit(text.to_owned()));
        }
        let help = "give all 40 digits, as `git rev-parse` prints them";
        wrong("revision", format!("'{}' is no full name of a commit", text.escape_debug()), help)
    }
}

/// What a fetch or a reading of the files may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest that one call may take.
    pub time: std::time::Duration,
    /// The most that the repository may hold here, with its history, in bytes.
    pub repository: u64,
    /// The largest file of a commit, in bytes.
    pub file: u64,
    /// The most that all files of a commit may hold together, in bytes.
    pub all: u64,
}

impl Default for Limits {
    /// Two minutes, a repository of 2 GB, 1 GB in one file of a commit and in all of them.
    fn default() -> Self {
        let time = std::time::Duration::from_secs(120);
        Limits { time, repository: 2 << 30, file: 1 << 30, all: 1 << 30 }
    }
}

/// Whether a file holds a token that can be used; it is read by git's helper, never here.
pub(crate) fn is_readable(path: &Path) -> bool {
    std::fs::File::open(path).is_ok()
}
