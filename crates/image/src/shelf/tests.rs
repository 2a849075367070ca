//! A shelf in a folder of its own: what is taken, published, damaged and swept.

use super::*;

#[test]
fn nothing_is_removed_while_a_build_puts_it_there() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let shelf = Shelf::open(folder.path()).expect("made");
    let hold = shelf.hold().expect("held");
    let _another = shelf.hold().expect("two builds at once");
    let artifact = shelf.take_stream(&b"a kernel"[..]).expect("taken");
    let refused = shelf.alone().expect_err("a build is at work");
    let own = std::process::id();
    assert!(matches!(&refused, Error::ShelfHeld { by } if by.contains(&own)), "{refused}");
    assert!(shelf.file(&artifact.sha256).exists(), "what is about to be published stays");
    let left = shelf.workplace(&hold).expect("made").keep();
    drop((hold, _another));
    let alone = shelf.alone().expect("nobody builds");
    assert_eq!(shelf.sweep(&alone, &BTreeSet::new(), 0).expect("swept").files, 1, "no boot set names it");
    assert!(!left.exists(), "what a stopped build left behind");
}

#[test]
fn a_child_that_is_just_being_started_keeps_no_lock() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let shelf = Shelf::open(folder.path()).expect("made");
    // What a child has of its parent's files before it executes its program.
    let hold = shelf.hold().expect("held");
    let _child = hold._lock.0.try_clone().expect("duplicated");
    drop(hold);
    let alone = shelf.alone().expect("nobody builds");
    let _child = alone._lock.0.try_clone().expect("duplicated");
    drop(alone);
    shelf.alone().expect("nobody removes");
}

#[test]
fn a_damaged_file_is_replaced_when_it_is_taken_again() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let shelf = Shelf::open(folder.path()).expect("made");
    let artifact = shelf.take_stream(&b"a kernel"[..]).expect("taken");
    let path = shelf.file(&artifact.sha256);
    fs::write(&path, b"a kErnel").expect("damaged, of the same length");
    assert_eq!(shelf.take_stream(&b"a kernel"[..]).expect("taken again"), artifact);
    assert_eq!(fs::read(&path).expect("there"), b"a kernel");
    let left = fs::read_dir(folder.path().join("files")).expect("a folder").count();
    assert_eq!(left, 1, "nothing is left beside it");
}

/// As a disk damages a file: of the same length, at another time.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).expect("there");
    bytes[0] ^= 1;
    fs::write(path, bytes).expect("damaged");
    let later = SystemTime::now() + std::time::Duration::from_secs(1);
    File::options().write(true).open(path).and_then(|file| file.set_modified(later)).expect("set");
}

#[test]
fn a_damaged_file_is_found_though_its_length_is_right_and_it_was_whole_before() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let shelf = Shelf::open(folder.path()).expect("made");
    let Artifact { sha256, size } = shelf.take_stream(&b"an overlay"[..]).expect("taken");
    shelf.claim(&sha256, &[sha256].into()).expect("written");
    let link = folder.path().join("link");
    fs::hard_link(shelf.file(&sha256), &link).expect("linked");
    assert!(shelf.is_whole(&sha256, size) && shelf.holds(&link, &sha256, size));
    assert!(shelf.lacks(&sha256).expect("read").is_empty());
    flip(&shelf.file(&sha256));
    assert!(shelf.has(&sha256, size), "by its length it is there");
    assert!(!shelf.is_whole(&sha256, size) && !shelf.holds(&link, &sha256, size));
    assert_eq!(shelf.lacks(&sha256).expect("read"), [sha256]);
    shelf.take_stream(&b"an overlay"[..]).expect("taken again");
    assert!(shelf.is_whole(&sha256, size));
    assert!(!shelf.holds(&link, &sha256, size), "a link to what was damaged stays what it is");
}

/// Seconds since 1970.
const NOW: u64 = 1_764_500_000;

