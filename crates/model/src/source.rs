//! What is written about the git repository that a head follows, validated: where it is, which branch and folder of it
//! count, and who may sign. `bramble check` and whoever fetches read it by this alone.

mod name;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

pub use name::name_fault;

/// A setting that cannot be taken, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{subject}: {wrong}")]
pub struct Wrong {
    /// The setting, as it is called in `[source]`.
    pub subject: &'static str,
    pub wrong: String,
    pub help: &'static str,
}

fn wrong<T>(subject: &'static str, wrong: impl Into<String>, help: &'static str) -> Result<T, Wrong> {
    Err(Wrong { subject, wrong: wrong.into(), help })
}

/// A commit's name, as people read it.
pub fn short(commit: &str) -> String {
    commit.chars().take(12).collect()
}

/// The address of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    text: String,
    transport: Transport,
}

/// How the other side is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// A path on this machine.
    Local(PathBuf),
    /// `secure` is https. The host of an IPv6 address has no brackets.
    Http { secure: bool, host: String },
    /// As `Http`; the port is 22 where none is written.
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

    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Looks whether a token may be shown to the other side.
    ///
    /// # Errors
    /// When there is none that takes one, or it would travel in the clear.
    pub fn takes_token(&self) -> Result<(), Wrong> {
        match &self.transport {
            Transport::Http { secure: false, .. } if !self.is_loopback() => wrong(
                "token_file",
                format!("`{self}` would carry the token in the clear"),
                "write the address with https://, or use a deploy key over ssh",
            ),
            Transport::Ssh { .. } | Transport::Local(_) => wrong(
                "token_file",
                format!("`{self}` takes no token"),
                "a token goes with an https:// address; ssh takes a deploy key",
            ),
            Transport::Http { .. } => Ok(()),
        }
    }

    /// Whether the other side is this machine itself.
    pub fn is_loopback(&self) -> bool {
        match &self.transport {
            Transport::Http { host, .. } | Transport::Ssh { host, .. } => {
                let ip: Result<std::net::IpAddr, _> = host.parse();
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
        // What should not stand in an address may be a password: such a one is not repeated.
        let shown =
            if may_hold_a_secret(text) { "the address".to_owned() } else { format!("`{}`", text.escape_debug()) };
        let bad = |why: &str| wrong("git", format!("{shown} {why}"), URL_HELP);
        if text.is_empty() || text.starts_with('-') || text.len() > 2048 {
            return bad(NO_ADDRESS);
        }
        if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\'' || c == '"' || c == '\\') {
            return bad("has a character that an address cannot have");
        }
        let web = text.strip_prefix("https://").map(|rest| (rest, true));
        let web = web.or_else(|| text.strip_prefix("http://").map(|rest| (rest, false)));
        let transport = if let Some(path) = text.strip_prefix("file://") {
            local(path)
        } else if text.starts_with('/') {
            local(text)
        } else if let Some((rest, secure)) = web {
            let server = rest.split('/').next().unwrap_or_default();
            if server.contains('@') {
                let help = "put a token or a password into a file on the head, and name that in `token_file`";
                return wrong("git", "a name, a token or a password stands in the address", help);
            }
            host_and_port(server).map(|(host, _)| Transport::Http { secure, host })
        } else if let Some(rest) = text.strip_prefix("ssh://") {
            let (server, path) = rest.split_once('/').unwrap_or((rest, ""));
            ssh(server, path, true)
        } else if text.contains("://") || text.contains("::") {
            Err("is of a kind that is not followed")
        } else {
            let (server, path) = text.split_once(':').unwrap_or((text, ""));
            ssh(server, path, false)
        };
        transport.map(|transport| Url { text: text.to_owned(), transport }).or_else(bad)
    }
}

const NO_ADDRESS: &str = "is no address of a repository";

/// Whether there is more before an `@` than the name that ssh takes.
fn may_hold_a_secret(text: &str) -> bool {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let is_ssh = text.starts_with("ssh://") || rest.len() == text.len();
    rest.rsplit_once('@').is_some_and(|(before, _)| !is_ssh || before.contains(':'))
}

fn local(path: &str) -> Result<Transport, &'static str> {
    if path.starts_with('/') { Ok(Transport::Local(PathBuf::from(path))) } else { Err(NO_ADDRESS) }
}

fn ssh(server: &str, path: &str, with_port: bool) -> Result<Transport, &'static str> {
    if path.is_empty() || path.starts_with('-') {
        return Err("names no repository of a server");
    }
    let (user, server) = match server.rsplit_once('@') {
        Some((user, server)) => (Some(user.to_owned()), server),
        None => (None, server),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_+".contains(c);
    if user.as_deref().is_some_and(|user| user.is_empty() || user.starts_with('-') || !user.chars().all(plain)) {
        return Err("has a name before the @ that no user has");
    }
    let (host, port) = host_and_port(server)?;
    if port.is_some() && !with_port {
        return Err(NO_ADDRESS);
    }
    Ok(Transport::Ssh { user, host, port: port.unwrap_or(22) })
}

/// The host, without the brackets of an IPv6 address, and the port if one is named.
fn host_and_port(server: &str) -> Result<(String, Option<u16>), &'static str> {
    const NO_HOST: &str = "has no host where one belongs";
    let (host, port) = match server.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or(NO_HOST)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| NO_HOST)?;
            (host, if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or(NO_HOST)?) })
        }
        None => match server.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (server, None),
        },
    };
    let name = |c: char| c.is_ascii_alphanumeric() || ".-_:".contains(c);
    if host.is_empty() || host.starts_with(['-', '.']) || !host.chars().all(name) {
        return Err(NO_HOST);
    }
    let number = |port: &str| {
        let digits = port.bytes().all(|digit| digit.is_ascii_digit());
        port.parse().ok().filter(|port| digits && *port != 0).ok_or("has no port where one belongs: 1 to 65535")
    };
    Ok((host.to_owned(), port.map(number).transpose()?))
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
        let part = |part: &str| part.is_empty() || part.starts_with('.') || part.ends_with(".lock");
        let bad = text.starts_with('-')
            || text.len() > 200
            || text == "@"
            || text == "HEAD"
            || text.ends_with('.')
            || text.contains("..")
            || text.contains("@{")
            || text.chars().any(odd)
            || text.split('/').any(part);
        if bad {
            let help = "write a branch as `git branch` lists it, without refs/heads/";
            return wrong("branch", format!("`{}` is no name of a branch", text.escape_debug()), help);
        }
        Ok(Branch(text.to_owned()))
    }
}

/// A folder inside the repository; empty for the repository's own root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inside(Vec<String>);

impl Inside {
    /// The names of the folders, from the outermost.
    pub fn parts(&self) -> &[String] {
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
        let trimmed = text.trim_matches('/');
        if trimmed.is_empty() || text == "." {
            return Ok(Inside::default());
        }
        let parts: Vec<String> = trimmed.split('/').map(str::to_owned).collect();
        if parts.iter().any(|part| name_fault(part.as_bytes()).is_some()) {
            let help = "write a folder relative to the repository's root, such as clusters/home";
            return wrong("path", format!("`{}` is no folder inside a repository", text.escape_debug()), help);
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

#[cfg(test)]
mod tests;
