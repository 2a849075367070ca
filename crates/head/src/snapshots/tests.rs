//! Snapshots in a folder of their own: what is laid out, what waits, what is refused.

use std::fs;
use std::os::unix::fs::MetadataExt;

use bramble_model::repository::FILE;
use bramble_store::put;
use bramble_testing::{as_root, given, not_given};

use super::waiting::WAITS;
use super::*;

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Place { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    fn home(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    fn state(&self) -> PathBuf {
        self.home().join(".bramble")
    }

    fn shelf(&self) -> Shelf {
        Shelf::open(self.state().join("image")).expect("opens")
    }

    /// A repository of these nodes, with a file of this content that belongs to its image.
    fn write(&self, nodes: usize, content: &[u8]) {
        let mut text = String::from(
            "[cluster]\nname = \"c\"\n[network]\ninterface = \"lo\"\n[image]\noverlay = \"overlay\"\n[roles.r]\nengine = \"none\"\n",
        );
        for number in 1..=nodes {
            text += &format!("[nodes.w{number}]\nmac = \"52:54:00:00:00:0{number}\"\nrole = \"r\"\n");
        }
        fs::write(self.home().join(FILE), text).expect("written");
        fs::create_dir_all(self.home().join("overlay/etc")).expect("made");
        fs::write(self.home().join("overlay/etc/motd"), content).expect("written");
    }

    fn open(&self) -> Snapshots {
        bramble_system::files::make_folder(&self.state()).expect("made");
        bramble_system::files::make_secret(&self.state().join("head.redb")).expect("made");
        let store = Store::open(&self.state().join("head.redb"), 1).expect("opens");
        Snapshots::open(&self.state(), &self.home(), self.shelf(), store).expect("opens")
    }

    /// A file of the current snapshot, where it is served from.
    fn served(&self, digest: &Digest) -> PathBuf {
        self.state().join("snapshots").join(digest.to_string()).join("overlay/etc/motd")
    }

    fn read(&self) -> (Snapshot, BTreeMap<Digest, PathBuf>) {
        Snapshot::read(&self.home()).expect("read")
    }
}

/// The store of a head whose folder has this `bramble.toml`, and its desired state, which is that.
pub(crate) fn begun(home: &Path, text: &str) -> (Store, Arc<Snapshots>, Arc<Current>) {
    fs::write(home.join(FILE), text).expect("written");
    let state = home.join(".bramble");
    fs::create_dir(&state).expect("made");
    let store = Store::open(&state.join("head.redb"), 1).expect("opens");
    let shelf = Shelf::open(state.join("image")).expect("opens");
    let snapshots = Arc::new(Snapshots::open(&state, home, shelf, store.clone()).expect("opens"));
    let (next, applied) = snapshots.first(home, Revision::default()).expect("it checks");
    let current = snapshots.begin(next, applied).expect("current");
    (store, snapshots, current)
}

/// The current snapshot of a head that has ended, whose file a power cut has torn.
fn torn(place: &Place) -> Digest {
    let digest = first(&place.open(), place).digest;
    fs::write(place.served(&digest), b"").expect("torn");
    digest
}

/// What the folder says becomes current.
fn first(snapshots: &Snapshots, place: &Place) -> Arc<Current> {
    let (next, applied) = snapshots.first(&place.home(), Revision::default()).expect("it checks");
    snapshots.begin(next, applied).expect("current")
}

fn applied(next: &Current) -> Applied {
    let removed = BTreeSet::new();
    let (digest, revision) = (next.digest, next.revision.clone());
    Applied { digest, revision, at: now(), by: "ann".into(), changed: Vec::new(), holds: None, removed }
}

#[test]
fn a_folder_that_a_power_cut_tore_is_laid_out_anew_at_the_start() {
    let place = Place::new();
    place.write(1, b"hello");
    let digest = torn(&place);
    let snapshots = place.open();
    assert_eq!(fs::read(place.served(&digest)).expect("there"), b"hello");
    assert_eq!(snapshots.trouble(), None);
}

#[test]
fn a_folder_that_a_power_cut_tore_is_replaced_when_the_disk_takes_writes_again() {
    let place = Place::new();
    place.write(1, b"hello");
    let digest = torn(&place);
    let in_the_way = place.state().join("snapshots/.making");
    fs::write(&in_the_way, b"").expect("nothing can be laid out");
    let snapshots = place.open();
    assert!(snapshots.trouble().is_some());
    fs::remove_file(&in_the_way).expect("removed");
    snapshots.mend();
    assert_eq!(snapshots.trouble(), None);
    assert_eq!(fs::read(place.served(&digest)).expect("there"), b"hello");
    // And what comes next is linked to what is whole.
    place.write(2, b"hello");
    let next = first(&snapshots, &place).digest;
    assert_eq!(fs::read(place.served(&next)).expect("there"), b"hello");
    assert_eq!(
        fs::metadata(place.served(&next)).expect("there").ino(),
        fs::metadata(place.served(&digest)).expect("there").ino(),
        "what this head laid out is not made a second time"
    );
}

#[test]
fn nothing_is_linked_to_a_torn_folder() {
    let place = Place::new();
    place.write(1, b"hello");
    torn(&place);
    let in_the_way = place.state().join("snapshots/.making");
    fs::write(&in_the_way, b"").expect("nothing can be laid out");
    let snapshots = place.open();
    fs::remove_file(&in_the_way).expect("removed");
    place.write(2, b"hello");
    let next = first(&snapshots, &place).digest;
    assert_eq!(fs::read(place.served(&next)).expect("there"), b"hello");
}

#[test]
fn a_plan_that_nobody_applies_keeps_only_its_own_files_and_not_for_ever() {
    let place = Place::new();
    place.write(1, b"hello");
    let snapshots = place.open();
    first(&snapshots, &place);
    place.write(1, b"planned");
    let (planned, files) = place.read();
    snapshots.take(planned, Revision::default(), &files).expect("checked");
    assert_eq!(snapshots.waiting().loose.len(), 1);
    for number in 0..3 {
        place.write(1, format!("applied {number}").as_bytes());
        first(&snapshots, &place);
        assert_eq!(snapshots.waiting().loose.len(), 1, "only what the plan needs");
    }
    snapshots.waiting().tidy(now() + WAITS + 1);
    assert!(snapshots.waiting().candidates.is_empty() && snapshots.waiting().loose.is_empty());
}

#[test]
fn a_commit_that_waits_for_a_person_waits_on() {
    let place = Place::new();
    place.write(1, b"hello");
    let snapshots = place.open();
    let (snapshot, files) = place.read();
    let revision = Revision { commit: Some("3f2a91c04d5e".into()), ..Revision::default() };
    let digest = snapshots.take(snapshot, revision, &files).expect("checked").digest;
    snapshots.waiting().candidates.get_mut(&digest).expect("waits").at = 1;
    assert!(snapshots.waits_on("3f2a91c04d5e") && !snapshots.waits_on("another"));
    snapshots.tidy();
    assert!(snapshots.find("3f2a91c04d5e").is_ok());
}

#[test]
fn a_large_file_that_was_swept_before_it_was_applied_is_named() {
    let place = Place::new();
    let large = vec![7; SMALL as usize + 1];
    place.write(1, &large);
    let snapshots = place.open();
    let (snapshot, files) = place.read();
    let next = snapshots.take(snapshot, Revision::default(), &files).expect("checked");
    let shelf = place.shelf();
    let alone = shelf.alone().expect("nobody builds");
    assert_eq!(shelf.sweep(&alone, &BTreeSet::new(), 0).expect("swept").files, 1);
    drop(alone);
    let line = applied(&next);
    let error = snapshots.make_current(next, None, line, Follow::Free).expect_err("a file is gone");
    assert!(error.to_string().starts_with("overlay/etc/motd is not on the head's shelf"), "{error}");
    assert!(snapshots.current().is_none());
    let digest = first(&snapshots, &place).digest;
    assert_eq!(fs::read(place.served(&digest)).expect("there"), large);
}

/// As a disk damages a file: of the same length, at another time.
pub(crate) fn flip(path: &Path) {
    let mut bytes = fs::read(path).expect("there");
    bytes[0] ^= 1;
    fs::write(path, bytes).expect("damaged");
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(1);
    fs::File::options().write(true).open(path).and_then(|file| file.set_modified(later)).expect("set");
}

/// A head with a large file that a disk has damaged, and that its own folder does not have any more.
fn damaged(place: &Place, large: &[u8]) -> (Snapshots, Digest) {
    place.write(1, large);
    let snapshots = place.open();
    let current = first(&snapshots, place);
    fs::write(place.home().join("overlay/etc/motd"), vec![0; large.len()]).expect("written");
    flip(&place.served(&current.digest));
    (snapshots, current.digest)
}

#[test]
fn a_damaged_large_file_is_taken_anew_from_the_heads_own_folder() {
    let place = Place::new();
    let large = vec![7; SMALL as usize + 1];
    place.write(1, &large);
    let snapshots = place.open();
    let digest = first(&snapshots, &place).digest;
    flip(&place.served(&digest));
    snapshots.mend();
    assert_eq!(fs::read(place.served(&digest)).expect("there"), large);
    assert_eq!(snapshots.trouble(), None);
    drop(snapshots);
    flip(&place.served(&digest));
    let snapshots = place.open();
    assert_eq!(fs::read(place.served(&digest)).expect("there"), large, "nor does a start link to what is damaged");
    assert_eq!(snapshots.trouble(), None);
}

#[test]
fn a_damaged_large_file_that_nobody_has_is_left_out_and_told() {
    let place = Place::new();
    let large = vec![7; SMALL as usize + 1];
    let (snapshots, digest) = damaged(&place, &large);
    let told = |snapshots: &Snapshots| {
        assert!(!place.served(&digest).exists(), "what is damaged is served to nobody");
        let trouble = snapshots.trouble().expect("it is said");
        assert!(trouble.starts_with("overlay/etc/motd of the current snapshot, ") && trouble.contains("apply"));
    };
    snapshots.mend();
    told(&snapshots);
    drop(snapshots);
    told(&place.open());
}

#[test]
fn a_damaged_large_file_is_asked_for_and_replaced_when_the_same_is_applied_again() {
    let place = Place::new();
    let large = vec![7; SMALL as usize + 1];
    let (snapshots, digest) = damaged(&place, &large);
    snapshots.mend();
    let known = snapshots.current().expect("there");
    let (offered, missing) = snapshots.offer(known.snapshot.clone(), Revision::default()).expect("sound");
    let content = Digest(Sha256::digest(&large).into());
    assert_eq!((offered, &missing[..]), (digest, &[content][..]));
    snapshots.take_large(&content, &large[..]).expect("taken");
    assert_eq!(fs::read(place.served(&digest)).expect("there"), large);
    assert_eq!(snapshots.trouble(), None);
}

#[test]
fn a_snapshot_that_shares_a_damaged_large_file_with_the_current_one_gets_it_whole() {
    let place = Place::new();
    let large = vec![7; SMALL as usize + 1];
    let (snapshots, _) = damaged(&place, &large);
    place.write(2, &large);
    let next = first(&snapshots, &place).digest;
    assert_eq!(fs::read(place.served(&next)).expect("there"), large);
}

#[test]
fn what_only_waited_leaves_no_large_files_on_the_shelf_and_takes_no_others_along() {
    let place = Place::new();
    let large = |number: u8| vec![number; SMALL as usize + 1];
    let write = |name: &str, number: u8| fs::write(place.home().join("overlay").join(name), large(number));
    let is_there = |number: u8| place.shelf().file(&Digest(Sha256::digest(large(number)).into())).exists();
    place.write(1, &large(1));
    let snapshots = place.open();
    first(&snapshots, &place);
    let take = |commit: &str| {
        let (snapshot, files) = place.read();
        let revision = Revision { commit: Some(commit.into()), ..Revision::default() };
        snapshots.take(snapshot, revision, &files).expect("checked");
    };
    write("a", 2).expect("written");
    write("b", 3).expect("written");
    take("aa11");
    fs::remove_file(place.home().join("overlay/a")).expect("removed");
    take("bb22");
    snapshots.tidy();
    assert_eq!([1, 2, 3].map(is_there), [true; 3], "all of it is kept, or waits");
    let hold = place.shelf().hold().expect("held");
    snapshots.forget("aa11");
    assert!(is_there(2), "someone puts something on the shelf");
    drop(hold);
    snapshots.tidy();
    assert_eq!([1, 2, 3].map(is_there), [true, false, true], "it is current, and the other one waits");
    snapshots.waiting().candidates.values_mut().for_each(|candidate| candidate.at = 1);
    snapshots.tidy();
    assert_eq!([1, 2, 3].map(is_there), [true, false, false], "it has waited for too long");
}

#[test]
fn nothing_becomes_current_that_would_not_last() {
    let place = Place::new();
    place.write(1, b"hello");
    let store = Store::open(&place.home().join("no folder/head.redb"), 1).expect("opens in memory");
    let snapshots = Snapshots::open(&place.state(), &place.home(), place.shelf(), store.clone()).expect("opens");
    let (next, line) = snapshots.first(&place.home(), Revision::default()).expect("it checks");
    let error = snapshots.begin(next, line).expect_err("it would not last");
    assert!(error.is_not_lasting() && error.help().is_some(), "{error}");
    assert!(snapshots.current().is_none() && snapshots.history(9).expect("read").all.is_empty());
    let claims = fs::read_dir(place.state().join("image/claims")).expect("a folder").count();
    assert_eq!(claims, 0, "what is not current claims nothing");
    let source = Source {
        git: "https://git.home.arpa/home.git".into(),
        branch: "main".into(),
        every: 30,
        path: String::new(),
        signers: Vec::new(),
        token_file: None,
    };
    assert!(record::begin_with(&store, &source).expect_err("it would not last").is_not_lasting());
    assert_eq!(record::begun_with(&store).expect("read"), None);
}

#[test]
fn what_was_removed_is_known_after_a_new_start() {
    let place = Place::new();
    place.write(3, b"hello");
    let snapshots = place.open();
    first(&snapshots, &place);
    place.write(1, b"hello");
    first(&snapshots, &place);
    drop(snapshots);
    let snapshots = place.open();
    let names: BTreeSet<Name> = ["w2", "w3"].map(|name| name.parse().expect("a name")).into();
    assert_eq!(snapshots.removed_since(now() - 60_000), Some(names));
    assert_eq!(snapshots.removed_since(now() + 1), Some(BTreeSet::new()), "not for ever");
    // Unknown is not none.
    let torn = bramble_store::Write::Put { table: bramble_store::Table::new("history"), key: 1.into(), bytes: vec![0] };
    snapshots.store.blocking().commit(&[], &[torn]).expect("written");
    assert_eq!(snapshots.removed_since(0), None);
}

/// A thousand harmless commits made the brake forget what the one before them took away on the same day.
#[test]
fn what_was_removed_today_is_known_however_many_snapshots_came_since() {
    let place = Place::new();
    place.write(3, b"hello");
    let snapshots = place.open();
    let first = first(&snapshots, &place);
    let line = |at, removed: &[&str]| Applied {
        digest: first.digest,
        revision: Revision::default(),
        at,
        by: "git".into(),
        changed: Vec::new(),
        holds: None,
        removed: removed.iter().map(|name| name.parse().expect("a name")).collect(),
    };
    let (today, long_ago) = (now() - 60_000, now() - 2 * record::DAY);
    let mut lines = vec![line(long_ago, &["w7"]), line(today, &[]), line(today, &["w8"]), line(today, &[])];
    lines.push(line(today, &["w9"]));
    lines.extend((0..1000).map(|_| line(today, &[])));
    let writes: Vec<_> = (2..).zip(&lines).map(|(number, line)| put::<record::History>(&number, line)).collect();
    snapshots.store.blocking().commit(&[], &writes).expect("written");
    place.write(2, b"hello");
    super::tests::first(&snapshots, &place);
    let names: BTreeSet<Name> = ["w3", "w8", "w9"].map(|name| name.parse().expect("a name")).into();
    assert_eq!(snapshots.removed_since(now() - record::DAY), Some(names));
    let kept = snapshots.store.blocking().read_all::<record::History>().expect("read").readable;
    let old: Vec<u64> = kept.keys().copied().filter(|number| *number < 1007 - 1000).collect();
    assert_eq!(old, [4, 6], "what is old goes, and what took nothing away");
}

/// `sudo bramble serve` in a user's folder, and then `bramble up` as that user.
#[test]
fn nothing_in_the_state_of_a_user_is_roots() {
    if !as_root("snapshots::tests::nothing_in_the_state_of_a_user_is_roots") {
        return;
    }
    let place = Place::new();
    given(&place.home());
    place.write(1, b"hello");
    let overlay = place.home().join("overlay");
    fs::write(overlay.join("large"), vec![7; SMALL as usize + 1]).expect("written");
    for (name, length) in [("run", 5), ("run-large", SMALL as usize + 2)] {
        use std::os::unix::fs::PermissionsExt;
        fs::write(overlay.join(name), vec![8; length]).expect("written");
        fs::set_permissions(overlay.join(name), fs::Permissions::from_mode(0o755)).expect("set");
    }
    std::os::unix::fs::symlink("/etc/localtime", overlay.join("zone")).expect("linked");
    let snapshots = place.open();
    first(&snapshots, &place);
    let shelf = place.shelf();
    let hold = shelf.hold().expect("held");
    let _work = shelf.workplace(&hold).expect("made");
    let source = bramble_source::Source::open(&place.state().join("source")).expect("opens");
    fs::create_dir_all(place.state().join("source/repository.git/objects")).expect("made, as by git");
    fs::write(place.state().join("source/repository.git/HEAD"), b"ref").expect("written, as by git");
    drop(source);
    let roots = not_given(&place.state());
    assert!(roots.is_empty(), "{roots:?}");
}

#[test]
fn a_head_begins_with_a_folder_though_a_workload_of_it_is_sick() {
    let place = Place::new();
    place.write(1, b"hello");
    let text = fs::read_to_string(place.home().join(FILE)).expect("there");
    let text = text.replace("engine = \"none\"", "engine = \"manager\"");
    fs::write(place.home().join(FILE), text + "[workloads.web]\npath = \"web.yaml\"\n").expect("written");
    fs::write(place.home().join("web.yaml"), "services: [\n").expect("written");
    let current = first(&place.open(), &place);
    assert_eq!(current.sick().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["web"]);
    let [stopped] = &crate::api::desired::stopped(&current)[..] else { panic!("one is told") };
    assert!(stopped.starts_with("workload web stays as it is until its files are corrected: "), "{stopped}");
    assert!(stopped.contains("unclosed bracket"), "{stopped}");
}

/// Whoever came next changed what the head no longer kept true, and what nobody had said.
#[test]
fn a_panic_after_the_store_has_taken_a_snapshot_leaves_nobody_with_the_one_before() {
    let place = Place::new();
    place.write(1, b"first");
    let snapshots = place.open();
    let seen = first(&snapshots, &place);
    let panics = |change: &dyn Fn()| {
        let change = || {
            snapshots.in_turn(|| {
                change();
                panic!("as an error of bramble's own does");
            });
        };
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(change)).expect_err("it panics");
    };
    let mut current = snapshots.subscribe();
    current.mark_unchanged();
    panics(&|| {});
    assert!(!current.has_changed().expect("it lives"), "the store has taken nothing");
    place.write(2, b"second");
    let (next, line) = snapshots.first(&place.home(), Revision::default()).expect("it checks");
    let known = Stored { snapshot: next.snapshot.clone(), revision: next.revision.clone(), at: 1 };
    let small = next.snapshot.contents().into_keys().map(|digest| (digest, snapshots.content(&digest).expect("there")));
    let small: Vec<_> = small.collect();
    panics(&|| {
        let made = record::make_current(&snapshots.store, &next.digest, &known, &small, &line, &Follow::Free);
        made.expect("stored");
    });
    assert_eq!(snapshots.current().expect("there").digest, next.digest);
    assert!(current.has_changed().expect("it lives"));
    let revision = Revision { subject: Some("as it was".into()), ..Revision::default() };
    panics(&|| record::revise(&snapshots.store, &next.digest, &revision).expect("stored"));
    assert_eq!(snapshots.current().expect("there").revision, revision);
    let line = applied(&seen);
    let again = snapshots.find(&seen.digest.to_string()).expect("kept");
    snapshots.make_current(again, Some(Some(next.digest)), line, Follow::Free).expect("it goes on");
}

