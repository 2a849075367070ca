//! Whether someone who was let in still is: what runs in a name ends as soon as the name is worth less than it needs.
//!
//! ```text
//!  a page's stream, an errand, a question that waits ─▶ standing
//!     standing ── users, sessions, tokens, the snapshot's [access] changed · its time is over ─▶ looked at again
//!        ├── it still gives what is needed ─▶ standing
//!        └── gone, or less ───────────────────▶ ended, in the same moment
//! ```

use std::future::{Future, pending};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use bramble_model::api::Role;
use bramble_store::Record as _;
use bramble_system::now;
use futures_util::StreamExt as _;

use super::Access;
use super::door::{Actor, Credential};
use super::people::{self, Tokens, Users};
use super::sessions::{self, Holder, Sessions};
use crate::refusal::refuse;

/// What is said of something that was ended by this.
pub(crate) const LOST: &str = "the right to it was taken away";

impl Access {
    /// Who this credential belongs to now, and what it lets do; `None` where it lets do nothing any more.
    pub(super) fn holder(&self, credential: &Credential) -> Option<Holder> {
        let holder = |name: &str, role| Holder { name: name.into(), role, csrf: String::new(), until: None };
        match credential {
            // Whoever has the socket's folder was asked by the kernel when the connection was made.
            Credential::Owner => Some(holder("the owner of the head", Role::Operator)),
            Credential::Token(key) => people::holder(&self.store, key, now()),
            Credential::Session(key) => sessions::holder(&self.store, key, self.oidc().as_ref(), now()),
            Credential::Nothing => self.snapshots.cluster().access.public.then(|| holder("anyone", Role::Viewer)),
        }
    }

    /// Ends when what this person shows does not give the role any more that is needed.
    pub(crate) fn lost(self: &Arc<Self>, actor: &Actor, needs: Role) -> impl Future<Output = ()> + Send + use<> {
        let (access, credential) = (Arc::clone(self), actor.credential.clone());
        async move {
            if credential == Credential::Owner {
                return pending().await;
            }
            let mut users = access.store.watch(Users::TABLE);
            let mut sessions = access.store.watch(Sessions::TABLE);
            let mut tokens = access.store.watch(Tokens::TABLE);
            let mut snapshot = access.snapshots.subscribe();
            // What changes from here on is heard of; what changed before is seen.
            while let Some(holder) = access.holder(&credential).filter(|holder| holder.role >= needs) {
                let over = async {
                    match holder.until {
                        Some(until) => tokio::time::sleep(Duration::from_millis(until.saturating_sub(now()) + 1)).await,
                        None => pending().await,
                    }
                };
                let changed = tokio::select! {
                    changed = users.changed() => changed,
                    changed = sessions.changed() => changed,
                    changed = tokens.changed() => changed,
                    changed = snapshot.changed() => changed,
                    () = over => Ok(()),
                };
                if changed.is_err() {
                    // The head ends, and all streams with it.
                    return;
                }
            }
        }
    }

    /// The answer to someone, for as long as the role stands that it needs: also one that goes on, or is waited for.
    pub(super) async fn while_standing(
        self: &Arc<Self>,
        actor: &Actor,
        needs: Role,
        answer: impl Future<Output = Response>,
    ) -> Response {
        let mut lost = Box::pin(self.lost(actor, needs));
        let response = tokio::select! {
            biased;
            response = answer => response,
            () = &mut lost => return refuse(StatusCode::UNAUTHORIZED, LOST, Some("log in again")).into_response(),
        };
        // What is there as a whole is on its way.
        if response.body().size_hint().exact().is_some() {
            return response;
        }
        let (parts, body) = response.into_parts();
        Response::from_parts(parts, Body::from_stream(body.into_data_stream().take_until(lost)))
    }
}
