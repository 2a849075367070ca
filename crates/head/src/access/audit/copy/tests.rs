use std::net::Ipv4Addr;

use bramble_model::audit::{Follower, Link};

use super::*;
use crate::access::audit::{begin, end, page, refusals::Try};
use crate::access::door::Door;
use crate::snapshots::tests::begun;

struct Head {
    folder: tempfile::TempDir,
    store: Store,
    copies: Arc<Copies>,
    stop: CancellationToken,
}

impl Head {
    /// One whose repository has this `[audit]`; `{}` is its folder.
    fn new(audit: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let audit = audit.replace("{}", &folder.path().display().to_string());
        let toml = format!("[cluster]\nname = \"c\"\n[network]\ninterface = \"lo\"\n[audit]\n{audit}\n");
        let (store, snapshots, _) = begun(folder.path(), &toml);
        let refusals = Arc::new(Refusals::open(store.clone()).expect("opens"));
        let copies = Arc::new(Copies::new(store.clone(), snapshots, refusals));
        Head { folder, store, copies, stop: CancellationToken::new() }
    }

    fn does(&self, what: &str) {
        let number = begin(&self.store, ("ann", "10.77.0.9"), what, "begun", true).expect("written");
        end(&self.store, number, "done");
    }

    fn refuses(&self) {
        let door = Door::Tls((Ipv4Addr::LOCALHOST, 4000).into());
        self.copies.refusals.add(&Try { door, route: "log in", who: None, what: "log in", result: "refused: wrong" });
    }

    /// As one that runs does; it may be started again.
    fn starts(&self) -> tokio::task::JoinHandle<()> {
        tokio::spawn(Arc::clone(&self.copies).keep(self.stop.clone()))
    }

