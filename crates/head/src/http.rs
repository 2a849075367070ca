//! The HTTP listener on a wire: files of boot sets first, by [`files`], and everything else by the
//! routes of the API.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower_service::Service as _;

use crate::{Error, Head, api, files, service};

/// How long a client may take to say what it wants.
const SILENCE: Duration = Duration::from_secs(60);
/// Streams of layers may run for minutes, and whoever stops the head does not wait for them.
const LAST_WORDS: Duration = Duration::from_millis(300);

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
        head.cluster.network.http(*self.local.ip())
    }
}

/// Waits until `stop` and a moment more.
pub(crate) async fn ended(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(LAST_WORDS).await;
}

/// Serves at one address of the nodes' wires until `stop`.
///
/// # Errors
/// When the port cannot be had.
pub(crate) async fn serve(
    head: Arc<Head>,
    address: Ipv4Addr,
    stop: CancellationToken,
) -> Result<impl Future<Output = Result<(), Error>> + use<>, Error> {
    let address = head.cluster.network.http(address);
    let listener = TcpListener::bind(address).await.map_err(service(&format!("HTTP ({address})")))?;
    let routes = api::public(Arc::clone(&head));
    Ok(async move {
        tokio::select! {
            never = accept(head, routes, listener) => match never {},
            () = ended(&stop) => Ok(()),
        }
    })
}

/// Accepts for ever.
async fn accept(head: Arc<Head>, routes: Router, listener: TcpListener) -> std::convert::Infallible {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                if let Err(error) = ended && error.is_panic() {
                    std::panic::resume_unwind(error.into_panic());
                }
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        // Out of file descriptors, say: the next one may work.
        let Ok((stream, from)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (head, routes) = (Arc::clone(&head), routes.clone());
        connections.spawn(async move {
            if let Some(stream) = files::serve(&head, stream).await
                && let Err(error) = converse(stream, from, routes).await
            {
                tracing::debug!(%from, %error, "an HTTP connection ended");
            }
        });
    }
}

/// Answers what this connection asks, to its end. Headers are written `Content-Length` and not
/// `content-length`: GRUB over UEFI's HTTP compares them letter by letter, and takes a file for empty.
async fn converse(stream: TcpStream, from: SocketAddr, routes: Router) -> Result<(), axum::BoxError> {
    let ends = Ends::of(&stream, from)?;
    let answer = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(ConnectInfo(ends));
        routes.clone().call(request)
    });
    http1::Builder::new()
        .title_case_headers(true)
        .timer(TokioTimer::new())
        .header_read_timeout(SILENCE)
        .serve_connection(TokioIo::new(stream), answer)
        .await?;
    Ok(())
}