/// A set of one file.
fn manifest(artifact: Artifact, version: &str) -> Manifest {
    Manifest {
        form: bramble_model::boot_set::FORM,
        cluster: "home".parse().expect("a name"),
        version: version.into(),
        revision: None,
        architecture: Architecture::Amd64,
        suite: "trixie".into(),
        firmware: Vec::new(),
        kernel: artifact.clone(),
        initrd: artifact,
        layers: Vec::new(),
        cmdline: String::new(),
        knows: Vec::new(),
        trusts: Vec::new(),
        packages: Vec::new(),
        inputs: None,
        data: Vec::new(),
    }
}

/// Three sets of a file each; the manifest of the last one is damaged by `damage`.
fn with_a_damaged_set(damage: impl FnOnce(&Path)) -> (tempfile::TempDir, Shelf, [Digest; 3], [PathBuf; 3]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let shelf = Shelf::open(folder.path()).expect("made");
    let key = SigningKeys::open(&folder.path().join("keys")).expect("a key");
    let made = ["1", "2", "3"].map(|word| {
        let artifact = shelf.take_stream(word.as_bytes()).expect("taken");
        (
            shelf.publish(&manifest(artifact.clone(), word), &key, 0, NOW, None).expect("published"),
            shelf.file(&artifact.sha256),
        )
    });
    let [(first, a), (second, b), (third, c)] = made;
    damage(&shelf.set(&third).join(MANIFEST));
    (folder, shelf, [first, second, third], [a, b, c])
}

fn cut(manifest: &Path) {
    fs::write(manifest, "{").expect("damaged");
}

#[test]
fn a_damaged_set_is_listed_by_name_and_the_others_go_on() {
    for damage in [cut, |manifest: &Path| fs::remove_file(manifest).expect("removed")] {
        let (_folder, shelf, [first, second, third], _) = with_a_damaged_set(damage);
        let Listed { sets, unreadable } = shelf.list().expect("listed");
        assert_eq!(sets.iter().map(|set| set.digest).collect::<BTreeSet<_>>(), [first, second].into());
        assert_eq!(unreadable.iter().map(|(digest, _)| *digest).collect::<Vec<_>>(), [third]);
        assert_eq!(shelf.find(&first.to_string().to_uppercase()).expect("found").digest, first);
        let error = shelf.find(&third.to_string()).expect_err("damaged");
        assert!(!matches!(error, Error::NoSuchSet(_) | Error::NotOnShelf { .. }), "{error}");
    }
}

#[test]
fn a_sweep_removes_a_damaged_set_that_nobody_is_given_and_says_so() {
    let (_folder, shelf, [first, _, third], files) = with_a_damaged_set(cut);
    let swept = shelf.sweep(&shelf.alone().expect("nobody builds"), &[first].into(), 1).expect("swept");
    assert_eq!((swept.sets, swept.files), (1, 1));
    assert!(swept.notes.len() == 1 && swept.notes[0].contains(&third.short()), "{:?}", swept.notes);
    assert_eq!(files.map(|file| file.exists()), [true, true, false]);
    assert!(!shelf.set(&third).exists());
}

#[test]
fn a_file_that_is_not_wanted_any_more_goes_unless_somebody_names_it() {
    let (_folder, shelf, [.., third], files) = with_a_damaged_set(|_| ());
    let [claimed, left] = ["claimed", "left"].map(|word| shelf.take_stream(word.as_bytes()).expect("taken").sha256);
    shelf.claim(&third, &[claimed].into()).expect("written");
    let of_a_set = shelf.load(third).expect("there").manifest.artifacts().next().expect("a file").sha256;
    let unwanted = [claimed, left, of_a_set, Digest([7; 32])].into();
    shelf.remove(&shelf.alone().expect("nobody builds"), &unwanted).expect("removed");
    assert_eq!([claimed, left].map(|digest| shelf.file(&digest).exists()), [true, false]);
    assert!(files.iter().all(|file| file.exists()));
    cut(&shelf.set(&third).join(MANIFEST));
    shelf.release(&third).expect("released");
    shelf.remove(&shelf.alone().expect("nobody builds"), &unwanted).expect("looked");
    assert!(shelf.file(&claimed).exists(), "it may belong to the damaged set");
}

