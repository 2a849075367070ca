//! The head: boot services, API, identity and reconciliation of one cluster.
//!
//! ```text
//! wire ──▶ netboot ──▶ boots ──────┐
//! stage 1 ──▶ HTTP reports ────────┼──▶ Timeline ──▶ status page, API, `bramble why`
//! agents ──▶ TLS sessions ─────────┘       │
//!                 ▲                        ▼
//!                 └──── loops ◀── plan (pure) ◀── the current snapshot
//! ```
//! All state that has to survive is in the store, each record beside its owner; everything else can be read anew.

mod access;
mod admissions;
mod adoptions;
mod agents;
mod api;
pub mod backup;
mod beginning;
mod body;
pub mod boot_sets;
mod boots;
mod ca;
mod changes;
mod closed;
pub mod control;
mod descriptors;
mod desired;
mod dhcp;
mod ends;
mod error;
mod floods;
mod frame;
mod gate;
mod hands;
mod host_ca;
mod http;
mod interface;
#[cfg(test)]
mod lasting_tests;
mod leases;
mod loops;
mod membership;
mod metrics;
mod neighbours;
mod nodes;
mod overview;
mod page;
mod places;
mod power;
mod random;
mod readable;
mod refusal;
mod rotation;
mod routes;
mod snapshots;
mod store;
mod strangers;
mod swarm;
mod timeline;
mod timely;
pub mod unreadable;
mod vanished;
mod vendor;
mod wires;
mod wiring;

use std::net::SocketAddrV4;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bramble_model::names::Digest;
use bramble_model::repository::{Cluster, Dhcp, Source};
use bramble_model::snapshot::Revision;
use bramble_netboot::dhcp::Listening;
use bramble_netboot::{BootServer, arp, dhcp as netboot_dhcp, router, tftp};
use bramble_store::Store;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use descriptors::{Descriptors, Shares};
use gate::Gate;
use snapshots::Snapshots;
use timeline::Timeline;
use wires::Wires;
use wiring::Parts;

pub use ca::Roots;
pub use ca::sets::note as note_roots_of;
pub use error::Error;
pub use snapshots::image_inputs;
pub use store::STORE;
pub use wiring::Settings;

/// Where the HTTP service of this cluster's head is, asked on the machine that runs it.
///
/// # Errors
/// When this machine has no such interface.
pub fn http_address(cluster: &Cluster) -> Result<SocketAddrV4, Error> {
    Ok(cluster.network.http(interface::find(cluster.network.interface())?.address))
}

/// Why a head ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to.
    Asked,
    /// A wire is there now that was not when it started: one that begins anew serves it.
    ForAWire,
}

/// Runs the head until `stop`.
///
/// # Errors
/// When a part cannot start, or ends.
pub async fn run(settings: Settings, stop: CancellationToken) -> Result<Ended, Error> {
    let (state, is_lab) = (settings.state.clone(), settings.lab.is_some());
    let (parts, first) = match Parts::open(settings, &stop).await {
        // It had not begun to serve, and nothing is undone by going.
        Err(_) if stop.is_cancelled() => return Ok(Ended::Asked),
        opened => opened?,
    };
    parts.desired.follow(&first);
    let mut tasks = JoinSet::new();
    // A lab is asked from its own folder only: it may well have the name of the cluster that it is a rehearsal of.
    let named = (!is_lab).then(|| first.cluster.name.as_str());
    if let Err(error) = start(&parts, (&state, named), &stop, &mut tasks).await {
        // What was started would be waited for without end: it ends before the reason is told.
        stop.cancel();
        let _told = all_of(&mut tasks, &stop).await;
        return Err(error);
    }
    let wire_came = CancellationToken::new();
    if !parts.wires.problems().is_empty() {
        let (wires, snapshots) = (Arc::clone(&parts.wires), Arc::clone(&parts.snapshots));
        tasks.spawn(keep(watch_wires(wires, snapshots, stop.clone(), wire_came.clone())));
    }
    let address = parts.wires.http_at(parts.wires.address());
    tracing::info!(%address, cluster = %first.cluster.name, "the head is up");
    let result = all_of(&mut tasks, &stop).await;
    let flushed = tokio::task::spawn_blocking(move || {
        // And then the store is closed.
        let parts = parts;
        parts.timeline.flush();
        parts.strangers.flush();
        parts.access.refusals.flush();
    });
    if tokio::time::timeout(ENDING, flushed).await.is_err() {
        tracing::error!("the last events are not on the disk, which does not answer");
    }
    result.map(|()| if wire_came.is_cancelled() { Ended::ForAWire } else { Ended::Asked })
}

