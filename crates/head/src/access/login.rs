//! Logging in and out, on the page and in the API; users and tokens.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Form, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::{Extension, Json};
use bramble_model::api::{LoggedIn, Login, Me, NewToken, Role, UserChange};
use bramble_model::audit::{Entry, News, Page, Position};
use bramble_model::repository::Cluster;
use bramble_model::timeline::Millis;
use bramble_store::Record as _;
use bramble_system::now;
use maud::{Markup, html};
use serde::Deserialize;

use super::audit::refusals::Try;
use super::audit::{self, AuditLog};
use super::door::{Door, Who};
use super::headers::{COOKIE, bearer, cookie};
use super::people::{self, Refused, kept};
use super::sessions::{BROWSER, By, COMMAND_LINE, Session, remove_session};
use super::{Access, oidc};
use crate::error::Error;
use crate::frame::frame;
use crate::refusal::{Asked, Path, Query, Refusal, failed, refuse};
use crate::store::beside;

pub(super) fn refused(error: &Refused) -> Refusal {
    match error {
        Refused::Wrong(_) => refuse(StatusCode::BAD_REQUEST, error.to_string(), None),
        Refused::TooOften(_) => refuse(StatusCode::TOO_MANY_REQUESTS, error.to_string(), None),
        Refused::Store(error) => failed(error),
    }
}

/// Why nobody can log in elsewhere.
const NO_PROVIDER: &str = "bramble.toml names no provider";

impl Access {
    /// Checks a password and begins a session. Both outcomes are in the audit log.
    async fn log_in(&self, door: Door, login: &Login, life: u64) -> Result<(String, Session), Refused> {
        let from = door.from();
        let checked = self.people.check(&self.store, &from, &login.user, &login.password, now()).await;
        let role = checked.as_ref().ok().and_then(|user| user.role);
        let begun = checked
            .and_then(|user| self.people.begin(&self.store, (&login.user, &from), &By::Password(user), life, now()));
        match begun {
            Ok(begun) => {
                // Where this cannot be written, nobody is told the session's secret.
                self.came(door, &login.user, role, "log in")?;
                Ok(begun)
            }
            Err(error) => {
                // What was typed as a name may be a password: one that no user has is not written down.
                let known = people::user(&self.store, &login.user)?.map(|_| login.user.as_str());
                let result = format!("refused: {error}");
                self.refusals.add(&Try { door, route: "log in", who: known, what: "log in", result: &result });
                Err(error)
            }
        }
    }

    /// Writes down that someone has logged in. An operator is about to change something; of others there may be many, who
    /// change nothing, and are counted.
    fn came(&self, door: Door, name: &str, role: Option<Role>, what: &str) -> Result<(), Error> {
        if role >= Some(Role::Operator) {
            return audit::begin(&self.store, (name, &door.from()), what, "done", false).map(drop);
        }
        self.refusals.add(&Try { door, route: "logged in", who: Some(name), what, result: "done" });
        Ok(())
    }
}

/// The header that gives a browser its session.
pub(super) fn cookie_header(token: &str, seconds: u64) -> HeaderValue {
    let text = format!("{COOKIE}={token}; Path=/; Max-Age={seconds}; Secure; HttpOnly; SameSite=Lax");
    text.parse().expect("digits and letters")
}

/// Whether a browser says that another site made it send this (Fetch Metadata, section 2.1).
fn is_cross_site(headers: &HeaderMap) -> bool {
    headers.get("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none")
}

/// The page that asks for name and password.
fn login_page(cluster: &Cluster, problem: Option<&str>) -> Markup {
    let body = html! {
        header { h1 { (cluster.name) } }
        main {
            form.login method="post" action="/login" {
                @if let Some(problem) = problem { p.problem role="alert" { (problem) } }
                label { "Name" input name="user" autocomplete="username" autofocus required; }
                label { "Password" input name="password" type="password" autocomplete="current-password" required; }
                button { "Log in" }
            }
            @if cluster.access.oidc.is_some() { p { a href="/login/oidc" { "Log in with your organisation's account" } } }
        }
    };
    frame(&format!("Log in · {}", cluster.name), None, body)
}

