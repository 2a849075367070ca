//! What a booting machine fetches over HTTP: its script, its files, and where it reports.

use std::io::SeekFrom;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Method, Response, StatusCode, header};
use axum::response::IntoResponse;
use bramble_boot::{Claim, Claimed, Cpu, Firmware, Report, is_kept_of_a_set};
use bramble_model::names::{Digest, Mac};
use bramble_model::timeline::What;
use bramble_netboot::ipxe;
use bramble_netboot::tftp::Content;
use bramble_plan::admission::NotGiven;
use serde::Deserialize;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::files::{Fetch, Served};
use super::given::{Given, Handed};
use super::own::{Unclaimed, sentence};
use super::{Boots, Way};
use crate::ends::Ends;
use crate::store::beside;

/// Bytes read from disk at a time.
const CHUNK: usize = 256 << 10;

pub(crate) fn text(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text.into()).into_response()
}

/// What a loader says of itself.
#[derive(Deserialize)]
pub(crate) struct Loader {
    arch: Option<String>,
}

/// `GET /boot/script/MAC`: a new boot for the node with this card, where the head has just heard it ask for an address.
pub(crate) async fn script(
    State(boots): State<Arc<Boots>>,
    Extension(ends): Extension<Ends>,
    Path(mac): Path<String>,
    Query(loader): Query<Loader>,
) -> Response<Body> {
    let Ok(mac) = mac.parse::<Mac>() else { return text(StatusCode::BAD_REQUEST, "not a MAC address\n") };
    if boots.nodes.of_card(mac).is_none() {
        boots.strangers.saw(mac, Firmware::Ipxe(Cpu::Amd64).into(), None);
        return text(StatusCode::NOT_FOUND, "this machine is not in the repository\n");
    }
    let (from, http) = (*ends.peer.ip(), boots.wires.http_at(*ends.local.ip()));
    let architecture = ipxe::architecture(loader.arch.as_deref());
    let made = beside({
        let boots = Arc::clone(&boots);
        move || boots.script(mac, from, architecture, http)
    });
    text(StatusCode::OK, made.await)
}

impl Boots {
    /// The script of a new boot; where there is none one that says why, and asks again.
    fn script(&self, mac: Mac, from: Ipv4Addr, cpu: Cpu, http: SocketAddrV4) -> String {
        let Some(node) = &self.nodes.of_card(mac) else {
            return ipxe::wait_script("this machine is not in the repository", http);
        };
        let asker = match self.asker(node, mac, from, Way::Stream) {
            Ok(asker) => asker,
            Err(reason) => return ipxe::ask_again_script(&reason, mac, http),
        };
        match self.hand_out(node, mac, asker, cpu, (from, http)) {
            Ok(Given::Kernel(Handed { kernel, initrds, cmdline })) => ipxe::start(node, &kernel, &cmdline, &initrds),
            Ok(Given::Efi(url)) => ipxe::chain_script(node, &url),
            Ok(Given::Disk) => ipxe::disk_script(mac),
            Ok(Given::Own(own)) => {
                let [kernel, initrd] = own.urls();
                ipxe::script(node, &kernel, &own.words(), &initrd)
            }
            Err(reason) => ipxe::wait_script(&reason, http),
        }
    }
}

/// `GET /boot/sets/SHA256/FILE`: a manifest or its signature.
pub(crate) async fn set_file(
    State(boots): State<Arc<Boots>>,
    Path((set, name)): Path<(String, String)>,
) -> Response<Body> {
    let known = is_kept_of_a_set(&name);
    match set.parse::<Digest>() {
        Ok(digest) if known => match tokio::fs::read(boots.own.shelf.set(&digest).join(name)).await {
            Ok(bytes) => bytes.into_response(),
            Err(_) => text(StatusCode::NOT_FOUND, "no such boot set\n"),
        },
        _ => text(StatusCode::NOT_FOUND, "no such file\n"),
    }
}

/// `01808610d3` is the PCI card `8086:10d3`.
fn pci(busid: &str) -> Option<String> {
    let id = busid.strip_prefix("01").filter(|id| id.len() == 8 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    Some(format!("{}:{}", &id[..4], &id[4..]).to_ascii_lowercase())
}

/// `GET /boot/files/SHA256`: a file of a boot set, or a part of it.
pub(crate) async fn file(
    State(boots): State<Arc<Boots>>,
    Extension(ends): Extension<Ends>,
    Path(digest): Path<String>,
    Query(fetch): Query<Fetch>,
    method: Method,
    headers: HeaderMap,
) -> Response<Body> {
    let Ok(digest) = digest.parse::<Digest>() else { return text(StatusCode::NOT_FOUND, "not a digest\n") };
    let path = boots.own.shelf.file(&digest);
    let mut response = send_file(&path, &headers).await;
    if response.status() == StatusCode::OK && method == Method::GET {
        let bytes = std::fs::metadata(path).map_or(0, |data| data.len());
        boots.fetching(&digest, fetch, *ends.peer.ip(), bytes);
    }
    if response.status().is_success() {
        // A file is what its name says for ever: any proxy may keep it.
        let for_ever = header::HeaderValue::from_static("public, max-age=31536000, immutable");
        response.headers_mut().insert(header::CACHE_CONTROL, for_ever);
    }
    response
}

/// A file, or the range of it that is asked for (RFC 9110, section 14).
pub(crate) async fn send_file(path: &std::path::Path, headers: &HeaderMap) -> Response<Body> {
    let missing = || text(StatusCode::NOT_FOUND, "no such file on this head\n");
    let Ok(mut file) = File::open(path).await else { return missing() };
    let Some(size) = file.metadata().await.ok().filter(std::fs::Metadata::is_file).map(|data| data.len()) else {
        return missing();
    };
    let range = headers.get(header::RANGE).and_then(|range| range.to_str().ok());
    let Served { status, start, length, range } = Served::of(range, size);
    if file.seek(SeekFrom::Start(start)).await.is_err() {
        return missing();
    }
    let body = Body::from_stream(ReaderStream::with_capacity(file.take(length), CHUNK));
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::ACCEPT_RANGES, header::HeaderValue::from_static("bytes"));
    headers.insert(header::CONTENT_LENGTH, length.into());
    if let Some(range) = range {
        headers.insert(header::CONTENT_RANGE, range.parse().expect("digits and dashes"));
    }
    response
}

