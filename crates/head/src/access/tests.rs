//! The head's routes on sockets of the loopback, as people, programs, browsers and machines come to them.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use axum::Router;
use axum::body::Body;
use axum::middleware::from_fn_with_state;
use axum::routing::post;
use bramble_image::Shelf;
use bramble_model::api::{NewToken, SessionStatus, UserChange};
use bramble_model::audit::{Entry, News, Page};
use bramble_model::hands::{Errand, ToProcess};
use bramble_model::names::Name;
use bramble_model::snapshot::Revision;
use bramble_store::testing::Disk;
use bramble_system::now;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower_service::Service as _;

use super::oidc::Membership;
use super::people::{remove_token, remove_user};
use super::sessions::{By, remove_session};
use super::*;
use crate::agents::tests::runs;
use crate::gate::Gate;
use crate::snapshots::tests::begun;
use crate::wiring::{Parts, Settings};
use crate::{http, routes};

/// A head that is whole, but for its ports.
struct House {
    folder: tempfile::TempDir,
    parts: Parts,
    stop: CancellationToken,
}

const OIDC: &str = "[access.oidc]\nissuer = \"https://id.example\"\nclient_id = \"b\"\n";

impl House {
    /// Of a repository with these lines at its end.
    async fn new(more: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let stop = CancellationToken::new();
        // One that has been here before: its wire may be missing, and the loopback is none.
        drop(begun(folder.path(), &Self::text(more)));
        let state = folder.path().join(".bramble");
        let settings = Settings {
            home: folder.path().to_owned(),
            revision: Revision::default(),
            apply: false,
            shelf: Shelf::open(state.join("image")).expect("a shelf"),
            state,
            lab: None,
        };
        let (parts, _) = Parts::open(settings, &stop).await.expect("a head");
        House { folder, parts, stop }
    }

    fn text(more: &str) -> String {
        format!(
            "[cluster]\nname = \"c\"\n[network]\ninterface = \"lo\"\ndhcp = \"router\"\n[roles.r]\nengine = \"none\"\n\
             [nodes.w1]\nmac = \"52:54:00:00:00:01\"\nrole = \"r\"\n{more}"
        )
    }

    /// Another snapshot becomes current, with these lines.
    fn applies(&self, more: &str) {
        std::fs::write(self.folder.path().join("bramble.toml"), Self::text(more)).expect("written");
        let (next, applied) = self.parts.snapshots.first(self.folder.path(), Revision::default()).expect("it checks");
        self.parts.snapshots.begin(next, applied).expect("current");
    }

    /// Where these routes are served; each connection comes through the door that is made of its ends.
    async fn serves(&self, routes: Router, door: fn(SocketAddrV4, SocketAddr) -> Door) -> SocketAddr {
        self.serves_behind(|| Gate::new(8, 8), routes, door).await
    }

