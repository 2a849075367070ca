//! The CA's files, its certificates as rustls-webpki judges them, and its rotation, killed anywhere.

use std::fs;
use std::net::IpAddr;

use bramble_plan::rotation::FileStep;
use proptest::prelude::*;
use rcgen::{BasicConstraints, IsCa};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{ServerName, UnixTime};
use x509_parser::extensions::GeneralName;

use super::root::FIRST;
use super::*;

const KEY: &str = FIRST.key;

fn names_of(certificate: &x509_parser::certificate::X509Certificate<'_>) -> Vec<String> {
    let names =
        certificate.subject_alternative_name().expect("readable").map(|names| names.value.general_names.clone());
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => (*name).to_owned(),
        other => panic!("{other:?}"),
    };
    names.unwrap_or_default().iter().map(text).collect()
}

#[test]
fn a_request_gets_the_name_that_the_head_says_and_a_day() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let authority = Authority::open(folder.path()).expect("made");
    assert_eq!(Authority::open(folder.path()).expect("loaded").pem(), authority.pem());
    let key = KeyPair::generate().expect("a key");
    let mut wish = CertificateParams::new(vec!["head.bramble".to_owned()]).expect("params");
    wish.distinguished_name.push(DnType::CommonName, "m9");
    let csr = wish.serialize_request(&key).and_then(|request| request.pem()).expect("a request");
    let (pem, renew) = authority.sign(&"m1".parse().expect("a name"), &csr).expect("signed");
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).expect("PEM");
    let certificate = pem.parse_x509().expect("X.509");
    let name = certificate.subject().iter_common_name().next().expect("a name").as_str().expect("text");
    assert_eq!(name, "m1");
    assert_eq!(names_of(&certificate), ["m1.node.bramble"], "no wish is granted");
    let life = certificate.validity().not_after.timestamp() - certificate.validity().not_before.timestamp();
    assert!((86_400..=86_400 + 600).contains(&life), "{life}");
    assert!(i64::try_from(renew / 1000).expect("small") < certificate.validity().not_after.timestamp());
    assert_eq!(RequestedKey::of(&csr).expect("a key").fingerprint().len(), 32);
}

/// As a former bramble left it: whoever copies the file alone has no key any more.
#[test]
fn the_key_of_the_ca_is_sealed_also_where_it_lay_in_the_clear() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let authority = Authority::open(folder.path()).expect("made");
    let sealed = || bramble_seal::is_sealed(&fs::read(folder.path().join(KEY)).expect("there"));
    assert!(sealed(), "a new one");
    let key = Vault::open(folder.path()).and_then(|vault| vault.read(KEY)).expect("opens");
    assert!(key.starts_with(b"-----BEGIN PRIVATE KEY-----"));
    // A former bramble had no issuer.
    for sealed in [bramble_seal::SEAL, FIRST.issuer_key] {
        fs::remove_file(folder.path().join(sealed)).expect("removed");
    }
    fs::write(folder.path().join(KEY), key).expect("written");
    assert_eq!(Authority::open(folder.path()).expect("opened").pem(), authority.pem());
    assert!(sealed(), "one of before");
    fs::remove_file(folder.path().join(bramble_seal::SEAL)).expect("removed");
    let Err(error) = Authority::open(folder.path()) else { panic!("without its seal it was opened") };
    assert!(error.to_string().contains("seal is missing"), "{error}");
    assert!(error.help().is_some_and(|help| help.contains("bramble restore")), "{error}");
}

