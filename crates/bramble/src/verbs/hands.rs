//! `bramble exec`, `shell`, `logs`, `cp`, `reboot` and `halt`

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;

use anyhow::{Context, Result, bail};
use bramble_model::hands::{Channel, End, Errand, PIECE, Size, ToProcess, Told};
use bramble_model::names::Name;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::client::Client;
use crate::exit::Exit;
use crate::hands::{Hands, exit_code, trouble};
use crate::place::Place;
use crate::process::{Interrupted, Interrupts};
use crate::screen;

/// Pieces of input that wait to be sent.
const QUEUE: usize = 4;

/// What one node printed.
#[derive(Default)]
struct Printed {
    out: Vec<u8>,
    err: Vec<u8>,
    /// Both, as they came.
    both: Vec<u8>,
}

/// A set from `-n` and `-r`; without either, the nodes of the verb's own default.
pub fn set(nodes: Option<String>, role: Option<String>, default: Option<&str>) -> Result<String> {
    match (nodes, role, default) {
        (None, None, None) => bail!("say where: -n NODES or -r ROLE (`-n all` for every node)"),
        (None, None, Some(default)) => Ok(default.to_owned()),
        (nodes, role, _) => {
            let role = role.map(|role| format!("role:{role}"));
            Ok([nodes, role].into_iter().flatten().collect::<Vec<_>>().join(","))
        }
    }
}

