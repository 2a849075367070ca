//! Simulated agents: real boots, real enrolment, real mutual TLS, and no machine behind. They follow the
//! head's protocol (`bramble_model::agent`), and can be told to break it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::machines::house::RELAY;
use bramble_model::agent::{EnrolRequest, Enrolled, Facts, FromAgent, Health, Keeps, LONGEST_LINE, ToAgent};
use bramble_model::engine::{EngineKind, EngineState};
use bramble_model::hands::{Channel, Data, End, FromProcess, ToProcess};
use bramble_model::names::{BootId, Mac};
use futures_util::{SinkExt, StreamExt};
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::codec::{Framed, LinesCodec};

/// A runtime for them.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// A head, as agents reach it.
#[derive(Clone)]
pub struct Head {
    pub address: Ipv4Addr,
    roots: Arc<RootCertStore>,
}

/// What a boot was given.
#[derive(Debug, Clone)]
pub struct Boot {
    pub id: String,
    pub nonce: String,
}

/// An agent of one node.
pub struct Agent {
    pub head: Head,
    pub name: String,
    pub boot: Boot,
    pub key: KeyPair,
    pub enrolled: Option<Enrolled>,
    /// The address that it connects from; any where it is unspecified.
    pub from: Ipv4Addr,
}

/// An open connection.
pub struct Session {
    pub lines: Framed<TlsStream<TcpStream>, LinesCodec>,
    /// The life of the head's store, as its document says; 0 before that has come.
    pub life: u64,
}

impl Head {
    /// The head at this address, whose CA lies in this folder of state.
    pub fn new(address: Ipv4Addr, state: &Path) -> Self {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(state.join("keys/ca.pem")).expect("the head's CA");
        roots.add(ca).expect("a CA");
        Head { address, roots: Arc::new(roots) }
    }

    /// One request over plain HTTP; gives status and body.
    pub async fn http(&self, request: &str) -> (u16, String) {
        self.try_http(request).await.expect("the head listens")
    }

    async fn try_http(&self, request: &str) -> std::io::Result<(u16, String)> {
        let mut stream = TcpStream::connect((self.address, 7080)).await?;
        let (status, _, body) = exchange(&mut stream, request).await;
        Ok((status, body))
    }

    /// One request over TLS, as a person's program makes it; gives status and body.
    pub async fn https(&self, request: &str) -> (u16, String) {
        self.try_https(request).await.expect("the head listens")
    }

