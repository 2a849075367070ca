//! The node's SSH server: who may log in, its key, and the certificate of that.
//!
//! ```text
//! document with keys ─▶ a key of its own ─▶ sshd ── its public half ──▶ head
//!                                            ▲ loads it ◀─ certificate ───┘   again at two thirds of its life
//! ```
//! The key is in memory, or on the data partition: the certificate says that it is this node's, also where it is new.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use bramble_model::agent::{FromAgent, HostCertificate, NodeDocument};
use bramble_system::{Command, CommandError, Failure, files, locked};
use tokio::time::Instant;

use crate::document::{run, write};

/// The server's key; `images/sshd.conf` names it, and its certificate beside it. The image has none: it would be the same on
/// every node.
const KEY: &str = "/var/lib/bramble/ssh_host_ed25519_key";
/// The server's unit; Debian's own is masked, so that no node listens without keys.
const UNIT: &str = "bramble-sshd.service";
const AUTHORIZED: &str = "/root/.ssh/authorized_keys";
/// What a certificate begins with.
const CERTIFICATE: &str = "ssh-ed25519-cert-v01@openssh.com ";
/// How soon a certificate is asked for again should no answer come.
const AGAIN: Duration = Duration::from_secs(60);
/// How long a look at the key may take.
const KEYGEN: Duration = Duration::from_secs(30);

/// The server's key, and what the head has made of it.
pub(crate) struct HostKey {
    key: PathBuf,
    /// Program and arguments that have the server load it.
    reload: &'static [&'static str],
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// There is a server.
    serves: bool,
    /// The key that was signed last, and when it is signed again, in milliseconds.
    signed: Option<(String, u64)>,
    asked: Option<Instant>,
}

impl Default for HostKey {
    fn default() -> Self {
        Self::at(Path::new(KEY), &["systemctl", "reload", UNIT])
    }
}

