use bramble_plan::swarm::Memory;
use bramble_seal::Vault;
use bramble_store::{Blocking, Fence, Record as _, Store};
use bramble_testing::as_root;

use super::*;
use crate::backup::archive::{FORM, listed, packed, whole};
use crate::backup::new_identity;
use crate::unreadable;

/// As a former bramble made it: of form 1.
fn backup(folder: &Path, store: &[u8]) -> PathBuf {
    backup_of(folder, 1, &[(STORE, store), ("keys/ca.key", b"secret")])
}

fn backup_of(folder: &Path, form: u32, files: &[(&str, &[u8])]) -> PathBuf {
    let files: Vec<_> = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect();
    let (cluster, version) = ("c".into(), "0".into());
    let contents = Contents { form, cluster, version, at: 1, recipients: Vec::new(), files: listed(&files) };
    let path = folder.join("c.bramble-backup");
    fs::write(&path, packed(&contents, &files).expect("packed")).expect("written");
    path
}

fn restore(backup: &Path, state: &Path, now: Millis) -> Result<Contents, Unusable> {
    open(backup, None, None)?.place(state, now)
}

/// The files of a head's state: a store, and a CA whose key is sealed.
fn head(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let keys = folder.join("of a head");
    drop(ca::Authority::open(&keys).expect("made"));
    let store = Blocking::open(&folder.join("store of a head"), 5000).expect("opens").copy().expect("copied");
    let key = |name: &str| (format!("keys/{name}"), fs::read(keys.join(name)).expect("there"));
    vec![
        (STORE.into(), store),
        key("ca.key"),
        key("ca.pem"),
        ("source/key/id_ed25519".into(), b"a deploy key".to_vec()),
        key("seal"),
    ]
}

/// A backup of these files at this path, encrypted to a new key; gives the file with its private half.
fn encrypted(folder: &Path, files: &[(String, Vec<u8>)]) -> (PathBuf, PathBuf) {
    let (private, public) = new_identity();
    let (path, key) = (folder.join("secret.bramble-backup"), folder.join("key.txt"));
    let name = "home".parse().expect("a name");
    fs::write(&path, whole(&name, 1, files.to_vec(), &[public]).expect("packed")).expect("written");
    fs::write(&key, private).expect("written");
    (path, key)
}

fn identities(path: &Path) -> Identities {
    Identities::read(path).expect("a key")
}

#[test]
fn a_restored_store_begins_a_new_life_whatever_the_clock_says() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let old = Blocking::open(&folder.path().join("old"), 5000).expect("opens");
    let told = old.lead("swarm").expect("a lead");
    let path = backup(folder.path(), &old.copy().expect("copied"));
    for (now, life) in [(9000, 9000), (7, 5001)] {
        let state = folder.path().join(now.to_string());
        restore(&path, &state, now).expect("restored");
        let store = Store::open(&state.join(STORE), 1).expect("opens");
        let fence = store.blocking().lead("swarm").expect("a lead");
        assert_eq!(fence, Fence { life, number: 2 });
        assert!(fence > told);
        // Agents are told the life that they are asked in, and obey no older one.
        let asked = crate::swarm::Swarm::open(store.clone()).lead().expect("a lead");
        assert_eq!((asked.life, store.blocking().life().expect("read")), (life, life));
        assert_eq!(fs::read(state.join("keys/ca.key")).expect("there"), b"secret");
        assert!(!state.join(MAKING).exists() && !state.join(WHOLE).exists());
    }
}

#[test]
fn a_record_that_cannot_be_read_is_restored_as_it_is_and_no_swarm_begins_for_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let old = Blocking::open(&folder.path().join("old"), 5000).expect("opens");
    let (table, key) = (Engines::TABLE, Engines::key(&membership::SWARM.to_owned()));
    let torn = bramble_store::Write::Put { table, key: key.clone(), bytes: b"1 {torn".to_vec() };
    old.commit(&[], &[torn]).expect("written");
    let path = backup(folder.path(), &old.copy().expect("copied"));
    let state = folder.path().join("state");
    restore(&path, &state, 9000).expect("restored");
    {
        let store = Store::open(&state.join(STORE), 1).expect("opens");
        assert_eq!(store.blocking().life().expect("read"), 9000);
        let kept = store.blocking().get(table, &key).expect("read").expect("there");
        assert_eq!(kept.bytes, b"1 {torn", "nothing is written over");
        assert!(membership::swarm(&store).expect_err("it waits").is_unreadable());
    }
    assert_eq!(unreadable::list_of(&state).expect("read").len(), 1, "it is known by name");
    assert_eq!(unreadable::repair_of(&state).expect("repaired").records, 1);
    let store = Store::open(&state.join(STORE), 1).expect("opens");
    assert_eq!(membership::swarm(&store).expect("read").memory, Memory::Lost, "one may live");
}

