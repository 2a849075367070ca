//! `bramble plan`, `apply`, `history`, `rollback` and `retry`: desired state, looked at and changed.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write, stdin, stdout};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bramble_model::desired::{Apply, Awaited, Desired, Foreseen, Line, Offer, Preview, Question};
use bramble_model::names::Digest;
use bramble_model::repository::Cluster;
use bramble_model::section::{Ends, Risk, Told};
use bramble_model::snapshot::{Revision, SMALL, Snapshot};
use bramble_model::subject::Subject;

use crate::client::Client;
use crate::exit::Exit;
use crate::place::Place;
use crate::screen;
use crate::workspace::revision;

/// Bytes of small files that travel in one request.
const BATCH: usize = 2 << 20;

/// Reads the folder, checks it, and sends the head what it has not. Gives the snapshot that it was offered.
pub async fn send(client: &Client, folder: &Path) -> Result<Digest> {
    let (cluster, snapshot, files) = Cluster::with_snapshot(folder)?;
    screen::reservations(&cluster);
    let offer = Offer { snapshot, revision: revision(folder) };
    let offered = client.offer(&offer).await?;
    send_contents(client, &offer.snapshot, &files, &offered.missing).await?;
    if !offered.missing.is_empty() {
        let again = client.offer(&offer).await?;
        if !again.missing.is_empty() {
            bail!("{} files of the repository changed while they were sent: try again", again.missing.len());
        }
    }
    Ok(offered.digest)
}

async fn send_contents(
    client: &Client,
    snapshot: &Snapshot,
    files: &BTreeMap<Digest, PathBuf>,
    missing: &[Digest],
) -> Result<()> {
    let sizes = snapshot.contents();
    let (mut batch, mut held) = (Vec::new(), 0);
    for digest in missing {
        let path = files.get(digest).context("the head asks for a file that the repository does not have")?;
        let read = || format!("cannot read {}", path.display());
        if sizes.get(digest).is_some_and(|size| *size > SMALL) {
            client.send_file(digest, path).await?;
            continue;
        }
        let bytes = std::fs::read(path).with_context(read)?;
        held += bytes.len();
        batch.push(bytes);
        if held > BATCH {
            client.send_contents(std::mem::take(&mut batch)).await?;
            held = 0;
        }
    }
    if batch.is_empty() { Ok(()) } else { client.send_contents(batch).await }
}

/// What a preview says, as people read it.
pub fn render(preview: &Preview) -> String {
    let mut text = String::new();
    for sentence in &preview.changed {
        text += &format!("{sentence}\n");
    }
    let rows: Vec<Vec<String>> = preview
        .steps()
        .map(|step| {
            let risk = match &step.risk {
                Risk::Safe => String::new(),
                risk => risk.to_string(),
            };
            vec![step.subject.to_string(), step.step.clone(), step.reason.clone(), risk]
        })
        .collect();
    if !rows.is_empty() {
        text += &format!("\n{}", screen::table(&["WHAT", "STEP", "WHY", "RISK"], &rows));
    }
    for one in &preview.loops {
        if let Some(unknown) = &one.unknown {
            text += &format!("\n{}: nothing can be said: {unknown}\n", one.name);
        }
    }
    let waits: Vec<_> = preview.loops.iter().flat_map(|one| &one.waits).collect();
    if !waits.is_empty() {
        text += "\nThen it waits:\n";
        for wait in waits {
            text += &format!("  {}: {}\n", wait.subject, wait.reason);
            if let Ends::Person(act) = &wait.ends {
                text += &format!("    {act}\n");
            }
        }
    }
    for reason in &preview.brake {
        text += &format!("\nCAREFUL: {reason}\n");
    }
    text.trim_start_matches('\n').to_owned()
}

/// What a preview comes to, and what is not known of it: these nodes are off or away.
fn verdict(preview: &Preview, away: &[&str]) -> String {
    // What only has its time is as it should be: a backup, the next look at git.
    let waits = |wait: &Awaited| !matches!(wait.ends, Ends::At(_));
    let is_open = preview.loops.iter().any(|one| one.unknown.is_some() || one.waits.iter().any(waits));
    let mut text = match changes(preview) {
        true => String::new(),
        false if away.is_empty() && !is_open => {
            "nothing would change: the cluster is as the repository says\n".to_owned()
        }
        false if away.is_empty() => "nothing would change now\n".to_owned(),
        false => "nothing would change, as far as it is known\n".to_owned(),
    };
    match away {
        [] => {}
        [one] => text += &format!("nothing is known of {one}, which is off or away\n"),
        several => {
            let names = screen::few(several, ", ");
            text += &format!("nothing is known of {} nodes that are off or away: {names}\n", several.len());
        }
    }
    text
}

