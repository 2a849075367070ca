//! Docker Swarm, over the node's own `docker.sock`.
//!
//! The driver keeps no state: it asks the daemon what is, and each action can be repeated.

mod compose;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::models::{NodeSpecRoleEnum, NodeState, ServiceServiceStatus, SwarmInitRequest, SwarmJoinRequest};
use bollard::query_parameters::{
    DeleteNodeOptionsBuilder, ImportImageOptions, LeaveSwarmOptionsBuilder, ListNodesOptions,
    ListServicesOptionsBuilder, ListTasksOptions, UpdateNodeOptionsBuilder,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use bramble_model::agent::{Answer, EngineState, Member, Observed, Replica, Service, Work};
use bramble_model::names::Name;
use bramble_model::repository::EnginePart;
use bramble_system::Command;
use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::Error;

const SOCKET: &str = "/run/docker.sock";
/// The node's certificate in its Swarm. It has the cluster's id, which the API tells to managers only.
const CERTIFICATE: &str = "/var/lib/docker/swarm/certificates/swarm-node.crt";
/// Port of the Swarm's managers.
const MANAGER_PORT: u16 = 2377;
/// Seconds that a call to the daemon may take.
const CALL: u64 = 60;
const DEPLOY: Duration = Duration::from_secs(120);

/// The labels that tie a service to its workload.
const WORKLOAD: &str = "bramble.workload";
const GENERATION: &str = "bramble.generation";

/// The driver.
#[derive(Clone)]
pub struct Swarm {
    docker: Docker,
}

impl Swarm {
    /// A driver for the node's daemon, once that answers.
    pub async fn connect() -> Option<Self> {
        // The library wants the socket to be there.
        let docker = Docker::connect_with_unix(SOCKET, CALL, API_DEFAULT_VERSION).ok()?;
        docker.ping().await.ok()?;
        Some(Swarm { docker })
    }

    /// The node's place in a Swarm, as its own daemon sees it: asked often, so asked cheaply. Docker's
    /// `/info` would start runc and docker-init each time to learn their versions.
    pub async fn state(&self) -> EngineState {
        let starting = |waiting_for: &str| EngineState::Starting { waiting_for: waiting_for.to_owned() };
        let Ok(membership) = ping().await else { return starting("dockerd to answer") };
        let (active, manager) = match membership.as_str() {
            "active/manager" => (true, true),
            "active/worker" => (true, false),
            "pending" => return starting("the Swarm to let it join"),
            "locked" => return starting("its Swarm to be unlocked"),
            "error" => (false, false),
            _ => return EngineState::Alone,
        };
        let certificate = tokio::fs::read(CERTIFICATE).await.ok();
        match certificate.as_deref().and_then(Certificate::read) {
            Some(Certificate { cluster, node_id, manager: was_manager }) => {
                // A manager without a quorum says "error"; its certificate still says what it is.
                EngineState::Member {
                    cluster,
                    node_id,
                    manager: manager || (!active && was_manager),
                    reachable: active,
                }
            }
            None if active => starting("its certificate"),
            None => EngineState::Alone,
        }
    }

    /// Loads OCI archives that came with the image. Loading one again changes nothing.
    ///
    /// # Errors
    /// The first that does not load.
    pub async fn load(&self, archive: &Path) -> Result<(), Error> {
        let doing = || format!("cannot read {}", archive.display());
        let bytes = tokio::fs::read(archive).await.map_err(|source| Error::File { doing: doing(), source })?;
        let mut answers =
            Box::pin(self.docker.import_image(ImportImageOptions::default(), bollard::body_full(bytes.into()), None));
        while let Some(answer) = answers.next().await {
            answer.map_err(docker("cannot load a container image"))?;
        }
        Ok(())
    }

    /// Does what the head asks.
    pub async fn work(&self, work: Work) -> Answer {
        let done = match work {
            Work::Initialise { address } => self.initialise(address).await,
            Work::JoinTokens => return self.join_tokens().await.unwrap_or_else(failed),
            Work::Join { cluster, manager, token, address, .. } => self.join(&cluster, manager, token, address).await,
            Work::Observe => return self.observe().await.map_or_else(failed, Answer::Observed),
            Work::Forget { node_id } => self.forget(&node_id).await,
            Work::SetPart { node_id, part } => self.set_part(&node_id, part).await,
            Work::Deploy { name, generation, file } => self.deploy(&name, &generation, &file).await,
            Work::Remove { name } => self.remove(&name).await,
        };
        done.map_or_else(failed, |()| Answer::Done)
    }

    async fn initialise(&self, address: String) -> Result<(), Error> {
        if !matches!(self.state().await, EngineState::Alone) {
            self.leave().await?;
        }
        let request = SwarmInitRequest {
            listen_addr: Some(format!("0.0.0.0:{MANAGER_PORT}")),
            advertise_addr: Some(address),
            ..SwarmInitRequest::default()
        };
        self.docker.init_swarm(request).await.map(drop).map_err(docker("cannot start a Swarm"))
    }

    async fn leave(&self) -> Result<(), Error> {
        let force = LeaveSwarmOptionsBuilder::default().force(true).build();
        self.docker.leave_swarm(Some(force)).await.map_err(docker("cannot leave the old Swarm"))
    }

    async fn join_tokens(&self) -> Result<Answer, Error> {
        let swarm = self.docker.inspect_swarm().await.map_err(docker("cannot read the Swarm"))?;
        let tokens = swarm.join_tokens.ok_or(Error::Incomplete("join tokens"))?;
        let info = self.docker.info().await.map_err(docker("cannot read the node"))?;
        let address = info.swarm.and_then(|swarm| swarm.node_addr).ok_or(Error::Incomplete("its address"))?;
        Ok(Answer::JoinTokens {
            manager: tokens.manager.ok_or(Error::Incomplete("a manager token"))?,
            worker: tokens.worker.ok_or(Error::Incomplete("a worker token"))?,
            address: format!("{address}:{MANAGER_PORT}"),
        })
    }

    async fn join(&self, wanted: &str, manager: String, token: String, address: String) -> Result<(), Error> {
        match self.state().await {
            EngineState::Alone => {}
            EngineState::Member { cluster, .. } if cluster == wanted => return Ok(()),
            _ => self.leave().await?,
        }
        let request = SwarmJoinRequest {
            listen_addr: Some(format!("0.0.0.0:{MANAGER_PORT}")),
            advertise_addr: Some(address),
            remote_addrs: Some(vec![manager]),
            join_token: Some(token),
            ..SwarmJoinRequest::default()
        };
        self.docker.join_swarm(request).await.map_err(docker("cannot join the Swarm"))
    }

    async fn forget(&self, node_id: &str) -> Result<(), Error> {
        let Ok(node) = self.docker.inspect_node(node_id).await else { return Ok(()) };
        if node.manager_status.is_some() {
            // A manager has to lose its vote before its entry can go.
            self.set_part(node_id, EnginePart::Worker).await?;
        }
        let force = DeleteNodeOptionsBuilder::default().force(true).build();
        self.docker.delete_node(node_id, Some(force)).await.map_err(docker("cannot remove the old entry"))
    }

    async fn set_part(&self, node_id: &str, part: EnginePart) -> Result<(), Error> {
        let node = self.docker.inspect_node(node_id).await.map_err(docker("cannot read the member"))?;
        let version =
            node.version.and_then(|version| version.index).ok_or(Error::Incomplete("the member's version"))?;
        let mut spec = node.spec.unwrap_or_default();
        spec.role = Some(match part {
            EnginePart::Manager => NodeSpecRoleEnum::MANAGER,
            EnginePart::Worker | EnginePart::None => NodeSpecRoleEnum::WORKER,
        });
        let options = UpdateNodeOptionsBuilder::default().version(i64::try_from(version).unwrap_or(i64::MAX)).build();
        self.docker.update_node(node_id, spec, options).await.map_err(docker("cannot change the member's role"))
    }

    async fn observe(&self) -> Result<Observed, Error> {
        let swarm = self.docker.inspect_swarm().await.map_err(docker("cannot read the Swarm"))?;
        let nodes = self.docker.list_nodes(None::<ListNodesOptions>).await.map_err(docker("cannot list members"))?;
        let members = nodes
            .into_iter()
            .map(|node| Member {
                id: node.id.unwrap_or_default(),
                hostname: node.description.and_then(|node| node.hostname).unwrap_or_default(),
                manager: node.manager_status.is_some(),
                up: node.status.and_then(|status| status.state) != Some(NodeState::DOWN),
            })
            .collect();
        let options = ListServicesOptionsBuilder::default().status(true).build();
        let services = self.docker.list_services(Some(options)).await.map_err(docker("cannot list services"))?;
        let tasks = self.docker.list_tasks(None::<ListTasksOptions>).await.map_err(docker("cannot list tasks"))?;
        let services = services.into_iter().map(|service| {
            let spec = service.spec.unwrap_or_default();
            let label = |name: &str| spec.labels.as_ref().and_then(|labels: &HashMap<_, _>| labels.get(name).cloned());
            let ServiceServiceStatus { running_tasks, desired_tasks, .. } = service.service_status.unwrap_or_default();
            let id = service.id.unwrap_or_default();
            let ports = service.endpoint.and_then(|endpoint| endpoint.ports).unwrap_or_default();
            let own = tasks.iter().filter(|task| task.service_id.as_ref() == Some(&id));
            Service {
                workload: label(WORKLOAD),
                generation: label(GENERATION),
                name: spec.name.clone().unwrap_or_default(),
                wanted: desired_tasks.and_then(|count| count.try_into().ok()).unwrap_or(0),
                running: running_tasks.and_then(|count| count.try_into().ok()).unwrap_or(0),
                ports: ports.iter().filter_map(|port| port.published_port?.try_into().ok()).collect(),
                replicas: own
                    .filter(|task| {
                        task.desired_state.is_none_or(|wanted| wanted == bollard::models::TaskState::RUNNING)
                    })
                    .map(|task| {
                        let status = task.status.clone().unwrap_or_default();
                        Replica {
                            node_id: task.node_id.clone().unwrap_or_default(),
                            state: status.state.map(|state| state.to_string()).unwrap_or_default(),
                            error: status.err.filter(|error| !error.is_empty()),
                        }
                    })
                    .collect(),
            }
        });
        Ok(Observed { cluster: swarm.id.unwrap_or_default(), members, services: services.collect() })
    }

    async fn deploy(&self, name: &Name, generation: &str, file: &str) -> Result<(), Error> {
        let labels = compose::labels(file, &[(WORKLOAD, name.as_str()), (GENERATION, generation)])?;
        let folder = PathBuf::from("/run/bramble/deploy").join(name.as_str());
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::create_dir_all(&folder)
                .and_then(|()| std::fs::write(&path, text))
                .map_err(|source| Error::File { doing: format!("cannot write {}", path.display()), source })?;
            Ok::<_, Error>(path)
        };
        let (stack, labels) = (write("stack.yaml", file)?, write("labels.yaml", &labels)?);
        // The images may come from no registry at all, so there is none to ask for a digest.
        let command = Command::new("docker")
            .args(["stack", "deploy", "--detach=true", "--prune", "--resolve-image=never", "--compose-file"])
            .arg(stack)
            .arg("--compose-file")
            .arg(labels)
            .arg(name.as_str())
            .env("BRAMBLE_RELEASE", generation)
            .env("HOME", "/root")
            .limit(DEPLOY);
        run(command, format!("cannot deploy {name}")).await
    }

    async fn remove(&self, name: &Name) -> Result<(), Error> {
        let command = Command::new("docker").args(["stack", "rm", "--detach=true", name.as_str()]).limit(DEPLOY);
        run(command, format!("cannot remove {name}")).await
    }
}

