//! The key that signs manifests, made at first use and kept sealed, and the signature over a manifest.

use std::fs;
use std::io::{self, Cursor};
use std::path::Path;

use bramble_seal::Vault;
use bramble_system::files;
use minisign::{KeyPair, PublicKey, SecretKey, SecretKeyBox, SignatureBox};

use crate::Error;

/// The secret half, in the folder of the keys.
const SECRET: &str = "image.key";

/// A minisign key pair in two files, `image.key` (owner only, sealed by `seal` beside it) and `image.pub`.
pub struct SigningKey {
    secret: SecretKey,
    public: PublicKey,
}

impl SigningKey {
    /// Loads the pair from `folder`, or makes it there.
    ///
    /// # Errors
    /// When the folder cannot be written or a file in it is not a key.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let (secret_path, public_path) = (folder.join(SECRET), folder.join("image.pub"));
        let vault = Vault::open(folder).map_err(Error::Seal)?;
        let malformed = |path: &Path, error: &dyn std::fmt::Display| Error::Key {
            path: path.to_owned(),
            problem: format!("is not a minisign key: {error}"),
        };
        if !secret_path.exists() {
            let pair = KeyPair::generate_unencrypted_keypair().map_err(|error| malformed(&secret_path, &error))?;
            let secret = pair.sk.to_box(Some("bramble image key")).map_err(|error| malformed(&secret_path, &error))?;
            // The public half first: a secret key that exists has its public half beside it.
            files::replace(&public_path, pair.pk.to_base64().as_bytes())
                .map_err(Error::file("cannot write the public key", &public_path))?;
            vault.write(SECRET, secret.to_string().as_bytes()).map_err(Error::Seal)?;
        }
        let missing = |path: &Path| Error::Key {
            path: path.to_owned(),
            problem: "is missing, and the other half of the key is there".into(),
        };
        let public = fs::read_to_string(&public_path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => missing(&public_path),
            io::ErrorKind::InvalidData => malformed(&public_path, &"this is no text"),
            _ => Error::file("cannot read the key", &public_path)(error),
        })?;
        let secret = match vault.read(SECRET) {
            Err(error) if error.is_no_file() => return Err(missing(&secret_path)),
            read => String::from_utf8(read.map_err(Error::Seal)?)
                .map_err(|_| malformed(&secret_path, &"this is no text"))?,
        };
        let public = PublicKey::from_base64(public.trim()).map_err(|error| malformed(&public_path, &error))?;
        let secret = SecretKeyBox::from_string(&secret)
            .and_then(SecretKeyBox::into_unencrypted_secret_key)
            .map_err(|error| malformed(&secret_path, &error))?;
        Ok(SigningKey { secret, public })
    }

    /// The public half in minisign's base64, as the initrd carries it.
    pub fn public(&self) -> String {
        self.public.to_base64()
    }

    /// Signs `bytes`. The signature is salted (minisign hedges against faulty hardware), so it is
    /// the one file of a boot set that differs between two builds from the same inputs.
    pub(crate) fn sign(&self, bytes: &[u8]) -> Result<String, Error> {
        minisign::sign(Some(&self.public), &self.secret, Cursor::new(bytes), Some("bramble boot set"), Some("bramble"))
            .map(|signature| signature.into_string())
            .map_err(|error| Error::Malformed { path: "image.key".into(), problem: error.to_string() })
    }

    /// Whether this is the key's signature over `bytes`.
    pub(crate) fn verifies(&self, bytes: &[u8], signature: &[u8]) -> bool {
        let signature = decoded(signature);
        signature.is_some_and(|signature| {
            minisign::verify(&self.public, &signature, Cursor::new(bytes), true, false, false).is_ok()
        })
    }

    /// Whether a signature is another key's: it says whose it is.
    pub(crate) fn is_anothers(&self, signature: &[u8]) -> bool {
        decoded(signature).is_some_and(|signature| signature.keynum() != self.public.keynum())
    }
}

fn decoded(signature: &[u8]) -> Option<SignatureBox> {
    SignatureBox::from_string(std::str::from_utf8(signature).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_damaged_or_missing_is_told_by_its_file_and_what_to_do() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        SigningKey::open(folder.path()).expect("made at first use");
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
            let Err(error) = SigningKey::open(folder.path()) else { panic!("{file} {bytes:?} was taken") };
            assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
            assert!(error.help().is_some_and(|help| help.contains("image.key and image.pub")), "{error}");
            fs::write(&path, whole).expect("written");
        }
        SigningKey::open(folder.path()).expect("whole again");
    }

    #[test]
    fn a_signature_verifies_with_the_key_that_the_initrd_carries_and_no_other() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let key = SigningKey::open(folder.path()).expect("made at first use");
        let again = SigningKey::open(folder.path()).expect("loaded at second use");
        assert_eq!(key.public(), again.public());
        let text = again.sign(b"manifest").expect("signed");
        let signature = minisign_verify::Signature::decode(&text).expect("decodes");
        let public = minisign_verify::PublicKey::from_base64(&key.public()).expect("decodes");
        public.verify(b"manifest", &signature, false).expect("verifies");
        public.verify(b"manifesT", &signature, false).expect_err("one bit off");
    }
}
