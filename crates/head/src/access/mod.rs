//! Who asks, and what they may: people with a session, programs with a token, root on the head's own
//! machine, and, where the repository says so, everyone who only looks.
//!
//! ```text
//!              ┌── control socket: the owner of the head
//! a request ──▶├── TLS: cookie of a session · bearer token · nobody ──▶ role ──▶ route ──▶ audit
//!              └── plain HTTP: nobody, ever: no secret goes over it
//! ```

pub(crate) mod audit;
mod door;
mod headers;
pub(crate) mod limits;
pub(crate) mod login;
pub(crate) mod oidc;
pub(crate) mod people;

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use bramble_model::api::Role;
use bramble_store::Store;
use bramble_system::now;

pub(crate) use door::{Actor, Change, Door, Who};
pub(crate) use headers::same_origin;

use crate::ends::Ends;
use crate::error::Error;
use crate::refusal::refuse;
use crate::snapshots::Snapshots;
use headers::{COOKIE, bearer, brings, cookie};
use oidc::Flows;
use people::People;

/// The longest body of a request that changes something.
const LONGEST_CHANGE: usize = 64 << 10;
/// The part of the head that knows people and programs, and keeps what they do.
pub(crate) struct Access {
    store: Store,
    snapshots: Arc<Snapshots>,
    /// Where people are led who come in plain HTTP.
    https_port: u16,
    people: People,
    flows: Flows,
}

impl Access {
    pub(crate) fn new(store: Store, snapshots: Arc<Snapshots>, https_port: u16) -> Self {
        Access { store, snapshots, https_port, people: People::new(), flows: Flows::default() }
    }

    /// Writes down a change that is to last; gives the entry's number. On disk when this returns.
    ///
    /// # Errors
    /// When the disk takes no writes.
    fn audit(&self, actor: &Actor, what: &str, result: &str) -> Result<u64, Error> {
        audit::begin(&self.store, actor, what, result, true)
    }

    /// Writes down what changes nothing that lasts: what was refused, a login, what is over when it is done. A disk that
    /// takes no writes is mended by people who do these.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub(crate) fn audit_even_in_memory(&self, actor: &Actor, what: &str, result: &str) -> Result<u64, Error> {
        audit::begin(&self.store, actor, what, result, false)
    }

    /// Writes down how it went.
    pub(crate) fn audit_result(&self, number: u64, result: &str) {
        audit::end(&self.store, number, result);
    }

    /// Why nothing that has to last can be kept now.
    fn trouble(&self) -> Option<String> {
        self.store.blocking().trouble()
    }

    /// Who sends a request with these headers through this door.
    fn who(&self, door: Door, headers: &HeaderMap) -> Option<Actor> {
        let from = door.from();
        match door {
            Door::Socket { user } => {
                let name = if user == 0 { "root on the head".into() } else { format!("user {user} on the head") };
                return Some(Actor { name, role: Role::Operator, from, csrf: None });
            }
            Door::Tls(_) => {
                let found = match (bearer(headers), cookie(headers, COOKIE)) {
                    (Some(token), _) => self.people.of_token(&self.store, token, now()).map(|known| (known, false)),
                    (None, Some(session)) => {
                        self.people.of_session(&self.store, session, now()).map(|known| (known, true))
                    }
                    (None, None) => None,
                };
                if let Some((known, by_cookie)) = found {
                    let csrf = by_cookie.then_some(known.csrf);
                    return Some(Actor { name: known.name, role: known.role, from, csrf });
                }
            }
            Door::Wire(_) => {}
        }
        let public = self.snapshots.cluster().access.public;
        public.then(|| Actor { name: "anyone".into(), role: Role::Viewer, from, csrf: None })
    }
}

/// Finds out who asks; the routes behind say who may.
pub(crate) async fn identify(State(access): State<Arc<Access>>, mut request: Request, next: Next) -> Response {
    let Some(door) = request.extensions().get::<Door>().copied() else {
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, "a request came through no door", None).into_response();
    };
    let who = access.who(door, request.headers());
    request.extensions_mut().insert(Who(who));
    next.run(request).await
}

