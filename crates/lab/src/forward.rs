//! Ports of the computer's loopback that lead into the lab.
//!
//! A socket belongs to the namespace that it was made in: the listeners were made outside and
//! handed in, so what they accept comes from outside and what is connected here stays inside.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Forwards until dropped. A connection that comes before there is a target is closed.
pub(crate) async fn run(listener: TcpListener, target: watch::Receiver<Option<SocketAddr>>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        let (Ok((mut outside, _)), Some(to)) = (accepted, *target.borrow()) else { continue };
        connections.spawn(async move {
            // Either end may go away at any time; then both are closed.
            if let Ok(mut inside) = TcpStream::connect(to).await {
                let _ = copy_bidirectional(&mut outside, &mut inside).await;
            }
        });
    }
}
