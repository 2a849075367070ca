//! The keys with which a head gets into a private repository, and by which it knows the repository's server.

use std::path::{Path, PathBuf};

use bramble_system::Cancel;
use bramble_system::files::give_all_below;

use crate::absolute;
use crate::git::{Git, Layout};
use crate::problem::Problem;
use crate::settings::{Limits, Settings};
use crate::ssh;

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
        self.layout.key().parent().into_iter().for_each(give_all_below);
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
        // Made beside and moved, so that half a key is never the key.
        let new = private.with_extension("new");
        for stale in [new.clone(), private.with_extension("new.pub")] {
            if stale.exists() {
                std::fs::remove_file(&stale).map_err(Problem::file("remove", &stale))?;
            }
        }
        let keygen = git.program("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "bramble", "-f"]).arg(&new);
        keygen.run().map_err(|error| Problem::program(doing, error))?;
        bramble_system::files::publish(&new, &private).map_err(Problem::file("write", &private))?;
        let _ = std::fs::remove_file(private.with_extension("new.pub"));
    }
    let derived = git.program("ssh-keygen").args(["-y", "-f"]).arg(&private).run();
    let line = derived.map_err(|error| Problem::program(doing, error))?.text();
    bramble_system::files::replace(&public, format!("{line}\n").as_bytes()).map_err(Problem::file("write", &public))?;
    Ok(line)
}
