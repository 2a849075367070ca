//! Copies of the audit log: to a file that only grows, and to syslog. Each remembers up to where it has come, so that what
//! cannot leave now leaves later, also after a start; nothing waits for it, and no queue grows.
//!
//! ```text
//!  bramble.toml names another place ─▶ from what is there now; its first line says what it follows on
//!     a batch of entries ── written ─────▶ up to there; the next
//!        └── not written ─▶ a problem of the head ─ some seconds ─▶ the same batch again
//!              └── older entries have expired meanwhile ─▶ counted as not copied
//! ```
//! A crash between a batch and its note has the batch copied twice: entries have numbers and hashes. A datagram that is lost
//! on its way is lost: who needs all of them has the file.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Write as _};
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bramble_model::audit::{Begins, Copied, Position};
use bramble_model::repository::Syslog;
use bramble_model::timeline::Millis;
use bramble_store::{Key, OnLoss, Record, Store, Table};
use bramble_system::{locked, now};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::net::{UdpSocket, UnixDatagram};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::refusals::Refusals;
use super::{AuditLog, chain, links};
use crate::error::Error;
use crate::snapshots::Snapshots;
use crate::store::beside;

/// Entries that are written at once.
const BATCH: u64 = 256;
/// When a place that took nothing is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// How long a place may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a file of ours begins with.
const BEGINS: &[u8] = b"{\"kind\":";

/// `file` or `syslog` → up to where that copy has come.
pub(crate) struct CopiedTo;

impl Record for CopiedTo {
    type Key = String;
    type Value = Progress;
    const TABLE: Table = Table::new("audit-copied");
    const FORM: u32 = 1;
    const WHAT: &'static str = "the progress of the audit log's copy to";
    // It goes on from what is there then.
    const ON_LOSS: OnLoss = OnLoss::BeginAnew;

    fn key(key: &String) -> Key {
        key.as_str().into()
    }
}

/// Up to where a copy has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// The place, as people read it: another one begins anew.
    pub(crate) to: String,
    pub(crate) at: Position,
    /// Entries that expired before they could be copied.
    pub(crate) lost: u64,
    /// Its first line, until that is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) begins: Option<Begins>,
}

/// What a copy is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    File,
    Syslog,
}

impl Kind {
    fn key(self) -> String {
        match self {
            Kind::File => "file".into(),
            Kind::Syslog => "syslog".into(),
        }
    }
}

/// Where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    File(PathBuf),
    Syslog(Syslog),
}

impl Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::File(path) => path.display().fmt(f),
            Target::Syslog(syslog) => syslog.fmt(f),
        }
    }
}

/// What is to be written next.
struct Batch {
    lines: Vec<Copied>,
    at: Position,
    /// Of those before, so many have expired.
    lost: u64,
}

/// The part of the head that copies the audit log.
pub(crate) struct Copies {
    store: Store,
    snapshots: Arc<Snapshots>,
    refusals: Arc<Refusals>,
    /// Why a copy does not go on.
    troubles: Mutex<BTreeMap<Kind, String>>,
    /// A write to the file has not come back.
    writes: Arc<AtomicBool>,
}

impl Copies {
    pub(crate) fn new(store: Store, snapshots: Arc<Snapshots>, refusals: Arc<Refusals>) -> Self {
        Copies { store, snapshots, refusals, troubles: Mutex::default(), writes: Arc::default() }
    }

    /// What people have to know of copies that do not go on, or lack something.
    pub(crate) fn problems(&self) -> Vec<String> {
        let troubles = locked(&self.troubles);
        let lacking = [Kind::File, Kind::Syslog].into_iter().filter_map(|kind| {
            let target = self.target(kind)?.to_string();
            let progress = self.progress(kind, &target).ok()??;
            (progress.lost > 0).then(|| {
                format!("{} entries of the audit log expired before they were copied to {target}", progress.lost)
            })
        });
        troubles.values().cloned().chain(lacking).collect()
    }

    fn target(&self, kind: Kind) -> Option<Target> {
        let copies = self.snapshots.cluster().audit.clone();
        match kind {
            Kind::File => copies.file.map(Target::File),
            Kind::Syslog => copies.syslog.map(Target::Syslog),
        }
    }

    /// Of a copy to this place; `None` where it has not begun.
    fn progress(&self, kind: Kind, target: &str) -> Result<Option<Progress>, Error> {
        let kept = self.store.blocking().read::<CopiedTo>(&kind.key())?;
        Ok(kept.filter(|kept| kept.to == target))
    }

    /// Notes up to where it has come. Where that cannot be kept, it is copied twice.
    fn note(&self, kind: Kind, progress: &Progress) -> Result<(), Error> {
        Ok(self.store.blocking().note::<CopiedTo>(&[(kind.key(), Some(progress))])?)
    }

