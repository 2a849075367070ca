//! Remote hands: `GET /v1/hands`, a WebSocket over which an operator's errand is done on many nodes at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::{IntoResponse, Response};
use bramble_model::api::Role;
use bramble_model::hands::{End, Errand, FromProcess, Request, Start, ToProcess, Told, WINDOW};
use bramble_model::names::Name;
use bramble_model::node_set;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::timeout;

use crate::access::{Access, Actor, Who, same_origin};
use crate::agents::Agents;
use crate::refusal::refuse;
use crate::snapshots::Snapshots;

/// How long the first message may take.
const SILENCE: Duration = Duration::from_secs(20);
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
pub(crate) async fn upgrade(
    State(access): State<Arc<Access>>,
    State(agents): State<Arc<Agents>>,
    State(snapshots): State<Arc<Snapshots>>,
    Extension(Who(who)): Extension<Who>,
    headers: axum::http::HeaderMap,
    socket: WebSocketUpgrade,
) -> Response {
    use axum::http::StatusCode;
    let Some(actor) = who else { return refuse(StatusCode::UNAUTHORIZED, "log in first", None).into_response() };
    if actor.role < Role::Operator {
        let refused = refuse(StatusCode::FORBIDDEN, "a viewer may look, and not touch", None);
        // What a viewer tries is kept, too.
        let _ = access.audit_even_in_memory(&actor, "GET /v1/hands", "refused");
        return refused.into_response();
    }
    // A browser sends the session's cookie along for any site's WebSocket.
    if actor.csrf.is_some() && !same_origin(&headers) {
        return refuse(StatusCode::FORBIDDEN, "this does not come from the head's own page", None).into_response();
    }
    socket.max_message_size(LONGEST).on_upgrade(move |socket| async move {
        let mut socket = socket;
        if let Err(error) = serve(&access, &agents, &snapshots, &actor, &mut socket).await {
            tracing::debug!(%error, who = actor.name, "remote hands ended");
        }
    })
}

async fn tell(socket: &mut WebSocket, told: &Told) -> Result<(), axum::Error> {
    let text = serde_json::to_string(told).expect("messages are plain data");
    socket.send(Message::text(text)).await
}

/// A process of the errand that runs.
struct Running {
    /// What it is told. Dropped, it is stopped.
    orders: mpsc::Sender<ToProcess>,
    /// Bytes of input that it has taken.
    taken: u64,
}

fn lost(reason: &str) -> End {
    End::Failed { reason: reason.to_owned() }
}

