//! The keys that sign manifests: the one that signs now, and while it is being changed, the next.
//!
//! ```text
//!            rotate                        finish
//!  Alone ──────────────▶ Changing ─────────────────────────▶ Alone
//!   ▲  sets trust it     │ sets trust both, and are signed   (the former secret is removed)
//!   └────────────────────┘ by the one of before
//!          abandon
//! ```
//! A secret half is sealed beside its public half, or it lies elsewhere: then sets wait for their signature
//! (`bramble image sign`). A set says which keys its stage 1 trusts, so that one of before the change is never signed with a
//! key that its nodes refuse.

use std::fs::{self, File};
use std::io::{self, Cursor};
use std::path::{Path, PathBuf};

use bramble_boot::{Day, Statement};
use bramble_seal::Vault;
use bramble_system::files;
use minisign::{KeyPair, PublicKey, SecretKey, SecretKeyBox, SignatureBox};
use serde::{Deserialize, Serialize};

use crate::Error;

/// Which pair has which part, in the folder of the keys; without it the first pair signs.
const ROLES: &str = "image.json";
/// The first pair: `image.key`, `image.pub`.
const FIRST: &str = "image";
/// Held by whoever changes something of the keys.
const LOCK: &str = "image.lock";
/// What lies in the place of the first pair's secret once that has gone: a bramble of before the key could be changed stops at
/// it, and makes no key of its own; so does this one where it does not find which key signs.
const CHANGED: &[u8] = b"the key of images was changed: see image.json\n";
/// The serial that was signed last, in the folder of the keys.
const SERIAL: &str = "image.serial";
const FORM: u32 = 1;

/// As [`ROLES`] says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Roles {
    form: u32,
    signs: Role,
    next: Option<Role>,
}

/// One pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Role {
    /// Of its files: `NAME.key`, `NAME.pub`.
    name: String,
    /// The secret half is not in this folder.
    elsewhere: bool,
}

impl Role {
    fn secret(&self) -> String {
        format!("{}.key", self.name)
    }

    fn public(&self) -> String {
        format!("{}.pub", self.name)
    }
}

/// The names of pairs, in the order in which they sign: `image`, `image-2`, `image-3`.
fn name(number: u32) -> String {
    if number == 1 { FIRST.into() } else { format!("{FIRST}-{number}") }
}

fn number(role: &Role) -> u32 {
    role.name.strip_prefix("image-").and_then(|number| number.parse().ok()).unwrap_or(1)
}

impl Default for Roles {
    fn default() -> Self {
        Roles { form: FORM, signs: Role { name: FIRST.into(), elsewhere: false }, next: None }
    }
}

/// A secret key that is at hand.
pub struct Secret(SecretKey);

/// The public half of a key.
#[derive(Debug, Clone)]
pub struct Public(PublicKey);

impl PartialEq for Public {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

struct Pair {
    role: Role,
    public: Public,
    secret: Option<Secret>,
}

/// The keys of one folder.
pub struct SigningKeys {
    folder: PathBuf,
    signs: Pair,
    next: Option<Pair>,
}

/// How keys stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// In minisign's base64.
    pub key: String,
    /// Whether its secret half lies elsewhere.
    pub elsewhere: bool,
}

impl Public {
    /// Reads minisign's base64, or the two lines of its `.pub` files.
    ///
    /// # Errors
    /// Why it is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let line = text.trim().lines().last().unwrap_or_default().trim();
        PublicKey::from_base64(line).map(Public).map_err(|error| error.to_string())
    }

    /// In minisign's base64, as the initrd carries it.
    pub fn text(&self) -> String {
        self.0.to_base64()
    }

    /// What this key said of these bytes by this signature; `None` where it did not sign them so.
    pub(crate) fn said(&self, bytes: &[u8], signature: &[u8]) -> Option<Signed> {
        let signature = decoded(signature)?;
        self.verifies(bytes, &signature).then(|| Signed::of(&signature))
    }

    fn verifies(&self, bytes: &[u8], signature: &SignatureBox) -> bool {
        minisign::verify(&self.0, signature, Cursor::new(bytes), true, false, false).is_ok()
    }
}

