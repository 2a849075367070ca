//! Files of boot sets straight from the page cache to the wire: sendfile(2).
//!
//! A connection whose first request is `GET /boot/files/…` is answered here, any number of times; every
//! other one goes on to the router untouched, since what it said was only looked at (`MSG_PEEK`).

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Query;
use axum::http::{StatusCode, Uri};
use bramble_model::names::Digest;
use bramble_netboot::range::{Part, part};
use rustix::fs::{Advice, fadvise, sendfile};
use rustix::net::sockopt::set_tcp_cork;
use rustix::net::{RecvFlags, recv};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::Boots;
use crate::access::is_a_machines;
use crate::gate::Pass;

const PREFIX: &[u8] = b"GET /boot/files/";
/// Longer request heads are the router's to refuse.
const LONGEST_HEAD: usize = 4096;
/// How long a client may be silent before its request, and while it is sent a file.
const SILENCE: Duration = Duration::from_secs(60);
/// What a machine takes at least in that time, in bytes: a root of 200 MB in three hours.
const LEAST: u64 = 1 << 20;
/// Bytes handed to the kernel at once.
const CHUNK: usize = 2 << 20;

/// Which boot fetches, what it calls the file, and which network card its loader uses: bus type 1
/// (PCI), vendor and device, as iPXE's `busid` has them in hex.
#[derive(Deserialize)]
pub(crate) struct Fetch {
    pub(super) boot: Option<String>,
    pub(super) name: Option<String>,
    pub(super) card: Option<String>,
}

/// How a request for a file is answered (RFC 9110, section 14).
pub(crate) struct Served {
    pub(crate) status: StatusCode,
    pub(crate) start: u64,
    pub(crate) length: u64,
    /// What `Content-Range` says.
    pub(crate) range: Option<String>,
}

impl Served {
    /// Of a file of `size` bytes, with this `Range` header.
    pub(crate) fn of(range: Option<&str>, size: u64) -> Self {
        match part(range, size) {
            Part::Whole => Served { status: StatusCode::OK, start: 0, length: size, range: None },
            Part::Range { start, length } => {
                let range = Some(format!("bytes {start}-{}/{size}", start + length - 1));
                Served { status: StatusCode::PARTIAL_CONTENT, start, length, range }
            }
            Part::Unsatisfiable => {
                let range = Some(format!("bytes */{size}"));
                Served { status: StatusCode::RANGE_NOT_SATISFIABLE, start: 0, length: 0, range }
            }
        }
    }
}

/// How slowly a file may leave: a machine that takes less than [`LEAST`] within [`SILENCE`] is gone, or only holds the
/// connection.
struct Pace {
    until: Instant,
    so_far: u64,
}

impl Pace {
    fn begin(now: Instant) -> Self {
        Pace { until: now + SILENCE, so_far: 0 }
    }

    /// When it has taken too long.
    fn until(&self) -> Instant {
        self.until
    }

    fn sent(&mut self, bytes: u64, now: Instant) {
        self.so_far += bytes;
        if self.so_far >= LEAST {
            *self = Pace::begin(now);
        }
    }
}

/// What a connection has said so far.
enum Said {
    /// A whole request for a file, of so many bytes.
    Request(usize),
    Part,
    Other,
}

fn said(bytes: &[u8]) -> Said {
    let same = bytes.len().min(PREFIX.len());
    if bytes[..same] != PREFIX[..same] {
        return Said::Other;
    }
    match bytes.windows(4).position(|end| end == b"\r\n\r\n") {
        Some(at) => Said::Request(at + 4),
        None if bytes.len() >= LONGEST_HEAD => Said::Other,
        None => Said::Part,
    }
}

/// A request for a file, read.
struct Request {
    uri: Uri,
    range: Option<String>,
    keep: bool,
}