#[test]
fn the_keys_towards_a_repositorys_server_are_in_a_backup() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let state = folder.path().join("old");
    let files = [
        ("keys/ca.key", &b"secret"[..]),
        ("keys/unused", b"no store yet"),
        ("source/key/id_ed25519", b"a key"),
        ("source/hosts/git.home.arpa_22", b"a pinned key"),
        ("source/repository.git/HEAD", b"fetched again"),
    ];
    for (name, bytes) in files {
        let path = state.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, bytes).expect("written");
    }
    let listed: Vec<String> = super::super::keys(&state).expect("listed").into_iter().map(|(name, _)| name).collect();
    assert_eq!(listed, ["keys/ca.key", "source/key/id_ed25519", "source/hosts/git.home.arpa_22"]);

    let store = Blocking::open(&folder.path().join("store"), 5000).expect("opens").copy().expect("copied");
    let [ca, unused, key, host, _] = files;
    let path = backup_of(folder.path(), 2, &[(STORE, &store), ca, unused, key, host]);
    let new = folder.path().join("new");
    restore(&path, &new, 1).expect("restored");
    for (name, bytes) in [ca, key, host] {
        assert_eq!(fs::read(new.join(name)).expect(name), bytes, "{name}");
    }
    assert!(!new.join("keys/unused").exists(), "this store is not the first of its CA");
    for wrong in ["source/key/..", "source/key/", "keys/.", "keys/a\\b"] {
        assert_eq!(belongs(wrong), None, "{wrong}");
    }
    for wrong in ["source/hosts/a/b", "source/lock", "other/x", "keys"] {
        let path = backup_of(folder.path(), 2, &[(STORE, &store), (wrong, b"x")]);
        let refused = restore(&path, &folder.path().join("nothing"), 1);
        assert!(matches!(refused, Err(Unusable::Malformed { .. })), "{wrong}");
    }
}

#[test]
fn a_store_that_does_not_open_is_not_put_into_place() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = backup(folder.path(), b"no store at all");
    let state = folder.path().join("state");
    assert!(matches!(restore(&path, &state, 1), Err(Unusable::Store(_))));
    assert!(!state.join(STORE).exists() && !state.join(MAKING).exists() && !state.join(WHOLE).exists());
    assert!(!state.join("keys/ca.key").exists());
}

#[test]
fn a_backup_that_is_encrypted_says_nothing_and_is_restored_with_the_key_of_a_recipient_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let files = head(folder.path());
    let (path, key) = encrypted(folder.path(), &files);
    let state = folder.path().join("state");
    let bytes = fs::read(&path).expect("there");
    let shown = crate::backup::contents_of(&bytes).expect("it says what it is");
    assert_eq!((shown.cluster.as_str(), shown.recipients.len(), shown.files.len()), ("home", 1, 1));
    let told = open(&path, None, None).expect_err("without a key");
    assert!(told.to_string().contains(&shown.recipients[0]), "{told}");
    assert!(told.help().is_some_and(|help| help.contains("--identity")), "{told}");
    let other = folder.path().join("other.txt");
    fs::write(&other, new_identity().0).expect("written");
    let told = open(&path, Some(&identities(&other)), None).expect_err("with another's key");
    assert!(matches!(told, Unusable::OtherIdentity { .. }), "{told}");
    for text in ["", "# a remark\n", "AGE-SECRET-KEY-1XX\n", "age1xx\n"] {
        fs::write(&other, text).expect("written");
        assert!(matches!(Identities::read(&other), Err(Unusable::NoIdentity(_))), "{text}");
    }
    assert!(!state.exists(), "nothing was made");
    let opened = open(&path, Some(&identities(&key)), None).expect("opened");
    let pem = &files.iter().find(|(name, _)| name == "keys/ca.pem").expect("there").1;
    assert_eq!(opened.ca(), ca::fingerprint(pem));
    opened.place(&state, 9000).expect("restored");
    for (name, bytes) in files.iter().filter(|(name, _)| name != STORE) {
        assert_eq!(fs::read(state.join(name)).expect(name), *bytes, "{name}");
    }
    ca::Authority::open(&state.join(KEYS)).expect("the seal came with it");
    assert!(matches!(
        open(&path, Some(&identities(&key)), None).and_then(|opened| opened.place(&state, 1)),
        Err(Unusable::Occupied(_))
    ));
}