    /// The same, behind this gate.
    async fn serves_behind(
        &self,
        gate: impl Fn() -> Arc<Gate> + Send + 'static,
        routes: Router,
        door: fn(SocketAddrV4, SocketAddr) -> Door,
    ) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let SocketAddr::V4(local) = address else { panic!("of version 4") };
        let stop = self.stop.clone();
        tokio::spawn(async move {
            loop {
                let (stream, peer) = tokio::select! {
                    accepted = listener.accept() => accepted.expect("a connection"),
                    () = stop.cancelled() => return,
                };
                let Some(pass) = gate().enter(peer.ip()) else { continue };
                let (door, routes) = (door(local, peer), routes.clone());
                tokio::spawn(async move { http::converse(stream, door, routes, &pass).await });
            }
        });
        address
    }

    /// The port with logins, where TLS would have been taken off.
    async fn tls(&self) -> SocketAddr {
        self.serves(routes::over_tls(&self.parts), |_, peer| Door::Tls(peer)).await
    }

    async fn wire(&self) -> SocketAddr {
        let door = |local, peer| match peer {
            SocketAddr::V4(peer) => Door::Wire(Ends { local, peer }),
            SocketAddr::V6(_) => unreachable!("the listener is of version 4"),
        };
        self.serves(routes::on_the_wire(&self.parts), door).await
    }

    async fn socket(&self) -> SocketAddr {
        self.serves(routes::on_the_socket(&self.parts), |_, _| Door::Socket { user: 0, is_owner: true }).await
    }

    /// The one of its cluster, for a member of its group.
    async fn socket_of_members(&self) -> SocketAddr {
        self.serves(routes::on_the_socket(&self.parts), |_, _| Door::Socket { user: 7, is_owner: false }).await
    }

    fn access(&self) -> &Arc<Access> {
        &self.parts.access
    }

    fn token(&self, name: &str, role: Role) -> String {
        let new = NewToken { name: name.into(), role, days: None };
        self.access().people.add_token(&self.access().store, &new, now()).expect("made")
    }

    async fn user(&self, name: &str, password: Option<&str>, role: Role) {
        let change = UserChange { password: password.map(str::to_owned), role: Some(role) };
        self.access().people.change_user(&self.access().store, name, change, now()).await.expect("made");
    }

    /// Someone logs in; gives the session's secret.
    fn session(&self, user: &str) -> String {
        let store = &self.access().store;
        let by = By::Password(people::user(store, user).expect("read").expect("there"));
        self.access().people.begin(store, (user, "10.77.0.9"), &by, 3_600_000, now()).expect("begun").0
    }

    /// Someone logs in with another service's account.
    fn member(&self, mail: &str, groups: &[&str]) -> String {
        let membership = Membership {
            issuer: "https://id.example".into(),
            mail: Some(mail.into()),
            groups: groups.iter().map(|&group| group.into()).collect(),
        };
        let by = By::Provider(Role::Operator, membership);
        self.access().people.begin(&self.access().store, (mail, "10.77.0.9"), &by, 3_600_000, now()).expect("begun").0
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

/// Asks, and gives the connection.
async fn ask(at: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(at).await.expect("it listens");
    let length = body.len();
    let request = format!("{method} {path} HTTP/1.1\r\nContent-Length: {length}\r\n{headers}\r\n{body}");
    stream.write_all(request.as_bytes()).await.expect("asked");
    stream
}

/// The whole answer: its status, its headers, its body.
async fn answer(at: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> (u16, String, String) {
    let headers = format!("Connection: close\r\n{headers}");
    let mut text = String::new();
    ask(at, method, path, &headers, body).await.read_to_string(&mut text).await.expect("an answer");
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    (status, head.to_owned(), body.to_owned())
}

async fn status(at: SocketAddr, method: &str, path: &str, headers: &str) -> u16 {
    answer(at, method, path, headers, "").await.0
}

async fn read<T: DeserializeOwned>(at: SocketAddr, path: &str, token: &str) -> T {
    let (status, _, body) = answer(at, "GET", path, &bearer(token), "").await;
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
}

/// Reads until it has been told this.
async fn hears(stream: &mut TcpStream, word: &str) {
    let mut text = Vec::new();
    while !String::from_utf8_lossy(&text).contains(word) {
        let mut piece = [0; 4096];
        let length = stream.read(&mut piece).await.expect("it is read");
        assert!(length > 0, "{word:?} was not told: {}", String::from_utf8_lossy(&text));
        text.extend(&piece[..length]);
    }
}

/// Reads until the other side has ended a stream of pieces (RFC 9112, section 7.1), or the connection.
async fn ends(stream: &mut TcpStream) {
    let mut text = Vec::new();
    let mut piece = [0; 4096];
    while !text.ends_with(b"0\r\n\r\n") {
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => return,
            Ok(length) => text.extend(&piece[..length]),
        }
    }
}

/// Fifty thousand tries were an hour's work of a guest, and all changes were gone.
#[tokio::test]
async fn nobody_washes_the_audit_log_away_with_what_is_refused() {
    let house = House::new("").await;
    let (tls, socket) = (house.tls().await, house.socket().await);
    house.user("ann", Some("correct horse"), Role::Operator).await;
    let (viewer, operator) = (house.token("screen", Role::Viewer), house.token("ci", Role::Operator));
    assert_eq!(status(socket, "DELETE", "/v1/tokens/none", "").await, 404, "a change is tried");
    let before: Page = read(tls, "/v1/audit/chain", &operator).await;
    assert_eq!(before.links.len(), 2, "begun, and how it went");
    let mut guest = TcpStream::connect(tls).await.expect("it listens");
    for turn in 0..600 {
        let who = if turn % 2 == 0 { bearer(&viewer) } else { String::new() };
        let request = format!("DELETE /v1/users/guess{turn} HTTP/1.1\r\nContent-Length: 0\r\n{who}\r\n");
        guest.write_all(request.as_bytes()).await.expect("sent");
        hears(&mut guest, "\"help\"").await;
    }
    let login = "user=ann&password=guess";
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    for turn in 0..50 {
        let told = answer(tls, "POST", "/login", form, login).await.0;
        assert_eq!(told, if turn < 5 { 400 } else { 429 });
    }
    let after: Page = read(tls, "/v1/audit/chain", &operator).await;
    assert_eq!(after, before, "no change was made");
    let told: Vec<Entry> = read(tls, "/v1/audit", &operator).await;
    let told: Vec<_> = told
        .iter()
        .map(|entry| (entry.who.as_str(), entry.what.as_str(), entry.folded.map(|folded| folded.times)))
        .collect();
    assert_eq!(
        told,
        [
            ("root on the head", "DELETE /v1/tokens/none", None),
            ("token screen", "DELETE /v1/users/guess0", Some(300)),
            ("someone", "DELETE /v1/users/guess1", Some(300)),
            ("ann", "log in", Some(50)),
        ]
    );
}

/// The bytes of a backup that is given.
async fn backup(at: SocketAddr, headers: &str) -> Vec<u8> {
    let headers = format!("Connection: close\r\n{headers}");
    let mut bytes = Vec::new();
    ask(at, "POST", "/v1/backup", &headers, "").await.read_to_end(&mut bytes).await.expect("an answer");
    let after =
        |bytes: &[u8], end: &[u8]| bytes.windows(end.len()).position(|part| part == end).map(|at| at + end.len());
    let mut body = bytes.split_off(after(&bytes, b"\r\n\r\n").expect("a head"));
    let head = String::from_utf8(bytes).expect("text").to_lowercase();
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    if head.contains("transfer-encoding: chunked") {
        // Its first piece has what is read here.
        body = body.split_off(after(&body, b"\r\n").expect("a piece"));
    }
    body
}

/// It holds the cluster's keys.
#[tokio::test]
async fn a_backup_leaves_the_head_encrypted_only_but_by_its_own_socket() {
    let house = House::new("").await;
    let (tls, socket) = (house.tls().await, house.socket().await);
    let operator = bearer(&house.token("ci", Role::Operator));
    let (refused, _, why) = answer(tls, "POST", "/v1/backup", &operator, "").await;
    assert_eq!(refused, 409, "{why}");
    assert!(why.contains("recipients = [") && why.contains("keygen"), "{why}");
    let recipients = |bytes: Vec<u8>| crate::backup::contents_of(&bytes).expect("a backup").recipients;
    assert_eq!(recipients(backup(socket, "").await), Vec::<String>::new(), "in the clear");
    let recipient = crate::backup::new_identity().1.to_string();
    house.applies(&format!("[backup]\nfolder = \"/b\"\nrecipients = [\"{recipient}\"]\n"));
    for (at, headers) in [(tls, operator.as_str()), (socket, "")] {
        assert_eq!(recipients(backup(at, headers).await), [recipient.as_str()]);
    }
}

/// Who is in the group `bramble` is an operator, and does not get the cluster's keys.
#[tokio::test]
async fn a_backup_in_the_clear_is_for_the_owner_alone() {
    let house = House::new("").await;
    let members = house.socket_of_members().await;
    let (refused, _, why) = answer(members, "POST", "/v1/backup", "", "").await;
    assert_eq!(refused, 409, "{why}");
    assert!(why.contains("recipients = ["), "{why}");
    assert_eq!(answer(members, "POST", "/v1/nodes/w1/expect", "", "").await.0, 200, "an operator");
    let recipient = crate::backup::new_identity().1.to_string();
    house.applies(&format!("[backup]\nfolder = \"/b\"\nrecipients = [\"{recipient}\"]\n"));
    let made = crate::backup::contents_of(&backup(members, "").await).expect("a backup");
    assert_eq!(made.recipients, [recipient.as_str()]);
}

/// A page, a program that follows, the command line: whatever takes the name away.
#[tokio::test]
async fn a_stream_ends_with_what_it_runs_in_the_name_of() {
    type Lets = fn(&House) -> String;
    type Takes = fn(&House);
    let remove: Takes = |house| assert!(remove_user(&house.access().store, "ann").expect("removed"));
    let cases: [(&str, Lets, Takes); 7] = [
        (
            "a session that is ended",
            |house| house.session("ann"),
            |house| {
                let all = house.access().store.blocking().read_all::<sessions::Sessions>().expect("read").readable;
                let own = all.iter().filter(|(_, session)| session.user == "ann");
                own.for_each(|(key, _)| remove_session(&house.access().store, key).expect("ended"));
            },
        ),
        ("a user that is removed", |house| house.session("ann"), remove),
        (
            "a token that is removed",
            |house| house.token("ci", Role::Viewer),
            |house| {
                assert!(remove_token(&house.access().store, "ci").expect("removed"));
            },
        ),
        (
            "an account that is no viewer any more",
            |house| house.member("bob@example.org", &[]),
            |house| {
                house.applies(&format!("{OIDC}viewers = [\"eve@example.org\"]\n"));
            },
        ),
        (
            "a group that is named no more",
            |house| house.member("carl@example.org", &["admins"]),
            |house| {
                house.applies(&format!("{OIDC}viewers = [\"bob@example.org\"]\n"));
            },
        ),
        (
            "a service whose accounts count no more",
            |house| house.member("bob@example.org", &[]),
            |house| {
                house.applies("");
            },
        ),
        (
            "twenty newer sessions",
            |house| house.session("ann"),
            |house| {
                (0..20).for_each(|_| drop(house.session("ann")));
            },
        ),
    ];
    for (what, lets, takes) in cases {
        let house =
            House::new(&format!("{OIDC}viewers = [\"bob@example.org\"]\noperators = [\"group:admins\"]\n")).await;
        house.user("ann", Some("correct horse"), Role::Viewer).await;
        house.user("eve", Some("correct horse"), Role::Viewer).await;
        let tls = house.tls().await;
        let (token, other) = (lets(&house), house.session("eve"));
        let mut streams = Vec::new();
        for token in [&token, &other] {
            let mut stream = ask(tls, "GET", "/v1/stream", &bearer(token), "").await;
            hears(&mut stream, "text/event-stream").await;
            streams.push(stream);
        }
        let mut waits = ask(tls, "GET", "/v1/events?after=9999&wait=25", &bearer(&token), "").await;
        takes(&house);
        ends(&mut streams[0]).await;
        hears(&mut waits, "401").await;
        assert_eq!(status(tls, "GET", "/v1/status", &bearer(&token)).await, 401, "{what}");
        house.parts.timeline.note("another one hears this");
        hears(&mut streams[1], "another one hears this").await;
    }
}

/// Its reader is nobody, and may look for as long as everyone may.
#[tokio::test]
async fn what_everyone_may_see_ends_when_the_repository_says_so() {
    let house = House::new("[access]\npublic = true\n").await;
    for at in [house.tls().await, house.wire().await] {
        house.applies("[access]\npublic = true\n");
        let mut stream = ask(at, "GET", "/v1/stream", "", "").await;
        hears(&mut stream, "text/event-stream").await;
        house.applies("");
        ends(&mut stream).await;
        assert!([401, 403].contains(&status(at, "GET", "/v1/status", "").await));
    }
}

/// An operator's question that waits ends when the operator is one no more, and may look on.
#[tokio::test]
async fn a_role_that_is_taken_away_ends_what_needed_it_and_nothing_else() {
    let house = House::new("").await;
    let tls = house.tls().await;
    house.user("ann", Some("correct horse"), Role::Operator).await;
    let token = house.session("ann");
    let mut looks = ask(tls, "GET", "/v1/stream", &bearer(&token), "").await;
    hears(&mut looks, "text/event-stream").await;
    let now: News = read(tls, "/v1/audit/news", &token).await;
    let path = format!("/v1/audit/news?link={}&refusal={}&wait=25", now.next.link, now.next.refusal);
    let mut oversees = ask(tls, "GET", &path, &bearer(&token), "").await;
    while house.access().refusals.followers() == 0 {
        tokio::task::yield_now().await;
    }
    house.user("ann", None, Role::Viewer).await;
    hears(&mut oversees, "401").await;
    house.parts.timeline.note("whoever looks hears this");
    hears(&mut looks, "whoever looks hears this").await;
    assert_eq!(status(tls, "GET", "/v1/audit", &bearer(&token)).await, 403);
}

/// A text of a WebSocket's client (RFC 6455, section 5.2); its mask is of zeros.
fn frame(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).ok().filter(|length| *length < 126).expect("a short text");
    [&[0x81, 0x80 | length, 0, 0, 0, 0], text.as_bytes()].concat()
}