#[test]
fn a_sweep_removes_no_file_while_a_set_that_cannot_be_read_stays() {
    let (_folder, shelf, [first, _, third], files) = with_a_damaged_set(cut);
    let swept = shelf.sweep(&shelf.alone().expect("nobody builds"), &[first, third].into(), 0).expect("swept");
    assert_eq!((swept.sets, swept.files), (1, 0), "the second one, which nobody is given");
    assert!(swept.notes.len() == 1 && swept.notes[0].contains(&third.short()), "{:?}", swept.notes);
    assert_eq!(files.map(|file| file.exists()), [true; 3]);
    assert!(shelf.set(&third).exists());
}

/// It is whole: only this bramble cannot read it.
#[test]
fn a_sweep_removes_no_set_of_a_newer_bramble() {
    let (_folder, shelf, [first, ..], files) = with_a_damaged_set(|_| ());
    let bytes = br#"{"form":"of another kind"}"#;
    let newer = Digest(Sha256::digest(bytes).into());
    fs::create_dir(shelf.set(&newer)).expect("made");
    fs::write(shelf.set(&newer).join(MANIFEST), bytes).expect("written");
    fs::write(shelf.set(&newer).join(SIGNATURE), b"as it signs").expect("written");
    let swept = shelf.sweep(&shelf.alone().expect("nobody builds"), &[first].into(), 0).expect("swept");
    assert_eq!((swept.sets, swept.files, swept.notes.len()), (2, 0, 1));
    assert!(shelf.set(&newer).exists());
    assert_eq!(files.map(|file| file.exists()), [true; 3]);
}

#[test]
fn a_damaged_set_is_told_and_a_build_replaces_it() {
    let torn = |folder: &Path| cut(&folder.join(MANIFEST));
    // Its meaning is another one by then, and it still parses.
    let changed = |folder: &Path| {
        let text = fs::read_to_string(folder.join(MANIFEST)).expect("there");
        fs::write(folder.join(MANIFEST), text.replace("trixie", "trixiE")).expect("damaged");
    };
    let unsigned = |folder: &Path| fs::remove_file(folder.join(SIGNATURE)).expect("removed");
    let forged = |folder: &Path| {
        let text = fs::read_to_string(folder.join(SIGNATURE)).expect("there");
        let (comment, signature) = text.split_once('\n').expect("two lines at least");
        let at = signature.len() / 4;
        let other = if &signature[at..=at] == "A" { "B" } else { "A" };
        let signature = format!("{}{other}{}", &signature[..at], &signature[at + 1..]);
        fs::write(folder.join(SIGNATURE), format!("{comment}\n{signature}")).expect("damaged");
    };
    let half = |folder: &Path| fs::write(folder.join(SIGNATURE), b"untrusted").expect("damaged");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let shelf = Shelf::open(folder.path()).expect("made");
    let key = SigningKeys::open(&folder.path().join("keys")).expect("a key");
    let manifest = manifest(shelf.take_stream(&b"a kernel"[..]).expect("taken"), "1");
    let publish = || shelf.publish(&manifest, &key, 0, NOW, None).expect("published");
    let set = publish();
    let damages: [&dyn Fn(&Path); 5] = [&torn, &changed, &unsigned, &forged, &half];
    for (number, damage) in damages.into_iter().enumerate() {
        damage(&shelf.set(&set));
        let Listed { sets, unreadable } = shelf.list_signed(&key).expect("listed");
        let [(digest, error @ Error::DamagedSet { .. })] = &unreadable[..] else { panic!("{number}: {unreadable:?}") };
        assert_eq!((sets.len(), *digest), (0, set), "{number}");
        assert!(error.help().is_some_and(|help| help.contains("image build")), "{number}");
        assert_eq!(publish(), set);
        let Listed { sets, unreadable } = shelf.list_signed(&key).expect("listed");
        assert_eq!((sets.len(), unreadable.len()), (1, 0), "{number}");
        assert_eq!(fs::read_dir(folder.path().join("sets")).expect("a folder").count(), 1, "nothing is left beside it");
    }
    let next = SigningKeys::open(&folder.path().join("later keys")).expect("a key");
    assert_eq!(shelf.list_signed(&next).expect("listed").unreadable.len(), 0, "a set of an earlier key is whole");
}

