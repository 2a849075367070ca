mod other_releases;

use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc as threads;

use bramble_model::agent::{NodeDocument, Refuses, Work, swarm};
use bramble_model::hands::Start;
use bramble_model::names::{BootId, Name};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, date_time_ymd,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::duplex;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::guard::Guard;
use crate::guard::tests::signed;
use crate::trust::Trust;
use crate::{Mended, mend};

#[tokio::test]
async fn work_that_panics_is_answered() {
    assert_eq!(answer(async { Answer::Done }).await, Answer::Done);
    let failed = answer(async { panic!("as work that has an error of its own does") }).await;
    assert!(matches!(failed, Answer::Failed { ref error } if error.contains("see its log")), "{failed:?}");
}

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

/// Of a machine on which nothing can be kept.
fn unremembered() -> Ready {
    Ready::with("", Path::new("/proc/nowhere"))
}

fn document(domain: &str) -> NodeDocument {
    NodeDocument {
        hostname: name("w1"),
        domain: domain.into(),
        role: name("worker"),
        engines: Default::default(),
        ssh_keys: Vec::new(),
        time_servers: Vec::new(),
        life: None,
        docker: None,
        firewall: None,
    }
}

/// A head: its CA, and a TLS server that takes certificates of that CA, or none.
struct TestHead {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    tls: TlsAcceptor,
}

impl TestHead {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "bramble head");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca = params.self_signed(&key).expect("a CA");
        let issuer = Issuer::new(params, key);
        let own = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new([HEAD.to_owned()]).expect("a name").signed_by(&own, &issuer);
        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone()).expect("a CA");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let verifier = verifier.allow_unauthenticated().build().expect("a verifier");
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![certificate.expect("signed").der().clone()],
                PrivateKeyDer::from_pem_slice(own.serialize_pem().as_bytes()).expect("a key"),
            );
        TestHead { issuer, pem: ca.pem(), tls: TlsAcceptor::from(Arc::new(config.expect("a server"))) }
    }

    fn identity(&self) -> Identity {
        let ca = rustls::pki_types::CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("a CA");
        Identity::of("w1", Trust::of(&[ca]))
    }

    /// A certificate for whoever made this request, good until the end of a year.
    fn enrolled(&self, csr: &str, until: i32) -> Enrolled {
        let mut request = CertificateSigningRequestParams::from_pem(csr).expect("a request");
        request.params = CertificateParams::default();
        request.params.distinguished_name.push(DnType::CommonName, "w1");
        request.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        request.params.not_before = date_time_ymd(2001, 1, 1);
        request.params.not_after = date_time_ymd(until, 12, 31);
        let certificate = request.signed_by(&self.issuer).expect("signed").pem();
        Enrolled { certificate, renew_at: u64::MAX, document: document("home.arpa") }
    }
}

/// What an agent has besides its connection.
struct Agent {
    engines: Engines,
    states: watch::Receiver<States>,
    documents: Documents,
    known: watch::Receiver<crate::engine::Declared>,
}

fn agent(apply: impl Fn(&NodeDocument) + Clone + Send + 'static) -> Agent {
    let (told, states) = watch::channel(States::default());
    let (declared, known) = watch::channel(None);
    let guard = Guard::at(Path::new("/nowhere/lead.json"), Trust::in_keys(&[]));
    let engines = Engines::start(&told, &known, guard);
    Agent { engines, states, documents: Documents::start_with(apply, Arc::default(), declared), known }
}

/// A boot whose head is here.
fn this_boot(listener: &TcpListener) -> ThisBoot {
    ThisBoot {
        node: name("w1"),
        boot: BootId("b1".into()),
        nonce: "n1".into(),
        report: None,
        set: "s1".into(),
        head: [127, 0, 0, 1].into(),
        http_port: 1,
        agent_port: listener.local_addr().expect("an address").port(),
        address: [127, 0, 0, 1].into(),
        inventory: false,
    }
}

