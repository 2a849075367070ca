//! People and their hands: who may do what, and what is done on nodes, by the real head and the real command
//! line, with simulated agents.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bramble_tests::agents::{Agent, Head, Session, runtime};
use bramble_tests::machines::house::{HEAD, House, inside};
use bramble_tests::wait;
use serde_json::Value;

fn nodes(count: usize) -> String {
    (1..=count).map(|number| format!("[nodes.w{number}]\nmac = \"{}\"\nrole = \"other\"\n\n", mac(number))).collect()
}

fn mac(number: usize) -> String {
    format!("52:54:00:01:{:02x}:{:02x}", number >> 8, number & 255)
}

fn house(count: usize, access: &str) -> (House, Head) {
    let house = House::start_as("admission = \"open\"", &format!("{access}\n{}", nodes(count)));
    let head = Head::new(HEAD.parse().expect("an address"), &house.path().join(".bramble"));
    (house, head)
}

fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: {HEAD}:7444\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n{body}"
    )
}

const JSON: &str = "Content-Type: application/json\r\n";
const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";

#[test]
fn a_viewer_looks_and_an_operator_changes() {
    if !inside("a_viewer_looks_and_an_operator_changes") {
        return;
    }
    let (house, head) = house(1, "");
    house.must(&["user", "set", "ann", "--role", "operator"], "correct horse\n");
    house.must(&["user", "set", "vic"], "battery staple\n");
    let (code, _, err) = house.bramble(&["user", "set", "bob"], "short\n");
    assert!(code == 1 && err.contains("at least 8"), "{err}");
    let viewer = house.must(&["token", "add", "screen"], "").trim().to_owned();
    let operator = house.must(&["token", "add", "ci", "--role", "operator", "--days", "1"], "").trim().to_owned();
    let changing: Vec<(&str, &str, &str)> = vec![
        ("POST", "/v1/nodes/w1/power", "\"on\""),
        ("POST", "/v1/nodes/w1/approve", "{\"fingerprint\":\"00000000000000000000000000000000\"}"),
        ("POST", "/v1/nodes/w1/revoke", ""),
        ("POST", "/v1/nodes/w1/expect", ""),
        ("POST", "/v1/nodes/w1/reinstall", ""),
        ("POST", "/nodes/w1/approve", "fingerprint=00000000000000000000000000000000"),
        ("PUT", "/v1/users/eve", "{\"password\":\"evil evil\",\"role\":\"operator\"}"),
        ("DELETE", "/v1/users/ann", ""),
        ("POST", "/v1/tokens", "{\"name\":\"evil\",\"role\":\"operator\"}"),
        ("DELETE", "/v1/tokens/ci", ""),
        ("GET", "/v1/users", ""),
        ("GET", "/v1/tokens", ""),
        ("GET", "/v1/audit", ""),
    ];
    runtime().block_on(async {
        let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
        for path in ["/", "/nodes/w1", "/v1/status", "/v1/events", "/v1/me"] {
            let page = request("GET", path, "", "");
            assert_eq!(head.https(&page).await.0, 401, "{path}: nobody is public here");
            assert_eq!(head.http(&page).await.0, 403, "{path}: and nobody is known over plain HTTP");
            assert_eq!(head.https(&request("GET", path, "Accept: text/html\r\n", "")).await.0, 303, "{path}");
            assert_eq!(head.https(&request("GET", path, &bearer(&viewer), "")).await.0, 200, "{path}");
            assert_eq!(head.https(&request("GET", path, &bearer("0123"), "")).await.0, 401, "{path}: no such token");
            // A token that is sent in the clear is not taken.
            assert_eq!(head.http(&request("GET", path, &bearer(&viewer), "")).await.0, 403, "{path}");
        }
        for (method, path, body) in &changing {
            let kind = if path.starts_with("/v1") { JSON } else { FORM };
            let asked = |credentials: &str| request(method, path, &format!("{kind}{credentials}"), body);
            assert_eq!(head.https(&asked("")).await.0, 401, "{method} {path}: nobody");
            assert_eq!(head.https(&asked(&bearer(&viewer))).await.0, 403, "{method} {path}: a viewer");
            let plain = head.http(&asked(&bearer(&operator))).await.0;
            assert!([403, 404, 405].contains(&plain), "{method} {path} over plain HTTP: {plain}");
        }
        for (method, path, status, what) in [
            ("GET", "/v1/nothing", 404, "there is nothing at `/v1/nothing`"),
            ("PUT", "/v1/status", 405, "`/v1/status` takes no PUT"),
        ] {
            let (told, body) = head.https(&request(method, path, &bearer(&viewer), "")).await;
            assert!(told == status && body.contains(what) && body.contains("\"help\""), "{method} {path}: {told} {body}");
        }
        let upgrade = "Connection: close, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        let hands = |credentials: &str| {
            format!("GET /v1/hands HTTP/1.1\r\nHost: {HEAD}:7444\r\n{upgrade}{credentials}\r\n")
        };
        assert_eq!(head.https(&hands("")).await.0, 401);
        assert_eq!(head.https(&hands(&bearer(&viewer))).await.0, 403);

        // A browser: the cookie alone changes nothing.
        let login = |user: &str, password: &str| {
            request("POST", "/login", FORM, &format!("user={user}&password={password}"))
        };
        assert_eq!(head.https(&login("ann", "wrong+horse")).await.0, 400);
        let (status, headers) = head.https_headers(&login("ann", "correct+horse")).await;
        assert_eq!(status, 303, "{headers}");
        let cookie = headers.lines().find(|line| line.to_ascii_lowercase().starts_with("set-cookie:")).expect("a cookie");
        for word in ["__Host-bramble=", "HttpOnly", "Secure", "SameSite=Lax", "Path=/", "Max-Age="] {
            assert!(cookie.contains(word), "{cookie}");
        }
        let session = cookie.split_once(": ").and_then(|(_, rest)| rest.split(';').next()).expect("a value").to_owned();
        let cookie = format!("Cookie: {session}\r\n");
        let (_, page) = head.https(&request("GET", "/", &cookie, "")).await;
        let csrf = page.split("name=\"csrf\" value=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a word");
        let body = |csrf: &str| format!("fingerprint={}&csrf={csrf}", "0".repeat(32));
        let approve = |csrf: &str| request("POST", "/nodes/w1/approve", &format!("{FORM}{cookie}"), &body(csrf));
        assert_eq!(head.https(&approve("")).await.0, 403, "another site can send the cookie");
        assert_eq!(head.https(&approve(&"0".repeat(64))).await.0, 403);
        assert_eq!(head.https(&approve(csrf)).await.0, 303);
        assert_eq!(head.https(&hands(&format!("{cookie}Origin: https://evil.example\r\n"))).await.0, 403);
        let cross = request("POST", "/login", &format!("{FORM}Sec-Fetch-Site: cross-site\r\n"), "user=ann&password=correct+horse");
        assert_eq!(head.https(&cross).await.0, 403, "another site logs nobody in");
        head.https(&request("POST", "/logout", &cookie, "")).await;
        assert_eq!(head.https(&request("GET", "/v1/status", &cookie, "")).await.0, 401, "logged out is logged out");

        // Guessing gets slower.
        let mut answers = BTreeSet::new();
        for _ in 0..8 {
            answers.insert(head.https(&login("vic", "guess+guess")).await.0);
        }
        assert_eq!(answers, BTreeSet::from([400, 429]));
        assert_eq!(head.https(&login("vic", "battery+staple")).await.0, 429, "the right one has to wait, too");
    });
    let audit: Vec<Value> = serde_json::from_str(&house.must(&["audit", "--last", "500", "--json"], "")).expect("JSON");
    let text = format!("{audit:?}");
    assert!(
        !text.contains("correct") && !text.contains("evil evil") && !text.contains(&operator),
        "no secret is in it"
    );
    let by = |who: &str, what: &str, result: &str| {
        audit.iter().any(|entry| {
            entry["who"] == who
                && entry["what"].as_str().is_some_and(|told| told.starts_with(what))
                && entry["result"].as_str().is_some_and(|told| told.starts_with(result))
        })
    };
    assert!(by("root on the head", "PUT /v1/users/ann", "done"), "{text}");
    assert!(by("root on the head", "PUT /v1/users/bob", "failed"), "{text}");
    assert!(by("token screen", "DELETE /v1/users/ann", "refused"), "{text}");
    assert!(by("ann", "log in", "refused"), "{text}");
    assert!(by("ann", "log in", "done"), "{text}");
    assert!(by("ann", "POST /nodes/w1/approve", "done"), "{text}");
    assert!(audit.iter().any(|entry| entry["from"] == "10.77.0.1"), "{text}");
}