#[test]
fn a_set_that_another_build_publishes_meanwhile_is_the_same_set() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let shelf = Shelf::open(folder.path()).expect("made");
    let key = SigningKeys::open(&folder.path().join("keys")).expect("a key");
    let artifact = shelf.take_stream(&b"a kernel"[..]).expect("taken");
    let manifest = manifest(artifact, "1");
    let digests = std::thread::scope(|scope| {
        let both = [(), ()].map(|()| scope.spawn(|| shelf.publish(&manifest, &key, 0, NOW, None)));
        both.map(|build| build.join().expect("no panic").expect("published"))
    });
    assert_eq!(digests[0], digests[1]);
    let listed = shelf.list().expect("listed");
    assert_eq!((listed.sets.len(), listed.unreadable.len()), (1, 0));
    assert_eq!(shelf.load(digests[0]).expect("it is there").digest, digests[0]);
}

/// A shelf, its keys, and a set whose stage 1 trusts them.
fn signed_shelf(lasts: Option<u64>) -> (tempfile::TempDir, Shelf, SigningKeys, Manifest, Digest) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let shelf = Shelf::open(folder.path()).expect("made");
    let keys = SigningKeys::open(&folder.path().join("keys")).expect("keys");
    let trusts = keys.trusted();
    let manifest = Manifest { trusts, ..manifest(shelf.take_stream(&b"a kernel"[..]).expect("taken"), "1") };
    let set = shelf.publish(&manifest, &keys, 0, NOW, lasts).expect("published");
    (folder, shelf, keys, manifest, set)
}

fn said(shelf: &Shelf, set: Digest) -> Statement {
    let Signed::Says(said) = shelf.load(set).expect("there").signed else { panic!("it says nothing") };
    said
}

#[test]
fn a_set_that_is_built_again_keeps_its_signature_while_nodes_would_begin_with_it() {
    let (_folder, shelf, keys, manifest, set) = signed_shelf(Some(3 * SOON));
    let first = said(&shelf, set);
    assert_eq!(first, Statement { serial: NOW, expires: Some(NOW + 3 * SOON), floor: 0 });
    let publish = |floor, now| shelf.publish(&manifest, &keys, floor, now, Some(3 * SOON));
    assert_eq!(publish(0, NOW + 2 * SOON - 1).expect("published"), set, "equal inputs give the same set");
    assert_eq!(said(&shelf, set), first);
    publish(0, NOW + 2 * SOON).expect("published");
    let second = NOW + 2 * SOON;
    assert_eq!(said(&shelf, set), Statement { serial: second, expires: Some(second + 3 * SOON), floor: 0 });
    publish(NOW + 50, second + 9).expect("published");
    let third = said(&shelf, set);
    assert_eq!((third.serial, third.floor), (second + 9, NOW + 50), "what is forbidden is said to its nodes");
    // Nobody has said that it is good after all.
    let error = publish(second + 10, second + 20).expect_err("it was signed before that");
    assert!(matches!(error, Error::Forbidden { set: named } if named == set) && error.help().is_some(), "{error}");
    assert_eq!(said(&shelf, set), third);
}

/// A clock that was reset lowers no serial, and what it signs lasts.
#[test]
fn a_clock_that_is_behind_signs_nothing_that_has_expired() {
    let (_folder, shelf, keys, before, first) = signed_shelf(Some(SOON));
    let manifest = Manifest { version: "2".into(), ..before };
    let set = shelf.publish(&manifest, &keys, 0, 5, Some(100)).expect("published");
    assert_eq!(said(&shelf, set), Statement { serial: NOW + 1, expires: Some(NOW + 101), floor: 0 });
    assert_eq!(said(&shelf, first).serial, NOW);
}