    /// Up to where a copy to this place has come: a new one to here.
    fn begun(&self, kind: Kind, target: &str) -> Result<Progress, Error> {
        if let Some(progress) = self.progress(kind, target)? {
            return Ok(progress);
        }
        let instead_of = self.store.blocking().read::<CopiedTo>(&kind.key())?.map(|before| before.to);
        let (chain, _) = chain(&self.store)?;
        let at = Position { link: chain.last, refusal: self.refusals.stamp() };
        let begins = Some(Begins { at: now(), after: chain.last, hash: chain.head, instead_of });
        let progress = Progress { to: target.into(), at, lost: 0, begins };
        self.note(kind, &progress)?;
        Ok(progress)
    }

    fn next(&self, after: Position) -> Result<Batch, Error> {
        let (chain, _) = chain(&self.store)?;
        // A store that was restored, or has lost what it had in memory, goes on with smaller numbers.
        let from = after.link.min(chain.last);
        let first = from.max(chain.first.saturating_sub(1));
        let end = chain.last.min(first.saturating_add(BATCH));
        let mut lines: Vec<Copied> = links(&self.store, first, end)?.into_iter().map(Copied::of).collect();
        let mut at = Position { link: end, refusal: after.refusal.min(self.refusals.stamp()) };
        for refused in self.refusals.since(at.refusal) {
            at.refusal = refused.stamp;
            lines.push(Copied::Refusal(refused));
        }
        Ok(Batch { lines, at, lost: first - from })
    }

    /// Copies to both places until cancelled.
    pub(crate) async fn keep(self: Arc<Self>, stop: CancellationToken) {
        let copying = async { tokio::join!(self.copy(Kind::File), self.copy(Kind::Syslog)) };
        tokio::select! {
            _ = copying => {}
            () = stop.cancelled() => {}
        }
    }

