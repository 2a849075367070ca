//! A branch that is followed, over every way there is.

mod world;

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use bramble_source::{Content, Credentials, Entry, Problem, Source, descends};
use bramble_system::Cancel;

use bramble_tests::git_http::Http;
use bramble_tests::wait;
use world::{Repository, Sshd, World, noise};

#[test]
fn a_local_path_is_followed_and_its_files_are_exported() {
    let repository = Repository::new();
    repository.write("run.sh", "#!/bin/sh\n");
    world::run(repository.path(), "chmod", &["+x", "run.sh"]);
    repository.write("large", vec![7; 3 << 20]);
    let commit = repository.commit("workloads/web.yaml", "services: {}\n");
    let world = World::at(&repository);
    let head = world.fetch().expect("fetched");
    assert_eq!((head.commit.as_str(), head.author.as_str()), (commit.as_str(), "Ada <ada@example.org>"));
    assert_eq!((head.subject.as_str(), &head.signed_by), ("Change workloads/web.yaml", &None));
    let (into, exported) = world.export(&head);
    let exported = exported.expect("exported");
    assert_eq!((exported.entries.len(), exported.refused.len()), (4, 0), "{exported:?}");
    assert_eq!(fs::read(into.join("workloads/web.yaml")).expect("there"), b"services: {}\n");
    assert_eq!(fs::read(into.join("large")).expect("there"), vec![7; 3 << 20]);
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(into.join("run.sh")).expect("there").permissions());
    assert_eq!(mode & 0o100, 0o100);
}

#[test]
fn small_files_are_given_in_memory_and_large_ones_in_a_folder() {
    let repository = Repository::new();
    for (path, size) in [("in-memory", 64 << 10), ("written", (64 << 10) + 1), ("alone", (1 << 20) + 1)] {
        repository.write(path, vec![9; size]);
    }
    // The same content twice is read once.
    repository.write("again", vec![9; 64 << 10]);
    repository.write("empty", "");
    repository.commit("z", "");
    let world = World::at(&repository);
    let files = world.files(&world.fetch().expect("fetched")).expect("read");
    assert_eq!(files.bytes, 10 + 3 * (64 << 10) + 1 + (1 << 20) + 1);
    let content = |path: &str| match &files.entries[path] {
        Entry::File { content, executable: false } => content.clone(),
        other => panic!("{other:?}"),
    };
    for path in ["in-memory", "again"] {
        assert_eq!(content(path), Content::Bytes(vec![9; 64 << 10].into()));
    }
    assert_eq!(content("empty"), Content::Bytes([].into()));
    for (path, size) in [("written", (64 << 10) + 1), ("alone", (1 << 20) + 1)] {
        let Content::Written(file) = content(path) else { panic!("{path} is in memory") };
        assert_eq!(fs::read(file).expect("there"), vec![9; size], "{path}");
    }
    assert_eq!(fs::read_dir(world.folder.path().join("large")).expect("a folder").count(), 2);
}

#[test]
fn a_branch_is_called_as_git_lets_it_be_called() {
    let names = "main HEAD head x@ a@{1} a{b ann/x a..b a.b .x a/.x x. a./b x.lock x.lock/y x.LOCK x.locked a//b a/ /a -x a/-x a~ \
                 a^ a: a? a* a[ a\\b a\u{7f} ü refs/heads/main a+b a%b a#b a,b 'a \u{1}";
    for name in names.split(' ').chain(["a b", ""]) {
        let git =
            std::process::Command::new("git").args(["check-ref-format", "--branch", name]).output().expect("git runs");
        let ours = name.parse::<bramble_model::source::Branch>();
        assert_eq!(ours.is_ok(), git.status.success(), "{name:?}");
    }
}

#[test]
fn what_is_here_does_not_come_again() {
    let repository = Repository::new();
    let world = World::at(&repository);
    let first = world.fetch().expect("fetched");
    let packs = || {
        let pack = fs::read_dir(world.repository().join("objects/pack")).expect("there").flatten();
        pack.filter(|entry| entry.file_name().to_string_lossy().ends_with(".pack")).count()
    };
    assert_eq!((world.fetch().expect("fetched"), packs()), (first.clone(), 1));
    repository.commit("a", "1");
    world.fetch().expect("fetched");
    // Back to what only a former fetch has.
    repository.git(&["reset", "-q", "--hard", first.commit.as_str()]);
    assert_eq!((world.fetch().expect("fetched"), packs()), (first, 2));
}