#[test]
fn the_command_line_works_from_elsewhere() {
    if !inside("the_command_line_works_from_elsewhere") {
        return;
    }
    let (house, head) = house(1, "[access]\npublic = true\n");
    house.must(&["user", "set", "ann", "--role", "operator"], "correct horse\n");
    let ca = house.status().expect("the head answers")["ca"].as_str().expect("a fingerprint").to_owned();
    let url = format!("https://{HEAD}:7444");
    let (code, _, err) = house.bramble(&["login", HEAD, "--user", "ann"], "correct horse\n");
    assert!(code == 1 && err.contains("is not known yet"), "{err}");
    let (code, _, err) = house.bramble(&["login", HEAD, "--user", "ann", "--ca", &"0".repeat(64)], "correct horse\n");
    assert!(code == 1 && err.contains("someone is in between"), "{err}");
    let (code, _, err) = house.bramble(&["login", HEAD, "--user", "ann", "--ca", &ca], "wrong horse\n");
    assert!(code == 1 && err.contains("is wrong"), "{err}");
    house.must(&["login", HEAD, "--user", "ann", "--ca", &ca], "correct horse\n");
    // Elsewhere there is no control socket.
    let elsewhere = tempfile::tempdir().expect("a folder");
    let from_elsewhere = |words: &[&str]| house.bramble_elsewhere(elsewhere.path(), words, "");
    let (code, _, err) = house.bramble(&["-C", "/nowhere", "status"], "");
    assert!(code == 3 && err.contains("/nowhere"), "whoever names a folder means that one: {err}");
    let (code, out, err) = from_elsewhere(&["audit", "--last", "1"]);
    assert!(code == 0 && out.contains("log in"), "{out}{err}");
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(house.path().join("config/bramble/heads.json")).expect("a file").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(runtime().block_on(head.http(&request("GET", "/v1/status", "", ""))).0, 200, "anyone may look here");
    let (code, _, err) = from_elsewhere(&["node", "revoke", "w9"]);
    assert!(code == 1 && err.contains("there is no node"), "{err}");
    house.must(&["logout", &url], "");
    let (code, _, err) = from_elsewhere(&["audit"]);
    assert!(code == 4 && err.contains("bramble login"), "{code} {err}");
    let token = house.must(&["token", "add", "ci"], "");
    house.must(&["login", HEAD, "--token", "--ca", &ca], &token);
    let (code, _, err) = from_elsewhere(&["node", "revoke", "w1"]);
    assert!(code == 1 && err.contains("a viewer may look"), "{err}");
}