impl Secret {
    /// Reads a secret key of minisign; `password` is asked for where it is encrypted.
    ///
    /// # Errors
    /// When it is none, or the password is wrong.
    pub fn read(path: &Path, password: impl FnOnce() -> Result<String, Error>) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(Error::file("cannot read the key", path))?;
        let malformed = |error: minisign::PError| Error::NoKey { path: path.to_owned(), problem: error.to_string() };
        let boxed = SecretKeyBox::from_string(&text).map_err(malformed)?;
        match SecretKeyBox::from_string(&text).and_then(SecretKeyBox::into_unencrypted_secret_key) {
            Ok(key) => Ok(Secret(key)),
            Err(_) => boxed.into_secret_key(Some(password()?)).map(Secret).map_err(malformed),
        }
    }

    /// Makes a pair outside of the head: the secret half, encrypted with `password`, at `path`, and the public one beside it
    /// with the ending `.pub`.
    ///
    /// # Errors
    /// When a file is there already, or cannot be written.
    pub fn make(path: &Path, password: String) -> Result<(Public, PathBuf), Error> {
        let beside = path.with_extension("pub");
        if beside == path {
            let problem = "its ending is that of the public half: name it `image.key`".into();
            return Err(Error::NoKey { path: beside, problem });
        }
        if let Some(there) = [path, &beside].into_iter().find(|path| path.exists()) {
            return Err(Error::NoKey { path: there.to_owned(), problem: "it is there already".into() });
        }
        let malformed = |error: minisign::PError| Error::NoKey { path: path.to_owned(), problem: error.to_string() };
        let pair = KeyPair::generate_encrypted_keypair(Some(password)).map_err(malformed)?;
        let secret = pair.sk.to_box(Some("bramble image key")).map_err(malformed)?;
        let public = pair.pk.to_box().map_err(malformed)?;
        files::replace_secret(path, &secret.to_bytes()).map_err(Error::file("cannot write the key", path))?;
        files::replace(&beside, &public.to_bytes()).map_err(Error::file("cannot write the key", &beside))?;
        Ok((Public(pair.pk), beside))
    }

    /// Its public half.
    ///
    /// # Errors
    /// When the key is damaged.
    pub fn public(&self) -> Result<Public, Error> {
        PublicKey::from_secret_key(&self.0).map(Public).map_err(damaged)
    }

    /// Signs a manifest with what is said of it. The signature is salted (minisign hedges against faulty hardware), and
    /// says when it was made: it is the one file of a boot set that differs between two builds from the same inputs.
    ///
    /// # Errors
    /// When the key is damaged.
    pub fn sign(&self, manifest: &[u8], said: &Statement) -> Result<String, Error> {
        let signed = minisign::sign(None, &self.0, Cursor::new(manifest), Some(&said.to_string()), Some("bramble"));
        signed.map(SignatureBox::into_string).map_err(damaged)
    }
}

fn damaged(error: minisign::PError) -> Error {
    Error::Malformed { path: "image.key".into(), problem: error.to_string() }
}

