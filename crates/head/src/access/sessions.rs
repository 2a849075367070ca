//! Sessions: someone logged in, on a page or on the command line, with a password of this head or with another service's
//! account. Kept as SHA-256 of what was given out. A user has so many, and the oldest goes.
//!
//! ```text
//!  a login ─▶ session ── its time · the user's own or an operator's word · 20 newer ones ──▶ gone
//!               └── the user, the password, the provider's membership goes ────────────────▶ gone, or nobody's
//! ```

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::{Extension, response::Response};
use bramble_model::api::{Role, SessionStatus};
use bramble_model::repository::Oidc;
use bramble_model::timeline::Millis;
use bramble_store::{Error as StoreError, Expect, OnLoss, Record, Store, Table, Write, put, remove};
use bramble_system::{locked, now};
use serde::{Deserialize, Serialize};

use super::Access;
use super::audit::refusals::Try;
use super::door::{Actor, Credential, Door, Who};
use super::oidc::Membership;
use super::people::{People, Refused, User, Users, kept, secret, user, wrong};
use crate::error::Error;
use crate::readable::Readable;
use crate::refusal::{Path, Query, Refusal, failed, refuse};

/// A browser's session, and one of the command line.
pub(crate) const BROWSER: Millis = 12 * 3600 * 1000;
pub(crate) const COMMAND_LINE: Millis = 30 * 24 * 3600 * 1000;
/// Sessions that are kept; the oldest go first.
const MOST: usize = 1000;
/// Sessions of one user.
const MOST_OF_USER: usize = 20;
/// Digits of the hash by which people name a session.
const DIGITS: usize = 12;
/// Digits by which one is found, at least.
const SHORTEST: usize = 4;

/// Someone who logged in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Session {
    pub(crate) user: String,
    /// The role that the provider's claims gave then; `None` for a user of this head, whose role may change.
    pub(crate) role: Option<Role>,
    pub(crate) csrf: String,
    pub(crate) until: Millis,
    /// 0 where a release before this wrote it.
    #[serde(default, skip_serializing_if = "is_unknown")]
    pub(crate) since: Millis,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<String>,
    /// What the provider said. What a release before this wrote has none, and is nobody's: its owner logs in again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) membership: Option<Membership>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_unknown(since: &Millis) -> bool {
    *since == 0
}

/// SHA-256 of its secret → a session. Whoever loses one logs in again.
pub(crate) struct Sessions;

impl Record for Sessions {
    type Key = String;
    type Value = Session;
    const TABLE: Table = Table::new("sessions");
    const FORM: u32 = 1;
    const WHAT: &'static str = "the session";
    const ON_LOSS: OnLoss = OnLoss::BeginAnew;
}

/// By what someone is let in.
#[derive(Debug, Clone)]
pub(crate) enum By {
    /// The password of a user of this head, who was this one when it was checked.
    Password(User),
    /// What a provider says, and the role that it gives.
    Provider(Role, Membership),
}

/// Who a credential belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) csrf: String,
    pub(crate) until: Option<Millis>,
}

/// The ends of a user's sessions, as parts of a commit.
pub(super) fn ends_of_sessions(store: &Store, user: &str) -> Result<Vec<Write>, StoreError> {
    let sessions = store.blocking().read_all::<Sessions>()?.readable.into_iter();
    let own = sessions.filter(|(_, session)| session.user == user && session.role.is_none());
    Ok(own.map(|(key, _)| remove::<Sessions>(&key)).collect())
}

/// Those that make room for another one of this user: what is over, the oldest of the user's, the oldest of all.
fn that_go(sessions: Vec<(String, Session)>, next: &Session, now: Millis) -> Vec<String> {
    let (over, mut there): (Vec<_>, Vec<_>) = sessions.into_iter().partition(|(_, session)| session.until <= now);
    let mut go: Vec<String> = over.into_iter().map(|(key, _)| key).collect();
    let is_own = |session: &Session| session.user == next.user && session.role.is_some() == next.role.is_some();
    there.sort_by_key(|(_, session)| (session.since, session.until));
    let own = there.iter().filter(|(_, session)| is_own(session)).count();
    let mut too_many = (own + 1).saturating_sub(MOST_OF_USER);
    there.retain(|(key, session)| {
        let goes = too_many > 0 && is_own(session);
        if goes {
            too_many -= 1;
            go.push(key.clone());
        }
        !goes
    });
    there.sort_by_key(|(_, session)| session.until);
    let beyond = (there.len() + 1).saturating_sub(MOST);
    go.extend(there.into_iter().take(beyond).map(|(key, _)| key));
    go
}