    fn copied(&self) -> Vec<Copied> {
        let text = std::fs::read_to_string(self.folder.path().join("audit.log")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn links(copied: Vec<Copied>) -> Vec<Link> {
    copied
        .into_iter()
        .filter_map(|line| match line {
            Copied::Change { link, hash } => {
                assert_eq!(link.hash(), hash);
                Some(link)
            }
            Copied::Refusal(_) | Copied::Begins(_) => None,
        })
        .collect()
}

#[tokio::test]
async fn a_file_gets_every_entry_from_when_it_was_named_also_after_a_start() {
    let head = Head::new("file = \"{}/audit.log\"");
    let runs = head.starts();
    until(|| {
        head.copies
            .progress(Kind::File, &format!("{}/audit.log", head.folder.path().display()))
            .is_ok_and(|one| one.is_some())
    })
    .await;
    head.does("POST /one");
    head.refuses();
    until(|| head.copied().len() == 4).await;
    // Where that is not noted, it is copied twice.
    let target = format!("{}/audit.log", head.folder.path().display());
    until(|| head.copies.progress(Kind::File, &target).is_ok_and(|one| one.is_some_and(|one| one.at.refusal > 0)))
        .await;
    runs.abort();
    let _ = runs.await;
    head.does("POST /while/it/was/off");
    // An hour's tries are some lines.
    (0..500).for_each(|_| head.refuses());
    let runs = head.starts();
    until(|| head.copied().len() == 7).await;
    let copied = links(head.copied());
    let kept = page(&head.store, 0).expect("read");
    assert_eq!(copied, kept.links, "and it is the chain itself");
    let mut follower = Follower::of(&kept.chain);
    copied.iter().for_each(|link| follower.takes(link));
    assert_eq!(follower.ends(&kept.chain).broken, []);
    assert_eq!(head.copies.problems(), Vec::<String>::new());
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(head.folder.path().join("audit.log")).expect("a file").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    runs.abort();
}

/// Whoever names another place begins there, and what is left out is told by number and hash.
#[tokio::test]
async fn another_place_begins_with_what_it_follows_on() {
    let head = Head::new("file = \"{}/audit.log\"");
    let before = Progress { to: "/var/log/old".into(), at: Position::default(), lost: 0, begins: None };
    head.copies.note(Kind::File, &before).expect("noted");
    head.does("POST /one");
    let last = page(&head.store, 0).expect("read").chain;
    let runs = head.starts();
    until(|| head.copied().len() == 1).await;
    head.does("POST /two");
    until(|| head.copied().len() == 3).await;
    let copied = head.copied();
    let Copied::Begins(begins) = &copied[0] else { panic!("{copied:?}") };
    assert_eq!((begins.after, begins.hash), (last.last, last.head));
    assert_eq!(begins.instead_of.as_deref(), Some("/var/log/old"));
    let links = links(copied);
    assert_eq!((links[0].number, links[0].before), (last.last + 1, last.head), "and so it goes on");
    runs.abort();
}

#[tokio::test]
async fn a_copy_that_fails_is_told_and_holds_up_nothing() {
    let head = Head::new("file = \"{}/away/audit.log\"");
    let runs = head.starts();
    until(|| {
        head.copies
            .progress(Kind::File, &format!("{}/away/audit.log", head.folder.path().display()))
            .is_ok_and(|one| one.is_some())
    })
    .await;
    head.does("POST /one");
    until(|| !head.copies.problems().is_empty()).await;
    let problems = head.copies.problems();
    assert!(problems[0].contains("away/audit.log: No such file"), "{problems:?}");
    head.does("POST /two");
    runs.abort();
    let _ = runs.await;
    std::fs::create_dir(head.folder.path().join("away")).expect("a folder");
    let runs = head.starts();
    let path = head.folder.path().join("away/audit.log");
    until(|| std::fs::read_to_string(&path).is_ok_and(|text| text.lines().count() == 5)).await;
    until(|| head.copies.problems().is_empty()).await;
    runs.abort();
}

/// Whoever writes the repository names it, and the head may be root.
#[test]
fn nothing_is_added_to_a_file_that_is_not_the_logs_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("keys"), "ssh-ed25519 AAAA ann\n").expect("written");
    std::os::unix::fs::symlink(path("elsewhere"), path("link")).expect("a link");
    std::fs::write(path("one"), "").expect("written");
    std::fs::hard_link(path("one"), path("two")).expect("a second name");
    std::fs::create_dir(path("folder")).expect("a folder");
    for name in ["keys", "link", "two", "folder"] {
        append(&path(name), b"{\"kind\":1}\n").expect_err(name);
    }
    assert_eq!(std::fs::read_to_string(path("keys")).expect("read"), "ssh-ed25519 AAAA ann\n");
    assert!(!path("elsewhere").exists());
    append(&path("own"), b"{\"kind\":1}\n").expect("written");
    append(&path("own"), b"{\"kind\":2}\n").expect("written");
    std::fs::write(path("torn"), "{\"kind\":1}\n{\"kin").expect("written");
    append(&path("torn"), b"{\"kind\":2}\n").expect("written");
    assert_eq!(std::fs::read_to_string(path("torn")).expect("read"), "{\"kind\":1}\n{\"kin\n{\"kind\":2}\n");
    assert_eq!(std::fs::read_to_string(path("own")).expect("read"), "{\"kind\":1}\n{\"kind\":2}\n");
}

#[tokio::test]
async fn a_syslog_server_gets_each_entry_as_a_message() {
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let head = Head::new(&format!("syslog = \"udp://127.0.0.1:{}\"", server.local_addr().expect("bound").port()));
    let target = head.copies.target(Kind::Syslog).expect("named").to_string();
    let runs = head.starts();
    until(|| head.copies.progress(Kind::Syslog, &target).is_ok_and(|one| one.is_some())).await;
    head.does("POST /one");
    head.refuses();
    let mut severities = Vec::new();
    for _ in 0..4 {
        let mut message = vec![0; 4096];
        let length = server.recv(&mut message).await.expect("a message");
        let message = String::from_utf8(message[..length].to_vec()).expect("text");
        severities.push(message.split('>').next().expect("a priority").to_owned());
        let json = message.split_once(" - ").expect("a body").1;
        serde_json::from_str::<Copied>(json).unwrap_or_else(|error| panic!("{error}: {message}"));
    }
    severities.sort_unstable();
    assert_eq!(severities, ["<108", "<109", "<109", "<109"]);
    runs.abort();
}

#[tokio::test]
async fn a_socket_of_syslog_gets_them_too_and_may_come_late() {
    let head = Head::new("syslog = \"{}/log\"");
    let target = head.copies.target(Kind::Syslog).expect("named").to_string();
    let runs = head.starts();
    until(|| head.copies.progress(Kind::Syslog, &target).is_ok_and(|one| one.is_some())).await;
    head.does("POST /one");
    until(|| !head.copies.problems().is_empty()).await;
    runs.abort();
    let _ = runs.await;
    let server = UnixDatagram::bind(head.folder.path().join("log")).expect("a socket");
    let runs = head.starts();
    let mut message = vec![0; 4096];
    for contains in ["\"kind\":\"begins\"", "POST /one"] {
        let length = server.recv(&mut message).await.expect("a message");
        let said = String::from_utf8_lossy(&message[..length]);
        assert!(said.contains(contains), "{said}");
    }
    runs.abort();
}

#[test]
fn a_message_has_the_form_of_rfc_5424() {
    let link = Link {
        number: 7,
        at: 1_764_000_000_007,
        before: None,
        step: bramble_model::audit::Step::Ended { of: 6, result: "done".into() },
    };
    let text = message(&Copied::of(link), "nas");
    let (head, json) = text.split_once(" - ").expect("no structured data");
    let words: Vec<&str> = head.split(' ').collect();
    assert_eq!(words[..4], ["<109>1", "2025-11-24T16:00:00.007Z", "nas", "bramble"]);
    assert_eq!((words.len(), words[5]), (6, "change"));
    assert!(json.starts_with("{\"kind\":\"change\",\"number\":7,"), "{json}");
}

#[test]
fn entries_that_expired_before_they_left_are_counted() {
    let head = Head::new("file = \"{}/audit.log\"");
    for _ in 0..30 {
        crate::access::audit::add(
            &head.store,
            &bramble_model::audit::Step::Ended { of: 1, result: "done".into() },
            true,
            10,
        )
        .expect("written");
    }
    let batch = head.copies.next(Position { link: 5, refusal: 0 }).expect("read");
    assert_eq!((batch.lost, batch.lines.len(), batch.at.link), (15, 10, 30));
    // A store that was brought back from a backup has less than what was copied.
    let batch = head.copies.next(Position { link: 900, refusal: 7 }).expect("read");
    assert_eq!((batch.lost, batch.lines.len(), batch.at), (0, 0, Position { link: 30, refusal: 0 }));
    let target = head.copies.target(Kind::File).expect("named").to_string();
    head.copies
        .note(Kind::File, &Progress { to: target, at: Position::default(), lost: 15, begins: None })
        .expect("noted");
    assert!(head.copies.problems()[0].starts_with("15 entries of the audit log expired"));
}
