//! Remote hands: `GET /v1/hands`, a WebSocket over which an operator's errand is done on many nodes at once.

pub(crate) mod errands;
mod intake;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::{IntoResponse, Response};
use bramble_model::api::Role;
use bramble_model::hands::{End, Errand, FromProcess, Request, Start, ToProcess, Told};
use bramble_model::names::Name;
use bramble_model::node_set;
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{Instant, sleep_until, timeout};

use crate::access::{Access, Actor, Door, LOST, Who, same_origin};
use crate::agents::Agents;
use crate::gate::Held;
use crate::hands::intake::{Intake, PATIENCE};
use crate::refusal::refuse;
use crate::snapshots::Snapshots;

/// How long the first message may take.
const SILENCE: Duration = Duration::from_secs(20);
/// How long someone may take to be told that it is over.
const LAST_WORD: Duration = Duration::from_secs(1);
/// The longest message: a piece of input in base64, and a long command.
const LONGEST: usize = 256 << 10;
/// Messages of all nodes that wait for the person's connection.
const QUEUE: usize = 64;
/// What a process may have been told and its agent has not taken. The window for input is full before, unless someone
/// types letter by letter to a node that is stuck.
const ORDERS: usize = 4096;

/// Where a place's file goes: into a folder by its name, else to the path itself, in one step.
const PLACE: &str = r#"if [ -d "$1" ]; then exec tar -x -f - -C "$1" --no-same-owner; fi
case "$1" in */) mkdir -p "$1" && exec tar -x -f - -C "$1" --no-same-owner; exit 1;; esac
d=$(dirname "$1") && t=$(mktemp -d -p "$d" .cp-XXXXXX) || exit 1
tar -x -f - -C "$t" --no-same-owner && mv -T "$t/$2" "$1"; r=$?
rm -rf "$t"; exit $r"#;

/// What an agent runs for an errand.
fn start(errand: &Errand) -> Start {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let plain = |argv: Vec<String>| Start { argv, terminal: None, input: false };
    match errand {
        Errand::Exec { argv, input } => Start { argv: argv.clone(), terminal: None, input: *input },
        Errand::Shell { term, size } => {
            Start { argv: words(&["/bin/bash", "-l"]), terminal: Some((term.clone(), *size)), input: true }
        }
        Errand::Logs { unit, follow, lines } => {
            let mut argv: Vec<String> = words(&["journalctl", "--no-pager", "--output=short-iso"]);
            argv.push(format!("--lines={lines}"));
            argv.extend(unit.iter().map(|unit| format!("--unit={unit}")));
            argv.extend(follow.then(|| "--follow".to_owned()));
            plain(argv)
        }
        Errand::Fetch { path } => {
            let (folder, name) = match path.trim_end_matches('/') {
                "" => ("/", "."),
                path => path.rsplit_once('/').unwrap_or((".", path)),
            };
            let folder = if folder.is_empty() { "/" } else { folder };
            plain(words(&["tar", "-c", "-f", "-", "-C", folder, "--", name]))
        }
        Errand::Place { path, name } => {
            Start { argv: words(&["sh", "-c", PLACE, "cp", path, name]), terminal: None, input: true }
        }
        Errand::Reboot => plain(words(&["systemctl", "reboot"])),
        Errand::Halt => plain(words(&["systemctl", "poweroff"])),
    }
}

