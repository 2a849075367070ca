use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;

use bramble_testing::Chip as Swtpm;
use tempfile::TempDir;

use super::*;

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

const CA: &[u8] = b"-----BEGIN PRIVATE KEY-----";
const IMAGES: &[u8] = b"untrusted comment: a key";

/// A head's keys as a former bramble left them.
fn clear(folder: &Path) {
    fs::write(folder.join("ca.key"), CA).expect("written");
    fs::write(folder.join("image.key"), IMAGES).expect("written");
    fs::write(folder.join("ca.pem"), "public").expect("written");
}

fn plain(folder: &Path) -> Result<Vault, Error> {
    Vault::open_with(folder, Chip::None)
}

fn holds(vault: &Vault) {
    assert_eq!(vault.read("ca.key").expect("opens"), CA);
    assert_eq!(vault.read("image.key").expect("opens"), IMAGES);
}

/// Of each file of a folder, what is in it.
fn files_of(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("read"));
    let file =
        |entry: fs::DirEntry| (entry.file_name().into_string().expect("a name"), fs::read(entry.path()).expect("read"));
    let mut all: Vec<_> = entries.map(file).collect();
    all.sort();
    all
}

fn put_back(folder: &Path, files: &[(String, Vec<u8>)]) {
    fs::remove_dir_all(folder).expect("removed");
    fs::create_dir(folder).expect("made");
    files.iter().for_each(|(name, bytes)| fs::write(folder.join(name), bytes).expect("written"));
}

#[test]
fn what_lay_in_the_clear_is_sealed_at_the_next_start_and_read_as_before() {
    let home = folder();
    clear(home.path());
    let vault = plain(home.path()).expect("opened");
    holds(&vault);
    for name in ["ca.key", "image.key", SEAL] {
        let path = home.path().join(name);
        let (bytes, mode) = (fs::read(&path).expect("there"), fs::metadata(&path).expect("there").permissions().mode());
        assert_eq!(mode & 0o777, 0o600, "{name}");
        assert_eq!(is_sealed(&bytes), name != SEAL, "{name}");
    }
    assert_eq!(fs::metadata(home.path()).expect("there").permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::read(home.path().join("ca.pem")).expect("there"), b"public", "what is public stays so");
    let before = files_of(home.path());
    holds(&plain(home.path()).expect("opened again"));
    assert_eq!(files_of(home.path()), before, "nothing is done twice");
    vault.write("ca.key", b"another").expect("written");
    assert!(is_sealed(&fs::read(home.path().join("ca.key")).expect("there")));
    assert_eq!(plain(home.path()).expect("opened").read("ca.key").expect("opens"), b"another");
    assert!(vault.read("none").expect_err("there is none").is_no_file());
}

/// A power cut between any two files leaves a folder that opens with everything in it.
#[test]
fn a_start_that_was_cut_off_while_it_sealed_keys_is_gone_on_with() {
    let (home, sealed) = (folder(), folder());
    clear(home.path());
    let cut_off = files_of(home.path());
    put_back(sealed.path(), &cut_off);
    plain(sealed.path()).expect("opened");
    let done = files_of(sealed.path());
    let (seal, sealed_of) = (done.iter().find(|file| file.0 == SEAL), |name: &str| done.iter().find(|f| f.0 == name));
    // A rotation's keys are there only in one.
    let there: Vec<&str> = SECRETS.iter().map(|(name, _)| *name).filter(|name| sealed_of(name).is_some()).collect();
    assert_eq!(there, ["ca.key", "image.key"]);
    // Each prefix of: the seal, the CA's key, the images' key.
    for steps in 0..=3 {
        let mut files: Vec<_> = cut_off.clone();
        files.extend(seal.filter(|_| steps > 0).cloned());
        for (_, name) in there.iter().enumerate().filter(|(at, _)| at + 1 < steps) {
            let sealed = sealed_of(name).expect("sealed").clone();
            files.iter_mut().filter(|file| file.0 == *name).for_each(|file| *file = sealed.clone());
        }
        put_back(home.path(), &files);
        holds(&plain(home.path()).expect("opened"));
        assert!(there.iter().all(|name| is_sealed(&fs::read(home.path().join(name)).expect("there"))), "{steps}");
    }
}

