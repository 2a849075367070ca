//! Nobody but its owner looks into the folder of the head's state: folders 0700, and the head's own files 0600.
//!
//! What lies below `image` and `snapshots` keeps the modes that it is built with, and the git repository those of git, each
//! behind the closed folder.

use std::fs;
use std::io;
use std::path::Path;

use bramble_system::files;
use rustix::fs::{Mode, OFlags};

/// Folders below that of the state whose files are the head's own.
const OWN: [&str; 5] = ["keys", "set-aside", "source", "source/key", "source/hosts"];
/// Folders whose files are others'.
const OTHERS: [&str; 2] = ["image", "snapshots"];

/// Closes what a former bramble, or whoever made the folder, left open. What cannot be closed is told, and ends no head.
pub(crate) fn close(state: &Path) {
    let own = OWN.map(|name| state.join(name));
    for folder in [state.to_owned()].iter().chain(&own).filter(|folder| folder.is_dir()) {
        told(folder, files::make_secret_folder(folder));
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file())) {
            told(&entry.path(), close_file(&entry.path()));
        }
    }
    for folder in OTHERS.map(|name| state.join(name)).iter().filter(|folder| folder.is_dir()) {
        told(folder, files::make_secret_folder(folder));
    }
}

fn told(path: &Path, closed: io::Result<()>) {
    match closed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "whether others can read this is not known");
        }
        _ => {}
    }
}

fn close_file(path: &Path) -> io::Result<()> {
    // Through the file, and not its name again: that could be a link by now.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    let data = rustix::fs::fstat(&file)?;
    // What has another name may be someone else's.
    if data.st_nlink == 1 && data.st_mode & 0o077 != 0 {
        rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_lay_open_is_its_owners_alone_and_what_others_made_keeps_its_modes() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let state = folder.path().join(".bramble");
        let at = |path: &str| state.join(path);
        for path in ["keys", "source/key", "source/repository.git", "image/sets", "snapshots/ab"] {
            fs::create_dir_all(at(path)).expect("made");
        }
        let files =
            ["head.redb", "keys/ca.key", "keys/ca.pem", "source/key/id_ed25519", "snapshots/ab/run", "image/sets/one"];
        for file in files {
            fs::write(at(file), b"").expect("written");
            fs::set_permissions(at(file), fs::Permissions::from_mode(0o755)).expect("open to all");
        }
        fs::hard_link(at("snapshots/ab/run"), at("two-names")).expect("linked");
        std::os::unix::fs::symlink(at("image/sets/one"), at("keys/link")).expect("linked");
        for _ in 0..2 {
            close(&state);
            let mode = |path: &str| fs::metadata(at(path)).expect(path).permissions().mode() & 0o777;
            for path in ["", "keys", "source", "source/key", "image", "snapshots"] {
                assert_eq!(mode(path), 0o700, "{path}");
            }
            for path in &files[..4] {
                assert_eq!(mode(path), 0o600, "{path}");
            }
            for path in ["snapshots/ab/run", "image/sets/one"] {
                assert_eq!(mode(path), 0o755, "{path}");
            }
        }
    }
}