/// Found after a head was away for longer than a day: the agents came with what had ended, again and again.
#[tokio::test]
async fn an_agent_whose_certificate_has_ended_enrols_anew_with_its_boots_nonce() {
    let head = TestHead::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let boot = this_boot(&listener);
    let (identity, here) = (head.identity(), agent(|_| {}));
    identity.keep(head.enrolled(&identity.request(None).expect("a request"), 2002));
    let said = Mutex::new(Vec::new());
    let ready = unremembered();
    let hold = || hold(&boot, &identity, "1", &here.engines, &here.states, &here.documents, &ready);
    let serve = async {
        loop {
            let (stream, _) = listener.accept().await.expect("someone comes");
            let opened = Connection::open(Limits::USUAL, head.tls.accept(stream)).await;
            let Ok(mut agent) = opened else {
                said.lock().expect("no panic").push("it is turned away".to_owned());
                continue;
            };
            let has_certificate = agent.stream().get_ref().1.peer_certificates().is_some();
            let first: serde_json::Value = agent.first().await.expect("it says something");
            let what = if has_certificate { "hello" } else { "an enrolment" };
            said.lock().expect("no panic").push(format!("{what} with nonce {}", first["nonce"]));
            if let Some(csr) = first["csr"].as_str() {
                agent.say(&head.enrolled(csr, 2999)).expect("said");
            }
            let _ = agent.finish().await;
        }
    };
    let tries = async {
        let now = bramble_system::now();
        let error = hold().await.expect_err("it has ended");
        assert!(matches!(error, Error::OutOfTime), "{error:?}");
        let no_time = async { Err(Error::Clock("the head is away".into())) };
        assert_eq!(mend(&error, &identity, no_time).await, Mended::Nothing);
        assert!(identity.enrolled().is_some(), "nothing is forgotten before the signed time has come");
        assert_eq!(mend(&error, &identity, async { Ok(0) }).await, Mended::Forgotten);
        let error = hold().await.expect_err("this head says goodbye at once");
        assert!(matches!(error, Error::Ended(_)), "{error:?}");
        assert!(identity.enrolled().is_some() && !identity.is_out_of_time(now));
        let set = async { panic!("its time is not the cause") };
        assert_eq!(mend(&error, &identity, set).await, Mended::Nothing);
        // A clock that was off is right now, and the certificate was good all the while.
        assert_eq!(mend(&Error::OutOfTime, &identity, async { Ok(-4000) }).await, Mended::Clock(-4000));
        assert!(identity.enrolled().is_some());
        let year_2000 = 946_684_800_000;
        assert!(identity.is_out_of_time(year_2000), "one that has not begun is not good either");
    };
    tokio::select! {
        () = serve => {}
        () = tries => {}
    }
    let expected = ["it is turned away", "an enrolment with nonce \"n1\"", "hello with nonce null"];
    assert_eq!(*said.lock().expect("no panic"), expected);
}

/// The head's side of a conversation whose agent knows a CA.
struct Far {
    ca: KeyPair,
    said: Connection<tokio::io::DuplexStream>,
    /// The domains of the documents that were applied.
    applied: mpsc::UnboundedReceiver<String>,
    /// What the agent said last of whom it obeys.
    refuses: Option<Refuses>,
}

impl Far {
    /// Says it; gives what the agent says next that is no health.
    async fn asks(&mut self, message: &ToAgent) -> FromAgent {
        self.said.say(message).expect("said");
        loop {
            let Event::Line(line) = self.said.next().await.expect("it is there") else { continue };
            match serde_json::from_str(&line).expect("a message") {
                FromAgent::Health(health) => self.refuses = health.refuses,
                message => return message,
            }
        }
    }

