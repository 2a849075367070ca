//! The folder of a source, its keys, and what git is told in it.

mod world;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Barrier;
use std::thread;

use bramble_source::{Keys, Source};

use world::{Repository, World, run};

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
    let World { folder, source, settings, limits, .. } = World::at(&repository);
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

#[test]
fn a_deploy_key_that_many_make_at_once_is_one_and_whole() {
    const MAKERS: usize = 8;
    for round in 0..5 {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let together = Barrier::new(MAKERS);
        let made: Vec<String> = thread::scope(|scope| {
            let make = || {
                let keys = Keys::open(folder.path()).expect("opened");
                together.wait();
                keys.deploy_key().expect("made, or there")
            };
            let makers: Vec<_> = (0..MAKERS).map(|_| scope.spawn(make)).collect();
            makers.into_iter().map(|maker| maker.join().expect("it ends well")).collect()
        });
        let folder = folder.path().join("key");
        let private = folder.join("id_ed25519").display().to_string();
        let public = run(&folder, "ssh-keygen", &["-y", "-f", &private]);
        assert!(made.iter().all(|made| *made == public), "round {round}: {made:?} of {public}");
        assert_eq!(fs::read_to_string(folder.join("id_ed25519.pub")).expect("there").trim_end(), public);
        assert_eq!(names(&folder), ["id_ed25519", "id_ed25519.pub"].map(str::to_owned).into());
        assert_eq!(mode(&folder.join("id_ed25519")), 0o600);
    }
}

#[test]
fn what_a_process_left_that_was_killed_while_it_made_the_key_goes_unless_one_is_made() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let keys = Keys::open(folder.path()).expect("opened");
    let left = folder.path().join("key/new-x");
    fs::create_dir(&left).expect("made");
    fs::write(left.join("key"), "half of one").expect("written");
    let source = Source::open(folder.path()).expect("opened");
    let making = File::open(folder.path().join("key")).expect("opened");
    making.lock_shared().expect("as who makes a key");
    source.clean().expect("cleaned");
    assert!(left.exists(), "another process makes a key");
    making.unlock().expect("made");
    source.clean().expect("cleaned");
    assert!(!left.exists());
    keys.deploy_key().expect("made");
    source.clean().expect("cleaned");
    assert_eq!(names(&folder.path().join("key")), ["id_ed25519", "id_ed25519.pub"].map(str::to_owned).into());
}