    /// As [`Head::https`], of a head that may end.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn try_https(&self, request: &str) -> std::io::Result<(u16, String)> {
        let (status, _, body) = self.ask(request).await?;
        Ok((status, body))
    }

    /// As [`Head::https`]; gives status and headers.
    pub async fn https_headers(&self, request: &str) -> (u16, String) {
        let (status, headers, _) = self.ask(request).await.expect("the head listens");
        (status, headers)
    }

    async fn ask(&self, request: &str) -> std::io::Result<(u16, String, String)> {
        let tls = builder().with_root_certificates(Arc::clone(&self.roots)).with_no_client_auth();
        let stream = TcpStream::connect((self.address, 7444)).await?;
        let name = ServerName::try_from("head.bramble").expect("a name");
        let mut stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await?;
        Ok(exchange(&mut stream, request).await)
    }

    /// Asks for a boot as iPXE does behind a relay, which has no neighbour entry at the head: first for an address, and
    /// then for its script, until the head has heard it; and claims it as stage 1 does.
    ///
    /// # Errors
    /// What it said instead, or that it said nothing.
    pub async fn boot(&self, mac: &str) -> Result<Boot, String> {
        let text = |error: std::io::Error| error.to_string();
        let request = format!("GET /boot/script/{mac} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        let mut script = String::new();
        for _ in 0..100 {
            self.discover(mac).map_err(text)?;
            script = self.try_http(&request).await.map_err(text)?.1;
            if !script.contains("\ndhcp netX") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let word = |name: &str| {
            let at = script.find(name)? + name.len();
            Some(script[at..].split_whitespace().next()?.to_owned())
        };
        match (word("bramble.boot="), word("bramble.nonce=")) {
            (Some(id), Some(nonce)) => Ok(Boot { id, nonce }),
            (Some(id), None) => self.claim(id).await,
            _ => Err(script),
        }
    }

    /// As a relay does that has heard a machine with this card.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub fn discover(&self, mac: &str) -> std::io::Result<()> {
        let card: Mac = mac.parse().map_err(std::io::Error::other)?;
        let bytes = dhcp_discover(card, RELAY.parse().expect("an address"));
        // A broadcast comes back to who listens on the wire here.
        let socket = std::net::UdpSocket::bind((self.address, 0))?;
        socket.set_broadcast(true)?;
        socket.send_to(&bytes, (Ipv4Addr::BROADCAST, 67)).map(drop)
    }

    async fn claim(&self, id: String) -> Result<Boot, String> {
        let nonce = format!("{:032x}", rand());
        let hash = bramble_model::names::Digest(Sha256::digest(&nonce).into());
        let body = format!("{{\"nonce\":\"{hash}\"}}");
        let request = format!(
            "POST /v1/boots/{id}/claim HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        match self.try_http(&request).await {
            Ok((200, _)) => Ok(Boot { id, nonce }),
            Ok((status, answer)) => Err(format!("its claim was answered {status}: {answer}")),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn open(&self, from: Ipv4Addr, tls: ClientConfig) -> std::io::Result<Session> {
        let socket = TcpSocket::new_v4()?;
        if !from.is_unspecified() {
            socket.bind(SocketAddr::from((from, 0)))?;
        }
        let stream = socket.connect(SocketAddr::from((self.address, 7443))).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("head.bramble").expect("a name");
        let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await?;
        Ok(Session { lines: Framed::new(stream, LinesCodec::new_with_max_length(LONGEST_LINE)), life: 0 })
    }
}

/// A DISCOVER of this card, which a relay has brought, or none where that is unspecified (RFC 2131, section 2; the cookie
/// of RFC 1497).
pub fn dhcp_discover(card: Mac, relay: Ipv4Addr) -> Vec<u8> {
    let mut bytes = vec![0; 300];
    bytes[..3].copy_from_slice(&[1, 1, 6]);
    bytes[24..28].copy_from_slice(&relay.octets());
    bytes[28..34].copy_from_slice(&card.0);
    bytes[236..244].copy_from_slice(&[99, 130, 83, 99, 53, 1, 1, 255]);
    bytes
}

/// Bits that no other agent has.
fn rand() -> u128 {
    use std::hash::{BuildHasher, RandomState};
    let half = || u128::from(RandomState::new().hash_one(0));
    half() << 64 | half()
}

/// One request over the head's control socket; gives status and body.
pub async fn control(socket: &Path, request: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).await.expect("the head listens");
    let (status, _, body) = exchange(&mut stream, request).await;
    (status, body)
}

/// Asks someone else over plain HTTP; gives the answer's headers.
pub async fn get(address: (&str, u16), target: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("someone listens");
    let request = format!("GET {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", address.0);
    exchange(&mut stream, &request).await.1
}

/// Sends a request and reads the answer to its end.
async fn exchange<S: AsyncReadExt + AsyncWriteExt + Unpin>(stream: &mut S, request: &str) -> (u16, String, String) {
    // A head that has heard enough closes, and what it said lies there.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    let (headers, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (status, headers.to_owned(), body.to_owned())
}

fn builder() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]).expect("TLS 1.3")
}

impl Agent {
    /// An agent with a key of its own, for a boot that was handed out.
    pub fn new(head: &Head, name: &str, boot: Boot) -> Self {
        Agent {
            head: head.clone(),
            name: name.to_owned(),
            boot,
            key: KeyPair::generate().expect("a key"),
            enrolled: None,
            from: Ipv4Addr::UNSPECIFIED,
        }
    }

