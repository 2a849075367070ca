//! The one connection to the head: enrol, say hello, answer what is asked, renew in time.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bramble_link::session::Limits;
use bramble_link::{Connection, Ended, Event};
use bramble_model::agent::{
    Answer, Binding, Capability, EnrolRequest, Enrolled, FromAgent, Heard, NodeDocument, Prove, Refuses, ToAgent,
    Versions, Waits,
};
use bramble_model::digits::Draw;
use bramble_model::hands::{End, FromProcess};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::document::Documents;
use crate::engine::{Engines, States};
use crate::identity::Identity;
use crate::process::{Processes, Tell};
use crate::ready::Ready;
use crate::{Error, ThisBoot, clock, health};

/// The name in the head's certificate: agents reach it by address, and trust its name.
const HEAD: &str = "head.bramble";
/// How soon a new certificate is asked for again should no answer come.
const AGAIN: Duration = Duration::from_secs(60);

type Head = Connection<TlsStream<TcpStream>>;

fn ended(error: impl Into<Ended>) -> Error {
    match error.into() {
        Ended::Broken(error) if clock::is_why_the_head_refuses(&error) => Error::OutOfTime,
        Ended::Broken(error) if clock::is_of_no_ca_of_the_head(&error) => Error::OfNoCa,
        ended => Error::Ended(ended.to_string()),
    }
}

/// Connects and stays connected.
pub(crate) async fn hold(
    boot: &ThisBoot,
    identity: &Identity,
    version: &str,
    engines: &Engines,
    states: &watch::Receiver<States>,
    documents: &Documents,
    ready: &Ready,
) -> Result<Infallible, Error> {
    if identity.enrolled().is_none() {
        let enrolled = enrol(boot, identity).await?;
        take(enrolled.document.clone(), engines, documents);
        identity.keep(enrolled);
    }
    let mut head = connect(boot, identity).await?;
    let hello = FromAgent::Hello {
        boot: boot.boot.clone(),
        version: version.into(),
        facts: health::facts(boot),
        protocol: Versions::OWN,
        capabilities: Capability::OWN.to_vec(),
    };
    head.say(&hello).map_err(ended)?;
    let binding = binding_of(&head)?;
    converse(head, identity, Some(&binding), engines, states, documents, ready).await
}

async fn connect(boot: &ThisBoot, identity: &Identity) -> Result<Head, Error> {
    let address = boot.head_address();
    let tls = TlsConnector::from(Arc::new(identity.tls()?));
    let open = async {
        let stream = TcpStream::connect(&address).await?;
        stream.set_nodelay(true)?;
        tls.connect(ServerName::try_from(HEAD).expect("a valid name"), stream).await
    };
    let opened = Connection::open(Limits::USUAL, open).await;
    opened.map_err(|source| Error::Reach { head: address.clone(), source })
}

/// What a request for a certificate is for that is said over this connection.
fn binding_of(head: &Head) -> Result<Binding, Error> {
    let binding = head.stream().get_ref().1.export_keying_material([0; 32], Binding::LABEL, None);
    Ok(Binding(binding.map_err(|error| Error::Ended(error.to_string()))?))
}

/// What the head answers to an enrolment.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Verdict {
    Enrolled(Box<Enrolled>),
    Refused {
        refused: String,
        /// What its six digits are made of, where a person is to read them off this machine's console.
        #[serde(default)]
        draw: Option<Draw>,
    },
    Prove(Prove),
}

async fn enrol(boot: &ThisBoot, identity: &Identity) -> Result<Enrolled, Error> {
    let mut head = connect(boot, identity).await?;
    let binding = binding_of(&head)?;
    let request = EnrolRequest {
        node: boot.node.clone(),
        boot: boot.boot.clone(),
        nonce: boot.nonce.clone(),
        csr: identity.request(Some(&binding))?,
        keeps: identity.keeps().clone(),
        shows_digits: true,
    };
    head.say(&request).map_err(ended)?;
    let mut verdict = head.first::<Verdict>().await.map_err(ended)?;
    if let Verdict::Prove(prove) = &verdict {
        head.say(&identity.prove(prove)?).map_err(ended)?;
        verdict = head.first::<Verdict>().await.map_err(ended)?;
    }
    match verdict {
        Verdict::Enrolled(enrolled) => Ok(*enrolled),
        Verdict::Refused { refused, draw } => Err(match draw.and_then(|draw| identity.digits(&draw)) {
            Some(digits) => Error::Waits { why: refused, digits },
            None => Error::Refused(refused),
        }),
        Verdict::Prove(_) => Err(Error::Ended("the head asks for a proof again and again".into())),
    }
}

