//! The bodies of requests, in time: one that is never finished holds its connection for a while and not for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures_util::StreamExt as _;
use tokio::time::{Instant, timeout_at};

use crate::refusal::refuse;

/// How long a short body may take in all, and a long one between two of its pieces.
const PATIENCE: Duration = Duration::from_secs(30);

/// What has to come of a long body in that time, in bytes.
const LEAST: usize = 64 << 10;

/// How a body may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// All of it within [`PATIENCE`].
    Whole,
    /// As long as it takes, where at least [`LEAST`] comes within [`PATIENCE`]: a file of gigabytes over a slow line.
    GoesOn,
}

/// Waits for the request's body no longer than its pace says, and answers for whoever reads it when it is late.
pub(crate) async fn in_time(State(pace): State<Pace>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    if body.is_end_stream() {
        return next.run(Request::from_parts(parts, body)).await;
    }
    let is_late = Arc::new(AtomicBool::new(false));
    let start = (body.into_data_stream(), Instant::now() + PATIENCE, 0, Arc::clone(&is_late));
    let pieces = futures_util::stream::unfold(start, move |(mut pieces, mut until, mut so_far, is_late)| async move {
        if pace == Pace::GoesOn && so_far >= LEAST {
            (until, so_far) = (Instant::now() + PATIENCE, 0);
        }
        let piece = match timeout_at(until, pieces.next()).await {
            Ok(piece) => piece?,
            Err(late) => {
                is_late.store(true, Ordering::Relaxed);
                Err(axum::Error::new(late))
            }
        };
        so_far += piece.as_ref().map_or(0, |piece| piece.len());
        Some((piece, (pieces, until, so_far, is_late)))
    });
    let response = next.run(Request::from_parts(parts, Body::from_stream(pieces))).await;
    if !is_late.load(Ordering::Relaxed) {
        return response;
    }
    let error = match pace {
        Pace::Whole => format!("the request's body did not come within {} s", PATIENCE.as_secs()),
        Pace::GoesOn => {
            format!("less than {} KB of the request's body came within {} s", LEAST >> 10, PATIENCE.as_secs())
        }
    };
    refuse(StatusCode::REQUEST_TIMEOUT, error, Some("nothing was done: send it again, whole")).into_response()
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::middleware::from_fn_with_state;
    use axum::routing::post;
    use bramble_model::api::Problem;
    use futures_util::stream;
    use tower_service::Service as _;

    use super::*;
    use crate::refusal::Asked;

    const SECOND: Duration = Duration::from_secs(1);

    /// What is answered to a JSON text that comes in pieces, with so long before each, and perhaps never ends.
    async fn answered(pace: Pace, pause: Duration, ends: bool) -> (StatusCode, String) {
        answered_to(["[1,", "2,", "3", "]"].map(str::to_owned), pace, pause, ends).await
    }

    async fn answered_to(pieces: [String; 4], pace: Pace, pause: Duration, ends: bool) -> (StatusCode, String) {
        let pieces = stream::iter(pieces).then(move |piece| async move {
            tokio::time::sleep(pause).await;
            Ok::<_, std::convert::Infallible>(piece)
        });
        let rest = stream::iter((!ends).then_some(())).then(|()| std::future::pending());
        let route = post(async |Asked(numbers): Asked<Vec<u32>>| numbers.len().to_string());
        let mut router = Router::new().route("/", route.layer(from_fn_with_state(pace, in_time)));
        let request = Request::post("/").header("content-type", "application/json");
        let request = request.body(Body::from_stream(pieces.chain(rest))).expect("a request");
        let response = router.call(request).await.expect("an answer");
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), 1000).await.expect("whole");
        (status, String::from_utf8(body.into()).expect("text"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_waited_for_no_longer() {
        for pace in [Pace::Whole, Pace::GoesOn] {
            let (status, body) = answered(pace, SECOND, false).await;
            assert_eq!(status, StatusCode::REQUEST_TIMEOUT, "{body}");
            let problem: Problem = serde_json::from_str(&body).expect("the API's error");
            assert!(problem.error.contains("30 s") && problem.help.is_some(), "{problem:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_goes_on_may_take_longer_where_it_may_be_long() {
        let long = ["[1,", "2,", "3", "]"].map(|piece| format!("{piece}{}", " ".repeat(LEAST)));
        let answer = answered_to(long.clone(), Pace::GoesOn, 20 * SECOND, true).await;
        assert_eq!(answer, (StatusCode::OK, "3".into()));
        assert_eq!(answered_to(long, Pace::GoesOn, 40 * SECOND, true).await.0, StatusCode::REQUEST_TIMEOUT);
        assert_eq!(
            answered(Pace::GoesOn, 20 * SECOND, true).await.0,
            StatusCode::REQUEST_TIMEOUT,
            "a few bytes now and then hold it for ever"
        );
        assert_eq!(answered(Pace::Whole, 20 * SECOND, true).await.0, StatusCode::REQUEST_TIMEOUT);
        assert_eq!(answered(Pace::Whole, SECOND, true).await, (StatusCode::OK, "3".into()));
    }
}
