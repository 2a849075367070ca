//! The HTTP API: which routes there are, and through which door each is reached.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Form, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::sse::{self, Sse};
use axum::response::{IntoResponse, Redirect};
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use bramble_model::agent::SignedTime;
use bramble_model::api::{Events, Explanation, NodeStatus, PowerAction, Problem, Status, Waiting, WorkloadStatus};
use bramble_model::boot_set::Architecture;
use bramble_model::names::Name;
use bramble_model::timeline::{Event, What};
use bramble_plan::admission::Record;
use bramble_plan::explain::{Evidence, explain};
use bramble_system::now;
use futures_util::Stream;
use serde::Deserialize;

use crate::access::{self, login, oidc};
use crate::timeline::Track;
use crate::{Error, Head, adopt, backup, boot_http, foreign, grub, hands, page};

/// The API's own description, OpenAPI 3.1.
const OPENAPI: &str = include_str!("../../../docs/openapi.json");
/// The longest body of a request, in bytes.
const LONGEST_BODY: usize = 64 << 10;
/// Events in one answer.
const MOST: usize = 2000;
/// How long a question for newer events waits for one, before it is answered with none.
const LONGEST_WAIT: Duration = Duration::from_secs(25);

type Routes = Router<Arc<Head>>;

/// What those may read who may look.
fn reading(head: &Arc<Head>) -> Routes {
    Router::new()
        .route("/", get(page::overview))
        .route("/nodes/{node}", get(page::node))
        .route("/v1/status", get(status))
        .route("/v1/events", get(events))
        .route("/v1/stream", get(stream))
        .route("/v1/seen/{mac}/inventory", get(adopt::inventory))
        .route("/v1/me", get(login::me))
        .route_layer(from_fn_with_state(Arc::clone(head), access::may_look))
}

/// What anyone may read.
fn open() -> Routes {
    Router::new()
        .route("/v1/openapi.json", get(openapi))
        .route("/v1/ca.pem", get(ca))
        .route("/v1/time/{challenge}", get(time))
}

