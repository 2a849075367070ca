//! Reading files as firmware does: TFTP and HTTP.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use super::persona::Tftp;
use super::stack::{Stack, Udp};

/// How a read ended.
#[derive(Debug)]
pub enum Fetched {
    File(Vec<u8>),
    Missing,
    Failed(String),
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// Reads `path` from `server`.
pub fn tftp(stack: &mut Stack, server: Ipv4Addr, path: &str, how: &Tftp) -> Fetched {
    if how.asks_size_first {
        match read(stack, server, path, how, true) {
            Fetched::File(_) => {}
            other => return other,
        }
    }
    read(stack, server, path, how, false)
}

fn read(stack: &mut Stack, server: Ipv4Addr, path: &str, how: &Tftp, only_size: bool) -> Fetched {
    let udp = stack.udp(None);
    let fetched = transfer(stack, &udp, server, path, how, only_size);
    stack.close(udp);
    fetched
}

/// A request to read, as this firmware writes it.
pub fn request(path: &str, how: &Tftp, only_size: bool) -> Vec<u8> {
    let mut request = [&[0, 1], how.slash.as_bytes(), path.as_bytes(), b"\0octet\0"].concat();
    let tsize = (how.tsize || only_size).then_some(0);
    let wishes = [("tsize", tsize), ("blksize", how.blksize), ("timeout", how.timeout), ("windowsize", how.windowsize)];
    for (name, value) in wishes {
        if let Some(value) = value {
            request.extend([name.as_bytes(), b"\0", value.to_string().as_bytes(), b"\0"].concat());
        }
    }
    request
}

fn transfer(stack: &mut Stack, udp: &Udp, server: Ipv4Addr, path: &str, how: &Tftp, only_size: bool) -> Fetched {
    let request = request(path, how, only_size);
    let mut to = SocketAddrV4::new(server, 69);
    stack.send(udp, to, &request);
    let mut bytes = Vec::new();
    let (mut block, mut window) = (512, 1);
    // Blocks received, counted without wrapping; and those since the last acknowledgement.
    let (mut received, mut unacknowledged) = (0_u64, 0);
    let mut tries = 1;
    let mut last = request;
    loop {
        let deadline = Instant::now() + seconds(how.wait);
        let Some((from, packet)) = stack.receive(udp, deadline) else {
            tries += 1;
            if tries > how.tries {
                return Fetched::Failed(format!("silence after {received} blocks of {path}"));
            }
            stack.send(udp, to, &last);
            continue;
        };
        if *from.ip() != server || (to.port() != 69 && from != to) {
            continue;
        }
        match &packet[..] {
            [0, 6, options @ ..] if received == 0 => {
                to = from;
                let words: Vec<String> =
                    options.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
                for pair in words.chunks(2) {
                    let [name, value] = pair else { continue };
                    let value: usize = value.parse().unwrap_or(0);
                    match name.as_str() {
                        "blksize" => block = value,
                        "windowsize" => window = value,
                        _ => {}
                    }
                }
                if only_size {
                    stack.send(udp, to, b"\0\x05\0\0User aborted the transfer\0");
                    return Fetched::File(Vec::new());
                }
                last = vec![0, 4, 0, 0];
            }
            [0, 3, high, low, data @ ..] => {
                to = from;
                if only_size {
                    stack.send(udp, to, b"\0\x05\0\0User aborted the transfer\0");
                    return Fetched::File(Vec::new());
                }
                let number = u16::from_be_bytes([*high, *low]);
                let next = ((received + 1) & 0xffff) as u16;
                if number != next {
                    // Out of order, or again: say where we are, once for each window.
                    if number == (received & 0xffff) as u16 {
                        stack.send(udp, to, &last);
                    }
                    continue;
                }
                if how.counts_to.is_some_and(|most| received >= most) {
                    return Fetched::Failed(format!("cannot count past block {received} of {path}"));
                }
                tries = 1;
                received += 1;
                unacknowledged += 1;
                bytes.extend_from_slice(data);
                last = vec![0, 4, *high, *low];
                let ended = data.len() < block;
                if unacknowledged < window && !ended {
                    continue;
                }
                unacknowledged = 0;
                if ended {
                    stack.send(udp, to, &last);
                    return Fetched::File(bytes);
                }
            }
            [0, 5, 0, 1, ..] => return Fetched::Missing,
            [0, 5, _, code, text @ ..] => {
                return Fetched::Failed(format!("error {code}: {}", String::from_utf8_lossy(text)));
            }
            _ => continue,
        }
        for _ in 0..=u32::from(how.doubles_acks) {
            stack.send(udp, to, &last);
        }
    }
}

/// Address and path of a URL.
pub fn parse_url(url: &str) -> Option<(SocketAddrV4, String)> {
    let rest = url.strip_prefix("http://")?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    Some((host.parse().ok()?, format!("/{path}")))
}

/// Gets `url`, and keeps nothing of it.
pub fn http_size(stack: &mut Stack, url: &str) -> Result<u64, String> {
    let (to, path) = parse_url(url).ok_or_else(|| format!("{url} is no URL"))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n");
    let mut failed = String::new();
    for _ in 0..3 {
        let (mut head, mut whole, mut got) = (Vec::new(), None, 0);
        let exchanged = stack.exchange(to, request.as_bytes(), Duration::from_secs(60), |bytes| {
            got += bytes.len();
            if whole.is_none() {
                head.extend_from_slice(bytes);
                whole = expected(&head);
            }
            whole.is_none_or(|whole| got < whole)
        });
        match (exchanged, whole) {
            (Ok(()), Some(whole)) if got == whole && head.starts_with(b"HTTP/1.1 200") => return Ok(got as u64),
            (Ok(()), _) => return Err(format!("{url}: {got} bytes of {whole:?}")),
            (Err(error), _) => failed = error,
        }
    }
    Err(format!("{url}: {failed}"))
}

/// Gets `url`, all of it.
pub fn http(stack: &mut Stack, url: &str) -> Fetched {
    ask(stack, url, "GET", "")
}

/// Posts text to `url`, as `wget --post-data` does.
pub fn post(stack: &mut Stack, url: &str, text: &str) -> Fetched {
    ask(stack, url, "POST", text)
}

fn ask(stack: &mut Stack, url: &str, method: &str, body: &str) -> Fetched {
    let Some((to, path)) = parse_url(url) else { return Fetched::Failed(format!("{url} is no URL")) };
    let length = if method == "POST" { format!("Content-Length: {}\r\n", body.len()) } else { String::new() };
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {to}\r\n{length}Connection: close\r\n\r\n{body}");
    let mut answer = Vec::new();
    let mut failed = String::new();
    // A loader tries a connection again that does not open.
    for _ in 0..3 {
        answer.clear();
        let mut whole = None;
        let exchanged = stack.exchange(to, request.as_bytes(), Duration::from_secs(20), |bytes| {
            answer.extend_from_slice(bytes);
            if whole.is_none() {
                whole = expected(&answer);
            }
            whole.is_none_or(|whole| answer.len() < whole)
        });
        match exchanged {
            Ok(()) => return read_answer(&answer, url),
            Err(error) => failed = error,
        }
    }
    Fetched::Failed(format!("{url}: {failed}"))
}

/// Bytes of head and body together, once the head is there.
fn expected(answer: &[u8]) -> Option<usize> {
    let head = answer.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    length.map(|length| head + length)
}

fn read_answer(answer: &[u8], url: &str) -> Fetched {
    let Some(head) = answer.windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4) else {
        return Fetched::Failed(format!("{url}: the answer broke off"));
    };
    let status = String::from_utf8_lossy(&answer[..head]).split_whitespace().nth(1).map(str::to_owned);
    match status.as_deref() {
        Some("200" | "204") if expected(answer).is_none_or(|whole| whole == answer.len()) => {
            Fetched::File(answer[head..].to_vec())
        }
        Some("200") => {
            Fetched::Failed(format!("{url}: {} bytes are missing", expected(answer).unwrap_or(0) - answer.len()))
        }
        Some("404") => Fetched::Missing,
        other => Fetched::Failed(format!("{url}: status {other:?}")),
    }
}
