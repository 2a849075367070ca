//! The head, asked over HTTP: on its own machine by the control socket, from elsewhere over TLS with what
//! `bramble login` keeps.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{self, Poll};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bramble_head::control;
use bramble_image::ToSign;
use bramble_model::api::{
    Approval, Approved, Expected, KnownHosts, LACKS, LoggedIn, Login, Me, NewToken, NodeStatus, PowerAction, Problem,
    Repaired, Role, Status, Switched, TokenStatus, UnreadableRecord, UserChange, UserStatus,
};
use bramble_model::boot_set::{Architecture, Floor, GivenSet};
use bramble_model::ca::{CaFinish, CaStatus, ROOTS, ROOTS_SIGNATURE};
use bramble_model::desired::{Apply, Contents, Desired, Line, Offer, Offered, Preview, Question, SourceKey, Synced};
use bramble_model::hands::Data;
use bramble_model::inventory::Adoption;
use bramble_model::names::{ClusterId, Digest, Mac, Name};
use bramble_model::subject::Subject;
use bytes::Bytes;
use futures_util::TryStreamExt;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

use crate::heads::{self, KnownHead, Stream};
use crate::place::Place;
use crate::screen;
use crate::target::{NoHead, Target};

/// Switching a node may take its driver a while.
const LIMIT: Duration = Duration::from_secs(60);

/// The head looks at its git repository: a look that is under way comes first, and each has 120 s for the fetch, and as
/// much again for the files.
const LOOK: Duration = Duration::from_secs(600);

/// The head's CAs.
const CA: &str = "/v1/ca.pem";

/// Where a head is, and what it is shown.
#[derive(Clone)]
enum Way {
    /// Its control socket.
    Socket(PathBuf),
    Tls(Box<KnownHead>),
}

/// The head of one repository.
#[derive(Clone)]
pub struct Client(Way);

impl Client {
    /// The head that a verb about this place is for.
    pub fn of(place: &Place) -> Result<Self> {
        Self::at(Target::of(place)?)
    }

    pub fn at(target: Target) -> Result<Self> {
        Ok(match target {
            Target::Here(state) => Client::local(&state),
            Target::Running { socket, .. } => Client(Way::Socket(socket)),
            Target::Elsewhere(url) => Client::remote(heads::find(&url)?),
        })
    }

    /// The head whose state lies in this folder.
    pub fn local(state: &Path) -> Self {
        Client(Way::Socket(control::socket(state)))
    }

    /// A head elsewhere.
    pub fn remote(known: KnownHead) -> Self {
        Client(Way::Tls(Box::new(known)))
    }

    /// Its address, where it is elsewhere.
    pub fn elsewhere(&self) -> Option<&str> {
        match &self.0 {
            Way::Socket(_) => None,
            Way::Tls(known) => Some(&known.url),
        }
    }

    pub async fn status(&self) -> Result<Status> {
        self.ask(Method::GET, "/v1/status", None::<&()>).await
    }

    /// Which boot set nodes of each architecture are given.
    pub async fn boot_sets(&self) -> Result<BTreeMap<Architecture, GivenSet>> {
        self.ask(Method::GET, "/v1/boot-sets", None::<&()>).await
    }

    pub async fn give_boot_set(&self, architecture: Architecture, set: &Digest) -> Result<()> {
        self.ask(Method::PUT, &format!("/v1/boot-sets/{architecture}"), Some(set)).await
    }

    /// Which boot sets are forbidden.
    pub async fn floor(&self) -> Result<Floor> {
        self.ask(Method::GET, "/v1/sets", None::<&()>).await
    }

    /// Forbids this set and all that was signed before it.
    pub async fn forbid_set(&self, set: &Digest) -> Result<Floor> {
        self.ask(Method::POST, &format!("/v1/sets/{set}/forbid"), None::<&()>).await
    }

    /// What whoever signs the set whose digest begins so has to know.
    pub async fn set_to_sign(&self, set: &str) -> Result<ToSign> {
        self.ask(Method::GET, &format!("/v1/sets/{set}/to-sign"), None::<&()>).await
    }

