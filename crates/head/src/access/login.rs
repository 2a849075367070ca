//! Logging in and out, on the page and in the API; users and tokens.

use std::sync::Arc;

use axum::extract::{Form, Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::{Extension, Json};
use bramble_model::api::{LoggedIn, Login, Me, NewToken, Role, UserChange};
use bramble_system::now;
use serde::Deserialize;

use super::people::{BROWSER, COMMAND_LINE, Refused, Session, kept};
use super::{Actor, COOKIE, Door, Who, bearer, cookie};
use crate::api::{Refusal, refuse};
use crate::{Head, page};

pub(super) fn refused(error: &Refused) -> Refusal {
    match error {
        Refused::Wrong(_) => refuse(StatusCode::BAD_REQUEST, error.to_string(), None),
        Refused::TooOften(_) => refuse(StatusCode::TOO_MANY_REQUESTS, error.to_string(), None),
        Refused::Store(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, bramble_system::sentence(error), None),
    }
}

impl Head {
    /// Checks a password and begins a session. Both outcomes are in the audit log.
    async fn log_in(&self, door: Door, login: &Login, life: u64) -> Result<(String, Session), Refused> {
        let from = door.from();
        let checked = self.people.check(&self.store, &from, &login.user, &login.password, now()).await;
        // What was typed as a name may be a password: one that no user has is not written down.
        let known = self.store.user(&login.user)?.is_some();
        let name = if known { login.user.clone() } else { "someone".into() };
        let actor = Actor { name, role: Role::Viewer, from, csrf: None };
        match checked {
            Ok(()) => {
                self.audit(&actor, "log in", "done")?;
                Ok(self.people.begin(&self.store, &login.user, None, life, now())?)
            }
            Err(error) => {
                self.audit(&actor, "log in", &format!("refused: {error}"))?;
                Err(error)
            }
        }
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

/// `GET /login`
pub(crate) async fn form(State(head): State<Arc<Head>>) -> Html<String> {
    Html(page::login(&head.cluster(), None).into_string())
}

/// `POST /login`: what the page's form sends.
pub(crate) async fn enter(
    State(head): State<Arc<Head>>,
    Extension(door): Extension<Door>,
    headers: HeaderMap,
    Form(login): Form<Login>,
) -> Response {
    if is_cross_site(&headers) {
        return refuse(StatusCode::FORBIDDEN, "this login does not come from the head's own page", None)
            .into_response();
    }
    match head.log_in(door, &login, BROWSER).await {
        Ok((token, _)) => {
            ([(header::SET_COOKIE, cookie_header(&token, BROWSER / 1000))], Redirect::to("/")).into_response()
        }
        Err(error) => {
            let (status, _) = refused(&error);
            let text = match error {
                Refused::Store(_) => "The head cannot look into its store; its log says more.".to_owned(),
                error => error.to_string(),
            };
            (status, Html(page::login(&head.cluster(), Some(&text)).into_string())).into_response()
        }
    }
}

/// `POST /logout`
pub(crate) async fn leave(State(head): State<Arc<Head>>, headers: HeaderMap) -> Response {
    if let Some(token) = cookie(&headers, COOKIE).or_else(|| bearer(&headers))
        && let Err(error) = head.store.remove_session(&kept(token))
    {
        tracing::error!(%error, "a session could not be ended");
    }
    ([(header::SET_COOKIE, cookie_header("", 0))], Redirect::to("/")).into_response()
}

/// `POST /v1/login`
pub(crate) async fn api(
    State(head): State<Arc<Head>>,
    Extension(door): Extension<Door>,
    Json(login): Json<Login>,
) -> Result<Json<LoggedIn>, Refusal> {
    let (token, session) = head.log_in(door, &login, COMMAND_LINE).await.map_err(|error| refused(&error))?;
    let user = head.store.user(&session.user).map_err(|error| refused(&error.into()))?;
    let role = user.and_then(|user| user.role).unwrap_or(Role::Viewer);
    Ok(Json(LoggedIn { token, user: session.user, role, until: session.until }))
}

/// `GET /v1/me`
pub(crate) async fn me(Extension(who): Extension<Who>) -> Result<Json<Me>, Refusal> {
    let Some(actor) = who.0 else { return Err(refuse(StatusCode::UNAUTHORIZED, "nobody is logged in", None)) };
    Ok(Json(Me { name: actor.name, role: actor.role }))
}

/// `GET /v1/users`
pub(crate) async fn users(State(head): State<Arc<Head>>) -> Result<Response, Refusal> {
    let users = head.people.users(&head.store).map_err(|error| refused(&error.into()))?;
    Ok(Json(users).into_response())
}

/// `PUT /v1/users/NAME`
pub(crate) async fn put_user(
    State(head): State<Arc<Head>>,
    Path(name): Path<String>,
    Json(change): Json<UserChange>,
) -> Result<StatusCode, Refusal> {
    let changed = head.people.change_user(&head.store, &name, change, now()).await;
    changed.map_err(|error| refused(&error))?;
    Ok(StatusCode::NO_CONTENT)
}

/// `DELETE /v1/users/NAME`
pub(crate) async fn remove_user(
    State(head): State<Arc<Head>>,
    Path(name): Path<String>,
) -> Result<StatusCode, Refusal> {
    match head.store.remove_user(&name).map_err(|error| refused(&error.into()))? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(refuse(StatusCode::NOT_FOUND, format!("there is no user `{name}`"), Some("`bramble user ls`"))),
    }
}

/// `GET /v1/tokens`
pub(crate) async fn tokens(State(head): State<Arc<Head>>) -> Result<Response, Refusal> {
    let tokens = head.people.tokens(&head.store).map_err(|error| refused(&error.into()))?;
    Ok(Json(tokens).into_response())
}

/// `POST /v1/tokens`: gives the secret, once.
pub(crate) async fn add_token(
    State(head): State<Arc<Head>>,
    Json(new): Json<NewToken>,
) -> Result<Json<String>, Refusal> {
    head.people.add_token(&head.store, &new, now()).map(Json).map_err(|error| refused(&error))
}

/// `DELETE /v1/tokens/NAME`
pub(crate) async fn remove_token(
    State(head): State<Arc<Head>>,
    Path(name): Path<String>,
) -> Result<StatusCode, Refusal> {
    match head.store.remove_token(&name).map_err(|error| refused(&error.into()))? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(refuse(StatusCode::NOT_FOUND, format!("there is no token `{name}`"), Some("`bramble token ls`"))),
    }
}

#[derive(Deserialize)]
pub(crate) struct Latest {
    #[serde(default = "hundred")]
    last: usize,
}

fn hundred() -> usize {
    100
}

/// `GET /v1/audit?last=N`
pub(crate) async fn audit(
    State(head): State<Arc<Head>>,
    axum::extract::Query(Latest { last }): axum::extract::Query<Latest>,
) -> Result<Response, Refusal> {
    let entries = head.store.audited(last).map_err(|error| refused(&error.into()))?;
    Ok(Json(entries).into_response())
}
