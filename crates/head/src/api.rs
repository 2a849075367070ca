//! The HTTP API: what booting machines and readers get on the wire, and what only the head's own
//! machine may do, over a Unix socket.

use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use bramble_model::api::{Events, Explanation, NodeStatus, PowerAction, Problem, Status, Waiting, WorkloadStatus};
use bramble_model::boot_set::Architecture;
use bramble_model::names::Name;
use bramble_model::timeline::What;
use bramble_plan::explain::{Evidence, explain};
use bramble_system::now;
use serde::Deserialize;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use crate::timeline::Track;
use crate::{Error, Head, boot_http, foreign, grub, http, page, service};

/// The API's own description, OpenAPI 3.1.
const OPENAPI: &str = include_str!("../../../docs/openapi.json");
/// Events in one answer.
const MOST: usize = 2000;
/// How long a question for newer events waits for one, before it is answered with none.
const LONGEST_WAIT: Duration = Duration::from_secs(25);

/// What anyone on the wire may read.
fn reading() -> Router<Arc<Head>> {
    Router::new()
        .route("/", get(page::overview))
        .route("/nodes/{node}", get(page::node))
        .route("/v1/status", get(status))
        .route("/v1/events", get(events))
        .route("/v1/openapi.json", get(openapi))
}

/// What booting machines need.
fn booting() -> Router<Arc<Head>> {
    Router::new()
        .route("/v1/boots/{boot}/report", post(boot_http::report))
        .route("/v1/boot/{mac}", get(foreign::pixiecore))
        .route("/boot/script/{mac}", get(boot_http::script))
        .route("/boot/sets/{set}/{file}", get(boot_http::set_file))
        .route("/boot/files/{digest}", get(boot_http::file))
        .route("/boot/loader/{*name}", get(boot_http::loader))
        .route("/grub/{*path}", get(grub::file))
        .route("/boot/profile/{profile}/{file}", get(foreign::boot_file))
        .route("/boot/profile/{profile}/files/{*path}", get(foreign::static_file))
        .route("/boot/seed/{boot}/{*path}", get(foreign::seed))
        .route("/boot/done/{boot}", get(foreign::done).post(foreign::done))
}

/// What changes something.
fn changing() -> Router<Arc<Head>> {
    Router::new()
        .route("/v1/nodes/{node}/power", post(power))
        .route("/v1/nodes/{node}/approve", post(approve))
        .route("/v1/nodes/{node}/reinstall", post(reinstall))
}

/// What is served on the nodes' wires.
pub(crate) fn public(head: Arc<Head>) -> Router {
    reading().merge(booting()).with_state(head)
}

/// Serves everything on a Unix socket that only its owner may open.
pub(crate) fn control(
    head: Arc<Head>,
    path: &FilePath,
    stop: CancellationToken,
) -> Result<impl Future<Output = Result<(), Error>> + use<>, Error> {
    use std::os::unix::fs::PermissionsExt;
    let name = format!("control socket {}", path.display());
    // The store's lock has been taken by now, so a socket that lies there is a dead head's.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(service(&name)(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(service(&name))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(service(&name))?;
    let serving = axum::serve(listener, reading().merge(changing()).with_state(head));
    let path = path.to_owned();
    Ok(async move {
        let ending = stop.clone().cancelled_owned();
        let served = tokio::select! {
            served = serving.with_graceful_shutdown(ending) => served.map_err(service(&name)),
            () = http::ended(&stop) => Ok(()),
        };
        // The next head makes its own.
        let _ = std::fs::remove_file(path);
        served
    })
}

impl Head {
    /// Why a node is where it is.
    fn why(
        &self,
        name: &Name,
        node: &bramble_model::repository::Node,
        track: &Track,
        waiting: &[Waiting],
        has_set: bool,
    ) -> Explanation {
        let events: Vec<_> = track.recent.iter().cloned().collect();
        explain(&Evidence {
            now: now(),
            has_set,
            dhcp: &self.cluster.network.dhcp,
            macs: &node.macs,
            phase: track.phase,
            since: track.since,
            percent: track.percent,
            failure: track.failure.as_deref(),
            connected: track.connected,
            health: track.health.as_ref(),
            waiting: waiting.iter().find(|waiting| waiting.subject == name.as_str()),
            foreign: node.boot.is_some(),
            events: &events,
            last: track.last.as_deref(),
        })
    }

    pub(crate) fn status(&self) -> Status {
        let set = Architecture::ALL.into_iter().find_map(|architecture| self.shelf.current(architecture).ok());
        let has_set = set.is_some();
        let waiting = self.waiting.list();
        let nodes = self.cluster.nodes.iter().map(|(name, node)| {
            let track = self.timeline.track(name);
            let record = self.store.admission(name).unwrap_or_default();
            let why = self.why(name, node, &track, &waiting, has_set);
            NodeStatus {
                boot: node.boot.clone(),
                why,
                name: name.clone(),
                macs: node.macs.clone(),
                role: node.role.clone(),
                phase: track.phase,
                since: track.since,
                percent: track.percent,
                last: track.last,
                failure: track.failure,
                connected: track.connected,
                set: record.boot().map(|boot| boot.set.to_string()),
                facts: track.facts,
                health: track.health,
                times: track.times,
            }
        });
        let generations = self.generations();
        let view = self.observed.latest();
        let workloads = self.cluster.workloads.keys().map(|name| {
            let own = view.services.iter().filter(|service| service.workload.as_deref() == Some(name.as_str()));
            let services: Vec<_> = own.cloned().collect();
            let wanted = generations.get(name).and_then(Option::as_ref);
            let current = |service: &bramble_model::agent::Service| service.generation.as_ref() == wanted;
            WorkloadStatus {
                name: name.clone(),
                current: !services.is_empty() && services.iter().all(current),
                services,
            }
        });
        Status {
            cluster: self.cluster.name.clone(),
            at: now(),
            set: set.map(|set| set.digest.to_string()),
            head_resident: resident(),
            nodes: nodes.collect(),
            workloads: workloads.collect(),
            seen: self.strangers.all(),
            waiting: waiting.clone(),
        }
    }
}

