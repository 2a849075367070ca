//! Remote hands: `GET /v1/hands`, a WebSocket over which an operator's errand is done on many nodes at once.

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
use bramble_model::timeline::What;
use bramble_system::now;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::Head;
use crate::access::{Actor, Who, same_origin};
use crate::api::refuse;

/// How long the first message may take.
const SILENCE: Duration = Duration::from_secs(20);
/// The longest message: a piece of input in base64, and a long command.
const LONGEST: usize = 256 << 10;
/// Messages of all nodes that wait for the person's connection.
const QUEUE: usize = 64;

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
    State(head): State<Arc<Head>>,
    Extension(Who(who)): Extension<Who>,
    headers: axum::http::HeaderMap,
    socket: WebSocketUpgrade,
) -> Response {
    use axum::http::StatusCode;
    let Some(actor) = who else { return refuse(StatusCode::UNAUTHORIZED, "log in first", None).into_response() };
    if actor.role < Role::Operator {
        let refused = refuse(StatusCode::FORBIDDEN, "a viewer may look, and not touch", None);
        // What a viewer tries is kept, too.
        let _ = head.audit(&actor, "GET /v1/hands", "refused");
        return refused.into_response();
    }
    // A browser sends the session's cookie along for any site's WebSocket.
    if actor.csrf.is_some() && !same_origin(&headers) {
        return refuse(StatusCode::FORBIDDEN, "this does not come from the head's own page", None).into_response();
    }
    socket.max_message_size(LONGEST).on_upgrade(move |socket| async move {
        let mut socket = socket;
        if let Err(error) = serve(&head, &actor, &mut socket).await {
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
    number: u64,
    /// Bytes of input that it has taken.
    taken: u64,
}

async fn serve(head: &Arc<Head>, actor: &Actor, socket: &mut WebSocket) -> Result<(), axum::Error> {
    let first = timeout(SILENCE, socket.recv()).await.ok().flatten().transpose()?;
    let Some(Message::Text(text)) = first else { return Ok(()) };
    let request: Request = match serde_json::from_str(&text) {
        Ok(request) => request,
        Err(error) => {
            return tell(socket, &Told::Refused { error: format!("the request is malformed: {error}") }).await;
        }
    };
    let nodes = match node_set::select(&request.nodes, &head.cluster().nodes) {
        Ok(nodes) => nodes,
        Err(wrong) => return tell(socket, &Told::Refused { error: wrong.to_string() }).await,
    };
    let names: Vec<&str> = nodes.iter().map(Name::as_str).collect();
    let what = format!("{} on {}", request.errand.sentence(), names.join(","));
    let number = match head.audit(actor, &what, "begun") {
        Ok(number) => number,
        Err(error) => {
            let error = format!("the audit log cannot be written: {}", bramble_system::sentence(&error));
            return tell(socket, &Told::Refused { error }).await;
        }
    };
    tell(socket, &Told::Nodes { nodes: nodes.iter().cloned().collect() }).await?;
    let done = run(head, &request.errand, nodes.into_iter().collect(), socket).await;
    let result = match &done {
        Ok(failed) if failed.is_empty() => "done".to_owned(),
        Ok(failed) => format!("failed on {}", failed.join(",")),
        Err(_) => "broken off".to_owned(),
    };
    head.audit_result(number, &result);
    done.map(drop)
}

/// Does the errand on every node; gives those where it failed.
async fn run(
    head: &Arc<Head>,
    errand: &Errand,
    nodes: Vec<Name>,
    socket: &mut WebSocket,
) -> Result<Vec<String>, axum::Error> {
    let (say, mut said) = mpsc::channel::<(Name, FromProcess)>(QUEUE);
    let mut running: BTreeMap<Name, Running> = BTreeMap::new();
    let mut failed = Vec::new();
    let lost = |reason: &str| End::Failed { reason: reason.to_owned() };
    for node in nodes {
        if !head.agents.is_connected(&node) {
            failed.push(node.to_string());
            tell(socket, &Told::Ended { node, end: lost("it is not connected") }).await?;
            continue;
        }
        if matches!(errand, Errand::Reboot | Errand::Halt) {
            head.leaves(&node, errand);
        }
        let Some((number, mut told)) = head.agents.start(&node, start(errand)).await else {
            failed.push(node.to_string());
            tell(socket, &Told::Ended { node, end: lost("its agent has gone away") }).await?;
            continue;
        };
        running.insert(node.clone(), Running { number, taken: 0 });
        let say = say.clone();
        tokio::spawn(async move {
            loop {
                let (message, last) = match told.recv().await {
                    Some(message) => {
                        let last = matches!(message, FromProcess::Ended { .. });
                        (message, last)
                    }
                    None => (FromProcess::Ended { end: lost("its connection was lost") }, true),
                };
                if say.send((node.clone(), message)).await.is_err() || last {
                    return;
                }
            }
        });
    }
    drop(say);
    let worked = converse(head, errand, &mut running, &mut said, &mut failed, socket).await;
    // Whatever ended the conversation: nothing runs on for nobody.
    for (node, process) in &running {
        head.agents.tell(node, process.number, ToProcess::Stop).await;
    }
    worked.map(|()| failed)
}

async fn converse(
    head: &Arc<Head>,
    errand: &Errand,
    running: &mut BTreeMap<Name, Running>,
    said: &mut mpsc::Receiver<(Name, FromProcess)>,
    failed: &mut Vec<String>,
    socket: &mut WebSocket,
) -> Result<(), axum::Error> {
    let mut allowed = 0;
    while !running.is_empty() {
        tokio::select! {
            message = said.recv() => match message {
                None => return Ok(()),
                Some((node, FromProcess::Output { channel, data })) => {
                    let bytes = data.0.len() as u64;
                    tell(socket, &Told::Output { node: node.clone(), channel, data }).await?;
                    if let Some(process) = running.get(&node) {
                        head.agents.tell(&node, process.number, ToProcess::Room { bytes }).await;
                    }
                }
                Some((node, FromProcess::Room { bytes })) => {
                    if let Some(process) = running.get_mut(&node) {
                        process.taken += bytes;
                    }
                    allowed = allow(running, allowed, socket).await?;
                }
                Some((node, FromProcess::Ended { end })) => {
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
                let order = match message {
                    Message::Text(text) => serde_json::from_str::<ToProcess>(&text).map_err(axum::Error::new)?,
                    Message::Close(_) => return Err(axum::Error::new("the person has gone")),
                    _ => continue,
                };
                // What makes room is the head's own business.
                if matches!(order, ToProcess::Room { .. }) {
                    continue;
                }
                for (node, process) in running.iter() {
                    head.agents.tell(node, process.number, order.clone()).await;
                }
            }
        }
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

impl Head {
    /// A node goes down because someone said so: its next boot is expected.
    fn leaves(&self, node: &Name, errand: &Errand) {
        if *errand == Errand::Reboot
            && let Err(error) = self.store.change_admission(node, |record| record.expect(now()))
        {
            tracing::error!(%error, %node, "its next boot could not be announced");
        }
        let text = if *errand == Errand::Reboot { "an operator reboots it" } else { "an operator halts it" };
        self.timeline.add(Some(node), What::Note { text: text.into() });
    }
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
