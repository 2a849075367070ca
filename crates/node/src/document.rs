//! The node document, applied: what makes one image this node.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use bramble_model::agent::NodeDocument;
use bramble_system::{Command, files};

/// Applies all of it; what fails is logged and does not keep the rest from being applied.
pub(crate) fn apply(document: &NodeDocument) {
    let results =
        [("host name", hostname(document)), ("SSH keys", ssh_keys(document)), ("time servers", time_servers(document))];
    for (what, result) in results {
        if let Err(error) = result {
            tracing::error!(what, %error, "cannot apply the node document");
        }
    }
}

/// Writes a file and says whether that changed it.
fn write(path: &str, text: &str) -> std::io::Result<bool> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(false);
    }
    if let Some(folder) = Path::new(path).parent() {
        fs::create_dir_all(folder)?;
    }
    files::replace(Path::new(path), text.as_bytes())?;
    Ok(true)
}

fn run(command: Command) -> std::io::Result<()> {
    command.limit(Duration::from_secs(30)).run().map(drop).map_err(std::io::Error::other)
}

fn hostname(document: &NodeDocument) -> std::io::Result<()> {
    let name = document.hostname.as_str();
    write("/etc/hosts", &format!("127.0.0.1 localhost\n127.0.1.1 {name}.{} {name}\n::1 localhost\n", document.domain))?;
    if write("/etc/hostname", &format!("{name}\n"))? {
        rustix::system::sethostname(name.as_bytes())?;
    }
    Ok(())
}

fn ssh_keys(document: &NodeDocument) -> std::io::Result<()> {
    let mut text = document.ssh_keys.join("\n");
    text.push('\n');
    fs::create_dir_all("/root/.ssh")?;
    fs::set_permissions("/root/.ssh", fs::Permissions::from_mode(0o700))?;
    let changed = write("/root/.ssh/authorized_keys", &text)?;
    if document.ssh_keys.is_empty() || !changed {
        return Ok(());
    }
    // The image has no host key: it would be the same on every node.
    let key = "/var/lib/bramble/ssh_host_ed25519_key";
    if !Path::new(key).exists() {
        run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", key]))?;
    }
    write("/etc/ssh/sshd_config.d/bramble.conf", &format!("HostKey {key}\nPasswordAuthentication no\n"))?;
    fs::create_dir_all("/run/sshd")?;
    // Debian's unit is masked in the image, so that no node listens without keys.
    run(Command::new("systemd-run").args(["--unit=bramble-sshd", "--collect", "/usr/sbin/sshd", "-D"]))
}

fn time_servers(document: &NodeDocument) -> std::io::Result<()> {
    if document.time_servers.is_empty() {
        return Ok(());
    }
    let text = format!("[Time]\nNTP={}\n", document.time_servers.join(" "));
    if write("/etc/systemd/timesyncd.conf.d/bramble.conf", &text)? {
        run(Command::new("systemctl").args(["try-restart", "systemd-timesyncd.service"]))?;
    }
    Ok(())
}
