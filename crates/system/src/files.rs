//! Files that survive a power cut: written beside, synced, renamed, and the folder synced.
//!
//! What root makes in a folder of someone else belongs to that one, as if the owner had made it: `sudo bramble
//! serve` and `bramble up` as oneself then work on the same files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags};
use rustix::process::{Gid, Uid};

/// The content of a file of at most so many bytes, in a folder where anybody may have put something in its place: a link is
/// not followed, and what is no file ends in an error, where a FIFO would be waited for and a device read for ever.
///
/// # Errors
/// As the file system says, and where it is no file, or a longer one.
pub fn read_regular(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
    }
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

/// Replaces the content of `path`; at every instant it holds the old bytes or the new ones.
///
/// # Errors
/// As the file system says; the old content is then still there.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_with_mode(path, bytes, 0o644)
}

/// As [`replace`], readable for the owner only.
///
/// # Errors
/// As [`replace`].
pub fn replace_secret(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_with_mode(path, bytes, 0o600)
}

/// As [`replace_secret`], for a program that its owner alone may run.
///
/// # Errors
/// As [`replace`].
pub fn replace_program(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_with_mode(path, bytes, 0o700)
}

fn replace_with_mode(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let new = beside(path);
    let written = (|| {
        // Of a process of this number that was killed. What is there is never opened: it may be a link.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        give_to_owner_of(folder_of(path), &file);
        file.write_all(bytes)?;
        file.sync_all()?;
        publish(&new, path)
    })();
    if written.is_err() {
        // Whatever went wrong first is what the caller hears.
        let _ = fs::remove_file(&new);
    }
    written
}

/// Moves a complete file that lies on the same file system to its place, durably.
///
/// # Errors
/// As the file system says.
pub fn publish(from: &Path, to: &Path) -> io::Result<()> {
    File::open(from)?.sync_all()?;
    fs::rename(from, to)?;
    sync_folder(to)
}

/// Makes the entry of `path` in its folder durable.
///
/// # Errors
/// As the file system says.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The user and group who own a folder.
///
/// # Errors
/// When there is no such folder.
pub fn owner(folder: &Path) -> io::Result<(u32, u32)> {
    fs::metadata(folder).map(|data| (data.uid(), data.gid()))
}

/// Gives what root has just made in `folder` to the folder's owner. Where that cannot be (another's file system,
/// a service without the capability), it stays root's.
pub fn give_to_owner_of(folder: &Path, made: impl AsFd) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    if let Ok((user, group)) = owner(folder)
        && user != 0
    {
        let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
        let _ = rustix::fs::chownat(made, "", Some(user), Some(group), AtFlags::EMPTY_PATH);
    }
}

/// Makes a folder and those above it that are missing, each given to the owner of the one that it is in.
///
/// # Errors
/// As the file system says.
pub fn make_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
        make_folder(above)?;
    }
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
        made => made?,
    }
    // Opened, and not named again: the owner of the folder above could have put a link in its place.
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    let made = rustix::fs::open(path, flags, Mode::empty())?;
    give_to_owner_of(folder_of(path), made);
    Ok(())
}

/// As [`make_folder`], for a folder that is its owner's alone, also where it is there and was not.
///
/// # Errors
/// As the file system says.
pub fn make_secret_folder(path: &Path) -> io::Result<()> {
    make_folder(path)?;
    // Through the folder, and not its name again: that could be a link by now.
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(path, flags, Mode::empty())?;
    if rustix::fs::fstat(&folder)?.st_mode & 0o777 != 0o700 {
        rustix::fs::fchmod(&folder, Mode::RWXU)?;
    }
    Ok(())
}

/// Makes an empty file that its owner alone may read, where there is none: for programs that make their own. One that
/// is there is for its owner alone from now on.
///
/// # Errors
/// As the file system says.
pub fn make_secret(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => give_to_owner_of(folder_of(path), file),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // Through the file, and not its name again: that could be a link by now.
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = rustix::fs::open(path, flags, Mode::empty())?;
            if rustix::fs::fstat(&file)?.st_mode & 0o077 != 0 {
                rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR)?;
            }
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Makes a symbolic link that belongs to the owner of its folder.
///
/// # Errors
/// As the file system says.
pub fn make_link(target: impl AsRef<Path>, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, path)?;
    let link = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&link)?.st_mode) == FileType::Symlink {
        give_to_owner_of(folder_of(path), link);
    }
    Ok(())
}