/// Cut off anywhere, or with any byte changed: an error, and nothing is there.
#[test]
fn of_an_encrypted_backup_that_is_damaged_nothing_is_restored() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let files = vec![("keys/ca.pem".to_owned(), b"small".to_vec())];
    let (path, key) = encrypted(folder.path(), &files);
    let (whole, keys) = (fs::read(&path).expect("there"), identities(&key));
    open(&path, Some(&keys), None).expect("whole");
    let damaged = folder.path().join("damaged");
    // Head and tail of gzip have bytes that say nothing: what is opened in spite of it is whole.
    let opens = |bytes: &[u8]| {
        fs::write(&damaged, bytes).expect("written");
        let opened = open(&damaged, Some(&keys), None).ok();
        opened.inspect(|opened| assert_eq!(opened.archive.files, files)).is_some()
    };
    let cut = (0..whole.len()).filter(|at| opens(&whole[..*at])).count();
    let changed = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        opens(&bytes)
    };
    let changed = (0..whole.len()).filter(|at| changed(*at)).count();
    assert!(cut < 64 && changed < 64, "{cut} and {changed} of {} bytes say nothing", whole.len());
}

#[test]
fn a_seal_that_is_missing_is_said_at_once_and_can_be_given() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let files = head(folder.path());
    let clear: Vec<_> = files.iter().filter(|(name, _)| name != "keys/seal").cloned().collect();
    let path = folder.path().join("clear");
    fs::write(&path, whole(&"home".parse().expect("a name"), 1, clear, &[]).expect("packed")).expect("written");
    let told = open(&path, None, None).expect_err("without its seal");
    assert!(told.to_string().contains("keys/ca.key") && told.to_string().contains("not the head's seal"), "{told}");
    assert!(told.help().is_some_and(|help| help.contains("--seal")), "{told}");
    let seal = folder.path().join("seal");
    fs::write(&seal, Seal::new().expect("made").file()).expect("written");
    assert!(matches!(open(&path, None, Some(&seal)), Err(Unusable::OtherSeal { .. })));
    fs::write(&seal, "half a seal").expect("written");
    assert!(matches!(open(&path, None, Some(&seal)), Err(Unusable::Seal { .. })));
    let state = folder.path().join("state");
    assert!(!state.exists());
    fs::write(&seal, &files.last().expect("the seal").1).expect("written");
    open(&path, None, Some(&seal)).expect("opened").place(&state, 1).expect("restored");
    ca::Authority::open(&state.join(KEYS)).expect("it opens");
    // One of before seals: its keys are sealed at the next start.
    let plain = Vault::open(&state.join(KEYS)).and_then(|vault| vault.read("ca.key")).expect("opens");
    let of_before = [(STORE, files[0].1.as_slice()), ("keys/ca.key", &plain), ("keys/ca.pem", &files[2].1)];
    let (path, state) = (backup_of(folder.path(), 2, &of_before), folder.path().join("of before"));
    restore(&path, &state, 1).expect("restored");
    ca::Authority::open(&state.join(KEYS)).expect("it opens");
    assert!(bramble_seal::is_sealed(&fs::read(state.join("keys/ca.key")).expect("there")));
}

#[test]
fn a_backup_of_another_ca_is_refused_by_both_fingerprints() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (path, key) = encrypted(folder.path(), &head(folder.path()));
    let opened = open(&path, Some(&identities(&key)), None).expect("opened");
    let ca = opened.ca().expect("it has one");
    opened.is_of(&ca).expect("its own");
    let told = opened.is_of(&Digest([7; 32])).expect_err("another's").to_string();
    assert!(told.contains(&ca.to_string()) && told.contains(&"07".repeat(32)), "{told}");
}