#[test]
fn a_branch_that_stands_at_no_commit_is_named() {
    let repository = Repository::new();
    let world = World::at(&repository);
    let first = world.fetch().expect("fetched");
    let blob = repository.blob("no commit");
    fs::write(repository.path().join(".git/refs/heads/main"), format!("{blob}\n")).expect("written");
    let problem = world.fetch().expect_err("it is a file");
    assert!(matches!(problem, Problem::NotACommit { .. } | Problem::Damaged { .. }), "{problem}");
    assert_eq!(world.descends(&first.commit, &first.commit), Some(true), "what was fetched is still here");
    // A tag that came by the name of a branch is what it stands for.
    repository.git(&["update-ref", "-d", "refs/heads/main"]);
    let tag = ["tag", "-a", "-m", "a tag", "t", first.commit.as_str()];
    repository.git(&tag);
    let tag = repository.git(&["rev-parse", "refs/tags/t"]);
    fs::write(repository.path().join(".git/refs/heads/main"), format!("{tag}\n")).expect("written");
    assert_eq!(world.fetch().expect("fetched"), first);
}

#[test]
fn files_of_what_is_not_here_are_named() {
    let repository = Repository::new();
    let mut world = World::at(&repository);
    let head = world.fetch().expect("fetched");
    let commit = "1234567890123456789012345678901234567890".parse().expect("a name");
    let problem = world.files(&bramble_source::Head { commit, ..head.clone() }).expect_err("never fetched");
    assert!(matches!(problem, Problem::NotACommit { .. }), "{problem}");
    for missing in ["clusters/away", "bramble.toml"] {
        world.settings.path = missing.parse().expect("a folder");
        let problem = world.files(&head).expect_err("no such folder");
        assert!(matches!(problem, Problem::PathMissing { .. }), "{missing}: {problem}");
    }
}

#[test]
fn a_folder_inside_is_exported_alone_and_a_missing_one_is_named() {
    let repository = Repository::new();
    repository.commit("clusters/home/bramble.toml", "home\n");
    let mut world = World::at(&repository);
    world.settings.path = "clusters/home".parse().expect("a folder");
    let head = world.fetch().expect("fetched");
    let (into, exported) = world.export(&head);
    assert_eq!(exported.expect("exported").entries.len(), 1);
    assert_eq!(fs::read(into.join("bramble.toml")).expect("there"), b"home\n");
    for missing in ["clusters/away", "bramble.toml", "clusters/home/bramble.toml/x"] {
        world.settings.path = missing.parse().expect("a folder");
        assert!(matches!(world.fetch(), Err(Problem::PathMissing { .. })), "{missing}");
    }
}

#[test]
fn a_force_push_is_told_from_a_push() {
    let repository = Repository::new();
    let world = World::at(&repository);
    let first = world.fetch().expect("fetched");
    repository.commit("a", "1");
    let second = world.fetch().expect("fetched");
    assert_eq!(world.descends(&first.commit, &second.commit), Some(true));
    repository.git(&["reset", "-q", "--hard", first.commit.as_str()]);
    repository.commit("b", "2");
    let third = world.fetch().expect("fetched");
    assert_eq!(world.descends(&second.commit, &third.commit), Some(false), "the old one is still here");
    let stranger = "1234567890123456789012345678901234567890".parse().expect("a name");
    assert_eq!(world.descends(&stranger, &third.commit), Some(false), "it is no ancestor of what is here");
    assert_eq!(world.descends(&third.commit, &stranger), None);
    assert_eq!(descends(repository.path(), &first.commit, &second.commit).expect("none is asked"), None);
}

#[test]
fn a_branch_that_vanishes_and_comes_back_is_ordinary() {
    let repository = Repository::new();
    let world = World::at(&repository);
    let head = world.fetch().expect("fetched");
    repository.git(&["branch", "-q", "-m", "main", "other"]);
    let problem = world.fetch().expect_err("gone");
    assert!(matches!(&problem, Problem::BranchMissing { branch, .. } if branch == "main"), "{problem}");
    assert_eq!(world.descends(&head.commit, &head.commit), Some(true), "what was fetched is still here");
    repository.git(&["branch", "-q", "-m", "other", "main"]);
    assert_eq!(world.fetch().expect("fetched"), head);
}