#[test]
fn whoever_looked_at_another_current_snapshot_hears_which_it_is_by_now_and_who_made_it_so() {
    let place = Place::new();
    place.write(1, b"first");
    let snapshots = place.open();
    let seen = first(&snapshots, &place).digest;
    place.write(2, b"second");
    let (next, line) = snapshots.first(&place.home(), Revision::default()).expect("it checks");
    let second = snapshots.make_current(next, Some(Some(seen)), line, Follow::Free).expect("current").digest;
    let rolled_back = snapshots.find(&seen.to_string()).expect("kept");
    let line = applied(&rolled_back);
    let refused = snapshots.make_current(rolled_back, Some(Some(seen)), line, Follow::Free).expect_err("overtaken");
    let by = snapshots.pointer().expect("read").expect("there").by;
    let told = format!("snapshot {} has become current meanwhile, by {by}: nothing was changed", second.short());
    assert_eq!(bramble_system::sentence(&refused), told);
    assert_eq!(snapshots.current().expect("there").digest, second);
}

#[test]
fn a_workloads_file_that_could_not_be_read_is_laid_out_as_what_is_the_same_snapshot_again() {
    let place = Place::new();
    place.write(1, b"hello");
    let text = fs::read_to_string(place.home().join(FILE)).expect("there");
    let text = text.replace("engine = \"none\"", "engine = \"manager\"");
    fs::write(place.home().join(FILE), text + "[workloads.web]\npath = \"web.yaml\"\n").expect("written");
    let _bound = std::os::unix::net::UnixListener::bind(place.home().join("web.yaml")).expect("a socket");
    let current = first(&place.open(), &place);
    let sick: Vec<(&str, &str)> = current.sick().map(|(name, why)| (name.as_str(), why)).collect();
    let why = "workloads.web.path: `web.yaml` cannot be read: it is a pipe, a socket or a device";
    assert_eq!(sick, [("web", why)]);
    // An image build reads it there, and takes it for what the head has.
    let laid_out = place.state().join("snapshots").join(current.digest.to_string());
    assert_eq!(Snapshot::read(&laid_out).expect("read").0.digest(), current.digest);
}

