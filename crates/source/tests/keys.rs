//! The folder of a source, its keys, and what git is told in it.

mod world;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use bramble_source::{Keys, Source};

use world::{Repository, World};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o7777
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn who_asks_for_keys_makes_folders_and_touches_nothing_that_git_is_told() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    Keys::open(folder.path()).expect("opened");
    assert_eq!(names(folder.path()), ["home", "hosts", "key"].map(str::to_owned).into());
    // A fetch that has the lock is told other things than this process would write.
    let fetching = Source::open(folder.path()).expect("opened");
    for told in ["ssh", "askpass", "gitconfig"] {
        fs::write(folder.path().join(told), "of the one that fetches").expect("written");
    }
    Keys::open(folder.path()).expect("opened").deploy_key().expect("made");
    for told in ["ssh", "askpass", "gitconfig"] {
        let left = fs::read_to_string(folder.path().join(told)).expect("there");
        assert_eq!(left, "of the one that fetches", "{told}");
    }
    drop(fetching);
}

#[test]
fn what_git_is_told_is_for_its_owner_alone_and_can_be_run_whatever_became_of_it() {
    let repository = Repository::new();
    let World { folder, source, settings, limits } = World::at(&repository);
    drop(source);
    let root = folder.path().join(world::FOLDER);
    let modes =
        [("ssh", 0o700), ("askpass", 0o700), ("gitconfig", 0o600), ("key", 0o700), ("hosts", 0o700), ("home", 0o700)];
    for changed in [0o644, 0o755, 0o777] {
        for (name, _) in modes {
            fs::set_permissions(root.join(name), fs::Permissions::from_mode(changed)).expect("changed");
        }
        let source = Source::open(&root).expect("opened");
        for (name, right) in modes {
            assert_eq!(mode(&root.join(name)), right, "{name} was {changed:o}");
        }
        source.fetch(&settings, limits, &bramble_system::Cancel::default()).expect("fetched");
    }
    // Folders are set right by whoever asks for a key, too.
    fs::set_permissions(root.join("key"), fs::Permissions::from_mode(0o755)).expect("changed");
    Keys::open(&root).expect("opened");
    assert_eq!(mode(&root.join("key")), 0o700);
}
