//! What the API answers where it does not do what was asked.

use std::borrow::Borrow;

use axum::Json;
use axum::body::Bytes;
use axum::extract::path::ErrorKind;
use axum::extract::rejection::PathRejection;
use axum::extract::{self, FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use bramble_model::api::Problem;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::error::Category;

use crate::error::Error;

pub(crate) type Refusal = (StatusCode, Json<Problem>);

pub(crate) fn refuse(status: StatusCode, error: impl Into<String>, help: Option<&str>) -> Refusal {
    (status, Json(Problem { error: error.into(), help: help.map(str::to_owned), unfit: false }))
}

/// Of a repository that has errors.
pub(crate) fn unfit(error: impl Into<String>, help: Option<&str>) -> Refusal {
    let (status, Json(problem)) = refuse(StatusCode::UNPROCESSABLE_ENTITY, error, help);
    (status, Json(Problem { unfit: true, ..problem }))
}

/// Of something that the head itself could not do.
pub(crate) fn failed(error: impl Borrow<Error>) -> Refusal {
    let error = error.borrow();
    let lasts = !error.is_not_lasting();
    let status = if lasts { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::INSUFFICIENT_STORAGE };
    refuse(status, bramble_system::sentence(error), error.help())
}

/// Where it is said what a request is made of.
const DESCRIBED: &str = "`GET /v1/openapi.json` says what belongs in it";

/// What a request's body says, as JSON. A body that is none is refused as all else is.
pub(crate) struct Asked<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Asked<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let what = format!("the body of the {}", request.method());
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if kind.split(';').next().is_none_or(|kind| !kind.trim().eq_ignore_ascii_case("application/json")) {
            let error = format!("{what} is not said to be JSON");
            let help = "send the header `Content-Type: application/json`";
            return Err(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, error, Some(help)));
        }
        let body = Bytes::from_request(request, state).await.map_err(|wrong| match wrong.status() {
            StatusCode::PAYLOAD_TOO_LARGE => refuse(wrong.status(), format!("{what} is too long"), Some(DESCRIBED)),
            status => refuse(status, format!("{what} broke off"), Some("send it again, whole")),
        })?;
        let mut text = serde_json::Deserializer::from_slice(&body);
        let read =
            serde_path_to_error::deserialize(&mut text).map_err(|wrong| (wrong.path().to_string(), wrong.into_inner()));
        let read = read.and_then(|asked| text.end().map(|()| asked).map_err(|wrong| (String::new(), wrong)));
        read.map(Asked).map_err(|(key, wrong)| {
            let (line, column) = (wrong.line(), wrong.column());
            // A word is asked for, and something else is there: to serde_json that is an error of syntax.
            let is_json = || serde_json::from_slice::<IgnoredAny>(&body).is_ok();
            match wrong.classify() {
                Category::Syntax if is_json() => {
                    let word = wrong.to_string().starts_with("expected value");
                    let message = if word { "invalid value: another, expected a string" } else { "it cannot be read" };
                    let error = format!("{what}: {}", misread(&key, message));
                    refuse(StatusCode::UNPROCESSABLE_ENTITY, error, Some(DESCRIBED))
                }
                Category::Data => {
                    let message = wrong.to_string();
                    let message = message.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&message);
                    let error = format!("{what}: {}", misread(&key, message));
                    refuse(StatusCode::UNPROCESSABLE_ENTITY, error, Some(DESCRIBED))
                }
                Category::Eof => refuse(StatusCode::BAD_REQUEST, format!("{what} ends in the middle"), Some(DESCRIBED)),
                Category::Syntax | Category::Io => {
                    let error = format!("{what} is no JSON: line {line}, column {column}");
                    refuse(StatusCode::BAD_REQUEST, error, Some(DESCRIBED))
                }
            }
        })
    }
}

/// What a request's path names. What cannot be read is refused as all else is.
pub(crate) struct Path<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path = parts.uri.path().to_owned();
        extract::Path::from_request_parts(parts, state).await.map(|extract::Path(named)| Path(named)).map_err(|wrong| {
            let reason = match &wrong {
                PathRejection::FailedToDeserializePathParams(wrong) => match wrong.kind() {
                    ErrorKind::Message(message) | ErrorKind::DeserializeError { message, .. } => misread("", message),
                    _ => "a name in it is not written in UTF-8".into(),
                },
                _ => "it names nothing".into(),
            };
            let help = "`GET /v1/openapi.json` says what paths there are";
            refuse(wrong.status(), format!("the path {path}: {reason}"), Some(help))
        })
    }
}

