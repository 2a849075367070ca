//! `bramble backup` and `bramble restore`

use std::io::{IsTerminal as _, Write as _, stdin};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bramble_head::backup::{self, Identities, Opened};
use bramble_head::control;
use bramble_model::api::UnreadableRecord;
use bramble_model::repository::{Cluster, FILE, Places, tree};
use bramble_system::files;

use crate::client::Client;
use crate::exit::Exit;
use crate::place::Place;
use crate::screen::{self, ago};
use crate::workspace;

pub async fn make(output: Option<PathBuf>, place: &Place) -> Result<Exit> {
    let client = Client::of(place)?;
    let path = match output {
        Some(path) => path,
        None => {
            let cluster = client.status().await?.cluster;
            PathBuf::from(format!("{cluster}-{}.bramble-backup", bramble_system::now() / 1000))
        }
    };
    let bytes = client.backup().await?;
    let contents = backup::contents_of(&bytes).context("the head's answer is no backup: is it of another version?")?;
    files::replace_secret(&path, &bytes).with_context(|| format!("cannot write {}", path.display()))?;
    let size = bytes.len() / 1000;
    if contents.recipients.is_empty() {
        println!("{} ({size} KB): in the clear, since the repository names no `[backup] recipients`", path.display());
        eprintln!(
            "its keys are sealed, and the seal is not in it: `bramble head save-seal FILE` writes it, for another place; \
             without it this backup cannot be restored"
        );
    } else {
        println!("{} ({size} KB): encrypted to {}", path.display(), contents.recipients.join(", "));
    }
    warn_of(&client.unreadable().await?);
    Ok(Exit::Done)
}

pub fn keygen(output: Option<PathBuf>, json: bool) -> Result<Exit> {
    let path = output.unwrap_or_else(|| "backup.key".into());
    if path.symlink_metadata().is_ok() {
        bail!("{} is there already, and may be the only key of a backup: name another file", path.display());
    }
    let whole = std::path::absolute(&path).with_context(|| format!("cannot find {}", path.display()))?;
    let is_repository = |folder: &&Path| folder.join(FILE).exists() || folder.join(".git").exists();
    if let Some(repository) = whole.ancestors().skip(1).find(is_repository) {
        bail!(
            "{} would lie in the repository {}, for everyone who reads that: name a file elsewhere, `-o FILE`",
            path.display(),
            repository.display()
        );
    }
    let (private, recipient) = backup::new_identity();
    files::replace_secret(&path, private.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
    let recipient = recipient.to_string();
    if json {
        screen::json(&serde_json::json!({ "file": path, "recipient": recipient }))?;
    } else {
        println!("recipients = [\"{recipient}\"]");
        eprintln!(
            "that line belongs below `[backup]` in bramble.toml, and {} elsewhere than on the head: without it nobody reads \
             a backup, and with it anyone",
            path.display()
        );
    }
    Ok(Exit::Done)
}

/// By what a backup is opened, and whether its CA is taken without a question.
pub struct Keys {
    pub identity: Option<PathBuf>,
    pub seal: Option<PathBuf>,
    pub yes: bool,
}

pub fn restore(path: &Path, keys: &Keys, place: &Place) -> Result<Exit> {
    let state = place.state()?;
    if control::runs(&state) {
        bail!("a head runs here: stop it first");
    }
    if backup::go_on(&state)? {
        println!("the restore that was cut off before is finished: the head's state is in {}", state.display());
        println!("{} was not read", path.display());
        return Ok(Exit::Done);
    }
    backup::is_free(&state)?;
    let identities = keys.identity.as_deref().map(Identities::read).transpose()?;
    let opened = backup::open(path, identities.as_ref(), keys.seal.as_deref())?;
    is_meant(&opened, keys.yes, place)?;
    workspace::make_state(&state)?;
    let contents = opened.place(&state, bramble_system::now())?;
    let age = ago(Duration::from_millis(bramble_system::now().saturating_sub(contents.at)));
    println!("the state of {} of {age} is in {}", contents.cluster, state.display());
    warn_of(&bramble_head::unreadable::list_of(&state)?);
    println!("next: `bramble image build`, and `bramble serve` at the old head's address");
    Ok(Exit::Done)
}

/// Whether the backup is of the cluster's CA: as the repository says, or else a person.
fn is_meant(opened: &Opened, yes: bool, place: &Place) -> Result<()> {
    // A head may be brought back without its repository beside it, and not with one that cannot be read.
    let repository = place.repository().ok();
    let wanted = match &repository {
        // The repository may be one of before, and what else is wrong with it is told when a head starts.
        Some(folder) => {
            Cluster::of_kept(&tree::Folder(folder), Places { root: folder, home: folder })
                .context("what the repository says of the CA cannot be read")?
                .ca
        }
        None => None,
    };
    if let Some(wanted) = wanted {
        return Ok(opened.is_of(&wanted)?);
    }
    let ca = opened.ca().map_or_else(|| "none".to_owned(), |ca| ca.to_string());
    let contents = opened.contents();
    let age = ago(Duration::from_millis(bramble_system::now().saturating_sub(contents.at)));
    println!("a backup of {} of {age}", contents.cluster);
    println!("fingerprint of its CA: {ca}");
    if yes {
        return Ok(());
    }
    let compare = format!(
        "compare the fingerprint with what `bramble status` showed on the old head, or a node's console; then `--yes`, or \
         `ca = \"{ca}\"` below `[cluster]` in bramble.toml"
    );
    if !stdin().is_terminal() {
        bail!("nobody has said that this is the cluster's CA: {compare}");
    }
    eprint!("Is it the cluster's? Type `yes`: ");
    std::io::stderr().flush().context("cannot ask")?;
    let mut answer = String::new();
    stdin().read_line(&mut answer).context("cannot read the answer")?;
    if answer.trim() != "yes" {
        bail!("nothing was restored: {compare}");
    }
    Ok(())
}

/// What of a backup cannot be read. It is in it as it was found, and that is what can be had.
fn warn_of(unreadable: &[UnreadableRecord]) {
    for record in unreadable {
        eprintln!("in it as it is: {}", record.problem);
    }
}
