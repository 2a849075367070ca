//! The HTTP listeners. On the nodes' wires, files of boot sets come first, by [`files`], and everything else
//! goes to the routes of the API; the same routes, and those that change something, over TLS and on the
//! control socket.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower_service::Service as _;

use crate::access::Door;
use crate::gate::Gate;
use crate::{Error, Head, api, files, service};

/// How long a client may take to say what it wants: the head of a request, from its first byte to its last.
const SILENCE: Duration = Duration::from_secs(20);
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Streams of layers may run for minutes, and whoever stops the head does not wait for them.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// The longest head of a request, in bytes.
const LONGEST_HEAD: usize = 16 << 10;
/// Connections in all and from one address. A thousand machines that boot at once fetch a few files each.
const MOST: usize = 6000;
const MOST_OF_ONE: usize = 512;

/// The two ends of a connection: where the machine is, and as what it knows the head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends {
    pub(crate) local: SocketAddrV4,
    pub(crate) peer: SocketAddrV4,
}

impl Ends {
    fn of(stream: &TcpStream, peer: SocketAddr) -> io::Result<Self> {
        let v4 = |address| match address {
            SocketAddr::V4(address) => address,
            // The listener's own address is of version 4.
            SocketAddr::V6(_) => SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0),
        };
        Ok(Ends { local: v4(stream.local_addr()?), peer: v4(peer) })
    }

    /// The HTTP service, as this machine reaches it.
    pub(crate) fn http(&self, head: &Head) -> SocketAddrV4 {
        head.network.http(*self.local.ip())
    }
}

/// Waits until `stop` and a moment more.
async fn ended(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(LAST_WORDS).await;
}

/// Accepts for ever, and has each connection handled beside the others; a panic of one surfaces.
async fn accept<S, A, W>(accepting: impl Fn() -> A, handle: impl Fn(S) -> Option<W>) -> std::convert::Infallible
where
    A: Future<Output = io::Result<S>>,
    W: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                if let Err(error) = ended && error.is_panic() {
                    std::panic::resume_unwind(error.into_panic());
                }
                continue;
            }
            accepted = accepting() => accepted,
        };
        match accepted {
            Ok(stream) => {
                if let Some(work) = handle(stream) {
                    connections.spawn(work);
                }
            }
            // Out of file descriptors, say: the next one may work.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

type Part = Result<(), Error>;

/// Serves at one address of the nodes' wires until `stop`.
///
/// # Errors
/// When the port cannot be had.
pub(crate) async fn serve(
    head: Arc<Head>,
    address: Ipv4Addr,
    stop: CancellationToken,
) -> Result<impl Future<Output = Part> + use<>, Error> {
    let address = head.network.http(address);
    let listener = TcpListener::bind(address).await.map_err(service(&format!("HTTP ({address})")))?;
    let routes = api::on_the_wire(Arc::clone(&head));
    let gate = Gate::new(MOST, MOST_OF_ONE);
    Ok(async move {
        let handle = |(stream, from): (TcpStream, SocketAddr)| {
            let pass = gate.enter(from.ip())?;
            let (head, routes) = (Arc::clone(&head), routes.clone());
            Some(async move {
                let _pass = pass;
                let Some(stream) = files::serve(&head, stream).await else { return };
                let Ok(ends) = Ends::of(&stream, from) else { return };
                converse(stream, Door::Wire(ends), routes).await;
            })
        };
        tokio::select! {
            never = accept(|| listener.accept(), handle) => match never {},
            () = ended(&stop) => Ok(()),
        }
    })
}

/// Serves people and programs over TLS at one address until `stop`.
///
/// # Errors
/// When the port cannot be had, or there is no certificate.
pub(crate) async fn serve_tls(
    head: Arc<Head>,
    address: Ipv4Addr,
    stop: CancellationToken,
) -> Result<impl Future<Output = Part> + use<>, Error> {
    let address = SocketAddrV4::new(address, head.network.https_port);
    let listener = TcpListener::bind(address).await.map_err(service(&format!("HTTPS ({address})")))?;
    let tls = TlsAcceptor::from(Arc::new(head.authority.tls_for_people()?));
    let routes = api::over_tls(head);
    let gate = Gate::new(MOST, MOST_OF_ONE);
    Ok(async move {
        let handle = |(stream, from): (TcpStream, SocketAddr)| {
            let pass = gate.enter(from.ip())?;
            let (tls, routes) = (tls.clone(), routes.clone());
            Some(async move {
                let _pass = pass;
                match timeout(HANDSHAKE, tls.accept(stream)).await {
                    Ok(Ok(stream)) => converse(stream, Door::Tls(from), routes).await,
                    Ok(Err(error)) => tracing::debug!(%from, %error, "no TLS handshake"),
                    Err(_) => tracing::debug!(%from, "no TLS handshake in time"),
                }
            })
        };
        tokio::select! {
            never = accept(|| listener.accept(), handle) => match never {},
            () = ended(&stop) => Ok(()),
        }
    })
}

/// Serves the command line on a Unix socket that only its owner may open, until `stop`.
///
/// # Errors
/// When the socket cannot be made.
pub(crate) fn control(
    head: Arc<Head>,
    path: &Path,
    stop: CancellationToken,
) -> Result<impl Future<Output = Part> + use<>, Error> {
    use std::os::unix::fs::PermissionsExt;
    let name = format!("control socket {}", path.display());
    let open = || {
        // The store's lock has been taken by now, so a socket that lies there is a dead head's.
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    let listener = match open() {
        Ok(listener) => Some(listener),
        // Boots go on on such a disk, and people reach the head over TLS.
        Err(error) if matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::StorageFull) => {
            tracing::error!(%error, "there is no control socket: use `bramble login`");
            None
        }
        Err(error) => return Err(service(&name)(error)),
    };
    let routes = api::on_the_socket(head);
    let gate = Gate::new(MOST, MOST);
    let path = path.to_owned();
    Ok(async move {
        let handle = |(stream, _): (tokio::net::UnixStream, _)| {
            let pass = gate.enter(IpAddr::V4(Ipv4Addr::LOCALHOST))?;
            let user = stream.peer_cred().ok()?.uid();
            let routes = routes.clone();
            Some(async move {
                let _pass = pass;
                converse(stream, Door::Socket { user }, routes).await;
            })
        };
        let accepting = async {
            match &listener {
                Some(listener) => match accept(|| listener.accept(), handle).await {},
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = accepting => {}
            () = ended(&stop) => {}
        }
        // The next head makes its own.
        let _ = std::fs::remove_file(path);
        Ok(())
    })
}

/// Answers what this connection asks, to its end. Headers are written `Content-Length` and not
/// `content-length`: GRUB over UEFI's HTTP compares them letter by letter, and takes a file for empty.
async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, door: Door, routes: Router) {
    let answer = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(door);
        if let Door::Wire(ends) = door {
            request.extensions_mut().insert(ends);
        }
        routes.clone().call(request)
    });
    let ended = http1::Builder::new()
        .title_case_headers(true)
        .timer(TokioTimer::new())
        .header_read_timeout(SILENCE)
        .max_buf_size(LONGEST_HEAD)
        .serve_connection(TokioIo::new(stream), answer)
        .with_upgrades()
        .await;
    if let Err(error) = ended {
        tracing::debug!(?door, %error, "an HTTP connection ended");
    }
}