#[test]
fn what_comes_by_following_does_not_undo_that_a_person_holds_it() {
    let place = Place::new();
    place.write(1, b"first");
    let snapshots = place.open();
    let current = first(&snapshots, &place);
    place.write(2, b"second");
    let next = || snapshots.first(&place.home(), Revision::default()).expect("it checks");
    let held = Held { since: now(), by: "ann".into(), reason: "a person said so".into() };
    snapshots.hold(Some(&held)).expect("written");
    let (came, applied) = next();
    let refused = snapshots.make_current(came, Some(Some(current.digest)), applied, Follow::Came);
    assert!(matches!(refused, Err(Refused::Held)), "{refused:?}");
    let kept = || snapshots.pointer().expect("read").expect("there");
    assert_eq!((kept().digest, kept().held), (current.digest, Some(held.clone())));
    // Nor does a person who lets a commit through.
    let (through, applied) = next();
    snapshots.make_current(through, None, applied, Follow::AsBefore).expect("current");
    assert_eq!(kept().held, Some(held));
    assert_ne!(kept().digest, current.digest);
    snapshots.hold(None).expect("written");
    place.write(3, b"third");
    let (came, applied) = next();
    snapshots.make_current(came, None, applied, Follow::Came).expect("current");
    assert_eq!(kept().held, None);
}