    async fn copy(self: &Arc<Self>, kind: Kind) {
        let mut outlet: Option<(Target, Outlet)> = None;
        let mut snapshot = self.snapshots.subscribe();
        let (mut chained, mut refused) = (self.store.watch(AuditLog::TABLE), self.refusals.watch());
        loop {
            snapshot.borrow_and_update();
            chained.borrow_and_update();
            refused.borrow_and_update();
            let target = self.target(kind);
            let went = match &target {
                None => Ok(false),
                Some(target) => self.step(kind, target, &mut outlet).await,
            };
            let again = went.is_err();
            self.tell(kind, target.as_ref(), went.as_ref().err());
            if matches!(went, Ok(true)) {
                continue;
            }
            if target.is_none() || again {
                // Opened anew: the file may have been moved away, the server may have another address.
                outlet = None;
            }
            let changed = tokio::select! {
                changed = snapshot.changed() => changed,
                changed = chained.changed(), if target.is_some() && !again => changed,
                changed = refused.changed(), if target.is_some() && !again => changed,
                () = tokio::time::sleep(AGAIN), if again => Ok(()),
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// Copies a batch; `false` where there is nothing to copy.
    async fn step(
        self: &Arc<Self>,
        kind: Kind,
        target: &Target,
        outlet: &mut Option<(Target, Outlet)>,
    ) -> Result<bool, String> {
        let (copies, name) = (Arc::clone(self), target.to_string());
        let read = beside(move || {
            let progress = copies.begun(kind, &name)?;
            let batch = copies.next(progress.at)?;
            Ok((progress, batch))
        });
        let said = |error: Error| bramble_system::sentence(&error);
        let (mut progress, mut batch) = read.await.map_err(said)?;
        if batch.at == progress.at && batch.lost == 0 && progress.begins.is_none() {
            return Ok(false);
        }
        if let Some(begins) = &progress.begins {
            batch.lines.insert(0, Copied::Begins(begins.clone()));
        }
        if outlet.as_ref().is_none_or(|(open, _)| open != target) {
            *outlet = Some((target.clone(), Outlet::open(target).await.map_err(|error| error.to_string())?));
        }
        let Some((_, outlet)) = outlet.as_mut() else { return Ok(false) };
        outlet.write(batch.lines, &self.writes).await.map_err(|error| error.to_string())?;
        progress.at = batch.at;
        progress.lost += batch.lost;
        progress.begins = None;
        let copies = Arc::clone(self);
        beside(move || copies.note(kind, &progress)).await.map_err(said)?;
        Ok(true)
    }

    /// Tells what has become of it, where that is new.
    fn tell(&self, kind: Kind, target: Option<&Target>, error: Option<&String>) {
        let trouble = error.zip(target).map(|(error, target)| {
            format!("the audit log is not copied to {target}: {error}; what is not copied waits, and is tried again")
        });
        let mut troubles = locked(&self.troubles);
        let before = troubles.remove(&kind);
        match (&before, &trouble) {
            (before, Some(trouble)) if before.as_ref() != Some(trouble) => tracing::error!(trouble, "audit"),
            (Some(_), None) => tracing::info!("the audit log is copied again"),
            _ => {}
        }
        troubles.extend(trouble.map(|trouble| (kind, trouble)));
    }
}

/// Something that takes entries.
enum Outlet {
    File(PathBuf),
    Udp(UdpSocket),
    Socket(UnixDatagram),
}

impl Outlet {
    async fn open(target: &Target) -> io::Result<Self> {
        Ok(match target {
            Target::File(path) => Outlet::File(path.clone()),
            Target::Syslog(Syslog::Socket(path)) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                Outlet::Socket(socket)
            }
            Target::Syslog(Syslog::Udp { host, port }) => {
                let found = in_time(tokio::net::lookup_host((host.as_str(), *port))).await?.next();
                let to = found.ok_or_else(|| io::Error::other(format!("there is no host `{host}`")))?;
                let own: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
                let socket = UdpSocket::bind(own).await?;
                socket.connect(to).await?;
                Outlet::Udp(socket)
            }
        })
    }

    async fn write(&self, lines: Vec<Copied>, writes: &Arc<AtomicBool>) -> io::Result<()> {
        if let Outlet::File(path) = self {
            if writes.swap(true, Ordering::AcqRel) {
                return Err(io::Error::other("its disk has not answered the write before this one"));
            }
            let writes = Arc::clone(writes);
            let (path, text) = (path.clone(), lines.iter().map(|line| json(line) + "\n").collect::<String>());
            // A disk that does not answer holds up this copy alone, and one thread of the head's.
            let writing = tokio::task::spawn_blocking(move || {
                let appended = append(&path, text.as_bytes());
                writes.store(false, Ordering::Release);
                appended
            });
            return in_time(async { writing.await.map_err(io::Error::other)? }).await;
        }
        for line in &lines {
            let message = message(line, &crate::access::origin::host());
            in_time(async {
                match self {
                    Outlet::Udp(socket) => socket.send(message.as_bytes()).await,
                    Outlet::Socket(socket) => socket.send(message.as_bytes()).await,
                    Outlet::File(_) => Ok(0),
                }
            })
            .await?;
        }
        Ok(())
    }
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", PATIENCE.as_secs()));
    timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(late()))
}

fn json(line: &Copied) -> String {
    serde_json::to_string(line).expect("entries are plain data")
}

/// Adds to a file that only grows. One that has something else in it is not ours, and no link is followed: whoever writes the
/// repository names it, and the head may be root. What a full disk took half of is ended with a line of its own.
fn append(path: &Path, text: &[u8]) -> io::Result<()> {
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).expect("flags of Linux");
    let mut options = File::options();
    let mut file = options.read(true).append(true).create(true).mode(0o600).custom_flags(flags).open(path)?;
    let data = file.metadata()?;
    if !data.is_file() || data.nlink() != 1 {
        return Err(io::Error::other("it is no plain file, or has a second name"));
    }
    let mut begins = Vec::new();
    Read::by_ref(&mut file).take(BEGINS.len() as u64).read_to_end(&mut begins)?;
    if !begins.is_empty() && begins != BEGINS {
        return Err(io::Error::other("it has something else in it: name a file of its own"));
    }
    let mut last = [b'\n'];
    if let Some(at) = data.len().checked_sub(1) {
        file.read_exact_at(&mut last, at)?;
    }
    if last != *b"\n" {
        file.write_all(b"\n")?;
    }
    file.write_all(text)?;
    file.sync_data()
}

/// A message of RFC 5424: facility 13 (log audit), a notice of what was done, a warning of what was refused.
fn message(line: &Copied, host: &str) -> String {
    let (severity, at, id) = match line {
        Copied::Change { link, .. } => (5, link.at, "change"),
        Copied::Refusal(refused) => (4, refused.last, "refusal"),
        Copied::Begins(begins) => (5, begins.at, "begins"),
    };
    let host = if host.is_empty() { "-" } else { host };
    let mut text = format!("<{}>1 {} {host} bramble {} {id} - ", 13 * 8 + severity, stamp(at), std::process::id());
    // Writing to a text cannot fail.
    let _ = write!(text, "{}", json(line));
    text
}

/// RFC 3339, as RFC 5424 has it; `-` of a time that no clock shows.
fn stamp(at: Millis) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at) * 1_000_000).ok();
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_else(|| "-".into())
}

#[cfg(test)]
mod tests;