#[test]
fn a_ca_that_is_damaged_is_told_by_its_file_and_what_to_do() {
    let new = || tempfile::tempdir().expect("a temporary folder");
    let (folder, other) = (new(), new());
    for folder in [&folder, &other] {
        Authority::open(folder.path()).expect("made");
    }
    for file in ["ca.key", "ca.pem"] {
        let path = folder.path().join(file);
        let whole = fs::read(&path).expect("there");
        let half = whole[..whole.len() / 2].to_vec();
        let others = fs::read(other.path().join(file)).expect("there");
        for bytes in [Some(half), Some(b"\xff\xfe".to_vec()), Some(Vec::new()), Some(others), None] {
            match &bytes {
                Some(bytes) => fs::write(&path, bytes).expect("written"),
                // Where the certificate is missing, whoever opens knows whether one may be made.
                None if file == "ca.pem" => continue,
                None => fs::remove_file(&path).expect("removed"),
            }
            let Err(error) = Authority::open(folder.path()) else { panic!("{file} {bytes:?} was taken") };
            let told = bramble_system::sentence(&error);
            assert!(told.starts_with(&*folder.path().join("ca.").to_string_lossy()), "{told}");
            assert!(error.help().is_some_and(|help| help.contains("bramble restore")), "{told}");
        }
        fs::write(&path, whole).expect("written");
    }
    Authority::open(folder.path()).expect("whole again");
}

#[test]
fn a_request_that_is_none_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let authority = Authority::open(folder.path()).expect("made");
    assert!(authority.sign(&"m1".parse().expect("a name"), "not a request").is_err());
}

/// A root as the release before made it: it signs itself, and no issuer.
pub(crate) fn of_before(folder: &Path) -> String {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "bramble head");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = OffsetDateTime::now_utc() - SKEW;
    params.not_after = OffsetDateTime::now_utc() + Duration::days(3650);
    let pem = params.self_signed(&key).expect("signed").pem();
    let vault = Vault::open(folder).expect("a folder");
    vault.write(FIRST.key, key.serialize_pem().as_bytes()).expect("written");
    fs::write(folder.join(FIRST.certificate), &pem).expect("written");
    pem
}

fn home() -> Home {
    Home { domain: "home.arpa".into(), addresses: Vec::new() }
}

fn known_as(folder: &Path, names: &[&str]) -> Authority {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    Authority::open_for(folder, home(), names).expect("opens")
}

/// Those who trust these certificates (PEM).
fn anchors(pem: &str) -> Arc<RootCertStore> {
    let mut store = RootCertStore::empty();
    for der in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        store.add(der.expect("PEM")).expect("a CA");
    }
    Arc::new(store)
}

/// Whether who trusts these roots takes a chain for the head of this name.
fn trusts_chain(pem: &str, chain: &[CertificateDer<'static>], name: &str) -> Result<(), rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(anchors(pem), provider).build().expect("a verifier");
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], UnixTime::now()).map(drop)
}

/// As [`trusts_chain`], of the head's own chain.
fn trusts(pem: &str, authority: &Authority, name: &str) -> bool {
    let server = authority.inner.server_certificate().expect("one");
    trusts_chain(pem, &server.cert, name).is_ok()
}

fn csr() -> String {
    let key = KeyPair::generate().expect("a key");
    CertificateParams::default().serialize_request(&key).and_then(|csr| csr.pem()).expect("a request")
}

/// Whether the head takes an agent's certificates, whatever it presents of its chain.
fn takes(authority: &Authority, chain: &str) -> bool {
    let signers = authority.signers();
    let mut store = RootCertStore::empty();
    for anchor in signers.all().flat_map(Signer::anchors) {
        store.add(anchor.clone()).expect("a CA");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider).build().expect("a verifier");
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes()).flatten().collect();
    let whole = verifier.verify_client_cert(&chain[0], &chain[1..], UnixTime::now()).is_ok();
    // An agent of before presents the first alone.
    assert_eq!(whole, verifier.verify_client_cert(&chain[0], &[], UnixTime::now()).is_ok());
    whole
}

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

