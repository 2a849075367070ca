//! The control socket: the head for whoever owns its folder, without a password.
//!
//! ```text
//!  the folder of its state ── can be made there ──▶ STATE/head.sock
//!        └── cannot: no writes, no such folder, too long a path ──▶ /run/bramble/DEVICE-INODE.sock, root's or a service's
//!                                                             └──▶ /run/user/UID/bramble/DEVICE-INODE.sock, a user's own
//! ```
//! A card that is worn out turns read-only, and then its owner wants to ask the head what is wrong. The other places are
//! named by the folder's device and inode: whoever has the folder finds them, by whatever path. Nobody but the user that the
//! head runs as can make anything there (FHS 3.0 section 3.15, XDG Base Directory Specification), and root makes nothing in
//! what is a user's own. Where there is no place at all, boots go on, and people reach the head over TLS.
//!
//! Beside it there is one of the cluster's name, for a group ([`shared`]), as soon as the head knows that name.

mod shared;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::OsString;
use std::fs;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use bramble_system::files;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::geteuid;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use crate::access::Door;
use crate::gate::{self, Gate};
use crate::http::{self, Part};

use shared::Shared;
pub use shared::{Running, running};

/// What is of this boot only.
const RUN: &str = "/run";
/// How often places that had none are tried again, until there is one in the folder of the state.
const AGAIN: Duration = Duration::from_secs(3);
/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// What group and others may do in a folder of sockets: look what is there, and go on to what is theirs.
const VISIBLE: Mode = Mode::RGRP.union(Mode::XGRP).union(Mode::ROTH).union(Mode::XOTH);

/// Where the socket of a head with this folder may be, the usual place first.
fn places(run: &Path, state: &Path) -> Vec<PathBuf> {
    let mut places = vec![usual(state)];
    if let (Some(name), Ok((owner, _))) = (place_of(state), files::owner(state)) {
        places.push(run.join("bramble").join(&name));
        if owner != 0 {
            places.push(run.join("user").join(owner.to_string()).join("bramble").join(name));
        }
    }
    places
}

/// What names the socket of a head with this folder, wherever it is elsewhere.
fn place_of(state: &Path) -> Option<OsString> {
    let folder = fs::metadata(state).ok()?;
    Some(format!("{:x}-{:x}.sock", folder.dev(), folder.ino()).into())
}

fn usual(state: &Path) -> PathBuf {
    state.join("head.sock")
}

/// Where a head of the user that this process runs as makes one, if not in the usual place.
fn others(run: &Path, state: &Path) -> Vec<PathBuf> {
    let user = geteuid();
    let is_own = !user.is_root() && files::owner(state).is_ok_and(|(owner, _)| owner == user.as_raw());
    places(run, state).into_iter().skip(1).take(if is_own { 2 } else { 1 }).collect()
}

/// Where the head with this folder answers; the usual place where none does.
#[must_use]
pub fn socket(state: &Path) -> PathBuf {
    socket_below(Path::new(RUN), state)
}

fn socket_below(run: &Path, state: &Path) -> PathBuf {
    let mut places = places(run, state);
    let usual = places.remove(0);
    places.extend(shared::of_folder(run, state));
    places.retain(|place| place.exists());
    // What lies in the usual place may be a dead head's, which a disk that takes no writes keeps.
    if places.is_empty() || UnixStream::connect(&usual).is_ok() {
        return usual;
    }
    places.into_iter().find(|place| UnixStream::connect(place).is_ok()).unwrap_or(usual)
}

/// Whether a head with this folder runs.
#[must_use]
pub fn runs(state: &Path) -> bool {
    places(Path::new(RUN), state).iter().any(|place| UnixStream::connect(place).is_ok())
}

/// Who may use a control socket: root, who is the head, and the owner of the folder of its state.
#[derive(Debug, Clone, Copy)]
struct Owners {
    head: u32,
    folder: u32,
    /// Whomever the kernel lets connect, too: the socket's folder and mode are no one's but the head's to change.
    members: bool,
}

impl Owners {
    fn are(self, user: u32) -> bool {
        user == 0 || user == self.head || user == self.folder
    }

    fn have(self, user: u32) -> bool {
        self.members || self.are(user)
    }
}

/// Binds a socket that the user of this process alone may connect to, once it is [`listening`].
fn bound(path: &Path) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Its name gets the mode that it has itself (Linux, `unix_bind_bsd`). By its name it could not be changed: the owner of
    // the folder could have put a link there by then.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

