//! The keys with which a head gets into a private repository, and by which it knows the repository's server.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use bramble_system::{Cancel, files};

use crate::absolute;
use crate::git::{Git, Layout};
use crate::problem::Problem;
use crate::settings::{Limits, Settings};
use crate::ssh;

/// How the folder is called in which a deploy key is made.
const NEW: &str = "new-";

/// The keys of a folder: its own, and those of servers. They can be had while the repository beside them is being
/// fetched, by another process too.
#[derive(Debug)]
pub struct Keys {
    layout: Layout,
}

impl Keys {
    /// The keys of the folder that [`crate::Source::open`] takes, which is made if it is missing.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn open(folder: &Path) -> Result<Keys, Problem> {
        let layout = Layout::new(&absolute(folder)?);
        layout.make()?;
        Ok(Keys { layout })
    }

    /// The public half of this folder's deploy key, which is made if there is none.
    ///
    /// # Errors
    /// When `ssh-keygen` is missing, or the folder cannot be written.
    pub fn deploy_key(&self) -> Result<String, Problem> {
        let key = deploy_key(&self.layout);
        // What ssh-keygen made as root belongs to the folder's owner.
        files::give_all_below(&self.layout.keys());
        key
    }

    /// Where the private half of the deploy key lies, for [`crate::Credentials::DeployKey`].
    pub fn deploy_key_file(&self) -> PathBuf {
        self.layout.key()
    }

    /// The fingerprint of the server's host key, once one is pinned.
    ///
    /// # Errors
    /// When the file with it cannot be read.
    pub fn host_key(&self, settings: &Settings) -> Result<Option<String>, Problem> {
        let cancel = Cancel::default();
        ssh::host_key(&Git::new(&self.layout, Limits::default(), &cancel), settings)
    }

    /// Forgets the server's host key: the next fetch pins the one that it finds.
    ///
    /// # Errors
    /// When the file with it cannot be removed.
    pub fn forget_host_key(&self, settings: &Settings) -> Result<(), Problem> {
        ssh::forget(&self.layout, settings)
    }
}

/// The public half of the deploy key in this folder, made if there is none.
fn deploy_key(layout: &Layout) -> Result<String, Problem> {
    let private = layout.key();
    let public = private.with_extension("pub");
    let (cancel, limits) = (Cancel::default(), Limits::default());
    let git = Git::new(layout, limits, &cancel);
    let doing = "make a deploy key";
    if !private.exists() {
        // Made in a folder of its own, and linked where there is none: half a key is never the key, and of all that are
        // made at once one is.
        let keys = layout.keys();
        // As long as someone has this lock, nobody removes what is being made.
        let making = File::open(&keys).and_then(|making| making.lock_shared().map(|()| making));
        let _making = making.map_err(Problem::file("lock", &keys))?;
        let beside = tempfile::Builder::new().prefix(NEW).tempdir_in(&keys);
        let beside = beside.map_err(Problem::file("make a folder in", &keys))?;
        let new = beside.path().join("key");
        let keygen = git.program("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "bramble", "-f"]).arg(&new);
        keygen.run().map_err(|error| Problem::program(doing, error))?;
        publish(&new, &private).map_err(Problem::file("write", &private))?;
    }
    let derived = git.program("ssh-keygen").args(["-y", "-f"]).arg(&private).run();
    let line = derived.map_err(|error| Problem::program(doing, error))?.text();
    files::replace(&public, format!("{line}\n").as_bytes()).map_err(Problem::file("write", &public))?;
    Ok(line)
}

/// Removes what a process left that was killed while it made the key, unless another one makes it now.
pub(crate) fn sweep(layout: &Layout) -> Result<(), Problem> {
    let keys = layout.keys();
    let remove = || {
        let alone = File::open(&keys)?;
        if alone.try_lock().is_err() {
            return Ok(());
        }
        for entry in fs::read_dir(&keys)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(NEW) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    };
    remove().map_err(Problem::file("clean", &keys))
}

/// Gives a file that is complete a name that stays whose it is, where somebody else was first.
fn publish(new: &Path, name: &Path) -> std::io::Result<()> {
    File::open(new)?.sync_all()?;
    match fs::hard_link(new, name) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => files::sync_folder(name),
    }
}
