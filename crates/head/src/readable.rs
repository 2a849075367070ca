//! What can be read of what is kept.

use axum::Json;
use axum::response::{IntoResponse, Response};
use bramble_model::api::LACKS;
use bramble_store::{All, Record};
use serde::Serialize;

/// What can be read of a kind of records, and how many more there are: no answer says that there are none.
#[derive(Debug)]
pub(crate) struct Readable<T> {
    pub(crate) all: Vec<T>,
    pub(crate) lacks: usize,
}

impl<R: Record> From<All<R>> for Readable<(R::Key, R::Value)> {
    fn from(all: All<R>) -> Self {
        Readable { lacks: all.unreadable.len(), all: all.readable.into_iter().collect() }
    }
}

impl<T> Readable<T> {
    /// The same, each of them in other words.
    pub(crate) fn map<U>(self, told: impl FnMut(T) -> U) -> Readable<U> {
        Readable { all: self.all.into_iter().map(told).collect(), lacks: self.lacks }
    }
}

impl<T: Serialize> IntoResponse for Readable<T> {
    fn into_response(self) -> Response {
        let mut response = Json(self.all).into_response();
        if self.lacks > 0 {
            response.headers_mut().insert(LACKS, self.lacks.into());
        }
        response
    }
}