/// Whether anything would be different with this snapshot.
fn changes(preview: &Preview) -> bool {
    // What only has its time is none: a look at git, a backup, a machine that is forgotten.
    let is_one = |step: &Told| match step.subject {
        Subject::Source | Subject::Backups | Subject::Ca | Subject::Machine { .. } => false,
        Subject::Node { .. }
        | Subject::Engine { .. }
        | Subject::Member { .. }
        | Subject::Workload { .. }
        | Subject::Image { .. } => true,
    };
    preview.current != Some(preview.snapshot) || preview.steps().any(is_one)
}

/// What a loop could not learn, where nothing else would be different.
fn unknown(preview: &Preview) -> Option<String> {
    let of = |one: &Foreseen| one.unknown.as_ref().map(|unknown| format!("{}: {unknown}", one.name));
    if changes(preview) { None } else { preview.loops.iter().find_map(of) }
}

pub async fn plan(place: &Place, word: Option<String>, exit_code: bool, json: bool) -> Result<Exit> {
    let client = Client::of(place)?;
    let word = match word {
        Some(word) => Some(word),
        None => match place.repository() {
            Ok(folder) => Some(send(&client, &folder).await?.to_string()),
            // A head that follows git is asked from anywhere, and by its own folder.
            Err(_) => None,
        },
    };
    let preview = client.plan(&Question { revision: word }).await?;
    if json {
        screen::json(&preview)?;
    } else {
        let status = client.status().await?;
        // A node that runs another system says nothing of itself at any time.
        let away = status.nodes.iter().filter(|node| !node.connected && node.boot.is_none());
        let away: Vec<&str> = away.map(|node| node.name.as_str()).collect();
        print!("{}{}", verdict(&preview, &away), render(&preview));
    }
    match unknown(&preview) {
        Some(unknown) if exit_code => bail!("whether anything would change cannot be said: {unknown}"),
        _ if exit_code && changes(&preview) => Ok(Exit::Changes),
        _ => Ok(Exit::Done),
    }
}

