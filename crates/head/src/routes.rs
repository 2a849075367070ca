//! Every route of the HTTP API, once: its method and path, who may use it, and of a change whether it has to
//! last and what of it the audit log may hold. The routers of the three doors are made of this table, and the
//! API's description is compared with it.
//!
//! ```text
//!            wire (plain HTTP)   TLS   control socket
//! Anyone     ×                   ×     ×
//! Booting    ×
//! Entering                       ×
//! Look       ×                   ×     ×
//! Own                            ×     ×
//! Oversee                        ×     ×
//! Change                         ×     ×
//! Bring                          ×     ×
//! Errands                        ×     ×
//! ```

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{from_fn_with_state, map_response};
use axum::routing::{MethodFilter, MethodRouter, on};
use axum::{Extension, Router};

use crate::access::{self, At, Change, audit, login, sessions};
use crate::api::{self, adopt, ca, desired};
use crate::body::{Pace, in_time};
use crate::boots::{self, grub, profiles};
use crate::refusal::{Refusal, refuse};
use crate::wiring::Parts;
use crate::{backup, boot_sets, frame, hands, metrics, page, unreadable};

/// The longest list of a snapshot's files, and the most small files in one request, in bytes.
const LONGEST_LIST: usize = 16 << 20;
/// The longest body of a request, in bytes.
const LONGEST_BODY: usize = 64 << 10;

/// Who may use a route.
#[derive(Clone, Copy)]
enum May {
    Anyone,
    /// Machines on their way, who know no secret yet but the id of their boot.
    Booting,
    /// Whoever logs in or out.
    Entering,
    /// Viewers and operators; everyone, where the repository says so.
    Look,
    /// Whoever has a name, about what is one's own.
    Own,
    /// Operators, who only read here.
    Oversee,
    /// Operators; what they do is kept in the audit log.
    Change(Change),
    /// Operators, with a file or a list of files that waits to be applied: so long at most, or as long as it is.
    Bring(Option<usize>),
    /// Operators. What they do is said after the connection stands, so the route itself asks who they are and
    /// keeps it.
    Errands,
}

/// Where a request may come in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Through {
    Wire,
    Tls,
    Socket,
}

impl May {
    fn come(self, through: Through) -> bool {
        match self {
            May::Anyone | May::Look => true,
            May::Booting => through == Through::Wire,
            May::Entering => through == Through::Tls,
            May::Own | May::Oversee | May::Change(_) | May::Bring(_) | May::Errands => through != Through::Wire,
        }
    }
}

struct Route {
    method: Method,
    path: &'static str,
    may: May,
    /// Answers requests of this method.
    answer: Handler,
}

type Handler = fn(MethodFilter) -> MethodRouter<Parts>;

const fn get(path: &'static str, may: May, answer: Handler) -> Route {
    Route { method: Method::GET, path, may, answer }
}

const fn post(path: &'static str, may: May, answer: Handler) -> Route {
    Route { method: Method::POST, path, may, answer }
}

const fn put(path: &'static str, may: May, answer: Handler) -> Route {
    Route { method: Method::PUT, path, may, answer }
}

const fn delete(path: &'static str, may: May, answer: Handler) -> Route {
    Route { method: Method::DELETE, path, may, answer }
}

/// A change that would be gone with the head is not made while the store is in memory only.
const fn lasting(told: fn(&[u8]) -> String) -> May {
    May::Change(Change { lasts: true, told })
}

/// What is over when it is done: switching a node, taking a backup.
const fn passing(told: fn(&[u8]) -> String) -> May {
    May::Change(Change { lasts: false, told })
}

use May::{Anyone, Booting, Entering, Errands, Look, Oversee, Own};