/// Killed between any two steps: before the one rename nothing counts, and after it the next who comes goes on.
#[test]
fn a_restore_that_was_cut_off_anywhere_is_gone_on_with_or_begun_anew() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let files = head(folder.path());
    let (path, key) = encrypted(folder.path(), &files);
    let opened = || open(&path, Some(&identities(&key)), None).expect("opened");
    let is_whole = |state: &Path| {
        for (name, bytes) in files.iter().filter(|(name, _)| name != STORE) {
            assert_eq!(fs::read(state.join(name)).expect(name), *bytes, "{name}");
        }
        assert_eq!(Store::open(&state.join(STORE), 1).expect("opens").blocking().life().expect("read"), 9000);
        assert!(!state.join(MAKING).exists() && !state.join(WHOLE).exists());
    };
    // While it is made: any number of its files is there.
    let half = folder.path().join("half");
    fs::create_dir(&half).expect("made");
    opened().make_in(&half.join(MAKING), 9000).expect("made");
    fs::remove_dir_all(half.join(MAKING).join(KEYS)).expect("removed");
    assert!(!go_on(&half).expect("nothing counts"));
    assert!(!half.join(MAKING).exists(), "no key is left lying");
    opened().place(&half, 9000).expect("begun anew");
    is_whole(&half);
    // While it is put into its places.
    for steps in 0..=4 {
        let state = folder.path().join(steps.to_string());
        fs::create_dir(&state).expect("made");
        opened().make_in(&state.join(MAKING), 9000).expect("made");
        fs::rename(state.join(MAKING), state.join(WHOLE)).expect("renamed");
        let moves = moves(&state).expect("listed");
        assert_eq!(moves.len(), 3, "{moves:?}");
        assert!(moves[1].1.ends_with(STORE) && moves[2].1.ends_with(KEYS), "the keys come last");
        moves.iter().take(steps).for_each(|(from, to)| put(from, to).expect("put"));
        if steps == 4 {
            fs::remove_dir_all(state.join(WHOLE).join("source")).expect("removed");
        }
        assert!(go_on(&state).expect("gone on with"), "{steps}");
        is_whole(&state);
        assert!(!go_on(&state).expect("nothing is left to do"));
        assert!(matches!(is_free(&state), Err(Unusable::Occupied(_))));
    }
    // Another head's state has come into its place meanwhile.
    let state = folder.path().join("taken");
    fs::create_dir(&state).expect("made");
    opened().make_in(&state.join(WHOLE), 9000).expect("made");
    fs::write(state.join(STORE), "another's").expect("written");
    assert!(matches!(go_on(&state), Err(Unusable::InTheWay(_))));
    assert_eq!(fs::read(state.join(STORE)).expect("there"), b"another's");
    assert!(state.join(WHOLE).join(STORE).exists(), "nothing is lost");
    // Keys that another program has made: nothing is moved before they are out of the way.
    fs::remove_file(state.join(STORE)).and_then(|()| fs::create_dir(state.join(KEYS))).expect("made");
    let told = go_on(&state).expect_err("in the way");
    assert!(told.to_string().starts_with(&state.join(KEYS).display().to_string()), "{told}");
    assert!(!state.join(STORE).exists());
    fs::remove_dir(state.join(KEYS)).expect("moved aside");
    assert!(go_on(&state).expect("gone on with"));
    is_whole(&state);
}

