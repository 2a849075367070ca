//! The sockets under the TFTP machine: one for requests, one for each transfer.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Refusal, Step, Transfer, parse_request};
use crate::Directory;

/// Transfers at once; more wait for their client to ask again.
const MOST: usize = 256;

/// The files that are served, by name. Held in memory: there is no path to leave.
pub type Files = std::collections::BTreeMap<String, Arc<[u8]>>;

/// Serves `files` on `address`, port 69, until cancelled.
///
/// # Errors
/// When the port cannot be had.
pub async fn run(
    address: Ipv4Addr,
    files: Arc<Files>,
    directory: Arc<dyn Directory>,
    stop: CancellationToken,
) -> io::Result<()> {
    let socket = UdpSocket::bind((address, 69)).await?;
    let mut transfers = JoinSet::new();
    let mut buffer = [0; 2048];
    loop {
        let (length, from) = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Some(done) = transfers.join_next(), if !transfers.is_empty() => {
                if let Err(error) = done && error.is_panic() {
                    std::panic::resume_unwind(error.into_panic());
                }
                continue;
            }
            received = socket.recv_from(&mut buffer) => match received {
                Ok(received) => received,
                // An ICMP error of an earlier answer shows up here; the socket lives on.
                Err(_) => continue,
            },
        };
        let request = match parse_request(&buffer[..length]) {
            Ok(request) => request,
            Err(None) => continue,
            Err(Some(refusal)) => {
                let _ = socket.send_to(&refusal.packet(), from).await;
                continue;
            }
        };
        let Some(file) = files.get(&request.file).cloned() else {
            tracing::debug!(file = request.file, client = %from, "no such file");
            let _ = socket.send_to(&Refusal::NotFound.packet(), from).await;
            continue;
        };
        if transfers.len() >= MOST {
            continue;
        }
        let directory = Arc::clone(&directory);
        transfers.spawn(async move {
            let bytes = file.len() as u64;
            let (transfer, first) = Transfer::start(file, &request, Instant::now());
            match send(address, from, transfer, first).await {
                Ok(()) => {
                    if let SocketAddr::V4(from) = from {
                        directory.tftp_sent(*from.ip(), &request.file, bytes);
                    }
                }
                // Firmware aborts transfers on purpose, to learn a file's size.
                Err(error) => tracing::debug!(file = request.file, client = %from, %error, "transfer ended early"),
            }
        });
    }
}

async fn send(address: Ipv4Addr, to: SocketAddr, mut transfer: Transfer, mut step: Step) -> io::Result<()> {
    let socket = UdpSocket::bind((address, 0)).await?;
    socket.connect(to).await?;
    let mut buffer = [0; 2048];
    loop {
        match step {
            Step::Done => return Ok(()),
            Step::Failed(reason) => return Err(io::Error::other(reason)),
            Step::Wait => {}
            Step::Send(packets) => {
                for packet in packets {
                    socket.send(&packet).await?;
                }
            }
        }
        let deadline = tokio::time::Instant::from_std(transfer.deadline());
        step = match tokio::time::timeout_at(deadline, socket.recv(&mut buffer)).await {
            Ok(received) => transfer.packet(&buffer[..received?], Instant::now()),
            Err(_) => transfer.timed_out(Instant::now()),
        };
    }
}
