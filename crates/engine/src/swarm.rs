//! Docker Swarm, over the node's own `docker.sock`.
//!
//! The driver keeps no state: it asks the daemon what is, and each action can be repeated.

mod compose;
mod listing;
mod parts;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::models::{NodeSpecRoleEnum, SwarmInitRequest, SwarmJoinRequest};
use bollard::query_parameters::{
    DeleteNodeOptions, ImportImageOptions, LeaveSwarmOptionsBuilder, ListNodesOptions, ListServicesOptionsBuilder,
    ListTasksOptions, UpdateNodeOptionsBuilder, UpdateSwarmOptionsBuilder,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use bramble_model::agent::swarm::{Label, Member, Observed, Reply, Work};
use bramble_model::agent::{Answer, Expects};
use bramble_model::engine::{EngineKind, EnginePart, EngineState};
use bramble_model::names::{ClusterId, Generation, MemberId, Name};
use bramble_system::Command;
use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

pub(crate) use parts::PARTS;

use crate::{Engine, Error as EngineError};

/// What Docker did not do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("Docker: {doing}")]
    Docker { doing: &'static str, source: bollard::errors::Error },
    #[error("Docker answers without {0}")]
    Incomplete(&'static str),
    #[error("Docker keeps networks of a Swarm that it left, though it was started anew: boot the node anew")]
    KeepsNetworks,
}

const SOCKET: &str = "/run/docker.sock";
/// The node's certificate in its Swarm. It has the cluster's id, which the API tells to managers only.
const CERTIFICATE: &str = "/var/lib/docker/swarm/certificates/swarm-node.crt";
/// Where Docker keeps all below its folder with `userns-remap` (moby's `setupDaemonRoot`): the first user id and the first
/// group id of containers, which are the same on every node.
pub const REMAPPED: &str = "165536.165536";
/// What Docker writes below its folder for as long as it belongs to a Swarm (moby's `daemon/cluster`).
pub const STATE: &str = "swarm/docker-state.json";

/// Whether the Swarm that Docker belongs to lies in the folder of `userns-remap` below `root`, or in `root` itself; `None`
/// where it belongs to none. Where both have one (a release of before let that happen), that of `userns-remap` counts: it is
/// the older one.
pub fn remaps(root: &Path) -> Option<bool> {
    let is_in = |root: &Path| root.join(STATE).exists();
    is_in(&root.join(REMAPPED)).then_some(true).or_else(|| is_in(root).then_some(false))
}

/// Port of the Swarm's managers.
const MANAGER_PORT: u16 = 2377;
/// Seconds that a call to the daemon may take.
const CALL: u64 = 60;
const DEPLOY: Duration = Duration::from_secs(120);
/// The unit says when it is up.
const RESTART: Duration = Duration::from_secs(120);

/// The labels that tie a service to its workload.
const WORKLOAD: &str = "bramble.workload";
const GENERATION: &str = "bramble.generation";

/// The driver.
#[derive(Clone)]
pub struct Swarm {
    docker: Docker,
    socket: PathBuf,
    certificate: PathBuf,
    /// Program and arguments that start the daemon anew.
    restart: &'static [&'static str],
}

impl Engine for Swarm {
    const KIND: EngineKind = EngineKind::Swarm;
    const DAEMON: &'static str = "dockerd";
    type Work = Work;

    async fn connect() -> Option<Self> {
        Self::at(Path::new(SOCKET), Path::new(CERTIFICATE)).await
    }

    async fn prepare(&self, containers: &Path) -> Result<(), EngineError> {
        // Where the image brings none there is no folder.
        let mut archives: Vec<PathBuf> =
            std::fs::read_dir(containers).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        archives.sort();
        for archive in archives {
            let failed = |error| EngineError::Container { archive: archive.clone(), source: Box::new(error) };
            self.load(&archive).await.map_err(failed)?;
        }
        Ok(())
    }

    /// Docker's `/info` would start runc and docker-init each time to learn their versions: a ping says it, too.
    async fn state(&self) -> EngineState {
        let starting = |waiting_for: &str| EngineState::Starting { waiting_for: waiting_for.into() };
        let Ok(membership) = ping(&self.socket).await else { return starting("dockerd to answer") };
        let (active, manager) = match membership.as_str() {
            "active/manager" => (true, true),
            "active/worker" => (true, false),
            "inactive" => return EngineState::Alone,
            "pending" => return starting("the Swarm to let it join"),
            "locked" => return starting("its Swarm to be unlocked"),
            "error" => (false, false),
            // It may be a member; nobody may take it for one that belongs to none.
            other => return starting(&format!("dockerd to say whether it belongs to a Swarm: it says {other:?}")),
        };
        let certificate = match tokio::fs::read(self.certificate()).await {
            Ok(pem) => Some(pem),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return starting(&format!("its certificate, which cannot be read: {error}")),
        };
        match certificate.as_deref().map(Certificate::read) {
            Some(Some(Certificate { cluster, node_id, manager: was_manager })) => {
                // A manager without a quorum says "error"; its certificate still says what it is.
                return EngineState::Member {
                    cluster,
                    node_id,
                    manager: manager || (!active && was_manager),
                    reachable: active,
                };
            }
            _ if active => return starting("its certificate"),
            // Whoever has one belonged to a Swarm, which it cannot name any more.
            Some(None) => {
                return starting(
                    "its certificate, which is damaged: `docker swarm leave --force` on the node, or boot it anew",
                );
            }
            None => {}
        }
        // A manager's log is the Swarm: whoever has it belongs to one, though it cannot say to which.
        match tokio::fs::try_exists(self.log()).await {
            Ok(false) => EngineState::Alone,
            Ok(true) => starting("its certificate, which is missing beside a Swarm's log"),
            Err(error) => starting(&format!("its Swarm's log, which cannot be read: {error}")),
        }
    }

    async fn sees(&self, expects: &Expects) -> Result<Option<Expects>, EngineError> {
        Ok(Some(match expects {
            Expects::Engine { .. } => Expects::Engine { state: self.state().await },
            Expects::Generation { workload, .. } => {
                let mut generations = self.generations(workload).await?;
                let several = Some(generations.len() > 1);
                let only = generations.pop_first().filter(|_| several == Some(false));
                Expects::Generation { workload: workload.clone(), generation: only.flatten(), several }
            }
            Expects::Member { member: expected } => match self.inspect(&expected.id).await? {
                Some(node) => Expects::Member { member: listing::member(node)? },
                None => return Ok(None),
            },
        }))
    }

    async fn work(&self, work: Work) -> Answer {
        let done = match work {
            Work::Initialise { address, leaves } => return self.initialise(address, leaves.as_ref()).await,
            Work::JoinTokens => return self.join_tokens().await.unwrap_or_else(failed),
            Work::Join { cluster, manager, token, address, leaves, .. } => {
                return self.join(&cluster, leaves.as_ref(), manager, token, address).await;
            }
            Work::Observe => {
                return self.observe().await.map_or_else(failed, |view| Answer::Swarm(Reply::Observed(view)));
            }
            Work::Forget { node_id } => return self.forget(&node_id).await.unwrap_or_else(failed),
            Work::SetPart { node_id, part } => self.set_part(&node_id, part).await,
            Work::Deploy { name, generation, file, encrypted } => {
                self.deploy(&name, &generation, &file, encrypted).await
            }
            Work::Remove { name } => self.remove(&name).await,
            Work::RotateManagerToken { cluster } => return self.rotate(&cluster).await.unwrap_or_else(failed),
            Work::Unknown => return Answer::CannotDo,
        };
        done.map_or_else(failed, |()| Answer::Done)
    }
}

impl Swarm {
    /// A driver for the daemon at this socket, with the node's certificate where it is a member; `None` where none answers.
    pub async fn at(socket: &Path, certificate: &Path) -> Option<Self> {
        // The library wants the socket to be there.
        let docker = Docker::connect_with_unix(socket.to_str()?, CALL, API_DEFAULT_VERSION).ok()?;
        docker.ping().await.ok()?;
        let (socket, certificate) = (socket.to_owned(), certificate.to_owned());
        Some(Swarm { docker, socket, certificate, restart: &["systemctl", "restart", "docker.service"] })
    }

    /// Loads one OCI archive.
    async fn load(&self, archive: &Path) -> Result<(), EngineError> {
        let doing = || format!("cannot read {}", archive.display());
        let bytes = tokio::fs::read(archive).await.map_err(|source| EngineError::File { doing: doing(), source })?;
        let mut answers =
            Box::pin(self.docker.import_image(ImportImageOptions::default(), bollard::body_full(bytes.into()), None));
        while let Some(answer) = answers.next().await {
            answer.map_err(docker("cannot load a container image"))?;
        }
        Ok(())
    }

    async fn initialise(&self, address: String, leaves: Option<&ClusterId>) -> Answer {
        let saw = self.state().await;
        let made_free = match membership(&saw, leaves) {
            Membership::Free => self.end_failed_try().await,
            Membership::Leaves => self.leave().await,
            Membership::Stays(why) => return Answer::Refused { why: why.into() },
        };
        let begun = async {
            made_free?;
            self.forget_networks().await?;
            self.start(address).await
        };
        begun.await.map_or_else(failed, |()| Answer::Done)
    }

    async fn start(&self, address: String) -> Result<(), EngineError> {
        let request = SwarmInitRequest {
            listen_addr: Some(format!("0.0.0.0:{MANAGER_PORT}")),
            advertise_addr: Some(address),
            ..SwarmInitRequest::default()
        };
        self.docker.init_swarm(request).await.map(drop).map_err(docker("cannot start a Swarm"))
    }

    async fn leave(&self) -> Result<(), EngineError> {
        let force = LeaveSwarmOptionsBuilder::default().force(true).build();
        self.docker.leave_swarm(Some(force)).await.map_err(docker("cannot leave the old Swarm"))
    }

    /// Ends what is left of a try to join that failed after its call had run out of time: the daemon keeps it, says
    /// "error", never tries again, and refuses every other one (moby's `daemon/cluster`, `Join` and `handleNodeExit`).
    /// Only for a node that is [`EngineState::Alone`]: it has neither a certificate nor a log.
    async fn end_failed_try(&self) -> Result<(), EngineError> {
        // Where a ping fails, the next call says so.
        if ping(&self.socket).await.is_ok_and(|membership| membership == "error") {
            self.leave().await?;
        }
        Ok(())
    }

    /// Rids a daemon that belongs to no Swarm of networks of one that it left. Where an endpoint of such a network did not
    /// go in time, as that of its load balancer, the network stays: no call removes it, and one of the same name in the
    /// next Swarm is taken for it, so that no task of this node starts there ("network … not found"; seen with Debian
    /// 12's daemon in the lab). It is in memory only.
    async fn forget_networks(&self) -> Result<(), EngineError> {
        if !self.has_networks_of_a_swarm().await? {
            return Ok(());
        }
        let [program, args @ ..] = self.restart else { return Ok(()) };
        let restart = Command::new(program).args(args).limit(RESTART);
        let restarted = tokio::task::spawn_blocking(move || restart.run()).await;
        let doing = || "cannot start Docker anew, which keeps networks of a Swarm that it left".to_owned();
        match restarted {
            Ok(Ok(_)) => {}
            Ok(Err(source)) => return Err(EngineError::Program { doing: doing(), source }),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
        if self.has_networks_of_a_swarm().await? {
            return Err(Error::KeepsNetworks.into());
        }
        Ok(())
    }

    async fn has_networks_of_a_swarm(&self) -> Result<bool, EngineError> {
        let networks = self.docker.list_networks(None).await.map_err(docker("cannot list the networks"))?;
        Ok(networks.iter().any(|network| network.scope.as_deref() == Some("swarm")))
    }

    /// The node's certificate, where the daemon has it: with `userns-remap` all is below a folder of its own. It runs in the
    /// one that has its Swarm's state (`bramble-node`'s `docker`).
    fn certificate(&self) -> PathBuf {
        let root = self.certificate.ancestors().nth(3).unwrap_or(Path::new("/"));
        let remapped = root.join(REMAPPED);
        match self.certificate.strip_prefix(root) {
            Ok(own) if remaps(root).unwrap_or_else(|| remapped.join(own).exists()) => remapped.join(own),
            _ => self.certificate.clone(),
        }
    }

    /// The Raft log of a manager, beside the folder of its certificate.
    fn log(&self) -> PathBuf {
        self.certificate().ancestors().nth(2).unwrap_or(Path::new("/")).join("raft")
    }

    async fn join_tokens(&self) -> Result<Answer, EngineError> {
        let swarm = self.docker.inspect_swarm().await.map_err(docker("cannot read the Swarm"))?;
        let tokens = swarm.join_tokens.ok_or(Error::Incomplete("join tokens"))?;
        let info = self.docker.info().await.map_err(docker("cannot read the node"))?;
        let address = info.swarm.and_then(|swarm| swarm.node_addr).ok_or(Error::Incomplete("its address"))?;
        Ok(Answer::Swarm(Reply::JoinTokens {
            manager: tokens.manager.ok_or(Error::Incomplete("a manager token"))?.into(),
            worker: tokens.worker.ok_or(Error::Incomplete("a worker token"))?.into(),
            address: format!("{address}:{MANAGER_PORT}").into(),
        }))
    }

    async fn join(
        &self,
        wanted: &ClusterId,
        leaves: Option<&ClusterId>,
        manager: String,
        token: String,
        address: String,
    ) -> Answer {
        let saw = self.state().await;
        let made_free = match membership(&saw, leaves) {
            _ if matches!(&saw, EngineState::Member { cluster, .. } if cluster == wanted) => return Answer::Done,
            Membership::Free => self.end_failed_try().await,
            Membership::Leaves => self.leave().await,
            Membership::Stays(why) => return Answer::Refused { why: why.into() },
        };
        let joined = async {
            made_free?;
            self.forget_networks().await?;
            self.enter(manager, token, address).await
        };
        joined.await.map_or_else(failed, |()| Answer::Done)
    }

    async fn enter(&self, manager: String, token: String, address: String) -> Result<(), EngineError> {
        let request = SwarmJoinRequest {
            listen_addr: Some(format!("0.0.0.0:{MANAGER_PORT}")),
            advertise_addr: Some(address),
            remote_addrs: Some(vec![manager]),
            join_token: Some(token),
            ..SwarmJoinRequest::default()
        };
        self.docker.join_swarm(request).await.map_err(docker("cannot join the Swarm"))
    }

    /// The generations that a workload's services have.
    async fn generations(&self, workload: &Name) -> Result<BTreeSet<Option<Label>>, EngineError> {
        let services = self.docker.list_services(None::<bollard::query_parameters::ListServicesOptions>).await;
        let services = services.map_err(docker("cannot list services"))?;
        let labels = services.into_iter().filter_map(|service| service.spec?.labels);
        let own = labels.filter(|labels| labels.get(WORKLOAD).is_some_and(|own| own == workload.as_str()));
        Ok(own.map(|labels| listing::generation(&labels)).collect())
    }

    /// A member, as the Swarm has it; `None` where it has none.
    async fn inspect(&self, node_id: &MemberId) -> Result<Option<bollard::models::Node>, EngineError> {
        match self.docker.inspect_node(node_id.as_str()).await {
            Ok(node) => Ok(Some(node)),
            Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
            Err(source) => Err(docker("cannot read the member")(source)),
        }
    }

    /// Removes what the Swarm has given up, and nothing that has come back: without force, Docker itself keeps a member
    /// that is up (SwarmKit's `controlapi`, `RemoveNode`).
    async fn forget(&self, node_id: &MemberId) -> Result<Answer, EngineError> {
        let Some(node) = self.inspect(node_id).await? else { return Ok(Answer::Done) };
        let is_manager = node.manager_status.is_some();
        let Member { hostname, up, .. } = listing::member(node)?;
        if up {
            return Ok(Answer::Refused { why: format!("{hostname} ({node_id}) is up in the Swarm").into() });
        }
        if is_manager {
            // A manager has to lose its vote before its entry can go.
            self.set_part(node_id, EnginePart::Worker).await?;
        }
        let removed = self.docker.delete_node(node_id.as_str(), None::<DeleteNodeOptions>).await;
        removed.map_err(docker("cannot remove the old entry"))?;
        Ok(Answer::Done)
    }

    async fn set_part(&self, node_id: &MemberId, part: EnginePart) -> Result<(), EngineError> {
        let node = self.docker.inspect_node(node_id.as_str()).await.map_err(docker("cannot read the member"))?;
        let version =
            node.version.and_then(|version| version.index).ok_or(Error::Incomplete("the member's version"))?;
        let mut spec = node.spec.unwrap_or_default();
        spec.role = Some(match part {
            EnginePart::Manager => NodeSpecRoleEnum::MANAGER,
            EnginePart::Worker | EnginePart::None => NodeSpecRoleEnum::WORKER,
        });
        let options = UpdateNodeOptionsBuilder::default().version(i64::try_from(version).unwrap_or(i64::MAX)).build();
        self.docker
            .update_node(node_id.as_str(), spec, options)
            .await
            .map_err(docker("cannot change the member's role"))
    }

    /// Makes the token worthless with which managers have joined: as `docker swarm join-token --rotate manager` does, from
    /// the Swarm's settings as they are.
    async fn rotate(&self, cluster: &ClusterId) -> Result<Answer, EngineError> {
        let swarm = self.docker.inspect_swarm().await.map_err(docker("cannot read the Swarm"))?;
        let own = listing::cluster(&swarm)?;
        if own != *cluster {
            return Ok(Answer::Refused { why: format!("it is a manager of Swarm {own}, and not of {cluster}").into() });
        }
        let version =
            swarm.version.and_then(|version| version.index).ok_or(Error::Incomplete("the Swarm's version"))?;
        let spec = swarm.spec.ok_or(Error::Incomplete("the Swarm's settings"))?;
        let options = UpdateSwarmOptionsBuilder::default()
            .version(i64::try_from(version).unwrap_or(i64::MAX))
            .rotate_manager_token(true)
            .build();
        self.docker.update_swarm(spec, options).await.map_err(docker("cannot rotate the token of managers"))?;
        Ok(Answer::Done)
    }

    async fn observe(&self) -> Result<Observed, EngineError> {
        let swarm = self.docker.inspect_swarm().await.map_err(docker("cannot read the Swarm"))?;
        let nodes = self.docker.list_nodes(None::<ListNodesOptions>).await.map_err(docker("cannot list members"))?;
        let members = nodes.into_iter().map(listing::member).collect::<Result<_, _>>()?;
        let options = ListServicesOptionsBuilder::default().status(true).build();
        let services = self.docker.list_services(Some(options)).await.map_err(docker("cannot list services"))?;
        let tasks = self.docker.list_tasks(None::<ListTasksOptions>).await.map_err(docker("cannot list tasks"))?;
        let services = services.into_iter().map(|service| listing::service(service, &tasks));
        let services = services.collect::<Result<_, _>>()?;
        Ok(Observed { cluster: listing::cluster(&swarm)?, members, services })
    }

    async fn deploy(
        &self,
        name: &Name,
        generation: &Generation,
        file: &str,
        encrypted: bool,
    ) -> Result<(), EngineError> {
        let labels = [(WORKLOAD, name.as_str()), (GENERATION, generation.as_str())];
        let overlay = compose::overlay(file, &labels, encrypted)?;
        let folder = PathBuf::from("/run/bramble/deploy").join(name.as_str());
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::create_dir_all(&folder)
                .and_then(|()| std::fs::write(&path, text))
                .map_err(|source| EngineError::File { doing: format!("cannot write {}", path.display()), source })?;
            Ok::<_, EngineError>(path)
        };
        let (stack, labels) = (write("stack.yaml", file)?, write("labels.yaml", &overlay)?);
        // The images may come from no registry at all, so there is none to ask for a digest.
        let command = Command::new("docker")
            .args(["stack", "deploy", "--detach=true", "--prune", "--resolve-image=never", "--compose-file"])
            .arg(stack)
            .arg("--compose-file")
            .arg(labels)
            .arg(name.as_str())
            .env("BRAMBLE_RELEASE", generation.as_str())
            .env("HOME", "/root")
            .limit(DEPLOY);
        run(command, format!("cannot deploy {name}")).await
    }

    async fn remove(&self, name: &Name) -> Result<(), EngineError> {
        let command = Command::new("docker").args(["stack", "rm", "--detach=true", name.as_str()]).limit(DEPLOY);
        run(command, format!("cannot remove {name}")).await
    }
}

/// What a node that shall begin in a Swarm does with the one that it may have.
#[derive(Debug, PartialEq, Eq)]
enum Membership {
    /// It has none.
    Free,
    /// It has the one that was named.
    Leaves,
    /// It has, or may have, one that nobody named: why it stays.
    Stays(String),
}

/// A Swarm's state lies with its managers, and leaving by force throws it away: so a node leaves only what is
/// named, and nothing while it cannot tell what it has.
fn membership(saw: &EngineState, leaves: Option<&ClusterId>) -> Membership {
    match saw {
        EngineState::Alone => Membership::Free,
        EngineState::Member { cluster, .. } if leaves == Some(cluster) => Membership::Leaves,
        EngineState::Member { cluster, .. } => Membership::Stays(match leaves {
            Some(named) => format!("it belongs to Swarm {cluster}, and was told to leave {named}"),
            None => format!("it belongs to Swarm {cluster}, which nobody told it to leave"),
        }),
        EngineState::Starting { waiting_for } => {
            Membership::Stays(format!("it may belong to a Swarm: its Docker waits for {waiting_for}"))
        }
        EngineState::None => Membership::Stays("its role has no part in the Swarm".into()),
    }
}

async fn run(command: Command, doing: String) -> Result<(), EngineError> {
    let result = tokio::task::spawn_blocking(move || command.run()).await.expect("running a command does not panic");
    result.map(drop).map_err(|source| EngineError::Program { doing, source })
}

fn docker(doing: &'static str) -> impl FnOnce(bollard::errors::Error) -> EngineError {
    move |source| Error::Docker { doing, source }.into()
}

fn failed(error: EngineError) -> Answer {
    Answer::Failed { error: bramble_system::sentence(&error).into() }
}

/// What the daemon says of its membership when it is pinged: the header `Swarm` of `GET /_ping`
/// (Docker Engine API 1.42 and later), which the client library does not hand out.
async fn ping(socket: &Path) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let stream = UnixStream::connect(socket).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = hyper::Request::get("/_ping").header("host", "docker").body(Empty::<Bytes>::new())?;
    let answer = tokio::time::timeout(Duration::from_secs(CALL), sender.send_request(request)).await??;
    let swarm = answer.headers().get("swarm").ok_or("dockerd does not tell its Swarm")?;
    Ok(swarm.to_str()?.to_owned())
}

/// What a node's certificate says (SwarmKit's `ca/certificates.go`).
struct Certificate {
    /// The organisation.
    cluster: ClusterId,
    /// The common name.
    node_id: MemberId,
    /// The unit is `swarm-manager`.
    manager: bool,
}

impl Certificate {
    fn read(pem: &[u8]) -> Option<Self> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem).ok()?;
        let certificate = pem.parse_x509().ok()?;
        let subject = certificate.subject();
        Some(Certificate {
            cluster: subject.iter_organization().next()?.as_str().ok()?.parse().ok()?,
            node_id: subject.iter_common_name().next()?.as_str().ok()?.parse().ok()?,
            manager: subject.iter_organizational_unit().any(|unit| unit.as_str() == Ok("swarm-manager")),
        })
    }
}

#[cfg(test)]
mod tests;