#[test]
fn a_seal_that_is_missing_or_another_one_is_an_error_and_never_made_anew() {
    let (home, other) = (folder(), folder());
    for folder in [&home, &other] {
        clear(folder.path());
        plain(folder.path()).expect("opened");
    }
    let whole = files_of(home.path());
    let path = home.path().join(SEAL);
    let told = |vault: Result<Vault, Error>| {
        let error = match vault {
            Err(error) => error,
            Ok(vault) => vault.read("ca.key").expect_err("it cannot be opened"),
        };
        assert!(error.help().is_some_and(|help| help.contains("bramble restore")), "{error}");
        bramble_system::sentence(&error)
    };
    fs::remove_file(&path).expect("removed");
    let missing = told(plain(home.path()));
    assert!(missing.contains("seal is missing") && missing.contains("ca.key"), "{missing}");
    assert!(!path.exists(), "none is made");
    fs::copy(other.path().join(SEAL), &path).expect("another head's");
    let wrong = told(plain(home.path()));
    assert!(wrong.contains("ca.key is sealed by seal") && wrong.contains("another one"), "{wrong}");
    plain(home.path()).expect("opened").renew().expect_err("what it cannot open it does not give up");
    assert!(!home.path().join(NEXT).exists(), "nothing was begun");
    fs::write(&path, "half").expect("written");
    told(plain(home.path()));
    put_back(home.path(), &whole);
    holds(&plain(home.path()).expect("as it was"));
    // In another's place.
    fs::copy(home.path().join("ca.key"), home.path().join("image.key")).expect("copied");
    let vault = plain(home.path()).expect("opened");
    assert!(vault.read("image.key").is_err());
}

#[test]
fn a_seal_is_renewed_and_a_copy_of_the_old_one_opens_nothing() {
    let (home, copy) = (folder(), folder());
    clear(home.path());
    let vault = plain(home.path()).expect("opened");
    let old = files_of(home.path());
    put_back(copy.path(), &old);
    let name = vault.renew().expect("renewed");
    holds(&vault);
    holds(&plain(home.path()).expect("opened"));
    let new = files_of(home.path());
    assert!(old.iter().zip(&new).all(|(old, new)| old.0 == new.0 && (old.1 == new.1) == (old.0 == "ca.pem")));
    let kept = Seal::of_file(&fs::read(home.path().join(SEAL)).expect("there")).expect("a seal");
    assert_eq!(kept.id(), name);
    fs::copy(copy.path().join(SEAL), home.path().join(SEAL)).expect("copied");
    assert!(matches!(plain(home.path()).and_then(|vault| vault.read("ca.key")), Err(Error::Wrong { .. })));
}

/// Whoever is cut off while a seal is renewed: after any number of steps all is read, and the next start ends it.
#[test]
fn a_power_cut_between_any_two_steps_of_a_renewal_loses_nothing() {
    let home = folder();
    clear(home.path());
    let whole = {
        plain(home.path()).expect("opened");
        files_of(home.path())
    };
    let all = 4;
    for steps in 0..=all {
        put_back(home.path(), &whole);
        let vault = plain(home.path()).expect("opened");
        let mut seals = vault.seals().expect("read");
        seals.0.insert(0, Seal::new().expect("made"));
        let planned = vault.steps(&seals).expect("planned");
        assert_eq!(planned.len(), all, "{planned:?}");
        planned[..steps].iter().for_each(|step| vault.take(&seals, step).expect("taken"));
        holds(&vault);
        // What is written in the middle of it is read after it, too.
        vault.write("late.key", b"late").expect("written");
        let again = plain(home.path()).expect("the next start goes on");
        holds(&again);
        assert_eq!(again.read("late.key").expect("opens"), b"late");
        assert!(!home.path().join(NEXT).exists(), "{steps} steps");
        let seals = again.seals().expect("read");
        assert_eq!(seals.0.len(), 1);
        for name in again.sealed().expect("listed") {
            let bytes = fs::read(home.path().join(&name)).expect("there");
            assert_eq!(seal_of(&bytes), Ok(seals.0[0].id()), "{name} after {steps} steps");
        }
        again.renew().expect("once more");
        holds(&again);
    }
}

/// A key that was being written when the power went was taken for one that is damaged: neither a start nor a restore went on.
#[test]
fn what_a_cut_off_write_left_and_what_somebody_copied_stops_nothing() {
    let home = folder();
    clear(home.path());
    plain(home.path()).expect("opened");
    let half = ["ca.key.new-17-0", "seal.new-17-1", "seal.new.new-17-2"].map(|name| home.path().join(name));
    for half in &half {
        fs::copy(home.path().join("ca.key"), half).expect("copied");
    }
    let copy = home.path().join("ca.key.bak");
    fs::copy(home.path().join("ca.key"), &copy).expect("copied");
    let kept = fs::read(&copy).expect("there");
    let vault = plain(home.path()).expect("the next start");
    assert!(half.iter().all(|half| !half.exists()));
    vault.renew().expect("renewed");
    holds(&plain(home.path()).expect("opened"));
    assert_eq!(fs::read(&copy).expect("there"), kept, "it is somebody's");
}