/// What booting machines need.
fn booting() -> Routes {
    Router::new()
        .route("/v1/boots/{boot}/report", post(boot_http::report))
        .route("/v1/boots/{boot}/inventory", post(adopt::report))
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

/// What changes something: for operators, and in the audit log.
fn changing(head: &Arc<Head>) -> Routes {
    Router::new()
        .route("/v1/nodes/{node}/power", post(power))
        .route("/v1/nodes/{node}/approve", post(approve))
        .route("/v1/nodes/{node}/revoke", post(revoke))
        .route("/v1/nodes/{node}/reinstall", post(reinstall))
        .route("/nodes/{node}/approve", post(approve_on_page))
        .route("/v1/seen/{mac}/adopt", post(adopt::adopt))
        .route("/v1/backup", post(backup::make))
        .route("/v1/users/{name}", put(login::put_user).delete(login::remove_user))
        .route("/v1/tokens", post(login::add_token))
        .route("/v1/tokens/{name}", delete(login::remove_token))
        .route_layer(from_fn_with_state(Arc::clone(head), access::may_change))
        .route("/v1/hands", get(hands::upgrade))
}

/// What operators may read, and viewers may not.
fn overseeing(head: &Arc<Head>) -> Routes {
    Router::new()
        .route("/v1/users", get(login::users))
        .route("/v1/tokens", get(login::tokens))
        .route("/v1/audit", get(login::audit))
        .route_layer(from_fn_with_state(Arc::clone(head), access::may_oversee))
}

/// Logging in and out.
fn entering() -> Routes {
    Router::new()
        .route("/login", get(login::form).post(login::enter))
        .route("/login/oidc", get(oidc::begin))
        .route("/login/oidc/callback", get(oidc::callback))
        .route("/logout", post(login::leave))
        .route("/v1/login", post(login::api))
}

/// Finds out who asks before any route is looked at, and closes what is common to all.
fn whole(head: Arc<Head>, routes: Routes) -> Router {
    routes
        .layer(from_fn_with_state(Arc::clone(&head), access::identify))
        .layer(DefaultBodyLimit::max(LONGEST_BODY))
        .with_state(head)
}

/// What is served on the nodes' wires, in plain HTTP.
pub(crate) fn on_the_wire(head: Arc<Head>) -> Router {
    let routes = reading(&head).merge(open()).merge(booting());
    whole(head, routes)
}

/// What is served to people and programs over TLS.
pub(crate) fn over_tls(head: Arc<Head>) -> Router {
    let routes = reading(&head).merge(open()).merge(overseeing(&head)).merge(changing(&head)).merge(entering());
    whole(head, routes)
}

/// What the command line is served on the head's own machine.
pub(crate) fn on_the_socket(head: Arc<Head>) -> Router {
    let routes = reading(&head).merge(open()).merge(overseeing(&head)).merge(changing(&head));
    whole(head, routes)
}

impl Head {
    /// Why a node is where it is.
    fn why(
        &self,
        name: &Name,
        node: &bramble_model::repository::Node,
        track: &mut Track,
        waiting: &[Waiting],
        has_set: bool,
    ) -> Explanation {
        explain(&Evidence {
            now: now(),
            has_set,
            dhcp: &self.network.dhcp,
            macs: &node.macs,
            phase: track.phase,
            since: track.since,
            percent: track.percent,
            failure: track.failure.as_deref(),
            connected: track.connected,
            health: track.health.as_ref(),
            waiting: waiting.iter().find(|waiting| waiting.subject == name.as_str()),
            foreign: node.boot.is_some(),
            events: track.recent.make_contiguous(),
            last: track.last.as_deref(),
        })
    }

    pub(crate) fn status(&self) -> Status {
        let set = Architecture::ALL.into_iter().find_map(|architecture| self.shelf.current(architecture).ok());
        let has_set = set.is_some();
        let waiting = self.waiting.list();
        let cluster = self.cluster();
        // One look at the store for all of them.
        let records = self.store.admissions().unwrap_or_default();
        let status = |name: &Name, node: &bramble_model::repository::Node, track: &mut Track| {
            let why = self.why(name, node, track, &waiting, has_set);
            NodeStatus {
                boot: node.boot.clone(),
                why,
                name: name.clone(),
                macs: node.macs.clone(),
                role: node.role.clone(),
                phase: track.phase,
                since: track.since,
                percent: track.percent,
                last: track.last.clone(),
                failure: track.failure.clone(),
                pending: track.pending.clone(),
                connected: track.connected,
                set: records.get(name).and_then(Record::boot).map(|boot| boot.set.to_string()),
                facts: track.facts.clone(),
                health: track.health.clone(),
                times: track.times.clone(),
            }
        };
        let known = |(name, node): (&Name, _)| self.timeline.study(name, |track| status(name, node, track));
        let nodes = cluster.nodes.iter().map(known);
        let generations = self.generations();
        let view = self.observed.latest();
        let workloads = cluster.workloads.keys().map(|name| {
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
            cluster: cluster.name.clone(),
            ca: self.authority.fingerprint().to_owned(),
            at: now(),
            set: set.map(|set| set.digest.to_string()),
            head_resident: resident(),
            nodes: nodes.collect(),
            workloads: workloads.collect(),
            seen: self.strangers.all(),
            problems: [self.repository.problem(), self.store.trouble(), self.timeline.clock_problem()]
                .into_iter()
                .flatten()
                .collect(),
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

/// `GET /v1/stream?after=N`: events as they happen (server-sent events, WHATWG HTML section 9.2); each has
/// its number as `id`, so that a browser that comes back goes on where it was.
async fn stream(
    State(head): State<Arc<Head>>,
    Query(After { after, .. }): Query<After>,
    headers: HeaderMap,
) -> Sse<impl Stream<Item = Result<sse::Event, Infallible>>> {
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let newest = head.timeline.newest();
    let none: Vec<Event> = Vec::new();
    let start = (last.unwrap_or(after), newest, none.into_iter(), head);
    let events = futures_util::stream::unfold(start, async |(mut after, mut newest, mut page, head)| {
        loop {
            if let Some(event) = page.next() {
                let told = sse::Event::default().id(event.number.to_string());
                let told = told.json_data(&event).expect("events are plain data");
                after = event.number;
                return Some((Ok(told), (after, newest, page, head)));
            }
            // The head ends: so does the stream.
            newest.wait_for(|newest| *newest > after).await.ok()?;
            page = head.timeline.after(after, MOST).into_iter();
        }
    });
    Sse::new(events).keep_alive(sse::KeepAlive::default())
}

/// `GET /v1/ca.pem`: the head's CA, to be compared by its fingerprint before it is trusted.
async fn ca(State(head): State<Arc<Head>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/x-pem-file")], head.authority.pem().to_owned())
}

async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
}

pub(crate) type Refusal = (StatusCode, Json<Problem>);

pub(crate) fn refuse(status: StatusCode, error: impl Into<String>, help: Option<&str>) -> Refusal {
    (status, Json(Problem { error: error.into(), help: help.map(str::to_owned) }))
}

impl Head {
    fn named(&self, node: &str) -> Result<Name, Refusal> {
        let cluster = self.cluster();
        let known = node.parse::<Name>().ok().filter(|name| cluster.nodes.contains_key(name));
        let names: Vec<&str> = cluster.nodes.keys().map(Name::as_str).collect();
        let help = format!("nodes of this cluster: {}", names.join(", "));
        known.ok_or_else(|| refuse(StatusCode::NOT_FOUND, format!("there is no node `{node}`"), Some(&help)))
    }
}

impl Head {
    fn approve(&self, node: &str, fingerprint: &str) -> Result<(), Refusal> {
        let node = self.named(node)?;
        let fingerprint = fingerprint.trim().to_ascii_lowercase();
        if fingerprint.len() != 32 || !fingerprint.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let help = "32 hexadecimal digits, as the machine's console shows them";
            return Err(refuse(StatusCode::BAD_REQUEST, format!("`{fingerprint}` is no key"), Some(help)));
        }
        let approved = self.store.change_admission(&node, |record| record.approve(fingerprint.clone()));
        approved.map_err(|error: Error| refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string(), None))?;
        self.timeline.add(Some(&node), What::Note { text: format!("an operator approved key {fingerprint}") });
        Ok(())
    }
}

/// Switches a node; switched on, its next boot is expected.
async fn power(
    State(head): State<Arc<Head>>,
    Path(node): Path<String>,
    Json(action): Json<PowerAction>,
) -> Result<StatusCode, Refusal> {
    let node = head.named(&node)?;
    let gone = || refuse(StatusCode::NOT_FOUND, format!("`{node}` has just left the repository"), None);
    let driver = head.driver(&node).ok_or_else(gone)?;
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
    if head.declared(&node).is_none_or(|node| node.boot.is_none()) {
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
    head.approve(&node, &approval.fingerprint)?;
    Ok(StatusCode::NO_CONTENT)
}

/// The same, by the status page's button.
async fn approve_on_page(
    State(head): State<Arc<Head>>,
    Path(node): Path<String>,
    Form(approval): Form<Approval>,
) -> Result<Redirect, Refusal> {
    head.approve(&node, &approval.fingerprint)?;
    Ok(Redirect::to("/"))
}

/// Ends what a node was given: it is let in again as one that was never here.
async fn revoke(State(head): State<Arc<Head>>, Path(node): Path<String>) -> Result<StatusCode, Refusal> {
    let node = head.named(&node)?;
    let revoked = head.revoke(&node);
    revoked.map_err(|error| refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string(), None))?;
    head.timeline.add(Some(&node), What::Note { text: "an operator revoked its certificate".into() });
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /v1/time/CHALLENGE`: the head's time, signed, for a node whose clock is too far off for TLS.
async fn time(State(head): State<Arc<Head>>, Path(challenge): Path<String>) -> Result<Json<SignedTime>, Refusal> {
    if !SignedTime::is_challenge(&challenge) {
        let help = "32 hexadecimal digits, never used before";
        return Err(refuse(StatusCode::BAD_REQUEST, "not a challenge", Some(help)));
    }
    let at = now();
    let signature = head.authority.sign_time(&challenge, at);
    let signature = signature.map_err(|error| refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string(), None))?;
    Ok(Json(SignedTime { at, signature }))
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
        routed.dedup();
        assert_eq!(described, routed);
    }
}
