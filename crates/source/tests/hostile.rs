//! Repositories that mean harm, or are too much, and commits that the wrong one signed.

mod world;

use std::fs;
use std::path::Path;
use std::time::Duration;

use bramble_model::source::Signer;
use bramble_source::{Entry, Problem};

use world::{Repository, World, run, trap};

#[test]
fn nothing_in_a_repository_is_run() {
    let repository = Repository::new();
    let elsewhere = tempfile::tempdir().expect("a temporary folder");
    let (program, mark) = trap(elsewhere.path());
    let program = program.display().to_string();
    repository.write(".gitattributes", "* filter=evil diff=evil export-ignore ident\n");
    repository.write(".gitmodules", "[submodule \"x\"]\n\tpath = x\n\turl = ../x\n\tupdate = none\n");
    repository.write("hooks/post-checkout", "#!/bin/sh\n");
    repository.write("config", format!("[core]\n\tfsmonitor = {program}\n"));
    let commit = repository.commit("a", "$Id$\n");
    // The configuration of the repository itself, which is read where it lies.
    for key in ["filter.evil.smudge", "filter.evil.clean", "diff.evil.textconv", "core.fsmonitor", "core.sshCommand"] {
        repository.git(&["config", key, &program]);
    }
    repository.git(&["config", "uploadpack.packObjectsHook", &program]);
    for hook in ["post-checkout", "reference-transaction", "pre-auto-gc", "post-index-change"] {
        fs::copy(&program, repository.path().join(".git/hooks").join(hook)).expect("copied");
    }
    let world = World::at(&repository);
    let head = world.fetch().expect("fetched");
    assert_eq!(head.commit.as_str(), commit);
    let (into, exported) = world.export(&head);
    assert_eq!(exported.expect("exported").refused, []);
    assert_eq!(
        fs::read(into.join("a")).expect("there"),
        b"$Id$\n",
        "as it lies in the repository, no attribute heeded"
    );
    assert!(!mark.exists(), "a program of the repository was run");
}

#[test]
fn links_are_given_as_they_are_written() {
    let repository = Repository::new();
    let links = [
        ("inside", "bramble.toml"),
        ("deep/inside", "../bramble.toml"),
        ("deep/out", "../../etc/passwd"),
        ("absolute", "/etc/passwd"),
        ("up", ".."),
        ("winding", "deep/../../x"),
    ];
    fs::create_dir(repository.path().join("deep")).expect("made");
    for (path, target) in links {
        std::os::unix::fs::symlink(target, repository.path().join(path)).expect("linked");
    }
    repository.commit("z", "");
    let world = World::at(&repository);
    let files = world.files(&world.fetch().expect("fetched")).expect("read");
    assert_eq!(files.refused, []);
    for (path, target) in links {
        assert_eq!(files.entries[path], Entry::Link { target: target.into() }, "{path}");
    }
}

#[test]
fn a_followed_folder_is_no_link_and_nothing_below_a_link_is_read() {
    let repository = Repository::new();
    fs::create_dir(repository.path().join("home")).expect("made");
    std::os::unix::fs::symlink("..", repository.path().join("home/link")).expect("linked");
    std::os::unix::fs::symlink("home", repository.path().join("alias")).expect("linked");
    repository.commit("home/z", "");
    let mut world = World::at(&repository);
    world.settings.path = "home".parse().expect("a folder");
    let files = world.files(&world.fetch().expect("fetched")).expect("read");
    assert_eq!(files.entries.keys().collect::<Vec<_>>(), ["link", "z"]);
    world.settings.path = "alias".parse().expect("a folder");
    assert!(matches!(world.fetch(), Err(Problem::PathIsLink { .. })));
}

#[test]
fn a_submodule_is_listed_and_a_path_in_it_is_named() {
    let repository = Repository::new();
    let commit = repository.head();
    repository.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{commit},modules/other")]);
    repository.git(&["commit", "-q", "-m", "A submodule"]);
    let mut world = World::at(&repository);
    let (_, exported) = world.export(&world.fetch().expect("fetched"));
    assert_eq!(exported.expect("exported").submodules, ["modules/other"]);
    world.settings.path = "modules/other/deep".parse().expect("a folder");
    let problem = world.fetch().expect_err("it lies in a submodule");
    assert!(matches!(&problem, Problem::Submodule { submodule, .. } if submodule == "modules/other"), "{problem}");
}

