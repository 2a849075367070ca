//! Where a request over plain HTTP comes from: not from a page of another site in someone's browser, which the browser's own
//! reach into this network would lend it, and not under a name that someone elsewhere has pointed at the head (DNS
//! rebinding).
//!
//! What boots says `Host: 10.77.0.1:7080`, the head's name, or nothing, as HTTP/1.0 may; it sends none of what browsers say
//! of the page that they ask for (Fetch Metadata, RFC 6454).

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use bramble_model::repository::Cluster;

use super::{Access, Door, asked};
use crate::refusal::refuse;

/// Why a request is not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Foreign {
    /// It asks for a host of this name.
    Host(String),
    /// A page of another site made a browser send it.
    Site,
    /// A browser asks for what machines boot.
    Browser,
}

/// What this machine calls itself; empty where it has no name.
pub(super) fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_ascii_lowercase()
}

/// The host of what a request is sent to: without its port, in lower case, without the dot at its end (RFC 9110, section 7.2).
fn named(text: &str) -> Option<String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            address.parse::<Ipv6Addr>().ok()?;
            (address, port.strip_prefix(':').unwrap_or(port))
        }
        None => text.split_once(':').unwrap_or((text, "")),
    };
    port.bytes().all(|byte| byte.is_ascii_digit()).then(|| host.trim_end_matches('.').to_ascii_lowercase())
}

/// Whether a name is one that nobody elsewhere can have, whatever the head is called.
fn is_nobodys(name: &str) -> bool {
    !name.contains('.') || name.parse::<Ipv4Addr>().is_ok()
}

/// Whether this is a name of the head that nobody elsewhere can have. An address is none of DNS, and neither is a name of
/// one label; a public one the head knows as its own.
fn is_own(name: &str, own: &str, cluster: &Cluster) -> bool {
    let below = |domain: &str| name == domain || name.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
    let label = own.split('.').next().filter(|label| !label.is_empty());
    let elsewhere = cluster.access.oidc.as_ref().and_then(|oidc| oidc.url.as_ref()?.parse::<Uri>().ok());
    is_nobodys(name)
        // With an address of version 4 at its end.
        || name.parse::<Ipv6Addr>().is_ok()
        // RFC 6761, section 6.3.
        || below("localhost")
        || below(&cluster.domain)
        || name == own
        // RFC 6762, section 3.
        || label.is_some_and(|label| name.strip_suffix(".local") == Some(label))
        || elsewhere.as_ref().and_then(Uri::host).is_some_and(|host| host.eq_ignore_ascii_case(name))
}

/// Whether a request asks for another host than the head.
fn foreign_host(uri: &Uri, headers: &HeaderMap, own: &str, cluster: &Cluster) -> Option<Foreign> {
    let lines = headers.get_all(header::HOST).iter().map(|line| String::from_utf8_lossy(line.as_bytes()).into_owned());
    // That of a proxy's request comes before the header's (RFC 9112, section 3.2.2).
    let written = uri.authority().map(Authority::to_string).into_iter().chain(lines);
    written.into_iter().find_map(|text| match named(text.trim()) {
        Some(name) if is_own(&name, own, cluster) => None,
        _ => Some(Foreign::Host(text)),
    })
}

/// Whether a page of another site made a browser send this. A person who follows a link to a page sees it, and nothing else
/// happens.
fn foreign_site(method: &Method, headers: &HeaderMap) -> Option<Foreign> {
    let text = |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let is = |name: &str, word: &str| text(name).is_some_and(|value| value == word);
    let follows_a_link = *method == Method::GET && is("sec-fetch-mode", "navigate") && is("sec-fetch-dest", "document");
    let is_cross = text("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none");
    let own = text("host").map(|host| format!("http://{host}"));
    // Of a sandboxed page or of a file it is `null`.
    let is_of_another = text("origin").is_some_and(|origin| own.is_none_or(|own| !own.eq_ignore_ascii_case(&origin)));
    (is_cross && !follows_a_link || is_of_another).then_some(Foreign::Site)
}