    pub async fn sign_set(&self, set: &Digest, signature: &str) -> Result<()> {
        self.ask(Method::PUT, &format!("/v1/sets/{set}/signature"), Some(&signature)).await
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

    pub async fn offer(&self, offer: &Offer) -> Result<Offered> {
        self.ask(Method::POST, "/v1/snapshots", Some(offer)).await
    }

    pub async fn send_contents(&self, contents: Vec<Vec<u8>>) -> Result<()> {
        let contents = Contents { contents: contents.into_iter().map(Data).collect() };
        self.ask(Method::POST, "/v1/contents", Some(&contents)).await
    }

    /// Sends a file as it is read: it may be larger than memory.
    pub async fn send_file(&self, digest: &Digest, path: &Path) -> Result<()> {
        let file = tokio::fs::File::open(path).await.with_context(|| format!("cannot read {}", path.display()))?;
        let pieces = tokio_util::io::ReaderStream::with_capacity(file, 256 << 10);
        let body = StreamBody::new(pieces.map_ok(Frame::data));
        let body = BodyExt::boxed(body);
        self.exchange_body(Method::PUT, &format!("/v1/contents/{digest}"), body).await.map(drop)
    }

    pub async fn plan(&self, question: &Question) -> Result<Preview> {
        self.ask(Method::POST, "/v1/plan", Some(question)).await
    }

    pub async fn apply(&self, snapshot: &Digest, wish: &Apply) -> Result<Desired> {
        self.ask(Method::POST, &format!("/v1/snapshots/{snapshot}/apply"), Some(wish)).await
    }

    pub async fn history(&self) -> Result<Vec<Line>> {
        self.ask(Method::GET, "/v1/history", None::<&()>).await
    }

    /// Waits for git, which may take its time.
    pub async fn sync(&self) -> Result<Synced> {
        let looking = self.exchange(Method::POST, "/v1/source/sync", Bytes::new());
        let Ok(bytes) = tokio::time::timeout(LOOK, looking).await else {
            bail!("the head has not looked within {} s: `bramble status` says what it does", LOOK.as_secs());
        };
        let bytes = bytes?;
        serde_json::from_slice(&bytes).context("the head's answer is malformed: is it of another version?")
    }

    pub async fn hold(&self) -> Result<()> {
        self.ask(Method::POST, "/v1/source/hold", None::<&()>).await
    }

    pub async fn forget_host(&self) -> Result<()> {
        self.ask(Method::POST, "/v1/source/forget-host", None::<&()>).await
    }

    pub async fn source_key(&self) -> Result<SourceKey> {
        self.ask(Method::GET, "/v1/source/key", None::<&()>).await
    }

    pub async fn known_hosts(&self) -> Result<KnownHosts> {
        self.ask(Method::GET, "/v1/ssh/known-hosts", None::<&()>).await
    }

    pub async fn retry(&self, subject: &Subject) -> Result<()> {
        self.ask(Method::POST, "/v1/retry", Some(subject)).await
    }

    pub async fn start_swarm(&self, without: &[Name]) -> Result<()> {
        let body = serde_json::json!({ "without": without });
        self.ask(Method::POST, "/v1/engines/swarm/start", Some(&body)).await
    }

    pub async fn give_up_swarm(&self, cluster: &ClusterId) -> Result<()> {
        let body = serde_json::json!({ "cluster": cluster });
        self.ask(Method::POST, "/v1/engines/swarm/give-up", Some(&body)).await
    }

    pub async fn trust_swarm(&self, ca: &Digest) -> Result<()> {
        let body = serde_json::json!({ "ca": ca });
        self.ask(Method::POST, "/v1/engines/swarm/trust", Some(&body)).await
    }

    pub async fn ca(&self) -> Result<CaStatus> {
        self.ask(Method::GET, "/v1/ca", None::<&()>).await
    }

    pub async fn rotate_ca(&self) -> Result<()> {
        self.ask(Method::POST, "/v1/ca/rotate", None::<&()>).await
    }

    pub async fn finish_ca(&self, meant: &CaFinish) -> Result<()> {
        self.ask(Method::POST, "/v1/ca/finish", Some(meant)).await
    }

    pub async fn power(&self, node: &Name, action: PowerAction) -> Result<Switched> {
        self.ask(Method::POST, &format!("/v1/nodes/{node}/power"), Some(&action)).await
    }

    /// Lets in the machine that a person knows; gives what the head tells of it, where it does.
    pub async fn approve(&self, node: &Name, approval: &Approval) -> Result<Option<Approved>> {
        self.ask(Method::POST, &format!("/v1/nodes/{node}/approve"), Some(approval)).await
    }

    pub async fn revoke(&self, node: &Name) -> Result<()> {
        self.ask(Method::POST, &format!("/v1/nodes/{node}/revoke"), None::<&()>).await
    }

    pub async fn adopt(&self, mac: Mac) -> Result<()> {
        self.ask(Method::POST, &format!("/v1/seen/{mac}/adopt"), None::<&()>).await
    }

    pub async fn inventory(&self, mac: Mac) -> Result<Adoption> {
        self.ask(Method::GET, &format!("/v1/seen/{mac}/inventory"), None::<&()>).await
    }

    pub async fn expect(&self, node: &Name) -> Result<Expected> {
        self.ask(Method::POST, &format!("/v1/nodes/{node}/expect"), None::<&()>).await
    }

    pub async fn reinstall(&self, node: &Name) -> Result<()> {
        self.ask(Method::POST, &format!("/v1/nodes/{node}/reinstall"), None::<&()>).await
    }

    pub async fn log_in(&self, login: &Login) -> Result<LoggedIn> {
        self.ask(Method::POST, "/v1/login", Some(login)).await
    }

    pub async fn log_out(&self) -> Result<()> {
        self.exchange(Method::POST, "/logout", Bytes::new()).await.map(drop)
    }

    pub async fn me(&self) -> Result<Me> {
        self.ask(Method::GET, "/v1/me", None::<&()>).await
    }

    pub async fn users(&self) -> Result<Vec<UserStatus>> {
        self.ask(Method::GET, "/v1/users", None::<&()>).await
    }

    pub async fn change_user(&self, name: &str, change: &UserChange) -> Result<()> {
        self.ask(Method::PUT, &format!("/v1/users/{}", in_path(name)), Some(change)).await
    }

    pub async fn remove_user(&self, name: &str) -> Result<()> {
        self.ask(Method::DELETE, &format!("/v1/users/{}", in_path(name)), None::<&()>).await
    }

    pub async fn tokens(&self) -> Result<Vec<TokenStatus>> {
        self.ask(Method::GET, "/v1/tokens", None::<&()>).await
    }

    pub async fn add_token(&self, name: &str, role: Role, days: Option<u32>) -> Result<String> {
        let new = NewToken { name: name.to_owned(), role, days };
        self.ask(Method::POST, "/v1/tokens", Some(&new)).await
    }

    pub async fn remove_token(&self, name: &str) -> Result<()> {
        self.ask(Method::DELETE, &format!("/v1/tokens/{}", in_path(name)), None::<&()>).await
    }

    /// What a verb alone asks for.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.ask(Method::GET, path, None::<&()>).await
    }

