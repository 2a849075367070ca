//! The control socket: the head for whoever owns its folder, without a password.
//!
//! ```text
//!  the folder of its state ── can be made there ──▶ STATE/head.sock
//!        └── takes no writes, or its path is too long ──▶ /run/bramble/DEVICE-INODE.sock, which root makes
//!                                                    └──▶ /run/user/UID/bramble/DEVICE-INODE.sock, a user's own
//! ```
//! A card that is worn out turns read-only, and then its owner wants to ask the head what is wrong. The other places are
//! named by the folder's device and inode: whoever has the folder finds them, by whatever path. Nobody but root and the
//! user can make anything there (FHS 3.0 section 3.15, XDG Base Directory Specification).

use std::fs::{self, Permissions};
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::Router;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use crate::access::Door;
use crate::error::Error;
use crate::gate::{self, Gate};
use crate::http::{self, Part};

/// What is of this boot only.
const RUN: &str = "/run";
/// How often a disk that takes no writes is tried again.
const DISK: Duration = Duration::from_secs(3);

/// Where the socket of a head with this folder may be, the usual place first.
fn places(run: &Path, state: &Path) -> Vec<PathBuf> {
    let mut places = vec![state.join("head.sock")];
    if let Ok(folder) = fs::metadata(state) {
        let name = format!("bramble/{:x}-{:x}.sock", folder.dev(), folder.ino());
        places.push(run.join(&name));
        places.push(run.join("user").join(folder.uid().to_string()).join(name));
    }
    places
}

/// Where the head with this folder answers; the usual place where none does.
#[must_use]
pub fn socket(state: &Path) -> PathBuf {
    let mut places = places(Path::new(RUN), state);
    let usual = places.remove(0);
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

/// Who may use the control socket: root, who is the head, and the owner of the folder of its state.
#[derive(Debug, Clone, Copy)]
struct Owners {
    head: u32,
    folder: u32,
}

impl Owners {
    fn have(self, user: u32) -> bool {
        user == 0 || user == self.head || user == self.folder
    }
}

/// Makes a control socket, for the owner of the folder of the state.
fn open(path: &Path, state: &Path) -> io::Result<(UnixListener, Owners)> {
    // The store's lock has been taken by now, so a socket that lies there is a dead head's.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    bramble_system::files::give_socket(path, state)?;
    let (folder, _) = bramble_system::files::owner(state)?;
    Ok((listener, Owners { head: rustix::process::geteuid().as_raw(), folder }))
}

/// Makes one in the first of these places that takes it.
fn open_elsewhere(places: &[PathBuf], state: &Path) -> Option<(UnixListener, Owners, PathBuf)> {
    places.iter().find_map(|place| {
        let folder = place.parent()?;
        // Its own parent belongs to root or to the user, or it is not there.
        match fs::create_dir(folder) {
            // Whatever this process takes from what it makes: the owner of the state is let through.
            Ok(()) => fs::set_permissions(folder, Permissions::from_mode(0o755)).ok()?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(_) => return None,
        }
        let (listener, owners) = open(place, state).ok()?;
        Some((listener, owners, place.clone()))
    })
}

/// Whether the folder of the state can have no socket, now or ever: the other places can.
fn has_no_place(error: &io::Error) -> bool {
    // InvalidInput is a path of more than 107 bytes (unix(7)).
    use io::ErrorKind::{InvalidInput, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), InvalidInput | QuotaExceeded | ReadOnlyFilesystem | StorageFull)
}

/// Serves the command line on a Unix socket for the owner of the folder of the head's state, until `stop`.
///
/// # Errors
/// When the socket cannot be made, for another reason than that the folder has no place for it.
pub(crate) fn serve(
    routes: Router,
    state: &Path,
    stop: CancellationToken,
) -> Result<impl Future<Output = Part> + use<>, Error> {
    serve_below(Path::new(RUN), routes, state, stop)
}