/// `GET /v1/hands`
#[expect(clippy::too_many_arguments, reason = "axum takes a request apart by the handler's arguments")]
pub(crate) async fn upgrade(
    State(access): State<Arc<Access>>,
    State(agents): State<Arc<Agents>>,
    State(snapshots): State<Arc<Snapshots>>,
    Extension(door): Extension<Door>,
    Extension(Who(who)): Extension<Who>,
    Extension(held): Extension<Held>,
    headers: axum::http::HeaderMap,
    socket: WebSocketUpgrade,
) -> Response {
    use axum::http::StatusCode;
    const WHAT: &str = "GET /v1/hands";
    let refused = match &who {
        None => Some((StatusCode::UNAUTHORIZED, "log in first")),
        Some(actor) if actor.role < Role::Operator => Some((StatusCode::FORBIDDEN, "a viewer may look, and not touch")),
        // A browser sends the session's cookie along for any site's WebSocket.
        Some(actor) if actor.csrf.is_some() && !same_origin(&headers) => {
            Some((StatusCode::FORBIDDEN, "this does not come from the head's own page"))
        }
        Some(_) => None,
    };
    if let Some((status, why)) = refused {
        access.refused(Some(door), who.as_ref(), (WHAT, WHAT), why);
        return refuse(status, why, None).into_response();
    }
    let Some(actor) = who else { return StatusCode::UNAUTHORIZED.into_response() };
    socket.max_message_size(LONGEST).on_upgrade(move |socket| async move {
        // It is counted for as long as it lasts: its request has been answered, and its connection goes on.
        match held.during(serve(&access, &agents, &snapshots, &actor, socket)).await {
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::debug!(%error, who = actor.name, "remote hands ended"),
            None => tracing::info!(who = actor.name, "remote hands ended: other connections needed the room"),
        }
    })
}

/// Tells the person.
async fn tell(to: &mut (impl Sink<Message, Error = axum::Error> + Unpin), told: &Told) -> Result<(), axum::Error> {
    let text = serde_json::to_string(told).expect("messages are plain data");
    to.send(Message::text(text)).await
}

fn lost(reason: &str) -> End {
    End::Failed { reason: reason.into() }
}

/// What becomes of a node's process.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Carried {
    NeverBegan,
    Said(FromProcess),
    /// Its connection was lost. It is the last.
    Lost,
}

/// Starts a node's process, and carries what it says and what it is told, until it ends: a node that is stuck holds up
/// this and no other node.
pub(crate) async fn carry(
    agents: Arc<Agents>,
    node: Name,
    start: Start,
    mut orders: mpsc::Receiver<ToProcess>,
    say: mpsc::Sender<(Name, Carried)>,
) {
    let Some((number, mut told)) = agents.start(&node, start).await else {
        let _ = say.send((node, Carried::NeverBegan)).await;
        return;
    };
    loop {
        tokio::select! {
            message = told.recv() => {
                let message = message.map_or(Carried::Lost, Carried::Said);
                let last = matches!(message, Carried::Lost | Carried::Said(FromProcess::Ended { .. }));
                let heard = say.send((node.clone(), message)).await.is_ok();
                if last {
                    return;
                }
                if !heard {
                    break;
                }
            }
            order = orders.recv() => match order {
                Some(order) => agents.tell(&node, number, order).await,
                None => break,
            }
        }
    }
    // Whatever ended the errand: nothing runs on for nobody.
    agents.tell(&node, number, ToProcess::Stop).await;
}