    /// A request for a certificate (PKCS#10, PEM).
    pub fn request(&self) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, self.name.as_str());
        params.serialize_request(&self.key).and_then(|request| request.pem()).expect("a request")
    }

    /// Asks to be let in.
    ///
    /// # Errors
    /// What the head says against it.
    pub async fn enrol(&mut self) -> Result<(), String> {
        let tls = builder().with_root_certificates(Arc::clone(&self.head.roots)).with_no_client_auth();
        let mut session = self.head.open(self.from, tls).await.map_err(|error| error.to_string())?;
        let (node, boot) = (self.name.parse().expect("a name"), BootId(self.boot.id.clone()));
        let (nonce, csr) = (self.boot.nonce.clone(), self.request());
        let request = EnrolRequest { node, boot, nonce, csr, keeps: Keeps::Nothing, shows_digits: false };
        session
            .say_json(&serde_json::to_string(&request).expect("plain data"))
            .await
            .map_err(|error| error.to_string())?;
        let line = session.lines.next().await.ok_or("it closed the connection")?.map_err(|error| error.to_string())?;
        let value: Value = serde_json::from_str(&line).expect("JSON");
        match value.get("refused") {
            Some(refused) => Err(refused.as_str().unwrap_or_default().to_owned()),
            None => {
                self.enrolled = Some(serde_json::from_value(value).expect("an answer"));
                Ok(())
            }
        }
    }

    /// Connects with its certificate.
    ///
    /// # Errors
    /// When there is no connection.
    pub async fn connect(&self) -> std::io::Result<Session> {
        let pem = &self.enrolled.as_ref().expect("it was let in").certificate;
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate");
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).expect("a key");
        let tls = builder().with_root_certificates(Arc::clone(&self.head.roots));
        let tls = tls.with_client_auth_cert(vec![certificate], key).expect("it fits");
        self.head.open(self.from, tls).await
    }

    pub fn hello(&self) -> FromAgent {
        let facts = Facts {
            kernel: "6.12.0-simulated".into(),
            architecture: "x86_64".into(),
            cpus: 4,
            memory: 8 << 30,
            set: "simulated".into(),
            address: IpAddr::V4(self.head.address),
        };
        FromAgent::Hello {
            boot: BootId(self.boot.id.clone()),
            version: "0.1.0".into(),
            facts,
            protocol: bramble_model::agent::Versions::OWN,
            capabilities: bramble_model::agent::Capability::OWN.to_vec(),
        }
    }

    /// Boots, enrols, connects, and is told its document.
    ///
    /// # Errors
    /// What kept it from that.
    pub async fn up(head: &Head, name: &str, mac: &str) -> Result<(Self, Session), String> {
        let mut agent = Agent::new(head, name, head.boot(mac).await?);
        agent.enrol().await?;
        let session = agent.settle().await?;
        Ok((agent, session))
    }

    /// As [`Agent::up`], from this address, and again and again until it is let in.
    pub async fn arrive(head: &Head, name: &str, mac: &str, from: Ipv4Addr) -> Session {
        let boot = loop {
            if let Ok(boot) = head.boot(mac).await {
                break boot;
            }
        };
        let mut agent = Agent::new(head, name, boot);
        agent.from = from;
        while let Err(error) = agent.enrol().await {
            eprintln!("{name}: {error}; again");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        loop {
            match agent.settle().await {
                Ok(session) => return session,
                Err(error) => eprintln!("{name}: {error}; again"),
            }
        }
    }

    /// Connects, says hello, and is told its document.
    ///
    /// # Errors
    /// Why it was not.
    pub async fn settle(&self) -> Result<Session, String> {
        let mut session = self.connect().await.map_err(|error| error.to_string())?;
        session.say(&self.hello()).await.map_err(|error| error.to_string())?;
        match session.hear().await {
            Some(ToAgent::Document(document)) => {
                session.life = document.life.map_or(0, |life| life.life);
                Ok(session)
            }
            Some(ToAgent::Refused { reason }) => Err(reason),
            other => Err(format!("no document: {other:?}")),
        }
    }
}

