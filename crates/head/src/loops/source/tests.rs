use std::os::unix::fs::symlink;
use std::process::Command;

use bramble_model::names::Digest;
use bramble_model::repository::{FILE, Problems};
use bramble_model::snapshot::{MOST, Snapshot};
use bramble_plan::contract::Planner as _;
use bramble_source::Credentials;
use bramble_store::Store;

use super::newest::Branch;
use super::*;
use crate::snapshots::record;

const TOML: &str = "[cluster]\nname = \"c\"\n[network]\ninterface = \"lo\"\n[image]\noverlay = \"overlay\"\n\
    [roles.r]\nengine = \"none\"\n[nodes.w1]\nmac = \"52:54:00:00:00:01\"\nrole = \"r\"\n";

/// A repository with an overlay, and what follows it.
struct House {
    repository: tempfile::TempDir,
    state: tempfile::TempDir,
}

impl House {
    fn new() -> House {
        let folder = || tempfile::tempdir().expect("a folder");
        let house = House { repository: folder(), state: folder() };
        house.git(&["init", "-q", "-b", "main"]);
        house.write(FILE, TOML);
        house.write("overlay/etc/motd", "hello\n");
        house
    }

    fn root(&self) -> &Path {
        self.repository.path()
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().expect("it has one")).expect("made");
        fs::write(path, text).expect("written");
    }

    fn git(&self, args: &[&str]) -> String {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]).args(args).current_dir(self.root());
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        let output = command.output().expect("git runs");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn commit(&self) -> String {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", "A change"]);
        self.git(&["rev-parse", "HEAD"])
    }

    fn source(&self) -> repository::Source {
        repository::Source {
            git: self.root().display().to_string(),
            branch: "main".into(),
            every: 30,
            path: String::new(),
            signers: Vec::new(),
            token_file: None,
        }
    }

    fn following(&self) -> Following {
        let store = Store::open(&self.state.path().join("head.redb"), 1).expect("opens");
        Following::new(self.state.path(), store)
    }

    fn fetch(&self) -> Result<Fetched, Stopped> {
        self.following().fetch(&self.source(), None, None, false)
    }
}

fn wrong(reason: &str) -> Came {
    Came::Wrong { reason: reason.into(), help: String::new() }
}

fn unfit(commit: &str, reason: &str) -> Came {
    Came::Found(Newest { commit: commit.into(), obstacle: Obstacle::Unfit(reason.into()) })
}

fn braked(commit: &str) -> Came {
    Came::Found(Newest { commit: commit.into(), obstacle: Obstacle::Braked(vec!["it lets all go".into()]) })
}

/// What is followed, with this snapshot current.
fn against(number: u8) -> Against {
    let followed = Some(Branch { git: "/srv/home.git".into(), branch: "main".into(), path: String::new() });
    Against { followed, current: Some(Digest([number; 32])), commit: Some(format!("c{number}")) }
}

fn not_followed(reason: &str) -> Option<Told> {
    Some(Told::NotFollowed(reason.into()))
}

#[test]
fn a_commit_and_its_folder_are_the_same_snapshot_with_every_link_of_an_overlay() {
    let house = House::new();
    let wants = "overlay/etc/systemd/system/multi-user.target.wants";
    house.write("overlay/etc/systemd/system/x.service", "[Service]\nExecStart=true\n");
    fs::create_dir_all(house.root().join(wants)).expect("made");
    for (name, target) in [
        ("x.service", "/etc/systemd/system/x.service"),
        ("beside.service", "../x.service"),
        ("above.service", "../../../../../../usr/lib/systemd/system/y.service"),
        ("nothing.service", "nowhere"),
    ] {
        symlink(target, house.root().join(wants).join(name)).expect("linked");
    }
    house.commit();
    let Ok(fetched) = house.fetch() else { panic!("it is fetched") };
    let (folder, _) = Snapshot::read(house.root()).expect("it reads");
    assert_eq!(fetched.snapshot, folder);
    assert_eq!(fetched.snapshot.digest(), folder.digest());
    assert!(folder.entries.contains_key(&format!("{wants}/x.service")));
}