    /// Says what the node is, in this life or in none; gives the domain that was applied.
    async fn tells(&mut self, domain: &str, life: Option<u64>) -> Option<String> {
        let life = life.map(|life| signed(&self.ca, life));
        self.said.say(&ToAgent::Document(NodeDocument { life, ..document(domain) })).expect("said");
        // Whoever asks is answered once the node is what it was said to be, and after its health has been said.
        let observe = ToAgent::Ask { number: 1, work: swarm::Work::Observe.into(), under: None };
        assert!(matches!(self.asks(&observe).await, FromAgent::Answer { .. }));
        self.applied.try_recv().ok()
    }

    /// How a process ends that it starts.
    async fn runs(&mut self, number: u64) -> End {
        let start = Start { argv: vec!["true".into()], terminal: None, input: false };
        match self.asks(&ToAgent::Start { number, start }).await {
            FromAgent::Process { tell: FromProcess::Ended { end }, .. } => end,
            other => panic!("{other:?}"),
        }
    }
}

/// Holds an agent's conversation while the head's side of it is tried.
async fn with_far<T>(test: impl AsyncFnOnce(&mut Far) -> T) -> T {
    let folder = tempfile::tempdir().expect("a folder");
    let ca = KeyPair::generate().expect("a key");
    let (told, states) = watch::channel(States::default());
    let (declared, known) = watch::channel(None);
    let (applies, applied) = mpsc::unbounded_channel();
    let apply = move |document: &NodeDocument| applies.send(document.domain.clone()).expect("the test listens");
    let trust = Trust::in_keys(&[ca.der_bytes()]);
    let engines = Engines::start(&told, &known, Guard::at(&folder.path().join("lead.json"), Arc::clone(&trust)));
    let documents = Documents::start_with(apply, Arc::default(), declared);
    let identity = Identity::of("w1", trust);
    let (ours, theirs) = duplex(1 << 20);
    let head = Connection::open(Limits::USUAL, async { Ok(ours) }).await.expect("opened");
    let said = Connection::open(Limits::USUAL, async { Ok(theirs) }).await.expect("opened");
    let mut far = Far { ca, said, applied, refuses: None };
    let ready = unremembered();
    tokio::select! {
        ended = converse(head, &identity, None, &engines, &states, &documents, &ready) => panic!("it ended: {ended:?}"),
        result = test(&mut far) => result,
    }
}

/// It was told to obey a newer life, and applied whatever the replaced head said of the node. Later it refused that, and
/// told nobody: its head waited for ever.
#[tokio::test]
async fn a_document_of_a_head_that_was_replaced_is_refused_and_the_head_hears_why() {
    with_far(async |far| {
        for (domain, life, refuses) in [
            ("first", Some(100), None),
            ("restored", Some(200), None),
            ("replaced", Some(100), Some(Refuses { life: 100, obeys: 200 })),
            ("of version 1", None, None),
            ("replaced", Some(199), Some(Refuses { life: 199, obeys: 200 })),
            ("newer", Some(201), None),
        ] {
            let applied = far.tells(domain, life).await;
            assert_eq!(applied.as_deref(), refuses.is_none().then_some(domain));
            assert_eq!(far.refuses, refuses, "{domain}");
        }
    })
    .await;
}

/// Such a head was refused documents and steps, and rebooted nodes.
#[tokio::test]
async fn a_head_that_was_replaced_starts_nothing_on_a_node() {
    with_far(async |far| {
        let done = End::Exited { code: 0 };
        far.tells("restored", Some(200)).await;
        assert_eq!(far.runs(1).await, done);
        far.tells("replaced", Some(100)).await;
        let End::Failed { reason } = far.runs(2).await else { panic!("it was started") };
        assert_eq!(reason.as_str(), Refuses { life: 100, obeys: 200 }.to_string());
        far.tells("of version 1", None).await;
        assert_eq!(far.runs(3).await, done, "one of version 1 goes on as before");
    })
    .await;
}