impl Pair {
    fn open(folder: &Path, vault: &Vault, role: Role) -> Result<Self, Error> {
        let (secret_path, public_path) = (folder.join(role.secret()), folder.join(role.public()));
        let malformed = |path: &Path, error: &dyn std::fmt::Display| Error::Key {
            path: path.to_owned(),
            problem: format!("is not a minisign key: {error}"),
        };
        let missing = |path: &Path| Error::Key {
            path: path.to_owned(),
            problem: "is missing, and the other half of the key is there".into(),
        };
        let public = fs::read_to_string(&public_path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => missing(&public_path),
            io::ErrorKind::InvalidData => malformed(&public_path, &"this is no text"),
            _ => Error::file("cannot read the key", &public_path)(error),
        })?;
        let public = Public::parse(&public).map_err(|error| malformed(&public_path, &error))?;
        if role.elsewhere {
            return Ok(Pair { role, public, secret: None });
        }
        let secret = match vault.read(&role.secret()) {
            Err(error) if error.is_no_file() => return Err(missing(&secret_path)),
            read => String::from_utf8(read.map_err(Error::Seal)?)
                .map_err(|_| malformed(&secret_path, &"this is no text"))?,
        };
        let secret = SecretKeyBox::from_string(&secret)
            .and_then(SecretKeyBox::into_unencrypted_secret_key)
            .map_err(|error| malformed(&secret_path, &error))?;
        let secret = Secret(secret);
        if secret.public()? != public {
            let problem = "is not the other half of the key beside it".into();
            return Err(Error::Key { path: public_path, problem });
        }
        Ok(Pair { role, public, secret: Some(secret) })
    }

    fn make(folder: &Path, vault: &Vault, role: &Role) -> Result<(), Error> {
        let (secret_path, public_path) = (folder.join(role.secret()), folder.join(role.public()));
        let failed = |error: minisign::PError| Error::Key { path: secret_path.clone(), problem: error.to_string() };
        let pair = KeyPair::generate_unencrypted_keypair().map_err(failed)?;
        let secret = pair.sk.to_box(Some("bramble image key")).map_err(failed)?;
        // The public half first: a secret key that exists has its public half beside it.
        files::replace(&public_path, pair.pk.to_base64().as_bytes())
            .map_err(Error::file("cannot write the public key", &public_path))?;
        vault.write(&role.secret(), secret.to_string().as_bytes()).map_err(Error::Seal)
    }

    fn standing(&self) -> Standing {
        Standing { key: self.public.text(), elsewhere: self.role.elsewhere }
    }
}

impl SigningKeys {
    /// Whether there are keys in this folder.
    pub fn are_in(folder: &Path) -> bool {
        folder.join(format!("{FIRST}.key")).exists() || folder.join(ROLES).exists()
    }

