//! Users, sessions and tokens. Passwords are kept as argon2id, sessions and tokens as SHA-256 of what was
//! given out: nothing in the store lets anyone in.

use std::sync::{Mutex, OnceLock};

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use bramble_model::api::{NewToken, Role, TokenStatus, UserChange, UserStatus};
use bramble_model::names::Digest;
use bramble_model::timeline::Millis;
use bramble_store::{Error as StoreError, Expect, OnLoss, Record, Store, Table, Version, Write, put, remove};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use super::limits::Limits;
use crate::error::Error;
use crate::random::random;
use crate::store::beside;

/// A browser's session, and one of the command line.
pub(crate) const BROWSER: Millis = 12 * 3600 * 1000;
pub(crate) const COMMAND_LINE: Millis = 30 * 24 * 3600 * 1000;
const DAY: Millis = 24 * 3600 * 1000;
const SHORTEST_PASSWORD: usize = 8;
const LONGEST: usize = 128;
/// Sessions that are kept; the oldest go first.
const MOST_SESSIONS: usize = 1000;

/// A person with a password.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct User {
    /// A PHC string.
    pub(crate) hash: String,
    pub(crate) role: Option<Role>,
    pub(crate) since: Millis,
}

/// Someone who logged in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Session {
    pub(crate) user: String,
    /// The role that the provider's claims gave; `None` for a user of this head, whose role may change.
    pub(crate) role: Option<Role>,
    pub(crate) csrf: String,
    pub(crate) until: Millis,
}

/// What a program shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Token {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) since: Millis,
    pub(crate) until: Option<Millis>,
}

/// Name → a person with a password.
pub(crate) struct Users;