/// Whoever goes back to a release of before seals.
#[test]
fn unsealed_keys_lie_as_they_did_and_are_sealed_at_the_next_start() {
    let home = folder();
    clear(home.path());
    plain(home.path()).expect("opened").unseal().expect("unsealed");
    assert_eq!(fs::read(home.path().join("ca.key")).expect("there"), CA);
    assert_eq!(fs::read(home.path().join("image.key")).expect("there"), IMAGES);
    assert!(!home.path().join(SEAL).exists());
    holds(&plain(home.path()).expect("the next start"));
}

/// `swtpm`, opened once for each question as the device is.
fn chip(state: &Path) -> Chip {
    struct Shared(Arc<Mutex<Swtpm>>);
    impl Device for Shared {
        fn transmit(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
            self.0.lock().expect("nobody panicked").transmit(command)
        }
    }
    let shared = Arc::new(Mutex::new(Swtpm::on(state).into_device()));
    let opens = move || Ok(Box::new(Shared(Arc::clone(&shared))) as Box<dyn Device>);
    Chip::There { opens: Arc::new(opens), seals: true }
}

#[test]
fn where_there_is_a_tpm_the_seal_is_sealed_to_it_and_opens_on_no_other_machine() {
    let (home, tpm, other) = (folder(), folder(), folder());
    clear(home.path());
    let own = chip(tpm.path());
    let vault = Vault::open_with(home.path(), own.clone()).expect("opened");
    let plain_seal = fs::read(home.path().join(SEAL)).expect("there");
    assert!(String::from_utf8_lossy(&plain_seal).contains(" file "), "nobody has saved it yet");
    assert!(vault.bind().expect("sealed") && vault.bind().expect("it is"));
    holds(&vault);
    let kept = fs::read(home.path().join(SEAL)).expect("there");
    assert!(String::from_utf8_lossy(&kept).starts_with("bramble-seal 1 tpm\n"), "{kept:?}");
    let turn = vault.turn().expect("nobody else");
    assert_eq!(vault.seal_files(&turn).expect("given out"), [(SEAL, plain_seal)], "a backup has what opens anywhere");
    drop(turn);
    vault.renew().expect("renewed");
    holds(&vault);
    let kept = fs::read(home.path().join(SEAL)).expect("there");
    assert!(String::from_utf8_lossy(&kept).contains(" file "), "what was saved is the old one");
    vault.bind().expect("it was saved");
    let kept = fs::read(home.path().join(SEAL)).expect("there");
    assert!(String::from_utf8_lossy(&kept).starts_with("bramble-seal 1 tpm\n"), "{kept:?}");
    holds(&Vault::open_with(home.path(), own).expect("opened again"));
    // A copy of the whole folder, elsewhere.
    for (chip, what) in [(chip(other.path()), "does not open it"), (Chip::None, "cannot be opened")] {
        let Err(error) = Vault::open_with(home.path(), chip).and_then(|vault| vault.read("ca.key")) else {
            panic!("it was opened")
        };
        assert!(error.to_string().contains(what), "{error}");
        assert!(error.help().is_some_and(|help| help.contains("bramble restore")), "{error}");
    }
    assert_eq!(fs::read(home.path().join(SEAL)).expect("there"), kept, "nothing was changed by those");
}

/// The keys of images are numbered, and an old one may not lie in the clear for ever.
#[test]
fn every_secret_that_was_unsealed_is_sealed_at_the_next_start() {
    let home = tempfile::tempdir().expect("a folder");
    let vault = plain(home.path()).expect("opened");
    let all = [
        "ca.key",
        "next-ca.key",
        "issuer.key",
        "next-issuer.key",
        "ssh-host.key",
        "image.key",
        "image-2.key",
        "image-13.key",
    ];
    for name in all {
        let begins = beginning(name).expect("a secret");
        vault.write(name, &[begins, b" and the rest"].concat()).expect("written");
        assert!(is_half(format!("{name}.new-4711").as_ref()), "{name}");
    }
    for name in ["image-.key", "image-2a.key", "image-2.pub", "copy-of-ca.key", "image.json"] {
        assert!(beginning(name).is_none(), "{name}");
    }
    vault.unseal().expect("unsealed");
    assert!(all.iter().all(|name| !is_sealed(&fs::read(home.path().join(name)).expect("there"))));
    drop(plain(home.path()).expect("opened"));
    assert!(all.iter().all(|name| is_sealed(&fs::read(home.path().join(name)).expect("there"))));
}
