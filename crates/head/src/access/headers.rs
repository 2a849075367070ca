//! What in a request tells who sends it.

use axum::body::Bytes;
use axum::http::{HeaderMap, header};

/// The name of the session's cookie. Browsers keep one that begins so from being set over plain HTTP, or by
/// another host (RFC 6265bis, section 4.1.3.2).
pub(super) const COOKIE: &str = "__Host-bramble";

/// The value of a cookie (RFC 6265, section 5.4).
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(|(known, _)| *known == name).map(|(_, value)| value).next()
}

pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Whether a request brings the session's own word along, as a header or as a field of a form: another site
/// can make a browser send the cookie, and cannot know the word.
pub(super) fn brings(headers: &HeaderMap, body: &Bytes, csrf: &str) -> bool {
    let in_header = headers.get("x-csrf-token").is_some_and(|word| same(word.as_bytes(), csrf.as_bytes()));
    let form = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/x-www-form-urlencoded"));
    // The word is hexadecimal: nothing in it is written in another way in a form.
    let fields = body.split(|byte| *byte == b'&').filter_map(|field| field.strip_prefix(b"csrf="));
    in_header || form && fields.into_iter().any(|word| same(word, csrf.as_bytes()))
}

/// Whether a browser sends this from the head's own page: its origin (RFC 6454, section 7) is the host that it
/// asks.
pub(crate) fn same_origin(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    match (text(header::ORIGIN), text(header::HOST)) {
        (Some(origin), Some(host)) => origin.strip_prefix("https://") == Some(host),
        _ => false,
    }
}

/// Whether two secrets are equal, in a time that does not tell where they differ.
pub(super) fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, "a=1; __Host-bramble=xyz; b=2".parse().expect("text"));
        assert_eq!(cookie(&headers, COOKIE), Some("xyz"));
        assert_eq!(cookie(&headers, "Host-bramble"), None);
    }

    #[test]
    fn another_site_does_not_know_the_word() {
        let mut headers = HeaderMap::new();
        let body = Bytes::from_static(b"fingerprint=ab&csrf=77aa");
        assert!(!brings(&headers, &body, "77aa"), "a field of something that is no form");
        headers.insert(header::CONTENT_TYPE, "application/x-www-form-urlencoded".parse().expect("text"));
        assert!(brings(&headers, &body, "77aa"));
        assert!(!brings(&headers, &body, "77ab"));
        headers.insert("x-csrf-token", "77ab".parse().expect("text"));
        assert!(brings(&headers, &body, "77ab"));
    }
}