/// Reads a file or the standard input in a thread of its own: such a read cannot be interrupted.
fn read_in_thread(mut from: impl std::io::Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (pieces, queue) = mpsc::channel(QUEUE);
    std::thread::spawn(move || {
        let mut piece = vec![0; PIECE];
        while let Ok(length @ 1..) = from.read(&mut piece) {
            if pieces.blocking_send(piece[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    queue
}

/// Waits for the next thing that is told, and meanwhile sends what there is to send. `None` at the end.
async fn step(
    hands: &mut Hands,
    input: &mut Option<mpsc::Receiver<Vec<u8>>>,
    stop: &mut Interrupts,
) -> Result<Option<Told>> {
    loop {
        let has_room = hands.room() >= PIECE;
        let piece = async {
            match input.as_mut().filter(|_| has_room) {
                Some(input) => input.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            told = hands.next() => return told,
            piece = piece => match piece {
                Some(piece) => hands.input(piece).await?,
                None => {
                    *input = None;
                    hands.tell(&ToProcess::EndOfInput).await?;
                }
            },
            () = stop.next() => return Err(Interrupted.into()),
        }
    }
}

/// Runs a command on nodes: one line or one block for each, and a summary.
pub async fn exec(nodes: &str, argv: Vec<String>, input: bool, place: &Place, json: bool) -> Result<Exit> {
    let client = Client::of(place)?;
    let mut stop = Interrupts::listen()?;
    let mut hands = Hands::begin(&client, nodes, Errand::Exec { argv, input }).await?;
    let alone = hands.nodes.len() == 1 && !json;
    let width = hands.nodes.iter().map(|node| node.as_str().len()).max().unwrap_or(0);
    let mut input = input.then(|| read_in_thread(std::io::stdin()));
    let mut printed: BTreeMap<Name, Printed> = BTreeMap::new();
    let mut ends: BTreeMap<Name, End> = BTreeMap::new();
    while let Some(told) = step(&mut hands, &mut input, &mut stop).await? {
        match told {
            // Of one node, what it prints is what this prints.
            Told::Output { channel, data, .. } if alone => write(channel, &data.0)?,
            Told::Output { node, channel, data } => {
                let printed = printed.entry(node).or_default();
                if channel == Channel::Out { &mut printed.out } else { &mut printed.err }.extend(&data.0);
                printed.both.extend(data.0);
            }
            Told::Ended { node, end } => {
                if !alone && !json {
                    let text = printed.get(&node).map(|printed| printed.both.as_slice()).unwrap_or_default();
                    write(Channel::Out, block(&node, width, text, &end).as_bytes())?;
                }
                ends.insert(node, end);
            }
            _ => {}
        }
    }
    if json {
        let nodes: Vec<_> = ends
            .iter()
            .map(|(node, end)| {
                let printed = printed.remove(node).unwrap_or_default();
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                serde_json::json!({
                    "node": node, "code": end.code(), "trouble": trouble(end),
                    "stdout": text(&printed.out), "stderr": text(&printed.err),
                })
            })
            .collect();
        screen::json(&nodes)?;
    } else if alone {
        if let Some((node, End::Failed { reason })) = ends.first_key_value() {
            eprintln!("{node}: {reason}");
        }
    } else {
        eprintln!("{}", summary(&ends));
    }
    Ok(Exit::Node(exit_code(&ends)))
}

fn write(channel: Channel, bytes: &[u8]) -> Result<()> {
    let written = match channel {
        Channel::Out => std::io::stdout().write_all(bytes).and_then(|()| std::io::stdout().flush()),
        Channel::Err => std::io::stderr().write_all(bytes),
    };
    written.context("cannot write what the node printed")
}

/// One line beside the node's name, or a block below it.
fn block(node: &Name, width: usize, printed: &[u8], end: &End) -> String {
    let text = String::from_utf8_lossy(printed);
    let text = text.trim_end_matches('\n');
    let trouble = trouble(end).map(|trouble| format!("({trouble})"));
    let name = node.as_str();
    if text.contains('\n') {
        let trouble = trouble.map(|trouble| format!("{trouble}\n")).unwrap_or_default();
        return format!("── {name}\n{text}\n{trouble}");
    }
    let words: Vec<&str> =
        [Some(text), trouble.as_deref()].into_iter().flatten().filter(|word| !word.is_empty()).collect();
    format!("{:<width$}  {}\n", name, words.join(" ")).trim_end().to_owned() + "\n"
}

fn summary(ends: &BTreeMap<Name, End>) -> String {
    let failed: Vec<String> =
        ends.iter().filter_map(|(node, end)| Some(format!("{node} ({})", trouble(end)?))).collect();
    let nodes = if ends.len() == 1 { "1 node".to_owned() } else { format!("{} nodes", ends.len()) };
    match failed.len() {
        0 => format!("{nodes}: all done"),
        count => format!("{nodes}: {} done, {count} failed: {}", ends.len() - count, failed.join(", ")),
    }
}

/// Follows or shows the journals of nodes, each line with its node's name where there are several.
pub async fn logs(nodes: &str, unit: Option<String>, follow: bool, lines: u32, place: &Place) -> Result<Exit> {
    let client = Client::of(place)?;
    let mut stop = Interrupts::listen()?;
    let mut hands = Hands::begin(&client, nodes, Errand::Logs { unit, follow, lines }).await?;
    let alone = hands.nodes.len() == 1;
    let width = hands.nodes.iter().map(|node| node.as_str().len()).max().unwrap_or(0);
    let mut rests: BTreeMap<(Name, bool), Vec<u8>> = BTreeMap::new();
    let mut ends = BTreeMap::new();
    loop {
        let told = match step(&mut hands, &mut None, &mut stop).await {
            // Whoever follows ends it so.
            Err(error) if follow && error.is::<Interrupted>() => return Ok(Exit::Done),
            told => told?,
        };
        match told {
            None => break,
            Some(Told::Output { channel, data, .. }) if alone => write(channel, &data.0)?,
            Some(Told::Output { node, channel, data }) => {
                let rest = rests.entry((node.clone(), channel == Channel::Err)).or_default();
                rest.extend(data.0);
                while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = rest.drain(..=at).collect();
                    let name = format!("{:<width$} | ", node.as_str());
                    write(channel, &[name.as_bytes(), &line].concat())?;
                }
            }
            Some(Told::Ended { node, end }) => {
                if let Some(trouble) = trouble(&end) {
                    eprintln!("{node}: {trouble}");
                }
                ends.insert(node, end);
            }
            Some(_) => {}
        }
    }
    Ok(Exit::Node(exit_code(&ends)))
}

/// Reboots or halts nodes.
pub async fn send_down(nodes: &str, errand: Errand, place: &Place) -> Result<Exit> {
    let done = if errand == Errand::Reboot { "reboots" } else { "halts" };
    let mut stop = Interrupts::listen()?;
    let mut hands = Hands::begin(&Client::of(place)?, nodes, errand).await?;
    let mut ends = BTreeMap::new();
    while let Some(told) = step(&mut hands, &mut None, &mut stop).await? {
        match told {
            Told::Output { node, data, .. } => eprint!("{node}: {}", String::from_utf8_lossy(&data.0)),
            Told::Ended { node, end } => {
                println!("{node} {}", trouble(&end).unwrap_or_else(|| done.to_owned()));
                ends.insert(node, end);
            }
            _ => {}
        }
    }
    Ok(Exit::Node(exit_code(&ends)))
}

/// The person's terminal, given every key as it is pressed. Dropped, it is as it was.
struct Raw(Termios);

impl Raw {
    fn set() -> Result<Self> {
        let before = tcgetattr(std::io::stdin())
            .context("the standard input is no terminal: `bramble exec` runs a command without one")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).context("cannot change the terminal")?;
        Ok(Raw(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

fn size() -> Size {
    match tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_col > 0 => Size { columns: size.ws_col, rows: size.ws_row },
        _ => Size { columns: 80, rows: 24 },
    }
}

/// A shell on a node, on this terminal.
pub async fn shell(node: &Name, place: &Place) -> Result<Exit> {
    let client = Client::of(place)?;
    let term = std::env::var("TERM").unwrap_or_else(|_| "dumb".into());
    let terminal = std::io::stdin().is_terminal();
    let mut stop = Interrupts::listen()?;
    let mut hands = Hands::begin(&client, node.as_str(), Errand::Shell { term, size: size() }).await?;
    // From a pipe, it is a shell that reads a script.
    let raw = terminal.then(Raw::set).transpose()?;
    let mut keys = Some(read_in_thread(std::io::stdin()));
    let mut resized = signal(SignalKind::window_change()).context("cannot listen for signals")?;
    let mut ends = BTreeMap::new();
    loop {
        let has_room = hands.room() >= PIECE;
        let key = async {
            match keys.as_mut().filter(|_| has_room) {
                Some(keys) => keys.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            told = hands.next() => match told? {
                None => break,
                Some(Told::Output { data, .. }) => write(Channel::Out, &data.0)?,
                Some(Told::Ended { node, end }) => {
                    ends.insert(node, end);
                }
                Some(_) => {}
            },
            key = key => match key {
                Some(bytes) => hands.input(bytes).await?,
                None => {
                    keys = None;
                    // The end of a script: as the key for it (Ctrl-D), since a terminal has no other end.
                    hands.input(vec![4]).await?;
                }
            },
            // Not the key for it, which goes to the node: someone ends this program, and the terminal is put right.
            () = stop.next() => return Err(Interrupted.into()),
            _ = resized.recv() => hands.tell(&ToProcess::Resize { size: size() }).await?,
        }
    }
    drop(raw);
    if let Some((node, End::Failed { reason })) = ends.first_key_value() {
        eprintln!("{node}: {reason}");
    }
    Ok(Exit::Node(exit_code(&ends)))
}

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Side<'a> {
    Here(&'a str),
    There { nodes: &'a str, path: &'a str },
}

/// `w1:/etc/hosts`, `w[1-3]:/srv`; a path with a slash before its colon is one here.
fn side(text: &str) -> Side<'_> {
    // `role:worker:/srv`: the path begins behind the last colon before a slash.
    let cut = text.find(":/").or_else(|| text.rfind(':'));
    match cut {
        Some(at) if !text[..at].contains('/') && at > 0 => Side::There { nodes: &text[..at], path: &text[at + 1..] },
        _ => Side::Here(text),
    }
}

/// Copies a file or folder to nodes, or from one or several.
pub async fn copy(from: &str, to: &str, place: &Place) -> Result<Exit> {
    match (side(from), side(to)) {
        (Side::Here(path), Side::There { nodes, path: target }) => put(Path::new(path), nodes, target, place).await,
        (Side::There { nodes, path }, Side::Here(target)) => fetch(nodes, path, Path::new(target), place).await,
        (Side::Here(_), Side::Here(_)) => bail!("neither side is a node: write NODE:PATH for the one that is"),
        (Side::There { .. }, Side::There { .. }) => bail!("both sides are nodes: copy to this machine first"),
    }
}

async fn put(path: &Path, nodes: &str, target: &str, place: &Place) -> Result<Exit> {
    if target.is_empty() {
        bail!("say where on the node: NODE:PATH");
    }
    let full = path.canonicalize().with_context(|| format!("cannot read {}", path.display()))?;
    let name = full.file_name().context("cannot copy the root")?.to_owned();
    let name = name.to_str().context("its name is no text")?.to_owned();
    let errand = Errand::Place { path: target.to_owned(), name: name.clone() };
    let mut stop = Interrupts::listen()?;
    let mut hands = Hands::begin(&Client::of(place)?, nodes, errand).await?;
    let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    let packing = std::thread::spawn(move || {
        let mut archive = tar::Builder::new(std::io::BufWriter::with_capacity(PIECE, writer));
        archive.follow_symlinks(false);
        if full.is_dir() {
            archive.append_dir_all(&name, &full)?
        } else {
            archive.append_path_with_name(&full, &name)?
        }
        archive.into_inner()?.flush()
    });
    let mut input = Some(read_in_thread(reader));
    let mut ends = BTreeMap::new();
    while let Some(told) = step(&mut hands, &mut input, &mut stop).await? {
        match told {
            Told::Output { node, data, .. } => eprint!("{node}: {}", String::from_utf8_lossy(&data.0)),
            Told::Ended { node, end } => {
                ends.insert(node, end);
            }
            _ => {}
        }
    }
    // A node that failed reads no more, and the packer's pipe breaks: the node's reason is the one to tell.
    drop(input);
    if let Ok(Err(error)) = packing.join()
        && ends.values().all(|end| end.code() == 0)
    {
        return Err(error).with_context(|| format!("cannot read {}", path.display()));
    }
    eprintln!("{}", summary(&ends));
    Ok(Exit::Node(exit_code(&ends)))
}

async fn fetch(nodes: &str, path: &str, target: &Path, place: &Place) -> Result<Exit> {
    let mut stop = Interrupts::listen()?;
    let mut hands = Hands::begin(&Client::of(place)?, nodes, Errand::Fetch { path: path.to_owned() }).await?;
    let several = hands.nodes.len() > 1;
    let mut unpacking = BTreeMap::new();
    for node in &hands.nodes {
        // Several nodes' files go into a folder each.
        let target = if several { target.join(node.as_str()) } else { target.to_owned() };
        let (pieces, queue) = std::sync::mpsc::sync_channel::<Vec<u8>>(QUEUE);
        let thread = std::thread::spawn(move || unpack(queue, &target));
        unpacking.insert(node.clone(), (Some(pieces), thread));
    }
    let mut ends = BTreeMap::new();
    while let Some(told) = step(&mut hands, &mut None, &mut stop).await? {
        match told {
            Told::Output { node, channel: Channel::Out, data } => {
                if let Some((Some(pieces), _)) = unpacking.get(&node) {
                    // One that cannot write has ended; it says why below.
                    let _ = pieces.send(data.0);
                }
            }
            Told::Output { node, data, .. } => eprint!("{node}: {}", String::from_utf8_lossy(&data.0)),
            Told::Ended { node, end } => {
                if let Some((pieces, _)) = unpacking.get_mut(&node) {
                    *pieces = None;
                }
                ends.insert(node, end);
            }
            _ => {}
        }
    }
    for (node, (_, thread)) in unpacking {
        let unpacked = thread.join().map_err(|_| anyhow::anyhow!("the archive could not be read"))?;
        if let Err(error) = unpacked
            && ends.get(&node).is_some_and(|end| end.code() == 0)
        {
            ends.insert(node, End::Failed { reason: format!("cannot write here: {error}").into() });
        }
    }
    eprintln!("{}", summary(&ends));
    Ok(Exit::Node(exit_code(&ends)))
}

/// Unpacks an archive: into `target` where that is a folder or ends with a slash, else to `target` itself.
/// Nothing of it can lead out of there.
fn unpack(pieces: std::sync::mpsc::Receiver<Vec<u8>>, target: &Path) -> std::io::Result<()> {
    let is_folder = target.is_dir() || target.as_os_str().as_encoded_bytes().ends_with(b"/");
    let parent = if is_folder {
        target
    } else {
        target.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."))
    };
    std::fs::create_dir_all(parent)?;
    // Complete before it has its name.
    let beside = tempfile::Builder::new().prefix(".cp-").tempdir_in(parent)?;
    tar::Archive::new(Pieces { pieces, rest: Vec::new() }).unpack(beside.path())?;
    for entry in std::fs::read_dir(beside.path())? {
        let entry = entry?;
        let place = if is_folder { target.join(entry.file_name()) } else { target.to_owned() };
        std::fs::rename(entry.path(), place)?;
    }
    Ok(())
}

/// What arrives, as a reader.
struct Pieces {
    pieces: std::sync::mpsc::Receiver<Vec<u8>>,
    rest: Vec<u8>,
}

impl std::io::Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.rest.is_empty() {
            match self.pieces.recv() {
                Ok(piece) => self.rest = piece,
                Err(_) => return Ok(0),
            }
        }
        let length = buffer.len().min(self.rest.len());
        buffer[..length].copy_from_slice(&self.rest[..length]);
        self.rest.drain(..length);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_of_a_copy() {
        for (text, wanted) in [
            ("w1:/etc/hosts", Side::There { nodes: "w1", path: "/etc/hosts" }),
            ("w1:notes", Side::There { nodes: "w1", path: "notes" }),
            ("role:worker:/srv", Side::There { nodes: "role:worker", path: "/srv" }),
            ("w[1-3],!w2:/srv", Side::There { nodes: "w[1-3],!w2", path: "/srv" }),
            ("./w1:/etc", Side::Here("./w1:/etc")),
            ("hosts", Side::Here("hosts")),
            ("/a:/b", Side::Here("/a:/b")),
        ] {
            assert_eq!(side(text), wanted, "{text}");
        }
    }

    #[test]
    fn one_line_or_one_block_for_each_node() {
        let node: Name = "w1".parse().expect("a name");
        let done = End::Exited { code: 0 };
        assert_eq!(block(&node, 4, b"up 3 days\n", &done), "w1    up 3 days\n");
        assert_eq!(block(&node, 4, b"", &done), "w1\n");
        assert_eq!(block(&node, 2, b"a\nb\n", &End::Exited { code: 2 }), "── w1\na\nb\n(exit code 2)\n");
        assert_eq!(
            block(&node, 2, b"", &End::Failed { reason: "it is not connected".into() }),
            "w1  (it is not connected)\n"
        );
    }

    #[test]
    fn what_arrives_from_a_node_stays_in_its_place() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let archive = |name: &str| {
            let mut header = tar::Header::new_gnu();
            header.set_size(3);
            header.set_mode(0o644);
            // As someone would write it who means harm: the library refuses such a name when it packs.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            let mut archive = tar::Builder::new(Vec::new());
            archive.append(&header, &b"evil"[..3]).expect("packed");
            archive.into_inner().expect("packed")
        };
        let send = |bytes: Vec<u8>, target: &Path| {
            let (pieces, queue) = std::sync::mpsc::sync_channel(1);
            let thread = std::thread::spawn({
                let target = target.to_owned();
                move || unpack(queue, &target)
            });
            let _ = pieces.send(bytes);
            drop(pieces);
            thread.join().expect("no panic")
        };
        let inside = folder.path().join("inside");
        std::fs::create_dir(&inside).expect("a folder");
        let _ = send(archive("../outside"), &inside);
        assert!(!folder.path().join("outside").exists());
        send(archive("file"), &inside).expect("unpacked");
        assert!(inside.join("file").exists(), "into a folder");
        send(archive("file"), &folder.path().join("other")).expect("unpacked");
        assert_eq!(std::fs::read(folder.path().join("other")).expect("there"), b"evi", "to a name of its own");
        assert_eq!(std::fs::read_dir(folder.path()).expect("there").count(), 2, "nothing is left beside it");
    }
}