/// What browsers say of the page that asks, and no machine does.
const OF_A_PAGE: [&str; 4] = ["origin", "referer", "sec-fetch-site", "sec-fetch-mode"];

/// Whether a browser sends this. To an address in plain HTTP it says nothing of the page that asks for a picture of it (Fetch
/// Metadata, section 2): what it calls itself has to tell. Windows' own scripts do so, too, and install machines.
fn is_a_browser(agent: &str) -> bool {
    agent.starts_with("Mozilla/") && !agent.contains("PowerShell")
}

fn is_browser(headers: &HeaderMap) -> bool {
    let agent = headers.get(header::USER_AGENT).map(|agent| String::from_utf8_lossy(agent.as_bytes()));
    agent.is_some_and(|agent| is_a_browser(&agent)) || OF_A_PAGE.iter().any(|name| headers.contains_key(*name))
}

/// Whether a machine that boots may say this: such a line is nothing to look at more closely.
pub(crate) fn is_a_machines(name: &str, value: &[u8]) -> bool {
    let is = |known: &str| name.eq_ignore_ascii_case(known);
    let text = String::from_utf8_lossy(value);
    match () {
        () if is("host") => named(text.trim()).is_some_and(|name| is_nobodys(&name)),
        () if is("user-agent") => !is_a_browser(&text),
        () => !OF_A_PAGE.iter().any(|known| is(known)),
    }
}

fn refused(access: &Access, foreign: &Foreign, request: &Request) -> Response {
    let (route, error, help) = match foreign {
        Foreign::Host(name) => (
            "under another name",
            format!("the head is not called `{}`", name.chars().take(100).collect::<String>()),
            format!("ask for it by its address, or as head.{}", access.snapshots.cluster().domain),
        ),
        Foreign::Site => {
            let error = "a page of another site made your browser ask this";
            ("from another site", error.into(), "open the head's own page instead".into())
        }
        Foreign::Browser => (
            "by a browser",
            "this is for machines that boot, and a browser asks".into(),
            "`curl` shows what a machine is given; asking for a script begins a boot".into(),
        ),
    };
    let door = request.extensions().get::<Door>().copied();
    let (_, what) = asked(request);
    access.refused(door, None, (route, &what), &error);
    refuse(StatusCode::MISDIRECTED_REQUEST, error, Some(&help)).into_response()
}

/// Turns away what asks for another host, and what a page of another site sends.
pub(crate) async fn own_name(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    let foreign = {
        let cluster = access.snapshots.cluster();
        foreign_host(request.uri(), request.headers(), &access.host, &cluster)
    };
    match foreign.or_else(|| foreign_site(request.method(), request.headers())) {
        Some(foreign) => refused(&access, &foreign, &request),
        None => next.run(request).await,
    }
}