/// What the head says of the node holds where nobody has replaced that head; gives how it is refused else.
fn take(document: NodeDocument, engines: &Engines, documents: &Documents) -> Option<Refuses> {
    match engines.guard().learn(document.life.as_ref()) {
        Ok(()) => {
            documents.take(document);
            None
        }
        Err(refuses) => {
            tracing::error!(%refuses, "what the head says of this node is refused");
            Some(refuses)
        }
    }
}

/// Whether the certificate should be renewed.
fn is_due(identity: &Identity) -> bool {
    identity.enrolled().is_some_and(|enrolled| enrolled.renew_at <= bramble_system::now())
}

/// What work on the engine comes to. An error of bramble's own is an answer, too: whoever asked must not wait for one.
async fn answer(work: impl Future<Output = Answer> + Send + 'static) -> Answer {
    tokio::spawn(work).await.unwrap_or_else(|error| {
        tracing::error!(%error, "work on the engine ended by an error of bramble's own");
        Answer::Failed { error: "its agent has an error of its own; see its log".into() }
    })
}

/// What the agent does on one connection, from its hello on.
struct Conversation<'a> {
    identity: &'a Identity,
    engines: &'a Engines,
    documents: &'a Documents,
    ready: &'a Ready,
    processes: Processes,
    answers: mpsc::Sender<(u64, Answer)>,
    tell: Tell,
    /// The head's lead is refused.
    refuses: Option<Refuses>,
    /// The head signs SSH host keys.
    signs: bool,
}

/// `binding` is that of the head's TLS connection.
async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    mut head: Connection<S>,
    identity: &Identity,
    binding: Option<&Binding>,
    engines: &Engines,
    states: &watch::Receiver<States>,
    documents: &Documents,
    ready: &Ready,
) -> Result<Infallible, Error> {
    let mut states = states.clone();
    let (answers, mut done) = mpsc::channel::<(u64, Answer)>(16);
    let (tell, mut told) = mpsc::channel(16);
    let mut here = Conversation {
        identity,
        engines,
        documents,
        ready,
        processes: Processes::default(),
        answers,
        tell,
        refuses: None,
        signs: false,
    };
    documents.host_key().forget_asking();
    let mut meter = health::Meter::default();
    let mut asked_at: Option<Instant> = None;
    let mut health = |states: States, refuses| FromAgent::Health(meter.health(states, refuses));
    head.say(&health(states.borrow_and_update().clone(), None)).map_err(ended)?;
    loop {
        // What the head does not take holds up nothing that it says, and nothing here.
        tokio::select! {
            event = head.next() => match event.map_err(ended)? {
                Event::Line(line) => {
                    let before = here.refuses;
                    here.heard(&line, &mut head)?;
                    if here.refuses != before {
                        head.say(&health(states.borrow().clone(), here.refuses)).map_err(ended)?;
                    }
                }
                Event::Free => {}
                Event::Beat => {
                    head.say(&health(states.borrow().clone(), here.refuses)).map_err(ended)?;
                    if is_due(identity) && asked_at.is_none_or(|asked| asked.elapsed() >= AGAIN) {
                        asked_at = Some(Instant::now());
                        head.say(&FromAgent::Renew { csr: identity.request(binding)? }).map_err(ended)?;
                    }
                    if here.signs && let Some(asks) = documents.host_key().asks(bramble_system::now()) {
                        head.say(&asks).map_err(ended)?;
                    }
                }
            },
            Some((number, answer)) = done.recv(), if head.is_free() => {
                // First what the work has changed, then that it is done.
                head.say(&health(states.borrow_and_update().clone(), here.refuses)).map_err(ended)?;
                head.say(&FromAgent::Answer { number, answer }).map_err(ended)?;
            }
            Some((number, tell)) = told.recv(), if head.is_free() => {
                head.say(&FromAgent::Process { number, tell }).map_err(ended)?;
            }
            changed = states.changed(), if head.is_free() => {
                changed.map_err(|_| Error::Ended("the engines' drivers ended".into()))?;
                head.say(&health(states.borrow_and_update().clone(), here.refuses)).map_err(ended)?;
            }
        }
    }
}