/// For so long a part may take to end, and the disk to take the last events.
const ENDING: Duration = Duration::from_secs(20);

/// Waits until every part has ended: one that is gone means that the head is not whole, and the others end, too. One that
/// hangs, as with a disk or a server that does not answer, is left behind.
async fn all_of(tasks: &mut Tasks, stop: &CancellationToken) -> Result<(), Error> {
    let mut result = Ok(());
    let late = async {
        stop.cancelled().await;
        tokio::time::sleep(ENDING).await;
    };
    tokio::pin!(late);
    loop {
        let ended = tokio::select! {
            ended = tasks.join_next() => ended,
            () = &mut late => {
                tracing::error!(parts = tasks.len(), "what does not end is left behind");
                None
            }
        };
        let Some(ended) = ended else { break };
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => result = result.and(Err(error)),
            // A part that is gone by an error of bramble's own ends the head, as any other does.
            Err(error) if error.is_panic() => result = result.and(Err(Error::Part(error.to_string()))),
            Err(_) => {}
        }
        stop.cancel();
    }
    result
}

/// Whether a head could begin with the repository in this folder: what is plainly wrong is told before anything is made.
///
/// # Errors
/// What is wrong with its `bramble.toml`, a wire of it that is not there, or a port there that is taken.
pub fn could_begin(home: &Path) -> Result<(), Error> {
    let network = Cluster::of_folder(home)?.network;
    let wires = Wires::whole(&network)?;
    wires.interfaces().iter().try_for_each(|wire| http::are_free(wire.address, &network))
}

/// Begins a head with the address of a git repository, where none runs yet.
///
/// # Errors
/// When the store cannot be written, or a head is using it.
pub fn begin_with(state: &Path, source: &Source) -> Result<(), Error> {
    loops::source::check(source)?;
    snapshots::record::begin_with(&store::open(state)?, source)
}

/// The snapshot that a head keeps true, and where it came from, where none runs; `None` where there is none yet.
///
/// # Errors
/// When the store cannot be read, or a head is using it.
pub fn current_snapshot(state: &Path) -> Result<Option<(Digest, Revision)>, Error> {
    if !state.join(STORE).exists() {
        return Ok(None);
    }
    let store = store::open(state)?;
    let Some(pointer) = snapshots::record::current(&store)? else { return Ok(None) };
    let known = snapshots::record::known(&store, &pointer.digest)?;
    Ok(Some((pointer.digest, known.map(|known| known.revision).unwrap_or_default())))
}

/// The CAs of the head of this cluster whose state lies in this folder, for whoever builds images beside it; made where
/// there has been none.
///
/// # Errors
/// When the head has had one that is missing, or it cannot be read.
pub fn authority(state: &Path, cluster: &Cluster) -> Result<Roots, Error> {
    // A restore that was cut off has the keys.
    backup::go_on(state).map_err(|error| Error::Restoring(Box::new(error)))?;
    let keys = state.join("keys");
    if !ca::is_there(&keys)? && state.join(STORE).exists() {
        wiring::has_had_no_keys(&store::open(state)?, state)?;
    }
    Roots::open(&keys, &wiring::home_of(cluster, &Wires::open(&cluster.network)))
}

/// The public half of the key with which a head reads a private repository, made where there is none.
///
/// # Errors
/// A sentence and what to do.
pub fn source_key(state: &Path) -> Result<String, Error> {
    loops::source::deploy_key(state).map_err(|problem| Error::Snapshot(bramble_system::sentence(&problem)))
}

/// How often a disk that takes no writes is tried again.
const DISK: Duration = Duration::from_secs(3);

/// How often a wire is looked for that is not there.
const WIRES: Duration = Duration::from_secs(3);

type Tasks = JoinSet<Result<(), Error>>;

