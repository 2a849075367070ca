//! What the API answers where it does not do what was asked.

use axum::Json;
use axum::http::StatusCode;
use bramble_model::api::Problem;

use crate::error::Error;

pub(crate) type Refusal = (StatusCode, Json<Problem>);

pub(crate) fn refuse(status: StatusCode, error: impl Into<String>, help: Option<&str>) -> Refusal {
    (status, Json(Problem { error: error.into(), help: help.map(str::to_owned) }))
}

/// Of something that the head itself could not do.
pub(crate) fn failed(error: Error) -> Refusal {
    refuse(StatusCode::INTERNAL_SERVER_ERROR, bramble_system::sentence(&error), error.help())
}
