//! What a booting machine fetches over HTTP: its script, its files, and where it reports.

use std::io::SeekFrom;
use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Response, StatusCode, header};
use axum::response::IntoResponse;
use bramble_model::names::{BootId, Digest, Mac};
use bramble_model::timeline::What;
use bramble_netboot::ipxe::{self, Script};
use bramble_netboot::range::{Part, part};
use bramble_system::now;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use crate::Head;

/// Bytes read from disk at a time.
const CHUNK: usize = 256 << 10;
/// The longest reason that a node can give, in bytes.
const LONGEST_REASON: usize = 2000;

fn text(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text.into()).into_response()
}

/// `GET /boot/script/MAC`: a new boot for the node with this card.
pub(crate) async fn script(State(head): State<Arc<Head>>, Path(mac): Path<String>) -> Response<Body> {
    let Ok(mac) = mac.parse::<Mac>() else { return text(StatusCode::BAD_REQUEST, "not a MAC address\n") };
    if head.cluster.node_of(mac).is_none() {
        head.saw_unknown(mac, "iPXE".into(), None);
        return text(StatusCode::NOT_FOUND, "this machine is not in the repository\n");
    }
    let script = match tokio::task::spawn_blocking({
        let head = Arc::clone(&head);
        move || new_boot(&head, mac)
    })
    .await
    {
        Ok(Ok(script)) => script,
        Ok(Err(reason)) => ipxe::wait_script(&reason, head.http()),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    };
    text(StatusCode::OK, script)
}

/// Hands out a boot, stored before it is told; or the reason why there is none.
fn new_boot(head: &Head, mac: Mac) -> Result<String, String> {
    let (node, _) = head.cluster.node_of(mac).ok_or("this machine is not in the repository")?;
    let set = head.shelf.current().map_err(|error| error.to_string())?;
    let boot = BootId(hex(rand::random::<[u8; 16]>()));
    let nonce = hex(rand::random::<[u8; 16]>());
    let digest = Digest(Sha256::digest(nonce.as_bytes()).into());
    let stored = head.store.change_admission(node, |record| record.serve(boot.clone(), digest, set.digest, now()));
    stored.map_err(|error| error.to_string())?;
    head.timeline.add(Some(node), What::ScriptServed { boot: boot.clone(), set: set.digest.short() });
    let script = Script {
        node,
        http: head.http(),
        agent_port: head.cluster.network.agent_port,
        boot: &boot,
        nonce: &nonce,
        set: &set.digest,
        kernel: &set.manifest.kernel.sha256,
        initrd: &set.manifest.initrd.sha256,
        cmdline: &set.manifest.cmdline,
    };
    Ok(script.render())
}

fn hex(bytes: [u8; 16]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `GET /boot/sets/SHA256/FILE`: a manifest or its signature.
pub(crate) async fn set_file(
    State(head): State<Arc<Head>>,
    Path((set, name)): Path<(String, String)>,
) -> Response<Body> {
    let known = ["manifest.json", "manifest.json.minisig"].contains(&name.as_str());
    match set.parse::<Digest>() {
        Ok(digest) if known => match tokio::fs::read(head.shelf.set(&digest).join(name)).await {
            Ok(bytes) => bytes.into_response(),
            Err(_) => text(StatusCode::NOT_FOUND, "no such boot set\n"),
        },
        _ => text(StatusCode::NOT_FOUND, "no such file\n"),
    }
}

/// Which boot fetches, and what it calls the file.
#[derive(Deserialize)]
pub(crate) struct Fetch {
    boot: Option<String>,
    name: Option<String>,
}

/// `GET /boot/files/SHA256`: a file of a boot set, or a part of it.
pub(crate) async fn file(
    State(head): State<Arc<Head>>,
    Path(digest): Path<String>,
    Query(fetch): Query<Fetch>,
    headers: HeaderMap,
) -> Response<Body> {
    let Ok(digest) = digest.parse::<Digest>() else { return text(StatusCode::NOT_FOUND, "not a digest\n") };
    let missing = || text(StatusCode::NOT_FOUND, "no such file on this head\n");
    let Ok(mut file) = File::open(head.shelf.file(&digest)).await else { return missing() };
    let Ok(size) = file.metadata().await.map(|data| data.len()) else { return missing() };
    let range = headers.get(header::RANGE).and_then(|range| range.to_str().ok());
    let (status, start, length) = match part(range, size) {
        Part::Whole => (StatusCode::OK, 0, size),
        Part::Range { start, length } => (StatusCode::PARTIAL_CONTENT, start, length),
        Part::Unsatisfiable => {
            let range = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
            return (StatusCode::RANGE_NOT_SATISFIABLE, range).into_response();
        }
    };
    if let (0, Some(boot), Some(name)) = (start, fetch.boot, fetch.name)
        && let Some(node) = head.node_of_boot(&boot)
    {
        let name: String = name.chars().filter(char::is_ascii_alphanumeric).take(32).collect();
        head.timeline.add(Some(&node), What::Fetching { file: name, bytes: length });
    }
    if file.seek(SeekFrom::Start(start)).await.is_err() {
        return missing();
    }
    let body = Body::from_stream(ReaderStream::with_capacity(file.take(length), CHUNK));
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::ACCEPT_RANGES, header::HeaderValue::from_static("bytes"));
    headers.insert(header::CONTENT_LENGTH, length.into());
    // A file is what its name says for ever: any proxy may keep it.
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("public, max-age=31536000, immutable"));
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {start}-{}/{size}", start + length - 1);
        headers.insert(header::CONTENT_RANGE, range.parse().expect("digits and dashes"));
    }
    response
}

/// `GET /boot/loader/NAME`: a loader, for UEFI HTTP boot.
pub(crate) async fn loader(State(head): State<Arc<Head>>, Path(name): Path<String>) -> Response<Body> {
    match head.loaders.get(&name) {
        Some(file) => {
            let bytes = Bytes::from_owner(Arc::clone(file));
            ([(header::CONTENT_TYPE, "application/efi")], bytes).into_response()
        }
        None => text(StatusCode::NOT_FOUND, "no such loader\n"),
    }
}

/// What stage 1 reports.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum Report {
    Step { step: String, percent: Option<u8> },
    Failed { failed: String, retry_in_seconds: u64 },
}

/// `POST /v1/boots/BOOT/report`: stage 1 of this boot reports a step. The boot's id is the
/// capability: only the head and the booting machine know it.
pub(crate) async fn report(
    State(head): State<Arc<Head>>,
    Path(boot): Path<String>,
    Json(report): Json<Report>,
) -> StatusCode {
    let Some(node) = head.node_of_boot(&boot) else { return StatusCode::NOT_FOUND };
    let what = match report {
        Report::Step { step, percent } => {
            let step = step.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(32).collect();
            What::Stage1 { step, percent: percent.map(|percent| percent.min(100)) }
        }
        Report::Failed { failed, retry_in_seconds } => {
            let reason = failed.chars().filter(|c| !c.is_control()).take(LONGEST_REASON).collect();
            What::Failed { reason, retry_in_seconds }
        }
    };
    head.timeline.add(Some(&node), what);
    StatusCode::NO_CONTENT
}

impl Head {
    /// The node whose present boot this is.
    fn node_of_boot(&self, boot: &str) -> Option<bramble_model::names::Name> {
        self.cluster
            .nodes
            .keys()
            .find(|node| {
                let record = self.store.admission(node).unwrap_or_default();
                record.boot().is_some_and(|present| present.id.0 == boot)
            })
            .cloned()
    }
}