fn listening(socket: OwnedFd) -> io::Result<std::os::unix::net::UnixListener> {
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// Makes a control socket, for the owner of the folder of the state.
fn open(path: &Path, state: &Path) -> io::Result<(UnixListener, Owners)> {
    let (folder, _) = files::owner(state)?;
    // The store's lock has been taken by now, so a socket that lies there is a dead head's.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::from_std(listening(bound(path)?)?)?;
    files::give_socket(path, state)?;
    Ok((listener, Owners { head: geteuid().as_raw(), folder, members: false }))
}

/// Opens a folder in which nobody else can make anything, and gives its mode.
fn own(folder: &Path) -> io::Result<(OwnedFd, Mode)> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(folder, flags, Mode::empty()).map_err(|error| match error {
        Errno::NOTDIR | Errno::LOOP => io::Error::other(format!("{} is no folder: remove it", folder.display())),
        error => error.into(),
    })?;
    let data = rustix::fs::fstat(&opened)?;
    let (mode, user) = (Mode::from_raw_mode(data.st_mode), geteuid().as_raw());
    if data.st_uid != user {
        let (folder, owner) = (folder.display(), data.st_uid);
        return Err(io::Error::other(format!("{folder} is of user {owner}, and the head runs as user {user}")));
    }
    if mode.intersects(Mode::WGRP | Mode::WOTH) {
        let folder = folder.display();
        return Err(io::Error::other(format!("others can write to {folder}: `chmod go-w {folder}`")));
    }
    Ok((opened, mode))
}

/// The folder of one of the [`others`].
fn folder_of(place: &Path) -> &Path {
    place.parent().expect("it is named below a folder")
}

/// As [`open`], in one of the [`others`].
fn open_elsewhere(place: &Path, state: &Path) -> io::Result<(UnixListener, Owners)> {
    // Its own parent is root's or the user's, or is not there.
    match rustix::fs::mkdirat(CWD, folder_of(place), Mode::RWXU | VISIBLE) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let (folder, mode) = own(folder_of(place))?;
    let (owner, _) = files::owner(state)?;
    // Whatever this process takes from what it makes, or whoever made it: the owner of the state is let through.
    if owner != geteuid().as_raw() && !mode.contains(VISIBLE) {
        rustix::fs::fchmod(&folder, mode | VISIBLE)?;
    }
    open(place, state)
}

/// Removes the socket of a head that was killed, in one of the [`others`]. It had the folder, and so the store, that this
/// one has locked by now: no other head makes one of this name meanwhile.
fn remove_dead(place: &Path) {
    let is_dead = UnixStream::connect(place).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if is_dead
        && let Some(name) = place.file_name()
        && let Ok((folder, _)) = own(folder_of(place))
    {
        // Where it stays, nobody answers on it.
        let _ = rustix::fs::unlinkat(folder, name, AtFlags::empty());
    }
}

/// The sockets of one head.
struct Sockets {
    run: PathBuf,
    state: PathBuf,
    /// That of the cluster, where the head knows its name.
    shared: Option<Shared>,
    /// Where they are; that of the cluster is beside them.
    made: Vec<PathBuf>,
    made_shared: Option<PathBuf>,
    /// What has been said of the places where they cannot be.
    told: BTreeMap<PathBuf, String>,
}

impl Sockets {
    fn are_in_their_place(&self) -> bool {
        self.made.contains(&usual(&self.state)) && (self.shared.is_none() || self.made_shared.is_some())
    }

    /// Makes all that are missing.
    fn make(&mut self) -> Vec<(UnixListener, Owners)> {
        let mut opened = Vec::new();
        if !self.made.contains(&usual(&self.state)) {
            opened = self.make_own();
        }
        opened.extend(self.make_shared());
        opened
    }

    /// The first place that there is for the one of the cluster. It is no more than a second one: where there is none, as
    /// for a user who has no login, that is told once and for no alarm.
    fn make_shared(&mut self) -> Option<(UnixListener, Owners)> {
        let shared = self.shared.clone().filter(|_| self.made_shared.is_none())?;
        others(&self.run, &self.state).into_iter().find_map(|elsewhere| {
            let place = shared.place(&elsewhere);
            match shared.open(&place, &self.state) {
                Ok(opened) => {
                    self.told.remove(&place);
                    self.made_shared = Some(place);
                    Some(opened)
                }
                Err(error) => {
                    if self.is_news(&place, error.to_string()) {
                        tracing::info!(place = %place.display(), %error, "the cluster's own control socket cannot be here");
                    }
                    None
                }
            }
        })
    }

    /// Whether this was not said of the place yet.
    fn is_news(&mut self, place: &Path, error: String) -> bool {
        let before = self.told.get(place) != Some(&error);
        if before {
            self.told.insert(place.to_owned(), error);
        }
        before
    }