/// `exec`, `shell` and `logs`: nothing runs on a node in the name of someone who may not run it.
#[tokio::test]
async fn an_errand_ends_with_the_right_to_it_and_its_process_is_stopped() {
    type Takes = fn(&House);
    let cases: [(&str, Takes); 2] = [
        ("a token", |house| assert!(remove_token(&house.access().store, "ci").expect("removed"))),
        ("a membership", |house| house.applies(&format!("{OIDC}viewers = [\"bob@example.org\"]\n"))),
    ];
    for (what, takes) in cases {
        let house = House::new(&format!("{OIDC}operators = [\"bob@example.org\"]\n")).await;
        let tls = house.tls().await;
        let token =
            if what == "a token" { house.token("ci", Role::Operator) } else { house.member("bob@example.org", &[]) };
        let w1: Name = "w1".parse().expect("a name");
        let mut process = runs(&house.parts.agents, &w1);
        let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        let mut stream = ask(tls, "GET", "/v1/hands", &format!("{upgrade}{}", bearer(&token)), "").await;
        hears(&mut stream, "101 Switching").await;
        let errand = Errand::Exec { argv: vec!["sleep".into(), "9".into()], input: false };
        let request = bramble_model::hands::Request { nodes: "w1".into(), errand };
        stream.write_all(&frame(&serde_json::to_string(&request).expect("plain data"))).await.expect("sent");
        assert_eq!(process.recv().await, Some(None), "{what}: it has started");
        takes(&house);
        assert_eq!(process.recv().await, Some(Some(ToProcess::Stop)), "{what}");
        hears(&mut stream, LOST).await;
        let told = audit::latest(&house.access().store, 9).expect("read").all;
        let told = told.iter().find(|entry| entry.what.starts_with("exec sleep")).expect("an entry");
        assert_eq!(told.result, format!("ended: {LOST}"), "{what}");
    }
}

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// Once its request was answered it was counted by nobody: one person's shells could take the descriptors of all others.
#[tokio::test]
async fn a_websocket_is_counted_at_the_door_until_it_ends() {
    let house = House::new("").await;
    let gate = Gate::new(1, 1);
    let at = {
        let gate = Arc::clone(&gate);
        let door = |_, peer| Door::Tls(peer);
        house.serves_behind(move || Arc::clone(&gate), routes::over_tls(&house.parts), door).await
    };
    let token = house.token("ci", Role::Operator);
    let mut process = runs(&house.parts.agents, &"w1".parse().expect("a name"));
    let mut stream = ask(at, "GET", "/v1/hands", &format!("{UPGRADE}{}", bearer(&token)), "").await;
    hears(&mut stream, "101 Switching").await;
    let errand = Errand::Exec { argv: vec!["sleep".into(), "9".into()], input: false };
    let request = bramble_model::hands::Request { nodes: "w1".into(), errand };
    stream.write_all(&frame(&serde_json::to_string(&request).expect("plain data"))).await.expect("sent");
    assert_eq!(process.recv().await, Some(None), "it has started");
    let other = || gate.enter(Ipv4Addr::LOCALHOST.into());
    assert!(other().is_none(), "the room is taken, and by one that is served");
    drop(stream);
    while other().is_none() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_name_has_so_many_errands_at_once() {
    let house = House::new("").await;
    let tls = house.tls().await;
    let token = house.token("ci", Role::Operator);
    let mut process = runs(&house.parts.agents, &"w1".parse().expect("a name"));
    let errand = Errand::Exec { argv: vec!["true".into()], input: false };
    let request = bramble_model::hands::Request { nodes: "w1".into(), errand };
    let request = frame(&serde_json::to_string(&request).expect("plain data"));
    let begins = async || {
        let mut stream = ask(tls, "GET", "/v1/hands", &format!("{UPGRADE}{}", bearer(&token)), "").await;
        hears(&mut stream, "101 Switching").await;
        stream.write_all(&request).await.expect("sent");
        stream
    };
    let mut run = Vec::new();
    for _ in 0..crate::hands::errands::OF_ONE {
        run.push(begins().await);
        assert_eq!(process.recv().await, Some(None), "it has started");
    }
    hears(&mut begins().await, "run in the name of token ci already: end one of them first").await;
    run.pop();
    assert_eq!(process.recv().await, Some(Some(ToProcess::Stop)), "one has ended");
    // Its place is free when its head's end has seen that, too.
    while house.access().errands.begin("token ci").is_err() {
        tokio::task::yield_now().await;
    }
    let _next = begins().await;
    assert_eq!(process.recv().await, Some(None));
}

/// Half a minute is a long time for an operator who is one no more.
#[tokio::test]
async fn a_change_whose_right_went_while_it_was_said_is_not_made() {
    let house = House::new("").await;
    let (token, store) = (house.token("ci", Role::Operator), house.access().store.clone());
    let said = async move {
        assert!(remove_token(&store, "ci").expect("removed"));
        Ok::<_, std::convert::Infallible>(Bytes::from_static(b"{\"password\":\"correct horse\"}"))
    };
    let request = Request::put("/v1/users/eve").header("authorization", format!("Bearer {token}"));
    let request = request.header("content-type", "application/json");
    let mut request = request.body(Body::from_stream(futures_util::stream::once(said))).expect("a request");
    request.extensions_mut().insert(Door::Tls((Ipv4Addr::LOCALHOST, 4000).into()));
    let answer = routes::over_tls(&house.parts).call(request).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert_eq!(people::user(&house.access().store, "eve").expect("read"), None);
    assert_eq!(audit::latest(&house.access().store, 9).expect("read").all, []);
}

#[tokio::test]
async fn everyone_ends_ones_own_sessions_and_an_operator_anyones() {
    let house = House::new("[access]\npublic = true\n").await;
    let tls = house.tls().await;
    for (name, role) in [("ann", Role::Viewer), ("bob", Role::Viewer), ("eve", Role::Operator)] {
        house.user(name, Some("correct horse"), role).await;
    }
    let (ann, phone, bob, eve) =
        (house.session("ann"), house.session("ann"), house.session("bob"), house.session("eve"));
    let all: Vec<SessionStatus> = read(tls, "/v1/sessions", &eve).await;
    assert_eq!(all.iter().map(|one| one.user.as_str()).collect::<Vec<_>>(), ["ann", "ann", "bob", "eve"]);
    assert_eq!(all.iter().filter(|one| one.own).count(), 1);
    assert_eq!(read::<Vec<SessionStatus>>(tls, "/v1/sessions?user=bob", &eve).await.len(), 1);
    let own: Vec<SessionStatus> = read(tls, "/v1/sessions", &ann).await;
    assert!(own.len() == 2 && own.iter().all(|one| one.user == "ann"), "{own:?}");
    assert_eq!(status(tls, "GET", "/v1/sessions", "").await, 401, "everyone may look, and nobody has one");
    let id = |secret: &str| kept(secret)[..12].to_owned();
    let end = async |secret: &str, token: &str| {
        status(tls, "DELETE", &format!("/v1/sessions/{}", id(secret)), &bearer(token)).await
    };
    assert_eq!(end(&bob, &ann).await, 404, "another's is not there");
    assert_eq!(end(&phone, &ann).await, 204);
    assert_eq!(end(&phone, &ann).await, 404);
    assert_eq!(end(&bob, &eve).await, 204);
    for (secret, there) in [(&ann, 200), (&phone, 401), (&bob, 401)] {
        // Nobody is someone here, and may look.
        assert_eq!(status(tls, "GET", "/v1/sessions", &bearer(secret)).await, there);
    }
    for (path, expected) in [("/v1/sessions/ab", 400), ("/v1/sessions/nothex", 400), ("/v1/sessions/abcdef", 404)] {
        assert_eq!(status(tls, "DELETE", path, &bearer(&eve)).await, expected, "{path}");
    }
    // With a cookie, the session's own word belongs to it.
    let cookie = format!("Cookie: __Host-bramble={ann}\r\n");
    assert_eq!(status(tls, "DELETE", &format!("/v1/sessions/{}", id(&ann)), &cookie).await, 403);
    let told = audit::latest(&house.access().store, 9).expect("read").all;
    let told: Vec<_> = told.iter().map(|entry| (entry.who.as_str(), entry.what.as_str())).collect();
    assert_eq!(told, [("eve", "end a session of bob")], "a viewer's own going is no change");
}

/// A page of another site knows the head's address, or has its own name point at it.
#[tokio::test]
async fn a_browser_that_another_site_sends_reads_nothing_and_begins_no_boot() {
    let house = House::new("[access]\npublic = true\n").await;
    let at = house.wire().await;
    let script = "/boot/script/52:54:00:00:00:01";
    let host = format!("Host: {at}\r\n");
    for (path, headers) in [
        (script, "Host: evil.example:7080\r\n".to_owned()),
        ("/", "Host: evil.example\r\n".into()),
        ("/v1/status", "Host: evil.example\r\n".into()),
        ("/v1/nothing", "Host: evil.example\r\n".into()),
        ("http://evil.example/v1/status", host.clone()),
        ("/v1/status", format!("{host}Sec-Fetch-Site: cross-site\r\n")),
        ("/v1/status", format!("{host}Origin: http://evil.example\r\n")),
        (
            script,
            format!("{host}Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n"),
        ),
        (script, format!("{host}User-Agent: Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0\r\n")),
        ("/v1/boot/52:54:00:00:00:01", format!("{host}Referer: https://evil.example/\r\n")),
    ] {
        let (status, head, body) = answer(at, "GET", path, &headers, "").await;
        assert_eq!(status, 421, "{path} {headers}: {head} {body}");
    }
    let w1: Name = "w1".parse().expect("a name");
    let events = house.parts.timeline.of(&w1, 9);
    assert!(events.is_empty(), "no boot was begun: {events:?}");
    for headers in [host.as_str(), "", "Host: localhost\r\n", "Host: head.home.arpa:7080\r\n", "Host: 192.0.2.7\r\n"] {
        assert_eq!(status(at, "GET", "/v1/status", headers).await, 200, "{headers}");
        assert_ne!(status(at, "GET", script, headers).await, 421, "{headers}");
    }
    let link = format!("{host}Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n");
    assert_eq!(status(at, "GET", "/", &link).await, 200, "a link is followed");
    let mut old = TcpStream::connect(at).await.expect("it listens");
    old.write_all(format!("GET {script} HTTP/1.0\r\n\r\n").as_bytes()).await.expect("sent");
    let mut text = String::new();
    old.read_to_string(&mut text).await.expect("an answer");
    assert!(text.starts_with("HTTP/1.0 ") && !text.contains(" 421 "), "{text}");
}

#[tokio::test]
async fn a_page_says_what_it_may_load_and_that_it_is_in_no_other() {
    let house = House::new("[access]\npublic = true\n").await;
    let (tls, wire) = (house.tls().await, house.wire().await);
    for (at, path) in [(wire, "/"), (wire, "/nodes/w1"), (tls, "/"), (tls, "/login")] {
        let (status, head, body) = answer(at, "GET", path, "", "").await;
        let head = head.to_ascii_lowercase();
        assert_eq!(status, 200, "{path}");
        for line in [
            "content-security-policy: default-src 'none'; style-src 'sha256-",
            "frame-ancestors 'none'",
            "x-frame-options: deny",
            "x-content-type-options: nosniff",
            "cache-control: no-store",
        ] {
            assert!(head.contains(line), "{path} lacks {line}: {head}");
        }
        assert!(!body.contains("<script"));
    }
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let (_, head, _) = answer(tls, "POST", "/login", form, "user=x&password=y").await;
    assert!(
        head.to_ascii_lowercase().contains("content-security-policy: "),
        "also one that says what is wrong: {head}"
    );
    let (_, head, _) = answer(wire, "GET", "/v1/status", "", "").await;
    assert!(head.to_ascii_lowercase().contains("x-content-type-options: nosniff"), "{head}");
    let (_, head, _) = answer(wire, "GET", "/boot/loader/none", "", "").await;
    assert!(!head.to_ascii_lowercase().contains("x-content-type-options"), "firmware has little room: {head}");
}

#[tokio::test]
async fn whoever_follows_the_audit_log_hears_of_what_comes() {
    let house = House::new("").await;
    let (tls, socket) = (house.tls().await, house.socket().await);
    let operator = house.token("ci", Role::Operator);
    let start: News = read(tls, "/v1/audit/news", &operator).await;
    let path = |news: &News| format!("/v1/audit/news?link={}&refusal={}&wait=25", news.next.link, news.next.refusal);
    let waits = tokio::spawn({
        let (path, operator) = (path(&start), operator.clone());
        async move { read::<News>(tls, &path, &operator).await }
    });
    assert_eq!(status(socket, "DELETE", "/v1/tokens/none", "").await, 404);
    let mut heard = waits.await.expect("it answers");
    assert_eq!(heard.entries[0].what, "DELETE /v1/tokens/none");
    while heard.next.link < 2 {
        heard = read(tls, &path(&heard), &operator).await;
    }
    assert_eq!(heard.entries.last().map(|entry| entry.result.as_str()), Some("failed: 404 Not Found"));
    assert_eq!(status(tls, "DELETE", "/v1/tokens/none", "").await, 401);
    let heard: News = read(tls, &path(&heard), &operator).await;
    let last = heard.entries.last().expect("an entry");
    assert!(last.who == "someone" && last.result == "refused: log in first" && last.folded.is_some(), "{last:?}");
}

/// The disk is full, and nobody has written since: the change would be the first to find out.
#[tokio::test]
async fn what_cannot_be_written_down_is_not_done_and_what_is_over_when_it_is_done_is() {
    for (lasts, expected) in [(true, StatusCode::INSUFFICIENT_STORAGE), (false, StatusCode::OK)] {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = Disk::default();
        let store = disk.open(&folder.path().join("head.redb"));
        let shelf = Shelf::open(folder.path().join("image")).expect("a shelf");
        let snapshots = Snapshots::open(folder.path(), folder.path(), shelf, store.clone()).expect("opens");
        let access = Arc::new(Access::open(store, Arc::new(snapshots), 7444).expect("opens"));
        let change = Change { lasts, told: audit::nothing };
        let layer = from_fn_with_state((Arc::clone(&access), change), may_change);
        let mut router = Router::new().route("/x", post(|| async {}).route_layer(layer));
        disk.is_full(true);
        let (name, from) = ("ann".into(), "local".into());
        let actor = Actor { name, credential: Credential::Owner, role: Role::Operator, from, csrf: None };
        let mut request = Request::post("/x").body(Body::empty()).expect("a request");
        request.extensions_mut().insert(Who(Some(actor)));
        let answer = router.call(request).await.expect("an answer");
        assert_eq!(answer.status(), expected, "lasts: {lasts}");
        let told = audit::latest(&access.store, 9).expect("read").all;
        let results: Vec<&str> = told.iter().map(|entry| entry.result.as_str()).collect();
        assert_eq!(
            results,
            [if lasts { "refused: the disk takes no writes" } else { "done" }],
            "it is told all the same"
        );
    }
}
