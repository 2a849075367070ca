//! What a head answers that has no snapshot yet: the repository with which it was begun has not come.

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use bramble_model::repository::Source;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::api::desired;
use crate::control;
use crate::gate::Gate;
use crate::http;
use crate::loops::source::Following;
use crate::refusal::{Refusal, refuse};

const HELP: &str = "the head tries again by itself; `bramble source key` prints the key that a private repository's \
                    server has to know, `bramble source forget-host` forgets a server's old key, and, where the head \
                    has been stopped, `bramble source set` names another repository";

/// A head on its control socket, until it has a snapshot.
pub(crate) struct Beginning {
    why: watch::Sender<String>,
    over: CancellationToken,
    serving: tokio::task::JoinHandle<http::Part>,
}

/// Connections at the control socket before there is a snapshot.
const MOST: usize = 64;

impl Beginning {
    /// Serves it, of a head that was begun with this repository, beside the store in this folder.
    pub(crate) fn serve(state: &Path, following: &Arc<Following>, source: &Source) -> Self {
        let (why, reads) = watch::channel("it is being fetched".to_owned());
        let (keys, hosts) = ((Arc::clone(following), source.clone()), (Arc::clone(following), source.clone()));
        let over = CancellationToken::new();
        let routes = Router::new()
            .route("/v1/source/key", get(move || desired::key_towards(keys.0.clone(), Some(keys.1.clone()))))
            .route("/v1/source/forget-host", post(move || desired::forget_of(hosts.0.clone(), hosts.1.clone())))
            .fallback(none_yet)
            .with_state(reads);
        let serving = tokio::spawn(control::serve(routes, state, None, Gate::new(MOST, MOST), over.clone()));
        Beginning { why, over, serving }
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
