//! The one connection to the head: enrol, say hello, answer what is asked, renew in time.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bramble_model::agent::{Answer, EngineState, EnrolRequest, Enrolled, FromAgent, LONGEST_LINE, ToAgent};
use bramble_model::repository::EnginePart;
use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::codec::{Framed, LinesCodec};

use crate::engine::Engine;
use crate::identity::Identity;
use crate::process::Processes;
use crate::{Boot, Error, document, health};

/// The name in the head's certificate: agents reach it by address, and trust its name.
const HEAD: &str = "head.bramble";
const CONNECT: Duration = Duration::from_secs(20);
const HEALTH: Duration = Duration::from_secs(10);

type Lines = Framed<TlsStream<TcpStream>, LinesCodec>;

/// Connects and stays connected.
pub(crate) async fn hold(
    boot: &Boot,
    identity: &Identity,
    version: &str,
    engine: &Engine,
    engine_state: &watch::Receiver<EngineState>,
    part: &watch::Sender<Option<EnginePart>>,
) -> Result<Infallible, Error> {
    if identity.enrolled().is_none() {
        let enrolled = enrol(boot, identity).await?;
        document::apply(&enrolled.document);
        part.send_replace(Some(enrolled.document.part));
        identity.keep(enrolled);
    }
    let mut lines = connect(boot, identity).await?;
    let hello = FromAgent::Hello { boot: boot.boot.clone(), version: version.to_owned(), facts: health::facts(boot) };
    send(&mut lines, &hello).await?;
    converse(lines, identity, engine, engine_state, part).await
}

async fn connect(boot: &Boot, identity: &Identity) -> Result<Lines, Error> {
    let head = boot.head_address();
    let reach = |source| Error::Reach { head: head.clone(), source };
    let tls = TlsConnector::from(Arc::new(identity.tls()?));
    let open = async {
        let stream = TcpStream::connect(&head).await?;
        stream.set_nodelay(true)?;
        tls.connect(ServerName::try_from(HEAD).expect("a valid name"), stream).await
    };
    let stream = timeout(CONNECT, open).await.map_err(|late| reach(late.into()))?.map_err(reach)?;
    Ok(Framed::new(stream, LinesCodec::new_with_max_length(LONGEST_LINE)))
}

async fn send(lines: &mut Lines, message: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_string(message).expect("messages are plain data");
    lines.send(text).await.map_err(|error| Error::Ended(error.to_string()))
}

async fn receive<T: DeserializeOwned>(lines: &mut Lines) -> Result<T, Error> {
    let line = lines.next().await.ok_or_else(|| Error::Ended("the head closed it".into()))?;
    let line = line.map_err(|error| Error::Ended(error.to_string()))?;
    serde_json::from_str(&line).map_err(|error| Error::Ended(format!("the head's message is malformed: {error}")))
}

/// What the head answers to an enrolment.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Verdict {
    Enrolled(Box<Enrolled>),
    Refused { refused: String },
}

async fn enrol(boot: &Boot, identity: &Identity) -> Result<Enrolled, Error> {
    let mut lines = connect(boot, identity).await?;
    let request = EnrolRequest {
        node: boot.node.clone(),
        boot: boot.boot.clone(),
        nonce: boot.nonce.clone(),
        csr: identity.request()?,
    };
    send(&mut lines, &request).await?;
    let verdict = timeout(CONNECT, receive::<Verdict>(&mut lines));
    match verdict.await.map_err(|_| Error::Ended("the head does not answer".into()))?? {
        Verdict::Enrolled(enrolled) => Ok(*enrolled),
        Verdict::Refused { refused } => Err(Error::Refused(refused)),
    }
}

/// Milliseconds until the certificate should be renewed.
fn until_renewal(identity: &Identity) -> Duration {
    let due = identity.enrolled().map_or(0, |enrolled| enrolled.renew_at);
    Duration::from_millis(due.saturating_sub(bramble_system::now()))
}

async fn converse(
    mut lines: Lines,
    identity: &Identity,
    engine: &Engine,
    engine_state: &watch::Receiver<EngineState>,
    part: &watch::Sender<Option<EnginePart>>,
) -> Result<Infallible, Error> {
    let mut engine_state = engine_state.clone();
    let mut beat = interval(HEALTH);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (answers, mut done) = mpsc::channel::<(u64, Answer)>(16);
    let mut renewal = until_renewal(identity);
    let mut processes = Processes::default();
    let mut meter = health::Meter::default();
    let (tell, mut told) = mpsc::channel(16);
    loop {
        tokio::select! {
            message = receive::<ToAgent>(&mut lines) => match message? {
                ToAgent::Document(document) => {
                    document::apply(&document);
                    part.send_replace(Some(document.part));
                }
                ToAgent::Ask { number, work } => {
                    // Work runs beside the conversation: a deployment must not silence the health.
                    let (engine, answers) = (engine.clone(), answers.clone());
                    tokio::spawn(async move {
                        let answer = engine.work(work).await;
                        // The connection may have ended; the head asks again on the next one.
                        let _ = answers.send((number, answer)).await;
                    });
                }
                ToAgent::Start { number, start } => processes.start(number, start, tell.clone()),
                ToAgent::Process { number, tell } => processes.tell(number, tell),
                ToAgent::Refused { reason } => {
                    // What it holds no longer counts: it asks to be let in like any other.
                    identity.forget();
                    return Err(Error::Refused(reason));
                }
                ToAgent::Renewed(enrolled) => {
                    identity.keep(*enrolled);
                    return Err(Error::Ended("the certificate was renewed".into()));
                }
            },
            Some((number, answer)) = done.recv() => {
                // First what the work has changed, then that it is done.
                let health = meter.health(engine_state.borrow_and_update().clone());
                send(&mut lines, &FromAgent::Health(health)).await?;
                send(&mut lines, &FromAgent::Answer { number, answer }).await?;
            }
            Some((number, tell)) = told.recv() => send(&mut lines, &FromAgent::Process { number, tell }).await?,
            changed = engine_state.changed() => {
                changed.map_err(|_| Error::Ended("the engine's driver ended".into()))?;
                let health = meter.health(engine_state.borrow_and_update().clone());
                send(&mut lines, &FromAgent::Health(health)).await?;
            }
            _ = beat.tick() => {
                let health = meter.health(engine_state.borrow().clone());
                send(&mut lines, &FromAgent::Health(health)).await?;
            }
            () = tokio::time::sleep(renewal) => {
                send(&mut lines, &FromAgent::Renew { csr: identity.request()? }).await?;
                // Asked again in a minute should no answer come.
                renewal = Duration::from_secs(60);
            }
        }
    }
}
