//! Encrypted to whom, and opened by whom: files of age (age-encryption.org/v1), with keys of X25519.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use age::secrecy::ExposeSecret as _;
use age::{DecryptError, Decryptor, Encryptor, IdentityFile, x25519};
use bramble_model::repository::Recipient;

use super::Unusable;

/// Encrypts these bytes to each of the recipients.
pub(super) fn encrypted(to: &[Recipient], bytes: &[u8]) -> io::Result<Vec<u8>> {
    let keys = to.iter().map(|recipient| {
        let key: Result<x25519::Recipient, _> = recipient.to_string().parse();
        key.map_err(|wrong| io::Error::new(io::ErrorKind::InvalidInput, format!("{recipient}: {wrong}")))
    });
    let keys = keys.collect::<Result<Vec<_>, _>>()?;
    let encryptor = Encryptor::with_recipients(keys.iter().map(|key| key as &dyn age::Recipient));
    let encryptor = encryptor.map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "there is no recipient"))?;
    let mut output = encryptor.wrap_output(Vec::new())?;
    output.write_all(bytes)?;
    output.finish()
}

/// Private halves of keys, of one file.
pub struct Identities {
    pub(super) path: PathBuf,
    keys: Vec<Box<dyn age::Identity + Send + Sync>>,
}

/// Why something encrypted is not opened.
pub(super) enum Wrong {
    Identity,
    Bytes,
}

impl Identities {
    /// Those of a file that `bramble backup keygen` or `age-keygen` wrote.
    ///
    /// # Errors
    /// When it cannot be read, or has none.
    pub fn read(path: &Path) -> Result<Self, Unusable> {
        let file = File::open(path).map_err(|source| Unusable::File { path: path.to_owned(), source })?;
        let none = || Unusable::NoIdentity(path.to_owned());
        let keys = IdentityFile::from_buffer(BufReader::new(file)).map_err(|_| none())?;
        let keys = keys.into_identities().map_err(|_| none())?;
        if keys.is_empty() { Err(none()) } else { Ok(Identities { path: path.to_owned(), keys }) }
    }

    pub(super) fn opened(&self, bytes: &[u8]) -> Result<Vec<u8>, Wrong> {
        let keys = self.keys.iter().map(|key| key.as_ref() as &dyn age::Identity);
        let decryptor = Decryptor::new(bytes).map_err(|_| Wrong::Bytes)?;
        let mut reader = decryptor.decrypt(keys).map_err(|error| match error {
            DecryptError::NoMatchingKeys => Wrong::Identity,
            _ => Wrong::Bytes,
        })?;
        let mut opened = Vec::new();
        // The last piece says that it is the last: what was cut off is not taken.
        reader.read_to_end(&mut opened).map_err(|_| Wrong::Bytes)?;
        Ok(opened)
    }
}

/// A new key: the file with its private half, as `age-keygen` writes it, and the public half.
///
/// # Panics
/// Never: the public half of a new key is one that the repository takes.
#[must_use]
pub fn new_identity() -> (String, Recipient) {
    let key = x25519::Identity::generate();
    let public: Recipient = key.to_public().to_string().parse().expect("a new key is a good one");
    (format!("# public key: {public}\n{}\n", key.to_string().expose_secret()), public)
}