    /// Loads the keys from `folder`, or makes the first pair there.
    ///
    /// # Errors
    /// When the folder cannot be written or a file in it is not a key.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let vault = Vault::open(folder).map_err(Error::Seal)?;
        let _lock = lock(folder)?;
        Self::open_locked(folder, &vault)
    }

    fn open_locked(folder: &Path, vault: &Vault) -> Result<Self, Error> {
        let roles = roles(folder)?;
        if roles == Roles::default() && !folder.join(roles.signs.secret()).exists() {
            Pair::make(folder, vault, &roles.signs)?;
        }
        let Roles { signs, next, .. } = roles;
        let signs = Pair::open(folder, vault, signs)?;
        let next = next.map(|role| Pair::open(folder, vault, role)).transpose()?;
        let keys = SigningKeys { folder: folder.to_owned(), signs, next };
        keys.remove_former();
        Ok(keys)
    }

    /// Removes the secrets that signed before; the program may have ended before it came to that.
    fn remove_former(&self) {
        for number in 1..number(&self.signs.role) {
            self.remove(&Role { name: name(number), elsewhere: false });
        }
        let first = self.folder.join(format!("{FIRST}.key"));
        if number(&self.signs.role) > 1
            && !first.exists()
            && let Err(error) = files::replace(&first, CHANGED)
        {
            tracing::warn!(path = %first.display(), %error, "that the key was changed is not said there");
        }
    }

    fn remove(&self, role: &Role) {
        for path in [role.secret(), role.public()].map(|name| self.folder.join(name)) {
            if fs::read(&path).is_ok_and(|bytes| bytes == CHANGED) {
                continue;
            }
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "a former key is not removed");
                }
                Ok(()) | Err(_) => {}
            }
        }
    }

    fn pairs(&self) -> impl Iterator<Item = &Pair> {
        [&self.signs].into_iter().chain(&self.next)
    }

    /// The public keys that sets built now trust, in minisign's base64: the one that signs first.
    pub fn trusted(&self) -> Vec<String> {
        self.pairs().map(|pair| pair.public.text()).collect()
    }

    /// The key that signs, and the one that will.
    pub fn standing(&self) -> (Standing, Option<Standing>) {
        (self.signs.standing(), self.next.as_ref().map(Pair::standing))
    }

    /// Signs a manifest; `None` where the secret half lies elsewhere.
    ///
    /// # Errors
    /// When the key is damaged.
    pub fn sign(&self, manifest: &[u8], said: &Statement) -> Result<Option<String>, Error> {
        self.signs.secret.as_ref().map(|secret| secret.sign(manifest, said)).transpose()
    }

    /// What the key that signs said of these bytes by this signature; `None` where it did not sign them so.
    pub fn said(&self, bytes: &[u8], signature: &[u8]) -> Option<Signed> {
        self.signs.public.said(bytes, signature)
    }

    /// Whether one of these keys signed these bytes so.
    pub fn verifies(&self, bytes: &[u8], signature: &[u8]) -> bool {
        decoded(signature).is_some_and(|signature| self.pairs().any(|pair| pair.public.verifies(bytes, &signature)))
    }

    /// Whether a signature is another key's: it says whose it is.
    pub(crate) fn is_anothers(&self, signature: &[u8]) -> bool {
        decoded(signature)
            .is_some_and(|signature| self.pairs().all(|pair| signature.keynum() != pair.public.0.keynum()))
    }

    /// A serial for what is signed now: the time, and more than `least` and than every one before. It is kept before it is
    /// used.
    ///
    /// # Errors
    /// When it cannot be kept, or what was kept cannot be read.
    pub fn next_serial(&self, now: u64, least: u64) -> Result<u64, Error> {
        let _lock = lock(&self.folder)?;
        let path = self.folder.join(SERIAL);
        let last = match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map_err(|_| Error::Malformed {
                path: path.clone(),
                problem: "it is no number: remove it, and the next signature gets the time as its serial".into(),
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(Error::file("cannot read the last serial", &path)(error)),
        };
        let serial = now.max(least.saturating_add(1)).max(u64::saturating_add(last, 1));
        files::replace(&path, format!("{serial}\n").as_bytes())
            .map_err(Error::file("cannot keep the serial", &path))?;
        Ok(serial)
    }

    /// Begins a change: what is built from now on trusts the next key, too. It is made here, or is `to`, whose secret half
    /// stays where it is.
    ///
    /// # Errors
    /// When a change is under way, `to` is the key that signs, or something cannot be written.
    pub fn rotate(self, to: Option<Public>) -> Result<Self, Error> {
        if let Some(next) = &self.next {
            return Err(Error::KeyChanging { next: next.public.text() });
        }
        if to.as_ref() == Some(&self.signs.public) {
            return Err(Error::SameKey);
        }
        let role = Role { name: name(number(&self.signs.role) + 1), elsewhere: to.is_some() };
        self.change(|keys, vault| {
            // What a change that was cut off has left.
            keys.remove(&role);
            match &to {
                Some(public) => {
                    let path = keys.folder.join(role.public());
                    files::replace(&path, public.text().as_bytes())
                        .map_err(Error::file("cannot write the public key", &path))?;
                }
                None => Pair::make(&keys.folder, vault, &role)?,
            }
            Ok(Roles { form: FORM, signs: keys.signs.role.clone(), next: Some(role.clone()) })
        })
    }

    /// Ends a change: the next key signs from now on, alone.
    ///
    /// # Errors
    /// When none is under way, or it cannot be written.
    pub fn finish(self) -> Result<Self, Error> {
        let next = self.next.as_ref().ok_or(Error::KeyNotChanging)?.role.clone();
        self.change(|_, _| Ok(Roles { form: FORM, signs: next.clone(), next: None }))
    }

    /// Ends a change: the key of before stays.
    ///
    /// # Errors
    /// When none is under way, or it cannot be written.
    pub fn abandon(self) -> Result<Self, Error> {
        if self.next.is_none() {
            return Err(Error::KeyNotChanging);
        }
        let kept = self.change(|keys, _| Ok(Roles { form: FORM, signs: keys.signs.role.clone(), next: None }))?;
        let held = lock(&kept.folder)?;
        // Nobody has begun another one meanwhile.
        if roles(&kept.folder)? == kept.roles() {
            kept.remove(&Role { name: name(number(&kept.signs.role) + 1), elsewhere: false });
        }
        drop(held);
        Ok(kept)
    }

    fn roles(&self) -> Roles {
        Roles { form: FORM, signs: self.signs.role.clone(), next: self.next.as_ref().map(|next| next.role.clone()) }
    }

    /// All of it changes with one file, and nobody else changes anything meanwhile.
    fn change(&self, to: impl FnOnce(&Self, &Vault) -> Result<Roles, Error>) -> Result<Self, Error> {
        let vault = Vault::open(&self.folder).map_err(Error::Seal)?;
        let _lock = lock(&self.folder)?;
        if roles(&self.folder)? != self.roles() {
            return Err(Error::KeysChanged);
        }
        let path = self.folder.join(ROLES);
        let text = serde_json::to_vec_pretty(&to(self, &vault)?).expect("plain data");
        files::replace(&path, &text).map_err(Error::file("cannot write which key signs", &path))?;
        Self::open_locked(&self.folder, &vault)
    }
}

