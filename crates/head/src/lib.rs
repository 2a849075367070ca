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

mod agents;
mod api;
mod boot_http;
pub mod ca;
mod directory;
mod interface;
mod page;
mod reconcile;
mod store;
mod timeline;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::Arc;

use bramble_image::Shelf;
use bramble_model::names::Name;
use bramble_model::repository::{Cluster, Dhcp, PowerKind};
use bramble_netboot::dhcp::{Interface, Leases, Pool, Server};
use bramble_netboot::{BootServer, ipxe, router, tftp};
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
    cluster: Cluster,
    shelf: Shelf,
    store: Arc<Store>,
    timeline: Arc<Timeline>,
    authority: Authority,
    agents: Agents,
    interface: Interface,
    /// The loaders that TFTP and HTTP hand out.
    loaders: Arc<tftp::Files>,
    power: BTreeMap<Name, Driver>,
    /// What the reconcile loop waits for.
    waiting: reconcile::Waits,
    /// The last view of the engine.
    observed: reconcile::View,
}

impl Head {
    fn http(&self) -> SocketAddrV4 {
        self.cluster.network.http(self.interface.address)
    }
}

/// Where the HTTP service of this cluster's head is, asked on the machine that runs it.
///
/// # Errors
/// When this machine has no such interface.
pub fn http_address(cluster: &Cluster) -> Result<SocketAddrV4, Error> {
    Ok(cluster.network.http(interface::find(&cluster.network.interface)?.address))
}

/// Runs the head until `stop`.
///
/// # Errors
/// When a part cannot start, or ends.
pub async fn run(settings: Settings, stop: CancellationToken) -> Result<(), Error> {
    let Settings { cluster, state, shelf, lab } = settings;
    let authority = Authority::open(&state.join("keys"))?;
    let interface = interface::find(&cluster.network.interface)?;
    if let Dhcp::Full(_) = cluster.network.dhcp {
        let others = bramble_netboot::dhcp::probe::other_servers(&interface).await;
        let others = others.map_err(service("looking for other DHCP servers (port 68)"))?;
        if !others.is_empty() {
            return Err(Error::OtherDhcp { interface: interface.name, others: others.into_iter().collect() });
        }
    }
    let store = Arc::new(Store::open(&state.join("head.redb"))?);
    let timeline = Arc::new(Timeline::open(Arc::clone(&store), &cluster)?);
    let power = drivers(&cluster, &interface, lab);
    let head = Arc::new(Head {
        cluster,
        shelf,
        store,
        timeline,
        authority,
        agents: Agents::default(),
        interface,
        loaders: Arc::new(loaders()?),
        power,
        waiting: reconcile::Waits::default(),
        observed: reconcile::View::default(),
    });
    let mut parts = JoinSet::new();
    start(&head, &state, &stop, &mut parts).await?;
    tracing::info!(address = %head.http(), cluster = %head.cluster.name, "the head is up");
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
    result
}

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
    let address = head.interface.address;
    if let Some(server) = dhcp_server(head)? {
        let (wire, book, end) = (head.interface.clone(), Arc::clone(&directory), stop.clone());
        parts.spawn(async move {
            let store: Arc<dyn bramble_netboot::dhcp::LeaseStore> = Arc::clone(&book) as _;
            let served = bramble_netboot::dhcp::run(server, wire, book, store, end).await;
            served.map_err(service("DHCP (ports 67 and 4011)"))
        });
    }
    let (files, book, end) = (Arc::clone(&head.loaders), Arc::clone(&directory), stop.clone());
    parts.spawn(async move { tftp::run(address, files, book, end).await.map_err(service("TFTP (port 69)")) });
    if head.cluster.network.no_ipv6_router {
        let (wire, end, timeline) = (head.interface.clone(), stop.clone(), Arc::clone(&head.timeline));
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
    parts.spawn(api::public(Arc::clone(head), stop.clone()).await?);
    parts.spawn(api::control(Arc::clone(head), &state.join("head.sock"), stop.clone())?);
    parts.spawn(agents::listen(Arc::clone(head), stop.clone()).await?);
    let (reconciled, end) = (Arc::clone(head), stop.clone());
    parts.spawn(async move {
        reconcile::run(reconciled, end).await;
        Ok(())
    });
    let (timeline, end) = (Arc::clone(&head.timeline), stop.clone());
    parts.spawn(async move {
        timeline.keep(end).await;
        Ok(())
    });
    Ok(())
}

/// The DHCP server of this cluster; `None` where the home router does all of it.
fn dhcp_server(head: &Head) -> Result<Option<Server>, Error> {
    let pool = match &head.cluster.network.dhcp {
        Dhcp::Router => return Ok(None),
        Dhcp::Proxy => None,
        Dhcp::Full(subnet) => {
            let fixed =
                head.cluster.nodes.values().flat_map(|node| {
                    node.macs.iter().filter_map(|mac| Some((*mac, node.address?))).collect::<Vec<_>>()
                });
            let taken = [Some(head.interface.address), subnet.router].into_iter().flatten().collect();
            let leases = Leases::new(subnet.pool, fixed.collect(), taken, head.store.leases()?);
            Some(Pool { subnet: subnet.clone(), leases })
        }
    };
    let boot = BootServer { http: head.http() };
    Ok(Some(Server { address: head.interface.address, boot, domain: head.cluster.domain.clone(), pool }))
}

/// The loaders of Debian's package `ipxe`.
fn loaders() -> Result<tftp::Files, Error> {
    let mut files = tftp::Files::new();
    for name in ipxe::LOADERS {
        let path = PathBuf::from(ipxe::FOLDER).join(name);
        let bytes = std::fs::read(&path).map_err(|_| Error::Loader(path))?;
        files.insert(name.to_owned(), bytes.into());
    }
    Ok(files)
}

fn drivers(cluster: &Cluster, interface: &Interface, lab: Option<PathBuf>) -> BTreeMap<Name, Driver> {
    let driver = |node: &bramble_model::repository::Node| match (&lab, node.power) {
        (Some(socket), _) => Driver::Lab { socket: socket.clone() },
        (None, PowerKind::Hand) => Driver::Hand,
        (None, PowerKind::WakeOnLan) => {
            Driver::WakeOnLan { cards: node.macs.clone(), from: interface.address, broadcast: Ipv4Addr::BROADCAST }
        }
    };
    cluster.nodes.iter().map(|(name, node)| (name.clone(), driver(node))).collect()
}
