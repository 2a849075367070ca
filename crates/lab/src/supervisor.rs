//! The inside of the lab: first process of its namespaces.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{FromRawFd, RawFd};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use bramble_model::names::Name;
use bramble_model::repository::{Cluster, Dhcp, LabFirmware};
use bramble_netboot::recipe::{Cards, Router, recipe};
use bramble_power::lab::{Machine as Description, Reply, Request};
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::accelerator::Accelerator;
use crate::machine::Machine;
use crate::network::WireAddresses;
use crate::{Error, HEAD, HEAD_TLS, Places, control, forward};

/// A head that ended is started again after this: as a service manager would.
const AGAIN: Duration = Duration::from_millis(500);

/// How long the head may take to end.
const LAST_WORDS: Duration = Duration::from_secs(3);

type Targets = BTreeMap<String, watch::Sender<Option<SocketAddr>>>;

/// Runs the lab until SIGTERM or until it is asked to end. `forwards` are listeners that were
/// made outside, by name and file descriptor.
///
/// # Errors
/// When the wire or a machine cannot be made.
pub async fn inside(cluster: &Cluster, state: &Path, forwards: &[(String, RawFd)]) -> Result<(), Error> {
    let places = Places::new(state);
    // A killed lab may have left disks behind.
    let _ = std::fs::remove_dir_all(places.scratch());
    std::fs::create_dir_all(places.scratch()).map_err(Error::io("cannot make the machines' folder"))?;
    let wire = WireAddresses::of(cluster);
    let bridge = cluster.network.interface();
    wire.make(bridge)?;
    let accelerator = Accelerator::probe(&places.scratch());
    let mut machines = BTreeMap::new();
    for (index, (name, node)) in cluster.nodes.iter().enumerate() {
        machines.insert(name.clone(), Machine::make(name, node, index, bridge, &accelerator, &places)?);
    }
    let mut router = router(&wire, cluster, &places)?;
    let mut tasks = JoinSet::new();
    let mut targets = Targets::new();
    for (name, descriptor) in forwards {
        // SAFETY: the descriptor was handed over for this, and nothing else here uses it.
        let listener = unsafe { TcpListener::from_raw_fd(*descriptor) };
        listener.set_nonblocking(true).map_err(Error::io("cannot use a listener"))?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(Error::io("cannot use a listener"))?;
        let target = watch::Sender::new(None);
        tasks.spawn(forward::run(listener, target.subscribe()));
        targets.insert(name.clone(), target);
    }
    for (name, port) in [(HEAD, cluster.network.http_port), (HEAD_TLS, cluster.network.https_port)] {
        if let Some(head) = targets.get(name) {
            head.send_replace(Some((wire.head, port).into()));
        }
    }
    let mut head = start_head(cluster, state, &places)?;
    let listener = UnixListener::bind(places.socket()).map_err(Error::io("cannot make the control socket"))?;
    let mut end = signal(SignalKind::terminate()).map_err(Error::io("cannot listen for signals"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::io("cannot listen for signals"))?;
    loop {
        tokio::select! {
            _ = end.recv() => break,
            _ = interrupt.recv() => break,
            accepted = listener.accept() => {
                let Ok((mut stream, _)) = accepted else { continue };
                if serve(&mut stream, &mut machines, &targets, &accelerator).await {
                    break;
                }
            }
            ended = wait(&mut router) => {
                return Err(Error::Ended(format!("the home router (dnsmasq) ended: {ended}")));
            }
            _ = head.wait() => {
                tokio::time::sleep(AGAIN).await;
                head = start_head(cluster, state, &places)?;
            }
        }
    }
    for machine in machines.values_mut() {
        machine.power(false).await?;
    }
    if let Some(pid) = head.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        // It may just have ended by itself.
        let _ = kill_process(pid, Signal::TERM);
        let _ = tokio::time::timeout(LAST_WORDS, head.wait()).await;
    }
    let _ = std::fs::remove_dir_all(places.scratch());
    Ok(())
}

/// The end of a process that there may not be.
async fn wait(process: &mut Option<Child>) -> String {
    match process {
        Some(process) => process.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string()),
        None => std::future::pending().await,
    }
}

/// Answers one request; `true` when it asks for the end.
async fn serve(
    stream: &mut UnixStream,
    machines: &mut BTreeMap<Name, Machine>,
    targets: &Targets,
    accelerator: &Accelerator,
) -> bool {
    let Ok(request) = control::read(stream).await else { return false };
    let down = matches!(request, Request::Down);
    let reply = match request {
        Request::Down => Reply::Done,
        Request::Power { node, on } => match machines.get_mut(&node) {
            Some(machine) => machine
                .power(on)
                .await
                .map_or_else(|error| Reply::Failed { error: error.to_string() }, |()| Reply::Done),
            None => Reply::Failed { error: format!("there is no machine {node}") },
        },
        Request::Forward { name, to } => match targets.get(&name) {
            Some(target) => {
                target.send_replace(Some(to));
                Reply::Done
            }
            None => Reply::Failed { error: format!("nothing is forwarded as {name}") },
        },
        Request::List => Reply::Machines {
            machines: machines.values_mut().map(describe).collect(),
            accelerator: accelerator.to_string(),
        },
    };
    // Whoever asked may be gone.
    let _ = control::answer(stream, &reply).await;
    down
}

fn describe(machine: &mut Machine) -> Description {
    let process = machine.process();
    Description {
        node: machine.node.clone(),
        on: process.is_some(),
        firmware: match machine.firmware {
            LabFirmware::Bios => "bios".into(),
            LabFirmware::Uefi => "uefi".into(),
            LabFirmware::UefiHttp => "uefi-http".into(),
            LabFirmware::UefiSecure => "uefi-secure".into(),
        },
        process,
        console: machine.console.display().to_string(),
    }
}

/// The real head, as on any machine.
fn start_head(cluster: &Cluster, state: &Path, places: &Places) -> Result<Child, Error> {
    let doing = "cannot start the head";
    let log = File::options().create(true).append(true).open(places.head_log()).map_err(Error::io(doing))?;
    let program = std::env::current_exe().map_err(Error::io(doing))?;
    Command::new(program)
        .args(["serve", "-C"])
        .arg(&cluster.root)
        .arg("--state")
        .arg(state)
        .arg("--lab")
        .arg(places.socket())
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(Error::io(doing))?)
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .map_err(Error::io(doing))
}

fn router(wire: &WireAddresses, cluster: &Cluster, places: &Places) -> Result<Option<Child>, Error> {
    let configuration = places.scratch().join("router.conf");
    let leases = places.scratch().join("router.leases");
    let network = &cluster.network;
    let Some(arguments) = wire.router_arguments(network.interface(), &configuration, &leases) else {
        return Ok(None);
    };
    let boot = match network.dhcp {
        Dhcp::Router => recipe(Router::Dnsmasq, network.http(wire.head), &Cards::of(cluster)),
        Dhcp::Proxy | Dhcp::Full(_) => String::new(),
    };
    std::fs::write(&configuration, boot).map_err(Error::io("cannot write the home router's configuration"))?;
    Command::new("dnsmasq")
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map(Some)
        .map_err(Error::io("cannot start dnsmasq as the lab's home router (package dnsmasq-base)"))
}