async fn run(command: Command, doing: String) -> Result<(), Error> {
    let result = tokio::task::spawn_blocking(move || command.run()).await.expect("running a command does not panic");
    result.map(drop).map_err(|source| Error::Program { doing, source })
}

fn docker(doing: &'static str) -> impl FnOnce(bollard::errors::Error) -> Error {
    move |source| Error::Docker { doing, source }
}

fn failed(error: Error) -> Answer {
    Answer::Failed { error: bramble_system::sentence(&error) }
}

/// What the daemon says of its membership when it is pinged: the header `Swarm` of `GET /_ping`
/// (Docker Engine API 1.42 and later), which the client library does not hand out.
async fn ping() -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let stream = UnixStream::connect(SOCKET).await?;
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
    cluster: String,
    /// The common name.
    node_id: String,
    /// The unit is `swarm-manager`.
    manager: bool,
}

impl Certificate {
    fn read(pem: &[u8]) -> Option<Self> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem).ok()?;
        let certificate = pem.parse_x509().ok()?;
        let subject = certificate.subject();
        Some(Certificate {
            cluster: subject.iter_organization().next()?.as_str().ok()?.to_owned(),
            node_id: subject.iter_common_name().next()?.as_str().ok()?.to_owned(),
            manager: subject.iter_organizational_unit().any(|unit| unit.as_str() == Ok("swarm-manager")),
        })
    }
}