/// `GET /login`
pub(crate) async fn form(State(access): State<Arc<Access>>) -> Html<String> {
    Html(login_page(&access.snapshots.cluster(), None).into_string())
}

/// `POST /login`: what the page's form sends.
pub(crate) async fn enter(
    State(access): State<Arc<Access>>,
    Extension(door): Extension<Door>,
    headers: HeaderMap,
    Form(login): Form<Login>,
) -> Response {
    if is_cross_site(&headers) {
        return refuse(StatusCode::FORBIDDEN, "this login does not come from the head's own page", None)
            .into_response();
    }
    match access.log_in(door, &login, BROWSER).await {
        Ok((token, _)) => {
            ([(header::SET_COOKIE, cookie_header(&token, BROWSER / 1000))], Redirect::to("/")).into_response()
        }
        Err(error) => {
            let (status, _) = refused(&error);
            let text = match error {
                Refused::Store(_) => "The head cannot look into its store; its log says more.".to_owned(),
                error => error.to_string(),
            };
            (status, Html(login_page(&access.snapshots.cluster(), Some(&text)).into_string())).into_response()
        }
    }
}

/// `POST /logout`
pub(crate) async fn leave(State(access): State<Arc<Access>>, headers: HeaderMap) -> Response {
    if let Some(token) = cookie(&headers, COOKIE).or_else(|| bearer(&headers))
        && let Err(error) = remove_session(&access.store, &kept(token))
    {
        tracing::error!(error = bramble_system::sentence(&error), "a session could not be ended");
        return failed(&error).into_response();
    }
    ([(header::SET_COOKIE, cookie_header("", 0))], Redirect::to("/")).into_response()
}

fn oidc_failed(access: &Access, reason: &str) -> Response {
    tracing::warn!(reason, "a login by OpenID Connect failed");
    let text = "The login elsewhere did not work; the head's log says why.";
    (StatusCode::BAD_GATEWAY, Html(login_page(&access.snapshots.cluster(), Some(text)).into_string())).into_response()
}

/// `GET /login/oidc`: sends the browser to the provider.
pub(crate) async fn oidc(
    State(access): State<Arc<Access>>,
    Extension(door): Extension<Door>,
    headers: HeaderMap,
) -> Response {
    let Some(provider) = access.oidc() else { return oidc_failed(&access, NO_PROVIDER) };
    match oidc::begin(&access.flows, &provider, door.place(), &headers).await {
        Ok((state, url)) => {
            let cookie = format!("{}={state}; Path=/; Max-Age=600; Secure; HttpOnly; SameSite=Lax", oidc::COOKIE);
            let cookie: HeaderValue = cookie.parse().expect("digits and letters");
            ([(header::SET_COOKIE, cookie)], Redirect::to(&url)).into_response()
        }
        Err(reason) => oidc_failed(&access, &reason),
    }
}

