//! A second control socket, of a cluster by its name: for the group `bramble`, and for whoever is in no folder of a head.
//!
//! ```text
//!  root, a service ──▶ /run/bramble/CLUSTER/DEVICE-INODE.sock            0750 and 0660, of the group where there is one
//!  a user          ──▶ /run/user/UID/bramble/CLUSTER/DEVICE-INODE.sock   0700 and 0600
//! ```
//! Device and inode are those of the folder of the head's state, whose store one head has locked: two clusters of one name
//! on one computer are two files of one folder, and what lies in a head's place is a dead one's. The kernel lets in whom the
//! mode of the socket names, and says who it was. Anyone may list `/run/bramble` (0755), by which a member finds the cluster.
//! Nobody but the head's user makes anything in these folders (`own`), and none can be there before: `/run` is root's,
//! `/run/user/UID` is the user's.

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use bramble_system::files;
use rustix::fs::{AtFlags, CWD, Gid, Mode, fchmod, fchown, mkdirat};
use rustix::io::Errno;
use rustix::process::geteuid;
use tokio::net::UnixListener;

use super::{Owners, RUN, VISIBLE, bound, folder_of, listening, own, place_of};

/// Who is in it is an operator of each head of this computer that root or a service runs.
const GROUP: &str = "bramble";
/// group(5). The program is linked to no library that could ask elsewhere.
const GROUPS: &str = "/etc/group";

/// What the socket of a head's cluster depends on.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) cluster: String,
    /// Whose members may use it beside the head's owner.
    pub(super) group: Option<u32>,
}

impl Shared {
    pub(super) fn of(cluster: &str) -> Self {
        let groups = fs::read_to_string(GROUPS).unwrap_or_default();
        Shared { cluster: cluster.to_owned(), group: group(&groups) }
    }

    /// Where it is below a folder for sockets.
    pub(super) fn place(&self, elsewhere: &Path) -> PathBuf {
        folder_of(elsewhere).join(&self.cluster).join(elsewhere.file_name().expect("it is a socket's place"))
    }

    /// Makes it. Where the group cannot be given (a user's own head, a service that is no member), it is the owner's alone.
    pub(super) fn open(&self, place: &Path, state: &Path) -> io::Result<(UnixListener, Owners)> {
        let folder = folder_of(place);
        for (folder, mode) in [(folder_of(folder), Mode::RWXU | VISIBLE), (folder, Mode::RWXU)] {
            match mkdirat(CWD, folder, mode) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let (top, mode) = own(folder_of(folder))?;
        let (opened, _) = own(folder)?;
        let group = self.group.map(Gid::from_raw).filter(|group| fchown(&opened, None, Some(*group)).is_ok());
        // Who cannot list it finds no cluster: one that a head of before made is searched only.
        if group.is_some() && !mode.contains(VISIBLE) {
            fchmod(&top, mode | VISIBLE)?;
        }
        fchmod(&opened, if group.is_some() { Mode::RWXU | Mode::RGRP | Mode::XGRP } else { Mode::RWXU })?;
        let name = place.file_name().expect("it is a socket's place");
        match rustix::fs::unlinkat(&opened, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let socket = bound(place)?;
        // Before anyone can connect. In a folder where nobody else makes anything, a name is as good as the file.
        if let Some(group) = group {
            rustix::fs::chownat(&opened, name, None, Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
            let both = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP;
            rustix::fs::chmodat(&opened, name, both, AtFlags::empty())?;
        }
        let (owner, _) = files::owner(state)?;
        let owners = Owners { head: geteuid().as_raw(), folder: owner, members: group.is_some() };
        Ok((UnixListener::from_std(listening(socket)?)?, owners))
    }
}

/// The number of the group in the text of group(5).
fn group(groups: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(GROUP)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

/// A head on this computer, by its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    pub cluster: String,
    /// Its socket; `None` where this user may not look at it.
    pub socket: Option<PathBuf>,
}

/// The folders of clusters on this computer that this user could know of.
fn folders(run: &Path) -> impl Iterator<Item = PathBuf> {
    let own = run.join("user").join(geteuid().as_raw().to_string()).join("bramble");
    let all = [run.join("bramble"), own].into_iter().filter_map(|top| fs::read_dir(top).ok()).flatten();
    all.flatten().map(|entry| entry.path()).filter(|path| path.is_dir())
}

/// The heads that answer on this computer, and those that this user may not ask.
#[must_use]
pub fn running() -> Vec<Running> {
    running_below(Path::new(RUN))
}

pub(super) fn running_below(run: &Path) -> Vec<Running> {
    let mut running = Vec::new();
    for folder in folders(run) {
        let Some(cluster) = folder.file_name().and_then(|name| Some(name.to_str()?.to_owned())) else { continue };
        let found = |socket| Running { cluster: cluster.clone(), socket };
        match fs::read_dir(&folder) {
            Ok(entries) => {
                running.extend(entries.flatten().filter_map(|entry| match UnixStream::connect(entry.path()) {
                    Ok(_) => Some(found(Some(entry.path()))),
                    Err(error) => (error.kind() == io::ErrorKind::PermissionDenied).then(|| found(None)),
                }))
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => running.push(found(None)),
            Err(_) => {}
        }
    }
    running.sort_by(|one, other| (&one.cluster, &one.socket).cmp(&(&other.cluster, &other.socket)));
    running
}

/// Where the head with this folder may have such a socket.
pub(super) fn of_folder(run: &Path, state: &Path) -> Vec<PathBuf> {
    let Some(name) = place_of(state) else { return Vec::new() };
    folders(run).map(|folder| folder.join(&name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_is_the_one_of_this_name_and_of_no_other() {
        let groups = "root:x:0:\nbramble-users:x:7:\nbramble:x:990:ann,bob\nbramble:x:1:\n";
        assert_eq!(group(groups), Some(990));
        assert_eq!(group("notbramble:x:5:\n"), None);
        for torn in ["bramble", "bramble:x", "bramble:x:-1:", "bramble:x:9999999999:", ""] {
            assert_eq!(group(torn), None, "{torn}");
        }
    }
}
