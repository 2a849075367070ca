//! The CA, and its rotation.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use bramble_model::ca::{CaFinish, CaStatus, ROOTS};

use crate::ca::Authority;
use crate::refusal::{Asked, Refusal, failed, refuse};
use crate::rotation::{NotFinished, Rotating};
use crate::store::beside;

/// `GET /v1/ca`: which CAs are trusted, and how far a rotation is.
pub(crate) async fn status(State(rotating): State<Arc<Rotating>>) -> Result<Json<CaStatus>, Refusal> {
    let known = rotating.status().await;
    known.map(Json).map_err(|unknown| refuse(StatusCode::INTERNAL_SERVER_ERROR, unknown.0, None))
}

/// `POST /v1/ca/rotate`: the next CA is trusted beside the first.
pub(crate) async fn rotate(State(rotating): State<Arc<Rotating>>) -> Result<StatusCode, Refusal> {
    beside(move || rotating.begin()).await.map_err(failed)?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/ca/finish`: the next CA takes the first one's place.
pub(crate) async fn finish(
    State(rotating): State<Arc<Rotating>>,
    Asked(CaFinish { regardless }): Asked<CaFinish>,
) -> Result<StatusCode, Refusal> {
    match beside(move || rotating.finish(regardless)).await {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(NotFinished::None) => {
            let help = "`bramble ca rotate` begins one";
            Err(refuse(StatusCode::CONFLICT, "the CA is not being rotated", Some(help)))
        }
        Err(NotFinished::Loses(lost)) => {
            let lost: Vec<String> = lost.iter().map(|loss| format!("{}: {}", loss.subject, loss.reason)).collect();
            let help =
                "`bramble ca show` says what mends each; `bramble ca rotate --finish --yes` goes on without them";
            Err(refuse(StatusCode::CONFLICT, lost.join("; "), Some(help)))
        }
        Err(NotFinished::Unknown(unknown)) => Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, unknown.0, None)),
        Err(NotFinished::Head(error)) => Err(failed(error)),
    }
}

/// Names the CAs in what is answered over TLS: command lines move over by that.
pub(crate) async fn named(State(authority): State<Arc<Authority>>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let roots: Vec<String> = authority.roots().iter().map(|root| root.fingerprint.to_string()).collect();
    let roots = HeaderValue::try_from(roots.join(",")).expect("hexadecimal digits and commas");
    response.headers_mut().insert(ROOTS, roots);
    response
}