    pub async fn delete(&self, path: &str) -> Result<()> {
        self.ask(Method::DELETE, path, None::<&()>).await
    }

    /// Records that the head cannot read.
    pub async fn unreadable(&self) -> Result<Vec<UnreadableRecord>> {
        self.ask(Method::GET, "/v1/store/unreadable", None::<&()>).await
    }

    /// Has the head set them aside.
    pub async fn repair(&self) -> Result<Repaired> {
        self.ask(Method::POST, "/v1/store/repair", None::<&()>).await
    }

    /// A backup of the head's state, as it is now.
    pub async fn backup(&self) -> Result<Bytes> {
        self.exchange(Method::POST, "/v1/backup", Bytes::new()).await
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, body: Option<&impl Serialize>) -> Result<T> {
        let bytes = body.map(serde_json::to_vec).transpose().context("cannot write the question")?.unwrap_or_default();
        let bytes = match tokio::time::timeout(LIMIT, self.exchange(method, path, bytes.into())).await {
            Ok(answer) => answer?,
            Err(_) => bail!("the head does not answer within {} s", LIMIT.as_secs()),
        };
        let bytes = if bytes.is_empty() { Bytes::from_static(b"null") } else { bytes };
        serde_json::from_slice(&bytes).context("the head's answer is malformed: is it of another version?")
    }