#[test]
fn a_new_cluster_has_a_root_an_issuer_and_names_that_hold() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let authority = known_as(folder.path(), &["localhost", "127.0.0.1", "head.home.arpa", "192.168.7.1"]);
    let pem = authority.pem();
    for known in ["head.bramble", "localhost", "127.0.0.1", "head.home.arpa", "192.168.7.1"] {
        assert!(trusts(&pem, &authority, known), "{known}");
    }
    assert!(!trusts(&pem, &authority, "192.168.7.2"));
    let server = authority.inner.server_certificate().expect("one");
    assert_eq!(server.cert.len(), 2, "its issuer is beside it");
    let (chain, _) = authority.sign(&name("m1"), &csr()).expect("signed");
    assert!(takes(&authority, &chain));
    assert_eq!(whose(&CertificateDer::from_pem_slice(chain.as_bytes()).expect("PEM")).expect("known").0, name("m1"));
    // The same one at the next start; another one for other names, and certificates of the first are taken on.
    let issuers = || fs::read_to_string(folder.path().join(FIRST.issuers)).expect("there");
    let first = issuers();
    let again = known_as(folder.path(), &["localhost", "127.0.0.1", "head.home.arpa", "192.168.7.1"]);
    assert_eq!(issuers(), first);
    assert!(takes(&again, &chain));
    let moved = known_as(folder.path(), &["localhost", "127.0.0.1", "head.home.arpa", "10.0.0.9"]);
    assert_ne!(issuers(), first);
    assert!(takes(&moved, &chain), "of the issuer before");
    let looks = |authority: &Authority| authority.signers().first.issuers.as_ref().expect("it has one").renew;
    let now = OffsetDateTime::now_utc();
    assert!(looks(&moved) <= (now + Duration::days(2)).unix_timestamp(), "that is known for two days");
    assert!(looks(&again) > (now + Duration::days(200)).unix_timestamp(), "none was before that one");
    assert!(trusts(&pem, &moved, "10.0.0.9") && !trusts(&pem, &moved, "192.168.7.1"));
}

/// What people and browsers trust by having the root cannot be used against them, and what one issuer may not sign its key
/// does not change.
#[test]
fn a_stolen_issuer_signs_no_foreign_name_and_a_stolen_root_none_of_the_world() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let authority = known_as(folder.path(), &["localhost", "127.0.0.1", "head.home.arpa", "192.168.7.1"]);
    let (pem, signers) = (authority.pem(), authority.signers());
    let issuers = signers.first.issuers.as_ref().expect("it has one");
    let forge = |name: &str, issuer: &Issuer<'static, KeyPair>, chain: &[CertificateDer<'static>]| {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let forged = params.signed_by(&key, issuer).expect("signed").der().clone();
        let chain: Vec<_> = [forged].into_iter().chain(chain.iter().cloned()).collect();
        trusts_chain(&pem, &chain, name)
    };
    let by_issuer = |name: &str| forge(name, &issuers.issuer, &issuers.certificates[..1]);
    assert_eq!(by_issuer("head.bramble"), Ok(()), "what it is for");
    for foreign in ["bank.example", "www.home.arpa", "nas.bramble", "192.168.7.2", "10.0.0.1", "8.8.8.8"] {
        let error = by_issuer(foreign).expect_err(foreign);
        assert!(format!("{error:?}").contains("NameConstraintViolation"), "{foreign}: {error:?}");
    }
    let root = &signers.first.root.issuer;
    assert_eq!(forge("nas.home.arpa", root, &[]), Ok(()), "the root is for the home, and whoever has it is that");
    for foreign in ["bank.example", "arpa", "xhome.arpa", "8.8.8.8", "2001:db8::1"] {
        let error = forge(foreign, root, &[]).expect_err(foreign);
        assert!(format!("{error:?}").contains("NameConstraintViolation"), "{foreign}: {error:?}");
    }
    // It makes no issuer of its own either.
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "another issuer");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let below = params.signed_by(&key, &issuers.issuer).expect("signed");
    let chain = [below.der().clone(), issuers.certificates[0].clone()];
    assert!(forge("head.bramble", &Issuer::new(params, key), &chain).is_err(), "an issuer below the issuer");
}