#[test]
fn odd_names_are_files_or_refused() {
    let repository = Repository::new();
    for name in ["-rf", "--help", "a b", ".gitkeep", "ü"] {
        repository.write(name, name);
    }
    repository.write("line\nbreak", "");
    repository.write("back\\slash", "");
    repository.commit("z", "");
    let blob = repository.blob("not UTF-8");
    let mut lines = Vec::new();
    for line in repository.git(&["ls-tree", "-z", "HEAD"]).split('\0').filter(|line| !line.is_empty()) {
        lines.extend_from_slice(line.as_bytes());
        lines.push(0);
    }
    lines.extend_from_slice(format!("100644 blob {blob}\t").as_bytes());
    lines.extend_from_slice(b"\xff\xfe\0");
    repository.commit_tree(&lines);
    let world = World::at(&repository);
    let (into, exported) = world.export(&world.fetch().expect("fetched"));
    let mut refused: Vec<String> =
        exported.expect("exported").refused.into_iter().map(|refused| refused.path).collect();
    refused.sort();
    assert_eq!(refused, ["back\\slash", "line\u{fffd}break", "\u{fffd}\u{fffd}"]);
    for name in ["-rf", "--help", "a b", ".gitkeep", "ü"] {
        assert_eq!(fs::read(into.join(name)).expect("there"), name.as_bytes());
    }
}

#[test]
fn trees_that_lead_elsewhere_are_not_even_fetched() {
    for name in ["..", ".git", ".GIT"] {
        let repository = Repository::new();
        let blob = repository.blob("x");
        let inner = format!("100644 blob {blob}\tconfig\0");
        let inner = repository.commit_tree(inner.as_bytes());
        let tree = repository.git(&["rev-parse", &format!("{inner}^{{tree}}")]);
        repository.commit_tree(format!("040000 tree {tree}\t{name}\0").as_bytes());
        let world = World::at(&repository);
        let problem = world.fetch().expect_err("git refuses it");
        assert!(matches!(problem, Problem::Damaged { .. }), "{name}: {problem}");
        assert!(world.fetch().is_err(), "{name}: and again");
    }
}

#[test]
fn a_repository_larger_than_the_limit_is_stopped_and_leaves_room() {
    let repository = Repository::new();
    let mut world = World::at(&repository);
    let before = world.fetch().expect("fetched");
    let noise: Vec<u8> =
        (0..4_000_000_u64).flat_map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32).to_le_bytes()).collect();
    repository.commit("large", noise);
    world.limits.repository = 4 << 20;
    let problem = world.fetch().expect_err("too large");
    assert!(matches!(problem, Problem::TooLarge { .. }), "{problem}");
    assert!(bramble_system::files::size(&world.repository()) < 4 << 20, "what was fetched of it is still there");
    assert_eq!(world.descends(&before.commit, &before.commit), Some(true), "what was fetched before is still there");
    repository.git(&["reset", "-q", "--hard", before.commit.as_str()]);
    assert_eq!(world.fetch().expect("fetched").commit, before.commit);
}

#[test]
fn what_is_read_has_its_limits() {
    let repository = Repository::new();
    repository.write("b", vec![0; 2000]);
    repository.commit("c", vec![1; 3000]);
    let mut world = World::at(&repository);
    let head = world.fetch().expect("fetched");
    let limits = world.limits;
    let export = |world: &World| world.export(&head).1.expect_err("over a limit");
    let most = std::mem::replace(&mut world.most, 2);
    assert!(matches!(export(&world), Problem::TooManyFiles { most: 2 }));
    world.most = most;
    world.limits.file = 2500;
    assert!(matches!(export(&world), Problem::FileTooLarge { size: 3000, .. }));
    world.limits.file = 4000;
    world.limits.all = 4999;
    assert!(matches!(export(&world), Problem::FilesTooLarge { .. }));
    world.limits = limits;
    assert_eq!(world.export(&head).1.expect("exported").entries.len(), 3);
}