fn serve_below(
    run: &Path,
    routes: Router,
    state: &Path,
    stop: CancellationToken,
) -> Result<impl Future<Output = Part> + use<>, Error> {
    let mut places = places(run, state);
    let usual = places.remove(0);
    let name = format!("control socket {}", usual.display());
    let (mut opened, mut elsewhere) = (None, None);
    match open(&usual, state) {
        Ok(made) => opened = Some(made),
        Err(error) if has_no_place(&error) => {
            elsewhere = open_elsewhere(&places, state);
            match &elsewhere {
                Some((.., place)) => {
                    tracing::warn!(%error, place = %place.display(), "the control socket is elsewhere")
                }
                // Boots go on, and people reach the head over TLS.
                None => tracing::error!(%error, "there is no control socket yet: `bramble login` reaches the head"),
            }
        }
        Err(error) => return Err(Error::service(&name)(error)),
    }
    let state = state.to_owned();
    Ok(async move {
        let there = async {
            let made = loop {
                if let Some(made) = opened {
                    break made;
                }
                tokio::time::sleep(DISK).await;
                opened = match open(&usual, &state) {
                    Ok(made) => {
                        tracing::info!("the control socket is in its place");
                        Some(made)
                    }
                    Err(error) if has_no_place(&error) => None,
                    Err(error) => return Err(Error::service(&name)(error)),
                };
            };
            accept(made, &routes).await
        };
        let mut left = vec![usual.clone()];
        let beside = async {
            match elsewhere {
                Some((listener, owners, place)) => {
                    left.push(place);
                    accept((listener, owners), &routes).await
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            failed = there => return failed,
            never = beside => return never,
            () = http::ended(&stop) => {}
        }
        // The next head makes its own.
        for place in left {
            let _ = fs::remove_file(place);
        }
        Ok(())
    })
}

/// Answers whoever connects and may.
async fn accept((listener, owners): (UnixListener, Owners), routes: &Router) -> Part {
    let gate = Gate::new(http::MOST, http::MOST);
    let handle = |(stream, _): (tokio::net::UnixStream, _)| {
        let user = stream.peer_cred().ok()?.uid();
        if !owners.have(user) {
            tracing::warn!(user, "the control socket is not for this user");
            return None;
        }
        let pass = gate.enter(IpAddr::V4(Ipv4Addr::LOCALHOST))?;
        let routes = routes.clone();
        Some(async move {
            let _pass = pass;
            http::converse(stream, Door::Socket { user }, routes).await;
        })
    };
    match gate::accept(|| listener.accept(), handle).await {}
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    /// Any number that is nobody's.
    const USER: u32 = 12_345;
    const SOCKET: &str = "BRAMBLE_TEST_SOCKET";

    /// Run by [`roots_socket_is_for_the_owner_of_the_folder`] as other users.
    #[test]
    fn connects_to_the_socket() {
        if let Some(path) = std::env::var_os(SOCKET) {
            UnixStream::connect(path).expect("connected");
        }
    }

    fn given(path: &Path) {
        std::os::unix::fs::chown(path, Some(USER), Some(USER)).expect("the tests run as root");
    }

    /// Also where that is in `/run/bramble`, whose owner is root.
    #[tokio::test]
    async fn roots_socket_is_for_the_owner_of_the_folder() {
        let top = tempfile::tempdir().expect("a temporary folder");
        fs::set_permissions(top.path(), Permissions::from_mode(0o755)).expect("opened");
        let (state, run) = (top.path().join("state"), top.path().join("run"));
        fs::create_dir(&state).and_then(|()| fs::create_dir(&run)).expect("made");
        given(&state);
        // The test's program may lie where others cannot read.
        let program = top.path().join("test");
        fs::copy(std::env::current_exe().expect("a program"), &program).expect("copied");
        given(&program);
        let (listener, owners) = open(&state.join("head.sock"), &state).expect("made");
        let elsewhere = places(&run, &state).split_off(1);
        let (spare, spare_owners, place) = open_elsewhere(&elsewhere, &state).expect("made");
        assert!(place.starts_with(run.join("bramble")), "{}", place.display());
        for (listener, owners, path) in [(listener, owners, state.join("head.sock")), (spare, spare_owners, place)] {
            let connects = |user: u32| {
                let mut command = Command::new(&program);
                let test = "control::tests::connects_to_the_socket";
                command.args(["--exact", test]).env(SOCKET, &path).uid(user).gid(user);
                command.output().expect("it starts").status.success()
            };
            assert!(connects(USER));
            let (stream, _) = listener.accept().await.expect("a connection");
            assert!(owners.have(stream.peer_cred().expect("known").uid()));
            assert!(connects(0), "root may always");
            assert!(!connects(USER + 1), "another one could open the folder, and not the socket");
            assert!(!owners.have(USER + 1));
        }
    }

    fn answers(path: &Path) -> bool {
        let Ok(mut stream) = UnixStream::connect(path) else { return false };
        let mut answer = String::new();
        let asked = stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        asked.and_then(|()| stream.read_to_string(&mut answer)).expect("an answer");
        answer.contains("here I am")
    }

    /// As one that lies deep in a home; a disk that is read-only is in the tests of the lab.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_folder_with_too_long_a_path_has_its_socket_elsewhere() {
        let top = tempfile::tempdir().expect("a temporary folder");
        let (state, run) = (top.path().join("deep".repeat(40)), top.path().join("run"));
        fs::create_dir(&state).and_then(|()| fs::create_dir(&run)).expect("made");
        let routes = Router::new().fallback(|| async { "here I am" });
        let stop = CancellationToken::new();
        let serving = serve_below(&run, routes.clone(), &state, stop.clone()).expect("it has a place");
        let serving = tokio::spawn(serving);
        // By another path to the same folder.
        let link = top.path().join("link");
        std::os::unix::fs::symlink(&state, &link).expect("linked");
        let place = places(&run, &link).swap_remove(1);
        let asked = place.clone();
        assert!(tokio::task::spawn_blocking(move || answers(&asked)).await.expect("no panic"));
        stop.cancel();
        serving.await.expect("no panic").expect("it ended");
        assert!(!place.exists(), "nothing is left");
        // Where there is no place at all, the head serves on without.
        fs::remove_dir_all(&run).expect("removed");
        let serving = tokio::spawn(serve_below(&run, routes, &state, stop).expect("it goes on"));
        serving.await.expect("no panic").expect("it ended");
    }
}