impl Record for Users {
    type Key = String;
    type Value = User;
    const TABLE: Table = Table::new("users");
    const FORM: u32 = 1;
    const WHAT: &'static str = "the user";
    const ON_LOSS: OnLoss = OnLoss::Wait;
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

/// SHA-256 of its secret → a program's token.
pub(crate) struct Tokens;

impl Record for Tokens {
    type Key = String;
    type Value = Token;
    const TABLE: Table = Table::new("tokens");
    const FORM: u32 = 1;
    const WHAT: &'static str = "the token";
    const ON_LOSS: OnLoss = OnLoss::Wait;
}

/// # Errors
/// When the record cannot be read.
pub(super) fn user(store: &Store, name: &str) -> Result<Option<User>, Error> {
    Ok(store.blocking().read::<Users>(&name.to_owned())?)
}

/// The ends of a user's sessions, as parts of a commit.
fn ends_of_sessions(store: &Store, user: &str) -> Result<Vec<Write>, StoreError> {
    let sessions = store.blocking().read_all::<Sessions>()?.readable.into_iter();
    let own = sessions.filter(|(_, session)| session.user == user && session.role.is_none());
    Ok(own.map(|(key, _)| remove::<Sessions>(&key)).collect())
}

/// Writes over a user that is as it was read, or again from the beginning.
fn commit_user(
    store: &Store,
    name: &str,
    writes: impl Fn(&String) -> Result<Vec<Write>, StoreError>,
) -> Result<Version, Error> {
    let key = name.to_owned();
    loop {
        let (_, version) = store.blocking().read_with_version::<Users>(&key)?;
        let expect = Expect { table: Users::TABLE, key: Users::key(&key), version };
        match store.blocking().commit(&[expect], &writes(&key)?) {
            Ok(_) => return Ok(version),
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Keeps a user, and ends the user's sessions where that is asked for.
fn put_user(store: &Store, name: &str, user: &User, end_sessions: bool) -> Result<(), Error> {
    commit_user(store, name, |key| {
        let mut writes = if end_sessions { ends_of_sessions(store, name)? } else { Vec::new() };
        writes.push(put::<Users>(key, user));
        Ok(writes)
    })?;
    Ok(())
}

/// Removes a user with all sessions; `false` where there was none. On disk when this returns.
///
/// # Errors
/// When the record cannot be read, or the disk takes no writes.
pub(crate) fn remove_user(store: &Store, name: &str) -> Result<bool, Error> {
    let was = commit_user(store, name, |key| {
        let mut writes = ends_of_sessions(store, name)?;
        writes.push(remove::<Users>(key));
        Ok(writes)
    })?;
    Ok(was != Version::ABSENT)
}

/// Keeps a session. Those whose time is over go, and the oldest of more than `most`. Where the disk takes no writes it is
/// lost with the process, and whoever had it logs in again.
fn put_session(store: &Store, key: &String, session: &Session, now: Millis, most: usize) -> Result<(), Error> {
    let sessions = store.blocking().read_all::<Sessions>()?.readable;
    let mut known: Vec<(Millis, String)> = sessions.into_iter().map(|(key, session)| (session.until, key)).collect();
    known.sort_unstable();
    let over = known.partition_point(|(until, _)| *until <= now).max((known.len() + 1).saturating_sub(most));
    let mut writes: Vec<Write> = known[..over].iter().map(|(_, old)| remove::<Sessions>(old)).collect();
    writes.push(put::<Sessions>(key, session));
    store.blocking().commit_even_in_memory(&[], &writes)?;
    Ok(())
}

/// Ends a session. On disk when this returns.
///
/// # Errors
/// When the disk takes no writes.
pub(crate) fn remove_session(store: &Store, key: &String) -> Result<(), Error> {
    store.blocking().commit(&[], &[remove::<Sessions>(key)])?;
    Ok(())
}

/// Removes the token of this name, and each other that has it; `false` where there was none. On disk when this returns.
///
/// # Errors
/// When the store cannot be read, or the disk takes no writes.
pub(crate) fn remove_token(store: &Store, name: &str) -> Result<bool, Error> {
    let tokens = store.blocking().read_all::<Tokens>()?.readable.into_iter();
    let gone: Vec<Write> =
        tokens.filter(|(_, token)| token.name == name).map(|(key, _)| remove::<Tokens>(&key)).collect();
    if !gone.is_empty() {
        store.blocking().commit(&[], &gone)?;
    }
    Ok(!gone.is_empty())
}

/// Who a credential belongs to.
pub(crate) struct Holder {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) csrf: String,
}

/// Why something about a person was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("{0}")]
    Wrong(String),
    #[error("too many failed logins: wait {0} s")]
    TooOften(u64),
    #[error(transparent)]
    Store(#[from] Error),
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Refused::Store(error.into())
    }
}

fn wrong<T>(reason: impl Into<String>) -> Result<T, Refused> {
    Err(Refused::Wrong(reason.into()))
}

/// What is kept of a secret.
pub(crate) fn kept(secret: &str) -> String {
    Digest(Sha256::digest(secret.as_bytes()).into()).to_string()
}

/// 256 random bits in hex.
pub(super) fn secret() -> String {
    random() + &random()
}

/// A name of a person or of a token.
fn check_name(name: &str) -> Result<(), Refused> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    if name.is_empty() || name.len() > 64 || !name.chars().all(allowed) {
        return wrong(format!("`{name}`: expected a name of 1 to 64 letters, digits, `-`, `_`, `.` and `@`"));
    }
    Ok(())
}

/// Hashes a password: argon2id with 19 MiB and two rounds (OWASP's password storage cheat sheet).
fn hash(password: &str) -> Result<String, Refused> {
    if password.chars().count() < SHORTEST_PASSWORD {
        return wrong(format!("a password has at least {SHORTEST_PASSWORD} characters"));
    }
    if password.len() > LONGEST {
        return wrong(format!("a password has at most {LONGEST} bytes"));
    }
    match Argon2::default().hash_password(password.as_bytes()) {
        Ok(hash) => Ok(hash.to_string()),
        Err(error) => wrong(format!("the password cannot be hashed: {error}")),
    }
}

/// Logins, and how often they failed.
pub(crate) struct People {
    limits: Mutex<Limits>,
    /// A hash takes 19 MiB and a while: one at a time, and a boot does not wait for it.
    hashing: Semaphore,
    /// Compared with where there is no such user, so that the time does not tell.
    nobody: OnceLock<String>,
}

impl People {
    pub(crate) fn new() -> Self {
        People { limits: Mutex::default(), hashing: Semaphore::new(1), nobody: OnceLock::new() }
    }

