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
mod origin;
pub(crate) mod people;
pub(crate) mod sessions;
mod standing;

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use bramble_model::api::Role;
use bramble_model::repository::Oidc;
use bramble_store::Store;

pub(crate) use door::{Actor, Change, Credential, Door, Who};
pub(crate) use headers::same_origin;
pub(crate) use origin::{is_a_machines, no_browser, own_name};
pub(crate) use standing::LOST;

use crate::ends::Ends;
use crate::error::Error;
use crate::hands::errands::Errands;
use crate::refusal::refuse;
use crate::snapshots::Snapshots;
use audit::copy::Copies;
use audit::refusals::{Refusals, Try};
use headers::{COOKIE, bearer, brings, cookie};
use oidc::Flows;
use people::{People, kept};

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
    pub(crate) refusals: Arc<Refusals>,
    pub(crate) copies: Arc<Copies>,
    /// What runs on nodes, by in whose name.
    pub(crate) errands: Arc<Errands>,
    /// What this machine calls itself.
    host: String,
}

impl Access {
    /// # Errors
    /// When the store cannot be read.
    pub(crate) fn open(store: Store, snapshots: Arc<Snapshots>, https_port: u16) -> Result<Self, Error> {
        let refusals = Arc::new(Refusals::open(store.clone())?);
        let copies = Arc::new(Copies::new(store.clone(), Arc::clone(&snapshots), Arc::clone(&refusals)));
        let host = origin::host();
        let (people, flows) = (People::new(), Flows::default());
        let errands = Arc::default();
        Ok(Access { store, snapshots, https_port, people, flows, refusals, copies, errands, host })
    }

    /// The login of another service, as the repository has it now.
    fn oidc(&self) -> Option<Oidc> {
        self.snapshots.cluster().access.oidc.clone()
    }

    /// Writes down a change that is to last; gives the entry's number. On disk when this returns.
    ///
    /// # Errors
    /// When the disk takes no writes.
    fn audit(&self, actor: &Actor, what: &str, result: &str) -> Result<u64, Error> {
        audit::begin(&self.store, (&actor.name, &actor.from), what, result, true)
    }