/// The domain and the address of a head may become what its root is not for: its nodes find it all the same.
#[test]
fn a_head_whose_names_change_is_trusted_by_its_nodes_and_says_what_is_left_out() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pem = known_as(folder.path(), &["localhost", "head.home.arpa"]).pem();
    let moved = known_as(folder.path(), &["localhost", "head.other.example", "203.0.113.7", "10.1.2.3"]);
    for (known, wanted) in
        [("head.bramble", true), ("10.1.2.3", true), ("head.other.example", false), ("203.0.113.7", false)]
    {
        assert_eq!(trusts(&pem, &moved, known), wanted, "{known}");
    }
    assert_eq!(moved.not_allowed(), ["head.other.example", "203.0.113.7"]);
    let problems = moved.problems(None);
    assert!(problems.len() == 1 && problems[0].contains("head.other.example, 203.0.113.7"), "{problems:?}");
    // A root that is made for them has them.
    let home = Home { domain: "other.example".into(), addresses: vec![IpAddr::from([203, 0, 113, 7])] };
    let new = tempfile::tempdir().expect("a temporary folder");
    let names = vec!["head.other.example".to_owned(), "203.0.113.7".to_owned()];
    let authority = Authority::open_for(new.path(), home, names).expect("made");
    assert!(authority.problems(None).is_empty());
    assert!(trusts(&authority.pem(), &authority, "203.0.113.7"));
}

#[test]
fn another_ca_than_the_repository_names_is_a_problem_and_both_count_in_a_rotation() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let authority = known_as(folder.path(), &[]);
    let old = authority.roots()[0].fingerprint;
    assert!(authority.problems(Some(&old)).is_empty());
    let problems = authority.problems(Some(&Digest([7; 32])));
    assert!(problems.len() == 1 && problems[0].contains(&format!("ca = \"{old}\"")), "{problems:?}");
    authority.rotate(1).expect("begun");
    let next = authority.next().expect("one");
    assert!(authority.problems(Some(&old)).is_empty() && authority.problems(Some(&next)).is_empty());
    authority.finish().expect("done");
    assert!(authority.problems(Some(&next)).is_empty() && !authority.problems(Some(&old)).is_empty());
}

/// A cluster of before goes on as it is: its root may sign no issuer, and agents of before trust nothing else.
#[test]
fn a_root_of_before_signs_itself_until_it_is_rotated() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let old = of_before(folder.path());
    let authority = known_as(folder.path(), &["localhost", "head.any.example", "203.0.113.7"]);
    assert_eq!(authority.pem(), old);
    assert_eq!(authority.inner.server_certificate().expect("one").cert.len(), 1);
    for known in ["head.bramble", "head.any.example", "203.0.113.7"] {
        assert!(trusts(&old, &authority, known), "it has no constraints: {known}");
    }
    let (of_old, _) = authority.sign(&name("m1"), &csr()).expect("signed");
    assert!(takes(&authority, &of_old));
    assert!(!folder.path().join(FIRST.issuers).exists());

    // In the overlap: who trusts the old one alone goes on, and agents' certificates are of the new one.
    assert!(authority.rotate(7).expect("begun"));
    assert!(!authority.rotate(8).expect("it is under way"), "once");
    let bundle = authority.pem();
    assert!(bundle.starts_with(&old) && anchors(&bundle).len() == 2);
    assert!(trusts(&old, &authority, "head.bramble") && trusts(&bundle, &authority, "head.bramble"));
    let life = authority.sign_life(3).expect("signed");
    let (of_new, _) = authority.sign(&name("m1"), &csr()).expect("signed");
    assert!(takes(&authority, &of_old) && takes(&authority, &of_new), "both are taken");
    let again = known_as(folder.path(), &["localhost"]);
    assert!(takes(&again, &of_old) && takes(&again, &of_new), "and by a head that was started again");
    assert_eq!(again.pem(), bundle);

    // And then of the new one alone.
    assert!(again.finish().expect("done"));
    assert!(!again.finish().expect("it is over"), "once");
    let new = again.pem();
    assert_eq!(anchors(&new).len(), 1);
    assert!(trusts(&new, &again, "head.bramble") && trusts(&bundle, &again, "head.bramble"));
    assert!(!trusts(&old, &again, "head.bramble"), "who was never told is not found again");
    assert!(takes(&again, &of_new) && !takes(&again, &of_old));
    assert_ne!(again.sign_life(3).expect("signed").signature, life.signature);
    assert_eq!(known_as(folder.path(), &["localhost"]).pem(), new);
    assert!(!folder.path().join(NEXT.certificate).exists() && again.rotation().is_none());
    // The head of the release before reads what lies there, and signs with it.
    let vault = Vault::open(folder.path()).expect("a folder");
    let root = Root::read(folder.path(), &vault, FIRST).expect("whole");
    let key = KeyPair::generate().expect("a key");
    let server = CertificateParams::new(["head.bramble".to_owned(), "localhost".to_owned()]).expect("names");
    let server = server.signed_by(&key, &root.issuer).expect("signed");
    assert_eq!(trusts_chain(&new, &[server.der().clone()], "head.bramble"), Ok(()));
}