/// Turns away browsers from what machines boot: they have no business there, and a page could send any of them.
pub(crate) async fn no_browser(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    if is_browser(request.headers()) {
        return refused(&access, &Foreign::Browser, &request);
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    fn cluster() -> Cluster {
        let place = Path::new("/nowhere");
        let text = "[cluster]\nname = \"c\"\ndomain = \"house.example.org\"\n[network]\ninterface = \"eth0\"\n\
                    [access.oidc]\nissuer = \"https://id.example\"\nclient_id = \"b\"\nviewers = [\"*\"]\n\
                    url = \"https://bramble.example.com:7444\"\n";
        Cluster::parse(place, &place.join("bramble.toml"), text).expect("valid")
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value"))).collect()
    }

    fn is_foreign(host: &str) -> bool {
        foreign_host(&Uri::from_static("/"), &headers(&[("host", host)]), "nas.fritz.box", &cluster()).is_some()
    }

    /// iPXE, GRUB, U-Boot, wget of BusyBox, UEFI HTTP boot: as they write it.
    #[test]
    fn no_firmware_is_turned_away_whatever_it_says_of_the_host() {
        let none = foreign_host(&Uri::from_static("/boot/script/x"), &HeaderMap::new(), "nas", &cluster());
        assert_eq!(none, None, "HTTP/1.0 may say nothing");
        for host in ["10.77.0.1", "10.77.0.1:7080", "192.0.2.9:80", "[fd00::1]:7080", "", "head", "head:7080"] {
            assert!(!is_foreign(host), "{host}");
        }
        for agent in
            ["iPXE/1.21.1", "GRUB 2.12", "U-Boot", "UefiHttpBoot/1.0", "Wget", "curl/8.5.0", "debian-installer"]
        {
            let sent = headers(&[("user-agent", agent), ("host", "10.77.0.1")]);
            assert!(!is_browser(&sent) && foreign_site(&Method::GET, &sent).is_none(), "{agent}");
        }
        let windows = "Mozilla/5.0 (Windows NT; Windows NT 10.0; en-US) WindowsPowerShell/5.1.19041.1";
        assert!(!is_browser(&headers(&[("user-agent", windows)])));
    }

    #[test]
    fn a_name_that_someone_elsewhere_can_have_is_not_the_heads() {
        for own in [
            "localhost:7080",
            "HEAD.house.example.org",
            "head.house.example.org.:7080",
            "house.example.org",
            "nas",
            "nas.fritz.box",
            "nas.local:7080",
            "bramble.example.com",
        ] {
            assert!(!is_foreign(own), "{own}");
        }
        for foreign in [
            "evil.example",
            "evil.example:7080",
            "10.77.0.1.evil.example",
            "nas.evil.example",
            "localhost.evil.example",
            "other.local",
            "xhouse.example.org",
            "evil.example.",
            "[evil",
            "a b.c",
        ] {
            assert!(is_foreign(foreign), "{foreign}");
        }
        let both = headers(&[("host", "10.77.0.1")]);
        let uri = Uri::from_static("http://evil.example/boot");
        assert!(foreign_host(&uri, &both, "nas", &cluster()).is_some(), "the request itself says whom it means");
    }

    #[test]
    fn a_page_of_another_site_sends_nothing_and_a_link_is_followed() {
        let site = |lines: &[(&'static str, &str)]| foreign_site(&Method::GET, &headers(lines)).is_some();
        let host = ("host", "localhost:7080");
        for cross in ["cross-site", "same-site"] {
            assert!(site(&[
                host,
                ("sec-fetch-site", cross),
                ("sec-fetch-mode", "no-cors"),
                ("sec-fetch-dest", "image")
            ]));
            let frame = [host, ("sec-fetch-site", cross), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")];
            assert!(site(&frame));
            let link =
                [host, ("sec-fetch-site", cross), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
            assert!(!site(&link));
            assert!(foreign_site(&Method::POST, &headers(&link)).is_some(), "a form is no link");
        }
        for own in ["same-origin", "none"] {
            assert!(!site(&[host, ("sec-fetch-site", own)]));
        }
        assert!(!site(&[host, ("origin", "http://localhost:7080")]));
        for origin in ["http://evil.example", "null", "http://localhost", "https://localhost:7080"] {
            assert!(site(&[host, ("origin", origin)]), "{origin}");
        }
        let browser = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";
        assert!(is_browser(&headers(&[("user-agent", browser)])), "a picture, of an address in plain HTTP");
        assert!(is_browser(&headers(&[("referer", "http://evil.example/")])));
    }

    proptest! {
        /// Whatever a browser can be made to ask for that ends in a public name.
        #[test]
        fn nobody_gets_in_below_a_name_of_ones_own(label in "[a-z0-9.:\\[\\]-]{0,30}", port in 0u16..) {
            let host = format!("{label}.evil.example");
            prop_assert!(is_foreign(&host));
            let with_port = format!("{host}:{port}");
            prop_assert!(is_foreign(&with_port));
        }

        #[test]
        fn any_header_is_judged(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(value) = axum::http::HeaderValue::from_bytes(&bytes) {
                let mut sent = HeaderMap::new();
                for name in [header::HOST, header::ORIGIN, header::USER_AGENT] {
                    sent.insert(name, value.clone());
                }
                let _ = foreign_host(&Uri::from_static("/"), &sent, "nas", &cluster());
                let _ = (foreign_site(&Method::GET, &sent), is_browser(&sent));
            }
        }
    }
}