/// `GET /login/oidc/callback`: the browser comes back.
pub(crate) async fn oidc_callback(
    State(access): State<Arc<Access>>,
    Extension(door): Extension<Door>,
    Query(back): Query<oidc::Back>,
    headers: HeaderMap,
) -> Response {
    let Some(provider) = access.oidc() else { return oidc_failed(&access, NO_PROVIDER) };
    let claims = match oidc::come_back(&access.flows, &provider, &back, &headers).await {
        Ok(claims) => claims,
        Err(reason) => return oidc_failed(&access, &reason),
    };
    let name = claims.mail().unwrap_or(&claims.sub).to_owned();
    let membership = claims.membership(&provider);
    let what = format!("log in by {}", provider.issuer);
    let Some(role) = membership.role(&provider) else {
        let result = "refused: neither operator nor viewer";
        access.refusals.add(&Try { door, route: "log in", who: Some(&name), what: &what, result });
        let text = format!("{name} is neither among the operators nor among the viewers of this cluster.");
        return (StatusCode::FORBIDDEN, Html(login_page(&access.snapshots.cluster(), Some(&text)).into_string()))
            .into_response();
    };
    let by = By::Provider(role, membership);
    let begun = access.people.begin(&access.store, (&name, &door.from()), &by, BROWSER, now());
    match begun.and_then(|begun| Ok(access.came(door, &name, Some(role), &what).map(|()| begun)?)) {
        Ok((token, _)) => {
            ([(header::SET_COOKIE, cookie_header(&token, BROWSER / 1000))], Redirect::to("/")).into_response()
        }
        Err(error) => oidc_failed(&access, &bramble_system::sentence(&error)),
    }
}

/// `POST /v1/login`
pub(crate) async fn api(
    State(access): State<Arc<Access>>,
    Extension(door): Extension<Door>,
    Asked(login): Asked<Login>,
) -> Result<Json<LoggedIn>, Refusal> {
    let (token, session) = access.log_in(door, &login, COMMAND_LINE).await.map_err(|error| refused(&error))?;
    let user = people::user(&access.store, &session.user).map_err(|error| refused(&error.into()))?;
    let role = user.and_then(|user| user.role).unwrap_or(Role::Viewer);
    Ok(Json(LoggedIn { token, user: session.user, role, until: session.until }))
}

/// `GET /v1/me`
pub(crate) async fn me(Extension(who): Extension<Who>) -> Result<Json<Me>, Refusal> {
    let Some(actor) = who.0 else { return Err(refuse(StatusCode::UNAUTHORIZED, "nobody is logged in", None)) };
    Ok(Json(Me { name: actor.name, role: actor.role }))
}

/// `GET /v1/users`
pub(crate) async fn users(State(access): State<Arc<Access>>) -> Result<Response, Refusal> {
    let users = access.people.users(&access.store).map_err(|error| refused(&error.into()))?;
    Ok(users.into_response())
}

/// `PUT /v1/users/NAME`
pub(crate) async fn put_user(
    State(access): State<Arc<Access>>,
    Path(name): Path<String>,
    Asked(change): Asked<UserChange>,
) -> Result<StatusCode, Refusal> {
    let changed = access.people.change_user(&access.store, &name, change, now()).await;
    changed.map_err(|error| refused(&error))?;
    Ok(StatusCode::NO_CONTENT)
}

/// `DELETE /v1/users/NAME`
pub(crate) async fn remove_user(
    State(access): State<Arc<Access>>,
    Path(name): Path<String>,
) -> Result<StatusCode, Refusal> {
    match people::remove_user(&access.store, &name).map_err(|error| refused(&error.into()))? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(refuse(StatusCode::NOT_FOUND, format!("there is no user `{name}`"), Some("`bramble user ls`"))),
    }
}

/// `GET /v1/tokens`
pub(crate) async fn tokens(State(access): State<Arc<Access>>) -> Result<Response, Refusal> {
    let tokens = access.people.tokens(&access.store).map_err(|error| refused(&error.into()))?;
    Ok(tokens.into_response())
}

/// `POST /v1/tokens`: gives the secret, once.
pub(crate) async fn add_token(
    State(access): State<Arc<Access>>,
    Asked(new): Asked<NewToken>,
) -> Result<Json<String>, Refusal> {
    access.people.add_token(&access.store, &new, now()).map(Json).map_err(|error| refused(&error))
}

/// `DELETE /v1/tokens/NAME`
pub(crate) async fn remove_token(
    State(access): State<Arc<Access>>,
    Path(name): Path<String>,
) -> Result<StatusCode, Refusal> {
    match people::remove_token(&access.store, &name).map_err(|error| refused(&error.into()))? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(refuse(StatusCode::NOT_FOUND, format!("there is no token `{name}`"), Some("`bramble token ls`"))),
    }
}

