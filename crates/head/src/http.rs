//! The HTTP listeners. On the nodes' wires, files of boot sets come first, by [`files`], and everything else
//! goes to the routes of the API; the same routes, and those that change something, over TLS. The control socket has
//! a file of its own.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::StatusCode;
use bramble_model::repository::Network;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower_service::Service as _;

use crate::access::Door;
use crate::boots::{Boots, files};
use crate::ca::Authority;
use crate::ends::Ends;
use crate::error::Error;
use crate::gate::{self, Gate, Held, Pass};
use crate::timely::Timely;
use crate::vanished::Vanished;

/// How long a client may take to say what it wants: the head of a request, from its first byte to its last.
const SILENCE: Duration = Duration::from_secs(20);
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Streams of layers may run for minutes, and whoever stops the head does not wait for them.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// The longest head of a request, in bytes.
const LONGEST_HEAD: usize = 16 << 10;
/// Waits until `stop` and a moment more.
pub(crate) async fn ended(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(LAST_WORDS).await;
}

pub(crate) type Part = Result<(), Error>;

/// Whether the ports of this address can be had now, for a head that has not begun yet.
///
/// # Errors
/// When one cannot.
pub(crate) fn are_free(address: Ipv4Addr, network: &Network) -> Result<(), Error> {
    let ports = [("HTTP", network.http_port), ("HTTPS", network.https_port), ("agents", network.agent_port)];
    for (name, port) in ports {
        let address = SocketAddrV4::new(address, port);
        // Let go of again at once: whoever begins takes it then.
        std::net::TcpListener::bind(address).map_err(Error::service(&format!("{name} ({address})")))?;
    }
    Ok(())
}

/// Serves at one address of the nodes' wires until `stop`.
///
/// # Errors
/// When the port cannot be had.
pub(crate) async fn serve(
    boots: Arc<Boots>,
    routes: Router,
    address: SocketAddrV4,
    gate: Arc<Gate>,
    stop: CancellationToken,
) -> Result<impl Future<Output = Part> + use<>, Error> {
    let listener = TcpListener::bind(address).await.map_err(Error::service(&format!("HTTP ({address})")))?;
    Ok(async move {
        let handle = |(stream, from): (TcpStream, SocketAddr)| {
            let pass = gate.enter(from.ip())?;
            let (boots, routes) = (Arc::clone(&boots), routes.clone());
            Some(async move {
                let serving = async {
                    let Some(stream) = files::serve(&boots, stream, &pass).await else { return };
                    let Ok(ends) = Ends::of(&stream, from) else { return };
                    converse(stream, Door::Wire(ends), routes, &pass).await;
                };
                if pass.stay().during(serving).await.is_none() {
                    tracing::debug!(%from, "it said nothing, and another one needs its room");
                }
            })
        };
        tokio::select! {
            never = gate::accept(|| listener.accept(), handle) => match never {},
            () = ended(&stop) => Ok(()),
        }
    })
}

/// Serves people and programs over TLS at one address until `stop`.
///
/// # Errors
/// When the port cannot be had, or there is no certificate.
pub(crate) async fn serve_tls(
    authority: &Authority,
    routes: Router,
    address: SocketAddrV4,
    gate: Arc<Gate>,
    stop: CancellationToken,
) -> Result<impl Future<Output = Part> + use<>, Error> {
    let listener = TcpListener::bind(address).await.map_err(Error::service(&format!("HTTPS ({address})")))?;
    let tls = TlsAcceptor::from(Arc::new(authority.tls_for_people()?));
    Ok(async move {
        let handle = |(stream, from): (TcpStream, SocketAddr)| {
            let pass = gate.enter(from.ip())?;
            if let Err(error) = Vanished::USUAL.is_noticed(&stream) {
                tracing::debug!(%from, %error, "whether this connection's other end is there is not asked");
            }
            let (tls, routes) = (tls.clone(), routes.clone());
            Some(async move {
                let serving = async {
                    match timeout(HANDSHAKE, tls.accept(stream)).await {
                        Ok(Ok(stream)) => converse(stream, Door::Tls(from), routes, &pass).await,
                        Ok(Err(error)) => tracing::debug!(%from, %error, "no TLS handshake"),
                        Err(_) => tracing::debug!(%from, "no TLS handshake in time"),
                    }
                };
                if pass.stay().during(serving).await.is_none() {
                    tracing::debug!(%from, "it said nothing, and another one needs its room");
                }
            })
        };
        tokio::select! {
            never = gate::accept(|| listener.accept(), handle) => match never {},
            () = ended(&stop) => Ok(()),
        }
    })
}

/// Answers what this connection asks, to its end. Headers are written `Content-Length` and not
/// `content-length`: GRUB over UEFI's HTTP compares them letter by letter, and takes a file for empty.
pub(crate) async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    door: Door,
    routes: Router,
    pass: &Arc<Pass>,
) {
    let is_upgraded = Arc::<AtomicBool>::default();
    let timely = match door {
        // It is the head's owner, whose pager may wait for as long as it likes.
        Door::Socket { is_owner: true, .. } => Timely::patient(stream),
        Door::Socket { is_owner: false, .. } | Door::Wire(_) | Door::Tls(_) => {
            Timely::new(stream, Arc::clone(&is_upgraded))
        }
    };
    let answer = service_fn(|mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(door);
        if let Door::Wire(ends) = door {
            request.extensions_mut().insert(ends);
        }
        // One that has gone for another begins nothing.
        let answered = pass.speaks().map(|speaks| {
            let held = Held::new(speaks);
            request.extensions_mut().insert(held.clone());
            (held, routes.clone().call(request))
        });
        let is_upgraded = Arc::clone(&is_upgraded);
        async move {
            let Some((held, answered)) = answered else { return Err(Gone) };
            let response = answered.await.unwrap_or_else(|never| match never {});
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                is_upgraded.store(true, Ordering::Relaxed);
            }
            Ok(response.map(|body| Serving { body, _held: held }))
        }
    });
    let ended = http1::Builder::new()
        .title_case_headers(true)
        .timer(TokioTimer::new())
        .header_read_timeout(SILENCE)
        .max_buf_size(LONGEST_HEAD)
        .serve_connection(TokioIo::new(timely), answer)
        .with_upgrades()
        .await;
    if let Err(error) = ended {
        tracing::debug!(?door, %error, "an HTTP connection ended");
    }
}

/// The connection has gone for another one.
#[derive(Debug, thiserror::Error)]
#[error("another connection needs its room")]
struct Gone;

/// A body on its way: its connection speaks until it is gone.
struct Serving {
    body: Body,
    _held: Held,
}

impl HttpBody for Serving {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_is_told_by_its_service() {
        let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let network = Network {
            interfaces: vec!["lo".into()],
            dhcp: bramble_model::repository::Dhcp::Router,
            pixiecore: None,
            relays: Vec::new(),
            http_port: 0,
            https_port: 0,
            agent_port: taken.local_addr().expect("bound").port(),
            no_ipv6_router: false,
        };
        let error = are_free(Ipv4Addr::LOCALHOST, &network).expect_err("taken");
        assert!(error.to_string().contains("agents (127.0.0.1:"), "{error}");
        assert!(error.help().is_some_and(|help| help.contains("another program has that port")), "{error}");
        drop(taken);
        are_free(Ipv4Addr::LOCALHOST, &network).expect("free again");
    }
}
