//! Boot sets: what goes wrong leaves nothing half, and the same inputs give the same bytes.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use bramble_tests::{Repository, program};
use serde_json::Value;

fn artifacts(repository: &Repository) -> Vec<Value> {
    let set: Value = serde_json::from_str(&repository.must(&["image", "inspect", "--json"])).expect("JSON");
    let manifest = &set["manifest"];
    let mut all = vec![manifest["kernel"].clone(), manifest["initrd"].clone()];
    all.extend(manifest["layers"].as_array().expect("layers").iter().cloned());
    all
}

#[test]
fn a_changed_overlay_changes_the_site_layer_only_and_old_sets_are_swept() {
    let repository = Repository::first_light();
    repository.must(&["image", "build"]);
    let before = artifacts(&repository);
    repository.must(&["image", "build"]);
    assert_eq!(artifacts(&repository), before, "nothing changed, nothing differs");
    fs::write(repository.path().join("overlay/etc/motd"), "changed\n").expect("written");
    let plan = repository.must(&["plan"]);
    assert!(plan.contains("build") && plan.contains("has changed"), "{plan}");
    repository.must(&["image", "build"]);
    let after = artifacts(&repository);
    assert_eq!(before[..3], after[..3], "kernel, initrd and root layer");
    assert_ne!(before[3], after[3], "site layer");
    assert_eq!(repository.must(&["image", "ls"]).lines().count(), 3);
    repository.must(&["image", "gc", "--keep", "0"]);
    assert_eq!(repository.must(&["image", "ls"]).lines().count(), 2);
    assert_eq!(artifacts(&repository), after);
}

#[test]
fn a_package_that_does_not_exist_is_named_and_nothing_is_lost() {
    let repository = Repository::first_light();
    repository.must(&["image", "build"]);
    let before = artifacts(&repository);
    repository.edit(|text| text.replace("[image]", "[image]\npackages = [\"no-such-package\"]"));
    let output = repository.run(&["image", "build"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(told.contains("has no package `no-such-package`"), "{told}");
    assert_eq!(artifacts(&repository), before);
}

#[test]
fn an_interrupted_build_leaves_nothing_and_the_next_one_works() {
    let repository = Repository::first_light();
    let cache = tempfile::tempdir().expect("a temporary folder");
    let mut build = Command::new(program("bramble"))
        .args(["image", "build"])
        .env("XDG_CACHE_HOME", cache.path())
        .current_dir(repository.path())
        .stderr(Stdio::piped())
        .spawn()
        .expect("bramble starts");
    let mut told = BufReader::new(build.stderr.take().expect("a pipe"));
    let mut line = String::new();
    told.read_line(&mut line).expect("readable");
    assert!(line.contains("Debian"), "{line}");
    let interrupt = Command::new("kill").args(["-INT", &build.id().to_string()]).status().expect("kill starts");
    assert!(interrupt.success());
    let status = build.wait().expect("it ends");
    told.read_to_string(&mut line).expect("readable");
    assert_eq!(status.code(), Some(130), "{line}");
    let left: Vec<_> = fs::read_dir(cache.path().join("bramble/roots")).expect("a folder").flatten().collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(repository.run(&["image", "inspect"]).status.code(), Some(1), "no half boot set");
    repository.must(&["image", "build"]);
}

/// Takes minutes: run by `./dev soak`.
#[test]
#[ignore = "builds the root twice"]
fn an_image_built_twice_from_the_same_inputs_is_the_same_to_the_byte() {
    let repository = Repository::first_light();
    repository.must(&["image", "build", "--refresh"]);
    let first = artifacts(&repository);
    repository.must(&["image", "build", "--refresh"]);
    assert_eq!(artifacts(&repository), first);
}
