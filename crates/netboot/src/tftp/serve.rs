//! The sockets under the TFTP machine: one for requests, one for each transfer.

use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{End, Refusal, Step, Transfer, parse_request};
use crate::Directory;

/// Transfers at once; more wait for their client to ask again.
const MOST: usize = 1024;

/// Serves what `directory` has on `address`, port 69, until cancelled.
///
/// # Errors
/// When the port cannot be had.
pub async fn run(address: Ipv4Addr, directory: Arc<dyn Directory>, stop: CancellationToken) -> io::Result<()> {
    let socket = UdpSocket::bind((address, 69)).await?;
    let mut transfers = JoinSet::new();
    // A client that asks again before the first answer arrived has its transfer already.
    let mut running: HashSet<SocketAddr> = HashSet::new();
    let mut buffer = [0; 2048];
    loop {
        let (length, from) = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Some(done) = transfers.join_next(), if !transfers.is_empty() => {
                match done {
                    Ok(client) => { running.remove(&client); }
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Err(_) => {}
                }
                continue;
            }
            received = socket.recv_from(&mut buffer) => match received {
                Ok(received) => received,
                // An ICMP error of an earlier answer shows up here; the socket lives on.
                Err(_) => continue,
            },
        };
        let SocketAddr::V4(client) = from else { continue };
        let request = match parse_request(&buffer[..length]) {
            Ok(request) => request,
            Err(None) => continue,
            Err(Some(refusal)) => {
                let _ = socket.send_to(&refusal.packet(), from).await;
                continue;
            }
        };
        if transfers.len() >= MOST || running.contains(&from) {
            continue;
        }
        let Some(content) = directory.file(*client.ip(), &request.file) else {
            let _ = socket.send_to(&Refusal::NotFound.packet(), from).await;
            directory.read(*client.ip(), &request.file, End::Missing);
            continue;
        };
        running.insert(from);
        let directory = Arc::clone(&directory);
        transfers.spawn(async move {
            let (transfer, first) = Transfer::start(content, &request, Instant::now());
            match send(address, from, transfer, first).await {
                Ok(end) => directory.read(*client.ip(), &request.file, end),
                Err(error) => tracing::debug!(file = request.file, client = %from, %error, "no answer could be sent"),
            }
            from
        });
    }
}

async fn send(address: Ipv4Addr, to: SocketAddr, mut transfer: Transfer, mut step: Step) -> io::Result<End> {
    let socket = UdpSocket::bind((address, 0)).await?;
    socket.connect(to).await?;
    let mut buffer = [0; 2048];
    loop {
        match step {
            Step::Over(end) => return Ok(end),
            Step::Wait => {}
            Step::Send => {
                for packet in transfer.packets() {
                    socket.send(packet).await?;
                }
            }
        }
        let deadline = tokio::time::Instant::from_std(transfer.deadline());
        step = match tokio::time::timeout_at(deadline, socket.recv(&mut buffer)).await {
            Ok(Ok(length)) => transfer.packet(&buffer[..length], Instant::now()),
            // Nobody listens there any more (ICMP): the same as silence, and known at once.
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Step::Over(transfer.refused()),
            Ok(Err(error)) => return Err(error),
            Err(_) => transfer.timed_out(Instant::now()),
        };
    }
}
