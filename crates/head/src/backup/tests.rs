use std::path::PathBuf;

use bramble_testing::{as_root, given, not_given};

use super::*;

/// `sudo bramble serve` and `sudo bramble restore`, and then both without.
#[test]
fn what_root_backs_up_and_restores_belongs_to_the_owner_of_the_folder() {
    if !as_root("backup::tests::what_root_backs_up_and_restores_belongs_to_the_owner_of_the_folder") {
        return;
    }
    let home = tempfile::tempdir().expect("a temporary folder");
    given(home.path());
    let text = "[cluster]\nname = \"c\"\n[network]\ninterface = \"lo\"\n";
    let (store, snapshots, current) = crate::snapshots::tests::begun(home.path(), text);
    let state = home.path().join(".bramble");
    for name in ["keys/ca.key", "source/key/id_ed25519"] {
        let path = state.join(name);
        files::make_secret_folder(path.parent().expect("a folder")).expect("made");
        files::replace_secret(&path, b"secret").expect("written");
    }
    let timeline = Arc::new(Timeline::open(store.clone(), &current.cluster, 0).expect("opens"));
    let authority = Arc::new(ca::Authority::open(&state.join(KEYS)).expect("made"));
    let backups = Backups::new(state, store, snapshots, timeline, authority);
    let folder = home.path().join("backups/head");
    let (private, recipient) = new_identity();
    let plan = Backup { folder, recipients: vec![recipient], every_hours: 24, keep: 14, days: 90 };
    backups.make(&plan).expect("made");
    let [(_, backup)] = &backups.list(&plan).expect("listed")[..] else { panic!("there is one") };
    let restored = home.path().join("restored");
    let key = home.path().join("key.txt");
    files::replace_secret(&key, private.as_bytes()).expect("written");
    let opened = open(backup, Some(&Identities::read(&key).expect("a key")), None).expect("opened");
    opened.place(&restored.join(".bramble"), 9).expect("restored");
    assert!(restored.join(".bramble/source/key/id_ed25519").exists());
    let roots: Vec<PathBuf> = [home.path().join("backups"), restored].iter().flat_map(|made| not_given(made)).collect();
    assert!(roots.is_empty(), "{roots:?}");
}

#[test]
fn without_recipients_none_is_made_and_what_was_saved_stays() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let text = "[cluster]\nname = \"c\"\n[network]\ninterface = \"lo\"\n";
    let (store, snapshots, current) = crate::snapshots::tests::begun(home.path(), text);
    let state = home.path().join(".bramble");
    let authority = Arc::new(ca::Authority::open(&state.join(KEYS)).expect("made"));
    let timeline = Arc::new(Timeline::open(store.clone(), &current.cluster, 0).expect("opens"));
    let backups = Backups::new(state, store, snapshots, timeline, authority);
    let folder = home.path().join("backups");
    fs::create_dir(&folder).expect("made");
    let before = folder.join(format!("c-1000{ENDING}"));
    fs::write(&before, "of before").expect("written");
    let mut plan = Backup { folder, recipients: Vec::new(), every_hours: 24, keep: 14, days: 90 };
    let error = backups.make(&plan).expect_err("in the clear");
    assert!(error.help().is_some_and(|help| help.contains("recipients = [") && help.contains("keygen")), "{error}");
    assert_eq!(backups.list(&plan).expect("listed").len(), 1);
    assert_eq!(fs::read(&before).expect("there"), b"of before");
    plan.recipients.push(new_identity().1);
    backups.make(&plan).expect("made");
    assert_eq!(backups.list(&plan).expect("listed").len(), 2);

    // Of one in the clear, keys are sealed, and the seal is not in it; it is in what is encrypted alone.
    let clear = backups.bytes(&[]).expect("made");
    let path = home.path().join("clear");
    fs::write(&path, &clear).expect("written");
    let named = |bytes: &[u8]| contents_of(bytes).expect("it says so").files.into_iter().map(|(name, _)| name);
    assert!(named(&clear).any(|name| name == "keys/ca.key") && !named(&clear).any(|name| name == "keys/seal"));
    assert!(matches!(open(&path, None, None), Err(Unusable::NoSeal { .. })));
}
