//! What a head answers that has no snapshot yet: the repository with which it was begun has not come.

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::api::desired;
use crate::error::Error;
use crate::http;
use crate::loops::source::Following;
use crate::refusal::{Refusal, refuse};

const HELP: &str = "the head tries again by itself; `bramble source key` prints the key that a private repository's \
                    server has to know, and `bramble source set` names another one to a head that does not run";

/// A head on its control socket, until it has a snapshot.
pub(crate) struct Beginning {
    why: watch::Sender<String>,
    over: CancellationToken,
    serving: tokio::task::JoinHandle<http::Part>,
}

impl Beginning {
    /// Serves it, beside the store in this folder.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub(crate) fn serve(state: &Path, following: &Arc<Following>) -> Result<Self, Error> {
        let (why, reads) = watch::channel("it is being fetched".to_owned());
        let over = CancellationToken::new();
        let routes = Router::new()
            .route("/v1/source/key", get(desired::own_key).with_state(Arc::clone(following)))
            .fallback(none_yet)
            .with_state(reads);
        let serving = tokio::spawn(http::control(routes, &state.join("head.sock"), over.clone())?);
        Ok(Beginning { why, over, serving })
    }

    /// Why the snapshot has not come, from now on.
    pub(crate) fn waits(&self, why: String) {
        self.why.send_replace(why);
    }

    /// Gives the socket up, for one with all routes.
    pub(crate) async fn end(self) {
        self.over.cancel();
        // It ends with nothing that could be told, and what there is to be told of it has been logged.
        let _ = self.serving.await;
    }
}

async fn none_yet(State(why): State<watch::Receiver<String>>) -> Refusal {
    let why = why.borrow().clone();
    refuse(StatusCode::SERVICE_UNAVAILABLE, format!("the head has no snapshot of a repository yet: {why}"), Some(HELP))
}