#[test]
fn what_is_current_is_of_the_revision_that_said_it_last() {
    let place = Place::new();
    place.write(1, b"first");
    let snapshots = place.open();
    let current = first(&snapshots, &place);
    let of = |commit: &str| Revision { commit: Some(commit.repeat(20)), ..Revision::default() };
    let look = |revision| snapshots.look(&current.digest, &current.snapshot, &revision).expect("it checks");
    snapshots.revise(look(of("ab"))).expect("written");
    assert_eq!(snapshots.current().expect("there").revision, of("ab"));
    for word in ["ab".repeat(20), "ABAB".into(), current.digest.short().to_uppercase()] {
        assert_eq!(snapshots.find(&word).expect("by its commit or digest").digest, current.digest, "{word}");
    }
    assert_eq!(snapshots.history(10).expect("read").all.len(), 1, "nothing has changed");
    // Another one is current by now.
    place.write(2, b"second");
    let second = first(&snapshots, &place);
    snapshots.revise(look(of("cd"))).expect("nothing to do");
    assert_eq!(snapshots.current().expect("there").revision, second.revision);
    drop(snapshots);
    assert_eq!(place.open().find(&"ab".repeat(20)).expect("on disk").digest, current.digest);
}

#[test]
fn the_last_fifty_stay_and_so_do_their_large_files() {
    let place = Place::new();
    let large = vec![7; SMALL as usize + 1];
    place.write(1, &large);
    let snapshots = place.open();
    let oldest = first(&snapshots, &place).digest;
    let content = Digest(Sha256::digest(&large).into());
    let shelf = place.shelf();
    let next = |number: usize| {
        place.write(1, format!("{number}").as_bytes());
        let (next, applied) = snapshots.first(&place.home(), Revision::default()).expect("it checks");
        snapshots.make_current(next, None, applied, Follow::Free).expect("current");
        let alone = shelf.alone().expect("nobody builds");
        shelf.sweep(&alone, &BTreeSet::new(), 0).expect("swept");
    };
    (1..record::KEPT).for_each(next);
    assert_eq!(snapshots.kept().expect("read").len(), record::KEPT);
    assert!(snapshots.find(&oldest.to_string()).is_ok() && shelf.file(&content).exists(), "the fiftieth is kept");
    next(record::KEPT);
    assert_eq!(snapshots.kept().expect("read").len(), record::KEPT);
    let gone = snapshots.find(&oldest.to_string());
    assert!(matches!(gone, Err(Refused::Unknown(_))), "{gone:?}");
    assert!(!shelf.file(&content).exists(), "nobody names it any more");
}

