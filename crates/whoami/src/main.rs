//! Answers every HTTP request with who it is: node, replica and release. Small enough to travel
//! in a boot set, so a cluster has something to run before it has any registry.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

fn main() -> std::io::Result<()> {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let port = std::env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(8000_u16);
    let text = format!("node={}\nreplica={}\nrelease={}\n", variable("NODE"), variable("REPLICA"), variable("RELEASE"));
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    for stream in listener.incoming() {
        let text = text.clone();
        // A client that hangs or goes away concerns its own thread only.
        thread::spawn(move || stream.and_then(|stream| answer(stream, &text)));
    }
    Ok(())
}

fn answer(mut stream: TcpStream, text: &str) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut request = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    // To the empty line that ends the headers; what is asked for makes no difference.
    while request.read_line(&mut line)? > 2 {
        line.clear();
    }
    let length = text.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}"
    )
}