static ROUTES: &[Route] = &[
    get("/", Look, |at| on(at, page::overview)),
    get("/nodes/{node}", Look, |at| on(at, page::node)),
    get("/metrics", Look, |at| on(at, metrics::metrics)),
    get("/v1/status", Look, |at| on(at, api::status)),
    get("/v1/events", Look, |at| on(at, api::events)),
    get("/v1/stream", Look, |at| on(at, api::stream)),
    get("/v1/seen/{mac}/inventory", Look, |at| on(at, adopt::inventory)),
    get("/v1/me", Look, |at| on(at, login::me)),
    get("/v1/ssh/known-hosts", Look, |at| on(at, api::known_hosts)),
    get("/v1/openapi.json", Anyone, |at| on(at, api::openapi)),
    get("/v1/ca.pem", Anyone, |at| on(at, api::ca_pem)),
    get("/v1/ca", Look, |at| on(at, ca::status)),
    post("/v1/ca/rotate", lasting(audit::nothing), |at| on(at, ca::rotate)),
    post("/v1/ca/finish", lasting(audit::body), |at| on(at, ca::finish)),
    get("/v1/time/{challenge}", Anyone, |at| on(at, api::time)),
    post("/v1/boots/{boot}/claim", Booting, |at| on(at, boots::http::claim)),
    post("/v1/boots/{boot}/report", Booting, |at| on(at, boots::http::report)),
    post("/v1/boots/{boot}/inventory", Booting, |at| on(at, adopt::report)),
    get("/v1/boot/{mac}", Booting, |at| on(at, profiles::pixiecore)),
    get("/boot/script/{mac}", Booting, |at| on(at, boots::http::script)),
    get("/boot/sets/{set}/{file}", Booting, |at| on(at, boots::http::set_file)),
    get("/boot/files/{digest}", Booting, |at| on(at, boots::http::file)),
    get("/boot/loader/{*name}", Booting, |at| on(at, boots::http::loader)),
    get("/grub/{*path}", Booting, |at| on(at, grub::file)),
    get("/boot/profile/{profile}/{file}", Booting, |at| on(at, profiles::boot_file)),
    get("/boot/profile/{profile}/files/{*path}", Booting, |at| on(at, profiles::static_file)),
    get("/boot/seed/{boot}/{*path}", Booting, |at| on(at, profiles::seed)),
    get("/boot/done/{boot}", Booting, |at| on(at, profiles::done_by_get)),
    post("/boot/done/{boot}", Booting, |at| on(at, profiles::done)),
    post("/v1/nodes/{node}/power", passing(audit::body), |at| on(at, api::power)),
    post("/v1/nodes/{node}/approve", lasting(audit::body), |at| on(at, api::approve)),
    post("/v1/nodes/{node}/revoke", lasting(audit::nothing), |at| on(at, api::revoke)),
    post("/v1/nodes/{node}/expect", passing(audit::nothing), |at| on(at, api::expect)),
    post("/v1/nodes/{node}/reinstall", lasting(audit::nothing), |at| on(at, api::reinstall)),
    // The form brings the session's own word along.
    post("/nodes/{node}/approve", lasting(audit::form), |at| on(at, api::approve_on_page)),
    post("/v1/seen/{mac}/adopt", lasting(audit::nothing), |at| on(at, adopt::adopt)),
    post("/v1/backup", passing(audit::nothing), |at| on(at, backup::make)),
    get("/v1/boot-sets", Look, |at| on(at, boot_sets::list)),
    put("/v1/boot-sets/{architecture}", lasting(audit::body), |at| on(at, boot_sets::put)),
    get("/v1/sets", Look, |at| on(at, boot_sets::floor)),
    get("/v1/sets/{set}/to-sign", Look, |at| on(at, boot_sets::to_sign)),
    put("/v1/sets/{set}/signature", lasting(audit::body), |at| on(at, boot_sets::sign)),
    post("/v1/sets/{set}/forbid", lasting(audit::nothing), |at| on(at, boot_sets::forbid)),
    get("/v1/users", Oversee, |at| on(at, login::users)),
    // A password is in it.
    put("/v1/users/{name}", lasting(audit::nothing), |at| on(at, login::put_user)),
    delete("/v1/users/{name}", lasting(audit::nothing), |at| on(at, login::remove_user)),
    get("/v1/tokens", Oversee, |at| on(at, login::tokens)),
    post("/v1/tokens", lasting(audit::body), |at| on(at, login::add_token)),
    delete("/v1/tokens/{name}", lasting(audit::nothing), |at| on(at, login::remove_token)),
    get("/v1/sessions", Own, |at| on(at, sessions::list)),
    delete("/v1/sessions/{id}", Own, |at| on(at, sessions::end)),
    get("/v1/audit", Oversee, |at| on(at, login::audit)),
    get("/v1/audit/chain", Oversee, |at| on(at, login::audit_chain)),
    get("/v1/audit/news", Oversee, |at| on(at, login::audit_news)),
    post("/v1/plan", Look, |at| on(at, desired::plan)),
    get("/v1/history", Look, |at| on(at, desired::history)),
    post("/v1/snapshots", May::Bring(Some(LONGEST_LIST)), |at| on(at, desired::offer)),
    post("/v1/contents", May::Bring(Some(LONGEST_LIST)), |at| on(at, desired::contents)),
    put("/v1/contents/{digest}", May::Bring(None), |at| on(at, desired::content)),
    post("/v1/snapshots/{revision}/apply", lasting(audit::body), |at| on(at, desired::apply)),
    post("/v1/source/sync", lasting(audit::nothing), |at| on(at, desired::sync)),
    post("/v1/source/hold", lasting(audit::nothing), |at| on(at, desired::hold)),
    post("/v1/source/forget-host", lasting(audit::nothing), |at| on(at, desired::forget_host)),
    get("/v1/source/key", Oversee, |at| on(at, desired::key)),
    post("/v1/retry", passing(audit::body), |at| on(at, api::retry)),
    post("/v1/engines/swarm/start", lasting(audit::body), |at| on(at, api::start_swarm)),
    post("/v1/engines/swarm/give-up", lasting(audit::body), |at| on(at, api::give_up_swarm)),
    post("/v1/engines/swarm/trust", lasting(audit::body), |at| on(at, api::trust_swarm)),
    get("/v1/store/unreadable", Oversee, |at| on(at, unreadable::list)),
    post("/v1/store/repair", lasting(audit::nothing), |at| on(at, unreadable::repair)),
    get("/v1/hands", Errands, |at| on(at, hands::upgrade)),
    get("/login", Entering, |at| on(at, login::form)),
    post("/login", Entering, |at| on(at, login::enter)),
    get("/login/oidc", Entering, |at| on(at, login::oidc)),
    get("/login/oidc/callback", Entering, |at| on(at, login::oidc_callback)),
    post("/logout", Entering, |at| on(at, login::leave)),
    post("/v1/login", Entering, |at| on(at, login::api)),
];

