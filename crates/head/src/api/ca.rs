//! The CA, and its rotation.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use bramble_model::ca::{CaFinish, CaStatus, ROOTS, ROOTS_SIGNATURE};

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
    Asked(meant): Asked<CaFinish>,
) -> Result<StatusCode, Refusal> {
    match beside(move || rotating.finish(&meant)).await {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(NotFinished::None) => {
            let help = "`bramble ca rotate` begins one";
            Err(refuse(StatusCode::CONFLICT, "the CA is not being rotated", Some(help)))
        }
        Err(NotFinished::Other(next)) => {
            let error = format!("the CA that takes the first one's place is {next}, and another one was meant");
            Err(refuse(StatusCode::CONFLICT, error, Some("`bramble ca show` says what would be lost with it")))
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
    let told = authority.told();
    let roots: Vec<String> = told.fingerprints.iter().map(ToString::to_string).collect();
    let roots = HeaderValue::try_from(roots.join(",")).expect("hexadecimal digits and commas");
    let signature = HeaderValue::try_from(told.signature).expect("hexadecimal digits");
    response.headers_mut().insert(ROOTS, roots);
    response.headers_mut().insert(ROOTS_SIGNATURE, signature);
    response
}