/// Starts a node's process, and carries what it says and what it is told, until it ends: a node that is stuck holds up
/// this and no other node. Says `None` of one that never began.
pub(crate) async fn carry(
    agents: Arc<Agents>,
    node: Name,
    start: Start,
    mut orders: mpsc::Receiver<ToProcess>,
    say: mpsc::Sender<(Name, Option<FromProcess>)>,
) {
    let Some((number, mut told)) = agents.start(&node, start).await else {
        let _ = say.send((node, None)).await;
        return;
    };
    loop {
        tokio::select! {
            message = told.recv() => {
                let message = message.unwrap_or_else(|| FromProcess::Ended { end: lost("its connection was lost") });
                let last = matches!(message, FromProcess::Ended { .. });
                let heard = say.send((node.clone(), Some(message))).await.is_ok();
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
    access: &Access,
    agents: &Arc<Agents>,
    snapshots: &Snapshots,
    actor: &Actor,
    socket: &mut WebSocket,
) -> Result<(), axum::Error> {
    let first = timeout(SILENCE, socket.recv()).await.ok().flatten().transpose()?;
    let Some(Message::Text(text)) = first else { return Ok(()) };
    let request: Request = match serde_json::from_str(&text) {
        Ok(request) => request,
        Err(error) => {
            return tell(socket, &Told::Refused { error: format!("the request is malformed: {error}") }).await;
        }
    };
    let nodes = match node_set::select(&request.nodes, &snapshots.cluster().nodes) {
        Ok(nodes) => nodes,
        Err(wrong) => return tell(socket, &Told::Refused { error: wrong.to_string() }).await,
    };
    let names: Vec<&str> = nodes.iter().map(Name::as_str).collect();
    let what = format!("{} on {}", request.errand.sentence(), names.join(","));
    let number = match access.audit_even_in_memory(actor, &what, "begun") {
        Ok(number) => number,
        Err(error) => {
            let error = format!("the audit log cannot be written: {}", bramble_system::sentence(&error));
            return tell(socket, &Told::Refused { error }).await;
        }
    };
    tell(socket, &Told::Nodes { nodes: nodes.iter().cloned().collect() }).await?;
    let done = run(agents, &request.errand, nodes.into_iter().collect(), socket).await;
    let result = match &done {
        Ok(failed) if failed.is_empty() => "done".to_owned(),
        Ok(failed) => format!("failed on {}", failed.join(",")),
        Err(_) => "broken off".to_owned(),
    };
    access.audit_result(number, &result);
    done.map(drop)
}

/// Does the errand on every node; gives those where it failed.
async fn run(
    agents: &Arc<Agents>,
    errand: &Errand,
    nodes: Vec<Name>,
    socket: &mut WebSocket,
) -> Result<Vec<String>, axum::Error> {
    let (say, mut said) = mpsc::channel(QUEUE);
    let mut running: BTreeMap<Name, Running> = BTreeMap::new();
    let mut failed = Vec::new();
    for node in nodes {
        if !agents.is_connected(&node) {
            failed.push(node.to_string());
            tell(socket, &Told::Ended { node, end: lost("it is not connected") }).await?;
            continue;
        }
        if matches!(errand, Errand::Reboot | Errand::Halt) {
            agents.goes_down(&node, *errand == Errand::Reboot);
        }
        let (orders, ordered) = mpsc::channel(ORDERS);
        running.insert(node.clone(), Running { orders, taken: 0 });
        tokio::spawn(carry(Arc::clone(agents), node, start(errand), ordered, say.clone()));
    }
    drop(say);
    converse(errand, &mut running, &mut said, &mut failed, socket).await?;
    Ok(failed)
}

async fn converse(
    errand: &Errand,
    running: &mut BTreeMap<Name, Running>,
    said: &mut mpsc::Receiver<(Name, Option<FromProcess>)>,
    failed: &mut Vec<String>,
    socket: &mut WebSocket,
) -> Result<(), axum::Error> {
    let (mut allowed, mut given) = (0, 0);
    while !running.is_empty() {
        tokio::select! {
            message = said.recv() => match message {
                None => return Ok(()),
                // It takes nothing, and was given up.
                Some((node, _)) if !running.contains_key(&node) => {}
                Some((node, None)) => {
                    running.remove(&node);
                    failed.push(node.to_string());
                    tell(socket, &Told::Ended { node, end: lost("its agent has gone away, or takes nothing") }).await?;
                    allowed = allow(running, allowed, socket).await?;
                }
                Some((node, Some(FromProcess::Output { channel, data }))) => {
                    let bytes = data.0.len() as u64;
                    tell(socket, &Told::Output { node: node.clone(), channel, data }).await?;
                    order(running, failed, &ToProcess::Room { bytes }, Some(&node), socket).await?;
                }
                Some((node, Some(FromProcess::Room { bytes }))) => {
                    if let Some(process) = running.get_mut(&node) {
                        process.taken += bytes;
                    }
                    allowed = allow(running, allowed, socket).await?;
                }
                Some((node, Some(FromProcess::Ended { end }))) => {
                    running.remove(&node);
                    // A machine that goes down takes its agent along before it can say that it was told so.
                    let goes = matches!(errand, Errand::Reboot | Errand::Halt) && matches!(end, End::Failed { .. } | End::Killed { .. });
                    let end = if goes { End::Exited { code: 0 } } else { end };
                    if end.code() != 0 {
                        failed.push(node.to_string());
                    }
                    tell(socket, &Told::Ended { node, end }).await?;
                    allowed = allow(running, allowed, socket).await?;
                }
            },
            message = socket.recv() => {
                let Some(message) = message.transpose()? else { return Err(axum::Error::new("the person has gone")) };
                let wish = match message {
                    Message::Text(text) => serde_json::from_str::<ToProcess>(&text).map_err(axum::Error::new)?,
                    Message::Close(_) => return Err(axum::Error::new("the person has gone")),
                    _ => continue,
                };
                match &wish {
                    // What makes room is the head's own business.
                    ToProcess::Room { .. } => continue,
                    ToProcess::Input { data } => given += data.0.len() as u64,
                    ToProcess::EndOfInput | ToProcess::Resize { .. } | ToProcess::Stop => {}
                }
                // The key that ends the input may go over the window.
                if given > allowed + 2 * WINDOW {
                    return Err(axum::Error::new("more input came than there is room for"));
                }
                order(running, failed, &wish, None, socket).await?;
                allowed = allow(running, allowed, socket).await?;
            }
        }
    }
    Ok(())
}

/// Tells the process of one node, or of all. A node that has not taken what it was told before is given up: it holds up
/// no other.
async fn order(
    running: &mut BTreeMap<Name, Running>,
    failed: &mut Vec<String>,
    order: &ToProcess,
    only: Option<&Name>,
    socket: &mut WebSocket,
) -> Result<(), axum::Error> {
    let told = running.iter().filter(|(node, _)| only.is_none_or(|only| only == *node));
    let full = |process: &Running| matches!(process.orders.try_send(order.clone()), Err(TrySendError::Full(_)));
    let stuck: Vec<Name> = told.filter(|(_, process)| full(process)).map(|(node, _)| node.clone()).collect();
    for node in stuck {
        running.remove(&node);
        failed.push(node.to_string());
        tell(socket, &Told::Ended { node, end: lost("its agent takes nothing: it is stuck") }).await?;
    }
    Ok(())
}

/// Says how much more input every node has room for, where that is more than was said before.
async fn allow(running: &BTreeMap<Name, Running>, allowed: u64, socket: &mut WebSocket) -> Result<u64, axum::Error> {
    let taken = running.values().map(|process| process.taken).min().unwrap_or(allowed);
    if taken > allowed {
        tell(socket, &Told::Room { bytes: taken - allowed }).await?;
    }
    Ok(taken.max(allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_fetched_from_its_folder() {
        let argv = |path: &str| start(&Errand::Fetch { path: path.into() }).argv.join(" ");
        assert_eq!(argv("/etc/hosts"), "tar -c -f - -C /etc -- hosts");
        assert_eq!(argv("/etc/"), "tar -c -f - -C / -- etc");
        assert_eq!(argv("notes"), "tar -c -f - -C . -- notes");
        assert_eq!(argv("-x"), "tar -c -f - -C . -- -x");
        assert_eq!(argv("/"), "tar -c -f - -C / -- .");
    }
}