    fn no_head(&self) -> NoHead {
        match &self.0 {
            Way::Socket(path) => NoHead::at(path.display().to_string(), heads::urls().unwrap_or_default()),
            Way::Tls(known) => NoHead::at(known.url.clone(), Vec::new()),
        }
    }

    /// What every request to this head carries.
    pub fn credentials(&self) -> Option<String> {
        match &self.0 {
            Way::Tls(known) if !known.token.is_empty() => Some(format!("Bearer {}", known.token)),
            _ => None,
        }
    }

    /// Opens a connection to the head.
    pub async fn connect(&self) -> Result<Box<dyn Stream>> {
        match &self.0 {
            Way::Socket(path) => {
                let stream = UnixStream::connect(path).await.map_err(|error| match error.kind() {
                    std::io::ErrorKind::PermissionDenied => anyhow::anyhow!(
                        "{}: only root and the owner of its folder may use it; whoever is in the group `bramble` uses the one in /run/bramble, and others `bramble login` (where an earlier head made the folder as root: `sudo chown -R \"$USER\"` it)",
                        path.display()
                    ),
                    _ => self.no_head().into(),
                })?;
                Ok(Box::new(stream))
            }
            Way::Tls(known) => heads::connect(known).await.map_err(|error| {
                let unreachable = error.downcast_ref::<std::io::Error>().is_some_and(|error| error.get_ref().is_none());
                if unreachable { self.no_head().into() } else { error }
            }),
        }
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes> {
        let body = Full::new(body).map_err(|never| match never {});
        self.exchange_body(method, path, body.boxed()).await
    }

    /// Keeps the CAs that the head has now, where one that is known has signed which these are.
    async fn moves_over(&self, known: &KnownHead, named: &str, signature: &str) {
        let moved = async {
            heads::may_take(&known.ca, named, signature)?;
            let bytes = Box::pin(self.exchange(Method::GET, CA, Bytes::new())).await?;
            let ca = std::str::from_utf8(&bytes).context("the head's CA is malformed")?;
            if heads::are_others(ca, named) {
                bail!("the head names other CAs than it has");
            }
            heads::move_over(&known.url, &known.ca, ca)
        };
        // What was asked was answered.
        if let Err(error) = moved.await {
            eprintln!("the head's CA is being rotated, and the next one is not kept: {error:#}");
        }
    }

    async fn exchange_body(&self, method: Method, path: &str, body: BoxBody<Bytes, std::io::Error>) -> Result<Bytes> {
        let stream = self.connect().await?;
        let stream = TokioIo::new(Listening { stream, deaf: false });
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(stream).await.map_err(|_| self.no_head())?;
        let connection = tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "head")
            .header("content-type", "application/json");
        if let Some(credentials) = self.credentials() {
            request = request.header("authorization", credentials);
        }
        let request = request.body(body).context("cannot write the question")?;
        let answer = sender.send_request(request).await.map_err(|error| match error.is_user() {
            true => anyhow::Error::new(error).context("what is sent to the head cannot be read"),
            false => self.no_head().into(),
        })?;
        let status = answer.status();
        let header = |name: &str| answer.headers().get(name).and_then(|value| Some(value.to_str().ok()?.to_owned()));
        let (named, signature) = (header(ROOTS), header(ROOTS_SIGNATURE));
        let lacks = answer.headers().get(LACKS).and_then(|lacks| lacks.to_str().ok()?.parse().ok());
        let bytes = answer.into_body().collect().await.context("the head's answer broke off")?.to_bytes();
        connection.abort();
        if let (Way::Tls(known), Some(named)) = (&self.0, named)
            && path != CA
            && heads::are_others(&known.ca, &named)
        {
            self.moves_over(known, &named, &signature.unwrap_or_default()).await;
        }
        if status.is_success() || status.is_redirection() {
            if let Some(lacks) = lacks {
                screen::lacks(lacks);
            }
            return Ok(bytes);
        }
        Err(problem(status, &bytes))
    }
}

