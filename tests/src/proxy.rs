//! A network that goes away: an HTTP proxy that relays so many bytes and then nothing.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;

/// The proxy, until its test ends.
pub struct Proxy {
    address: SocketAddr,
    left: Arc<AtomicI64>,
}

impl Proxy {
    /// Relays `bytes` towards its clients.
    pub fn start(bytes: i64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let left = Arc::new(AtomicI64::new(bytes));
        let budget = Arc::clone(&left);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let budget = Arc::clone(&budget);
                thread::spawn(move || relay(client, &budget));
            }
        });
        Proxy { address, left }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Whether all that it relays has been relayed.
    pub fn is_used_up(&self) -> bool {
        self.left.load(Ordering::Relaxed) <= 0
    }
}

/// Connects a client to the server that its first request names (RFC 9112, section 3.2.2), or to
/// the proxy that this machine is told to use.
fn relay(mut client: TcpStream, left: &AtomicI64) -> Option<()> {
    if left.load(Ordering::Relaxed) <= 0 {
        return None;
    }
    let mut request = vec![0; 64 << 10];
    let length = client.read(&mut request).ok()?;
    let line = String::from_utf8_lossy(&request[..length]);
    let named = std::env::var("http_proxy").ok().filter(|proxy| !proxy.is_empty());
    let url = named.unwrap_or_else(|| line.split(' ').nth(1).unwrap_or_default().to_owned());
    let host = url.strip_prefix("http://")?.split('/').next()?.to_owned();
    let host = if host.contains(':') { host } else { format!("{host}:80") };
    let mut server = TcpStream::connect(host.to_socket_addrs().ok()?.next()?).ok()?;
    server.write_all(&request[..length]).ok()?;
    let (mut from_client, mut to_server) = (client.try_clone().ok()?, server.try_clone().ok()?);
    thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = server.read(&mut buffer).ok().filter(|read| *read > 0)?;
        if left.fetch_sub(i64::try_from(read).ok()?, Ordering::Relaxed) <= 0 {
            let _ = client.shutdown(Shutdown::Both);
            return None;
        }
        client.write_all(&buffer[..read]).ok()?;
    }
}