/// Brings these nodes up, each in a task of its own.
async fn live(head: &Head, numbers: impl Iterator<Item = usize>) {
    for number in numbers {
        let name = format!("w{number}");
        let (_, session) = Agent::up(head, &name, &mac(number)).await.expect("let in");
        tokio::spawn(async move { session.live(&name, Duration::from_secs(2)).await });
    }
}

fn count_connected(house: &House) -> usize {
    let status = house.status().expect("the head answers");
    let nodes = status["nodes"].as_array().expect("nodes");
    nodes.iter().filter(|node| node["connected"] == true).count()
}

#[test]
fn a_hundred_nodes_answer_at_once() {
    if !inside("a_hundred_nodes_answer_at_once") {
        return;
    }
    let (house, head) = house(101, "");
    let runtime = runtime();
    runtime.block_on(live(&head, 1..=100));
    wait("all are there", || count_connected(&house) == 100);
    let start = Instant::now();
    let (code, out, err) = house.bramble(&["exec", "-n", "w[1-100]", "--", "uptime"], "");
    eprintln!("      100 nodes answered after {:.2} s", start.elapsed().as_secs_f64());
    assert_eq!((code, out.lines().count()), (0, 100), "{err}");
    assert!(out.lines().any(|line| line.split_whitespace().collect::<Vec<_>>() == ["w42", "w42:", "uptime"]), "{out}");
    assert!(err.contains("100 nodes: all done"), "{err}");
    // One node: its own output and exit code.
    assert_eq!(house.bramble(&["exec", "-n", "w7", "--", "date"], ""), (0, "w7: date\n".into(), String::new()));
    assert_eq!(house.bramble(&["exec", "-n", "w7", "--", "false"], "").0, 1);
    // Sets, and what is wrong with them.
    let (code, out, _) = house.bramble(&["exec", "-n", "w[1-3],!w2", "--", "id"], "");
    // In the order in which they answer.
    let mut lines: Vec<&str> = out.lines().collect();
    lines.sort_unstable();
    assert_eq!((code, lines), (0, vec!["w1  w1: id", "w3  w3: id"]));
    let (code, _, err) = house.bramble(&["exec", "-n", "x1", "--", "id"], "");
    assert!(code == 1 && err.contains("there is no node `x1`"), "{err}");
    let (code, _, err) = house.bramble(&["exec", "--", "id"], "");
    assert!(code == 1 && err.contains("say where"), "{err}");
    // One that is away fails, and says so.
    let (code, out, err) = house.bramble(&["exec", "-n", "w[99-101]", "--", "id"], "");
    assert!(code == 1 && out.contains("w101  (it is not connected)"), "{out}{err}");
    assert!(err.contains("3 nodes: 2 done, 1 failed: w101 (it is not connected)"), "{err}");
    let (code, out, _) = house.bramble(&["exec", "-r", "other", "--json", "--", "id"], "");
    let told: Vec<Value> = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, told.len(), &told[0]["stdout"]), (1, 101, &Value::from("w1: id\n")));
    let (_, out, err) = house.bramble(&["top", "--once"], "");
    assert_eq!(out.lines().count(), 102, "{out}{err}");
    assert!(out.contains("45 °C"), "{out}");
    let audit = house.must(&["audit"], "");
    assert!(audit.contains("exec id on w1,w3") && audit.contains("failed on w101"), "{audit}");
    // A cable is pulled in the middle of an errand.
    let mut sleeping = runtime.block_on(async {
        let (_, session) = Agent::up(&head, "w101", &mac(101)).await.expect("let in");
        session
    });
    let asked = std::thread::scope(|scope| {
        let asked = scope.spawn(|| house.bramble(&["exec", "-n", "w101", "--", "sleep", "1000"], ""));
        runtime.block_on(async {
            while !matches!(sleeping.hear().await, Some(bramble_model::agent::ToAgent::Start { .. })) {}
        });
        drop(sleeping);
        asked.join().expect("it ends")
    });
    assert!(asked.0 == 255 && asked.2.contains("its connection was lost"), "{asked:?}");
}