/// Keeps a session, and ends those that make room for it. Where the disk takes no writes it is lost with the process, and
/// whoever had it logs in again.
fn put_session(store: &Store, (key, session): (&String, &Session), by: &By, now: Millis) -> Result<(), Refused> {
    let store = store.blocking();
    loop {
        let mut expects = Vec::new();
        let mut writes = vec![put::<Sessions>(key, session)];
        if let By::Password(checked) = by {
            let (user, version) = store.read_with_version::<Users>(&session.user)?;
            let Some(user) = user.filter(|user| user.hash == checked.hash) else {
                return wrong("the user has been changed meanwhile: log in again");
            };
            expects.push(Expect { table: Users::TABLE, key: Users::key(&session.user), version });
            // Whoever is about to end the user's sessions finds another version, and looks for them anew.
            writes.push(put::<Users>(&session.user, &user));
        }
        let sessions = store.read_all::<Sessions>()?.readable;
        writes.extend(that_go(sessions.into_iter().collect(), session, now).iter().map(remove::<Sessions>));
        match store.commit_even_in_memory(&expects, &writes) {
            Ok(_) => return Ok(()),
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Ends a session. On disk when this returns.
///
/// # Errors
/// When the disk takes no writes.
pub(crate) fn remove_session(store: &Store, key: &String) -> Result<(), Error> {
    store.blocking().commit(&[], &[remove::<Sessions>(key)])?;
    Ok(())
}

/// Who has the session that is kept by this hash.
pub(super) fn holder(store: &Store, key: &str, oidc: Option<&Oidc>, now: Millis) -> Option<Holder> {
    let session = store.blocking().read::<Sessions>(&key.to_owned()).ok()?.filter(|session| session.until > now)?;
    let role = role(store, &session, oidc)?;
    Some(Holder { name: session.user, role, csrf: session.csrf, until: Some(session.until) })
}

/// What whoever has it may do now: the role may have changed, the user may be gone, and the repository may have other words
/// for what the provider said.
fn role(store: &Store, session: &Session, oidc: Option<&Oidc>) -> Option<Role> {
    match session.role {
        Some(_) => session.membership.as_ref()?.role(oidc?),
        None => user(store, &session.user).ok()??.role,
    }
}

impl People {
    /// Begins a session; gives its secret.
    ///
    /// # Errors
    /// Where the user has another password by now, or is gone: then none begins.
    pub(crate) fn begin(
        &self,
        store: &Store,
        (user, from): (&str, &str),
        by: &By,
        life: Millis,
        now: Millis,
    ) -> Result<(String, Session), Refused> {
        // One after the other: each counts those that are there.
        let _turn = locked(&self.beginning);
        let token = secret();
        let (role, membership) = match by {
            By::Password(_) => (None, None),
            By::Provider(role, membership) => (Some(*role), Some(membership.clone())),
        };
        let session = Session {
            user: user.to_owned(),
            role,
            csrf: secret(),
            until: now + life,
            since: now,
            from: Some(from.to_owned()),
            membership,
        };
        put_session(store, (&kept(&token), &session), by, now)?;
        Ok((token, session))
    }
}

#[derive(Deserialize)]
pub(crate) struct Of {
    user: Option<String>,
}

/// The sessions that someone may see: an operator all, and everyone else one's own.
fn seen_by(access: &Access, actor: &Actor) -> Result<Readable<(String, Session)>, Error> {
    let all: Readable<(String, Session)> = access.store.blocking().read_all::<Sessions>()?.into();
    let (at, oidc) = (now(), access.oidc());
    let own = |key: &str, session: &Session| match &actor.credential {
        Credential::Session(own) if own == key => true,
        // Another one of the same account: not of one of the same name elsewhere.
        Credential::Session(own) => {
            let mine = access.store.blocking().read::<Sessions>(own).ok().flatten();
            mine.is_some_and(|mine| mine.user == session.user && mine.role.is_some() == session.role.is_some())
        }
        _ => false,
    };
    let is_seen = |key: &str, session: &Session| actor.role >= Role::Operator || own(key, session);
    let lives = |session: &Session| session.until > at && role(&access.store, session, oidc.as_ref()).is_some();
    let lacks = if actor.role >= Role::Operator { all.lacks } else { 0 };
    let mut seen: Vec<_> =
        all.all.into_iter().filter(|(key, session)| lives(session) && is_seen(key, session)).collect();
    seen.sort_by(|(_, a), (_, b)| (&a.user, a.since).cmp(&(&b.user, b.since)));
    Ok(Readable { all: seen, lacks })
}

fn anyone() -> Refusal {
    refuse(StatusCode::UNAUTHORIZED, "log in first", None)
}

/// `GET /v1/sessions?user=NAME`: one's own, and an operator's everyone's.
pub(crate) async fn list(
    State(access): State<Arc<Access>>,
    Extension(Who(who)): Extension<Who>,
    Query(Of { user }): Query<Of>,
) -> Result<Response, Refusal> {
    let actor = who.ok_or_else(anyone)?;
    let oidc = access.oidc();
    let mut seen = seen_by(&access, &actor).map_err(failed)?;
    seen.all.retain(|(_, session)| user.as_ref().is_none_or(|user| *user == session.user));
    let told = seen.map(|(key, session)| SessionStatus {
        id: key.chars().take(DIGITS).collect(),
        role: role(&access.store, &session, oidc.as_ref()).unwrap_or(Role::Viewer),
        own: actor.credential == Credential::Session(key),
        since: session.since,
        until: session.until,
        elsewhere: session.role.is_some(),
        from: session.from,
        user: session.user,
    });
    Ok(told.into_response())
}

/// `DELETE /v1/sessions/ID`: ends one's own, and an operator anyone's. What runs in its name ends with it.
pub(crate) async fn end(
    State(access): State<Arc<Access>>,
    Extension(door): Extension<Door>,
    Extension(Who(who)): Extension<Who>,
    Path(id): Path<String>,
) -> Result<StatusCode, Refusal> {
    let actor = who.ok_or_else(anyone)?;
    let id = id.to_ascii_lowercase();
    if id.len() < SHORTEST || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let help = "`bramble session ls` names them";
        return Err(refuse(StatusCode::BAD_REQUEST, format!("`{id}` is no session"), Some(help)));
    }
    let mut found = seen_by(&access, &actor).map_err(failed)?.all;
    found.retain(|(key, _)| key.starts_with(&id));
    let (key, session) = match found.as_slice() {
        [one] => one,
        [] => {
            let help = "`bramble session ls` lists them";
            return Err(refuse(StatusCode::NOT_FOUND, format!("there is no session `{id}`"), Some(help)));
        }
        _ => return Err(refuse(StatusCode::CONFLICT, format!("several sessions begin with `{id}`"), None)),
    };
    let what = format!("end a session of {}", session.user);
    // One's own going changes nothing for anyone else, and whoever may only look writes no change down.
    let number = if actor.role >= Role::Operator {
        Some(access.audit(&actor, &what, "begun").map_err(failed)?)
    } else {
        let route = "DELETE /v1/sessions/{id}";
        access.refusals.add(&Try { door, route, who: Some(&actor.name), what: &what, result: "done" });
        None
    };
    let ended = remove_session(&access.store, key);
    if let Some(number) = number {
        access.audit_result(number, if ended.is_ok() { "done" } else { "failed" });
    }
    ended.map_err(failed)?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(user: &str, role: Option<Role>, since: Millis, until: Millis) -> Session {
        Session { user: user.into(), role, csrf: String::new(), until, since, from: None, membership: None }
    }

    #[test]
    fn a_user_has_twenty_sessions_and_the_oldest_goes() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(&folder.path().join("head.redb"), 1).expect("opens");
        let (people, ann) = (People::new(), User { hash: "x".into(), role: Some(Role::Viewer), since: 0 });
        for name in ["ann", "bob"] {
            store.blocking().commit(&[], &[put::<Users>(&name.to_owned(), &ann)]).expect("written");
        }
        let begin = |user: &str, at| {
            people.begin(&store, (user, "10.77.0.9"), &By::Password(ann.clone()), 1000, at).expect("begun").0
        };
        let bobs = begin("bob", 0);
        let secrets: Vec<String> = (1..=25).map(|at| begin("ann", at)).collect();
        let stays = |secret: &String| holder(&store, &kept(secret), None, 30).is_some();
        assert!(stays(&bobs), "nobody pushes out another's");
        assert_eq!(secrets.iter().map(stays).collect::<Vec<_>>(), [vec![false; 5], vec![true; 20]].concat());
    }

    #[test]
    fn what_is_over_goes_first_and_the_oldest_of_all_when_there_are_too_many() {
        let key = |number: usize| format!("{number:04}");
        let next = session("ann", None, 50, 100);
        let mut all = vec![("over".to_owned(), session("eve", None, 1, 50))];
        all.extend((0..19).map(|number| (key(number), session("ann", None, number as Millis, 90))));
        // An account of another service with the same name is another account.
        all.push(("other".into(), session("ann", Some(Role::Viewer), 0, 90)));
        assert_eq!(that_go(all.clone(), &next, 50), ["over"]);
        all.push((key(19), session("ann", None, 3, 80)));
        assert_eq!(that_go(all, &next, 50), ["over".to_owned(), key(0)]);
        let many = (0..MOST + 3).map(|number| (key(number), session(&key(number), None, 1, 60 + number as Millis)));
        assert_eq!(that_go(many.collect(), &next, 50), [key(0), key(1), key(2), key(3)]);
    }

    /// It said no more than the role then, and the repository may have changed.
    #[test]
    fn a_session_of_another_services_account_is_judged_by_what_the_repository_says_now() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(&folder.path().join("head.redb"), 1).expect("opens");
        let mut oidc = Oidc {
            issuer: "https://id.example".into(),
            client_id: "bramble".into(),
            client_secret_file: None,
            ca: None,
            url: None,
            operators: vec!["group:admins".into()],
            viewers: vec!["bob@example.org".into()],
        };
        let of = |mail: Option<&str>, groups: &[&str]| Membership {
            issuer: "https://id.example".into(),
            mail: mail.map(str::to_owned),
            groups: groups.iter().map(|&group| group.into()).collect(),
        };
        let begin = |name: &str, membership| {
            let by = By::Provider(Role::Operator, membership);
            kept(&People::new().begin(&store, (name, "10.77.0.9"), &by, 1000, 0).expect("begun").0)
        };
        let (ann, bob) = (begin("ann", of(None, &["admins"])), begin("bob", of(Some("Bob@example.org"), &[])));
        let role = |key: &str, oidc: Option<&Oidc>| holder(&store, key, oidc, 1).map(|holder| holder.role);
        assert_eq!((role(&ann, Some(&oidc)), role(&bob, Some(&oidc))), (Some(Role::Operator), Some(Role::Viewer)));
        (oidc.operators, oidc.viewers) = (Vec::new(), vec!["group:admins".into()]);
        assert_eq!((role(&ann, Some(&oidc)), role(&bob, Some(&oidc))), (Some(Role::Viewer), None));
        oidc.issuer = "https://other.example".into();
        assert_eq!((role(&ann, Some(&oidc)), role(&ann, None)), (None, None), "another service knows another ann");
        let old = session("ann", Some(Role::Operator), 0, 1000);
        store.blocking().commit(&[], &[put::<Sessions>(&"old".to_owned(), &old)]).expect("written");
        assert_eq!(role("old", Some(&oidc)), None, "nobody knows what was said of it");
    }
}