impl Route {
    /// What answers, behind who may ask.
    fn guarded(&self, parts: &Parts) -> MethodRouter<Parts> {
        let method = MethodFilter::try_from(self.method.clone()).expect("a method of HTTP");
        let answer = (self.answer)(method);
        let pace = if matches!(self.may, May::Bring(_)) { Pace::GoesOn } else { Pace::Whole };
        let access = || Arc::clone(&parts.access);
        let guarded = match self.may {
            May::Anyone | May::Entering | May::Errands => answer,
            May::Booting => answer.route_layer(from_fn_with_state(access(), access::no_browser)),
            May::Look => answer.route_layer(from_fn_with_state(access(), access::may_look)),
            May::Own => answer.route_layer(from_fn_with_state(access(), access::may_manage_own)),
            May::Oversee => answer.route_layer(from_fn_with_state(access(), access::may_oversee)),
            May::Bring(longest) => {
                let limit = longest.map_or_else(DefaultBodyLimit::disable, DefaultBodyLimit::max);
                answer.layer(limit).route_layer(from_fn_with_state(access(), access::may_bring))
            }
            May::Change(change) => answer.route_layer(from_fn_with_state((access(), change), access::may_change)),
        };
        let guarded: MethodRouter<Parts> = guarded.layer(from_fn_with_state(pace, in_time));
        let guarded: MethodRouter<Parts> = guarded.layer(Extension(At(self.path)));
        match self.may {
            // Some firmware has little room for headers, and none reads these.
            May::Booting => guarded,
            _ => guarded.layer(map_response(frame::guarded)),
        }
    }
}

/// The routes of one door. Who asks is found out before any of them is looked at.
fn through(door: Through, parts: &Parts) -> Router {
    let routes = ROUTES.iter().filter(|route| route.may.come(door));
    let router = routes.fold(Router::new(), |router, route| router.route(route.path, route.guarded(parts)));
    let router = router.fallback(nowhere).method_not_allowed_fallback(otherwise);
    let router = match door {
        Through::Wire => router.layer(from_fn_with_state(Arc::clone(&parts.access), access::own_name)),
        Through::Tls => router.layer(from_fn_with_state(Arc::clone(&parts.authority), ca::named)),
        Through::Socket => router,
    };
    router
        .layer(from_fn_with_state(Arc::clone(&parts.access), access::identify))
        .layer(DefaultBodyLimit::max(LONGEST_BODY))
        .with_state(parts.clone())
}