/// A stranger's CA is never anybody's, before, in and after a rotation.
#[test]
fn a_strangers_certificate_is_taken_at_no_time() {
    let [folder, other] = [(); 2].map(|()| tempfile::tempdir().expect("a temporary folder"));
    let (authority, stranger) = (known_as(folder.path(), &[]), known_as(other.path(), &[]));
    let foreign = stranger.sign(&name("m1"), &csr()).expect("signed").0;
    for step in 0..3 {
        assert!(!takes(&authority, &foreign) && !trusts(&authority.pem(), &stranger, "head.bramble"), "{step}");
        match step {
            0 => drop(authority.rotate(1).expect("begun")),
            1 => drop(authority.finish().expect("done")),
            _ => {}
        }
    }
}

/// The files as a head leaves them that is killed after so many steps.
fn killed(folder: &Path, steps: &[FileStep], after: usize) {
    let vault = Vault::open(folder).expect("a folder");
    let files = Files { folder, vault: &vault, made: Some(root::make(&home()).expect("made")), since: 7 };
    steps.iter().take(after).for_each(|step| files.take(*step).expect("done"));
}

#[test]
fn a_head_that_is_killed_at_any_step_of_a_rotation_goes_on() {
    for is_of_before in [false, true] {
        for after in 0..=BEGIN.len() {
            let folder = tempfile::tempdir().expect("a temporary folder");
            if is_of_before {
                of_before(folder.path());
            }
            let old = known_as(folder.path(), &[]).pem();
            killed(folder.path(), &BEGIN, after);
            // Whoever builds images at that moment reads a whole CA, and changes nothing.
            let begun = after == BEGIN.len();
            let of_images = Roots::open(folder.path(), &home()).expect("whole");
            assert_eq!(of_images.fingerprints().len(), if begun { 2 } else { 1 });
            let authority = known_as(folder.path(), &[]);
            assert_eq!(authority.rotation().is_some(), begun, "{after}");
            assert!(authority.pem().starts_with(&old) && trusts(&old, &authority, "head.bramble"));
            assert_eq!(folder.path().join(NEXT.key).exists(), begun, "what was half made is gone");
        }
        for after in 0..=FINISH.len() {
            let folder = tempfile::tempdir().expect("a temporary folder");
            if is_of_before {
                of_before(folder.path());
            }
            let authority = known_as(folder.path(), &[]);
            let old = authority.pem();
            authority.rotate(7).expect("begun");
            let (bundle, of_new) = (authority.pem(), authority.sign(&name("m1"), &csr()).expect("signed").0);
            let next = authority.next().expect("one");
            drop(authority);
            killed(folder.path(), &FINISH, after);
            let of_images = Roots::open(folder.path(), &home()).expect("whole").fingerprints();
            assert_eq!((of_images.last(), of_images.len()), (Some(&next), if after == 0 { 2 } else { 1 }), "{after}");
            let authority = known_as(folder.path(), &[]);
            assert_eq!(authority.rotation().is_some(), after == 0, "{after}");
            assert_eq!(trusts(&old, &authority, "head.bramble"), after == 0);
            assert!(trusts(&bundle, &authority, "head.bramble") && takes(&authority, &of_new), "{after}");
            assert_eq!(authority.roots().last().expect("one").fingerprint, next);
            if after > 0 {
                assert!(!folder.path().join(NEXT.key).exists() && !folder.path().join("rotation.json").exists());
            }
        }
    }
}