/// Whether a person with a browser asks, who is better led than refused.
fn is_browser(request: &Request) -> bool {
    let accepts = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    *request.method() == Method::GET && accepts.contains("text/html")
}

/// The same page over TLS.
fn over_tls(access: &Access, ends: &Ends, uri: &Uri) -> Response {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    Redirect::temporary(&format!("https://{}:{}{path}", ends.local.ip(), access.https_port)).into_response()
}

/// Lets in who may look.
pub(crate) async fn may_look(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    let who = request.extensions().get::<Who>().and_then(|who| who.0.as_ref());
    if who.is_some() {
        return next.run(request).await;
    }
    match request.extensions().get::<Door>() {
        Some(Door::Wire(ends)) if is_browser(&request) => over_tls(&access, ends, request.uri()),
        Some(Door::Wire(_)) => {
            let help = format!(
                "log in over https, port {}; `[access] public = true` in bramble.toml lets anyone look",
                access.https_port
            );
            refuse(StatusCode::FORBIDDEN, "nobody is known over plain HTTP", Some(&help)).into_response()
        }
        _ if is_browser(&request) => Redirect::to("/login").into_response(),
        _ => {
            refuse(StatusCode::UNAUTHORIZED, "log in first", Some("`bramble login`, or a token of `bramble token add`"))
                .into_response()
        }
    }
}

/// Lets in who may see what only operators see.
pub(crate) async fn may_oversee(request: Request, next: Next) -> Response {
    match request.extensions().get::<Who>().and_then(|who| who.0.as_ref()) {
        Some(actor) if actor.role >= Role::Operator => next.run(request).await,
        Some(_) => refuse(StatusCode::FORBIDDEN, "only operators see this", None).into_response(),
        None => refuse(StatusCode::UNAUTHORIZED, "log in first", None).into_response(),
    }
}

/// Lets in who may change things, with a file or a list of files that waits to be applied. It changes nothing before,
/// so the audit log has no word of it; and it may be long, so it is not read here.
pub(crate) async fn may_bring(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    let actor = match request.extensions().get::<Who>().and_then(|who| who.0.as_ref()) {
        Some(actor) if actor.role >= Role::Operator => actor,
        Some(_) => {
            let help = "an operator may: log in as one";
            return refuse(StatusCode::FORBIDDEN, "a viewer may look, and not touch", Some(help)).into_response();
        }
        None => return refuse(StatusCode::UNAUTHORIZED, "log in first", None).into_response(),
    };
    if actor.csrf.as_deref().is_some_and(|csrf| !brings(request.headers(), &Bytes::new(), csrf)) {
        let help = "reload the page and try again";
        return refuse(StatusCode::FORBIDDEN, "this request does not come from the head's own page", Some(help))
            .into_response();
    }
    if let Some(trouble) = access.trouble() {
        let help = "make room on it, or replace it; the head goes back to it by itself";
        return refuse(StatusCode::INSUFFICIENT_STORAGE, trouble, Some(help)).into_response();
    }
    next.run(request).await
}