#[test]
fn what_is_left_out_of_a_commit_stops_it_where_it_is_named_and_is_said() {
    let house = House::new();
    let first = house.commit();
    let submodule = |path: &str| {
        house.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{first},{path}")]);
        house.git(&["commit", "-q", "-m", "A submodule"]);
    };
    submodule("docs/theme");
    assert!(house.fetch().is_ok(), "nobody names it");
    submodule("overlay/opt/tool");
    let Err(Stopped::Unfit { reason, .. }) = house.fetch() else { panic!("it misses what is named") };
    assert!(reason.ends_with("overlay/opt/tool is a submodule, and nothing of it is fetched"), "{reason}");
    house.git(&["reset", "-q", "--hard", &first]);
    house.write("overlay/etc/back\\slash", "");
    let commit = house.commit();
    let Err(Stopped::Unfit { reason, commit: blamed }) = house.fetch() else { panic!("it misses what is named") };
    assert!(reason.contains("overlay/etc/back\\slash has a name with a character"), "{reason}");
    assert_eq!(blamed, commit);
}

#[test]
fn a_commit_without_what_it_is_read_by_is_to_blame_itself() {
    let house = House::new();
    for (text, said) in [(&b"\xff"[..], "bramble.toml is not UTF-8 text"), (b"", "there is no bramble.toml in it")] {
        std::fs::write(house.root().join(FILE), text).expect("written");
        if text.is_empty() {
            std::fs::remove_file(house.root().join(FILE)).expect("removed");
        }
        let commit = house.commit();
        let Err(Stopped::Unfit { reason, commit: blamed }) = house.fetch() else { panic!("{said}") };
        assert!(blamed == commit && reason.ends_with(said), "{reason}");
    }
}

#[test]
fn a_commit_may_have_as_many_files_as_a_snapshot_and_its_limit_has_the_same_words() {
    let house = House::new();
    (0..=20_000).for_each(|number| house.write(&format!("docs/{number}"), ""));
    house.commit();
    assert!(house.fetch().is_ok(), "a folder with them is a snapshot");
    let of_a_snapshot = bramble_model::snapshot::Error::TooMany.to_string();
    assert_eq!(Problem::TooManyFiles { most: MOST }.to_string(), of_a_snapshot);
}

#[test]
fn what_may_pass_is_tried_again_and_what_a_commit_is_to_blame_for_is_not() {
    for passing in [
        Refused::Overtaken("snapshot 12 has become current meanwhile, by ann".into()),
        Refused::Missing(vec![Digest([1; 32])]),
        Refused::Head(Error::Snapshot("too many files wait to be applied: try again".into())),
    ] {
        assert!(matches!(refused("c1", passing), Stopped::Wrong(..)));
    }
    for lasting in [Refused::Unsound, Refused::Problems(Problems(Vec::new()))] {
        assert!(matches!(refused("c1", lasting), Stopped::Unfit { .. }));
    }
    let a = against(0);
    let mut followed = Followed::default();
    assert_eq!(followed.end((1, 5), &a, wrong("the disk is full")), not_followed("the disk is full"));
    assert_eq!(followed.judged(&a), None, "the next look tries it again");
    assert_eq!(followed.unfit(), None, "the disk is to blame");
    assert_eq!(followed.end((2, 6), &a, wrong("the disk is full")), None, "it is noted once");
    assert!(followed.problem.is_some());
    followed.end((3, 7), &a, unfit("c1", "line 3"));
    assert_eq!(followed.judged(&a), Some("c1"));
    assert_eq!(followed.unfit(), Some(("c1", "line 3")));
    followed.end((4, 8), &a, Came::Judged);
    assert_eq!(followed.unfit(), Some(("c1", "line 3")), "it is still said");
    assert_eq!(followed.end((4, 8), &a, wrong("it is away")), not_followed("it is away"));
    assert_eq!(followed.unfit(), Some(("c1", "line 3")), "its repository is away, and that mends nothing");
    assert_eq!(followed.end((4, 8), &a, unfit("c1", "line 3")), None, "it is noted once");
    assert_eq!(followed.problem, None);
    followed.end((5, 9), &a, Came::Current);
    assert_eq!(followed.newest, None, "what is current has nothing in its way");
    assert_eq!(followed.judged(&a), None);
}