impl HostKey {
    pub(crate) fn at(key: &Path, reload: &'static [&'static str]) -> Self {
        HostKey { key: key.to_owned(), reload, state: Mutex::default() }
    }

    fn beside(&self, end: &str) -> PathBuf {
        let mut path = self.key.clone().into_os_string();
        path.push(end);
        path.into()
    }

    /// Lets in whom the document says, and nobody where it says nobody.
    pub(crate) fn apply(&self, document: &NodeDocument) -> std::io::Result<()> {
        let mut text = document.ssh_keys.join("\n");
        text.push('\n');
        let folder = Path::new(AUTHORIZED).parent().expect("a folder");
        fs::create_dir_all(folder)?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
        let changed = write(AUTHORIZED, &text)?;
        if document.ssh_keys.is_empty() {
            let serves = std::mem::take(&mut locked(&self.state).serves);
            return if serves || changed { run(Command::new("systemctl").args(["stop", UNIT])) } else { Ok(()) };
        }
        self.make()?;
        self.serve(Command::new("systemctl").args(["start", UNIT]))
    }

    /// Has a certificate asked for once there is a server that can load it.
    fn serve(&self, start: Command) -> std::io::Result<()> {
        run(start)?;
        locked(&self.state).serves = true;
        Ok(())
    }

    /// Makes the key where there is none, or none that can be read: the power may have gone while it was written. Its public
    /// half follows it.
    fn make(&self) -> std::io::Result<()> {
        let public = match self.public() {
            Ok(public) => public,
            Err(_) if !self.key.exists() => self.make_anew()?,
            Err(error) if matches!(error.failure, Failure::Failed { .. }) => {
                tracing::warn!(error = bramble_system::sentence(&error), "the SSH server's key is damaged: made anew");
                self.make_anew()?
            }
            Err(error) => return Err(std::io::Error::other(error)),
        };
        let beside = self.beside(".pub");
        if !fs::read_to_string(&beside).is_ok_and(|old| old.trim_end() == public) {
            files::replace(&beside, format!("{public}\n").as_bytes())?;
        }
        Ok(())
    }

    /// Makes the key in place of what there is, and gives its public half.
    fn make_anew(&self) -> std::io::Result<String> {
        let (new, public) = (self.beside("-new"), self.beside("-new.pub"));
        for left in [&new, &public] {
            match fs::remove_file(left) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&new))?;
        let text = fs::read_to_string(&public)?;
        files::publish(&new, &self.key)?;
        fs::remove_file(&public)?;
        Ok(text.trim_end().to_owned())
    }

    /// The key's public half, by the key itself.
    fn public(&self) -> Result<String, CommandError> {
        let keygen = Command::new("ssh-keygen").args(["-y", "-P", "", "-f"]).arg(&self.key).limit(KEYGEN);
        keygen.run().map(|output| output.text())
    }

    /// What the head is asked, where it is time: by the clock in milliseconds, and not again before an answer could come.
    pub(crate) fn asks(&self, now: u64) -> Option<FromAgent> {
        let mut state = locked(&self.state);
        if !state.serves || state.asked.is_some_and(|asked| asked.elapsed() < AGAIN) {
            return None;
        }
        let key = fs::read_to_string(self.beside(".pub")).ok()?;
        let key = key.trim_end();
        let is_fresh = |(signed, renew_at): &(String, u64)| signed == key && now < *renew_at;
        if state.signed.as_ref().is_some_and(is_fresh) {
            return None;
        }
        state.asked = Some(Instant::now());
        Some(FromAgent::SshHostKey { key: key.into() })
    }

    /// Nobody answers what another connection asked.
    pub(crate) fn forget_asking(&self) {
        locked(&self.state).asked = None;
    }

    /// Has the server show this certificate.
    ///
    /// # Errors
    /// When it is none, or cannot be written, or the server does not load it.
    pub(crate) fn keep(&self, signed: &HostCertificate) -> std::io::Result<()> {
        let HostCertificate { certificate, renew_at } = signed;
        let certificate = certificate.trim_end();
        if !certificate.starts_with(CERTIFICATE) || certificate.contains(char::is_control) {
            return Err(std::io::Error::other("the head gives something that is no certificate of an SSH server"));
        }
        let key = fs::read_to_string(self.beside(".pub"))?;
        files::replace(&self.beside("-cert.pub"), format!("{certificate}\n").as_bytes())?;
        run(Command::new(self.reload[0]).args(&self.reload[1..]))?;
        let mut state = locked(&self.state);
        state.signed = Some((key.trim_end().to_owned(), *renew_at));
        state.asked = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_of(asked: Option<FromAgent>) -> Option<String> {
        match asked? {
            FromAgent::SshHostKey { key } => Some(key.into()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_key_is_signed_once_and_again_at_two_thirds_of_its_certificate_and_where_it_is_another_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let key = HostKey::at(&folder.path().join("key"), &["true"]);
        assert!(key.asks(1).is_none(), "there is no server");
        key.make().expect("made");
        key.serve(Command::new("false")).expect_err("it does not start");
        assert!(key.asks(1).is_none(), "there is none yet");
        key.serve(Command::new("true")).expect("it starts");
        let public = fs::read_to_string(folder.path().join("key.pub")).expect("made");
        assert_eq!(key_of(key.asks(1)).as_deref(), Some(public.trim_end()), "whole: it is not cut");
        assert!(key.asks(1).is_none(), "it waits for the answer");
        key.forget_asking();
        assert!(key.asks(1).is_some(), "on another connection");
        let signed = HostCertificate { certificate: format!("{CERTIFICATE}AAAA w1"), renew_at: 1000 };
        key.keep(&signed).expect("kept");
        let kept = fs::read_to_string(folder.path().join("key-cert.pub")).expect("there");
        assert_eq!(kept, format!("{CERTIFICATE}AAAA w1\n"));
        assert!(key.asks(999).is_none() && key.asks(1000).is_some());
        key.keep(&signed).expect("kept");
        fs::write(folder.path().join("key.pub"), "ssh-ed25519 BBBB root@w1\n").expect("written");
        assert_eq!(key_of(key.asks(1)).as_deref(), Some("ssh-ed25519 BBBB root@w1"));
    }

    #[test]
    fn a_key_that_the_power_tore_is_made_anew_and_its_public_half_follows_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let key = HostKey::at(&path("key"), &["true"]);
        key.make().expect("made");
        let read = |name: &str| fs::read_to_string(path(name)).expect("there");
        let (whole, public) = (read("key"), read("key.pub"));
        assert_eq!(fs::metadata(path("key")).expect("there").permissions().mode() & 0o777, 0o600);
        for wrong in ["", "ssh-ed25519 BBBB root@w1"] {
            fs::write(path("key.pub"), wrong).expect("written");
            key.make().expect("there");
            assert_eq!((read("key"), read("key.pub")), (whole.clone(), public.clone()), "{wrong:?}");
        }
        fs::remove_file(path("key.pub")).expect("removed");
        key.make().expect("there");
        assert_eq!(read("key.pub"), public);
        // One that was not finished lies there, too.
        fs::write(path("key-new"), "").expect("written");
        for torn in [&whole[..100], ""] {
            fs::write(path("key"), torn).expect("written");
            key.make().expect("made anew");
            let again = (read("key"), read("key.pub"));
            assert!(again.0 != whole && again.1 != public, "{again:?}");
            key.make().expect("there");
            assert_eq!((read("key"), read("key.pub")), again);
        }
        let names = fs::read_dir(folder.path()).expect("readable").count();
        assert_eq!(names, 2, "nothing is left");
    }

    #[test]
    fn what_is_no_certificate_is_not_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let key = HostKey::at(&folder.path().join("key"), &["true"]);
        key.make().expect("made");
        for certificate in ["", "ssh-ed25519 AAAA", "ssh-ed25519-cert-v01@openssh.com AAAA\nssh-rsa B"] {
            let signed = HostCertificate { certificate: certificate.into(), renew_at: 1000 };
            key.keep(&signed).expect_err(certificate);
        }
        assert!(!folder.path().join("key-cert.pub").exists());
        let key = HostKey::at(&folder.path().join("key"), &["false"]);
        key.make().expect("there");
        key.serve(Command::new("true")).expect("it starts");
        let signed = HostCertificate { certificate: format!("{CERTIFICATE}AAAA"), renew_at: 1000 };
        key.keep(&signed).expect_err("the server does not load it");
        assert!(key.asks(1).is_some(), "it is asked for again");
    }
}
