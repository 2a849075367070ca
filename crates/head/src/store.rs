//! The head's store, in the folder of its state. What is in it lies beside its owners: here is only where it is.

use std::io;
use std::path::Path;

use bramble_store::{Millis, Store};
use bramble_system::{files, now};

use crate::ca;
use crate::error::Error;

/// The store's file in the state folder.
pub const STORE: &str = "head.redb";

/// Opens the store, or makes it.
///
/// # Errors
/// When another process uses it, a newer bramble wrote it, or it is damaged.
pub(crate) fn open(state: &Path) -> Result<Store, Error> {
    open_at(state, now())
}

fn open_at(state: &Path, now: Millis) -> Result<Store, Error> {
    let path = state.join(STORE);
    // A head that has served has written to its store. One that has not may have been ended just after it made the file.
    let is_empty = std::fs::metadata(&path).is_ok_and(|data| data.len() == 0);
    if is_empty && ca::has_had_a_store(&state.join("keys"))? {
        let source = Box::new(io::Error::other("it is empty, and a head has written to it"));
        return Err(bramble_store::Error::Database { path, source }.into());
    }
    // Passwords' hashes and tokens are in it. Where the disk takes no writes, the store says so itself.
    if let Err(error) = files::make_secret(&path) {
        tracing::warn!(path = %path.display(), %error, "whether others can read the store is not known");
    }
    Ok(Store::open(&path, now.max(ca::least_life(&state.join("keys"))))?)
}

/// What waits for the disk, beside what else is served.
pub(crate) async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::ca::Authority;

    #[tokio::test]
    async fn a_panic_beside_ends_whoever_waits_for_it() {
        let part = tokio::spawn(beside(|| panic!("as an error of bramble's own does")));
        assert!(part.await.is_err_and(|error| error.is_panic()));
    }

    #[test]
    fn nobody_else_reads_the_store() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(STORE);
        let mode = || fs::metadata(&path).expect("there").permissions().mode() & 0o777;
        drop(open(folder.path()).expect("made"));
        assert_eq!(mode(), 0o600, "a new one");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("opened to all");
        drop(open(folder.path()).expect("opened"));
        assert_eq!(mode(), 0o600, "one of an older bramble");
    }

    #[test]
    fn an_empty_file_is_a_damaged_store_where_a_head_has_had_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, keys) = (folder.path().join(STORE), folder.path().join("keys"));
        let empty = || fs::write(&path, "").expect("written");
        empty();
        drop(open(folder.path()).expect("without a CA, it is one that was just made"));
        Authority::open(&keys).expect("made");
        empty();
        drop(open(folder.path()).expect("this CA has had no store yet"));
        ca::has_store(&keys).expect("written");
        empty();
        let Err(error) = open(folder.path()) else { panic!("it was opened as a new one") };
        assert!(bramble_system::sentence(&error).contains("it is empty"), "{error}");
        assert!(error.help().is_some_and(|help| help.contains("aside")), "{error}");
        assert_eq!(fs::metadata(&path).expect("there").len(), 0, "nothing was written");
        fs::remove_file(&path).expect("moved aside");
        drop(open(folder.path()).expect("a person begins anew"));
    }

    /// Nodes with a data partition refused it, and waited for ever.
    #[test]
    fn a_new_store_beside_old_keys_begins_a_newer_life_whatever_the_clock_says() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, keys) = (folder.path().join(STORE), folder.path().join("keys"));
        let life =
            |clock| open_at(folder.path(), clock).and_then(|store| Ok(store.blocking().life()?)).expect("opened");
        let first = life(now());
        Authority::open(&keys).expect("made");
        let stopped = 5;
        fs::remove_file(&path).expect("moved aside");
        let second = life(stopped);
        assert!(second > first, "before the first life of its CA: {second}, {first}");
        ca::keep_life(&keys, first + 1_000_000);
        assert_eq!(life(stopped), second, "one that is there is what it was");
        fs::remove_file(&path).expect("moved aside");
        assert_eq!(life(stopped), first + 1_000_001);
        ca::keep_life(&keys, second);
        fs::remove_file(&path).expect("moved aside");
        assert_eq!(life(stopped), first + 1_000_001, "an older one takes nothing back");
        fs::remove_file(&path).expect("moved aside");
        fs::write(keys.join("life"), "half").expect("written");
        assert_eq!(life(stopped), second, "what it was is lost, and not the time of the CA");
        fs::remove_file(&path).expect("moved aside");
        assert_eq!(life(first + 9_000_000), first + 9_000_000, "the clock is right");
    }
}
