//! Against a real TPM 2.0: `swtpm`, whose socket takes the same commands as the device of a machine.

use std::io;

use bramble_testing::Chip;
use bramble_tpm::{Device, Problem, Public, Template, Tpm, make};
use ring::digest::{SHA256, digest};
use ring::signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// What a TPM's keys are, and nothing stays loaded.
fn keys(tpm: &mut Tpm<Chip>) -> (Public, Public) {
    let [identity, endorsement] = [Template::Identity, Template::Endorsement].map(|template| {
        let key = tpm.primary(template).expect("made");
        let public = key.public().clone();
        tpm.forget(key).expect("forgotten");
        public
    });
    (identity, endorsement)
}

#[test]
fn a_tpm_has_the_same_keys_after_each_start_and_another_one_has_others() {
    let (home, other) = (folder(), folder());
    let first = keys(&mut Chip::on(home.path()));
    assert_ne!(first.0, first.1);
    assert_eq!(keys(&mut Chip::on(home.path())), first);
    let others = keys(&mut Chip::on(other.path()));
    assert_ne!(others.0, first.0);
    assert_ne!(others.1, first.1);
}

#[test]
fn the_identity_signs_what_its_public_half_checks() {
    let home = folder();
    let mut tpm = Chip::on(home.path());
    let key = tpm.primary(Template::Identity).expect("made");
    let public = |algorithm| UnparsedPublicKey::new(algorithm, key.public().point());
    let (fixed, der) = (public(&ECDSA_P256_SHA256_FIXED), public(&ECDSA_P256_SHA256_ASN1));
    // So many that some of the numbers have a first bit, and some a first byte of zeros.
    for text in (0..600_u32).map(u32::to_be_bytes) {
        let digest = &digest(&SHA256, &text).as_ref().try_into().expect("its length");
        let signature = tpm.sign(&key, digest).expect("signed");
        fixed.verify(&text, &[signature.r, signature.s].concat()).expect("its own");
        der.verify(&text, &signature.der()).expect("its own, in ASN.1");
        assert!(der.verify(b"another", &signature.der()).is_err());
    }
}

#[test]
fn a_credential_opens_in_its_own_tpm_and_for_its_own_key() {
    let (home, other) = (folder(), folder());
    let (mut tpm, mut stranger) = (Chip::on(home.path()), Chip::on(other.path()));
    let load = |tpm: &mut Tpm<Chip>| {
        (tpm.primary(Template::Identity).expect("made"), tpm.primary(Template::Endorsement).expect("made"))
    };
    let ((key, endorsement), (their_key, their_endorsement)) = (load(&mut tpm), load(&mut stranger));
    let secret = [0x11; 32];
    let credential =
        |endorsement: &Public, key: &Public| make(endorsement, &key.name(), &secret).expect("a key of the curve");
    let good = credential(endorsement.public(), key.public());
    // Twice: it needs nothing that the first time used up.
    for _ in 0..2 {
        assert_eq!(tpm.activate(&key, &endorsement, &good).expect("opened"), secret);
    }
    let refused = |answer: Result<Vec<u8>, Problem>| match answer {
        Err(Problem::Refused { command, .. }) => assert_eq!(command, "TPM2_ActivateCredential"),
        other => panic!("{other:?}"),
    };
    // Another machine that sends this one's public halves.
    refused(stranger.activate(&their_key, &their_endorsement, &good));
    // A key of another machine, said to be in this TPM.
    let of_theirs = credential(endorsement.public(), their_key.public());
    refused(tpm.activate(&key, &endorsement, &of_theirs));
    for at in 0..good.blob.len() {
        let mut changed = good.clone();
        changed.blob[at] ^= 1;
        assert!(tpm.activate(&key, &endorsement, &changed).is_err(), "byte {at}");
    }
    // What was refused has left no session behind: a TPM has room for few.
    assert_eq!(tpm.activate(&key, &endorsement, &good).expect("opened"), secret);
}

#[test]
fn what_a_tpm_seals_it_gives_out_after_each_start_and_no_other_one_does() {
    let (home, other) = (folder(), folder());
    let secret = [0x5a; 32];
    let sealed = Chip::on(home.path()).seal(&secret).expect("sealed");
    let mut tpm = Chip::on(home.path());
    // So often that what stayed loaded would fill it: a TPM has room for three.
    for _ in 0..8 {
        assert_eq!(tpm.unseal(&sealed).expect("its own"), secret);
        tpm.seal(&secret).expect("sealed");
    }
    let whole = [sealed.private.clone(), sealed.public.clone()].concat();
    assert!(!whole.windows(16).any(|part| part == &secret[..16]), "it is hidden");
    let refused = |answer: Result<Vec<u8>, Problem>| match answer {
        Err(Problem::Refused { command, .. }) => assert_eq!(command, "TPM2_Load"),
        other => panic!("{other:?}"),
    };
    refused(Chip::on(other.path()).unseal(&sealed));
    for at in 0..sealed.private.len() {
        let mut changed = sealed.clone();
        changed.private[at] ^= 1;
        assert!(tpm.unseal(&changed).is_err(), "byte {at}");
    }
    for at in 0..sealed.public.len() {
        let mut changed = sealed.clone();
        changed.public[at] ^= 1;
        assert!(tpm.unseal(&changed).is_err(), "byte {at}");
    }
    // What was refused has left nothing behind.
    assert_eq!(tpm.unseal(&sealed).expect("its own"), secret);
}

#[test]
fn a_tpm_that_is_away_says_which_command_it_did_not_get() {
    struct Away;
    impl Device for Away {
        fn transmit(&mut self, _: &[u8]) -> io::Result<Vec<u8>> {
            Err(io::ErrorKind::NotFound.into())
        }
    }
    let error = Tpm::new(Away).primary(Template::Identity).expect_err("it is away");
    assert_eq!(error.to_string(), "the TPM cannot be asked (TPM2_CreatePrimary)");
}

/// A TPM that answers anything at all is refused, and ends nobody.
#[test]
fn answers_that_are_none_are_errors() {
    struct Says(Vec<u8>);
    impl Device for Says {
        fn transmit(&mut self, _: &[u8]) -> io::Result<Vec<u8>> {
            Ok(self.0.clone())
        }
    }
    let home = folder();
    let mut real = Chip::on(home.path());
    let key = real.primary(Template::Identity).expect("made");
    let whole: Vec<u8> = [0x8002_u16.to_be_bytes().as_slice(), &[0; 8], &[0x80, 0, 0, 1, 0, 0, 0, 9]].concat();
    for length in 0..whole.len() {
        let mut tpm = Tpm::new(Says(whole[..length].to_vec()));
        assert!(matches!(tpm.primary(Template::Identity), Err(Problem::Answer { .. })), "{length} bytes");
        assert!(matches!(tpm.sign(&key, &[0; 32]), Err(Problem::Answer { .. })), "{length} bytes");
    }
}