/// The list of the roots is of the root that signs first, and of no issuer.
#[test]
fn which_roots_there_are_is_signed_by_the_one_that_signs_first() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let authority = known_as(folder.path(), &[]);
    let is_by = |pem: &str, told: &Told| Roots::have_signed(pem, &message(&told.fingerprints), &told.signature);
    let old = authority.told();
    assert!(is_by(&old.pem, &old) && old.pem == authority.pem());
    authority.rotate(7).expect("begun");
    let both = authority.told();
    let next = both.pem.strip_prefix(&old.pem).expect("the old one comes first");
    assert!(is_by(&old.pem, &both) && !is_by(next, &both) && both.fingerprints.len() == 2);
    authority.finish().expect("done");
    let new = authority.told();
    assert!(new.pem == next && is_by(next, &new) && is_by(&both.pem, &new) && !is_by(&old.pem, &new));
    for signature in ["", "0", "zz", "30é", &old.signature] {
        assert!(!Roots::have_signed(next, &message(&new.fingerprints), signature), "{signature}");
    }
    let signers = authority.signers();
    let issuers = signers.first.issuers.as_ref().expect("it has one");
    let signature = issuers.issuer.key().sign(message(&new.fingerprints).as_bytes()).expect("signed");
    let signature: String = signature.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(!Roots::have_signed(next, &message(&new.fingerprints), &signature));
}

/// Whoever asked again began with files that were gone, and the head never started again.
#[test]
fn an_end_whose_files_could_not_be_read_then_is_over_when_it_is_asked_for_again() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let authority = known_as(folder.path(), &[]);
    authority.rotate(7).expect("begun");
    let next = authority.next().expect("one");
    killed(folder.path(), &FINISH, FINISH.len());
    let path = folder.path().join(FIRST.certificate);
    let whole = fs::read(&path).expect("there");
    fs::write(&path, "x").expect("written");
    authority.trusts(&name("m1"), &BootId("b1".into()), &[next]);
    for _ in 0..2 {
        let refuses = authority.finish().is_err() && authority.rotate(8).is_err() && authority.keep().is_err();
        assert!(refuses, "it cannot be read");
        assert!(!folder.path().join("rotation.json").exists(), "and nothing is begun with that");
    }
    fs::write(&path, whole).expect("written");
    assert!(authority.finish().expect("it is over"));
    assert_eq!((authority.digest(), authority.rotation()), (next, None));
    assert_eq!(known_as(folder.path(), &[]).digest(), next);
    // As the head of before left it.
    let files = Vault::open(folder.path()).expect("a folder");
    let files = Files { folder: folder.path(), vault: &files, made: None, since: 7 };
    files.take(FINISH[0]).expect("written");
    assert_eq!(Roots::open(folder.path(), &home()).expect("whole").fingerprints(), [next]);
    let authority = known_as(folder.path(), &[]);
    assert_eq!((authority.digest(), authority.rotation()), (next, None));
}