#[test]
fn a_repository_that_is_away_is_away_and_one_that_is_none_is_none() {
    let repository = Repository::new();
    let gone = World::of(&repository.path().join("gone").display().to_string());
    assert!(matches!(gone.fetch(), Err(Problem::NoRepository { .. })));
    let empty = tempfile::tempdir().expect("a temporary folder");
    let empty = World::of(&empty.path().display().to_string());
    assert!(matches!(empty.fetch(), Err(Problem::NoRepository { .. })));
    let http = Http::serve(repository.path().parent().expect("it has one"), None);
    let port = http.port;
    drop(http);
    let away = World::of(&format!("http://127.0.0.1:{port}/x"));
    let problem = away.fetch().expect_err("away");
    assert!(matches!(problem, Problem::Away { .. }) && problem.may_pass(), "{problem}");
    // It lets one in, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("an address").port();
    let mut world = World::of(&format!("http://127.0.0.1:{port}/x"));
    world.limits.time = Duration::from_secs(1);
    let problem = world.fetch().expect_err("silent");
    assert!(matches!(&problem, Problem::Away { detail, .. } if detail == "no answer within 1 s"), "{problem}");
}

#[test]
fn ten_commits_in_a_second_end_at_the_last() {
    let repository = Repository::new();
    let world = World::at(&repository);
    let mut last = world.fetch().expect("fetched").commit;
    thread::scope(|scope| {
        let pushes = scope.spawn(|| (0..10).for_each(|n| drop(repository.commit("n", n.to_string()))));
        while !pushes.is_finished() {
            let head = world.fetch().expect("fetched");
            assert_eq!(world.descends(&last, &head.commit), Some(true));
            last = head.commit;
        }
    });
    let head = world.fetch().expect("fetched");
    assert_eq!(head.commit.as_str(), repository.head());
    let (into, exported) = world.export(&head);
    exported.expect("exported");
    assert_eq!(fs::read(into.join("n")).expect("there"), b"9");
}

#[test]
fn http_is_followed_and_what_it_answers_is_told_apart() {
    let repository = Repository::new();
    let http = Http::serve(repository.path(), None);
    let world = World::of(&http.url(".git"));
    let commit = repository.commit("a", "1");
    assert_eq!(world.fetch().expect("fetched").commit.as_str(), commit);
    let none = World::of(&http.url("nothing.git"));
    assert!(matches!(none.fetch(), Err(Problem::NoRepository { .. })));
    let says = |status: u16| {
        http.always.store(status, std::sync::atomic::Ordering::Relaxed);
        world.fetch().expect_err("it says no")
    };
    assert!(matches!(says(403), Problem::Refused { .. }));
    assert!(matches!(says(404), Problem::NoRepository { .. }));
    assert!(matches!(says(503), Problem::Away { .. }));
    assert!(matches!(says(429), Problem::Away { .. }));
}

#[test]
fn a_token_opens_a_private_repository_and_is_told_to_nobody() {
    let repository = Repository::new();
    // git:s3cret
    let http = Http::serve(repository.path(), Some("Basic Z2l0OnMzY3JldA=="));
    let mut world = World::of(&http.url(".git"));
    assert!(matches!(world.fetch(), Err(Problem::Refused { .. })));
    let token = world.folder.path().join("token");
    world.settings.credentials = Credentials::TokenFile(token.clone());
    assert!(matches!(world.fetch(), Err(Problem::TokenUnreadable { .. })));
    fs::write(&token, "wr0ng\n").expect("written");
    let problem = world.fetch().expect_err("the wrong one");
    assert!(matches!(problem, Problem::Refused { .. }), "{problem}");
    assert!(!format!("{problem} {problem:?}").contains("wr0ng"), "{problem:?}");
    fs::write(&token, "s3cret\n").expect("written");
    assert_eq!(world.fetch().expect("fetched").commit.as_str(), repository.head());
    http.always.store(302, std::sync::atomic::Ordering::Relaxed);
    let moved = world.fetch().expect_err("a token follows nobody");
    assert!(matches!(&moved, Problem::Moved { to, .. } if to.contains("elsewhere")), "{moved}");
    fs::remove_file(&token).expect("removed");
    let kept = std::process::Command::new("grep").args(["-rE", "s3cret|Z2l0OnMz"]).arg(world.folder.path()).output();
    assert_eq!(String::from_utf8_lossy(&kept.expect("grep runs").stdout), "", "the token lies in the folder");
}