/// `bramble image build` took the signature away from what nodes were given.
#[test]
fn a_set_whose_key_lies_elsewhere_waits_for_its_signature_and_never_loses_one() {
    let (folder, shelf, keys, before, _) = signed_shelf(None);
    let path = folder.path().join("stick.key");
    let (public, _) = Secret::make(&path, "a password".into()).expect("made");
    let keys = keys.rotate(Some(public.clone())).and_then(SigningKeys::finish).expect("changed");
    let manifest = Manifest { trusts: keys.trusted(), ..before.clone() };
    let publish = |floor, now| shelf.publish(&manifest, &keys, floor, now, None).expect("published");
    let set = publish(0, NOW + 1);
    assert_eq!(publish(0, NOW + 1), set);
    assert_eq!(shelf.load(set).expect("it is whole").signed, Signed::Not);
    let Listed { sets, unreadable } = shelf.list_signed(&keys).expect("listed");
    assert_eq!((sets.len(), unreadable.len()), (2, 0), "the other one is of an earlier key");
    let swept = shelf.sweep(&shelf.alone().expect("nobody builds"), &BTreeSet::new(), 9).expect("swept");
    assert_eq!((swept.sets, swept.files), (0, 0), "it is not damaged");
    let to_sign = shelf.to_sign(&set, 0).expect("read");
    let secret = Secret::read(&path, || Ok("a password".into())).expect("reads");
    let signature = to_sign.sign(&secret, NOW, Some(50)).expect("signed");
    shelf.take_signature(&set, 0, NOW, &signature).expect("taken");
    let signed = Statement { serial: NOW + 1, expires: Some(NOW + 51), floor: 0 };
    assert_eq!(said(&shelf, set), signed);
    // Its time is up, and something else was forbidden: nobody here can sign it again.
    publish(0, NOW + 1000);
    publish(7, NOW + 1000);
    assert_eq!(said(&shelf, set), signed, "whoever was ready with it boots it");
    let sets = shelf.list().expect("listed").sets;
    let other = shelf.to_sign(&sets.iter().find(|one| one.digest != set).expect("two").digest, 0).expect("read");
    let error = other.sign(&secret, NOW, None).expect_err("its nodes would refuse that key");
    assert!(matches!(error, Error::NotTrusted { .. }) && error.help().is_some(), "{error}");
    // A head that is not what it was shows another time, or another manifest.
    for forged in [
        ToSign { above: u64::MAX - 1, ..to_sign.clone() },
        ToSign { floor: u64::MAX, ..to_sign.clone() },
        ToSign { manifest: to_sign.manifest.replace("trixie", "trixiE"), ..to_sign },
    ] {
        let error = forged.sign(&secret, NOW, None).expect_err("nobody vouches for that");
        assert!(matches!(error, Error::NoSignature { .. }), "{error}");
    }
}

#[test]
fn a_signature_that_nodes_would_refuse_is_not_taken_and_the_old_one_stays() {
    let (folder, shelf, keys, _, set) = signed_shelf(None);
    let first = said(&shelf, set);
    let path = folder.path().join("stranger.key");
    Secret::make(&path, "p".into()).expect("made");
    let stranger = Secret::read(&path, || Ok("p".into())).expect("reads");
    let to_sign = shelf.to_sign(&set, 5).expect("read");
    let text = to_sign.manifest.as_bytes();
    let by = |serial, expires, floor| {
        let said = Statement { serial, expires, floor };
        keys.sign(text, &said).expect("signed").expect("the secret is here")
    };
    let strangers = stranger.sign(text, &Statement { serial: NOW + 9, expires: None, floor: 5 }).expect("signed");
    for (signature, why) in [
        (String::new(), "none of the keys"),
        ("untrusted comment: a\nAAAA\n".into(), "none of the keys"),
        (strangers, "none of the keys"),
        (keys.sign(b"another manifest", &first).expect("signed").expect("here"), "none of the keys"),
        (by(NOW, None, 5), "is not above"),
        (by(u64::MAX, None, 5), "ahead of this computer's clock"),
        (by(NOW + 1, None, 4), "floor"),
        (by(NOW + 1, Some(NOW + 1), 5), "expires before"),
    ] {
        let error = shelf.take_signature(&set, 5, NOW, &signature).expect_err(why);
        assert!(matches!(error, Error::NoSignature { .. }) && error.to_string().contains(why), "{error}");
        assert_eq!(said(&shelf, set), first);
    }
    shelf.take_signature(&set, 5, NOW, &by(NOW + 1, None, 5)).expect("taken");
    assert_eq!(shelf.floor_said().expect("listed"), 5);
}
