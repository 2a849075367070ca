//! What nodes are told so that others know them, and they each other: certificates of SSH, and where nodes are.

use bramble_model::firewall::Firewall;
use bramble_model::names::Name;

use super::*;
use crate::places::Places;

const WITH_SSH: &str = "[cluster]\nname = \"c\"\nssh_keys = [\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAnn ann@home\"]\n\
                        [network]\ninterface = \"lo\"\n[roles.r]\nengine = \"worker\"\n\
                        [nodes.w1]\nmac = \"52:54:00:00:00:01\"\nrole = \"r\"\n\
                        [nodes.w2]\nmac = \"52:54:00:00:00:02\"\nrole = \"r\"\n";

fn without_ssh() -> String {
    WITH_SSH.replace("ssh_keys", "time_servers")
}

/// A public key, as `ssh-keygen` writes it.
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH root@w2";

/// The answer, past what it is told beside.
async fn certificate(lines: &mut Lines) -> agent::HostCertificate {
    loop {
        match hear(lines).await.expect("it is connected") {
            ToAgent::SshHostCertificate(signed) => return signed,
            ToAgent::Document(_) | ToAgent::Beat => {}
            other => panic!("{other:?}"),
        }
    }
}

/// The name that a key says, and that an agent may ask for, is nobody's word.
#[tokio::test]
async fn an_agent_gets_a_certificate_of_its_own_name_whatever_it_says() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let agents = agents_of(folder.path(), WITH_SSH, LIMITS);
    let address = listening(&agents).await;
    let mut lines = settle(&agents, address, &node(1)).await;
    say(&mut lines, &FromAgent::SshHostKey { key: KEY.into() }).await;
    let signed = certificate(&mut lines).await;
    assert!(signed.renew_at > now());
    let path = folder.path().join("host-cert.pub");
    std::fs::write(&path, signed.certificate + "\n").expect("written");
    let shown = std::process::Command::new("ssh-keygen").arg("-L").arg("-f").arg(&path).output();
    let shown = String::from_utf8(shown.expect("ssh-keygen runs").stdout).expect("text");
    assert!(shown.contains("w1.home.arpa") && !shown.contains("w2"), "{shown}");
}

#[tokio::test]
async fn what_is_no_key_gets_no_certificate_and_ends_no_connection() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let agents = agents_of(folder.path(), WITH_SSH, LIMITS);
    let address = listening(&agents).await;
    let mut lines = settle(&agents, address, &node(1)).await;
    say(&mut lines, &FromAgent::SshHostKey { key: "ssh-rsa AAAA".into() }).await;
    // Whoever asks all the time is answered now and then.
    loop {
        for _ in 0..100 {
            say(&mut lines, &FromAgent::SshHostKey { key: KEY.into() }).await;
        }
        if timeout(Duration::from_millis(300), certificate(&mut lines)).await.is_ok() {
            break;
        }
    }
    assert!(agents.is_connected(&node(1)));
    let more = timeout(Duration::from_millis(200), certificate(&mut lines)).await;
    assert!(more.is_err(), "one answer, and not a hundred");
}

#[tokio::test]
async fn where_nodes_have_no_ssh_no_key_is_signed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let agents = agents_of(folder.path(), &without_ssh(), LIMITS);
    let address = listening(&agents).await;
    let mut lines = settle(&agents, address, &node(1)).await;
    say(&mut lines, &FromAgent::SshHostKey { key: KEY.into() }).await;
    let answered = timeout(Duration::from_millis(300), certificate(&mut lines)).await;
    assert!(answered.is_err(), "nobody asked for SSH");
}

/// Where the others are, in the order of their addresses.
fn members(document: &NodeDocument) -> Vec<Ipv4Addr> {
    match &document.firewall {
        Some(Firewall::On(rules)) => rules.swarm.iter().copied().collect(),
        other => panic!("{other:?}"),
    }
}

async fn document(lines: &mut Lines) -> NodeDocument {
    loop {
        if let ToAgent::Document(document) = hear(lines).await.expect("it is connected") {
            return document;
        }
    }
}

#[tokio::test]
async fn nodes_let_in_where_others_are_connected_from_and_not_where_they_say_to_be() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let agents = agents_of(folder.path(), &without_ssh(), LIMITS);
    let address = listening(&agents).await;
    let (mut lines, hello, _) = connect(&agents, address, &node(1)).await;
    let FromAgent::Hello { boot, version, facts, protocol, capabilities } = hello else { panic!("no hello") };
    let facts = Facts { address: Ipv4Addr::new(10, 9, 9, 9).into(), ..facts };
    say(&mut lines, &FromAgent::Hello { boot, version, facts, protocol, capabilities }).await;
    assert_eq!(members(&document(&mut lines).await), [Ipv4Addr::LOCALHOST], "its word is not where it is");
    // Who is where others take no part is told nothing.
    agents.moves.tell();
    let elsewhere = Ipv4Addr::new(127, 0, 0, 2);
    agents.places.learn(&node(2), elsewhere);
    assert_eq!(members(&document(&mut lines).await), [Ipv4Addr::LOCALHOST, elsewhere]);
    // It has moved: its old place is let in no more.
    let moved = Ipv4Addr::new(127, 0, 0, 3);
    agents.places.learn(&node(2), moved);
    assert_eq!(members(&document(&mut lines).await), [Ipv4Addr::LOCALHOST, moved]);
    // A head that starts anew takes nobody's place from them.
    let again = Places::open(agents.store.clone()).expect("opens");
    assert_eq!(again.fleet().places, agents.places.fleet().places);
    assert_eq!(again.fleet().places[&node(2)], moved);
}

#[tokio::test]
async fn who_has_left_is_forgotten_unless_it_is_still_a_manager() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let agents = agents_of(folder.path(), &without_ssh(), LIMITS);
    for (name, last) in [("w1", 1), ("old", 2), ("gone", 3)] {
        agents.places.learn(&name.parse().expect("a name"), Ipv4Addr::new(10, 77, 0, last));
    }
    let old: Name = "old".parse().expect("a name");
    agents.managers_are(&[old.clone()].into());
    agents.follow(&agents.nodes.cluster());
    let names = |places: &Places| places.fleet().places.keys().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names(&agents.places), ["old", "w1"]);
    agents.managers_are(&[].into());
    agents.follow(&agents.nodes.cluster());
    assert_eq!(names(&agents.places), ["w1"]);
    assert_eq!(names(&Places::open(agents.store.clone()).expect("opens")), ["w1"]);
}