/// Its record is torn, and what it needs is there for when a person has seen to it.
#[test]
fn a_snapshot_that_cannot_be_read_holds_what_it_may_need() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(&folder.path().join("store"), 1).expect("opens");
    let digest = |number: u8| Digest([number; 32]);
    let become_current = |number: u8| {
        // The first two have a file in common.
        let content = digest(number.max(2));
        let file = Entry::File { digest: content, size: 1, executable: false };
        let snapshot = Snapshot { entries: BTreeMap::from([("bramble.toml".to_owned(), file)]) };
        let known = Stored { snapshot, revision: Revision::default(), at: number.into() };
        let applied = Applied {
            digest: digest(number),
            revision: Revision::default(),
            at: number.into(),
            by: "ann".into(),
            changed: Vec::new(),
            holds: None,
            removed: BTreeSet::new(),
        };
        let small = [(content, Arc::from(&b"x"[..]))];
        record::make_current(&store, &digest(number), &known, &small, &applied, &Follow::Free).expect("current")
    };
    let kept = u8::try_from(record::KEPT).expect("few");
    for number in 1..=kept {
        assert_eq!(become_current(number), []);
    }
    let (table, key) = (<record::Snapshots as bramble_store::Record>::TABLE, digest(2).to_string().as_str().into());
    let torn = bramble_store::Write::Put { table, key, bytes: b"1 {torn".to_vec() };
    store.blocking().commit(&[], &[torn]).expect("written");
    for number in 1..4 {
        assert_eq!(become_current(kept + number), [], "the torn one may need any file");
    }
    assert!(record::content(&store, &digest(2)).expect("read").is_some(), "it is there");
    let gone = bramble_store::Write::Remove { table, key: digest(2).to_string().as_str().into() };
    store.blocking().commit(&[], &[gone]).expect("repaired");
    assert_eq!(become_current(kept + 4).len(), 3, "others have their time again");
    assert!(record::content(&store, &digest(2)).expect("read").is_none(), "and so have their files");
}

