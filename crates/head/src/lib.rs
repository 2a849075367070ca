//! The head: boot services, API, identity and reconciliation of one cluster.
//!
//! ```text
//! wire ──▶ netboot ──▶ Directory ──┐
//! stage 1 ──▶ HTTP reports ────────┼──▶ Timeline ──▶ status page, API, `bramble why`
//! agents ──▶ TLS sessions ─────────┘       │
//!                 ▲                        ▼
//!                 └──── reconcile ◀── plan (pure)
//! ```
//! All state that has to survive is in the [`store`]; everything else can be read anew.

mod access;
mod adopt;
mod agents;
mod api;
pub mod backup;
mod boot_http;
pub mod ca;
mod directory;
mod files;
mod foreign;
mod gate;
mod grub;
mod hands;
mod http;
mod interface;
mod page;
mod reconcile;
mod repository;
mod store;
mod strangers;
mod timeline;
mod vendor;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bramble_image::Shelf;
use bramble_model::names::Name;
use bramble_model::repository::{Cluster, Dhcp, Network, PowerKind, Subnet};
use bramble_netboot::dhcp::{Interface, Leases, Pool, Server};
use bramble_netboot::{BootServer, Cpu, arp, ipxe, router, tftp};
use bramble_power::Driver;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use agents::Agents;
use ca::Authority;
pub use reconcile::generation;
use store::Store;
use timeline::Timeline;

/// What a head needs to start.
pub struct Settings {
    pub cluster: Cluster,
    /// Where the store, the CA and the control socket are.
    pub state: PathBuf,
    pub shelf: Shelf,
    /// The lab's control socket, where the nodes are virtual machines.
    pub lab: Option<PathBuf>,
}

/// Why a head does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {doing}", path.display())]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("the store {}", path.display())]
    Store { path: PathBuf, source: Box<redb::Error> },
    #[error("network interface {name}: {problem}")]
    Interface { name: String, problem: String },
    #[error("full DHCP is not started on {interface}: another DHCP server answers there ({})", list(.others))]
    OtherDhcp { interface: String, others: Vec<Ipv4Addr> },
    #[error("{service}")]
    Service { service: String, source: io::Error },
    #[error("the head's certificates: {0}")]
    Certificates(String),
    #[error("cannot read loader {0}: install Debian's package `ipxe`")]
    Loader(PathBuf),
}

impl Error {
    /// What the person can do about it.
    pub fn help(&self) -> Option<&'static str> {
        Some(match self {
            Error::OtherDhcp { .. } => {
                "two would give machines conflicting addresses: set `network.dhcp = \"proxy\"` and let the other one hand out addresses, or switch it off"
            }
            Error::Interface { .. } => {
                "name the interface that the nodes hang on in `network.interface`; `ip link` lists them"
            }
            Error::Service { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "boot services need ports below 1024 and raw sockets: run `bramble serve` as root, or as a service with CAP_NET_ADMIN, CAP_NET_RAW and CAP_NET_BIND_SERVICE"
            }
            Error::Service { source, .. } if source.kind() == io::ErrorKind::AddrInUse => {
                "another program has that port: `ss -lnup` and `ss -lntp` name it"
            }
            Error::Store { .. } => "only one head can use a store: is another one running?",
            _ => return None,
        })
    }
}

fn list(addresses: &[Ipv4Addr]) -> String {
    addresses.iter().map(Ipv4Addr::to_string).collect::<Vec<_>>().join(", ")
}

/// What every part of the head shares.
struct Head {
    /// Where the store, the CA and the control socket are.
    state: PathBuf,
    repository: repository::Repository,
    /// As it was when the head started: sockets are bound to it.
    network: Network,
    shelf: Shelf,
    store: Arc<Store>,
    timeline: Arc<Timeline>,
    authority: Authority,
    agents: Agents,
    people: access::people::People,
    flows: access::oidc::Flows,
    /// Never empty; the first is the one that the agents dial.
    interfaces: Vec<Interface>,
    wire: directory::Wire,
    chains: grub::Chains,
    strangers: strangers::Strangers,
    adoptions: adopt::Adoptions,
    /// The loaders that TFTP and HTTP hand out.
    loaders: BTreeMap<String, Arc<[u8]>>,
    /// The lab's control socket, where the nodes are virtual machines.
    lab: Option<PathBuf>,
    /// `None` where the home router does all of DHCP.
    dhcp: Option<Arc<Mutex<Server>>>,
    /// What the reconcile loop waits for.
    waiting: reconcile::Waits,
    /// The last view of the engine.
    observed: reconcile::View,
}

impl Head {
    fn http(&self) -> SocketAddrV4 {
        self.network.http(self.interfaces[0].address)
    }

    /// The interface whose wire has this address; the first for one that is behind a relay.
    fn interface_beside(&self, address: Ipv4Addr) -> &Interface {
        self.interfaces.iter().find(|interface| interface.reaches(address)).unwrap_or(&self.interfaces[0])
    }

