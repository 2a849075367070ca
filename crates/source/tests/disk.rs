//! A disk of the head's own that is full.

mod world;

use std::fs;
use std::path::Path;

use bramble_source::Problem;
use bramble_testing::as_root;

use world::{Repository, World, noise, run};

fn is_of_the_disk(problem: &Problem, folder: &Path) -> bool {
    let full = |source: &std::io::Error| source.kind() == std::io::ErrorKind::StorageFull;
    matches!(problem, Problem::File { path, source, .. } if path == folder && full(source)) && problem.may_pass()
}

#[test]
fn a_full_disk_is_blamed_on_no_repository_and_passes() {
    if !as_root("a_full_disk_is_blamed_on_no_repository_and_passes") {
        return;
    }
    let place = tempfile::tempdir().expect("a temporary folder");
    let disk = &place.path().join("disk");
    std::fs::create_dir(disk).expect("a folder");
    let mount = |options: &str| {
        run(Path::new("/"), "mount", &["-t", "tmpfs", "-o", options, "tmpfs", &disk.display().to_string()])
    };
    mount("size=4m");
    let repository = Repository::new();
    let mut seed = 0x2545_f491_u64;
    let large = repository.commit("large", noise(&mut seed, 8 << 20));
    let world =
        World::below(tempfile::tempdir_in(disk).expect("a folder on it"), &repository.path().display().to_string());
    let folder = world.folder.path().join(world::FOLDER);
    // Too large for the rest of the disk, which has room again once it is given up.
    let problem = world.fetch().expect_err("the disk is too small");
    assert!(is_of_the_disk(&problem, &folder), "{problem:?}");
    assert!(bramble_system::files::size(&folder) < 1 << 20, "what was fetched of it is still there");
    mount("remount,size=64m");
    assert_eq!(world.fetch().expect("there is room").commit.as_str(), large);
    // Full of what somebody else wrote.
    let small = repository.commit("small", "");
    let eater = disk.join("eater");
    fs::write(&eater, vec![0; 64 << 20]).expect_err("the disk is full");
    let problem = world.fetch().expect_err("the disk is full");
    assert!(is_of_the_disk(&problem, &folder), "{problem:?}");
    fs::remove_file(&eater).expect("removed");
    assert_eq!(world.fetch().expect("there is room").commit.as_str(), small);
    // One that begins.
    fs::write(&eater, vec![0; 64 << 20]).expect_err("the disk is full");
    fs::remove_dir_all(world.repository()).expect("removed");
    fs::write(disk.join("more"), vec![0; 64 << 20]).expect_err("the disk is full");
    let problem = world.fetch().expect_err("the disk is full");
    assert!(is_of_the_disk(&problem, &folder), "{problem:?}");
}