    /// Writes down what changes nothing that lasts: an operator's login, what is over when it is done. A disk that takes no
    /// writes is mended by people who do these.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub(crate) fn audit_even_in_memory(&self, actor: &Actor, what: &str, result: &str) -> Result<u64, Error> {
        audit::begin(&self.store, (&actor.name, &actor.from), what, result, false)
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
        let credential = match door {
            Door::Socket { user, .. } => {
                let name = if user == 0 { "root on the head".into() } else { format!("user {user} on the head") };
                return Some(Actor { name, credential: Credential::Owner, role: Role::Operator, from, csrf: None });
            }
            Door::Tls(_) => match (bearer(headers), cookie(headers, COOKIE)) {
                // A program's token, or that of someone who logged in on the command line.
                (Some(token), _) => [Credential::Token(kept(token)), Credential::Session(kept(token))].to_vec(),
                (None, Some(session)) => vec![Credential::Session(kept(session))],
                (None, None) => Vec::new(),
            },
            Door::Wire(_) => Vec::new(),
        };
        let by_cookie = bearer(headers).is_none();
        let shown = credential.into_iter().chain([Credential::Nothing]);
        shown.into_iter().find_map(|credential| {
            let known = self.holder(&credential)?;
            let csrf = (by_cookie && matches!(credential, Credential::Session(_))).then_some(known.csrf);
            Some(Actor { name: known.name, credential, role: known.role, from: from.clone(), csrf })
        })
    }

    /// Counts a request that was refused.
    pub(crate) fn refused(&self, door: Option<Door>, who: Option<&Actor>, (route, what): (&str, &str), why: &str) {
        let Some(door) = door else { return };
        // Whoever may look without a name is nobody.
        let who = who.filter(|actor| actor.credential != Credential::Nothing).map(|actor| actor.name.as_str());
        self.refusals.add(&Try { door, route, who, what, result: &format!("refused: {why}") });
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
    let who = request.extensions().get::<Who>().and_then(|who| who.0.clone());
    if let Some(actor) = who {
        return access.while_standing(&actor, Role::Viewer, next.run(request)).await;
    }
    let door = request.extensions().get::<Door>().copied();
    if !is_browser(&request) {
        let (route, what) = asked(&request);
        access.refused(door, None, (&route, &what), "log in first");
    }
    match door {
        Some(Door::Wire(ends)) if is_browser(&request) => over_tls(&access, &ends, request.uri()),
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

/// The path of a route, as it is in the table of routes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At(pub(crate) &'static str);

/// What a request asks for: its method, and its path in the table of routes.
fn asked(request: &Request) -> (String, String) {
    let path = request.uri().path();
    let route = request.extensions().get::<At>().map_or(path, |at| at.0);
    (format!("{} {route}", request.method()), format!("{} {path}", request.method()))
}

/// Lets in who may see what only operators see.
pub(crate) async fn may_oversee(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    let who = request.extensions().get::<Who>().and_then(|who| who.0.clone());
    let refused = match &who {
        Some(actor) if actor.role >= Role::Operator => {
            return access.while_standing(actor, Role::Operator, next.run(request)).await;
        }
        Some(_) => (StatusCode::FORBIDDEN, "only operators see this"),
        None => (StatusCode::UNAUTHORIZED, "log in first"),
    };
    let (route, what) = asked(&request);
    access.refused(request.extensions().get().copied(), who.as_ref(), (&route, &what), refused.1);
    refuse(refused.0, refused.1, None).into_response()
}

const FOREIGN: &str = "this request does not come from the head's own page";

/// Lets in whoever has a name, to what is one's own.
pub(crate) async fn may_manage_own(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    let who = request.extensions().get::<Who>().and_then(|who| who.0.clone());
    let Some(actor) = who.filter(|actor| actor.credential != Credential::Nothing) else {
        let (route, what) = asked(&request);
        access.refused(request.extensions().get().copied(), None, (&route, &what), "log in first");
        return refuse(StatusCode::UNAUTHORIZED, "log in first", None).into_response();
    };
    let looks = *request.method() == Method::GET;
    if !looks && actor.csrf.as_deref().is_some_and(|csrf| !brings(request.headers(), &Bytes::new(), csrf)) {
        let (route, what) = asked(&request);
        access.refused(request.extensions().get().copied(), Some(&actor), (&route, &what), FOREIGN);
        return refuse(StatusCode::FORBIDDEN, FOREIGN, Some("reload the page and try again")).into_response();
    }
    match looks {
        true => access.while_standing(&actor, Role::Viewer, next.run(request)).await,
        false => next.run(request).await,
    }
}

/// Lets in who may change things, with a file or a list of files that waits to be applied. It changes nothing before,
/// so the audit log has no word of it; and it may be long, so it is not read here.
pub(crate) async fn may_bring(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    let who = request.extensions().get::<Who>().and_then(|who| who.0.clone());
    let csrf = who.as_ref().and_then(|actor| actor.csrf.as_deref());
    let is_own = csrf.is_none_or(|csrf| brings(request.headers(), &Bytes::new(), csrf));
    let (status, why, help) = match &who {
        Some(actor) if actor.role >= Role::Operator && is_own => {
            if let Some(trouble) = access.trouble() {
                let help = "make room on it, or replace it; the head goes back to it by itself";
                return refuse(StatusCode::INSUFFICIENT_STORAGE, trouble, Some(help)).into_response();
            }
            return access.while_standing(actor, Role::Operator, next.run(request)).await;
        }
        Some(actor) if actor.role >= Role::Operator => {
            (StatusCode::FORBIDDEN, FOREIGN, Some("reload the page and try again"))
        }
        Some(_) => (StatusCode::FORBIDDEN, "a viewer may look, and not touch", Some("an operator may: log in as one")),
        None => (StatusCode::UNAUTHORIZED, "log in first", None),
    };
    let (route, what) = asked(&request);
    access.refused(request.extensions().get().copied(), who.as_ref(), (&route, &what), why);
    refuse(status, why, help).into_response()
}

/// Lets in who may change things, and keeps what they did in the audit log: before it is done, and how it
/// went.
pub(crate) async fn may_change(
    State((access, change)): State<(Arc<Access>, Change)>,
    request: Request,
    next: Next,
) -> Response {
    let who = request.extensions().get::<Who>().and_then(|who| who.0.clone());
    let door = request.extensions().get::<Door>().copied();
    let (route, path) = asked(&request);
    let Some(actor) = who else {
        let (status, why) = match door {
            Some(Door::Wire(_)) => (StatusCode::FORBIDDEN, "nothing is changed over plain HTTP"),
            _ => (StatusCode::UNAUTHORIZED, "log in first"),
        };
        access.refused(door, None, (&route, &path), why);
        return refuse(status, why, None).into_response();
    };
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, LONGEST_CHANGE).await else {
        return refuse(StatusCode::PAYLOAD_TOO_LARGE, "the request is too long", None).into_response();
    };
    let what = audit::describe(&parts.method, parts.uri.path(), &body, change.told);
    // The body took its time, and the right to it may have gone meanwhile.
    let stands = access.holder(&actor.credential).is_some_and(|holder| holder.role >= actor.role);
    let refused = if !stands {
        Some((LOST, "log in again"))
    } else if actor.role < Role::Operator {
        Some(("a viewer may look, and not touch", "an operator may: log in as one"))
    } else if actor.csrf.as_deref().is_some_and(|csrf| !brings(&parts.headers, &body, csrf)) {
        Some((FOREIGN, "reload the page and try again"))
    } else {
        None
    };
    if let Some((why, help)) = refused {
        access.refused(door, Some(&actor), (&route, &what), why);
        return refuse(StatusCode::FORBIDDEN, why, Some(help)).into_response();
    }
    if let Some(trouble) = access.trouble().filter(|_| change.lasts) {
        // It is told in memory, by someone who may do it.
        let _ = access.audit_even_in_memory(&actor, &what, "refused: the disk takes no writes");
        let help = "make room on it, or replace it; the head goes back to it by itself";
        return refuse(StatusCode::INSUFFICIENT_STORAGE, trouble, Some(help)).into_response();
    }
    let written_down = match change.lasts {
        true => access.audit(&actor, &what, "begun"),
        false => access.audit_even_in_memory(&actor, &what, "begun"),
    };
    let number = match written_down {
        Ok(number) => number,
        // What cannot be written down is not done.
        Err(error) => {
            // A disk that has just failed: the store is in memory from now on, and what was refused is told there.
            let _ = access.audit_even_in_memory(&actor, &what, "refused: the disk takes no writes");
            let error = format!("the audit log cannot be written: {}", bramble_system::sentence(&error));
            return refuse(StatusCode::INSUFFICIENT_STORAGE, error, Some("`bramble status` says what is wrong"))
                .into_response();
        }
    };
    let mut request = Request::from_parts(parts, Body::from(body));
    request.extensions_mut().insert(actor);
    // Beside the connection: whoever hangs up meanwhile leaves no change half made, and none without its result.
    let making = tokio::spawn(async move {
        let response = next.run(request).await;
        let status = response.status();
        let result = if status.is_success() || status.is_redirection() || status.is_informational() {
            "done".to_owned()
        } else {
            format!("failed: {status}")
        };
        access.audit_result(number, &result);
        response
    });
    match making.await {
        Ok(response) => response,
        Err(ended) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
        // The head ends.
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

#[cfg(test)]
mod tests;
