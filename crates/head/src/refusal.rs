//! What the API answers where it does not do what was asked.

use axum::Json;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use bramble_model::api::Problem;
use serde::de::DeserializeOwned;

use crate::error::Error;

pub(crate) type Refusal = (StatusCode, Json<Problem>);

pub(crate) fn refuse(status: StatusCode, error: impl Into<String>, help: Option<&str>) -> Refusal {
    (status, Json(Problem { error: error.into(), help: help.map(str::to_owned) }))
}

/// Of something that the head itself could not do.
pub(crate) fn failed(error: Error) -> Refusal {
    refuse(StatusCode::INTERNAL_SERVER_ERROR, bramble_system::sentence(&error), error.help())
}

/// What a request's body says, as JSON. A body that is none is refused as all else is.
pub(crate) struct Asked<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Asked<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let method = request.method().clone();
        match Json::<T>::from_request(request, state).await {
            Ok(Json(asked)) => Ok(Asked(asked)),
            Err(wrong) => {
                let error = format!("the body of the {method} cannot be read: {}", wrong.body_text());
                Err(refuse(wrong.status(), error, Some("`GET /v1/openapi.json` says what belongs in it")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use bramble_model::api::PowerAction;

    use super::*;

    async fn asked(kind: &str, body: &str) -> Refusal {
        let request = Request::post("/v1/nodes/w1/power").header("content-type", kind);
        let request = request.body(Body::from(body.to_owned())).expect("a request");
        Asked::<PowerAction>::from_request(request, &()).await.map(|_| ()).expect_err("refused")
    }

    #[tokio::test]
    async fn a_body_that_is_not_what_is_asked_for_is_refused_as_all_else_is() {
        let json = "application/json";
        for (kind, body, status) in [
            (json, "{", StatusCode::BAD_REQUEST),
            (json, "\"sideways\"", StatusCode::UNPROCESSABLE_ENTITY),
            ("text/plain", "\"on\"", StatusCode::UNSUPPORTED_MEDIA_TYPE),
        ] {
            let (told, Json(problem)) = asked(kind, body).await;
            assert_eq!(told, status, "{body}");
            assert!(problem.error.contains("the body of the POST") && problem.help.is_some(), "{problem:?}");
        }
    }
}
