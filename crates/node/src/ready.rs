//! The boot sets that this machine was ready with, as stage 1 of a later boot asks: those always boot, however long ago they
//! were signed ([`bramble_boot::Statement::may_boot`]). A machine without a data partition remembers them until it is
//! switched off, and its head for it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bramble_boot::READY_FOLDER;
use bramble_system::files;

/// How many are remembered.
const MOST: usize = 16;

pub(crate) struct Ready {
    folder: PathBuf,
    /// The digest of the set that runs.
    set: String,
}

impl Ready {
    /// In the agent's own folder.
    pub(crate) fn with(set: &str, agent: &Path) -> Self {
        Ready { folder: agent.join(READY_FOLDER), set: set.to_owned() }
    }

    /// The head has seen this machine ready.
    pub(crate) fn remember(&self) {
        if let Err(error) = self.keep() {
            tracing::warn!(%error, "that this boot set was ready is not remembered");
        }
    }

    fn keep(&self) -> io::Result<()> {
        // It comes from the kernel's command line.
        if self.set.len() != 64 || !self.set.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(io::Error::other("what runs is no boot set"));
        }
        fs::create_dir_all(&self.folder)?;
        files::replace(&self.folder.join(&self.set), b"")?;
        let when = |entry: &fs::DirEntry| entry.metadata().and_then(|data| data.modified());
        let entries = fs::read_dir(&self.folder)?.collect::<io::Result<Vec<_>>>()?;
        let mut former: Vec<(SystemTime, PathBuf)> = entries
            .into_iter()
            .filter(|entry| entry.file_name() != *self.set)
            .map(|entry| (when(&entry).unwrap_or(SystemTime::UNIX_EPOCH), entry.path()))
            .collect();
        former.sort();
        let too_many = (former.len() + 1).saturating_sub(MOST);
        for (_, path) in &former[..too_many] {
            fs::remove_file(path)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_sets_are_remembered_and_the_one_that_runs_always() {
        let agent = tempfile::tempdir().expect("a folder");
        let set = |number: usize| format!("{number:064x}");
        let folder = agent.path().join(READY_FOLDER);
        for number in 0..MOST + 3 {
            Ready::with(&set(number), agent.path()).remember();
            assert!(folder.join(set(number)).is_file());
        }
        // One that was ready long ago is ready again, and the clock was reset.
        let first = folder.join(set(5));
        let long_ago = SystemTime::UNIX_EPOCH;
        fs::File::options().write(true).open(&first).and_then(|file| file.set_modified(long_ago)).expect("set");
        Ready::with(&set(5), agent.path()).remember();
        assert!(first.is_file());
        assert_eq!(fs::read_dir(&folder).expect("a folder").count(), MOST);
        Ready::with("../../etc", agent.path()).remember();
        assert_eq!(fs::read_dir(&folder).expect("a folder").count(), MOST, "nothing lands elsewhere");
    }
}