async fn serve(
    access: &Arc<Access>,
    agents: &Arc<Agents>,
    snapshots: &Snapshots,
    actor: &Actor,
    mut socket: WebSocket,
) -> Result<(), axum::Error> {
    // From here on, whatever takes the right away.
    let mut lost = Box::pin(access.lost(actor, Role::Operator));
    let counted = access.errands.begin(&actor.name);
    let first = tokio::select! {
        biased;
        () = &mut lost => return Ok(()),
        first = timeout(SILENCE, socket.recv()) => first.ok().flatten().transpose()?,
    };
    let Some(Message::Text(text)) = first else { return Ok(()) };
    let (mut to, mut from) = socket.split();
    let _counted = match counted {
        Ok(counted) => counted,
        Err(too_many) => return tell(&mut to, &Told::Refused { error: too_many.to_string() }).await,
    };
    let request: Request = match serde_json::from_str(&text) {
        Ok(request) => request,
        Err(error) => {
            return tell(&mut to, &Told::Refused { error: format!("the request is malformed: {error}") }).await;
        }
    };
    let nodes = match node_set::select(&request.nodes, &snapshots.cluster().nodes) {
        Ok(nodes) => nodes,
        Err(wrong) => return tell(&mut to, &Told::Refused { error: wrong.to_string() }).await,
    };
    let names: Vec<&str> = nodes.iter().map(Name::as_str).collect();
    let what = format!("{} on {}", request.errand.sentence(), names.join(","));
    let number = match access.audit_even_in_memory(actor, &what, "begun") {
        Ok(number) => number,
        Err(error) => {
            let error = format!("the audit log cannot be written: {}", bramble_system::sentence(&error));
            return tell(&mut to, &Told::Refused { error }).await;
        }
    };
    let carried = async {
        tell(&mut to, &Told::Nodes { nodes: nodes.iter().cloned().collect() }).await?;
        run(agents, &request.errand, nodes.into_iter().collect(), &mut from, &mut to).await
    };
    let done = tokio::select! {
        biased;
        // With the errand its processes end, and none begins.
        () = lost => None,
        done = carried => Some(done),
    };
    let result = match &done {
        Some(Ok(failed)) if failed.is_empty() => "done".to_owned(),
        Some(Ok(failed)) => format!("failed on {}", failed.join(",")),
        Some(Err(_)) => "broken off".to_owned(),
        None => format!("ended: {LOST}"),
    };
    access.audit_result(number, &result);
    match done {
        Some(done) => done.map(drop),
        None => {
            // Whoever does not listen is not waited for.
            let over = Told::Refused { error: LOST.into() };
            timeout(LAST_WORD, tell(&mut to, &over)).await.unwrap_or(Ok(()))
        }
    }
}

/// Does the errand on every node; gives those where it failed.
async fn run(
    agents: &Arc<Agents>,
    errand: &Errand,
    nodes: Vec<Name>,
    from: &mut (impl Stream<Item = Result<Message, axum::Error>> + Unpin),
    to: impl Sink<Message, Error = axum::Error> + Unpin,
) -> Result<Vec<String>, axum::Error> {
    let (say, mut said) = mpsc::channel(QUEUE);
    let mut running = Running::new(to);
    for node in nodes {
        if !agents.is_connected(&node) {
            running.end(node, lost("it is not connected")).await?;
            continue;
        }
        if let Some(refuses) = agents.refuses(&node) {
            running.end(node, lost(&refuses.to_string())).await?;
            continue;
        }
        if matches!(errand, Errand::Reboot | Errand::Halt) {
            agents.goes_down(&node, *errand == Errand::Reboot);
        }
        let ordered = running.begin(node.clone());
        tokio::spawn(carry(Arc::clone(agents), node, start(errand), ordered, say.clone()));
    }
    drop(say);
    converse(errand, &mut running, &mut said, from).await?;
    Ok(running.failed)
}

/// An errand's processes that run, and the person's end of the connection.
struct Running<S> {
    to: S,
    /// What each is told. Dropped, it is stopped.
    orders: BTreeMap<Name, mpsc::Sender<ToProcess>>,
    intake: Intake,
    /// Where the errand has failed.
    failed: Vec<String>,
}

impl<S: Sink<Message, Error = axum::Error> + Unpin> Running<S> {
    fn new(to: S) -> Self {
        Running { to, orders: BTreeMap::new(), intake: Intake::default(), failed: Vec::new() }
    }

    /// Another one runs; gives what it is told.
    fn begin(&mut self, node: Name) -> mpsc::Receiver<ToProcess> {
        let (orders, ordered) = mpsc::channel(ORDERS);
        self.intake.enters(node.clone());
        self.orders.insert(node, orders);
        ordered
    }

    /// It has ended, or is given up: others may have waited for it.
    async fn end(&mut self, node: Name, end: End) -> Result<(), axum::Error> {
        self.orders.remove(&node);
        self.intake.leaves(&node, Instant::now());
        if end.code() != 0 {
            self.failed.push(node.to_string());
        }
        tell(&mut self.to, &Told::Ended { node, end }).await?;
        self.allow().await
    }