/// Starts what every part does by itself.
async fn start(
    parts: &Parts,
    (state, named): (&Path, Option<&str>),
    stop: &CancellationToken,
    tasks: &mut Tasks,
) -> Result<(), Error> {
    let wires = &parts.wires;
    let network = wires.network();
    let (on_the_wire, over_tls) = (routes::on_the_wire(parts), routes::over_tls(parts));
    let shares = parts.descriptors.shares();
    let transfers = Arc::new(AtomicUsize::new(Gates::transfers(&shares, wires)));
    let (boots_gate, people_gate, strangers_gate) = (
        Gate::new(shares.boots, Shares::of_one(shares.boots)),
        Gate::new(shares.people, Shares::of_one(shares.people)),
        Gate::new(shares.strangers, agents::STRANGERS_OF_ONE),
    );
    // Ports that another program may have come first: where one is taken, nothing else is started.
    for wire in wires.interfaces() {
        let at = |port| SocketAddrV4::new(wire.address, port);
        let boots = Arc::clone(&parts.boots);
        let (http, gate) = (wires.http_at(wire.address), Arc::clone(&boots_gate));
        tasks.spawn(http::serve(boots, on_the_wire.clone(), http, gate, stop.clone()).await?);
        let (https, gate) = (at(network.https_port), Arc::clone(&people_gate));
        tasks.spawn(http::serve_tls(&parts.authority, over_tls.clone(), https, gate, stop.clone()).await?);
        let (agents, gate) = (Arc::clone(&parts.agents), Arc::clone(&strangers_gate));
        tasks.spawn(agents::listen(agents, at(network.agent_port), gate, stop.clone()).await?);
    }
    let (following, end) = (Arc::clone(&parts.following), stop.clone());
    tasks.spawn(keep(async move {
        end.cancelled().await;
        following.end();
    }));
    let owner_gate = Gate::new(shares.owner, shares.owner);
    let gates = Gates {
        boots: Arc::clone(&boots_gate),
        people: Arc::clone(&people_gate),
        strangers: Arc::clone(&strangers_gate),
        owner: Arc::clone(&owner_gate),
        transfers: Arc::clone(&transfers),
    };
    tasks.spawn(keep(gates.follow(
        Arc::clone(&parts.descriptors),
        Arc::clone(&parts.snapshots),
        Arc::clone(wires),
        stop.clone(),
    )));
    tasks.spawn(control::serve(routes::on_the_socket(parts), state, named, owner_gate, stop.clone()));
    if let Some(server) = parts.dhcp.server().filter(|_| !wires.interfaces().is_empty()) {
        let served =
            wires.interfaces().iter().map(|wire| (wire.clone(), BootServer { http: wires.http_at(wire.address) }));
        let (served, end) = (served.collect(), stop.clone());
        let (directory, witness) = (Arc::clone(&parts.boots), Arc::clone(&parts.boots));
        let store = Arc::new(leases::Leases(parts.store.clone()));
        let around = netboot_dhcp::Around { directory, witness, store, counts: Arc::clone(&parts.turned_away) };
        tasks.spawn(async move {
            let served = netboot_dhcp::run(server, served, around, end).await;
            served.map_err(Error::service("DHCP (ports 67 and 4011)"))
        });
    }
    for wire in wires.interfaces() {
        let (files, counts) = (Arc::clone(&parts.boots), Arc::clone(&parts.turned_away));
        let (end, address, most) = (stop.clone(), wire.address, Arc::clone(&transfers));
        tasks.spawn(async move {
            tftp::run(address, files, counts, most, end).await.map_err(Error::service("TFTP (port 69)"))
        });
        if wires.network().no_ipv6_router {
            let (wire, end, timeline) = (wire.clone(), stop.clone(), Arc::clone(&parts.timeline));
            tasks.spawn(async move {
                let found = router::run(&wire.name, wire.index, end.clone()).await;
                if found.map_err(Error::service("IPv6 router question"))? {
                    timeline.note("an IPv6 router is on this wire: `no_ipv6_router` is ignored");
                    end.cancelled().await;
                }
                Ok(())
            });
        }
        let (heard, witness, end) = (wire.clone(), Arc::clone(&parts.boots), stop.clone());
        tasks.spawn(async move { arp::run(&heard, witness, end).await.map_err(Error::service("listening to ARP")) });
        let how = match wires.network().dhcp {
            Dhcp::Router => Listening::Alone { relays: network.relays.clone() },
            Dhcp::Proxy | Dhcp::Full(_) => Listening::Beside,
        };
        let (wire, witness, end) = (wire.clone(), Arc::clone(&parts.boots), stop.clone());
        tasks.spawn(async move {
            let heard = netboot_dhcp::listen(&wire, &how, witness, end).await;
            heard.map_err(Error::service("listening to DHCP"))
        });
    }
    let (snapshots, timeline) = (Arc::clone(&parts.snapshots), Arc::clone(&parts.timeline));
    tasks.spawn(keep(watch_disk(snapshots, parts.store.clone(), timeline, stop.clone())));
    tasks.spawn(keep(Arc::clone(&parts.strangers).keep(stop.clone())));
    tasks.spawn(keep(Arc::clone(&parts.access.refusals).keep(stop.clone())));
    tasks.spawn(keep(Arc::clone(&parts.access.copies).keep(stop.clone())));
    parts.loops.start(stop, &mut |task| drop(tasks.spawn(keep(task))));
    tasks.spawn(keep(Arc::clone(&parts.timeline).keep(stop.clone())));
    Ok(())
}