/// GitLab's deploy tokens and Bitbucket's app passwords go with a name of their own.
#[test]
fn a_token_goes_with_the_name_in_front_of_it() {
    let repository = Repository::new();
    // gitlab+deploy-token-7:s3c:ret
    let http = Http::serve(repository.path(), Some("Basic Z2l0bGFiK2RlcGxveS10b2tlbi03OnMzYzpyZXQ="));
    let mut world = World::of(&http.url(".git"));
    let token = world.folder.path().join("token");
    world.settings.credentials = Credentials::TokenFile(token.clone());
    for other in ["s3c:ret\n", "git:s3c:ret\n", "gitlab+deploy-token-7:s3c\n"] {
        fs::write(&token, other).expect("written");
        assert!(matches!(world.fetch(), Err(Problem::Refused { .. })), "{other}");
    }
    // As editors write it: with another line, of another system, without an end.
    for end in ["\n", "\nanother line\n", "\r\n", ""] {
        fs::write(&token, format!("gitlab+deploy-token-7:s3c:ret{end}")).expect("written");
        assert_eq!(world.fetch().expect("fetched").commit.as_str(), repository.head(), "{end:?}");
    }
}

#[test]
fn ssh_lets_the_deploy_key_in_and_pins_the_host() {
    let repository = Repository::new();
    let mut sshd = Sshd::start();
    let mut world = World::of(&sshd.url(repository.path()));
    // While the repository beside them is in use.
    let keys = world.keys();
    world.settings.credentials = Credentials::DeployKey(keys.deploy_key_file());
    assert!(matches!(world.fetch(), Err(Problem::KeyMissing { .. })));
    let key = keys.deploy_key().expect("made");
    assert_eq!(keys.deploy_key().expect("there"), key, "it is made once");
    assert_eq!(keys.host_key(&world.settings).expect("readable"), None);
    let problem = world.fetch().expect_err("the server does not know the key");
    assert!(matches!(problem, Problem::Refused { .. }), "{problem}");
    sshd.allow(&key);
    assert_eq!(world.fetch().expect("fetched").commit.as_str(), repository.head());
    let pinned = keys.host_key(&world.settings).expect("readable").expect("pinned");
    assert!(pinned.starts_with("SHA256:"), "{pinned}");

    let none = format!("ssh://{}@127.0.0.1:{}/no/such/repository", Sshd::user(), sshd.port);
    let there = std::mem::replace(&mut world.settings.git, none.parse().expect("an address"));
    let problem = world.fetch().expect_err("there is none");
    assert!(matches!(problem, Problem::NoRepository { .. }), "{problem}");
    world.settings.git = there;

    sshd.new_host_key();
    let problem = world.fetch().expect_err("the key changed");
    assert!(matches!(&problem, Problem::HostKeyChanged { pinned: old, .. } if *old == pinned), "{problem}");
    keys.forget_host_key(&world.settings).expect("forgotten");
    world.fetch().expect("fetched");
    assert_ne!(keys.host_key(&world.settings).expect("readable").expect("pinned"), pinned);
    sshd.stop();
    let problem = world.fetch().expect_err("it is away");
    assert!(matches!(problem, Problem::Away { .. }), "{problem}");
}

#[test]
fn one_folder_has_one_process() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let first = Source::open(folder.path()).expect("opened");
    assert!(matches!(Source::open(folder.path()), Err(Problem::InUse { .. })));
    drop(first);
    Source::open(folder.path()).expect("free again");
}

#[test]
fn a_git_that_is_killed_at_any_moment_leaves_nothing_that_sticks() {
    let repository = Repository::new();
    let mut seed = 0x2545_f491_u64;
    let world = World::at(&repository);
    for round in 0..25 {
        repository.commit("noise", noise(&mut seed, 400_000));
        let cancel = Cancel::default();
        thread::scope(|scope| {
            let fetching = scope.spawn(|| world.source.fetch(&world.settings, world.limits, &cancel));
            let moment = Duration::from_micros(seed % 60_000);
            let start = Instant::now();
            while start.elapsed() < moment {
                thread::sleep(Duration::from_micros(200));
            }
            kill_children(&world.folder.path().display().to_string());
            let _ = fetching.join();
        });
        // What such a kill can leave, also where this one did not.
        let ours = world.repository();
        if round % 2 == 0 && ours.join("refs").is_dir() {
            // It may be one that was just being made.
            for folder in ["refs/bramble", "objects/pack"] {
                fs::create_dir_all(ours.join(folder)).expect("made");
            }
            for stale in ["refs/bramble/incoming.lock", "packed-refs.lock", "config.lock", "objects/pack/tmp_pack_x"] {
                fs::write(ours.join(stale), "").expect("written");
            }
        }
        assert_eq!(world.fetch().expect("fetched").commit.as_str(), repository.head(), "round {round}");
        assert!(!ours.join("objects/pack/tmp_pack_x").exists());
    }
}

