//! Git's own HTTP backend (git-http-backend(1)) behind a small server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread;

/// An HTTP server with git's own backend. Dropped, it no longer answers.
pub struct Http {
    pub port: u16,
    ends: Arc<AtomicBool>,
    /// Every answer is this status, where it is not 0.
    pub always: Arc<AtomicU16>,
}

impl Http {
    pub fn serve(root: &Path, authorization: Option<&'static str>) -> Http {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (ends, always) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU16::new(0)));
        let (root, over, status) = (root.to_owned(), ends.clone(), always.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let (root, status) = (root.clone(), status.load(Ordering::Relaxed));
                thread::spawn(move || answer(stream, &root, authorization, status));
            }
        });
        Http { port, ends, always }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

fn answer(mut stream: TcpStream, root: &Path, authorization: Option<&str>, always: u16) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let header = |name: &str| headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.clone());
    if always != 0 {
        let to = "Location: http://127.0.0.1:1/elsewhere\r\n";
        return write!(stream, "HTTP/1.1 {always} So\r\n{to}Content-Length: 0\r\nConnection: close\r\n\r\n").ok();
    }
    if authorization.is_some() && header("authorization").as_deref() != authorization {
        let ask = "WWW-Authenticate: Basic realm=\"git\"\r\nContent-Length: 0\r\nConnection: close";
        return write!(stream, "HTTP/1.1 401 Unauthorized\r\n{ask}\r\n\r\n").ok();
    }
    let mut body = vec![0; header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    let mut child = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("REQUEST_METHOD", &method)
        .env("CONTENT_TYPE", header("content-type").unwrap_or_default())
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", header("content-encoding").unwrap_or_default())
        .env("GIT_PROTOCOL", header("git-protocol").unwrap_or_default())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut stdin = child.stdin.take()?;
    thread::spawn(move || stdin.write_all(&body));
    let said = child.wait_with_output().ok()?.stdout;
    let end = said.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&said[..end]).into_owned();
    let status = head.lines().find_map(|line| line.strip_prefix("Status: ")).unwrap_or("200 OK");
    write!(stream, "HTTP/1.1 {status}\r\n{head}\r\nConnection: close\r\n\r\n").ok()?;
    stream.write_all(&said[end + 4..]).ok()
}