#[derive(Deserialize)]
pub(crate) struct Latest {
    #[serde(default = "hundred")]
    last: usize,
}

/// More entries are read by `GET /v1/audit/chain`, page by page.
const MOST_AT_ONCE: usize = 10_000;

fn hundred() -> usize {
    100
}

/// `GET /v1/audit?last=N`: so many of the latest changes, and of what was refused beside them.
pub(crate) async fn audit(
    State(access): State<Arc<Access>>,
    Query(Latest { last }): Query<Latest>,
) -> Result<Response, Refusal> {
    let last = last.min(MOST_AT_ONCE);
    let store = access.store.clone();
    let mut entries = beside(move || audit::latest(&store, last)).await.map_err(failed)?;
    entries.all.extend(access.refusals.latest(last));
    entries.all.sort_by_key(time);
    Ok(entries.into_response())
}

/// When there was something of it last.
fn time(entry: &Entry) -> Millis {
    entry.folded.map_or(entry.at, |folded| folded.last)
}

#[derive(Deserialize)]
pub(crate) struct AfterLink {
    #[serde(default)]
    after: u64,
}

/// `GET /v1/audit/chain?after=N`: the entries as they are chained, for whoever checks them.
pub(crate) async fn audit_chain(
    State(access): State<Arc<Access>>,
    Query(AfterLink { after }): Query<AfterLink>,
) -> Result<Json<Page>, Refusal> {
    beside(move || audit::page(&access.store, after)).await.map(Json).map_err(failed)
}

#[derive(Deserialize)]
pub(crate) struct Since {
    link: Option<u64>,
    refusal: Option<u64>,
    /// Seconds to wait, where there is nothing yet.
    #[serde(default)]
    wait: u64,
}

/// How long a question for news waits for some.
const LONGEST_WAIT: Duration = Duration::from_secs(25);

/// `GET /v1/audit/news?link=N&refusal=N&wait=SECONDS`: what has come since; without a position, where that is now.
pub(crate) async fn audit_news(
    State(access): State<Arc<Access>>,
    Query(Since { link, refusal, wait }): Query<Since>,
) -> Result<Json<News>, Refusal> {
    let now = audit::position(&access.store, &access.refusals).map_err(failed)?;
    let (Some(link), Some(refusal)) = (link, refusal) else {
        return Ok(Json(News { entries: Vec::new(), next: now }));
    };
    if wait > 0 && link >= now.link && refusal >= now.refusal {
        access.news(Position { link, refusal }, Duration::from_secs(wait).min(LONGEST_WAIT)).await.map_err(failed)?;
    }
    let store = access.store.clone();
    let (mut entries, link) = beside(move || audit::news(&store, link)).await.map_err(failed)?;
    let refused = access.refusals.since(refusal);
    let refusal = refused.last().map_or(refusal, |last| last.stamp);
    entries.extend(refused.iter().map(|refused| refused.told()));
    entries.sort_by_key(time);
    Ok(Json(News { entries, next: Position { link, refusal } }))
}

impl Access {
    /// Waits until there is something after this position, or for so long.
    async fn news(&self, after: Position, most: Duration) -> Result<(), Error> {
        let (mut links, mut refusals) = (self.store.watch(AuditLog::TABLE), self.refusals.watch());
        let waiting = async {
            while audit::last(&self.store)? <= after.link && self.refusals.stamp() <= after.refusal {
                let changed = tokio::select! {
                    changed = links.changed() => changed,
                    changed = refusals.changed() => changed,
                };
                if changed.is_err() {
                    break;
                }
            }
            Ok(())
        };
        // Late means none: the answer is then empty.
        tokio::time::timeout(most, waiting).await.unwrap_or(Ok(()))
    }
}