/// Where a person or a program reads what there is.
const LISTED: &str = "`GET /v1/openapi.json` lists what there is";

async fn nowhere(uri: Uri) -> Refusal {
    refuse(StatusCode::NOT_FOUND, format!("there is nothing at `{}` of this door", uri.path()), Some(LISTED))
}

async fn otherwise(method: Method, uri: Uri) -> Refusal {
    refuse(StatusCode::METHOD_NOT_ALLOWED, format!("`{}` takes no {method}", uri.path()), Some(LISTED))
}

/// What is served on the nodes' wires, in plain HTTP.
pub(crate) fn on_the_wire(parts: &Parts) -> Router {
    through(Through::Wire, parts)
}

/// What is served to people and programs over TLS.
pub(crate) fn over_tls(parts: &Parts) -> Router {
    through(Through::Tls, parts)
}

/// What the command line is served on the head's own machine.
pub(crate) fn on_the_socket(parts: &Parts) -> Router {
    through(Through::Socket, parts)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn change(method: &Method, path: &str) -> Change {
        let route = ROUTES.iter().find(|route| route.method == *method && route.path == path);
        match route.expect("a route").may {
            May::Change(change) => change,
            _ => panic!("{method} {path} changes nothing"),
        }
    }

    /// Every route is described, and nothing is described that is not there.
    #[test]
    fn the_description_has_every_route() {
        let description: serde_json::Value = serde_json::from_str(api::OPENAPI).expect("JSON");
        let paths = description["paths"].as_object().expect("paths");
        let methods = |of: &serde_json::Value| of.as_object().expect("methods").keys().cloned().collect::<Vec<_>>();
        let described: BTreeSet<(String, String)> = paths
            .iter()
            .flat_map(|(path, of)| methods(of).into_iter().map(|method| (path.clone(), method.to_uppercase())))
            .collect();
        let routed: BTreeSet<(String, String)> =
            ROUTES.iter().map(|route| (route.path.to_owned(), route.method.to_string())).collect();
        assert_eq!(described, routed);
        assert_eq!(routed.len(), ROUTES.len(), "none is there twice");
    }

    /// Whatever the names in a path are: a user named `power`, a token named `backup`.
    #[test]
    fn what_a_change_keeps_is_said_by_its_route() {
        for (method, path, lasts) in [
            (Method::POST, "/v1/nodes/{node}/power", false),
            (Method::POST, "/v1/backup", false),
            (Method::PUT, "/v1/users/{name}", true),
            (Method::DELETE, "/v1/tokens/{name}", true),
        ] {
            assert_eq!(change(&method, path).lasts, lasts, "{method} {path}");
        }
    }

    #[test]
    fn nothing_is_changed_over_plain_http_and_no_machine_boots_elsewhere() {
        for route in ROUTES {
            let come = |through| route.may.come(through);
            match route.may {
                May::Own | May::Oversee | May::Change(_) | May::Bring(_) | May::Errands | May::Entering => {
                    assert!(!come(Through::Wire))
                }
                May::Booting => assert!(!come(Through::Tls) && !come(Through::Socket)),
                // What would happen is asked with a body.
                May::Look if route.path == "/v1/plan" => {}
                May::Anyone | May::Look => assert_eq!(route.method, Method::GET, "{} only reads", route.path),
            }
        }
    }

    #[test]
    fn no_secret_is_written_down() {
        let told = |method, path, body: &[u8]| audit::describe(&method, path, body, change(&method, path).told);
        assert_eq!(told(Method::PUT, "/v1/users/{name}", br#"{"password":"hunter2"}"#), "PUT /v1/users/{name}");
        assert_eq!(
            told(Method::POST, "/nodes/{node}/approve", b"fingerprint=ab&csrf=77aa"),
            "POST /nodes/{node}/approve fingerprint=ab",
            "the session's word stays the session's"
        );
        assert_eq!(told(Method::POST, "/v1/nodes/{node}/power", b"\"off\""), "POST /v1/nodes/{node}/power \"off\"");
    }
}
