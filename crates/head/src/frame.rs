//! What every page of the head has around it.

use std::sync::LazyLock;

use axum::http::{HeaderValue, header};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bramble_model::said::plain;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest as _, Sha256};

/// The longest title of a page, in bytes.
const LONGEST_TITLE: usize = 300;

pub(crate) const STYLE: &str = include_str!("page.css");

/// A page; `renewed` is after how many seconds it renews itself.
pub(crate) fn frame(title: &str, renewed: Option<u32>, body: Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                @if let Some(seconds) = renewed { meta http-equiv="refresh" content=(seconds); }
                title { (plain::line(title, LONGEST_TITLE)) }
                style { (PreEscaped(STYLE)) }
            }
            // Whatever it is of: what would turn or hide the text around it is in no page.
            body { (PreEscaped(plain::lines(&body.into_string()))) }
        }
    }
}

/// What a page may load and do (Content Security Policy Level 3): its own style, and forms to the head. There is no script in
/// any, and what a node says is text whatever it is. The width of a bar is an attribute.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let style = STANDARD.encode(Sha256::digest(STYLE));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{style}'; style-src-attr 'unsafe-inline'; form-action 'self'; \
         base-uri 'none'; frame-ancestors 'none'"
    );
    policy.parse().expect("letters and digits")
});

/// Says to a browser what it may make of an answer: nothing else than it is said to be, and a page in no other page.
pub(crate) async fn guarded(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let is_page = headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    if is_page {
        headers.insert(header::CONTENT_SECURITY_POLICY, POLICY.clone());
        headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
        // The session's own word is in it.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_page_has_a_character_that_turns_or_hides_what_is_beside_it() {
        for text in ["a\u{202e}b", "a\u{1b}[2J", "a\u{9b}x", "a\u{200b}b\u{0}", "a\u{2028}b\u{85}"] {
            let page = frame(text, None, html! { p title=(text) { (text) } }).into_string();
            assert!(page.chars().all(|c| plain::is_plain(c) || c == '\n' || c == '\t'), "{page:?}");
        }
    }

    /// A hash of it is in the policy, to the byte: it is between the tags as it is.
    #[test]
    fn the_style_that_the_policy_names_is_the_one_of_the_page() {
        let page = frame("x", None, html! {}).into_string();
        let style = page.split("<style>").nth(1).and_then(|rest| rest.split("</style>").next()).expect("a style");
        assert_eq!(style, STYLE);
        assert!(!page.contains("<script"));
    }
}
