use proptest::prelude::*;

use super::*;

const SAID: Statement = Statement { serial: 7, expires: None, floor: 0 };

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn files_in(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("there").file_name());
    let mut names: Vec<String> = names.filter_map(|name| name.into_string().ok()).collect();
    names.retain(|name| name.starts_with("image") && name != LOCK);
    names.sort();
    names
}

fn key(keys: &SigningKeys) -> String {
    keys.standing().0.key
}

#[test]
fn a_key_that_is_damaged_or_missing_is_told_by_its_file_and_what_to_do() {
    let folder = folder();
    SigningKeys::open(folder.path()).expect("made at first use");
    for (file, bytes) in [
        ("image.pub", Some(&b"\xff"[..])),
        ("image.pub", Some(b"")),
        ("image.pub", None),
        ("image.key", Some(b"\xff")),
        ("image.key", Some(b"untrusted comment: a key\nAAAA\n")),
    ] {
        let path = folder.path().join(file);
        let whole = fs::read(&path).expect("there");
        bytes.map_or_else(|| fs::remove_file(&path), |bytes| fs::write(&path, bytes)).expect("damaged");
        let Err(error) = SigningKeys::open(folder.path()) else { panic!("{file} {bytes:?} was taken") };
        assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
        assert!(error.help().is_some_and(|help| help.contains("image.json")), "{error}");
        fs::write(&path, whole).expect("written");
    }
    let keys = SigningKeys::open(folder.path()).expect("whole again");
    // Its secret half may not be made anew in silence where a change has been.
    let keys = keys.rotate(None).and_then(SigningKeys::finish).expect("changed");
    drop(keys);
    for bytes in [&b"{"[..], br#"{"form":9,"signs":{"name":"image","elsewhere":false},"next":null}"#] {
        let path = folder.path().join(ROLES);
        let whole = fs::read(&path).expect("there");
        fs::write(&path, bytes).expect("damaged");
        let Err(error) = SigningKeys::open(folder.path()) else { panic!("{bytes:?} was taken") };
        assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
        fs::write(&path, whole).expect("written");
    }
    let json = fs::read(folder.path().join(ROLES)).expect("there");
    fs::remove_file(folder.path().join(ROLES)).expect("removed");
    let Err(error) = SigningKeys::open(folder.path()) else { panic!("another key was made in silence") };
    assert!(error.to_string().contains("image.pub: is missing"), "{error}");
    fs::write(folder.path().join(ROLES), json).expect("written");
    fs::remove_file(folder.path().join("image-2.key")).expect("removed");
    let Err(error) = SigningKeys::open(folder.path()) else { panic!("a lost secret was not missed") };
    assert!(error.to_string().contains("image-2.key: is missing"), "{error}");
}

#[test]
fn a_signature_verifies_with_the_key_that_the_initrd_carries_and_no_other() {
    let folder = folder();
    let keys = SigningKeys::open(folder.path()).expect("made at first use");
    let again = SigningKeys::open(folder.path()).expect("loaded at second use");
    assert_eq!(keys.trusted(), again.trusted());
    let text = again.sign(b"manifest", &SAID).expect("signed").expect("the secret is here");
    let signature = minisign_verify::Signature::decode(&text).expect("decodes");
    let public = minisign_verify::PublicKey::from_base64(&keys.trusted()[0]).expect("decodes");
    public.verify(b"manifest", &signature, false).expect("verifies");
    public.verify(b"manifesT", &signature, false).expect_err("one bit off");
    assert_eq!(signature.trusted_comment().parse(), Ok(SAID));
    assert_eq!(keys.said(b"manifest", text.as_bytes()), Some(Signed::Says(SAID)));
    let forged = text.replace("floor 0", "floor 9");
    assert_eq!(keys.said(b"manifest", forged.as_bytes()), None, "what it says is signed, too");
}