/// A person may make another snapshot current while it is looked: what was found is of the one that was current when the
/// look began. It was kept as found of the new one, was never judged against that, and was dropped where it waited on.
#[test]
fn what_a_look_finds_is_of_what_was_current_when_it_began() {
    let (a, b) = (against(0), against(1));
    let mut followed = Followed::default();
    followed.end((1, 1), &a, braked("c9"));
    assert_eq!(followed.judged(&a), Some("c9"));
    assert_eq!(followed.judged(&b), None, "it may lead further, or less far, from that one");
    assert_eq!(followed.clone().of(&b).braked(), None, "its reasons are of the other one");
    assert!(followed.clone().of(&a).braked().is_some());
    // One that began before found what was known already, and ends after.
    followed.end((2, 2), &a, Came::Judged);
    assert!(followed.clone().of(&a).braked().is_some(), "a rollback finds it waiting");
    assert_eq!(followed.judged(&b), None);
    // The same files, by another commit: what descends from the one need not descend from the other.
    let other = Against { commit: Some("c8".into()), ..a.clone() };
    assert_eq!(followed.judged(&other), None);
    assert_eq!(followed.of(&other).braked(), None);
}

#[test]
fn another_repository_has_another_newest_commit() {
    let a = against(0);
    let elsewhere = |change: fn(&mut Branch)| {
        let mut followed = a.followed.clone();
        followed.as_mut().map(change).expect("one is followed");
        Against { followed, ..a.clone() }
    };
    for came in [unfit("c1", "line 3"), braked("c1")] {
        let mut followed = Followed::default();
        followed.end((1, 1), &a, came);
        assert_eq!(followed.clone().of(&a), followed);
        for now in [
            elsewhere(|followed| followed.git = "/srv/work.git".into()),
            elsewhere(|followed| followed.branch = "next".into()),
            elsewhere(|followed| followed.path = "clusters/home".into()),
            Against { followed: None, ..a.clone() },
        ] {
            assert_eq!(followed.clone().of(&now).newest, None, "{now:?}");
            assert_eq!(followed.judged(&now), None, "{now:?}");
        }
    }
    let mut followed = Followed::default();
    followed.end((1, 1), &a, unfit("c1", "line 3"));
    assert!(followed.of(&against(1)).unfit().is_some(), "it does not check, whatever is current");
}

/// A head that had just started noted in the timeline, each time, that a commit waits.
#[test]
fn what_waits_is_told_once() {
    let house = House::new();
    let a = against(0);
    let look = |came, against: &Against| {
        let following = house.following();
        following.ended((following.begin(), 1), against, came)
    };
    let Some(Told::Waits(told)) = look(braked("c1"), &a) else { panic!("it is new") };
    assert_eq!(told, "commit c1 waits for a person: it lets all go");
    assert_eq!(look(braked("c1"), &a), None);
    assert_eq!(look(wrong("it is away"), &a), not_followed("it is away"));
    assert_eq!(look(braked("c1"), &against(1)), None);
    assert!(look(braked("c2"), &a).is_some());
    assert_eq!(look(unfit("c2", "line 3"), &a), not_followed("line 3"));
    assert_eq!(look(unfit("c2", "line 3"), &a), None);
}

#[test]
fn what_a_killed_head_left_of_a_fetch_goes_at_the_next_start_unless_another_one_fetches() {
    let house = House::new();
    house.commit();
    assert!(house.fetch().is_ok());
    let folder = house.state.path().join("source");
    let left = [folder.join("repository.git/objects/pack/tmp_pack_x"), folder.join("export-x")];
    fs::write(&left[0], "").expect("written");
    fs::create_dir(&left[1]).expect("made");
    let fetching = Git::open(&folder).expect("opened");
    sweep(house.state.path());
    assert_eq!(left.each_ref().map(|left| left.exists()), [true, true], "another one fetches");
    drop(fetching);
    sweep(house.state.path());
    assert_eq!(left.each_ref().map(|left| left.exists()), [false, false]);
    assert!(house.fetch().is_ok(), "what was fetched is whole");
}

#[test]
fn a_commit_that_was_judged_is_not_read_again() {
    let house = House::new();
    let commit = house.commit();
    let following = house.following();
    let again = following.fetch(&house.source(), None, Some(&commit), false);
    assert!(matches!(again, Err(Stopped::Judged)));
    assert!(following.fetch(&house.source(), None, Some("another one"), false).is_ok());
}

#[test]
fn a_panic_while_git_is_asked_hinders_nobody_afterwards() {
    let house = House::new();
    house.commit();
    let following = house.following();
    let panicked = std::thread::scope(|scope| {
        let holding = scope.spawn(|| {
            let _turn = following.turn();
            panic!("as an error of bramble's own would");
        });
        holding.join()
    });
    assert!(panicked.is_err());
    assert!(following.fetch(&house.source(), None, None, false).is_ok());
    following.key(None).expect("made");
}