/// Found by reading: the commands of a document held up the whole conversation, which may take longer than a head waits.
#[tokio::test]
async fn a_beat_is_answered_while_a_document_is_applied() {
    let (begun, mut begins) = mpsc::unbounded_channel();
    let (go_on, gate) = threads::channel::<()>();
    let gate = Arc::new(Mutex::new(gate));
    let here = agent(move |document: &NodeDocument| {
        begun.send(document.domain.clone()).expect("the test listens");
        let _ = gate.lock().expect("one at a time").recv();
    });
    let identity = TestHead::new().identity();
    let quick = Limits { beat: 20, ..Limits::USUAL };
    let (ours, theirs) = duplex(1 << 20);
    let head = Connection::open(quick, async { Ok(ours) }).await.expect("opened");
    let mut far = Connection::open(Limits::USUAL, async { Ok(theirs) }).await.expect("opened");
    let ready = unremembered();
    let conversation = converse(head, &identity, None, &here.engines, &here.states, &here.documents, &ready);
    let test = async {
        let mut says = async |message: Option<&ToAgent>| {
            if let Some(message) = message {
                far.say(message).expect("said");
            }
            loop {
                if let Event::Line(line) = far.next().await.expect("it is there") {
                    return serde_json::from_str::<FromAgent>(&line).expect("a message");
                }
            }
        };
        says(Some(&ToAgent::Document(document("first")))).await;
        assert_eq!(begins.recv().await.as_deref(), Some("first"));
        // Whoever asks for work now is answered once the node is what it was said to be.
        says(Some(&ToAgent::Document(document("overtaken")))).await;
        says(Some(&ToAgent::Document(document("newest")))).await;
        says(Some(&ToAgent::Ask { number: 7, work: Work::Swarm(swarm::Work::Observe), under: None })).await;
        for _ in 0..20 {
            let beat = says(Some(&ToAgent::Beat)).await;
            assert!(matches!(beat, FromAgent::Health(_)), "{beat:?}");
        }
        go_on.send(()).expect("it is applied");
        assert_eq!(begins.recv().await.as_deref(), Some("newest"), "in their order, and the newest wins");
        go_on.send(()).expect("it is applied");
        loop {
            match says(None).await {
                FromAgent::Answer { number, .. } => break assert_eq!(number, 7),
                other => assert!(matches!(other, FromAgent::Health(_)), "{other:?}"),
            }
        }
        assert_eq!(here.known.borrow().as_ref(), Some(&document("newest").engines), "its engines are declared");
    };
    tokio::select! {
        ended = conversation => panic!("it ended: {ended:?}"),
        () = test => {}
    }
}

