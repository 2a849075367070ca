//! Who asks, and what they may: people with a session, programs with a token, root on the head's own
//! machine, and, where the repository says so, everyone who only looks.
//!
//! ```text
//!              ┌── control socket: the owner of the head
//! a request ──▶├── TLS: cookie of a session · bearer token · nobody ──▶ role ──▶ route ──▶ audit
//!              └── plain HTTP: nobody, ever: no secret goes over it
//! ```

pub(crate) mod audit;
pub(crate) mod limits;
pub(crate) mod login;
pub(crate) mod oidc;
pub(crate) mod people;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use bramble_model::api::Role;
use bramble_system::now;

use crate::Head;
use crate::api::refuse;
use crate::http::Ends;

/// The longest body of a request that changes something.
const LONGEST_CHANGE: usize = 64 << 10;
/// The name of the session's cookie. Browsers keep one that begins so from being set over plain HTTP, or by
/// another host (RFC 6265bis, section 4.1.3.2).
const COOKIE: &str = "__Host-bramble";

/// Where a connection came in.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Door {
    /// Plain HTTP on a wire of the nodes.
    Wire(Ends),
    Tls(SocketAddr),
    /// The control socket, which only its owner can open.
    Socket {
        user: u32,
    },
}

impl Door {
    /// Where someone comes from: the address, or `local`.
    fn from(self) -> String {
        match self {
            Door::Wire(ends) => ends.peer.ip().to_string(),
            Door::Tls(peer) => peer.ip().to_string(),
            Door::Socket { .. } => "local".into(),
        }
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Actor {
    pub(crate) name: String,
    pub(crate) role: Role,
    /// The address, or `local`.
    pub(crate) from: String,
    /// What a browser's form has to bring along; `None` where no browser sends credentials by itself.
    pub(crate) csrf: Option<String>,
}

/// The actor of a request, where there is one.
#[derive(Debug, Clone)]
pub(crate) struct Who(pub(crate) Option<Actor>);

/// The value of a cookie (RFC 6265, section 5.4).
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(|(known, _)| *known == name).map(|(_, value)| value).next()
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

impl Head {
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
        let public = self.cluster().access.public;
        public.then(|| Actor { name: "anyone".into(), role: Role::Viewer, from, csrf: None })
    }
}

/// Finds out who asks; the routes behind say who may.
pub(crate) async fn identify(State(head): State<Arc<Head>>, mut request: Request, next: Next) -> Response {
    let Some(door) = request.extensions().get::<Door>().copied() else {
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, "a request came through no door", None).into_response();
    };
    let who = head.who(door, request.headers());
    request.extensions_mut().insert(Who(who));
    next.run(request).await
}

/// Whether a person with a browser asks, who is better led than refused.
fn is_browser(request: &Request) -> bool {
    let accepts = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    *request.method() == Method::GET && accepts.contains("text/html")
}

/// The same page over TLS.
fn over_tls(head: &Head, ends: &Ends, uri: &Uri) -> Response {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    Redirect::temporary(&format!("https://{}:{}{path}", ends.local.ip(), head.network.https_port)).into_response()
}

/// Lets in who may look.
pub(crate) async fn may_look(State(head): State<Arc<Head>>, request: Request, next: Next) -> Response {
    let who = request.extensions().get::<Who>().and_then(|who| who.0.as_ref());
    if who.is_some() {
        return next.run(request).await;
    }
    match request.extensions().get::<Door>() {
        Some(Door::Wire(ends)) if is_browser(&request) => over_tls(&head, ends, request.uri()),
        Some(Door::Wire(_)) => {
            let help = format!(
                "log in over https, port {}; `[access] public = true` in bramble.toml lets anyone look",
                head.network.https_port
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

/// Lets in who may change things, and keeps what they did in the audit log: before it is done, and how it
/// went.
pub(crate) async fn may_change(State(head): State<Arc<Head>>, request: Request, next: Next) -> Response {
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
    let what = audit::describe(&parts.method, parts.uri.path(), &body);
    let refused = if actor.role < Role::Operator {
        let help = "an operator may: log in as one";
        Some(refuse(StatusCode::FORBIDDEN, "a viewer may look, and not touch", Some(help)))
    } else if actor.csrf.as_deref().is_some_and(|csrf| !brings(&parts.headers, &body, csrf)) {
        let help = "reload the page and try again";
        Some(refuse(StatusCode::FORBIDDEN, "this request does not come from the head's own page", Some(help)))
    } else {
        None
    };
    // A change that would be gone with the head is not made. Switching a node is over when it is done.
    let lasts = !parts.uri.path().ends_with("/power") && !parts.uri.path().ends_with("/backup");
    let refused = refused.or_else(|| {
        let trouble = head.store.trouble().filter(|_| lasts)?;
        Some(refuse(
            StatusCode::INSUFFICIENT_STORAGE,
            trouble,
            Some("make room on it, or replace it; the head goes back to it by itself"),
        ))
    });
    let begun = head.audit(&actor, &what, if refused.is_some() { "refused" } else { "begun" });
    if let Some(refused) = refused {
        return refused.into_response();
    }
    let number = match begun {
        Ok(number) => number,
        // What cannot be written down is not done.
        Err(error) => {
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
    head.audit_result(number, &result);
    response
}

/// Whether a request brings the session's own word along, as a header or as a field of a form: another site
/// can make a browser send the cookie, and cannot know the word.
fn brings(headers: &HeaderMap, body: &Bytes, csrf: &str) -> bool {
    let in_header = headers.get("x-csrf-token").is_some_and(|word| same(word.as_bytes(), csrf.as_bytes()));
    let form = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/x-www-form-urlencoded"));
    // The word is hexadecimal: nothing in it is written in another way in a form.
    let fields = body.split(|byte| *byte == b'&').filter_map(|field| field.strip_prefix(b"csrf="));
    in_header || form && fields.into_iter().any(|word| same(word, csrf.as_bytes()))
}

/// Whether a browser sends this from the head's own page: its origin (RFC 6454, section 7) is the host that it
/// asks.
pub(crate) fn same_origin(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    match (text(header::ORIGIN), text(header::HOST)) {
        (Some(origin), Some(host)) => origin.strip_prefix("https://") == Some(host),
        _ => false,
    }
}

/// Whether two secrets are equal, in a time that does not tell where they differ.
pub(crate) fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, "a=1; __Host-bramble=xyz; b=2".parse().expect("text"));
        assert_eq!(cookie(&headers, COOKIE), Some("xyz"));
        assert_eq!(cookie(&headers, "Host-bramble"), None);
    }

    #[test]
    fn another_site_does_not_know_the_word() {
        let mut headers = HeaderMap::new();
        let body = Bytes::from_static(b"fingerprint=ab&csrf=77aa");
        assert!(!brings(&headers, &body, "77aa"), "a field of something that is no form");
        headers.insert(header::CONTENT_TYPE, "application/x-www-form-urlencoded".parse().expect("text"));
        assert!(brings(&headers, &body, "77aa"));
        assert!(!brings(&headers, &body, "77ab"));
        headers.insert("x-csrf-token", "77ab".parse().expect("text"));
        assert!(brings(&headers, &body, "77ab"));
    }
}