/// Resident bytes of this process (proc(5)).
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

async fn status(State(head): State<Arc<Head>>) -> Json<Status> {
    Json(head.status())
}

#[derive(Deserialize)]
struct After {
    #[serde(default)]
    after: u64,
    /// Seconds to wait for an event, where there is none yet.
    #[serde(default)]
    wait: u64,
}

async fn events(State(head): State<Arc<Head>>, Query(After { after, wait }): Query<After>) -> Json<Events> {
    let mut newest = head.timeline.newest();
    if wait > 0 {
        let limit = Duration::from_secs(wait).min(LONGEST_WAIT);
        // Late means none: the answer is then empty.
        let _ = tokio::time::timeout(limit, newest.wait_for(|newest| *newest > after)).await;
    }
    let events = head.timeline.after(after, MOST);
    let next = events.last().map_or(after, |event| event.number);
    Json(Events { events, next })
}

async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
}

type Refusal = (StatusCode, Json<Problem>);

fn refuse(status: StatusCode, error: impl Into<String>, help: Option<&str>) -> Refusal {
    (status, Json(Problem { error: error.into(), help: help.map(str::to_owned) }))
}

impl Head {
    fn named(&self, node: &str) -> Result<Name, Refusal> {
        let known = node.parse::<Name>().ok().filter(|name| self.cluster.nodes.contains_key(name));
        let names: Vec<&str> = self.cluster.nodes.keys().map(Name::as_str).collect();
        let help = format!("nodes of this cluster: {}", names.join(", "));
        known.ok_or_else(|| refuse(StatusCode::NOT_FOUND, format!("there is no node `{node}`"), Some(&help)))
    }
}

/// Switches a node; switched on, its next boot is expected.
async fn power(
    State(head): State<Arc<Head>>,
    Path(node): Path<String>,
    Json(action): Json<PowerAction>,
) -> Result<StatusCode, Refusal> {
    let node = head.named(&node)?;
    let driver = &head.power[&node];
    let failed = |error: bramble_power::Error| refuse(StatusCode::BAD_GATEWAY, bramble_system::sentence(&error), None);
    if matches!(action, PowerAction::Off | PowerAction::Cycle) {
        driver.set(&node, false).await.map_err(failed)?;
        head.timeline.add(Some(&node), What::PowerOff);
    }
    if matches!(action, PowerAction::On | PowerAction::Cycle) {
        let expected = head.store.change_admission(&node, |record| record.expect(now()));
        expected.map_err(|error: Error| refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string(), None))?;
        head.timeline.add(Some(&node), What::PowerOn);
        driver.set(&node, true).await.map_err(failed)?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// A foreign node is to be given its profile again.
async fn reinstall(State(head): State<Arc<Head>>, Path(node): Path<String>) -> Result<StatusCode, Refusal> {
    let node = head.named(&node)?;
    if head.cluster.nodes[&node].boot.is_none() {
        let help = "it boots bramble's own system anew at each start";
        return Err(refuse(StatusCode::CONFLICT, format!("`{node}` has no `boot` in bramble.toml"), Some(help)));
    }
    let changed = foreign::again(&head, &node);
    changed.map_err(|error| refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string(), None))?;
    head.timeline.add(Some(&node), What::Note { text: "is to be installed again at its next boot".into() });
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
struct Approval {
    fingerprint: String,
}

/// Lets in the key that an operator has compared.
async fn approve(
    State(head): State<Arc<Head>>,
    Path(node): Path<String>,
    Json(approval): Json<Approval>,
) -> Result<StatusCode, Refusal> {
    let node = head.named(&node)?;
    let approved = head.store.change_admission(&node, |record| record.approve(approval.fingerprint.clone()));
    approved.map_err(|error: Error| refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string(), None))?;
    head.timeline.add(Some(&node), What::Note { text: format!("an operator approved key {}", approval.fingerprint) });
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    /// Every route is described, and nothing is described that is not there.
    #[test]
    fn the_description_has_every_route() {
        let description: serde_json::Value = serde_json::from_str(super::OPENAPI).expect("JSON");
        let mut described: Vec<&str> =
            description["paths"].as_object().expect("paths").keys().map(String::as_str).collect();
        let source = include_str!("api.rs");
        let routes = source.split(".route(\"/").skip(1).filter_map(|rest| rest.split('"').next());
        // Each begins behind the slash that this test splits at.
        let mut routed: Vec<String> =
            routes.filter(|route| !route.contains(')')).map(|route| format!("/{route}")).collect();
        described.sort_unstable();
        routed.sort_unstable();
        assert_eq!(described, routed);
    }
}