impl Conversation<'_> {
    fn heard<S: AsyncRead + AsyncWrite + Unpin>(&mut self, line: &str, head: &mut Connection<S>) -> Result<(), Error> {
        head.greeted();
        let message = match Heard::read(line).map_err(ended)? {
            Heard::Message(message) => message,
            Heard::Unknown { what, waits } => {
                tracing::warn!(what, "the head said something in a form that this agent does not know");
                // A question gets an answer all the same, and a process an end.
                let last = waits.map(|waits| match waits {
                    Waits::Answer(number) => FromAgent::Answer { number, answer: Answer::CannotDo },
                    Waits::End(number) => {
                        let reason = "its agent cannot do that: it is of another release".into();
                        FromAgent::Process { number, tell: FromProcess::Ended { end: End::Failed { reason } } }
                    }
                });
                return last.map_or(Ok(()), |last| head.say(&last).map_err(ended));
            }
        };
        match message {
            ToAgent::Hello { version, protocol, capabilities } => {
                if !Versions::OWN.meets(protocol) {
                    let own = Versions::OWN;
                    return Err(Error::Ended(format!(
                        "the head speaks {protocol} of the protocol, and this agent {own}"
                    )));
                }
                tracing::info!(version, %protocol, ?capabilities, "the head says hello");
                self.signs = capabilities.contains(&Capability::SignsHostKeys);
            }
            ToAgent::Document(document) => self.refuses = take(document, self.engines, self.documents),
            ToAgent::Ask { number, work, under } => {
                // Work runs beside the conversation: a deployment must not silence the health.
                let (engines, answers) = (self.engines.clone(), self.answers.clone());
                let settled = self.documents.settled();
                tokio::spawn(async move {
                    // Whoever asked has said before what the node is.
                    settled.await;
                    let answer = answer(async move { engines.work(work, under).await }).await;
                    // The connection may have ended; the head asks again on the next one.
                    let _ = answers.send((number, answer)).await;
                });
            }
            ToAgent::Start { number, start } => match self.refuses {
                None => self.processes.start(number, start, self.tell.clone()),
                Some(refuses) => {
                    let end = End::Failed { reason: refuses.to_string().into() };
                    head.say(&FromAgent::Process { number, tell: FromProcess::Ended { end } }).map_err(ended)?;
                }
            },
            ToAgent::Process { number, tell } => self.processes.tell(number, tell),
            ToAgent::Beat => head.watch(),
            ToAgent::Ready => self.ready.remember(),
            ToAgent::SshHostCertificate(signed) => {
                let host_key = Arc::clone(self.documents.host_key());
                tokio::task::spawn_blocking(move || match host_key.keep(&signed) {
                    Ok(()) => tracing::info!(renew_at = signed.renew_at, "the head has signed the SSH host key"),
                    Err(error) => tracing::error!(%error, "the SSH server has no new certificate"),
                });
            }
            ToAgent::Trust { roots, signature } => match self.identity.trust().take(&roots, &signature) {
                Ok(roots) => head.say(&FromAgent::Trusts { roots }).map_err(ended)?,
                Err(error) => tracing::error!(error, "what the head says of its CA is not taken"),
            },
            ToAgent::Unknown => tracing::warn!("the head said something that this agent does not know"),
            ToAgent::Refused { reason } => {
                // What it holds no longer counts: it asks to be let in like any other.
                self.identity.forget();
                return Err(Error::Refused(reason));
            }
            ToAgent::Renewed(enrolled) => {
                self.identity.keep(*enrolled);
                return Err(Error::Ended("the certificate was renewed".into()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