/// How such a node is.
pub fn health(busy: u8) -> FromAgent {
    health_with(busy, EngineState::None)
}

/// As [`health`], of a node whose engine is in this state.
pub fn health_with(busy: u8, engine: EngineState) -> FromAgent {
    FromAgent::Health(Health {
        uptime: 60,
        busy,
        load: 0.5,
        temperature: Some(45),
        memory_available: 6 << 30,
        disk_available: Some(100 << 30),
        killed_for_memory: 0,
        agent_resident: 10 << 20,
        engines: [(EngineKind::Swarm, engine)].into_iter().filter(|(_, state)| *state != EngineState::None).collect(),
        refuses: None,
    })
}

impl Session {
    /// # Errors
    /// When the connection has ended.
    pub async fn say(&mut self, message: &FromAgent) -> std::io::Result<()> {
        self.say_json(&serde_json::to_string(message).expect("plain data")).await
    }

    /// # Errors
    /// When the connection has ended.
    pub async fn say_json(&mut self, text: &str) -> std::io::Result<()> {
        self.lines.send(text).await.map_err(std::io::Error::other)
    }

    /// The head's next message but its hello, its beat and which CAs it has, which this agent says that it trusts; `None` at
    /// the end.
    pub async fn hear(&mut self) -> Option<ToAgent> {
        let message = async {
            loop {
                let line = self.lines.next().await?.ok()?;
                match serde_json::from_str(&line).expect("a message of the head") {
                    ToAgent::Beat | ToAgent::Hello { .. } => {}
                    ToAgent::Trust { roots, .. } => self.trusts(&roots).await.ok()?,
                    message => return Some(message),
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), message).await.ok()?
    }

    async fn trusts(&mut self, pem: &str) -> std::io::Result<()> {
        let roots = CertificateDer::pem_slice_iter(pem.as_bytes());
        let roots = roots.map(|der| bramble_model::names::Digest(Sha256::digest(der.expect("PEM")).into())).collect();
        self.say(&FromAgent::Trusts { roots }).await
    }

    /// Whether the head has ended the connection: with a word, or without one.
    pub async fn is_ended(&mut self) -> bool {
        loop {
            match self.hear().await {
                None => return true,
                Some(ToAgent::Refused { .. }) => return self.hear().await.is_none(),
                Some(_) => {}
            }
        }
    }

    /// Is a node that answers every command with its own name, and says how it is, for ever.
    pub async fn live(mut self, name: &str, beat: Duration) {
        let mut beat = tokio::time::interval(beat);
        let mut busy = 0;
        loop {
            tokio::select! {
                _ = beat.tick() => {
                    busy = (busy + 1) % 100;
                    if self.say(&health(busy)).await.is_err() {
                        return;
                    }
                }
                line = self.lines.next() => {
                    let Some(Ok(line)) = line else { return };
                    let (number, start) = match serde_json::from_str::<ToAgent>(&line) {
                        Ok(ToAgent::Start { number, start }) => (number, start),
                        Ok(ToAgent::Trust { roots, .. }) if self.trusts(&roots).await.is_err() => return,
                        Ok(_) | Err(_) => continue,
                    };
                    if start.argv.first().is_some_and(|program| program == "sleep") {
                        continue;
                    }
                    let text = format!("{name}: {}\n", start.argv.join(" "));
                    let output = FromProcess::Output { channel: Channel::Out, data: Data(text.into_bytes()) };
                    let end = FromProcess::Ended { end: End::Exited { code: i32::from(start.argv == ["false"]) } };
                    for tell in [output, end] {
                        if self.say(&FromAgent::Process { number, tell }).await.is_err() {
                            return;
                        }
                    }
                }
            }
        }
    }

    /// Waits until the head stops a process.
    pub async fn is_stopped(&mut self) -> bool {
        while let Some(message) = self.hear().await {
            if matches!(message, ToAgent::Process { tell: ToProcess::Stop, .. }) {
                return true;
            }
        }
        false
    }
}