/// Sets that were built during the change trust both, whoever signs them.
#[test]
fn a_change_of_the_key_overlaps_and_then_leaves_no_former_secret() {
    let folder = folder();
    let keys = SigningKeys::open(folder.path()).expect("made");
    let old = key(&keys);
    let keys = keys.rotate(None).expect("begun");
    let trusted = keys.trusted();
    assert_eq!((trusted.len(), &trusted[0], key(&keys)), (2, &old, old.clone()), "the one of before signs");
    let new = trusted[1].clone();
    assert!(matches!(keys.rotate(None), Err(Error::KeyChanging { next }) if next == new));
    let keys = SigningKeys::open(folder.path()).expect("as it was left");
    assert_eq!(keys.trusted(), trusted);
    let signed = keys.sign(b"manifest", &SAID).expect("signed").expect("here");
    let keys = keys.finish().expect("ended");
    assert_eq!((keys.trusted(), key(&keys)), (vec![new.clone()], new));
    assert_eq!(files_in(folder.path()), ["image-2.key", "image-2.pub", "image.json", "image.key"]);
    assert!(keys.is_anothers(signed.as_bytes()) && !keys.verifies(b"manifest", signed.as_bytes()));
    let Err(error) = keys.finish() else { panic!("none is under way") };
    assert!(matches!(error, Error::KeyNotChanging) && error.help().is_some());
    // A third key, and back: nothing of it stays.
    let keys = SigningKeys::open(folder.path()).and_then(|keys| keys.rotate(None)).expect("begun");
    let second = key(&keys);
    let keys = keys.abandon().expect("given up");
    assert_eq!((key(&keys), keys.trusted().len()), (second, 1));
    assert_eq!(files_in(folder.path()), ["image-2.key", "image-2.pub", "image.json", "image.key"]);
}

#[test]
fn a_key_may_lie_off_the_head() {
    let (head, stick) = (folder(), folder());
    let path = stick.path().join("image.key");
    let (public, beside) = Secret::make(&path, "a password".into()).expect("made");
    Secret::make(&path, "another".into()).expect_err("nothing is written over");
    let text = fs::read_to_string(&beside).expect("there");
    assert_eq!(Public::parse(&text).expect("a key"), public);
    let keys = SigningKeys::open(head.path()).and_then(|keys| keys.rotate(Some(public.clone()))).expect("begun");
    assert!(keys.sign(b"manifest", &SAID).expect("works").is_some(), "the one of before still signs");
    let keys = keys.finish().expect("ended");
    assert_eq!(keys.standing().0, Standing { key: public.text(), elsewhere: true });
    assert_eq!(keys.sign(b"manifest", &SAID).expect("no error"), None, "nobody here can");
    assert_eq!(files_in(head.path()), ["image-2.pub", "image.json", "image.key"], "no secret is left on the head");
    assert!(matches!(keys.rotate(Some(public.clone())), Err(Error::SameKey)));
    let wrong = Secret::read(&path, || Ok("another password".into())).map(drop).expect_err("a wrong password");
    assert!(wrong.to_string().contains("image.key"), "{wrong}");
    let secret = Secret::read(&path, || Ok("a password".into())).expect("reads");
    assert_eq!(secret.public().expect("a key"), public);
    let signature = secret.sign(b"manifest", &SAID).expect("signed");
    let keys = SigningKeys::open(head.path()).expect("opens without a secret");
    assert_eq!(keys.said(b"manifest", signature.as_bytes()), Some(Signed::Says(SAID)));
    // And back onto the head.
    let keys = keys.rotate(None).and_then(SigningKeys::finish).expect("changed");
    assert!(keys.sign(b"manifest", &SAID).expect("works").is_some());
    assert_eq!(files_in(head.path()), ["image-3.key", "image-3.pub", "image.json", "image.key"]);
}

