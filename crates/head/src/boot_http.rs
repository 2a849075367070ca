//! What a booting machine fetches over HTTP: its script, its files, and where it reports.

use std::io::SeekFrom;
use std::net::SocketAddrV4;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Method, Response, StatusCode, header};
use axum::response::IntoResponse;
use axum::{Extension, Json};
use bramble_image::BootSet;
use bramble_model::names::{BootId, BootTag, Digest, Mac, Name};
use bramble_model::timeline::What;
use bramble_netboot::Cpu;
use bramble_netboot::ipxe::{self, Arguments, Script};
use bramble_netboot::tftp::Content;
use bramble_system::now;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use crate::Head;
use crate::files::Served;
use crate::foreign::{Answer, Handed};
use crate::http::Ends;

/// Kernel arguments of a machine that only says what it is: no engine, and nobody who logs in.
const INVENTORY: &str = " bramble.inventory=1 systemd.mask=docker.service systemd.mask=containerd.service";
/// Bytes read from disk at a time.
const CHUNK: usize = 256 << 10;
/// The longest reason that a node can give, in bytes.
const LONGEST_REASON: usize = 2000;

pub(crate) fn text(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text.into()).into_response()
}

/// What a loader says of itself.
#[derive(Deserialize)]
pub(crate) struct Loader {
    arch: Option<String>,
}

/// `GET /boot/script/MAC`: a new boot for the node with this card.
pub(crate) async fn script(
    State(head): State<Arc<Head>>,
    Extension(ends): Extension<Ends>,
    Path(mac): Path<String>,
    Query(loader): Query<Loader>,
) -> Response<Body> {
    let Ok(mac) = mac.parse::<Mac>() else { return text(StatusCode::BAD_REQUEST, "not a MAC address\n") };
    if head.node_of(mac).is_none() {
        head.saw_unknown(mac, "iPXE".into(), None);
        return text(StatusCode::NOT_FOUND, "this machine is not in the repository\n");
    }
    head.wire.learn(*ends.peer.ip(), mac);
    let http = ends.http(&head);
    let architecture = ipxe::architecture(loader.arch.as_deref());
    let made = tokio::task::spawn_blocking({
        let head = Arc::clone(&head);
        move || head.script(mac, architecture, http)
    });
    let script = match made.await {
        Ok(Ok(script)) => script,
        Ok(Err(reason)) => ipxe::wait_script(&reason, http),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    };
    text(StatusCode::OK, script)
}