    fn limits(&self) -> std::sync::MutexGuard<'_, Limits> {
        self.limits.lock().expect("no panic while held")
    }

    /// Whether this is the user's password.
    pub(crate) async fn check(
        &self,
        store: &Store,
        from: &str,
        name: &str,
        password: &str,
        now: Millis,
    ) -> Result<(), Refused> {
        self.limits().may_try(from, name, now).map_err(Refused::TooOften)?;
        // One at a time, and asked again then: many tries at once are counted one after the other.
        let turn = self.hashing.acquire().await.expect("the semaphore is never closed");
        self.limits().may_try(from, name, now).map_err(Refused::TooOften)?;
        let user = user(store, name)?;
        let known = user.is_some();
        let hash = user.map_or_else(
            || self.nobody.get_or_init(|| hash(&secret()).expect("a hash of random digits")).clone(),
            |user| user.hash,
        );
        let password = password.get(..LONGEST).unwrap_or(password).to_owned();
        let right = beside(move || {
            PasswordHash::new(&hash)
                .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
        });
        let right = right.await;
        drop(turn);
        if !(right && known) {
            self.limits().failed(from, name, now);
            return wrong("the name or the password is wrong");
        }
        Ok(())
    }

    /// Begins a session; gives its secret. `role` is `None` for a user of this head.
    pub(crate) fn begin(
        &self,
        store: &Store,
        user: &str,
        role: Option<Role>,
        life: Millis,
        now: Millis,
    ) -> Result<(String, Session), Error> {
        let token = secret();
        let session = Session { user: user.to_owned(), role, csrf: secret(), until: now + life };
        put_session(store, &kept(&token), &session, now, MOST_SESSIONS)?;
        Ok((token, session))
    }

    pub(crate) fn of_session(&self, store: &Store, token: &str, now: Millis) -> Option<Holder> {
        let session = store.blocking().read::<Sessions>(&kept(token)).ok()?.filter(|session| session.until > now)?;
        let role = match session.role {
            Some(role) => role,
            // The role may have changed, and the user may be gone.
            None => user(store, &session.user).ok()??.role?,
        };
        Some(Holder { name: session.user, role, csrf: session.csrf })
    }

    /// A token of a program, or of someone who logged in on the command line.
    pub(crate) fn of_token(&self, store: &Store, token: &str, now: Millis) -> Option<Holder> {
        let found = store
            .blocking()
            .read::<Tokens>(&kept(token))
            .ok()?
            .filter(|token| token.until.is_none_or(|until| until > now));
        match found {
            Some(token) => {
                Some(Holder { name: format!("token {}", token.name), role: token.role, csrf: String::new() })
            }
            None => self.of_session(store, token, now),
        }
    }

    /// Makes or changes a user. A new password ends the user's sessions.
    pub(crate) async fn change_user(
        &self,
        store: &Store,
        name: &str,
        change: UserChange,
        now: Millis,
    ) -> Result<(), Refused> {
        check_name(name)?;
        let hashed = match change.password {
            Some(password) => {
                let _turn = self.hashing.acquire().await.expect("the semaphore is never closed");
                Some(beside(move || hash(&password)).await?)
            }
            None => None,
        };
        let old = user(store, name)?;
        let (role, since) = match &old {
            Some(old) => (change.role.or(old.role), old.since),
            None => (Some(change.role.unwrap_or(Role::Viewer)), now),
        };
        let Some(hash) = hashed.clone().or_else(|| old.map(|old| old.hash)) else {
            return wrong("a new user needs a password");
        };
        put_user(store, name, &User { hash, role, since }, hashed.is_some())?;
        Ok(())
    }

    pub(crate) fn users(&self, store: &Store) -> Result<Vec<UserStatus>, Error> {
        let users = store.blocking().read_all::<Users>()?.readable.into_iter();
        Ok(users
            .map(|(name, user)| UserStatus { name, role: user.role.unwrap_or(Role::Viewer), since: user.since })
            .collect())
    }