    /// Makes the one in the usual place; until there is one, one elsewhere.
    fn make_own(&mut self) -> Vec<(UnixListener, Owners)> {
        let before = self.told.clone();
        let place = usual(&self.state);
        let opened = open(&place, &self.state);
        let mut opened = Vec::from_iter(self.noted(place, opened));
        if !opened.is_empty() && !before.is_empty() {
            tracing::info!("the control socket is in its place");
        }
        if self.made.is_empty() {
            opened.extend(others(&self.run, &self.state).into_iter().find_map(|place| {
                let opened = open_elsewhere(&place, &self.state);
                self.noted(place, opened)
            }));
            match self.made.first() {
                Some(place) => tracing::warn!(place = %place.display(), "the control socket is elsewhere"),
                None if self.told != before => tracing::error!(
                    "there is no control socket yet: `bramble login` reaches the head, and the first of these places that is mended gets it"
                ),
                None => {}
            }
        }
        opened
    }

    /// Tells what keeps it from a place, once.
    fn noted<T>(&mut self, place: PathBuf, opened: io::Result<T>) -> Option<T> {
        match opened {
            Ok(opened) => {
                self.told.remove(&place);
                self.made.push(place);
                Some(opened)
            }
            Err(error) => {
                if self.is_news(&place, error.to_string()) {
                    tracing::warn!(place = %place.display(), %error, "the control socket cannot be here");
                }
                None
            }
        }
    }
}

/// Serves the command line on a Unix socket for the owner of the folder of the head's state, until `stop`. That it cannot
/// be made ends no head. Of a `cluster` that is known, there is one for its group, too.
pub(crate) fn serve(
    routes: Router,
    state: &Path,
    cluster: Option<&str>,
    gate: Arc<Gate>,
    stop: CancellationToken,
) -> impl Future<Output = Part> + use<> {
    serve_below(Path::new(RUN), routes, state, cluster.map(Shared::of), gate, stop)
}

fn serve_below(
    run: &Path,
    routes: Router,
    state: &Path,
    shared: Option<Shared>,
    gate: Arc<Gate>,
    stop: CancellationToken,
) -> impl Future<Output = Part> + use<> {
    others(run, state).iter().for_each(|place| remove_dead(place));
    let (run, state) = (run.to_owned(), state.to_owned());
    let (made, told) = (Vec::new(), BTreeMap::new());
    let mut sockets = Sockets { run, state, shared, made, made_shared: None, told };
    let mut opened = sockets.make();
    async move {
        let mut ended = pin!(http::ended(&stop));
        let mut serving = FuturesUnordered::new();
        loop {
            serving.extend(opened.drain(..).map(|opened| accept(opened, &routes, &gate)));
            tokio::select! {
                () = &mut ended => break,
                Some(never) = serving.next() => match never {},
                () = tokio::time::sleep(AGAIN), if !sockets.are_in_their_place() => opened = sockets.make(),
            }
        }
        // The next head makes its own.
        for place in &sockets.made {
            let _ = fs::remove_file(place);
        }
        if let Some(place) = &sockets.made_shared {
            // Another head of that name keeps the folder, or makes it anew.
            let _ = fs::remove_file(place).and_then(|()| fs::remove_dir(folder_of(place)));
        }
        Ok(())
    }
}

/// By which address a user's connections are counted: what a member of the group opens and leaves is that one's crowd, and
/// goes for the owner's.
fn counted_at(user: u32, is_owner: bool) -> IpAddr {
    // Of a network that has no addresses of its own: RFC 6890, section 2.2.2.
    IpAddr::V4(if is_owner { Ipv4Addr::LOCALHOST } else { Ipv4Addr::from(user & 0x00ff_ffff) })
}

/// Answers whoever connects and may.
async fn accept((listener, owners): (UnixListener, Owners), routes: &Router, gate: &Arc<Gate>) -> Infallible {
    let handle = |(stream, _): (tokio::net::UnixStream, _)| {
        let user = stream.peer_cred().ok()?.uid();
        if !owners.have(user) {
            tracing::warn!(user, "the control socket is not for this user");
            return None;
        }
        let is_owner = owners.are(user);
        let pass = gate.enter(counted_at(user, is_owner))?;
        let routes = routes.clone();
        Some(async move {
            // Whoever may be here is the head's owner, or is trusted as an operator is.
            let door = Door::Socket { user, is_owner };
            let _ = pass.stay().during(http::converse(stream, door, routes, &pass)).await;
        })
    };
    gate::accept(|| listener.accept(), handle).await
}

#[cfg(test)]
mod tests;