/// Whoever presses Ctrl-C leaves nothing running.
#[test]
fn an_errand_ends_with_the_person() {
    if !inside("an_errand_ends_with_the_person") {
        return;
    }
    let (house, head) = house(1, "");
    let runtime = runtime();
    let mut session: Session = runtime.block_on(async { Agent::up(&head, "w1", &mac(1)).await.expect("let in").1 });
    let mut child = std::process::Command::new(bramble_tests::program("bramble"))
        .args(["exec", "-n", "w1", "--", "sleep", "1000"])
        .current_dir(house.path())
        .spawn()
        .expect("bramble starts");
    runtime.block_on(async {
        while !matches!(session.hear().await, Some(bramble_model::agent::ToAgent::Start { .. })) {}
    });
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("sent");
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    assert!(runtime.block_on(session.is_stopped()), "the head tells the agent");
    wait("the audit log says so", || house.must(&["audit"], "").contains("broken off"));
}

/// A browser's way through a login by another service; gives the head's last answer and its session's cookie.
async fn log_in_elsewhere(head: &Head, meddle: impl Fn(String) -> String) -> (u16, Option<String>) {
    let value = |headers: &str, name: &str| {
        let line = headers.lines().find(|line| line.to_ascii_lowercase().starts_with(name))?;
        line.split_once(": ").map(|(_, value)| value.to_owned())
    };
    let (status, headers) = head.https_headers(&request("GET", "/login/oidc", "", "")).await;
    if status != 303 {
        return (status, None);
    }
    let cookie = value(&headers, "set-cookie").expect("a cookie");
    for word in ["__Host-bramble-oidc=", "HttpOnly", "Secure", "SameSite=Lax"] {
        assert!(cookie.contains(word), "{cookie}");
    }
    let cookie = cookie.split(';').next().expect("a value").to_owned();
    let provider = value(&headers, "location").expect("an address");
    let target = provider.strip_prefix("http://127.0.0.1:9000").expect("the provider");
    let back = bramble_tests::agents::get(("127.0.0.1", 9000), target).await;
    let back = value(&back, "location").unwrap_or_else(|| panic!("the provider refuses: {back}"));
    let target = back.strip_prefix(&format!("https://{HEAD}:7444")).expect("the head").to_owned();
    let (status, headers) =
        head.https_headers(&request("GET", &meddle(target), &format!("Cookie: {cookie}\r\n"), "")).await;
    let session = value(&headers, "set-cookie").map(|cookie| cookie.split(';').next().expect("a value").to_owned());
    (status, session)
}