#[tokio::test]
async fn a_clock_that_steps_back_leaves_nobody_waiting() {
    let house = House::new();
    let following = house.following();
    let early = following.begin();
    let asked = following.ask();
    // The look that was under way ends: it may not have seen what was pushed.
    following.state.send_modify(|state| drop(state.end((early, 90_000), &against(0), wrong("it is away"))));
    assert!(following.known().is_asked());
    // The clock is an hour behind now.
    let plan = |followed: Followed, now| {
        let observed = (followed.observed(Some("held".into()), now), now);
        Source.plan(&Some(house.source()), &observed, now).steps.len()
    };
    assert_eq!(plan(following.known(), 90_000), 1, "the question is of the same moment");
    assert_eq!(plan(following.known(), 1_000), 1);
    let number = following.begin();
    following.state.send_modify(|state| drop(state.end((number, 1_000), &against(0), Came::Current)));
    let seen = tokio::time::timeout(Duration::from_secs(20), following.after(asked)).await.expect("it is answered");
    assert_eq!(seen.looked, Some(1_000));
    assert_eq!(plan(seen, 1_000), 0);
}

/// The snapshots of a head that was begun with the repository.
fn snapshots(house: &House) -> Snapshots {
    let state = house.state.path();
    let store = Store::open(&state.join("snapshots.redb"), 1).expect("opens");
    let shelf = bramble_image::Shelf::open(state.join("image")).expect("opens");
    let snapshots = Snapshots::open(state, house.root(), shelf, store.clone()).expect("opens");
    record::begin_with(&store, &house.source()).expect("kept");
    make_current(&snapshots, house, "c0");
    snapshots
}

fn of_commit(commit: &str, dirty: bool) -> Revision {
    Revision { commit: Some(commit.into()), dirty, ..Revision::default() }
}

/// Makes another snapshot current, of this commit.
fn make_current(snapshots: &Snapshots, house: &House, commit: &str) {
    house.write("overlay/etc/issue", commit);
    let (next, line) = snapshots.first(house.root(), of_commit(commit, false)).expect("it checks");
    snapshots.begin(next, line).expect("it is current");
}

#[test]
fn whoever_lets_through_what_waits_holds_nothing() {
    let house = House::new();
    let snapshots = snapshots(&house);
    let following = house.following();
    let waits = |commit, dirty| following.waits_with(&snapshots, &of_commit(commit, dirty));
    assert!(!waits("c1", false));
    assert!(!following.waits_with(&snapshots, &Revision::default()));
    let look = |came| {
        following.ended((following.begin(), 2), &Against::now(&snapshots), came);
        following.followed(&snapshots)
    };
    look(braked("c1"));
    assert!(waits("c1", false));
    assert!(!waits("c1", true), "a folder is no commit");
    assert!(!waits("c0", false));
    // Its repository is away for a while, and is there again.
    let away = look(wrong("it is away"));
    assert!(away.problem.is_some());
    assert!(waits("c1", false), "it waits on");
    let back = look(Came::Judged);
    assert_eq!(back.problem, None);
    assert!(waits("c1", false));
    // A person makes it current, and nothing of the record is written: a head that is killed here is as this one.
    make_current(&snapshots, &house, "c1");
    assert_eq!(following.followed(&snapshots).braked(), None, "nobody is asked for it again");
    drop(following);
    assert_eq!(house.following().followed(&snapshots).braked(), None);
}

#[test]
fn the_newest_commit_alone_waits() {
    let house = House::new();
    let snapshots = snapshots(&house);
    let following = house.following();
    for came in [braked("c1"), unfit("c2", "it does not check")] {
        following.ended((following.begin(), 1), &Against::now(&snapshots), came);
    }
    assert!(!following.waits_with(&snapshots, &of_commit("c1", false)));
}

#[test]
fn what_waits_no_more_and_what_does_not_check_is_wanted_by_nobody() {
    let mut followed = Followed::default();
    let mut after = |came| {
        let before = followed.clone();
        followed.end((1, 1), &against(0), came);
        followed.unwanted(&before).map(str::to_owned).collect::<Vec<_>>()
    };
    let none: [String; 0] = [];
    assert_eq!(after(braked("c1")), none);
    assert_eq!(after(Came::Judged), none);
    assert_eq!(after(wrong("it is away")), none, "it waits on");
    assert_eq!(after(braked("c2")), ["c1"], "it was rewritten");
    assert_eq!(after(unfit("c3", "line 3")), ["c2", "c3"]);
    assert_eq!(after(Came::Current), none, "it is current");
}