/// What a fetch is told that a test starts in a process of its own, to kill that: the address, and a folder.
const TOLD: [&str; 2] = ["BRAMBLE_TEST_FETCH", "BRAMBLE_TEST_FOLDER"];

#[test]
#[ignore = "the process that another test kills"]
fn a_fetch_that_is_killed() {
    let [Ok(url), Ok(folder)] = TOLD.map(std::env::var) else { return };
    let folder = tempfile::tempdir_in(folder).expect("a folder");
    let mut world = World::below(folder, &url);
    world.limits.time = Duration::from_secs(1);
    let _ = world.fetch();
}

/// Where it says nothing at all git ends by what it is told of slow servers.
#[test]
fn git_does_not_outlive_a_killed_head_though_the_server_says_a_letter_now_and_then() {
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/home.git", server.local_addr().expect("an address"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut head = std::process::Command::new(std::env::current_exe().expect("it runs"));
    head.args(["--exact", "a_fetch_that_is_killed", "--ignored"]).stdout(std::process::Stdio::null());
    let mut head = head.env(TOLD[0], url).env(TOLD[1], folder.path()).spawn().expect("started");
    let (mut asking, _) = server.accept().expect("git asks");
    asking.write_all(b"HTTP/1.1 200 OK\r\nX-Slow: ").expect("it listens");
    head.kill().expect("killed");
    head.wait().expect("it ends");
    wait("git has ended", || asking.write_all(b"a").is_err());
}

#[test]
fn what_an_aborted_fetch_left_goes_before_the_next_one_too() {
    let repository = Repository::new();
    let world = World::at(&repository);
    let head = world.fetch().expect("fetched");
    let left = world.repository().join("objects/pack/tmp_pack_x");
    let before = world.repository().with_file_name("before.git");
    fs::write(&left, "").expect("written");
    fs::create_dir_all(before.join("objects/pack")).expect("made");
    world.source.clean().expect("cleaned");
    assert!(!left.exists() && !before.exists());
    assert_eq!(world.descends(&head.commit, &head.commit), Some(true), "what was fetched is still here");
}

#[test]
fn a_repository_of_ours_that_is_damaged_is_made_anew() {
    let repository = Repository::new();
    let world = World::at(&repository);
    world.fetch().expect("fetched");
    for damaged in ["HEAD", "refs/bramble/incoming", "config"] {
        fs::write(world.repository().join(damaged), "\0\0\0").expect("written");
        repository.commit("a", damaged);
        assert_eq!(world.fetch().expect("fetched").commit.as_str(), repository.head(), "{damaged}");
    }
    for pack in fs::read_dir(world.repository().join("objects/pack")).expect("there").flatten() {
        fs::remove_file(pack.path()).expect("removed");
    }
    repository.commit("a", "packs");
    assert_eq!(world.fetch().expect("fetched").commit.as_str(), repository.head());
}

#[test]
fn a_request_to_stop_stops() {
    let repository = Repository::new();
    let world = World::at(&repository);
    let cancel = Cancel::default();
    cancel.cancel();
    let stopped = world.source.fetch(&world.settings, world.limits, &cancel);
    assert!(matches!(stopped, Err(Problem::Cancelled)), "{stopped:?}");
}

/// Kills every git whose repository lies in this folder.
fn kill_children(folder: &str) {
    for process in fs::read_dir("/proc").expect("there").flatten() {
        let name = process.file_name();
        let Some(id) = name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) else { continue };
        let ours = fs::read(process.path().join("environ")).is_ok_and(|environment| {
            environment.split(|byte| *byte == 0).any(|line| line.starts_with(format!("GIT_DIR={folder}").as_bytes()))
        });
        if ours {
            let _ = std::process::Command::new("kill").args(["-9", id]).stderr(std::process::Stdio::null()).status();
        }
    }
}