    /// The HTTP service, as a machine with this address reaches it.
    fn http_beside(&self, address: Ipv4Addr) -> SocketAddrV4 {
        self.network.http(self.interface_beside(address).address)
    }

    /// The loader of this name: of this machine, or of the boot set that it is for.
    fn loader(&self, name: &str) -> Option<tftp::Content> {
        if let Some(bytes) = self.loaders.get(name) {
            return Some(tftp::Content::Memory(Arc::clone(bytes)));
        }
        let cpu =
            bramble_netboot::grub::program(name).or_else(|| (name == ipxe::UEFI_ARM64_LOADER).then_some(Cpu::Arm64))?;
        let set = self.set_for(cpu).ok()?;
        directory::content(&self.shelf.file(&set.manifest.firmware(name)?.sha256))
    }

    /// What switches this node.
    fn driver(&self, node: &Name) -> Option<Driver> {
        let declared = self.declared(node)?;
        Some(match (&self.lab, declared.power) {
            (Some(socket), _) => Driver::Lab { socket: socket.clone() },
            (None, PowerKind::Hand) => Driver::Hand,
            (None, PowerKind::WakeOnLan) => Driver::WakeOnLan {
                cards: declared.macs,
                from: self.interfaces[0].address,
                broadcast: Ipv4Addr::BROADCAST,
            },
        })
    }

    /// The subnets of full DHCP.
    fn subnets(&self) -> &[Subnet] {
        match &self.network.dhcp {
            Dhcp::Full(subnets) => subnets,
            Dhcp::Proxy | Dhcp::Router => &[],
        }
    }
}

/// Where the HTTP service of this cluster's head is, asked on the machine that runs it.
///
/// # Errors
/// When this machine has no such interface.
pub fn http_address(cluster: &Cluster) -> Result<SocketAddrV4, Error> {
    Ok(cluster.network.http(interface::find(cluster.network.interface())?.address))
}

/// Runs the head until `stop`.
///
/// # Errors
/// When a part cannot start, or ends.
pub async fn run(settings: Settings, stop: CancellationToken) -> Result<(), Error> {
    let Settings { cluster, state, shelf, lab } = settings;
    let interfaces =
        cluster.network.interfaces.iter().map(|name| interface::find(name)).collect::<Result<Vec<_>, _>>()?;
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), format!("head.{}", cluster.domain)];
    names.extend(interfaces.iter().map(|interface| interface.address.to_string()));
    let authority = Authority::open(&state.join("keys"))?.known_as(names);
    if let Dhcp::Full(_) = cluster.network.dhcp {
        for interface in &interfaces {
            let others = bramble_netboot::dhcp::probe::other_servers(interface).await;
            let others = others.map_err(service("looking for other DHCP servers (port 68)"))?;
            if !others.is_empty() {
                let interface = interface.name.clone();
                return Err(Error::OtherDhcp { interface, others: others.into_iter().collect() });
            }
        }
    }
    let store = Arc::new(Store::open(&state.join("head.redb"))?);
    let timeline = Arc::new(Timeline::open(Arc::clone(&store), &cluster)?);
    let dhcp = dhcp_server(&cluster, &interfaces, &store)?.map(|server| Arc::new(Mutex::new(server)));
    let strangers = strangers::Strangers::open(&store)?;
    let adoptions = adopt::Adoptions::open(&store)?;
    let head = Arc::new(Head {
        state: state.clone(),
        network: cluster.network.clone(),
        repository: repository::Repository::new(cluster),
        shelf,
        store,
        timeline,
        authority,
        agents: Agents::default(),
        people: access::people::People::new(),
        flows: access::oidc::Flows::default(),
        interfaces,
        wire: directory::Wire::default(),
        chains: grub::Chains::default(),
        strangers,
        adoptions,
        loaders: loaders()?,
        lab,
        dhcp,
        waiting: reconcile::Waits::default(),
        observed: reconcile::View::default(),
    });
    head.settle()?;
    let mut parts = JoinSet::new();
    start(&head, &state, &stop, &mut parts).await?;
    tracing::info!(address = %head.http(), cluster = %head.cluster().name, "the head is up");
    let mut result = Ok(());
    while let Some(ended) = parts.join_next().await {
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => result = result.and(Err(error)),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => {}
        }
        // One part gone means the head is not whole: the others end too.
        stop.cancel();
    }
    head.timeline.flush();
    head.strangers.flush(&head.store);
    result
}

/// How often a disk that takes no writes is tried again.
const DISK: std::time::Duration = std::time::Duration::from_secs(3);

type Parts = JoinSet<Result<(), Error>>;

fn service(name: &str) -> impl FnOnce(io::Error) -> Error {
    let service = name.to_owned();
    move |source| Error::Service { service, source }
}