/// The disk was full in the middle of the end: the head went on so until somebody started it again.
#[test]
fn a_head_whose_disk_was_full_in_the_middle_of_the_end_goes_on_with_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let authority = known_as(folder.path(), &[]);
    authority.rotate(7).expect("begun");
    let next = authority.next().expect("one");
    killed(folder.path(), &FINISH, 2);
    assert!(authority.finish().expect("it is begun"));
    assert!(authority.is_finishing() && authority.digest() == next);
    assert!(authority.rotate(8).is_err(), "one after the other");
    authority.keep().expect("there is room");
    assert!(!authority.is_finishing() && !folder.path().join(NEXT.key).exists());
    assert_eq!(known_as(folder.path(), &[]).digest(), next);
    assert!(authority.rotate(8).expect("begun"));
}

#[test]
fn what_is_damaged_of_a_rotation_is_told_by_its_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    known_as(folder.path(), &[]).rotate(7).expect("begun");
    for file in ["rotation.json", NEXT.certificate, NEXT.key] {
        let path = folder.path().join(file);
        let whole = fs::read(&path).expect("there");
        for bytes in [whole[..whole.len() / 2].to_vec(), b"{}".to_vec(), Vec::new()] {
            fs::write(&path, bytes).expect("written");
            let Err(error) = Authority::open(folder.path()) else { panic!("{file} was taken") };
            assert!(bramble_system::sentence(&error).contains(file), "{error}");
        }
        fs::write(&path, whole).expect("written");
    }
    // The issuers' are made anew.
    for file in [FIRST.issuer_key, FIRST.issuers, NEXT.issuer_key, NEXT.issuers] {
        let path = folder.path().join(file);
        fs::write(&path, "x").expect("written");
        let authority = Authority::open(folder.path()).expect("opens");
        assert!(trusts(&authority.pem(), &authority, "head.bramble"), "{file}");
        assert!(takes(&authority, &authority.sign(&name("m1"), &csr()).expect("signed").0), "{file}");
        assert_ne!(fs::read(&path).expect("there"), b"x", "{file}");
    }
}

/// Who has moved is written down, and known to the head that comes after.
#[test]
fn who_has_moved_is_known_after_a_restart() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let authority = known_as(folder.path(), &[]);
    let (node, boot) = (name("m1"), BootId("b1".into()));
    authority.trusts(&node, &boot, &[authority.roots()[0].fingerprint]);
    authority.rotate(7).expect("begun");
    let (old, next) = (authority.roots()[0].fingerprint, authority.next().expect("one"));
    authority.trusts(&node, &boot, &[old]);
    assert!(authority.rotation().expect("one").moved.is_empty(), "it trusts the old one alone");
    authority.trusts(&node, &boot, &[old, next]);
    authority.keep().expect("written");
    let moved = known_as(folder.path(), &[]).rotation().expect("one").moved;
    assert_eq!(moved.into_iter().collect::<Vec<_>>(), [(node, boot)]);
}

#[test]
fn whoever_signed_a_certificate_whose_names_disagree_was_not_this_head() {
    let key = KeyPair::generate().expect("a key");
    let certificate = |common: &str, names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name.push(DnType::CommonName, common);
        params.self_signed(&key).expect("signed").der().to_vec()
    };
    let whose = |common: &str, names: &[&str]| whose(&certificate(common, names)).map(|(name, _)| name);
    assert_eq!(whose("m1", &["m1.node.bramble"]), Some(name("m1")));
    assert_eq!(whose("m1", &[]), Some(name("m1")), "one of the release before");
    for names in [&["m2.node.bramble"][..], &["m1.node.bramble", "m2.node.bramble"], &["m1"], &["head.bramble"]] {
        assert_eq!(whose("m1", names), None, "{names:?}");
    }
}

proptest! {
    #[test]
    fn a_name_is_allowed_where_it_is_below_one_that_is(name in "[a-z.]{0,12}", of in "[a-z]{1,4}(\\.[a-z]{1,4})?") {
        let permitted = root::Permitted::new([of.clone()], []);
        let dotted = format!(".{of}");
        prop_assert_eq!(permitted.allows(&name), name == of || name.ends_with(&dotted));
    }
}
