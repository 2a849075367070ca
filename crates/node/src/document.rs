//! The node document, applied: what makes one image this node.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bramble_boot::UNTRUSTED_DATA;
use bramble_model::agent::NodeDocument;
use bramble_system::{Command, files};
use tokio::sync::watch;

use crate::docker::Docker;
use crate::engine::{self, Declared};
use crate::firewall::Nft;
use crate::ssh::HostKey;

/// Documents that came from the head. They are applied beside the conversation that brings them: commands that take
/// long hold up no beat.
///
/// ```text
/// take ─▶ the newest that came ─▶ applied, one at a time ─▶ its engines are declared ─▶ settled
/// ```
pub(crate) struct Documents {
    /// How many have come, and the last of them.
    newest: watch::Sender<(u64, Option<NodeDocument>)>,
    /// Up to which one they are applied, or were overtaken by a newer one.
    settled: watch::Receiver<u64>,
    /// The key of the SSH server that they ask for.
    host_key: Arc<HostKey>,
}

impl Documents {
    /// Starts applying them. What the node does in its engines is declared once its name is the right one: engines take
    /// that along.
    pub(crate) fn start(declared: watch::Sender<Declared>) -> Self {
        let host_key = Arc::<HostKey>::default();
        let own = Arc::clone(&host_key);
        Self::start_with(move |document| apply(document, &own), host_key, declared)
    }

    pub(crate) fn start_with(
        apply: impl Fn(&NodeDocument) + Clone + Send + 'static,
        host_key: Arc<HostKey>,
        declared: watch::Sender<Declared>,
    ) -> Self {
        let (newest, mut coming) = watch::channel::<(u64, Option<NodeDocument>)>((0, None));
        let (tell, settled) = watch::channel(0);
        tokio::spawn(async move {
            while coming.changed().await.is_ok() {
                let (number, Some(document)) = coming.borrow_and_update().clone() else { continue };
                let (apply, engines) = (apply.clone(), document.engines.clone());
                if let Err(error) = tokio::task::spawn_blocking(move || apply(&document)).await {
                    tracing::error!(%error, "applying the node document ended by an error of bramble's own");
                }
                declared.send_replace(Some(engines));
                tell.send_replace(number);
            }
        });
        Documents { newest, settled, host_key }
    }

    pub(crate) fn host_key(&self) -> &Arc<HostKey> {
        &self.host_key
    }

    /// One has come. Those before it that nobody has begun to apply are passed over.
    pub(crate) fn take(&self, document: NodeDocument) {
        self.newest.send_modify(|(number, newest)| {
            *number += 1;
            *newest = Some(document);
        });
    }

    /// When those that have come by now are applied.
    pub(crate) fn settled(&self) -> impl Future<Output = ()> + Send + use<> {
        let number = self.newest.borrow().0;
        let mut settled = self.settled.clone();
        async move {
            // They are applied for as long as the agent lives.
            let _ = settled.wait_for(|done| *done >= number).await;
        }
    }
}

/// What the agent makes of [`UNTRUSTED_DATA`] while it starts what waited for that: it may end meanwhile.
const TRUSTING: &str = "/run/bramble/trusting-data";

/// The head has let this node in: what its data partition has is this node's, and its engines start.
fn trust_data() -> std::io::Result<()> {
    match fs::rename(UNTRUSTED_DATA, TRUSTING) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Err(_) if !Path::new(TRUSTING).exists() => return Ok(()),
        Ok(()) | Err(_) => {}
    }
    // Those that the image has.
    let there = |unit: &&str| Path::new("/etc/systemd/system").join(unit).exists();
    let units: Vec<&str> = engine::units().filter(there).collect();
    if !units.is_empty() {
        run(Command::new("systemctl").args(["start", "--no-block"]).args(units))?;
    }
    fs::remove_file(TRUSTING)
}

/// Applies all of it; what fails is logged and does not keep the rest from being applied.
fn apply(document: &NodeDocument, host_key: &HostKey) {
    let firewall = Nft::default().apply(document.firewall.as_ref());
    let (hostname, ssh, time) = (hostname(document), host_key.apply(document), time_servers(document));
    // Before it joins a Swarm.
    let docker = Docker::default().apply(document.docker);
    // Its engines take the name along. Without its settings Docker could begin in another folder than its Swarm's: it waits
    // for the next document.
    let data = if docker.is_ok() { trust_data() } else { Ok(()) };
    let results = [
        ("host name", hostname),
        ("firewall", firewall.map_err(std::io::Error::other)),
        ("SSH server", ssh),
        ("time servers", time),
        ("Docker", docker),
        ("data partition", data),
    ];
    for (what, result) in results {
        if let Err(error) = result {
            tracing::error!(what, %error, "cannot apply the node document");
        }
    }
}

/// Writes a file and says whether that changed it.
pub(crate) fn write(path: &str, text: &str) -> std::io::Result<bool> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(false);
    }
    if let Some(folder) = Path::new(path).parent() {
        fs::create_dir_all(folder)?;
    }
    files::replace(Path::new(path), text.as_bytes())?;
    Ok(true)
}

pub(crate) fn run(command: Command) -> std::io::Result<()> {
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