async fn start(
    head: &Arc<Head>,
    state: &std::path::Path,
    stop: &CancellationToken,
    parts: &mut Parts,
) -> Result<(), Error> {
    let directory: Arc<directory::Book> = Arc::new(directory::Book(Arc::clone(head)));
    if let Some(server) = head.dhcp.clone() {
        let wires = head
            .interfaces
            .iter()
            .map(|interface| (interface.clone(), BootServer { http: head.network.http(interface.address) }));
        let (wires, book, end) = (wires.collect(), Arc::clone(&directory), stop.clone());
        parts.spawn(async move {
            let store: Arc<dyn bramble_netboot::dhcp::LeaseStore> = Arc::clone(&book) as _;
            let served = bramble_netboot::dhcp::run(server, wires, book, store, end).await;
            served.map_err(service("DHCP (ports 67 and 4011)"))
        });
    }
    for interface in head.interfaces.clone() {
        let (book, end, address) = (Arc::clone(&directory), stop.clone(), interface.address);
        parts.spawn(async move { tftp::run(address, book, end).await.map_err(service("TFTP (port 69)")) });
        if head.network.no_ipv6_router {
            let (wire, end, timeline) = (interface.clone(), stop.clone(), Arc::clone(&head.timeline));
            parts.spawn(async move {
                let found =
                    router::run(&wire.name, wire.index, end.clone()).await.map_err(service("IPv6 router question"))?;
                if found {
                    timeline.note("an IPv6 router is on this wire: `no_ipv6_router` is ignored");
                    end.cancelled().await;
                }
                Ok(())
            });
        }
        let (book, end) = (Arc::clone(&directory), stop.clone());
        parts.spawn(async move { arp::run(&interface, book, end).await.map_err(service("listening to ARP")) });
    }
    parts.spawn(keep(repository::follow(Arc::clone(head), stop.clone())));
    parts.spawn(keep(backup::keep(Arc::clone(head), stop.clone())));
    parts.spawn(keep(watch_disk(Arc::clone(head), stop.clone())));
    parts.spawn(keep(strangers::Strangers::keep(Arc::clone(head), stop.clone())));
    for interface in &head.interfaces {
        parts.spawn(http::serve(Arc::clone(head), interface.address, stop.clone()).await?);
        parts.spawn(http::serve_tls(Arc::clone(head), interface.address, stop.clone()).await?);
        parts.spawn(agents::listen(Arc::clone(head), interface.address, stop.clone()).await?);
    }
    parts.spawn(http::control(Arc::clone(head), &state.join("head.sock"), stop.clone())?);
    parts.spawn(keep(reconcile::run(Arc::clone(head), stop.clone())));
    parts.spawn(keep(Arc::clone(&head.timeline).keep(stop.clone())));
    Ok(())
}

/// Says when the store has left its disk, and brings it back as soon as that takes writes again.
async fn watch_disk(head: Arc<Head>, stop: CancellationToken) {
    let mut told = false;
    while !stop.is_cancelled() {
        let looking = Arc::clone(&head);
        let mended = tokio::task::spawn_blocking(move || looking.store.mend());
        if mended.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())) {
            head.timeline.note("the head's disk takes writes again: nothing was lost");
        }
        let trouble = head.store.trouble();
        if let Some(trouble) = trouble.as_ref().filter(|_| !told) {
            head.timeline.note(trouble);
        }
        told = trouble.is_some();
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(DISK) => {}
        }
    }
}

/// A part that cannot fail.
async fn keep(part: impl Future<Output = ()>) -> Result<(), Error> {
    part.await;
    Ok(())
}

/// The DHCP server of this cluster; `None` where the home router does all of it.
fn dhcp_server(cluster: &Cluster, interfaces: &[Interface], store: &Store) -> Result<Option<Server>, Error> {
    let subnets = match &cluster.network.dhcp {
        Dhcp::Router => return Ok(None),
        Dhcp::Proxy => &[][..],
        Dhcp::Full(subnets) => subnets,
    };
    let stored = if subnets.is_empty() { Vec::new() } else { store.leases()? };
    let pool = |subnet: &Subnet| {
        let own = interfaces.iter().map(|interface| interface.address);
        let stored = stored.iter().copied().filter(|lease| subnet.contains(lease.address));
        // The nodes' fixed addresses come with the repository, now and whenever it changes.
        let leases = Leases::new(subnet.pool, BTreeMap::new(), own.chain(subnet.router).collect(), stored);
        Pool { subnet: subnet.clone(), leases }
    };
    let pools = subnets.iter().map(pool).collect();
    Ok(Some(Server { domain: cluster.domain.clone(), pools }))
}

/// The loaders of Debian's package `ipxe` on this machine. One for another processor than amd64 comes
/// with the boot set for that processor.
fn loaders() -> Result<BTreeMap<String, Arc<[u8]>>, Error> {
    let mut files = BTreeMap::new();
    for name in ipxe::LOADERS {
        let path = PathBuf::from(ipxe::FOLDER).join(name);
        match std::fs::read(&path) {
            Ok(bytes) => {
                files.insert(name.to_owned(), bytes.into());
            }
            Err(_) if name == ipxe::UEFI_ARM64_LOADER => {}
            Err(_) => return Err(Error::Loader(path)),
        }
    }
    Ok(files)
}