/// A connection whose answer is read though the head takes no more of the question. One that refuses what it is sent says
/// why, and closes before it has read it all; hyper ends with the first write that fails, and would not read that.
struct Listening {
    stream: Box<dyn Stream>,
    /// Nobody reads what is written.
    deaf: bool,
}

impl Listening {
    /// A write that fails since nobody reads is one that succeeds: whether there is an answer is for the reader to find.
    fn written(&mut self, result: Poll<io::Result<usize>>, length: usize) -> Poll<io::Result<usize>> {
        match result {
            Poll::Ready(Err(error)) if is_gone(&error) => {
                self.deaf = true;
                Poll::Ready(Ok(length))
            }
            result => result,
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset)
}

impl AsyncRead for Listening {
    fn poll_read(mut self: Pin<&mut Self>, now: &mut task::Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(now, out)
    }
}

impl AsyncWrite for Listening {
    fn poll_write(mut self: Pin<&mut Self>, now: &mut task::Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.deaf {
            return Poll::Ready(Ok(bytes.len()));
        }
        let result = Pin::new(&mut self.stream).poll_write(now, bytes);
        self.written(result, bytes.len())
    }

    fn poll_flush(mut self: Pin<&mut Self>, now: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        if self.deaf {
            return Poll::Ready(Ok(()));
        }
        let result = Pin::new(&mut self.stream).poll_flush(now).map_ok(|()| 0);
        self.written(result, 0).map_ok(drop)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, now: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(now)
    }
}

/// What the head says of a repository that has errors.
#[derive(Debug)]
pub struct Unfit(pub String);

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unfit {}

/// What the head says of a request that failed.
pub fn problem(status: hyper::StatusCode, body: &[u8]) -> anyhow::Error {
    match serde_json::from_slice::<Problem>(body) {
        Ok(Problem { error, help, unfit }) => {
            let told = help.map_or_else(|| error.clone(), |help| format!("{error}\n  help: {help}"));
            if unfit { Unfit(told).into() } else { anyhow::anyhow!(told) }
        }
        Err(_) => anyhow::anyhow!("the head answers {status}: {}", String::from_utf8_lossy(body)),
    }
}

/// A name as a segment of a path: what is not plain is percent-encoded (RFC 3986, section 2.1).
pub fn in_path(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
    name.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    /// More than any socket keeps for a reader.
    const LARGE: usize = 8 << 20;

    /// A head that reads so many bytes of a question, answers that its disk is full, and goes.
    async fn refuses_after(listener: UnixListener, bytes: usize) {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut read = vec![0; bytes];
        stream.read_exact(&mut read).await.expect("a question");
        let body = br#"{"error":"the shelf takes no writes: no space left on device","help":"make room"}"#;
        let head = format!("HTTP/1.1 507 Insufficient Storage\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(&[head.as_bytes(), body].concat()).await.expect("the answer");
    }

    #[tokio::test]
    async fn what_a_head_says_that_refuses_in_the_middle_of_a_file_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("large");
        std::fs::write(&file, vec![7; LARGE]).expect("written");
        for bytes in [100, 5000, 1 << 20] {
            for _ in 0..20 {
                let socket = folder.path().join("head.sock");
                let _ = std::fs::remove_file(&socket);
                let head = tokio::spawn(refuses_after(UnixListener::bind(&socket).expect("a socket"), bytes));
                let error = Client::local(folder.path()).send_file(&Digest([7; 32]), &file).await.expect_err("refused");
                head.await.expect("it answered");
                let told = format!("{error:#}");
                assert!(!error.is::<NoHead>(), "{told}");
                assert!(told.contains("no space left on device") && told.contains("help: make room"), "{told}");
            }
        }
    }

    #[tokio::test]
    async fn a_head_that_goes_without_a_word_is_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(folder.path().join("head.sock")).expect("a socket");
        let gone = tokio::spawn(async move { listener.accept().await.map(drop) });
        let error = Client::local(folder.path()).send_contents(vec![vec![7; LARGE]]).await.expect_err("nobody answers");
        gone.await.expect("it runs").expect("a connection");
        assert!(error.is::<NoHead>(), "{error:#}");
    }
}