/// Gives what other programs have made as root below a folder to the folder's owner, as far as that can be. Each folder
/// is opened from the one that it is in: its owner could put a link in its place meanwhile.
pub fn give_all_below(folder: &Path) {
    const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::RDONLY).union(OFlags::CLOEXEC);
    const ANY: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
    fn below(opened: &OwnedFd, owner_of: &Path) {
        let Ok(entries) = Dir::read_from(opened) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            if let Ok(folder) = rustix::fs::openat(opened, name, FOLDER, Mode::empty()) {
                if rustix::fs::fstat(&folder).is_ok_and(|data| data.st_uid == 0) {
                    give_to_owner_of(owner_of, &folder);
                }
                below(&folder, owner_of);
            } else if let Ok(found) = rustix::fs::openat(opened, name, ANY, Mode::empty())
                // What has another name may be someone else's.
                && rustix::fs::fstat(&found).is_ok_and(|data| data.st_uid == 0 && data.st_nlink == 1)
            {
                give_to_owner_of(owner_of, found);
            }
        }
    }
    if rustix::process::geteuid().is_root()
        && owner(folder).is_ok_and(|(user, _)| user != 0)
        && let Ok(opened) = rustix::fs::open(folder, FOLDER, Mode::empty())
    {
        below(&opened, folder);
    }
}

/// Gives a socket that this process has just bound at `path` to the owner of this folder, which may be another one than
/// it lies in.
///
/// # Errors
/// When something else lies there by now.
pub fn give_socket(path: &Path, folder: &Path) -> io::Result<()> {
    let socket = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let data = rustix::fs::fstat(&socket)?;
    // A hard link to someone else's socket would be given away by its other name, too.
    if FileType::from_raw_mode(data.st_mode) != FileType::Socket || data.st_nlink != 1 {
        return Err(io::Error::other("something else has been put in the socket's place"));
    }
    give_to_owner_of(folder, socket);
    Ok(())
}

/// The bytes of all files below a folder. What vanishes while it is looked at counts nothing, and no link is followed.
pub fn size(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(data) if data.is_dir() => size(&entry.path()),
        Ok(data) => data.len(),
        Err(_) => 0,
    });
    sizes.fold(0, u64::saturating_add)
}

/// Makes `to`, which is not there, a copy of the folder `from`: links to the same files where that can be.
///
/// # Errors
/// As the file system says; a part of it may be there then.
pub fn link_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (old, new) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            link_tree(&old, &new)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&old)?, &new)?;
        } else if fs::hard_link(&old, &new).is_err() {
            // Another file system, or another user's file (proc_sys_fs(5), `protected_hardlinks`).
            fs::copy(&old, &new)?;
        }
    }
    Ok(())
}

/// Puts a folder at its place; what lies there is there until then, and is removed.
///
/// # Errors
/// As the file system says; one of both lies there then.
pub fn put_folder(new: &Path, place: &Path) -> io::Result<()> {
    if !place.exists() {
        return fs::rename(new, place);
    }
    match rustix::fs::renameat_with(CWD, new, CWD, place, RenameFlags::EXCHANGE) {
        Ok(()) => remove_folder(new),
        // A file system that cannot exchange two.
        Err(_) => remove_folder(place).and_then(|()| fs::rename(new, place)),
    }
}