/// Two people change the key at once: the pair that signs is one pair, and nobody's secret is lost.
#[test]
fn commands_that_change_the_keys_at_once_leave_one_change() {
    let folder = folder();
    drop(SigningKeys::open(folder.path()).expect("made"));
    let open = || SigningKeys::open(folder.path()).expect("opens");
    let (one, other) = (open(), open());
    let done = std::thread::scope(|scope| {
        let both = [one, other].map(|keys| scope.spawn(|| keys.rotate(None).map(|keys| keys.trusted())));
        both.map(|change| change.join().expect("no panic"))
    });
    let kept = open().trusted();
    assert_eq!(kept.len(), 2);
    let (begun, refused): (Vec<_>, Vec<_>) = done.into_iter().partition(Result::is_ok);
    assert!(begun.len() == 1 && matches!(refused[0], Err(Error::KeysChanged)), "{refused:?}");
    assert_eq!(begun.into_iter().next().expect("one").expect("begun"), kept);
    let (finishes, abandons) = (open(), open());
    finishes.finish().expect("ended");
    assert!(matches!(abandons.abandon(), Err(Error::KeysChanged)));
    assert_eq!(open().trusted(), kept[1..]);
    let serials = std::thread::scope(|scope| {
        let many = [(); 8].map(|()| scope.spawn(|| open().next_serial(5, 0).expect("kept")));
        many.map(|one| one.join().expect("no panic"))
    });
    assert_eq!(serials.into_iter().collect::<std::collections::BTreeSet<_>>().len(), 8, "no two are the same");
}

#[test]
fn halves_of_two_keys_are_no_pair() {
    let (folder, other) = (folder(), folder());
    for folder in [&folder, &other] {
        drop(SigningKeys::open(folder.path()).expect("made"));
    }
    fs::copy(other.path().join("image.pub"), folder.path().join("image.pub")).expect("copied");
    let Err(error) = SigningKeys::open(folder.path()) else { panic!("nodes would refuse what it signs") };
    assert!(error.to_string().contains("image.pub: is not the other half"), "{error}");
}

/// Wherever a program was killed that changed the key: the next one finds one key that signs.
#[test]
fn a_change_that_was_cut_off_is_as_before_or_as_after() {
    let folder = folder();
    let keys = SigningKeys::open(folder.path()).expect("made");
    let old = key(&keys);
    // The next pair was made, and no role written.
    let vault = Vault::open(folder.path()).expect("opens");
    Pair::make(folder.path(), &vault, &Role { name: name(2), elsewhere: false }).expect("made");
    let keys = SigningKeys::open(folder.path()).expect("as before");
    assert_eq!(keys.trusted(), std::slice::from_ref(&old));
    let keys = keys.rotate(None).expect("begun");
    let new = keys.trusted()[1].clone();
    // The roles are written, and the former pair is still there.
    let kept = ["image.key", "image.pub"].map(|name| (name, fs::read(folder.path().join(name)).expect("there")));
    drop(keys.finish().expect("ended"));
    for (name, bytes) in kept {
        fs::write(folder.path().join(name), bytes).expect("put back");
    }
    let keys = SigningKeys::open(folder.path()).expect("as after");
    assert_eq!(keys.trusted(), [new]);
    assert_eq!(
        files_in(folder.path()),
        ["image-2.key", "image-2.pub", "image.json", "image.key"],
        "the former secret is gone"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    /// Whatever the clock does, and wherever the key was taken from a backup.
    #[test]
    fn a_serial_never_falls(times in prop::collection::vec((0..1000_u64, 0..1000_u64), 1..20)) {
        let folder = folder();
        let keys = SigningKeys::open(folder.path()).expect("made");
        let mut last = 0;
        for (now, least) in times {
            let serial = keys.next_serial(now, least).expect("kept");
            prop_assert!(serial > last && serial > least && serial >= now);
            last = serial;
        }
    }

    #[test]
    fn no_bytes_make_a_signature_panic(bytes: Vec<u8>) {
        let _ = Signed::of_file(&bytes);
    }
}