/// A head that had just started said nothing of a commit that waited, until a look had found it again.
#[test]
fn what_was_found_of_the_newest_commit_outlives_the_head() {
    let house = House::new();
    let after_a_start = |came| {
        let following = house.following();
        following.ended((following.begin(), 1), &against(0), came);
        let before = following.known().newest;
        drop(following);
        let following = house.following();
        assert_eq!(following.known().newest, before);
        assert_eq!(following.known().judged(&against(0)), None, "it is judged once more: the rules may be others");
        following
    };
    let following = after_a_start(braked("c1"));
    let plan = Source.plan(&Some(house.source()), &(following.known().observed(None, 5), 5), 5);
    assert!(plan.steps.len() == 1 && plan.waits[0].reason.contains("c1 waits for a person"), "{plan:?}");
    drop(following);
    // Its server is away when the head is there again.
    let following = after_a_start(wrong("it is away"));
    assert!(following.known().braked().is_some());
    drop(following);
    let following = after_a_start(unfit("c1a2", "line 3"));
    assert_eq!(following.known().unfit(), Some(("c1a2", "line 3")));
    drop(following);
    assert_eq!(after_a_start(Came::Current).known().newest, None);
}

#[test]
fn a_commit_that_does_not_check_is_named_by_its_first_digits() {
    let house = House::new();
    let snapshots = snapshots(&house);
    let following = house.following();
    following.ended((1, 1), &Against::now(&snapshots), unfit("c1a2b3d4", "line 3"));
    for (word, found) in [("c1a2b3d4", true), ("C1A2", true), ("c1a", false), ("a2b3", false), ("c1a2b3d4e", false)] {
        assert_eq!(following.unfit(&snapshots, word).is_some(), found, "{word}");
    }
}

#[test]
fn a_silent_server_keeps_neither_the_key_nor_the_end_waiting() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let house = House::new();
    let url = format!("http://{}/home.git", silent.local_addr().expect("bound"));
    let source = repository::Source { git: url, ..house.source() };
    let following = house.following();
    std::thread::scope(|scope| {
        let fetching = scope.spawn(|| following.fetch(&source, None, None, false).map(drop));
        let (_asked, _) = silent.accept().expect("git asks");
        following.key(Some(&source)).expect("made while git waits");
        assert!(!fetching.is_finished());
        following.end();
        let ended = fetching.join().expect("no panic");
        assert!(matches!(ended, Err(Stopped::Wrong(..))));
    });
}

#[test]
fn what_a_person_applies_holds_a_head_that_was_begun_with_a_repository() {
    for begun in [false, true] {
        let house = House::new();
        let state = house.state.path();
        let store = Store::open(&state.join("head.redb"), 1).expect("opens");
        if begun {
            record::begin_with(&store, &house.source()).expect("kept");
        }
        let shelf = bramble_image::Shelf::open(state.join("image")).expect("opens");
        let snapshots = Snapshots::open(state, house.root(), shelf, store).expect("opens");
        // It says nothing of a source itself.
        let (first, applied) = snapshots.first(house.root(), Revision::default()).expect("it checks");
        let first = snapshots.begin(first, applied).expect("it is current");
        assert_eq!(snapshots.follows(&first), begun);
        let text = fs::read_to_string(house.root().join("bramble.toml")).expect("there");
        fs::write(house.root().join("bramble.toml"), text + "[source]\ngit = \"/srv/home.git\"\n").expect("written");
        let (next, applied) = snapshots.first(house.root(), Revision::default()).expect("it checks");
        assert_eq!(snapshots.follows(&next), begun, "whoever begins to follow one wants it looked at");
        let next = snapshots.begin(next, applied).expect("it is current");
        assert!(snapshots.follows(&next));
    }
}