pub(crate) fn hex(bytes: [u8; 16]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the timeline tells of a boot.
pub(crate) fn tag(boot: &BootId) -> BootTag {
    BootTag(Digest(Sha256::digest(boot.0.as_bytes()).into()).short())
}

impl Head {
    /// The script of a new boot; or the reason why there is none.
    fn script(&self, mac: Mac, architecture: Cpu, http: SocketAddrV4) -> Result<String, String> {
        let node = &self.node_of(mac).ok_or("this machine is not in the repository")?;
        Ok(match self.answer(node, mac, http)? {
            Some(Answer::Kernel(Handed { kernel, initrds, cmdline })) => ipxe::start(node, &kernel, &cmdline, &initrds),
            Some(Answer::Efi(url)) => ipxe::chain_script(node, &url),
            Some(Answer::Disk) => ipxe::disk_script(mac),
            None => self.new_boot(node, mac, architecture, http, |arguments, set| {
                let manifest = &set.manifest;
                Script { arguments, kernel: &manifest.kernel.sha256, initrd: &manifest.initrd.sha256 }.render()
            })?,
        })
    }

    /// The boot set of this instruction set; or the reason why there is none.
    pub(crate) fn set_for(&self, cpu: Cpu) -> Result<BootSet, String> {
        let architecture = cpu.architecture().ok_or_else(|| {
            format!(
                "bramble's system is for amd64 and arm64, and this machine is {cpu}: give it a `[boot.NAME]` profile"
            )
        })?;
        self.shelf.current(architecture).map_err(|error| error.to_string())
    }

    /// Hands out a boot of bramble's own system, stored before it is told; or the reason why there is
    /// none. `tell` renders it for the loader.
    pub(crate) fn new_boot<T>(
        &self,
        node: &Name,
        mac: Mac,
        architecture: Cpu,
        http: SocketAddrV4,
        tell: impl FnOnce(Arguments<'_>, &BootSet) -> T,
    ) -> Result<T, String> {
        let set = self.set_for(architecture)?;
        let boot = BootId(hex(rand::random::<[u8; 16]>()));
        let nonce = hex(rand::random::<[u8; 16]>());
        let digest = Digest(Sha256::digest(nonce.as_bytes()).into());
        let stored = self.store.change_admission(node, |record| record.serve(boot.clone(), digest, set.digest, now()));
        stored.map_err(|error| error.to_string())?;
        tracing::debug!(%node, %mac, "a new boot");
        let mut cmdline = set.manifest.cmdline.clone();
        if self.begins_inventory(node) {
            cmdline += INVENTORY;
        }
        self.timeline.add(Some(node), What::ScriptServed { boot: tag(&boot), set: set.digest.short() });
        // A boot that was handed out is in the timeline, too, should the head be killed now.
        self.timeline.flush();
        let arguments = Arguments {
            node,
            http,
            agent_port: self.network.agent_port,
            boot: &boot,
            nonce: &nonce,
            set: &set.digest,
            cmdline: &cmdline,
        };
        Ok(tell(arguments, &set))
    }
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

/// Which boot fetches, what it calls the file, and which network card its loader uses: bus type 1
/// (PCI), vendor and device, as iPXE's `busid` has them in hex.
#[derive(Deserialize)]
pub(crate) struct Fetch {
    boot: Option<String>,
    name: Option<String>,
    card: Option<String>,
}

/// `01808610d3` is the PCI card `8086:10d3`.
fn pci(busid: &str) -> Option<String> {
    let id = busid.strip_prefix("01").filter(|id| id.len() == 8 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    Some(format!("{}:{}", &id[..4], &id[4..]).to_ascii_lowercase())
}

/// `GET /boot/files/SHA256`: a file of a boot set, or a part of it.
pub(crate) async fn file(
    State(head): State<Arc<Head>>,
    Path(digest): Path<String>,
    Query(fetch): Query<Fetch>,
    method: Method,
    headers: HeaderMap,
) -> Response<Body> {
    let Ok(digest) = digest.parse::<Digest>() else { return text(StatusCode::NOT_FOUND, "not a digest\n") };
    let path = head.shelf.file(&digest);
    let mut response = send_file(&path, &headers).await;
    if response.status() == StatusCode::OK && method == Method::GET {
        head.fetching(&digest, fetch, std::fs::metadata(path).map_or(0, |data| data.len()));
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
    State(head): State<Arc<Head>>,
    Extension(ends): Extension<Ends>,
    method: Method,
    Path(name): Path<String>,
) -> Response<Body> {
    let name = name.trim_start_matches('/');
    let (bytes, body) = match head.loader(name) {
        Some(Content::Memory(bytes)) => (bytes.len() as u64, Body::from(Bytes::from_owner(bytes))),
        Some(Content::File { file, size }) => {
            let file = File::from_std(file.try_clone().expect("descriptors are left"));
            (size, Body::from_stream(ReaderStream::with_capacity(file.take(size), CHUNK)))
        }
        None => return text(StatusCode::NOT_FOUND, "no such loader\n"),
    };
    if method == Method::GET
        && let Some((_, node)) = head.node_at(*ends.peer.ip())
    {
        head.loader_sent(&node, name);
        head.timeline.add(Some(&node), What::HttpSent { file: name.to_owned(), bytes });
    }
    ([(header::CONTENT_TYPE, "application/efi".to_owned()), (header::CONTENT_LENGTH, bytes.to_string())], body)
        .into_response()
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
    /// A file of a boot set is being fetched from its beginning: a step of the boot that fetches it.
    pub(crate) fn fetching(&self, digest: &Digest, fetch: Fetch, bytes: u64) {
        let (Some(boot), Some(name)) = (fetch.boot, fetch.name) else { return };
        let Some(node) = self.node_of_boot(&boot) else { return };
        tracing::debug!(%node, %digest, "fetches a file");
        let name: String = name.chars().filter(char::is_ascii_alphanumeric).take(32).collect();
        self.timeline.add(Some(&node), What::Fetching { file: name, bytes });
        if let Some(pci) = fetch.card.as_deref().and_then(pci) {
            self.timeline.add(Some(&node), What::Card { pci });
        }
    }

    /// The node, or the machine that is to be adopted, whose present boot this is.
    pub(crate) fn node_of_boot(&self, boot: &str) -> Option<Name> {
        self.cluster()
            .nodes
            .keys()
            .chain(&self.adopted_names())
            .find(|node| {
                let record = self.store.admission(node).unwrap_or_default();
                record.boot().is_some_and(|present| present.id.0 == boot)
            })
            .cloned()
    }
}