/// What a request asks for behind its path. What cannot be read is refused as all else is.
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        extract::Query::try_from_uri(&parts.uri).map(|extract::Query(asked)| Query(asked)).map_err(|wrong| {
            let query = parts.uri.query().unwrap_or_default();
            refuse(wrong.status(), format!("`?{query}` cannot be read"), Some(DESCRIBED))
        })
    }
}

/// Says in our words what serde says of the value at this key, where it is one of its own sentences (serde 1,
/// `de::Error`): any other is ours already.
fn misread(key: &str, message: &str) -> String {
    let of = |name: &str| if matches!(key, "" | ".") { format!("`{name}`") } else { format!("`{key}.{name}`") };
    let at = if matches!(key, "" | ".") { String::new() } else { format!("`{key}`: ") };
    let quoted = |rest: &str| rest.split('`').next().unwrap_or_default().to_owned();
    if let Some(name) = message.strip_prefix("missing field `") {
        return format!("{} is missing", of(&quoted(name)));
    }
    if let Some(name) = message.strip_prefix("duplicate field `") {
        return format!("{} is written twice", of(&quoted(name)));
    }
    let wrong = message.split_once(", expected ");
    if let Some(name) = message.strip_prefix("unknown field `") {
        // serde's path names the key itself.
        let known = wrong.map_or("none is known there", |(_, known)| known.trim_start_matches("one of "));
        return format!("unknown key `{}`; known are {known}", quoted(name));
    }
    if let Some(name) = message.strip_prefix("unknown variant `") {
        let known = wrong.map_or("nothing", |(_, known)| known);
        return format!("{at}expected {known}, and it is `{}`", quoted(name));
    }
    let is = |found: &str| match found.split([' ', ',']).next().unwrap_or_default() {
        "string" | "character" => "a text",
        "integer" | "floating" => "a number",
        "boolean" => "true or false",
        "null" | "unit" => "null",
        "sequence" => "a list",
        "map" => "an object",
        _ => "something else",
    };
    let expected = |words: &str| match words.split(' ').next().unwrap_or_default() {
        "struct" | "map" | "internally" | "adjacently" => "an object",
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, not negative and not too large",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number that is not too large",
        "a" if words.starts_with("a string") => "a text",
        "a" if words.starts_with("a sequence") => "a list",
        "a" if words.starts_with("a map") => "an object",
        "a" if words.starts_with("a boolean") => "true or false",
        _ => "something else",
    };
    match (message.strip_prefix("invalid type: "), message.strip_prefix("invalid value: "), wrong) {
        (Some(found), _, Some((_, words))) => format!("{at}expected {}, and it is {}", expected(words), is(found)),
        (_, Some(_), Some((_, words))) => format!("{at}expected {}", expected(words)),
        _ if message.starts_with("invalid length") => format!("{at}expected an object"),
        _ if message.starts_with("data did not match any variant") => format!("{at}it is of no kind that is known"),
        _ => format!("{at}{message}"),
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::routing::put;
    use bramble_model::api::{NewToken, PowerAction, UserChange};
    use bramble_model::boot_set::Architecture;
    use bramble_model::desired::{Apply, Contents, Offer};
    use bramble_model::names::Digest;
    use bramble_model::subject::Subject;
    use tower_service::Service as _;

    use super::*;

    async fn asked<T: DeserializeOwned>(kind: &str, body: &str) -> Refusal {
        let request = Request::post("/v1/nodes/w1/power").header("content-type", kind);
        let request = request.body(Body::from(body.to_owned())).expect("a request");
        Asked::<T>::from_request(request, &()).await.map(|_| ()).expect_err(body)
    }

    #[tokio::test]
    async fn a_body_that_is_not_what_is_asked_for_is_refused_as_all_else_is() {
        let json = "application/json";
        for (kind, body, status) in [
            (json, "{", StatusCode::BAD_REQUEST),
            (json, "[\"on\" 1]", StatusCode::BAD_REQUEST),
            (json, "\"on\" \"off\"", StatusCode::BAD_REQUEST),
            (json, "\"sideways\"", StatusCode::UNPROCESSABLE_ENTITY),
            (json, "3", StatusCode::UNPROCESSABLE_ENTITY),
            ("text/plain", "\"on\"", StatusCode::UNSUPPORTED_MEDIA_TYPE),
        ] {
            let (told, Json(problem)) = asked::<PowerAction>(kind, body).await;
            assert_eq!(told, status, "{body}");
            assert!(problem.error.contains("the body of the POST") && problem.help.is_some(), "{problem:?}");
        }
    }

    #[tokio::test]
    async fn what_is_wrong_in_a_body_is_said_by_the_key_and_what_is_expected() {
        async fn told<T: DeserializeOwned>(body: &str) -> String {
            let (_, Json(problem)) = asked::<T>("application/json", body).await;
            format!("{body}\n  {}\n", problem.error)
        }
        let told = [
            told::<NewToken>("{").await,
            told::<NewToken>("[").await,
            told::<NewToken>("[]").await,
            told::<NewToken>("\"ci\"").await,
            told::<NewToken>("null").await,
            told::<NewToken>("{}").await,
            told::<NewToken>("{\"name\": 3}").await,
            told::<NewToken>("{\"name\": \"ci\", \"name\": \"ci\"}").await,
            told::<NewToken>("{\"name\": \"ci\", \"role\": \"root\"}").await,
            told::<NewToken>("{\"name\": \"ci\", \"role\": null}").await,
            told::<NewToken>("{\"name\": \"ci\", \"role\": \"viewer\", \"days\": -1}").await,
            told::<NewToken>("{\"name\": \"ci\", \"role\": \"viewer\", \"days\": \"long\"}").await,
            told::<NewToken>("{\"name\": \"ci\" \"role\"}").await,
            told::<UserChange>("{\"password\": true}").await,
            told::<PowerAction>("\"sideways\"").await,
            told::<PowerAction>("{}").await,
            told::<PowerAction>("3").await,
            told::<Subject>("{}").await,
            told::<Subject>("\"w1\"").await,
            told::<Subject>("{\"kind\": \"cloud\"}").await,
            told::<Subject>("{\"kind\": \"node\"}").await,
            told::<Subject>("{\"kind\": \"node\", \"name\": \"W 1\"}").await,
            told::<Digest>("\"ab\"").await,
            told::<Digest>("{}").await,
            told::<Apply>("{\"expects\": \"ab\"}").await,
            told::<Apply>("{\"rollback\": \"yes\"}").await,
            told::<Contents>("{\"contents\": \"ab\"}").await,
            told::<Contents>("{\"contents\": [\"aGk=\", 1.5]}").await,
            told::<Contents>("{\"contents\": [\"?\"]}").await,
            told::<Offer>("{\"snapshot\": {\"entries\": 3}}").await,
        ]
        .concat();
        for word in ["struct", "invalid", "field", "variant", "enum", "sequence", "u32", "something else"] {
            assert!(!told.contains(word), "{word}: {told}");
        }
        insta::assert_snapshot!(told);
    }

    #[tokio::test]
    async fn a_path_and_a_query_that_cannot_be_read_are_refused_as_all_else_is() {
        async fn read(_: Path<Digest>) {}
        async fn named(_: Path<Architecture>, _: Query<std::collections::BTreeMap<String, u64>>) {}
        let mut router = Router::new().route("/contents/{digest}", put(read)).route("/sets/{set}", put(named));
        let mut told = String::new();
        for path in ["/contents/ab", "/contents/%ff", "/sets/sparc", "/sets/amd64?last=ten"] {
            let request = Request::put(path).body(Body::empty()).expect("a request");
            let response = router.call(request).await.expect("an answer");
            assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{path}");
            let body = axum::body::to_bytes(response.into_body(), 1000).await.expect("whole");
            let problem: Problem = serde_json::from_slice(&body).expect("the API's error");
            assert!(problem.help.is_some(), "{problem:?}");
            told += &format!("{}\n", problem.error);
        }
        insta::assert_snapshot!(told);
    }
}