#[test]
fn an_account_of_another_service_logs_in() {
    use bramble_tests::provider::{CLIENT, Lie, Provider, SECRET};
    if !inside("an_account_of_another_service_logs_in") {
        return;
    }
    let access = format!(
        "[access.oidc]\nissuer = \"http://127.0.0.1:9000\"\nclient_id = \"{CLIENT}\"\nclient_secret_file = \"oidc.secret\"\n\
         operators = [\"ann@example.org\", \"group:admins\"]\nviewers = [\"bob@example.org\"]\n"
    );
    let house = House::start_with_files(
        "admission = \"open\"",
        &format!("{access}\n{}", nodes(1)),
        &[("oidc.secret", SECRET.as_bytes())],
    );
    let head = Head::new(HEAD.parse().expect("an address"), &house.path().join(".bramble"));
    runtime().block_on(async {
        assert_eq!(log_in_elsewhere(&head, |target| target).await.0, 502, "the provider is away");
        let provider = Provider::start(9000).await;
        let (status, session) = log_in_elsewhere(&head, |target| target).await;
        let session = session.expect("a session");
        assert_eq!(status, 303);
        let cookie = format!("Cookie: {session}\r\n");
        let (status, me) = head.https(&request("GET", "/v1/me", &cookie, "")).await;
        assert_eq!((status, me.as_str()), (200, r#"{"name":"ann@example.org","role":"operator"}"#));
        let who = |person: Value| {
            provider.is(person);
            log_in_elsewhere(&head, |target| target)
        };
        assert_eq!(
            who(serde_json::json!({ "sub": "1", "email": "bob@example.org", "email_verified": true })).await.0,
            303
        );
        assert_eq!(
            who(serde_json::json!({ "sub": "2", "email": "ann@example.org", "email_verified": false })).await.0,
            403
        );
        assert_eq!(who(serde_json::json!({ "sub": "3", "groups": ["admins"] })).await.0, 303);
        assert_eq!(who(serde_json::json!({ "sub": "4" })).await.0, 403);
        // What is not right is not let in.
        provider.is(serde_json::json!({ "sub": "3", "groups": ["admins"] }));
        for lie in [Lie::Nonce, Lie::Audience, Lie::Issuer, Lie::Expired, Lie::Signature, Lie::Unsigned, Lie::Confused]
        {
            provider.lie(lie);
            assert_eq!(log_in_elsewhere(&head, |target| target).await, (502, None), "{lie:?}");
        }
        provider.lie(Lie::None);
        let other =
            |target: String| target.split("&state=").next().expect("a code").to_owned() + "&state=" + &"0".repeat(64);
        assert_eq!(log_in_elsewhere(&head, other).await, (502, None), "another browser's login");
        assert_eq!(log_in_elsewhere(&head, |target| target.replace("code=code", "code=c0de")).await, (502, None));
        assert_eq!(log_in_elsewhere(&head, |target| target).await.0, 303, "and after all of that, it works");
    });
    let audit = house.must(&["audit", "--last", "500"], "");
    assert!(
        audit.contains("log in by http://127.0.0.1:9000") && audit.contains("neither operator nor viewer"),
        "{audit}"
    );
}