    /// Tells the process of one node, or of all. A node that has not taken what it was told before is given up: it holds
    /// up no other.
    async fn order(&mut self, order: &ToProcess, only: Option<&Name>) -> Result<(), axum::Error> {
        let told = self.orders.iter().filter(|(node, _)| only.is_none_or(|only| only == *node));
        let full = |orders: &mpsc::Sender<_>| matches!(orders.try_send(order.clone()), Err(TrySendError::Full(_)));
        let stuck: Vec<Name> = told.filter(|(_, orders)| full(orders)).map(|(node, _)| node.clone()).collect();
        for node in stuck {
            self.end(node, lost("its agent takes nothing: it is stuck")).await?;
        }
        Ok(())
    }

    /// Something has become of a process that runs.
    async fn hear(&mut self, errand: &Errand, node: Name, message: Carried) -> Result<(), axum::Error> {
        let goes_down = matches!(errand, Errand::Reboot | Errand::Halt);
        match message {
            Carried::NeverBegan => self.end(node, lost("its agent has gone away, or takes nothing")).await,
            Carried::Said(FromProcess::Output { channel, data }) => {
                let bytes = data.0.len() as u64;
                tell(&mut self.to, &Told::Output { node: node.clone(), channel, data }).await?;
                self.order(&ToProcess::Room { bytes }, Some(&node)).await
            }
            Carried::Said(FromProcess::Room { bytes }) => {
                self.intake.takes(&node, bytes, Instant::now());
                self.allow().await
            }
            // A machine that goes down takes its agent along before it can say that it was told so.
            Carried::Lost | Carried::Said(FromProcess::Ended { end: End::Killed { .. } }) if goes_down => {
                self.end(node, End::Exited { code: 0 }).await
            }
            Carried::Said(FromProcess::Ended { end }) => self.end(node, end).await,
            Carried::Lost => self.end(node, lost("its connection was lost")).await,
        }
    }

    /// The person tells the processes something.
    async fn obey(&mut self, wish: &ToProcess) -> Result<(), axum::Error> {
        match wish {
            // What makes room is the head's own business.
            ToProcess::Room { .. } => return Ok(()),
            ToProcess::Input { data } => self.intake.gives(data.0.len() as u64, Instant::now()),
            ToProcess::EndOfInput => self.intake.ends(Instant::now()),
            ToProcess::Resize { .. } | ToProcess::Stop => {}
        }
        if self.intake.is_overrun() {
            return Err(axum::Error::new("more input came than there is room for"));
        }
        self.order(wish, None).await
    }

    /// Says how much more input every node has room for, where that is more than was said before.
    async fn allow(&mut self) -> Result<(), axum::Error> {
        match self.intake.room() {
            0 => Ok(()),
            bytes => tell(&mut self.to, &Told::Room { bytes }).await,
        }
    }
}

async fn converse<S: Sink<Message, Error = axum::Error> + Unpin>(
    errand: &Errand,
    running: &mut Running<S>,
    said: &mut mpsc::Receiver<(Name, Carried)>,
    from: &mut (impl Stream<Item = Result<Message, axum::Error>> + Unpin),
) -> Result<(), axum::Error> {
    let gone = || axum::Error::new("the person has gone");
    while !running.orders.is_empty() {
        let deadline = running.intake.deadline();
        let began = tokio::select! {
            message = said.recv() => {
                let Some((node, message)) = message else { return Ok(()) };
                let began = Instant::now();
                // Else it was given up.
                if running.orders.contains_key(&node) {
                    running.hear(errand, node, message).await?;
                }
                began
            }
            message = from.next() => {
                let began = Instant::now();
                match message.ok_or_else(gone)?? {
                    Message::Text(text) => {
                        running.obey(&serde_json::from_str(&text).map_err(axum::Error::new)?).await?;
                    }
                    Message::Close(_) => return Err(gone()),
                    _ => {}
                }
                began
            }
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                let began = Instant::now();
                for node in running.intake.left_behind(began) {
                    let time = PATIENCE.as_secs();
                    let reason = format!("it has taken no input for {time} s, and others wait for it: it is left behind");
                    running.end(node, lost(&reason)).await?;
                }
                began
            }
        };
        // Whoever shows slowly what it is told.
        running.intake.was_deaf(began.elapsed());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