/// `GET /boot/loader/NAME`: a loader, for UEFI HTTP boot. Firmware asks for its size first (`HEAD`); shim
/// asks for what lies beside it with a second slash.
pub(crate) async fn loader(
    State(boots): State<Arc<Boots>>,
    Extension(ends): Extension<Ends>,
    method: Method,
    Path(name): Path<String>,
) -> Response<Body> {
    let name = name.trim_start_matches('/').to_owned();
    // Which set it is of is asked of the disk, and who asks of the kernel.
    let looked = beside({
        let (boots, name) = (Arc::clone(&boots), name.clone());
        move || {
            let node = || boots.node_at(*ends.peer.ip()).map(|(_, node)| node);
            (boots.own.loader(&name, node), node().filter(|_| method == Method::GET))
        }
    });
    let (content, node) = looked.await;
    let (bytes, body) = match content {
        Some(Content::Memory(bytes)) => (bytes.len() as u64, Body::from(Bytes::from_owner(bytes))),
        Some(Content::File { file, size }) => {
            let file = File::from_std(file.try_clone().expect("descriptors are left"));
            (size, Body::from_stream(ReaderStream::with_capacity(file.take(size), CHUNK)))
        }
        None => return text(StatusCode::NOT_FOUND, "no such loader\n"),
    };
    if let Some(node) = node {
        boots.chains.sent(&node, &name);
        boots.timeline.add(Some(&node), What::HttpSent { file: name, bytes });
    }
    ([(header::CONTENT_TYPE, "application/efi".to_owned()), (header::CONTENT_LENGTH, bytes.to_string())], body)
        .into_response()
}

/// `POST /v1/boots/BOOT/claim`: stage 1 of this boot tells what its nonce hashes to, from its card's own place. Once a
/// boot; what it is answered is what its reports name from then on.
pub(crate) async fn claim(
    State(boots): State<Arc<Boots>>,
    Extension(ends): Extension<Ends>,
    Path(boot): Path<String>,
    body: Bytes,
) -> Response<Body> {
    let nonce = Claim::read(&body).ok().and_then(|claim| claim.nonce.parse::<Digest>().ok());
    let Some(nonce) = nonce else { return text(StatusCode::BAD_REQUEST, "expected the SHA-256 of a nonce\n") };
    let from = *ends.peer.ip();
    let claimed = beside({
        let boots = Arc::clone(&boots);
        move || boots.own.claim(&boot, nonce, boots.neighbours.card_at(from))
    });
    match claimed.await {
        Ok(report) => text(StatusCode::OK, Claimed { report }.render()),
        Err(Unclaimed::NotGiven(reason)) => {
            let status = match reason {
                NotGiven::Unknown => StatusCode::NOT_FOUND,
                NotGiven::Taken => StatusCode::CONFLICT,
                NotGiven::Elsewhere => StatusCode::FORBIDDEN,
            };
            text(status, format!("{}\n", sentence(reason)))
        }
        Err(Unclaimed::Store(error)) => {
            tracing::error!(error = bramble_system::sentence(&error), "a boot could not be claimed");
            text(StatusCode::SERVICE_UNAVAILABLE, "the head cannot write it down; ask again\n")
        }
    }
}

/// `POST /v1/boots/REPORTER/report`: stage 1 of this boot reports a step. What the boot's claim was answered is the
/// capability: only the head and the booting machine know it, and it ends when the machine's agent is let in.
pub(crate) async fn report(
    State(boots): State<Arc<Boots>>,
    Extension(ends): Extension<Ends>,
    Path(reporter): Path<String>,
    body: Bytes,
) -> StatusCode {
    let Some(node) = boots.reports(&reporter, *ends.peer.ip()) else { return StatusCode::NOT_FOUND };
    let what = match Report::read(&body) {
        Ok(Report::Step { step, percent }) => What::Stage1 { step, percent },
        Ok(Report::Failed { kind, reason, retry_in_seconds }) => {
            What::Failed { reason, retry_in_seconds, failure: kind }
        }
        Err(error) => {
            tracing::debug!(%node, %error, "a report that is none");
            return StatusCode::BAD_REQUEST;
        }
    };
    boots.timeline.add(Some(&node), what);
    StatusCode::NO_CONTENT
}

impl Boots {
    /// A file of a boot set is being fetched from its beginning: a step of the boot that fetches it.
    pub(super) fn fetching(&self, digest: &Digest, fetch: Fetch, from: Ipv4Addr, bytes: u64) {
        let (Some(boot), Some(name)) = (fetch.boot, fetch.name) else { return };
        let Some(node) = self.machine_of_boot(&boot, from) else { return };
        tracing::debug!(%node, %digest, "fetches a file");
        self.timeline.add(Some(&node), What::Fetching { file: name.as_str().into(), bytes });
        if let Some(pci) = fetch.card.as_deref().and_then(pci) {
            self.timeline.add(Some(&node), What::Card { pci });
        }
    }
}