/// What comes is known by what it is, and never by the name of what was read before: neither from a folder of the head's
/// own machine, nor from whoever applies one from elsewhere.
#[test]
fn a_file_that_changes_between_reading_and_sending_is_taken_for_no_other_one() {
    let large = |byte| vec![byte; SMALL as usize + 1];
    let workload = |image: &str| format!("services:\n  web:\n    image: {image}\n").into_bytes();
    let files = [("web.yaml", workload("a:1"), workload("b:1")), ("overlay/large", large(1), large(2))];
    for (name, read, changed) in &files {
        let place = Place::new();
        place.write(1, b"hello");
        let text = fs::read_to_string(place.home().join(FILE)).expect("there");
        let text = text.replace("engine = \"none\"", "engine = \"manager\"");
        fs::write(place.home().join(FILE), text + "[workloads.web]\npath = \"web.yaml\"\n").expect("written");
        for (name, read, _) in &files {
            fs::write(place.home().join(name), read).expect("written");
        }
        let content = Digest(Sha256::digest(read).into());
        let snapshots = place.open();
        let (snapshot, paths) = place.read();
        let take = || snapshots.take(snapshot.clone(), Revision::default(), &paths);
        let offer = || snapshots.offer(snapshot.clone(), Revision::default()).expect("sound");
        fs::write(place.home().join(name), changed).expect("written");
        let refused = take().map(drop).expect_err("it is another one");
        assert!(matches!(refused, Refused::Head(_)), "{name}: {refused}");
        assert!(offer().1.contains(&content), "{name}");
        // As `bramble apply` sends it.
        if changed.len() as u64 > SMALL {
            snapshots.take_large(&content, &changed[..]).expect_err("it is another one");
        } else {
            assert!(snapshots.take_small(changed));
        }
        let (named, missing) = offer();
        assert!(missing.contains(&content), "{name}");
        let refused = snapshots.find(&named.to_string()).map(drop).expect_err("it is not whole");
        assert!(matches!(refused, Refused::Missing(_)), "{name}: {refused}");
        fs::write(place.home().join(name), read).expect("written");
        let taken = take().expect("as it was read");
        assert!(
            matches!(&taken.workloads.values().next(), Some(swarm::Workload::Ready { file, .. }) if file.as_bytes() == workload("a:1"))
        );
    }
}
