//! As much of HTTP/1.1 as stage 1 needs: GET with a range, and POST (RFC 9112).

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::time::Duration;

/// How long the head may be silent.
pub const SILENCE: Duration = Duration::from_secs(20);
const LONGEST_HEAD: u64 = 16 << 10;

/// An answer whose body has not been read yet.
pub struct Response {
    pub status: u16,
    /// Bytes of the body.
    pub length: u64,
    pub date: Option<String>,
    pub body: io::Take<BufReader<TcpStream>>,
}

/// Asks for `path` from byte `from` on. A status other than 200 or 206 is an error.
pub fn get(head: SocketAddrV4, path: &str, from: u64) -> io::Result<Response> {
    let range = if from > 0 { format!("Range: bytes={from}-\r\n") } else { String::new() };
    let answer =
        exchange(head, SILENCE, &format!("GET {path} HTTP/1.1\r\nHost: {head}\r\n{range}Connection: close\r\n\r\n"))?;
    match (answer.status, from) {
        (200, 0) | (206, 1..) => Ok(answer),
        (status, _) => Err(io::Error::other(format!("the head answered {status} to {path}"))),
    }
}

/// Sends JSON to a head that answers within this time, or not.
pub fn post(head: SocketAddrV4, path: &str, json: &str, silence: Duration) -> io::Result<Response> {
    let length = json.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {head}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{json}"
    );
    exchange(head, silence, &request)
}

fn exchange(head: SocketAddrV4, silence: Duration, request: &str) -> io::Result<Response> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::V4(head), silence)?;
    stream.set_read_timeout(Some(silence))?;
    stream.set_write_timeout(Some(silence))?;
    stream.write_all(request.as_bytes())?;
    parse(BufReader::with_capacity(1 << 16, stream))
}

fn parse(reader: BufReader<TcpStream>) -> io::Result<Response> {
    let mut reader = reader.take(LONGEST_HEAD);
    let (status, length, date) = parse_head(&mut reader)?;
    let mut body = reader;
    body.set_limit(length);
    Ok(Response { status, length, date, body })
}

/// Status, length and date of an answer's head.
fn parse_head(reader: &mut impl BufRead) -> io::Result<(u16, u64, Option<String>)> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("the head's answer has {what}"));
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).ok_or_else(|| wrong("no status"))?;
    let (mut length, mut date) = (None, None);
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Err(wrong("no end of its headers"));
        }
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().ok(),
            "date" => date = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    let length = if status == 204 { Some(0) } else { length };
    Ok((status, length.ok_or_else(|| wrong("no length"))?, date))
}

/// Reads a small body whole.
pub fn read_all(mut answer: Response, most: u64) -> io::Result<Vec<u8>> {
    if answer.length > most {
        return Err(io::Error::other(format!("{} bytes are more than the {most} expected", answer.length)));
    }
    let mut bytes = Vec::new();
    answer.body.read_to_end(&mut bytes)?;
    if bytes.len() as u64 != answer.length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read() {
        let mut text = &b"HTTP/1.1 206 Partial Content\r\ncontent-length: 12\r\nDate: Sun\r\n\r\n"[..];
        assert_eq!(parse_head(&mut text).expect("well-formed"), (206, 12, Some("Sun".into())));
    }

    #[test]
    fn an_answer_without_a_length_is_refused() {
        parse_head(&mut &b"HTTP/1.1 200 OK\r\n\r\n"[..]).expect_err("no length");
        parse_head(&mut &b"HTTP/1.1 200 OK\r\nContent-Length: 3"[..]).expect_err("torn");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = parse_head(&mut &bytes[..]);
        }
    }
}