/// The certificate is in every image, and recipients are in the repository: anyone packs a backup of that CA.
#[test]
fn a_backup_whose_key_is_not_the_one_of_its_certificate_is_refused() {
    let (folder, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let mut files = head(folder.path());
    let (certificate, theirs) = (files.iter_mut().find(|(name, _)| name == "keys/ca.pem"), head(other.path()));
    certificate.expect("there").1 = theirs.into_iter().find(|(name, _)| name == "keys/ca.pem").expect("there").1;
    let (path, key) = encrypted(folder.path(), &files);
    assert!(matches!(open(&path, Some(&identities(&key)), None), Err(Unusable::OtherKey(_))));
}

#[test]
fn on_a_full_disk_nothing_is_restored_and_nothing_is_left() {
    if !as_root("backup::restore::tests::on_a_full_disk_nothing_is_restored_and_nothing_is_left") {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (path, key) = encrypted(folder.path(), &head(folder.path()));
    let state = folder.path().join("state");
    fs::create_dir(&state).expect("made");
    let mount = |options: &[&str]| {
        let done = std::process::Command::new("mount").args(options).arg(&state).status().expect("mount starts");
        assert!(done.success(), "{options:?}");
    };
    mount(&["-t", "tmpfs", "-o", "size=64k", "tmpfs"]);
    let opened = || open(&path, Some(&identities(&key)), None).expect("opened");
    let told = opened().place(&state, 1).expect_err("there is no room");
    assert!(matches!(&told, Unusable::File { .. } | Unusable::Store(_)), "{told:?}");
    assert_eq!(fs::read_dir(&state).expect("a folder").count(), 0, "nothing is left");
    mount(&["-o", "remount,size=64m"]);
    opened().place(&state, 1).expect("with room it is restored");
}

#[test]
fn a_newer_form_is_refused_by_its_number() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let told = restore(&backup_of(folder.path(), FORM + 1, &[]), &folder.path().join("state"), 1).expect_err("newer");
    assert!(told.to_string().contains(&format!("of form {}", FORM + 1)), "{told}");
}

/// The certificate of the next CA is in images, and no secret: who packs it beside a CA of their own is not that cluster's.
#[test]
fn a_backup_of_a_rotation_is_of_both_cas_whose_keys_it_has() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let keys = folder.path().join("keys of one");
    let authority = ca::Authority::open(&keys).expect("made");
    authority.rotate(1).expect("begun");
    let roots: Vec<Digest> = authority.roots().into_iter().map(|root| root.fingerprint).collect();
    drop(authority);
    let store = Blocking::open(&folder.path().join("store"), 5000).expect("opens").copy().expect("copied");
    let all = |keys: &Path| {
        let files = fs::read_dir(keys).expect("listed").map(|entry| entry.expect("an entry").path());
        let name = |path: &Path| format!("keys/{}", path.file_name().and_then(|name| name.to_str()).expect("a name"));
        files
            .filter(|path| !path.ends_with("unused"))
            .map(|path| (name(&path), fs::read(&path).expect("there")))
            .collect::<Vec<_>>()
    };
    let mut files = all(&keys);
    files.push((STORE.into(), store));
    let (path, key) = encrypted(folder.path(), &files);
    let open_it = || open(&path, Some(&identities(&key)), None);
    let opened = open_it().expect("opened");
    assert_eq!([opened.ca(), opened.next_ca()], [Some(roots[0]), Some(roots[1])]);
    for root in &roots {
        opened.is_of(root).expect("it is of either");
    }
    assert!(opened.is_of(&Digest([7; 32])).is_err());
    let state = folder.path().join("state");
    opened.place(&state, 9000).expect("restored");
    let restored = ca::Authority::open(&state.join(KEYS)).expect("it goes on");
    assert_eq!(restored.roots().into_iter().map(|root| root.fingerprint).collect::<Vec<_>>(), roots);
    assert!(restored.rotation().is_some() && restored.finish().expect("to the end"));

    // In the middle of its end, the first one's place has half of each.
    let mut finishing = files.clone();
    for (name, bytes) in &mut finishing {
        match name.as_str() {
            CA => *bytes = files.iter().find(|(file, _)| file == NEXT_CA).expect("there").1.clone(),
            ROTATION => *bytes = br#"{"phase":"finishing","since":1}"#.to_vec(),
            _ => {}
        }
    }
    let open_as = |files: &[(String, Vec<u8>)]| {
        let (path, key) = encrypted(folder.path(), files);
        open(&path, Some(&identities(&key)), None)
    };
    assert_eq!(open_as(&finishing).expect("opened").next_ca(), Some(roots[1]));
    finishing.retain(|(name, _)| name != ROTATION);
    assert!(matches!(open_as(&finishing), Err(Unusable::OtherKey(_))), "nobody says that it is");

    // Somebody's own CA, with the next one's certificate beside it: without its key, and with another one.
    let of = |name: &str| files.iter().find(|(file, _)| file == name).expect("there").1.clone();
    let mut forged = head(folder.path());
    forged.push((NEXT_CA.into(), of(NEXT_CA)));
    for own_key in [false, true] {
        if own_key {
            let private = rcgen::KeyPair::generate().expect("a key").serialize_pem();
            forged.push((NEXT_CA_KEY.into(), private.into_bytes()));
        }
        let (path, key) = encrypted(folder.path(), &forged);
        let opened = open(&path, Some(&identities(&key)), None);
        assert!(matches!(opened, Err(Unusable::OtherKey(_))), "{own_key}");
    }
}
