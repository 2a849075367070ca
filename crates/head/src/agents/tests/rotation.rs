//! A rotation of the CA, over TLS, with agents of both releases.

use bramble_model::ca::{CaFinish, message};
use bramble_model::subject::Subject;
use bramble_plan::rotation::{Loss, Node, losses};

use super::*;
use crate::ca::{Authority, Roots};
use crate::rotation::{NotFinished, Rotating};

/// An agent, by what it is let in with and trusts.
struct Machine {
    certificate: String,
    key: KeyPair,
    hello: FromAgent,
    csr: String,
    /// PEM.
    trusts: String,
}

impl Machine {
    /// Of this node, let in, with an agent of this release or of the one before.
    async fn of(agents: &Agents, address: SocketAddr, name: &Name, takes_roots: bool) -> Self {
        let (lines, mut hello, csr, key) = admitted(agents, address, name).await;
        drop(lines);
        if let FromAgent::Hello { capabilities, .. } = &mut hello
            && !takes_roots
        {
            capabilities.retain(|one| *one != Capability::TakesRoots);
        }
        let (certificate, _) = agents.authority.sign(name, &csr).expect("signed");
        Machine { certificate, key, hello, csr, trusts: agents.authority.pem() }
    }

    /// Connects, trusting what it does; `None` where one of the two sides does not trust the other.
    async fn connects(&self, address: SocketAddr) -> Option<Lines> {
        let mut roots = RootCertStore::empty();
        for der in CertificateDer::pem_slice_iter(self.trusts.as_bytes()) {
            roots.add(der.expect("PEM")).expect("a CA");
        }
        let chain = CertificateDer::pem_slice_iter(self.certificate.as_bytes()).flatten().collect();
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).expect("a key");
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .expect("it fits");
        let stream = TcpStream::connect(address).await.expect("it listens");
        let server = ServerName::try_from("head.bramble").expect("a name");
        let stream = TlsConnector::from(Arc::new(tls)).connect(server, stream).await.ok()?;
        let mut lines = Framed::new(stream, LinesCodec::new_with_max_length(LONGEST_LINE));
        lines.send(serde_json::to_string(&self.hello).expect("plain data")).await.ok()?;
        match hear(&mut lines).await {
            Some(ToAgent::Document(document)) if document.life.is_some() => Some(lines),
            _ => None,
        }
    }

    /// Hears whom it may trust, takes that and says so, where its agent does.
    async fn is_told(&mut self, lines: &mut Lines) {
        loop {
            let line =
                timeout(Duration::from_secs(20), lines.next()).await.expect("in time").expect("on").expect("a line");
            if let ToAgent::Trust { roots, signature } = serde_json::from_str(&line).expect("a message") {
                let read = CertificateDer::pem_slice_iter(roots.as_bytes());
                let fingerprints: Vec<Digest> =
                    read.map(|der| Digest(Sha256::digest(der.expect("PEM")).into())).collect();
                assert!(Roots::have_signed(&self.trusts, &message(&fingerprints), &signature), "by whom it trusts");
                self.trusts = roots;
                return say(lines, &FromAgent::Trusts { roots: fingerprints }).await;
            }
        }
    }

    /// Asks for another certificate over this connection, as it does at two thirds of its day.
    async fn renews(&mut self, lines: &mut Lines) {
        say(lines, &FromAgent::Renew { csr: self.csr.clone() }).await;
        loop {
            match timeout(Duration::from_secs(20), hear(lines)).await.expect("in time").expect("it goes on") {
                ToAgent::Renewed(enrolled) => return self.certificate = enrolled.certificate,
                ToAgent::Document(_) | ToAgent::Beat => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

/// As [`connect`], with its key.
async fn admitted(agents: &Agents, address: SocketAddr, name: &Name) -> (Lines, FromAgent, String, KeyPair) {
    connect_with(agents, address, name, KeyPair::generate().expect("a key")).await
}

/// The rotation of a head of before, whose root signs itself, with its state in this folder.
fn head_of_before(folder: &Path) -> (Arc<Agents>, Rotating) {
    let text = "[cluster]\nname = \"c\"\n[network]\ninterface = \"lo\"\n[roles.r]\nengine = \"none\"\n\
                [nodes.w1]\nmac = \"52:54:00:00:00:01\"\nrole = \"r\"\n[nodes.w2]\nmac = \"52:54:00:00:00:02\"\nrole = \"r\"\n\
                [nodes.w3]\nmac = \"52:54:00:00:00:03\"\nrole = \"r\"\n";
    let (agents, timeline, snapshots) =
        parts_beside(folder, text, LIMITS, |keys| drop(crate::ca::tests::of_before(keys)));
    let shelf = bramble_image::Shelf::open(folder.join(".bramble/image")).expect("a shelf");
    let rotating = Rotating {
        state: folder.join(".bramble"),
        authority: Arc::clone(&agents.authority),
        agents: Arc::clone(&agents),
        boot_sets: Arc::new(crate::boot_sets::BootSets::open(agents.store.clone(), shelf)),
        snapshots,
        store: agents.store.clone(),
        timeline,
    };
    (agents, rotating)
}

/// What would be lost now.
fn lost(rotating: &Rotating) -> Vec<Loss> {
    losses(&rotating.look().expect("read").expect("under way"))
}

/// A person ends it, and takes the loss of these.
fn finish(rotating: &Rotating, losing: Vec<Subject>) -> Result<(), NotFinished> {
    rotating.finish(&CaFinish { next: rotating.authority.next().expect("one"), losing })
}

/// Waits until the rotation sees this of a node.
async fn becomes(rotating: &Rotating, name: &Name, wanted: &Node) {
    let mut changed = rotating.agents.changed.receiver();
    let wait = async {
        while rotating.look().expect("read").expect("under way").nodes.get(name) != Some(wanted) {
            changed.changed().await.expect("it lives");
        }
    };
    timeout(Duration::from_secs(20), wait).await.expect("in time");
}

/// Agents that connect before, in and after a rotation: of this release, of the one before, and one that is away for all
/// of it. Who is lost is known by name before that happens.
#[tokio::test]
async fn agents_move_over_to_the_next_ca_and_whoever_cannot_is_named_before() {
    let folder = tempfile::tempdir().expect("a folder");
    let (agents, rotating) = head_of_before(folder.path());
    let address = listening(&agents).await;
    let mut new = Machine::of(&agents, address, &node(1), true).await;
    let mut old = Machine::of(&agents, address, &node(2), false).await;
    let away = Machine::of(&agents, address, &node(3), true).await;
    let mut lines = new.connects(address).await.expect("before");
    new.is_told(&mut lines).await;
    let mut of_old = old.connects(address).await.expect("before, of the release before");
    drop(away.connects(address).await.expect("before"));

    // In the overlap: the connection stays, its agent is told, and new certificates are of the next one.
    rotating.begin().expect("begun");
    new.is_told(&mut lines).await;
    becomes(&rotating, &node(1), &Node::Moved).await;
    new.renews(&mut lines).await;
    let mut again = new.connects(address).await.expect("with a certificate of the next one");
    new.is_told(&mut again).await;
    old.renews(&mut of_old).await;
    let of_old = old.connects(address).await.expect("in it, who trusts the old one alone");
    becomes(&rotating, &node(2), &Node::Unable("an agent of bramble 0".into())).await;
    becomes(&rotating, &node(3), &Node::Away).await;
    let shown: Vec<Subject> = lost(&rotating).into_iter().map(|loss| loss.subject).collect();
    assert_eq!(shown, [2, 3].map(|n| Subject::node(&node(n))));
    let Err(NotFinished::Loses(lost)) = finish(&rotating, Vec::new()) else { panic!("it is refused") };
    assert_eq!(lost.len(), 2);
    assert!(lost[1].reason.contains("until it is started again"), "{lost:?}");
    // Nor with what was lost since it was shown, or with another CA.
    let Err(NotFinished::Loses(lost)) = finish(&rotating, shown[..1].to_vec()) else { panic!("it is refused") };
    assert_eq!(lost.iter().map(|loss| &loss.subject).collect::<Vec<_>>(), [&shown[1]]);
    let other = CaFinish { next: rotating.authority.digest(), losing: shown.clone() };
    assert!(
        matches!(rotating.finish(&other), Err(NotFinished::Other(next)) if Some(next) == rotating.authority.next())
    );

    // A person says so all the same.
    finish(&rotating, shown).map_err(drop).expect("done");
    new.is_told(&mut again).await;
    assert_eq!(new.trusts, agents.authority.pem(), "the next one alone");
    let document = timeout(Duration::from_secs(20), hear(&mut again)).await.expect("in time");
    assert!(matches!(document, Some(ToAgent::Document(_))), "signed by the next one: {document:?}");
    assert!(new.connects(address).await.is_some(), "after");
    assert!(old.connects(address).await.is_none(), "it trusts the old one alone");
    assert!(away.connects(address).await.is_none(), "it trusts the old one alone");
    drop(of_old);
    let mut started_again = away;
    started_again.trusts = agents.authority.pem();
    assert!(started_again.connects(address).await.is_none(), "its certificate is of the old one");
    started_again.certificate = agents.authority.sign(&node(3), &started_again.csr).expect("signed").0;
    assert!(started_again.connects(address).await.is_some(), "it asked to be let in anew");
    assert!(rotating.problems().is_empty(), "{:?}", rotating.problems());
}

/// A certificate of another cluster's CA for one of this cluster's nodes.
#[tokio::test]
async fn a_strangers_agent_is_let_in_at_no_time_of_a_rotation() {
    let [folder, other] = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let (agents, rotating) = head_of_before(folder.path());
    let address = listening(&agents).await;
    let stranger = Authority::open(other.path()).expect("made");
    let mut machine = Machine::of(&agents, address, &node(1), true).await;
    machine.certificate = stranger.sign(&node(1), &machine.csr).expect("signed").0;
    for step in 0..3 {
        machine.trusts = agents.authority.pem();
        assert!(machine.connects(address).await.is_none(), "{step}");
        let fake = Machine { trusts: stranger.pem(), certificate: machine.certificate.clone(), ..machine };
        assert!(fake.connects(address).await.is_none(), "it does not trust this head either");
        machine = fake;
        match step {
            0 => rotating.begin().expect("begun"),
            1 => {
                let shown = lost(&rotating).into_iter().map(|loss| loss.subject).collect();
                finish(&rotating, shown).map_err(drop).expect("done");
            }
            _ => {}
        }
    }
}

/// What ran once on a set is not asked: whoever built it wrote down what it carries.
#[tokio::test]
async fn a_set_that_nodes_are_given_and_that_carries_the_old_ca_alone_holds_the_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_, rotating) = head_of_before(folder.path());
    let (state, architecture) = (folder.path().join(".bramble"), bramble_model::boot_set::Architecture::Amd64);
    let shelf = bramble_image::Shelf::open(state.join("image")).expect("a shelf");
    let set = crate::boots::own::tests::shelve(&state.join("image"), architecture, "a kernel");
    rotating.boot_sets.give(architecture, set).expect("given");
    rotating.begin().expect("begun");
    let old = lost(&rotating);
    assert!(old.len() == 1 && old[0].reason.contains("carries the old CA alone"), "of before: {old:?}");
    let roots: Vec<Digest> = rotating.authority.roots().into_iter().map(|root| root.fingerprint).collect();
    crate::ca::sets::note(&state, &shelf, &set, &roots[..1]).expect("written");
    assert_eq!(lost(&rotating).len(), 1, "built before it began");
    crate::ca::sets::note(&state, &shelf, &set, &roots).expect("written");
    assert_eq!(lost(&rotating), [], "built since");
    assert_eq!(rotating.problems(), Vec::<String>::new());
    finish(&rotating, Vec::new()).map_err(drop).expect("nothing is lost");
    // A node that starts would trust both again, and with the old one whoever stole that.
    let problems = rotating.problems();
    assert!(problems.len() == 1 && problems[0].contains("trusts a CA that was rotated away"), "{problems:?}");
    crate::ca::sets::note(&state, &shelf, &set, &roots[1..]).expect("written");
    assert_eq!(rotating.problems(), Vec::<String>::new(), "built after it");
    // Whoever gives an older one hears it.
    crate::ca::sets::note(&state, &shelf, &set, &roots[..1]).expect("written");
    let problems = rotating.problems();
    assert!(problems.len() == 1 && problems[0].contains("carries a CA that was rotated"), "{problems:?}");
}