/// The cluster's CA was rotated while the agent was away, or it was told late: what it was let in with is of the old one.
#[tokio::test]
async fn an_agent_whose_certificate_is_of_a_ca_that_is_gone_enrols_anew() {
    let (old, head) = (TestHead::new(), TestHead::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let boot = this_boot(&listener);
    let (identity, here) = (head.identity(), agent(|_| {}));
    identity.keep(old.enrolled(&identity.request(None).expect("a request"), 2999));
    let ready = unremembered();
    let hold = || hold(&boot, &identity, "1", &here.engines, &here.states, &here.documents, &ready);
    let serve = async {
        loop {
            let (stream, _) = listener.accept().await.expect("someone comes");
            let Ok(mut agent) = Connection::open(Limits::USUAL, head.tls.accept(stream)).await else { continue };
            let first: serde_json::Value = agent.first().await.expect("it says something");
            if let Some(csr) = first["csr"].as_str() {
                agent.say(&head.enrolled(csr, 2999)).expect("said");
            }
            let _ = agent.finish().await;
        }
    };
    let tries = async {
        let error = hold().await.expect_err("it is turned away");
        assert!(matches!(error, Error::OfNoCa), "{error:?}");
        let set = async { panic!("no time is the cause") };
        assert_eq!(mend(&error, &identity, set).await, Mended::Forgotten);
        let error = hold().await.expect_err("this head says goodbye at once");
        assert!(matches!(error, Error::Ended(_)), "{error:?}");
        assert!(identity.enrolled().is_some(), "it was let in anew");
        // And a head of a CA that the image does not know is told from all else.
        let stranger = old.identity();
        let error = super::hold(&boot, &stranger, "1", &here.engines, &here.states, &here.documents, &ready).await;
        assert!(clock::is_of_no_known_ca(&error.expect_err("it trusts the old one alone")));
        assert!(!clock::is_of_no_known_ca(&Error::OfNoCa));
    };
    tokio::select! {
        () = serve => {}
        () = tries => {}
    }
}

/// The head rotates its CA: first both, then the next one alone. What is no CA changes nothing.
#[tokio::test]
async fn an_agent_trusts_whom_its_head_says_and_obeys_what_that_signs() {
    with_far(async |far| {
        let (first, next) = (TestHead::new(), TestHead::new());
        let trust = |roots: String, by: &KeyPair| {
            let signature = crate::trust::signed(&roots, by);
            ToAgent::Trust { roots, signature }
        };
        let number = |told: FromAgent| match told {
            FromAgent::Trusts { roots } => roots.len(),
            other => panic!("{other:?}"),
        };
        assert_eq!(far.tells("before", Some(100)).await.as_deref(), Some("before"));
        far.said.say(&trust("no certificate".into(), &far.ca)).expect("said");
        far.said.say(&trust(next.pem.clone(), next.issuer.key())).expect("said");
        far.said.say(&ToAgent::Trust { roots: next.pem.clone(), signature: String::new() }).expect("said");
        let both = trust(format!("{}{}", first.pem, next.pem), &far.ca);
        assert_eq!(number(far.asks(&both).await), 2);
        assert_eq!(number(far.asks(&trust(next.pem.clone(), next.issuer.key())).await), 1);
        assert_eq!(far.tells("of the old one", Some(300)).await, None, "it signs nothing any more");
        assert_eq!(far.refuses, Some(Refuses { life: 300, obeys: 100 }));
        let life = Some(signed(next.issuer.key(), 100));
        let document = NodeDocument { life, ..document("of the next one") };
        far.said.say(&ToAgent::Document(document)).expect("said");
        let observe = ToAgent::Ask { number: 1, work: swarm::Work::Observe.into(), under: None };
        assert!(matches!(far.asks(&observe).await, FromAgent::Answer { .. }));
        assert_eq!(far.applied.try_recv().as_deref(), Ok("of the next one"));
    })
    .await;
}

/// What somebody has seen of it is worth nothing over another one.
#[tokio::test]
async fn a_renewal_is_for_the_connection_over_which_it_is_said() {
    let (here, head) = (agent(|_| {}), TestHead::new());
    let identity = head.identity();
    identity.keep(Enrolled { renew_at: 1, ..head.enrolled(&identity.request(None).expect("a request"), 2999) });
    let quick = Limits { beat: 20, ..Limits::USUAL };
    let (ours, theirs) = duplex(1 << 20);
    let near = Connection::open(quick, async { Ok(ours) }).await.expect("opened");
    let mut far = Connection::open(Limits::USUAL, async { Ok(theirs) }).await.expect("opened");
    let (ready, binding) = (unremembered(), Binding([0xab; 32]));
    let conversation = converse(near, &identity, Some(&binding), &here.engines, &here.states, &here.documents, &ready);
    let (version, protocol) = ("1".to_owned(), Versions::OWN);
    far.say(&ToAgent::Hello { version, protocol, capabilities: Vec::new() }).expect("said");
    let test = async {
        loop {
            if let Event::Line(line) = far.next().await.expect("it is there")
                && let FromAgent::Renew { csr } = serde_json::from_str(&line).expect("a message")
            {
                return csr;
            }
        }
    };
    let csr = tokio::select! {
        ended = conversation => panic!("it ended: {ended:?}"),
        csr = test => csr,
    };
    let (_, pem) = x509_parser::pem::parse_x509_pem(csr.as_bytes()).expect("PEM");
    let text = binding.to_string();
    assert!(pem.contents.windows(text.len()).any(|part| part == text.as_bytes()), "{csr}");
}