fn parse(head: &[u8]) -> Option<Request> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut request = httparse::Request::new(&mut headers);
    request.parse(head).ok()?.is_complete().then_some(())?;
    let value = |name: &str| {
        let header = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        header.and_then(|header| std::str::from_utf8(header.value).ok())
    };
    let connection = value("connection").map(str::to_ascii_lowercase);
    // RFC 9112, section 9.3: 1.1 stays open unless it says not to, 1.0 closes unless it says not to.
    let keep = match connection.as_deref() {
        Some("close") => false,
        Some("keep-alive") => true,
        _ => request.version == Some(1),
    };
    // A body has no place here, and would be taken for the next request.
    if value("content-length").is_some_and(|length| length != "0") || value("transfer-encoding").is_some() {
        return None;
    }
    // A browser, or a name that may not be the head's: whether it is answered is the router's to say.
    let from_a_machine = request.headers.iter().all(|header| is_a_machines(header.name, header.value));
    from_a_machine.then_some(())?;
    Some(Request { uri: request.path?.parse().ok()?, range: value("range").map(str::to_owned), keep })
}

/// Serves files on this connection for as long as it asks for nothing else. Gives the connection back
/// for another request; `None` where it has ended.
pub(crate) async fn serve(boots: &Boots, mut stream: TcpStream, pass: &Arc<Pass>) -> Option<TcpStream> {
    let mut buffer = [0; LONGEST_HEAD];
    loop {
        let length = timeout(SILENCE, request(&stream, &mut buffer)).await.ok()?.ok()?;
        let Some(length) = length else { return Some(stream) };
        let Some(asked) = parse(&buffer[..length]) else { return Some(stream) };
        let _speaks = pass.speaks()?;
        stream.read_exact(&mut buffer[..length]).await.ok()?;
        stream = answer(boots, stream, &asked).await.ok()?;
        if !asked.keep {
            return None;
        }
    }
}

/// Bytes of the next request for a file; `None` for any other request. What has come of it stays readable, and who sends
/// half of one is looked at again only when more has come.
async fn request(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    let mut seen = 0;
    loop {
        let ready = stream.ready(Interest::READABLE).await?;
        let more = stream.try_io(Interest::READABLE, || {
            match recv(stream, &mut *buffer, RecvFlags::PEEK | RecvFlags::DONTWAIT)?.0 {
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                length if length > seen => Ok(length),
                // The kernel tells again when there is more.
                _ => Err(io::ErrorKind::WouldBlock.into()),
            }
        });
        let length = match more {
            Ok(length) => length,
            // Of one that has closed its end, that is said at once and for ever.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && ready.is_read_closed() => {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        match said(&buffer[..length]) {
            Said::Request(length) => return Ok(Some(length)),
            Said::Other => return Ok(None),
            Said::Part => seen = length,
        }
    }
}