/// Lets in who may change things, and keeps what they did in the audit log: before it is done, and how it
/// went.
pub(crate) async fn may_change(
    State((access, change)): State<(Arc<Access>, Change)>,
    request: Request,
    next: Next,
) -> Response {
    let who = request.extensions().get::<Who>().and_then(|who| who.0.clone());
    let Some(actor) = who else {
        return match request.extensions().get::<Door>() {
            Some(Door::Wire(_)) => refuse(StatusCode::FORBIDDEN, "nothing is changed over plain HTTP", None),
            _ => refuse(StatusCode::UNAUTHORIZED, "log in first", None),
        }
        .into_response();
    };
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, LONGEST_CHANGE).await else {
        return refuse(StatusCode::PAYLOAD_TOO_LARGE, "the request is too long", None).into_response();
    };
    let what = audit::describe(&parts.method, parts.uri.path(), &body, change.told);
    let refused = if actor.role < Role::Operator {
        let help = "an operator may: log in as one";
        Some(refuse(StatusCode::FORBIDDEN, "a viewer may look, and not touch", Some(help)))
    } else if actor.csrf.as_deref().is_some_and(|csrf| !brings(&parts.headers, &body, csrf)) {
        let help = "reload the page and try again";
        Some(refuse(StatusCode::FORBIDDEN, "this request does not come from the head's own page", Some(help)))
    } else {
        None
    };
    let refused = refused.or_else(|| {
        let trouble = access.trouble().filter(|_| change.lasts)?;
        Some(refuse(
            StatusCode::INSUFFICIENT_STORAGE,
            trouble,
            Some("make room on it, or replace it; the head goes back to it by itself"),
        ))
    });
    let written_down = match &refused {
        Some(_) => access.audit_even_in_memory(&actor, &what, "refused"),
        None if change.lasts => access.audit(&actor, &what, "begun"),
        None => access.audit_even_in_memory(&actor, &what, "begun"),
    };
    if let Some(refused) = refused {
        return refused.into_response();
    }
    let number = match written_down {
        Ok(number) => number,
        // What cannot be written down is not done.
        Err(error) => {
            // A disk that has just failed: the store is in memory from now on, and what was refused is told there.
            let _ = access.audit_even_in_memory(&actor, &what, "refused");
            let error = format!("the audit log cannot be written: {}", bramble_system::sentence(&error));
            return refuse(StatusCode::INSUFFICIENT_STORAGE, error, Some("`bramble status` says what is wrong"))
                .into_response();
        }
    };
    let mut request = Request::from_parts(parts, Body::from(body));
    request.extensions_mut().insert(actor);
    let response = next.run(request).await;
    let status = response.status();
    let result = if status.is_success() || status.is_redirection() || status.is_informational() {
        "done".to_owned()
    } else {
        format!("failed: {status}")
    };
    access.audit_result(number, &result);
    response
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::middleware::from_fn_with_state;
    use axum::routing::post;
    use bramble_image::Shelf;
    use bramble_store::testing::Disk;
    use tower_service::Service as _;

    use super::*;

    /// The disk is full, and nobody has written since: the change would be the first to find out.
    #[tokio::test]
    async fn what_cannot_be_written_down_is_not_done_and_what_is_over_when_it_is_done_is() {
        for (lasts, expected) in [(true, StatusCode::INSUFFICIENT_STORAGE), (false, StatusCode::OK)] {
            let folder = tempfile::tempdir().expect("a folder");
            let disk = Disk::default();
            let store = disk.open(&folder.path().join("head.redb"));
            let shelf = Shelf::open(folder.path().join("image")).expect("a shelf");
            let snapshots = Snapshots::open(folder.path(), folder.path(), shelf, store.clone()).expect("opens");
            let access = Arc::new(Access::new(store, Arc::new(snapshots), 7444));
            let change = Change { lasts, told: audit::nothing };
            let layer = from_fn_with_state((Arc::clone(&access), change), may_change);
            let mut router = Router::new().route("/x", post(|| async {}).route_layer(layer));
            disk.is_full(true);
            let actor = Actor { name: "ann".into(), role: Role::Operator, from: "local".into(), csrf: None };
            let mut request = Request::post("/x").body(Body::empty()).expect("a request");
            request.extensions_mut().insert(Who(Some(actor)));
            let answer = router.call(request).await.expect("an answer");
            assert_eq!(answer.status(), expected, "lasts: {lasts}");
            let told = audit::latest(&access.store, 9).expect("read").all;
            let results: Vec<&str> = told.iter().map(|entry| entry.result.as_str()).collect();
            assert_eq!(results, [if lasts { "refused" } else { "done" }], "it is told all the same");
        }
    }
}
