//! The head's plain HTTP, for what has to be said before there is a certificate.

use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::ThisBoot;

const LIMIT: Duration = Duration::from_secs(10);
const LONGEST: usize = 64 << 10;

/// Asks the head.
///
/// # Errors
/// Why there is no good answer.
pub(crate) async fn get(boot: &ThisBoot, path: &str) -> Result<Bytes, String> {
    exchange(boot, Method::GET, path, Bytes::new()).await
}

/// Tells the head.
///
/// # Errors
/// Why it was not taken.
pub(crate) async fn post(boot: &ThisBoot, path: &str, body: &[u8]) -> Result<(), String> {
    exchange(boot, Method::POST, path, Bytes::copy_from_slice(body)).await.map(drop)
}

async fn exchange(boot: &ThisBoot, method: Method, path: &str, body: Bytes) -> Result<Bytes, String> {
    match timeout(LIMIT, converse(boot, method, path, body)).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err("the head does not answer".into()),
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn converse(boot: &ThisBoot, method: Method, path: &str, body: Bytes) -> Result<Bytes, Failure> {
    let stream = TcpStream::connect((boot.head, boot.http_port)).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", boot.head.to_string())
        .header("content-type", "application/json")
        .body(Full::new(body))?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), LONGEST).collect().await?.to_bytes();
    if status.is_success() { Ok(body) } else { Err(format!("the head answers {status}").into()) }
}