async fn answer(boots: &Boots, mut stream: TcpStream, asked: &Request) -> io::Result<TcpStream> {
    let name = asked.uri.path().trim_start_matches("/boot/files/");
    let open = |digest: &Digest| {
        let file = File::open(boots.own.shelf.file(digest)).ok()?;
        let size = file.metadata().ok()?.len();
        Some((file, size))
    };
    let date = httpdate::fmt_http_date(std::time::SystemTime::now());
    let connection = if asked.keep { "keep-alive" } else { "close" };
    let Some((digest, (file, size))) = name.parse::<Digest>().ok().and_then(|digest| Some((digest, open(&digest)?)))
    else {
        let text = "no such file on this head\n";
        let head = format!(
            "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: {connection}\r\nDate: {date}\r\n\r\n{text}",
            text.len()
        );
        stream.write_all(head.as_bytes()).await?;
        return Ok(stream);
    };
    let Served { status, start, length, range } = Served::of(asked.range.as_deref(), size);
    let range = range.map(|range| format!("Content-Range: {range}\r\n")).unwrap_or_default();
    // A file is what its name says for ever: any proxy may keep it.
    let lines = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/octet-stream\r\nAccept-Ranges: bytes\r\nContent-Length: {length}\r\n{range}\
         Cache-Control: public, max-age=31536000, immutable\r\nConnection: {connection}\r\nDate: {date}\r\n\r\n"
    );
    if status == StatusCode::OK
        && let Ok(Query(fetch)) = Query::<Fetch>::try_from_uri(&asked.uri)
        && let Ok(SocketAddr::V4(from)) = stream.peer_addr()
    {
        boots.fetching(&digest, fetch, *from.ip(), size);
    }
    // Head and file leave in full segments, until the end of the file pulls the cork (tcp(7)).
    set_tcp_cork(&stream, true)?;
    stream.write_all(lines.as_bytes()).await?;
    // Read ahead while the first part is on its way; advice that is not taken costs nothing.
    let _ = fadvise(&file, start, std::num::NonZeroU64::new(length), Advice::WillNeed);
    let (mut offset, end) = (start, start + length);
    let mut pace = Pace::begin(Instant::now());
    while offset < end {
        let most = usize::try_from(end - offset).unwrap_or(CHUNK).min(CHUNK);
        let sending = stream.async_io(Interest::WRITABLE, || Ok(sendfile(&stream, &file, Some(&mut offset), most)?));
        let sent = timeout_at(pace.until(), sending).await??;
        pace.sent(sent as u64, Instant::now());
        if sent == 0 {
            // The file became shorter, which no file of a boot set does.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    set_tcp_cork(&stream, false)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_request_for_a_file_is_taken() {
        assert!(matches!(said(b"GET /boot/files/ab HTTP/1.1\r\nHost: h\r\n\r\n"), Said::Request(40)));
        assert!(matches!(said(b"GET /boot/fil"), Said::Part));
        assert!(matches!(said(b"GET /boot/files/ab HTTP/1.1\r\n"), Said::Part));
        assert!(matches!(said(b"GET /boot/script/ab HTTP/1.1\r\n\r\n"), Said::Other));
        assert!(matches!(said(b"POST /boot/files/"), Said::Other));
        let long = [PREFIX, &[b'a'; LONGEST_HEAD]].concat();
        assert!(matches!(said(&long), Said::Other));
    }

    /// It kept a processor busy for as long as the head ran.
    #[tokio::test]
    async fn who_closes_in_the_middle_of_a_request_is_done_with() {
        use std::io::Write as _;

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut client = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("open");
        let (stream, _) = listener.accept().await.expect("accepted");
        let mut buffer = [0; LONGEST_HEAD];
        client.write_all(b"GET /boot/files/00").expect("sent");
        let half = request(&stream, &mut buffer);
        tokio::pin!(half);
        let waits = timeout(Duration::from_millis(100), &mut half).await;
        assert!(waits.is_err(), "more may come");
        client.write_all(b"11 HTTP/1.1\r\n\r\n").expect("sent");
        assert!(matches!(half.await, Ok(Some(33))), "what came in pieces is whole");
        let mut client = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("open");
        client.write_all(b"GET /boot/files/00").expect("sent");
        let (stream, _) = listener.accept().await.expect("accepted");
        drop(client);
        let mut buffer = [0; LONGEST_HEAD];
        let ended = request(&stream, &mut buffer).await.expect_err("nothing more comes");
        assert_eq!(ended.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_machine_that_takes_a_byte_now_and_then_is_left() {
        let begin = Instant::now();
        let mut pace = Pace::begin(begin);
        pace.sent(LEAST - 1, begin + SILENCE / 2);
        assert_eq!(pace.until(), begin + SILENCE);
        pace.sent(1, begin + SILENCE / 2);
        assert_eq!(pace.until(), begin + SILENCE + SILENCE / 2);
    }

    #[test]
    fn a_request_says_its_range_and_whether_it_goes_on() {
        let head = b"GET /boot/files/ab?boot=b HTTP/1.1\r\nHost: h\r\nRange: bytes=5-\r\nConnection: close\r\n\r\n";
        let request = parse(head).expect("well-formed");
        assert_eq!(
            (request.uri.query(), request.range.as_deref(), request.keep),
            (Some("boot=b"), Some("bytes=5-"), false)
        );
        let old = parse(b"GET /boot/files/ab HTTP/1.0\r\n\r\n").expect("well-formed");
        assert!(!old.keep);
        assert!(parse(b"GET /boot/files/ab HTTP/1.1\r\nContent-Length: 5\r\n\r\n").is_none());
        for strange in ["Host: evil.example", "Origin: null", "User-Agent: Mozilla/5.0"] {
            let head = format!("GET /boot/files/ab HTTP/1.1\r\n{strange}\r\n\r\n");
            assert!(parse(head.as_bytes()).is_none(), "{strange}: the router looks at it");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = said(&bytes);
            let _ = parse(&bytes);
            let _ = said(&[PREFIX, &bytes].concat());
            let _ = parse(&[PREFIX, &bytes, b"\r\n\r\n"].concat());
        }
    }
}