    /// Makes a token; its secret is told once.
    pub(crate) fn add_token(&self, store: &Store, new: &NewToken, now: Millis) -> Result<String, Refused> {
        check_name(&new.name)?;
        if store.blocking().read_all::<Tokens>()?.readable.values().any(|token| token.name == new.name) {
            return wrong(format!("there is a token `{}` already", new.name));
        }
        let token = secret();
        let until = new.days.map(|days| now + u64::from(days) * DAY);
        let token_kept = Token { name: new.name.clone(), role: new.role, since: now, until };
        store.blocking().update::<Tokens, ()>(&kept(&token), |kept| *kept = Some(token_kept.clone()))?;
        Ok(token)
    }

    pub(crate) fn tokens(&self, store: &Store) -> Result<Vec<TokenStatus>, Error> {
        let tokens = store.blocking().read_all::<Tokens>()?.readable.into_values();
        Ok(tokens.map(|Token { name, role, since, until }| TokenStatus { name, role, since, until }).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(&folder.path().join("head.redb"), 1).expect("opens");
        (folder, store)
    }

    fn change(password: Option<&str>, role: Option<Role>) -> UserChange {
        UserChange { password: password.map(str::to_owned), role }
    }

    #[tokio::test]
    async fn a_user_logs_in_with_the_right_password_only() {
        let (_folder, store) = store();
        let people = People::new();
        people.change_user(&store, "ann", change(Some("correct horse"), Some(Role::Operator)), 0).await.expect("made");
        assert!(people.check(&store, "here", "ann", "correct horse", 1).await.is_ok());
        for (name, password) in [("ann", "wrong horse"), ("ann", ""), ("bob", "correct horse")] {
            assert!(matches!(people.check(&store, "here", name, password, 1).await, Err(Refused::Wrong(_))));
        }
        for _ in 0..5 {
            let _ = people.check(&store, "here", "ann", "guess", 1).await;
        }
        assert!(matches!(people.check(&store, "here", "ann", "correct horse", 1).await, Err(Refused::TooOften(_))));
        assert!(people.check(&store, "there", "ann", "correct horse", 1).await.is_ok());
    }

    #[tokio::test]
    async fn a_session_ends_with_its_time_its_user_and_the_password() {
        let (_folder, store) = store();
        let people = People::new();
        people.change_user(&store, "ann", change(Some("correct horse"), Some(Role::Operator)), 0).await.expect("made");
        let (token, _) = people.begin(&store, "ann", None, 1000, 0).expect("begun");
        assert!(people.of_session(&store, &token, 999).is_some_and(|known| known.role == Role::Operator));
        assert!(people.of_session(&store, &token, 1000).is_none(), "its time is over");
        assert!(people.of_session(&store, &kept(&token), 0).is_none(), "what the store has opens nothing");
        people.change_user(&store, "ann", change(None, Some(Role::Viewer)), 0).await.expect("changed");
        assert!(people.of_session(&store, &token, 1).is_some_and(|known| known.role == Role::Viewer));
        people.change_user(&store, "ann", change(Some("battery staple"), None), 0).await.expect("changed");
        assert!(people.of_session(&store, &token, 1).is_none(), "a new password");
        let (token, _) = people.begin(&store, "ann", None, 1000, 0).expect("begun");
        remove_user(&store, "ann").expect("removed");
        assert!(people.of_session(&store, &token, 1).is_none(), "the user is gone");
    }

    #[test]
    fn a_token_is_good_until_its_day() {
        let (_folder, store) = store();
        let people = People::new();
        let new = NewToken { name: "ci".into(), role: Role::Viewer, days: Some(1) };
        let token = people.add_token(&store, &new, 0).expect("made");
        assert!(people.add_token(&store, &new, 0).is_err(), "twice");
        assert!(people.of_token(&store, &token, DAY - 1).is_some_and(|known| known.name == "token ci"));
        assert!(people.of_token(&store, &token, DAY).is_none());
        remove_token(&store, "ci").expect("removed");
        assert!(people.of_token(&store, &token, 1).is_none());
    }
}