/// `source set` hints at `source key`, and whoever typed it for an https address followed nothing any more.
#[test]
fn a_key_that_was_made_stands_in_the_way_of_no_address_that_takes_none() {
    let house = House::new();
    let following = house.following();
    following.key(None).expect("made");
    let keys = Keys::open(&following.folder).expect("opens");
    let with = |url: &str| {
        let source = repository::Source { git: url.into(), ..house.source() };
        settings(&source, Some(&keys)).expect("good settings").credentials
    };
    assert!(matches!(with("https://git.home.arpa/home.git"), Credentials::None));
    assert!(matches!(with("/srv/home.git"), Credentials::None));
    assert!(matches!(with("git@git.home.arpa:home.git"), Credentials::DeployKey(_)));
}

#[test]
fn a_head_is_begun_with_no_address_that_cannot_be_followed() {
    let house = House::new();
    let of = |git: &str, branch: &str, path: &str| repository::Source {
        git: git.into(),
        branch: branch.into(),
        path: path.into(),
        ..house.source()
    };
    let good = ["https://git.home.arpa/home.git", "git@git.home.arpa:home.git", "/srv/home.git"];
    good.iter().for_each(|git| check(&of(git, "main", "clusters/home")).expect("it can be followed"));
    let bad = [
        of("--upload-pack=/bin/sh", "main", ""),
        of("ext::sh -c id", "main", ""),
        of("", "main", ""),
        of("relative/path", "main", ""),
        of("/srv/home.git", "a..b", ""),
        of("/srv/home.git", "main", "../x"),
        repository::Source { signers: vec!["a fingerprint".into()], ..house.source() },
        repository::Source { token_file: Some("/etc/token".into()), ..house.source() },
    ];
    for source in bad {
        check(&source).expect_err(&source.git);
    }
    let told = check(&of("http://ann:secret@git.home.arpa/x", "main", "")).expect_err("a password").to_string();
    assert!(!told.contains("secret"), "{told}");
}

/// The commit is the one that is current: without damage nothing of it would be read.
#[test]
fn a_large_file_that_a_disk_damaged_comes_from_git_again() {
    let house = House::new();
    house.write("overlay/large", &"7".repeat(100 << 10));
    let commit = house.commit();
    let (state, home) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let shelf = bramble_image::Shelf::open(state.path().join("image")).expect("opens");
    let store = Store::open(&state.path().join("head.redb"), 1).expect("opens");
    let snapshots = Snapshots::open(state.path(), home.path(), shelf.clone(), store).expect("opens");
    let following = house.following();
    let Ok((next, line)) = first_of(&following, &snapshots, &house.source()) else { panic!("it is fetched") };
    let current = snapshots.begin(next, line).expect("current");
    let fetch = || following.fetch(&house.source(), Some(&current), None, snapshots.lacks_files());
    assert!(matches!(fetch(), Err(Stopped::Current(same)) if same == commit), "all is whole");
    let content = current.snapshot.contents().into_iter().max_by_key(|(_, size)| *size).expect("it has files").0;
    crate::snapshots::tests::flip(&shelf.file(&content));
    let laid_out = state.path().join("snapshots").join(current.digest.to_string()).join("overlay/large");
    snapshots.mend();
    assert!(!laid_out.exists() && snapshots.trouble().is_some_and(|trouble| trouble.contains("overlay/large")));
    let Ok(fetched) = fetch() else { panic!("it is read again") };
    take(&snapshots, &fetched).expect("taken");
    assert_eq!(fs::read(laid_out).expect("there"), vec![b'7'; 100 << 10]);
    assert_eq!(snapshots.trouble(), None);
    assert!(matches!(fetch(), Err(Stopped::Current(_))));
}

#[test]
fn a_repository_to_begin_with_that_cannot_be_read_is_unknown_and_not_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(&folder.path().join("store"), 1).expect("opens");
    let shelf = bramble_image::Shelf::open(folder.path().join("image")).expect("a shelf");
    let snapshots = Snapshots::open(folder.path(), folder.path(), shelf, store.clone()).expect("opens");
    assert!(is_known(&snapshots, None).is_ok(), "there is none");
    let (table, key) = (<record::BegunWith as bramble_store::Record>::TABLE, "source".into());
    let torn = bramble_store::Write::Put { table, key, bytes: b"1 {torn".to_vec() };
    store.blocking().commit(&[], &[torn]).expect("written");
    let Err(Unknown(why)) = is_known(&snapshots, None) else { panic!("it is known") };
    assert!(why.contains("the repository of source cannot be read") && why.contains("store repair"), "{why}");
    assert!(is_known(&snapshots, Some(&House::new().source())).is_ok(), "the snapshot's own word");
}