/// Keeps every other program from changing the keys until it is dropped.
fn lock(folder: &Path) -> Result<File, Error> {
    let path = folder.join(LOCK);
    let open = || {
        let new = !path.exists();
        let file = File::options().read(true).append(true).create(true).open(&path)?;
        if new {
            files::give_to_owner_of(folder, &file);
        }
        file.lock()?;
        Ok(file)
    };
    open().map_err(Error::file("cannot lock the keys of images", &path))
}

fn roles(folder: &Path) -> Result<Roles, Error> {
    let path = folder.join(ROLES);
    let text = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Roles::default()),
        read => read.map_err(Error::file("cannot read which key signs", &path))?,
    };
    let problem = |problem: String| Error::Key { path: path.clone(), problem };
    let roles: Roles =
        serde_json::from_slice(&text).map_err(|error| problem(format!("does not say which key signs: {error}")))?;
    if roles.form != FORM {
        return Err(problem(format!("has form {}, and this bramble reads form {FORM}", roles.form)));
    }
    Ok(roles)
}

/// What a signature says of its manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signed {
    /// Nothing yet: the secret half of the key lies elsewhere.
    Not,
    /// Nothing: a bramble of before statements signed it.
    Plainly,
    Says(Statement),
}

impl Signed {
    /// What the file of a signature says, whoever has written it.
    pub(crate) fn of_file(signature: &[u8]) -> Self {
        decoded(signature).map_or(Signed::Plainly, |signature| Self::of(&signature))
    }

    fn of(signature: &SignatureBox) -> Self {
        let comment = signature.trusted_comment().ok();
        comment.and_then(|comment| comment.parse().ok()).map_or(Signed::Plainly, Signed::Says)
    }

    /// What counts of it: what says nothing was signed before everything that does, and for ever.
    pub fn statement(self) -> Option<Statement> {
        match self {
            Signed::Not => None,
            Signed::Plainly => Some(Statement { serial: 0, expires: None, floor: 0 }),
            Signed::Says(said) => Some(said),
        }
    }
}

impl std::fmt::Display for Signed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Signed::Not => f.write_str("not signed"),
            Signed::Plainly => f.write_str("signed"),
            Signed::Says(Statement { serial, expires: None, .. }) => write!(f, "signed on {}", Day(*serial)),
            Signed::Says(Statement { serial, expires: Some(at), .. }) => {
                write!(f, "signed on {}, expires on {}", Day(*serial), Day(*at))
            }
        }
    }
}

fn decoded(signature: &[u8]) -> Option<SignatureBox> {
    SignatureBox::from_string(std::str::from_utf8(signature).ok()?).ok()
}

#[cfg(test)]
mod tests;