#[test]
fn a_tree_that_unfolds_without_end_is_stopped() {
    let repository = Repository::new();
    let blob = repository.blob("x");
    let mut lines: String = (0..10).map(|n| format!("100644 blob {blob}\tf{n}\0")).collect();
    for _ in 0..10 {
        let commit = repository.commit_tree(lines.as_bytes());
        let tree = repository.git(&["rev-parse", &format!("{commit}^{{tree}}")]);
        lines = (0..10).map(|n| format!("040000 tree {tree}\td{n}\0")).collect();
    }
    repository.commit_tree(lines.as_bytes());
    let mut world = World::at(&repository);
    let head = world.fetch().expect("its objects are few");
    world.limits.time = Duration::from_secs(20);
    let problem = world.export(&head).1.expect_err("a hundred thousand million files");
    assert!(matches!(problem, Problem::TooManyFiles { .. } | Problem::TimeOver { .. }), "{problem}");
}

/// Makes an SSH key in this folder, and gives its public half.
fn ssh_key(folder: &Path, name: &str) -> Signer {
    run(folder, "ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", name, "-f", name]);
    fs::read_to_string(folder.join(name).with_extension("pub")).expect("there").parse().expect("a key")
}

#[test]
fn a_commit_counts_where_one_of_the_ssh_signers_signed_it() {
    let repository = Repository::new();
    let keys = tempfile::tempdir().expect("a temporary folder");
    let (ada, eve) = (ssh_key(keys.path(), "ada"), ssh_key(keys.path(), "eve"));
    let mut world = World::at(&repository);
    world.settings.signers = vec![ada.clone()];
    assert!(matches!(world.fetch(), Err(Problem::Unsigned { .. })));
    repository.git(&["config", "gpg.format", "ssh"]);
    repository.git(&["config", "commit.gpgsign", "true"]);
    repository.git(&["config", "user.signingkey", &keys.path().join("eve").display().to_string()]);
    repository.commit("a", "1");
    assert!(matches!(world.fetch(), Err(Problem::StrangeSigner { .. })));
    world.settings.signers = vec![ada.clone(), eve];
    let Some(Signer::Ssh { key }) = world.settings.signers.last().cloned() else { panic!("an SSH key") };
    assert_eq!(world.fetch().expect("fetched").signed_by, Some(key));
    // Signed once, and changed afterwards.
    let object = repository.git(&["cat-file", "commit", "HEAD"]).replace("Change a", "Change b") + "\n";
    let file = repository.path().join(".git/forged");
    fs::write(&file, object).expect("written");
    let forged = repository.git(&["hash-object", "-t", "commit", "-w", "--", ".git/forged"]);
    repository.git(&["update-ref", "refs/heads/main", &forged]);
    assert!(matches!(world.fetch(), Err(Problem::StrangeSigner { .. })));
}

#[test]
fn a_commit_counts_where_one_of_the_gpg_signers_signed_it() {
    let repository = Repository::new();
    let home = tempfile::tempdir().expect("a temporary folder");
    let place = home.path().display().to_string();
    run(home.path(), "chmod", &["700", &place]);
    let gpg = |args: &[&str]| run(home.path(), "gpg", &[&["--homedir", &place, "--batch", "--quiet"], args].concat());
    let new = |who: &str| {
        gpg(&["--passphrase", "", "--quick-generate-key", who, "ed25519", "sign", "never"]);
        let signer: Signer = gpg(&["--armor", "--export", who]).parse().expect("a key");
        signer
    };
    let (ada, eve) = (new("ada@example.org"), new("eve@example.org"));
    let wrapper = home.path().join("gpg-here");
    fs::write(&wrapper, format!("#!/bin/sh\nexec gpg --homedir {place} \"$@\"\n")).expect("written");
    run(home.path(), "chmod", &["+x", "gpg-here"]);
    repository.git(&["config", "gpg.program", &wrapper.display().to_string()]);
    repository.git(&["config", "commit.gpgsign", "true"]);
    repository.git(&["config", "user.signingkey", "eve@example.org"]);
    repository.commit("a", "1");
    let mut world = World::at(&repository);
    world.settings.signers = vec![ada.clone()];
    assert!(matches!(world.fetch(), Err(Problem::StrangeSigner { .. })));
    world.settings.signers = vec![ada, ssh_key(home.path(), "ssh"), eve];
    let signed_by = world.fetch().expect("fetched").signed_by.expect("signed");
    assert!(gpg(&["--with-colons", "--fingerprint", "eve@example.org"]).contains(&signed_by), "{signed_by}");
    world.settings.signers = vec!["-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nnonsense".parse().expect("looks like one")];
    assert!(matches!(world.fetch(), Err(Problem::SignerUnreadable { .. })));
    run(home.path(), "gpgconf", &["--homedir", &place, "--kill", "all"]);
}
