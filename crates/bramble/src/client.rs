//! The head's control socket, asked over HTTP.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bramble_model::api::{NodeStatus, PowerAction, Problem, Status};
use bramble_model::names::Name;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

/// Switching a node may take its driver a while.
const LIMIT: Duration = Duration::from_secs(60);

/// Nobody answers at the control socket.
#[derive(Debug)]
pub struct NoHead(PathBuf);

impl std::fmt::Display for NoHead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "no head answers at {}: start one with `bramble serve`, or a lab with `bramble lab up`",
            self.0.display()
        )
    }
}

impl std::error::Error for NoHead {}

/// The head of one repository.
#[derive(Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    pub fn new(state: &Path) -> Self {
        Client { socket: state.join("head.sock") }
    }

    pub async fn status(&self) -> Result<Status> {
        self.ask(Method::GET, "/v1/status", None::<&()>).await
    }

    /// All events that the head keeps, oldest first.
    pub async fn all_events(&self) -> Result<Vec<bramble_model::timeline::Event>> {
        let mut events = Vec::new();
        let mut after = 0;
        loop {
            let page: bramble_model::api::Events =
                self.ask(Method::GET, &format!("/v1/events?after={after}"), None::<&()>).await?;
            if page.events.is_empty() {
                return Ok(events);
            }
            after = page.next;
            events.extend(page.events);
        }
    }

    /// The cluster, and one node of it.
    pub async fn node(&self, name: &Name) -> Result<(Status, NodeStatus)> {
        let status = self.status().await?;
        let node = status.nodes.iter().find(|known| known.name == *name).cloned();
        let node = node.with_context(|| format!("there is no node `{name}`: `bramble node ls` lists them"))?;
        Ok((status, node))
    }

    pub async fn power(&self, node: &Name, action: PowerAction) -> Result<()> {
        self.ask(Method::POST, &format!("/v1/nodes/{node}/power"), Some(&action)).await
    }

    pub async fn approve(&self, node: &Name, fingerprint: &str) -> Result<()> {
        let body = serde_json::json!({ "fingerprint": fingerprint });
        self.ask(Method::POST, &format!("/v1/nodes/{node}/approve"), Some(&body)).await
    }

    pub async fn reinstall(&self, node: &Name) -> Result<()> {
        self.ask(Method::POST, &format!("/v1/nodes/{node}/reinstall"), None::<&()>).await
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, body: Option<&impl Serialize>) -> Result<T> {
        match tokio::time::timeout(LIMIT, self.exchange(method, path, body)).await {
            Ok(answer) => answer,
            Err(_) => bail!("the head does not answer within {} s", LIMIT.as_secs()),
        }
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|_| NoHead(self.socket.clone()))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|_| NoHead(self.socket.clone()))?;
        let connection = tokio::spawn(connection);
        let bytes = body.map(serde_json::to_vec).transpose().context("cannot write the question")?.unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "head")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(bytes)))
            .context("cannot write the question")?;
        let answer = sender.send_request(request).await.map_err(|_| NoHead(self.socket.clone()))?;
        let status = answer.status();
        let bytes = answer.into_body().collect().await.context("the head's answer broke off")?.to_bytes();
        connection.abort();
        if !status.is_success() {
            match serde_json::from_slice::<Problem>(&bytes) {
                Ok(Problem { error, help: Some(help) }) => bail!("{error}\n  help: {help}"),
                Ok(Problem { error, help: None }) => bail!("{error}"),
                Err(_) => bail!("the head answers {status}: {}", String::from_utf8_lossy(&bytes)),
            }
        }
        let bytes = if bytes.is_empty() { Bytes::from_static(b"null") } else { bytes };
        serde_json::from_slice(&bytes).context("the head's answer is malformed: is it of another version?")
    }
}