/// A yes on the terminal.
pub fn asked(question: &str) -> Result<bool> {
    if !stdin().is_terminal() {
        bail!("nobody is there to ask: `--yes` says so");
    }
    print!("{question} [y/N] ");
    stdout().flush()?;
    let mut answer = String::new();
    stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// What came of a snapshot that someone wants to be current.
pub enum Changed {
    /// It was current already.
    Nothing,
    /// The person did not want it after all.
    Unwanted,
    Applied(Box<(Preview, Desired)>),
}

/// Shows what a snapshot changes, asks, and makes it current. With `json` nothing is shown, and nobody is asked.
pub async fn change(client: &Client, word: &str, rollback: bool, yes: bool, json: bool) -> Result<Changed> {
    let preview = client.plan(&Question { revision: Some(word.to_owned()) }).await?;
    let wish = Apply { expects: preview.current, rollback };
    if preview.current == Some(preview.snapshot) {
        let before = client.status().await?.desired.map(|desired| desired.revision);
        // What was applied before it was committed is of that commit from now on.
        if !preview.revision.dirty && before.is_some_and(|before| before != preview.revision) {
            client.apply(&preview.snapshot, &wish).await?;
        }
        return Ok(Changed::Nothing);
    }
    if json && !yes {
        bail!("with `--json` nobody is asked: `--yes` says so, and `bramble plan --json` shows what would change");
    }
    if !json {
        print!("{}", render(&preview));
    }
    let at = client.elsewhere().map_or_else(String::new, |url| format!(" at {url}"));
    if !yes && !asked(&format!("make snapshot {} current{at}?", preview.snapshot.short()))? {
        println!("nothing has changed");
        return Ok(Changed::Unwanted);
    }
    let desired = client.apply(&preview.snapshot, &wish).await?;
    if !json {
        println!("snapshot {} is current{at}", desired.snapshot.short());
        if let Some(held) = &desired.held {
            println!("{held}; `bramble sync` follows it again");
        }
    }
    Ok(Changed::Applied(Box::new((preview, desired))))
}

/// What a verb ends with that makes a snapshot current.
fn end(changed: Changed, json: bool) -> Result<Exit> {
    match changed {
        Changed::Unwanted => return Ok(Exit::Failed),
        Changed::Nothing if json => screen::json(&serde_json::json!({ "applied": null }))?,
        Changed::Nothing => println!("nothing to change: this is the current snapshot"),
        Changed::Applied(done) if json => {
            let (preview, desired) = *done;
            screen::json(&serde_json::json!({ "applied": desired, "preview": preview }))?;
        }
        Changed::Applied(_) => {}
    }
    Ok(Exit::Done)
}

pub async fn apply(place: &Place, word: Option<String>, yes: bool, json: bool) -> Result<Exit> {
    let client = Client::of(place)?;
    let word = match word {
        Some(word) => word,
        None => send(&client, &place.repository()?).await?.to_string(),
    };
    end(change(&client, &word, false, yes, json).await?, json)
}

pub async fn rollback(place: &Place, word: Option<String>, yes: bool, json: bool) -> Result<Exit> {
    let client = Client::of(place)?;
    let word = match word {
        Some(word) => word,
        None => {
            let lines = client.history().await?;
            let current = lines.iter().find(|line| line.current).map(|line| line.snapshot);
            let earlier = lines.iter().find(|line| line.kept && Some(line.snapshot) != current);
            earlier.context("the head has no earlier snapshot")?.snapshot.to_string()
        }
    };
    match change(&client, &word, true, yes, json).await? {
        Changed::Nothing => bail!("that is the current snapshot"),
        changed => end(changed, json),
    }
}

pub async fn history(place: &Place, json: bool) -> Result<Exit> {
    let lines = Client::of(place)?.history().await?;
    if json {
        screen::json(&lines)?;
        return Ok(Exit::Done);
    }
    let now = bramble_system::now();
    let rows: Vec<Vec<String>> = lines.iter().map(|line| row(line, now)).collect();
    print!("{}", screen::table(&["SNAPSHOT", "REVISION", "AUTHOR", "WHEN", "BY", "CHANGED"], &rows));
    Ok(Exit::Done)
}

fn row(line: &Line, now: u64) -> Vec<String> {
    let mark = if line.current {
        " *"
    } else if line.kept {
        ""
    } else {
        " (gone)"
    };
    let Revision { author, .. } = &line.revision;
    vec![
        format!("{}{mark}", line.snapshot.short()),
        line.revision.short().unwrap_or_else(|| "–".into()),
        author.clone().unwrap_or_default(),
        screen::ago(std::time::Duration::from_millis(now.saturating_sub(line.at))),
        line.by.clone(),
        screen::few(&line.changed, "; "),
    ]
}

pub async fn retry(place: &Place, what: &str) -> Result<Exit> {
    let client = Client::of(place)?;
    let status = client.status().await?;
    let found = chosen(status.failed().map(|failure| failure.subject.clone()).collect(), what)?;
    for subject in found {
        client.retry(&subject).await?;
        println!("{subject} is tried again");
    }
    Ok(Exit::Done)
}

/// What is tried again of all that has failed.
fn chosen(failed: Vec<Subject>, what: &str) -> Result<Vec<Subject>> {
    if failed.is_empty() {
        bail!("nothing has failed, so there is nothing to try again");
    }
    let names: Vec<String> = failed.iter().map(|subject| format!("`{subject}`")).collect();
    let found: Vec<Subject> = failed.into_iter().filter(|subject| is_meant(subject, what)).collect();
    if found.is_empty() {
        bail!("nothing has failed for `{what}`: expected {}, or `all`", names.join(", "));
    }
    Ok(found)
}

/// `w1`, `whoami`, or the whole as it is shown.
fn is_meant(subject: &Subject, what: &str) -> bool {
    let name = match subject {
        Subject::Node { name } | Subject::Workload { name, .. } => name.as_str(),
        _ => "",
    };
    what == "all" || name == what || subject.to_string() == what
}

#[cfg(test)]
mod tests {
    use bramble_model::desired::{Contents, Offered};
    use bramble_model::engine::EngineKind;
    use serde::Serialize;
    use serde::de::DeserializeOwned;
    use sha2::{Digest as _, Sha256};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{UnixListener, UnixStream};

    use super::*;

    /// What the next request says, and where it is answered.
    async fn asked<T: DeserializeOwned>(head: &UnixListener) -> (T, UnixStream) {
        let (mut stream, _) = head.accept().await.expect("a connection");
        let mut read = Vec::new();
        let (start, length) = loop {
            assert_ne!(stream.read_buf(&mut read).await.expect("a request"), 0, "it broke off");
            let text = String::from_utf8_lossy(&read).to_lowercase();
            let Some((head, _)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
            break (head.len() + 4, length.parse::<usize>().expect("a number"));
        };
        while read.len() < start + length {
            assert_ne!(stream.read_buf(&mut read).await.expect("a request"), 0, "it broke off");
        }
        (serde_json::from_slice(&read[start..]).expect("JSON"), stream)
    }

    async fn answer(mut stream: UnixStream, answer: &impl Serialize) {
        let body = serde_json::to_string(answer).expect("plain data");
        let told = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(told.as_bytes()).await.expect("the answer");
    }

    #[tokio::test]
    async fn a_file_that_changes_between_reading_and_sending_is_not_sent_under_the_name_of_what_was_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = "[cluster]\nname = \"c\"\n[network]\ninterface = \"lo\"\n[roles.m]\nengine = \"manager\"\n\
            [nodes.m1]\nmac = \"52:54:00:00:00:01\"\nrole = \"m\"\n[workloads.web]\npath = \"web.yaml\"\n";
        std::fs::write(folder.path().join("bramble.toml"), text).expect("written");
        let workload = folder.path().join("web.yaml");
        let (before, after) = ("services: {web: {image: 'a:1'}}\n", "services: {web: {image: 'b:1'}}\n");
        std::fs::write(&workload, before).expect("written");
        let content = Digest(Sha256::digest(before).into());
        let head = UnixListener::bind(folder.path().join("head.sock")).expect("a socket");
        let client = Client::local(folder.path());
        let lacks_it = async {
            let offered = Offered { digest: Digest([1; 32]), missing: vec![content] };
            let (offer, stream): (Offer, _) = asked(&head).await;
            assert!(offer.snapshot.contents().contains_key(&content), "as it was read");
            std::fs::write(&workload, after).expect("written");
            answer(stream, &offered).await;
            // It goes by what it is: the head names it itself.
            let (sent, stream): (Contents, _) = asked(&head).await;
            assert_eq!(sent.contents.iter().map(|content| &content.0[..]).collect::<Vec<_>>(), [after.as_bytes()]);
            answer(stream, &()).await;
            let (_, stream): (Offer, _) = asked(&head).await;
            answer(stream, &offered).await;
        };
        let (sent, ()) = tokio::join!(send(&client, folder.path()), lacks_it);
        let error = sent.expect_err("it is not what was offered").to_string();
        assert_eq!(error, "1 files of the repository changed while they were sent: try again");
    }

    #[test]
    fn what_can_be_tried_again_is_said_where_something_else_is_named() {
        let node = || Subject::Node { name: "w1".parse().expect("a name") };
        let told = |failed, what| chosen(failed, what).expect_err(what).to_string();
        assert_eq!(told(vec![], "all"), "nothing has failed, so there is nothing to try again");
        assert_eq!(
            told(vec![node(), Subject::Source], "w2"),
            format!("nothing has failed for `w2`: expected `{}`, `{}`, or `all`", node(), Subject::Source)
        );
        for what in ["w1", "all", &node().to_string()] {
            assert_eq!(chosen(vec![node()], what).expect("it has failed"), [node()]);
        }
    }

    /// A preview of the current snapshot.
    fn preview() -> Preview {
        let digest = Digest([1; 32]);
        Preview {
            snapshot: digest,
            revision: Revision::default(),
            current: Some(digest),
            changed: Vec::new(),
            brake: Vec::new(),
            loops: Vec::new(),
        }
    }

    /// Who asks whether anything would change, as a script does each night, heard of each backup that was due.
    #[test]
    fn what_only_has_its_time_is_no_change() {
        let is_one = |subject| {
            let step = Told { subject, step: "is done".into(), reason: "it is due".into(), risk: Risk::Safe };
            let one = Foreseen { name: "one".into(), unknown: None, steps: vec![step], waits: Vec::new() };
            changes(&Preview { loops: vec![one], ..preview() })
        };
        let mac = "52:54:00:00:00:99".parse().expect("an address");
        for due in [Subject::Source, Subject::Backups, Subject::Ca, Subject::Machine { mac }] {
            assert!(!is_one(due.clone()), "{due}");
        }
        let name = "w1".parse().expect("a name");
        for other in [Subject::node(&name), Subject::workload(EngineKind::Swarm, &name)] {
            assert!(is_one(other.clone()), "{other}");
        }
        assert!(changes(&Preview { current: None, ..preview() }), "another snapshot, whatever is due");
    }

    #[test]
    fn nodes_that_are_off_are_not_as_the_repository_says() {
        let mut preview = preview();
        assert_eq!(verdict(&preview, &[]), "nothing would change: the cluster is as the repository says\n");
        assert_eq!(
            verdict(&preview, &["m1", "w1"]),
            "nothing would change, as far as it is known\nnothing is known of 2 nodes that are off or away: m1, w1\n"
        );
        let wait = Awaited {
            subject: Subject::Engine { engine: EngineKind::Swarm },
            reason: "no manager is up".into(),
            ends: Ends::ByItself,
        };
        let section = Foreseen { name: "swarm".into(), unknown: None, steps: Vec::new(), waits: vec![wait] };
        preview.loops.push(section);
        assert_eq!(verdict(&preview, &[]), "nothing would change now\n");
        assert_eq!(unknown(&preview), None);
        preview.loops[0].unknown = Some("its record cannot be read".into());
        assert_eq!(unknown(&preview).as_deref(), Some("swarm: its record cannot be read"), "no 0 for who asks");
        preview.current = None;
        assert_eq!(unknown(&preview), None, "something would change in any case");
        assert_eq!(verdict(&preview, &["m1"]), "nothing is known of m1, which is off or away\n");
    }
}