/// Removes a folder and all that is in it, where it is there.
///
/// # Errors
/// As the file system says.
pub fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// A name that no other process and no other thread uses now.
fn beside(path: &Path) -> PathBuf {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed)));
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use bramble_testing::{as_root, given, not_given};

    use super::*;

    #[test]
    fn what_somebody_put_in_the_place_of_a_file_is_not_waited_for_and_not_followed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), [7; 8]).expect("written");
        assert_eq!(read_regular(&at("file"), 8).expect("a file"), [7; 8]);
        read_regular(&at("file"), 7).expect_err("a longer one");
        std::os::unix::fs::symlink("/dev/zero", at("link")).expect("linked");
        rustix::fs::mknodat(CWD, at("fifo"), FileType::Fifo, Mode::RUSR, 0).expect("made");
        fs::create_dir(at("folder")).expect("made");
        for name in ["link", "fifo", "folder"] {
            read_regular(&at(name), 8).expect_err(name);
        }
        assert_eq!(read_regular(&at("none"), 8).expect_err("nothing").kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn two_threads_that_replace_one_file_leave_one_of_both() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("current");
        std::thread::scope(|scope| {
            for writer in 0..4_u8 {
                let path = &path;
                scope.spawn(move || (0..50).for_each(|_| replace(path, &[writer; 8]).expect("replaced")));
            }
        });
        let kept = fs::read(&path).expect("there");
        assert!(kept.len() == 8 && kept.iter().all(|byte| *byte == kept[0]), "whole: {kept:?}");
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1, "nothing is left beside it");
    }

    #[test]
    fn what_root_makes_belongs_to_the_owner_of_the_folder() {
        if !as_root("files::tests::what_root_makes_belongs_to_the_owner_of_the_folder") {
            return;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        given(folder.path());
        let at = |path: &str| folder.path().join(path);
        make_folder(&at("state/keys")).expect("made");
        make_folder(&at("state/keys")).expect("made twice");
        replace_secret(&at("state/keys/ca.key"), b"secret").expect("written");
        make_secret(&at("state/head.redb")).expect("made");
        make_secret_folder(&at("state/secrets")).expect("made");
        replace_program(&at("state/program"), b"").expect("written");
        let listener = std::os::unix::net::UnixListener::bind(at("state/head.sock")).expect("bound");
        give_socket(&at("state/head.sock"), &at("state")).expect("given");
        drop(listener);
        make_link("/nowhere", &at("state/link")).expect("made");
        fs::create_dir_all(at("state/other/below")).expect("made by another program");
        fs::write(at("state/other/below/file"), b"").expect("made by another program");
        give_all_below(&at("state"));
        let roots = not_given(folder.path());
        assert!(roots.is_empty(), "{roots:?}");
        let mode = |path: &str| fs::metadata(at(path)).expect("there").mode() & 0o777;
        assert_eq!(mode("state/head.redb"), 0o600);
        assert_eq!((mode("state/secrets"), mode("state/program")), (0o700, 0o700));
    }

    #[test]
    fn nothing_is_given_away_through_a_link_that_was_put_there() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = |path: &str| folder.path().join(path);
        fs::write(at("precious"), b"root's").expect("written");
        let new = beside(&at("state"));
        std::os::unix::fs::symlink(at("precious"), &new).expect("linked");
        replace(&at("state"), b"new").expect("written");
        assert_eq!(fs::read(at("precious")).expect("there"), b"root's");
        std::os::unix::fs::symlink(at("precious"), at("socket")).expect("linked");
        give_socket(&at("socket"), folder.path()).expect_err("a link is no socket");
        give_socket(&at("precious"), folder.path()).expect_err("a file is no socket");
        fs::create_dir(at("open")).expect("made");
        std::os::unix::fs::symlink(at("open"), at("folder")).expect("linked");
        let before = fs::metadata(at("open")).expect("there").mode();
        make_secret_folder(&at("folder")).expect_err("a link is no folder");
        assert_eq!(fs::metadata(at("open")).expect("there").mode(), before);
    }

    #[test]
    fn a_failed_replacement_keeps_the_old_content() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("state");
        replace(&path, b"old").expect("written");
        let blocked = folder.path().join("state").join("below-a-file");
        replace(&blocked, b"new").expect_err("a file is no folder");
        assert_eq!(fs::read(&path).expect("there"), b"old");
        assert_eq!(fs::read_dir(folder.path()).expect("there").count(), 1, "nothing is left beside it");
    }
}