/// How many connections each listener holds, as far as that follows the number of nodes.
struct Gates {
    boots: Arc<Gate>,
    people: Arc<Gate>,
    strangers: Arc<Gate>,
    owner: Arc<Gate>,
    /// Over TFTP, on each wire.
    transfers: Arc<AtomicUsize>,
}

impl Gates {
    fn transfers(shares: &Shares, wires: &Wires) -> usize {
        shares.transfers / wires.interfaces().len().max(1)
    }

    /// Shares the descriptors anew with each snapshot that has another number of nodes, until `stop`.
    async fn follow(
        self,
        descriptors: Arc<Descriptors>,
        snapshots: Arc<Snapshots>,
        wires: Arc<Wires>,
        stop: CancellationToken,
    ) {
        let mut current = snapshots.subscribe();
        loop {
            let nodes = current.borrow_and_update().as_ref().map(|current| current.cluster.nodes.len());
            if let Some(shares) = nodes.and_then(|nodes| descriptors.follow(nodes)) {
                tracing::info!(?nodes, ?shares, "the descriptors are shared anew");
                self.boots.resize(shares.boots, Shares::of_one(shares.boots));
                self.people.resize(shares.people, Shares::of_one(shares.people));
                self.strangers.resize(shares.strangers, agents::STRANGERS_OF_ONE);
                self.owner.resize(shares.owner, shares.owner);
                self.transfers.store(Self::transfers(&shares, &wires), Ordering::Relaxed);
            }
            tokio::select! {
                changed = current.changed() => if changed.is_err() { return },
                () = stop.cancelled() => return,
            }
        }
    }
}

/// Says when the store has left its disk, and brings it back as soon as that takes writes again.
async fn watch_disk(snapshots: Arc<Snapshots>, store: Store, timeline: Arc<Timeline>, stop: CancellationToken) {
    let mut told = false;
    while !stop.is_cancelled() {
        let (snapshots, mending) = (Arc::clone(&snapshots), store.clone());
        let mended = store::beside(move || {
            snapshots.mend();
            snapshots.tidy();
            mending.blocking().mend()
        });
        if mended.await {
            timeline.note("the head's disk takes writes again: nothing was lost");
        }
        let trouble = store.blocking().trouble();
        if let Some(trouble) = trouble.as_ref().filter(|_| !told) {
            timeline.note(trouble);
        }
        told = trouble.is_some();
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(DISK) => {}
        }
    }
}

/// Ends the head when a wire that it does not serve is there, as the repository names it by then.
async fn watch_wires(wires: Arc<Wires>, snapshots: Arc<Snapshots>, stop: CancellationToken, came: CancellationToken) {
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(WIRES) => {}
        }
        let (wires, cluster) = (Arc::clone(&wires), snapshots.cluster());
        let looking = store::beside(move || wires.lacks_one_of(&cluster.network));
        if looking.await {
            tracing::info!("a wire is there that was not: the head begins anew");
            came.cancel();
            stop.cancel();
        }
    }
}

/// A part that cannot fail.
async fn keep(part: impl Future<Output = ()>) -> Result<(), Error> {
    part.await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_panics_ends_the_others_and_the_head() {
        let (mut tasks, stop) = (Tasks::new(), CancellationToken::new());
        let lasts = stop.clone();
        tasks.spawn(keep(async move { lasts.cancelled().await }));
        tasks.spawn(keep(async { panic!("as an error of bramble's own does") }));
        let ended = all_of(&mut tasks, &stop).await;
        assert!(matches!(ended, Err(Error::Part(_))), "{ended:?}");
    }

    /// As one does that waits for a disk or a server which does not answer: the process served nobody, and did not end.
    #[tokio::test(start_paused = true)]
    async fn a_part_that_hangs_holds_up_nobodys_end() {
        let (mut tasks, stop) = (Tasks::new(), CancellationToken::new());
        tasks.spawn(keep(std::future::pending()));
        let asked = stop.clone();
        tasks.spawn(keep(async move {
            tokio::time::sleep(10 * ENDING).await;
            asked.cancel();
        }));
        let begun = tokio::time::Instant::now();
        all_of(&mut tasks, &stop).await.expect("it was asked to end");
        assert_eq!(begun.elapsed().as_secs(), 11 * ENDING.as_secs(), "it hangs only once it is to end");
        tasks.spawn(keep(async { panic!("as an error of bramble's own does") }));
        let ended = all_of(&mut tasks, &CancellationToken::new()).await;
        assert!(matches!(ended, Err(Error::Part(_))), "{ended:?}");
    }
}
