//! Users and tokens. Passwords are kept as argon2id, tokens, as sessions, as SHA-256 of what was given out: nothing in the
//! store lets anyone in.

use std::sync::{Mutex, OnceLock};

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use bramble_model::api::{NewToken, Role, TokenStatus, UserChange, UserStatus};
use bramble_model::names::Digest;
use bramble_model::timeline::Millis;
use bramble_store::{Error as StoreError, Expect, OnLoss, Record, Store, Table, Version, Write, put, remove};
use bramble_system::locked;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use super::limits::Limits;
use super::sessions::{Holder, ends_of_sessions};
use crate::error::Error;
use crate::random::random;
use crate::readable::Readable;
use crate::store::beside;

const DAY: Millis = 24 * 3600 * 1000;
const SHORTEST_PASSWORD: usize = 8;
const LONGEST: usize = 128;

/// A person with a password.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct User {
    /// A PHC string.
    pub(crate) hash: String,
    pub(crate) role: Option<Role>,
    pub(crate) since: Millis,
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

/// Writes over a user that is as it was read, or again from the beginning. Gives whether there was one.
fn commit_user<E: From<StoreError>>(
    store: &Store,
    name: &str,
    writes: impl Fn(Option<User>) -> Result<Vec<Write>, E>,
) -> Result<bool, E> {
    let key = name.to_owned();
    loop {
        let (user, version) = store.blocking().read_with_version::<Users>(&key)?;
        let expect = Expect { table: Users::TABLE, key: Users::key(&key), version };
        match store.blocking().commit(&[expect], &writes(user)?) {
            Ok(_) => return Ok(version != Version::ABSENT),
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Removes a user with all sessions; `false` where there was none. On disk when this returns.
///
/// # Errors
/// When the record cannot be read, or the disk takes no writes.
pub(crate) fn remove_user(store: &Store, name: &str) -> Result<bool, Error> {
    commit_user(store, name, |_| {
        let mut writes = ends_of_sessions(store, name)?;
        writes.push(remove::<Users>(&name.to_owned()));
        Ok(writes)
    })
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

/// Who has the token that is kept by this hash.
pub(super) fn holder(store: &Store, key: &str, now: Millis) -> Option<Holder> {
    let token = store.blocking().read::<Tokens>(&key.to_owned()).ok()??;
    let holder =
        Holder { name: format!("token {}", token.name), role: token.role, csrf: String::new(), until: token.until };
    holder.until.is_none_or(|until| until > now).then_some(holder)
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

pub(super) fn wrong<T>(reason: impl Into<String>) -> Result<T, Refused> {
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
    /// Whoever begins a session.
    pub(super) beginning: Mutex<()>,
}

impl People {
    pub(crate) fn new() -> Self {
        People {
            limits: Mutex::default(),
            hashing: Semaphore::new(1),
            nobody: OnceLock::new(),
            beginning: Mutex::default(),
        }
    }

    fn limits(&self) -> std::sync::MutexGuard<'_, Limits> {
        locked(&self.limits)
    }

    /// Whether this is the user's password; gives the user who has it.
    pub(crate) async fn check(
        &self,
        store: &Store,
        from: &str,
        name: &str,
        password: &str,
        now: Millis,
    ) -> Result<User, Refused> {
        self.limits().may_try(from, name, now).map_err(Refused::TooOften)?;
        // One at a time, and asked again then: many tries at once are counted one after the other.
        let turn = self.hashing.acquire().await.expect("the semaphore is never closed");
        self.limits().may_try(from, name, now).map_err(Refused::TooOften)?;
        let user = user(store, name)?;
        let hash = user.as_ref().map_or_else(
            || self.nobody.get_or_init(|| hash(&secret()).expect("a hash of random digits")).clone(),
            |user| user.hash.clone(),
        );
        let password = password.get(..LONGEST).unwrap_or(password).to_owned();
        let right = beside(move || {
            PasswordHash::new(&hash)
                .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
        });
        let right = right.await;
        drop(turn);
        match user.filter(|_| right) {
            Some(user) => Ok(user),
            None => {
                self.limits().failed(from, name, now);
                wrong("the name or the password is wrong")
            }
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
        commit_user(store, name, |old| {
            let (role, since) = match &old {
                Some(old) => (change.role.or(old.role), old.since),
                None => (Some(change.role.unwrap_or(Role::Viewer)), now),
            };
            let Some(hash) = hashed.clone().or_else(|| old.map(|old| old.hash)) else {
                return wrong("a new user needs a password");
            };
            let mut writes = if hashed.is_some() { ends_of_sessions(store, name)? } else { Vec::new() };
            writes.push(put::<Users>(&name.to_owned(), &User { hash, role, since }));
            Ok(writes)
        })?;
        Ok(())
    }

    pub(crate) fn users(&self, store: &Store) -> Result<Readable<UserStatus>, Error> {
        let told = |(name, user): (String, User)| {
            let role = user.role.unwrap_or(Role::Viewer);
            UserStatus { name, role, since: user.since }
        };
        Ok(Readable::from(store.blocking().read_all::<Users>()?).map(told))
    }

    /// Makes a token; its secret is told once.
    pub(crate) fn add_token(&self, store: &Store, new: &NewToken, now: Millis) -> Result<String, Refused> {
        check_name(&new.name)?;
        if new.days == Some(0) {
            return wrong("`days`: expected at least 1; a token without `days` is good until it is removed");
        }
        if store.blocking().read_all::<Tokens>()?.readable.values().any(|token| token.name == new.name) {
            return wrong(format!("there is a token `{}` already", new.name));
        }
        let token = secret();
        let until = new.days.map(|days| now + u64::from(days) * DAY);
        let token_kept = Token { name: new.name.clone(), role: new.role, since: now, until };
        store.blocking().update::<Tokens, ()>(&kept(&token), |kept| *kept = Some(token_kept.clone()))?;
        Ok(token)
    }

    pub(crate) fn tokens(&self, store: &Store) -> Result<Readable<TokenStatus>, Error> {
        let told = |(_, Token { name, role, since, until })| TokenStatus { name, role, since, until };
        Ok(Readable::from(store.blocking().read_all::<Tokens>()?).map(told))
    }
}

#[cfg(test)]
mod tests {
    use super::super::sessions::{self, By, Sessions};
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(&folder.path().join("head.redb"), 1).expect("opens");
        (folder, store)
    }

    fn change(password: Option<&str>, role: Option<Role>) -> UserChange {
        UserChange { password: password.map(str::to_owned), role }
    }

    fn of_session(store: &Store, token: &str, now: Millis) -> Option<Holder> {
        sessions::holder(store, &kept(token), None, now)
    }

    /// Ann, as one who checks her password finds her.
    fn checked(store: &Store) -> By {
        By::Password(user(store, "ann").expect("read").expect("there"))
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
        let (token, _) = people.begin(&store, ("ann", "here"), &checked(&store), 1000, 0).expect("begun");
        assert!(of_session(&store, &token, 999).is_some_and(|known| known.role == Role::Operator));
        assert!(of_session(&store, &token, 1000).is_none(), "its time is over");
        assert!(of_session(&store, &kept(&token), 0).is_none(), "what the store has opens nothing");
        people.change_user(&store, "ann", change(None, Some(Role::Viewer)), 0).await.expect("changed");
        assert!(of_session(&store, &token, 1).is_some_and(|known| known.role == Role::Viewer));
        people.change_user(&store, "ann", change(Some("battery staple"), None), 0).await.expect("changed");
        assert!(of_session(&store, &token, 1).is_none(), "a new password");
        let (token, _) = people.begin(&store, ("ann", "here"), &checked(&store), 1000, 0).expect("begun");
        remove_user(&store, "ann").expect("removed");
        assert!(of_session(&store, &token, 1).is_none(), "the user is gone");
    }

    /// The old one was right when it was checked, which takes a while.
    #[tokio::test]
    async fn nobody_gets_in_with_a_password_that_was_changed_meanwhile() {
        let (_folder, store) = store();
        let people = People::new();
        people.change_user(&store, "ann", change(Some("correct horse"), None), 0).await.expect("made");
        let right = By::Password(people.check(&store, "here", "ann", "correct horse", 1).await.expect("right"));
        people.change_user(&store, "ann", change(Some("battery staple"), None), 2).await.expect("changed");
        assert!(matches!(people.begin(&store, ("ann", "here"), &right, 1000, 3), Err(Refused::Wrong(_))));
        remove_user(&store, "ann").expect("removed");
        assert!(matches!(people.begin(&store, ("ann", "here"), &right, 1000, 3), Err(Refused::Wrong(_))));
        assert!(store.blocking().read_all::<Sessions>().expect("read").readable.is_empty());
    }

    /// They are looked for before the commit that ends them.
    #[tokio::test]
    async fn whoever_ends_all_sessions_hears_of_one_that_begins_meanwhile() {
        let (_folder, store) = store();
        let people = People::new();
        people.change_user(&store, "ann", change(Some("correct horse"), None), 0).await.expect("made");
        let (right, turn) = (checked(&store), std::cell::Cell::new(0));
        commit_user::<StoreError>(&store, "ann", |_| {
            let ends = ends_of_sessions(&store, "ann")?;
            if turn.replace(turn.get() + 1) == 0 {
                people.begin(&store, ("ann", "here"), &right, 1000, 1).expect("begun");
            }
            Ok(ends)
        })
        .expect("ended");
        assert_eq!(turn.get(), 2);
        assert!(store.blocking().read_all::<Sessions>().expect("read").readable.is_empty());
    }

    #[test]
    fn a_token_is_good_until_its_day() {
        let (_folder, store) = store();
        let people = People::new();
        let new = NewToken { name: "ci".into(), role: Role::Viewer, days: Some(1) };
        let never = NewToken { name: "never".into(), days: Some(0), ..new.clone() };
        assert!(
            people.add_token(&store, &never, 0).is_err_and(|refused| format!("{refused:?}").contains("at least 1"))
        );
        let token = people.add_token(&store, &new, 0).expect("made");
        assert!(people.add_token(&store, &new, 0).is_err(), "twice");
        assert!(holder(&store, &kept(&token), DAY - 1).is_some_and(|known| known.name == "token ci"));
        assert!(holder(&store, &kept(&token), DAY).is_none());
        remove_token(&store, "ci").expect("removed");
        assert!(holder(&store, &kept(&token), 1).is_none());
    }
}
